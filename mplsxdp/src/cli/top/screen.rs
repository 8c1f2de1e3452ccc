//! Draws what [`State`] says.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Cell as TableCell, Clear, Paragraph, Row as TableRow, Sparkline, Table, TableState, Tabs,
};

use super::state::{Detail, State};
use super::tables::{Cell, Row, Tab, short, sparkline, state_of};

/// The least width at which rows have their past.
const PAST_FROM: u16 = 100;
const PAST_WIDTH: u16 = 20;
/// How much is shown of a text in a narrow column.
const NARROW: u16 = 18;

const HELP: &str = "\
Tab, 1-4     another table
Up, Down     select a line (also j, k, PgUp, PgDn, Home, End)
Enter        a closer look at a route; Esc: back
s, r         sort by the next column; the other way round
/            show only lines with a text; Esc: all again
p            pause
+, -         longer or shorter intervals
q            leave";

pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let [head, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(headline(state), head);
    let titles = Tab::ALL
        .iter()
        .zip(1..)
        .map(|(tab, number)| format!("{number} {}", tab.name()));
    let titles = Tabs::new(titles)
        .select(state.tab as usize)
        .highlight_style(Modifier::REVERSED);
    frame.render_widget(titles, tabs);
    match &state.detail {
        Some(detail) => draw_detail(frame, detail, body),
        None => draw_table(frame, state, body),
    }
    frame.render_widget(footline(state), foot);
    if state.has_help {
        draw_help(frame);
    }
}

fn headline(state: &State) -> Line<'static> {
    let mut spans = vec![Span::from(format!("mplsxdp {}", state.instance.name())).bold()];
    match state.has_sample() {
        true => spans.push(Span::from(format!(
            "   forwarded {} p/s  {} bit/s",
            short(state.forwarded.packets),
            short(state.forwarded.bits)
        ))),
        false => spans.push("   counting ...".into()),
    }
    spans.push(Span::from(format!("   every {:?}", state.interval)));
    if state.is_paused {
        spans.push("   PAUSED".yellow());
    }
    Line::from(spans)
}

fn footline(state: &State) -> Line<'static> {
    if state.is_filtering {
        return Line::from(format!("only lines with: {}_", state.filter));
    }
    let mut spans = vec![Span::from("? help   s sort   / filter   Enter closer look   p pause   q leave").dim()];
    if !state.filter.is_empty() {
        spans.push(format!("   only lines with `{}`", state.filter).yellow());
    }
    Line::from(spans)
}

fn draw_table(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let rows = state.shown();
    let (column, is_reversed) = state.order();
    let has_past = area.width >= PAST_FROM;
    let headers = state.tab.headers();
    let header = headers.iter().enumerate().map(|(index, header)| {
        let mark = match (index == column, is_reversed) {
            (false, _) => "",
            (true, false) => "*",
            (true, true) => "*-",
        };
        let line = Line::from(format!("{header}{mark}"));
        TableCell::from(match is_number(&rows, index) {
            true => line.alignment(Alignment::Right),
            false => line,
        })
    });
    let header = header.chain(has_past.then(|| TableCell::from("PAST")));
    let lines = rows.iter().map(|row| {
        let cells = row.cells.iter().map(|cell| {
            let line = Line::from(cell.to_string());
            TableCell::from(match cell.is_number() {
                true => line.alignment(Alignment::Right),
                false => line,
            })
        });
        let past = has_past.then(|| TableCell::from(sparkline(state.past(row), PAST_WIDTH.into())).cyan());
        TableRow::new(cells.chain(past))
    });
    let widths = (0..headers.len()).map(|index| width(&rows, index, headers[index]));
    let widths: Vec<Constraint> = widths
        .chain(has_past.then_some(Constraint::Length(PAST_WIDTH)))
        .collect();
    let table = Table::new(lines, widths)
        .header(TableRow::new(header).style(Modifier::BOLD))
        .row_highlight_style(Modifier::REVERSED)
        .column_spacing(2);
    let mut selection = TableState::new().with_selected((!rows.is_empty()).then_some(state.selected));
    frame.render_stateful_widget(table, area, &mut selection);
    if rows.is_empty() && state.has_sample() {
        let nothing = Paragraph::new("nothing").dim();
        frame.render_widget(
            nothing,
            Rect {
                y: area.y + 1,
                height: 1,
                ..area
            },
        );
    }
}

fn is_number(rows: &[&Row], column: usize) -> bool {
    rows.iter()
        .any(|row| row.cells.get(column).is_some_and(Cell::is_number))
}

/// Numbers and short texts have the width that they need; long texts share the rest.
fn width(rows: &[&Row], column: usize, header: &str) -> Constraint {
    let cells = rows.iter().filter_map(|row| row.cells.get(column));
    let longest = cells
        .map(|cell| cell.to_string().chars().count())
        .max()
        .unwrap_or_default();
    // The header has a mark if the table is sorted by it.
    let width = u16::try_from(longest.max(header.len() + 2)).unwrap_or(u16::MAX);
    match width {
        ..=NARROW => Constraint::Length(width),
        _ => Constraint::Fill(1),
    }
}

fn draw_detail(frame: &mut Frame<'_>, detail: &Detail, area: Rect) {
    let block = Block::bordered().title(format!(" {} ", detail.key));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let lines = describe(detail);
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let [text, title, graph] =
        Layout::vertical([Constraint::Length(height), Constraint::Length(1), Constraint::Min(0)]).areas(inner);
    frame.render_widget(Paragraph::new(lines), text);
    let most = detail.past.iter().copied().fold(0.0, f64::max);
    frame.render_widget(
        Line::from(format!("packets per second, at most {}", short(most))).dim(),
        title,
    );
    let past = &detail.past[detail.past.len().saturating_sub(graph.width.into())..];
    let figures = past.iter().map(|&figure| figure.round() as u64);
    frame.render_widget(Sparkline::default().data(figures).style(Style::new().cyan()), graph);
}

/// The route, its next hops and what they get.
fn describe(detail: &Detail) -> Vec<Line<'static>> {
    let Some(installed) = &detail.route else {
        return vec![Line::from("no such route now")];
    };
    let line = match installed.route.clone().check() {
        Ok(route) => route.to_string(),
        Err(error) => error.to_string(),
    };
    let counter = installed.counter.unwrap_or_default();
    let mut lines = vec![
        Line::from(line).bold(),
        Line::from(format!("owner {}", installed.owner)),
        Line::from(format!(
            "{} p/s  {} bit/s   packets {} bytes {}",
            short(detail.rate.packets),
            short(detail.rate.bits),
            counter.packets,
            counter.bytes
        )),
    ];
    let several = installed.paths.iter().flatten();
    let states = installed.next_hop.iter().map(|state| (state, None));
    for (next_hop, buckets) in states.chain(several.map(|path| (&path.next_hop, path.buckets.as_ref()))) {
        let dev = next_hop.dev.as_deref().unwrap_or("?");
        let lladdr = next_hop.lladdr.as_deref().unwrap_or("-");
        let mut line = format!(
            "next hop {} dev {dev} lladdr {lladdr} {}",
            next_hop.via.host,
            state_of(next_hop)
        );
        if let Some(ranges) = buckets {
            let share: u32 = ranges.iter().map(|range| 1 + u32::from(range.last - range.first)).sum();
            line += &format!("  {share} buckets");
        }
        lines.push(Line::from(line));
    }
    for exception in detail.exceptions.iter().flat_map(|exceptions| &exceptions.latest) {
        lines.push(Line::from(format!("exception {exception}")).magenta());
    }
    for what in installed.problem.iter().chain(&installed.passes) {
        lines.push(Line::from(what.clone()).yellow());
    }
    lines
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines = HELP.lines().count() as u16;
    let area = frame
        .area()
        .centered(Constraint::Length(68), Constraint::Length(lines + 2));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" keys ")), area);
}

//! What is shown, and what keys do.

use std::collections::HashMap;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::exceptions::Exceptions;
use super::sample::{Sample, Wanted};
use super::tables::{self, PAST, Rates, Row, Tab};
use crate::control::Instance;
use crate::control::api::{BusyOrder, Counter, InstalledRoute, Lookup};
use crate::route::RouteKey;

/// The intervals that `+` and `-` choose from, in milliseconds.
const INTERVALS: [u64; 6] = [200, 500, 1000, 2000, 5000, 10_000];

/// Whether to go on after a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Stay,
    Leave,
}

pub struct State {
    pub instance: Instance,
    pub interval: Duration,
    pub is_paused: bool,
    pub tab: Tab,
    /// By tab: the column that it is sorted by, and whether the other way round.
    orders: HashMap<usize, (usize, bool)>,
    /// The line that is selected in the table as shown.
    pub selected: usize,
    pub filter: String,
    /// The filter is being typed.
    pub is_filtering: bool,
    pub has_help: bool,
    sample: Option<Sample>,
    rates: Rates,
    rows: HashMap<usize, Vec<Row>>,
    /// The figures of rows, the latest last, by tab and key.
    pasts: HashMap<(usize, String), Vec<f64>>,
    /// What all routes forward per second.
    pub forwarded: Rate,
    pub detail: Option<Detail>,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rate {
    pub packets: f64,
    pub bits: f64,
}

/// A closer look at one route.
pub struct Detail {
    pub key: RouteKey,
    /// `None` before the first answer, and once it is gone.
    pub route: Option<InstalledRoute>,
    rates: Rates,
    pub rate: Rate,
    /// Packets per second.
    pub past: Vec<f64>,
    /// For a label.
    pub exceptions: Option<Exceptions>,
}

impl State {
    pub fn new(instance: Instance, interval: Duration) -> Self {
        Self {
            instance,
            interval,
            is_paused: false,
            tab: Tab::Ports,
            orders: HashMap::new(),
            selected: 0,
            filter: String::new(),
            is_filtering: false,
            has_help: false,
            sample: None,
            rates: Rates::default(),
            rows: HashMap::new(),
            pasts: HashMap::new(),
            forwarded: Rate::default(),
            detail: None,
        }
    }

    /// What the next sample should have.
    pub fn wanted(&self) -> Wanted {
        let is_by_bits = self.tab == Tab::Routes && self.order().0 == 3;
        Wanted {
            interval: self.interval,
            order: if is_by_bits {
                BusyOrder::Bytes
            } else {
                BusyOrder::Packets
            },
            next_hops: self.tab == Tab::NextHops,
            route: self.detail.as_ref().map(|detail| Lookup::Key(detail.key)),
        }
    }

    pub fn take(&mut self, sample: Sample) {
        if self.is_paused {
            return;
        }
        self.rates.begin(sample.at);
        self.forwarded = rate(&mut self.rates, sample.stats.forwarded);
        self.put(Tab::Ports, |rates| tables::ports(&sample.links, rates));
        self.put(Tab::Routes, |_| tables::routes(&sample.routes.routes));
        self.put(Tab::Reasons, |rates| tables::reasons(&sample.stats.reasons, rates));
        self.put(Tab::NextHops, |_| tables::next_hops(&sample.next_hops));
        if let Some(detail) = &mut self.detail {
            detail.rates.begin(sample.at);
            detail.route = sample.route.clone();
            let counter = detail.route.as_ref().and_then(|route| route.counter);
            detail.rate = rate(&mut detail.rates, counter.unwrap_or_default());
            remember(&mut detail.past, detail.rate.packets);
        }
        self.sample = Some(sample);
    }

    /// Takes new exceptions. Returns whether there are any.
    pub fn take_exceptions(&mut self) -> bool {
        let exceptions = self.detail.as_mut().and_then(|detail| detail.exceptions.as_mut());
        exceptions.is_some_and(Exceptions::take)
    }

    fn put(&mut self, tab: Tab, rows: impl FnOnce(&mut Rates) -> Vec<Row>) {
        let rows = rows(&mut self.rates);
        for row in &rows {
            remember(
                self.pasts.entry((tab as usize, row.key.clone())).or_default(),
                row.figure,
            );
        }
        // A row that is not in the sample has no past any more: there may be any number of routes.
        self.pasts
            .retain(|(of, key), _| *of != tab as usize || rows.iter().any(|row| row.key == *key));
        self.rows.insert(tab as usize, rows);
    }

    pub fn has_sample(&self) -> bool {
        self.sample.is_some()
    }

    pub fn past(&self, row: &Row) -> &[f64] {
        let past = self.pasts.get(&(self.tab as usize, row.key.clone()));
        past.map_or(&[], Vec::as_slice)
    }

    /// The column by which the table is sorted, and whether the other way round.
    pub fn order(&self) -> (usize, bool) {
        let order = self.orders.get(&(self.tab as usize)).copied();
        order.unwrap_or((self.tab.first_order(), false))
    }

    /// The rows that the filter leaves, in their order.
    pub fn shown(&self) -> Vec<&Row> {
        let filter = self.filter.to_lowercase();
        let has_it = |row: &&Row| {
            row.cells
                .iter()
                .any(|cell| cell.to_string().to_lowercase().contains(&filter))
        };
        let rows = self.rows.get(&(self.tab as usize)).into_iter().flatten();
        let mut rows: Vec<&Row> = rows.filter(has_it).collect();
        let (column, is_reversed) = self.order();
        rows.sort_by(|one, other| match (one.cells.get(column), other.cells.get(column)) {
            (Some(first), Some(second)) => first.compare(second).then_with(|| one.key.cmp(&other.key)),
            _ => one.key.cmp(&other.key),
        });
        if is_reversed {
            rows.reverse();
        }
        rows
    }

    pub fn key(&mut self, key: KeyEvent) -> Step {
        if key.kind == KeyEventKind::Release {
            return Step::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Step::Leave,
                _ => Step::Stay,
            };
        }
        if self.is_filtering {
            match key.code {
                KeyCode::Enter => self.is_filtering = false,
                KeyCode::Esc => {
                    self.is_filtering = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(character) => self.filter.push(character),
                _ => {}
            }
            self.selected = 0;
            return Step::Stay;
        }
        if std::mem::take(&mut self.has_help) {
            return Step::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Step::Leave,
            KeyCode::Char('?' | 'h') => self.has_help = true,
            KeyCode::Esc if self.detail.is_some() => self.detail = None,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('+') => self.change_interval(|now, next| next > now),
            KeyCode::Char('-') => self.change_interval(|now, next| next < now),
            // The rest is for tables.
            _ if self.detail.is_some() => {}
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(Tab::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.show(Tab::ALL[digit as usize - '1' as usize]),
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Char('s') => self.sort(|columns, (column, _)| ((column + 1) % columns, false)),
            KeyCode::Char('r') => self.sort(|_, (column, is_reversed)| (column, !is_reversed)),
            KeyCode::Down | KeyCode::Char('j') => self.selected = self.selected.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected = self.selected.saturating_add(20),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(20),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = usize::MAX,
            KeyCode::Enter if self.tab == Tab::Routes => self.look_closer(),
            _ => {}
        }
        self.selected = self.selected.min(self.shown().len().saturating_sub(1));
        Step::Stay
    }

    fn change_interval(&mut self, is_next: impl Fn(Duration, Duration) -> bool) {
        let mut intervals: Vec<Duration> = INTERVALS.into_iter().map(Duration::from_millis).collect();
        intervals.retain(|&next| is_next(self.interval, next));
        // The nearest one.
        intervals.sort_by_key(|next| next.abs_diff(self.interval));
        self.interval = intervals.first().copied().unwrap_or(self.interval);
    }

    fn turn(&mut self, by: usize) {
        self.show(Tab::ALL[(self.tab as usize + by) % Tab::ALL.len()]);
    }

    fn show(&mut self, tab: Tab) {
        self.tab = tab;
        self.selected = 0;
    }

    fn sort(&mut self, next: impl Fn(usize, (usize, bool)) -> (usize, bool)) {
        let order = next(self.tab.headers().len(), self.order());
        self.orders.insert(self.tab as usize, order);
    }

    fn look_closer(&mut self) {
        let Some(destination) = self.shown().get(self.selected).map(|row| row.key.clone()) else {
            return;
        };
        let routes = self.sample.iter().flat_map(|sample| &sample.routes.routes);
        let mut routes = routes.filter_map(|busy| busy.route.route.clone().check().ok());
        let Some(route) = routes.find(|route| route.destination() == destination) else {
            return;
        };
        self.detail = Some(Detail {
            key: route.key(),
            route: None,
            rates: Rates::default(),
            rate: Rate::default(),
            past: Vec::new(),
            exceptions: match route.key() {
                RouteKey::Label(label) => Exceptions::of(label, self.instance.clone()).ok(),
                RouteKey::Prefix(_) | RouteKey::Attachment(_) => None,
            },
        });
    }
}

fn rate(rates: &mut Rates, counter: Counter) -> Rate {
    Rate {
        packets: rates.of("packets".into(), counter.packets),
        bits: 8.0 * rates.of("bytes".into(), counter.bytes),
    }
}

fn remember(past: &mut Vec<f64>, figure: f64) {
    if past.len() == PAST {
        past.remove(0);
    }
    past.push(figure);
}

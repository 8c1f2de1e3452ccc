//! A plot of what each operation adds to a bare redirect, from the tables that the bench prints.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

const ROW: usize = 22;
const LEFT: usize = 330;
const WIDTH: usize = 480;
const RIGHT: usize = 70;

#[derive(clap::Args)]
pub struct Arguments {
    /// A page with tables of operations, such as docs/performance.md.
    page: PathBuf,
    /// Where to write the plot.
    svg: PathBuf,
}

pub fn run(Arguments { page, svg }: &Arguments) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let rows = rows(&text);
    ensure!(!rows.is_empty(), "{} has no table of operations", page.display());
    std::fs::write(svg, plot(&rows)).with_context(|| format!("cannot write {}", svg.display()))
}

/// Operations and the nanoseconds that they add, from the Markdown tables that have such columns.
fn rows(page: &str) -> Vec<(&str, f64)> {
    let mut rows = Vec::new();
    let mut columns = None;
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let place = |name| cells.iter().position(|&cell| cell == name);
        columns = match (place("operation").zip(place("added ns")), cells.len()) {
            (Some(found), _) => Some(found),
            (None, ..2) => None,
            (None, _) => columns,
        };
        if let Some((operation, added)) = columns
            && let (Some(operation), Some(Ok(added))) =
                (cells.get(operation), cells.get(added).map(|cell| cell.parse()))
        {
            rows.push((*operation, added));
        }
    }
    rows
}

/// Bars, as SVG.
fn plot(rows: &[(&str, f64)]) -> String {
    let most = rows.iter().map(|&(_, added)| added).fold(1.0, f64::max);
    let (width, height) = (LEFT + WIDTH + RIGHT, ROW * (rows.len() + 2));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"{ROW}\">nanoseconds \
         added to a bare redirect, per frame</text>\n"
    );
    for (index, &(operation, added)) in rows.iter().enumerate() {
        let top = ROW * (index + 1) + ROW / 2;
        let bar = added.max(0.0) / most * WIDTH as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{operation}</text><rect x=\"{LEFT}\" y=\"{}\" width=\"{bar:.1}\" height=\"{}\" \
             fill=\"#4477aa\"/><text x=\"{:.1}\" y=\"{}\">{added:.1}</text>",
            LEFT - 8,
            top + 15,
            top + 3,
            ROW - 6,
            LEFT as f64 + bar + 6.0,
            top + 15,
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn operations_and_what_they_add_are_read_from_a_page() {
        let page = "text\n| operation | to bare | added ns |\n|---|--:|--:|\n| pop to IP | 0.87 | 35.0 |\n| PHP | 0.91 | 24 |\n\n\
                    | prefixes | now |\n|---|--:|\n| 1 | 57 |\n";
        assert_eq!(rows(page), [("pop to IP", 35.0), ("PHP", 24.0)]);
    }
}

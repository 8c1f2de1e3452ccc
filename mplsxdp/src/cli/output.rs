//! Output for people and scripts.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

use super::Failure;
use super::monitor::Timestamp;

/// Standard output, and its format.
pub struct Output {
    pub writer: BufWriter<StdoutLock<'static>>,
    pub style: Style,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Style {
    pub json: bool,
    pub pretty: bool,
    pub stats: bool,
    pub oneline: bool,
    pub brief: bool,
    pub details: bool,
    pub timestamp: Timestamp,
}

impl Output {
    pub fn new(style: Style) -> Self {
        Self {
            writer: BufWriter::new(io::stdout().lock()),
            style,
        }
    }

    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.writer, "{line}")?)
    }

    /// One item on several lines; with `-o` on one, as iproute2 joins them.
    pub fn lines(&mut self, lines: &[String]) -> Result<(), Failure> {
        // With a space, so that the backslash is a word of its own when the line is pasted back.
        self.line(&lines.join(if self.style.oneline { " \\" } else { "\n" }))
    }

    /// Rows in aligned columns; the columns with the indexes in `right` are right-aligned.
    pub fn table<const N: usize>(&mut self, rows: &[[String; N]], right: &[usize]) -> Result<(), Failure> {
        aligned(rows, right).iter().try_for_each(|row| self.line(row))
    }

    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        if self.style.pretty {
            serde_json::to_writer_pretty(&mut self.writer, value).map_err(io::Error::from)?;
        } else {
            serde_json::to_writer(&mut self.writer, value).map_err(io::Error::from)?;
        }
        self.line("")
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.writer.flush()?)
    }
}

/// Rows in aligned columns, as [`Output::table`] prints them.
pub fn aligned<const N: usize>(rows: &[[String; N]], right: &[usize]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate().map(|(index, (cell, width))| {
            if right.contains(&index) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

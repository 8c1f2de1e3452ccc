//! Samples as tables: one row for each port, route, next hop or reason. Pure.

use std::collections::HashMap;
use std::time::Instant;

use crate::control::api::{BusyRoute, InstalledRoute, Link, NextHopState, ReasonCounter, ViaAddress};

/// How many figures of the past are kept of each row.
pub const PAST: usize = 120;

/// The tables, in the order of their tabs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tab {
    Ports,
    Routes,
    NextHops,
    Reasons,
}

impl Tab {
    pub const ALL: [Self; 4] = [Self::Ports, Self::Routes, Self::NextHops, Self::Reasons];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ports => "Ports",
            Self::Routes => "Busiest routes",
            Self::NextHops => "Next hops",
            Self::Reasons => "Not forwarded",
        }
    }

    pub const fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Ports => &[
                "PORT",
                "STATE",
                "RX p/s",
                "RX bit/s",
                "TX p/s",
                "TX bit/s",
                "LEFT OUT/s",
            ],
            Self::Routes => &["DESTINATION", "ROUTE", "p/s", "bit/s", "PACKETS"],
            Self::NextHops => &["NEXT HOP", "DEV", "LLADDR", "STATE", "ROUTES"],
            Self::Reasons => &["PORT", "REASON", "p/s", "PACKETS", "MEANING"],
        }
    }

    /// The column that its rows are sorted by at first: the one that says most.
    pub const fn first_order(self) -> usize {
        match self {
            Self::Ports | Self::Routes | Self::Reasons => 2,
            Self::NextHops => 0,
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    Text(String),
    Count(u64),
    /// Per second.
    Rate(f64),
    /// Bits per second.
    Bits(f64),
}

impl Cell {
    pub fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }

    /// For sorting: texts ascend, numbers descend.
    pub fn compare(&self, other: &Self) -> std::cmp::Ordering {
        match (self.number(), other.number()) {
            (Some(one), Some(other)) => other.total_cmp(&one),
            _ => self.to_string().cmp(&other.to_string()),
        }
    }

    fn number(&self) -> Option<f64> {
        match *self {
            Self::Text(_) => None,
            Self::Count(count) => Some(count as f64),
            Self::Rate(rate) | Self::Bits(rate) => Some(rate),
        }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Count(count) => write!(f, "{count}"),
            Self::Rate(rate) | Self::Bits(rate) => f.write_str(&short(*rate)),
        }
    }
}

/// A number in at most 6 characters, such as `12.3k`.
pub fn short(number: f64) -> String {
    let units = ["", "k", "M", "G", "T", "P"];
    let mut number = number;
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < units.len() {
        number /= 1000.0;
        unit += 1;
    }
    match number {
        _ if unit == 0 && number.fract() == 0.0 => format!("{number:.0}"),
        ..99.95 => format!("{number:.1}{}", units[unit]),
        _ => format!("{number:.0}{}", units[unit]),
    }
}

/// One line of a table.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// What it is about, the same in every sample.
    pub key: String,
    pub cells: Vec<Cell>,
    /// What is drawn as its past.
    pub figure: f64,
}

/// Growth per second between two samples.
#[derive(Default, Debug)]
pub struct Rates {
    before: Option<Instant>,
    counted: HashMap<String, u64>,
    now: HashMap<String, u64>,
    seconds: f64,
}

impl Rates {
    /// The counters from now on are of a sample that was taken then.
    pub fn begin(&mut self, at: Instant) {
        self.seconds = self
            .before
            .map_or(0.0, |before| at.duration_since(before).as_secs_f64());
        self.before = Some(at);
        self.counted = std::mem::take(&mut self.now);
    }

    /// How fast a counter grows; 0 if it was not in the sample before.
    pub fn of(&mut self, key: String, count: u64) -> f64 {
        let before = self.counted.get(&key).copied();
        self.now.insert(key, count);
        match before {
            Some(before) if self.seconds > 0.0 => count.saturating_sub(before) as f64 / self.seconds,
            _ => 0.0,
        }
    }
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

pub fn ports(links: &[Link], rates: &mut Rates) -> Vec<Row> {
    let row = |link: &Link| {
        let mut rate = |what: &str, count| rates.of(format!("port {} {what}", link.ifname), count);
        let counters = link.counters.as_ref();
        let kernel = counters.and_then(|counters| counters.kernel).unwrap_or_default();
        let left_out = counters.map_or(0, |counters| counters.reasons.iter().map(|reason| reason.packets).sum());
        let received = rate("rx", kernel.rx_packets);
        Row {
            key: link.ifname.clone(),
            cells: vec![
                text(&*link.ifname),
                text(match (link.up, link.program_id) {
                    (true, 0) => "DETACHED",
                    (true, _) => "UP",
                    (false, 0) => "WAITING",
                    (false, _) => "DOWN",
                }),
                Cell::Rate(received),
                Cell::Bits(8.0 * rate("rx bytes", kernel.rx_bytes)),
                Cell::Rate(rate("tx", kernel.tx_packets)),
                Cell::Bits(8.0 * rate("tx bytes", kernel.tx_bytes)),
                Cell::Rate(rate("left out", left_out)),
            ],
            figure: received,
        }
    };
    links.iter().map(row).collect()
}

/// The destination, and the rest of the route's line.
fn line(route: &InstalledRoute) -> (String, String) {
    match route.route.clone().check() {
        Ok(route) => {
            let (line, destination) = (route.to_string(), route.destination());
            let rest = line.strip_prefix(&destination).unwrap_or(&line).trim_start().to_owned();
            (destination, rest)
        }
        // Of another version.
        Err(error) => ("?".into(), error.to_string()),
    }
}

pub fn routes(busiest: &[BusyRoute]) -> Vec<Row> {
    let row = |busy: &BusyRoute| {
        let (destination, rest) = line(&busy.route);
        Row {
            key: destination.clone(),
            cells: vec![
                text(destination),
                text(rest),
                Cell::Rate(busy.packets_per_second),
                Cell::Bits(busy.bits_per_second),
                Cell::Count(busy.route.counter.map_or(0, |counter| counter.packets)),
            ],
            figure: busy.packets_per_second,
        }
    };
    busiest.iter().map(row).collect()
}

fn via(via: &ViaAddress) -> String {
    via.host.to_string()
}

pub fn state_of(next_hop: &NextHopState) -> String {
    let mut state = next_hop.state.to_string();
    if next_hop.redirect_lost {
        state += " redirect-lost";
    }
    if let Some(backup) = &next_hop.backup {
        let dev = backup.dev.as_deref().unwrap_or("?");
        state += &format!(" backup {} dev {dev}", via(&backup.via));
    }
    state
}

pub fn next_hops(next_hops: &[NextHopState]) -> Vec<Row> {
    let row = |next_hop: &NextHopState| {
        let (via, dev) = (via(&next_hop.via), next_hop.dev.as_deref().unwrap_or_default());
        Row {
            key: format!("{via} {dev}"),
            cells: vec![
                text(via),
                text(dev),
                text(next_hop.lladdr.clone().unwrap_or_default()),
                text(state_of(next_hop)),
                Cell::Count(next_hop.routes),
            ],
            figure: next_hop.routes as f64,
        }
    };
    next_hops.iter().map(row).collect()
}

pub fn reasons(reasons: &[ReasonCounter], rates: &mut Rates) -> Vec<Row> {
    let row = |reason: &ReasonCounter| {
        let key = format!("{} {}", reason.port, reason.reason);
        let rate = rates.of(format!("reason {key}"), reason.packets);
        Row {
            cells: vec![
                text(&*reason.port),
                text(&*reason.reason),
                Cell::Rate(rate),
                Cell::Count(reason.packets),
                text(&*reason.description),
            ],
            key,
            figure: rate,
        }
    };
    reasons.iter().map(row).collect()
}

/// A past of figures in one line, the latest at its end. Each character is as high as its share of the greatest one.
pub fn sparkline(past: &[f64], width: usize) -> String {
    let blocks = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &past[past.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(0.0, f64::max);
    let block = |&figure: &f64| match most > 0.0 && figure > 0.0 {
        true => blocks[((figure / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
        false => ' ',
    };
    shown.iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.5, "0.5"),
            (7.0, "7"),
            (999.0, "999"),
            (999.6, "1.0k"),
            (1234.0, "1.2k"),
            (99_960.0, "100k"),
            (123_456.0, "123k"),
            (25_000_000.0, "25.0M"),
            (4.2e9, "4.2G"),
            (1e18, "1000P"),
        ];
        for (number, expected) in cases {
            assert_eq!(short(number), expected, "{number}");
        }
    }

    #[test]
    fn a_rate_is_the_growth_between_two_samples() {
        let mut rates = Rates::default();
        let began = Instant::now();
        rates.begin(began);
        assert_eq!(rates.of("a".into(), 100), 0.0);
        rates.begin(began + Duration::from_secs(2));
        assert_eq!((rates.of("a".into(), 150), rates.of("b".into(), 7)), (25.0, 0.0));
        // One that was cleared, and one that was not in the sample before.
        rates.begin(began + Duration::from_secs(3));
        assert_eq!(rates.of("a".into(), 10), 0.0);
        rates.begin(began + Duration::from_secs(4));
        assert_eq!((rates.of("a".into(), 11), rates.of("b".into(), 9)), (1.0, 0.0));
    }

    #[test]
    fn a_past_is_drawn_against_its_greatest_figure() {
        assert_eq!(sparkline(&[0.0, 1.0, 4.0, 8.0], 10), " ▁▄█");
        assert_eq!(sparkline(&[8.0, 0.0, 0.1, 2.0], 3), " ▁█");
        assert_eq!(sparkline(&[0.0, 0.0], 5), "  ");
        assert_eq!(sparkline(&[], 5), "");
    }

    #[test]
    fn numbers_descend_and_texts_ascend() {
        let mut cells = [Cell::Rate(1.0), Cell::Rate(30.0), Cell::Rate(2.0)];
        cells.sort_by(Cell::compare);
        assert_eq!(cells, [Cell::Rate(30.0), Cell::Rate(2.0), Cell::Rate(1.0)]);
        let mut cells = ["b", "a"].map(text);
        cells.sort_by(Cell::compare);
        assert_eq!(cells, ["a", "b"].map(text));
    }
}

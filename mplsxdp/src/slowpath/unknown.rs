//! Which labels without a route arrive, where, how often, and when to log them. The time is an argument.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use mplsxdp_common::wire::Label;

/// How many labels are tracked separately. If there are more, the least recently seen are forgotten.
const LABELS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// The time constant of a rate: it has followed a step by two thirds after this time.
const MEMORY: Duration = Duration::from_secs(5);
/// The log has at most one line in this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A label without a route.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct UnknownLabel {
    pub port: u16,
    pub label: Label,
    /// Since it was first seen.
    pub frames: u64,
    pub frames_per_second: f64,
    /// Since it was last seen.
    pub idle: Duration,
}

/// A line for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The last frame's.
    pub port: u16,
    pub label: Label,
    /// How many frames with unknown labels there were since the last report, including this one.
    pub frames: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    frames: u64,
    rate: Decaying,
}

/// A rate that forgets exponentially.
#[derive(Clone, Copy, Debug)]
struct Decaying {
    per_second: f64,
    at: Instant,
}

impl Decaying {
    fn at(self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at);
        self.per_second * (-age.div_duration_f64(MEMORY)).exp()
    }

    fn with_one_more(self, now: Instant) -> Self {
        Self {
            per_second: self.at(now) + MEMORY.as_secs_f64().recip(),
            at: now,
        }
    }
}

/// All labels without a route that were seen recently.
#[derive(Debug)]
pub struct UnknownLabels {
    seen: LruCache<(u16, Label), Seen>,
    next_report: Option<Instant>,
    unreported: u64,
}

impl Default for UnknownLabels {
    fn default() -> Self {
        Self {
            seen: LruCache::new(LABELS),
            next_report: None,
            unreported: 0,
        }
    }
}

impl UnknownLabels {
    /// A frame with `label` arrived at `port`. Returns what to log now.
    pub fn note(&mut self, port: u16, label: Label, now: Instant) -> Option<Report> {
        let nothing = Decaying {
            per_second: 0.0,
            at: now,
        };
        let seen = self.seen.get_or_insert_mut((port, label), || Seen {
            frames: 0,
            rate: nothing,
        });
        seen.frames += 1;
        seen.rate = seen.rate.with_one_more(now);

        self.unreported += 1;
        if self.next_report.is_some_and(|next| now < next) {
            return None;
        }
        self.next_report = Some(now + REPORT_INTERVAL);
        Some(Report {
            port,
            label,
            frames: std::mem::take(&mut self.unreported),
        })
    }

    /// Forgets the labels of removed ports, before others get their numbers.
    pub fn keep_ports(&mut self, is_port: impl Fn(u16) -> bool) {
        let gone = self
            .seen
            .iter()
            .map(|(&key, _)| key)
            .filter(|&(port, _)| !is_port(port));
        for key in Vec::from_iter(gone) {
            self.seen.pop(&key);
        }
    }

    /// The most frequent first.
    pub fn list(&self, now: Instant) -> Vec<UnknownLabel> {
        let labels = self.seen.iter().map(|(&(port, label), seen)| UnknownLabel {
            port,
            label,
            frames: seen.frames,
            frames_per_second: seen.rate.at(now),
            idle: now.saturating_duration_since(seen.rate.at),
        });
        let mut list = Vec::from_iter(labels);
        list.sort_by(|one, other| {
            let by_rate = other.frames_per_second.total_cmp(&one.frames_per_second);
            by_rate.then((one.label, one.port).cmp(&(other.label, other.port)))
        });
        list
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::label;
    use super::*;

    #[test]
    fn labels_are_counted_by_port_and_listed_by_rate() {
        let start = Instant::now();
        let mut unknown = UnknownLabels::default();
        let mut now = start;
        // 30 s: 100 a second, 10 a second, and 5 at the start only.
        for step in 0..3000 {
            now = start + Duration::from_millis(10) * step;
            unknown.note(0, label(900), now);
            if step % 10 == 0 {
                unknown.note(1, label(900), now);
            }
            if step < 5 {
                unknown.note(0, label(901), now);
            }
        }
        let list = unknown.list(now);
        let frames = Vec::from_iter(list.iter().map(|seen| (seen.port, seen.label.get(), seen.frames)));
        assert_eq!(frames, [(0, 900, 3000), (1, 900, 300), (0, 901, 5)]);
        let rates = Vec::from_iter(list.iter().map(|seen| seen.frames_per_second));
        assert!(
            (rates[0] - 100.0).abs() < 2.0 && (rates[1] - 10.0).abs() < 1.0,
            "{rates:?}"
        );
        assert!(rates[2] < 0.01, "{rates:?}");
        let later = unknown.list(now + Duration::from_secs(60));
        assert!(later[0].frames_per_second < 0.01 && later[0].frames == 3000);
    }

    #[test]
    fn a_port_that_is_none_any_more_is_forgotten() {
        let now = Instant::now();
        let mut unknown = UnknownLabels::default();
        for port in [0, 1, 1, 2] {
            unknown.note(port, label(900), now);
        }
        unknown.note(1, label(901), now);
        unknown.keep_ports(|port| port != 1);
        let ports = |unknown: &UnknownLabels| Vec::from_iter(unknown.list(now).iter().map(|seen| seen.port));
        assert_eq!(ports(&unknown), [0, 2]);
        unknown.note(1, label(902), now);
        assert_eq!(ports(&unknown), [0, 2, 1]);
    }

    #[test]
    fn the_log_has_a_line_at_once_and_then_one_in_ten_seconds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut unknown = UnknownLabels::default();
        let report = |label: u32, frames| {
            Some(Report {
                port: 0,
                label: super::super::fixture::label(label),
                frames,
            })
        };
        assert_eq!(unknown.note(0, label(900), at(0)), report(900, 1));
        for millis in 1..10_000 {
            assert_eq!(unknown.note(0, label(901), at(millis)), None);
        }
        assert_eq!(unknown.note(0, label(902), at(10_000)), report(902, 10_000));
        assert_eq!(unknown.note(0, label(903), at(10_001)), None);
        assert_eq!(unknown.note(0, label(903), at(60_000)), report(903, 2));
    }

    #[test]
    fn the_labels_longest_unseen_are_forgotten() {
        let now = Instant::now();
        let mut unknown = UnknownLabels::default();
        for value in 0..5000 {
            unknown.note(0, label(16), now);
            unknown.note(0, label(1000 + value), now);
        }
        let list = unknown.list(now);
        assert_eq!(list.len(), LABELS.get());
        assert_eq!((list[0].label.get(), list[0].frames), (16, 5000));
        let oldest = list
            .iter()
            .map(|seen| seen.label.get())
            .filter(|&label| label >= 1000)
            .min();
        assert_eq!(oldest, Some(1000 + 5000 - 4095));
    }
}

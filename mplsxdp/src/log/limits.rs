//! Limits of lines of one kind. At the end of each window, the omitted lines are summed up in one line per subject.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tracing::callsite;

/// The period that limits apply to, starting with the first line of a kind.
const WINDOW: Duration = Duration::from_secs(60);
/// Lines of one kind (one place in the source) in a window.
const KIND_LINES: u32 = 200;
/// Those of them that are about one subject, that is, have the same first field.
const SUBJECT_LINES: u32 = 20;

static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Lines of this process that were summed up in others, because there were too many of their kind.
pub fn left_out() -> u64 {
    LEFT_OUT.load(Relaxed)
}

/// The recent lines, by kind. It has at most one entry for each place in the source that logs, each with as many
/// subjects as it may have lines.
#[derive(Default)]
pub(super) struct Limits {
    kinds: HashMap<callsite::Identifier, Kind>,
}

struct Kind {
    since: Instant,
    lines: u32,
    subjects: HashMap<u64, Subject>,
    /// Lines about subjects that are not in `subjects`.
    others: LeftOut,
}

#[derive(Default)]
struct Subject {
    lines: u32,
    left_out: LeftOut,
}

#[derive(Default)]
struct LeftOut {
    count: u64,
    last: String,
}

impl Limits {
    /// Appends to `out` what should be written now: the line, unless there have been too many of its kind, and before
    /// it the summaries of the previous window if that is over.
    pub(super) fn admit(
        &mut self,
        (kind, factor): (callsite::Identifier, u32),
        subject: u64,
        line: String,
        now: Instant,
        out: &mut String,
    ) {
        let kind = self.kinds.entry(kind).or_insert_with(|| Kind::new(now));
        if kind.is_over(now) {
            kind.sum_up(out);
            *kind = Kind::new(now);
        }
        let is_full = kind.lines >= KIND_LINES * factor;
        if is_full && !kind.subjects.contains_key(&subject) {
            kind.others.add(line);
            return;
        }
        let subject = kind.subjects.entry(subject).or_default();
        if is_full || subject.lines >= SUBJECT_LINES * factor {
            subject.left_out.add(line);
            return;
        }
        kind.lines += 1;
        subject.lines += 1;
        out.push_str(&line);
    }

    /// Appends the summaries of windows that are over at `now`, or of all of them.
    pub(super) fn close(&mut self, now: Option<Instant>, out: &mut String) {
        self.kinds.retain(|_, kind| {
            let is_over = now.is_none_or(|now| kind.is_over(now));
            if is_over {
                kind.sum_up(out);
            }
            !is_over
        });
    }
}

impl Kind {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            subjects: HashMap::new(),
            others: LeftOut::default(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    fn sum_up(&mut self, out: &mut String) {
        for subject in self.subjects.values_mut() {
            subject.left_out.sum_up(out);
        }
        self.others.sum_up(out);
    }
}

impl LeftOut {
    fn add(&mut self, line: String) {
        LEFT_OUT.fetch_add(1, Relaxed);
        self.count += 1;
        self.last = line;
    }

    /// The last line, with the number of those before it.
    fn sum_up(&mut self, out: &mut String) {
        if self.count > 0 {
            out.push_str(self.last.trim_end());
            if let more @ 1.. = self.count - 1 {
                let _ = write!(out, " (and {more} more like this)");
            }
            out.push('\n');
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use tracing::callsite::Identifier;

    use super::*;

    struct Place;

    impl callsite::Callsite for Place {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &tracing::Metadata<'_> {
            unreachable!("nobody asks")
        }
    }

    // Kinds differ by their addresses; values without a size would share one.
    static PLACES: [(Place, u8); 2] = [(Place, 0), (Place, 1)];

    fn kind(index: usize) -> Identifier {
        Identifier(&PLACES[index].0)
    }

    fn admit(limits: &mut Limits, kind_of: usize, subject: u64, line: &str, now: Instant) -> String {
        let mut out = String::new();
        limits.admit((kind(kind_of), 1), subject, format!("{line}\n"), now, &mut out);
        out
    }

    #[test]
    fn a_subject_that_has_had_its_lines_leaves_those_of_others_alone() {
        let mut limits = Limits::default();
        let now = Instant::now();
        let written = (0..1000).filter(|n| !admit(&mut limits, 0, 1, &n.to_string(), now).is_empty());
        assert_eq!(written.count(), SUBJECT_LINES as usize);
        assert_eq!(admit(&mut limits, 0, 2, "another", now), "another\n");
        let mut out = String::new();
        limits.close(Some(now), &mut out);
        assert_eq!(out, "", "the window is not over");
        limits.close(Some(now + WINDOW), &mut out);
        assert_eq!(out, "999 (and 979 more like this)\n");
        assert!(limits.kinds.is_empty());
    }

    #[test]
    fn a_kind_has_its_lines_whatever_they_are_about_and_other_kinds_have_theirs() {
        let mut limits = Limits::default();
        let now = Instant::now();
        let written = (0..100_000).filter(|&n| !admit(&mut limits, 0, n, &n.to_string(), now).is_empty());
        assert_eq!(written.count(), KIND_LINES as usize);
        assert_eq!(limits.kinds[&kind(0)].subjects.len(), KIND_LINES as usize);
        assert_eq!(admit(&mut limits, 1, 1, "another", now), "another\n");
        // The next line of the kind comes after the end of the window.
        let out = admit(&mut limits, 0, 1, "next", now + WINDOW);
        assert_eq!(out, "99999 (and 99799 more like this)\nnext\n");
    }

    #[test]
    fn one_line_that_was_left_out_is_written_as_it_is() {
        let mut limits = Limits::default();
        for n in 0..=SUBJECT_LINES {
            admit(&mut limits, 0, 1, &n.to_string(), Instant::now());
        }
        let mut out = String::new();
        limits.close(None, &mut out);
        assert_eq!(out, format!("{SUBJECT_LINES}\n"));
    }
}

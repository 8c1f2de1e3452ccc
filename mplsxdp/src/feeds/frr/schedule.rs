//! When zebra is asked: soon after a hint, but seldom, because its main thread makes the answer, which may be large.

use std::time::{Duration, Instant};

/// After a hint, others follow: a protocol changes many routes at once.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// The time between two questions if there are hints.
const SHORTEST: Duration = Duration::from_secs(3);
/// The same if there are none: a backup may change without its route.
const LONGEST: Duration = Duration::from_secs(30);
/// The time that answers take is at most one in this many.
const SHARE: u32 = 10;
/// The first pause after a failure. It doubles, up to [`LONGEST`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    hinted: Option<Instant>,
    /// When the last answer was complete, and how long it took.
    answered: Option<(Instant, Duration)>,
    /// When the last attempt failed, and how many have failed in a row.
    failed: Option<(Instant, u32)>,
}

impl Schedule {
    /// The first question is due at once.
    pub const fn new() -> Self {
        Self {
            hinted: None,
            answered: None,
            failed: None,
        }
    }

    /// A route that may have a backup has changed.
    pub fn hint(&mut self, now: Instant) {
        self.hinted.get_or_insert(now);
    }

    /// All answers to a question that was asked at `begin` have come. Hints since `begin` count for the next one.
    pub fn answered(&mut self, begin: Instant, now: Instant) {
        self.hinted = self.hinted.filter(|&hinted| hinted > begin);
        self.answered = Some((now, now.saturating_duration_since(begin)));
        self.failed = None;
    }

    pub fn failed(&mut self, now: Instant) {
        let before = self.failed.map_or(0, |(_, count)| count);
        self.failed = Some((now, before.saturating_add(1)));
    }

    /// When to ask next; `None`: now.
    pub fn due(&self) -> Option<Instant> {
        if let Some((then, count)) = self.failed {
            let pause = FIRST_PAUSE.saturating_mul(1 << (count - 1).min(8));
            return Some(then + pause.min(LONGEST));
        }
        let (then, took) = self.answered?;
        let after = |pause: Duration| then + pause.max(took.saturating_mul(SHARE));
        Some(match self.hinted {
            Some(hinted) => (hinted + DEBOUNCE).max(after(SHORTEST)),
            None => after(LONGEST),
        })
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_follow_hints_but_not_too_fast() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut schedule = Schedule::new();
        assert_eq!(schedule.due(), None);
        schedule.answered(at(0), at(100));
        assert_eq!(schedule.due(), Some(at(30_100)));
        // The first hint of several counts.
        schedule.hint(at(200));
        schedule.hint(at(900));
        assert_eq!(schedule.due(), Some(at(3100)));
        // A hint that came during the answer is not lost; one from before is.
        schedule.hint(at(2900));
        schedule.answered(at(3100), at(3200));
        assert_eq!(schedule.due(), Some(at(33_200)));
        schedule.hint(at(8000));
        assert_eq!(schedule.due(), Some(at(9000)));
        schedule.answered(at(7900), at(8100));
        assert_eq!(schedule.due(), Some(at(11_100)));
        // A zebra that takes 5 s is asked every 50 s.
        schedule.answered(at(20_000), at(25_000));
        schedule.hint(at(26_000));
        assert_eq!(schedule.due(), Some(at(75_000)));
    }

    #[test]
    fn the_pause_after_failures_grows() {
        let begin = Instant::now();
        let mut schedule = Schedule::new();
        let pauses = [1, 2, 4, 8, 16, 30, 30];
        for pause in pauses {
            schedule.failed(begin);
            // A hint does not shorten it.
            schedule.hint(begin);
            assert_eq!(schedule.due(), Some(begin + Duration::from_secs(pause)));
        }
        for _ in 0..300 {
            schedule.failed(begin);
        }
        assert_eq!(schedule.due(), Some(begin + Duration::from_secs(30)));
        schedule.answered(begin, begin);
        assert_eq!(schedule.due(), Some(begin + Duration::from_secs(30)));
        schedule.failed(begin);
        assert_eq!(schedule.due(), Some(begin + Duration::from_secs(1)));
    }
}

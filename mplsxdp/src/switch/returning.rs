//! Next hops that can be reached again, and whose frames stay with their backups for a while. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::lfib::next_hops::NextHopId;

/// How many return at once.
const AT_ONCE: usize = 256;

/// These next hops, and when their frames return.
#[derive(Default, Debug)]
pub struct Returning {
    by_time: BTreeSet<(Instant, NextHopId)>,
    by_id: BTreeMap<NextHopId, Instant>,
}

impl Returning {
    /// The frames of a next hop return at this time, or at an earlier one if that was said before.
    pub fn wait(&mut self, id: NextHopId, until: Instant) {
        let until = *self.by_id.entry(id).or_insert(until);
        self.by_time.insert((until, id));
    }

    /// The next hop cannot be reached any more, or its frames have returned.
    pub fn forget(&mut self, id: NextHopId) {
        if let Some(until) = self.by_id.remove(&id) {
            self.by_time.remove(&(until, id));
        }
    }

    pub fn all(&self) -> impl Iterator<Item = NextHopId> {
        self.by_id.keys().copied()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_time.first().map(|&(until, _)| until)
    }

    /// Takes some of those whose frames return by now. If there are more, the deadline stays.
    pub fn take_due(&mut self, now: Instant) -> Vec<NextHopId> {
        let due = self.by_time.iter().take_while(|&&(until, _)| until <= now);
        let due: Vec<NextHopId> = due.take(AT_ONCE).map(|&(_, id)| id).collect();
        due.iter().for_each(|&id| self.forget(id));
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_returns_once_and_not_if_it_fails_before() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut returning = Returning::default();
        for (id, ms) in [(1, 20), (2, 10), (3, 30), (1, 50)] {
            returning.wait(NextHopId(id), after(ms));
        }
        assert_eq!(
            (returning.next_deadline(), returning.all().count()),
            (Some(after(10)), 3)
        );
        returning.forget(NextHopId(2));
        assert_eq!(returning.take_due(after(19)), []);
        assert_eq!(returning.take_due(after(30)), [1, 3].map(NextHopId));
        assert_eq!((returning.next_deadline(), returning.all().next()), (None, None));
    }
}

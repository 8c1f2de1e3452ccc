//! What found an AF_XDP queue busy, and is tried again a little later. The event loop goes on meanwhile. Pure.

use std::time::Instant;

use crate::control::Call;
use crate::slowpath::xsk::Patience;

/// What is to be done.
#[derive(Debug)]
pub enum Work {
    /// Answers a call of `AddLink`.
    AddLink(Call),
    /// Opens the sockets of this port, which has lost its own.
    Listen(u16),
}

/// Work that failed, and when it is due.
#[derive(Default, Debug)]
pub struct Postponed(Vec<(Instant, Work, Patience)>);

impl Postponed {
    /// The work failed: the first time if there is no `patience` yet. Gives it back if it has been tried for long enough.
    pub fn add(&mut self, work: Work, patience: Option<Patience>, now: Instant) -> Result<(), Work> {
        let mut patience = patience.unwrap_or_else(|| Patience::new(now));
        match patience.next(now) {
            Some(due) => {
                self.0.push((due, work, patience));
                Ok(())
            }
            None => Err(work),
        }
    }

    /// The work whose time has come.
    pub fn take_due(&mut self, now: Instant) -> Vec<(Work, Patience)> {
        let due = self.0.extract_if(.., |(due, ..)| *due <= now);
        due.map(|(_, work, patience)| (work, patience)).collect()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.iter().map(|(due, ..)| *due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_due_ever_more_seldom_and_given_back_in_the_end() {
        let mut postponed = Postponed::default();
        let start = Instant::now();
        let (mut now, mut patience, mut pauses) = (start, None, Vec::new());
        while postponed.add(Work::Listen(3), patience, now).is_ok() {
            let due = postponed.next_deadline().unwrap();
            pauses.push((due - now).as_millis());
            assert!(postponed.take_due(now).is_empty());
            now = due;
            let mut work = postponed.take_due(now);
            let (Work::Listen(3), next) = work.remove(0) else {
                panic!("another work")
            };
            assert!(work.is_empty() && postponed.next_deadline().is_none());
            patience = Some(next);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 250, 250, 250, 250, 250, 250, 250]);
        assert!(postponed.take_due(now).is_empty());
    }
}

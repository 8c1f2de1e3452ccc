//! The clients that watch, and the exceptions that are reported to them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::control::events::{Event, Exception, Kinds, Timed, Watcher};
use crate::slowpath::{Handled, Received};

/// How many exceptions are reported in each [`WINDOW`]: as many as cost the event loop less than a thousandth of its
/// time.
const EXCEPTIONS: u32 = 1000;
const WINDOW: Duration = Duration::from_secs(1);
/// How much of a frame is reported: Ethernet header, 16 labels and an IPv6 header fit.
const HEAD: usize = 128;

/// The clients that watch.
#[derive(Default, Debug)]
pub struct Monitor {
    watchers: Vec<Watcher>,
}

impl Monitor {
    pub fn add(&mut self, watcher: Watcher) {
        self.watchers.push(watcher);
    }

    /// Queues an event for each client that wants it. Whoever drops it last frees what only it has kept.
    pub fn tell(&self, event: Event) -> Arc<Timed> {
        let time = SystemTime::now();
        let event = Arc::new(Timed { time, event });
        self.watchers.iter().for_each(|watcher| watcher.tell(&event));
        event
    }

    /// What the clients want that are still there. The others are forgotten.
    pub fn kinds(&mut self) -> Kinds {
        self.watchers.retain(|watcher| !watcher.is_gone());
        let kinds = self.watchers.iter().map(Watcher::kinds);
        kinds.fold(Kinds::default(), Kinds::and)
    }
}

/// Exceptions to report. Of a flood, some are reported, and the others are counted.
#[derive(Debug)]
pub struct Sample {
    is_on: bool,
    /// How many more have room in the current window, and when that ends.
    room: u32,
    ends: Option<Instant>,
    left_out: u64,
    taken: Vec<Exception>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            is_on: false,
            room: EXCEPTIONS,
            ends: None,
            left_out: 0,
            taken: Vec::new(),
        }
    }
}

impl Sample {
    pub fn set_on(&mut self, is_on: bool) {
        if is_on != self.is_on {
            *self = Self {
                is_on,
                ..Self::default()
            };
        }
    }

    /// Takes an exception, if it has room.
    pub fn note(&mut self, received: Received<'_>, handled: Handled, port: Option<&str>) {
        let Some(room) = self.room.checked_sub(1) else {
            self.left_out += 1;
            return;
        };
        self.room = room;
        let Received { frame, trimmed, .. } = received;
        self.taken.push(Exception {
            port: port.unwrap_or("(gone)").into(),
            handled,
            length: frame.len() + trimmed,
            head: frame.get(..HEAD).unwrap_or(frame).into(),
        });
    }

    /// The exceptions to report now.
    pub fn take(&mut self, now: Instant) -> Vec<Event> {
        let mut events: Vec<Event> = self.taken.drain(..).map(Event::Exception).collect();
        if self.is_on && self.ends.is_none_or(|ends| now >= ends) {
            self.ends = Some(now + WINDOW);
            self.room = EXCEPTIONS;
            let left_out = std::mem::take(&mut self.left_out);
            events.extend((left_out > 0).then_some(Event::ExceptionsLeftOut(left_out)));
        }
        events
    }

    /// When there is something to report even if no exception comes.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.ends.filter(|_| self.left_out > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::EventKind;
    use crate::control::events::{Next, watch};
    use crate::slowpath::outcome::Outcome;

    #[test]
    fn of_a_flood_some_exceptions_are_reported_and_the_others_counted() {
        let mut sample = Sample::default();
        let start = Instant::now();
        let (reason, outcome) = (None, Outcome::Forwarded);
        let frame = [7; 200];
        let received = Received {
            port: 1,
            frame: &frame,
            trimmed: 3,
        };
        let flood = |sample: &mut Sample, count| {
            for _ in 0..count {
                sample.note(received, Handled { reason, outcome }, Some("eth1"));
            }
        };
        let counts = |events: Vec<Event>| {
            let left_out = events.iter().filter_map(|event| match event {
                Event::ExceptionsLeftOut(count) => Some(*count),
                _ => None,
            });
            let left_out = left_out.sum::<u64>();
            (events.len() - usize::from(left_out > 0), left_out)
        };
        sample.set_on(true);
        assert_eq!(counts(sample.take(start)), (0, 0));
        flood(&mut sample, 600);
        let events = sample.take(start);
        let Some(Event::Exception(exception)) = events.first() else {
            panic!("no exception")
        };
        assert_eq!(
            (exception.length, exception.head.len(), &*exception.port),
            (203, HEAD, "eth1")
        );
        assert_eq!(counts(events), (600, 0));
        assert_eq!(sample.next_deadline(), None);
        flood(&mut sample, 10_000);
        assert_eq!(counts(sample.take(start)), (400, 0));
        let due = sample.next_deadline().unwrap();
        assert_eq!(due, start + WINDOW);
        assert_eq!(counts(sample.take(due)), (0, 9_600));
        assert_eq!(sample.next_deadline(), None);
        flood(&mut sample, 1);
        assert_eq!(counts(sample.take(due)), (1, 0));
    }

    #[test]
    fn clients_that_are_gone_are_forgotten() {
        let mut monitor = Monitor::default();
        let (one, mut routes) = watch([EventKind::Exception].into_iter().collect());
        let (other, links) = watch([EventKind::Link].into_iter().collect());
        monitor.add(one);
        monitor.add(other);
        let has = |kinds: Kinds| [EventKind::Exception, EventKind::Link].map(|kind| kinds.contains(kind));
        assert_eq!(has(monitor.kinds()), [true, true]);
        monitor.tell(Event::ExceptionsLeftOut(1));
        assert!(matches!(routes.try_next(), Some(Next::Event(_))));
        drop(links);
        assert_eq!(has(monitor.kinds()), [true, false]);
        drop(routes);
        assert_eq!(has(monitor.kinds()), [false, false]);
    }
}

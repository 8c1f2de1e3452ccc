//! Events of a running switch on their way to the clients that watch it. Each client has a queue of its own, which is
//! bounded: if the client does not keep up, it loses events, and nobody waits for it.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};

use super::api::{EventChange, EventKind, Link, NextHopState};
use crate::lfib::Made;
use crate::slowpath::Handled;

/// How many events wait for a client. A change of routes is one event here.
const QUEUE: usize = 4096;
/// How many routes the changes that wait for a client may keep in memory. A single change is always taken.
const ROUTES_HELD: usize = 1 << 20;

/// Kinds of events.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kinds(u8);

impl Kinds {
    pub const fn contains(self, kind: EventKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<EventKind> for Kinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |kinds, kind| kinds | 1 << kind as u8))
    }
}

/// Something that has happened.
#[derive(Debug)]
pub enum Event {
    Routes(Made),
    NextHop(EventChange, NextHopState),
    Link(EventChange, Box<Link>),
    Exception(Exception),
    /// So many exceptions were not reported because there were too many.
    ExceptionsLeftOut(u64),
}

/// A frame that the slow path has handled, or has begun to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exception {
    pub port: Arc<str>,
    pub handled: Handled,
    /// The length of the frame.
    pub length: usize,
    /// The beginning of the frame, without VLAN tags.
    pub head: Box<[u8]>,
}

/// An event, and when it happened.
#[derive(Debug)]
pub struct Timed {
    pub time: SystemTime,
    pub event: Event,
}

impl Event {
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Routes(_) => EventKind::Route,
            Self::NextHop(..) => EventKind::Neigh,
            Self::Link(..) => EventKind::Link,
            Self::Exception(_) | Self::ExceptionsLeftOut(_) => EventKind::Exception,
        }
    }

    /// How many events it is for a client.
    fn count(&self) -> u64 {
        match self {
            Self::Routes(made) => made.len() as u64,
            Self::ExceptionsLeftOut(count) => *count,
            Self::NextHop(..) | Self::Link(..) | Self::Exception(_) => 1,
        }
    }

    /// How many routes it keeps in memory.
    fn routes_held(&self) -> usize {
        match self {
            Self::Routes(made) => made.held(),
            _ => 0,
        }
    }
}

/// The switch's end of a client's queue. Two are equal if they have the same queue.
#[derive(Clone, Debug)]
pub struct Watcher {
    kinds: Kinds,
    queue: mpsc::Sender<Queued>,
    shared: Arc<Shared>,
}

/// The client's end.
#[derive(Debug)]
pub struct Watching {
    queue: mpsc::Receiver<Queued>,
    shared: Arc<Shared>,
    /// Taken from the queue, but not reported yet.
    ahead: Option<Arc<Timed>>,
}

#[derive(Default, Debug)]
struct Shared {
    /// Events that had no room since the last one that had.
    lost: AtomicU64,
    routes_held: AtomicUsize,
}

/// An event, and how many were lost right before it.
#[derive(Debug)]
struct Queued {
    lost: u64,
    event: Arc<Timed>,
}

/// What comes next for a client.
#[derive(Debug)]
pub enum Next {
    Event(Arc<Timed>),
    /// So many events were lost here.
    Lost(u64),
    /// The switch has ended.
    End,
}

/// A queue for events of these kinds.
pub fn watch(kinds: Kinds) -> (Watcher, Watching) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared::default());
    let watcher = Watcher {
        kinds,
        queue: sender,
        shared: Arc::clone(&shared),
    };
    let watching = Watching {
        queue: receiver,
        shared,
        ahead: None,
    };
    (watcher, watching)
}

impl PartialEq for Watcher {
    fn eq(&self, other: &Self) -> bool {
        self.queue.same_channel(&other.queue)
    }
}

impl Eq for Watcher {}

impl Watcher {
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// Whether the client has gone.
    pub fn is_gone(&self) -> bool {
        self.queue.is_closed()
    }

    /// Queues an event if it is of a kind that the client wants; if there is no room, it is lost. Never waits.
    pub fn tell(&self, event: &Arc<Timed>) {
        if !self.kinds.contains(event.event.kind()) {
            return;
        }
        let Shared { lost, routes_held } = &*self.shared;
        let (count, held) = (event.event.count(), event.event.routes_held());
        let held_before = routes_held.load(Ordering::Relaxed);
        if held > 0 && held_before > 0 && held_before + held > ROUTES_HELD {
            lost.fetch_add(count, Ordering::Relaxed);
            return;
        }
        routes_held.fetch_add(held, Ordering::Relaxed);
        let queued = Queued {
            lost: lost.swap(0, Ordering::Relaxed),
            event: Arc::clone(event),
        };
        if let Err(TrySendError::Full(queued) | TrySendError::Closed(queued)) = self.queue.try_send(queued) {
            lost.fetch_add(queued.lost + count, Ordering::Relaxed);
            routes_held.fetch_sub(held, Ordering::Relaxed);
        }
    }
}

impl Watching {
    /// Waits for what comes next. Can be dropped and called again at any time.
    pub async fn next(&mut self) -> Next {
        match self.try_next() {
            Some(next) => next,
            None => match self.queue.recv().await {
                Some(queued) => self.take(queued),
                None => Next::End,
            },
        }
    }

    /// What comes next, if it is there.
    pub fn try_next(&mut self) -> Option<Next> {
        if let Some(event) = self.ahead.take() {
            return Some(Next::Event(event));
        }
        match self.queue.try_recv() {
            Ok(queued) => Some(self.take(queued)),
            // Whatever was lost came after everything that was in the queue.
            Err(TryRecvError::Empty) => match self.shared.lost.swap(0, Ordering::Relaxed) {
                0 => None,
                lost => Some(Next::Lost(lost)),
            },
            Err(TryRecvError::Disconnected) => Some(Next::End),
        }
    }

    fn take(&mut self, Queued { lost, event }: Queued) -> Next {
        match lost {
            0 => Next::Event(event),
            lost => {
                self.ahead = Some(event);
                Next::Lost(lost)
            }
        }
    }

    /// The routes of the event are no longer needed.
    pub fn done(&self, event: &Timed) {
        let held = event.event.routes_held();
        self.shared.routes_held.fetch_sub(held, Ordering::Relaxed);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.queue.close();
        let (_, empty) = mpsc::channel(1);
        let queue = mem::replace(&mut self.queue, empty);
        // The last user of a million routes frees them, which takes too long for a thread that serves clients.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(queue));
        }
    }
}

#[cfg(test)]
mod tests {
    use mplsxdp_common::wire::Label;

    use super::*;
    use crate::lfib::{Change, Made};
    use crate::route::RouteKey;

    fn timed(event: Event) -> Arc<Timed> {
        let time = SystemTime::UNIX_EPOCH;
        Arc::new(Timed { time, event })
    }

    fn left_out(count: u64) -> Arc<Timed> {
        timed(Event::ExceptionsLeftOut(count))
    }

    fn deleted(count: u32) -> Arc<Timed> {
        let keys = (16..16 + count).map(|label| RouteKey::Label(Label::from_low_bits(label)));
        let keys = Arc::new(keys.collect());
        timed(Event::Routes(
            Made::of(Change::Delete(Arc::clone(&keys))).with_deleted(keys),
        ))
    }

    /// What is there: the numbers of events, and in brackets how many were lost.
    fn all(watching: &mut Watching) -> Vec<(char, u64)> {
        let next = std::iter::from_fn(|| watching.try_next());
        let all = next.map(|next| match next {
            Next::Event(event) => ('e', event.event.count()),
            Next::Lost(lost) => ('l', lost),
            Next::End => ('.', 0),
        });
        all.take_while(|(what, _)| *what != '.').collect()
    }

    #[test]
    fn a_client_gets_the_kinds_that_it_wants() {
        let kinds: Kinds = [EventKind::Route, EventKind::Exception].into_iter().collect();
        assert!(kinds.contains(EventKind::Route) && !kinds.contains(EventKind::Rate));
        let (watcher, mut watching) = watch([EventKind::Exception].into_iter().collect());
        watcher.tell(&deleted(3));
        watcher.tell(&left_out(7));
        assert_eq!(all(&mut watching), [('e', 7)]);
    }

    #[test]
    fn what_has_no_room_is_counted_where_it_is_missing() {
        let (watcher, mut watching) = watch([EventKind::Exception].into_iter().collect());
        for _ in 0..QUEUE {
            watcher.tell(&left_out(1));
        }
        watcher.tell(&left_out(5));
        watcher.tell(&left_out(6));
        assert!(matches!(watching.try_next(), Some(Next::Event(_))));
        watcher.tell(&left_out(2));
        let rest = all(&mut watching);
        assert_eq!(rest.len(), QUEUE - 1 + 2);
        assert_eq!(rest[QUEUE - 1..], [('l', 11), ('e', 2)]);

        // Nothing follows: it is reported all the same, once.
        for _ in 0..=QUEUE {
            watcher.tell(&left_out(1));
        }
        let rest = all(&mut watching);
        assert_eq!(rest.len(), QUEUE + 1);
        assert_eq!(rest.last(), Some(&('l', 1)));
        assert!(all(&mut watching).is_empty());

        drop(watcher);
        assert!(matches!(watching.try_next(), Some(Next::End)));
    }

    #[test]
    fn the_routes_that_wait_are_bounded_by_their_number() {
        let (watcher, mut watching) = watch([EventKind::Route].into_iter().collect());
        let large = deleted(ROUTES_HELD as u32 / 2 + 1);
        watcher.tell(&large);
        watcher.tell(&large);
        watcher.tell(&deleted(1));
        let Some(Next::Event(first)) = watching.try_next() else {
            panic!("a change alone always has room")
        };
        assert_eq!(all(&mut watching), [('l', large.event.count()), ('e', 1)]);
        watching.done(&first);
        watching.done(&deleted(1));
        watcher.tell(&large);
        assert_eq!(all(&mut watching), [('e', large.event.count())]);

        drop(watching);
        assert!(watcher.is_gone());
        watcher.tell(&large);
    }

    #[test]
    fn queues_are_told_apart() {
        let (one, _watching) = watch(Kinds::default());
        let (other, _watching) = watch(Kinds::default());
        assert!(one == one.clone() && one != other);
    }
}

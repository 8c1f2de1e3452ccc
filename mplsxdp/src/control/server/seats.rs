//! The places of clients, which are bounded for each class of caller. Root always gets one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Limits;
use crate::control::access::Class;

type Place = OwnedSemaphorePermit;

/// The places, and the clients of root.
pub struct Seats {
    places: Arc<Semaphore>,
    root_places: Arc<Semaphore>,
    view_places: Arc<Semaphore>,
    limits: Limits,
    root: Vec<Weak<State>>,
}

/// A client's place, until it is dropped or given to another client.
pub struct Seat(Arc<State>);

struct State {
    place: Mutex<Option<Place>>,
    activity: Mutex<Activity>,
    lost: CancellationToken,
}

/// What a client does now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Activity {
    /// It has sent no whole call, or does not take a reply.
    Waits { in_transaction: bool, since: Instant },
    /// The switch carries out its call.
    Calls,
}

impl Seats {
    pub fn new(limits: &Limits) -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Self {
            places: of(limits.clients),
            root_places: of(limits.root_clients),
            view_places: of(limits.view_clients),
            limits: *limits,
            root: Vec::new(),
        }
    }

    /// A place for a client of this class. The error is how many clients have places that it could take.
    pub fn take(&mut self, class: Class) -> Result<Seat, usize> {
        let free = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        let Limits {
            clients,
            root_clients,
            view_clients,
            ..
        } = self.limits;
        match class {
            Class::View => free(&self.view_places).map(Seat::new).ok_or(view_clients),
            Class::Change => free(&self.places).map(Seat::new).ok_or(clients),
            Class::Root => {
                self.root.retain(|state| state.strong_count() > 0);
                let place = free(&self.places).or_else(|| free(&self.root_places));
                let place = place.or_else(|| self.take_from_root());
                let seat = place.map(Seat::new).ok_or(clients + root_clients)?;
                self.root.push(Arc::downgrade(&seat.0));
                Ok(seat)
            }
        }
    }

    /// The place of the client of root that has waited longest, preferably without a transaction.
    fn take_from_root(&self) -> Option<Place> {
        let clients = self.root.iter().filter_map(Weak::upgrade);
        let waiting = clients.filter_map(|state| match *lock(&state.activity) {
            // One that has lost its place waits for its end.
            Activity::Calls | Activity::Waits { .. } if state.lost.is_cancelled() => None,
            Activity::Calls => None,
            waits @ Activity::Waits { .. } => Some((waits, Arc::clone(&state))),
        });
        let (_, state) = waiting.min_by_key(|&(activity, _)| activity)?;
        state.lost.cancel();
        lock(&state.place).take()
    }
}

impl Seat {
    fn new(place: Place) -> Self {
        Self(Arc::new(State {
            place: Mutex::new(Some(place)),
            activity: Mutex::new(Activity::Waits {
                in_transaction: false,
                since: Instant::now(),
            }),
            lost: CancellationToken::new(),
        }))
    }

    pub fn set(&self, activity: Activity) {
        *lock(&self.0.activity) = activity;
    }

    /// Cancelled when another client has got the place.
    pub fn lost(&self) -> CancellationToken {
        self.0.lost.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seats(clients: usize, root_clients: usize, view_clients: usize) -> Seats {
        Seats::new(&Limits {
            clients,
            root_clients,
            view_clients,
            ..Limits::default()
        })
    }

    #[test]
    fn no_class_takes_the_places_of_a_higher_one() {
        let mut seats = seats(2, 1, 1);
        let views = [Class::View; 2].map(|class| seats.take(class).map(drop).is_ok());
        assert_eq!(views, [true, true], "a place that was left is free");
        let view = seats.take(Class::View);
        assert!(view.is_ok() && seats.take(Class::View).err() == Some(1));
        let changers = [Class::Change; 2].map(|class| seats.take(class));
        assert!(changers.iter().all(Result::is_ok));
        assert_eq!(seats.take(Class::Change).err(), Some(2));
        let root = seats.take(Class::Root);
        assert!(root.is_ok());
        drop(changers);
        assert!(seats.take(Class::Root).is_ok() && seats.take(Class::Change).is_ok());
    }

    #[test]
    fn root_takes_the_place_of_the_client_of_root_that_has_waited_longest() {
        let mut seats = seats(2, 2, 0);
        let start = Instant::now();
        let waits = |seconds, in_transaction| Activity::Waits {
            in_transaction,
            since: start + Duration::from_secs(seconds),
        };
        let changer = seats.take(Class::Change).ok().unwrap();
        changer.set(waits(0, false));
        let activities = [waits(1, true), waits(3, false), Activity::Calls];
        let clients = activities.map(|activity| {
            let seat = seats.take(Class::Root).ok().unwrap();
            seat.set(activity);
            seat
        });
        let lost = || [0, 1, 2].map(|index: usize| clients[index].lost().is_cancelled());
        assert_eq!(lost(), [false; 3]);
        let next = seats.take(Class::Root).ok().unwrap();
        next.set(Activity::Calls);
        assert_eq!(lost(), [false, true, false]);
        let last = seats.take(Class::Root).ok().unwrap();
        last.set(Activity::Calls);
        assert_eq!(lost(), [true, true, false]);
        assert_eq!(
            seats.take(Class::Root).err(),
            Some(4),
            "all calls are being carried out"
        );
        assert!(!changer.lost().is_cancelled());
        // Those that lost their places have none to leave, and the third had one of root's own.
        drop(clients);
        assert!(seats.take(Class::Root).is_ok() && seats.take(Class::Change).is_err());
        drop(changer);
        assert!(seats.take(Class::Change).is_ok());
    }
}

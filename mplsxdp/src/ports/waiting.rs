//! Ports that wait for their interfaces, which are gone, not there yet, or cannot be ports for a reason that may pass.
//!
//! A waiting port keeps its name, number and settings. It is tried when an interface with its name appears or changes.
//! If the interface exists but is refused, it is tried again at growing intervals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mplsxdp_common::wire::Mac;

use super::Wish;
use crate::neighbour::LinkInfo;

/// The time between a failed attempt and the next, initially; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(16);

/// A port that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    pub name: Arc<str>,
    pub number: u16,
    pub wish: Wish,
    /// The last known values.
    pub mac: Mac,
    pub mtu: u32,
    /// It was a port before: its counters continue.
    pub was_port: bool,
    /// What it waits for.
    pub reason: String,
    /// The interfaces that it depends on, as of the last attempt.
    seen: Vec<LinkInfo>,
    retry: Retry,
}

/// When to try again, at growing intervals.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Retry {
    failures: u32,
    due: Option<Instant>,
}

impl Retry {
    pub fn at_once(now: Instant) -> Self {
        Self::at(now)
    }

    pub fn at(due: Instant) -> Self {
        Self {
            failures: 0,
            due: Some(due),
        }
    }

    /// The time until it is due.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.due.filter(|&due| due > now).map(|due| due - now)
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub fn failed(&mut self, now: Instant) {
        let pause = FIRST_RETRY * (1 << self.failures.min(10));
        self.due = Some(now + pause.min(LAST_RETRY));
        self.failures += 1;
    }
}

/// All of them.
#[derive(Default, Debug)]
pub struct WaitingPorts(Vec<Waiting>);

impl WaitingPorts {
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.0.iter_mut()
    }

    pub fn get(&self, name: &str) -> Option<&Waiting> {
        self.0.iter().find(|waiting| *waiting.name == *name)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Waiting> {
        self.0.iter_mut().find(|waiting| *waiting.name == *name)
    }

    pub fn remove(&mut self, name: &str) -> Option<Waiting> {
        let index = self.0.iter().position(|waiting| *waiting.name == *name)?;
        Some(self.0.remove(index))
    }

    pub fn add(&mut self, waiting: Waiting) {
        self.remove(&waiting.name);
        self.0.push(waiting);
    }

    /// Interfaces have changed. `standing_on` returns the interfaces that a port with this name would depend on; none
    /// if it cannot be a port now.
    pub fn follow(&mut self, standing_on: impl Fn(&str) -> Vec<LinkInfo>, now: Instant) {
        for waiting in &mut self.0 {
            let mut links = standing_on(&waiting.name);
            // Programs that come and go may be those of failed attempts.
            links.iter_mut().for_each(|link| link.xdp = None);
            if links == waiting.seen {
                continue;
            }
            waiting.retry = match links.is_empty() {
                true => Retry::default(),
                false => Retry::at_once(now),
            };
            waiting.seen = links;
        }
    }

    /// The port to try next.
    pub fn due(&self, now: Instant) -> Option<Arc<str>> {
        let due = self.0.iter().filter(|waiting| waiting.retry.is_due(now));
        due.min_by_key(|waiting| waiting.retry.due)
            .map(|waiting| waiting.name.clone())
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(|waiting| waiting.retry.due).min()
    }

    /// An attempt has failed. Returns whether the reason is new.
    pub fn failed(&mut self, name: &str, reason: String, now: Instant) -> bool {
        let Some(waiting) = self.get_mut(name) else {
            return false;
        };
        waiting.retry.failed(now);
        let is_news = waiting.reason != reason;
        waiting.reason = reason;
        is_news
    }
}

impl Waiting {
    pub fn new(name: &str, number: u16, wish: Wish, reason: String) -> Self {
        Self {
            name: name.into(),
            number,
            wish,
            mac: Mac([0; 6]),
            mtu: 0,
            was_port: false,
            reason,
            seen: Vec::new(),
            retry: Retry::default(),
        }
    }

    /// It was a port until now.
    pub fn after_port(self, mac: Mac, mtu: u32) -> Self {
        Self {
            mac,
            mtu,
            was_port: true,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;
    use crate::neighbour::fixture;

    fn link(ifindex: u32, up: bool) -> LinkInfo {
        LinkInfo {
            up,
            running: up,
            ..fixture::link(ifindex, "eth1")
        }
    }

    #[test]
    fn a_port_is_tried_when_its_interface_comes_or_changes_and_ever_more_seldom_while_it_does_not() {
        let mut ports = WaitingPorts::default();
        let wish = Wish::new(Role::TxOnly, None);
        ports.add(Waiting::new("eth1", 3, wish.clone(), "gone".into()));
        let start = Instant::now();
        ports.follow(|_| Vec::new(), start);
        assert_eq!((ports.due(start), ports.next_deadline()), (None, None));

        ports.follow(|_| vec![link(7, false)], start);
        assert_eq!(ports.due(start).as_deref(), Some("eth1"));
        assert!(ports.failed("eth1", "no".into(), start));
        assert_eq!(ports.due(start), None);
        // The same reason is not reported again.
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let next = ports.next_deadline().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
            assert!(!ports.failed("eth1", "no".into(), now));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16]);

        // It is up now; later it is another one.
        ports.follow(|_| vec![link(7, true)], now);
        assert_eq!(ports.next_deadline(), Some(now));
        ports.failed("eth1", "no".into(), now);
        ports.follow(|_| vec![link(7, true)], now);
        assert_eq!(ports.next_deadline(), Some(now + FIRST_RETRY));
        ports.follow(|_| vec![link(8, true)], now);
        assert_eq!(ports.next_deadline(), Some(now));
        ports.follow(|_| Vec::new(), now);
        assert_eq!(ports.next_deadline(), None);
        assert_eq!(
            ports.remove("eth1").map(|waiting| (waiting.number, waiting.wish)),
            Some((3, wish))
        );
    }
}

//! Neighbours that XDP sends packets of VRFs to. The kernel does not see that they are used, so nothing would make it
//! verify one that is STALE: a dead one would keep its MAC address, and get packets, for as long as it has the entry.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::NeighbourState;

/// How many neighbours are verified at once, and how soon the next ones.
pub const VERIFIED: usize = 64;
pub const VERIFY_INTERVAL: Duration = Duration::from_secs(1);

/// The neighbours to be verified.
#[derive(Default, Debug)]
pub struct Stale {
    /// The interfaces behind which XDP uses the kernel's neighbours.
    interfaces: BTreeSet<u32>,
    neighbours: BTreeSet<(u32, IpAddr)>,
    /// When the next ones may be verified.
    next: Option<Instant>,
}

impl Stale {
    /// Returns false if they are the same as before. Else, all neighbours must be noted again.
    pub fn set_interfaces(&mut self, interfaces: BTreeSet<u32>) -> bool {
        if self.interfaces == interfaces {
            return false;
        }
        self.interfaces = interfaces;
        self.neighbours.clear();
        true
    }

    /// Notes the present state of a neighbour. The kernel verifies `managed` ones by itself.
    pub fn note(&mut self, target: (u32, IpAddr), state: Option<NeighbourState>, managed: bool, now: Instant) {
        let is_stale = matches!(state, Some(NeighbourState::Stale(_))) && !managed;
        if is_stale && self.interfaces.contains(&target.0) {
            self.neighbours.insert(target);
            self.next.get_or_insert(now);
        } else {
            self.neighbours.remove(&target);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.next.filter(|_| !self.neighbours.is_empty())
    }

    /// Those that are to be verified now. The kernel reports what comes of it.
    pub fn take_due(&mut self, now: Instant) -> Vec<(u32, IpAddr)> {
        if self.next_deadline().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.next = Some(now + VERIFY_INTERVAL);
        std::iter::from_fn(|| self.neighbours.pop_first())
            .take(VERIFIED)
            .collect()
    }
}

//! Reuses slots that no entry points to any more, once no program can still read an entry that did.

use std::collections::HashMap;

use mplsxdp_common::abi::{Adjacency, RouteEntry};

use super::Lfib;
use crate::dataplane::{GracePeriod, Tables};

/// Slots of each table that no entry points to any more.
#[derive(Debug)]
pub(super) struct Freed {
    pub(super) counters: Vec<u32>,
    pub(super) stacks: Vec<u32>,
    pub(super) groups: Vec<u32>,
    pub(super) next_hops: Vec<u32>,
}

impl<T: Tables> Lfib<T> {
    /// Does what waited for grace periods that are over, and begins a new one for the slots that no entry points to any
    /// more. Call it after changes and when a grace period has ended. Returns whether buckets moved from one member of
    /// a group to another.
    pub fn reclaim(&mut self) -> bool {
        let moved_buckets = self.finish_grace_periods();
        let held_back = self.counters.has_held_back()
            || self.stacks.has_held_back()
            || self.groups.has_held_back()
            || self.next_hops.has_held_back();
        // An entry that could not be removed from the FTN table may point to any of them.
        let pointed_to = self
            .unsettled
            .values()
            .flatten()
            .any(|&entry| entry != RouteEntry::PASS);
        if !held_back || pointed_to {
            return moved_buckets;
        }
        let freed = Freed {
            counters: self.counters.take_held_back(),
            stacks: self.stacks.take_held_back(),
            groups: self.groups.take_held_back(),
            next_hops: self.next_hops.take_held_back(),
        };
        self.freed.push_back((self.tables.begin_grace_period(), freed));
        moved_buckets | self.finish_grace_periods()
    }

    /// The grace period after which slots become free that no entry points to now; `None` if there are none.
    pub fn reclaiming(&self) -> Option<GracePeriod> {
        self.freed.back().map(|&(period, _)| period)
    }

    /// Frees slots and resolves next hops whose grace period is over.
    pub(super) fn finish_grace_periods(&mut self) -> bool {
        while let Some((period, freed)) = self.freed.pop_front() {
            if !self.tables.is_over(period) {
                self.freed.push_front((period, freed));
                break;
            }
            for slot in freed.next_hops.iter().filter_map(|&slot| slot.try_into().ok()) {
                self.tables.store_adjacency(slot, Adjacency::default());
            }
            self.counters.release(&freed.counters);
            self.stacks.release(&freed.stacks);
            self.groups.release(&freed.groups);
            self.next_hops.release(&freed.next_hops);
        }
        if self.resolving.is_empty() {
            return false;
        }
        let resolving = std::mem::take(&mut self.resolving);
        let (over, waiting): (HashMap<_, _>, _) = resolving
            .into_iter()
            .partition(|&(_, (period, _))| self.tables.is_over(period));
        self.resolving = waiting;
        let mut back = Vec::with_capacity(over.len());
        for (id, (_, adjacency)) in over {
            // Nobody may use it now.
            let Some(slot) = self.next_hops.slot(id) else { continue };
            let adjacency = adjacency.with_backup(self.backup_slot(id));
            self.tables.store_adjacency(slot, adjacency);
            back.push(id);
        }
        self.take_back_in(&back)
    }
}

//! Reuses slots that no entry points to any more, once no program can still read an entry that did.

use std::collections::{BTreeSet, HashMap};

use mplsxdp_common::abi::Adjacency;

use super::Lfib;
use super::next_hops::NextHopId;
use crate::dataplane::{GracePeriod, Tables};

/// Slots of each table that no entry points to any more.
#[derive(Debug)]
pub(super) struct Freed {
    pub(super) counters: Vec<u32>,
    pub(super) stacks: Vec<u32>,
    pub(super) groups: Vec<u32>,
    pub(super) backups: Vec<u32>,
    pub(super) vrfs: Vec<u32>,
    pub(super) pseudowires: [Vec<u32>; 2],
    pub(super) next_hops: Vec<u32>,
}

/// How many slots of each table are released at once, if a grace period has taken long; the rest is released in steps.
const RELEASED: usize = 16 << 10;
/// The same for next hops that are resolved.
const RESOLVED: usize = 1 << 10;

/// Adjacencies that will replace unresolved ones once no program can still see their old contents.
#[derive(Default, Debug)]
pub(super) struct Resolving {
    by_next_hop: HashMap<NextHopId, (GracePeriod, Adjacency)>,
    /// The same in the order of their grace periods.
    in_order: BTreeSet<(GracePeriod, NextHopId)>,
}

impl Resolving {
    pub fn get(&self, id: NextHopId) -> Option<Adjacency> {
        self.by_next_hop.get(&id).map(|&(_, adjacency)| adjacency)
    }

    pub fn is_empty(&self) -> bool {
        self.by_next_hop.is_empty()
    }

    pub fn insert(&mut self, id: NextHopId, period: GracePeriod, adjacency: Adjacency) {
        self.remove(id);
        self.by_next_hop.insert(id, (period, adjacency));
        self.in_order.insert((period, id));
    }

    pub fn remove(&mut self, id: NextHopId) -> Option<Adjacency> {
        let (period, adjacency) = self.by_next_hop.remove(&id)?;
        self.in_order.remove(&(period, id));
        Some(adjacency)
    }

    /// Removes those for which it returns false.
    pub fn retain(&mut self, keeps: impl Fn(Adjacency) -> bool) {
        let in_order = &mut self.in_order;
        self.by_next_hop.retain(|&id, &mut (period, adjacency)| {
            let is_kept = keeps(adjacency);
            if !is_kept {
                in_order.remove(&(period, id));
            }
            is_kept
        });
    }

    /// The first one, and the grace period that it waits for.
    fn first(&self) -> Option<(GracePeriod, NextHopId)> {
        self.in_order.first().copied()
    }
}

impl Freed {
    /// Takes up to `most` slots of each table.
    fn take(&mut self, most: usize) -> Self {
        let some = |slots: &mut Vec<u32>| slots.split_off(slots.len().saturating_sub(most));
        Self {
            counters: some(&mut self.counters),
            stacks: some(&mut self.stacks),
            groups: some(&mut self.groups),
            backups: some(&mut self.backups),
            vrfs: some(&mut self.vrfs),
            pseudowires: self.pseudowires.each_mut().map(some),
            next_hops: some(&mut self.next_hops),
        }
    }

    fn len(&self) -> usize {
        self.counters.len()
            + self.stacks.len()
            + self.groups.len()
            + self.backups.len()
            + self.vrfs.len()
            + self.pseudowires.iter().map(Vec::len).sum::<usize>()
            + self.next_hops.len()
    }
}

impl<T: Tables> Lfib<T> {
    /// Does what waited for grace periods that are over, and begins a new one for the slots that no entry points to any
    /// more. Call it after changes and when a grace period has ended. Returns whether buckets moved from one member of
    /// a group to another.
    pub fn reclaim(&mut self) -> bool {
        // The FTN's memory may be free now, or spare. Everything else is published in steps.
        self.tables.publish_ftn(&mut |_| false);
        self.reclaim_slots();
        std::mem::take(&mut self.moved_buckets)
    }

    /// [`Lfib::reclaim`] as a part of something else.
    pub(super) fn reclaim_slots(&mut self) {
        self.finish_grace_periods();
        let held_back = self.counters.has_held_back()
            || self.stacks.has_held_back()
            || self.groups.has_held_back()
            || self.backups.has_held_back()
            || self.label_vrfs.has_held_back()
            || self.pseudowires.has_held_back()
            || self.next_hops.has_held_back();
        // An entry that is still in the FTN, or could not be removed from it, may point to any of them.
        if !held_back || self.unsettled.points_to_slots() || self.has_to_publish() {
            return;
        }
        let freed = Freed {
            counters: self.counters.take_held_back(),
            stacks: self.stacks.take_held_back(),
            groups: self.groups.take_held_back(),
            backups: self.backups.take_held_back(),
            vrfs: self.label_vrfs.take_held_back(),
            pseudowires: self.pseudowires.take_held_back(),
            next_hops: self.next_hops.take_held_back(),
        };
        self.freed.push_back((self.tables.begin_grace_period(), freed));
        self.finish_grace_periods();
    }

    /// The grace period after which slots become free that no entry points to now; `None` if there are none.
    pub fn reclaiming(&self) -> Option<GracePeriod> {
        self.freed.back().map(|&(period, _)| period)
    }

    /// Whether the slots that were to become free after this grace period are.
    pub fn is_reclaimed(&self, period: GracePeriod) -> bool {
        self.tables.is_over(period) && self.freed.front().is_none_or(|&(first, _)| first > period)
    }

    /// Whether a grace period is over whose slots are not free yet, or whose next hops are not resolved.
    pub(super) fn has_to_release(&self) -> bool {
        let freed = self.freed.front().map(|&(period, _)| period);
        let resolving = self.resolving.first().map(|(period, _)| period);
        let mut periods = freed.into_iter().chain(resolving);
        periods.any(|period| self.tables.is_over(period))
    }

    /// Frees slots and resolves next hops whose grace period is over, a bounded number at once.
    pub(super) fn finish_grace_periods(&mut self) {
        self.resolve_some();
        let mut left = RELEASED;
        while left > 0
            && let Some((period, freed)) = self.freed.front_mut()
            && self.tables.is_over(*period)
        {
            let some = freed.take(left);
            if freed.len() == 0 {
                self.freed.pop_front();
            }
            left = left.saturating_sub(some.len());
            let freed = some;
            for slot in freed.next_hops.iter().filter_map(|&slot| slot.try_into().ok()) {
                self.tables.store_adjacency(slot, Adjacency::default());
            }
            self.counters.release(&freed.counters);
            self.stacks.release(&freed.stacks);
            self.groups.release(&freed.groups);
            self.backups.release(&freed.backups);
            self.release_vrfs(&freed.vrfs);
            self.release_pseudowires(&freed.pseudowires);
            self.next_hops.release(&freed.next_hops);
        }
    }

    fn resolve_some(&mut self) {
        let mut back = Vec::new();
        for _ in 0..RESOLVED {
            let Some((_, id)) = self
                .resolving
                .first()
                .filter(|&(period, _)| self.tables.is_over(period))
            else {
                break;
            };
            let adjacency = self.resolving.remove(id);
            // Nobody may use it now.
            let (Some(adjacency), Some(slot)) = (adjacency, self.next_hops.slot(id)) else {
                continue;
            };
            let adjacency = adjacency.with_backup(self.backup_slot(id));
            self.tables.store_adjacency(slot, adjacency);
            back.push(id);
        }
        self.take_back_in(&back);
    }
}

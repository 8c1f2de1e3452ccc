//! The next hops that routes use. Each has one slot in the adjacency table, which all its routes share. A next hop with
//! a backup is a different one from the same without, because its adjacency names the backup. The backup is a next hop
//! of its own, and has the other as a user. A next hop whose backups have labels of their own is a third one: when it is
//! back, its frames may stay with the backups for a while. This is bookkeeping only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::pool::SlotPool;
pub use crate::route::NextHopId;
use crate::route::{NextHop, Via};

/// The position of a next hop in the list: by its name, then by that of its backup.
pub type Position = (NextHop, Option<NextHop>, NextHopId);

/// What stands in for a next hop that cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protection<N> {
    Nothing,
    /// A next hop that gets frames with the same labels.
    Backup(N),
    /// Backups that get frames with labels of their own. Routes with the same next hop may have different ones.
    OwnLabels,
}

impl<N> Protection<N> {
    pub fn map<M>(self, name: impl FnOnce(N) -> M) -> Protection<M> {
        match self {
            Self::Nothing => Protection::Nothing,
            Self::Backup(next_hop) => Protection::Backup(name(next_hop)),
            Self::OwnLabels => Protection::OwnLabels,
        }
    }

    pub fn backup(self) -> Option<N> {
        match self {
            Self::Backup(next_hop) => Some(next_hop),
            Self::Nothing | Self::OwnLabels => None,
        }
    }

    pub fn as_ref(&self) -> Protection<&N> {
        match self {
            Self::Nothing => Protection::Nothing,
            Self::Backup(next_hop) => Protection::Backup(next_hop),
            Self::OwnLabels => Protection::OwnLabels,
        }
    }
}

/// A next hop and its users.
#[derive(Debug)]
struct Entry {
    next_hop: NextHop,
    protection: Protection<NextHopId>,
    slot: u16,
    users: usize,
    /// It cannot be reached, and is not being resolved.
    out: bool,
    /// Its neighbour's MAC address is known.
    resolved: bool,
    /// It was known at some time.
    was_resolved: bool,
    /// It came into use, and that change has not been taken yet.
    is_news: bool,
}

/// A change in the set of next hops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NextHopChange {
    Added(NextHopId, NextHop),
    Removed(NextHopId),
}

/// All next hops in use.
#[derive(Debug)]
pub struct NextHops {
    entries: HashMap<NextHopId, Entry>,
    /// One id for each of its protections. There are equal entries if a port was renamed to a name that others waited for.
    by_next_hop: HashMap<NextHop, HashMap<Protection<NextHopId>, NextHopId>>,
    in_order: BTreeSet<Position>,
    by_slot: Vec<Option<NextHopId>>,
    /// By a backup, the next hops that have it.
    protected: BTreeMap<NextHopId, BTreeSet<NextHopId>>,
    resolved: usize,
    /// An id is not reused before all have been used, so that a late answer does not reach another next hop.
    next_id: u16,
    slots: SlotPool,
    changes: Vec<NextHopChange>,
}

impl NextHops {
    pub fn new(capacity: u32) -> Self {
        Self {
            entries: HashMap::with_capacity(capacity as usize),
            by_next_hop: HashMap::with_capacity(capacity as usize),
            in_order: BTreeSet::new(),
            by_slot: Vec::new(),
            protected: BTreeMap::new(),
            resolved: 0,
            next_id: 0,
            slots: SlotPool::new(0, capacity),
            changes: Vec::new(),
        }
    }

    /// Whether `next_hop` with this protection is in use.
    pub fn is_known(&self, next_hop: &NextHop, protection: Protection<&NextHop>) -> bool {
        let protection = match protection {
            Protection::Nothing => Protection::Nothing,
            Protection::OwnLabels => Protection::OwnLabels,
            Protection::Backup(backup) => match self.find(backup, Protection::Nothing) {
                Some(id) => Protection::Backup(id),
                None => return false,
            },
        };
        self.find(next_hop, protection).is_some()
    }

    /// Whether `next_hop` is in use, with any protection or none.
    pub fn is_in_use(&self, next_hop: &NextHop) -> bool {
        self.by_next_hop.contains_key(next_hop)
    }

    /// `next_hop`, with any protection that it is in use with.
    pub fn any_of(&self, next_hop: &NextHop) -> Option<NextHopId> {
        self.by_next_hop.get(next_hop)?.values().next().copied()
    }

    fn find(&self, next_hop: &NextHop, protection: Protection<NextHopId>) -> Option<NextHopId> {
        self.by_next_hop.get(next_hop)?.get(&protection).copied()
    }

    /// The slot of `next_hop` with this protection, with one more user; `None` if all slots are taken.
    pub fn take(&mut self, next_hop: &NextHop, protection: Protection<&NextHop>) -> Option<u16> {
        let backup = match protection.backup() {
            None => None,
            Some(backup) => {
                let slot = self.take(backup, Protection::Nothing)?;
                Some((self.id_at(slot)?, slot))
            }
        };
        let protection = match (protection, backup) {
            (Protection::OwnLabels, _) => Protection::OwnLabels,
            (_, Some((id, _))) => Protection::Backup(id),
            (_, None) => Protection::Nothing,
        };
        let found = self.find(next_hop, protection);
        if let Some(entry) = found.and_then(|id| self.entries.get_mut(&id)) {
            entry.users += 1;
            let slot = entry.slot;
            // The entry counts as one user of its backup, however many users it has itself.
            backup.map(|(_, slot)| self.drop_user(slot));
            return Some(slot);
        }
        let Some(slot) = self.take_slot() else {
            backup.map(|(_, slot)| self.drop_user(slot));
            return None;
        };
        while self.entries.contains_key(&NextHopId(self.next_id)) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = NextHopId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.entries.insert(
            id,
            Entry {
                next_hop: next_hop.clone(),
                protection,
                slot,
                users: 1,
                out: false,
                resolved: false,
                was_resolved: false,
                is_news: true,
            },
        );
        let named = self.by_next_hop.entry(next_hop.clone()).or_default();
        named.insert(protection, id);
        self.in_order.extend(self.position(id));
        if let Some(backup) = protection.backup() {
            self.protected.entry(backup).or_default().insert(id);
        }
        self.set_id_at(slot, Some(id));
        self.changes.push(NextHopChange::Added(id, next_hop.clone()));
        Some(slot)
    }

    /// Removes one user of the next hop that has `slot`. Returns whether it was the last one; the slot is then held
    /// back.
    pub fn drop_user(&mut self, slot: u16) -> bool {
        let Some(id) = self.id_at(slot) else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        entry.users -= 1;
        if entry.users > 0 {
            return false;
        }
        if let Some(position) = self.position(id) {
            self.in_order.remove(&position);
        }
        let removed = self.entries.remove(&id);
        let backup = removed.as_ref().and_then(|entry| self.slot(entry.protection.backup()?));
        // It may not be `slot`, if the next hop has moved away from that.
        let freed = removed.as_ref().map(|entry| entry.slot);
        let mut is_news = false;
        if let Some(entry) = removed {
            self.resolved -= usize::from(entry.resolved);
            is_news = entry.is_news;
            if let Some(backup) = entry.protection.backup()
                && let Some(protected) = self.protected.get_mut(&backup)
            {
                protected.remove(&id);
                if protected.is_empty() {
                    self.protected.remove(&backup);
                }
            }
            if let Some(named) = self.by_next_hop.get_mut(&entry.next_hop) {
                if named.get(&entry.protection) == Some(&id) {
                    named.remove(&entry.protection);
                }
                if named.is_empty() {
                    self.by_next_hop.remove(&entry.next_hop);
                }
            }
        }
        if let Some(slot) = freed {
            self.give_back(slot);
        }
        let is_it = |change: &NextHopChange| matches!(change, NextHopChange::Added(added, _) if *added == id);
        match is_news.then(|| self.changes.iter().rposition(is_it)).flatten() {
            // Nobody has been informed of it yet.
            Some(index) => drop(self.changes.remove(index)),
            None => self.changes.push(NextHopChange::Removed(id)),
        }
        if let Some(backup) = backup {
            self.drop_user(backup);
        }
        true
    }

    /// Applies new interface names, by the old ones, to the next hops that have them as `dev`. Slots and users stay.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        let waiting = self.changes.iter_mut().filter_map(|change| match change {
            NextHopChange::Added(_, next_hop) => Some(next_hop),
            NextHopChange::Removed(_) => None,
        });
        let next_hops = self.entries.values_mut().map(|entry| &mut entry.next_hop);
        for next_hop in next_hops.chain(waiting) {
            next_hop.rename_device(names);
        }
        self.by_next_hop.clear();
        for (&id, entry) in &self.entries {
            let named = self.by_next_hop.entry(entry.next_hop.clone()).or_default();
            named.insert(entry.protection, id);
        }
        let positions = self.entries.keys().filter_map(|&id| self.position(id));
        self.in_order = positions.collect();
    }

    fn position(&self, id: NextHopId) -> Option<Position> {
        let entry = self.entries.get(&id)?;
        let backup = entry.protection.backup().and_then(|backup| self.get(backup));
        Some((entry.next_hop.clone(), backup.cloned(), id))
    }

    /// Gives the next hop a new slot, and returns the old and the new one. The old slot is reserved until it is [given
    /// back](Self::give_back).
    pub fn move_slot(&mut self, id: NextHopId) -> Option<(u16, u16)> {
        let new = self.take_slot()?;
        let entry = self.entries.get_mut(&id)?;
        let old = std::mem::replace(&mut entry.slot, new);
        self.set_id_at(new, Some(id));
        Some((old, new))
    }

    /// Gives back a slot that no entry points to any more; it is held back.
    pub fn give_back(&mut self, slot: u16) {
        self.set_id_at(slot, None);
        self.slots.hold_back(slot.into());
    }

    /// How many more fit.
    pub fn room(&self) -> usize {
        self.slots.room()
    }

    fn id_at(&self, slot: u16) -> Option<NextHopId> {
        *self.by_slot.get(usize::from(slot))?
    }

    /// The slots that adjacencies may be in, with those that next hops have left.
    pub fn slots_in_use(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.by_slot.len() as u16
    }

    fn set_id_at(&mut self, slot: u16, id: Option<NextHopId>) {
        let slot = usize::from(slot);
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, None);
        }
        self.by_slot[slot] = id;
    }

    /// Notes whether the MAC address of the neighbour is known.
    pub fn set_resolved(&mut self, id: NextHopId, resolved: bool) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.resolved -= usize::from(entry.resolved);
            self.resolved += usize::from(resolved);
            entry.resolved = resolved;
            entry.was_resolved |= resolved;
        }
    }

    /// Whether the neighbour's MAC address is or was known.
    pub fn was_resolved(&self, id: NextHopId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.was_resolved)
    }

    #[cfg(test)]
    pub fn is_resolved(&self, id: NextHopId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.resolved)
    }

    /// Those that came into use, as long as that change has not been taken.
    pub fn unfollowed(&self) -> impl Iterator<Item = (NextHopId, &NextHop)> {
        self.changes.iter().filter_map(|change| match change {
            NextHopChange::Added(id, next_hop) => Some((*id, next_hop)),
            NextHopChange::Removed(_) => None,
        })
    }

    /// How many wait for the MAC address of their neighbour.
    pub fn unresolved(&self) -> usize {
        self.len() - self.resolved
    }

    fn take_slot(&mut self) -> Option<u16> {
        self.slots.take().and_then(|(slot, _)| slot.try_into().ok())
    }

    pub fn slot(&self, id: NextHopId) -> Option<u16> {
        self.entries.get(&id).map(|entry| entry.slot)
    }

    /// Notes whether the next hop can be reached. Returns whether that has changed.
    pub fn set_out(&mut self, id: NextHopId, out: bool) -> bool {
        let entry = self.entries.get_mut(&id);
        entry.is_some_and(|entry| std::mem::replace(&mut entry.out, out) != out)
    }

    /// Whether neither the next hop nor its backup can be reached.
    pub fn is_out(&self, id: NextHopId) -> bool {
        let out = |id: NextHopId| self.entries.get(&id).is_none_or(|entry| entry.out);
        out(id) && self.backup(id).is_none_or(out)
    }

    /// Whether both name the same neighbour. Backups do not matter, and interfaces only if both have one.
    pub fn is_same_neighbour(&self, id: NextHopId, other: NextHopId) -> bool {
        match (self.get(id), self.get(other)) {
            (Some(one), Some(other)) => {
                one.via == other.via && (one.dev.is_none() || other.dev.is_none() || one.dev == other.dev)
            }
            _ => false,
        }
    }

    pub fn backup(&self, id: NextHopId) -> Option<NextHopId> {
        self.protection(id).backup()
    }

    /// What stands in for it.
    pub fn protection(&self, id: NextHopId) -> Protection<NextHopId> {
        self.entries
            .get(&id)
            .map_or(Protection::Nothing, |entry| entry.protection)
    }

    /// The next hops that have this one as their backup.
    pub fn protected_by(&self, id: NextHopId) -> impl Iterator<Item = NextHopId> {
        self.protected.get(&id).into_iter().flatten().copied()
    }

    pub fn get(&self, id: NextHopId) -> Option<&NextHop> {
        self.entries.get(&id).map(|entry| &entry.next_hop)
    }

    /// How many users the next hop has: routes, once for each of their paths, and next hops that it is the backup of.
    pub fn users(&self, id: NextHopId) -> usize {
        self.entries.get(&id).map_or(0, |entry| entry.users)
    }

    /// The next hop that has `slot`, and its id.
    pub fn at_slot(&self, slot: u16) -> Option<(NextHopId, &NextHop)> {
        let id = self.id_at(slot)?;
        Some((id, &self.entries.get(&id)?.next_hop))
    }

    /// All next hops, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = (NextHopId, &NextHop)> {
        self.entries.iter().map(|(&id, entry)| (id, &entry.next_hop))
    }

    /// All next hops, in their order.
    #[cfg(test)]
    pub fn list(&self) -> Vec<(NextHopId, &NextHop)> {
        let mut list: Vec<_> = self.entries.iter().map(|(&id, entry)| (id, &entry.next_hop)).collect();
        list.sort_by_key(|&(id, next_hop)| (next_hop, self.backup(id).and_then(|backup| self.get(backup)), id));
        list
    }

    /// Up to `limit` next hops after `after`, in their order.
    pub fn list_after(&self, after: Option<&Position>, limit: usize) -> Vec<Position> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.in_order.range((after, Bound::Unbounded));
        rest.take(limit).cloned().collect()
    }

    /// The next hops of this name, on any interface.
    pub fn with_name(&self, via: Via) -> impl Iterator<Item = NextHopId> {
        let first = (NextHop { via, dev: None }, None, NextHopId(0));
        let rest = self.in_order.range(first..);
        rest.take_while(move |(next_hop, ..)| next_hop.via == via)
            .map(|&(.., id)| id)
    }

    /// All next hops in use; one with several protections appears once for each.
    pub fn iter(&self) -> impl Iterator<Item = &NextHop> {
        self.entries.values().map(|entry| &entry.next_hop)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What has changed and was not taken yet.
    pub fn changes(&self) -> &[NextHopChange] {
        &self.changes
    }

    /// Up to `limit` changes that were not taken yet, in their order.
    pub fn take_changes(&mut self, limit: usize) -> Vec<NextHopChange> {
        let taken: Vec<NextHopChange> = self.changes.drain(..limit.min(self.changes.len())).collect();
        for change in &taken {
            if let NextHopChange::Added(id, _) = change
                && let Some(entry) = self.entries.get_mut(id)
            {
                entry.is_news = false;
            }
        }
        taken
    }

    pub fn has_held_back(&self) -> bool {
        self.slots.has_held_back()
    }

    pub fn take_held_back(&mut self) -> Vec<u32> {
        self.slots.take_held_back()
    }

    pub fn release(&mut self, slots: &[u32]) {
        self.slots.release(slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Via;

    #[test]
    fn next_hops_are_listed_bit_by_bit_as_at_once() {
        let mut all = NextHops::new(100);
        let hop = |last| NextHop {
            via: Via::Inet([192, 0, 2, last].into()),
            dev: None,
        };
        for last in [7, 3, 9, 1] {
            all.take(&hop(last), Protection::Nothing).unwrap();
            all.take(&hop(last), Protection::Backup(&hop(200 - last))).unwrap();
        }
        let gone = all
            .find(&hop(9), Protection::Nothing)
            .and_then(|id| all.slot(id))
            .unwrap();
        assert!(all.drop_user(gone));
        all.rename_devices(&HashMap::new());
        let named: Vec<NextHopId> = all.with_name(hop(7).via).collect();
        assert_eq!(named.len(), 2);
        assert!(named.iter().all(|&id| all.get(id) == Some(&hop(7))));
        let whole: Vec<NextHopId> = all.list().into_iter().map(|(id, _)| id).collect();
        assert_eq!(whole.len(), 11);
        for limit in 1..14 {
            let mut listed: Vec<Position> = Vec::new();
            loop {
                let some = all.list_after(listed.last(), limit);
                assert!(some.len() <= limit);
                if some.is_empty() {
                    break;
                }
                listed.extend(some);
            }
            assert!(listed.iter().map(|&(.., id)| id).eq(whole.iter().copied()), "{limit}");
        }
    }
}

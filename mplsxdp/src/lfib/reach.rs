//! Where the frames of next hops go: adjacencies, and the buckets of groups. All changes are plain stores.

use std::collections::HashSet;

use mplsxdp_common::abi::{Adjacency, Domain, RouteEntry};

use super::ftn::Write;
use super::next_hops::NextHopId;
use super::pass::Wanted;
use super::plan::Budget;
use super::{Installed, Lfib, uses_next_hop};
use crate::dataplane::{FtnKey, Tables};
use crate::route::RouteKey;

/// What is known about reaching a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Frames go there.
    Resolved(Adjacency),
    /// Frames wait, or go to the backup. Groups keep their buckets: flows stay if the next hop was reachable before,
    /// and stay away if it was out.
    Unresolved,
    /// There is no route, or no neighbour: like `Unresolved`, but groups move its flows to their other members.
    Out,
}

/// Adjacency slots that next hops have left, and the progress of the walk that moves the entries which point to them.
#[derive(Default, Debug)]
pub(super) struct Leaving {
    slots: HashSet<u16>,
    /// Slots that were left since the walk began; they need another walk.
    since: HashSet<u16>,
    /// The route that the walk has reached, and how much it has done of a change that is under way.
    after: Option<RouteKey>,
    planned: usize,
}

impl Leaving {
    fn has(&self, slot: u16) -> bool {
        self.slots.contains(&slot) || self.since.contains(&slot)
    }

    fn all(&self) -> impl Iterator<Item = u16> {
        self.slots.iter().chain(&self.since).copied()
    }
}

/// How many routes are moved to another slot at once, without steps.
pub(super) const TURNED_AT_ONCE: usize = 16 << 10;

impl From<Option<Adjacency>> for Reach {
    fn from(adjacency: Option<Adjacency>) -> Self {
        adjacency.map_or(Self::Unresolved, Self::Resolved)
    }
}

impl<T: Tables> Lfib<T> {
    /// Sets where the frames of a next hop go. If only the neighbour's MAC address changes, or its frames go to its
    /// backup, this is one store, however many routes use it.
    pub fn set_next_hop(&mut self, id: NextHopId, reach: impl Into<Reach>) {
        self.set_next_hops([(id, reach)]);
    }

    /// [`Lfib::set_next_hop`] for several: at most two grace periods and one walk through the routes for all of them.
    /// [`Lfib::reclaim`] resolves those that must wait for a grace period. Returns whether buckets moved from one
    /// member of a group to another.
    pub fn set_next_hops<R: Into<Reach>>(&mut self, next_hops: impl IntoIterator<Item = (NextHopId, R)>) -> bool {
        let next_hops: Vec<(NextHopId, Reach)> = next_hops.into_iter().map(|(id, reach)| (id, reach.into())).collect();
        // Flows leave a member before its adjacency is removed, and return after it is back.
        let gone = next_hops.iter().filter(|(_, reach)| *reach == Reach::Out);
        let gone = gone.fold(false, |news, &(id, _)| self.next_hops.set_out(id, true) | news);
        let mut moved_buckets = gone && self.move_buckets();

        let mut moved = Vec::new();
        let mut later = Vec::new();
        for &(id, reach) in &next_hops {
            let Some(slot) = self.next_hops.slot(id) else { continue };
            if !matches!(reach, Reach::Resolved(_)) {
                self.unresolve_left(id);
            }
            self.next_hops.set_resolved(id, matches!(reach, Reach::Resolved(_)));
            let backup = self.backup_slot(id);
            let old = self.tables.adjacency(slot);
            let unused = Adjacency::default().with_backup(backup);
            let unresolved = unresolved(old);
            let new = match reach {
                Reach::Resolved(adjacency) => adjacency.with_backup(backup),
                Reach::Unresolved | Reach::Out => unresolved,
            };
            match self.resolving.get(&id) {
                Some((_, awaited)) if Reach::Resolved(*awaited) == reach => continue,
                _ => self.resolving.remove(&id),
            };
            // An unresolved adjacency has no port; the port comes with the MAC address.
            let same_port = !old.is_resolved() || old.port() == new.port();
            let same_link = same_port && old.words()[1..] == new.words()[1..];
            // Nobody has read more than one word of an all-zero slot: a new next hop gets its frames at once.
            if !new.is_resolved() || same_link || old == unused {
                self.tables.store_adjacency(slot, new);
            } else if !old.is_resolved() {
                // The rest of an unresolved adjacency is not read once the programs that saw it resolved have finished.
                later.push((id, new));
            } else if let Some((old_slot, new_slot)) = self.next_hops.move_slot(id) {
                // The port changes: write a new slot, then move all entries to it, one store each.
                self.tables.store_adjacency(new_slot, new);
                moved.push(old_slot);
            } else {
                // No slot is left: unresolved for one grace period, then rewritten in place.
                self.tables.store_adjacency(slot, unresolved);
                later.push((id, new));
            }
        }
        if !later.is_empty() {
            let period = self.tables.begin_grace_period();
            let later = later.into_iter();
            self.resolving
                .extend(later.map(|(id, adjacency)| (id, (period, adjacency.with_backup(None)))));
        }
        if !moved.is_empty() {
            self.leave(moved);
            moved_buckets |= self.reclaim();
        }
        let back = next_hops
            .iter()
            .filter(|(id, reach)| matches!(reach, Reach::Resolved(_)) && !self.resolving.contains_key(id));
        let back: Vec<NextHopId> = back.map(|&(id, _)| id).collect();
        moved_buckets |= self.take_back_in(&back);
        moved_buckets | self.finish_grace_periods()
    }

    /// Flows return to these, whose adjacencies are back. Returns whether buckets moved.
    pub(super) fn take_back_in(&mut self, next_hops: &[NextHopId]) -> bool {
        let back = next_hops.iter();
        let back = back.fold(false, |news, &id| self.next_hops.set_out(id, false) | news);
        back && self.move_buckets()
    }

    pub(super) fn backup_slot(&self, id: NextHopId) -> Option<u16> {
        self.next_hops.backup(id).and_then(|backup| self.next_hops.slot(backup))
    }

    /// Moves the buckets of all groups to members that can be reached, one store each. Returns whether any moved.
    fn move_buckets(&mut self) -> bool {
        let next_hops = &self.next_hops;
        let moved = self.groups.follow(|id| next_hops.is_out(id));
        for &group in &moved {
            self.write_buckets(group);
        }
        !moved.is_empty()
    }

    /// Writes the buckets of a group that are not up to date.
    pub(super) fn write_buckets(&mut self, group: u32) {
        let (Some(members), Some(spread)) = (self.groups.members(group), self.groups.spread(group)) else {
            return;
        };
        let entries: Vec<RouteEntry> = members
            .iter()
            .map(|member| match self.next_hops.slot(member.next_hop) {
                Some(slot) => member.entry().with_next_hop(slot),
                None => RouteEntry::EMPTY,
            })
            .collect();
        for (bucket, &member) in (0..=u8::MAX).zip(spread) {
            let entry = entries.get(usize::from(member)).copied().unwrap_or_default();
            if self.tables.bucket(group, bucket) != entry {
                self.tables.store_bucket(group, bucket, entry);
            }
        }
    }

    /// What still points to a slot that the next hop has left must no longer use the old port.
    fn unresolve_left(&mut self, id: NextHopId) {
        let left = self.leaving.all();
        let of_it = left.filter(|&slot| self.next_hops.at_slot(slot).is_some_and(|(at, _)| at == id));
        for slot in of_it.collect::<Vec<_>>() {
            let adjacency = unresolved(self.tables.adjacency(slot));
            self.tables.store_adjacency(slot, adjacency);
        }
    }

    /// Moves everything that points to one of these slots, which next hops have left, to their new slots: buckets and
    /// protected next hops at once, entries in steps. Entries that have not been moved use the old slot until then.
    fn leave(&mut self, slots: impl IntoIterator<Item = u16>) {
        match self.leaving.slots.is_empty() {
            true => self.leaving.slots.extend(slots),
            false => self.leaving.since.extend(slots),
        }
        let left: Vec<u16> = self.leaving.all().collect();
        for slot in self.next_hops.protected().chain(left).collect::<Vec<_>>() {
            self.note_backup(slot);
        }
        for group in self.groups.slots() {
            self.write_buckets(group);
        }
        self.turn_step(&mut Budget::new(self.turned_at_once, &mut || false));
    }

    /// Whether entries point to slots that their next hops have left.
    pub(super) fn has_to_turn(&self) -> bool {
        !self.leaving.slots.is_empty()
    }

    /// `entry` with the current slot of its next hop.
    pub(super) fn turned(&self, entry: RouteEntry) -> RouteEntry {
        if !uses_next_hop(entry) || !self.leaving.has(entry.next_hop()) {
            return entry;
        }
        let id = self.next_hops.at_slot(entry.next_hop()).map(|(id, _)| id);
        match id.and_then(|id| self.next_hops.slot(id)) {
            Some(slot) => entry.with_next_hop(slot),
            None => entry,
        }
    }

    pub(super) fn with_turned(&self, route: Installed) -> Installed {
        let entry = self.turned(route.entry);
        Installed { entry, ..route }
    }

    /// Moves some of the entries that point to slots that their next hops have left.
    pub(super) fn turn_step(&mut self, budget: &mut Budget<'_>) {
        while self.has_to_turn() && self.turn_routes(budget) && self.turn_plan(budget) {
            if !self.unsettled.is_empty() {
                // What still points to the old slots must not use the old port.
                for &old in &self.leaving.slots {
                    let adjacency = unresolved(self.tables.adjacency(old));
                    self.tables.store_adjacency(old, adjacency);
                }
            }
            let left = std::mem::take(&mut self.leaving.since);
            for slot in std::mem::replace(&mut self.leaving.slots, left) {
                self.next_hops.give_back(slot);
            }
            (self.leaving.after, self.leaving.planned) = (None, 0);
        }
    }

    /// Returns whether all are done.
    fn turn_routes(&mut self, budget: &mut Budget<'_>) -> bool {
        let domains: Vec<Domain> = self.pass.domains().collect();
        let mut turned = Vec::new();
        let mut is_all = true;
        let mut after = self.leaving.after;
        for (&key, installed) in self.rest(after) {
            if !budget.is_left() {
                is_all = false;
                break;
            }
            after = Some(key);
            let entry = self.turned(installed.entry);
            let mut cost = 1;
            if entry != installed.entry {
                turned.push((key, entry));
                cost = if matches!(key, RouteKey::Prefix(_)) {
                    4 * domains.len()
                } else {
                    1
                };
            }
            budget.spend(cost);
        }
        self.leaving.after = after;
        for (key, entry) in turned {
            let Some(installed) = self.routes.get_mut(&key) else {
                continue;
            };
            let held = std::mem::replace(&mut installed.entry, entry);
            match key {
                RouteKey::Label(label) => self.tables.store_ilm(label, entry),
                RouteKey::Prefix(fec) => {
                    for key in domains.iter().map(|&domain| FtnKey::new(domain, fec.prefix)) {
                        if self.pass.wanted(key) != Wanted::Route(fec) || self.unsettled.contains_key(&key) {
                            continue;
                        }
                        let (held, wanted) = (Some(held), Some(entry));
                        if let Err(error) = self.write_ftn(Write { key, held, wanted }) {
                            tracing::error!(%fec, %error, "cannot move a route to another port; its packets wait");
                        }
                    }
                }
            }
        }
        is_all
    }

    /// The same for what a change that is under way has reserved.
    fn turn_plan(&mut self, budget: &mut Budget<'_>) -> bool {
        let Some(mut plan) = self.plan.take() else { return true };
        let mut is_all = true;
        let mut planned = self.leaving.planned;
        for entry in plan.entries_mut(planned) {
            if !budget.is_left() {
                is_all = false;
                break;
            }
            if let Some(entry) = entry {
                *entry = self.turned(*entry);
            }
            planned += 1;
            budget.spend(1);
        }
        self.leaving.planned = planned;
        self.plan = Some(plan);
        is_all
    }

    /// Sets the backup in the adjacency in `slot`.
    pub(super) fn note_backup(&mut self, slot: u16) {
        let backup = self
            .next_hops
            .at_slot(slot)
            .and_then(|(id, _)| self.next_hops.backup(id));
        let noted = self.tables.adjacency(slot);
        let named = noted.with_backup(backup.and_then(|backup| self.next_hops.slot(backup)));
        if named != noted {
            self.tables.store_adjacency(slot, named);
        }
    }
}

/// The same adjacency without a neighbour; one word differs.
fn unresolved(adjacency: Adjacency) -> Adjacency {
    let [_, link, tags, rest] = adjacency.words();
    Adjacency::from_words([0, link, tags, rest])
}

//! Where the frames of next hops go: adjacencies, and the buckets of groups. All changes are plain stores.

use std::collections::{BTreeMap, BTreeSet};

use mplsxdp_common::abi::{Adjacency, Domain, RouteEntry};

use super::ftn::Write;
use super::next_hops::{NextHopId, Protection};
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
    /// Each with its next hop.
    slots: BTreeMap<u16, NextHopId>,
    /// Slots that were left since the walk began; they need another walk.
    since: BTreeMap<u16, NextHopId>,
    /// All of them by next hop.
    by_next_hop: BTreeSet<(NextHopId, u16)>,
    /// The route that the walk has reached, and how much it has done of a change that is under way.
    after: Option<RouteKey>,
    planned: usize,
    /// The next hops whose pairs still have to be moved, each with the last one that was.
    pairs: BTreeMap<NextHopId, Option<u32>>,
}

impl Leaving {
    fn has(&self, slot: u16) -> bool {
        self.slots.contains_key(&slot) || self.since.contains_key(&slot)
    }

    fn all(&self) -> impl Iterator<Item = u16> {
        self.slots.keys().chain(self.since.keys()).copied()
    }

    /// The slots that this next hop has left.
    fn of(&self, id: NextHopId) -> impl Iterator<Item = u16> {
        self.by_next_hop.range((id, 0)..=(id, u16::MAX)).map(|&(_, slot)| slot)
    }

    fn add(&mut self, id: NextHopId, slot: u16) {
        match self.slots.is_empty() {
            true => self.slots.insert(slot, id),
            false => self.since.insert(slot, id),
        };
        self.by_next_hop.insert((id, slot));
    }

    /// The walk is done. Returns the slots to which nothing points any more.
    fn end_walk(&mut self) -> impl Iterator<Item = u16> + use<> {
        let left = std::mem::take(&mut self.since);
        let done = std::mem::replace(&mut self.slots, left);
        for (&slot, &id) in &done {
            self.by_next_hop.remove(&(id, slot));
        }
        (self.after, self.planned) = (None, 0);
        done.into_keys()
    }
}

/// Groups whose buckets do not yet follow their next hops, which have failed, come back or moved to another slot.
#[derive(Default, Debug)]
pub(super) struct StaleGroups {
    /// Next hops whose groups are still to be found, each with the last one that was.
    next_hops: BTreeMap<NextHopId, Option<u32>>,
    found: BTreeSet<u32>,
}

/// How much is done at once for groups: about a millisecond's work.
pub(super) const AT_ONCE: usize = 2048;
/// What it takes to look at a group and all of its buckets, in operations.
const GROUP: usize = 4;

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
        let gone = next_hops
            .iter()
            .filter(|(_, reach)| *reach == Reach::Out)
            .map(|&(id, _)| id);
        let gone: Vec<NextHopId> = gone.filter(|&id| self.next_hops.set_out(id, true)).collect();
        self.move_buckets(&gone);

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
            match self.resolving.get(id) {
                Some(awaited) if Reach::Resolved(awaited) == reach => continue,
                _ => self.resolving.remove(id),
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
                moved.push((id, old_slot));
            } else {
                // No slot is left: unresolved for one grace period, then rewritten in place.
                self.tables.store_adjacency(slot, unresolved);
                later.push((id, new));
            }
        }
        if !later.is_empty() {
            let period = self.tables.begin_grace_period();
            for (id, adjacency) in later {
                self.resolving.insert(id, period, adjacency.with_backup(None));
            }
        }
        if !moved.is_empty() {
            self.leave(&moved);
            self.reclaim_slots();
        }
        let back = next_hops
            .iter()
            .filter(|(id, reach)| matches!(reach, Reach::Resolved(_)) && self.resolving.get(*id).is_none());
        let back: Vec<NextHopId> = back.map(|&(id, _)| id).collect();
        self.take_back_in(&back);
        self.finish_grace_periods();
        std::mem::take(&mut self.moved_buckets)
    }

    /// Takes the neighbour out of every adjacency whose port has failed, at once: frames go to the backups, or wait. The
    /// next hops are to be [set](Lfib::set_next_hops) afterwards, also if the port is back.
    pub fn fail_ports(&mut self, has_failed: impl Fn(u16) -> bool) {
        for slot in self.next_hops.slots_in_use() {
            let adjacency = self.tables.adjacency(slot);
            if adjacency.is_resolved() && has_failed(adjacency.port()) {
                self.tables.store_adjacency(slot, unresolved(adjacency));
            }
        }
        self.resolving.retain(|adjacency| !has_failed(adjacency.port()));
    }

    /// Whether a next hop that can be reached gets no frames yet: a program may still see its adjacency as it was before.
    pub fn is_resolving(&self, id: NextHopId) -> bool {
        self.resolving.get(id).is_some()
    }

    /// Whether there is such a next hop.
    pub fn has_resolving(&self) -> bool {
        !self.resolving.is_empty()
    }

    /// Whether frames for this next hop go to its neighbour now.
    pub fn is_reached(&self, id: NextHopId) -> bool {
        let slot = self.next_hops.slot(id);
        slot.is_some_and(|slot| self.tables.adjacency(slot).is_resolved())
    }

    /// Whether a next hop is back, and all of its backups get its frames until they return.
    pub fn may_return_later(&self, id: NextHopId) -> bool {
        let is_back = self.next_hops.was_resolved(id) && !self.is_reached(id) && !self.is_resolving(id);
        is_back && self.has_stand_ins(id)
    }

    /// Whether a next hop has backups, and all of them can be reached.
    pub fn has_stand_ins(&self, id: NextHopId) -> bool {
        match self.next_hops.protection(id) {
            Protection::Nothing => false,
            Protection::Backup(backup) => self.is_reached(backup),
            Protection::OwnLabels => {
                let mut backups = self.backups.of(id).peekable();
                backups.peek().is_some() && backups.all(|backup| self.is_reached(backup))
            }
        }
    }

    /// Flows return to these, whose adjacencies are back.
    pub(super) fn take_back_in(&mut self, next_hops: &[NextHopId]) {
        let back = next_hops.iter().copied();
        let back: Vec<NextHopId> = back.filter(|&id| self.next_hops.set_out(id, false)).collect();
        self.move_buckets(&back);
    }

    pub(super) fn backup_slot(&self, id: NextHopId) -> Option<u16> {
        self.next_hops.backup(id).and_then(|backup| self.next_hops.slot(backup))
    }

    /// Moves the buckets of the groups that have these next hops, which have failed or are back, to members that can be
    /// reached, one store each. If there are many groups, the rest follows in steps.
    fn move_buckets(&mut self, changed: &[NextHopId]) {
        if changed.is_empty() {
            return;
        }
        for &id in changed {
            // A next hop with this one as its backup may be out as well.
            let protected = self.next_hops.protected_by(id).map(|id| (id, None));
            self.stale_groups.next_hops.extend(protected.chain([(id, None)]));
        }
        self.follow_groups(&mut Budget::new(self.followed_at_once, &mut || false));
    }

    /// Whether the buckets of groups do not follow their next hops yet. Nothing is more urgent: frames are lost.
    pub fn has_stale_groups(&self) -> bool {
        !self.stale_groups.next_hops.is_empty() || !self.stale_groups.found.is_empty()
    }

    /// Has the buckets of some of these groups follow.
    pub fn follow_groups(&mut self, budget: &mut Budget<'_>) {
        while budget.is_left() {
            if let Some(mut next_hop) = self.stale_groups.next_hops.first_entry() {
                match self.groups.next_with(*next_hop.key(), *next_hop.get()) {
                    Some(group) => {
                        next_hop.insert(Some(group));
                        self.stale_groups.found.insert(group);
                    }
                    None => drop(next_hop.remove()),
                }
                budget.spend(1);
            } else if let Some(group) = self.stale_groups.found.pop_first() {
                self.follow_group(group);
                budget.spend(GROUP);
            } else {
                break;
            }
        }
    }

    pub(super) fn follow_group(&mut self, group: u32) {
        let next_hops = &self.next_hops;
        self.moved_buckets |= self.groups.follow(group, |id| next_hops.is_out(id));
        self.write_buckets(group);
    }

    /// Writes the buckets of a group that are not up to date.
    pub(super) fn write_buckets(&mut self, group: u32) {
        let (Some(members), Some(spread)) = (self.groups.members(group), self.groups.spread(group)) else {
            return;
        };
        let entries: Vec<RouteEntry> = members
            .iter()
            .map(|member| match self.next_hops.slot(member.next_hop) {
                Some(slot) if uses_next_hop(member.entry()) => member.entry().with_next_hop(slot),
                Some(_) => member.entry(),
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

    /// Writes the entries of a pair, if they are not up to date.
    pub(super) fn write_pair(&mut self, slot: u32) {
        let Some(pair) = self.backups.get(slot) else { return };
        let entries = pair.entries().map(|(entry, id)| match self.next_hops.slot(id) {
            Some(slot) => entry.with_next_hop(slot),
            None => RouteEntry::EMPTY,
        });
        self.tables.store_pair(slot, entries);
    }

    /// What still points to a slot that the next hop has left must no longer use the old port.
    fn unresolve_left(&mut self, id: NextHopId) {
        for slot in self.leaving.of(id) {
            let adjacency = unresolved(self.tables.adjacency(slot));
            self.tables.store_adjacency(slot, adjacency);
        }
    }

    /// Moves everything that points to these slots, which their next hops have left, to their new slots: protected next
    /// hops and some groups at once, the rest in steps. What has not been moved uses the old slot until then.
    fn leave(&mut self, slots: &[(NextHopId, u16)]) {
        for &(id, slot) in slots {
            self.leaving.add(id, slot);
            if self.backups.next_with(id, None).is_some() {
                self.leaving.pairs.insert(id, None);
            }
            self.stale_groups.next_hops.insert(id, None);
        }
        let protected = slots.iter().flat_map(|&(id, _)| self.next_hops.protected_by(id));
        let protected = protected.filter_map(|id| self.next_hops.slot(id));
        for slot in protected.chain(self.leaving.all()).collect::<Vec<_>>() {
            self.note_backup(slot);
        }
        self.follow_groups(&mut Budget::new(self.followed_at_once, &mut || false));
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
        while self.has_to_turn()
            && self.turn_groups(budget)
            && self.turn_pairs(budget)
            && self.turn_routes(budget)
            && self.turn_plan(budget)
        {
            if !self.unsettled.is_empty() {
                // What still points to the old slots must not use the old port.
                for &old in self.leaving.slots.keys() {
                    let adjacency = unresolved(self.tables.adjacency(old));
                    self.tables.store_adjacency(old, adjacency);
                }
            }
            for slot in self.leaving.end_walk() {
                self.next_hops.give_back(slot);
            }
        }
    }

    /// Returns whether all groups follow.
    fn turn_groups(&mut self, budget: &mut Budget<'_>) -> bool {
        self.follow_groups(budget);
        !self.has_stale_groups()
    }

    /// Returns whether all pairs have the current slots of their next hops.
    fn turn_pairs(&mut self, budget: &mut Budget<'_>) -> bool {
        while budget.is_left()
            && let Some(mut next_hop) = self.leaving.pairs.first_entry()
        {
            match self.backups.next_with(*next_hop.key(), *next_hop.get()) {
                Some(pair) => {
                    next_hop.insert(Some(pair));
                    self.write_pair(pair);
                }
                None => drop(next_hop.remove()),
            }
            budget.spend(1);
        }
        self.leaving.pairs.is_empty()
    }

    /// Returns whether all are done.
    fn turn_routes(&mut self, budget: &mut Budget<'_>) -> bool {
        let domains: Vec<Domain> = self.pass.domains().collect();
        let mut turned = Vec::new();
        let mut is_all = true;
        let mut after = self.leaving.after;
        for (key, installed) in self.rest(after) {
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
        let before = std::mem::replace(&mut self.leaving.after, after);
        let mut done = before;
        for (key, entry) in turned {
            if self.tables.needs_publishing() {
                self.leaving.after = done;
                is_all = false;
                break;
            }
            done = Some(key);
            let Some(installed) = self.routes.get_mut(key) else {
                continue;
            };
            let held = std::mem::replace(&mut installed.entry, entry);
            match key {
                RouteKey::Label(label) => self.tables.store_ilm(label, entry),
                RouteKey::Attachment(port) => self.store_attachment(port, entry),
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
        is_all && self.publish_step(budget)
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

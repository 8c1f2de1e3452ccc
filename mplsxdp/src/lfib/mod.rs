//! The label forwarding information base: the routes as they are wanted, and the table writes that make them so. A change is
//! all or nothing: everything that can fail is done before the first label is published. Pure: what it writes to is a trait.

pub mod counters;
pub mod groups;
pub mod next_hops;
pub mod pass;
pub mod pool;
pub mod route;
pub mod spread;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::num::NonZeroU8;
use std::ops::Bound;
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::{Adjacency, Counter, IlmEntry, LabelStack, Op, TtlPropagate};
use mplsxdp_common::wire::Label;

use crate::dataplane::{GracePeriod, TableError, Tables};
use counters::{Counters, Total};
use groups::{Before, Groups, Member};
use next_hops::{NextHopChange, NextHopId, NextHops};
use pass::{Claim, Laid, PassEntries, Wanted};
use pool::Interner;
use route::{Action, Attributes, NextHop, OutLabels, Owner, Path, Route, RouteKey};
use spread::Spread;

/// A route as it is kept: the entry in the table says all of it, with the shared tables that it points into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Installed {
    entry: IlmEntry,
    owner: Owner,
    attributes: Attributes,
}

/// Every route, and the tables that carry them out.
#[derive(Debug)]
pub struct Lfib<T> {
    tables: T,
    routes: BTreeMap<RouteKey, Installed>,
    label_routes: usize,
    uncounted: usize,
    next_hops: NextHops,
    stacks: Interner<LabelStack>,
    groups: Groups,
    counters: Counters,
    pass: PassEntries,
    /// The prefixes at which the FTN table does not hold what is wanted, as a write has failed, and what it holds there.
    unsettled: BTreeMap<IpNet, Option<IlmEntry>>,
    /// How many pass entries are written or removed in one step, where that can be done bit by bit.
    step: usize,
    /// Slots that programs may still use, in the order of their grace periods.
    freed: VecDeque<(GracePeriod, Freed)>,
    /// Adjacencies that will be written in place of unresolved ones once no program can have seen those resolved.
    resolving: HashMap<NextHopId, (GracePeriod, Adjacency)>,
}

/// Slots of each table that no entry points to any more.
#[derive(Debug)]
struct Freed {
    counters: Vec<u32>,
    stacks: Vec<u32>,
    groups: Vec<u32>,
    next_hops: Vec<u32>,
}

/// How many pass entries one step takes: it holds the event loop for about a millisecond.
const STEP: usize = 128;
/// Routes that one step looks at.
const STEP_ROUTES: usize = 16 << 10;

/// How given routes meet those that are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Each must be new.
    Add,
    /// Each is added or takes another's place.
    Replace,
    /// As `Replace`; what is not given goes, if the owner sweeps it. Mark and sweep: what stays is not touched.
    ReplaceAll,
}

/// What a change did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub added: usize,
    pub replaced: usize,
    pub deleted: usize,
}

/// Why a change was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("{key} has a route already")]
    Exists { index: usize, key: RouteKey },
    #[error("{key} has no route")]
    Missing { index: usize, key: RouteKey },
    #[error("{key} is given twice, first as number {}", first + 1)]
    Twice { index: usize, first: usize, key: RouteKey },
    #[error("label {label} is beyond this switch's labels, 16 to {}: start it with a larger `--labels`", capacity - 1)]
    BeyondLabels { index: usize, label: Label, capacity: u32 },
    #[error(
        "no room for another {what}: all {capacity} are in use (what is replaced is there until the new is){remedy}"
    )]
    Full {
        index: usize,
        what: &'static str,
        capacity: u32,
        remedy: &'static str,
    },
    #[error(transparent)]
    Table(#[from] TableError),
}

impl ChangeError {
    /// Which of the given routes or keys it was.
    pub fn index(&self) -> Option<usize> {
        match self {
            Self::Exists { index, .. }
            | Self::Missing { index, .. }
            | Self::Twice { index, .. }
            | Self::BeyondLabels { index, .. }
            | Self::Full { index, .. } => Some(*index),
            Self::Table(_) => None,
        }
    }
}

/// A route and what there is to tell about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub route: Route,
    pub owner: Owner,
    /// Of each path of the route, in their order; none for `dev lo`.
    pub next_hops: Vec<NextHopId>,
    /// 0: not counted.
    pub counter_slot: u32,
}

/// Next hops that routes have and nobody uses yet: the first route of each, the next hop, its backup.
#[derive(Default, Debug)]
pub struct NewNextHops<'a>(Vec<(usize, &'a NextHop, Option<&'a NextHop>)>);

impl<'a> NewNextHops<'a> {
    /// Each with its route, and the backups as well.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &'a NextHop)> {
        self.0.iter().flat_map(|&(index, next_hop, backup)| {
            [Some(next_hop), backup]
                .into_iter()
                .flatten()
                .map(move |hop| (index, hop))
        })
    }
}

/// A route that may be chosen: what is known of it at no cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub key: RouteKey,
    pub attributes: Attributes,
    entry: IlmEntry,
}

impl Candidate {
    fn new((&key, installed): (&RouteKey, &Installed)) -> Self {
        Self {
            key,
            attributes: installed.attributes,
            entry: installed.entry,
        }
    }
}

/// The entries that lead to certain next hops, backups aside: see [`Lfib::ways`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ways {
    slots: HashSet<u16>,
    groups: HashSet<u32>,
    local: bool,
}

impl Ways {
    /// Whether any path of the route leads there.
    pub fn include(&self, route: &Candidate) -> bool {
        match route.entry.op() {
            Op::Group => self.groups.contains(&route.entry.operand()),
            Op::Local => self.local,
            _ => uses_next_hop(route.entry) && self.slots.contains(&route.entry.next_hop()),
        }
    }
}

/// What is known of the way to a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Frames go there.
    Resolved(Adjacency),
    /// Frames wait, or go to the backup. Whether a group sends flows there stays as it was: they do at first, and no more after
    /// it was out.
    Unresolved,
    /// There is no way, or nobody there: as `Unresolved`, and groups send its flows to their other members.
    Out,
}

impl From<Option<Adjacency>> for Reach {
    fn from(adjacency: Option<Adjacency>) -> Self {
        adjacency.map_or(Self::Unresolved, Self::Resolved)
    }
}

/// A route that is about to be installed. It holds its share of each table.
struct Prepared {
    key: RouteKey,
    entry: IlmEntry,
    attributes: Attributes,
    before: Option<IlmEntry>,
}

/// One prefix of the FTN table: what it holds, and what it is to hold.
#[derive(Clone, Copy, Debug)]
struct Write {
    prefix: IpNet,
    held: Option<IlmEntry>,
    wanted: Option<IlmEntry>,
}

impl Write {
    /// The order in which every address sees the change as one step: entries that are written go from long prefixes to short
    /// ones, and then those that are removed from short to long. So an address has its old entry until it has its new one.
    fn order(&self) -> (bool, u8) {
        let length = self.prefix.prefix_len();
        match self.wanted {
            Some(_) => (false, u8::MAX - length),
            None => (true, length),
        }
    }
}

impl<T: Tables> Lfib<T> {
    pub fn new(tables: T) -> Self {
        let capacity = tables.capacity();
        Self {
            tables,
            routes: BTreeMap::new(),
            label_routes: 0,
            uncounted: 0,
            next_hops: NextHops::new(capacity.adjacencies),
            stacks: Interner::new(capacity.stacks),
            groups: Groups::new(capacity.groups),
            counters: Counters::new(capacity.counter_slots),
            pass: PassEntries::default(),
            unsettled: BTreeMap::new(),
            step: STEP,
            freed: VecDeque::new(),
            resolving: HashMap::new(),
        }
    }

    pub fn tables(&self) -> &T {
        &self.tables
    }

    pub fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    pub fn label_routes(&self) -> usize {
        self.label_routes
    }

    pub fn prefix_routes(&self) -> usize {
        self.routes.len() - self.label_routes
    }

    /// Routes that found no counter slot.
    pub fn uncounted_routes(&self) -> usize {
        self.uncounted
    }

    pub fn stacks_in_use(&self) -> usize {
        self.stacks.len()
    }

    pub fn groups_in_use(&self) -> usize {
        self.groups.len()
    }

    /// What a route has counted, `None` if it has no counter slot.
    pub fn counter(&self, route: &Listed) -> Option<Result<Counter, TableError>> {
        let slot = route.counter_slot;
        let raw = (slot != 0).then(|| self.tables.route_counter(slot))?;
        Some(raw.map(|raw| self.counters.since_taken(slot, raw)))
    }

    /// Begins to add up what all routes have forwarded, those that are gone included. What was popped for this box counts for
    /// the route that it leaves by, if there is one.
    pub fn forwarded(&mut self) -> Arc<Total> {
        self.counters.total()
    }

    pub fn next_hops(&self) -> &NextHops {
        &self.next_hops
    }

    /// For a route with several paths, which of them, by their order, gets the frames of each bucket now.
    pub fn spread(&self, key: RouteKey) -> Option<&Spread> {
        let entry = self.routes.get(&key)?.entry;
        if entry.op() == Op::Group {
            self.groups.spread(entry.operand())
        } else {
            None
        }
    }

    /// Next hops that came into use or went out of it since the last call.
    pub fn take_next_hop_changes(&mut self) -> Vec<NextHopChange> {
        self.next_hops.take_changes()
    }

    /// The next hops of `routes` that nobody uses yet, each once; or that there is no room for them. Ends with the first that
    /// has no room, however many routes there are.
    pub fn new_next_hops<'a>(&mut self, routes: &'a [Route]) -> Result<NewNextHops<'a>, ChangeError> {
        self.reclaim();
        let room = self.next_hops.room();
        let mut new = NewNextHops::default();
        // What is to have a slot: a next hop with its backup, and the backup by itself.
        let mut wanted: HashSet<(&NextHop, Option<&NextHop>)> = HashSet::new();
        let mut seen = HashSet::new();
        for (index, route) in routes.iter().enumerate() {
            for path in route.paths() {
                let Some(next_hop) = &path.next_hop else { continue };
                let backup = path.backup.as_ref();
                if !seen.insert((next_hop, backup)) || self.next_hops.is_known(next_hop, backup) {
                    continue;
                }
                new.0.push((index, next_hop, backup));
                wanted.insert((next_hop, backup));
                wanted.extend(
                    backup
                        .filter(|backup| !self.next_hops.is_known(backup, None))
                        .map(|backup| (backup, None)),
                );
                if wanted.len() > room {
                    return Err(self.no_room_for_next_hop(index));
                }
            }
        }
        Ok(new)
    }

    /// Takes next hops that nobody uses yet, so that they can be resolved before their routes are there. They go when
    /// [`Lfib::let_go`] is called, if no route uses them then.
    pub fn take_ahead(&mut self, new: &NewNextHops<'_>) -> Vec<NextHopId> {
        let mut taken = Vec::with_capacity(new.0.len());
        for &(_, next_hop, backup) in &new.0 {
            // Where there is no room, the change itself is refused.
            if let Some(slot) = self.next_hops.take(next_hop, backup) {
                self.note_backup(slot);
                taken.extend(self.next_hops.at_slot(slot).map(|(id, _)| id));
            }
        }
        taken
    }

    /// One user less of each of these.
    pub fn let_go(&mut self, next_hops: Vec<NextHopId>) {
        for id in next_hops {
            if let Some(slot) = self.next_hops.slot(id) {
                self.next_hops.drop_user(slot);
            }
        }
    }

    /// Takes a step towards a change by `routes`: writes some of the pass entries that it needs, if it needs more than a step's.
    /// They mean nothing before the change, so that other work can be done between the steps. `done` is how many of `routes` need
    /// nothing any more. Returns whether that is all of them; it is also if a write fails, as the change will.
    pub fn prepare_step(&mut self, routes: &[Route], done: &mut usize) -> bool {
        for route in routes.iter().skip(*done).take(STEP_ROUTES) {
            if let RouteKey::Prefix(prefix) = route.key()
                && !self.pass.has_ftn(prefix)
                && self.pass.holds_more_than(self.step, prefix)
                && self.pass.laid(prefix).is_none_or(|laid| !laid.is_whole() || laid.going)
            {
                let (claims, laid) = self.pass.more(prefix, self.step);
                let is_last = laid.is_whole();
                let written = self.set_laid(prefix, claims, Some(laid));
                *done += usize::from(is_last);
                return written.is_err();
            }
            *done += 1;
        }
        *done == routes.len()
    }

    /// No change is being prepared any more: what was written for one that has not come can go.
    pub fn end_preparations(&mut self) {
        self.pass.set_all_going();
    }

    /// Whether there are pass entries to be removed by [`Lfib::sweep_step`].
    pub fn has_to_sweep(&self) -> bool {
        self.pass.going().is_some()
    }

    /// Removes some of the pass entries that nothing needs any more.
    pub fn sweep_step(&mut self) {
        if let Some(prefix) = self.pass.going() {
            let (claims, laid) = self.pass.less(prefix, self.step);
            // What cannot be removed is unsettled.
            let _ = self.set_laid(prefix, claims, laid);
        }
    }

    /// Has the FTN table hold what is wanted at `claims`, once `laid` is what is laid of `prefix`.
    fn set_laid(&mut self, prefix: IpNet, claims: Vec<IpNet>, laid: Option<Laid>) -> Result<(), TableError> {
        let held: Vec<_> = claims.iter().map(|&claim| self.held(claim)).collect();
        self.pass.set_laid(prefix, laid);
        let mut result = Ok(());
        for (claim, held) in claims.into_iter().zip(held) {
            let wanted = self.wanted(claim);
            let write = Write {
                prefix: claim,
                held,
                wanted,
            };
            if held == wanted {
                continue;
            }
            // Where one insert fails, so do the others.
            if result.is_err() && wanted.is_some() {
                self.unsettled.insert(claim, held);
            } else {
                result = result.and(self.write_ftn(write));
            }
        }
        if result.is_err() && laid.is_some_and(|laid| !laid.going) {
            self.pass
                .set_laid(prefix, laid.map(|laid| Laid { going: true, ..laid }));
        }
        result
    }

    /// Installs `routes`.
    pub fn change(&mut self, mode: Mode, owner: Owner, routes: &[Route]) -> Result<Changes, ChangeError> {
        self.reclaim();
        let given = distinct_keys(routes.iter().map(Route::key))?;
        if mode == Mode::Add
            && let Some((index, key)) = first_in_order(&given, |key| self.routes.contains_key(key))
        {
            return Err(ChangeError::Exists { index, key });
        }
        let mut prepared = Vec::with_capacity(routes.len());
        for (index, route) in routes.iter().enumerate() {
            match self.prepare(index, route) {
                Ok(route) => prepared.push(route),
                Err(error) => {
                    self.abandon(&prepared);
                    return Err(error);
                }
            }
        }
        let swept: Vec<RouteKey> = if mode == Mode::ReplaceAll {
            let stays = |key: &RouteKey| given.binary_search_by_key(key, |&(key, _)| key).is_ok();
            let owned = self
                .routes
                .iter()
                .filter(|(_, installed)| owner.sweeps(installed.owner));
            owned.map(|(&key, _)| key).filter(|key| !stays(key)).collect()
        } else {
            Vec::new()
        };
        let mut published = self.publish_prefixes(&prepared, &swept);
        if published.is_err() && self.has_to_sweep() {
            // There is more room in the table without what nothing needs any more.
            while self.has_to_sweep() {
                self.sweep_step();
            }
            published = self.publish_prefixes(&prepared, &swept);
        }
        if let Err(error) = published {
            self.abandon(&prepared);
            return Err(error.into());
        }
        let mut changes = Changes::default();
        for route in &prepared {
            match self.routes.get(&route.key) {
                None => changes.added += 1,
                Some(before) if (before.entry, before.attributes) == (route.entry, route.attributes) => {}
                Some(_) => changes.replaced += 1,
            }
            self.install(route, owner);
        }
        for &key in &swept {
            self.uninstall(key);
        }
        changes.deleted = swept.len();
        self.retry_unsettled();
        Ok(changes)
    }

    /// Deletes the routes of `keys`.
    pub fn delete(&mut self, keys: &[RouteKey]) -> Result<Changes, ChangeError> {
        self.reclaim();
        let given = distinct_keys(keys.iter().copied())?;
        if let Some((index, key)) = first_in_order(&given, |key| !self.routes.contains_key(key)) {
            return Err(ChangeError::Missing { index, key });
        }
        self.publish_prefixes(&[], keys)?;
        for &key in keys {
            self.uninstall(key);
        }
        self.retry_unsettled();
        Ok(Changes {
            deleted: keys.len(),
            ..Changes::default()
        })
    }

    /// The keys of all routes of which `select` is true, in order.
    pub fn keys(&self, select: impl Fn(&Candidate) -> bool) -> Vec<RouteKey> {
        let selected = self.routes.iter().filter(|entry| select(&Candidate::new(*entry)));
        selected.map(|(&key, _)| key).collect()
    }

    /// The prefixes, within this one, that have routes, in order.
    pub fn prefixes_within(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        self.routes
            .range(RouteKey::Prefix(prefix.trunc())..)
            .map_while(move |(&key, _)| match key {
                RouteKey::Prefix(found) if prefix.contains(&found) => Some(found),
                _ => None,
            })
    }

    /// Routes after `after` of which `select` is true, in the order of keys, up to the one by which they come to `limit` paths.
    pub fn list(&self, after: Option<RouteKey>, limit: usize, select: impl Fn(&Candidate) -> bool) -> Vec<Listed> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let selected = self
            .routes
            .range((start, Bound::Unbounded))
            .filter(|entry| select(&Candidate::new(*entry)));
        let mut paths = 0;
        selected
            .filter_map(|(&key, installed)| self.listed(key, *installed))
            .take_while(|listed| {
                let is_wanted = paths < limit;
                paths += listed.route.paths().len();
                is_wanted
            })
            .collect()
    }

    /// What tells the routes that lead to one of `next_hops`, or with `local` to this box, from the others.
    pub fn ways(&self, next_hops: &HashSet<NextHopId>, local: bool) -> Ways {
        let is_one = |group: &u32| {
            let members = self.groups.members(*group).unwrap_or_default();
            members.iter().any(|member| next_hops.contains(&member.next_hop))
        };
        Ways {
            slots: next_hops.iter().filter_map(|&id| self.next_hops.slot(id)).collect(),
            groups: self.groups.slots().into_iter().filter(is_one).collect(),
            local,
        }
    }

    pub fn candidate(&self, key: RouteKey) -> Option<Candidate> {
        self.routes.get_key_value(&key).map(Candidate::new)
    }

    pub fn get(&self, key: RouteKey) -> Option<Listed> {
        self.routes.get(&key).and_then(|&installed| self.listed(key, installed))
    }

    /// Interfaces have new names, by their old ones: the routes whose `dev` they are follow. No table is written.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        self.next_hops.rename_devices(names);
    }

    /// Where the frames of a next hop go. Where only the neighbour's MAC is new this is one store, however many routes use it; so
    /// it is where their frames are to go to its backup.
    pub fn set_next_hop(&mut self, id: NextHopId, reach: impl Into<Reach>) {
        self.set_next_hops([(id, reach)]);
    }

    /// [`Lfib::set_next_hop`] for several: at most two grace periods and one walk through the routes for all of them. One that has
    /// to wait for a grace period is resolved by [`Lfib::reclaim`]. Returns whether buckets moved from one member of a group to
    /// another.
    pub fn set_next_hops<R: Into<Reach>>(&mut self, next_hops: impl IntoIterator<Item = (NextHopId, R)>) -> bool {
        let next_hops: Vec<(NextHopId, Reach)> = next_hops.into_iter().map(|(id, reach)| (id, reach.into())).collect();
        // Flows leave a member before its adjacency goes, and return after it is back.
        let gone = next_hops.iter().filter(|(_, reach)| *reach == Reach::Out);
        let gone = gone.fold(false, |news, &(id, _)| self.next_hops.set_out(id, true) | news);
        let mut moved_buckets = gone && self.move_buckets();

        let mut moved = HashMap::new();
        let mut later = Vec::new();
        for &(id, reach) in &next_hops {
            let Some(slot) = self.next_hops.slot(id) else { continue };
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
            // An unresolved adjacency has no port; it comes with the MAC address.
            let same_port = !old.is_resolved() || old.port() == new.port();
            let same_link = same_port && old.words()[1..] == new.words()[1..];
            // Nobody has seen more of a slot that is all zero: a new next hop has its frames at once.
            if !new.is_resolved() || same_link || old == unused {
                self.tables.store_adjacency(slot, new);
            } else if !old.is_resolved() {
                // Nobody uses the rest of an unresolved adjacency, once those are through that saw it resolved.
                later.push((id, new));
            } else if let Some((old_slot, new_slot)) = self.next_hops.move_slot(id) {
                // The frames change ports: written aside, then all entries turned to it, one store each.
                self.tables.store_adjacency(new_slot, new);
                moved.insert(old_slot, new_slot);
            } else {
                // No slot is left: unresolved for one grace period, then in place.
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
            self.turn(&moved);
            moved_buckets |= self.reclaim();
        }
        let back = next_hops
            .iter()
            .filter(|(id, reach)| matches!(reach, Reach::Resolved(_)) && !self.resolving.contains_key(id));
        let back: Vec<NextHopId> = back.map(|&(id, _)| id).collect();
        moved_buckets |= self.take_back_in(&back);
        moved_buckets | self.finish_grace_periods()
    }

    /// The flows of these return, as their adjacencies are back. Returns whether buckets moved.
    fn take_back_in(&mut self, next_hops: &[NextHopId]) -> bool {
        let back = next_hops.iter();
        let back = back.fold(false, |news, &id| self.next_hops.set_out(id, false) | news);
        back && self.move_buckets()
    }

    fn backup_slot(&self, id: NextHopId) -> Option<u16> {
        self.next_hops.backup(id).and_then(|backup| self.next_hops.slot(backup))
    }

    /// Brings the buckets of all groups to those members that can be reached. Each is one store. Returns whether any moved.
    fn move_buckets(&mut self) -> bool {
        let next_hops = &self.next_hops;
        let moved = self.groups.follow(|id| next_hops.is_out(id));
        for &group in &moved {
            self.write_buckets(group);
        }
        !moved.is_empty()
    }

    /// Writes those buckets of a group that are not as they should be.
    fn write_buckets(&mut self, group: u32) {
        let (Some(members), Some(spread)) = (self.groups.members(group), self.groups.spread(group)) else {
            return;
        };
        let entries: Vec<IlmEntry> = members
            .iter()
            .map(|member| match self.next_hops.slot(member.next_hop) {
                Some(slot) => member.entry().with_next_hop(slot),
                None => IlmEntry::EMPTY,
            })
            .collect();
        for (bucket, &member) in (0..=u8::MAX).zip(spread) {
            let entry = entries.get(usize::from(member)).copied().unwrap_or_default();
            if self.tables.bucket(group, bucket) != entry {
                self.tables.store_bucket(group, bucket, entry);
            }
        }
    }

    /// Points every entry, bucket and protected next hop that has an adjacency of `moved` to the one that took its place.
    fn turn(&mut self, moved: &HashMap<u16, u16>) {
        for slot in self.next_hops.protected().collect::<Vec<_>>() {
            self.note_backup(slot);
        }
        for group in self.groups.slots() {
            self.write_buckets(group);
        }
        let mut writes = Vec::new();
        for (&key, installed) in &mut self.routes {
            let Some(&new) = moved.get(&installed.entry.next_hop()) else {
                continue;
            };
            if !uses_next_hop(installed.entry) {
                continue;
            }
            let held = installed.entry;
            installed.entry = held.with_next_hop(new);
            match key {
                RouteKey::Label(label) => self.tables.store_ilm(label, installed.entry),
                RouteKey::Prefix(prefix)
                    if self.pass.wanted(prefix) == Wanted::Route && !self.unsettled.contains_key(&prefix) =>
                {
                    writes.push(Write {
                        prefix,
                        held: Some(held),
                        wanted: Some(installed.entry),
                    });
                }
                RouteKey::Prefix(_) => {}
            }
        }
        for write in writes {
            if let Err(error) = self.write_ftn(write) {
                tracing::error!(prefix = %write.prefix, %error, "cannot move a route to another port; its packets wait");
            }
        }
        if !self.unsettled.is_empty() {
            // What still points to the old slots must not go to the old port.
            for &old in moved.keys() {
                let adjacency = unresolved(self.tables.adjacency(old));
                self.tables.store_adjacency(old, adjacency);
            }
        }
    }

    /// What the kernel claims of each of these prefixes from now on: see [`PassEntries`]. An error says that the table could not
    /// be written: see [`Lfib::settle`].
    pub fn set_claims(&mut self, claims: &BTreeMap<IpNet, Option<Claim>>) -> Result<(), TableError> {
        let held: Vec<_> = claims.keys().map(|&prefix| self.held(prefix)).collect();
        for (&prefix, &claim) in claims {
            self.pass.set_claim(prefix, claim);
        }
        let mut writes: Vec<Write> = claims
            .keys()
            .zip(held)
            .map(|(&prefix, held)| Write {
                prefix,
                held,
                wanted: self.wanted(prefix),
            })
            .filter(|write| write.held != write.wanted)
            .collect();
        writes.sort_unstable_by_key(Write::order);
        for write in writes {
            // What this leaves unsettled is tried again below.
            let _ = self.write_safely(write);
        }
        self.settle()
    }

    /// How many prefixes there are at which the FTN table does not hold what is wanted, as a write has failed.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Writes once more what could not be written to the FTN table. Every change tries so, too; with no change to come, this is
    /// to be called from time to time for as long as anything is unsettled.
    pub fn settle(&mut self) -> Result<(), TableError> {
        let mut writes: Vec<Write> = self
            .unsettled
            .iter()
            .map(|(&prefix, &held)| Write {
                prefix,
                held,
                wanted: self.wanted(prefix),
            })
            .collect();
        writes.sort_unstable_by_key(Write::order);
        let mut result = Ok(());
        for write in writes {
            let held = self.held(write.prefix);
            let write = Write { held, ..write };
            // Where one insert fails for want of memory or room, so do the others.
            if result.is_err() && write.wanted.is_some() {
                if write.wanted == Some(IlmEntry::PASS) {
                    self.withhold(write.prefix);
                }
            } else {
                result = result.and(self.write_safely(write));
            }
        }
        result
    }

    /// [`Lfib::write_ftn`], but so that no packet is imposed that the kernel claims: where a pass entry cannot be written, the
    /// routes that cover it do not stay in the table, and a route that covers such a claim is not written yet.
    fn write_safely(&mut self, write: Write) -> Result<(), TableError> {
        if self.would_impose_claimed(write) {
            self.unsettled.insert(write.prefix, write.held);
            return Ok(());
        }
        let written = self.write_ftn(write);
        if written.is_err() && write.wanted == Some(IlmEntry::PASS) && self.withhold(write.prefix) {
            // There is room now.
            let held = self.held(write.prefix);
            return self.write_ftn(Write { held, ..write });
        }
        written
    }

    /// Whether `write` is of a route that covers a claim whose pass entry could not be written.
    fn would_impose_claimed(&self, write: Write) -> bool {
        let within = self.unsettled.range(write.prefix..);
        let mut within = within.take_while(|(prefix, _)| write.prefix.contains(*prefix));
        write.wanted.is_some_and(|entry| entry != IlmEntry::PASS)
            && within.any(|(&prefix, &held)| held != Some(IlmEntry::PASS) && self.pass.wanted(prefix) == Wanted::Pass)
    }

    /// Takes the routes out of the FTN table that cover `claimed`, whose pass entry could not be written: better the kernel's
    /// routing for all of their packets than labels on the kernel's. Returns whether there were any.
    fn withhold(&mut self, claimed: IpNet) -> bool {
        let covering: Vec<IpNet> = self
            .pass
            .covering(claimed)
            .filter(|&prefix| prefix != claimed)
            .collect();
        let mut any = false;
        for prefix in std::iter::once(claimed).chain(covering) {
            let held = self.held(prefix);
            if held.is_some_and(|entry| entry != IlmEntry::PASS) {
                let removed = self.tables.remove_ftn(prefix).is_ok();
                self.unsettled.insert(prefix, held.filter(|_| !removed));
                any |= removed;
            }
        }
        any
    }

    /// Takes for `route` what it needs of the tables, and fills what no entry points to yet.
    fn prepare(&mut self, index: usize, route: &Route) -> Result<Prepared, ChangeError> {
        let capacity = self.tables.capacity();
        let key = route.key();
        if let RouteKey::Label(label) = key
            && label.get() >= capacity.labels
        {
            return Err(ChangeError::BeyondLabels {
                index,
                label,
                capacity: capacity.labels,
            });
        }
        let before = self.routes.get(&key).map(|installed| installed.entry);
        let ttl = route.ttl_propagate();
        let entry = match route.paths() {
            [path] => self.take_path(index, path, ttl)?,
            paths => {
                let group = self.take_group(index, paths, ttl, before)?;
                IlmEntry::new(Op::Group, ttl, group, 0, 0)
            }
        };
        // A route that takes another's place goes on with its counter.
        let slot = match before {
            Some(before) => before.slot(),
            None => self.counters.take(&self.tables),
        };
        let entry = IlmEntry::new(entry.op(), ttl, entry.operand(), entry.next_hop(), slot);
        Ok(Prepared {
            key,
            entry,
            attributes: route.attributes(),
            before,
        })
    }

    /// The entry of one path, without a counter.
    fn take_path(&mut self, index: usize, path: &Path, ttl: TtlPropagate) -> Result<IlmEntry, ChangeError> {
        let capacity = self.tables.capacity();
        let next_hop = match &path.next_hop {
            None => 0,
            Some(next_hop) => {
                let slot = self.next_hops.take(next_hop, path.backup.as_ref());
                let slot = slot.ok_or_else(|| self.no_room_for_next_hop(index))?;
                self.note_backup(slot);
                slot
            }
        };
        match self.operation(&path.action) {
            Some((op, operand)) => Ok(IlmEntry::new(op, ttl, operand, next_hop, 0)),
            None => {
                if path.next_hop.is_some() {
                    self.next_hops.drop_user(next_hop);
                }
                Err(ChangeError::Full {
                    index,
                    what: "label stack",
                    capacity: capacity.stacks,
                    remedy: ": start the switch with a larger `--stacks`",
                })
            }
        }
    }

    fn no_room_for_next_hop(&self, index: usize) -> ChangeError {
        ChangeError::Full {
            index,
            what: "next hop",
            capacity: self.tables.capacity().adjacencies,
            remedy: "",
        }
    }

    /// Has the adjacency in `slot` name its backup.
    fn note_backup(&mut self, slot: u16) {
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

    /// The group of several paths, for a route that had `before`. The group's members are each path's in turn. A user of a group
    /// is one of all that its members use.
    fn take_group(
        &mut self,
        index: usize,
        paths: &[Path],
        ttl: TtlPropagate,
        before: Option<IlmEntry>,
    ) -> Result<u32, ChangeError> {
        let mut entries: Vec<IlmEntry> = Vec::with_capacity(paths.len());
        let mut result = Ok(());
        for path in paths {
            match self.take_path(index, path, ttl) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let group = result.and_then(|()| {
            let members = entries.iter().zip(paths);
            let members = members
                .filter_map(|(&entry, path)| self.member(entry, path.weight))
                .collect();
            let before = match before {
                Some(before) if before.op() == Op::Group => Before::Group(before.operand()),
                Some(before) => self.member(before, 1).map_or(Before::Nothing, Before::One),
                None => Before::Nothing,
            };
            let next_hops = &self.next_hops;
            let taken = self.groups.take(
                members,
                before,
                |id| next_hops.is_out(id),
                |id, other| next_hops.is_same_neighbour(id, other),
            );
            taken.ok_or(ChangeError::Full {
                index,
                what: "group of next hops",
                capacity: self.tables.capacity().groups,
                remedy: ": start the switch with a larger `--groups`",
            })
        });
        match group {
            Ok((group, new)) => {
                if new {
                    self.write_buckets(group);
                }
                Ok(group)
            }
            Err(error) => {
                entries.into_iter().for_each(|entry| self.drop_shares(entry));
                Err(error)
            }
        }
    }

    fn member(&self, entry: IlmEntry, weight: u16) -> Option<Member> {
        let (next_hop, _) = uses_next_hop(entry).then(|| self.next_hops.at_slot(entry.next_hop()))??;
        Some(Member::new(entry, next_hop, weight))
    }

    /// Op and operand of `action`, `None` where no slot for its stack is left.
    fn operation(&mut self, action: &Action) -> Option<(Op, u32)> {
        let (labels, ttl) = match action {
            Action::Pop => return Some((Op::Pop, 0)),
            Action::PenultimatePop => return Some((Op::PenultimatePop, 0)),
            Action::Local => return Some((Op::Local, 0)),
            Action::Swap(labels) => (labels.as_slice(), None),
            Action::Push { labels, ttl } => (labels.as_slice(), *ttl),
        };
        if let ([label], None) = (labels, ttl) {
            return Some((Op::Label, label.get()));
        }
        let stack = LabelStack::new(labels, ttl)?;
        let (slot, new) = self.stacks.take(&stack)?;
        if new {
            self.tables.store_stack(slot, stack);
        }
        Some((Op::Stack, slot))
    }

    /// Gives back what routes that will not be installed took.
    fn abandon(&mut self, prepared: &[Prepared]) {
        // The latest first: so those go first that nobody was told of.
        for route in prepared.iter().rev() {
            if route.before.is_none() && route.entry.slot() != 0 {
                self.counters.hold_back(route.entry.slot());
            }
            self.drop_shares(route.entry);
        }
        self.reclaim();
    }

    /// Brings the FTN table to what is wanted once the routes of `prepared` are there and those of `deleted` are not; or back to
    /// what it held. Each prefix that this concerns is written once.
    fn publish_prefixes(&mut self, prepared: &[Prepared], deleted: &[RouteKey]) -> Result<(), TableError> {
        let mut news: Vec<(IpNet, IlmEntry)> = Vec::new();
        let mut come_and_go: Vec<(IpNet, bool)> = Vec::new();
        for route in prepared {
            if let RouteKey::Prefix(prefix) = route.key
                && route.before != Some(route.entry)
            {
                news.push((prefix, route.entry));
                if route.before.is_none() {
                    come_and_go.push((prefix, true));
                }
            }
        }
        for &key in deleted {
            if let RouteKey::Prefix(prefix) = key {
                come_and_go.push((prefix, false));
            }
        }
        news.sort_unstable_by_key(|&(prefix, _)| prefix);

        let mut concerned: Vec<IpNet> = Vec::with_capacity(news.len() + come_and_go.len());
        for &(prefix, _) in &news {
            concerned.push(prefix);
            let unsettled = self.unsettled.range(prefix..).map(|(&prefix, _)| prefix);
            concerned.extend(unsettled.take_while(|within| prefix.contains(within)));
        }
        let laid_before: Vec<Option<Laid>> = come_and_go.iter().map(|&(prefix, _)| self.pass.laid(prefix)).collect();
        let laid_after: Vec<Option<Laid>> = come_and_go
            .iter()
            .map(|&(prefix, comes)| (!comes && self.pass.holds_more_than(self.step, prefix)).then_some(Laid::ALL_GOING))
            .collect();
        for ((&(prefix, _), before), after) in come_and_go.iter().zip(&laid_before).zip(&laid_after) {
            concerned.push(prefix);
            // If all of its pass entries are there and stay, they are no part of the change.
            if before.is_none_or(|laid| !laid.is_whole()) && after.is_none() {
                concerned.extend(self.pass.claims_within(prefix));
            }
        }
        concerned.sort_unstable();
        concerned.dedup();

        let held: Vec<Option<IlmEntry>> = concerned.iter().map(|&prefix| self.held(prefix)).collect();
        for (&(prefix, comes), &laid) in come_and_go.iter().zip(&laid_after) {
            self.pass.set_ftn(prefix, comes);
            self.pass.set_laid(prefix, laid);
        }
        let new_entry = |prefix| {
            news.binary_search_by_key(&prefix, |&(prefix, _)| prefix)
                .map(|at| news[at].1)
        };
        let mut writes: Vec<Write> = concerned
            .into_iter()
            .zip(held)
            .map(|(prefix, held)| Write {
                prefix,
                held,
                wanted: self.wanted_with(prefix, new_entry(prefix).ok()),
            })
            .collect();
        writes.sort_unstable_by_key(Write::order);
        for (index, &write) in writes.iter().enumerate() {
            let Err(error) = self.write_ftn(write) else { continue };
            for (&(prefix, came), laid) in come_and_go.iter().zip(laid_before) {
                self.pass.set_ftn(prefix, !came);
                self.pass
                    .set_laid(prefix, laid.map(|laid| Laid { going: true, ..laid }));
            }
            self.take_back(&writes[..=index]);
            return Err(error);
        }
        Ok(())
    }

    /// Undoes `writes`, the last of which has failed.
    fn take_back(&mut self, writes: &[Write]) {
        for done in writes.iter().rev() {
            let prefix = done.prefix;
            let back = Write {
                prefix,
                held: self.unsettled.get(&prefix).copied().unwrap_or(done.wanted),
                wanted: done.held,
            };
            if self.write_ftn(back).is_ok() && done.held != self.wanted(prefix) {
                self.unsettled.insert(prefix, done.held);
            }
        }
        self.retry_unsettled();
    }

    /// [`Lfib::settle`] as a part of something else: who calls asks for [`Lfib::unsettled`].
    fn retry_unsettled(&mut self) {
        if let Err(error) = self.settle() {
            tracing::debug!(%error, "the FTN table cannot be written yet");
        }
    }

    /// Has the FTN table hold what is wanted at one prefix, and notes what it holds where that fails.
    fn write_ftn(&mut self, write: Write) -> Result<(), TableError> {
        let Write { prefix, held, wanted } = write;
        let mut now = held;
        let mut result = match wanted {
            _ if held == wanted => Ok(()),
            Some(entry) => self.tables.insert_ftn(prefix, entry),
            None => self.tables.remove_ftn(prefix),
        };
        // Before Linux 6.13, a full table takes no other entry for a prefix that it has.
        if let (Err(error), Some(entry), Some(_)) = (&result, wanted, held)
            && error.source.kind() == std::io::ErrorKind::StorageFull
            && self.tables.remove_ftn(prefix).is_ok()
        {
            now = None;
            result = self.tables.insert_ftn(prefix, entry);
        }
        match result {
            Ok(()) => self.unsettled.remove(&prefix),
            Err(_) => self.unsettled.insert(prefix, now),
        };
        result
    }

    /// What the FTN table holds at `prefix`.
    fn held(&self, prefix: IpNet) -> Option<IlmEntry> {
        match self.unsettled.get(&prefix) {
            Some(&held) => held,
            None => self.wanted(prefix),
        }
    }

    /// What the FTN table is to hold at `prefix`.
    fn wanted(&self, prefix: IpNet) -> Option<IlmEntry> {
        self.wanted_with(prefix, None)
    }

    /// The same where the route for `prefix` is about to have `entry`.
    fn wanted_with(&self, prefix: IpNet, entry: Option<IlmEntry>) -> Option<IlmEntry> {
        match self.pass.wanted(prefix) {
            Wanted::Route => entry.or_else(|| Some(self.routes.get(&RouteKey::Prefix(prefix))?.entry)),
            Wanted::Pass => Some(IlmEntry::PASS),
            Wanted::Nothing => None,
        }
    }

    /// Publishes a label, and keeps the route.
    fn install(&mut self, route: &Prepared, owner: Owner) {
        let forwarding = route.entry.op() != Op::Local;
        let is_new = route.before.is_none();
        let counted = self
            .counters
            .set_forwarding(route.entry.slot(), forwarding, is_new, &self.tables);
        if let Err(error) = counted {
            tracing::warn!(key = %route.key, %error, "the total of forwarded packets does not follow the new route");
        }
        if route.before != Some(route.entry)
            && let RouteKey::Label(label) = route.key
        {
            self.tables.store_ilm(label, route.entry);
        }
        match self.routes.insert(
            route.key,
            Installed {
                entry: route.entry,
                owner,
                attributes: route.attributes,
            },
        ) {
            Some(before) => self.drop_shares(before.entry),
            None => {
                self.label_routes += usize::from(matches!(route.key, RouteKey::Label(_)));
                self.uncounted += usize::from(route.entry.slot() == 0);
            }
        }
    }

    /// Withdraws a label, and forgets the route. A prefix has been withdrawn before.
    fn uninstall(&mut self, key: RouteKey) {
        let Some(Installed { entry, .. }) = self.routes.remove(&key) else {
            return;
        };
        if let RouteKey::Label(label) = key {
            self.tables.store_ilm(label, IlmEntry::EMPTY);
            self.label_routes -= 1;
        }
        match entry.slot() {
            0 => self.uncounted -= 1,
            slot => self.counters.hold_back(slot),
        }
        self.drop_shares(entry);
    }

    /// One user less of the stack and the next hop of `entry`, or of its group and all that its members have.
    fn drop_shares(&mut self, entry: IlmEntry) {
        if entry.op() == Op::Group {
            let members = self.groups.members(entry.operand()).unwrap_or_default().to_vec();
            self.groups.drop_user(entry.operand());
            for member in members {
                if let Some(slot) = self.next_hops.slot(member.next_hop) {
                    self.drop_shares(member.entry().with_next_hop(slot));
                }
            }
        }
        if entry.op() == Op::Stack {
            self.stacks.drop_user(entry.operand());
        }
        if uses_next_hop(entry) {
            self.next_hops.drop_user(entry.next_hop());
        }
    }

    /// Carries out what has waited for grace periods that are over, and begins one for the slots that no entry points to any more.
    /// To be called after changes, and when a grace period has ended. Returns whether buckets moved from one member of a group to
    /// another.
    pub fn reclaim(&mut self) -> bool {
        let moved_buckets = self.finish_grace_periods();
        let held_back = self.counters.has_held_back()
            || self.stacks.has_held_back()
            || self.groups.has_held_back()
            || self.next_hops.has_held_back();
        // Any of them may be what an entry points to that could not be taken out of the FTN table.
        let pointed_to = self.unsettled.values().flatten().any(|&entry| entry != IlmEntry::PASS);
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

    /// The grace period after which slots are free again that no entry points to now; `None` if there are none.
    pub fn reclaiming(&self) -> Option<GracePeriod> {
        self.freed.back().map(|&(period, _)| period)
    }

    /// Makes slots free again, and resolves next hops, whose grace period is over.
    fn finish_grace_periods(&mut self) -> bool {
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
            // Nobody may use it any more.
            let Some(slot) = self.next_hops.slot(id) else { continue };
            let adjacency = adjacency.with_backup(self.backup_slot(id));
            self.tables.store_adjacency(slot, adjacency);
            back.push(id);
        }
        self.take_back_in(&back)
    }

    fn listed(&self, key: RouteKey, installed: Installed) -> Option<Listed> {
        let Installed {
            entry,
            owner,
            attributes,
        } = installed;
        let members: Vec<(IlmEntry, Option<NextHopId>, u16)> = match entry.op() {
            Op::Group => {
                let members = self.groups.members(entry.operand())?.iter();
                members
                    .map(|member| (member.entry(), Some(member.next_hop), member.weight))
                    .collect()
            }
            _ if uses_next_hop(entry) => vec![(entry, Some(self.next_hops.at_slot(entry.next_hop())?.0), 1)],
            _ => vec![(entry, None, 1)],
        };
        let paths = members.iter().map(|&(entry, next_hop, weight)| {
            let backup = next_hop.and_then(|id| self.next_hops.backup(id));
            let named = |id: Option<NextHopId>| id.and_then(|id| self.next_hops.get(id)).cloned();
            Some(Path {
                action: self.action(key, entry)?,
                next_hop: named(next_hop),
                backup: named(backup),
                weight,
            })
        });
        let route = Route::with_paths(key, paths.collect::<Option<_>>()?, entry.ttl_propagate()).ok()?;
        let route = route.with_attributes(attributes).ok()?;
        Some(Listed {
            route,
            owner,
            next_hops: members.into_iter().filter_map(|(_, next_hop, _)| next_hop).collect(),
            counter_slot: entry.slot(),
        })
    }

    /// What an entry for `key`, or a bucket of it, does to the stack.
    fn action(&self, key: RouteKey, entry: IlmEntry) -> Option<Action> {
        let (labels, ttl) = match entry.op() {
            Op::Pop => return Some(Action::Pop),
            Op::PenultimatePop => return Some(Action::PenultimatePop),
            Op::Local => return Some(Action::Local),
            Op::None | Op::Pass | Op::Group => return None,
            Op::Label => (vec![entry.out_label()], None),
            Op::Stack => {
                let stack = self.stacks.get(entry.operand())?;
                (stack.labels().collect(), NonZeroU8::new(stack.ttl()))
            }
        };
        let labels = OutLabels::new(labels).ok()?;
        Some(match key {
            RouteKey::Label(_) => Action::Swap(labels),
            RouteKey::Prefix(_) => Action::Push { labels, ttl },
        })
    }
}

/// The same adjacency without a neighbour: one word differs.
fn unresolved(adjacency: Adjacency) -> Adjacency {
    let [_, link, tags, rest] = adjacency.words();
    Adjacency::from_words([0, link, tags, rest])
}

/// Whether the next-hop index of `entry` means something.
fn uses_next_hop(entry: IlmEntry) -> bool {
    matches!(entry.op(), Op::Label | Op::Stack | Op::Pop | Op::PenultimatePop)
}

/// The keys in order, each with its place among those given.
fn distinct_keys(keys: impl Iterator<Item = RouteKey>) -> Result<Vec<(RouteKey, usize)>, ChangeError> {
    let mut given: Vec<_> = keys.enumerate().map(|(index, key)| (key, index)).collect();
    given.sort_unstable();
    match given.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(ChangeError::Twice {
            index: pair[1].1,
            first: pair[0].1,
            key: pair[0].0,
        }),
        None => Ok(given),
    }
}

/// The first given key, in the order of giving, of which `wrong` is true.
fn first_in_order(given: &[(RouteKey, usize)], wrong: impl Fn(&RouteKey) -> bool) -> Option<(usize, RouteKey)> {
    given
        .iter()
        .filter(|(key, _)| wrong(key))
        .map(|&(key, index)| (index, key))
        .min_by_key(|&(index, _)| index)
}

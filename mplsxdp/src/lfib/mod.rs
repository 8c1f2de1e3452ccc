//! The label forwarding information base: the routes as they are wanted, and the table writes that make them so. A change is
//! all or nothing: everything that can fail is done before the first label is published. Pure: what it writes to is a trait.

pub mod next_hops;
pub mod pass;
pub mod pool;
pub mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU8;
use std::ops::Bound;

use ipnet::IpNet;
use mplsxdp_common::abi::{Adjacency, IlmEntry, LabelStack, Op};
use mplsxdp_common::wire::Label;

use crate::dataplane::{TableError, Tables};
use next_hops::{NextHopChange, NextHopId, NextHops};
use pass::{Claim, PassEntries, Wanted};
use pool::{Interner, SlotPool};
use route::{Action, NextHop, OutLabels, Owner, Route, RouteKey};

/// A route as it is kept: the entry in the table says all of it, with the shared tables that it points into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Installed {
    entry: IlmEntry,
    owner: Owner,
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
    counters: SlotPool,
    pass: PassEntries,
}

/// How given routes meet those that are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Each must be new.
    Add,
    /// Each is added or takes another's place.
    Replace,
    /// As `Replace`; what is not given goes. Mark and sweep: what stays is not touched.
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
    pub next_hop: Option<NextHopId>,
    /// 0: not counted.
    pub counter_slot: u32,
}

/// A route that is about to be installed. It holds its share of each table.
struct Prepared {
    key: RouteKey,
    entry: IlmEntry,
    before: Option<IlmEntry>,
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
            counters: SlotPool::new(1, capacity.counter_slots),
            pass: PassEntries::default(),
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

    pub fn next_hops(&self) -> &NextHops {
        &self.next_hops
    }

    /// Next hops that came into use or went out of it since the last call.
    pub fn take_next_hop_changes(&mut self) -> Vec<NextHopChange> {
        self.next_hops.take_changes()
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
            let owned = self.routes.iter().filter(|(_, installed)| installed.owner == owner);
            owned.map(|(&key, _)| key).filter(|key| !stays(key)).collect()
        } else {
            Vec::new()
        };
        if let Err(error) = self.publish_prefixes(&prepared, &swept) {
            self.abandon(&prepared);
            return Err(error.into());
        }
        let mut changes = Changes::default();
        for route in &prepared {
            match route.before {
                None => changes.added += 1,
                Some(before) if before == route.entry => {}
                Some(_) => changes.replaced += 1,
            }
            self.install(route, owner);
        }
        for &key in &swept {
            self.uninstall(key);
        }
        changes.deleted = swept.len();
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
        Ok(Changes {
            deleted: keys.len(),
            ..Changes::default()
        })
    }

    /// The keys of all routes of which `select` is true, in order.
    pub fn keys(&self, select: impl Fn(RouteKey) -> bool) -> Vec<RouteKey> {
        self.routes.keys().copied().filter(|&key| select(key)).collect()
    }

    /// Up to `limit` routes after `after` of which `select` is true, in the order of keys.
    pub fn list(&self, after: Option<RouteKey>, limit: usize, select: impl Fn(RouteKey) -> bool) -> Vec<Listed> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let selected = self
            .routes
            .range((start, Bound::Unbounded))
            .filter(|&(&key, _)| select(key));
        selected
            .take(limit)
            .filter_map(|(&key, installed)| self.listed(key, *installed))
            .collect()
    }

    pub fn get(&self, key: RouteKey) -> Option<Listed> {
        self.routes.get(&key).and_then(|&installed| self.listed(key, installed))
    }

    /// Where the frames of a next hop go, or `None` while that is not known. Where only the neighbour's MAC is new this is one
    /// store, however many routes use it.
    pub fn set_next_hop(&mut self, id: NextHopId, adjacency: Option<Adjacency>) {
        self.set_next_hops([(id, adjacency)]);
    }

    /// [`Lfib::set_next_hop`] for several: at most two grace periods and one walk through the routes for all of them.
    pub fn set_next_hops(&mut self, next_hops: impl IntoIterator<Item = (NextHopId, Option<Adjacency>)>) {
        let mut moved = HashMap::new();
        let mut after_grace = Vec::new();
        for (id, adjacency) in next_hops {
            let Some(slot) = self.next_hops.slot(id) else { continue };
            let old = self.tables.adjacency(slot);
            let unresolved = Adjacency::new(Default::default(), 0, old.source(), old.mtu());
            let new = adjacency.unwrap_or(unresolved);
            let same_link = old.port() == new.port() && old.source() == new.source() && old.mtu() == new.mtu();
            // Nobody has seen more of a slot that is all zero: a new next hop has its frames at once.
            if !new.is_resolved() || same_link || old == Adjacency::default() {
                self.tables.store_adjacency(slot, new);
            } else if !old.is_resolved() {
                // Nobody uses the rest of an unresolved adjacency, once those are through that saw it resolved.
                after_grace.push((slot, new));
            } else if let Some((old_slot, new_slot)) = self.next_hops.move_slot(id) {
                // The frames change ports: written aside, then all entries turned to it, one store each.
                self.tables.store_adjacency(new_slot, new);
                moved.insert(old_slot, new_slot);
            } else {
                // No slot is left: unresolved for one grace period, then in place.
                self.tables.store_adjacency(slot, unresolved);
                after_grace.push((slot, new));
            }
        }
        if !after_grace.is_empty() {
            self.tables.wait_for_readers();
            for (slot, new) in after_grace {
                self.tables.store_adjacency(slot, new);
            }
        }
        if !moved.is_empty() {
            self.turn(&moved);
            self.reclaim();
        }
    }

    /// Points every entry that has an adjacency of `moved` to the one that took its place.
    fn turn(&mut self, moved: &HashMap<u16, u16>) {
        let mut prefixes = Vec::new();
        for (&key, installed) in &mut self.routes {
            let Some(&new) = moved.get(&installed.entry.next_hop()) else {
                continue;
            };
            if !uses_next_hop(installed.entry) {
                continue;
            }
            installed.entry = installed.entry.with_next_hop(new);
            match key {
                RouteKey::Label(label) => self.tables.store_ilm(label, installed.entry),
                RouteKey::Prefix(prefix) => prefixes.push(prefix),
            }
        }
        for prefix in prefixes {
            // The old slot is another's soon: better the kernel's routing than another neighbour.
            if let Err(error) = self
                .write_prefix(prefix)
                .or_else(|error| self.tables.remove_ftn(prefix).and(Err(error)))
            {
                tracing::error!(%prefix, %error, "cannot move a route to another port; its packets are left to the kernel");
            }
        }
    }

    /// The kernel claims, or no longer claims, `prefix`: see [`PassEntries`].
    pub fn set_claim(&mut self, prefix: IpNet, claim: Claim, present: bool) -> Result<(), TableError> {
        if self.pass.set_claim(prefix, claim, present) {
            self.write_prefix(prefix)
        } else {
            Ok(())
        }
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
        let next_hop = match route.next_hop() {
            None => 0,
            Some(next_hop) => self.next_hops.take(next_hop).ok_or(ChangeError::Full {
                index,
                what: "next hop",
                capacity: capacity.adjacencies,
                remedy: "",
            })?,
        };
        let (op, operand) = match self.operation(route.action()) {
            Some(operation) => operation,
            None => {
                if route.next_hop().is_some() {
                    self.next_hops.drop_user(next_hop);
                }
                return Err(ChangeError::Full {
                    index,
                    what: "label stack",
                    capacity: capacity.stacks,
                    remedy: ": start the switch with a larger `--stacks`",
                });
            }
        };
        // A route that takes another's place goes on with its counter.
        let slot = match before {
            Some(before) => before.slot(),
            None => self.take_counter(),
        };
        let entry = IlmEntry::new(op, route.ttl_propagate(), operand, next_hop, slot);
        Ok(Prepared { key, entry, before })
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

    /// A counter slot at zero, or 0 where none is left.
    fn take_counter(&mut self) -> u32 {
        match self.counters.take() {
            Some((slot, used_before)) => {
                if used_before && let Err(error) = self.tables.clear_route_counter(slot) {
                    tracing::warn!(slot, %error, "a counter goes on from an older route's count");
                }
                slot
            }
            None => 0,
        }
    }

    /// Gives back what routes that will not be installed took.
    fn abandon(&mut self, prepared: &[Prepared]) {
        for route in prepared {
            if route.before.is_none() && route.entry.slot() != 0 {
                self.counters.give_back(route.entry.slot());
            }
            self.drop_shares(route.entry);
        }
        self.reclaim();
    }

    /// Brings the FTN tables to what will be, or back to what was.
    fn publish_prefixes(&mut self, prepared: &[Prepared], deleted: &[RouteKey]) -> Result<(), TableError> {
        let mut done: Vec<(IpNet, Option<IlmEntry>)> = Vec::new();
        let news = prepared.iter().map(|route| (route.key, Some(route.entry)));
        let result = news
            .chain(deleted.iter().map(|&key| (key, None)))
            .try_for_each(|(key, entry)| {
                let RouteKey::Prefix(prefix) = key else { return Ok(()) };
                let before = self.routes.get(&key).map(|installed| installed.entry);
                if before == entry {
                    return Ok(());
                }
                done.push((prefix, before));
                self.publish_prefix(prefix, entry)
            });
        if result.is_err() {
            for (prefix, before) in done.into_iter().rev() {
                if let Err(error) = self.publish_prefix(prefix, before) {
                    tracing::error!(%prefix, %error, "cannot take a change back");
                }
            }
        }
        result
    }

    /// Writes one prefix's entry, and the pass entries that it makes or ends.
    fn publish_prefix(&mut self, prefix: IpNet, entry: Option<IlmEntry>) -> Result<(), TableError> {
        let touched = self.pass.set_ftn(prefix, entry.is_some());
        // Pass entries first where they are new: no packet of theirs is imposed meanwhile.
        if entry.is_some() {
            touched
                .iter()
                .filter(|&&other| other != prefix)
                .try_for_each(|&other| self.write_prefix(other))?;
        }
        self.write_prefix_as(prefix, entry)?;
        if entry.is_none() {
            touched
                .iter()
                .filter(|&&other| other != prefix)
                .try_for_each(|&other| self.write_prefix(other))?;
        }
        Ok(())
    }

    fn write_prefix(&mut self, prefix: IpNet) -> Result<(), TableError> {
        self.write_prefix_as(
            prefix,
            self.routes
                .get(&RouteKey::Prefix(prefix))
                .map(|installed| installed.entry),
        )
    }

    fn write_prefix_as(&mut self, prefix: IpNet, route: Option<IlmEntry>) -> Result<(), TableError> {
        match (self.pass.wanted(prefix), route) {
            (Wanted::Route, Some(entry)) => self.tables.insert_ftn(prefix, entry),
            (Wanted::Pass, _) => self.tables.insert_ftn(prefix, IlmEntry::PASS),
            (Wanted::Nothing, _) | (Wanted::Route, None) => self.tables.remove_ftn(prefix),
        }
    }

    /// Publishes a label, and keeps the route.
    fn install(&mut self, route: &Prepared, owner: Owner) {
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

    /// One user less of the stack and the next hop of `entry`.
    fn drop_shares(&mut self, entry: IlmEntry) {
        if entry.op() == Op::Stack {
            self.stacks.drop_user(entry.operand());
        }
        if uses_next_hop(entry) {
            self.next_hops.drop_user(entry.next_hop());
        }
    }

    /// Makes slots that no entry points to any more free again, after one grace period for all of them. A change does so for the
    /// one before it, not for itself: the frames of a next hop that came into use wait until [`Lfib::set_next_hop`] is called.
    fn reclaim(&mut self) {
        if !(self.counters.has_held_back() || self.stacks.has_held_back() || self.next_hops.has_held_back()) {
            return;
        }
        self.tables.wait_for_readers();
        for slot in self.next_hops.held_back() {
            self.tables.store_adjacency(slot, Adjacency::default());
        }
        self.counters.release();
        self.stacks.release();
        self.next_hops.release();
    }

    fn listed(&self, key: RouteKey, Installed { entry, owner }: Installed) -> Option<Listed> {
        let (labels, ttl) = match entry.op() {
            Op::Label => (vec![entry.out_label()], None),
            Op::Stack => {
                let stack = self.stacks.get(entry.operand())?;
                (stack.labels().collect(), NonZeroU8::new(stack.ttl()))
            }
            _ => (Vec::new(), None),
        };
        let action = match (entry.op(), key) {
            (Op::Label | Op::Stack, RouteKey::Label(_)) => Action::Swap(OutLabels::new(labels).ok()?),
            (Op::Label | Op::Stack, RouteKey::Prefix(_)) => Action::Push {
                labels: OutLabels::new(labels).ok()?,
                ttl,
            },
            (Op::Pop, _) => Action::Pop,
            (Op::PenultimatePop, _) => Action::PenultimatePop,
            (Op::Local, _) => Action::Local,
            (Op::None | Op::Pass | Op::Group, _) => return None,
        };
        let next_hop: Option<(NextHopId, &NextHop)> = if uses_next_hop(entry) {
            Some(self.next_hops.at_slot(entry.next_hop())?)
        } else {
            None
        };
        let route = Route::new(
            key,
            action,
            next_hop.map(|(_, next_hop)| next_hop.clone()),
            entry.ttl_propagate(),
        )
        .ok()?;
        Some(Listed {
            route,
            owner,
            next_hop: next_hop.map(|(id, _)| id),
            counter_slot: entry.slot(),
        })
    }
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

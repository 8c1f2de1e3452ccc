//! The parts of a change of routes: the requests, and what one route takes from the tables and gives back. A
//! [plan](super::plan) runs the change.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mplsxdp_common::abi::{LabelStack, MAX_VRFS, Op, RouteEntry, TtlPropagate};
use mplsxdp_common::wire::Label;

use super::backups::Pair;
use super::fecs::Families;
use super::groups::{Before, Member};
use super::made::Installs;
use super::next_hops::{NextHopId, Protection};
use super::plan::{Budget, Change, Keys, Progress};
use super::{Installed, Lfib, uses_next_hop};
use crate::dataplane::{TableError, Tables};
pub use crate::route::Mode;
use crate::route::{
    Action, Attributes, Backup, NextHop, Owner, PassReason, Path, PortName, Pseudowire, Route, RouteKey, ServiceTag,
};

/// What a change did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub added: usize,
    pub replaced: usize,
    pub deleted: usize,
}

impl Changes {
    /// Counts a route that takes the place of `before`. Returns what that is.
    pub(super) fn count(&mut self, before: Option<Installed>, now: Installed) -> Option<Installs> {
        match before {
            None => {
                self.added += 1;
                Some(Installs::New)
            }
            Some(before) if (before.entry, before.attributes) == (now.entry, now.attributes) => None,
            Some(_) => self.replace(),
        }
    }

    /// Counts a route that takes the place of another.
    pub(super) fn replace(&mut self) -> Option<Installs> {
        self.replaced += 1;
        Some(Installs::Replacement)
    }
}

/// Why a change was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("{key} already has a route")]
    Exists { index: usize, key: RouteKey },
    #[error("{key} has no route")]
    Missing { index: usize, key: RouteKey },
    #[error("the route of {key} belongs to `{owner}`")]
    Foreign { index: usize, key: RouteKey, owner: Owner },
    #[error("{key} is given twice, first as number {}", first + 1)]
    Twice { index: usize, first: usize, key: RouteKey },
    #[error("label {label} is beyond this switch's labels, 16 to {}: start it with a larger `--labels`", capacity - 1)]
    BeyondLabels { index: usize, label: Label, capacity: u32 },
    #[error(
        "no room for another {what}: all {capacity} are in use (a replaced route keeps its entries until the new one is \
         in place){remedy}"
    )]
    Full {
        index: usize,
        what: &'static str,
        capacity: u32,
        remedy: &'static str,
    },
    #[error(
        "no room for a route of {key}: there are {capacity} entries for prefixes of its family, and each route without `table` \
         takes {}, one for ports outside of VRFs and one for each VRF that ports are in ({vrfs})", vrfs + 1
    )]
    FullOfVrfs {
        index: usize,
        key: RouteKey,
        capacity: u32,
        vrfs: usize,
    },
    #[error("another change is under way")]
    Busy,
    #[error(transparent)]
    Table(#[from] TableError),
}

impl ChangeError {
    /// The same error about what a client gave, for routes that were derived from that: `given[i]` is the index that
    /// route `i` came from.
    pub fn about(mut self, given: impl Fn(usize) -> Option<usize>) -> Self {
        match &mut self {
            Self::Exists { index, .. }
            | Self::Missing { index, .. }
            | Self::Foreign { index, .. }
            | Self::Twice { index, .. }
            | Self::BeyondLabels { index, .. }
            | Self::Full { index, .. }
            | Self::FullOfVrfs { index, .. } => *index = given(*index).unwrap_or_default(),
            Self::Busy | Self::Table(_) => {}
        }
        self
    }

    /// The index among the given routes or keys.
    pub fn index(&self) -> Option<usize> {
        match self {
            Self::Exists { index, .. }
            | Self::Missing { index, .. }
            | Self::Foreign { index, .. }
            | Self::Twice { index, .. }
            | Self::BeyondLabels { index, .. }
            | Self::Full { index, .. }
            | Self::FullOfVrfs { index, .. } => Some(*index),
            Self::Busy | Self::Table(_) => None,
        }
    }
}

/// A search for the next hops of given routes that are not in use yet.
#[derive(Default, Debug)]
pub struct NextHopSearch {
    /// How many routes have been searched.
    at: usize,
    /// The next hops that were looked at, with their protections.
    seen: HashMap<NextHop, Vec<Protection<NextHop>>>,
    /// What needs a slot: a next hop with its protection, and its backup on its own.
    wanted: HashSet<(NextHop, Protection<NextHop>)>,
    new: Vec<(usize, NextHop, Protection<NextHop>)>,
    /// The part of `new` that was taken ahead of its routes.
    ahead: Vec<Option<NextHopId>>,
    leads_here: bool,
    ends: Vec<(usize, PseudowireEnd)>,
}

/// The port at one end of a pseudowire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PseudowireEnd {
    /// Its frames go into the pseudowire.
    Attachment(PortName),
    /// Frames leave by it, with this VLAN if there is one.
    Exit(PortName, Option<u16>),
}

impl PseudowireEnd {
    /// The ends that a route makes.
    pub fn of(route: &Route) -> impl Iterator<Item = Self> {
        let attachment = match route.key() {
            RouteKey::Attachment(port) => Some(Self::Attachment(port)),
            RouteKey::Label(_) | RouteKey::Prefix(_) => None,
        };
        let vlan = route.pseudowire().and_then(|pseudowire| match pseudowire.service_tag {
            ServiceTag::Vlan(vid) => Some(vid),
            ServiceTag::Raw | ServiceTag::Tagged => None,
        });
        let exit = match route.paths() {
            [
                Path {
                    action: Action::CrossConnect(port),
                    ..
                },
            ] => Some(Self::Exit(*port, vlan)),
            _ => None,
        };
        attachment.into_iter().chain(exit)
    }
}

impl NextHopSearch {
    /// Whether any of the routes is to `dev lo`.
    pub fn leads_here(&self) -> bool {
        self.leads_here
    }

    /// The ends of pseudowires, with the indexes of their routes.
    pub fn ends(&self) -> &[(usize, PseudowireEnd)] {
        &self.ends
    }

    /// What was found with this index, if there is as much: a next hop and its backup, with the index of the first route
    /// that has them.
    pub fn found(&self, at: usize) -> Option<(usize, &NextHop, Option<&NextHop>)> {
        let (index, next_hop, protection) = self.new.get(at)?;
        Some((*index, next_hop, protection.as_ref().backup()))
    }
}

/// A route that is about to be installed. It holds its share of each table.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) key: RouteKey,
    pub(super) entry: RouteEntry,
    owner: Owner,
    attributes: Attributes,
    /// For a pseudowire: what stands between the labels and a frame.
    pub(super) pseudowire: Option<Pseudowire>,
    /// The key had no route.
    pub(super) is_new: bool,
}

impl Prepared {
    pub(super) fn installed(&self) -> Installed {
        Installed {
            entry: self.entry,
            owner: self.owner,
            attributes: self.attributes,
        }
    }
}

impl<T: Tables> Lfib<T> {
    /// Goes on with a search through the routes of a change. Returns whether it is done; an error says that there is no
    /// room for what was found, and comes with the first route that has no room, however many there are.
    pub fn search(
        &mut self,
        search: &mut NextHopSearch,
        change: &Change,
        budget: &mut Budget<'_>,
    ) -> Result<bool, ChangeError> {
        if search.at == 0 {
            self.reclaim_slots();
        }
        let room = self.next_hops.room();
        while let Some((_, route)) = change.route(search.at) {
            search.ends.extend(PseudowireEnd::of(route).map(|end| (search.at, end)));
            for path in route.paths() {
                search.leads_here |= path.action == Action::Local;
                let protection = protection_of(path);
                let own = path.backup.as_ref().filter(|_| protection == Protection::OwnLabels);
                let own = own.map(|backup| (&backup.next_hop, Protection::Nothing));
                let next_hop = path.next_hop.iter().map(|next_hop| (next_hop, protection));
                for (next_hop, protection) in next_hop.chain(own) {
                    self.look_for(search, next_hop, protection);
                    if search.wanted.len() > room {
                        return Err(self.no_room_for_next_hop(search.at));
                    }
                }
            }
            search.at += 1;
            if !budget.spend(route.paths().len()) {
                return Ok(search.at == change.routes());
            }
        }
        Ok(true)
    }

    /// Notes a next hop with this protection if it is not in use.
    fn look_for(&self, search: &mut NextHopSearch, next_hop: &NextHop, protection: Protection<&NextHop>) {
        let seen = search.seen.get(next_hop);
        if seen.is_some_and(|seen| seen.iter().any(|seen| seen.as_ref() == protection)) {
            return;
        }
        let owned = protection.map(NextHop::clone);
        let seen = search.seen.entry(next_hop.clone()).or_default();
        seen.push(owned.clone());
        if self.next_hops.is_known(next_hop, protection) {
            return;
        }
        let is_known = |backup: &&NextHop| self.next_hops.is_known(backup, Protection::Nothing);
        let alone = protection.backup().filter(|backup| !is_known(backup));
        search
            .wanted
            .extend(alone.map(|backup| (backup.clone(), Protection::Nothing)));
        search.wanted.insert((next_hop.clone(), owned.clone()));
        search.new.push((search.at, next_hop.clone(), owned));
    }

    /// Takes the next hops that were found, so that they can be resolved before their routes are installed.
    /// [`Lfib::let_go`] releases those that no route uses. Returns whether all are taken.
    pub fn take_ahead(&mut self, search: &mut NextHopSearch, budget: &mut Budget<'_>) -> bool {
        while let Some((_, next_hop, protection)) = search.new.get(search.ahead.len()) {
            // If there is no more room, the change itself will be refused.
            let slot = self.next_hops.take(next_hop, protection.as_ref());
            if let Some(slot) = slot {
                self.note_backup(slot);
            }
            let id = slot.and_then(|slot| self.next_hops.at_slot(slot)).map(|(id, _)| id);
            search.ahead.push(id);
            if !budget.spend(1) {
                break;
            }
        }
        search.ahead.len() == search.new.len()
    }

    /// Releases the next hops that were taken ahead. Returns whether all are released.
    pub fn let_go(&mut self, search: &mut NextHopSearch, budget: &mut Budget<'_>) -> bool {
        // Latest first: nobody follows those yet.
        while let Some(id) = search.ahead.pop() {
            if let Some(slot) = id.and_then(|id| self.next_hops.slot(id)) {
                self.next_hops.drop_user(slot);
            }
            if !budget.spend(1) {
                break;
            }
        }
        search.ahead.is_empty()
    }

    /// Installs `routes`, however long it takes.
    pub fn change(&mut self, mode: Mode, owner: Owner, routes: &[Route]) -> Result<Changes, ChangeError> {
        let routes = Arc::new(routes.to_vec());
        self.make(Change::Install { mode, owner, routes })
    }

    /// Deletes the routes of `keys`, however long it takes.
    pub fn delete(&mut self, keys: &[RouteKey]) -> Result<Changes, ChangeError> {
        self.make(Change::Delete(Arc::new(keys.to_vec())))
    }

    /// Finds all next hops of `routes` that are not in use yet, or reports that there is no room for them.
    #[cfg(test)]
    pub fn search_all(&mut self, routes: &[Route]) -> Result<NextHopSearch, ChangeError> {
        let mut search = NextHopSearch::default();
        let change = Change::Install {
            mode: Mode::Replace,
            owner: Owner::STATIC,
            routes: Arc::new(routes.to_vec()),
        };
        while !self.search(&mut search, &change, &mut Budget::new(usize::MAX, &mut || false))? {}
        Ok(search)
    }

    /// Takes ahead everything that was found.
    #[cfg(test)]
    pub fn take_all_ahead(&mut self, search: &mut NextHopSearch) {
        self.take_ahead(search, &mut Budget::new(usize::MAX, &mut || false));
    }

    /// Releases everything that was taken ahead.
    #[cfg(test)]
    pub fn let_all_go(&mut self, search: &mut NextHopSearch) {
        self.let_go(search, &mut Budget::new(usize::MAX, &mut || false));
    }

    /// Makes a change in one go. It is refused if another is under way.
    pub fn make(&mut self, change: Change) -> Result<Changes, ChangeError> {
        if self.begin(change).is_err() {
            return Err(ChangeError::Busy);
        }
        loop {
            if let Progress::Finished(finished) = self.step(&mut Budget::new(usize::MAX, &mut || false)) {
                return finished.result;
            }
        }
    }

    /// Reports that the FTN has no room for another new route. `given` are the keys before it, and `new` is how many
    /// entries the new routes among them take.
    pub(super) fn no_room(&self, index: usize, key: RouteKey, given: &Keys, new: &mut Families) -> Option<ChangeError> {
        let RouteKey::Prefix(fec) = key else { return None };
        let new = new.of(fec.prefix);
        *new += self
            .pass
            .new_entries(fec, |other| given.contains(RouteKey::Prefix(other)));
        let taken = *self.pass.route_entries(None).of(fec.prefix);
        let capacity = self.tables.capacity().prefixes;
        let is_room = taken + *new <= capacity as usize;
        match self.pass.domains_begun() {
            _ if is_room => None,
            ..=1 => Some(ChangeError::Full {
                index,
                what: "prefix of this family",
                capacity,
                remedy: "",
            }),
            domains => Some(ChangeError::FullOfVrfs {
                index,
                key,
                capacity,
                vrfs: domains - 1,
            }),
        }
    }

    /// Takes what `route` needs from the tables, and fills the slots that no entry points to yet.
    pub(super) fn prepare(
        &mut self,
        index: usize,
        owner: Owner,
        route: &Route,
        renamed: &HashMap<Arc<str>, Arc<str>>,
    ) -> Result<Prepared, ChangeError> {
        let capacity = self.tables.capacity();
        let mut key = route.key();
        key.rename_port(renamed);
        if let RouteKey::Label(label) = key
            && label.get() >= capacity.labels
        {
            return Err(ChangeError::BeyondLabels {
                index,
                label,
                capacity: capacity.labels,
            });
        }
        let before = self.routes.get(key).map(|installed| installed.entry);
        let ttl = route.ttl_propagate();
        let entry = match route.paths() {
            [
                Path {
                    action: Action::CrossConnect(port),
                    ..
                },
            ] => self.take_exit_by(index, *port, route.pseudowire(), renamed)?,
            [path] => self.take_path(index, path, ttl, renamed)?,
            paths => {
                let group = self.take_group(index, paths, ttl, before, renamed)?;
                RouteEntry::new(Op::Group, ttl, group, 0, 0)
            }
        };
        if let (RouteKey::Attachment(port), Some(pseudowire)) = (key, route.pseudowire()) {
            let taken = self.take_entrance(index, port, pseudowire);
            taken.inspect_err(|_| self.drop_shares(entry))?;
        }
        // A route that replaces another keeps its counter.
        let slot = match before {
            Some(before) => before.slot(),
            None => self.counters.take(key, &self.tables),
        };
        let entry = RouteEntry::new(entry.op(), ttl, entry.operand(), entry.next_hop(), slot);
        Ok(Prepared {
            key,
            entry,
            owner,
            attributes: route.attributes(),
            pseudowire: route.pseudowire(),
            is_new: before.is_none(),
        })
    }

    /// The entry of a label whose frames leave by `port`, without a counter.
    fn take_exit_by(
        &mut self,
        index: usize,
        mut port: PortName,
        pseudowire: Option<Pseudowire>,
        renamed: &HashMap<Arc<str>, Arc<str>>,
    ) -> Result<RouteEntry, ChangeError> {
        port.rename(renamed);
        let slot = self.take_exit(index, port, pseudowire.unwrap_or_default())?;
        Ok(RouteEntry::new(Op::Pseudowire, TtlPropagate::Default, slot, 0, 0))
    }

    /// The entry of one path, without a counter.
    fn take_path(
        &mut self,
        index: usize,
        path: &Path,
        ttl: TtlPropagate,
        renamed: &HashMap<Arc<str>, Arc<str>>,
    ) -> Result<RouteEntry, ChangeError> {
        let with_name = |next_hop| with_new_name(next_hop, renamed);
        let next_hop = path.next_hop.as_ref().map(with_name);
        let protection = protection_of(path).map(with_name);
        let protection = protection.as_ref().map(|backup| &**backup);
        let primary = self.take_entry(index, &path.action, next_hop.as_deref(), protection, ttl)?;
        let Some(Backup {
            next_hop,
            action: Some(action),
        }) = &path.backup
        else {
            return Ok(primary);
        };
        let alone = Protection::Nothing;
        let backup = self.take_entry(index, action, Some(&with_name(next_hop)), alone, ttl);
        let backup = backup.inspect_err(|_| self.drop_shares(primary))?;
        self.take_pair(index, [primary, backup]).inspect_err(|_| {
            self.drop_shares(backup);
            self.drop_shares(primary);
        })
    }

    /// The entry of an action and a next hop, if it has one.
    fn take_entry(
        &mut self,
        index: usize,
        action: &Action,
        next_hop: Option<&NextHop>,
        protection: Protection<&NextHop>,
        ttl: TtlPropagate,
    ) -> Result<RouteEntry, ChangeError> {
        let slot = match next_hop {
            None => 0,
            Some(next_hop) => {
                let slot = self.next_hops.take(next_hop, protection);
                let slot = slot.ok_or_else(|| self.no_room_for_next_hop(index))?;
                self.note_backup(slot);
                slot
            }
        };
        match self.operation(action) {
            Some((op, operand)) => Ok(RouteEntry::new(op, ttl, operand, slot, 0)),
            None => {
                if next_hop.is_some() {
                    self.next_hops.drop_user(slot);
                }
                Err(match action {
                    Action::VrfPass(_) => ChangeError::Full {
                        index,
                        what: "VRF",
                        capacity: MAX_VRFS,
                        remedy: "",
                    },
                    _ => ChangeError::Full {
                        index,
                        what: "label stack",
                        capacity: self.tables.capacity().stacks,
                        remedy: ": start the switch with a larger `--stacks`",
                    },
                })
            }
        }
    }

    /// The entry for a next hop and a backup with labels of its own. A user of a pair is also a user of everything that
    /// its entries use.
    fn take_pair(&mut self, index: usize, entries: [RouteEntry; 2]) -> Result<RouteEntry, ChangeError> {
        let found = entries.map(|entry| self.next_hops.at_slot(entry.next_hop()).map(|(id, _)| (entry, id)));
        let pair = match found {
            [Some(primary), Some(backup)] => Some(Pair::new([primary, backup])),
            _ => None,
        };
        let taken = pair.and_then(|pair| self.backups.take(pair));
        let (slot, is_new) = taken.ok_or(ChangeError::Full {
            index,
            what: "backup with labels of its own",
            capacity: self.tables.capacity().backups,
            remedy: ": start the switch with a larger `--backups`",
        })?;
        if is_new {
            self.write_pair(slot);
        }
        Ok(RouteEntry::new(Op::Protected, entries[0].ttl_propagate(), slot, 0, 0))
    }

    fn no_room_for_next_hop(&self, index: usize) -> ChangeError {
        ChangeError::Full {
            index,
            what: "next hop",
            capacity: self.tables.capacity().adjacencies,
            remedy: "",
        }
    }

    /// The group of several paths, for a route that had `before`. Members are in the order of the paths. A user of a
    /// group is also a user of everything that its members use.
    fn take_group(
        &mut self,
        index: usize,
        paths: &[Path],
        ttl: TtlPropagate,
        before: Option<RouteEntry>,
        renamed: &HashMap<Arc<str>, Arc<str>>,
    ) -> Result<u32, ChangeError> {
        let mut entries: Vec<RouteEntry> = Vec::with_capacity(paths.len());
        let mut result = Ok(());
        for path in paths {
            match self.take_path(index, path, ttl, renamed) {
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
                Some(before) if before.op() == Op::Group => {
                    // The new group takes over from it as it should be now.
                    self.follow_group(before.operand());
                    Before::Group(before.operand())
                }
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

    fn member(&self, entry: RouteEntry, weight: u16) -> Option<Member> {
        if entry.op() == Op::Protected {
            let [next_hop, backup] = self.backups.get(entry.operand())?.next_hops();
            return Some(Member::new(entry, next_hop, Some(backup), weight));
        }
        let (next_hop, _) = uses_next_hop(entry).then(|| self.next_hops.at_slot(entry.next_hop()))??;
        Some(Member::new(entry, next_hop, None, weight))
    }

    /// Op and operand of `action`; `None` if no slot is left for its stack or VRF.
    fn operation(&mut self, action: &Action) -> Option<(Op, u32)> {
        let (labels, ttl) = match action {
            Action::Pop => return Some((Op::Pop, 0)),
            Action::PenultimatePop => return Some((Op::PenultimatePop, 0)),
            Action::Local => return Some((Op::Local, 0)),
            Action::LocalPass => return Some((Op::LocalPass, 0)),
            Action::VrfPass(name) => return Some((Op::VrfPass, self.take_vrf(name)?)),
            // It is never one of several, nor a backup.
            Action::CrossConnect(_) => return None,
            Action::Pass(reason) => return Some((Op::Pass, self.take_reason(reason.as_ref()))),
            Action::Swap(labels) => (labels.as_slice(), None),
            Action::Push { labels, ttl } => (labels.as_slice(), *ttl),
        };
        if let ([label], None) = (labels, ttl) {
            return Some((Op::Label, label.get()));
        }
        let stack = LabelStack::new(labels, ttl)?;
        let (slot, new) = self.stacks.take(&stack)?;
        if new {
            self.stack_depths[stack.depth()] += 1;
            self.tables.store_stack(slot, stack);
        }
        Some((Op::Stack, slot))
    }

    /// The number of a reason, with one more user; 0 if there is none, or no room for another one: then the route goes
    /// without.
    fn take_reason(&mut self, reason: Option<&PassReason>) -> u32 {
        let taken = reason.and_then(|reason| self.pass_reasons.take(reason));
        taken.map_or(0, |(number, _)| number + 1)
    }

    /// Updates the counters: whether the packets of a route that is about to be published count as forwarded.
    pub(super) fn follow_forwarding(&mut self, key: RouteKey, entry: RouteEntry, is_new: bool) {
        let forwarding = !matches!(entry.op(), Op::Local | Op::LocalPass | Op::Pass);
        let counted = self
            .counters
            .set_forwarding(entry.slot(), forwarding, is_new, &self.tables);
        if let Err(error) = counted {
            tracing::warn!(%key, %error, "the total of forwarded packets does not follow the new route");
        }
    }

    /// Keeps a route, or forgets it, and returns the previous one. No table is written.
    pub(super) fn put(&mut self, key: RouteKey, route: Option<Installed>) -> Option<Installed> {
        let old = match route {
            Some(route) => self.routes.insert(key, route),
            None => self.routes.remove(key),
        };
        if let Some(old) = old {
            self.counts.uncounted -= usize::from(old.entry.slot() == 0);
            self.counts.by_source[old.owner.source() as usize] -= 1;
        }
        if let Some(new) = route {
            self.counts.uncounted += usize::from(new.entry.slot() == 0);
            self.counts.by_source[new.owner.source() as usize] += 1;
        }
        old
    }

    /// Gives back what a route used and no entry points to any more. The counter is kept if the route `was_replaced`.
    pub(super) fn drop_route(&mut self, entry: RouteEntry, was_replaced: bool) {
        if !was_replaced && entry.slot() != 0 {
            self.counters.hold_back(entry.slot());
        }
        self.drop_shares(entry);
    }

    /// Removes one user from the stack and the next hop of `entry`, or from its group or pair and everything that the
    /// entries there use.
    pub(super) fn drop_shares(&mut self, entry: RouteEntry) {
        if entry.op() == Op::Group {
            let members = self.groups.members(entry.operand()).unwrap_or_default().to_vec();
            self.groups.drop_user(entry.operand());
            for member in members {
                if let Some(slot) = self.next_hops.slot(member.next_hop) {
                    self.drop_shares(member.entry().with_next_hop(slot));
                }
            }
        }
        if entry.op() == Op::Protected {
            let pair = self.backups.get(entry.operand());
            self.backups.drop_user(entry.operand());
            for (entry, id) in pair.into_iter().flat_map(Pair::entries) {
                if let Some(slot) = self.next_hops.slot(id) {
                    self.drop_shares(entry.with_next_hop(slot));
                }
            }
        }
        if entry.op() == Op::Stack
            && let Some(stack) = self.stacks.drop_user(entry.operand())
        {
            self.stack_depths[stack.depth()] -= 1;
        }
        if entry.op() == Op::VrfPass {
            self.label_vrfs.drop_user(entry.operand());
        }
        if entry.op() == Op::Pseudowire {
            self.pseudowires.drop_exit(entry.operand());
        }
        if entry.op() == Op::Pass
            && let Some(number) = entry.operand().checked_sub(1)
        {
            self.pass_reasons.drop_user(number);
            // The program does not read it, so it is free at once.
            let free = self.pass_reasons.take_held_back();
            self.pass_reasons.release(&free);
        }
        if uses_next_hop(entry) {
            self.next_hops.drop_user(entry.next_hop());
        }
    }
}

/// What stands in for the next hop of `path`.
fn protection_of(path: &Path) -> Protection<&NextHop> {
    match &path.backup {
        None => Protection::Nothing,
        Some(Backup { next_hop, action: None }) => Protection::Backup(next_hop),
        Some(Backup { action: Some(_), .. }) => Protection::OwnLabels,
    }
}

/// `next_hop` with the current name of its interface.
fn with_new_name<'a>(next_hop: &'a NextHop, renamed: &HashMap<Arc<str>, Arc<str>>) -> Cow<'a, NextHop> {
    let mut next_hop = Cow::Borrowed(next_hop);
    if !renamed.is_empty() {
        next_hop.to_mut().rename_device(renamed);
    }
    next_hop
}

//! Changes of routes. All or nothing: everything that can fail is done before the first label is published.

use std::collections::HashSet;

use mplsxdp_common::abi::{IlmEntry, LabelStack, Op, TtlPropagate};
use mplsxdp_common::wire::Label;

use super::groups::{Before, Member};
use super::next_hops::NextHopId;
use super::{Installed, Lfib, uses_next_hop};
use crate::dataplane::{TableError, Tables};
use crate::route::{Action, Attributes, NextHop, Owner, Path, Route, RouteKey};

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

/// A route that is about to be installed. It holds its share of each table.
pub(super) struct Prepared {
    pub(super) key: RouteKey,
    pub(super) entry: IlmEntry,
    pub(super) attributes: Attributes,
    pub(super) before: Option<IlmEntry>,
}

impl<T: Tables> Lfib<T> {
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

    pub(super) fn no_room_for_next_hop(&self, index: usize) -> ChangeError {
        ChangeError::Full {
            index,
            what: "next hop",
            capacity: self.tables.capacity().adjacencies,
            remedy: "",
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
    pub(super) fn drop_shares(&mut self, entry: IlmEntry) {
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

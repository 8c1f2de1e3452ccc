//! Reading routes back.

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::ops::Bound;

use ipnet::IpNet;
use mplsxdp_common::abi::{Op, RouteEntry};

use super::counters::CountedAt;
use super::groups::Member;
use super::next_hops::NextHopId;
use super::plan::Budget;
use super::spread::Spread;
use super::{Installed, Lfib, uses_next_hop};
use crate::dataplane::Tables;
use crate::route::filter::KeyFilter;
use crate::route::{Action, Attributes, Backup, Fec, OutLabels, Owner, Path, PortName, Route, RouteKey, RoutingTable};

/// A route and its state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub route: Route,
    pub owner: Owner,
    /// One for each path of the route, in their order, with its backup; none for `dev lo`.
    pub next_hops: Vec<(NextHopId, Option<NextHopId>)>,
    /// 0: not counted.
    pub counter_slot: u32,
}

/// A route as a filter sees it: what can be read without extra cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<'a> {
    pub key: RouteKey,
    pub owner: Owner,
    pub attributes: Attributes,
    way: Way<'a>,
}

/// Where the frames of a route go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way<'a> {
    Local,
    NextHop(Option<NextHopId>),
    Group(&'a [Member]),
    Port(PortName),
}

impl Candidate<'_> {
    /// Whether the route is to this machine (`dev lo`).
    pub fn is_local(&self) -> bool {
        self.way == Way::Local
    }

    /// Whether the frames of a pseudowire leave by this port.
    pub fn leaves_by(&self, port: &str) -> bool {
        matches!(&self.way, Way::Port(name) if name.as_str() == port)
    }

    /// Whether any path of the route leads to a next hop for which `is_one` is true. Backups do not count.
    pub fn leads_to(&self, is_one: impl Fn(NextHopId) -> bool) -> bool {
        match self.way {
            Way::Local | Way::Port(_) => false,
            Way::NextHop(id) => id.is_some_and(is_one),
            Way::Group(members) => members.iter().any(|member| is_one(member.next_hop)),
        }
    }
}

/// A part of a list of routes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    pub routes: Vec<Listed>,
    /// The list continues after this key; `None` at its end.
    pub after: Option<RouteKey>,
}

impl<T: Tables> Lfib<T> {
    /// Where a route is counted; `None` if it has no counter slot.
    pub fn counted_at(&self, route: &Listed) -> Option<CountedAt> {
        (route.counter_slot != 0).then(|| self.counters.place(route.counter_slot))
    }

    /// The route that is counted in this slot.
    pub fn counted_in(&self, slot: u32) -> Option<Listed> {
        let attached = || self.pseudowires.attached().map(RouteKey::Attachment);
        let mut keys = self
            .counters
            .keys_of(slot)
            .chain(std::iter::once_with(attached).flatten());
        let has_slot = |key: &RouteKey| self.routes.get(*key).is_some_and(|route| route.entry.slot() == slot);
        keys.find(has_slot).and_then(|key| self.get(key))
    }

    /// For a route with several paths: the index of the path that gets the frames of each bucket now.
    pub fn spread(&self, key: RouteKey) -> Option<&Spread> {
        let entry = self.routes.get(key)?.entry;
        if entry.op() == Op::Group {
            self.groups.spread(entry.operand())
        } else {
            None
        }
    }

    /// The route that packets to `address` take at a port of this table: that of the longest prefix.
    pub fn longest_match(&self, address: IpAddr, table: RoutingTable) -> Option<RouteKey> {
        let mut prefixes = std::iter::successors(Some(IpNet::from(address)), IpNet::supernet);
        prefixes.find_map(|prefix| self.exact_match(prefix, table))
    }

    /// The route that applies to exactly this prefix at a port of this table.
    pub fn exact_match(&self, prefix: IpNet, table: RoutingTable) -> Option<RouteKey> {
        self.pass.find_in(table, prefix).map(RouteKey::Prefix)
    }

    /// The FECs whose prefixes are within this one and that have routes, in order.
    pub fn fecs_within(&self, prefix: IpNet) -> impl Iterator<Item = Fec> {
        self.routes
            .range((
                Bound::Included(RouteKey::Prefix(prefix.trunc().into())),
                Bound::Unbounded,
            ))
            .map_while(move |(key, _)| match key {
                RouteKey::Prefix(found) if prefix.contains(&found.prefix) => Some(found),
                _ => None,
            })
    }

    /// Routes of `keys` after `after` for which `select` is true, in the order of keys. Stops at the route with which
    /// they reach `limit` paths, and after looking at `examined` routes.
    pub fn page(
        &self,
        keys: KeyFilter,
        after: Option<RouteKey>,
        limit: usize,
        examined: usize,
        select: impl Fn(&Candidate<'_>) -> bool,
    ) -> Page {
        let mut page = Page::default();
        let mut paths = 0;
        let (first, last) = keys.range();
        let start = after.map_or(first, Bound::Excluded);
        let mut rest = self.routes.range((start, last));
        for (key, installed) in rest.by_ref().take(examined) {
            page.after = Some(key);
            if select(&self.candidate_of(key, installed))
                && let Some(listed) = self.listed(key, *installed)
            {
                paths += listed.route.paths().len();
                page.routes.push(listed);
            }
            if paths >= limit {
                break;
            }
        }
        if rest.next().is_none() {
            page.after = None;
        }
        page
    }

    /// Continues, after `after`, a walk through all routes, and adds the keys of those for which `select` is true to
    /// `found`. Returns whether the walk is done.
    pub fn select_step(
        &self,
        after: &mut Option<RouteKey>,
        select: impl Fn(&Candidate<'_>) -> bool,
        found: &mut Vec<RouteKey>,
        budget: &mut Budget<'_>,
    ) -> bool {
        for (key, installed) in self.rest(*after) {
            *after = Some(key);
            if select(&self.candidate_of(key, installed)) {
                found.push(key);
            }
            if !budget.spend(1) {
                return false;
            }
        }
        true
    }

    /// The routes after the one of this key, in the order of keys.
    pub(super) fn rest(&self, after: Option<RouteKey>) -> impl Iterator<Item = (RouteKey, &Installed)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.routes.range((start, Bound::Unbounded))
    }

    pub fn candidate(&self, key: RouteKey) -> Option<Candidate<'_>> {
        Some(self.candidate_of(key, self.routes.get(key)?))
    }

    pub(super) fn candidate_of(&self, key: RouteKey, installed: &Installed) -> Candidate<'_> {
        let entry = installed.entry;
        Candidate {
            key,
            owner: installed.owner,
            attributes: installed.attributes,
            way: match entry.op() {
                Op::Local | Op::LocalPass => Way::Local,
                Op::Pseudowire => match self.pseudowires.exit(entry.operand()) {
                    Some(&(port, _)) => Way::Port(port),
                    None => Way::NextHop(None),
                },
                Op::Group => Way::Group(self.groups.members(entry.operand()).unwrap_or_default()),
                Op::Protected => Way::NextHop(self.backups.get(entry.operand()).map(|pair| pair.next_hops()[0])),
                _ if uses_next_hop(entry) => Way::NextHop(self.next_hops.at_slot(entry.next_hop()).map(|(id, _)| id)),
                _ => Way::NextHop(None),
            },
        }
    }

    /// The owner of the route with this key.
    pub fn owner(&self, key: RouteKey) -> Option<Owner> {
        self.routes.get(key).map(|installed| installed.owner)
    }

    /// The next key after this one, or the first, and the owner of its route.
    pub fn next_key(&self, after: Option<RouteKey>) -> Option<(RouteKey, Owner)> {
        self.rest(after).next().map(|(key, installed)| (key, installed.owner))
    }

    pub fn get(&self, key: RouteKey) -> Option<Listed> {
        self.routes.get(key).and_then(|&installed| self.listed(key, installed))
    }

    pub(super) fn listed(&self, key: RouteKey, installed: Installed) -> Option<Listed> {
        let Installed {
            entry,
            owner,
            attributes,
        } = installed;
        let members: Vec<(RouteEntry, Option<NextHopId>, u16)> = match entry.op() {
            Op::Group => {
                let members = self.groups.members(entry.operand())?.iter();
                members
                    .map(|member| (member.entry(), Some(member.next_hop), member.weight))
                    .collect()
            }
            Op::Protected => vec![(entry, Some(self.backups.get(entry.operand())?.next_hops()[0]), 1)],
            _ if uses_next_hop(entry) => vec![(entry, Some(self.next_hops.at_slot(entry.next_hop())?.0), 1)],
            _ => vec![(entry, None, 1)],
        };
        let mut next_hops = Vec::with_capacity(members.len());
        let mut paths = Vec::with_capacity(members.len());
        for (entry, next_hop, weight) in members {
            let (path, backup) = self.path(key, entry, next_hop, weight)?;
            paths.push(path);
            next_hops.extend(next_hop.map(|id| (id, backup)));
        }
        let route = Route::with_paths(key, paths, entry.ttl_propagate()).ok()?;
        let pseudowire = match (key, entry.op()) {
            (RouteKey::Attachment(port), _) => self.pseudowires.of_attachment(port),
            (_, Op::Pseudowire) => self
                .pseudowires
                .exit(entry.operand())
                .map(|&(_, pseudowire)| pseudowire),
            _ => None,
        };
        let route = match pseudowire {
            Some(pseudowire) => route.with_pseudowire(pseudowire).ok()?,
            None => route,
        };
        let route = route.with_attributes(attributes).ok()?;
        Some(Listed {
            route,
            owner,
            next_hops,
            counter_slot: entry.slot(),
        })
    }

    /// The path that an entry for `key`, or a bucket of it, stands for, and the backup's number.
    pub(super) fn path(
        &self,
        key: RouteKey,
        entry: RouteEntry,
        next_hop: Option<NextHopId>,
        weight: u16,
    ) -> Option<(Path, Option<NextHopId>)> {
        let named = |id: Option<NextHopId>| id.and_then(|id| self.next_hops.get(id)).cloned();
        let (entry, backup, action) = match entry.op() {
            Op::Protected => {
                let [(primary, _), (backup, id)] = self.backups.get(entry.operand())?.entries();
                (primary, Some(id), Some(self.action(key, backup)?))
            }
            _ => (entry, next_hop.and_then(|id| self.next_hops.backup(id)), None),
        };
        let path = Path {
            action: self.action(key, entry)?,
            next_hop: named(next_hop),
            backup: named(backup).map(|next_hop| Backup { next_hop, action }),
            weight,
        };
        Some((path, backup))
    }

    /// What an entry for `key`, or a bucket of it, does to the stack.
    pub(super) fn action(&self, key: RouteKey, entry: RouteEntry) -> Option<Action> {
        let (labels, ttl) = match entry.op() {
            Op::Pop => return Some(Action::Pop),
            Op::PenultimatePop => return Some(Action::PenultimatePop),
            Op::Local => return Some(Action::Local),
            Op::LocalPass => return Some(Action::LocalPass),
            Op::VrfPass => return Some(Action::VrfPass(self.label_vrfs.get(entry.operand())?.clone())),
            Op::Pseudowire => return Some(Action::CrossConnect(self.pseudowires.exit(entry.operand())?.0)),
            Op::Pass => {
                let slot = entry.operand().checked_sub(1);
                return Some(Action::Pass(slot.and_then(|slot| self.pass_reasons.get(slot)).cloned()));
            }
            Op::None | Op::Group | Op::Protected => return None,
            Op::Label => (vec![entry.out_label()], None),
            Op::Stack => {
                let stack = self.stacks.get(entry.operand())?;
                (stack.labels().collect(), NonZeroU8::new(stack.ttl()))
            }
        };
        let labels = OutLabels::new(labels).ok()?;
        Some(match key {
            RouteKey::Label(_) => Action::Swap(labels),
            RouteKey::Prefix(_) | RouteKey::Attachment(_) => Action::Push { labels, ttl },
        })
    }
}

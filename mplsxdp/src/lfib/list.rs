//! Reading routes back.

use std::collections::HashSet;
use std::num::NonZeroU8;
use std::ops::Bound;

use ipnet::IpNet;
use mplsxdp_common::abi::{Counter, IlmEntry, Op};

use super::next_hops::NextHopId;
use super::spread::Spread;
use super::{Installed, Lfib, uses_next_hop};
use crate::dataplane::{TableError, Tables};
use crate::route::{Action, Attributes, OutLabels, Owner, Path, Route, RouteKey};

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

impl<T: Tables> Lfib<T> {
    /// What a route has counted, `None` if it has no counter slot.
    pub fn counter(&self, route: &Listed) -> Option<Result<Counter, TableError>> {
        let slot = route.counter_slot;
        let raw = (slot != 0).then(|| self.tables.route_counter(slot))?;
        Some(raw.map(|raw| self.counters.since_taken(slot, raw)))
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

    pub(super) fn listed(&self, key: RouteKey, installed: Installed) -> Option<Listed> {
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
    pub(super) fn action(&self, key: RouteKey, entry: IlmEntry) -> Option<Action> {
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

//! What a source has reported so far: its routes and nexthop objects, and which keys need another look.
//!
//! Reports may come in any order. A route may come before the nexthop object that it uses; a change of an object
//! changes all routes that use it, without a message for them. After [`Mirror::begin`] the source reports everything
//! again; what it has not reported by [`Mirror::end`] is gone. Until then everything stays, so that a source that
//! restarts interrupts no traffic.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::ops::Bound;

use ipnet::IpNet;
use mplsxdp_common::wire::Label;
use smallvec::SmallVec;

use crate::lfib::Budget;
use crate::route::Source;
use crate::rtnl::{Destination, Message, Object, ObjectTo, Path, Position, Prefix, Route, To};

/// What a route is for; there is at most one installed route for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    Label(Label),
    /// A prefix in the routing table of this number.
    Prefix(u32, IpNet),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => label.fmt(f),
            Self::Prefix(table, prefix) => write!(f, "{prefix} table {table}"),
        }
    }
}

impl From<Destination> for Key {
    fn from(destination: Destination) -> Self {
        match destination {
            Destination::Label(label) => Self::Label(label),
            Destination::Prefix(Prefix { table, prefix, .. }) => Self::Prefix(table, prefix),
        }
    }
}

/// RT_TABLE_LOCAL.
const TABLE_LOCAL: u32 = 255;

/// A reported value, and the last round in which it was reported.
#[derive(Clone, Debug)]
struct Held<V> {
    round: u32,
    value: V,
}

/// How many paths a source may have: a route has one for each next hop, and a nexthop object one for each member, each at
/// least one. This is more than the tables take, and bounds the memory that a hostile routing daemon can use.
const PATHS: usize = 1 << 23;

/// How many values are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    pub labels: usize,
    pub prefixes: usize,
    pub objects: usize,
}

/// Most prefixes have one route.
type OfPrefix = SmallVec<[Held<Box<Route>>; 1]>;

#[derive(Debug)]
pub struct Mirror {
    source: Source,
    round: u32,
    labels: BTreeMap<Label, Held<Box<Route>>>,
    /// The routes of each prefix, in the order in which the kernel would try them.
    prefixes: BTreeMap<(u32, IpNet), OfPrefix>,
    objects: BTreeMap<u32, Held<ObjectTo>>,
    /// The keys whose routes use an object, even if the object is missing.
    users: BTreeMap<u32, BTreeSet<Key>>,
    /// The groups that have an object as a member.
    groups: BTreeMap<u32, BTreeSet<u32>>,
    /// Keys whose route must be worked out again.
    dirty: BTreeSet<Key>,
    /// Changed objects, each with the walk through the groups that it is a member of.
    changed_members: BTreeMap<u32, Progress<u32>>,
    /// Changed objects, each with the walk through its users.
    changed: BTreeMap<u32, Progress<Key>>,
    /// The walk that removes the objects that were not reported since a round.
    object_sweep: Option<ObjectSweep>,
    /// Other walks that are under way, each of which makes keys dirty.
    walks: VecDeque<Walk>,
    /// The paths of all values.
    paths: usize,
    max_paths: usize,
    /// Reports that had no room since the last call of [`Mirror::take_left_out`].
    left_out: u64,
}

/// The progress of a walk.
#[derive(Debug)]
struct Progress<K> {
    after: Option<K>,
    /// It begins again once it is done, because of a change that came after its beginning.
    again: bool,
}

impl<K> Progress<K> {
    /// Begins the walk for `id`, now or when the one that is under way is done.
    fn begin(walks: &mut BTreeMap<u32, Self>, id: u32) {
        let beginning = Self {
            after: None,
            again: false,
        };
        let walk = walks.entry(id).or_insert(beginning);
        walk.again = walk.after.is_some();
    }

    /// Goes on to the next item. Returns whether the walk is over.
    fn go_to(&mut self, next: Option<K>) -> bool {
        self.after = next;
        self.after.is_none() && !std::mem::take(&mut self.again)
    }
}

#[derive(Debug)]
struct ObjectSweep {
    round: u32,
    after: Option<u32>,
}

/// A walk through keys. It continues after `after`.
#[derive(Debug)]
struct Walk {
    after: Option<Key>,
    through: Through,
}

#[derive(Debug)]
enum Through {
    /// All routes: those that were not reported since this round are removed.
    Sweep(u32),
    /// The routes through these interfaces.
    Interfaces(HashSet<u32>),
    All,
}

impl Mirror {
    /// An empty mirror. The kernel is trusted with any number of routes.
    pub fn new(source: Source) -> Self {
        Self::with_room(
            source,
            match source {
                Source::Fpm => PATHS,
                Source::Static | Source::Kernel | Source::Frr => usize::MAX,
            },
        )
    }

    /// An empty mirror with room for this many paths.
    fn with_room(source: Source, max_paths: usize) -> Self {
        Self {
            source,
            round: 0,
            labels: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            objects: BTreeMap::new(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            dirty: BTreeSet::new(),
            changed_members: BTreeMap::new(),
            changed: BTreeMap::new(),
            object_sweep: None,
            walks: VecDeque::new(),
            paths: 0,
            max_paths,
            left_out: 0,
        }
    }

    /// How many reports have been left out since the last call because there is no room for them. What they replace is
    /// still held.
    pub fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    pub const fn max_paths(&self) -> usize {
        self.max_paths
    }

    /// How many keys are known to need another look.
    pub fn pending(&self) -> usize {
        self.dirty.len()
    }

    pub fn sizes(&self) -> Sizes {
        Sizes {
            labels: self.labels.len(),
            prefixes: self.prefixes.len(),
            objects: self.objects.len(),
        }
    }

    /// The source starts to report everything again.
    pub fn begin(&mut self) {
        self.round += 1;
        // Values that the previous round left over are not known to be gone.
        self.walks.retain(|walk| !matches!(walk.through, Through::Sweep(_)));
        self.object_sweep = None;
    }

    /// The source has reported everything: what it has not reported since [`Mirror::begin`] is removed.
    pub fn end(&mut self) {
        let round = self.round;
        self.object_sweep = Some(ObjectSweep { round, after: None });
        self.walk(Through::Sweep(round));
    }

    /// Takes in a report.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Route { route, position } => {
                let key = Key::from(route.destination);
                self.put(
                    paths_of(&route),
                    |mirror| mirror.paths_at(key),
                    |mirror| mirror.insert(route, position),
                );
            }
            Message::RouteGone(route) => self.remove(&route),
            Message::Object(Object { id, to }) => {
                self.put(
                    members_of(&to),
                    |mirror| mirror.members_at(id),
                    |mirror| mirror.insert_object(id, to),
                );
            }
            Message::ObjectGone(id) => self.remove_object(id),
            Message::Input { .. } | Message::InputGone { .. } => {}
        }
    }

    /// Has `insert` put a value with so many paths at a place, if there is room. `held` counts the paths there, which the
    /// value replaces: zebra has one route for a prefix.
    fn put(&mut self, paths: usize, held: impl Fn(&Self) -> usize, insert: impl FnOnce(&mut Self)) {
        let before = held(self);
        if paths > before && self.paths.saturating_add(paths - before) > self.max_paths {
            self.left_out += 1;
            return;
        }
        insert(self);
        self.paths = self.paths - before + held(self);
    }

    /// The paths of all routes of a key.
    fn paths_at(&self, key: Key) -> usize {
        match key {
            Key::Label(label) => self.labels.get(&label).map_or(0, |held| paths_of(&held.value)),
            Key::Prefix(table, prefix) => {
                let routes = self.prefixes.get(&(table, prefix)).into_iter().flatten();
                routes.map(|held| paths_of(&held.value)).sum()
            }
        }
    }

    fn members_at(&self, id: u32) -> usize {
        self.objects.get(&id).map_or(0, |held| members_of(&held.value))
    }

    /// Interfaces appeared, disappeared, or serve another purpose now.
    pub fn interfaces_changed(&mut self, ifindexes: HashSet<u32>) {
        if !ifindexes.is_empty() {
            self.walk(Through::Interfaces(ifindexes));
        }
    }

    /// Marks all routes for another look.
    pub fn look_again(&mut self) {
        self.walk(Through::All);
    }

    /// Marks these keys for another look.
    pub fn look_again_at(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.dirty.extend(keys);
    }

    /// Whether there is something to do.
    pub fn has_work(&self) -> bool {
        let has_walks = !self.changed_members.is_empty() || !self.changed.is_empty() || !self.walks.is_empty();
        !self.dirty.is_empty() || has_walks || self.object_sweep.is_some()
    }

    /// Goes on until `count` keys need another look, or the budget is spent.
    pub fn step(&mut self, count: usize, budget: &mut Budget<'_>) {
        while self.dirty.len() < count && self.advance() && budget.spend(1) {}
    }

    /// Takes one item of a walk. Returns `false` if there is no walk. The users of changed objects come first, because
    /// their packets go the wrong way until then.
    fn advance(&mut self) -> bool {
        let behind = |after: Option<u32>| (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        if let Some(mut walk) = self.changed_members.first_entry() {
            let groups = self.groups.get(walk.key());
            let next = groups.and_then(|groups| groups.range(behind(walk.get().after)).next().copied());
            if walk.get_mut().go_to(next) {
                walk.remove();
            }
            if let Some(group) = next {
                self.users_change(group);
            }
        } else if let Some(mut walk) = self.changed.first_entry() {
            let from = walk.get().after.map_or(Bound::Unbounded, Bound::Excluded);
            let users = self.users.get(walk.key());
            let next = users.and_then(|users| users.range((from, Bound::Unbounded)).next().copied());
            if walk.get_mut().go_to(next) {
                walk.remove();
            }
            self.dirty.extend(next);
        } else if let Some(ObjectSweep { round, after }) = self.object_sweep {
            let next = self.objects.range(behind(after)).next();
            let next = next.map(|(&id, held)| (id, held.round < round));
            self.object_sweep = next.map(|(id, _)| ObjectSweep { round, after: Some(id) });
            if let Some((id, true)) = next {
                self.remove_object(id);
            }
        } else if let Some(mut walk) = self.walks.pop_front() {
            let next = self.keys_after(walk.after).next();
            if let Some(key) = next {
                walk.after = Some(key);
                self.visit(key, &walk.through);
                self.walks.push_front(walk);
            }
        } else {
            return false;
        }
        true
    }

    /// Takes the first of the keys that need another look, at most `count`.
    pub fn take_some(&mut self, count: usize) -> Vec<Key> {
        let mut some = Vec::with_capacity(count.min(self.dirty.len()));
        while some.len() < count
            && let Some(key) = self.dirty.pop_first()
        {
            some.push(key);
        }
        some
    }

    /// Forgets which keys need another look.
    pub fn forget_changes(&mut self) {
        self.dirty.clear();
        self.changed_members.clear();
        self.changed.clear();
        self.walks.clear();
    }

    /// All keys that have routes, after `after`.
    pub fn keys_after(&self, after: Option<Key>) -> impl Iterator<Item = Key> + '_ {
        let labels = match after {
            None => Some(Bound::Unbounded),
            Some(Key::Label(label)) => Some(Bound::Excluded(label)),
            Some(Key::Prefix(..)) => None,
        };
        let prefixes = match after {
            Some(Key::Prefix(table, prefix)) => Bound::Excluded((table, prefix)),
            _ => Bound::Unbounded,
        };
        let labels = labels
            .into_iter()
            .flat_map(|from| self.labels.range((from, Bound::Unbounded)));
        let prefixes = self.prefixes.range((prefixes, Bound::Unbounded));
        labels
            .map(|(&label, _)| Key::Label(label))
            .chain(prefixes.map(|(&(table, prefix), _)| Key::Prefix(table, prefix)))
    }

    /// The best route of `key`: for a prefix, the first with the lowest metric. Also whether others apply only to some
    /// of its packets.
    pub fn route(&self, key: Key) -> Option<(&Route, bool)> {
        match key {
            Key::Label(label) => self.labels.get(&label).map(|held| (&*held.value, false)),
            Key::Prefix(table, prefix) => {
                let routes = self.prefixes.get(&(table, prefix))?;
                let selective = routes.iter().any(|held| is_selective(&held.value));
                routes.first().map(|held| (&*held.value, selective))
            }
        }
    }

    /// The target of a nexthop object.
    pub fn object(&self, id: u32) -> Option<&ObjectTo> {
        self.objects.get(&id).map(|held| &held.value)
    }

    fn insert(&mut self, route: Box<Route>, position: Position) {
        let round = self.round;
        let key = Key::from(route.destination);
        match route.destination {
            Destination::Label(label) => {
                let object = object_of(&route);
                let before = self.labels.insert(label, Held { round, value: route });
                let is_same =
                    before.as_ref().map(|held| &held.value) == self.labels.get(&label).map(|held| &held.value);
                if !is_same {
                    self.dirty.insert(key);
                }
                self.follow_users(key, before.and_then(|held| object_of(&held.value)), object);
            }
            Destination::Prefix(prefix) => {
                // This machine's own addresses.
                if prefix.table == TABLE_LOCAL {
                    return;
                }
                let routes = self.prefixes.entry((prefix.table, prefix.prefix)).or_default();
                let before: Vec<u32> = routes.iter().filter_map(|held| object_of(&held.value)).collect();
                let position = match self.source {
                    // Zebra has one route for a prefix, whatever its metric: others would pile up.
                    Source::Fpm => {
                        let is_other = |held: &Held<Box<Route>>| is_selective(&held.value) != prefix.selective;
                        routes.retain(|held| is_other(held) || held.value.destination == route.destination);
                        Position::Replaces
                    }
                    _ => position,
                };
                let order = |route: &Route| match route.destination {
                    Destination::Prefix(prefix) => (prefix.metric, !prefix.selective),
                    Destination::Label(_) => (0, false),
                };
                let first = routes.partition_point(|held| order(&held.value) < order(&route));
                let end = routes.partition_point(|held| order(&held.value) <= order(&route));
                let held = routes.get(first..end).unwrap_or_default();
                // IPv6 routes with the same metric are one route with several paths. A path that is reported again
                // keeps its position.
                let same = held.iter().position(|held| held.value == route);
                if position == Position::Last
                    && let Some(index) = same
                    && held[index].round != round
                {
                    // A dump has them in order.
                    let Held { value, .. } = routes.remove(first + index);
                    routes.insert(end - 1, Held { round, value });
                    if first + index != end - 1 {
                        self.dirty.insert(key);
                    }
                    return;
                }
                let replaced = match position {
                    _ if matches!(prefix.prefix, IpNet::V6(_)) && first < end => Some(first),
                    _ if same.is_some() => same.map(|index| first + index),
                    Position::Replaces if first < end => Some(first),
                    _ => None,
                };
                let held = Held { round, value: route };
                match (replaced.and_then(|index| routes.get_mut(index)), position) {
                    (Some(place), _) if place.value == held.value => place.round = round,
                    (Some(place), _) => {
                        *place = held;
                        self.dirty.insert(key);
                    }
                    (None, Position::Last) => {
                        routes.insert(end, held);
                        self.dirty.insert(key);
                    }
                    (None, _) => {
                        routes.insert(first, held);
                        self.dirty.insert(key);
                    }
                }
                self.follow_prefix_users(key, &before);
            }
        }
    }

    fn remove(&mut self, gone: &Route) {
        let key = Key::from(gone.destination);
        let before = self.paths_at(key);
        self.remove_at(key, gone);
        self.paths = self.paths - before + self.paths_at(key);
    }

    fn remove_at(&mut self, key: Key, gone: &Route) {
        match gone.destination {
            Destination::Label(label) => {
                if let Some(held) = self.labels.remove(&label) {
                    self.dirty.insert(key);
                    self.follow_users(key, object_of(&held.value), None);
                }
            }
            Destination::Prefix(prefix) => {
                let round = self.round;
                let place = (prefix.table, prefix.prefix);
                let Some(routes) = self.prefixes.get_mut(&place) else {
                    return;
                };
                let before: Vec<u32> = routes.iter().filter_map(|held| object_of(&held.value)).collect();
                let candidates = || {
                    let all = routes.iter().enumerate();
                    all.filter(|(_, held)| held.value.destination == gone.destination)
                };
                let exact = candidates().find(|(_, held)| held.value.to == gone.to);
                let Some(index) = exact.or_else(|| candidates().next()).map(|(index, _)| index) else {
                    return;
                };
                // The kernel removes single paths of IPv6 routes. Zebra names a whole route, whatever paths it lists.
                let is_partial = self.source == Source::Kernel && matches!(prefix.prefix, IpNet::V6(_));
                let left = routes.get_mut(index).filter(|_| is_partial).and_then(|held| {
                    let left = without_paths(&held.value, gone)?;
                    *held = Held {
                        round,
                        value: Box::new(left),
                    };
                    Some(())
                });
                if left.is_none() {
                    routes.remove(index);
                }
                if routes.is_empty() {
                    self.prefixes.remove(&place);
                }
                self.dirty.insert(key);
                self.follow_prefix_users(key, &before);
            }
        }
    }

    fn insert_object(&mut self, id: u32, to: ObjectTo) {
        let round = self.round;
        if let Some(held) = self.objects.get_mut(&id) {
            held.round = round;
            if held.value == to {
                return;
            }
        }
        if let ObjectTo::Group(members) = &to {
            for (member, _) in members {
                self.groups.entry(*member).or_default().insert(id);
            }
        }
        let before = self.objects.insert(id, Held { round, value: to });
        if let Some(before) = before {
            self.leave_groups(id, &before.value);
        }
        self.object_changed(id);
    }

    /// An earlier version of the object `id` was a group of these members, which may have left it.
    fn leave_groups(&mut self, id: u32, before: &ObjectTo) {
        let ObjectTo::Group(members) = before else { return };
        let still: BTreeSet<u32> = match self.objects.get(&id).map(|held| &held.value) {
            Some(ObjectTo::Group(members)) => members.iter().map(|&(member, _)| member).collect(),
            _ => BTreeSet::new(),
        };
        let left = members.iter().map(|&(member, _)| member);
        let left = left.filter(|member| !still.contains(member));
        for member in left {
            if let Some(groups) = self.groups.get_mut(&member) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.groups.remove(&member);
                }
            }
        }
    }

    /// The routes that use the object, directly or through groups, need another look.
    fn object_changed(&mut self, id: u32) {
        if self.groups.contains_key(&id) {
            Progress::begin(&mut self.changed_members, id);
        }
        self.users_change(id);
    }

    fn users_change(&mut self, id: u32) {
        if self.users.contains_key(&id) {
            Progress::begin(&mut self.changed, id);
        }
    }

    fn remove_object(&mut self, id: u32) {
        if let Some(held) = self.objects.remove(&id) {
            self.paths -= members_of(&held.value);
            self.leave_groups(id, &held.value);
            self.object_changed(id);
        }
    }

    fn follow_prefix_users(&mut self, key: Key, before: &[u32]) {
        let routes = match key {
            Key::Prefix(table, prefix) => self.prefixes.get(&(table, prefix)),
            Key::Label(_) => None,
        };
        let now: Vec<u32> = routes
            .into_iter()
            .flatten()
            .filter_map(|held| object_of(&held.value))
            .collect();
        for &id in before.iter().filter(|id| !now.contains(id)) {
            self.follow_users(key, Some(id), None);
        }
        for id in now {
            self.follow_users(key, None, Some(id));
        }
    }

    /// Notes that the route of `key` uses the object `now` instead of `before`.
    fn follow_users(&mut self, key: Key, before: Option<u32>, now: Option<u32>) {
        if before == now {
            return;
        }
        if let Some(id) = before
            && let Some(users) = self.users.get_mut(&id)
        {
            users.remove(&key);
            if users.is_empty() {
                self.users.remove(&id);
            }
        }
        if let Some(id) = now {
            self.users.entry(id).or_default().insert(key);
        }
    }

    /// Begins a walk through all keys, unless an equal one is still to begin.
    fn walk(&mut self, through: Through) {
        let mut to_begin = self.walks.iter_mut().filter(|walk| walk.after.is_none());
        let is_there = to_begin.any(|walk| match (&mut walk.through, &through) {
            (Through::All, Through::All | Through::Interfaces(_)) => true,
            (Through::Interfaces(some), Through::Interfaces(more)) => {
                some.extend(more);
                true
            }
            _ => false,
        });
        if !is_there {
            self.walks.push_back(Walk { after: None, through });
        }
    }

    fn visit(&mut self, key: Key, through: &Through) {
        match through {
            Through::All => {
                self.dirty.insert(key);
            }
            Through::Interfaces(ifindexes) => {
                if self.sends_to(key, ifindexes) {
                    self.dirty.insert(key);
                }
            }
            Through::Sweep(round) => self.sweep(key, *round),
        }
    }

    fn sweep(&mut self, key: Key, round: u32) {
        match key {
            Key::Label(label) => {
                let gone = self.labels.get(&label).filter(|held| held.round < round);
                if let Some(route) = gone.map(|held| held.value.clone()) {
                    self.remove(&route);
                }
            }
            Key::Prefix(table, prefix) => {
                let paths = self.paths_at(key);
                let Some(routes) = self.prefixes.get_mut(&(table, prefix)) else {
                    return;
                };
                if routes.iter().all(|held| held.round >= round) {
                    return;
                }
                let before: Vec<u32> = routes.iter().filter_map(|held| object_of(&held.value)).collect();
                routes.retain(|held| held.round >= round);
                if routes.is_empty() {
                    self.prefixes.remove(&(table, prefix));
                }
                self.paths = self.paths - paths + self.paths_at(key);
                self.dirty.insert(key);
                self.follow_prefix_users(key, &before);
            }
        }
    }

    fn sends_to(&self, key: Key, ifindexes: &HashSet<u32>) -> bool {
        let Some((route, _)) = self.route(key) else {
            return false;
        };
        match &route.to {
            To::Paths(paths) => paths.iter().any(|path| ifindexes.contains(&path.ifindex)),
            To::Object(id) => match self.object(*id) {
                Some(ObjectTo::Path(path)) => ifindexes.contains(&path.ifindex),
                Some(ObjectTo::Group(members)) => members.iter().any(|(id, _)| match self.object(*id) {
                    Some(ObjectTo::Path(path)) => ifindexes.contains(&path.ifindex),
                    _ => false,
                }),
                Some(ObjectTo::Blackhole) | None => false,
            },
        }
    }
}

fn paths_of(route: &Route) -> usize {
    match &route.to {
        To::Object(_) => 1,
        To::Paths(paths) => paths.len().max(1),
    }
}

fn members_of(to: &ObjectTo) -> usize {
    match to {
        ObjectTo::Path(_) | ObjectTo::Blackhole => 1,
        ObjectTo::Group(members) => members.len().max(1),
    }
}

fn object_of(route: &Route) -> Option<u32> {
    match route.to {
        To::Object(id) => Some(id),
        To::Paths(_) => None,
    }
}

fn is_selective(route: &Route) -> bool {
    matches!(route.destination, Destination::Prefix(prefix) if prefix.selective)
}

/// The rest of `route` without the paths of `gone`; `None` if nothing is left.
fn without_paths(route: &Route, gone: &Route) -> Option<Route> {
    let (To::Paths(held), To::Paths(gone)) = (&route.to, &gone.to) else {
        return None;
    };
    let is_gone = |path: &Path| {
        let mut gone = gone.iter();
        gone.any(|gone| (gone.ifindex, gone.via) == (path.ifindex, path.via))
    };
    let left = held.iter().filter(|path| !is_gone(path)).cloned().collect();
    let left = Route {
        to: To::Paths(left),
        ..route.clone()
    };
    match &left.to {
        To::Paths(paths) if gone.is_empty() || paths.is_empty() => None,
        _ => Some(left),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;
    use crate::route::Protocol;
    use crate::rtnl::Labels;

    fn path(ifindex: u32) -> Path {
        Path {
            ifindex,
            via: None,
            labels: Labels::Out(smallvec![]),
            weight: 1,
        }
    }

    fn route(destination: Destination, to: To) -> Route {
        Route {
            destination,
            protocol: Protocol(0),
            unicast: true,
            to,
            ttl_propagate: None,
        }
    }

    fn prefix(host: u8, metric: u32) -> Destination {
        Destination::Prefix(Prefix {
            table: 254,
            prefix: IpNet::new([10, 0, 0, host].into(), 32).unwrap(),
            metric,
            selective: false,
        })
    }

    fn v6(metric: u32) -> Destination {
        Destination::Prefix(Prefix {
            table: 254,
            prefix: "2001:db8::/32".parse().unwrap(),
            metric,
            selective: false,
        })
    }

    fn reported(route: Route) -> Message {
        Message::route(route, Position::Replaces)
    }

    fn drain(mirror: &mut Mirror) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        while mirror.has_work() {
            mirror.step(3, &mut Budget::new(5, &mut || false));
            keys.extend(mirror.take_some(2));
        }
        keys
    }

    fn messages() -> impl Strategy<Value = Message> {
        let to = prop_oneof![
            (1..4u32).prop_map(To::Object),
            (1..3u32).prop_map(|ifindex| To::Paths(smallvec![path(ifindex)]))
        ];
        let destination = prop_oneof![
            (16..20u32).prop_map(|label| Destination::Label(Label::from_low_bits(label))),
            (0..3u8, 0..2u32).prop_map(|(host, metric)| prefix(host, metric)),
            (0..2u32).prop_map(v6)
        ];
        let object = prop_oneof![
            (1..3u32).prop_map(|ifindex| ObjectTo::Path(path(ifindex))),
            vec((1..4u32, 1..3u32), 1..3).prop_map(ObjectTo::Group),
            Just(ObjectTo::Blackhole)
        ];
        prop_oneof![
            4 => (destination.clone(), to).prop_map(|(destination, to)| reported(route(destination, to))),
            2 => destination.prop_map(|destination| Message::gone(route(destination, To::Paths(smallvec![])))),
            2 => (1..4u32, object).prop_map(|(id, to)| Message::Object(Object { id, to })),
            1 => (1..4u32).prop_map(Message::ObjectGone),
        ]
    }

    /// What decides about the route of each key: the route itself, and the objects behind it.
    fn meaning(mirror: &Mirror, key: Key) -> Option<(Route, Vec<Option<ObjectTo>>)> {
        let (route, _) = mirror.route(key)?;
        let first = object_of(route).map(|id| mirror.object(id).cloned());
        let members = first.iter().flatten().flat_map(|to| match to {
            ObjectTo::Group(members) => members.iter().map(|(id, _)| mirror.object(*id).cloned()).collect(),
            _ => Vec::new(),
        });
        let objects = first.iter().cloned().chain(members).collect();
        Some((route.clone(), objects))
    }

    proptest! {
        /// Whatever a source reports, every key whose route has changed its meaning needs another look.
        #[test]
        fn every_change_of_a_meaning_is_noticed(rounds in vec(vec(messages(), 0..8), 1..8), replays in vec(any::<bool>(), 8)) {
            let mut mirror = Mirror::new(Source::Kernel);
            let mut known: BTreeMap<Key, (Route, Vec<Option<ObjectTo>>)> = BTreeMap::new();
            for (messages, replay) in rounds.into_iter().zip(replays) {
                if replay {
                    mirror.begin();
                }
                messages.into_iter().for_each(|message| mirror.take(message));
                if replay {
                    mirror.end();
                }
                let dirty = drain(&mut mirror);
                let now: BTreeMap<_, _> =
                    mirror.keys_after(None).filter_map(|key| Some((key, meaning(&mirror, key)?))).collect();
                let keys: BTreeSet<Key> = known.keys().chain(now.keys()).copied().collect();
                for key in keys {
                    prop_assert!(known.get(&key) == now.get(&key) || dirty.contains(&key), "{key}");
                }
                known = now;
            }
        }

        /// Whatever a source reports, it never has more paths than there is room for; all that fits is held, and what is
        /// withdrawn makes room.
        #[test]
        fn a_source_has_no_more_paths_than_there_is_room_for(
            rounds in vec(vec(messages(), 0..20), 1..6),
            max in 1..20_usize,
        ) {
            let mut mirror = Mirror::with_room(Source::Fpm, max);
            let held = |mirror: &Mirror| {
                let routes: usize = mirror.keys_after(None).map(|key| mirror.paths_at(key)).sum();
                routes + mirror.objects.keys().map(|&id| mirror.members_at(id)).sum::<usize>()
            };
            for messages in rounds {
                mirror.begin();
                for message in messages {
                    let before = held(&mirror);
                    let taken = matches!(message, Message::Route { .. } | Message::Object(_));
                    mirror.take(message);
                    prop_assert_eq!(mirror.paths, held(&mirror));
                    prop_assert!(mirror.paths <= max);
                    if mirror.take_left_out() > 0 {
                        // A route has at most one path here, and an object two members.
                        prop_assert!(taken && before + 2 > max && held(&mirror) == before);
                    }
                }
                mirror.end();
                drain(&mut mirror);
                prop_assert_eq!(mirror.paths, held(&mirror));
            }
            mirror.begin();
            mirror.end();
            drain(&mut mirror);
            prop_assert_eq!(mirror.paths, 0);
        }

        /// If a source reports everything again, what it reports remains, and nothing else.
        #[test]
        fn after_a_replay_there_is_what_was_said(before in vec(messages(), 0..20), again in vec(messages(), 0..20)) {
            let mut mirror = Mirror::new(Source::Kernel);
            before.into_iter().for_each(|message| mirror.take(message));
            let mut fresh = Mirror::new(Source::Kernel);
            // Something reported in a replay is not withdrawn in the same replay.
            let again: Vec<Message> =
                again.into_iter().filter(|message| matches!(message, Message::Route { .. } | Message::Object(_))).collect();
            mirror.begin();
            for message in again {
                fresh.take(message.clone());
                mirror.take(message);
            }
            mirror.end();
            drain(&mut mirror);
            let all = |mirror: &Mirror| mirror.keys_after(None).map(|key| (key, meaning(mirror, key))).collect::<Vec<_>>();
            prop_assert_eq!(all(&mirror), all(&fresh));
            prop_assert_eq!(mirror.sizes(), fresh.sizes());
            prop_assert_eq!(mirror.users, fresh.users);
            prop_assert_eq!(mirror.groups, fresh.groups);
        }
    }

    /// How many steps of `operations` operations the walks take; with each, the keys that it makes dirty.
    fn steps(mirror: &mut Mirror, operations: usize) -> usize {
        let mut steps = 0;
        while mirror.has_work() {
            let sizes = mirror.sizes();
            mirror.step(usize::MAX, &mut Budget::new(operations, &mut || false));
            assert!(sizes.objects - mirror.sizes().objects <= operations);
            assert!(mirror.take_some(usize::MAX).len() <= operations);
            steps += 1;
        }
        steps
    }

    #[test]
    fn objects_that_are_gone_are_removed_in_steps() {
        let mut mirror = Mirror::new(Source::Kernel);
        let object = |id| {
            Message::Object(Object {
                id,
                to: ObjectTo::Blackhole,
            })
        };
        (0..1000).map(object).for_each(|object| mirror.take(object));
        mirror.begin();
        mirror.take(object(999));
        mirror.end();
        assert_eq!(mirror.sizes().objects, 1000);
        assert_eq!(steps(&mut mirror, 10), 101);
        assert_eq!(mirror.sizes().objects, 1);
    }

    /// An object is a member of many groups, each of which has a user.
    #[test]
    fn users_of_an_object_are_found_in_steps() {
        let mut mirror = Mirror::new(Source::Kernel);
        let member = |ifindex| {
            Message::Object(Object {
                id: 1,
                to: ObjectTo::Path(path(ifindex)),
            })
        };
        mirror.take(member(1));
        for id in 100..600 {
            let to = ObjectTo::Group(vec![(1, 1), (2, 1)]);
            mirror.take(Message::Object(Object { id, to }));
            mirror.take(reported(route(
                Destination::Label(Label::from_low_bits(id)),
                To::Object(id),
            )));
        }
        drain(&mut mirror);
        mirror.take(member(2));
        assert_eq!(mirror.pending(), 0);
        // The groups, the end of that walk, and the user of each group with the end of its walk.
        assert_eq!(steps(&mut mirror, 10), (500 + 1 + 2 * 500_usize).div_ceil(10));
        // A change in the middle of a walk is not lost, and walks do not pile up.
        for ifindex in (1..3).cycle().take(50) {
            mirror.take(member(ifindex));
            mirror.step(usize::MAX, &mut Budget::new(3, &mut || false));
        }
        assert!(mirror.changed_members.len() + mirror.changed.len() <= 501);
        assert_eq!(drain(&mut mirror).len(), 500);
    }

    #[test]
    fn members_that_leave_a_large_group_are_forgotten() {
        let mut mirror = Mirror::new(Source::Kernel);
        for first in [0, 1000] {
            let to = ObjectTo::Group((first..first + 4000).map(|id| (id, 1)).collect());
            mirror.take(Message::Object(Object { id: 9000, to }));
        }
        assert!(mirror.groups.keys().copied().eq(1000..5000));
    }

    #[test]
    fn the_kernel_takes_single_paths_out_of_an_ipv6_route() {
        let mut mirror = Mirror::new(Source::Kernel);
        let two = To::Paths(smallvec![path(1), path(2)]);
        mirror.take(reported(route(v6(1), two)));
        mirror.take(Message::gone(route(v6(1), To::Paths(smallvec![path(1)]))));
        let key = Key::from(v6(1));
        let left = To::Paths(smallvec![path(2)]);
        assert_eq!(mirror.route(key).map(|(route, _)| &route.to), Some(&left));
        mirror.take(Message::gone(route(v6(1), left)));
        assert_eq!(mirror.route(key), None);
    }

    #[test]
    fn zebra_has_one_route_for_a_prefix() {
        let mut mirror = Mirror::new(Source::Fpm);
        let key = Key::from(prefix(1, 0));
        for position in [Position::Replaces, Position::First, Position::Last] {
            for metric in [20, 10, 30] {
                mirror.take(Message::Object(Object {
                    id: metric,
                    to: ObjectTo::Blackhole,
                }));
                let route = route(prefix(1, metric), To::Object(metric));
                mirror.take(Message::route(route, position));
            }
            assert_eq!(mirror.prefixes.values().map(|routes| routes.len()).sum::<usize>(), 1);
            assert_eq!(mirror.route(key).unwrap().0.to, To::Object(30));
            // The others use none of the objects any more.
            assert!(mirror.users.keys().copied().eq([30]));
            assert!(drain(&mut mirror).contains(&key));
        }
        mirror.take(Message::gone(route(prefix(1, 30), To::Paths(smallvec![]))));
        assert_eq!((mirror.route(key), mirror.users.len()), (None, 0));
    }

    #[test]
    fn a_first_route_stands_in_front_and_an_appended_one_behind() {
        let mut mirror = Mirror::new(Source::Kernel);
        let take = |mirror: &mut Mirror, ifindex, position| {
            let route = route(prefix(1, 0), To::Paths(smallvec![path(ifindex)]));
            mirror.take(Message::route(route, position));
        };
        let first = |mirror: &Mirror| match &mirror.route(Key::from(prefix(1, 0))).unwrap().0.to {
            To::Paths(paths) => paths[0].ifindex,
            To::Object(id) => panic!("{id}"),
        };
        take(&mut mirror, 1, Position::First);
        take(&mut mirror, 2, Position::Last);
        assert_eq!(first(&mirror), 1);
        // A dump has them in the kernel's order.
        mirror.begin();
        take(&mut mirror, 2, Position::Last);
        take(&mut mirror, 1, Position::Last);
        mirror.end();
        drain(&mut mirror);
        assert_eq!(first(&mirror), 2);
        mirror.begin();
        take(&mut mirror, 1, Position::Last);
        take(&mut mirror, 2, Position::Last);
        mirror.end();
        drain(&mut mirror);
        assert_eq!(first(&mirror), 1);
        take(&mut mirror, 3, Position::First);
        assert_eq!(first(&mirror), 3);
        take(&mut mirror, 4, Position::Replaces);
        assert_eq!(first(&mirror), 4);
        let gone = |ifindex| Message::gone(route(prefix(1, 0), To::Paths(smallvec![path(ifindex)])));
        mirror.take(gone(4));
        assert_eq!(first(&mirror), 1);
        mirror.take(gone(1));
        assert_eq!(first(&mirror), 2);
    }
}

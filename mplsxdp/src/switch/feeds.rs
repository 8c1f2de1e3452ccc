//! Routes of sources that the switch follows (`--sync`): the kernel, and a routing daemon. The messages of a source go
//! into its [`Mirror`] at once. The resulting routes are changed in batches, one batch of a source at a time, so that
//! only the latest state of each counts and other clients get their turn in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroU8;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tracing::{info, warn};

use super::Switch;
use super::frr::Frr;
use super::inputs::Inputs;
use super::routes::{NotChanged, RouteChange};
use crate::config::{Options, SyncSource, SyncTable};
use crate::control::api::{self, SyncState};
use crate::dataplane::Tables;
use crate::feeds::mirror::Sizes;
use crate::feeds::{Interface, InterfaceKind, Interfaces, Key, Mirror, TtlDefaults, left_to_kernel};
use crate::lfib::{Budget, Change, Mode};
use crate::neighbour::Event;
use crate::neighbour::links::Links;
use crate::ports::{Ports, Role};
use crate::route::{Fec, Owner, Route, RouteKey, RoutingTable, Source};
use crate::rtnl::{self, Message};

/// How many keys one change covers.
const BATCH: usize = 512;
/// After a larger change by another owner, the routes of all keys are looked at again, not only those of its keys.
const LOOKED_AT: usize = 1024;
/// The time between two attempts to install routes that did not fit.
pub(super) const RETRY: Duration = Duration::from_secs(10);
/// How many of them are retried at once.
pub(super) const RETRIED: usize = 64;

/// An event of a routing daemon.
#[derive(Clone, PartialEq, Debug)]
pub enum FeedEvent {
    /// It is about to send everything.
    Connected {
        peer: String,
    },
    Messages(Vec<Message>),
    /// It has sent everything.
    Synced,
    Disconnected {
        reason: String,
    },
}

/// All followed sources.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    feeds: Vec<Feed>,
    /// The routing tables whose IP routes are used, as named in the options.
    wanted_tables: Vec<SyncTable>,
    /// The same by number. A VRF's number is known once the VRF exists.
    tables: BTreeSet<u32>,
    /// The interfaces for which the routes were last worked out.
    pub(super) interfaces: HashMap<u32, Interface>,
    /// The interfaces may have changed since.
    interfaces_changed: bool,
    inputs: Inputs,
    pub(super) frr: Frr,
    /// As the routes were last made by them.
    ttl: TtlDefaults,
    /// They are the kernel's; `None`: an option says otherwise, or nothing is followed.
    reported_ttl: Option<TtlDefaults>,
    /// The ports exist.
    is_started: bool,
}

/// A followed source.
#[derive(Debug)]
struct Feed {
    source: Source,
    mirror: Mirror,
    /// The keys whose routes are being changed.
    in_flight: Vec<Key>,
    /// A change is being made.
    is_busy: bool,
    /// The keys whose routes could not be installed.
    refused: BTreeMap<Key, Refused>,
    /// When routes that did not fit were last retried, and the last of them.
    retried: Option<Instant>,
    retried_last: Option<Key>,
    /// This many keys are changed one at a time, because a change of several failed without naming the one at fault.
    one_by_one: usize,
    /// Keys of routes that the source had when an earlier process saved them. The source may have more to report, or
    /// `sweeps_stale`: those that it has not reported are deleted.
    stale: BTreeSet<RouteKey>,
    sweeps_stale: bool,
    /// Routes that another client has made in the name of the source, for keys that the source cannot have.
    foreign: Vec<RouteKey>,
    state: SyncState,
    peer: Option<String>,
    /// When it was last compared with the kernel, and the number of differences.
    audited: Option<(Instant, u64)>,
}

/// A route that could not be installed.
#[derive(Debug)]
struct Refused {
    /// The route that could not be installed; `None`: the source has withdrawn it, and there is no room for the one that
    /// would replace it. Any other route of the source is tried.
    route: Option<Route>,
    reason: String,
    is_hopeless: bool,
}

impl Interfaces for HashMap<u32, Interface> {
    fn find(&self, ifindex: u32) -> Option<Interface> {
        self.get(&ifindex).cloned()
    }
}

impl Feeds {
    pub fn new(sources: &[SyncSource], tables: &[SyncTable]) -> Self {
        // FRR reports no changes, but what it has.
        let mirrored = sources.iter().filter(|source| source.frr_directory().is_none());
        let feeds = mirrored.map(SyncSource::source).map(|source| Feed {
            source,
            mirror: Mirror::new(source),
            in_flight: Vec::new(),
            is_busy: false,
            refused: BTreeMap::new(),
            retried: None,
            retried_last: None,
            one_by_one: 0,
            stale: BTreeSet::new(),
            sweeps_stale: false,
            foreign: Vec::new(),
            state: SyncState::default(),
            peer: None,
            audited: None,
        });
        let follows_frr = sources.iter().any(|source| source.frr_directory().is_some());
        Self {
            feeds: feeds.collect(),
            wanted_tables: match tables {
                [] => vec![SyncTable::MAIN],
                tables => tables.to_vec(),
            },
            frr: Frr::new(follows_frr),
            ..Self::default()
        }
    }

    pub fn has_work(&self) -> bool {
        let has_work = |feed: &Feed| feed.mirror.has_work() || !feed.foreign.is_empty() || feed.has_to_sweep();
        let is_free = |feed: &Feed| !feed.is_busy && has_work(feed);
        let has_others = || self.interfaces_changed || self.inputs.has_work() || self.frr.has_work();
        self.is_started && (has_others() || self.feeds.iter().any(is_free))
    }

    /// Allows routes to be installed from now on.
    pub fn start(&mut self) {
        self.is_started = true;
        self.interfaces_changed = true;
    }

    /// These routes of a source were restored.
    pub fn set_stale(&mut self, source: Source, keys: BTreeSet<RouteKey>) {
        if let Some(feed) = self.get_mut(source) {
            feed.sweeps_stale = feed.state == SyncState::Synced;
            feed.stale = keys;
        }
    }

    /// Whether the source may still report a route that was restored.
    pub fn is_stale(&self, source: Source, key: RouteKey) -> bool {
        self.get(source).is_some_and(|feed| feed.stale.contains(&key))
    }

    /// Interfaces may have appeared, disappeared, or changed their purpose.
    pub fn interfaces_may_have_changed(&mut self) {
        self.interfaces_changed = true;
    }

    /// The kernel's settings of its network namespace. What an option says takes the place of them.
    pub fn set_ttl(&mut self, kernels: TtlDefaults, options: &Options) {
        if self.is_empty() || options.ttl_propagate.is_some() {
            return;
        }
        let imposed = options.tunnel_ttl.and_then(|ttl| NonZeroU8::new(ttl.get()));
        let ttl = TtlDefaults {
            imposed: imposed.unwrap_or(kernels.imposed),
            ..kernels
        };
        self.reported_ttl = Some(ttl);
        if ttl != self.ttl {
            let TtlDefaults { propagates, imposed } = ttl;
            info!(
                "followed: net.mpls.ip_ttl_propagate is {}, the TTL of labels imposed without it is {imposed}",
                u8::from(propagates)
            );
            self.ttl = ttl;
            self.feeds.iter_mut().for_each(|feed| feed.mirror.look_again());
        }
    }

    /// The settings that apply to the sources' routes, unless an option says otherwise.
    pub fn reported_ttl(&self) -> Option<TtlDefaults> {
        self.reported_ttl
    }

    pub fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }

    /// The tables contain everything that was reported.
    pub fn is_followed(&self) -> bool {
        let is_idle = |feed: &Feed| !feed.is_busy && !feed.mirror.has_work() && !feed.has_to_sweep();
        !self.interfaces_changed && !self.inputs.has_work() && self.feeds.iter().all(is_idle)
    }

    /// The route that a source has reported for a key.
    pub fn reported(&self, source: Source, key: Key) -> Option<&rtnl::Route> {
        self.get(source)?.mirror.route(key).map(|(route, _)| route)
    }

    /// The next key after `after` that a source has a route for.
    pub fn next_key(&self, source: Source, after: Option<Key>) -> Option<Key> {
        self.get(source)?.mirror.keys_after(after).next()
    }

    /// Marks these keys: their routes are not those of the source.
    pub fn repair(&mut self, source: Source, keys: impl Iterator<Item = RouteKey>) {
        let Some(feed) = self.get_mut(source) else { return };
        for key in keys {
            match key_of(key) {
                Some(key) => feed.mirror.look_again_at([key]),
                None => feed.foreign.push(key),
            }
        }
    }

    /// All routes of a source may differ from what it wants: they are looked at again in steps.
    pub fn look_again(&mut self, source: Source) {
        if let Some(feed) = self.get_mut(source) {
            feed.mirror.look_again();
        }
    }

    /// The routes of all sources are looked at again, in steps.
    pub fn look_at_all_again(&mut self) {
        self.feeds.iter_mut().for_each(|feed| feed.mirror.look_again());
    }

    /// FRR may name backups by addresses alone.
    pub fn addresses_changed(&mut self) {
        if self.frr.has_backups() {
            self.look_at_all_again();
        }
    }

    /// The routes of all sources for these keys are looked at again.
    pub fn look_again_at(&mut self, keys: &[Key]) {
        for feed in &mut self.feeds {
            let reported = keys.iter().filter(|&&key| feed.mirror.route(key).is_some());
            let reported: Vec<Key> = reported.copied().collect();
            feed.mirror.look_again_at(reported);
        }
    }

    /// An audit has ended.
    pub fn audited(&mut self, checks: &[api::SyncCheck], now: Instant) {
        for check in checks {
            let differences = check.stale + check.missing + check.different + check.unmatched;
            if let Some(feed) = self.feeds.iter_mut().find(|feed| feed.source.name() == check.source) {
                feed.audited = Some((now, differences));
                feed.retry_refused(now);
            }
        }
    }

    /// The sources, as clients see them.
    pub fn report(&self, now: Instant) -> Vec<api::SyncSource> {
        let sources = self.feeds.iter().map(|feed| {
            let Sizes {
                labels,
                prefixes,
                objects,
            } = feed.mirror.sizes();
            api::SyncSource {
                source: feed.source.to_string(),
                state: feed.state,
                peer: feed.peer.clone(),
                labels: labels as u64,
                prefixes: prefixes as u64,
                nexthop_objects: objects as u64,
                pending: (feed.mirror.pending() + feed.in_flight.len()) as u64,
                refused: feed.refused.len() as u64,
                audited_seconds: feed
                    .audited
                    .map(|(then, _)| now.saturating_duration_since(then).as_secs_f64()),
                differences: feed.audited.map(|(_, differences)| differences),
                ip_ttl_propagate: self.reported_ttl.map(|ttl| ttl.propagates),
                default_ttl: self.reported_ttl.map(|ttl| ttl.imposed.get()),
                // The server reports for itself.
                server: None,
                vty: None,
            }
        });
        sources.chain(self.frr.report()).collect()
    }

    pub fn follows(&self, source: Source) -> bool {
        self.feeds.iter().any(|feed| feed.source == source)
    }

    /// What was reported so far has no effect on routes.
    #[cfg(test)]
    pub fn forget_changes(&mut self, source: Source) {
        if let Some(feed) = self.get_mut(source) {
            feed.mirror.forget_changes();
        }
    }

    fn get(&self, source: Source) -> Option<&Feed> {
        self.feeds.iter().find(|feed| feed.source == source)
    }

    fn get_mut(&mut self, source: Source) -> Option<&mut Feed> {
        self.feeds.iter_mut().find(|feed| feed.source == source)
    }

    pub fn begin(&mut self, source: Source) {
        if let Some(feed) = self.get_mut(source) {
            feed.mirror.begin();
            feed.state = SyncState::Syncing;
        }
    }

    pub fn end(&mut self, source: Source) {
        if let Some(feed) = self.get_mut(source) {
            feed.mirror.end();
            feed.state = SyncState::Synced;
            feed.sweeps_stale = true;
        }
    }

    pub fn take(&mut self, source: Source, message: Message) {
        let Self { feeds, frr, .. } = self;
        if let Some(feed) = feeds.iter_mut().find(|feed| feed.source == source) {
            frr.note(&message, &feed.mirror);
            feed.mirror.take(message);
        }
    }

    fn follow_interfaces(&mut self, ports: &Ports, links: &Links) {
        let vrf = |name: &str| links.by_name(name).and_then(|link| link.vrf_table);
        let tables = self.wanted_tables.iter().filter_map(|table| match table {
            SyncTable::Number(number) => Some(*number),
            SyncTable::Vrf(name) => vrf(name),
        });
        let tables = tables.collect();
        if tables != self.tables {
            self.tables = tables;
            self.feeds.iter_mut().for_each(|feed| feed.mirror.look_again());
        }
        let interfaces: HashMap<u32, Interface> = links
            .iter()
            .map(|link| {
                let port = ports
                    .by_ifindex(link.ifindex)
                    .filter(|port| port.role() != Role::ParentOnly);
                let kind = match port {
                    Some(_) => InterfaceKind::Port,
                    None if link.loopback => InterfaceKind::Loopback,
                    None if link.vrf_table.is_some() => InterfaceKind::Vrf,
                    None => InterfaceKind::Other,
                };
                let name = port.map_or_else(|| link.name.clone(), |port| Arc::from(port.name()));
                (link.ifindex, Interface { name, kind })
            })
            .collect();
        let before = std::mem::replace(&mut self.interfaces, interfaces);
        let changed = |ifindex: &&u32| before.get(ifindex) != self.interfaces.get(ifindex);
        let changed: HashSet<u32> = before
            .keys()
            .chain(self.interfaces.keys())
            .filter(changed)
            .copied()
            .collect();
        // Backups may lead through them.
        if !changed.is_empty() && self.frr.has_backups() {
            self.look_at_all_again();
        }
        for feed in &mut self.feeds {
            feed.mirror.interfaces_changed(changed.clone());
        }
        self.interfaces_changed = false;
    }
}

impl<T: Tables> Switch<T> {
    /// Takes in the kernel's reports about its routes.
    pub(super) fn feed_kernel(&mut self, events: Vec<Event>) {
        if !self.feeds.follows(Source::Kernel) {
            return;
        }
        for event in events {
            match event {
                Event::Reset => self.feeds.begin(Source::Kernel),
                Event::Synced => {
                    self.feeds.end(Source::Kernel);
                    self.audits.resynced();
                }
                Event::Routing(message) => match *message {
                    Message::Input { ifindex, accepted } => self.feeds.inputs.set(ifindex, accepted),
                    Message::InputGone { ifindex } => self.feeds.inputs.set(ifindex, false),
                    message => self.feeds.take(Source::Kernel, message),
                },
                _ => {}
            }
        }
    }

    pub(super) fn feed_event(&mut self, event: FeedEvent) {
        let feeds = &mut self.feeds;
        match event {
            FeedEvent::Connected { peer } => {
                info!(%peer, "a routing daemon has connected");
                feeds.begin(Source::Fpm);
                if let Some(feed) = feeds.get_mut(Source::Fpm) {
                    feed.peer = Some(peer);
                }
            }
            FeedEvent::Messages(messages) => {
                for message in messages {
                    feeds.take(Source::Fpm, message);
                }
                if let Some(feed) = feeds.get_mut(Source::Fpm) {
                    let left_out = feed.mirror.take_left_out();
                    if left_out > 0 {
                        let limit = feed.mirror.max_paths();
                        warn!(
                            left_out,
                            "the routing daemon has sent more than {limit} paths (a route has one for each next hop, and a nexthop \
                             group one for each member): what exceeds that is left out, and comes when \
                             the daemon connects again and has less"
                        );
                    }
                }
            }
            FeedEvent::Synced => {
                info!("the routing daemon has sent all of its routes");
                feeds.end(Source::Fpm);
            }
            FeedEvent::Disconnected { reason } => {
                if let Some(feed) = feeds.get_mut(Source::Fpm) {
                    feed.state = SyncState::Lost;
                }
                warn!(%reason, "the routing daemon has disconnected; its routes stay until one has sent its routes again");
            }
        }
    }

    /// Installs the routes of the sources.
    pub(super) fn feed_step(&mut self, budget: &mut Budget<'_>, now: Instant) {
        if self.feeds.interfaces_changed {
            self.feeds.follow_interfaces(&self.ports, self.resolver.links());
            self.feeds.inputs.ports_may_have_changed();
        }
        if self.feeds.inputs.has_work() {
            self.feeds.inputs.follow(&mut self.ports, self.lfib.tables_mut());
        }
        self.follow_frr_pseudowires();
        for index in 0..self.feeds.feeds.len() {
            let Some(feed) = self.feeds.feeds.get_mut(index).filter(|feed| !feed.is_busy) else {
                continue;
            };
            feed.mirror.step(BATCH, budget);
            let batch = if feed.one_by_one > 0 { 1 } else { BATCH };
            let keys = feed.mirror.take_some(batch);
            feed.one_by_one = feed.one_by_one.saturating_sub(keys.len());
            let mut gone = std::mem::take(&mut feed.foreign);
            if keys.is_empty() && gone.is_empty() {
                gone = feed.take_stale(budget);
            }
            if keys.is_empty() && gone.is_empty() {
                continue;
            }
            let source = feed.source;
            let mut routes = Vec::new();
            let mut done = Vec::with_capacity(keys.len());
            let mut keys = keys.into_iter();
            for key in keys.by_ref() {
                done.push(key);
                self.forget_refusal(index, key);
                let route = self.wanted(source, key, None);
                let is_left = budget.spend(1 + route.as_ref().map_or(0, |route| route.paths().len()));
                match route {
                    Some(route) => routes.push((Owner::Of(source), route)),
                    None => gone.push(route_key(key)),
                }
                if !is_left {
                    break;
                }
            }
            if let Some(feed) = self.feeds.feeds.get_mut(index) {
                (feed.is_busy, feed.in_flight) = (true, done);
                feed.mirror.look_again_at(keys);
            }
            self.change_routes(RouteChange::follow(source, routes, gone), now);
            if !budget.is_left() {
                break;
            }
        }
    }

    /// The route to install for a key, from the source's mirror or from `mirror`. `None` if there should be none.
    pub(super) fn wanted(&self, source: Source, key: Key, mirror: Option<&Mirror>) -> Option<Route> {
        let feed = self.feeds.get(source)?;
        let is_meant = match key {
            Key::Label(label) => label.get() < self.lfib.tables().capacity().labels,
            Key::Prefix(table, prefix) => self.feeds.tables.contains(&table) && !self.is_overridden(source, prefix),
        };
        if !is_meant {
            return None;
        }
        let mirror = mirror.unwrap_or(&feed.mirror);
        let route = mirror.wanted(key, route_key(key), &self.feeds.interfaces, self.feeds.ttl);
        match feed.refused.get(&key).filter(|refused| refused.route == route) {
            Some(refused) if refused.is_hopeless => None,
            Some(refused) => {
                let attributes = route.map(|route| route.attributes()).unwrap_or_default();
                left_to_kernel(route_key(key), &refused.reason, attributes)
            }
            None => route.map(|route| self.with_frr_backups(source, key, route)),
        }
    }

    /// Forgets that there was no room for what a source had for a key, if it has something else now.
    fn forget_refusal(&mut self, index: usize, key: Key) {
        let Feeds {
            feeds, interfaces, ttl, ..
        } = &mut self.feeds;
        let Some(feed) = feeds.get_mut(index) else { return };
        if let Some(refused) = feed.refused.get(&key)
            && feed.mirror.wanted(key, route_key(key), interfaces, *ttl) != refused.route
        {
            feed.refused.remove(&key);
        }
    }

    /// Whether a preferred owner has a route for this prefix without a table. A source's route of one table would
    /// replace it there.
    fn is_overridden(&self, source: Source, prefix: IpNet) -> bool {
        let owner = self.lfib.owner(RouteKey::Prefix(Fec::new(prefix, None)));
        owner.is_some_and(|owner| self.rib.prefers(owner, Owner::Of(source)))
    }

    /// Another client has changed routes in the name of `source`. They may override those of a source. A routing
    /// daemon's routes are restored at once; the kernel's by the next audit.
    pub(super) fn look_at_changed(&mut self, source: Source, change: &Change) {
        if self.feeds.is_empty() {
            return;
        }
        let Feeds { feeds, tables, .. } = &mut self.feeds;
        let mut look_at = |key: RouteKey| {
            let keys: Vec<Key> = match (key, key_of(key)) {
                (_, Some(key)) if source == Source::Fpm => vec![key],
                (_, Some(_)) => Vec::new(),
                (RouteKey::Prefix(fec), None) => tables.iter().map(|&table| Key::Prefix(table, fec.prefix)).collect(),
                (RouteKey::Label(_) | RouteKey::Attachment(_), None) => Vec::new(),
            };
            feeds
                .iter_mut()
                .for_each(|feed| feed.mirror.look_again_at(keys.iter().copied()));
        };
        match change {
            Change::Install {
                mode: Mode::ReplaceAll, ..
            }
            | Change::Flush(_) => feeds.iter_mut().for_each(|feed| feed.mirror.look_again()),
            // In steps.
            _ if change.given() > LOOKED_AT => feeds.iter_mut().for_each(|feed| feed.mirror.look_again()),
            Change::Install { routes, .. } => routes.iter().map(Route::key).for_each(&mut look_at),
            Change::Settle { routes, deleted } => {
                routes.iter().map(|(_, route)| route.key()).for_each(&mut look_at);
                deleted.iter().copied().for_each(&mut look_at);
            }
            Change::Delete(keys) => keys.iter().copied().for_each(&mut look_at),
        }
    }

    /// A change by [`Switch::feed_step`] is done. `result` is the number of deleted routes.
    pub(super) fn fed(&mut self, source: Source, result: Result<u64, &NotChanged>, change: &Change, now: Instant) {
        let attempted = match change {
            Change::Settle { routes, .. } => routes.first().map(|(_, route)| route),
            _ => None,
        };
        let with_backups = attempted.is_some_and(|route| self.has_frr_backups(source, route));
        let Feeds { feeds, frr, .. } = &mut self.feeds;
        let Some(feed) = feeds.iter_mut().find(|feed| feed.source == source) else {
            return;
        };
        feed.is_busy = false;
        let keys = std::mem::take(&mut feed.in_flight);
        let reason = match result {
            Ok(0) => return,
            Ok(_) => {
                feed.retry_refused(now);
                for (source, key) in frr.retry(now) {
                    let of_source = feeds.iter_mut().filter(|feed| feed.source == source);
                    of_source.for_each(|feed| feed.mirror.look_again_at([key]));
                }
                return;
            }
            Err(NotChanged::Change(error)) => error.to_string(),
            Err(NotChanged::Refused(refusal)) => refusal.to_string(),
        };
        let &[key] = &keys[..] else {
            // One of them cannot be changed; the others can.
            feed.one_by_one = keys.len();
            return feed.mirror.look_again_at(keys);
        };
        if with_backups {
            warn!(%source, %key, %reason, "a route cannot be made with the backups that FRR has for it, and is made without");
            frr.refuse(source, key);
            return feed.mirror.look_again_at([key]);
        }
        let attempted = attempted.cloned();
        let before = feed.refused.remove(&key);
        let refused = Refused {
            reason,
            // The route that leaves it to the kernel could not be installed either.
            is_hopeless: before.is_some(),
            route: before.map_or(attempted, |before| before.route),
        };
        warn!(%source, %key, reason = %refused.reason, "a route of a source cannot be made, and is left to the kernel");
        if !refused.is_hopeless {
            feed.mirror.look_again_at([key]);
        }
        feed.refused.insert(key, refused);
    }
}

impl Feed {
    fn has_to_sweep(&self) -> bool {
        self.sweeps_stale && !self.stale.is_empty()
    }

    /// Some of the keys that the source has not reported again.
    fn take_stale(&mut self, budget: &mut Budget<'_>) -> Vec<RouteKey> {
        let mut gone = Vec::new();
        while self.has_to_sweep()
            && gone.len() < BATCH
            && budget.is_left()
            && let Some(key) = self.stale.pop_first()
        {
            if key_of(key).is_none_or(|key| self.mirror.route(key).is_none()) {
                gone.push(key);
            }
            budget.spend(1);
        }
        gone
    }

    /// Retries some of the routes that did not fit.
    fn retry_refused(&mut self, now: Instant) {
        if self
            .retried
            .is_none_or(|then| now.saturating_duration_since(then) >= RETRY)
        {
            self.retried = Some(now);
            let last = self.retried_last;
            let behind = self
                .refused
                .range((last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
            let before = last.map(|last| self.refused.range(..=last));
            let next = behind.chain(before.into_iter().flatten()).map(|(&key, _)| key);
            let some: Vec<Key> = next.take(RETRIED).collect();
            self.retried_last = some.last().copied();
            some.iter().for_each(|key| drop(self.refused.remove(key)));
            self.mirror.look_again_at(some);
        }
    }
}

/// The RIB's key for a source's `key`.
pub(super) fn route_key(key: Key) -> RouteKey {
    match key {
        Key::Label(label) => RouteKey::Label(label),
        Key::Prefix(table, prefix) => RouteKey::Prefix(Fec::new(prefix, Some(RoutingTable(table)))),
    }
}

/// A source's key for the RIB's `key`; `None` if no source can have it.
pub(super) fn key_of(key: RouteKey) -> Option<Key> {
    match key {
        RouteKey::Label(label) => Some(Key::Label(label)),
        RouteKey::Prefix(Fec { prefix, table }) => table.map(|RoutingTable(table)| Key::Prefix(table, prefix)),
        RouteKey::Attachment(_) => None,
    }
}

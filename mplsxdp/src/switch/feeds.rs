//! Routes of sources that the switch follows (`--sync`): the kernel, and a routing daemon. What a
//! source says goes into its [`Mirror`] at once. The routes that come of it are changed in batches,
//! one batch of a source at a time, so that the newest word on each counts and other clients have
//! their turn in between.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::routes::{NotChanged, RouteChange};
use super::{Switch, TABLE_MAIN};
use crate::config::{SyncSource, SyncTable};
use crate::dataplane::Tables;
use crate::feeds::{Interface, InterfaceKind, Interfaces, Key, Mirror, Wanted};
use crate::lfib::{Budget, Change, ChangeError};
use crate::neighbour::Event;
use crate::neighbour::LinkInfo;
use crate::neighbour::links::Links;
use crate::ports::{Port, Ports, Role};
use crate::route::{Fec, Owner, Route, RouteKey, RoutingTable, Source};
use crate::rtnl::Message;

/// How many keys one change is about.
const BATCH: usize = 512;

/// What comes from a routing daemon.
#[derive(Clone, PartialEq, Debug)]
pub enum FeedEvent {
    /// It is about to say everything.
    Connected {
        peer: String,
    },
    Messages(Vec<Message>),
    /// It has said everything.
    Synced,
    Disconnected {
        reason: String,
    },
}

/// All sources that are followed.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    feeds: Vec<Feed>,
    /// The interfaces as the routes were last made for them.
    interfaces: HashMap<u32, Interface>,
    /// They may be others now.
    interfaces_changed: bool,
    /// The interfaces on which the kernel accepts labels; `None`: it has no MPLS.
    inputs: Option<HashSet<u32>>,
    /// The ports are there.
    is_started: bool,
}

/// A source that is followed.
#[derive(Debug)]
struct Feed {
    source: Source,
    mirror: Mirror,
    /// The keys whose routes are being changed.
    in_flight: Vec<Key>,
    /// The keys whose routes there was no room for, and why.
    refused: HashMap<Key, String>,
}

impl Interfaces for HashMap<u32, Interface> {
    fn find(&self, ifindex: u32) -> Option<Interface> {
        self.get(&ifindex).cloned()
    }
}

impl Feeds {
    pub fn new(sources: &[SyncSource], tables: &[SyncTable]) -> Self {
        let numbers = tables.iter().filter_map(|table| match table {
            SyncTable::Number(number) => Some(*number),
            SyncTable::Vrf(_) => None,
        });
        let mut numbers: BTreeSet<u32> = numbers.collect();
        if tables.is_empty() {
            numbers.insert(TABLE_MAIN);
        }
        let feeds = sources.iter().map(|source| {
            let source = match source {
                SyncSource::Kernel => Source::Kernel,
                SyncSource::Fpm(_) => Source::Fpm,
            };
            Feed {
                source,
                mirror: Mirror::new(source, numbers.clone()),
                in_flight: Vec::new(),
                refused: HashMap::new(),
            }
        });
        Self {
            feeds: feeds.collect(),
            ..Self::default()
        }
    }

    pub fn has_work(&self) -> bool {
        let is_free = |feed: &Feed| feed.in_flight.is_empty() && feed.mirror.has_work();
        self.is_started && (self.interfaces_changed || self.feeds.iter().any(is_free))
    }

    /// The routes can be made from now on.
    pub fn start(&mut self) {
        self.is_started = true;
        self.interfaces_changed = true;
    }

    /// Interfaces may have come, gone, or serve for something else.
    pub fn interfaces_may_have_changed(&mut self) {
        self.interfaces_changed = true;
    }

    pub fn follows(&self, source: Source) -> bool {
        self.feeds.iter().any(|feed| feed.source == source)
    }

    fn get_mut(&mut self, source: Source) -> Option<&mut Feed> {
        self.feeds.iter_mut().find(|feed| feed.source == source)
    }

    pub fn begin(&mut self, source: Source) {
        if let Some(feed) = self.get_mut(source) {
            feed.mirror.begin();
        }
    }

    pub fn end(&mut self, source: Source) {
        if let Some(feed) = self.get_mut(source) {
            feed.mirror.end();
        }
    }

    pub fn take(&mut self, source: Source, message: Message) {
        if let Some(feed) = self.get_mut(source) {
            feed.mirror.take(message);
        }
    }

    fn set_input(&mut self, ifindex: u32, accepted: bool) {
        let is_first = self.inputs.is_none();
        let inputs = self.inputs.get_or_insert_default();
        let changed = match accepted {
            true => inputs.insert(ifindex),
            false => inputs.remove(&ifindex),
        };
        self.interfaces_changed |= changed || is_first;
    }

    /// Ports accept labels if the kernel does.
    fn follow_inputs(&self, ports: &mut Ports, tables: &mut impl Tables) {
        let Some(inputs) = &self.inputs else { return };
        let kernels = ports
            .iter()
            .map(Port::ifindex)
            .filter(|&ifindex| ifindex < LinkInfo::FIRST_VIRTUAL);
        for ifindex in kernels.collect::<Vec<_>>() {
            let accepted = inputs.contains(&ifindex);
            let Some(port) = ports.set_kernel_input(ifindex, accepted, tables) else {
                continue;
            };
            match accepted {
                true => info!(
                    port = port.name(),
                    "the kernel accepts labels here, and so does the switch"
                ),
                false => warn!(
                    port = port.name(),
                    "the kernel accepts no labels here, and neither does the switch: `sysctl net.mpls.conf.{}.input=1`",
                    port.name()
                ),
            }
        }
    }

    fn follow_interfaces(&mut self, ports: &Ports, links: &Links) {
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
        for feed in &mut self.feeds {
            feed.mirror.interfaces_changed(changed.clone());
        }
        self.interfaces_changed = false;
    }
}

impl<T: Tables> Switch<T> {
    /// What the kernel has said of its routes.
    pub(super) fn feed_kernel(&mut self, events: Vec<Event>) {
        if !self.feeds.follows(Source::Kernel) {
            return;
        }
        for event in events {
            match event {
                Event::Reset => self.feeds.begin(Source::Kernel),
                Event::Synced => self.feeds.end(Source::Kernel),
                Event::Routing(message) => match *message {
                    Message::Input {
                        ifindex,
                        accepted: true,
                    } => self.feeds.set_input(ifindex, true),
                    Message::Input { ifindex, .. } | Message::InputGone { ifindex } => {
                        self.feeds.set_input(ifindex, false);
                    }
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
            }
            FeedEvent::Messages(messages) => {
                for message in messages {
                    feeds.take(Source::Fpm, message);
                }
            }
            FeedEvent::Synced => {
                info!("the routing daemon has sent all of its routes");
                feeds.end(Source::Fpm);
            }
            FeedEvent::Disconnected { reason } => {
                warn!(%reason, "the routing daemon has disconnected; its routes stay until one has sent its routes again");
            }
        }
    }

    /// Makes routes of what the sources have said.
    pub(super) fn feed_step(&mut self, budget: &mut Budget<'_>, now: Instant) {
        if self.feeds.interfaces_changed {
            self.feeds.follow_interfaces(&self.ports, self.resolver.links());
            if self.feeds.follows(Source::Kernel) {
                self.feeds.follow_inputs(&mut self.ports, self.lfib.tables_mut());
            }
        }
        let mut changes = Vec::new();
        let capacity = self.lfib.tables().capacity().labels;
        for feed in self.feeds.feeds.iter_mut().filter(|feed| feed.in_flight.is_empty()) {
            feed.mirror.step(BATCH, budget);
            let keys = feed.mirror.take_some(BATCH);
            if keys.is_empty() {
                continue;
            }
            let mut routes = Vec::new();
            let mut gone = Vec::new();
            for &key in &keys {
                let route_key = route_key(key);
                match feed.route(key, route_key, capacity, &self.feeds.interfaces) {
                    Some(route) => routes.push((Owner::Of(feed.source), route)),
                    None => gone.push(route_key),
                }
            }
            feed.in_flight = keys;
            changes.push(RouteChange::follow(feed.source, routes, gone));
            if !budget.spend(BATCH) {
                break;
            }
        }
        for change in changes {
            self.change_routes(change, now);
        }
    }

    /// A change by [`Switch::feed_step`] is done.
    pub(super) fn fed(&mut self, source: Source, result: Result<(), &NotChanged>, change: &Change) {
        let Some(feed) = self.feeds.get_mut(source) else { return };
        let keys = std::mem::take(&mut feed.in_flight);
        let Err(error) = result else {
            if matches!(change, Change::Settle { deleted, .. } if !deleted.is_empty()) {
                // There may be room now.
                let refused = std::mem::take(&mut feed.refused);
                feed.mirror.look_again_at(refused.into_keys());
            }
            return;
        };
        let (reason, index) = match error {
            NotChanged::Change(error @ ChangeError::Busy) => (error.to_string(), None),
            NotChanged::Change(error) => (error.to_string(), error.index()),
            NotChanged::Refused(refusal) => (refusal.to_string(), None),
        };
        let key = index.and_then(|index| match change {
            Change::Settle { routes, .. } => routes.get(index).map(|(_, route)| route.key()),
            _ => None,
        });
        match keys.iter().find(|&&other| Some(route_key(other)) == key) {
            Some(&key) => {
                warn!(%source, %key, %reason, "a route is left to the kernel");
                feed.refused.insert(key, reason);
                feed.mirror.look_again_at(keys);
            }
            None => warn!(%source, %reason, "routes of a source cannot be changed"),
        }
    }
}

impl Feed {
    /// The route to install for a key; `None`: none.
    fn route(&self, key: Key, route_key: RouteKey, labels: u32, interfaces: &HashMap<u32, Interface>) -> Option<Route> {
        if matches!(key, Key::Label(label) if label.get() >= labels) {
            return None;
        }
        match self.mirror.wanted(key, route_key, interfaces) {
            Wanted::Nothing => None,
            Wanted::Route(_) if self.refused.contains_key(&key) => None,
            Wanted::Route(route) => Some(route),
            Wanted::Pass(..) => None,
        }
    }
}

/// The key by which the RIB knows what a source has for `key`.
fn route_key(key: Key) -> RouteKey {
    match key {
        Key::Label(label) => RouteKey::Label(label),
        Key::Prefix(table, prefix) => RouteKey::Prefix(Fec::new(prefix, Some(RoutingTable(table)))),
    }
}

//! What outlives the process (`load --persist`): every change of routes and ports is passed on to be saved, and what an
//! earlier process has saved is restored at the start. Routes of a followed source are *stale* until the source has
//! reported everything; those that it has not reported are then deleted.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tracing::warn;

use super::routes::{Origin, RouteChange};
use super::{Effect, Switch};
use crate::config::PortConfig;
use crate::control::api::Changes;
use crate::dataplane::Tables;
use crate::dataplane::label_ranges::AcceptLabels;
use crate::lfib::{Change, ChangeError, Mode};
use crate::ports::{Role, Wish};
use crate::route::filter::KeyFilter;
use crate::route::{Owner, Route, RouteKey, Source};
use crate::state::{Batch, Names, Part, Piece, Port, Request, Saved};

/// How many routes are restored in one change: one that does not fit is searched among so many.
const RESTORED: usize = 4096;
/// How many paths a piece of a snapshot has at most, and how many routes are examined for it.
const PIECE: usize = 512;
const EXAMINED: usize = 4096;

/// Routes of one owner that are restored in one change.
pub(super) type Restored = Arc<Vec<(Owner, Route)>>;

/// What the switch is to restore.
#[derive(Debug, Default)]
pub struct Wanted {
    ports: Vec<Port>,
    routes: VecDeque<Restored>,
    /// The keys of the routes of followed sources.
    stale: Vec<(Source, BTreeSet<RouteKey>)>,
}

impl Wanted {
    /// Takes a while if there are many routes. `followed` are the sources that will report their routes.
    pub fn new(mut saved: Saved, followed: &[Source]) -> Self {
        let mut wanted = Self {
            ports: std::mem::take(&mut saved.ports).into_values().collect(),
            ..Self::default()
        };
        for source in Source::ALL {
            let routes = saved.take_routes(source);
            if followed.contains(&source) && !routes.is_empty() {
                wanted.stale.push((source, routes.keys().copied().collect()));
            }
            let mut routes = routes.into_values().map(|route| (Owner::Of(source), route)).peekable();
            while routes.peek().is_some() {
                let some: Vec<_> = routes.by_ref().take(RESTORED).collect();
                wanted.routes.push_back(Arc::new(some));
            }
        }
        wanted
    }
}

/// What is saved, and what is still to be restored.
#[derive(Debug, Default)]
pub(super) struct Saving {
    is_on: bool,
    /// Everything is restored.
    is_started: bool,
    routes: VecDeque<Restored>,
    ports: Vec<Port>,
    /// A piece of a snapshot that is wanted.
    requested: Option<Request>,
}

impl Saving {
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    pub fn started(&mut self) {
        self.is_started = true;
    }

    /// The routes to restore next.
    pub fn next_routes(&mut self) -> Option<Restored> {
        self.routes.pop_front()
    }

    /// A piece is wanted, and can be given.
    pub fn has_request(&self) -> bool {
        self.is_started && self.requested.is_some()
    }

    /// The ports of the configuration and those that were saved, and the names of those that only were saved.
    pub fn ports(&mut self, configured: &[PortConfig]) -> (Vec<PortConfig>, Vec<String>) {
        let mut ports = configured.to_vec();
        let mut added = Vec::new();
        for saved in self.ports.drain(..) {
            match ports.iter_mut().find(|port| port.name == saved.name) {
                Some(port) => {
                    (port.mpls_mtu, port.cross_connect) = (saved.mpls_mtu, saved.cross_connect);
                    if !port.tx_only {
                        (port.mpls, port.accept_labels) = (saved.mpls, AcceptLabels(saved.accept_labels));
                        (port.dscp_map, port.tc_map) = (saved.dscp_map, saved.tc_map);
                    }
                }
                None => {
                    added.push(saved.name.clone());
                    ports.push(PortConfig {
                        name: saved.name,
                        tx_only: saved.tx_only,
                        mpls: saved.mpls,
                        accept_labels: AcceptLabels(saved.accept_labels),
                        mpls_mtu: saved.mpls_mtu,
                        cross_connect: saved.cross_connect,
                        dscp_map: saved.dscp_map,
                        tc_map: saved.tc_map,
                        checksum: saved.checksum,
                    });
                }
            }
        }
        (ports, added)
    }
}

impl<T: Tables> Switch<T> {
    /// Saves every change from now on, and restores this at the start.
    pub fn save(&mut self, wanted: Wanted) {
        let Wanted { ports, routes, stale } = wanted;
        for (source, keys) in stale {
            self.feeds.set_stale(source, keys);
        }
        self.saving = Saving {
            is_on: true,
            routes,
            ports,
            ..Saving::default()
        };
    }

    /// The change by which routes are restored. They take the place of routes of the configuration.
    pub(super) fn restoring(routes: &Restored) -> RouteChange {
        let source = routes.first().map(|(owner, _)| owner.source()).unwrap_or_default();
        let (routes, deleted) = (Arc::clone(routes), Arc::default());
        RouteChange::of(Origin::Start, source, Change::Settle { routes, deleted })
    }

    /// Routes could not be restored: each is tried on its own, and given up if that fails.
    pub(super) fn not_restored(&mut self, routes: &Restored, error: &ChangeError) {
        let [(owner, route)] = &routes[..] else {
            let each = routes.iter().rev().map(|route| Arc::new(vec![route.clone()]));
            return each.for_each(|one| self.saving.routes.push_front(one));
        };
        warn!(%owner, %route, %error, "a saved route cannot be restored, and is deleted");
        let (source, keys) = (owner.source(), Arc::new(vec![route.key()]));
        self.save_part(Part::Deleted { source, keys });
    }

    /// Saves a change of routes that was made. `deleted` are the keys that it has not named and that lost their routes.
    pub(super) fn save_change(&mut self, change: &mut RouteChange, changes: Changes, deleted: Arc<Vec<RouteKey>>) {
        let origin = change.origin();
        if !self.saving.is_on || matches!(origin, Origin::Start | Origin::Started) {
            return;
        }
        // A source that reports everything again mostly reports what is known.
        if matches!(origin, Origin::Feed(_)) && changes == Changes::default() {
            return;
        }
        let source = change.source();
        let mut parts = Vec::new();
        let keys = match change.change() {
            Change::Install { mode, owner, routes } => {
                let (owner, routes) = (*owner, Arc::clone(routes));
                parts.push(Part::Routes { owner, routes });
                match (mode, owner) {
                    // Nothing of the configuration is saved.
                    (Mode::ReplaceAll, Owner::Of(_)) => deleted,
                    _ => Arc::default(),
                }
            }
            Change::Settle { routes, deleted } => {
                parts.push(Part::Settled(Arc::clone(routes)));
                Arc::clone(deleted)
            }
            Change::Delete(keys) => Arc::clone(keys),
            Change::Flush(_) => deleted,
        };
        if !keys.is_empty() {
            parts.push(Part::Deleted { source, keys });
        }
        let renamed = change.take_renamed();
        self.effects.push_back(Effect::Save(Batch { parts, renamed }));
    }

    /// Saves how a port is now, after a request.
    pub(super) fn save_port(&mut self, name: &str) {
        if !self.saving.is_on {
            return;
        }
        let part = match self.wish_of(name) {
            Some(wish) => Part::Port(saved_port(name, wish)),
            None => Part::NoPort(name.to_owned()),
        };
        self.save_part(part);
    }

    /// The configuration says how this port is.
    pub(super) fn forget_port(&mut self, name: &str) {
        self.save_part(Part::NoPort(name.to_owned()));
    }

    pub(super) fn save_names(&mut self, names: &Names) {
        self.save_part(Part::Renamed(names.clone()));
    }

    fn save_part(&mut self, part: Part) {
        if self.saving.is_on {
            self.effects.push_back(Effect::Save(part.into()));
        }
    }

    /// A piece of a snapshot is wanted. It is given when no change is half made.
    pub(super) fn want_piece(&mut self, request: Request) {
        self.saving.requested = Some(request);
        self.give_piece();
    }

    pub(super) fn give_piece(&mut self) {
        if !self.saving.has_request() || self.changes.is_half_made() {
            return;
        }
        let Some(request) = self.saving.requested.take() else {
            return;
        };
        let is_kept = |owner: Owner| owner != Owner::Config;
        let page = self.lfib.page(KeyFilter::All, request.after, PIECE, EXAMINED, |route| {
            is_kept(route.owner) || !self.rib.standby(route.key).is_empty()
        });
        let mut routes = Vec::with_capacity(page.routes.len());
        for listed in page.routes {
            let key = listed.route.key();
            if is_kept(listed.owner) {
                routes.push((listed.owner, listed.route));
            }
            let standby = self.rib.standby(key).iter();
            routes.extend(standby.filter(|(owner, _)| is_kept(*owner)).cloned());
        }
        let ports = match request.after {
            None => self.ports_to_save(),
            Some(_) => Vec::new(),
        };
        let piece = Piece {
            ports,
            routes,
            after: page.after,
        };
        self.effects.push_back(Effect::Snapshot { request, piece });
    }

    /// The ports that are not as in the configuration.
    fn ports_to_save(&self) -> Vec<Port> {
        let ports = self.ports.iter().map(|port| (port.name(), port.wish()));
        let waiting = self.ports.waiting().iter();
        let all = ports.chain(waiting.map(|waiting| (&*waiting.name, waiting.wish.clone())));
        let wanted = all.filter(|(_, wish)| matches!(wish.role, Role::Switching | Role::TxOnly));
        let configured: HashMap<&str, &PortConfig> = self
            .config
            .ports
            .iter()
            .map(|port| (port.name.as_str(), port))
            .collect();
        let is_as_configured = |port: &&PortConfig, wish: &Wish| {
            (port.mpls, port.accept_labels, port.mpls_mtu) == (wish.mpls, wish.accept_labels, wish.mpls_mtu)
                && port.cross_connect.as_deref() == wish.cross_connect.as_deref()
                && (port.dscp_map, port.tc_map) == (wish.dscp_map, wish.tc_map)
        };
        let other =
            wanted.filter(|(name, wish)| !configured.get(name).is_some_and(|port| is_as_configured(port, wish)));
        other.map(|(name, wish)| saved_port(name, wish)).collect()
    }
}

fn saved_port(name: &str, wish: Wish) -> Port {
    Port {
        name: name.to_owned(),
        tx_only: wish.role == Role::TxOnly,
        mpls: wish.mpls,
        accept_labels: wish.accept_labels.0,
        mpls_mtu: wish.mpls_mtu,
        cross_connect: wish.cross_connect.as_deref().map(str::to_owned),
        dscp_map: wish.dscp_map,
        tc_map: wish.tc_map,
        checksum: wish.checksum,
    }
}

//! Backups that FRR computes (`--sync frr`), for the routes of the kernel and of the routing daemon. A route is worked
//! out with its backups like the rest of it, so they stay when its source reports it again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::feeds::{RETRIED, RETRY, route_key};
use super::routes::{NotChanged, Origin, RouteChange};
use super::{Effect, Switch};
use crate::control::api::{self, SyncState};
use crate::dataplane::Tables;
use crate::feeds::frr::{self, Backups, Hop};
use crate::feeds::{InterfaceKind, Key, Mirror};
use crate::lfib::{Change, Mode};
use crate::route::{Owner, Route, Source};
use crate::rtnl::{self, Destination, Labels, Message, Object, ObjectTo, To};

/// The name of the source of backups, for clients.
pub const FRR: &str = "frr";

/// Zebra has answered.
#[derive(Clone, Debug)]
pub struct FrrAnswer {
    /// All backups that it has.
    pub backups: Arc<Backups>,
    /// Some of the keys whose backups have changed. The others follow with the same backups.
    pub changed: Vec<Key>,
    /// The routes of all pseudowires that are up.
    pub pseudowires: Arc<Vec<Route>>,
}

/// What is known of FRR.
#[derive(Debug, Default)]
pub(super) struct Frr {
    is_followed: bool,
    /// `None`: no answer yet.
    backups: Option<Arc<Backups>>,
    /// Routes that did not fit with their backups.
    refused: BTreeSet<(Source, Key)>,
    /// The routes of pseudowires that FRR has, if they are not those that are installed.
    wanted: Option<Arc<Vec<Route>>>,
    /// Those that are installed, or soon will be; `None`: not known.
    pseudowires: Option<Arc<Vec<Route>>>,
    /// When some of them were last tried again.
    retried: Option<Instant>,
    /// A route that may have a backup has changed.
    hinted: bool,
}

impl Frr {
    pub fn new(is_followed: bool) -> Self {
        Self {
            is_followed,
            ..Self::default()
        }
    }

    /// What FRR has.
    #[cfg(test)]
    pub fn backups(&self) -> Arc<Backups> {
        self.backups.clone().unwrap_or_default()
    }

    /// The routes of its pseudowires.
    #[cfg(test)]
    pub fn pseudowires(&self) -> Arc<Vec<Route>> {
        self.pseudowires.clone().unwrap_or_default()
    }

    /// Whether routes of pseudowires are to be changed.
    pub fn has_work(&self) -> bool {
        self.wanted.is_some()
    }

    pub fn has_backups(&self) -> bool {
        self.backups.as_ref().is_some_and(|backups| !backups.is_empty())
    }

    /// A source reports this: FRR may have other backups now. `source`: what the source has reported so far.
    pub fn note(&mut self, message: &Message, source: &Mirror) {
        self.hinted |= self.is_followed && is_hint(message, source);
    }

    /// A route of a source could not be made with its backups.
    pub fn refuse(&mut self, source: Source, key: Key) {
        self.refused.insert((source, key));
    }

    /// Some of the routes to try again with their backups, now that there may be room.
    pub fn retry(&mut self, now: Instant) -> Vec<(Source, Key)> {
        let since = |then| now.saturating_duration_since(then);
        if self.refused.is_empty() || self.retried.is_some_and(|then| since(then) < RETRY) {
            return Vec::new();
        }
        self.retried = Some(now);
        let some: Vec<_> = self.refused.iter().take(RETRIED).copied().collect();
        for route in &some {
            self.refused.remove(route);
        }
        some
    }

    /// The daemon adds what it knows of the connection.
    pub fn report(&self) -> Option<api::SyncSource> {
        let backups = self.backups.as_deref();
        // Labels come before prefixes.
        let of_labels = |key: &&Key| matches!(key, Key::Label(_));
        let labels = backups.map_or(0, |backups| backups.keys().take_while(of_labels).count());
        let all = backups.map_or(0, Backups::len);
        self.is_followed.then(|| api::SyncSource {
            source: FRR.to_owned(),
            state: SyncState::Waiting,
            labels: labels as u64,
            prefixes: (all - labels) as u64,
            refused: self.refused.len() as u64,
            ..api::SyncSource::default()
        })
    }
}

/// Whether the message is about a route with labels. There may be a million others, and many changes of them.
fn is_hint(message: &Message, source: &Mirror) -> bool {
    let imposes = |path: &rtnl::Path| matches!(path.labels, Labels::Imposed { .. });
    let member_imposes = |id: &u32| matches!(source.object(*id), Some(ObjectTo::Path(path)) if imposes(path));
    let object_imposes = |to: &ObjectTo| match to {
        ObjectTo::Path(path) => imposes(path),
        ObjectTo::Group(members) => members.iter().any(|(id, _)| member_imposes(id)),
        ObjectTo::Blackhole => false,
    };
    match message {
        Message::Route { route, .. } => match (&route.destination, &route.to) {
            (Destination::Label(_), _) => true,
            (Destination::Prefix(_), To::Object(id)) => source.object(*id).is_some_and(object_imposes),
            (Destination::Prefix(_), To::Paths(paths)) => paths.iter().any(imposes),
        },
        Message::RouteGone(route) => matches!(route.destination, Destination::Label(_)),
        Message::Object(Object { to, .. }) => object_imposes(to),
        Message::ObjectGone(_) | Message::Input { .. } | Message::InputGone { .. } => false,
    }
}

impl<T: Tables> Switch<T> {
    /// Takes in what FRR has. Routes follow in steps.
    pub(super) fn frr_answered(&mut self, answer: FrrAnswer) {
        let FrrAnswer {
            backups,
            changed,
            pseudowires,
        } = answer;
        let is_new = self.feeds.frr.pseudowires.as_ref() != Some(&pseudowires);
        self.feeds.frr.wanted = is_new.then_some(pseudowires);
        let frr = &mut self.feeds.frr;
        let is_first = frr.backups.replace(backups).is_none();
        for source in Source::ALL {
            for &key in &changed {
                frr.refused.remove(&(source, key));
            }
        }
        // Routes that were restored with backups may have none any more.
        match is_first {
            true => self.feeds.look_at_all_again(),
            false => self.feeds.look_again_at(&changed),
        }
    }

    /// Makes the routes of FRR's pseudowires those that it has now.
    pub(super) fn follow_frr_pseudowires(&mut self) {
        let Some(routes) = self.feeds.frr.wanted.take() else {
            return;
        };
        self.feeds.frr.pseudowires = Some(Arc::clone(&routes));
        let (mode, owner) = (Mode::ReplaceAll, Owner::Of(Source::Frr));
        let change = Change::Install { mode, owner, routes };
        self.change_routes(
            RouteChange::of(Origin::Feed(Source::Frr), Source::Frr, change),
            self.now,
        );
    }

    /// The routes of FRR's pseudowires could not be made: they are tried again with the next answer.
    pub(super) fn frr_pseudowires_refused(&mut self, reason: &NotChanged) {
        let reason = match reason {
            NotChanged::Change(error) => error.to_string(),
            NotChanged::Refused(refusal) => refusal.to_string(),
        };
        warn!(%reason, "the pseudowires of FRR cannot be made as they are now");
        self.feeds.frr.pseudowires = None;
    }

    /// Asks FRR, if a route that may have a backup has changed.
    pub(super) fn ask_frr(&mut self) {
        if std::mem::take(&mut self.feeds.frr.hinted) {
            self.effects.push_back(Effect::AskFrr);
        }
    }

    /// The route of a source with the backups that FRR has for it.
    pub(super) fn with_frr_backups(&self, source: Source, key: Key, route: Route) -> Route {
        let frr = &self.feeds.frr;
        if !frr.is_followed || frr.refused.contains(&(source, key)) {
            return route;
        }
        let Some(backups) = &frr.backups else {
            // An earlier process may have restored it with backups, which stay until FRR has answered.
            return match self.own_route(source, route_key(key)) {
                Some(own) => frr::kept(route, &own),
                None => route,
            };
        };
        let Some(protected) = backups.get(&key) else {
            return route;
        };
        let port = |ifindex: u32| {
            let interface = self.feeds.interfaces.get(&ifindex)?;
            (interface.kind == InterfaceKind::Port).then(|| Arc::clone(&interface.name))
        };
        let port = |hop: &Hop| match &hop.dev {
            Some(name) => port(self.resolver.links().by_name(name)?.ifindex),
            None => {
                let mut ports = self.addresses.on_link(hop.via.address()?).filter_map(port);
                let first = ports.next()?;
                // It could be any of several.
                ports.all(|other| other == first).then_some(first)
            }
        };
        frr::with_backups(route, protected, port)
    }

    /// Whether the backups of a route are FRR's: the sources have none of their own.
    pub(super) fn has_frr_backups(&self, source: Source, route: &Route) -> bool {
        let is_fed = matches!(source, Source::Kernel | Source::Fpm);
        is_fed && self.feeds.frr.is_followed && route.paths().iter().any(|path| path.backup.is_some())
    }

    /// The same for clients.
    pub(super) fn frr_backups(&self, source: Source, route: &Route) -> Option<String> {
        self.has_frr_backups(source, route).then(|| FRR.to_owned())
    }
}

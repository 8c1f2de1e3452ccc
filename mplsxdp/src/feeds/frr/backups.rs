//! Which next hop has which backup, and the routes that get them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::feeds::Key;
use crate::route::{Action, Backup, NextHop, OutLabels, Path, Route, RouteKey, Via};
use crate::rtnl::Stack;

/// What zebra has: the protected next hops of each route that has any.
pub type Backups = BTreeMap<Key, Box<[Protected]>>;

/// A next hop as zebra names it, with its labels; none: it gets the payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    pub via: Via,
    /// The kernel's name of the interface. FRR 8.4 says none for IPv4 next hops of labels.
    pub dev: Option<Arc<str>>,
    pub labels: Stack,
}

/// A next hop, and its backups in the order in which they are to be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Protected {
    pub primary: Hop,
    pub backups: Box<[Hop]>,
}

/// The keys for which two readings differ.
pub fn changed(before: &Backups, after: &Backups) -> Vec<Key> {
    let gone = before.keys().filter(|key| !after.contains_key(key)).copied();
    let other = after.iter().filter(|(key, value)| before.get(key) != Some(value));
    gone.chain(other.map(|(&key, _)| key)).collect()
}

/// `route` with backups for those of its paths for which zebra has one: by the same next hop, with the same labels.
/// `port`: the port that leads to a next hop. Without backups, it is unchanged.
pub fn with_backups(route: Route, protected: &[Protected], port: impl Fn(&Hop) -> Option<Arc<str>>) -> Route {
    let key = route.key();
    let backup = |path: &Path| {
        let next_hop = path.next_hop.as_ref()?;
        let labels = labels(&path.action)?;
        let is_it = |protected: &&Protected| {
            let Hop { via, dev, labels: own } = &protected.primary;
            let is_dev = || dev.is_none() || port(&protected.primary) == next_hop.dev;
            *via == next_hop.via && own[..] == *labels && is_dev()
        };
        let backups = protected.iter().filter(is_it).flat_map(|protected| &protected.backups);
        let mut usable = backups.filter_map(|backup| {
            let backup_hop = NextHop {
                via: backup.via,
                dev: Some(port(backup)?),
            };
            let action = action(key, &path.action, &backup.labels)?;
            (backup_hop != *next_hop).then_some(Backup {
                next_hop: backup_hop,
                action: Some(action),
            })
        });
        usable.next()
    };
    amended(route, backup)
}

/// `route` with the backups that `before` has for the same paths.
pub fn kept(route: Route, before: &Route) -> Route {
    amended(route, |path| {
        let is_same = |other: &&Path| other.next_hop == path.next_hop && other.action == path.action;
        before.paths().iter().find(is_same)?.backup.clone()
    })
}

/// `route` with these backups, unless that is not a valid route.
fn amended(route: Route, backup: impl Fn(&Path) -> Option<Backup>) -> Route {
    let paths: Vec<Path> = route
        .paths()
        .iter()
        .map(|path| Path {
            backup: backup(path),
            ..path.clone()
        })
        .collect();
    if paths.iter().all(|path| path.backup.is_none()) {
        return route;
    }
    let amended = Route::with_paths(route.key(), paths, route.ttl_propagate());
    let amended = amended.and_then(|amended| amended.with_attributes(route.attributes()));
    amended.unwrap_or(route)
}

/// What a path does with labels, if a backup can do something else.
fn labels(action: &Action) -> Option<&[mplsxdp_common::wire::Label]> {
    match action {
        Action::Swap(labels) | Action::Push { labels, .. } => Some(labels.as_slice()),
        Action::Pop | Action::PenultimatePop => Some(&[]),
        Action::Local | Action::LocalPass | Action::VrfPass(_) | Action::CrossConnect(_) | Action::Pass(_) => None,
    }
}

/// What a backup of a path with this action does with these labels.
fn action(key: RouteKey, primary: &Action, labels: &Stack) -> Option<Action> {
    match (key, primary) {
        // A pop as the egress and one as the penultimate hop differ in the TTL.
        (RouteKey::Label(_), Action::Pop) if labels.is_empty() => Some(Action::Pop),
        (RouteKey::Label(_), _) if labels.is_empty() => Some(Action::PenultimatePop),
        (RouteKey::Label(_), _) => OutLabels::new(labels.to_vec()).ok().map(Action::Swap),
        (RouteKey::Prefix(_), &Action::Push { ttl, .. }) => {
            let labels = OutLabels::new(labels.to_vec()).ok()?;
            Some(Action::Push { labels, ttl })
        }
        (RouteKey::Prefix(_) | RouteKey::Attachment(_), _) => None,
    }
}

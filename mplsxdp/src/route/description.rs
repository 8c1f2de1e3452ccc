//! The description of a route that a client wants deleted.

use mplsxdp_common::abi::TtlPropagate;

use super::{Action, NextHop, Path, Protocol, Pseudowire, Route, RouteKey};

/// A label or prefix, and what must be true of its route. Properties that are not given do not matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    pub key: RouteKey,
    /// `None` if any route will do. Boxed, because a million keys may be given.
    more: Option<Box<More>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct More {
    route: Option<Route>,
    protocol: Option<Protocol>,
    metric: Option<u32>,
}

impl From<RouteKey> for Description {
    fn from(key: RouteKey) -> Self {
        Self { key, more: None }
    }
}

impl Description {
    /// `route` is what the route does; the protocol and the metric are given separately.
    pub fn new(key: RouteKey, route: Option<Route>, protocol: Option<Protocol>, metric: Option<u32>) -> Self {
        let says_more = route.is_some() || protocol.is_some() || metric.is_some();
        let more = says_more.then(|| {
            Box::new(More {
                route,
                protocol,
                metric,
            })
        });
        Self { key, more }
    }

    /// Whether only the key is given.
    pub fn is_key(&self) -> bool {
        self.more.is_none()
    }

    /// The whole route, if the description says what it does.
    pub fn route(&self) -> Option<&Route> {
        self.more.as_ref()?.route.as_ref()
    }

    pub fn protocol(&self) -> Option<Protocol> {
        self.more.as_ref()?.protocol
    }

    pub fn metric(&self) -> Option<u32> {
        self.more.as_ref()?.metric
    }

    /// Whether the description fits `found`: the route of the same key, with the interfaces that were found for its
    /// next hops.
    pub fn fits(&self, found: &Route) -> bool {
        let attributes = found.attributes();
        self.protocol().is_none_or(|protocol| protocol == attributes.protocol)
            && self.metric().is_none_or(|metric| metric == attributes.metric)
            && self.route().is_none_or(|described| agrees(described, found))
    }
}

/// Whether each given path matches a different path of the route.
fn agrees(described: &Route, found: &Route) -> bool {
    // Words that are left out mean the default, and match any.
    let pseudowire = described.pseudowire();
    let pseudowire = pseudowire == found.pseudowire() || pseudowire == Some(Pseudowire::default());
    let ttl = described.ttl_propagate() == TtlPropagate::Default || described.ttl_propagate() == found.ttl_propagate();
    let mut left: Vec<&Path> = found.paths().iter().collect();
    let only = left.len() == 1;
    let mut paths: Vec<&Path> = described.paths().iter().collect();
    // The most specific ones choose first.
    paths.sort_by_key(|path| path.next_hops().filter(|next_hop| next_hop.dev.is_none()).count());
    let mut is_there = |described: &Path| {
        let place = left.iter().position(|path| path_agrees(described, path, only));
        place.map(|place| left.swap_remove(place)).is_some()
    };
    ttl && pseudowire && described.paths().len() == found.paths().len() && paths.into_iter().all(&mut is_there)
}

/// No `dev` matches any `dev`; if there is only one path, no `as` matches any `as`, also that of a backup.
fn path_agrees(described: &Path, found: &Path, only: bool) -> bool {
    let action = match (&described.action, &found.action) {
        (Action::Pass(_), Action::Pass(_)) => true,
        (described, found) => described == found || (only && *described == Action::Pop),
    };
    let is = |described: &NextHop, found: &NextHop| {
        described.via == found.via && (described.dev.is_none() || described.dev == found.dev)
    };
    let next_hop = match (&described.next_hop, &found.next_hop) {
        (Some(described), Some(found)) => is(described, found),
        (Some(_), None) => false,
        (None, _) => true,
    };
    let backup = match (&described.backup, &found.backup) {
        (Some(described), Some(found)) => {
            is(&described.next_hop, &found.next_hop)
                && (described.action == found.action || (only && described.action.is_none()))
        }
        (Some(_), None) => false,
        (None, _) => true,
    };
    action && described.weight == found.weight && next_hop && backup
}

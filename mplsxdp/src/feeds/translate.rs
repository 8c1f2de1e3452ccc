//! The route that the switch installs for a route that a source reports.
//!
//! What XDP cannot do is left to the kernel, which has the same routes; the installed route then says why
//! ([`Action::Pass`]). IP routes without labels are always the kernel's.

use std::fmt::Display;
use std::num::NonZeroU8;
use std::sync::Arc;

use mplsxdp_common::abi::TtlPropagate;
use smallvec::SmallVec;

use super::{Key, Mirror};
use crate::route::{
    Action, Attributes, InvalidRoute, MAX_PATHS, MAX_WEIGHT, NextHop, OutLabels, PassReason, Path, Route, RouteKey,
    Rule, Via,
};
use crate::rtnl::{self, Labels, ObjectTo, Stack, To};

/// Finds interfaces by their indexes.
pub trait Interfaces {
    fn find(&self, ifindex: u32) -> Option<Interface>;
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub name: Arc<str>,
    pub kind: InterfaceKind,
}

/// The role of an interface for a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterfaceKind {
    Port,
    Loopback,
    Vrf,
    Other,
}

/// Why a route is left to the kernel. Displays as a few words for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    #[error("{0} is not a port")]
    NotAPort(Arc<str>),
    #[error("interface {0} does not exist")]
    NoInterface(u32),
    #[error("no next hop")]
    NoNextHop,
    #[error("{0} paths: more than {MAX_PATHS}")]
    TooManyPaths(usize),
    #[error("some paths impose no labels")]
    Mixed,
    #[error("ttl-propagate of paths that pop and paths that swap")]
    MixedTtl,
    #[error("encapsulation {0}")]
    Encapsulation(u16),
    #[error("other routes for it depend on TOS or source")]
    Selective,
    #[error("{0}")]
    Rule(Rule),
    #[error("nexthop object {0} is missing")]
    NoObject(u32),
}

impl From<InvalidRoute> for Reason {
    fn from(error: InvalidRoute) -> Self {
        Self::Rule(error.rule)
    }
}

impl From<Rule> for Reason {
    fn from(rule: Rule) -> Self {
        Self::Rule(rule)
    }
}

/// What holds for routes that say nothing about the TTL: the kernel's settings of the network namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TtlDefaults {
    /// `net.mpls.ip_ttl_propagate`: the TTL crosses between a label and an IP packet.
    pub propagates: bool,
    /// `net.mpls.default_ttl`: of labels imposed on IP packets if it does not.
    pub imposed: NonZeroU8,
}

impl Default for TtlDefaults {
    fn default() -> Self {
        Self {
            propagates: true,
            imposed: NonZeroU8::MAX,
        }
    }
}

impl Mirror {
    /// The route for `key`, under the name `route_key` of the RIB. `None` if there should be none.
    pub fn wanted(
        &self,
        key: Key,
        route_key: RouteKey,
        interfaces: &impl Interfaces,
        ttl: TtlDefaults,
    ) -> Option<Route> {
        let (route, is_selective) = self.route(key)?;
        let attributes = Attributes {
            protocol: route.protocol,
            metric: match route.destination {
                rtnl::Destination::Prefix(prefix) => prefix.metric,
                rtnl::Destination::Label(_) => 0,
            },
        };
        if !route.unicast {
            return None;
        }
        let paths = match (self.paths(&route.to), key) {
            (Ok(paths), _) => paths,
            (Err(reason), Key::Label(_)) => return left_to_kernel(route_key, &reason, attributes),
            // A missing object does not say whether there are labels.
            (Err(_), Key::Prefix(..)) => return None,
        };
        let made = match key {
            Key::Label(_) => label_route(route, &paths, route_key, interfaces, ttl),
            // The kernel handles it, as it has no labels.
            Key::Prefix(..) if paths.iter().all(|path| !imposes(path)) => return None,
            Key::Prefix(..) if is_selective => Err(Reason::Selective),
            Key::Prefix(..) => prefix_route(&paths, route_key, interfaces, ttl),
        };
        let made = made.and_then(|route| Ok(route.with_attributes(attributes)?));
        match made {
            Ok(route) => Some(route),
            Err(reason) => left_to_kernel(route_key, &reason, attributes),
        }
    }

    /// The paths of a route, with the weights of its group.
    fn paths(&self, to: &To) -> Result<SmallVec<[rtnl::Path; 1]>, Reason> {
        let id = match to {
            To::Paths(paths) if paths.len() > MAX_PATHS => return Err(Reason::TooManyPaths(paths.len())),
            To::Paths(paths) => return Ok(paths.clone()),
            To::Object(id) => *id,
        };
        match self.object(id).ok_or(Reason::NoObject(id))? {
            ObjectTo::Path(path) => Ok([path.clone()].into_iter().collect()),
            ObjectTo::Blackhole => Ok(SmallVec::new()),
            ObjectTo::Group(members) if members.len() > MAX_PATHS => Err(Reason::TooManyPaths(members.len())),
            ObjectTo::Group(members) => {
                let member = |&(id, weight): &(u32, u32)| match self.object(id) {
                    Some(ObjectTo::Path(path)) => Ok(rtnl::Path { weight, ..path.clone() }),
                    Some(_) => Err(Reason::NoNextHop),
                    None => Err(Reason::NoObject(id)),
                };
                members.iter().map(member).collect()
            }
        }
    }
}

/// A route that leaves the packets of `key` to the kernel. `None` if a route cannot have this key.
pub fn left_to_kernel(key: RouteKey, reason: &impl Display, attributes: Attributes) -> Option<Route> {
    let action = Action::Pass(PassReason::new(&reason.to_string()));
    let route = Route::new(key, action, None, TtlPropagate::Default).ok()?;
    route.with_attributes(attributes).ok()
}

fn imposes(path: &rtnl::Path) -> bool {
    matches!(path.labels, Labels::Imposed { .. })
}

fn label_route(
    route: &rtnl::Route,
    paths: &[rtnl::Path],
    key: RouteKey,
    interfaces: &impl Interfaces,
    ttl: TtlDefaults,
) -> Result<Route, Reason> {
    // The kernel uses RTA_TTL_PROPAGATE when it pops, but not when it swaps or pushes.
    let pops = |path: &rtnl::Path| matches!(&path.labels, Labels::Out(stack) if stack.is_empty());
    let ttl = match route.ttl_propagate.or((!ttl.propagates).then_some(false)) {
        None => TtlPropagate::Default,
        Some(_) if !paths.iter().any(pops) => TtlPropagate::Default,
        Some(_) if !paths.iter().all(pops) => return Err(Reason::MixedTtl),
        Some(true) => TtlPropagate::Enabled,
        Some(false) => TtlPropagate::Disabled,
    };
    if let [path] = paths
        && path.via.is_none()
        && pops(path)
    {
        let interface = interfaces.find(path.ifindex).ok_or(Reason::NoInterface(path.ifindex))?;
        match interface.kind {
            // The kernel treats the payload as if it had arrived on that interface.
            InterfaceKind::Loopback => return Ok(Route::new(key, Action::LocalPass, None, ttl)?),
            InterfaceKind::Vrf => return Ok(Route::new(key, Action::VrfPass(interface.name), None, ttl)?),
            InterfaceKind::Port | InterfaceKind::Other => return Err(Reason::NoNextHop),
        }
    }
    let made = paths.iter().map(|path| {
        let action = match &path.labels {
            // A label's TTL that is not propagated leaves the packet with its own, less this hop.
            Labels::Out(stack) if stack.is_empty() && ttl == TtlPropagate::Disabled => Action::Pop,
            Labels::Out(stack) if stack.is_empty() => Action::PenultimatePop,
            Labels::Out(stack) => Action::Swap(out_labels(stack)?),
            Labels::Imposed { .. } => return Err(Reason::Encapsulation(1)),
            Labels::Other(kind) => return Err(Reason::Encapsulation(*kind)),
        };
        Ok(Path::new(action, Some(next_hop(path, interfaces)?)))
    });
    Ok(Route::with_paths(key, weighed(made, paths)?, ttl)?)
}

fn prefix_route(
    paths: &[rtnl::Path],
    key: RouteKey,
    interfaces: &impl Interfaces,
    defaults: TtlDefaults,
) -> Result<Route, Reason> {
    let default_ttl = (!defaults.propagates).then_some(defaults.imposed);
    let mut propagates = paths
        .iter()
        .map(|path| matches!(path.labels, Labels::Imposed { ttl: Some(0), .. }));
    let ttl_propagate = match propagates.next() {
        Some(first) if propagates.any(|other| other != first) => return Err(Reason::Mixed),
        Some(true) => TtlPropagate::Enabled,
        _ => TtlPropagate::Default,
    };
    let made = paths.iter().map(|path| {
        let action = match &path.labels {
            Labels::Imposed { stack, ttl } => Action::Push {
                labels: out_labels(stack)?,
                ttl: ttl.map_or(default_ttl, NonZeroU8::new),
            },
            Labels::Out(_) => return Err(Reason::Mixed),
            Labels::Other(kind) => return Err(Reason::Encapsulation(*kind)),
        };
        Ok(Path::new(action, Some(next_hop(path, interfaces)?)))
    });
    Ok(Route::with_paths(key, weighed(made, paths)?, ttl_propagate)?)
}

/// The paths with weights scaled to at most [`MAX_WEIGHT`], in the same proportions. Equal paths are merged.
fn weighed(made: impl Iterator<Item = Result<Path, Reason>>, reported: &[rtnl::Path]) -> Result<Vec<Path>, Reason> {
    let mut paths: Vec<(Path, u64)> = Vec::with_capacity(reported.len());
    for (path, reported) in made.zip(reported) {
        let path = path?;
        let weight = u64::from(reported.weight);
        match paths.iter_mut().find(|(other, _)| *other == path) {
            Some((_, sum)) => *sum += weight,
            None => paths.push((path, weight)),
        }
    }
    if paths.is_empty() {
        return Err(Reason::NoNextHop);
    }
    let largest = paths.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
    let limit = u64::from(MAX_WEIGHT);
    let scaled = |weight: u64| match largest <= limit {
        true => weight,
        false => (weight * limit / largest).max(1),
    };
    let weighed = paths.into_iter().map(|(path, weight)| Path {
        weight: u16::try_from(scaled(weight)).unwrap_or(MAX_WEIGHT),
        ..path
    });
    Ok(weighed.collect())
}

fn out_labels(stack: &Stack) -> Result<OutLabels, Reason> {
    Ok(OutLabels::new(stack.to_vec())?)
}

fn next_hop(path: &rtnl::Path, interfaces: &impl Interfaces) -> Result<NextHop, Reason> {
    let interface = interfaces.find(path.ifindex).ok_or(Reason::NoInterface(path.ifindex))?;
    if interface.kind != InterfaceKind::Port {
        return Err(Reason::NotAPort(interface.name));
    }
    let via: Via = path.via.ok_or(Reason::NoNextHop)?;
    Ok(NextHop {
        via,
        dev: Some(interface.name),
    })
}

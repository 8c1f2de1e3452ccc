//! Routes, nexthop objects and MPLS settings as rtnetlink(7) messages describe them, whether the message comes from the
//! kernel or from zebra on an FPM connection. No socket, no clock.
//!
//! Names and numbers are those of linux/rtnetlink.h, nexthop.h, netconf.h and mpls_iptunnel.h.

pub mod decode;
pub mod encode;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod numbers;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use mplsxdp_common::wire::Label;
use smallvec::SmallVec;

pub use decode::{DecodeError, SPLIT, decode, message_type, split, substitute};
pub use encode::encode;

use crate::route::{Protocol, Via};

/// A message that a source of routes sends. Routes are boxed, as messages are moved from queue to queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// RTM_NEWROUTE.
    Route { route: Box<Route>, position: Position },
    /// RTM_DELROUTE. `paths` of the route may be missing or incomplete.
    RouteGone(Box<Route>),
    /// RTM_NEWNEXTHOP: a new object, or a new version of one.
    Object(Object),
    /// RTM_DELNEXTHOP.
    ObjectGone(u32),
    /// RTM_NEWNETCONF of AF_MPLS: whether labelled frames are accepted on an interface
    /// (`net.mpls.conf.IFACE.input`).
    Input { ifindex: u32, accepted: bool },
    /// RTM_DELNETCONF of AF_MPLS.
    InputGone { ifindex: u32 },
}

impl Message {
    pub fn route(route: Route, position: Position) -> Self {
        let route = Box::new(route);
        Self::Route { route, position }
    }

    pub fn gone(route: Route) -> Self {
        Self::RouteGone(Box::new(route))
    }
}

/// The position of a new IPv4 route among those with the same destination, from the flags of the message. Label routes
/// and IPv6 routes have one route for each destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Position {
    /// Before the others.
    #[default]
    First,
    /// After the others: NLM_F_APPEND, or part of a dump (NLM_F_MULTI), which lists them in order.
    Last,
    /// Replaces the first (NLM_F_REPLACE).
    Replaces,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Destination {
    /// AF_MPLS.
    Label(Label),
    /// AF_INET, AF_INET6.
    Prefix(Prefix),
}

/// The destination of an IP route. If a prefix has several routes in one table, the lowest metric wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    pub table: u32,
    pub prefix: IpNet,
    /// RTA_PRIORITY.
    pub metric: u32,
    /// It applies only to some of the packets to the prefix: it has a TOS or a source prefix.
    pub selective: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    pub destination: Destination,
    pub protocol: Protocol,
    /// RTN_UNICAST. Other kinds (local, blackhole, ...) have no next hop.
    pub unicast: bool,
    pub to: To,
    /// RTA_TTL_PROPAGATE, of label routes.
    pub ttl_propagate: Option<bool>,
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum To {
    /// RTA_NH_ID: a nexthop object, which may change without the route, or arrive after it.
    Object(u32),
    /// Empty if the route is not unicast, or the message only names the route.
    Paths(SmallVec<[Path; 1]>),
}

/// One of the paths of a route, or a nexthop object with a single path.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// RTA_OIF, NHA_OIF; 0: none.
    pub ifindex: u32,
    /// RTA_VIA, RTA_GATEWAY, NHA_GATEWAY; `None`: directly to the interface.
    pub via: Option<Via>,
    pub labels: Labels,
    /// 1 to 65,536: rtnh_hops + 1. Always 1 for label routes.
    pub weight: u32,
}

/// What a path does with labels.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Labels {
    /// Label routes: the labels, outermost first, that replace the incoming one (RTA_NEWDST); none: it is popped. IP
    /// routes: none, that is, plain IP forwarding.
    Out(Stack),
    /// IP routes: these labels are imposed (MPLS_IPTUNNEL_DST). `ttl` is MPLS_IPTUNNEL_TTL; with `Some(0)` the TTL is
    /// propagated whatever net.mpls.ip_ttl_propagate says.
    Imposed { stack: Stack, ttl: Option<u8> },
    /// Another encapsulation, by its number (LWTUNNEL_ENCAP_*).
    Other(u16),
}

/// The kernel accepts up to 30 labels (MAX_NEW_LABELS).
pub type Stack = SmallVec<[Label; 4]>;

/// A nexthop object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// NHA_ID.
    pub id: u32,
    pub to: ObjectTo,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectTo {
    Path(Path),
    /// NHA_BLACKHOLE.
    Blackhole,
    /// NHA_GROUP: objects and their weights, 1 to 65,536.
    Group(Vec<(u32, u32)>),
}

//! From next hops to MAC addresses. [`kernel`](crate::kernel) reads the kernel's reports ([`Event`]); the modules here
//! work with them, without sockets or clocks: interfaces ([`links`]), the kernel's routes ([`routes`]), and the state
//! of each next hop ([`resolver`]).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::wire::Mac;

use crate::rtnl::Message;

pub mod addresses;
#[cfg(test)]
pub mod fixture;
pub mod links;
pub mod resolver;
pub mod routes;
pub mod stale;

/// A report of the kernel.
///
/// Everything that exists is reported between [`Event::Reset`] and [`Event::Synced`]; changes follow. Reports may have
/// been lost before a `Reset`: anything that is not reported again before `Synced` no longer exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    Reset,
    Synced,
    Link(LinkInfo),
    /// The interface with this index is gone.
    LinkGone(u32),
    Address(InterfaceAddress),
    AddressGone(InterfaceAddress),
    Neighbour(Neighbour),
    NeighbourGone {
        ifindex: u32,
        address: IpAddr,
    },
    /// One path of a route.
    Route {
        route: KernelRoute,
        position: RoutePosition,
    },
    /// A route is gone, with all its paths. There is one event for each path that it had.
    RouteGone(KernelRoute),
    /// A nexthop object (`ip nexthop`) is gone. IPv4 routes that used it are gone too, without a report of their own.
    NextHopObjectGone,
    /// A label route, a route that may have labels, a nexthop object, or whether labels are accepted. Reported only if
    /// the subscription asks for it.
    Routing(Box<Message>),
    /// A policy rule (`ip rule`) was added or removed: any address may now be routed differently.
    Rules,
}

/// A network interface, as RTM_NEWLINK describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    pub ifindex: u32,
    pub name: Arc<str>,
    /// `None` if the interface has no MAC address.
    pub mac: Option<Mac>,
    pub mtu: u32,
    /// IFF_UP: set up by the administrator.
    pub up: bool,
    /// IFF_LOWER_UP: it has a carrier.
    pub running: bool,
    pub loopback: bool,
    /// IFF_NOARP: neighbours on it are not asked for their MAC addresses.
    pub noarp: bool,
    /// IFLA_INFO_KIND, such as "veth"; physical interfaces have none.
    pub kind: Option<String>,
    /// The interface that it is a member of.
    pub master: Option<Master>,
    pub xdp: Option<XdpAttachment>,
    /// IFLA_LINK: the other end of a veth, or the interface beneath a VLAN or macvlan.
    pub peer: Option<Peer>,
    /// The tag of a VLAN device's frames.
    pub vlan: Option<Vlan>,
    /// For a VRF device: the routing table of its members (IFLA_VRF_TABLE).
    pub vrf_table: Option<u32>,
    /// The device behind a physical interface (since Linux 5.14).
    pub parent: Option<ParentDevice>,
}

impl LinkInfo {
    /// Sub-interfaces that the kernel has no device for have indexes from here up; the kernel's are below.
    pub const FIRST_VIRTUAL: u32 = 1 << 31;

    /// An interface that is down, before anything else is known of it.
    pub fn new(ifindex: u32, name: &str) -> Self {
        Self {
            ifindex,
            name: name.into(),
            mac: None,
            mtu: 0,
            up: false,
            running: false,
            loopback: false,
            noarp: false,
            kind: None,
            master: None,
            xdp: None,
            peer: None,
            vlan: None,
            vrf_table: None,
            parent: None,
        }
    }

    /// Whether frames can be sent on it.
    pub fn is_up(&self) -> bool {
        self.up && self.running
    }

    /// The interface that has its neighbours, and usually its addresses. Frames that arrive on a member of a bridge or
    /// bond go to the master before ARP, ND and IP see them. Members of a VRF keep their own.
    pub fn ip_ifindex(&self) -> u32 {
        match &self.master {
            Some(master) if master.takes_frames() => master.ifindex,
            _ => self.ifindex,
        }
    }
}

/// The interface that another one is a member of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Master {
    /// IFLA_MASTER
    pub ifindex: u32,
    /// IFLA_INFO_SLAVE_KIND, such as "bridge".
    pub kind: Option<String>,
}

impl Master {
    fn takes_frames(&self) -> bool {
        self.kind.as_deref() != Some("vrf")
    }
}

/// The VRF that an interface belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vrf {
    /// The VRF device.
    pub ifindex: u32,
    pub table: u32,
}

/// The interface that another one is tied to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub ifindex: u32,
    /// The network namespace that it is in, by this namespace's number for it (IFLA_LINK_NETNSID); `None`: this one.
    pub netns: Option<i32>,
}

/// A VLAN tag: tag protocol identifier (IFLA_VLAN_PROTOCOL) and VLAN identifier (IFLA_VLAN_ID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vlan {
    pub tpid: u16,
    pub vid: u16,
}

/// A device on a bus: /sys/bus/BUS/devices/DEVICE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentDevice {
    pub bus: String,
    pub device: String,
}

/// The XDP program on an interface (IFLA_XDP).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpAttachment {
    /// If there is one program; `None` if there are several.
    pub program: u32,
    pub mode: AttachMode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// On the kernel's packet buffers.
    Generic,
    /// On the NIC.
    Offload,
    /// More than one program, in different places.
    Several,
}

/// An address of this machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InterfaceAddress {
    pub ifindex: u32,
    /// The address itself, not truncated to the prefix.
    pub address: IpNet,
}

/// An entry of the kernel's ARP or ND table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub ifindex: u32,
    pub address: IpAddr,
    pub state: NeighbourState,
    /// NTF_EXT_MANAGED: the kernel keeps the entry resolved. This is the program that asked for it.
    pub managed: Option<Manager>,
}

/// Who asked the kernel to keep a neighbour resolved (NDA_PROTOCOL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manager {
    /// An instance of this program, which may have been killed since.
    Mplsxdp,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NeighbourState {
    /// REACHABLE, DELAY or PROBE: the MAC address is good.
    Reachable(Mac),
    /// STALE: the MAC address is still used. The kernel asks the neighbour again when it next sends to it.
    Stale(Mac),
    /// PERMANENT: set by the administrator.
    Permanent(Mac),
    /// NOARP: needs no resolving.
    NoArp(Mac),
    /// NONE or INCOMPLETE: no answer yet.
    Incomplete,
    Failed,
}

/// One path of a kernel route. The field order keeps together the routes that replace each other, and the paths of one
/// route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KernelRoute {
    pub prefix: IpNet,
    pub table: u32,
    pub metric: u32,
    /// Hash of everything else that selects it: TOS, source prefix.
    pub selector: u64,
    pub kind: RouteKind,
    /// It shares its packets with routes that have the same prefix, table, metric and selector, and is replaced
    /// together with them: an IPv6 route with a gateway.
    pub shares: bool,
    /// Hash of what else distinguishes routes in the kernel. IPv6: this path. IPv4: all paths, weights, metrics,
    /// protocol and preferred source. A nexthop object, if there is one, stands for the paths: it may change without
    /// the route.
    pub entry: u64,
    /// `None` if it sends nothing anywhere.
    pub oif: Option<u32>,
}

/// The position of a reported route among those with its prefix, table, metric and selector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoutePosition {
    First,
    Last,
    /// It replaces the route that has the same `entry`; else the first that shares as it does; else the first.
    Replaces,
}

/// What a route does (RTN_*).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RouteKind {
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
    Other,
}

/// Where the kernel would send a packet for an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// Out of this interface.
    Interface(u32),
    /// To no interface: the address belongs to this machine.
    Local,
    /// To no interface: there is no route, or only one that sends to no neighbour.
    NoRoute,
}

//! The meaning of rtnetlink messages. No sockets, no clocks.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use mplsxdp_common::wire::{ETH_P_8021Q, Mac};
use netlink_packet_core::{
    Emitable, ErrorMessage, NLM_F_APPEND, NLM_F_MULTIPART, NLM_F_REPLACE, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Parseable,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, InfoVrf, LinkAttribute, LinkFlags, LinkInfo as InfoAttribute, LinkMessage, LinkXdp,
    XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState as Nud,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::requests::{NeighbourEntry, PROTOCOL};
use crate::neighbour::{
    AttachMode, Event, InterfaceAddress, KernelRoute, LinkInfo, Lookup, Manager, Master, Neighbour, NeighbourState,
    ParentDevice, Peer, RouteKind, RoutePosition, Vlan, XdpAttachment,
};
use crate::rtnl;

/// Message types (linux/rtnetlink.h) that netlink-packet-route does not know.
pub(super) mod message_type {
    pub const NEW_NETCONF: u16 = 80;
    pub const DEL_NETCONF: u16 = 81;
    pub const GET_NETCONF: u16 = 82;
    pub const NEW_NEXTHOP: u16 = 104;
    pub const DEL_NEXTHOP: u16 = 105;
    pub const GET_NEXTHOP: u16 = 106;
}

use message_type::{DEL_NETCONF, DEL_NEXTHOP, NEW_NETCONF, NEW_NEXTHOP};

/// A netlink message, and its bytes for other parsers.
pub(super) struct Received {
    pub message: NetlinkMessage<RouteNetlinkMessage>,
    pub bytes: Bytes,
}

/// Takes the next message off a datagram; `None` for one that this version cannot read. An error means that the rest is
/// not a message, or that the kernel reports lost messages.
pub(super) fn take_message(datagram: &mut BytesMut) -> io::Result<Option<Received>> {
    let length = match NetlinkBuffer::new_checked(&datagram[..]) {
        Ok(message) => (message.length() as usize).next_multiple_of(4).min(datagram.len()),
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
    };
    let bytes = datagram.split_to(length).freeze();
    if let Ok(buffer) = NetlinkBuffer::new_checked(&bytes[..])
        && [NEW_NETCONF, DEL_NETCONF, NEW_NEXTHOP, DEL_NEXTHOP].contains(&buffer.message_type())
    {
        let header = NetlinkHeader::parse(&buffer).map_err(|error| io::Error::other(error.to_string()))?;
        let message = NetlinkMessage::new(header, NetlinkPayload::Noop);
        return Ok(Some(Received { message, bytes }));
    }
    match NetlinkMessage::deserialize(&bytes) {
        Ok(message) if matches!(message.payload, NetlinkPayload::Overrun(_)) => {
            Err(io::Error::from_raw_os_error(libc::ENOBUFS))
        }
        Ok(message) => Ok(Some(Received { message, bytes })),
        Err(error) => {
            // A bad message does not affect the others.
            tracing::warn!("cannot read a netlink message: {error}");
            Ok(None)
        }
    }
}

/// `routing`: also as [`Event::Routing`].
pub(super) fn events_of(received: Received, routing: bool) -> Vec<Event> {
    let Received { message, bytes } = received;
    let mut events = events_of_message(message);
    let routing = routing.then(|| routing_message(&bytes)).flatten();
    events.extend(routing.map(|message| Event::Routing(Box::new(message))));
    events
}

/// What a message says about routes. An unreadable one replaces what was known of its destination: the kernel has that
/// route, whatever it is.
pub(super) fn routing_message(bytes: &[u8]) -> Option<rtnl::Message> {
    let error = match rtnl::decode(bytes) {
        Ok(message) => return message,
        Err(error) => error,
    };
    tracing::warn!("cannot read a netlink message about routes: {error}");
    rtnl::substitute(bytes, &error)
}

fn events_of_message(message: NetlinkMessage<RouteNetlinkMessage>) -> Vec<Event> {
    let header = message.header;
    if header.message_type == DEL_NEXTHOP {
        return vec![Event::NextHopObjectGone];
    }
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return Vec::new();
    };
    let event = match message {
        RouteNetlinkMessage::NewLink(link) => link_info(&link).map(Event::Link),
        RouteNetlinkMessage::DelLink(link) => link_info(&link).map(|link| Event::LinkGone(link.ifindex)),
        RouteNetlinkMessage::NewAddress(address) => interface_address(&address).map(Event::Address),
        RouteNetlinkMessage::DelAddress(address) => interface_address(&address).map(Event::AddressGone),
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbour(&message).map(|Neighbour { ifindex, address, .. }| Event::NeighbourGone { ifindex, address })
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Event::Rules),
        RouteNetlinkMessage::NewRoute(route) => {
            // IPv6 puts new routes behind all others; a dump has them in order.
            let last = route.header.address_family == AddressFamily::Inet6
                || header.flags & (NLM_F_APPEND | NLM_F_MULTIPART) != 0;
            let others = if last {
                RoutePosition::Last
            } else {
                RoutePosition::First
            };
            let replaces = header.flags & NLM_F_REPLACE != 0 && header.flags & NLM_F_MULTIPART == 0;
            let first = if replaces { RoutePosition::Replaces } else { others };
            let positions = std::iter::once(first).chain(std::iter::repeat(others));
            let paths = kernel_routes(&route).into_iter().zip(positions);
            return Vec::from_iter(paths.map(|(route, position)| Event::Route { route, position }));
        }
        RouteNetlinkMessage::DelRoute(route) => {
            return Vec::from_iter(kernel_routes(&route).into_iter().map(Event::RouteGone));
        }
        _ => None,
    };
    Vec::from_iter(event)
}

/// The error that the kernel reports. Unlike [`ErrorMessage::to_io`] it accepts every number.
pub(super) fn error_of(message: &ErrorMessage) -> io::Error {
    io::Error::from_raw_os_error(message.raw_code().saturating_abs())
}

pub(super) fn neighbour_entry(message: &NeighbourMessage) -> Option<((u32, IpAddr), NeighbourEntry)> {
    let Neighbour { ifindex, address, .. } = neighbour(message)?;
    let mut probes = 0;
    let mut cache = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::CacheInfo(info) => cache = Some(info),
            NeighbourAttribute::Probes(count) => probes = *count,
            _ => {}
        }
    }
    let cache = cache?;
    // Times are in ticks of USER_HZ.
    let seconds = |ticks: u32| u64::from(ticks) / rustix::param::clock_ticks_per_second();
    let entry = NeighbourEntry {
        state: message.header.state.to_string().to_uppercase(),
        refcnt: cache.refcnt,
        used: seconds(cache.used),
        confirmed: seconds(cache.confirmed),
        updated: seconds(cache.updated),
        probes,
    };
    Some(((ifindex, address), entry))
}

pub(super) fn lookup_of(route: &RouteMessage) -> Lookup {
    let oif = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    });
    match (route.header.kind, oif) {
        (RouteType::Local, _) => Lookup::Local,
        (RouteType::Unicast, Some(ifindex)) => Lookup::Interface(ifindex),
        _ => Lookup::NoRoute,
    }
}

/// The next hop's address, if the route names one.
pub(super) fn gateway_of(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    })
}

/// The MAC address of a neighbour to which the kernel sends now (NUD_VALID).
pub(super) fn valid_mac(entry: &NeighbourMessage) -> Option<Mac> {
    let is_valid = matches!(
        entry.header.state,
        Nud::Permanent | Nud::Noarp | Nud::Reachable | Nud::Probe | Nud::Stale | Nud::Delay
    );
    let mac = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => address.first_chunk::<6>().copied().map(Mac),
        _ => None,
    });
    mac.filter(|_| is_valid)
}

/// `None` for bridges' reports about their ports, which are not about the interface itself (AF_BRIDGE).
pub(super) fn link_info(message: &LinkMessage) -> Option<LinkInfo> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut name = None;
    let mut link = LinkInfo {
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        noarp: flags.contains(LinkFlags::Noarp),
        ..LinkInfo::new(message.header.index, "")
    };
    let mut peer = None;
    let (mut master, mut member_kind) = (None, None);
    let (mut bus, mut device) = (None, None);
    let mut netns = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value),
            LinkAttribute::Address(value) => link.mac = value.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Mtu(value) => link.mtu = *value,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    InfoAttribute::Kind(kind) => Some(InfoKind::to_string(kind)),
                    _ => None,
                });
                link.vlan = infos.iter().find_map(|info| match info {
                    InfoAttribute::Data(InfoData::Vlan(attributes)) => vlan(attributes),
                    _ => None,
                });
                link.vrf_table = infos.iter().find_map(|info| match info {
                    InfoAttribute::Data(InfoData::Vrf(attributes)) => vrf_table(attributes),
                    _ => None,
                });
                member_kind = infos.iter().find_map(|info| match info {
                    InfoAttribute::PortKind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(attributes) => link.xdp = xdp_attachment(attributes),
            LinkAttribute::Link(ifindex) if *ifindex != 0 => peer = Some(*ifindex),
            LinkAttribute::LinkNetNsId(id) => netns = Some(*id),
            LinkAttribute::Controller(ifindex) if *ifindex != 0 => master = Some(*ifindex),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name.clone()),
            LinkAttribute::ParentDevName(name) => device = Some(name.clone()),
            _ => {}
        }
    }
    link.name = name?.as_str().into();
    link.peer = peer.map(|ifindex| Peer { ifindex, netns });
    link.master = master.map(|ifindex| Master {
        ifindex,
        kind: member_kind,
    });
    link.parent = bus.zip(device).map(|(bus, device)| ParentDevice { bus, device });
    Some(link)
}

fn vlan(attributes: &[InfoVlan]) -> Option<Vlan> {
    let mut tpid = ETH_P_8021Q;
    let mut vid = None;
    for attribute in attributes {
        match attribute {
            InfoVlan::Id(id) => vid = Some(*id),
            InfoVlan::Protocol(protocol) => tpid = (*protocol).into(),
            _ => {}
        }
    }
    Some(Vlan { tpid, vid: vid? })
}

fn vrf_table(attributes: &[InfoVrf]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

fn xdp_attachment(attributes: &[LinkXdp]) -> Option<XdpAttachment> {
    let mut mode = None;
    let mut program = None;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(AttachMode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(AttachMode::Generic),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some(AttachMode::Offload),
            LinkXdp::Attached(XdpAttached::Multiple) => mode = Some(AttachMode::Several),
            LinkXdp::ProgId(id) => program = Some(*id),
            // If there are several, only these say which.
            LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => program = program.or(Some(*id)),
            _ => {}
        }
    }
    Some(XdpAttachment {
        program: program?,
        mode: mode?,
    })
}

fn interface_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let find = |choose: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(choose);
    // On a point-to-point interface IFA_ADDRESS is the other end's.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some(InterfaceAddress {
        ifindex: message.header.index,
        address: IpNet::new(address, message.header.prefix_len).ok()?,
    })
}

/// `None` for entries that are neither ARP nor ND (bridges' forwarding entries, proxies).
fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    let mut managed = false;
    let mut marked = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => address = Some(IpAddr::from(*value)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => address = Some(IpAddr::from(*value)),
            NeighbourAttribute::LinkLayerAddress(value) => mac = value.as_slice().try_into().ok().map(Mac),
            NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(protocol) => marked = *protocol == PROTOCOL,
            _ => {}
        }
    }
    let state = match (message.header.state, mac) {
        (Nud::Failed, _) => NeighbourState::Failed,
        (Nud::Permanent, Some(mac)) => NeighbourState::Permanent(mac),
        (Nud::Noarp, Some(mac)) => NeighbourState::NoArp(mac),
        (Nud::Stale, Some(mac)) => NeighbourState::Stale(mac),
        (Nud::Reachable | Nud::Delay | Nud::Probe, Some(mac)) => NeighbourState::Reachable(mac),
        _ => NeighbourState::Incomplete,
    };
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address: address?,
        state,
        managed: match (managed, marked) {
            (false, _) => None,
            (true, true) => Some(Manager::Mplsxdp),
            (true, false) => Some(Manager::Other),
        },
    })
}

/// One for each path; none for anything but an IPv4 or IPv6 route, or for a cached one.
fn kernel_routes(message: &RouteMessage) -> Vec<KernelRoute> {
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => [0; 4].into(),
        AddressFamily::Inet6 => [0; 16].into(),
        _ => return Vec::new(),
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return Vec::new();
    }
    let mut destination = unspecified;
    let mut table = header.table.into();
    let mut metric = 0;
    let mut object = 0;
    let mut selector = DefaultHasher::new();
    (header.tos, header.source_prefix_length).hash(&mut selector);
    // What applies to all paths of an IPv4 route. IPv6 may change it within a route.
    let mut common = DefaultHasher::new();
    if header.address_family == AddressFamily::Inet {
        (u8::from(header.protocol), u8::from(header.scope)).hash(&mut common);
    }
    let mut ways = Vec::new();
    let mut only = Way::default();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::NhId(id) => object = *id,
            RouteAttribute::Oif(ifindex) => only.oif = Some(*ifindex),
            RouteAttribute::MultiPath(paths) => ways.extend(paths.iter().map(|path| {
                let mut way = Way {
                    oif: Some(path.interface_index),
                    weight: path.hops,
                    ..Way::default()
                };
                path.attributes.iter().for_each(|attribute| way.take(attribute));
                way
            })),
            RouteAttribute::Source(_) => hash_attribute(attribute, &mut selector),
            RouteAttribute::PrefSource(_) | RouteAttribute::Metrics(_)
                if header.address_family == AddressFamily::Inet =>
            {
                hash_attribute(attribute, &mut common);
            }
            other => only.take(other),
        }
    }
    if ways.is_empty() {
        ways.push(only);
    }
    let Ok(prefix) = IpNet::new(destination, header.destination_prefix_length) else {
        return Vec::new();
    };
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Anycast => RouteKind::Anycast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Other,
    };
    let each_is_a_route = header.address_family == AddressFamily::Inet6 && object == 0;
    object.hash(&mut common);
    if object == 0 && !each_is_a_route {
        ways.hash(&mut common);
    }
    // Routes from router advertisements do not share a route with others.
    let may_share = each_is_a_route && header.protocol != RouteProtocol::Ra;
    let selector = selector.finish();
    let route = |way: Way| KernelRoute {
        prefix,
        table,
        metric,
        selector,
        kind,
        shares: may_share && way.gateway,
        entry: if each_is_a_route {
            let mut entry = DefaultHasher::new();
            (way.oif, &way.bytes).hash(&mut entry);
            entry.finish()
        } else {
            common.finish()
        },
        oif: way.oif,
    };
    Vec::from_iter(ways.into_iter().map(route))
}

/// One path of a route, as the kernel distinguishes them.
#[derive(Default, Hash)]
struct Way {
    oif: Option<u32>,
    gateway: bool,
    /// Gateway and encapsulation, as attributes.
    bytes: Vec<u8>,
    weight: u8,
}

impl Way {
    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => self.gateway = true,
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => {}
            _ => return,
        }
        let start = self.bytes.len();
        self.bytes.resize(start + attribute.buffer_len(), 0);
        attribute.emit(self.bytes.get_mut(start..).unwrap_or_default());
    }
}

fn hash_attribute(attribute: &RouteAttribute, hasher: &mut DefaultHasher) {
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes.hash(hasher);
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::InfoPortKind;

    use super::*;

    #[test]
    fn a_vrf_device_has_a_table_and_nothing_else_has() {
        let info = |kind, data| {
            let mut message = LinkMessage::default();
            message.header.index = 9;
            message.attributes = vec![
                LinkAttribute::IfName("red".into()),
                LinkAttribute::LinkInfo(vec![InfoAttribute::Kind(kind), InfoAttribute::Data(data)]),
            ];
            link_info(&message).unwrap()
        };
        let vrf = info(InfoKind::Vrf, InfoData::Vrf(vec![InfoVrf::TableId(1000)]));
        assert_eq!((vrf.kind.as_deref(), vrf.vrf_table), (Some("vrf"), Some(1000)));
        let vlan = info(InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(100)]));
        assert_eq!((vlan.kind.as_deref(), vlan.vrf_table), (Some("vlan"), None));
    }

    #[test]
    fn a_member_of_a_vrf_keeps_its_addresses() {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.attributes = vec![
            LinkAttribute::IfName("eth1".into()),
            LinkAttribute::Controller(9),
            LinkAttribute::LinkInfo(vec![InfoAttribute::PortKind(InfoPortKind::Vrf)]),
        ];
        let link = link_info(&message).unwrap();
        assert_eq!(link.master.as_ref().map(|master| master.ifindex), Some(9));
        assert_eq!((link.vrf_table, link.ip_ifindex()), (None, 2));
    }
}

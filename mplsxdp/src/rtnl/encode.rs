//! Writes messages as zebra does, for tests and for tools that stand in for zebra or the kernel.

use std::net::IpAddr;

use mplsxdp_common::wire::{Label, Mac};
use netlink_packet_core::{NLA_F_NESTED, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST};

use super::numbers::{self as number, Attribute};
use super::{Destination, Labels, Message, Object, ObjectTo, Path, Position, Prefix, Route, To};
use crate::route::Via;

/// The bottom of stack bit of a label stack entry.
const S: u32 = 0x100;

/// Appends a message to `buffer`. A stack without labels, or of more than 30, cannot be read again.
pub fn encode(message: &Message, buffer: &mut Vec<u8>) {
    match message {
        Message::Route { route, position } => {
            let position = match position {
                Position::First => 0,
                Position::Last => NLM_F_APPEND,
                Position::Replaces => NLM_F_REPLACE,
            };
            let mut writer = Writer::new(buffer, number::RTM_NEWROUTE, NLM_F_CREATE | position);
            writer.route(route);
        }
        Message::RouteGone(route) => Writer::new(buffer, number::RTM_DELROUTE, 0).route(route),
        Message::Object(object) => {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            Writer::new(buffer, number::RTM_NEWNEXTHOP, flags).object(object);
        }
        Message::ObjectGone(id) => {
            let mut writer = Writer::new(buffer, number::RTM_DELNEXTHOP, 0);
            writer.object_header(number::AF_UNSPEC);
            writer.u32(number::NHA_ID, *id);
        }
        Message::Input { ifindex, accepted } => {
            let mut writer = Writer::new(buffer, number::RTM_NEWNETCONF, 0);
            writer.netconf(*ifindex);
            writer.u32(number::NETCONFA_INPUT, u32::from(*accepted));
        }
        Message::InputGone { ifindex } => Writer::new(buffer, number::RTM_DELNETCONF, 0).netconf(*ifindex),
    }
}

/// A message that is being written. Its length is set when it is dropped.
struct Writer<'a> {
    buffer: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> Writer<'a> {
    fn new(buffer: &'a mut Vec<u8>, kind: u16, flags: u16) -> Self {
        let begin = buffer.len();
        buffer.extend([0; 4]);
        buffer.extend(kind.to_ne_bytes());
        buffer.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence number and port.
        buffer.extend([0; 8]);
        Self { buffer, begin }
    }

    fn route(&mut self, route: &Route) {
        let (family, length, table, tos) = match route.destination {
            Destination::Label(_) => (number::AF_MPLS, number::LABEL_BITS, number::RT_TABLE_MAIN, false),
            Destination::Prefix(Prefix {
                table,
                prefix,
                selective,
                ..
            }) => (family_of(prefix.addr()), prefix.prefix_len(), table, selective),
        };
        let kind = match route.unicast {
            true => number::RTN_UNICAST,
            false => number::RTN_BLACKHOLE,
        };
        let small_table = u8::try_from(table).unwrap_or(number::RT_TABLE_COMPAT);
        // Family, lengths, TOS, table, protocol, scope, type.
        let header = [family, length, 0, tos.into(), small_table, route.protocol.0, 0, kind];
        self.buffer.extend(header);
        self.buffer.extend([0; 4]);
        match route.destination {
            Destination::Label(label) => self.stack(number::RTA_DST, &[label]),
            Destination::Prefix(Prefix { prefix, metric, .. }) => {
                self.address(number::RTA_DST, prefix.addr());
                if metric != 0 {
                    self.u32(number::RTA_PRIORITY, metric);
                }
                if u8::try_from(table).is_err() {
                    self.u32(number::RTA_TABLE, table);
                }
            }
        }
        if let Some(propagate) = route.ttl_propagate {
            self.attribute(number::RTA_TTL_PROPAGATE, &[propagate.into()]);
        }
        match &route.to {
            To::Object(id) => self.u32(number::RTA_NH_ID, *id),
            To::Paths(paths) => match paths.as_slice() {
                [] => {}
                [path] if path.weight == 1 => {
                    self.path(path, family);
                    self.u32(number::RTA_OIF, path.ifindex);
                }
                paths => self.nested(number::RTA_MULTIPATH, 0, |writer| {
                    paths.iter().for_each(|path| writer.weighted_path(path, family));
                }),
            },
        }
    }

    /// One entry of RTA_MULTIPATH.
    fn weighted_path(&mut self, path: &Path, family: u8) {
        let begin = self.buffer.len();
        // The length, and flags.
        self.buffer.extend([0; 3]);
        self.buffer
            .push(path.weight.saturating_sub(1).try_into().unwrap_or(u8::MAX));
        self.buffer.extend(path.ifindex.to_ne_bytes());
        self.path(path, family);
        self.set_length(begin);
    }

    /// A next hop without its interface and weight.
    fn path(&mut self, path: &Path, family: u8) {
        match &path.labels {
            Labels::Out(stack) if stack.is_empty() => {}
            Labels::Out(stack) => self.stack(number::RTA_NEWDST, stack),
            labels => self.encapsulation(labels, number::RTA_ENCAP_TYPE, number::RTA_ENCAP),
        }
        let Some(via) = path.via else { return };
        // An address of the route's own family has a separate attribute.
        match via.address().filter(|&address| family_of(address) == family) {
            Some(address) => self.address(number::RTA_GATEWAY, address),
            None => self.via(via),
        }
    }

    fn via(&mut self, via: Via) {
        let (family, address) = match &via {
            Via::Inet(address) => (number::AF_INET, &address.octets()[..]),
            Via::Inet6(address) => (number::AF_INET6, &address.octets()[..]),
            Via::Link(Mac(address)) => (number::AF_PACKET, &address[..]),
        };
        self.attribute(number::RTA_VIA, &[&u16::from(family).to_ne_bytes(), address].concat());
    }

    fn encapsulation(&mut self, labels: &Labels, kind: Attribute, encapsulation: Attribute) {
        match labels {
            Labels::Out(_) => {}
            Labels::Other(other) => self.attribute(kind, &other.to_ne_bytes()),
            Labels::Imposed { stack, ttl } => {
                self.attribute(kind, &number::LWTUNNEL_ENCAP_MPLS.to_ne_bytes());
                self.nested(encapsulation, NLA_F_NESTED, |writer| {
                    writer.stack(number::MPLS_IPTUNNEL_DST, stack);
                    if let Some(ttl) = ttl {
                        writer.attribute(number::MPLS_IPTUNNEL_TTL, &[*ttl]);
                    }
                });
            }
        }
    }

    /// struct nhmsg, with only the family.
    fn object_header(&mut self, family: u8) {
        self.buffer.extend([family, 0, 0, 0, 0, 0, 0, 0]);
    }

    fn object(&mut self, object: &Object) {
        let family = match &object.to {
            ObjectTo::Path(Path { via: Some(via), .. }) => via.address().map_or(number::AF_INET, family_of),
            ObjectTo::Path(_) | ObjectTo::Blackhole => number::AF_INET,
            ObjectTo::Group(_) => number::AF_UNSPEC,
        };
        self.object_header(family);
        self.u32(number::NHA_ID, object.id);
        match &object.to {
            ObjectTo::Path(path) => {
                if let Some(address) = path.via.and_then(Via::address) {
                    self.address(number::NHA_GATEWAY, address);
                }
                self.u32(number::NHA_OIF, path.ifindex);
                self.encapsulation(&path.labels, number::NHA_ENCAP_TYPE, number::NHA_ENCAP);
            }
            ObjectTo::Blackhole => self.attribute(number::NHA_BLACKHOLE, &[]),
            ObjectTo::Group(members) => {
                let member = |&(id, weight): &(u32, u32)| {
                    let [id_0, id_1, id_2, id_3] = id.to_ne_bytes();
                    let weight = u16::try_from(weight.saturating_sub(1)).unwrap_or(u16::MAX);
                    let [low, high] = weight.to_le_bytes();
                    [id_0, id_1, id_2, id_3, low, high, 0, 0]
                };
                let members: Vec<_> = members.iter().flat_map(member).collect();
                self.attribute(number::NHA_GROUP, &members);
            }
        }
    }

    /// struct netconfmsg, and the interface.
    fn netconf(&mut self, ifindex: u32) {
        self.buffer.extend([number::AF_MPLS, 0, 0, 0]);
        self.u32(number::NETCONFA_IFINDEX, ifindex);
    }

    fn stack(&mut self, attribute: Attribute, labels: &[Label]) {
        let mut entries: Vec<u8> = Vec::with_capacity(4 * labels.len());
        for (index, label) in labels.iter().enumerate() {
            let s = if index + 1 == labels.len() { S } else { 0 };
            entries.extend((label.get() << 12 | s).to_be_bytes());
        }
        self.attribute(attribute, &entries);
    }

    fn address(&mut self, attribute: Attribute, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(attribute, &address.octets()),
            IpAddr::V6(address) => self.attribute(attribute, &address.octets()),
        }
    }

    fn u32(&mut self, attribute: Attribute, value: u32) {
        self.attribute(attribute, &value.to_ne_bytes());
    }

    fn attribute(&mut self, attribute: Attribute, value: &[u8]) {
        self.nested(attribute, 0, |writer| writer.buffer.extend(value));
        let padding = self.buffer.len().next_multiple_of(4) - self.buffer.len();
        self.buffer.extend(&[0; 4][..padding]);
    }

    fn nested(&mut self, attribute: Attribute, flag: u16, value: impl FnOnce(&mut Self)) {
        let begin = self.buffer.len();
        self.buffer.extend([0; 2]);
        self.buffer.extend((attribute.number | flag).to_ne_bytes());
        value(self);
        self.set_length(begin);
    }

    /// Sets the length of the attribute or next hop that began there.
    fn set_length(&mut self, begin: usize) {
        let length = u16::try_from(self.buffer.len() - begin).unwrap_or(u16::MAX);
        if let Some(place) = self.buffer.get_mut(begin..begin + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        let length = u32::try_from(self.buffer.len() - self.begin).unwrap_or(u32::MAX);
        if let Some(place) = self.buffer.get_mut(self.begin..self.begin + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => number::AF_INET,
        IpAddr::V6(_) => number::AF_INET6,
    }
}

//! Reads messages: from bytes to [`Message`].

use std::net::IpAddr;

use ipnet::IpNet;
use mplsxdp_common::wire::{Label, Mac};
use netlink_packet_core::{NLA_HEADER_SIZE, NLM_F_APPEND, NLM_F_MULTIPART, NLM_F_REPLACE, NlasIterator};
use smallvec::SmallVec;

use super::numbers::{self as number, Attribute};
use super::{Destination, Labels, Message, Object, ObjectTo, Path, Position, Prefix, Route, Stack, To};
use crate::route::{Protocol, Via};

/// struct nlmsghdr: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// struct rtmsg.
const ROUTE_HEADER: usize = 12;
/// struct nhmsg.
const OBJECT_HEADER: usize = 8;
/// struct netconfmsg, padded.
const NETCONF_HEADER: usize = 4;
/// struct rtnexthop.
const PATH_HEADER: usize = 8;
/// struct nexthop_grp.
const GROUP_MEMBER: usize = 8;
/// One more than the highest number of an attribute that is read (RTA_NH_ID).
const ATTRIBUTES: usize = 31;

/// Why a message cannot be read: the part that is wrong, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{part}: {problem}")]
pub struct DecodeError {
    /// The route that the message is about, if that much could be read.
    pub destination: Option<Destination>,
    /// The attribute or header field, such as `RTA_VIA`.
    pub part: &'static str,
    problem: String,
}

impl DecodeError {
    fn new(part: &'static str, problem: impl Into<String>) -> Self {
        Self {
            destination: None,
            part,
            problem: problem.into(),
        }
    }

    fn missing(attribute: Attribute, right: &str) -> Self {
        Self::new(attribute.name, format!("missing; {right} is required"))
    }

    fn length(part: &'static str, bytes: &[u8], right: &str) -> Self {
        Self::new(part, format!("length {}; must be {right}", bytes.len()))
    }

    fn about(self, destination: Destination) -> Self {
        Self {
            destination: Some(destination),
            ..self
        }
    }
}

/// The part named in errors of [`split`]: after one, nothing says where the next message begins.
pub const SPLIT: &str = "nlmsg_len";

/// The first message of `bytes`, with its header, and the rest. Messages are padded to 4 bytes.
pub fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let length = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize);
    let Some(length) = length.filter(|_| bytes.len() >= HEADER) else {
        let problem = format!("{} bytes are left; a message has 16 or more", bytes.len());
        return Err(DecodeError::new(SPLIT, problem));
    };
    match bytes.get(..length) {
        Some(message) if length >= HEADER => {
            let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            Ok((message, rest))
        }
        _ => {
            let problem = format!("{length}; must be 16 to {}, which is where the data ends", bytes.len());
            Err(DecodeError::new(SPLIT, problem))
        }
    }
}

/// `nlmsg_type` of a message that [`split`] returned.
pub fn message_type(message: &[u8]) -> Option<u16> {
    u16_at(message, 4)
}

/// Reads a message that [`split`] returned. `None` if its subject is not one of [`Message`].
pub fn decode(message: &[u8]) -> Result<Option<Message>, DecodeError> {
    let (Some(kind), Some(flags)) = (message_type(message), u16_at(message, 6)) else {
        return Err(DecodeError::length("struct nlmsghdr", message, "16 or more"));
    };
    let body = message.get(HEADER..).unwrap_or_default();
    match kind {
        number::RTM_NEWROUTE => {
            let position = match flags {
                // Routes listed by a dump do not replace one another.
                _ if flags & NLM_F_REPLACE != 0 && flags & NLM_F_MULTIPART == 0 => Position::Replaces,
                _ if flags & (NLM_F_APPEND | NLM_F_MULTIPART) != 0 => Position::Last,
                _ => Position::First,
            };
            let route = route(body, true)?;
            Ok(route.map(|route| Message::route(route, position)))
        }
        number::RTM_DELROUTE => Ok(route(body, false)?.map(Message::gone)),
        number::RTM_NEWNEXTHOP => object(body).map(|object| Some(Message::Object(object))),
        number::RTM_DELNEXTHOP => {
            let attributes = object_attributes(body)?;
            Ok(Some(Message::ObjectGone(object_id(&attributes)?)))
        }
        number::RTM_NEWNETCONF | number::RTM_DELNETCONF => netconf(body, kind == number::RTM_NEWNETCONF),
        _ => Ok(None),
    }
}

/// A message to use in place of an unreadable one that names a route: the source has another route there than the known
/// one, or none.
pub fn substitute(message: &[u8], error: &DecodeError) -> Option<Message> {
    let route = Route {
        destination: error.destination?,
        protocol: Protocol(0),
        unicast: true,
        to: To::Paths(SmallVec::new()),
        ttl_propagate: None,
    };
    match message_type(message)? {
        number::RTM_NEWROUTE => Some(Message::route(route, Position::Replaces)),
        number::RTM_DELROUTE => Some(Message::gone(route)),
        _ => None,
    }
}

/// `is_new`: RTM_NEWROUTE.
fn route(body: &[u8], is_new: bool) -> Result<Option<Route>, DecodeError> {
    let Some(&[family, dst_len, src_len, tos, table, protocol, _, kind, ..]) = body.first_chunk::<ROUTE_HEADER>()
    else {
        return Err(DecodeError::length("struct rtmsg", body, "12 or more"));
    };
    let flags = u32_at(body, 8).unwrap_or_default();
    if ![number::AF_MPLS, number::AF_INET, number::AF_INET6].contains(&family) || flags & number::RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let attributes = Attributes::read(body, ROUTE_HEADER)?;
    let destination = match family {
        number::AF_MPLS => Destination::Label(route_label(&attributes, dst_len)?),
        _ => Destination::Prefix(Prefix {
            table: match attributes.u32(number::RTA_TABLE)?.unwrap_or(table.into()) {
                // The kernel treats it as the main table.
                number::RT_TABLE_UNSPEC => number::RT_TABLE_MAIN,
                table => table,
            },
            prefix: route_prefix(&attributes, family, dst_len)?,
            metric: attributes.u32(number::RTA_PRIORITY)?.unwrap_or_default(),
            selective: tos != 0 || src_len != 0 || attributes.get(number::RTA_SRC).is_some(),
        }),
    };
    let names_only = !is_new && family == number::AF_MPLS;
    let (to, ttl_propagate) = match names_only {
        // Zebra writes next hops without their address; they are not needed to identify the route.
        true => (To::Paths(SmallVec::new()), None),
        false => route_to(&attributes, family).map_err(|error| error.about(destination))?,
    };
    Ok(Some(Route {
        destination,
        protocol: Protocol(protocol),
        unicast: kind == number::RTN_UNICAST,
        to,
        ttl_propagate,
    }))
}

fn route_label(attributes: &Attributes<'_>, dst_len: u8) -> Result<Label, DecodeError> {
    if dst_len != number::LABEL_BITS {
        let problem = format!("{dst_len}; must be 20, the bits of a label");
        return Err(DecodeError::new("rtm_dst_len", problem));
    }
    let Some(label) = attributes.get(number::RTA_DST) else {
        return Err(DecodeError::missing(number::RTA_DST, "one label stack entry"));
    };
    match stack(number::RTA_DST, label)?.as_slice() {
        [label] => Ok(*label),
        _ => Err(DecodeError::length(
            number::RTA_DST.name,
            label,
            "4: one label stack entry",
        )),
    }
}

fn route_prefix(attributes: &Attributes<'_>, family: u8, dst_len: u8) -> Result<IpNet, DecodeError> {
    let (unspecified, right): (IpAddr, _) = match family {
        number::AF_INET => ([0; 4].into(), "4: an IPv4 address"),
        _ => ([0; 16].into(), "16: an IPv6 address"),
    };
    let address = match attributes.get(number::RTA_DST) {
        Some(bytes) => address(bytes)
            .filter(|address| address.is_ipv4() == unspecified.is_ipv4())
            .ok_or_else(|| DecodeError::length(number::RTA_DST.name, bytes, right))?,
        None if dst_len == 0 => unspecified,
        None => {
            let right = "the address of the prefix, which is longer than 0 bits,";
            return Err(DecodeError::missing(number::RTA_DST, right));
        }
    };
    let prefix = IpNet::new(address, dst_len).map_err(|_| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        DecodeError::new("rtm_dst_len", format!("{dst_len}; must be {most} or less"))
    })?;
    Ok(prefix.trunc())
}

/// The next hops of a route, and RTA_TTL_PROPAGATE.
fn route_to(attributes: &Attributes<'_>, family: u8) -> Result<(To, Option<bool>), DecodeError> {
    let ttl_propagate = match attributes.get(number::RTA_TTL_PROPAGATE) {
        Some(&[propagate]) if family == number::AF_MPLS => Some(propagate != 0),
        Some(bytes) if family == number::AF_MPLS => {
            let right = "1: 0 or 1";
            return Err(DecodeError::length(number::RTA_TTL_PROPAGATE.name, bytes, right));
        }
        _ => None,
    };
    // With a nexthop object, the kernel may also write next hops, for programs that do not know objects.
    if let Some(id) = attributes.u32(number::RTA_NH_ID)?.filter(|&id| id != 0) {
        return Ok((To::Object(id), ttl_propagate));
    }
    let paths = match attributes.get(number::RTA_MULTIPATH) {
        Some(multipath) => paths(multipath, family)?,
        None => {
            let is_path = |&attribute: &Attribute| attributes.get(attribute).is_some();
            let has_path = [
                number::RTA_OIF,
                number::RTA_GATEWAY,
                number::RTA_VIA,
                number::RTA_NEWDST,
                number::RTA_ENCAP_TYPE,
            ];
            let ifindex = attributes.u32(number::RTA_OIF)?.unwrap_or_default();
            match has_path.iter().any(is_path) {
                true => SmallVec::from_iter([path(attributes, family, ifindex, 1)?]),
                false => SmallVec::new(),
            }
        }
    };
    Ok((To::Paths(paths), ttl_propagate))
}

fn paths(mut bytes: &[u8], family: u8) -> Result<SmallVec<[Path; 1]>, DecodeError> {
    let part = number::RTA_MULTIPATH.name;
    let mut paths = SmallVec::new();
    while !bytes.is_empty() {
        let Some(&[len_0, len_1, _, hops, ifindex @ ..]) = bytes.first_chunk::<PATH_HEADER>() else {
            return Err(DecodeError::length(
                "struct rtnexthop of RTA_MULTIPATH",
                bytes,
                "8 or more",
            ));
        };
        let length = usize::from(u16::from_ne_bytes([len_0, len_1]));
        let Some(one) = bytes.get(..length).filter(|one| one.len() >= PATH_HEADER) else {
            let problem = format!("rtnh_len is {length}; must be 8 to {}, where it ends", bytes.len());
            return Err(DecodeError::new(part, problem));
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // Next hops of label routes have no weights.
        let weight = match family {
            number::AF_MPLS => 1,
            _ => u32::from(hops) + 1,
        };
        let attributes = Attributes::read(one, PATH_HEADER)?;
        paths.push(path(&attributes, family, u32::from_ne_bytes(ifindex), weight)?);
    }
    match paths.is_empty() {
        true => Err(DecodeError::new(part, "empty; must have one next hop or more")),
        false => Ok(paths),
    }
}

/// A next hop of a route, from the attributes of the route or of one entry of RTA_MULTIPATH.
fn path(attributes: &Attributes<'_>, family: u8, ifindex: u32, weight: u32) -> Result<Path, DecodeError> {
    let via = match attributes.get(number::RTA_VIA) {
        Some(bytes) => {
            let is_none = |via: Via| family != number::AF_MPLS && via.address().is_some_and(|a| a.is_unspecified());
            Some(via(bytes)?).filter(|&via| !is_none(via))
        }
        None => gateway(attributes, number::RTA_GATEWAY)?,
    };
    let labels = match family {
        number::AF_MPLS => Labels::Out(match attributes.get(number::RTA_NEWDST) {
            Some(bytes) => stack(number::RTA_NEWDST, bytes)?,
            None => Stack::new(),
        }),
        _ => encapsulation(attributes, number::RTA_ENCAP_TYPE, number::RTA_ENCAP)?,
    };
    Ok(Path {
        ifindex,
        via,
        labels,
        weight,
    })
}

/// struct rtvia: a family, and an address.
fn via(bytes: &[u8]) -> Result<Via, DecodeError> {
    let part = number::RTA_VIA.name;
    let Some((family, address)) = bytes.split_first_chunk() else {
        return Err(DecodeError::length(part, bytes, "2 and the address"));
    };
    let wrong = |right| DecodeError::length(part, bytes, right);
    match u8::try_from(u16::from_ne_bytes(*family)) {
        Ok(number::AF_INET) => {
            let address: Result<[u8; 4], _> = address.try_into();
            let address = address.map_err(|_| wrong("6: family and IPv4 address"))?;
            Ok(Via::Inet(address.into()))
        }
        Ok(number::AF_INET6) => {
            let address: Result<[u8; 16], _> = address.try_into();
            let address = address.map_err(|_| wrong("18: family and IPv6 address"))?;
            Ok(Via::Inet6(address.into()))
        }
        Ok(number::AF_PACKET) => {
            let address: Result<[u8; 6], _> = address.try_into();
            let address = address.map_err(|_| wrong("8: family and MAC address"))?;
            Ok(Via::Link(Mac(address)))
        }
        _ => {
            let family = u16::from_ne_bytes(*family);
            let problem = format!("address family {family}; must be 2 (IPv4), 10 (IPv6) or 17 (MAC address)");
            Err(DecodeError::new(part, problem))
        }
    }
}

/// The gateway. The unspecified address counts as none.
fn gateway(attributes: &Attributes<'_>, attribute: Attribute) -> Result<Option<Via>, DecodeError> {
    let Some(bytes) = attributes.get(attribute) else {
        return Ok(None);
    };
    match address(bytes) {
        Some(address) if address.is_unspecified() => Ok(None),
        Some(IpAddr::V4(address)) => Ok(Some(Via::Inet(address))),
        Some(IpAddr::V6(address)) => Ok(Some(Via::Inet6(address))),
        None => {
            let right = "4 or 16: an IPv4 or IPv6 address";
            Err(DecodeError::length(attribute.name, bytes, right))
        }
    }
}

fn encapsulation(
    attributes: &Attributes<'_>,
    kind: Attribute,
    encapsulation: Attribute,
) -> Result<Labels, DecodeError> {
    match attributes.u16(kind)? {
        None if attributes.get(encapsulation).is_some() => {
            let right = format!("it says what {} is, and", encapsulation.name);
            Err(DecodeError::missing(kind, &right))
        }
        None | Some(number::LWTUNNEL_ENCAP_NONE) => Ok(Labels::Out(Stack::new())),
        Some(number::LWTUNNEL_ENCAP_MPLS) => {
            let Some(bytes) = attributes.get(encapsulation) else {
                return Err(DecodeError::missing(
                    encapsulation,
                    "the labels, for encapsulation type 1 (MPLS),",
                ));
            };
            let inner = Attributes::read(bytes, 0)?;
            let Some(labels) = inner.get(number::MPLS_IPTUNNEL_DST) else {
                return Err(DecodeError::missing(number::MPLS_IPTUNNEL_DST, "a label stack"));
            };
            let ttl = match inner.get(number::MPLS_IPTUNNEL_TTL) {
                None => None,
                Some(&[ttl]) => Some(ttl),
                Some(bytes) => return Err(DecodeError::length(number::MPLS_IPTUNNEL_TTL.name, bytes, "1")),
            };
            let stack = stack(number::MPLS_IPTUNNEL_DST, labels)?;
            Ok(Labels::Imposed { stack, ttl })
        }
        Some(other) => Ok(Labels::Other(other)),
    }
}

/// Label stack entries, outermost first. The last one must have the S bit, and no other may. TC and TTL are ignored.
fn stack(attribute: Attribute, bytes: &[u8]) -> Result<Stack, DecodeError> {
    let (entries, rest) = bytes.as_chunks::<4>();
    if entries.is_empty() || !rest.is_empty() || entries.len() > number::MAX_LABELS {
        let right = "4 for each of 1 to 30 labels";
        return Err(DecodeError::length(attribute.name, bytes, right));
    }
    let mut stack = Stack::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let entry = u32::from_be_bytes(*entry);
        let is_last = index + 1 == entries.len();
        if (entry & 0x100 != 0) != is_last {
            let has = if is_last { "no S bit" } else { "the S bit" };
            let problem = format!(
                "entry {} of {} has {has}; the last one must have it, and no other",
                index + 1,
                entries.len()
            );
            return Err(DecodeError::new(attribute.name, problem));
        }
        stack.push(Label::from_low_bits(entry >> 12));
    }
    Ok(stack)
}

fn object_attributes(body: &[u8]) -> Result<Attributes<'_>, DecodeError> {
    match body.len() {
        0..OBJECT_HEADER => Err(DecodeError::length("struct nhmsg", body, "8 or more")),
        _ => Attributes::read(body, OBJECT_HEADER),
    }
}

fn object_id(attributes: &Attributes<'_>) -> Result<u32, DecodeError> {
    let id = attributes.u32(number::NHA_ID)?.filter(|&id| id != 0);
    id.ok_or_else(|| DecodeError::missing(number::NHA_ID, "a number other than 0"))
}

fn object(body: &[u8]) -> Result<Object, DecodeError> {
    let attributes = object_attributes(body)?;
    let id = object_id(&attributes)?;
    let to = if let Some(bytes) = attributes.get(number::NHA_GROUP) {
        ObjectTo::Group(group(bytes)?)
    } else if attributes.get(number::NHA_BLACKHOLE).is_some() {
        ObjectTo::Blackhole
    } else {
        let has = |attribute| attributes.get(attribute).is_some();
        if !has(number::NHA_OIF) && !has(number::NHA_GATEWAY) {
            let right = "an interface, or NHA_GATEWAY, NHA_GROUP or NHA_BLACKHOLE,";
            return Err(DecodeError::missing(number::NHA_OIF, right));
        }
        ObjectTo::Path(Path {
            ifindex: attributes.u32(number::NHA_OIF)?.unwrap_or_default(),
            via: gateway(&attributes, number::NHA_GATEWAY)?,
            labels: encapsulation(&attributes, number::NHA_ENCAP_TYPE, number::NHA_ENCAP)?,
            weight: 1,
        })
    };
    Ok(Object { id, to })
}

/// struct nexthop_grp: id, weight minus one, high byte of that (Linux 6.12), reserved.
fn group(bytes: &[u8]) -> Result<Vec<(u32, u32)>, DecodeError> {
    let (members, rest) = bytes.as_chunks::<GROUP_MEMBER>();
    if members.is_empty() || !rest.is_empty() {
        let right = "8 for each member, and one member or more";
        return Err(DecodeError::length(number::NHA_GROUP.name, bytes, right));
    }
    let member = |&[id_0, id_1, id_2, id_3, weight, weight_high, ..]: &[u8; GROUP_MEMBER]| {
        let id = u32::from_ne_bytes([id_0, id_1, id_2, id_3]);
        (id, u32::from(u16::from_le_bytes([weight, weight_high])) + 1)
    };
    Ok(members.iter().map(member).collect())
}

fn netconf(body: &[u8], is_new: bool) -> Result<Option<Message>, DecodeError> {
    if body.first() != Some(&number::AF_MPLS) {
        return match body.is_empty() {
            true => Err(DecodeError::length("struct netconfmsg", body, "4 or more")),
            false => Ok(None),
        };
    }
    let attributes = Attributes::read(body, NETCONF_HEADER)?;
    let Some(ifindex) = attributes.u32(number::NETCONFA_IFINDEX)? else {
        return Err(DecodeError::missing(number::NETCONFA_IFINDEX, "an interface"));
    };
    if !is_new {
        return Ok(Some(Message::InputGone { ifindex }));
    }
    // Without it, another setting has changed.
    let input = attributes.u32(number::NETCONFA_INPUT)?;
    Ok(input.map(|input| Message::Input {
        ifindex,
        accepted: input != 0,
    }))
}

/// The attributes of a message, of a next hop or of an encapsulation, by number. If several have the same number, the
/// last.
struct Attributes<'a>([Option<&'a [u8]>; ATTRIBUTES]);

impl<'a> Attributes<'a> {
    /// Reads the attributes after a header of `header` bytes.
    fn read(bytes: &'a [u8], header: usize) -> Result<Self, DecodeError> {
        let mut attributes = [None; ATTRIBUTES];
        for attribute in NlasIterator::new(bytes.get(header..).unwrap_or_default()) {
            let attribute = attribute.map_err(|error| {
                let right = "an attribute must be 4 bytes or longer, and end within its message";
                DecodeError::new("attributes", format!("{error}; {right}"))
            })?;
            if let Some(place) = attributes.get_mut(usize::from(attribute.kind())) {
                let length = usize::from(attribute.length());
                *place = attribute.into_inner().get(NLA_HEADER_SIZE..length);
            }
        }
        Ok(Self(attributes))
    }

    fn get(&self, attribute: Attribute) -> Option<&'a [u8]> {
        self.0.get(usize::from(attribute.number)).copied().flatten()
    }

    fn u16(&self, attribute: Attribute) -> Result<Option<u16>, DecodeError> {
        let Some(bytes) = self.get(attribute) else {
            return Ok(None);
        };
        let value = bytes.try_into().map(u16::from_ne_bytes);
        value
            .map(Some)
            .map_err(|_| DecodeError::length(attribute.name, bytes, "2"))
    }

    fn u32(&self, attribute: Attribute) -> Result<Option<u32>, DecodeError> {
        let Some(bytes) = self.get(attribute) else {
            return Ok(None);
        };
        let value = bytes.try_into().map(u32::from_ne_bytes);
        value
            .map(Some)
            .map_err(|_| DecodeError::length(attribute.name, bytes, "4"))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| v6()).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

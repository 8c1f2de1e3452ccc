//! Dumps of the kernel's state, one request each.

use std::io;
use std::path::Path;

use bytes::BytesMut;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::decoding::message_type::{GET_NETCONF, GET_NEXTHOP};
use super::decoding::{error_of, routing_message, take_message};
use crate::rtnl::Message;

/// Exists if the kernel has MPLS.
const MPLS_SYSCTLS: &str = "/proc/sys/net/mpls";
const HEADER_LEN: usize = 16;
const DATAGRAM_BYTES: usize = 1 << 17;
/// struct nhmsg and struct netconfmsg, the second padded.
const NEXTHOP_HEADER_LEN: usize = 8;
const NETCONF_HEADER_LEN: usize = 4;

/// Whether the kernel has MPLS. A module may add it later.
pub fn has_mpls() -> bool {
    Path::new(MPLS_SYSCTLS).exists()
}

/// A dump request, without flags and sequence number.
pub(super) struct Request(Vec<u8>);

impl Request {
    fn of_family(message_type: u16, family: AddressFamily, header_len: usize) -> Self {
        let length = HEADER_LEN + header_len;
        let mut message = vec![0; length];
        message[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        message[4..6].copy_from_slice(&message_type.to_ne_bytes());
        message[HEADER_LEN] = family.into();
        Self(message)
    }

    /// Nexthop objects.
    pub fn objects() -> Self {
        Self::of_family(GET_NEXTHOP, AddressFamily::Unspec, NEXTHOP_HEADER_LEN)
    }

    /// Whether each interface accepts labels.
    pub fn inputs() -> Self {
        Self::of_family(GET_NETCONF, AddressFamily::Mpls, NETCONF_HEADER_LEN)
    }

    pub fn routes(family: AddressFamily) -> Self {
        let mut routes = RouteMessage::default();
        routes.header.address_family = family;
        RouteNetlinkMessage::GetRoute(routes).into()
    }

    pub fn with_sequence(&self, sequence: u32) -> Vec<u8> {
        let mut message = self.0.clone();
        message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        message[8..12].copy_from_slice(&sequence.to_ne_bytes());
        message
    }
}

impl From<RouteNetlinkMessage> for Request {
    fn from(request: RouteNetlinkMessage) -> Self {
        let mut message = NetlinkMessage::from(request);
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        Self(buffer)
    }
}

/// Passes on all nexthop objects, IP routes and label routes. Blocks until that is done.
pub fn routing(mut take: impl FnMut(Message)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let families = [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Mpls];
    let families = families
        .into_iter()
        .filter(|family| *family != AddressFamily::Mpls || has_mpls());
    let requests = std::iter::once(Request::objects()).chain(families.map(Request::routes));
    let mut datagram = BytesMut::with_capacity(DATAGRAM_BYTES);
    for (sequence, request) in (1..).zip(requests) {
        socket.send_to(&request.with_sequence(sequence), &SocketAddr::new(0, 0), 0)?;
        'dump: loop {
            datagram.reserve(DATAGRAM_BYTES);
            socket.recv_from(&mut datagram, 0)?;
            while !datagram.is_empty() {
                let Some(received) = take_message(&mut datagram)? else {
                    continue;
                };
                match &received.message.payload {
                    NetlinkPayload::Done(_) => break 'dump,
                    NetlinkPayload::Error(error) => return Err(error_of(error)),
                    _ => {}
                }
                if let Some(message) = routing_message(&received.bytes) {
                    take(message);
                }
            }
        }
        datagram.clear();
    }
    Ok(())
}

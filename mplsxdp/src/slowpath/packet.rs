//! What the slow path reads of a frame: its label stack, and whether the IP packet beneath deserves an ICMP error
//! (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mplsxdp_common::forward::MAX_STACK_DEPTH;
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_MPLS_UC, IPPROTO_HOPOPTS, IPV4_HLEN, IPV6_HLEN, LSE_LEN, Lse};

use super::icmp::{IPPROTO_ICMP, IPPROTO_ICMPV6, checksum};

/// A frame in its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts<'a> {
    pub ethernet: &'a [u8],
    /// The label stack entries; empty in a frame that is not labelled.
    pub stack: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` where the frame ends before its label stack does, or has no bottom of stack within 64 entries.
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, rest) = frame.split_at_checked(ETH_HLEN)?;
        let depth = if is_labelled(frame) {
            1 + entries(rest).take(MAX_STACK_DEPTH).position(Lse::bottom)?
        } else {
            0
        };
        let (stack, payload) = rest.split_at_checked(depth * LSE_LEN)?;
        Some(Self {
            ethernet,
            stack,
            payload,
        })
    }
}

/// By its EtherType.
pub fn is_labelled(frame: &[u8]) -> bool {
    frame.get(12..ETH_HLEN) == Some(&ETH_P_MPLS_UC.to_be_bytes())
}

/// The label stack entries that `stack` begins with.
pub fn entries(stack: &[u8]) -> impl Iterator<Item = Lse> {
    stack.as_chunks().0.iter().map(|&bytes| Lse::from_bytes(bytes))
}

/// A packet that deserves an ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offender<'a> {
    /// To whom the error goes.
    pub source: IpAddr,
    /// The packet, without what follows it in the frame.
    pub packet: &'a [u8],
}

impl<'a> Offender<'a> {
    /// The IP packet that `payload` begins with, of which `trimmed` bytes are missing. `None` where it gets no answer.
    pub fn read(payload: &'a [u8], trimmed: usize) -> Option<Self> {
        match payload.first()? >> 4 {
            4 => read_v4(payload, trimmed),
            6 => read_v6(payload, trimmed),
            _ => None,
        }
    }
}

fn read_v4(payload: &[u8], trimmed: usize) -> Option<Offender<'_>> {
    let start = payload.first_chunk::<IPV4_HLEN>()?;
    let [
        first,
        _,
        l0,
        l1,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = *start;
    let header_len = usize::from(first & 0xf) * 4;
    let total_len = usize::from(u16::from_be_bytes([l0, l1]));
    let header = payload.get(..header_len)?;
    if header_len < IPV4_HLEN || total_len < header_len || total_len > payload.len() + trimmed {
        return None;
    }
    let packet = payload.get(..total_len).unwrap_or(payload);
    let later_fragment = u16::from_be_bytes([f0, f1]) & 0x1fff != 0;
    let (source, destination) = (Ipv4Addr::from([s0, s1, s2, s3]), Ipv4Addr::from([d0, d1, d2, d3]));
    let deserves = checksum(0, header) == 0
        && !later_fragment
        && is_one_host_v4(source)
        && is_one_host_v4(destination)
        && (protocol != IPPROTO_ICMP || packet.get(header_len).is_some_and(|&kind| is_icmp_query(kind)));
    deserves.then_some(Offender {
        source: source.into(),
        packet,
    })
}

/// Whether the address can be that of one host: not of this network (0/8), loopback, multicast, class E or broadcast. Of the
/// broadcast addresses of far networks nobody here knows.
fn is_one_host_v4(address: Ipv4Addr) -> bool {
    !matches!(address.octets(), [0 | 127 | 224..=255, ..])
}

/// ICMPv4 messages that are certainly no errors: echo, router discovery, timestamp, information and address mask
/// (RFC 792, 950, 1256), extended echo (RFC 8335). Of a type that is not known, nobody can tell.
fn is_icmp_query(kind: u8) -> bool {
    matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43)
}

fn read_v6(payload: &[u8], trimmed: usize) -> Option<Offender<'_>> {
    let (&[_, _, _, _, l0, l1, next_header, _], rest) = payload.split_first_chunk::<8>()?;
    let (&source, rest) = rest.split_first_chunk::<16>()?;
    let (&destination, rest) = rest.split_first_chunk::<16>()?;
    let body_len = usize::from(u16::from_be_bytes([l0, l1]));
    if body_len > rest.len() + trimmed {
        return None;
    }
    let packet = payload.get(..IPV6_HLEN + body_len).unwrap_or(payload);
    let body = rest.get(..body_len).unwrap_or(rest);
    let source = Ipv6Addr::from(source);
    let deserves =
        is_one_host_v6(source) && is_one_host_v6(destination.into()) && upper_layer_deserves(next_header, body);
    deserves.then_some(Offender {
        source: source.into(),
        packet,
    })
}

/// Whether the address can be that of one host that a router may forward to: not unspecified, loopback, multicast, link-local
/// or an IPv4 address in another guise.
fn is_one_host_v6(address: Ipv6Addr) -> bool {
    let none = address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some();
    !none
}

/// Whether what follows the extension headers (RFC 8200 section 4) is neither part of a later fragment, nor an ICMPv6 error
/// (types below 128, known or not), nor a redirect. Headers that end before they should are malformed.
fn upper_layer_deserves(mut next_header: u8, mut body: &[u8]) -> bool {
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;
    const REDIRECT: u8 = 137;
    loop {
        let length = match next_header {
            IPPROTO_ICMPV6 => return body.first().is_some_and(|&kind| kind >= 128 && kind != REDIRECT),
            IPPROTO_HOPOPTS | ROUTING | DESTINATION_OPTIONS => match body {
                [_, units, ..] => (usize::from(*units) + 1) * 8,
                _ => return false,
            },
            // RFC 4302 section 2.2: in 32-bit words, less two.
            AUTHENTICATION => match body {
                [_, words, ..] => (usize::from(*words) + 2) * 4,
                _ => return false,
            },
            FRAGMENT => match body {
                [_, _, offset, flags, ..] if u16::from_be_bytes([*offset, *flags]) & 0xfff8 == 0 => 8,
                _ => return false,
            },
            _ => return true,
        };
        match (body.first(), body.get(length..)) {
            (Some(&next), Some(rest)) => (next_header, body) = (next, rest),
            _ => return false,
        }
    }
}

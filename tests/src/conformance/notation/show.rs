//! Taking frames apart, and showing them.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use mplsxdp_common::wire::{ETH_HLEN, ETH_P_MPLS_UC, IPV4_HLEN, IPV6_HLEN, LSE_LEN, Lse, Mac};

use super::{ETH_P_8021AD, ETH_P_8021Q, IPPROTO_ICMP, IPPROTO_ICMPV6, Tag};

/// The parts of a frame after its Ethernet header, as far as they can be recognised.
pub struct Anatomy<'a> {
    /// Outermost first.
    pub tags: Vec<Tag>,
    /// The EtherType beneath the tags; zero if the frame ends before.
    pub ethertype: u16,
    pub stack: Vec<Lse>,
    /// The bytes after the bottom of the stack, or after the Ethernet header of an unlabelled frame.
    pub payload: &'a [u8],
}

/// Takes a frame apart.
pub fn anatomy(frame: &[u8]) -> Anatomy<'_> {
    let (mut tags, mut stack): (Vec<Tag>, Vec<Lse>) = Default::default();
    let mut rest = frame.get(ETH_HLEN - 2..).unwrap_or_default();
    let mut ethertype = 0;
    while let Some((word, payload)) = rest.split_first_chunk() {
        ethertype = u16::from_be_bytes(*word);
        rest = payload;
        match payload.split_first_chunk() {
            Some((tci, behind)) if matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD) && behind.len() >= 2 => {
                let (tpid, tci) = (ethertype, u16::from_be_bytes(*tci));
                tags.push(Tag { tpid, tci });
                rest = behind;
            }
            _ => break,
        }
    }
    let mut payload = rest;
    if ethertype == ETH_P_MPLS_UC {
        while let (Some(entry), true) = (payload.first_chunk(), stack.last().is_none_or(|lse| !lse.bottom())) {
            stack.push(Lse::from_bytes(*entry));
            payload = &payload[LSE_LEN..];
        }
    }
    Anatomy {
        tags,
        ethertype,
        stack,
        payload,
    }
}

/// A frame in the notation, as far as possible, and in hex.
pub fn show(frame: &[u8]) -> String {
    let mut text = String::new();
    let Anatomy {
        tags,
        ethertype,
        stack,
        payload,
    } = anatomy(frame);
    if let Some(mac) = frame.first_chunk::<6>() {
        let _ = write!(text, "for {}", Mac(*mac));
    }
    if let Some(mac) = frame.get(6..).and_then(|rest| rest.first_chunk::<6>()) {
        let _ = write!(text, " src {}", Mac(*mac));
    }
    for Tag { tpid, tci } in tags {
        let word = if tpid == ETH_P_8021AD { "stag" } else { "tag" };
        let _ = write!(text, " {word} {}/{}", tci & 0xfff, tci >> 13);
    }
    if stack.is_empty() {
        let _ = write!(text, " type {ethertype:#06x}");
    }
    for (index, lse) in stack.iter().enumerate() {
        let last = index + 1 == stack.len();
        let bottom = match lse.bottom() {
            true if !last => " s",
            false if last => " -",
            _ => "",
        };
        let _ = write!(text, " [{} {}/{}{bottom}]", lse.label(), lse.ttl(), lse.tc());
    }
    show_packet(payload, &mut text);
    let _ = write!(text, " ({} bytes)\n      ", frame.len());
    for (index, byte) in frame.iter().enumerate() {
        let _ = write!(text, "{}{byte:02x}", if index == ETH_HLEN { " " } else { "" });
    }
    text
}

fn show_packet(payload: &[u8], text: &mut String) {
    let (protocol, upper) = match payload.first().map(|byte| byte >> 4) {
        Some(4) if payload.len() >= IPV4_HLEN => {
            let address = |at: usize| Ipv4Addr::new(payload[at], payload[at + 1], payload[at + 2], payload[at + 3]);
            let (ttl, tos, from, to) = (payload[8], payload[1], address(12), address(16));
            let size = u16::from_be_bytes([payload[2], payload[3]]);
            let fragment = u16::from_be_bytes([payload[6], payload[7]]);
            let _ = write!(text, " ip ttl {ttl} tos {tos:#04x} from {from} to {to} size {size}");
            if fragment != 0 {
                let _ = write!(text, " fragment {fragment:#06x}");
            }
            (payload[9], payload.get(usize::from(payload[0] & 0xf) * 4..))
        }
        Some(6) if payload.len() >= IPV6_HLEN => {
            let address = |at: usize| {
                let bytes: [u8; 16] = std::array::from_fn(|index| payload[at + index]);
                Ipv6Addr::from(bytes)
            };
            let (ttl, tos) = (payload[7], payload[0] << 4 | payload[1] >> 4);
            let size = IPV6_HLEN + usize::from(u16::from_be_bytes([payload[4], payload[5]]));
            let (from, to) = (address(8), address(24));
            let _ = write!(text, " ip6 ttl {ttl} tos {tos:#04x} from {from} to {to} size {size}");
            (payload[6], payload.get(IPV6_HLEN..))
        }
        _ => return,
    };
    if let (IPPROTO_ICMP | IPPROTO_ICMPV6, Some([kind, code, _, _, rest @ ..])) = (protocol, upper) {
        let _ = write!(text, " icmp {kind}/{code} {:02x?}", rest.get(..4).unwrap_or_default());
    }
}

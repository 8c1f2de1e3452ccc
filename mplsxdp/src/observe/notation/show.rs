//! Describes a frame in the words of the notation.

use std::fmt::Write as _;
use std::net::IpAddr;

use mplsxdp_common::ip::Family;
use mplsxdp_common::wire::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, Lse, Mac};

/// How much of what has no words is shown.
const SHOWN: usize = 64;

/// The frame, with its MAC addresses.
pub fn show(frame: &[u8]) -> String {
    let Some((addresses, _)) = frame.split_first_chunk::<12>() else {
        return format!("data {}", data(frame));
    };
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *addresses;
    let (to, from) = (Mac([a, b, c, d, e, f]), Mac([g, h, i, j, k, l]));
    format!("to {to} from {from} {}", inside(frame))
}

/// The frame without its MAC addresses.
pub fn inside(frame: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = frame.get(12..).unwrap_or_default();
    while let Some((&[p0, p1, t0, t1], after)) = rest.split_first_chunk()
        && matches!(u16::from_be_bytes([p0, p1]), ETH_P_8021Q | ETH_P_8021AD)
    {
        let _ = write!(text, "vlan {} ", u16::from_be_bytes([t0, t1]) & 0xfff);
        rest = after;
    }
    let Some((&ethertype, payload)) = rest.split_first_chunk() else {
        return text + "data";
    };
    match u16::from_be_bytes(ethertype) {
        ETH_P_MPLS_UC => labelled(payload, &mut text),
        ETH_P_IP => text += &ip(payload, Family::V4).unwrap_or_else(|| format!("type 0x800 data {}", data(payload))),
        ETH_P_IPV6 => {
            text += &ip(payload, Family::V6).unwrap_or_else(|| format!("type 0x86dd data {}", data(payload)));
        }
        other => {
            let _ = write!(text, "type {other:#x} data {}", data(payload));
        }
    }
    text
}

/// An IP packet alone.
pub fn packet(packet: &[u8]) -> String {
    let family = if packet.first().is_some_and(|first| first >> 4 == 6) {
        Family::V6
    } else {
        Family::V4
    };
    ip(packet, family).unwrap_or_else(|| format!("data {}", data(packet)))
}

fn labelled(mut rest: &[u8], text: &mut String) {
    while let Some((&bytes, after)) = rest.split_first_chunk() {
        let lse = Lse::from_bytes(bytes);
        let _ = write!(text, "[{} {}", lse.label(), lse.ttl());
        if lse.tc() != 0 {
            let _ = write!(text, " tc {}", lse.tc());
        }
        // Without a word, the last one before the payload has the S bit.
        *text += if lse.bottom() || after.len() >= 4 { "]" } else { " s 0]" };
        rest = after;
        if lse.bottom() {
            break;
        }
    }
    let family = match rest.first().map(|first| first >> 4) {
        Some(4) => Family::V4,
        Some(6) => Family::V6,
        _ => Family::V4,
    };
    match ip(rest, family) {
        Some(packet) => {
            *text += " ";
            *text += &packet;
        }
        // RFC 4385 section 3: a control word begins with four zero bits.
        None if rest.len() >= 18 && rest.starts_with(&[0; 4]) => {
            *text += " cw ether ";
            *text += &show(rest.get(4..).unwrap_or_default());
        }
        None => {
            *text += " data ";
            *text += &data(rest);
        }
    }
}

/// An IP packet of this family; `None` if it is not one.
fn ip(packet: &[u8], family: Family) -> Option<String> {
    let (from, to, ttl, tos, protocol, len, upper, is_fragment): (IpAddr, IpAddr, _, _, _, _, _, _) = match family {
        Family::V4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let header_len = usize::from(header[0] & 0xf) * 4;
            if header[0] >> 4 != 4 || header_len < 20 {
                return None;
            }
            let address = |at: usize| -> Option<[u8; 4]> { header.get(at..)?.first_chunk().copied() };
            (
                address(12)?.into(),
                address(16)?.into(),
                header[8],
                header[1],
                header[9],
                usize::from(u16::from_be_bytes([header[2], header[3]])),
                packet.get(header_len..)?,
                u16::from_be_bytes([header[6], header[7]]),
            )
        }
        Family::V6 => {
            let header: &[u8; 40] = packet.first_chunk()?;
            if header[0] >> 4 != 6 {
                return None;
            }
            let address = |at: usize| -> Option<[u8; 16]> { header.get(at..)?.first_chunk().copied() };
            (
                address(8)?.into(),
                address(24)?.into(),
                header[7],
                header[0] << 4 | header[1] >> 4,
                header[6],
                40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
                packet.get(40..)?,
                0,
            )
        }
    };
    let mut text = format!("ip to {to} from {from} ttl {ttl}");
    if tos != 0 {
        let _ = write!(text, " tos {tos}");
    }
    if is_fragment & 0x4000 != 0 {
        text += " df";
    }
    let ports = |name: &str| match upper {
        [a, b, c, d, ..] if is_fragment & 0x1fff == 0 => {
            let (sport, dport) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            format!(" {name} sport {sport} dport {dport}")
        }
        _ => format!(" {name}"),
    };
    text += &match (protocol, upper) {
        (17, _) => ports("udp"),
        (6, _) => ports("tcp"),
        (1 | 58, [kind, code, ..]) => format!(" icmp type {kind} code {code}"),
        _ => format!(" proto {protocol}"),
    };
    let _ = write!(text, " len {len}");
    Some(text)
}

fn data(bytes: &[u8]) -> String {
    let shown = bytes.get(..SHOWN).unwrap_or(bytes);
    let more = if shown.len() < bytes.len() { ".." } else { "" };
    hex::encode(shown) + more
}

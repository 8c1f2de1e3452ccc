//! Frames as text, both ways. `[100 64] [17 3/5] ip ttl 10` is a frame for this router with a stack of two entries,
//! outermost first, written `[label ttl]` or `[label ttl/tc]`, over an IPv4 packet. The last entry has the S bit,
//! unless a letter says otherwise: `[100 64 s]` sets it, `[100 64 -]` clears it. `[17 3]x5` repeats an entry five
//! times.
//!
//! Before the stack: `for MAC`, `src MAC`, `type 0x8848`, and VLAN tags, outermost first: `tag VID` is 802.1Q (0x8100),
//! `stag VID` is 802.1ad (0x88a8), `tag VID/PCP` has a priority. After the stack: nothing, `hex 0a0b..`, or `ip`,
//! `ip6`, `icmp TYPE/CODE` or `icmp6 TYPE/CODE` with any of these, each once:
//!
//! | words | default | |
//! |---|---|---|
//! | `ttl N`, `tos N` | 64, 0 | the whole TOS or traffic class byte |
//! | `to ADDRESS` | 198.51.100.1, 2001:db8:ff::1 | of the packet's family |
//! | `from ADDRESS` | 192.0.2.1, 2001:db8::1 | |
//! | `udp PORT`, `tcp PORT`, `sctp PORT` | `udp 7` | destination port, and the header around it |
//! | `sport PORT` | 7 | source port |
//! | `proto N` | | a protocol without ports |
//! | `data N` | | no UDP header: data from the packet's byte `N` on, as in a later fragment |
//! | `id N` | 0x1234 | identification, in IPv4 and the Fragment header |
//! | `options N`, `fragment N` | 0 | IPv4: 32-bit words of options; flags and fragment offset |
//! | `checksum N` | right | IPv4: header checksum |
//! | `hopopts N` | 0 | IPv6: 64-bit words of a Hop-by-Hop Options header |
//! | `fraghdr N` | none | IPv6: a Fragment header, with these 16 bits of offset and flag |
//! | `size N` | 28 bytes after the header | length of the IP packet |
//! | `version N`, `ihl N`, `length N` | right | header fields with wrong values; `ihl` is IPv4's |
//! | `trailer N` | 0 | bytes after the IP packet |
//!
//! An ICMP message goes from this router to the default source (10.0.1.1 to 192.0.2.1, 2001:db8:f0::1 to 2001:db8::1),
//! with TTL 64, TOS 0xc0 and identification 1 by default. It may have `mtu N`, `shows [100 1] [17 3]` (the label stack
//! in its RFC 4950 extension), `quoted N` (at most that many bytes of the packet), and last `quotes PACKET`, to the end
//! of the line. It has no ports, `proto`, `data` or `size`.

mod bytes;
mod read;
mod show;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mplsxdp_common::wire::{IPPROTO_UDP, Lse, Mac};

pub use self::bytes::ones_complement_sum;
pub use self::read::hex;
pub use self::show::{Anatomy, anatomy, show};

/// The MAC address of the port at which frames arrive.
pub const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// The MAC address of their sender.
pub const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);

/// This router's addresses, on the port that most frames arrive at.
pub const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf0, 0, 0, 0, 0, 1);
/// The source of packets, unless they name another.
const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_ICMPV6: u8 = 58;

#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    pub destination: Mac,
    pub source: Mac,
    /// Outermost first.
    pub tags: Vec<Tag>,
    /// `None`: the type that matches the contents.
    pub ethertype: Option<u16>,
    pub stack: Vec<Lse>,
    pub payload: Payload,
}

/// A VLAN tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub tpid: u16,
    /// Priority, drop eligibility and VLAN identifier.
    pub tci: u16,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Payload {
    Bytes(Vec<u8>),
    Ip(Packet),
}

/// An IP packet.
#[derive(Clone, PartialEq, Debug)]
pub struct Packet {
    pub destination: IpAddr,
    pub v4_source: Ipv4Addr,
    pub v6_source: Ipv6Addr,
    pub ttl: u8,
    pub tos: u8,
    /// TCP, UDP and SCTP have ports.
    pub protocol: u8,
    pub source_port: u16,
    pub port: u16,
    pub options: u8,
    pub hop_options: u8,
    /// Offset and flags of IPv4.
    pub fragment: u16,
    /// The same for a Fragment header.
    pub fragment_header: Option<u16>,
    /// For an IPv4 header.
    pub checksum: Option<u16>,
    pub size: Option<usize>,
    pub version: Option<u8>,
    pub ihl: Option<u8>,
    pub length: Option<u16>,
    pub trailer: usize,
    pub identification: u16,
    /// Where the data of a later fragment begins in its packet.
    pub data: Option<usize>,
    pub icmp: Option<Icmp>,
}

/// An ICMP message (RFC 792, RFC 4443), with an extension structure (RFC 4884) that shows a label stack (RFC 4950) if
/// it is not empty. Its layout is written here independently of the slow path.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub mtu: u32,
    /// `None` in a case: the stack as received.
    pub shows: Option<Vec<Lse>>,
    /// `None` in a case: the packet as received.
    pub quotes: Option<Vec<u8>>,
    pub quoted: Option<usize>,
}

impl Packet {
    pub fn v4() -> Self {
        Self {
            destination: Ipv4Addr::new(198, 51, 100, 1).into(),
            v4_source: SOURCE_V4,
            v6_source: SOURCE_V6,
            ttl: 64,
            tos: 0,
            protocol: IPPROTO_UDP,
            source_port: 7,
            port: 7,
            options: 0,
            hop_options: 0,
            fragment: 0,
            fragment_header: None,
            checksum: None,
            size: None,
            version: None,
            ihl: None,
            length: None,
            trailer: 0,
            identification: 0x1234,
            data: None,
            icmp: None,
        }
    }

    pub(super) fn icmp(kind: u8, code: u8, v6: bool) -> Self {
        Self {
            destination: if v6 { SOURCE_V6.into() } else { SOURCE_V4.into() },
            v4_source: OWN_V4,
            v6_source: OWN_V6,
            protocol: if v6 { IPPROTO_ICMPV6 } else { IPPROTO_ICMP },
            tos: 0xc0,
            identification: 1,
            icmp: Some(Icmp {
                kind,
                code,
                ..Icmp::default()
            }),
            ..Self::v4()
        }
    }

    pub fn v6() -> Self {
        Self {
            destination: Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1).into(),
            ..Self::v4()
        }
    }
}

//! ICMP errors about labelled packets: ICMPv4 (RFC 792) and ICMPv6 (RFC 4443) with the extension structure of RFC 4884
//! that holds the label stack as received (RFC 4950). Built whole, IP header included. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mplsxdp_common::forward::MAX_STACK_DEPTH;
use mplsxdp_common::wire::{IPV4_HLEN, IPV6_HLEN, LSE_LEN};

#[cfg(any(test, feature = "test-support"))]
pub(super) mod parse;

/// TTL or hop limit of an answer.
pub const TTL: u8 = 64;
/// IP precedence of an answer, and TC of the labels that carry it: internetwork control (RFC 1812 section 4.3.2.5).
pub const PRECEDENCE: u8 = 6;
/// How many bytes of a packet are quoted if an extension follows; a shorter packet is padded with zeros. RFC 4884
/// section 3 requires at least this; many readers (traceroute, mtr, tcpdump) look for the extension here, whatever the
/// length field says.
pub const QUOTED: usize = 128;

/// DS field: class selector 6, the successor of that precedence (RFC 2474 section 4.2.2).
pub(super) const DS_FIELD: u8 = PRECEDENCE << 5;
/// Longest ICMPv4 error (RFC 1812 section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// Longest ICMPv6 error: the minimum link MTU (RFC 4443 section 2.4 (c)).
const LONGEST_V6: usize = 1280;
/// Type, code, checksum and four bytes that depend on the type.
const ICMP_HLEN: usize = 8;
/// Header of the extension structure, and of one object in it (RFC 4884 sections 7 and 8).
const EXTENSION_HLEN: usize = 4;
const OBJECT_HLEN: usize = 4;
/// Version 2 in the top four bits.
const EXTENSION_VERSION: u8 = 2 << 4;
/// Class and C-Type of an incoming label stack (RFC 4950 section 5).
const LABEL_STACK: [u8; 2] = [1, 1];

/// The most entries that an extension holds: all that the forwarding core lets through.
const MAX_STACK_LEN: usize = MAX_STACK_DEPTH * LSE_LEN;
const _: () = assert!(IPV4_HLEN + ICMP_HLEN + QUOTED + EXTENSION_HLEN + OBJECT_HLEN + MAX_STACK_LEN <= LONGEST_V4);

pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_ICMPV6: u8 = 58;

/// The error, as its source is informed of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// TTL or hop limit exceeded in transit.
    TimeExceeded,
    /// Host or address unreachable.
    HostUnreachable,
    /// The next hop takes packets up to `mtu` bytes.
    PacketTooBig { mtu: u32 },
}

impl Error {
    const fn v4(self) -> [u8; 2] {
        match self {
            Self::TimeExceeded => [11, 0],
            Self::HostUnreachable => [3, 1],
            Self::PacketTooBig { .. } => [3, 4],
        }
    }

    const fn v6(self) -> [u8; 2] {
        match self {
            Self::TimeExceeded => [3, 0],
            Self::HostUnreachable => [1, 3],
            Self::PacketTooBig { .. } => [2, 0],
        }
    }
}

/// The source and destination of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addresses {
    V4 { source: Ipv4Addr, destination: Ipv4Addr },
    V6 { source: Ipv6Addr, destination: Ipv6Addr },
}

impl Addresses {
    /// `None` if they are of different families.
    pub const fn new(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 { source, destination }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 { source, destination }),
            _ => None,
        }
    }
}

/// An ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    pub error: Error,
    pub addresses: Addresses,
    /// The packet that the message is about, as received: the IP header and as much of the rest as there is.
    pub quoted: &'a [u8],
    /// The label stack entries that it was received with, as on the wire. The outermost 64 are shown.
    pub stack: &'a [u8],
}

impl Message<'_> {
    /// Writes the message, from its IP header on, in place of the contents of `packet`. At most `quote` bytes of the
    /// packet are quoted (but no fewer than an extension requires), and no more than fit a message. `identification` is
    /// for IPv4.
    pub fn write(&self, identification: u16, quote: usize, packet: &mut Vec<u8>) {
        packet.clear();
        match self.addresses {
            Addresses::V4 { source, destination } => self.write_v4(source, destination, identification, quote, packet),
            Addresses::V6 { source, destination } => self.write_v6(source, destination, quote, packet),
        }
    }

    fn write_v4(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        identification: u16,
        quote: usize,
        packet: &mut Vec<u8>,
    ) {
        /// RFC 4884 section 4.1: the length is in 32-bit words.
        const UNIT: usize = 4;
        let stack = self.shown_stack();
        let quoting = Quoting::new(self.quoted.len().min(quote), LONGEST_V4 - IPV4_HLEN - ICMP_HLEN, stack);
        let total = (IPV4_HLEN + ICMP_HLEN + quoting.padded + extension_len(stack)) as u16;
        packet.extend([0x45, DS_FIELD]);
        packet.extend(total.to_be_bytes());
        packet.extend(identification.to_be_bytes());
        packet.extend([0, 0, TTL, IPPROTO_ICMP, 0, 0]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        let header_checksum = checksum(0, packet);
        set(packet, 10, header_checksum.to_be_bytes());

        let [kind, code] = self.error.v4();
        let next_hop_mtu = match self.error {
            Error::PacketTooBig { mtu } => u16::try_from(mtu).unwrap_or(u16::MAX),
            Error::TimeExceeded | Error::HostUnreachable => 0,
        };
        packet.extend([kind, code, 0, 0, 0, quoting.units(UNIT, stack)]);
        packet.extend(next_hop_mtu.to_be_bytes());
        self.write_body(quoting, stack, packet);
        let icmp_checksum = checksum(0, packet.get(IPV4_HLEN..).unwrap_or_default());
        set(packet, IPV4_HLEN + 2, icmp_checksum.to_be_bytes());
    }

    fn write_v6(&self, source: Ipv6Addr, destination: Ipv6Addr, quote: usize, packet: &mut Vec<u8>) {
        /// RFC 4884 section 4.4: the length is in 64-bit words.
        const UNIT: usize = 8;
        // RFC 4884 section 4.6: ICMPv6 Packet Too Big has no room for a length.
        let stack = match self.error {
            Error::PacketTooBig { .. } => &[],
            Error::TimeExceeded | Error::HostUnreachable => self.shown_stack(),
        };
        let quoting = Quoting::new(self.quoted.len().min(quote), LONGEST_V6 - IPV6_HLEN - ICMP_HLEN, stack);
        let length = (ICMP_HLEN + quoting.padded + extension_len(stack)) as u16;
        packet.extend([0x60 | DS_FIELD >> 4, DS_FIELD << 4, 0, 0]);
        packet.extend(length.to_be_bytes());
        packet.extend([IPPROTO_ICMPV6, TTL]);
        packet.extend(source.octets());
        packet.extend(destination.octets());

        let [kind, code] = self.error.v6();
        packet.extend([kind, code, 0, 0]);
        packet.extend(match self.error {
            Error::PacketTooBig { mtu } => mtu.to_be_bytes(),
            Error::TimeExceeded | Error::HostUnreachable => [quoting.units(UNIT, stack), 0, 0, 0],
        });
        self.write_body(quoting, stack, packet);
        let icmp = packet.get(IPV6_HLEN..).unwrap_or_default();
        let icmp_checksum = checksum(pseudo_header(source, destination, icmp.len()), icmp);
        set(packet, IPV6_HLEN + 2, icmp_checksum.to_be_bytes());
    }

    /// The stack in the extension.
    fn shown_stack(&self) -> &[u8] {
        self.stack.get(..MAX_STACK_LEN).unwrap_or(self.stack)
    }

    /// Writes what follows the ICMP header.
    fn write_body(&self, quoting: Quoting, stack: &[u8], packet: &mut Vec<u8>) {
        let body = packet.len();
        packet.extend(self.quoted.iter().take(quoting.quoted));
        packet.resize(body + quoting.padded, 0);
        if stack.is_empty() {
            return;
        }
        let extension = packet.len();
        packet.extend([EXTENSION_VERSION, 0, 0, 0]);
        packet.extend(((OBJECT_HLEN + stack.len()) as u16).to_be_bytes());
        packet.extend(LABEL_STACK);
        packet.extend(stack);
        let extension_checksum = checksum(0, packet.get(extension..).unwrap_or_default());
        set(packet, extension + 2, extension_checksum.to_be_bytes());
    }
}

/// How much of a packet is quoted, and what it is padded to.
#[derive(Clone, Copy)]
struct Quoting {
    quoted: usize,
    padded: usize,
}

impl Quoting {
    /// At most `wanted` bytes, and no more than `room` or, if an extension follows, [`QUOTED`].
    fn new(wanted: usize, room: usize, stack: &[u8]) -> Self {
        if stack.is_empty() {
            let quoted = wanted.min(room);
            return Self { quoted, padded: quoted };
        }
        Self {
            quoted: wanted.min(QUOTED),
            padded: QUOTED,
        }
    }

    /// The length field: zero if no extension follows.
    fn units(self, unit: usize, stack: &[u8]) -> u8 {
        if stack.is_empty() {
            0
        } else {
            (self.padded / unit) as u8
        }
    }
}

const fn extension_len(stack: &[u8]) -> usize {
    if stack.is_empty() {
        0
    } else {
        EXTENSION_HLEN + OBJECT_HLEN + stack.len()
    }
}

/// Sets the TTL of a packet that was written here back to [`TTL`], whatever it is now.
pub fn set_ttl(packet: &mut [u8]) {
    if let Some(header) = packet.first_chunk_mut::<IPV4_HLEN>()
        && header[0] >> 4 == 4
    {
        header[8] = TTL;
        set(header, 10, [0, 0]);
        let header_checksum = checksum(0, header);
        set(header, 10, header_checksum.to_be_bytes());
    } else if let Some(hop_limit) = packet.get_mut(7) {
        *hop_limit = TTL;
    }
}

/// The Internet checksum (RFC 1071) of `bytes`, with `sum` of other words added: zero if the bytes contain a correct
/// one.
pub fn checksum(sum: u32, bytes: &[u8]) -> u16 {
    let (pairs, last) = bytes.as_chunks::<2>();
    let words = pairs.iter().map(|&pair| u32::from(u16::from_be_bytes(pair)));
    let last = last.iter().map(|&byte| u32::from(byte) << 8);
    // At most 65,535 bytes: no overflow.
    let sum = words.chain(last).fold(sum, u32::wrapping_add);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The sum of the IPv6 pseudo-header (RFC 8200 section 8.1).
fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> u32 {
    let addresses = source.segments().into_iter().chain(destination.segments());
    addresses.map(u32::from).sum::<u32>() + length as u32 + u32::from(IPPROTO_ICMPV6)
}

/// Writes `bytes` at `offset`, which is within `packet`.
fn set(packet: &mut [u8], offset: usize, bytes: [u8; 2]) {
    if let Some(place) = packet.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *place = bytes;
    }
}

#[cfg(test)]
mod tests;

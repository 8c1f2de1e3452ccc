//! ICMP errors about labelled packets: ICMPv4 (RFC 792) and ICMPv6 (RFC 4443) with the extension structure of RFC 4884
//! that holds the label stack as received (RFC 4950). Built whole, IP header included, and taken apart again. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mplsxdp_common::forward::MAX_STACK_DEPTH;
use mplsxdp_common::wire::{IPV4_HLEN, IPV6_HLEN, LSE_LEN};

/// TTL or hop limit of an answer.
pub const TTL: u8 = 64;
/// IP precedence of an answer, and TC of the labels that carry it: internetwork control (RFC 1812 section 4.3.2.5).
pub const PRECEDENCE: u8 = 6;
/// How many bytes are quoted of a packet if an extension follows, with zeros behind a shorter one. RFC 4884 section 3 asks for
/// this at least; many readers (traceroute, mtr, tcpdump) look for the extension here, whatever the length field says.
pub const QUOTED: usize = 128;

/// DS field: class selector 6, which is what became of the precedence (RFC 2474 section 4.2.2).
const DS_FIELD: u8 = PRECEDENCE << 5;
/// Longest ICMPv4 error (RFC 1812 section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// Longest ICMPv6 error: the least MTU of a link (RFC 4443 section 2.4 (c)).
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

/// What is wrong, to its source.
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

/// From where to where an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addresses {
    V4 { source: Ipv4Addr, destination: Ipv4Addr },
    V6 { source: Ipv6Addr, destination: Ipv6Addr },
}

impl Addresses {
    /// `None` where they are of two families.
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
    /// The packet that the message is about, as received: the IP header and what there is of the rest.
    pub quoted: &'a [u8],
    /// The label stack entries that it was received with, as on the wire. The outermost 64 are shown.
    pub stack: &'a [u8],
}

impl Message<'_> {
    /// Writes the message, from its IP header on, in place of what `packet` holds. At most `quote` bytes of the packet
    /// are quoted (but no less than an extension asks for), and no more than fit a message. `identification` is for
    /// IPv4.
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

    /// What the extension holds.
    fn shown_stack(&self) -> &[u8] {
        self.stack.get(..MAX_STACK_LEN).unwrap_or(self.stack)
    }

    /// What follows the ICMP header.
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

    /// The length field: zero where no extension follows.
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

/// Sets the TTL of a packet that was written here back to [`TTL`], whatever happened to it since.
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

/// A message taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<'a> {
    /// The quoted packet with the padding behind it.
    pub message: Message<'a>,
    /// TTL or hop limit.
    pub ttl: u8,
}

/// Takes apart an IP packet that holds an ICMP error of a kind that is built here.
pub fn parse(packet: &[u8]) -> Result<Parsed<'_>, ParseError> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_v4(packet),
        Some(6) => parse_v6(packet),
        Some(_) | None => Err(ParseError::NotIp),
    }
}

fn parse_v4(packet: &[u8]) -> Result<Parsed<'_>, ParseError> {
    let (&header, icmp) = packet.split_first_chunk::<IPV4_HLEN>().ok_or(ParseError::Truncated)?;
    let [
        first,
        _,
        l0,
        l1,
        _,
        _,
        _,
        _,
        ttl,
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
    ] = header;
    if first != 0x45 || protocol != IPPROTO_ICMP {
        return Err(ParseError::NotIcmp);
    }
    if usize::from(u16::from_be_bytes([l0, l1])) != packet.len() {
        return Err(ParseError::Length);
    }
    if checksum(0, &header) != 0 {
        return Err(ParseError::IpChecksum);
    }
    if checksum(0, icmp) != 0 {
        return Err(ParseError::IcmpChecksum);
    }
    let (&[kind, code, _, _, _, words, m0, m1], body) =
        icmp.split_first_chunk::<ICMP_HLEN>().ok_or(ParseError::Truncated)?;
    let error = match [kind, code] {
        [11, 0] => Error::TimeExceeded,
        [3, 1] => Error::HostUnreachable,
        [3, 4] => Error::PacketTooBig {
            mtu: u16::from_be_bytes([m0, m1]).into(),
        },
        _ => return Err(ParseError::Kind { kind, code }),
    };
    let (quoted, stack) = parse_body(body, usize::from(words) * 4)?;
    let addresses = Addresses::V4 {
        source: [s0, s1, s2, s3].into(),
        destination: [d0, d1, d2, d3].into(),
    };
    Ok(Parsed {
        message: Message {
            error,
            addresses,
            quoted,
            stack,
        },
        ttl,
    })
}

fn parse_v6(packet: &[u8]) -> Result<Parsed<'_>, ParseError> {
    let (&start, rest) = packet.split_first_chunk::<8>().ok_or(ParseError::Truncated)?;
    let (&source, rest) = rest.split_first_chunk::<16>().ok_or(ParseError::Truncated)?;
    let (&destination, icmp) = rest.split_first_chunk::<16>().ok_or(ParseError::Truncated)?;
    let [_, _, _, _, l0, l1, next_header, ttl] = start;
    if next_header != IPPROTO_ICMPV6 {
        return Err(ParseError::NotIcmp);
    }
    if usize::from(u16::from_be_bytes([l0, l1])) != icmp.len() {
        return Err(ParseError::Length);
    }
    let (source, destination) = (source.into(), destination.into());
    if checksum(pseudo_header(source, destination, icmp.len()), icmp) != 0 {
        return Err(ParseError::IcmpChecksum);
    }
    let (&[kind, code, _, _, m0, m1, m2, m3], body) =
        icmp.split_first_chunk::<ICMP_HLEN>().ok_or(ParseError::Truncated)?;
    let (error, quoted_len) = match [kind, code] {
        [3, 0] => (Error::TimeExceeded, usize::from(m0) * 8),
        [1, 3] => (Error::HostUnreachable, usize::from(m0) * 8),
        [2, 0] => {
            let mtu = u32::from_be_bytes([m0, m1, m2, m3]);
            (Error::PacketTooBig { mtu }, 0)
        }
        _ => return Err(ParseError::Kind { kind, code }),
    };
    let (quoted, stack) = parse_body(body, quoted_len)?;
    Ok(Parsed {
        message: Message {
            error,
            addresses: Addresses::V6 { source, destination },
            quoted,
            stack,
        },
        ttl,
    })
}

/// The quoted packet, `quoted` bytes of it where that is not zero, and the label stack in the extension behind it.
fn parse_body(body: &[u8], quoted: usize) -> Result<(&[u8], &[u8]), ParseError> {
    if quoted == 0 {
        return Ok((body, &[]));
    }
    let (quoted, extension) = body.split_at_checked(quoted).ok_or(ParseError::Truncated)?;
    if quoted.len() < QUOTED {
        return Err(ParseError::Quoted(quoted.len()));
    }
    let (&[version, _, _, _], mut objects) = extension
        .split_first_chunk::<EXTENSION_HLEN>()
        .ok_or(ParseError::Truncated)?;
    if version >> 4 != EXTENSION_VERSION >> 4 {
        return Err(ParseError::ExtensionVersion(version >> 4));
    }
    if checksum(0, extension) != 0 {
        return Err(ParseError::ExtensionChecksum);
    }
    while let Some((&[l0, l1, class, c_type], rest)) = objects.split_first_chunk::<OBJECT_HLEN>() {
        let length = usize::from(u16::from_be_bytes([l0, l1]))
            .checked_sub(OBJECT_HLEN)
            .ok_or(ParseError::Object)?;
        let (object, rest) = rest.split_at_checked(length).ok_or(ParseError::Object)?;
        if [class, c_type] == LABEL_STACK {
            return if length.is_multiple_of(LSE_LEN) {
                Ok((quoted, object))
            } else {
                Err(ParseError::Object)
            };
        }
        objects = rest;
    }
    Ok((quoted, &[]))
}

/// Why a packet is not an ICMP error that [`parse`] knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    #[error("neither IPv4 nor IPv6")]
    NotIp,
    #[error("not an ICMP message in an IP packet without options")]
    NotIcmp,
    #[error("the packet ends before the message does")]
    Truncated,
    #[error("the length in the IP header is not that of the packet")]
    Length,
    #[error("wrong checksum of the IPv4 header")]
    IpChecksum,
    #[error("wrong ICMP checksum")]
    IcmpChecksum,
    #[error("type {kind} code {code} is none of those that routers answer labelled packets with")]
    Kind { kind: u8, code: u8 },
    #[error("only {0} bytes are quoted in front of an extension; RFC 4884 asks for 128")]
    Quoted(usize),
    #[error("extension version {0}; RFC 4884 has 2")]
    ExtensionVersion(u8),
    #[error("wrong checksum of the extension structure")]
    ExtensionChecksum,
    #[error("an extension object's length does not fit")]
    Object,
}

/// The Internet checksum (RFC 1071) of `bytes`, with `sum` of other words added: zero over what holds a right one.
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
mod tests {
    use etherparse::checksum::Sum16BitWords;
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    /// UDP in IPv4 from 10.0.0.2 with TTL 1, and in IPv6 from 2001:db8::2 with hop limit 1.
    const UDP_V4: &str = "45000028 00000000 01119cb2 0a000002 0a090909 0fa0829a 0014b0d2 40414243 44454647 48494a4b";
    const UDP_V6: &str = "60000000 00141101 20010db8 00000000 00000000 00000002 20010db8 00090000 00000000 00000009
        0fa0829a 00147260 40414243 44454647 48494a4b";
    /// `[100 ttl 1][200 ttl 63 tc 5]`
    const STACK: &str = "00064001 000c8b3f";
    /// Version 2, checksum; length 12, class 1, C-Type 1; the stack.
    const EXTENSION: &str = "200013a0 000c0101 00064001 000c8b3f";

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn v4<'a>(error: Error, quoted: &'a [u8], stack: &'a [u8]) -> Message<'a> {
        Message {
            error,
            addresses: Addresses::V4 {
                source: [10, 0, 1, 1].into(),
                destination: [10, 0, 0, 2].into(),
            },
            quoted,
            stack,
        }
    }

    fn v6<'a>(error: Error, quoted: &'a [u8], stack: &'a [u8]) -> Message<'a> {
        Message {
            error,
            addresses: Addresses::V6 {
                source: "2001:db8:1::1".parse().unwrap(),
                destination: "2001:db8::2".parse().unwrap(),
            },
            quoted,
            stack,
        }
    }

    fn written(message: Message<'_>) -> Vec<u8> {
        let mut packet = b"what was there before".to_vec();
        message.write(1, usize::MAX, &mut packet);
        packet
    }

    /// That `bytes` are what `message` is written as and, with its quoted packet padded by `padding`, read as.
    fn check(message: Message<'_>, padding: usize, bytes: &[&str]) {
        let expected = hex(&bytes.concat());
        assert_eq!(written(message), expected);
        let quoted = [message.quoted, &vec![0; padding]].concat();
        let message = Message {
            quoted: &quoted,
            ..message
        };
        assert_eq!(parse(&expected), Ok(Parsed { message, ttl: 64 }));
    }

    #[test]
    fn time_exceeded_v4_with_the_label_stack() {
        let (udp, stack) = (hex(UDP_V4), hex(STACK));
        let padding = "00".repeat(88);
        check(
            v4(Error::TimeExceeded, &udp, &stack),
            88,
            &[
                "45c000ac 00010000 4001648e 0a000101 0a000002",
                "0b001219 00200000",
                UDP_V4,
                &padding,
                EXTENSION,
            ],
        );
    }

    #[test]
    fn time_exceeded_v6_with_the_label_stack() {
        let (udp, stack) = (hex(UDP_V6), hex(STACK));
        let padding = "00".repeat(68);
        check(
            v6(Error::TimeExceeded, &udp, &stack),
            68,
            &[
                "6c000000 00983a40 20010db8 00010000 00000000 00000001 20010db8 00000000 00000000 00000002",
                "03001fc7 10000000",
                UDP_V6,
                &padding,
                EXTENSION,
            ],
        );
    }

    #[test]
    fn host_unreachable_about_a_packet_without_labels_has_no_extension() {
        let udp = hex(UDP_V4);
        check(
            v4(Error::HostUnreachable, &udp, &[]),
            0,
            &[
                "45c00044 00010000 400164f6 0a000101 0a000002",
                "03011a38 00000000",
                UDP_V4,
            ],
        );
        let udp = hex(UDP_V6);
        check(
            v6(Error::HostUnreachable, &udp, &[]),
            0,
            &[
                "6c000000 00443a40 20010db8 00010000 00000000 00000001 20010db8 00000000 00000000 00000002",
                "01033218 00000000",
                UDP_V6,
            ],
        );
    }

    #[test]
    fn packet_too_big_has_the_mtu_and_in_v6_no_extension() {
        let (udp, stack) = (hex(UDP_V4), hex(STACK));
        let padding = "00".repeat(88);
        check(
            v4(Error::PacketTooBig { mtu: 1496 }, &udp, &stack),
            88,
            &[
                "45c000ac 00010000 4001648e 0a000101 0a000002",
                "0304143d 002005d8",
                UDP_V4,
                &padding,
                EXTENSION,
            ],
        );
        let udp = hex(UDP_V6);
        let too_big = v6(Error::PacketTooBig { mtu: 1496 }, &udp, &stack);
        let bytes = [
            "6c000000 00443a40 20010db8 00010000 00000000 00000001 20010db8 00000000 00000000 00000002",
            "02002b43 000005d8",
            UDP_V6,
        ];
        assert_eq!(written(too_big), hex(&bytes.concat()));
        check(v6(Error::PacketTooBig { mtu: 1496 }, &udp, &[]), 0, &bytes);
    }

    #[test]
    fn as_much_is_quoted_as_fits_and_128_bytes_before_an_extension() {
        let long = Vec::from_iter((0..1500).map(|index| index as u8));
        let (none, one, deep) = (vec![], vec![7; 4], vec![7; 256]);
        for (stack, quoted_v4, quoted_v6) in [(&none, 548, 1232), (&one, 128, 128), (&deep, 128, 128)] {
            for length in 0..long.len() {
                for (message, most, longest) in [
                    (v4(Error::TimeExceeded, &long[..length], stack), quoted_v4, 576),
                    (v6(Error::TimeExceeded, &long[..length], stack), quoted_v6, 1280),
                ] {
                    let packet = written(message);
                    assert!(packet.len() <= longest);
                    let quoted = parse(&packet).unwrap().message.quoted;
                    let same = length.min(most);
                    let padded = if stack.is_empty() { same } else { 128 };
                    assert_eq!((quoted.len(), &quoted[..same]), (padded, &long[..same]));
                    assert!(quoted[same..].iter().all(|&byte| byte == 0));
                }
            }
        }
    }

    #[test]
    fn the_least_that_is_quoted_on_demand_is_what_an_extension_needs() {
        let (long, mut packet) = (vec![1; 1500], Vec::new());
        v4(Error::TimeExceeded, &long, &[7; 4]).write(1, QUOTED, &mut packet);
        assert_eq!(packet.len(), 20 + 8 + 128 + 8 + 4);
        v6(Error::TimeExceeded, &long, &[]).write(1, QUOTED, &mut packet);
        assert_eq!(packet.len(), 40 + 8 + 128);
    }

    #[test]
    fn no_more_than_64_labels_are_shown() {
        let stack = Vec::from_iter((0..=255).flat_map(|index| [0, index, 0, 0]));
        for message in [
            v4(Error::TimeExceeded, &[1], &stack),
            v6(Error::TimeExceeded, &[1], &stack),
        ] {
            let packet = written(message);
            assert_eq!(parse(&packet).unwrap().message.stack, &stack[..256]);
        }
    }

    #[test]
    fn another_implementation_finds_the_checksums_right() {
        for (length, stack) in [(20, 0), (27, 4), (128, 8), (333, 4), (1500, 64)] {
            let (quoted, stack) = (vec![0x5a; length], vec![0xa5; stack]);
            let packet = written(v4(Error::TimeExceeded, &quoted, &stack));
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let header = sliced.net.unwrap().ipv4_ref().unwrap().header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), packet.len());
            let sum = Sum16BitWords::new().add_slice(&packet[IPV4_HLEN..]);
            assert_eq!(sum.ones_complement(), 0);

            let packet = written(v6(Error::HostUnreachable, &quoted, &stack));
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let header = sliced.net.unwrap().ipv6_ref().unwrap().header();
            let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
                panic!("no ICMPv6 in {packet:02x?}")
            };
            assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        }
    }

    #[test]
    fn a_ttl_that_was_changed_is_set_back() {
        for message in [
            v4(Error::TimeExceeded, &[1; 20], &[]),
            v6(Error::TimeExceeded, &[1; 40], &[]),
        ] {
            let right = written(message);
            let mut packet = right.clone();
            let offset = if packet[0] == 0x45 { 8 } else { 7 };
            packet[offset] = 254;
            set_ttl(&mut packet);
            assert_eq!(packet, right);
        }
        set_ttl(&mut []);
    }

    #[test]
    fn what_is_wrong_with_a_message_is_said() {
        let (udp, stack) = (hex(UDP_V4), hex(STACK));
        for (message, header) in [
            (v4(Error::TimeExceeded, &udp, &stack), 20),
            (v6(Error::TimeExceeded, &udp, &stack), 40),
        ] {
            let good = written(message);
            let with = |offset: usize, value: u8| {
                let mut packet = good.clone();
                packet[offset] = value;
                packet
            };
            // The checksum is made right again.
            let righted = |offset: usize, value: u8| {
                let mut packet = with(offset, value);
                let start = match message.addresses {
                    Addresses::V4 { .. } => 0,
                    Addresses::V6 { source, destination } => pseudo_header(source, destination, good.len() - header),
                };
                set(&mut packet, header + 2, [0, 0]);
                let right = checksum(start, &packet[header..]);
                set(&mut packet, header + 2, right.to_be_bytes());
                packet
            };
            let extension = good.len() - 16;
            let length = if header == 20 { header + 5 } else { header + 4 };
            assert_eq!(parse(&with(0, 0x50)), Err(ParseError::NotIp));
            assert_eq!(parse(&good[..good.len() - 1]), Err(ParseError::Length));
            assert_eq!(parse(&with(header + 30, 1)), Err(ParseError::IcmpChecksum));
            assert_eq!(parse(&righted(header, 77)), Err(ParseError::Kind { kind: 77, code: 0 }));
            assert_eq!(parse(&righted(length, 255)), Err(ParseError::Truncated));
            assert!(matches!(parse(&righted(length, 1)), Err(ParseError::Quoted(_))));
            assert_eq!(parse(&righted(extension, 0x10)), Err(ParseError::ExtensionVersion(1)));
            assert_eq!(parse(&righted(extension + 3, 1)), Err(ParseError::ExtensionChecksum));
        }
        let good = written(v4(Error::TimeExceeded, &udp, &stack));
        let mut wrong = good.clone();
        wrong[8] = 63;
        assert_eq!(parse(&wrong), Err(ParseError::IpChecksum));
        assert_eq!(parse(&udp), Err(ParseError::NotIcmp));
        assert_eq!(parse(&good[..19]), Err(ParseError::Truncated));
        assert_eq!(parse(&[]), Err(ParseError::NotIp));
    }

    #[test]
    fn a_label_stack_is_found_behind_other_objects() {
        // RFC 5837 interface information, class 2.
        let objects = hex("0008 0200 11223344 0008 0101 00064101");
        let mut extension = [&hex("2000 0000")[..], &objects].concat();
        let right = checksum(0, &extension);
        set(&mut extension, 2, right.to_be_bytes());
        let body = [&[0; 128][..], &extension].concat();
        assert_eq!(parse_body(&body, 128), Ok((&[0; 128][..], &hex("00064101")[..])));
        assert_eq!(parse_body(&body[..128 + 12], 128), Err(ParseError::ExtensionChecksum));
        for objects in ["0003 0101", "0009 0101 00064101", "0007 0101 000641"] {
            let mut extension = hex(&["2000 0000", objects].concat());
            let right = checksum(0, &extension);
            set(&mut extension, 2, right.to_be_bytes());
            let body = [&[0; 128][..], &extension].concat();
            assert_eq!(parse_body(&body, 128), Err(ParseError::Object), "{objects}");
        }
    }

    #[test]
    fn checksum_is_the_worked_example_of_rfc_1071() {
        // Section 3: the sum of these is ddf2.
        assert_eq!(checksum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(0, &[0xff]), !0xff00);
    }
}

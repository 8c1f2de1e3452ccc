//! Parses ICMP errors, so that tests can read answers.

use mplsxdp_common::wire::{IPV4_HLEN, LSE_LEN};

use super::{
    Addresses, EXTENSION_HLEN, EXTENSION_VERSION, Error, ICMP_HLEN, IPPROTO_ICMP, IPPROTO_ICMPV6, LABEL_STACK, Message,
    OBJECT_HLEN, QUOTED, checksum, pseudo_header,
};

/// A parsed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<'a> {
    /// The quoted packet with the padding behind it.
    pub message: Message<'a>,
    /// TTL or hop limit.
    pub ttl: u8,
}

/// Parses an IP packet with an ICMP error of a kind that this module builds.
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

/// The quoted packet (`quoted` bytes of it if that is not zero), and the label stack in the extension after it.
pub(super) fn parse_body(body: &[u8], quoted: usize) -> Result<(&[u8], &[u8]), ParseError> {
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

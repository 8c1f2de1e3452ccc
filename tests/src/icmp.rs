//! Parses ICMP errors and checks every length and checksum: ICMPv4 (RFC 792), ICMPv6 (RFC 4443), the extension
//! structure (RFC 4884) and the label stack in it (RFC 4950). The parser is independent of the code that writes them.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use mplsxdp_common::wire::{LSE_LEN, Lse};

use crate::frame::{Entry, Parsed};

pub const TIME_EXCEEDED_V4: (u8, u8) = (11, 0);
pub const TIME_EXCEEDED_V6: (u8, u8) = (3, 0);
pub const HOST_UNREACHABLE_V4: (u8, u8) = (3, 1);
pub const ADDRESS_UNREACHABLE_V6: (u8, u8) = (1, 3);
pub const FRAGMENTATION_NEEDED_V4: (u8, u8) = (3, 4);
pub const PACKET_TOO_BIG_V6: (u8, u8) = (2, 0);

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ICMP_HLEN: usize = 8;
/// The length of the quoted packet if an extension follows.
const QUOTED: usize = 128;

/// An ICMP error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IcmpError {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL of the IP packet with the error.
    pub ttl: u8,
    /// Type and code.
    pub kind: (u8, u8),
    /// The MTU, if the error reports one; else zero.
    pub mtu: u32,
    /// The packet that the error is about; padded to at least 128 bytes if an extension follows.
    pub quoted: Vec<u8>,
    /// The label stack of the extension; empty if there is no extension.
    pub stack: Vec<Entry>,
}

impl IcmpError {
    /// `None` for frames without an ICMP error, labelled or not; the error says what is wrong with one.
    pub fn read(frame: &[u8]) -> Option<Result<Self>> {
        let parsed = Parsed::new(frame).ok()?;
        let ip = parsed.ip().ok()?;
        let header_len = match ip.source {
            IpAddr::V4(_) => usize::from(parsed.payload[0] & 0xf) * 4,
            IpAddr::V6(_) => 40,
        };
        let kind = *parsed.payload.get(header_len)?;
        let is_error = match ip.protocol {
            ICMP => matches!(kind, 3 | 11 | 12),
            ICMPV6 => kind < 128,
            _ => false,
        };
        is_error.then(|| Self::parse(&parsed, header_len))
    }

    /// Checks that the error is about `packet`, and quotes it from its first byte on, as far as there is room.
    pub fn ensure_quotes(&self, packet: &[u8]) -> Result<()> {
        let length = packet.len().min(self.quoted.len());
        ensure!(length >= packet.len().min(QUOTED), "only {length} bytes are quoted");
        let (quoted, padding) = self.quoted.split_at(length);
        ensure!(
            quoted == &packet[..length] && padding.iter().all(|&byte| byte == 0),
            "quoted {:02x?}\nexpected {packet:02x?}",
            self.quoted
        );
        Ok(())
    }

    fn parse(frame: &Parsed, header_len: usize) -> Result<Self> {
        let ip = frame.ip()?;
        let (header, icmp) = frame.payload.split_at(header_len);
        let length_field = |offset: usize| usize::from(u16::from_be_bytes([header[offset], header[offset + 1]]));
        // ICMPv4: length in byte 5, in 32-bit words; ICMPv6: in byte 4, in 64-bit words (RFC 4884 section 4).
        let (length, checksum, unit, at) = match (ip.source, ip.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let pseudo_header = pseudo_header(source, destination, icmp.len());
                (length_field(4), sum(&[&pseudo_header, icmp].concat()), 8, 4)
            }
            _ => (length_field(2) - header_len, sum(icmp), 4, 5),
        };
        ensure!(
            length == icmp.len(),
            "the IP header says {length} bytes of ICMP, there are {}",
            icmp.len()
        );
        ensure!(checksum == 0xffff, "the ICMP checksum is wrong");
        let (icmp_header, body) = icmp.split_at_checked(ICMP_HLEN).context("no whole ICMP header")?;
        let kind = (icmp_header[0], icmp_header[1]);
        // RFC 1191 section 4 has the MTU in bytes 6 and 7, RFC 4443 section 3.2 in place of a length.
        let mtu_from = match kind {
            PACKET_TOO_BIG_V6 if unit == 8 => 4,
            FRAGMENTATION_NEEDED_V4 if unit == 4 => 6,
            _ => ICMP_HLEN,
        };
        let mtu = icmp_header[mtu_from..]
            .iter()
            .fold(0, |mtu, &byte| mtu << 8 | u32::from(byte));
        let quoted = if at < mtu_from {
            usize::from(icmp_header[at]) * unit
        } else {
            0
        };
        let others_are_zero = (4..mtu_from).all(|index| index == at || icmp_header[index] == 0);
        ensure!(
            others_are_zero,
            "bytes 4 to 7 of the ICMP header: {:02x?}",
            &icmp_header[4..]
        );
        let (quoted, stack) = match quoted {
            0 => (body, Vec::new()),
            _ => {
                ensure!(quoted == QUOTED, "{quoted} bytes are quoted, not {QUOTED}");
                let split = body.split_at_checked(quoted);
                let (quoted, extension) = split.with_context(|| format!("{quoted} bytes quoted, of {}", body.len()))?;
                (quoted, label_stack(extension)?)
            }
        };
        Ok(Self {
            source: ip.source,
            destination: ip.destination,
            ttl: ip.ttl,
            kind,
            mtu,
            quoted: quoted.to_vec(),
            stack,
        })
    }
}

/// From an extension structure that holds nothing else.
fn label_stack(extension: &[u8]) -> Result<Vec<Entry>> {
    let (header, object) = extension.split_at_checked(4).context("no whole extension header")?;
    ensure!(
        header[..2] == [0x20, 0x00],
        "extension version and reserved: {header:02x?}"
    );
    ensure!(sum(extension) == 0xffff, "the checksum of the extension is wrong");
    let (header, entries) = object.split_at_checked(4).context("no whole object header")?;
    let length = usize::from(u16::from_be_bytes([header[0], header[1]]));
    ensure!(
        length == object.len() && header[2..] == [1, 1],
        "object header {header:02x?} with {} bytes of object",
        object.len()
    );
    let (entries, rest) = entries.as_chunks::<LSE_LEN>();
    ensure!(
        !entries.is_empty() && rest.is_empty(),
        "{} bytes of label stack",
        object.len() - 4
    );
    let lses = entries.iter().map(|&entry| Lse::from_bytes(entry));
    let bottoms = lses.clone().map(Lse::bottom);
    ensure!(
        bottoms.rev().enumerate().all(|(index, bottom)| bottom == (index == 0)),
        "S bits of {entries:02x?}"
    );
    Ok(lses.map(Entry::from).collect())
}

/// RFC 8200 section 8.1.
fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> Vec<u8> {
    let length = (length as u32).to_be_bytes();
    [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6]].concat()
}

/// The ones' complement sum of 16-bit words (RFC 1071): 0xffff over bytes that contain their own checksum.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_icmp_error_comes_apart() {
        let quoted = [0x45; QUOTED];
        let mut extension = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0x00, 0x06, 0x4b, 1];
        let checksum = !sum(&extension);
        extension[2..4].copy_from_slice(&checksum.to_be_bytes());
        let mut icmp = [&[11, 0, 0, 0, 0, 32, 0, 0], &quoted[..], &extension].concat();
        let checksum = !sum(&icmp);
        icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
        let mut header = [0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        header[2..4].copy_from_slice(&((20 + icmp.len()) as u16).to_be_bytes());
        let checksum = !sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        let frame = [&[0; 12][..], &[0x08, 0x00], &header, &icmp].concat();

        let error = IcmpError::read(&frame).unwrap().unwrap();
        assert_eq!((error.kind, error.ttl, error.mtu), (TIME_EXCEEDED_V4, 64, 0));
        assert_eq!(error.stack, [Entry::new(100, 1).tc(5)]);
        error.ensure_quotes(&quoted[..100]).unwrap_err();
        error.ensure_quotes(&[0x45; 2000]).unwrap();
        // Every wrong byte is noticed.
        for index in 14 + 20..frame.len() {
            let mut wrong = frame.clone();
            wrong[index] ^= 0x10;
            let read = IcmpError::read(&wrong);
            assert!(read.is_none_or(|read| read.is_err()), "byte {index}");
        }
    }
}

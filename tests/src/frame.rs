//! Frames, byte by byte: built to be sent, parsed to be compared. etherparse handles IP; this module handles labels.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{Ipv4Header, Ipv6Header, PacketBuilder};
use mplsxdp_common::wire::{
    ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, LSE_LEN, Label, Lse, Mac,
};

/// An Ethernet frame.
pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.0[..], &source.0, &ethertype.to_be_bytes(), payload].concat()
}

/// A labelled frame; the S bit is set in the last entry of `stack` only.
pub fn labelled(destination: Mac, source: Mac, stack: &[Entry], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, entry) in stack.iter().enumerate() {
        bytes.extend(entry.lse(index + 1 == stack.len()).to_bytes());
    }
    bytes.extend(payload);
    ethernet(destination, source, ETH_P_MPLS_UC, &bytes)
}

/// A frame with these VLAN tags, outermost first: TPID and TCI of each.
pub fn tagged(tags: &[(u16, u16)], frame: &[u8]) -> Vec<u8> {
    let (macs, rest) = frame.split_at(ETH_HLEN - 2);
    let tags = tags
        .iter()
        .flat_map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()]);
    [macs, tags.collect::<Vec<_>>().as_flattened(), rest].concat()
}

/// A parsed frame: its VLAN tags, and the same frame without them.
pub fn untagged(frame: &[u8]) -> (Vec<(u16, u16)>, Vec<u8>) {
    let mut tags = Vec::new();
    let mut rest = frame.to_vec();
    while let Some(&[a, b, c, d]) = rest.get(ETH_HLEN - 2..ETH_HLEN + 2)
        && matches!(u16::from_be_bytes([a, b]), ETH_P_8021Q | ETH_P_8021AD)
    {
        tags.push((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
        rest.drain(ETH_HLEN - 2..ETH_HLEN + 2);
    }
    (tags, rest)
}

/// A label stack entry without its S bit, which follows from its position.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub label: u32,
    pub ttl: u8,
    pub tc: u8,
}

impl Entry {
    pub const fn new(label: u32, ttl: u8) -> Self {
        Self { label, ttl, tc: 0 }
    }

    pub const fn tc(self, tc: u8) -> Self {
        Self { tc, ..self }
    }

    fn lse(self, bottom: bool) -> Lse {
        Lse::new(Label::from_low_bits(self.label), self.tc, bottom, self.ttl)
    }
}

impl From<Lse> for Entry {
    fn from(lse: Lse) -> Self {
        Self {
            label: lse.label().get(),
            ttl: lse.ttl(),
            tc: lse.tc(),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} ttl {} tc {}]", self.label, self.ttl, self.tc)
    }
}

/// A UDP datagram in IPv4 or IPv6 with correct checksums, without an Ethernet header.
pub fn udp(source: IpAddr, destination: IpAddr, ttl: u8, data: &[u8]) -> Result<Vec<u8>> {
    udp_of_ports(source, destination, [4000, 5000], ttl, data)
}

/// The same with these ports.
pub fn udp_of_ports(source: IpAddr, destination: IpAddr, ports: [u16; 2], ttl: u8, data: &[u8]) -> Result<Vec<u8>> {
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), ttl)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), ttl)
        }
        _ => anyhow::bail!("{source} and {destination} are of two families"),
    };
    let mut packet = Vec::new();
    let [source, destination] = ports;
    builder.udp(source, destination).write(&mut packet, data)?;
    Ok(packet)
}

/// The same packet as another hop would send it: with another TTL and the matching IPv4 checksum.
pub fn with_ttl(packet: &[u8], ttl: u8) -> Result<Vec<u8>> {
    let mut changed = packet.to_vec();
    if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        changed[7] = ttl;
        return Ok(changed);
    }
    let (mut header, payload) = Ipv4Header::from_slice(packet)?;
    header.time_to_live = ttl;
    header.header_checksum = header.calc_header_checksum();
    Ok([&header.to_bytes()[..], payload].concat())
}

/// A parsed frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Parsed {
    pub destination: Mac,
    pub source: Mac,
    pub ethertype: u16,
    /// Empty in a frame that is not labelled.
    pub stack: Vec<Entry>,
    /// The bytes after the Ethernet header, or after the label stack.
    pub payload: Vec<u8>,
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            destination,
            source,
            ethertype,
            stack,
            payload,
        } = self;
        write!(f, "{source} > {destination} {ethertype:#06x} {stack:?} {payload:02x?}")
    }
}

impl Parsed {
    /// An error says what is wrong with the frame.
    pub fn new(frame: &[u8]) -> Result<Self> {
        let (header, mut payload) = frame
            .split_at_checked(ETH_HLEN)
            .context("shorter than an Ethernet header")?;
        let ethertype = u16::from_be_bytes([header[12], header[13]]);
        let mut stack = Vec::new();
        let mut more = ethertype == ETH_P_MPLS_UC;
        while more {
            let (bytes, rest) = payload
                .split_first_chunk::<LSE_LEN>()
                .context("no bottom of stack within the frame")?;
            payload = rest;
            let lse = Lse::from_bytes(*bytes);
            stack.push(lse.into());
            more = !lse.bottom();
        }
        let mac = |offset: usize| -> Result<Mac> { Ok(Mac(header[offset..offset + 6].try_into()?)) };
        Ok(Self {
            destination: mac(0)?,
            source: mac(6)?,
            ethertype,
            stack,
            payload: payload.to_vec(),
        })
    }

    /// The IP packet in the frame or beneath its labels, its header checked.
    pub fn ip(&self) -> Result<Ip> {
        match (self.payload.first().map(|byte| byte >> 4), self.ethertype) {
            (Some(4), ETH_P_IP | ETH_P_MPLS_UC) => {
                let (header, _) = Ipv4Header::from_slice(&self.payload)?;
                ensure!(
                    header.header_checksum == header.calc_header_checksum(),
                    "IPv4 checksum {:#06x}, right is {:#06x}",
                    header.header_checksum,
                    header.calc_header_checksum()
                );
                Ok(Ip {
                    source: Ipv4Addr::from(header.source).into(),
                    destination: Ipv4Addr::from(header.destination).into(),
                    ttl: header.time_to_live,
                    protocol: header.protocol.0,
                })
            }
            (Some(6), ETH_P_IPV6 | ETH_P_MPLS_UC) => {
                let (header, _) = Ipv6Header::from_slice(&self.payload)?;
                Ok(Ip {
                    source: Ipv6Addr::from(header.source).into(),
                    destination: Ipv6Addr::from(header.destination).into(),
                    ttl: header.hop_limit,
                    protocol: header.next_header.0,
                })
            }
            _ => anyhow::bail!("no IP packet in {self:?}"),
        }
    }
}

/// The relevant fields of an IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Or hop limit.
    pub ttl: u8,
    pub protocol: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labelled_frame_comes_apart_into_what_it_was_made_of() {
        let (a, b) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let packet = udp("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 64, b"data").unwrap();
        let stack = [Entry::new(100, 63).tc(5), Entry::new(200, 62)];
        let frame = labelled(a, b, &stack, &packet);
        assert_eq!(frame[12..22], [0x88, 0x47, 0x00, 0x06, 0x4a, 63, 0x00, 0x0c, 0x81, 62]);
        let parsed = Parsed::new(&frame).unwrap();
        assert_eq!(
            (parsed.destination, parsed.source, &parsed.stack[..]),
            (a, b, &stack[..])
        );
        assert_eq!(parsed.payload, packet);
        assert_eq!(parsed.ip().unwrap().ttl, 64);
    }

    #[test]
    fn a_wrong_checksum_is_noticed_and_a_changed_ttl_gets_the_right_one() {
        let packet = udp("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 64, b"data").unwrap();
        let parse = |packet: &[u8]| {
            Parsed::new(&ethernet(Mac::ZERO, Mac::ZERO, ETH_P_IP, packet))
                .unwrap()
                .ip()
        };
        let mut wrong = packet.clone();
        wrong[8] = 63;
        assert!(parse(&wrong).is_err());
        assert_eq!(parse(&with_ttl(&packet, 63).unwrap()).unwrap().ttl, 63);
    }
}

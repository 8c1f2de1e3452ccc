//! UDP datagrams in IP packets: reads and writes them. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mplsxdp_common::wire::{IPPROTO_HOPOPTS, IPPROTO_UDP, IPV4_HLEN, IPV6_HLEN};

use crate::slowpath::icmp::checksum;
use crate::slowpath::packet::{Ipv4, ipv6_packet};

const UDP_HLEN: usize = 8;

/// A datagram that is not fragmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    pub ds_field: u8,
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The datagram at the start of `packet`, which may have padding behind it. `None` if it is not complete, or a length
    /// or checksum is wrong.
    pub fn read(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_v4(packet),
            6 => Self::read_v6(packet),
            _ => None,
        }
    }

    fn read_v4(packet: &'a [u8]) -> Option<Self> {
        let Ipv4 { header, packet, .. } = Ipv4::read(packet, 0)?;
        let &[
            _,
            ds_field,
            _,
            _,
            _,
            _,
            f0,
            f1,
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
        ] = header.first_chunk()?;
        if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 || protocol != IPPROTO_UDP {
            return None;
        }
        let addresses = [Ipv4Addr::from([s0, s1, s2, s3]), Ipv4Addr::from([d0, d1, d2, d3])];
        Self::read_udp(addresses.map(IpAddr::from), ttl, ds_field, packet.get(header.len()..)?)
    }

    fn read_v6(packet: &'a [u8]) -> Option<Self> {
        let (packet, _) = ipv6_packet(packet, 0)?;
        let (&[first, second, _, _, _, _, mut next_header, ttl], rest) = packet.split_first_chunk()?;
        let (&source, rest) = rest.split_first_chunk::<16>()?;
        let (&destination, mut body) = rest.split_first_chunk::<16>()?;
        if next_header == IPPROTO_HOPOPTS {
            let &[next, units] = body.first_chunk()?;
            next_header = next;
            body = body.get((usize::from(units) + 1) * 8..)?;
        }
        if next_header != IPPROTO_UDP {
            return None;
        }
        let addresses = [Ipv6Addr::from(source), Ipv6Addr::from(destination)];
        Self::read_udp(addresses.map(IpAddr::from), ttl, first << 4 | second >> 4, body)
    }

    fn read_udp([source, destination]: [IpAddr; 2], ttl: u8, ds_field: u8, udp: &'a [u8]) -> Option<Self> {
        let &[s0, s1, d0, d1, l0, l1, c0, c1] = udp.first_chunk()?;
        let udp = udp.get(..u16::from_be_bytes([l0, l1]).into())?;
        let payload = udp.get(UDP_HLEN..)?;
        let is_right = match [c0, c1] {
            // RFC 8200 section 8.1: IPv6 requires a checksum.
            [0, 0] => source.is_ipv4(),
            _ => checksum(pseudo_header(source, destination, udp.len()), udp) == 0,
        };
        is_right.then(|| Self {
            source: (source, u16::from_be_bytes([s0, s1])).into(),
            destination: (destination, u16::from_be_bytes([d0, d1])).into(),
            ttl,
            ds_field,
            payload,
        })
    }

    /// Writes the packet in place of the contents of `packet`. `identification` is for IPv4. Returns whether it could: both
    /// addresses must be of one family, and the payload must fit a packet.
    pub fn write(&self, identification: u16, packet: &mut Vec<u8>) -> bool {
        packet.clear();
        let udp_len = UDP_HLEN + self.payload.len();
        let Ok(length) = u16::try_from(IPV4_HLEN + udp_len) else {
            return false;
        };
        let start = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.extend([0x45, self.ds_field]);
                packet.extend(length.to_be_bytes());
                packet.extend(identification.to_be_bytes());
                packet.extend([0, 0, self.ttl, IPPROTO_UDP, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                let sum = checksum(0, packet);
                set(packet, 10, sum);
                IPV4_HLEN
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend([0x60 | self.ds_field >> 4, self.ds_field << 4, 0, 0]);
                packet.extend((udp_len as u16).to_be_bytes());
                packet.extend([IPPROTO_UDP, self.ttl]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                IPV6_HLEN
            }
            _ => return false,
        };
        packet.extend(self.source.port().to_be_bytes());
        packet.extend(self.destination.port().to_be_bytes());
        packet.extend((udp_len as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(self.payload);
        let udp = packet.get(start..).unwrap_or_default();
        let sum = checksum(pseudo_header(self.source.ip(), self.destination.ip(), udp.len()), udp);
        // RFC 768: zero would mean that there is none.
        set(packet, start + 6, if sum == 0 { 0xffff } else { sum });
        true
    }
}

/// The sum of the pseudo-header (RFC 768, RFC 8200 section 8.1).
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u32 {
    let sum = |address| match address {
        IpAddr::V4(address) => {
            let bits = u32::from(address);
            (bits >> 16) + (bits & 0xffff)
        }
        IpAddr::V6(address) => address.segments().into_iter().map(u32::from).sum(),
    };
    sum(source) + sum(destination) + length as u32 + u32::from(IPPROTO_UDP)
}

fn set(packet: &mut [u8], offset: usize, value: u16) {
    if let Some(place) = packet.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn a_datagram_is_as_others_write_it() {
        for payload in [&[0x5a; 33][..], &[]] {
            for (source, destination) in [
                ("10.0.0.1:4000", "127.0.0.1:3503"),
                ("[2001:db8::1]:4000", "[::1]:3503"),
            ] {
                let (source, destination): (SocketAddr, SocketAddr) =
                    (source.parse().unwrap(), destination.parse().unwrap());
                let datagram = Datagram {
                    source,
                    destination,
                    ttl: 1,
                    ds_field: 0,
                    payload,
                };
                let builder = match (source, destination) {
                    (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                        PacketBuilder::ipv4(source.ip().octets(), destination.ip().octets(), 1)
                    }
                    (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
                        PacketBuilder::ipv6(source.ip().octets(), destination.ip().octets(), 1)
                    }
                    _ => unreachable!(),
                };
                let mut expected = Vec::new();
                builder.udp(4000, 3503).write(&mut expected, payload).unwrap();
                let mut packet = Vec::new();
                assert!(datagram.write(0, &mut packet));
                // etherparse forbids fragmenting.
                if source.is_ipv4() {
                    assert_eq!(checksum(0, &packet[..IPV4_HLEN]), 0);
                    assert_eq!(packet[20..], expected[20..]);
                } else {
                    assert_eq!(packet, expected);
                }
                for bytes in [packet, expected] {
                    let padded = [&bytes[..], &[0; 18]].concat();
                    assert_eq!(Datagram::read(&padded), Some(datagram));
                    let mut wrong = bytes.clone();
                    *wrong.last_mut().unwrap() ^= 1;
                    assert_eq!(Datagram::read(&wrong), None);
                    assert_eq!(Datagram::read(&bytes[..bytes.len() - 1]), None);
                }
            }
        }
    }

    #[test]
    fn fragments_and_other_protocols_are_no_datagrams() {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [127, 0, 0, 1], 1);
        builder.udp(1, 3503).write(&mut packet, &[0; 8]).unwrap();
        for (offset, value) in [(6, 0x20), (7, 1), (9, 6)] {
            let mut other = packet.clone();
            other[offset] = value;
            set(&mut other, 10, 0);
            let sum = checksum(0, &other[..IPV4_HLEN]);
            set(&mut other, 10, sum);
            assert_eq!(Datagram::read(&other), None);
        }
    }
}

//! Frames as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mplsxdp_common::wire::{
    ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, IPPROTO_HOPOPTS, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPV4_HLEN, IPV6_HLEN,
    LSE_LEN,
};

use super::{Frame, IPPROTO_FRAGMENT, IPPROTO_ICMPV6, Icmp, Packet, Payload, Tag};

impl Frame {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.destination.0);
        bytes.extend(self.source.0);
        for Tag { tpid, tci } in &self.tags {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        let contents = match &self.payload {
            _ if !self.stack.is_empty() => ETH_P_MPLS_UC,
            Payload::Ip(packet) if packet.destination.is_ipv6() => ETH_P_IPV6,
            Payload::Ip(_) => ETH_P_IP,
            Payload::Bytes(_) => ETH_P_MPLS_UC,
        };
        bytes.extend(self.ethertype.unwrap_or(contents).to_be_bytes());
        for lse in &self.stack {
            bytes.extend(lse.to_bytes());
        }
        bytes.extend(self.payload.to_bytes());
        bytes
    }
}

impl Payload {
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(payload) => payload.clone(),
            Self::Ip(packet) => packet.to_bytes(),
        }
    }
}

impl Icmp {
    fn to_bytes(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        // The length of the quoted packet is in byte 5 in units of 4, or in byte 4 in units of 8; a message is at most
        // 576 bytes long (RFC 1812 section 4.3.2.3), or 1280.
        let (unit, place, longest) = match source {
            IpAddr::V4(_) => (4, 5, 576 - IPV4_HLEN),
            IpAddr::V6(_) => (8, 4, 1280 - IPV6_HLEN),
        };
        let mut message = vec![self.kind, self.code, 0, 0, 0, 0, 0, 0];
        if source.is_ipv4() {
            message[6..8].copy_from_slice(&(self.mtu as u16).to_be_bytes());
        } else {
            message[4..8].copy_from_slice(&self.mtu.to_be_bytes());
        }
        let quotes = self.quotes.as_deref().unwrap_or_default();
        let wanted = quotes.len().min(self.quoted.unwrap_or(usize::MAX));
        let shows = self.shows.as_deref().unwrap_or_default();
        if shows.is_empty() {
            message.extend(&quotes[..wanted.min(longest - 8)]);
        } else {
            let extension = 8 + shows.len() * LSE_LEN;
            // RFC 4884 section 3 requires at least this, and readers look for the extension after it.
            const QUOTED: usize = 128;
            message[place] = (QUOTED / unit) as u8;
            message.extend(&quotes[..wanted.min(QUOTED)]);
            message.resize(8 + QUOTED, 0);
            let mut structure = vec![0x20, 0, 0, 0, 0, (extension - 4) as u8, 1, 1];
            structure.extend(shows.iter().flat_map(|lse| lse.to_bytes()));
            let checksum = !ones_complement_sum(&structure);
            structure[2..4].copy_from_slice(&checksum.to_be_bytes());
            message.extend(structure);
        }
        let pseudo_header = match (source, destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => [
                &source.octets()[..],
                &destination.octets(),
                &(message.len() as u32).to_be_bytes(),
                &[0, 0, 0, IPPROTO_ICMPV6],
            ]
            .concat(),
            _ => Vec::new(),
        };
        let checksum = !ones_complement_sum(&[pseudo_header, message.clone()].concat());
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        message
    }
}

impl Packet {
    fn source(&self) -> IpAddr {
        match self.destination {
            IpAddr::V4(_) => self.v4_source.into(),
            IpAddr::V6(_) => self.v6_source.into(),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut packet = self.clone();
        let message = self
            .icmp
            .as_ref()
            .map(|icmp| icmp.to_bytes(self.source(), self.destination));
        if let Some(message) = &message {
            packet.size = Some(self.header_len() + message.len());
        }
        let mut bytes = match self.destination {
            IpAddr::V4(destination) => packet.v4_header(destination),
            IpAddr::V6(destination) => packet.v6_header(destination),
        };
        if let Some(message) = message {
            bytes.extend(message);
        } else if let Some(first) = self.data {
            let length = self.size().saturating_sub(bytes.len());
            bytes.extend((first..first + length).map(|index| index as u8));
        } else {
            bytes.extend(self.transport_header());
        }
        let data = bytes.len()..self.size().max(bytes.len());
        bytes.extend(data.map(|index| index as u8));
        // Ethernet padding, or bytes that a driver leaves behind: never touched.
        bytes.extend((0..self.trailer).map(|index| 0xe0 | index as u8));
        bytes
    }

    pub(super) fn header_len(&self) -> usize {
        match self.destination {
            IpAddr::V4(_) => IPV4_HLEN + usize::from(self.options) * 4,
            IpAddr::V6(_) => {
                let fragment_header = if self.fragment_header.is_some() { 8 } else { 0 };
                IPV6_HLEN + usize::from(self.hop_options) * 8 + fragment_header
            }
        }
    }

    /// For a protocol that has ports.
    pub(super) fn transport_header(&self) -> Vec<u8> {
        let ports = [self.source_port, self.port].map(u16::to_be_bytes).concat();
        let rest: &[u8] = match self.protocol {
            // Length and no checksum.
            IPPROTO_UDP => &[0, 8, 0, 0],
            // Sequence numbers, five words of header, ACK, window, no checksum, not urgent.
            IPPROTO_TCP => &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0],
            // Verification tag and no checksum.
            IPPROTO_SCTP => &[0, 0, 0, 1, 0, 0, 0, 0],
            _ => return Vec::new(),
        };
        [&ports, rest].concat()
    }

    fn size(&self) -> usize {
        self.size.unwrap_or(self.header_len() + 28)
    }

    fn v4_header(&self, destination: Ipv4Addr) -> Vec<u8> {
        let words = IPV4_HLEN / 4 + usize::from(self.options);
        let mut header = vec![0; words * 4];
        header[0] = self.version.unwrap_or(4) << 4 | self.ihl.unwrap_or(words as u8);
        header[1] = self.tos;
        header[2..4].copy_from_slice(&self.length.unwrap_or(self.size() as u16).to_be_bytes());
        header[4..6].copy_from_slice(&self.identification.to_be_bytes());
        header[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        header[8] = self.ttl;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&self.v4_source.octets());
        header[16..20].copy_from_slice(&destination.octets());
        // No Operation.
        header[IPV4_HLEN..].fill(1);
        let checksum = self.checksum.unwrap_or(!ones_complement_sum(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn v6_header(&self, destination: Ipv6Addr) -> Vec<u8> {
        let mut header = vec![0; IPV6_HLEN];
        header[0] = self.version.unwrap_or(6) << 4 | self.tos >> 4;
        header[1] = self.tos << 4;
        // A flow label, which this router's own messages do not have.
        if self.icmp.is_none() {
            header[1] |= 0x5;
            header[2..4].copy_from_slice(&[0xab, 0xcd]);
        }
        let length = self.length.unwrap_or(self.size().saturating_sub(IPV6_HLEN) as u16);
        header[4..6].copy_from_slice(&length.to_be_bytes());
        header[7] = self.ttl;
        header[8..24].copy_from_slice(&self.v6_source.octets());
        header[24..40].copy_from_slice(&destination.octets());
        let behind_options = match self.fragment_header {
            Some(_) => IPPROTO_FRAGMENT,
            None => self.protocol,
        };
        header[6] = behind_options;
        if let Some(more) = self.hop_options.checked_sub(1) {
            header[6] = IPPROTO_HOPOPTS;
            // Router Alert for MPLS OAM (RFC 7506), then Pad1.
            header.extend([behind_options, more, 5, 2, 0, 69, 0, 0]);
            header.resize(header.len() + usize::from(more) * 8, 0);
        }
        if let Some(fragment) = self.fragment_header {
            header.extend([self.protocol, 0]);
            header.extend(fragment.to_be_bytes());
            header.extend(u32::from(self.identification).to_be_bytes());
        }
        header
    }
}

/// The sum of RFC 1071: 0xffff over an IPv4 header with a correct checksum.
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

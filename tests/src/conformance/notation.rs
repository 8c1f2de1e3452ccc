//! Frames as text, both ways. `[100 64] [17 3/5] ip ttl 10` is a frame for this box with a stack of two entries, outermost
//! first, written `[label ttl]` or `[label ttl/tc]`, over an IPv4 packet. The last entry has the S bit, unless a letter says
//! otherwise: `[100 64 s]` has it, `[100 64 -]` has not. `[17 3]x5` is five of them.
//!
//! Before the stack: `for MAC`, `type 0x8848`, `tag VID`. After it: nothing, `hex 0a0b..`, or `ip` / `ip6` with any of
//!
//! | words | default | |
//! |---|---|---|
//! | `ttl N`, `tos N` | 64, 0 | the whole TOS or traffic class byte |
//! | `to ADDRESS` | 198.51.100.1, 2001:db8:ff::1 | |
//! | `from ADDRESS` | 2001:db8::1 | IPv6 source |
//! | `udp PORT`, `proto N` | `udp 7` | destination port; a protocol without ports |
//! | `options N` | 0 | 32-bit words of IPv4 options |
//! | `hopopts N` | 0 | 64-bit words of an IPv6 Hop-by-Hop Options header |
//! | `fragment N` | 0 | IPv4 fragment offset field |
//! | `size N` | 20 bytes of data | length of the IP packet |
//! | `version N`, `ihl N`, `length N` | right | header fields that lie |
//! | `trailer N` | 0 | bytes after the IP packet |

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mplsxdp_common::wire::{
    ETH_HLEN, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, IPPROTO_HOPOPTS, IPPROTO_UDP, IPV4_HLEN, IPV6_HLEN, LSE_LEN, Label,
    Lse, Mac,
};

/// The MAC address of the port at which frames arrive.
pub const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Who sends them.
pub const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);

const ETH_P_8021Q: u16 = 0x8100;

#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    pub destination: Mac,
    pub source: Mac,
    pub tag: Option<u16>,
    /// `None`: what the contents are.
    pub ethertype: Option<u16>,
    pub stack: Vec<Lse>,
    pub payload: Payload,
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
    pub v6_source: Ipv6Addr,
    pub ttl: u8,
    pub tos: u8,
    pub protocol: u8,
    pub port: u16,
    pub options: u8,
    pub hop_options: u8,
    pub fragment: u16,
    pub size: Option<usize>,
    pub version: Option<u8>,
    pub ihl: Option<u8>,
    pub length: Option<u16>,
    pub trailer: usize,
}

impl Packet {
    pub fn v4() -> Self {
        Self {
            destination: Ipv4Addr::new(198, 51, 100, 1).into(),
            v6_source: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            ttl: 64,
            tos: 0,
            protocol: IPPROTO_UDP,
            port: 7,
            options: 0,
            hop_options: 0,
            fragment: 0,
            size: None,
            version: None,
            ihl: None,
            length: None,
            trailer: 0,
        }
    }

    pub fn v6() -> Self {
        Self {
            destination: Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1).into(),
            ..Self::v4()
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = match self.destination {
            IpAddr::V4(destination) => self.v4_header(destination),
            IpAddr::V6(destination) => self.v6_header(destination),
        };
        if self.protocol == IPPROTO_UDP {
            for word in [7, self.port, 8, 0] {
                bytes.extend(u16::to_be_bytes(word));
            }
        }
        let data = bytes.len()..self.size().max(bytes.len());
        bytes.extend(data.map(|index| index as u8));
        // Ethernet padding, or what a driver leaves behind: never touched.
        bytes.extend((0..self.trailer).map(|index| 0xe0 | index as u8));
        bytes
    }

    fn size(&self) -> usize {
        let header = match self.destination {
            IpAddr::V4(_) => IPV4_HLEN + usize::from(self.options) * 4,
            IpAddr::V6(_) => IPV6_HLEN + usize::from(self.hop_options) * 8,
        };
        self.size.unwrap_or(header + 28)
    }

    fn v4_header(&self, destination: Ipv4Addr) -> Vec<u8> {
        let words = IPV4_HLEN / 4 + usize::from(self.options);
        let mut header = vec![0; words * 4];
        header[0] = self.version.unwrap_or(4) << 4 | self.ihl.unwrap_or(words as u8);
        header[1] = self.tos;
        header[2..4].copy_from_slice(&self.length.unwrap_or(self.size() as u16).to_be_bytes());
        header[4..6].copy_from_slice(&[0x12, 0x34]);
        header[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        header[8] = self.ttl;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&[192, 0, 2, 1]);
        header[16..20].copy_from_slice(&destination.octets());
        // No Operation.
        header[IPV4_HLEN..].fill(1);
        let checksum = !ones_complement_sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn v6_header(&self, destination: Ipv6Addr) -> Vec<u8> {
        let mut header = vec![0; IPV6_HLEN];
        header[0] = self.version.unwrap_or(6) << 4 | self.tos >> 4;
        header[1] = self.tos << 4 | 0x5;
        header[2..4].copy_from_slice(&[0xab, 0xcd]);
        let length = self.length.unwrap_or((self.size() - IPV6_HLEN) as u16);
        header[4..6].copy_from_slice(&length.to_be_bytes());
        header[6] = self.protocol;
        header[7] = self.ttl;
        header[8..24].copy_from_slice(&self.v6_source.octets());
        header[24..40].copy_from_slice(&destination.octets());
        if let Some(more) = self.hop_options.checked_sub(1) {
            header[6] = IPPROTO_HOPOPTS;
            // Router Alert for MPLS OAM (RFC 7506), then Pad1.
            header.extend([self.protocol, more, 5, 2, 0, 69, 0, 0]);
            header.resize(header.len() + usize::from(more) * 8, 0);
        }
        header
    }
}

/// The sum of RFC 1071: 0xffff over an IPv4 header whose checksum is right.
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

impl Frame {
    /// Panics where `text` is not in the notation: it stands in a test.
    pub fn parse(text: &str) -> Self {
        parse(text).unwrap_or_else(|word| panic!("`{word}` does not belong in `{text}`"))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.destination.0);
        bytes.extend(self.source.0);
        if let Some(vid) = self.tag {
            bytes.extend(ETH_P_8021Q.to_be_bytes());
            bytes.extend(vid.to_be_bytes());
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
        match &self.payload {
            Payload::Bytes(payload) => bytes.extend(payload),
            Payload::Ip(packet) => bytes.extend(packet.to_bytes()),
        }
        bytes
    }
}

/// The words of `text`, an entry of a stack being one.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for part in text.split_whitespace() {
        match words.last_mut() {
            Some(entry) if entry.starts_with('[') && !entry.contains(']') => {
                entry.push(' ');
                entry.push_str(part);
            }
            _ => words.push(part.into()),
        }
    }
    words
}

/// The error is the word that is wrong.
fn parse(text: &str) -> Result<Frame, String> {
    let mut frame = Frame {
        destination: OWN_MAC,
        source: PEER_MAC,
        tag: None,
        ethertype: None,
        stack: Vec::new(),
        payload: Payload::Bytes(Vec::new()),
    };
    let mut bottoms = Vec::new();
    let words = words(text);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut argument = || words.next().ok_or_else(|| format!("{word} <nothing>"));
        match (word.as_str(), &mut frame.payload) {
            ("for", _) => frame.destination = value(argument()?)?,
            ("type", _) => frame.ethertype = Some(number(argument()?)?),
            ("tag", _) => frame.tag = Some(number(argument()?)?),
            ("ip", payload) => *payload = Payload::Ip(Packet::v4()),
            ("ip6", payload) => *payload = Payload::Ip(Packet::v6()),
            ("hex", payload) => *payload = Payload::Bytes(hex(argument()?)?),
            ("hopopts", Payload::Ip(packet)) => packet.hop_options = number(argument()?)?,
            ("ttl", Payload::Ip(packet)) => packet.ttl = number(argument()?)?,
            ("tos", Payload::Ip(packet)) => packet.tos = number(argument()?)?,
            ("to", Payload::Ip(packet)) => packet.destination = value(argument()?)?,
            ("from", Payload::Ip(packet)) => packet.v6_source = value(argument()?)?,
            ("proto", Payload::Ip(packet)) => packet.protocol = number(argument()?)?,
            ("udp", Payload::Ip(packet)) => packet.port = number(argument()?)?,
            ("options", Payload::Ip(packet)) => packet.options = number(argument()?)?,
            ("fragment", Payload::Ip(packet)) => packet.fragment = number(argument()?)?,
            ("size", Payload::Ip(packet)) => packet.size = Some(number(argument()?)?),
            ("version", Payload::Ip(packet)) => packet.version = Some(number(argument()?)?),
            ("ihl", Payload::Ip(packet)) => packet.ihl = Some(number(argument()?)?),
            ("length", Payload::Ip(packet)) => packet.length = Some(number(argument()?)?),
            ("trailer", Payload::Ip(packet)) => packet.trailer = number(argument()?)?,
            (entry, _) if entry.starts_with('[') => {
                let (lse, bottom, times) = parse_entries(entry).ok_or_else(|| entry.to_owned())?;
                for _ in 0..times {
                    frame.stack.push(lse);
                    bottoms.push(bottom);
                }
            }
            _ => return Err(word.clone()),
        }
    }
    let last = frame.stack.len();
    for (index, (lse, bottom)) in frame.stack.iter_mut().zip(bottoms).enumerate() {
        *lse = Lse::new(lse.label(), lse.tc(), bottom.unwrap_or(index + 1 == last), lse.ttl());
    }
    Ok(frame)
}

/// An entry without its S bit, what was said about that, and how many of them.
fn parse_entries(text: &str) -> Option<(Lse, Option<bool>, usize)> {
    let (entry, times) = text.strip_prefix('[')?.split_once(']')?;
    let times = match times.strip_prefix('x') {
        Some(times) => times.parse().ok()?,
        None if times.is_empty() => 1,
        None => return None,
    };
    let mut words = entry.split(' ');
    let label = Label::new(words.next()?.parse().ok()?)?;
    let ttl_and_tc = words.next()?;
    let (ttl, tc) = ttl_and_tc.split_once('/').unwrap_or((ttl_and_tc, "0"));
    let bottom = match words.next() {
        None => None,
        Some("s") => Some(true),
        Some("-") => Some(false),
        Some(_) => return None,
    };
    let lse = Lse::new(label, tc.parse().ok()?, false, ttl.parse().ok()?);
    Some((lse, bottom, times))
}

fn value<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| word.to_owned())
}

/// A decimal number, or a hexadecimal one after `0x`.
fn number<T: TryFrom<u64>>(word: &str) -> Result<T, String> {
    let number = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    let number = number.map_err(|_| word.to_owned())?;
    number.try_into().map_err(|_| word.to_owned())
}

pub fn hex(word: &str) -> Result<Vec<u8>, String> {
    (0..word.len())
        .step_by(2)
        .map(|index| u8::from_str_radix(word.get(index..index + 2).unwrap_or("odd"), 16).map_err(|_| word.to_owned()))
        .collect()
}

/// What lies in a frame after its Ethernet header, as far as it can be told.
pub struct Anatomy<'a> {
    pub stack: Vec<Lse>,
    /// What follows the bottom of the stack, or the Ethernet header of an unlabelled frame.
    pub payload: &'a [u8],
}

/// Takes a frame apart.
pub fn anatomy(frame: &[u8]) -> Anatomy<'_> {
    let mut stack: Vec<Lse> = Vec::new();
    let mut payload = frame.get(ETH_HLEN..).unwrap_or_default();
    if frame.get(12..14) == Some(&ETH_P_MPLS_UC.to_be_bytes()) {
        while let (Some(entry), true) = (payload.first_chunk(), stack.last().is_none_or(|lse| !lse.bottom())) {
            stack.push(Lse::from_bytes(*entry));
            payload = &payload[LSE_LEN..];
        }
    }
    Anatomy { stack, payload }
}

/// A frame in the notation, as far as it goes, and in hex.
pub fn show(frame: &[u8]) -> String {
    let mut text = String::new();
    let Anatomy { stack, payload } = anatomy(frame);
    if let Some(mac) = frame.first_chunk::<6>() {
        let _ = write!(text, "for {}", Mac(*mac));
    }
    if let Some(ethertype) = frame.get(12..14) {
        let _ = write!(text, " type 0x{:02x}{:02x}", ethertype[0], ethertype[1]);
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
    match payload.first().map(|byte| byte >> 4) {
        Some(4) if payload.len() >= IPV4_HLEN => {
            let to = Ipv4Addr::new(payload[16], payload[17], payload[18], payload[19]);
            let _ = write!(text, " ip ttl {} tos 0x{:02x} to {to}", payload[8], payload[1]);
        }
        Some(6) if payload.len() >= IPV6_HLEN => {
            let to: [u8; 16] = payload[24..40].try_into().unwrap();
            let tos = payload[0] << 4 | payload[1] >> 4;
            let _ = write!(
                text,
                " ip6 ttl {} tos 0x{tos:02x} to {}",
                payload[7],
                Ipv6Addr::from(to)
            );
        }
        _ => {}
    }
    let _ = write!(text, " ({} bytes)\n      ", frame.len());
    for (index, byte) in frame.iter().enumerate() {
        let _ = write!(text, "{}{byte:02x}", if index == ETH_HLEN { " " } else { "" });
    }
    text
}

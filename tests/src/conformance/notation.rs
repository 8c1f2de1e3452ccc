//! Frames as text, both ways. `[100 64] [17 3/5] ip ttl 10` is a frame for this box with a stack of two entries, outermost
//! first, written `[label ttl]` or `[label ttl/tc]`, over an IPv4 packet. The last entry has the S bit, unless a letter says
//! otherwise: `[100 64 s]` has it, `[100 64 -]` has not. `[17 3]x5` is five of them.
//!
//! Before the stack: `for MAC`, `src MAC`, `type 0x8848`, and tags as they follow each other, outermost first: `tag VID` is of
//! 802.1Q (0x8100), `stag VID` of 802.1ad (0x88a8), `tag VID/PCP` has a priority. After the stack: nothing, `hex 0a0b..`, or
//! `ip`, `ip6`, `icmp TYPE/CODE` or `icmp6 TYPE/CODE` with any of
//!
//! | words | default | |
//! |---|---|---|
//! | `ttl N`, `tos N` | 64, 0 | the whole TOS or traffic class byte |
//! | `to ADDRESS` | 198.51.100.1, 2001:db8:ff::1 | |
//! | `from ADDRESS` | 192.0.2.1, 2001:db8::1 | |
//! | `udp PORT`, `proto N` | `udp 7` | destination port; a protocol without ports |
//! | `data N` | | no UDP header: data from the packet's byte `N` on, as a later fragment has it |
//! | `id N` | 0x1234 | IPv4 identification |
//! | `options N` | 0 | 32-bit words of IPv4 options |
//! | `hopopts N` | 0 | 64-bit words of an IPv6 Hop-by-Hop Options header |
//! | `fragment N` | 0 | IPv4 fragment offset field |
//! | `size N` | 20 bytes of data | length of the IP packet |
//! | `version N`, `ihl N`, `length N` | right | header fields that lie |
//! | `trailer N` | 0 | bytes after the IP packet |
//!
//! An ICMP message is from this box to the default source (10.0.1.1 to 192.0.2.1, 2001:db8:f0::1 to 2001:db8::1), with TTL 64,
//! TOS 0xc0 and identification 1, unless told otherwise, and may have `mtu N`, `shows [100 1] [17 3]` (the label stack in
//! its RFC 4950 extension), `quoted N` (at most so many bytes of the packet in question) and last `quotes PACKET`, the packet
//! in question, which ends the line.

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

/// This box's addresses, on the port that most frames arrive at.
pub const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf0, 0, 0, 0, 0, 1);
/// Where packets come from, unless they say otherwise.
const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;

#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    pub destination: Mac,
    pub source: Mac,
    /// Outermost first.
    pub tags: Vec<Tag>,
    /// `None`: what the contents are.
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
    pub identification: u16,
    /// Where the data of a later fragment begins in its packet.
    pub data: Option<usize>,
    pub icmp: Option<Icmp>,
}

/// An ICMP message (RFC 792, RFC 4443), with an extension structure (RFC 4884) that shows a label stack (RFC 4950) if it is
/// not empty. Laid out here by hand, and not by what the slow path builds with.
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

impl Icmp {
    fn to_bytes(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        // The length of what is quoted stands in byte 5 in units of 4, in byte 4 in units of 8; a message is at most 576 bytes
        // long (RFC 1812 section 4.3.2.3), or 1280.
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
            let quoted = wanted.min((longest - 8 - extension) / unit * unit);
            let padded = quoted.next_multiple_of(unit).max(128);
            message[place] = (padded / unit) as u8;
            message.extend(&quotes[..quoted]);
            message.resize(8 + padded, 0);
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
    pub fn v4() -> Self {
        Self {
            destination: Ipv4Addr::new(198, 51, 100, 1).into(),
            v4_source: SOURCE_V4,
            v6_source: SOURCE_V6,
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
            identification: 0x1234,
            data: None,
            icmp: None,
        }
    }

    fn icmp(text: &str, v6: bool) -> Result<Self, String> {
        let (kind, code) = text.split_once('/').ok_or_else(|| text.to_owned())?;
        let icmp = Icmp {
            kind: number(kind)?,
            code: number(code)?,
            ..Icmp::default()
        };
        Ok(Self {
            destination: if v6 { SOURCE_V6.into() } else { SOURCE_V4.into() },
            v4_source: OWN_V4,
            v6_source: OWN_V6,
            protocol: if v6 { IPPROTO_ICMPV6 } else { IPPROTO_ICMP },
            tos: 0xc0,
            identification: 1,
            icmp: Some(icmp),
            ..Self::v4()
        })
    }

    pub fn v6() -> Self {
        Self {
            destination: Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1).into(),
            ..Self::v4()
        }
    }

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
        } else if self.protocol == IPPROTO_UDP {
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

    fn header_len(&self) -> usize {
        match self.destination {
            IpAddr::V4(_) => IPV4_HLEN + usize::from(self.options) * 4,
            IpAddr::V6(_) => IPV6_HLEN + usize::from(self.hop_options) * 8,
        }
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
        let checksum = !ones_complement_sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn v6_header(&self, destination: Ipv6Addr) -> Vec<u8> {
        let mut header = vec![0; IPV6_HLEN];
        header[0] = self.version.unwrap_or(6) << 4 | self.tos >> 4;
        header[1] = self.tos << 4;
        // A flow label, which this box's own messages have not.
        if self.icmp.is_none() {
            header[1] |= 0x5;
            header[2..4].copy_from_slice(&[0xab, 0xcd]);
        }
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
        Self::read(text).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The error says which word is wrong.
    pub fn read(text: &str) -> Result<Self, String> {
        parse(text).map_err(|word| format!("`{word}` does not belong in the frame `{text}`"))
    }

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
        tags: Vec::new(),
        ethertype: None,
        stack: Vec::new(),
        payload: Payload::Bytes(Vec::new()),
    };
    let mut bottoms = Vec::new();
    // What is quoted is a frame of its own.
    let (text, quotes) = match text.split_once(" quotes ") {
        Some((text, quotes)) => (text, Some(parse(quotes)?)),
        None => (text, None),
    };
    let words = words(text);
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let mut argument = || words.next().ok_or_else(|| format!("{word} <nothing>"));
        match (word.as_str(), &mut frame.payload) {
            ("for", _) => frame.destination = value(argument()?)?,
            ("type", _) => frame.ethertype = Some(number(argument()?)?),
            ("src", _) => frame.source = value(argument()?)?,
            ("tag", _) => frame.tags.push(tag(ETH_P_8021Q, argument()?)?),
            ("stag", _) => frame.tags.push(tag(ETH_P_8021AD, argument()?)?),
            ("icmp", payload) => *payload = Payload::Ip(Packet::icmp(argument()?, false)?),
            ("icmp6", payload) => *payload = Payload::Ip(Packet::icmp(argument()?, true)?),
            ("ip", payload) => *payload = Payload::Ip(Packet::v4()),
            ("ip6", payload) => *payload = Payload::Ip(Packet::v6()),
            ("hex", payload) => *payload = Payload::Bytes(hex(argument()?)?),
            ("hopopts", Payload::Ip(packet)) => packet.hop_options = number(argument()?)?,
            ("ttl", Payload::Ip(packet)) => packet.ttl = number(argument()?)?,
            ("tos", Payload::Ip(packet)) => packet.tos = number(argument()?)?,
            ("to", Payload::Ip(packet)) => packet.destination = value(argument()?)?,
            ("from", Payload::Ip(packet)) => match value(argument()?)? {
                IpAddr::V4(source) => packet.v4_source = source,
                IpAddr::V6(source) => packet.v6_source = source,
            },
            ("id", Payload::Ip(packet)) => packet.identification = number(argument()?)?,
            ("data", Payload::Ip(packet)) => packet.data = Some(number(argument()?)?),
            ("mtu", Payload::Ip(Packet { icmp: Some(icmp), .. })) => icmp.mtu = number(argument()?)?,
            ("quoted", Payload::Ip(Packet { icmp: Some(icmp), .. })) => icmp.quoted = Some(number(argument()?)?),
            ("shows", Payload::Ip(Packet { icmp: Some(icmp), .. })) => {
                let shows = icmp.shows.insert(Vec::new());
                while let Some(entry) = words.next_if(|word| word.starts_with('[')) {
                    let (lse, _, times) = parse_entries(entry).ok_or_else(|| entry.clone())?;
                    shows.extend(std::iter::repeat_n(lse, times));
                }
                set_bottom(shows);
            }
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
    if let (Some(quotes), Payload::Ip(Packet { icmp: Some(icmp), .. })) = (quotes, &mut frame.payload) {
        icmp.quotes = Some(quotes.payload.to_bytes());
    }
    let last = frame.stack.len();
    for (index, (lse, bottom)) in frame.stack.iter_mut().zip(bottoms).enumerate() {
        *lse = Lse::new(lse.label(), lse.tc(), bottom.unwrap_or(index + 1 == last), lse.ttl());
    }
    Ok(frame)
}

/// The last entry of a stack, and no other, has the S bit.
fn set_bottom(stack: &mut [Lse]) {
    let last = stack.len();
    for (index, lse) in stack.iter_mut().enumerate() {
        *lse = Lse::new(lse.label(), lse.tc(), index + 1 == last, lse.ttl());
    }
}

/// `VID` or `VID/PCP`.
fn tag(tpid: u16, word: &str) -> Result<Tag, String> {
    let (vid, priority) = word.split_once('/').unwrap_or((word, "0"));
    match (number(vid)?, number(priority)?) {
        (vid @ 0..4096_u16, priority @ 0..8_u16) => Ok(Tag {
            tpid,
            tci: priority << 13 | vid,
        }),
        _ => Err(word.to_owned()),
    }
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
    /// Outermost first.
    pub tags: Vec<Tag>,
    /// What is beneath the tags; zero where the frame ends before.
    pub ethertype: u16,
    pub stack: Vec<Lse>,
    /// What follows the bottom of the stack, or the Ethernet header of an unlabelled frame.
    pub payload: &'a [u8],
}

/// Takes a frame apart.
pub fn anatomy(frame: &[u8]) -> Anatomy<'_> {
    let (mut tags, mut stack): (Vec<Tag>, Vec<Lse>) = Default::default();
    let mut rest = frame.get(ETH_HLEN - 2..).unwrap_or_default();
    let mut ethertype = 0;
    while let Some((word, payload)) = rest.split_first_chunk() {
        ethertype = u16::from_be_bytes(*word);
        rest = payload;
        match payload.split_first_chunk() {
            Some((tci, behind)) if matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD) && behind.len() >= 2 => {
                let (tpid, tci) = (ethertype, u16::from_be_bytes(*tci));
                tags.push(Tag { tpid, tci });
                rest = behind;
            }
            _ => break,
        }
    }
    let mut payload = rest;
    if ethertype == ETH_P_MPLS_UC {
        while let (Some(entry), true) = (payload.first_chunk(), stack.last().is_none_or(|lse| !lse.bottom())) {
            stack.push(Lse::from_bytes(*entry));
            payload = &payload[LSE_LEN..];
        }
    }
    Anatomy {
        tags,
        ethertype,
        stack,
        payload,
    }
}

/// A frame in the notation, as far as it goes, and in hex.
pub fn show(frame: &[u8]) -> String {
    let mut text = String::new();
    let Anatomy {
        tags,
        ethertype,
        stack,
        payload,
    } = anatomy(frame);
    if let Some(mac) = frame.first_chunk::<6>() {
        let _ = write!(text, "for {}", Mac(*mac));
    }
    if let Some(mac) = frame.get(6..).and_then(|rest| rest.first_chunk::<6>()) {
        let _ = write!(text, " src {}", Mac(*mac));
    }
    for Tag { tpid, tci } in tags {
        let word = if tpid == ETH_P_8021AD { "stag" } else { "tag" };
        let _ = write!(text, " {word} {}/{}", tci & 0xfff, tci >> 13);
    }
    if stack.is_empty() {
        let _ = write!(text, " type {ethertype:#06x}");
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
    show_packet(payload, &mut text);
    let _ = write!(text, " ({} bytes)\n      ", frame.len());
    for (index, byte) in frame.iter().enumerate() {
        let _ = write!(text, "{}{byte:02x}", if index == ETH_HLEN { " " } else { "" });
    }
    text
}

fn show_packet(payload: &[u8], text: &mut String) {
    let (protocol, upper) = match payload.first().map(|byte| byte >> 4) {
        Some(4) if payload.len() >= IPV4_HLEN => {
            let address = |at: usize| Ipv4Addr::new(payload[at], payload[at + 1], payload[at + 2], payload[at + 3]);
            let (ttl, tos, from, to) = (payload[8], payload[1], address(12), address(16));
            let size = u16::from_be_bytes([payload[2], payload[3]]);
            let fragment = u16::from_be_bytes([payload[6], payload[7]]);
            let _ = write!(text, " ip ttl {ttl} tos {tos:#04x} from {from} to {to} size {size}");
            if fragment != 0 {
                let _ = write!(text, " fragment {fragment:#06x}");
            }
            (payload[9], payload.get(usize::from(payload[0] & 0xf) * 4..))
        }
        Some(6) if payload.len() >= IPV6_HLEN => {
            let address = |at: usize| {
                let bytes: [u8; 16] = std::array::from_fn(|index| payload[at + index]);
                Ipv6Addr::from(bytes)
            };
            let (ttl, tos) = (payload[7], payload[0] << 4 | payload[1] >> 4);
            let size = IPV6_HLEN + usize::from(u16::from_be_bytes([payload[4], payload[5]]));
            let (from, to) = (address(8), address(24));
            let _ = write!(text, " ip6 ttl {ttl} tos {tos:#04x} from {from} to {to} size {size}");
            (payload[6], payload.get(IPV6_HLEN..))
        }
        _ => return,
    };
    if let (IPPROTO_ICMP | IPPROTO_ICMPV6, Some([kind, code, _, _, rest @ ..])) = (protocol, upper) {
        let _ = write!(text, " icmp {kind}/{code} {:02x?}", rest.get(..4).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_written_and_read_outermost_first() {
        let frame = Frame::parse("stag 100/5 tag 10 [100 64] ip").to_bytes();
        assert_eq!(
            frame[12..26],
            [0x88, 0xa8, 0xa0, 100, 0x81, 0x00, 0, 10, 0x88, 0x47, 0, 0x06, 0x41, 64]
        );
        let Anatomy {
            tags, ethertype, stack, ..
        } = anatomy(&frame);
        assert_eq!((tags.len(), ethertype, stack.len()), (2, ETH_P_MPLS_UC, 1));
        assert!(show(&frame).contains(" stag 100/5 tag 10/0 [100 64/0] ip ttl 64 "));
    }

    #[test]
    fn what_is_no_frame_is_told_by_the_word() {
        for (text, wrong) in [
            ("[100 64] ipx", "ipx"),
            ("[100 256] ip", "[100 256]"),
            ("[1048576 64] ip", "[1048576 64]"),
            ("tag 4096 ip", "4096"),
            ("tag 1/8 ip", "1/8"),
            ("ip ttl", "ttl <nothing>"),
            ("ip mtu 3", "mtu"),
            ("hex 0g", "0g"),
            ("icmp 11 ip", "11"),
            ("icmp 11/0 quotes ip size x", "x"),
        ] {
            let problem = Frame::read(text).unwrap_err();
            assert!(problem.starts_with(&format!("`{wrong}`")), "{text}: {problem}");
        }
    }

    #[test]
    fn icmp_lengths_stand_where_rfc_4884_has_them() {
        let v4 = Frame::parse("icmp 11/0 shows [100 1] quotes ip size 41").to_bytes();
        // 128 bytes are 32 words of 4 bytes.
        assert_eq!(v4[14 + 20..][..8][4..], [0, 32, 0, 0]);
        assert_eq!(v4.len(), 14 + 20 + 8 + 128 + 12);
        let v6 = Frame::parse("icmp6 3/0 shows [100 1] [17 3] quotes ip6 size 133").to_bytes();
        // 136 bytes are 17 words of 8 bytes.
        assert_eq!(v6[14 + 40..][..8][4..], [17, 0, 0, 0]);
        assert_eq!(v6.len(), 14 + 40 + 8 + 136 + 16);
        assert_eq!(v6[v6.len() - 8..], [0, 6, 0x40, 1, 0, 1, 0x11, 3]);
    }
}

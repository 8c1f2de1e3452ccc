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

use std::collections::BTreeSet;
use std::fmt::Write;
use std::iter::Peekable;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::vec;

use mplsxdp_common::wire::{
    ETH_HLEN, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, IPPROTO_HOPOPTS, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPV4_HLEN,
    IPV6_HLEN, LSE_LEN, Label, Lse, Mac,
};

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

    fn icmp(kind: u8, code: u8, v6: bool) -> Self {
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

    fn header_len(&self) -> usize {
        match self.destination {
            IpAddr::V4(_) => IPV4_HLEN + usize::from(self.options) * 4,
            IpAddr::V6(_) => {
                let fragment_header = if self.fragment_header.is_some() { 8 } else { 0 };
                IPV6_HLEN + usize::from(self.hop_options) * 8 + fragment_header
            }
        }
    }

    /// For a protocol that has ports.
    fn transport_header(&self) -> Vec<u8> {
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

impl Frame {
    /// Panics if `text` is not in the notation: it is written in a test.
    pub fn parse(text: &str) -> Self {
        Self::read(text).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The error says which word is wrong, and what would be right.
    pub fn read(text: &str) -> Result<Self, String> {
        let read = Reader::new(text).frame();
        read.map_err(|problem| format!("{problem}, in the frame `{text}`"))
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
    /// Only what may follow a stack.
    pub fn read(text: &str) -> Result<Self, String> {
        let read = Reader::new(text).payload();
        read.map_err(|problem| format!("{problem}, in the packet `{text}`"))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(payload) => payload.clone(),
            Self::Ip(packet) => packet.to_bytes(),
        }
    }
}

/// The words of `text`; an entry of a stack is one word.
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

/// Words that come before the stack.
const LINK_WORDS: [&str; 5] = ["for", "src", "type", "tag", "stag"];
/// Words that belong to one family or kind of packet, and the words to use instead in others.
const IPV4_WORDS: [&str; 4] = ["options", "fragment", "ihl", "checksum"];
const IPV6_WORDS: [&str; 2] = ["hopopts", "fraghdr"];
const ICMP_WORDS: [&str; 4] = ["mtu", "shows", "quoted", "quotes"];
const UPPER_WORDS: [&str; 7] = ["udp", "tcp", "sctp", "sport", "proto", "data", "size"];

/// Reads words from left to right: link layer, stack, payload. Errors are a word and what would be right.
struct Reader {
    words: Peekable<vec::IntoIter<String>>,
}

impl Reader {
    fn new(text: &str) -> Self {
        Self {
            words: words(text).into_iter().peekable(),
        }
    }

    fn frame(mut self) -> Result<Frame, String> {
        let mut frame = Frame {
            destination: OWN_MAC,
            source: PEER_MAC,
            tags: Vec::new(),
            ethertype: None,
            stack: Vec::new(),
            payload: Payload::Bytes(Vec::new()),
        };
        let mut seen = BTreeSet::new();
        if self.words.peek().is_none() {
            return Err("no word at all: `[100 64] ip` is a frame".into());
        }
        while let Some(word) = self.words.next_if(|word| LINK_WORDS.contains(&word.as_str())) {
            match word.as_str() {
                "tag" => frame.tags.push(self.tag(&word, ETH_P_8021Q)?),
                "stag" => frame.tags.push(self.tag(&word, ETH_P_8021AD)?),
                "for" => frame.destination = self.value(&word, "a MAC address")?,
                "src" => frame.source = self.value(&word, "a MAC address")?,
                _ => frame.ethertype = Some(self.number(&word, 0..=0xffff)?),
            }
            if !matches!(word.as_str(), "tag" | "stag") {
                once(&mut seen, &word)?;
            }
        }
        frame.stack = self.stack()?;
        if self.words.peek().is_some() {
            frame.payload = self.payload()?;
        }
        Ok(frame)
    }

    /// Consecutive entries. The last one has the S bit, and the others do not, unless they say so.
    fn stack(&mut self) -> Result<Vec<Lse>, String> {
        let mut entries = Vec::new();
        while let Some(word) = self.words.next_if(|word| word.starts_with('[')) {
            let (lse, bottom, times) = entry(&word).map_err(|wrong| format!("`{word}`: {wrong}"))?;
            entries.extend(std::iter::repeat_n((lse, bottom), times));
        }
        let last = entries.len();
        let stack = entries.into_iter().enumerate().map(|(index, (lse, bottom))| {
            let bottom = bottom.unwrap_or(index + 1 == last);
            Lse::new(lse.label(), lse.tc(), bottom, lse.ttl())
        });
        Ok(stack.collect())
    }

    /// The payload, to the end.
    fn payload(&mut self) -> Result<Payload, String> {
        let kind = self.words.next().unwrap_or_default();
        let payload = match kind.as_str() {
            "ip" => Payload::Ip(self.packet(Packet::v4())?),
            "ip6" => Payload::Ip(self.packet(Packet::v6())?),
            "icmp" | "icmp6" => {
                let text = self.argument(&kind, "TYPE/CODE")?;
                let numbers = text
                    .split_once('/')
                    .ok_or_else(|| format!("`{kind} {text}`: TYPE/CODE"))?;
                let byte = |part| in_range(part, 0..=255).map_err(|right| format!("`{kind} {text}`: {right}"));
                let packet = Packet::icmp(byte(numbers.0)?, byte(numbers.1)?, kind == "icmp6");
                Payload::Ip(self.packet(packet)?)
            }
            "hex" => {
                let text = self.argument(&kind, "bytes, such as 0a0b")?;
                Payload::Bytes(hex(&text).map_err(|_| format!("`hex {text}`: two digits for each byte"))?)
            }
            word if LINK_WORDS.contains(&word) => return Err(format!("`{word}` stands before the label stack")),
            word => {
                return Err(format!(
                    "`{word}` is none of [LABEL TTL], ip, ip6, icmp TYPE/CODE, icmp6 TYPE/CODE, hex BYTES, nor, before these, of {}",
                    LINK_WORDS.join(", ")
                ));
            }
        };
        match self.words.peek() {
            None => Ok(payload),
            Some(word) => Err(misplaced(word).unwrap_or_else(|| format!("`{word}`: nothing follows bytes"))),
        }
    }

    /// The words of a packet of known family and kind.
    fn packet(&mut self, mut packet: Packet) -> Result<Packet, String> {
        let v6 = packet.destination.is_ipv6();
        let mut seen = BTreeSet::new();
        while let Some(word) = self.words.next() {
            once(&mut seen, &word)?;
            fits(&word, &packet)?;
            match word.as_str() {
                "ttl" => packet.ttl = self.number(&word, 0..=255)?,
                "tos" => packet.tos = self.number(&word, 0..=255)?,
                "to" if v6 => packet.destination = self.value::<Ipv6Addr>(&word, "an IPv6 address")?.into(),
                "to" => packet.destination = self.value::<Ipv4Addr>(&word, "an IPv4 address")?.into(),
                "from" if v6 => packet.v6_source = self.value(&word, "an IPv6 address")?,
                "from" => packet.v4_source = self.value(&word, "an IPv4 address")?,
                "udp" | "tcp" | "sctp" => {
                    packet.protocol = match word.as_str() {
                        "udp" => IPPROTO_UDP,
                        "tcp" => IPPROTO_TCP,
                        _ => IPPROTO_SCTP,
                    };
                    packet.port = self.number(&word, 0..=0xffff)?;
                }
                "sport" => packet.source_port = self.number(&word, 0..=0xffff)?,
                "proto" => packet.protocol = self.number(&word, 0..=255)?,
                "data" => packet.data = Some(self.number(&word, 0..=0xffff)?),
                "id" => packet.identification = self.number(&word, 0..=0xffff)?,
                "options" => packet.options = self.number(&word, 0..=10)?,
                "fragment" => packet.fragment = self.number(&word, 0..=0xffff)?,
                "checksum" => packet.checksum = Some(self.number(&word, 0..=0xffff)?),
                "hopopts" => packet.hop_options = self.number(&word, 0..=255)?,
                "fraghdr" => packet.fragment_header = Some(self.number(&word, 0..=0xffff)?),
                "size" => {
                    packet.size = Some(self.number(&word, 0..=if v6 { 0xffff + IPV6_HLEN as u64 } else { 0xffff })?)
                }
                "version" => packet.version = Some(self.number(&word, 0..=15)?),
                "ihl" => packet.ihl = Some(self.number(&word, 0..=15)?),
                "length" => packet.length = Some(self.number(&word, 0..=0xffff)?),
                "trailer" => packet.trailer = self.number(&word, 0..=0xffff)?,
                icmp_word => {
                    let icmp = packet.icmp.get_or_insert_default();
                    match icmp_word {
                        "mtu" => icmp.mtu = self.number(&word, 0..=if v6 { 0xffff_ffff } else { 0xffff })?,
                        "quoted" => icmp.quoted = Some(self.number(&word, 0..=0xffff)?),
                        "shows" => {
                            icmp.shows = Some(self.stack()?);
                            if icmp.shows.as_ref().is_some_and(Vec::is_empty) {
                                return Err("`shows`: label stack entries follow, such as [100 1]".into());
                            }
                        }
                        // To the end of the line.
                        _ => icmp.quotes = Some(self.payload()?.to_bytes()),
                    }
                }
            }
        }
        go_together(&seen, &packet)?;
        Ok(packet)
    }

    fn argument(&mut self, word: &str, what: &str) -> Result<String, String> {
        self.words.next().ok_or_else(|| format!("`{word}`: {what} follows"))
    }

    fn value<T: FromStr>(&mut self, word: &str, what: &str) -> Result<T, String> {
        let text = self.argument(word, what)?;
        text.parse().map_err(|_| format!("`{word} {text}`: {what} follows"))
    }

    /// A number in this range.
    fn number<T: TryFrom<u64>>(&mut self, word: &str, range: RangeInclusive<u64>) -> Result<T, String> {
        let text = self.argument(word, "a number")?;
        in_range(&text, range).map_err(|right| format!("`{word} {text}`: {right}"))
    }

    /// `VID` or `VID/PCP`.
    fn tag(&mut self, word: &str, tpid: u16) -> Result<Tag, String> {
        let text = self.argument(word, "VID or VID/PCP")?;
        let (vid, priority) = text.split_once('/').unwrap_or((&text, "0"));
        let part =
            |name, part, range| in_range(part, range).map_err(|right| format!("`{word} {text}`: {name}, {right}"));
        let (vid, priority): (u16, u16) = (part("the VID", vid, 0..=4095)?, part("the priority", priority, 0..=7)?);
        Ok(Tag {
            tpid,
            tci: priority << 13 | vid,
        })
    }
}

fn once(seen: &mut BTreeSet<String>, word: &str) -> Result<(), String> {
    if seen.insert(word.to_owned()) {
        Ok(())
    } else {
        Err(format!("`{word}` is given twice"))
    }
}

/// Checks that no word of a packet contradicts another.
fn go_together(seen: &BTreeSet<String>, packet: &Packet) -> Result<(), String> {
    let find = |words: &[&'static str]| Vec::from_iter(words.iter().copied().filter(|&word| seen.contains(word)));
    let transports = find(&["udp", "tcp", "sctp"]);
    if let [one, other, ..] = transports[..] {
        return Err(format!("`{one}` and `{other}`: a packet has one of them"));
    }
    let ports = find(&["udp", "tcp", "sctp", "sport"]);
    if let ([word, ..], [without, ..]) = (&ports[..], &find(&["proto", "data"])[..]) {
        return Err(format!("`{word}`: with `{without}` a packet has no ports"));
    }
    let by_name = [(IPPROTO_UDP, "udp"), (IPPROTO_TCP, "tcp"), (IPPROTO_SCTP, "sctp")];
    let named = by_name.iter().find(|(protocol, _)| *protocol == packet.protocol);
    if let (Some((protocol, name)), true, false) = (named, seen.contains("proto"), seen.contains("data")) {
        return Err(format!("`proto {protocol}` is `{name} PORT`, or comes with `data N`"));
    }
    if packet.destination.is_ipv6() && seen.contains("id") && packet.fragment_header.is_none() {
        return Err("`id`: an IPv6 packet has one only in a Fragment header: `fraghdr N`".into());
    }
    let headers = packet.header_len()
        + if packet.data.is_none() {
            packet.transport_header().len()
        } else {
            0
        };
    match packet.size {
        Some(size) if size < headers => Err(format!("`size {size}`: its headers alone have {headers} bytes")),
        _ => Ok(()),
    }
}

/// Why a word cannot follow the payload, if it is one that must come before.
fn misplaced(word: &str) -> Option<String> {
    if word.starts_with('[') {
        Some(format!(
            "`{word}`: the label stack stands before the payload; that of an ICMP message is `shows {word}`"
        ))
    } else if LINK_WORDS.contains(&word) {
        Some(format!("`{word}` stands before the label stack"))
    } else if matches!(word, "ip" | "ip6" | "icmp" | "icmp6" | "hex") {
        Some(format!("`{word}`: there is a payload already"))
    } else {
        None
    }
}

/// Checks that a packet of this family and kind can have such a word.
fn fits(word: &str, packet: &Packet) -> Result<(), String> {
    let v6 = packet.destination.is_ipv6();
    let of_icmp = packet.icmp.is_some();
    let common = ["ttl", "tos", "to", "from", "id", "version", "length", "trailer"];
    let here = |words: &[&str]| words.contains(&word);
    if here(&common)
        || !v6 && here(&IPV4_WORDS)
        || v6 && here(&IPV6_WORDS)
        || of_icmp && here(&ICMP_WORDS)
        || !of_icmp && here(&UPPER_WORDS)
    {
        return Ok(());
    }
    if here(&IPV4_WORDS) {
        return Err(format!("`{word}` is of IPv4; IPv6 has {}", IPV6_WORDS.join(", ")));
    }
    if here(&IPV6_WORDS) {
        return Err(format!("`{word}` is of IPv6; IPv4 has {}", IPV4_WORDS.join(", ")));
    }
    if here(&ICMP_WORDS) {
        return Err(format!(
            "`{word}` is of an ICMP message: icmp TYPE/CODE or icmp6 TYPE/CODE"
        ));
    }
    if here(&UPPER_WORDS) {
        return Err(format!(
            "`{word}` is not of an ICMP message, which has {}",
            ICMP_WORDS.join(", ")
        ));
    }
    Err(misplaced(word).unwrap_or_else(|| {
        let family: &[&str] = if v6 { &IPV6_WORDS } else { &IPV4_WORDS };
        let kind: &[&str] = if of_icmp { &ICMP_WORDS } else { &UPPER_WORDS };
        format!(
            "`{word}` is none of {}",
            [&common[..], family, kind].concat().join(", ")
        )
    }))
}

/// An entry without its S bit, what was said about that bit, and how many of the entry. The error is what would be
/// right.
fn entry(text: &str) -> Result<(Lse, Option<bool>, usize), String> {
    let right =
        || "an entry is [LABEL TTL] or [LABEL TTL/TC], with ` s` or ` -` for the S bit before the `]`".to_owned();
    let (entry, times) = text
        .strip_prefix('[')
        .and_then(|text| text.split_once(']'))
        .ok_or_else(right)?;
    let times = match times.strip_prefix('x') {
        Some(times) => in_range(times, 1..=1000).map_err(|range| format!("how many of them, {range}"))?,
        None if times.is_empty() => 1,
        None => return Err("only `xN`, for N of them, stands behind the `]`".into()),
    };
    let words: Vec<&str> = entry.split_whitespace().collect();
    let (label, ttl_and_tc, bottom) = match words[..] {
        [label, ttl_and_tc] => (label, ttl_and_tc, None),
        [label, ttl_and_tc, "s"] => (label, ttl_and_tc, Some(true)),
        [label, ttl_and_tc, "-"] => (label, ttl_and_tc, Some(false)),
        _ => return Err(right()),
    };
    let (ttl, tc) = ttl_and_tc.split_once('/').unwrap_or((ttl_and_tc, "0"));
    let label: u32 = in_range(label, 0..=Label::MAX.get().into()).map_err(|range| format!("the label, {range}"))?;
    let ttl = in_range(ttl, 0..=255).map_err(|range| format!("the TTL, {range}"))?;
    let tc = in_range(tc, 0..=7).map_err(|range| format!("the TC, {range}"))?;
    Ok((Lse::new(Label::from_low_bits(label), tc, false, ttl), bottom, times))
}

/// A decimal number, or a hexadecimal one after `0x`. The error is what would be right.
fn in_range<T: TryFrom<u64>>(word: &str, range: RangeInclusive<u64>) -> Result<T, String> {
    let number = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    let number = number.ok().filter(|_| !word.contains('+'));
    let number = number.filter(|number| range.contains(number));
    let number = number.and_then(|number| number.try_into().ok());
    number.ok_or_else(|| format!("a number from {} to {}", range.start(), range.end()))
}

pub fn hex(word: &str) -> Result<Vec<u8>, String> {
    let pairs = word.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        match *pair {
            [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
            _ => None,
        }
    };
    pairs.map(byte).collect::<Option<_>>().ok_or_else(|| word.to_owned())
}

/// The parts of a frame after its Ethernet header, as far as they can be recognised.
pub struct Anatomy<'a> {
    /// Outermost first.
    pub tags: Vec<Tag>,
    /// The EtherType beneath the tags; zero if the frame ends before.
    pub ethertype: u16,
    pub stack: Vec<Lse>,
    /// The bytes after the bottom of the stack, or after the Ethernet header of an unlabelled frame.
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

/// A frame in the notation, as far as possible, and in hex.
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

    /// The wrong word, in backquotes, and a part of what would be right.
    #[test]
    fn an_error_names_the_word_that_is_not_a_frame() {
        for (text, wrong, right) in [
            ("", "no word", "`[100 64] ip`"),
            ("[100 64] ipx", "`ipx`", "ip6"),
            ("[100 64 ip", "`[100 64 ip`", "[LABEL TTL]"),
            ("[100 256] ip", "`[100 256]`", "the TTL, a number from 0 to 255"),
            ("[100 64/9] ip", "`[100 64/9]`", "the TC, a number from 0 to 7"),
            ("[100 64/8] ip", "`[100 64/8]`", "0 to 7"),
            (
                "[1048576 64] ip",
                "`[1048576 64]`",
                "the label, a number from 0 to 1048575",
            ),
            ("[100 64 - 77] ip", "`[100 64 - 77]`", "[LABEL TTL]"),
            ("[100 64 x] ip", "`[100 64 x]`", "[LABEL TTL]"),
            ("[100] ip", "`[100]`", "[LABEL TTL]"),
            ("[100 64]x0", "`[100 64]x0`", "1 to 1000"),
            ("[100 64]y2", "`[100 64]y2`", "xN"),
            ("tag 4096 ip", "`tag 4096`", "0 to 4095"),
            ("tag 1/8 ip", "`tag 1/8`", "0 to 7"),
            ("for 1.2.3.4 ip", "`for 1.2.3.4`", "a MAC address"),
            ("type 0x10000 ip", "`type 0x10000`", "65535"),
            // Order: link layer, stack, payload.
            ("ip to 10.1.0.1 [17 3]", "`[17 3]`", "before the payload"),
            ("icmp 11/0 [100 1]", "`[100 1]`", "`shows [100 1]`"),
            ("hex 00 [100 1]", "`[100 1]`", "before the payload"),
            ("[100 64] tag 5 ip", "`tag`", "before the label stack"),
            ("ip src 02:00:00:00:00:01", "`src`", "before the label stack"),
            ("ip ttl 9 ip6", "`ip6`", "a payload already"),
            ("hex 00 ttl 3", "`ttl`", "nothing follows"),
            // Each word once.
            ("ip ttl 3 ttl 4", "`ttl`", "twice"),
            ("type 0x0800 type 0x86dd ip", "`type`", "twice"),
            // Words of the other family or kind.
            ("ip to 2001:db8::1", "`to 2001:db8::1`", "an IPv4 address"),
            ("ip from 2001:db8::1", "`from 2001:db8::1`", "an IPv4 address"),
            ("ip6 to 10.1.0.1", "`to 10.1.0.1`", "an IPv6 address"),
            ("icmp6 3/0 from 10.1.0.1", "`from 10.1.0.1`", "an IPv6 address"),
            ("ip6 fragment 1", "`fragment`", "fraghdr"),
            ("ip6 options 1", "`options`", "hopopts"),
            ("ip6 ihl 5", "`ihl`", "of IPv4"),
            ("ip6 id 5", "`id`", "fraghdr"),
            ("ip hopopts 1", "`hopopts`", "options"),
            ("ip fraghdr 1", "`fraghdr`", "fragment"),
            ("ip mtu 3", "`mtu`", "icmp TYPE/CODE"),
            ("ip quotes ip", "`quotes`", "icmp TYPE/CODE"),
            ("icmp 11/0 size 60", "`size`", "shows"),
            ("icmp 11/0 udp 3", "`udp`", "shows"),
            // Words that contradict another.
            ("ip proto 6 udp 99", "`udp`", "no ports"),
            ("ip udp 3 data 64", "`udp`", "no ports"),
            ("ip sport 3 proto 47", "`sport`", "no ports"),
            ("ip tcp 3 udp 4", "`udp` and `tcp`", "one of them"),
            ("ip proto 6", "`proto 6`", "tcp PORT"),
            // Ranges.
            ("ip options 11", "`options 11`", "0 to 10"),
            ("ip ihl 16", "`ihl 16`", "0 to 15"),
            ("ip version 20", "`version 20`", "0 to 15"),
            ("ip size 70000", "`size 70000`", "65535"),
            ("icmp 3/4 mtu 70000", "`mtu 70000`", "65535"),
            ("ip ttl 256", "`ttl 256`", "255"),
            ("ip ttl +3", "`ttl +3`", "a number"),
            ("ip size 10", "`size 10`", "28 bytes"),
            ("ip size 27", "`size 27`", "28 bytes"),
            ("ip6 size 39", "`size 39`", "48 bytes"),
            ("ip6 hopopts 1 proto 59 size 47", "`size 47`", "48 bytes"),
            // Something is missing, or nothing could be read.
            ("ip ttl", "`ttl`", "a number follows"),
            ("ip ttl x", "`ttl x`", "a number from 0 to 255"),
            ("hex 0g", "`hex 0g`", "two digits"),
            ("hex 012", "`hex 012`", "two digits"),
            ("icmp 11 ip", "`icmp 11`", "TYPE/CODE"),
            ("icmp 11/300", "`icmp 11/300`", "255"),
            ("icmp 11/0 shows ttl 3", "`shows`", "[100 1]"),
            ("icmp 11/0 quotes [100 1] ip", "`[100 1]`", "none of"),
            ("icmp 11/0 quotes ip size x", "`size x`", "65535"),
        ] {
            let problem = Frame::read(text).expect_err(text);
            assert!(problem.starts_with(wrong), "{text}: {problem}");
            assert!(problem.contains(right), "{text}: {problem}");
            assert!(problem.ends_with(&format!("`{text}`")), "{text}: {problem}");
        }
    }

    #[test]
    fn what_may_be_said_together_is_read() {
        for text in [
            "type 0x0806 for ff:ff:ff:ff:ff:ff",
            "ip fragment 0x20 proto 6 data 128",
            "ip size 28",
            "ip proto 59 size 20",
            "ip6 size 48",
            "ip6 hopopts 255 fraghdr 1 data 8",
            "icmp 11/0 mtu 5 shows [100 1] [17 3 -] quoted 9 trailer 3 quotes ip6 ttl 3",
            "icmp6 2/0 mtu 70000 quotes icmp6 128/0 quotes hex 00",
        ] {
            Frame::parse(text).to_bytes();
        }
    }

    #[test]
    fn ports_and_headers_stand_where_they_belong() {
        for (protocol, word, length) in [(17, "udp", 8), (6, "tcp", 20), (132, "sctp", 12)] {
            let packet = Frame::parse(&format!("ip {word} 0x1234 sport 0x5678 size 60"))
                .to_bytes()
                .split_off(ETH_HLEN);
            assert_eq!((packet.len(), packet[9]), (60, protocol));
            assert_eq!(packet[20..24], [0x56, 0x78, 0x12, 0x34]);
            // Data begins where the header ends.
            assert_eq!(usize::from(packet[20 + length]), 20 + length, "{word}");
        }
        let packet = Frame::parse("ip6 hopopts 1 fraghdr 0x0009 id 0xabcd tcp 5")
            .to_bytes()
            .split_off(ETH_HLEN);
        assert_eq!(
            (packet[6], packet[40], packet[48]),
            (IPPROTO_HOPOPTS, IPPROTO_FRAGMENT, IPPROTO_TCP)
        );
        assert_eq!(packet[48..60], [6, 0, 0, 9, 0, 0, 0xab, 0xcd, 0, 7, 0, 5]);
        assert_eq!(usize::from(packet[5]), packet.len() - IPV6_HLEN);
        let wrong = Frame::parse("ip checksum 0x1234").to_bytes();
        assert_eq!(wrong[14 + 10..14 + 12], [0x12, 0x34]);
    }

    #[test]
    fn icmp_lengths_stand_where_rfc_4884_has_them() {
        let v4 = Frame::parse("icmp 11/0 shows [100 1] quotes ip size 41").to_bytes();
        // 128 bytes are 32 words of 4 bytes.
        assert_eq!(v4[14 + 20..][..8][4..], [0, 32, 0, 0]);
        assert_eq!(v4.len(), 14 + 20 + 8 + 128 + 12);
        let v6 = Frame::parse("icmp6 3/0 shows [100 1] [17 3] quotes ip6 size 133").to_bytes();
        // Longer packets are cut to 128 bytes, which are 16 words of 8 bytes.
        assert_eq!(v6[14 + 40..][..8][4..], [16, 0, 0, 0]);
        assert_eq!(v6.len(), 14 + 40 + 8 + 128 + 16);
        assert_eq!(v6[v6.len() - 8..], [0, 6, 0x40, 1, 0, 1, 0x11, 3]);
    }
}

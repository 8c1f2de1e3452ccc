//! Reading frames.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::vec;

use mplsxdp_common::wire::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPV6_HLEN, Label, Lse};

use super::{ETH_P_8021AD, ETH_P_8021Q, Frame, OWN_MAC, PEER_MAC, Packet, Payload, Tag};

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
}

impl Payload {
    /// Only what may follow a stack.
    pub fn read(text: &str) -> Result<Self, String> {
        let read = Reader::new(text).payload();
        read.map_err(|problem| format!("{problem}, in the packet `{text}`"))
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

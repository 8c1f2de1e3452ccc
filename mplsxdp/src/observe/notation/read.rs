//! Reads a frame as people write it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use mplsxdp_common::wire::{ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, IPV4_HLEN, IPV6_HLEN, Label, Lse, Mac};

use crate::slowpath::icmp::checksum;

/// What is wrong with a frame as written, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// Where frames come from unless they say otherwise.
const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Where a frame in a pseudowire goes unless it says otherwise.
const INNER: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// RFC 5737 and RFC 3849: addresses for examples.
const SOURCE_V4: [u8; 4] = [192, 0, 2, 1];
const SOURCE_V6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
const TTL: u8 = 64;
/// RFC 6335 section 6: the first dynamic port; and the first one that traceroute uses.
const PORTS: [u16; 2] = [49152, 33434];
/// How much data a packet has unless it says otherwise.
const DATA_LEN: usize = 32;
const UDP_HLEN: usize = 8;
const TCP_HLEN: usize = 20;
const ICMP_HLEN: usize = 8;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The frame that `text` describes. It goes to the MAC address `to`, unless it says otherwise.
pub fn read(text: &str, to: Mac) -> Result<Vec<u8>, Invalid> {
    let text = text.replace('[', " [ ").replace(']', " ] ");
    let mut words = Words {
        words: text.split_whitespace().collect(),
        next: 0,
    };
    words.take("ether");
    let mut frame = Vec::new();
    words.frame(to, &mut frame)?;
    match words.peek() {
        Some(word) => Err(Invalid(format!("`{word}` does not belong at the end of a frame"))),
        None => Ok(frame),
    }
}

struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
}

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    /// Whether the next word is this one, which is taken then.
    fn take(&mut self, word: &str) -> bool {
        let is_it = self.peek() == Some(word);
        self.next += usize::from(is_it);
        is_it
    }

    fn word(&mut self, what: &str) -> Result<&'a str, Invalid> {
        let word = self
            .peek()
            .ok_or_else(|| Invalid(format!("the frame ends where {what} must follow")))?;
        self.next += 1;
        Ok(word)
    }

    fn value<T: FromStr>(&mut self, what: &str) -> Result<T, Invalid> {
        let word = self.word(what)?;
        word.parse().map_err(|_| Invalid(format!("`{word}` is not {what}")))
    }

    /// A number, decimal or, with `0x`, hexadecimal.
    fn number(&mut self, what: &str, range: RangeInclusive<u32>) -> Result<u32, Invalid> {
        let word = self.word(what)?;
        let number = match word.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => word.parse(),
        };
        let (first, last) = (range.start(), range.end());
        number
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| Invalid(format!("`{word}` is not {what}, a number from {first} to {last}")))
    }

    fn byte(&mut self, what: &str) -> Result<u8, Invalid> {
        Ok(self.number(what, 0..=255)? as u8)
    }

    fn port(&mut self) -> Result<u16, Invalid> {
        Ok(self.number("a port", 0..=65535)? as u16)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Invalid> {
        let word = self.word("data in hexadecimal")?;
        hex::decode(word).map_err(|error| Invalid(format!("`{word}`, the data, is not hexadecimal: {error}")))
    }

    fn frame(&mut self, to: Mac, frame: &mut Vec<u8>) -> Result<(), Invalid> {
        let (mut destination, mut source) = (to, SOURCE);
        loop {
            if self.take("to") {
                destination = self.value("a MAC address, such as 52:54:00:12:34:56")?;
            } else if self.take("from") {
                source = self.value("a MAC address, such as 52:54:00:12:34:56")?;
            } else {
                break;
            }
        }
        frame.extend(destination.0);
        frame.extend(source.0);
        while self.take("vlan") {
            let vid = self.number("a VLAN identifier", 0..=4095)? as u16;
            frame.extend(ETH_P_8021Q.to_be_bytes());
            frame.extend(vid.to_be_bytes());
        }
        if self.peek() == Some("[") {
            frame.extend(ETH_P_MPLS_UC.to_be_bytes());
            return self.labelled(frame);
        }
        if self.take("ip") {
            let packet = self.packet()?;
            let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
            frame.extend(if is_v4 { ETH_P_IP } else { ETH_P_IPV6 }.to_be_bytes());
            frame.extend(packet);
            return Ok(());
        }
        if self.take("type") {
            let ethertype = self.number("an EtherType", 0..=65535)? as u16;
            frame.extend(ethertype.to_be_bytes());
            match self.take("data") {
                true => frame.extend(self.bytes()?),
                false => frame.resize(frame.len() + DATA_LEN, 0),
            }
            return Ok(());
        }
        Err(self.unexpected("a label such as `[100]`, `ip to ADDRESS` or `type ETHERTYPE`"))
    }

    fn unexpected(&self, what: &str) -> Invalid {
        Invalid(match self.peek() {
            Some(word) => format!("`{word}` stands where {what} must follow"),
            None => format!("the frame ends where {what} must follow"),
        })
    }

    fn labelled(&mut self, frame: &mut Vec<u8>) -> Result<(), Invalid> {
        while self.take("[") {
            let label = self.number("a label", 0..=Label::MAX.get())?;
            let (mut ttl, mut tc, mut bottom) = (TTL, 0, None);
            while !self.take("]") {
                if self.take("tc") {
                    tc = self.number("a traffic class", 0..=7)? as u8;
                } else if self.take("s") {
                    bottom = Some(self.number("an S bit", 0..=1)? == 1);
                } else {
                    self.take("ttl");
                    ttl = self.byte("a TTL")?;
                }
            }
            let bottom = bottom.unwrap_or(self.peek() != Some("["));
            frame.extend(Lse::new(Label::from_low_bits(label), tc, bottom, ttl).to_bytes());
        }
        if self.take("cw") {
            frame.extend([0; 4]);
        }
        if self.take("ether") {
            return self.frame(INNER, frame);
        }
        if self.take("ip") {
            frame.extend(self.packet()?);
        } else if self.take("data") {
            frame.extend(self.bytes()?);
        } else {
            return Err(self.unexpected("`ip to ADDRESS`, `ether FRAME` or `data HEX`"));
        }
        Ok(())
    }

    fn packet(&mut self) -> Result<Vec<u8>, Invalid> {
        let (mut to, mut from, mut len) = (None, None, None);
        let (mut ttl, mut tos, mut df) = (TTL, 0, false);
        let mut protocol = None;
        let ([mut sport, mut dport], mut kind, mut code) = (PORTS, None, 0);
        loop {
            if self.take("to") {
                to = Some(self.value::<IpAddr>("an IP address, such as 10.4.4.2")?);
            } else if self.take("from") {
                from = Some(self.value::<IpAddr>("an IP address, such as 10.4.4.2")?);
            } else if self.take("ttl") {
                ttl = self.byte("a TTL")?;
            } else if self.take("tos") {
                tos = self.byte("a TOS")?;
            } else if self.take("df") {
                df = true;
            } else if self.take("udp") {
                protocol = Some(UDP);
            } else if self.take("tcp") {
                protocol = Some(TCP);
            } else if self.take("icmp") {
                protocol = Some(ICMP);
            } else if self.take("proto") {
                protocol = Some(self.byte("a protocol")?);
            } else if self.take("sport") {
                sport = self.port()?;
            } else if self.take("dport") {
                dport = self.port()?;
            } else if self.take("type") {
                kind = Some(self.byte("an ICMP type")?);
            } else if self.take("code") {
                code = self.byte("an ICMP code")?;
            } else if self.take("len") {
                len = Some(self.number("the length of a packet", 20..=65535)? as usize);
            } else {
                break;
            }
        }
        let to = to.ok_or_else(|| Invalid("`ip` needs an address: `ip to ADDRESS`".into()))?;
        let from = from.unwrap_or(match to {
            IpAddr::V4(_) => SOURCE_V4.into(),
            IpAddr::V6(_) => SOURCE_V6.into(),
        });
        if from.is_ipv4() != to.is_ipv4() {
            return Err(Invalid(format!("{from} and {to} are addresses of different families")));
        }
        let protocol = match (protocol.unwrap_or(UDP), to) {
            (ICMP, IpAddr::V6(_)) => ICMPV6,
            (protocol, _) => protocol,
        };
        let upper_len = match protocol {
            UDP => UDP_HLEN,
            TCP => TCP_HLEN,
            ICMP | ICMPV6 => ICMP_HLEN,
            _ => 0,
        };
        let header_len = if to.is_ipv4() { IPV4_HLEN } else { IPV6_HLEN };
        let least = header_len + upper_len;
        let len = len.unwrap_or(least + DATA_LEN);
        if len < least {
            return Err(Invalid(format!(
                "`len {len}` is too short: the headers of this packet have {least} bytes"
            )));
        }
        let mut packet = ip_header(from, to, len, ttl, tos, df, protocol);
        let mut upper = vec![0; len - header_len];
        let at = match protocol {
            UDP => {
                put(&mut upper, 0, &[sport.to_be_bytes(), dport.to_be_bytes()].concat());
                let upper_len = upper.len() as u16;
                put(&mut upper, 4, &upper_len.to_be_bytes());
                Some(6)
            }
            TCP => {
                put(&mut upper, 0, &[sport.to_be_bytes(), dport.to_be_bytes()].concat());
                // A header of five words, and SYN.
                put(&mut upper, 12, &[0x50, 2, 0xff, 0xff]);
                Some(16)
            }
            ICMP => {
                put(&mut upper, 0, &[kind.unwrap_or(8), code]);
                Some(2)
            }
            ICMPV6 => {
                put(&mut upper, 0, &[kind.unwrap_or(128), code]);
                Some(2)
            }
            _ => None,
        };
        if let Some(at) = at {
            let pseudo = if protocol == ICMP {
                0
            } else {
                pseudo_header(from, to, upper.len(), protocol)
            };
            let sum = match checksum(pseudo, &upper) {
                // RFC 768: zero means that there is none.
                0 if protocol == UDP => 0xffff,
                sum => sum,
            };
            put(&mut upper, at, &sum.to_be_bytes());
        }
        packet.extend(upper);
        Ok(packet)
    }
}

fn ip_header(from: IpAddr, to: IpAddr, len: usize, ttl: u8, tos: u8, df: bool, protocol: u8) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, tos];
            header.extend((len as u16).to_be_bytes());
            header.extend([0, 0, if df { 0x40 } else { 0 }, 0, ttl, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(0, &header);
            put(&mut header, 10, &sum.to_be_bytes());
            header
        }
        (from, to) => {
            let mut header = vec![0x60 | tos >> 4, tos << 4, 0, 0];
            header.extend(((len - IPV6_HLEN) as u16).to_be_bytes());
            header.extend([protocol, ttl]);
            for address in [from, to] {
                if let IpAddr::V6(address) = address {
                    header.extend(address.octets());
                }
            }
            header
        }
    }
}

/// The sum of the pseudo-header (RFC 768, RFC 8200 section 8.1).
fn pseudo_header(from: IpAddr, to: IpAddr, len: usize, protocol: u8) -> u32 {
    let words = |address: IpAddr| -> u32 {
        match address {
            IpAddr::V4(address) => (u32::from(address) >> 16) + (u32::from(address) & 0xffff),
            IpAddr::V6(address) => address.segments().into_iter().map(u32::from).sum(),
        }
    };
    words(from) + words(to) + len as u32 + u32::from(protocol)
}

/// Writes `bytes` at `at`, which is within `target`.
fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = target.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

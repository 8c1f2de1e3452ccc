//! Handles a packet that is larger than the next hop's MTU less the labels that it leaves under (RFC 3032 section 3):
//! its source gets an ICMP error, or it is fragmented (RFC 791 section 3.2).

use mplsxdp_common::ip::kept_len;
use mplsxdp_common::wire::IPV4_HLEN;

use super::icmp::{Error, checksum};
use super::outcome::Outcome;
use super::packet::{Ipv4, ipv6_packet};

/// IPv6 hosts ignore a smaller MTU in an ICMP error (RFC 8201 section 4), and every link takes packets of this size
/// (RFC 8200 section 5).
const LEAST_IPV6_MTU: usize = 1280;

/// Fragment offsets are in units of this size (RFC 791 section 3.1).
const OFFSET_UNIT: usize = 8;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// With the most options that fit.
const LONGEST_HEADER: usize = 60;

/// What to do.
pub enum Remedy<'a> {
    /// The packet fits, but what follows it in the frame does not: send this many bytes of the payload.
    Cut(usize),
    Tell(Error),
    Fragment(Fragments<'a>),
}

impl<'a> Remedy<'a> {
    /// For the packet at the start of `payload`, of which `trimmed` bytes are missing. `mtu` is for the packet without
    /// labels. If nothing helps, it is dropped with the outcome.
    pub fn find(payload: &'a [u8], trimmed: usize, mtu: usize) -> Result<Self, Outcome> {
        match payload.first().map(|byte| byte >> 4) {
            Some(4) => {
                let packet = Ipv4::read(payload, trimmed).ok_or(Outcome::TooBig)?;
                if packet.total_len <= mtu {
                    cut(payload, packet.total_len, mtu)
                } else if flags_and_offset(packet.header) & DONT_FRAGMENT != 0 {
                    Ok(Self::Tell(Error::PacketTooBig { mtu: mtu as u32 }))
                } else if trimmed > 0 {
                    Err(Outcome::Trimmed)
                } else {
                    Fragments::new(packet, mtu).map(Self::Fragment).ok_or(Outcome::TooBig)
                }
            }
            Some(6) => {
                let (_, total_len) = ipv6_packet(payload, trimmed).ok_or(Outcome::TooBig)?;
                if total_len <= mtu {
                    cut(payload, total_len, mtu)
                } else if total_len <= LEAST_IPV6_MTU {
                    // Asking for less than the minimum MTU is useless.
                    Err(Outcome::TooBig)
                } else {
                    let mtu = mtu.max(LEAST_IPV6_MTU) as u32;
                    Ok(Self::Tell(Error::PacketTooBig { mtu }))
                }
            }
            Some(_) | None => Err(Outcome::TooBig),
        }
    }
}

/// A packet that fits without the bytes after it (RFC 3032 section 3 counts the datagram). Part of it may be missing.
fn cut<'a>(payload: &[u8], total_len: usize, mtu: usize) -> Result<Remedy<'a>, Outcome> {
    let kept = kept_len(total_len, payload.len()).min(mtu);
    if total_len <= payload.len() {
        Ok(Remedy::Cut(kept))
    } else {
        Err(Outcome::Trimmed)
    }
}

/// A packet in fragments, each as long as possible.
pub struct Fragments<'a> {
    mtu: usize,
    /// For the next fragment.
    header: Header,
    /// For those after the first.
    later_header: Header,
    /// The reserved flag, and [`MORE_FRAGMENTS`] if the packet is itself a fragment that has it: the flags of the last
    /// one.
    flags: u16,
    /// The offset of the next fragment, in units.
    offset: u16,
    /// The data that is not sent yet.
    data: &'a [u8],
}

impl<'a> Fragments<'a> {
    /// `None` if the options are not valid, if the MTU leaves no room for data, or if the end of the packet is beyond
    /// all offsets.
    fn new(packet: Ipv4<'a>, mtu: usize) -> Option<Self> {
        let (_, data) = packet.packet.split_at_checked(packet.header.len())?;
        let fragment = flags_and_offset(packet.header);
        let offset = fragment & OFFSET;
        let units = data.len().div_ceil(OFFSET_UNIT);
        let fits = mtu >= packet.header.len() + OFFSET_UNIT && usize::from(offset) + units <= usize::from(OFFSET) + 1;
        fits.then_some(Self {
            mtu,
            header: Header::of(packet.header)?,
            later_header: Header::later(packet.header)?,
            flags: fragment & !OFFSET,
            offset,
            data,
        })
    }

    /// Appends the next fragment to `frame`, which ends with its label stack. Returns whether there was one.
    pub fn write_next(&mut self, frame: &mut Vec<u8>) -> bool {
        if self.data.is_empty() {
            return false;
        }
        let header = self.header;
        let room = self.mtu - header.length;
        let (data, rest) = match self.data.split_at_checked(room / OFFSET_UNIT * OFFSET_UNIT) {
            Some((data, rest)) if self.data.len() > room => (data, rest),
            _ => (self.data, &[][..]),
        };
        let more = if rest.is_empty() { 0 } else { MORE_FRAGMENTS };
        header.write(data.len(), self.flags | more | self.offset, frame);
        frame.extend(data);
        self.header = self.later_header;
        // Beyond the last offset only when nothing is left.
        self.offset += (data.len() / OFFSET_UNIT) as u16;
        self.data = rest;
        true
    }
}

/// A header that the fragments are made from.
#[derive(Clone, Copy)]
struct Header {
    bytes: [u8; LONGEST_HEADER],
    length: usize,
}

impl Header {
    fn of(header: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST_HEADER];
        bytes.get_mut(..header.len())?.copy_from_slice(header);
        Some(Self {
            bytes,
            length: header.len(),
        })
    }

    /// For the fragments after the first: with the options that are copied into all of them. `None` if an option does
    /// not end within the header.
    fn later(header: &[u8]) -> Option<Self> {
        const END_OF_OPTIONS: u8 = 0;
        const NO_OPERATION: u8 = 1;
        const COPIED: u8 = 0x80;
        let (fixed, mut options) = header.split_at_checked(IPV4_HLEN)?;
        let mut later = Self::of(fixed)?;
        loop {
            match *options {
                [] | [END_OF_OPTIONS, ..] => break,
                [NO_OPERATION, ref rest @ ..] => options = rest,
                [kind, length, ..] if length >= 2 => {
                    let (option, rest) = options.split_at_checked(length.into())?;
                    if kind & COPIED != 0 {
                        let end = later.length + option.len();
                        later.bytes.get_mut(later.length..end)?.copy_from_slice(option);
                        later.length = end;
                    }
                    options = rest;
                }
                [_, ..] => return None,
            }
        }
        // The rest of the last word is zero, the end of options.
        later.length = later.length.next_multiple_of(4);
        later.bytes[0] = 0x40 | (later.length / 4) as u8;
        Some(later)
    }

    /// Appends the header of a fragment with `data_len` bytes.
    fn write(mut self, data_len: usize, flags_and_offset: u16, frame: &mut Vec<u8>) {
        let total_len = (self.length + data_len) as u16;
        [self.bytes[2], self.bytes[3]] = total_len.to_be_bytes();
        [self.bytes[6], self.bytes[7]] = flags_and_offset.to_be_bytes();
        [self.bytes[10], self.bytes[11]] = [0, 0];
        // The bytes after the header are zeros, which add nothing.
        [self.bytes[10], self.bytes[11]] = checksum(0, &self.bytes).to_be_bytes();
        frame.extend(self.bytes.iter().take(self.length));
    }
}

/// Zero for a shorter header.
fn flags_and_offset(header: &[u8]) -> u16 {
    match *header {
        [_, _, _, _, _, _, high, low, ..] => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::reassembled;
    use super::*;

    /// 20 bytes of header, identification 0x1234, TTL 63, UDP, from 10.0.0.2 to 10.9.9.9, and 30 bytes of data.
    const PACKET: &str = "45b80032 12340000 3f114bbc 0a000002 0a090909
        00010203 04050607 08090a0b 0c0d0e0f 10111213 14151617 18191a1b 1c1d";

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// A packet with a correct checksum; the third word of its header is `fragment`.
    fn v4(options: &[u8], fragment: u16, data: &[u8]) -> Vec<u8> {
        let header_len = 20 + options.len();
        let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
        packet.extend(((header_len + data.len()) as u16).to_be_bytes());
        packet.extend(0x1234_u16.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([63, 17, 0, 0, 10, 0, 0, 2, 10, 9, 9, 9]);
        packet.extend(options);
        let right = checksum(0, &packet).to_be_bytes();
        packet[10..12].copy_from_slice(&right);
        packet.extend(data);
        packet
    }

    fn v6(body_len: usize) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((body_len as u16).to_be_bytes());
        packet.resize(40 + body_len, 0);
        packet
    }

    /// The fragments, or the outcome instead.
    fn fragments(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, Outcome> {
        match Remedy::find(packet, 0, mtu)? {
            Remedy::Tell(error) => panic!("{error:?}"),
            Remedy::Cut(length) => panic!("cut to {length}"),
            Remedy::Fragment(mut fragments) => {
                let mut all = Vec::new();
                let mut fragment = b"labels".to_vec();
                while fragments.write_next(&mut fragment) {
                    assert_eq!(&fragment[..6], b"labels");
                    all.push(fragment.split_off(6));
                }
                assert!(!fragments.write_next(&mut fragment), "the end is the end");
                Ok(all)
            }
        }
    }

    fn reported_mtu(packet: &[u8], trimmed: usize, mtu: usize) -> Option<u32> {
        match Remedy::find(packet, trimmed, mtu) {
            Ok(Remedy::Tell(Error::PacketTooBig { mtu })) => Some(mtu),
            _ => None,
        }
    }

    #[test]
    fn a_packet_comes_in_fragments_as_rfc_791_has_them() {
        let expected = [
            "45b80024 12342000 3f112bca 0a000002 0a090909 00010203 04050607 08090a0b 0c0d0e0f",
            "45b80022 12340002 3f114bca 0a000002 0a090909 10111213 14151617 18191a1b 1c1d",
        ];
        for mtu in 36..44 {
            assert_eq!(
                fragments(&hex(PACKET), mtu),
                Ok(expected.map(hex).to_vec()),
                "MTU {mtu}"
            );
        }
        // The padding to the minimum length is not part of it.
        let padded = [hex(PACKET), vec![0xee; 10]].concat();
        assert_eq!(fragments(&padded, 40), Ok(expected.map(hex).to_vec()));
    }

    #[test]
    fn the_last_fragment_may_be_as_long_as_the_mtu() {
        let lengths = |data: usize, mtu| {
            let all = fragments(&v4(&[], 0, &vec![7; data]), mtu).unwrap();
            Vec::from_iter(all.iter().map(Vec::len))
        };
        assert_eq!(lengths(1480, 1392), [1388, 132]);
        assert_eq!(lengths(1368 + 1372, 1392), [1388, 1392]);
        assert_eq!(lengths(1368 + 1373, 1392), [1388, 1388, 25]);
        assert_eq!(lengths(9, 28), [28, 21]);
    }

    #[test]
    fn a_fragment_is_fragmented_at_its_offset_and_its_last_one_has_its_flag() {
        for (more, reserved) in [(0, 0), (MORE_FRAGMENTS, 0), (MORE_FRAGMENTS, 0x8000)] {
            let all = fragments(&v4(&[], reserved | more | 100, &[7; 40]), 40).unwrap();
            let words = Vec::from_iter(all.iter().map(|fragment| flags_and_offset(fragment)));
            let set = reserved | MORE_FRAGMENTS;
            assert_eq!(words, [set | 100, set | 102, reserved | more | 104]);
        }
    }

    #[test]
    fn options_are_in_later_fragments_where_they_are_to_be_copied() {
        // Loose source route (copied) behind no operation, record route (not copied), router alert (copied).
        let route = [131, 7, 4, 10, 1, 1, 1];
        let options = [&[1][..], &route, &[7, 7, 4, 0, 0, 0, 0, 1], &[148, 4, 0, 0]].concat();
        let all = fragments(&v4(&options, 0, &[9; 40]), 64).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0][0], &all[0][20..40]), (0x4a, &options[..]));
        let copied = [&route[..], &[148, 4, 0, 0, 0]].concat();
        assert_eq!((all[1][0], &all[1][20..32]), (0x48, &copied[..]));
        assert_eq!((all[0].len(), all[1].len()), (64, 32 + 16));
        // Bytes after the end of options are not options.
        let all = fragments(&v4(&[0, 148, 4, 0], 0, &[9; 40]), 40).unwrap();
        assert_eq!((all[1][0], all.len()), (0x45, 3));
    }

    #[test]
    fn what_cannot_be_fragmented_is_dropped() {
        let good = v4(&[], 0, &[9; 40]);
        let mut wrong = good.clone();
        wrong[8] = 1;
        for (what, packet, mtu) in [
            ("nothing fits", good.clone(), 27),
            ("wrong checksum", wrong, 40),
            ("an option beyond the header", v4(&[148, 5, 0, 0], 0, &[9; 40]), 40),
            ("an option of no length", v4(&[148, 0, 0, 0], 0, &[9; 40]), 40),
            ("an option without a length", v4(&[1, 1, 1, 148], 0, &[9; 40]), 40),
            ("beyond the last offset", v4(&[], 0x1ffc, &[9; 40]), 40),
            ("longer than the frame", good[..59].to_vec(), 40),
            ("no IP", vec![0x50; 100], 40),
            ("nothing", Vec::new(), 40),
        ] {
            assert_eq!(fragments(&packet, mtu), Err(Outcome::TooBig), "{what}");
        }
        assert!(fragments(&good, 28).is_ok());
        assert_eq!(fragments(&v4(&[], 0x1ffb, &[9; 40]), 40).unwrap().len(), 3);
        assert!(matches!(Remedy::find(&good[..50], 10, 40), Err(Outcome::Trimmed)));
    }

    #[test]
    fn a_source_that_forbids_fragments_gets_the_mtu() {
        let packet = v4(&[], DONT_FRAGMENT, &[9; 40]);
        assert_eq!(
            [59, 28, 0].map(|mtu| reported_mtu(&packet, 0, mtu)),
            [Some(59), Some(28), Some(0)]
        );
        assert_eq!(reported_mtu(&packet, 0, 60), None);
        assert_eq!(reported_mtu(&packet[..30], 30, 59), Some(59));
        assert_eq!(reported_mtu(&packet[..30], 29, 59), None);
    }

    /// As many bytes as are left.
    fn cut_to(packet: &[u8], trimmed: usize, mtu: usize) -> Result<usize, Outcome> {
        match Remedy::find(packet, trimmed, mtu)? {
            Remedy::Cut(length) => Ok(length),
            Remedy::Tell(_) | Remedy::Fragment(_) => panic!("{mtu}"),
        }
    }

    #[test]
    fn what_follows_a_packet_that_fits_is_cut_off() {
        let longer = |packet: Vec<u8>| [packet, vec![0xee; 40]].concat();
        for flags in [0, DONT_FRAGMENT] {
            let packet = longer(v4(&[], flags, &[9; 40]));
            assert_eq!([60, 61, 99].map(|mtu| cut_to(&packet, 0, mtu)), [Ok(60); 3]);
            // Missing bytes make it useless, unless they are not part of the packet.
            assert_eq!(cut_to(&packet[..60], 40, 60), Ok(60));
            assert_eq!(cut_to(&packet[..59], 41, 60), Err(Outcome::Trimmed));
        }
        let packet = longer(v6(20));
        assert_eq!([60, 99].map(|mtu| cut_to(&packet, 0, mtu)), [Ok(60); 2]);
        // The padding of a short packet stays as far as it fits.
        let short = longer(v4(&[], 0, &[9; 8]));
        assert_eq!(
            [28, 40, 46, 60].map(|mtu| cut_to(&short, 0, mtu).unwrap()),
            [28, 40, 46, 46]
        );
    }

    #[test]
    fn no_ipv6_source_gets_an_mtu_below_1280_bytes() {
        assert_eq!(reported_mtu(&v6(1460), 0, 1492), Some(1492));
        assert_eq!(reported_mtu(&v6(1460), 0, 1500), None);
        assert_eq!(reported_mtu(&v6(1460), 0, 1272), Some(1280));
        assert_eq!(
            [1240, 1241].map(|body| reported_mtu(&v6(body), 0, 1272)),
            [None, Some(1280)]
        );
        assert_eq!(reported_mtu(&v6(1460)[..100], 1400, 1492), Some(1492));
        assert_eq!(reported_mtu(&v6(1460)[..100], 1399, 1492), None);
    }

    /// Options of random kinds that fill whole words.
    fn options() -> impl Strategy<Value = Vec<u8>> {
        let option = prop_oneof![
            Just(vec![1]),
            (2_u8.., prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(kind, data)| [
                &[kind, data.len() as u8 + 2][..],
                &data
            ]
            .concat()),
        ];
        prop::collection::vec(option, 0..4).prop_map(|options| {
            let mut options = options.concat();
            options.resize(options.len().next_multiple_of(4), 0);
            options
        })
    }

    proptest! {
        #[test]
        fn fragments_fit_and_are_the_packet_again(
            options in options(),
            mtu in 68_usize..1600,
            excess in 1_usize..3000,
            offset in 0_u16..0x1000,
            more: bool,
        ) {
            let word = offset | if more { MORE_FRAGMENTS } else { 0 };
            let data = Vec::from_iter((0..251).cycle().take(mtu + excess - 20 - options.len()));
            let packet = v4(&options, word, &data);
            let all = fragments(&packet, mtu).unwrap();
            prop_assert!(all.len() > 1 && all.iter().all(|fragment| fragment.len() <= mtu));
            prop_assert_eq!(reassembled(&all), Some(packet));
            // And in two steps, as by two routers.
            let mut smaller = Vec::new();
            for fragment in all {
                if fragment.len() > 68 {
                    smaller.extend(fragments(&fragment, 68).unwrap());
                } else {
                    smaller.push(fragment);
                }
            }
            prop_assert_eq!(reassembled(&smaller), Some(v4(&options, word, &data)));
        }
    }
}

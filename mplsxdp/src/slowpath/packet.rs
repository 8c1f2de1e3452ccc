//! Reads a frame for the slow path: its label stack, and whether the IP packet beneath may be answered by an ICMP error
//! (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mplsxdp_common::abi::MAX_PUSH;
use mplsxdp_common::forward::{Frame, MAX_STACK_DEPTH};
use mplsxdp_common::ip::{Family, Header};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_MPLS_UC, IPPROTO_HOPOPTS, IPV4_HLEN, IPV6_HLEN, LSE_LEN, Lse};

use super::icmp::{IPPROTO_ICMP, IPPROTO_ICMPV6, checksum};

/// The deepest stack that can arrive, with what is pushed on it.
const DEEPEST: usize = MAX_STACK_DEPTH + MAX_PUSH;

/// The parts of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts<'a> {
    pub ethernet: &'a [u8],
    /// The label stack entries; empty for an unlabelled frame.
    pub stack: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` if the frame ends before its label stack does, or has more entries than any frame that is forwarded.
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, rest) = frame.split_at_checked(ETH_HLEN)?;
        let depth = if is_labelled(frame) {
            1 + entries(rest).take(DEEPEST).position(Lse::bottom)?
        } else {
            0
        };
        let (stack, payload) = rest.split_at_checked(depth * LSE_LEN)?;
        Some(Self {
            ethernet,
            stack,
            payload,
        })
    }
}

/// Bytes of a frame, with `trimmed` missing at the end, for the forwarding core to read.
struct Bytes<'a> {
    bytes: &'a [u8],
    trimmed: usize,
}

impl Frame for Bytes<'_> {
    fn len(&self) -> usize {
        self.bytes.len().saturating_add(self.trimmed)
    }

    fn is_split(&self) -> bool {
        self.trimmed > 0
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..)?.first_chunk().copied()
    }

    fn store<const N: usize>(&mut self, _offset: usize, _bytes: [u8; N]) -> Option<()> {
        None
    }

    /// Checksums are not needed: only the header is read.
    fn sum(&self, _offset: usize, _len: usize) -> Option<u16> {
        None
    }

    fn move_head(&mut self, _delta: i32) -> Option<()> {
        None
    }

    fn cut_tail(&mut self, _bytes: usize) -> Option<()> {
        None
    }
}

/// The IP header at the start of `payload`, of which `trimmed` bytes are missing.
fn header(payload: &[u8], trimmed: usize) -> Option<Header> {
    let bytes = Bytes {
        bytes: payload,
        trimmed,
    };
    Header::beneath_labels(&bytes, 0)
}

/// By how many bytes the IP packet in `frame` is longer than the frame. Nothing else shows that a frame was trimmed.
pub fn missing_bytes(frame: &[u8]) -> usize {
    let Some(Parts { payload, .. }) = Parts::of(frame) else {
        return 0;
    };
    let total_len = header(payload, usize::MAX).map_or(0, |header| header.total_len);
    total_len.saturating_sub(payload.len())
}

/// Whether the EtherType is MPLS.
pub fn is_labelled(frame: &[u8]) -> bool {
    frame.get(12..ETH_HLEN) == Some(&ETH_P_MPLS_UC.to_be_bytes())
}

/// The label stack entries at the start of `stack`.
pub fn entries(stack: &[u8]) -> impl Iterator<Item = Lse> {
    stack.as_chunks().0.iter().map(|&bytes| Lse::from_bytes(bytes))
}

/// The label stack of a frame, which may be cut off, and what is beneath it.
pub fn split(frame: &[u8]) -> (&[u8], &[u8]) {
    let rest = frame.get(ETH_HLEN..).unwrap_or_default();
    let depth = match is_labelled(frame) {
        true => entries(rest)
            .position(Lse::bottom)
            .map_or(rest.len() / LSE_LEN, |last| last + 1),
        false => 0,
    };
    rest.split_at_checked(depth * LSE_LEN).unwrap_or((rest, &[]))
}

/// The source and destination of the IP packet at the start of `payload`, of which only the beginning may be there.
pub fn addresses(payload: &[u8]) -> Option<(IpAddr, IpAddr)> {
    fn at<const N: usize>(payload: &[u8], offset: usize) -> Option<IpAddr>
    where
        IpAddr: From<[u8; N]>,
    {
        let bytes: &[u8; N] = payload.get(offset..)?.first_chunk()?;
        Some(IpAddr::from(*bytes))
    }
    match payload.first()? >> 4 {
        4 => at::<4>(payload, 12).zip(at::<4>(payload, 16)),
        6 => at::<16>(payload, 8).zip(at::<16>(payload, 24)),
        _ => None,
    }
}

/// A packet that may be answered by an ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offender<'a> {
    /// The destination of the error.
    pub source: IpAddr,
    /// The packet, without what follows it in the frame.
    pub packet: &'a [u8],
}

impl<'a> Offender<'a> {
    /// The IP packet at the start of `payload`, of which `trimmed` bytes are missing. `None` if it gets no answer.
    pub fn read(payload: &'a [u8], trimmed: usize) -> Option<Self> {
        match payload.first()? >> 4 {
            4 => read_v4(payload, trimmed),
            6 => read_v6(payload, trimmed),
            _ => None,
        }
    }
}

/// An IPv4 packet with a valid header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4<'a> {
    /// With its options.
    pub header: &'a [u8],
    /// The part of the packet that is there, header included.
    pub packet: &'a [u8],
    /// Its length, including what was trimmed.
    pub total_len: usize,
}

impl<'a> Ipv4<'a> {
    /// The packet at the start of `payload`, of which `trimmed` bytes are missing. `None` if its lengths or its
    /// checksum are not valid (RFC 1812 section 5.2.2).
    pub fn read(payload: &'a [u8], trimmed: usize) -> Option<Self> {
        let &[first, _, l0, l1] = payload.first_chunk()?;
        let header_len = usize::from(first & 0xf) * 4;
        let total_len = usize::from(u16::from_be_bytes([l0, l1]));
        let header = payload.get(..header_len)?;
        let is_right = first >> 4 == 4
            && header_len >= IPV4_HLEN
            && total_len >= header_len
            && total_len <= payload.len() + trimmed
            && checksum(0, header) == 0;
        is_right.then_some(Self {
            header,
            packet: payload.get(..total_len).unwrap_or(payload),
            total_len,
        })
    }
}

fn read_v4(payload: &[u8], trimmed: usize) -> Option<Offender<'_>> {
    let Ipv4 { header, packet, .. } = Ipv4::read(payload, trimmed)?;
    let &[
        _,
        _,
        _,
        _,
        _,
        _,
        f0,
        f1,
        _,
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
    let later_fragment = u16::from_be_bytes([f0, f1]) & 0x1fff != 0;
    let (source, destination) = (Ipv4Addr::from([s0, s1, s2, s3]), Ipv4Addr::from([d0, d1, d2, d3]));
    let deserves = !later_fragment
        && is_one_host_v4(source)
        && is_one_host_v4(destination)
        && (protocol != IPPROTO_ICMP || packet.get(header.len()).is_some_and(|&kind| is_icmp_query(kind)));
    deserves.then_some(Offender {
        source: source.into(),
        packet,
    })
}

/// Whether the address can be that of a single host that an answer can go to.
pub fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_one_host_v4(address),
        IpAddr::V6(address) => is_one_host_v6(address),
    }
}

/// Whether the address can be that of one host: not of this network (0/8), loopback, multicast, class E or broadcast.
/// Broadcast addresses of remote networks cannot be known here.
fn is_one_host_v4(address: Ipv4Addr) -> bool {
    !matches!(address.octets(), [0 | 127 | 224..=255, ..])
}

/// ICMPv4 messages that are certainly not errors: echo, router discovery, timestamp, information and address mask (RFC
/// 792, 950, 1256), extended echo (RFC 8335). An unknown type may be an error.
fn is_icmp_query(kind: u8) -> bool {
    matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43)
}

/// The IPv6 packet at the start of `payload`, of which `trimmed` bytes are missing: the part of it that is there, and
/// its length. `None` if it is longer than the frame, or not IPv6.
pub fn ipv6_packet(payload: &[u8], trimmed: usize) -> Option<(&[u8], usize)> {
    let Header { family, total_len, .. } = header(payload, trimmed)?;
    let is_right = family == Family::V6 && payload.len() >= IPV6_HLEN;
    is_right.then(|| (payload.get(..total_len).unwrap_or(payload), total_len))
}

fn read_v6(payload: &[u8], trimmed: usize) -> Option<Offender<'_>> {
    let (packet, _) = ipv6_packet(payload, trimmed)?;
    let (&[_, _, _, _, _, _, next_header, _], rest) = packet.split_first_chunk::<8>()?;
    let (&source, rest) = rest.split_first_chunk::<16>()?;
    let (&destination, body) = rest.split_first_chunk::<16>()?;
    let source = Ipv6Addr::from(source);
    let deserves =
        is_one_host_v6(source) && is_one_host_v6(destination.into()) && upper_layer_deserves(next_header, body);
    deserves.then_some(Offender {
        source: source.into(),
        packet,
    })
}

/// Whether the address can be that of a single host to which a router may forward: not unspecified, loopback,
/// multicast, link-local or an embedded IPv4 address.
fn is_one_host_v6(address: Ipv6Addr) -> bool {
    let none = address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some();
    !none
}

/// Whether what follows the extension headers (RFC 8200 section 4) is neither part of a later fragment, nor an ICMPv6
/// error (types below 128, known or not), nor a redirect. Headers that end too early are malformed.
fn upper_layer_deserves(mut next_header: u8, mut body: &[u8]) -> bool {
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;
    const REDIRECT: u8 = 137;
    loop {
        let length = match next_header {
            IPPROTO_ICMPV6 => return body.first().is_some_and(|&kind| kind >= 128 && kind != REDIRECT),
            IPPROTO_HOPOPTS | ROUTING | DESTINATION_OPTIONS => match body {
                [_, units, ..] => (usize::from(*units) + 1) * 8,
                _ => return false,
            },
            // RFC 4302 section 2.2: in 32-bit words, minus two.
            AUTHENTICATION => match body {
                [_, words, ..] => (usize::from(*words) + 2) * 4,
                _ => return false,
            },
            FRAGMENT => match body {
                [_, _, offset, flags, ..] if u16::from_be_bytes([*offset, *flags]) & 0xfff8 == 0 => 8,
                _ => return false,
            },
            _ => return true,
        };
        match (body.first(), body.get(length..)) {
            (Some(&next), Some(rest)) => (next_header, body) = (next, rest),
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, Ipv4Header, Ipv6Header};

    use super::super::fixture::{labelled, lses};
    use super::*;

    const UDP: IpNumber = IpNumber::UDP;

    /// An IPv4 packet with `body`, changed by `change` before its checksum is made.
    fn v4(protocol: IpNumber, body: &[u8], change: impl Fn(&mut Ipv4Header)) -> Vec<u8> {
        let (source, destination) = ([10, 0, 0, 2], [10, 9, 9, 9]);
        let mut header = Ipv4Header::new(body.len() as u16, 64, protocol, source, destination).unwrap();
        change(&mut header);
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], body].concat()
    }

    fn v6(next_header: u8, body: &[u8], change: impl Fn(&mut Ipv6Header)) -> Vec<u8> {
        let mut header = Ipv6Header {
            payload_length: body.len() as u16,
            next_header: next_header.into(),
            hop_limit: 64,
            source: "2001:db8::2".parse::<Ipv6Addr>().unwrap().octets(),
            destination: "2001:db8:9::9".parse::<Ipv6Addr>().unwrap().octets(),
            ..Ipv6Header::default()
        };
        change(&mut header);
        [&header.to_bytes()[..], body].concat()
    }

    fn deserves(packet: &[u8]) -> bool {
        Offender::read(packet, 0).is_some()
    }

    #[test]
    fn a_frame_comes_apart_at_the_bottom_of_its_stack() {
        let frame = labelled(&[(100, 1), (200, 63)], b"payload");
        let parts = Parts::of(&frame).unwrap();
        assert_eq!(
            (parts.ethernet.len(), parts.stack, parts.payload),
            (14, &lses(&[(100, 1), (200, 63)])[..], &b"payload"[..])
        );
        let deepest = [(100, 1); DEEPEST];
        assert!(Parts::of(&labelled(&deepest, b"")).is_some_and(|parts| parts.payload.is_empty()));
        assert_eq!(Parts::of(&labelled(&[(100, 1); DEEPEST + 1], b"")), None);
        assert_eq!(Parts::of(&frame[..20]), None);
        assert_eq!(Parts::of(&frame[..13]), None);
        let unlabelled = super::super::fixture::ethernet(0x0800, b"payload");
        assert!(Parts::of(&unlabelled).is_some_and(|parts| parts.stack.is_empty() && parts.payload == b"payload"));
    }

    #[test]
    fn ordinary_packets_deserve_an_answer_and_lose_their_padding() {
        for packet in [
            v4(UDP, &[0; 30], |_| ()),
            v4(IpNumber::TCP, &[], |_| ()),
            v4(UDP, &[0; 30], |header| header.more_fragments = true),
            v4(UDP, &[0; 30], |header| {
                header.options = [1, 1, 1, 0].into();
                header.total_len += 4;
            }),
        ] {
            let padded = [&packet[..], &[0; 18]].concat();
            let offender = Offender::read(&padded, 0).unwrap();
            assert_eq!((offender.source, offender.packet), ([10, 0, 0, 2].into(), &packet[..]));
        }
        let packet = v6(17, &[0; 30], |_| ());
        let padded = [&packet[..], &[0; 18]].concat();
        let offender = Offender::read(&padded, 0).unwrap();
        assert_eq!(
            (offender.source, offender.packet),
            ("2001:db8::2".parse().unwrap(), &packet[..])
        );
    }

    #[test]
    fn what_was_trimmed_still_deserves_an_answer() {
        let packet = v4(UDP, &[0; 1000], |_| ());
        assert!(!deserves(&packet[..500]));
        assert_eq!(Offender::read(&packet[..500], 520).unwrap().packet, &packet[..500]);
        assert_eq!(Offender::read(&packet[..500], 519), None);
        let packet = v6(17, &[0; 1000], |_| ());
        assert_eq!(Offender::read(&packet[..500], 540).unwrap().packet, &packet[..500]);
        assert_eq!(Offender::read(&packet[..500], 539), None);
    }

    #[test]
    fn malformed_packets_get_none() {
        let good = v4(UDP, &[0; 30], |_| ());
        assert!(deserves(&good));
        let changed = |offset: usize, value: u8| {
            let mut packet = good.clone();
            packet[offset] = value;
            // Corrected, so that only the change matters.
            packet[10..12].fill(0);
            let sum = checksum(0, &packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        };
        assert!(deserves(&changed(8, 1)));
        for (what, packet) in [
            ("version", changed(0, 0x55)),
            ("header length", changed(0, 0x44)),
            ("header longer than the packet", changed(0, 0x4f)),
            ("total length beyond the frame", changed(3, 51)),
            ("total length less than the header", changed(3, 19)),
            ("no header", good[..19].to_vec()),
            ("empty", Vec::new()),
        ] {
            assert!(!deserves(&packet), "{what}");
        }
        let mut wrong = good.clone();
        wrong[8] = 63;
        assert!(!deserves(&wrong), "checksum");

        let good = v6(17, &[0; 30], |_| ());
        assert!(deserves(&good));
        assert!(!deserves(&good[..69]) && !deserves(&good[..39]) && !deserves(&[0x60]));
    }

    #[test]
    fn later_fragments_get_none() {
        let later = v4(UDP, &[0; 30], |header| header.fragment_offset = 1.try_into().unwrap());
        assert!(!deserves(&later));
        let fragment = |offset: u8| [&[17, 0, 0, offset, 0, 0, 0, 1][..], &[0; 30]].concat();
        assert!(deserves(&v6(44, &fragment(1), |_| ())), "the first, more to come");
        assert!(!deserves(&v6(44, &fragment(8), |_| ())));
    }

    #[test]
    fn only_one_host_gets_an_answer_and_only_for_what_went_to_one() {
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.5",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            let address = bad.parse::<Ipv4Addr>().unwrap().octets();
            assert!(!deserves(&v4(UDP, &[0; 8], |header| header.source = address)), "{bad}");
            assert!(
                !deserves(&v4(UDP, &[0; 8], |header| header.destination = address)),
                "{bad}"
            );
        }
        for bad in ["::", "::1", "ff02::1", "ff0e::1", "fe80::1", "::ffff:10.0.0.2"] {
            let address = bad.parse::<Ipv6Addr>().unwrap().octets();
            assert!(!deserves(&v6(17, &[0; 8], |header| header.source = address)), "{bad}");
            assert!(
                !deserves(&v6(17, &[0; 8], |header| header.destination = address)),
                "{bad}"
            );
        }
    }

    #[test]
    fn icmp_errors_and_what_may_be_one_get_none() {
        for kind in 0..=255 {
            let query = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43].contains(&kind);
            let message = [kind, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(deserves(&v4(IpNumber::ICMP, &message, |_| ())), query, "v4 type {kind}");
            let information = kind >= 128 && kind != 137;
            assert_eq!(deserves(&v6(58, &message, |_| ())), information, "v6 type {kind}");
        }
        assert!(!deserves(&v4(IpNumber::ICMP, &[], |_| ())));
        assert!(!deserves(&v6(58, &[], |_| ())));
    }

    #[test]
    fn an_icmpv6_error_is_found_behind_extension_headers() {
        let behind = |kind: u8| {
            let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
            let options = [[43, 1, 1, 4, 0, 0, 0, 0], [0; 8]].concat();
            let routing = [51, 0, 0, 0, 0, 0, 0, 0];
            let authentication = [[44, 4, 0, 0, 0, 0, 0, 0], [0; 8], [0; 8]].concat();
            let fragment = [58, 0, 0, 0, 0, 0, 0, 1];
            [
                &hop_by_hop[..],
                &options,
                &routing,
                &authentication,
                &fragment,
                &[kind, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat()
        };
        assert!(deserves(&v6(0, &behind(128), |_| ())));
        assert!(!deserves(&v6(0, &behind(3), |_| ())));
        // Each header is cut short once.
        for length in 0..behind(128).len() - 7 {
            assert!(!deserves(&v6(0, &behind(128)[..length], |_| ())), "{length} bytes");
        }
    }
}

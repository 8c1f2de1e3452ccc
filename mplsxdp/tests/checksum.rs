//! Unfinished checksums: which are finished and how, and that finished ones and anything that is not a checksum stay as
//! they are.

use mplsxdp::dataplane::frame::MemoryFrame;
use mplsxdp_common::checksum::{finish, is_unfinished};
use mplsxdp_common::forward::Frame as _;
use proptest::prelude::*;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The sum of `bytes` (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    MemoryFrame::new(bytes).sum(0, bytes.len()).unwrap()
}

/// A packet, and the data that its checksum covers.
#[derive(Clone, Debug)]
struct Packet {
    ip: Vec<u8>,
    /// The pseudo-header, with the addresses of the ends.
    pseudo_header: Vec<u8>,
    segment: Vec<u8>,
    checksum_at: usize,
}

impl Packet {
    fn v4(protocol: u8, options: usize, payload: &[u8]) -> Self {
        let (segment, checksum_at) = segment(protocol, payload);
        let header = 20 + options * 4;
        let total = (header + segment.len()) as u16;
        let mut ip = vec![0x40 | (header / 4) as u8, 0];
        ip.extend(total.to_be_bytes());
        ip.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 1, 2, 3, 192, 0, 2, 9]);
        ip.resize(header, 1);
        let right = !sum(&ip);
        ip[10..12].copy_from_slice(&right.to_be_bytes());
        let mut pseudo_header = ip[12..20].to_vec();
        pseudo_header.extend([0, protocol]);
        pseudo_header.extend((segment.len() as u16).to_be_bytes());
        Self {
            ip,
            pseudo_header,
            segment,
            checksum_at,
        }
    }

    /// `extensions` are whole extension headers; the first byte of each is filled in.
    fn v6(protocol: u8, extensions: &[(u8, Vec<u8>)], destination: Option<[u8; 16]>, payload: &[u8]) -> Self {
        let (segment, checksum_at) = segment(protocol, payload);
        let mut following = extensions.iter().map(|(kind, _)| *kind).chain([protocol]);
        let first = following.next().unwrap();
        let headers: Vec<u8> = extensions
            .iter()
            .flat_map(|(_, rest)| [vec![following.next().unwrap()], rest.clone()].concat())
            .collect();
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend(((headers.len() + segment.len()) as u16).to_be_bytes());
        ip.extend([first, 64]);
        ip.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        ip.extend([0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        let mut pseudo_header = ip[8..24].to_vec();
        pseudo_header.extend(destination.unwrap_or_else(|| ip[24..40].try_into().unwrap()));
        pseudo_header.extend((segment.len() as u32).to_be_bytes());
        pseudo_header.extend([0, 0, 0, protocol]);
        ip.extend(headers);
        Self {
            ip,
            pseudo_header,
            segment,
            checksum_at,
        }
    }

    /// The frame: `front`, then the packet with `checksum` in its field.
    fn frame(&self, front: &[u8], checksum: u16) -> Vec<u8> {
        let mut segment = self.segment.clone();
        segment[self.checksum_at..self.checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        [front, &self.ip, &segment].concat()
    }

    fn unfinished(&self) -> u16 {
        sum(&self.pseudo_header)
    }

    fn right(&self) -> u16 {
        match !sum(&[&self.pseudo_header[..], &self.segment].concat()) {
            0 if self.checksum_at == 6 => 0xffff,
            right => right,
        }
    }
}

/// A segment with a checksum of 0, and the offset of that.
fn segment(protocol: u8, payload: &[u8]) -> (Vec<u8>, usize) {
    match protocol {
        TCP => {
            let header = [
                0x12, 0x34, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
            ];
            ([&header[..], payload].concat(), 16)
        }
        _ => {
            let [l0, l1] = (8 + payload.len() as u16).to_be_bytes();
            ([&[0x12, 0x34, 0, 53, l0, l1, 0, 0][..], payload].concat(), 6)
        }
    }
}

/// An Ethernet header with `tags` VLAN tags and `labels` labels.
fn front(tags: usize, labels: usize, v6: bool) -> Vec<u8> {
    let mut front = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    for _ in 0..tags {
        front.extend([0x81, 0, 0, 100]);
    }
    front.extend(match (labels, v6) {
        (0, false) => [0x08, 0x00],
        (0, true) => [0x86, 0xdd],
        (_, _) => [0x88, 0x47],
    });
    for index in 0..labels {
        front.extend([0, 6, 0x40 | u8::from(index + 1 == labels), 63]);
    }
    front
}

/// The finished frame, if anything was finished.
fn finished(frame: &[u8]) -> Option<Vec<u8>> {
    let mut memory = MemoryFrame::new(frame);
    let unfinished = is_unfinished(&memory);
    let changed = finish(&mut memory);
    assert_eq!(unfinished, changed);
    if !changed {
        assert_eq!(memory.bytes(), frame);
    }
    changed.then(|| memory.bytes().to_vec())
}

fn packet() -> impl Strategy<Value = (Packet, bool)> {
    let payload = prop::collection::vec(any::<u8>(), 0..1500);
    let extension = prop_oneof![
        Just((0, vec![0, 1, 4, 0, 0, 0, 0])),
        Just((60, [vec![1, 1, 12], vec![0; 12]].concat())),
        Just((43, [vec![2, 4, 0, 0, 0, 0, 0], vec![7; 16]].concat())),
    ];
    (
        any::<bool>(),
        any::<bool>(),
        0_usize..=10,
        prop::collection::vec(extension, 0..=4),
        payload,
    )
        .prop_map(|(is_v6, is_tcp, options, extensions, payload)| {
            let protocol = if is_tcp { TCP } else { UDP };
            match is_v6 {
                true => (Packet::v6(protocol, &extensions, None, &payload), true),
                false => (Packet::v4(protocol, options, &payload), false),
            }
        })
}

proptest! {
    #[test]
    fn an_unfinished_checksum_becomes_the_right_one_beneath_all_tags_and_labels(
        (packet, is_v6) in packet(),
        tags in 0_usize..=2,
        labels in 0_usize..=72,
        trailing in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let front = front(tags, labels, is_v6);
        let unfinished = [packet.frame(&front, packet.unfinished()), trailing.clone()].concat();
        let right = [packet.frame(&front, packet.right()), trailing].concat();
        prop_assert_eq!(finished(&unfinished), Some(right));
    }

    #[test]
    fn any_other_checksum_stays((packet, is_v6) in packet(), checksum: u16, labels in 0_usize..=3) {
        prop_assume!(checksum != packet.unfinished());
        let frame = packet.frame(&front(0, labels, is_v6), checksum);
        prop_assert_eq!(finished(&frame), None);
    }

    /// The field of a finished packet may equal the sum of the pseudo-header by chance: here, two bytes of payload make
    /// it so.
    #[test]
    fn a_checksum_that_was_right_by_chance_is_the_same_again((packet, is_v6) in packet(), fill in 0_usize..700) {
        let mut packet = packet;
        let at = packet.segment.len() / 2 * 2;
        prop_assume!(at >= 22 + packet.checksum_at);
        let at = 20 + (fill * 2) % (at - 20);
        packet.segment[at..at + 2].fill(0);
        // The value that makes the whole sum all ones, with the sum of the pseudo-header in the field.
        let rest = [&packet.pseudo_header[..], &packet.pseudo_header, &packet.segment].concat();
        let missing = !sum(&rest);
        packet.segment[at..at + 2].copy_from_slice(&missing.to_be_bytes());
        prop_assert_eq!(packet.right(), packet.unfinished());
        let frame = packet.frame(&front(0, 1, is_v6), packet.right());
        prop_assert_eq!(finished(&frame), Some(frame.clone()));
    }

    #[test]
    fn no_bytes_upset_it(frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0_usize..4) {
        let mut frame = frame;
        let types: [&[u8]; 4] = [&[0x08, 0], &[0x86, 0xdd], &[0x88, 0x47], &[0x81, 0]];
        if let Some(place) = frame.get_mut(12..14) {
            place.copy_from_slice(types[kind]);
        }
        finished(&frame);
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let mut packet = Packet::v4(UDP, 0, &[0; 4]);
    let missing = !sum(&[&packet.pseudo_header[..], &packet.segment].concat());
    packet.segment[8..10].copy_from_slice(&missing.to_be_bytes());
    let front = front(0, 0, false);
    let unfinished = packet.frame(&front, packet.unfinished());
    assert_eq!(finished(&unfinished), Some(packet.frame(&front, 0xffff)));
}

#[test]
fn without_a_udp_checksum_there_is_none() {
    let packet = Packet::v4(UDP, 0, b"payload");
    assert_eq!(finished(&packet.frame(&front(0, 1, false), 0)), None);
}

#[test]
fn the_last_address_of_a_routing_header_counts() {
    let last = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    // Segments left: 1 of a segment routing header (RFC 8754) and of one for mobility (RFC 6275).
    for kind in [4, 2] {
        let routing = [vec![2, kind, 1, 0, 0, 0, 0], last.to_vec()].concat();
        let packet = Packet::v6(TCP, &[(43, routing)], Some(last), b"payload");
        let frame = packet.frame(&front(0, 1, true), packet.unfinished());
        assert_eq!(finished(&frame), Some(packet.frame(&front(0, 1, true), packet.right())));
    }
    // In another kind of routing header, its place is not known.
    let routing = [vec![2, 3, 1, 0, 0, 0, 0], last.to_vec()].concat();
    let packet = Packet::v6(TCP, &[(43, routing)], Some(last), b"payload");
    assert_eq!(finished(&packet.frame(&front(0, 1, true), packet.unfinished())), None);
}

#[test]
fn fragments_and_other_payloads_stay() {
    let packet = Packet::v4(TCP, 0, &[7; 100]);
    let labelled = front(0, 1, false);
    let ip = labelled.len();
    let frame = packet.frame(&labelled, packet.unfinished());
    assert!(finished(&frame).is_some());
    // More fragments, and an offset. The header checksum stays right.
    for (flags, checksum) in [(0x60, -0x20), (0x40, -0x01)] {
        let mut fragment = frame.clone();
        fragment[ip + 6] = flags;
        fragment[ip + 7] = u8::from(checksum == -0x01);
        let right = {
            let mut h = fragment[ip..ip + 20].to_vec();
            h[10..12].fill(0);
            !sum(&h)
        };
        fragment[ip + 10..ip + 12].copy_from_slice(&right.to_be_bytes());
        assert_eq!(finished(&fragment), None);
    }
    // A wrong header checksum beneath a label: it only looks like IPv4.
    let mut pseudowire = frame.clone();
    pseudowire[ip + 10] ^= 1;
    assert_eq!(finished(&pseudowire), None);
    // Other protocols, and a frame that is cut off.
    let mut sctp = frame.clone();
    sctp[ip + 9] = 132;
    assert_eq!(finished(&sctp), None);
    assert_eq!(finished(&frame[..frame.len() - 1]), None);
    let mut trimmed = MemoryFrame::default();
    trimmed.refill([&frame[..100]], frame.len() - 100);
    assert!(!finish(&mut trimmed));
}

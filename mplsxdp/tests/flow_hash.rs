//! The flow hash: what is hashed and what is not, and that it spreads flows evenly over buckets.

use std::collections::HashSet;

use mplsxdp::dataplane::frame::MemoryFrame;
use mplsxdp_common::abi::BUCKETS;
use mplsxdp_common::hash::{flow_hash, ip_flow_hash};
use mplsxdp_common::wire::{Label, Lse};

const SEED: u32 = 0x6d70_6c73;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ESP: u8 = 50;

/// Labels over a payload; the last label has the S bit.
fn stack(labels: &[u32], payload: &[u8]) -> Vec<u8> {
    let last = labels.len().wrapping_sub(1);
    let lse = |(index, &label): (usize, &u32)| Lse::new(Label::new(label).unwrap(), 0, index == last, 64).to_bytes();
    let entries = labels.iter().enumerate().flat_map(lse);
    entries.chain(payload.iter().copied()).collect()
}

fn hash(bytes: &[u8]) -> u32 {
    flow_hash(&MemoryFrame::new(bytes), 0, SEED)
}

fn v4(source: u8, protocol: u8, fragment: u16, ports: [u8; 4]) -> Vec<u8> {
    let [f0, f1] = fragment.to_be_bytes();
    let mut packet = vec![
        0x46, 0, 0, 32, 0, 0, f0, f1, 64, protocol, 0, 0, 10, 0, 0, source, 10, 0, 0, 9,
    ];
    // An option, so that the ports are at another offset.
    packet.extend([1, 1, 1, 1]);
    right_checksum(&mut packet);
    packet.extend(ports);
    packet.extend([0; 4]);
    packet
}

/// Fills in the checksum of a header that has none.
fn right_checksum(header: &mut [u8]) {
    let sum: u32 = header
        .as_chunks()
        .0
        .iter()
        .map(|&word| u32::from(u16::from_be_bytes(word)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn v6(source: u8, next_header: u8, ports: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, next_header, 64];
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, source]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    packet.extend(ports);
    packet.extend([0; 4]);
    packet
}

#[test]
fn labels_count_but_not_special_purpose_ones() {
    let base = hash(&stack(&[100, 200], b"\0pw"));
    assert_ne!(base, hash(&stack(&[100, 201], b"\0pw")));
    assert_ne!(base, hash(&stack(&[200, 100], b"\0pw")));
    assert_eq!(base, hash(&stack(&[100, 1, 200], b"\0pw")));
    assert_eq!(base, hash(&stack(&[100, 200, 15], b"\0pw")));
    assert_eq!(base, hash(&stack(&[0, 100, 14, 200], b"\0pw")));
    // TTL and TC are not part of the flow.
    let mut other = stack(&[100, 200], b"\0pw");
    other[2] |= 0x0e;
    other[3] = 9;
    assert_eq!(base, hash(&other));
}

#[test]
fn an_entropy_label_is_all_that_counts() {
    let base = hash(&stack(&[100, 7, 500, 200], &v4(1, UDP, 0, [1, 2, 3, 4])));
    assert_eq!(base, hash(&stack(&[101, 102, 7, 500], &v4(2, TCP, 0, [9, 2, 3, 4]))));
    assert_eq!(base, hash(&stack(&[7, 500, 7, 501], &[])));
    assert_ne!(base, hash(&stack(&[100, 7, 501, 200], &v4(1, UDP, 0, [1, 2, 3, 4]))));
    // Label 14 is not an indicator.
    assert_ne!(hash(&stack(&[100, 14, 500], &[])), hash(&stack(&[101, 14, 500], &[])));
    // An indicator at the bottom of the stack, or at the end of the frame, has no label after it.
    assert_eq!(hash(&stack(&[100, 7], &[0xff; 8])), hash(&stack(&[100, 7], &[0xee; 8])));
    let cut = stack(&[100, 7, 500], &[]);
    assert_eq!(hash(&cut[..8]), hash(&stack(&[100], &[])));
}

#[test]
fn ip_counts_with_addresses_protocol_and_ports() {
    let labels = [100, 200];
    for (packet, other_source, other_protocol, other_ports, no_ports) in [
        (
            v4(1, UDP, 0x4000, [1, 2, 3, 4]),
            v4(2, UDP, 0x4000, [1, 2, 3, 4]),
            v4(1, TCP, 0x4000, [1, 2, 3, 4]),
            v4(1, UDP, 0x4000, [1, 2, 3, 5]),
            [v4(1, ESP, 0, [1, 2, 3, 4]), v4(1, ESP, 0, [1, 2, 3, 5])],
        ),
        (
            v6(1, UDP, [1, 2, 3, 4]),
            v6(2, UDP, [1, 2, 3, 4]),
            v6(1, SCTP, [1, 2, 3, 4]),
            v6(1, UDP, [2, 2, 3, 4]),
            [v6(1, ESP, [1, 2, 3, 4]), v6(1, ESP, [1, 2, 3, 5])],
        ),
    ] {
        let of = |packet: &[u8]| hash(&stack(&labels, packet));
        assert_eq!(of(&packet), of(&packet));
        for other in [other_source, other_protocol, other_ports] {
            assert_ne!(of(&packet), of(&other));
        }
        assert_eq!(of(&no_ports[0]), of(&no_ports[1]));
        // The same fields are hashed without labels.
        let ip = |packet: &[u8]| ip_flow_hash(&MemoryFrame::new(packet), 0, SEED);
        assert_ne!(ip(&packet), ip(&no_ports[0]));
        // TTL, TOS and the bytes after the ports are not.
        let mut changed = packet.clone();
        *changed.last_mut().unwrap() ^= 0xff;
        if packet[0] >> 4 == 4 {
            changed[8] ^= 0xff;
            changed[10..12].fill(0);
            right_checksum(&mut changed[..24]);
        } else {
            changed[7] ^= 0xff;
        }
        assert_eq!(of(&packet), of(&changed));
    }
}

#[test]
fn fragments_of_a_packet_stay_together() {
    let of = |fragment, ports| hash(&stack(&[100], &v4(1, UDP, fragment, ports)));
    let first = of(0x2000, [1, 2, 3, 4]);
    assert_eq!(first, of(0x2010, [0xde, 0xad, 0xbe, 0xef]));
    assert_eq!(first, of(0x0020, [0, 0, 0, 0]));
    assert_ne!(first, of(0x4000, [1, 2, 3, 4]));
}

/// An Ethernet frame from one customer's host to another's, in a pseudowire without a control word.
fn pseudowire(destination: [u8; 6], ethertype: u16, data: &[u8]) -> Vec<u8> {
    let source = [0x02, 0x1b, 0x21, 0x0a, 0x0b, 0x0c];
    let mut frame = [&destination[..], &source, &ethertype.to_be_bytes(), data].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

#[test]
fn a_customers_flow_in_a_pseudowire_takes_one_path_whatever_its_mac_addresses() {
    let labels = [100, 200];
    let base = hash(&stack(&labels, b"\0pw"));
    let mut macs = vec![
        [0x4c, 0x5e, 0x0c, 0x11, 0x22, 0x33],
        [0x64, 0xd1, 0x54, 0xaa, 0xbb, 0xcc],
        [0x6c, 0x3b, 0x6b, 0x01, 0x02, 0x03],
    ];
    // Those whose last bytes can look like the length of a packet.
    for last in [0, 1, 20, 46, 100, 1000] {
        let [high, low] = u16::to_be_bytes(last);
        macs.push([0x64, 0xd1, 0x54, 0, high, low]);
        macs.push([0x46, 0, high, low, 0, 1]);
        macs.push([0x4e, 0x5e, high, low, 0x0a, 1]);
    }
    for mac in macs {
        for length in (0..1400).step_by(7) {
            let data = |byte: u8| Vec::from_iter((0..length).map(|at: usize| (at as u8).wrapping_mul(31) ^ byte));
            let ip4 = [v4(1, TCP, 0, [1, 2, 3, 4]), data(length as u8)].concat();
            let mut ip6 = [v6(1, UDP, [1, 2, 3, 4]), data(length as u8)].concat();
            ip6[4..6].copy_from_slice(&(8 + length as u16).to_be_bytes());
            let tagged = [&[0x20, 100, 0x08, 0x00][..], &ip4].concat();
            let arp = [0, 1, 8, 0, 6, 4, 0, length as u8].to_vec();
            for (ethertype, packet) in [
                (0x0800, ip4),
                (0x86dd, ip6),
                (0x8100, tagged.clone()),
                (0x88a8, tagged),
                (0x0806, arp),
                (0x8864, [&[0x11, 0, 0, 1][..], &data(3)].concat()),
                (0x8847, [&[0, 6, 0x41, 64][..], &data(4)].concat()),
                // Not a packet at all.
                (0x0800, data(5)),
            ] {
                let frame = pseudowire(mac, ethertype, &packet);
                assert_eq!(
                    hash(&stack(&labels, &frame)),
                    base,
                    "{mac:02x?} {ethertype:#06x}, {length} bytes"
                );
            }
        }
    }
}

#[test]
fn a_header_that_is_not_right_is_no_ip() {
    let labels = [100];
    let other = |packet: &[u8]| hash(&stack(&labels, packet));
    let none = other(b"\0pw");
    let packet = v4(1, UDP, 0, [1, 2, 3, 4]);
    for at in 0..24 {
        let mut wrong = packet.clone();
        wrong[at] ^= 1;
        assert_eq!(other(&wrong), none, "byte {at}");
    }
    assert_eq!(other(&packet[..31]), none, "longer than the frame");
    assert_eq!(other(&v6(1, UDP, [1, 2, 3, 4])[..47]), none, "longer than the frame");
}

/// Padding, a kept checksum and a switch's trailer are not part of the flow.
#[test]
fn what_follows_a_packet_does_not_count() {
    let without_ports = |mut packet: Vec<u8>| {
        let ip4 = packet[0] >> 4 == 4;
        packet.truncate(if ip4 { 24 } else { 40 });
        let length = if ip4 { 2 } else { 4 };
        packet[length + 1] = if ip4 { 24 } else { 0 };
        if ip4 {
            packet[10..12].fill(0);
            right_checksum(&mut packet);
        }
        packet
    };
    for packet in [v4(1, UDP, 0, [1, 2, 3, 4]), v6(1, UDP, [1, 2, 3, 4])] {
        let of = |packet: &[u8], trailer: &[u8]| hash(&stack(&[100], &[packet, trailer].concat()));
        assert_eq!(of(&packet, &[]), of(&packet, &[0xee; 97]));
        let bare = without_ports(packet);
        assert_eq!(of(&bare, &[]), of(&bare, &[0xee; 97]));
        assert_eq!(of(&bare, &[1; 4]), of(&bare, &[2; 4]), "no ports behind the packet");
    }
}

#[test]
fn what_is_cut_off_does_not_count() {
    let whole = stack(&[100, 7000], &v6(1, UDP, [1, 2, 3, 4]));
    for length in 0..whole.len() {
        // Never past the end: that would panic.
        hash(&whole[..length]);
    }
    assert_eq!(hash(&whole[..7]), hash(&stack(&[100], &[])));
    // Deeper than any stack that is forwarded.
    hash(&stack(&[100; 100], &[]));
}

/// Counts of flows by bucket.
fn spread(hashes: impl Iterator<Item = u32>) -> Vec<usize> {
    let mut buckets = vec![0; BUCKETS];
    for hash in hashes {
        buckets[(hash >> 24) as usize] += 1;
    }
    buckets
}

/// Chi-squared of an even spread: about 255, with a standard deviation of 23. A value six of those too high is not
/// chance, and the inputs are always the same.
fn assert_even(what: &str, buckets: &[usize]) {
    let expected = buckets.iter().sum::<usize>() as f64 / BUCKETS as f64;
    let chi_squared: f64 = buckets
        .iter()
        .map(|&count| (count as f64 - expected).powi(2) / expected)
        .sum();
    assert!(chi_squared < 255.0 + 6.0 * 23.0, "{what}: chi-squared {chi_squared}");
}

#[test]
fn flows_that_differ_little_are_spread_evenly() {
    const FLOWS: u32 = 1 << 16;
    let ports = (0..FLOWS).map(|flow| {
        let [_, _, a, b] = flow.to_be_bytes();
        hash(&stack(&[100], &v4(1, TCP, 0, [a, b, 0, 80])))
    });
    assert_even("source ports", &spread(ports));
    let labels = (0..FLOWS).map(|flow| hash(&stack(&[16 + flow], b"\0pw")));
    assert_even("labels", &spread(labels));
    let entropy = (0..FLOWS).map(|flow| hash(&stack(&[100, 7, 16 + flow], &[])));
    assert_even("entropy labels", &spread(entropy));
    let pairs = (0..FLOWS).map(|flow| {
        let [_, _, a, b] = flow.to_be_bytes();
        hash(&stack(&[100], &v6(a, UDP, [0, b, 0, 53])))
    });
    assert_even("address and port", &spread(pairs));
}

#[test]
fn routers_in_a_row_spread_what_one_bucket_got() {
    let flow = |flow: u32| {
        let [_, a, b, c] = flow.to_be_bytes();
        MemoryFrame::new(&stack(&[100], &v4(a, UDP, 0, [b, c, 0, 53])))
    };
    let first_half = (0..1 << 17).map(flow).filter(|frame| flow_hash(frame, 0, 1) >> 31 == 0);
    let of_second: Vec<u32> = first_half.map(|frame| flow_hash(&frame, 0, 2)).collect();
    assert_even("another seed", &spread(of_second.iter().copied()));
    assert!(of_second.iter().collect::<HashSet<_>>().len() > of_second.len() * 99 / 100);
}

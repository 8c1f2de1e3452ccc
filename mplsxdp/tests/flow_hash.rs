//! The flow hash: what counts for it and what does not, and that it spreads flows evenly over buckets.

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

/// Labels, the last of which has the S bit, over a payload.
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
    // An option, so that the ports are not where they are without.
    packet.extend([1, 1, 1, 1]);
    packet.extend(ports);
    packet.extend([0; 4]);
    packet
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
    // TTL and TC are not the flow's.
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
    // Label 14 indicates nothing.
    assert_ne!(hash(&stack(&[100, 14, 500], &[])), hash(&stack(&[101, 14, 500], &[])));
    // An indicator at the bottom of the stack, or of the frame, has no label behind it.
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
        // Unlabelled, the same counts.
        let ip = |packet: &[u8]| ip_flow_hash(&MemoryFrame::new(packet), 0, SEED);
        assert_ne!(ip(&packet), ip(&no_ports[0]));
        // TTL, TOS and what follows the ports do not.
        let mut changed = packet.clone();
        *changed.last_mut().unwrap() ^= 0xff;
        let ttl = if packet[0] >> 4 == 4 { 8 } else { 7 };
        changed[ttl] ^= 0xff;
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

/// Chi-squared of an even spread: about 255, with a standard deviation of 23. One that is six of those too high is no chance,
/// and the inputs are always the same.
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

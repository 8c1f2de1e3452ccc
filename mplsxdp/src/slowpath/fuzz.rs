//! Properties of the slow path that must hold for any input. `fuzz/` calls these functions with inputs that a fuzzer
//! makes, the tests with random ones; they panic if a property does not hold.

use std::collections::HashSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use mplsxdp_common::abi::{Adjacency, Op, Settings, TtlMode};
use mplsxdp_common::forward::MAX_STACK_DEPTH;
use mplsxdp_common::wire::{ETH_HLEN, IPV6_HLEN, LSE_LEN, Mac};

use super::fixture::{
    EGRESS, INGRESS, MTU, MemoryWorld, NARROW, NEIGHBOUR, OWN_V4, OWN_V6, UNRESOLVED, entry, label, port_mac,
    reassembled,
};
use super::icmp::{self, Addresses, Error, Message, QUOTED};
use super::oam::message::{Header, REPLY, Tlv};
use super::oam::udp::Datagram;
use super::outcome::Outcome;
use super::packet::{Parts, is_labelled};
use super::{Action, Emit, IcmpVia, Options, Rate, Received, SlowPath};
use crate::dataplane::Tables as _;

/// Checks these properties. `data` says how the router is set up, and which frames arrive: for each, two bytes of
/// length, one byte of flags, and its bytes. The destination MAC and the IPv4 checksum are corrected.
pub fn slow_path(data: &[u8]) {
    let Some((&setup, mut rest)) = data.split_first() else {
        return;
    };
    let mut world = router();
    let ttl_mode = [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux, TtlMode::Uniform][usize::from(setup & 3)];
    world.settings = Settings::new(0, ttl_mode, 255, setup & 4 != 0, false);
    if setup & 8 != 0 {
        world.routes = vec![
            "0.0.0.0/1".parse().expect("a prefix"),
            "2000::/3".parse().expect("a prefix"),
        ];
    }
    let options = Options {
        icmp_via: [IcmpVia::Auto, IcmpVia::Auto, IcmpVia::Lsp, IcmpVia::Ip][usize::from(setup >> 4 & 3)],
        icmp_rate: Rate::UNLIMITED,
        icmp_source_rate: Rate::UNLIMITED,
        hold_frames: 4,
    };
    let mut run = Run {
        slow_path: SlowPath::new(options),
        received: 0,
        seen: HashSet::new(),
        fails: setup & 0x80 != 0,
    };
    let mut now = Instant::now();
    while let Some((&[high, low, special], bytes)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high & 0x3f, low])).min(bytes.len());
        let (bytes, others) = bytes.split_at(length);
        rest = others;
        let mut frame = bytes.to_vec();
        if special & 0x80 == 0
            && let Some(destination) = frame.first_chunk_mut()
        {
            *destination = port_mac(INGRESS).0;
        }
        right_ipv4_checksum(&mut frame);
        let trimmed = if special & 0x40 == 0 {
            0
        } else {
            usize::from(special & 0x3f) * 100
        };
        now += Duration::from_millis(u64::from(special & 0x3f) * 20);
        run.receive(&frame, trimmed, &world, now);
    }
    if setup & 0x40 != 0 {
        world.resolve();
        run.act(|slow_path, emit| slow_path.retry_held(&world, now, emit));
    }
    if let Some(deadline) = run.slow_path.next_deadline() {
        now = now.max(deadline) + Duration::from_secs(4);
        run.act(|slow_path, emit| slow_path.poll(&world, now, emit));
    }
    assert_eq!(run.slow_path.held(), 0, "nothing is held for ever");
    run.check_counts();
}

/// The router of the tests with, in addition, several next hops for label 700 and 10.7.7.0/24, and backups:
///
/// | in | out |
/// |---|---|
/// | 700, 10.7.7.0/24 | as 710; as 200/110; as 720, narrow; as 730, unresolved; in turns |
/// | 800 | as 810, unresolved, with a backup |
/// | 801 | as 811, unresolved, with a backup that is unresolved, too |
/// | 802 | as 812, unresolved, with a backup that has labels of its own, 200/110 |
/// | 803 | as 813, unresolved, with a backup that pops and is unresolved, too |
fn router() -> MemoryWorld {
    const WITH_BACKUP: u16 = 10;
    const WITH_LOST_BACKUP: u16 = 11;
    let mut world = MemoryWorld::router();
    for (index, backup) in [(WITH_BACKUP, NEIGHBOUR), (WITH_LOST_BACKUP, UNRESOLVED)] {
        let unresolved = Adjacency::new(Mac::ZERO, EGRESS, port_mac(EGRESS), MTU);
        world
            .tables
            .store_adjacency(index, unresolved.with_backup(Some(backup)));
    }
    let members = [
        entry(Op::Label, 710, NEIGHBOUR),
        entry(Op::Stack, 0, NEIGHBOUR),
        entry(Op::Label, 720, NARROW),
        entry(Op::Label, 730, UNRESOLVED),
    ];
    for (bucket, &member) in (0..=u8::MAX).zip(members.iter().cycle()) {
        world.tables.store_bucket(0, bucket, member);
    }
    let routes = [
        (700, entry(Op::Group, 0, 0)),
        (800, entry(Op::Label, 810, WITH_BACKUP)),
        (801, entry(Op::Label, 811, WITH_LOST_BACKUP)),
        (802, entry(Op::Protected, 0, 0)),
        (803, entry(Op::Protected, 1, 0)),
    ];
    let pairs = [
        [entry(Op::Label, 812, UNRESOLVED), entry(Op::Stack, 0, NEIGHBOUR)],
        [
            entry(Op::Label, 813, UNRESOLVED),
            entry(Op::PenultimatePop, 0, WITH_LOST_BACKUP),
        ],
    ];
    for (index, pair) in (0..).zip(pairs) {
        world.tables.store_pair(index, pair);
    }
    for (incoming, route) in routes {
        world.tables.store_ilm(label(incoming), route);
    }
    world.add_ftn("10.7.7.0/24", entry(Op::Group, 0, 0));
    world
}

/// An input that contains this frame.
pub fn slow_path_seed(frame: &[u8]) -> Vec<u8> {
    let length = u16::try_from(frame.len().min(0x3fff)).unwrap_or_default();
    [&[0][..], &length.to_be_bytes(), &[0], frame].concat()
}

/// Corrects the checksum, which no fuzzer would find.
fn right_ipv4_checksum(frame: &mut [u8]) {
    let Some(payload_len) = Parts::of(frame).map(|parts| parts.payload.len()) else {
        return;
    };
    let (_, packet) = frame.split_at_mut(frame.len() - payload_len);
    if let [first, ..] = *packet
        && first >> 4 == 4
        && let Some(header) = packet.get_mut(..usize::from(first & 0xf) * 4)
        && let Some((_, [high, low, ..])) = header.split_at_mut_checked(10)
    {
        (*high, *low) = (0, 0);
        let right = icmp::checksum(0, header).to_be_bytes();
        header[10..12].copy_from_slice(&right);
    }
}

/// A slow path, and the record needed to check its actions.
struct Run {
    slow_path: SlowPath,
    received: u64,
    /// The packets in the frames that came in.
    seen: HashSet<Vec<u8>>,
    /// All actions fail.
    fails: bool,
}

impl Run {
    fn receive(&mut self, frame: &[u8], trimmed: usize, world: &MemoryWorld, now: Instant) {
        self.received += 1;
        if let Some(parts) = Parts::of(frame) {
            self.seen.insert(parts.payload.to_vec());
        }
        let received = Received {
            port: INGRESS,
            frame,
            trimmed,
        };
        self.act(|slow_path, emit| slow_path.receive(received, world, now, emit));
        self.check_counts();
    }

    /// Runs `step` and checks its actions: each frame that is counted as answered or passed on leaves once, and each
    /// answer is as it should be.
    fn act(&mut self, step: impl FnOnce(&mut SlowPath, &mut Emit<'_>)) {
        let before = *self.slow_path.counters();
        let mut sent = Vec::new();
        let fails = self.fails;
        step(&mut self.slow_path, &mut |action| {
            let packet = match action {
                Action::Transmit { port, frame } => {
                    assert_eq!(port, EGRESS);
                    assert!(
                        frame.len() <= ETH_HLEN + usize::from(MTU),
                        "{} bytes are too many",
                        frame.len()
                    );
                    Parts::of(frame).expect("a frame with a whole stack").payload
                }
                Action::Deliver { port, frame } => {
                    assert_eq!(port, INGRESS);
                    assert!(!is_labelled(frame), "the kernel's without labels");
                    &frame[ETH_HLEN..]
                }
                Action::SendByIp { packet, .. } => packet,
                Action::Resolve { .. } | Action::Report(_) | Action::Handled(..) => return !fails,
            };
            if !fails {
                sent.push(packet.to_vec());
            }
            !fails
        });
        let after = self.slow_path.counters();
        let rise = |outcomes: &[Outcome]| -> u64 {
            let rises = outcomes.iter().map(|&outcome| after.get(outcome) - before.get(outcome));
            rises.sum()
        };
        let replied = rise(&[Outcome::LspPingAnswered]);
        let answered = replied + rise(&[Outcome::TimeExceeded, Outcome::HostUnreachable, Outcome::TooBigAnswered]);
        let passed_on = rise(&[
            Outcome::Forwarded,
            Outcome::Released,
            Outcome::Delivered,
            Outcome::TrailerCut,
        ]);
        let fragmented = rise(&[Outcome::Fragmented]);
        match (fragmented, answered + passed_on) {
            (0, others) => assert_eq!(sent.len() as u64, others),
            (1, 0) => {
                self.check_fragments(&sent);
                return;
            }
            (fragmented, others) => assert!(sent.len() as u64 >= fragmented * 2 + others),
        }
        if replied > 0 {
            sent.iter().for_each(|packet| check_reply(packet));
        } else if passed_on + fragmented == 0 {
            for packet in sent {
                self.check_answer(&packet);
            }
        }
    }

    /// Checks that the fragments together are a packet that came in, apart from its DS field and TTL, and that it may
    /// be fragmented.
    fn check_fragments(&self, fragments: &[Vec<u8>]) {
        assert!(fragments.len() > 1);
        let packet = reassembled(fragments).expect("fragments that fit together");
        assert_eq!(packet[6] & 0x40, 0, "a packet that forbids it was fragmented");
        let is_same = |seen: &&Vec<u8>| {
            let Some(seen) = seen.get(..packet.len()) else {
                return false;
            };
            let same = |range: Range<usize>| seen[range.clone()] == packet[range];
            same(0..1) && same(2..8) && same(9..10) && same(12..packet.len())
        };
        assert!(self.seen.iter().any(|seen| is_same(&seen)), "a packet that came in");
    }

    /// Checks that an answer goes to the source of a packet that came in and quotes it, and that the packet was not an
    /// ICMP error.
    fn check_answer(&self, packet: &[u8]) {
        let parsed = icmp::parse::parse(packet).expect("a right ICMP error");
        assert_eq!(parsed.ttl, icmp::TTL);
        let quoted = parsed.message.quoted;
        let quotes = |packet: &&Vec<u8>| {
            let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
            let total = match packet[..] {
                [_, _, high, low, ..] if is_v4 => usize::from(u16::from_be_bytes([high, low])),
                [_, _, _, _, high, low, ..] => IPV6_HLEN + usize::from(u16::from_be_bytes([high, low])),
                _ => 0,
            };
            let length = total.min(packet.len()).min(quoted.len());
            packet[..length] == quoted[..length] && quoted[length..].iter().all(|&byte| byte == 0)
        };
        let packet = self.seen.iter().find(quotes).expect("a packet that came in is quoted");
        if let Error::PacketTooBig { mtu } = parsed.message.error {
            let least = if packet[0] >> 4 == 6 { 1280 } else { 0 };
            assert!((least..=MTU.into()).contains(&mtu), "MTU {mtu}");
        }
        match parsed.message.addresses {
            Addresses::V4 { source, destination } => {
                assert_eq!((source, &destination.octets()[..]), (OWN_V4, &packet[12..16]));
                let kind = packet.get(usize::from(packet[0] & 0xf) * 4);
                assert!(packet[9] != icmp::IPPROTO_ICMP || !matches!(kind, None | Some(3 | 4 | 5 | 11 | 12)));
            }
            Addresses::V6 { source, destination } => {
                assert_eq!((source, &destination.octets()[..]), (OWN_V6, &packet[8..24]));
                assert!(packet[6] != icmp::IPPROTO_ICMPV6 || packet[IPV6_HLEN] >= 128);
            }
        }
    }

    /// Checks that each frame has one outcome.
    fn check_counts(&self) {
        let besides = [Outcome::RouterAlert, Outcome::Held, Outcome::HoldExpired];
        let outcomes = Outcome::ALL.iter().filter(|outcome| !besides.contains(outcome));
        let sum: u64 = outcomes.map(|&outcome| self.slow_path.counters().get(outcome)).sum();
        assert_eq!(sum + self.slow_path.held() as u64, self.received);
    }
}

/// Checks that this is an MPLS echo reply that can be read.
fn check_reply(packet: &[u8]) {
    let datagram = Datagram::read(packet).expect("a right datagram");
    assert!(datagram.source.ip() == OWN_V4 || datagram.source.ip() == OWN_V6);
    let (header, tlvs) = Header::read(datagram.payload).expect("a header");
    assert_eq!(header.kind, REPLY);
    Tlv::read_all(tlvs).expect("right TLVs");
}

/// A message that can be parsed can be built again, and a message built from any packet and any stack can be parsed.
pub fn icmp_codec(data: &[u8]) {
    let mut packet = Vec::new();
    if let Ok(icmp::parse::Parsed { message, .. }) = icmp::parse::parse(data) {
        check_written(message, usize::MAX, &mut packet);
    }
    let Some((&[what, depth], data)) = data.split_first_chunk() else {
        return;
    };
    let (stack, quoted) = data.split_at(data.len().min(usize::from(depth) * LSE_LEN) / LSE_LEN * LSE_LEN);
    let addresses = if what & 4 == 0 {
        Addresses::V4 {
            source: OWN_V4,
            destination: [192, 0, 2, what].into(),
        }
    } else {
        Addresses::V6 {
            source: OWN_V6,
            destination: OWN_V6,
        }
    };
    let error = match what & 3 {
        0 | 1 => Error::TimeExceeded,
        2 => Error::HostUnreachable,
        _ => Error::PacketTooBig { mtu: what.into() },
    };
    let message = Message {
        error,
        addresses,
        quoted,
        stack,
    };
    let quote = if what & 8 == 0 { usize::MAX } else { QUOTED };
    check_written(message, quote, &mut packet);
}

/// Writes `message`, parses it and compares.
fn check_written(message: Message<'_>, quote: usize, packet: &mut Vec<u8>) {
    message.write(7, quote, packet);
    let written = icmp::parse::parse(packet)
        .expect("what was written can be read")
        .message;
    assert_eq!((written.error, written.addresses), (message.error, message.addresses));
    let (longest, has_stack) = match message.addresses {
        Addresses::V4 { .. } => (576, !message.stack.is_empty()),
        Addresses::V6 { .. } => {
            let has_room = !matches!(message.error, Error::PacketTooBig { .. });
            (1280, has_room && !message.stack.is_empty())
        }
    };
    assert!(packet.len() <= longest);
    let shown = message.stack.len().min(MAX_STACK_DEPTH * LSE_LEN);
    assert_eq!(written.stack, if has_stack { &message.stack[..shown] } else { &[] });
    let same = message.quoted.len().min(written.quoted.len()).min(quote);
    assert_eq!(written.quoted[..same], message.quoted[..same]);
    assert!(written.quoted[same..].iter().all(|&byte| byte == 0));
    if has_stack {
        assert_eq!(written.quoted.len(), QUOTED);
    }
}

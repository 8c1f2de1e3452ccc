//! The slow path with a router in memory: whole frames in, actions out, byte by byte.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use etherparse::{IpNumber, PacketBuilder};
use mplsxdp_common::abi::{Adjacency, Domain, LabelStack, Op, PortWord, RouteEntry, Settings, TtlMode, TtlPropagate};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6, Label, Mac};
use proptest::prelude::*;

use super::fixture::*;
use super::icmp::{Addresses, IPPROTO_ICMP, Message};
use super::packet::{Parts, entries};
use super::*;
use crate::dataplane::Tables as _;

mod lsp_ping;

const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const HOST_V6: &str = "2001:db8::2";
/// Within the FTN of the fixture.
const FTN_HOST: Ipv4Addr = Ipv4Addr::new(10, 4, 4, 7);

/// An action, with a copy of its contents.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Taken {
    Transmit(u16, Vec<u8>),
    SendByIp(Vec<u8>),
    Deliver(u16, Vec<u8>),
    Resolve(u16),
    Report(unknown::Report),
    Handled(u16, Vec<u8>, Handled),
}

struct Router {
    world: MemoryWorld,
    slow_path: SlowPath,
    now: Instant,
    /// Actions that fail and are not recorded.
    fails: fn(&Action<'_>) -> bool,
}

impl Default for Router {
    fn default() -> Self {
        Self::with(Options::default())
    }
}

impl Router {
    fn with(options: Options) -> Self {
        Self {
            world: MemoryWorld::router(),
            slow_path: SlowPath::new(options),
            now: Instant::now(),
            fails: |_| false,
        }
    }

    /// Makes these actions fail.
    fn failing(mut self, fails: fn(&Action<'_>) -> bool) -> Self {
        self.fails = fails;
        self
    }

    fn via(icmp_via: IcmpVia) -> Self {
        Self::with(Options {
            icmp_via,
            ..Options::default()
        })
    }

    /// The kernel has routes to all hosts here.
    fn routed(mut self) -> Self {
        self.world.routes = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        self
    }

    fn mode(mut self, mode: TtlMode) -> Self {
        self.world.settings = Settings::new(0, mode, 255, false, false);
        self
    }

    fn step(&mut self, step: impl FnOnce(&mut SlowPath, &MemoryWorld, Instant, &mut Emit<'_>)) -> Vec<Taken> {
        let mut taken = Vec::new();
        let fails = self.fails;
        step(&mut self.slow_path, &self.world, self.now, &mut |action| {
            if fails(&action) {
                return false;
            }
            taken.push(match action {
                Action::Transmit { port, frame } => Taken::Transmit(port, frame.to_vec()),
                Action::SendByIp { packet, .. } => Taken::SendByIp(packet.to_vec()),
                Action::Deliver { port, frame } => Taken::Deliver(port, frame.to_vec()),
                Action::Resolve { adjacency } => Taken::Resolve(adjacency),
                Action::Report(report) => Taken::Report(report),
                Action::Handled(received, handled) => Taken::Handled(received.port, received.frame.to_vec(), handled),
            });
            true
        });
        taken
    }

    fn receive(&mut self, frame: &[u8]) -> Vec<Taken> {
        self.receive_trimmed(frame, 0)
    }

    fn receive_trimmed(&mut self, frame: &[u8], trimmed: usize) -> Vec<Taken> {
        let received = Received {
            port: INGRESS,
            frame,
            trimmed,
        };
        self.step(|slow_path, world, now, emit| slow_path.receive(received, world, now, emit))
    }

    fn poll(&mut self) -> Vec<Taken> {
        self.step(|slow_path, world, now, emit| slow_path.poll(world, now, emit))
    }

    fn retry(&mut self) -> Vec<Taken> {
        self.step(|slow_path, world, now, emit| slow_path.retry_held(world, now, emit))
    }

    fn retry_all(&mut self) -> Vec<Taken> {
        self.step(|slow_path, world, now, emit| slow_path.retry_all_held(world, now, emit))
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.slow_path.counters().get(outcome)
    }

    /// Checks that the single frame so far, `frame`, had `outcome` and nothing was done.
    fn check_dropped(&mut self, frame: &[u8], outcome: Outcome) {
        assert_eq!(self.receive(frame), []);
        assert_eq!(self.count(outcome), 1, "{}", outcome.name());
    }
}

fn udp_v4(source: Ipv4Addr, ttl: u8, length: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(source.octets(), [10, 9, 9, 9], ttl).udp(4000, 33434);
    let mut packet = Vec::new();
    builder.write(&mut packet, &vec![0x5a; length]).unwrap();
    packet
}

fn udp_v6(source: &str, ttl: u8, length: usize) -> Vec<u8> {
    let source: std::net::Ipv6Addr = source.parse().unwrap();
    let destination: std::net::Ipv6Addr = "2001:db8:9::9".parse().unwrap();
    let builder = PacketBuilder::ipv6(source.octets(), destination.octets(), ttl).udp(4000, 33434);
    let mut packet = Vec::new();
    builder.write(&mut packet, &vec![0x5a; length]).unwrap();
    packet
}

/// Checks the contents of an answer, and its destination.
fn check_answer(packet: &[u8], error: Error, quoted: &[u8], stack: &[(u32, u8)]) {
    let parsed = icmp::parse::parse(packet).unwrap();
    assert_eq!(parsed.ttl, 64);
    let Message {
        error: found,
        addresses,
        quoted: copy,
        stack: shown,
    } = parsed.message;
    assert_eq!((found, shown), (error, &lses(stack)[..]));
    let same = quoted.len().min(copy.len());
    assert_eq!(copy[..same], quoted[..same]);
    assert!(copy[same..].iter().all(|&byte| byte == 0));
    let source: IpAddr = match addresses {
        Addresses::V4 { source, destination } => {
            assert_eq!(destination.octets(), quoted[12..16]);
            source.into()
        }
        Addresses::V6 { source, destination } => {
            assert_eq!(destination.octets(), quoted[8..24]);
            source.into()
        }
    };
    assert!(source == IpAddr::V4(OWN_V4) || source == IpAddr::V6(OWN_V6));
}

/// The one frame that was sent: its labels with TTL and TC, and its payload. The Ethernet header is checked.
fn transmitted(taken: &[Taken], ethertype: u16) -> (Vec<(u32, u8, u8)>, Vec<u8>) {
    let [Taken::Transmit(port, frame)] = taken else {
        panic!("not one frame: {taken:?}");
    };
    assert_eq!(*port, EGRESS);
    let header = [&NEIGHBOUR_MAC.0, &port_mac(EGRESS).0, &ethertype.to_be_bytes()[..]].concat();
    assert_eq!(frame[..ETH_HLEN], header);
    let parts = Parts::of(frame).unwrap();
    let stack = entries(parts.stack).map(|lse| (lse.label().get(), lse.ttl(), lse.tc()));
    (stack.collect(), parts.payload.to_vec())
}

fn labelled_frame(taken: &[Taken]) -> (Vec<(u32, u8, u8)>, Vec<u8>) {
    transmitted(taken, 0x8847)
}

#[test]
fn time_exceeded_goes_along_the_lsp_under_the_stack_that_the_packet_would_have_left_with() {
    for packet in [udp_v4(HOST_V4, 7, 20), udp_v6(HOST_V6, 7, 20)] {
        for mode in [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux] {
            let cases = [
                (&[(122, 1)][..], &[22][..]),
                (&[(122, 0)], &[22]),
                (&[(100, 1), (146, 63)], &[110, 146]),
                (&[(100, 1), (146, 1), (147, 0)], &[110, 146, 147]),
                (&[(300, 1)], &[200, 110]),
                (&[(17, 1), (146, 63)], &[146]),
                (&[(120, 64), (100, 1)], &[110]),
            ];
            for (received, leaving) in cases {
                // In the other modes the inner TTL counts, which in uniform mode is the outer one copied down.
                if received[0].0 == 120 && mode == TtlMode::Uniform {
                    continue;
                }
                let mut router = Router::default().mode(mode);
                let taken = router.receive(&labelled(received, &packet));
                let (stack, answer) = labelled_frame(&taken);
                let expected = Vec::from_iter(leaving.iter().map(|&label| (label, 64, 6)));
                assert_eq!(stack, expected, "{received:?} {mode:?}");
                check_answer(&answer, Error::TimeExceeded, &packet, received);
                assert_eq!(router.count(Outcome::TimeExceeded), 1);
            }
        }
    }
}

#[test]
fn an_answer_is_of_precedence_6_and_its_identification_counts() {
    let mut router = Router::default();
    let frame = labelled(&[(122, 1)], &udp_v4(HOST_V4, 7, 20));
    for identification in 1..=3 {
        let (_, answer) = labelled_frame(&router.receive(&frame));
        assert_eq!((answer[1], answer[6..8].to_vec()), (0xc0, vec![0, 0]));
        assert_eq!(answer[4..6], [0, identification]);
    }
    let (_, answer) = labelled_frame(&router.receive(&labelled(&[(122, 1)], &udp_v6(HOST_V6, 7, 20))));
    assert_eq!(answer[..4], [0x6c, 0, 0, 0]);
}

#[test]
fn where_the_next_hop_is_unlabelled_the_answer_goes_to_it_as_plain_ip() {
    for (packet, ethertype) in [(udp_v4(HOST_V4, 7, 20), ETH_P_IP), (udp_v6(HOST_V6, 7, 20), ETH_P_IPV6)] {
        for label in [17, 210] {
            for mode in [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux] {
                let mut router = Router::default().mode(mode);
                let (stack, answer) = transmitted(&router.receive(&labelled(&[(label, 1)], &packet)), ethertype);
                assert_eq!(stack, []);
                check_answer(&answer, Error::TimeExceeded, &packet, &[(label, 1)]);
            }
        }
    }
}

#[test]
fn a_pipe_that_ends_here_lets_the_ip_ttl_expire() {
    let packet = udp_v4(HOST_V4, 1, 20);
    let mut router = Router::default().mode(TtlMode::Pipe);
    let (_, answer) = transmitted(&router.receive(&labelled(&[(210, 64)], &packet)), ETH_P_IP);
    check_answer(&answer, Error::TimeExceeded, &packet, &[(210, 64)]);
}

#[test]
fn where_the_lsp_ends_here_the_answer_goes_by_ip() {
    for (packet, null) in [(udp_v4(HOST_V4, 7, 20), 0), (udp_v6(HOST_V6, 7, 20), 2)] {
        for via in [IcmpVia::Auto, IcmpVia::Lsp, IcmpVia::Ip] {
            for stack in [&[(120, 1)][..], &[(null, 1)], &[(null, 64), (120, 1)]] {
                let mut router = Router::via(via).mode(TtlMode::Linux);
                let taken = router.receive(&labelled(stack, &packet));
                let [Taken::SendByIp(answer)] = &taken[..] else {
                    panic!("{taken:?}");
                };
                check_answer(answer, Error::TimeExceeded, &packet, stack);
            }
        }
    }
}

#[test]
fn auto_goes_by_ip_where_one_label_came_and_the_source_is_known() {
    let packet = udp_v4(HOST_V4, 7, 20);
    let (one, two) = (
        labelled(&[(122, 1)], &packet),
        labelled(&[(122, 1), (146, 63)], &packet),
    );
    for (via, routed, frame, by_ip) in [
        (IcmpVia::Auto, false, &one, false),
        (IcmpVia::Auto, true, &one, true),
        (IcmpVia::Auto, true, &two, false),
        (IcmpVia::Lsp, true, &one, false),
        (IcmpVia::Ip, false, &one, true),
        (IcmpVia::Ip, false, &two, true),
    ] {
        let router = Router::via(via);
        let mut router = if routed { router.routed() } else { router };
        let taken = router.receive(frame);
        assert_eq!(
            matches!(taken[..], [Taken::SendByIp(_)]),
            by_ip,
            "{via:?}, routed: {routed}, {taken:?}"
        );
    }
}

#[test]
fn by_ip_means_by_the_ftn_first_as_this_routers_own_packet() {
    for (packet, mode, ttl) in [
        (udp_v4(FTN_HOST, 7, 20), TtlMode::Uniform, 64),
        (udp_v6("2001:db8:4::7", 7, 20), TtlMode::Linux, 64),
        (udp_v4(FTN_HOST, 7, 20), TtlMode::Pipe, 255),
    ] {
        let mut router = Router::default().mode(mode);
        let (stack, answer) = labelled_frame(&router.receive(&labelled(&[(122, 1)], &packet)));
        assert_eq!(stack, [(1000, ttl, 6)]);
        check_answer(&answer, Error::TimeExceeded, &packet, &[(122, 1)]);
    }
}

#[test]
fn a_pass_entry_is_no_way_to_the_source() {
    let mut router = Router::default();
    router.world.add_ftn("10.4.4.7/32", RouteEntry::PASS);
    let (stack, _) = labelled_frame(&router.receive(&labelled(&[(122, 1)], &udp_v4(FTN_HOST, 7, 20))));
    assert_eq!(stack, [(22, 64, 6)]);
}

/// The VRF of the port where the packet arrived decides whether the source is known, and how the answer gets there.
#[test]
fn an_answer_is_looked_up_in_the_domain_of_the_port() {
    let vrf = Domain(3);
    let mut router = Router::default();
    let word = PortWord::new(port_mac(INGRESS), PortWord::MPLS | PortWord::IMPOSE);
    router.world.tables.store_port(INGRESS, word.with_domain(vrf));
    let packet = udp_v4(FTN_HOST, 7, 20);
    let stack = |router: &mut Router| labelled_frame(&router.receive(&labelled(&[(122, 1)], &packet))).0;
    assert_eq!(stack(&mut router), [(22, 64, 6)]);
    router
        .world
        .add_ftn_in(vrf, "10.4.0.0/16", entry(Op::Label, 1003, NEIGHBOUR));
    assert_eq!(stack(&mut router), [(1003, 64, 6)]);
    router.world.add_ftn("10.4.4.7/32", RouteEntry::PASS);
    assert_eq!(stack(&mut router), [(1003, 64, 6)]);
    router.world.add_ftn_in(vrf, "10.4.4.7/32", RouteEntry::PASS);
    assert_eq!(stack(&mut router), [(22, 64, 6)]);
}

#[test]
fn imposition_on_an_expired_ttl_is_answered_by_ip_without_an_extension() {
    for via in [IcmpVia::Auto, IcmpVia::Lsp, IcmpVia::Ip] {
        for ttl in [0, 1] {
            let mut packet = udp_v4(HOST_V4, ttl, 20);
            packet[16..20].copy_from_slice(&FTN_HOST.octets());
            righted(&mut packet);
            let mut router = Router::via(via);
            let taken = router.receive(&ethernet(ETH_P_IP, &packet));
            let [Taken::SendByIp(answer)] = &taken[..] else {
                panic!("{taken:?}");
            };
            check_answer(answer, Error::TimeExceeded, &packet, &[]);
            assert_eq!(answer.len(), 28 + packet.len());
        }
    }
}

/// Makes the IPv4 checksum right.
fn righted(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let right = icmp::checksum(0, &packet[..20]);
    packet[10..12].copy_from_slice(&right.to_be_bytes());
}

#[test]
fn the_quoted_packet_is_as_received_and_128_bytes_long_before_labels() {
    for (packet, headers) in [(udp_v4(HOST_V4, 7, 1400), 28), (udp_v6(HOST_V6, 7, 1400), 48)] {
        let mut router = Router::default();
        let (_, answer) = labelled_frame(&router.receive(&labelled(&[(122, 1)], &packet)));
        check_answer(&answer, Error::TimeExceeded, &packet, &[(122, 1)]);
        assert_eq!(answer.len(), headers + 128 + 12);
    }
}

#[test]
fn an_answer_that_is_too_long_for_the_next_hop_quotes_less() {
    let packet = udp_v6(HOST_V6, 7, 300);
    let mut router = Router::default();
    let (stack, answer) = labelled_frame(&router.receive(&labelled(&[(600, 1)], &packet)));
    assert_eq!(stack, [(610, 64, 6)]);
    assert_eq!(answer.len(), 40 + 8 + 128 + 12);
    check_answer(&answer, Error::TimeExceeded, &packet, &[(600, 1)]);
}

#[test]
fn an_entropy_label_of_an_answer_is_no_route() {
    let packet = udp_v4(HOST_V4, 7, 20);
    let mut router = Router::default();
    let received = [(100, 1), (7, 255), (77777, 0)];
    let (stack, _) = labelled_frame(&router.receive(&labelled(&received, &packet)));
    assert_eq!(stack, [(110, 64, 6), (7, 64, 6), (77777, 0, 0)]);
}

#[test]
fn what_is_no_packet_to_answer_is_counted() {
    let mut broadcast = udp_v4(HOST_V4, 7, 20);
    broadcast[16..20].fill(255);
    righted(&mut broadcast);
    let mut wrong = udp_v4(HOST_V4, 7, 20);
    wrong[10] ^= 1;
    let mut icmp_error = udp_v4(HOST_V4, 7, 20);
    (icmp_error[9], icmp_error[20]) = (IPPROTO_ICMP, 11);
    righted(&mut icmp_error);
    for payload in [
        broadcast,
        wrong,
        icmp_error,
        udp_v4(Ipv4Addr::UNSPECIFIED, 7, 20),
        udp_v6("ff02::1", 7, 20),
        vec![0; 60],
        vec![],
    ] {
        Router::default().check_dropped(&labelled(&[(122, 1)], &payload), Outcome::NoAnswerDue);
    }
}

#[test]
fn the_broadcast_address_of_a_network_of_this_router_gets_no_answer() {
    let packet = udp_v4(OWN_BROADCAST, 1, 20);
    for frame in [labelled(&[(122, 1)], &packet), labelled(&[(500, 1)], &packet)] {
        Router::default().routed().check_dropped(&frame, Outcome::NoAnswerDue);
    }
    // There, it may be another machine's address.
    let taken = Router::default()
        .routed()
        .receive(&labelled(&[(122, 1), (18, 9)], &packet));
    assert!(matches!(taken[..], [Taken::Transmit(..)]), "{taken:?}");
}

#[test]
fn an_answer_is_never_answered() {
    for packet in [udp_v4(HOST_V4, 7, 20), udp_v6(HOST_V6, 7, 20)] {
        for frame in [labelled(&[(122, 1)], &packet), labelled(&[(500, 64)], &packet)] {
            let mut router = Router::via(IcmpVia::Ip);
            let mut taken = router.receive(&frame);
            router.now += Duration::from_secs(3);
            taken.extend(router.poll());
            let Some(Taken::SendByIp(answer)) = taken.last() else {
                panic!("{taken:?}");
            };
            Router::default().check_dropped(&labelled(&[(122, 1)], answer), Outcome::NoAnswerDue);
        }
    }
}

#[test]
fn frames_for_others_and_to_all_are_left_alone() {
    for destination in [Mac([0xff; 6]), Mac([1, 0, 0x5e, 0, 0, 1]), port_mac(EGRESS)] {
        let mut frame = labelled(&[(122, 1)], &udp_v4(HOST_V4, 7, 20));
        frame[..6].copy_from_slice(&destination.0);
        Router::default().check_dropped(&frame, Outcome::NotHandled);
    }
}

#[test]
fn without_an_address_or_a_way_there_is_no_answer() {
    let frame = labelled(&[(122, 1)], &udp_v4(HOST_V4, 7, 20));
    let mut router = Router::default();
    router.world.source_v4 = None;
    router.check_dropped(&frame, Outcome::NoSource);
    // The LSP's next hop is unresolved. Under one label the source may be known by IP; under more it may be another
    // network's.
    let frame = labelled(&[(500, 1)], &udp_v4(HOST_V4, 7, 20));
    let taken = Router::default().receive(&frame);
    assert!(matches!(taken[..], [Taken::SendByIp(_)]), "{taken:?}");
    Router::via(IcmpVia::Lsp).check_dropped(&frame, Outcome::NoWayBack);
    let frame = labelled(&[(500, 1), (17, 9)], &udp_v4(HOST_V4, 7, 20));
    Router::default().check_dropped(&frame, Outcome::NoWayBack);
    // A link that takes no frames.
    let mut router = Router::default();
    let tiny = Adjacency::new(NEIGHBOUR_MAC, EGRESS, port_mac(EGRESS), 100);
    router.world.tables.store_adjacency(NEIGHBOUR, tiny);
    router.check_dropped(&labelled(&[(122, 1)], &udp_v4(HOST_V4, 7, 20)), Outcome::NoWayBack);
}

#[test]
fn answers_are_limited_in_total_and_for_each_source() {
    let rate = |per_second, burst| Rate { per_second, burst };
    let options = Options {
        icmp_rate: rate(100, 10),
        icmp_source_rate: rate(10, 4),
        ..Options::default()
    };
    let mut router = Router::with(options);
    let frame = |last: u8| labelled(&[(122, 1)], &udp_v4(Ipv4Addr::new(10, 0, 0, last), 7, 20));
    let answered = |router: &mut Router, last: u8| (0..20).filter(|_| !router.receive(&frame(last)).is_empty()).count();
    assert_eq!([2, 3, 4, 5].map(|last| answered(&mut router, last)), [4, 4, 2, 0]);
    assert_eq!(
        (
            router.count(Outcome::TimeExceeded),
            router.count(Outcome::AnswerLimited)
        ),
        (10, 70)
    );
    router.now += Duration::from_millis(100);
    assert_eq!([2, 5].map(|last| answered(&mut router, last)), [1, 4]);
    // A packet that is not answered anyway takes no token.
    router.now += Duration::from_secs(1);
    for _ in 0..100 {
        router.receive(&labelled(&[(122, 1)], &udp_v6("::", 7, 20)));
    }
    assert_eq!(answered(&mut router, 2), 4);
}

#[test]
fn unknown_labels_are_counted_where_they_are_and_reported() {
    let payload = udp_v4(HOST_V4, 7, 20);
    let mut router = Router::default();
    let report = |label_value: u32, frames| unknown::Report {
        port: INGRESS,
        label: label(label_value),
        frames,
    };
    assert_eq!(
        router.receive(&labelled(&[(900, 64)], &payload)),
        [Taken::Report(report(900, 1))]
    );
    assert_eq!(
        router.receive(&labelled(&[(120, 64), (901, 64)], &payload)),
        [],
        "beneath one of this router"
    );
    assert_eq!(
        router.receive(&labelled(&[(900, 1)], &payload)),
        [],
        "no route counts before no TTL"
    );
    let list = router.slow_path.unknown_labels().list(router.now);
    let labels = Vec::from_iter(list.iter().map(|seen| (seen.port, seen.label.get(), seen.frames)));
    assert_eq!(labels, [(0, 900, 2), (0, 901, 1)]);
    assert_eq!(router.count(Outcome::UnknownLabel), 3);
    router.now += Duration::from_secs(10);
    assert_eq!(
        router.receive(&labelled(&[(902, 64)], &payload)),
        [Taken::Report(report(902, 3))]
    );
}

#[test]
fn a_frame_that_can_be_forwarded_now_is() {
    let packet = udp_v4(HOST_V4, 7, 20);
    let mut router = Router::default();
    let (stack, payload) = labelled_frame(&router.receive(&labelled(&[(100, 64)], &packet)));
    assert_eq!((stack, payload), (vec![(110, 63, 0)], packet));
    assert_eq!(router.count(Outcome::Forwarded), 1);
}

/// The frame's label had no route when it came up.
#[test]
fn a_frame_whose_route_is_to_pass_now_is_left_to_the_kernel_with_its_labels() {
    let packet = udp_v4(HOST_V4, 7, 20);
    for (stack, left) in [
        (&[(700, 64)][..], &[(700, 64)][..]),
        (&[(120, 64), (700, 1), (17, 3)], &[(120, 64), (700, 1), (17, 3)]),
        (&[(701, 64)], &[(701, 64)]),
        (&[(701, 64), (700, 64)], &[(701, 64), (700, 64)]),
        // The kernel does not know Router Alert.
        (&[(1, 64), (700, 64)], &[(700, 64)]),
    ] {
        let mut router = Router::default();
        for (incoming, op) in [(700, Op::Pass), (701, Op::LocalPass)] {
            let entry = RouteEntry::new(op, TtlPropagate::Default, 0, 0, 0);
            router.world.tables.store_ilm(Label::from_low_bits(incoming), entry);
        }
        let taken = router.receive(&labelled(stack, &packet));
        assert_eq!(taken, [Taken::Deliver(INGRESS, labelled(left, &packet))], "{stack:?}");
        assert_eq!(router.count(Outcome::Delivered), 1);
    }
}

#[test]
fn what_ends_at_this_router_now_is_delivered_and_what_is_the_kernels_is_left_to_it() {
    let packet = udp_v4(HOST_V4, 7, 20);
    let mut router = Router::default();
    let taken = router.receive(&labelled(&[(120, 64)], &packet));
    let mut popped = packet.clone();
    popped[8] = 63;
    righted(&mut popped);
    // As the port would have passed it to the kernel.
    assert_eq!(taken, [Taken::Deliver(INGRESS, ethernet(ETH_P_IP, &popped))]);
    assert_eq!(router.count(Outcome::Delivered), 1);
    Router::default().check_dropped(&ethernet(ETH_P_IP, &packet), Outcome::NotHandled);
    Router::default().check_dropped(&ethernet(0x0806, &packet), Outcome::NotHandled);
}

/// Each frame is reported as it arrived, once when it is held and once when that ends.
#[test]
fn those_who_watch_see_what_happens_to_each_frame() {
    let mut router = Router::default().routed();
    let expired = labelled(&[(100, 1)], &udp_v4(HOST_V4, 7, 20));
    let unknown = labelled(&[(999, 64)], &udp_v4(HOST_V4, 7, 20));
    let waits = labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, 20));
    let reported = |taken: Vec<Taken>| -> Vec<(Vec<u8>, Option<Reason>, Outcome)> {
        let reported = taken.into_iter().filter_map(|taken| match taken {
            Taken::Handled(INGRESS, frame, Handled { reason, outcome }) => Some((frame, reason, outcome)),
            _ => None,
        });
        reported.collect()
    };
    assert_eq!(reported(router.receive(&expired)), []);
    router.slow_path.watch(true);
    for (frame, reason, outcome) in [
        (&expired, Reason::TtlExpired, Outcome::TimeExceeded),
        (&unknown, Reason::NoRoute, Outcome::UnknownLabel),
        (&waits, Reason::Unresolved, Outcome::Held),
    ] {
        let expected = (frame.clone(), Some(reason), outcome);
        assert_eq!(reported(router.receive(frame)), [expected]);
        assert!(router.count(outcome) > 0);
    }
    router.now += Duration::from_secs(3);
    let expected = (waits, Some(Reason::Unresolved), Outcome::HostUnreachable);
    assert_eq!(reported(router.poll()), [expected]);
    router.slow_path.watch(false);
    assert_eq!(reported(router.receive(&expired)), []);
}

#[test]
fn frames_wait_for_the_next_hop_and_leave_in_order() {
    let mut router = Router::default();
    let frame = |length: usize| labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, length));
    assert_eq!(router.receive(&frame(0)), [Taken::Resolve(UNRESOLVED)]);
    for length in 1..64 {
        assert_eq!(router.receive(&frame(length)), []);
    }
    assert_eq!(router.receive(&frame(64)), []);
    assert_eq!(
        (
            router.count(Outcome::Held),
            router.count(Outcome::HoldFull),
            router.slow_path.held()
        ),
        (64, 1, 64)
    );
    // Nothing has changed for them yet.
    assert_eq!(router.retry(), []);
    assert_eq!(router.slow_path.held(), 64);

    router.world.resolve();
    let taken = router.retry();
    assert_eq!(taken.len(), 64);
    for (length, frame) in taken.chunks(1).enumerate() {
        let (stack, payload) = labelled_frame(frame);
        assert_eq!((stack, payload), (vec![(510, 63, 0)], udp_v4(HOST_V4, 7, length)));
    }
    assert_eq!((router.count(Outcome::Released), router.slow_path.held()), (64, 0));
    assert_eq!(router.slow_path.next_deadline(), None);
}

#[test]
fn frames_for_a_next_hop_with_a_backup_leave_by_whichever_resolves_first() {
    const BACKUP: u16 = 9;
    let frame = |length: usize| labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, length));
    for first in [UNRESOLVED, BACKUP] {
        let mut router = Router::default();
        let tables = &mut router.world.tables;
        tables.store_adjacency(UNRESOLVED, Adjacency::default().with_backup(Some(BACKUP)));
        assert_eq!(
            router.receive(&frame(0)),
            [Taken::Resolve(UNRESOLVED), Taken::Resolve(BACKUP)]
        );
        assert_eq!(router.receive(&frame(1)), []);
        let resolved = router.world.tables.adjacency(NEIGHBOUR);
        let backup = router.world.tables.adjacency(first).backup();
        router.world.tables.store_adjacency(first, resolved.with_backup(backup));
        // A later frame does not leave before them.
        let taken = router.receive(&frame(2));
        let payloads = Vec::from_iter(taken.chunks(1).map(|one| labelled_frame(one).1));
        assert_eq!(payloads, [0, 1, 2].map(|length| udp_v4(HOST_V4, 7, length)));
        assert_eq!(router.slow_path.held(), 0);
        // Without a later frame, they leave too.
        router
            .world
            .tables
            .store_adjacency(first, Adjacency::default().with_backup(backup));
        router.receive(&frame(3));
        router.world.tables.store_adjacency(first, resolved.with_backup(backup));
        assert_eq!(router.retry().len(), 1);
    }
}

/// A backup with labels of its own: the frames leave as whichever resolves first wants them.
#[test]
fn frames_leave_with_the_labels_of_the_next_hop_or_backup_that_resolves_first() {
    const BACKUP: u16 = 9;
    let frame = |length: usize| labelled(&[(700, 64)], &udp_v4(HOST_V4, 7, length));
    for (first, stack) in [
        (UNRESOLVED, vec![(710, 63, 0)]),
        (BACKUP, vec![(300, 63, 0), (301, 63, 0)]),
    ] {
        let mut router = Router::default();
        let tables = &mut router.world.tables;
        let labels = [300, 301].map(label);
        tables.store_stack(7, LabelStack::new(&labels, None).unwrap());
        tables.store_pair(3, [entry(Op::Label, 710, UNRESOLVED), entry(Op::Stack, 7, BACKUP)]);
        tables.store_ilm(label(700), entry(Op::Protected, 3, 0));
        assert_eq!(
            router.receive(&frame(0)),
            [Taken::Resolve(UNRESOLVED), Taken::Resolve(BACKUP)]
        );
        let resolved = router.world.tables.adjacency(NEIGHBOUR);
        router.world.tables.store_adjacency(first, resolved);
        let taken = router.retry();
        assert_eq!(labelled_frame(&taken), (stack, udp_v4(HOST_V4, 7, 0)));
        assert_eq!((taken.len(), router.slow_path.held()), (1, 0));
    }
}

#[test]
fn held_frames_leave_by_the_member_that_takes_over_their_bucket() {
    let mut router = Router::default();
    let member = |next_hop| entry(Op::Label, 700 + u32::from(next_hop), next_hop);
    router.world.tables.store_ilm(label(700), entry(Op::Group, 0, 0));
    for bucket in 0..=u8::MAX {
        router.world.tables.store_bucket(0, bucket, member(UNRESOLVED));
    }
    let frame = labelled(&[(700, 64)], &udp_v4(HOST_V4, 7, 20));
    assert_eq!(router.receive(&frame), [Taken::Resolve(UNRESOLVED)]);
    for bucket in 0..=u8::MAX {
        router.world.tables.store_bucket(0, bucket, member(NEIGHBOUR));
    }
    // The next hop that they waited for is still unresolved.
    assert_eq!(router.retry(), []);
    let (stack, _) = labelled_frame(&router.retry_all());
    assert_eq!((stack, router.slow_path.held()), (vec![(701, 63, 0)], 0));
}

#[test]
fn a_frame_that_waits_leaves_at_once_when_its_label_has_another_next_hop() {
    let mut router = Router::default();
    router.receive(&labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, 20)));
    assert_eq!(router.retry_all(), [], "nothing has changed for it");
    router
        .world
        .tables
        .store_ilm(label(500), entry(Op::Label, 520, NEIGHBOUR));
    // The next hop that it waited for is still unresolved.
    assert_eq!(router.retry(), []);
    let (stack, _) = labelled_frame(&router.retry_all());
    assert_eq!((stack, router.slow_path.held()), (vec![(520, 63, 0)], 0));
    assert_eq!(router.count(Outcome::Released), 1);
}

#[test]
fn frames_that_wait_follow_their_route_to_a_next_hop_that_is_not_resolved_yet_either() {
    const OTHER: u16 = 9;
    let mut router = Router::default();
    router.world.tables.store_ilm(label(501), entry(Op::Label, 511, OTHER));
    let frame = |label: u32, length: usize| labelled(&[(label, 64)], &udp_v4(HOST_V4, 7, length));
    assert_eq!(router.receive(&frame(500, 0)), [Taken::Resolve(UNRESOLVED)]);
    router.receive(&frame(500, 1));
    router.world.tables.store_ilm(label(500), entry(Op::Label, 520, OTHER));
    assert_eq!(router.retry_all(), [Taken::Resolve(OTHER)]);
    assert_eq!(router.receive(&frame(501, 2)), [], "its next hop is being resolved");
    // The old next hop does not matter to them any more; its slot may be another's.
    router.world.resolve();
    assert_eq!(router.retry(), []);
    let resolved = router.world.tables.adjacency(UNRESOLVED);
    router.world.tables.store_adjacency(OTHER, resolved);
    let taken = router.receive(&frame(500, 3));
    let sent = Vec::from_iter(taken.chunks(1).map(labelled_frame));
    let expected = [(520, 0), (520, 1), (511, 2), (520, 3)]
        .map(|(label, length)| (vec![(label, 63, 0)], udp_v4(HOST_V4, 7, length)));
    assert_eq!(sent, expected);
    assert_eq!((router.slow_path.held(), router.slow_path.next_deadline()), (0, None));
}

#[test]
fn what_could_not_be_sent_is_not_counted_as_forwarded() {
    let packet = udp_v4(HOST_V4, 64, 20);
    let large = fragmentable(udp_v4(HOST_V4, 64, 2000));
    for (frame, outcome) in [
        (labelled(&[(1, 64), (100, 64)], &packet), Outcome::NotSent),
        (labelled(&[(100, 64)], &large), Outcome::NotSent),
        (labelled(&[(1, 64), (120, 64)], &packet), Outcome::NotDelivered),
        (labelled(&[(0, 64), (1, 64), (120, 64)], &packet), Outcome::NotDelivered),
    ] {
        let mut router = Router::default().failing(|_| true);
        router.check_dropped(&frame, outcome);
        let worked = [Outcome::Forwarded, Outcome::Fragmented, Outcome::Delivered];
        assert_eq!(worked.map(|outcome| router.count(outcome)), [0; 3]);
    }
    let mut router = Router::default();
    router.receive(&labelled(&[(500, 64)], &packet));
    router.world.resolve();
    let mut router = router.failing(|_| true);
    assert_eq!(router.retry(), []);
    assert_eq!(
        [Outcome::NotSent, Outcome::Released].map(|outcome| router.count(outcome)),
        [1, 0]
    );
}

#[test]
fn an_answer_that_could_not_be_sent_is_not_counted_as_one() {
    let packet = udp_v4(HOST_V4, 64, 20);
    let imposed = to(FTN_HOST, udp_v4(HOST_V4, 1, 20));
    for frame in [
        labelled(&[(120, 1)], &packet),
        labelled(&[(122, 1)], &packet),
        labelled(&[(122, 1), (146, 63)], &packet),
        ethernet(ETH_P_IP, &imposed),
    ] {
        let mut router = Router::default().failing(|_| true);
        router.check_dropped(&frame, Outcome::NoWayBack);
        assert_eq!(router.count(Outcome::TimeExceeded), 0);
    }
    // Under one label the source may still be known by IP.
    let mut router = Router::default().failing(|action| matches!(action, Action::Transmit { .. }));
    let taken = router.receive(&labelled(&[(122, 1)], &packet));
    assert!(matches!(taken[..], [Taken::SendByIp(_)]), "{taken:?}");
    assert_eq!(router.count(Outcome::TimeExceeded), 1);
}

#[test]
fn with_no_frames_to_hold_all_are_dropped() {
    let mut router = Router::with(Options {
        hold_frames: 0,
        ..Options::default()
    });
    router.check_dropped(&labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, 20)), Outcome::HoldFull);
}

#[test]
fn a_frame_does_not_overtake_those_that_wait() {
    let mut router = Router::default();
    let frame = |length: usize| labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, length));
    router.receive(&frame(0));
    router.receive(&frame(1));
    router.world.resolve();
    let taken = router.receive(&frame(2));
    let payloads = Vec::from_iter(taken.chunks(1).map(|one| labelled_frame(one).1));
    assert_eq!(payloads, [0, 1, 2].map(|length| udp_v4(HOST_V4, 7, length)));
    assert_eq!(
        (router.count(Outcome::Released), router.count(Outcome::Forwarded)),
        (2, 1)
    );
}

#[test]
fn only_frames_for_the_next_hop_that_was_found_leave() {
    let mut router = Router::default();
    router.world.tables.store_ilm(label(501), entry(Op::Label, 511, 9));
    router.receive(&labelled(&[(501, 64)], &udp_v4(HOST_V4, 7, 1)));
    router.receive(&labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, 2)));
    router.receive(&labelled(&[(501, 64)], &udp_v4(HOST_V4, 7, 3)));
    router.world.resolve();
    let (stack, _) = labelled_frame(&router.retry());
    assert_eq!((stack, router.slow_path.held()), (vec![(510, 63, 0)], 2));
    let mac = router.world.tables.adjacency(UNRESOLVED);
    router.world.tables.store_adjacency(9, mac);
    let taken = router.retry();
    let payloads = Vec::from_iter(taken.chunks(1).map(|one| labelled_frame(one).1));
    assert_eq!(payloads, [1, 3].map(|length| udp_v4(HOST_V4, 7, length)));
}

#[test]
fn what_waited_in_vain_is_answered_with_host_unreachable() {
    for packet in [udp_v4(HOST_V4, 7, 20), udp_v6(HOST_V6, 7, 20)] {
        let mut router = Router::default().routed();
        router.receive(&labelled(&[(500, 64)], &packet));
        let deadline = router.now + Duration::from_secs(3);
        assert_eq!(router.slow_path.next_deadline(), Some(deadline));
        assert_eq!(router.poll(), []);
        router.now = deadline;
        let taken = router.poll();
        let [Taken::SendByIp(answer)] = &taken[..] else {
            panic!("{taken:?}");
        };
        check_answer(answer, Error::HostUnreachable, &packet, &[(500, 64)]);
        assert_eq!(
            [Outcome::Held, Outcome::HoldExpired, Outcome::HostUnreachable].map(|outcome| router.count(outcome)),
            [1; 3]
        );
        assert_eq!(router.slow_path.next_deadline(), None);
    }
}

#[test]
fn imposition_waits_too_and_is_answered_by_ip() {
    let mut packet = udp_v4(HOST_V4, 64, 20);
    packet[16..20].copy_from_slice(&[10, 5, 5, 5]);
    righted(&mut packet);
    let mut router = Router::default();
    assert_eq!(
        router.receive(&ethernet(ETH_P_IP, &packet)),
        [Taken::Resolve(UNRESOLVED)]
    );
    router.now += Duration::from_secs(3);
    let taken = router.poll();
    let [Taken::SendByIp(answer)] = &taken[..] else {
        panic!("{taken:?}");
    };
    check_answer(answer, Error::HostUnreachable, &packet, &[]);

    router.receive(&ethernet(ETH_P_IP, &packet));
    router.world.resolve();
    let (stack, _) = labelled_frame(&router.retry());
    assert_eq!(stack, [(1001, 63, 0)]);
}

#[test]
fn a_route_that_changed_while_a_frame_waited_counts() {
    let mut router = Router::default();
    router.receive(&labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, 20)));
    router
        .world
        .tables
        .store_ilm(label(500), entry(Op::Label, 520, NEIGHBOUR));
    router.now += Duration::from_secs(3);
    let (stack, _) = labelled_frame(&router.poll());
    assert_eq!(stack, [(520, 63, 0)]);
    assert_eq!(
        (router.count(Outcome::Released), router.count(Outcome::HoldExpired)),
        (1, 0)
    );

    router.receive(&labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, 20)));
    router.world.tables.store_ilm(label(500), RouteEntry::EMPTY);
    router
        .world
        .tables
        .store_ilm(label(501), entry(Op::Label, 511, UNRESOLVED));
    router.receive(&labelled(&[(501, 64)], &udp_v4(HOST_V4, 7, 20)));
    router.world.resolve();
    assert_eq!(labelled_frame(&router.retry()[..1]).0, [(511, 63, 0)]);
}

#[test]
fn a_router_alert_stays_on_top_of_what_is_beneath() {
    let packet = udp_v4(HOST_V4, 64, 20);
    for (mode, received, leaving) in [
        (TtlMode::Uniform, &[(1, 60), (100, 64)][..], &[(1, 59), (110, 59)][..]),
        (TtlMode::Linux, &[(1, 60), (100, 64)], &[(1, 63), (110, 63)]),
        (TtlMode::Pipe, &[(1, 60), (300, 64)], &[(1, 255), (200, 255), (110, 63)]),
        (TtlMode::Uniform, &[(1, 60), (17, 64), (146, 64)], &[(1, 59), (146, 59)]),
        (TtlMode::Uniform, &[(0, 60), (1, 9), (100, 64)], &[(1, 58), (110, 58)]),
    ] {
        let mut router = Router::default().mode(mode);
        let (stack, payload) = labelled_frame(&router.receive(&labelled(received, &packet)));
        let stack = Vec::from_iter(stack.iter().map(|&(label, ttl, _)| (label, ttl)));
        assert_eq!(
            (&stack[..], payload),
            (leaving, packet.clone()),
            "{received:?} {mode:?}"
        );
        assert_eq!(
            (router.count(Outcome::RouterAlert), router.count(Outcome::Forwarded)),
            (1, 1)
        );
    }
}

#[test]
fn a_router_alert_goes_with_the_last_label() {
    let packet = udp_v4(HOST_V4, 64, 20);
    let mut router = Router::default();
    let (stack, payload) = transmitted(&router.receive(&labelled(&[(1, 60), (210, 64)], &packet)), ETH_P_IP);
    assert_eq!((stack, payload[8]), (vec![], 59));
    let taken = router.receive(&labelled(&[(1, 60), (120, 64)], &packet));
    assert!(
        matches!(&taken[..], [Taken::Deliver(INGRESS, frame)] if frame[ETH_HLEN + 8] == 59),
        "{taken:?}"
    );
    assert_eq!(router.count(Outcome::RouterAlert), 2);
}

#[test]
fn exceptions_beneath_a_router_alert_are_what_they_are() {
    let packet = udp_v4(HOST_V4, 64, 20);
    // The alert's TTL is the packet's; an answer has no Router Alert label.
    for received in [&[(1, 1), (122, 64)][..], &[(1, 1), (1, 64), (122, 64)]] {
        let mut router = Router::default();
        let (stack, answer) = labelled_frame(&router.receive(&labelled(received, &packet)));
        assert_eq!(stack, [(22, 64, 6)]);
        check_answer(&answer, Error::TimeExceeded, &packet, received);
    }
    Router::default().check_dropped(&labelled(&[(1, 64), (1, 64), (100, 64)], &packet), Outcome::Malformed);
    Router::default().check_dropped(&labelled(&[(1, 64)], &packet), Outcome::Malformed);
    Router::default().check_dropped(&labelled(&[(1, 64), (14, 64)], &packet), Outcome::Oam);

    let mut router = Router::default();
    let taken = router.receive(&labelled(&[(1, 64), (900, 64)], &packet));
    assert!(
        matches!(&taken[..], [Taken::Report(report)] if report.label == label(900)),
        "{taken:?}"
    );

    // It waits with its alert, which is counted once.
    let mut router = Router::default();
    assert_eq!(
        router.receive(&labelled(&[(1, 64), (500, 64)], &packet)),
        [Taken::Resolve(UNRESOLVED)]
    );
    router.world.resolve();
    let (stack, _) = labelled_frame(&router.retry());
    assert_eq!(stack, [(1, 63, 0), (510, 63, 0)]);
    assert_eq!(router.count(Outcome::RouterAlert), 1);

    // With the alert it no longer fits.
    let packet = udp_v4(HOST_V4, 64, usize::from(NARROW_MTU) - 28 - 4);
    let mut router = Router::default();
    assert_eq!(
        labelled_frame(&router.receive(&labelled(&[(600, 64)], &packet)))
            .0
            .len(),
        1
    );
    let alert = labelled(&[(1, 64), (600, 64)], &packet);
    let (_, answer) = labelled_frame(&router.receive(&alert));
    let error = Error::PacketTooBig {
        mtu: u32::from(NARROW_MTU) - 8,
    };
    check_answer(&answer, error, &packet, &[(1, 64), (600, 64)]);
}

/// The same packet without "don't fragment".
fn fragmentable(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] &= !0x40;
    righted(&mut packet);
    packet
}

/// `udp_v4`'s, to another host.
fn to(destination: Ipv4Addr, mut packet: Vec<u8>) -> Vec<u8> {
    packet[16..20].copy_from_slice(&destination.octets());
    righted(&mut packet);
    packet
}

#[test]
fn the_sender_of_a_packet_that_is_too_big_gets_the_mtu_beneath_the_labels_along_the_lsp() {
    for (received, leaving, mtu) in [
        (&[(122, 64)][..], &[22][..], 1496),
        (&[(100, 64), (146, 63)], &[110, 146], 1492),
        (&[(300, 64)], &[200, 110], 1492),
        (&[(17, 64), (146, 63)], &[146], 1496),
    ] {
        for packet in [udp_v4(HOST_V4, 7, 1472), udp_v6(HOST_V6, 7, 1452)] {
            assert_eq!(packet.len(), 1500);
            let mut router = Router::default();
            let (stack, answer) = labelled_frame(&router.receive(&labelled(received, &packet)));
            let expected = Vec::from_iter(leaving.iter().map(|&label| (label, 64, 6)));
            assert_eq!(stack, expected, "{received:?}");
            // RFC 4884 section 4.5: ICMPv6 Packet Too Big has no extension.
            let shown = if packet[0] == 0x60 { &[] } else { received };
            check_answer(&answer, Error::PacketTooBig { mtu }, &packet, shown);
            assert_eq!(router.count(Outcome::TooBigAnswered), 1);
            // What fits by what was said, fits.
            let fits = &packet[..mtu as usize];
            let mut fits = fits.to_vec();
            if packet[0] == 0x60 {
                fits[4..6].copy_from_slice(&(mtu as u16 - 40).to_be_bytes());
            } else {
                fits[2..4].copy_from_slice(&(mtu as u16).to_be_bytes());
                righted(&mut fits);
            }
            assert_eq!(
                labelled_frame(&router.receive(&labelled(received, &fits))).1.len(),
                fits.len()
            );
            assert_eq!(router.count(Outcome::Forwarded), 1);
        }
    }
}

#[test]
fn the_bytes_of_fragmentation_needed_and_packet_too_big() {
    let packet = udp_v4(HOST_V4, 7, 1472);
    let (_, answer) = labelled_frame(&Router::default().receive(&labelled(&[(122, 64)], &packet)));
    // 128 bytes are quoted, 32 words; next-hop MTU 1496.
    assert_eq!(
        (answer.len(), &answer[20..22], &answer[24..28]),
        (168, &[3, 4][..], &[0, 32, 0x05, 0xd8][..])
    );
    assert_eq!(answer[28..156], packet[..128]);
    assert_eq!(answer[156..158], [0x20, 0]);
    assert_eq!(answer[160..], [&[0, 8, 1, 1][..], &lses(&[(122, 64)])].concat());

    let packet = udp_v6(HOST_V6, 7, 1452);
    let (_, answer) = labelled_frame(&Router::default().receive(&labelled(&[(122, 64)], &packet)));
    assert_eq!(
        (answer.len(), &answer[40..42], &answer[44..48]),
        (1280, &[2, 0][..], &[0, 0, 0x05, 0xd8][..])
    );
    assert_eq!(answer[48..], packet[..1232]);
}

#[test]
fn at_imposition_and_if_it_is_known_the_source_gets_its_error_by_ip() {
    for (packet, error) in [
        (
            to(FTN_HOST, udp_v4(HOST_V4, 64, 1472)),
            Error::PacketTooBig { mtu: 1496 },
        ),
        (
            {
                let mut packet = udp_v6(HOST_V6, 64, 1452);
                let host: std::net::Ipv6Addr = "2001:db8:4::7".parse().unwrap();
                packet[24..40].copy_from_slice(&host.octets());
                packet
            },
            Error::PacketTooBig { mtu: 1496 },
        ),
    ] {
        let ethertype = if packet[0] == 0x60 { ETH_P_IPV6 } else { ETH_P_IP };
        let taken = Router::default().receive(&ethernet(ethertype, &packet));
        let [Taken::SendByIp(answer)] = &taken[..] else {
            panic!("{taken:?}");
        };
        check_answer(answer, error, &packet, &[]);
        let taken = Router::default().routed().receive(&labelled(&[(122, 64)], &packet));
        assert!(matches!(taken[..], [Taken::SendByIp(_)]), "{taken:?}");
    }
}

/// Receives a frame that is to leave in fragments, and returns the labels and the packet that they are of.
fn check_fragments(router: &mut Router, frame: &[u8], mtu: u16) -> (Vec<(u32, u8, u8)>, Vec<u8>) {
    let before = router.count(Outcome::Fragmented);
    let taken = router.receive(frame);
    assert_eq!(router.count(Outcome::Fragmented), before + 1);
    assert!(taken.len() > 1, "{taken:?}");
    let mut stacks = Vec::new();
    let mut packets = Vec::new();
    for one in taken.chunks(1) {
        let is_labelled = matches!(one, [Taken::Transmit(_, frame)] if packet::is_labelled(frame));
        let (stack, packet) = transmitted(one, if is_labelled { 0x8847 } else { ETH_P_IP });
        assert!(packet.len() + stack.len() * 4 <= usize::from(mtu));
        stacks.push(stack);
        packets.push(packet);
    }
    assert!(stacks.iter().all(|stack| *stack == stacks[0]), "{stacks:?}");
    (stacks[0].clone(), reassembled(&packets).unwrap())
}

#[test]
fn what_may_be_fragmented_is_under_the_stack_that_it_would_have_left_with() {
    let packet = fragmentable(udp_v4(HOST_V4, 40, 2000));
    let hop = |ttl: u8| {
        let mut packet = packet.clone();
        packet[8] = ttl;
        righted(&mut packet);
        packet
    };
    for mode in [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux] {
        let pipe = mode == TtlMode::Pipe;
        let outer = if pipe { 255 } else { 63 };
        for (received, leaving, ttl, mtu) in [
            (&[(100, 64)][..], vec![(110, 63, 0)], 40, MTU),
            (&[(600, 64)], vec![(610, 63, 0)], 40, NARROW_MTU),
            (&[(300, 64)], vec![(200, outer, 0), (110, 63, 0)], 40, MTU),
            (&[(100, 64), (146, 9)], vec![(110, 63, 0), (146, 9, 0)], 40, MTU),
            (&[(210, 64)], vec![], if pipe { 39 } else { 63 }, MTU),
            (&[(17, 64)], vec![], if pipe { 40 } else { 63 }, MTU),
        ] {
            let mut router = Router::default().mode(mode);
            let frame = labelled(received, &packet);
            assert_eq!(
                check_fragments(&mut router, &frame, mtu),
                (leaving, hop(ttl)),
                "{received:?} {mode:?}"
            );
        }
        // Imposed, from outside and beneath a label that ends here.
        let imposed = to(FTN_HOST, hop(40));
        let label_ttl = if pipe { 255 } else { 39 };
        let mut router = Router::default().mode(mode);
        let (stack, out) = check_fragments(&mut router, &ethernet(ETH_P_IP, &imposed), MTU);
        assert_eq!((stack, out), (vec![(1000, label_ttl, 0)], to(FTN_HOST, hop(39))));
        let (stack, _) = check_fragments(&mut router, &labelled(&[(0, 64)], &imposed), MTU);
        assert_eq!(stack.len(), 1);
    }
}

#[test]
fn fragments_keep_a_router_alert_and_the_order_of_frames_that_waited() {
    let packet = fragmentable(udp_v4(HOST_V4, 40, 600));
    let mut router = Router::default();
    let (stack, out) = check_fragments(&mut router, &labelled(&[(1, 64), (600, 64)], &packet), NARROW_MTU);
    assert_eq!((stack, out), (vec![(1, 63, 0), (610, 63, 0)], packet));
    assert_eq!(router.count(Outcome::RouterAlert), 1);

    let long = labelled(&[(500, 64)], &fragmentable(udp_v4(HOST_V4, 40, 2000)));
    let short = udp_v4(HOST_V4, 7, 20);
    let mut router = Router::default();
    assert_eq!(router.receive(&long), [Taken::Resolve(UNRESOLVED)]);
    assert_eq!(router.receive(&labelled(&[(500, 64)], &short)), []);
    router.world.resolve();
    let taken = router.receive(&long);
    assert_eq!(taken.len(), 5);
    assert_eq!(labelled_frame(&taken[2..3]).1, short);
    assert_eq!(
        [Outcome::Fragmented, Outcome::Released].map(|outcome| router.count(outcome)),
        [2, 1]
    );
}

#[test]
fn other_exceptions_are_dropped_and_counted() {
    let packet = udp_v4(HOST_V4, 64, 20);
    let mut echo_request = udp_v4(HOST_V4, 64, 20);
    echo_request[16..20].copy_from_slice(&[127, 0, 0, 1]);
    echo_request[22..24].copy_from_slice(&3503_u16.to_be_bytes());
    righted(&mut echo_request);
    for (frame, outcome) in [
        (labelled(&[(13, 64)], &packet), Outcome::Oam),
        (labelled(&[(14, 64)], &packet), Outcome::Oam),
        (labelled(&[(3, 64)], &packet), Outcome::Malformed),
        (labelled(&[(5, 64)], &packet), Outcome::Malformed),
        (labelled(&[(210, 64)], &[0; 40]), Outcome::Malformed),
        (labelled(&[(120, 64)], &echo_request), Outcome::LspPing),
        (ethernet(ETH_P_IP, &echo_request), Outcome::LspPing),
        (labelled(&[(100, 64)], &[0; 1500]), Outcome::TooBig),
        (labelled(&[(600, 64)], &udp_v6(HOST_V6, 64, 1232)), Outcome::TooBig),
        (ethernet(0x8847, &[0, 6, 0x40]), Outcome::Malformed),
        (vec![0; 5], Outcome::NotHandled),
        (vec![], Outcome::NotHandled),
    ] {
        Router::default().check_dropped(&frame, outcome);
    }
    let mut router = Router::default();
    let word = PortWord::new(port_mac(INGRESS), PortWord::IMPOSE);
    router.world.tables.store_port(INGRESS, word);
    router.check_dropped(&labelled(&[(100, 64)], &packet), Outcome::NotHandled);
}

#[test]
fn a_trimmed_frame_is_reported_to_its_source_and_not_forwarded() {
    let packet = udp_v4(HOST_V4, 7, 1000);
    let mut router = Router::default();
    let frame = labelled(&[(122, 1)], &packet);
    let (stack, answer) = labelled_frame(&router.receive_trimmed(&frame[..200], frame.len() - 200));
    assert_eq!(stack, [(22, 64, 6)]);
    check_answer(&answer, Error::TimeExceeded, &packet[..182], &[(122, 1)]);
    let big = labelled(&[(600, 64)], &packet);
    let (_, answer) = labelled_frame(&router.receive_trimmed(&big[..200], big.len() - 200));
    check_answer(&answer, Error::PacketTooBig { mtu: 396 }, &packet[..182], &[(600, 64)]);
    let packet = fragmentable(packet);
    for (trimmed, stack) in [(1, 100), (2, 500), (3, 120), (4, 600)] {
        let frame = labelled(&[(stack, 64)], &packet);
        assert_eq!(router.receive_trimmed(&frame[..200], frame.len() - 200), []);
        assert_eq!(router.count(Outcome::Trimmed), trimmed);
    }
}

/// Frames that are nearly right: a stack, a packet, and a few bytes changed or cut off.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let labels = prop::sample::select(vec![0, 1, 2, 7, 13, 17, 100, 120, 122, 210, 300, 500, 600, 900]);
    let ttl = prop::sample::select(vec![0, 1, 2, 64, 255]);
    let stack = prop::collection::vec((labels, ttl), 0..6);
    let packet = (any::<bool>(), 0_usize..2000, prop::sample::select(vec![1_u8, 17, 58]));
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (stack, packet, changes, any::<prop::sample::Index>()).prop_map(
        |(stack, (is_v4, length, protocol), changes, cut)| {
            let mut packet = if is_v4 {
                let mut packet = udp_v4(FTN_HOST, 1, length);
                packet[9] = protocol;
                if length % 2 == 0 {
                    packet[6] &= !0x40;
                }
                righted(&mut packet);
                packet
            } else {
                let mut packet = udp_v6("2001:db8:4::7", 1, length);
                packet[6] = protocol;
                packet
            };
            for (place, value) in &changes {
                let place = place.index(packet.len());
                packet[place] = *value;
            }
            let mut frame = if stack.is_empty() {
                ethernet(if is_v4 { ETH_P_IP } else { ETH_P_IPV6 }, &packet)
            } else {
                labelled(&stack, &packet)
            };
            if changes.len() == 2 {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        },
    )
}

#[test]
fn nothing_is_allocated_per_frame_in_steady_state() {
    let options = Options {
        icmp_rate: Rate::UNLIMITED,
        ..Options::default()
    };
    let mut router = Router::with(options);
    let frames = [
        labelled(&[(122, 1)], &udp_v4(HOST_V4, 7, 1400)),
        labelled(&[(122, 1), (146, 63)], &udp_v6(HOST_V6, 7, 1400)),
        labelled(&[(100, 1)], &udp_v4(FTN_HOST, 7, 20)),
        labelled(&[(900, 64)], &udp_v4(HOST_V4, 7, 20)),
        labelled(&[(500, 64)], &udp_v4(HOST_V4, 7, 1400)),
        labelled(&[(1, 64), (100, 64)], &udp_v4(HOST_V4, 7, 20)),
        labelled(&[(120, 64)], &udp_v4(HOST_V4, 7, 20)),
        labelled(&[(600, 64)], &udp_v4(HOST_V4, 7, 1400)),
        labelled(&[(600, 64)], &udp_v6(HOST_V6, 7, 1400)),
        labelled(&[(600, 64)], &fragmentable(udp_v4(HOST_V4, 7, 1400))),
    ];
    let mut actions = 0;
    let mut round = |now: Instant, world: &MemoryWorld| {
        for frame in &frames {
            let received = Received {
                port: INGRESS,
                frame,
                trimmed: 0,
            };
            router.slow_path.receive(received, world, now, &mut |_| {
                actions += 1;
                true
            });
        }
        router.slow_path.poll(world, now, &mut |_| {
            actions += 1;
            true
        });
    };
    let start = Instant::now();
    let at = |step: u64| start + Duration::from_millis(step * 20);
    for step in 0..1000 {
        round(at(step), &router.world);
    }
    let allocated = allocation_counter::measure(|| (1000..2000).for_each(|step| round(at(step), &router.world)));
    assert_eq!(allocated.count_total, 0);
    let known = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 10])));
    assert_eq!(known.count_total, 1, "the counter counts");
    assert!(actions > 10_000, "{actions}");
}

proptest! {
    #[test]
    fn what_must_hold_holds_for_nearly_right_frames(
        setup: u8,
        frames in prop::collection::vec((nearly_right(), any::<u8>()), 1..20),
    ) {
        let mut data = vec![setup];
        for (frame, special) in frames {
            data.extend((frame.len() as u16).to_be_bytes());
            data.push(special);
            data.extend(frame);
        }
        fuzz::slow_path(&data);
    }

    #[test]
    fn what_must_hold_holds_for_any_bytes(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz::slow_path(&data);
    }

    #[test]
    fn the_codec_agrees_with_itself(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz::icmp_codec(&data);
    }

    #[test]
    fn the_codec_reads_a_message_with_any_byte_changed_or_says_what_is_wrong(
        quoted in prop::collection::vec(any::<u8>(), 0..300),
        depth in 0_usize..10,
        is_v4: bool,
        place: prop::sample::Index,
        value: u8,
    ) {
        let addresses = if is_v4 {
            Addresses::V4 { source: OWN_V4, destination: HOST_V4 }
        } else {
            Addresses::V6 { source: OWN_V6, destination: OWN_V6 }
        };
        let stack = vec![9; depth * 4];
        let message = Message { error: Error::TimeExceeded, addresses, quoted: &quoted, stack: &stack };
        let mut packet = Vec::new();
        message.write(1, usize::MAX, &mut packet);
        let place = place.index(packet.len());
        packet[place] = value;
        fuzz::icmp_codec(&packet);
    }
}

#[test]
fn protocol_numbers_are_those_of_iana() {
    assert_eq!(
        (IPPROTO_ICMP, icmp::IPPROTO_ICMPV6),
        (IpNumber::ICMP.0, IpNumber::IPV6_ICMP.0)
    );
}

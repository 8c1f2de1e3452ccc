//! Properties of the forwarding core on the host that hold for every frame.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mplsxdp::dataplane::Tables;
use mplsxdp::dataplane::frame::MemoryFrame;
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp::lfib::pass::Claim;
use mplsxdp::lfib::{Budget, Lfib};
use mplsxdp::route::RouteKey;
use mplsxdp_common::abi::{
    Adjacency, Checksum, Counter, CrossConnect, Domain, Encapsulation, LabelStack, Op, PortWord, Reason, RouteEntry,
    Settings, TtlMode, TtlPropagate,
};
use mplsxdp_common::checksum;
use mplsxdp_common::forward::Verdict;
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_IP, ETH_ZLEN, IPV4_HLEN, IPV6_HLEN, LSE_LEN, Label, Lse, Mac, VLAN_HLEN};
use mplsxdp_tests::conformance::lab::{self, Outcome, Pseudowire};
use mplsxdp_tests::conformance::notation::{Anatomy, Frame, OWN_MAC, PEER_MAC, anatomy, ones_complement_sum, show};
use mplsxdp_tests::conformance::{random, suite};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use proptest::prelude::*;
use proptest::sample::select;

/// The tables of the fixtures.
fn lab_tables() -> Lfib<MemoryTables> {
    lab::install(MemoryTables::with_capacity(lab::CAPACITY))
}

fn uniform() -> Settings {
    lab::settings()[0]
}

fn core_port(lfib: &mut Lfib<MemoryTables>) {
    for settings in lab::settings() {
        lfib.tables_mut()
            .store_port(settings.port() as u16, lab::port_word("core"));
    }
}

#[test]
fn every_case_keeps_the_laws_wherever_it_is_cut_off() {
    let mut lfib = lab_tables();
    for line in suite().cases.iter().flat_map(|case| &case.lines) {
        for settings in line.settings() {
            lab::store_port(lfib.tables_mut(), settings, &line.port);
            for length in 0..line.frame.len() {
                let frame = &line.frame[..length];
                let outcome = lab::run(lfib.tables(), settings, frame);
                if let Err(law) = laws(lfib.tables(), settings, frame, &outcome) {
                    panic!("{}\n  cut to {length}: {law}", line.place);
                }
                // A driver hands up no shorter ones; a cross-connect does not look, and no pseudowire takes them.
                if length < ETH_HLEN && outcome.crossed.is_none() && !line.port.starts_with("pw") {
                    assert_eq!(outcome.verdict, Verdict::Pass, "{} cut to {length}", line.place);
                }
            }
        }
    }
}

#[test]
fn a_route_counts_frames_as_they_were_received() {
    let mut lfib = lab_tables();
    core_port(&mut lfib);
    let slot = |key: RouteKey| lfib.get(key).unwrap().counter_slot;
    let label = |value: u32| slot(RouteKey::Label(Label::new(value).unwrap()));
    let prefix = |text: &str| slot(RouteKey::Prefix(text.parse::<IpNet>().unwrap().into()));
    let cases = [
        ("[100 64] ip trailer 3", vec![label(100)]),
        ("[122 64] ip", vec![label(122)]),
        ("[140 64] ip", vec![label(140)]),
        ("[150 64] [17 3] ip", vec![label(150)]),
        // A local pop counts for its own label, and the labels after it for themselves.
        ("[160 64] ip", vec![label(160)]),
        ("[160 64] [161 9] [100 9] ip", vec![label(160), label(161), label(100)]),
        ("[160 64] ip to 10.2.0.1", vec![label(160), prefix("10.2.0.0/16")]),
        ("[160 64] [500 9] ip", vec![label(160)]),
        ("ip to 10.2.0.1", vec![prefix("10.2.0.0/16")]),
        ("ip6 to 2001:db8:1::1", vec![prefix("2001:db8:1::/48")]),
        // Explicit nulls and entropy labels have no route; frames that are not forwarded count for the reason.
        ("[0 64] ip", vec![]),
        ("[7 64] [100 0] ip", vec![]),
        ("[100 1] ip", vec![]),
        ("[180 64] ip", vec![]),
        ("[170 64] ip size 200", vec![]),
        ("ip to 10.1.9.1", vec![]),
    ];
    for (text, slots) in cases {
        let frame = Frame::parse(text).to_bytes();
        let bytes = frame.len() as u64;
        let counted = lab::run(lfib.tables(), uniform(), &frame).counted;
        let expected = slots.into_iter().map(|slot| (slot, Counter { packets: 1, bytes }));
        assert_eq!(counted, expected.collect(), "{text}");
    }
}

/// With or without labels, on the port or on one of its sub-interfaces: the port's VRF decides what the kernel claims.
#[test]
fn a_port_looks_in_the_domain_of_its_vrf_only() {
    let mut lfib = lab_tables();
    let claims = [("10.1.7.0/24".parse().unwrap(), Claim::Route)];
    // The lab has a VRF of its own.
    assert!(lfib.use_vrf(11));
    lfib.add_claims(11, claims.into(), None);
    while lfib.has_domain_steps() {
        lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false)).unwrap();
    }
    let domains = [None, Some(11), Some(20)].map(|table| lfib.domain(table));
    assert_eq!(domains, [Domain::NO_VRF, Domain(2), Domain::EMPTY]);
    // The first is a kernel route of the lab, which is in no VRF.
    for (destination, expected) in [
        ("10.1.9.1", [false, true, false]),
        ("10.1.7.1", [true, false, false]),
        ("10.1.8.1", [true, true, false]),
    ] {
        let packet = udp(
            "192.0.2.1".parse().unwrap(),
            destination.parse().unwrap(),
            64,
            b"whose?",
        )
        .unwrap();
        let unlabelled = ethernet(OWN_MAC, PEER_MAC, ETH_P_IP, &packet);
        let labelled = labelled(OWN_MAC, PEER_MAC, &[Entry::new(160, 64)], &packet);
        for (domain, expected) in domains.into_iter().zip(expected) {
            let word = lab::port_word("core").with_domain(domain);
            lab::store_port_words(lfib.tables_mut(), uniform(), word, word);
            for frame in [&unlabelled, &labelled] {
                for tags in [&[][..], &[0x81, 0, 0, 100]] {
                    let mut frame = frame.clone();
                    frame.splice(12..12, tags.iter().copied());
                    let verdict = lab::run(lfib.tables(), uniform(), &frame).verdict;
                    let imposed = verdict != Verdict::Pass;
                    assert_eq!(imposed, expected, "{destination} {domain:?} {tags:?}: {verdict:?}");
                }
            }
        }
    }
}

#[test]
fn labels_that_the_headroom_does_not_take_leave_the_frame_as_it_was() {
    let mut lfib = lab_tables();
    core_port(&mut lfib);
    for depth in 2..=8 {
        let cases = [
            (format!("[{} 64] ip", 120 + depth), (depth - 1) * LSE_LEN),
            (format!("ip to 10.{depth}.0.1"), depth * LSE_LEN),
        ];
        for (text, needed) in cases {
            let frame = Frame::parse(&text).to_bytes();
            for headroom in [0, needed - 1, needed] {
                let buffer = MemoryFrame::with_headroom(&frame, headroom);
                let outcome = lab::run_in(lfib.tables(), uniform(), buffer);
                if headroom < needed {
                    let expected = (Verdict::Exception(Reason::NoHeadroom), frame.clone());
                    assert_eq!(
                        (outcome.verdict, outcome.frame),
                        expected,
                        "{text}, headroom {headroom}"
                    );
                } else {
                    assert!(
                        matches!(outcome.verdict, Verdict::Forward { .. }),
                        "{text}, headroom {headroom}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_entry_that_points_nowhere_forwards_nothing() {
    let mut lfib = lab_tables();
    core_port(&mut lfib);
    let unused_stack = RouteEntry::new(Op::Stack, TtlPropagate::Default, lab::CAPACITY.stacks - 1, 0, 0);
    let no_such_stack = RouteEntry::new(Op::Stack, TtlPropagate::Default, lab::CAPACITY.stacks, 0, 0);
    let unused_next_hop = RouteEntry::new(Op::Label, TtlPropagate::Default, 110, 9999, 0);
    let no_such_next_hop = RouteEntry::new(Op::Label, TtlPropagate::Default, 110, u16::MAX, 0);
    let unused_pair = RouteEntry::new(Op::Protected, TtlPropagate::Default, lab::CAPACITY.backups - 1, 0, 0);
    let no_such_pair = RouteEntry::new(Op::Protected, TtlPropagate::Default, lab::CAPACITY.backups, 0, 0);
    for (entry, frame, reason) in [
        (unused_pair, "[16 64] ip", Reason::NoRoute),
        (no_such_pair, "[16 64] ip", Reason::NoRoute),
        (unused_stack, "[16 64] ip", Reason::NoRoute),
        (no_such_stack, "[16 64] ip", Reason::NoRoute),
        (unused_next_hop, "[16 64] ip", Reason::Unresolved),
        (no_such_next_hop, "[16 64] ip", Reason::Unresolved),
        // Without a route, the TTL does not matter.
        (RouteEntry::PASS, "[16 1] ip", Reason::PassRoute),
        (RouteEntry::from_bits(0xf), "[16 1] ip", Reason::NoRoute),
    ] {
        let frame = Frame::parse(frame).to_bytes();
        lfib.tables_mut().store_ilm(Label::FIRST_ORDINARY, entry);
        let outcome = lab::run(lfib.tables(), uniform(), &frame);
        assert_eq!(
            (outcome.verdict, &outcome.frame),
            (Verdict::Exception(reason), &frame),
            "{entry:?}"
        );
    }
}

/// A port that is the attachment circuit of a pseudowire with this encapsulation, and the other end of that pseudowire, which
/// leads back to where frames of the port come from.
fn pseudowire_tables(entry: RouteEntry, encapsulation: Encapsulation) -> MemoryTables {
    let mut tables = MemoryTables::with_capacity(lab::CAPACITY);
    for index in 0..4 {
        let mac = |last| Mac([2, 2, 0, 0, index, last]);
        tables.store_adjacency(index.into(), Adjacency::new(mac(1), lab::TX_PORTS[0], mac(2), 9000));
    }
    let labels = [800, 32].map(Label::from_low_bits);
    tables.store_stack(1, LabelStack::new(&labels, None).unwrap());
    for bucket in 0..=u8::MAX {
        let next_hop = u16::from(bucket % 4);
        tables.store_bucket(
            1,
            bucket,
            RouteEntry::new(Op::Label, TtlPropagate::Default, 32, next_hop, 0),
        );
    }
    tables.store_attachment(0, entry, encapsulation);
    let leaves = CrossConnect::new(lab::TX_PORTS[1], u16::MAX);
    // The tag that the frame got goes again.
    let tags = usize::from(encapsulation.added_len() != 0);
    tables.store_pseudowire(0, leaves, encapsulation.without_tags(tags).with_tag(None));
    let pseudowire = RouteEntry::new(Op::Pseudowire, TtlPropagate::Default, 0, 0, 7);
    tables.store_ilm(Label::from_low_bits(32), pseudowire);
    let local = RouteEntry::new(Op::Local, TtlPropagate::Default, 0, 0, 8);
    tables.store_ilm(Label::from_low_bits(800), local);
    for settings in lab::settings() {
        let number = settings.port() as u16;
        tables.store_cross_connect(number, CrossConnect::attachment_circuit(0));
        tables.store_port(number, PortWord::new(OWN_MAC, PortWord::CROSS_CONNECT));
    }
    tables
}

/// What the other end of the pseudowire makes of a frame that entered it.
fn leave_again(tables: &mut MemoryTables, settings: Settings, mut frame: Vec<u8>) -> Outcome {
    let number = settings.port() as u16;
    frame[..6].copy_from_slice(&OWN_MAC.0);
    tables.store_port(number, PortWord::new(OWN_MAC, PortWord::MPLS));
    let outcome = lab::run(tables, settings, &frame);
    tables.store_port(number, PortWord::new(OWN_MAC, PortWord::CROSS_CONNECT));
    outcome
}

#[test]
fn flows_of_a_pseudowire_take_several_next_hops_by_their_flow_label() {
    let group = RouteEntry::new(Op::Group, TtlPropagate::Default, 1, 0, 9);
    let word = Encapsulation::new().with_control_word(true);
    for (encapsulation, is_spread) in [(word.with_flow_label(true), true), (word, false)] {
        let tables = pseudowire_tables(group, encapsulation);
        let mut paths = BTreeSet::new();
        let mut flow_labels = BTreeSet::new();
        for port in 0..200 {
            let frame = Frame::parse(&format!("ip udp {port}")).to_bytes();
            let sent = lab::run(&tables, uniform(), &frame).frame;
            let same_flow = Frame::parse(&format!("ip udp {port} size 60 id 7")).to_bytes();
            let again = lab::run(&tables, uniform(), &same_flow).frame;
            let [stack, stack_again] = [&sent, &again].map(|frame| anatomy(frame).stack);
            assert_eq!(
                (&sent[..12], &stack),
                (&again[..12], &stack_again),
                "one flow, one path"
            );
            paths.insert(sent[..12].to_vec());
            flow_labels.extend(stack.get(1).map(|lse| lse.label().get()));
        }
        match is_spread {
            true => assert!(
                paths.len() == 4 && flow_labels.len() > 190,
                "{} {}",
                paths.len(),
                flow_labels.len()
            ),
            false => assert_eq!((paths.len(), flow_labels.len()), (1, 0)),
        }
    }
}

/// Checks what holds for every frame, whatever the tables; for a frame whose checksum was unfinished, `frame` is the
/// finished one. The error says what does not hold.
fn laws(tables: &MemoryTables, settings: Settings, frame: &[u8], outcome: &Outcome) -> Result<(), String> {
    laws_as_is(tables, settings, frame, outcome).or_else(|law| {
        let mut whole = MemoryFrame::new(frame);
        match checksum::finish(&mut whole) && outcome.verdict != Verdict::Pass {
            true => laws_as_is(tables, settings, whole.bytes(), outcome),
            false => Err(law),
        }
    })
}

fn laws_as_is(tables: &MemoryTables, settings: Settings, frame: &[u8], outcome: &Outcome) -> Result<(), String> {
    let broken = |law: &str| {
        let got = show(&outcome.frame);
        Err(format!("{law}\n in  {}\n out {:?} {got}", show(frame), outcome.verdict))
    };
    let untouched = outcome.frame == frame;
    match outcome.verdict {
        Verdict::Exception(_) if !untouched => return broken("an exception leaves the frame as it arrived"),
        Verdict::Exception(_) => return Ok(()),
        Verdict::Pass if untouched => return Ok(()),
        Verdict::Pass if outcome.frame.get(..12) != frame.get(..12) => {
            return broken("what is left to the kernel keeps its MAC addresses");
        }
        Verdict::Forward { .. } if outcome.crossed.is_some() => {
            return match only_tags_differ(frame, &outcome.frame) {
                true => Ok(()),
                false => broken("a cross-connect changes tags only"),
            };
        }
        Verdict::Forward { .. } if let Some(pseudowire) = lab::pseudowire(tables, settings, frame) => {
            let (outer, inner) = match pseudowire {
                Pseudowire::Enters => (anatomy(&outcome.frame), frame),
                Pseudowire::Leaves => (anatomy(frame), &*outcome.frame),
            };
            return match is_in_pseudowire(outer.payload, inner, pseudowire) {
                true => Ok(()),
                false => broken(&format!("{pseudowire:?} a pseudowire, which changes tags only")),
            };
        }
        Verdict::Pass | Verdict::Forward { .. } => {}
    }
    let (received, sent) = (anatomy(frame), anatomy(&outcome.frame));
    if !only_ttl_and_tos_differ(received.payload, sent.payload) {
        return broken(
            "of a payload only the TTL, the DSCP and the checksum change, and what follows an IP packet goes",
        );
    }
    if has_checksum(received.payload) && !has_checksum(sent.payload) {
        return broken("an IPv4 checksum that was right is right");
    }
    if let (Some(top), Some(out)) = (received.stack.first(), sent.stack.first())
        && tables
            .ilm
            .get(&top.label())
            .is_some_and(|entry| entry.op() == Op::Label)
        && !top.label().is_special()
    {
        let swapped = Lse::new(out.label(), top.tc(), top.bottom(), top.ttl().wrapping_sub(1));
        if *out != swapped || top.ttl() < 2 || received.stack[1..] != sent.stack[1..] {
            return broken("a swap takes 1 off a TTL of 2 or more and keeps TC, S and what is beneath");
        }
    }
    Ok(())
}

/// Whether a frame is in the payload of a pseudowire, with or without a control word. Of a short one that leaves it, padding
/// may be gone.
fn is_in_pseudowire(payload: &[u8], frame: &[u8], pseudowire: Pseudowire) -> bool {
    let padding = match pseudowire {
        Pseudowire::Enters => 0,
        Pseudowire::Leaves => payload.len(),
    };
    let bodies = [0, 4].into_iter().filter_map(|word| payload.get(word..));
    let mut cut = bodies.flat_map(|body| (0..=padding.min(body.len())).map(|cut| &body[..body.len() - cut]));
    cut.any(|body| match pseudowire {
        Pseudowire::Enters => only_tags_differ(frame, body),
        Pseudowire::Leaves => only_tags_differ(body, frame),
    })
}

/// Whether frames have the same addresses, and the same bytes after some tags.
fn only_tags_differ(received: &[u8], sent: &[u8]) -> bool {
    const TAGS: usize = ETH_HLEN - 2;
    let after = |frame: &[u8], tags: usize| frame.get(TAGS + tags * VLAN_HLEN..).map(<[u8]>::to_vec);
    let same_rest = |lost, got| {
        let (Some(rest), Some(head)) = (after(received, lost), sent.get(..TAGS + got * VLAN_HLEN)) else {
            return false;
        };
        let unfinished = [head, &rest].concat();
        let mut finished = MemoryFrame::new(&unfinished);
        // With fewer tags, a checksum may be found that was not found before.
        sent == unfinished || checksum::finish(&mut finished) && sent == finished.bytes()
    };
    let same_addresses = received.get(..TAGS) == sent.get(..TAGS);
    received == sent || same_addresses && (0..=3).any(|lost| (0..=2).any(|got| same_rest(lost, got)))
}

/// Length of an IP packet without the bytes after it, but with the padding of a short one.
fn without_trailer(packet: &[u8]) -> usize {
    let total_len = match *packet {
        [first, _, high, low, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([high, low])),
        [_, _, _, _, high, low, ..] => IPV6_HLEN + usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    total_len.max(packet.len().min(ETH_ZLEN - ETH_HLEN))
}

fn only_ttl_and_tos_differ(received: &[u8], sent: &[u8]) -> bool {
    let may_differ: &[usize] = match received.first().map(|byte| byte >> 4) {
        Some(4) => &[1, 8, 10, 11],
        Some(6) => &[0, 1, 7],
        _ => &[],
    };
    let mut pairs = received.iter().zip(sent).enumerate();
    let is_whole = received.len() == sent.len() || sent.len() == without_trailer(received);
    is_whole && pairs.all(|(index, (a, b))| a == b || may_differ.contains(&index))
}

/// Whether this is an IPv4 header with a checksum that is right.
fn has_checksum(packet: &[u8]) -> bool {
    let length = packet.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
    packet.first().is_some_and(|byte| byte >> 4 == 4)
        && length >= IPV4_HLEN
        && packet
            .get(..length)
            .is_some_and(|header| ones_complement_sum(header) == 0xffff)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_laws_hold_for_every_frame_and_table(
        world in random::world(),
        frames in prop::collection::vec((random::settings(), random::frame(), 0usize..64), 50),
    ) {
        let mut tables = MemoryTables::with_capacity(lab::CAPACITY);
        world.store(&mut tables);
        for (settings, frame, headroom) in frames {
            let outcome = lab::run_in(&tables, settings, MemoryFrame::with_headroom(&frame, headroom));
            prop_assert_eq!(laws(&tables, settings, &frame, &outcome), Ok(()));
            let again = lab::run_in(&tables, settings, MemoryFrame::with_headroom(&frame, headroom));
            prop_assert_eq!(outcome, again, "the same frame is treated the same way");
        }
    }

    /// With every encapsulation, under one label, a stack or one of several next hops.
    #[test]
    fn what_enters_a_pseudowire_leaves_it_again(
        op in select(vec![(Op::Label, 32), (Op::Stack, 1), (Op::Group, 1)]),
        control_word in any::<bool>(),
        flow_label in any::<bool>(),
        vid in proptest::option::of(0u16..4096),
        settings in random::settings(),
        frame in prop_oneof![random::frame().boxed(), prop::collection::vec(any::<u8>(), 0..200).boxed()],
    ) {
        let (op, operand) = op;
        let encapsulation = Encapsulation::new()
            .with_control_word(control_word)
            .with_flow_label(flow_label)
            .with_tag(vid);
        let mut tables = pseudowire_tables(RouteEntry::new(op, TtlPropagate::Default, operand, 0, 9), encapsulation);
        let entered = lab::run(&tables, settings, &frame);
        if entered.verdict == Verdict::Exception(Reason::ChecksumFinished) {
            prop_assert_eq!(settings.checksum(), Checksum::Punt);
            return Ok(());
        }
        if !matches!(entered.verdict, Verdict::Forward { .. }) {
            prop_assert_eq!(&entered.frame, &frame, "it is left as it arrived");
            let is_mac_control = frame.starts_with(&[0x01, 0x80, 0xc2, 0, 0, 1]);
            prop_assert!(is_mac_control || frame.len() < ETH_HLEN, "{:?}", entered.verdict);
            return Ok(());
        }
        prop_assert_eq!(&entered.counted[&9], &Counter { packets: 1, bytes: frame.len() as u64 });
        let Anatomy { stack, payload, .. } = anatomy(&entered.frame);
        prop_assert_eq!(stack.len(), 1 + usize::from(op == Op::Stack) + usize::from(flow_label));
        if control_word {
            prop_assert_eq!(&payload[..4], &[0; 4]);
        }
        let left = leave_again(&mut tables, settings, entered.frame.clone());
        prop_assert_eq!(left.verdict, Verdict::Forward { port: lab::TX_PORTS[1] });
        prop_assert_eq!(&left.counted[&7], &Counter { packets: 1, bytes: entered.frame.len() as u64 });
        let mut whole = MemoryFrame::new(&frame);
        let is_same = left.frame == frame || checksum::finish(&mut whole) && left.frame == whole.bytes();
        prop_assert!(is_same, "{} left as {}", show(&frame), show(&left.frame));
    }

    #[test]
    fn any_bytes_at_all_are_survived(
        world in random::world(),
        frame in prop::collection::vec(any::<u8>(), 0..200),
        ours in any::<bool>(),
    ) {
        let mut tables = MemoryTables::with_capacity(lab::CAPACITY);
        world.store(&mut tables);
        let mut frame = frame;
        if ours && let Some(start) = frame.first_chunk_mut() {
            *start = Frame::parse("[16 64]").to_bytes()[..ETH_HLEN].try_into().unwrap_or([0; ETH_HLEN]);
        }
        for settings in lab::settings() {
            prop_assert_eq!(laws(&tables, settings, &frame, &lab::run(&tables, settings, &frame)), Ok(()));
        }
    }

    /// RFC 3032 section 2.4: in a loop, every turn brings the frame closer to its end.
    #[test]
    fn in_uniform_mode_no_ttl_leaves_as_large_as_the_label_came(
        label in select(vec![100u32, 122, 128, 130, 140, 150, 160, 161]),
        beneath in prop::collection::vec((select(vec![100u32, 122, 140, 150, 160]), any::<u8>()), 0..5),
        ttl in any::<u8>(),
        packet_ttl in any::<u8>(),
    ) {
        let mut lfib = lab_tables();
        core_port(&mut lfib);
        let entries: Vec<String> = beneath.iter().map(|(label, ttl)| format!("[{label} {ttl}]")).collect();
        let frame = Frame::parse(&format!("[{label} {ttl}] {} ip ttl {packet_ttl}", entries.join(" "))).to_bytes();
        let outcome = lab::run(lfib.tables(), uniform(), &frame);
        prop_assert_eq!(uniform().ttl_mode(), TtlMode::Uniform);
        if !matches!(outcome.verdict, Verdict::Exception(_)) {
            let Anatomy { stack, payload, .. } = anatomy(&outcome.frame);
            let left = stack.first().map_or(payload[8], |lse| lse.ttl());
            prop_assert!((1..ttl).contains(&left), "{} left with {}", show(&frame), show(&outcome.frame));
        } else if ttl > 20 && beneath.len() < 4 {
            prop_assert!(false, "{} should leave, {:?}", show(&frame), outcome.verdict);
        }
    }
}

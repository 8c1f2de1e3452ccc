//! The router that all cases are about: its neighbours, ports and kernel routes. Also runs a frame through the
//! forwarding core on the host. The routes are in the case files.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use mplsxdp::dataplane::frame::MemoryFrame;
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp::dataplane::{Capacity, FtnKey, Tables};
use mplsxdp::lfib::next_hops::NextHopChange;
use mplsxdp::lfib::pass::Claim;
use mplsxdp::lfib::{Budget, Lfib, Mode, VrfDevice};
use mplsxdp::route::Owner;
use mplsxdp_common::abi::{
    Adjacency, Checksum, Counter, CrossConnect, Domain, MAX_ADJACENCIES, MAX_FTN, Op, PortWord, Reason, Settings,
    SubInterfaceKey, TtlMode, VlanTags,
};
use mplsxdp_common::forward::{Arrival, PortView as _, Verdict, forward};
use mplsxdp_common::wire::{ETH_P_8021AD, ETH_P_8021Q, Label, Mac};

use super::notation::{OWN_MAC, OWN_V4, OWN_V6, anatomy};

/// Small tables, so that tests soon reach a label, stack or counter slot beyond the end.
pub const CAPACITY: Capacity = Capacity {
    labels: 1024,
    adjacencies: MAX_ADJACENCIES,
    stacks: 64,
    groups: 16,
    backups: 16,
    counter_slots: 256,
    prefixes: MAX_FTN,
};

/// Ports through which frames can leave. Others are not in the DEVMAP.
pub const TX_PORTS: [u16; 4] = [10, 11, 13, 14];

/// VIDs, outer and inner, of the sub-interfaces of the port at which frames of cases arrive; 0 means no inner tag.
pub const ARRIVAL_TAGS: [(u16, u16); 2] = [(100, 0), (100, 10)];

/// How many sub-interfaces each port has in random tables.
pub const SUB_INTERFACES: usize = 3;

/// The number of one of a port's sub-interfaces.
pub fn sub_interface(parent: Settings, index: usize) -> u16 {
    100 + parent.port() as u16 * SUB_INTERFACES as u16 + index as u16
}

/// The number of one of the sub-interfaces in cases, by its index in [`ARRIVAL_TAGS`].
pub fn arrival_sub_interface(parent: Settings, index: usize) -> u16 {
    150 + (parent.port() as usize * ARRIVAL_TAGS.len() + index) as u16
}

/// TTL of labels pushed in pipe mode; not 255, which would hide mistakes.
pub const TUNNEL_TTL: u8 = 200;

/// A neighbour, which cases name by its device.
pub struct Neighbour {
    pub dev: &'static str,
    pub adjacency: Option<Adjacency>,
}

/// Each neighbour has its own MAC addresses, so that a frame shows where it was sent.
pub fn neighbours() -> [Neighbour; 7] {
    let neighbour = |dev, number, port, mtu| Neighbour {
        dev,
        adjacency: Some(Adjacency::new(
            Mac([2, 0, 0, 0, number, 1]),
            port,
            Mac([2, 0, 0, 0, number, 2]),
            mtu,
        )),
    };
    // Sub-interfaces have the MAC address of their parent.
    let behind_b = |dev, number, port, mtu, tags| Neighbour {
        dev,
        adjacency: Some(
            Adjacency::new(Mac([2, 0, 0, 0, number, 1]), port, Mac([2, 0, 0, 0, 0xb, 2]), mtu).with_tags(tags),
        ),
    };
    [
        neighbour("a", 0xa, TX_PORTS[0], 1500),
        neighbour("b", 0xb, TX_PORTS[1], 1500),
        neighbour("narrow", 0xc, TX_PORTS[0], 100),
        neighbour("gone", 0xd, 12, 1500),
        Neighbour {
            dev: "silent",
            adjacency: None,
        },
        behind_b("b.200", 0xe, TX_PORTS[2], 1500, VlanTags::one(ETH_P_8021Q, 200)),
        // A second tag counts against the MTU.
        behind_b(
            "b.200.10",
            0xf,
            TX_PORTS[3],
            1496,
            VlanTags::two(ETH_P_8021AD, 200, ETH_P_8021Q, 10),
        ),
    ]
}

/// The kernel's routes, besides a default route: within FTN prefixes, towards sources of packets, and for the router's
/// own networks.
pub const KERNEL_ROUTES: [&str; 6] = [
    "10.1.9.0/24",
    "2001:db8:1:9::/64",
    "203.0.113.0/24",
    "2001:db8:113::/48",
    "10.0.1.0/24",
    "2001:db8:f0::/64",
];

/// The broadcast address of the network of the router's IPv4 address.
pub const OWN_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 255);

/// The only VRF. No interface has its index, so the kernel's table has no answer.
const VRF: (&str, VrfDevice) = (
    "red",
    VrfDevice {
        ifindex: i32::MAX as u32,
        table: 10,
    },
);

/// Installs the standing routes, claims and neighbours.
pub fn install<T: Tables>(tables: T) -> Lfib<T> {
    let mut lfib = Lfib::new(tables);
    lfib.change(Mode::Add, Owner::STATIC, &super::suite().routes).unwrap();
    let place = |prefix| FtnKey::new(Domain::NO_VRF, prefix);
    let routes = KERNEL_ROUTES.map(|prefix| (place(prefix.parse().unwrap()), Some(Claim::Route)));
    let own = [IpAddr::from(OWN_V4), OWN_V6.into(), OWN_BROADCAST.into()];
    let own = own.map(|address| (place(address.into()), Some(Claim::Never)));
    lfib.set_claims(&routes.into_iter().chain(own).collect()).unwrap();
    let (name, device) = VRF;
    lfib.set_vrf_devices(BTreeMap::from([(name.into(), device)]));
    assert!(lfib.use_vrf(device.table));
    lfib.add_claims(device.table, BTreeMap::new(), None);
    while lfib.has_domain_steps() {
        lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false)).unwrap();
    }
    lfib.follow_vrfs();
    for change in lfib.take_next_hop_changes() {
        let NextHopChange::Added(id, next_hop) = change else {
            panic!("{change:?}")
        };
        let dev = next_hop.dev.unwrap();
        let neighbour = neighbours().into_iter().find(|neighbour| neighbour.dev == &*dev);
        lfib.set_next_hop(id, neighbour.unwrap().adjacency);
    }
    pseudowires::store(lfib.tables_mut());
    lfib
}

/// The settings that can be frozen into a program: every TTL mode, with and without TC propagation, each on its own
/// port. Those with TC propagation accept multi-buffer frames; each of the others treats unfinished checksums in a
/// different way.
pub fn settings() -> Vec<Settings> {
    let modes = [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux];
    let both = modes.into_iter().flat_map(|mode| [(mode, false), (mode, true)]);
    both.enumerate()
        .map(|(port, (mode, tc))| {
            let checksum = match mode {
                TtlMode::Uniform => Checksum::Finish,
                TtlMode::Pipe => Checksum::Punt,
                TtlMode::Linux => Checksum::Trust,
            };
            Settings::new(port as u32, mode, TUNNEL_TTL, tc, false)
                .with_frags(tc)
                // On the host, multi-buffer frames lack the bytes to sum.
                .with_checksum(if tc { Checksum::Trust } else { checksum })
        })
        .collect()
}

/// The kinds of ports that frames arrive at. Those with `pw` are attachment circuits.
pub const PORT_KINDS: [&str; 15] = [
    "core",
    "labels",
    "ip",
    "local",
    "tx",
    "cross",
    "cross-vlan",
    "pw",
    "pw-no-cw",
    "pw-flow",
    "pw-tagged",
    "pw-tunnel",
    "pw-narrow",
    "pw-silent",
    "pw-vlan",
];

/// Whether the real router of the cases has no such port.
pub fn is_made_up(kind: &str) -> bool {
    matches!(kind, "labels" | "cross" | "cross-vlan") || kind.starts_with("pw")
}

/// The `PORTS` entry of a kind of port.
pub fn port_word(kind: &str) -> PortWord {
    let flags = match kind {
        "core" | "cross-vlan" | "pw-vlan" => PortWord::MPLS | PortWord::IMPOSE,
        "labels" => PortWord::MPLS,
        "ip" => PortWord::IMPOSE,
        "local" => PortWord::IMPOSE | PortWord::LOCAL,
        "tx" => 0,
        "cross" => PortWord::CROSS_CONNECT,
        kind if pseudowires::attachment(kind).is_some() => PortWord::CROSS_CONNECT,
        _ => panic!("no such kind of port: {kind}"),
    };
    PortWord::new(OWN_MAC, flags)
}

/// Where the frames of the sub-interfaces go if they are cross-connected, by their indexes in [`ARRIVAL_TAGS`].
const CROSSED: [CrossConnect; ARRIVAL_TAGS.len()] = [
    CrossConnect::new(TX_PORTS[2], LONGEST)
        .without_tags(1)
        .with_tags(&[(ETH_P_8021Q, 200)]),
    CrossConnect::new(TX_PORTS[1], LONGEST).without_tags(2),
];

/// The longest frame that goes through a cross-connect, or out of a pseudowire.
const LONGEST: u16 = 1518;

/// Pseudowires. Routes of case files are about labels and prefixes, so these are stored beside them.
mod pseudowires {
    use mplsxdp::dataplane::Tables;
    use mplsxdp_common::abi::{CrossConnect, Encapsulation, LabelStack, Op, RouteEntry, TtlPropagate};
    use mplsxdp_common::wire::{ETH_P_8021Q, Label};

    use super::{ARRIVAL_TAGS, CAPACITY, LONGEST, TX_PORTS, neighbours};

    /// The first label of one. `conformance/README.md` has the list.
    const FIRST: u32 = 900;
    /// The label that the other end has chosen.
    const REMOTE: Label = Label::from_low_bits(901);
    /// The label of the LSP to the other end.
    const TUNNEL: Label = Label::from_low_bits(801);
    /// A stack that no route has.
    const STACK: u32 = CAPACITY.stacks - 2;
    /// A next hop that is not resolved.
    const SILENT: u16 = u16::MAX >> 2;

    const PLAIN: Encapsulation = Encapsulation::new();
    const WORD: Encapsulation = PLAIN.with_control_word(true);

    /// The ports whose frames enter pseudowires, and the pseudowires by their indexes.
    const ATTACHMENTS: [(&str, Encapsulation, &str); 9] = [
        ("pw", WORD, "a"),
        ("pw-no-cw", PLAIN, "a"),
        ("pw-flow", WORD.with_flow_label(true), "a"),
        ("pw-tagged", WORD.with_tag(Some(0)), "a"),
        ("pw-tunnel", WORD, "b"),
        ("pw-narrow", WORD, "narrow"),
        ("pw-silent", WORD, "silent"),
        // The sub-interfaces of `pw-vlan`.
        ("", WORD.without_tags(1), "a"),
        ("", WORD.without_tags(2).with_tag(Some(7)), "a"),
    ];

    /// The index of the first of the two.
    const BEHIND_TAGS: u32 = 7;
    pub const SUB_INTERFACES: [CrossConnect; ARRIVAL_TAGS.len()] = [
        CrossConnect::attachment_circuit(BEHIND_TAGS),
        CrossConnect::attachment_circuit(BEHIND_TAGS + 1),
    ];

    /// Where the frames of a kind of port go, if it is an attachment circuit.
    pub fn attachment(kind: &str) -> Option<CrossConnect> {
        let index = ATTACHMENTS.iter().position(|(name, ..)| *name == kind)?;
        Some(CrossConnect::attachment_circuit(index as u32))
    }

    pub fn store(tables: &mut impl Tables) {
        let to_b = CrossConnect::new(TX_PORTS[1], LONGEST);
        let to_vlan = CrossConnect::new(TX_PORTS[2], LONGEST).with_tags(&[(ETH_P_8021Q, 200)]);
        let ways_out = [
            (to_b, WORD),
            (to_b, PLAIN),
            (to_b, WORD.with_flow_label(true)),
            (to_vlan, WORD.without_tags(1)),
            (to_b, WORD.without_tags(1)),
            (to_vlan, WORD),
            (CrossConnect::NOWHERE, WORD),
        ];
        let entry = |op, operand, next_hop| RouteEntry::new(op, TtlPropagate::Default, operand, next_hop, 0);
        for (index, (cross, encapsulation)) in (0..).zip(ways_out) {
            tables.store_pseudowire(index, cross, encapsulation);
            tables.store_ilm(Label::from_low_bits(FIRST + index), entry(Op::Pseudowire, index, 0));
        }
        tables.store_stack(STACK, LabelStack::new(&[TUNNEL, REMOTE], None).unwrap());
        for (index, (kind, encapsulation, dev)) in (0..).zip(ATTACHMENTS) {
            let neighbour = neighbours().into_iter().find(|neighbour| neighbour.dev == dev);
            let adjacency = neighbour.and_then(|neighbour| neighbour.adjacency);
            let index_of = |adjacency| (0..SILENT).find(|&index| tables.adjacency(index) == adjacency);
            let next_hop = adjacency.map_or(SILENT, |adjacency| index_of(adjacency).unwrap());
            let entry = match kind {
                "pw-tunnel" => entry(Op::Stack, STACK, next_hop),
                _ => entry(Op::Label, REMOTE.get(), next_hop),
            };
            tables.store_attachment(index, entry, encapsulation);
        }
    }
}

/// Makes frames arrive at a port of this kind, and at its sub-interfaces.
pub fn store_port(tables: &mut impl Tables, settings: Settings, kind: &str) {
    let cross = pseudowires::attachment(kind).unwrap_or(CrossConnect::new(TX_PORTS[1], LONGEST));
    tables.store_cross_connect(settings.port() as u16, cross);
    let crossed = match kind {
        "pw-vlan" => pseudowires::SUB_INTERFACES,
        _ => CROSSED,
    };
    for (index, cross) in crossed.into_iter().enumerate() {
        tables.store_cross_connect(arrival_sub_interface(settings, index), cross);
    }
    let word = port_word(kind);
    let tagged = match kind {
        "cross-vlan" | "pw-vlan" => port_word("cross"),
        _ => word,
    };
    store_port_words(tables, settings, word, tagged);
}

/// The same with the word of the port and that of its sub-interfaces.
pub fn store_port_words(tables: &mut impl Tables, settings: Settings, word: PortWord, tagged: PortWord) {
    tables.store_port(settings.port() as u16, word);
    for (index, (outer, inner)) in ARRIVAL_TAGS.into_iter().enumerate() {
        let number = arrival_sub_interface(settings, index);
        tables.store_port(number, tagged);
        let key = SubInterfaceKey::new(settings.port(), outer, inner);
        tables.insert_sub_interface(key, number).unwrap();
    }
}

/// What the core did with a frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
    /// How many bytes of the frame are in other buffers, after `frame`.
    pub missing: usize,
    /// What it added to route counters, by slot; slot 0 is unused.
    pub counted: HashMap<u32, Counter>,
    /// The port whose cross-connect it went through.
    pub crossed: Option<u16>,
    /// The port at which it was forwarded in a VRF.
    pub in_vrf: Option<u16>,
}

/// Runs the core on the host.
pub fn run(tables: &MemoryTables, settings: Settings, frame: &[u8]) -> Outcome {
    run_in(tables, settings, MemoryFrame::new(frame))
}

/// As [`run`], in a given buffer.
pub fn run_in(tables: &MemoryTables, settings: Settings, mut frame: MemoryFrame) -> Outcome {
    tables.route_counters.take();
    tables.counted_reasons.take();
    let verdict = forward(&mut frame, &tables.at_wire(settings));
    let mut counted = tables.route_counters.take();
    counted.remove(&0);
    let reasons = tables.counted_reasons.borrow();
    let port_of = |wanted| {
        let mut ports = reasons.keys().filter(|(_, reason)| *reason == wanted);
        ports.next().map(|&(port, _)| port as u16)
    };
    Outcome {
        verdict,
        frame: frame.bytes().to_vec(),
        missing: frame.trimmed(),
        counted,
        crossed: port_of(Reason::CrossConnected),
        in_vrf: port_of(Reason::Vrf),
    }
}

/// Which way a frame goes that is forwarded through a pseudowire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pseudowire {
    Enters,
    Leaves,
}

/// Whether a frame that is forwarded enters or leaves a pseudowire.
pub fn pseudowire(tables: &MemoryTables, settings: Settings, frame: &[u8]) -> Option<Pseudowire> {
    let view = tables.at_wire(settings);
    let parent = settings.port();
    let is_crossed = |number: &u32| view.port(*number).has(PortWord::CROSS_CONNECT);
    let by_tags = || {
        let arrival = Arrival::of(&MemoryFrame::new(frame), &view)?;
        let by_outer_tag = || view.sub_interface(SubInterfaceKey::new(parent, arrival.outer_vid, 0));
        arrival.port.or_else(by_outer_tag)
    };
    if let Some(number) = Some(parent).filter(is_crossed).or_else(|| by_tags().filter(is_crossed)) {
        let attachment = view.cross_connect(view.port(number), number).attachment();
        return attachment.map(|_| Pseudowire::Enters);
    }
    let mut stack = anatomy(frame).stack.into_iter();
    while let Some(lse) = stack.next() {
        match (lse.label(), view.ilm(lse.label()).op()) {
            (Label::ENTROPY_INDICATOR, _) => drop(stack.next()),
            (Label::IPV4_EXPLICIT_NULL | Label::IPV6_EXPLICIT_NULL, _) => {}
            (label, Op::Local | Op::LocalPass) if !label.is_special() => {}
            (label, Op::Pseudowire) if !label.is_special() => return Some(Pseudowire::Leaves),
            _ => break,
        }
    }
    None
}

//! The router that all cases are about: its neighbours, ports and kernel routes; and running a frame through the forwarding core
//! on the host. Its routes stand in the case files.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use mplsxdp::dataplane::frame::MemoryFrame;
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp::dataplane::{Capacity, FtnKey, Tables};
use mplsxdp::lfib::next_hops::NextHopChange;
use mplsxdp::lfib::pass::Claim;
use mplsxdp::lfib::{Lfib, Mode};
use mplsxdp::route::Owner;
use mplsxdp_common::abi::{
    Adjacency, Checksum, Counter, Domain, MAX_ADJACENCIES, MAX_FTN, PortWord, Settings, SubInterfaceKey, TtlMode,
    VlanTags,
};
use mplsxdp_common::forward::{Verdict, forward};
use mplsxdp_common::wire::{ETH_P_8021AD, ETH_P_8021Q, Mac};

use super::notation::{OWN_MAC, OWN_V4, OWN_V6};

/// Small tables: a label, stack or counter slot beyond the end is soon found.
pub const CAPACITY: Capacity = Capacity {
    labels: 1024,
    adjacencies: MAX_ADJACENCIES,
    stacks: 64,
    groups: 16,
    counter_slots: 256,
    prefixes: MAX_FTN,
};

/// Ports that frames can leave by. Others are in no DEVMAP.
pub const TX_PORTS: [u16; 4] = [10, 11, 13, 14];

/// VIDs of the sub-interfaces of the port at which frames of cases arrive, outer and inner; 0: there is no inner one.
pub const ARRIVAL_TAGS: [(u16, u16); 2] = [(100, 0), (100, 10)];

/// Sub-interfaces of each port in random tables.
pub const SUB_INTERFACES: usize = 3;

/// The number of one of a port's sub-interfaces.
pub fn sub_interface(parent: Settings, index: usize) -> u16 {
    100 + parent.port() as u16 * SUB_INTERFACES as u16 + index as u16
}

/// The number of one of those that cases have, by [`ARRIVAL_TAGS`].
pub fn arrival_sub_interface(parent: Settings, index: usize) -> u16 {
    150 + (parent.port() as usize * ARRIVAL_TAGS.len() + index) as u16
}

/// TTL of labels pushed in pipe mode; not 255, which nobody would notice.
pub const TUNNEL_TTL: u8 = 200;

/// A neighbour: the cases call it by its device.
pub struct Neighbour {
    pub dev: &'static str,
    pub adjacency: Option<Adjacency>,
}

/// Every neighbour has its own MAC addresses, so that a frame shows where it was sent.
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

/// What the kernel has routes to, besides a default route: within FTN prefixes, towards sources of packets, and where the
/// router's own addresses are.
pub const KERNEL_ROUTES: [&str; 6] = [
    "10.1.9.0/24",
    "2001:db8:1:9::/64",
    "203.0.113.0/24",
    "2001:db8:113::/48",
    "10.0.1.0/24",
    "2001:db8:f0::/64",
];

/// Of the network that the router's IPv4 address is in.
pub const OWN_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 255);

/// Installs the standing routes, claims and neighbours.
pub fn install<T: Tables>(tables: T) -> Lfib<T> {
    let mut lfib = Lfib::new(tables);
    lfib.change(Mode::Add, Owner::STATIC, &super::suite().routes).unwrap();
    let place = |prefix| FtnKey::new(Domain::NO_VRF, prefix);
    let routes = KERNEL_ROUTES.map(|prefix| (place(prefix.parse().unwrap()), Some(Claim::Route)));
    let own = [IpAddr::from(OWN_V4), OWN_V6.into(), OWN_BROADCAST.into()];
    let own = own.map(|address| (place(address.into()), Some(Claim::Never)));
    lfib.set_claims(&routes.into_iter().chain(own).collect()).unwrap();
    for change in lfib.take_next_hop_changes() {
        let NextHopChange::Added(id, next_hop) = change else {
            panic!("{change:?}")
        };
        let dev = next_hop.dev.unwrap();
        let neighbour = neighbours().into_iter().find(|neighbour| neighbour.dev == &*dev);
        lfib.set_next_hop(id, neighbour.unwrap().adjacency);
    }
    lfib
}

/// The settings that a program can be frozen with: every TTL mode, with TC propagation and without. Each is at a port of
/// its own. Those with it take frames in several buffers; of the others each treats unfinished checksums in another way.
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
                // The host's frames in several buffers have lost what would be summed.
                .with_checksum(if tc { Checksum::Trust } else { checksum })
        })
        .collect()
}

/// The kinds of ports that frames arrive at.
pub const PORT_KINDS: [&str; 5] = ["core", "labels", "ip", "local", "tx"];

/// What the kinds of ports look like in `PORTS`.
pub fn port_word(kind: &str) -> PortWord {
    let flags = match kind {
        "core" => PortWord::MPLS | PortWord::IMPOSE,
        "labels" => PortWord::MPLS,
        "ip" => PortWord::IMPOSE,
        "local" => PortWord::IMPOSE | PortWord::LOCAL,
        "tx" => 0,
        _ => panic!("no such kind of port: {kind}"),
    };
    PortWord::new(OWN_MAC, flags)
}

/// Has frames arrive at a port of this kind, and at its sub-interfaces.
pub fn store_port(tables: &mut impl Tables, settings: Settings, word: PortWord) {
    tables.store_port(settings.port() as u16, word);
    for (index, (outer, inner)) in ARRIVAL_TAGS.into_iter().enumerate() {
        let number = arrival_sub_interface(settings, index);
        tables.store_port(number, word);
        let key = SubInterfaceKey::new(settings.port(), outer, inner);
        tables.insert_sub_interface(key, number).unwrap();
    }
}

/// What the core did with a frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
    /// How many bytes of the frame are in other buffers, behind `frame`.
    pub missing: usize,
    /// What it added to route counters, by slot; slot 0 is nobody's.
    pub counted: HashMap<u32, Counter>,
}

/// Runs the core on the host.
pub fn run(tables: &MemoryTables, settings: Settings, frame: &[u8]) -> Outcome {
    run_in(tables, settings, MemoryFrame::new(frame))
}

/// As [`run`], in a given buffer.
pub fn run_in(tables: &MemoryTables, settings: Settings, mut frame: MemoryFrame) -> Outcome {
    tables.route_counters.take();
    let verdict = forward(&mut frame, &tables.at_wire(settings));
    let mut counted = tables.route_counters.take();
    counted.remove(&0);
    Outcome {
        verdict,
        frame: frame.bytes().to_vec(),
        missing: frame.trimmed(),
        counted,
    }
}

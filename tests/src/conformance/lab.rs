//! The standing routes of the fixtures, and running a frame through the forwarding core on the host.

use std::collections::HashMap;
use std::num::NonZeroU8;
use std::sync::Arc;

use mplsxdp::dataplane::frame::MemoryFrame;
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp::dataplane::{Capacity, Tables};
use mplsxdp::lfib::next_hops::NextHopChange;
use mplsxdp::lfib::pass::Claim;
use mplsxdp::lfib::route::{Action, NextHop, OutLabels, Owner, Route, RouteKey, Via};
use mplsxdp::lfib::{Lfib, Mode};
use mplsxdp_common::abi::{Adjacency, Counter, MAX_ADJACENCIES, MAX_FTN, PortWord, Settings, TtlMode, TtlPropagate};
use mplsxdp_common::forward::{Verdict, forward};
use mplsxdp_common::wire::{Label, Mac};

use super::notation::OWN_MAC;

/// Small tables: a label, stack or counter slot beyond the end is soon found.
pub const CAPACITY: Capacity = Capacity {
    labels: 1024,
    adjacencies: MAX_ADJACENCIES,
    stacks: 64,
    groups: 16,
    counter_slots: 128,
    prefixes: MAX_FTN,
};

/// Ports that frames can leave by. Others are in no DEVMAP.
pub const TX_PORTS: [u16; 2] = [10, 11];

/// Sub-interfaces of each port.
pub const SUB_INTERFACES: usize = 3;

/// The number of one of a port's sub-interfaces.
pub fn sub_interface(parent: Settings, index: usize) -> u16 {
    100 + parent.port() as u16 * SUB_INTERFACES as u16 + index as u16
}

/// TTL of labels pushed in pipe mode; not 255, which nobody would notice.
pub const TUNNEL_TTL: u8 = 200;

/// A neighbour: the fixtures call it by its device.
pub struct Neighbour {
    pub dev: &'static str,
    pub adjacency: Option<Adjacency>,
}

/// Every neighbour has its own MAC addresses, so that a frame shows where it was sent.
pub fn neighbours() -> [Neighbour; 5] {
    let neighbour = |dev, number, port, mtu| Neighbour {
        dev,
        adjacency: Some(Adjacency::new(
            Mac([2, 0, 0, 0, number, 1]),
            port,
            Mac([2, 0, 0, 0, number, 2]),
            mtu,
        )),
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
    ]
}

/// Prefixes that the kernel claims within FTN prefixes.
pub const CLAIMS: [&str; 2] = ["10.1.9.0/24", "2001:db8:1:9::/64"];

/// Routes, in the order in which the fixtures list them.
pub fn routes() -> Vec<Route> {
    use TtlPropagate::{Default as AsBox, Disabled, Enabled};
    let mut routes = vec![
        swap(100, &[110], "a", AsBox),
        swap(101, &[111], "b", AsBox),
        swap(102, &[112], "a", Enabled),
        swap(103, &[113], "a", Disabled),
        swap(104, &[0], "a", AsBox),
        swap(105, &[2], "a", AsBox),
        swap(106, &[1_048_575], "a", AsBox),
    ];
    let ladder = [201, 202, 203, 204, 205, 206, 207, 208];
    routes.extend((2..=8).map(|depth| swap(120 + depth, &ladder[..depth as usize], "a", AsBox)));
    routes.extend([
        swap(130, &[201, 202], "a", Enabled),
        swap(131, &[201, 202], "a", Disabled),
        pop(140, Action::Pop, "a", AsBox),
        pop(141, Action::Pop, "a", Enabled),
        pop(142, Action::Pop, "a", Disabled),
        pop(150, Action::PenultimatePop, "a", AsBox),
        pop(151, Action::PenultimatePop, "a", Enabled),
        pop(152, Action::PenultimatePop, "a", Disabled),
        local(160, AsBox),
        local(161, Enabled),
        local(162, Disabled),
        swap(170, &[110], "narrow", AsBox),
        swap(171, &ladder[..2], "narrow", AsBox),
        swap(172, &ladder, "narrow", AsBox),
        pop(173, Action::Pop, "narrow", AsBox),
        swap(180, &[110], "silent", AsBox),
        swap(181, &ladder[..2], "silent", AsBox),
        pop(182, Action::Pop, "silent", AsBox),
        swap(190, &[110], "gone", AsBox),
    ]);
    for net in ["10.N.0.0/16", "2001:db8:N::/48"] {
        let net = |number: u32| net.replace('N', &number.to_string());
        routes.extend((1..=8).map(|depth| push(&net(depth), &ladder[..depth as usize], None, "a", AsBox)));
        routes.extend([
            push(&net(21), &[201], Some(7), "a", AsBox),
            push(&net(22), &[201, 202], Some(7), "a", AsBox),
            push(&net(23), &[201], None, "a", Enabled),
            push(&net(24), &[201], None, "a", Disabled),
            push(&net(25), &[201, 202], None, "a", Disabled),
            push(&net(31), &[201], None, "narrow", AsBox),
            push(&net(32), &[201, 202], None, "narrow", AsBox),
            push(&net(33), &[201], None, "silent", AsBox),
            push(&net(34), &[201], None, "gone", AsBox),
        ]);
    }
    routes
}

fn swap(label: u32, out: &[u32], dev: &str, ttl: TtlPropagate) -> Route {
    route(label_key(label), Action::Swap(labels(out)), Some(dev), ttl)
}

fn pop(label: u32, action: Action, dev: &str, ttl: TtlPropagate) -> Route {
    route(label_key(label), action, Some(dev), ttl)
}

fn local(label: u32, ttl: TtlPropagate) -> Route {
    route(label_key(label), Action::Local, None, ttl)
}

fn push(prefix: &str, out: &[u32], ttl: Option<u8>, dev: &str, propagate: TtlPropagate) -> Route {
    let action = Action::Push {
        labels: labels(out),
        ttl: ttl.and_then(NonZeroU8::new),
    };
    route(RouteKey::Prefix(prefix.parse().unwrap()), action, Some(dev), propagate)
}

fn route(key: RouteKey, action: Action, dev: Option<&str>, ttl: TtlPropagate) -> Route {
    let next_hop = dev.map(|dev| NextHop {
        via: Via::Inet([192, 0, 2, 2].into()),
        dev: Some(Arc::from(dev)),
    });
    Route::new(key, action, next_hop, ttl).unwrap()
}

fn label_key(label: u32) -> RouteKey {
    RouteKey::Label(Label::new(label).unwrap())
}

fn labels(labels: &[u32]) -> OutLabels {
    OutLabels::new(labels.iter().map(|&label| Label::new(label).unwrap()).collect()).unwrap()
}

/// Installs the standing routes, claims and neighbours.
pub fn install<T: Tables>(tables: T) -> Lfib<T> {
    let mut lfib = Lfib::new(tables);
    lfib.change(Mode::Add, Owner::Static, &routes()).unwrap();
    for claim in CLAIMS {
        lfib.set_claim(claim.parse().unwrap(), Claim::Route, true).unwrap();
    }
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
/// its own. Those with it take frames in several buffers.
pub fn settings() -> Vec<Settings> {
    let modes = [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux];
    let both = modes.into_iter().flat_map(|mode| [(mode, false), (mode, true)]);
    both.enumerate()
        .map(|(port, (mode, tc))| Settings::new(port as u32, mode, TUNNEL_TTL, tc, false).with_frags(tc))
        .collect()
}

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

/// What the core did with a frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
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
    let verdict = forward(&mut frame, &tables.at_port(settings));
    let mut counted = tables.route_counters.take();
    counted.remove(&0);
    Outcome {
        verdict,
        frame: frame.bytes().to_vec(),
        counted,
    }
}

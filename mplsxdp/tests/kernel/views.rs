//! The tables in the kernel and those in memory look the same to the forwarding core, at the wire and in the slow path.

use aya::programs::{TestRun as _, TestRunOptions};
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::label_ranges::LabelRanges;
use mplsxdp::dataplane::loader::{Loader, Sizes};
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp::dataplane::{FtnKey, Tables};
use mplsxdp_common::abi::{
    Adjacency, Counter, DEFAULT_BACKUPS, DEFAULT_COUNTER_SLOTS, DEFAULT_GROUPS, DEFAULT_STACKS, Domain, LabelStack,
    MAX_LABELS, Op, PortWord, RouteEntry, Settings, SubInterfaceKey, TtlMode, TtlPropagate, VlanTags,
};
use mplsxdp_common::forward;
use mplsxdp_common::wire::{ETH_P_8021Q, ETH_P_MPLS_UC, Label, Lse, Mac};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SETTINGS: Settings = Settings::new(3, TtlMode::Uniform, 255, false, false);
const SLOT: u32 = 7;
/// VLAN 100 on port 3 is port 4.
const VLAN: u16 = 100;

fn adjacency() -> Adjacency {
    Adjacency::new(MAC, 4, MAC, 1500)
}

fn fill(tables: &mut impl Tables) {
    let label = |label| Label::new(label).unwrap();
    tables.store_port(3, PortWord::new(MAC, PortWord::MPLS));
    tables.store_adjacency(5, adjacency().with_tags(VlanTags::one(ETH_P_8021Q, VLAN)));
    tables.store_ilm(
        label(100),
        RouteEntry::new(Op::Label, TtlPropagate::Default, 110, 5, SLOT),
    );
    tables.store_stack(1, LabelStack::new(&[label(200), label(201)], None).unwrap());
    tables
        .insert_sub_interface(SubInterfaceKey::new(3, VLAN, 0), 4)
        .unwrap();
}

/// What port 3 must see.
fn check(tables: &impl forward::PortView, tagged: bool) {
    let label = |label| Label::new(label).unwrap();
    assert_eq!(tables.settings().port(), 3);
    assert!(tables.port(3).has(PortWord::MPLS) && !tables.port(4).has(PortWord::MPLS));
    assert_eq!(
        (tables.ilm(label(100)).op(), tables.ilm(label(101)).op()),
        (Op::Label, Op::None)
    );
    assert_eq!(tables.label_stack(1).unwrap().depth(), 2);
    let sub_interface = tables.sub_interface(SubInterfaceKey::new(3, VLAN, 0));
    let tags = match tagged {
        true => VlanTags::one(ETH_P_8021Q, VLAN),
        false => VlanTags::NONE,
    };
    assert_eq!(sub_interface, tagged.then_some(4));
    assert_eq!(tables.adjacency(5), Some(adjacency().with_tags(tags)));
    assert_eq!(tables.adjacency(6), Some(Adjacency::default()));
    tables.count(SLOT, 64);
}

const SIZES: Sizes = Sizes {
    labels: MAX_LABELS,
    stacks: DEFAULT_STACKS,
    groups: DEFAULT_GROUPS,
    backups: DEFAULT_BACKUPS,
    counter_slots: DEFAULT_COUNTER_SLOTS,
};

#[test]
fn the_tables_in_memory_look_like_the_kernels() {
    let loader = Loader::new(SIZES).unwrap();
    let mut kernel = KernelTables::open(loader.pins(), 0).unwrap();
    fill(&mut kernel);
    check(&kernel.at_wire(SETTINGS), true);
    check(&kernel.without_tags(SETTINGS), false);
    // Only programs count there.
    assert_eq!(kernel.route_counter(SLOT).unwrap().packets, 0);

    let mut memory = MemoryTables::default();
    fill(&mut memory);
    check(&memory.without_tags(SETTINGS), false);
    assert_eq!(memory.route_counter(SLOT).unwrap().packets, 0);
    // In place of a program, the core counts as a program does.
    check(&memory.at_wire(SETTINGS), true);
    assert_eq!(memory.route_counter(SLOT).unwrap().packets, 1);
}

/// Whether ports 0 to 3 leave IP to the kernel without a look-up.
fn no_prefixes(tables: &KernelTables) -> [bool; 4] {
    let view = tables.at_wire(SETTINGS);
    [0, 1, 2, 3].map(|port| forward::PortView::port(&view, port).has(PortWord::NO_PREFIXES))
}

#[test]
fn ports_know_whether_their_domain_has_entries() {
    let loader = Loader::new(SIZES).unwrap();
    let mut kernel = KernelTables::open(loader.pins(), 0).unwrap();
    let (vrf, entry) = (Domain(7), RouteEntry::PASS);
    let key = |domain| FtnKey::new(domain, "0.0.0.0/0".parse().unwrap());
    let publish = |kernel: &mut KernelTables| assert!(kernel.publish_ftn(&mut |_| true));
    kernel.store_port(0, PortWord::new(MAC, PortWord::IMPOSE));
    kernel.store_port(1, PortWord::new(MAC, PortWord::IMPOSE).with_domain(vrf));
    kernel.store_port(2, PortWord::new(MAC, PortWord::IMPOSE | PortWord::LOCAL));
    kernel.store_port(3, PortWord::new(MAC, PortWord::MPLS));
    assert_eq!(no_prefixes(&kernel), [true, true, false, false]);
    // Before anything is published, whether or not there is room for it.
    let without_room = FtnKey::new(vrf, "10.0.0.0/8".parse().unwrap());
    assert!(kernel.insert_ftn(without_room, entry).is_err());
    assert_eq!(no_prefixes(&kernel), [true, false, false, false]);
    publish(&mut kernel);
    assert_eq!(no_prefixes(&kernel), [true, true, false, false]);
    kernel.insert_ftn(key(vrf), entry).unwrap();
    kernel.insert_ftn(key(Domain::NO_VRF), entry).unwrap();
    publish(&mut kernel);
    assert_eq!(no_prefixes(&kernel), [false; 4]);
    // Ports that come later, or move.
    kernel.store_port(0, PortWord::new(MAC, PortWord::IMPOSE).with_domain(Domain::EMPTY));
    kernel.store_port(3, PortWord::new(MAC, PortWord::IMPOSE));
    assert_eq!(no_prefixes(&kernel), [true, false, false, false]);
    // Other tables of the same maps find what is there.
    assert_eq!(
        no_prefixes(&KernelTables::open(loader.pins(), 0).unwrap()),
        no_prefixes(&kernel)
    );
    kernel.remove_ftn(key(Domain::NO_VRF)).unwrap();
    publish(&mut kernel);
    assert_eq!(no_prefixes(&kernel), [true, false, false, true]);
}

/// The labels that a port accepts.
fn accepted(tables: &KernelTables, port: u32) -> Vec<u32> {
    let view = tables.at_wire(SETTINGS);
    let labels = (16..1000).map(|label| Label::new(label).unwrap());
    let labels = labels.filter(|&label| forward::PortView::accepts_label(&view, PortWord::default(), port, label));
    labels.map(Label::get).collect()
}

#[test]
fn a_ports_label_ranges_are_replaced_by_others() {
    let loader = Loader::new(SIZES).unwrap();
    let mut kernel = KernelTables::open(loader.pins(), 0).unwrap();
    let spread = |first: u32| {
        (0..8)
            .map(|number| (first + 20 * number).to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    for text in [
        "100-109",
        "105-119,300",
        "300",
        &spread(16),
        &spread(16),
        &spread(20),
        &spread(36),
        "999",
    ] {
        let ranges: LabelRanges = text.parse().unwrap();
        kernel.store_label_ranges(3, ranges.as_slice());
        kernel.store_label_ranges(4, "500-502".parse::<LabelRanges>().unwrap().as_slice());
        let expected = ranges.as_slice().iter().flat_map(|range| range.first()..=range.last());
        assert_eq!(accepted(&kernel, 3), expected.collect::<Vec<_>>(), "{text}");
        assert_eq!(accepted(&kernel, 4), [500, 501, 502], "{text}");
        assert_eq!(accepted(&kernel, 2), [0; 0], "{text}");
    }
}

/// Each CPU counts on its own, in the slot of the entry, whichever slot it expects for the label. What is read is the
/// sum, and the slots beside it have counted nothing.
#[test]
fn frames_on_every_cpu_are_counted_in_the_slot_of_their_entry() {
    const FRAME_LEN: u64 = 60;
    let loader = Loader::new(SIZES).unwrap();
    let mut kernel = KernelTables::open(loader.pins(), 0).unwrap();
    fill(&mut kernel);
    kernel.store_adjacency(6, adjacency());
    let last = DEFAULT_COUNTER_SLOTS - 1;
    let entries = [(100, 100), (200, SLOT), (DEFAULT_COUNTER_SLOTS + 300, 300), (400, last)];
    for (label, slot) in entries {
        let entry = RouteEntry::new(Op::Label, TtlPropagate::Default, 110, 6, slot);
        kernel.store_ilm(Label::new(label).unwrap(), entry);
    }
    let program = loader.program(SETTINGS).unwrap();
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap());
    let mut sent = 0;
    for cpu in cpus {
        let mut only = CpuSet::new();
        only.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &only).unwrap();
        for (number, (label, _)) in (1..).zip(entries) {
            let lse = Lse::new(Label::new(label).unwrap(), 0, true, 64).to_bytes();
            let mut frame = [&MAC.0[..], &MAC.0, &ETH_P_MPLS_UC.to_be_bytes(), &lse].concat();
            frame.resize(FRAME_LEN as usize, 0);
            for _ in 0..number {
                let options = TestRunOptions {
                    data_in: Some(&frame),
                    ..TestRunOptions::new()
                };
                program.xdp().test_run(options).unwrap();
            }
        }
        sent += 1;
    }
    let all = kernel.route_counters(1, DEFAULT_COUNTER_SLOTS).unwrap();
    assert_eq!(all.len() as u32, last);
    let counted = (1..).zip(all).filter(|(_, counter)| *counter != Counter::default());
    let expected = [(SLOT, 2), (100, 1), (300, 3), (last, 4)].map(|(slot, number)| {
        let packets = number * sent;
        (
            slot,
            Counter {
                packets,
                bytes: packets * FRAME_LEN,
            },
        )
    });
    assert_eq!(counted.collect::<Vec<_>>(), expected);
    for (slot, counter) in expected {
        assert_eq!(kernel.route_counter(slot).unwrap(), counter);
    }
}

//! The tables in the kernel and those in memory look the same to the forwarding core, at the wire and in the slow path.

use mplsxdp::dataplane::Tables;
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::loader::{Loader, Sizes};
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp_common::abi::{
    Adjacency, DEFAULT_COUNTER_SLOTS, DEFAULT_GROUPS, DEFAULT_STACKS, LabelStack, MAX_LABELS, Op, PortWord, RouteEntry,
    Settings, SubInterfaceKey, TtlMode, TtlPropagate, VlanTags,
};
use mplsxdp_common::forward;
use mplsxdp_common::wire::{ETH_P_8021Q, Label, Mac};

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

#[test]
fn the_tables_in_memory_look_like_the_kernels() {
    let sizes = Sizes {
        labels: MAX_LABELS,
        stacks: DEFAULT_STACKS,
        groups: DEFAULT_GROUPS,
        counter_slots: DEFAULT_COUNTER_SLOTS,
    };
    let loader = Loader::new(sizes).unwrap();
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

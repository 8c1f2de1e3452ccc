//! The tables as the forwarding core reads them for a frame in this process.

use mplsxdp_common::abi::{
    Adjacency, CrossConnect, Domain, Encapsulation, LabelRange, LabelStack, PortWord, Reason, RouteEntry, Settings,
    SubInterfaceKey, TRAFFIC_CLASS_WORDS, VlanTags, VrfWord,
};
use mplsxdp_common::fib::FibLookup;
use mplsxdp_common::forward::{self, Frame};
use mplsxdp_common::wire::Label;

use super::{KernelTables, PAIR_WORDS, PSEUDOWIRE_WORDS, STACK_WORDS, label_range_words};
use crate::dataplane::{Tables, ftn};

/// [`KernelTables`] as seen at one port.
#[derive(Clone, Copy)]
pub struct AtPort<'a> {
    pub(super) tables: &'a KernelTables,
    pub(super) settings: Settings,
    /// Frames may have VLAN tags.
    pub(super) tagged: bool,
}

impl forward::PortView for AtPort<'_> {
    fn settings(&self) -> Settings {
        self.settings
    }

    fn port(&self, number: u32) -> PortWord {
        PortWord::from_bits(self.tables.ports.get(number as usize).unwrap_or(0))
    }

    fn accepts_label(&self, _port: PortWord, number: u32, label: Label) -> bool {
        let mut words = label_range_words(number).map(|index| self.tables.label_ranges.get(index));
        words.any(|word| LabelRange::from_bits(word.unwrap_or(0)).contains(label))
    }

    fn cross_connect(&self, _port: PortWord, number: u32) -> CrossConnect {
        let word = self.tables.cross_connects.get(number as usize);
        word.map_or(CrossConnect::NOWHERE, CrossConnect::from_bits)
    }

    fn pseudowire(&self, index: u32) -> (CrossConnect, Encapsulation) {
        let word = |word| self.tables.pseudowires.get(index as usize * PSEUDOWIRE_WORDS + word);
        let cross = word(0).map_or(CrossConnect::NOWHERE, CrossConnect::from_bits);
        (cross, Encapsulation::from_bits(word(1).unwrap_or(0)))
    }

    fn attachment(&self, index: u32) -> (RouteEntry, Encapsulation) {
        let word = |word| {
            self.tables
                .attachments
                .get(index as usize * PSEUDOWIRE_WORDS + word)
                .unwrap_or(0)
        };
        (RouteEntry::from_bits(word(0)), Encapsulation::from_bits(word(1)))
    }

    fn traffic_classes(&self, port: PortWord, number: u32, index: usize) -> u64 {
        let word = number as usize * TRAFFIC_CLASS_WORDS + index;
        let classes = || self.tables.traffic_classes.get(word);
        port.has(PortWord::CLASSES).then(classes).flatten().unwrap_or(0)
    }

    fn sub_interface(&self, key: SubInterfaceKey) -> Option<u32> {
        let found = self.tagged.then(|| self.tables.sub_interfaces.get(&key.to_bits(), 0));
        found?.ok()
    }

    fn ilm(&self, label: Label) -> RouteEntry {
        RouteEntry::from_bits(self.tables.ilm.get(label.get() as usize).unwrap_or(0))
    }

    fn ftn_v4(&self, domain: Domain, destination: [u8; 4]) -> RouteEntry {
        ftn::look_up(self.tables.ftn.memory(), domain, destination.into())
    }

    fn ftn_v6(&self, domain: Domain, destination: [u8; 16]) -> RouteEntry {
        ftn::look_up(self.tables.ftn.memory(), domain, destination.into())
    }

    fn adjacency(&self, index: u16) -> Option<Adjacency> {
        (u32::from(index) < self.tables.capacity.adjacencies)
            .then(|| Tables::adjacency(self.tables, index))
            .map(|adjacency| match self.tagged {
                true => adjacency,
                false => adjacency.with_tags(VlanTags::NONE),
            })
    }

    fn label_stack(&self, index: u32) -> Option<&LabelStack> {
        self.tables
            .stacks
            .slice(index as usize * STACK_WORDS, STACK_WORDS)
            .map(|words| {
                // SAFETY: the words of one stack, aligned for more than it needs; any bits are a LabelStack. They are
                // written only by `store_stack`, which borrows the tables mutably.
                unsafe { words.cast().as_ref() }
            })
    }

    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry {
        self.tables.bucket(group, bucket)
    }

    fn protected(&self, pair: u32) -> [RouteEntry; 2] {
        let word = |index| self.tables.backups.get(pair as usize * PAIR_WORDS + index);
        [0, 1].map(|index| RouteEntry::from_bits(word(index).unwrap_or(0)))
    }

    fn vrf(&self, index: u32) -> VrfWord {
        VrfWord::from_bits(self.tables.vrfs.get(index as usize).unwrap_or(0))
    }

    /// Only programs can ask.
    fn fib<F: Frame>(&self, _frame: &F, _lookup: &mut FibLookup) -> bool {
        false
    }

    fn way_out(&self, ifindex: u32) -> Option<CrossConnect> {
        let way_out = self.tables.ways_out.get(&ifindex, 0).ok();
        way_out.map(CrossConnect::from_bits)
    }

    fn hash_seed(&self) -> u32 {
        self.tables.hash_seed
    }

    fn count(&self, _slot: u32, _bytes: usize) {}

    fn count_reason(&self, _port: u32, _reason: Reason, _bytes: usize) {}
}

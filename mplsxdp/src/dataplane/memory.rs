//! The tables in ordinary memory, written by the LFIB and read by the forwarding core, for tests without a kernel.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;
use mplsxdp_common::abi::{
    Adjacency, Counter, CrossConnect, DEFAULT_BACKUPS, DEFAULT_GROUPS, Domain, Encapsulation, LabelRange, LabelStack,
    Loss, MAX_ADJACENCIES, MAX_FTN, MAX_LABELS, MAX_PSEUDOWIRES, PortWord, Reason, RouteEntry, Settings,
    SubInterfaceKey, TrafficClasses, VlanTags, VrfWord,
};
use mplsxdp_common::fib::FibLookup;
use mplsxdp_common::forward::{self, Frame};
use mplsxdp_common::ip::Family;
use mplsxdp_common::wire::{Label, Mac};

use super::ftn::{self, Heap, Trie};
use super::{Capacity, FtnKey, GracePeriod, TableError, TableMemory, Tables, adjacency_writes};

/// One step in what readers of the adjacencies can see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdjacencyEvent {
    Stored {
        index: u16,
        word: usize,
        value: u64,
    },
    /// No reader is left.
    Emptied {
        index: u16,
    },
    GraceBegun(GracePeriod),
    /// This grace period and all before it are over.
    GraceOver(GracePeriod),
}

/// A route of the kernel's table of a VRF, for the tables that answer instead of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FibRoute {
    /// The interface index of the VRF device.
    pub vrf: u32,
    pub prefix: IpNet,
    /// `None`: only the kernel can handle its packets.
    pub to: Option<FibNextHop>,
}

/// A resolved neighbour behind one of the kernel's interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FibNextHop {
    pub ifindex: u32,
    /// The largest packet.
    pub mtu: usize,
    pub source: Mac,
    pub destination: Mac,
}

/// All tables. What was stored through the trait can be read back through the fields.
#[derive(Debug)]
pub struct MemoryTables {
    capacity: Capacity,
    pub ilm: HashMap<Label, RouteEntry>,
    pub adjacencies: HashMap<u16, Adjacency>,
    pub stacks: HashMap<u32, LabelStack>,
    pub buckets: HashMap<(u32, u8), RouteEntry>,
    pub pairs: HashMap<u32, [RouteEntry; 2]>,
    /// What was written to the FTN; readers have `trie`.
    pub ftn: BTreeMap<FtnKey, RouteEntry>,
    trie: Trie<Heap>,
    pub ports: HashMap<u16, PortWord>,
    pub label_ranges: HashMap<u16, Vec<LabelRange>>,
    pub cross_connects: HashMap<u16, CrossConnect>,
    pub pseudowires: HashMap<u32, (CrossConnect, Encapsulation)>,
    pub attachments: HashMap<u32, (RouteEntry, Encapsulation)>,
    pub traffic_classes: HashMap<u16, TrafficClasses>,
    pub vrfs: HashMap<u32, VrfWord>,
    pub ways_out: HashMap<u32, CrossConnect>,
    /// The answers of the kernel's FIB.
    pub fib: Vec<FibRoute>,
    /// The interfaces that frames are redirected to, by port.
    pub tx_ports: HashMap<u16, u32>,
    pub sub_interfaces: HashMap<SubInterfaceKey, u16>,
    pub hash_seed: u32,
    pub route_counters: RefCell<HashMap<u32, Counter>>,
    /// Frames that the core has counted for a port and reason.
    pub counted_reasons: RefCell<HashMap<(u32, Reason), Counter>>,
    /// How many grace periods have begun.
    pub grace_periods: u64,
    /// How many of them are over; `None`: each is over at once.
    pub grace_periods_over: Option<u64>,
    /// They are over only after so many questions whether one is.
    pub questions_until_over: Cell<usize>,
    /// What readers of the adjacencies may have seen, in order, if it is recorded.
    pub adjacency_events: Option<Vec<AdjacencyEvent>>,
    /// How many more FTN inserts succeed.
    pub ftn_inserts_left: usize,
    /// How many more FTN removals succeed.
    pub ftn_removals_left: usize,
    /// What was written to the FTN, in order: entries inserted, and removed.
    pub ftn_writes: Vec<(FtnKey, Option<RouteEntry>)>,
}

impl Default for MemoryTables {
    fn default() -> Self {
        Self::with_capacity(Capacity {
            labels: MAX_LABELS,
            adjacencies: MAX_ADJACENCIES,
            stacks: 1024,
            groups: DEFAULT_GROUPS,
            backups: DEFAULT_BACKUPS,
            counter_slots: 1024,
            prefixes: MAX_FTN,
        })
    }
}

impl MemoryTables {
    pub fn with_capacity(capacity: Capacity) -> Self {
        Self {
            capacity,
            ilm: HashMap::new(),
            adjacencies: HashMap::new(),
            stacks: HashMap::new(),
            buckets: HashMap::new(),
            pairs: HashMap::new(),
            ftn: BTreeMap::new(),
            trie: Trie::new(Heap::default()),
            ports: HashMap::new(),
            label_ranges: HashMap::new(),
            cross_connects: HashMap::new(),
            pseudowires: HashMap::new(),
            attachments: HashMap::new(),
            traffic_classes: HashMap::new(),
            vrfs: HashMap::new(),
            ways_out: HashMap::new(),
            fib: Vec::new(),
            tx_ports: HashMap::new(),
            sub_interfaces: HashMap::new(),
            hash_seed: 0,
            route_counters: RefCell::default(),
            counted_reasons: RefCell::default(),
            grace_periods: 0,
            grace_periods_over: None,
            questions_until_over: Cell::default(),
            adjacency_events: None,
            ftn_inserts_left: usize::MAX,
            ftn_removals_left: usize::MAX,
            ftn_writes: Vec::new(),
        }
    }

    /// The FTN entry that `address` has in a domain by what was written.
    pub fn longest_match(&self, domain: Domain, address: IpAddr) -> RouteEntry {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (0..=bits)
            .rev()
            .filter_map(|length| IpNet::new(address, length).ok())
            .find_map(|prefix| self.ftn.get(&FtnKey::new(domain, prefix.trunc())).copied())
            .unwrap_or_default()
    }

    /// Ends the grace periods that have begun; later ones do not end at once.
    pub fn end_grace_periods(&mut self) {
        self.grace_periods_over = Some(self.grace_periods);
        self.record(AdjacencyEvent::GraceOver(GracePeriod(self.grace_periods)));
    }

    /// The trie has room for what one write takes.
    fn make_room(&mut self) {
        const NODES: usize = 1 << 10;
        if self.trie.room() >= NODES {
            return;
        }
        let retired = self.trie.take_retired();
        self.trie.release(&retired);
        let next = self.trie.chunks();
        if self.trie.room() < NODES && self.trie.memory().grow(next) {
            self.trie.add_chunk(next);
        }
    }

    fn record(&mut self, event: AdjacencyEvent) {
        if let Some(events) = &mut self.adjacency_events {
            events.push(event);
        }
    }

    /// The tables as the program of a port with these settings sees them, for frames as on the wire.
    pub fn at_wire(&self, settings: Settings) -> AtPort<'_> {
        AtPort {
            tables: self,
            settings,
            tagged: true,
        }
    }

    /// The same for frames without VLAN tags: the slow path's frames lose them on arrival and get them again on
    /// departure. Nothing is counted.
    pub fn without_tags(&self, settings: Settings) -> AtPort<'_> {
        AtPort {
            tagged: false,
            ..self.at_wire(settings)
        }
    }
}

impl Tables for MemoryTables {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn store_ilm(&mut self, label: Label, entry: RouteEntry) {
        assert!(label.get() < self.capacity.labels, "label {label} is beyond the table");
        self.ilm.insert(label, entry);
    }

    fn store_adjacency(&mut self, index: u16, adjacency: Adjacency) {
        if adjacency == Adjacency::default() {
            self.record(AdjacencyEvent::Emptied { index });
        } else {
            for (word, value) in adjacency_writes(Tables::adjacency(self, index), adjacency) {
                self.record(AdjacencyEvent::Stored { index, word, value });
            }
        }
        self.adjacencies.insert(index, adjacency);
    }

    fn adjacency(&self, index: u16) -> Adjacency {
        self.adjacencies.get(&index).copied().unwrap_or_default()
    }

    fn store_stack(&mut self, index: u32, stack: LabelStack) {
        assert!(index < self.capacity.stacks, "stack {index} is beyond the table");
        self.stacks.insert(index, stack);
    }

    fn store_bucket(&mut self, group: u32, bucket: u8, entry: RouteEntry) {
        assert!(group < self.capacity.groups, "group {group} is beyond the table");
        self.buckets.insert((group, bucket), entry);
    }

    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry {
        self.buckets.get(&(group, bucket)).copied().unwrap_or_default()
    }

    fn store_pair(&mut self, pair: u32, entries: [RouteEntry; 2]) {
        assert!(pair < self.capacity.backups, "pair {pair} is beyond the table");
        self.pairs.insert(pair, entries);
    }

    fn insert_ftn(&mut self, key: FtnKey, entry: RouteEntry) -> Result<(), TableError> {
        if self.ftn_inserts_left == 0 {
            return Err(ftn_error("insert", std::io::ErrorKind::OutOfMemory));
        }
        let key = FtnKey::new(key.domain, key.prefix.trunc());
        if !self.ftn.contains_key(&key) && self.ftn.len() >= self.capacity.prefixes as usize {
            return Err(ftn_error("insert", std::io::ErrorKind::StorageFull));
        }
        self.make_room();
        self.trie
            .insert(key, entry)
            .map_err(|_| ftn_error("insert", std::io::ErrorKind::StorageFull))?;
        self.ftn_inserts_left -= 1;
        self.ftn.insert(key, entry);
        self.ftn_writes.push((key, Some(entry)));
        Ok(())
    }

    fn remove_ftn(&mut self, key: FtnKey) -> Result<(), TableError> {
        if self.ftn_removals_left == 0 {
            return Err(ftn_error("remove", std::io::ErrorKind::ResourceBusy));
        }
        self.make_room();
        self.trie
            .remove(key)
            .map_err(|_| ftn_error("remove", std::io::ErrorKind::StorageFull))?;
        let key = FtnKey::new(key.domain, key.prefix.trunc());
        if self.ftn.remove(&key).is_some() {
            self.ftn_removals_left -= 1;
            self.ftn_writes.push((key, None));
        }
        Ok(())
    }

    fn publish_ftn(&mut self, spend: &mut dyn FnMut(usize) -> bool) -> bool {
        self.trie.publish_step(spend)
    }

    fn is_ftn_published(&self) -> bool {
        self.trie.is_published()
    }

    fn needs_publishing(&self) -> bool {
        self.trie.needs_publishing(0)
    }

    fn await_ftn_room(&mut self) -> Option<GracePeriod> {
        None
    }

    fn store_port(&mut self, port: u16, word: PortWord) {
        self.ports.insert(port, word);
    }

    fn store_label_ranges(&mut self, port: u16, ranges: &[LabelRange]) {
        self.label_ranges.insert(port, ranges.to_vec());
    }

    fn store_cross_connect(&mut self, port: u16, cross: CrossConnect) {
        self.cross_connects.insert(port, cross);
    }

    fn store_pseudowire(&mut self, index: u32, cross: CrossConnect, encapsulation: Encapsulation) {
        assert!(index < MAX_PSEUDOWIRES, "pseudowire {index} is beyond the table");
        self.pseudowires.insert(index, (cross, encapsulation));
    }

    fn store_attachment(&mut self, index: u32, entry: RouteEntry, encapsulation: Encapsulation) {
        assert!(index < MAX_PSEUDOWIRES, "attachment {index} is beyond the table");
        self.attachments.insert(index, (entry, encapsulation));
    }

    fn store_traffic_classes(&mut self, port: u16, classes: TrafficClasses) {
        self.traffic_classes.insert(port, classes);
    }

    fn store_vrf(&mut self, index: u32, word: VrfWord) {
        self.vrfs.insert(index, word);
    }

    fn set_way_out(&mut self, ifindex: u32, way_out: CrossConnect) -> Result<(), TableError> {
        self.ways_out.insert(ifindex, way_out);
        Ok(())
    }

    fn remove_way_out(&mut self, ifindex: u32) -> Result<(), TableError> {
        self.ways_out.remove(&ifindex);
        Ok(())
    }

    fn set_tx_port(&mut self, port: u16, ifindex: u32) -> Result<(), TableError> {
        self.tx_ports.insert(port, ifindex);
        Ok(())
    }

    fn clear_tx_port(&mut self, port: u16) -> Result<(), TableError> {
        self.tx_ports.remove(&port);
        Ok(())
    }

    fn insert_sub_interface(&mut self, key: SubInterfaceKey, port: u16) -> Result<(), TableError> {
        self.sub_interfaces.insert(key, port);
        Ok(())
    }

    fn remove_sub_interface(&mut self, key: SubInterfaceKey) -> Result<(), TableError> {
        self.sub_interfaces.remove(&key);
        Ok(())
    }

    fn begin_grace_period(&mut self) -> GracePeriod {
        self.grace_periods += 1;
        let period = GracePeriod(self.grace_periods);
        self.record(AdjacencyEvent::GraceBegun(period));
        period
    }

    fn is_over(&self, period: GracePeriod) -> bool {
        if let Some(left) = self.questions_until_over.get().checked_sub(1) {
            self.questions_until_over.set(left);
            return false;
        }
        self.grace_periods_over.is_none_or(|over| period.0 <= over)
    }

    fn route_counter(&self, slot: u32) -> Result<Counter, TableError> {
        Ok(self.route_counters.borrow().get(&slot).copied().unwrap_or_default())
    }

    fn route_counters(&self, first: u32, count: u32) -> Result<Vec<Counter>, TableError> {
        let end = self.capacity.counter_slots.min(first.saturating_add(count));
        (first..end).map(|slot| self.route_counter(slot)).collect()
    }

    fn reason_counter(&self, _port: u16, _reason: Reason) -> Result<Counter, TableError> {
        Ok(Counter::default())
    }

    fn loss_counter(&self, _port: u16, _reason: Reason, _loss: Loss) -> Result<Counter, TableError> {
        Ok(Counter::default())
    }

    fn redirect_lost(&self, _port: u16) -> Result<Counter, TableError> {
        Ok(Counter::default())
    }

    fn clear_reason_counters(&mut self, _port: u16) -> Result<(), TableError> {
        Ok(())
    }

    fn memory(&self) -> Result<Vec<TableMemory>, TableError> {
        Ok(Vec::new())
    }
}

fn ftn_error(operation: &'static str, kind: std::io::ErrorKind) -> TableError {
    TableError {
        map: "FTN",
        operation,
        source: kind.into(),
    }
}

/// [`MemoryTables`] as seen at one port.
#[derive(Clone, Copy, Debug)]
pub struct AtPort<'a> {
    tables: &'a MemoryTables,
    settings: Settings,
    /// Frames may have VLAN tags.
    tagged: bool,
}

impl forward::PortView for AtPort<'_> {
    fn settings(&self) -> Settings {
        self.settings
    }

    fn port(&self, number: u32) -> PortWord {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let word = self.tables.ports.get(&number).copied().unwrap_or_default();
        word.with_no_prefixes(self.tables.trie.is_empty(word.domain()))
    }

    fn accepts_label(&self, _port: PortWord, number: u32, label: Label) -> bool {
        let ranges = self.tables.label_ranges.get(&(number as u16));
        ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(label)))
    }

    fn cross_connect(&self, _port: PortWord, number: u32) -> CrossConnect {
        let cross = self.tables.cross_connects.get(&(number as u16));
        cross.copied().unwrap_or_default()
    }

    fn pseudowire(&self, index: u32) -> (CrossConnect, Encapsulation) {
        // As for adjacencies.
        match index < MAX_PSEUDOWIRES {
            true => self.tables.pseudowires.get(&index).copied().unwrap_or_default(),
            false => (CrossConnect::NOWHERE, Encapsulation::new()),
        }
    }

    fn attachment(&self, index: u32) -> (RouteEntry, Encapsulation) {
        self.tables.attachments.get(&index).copied().unwrap_or_default()
    }

    fn traffic_classes(&self, port: PortWord, number: u32, index: usize) -> u64 {
        let classes = || self.tables.traffic_classes.get(&(number as u16)).copied();
        let classes = port.has(PortWord::CLASSES).then(classes).flatten();
        classes.unwrap_or_default().to_words().get(index).copied().unwrap_or(0)
    }

    fn sub_interface(&self, key: SubInterfaceKey) -> Option<u32> {
        let found = self.tagged.then(|| self.tables.sub_interfaces.get(&key));
        found?.copied().map(u32::from)
    }

    fn ilm(&self, label: Label) -> RouteEntry {
        self.tables.ilm.get(&label).copied().unwrap_or_default()
    }

    fn ftn_v4(&self, domain: Domain, destination: [u8; 4]) -> RouteEntry {
        ftn::look_up(self.tables.trie.memory(), domain, destination.into())
    }

    fn ftn_v6(&self, domain: Domain, destination: [u8; 16]) -> RouteEntry {
        ftn::look_up(self.tables.trie.memory(), domain, destination.into())
    }

    fn adjacency(&self, index: u16) -> Option<Adjacency> {
        // A slot of the kernel's array that was never written is zero, too.
        let adjacency = (u32::from(index) < self.tables.capacity.adjacencies)
            .then(|| self.tables.adjacencies.get(&index).copied().unwrap_or_default())?;
        Some(match self.tagged {
            true => adjacency,
            false => adjacency.with_tags(VlanTags::NONE),
        })
    }

    fn label_stack(&self, index: u32) -> Option<&LabelStack> {
        // As for adjacencies.
        (index < self.tables.capacity.stacks).then(|| self.tables.stacks.get(&index).unwrap_or(&LabelStack::EMPTY))
    }

    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry {
        self.tables.bucket(group, bucket)
    }

    fn protected(&self, pair: u32) -> [RouteEntry; 2] {
        self.tables.pairs.get(&pair).copied().unwrap_or_default()
    }

    fn vrf(&self, index: u32) -> VrfWord {
        self.tables.vrfs.get(&index).copied().unwrap_or_default()
    }

    fn fib<F: Frame>(&self, _frame: &F, lookup: &mut FibLookup) -> bool {
        let destination = lookup.destination();
        let [a, b, c, d, ..] = destination;
        let destination: IpAddr = match lookup.family() {
            Family::V4 => [a, b, c, d].into(),
            Family::V6 => destination.into(),
        };
        let routes = self.tables.fib.iter();
        let routes = routes.filter(|route| route.vrf == lookup.ifindex() && route.prefix.contains(&destination));
        let longest = routes.max_by_key(|route| route.prefix.prefix_len());
        let next_hop = longest.and_then(|route| route.to).filter(|to| lookup.len() <= to.mtu);
        let Some(next_hop) = next_hop.filter(|_| self.tagged) else {
            return false;
        };
        *lookup = lookup.answered(next_hop.ifindex, next_hop.source, next_hop.destination);
        true
    }

    fn way_out(&self, ifindex: u32) -> Option<CrossConnect> {
        self.tables.ways_out.get(&ifindex).copied()
    }

    fn hash_seed(&self) -> u32 {
        self.tables.hash_seed
    }

    fn count(&self, slot: u32, bytes: usize) {
        if self.tagged {
            count(&self.tables.route_counters, slot, bytes);
        }
    }

    fn count_reason(&self, port: u32, reason: Reason, bytes: usize) {
        if self.tagged {
            count(&self.tables.counted_reasons, (port, reason), bytes);
        }
    }
}

fn count<K: Eq + Hash>(counters: &RefCell<HashMap<K, Counter>>, key: K, bytes: usize) {
    let mut counters = counters.borrow_mut();
    let counter = counters.entry(key).or_default();
    counter.packets += 1;
    counter.bytes += bytes as u64;
}

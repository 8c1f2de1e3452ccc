//! The tables in the kernel: BPF arrays mapped into this process and written by single stores. [`counters`] has the
//! counters, [`view`] the tables as the forwarding core reads them.

mod counters;
mod view;

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::maps::{DevMap, HashMap, Map, MapData, MapError, XskMap};
use mplsxdp_common::abi::{
    ABI_VERSION, Adjacency, BUCKETS, Counter, CrossConnect, Domain, Encapsulation, FTN_ROOTS, LABEL_RANGE_WORDS,
    LabelRange, LabelStack, Loss, MAX_FTN, MAX_PORTS, MAX_PSEUDOWIRES, MAX_QUEUES, MAX_VRFS, META_MAGIC, PortWord,
    REASON_SLOTS, REDIRECT_LOST_SLOT, Reason, RouteEntry, Settings, SubInterfaceKey, TRAFFIC_CLASS_WORDS,
    TrafficClasses, VrfWord, map,
};
use mplsxdp_common::wire::Label;

use self::counters::{CounterArray, RouteCounters};
pub use self::counters::{CounterReader, CounterReaders};
pub use self::view::AtPort;
use super::ftn::kernel::KernelFtn;
use super::grace::GracePeriods;
use super::loader::{Pins, SHARED_MAPS};
use super::mapped::MappedWords;
use super::{Capacity, FtnKey, GracePeriod, TableError, TableMemory, Tables, adjacency_writes, bpf};

const ADJACENCY_WORDS: usize = size_of::<Adjacency>() / size_of::<u64>();
/// A domain's number is one byte.
const MAX_DOMAINS: usize = 1 << u8::BITS;
const STACK_WORDS: usize = size_of::<LabelStack>() / size_of::<u64>();
/// A next hop's entry, and its backup's.
const PAIR_WORDS: usize = 2;
/// Where the frames of a pseudowire go, and its encapsulation.
const PSEUDOWIRE_WORDS: usize = 2;

/// The maps of one running switch.
pub struct KernelTables {
    ilm: MappedWords,
    adjacencies: MappedWords,
    stacks: MappedWords,
    groups: MappedWords,
    backups: MappedWords,
    ports: MappedWords,
    ftn: KernelFtn,
    /// Which domains may have entries: their ports do not have [`PortWord::NO_PREFIXES`].
    filled: [bool; MAX_DOMAINS],
    label_ranges: MappedWords,
    cross_connects: MappedWords,
    pseudowires: MappedWords,
    attachments: MappedWords,
    traffic_classes: MappedWords,
    vrfs: MappedWords,
    ways_out: HashMap<MapData, u32, u64>,
    sub_interfaces: HashMap<MapData, u64, u32>,
    tx_ports: DevMap<MapData>,
    /// `tx_ports` again: aya's type cannot delete.
    tx_ports_map: MapData,
    /// The port on each interface.
    interfaces: HashMap<MapData, u32, u32>,
    xsks: XskMap<MapData>,
    route_counters: RouteCounters,
    reason_counters: CounterArray,
    grace_periods: GracePeriods,
    hash_seed: u32,
    capacity: Capacity,
    memory: Vec<TableMemory>,
}

impl KernelTables {
    /// Opens the maps that the first loaded program created, and marks them as this version's. `hash_seed` is frozen
    /// into the programs.
    pub fn open(pins: &Pins, hash_seed: u32) -> Result<Self, TableError> {
        let open = |name| pins.open(name).map_err(|error| table_error(name, "open", error));
        let (ilm, adjacencies, stacks, groups, backups, ports) = (
            open(map::ILM)?,
            open(map::ADJACENCIES)?,
            open(map::STACKS)?,
            open(map::GROUPS)?,
            open(map::BACKUPS)?,
            open(map::PORTS)?,
        );
        let entries = |name, map: &MapData| {
            map.info()
                .map(|info| info.max_entries())
                .map_err(|error| table_error(name, "read the size", error))
        };
        let route_counters = RouteCounters::open(pins)?;
        let capacity = Capacity {
            labels: entries(map::ILM, &ilm)?,
            adjacencies: entries(map::ADJACENCIES, &adjacencies)?,
            stacks: entries(map::STACKS, &stacks)?,
            groups: entries(map::GROUPS, &groups)?,
            backups: entries(map::BACKUPS, &backups)?,
            counter_slots: route_counters.slots(),
            prefixes: MAX_FTN,
        };
        let memory = SHARED_MAPS
            .iter()
            .map(|&name| memory_of(name, &open(name)?))
            .collect::<Result<_, _>>()?;

        let pseudowire_words = |name| MappedWords::new(name, &open(name)?, MAX_PSEUDOWIRES as usize * PSEUDOWIRE_WORDS);
        let mut meta: aya::maps::Array<MapData, [u32; 2]> = typed(map::META, Map::Array(open(map::META)?))?;
        meta.set(0, [META_MAGIC, ABI_VERSION], 0)
            .map_err(|error| table_error(map::META, "update", error))?;
        let mut tables = Self {
            ilm: MappedWords::new(map::ILM, &ilm, capacity.labels as usize)?,
            adjacencies: MappedWords::new(
                map::ADJACENCIES,
                &adjacencies,
                capacity.adjacencies as usize * ADJACENCY_WORDS,
            )?,
            stacks: MappedWords::new(map::STACKS, &stacks, capacity.stacks as usize * STACK_WORDS)?,
            groups: MappedWords::new(map::GROUPS, &groups, capacity.groups as usize * BUCKETS)?,
            backups: MappedWords::new(map::BACKUPS, &backups, capacity.backups as usize * PAIR_WORDS)?,
            ports: MappedWords::new(map::PORTS, &ports, MAX_PORTS as usize)?,
            ftn: KernelFtn::new(
                MappedWords::new(map::FTN_ROOTS, &open(map::FTN_ROOTS)?, FTN_ROOTS as usize)?,
                descriptor(map::FTN, &open(map::FTN)?)?,
            ),
            filled: [true; MAX_DOMAINS],
            label_ranges: MappedWords::new(
                map::LABEL_RANGES,
                &open(map::LABEL_RANGES)?,
                MAX_PORTS as usize * LABEL_RANGE_WORDS,
            )?,
            cross_connects: MappedWords::new(map::CROSS_CONNECTS, &open(map::CROSS_CONNECTS)?, MAX_PORTS as usize)?,
            pseudowires: pseudowire_words(map::PSEUDOWIRES)?,
            attachments: pseudowire_words(map::ATTACHMENTS)?,
            traffic_classes: MappedWords::new(
                map::TRAFFIC_CLASSES,
                &open(map::TRAFFIC_CLASSES)?,
                MAX_PORTS as usize * TRAFFIC_CLASS_WORDS,
            )?,
            vrfs: MappedWords::new(map::VRFS, &open(map::VRFS)?, MAX_VRFS as usize)?,
            ways_out: typed(map::WAYS_OUT, Map::HashMap(open(map::WAYS_OUT)?))?,
            sub_interfaces: typed(map::SUB_INTERFACES, Map::HashMap(open(map::SUB_INTERFACES)?))?,
            tx_ports: typed(map::TX_PORTS, Map::DevMap(open(map::TX_PORTS)?))?,
            tx_ports_map: open(map::TX_PORTS)?,
            interfaces: typed(map::INTERFACES, Map::HashMap(open(map::INTERFACES)?))?,
            xsks: typed(map::XSKS, Map::XskMap(open(map::XSKS)?))?,
            route_counters,
            reason_counters: CounterArray::open(pins, map::REASON_COUNTERS)?,
            grace_periods: GracePeriods::new()?,
            hash_seed,
            capacity,
            memory,
        };
        tables.find_empty_domains();
        Ok(tables)
    }

    /// Has the ports of a domain without entries leave IP to the kernel. Everything must be published.
    fn find_empty_domains(&mut self) {
        for domain in (0..=u8::MAX).map(Domain) {
            let filled = usize::from(domain.0);
            if self.filled[filled] && self.ftn.is_empty(domain) {
                self.filled[filled] = false;
                self.mark_ports(domain);
            }
        }
    }

    /// Stores again the words of the ports of a domain.
    fn mark_ports(&self, domain: Domain) {
        for port in 0..MAX_PORTS as usize {
            let word = PortWord::from_bits(self.ports.load(port));
            let marked = self.marked(word);
            if word.domain() == domain && marked != word {
                self.ports.store(port, marked.to_bits());
            }
        }
    }

    /// A port's word, with the hint that belongs to it.
    fn marked(&self, word: PortWord) -> PortWord {
        word.with_no_prefixes(!self.filled[usize::from(word.domain().0)])
    }

    /// The tables as the program of a port with these settings sees them, for frames as on the wire. Nothing is
    /// counted.
    pub fn at_wire(&self, settings: Settings) -> AtPort<'_> {
        AtPort {
            tables: self,
            settings,
            tagged: true,
        }
    }

    /// The same for frames without VLAN tags: the slow path's frames lose them on arrival and get them again on
    /// departure.
    pub fn without_tags(&self, settings: Settings) -> AtPort<'_> {
        AtPort {
            tagged: false,
            ..self.at_wire(settings)
        }
    }

    /// Punts what arrives on this queue of `port` to an AF_XDP socket, until the socket is closed.
    pub fn set_listener(&mut self, port: u16, queue: u32, socket: BorrowedFd<'_>) -> Result<(), TableError> {
        let index = u32::from(port) * MAX_QUEUES + queue;
        self.xsks
            .set(index, socket, 0)
            .map_err(|error| table_error(map::XSKS, "update", error))
    }

    /// Returns when a grace period has ended since the last call.
    pub async fn grace_period_ended(&self) {
        self.grace_periods.ended().await;
    }

    /// Handles for all counters. They can be used on another thread.
    pub fn counter_readers(&self) -> Result<CounterReaders, TableError> {
        Ok(CounterReaders {
            routes: self.route_counters.clone(),
            reasons: self.reason_counters.reader()?,
        })
    }
}

impl Tables for KernelTables {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn store_ilm(&mut self, label: Label, entry: RouteEntry) {
        self.ilm.store(label.get() as usize, entry.to_bits());
    }

    fn store_adjacency(&mut self, index: u16, adjacency: Adjacency) {
        let first = usize::from(index) * ADJACENCY_WORDS;
        for (offset, word) in adjacency_writes(Tables::adjacency(self, index), adjacency) {
            self.adjacencies.store(first + offset, word);
        }
    }

    fn adjacency(&self, index: u16) -> Adjacency {
        let first = usize::from(index) * ADJACENCY_WORDS;
        Adjacency::from_words([0, 1, 2, 3].map(|offset| self.adjacencies.load(first + offset)))
    }

    fn store_stack(&mut self, index: u32, stack: LabelStack) {
        for (offset, word) in stack.words().into_iter().enumerate() {
            self.stacks.store(index as usize * STACK_WORDS + offset, word);
        }
    }

    fn store_bucket(&mut self, group: u32, bucket: u8, entry: RouteEntry) {
        self.groups
            .store(group as usize * BUCKETS + usize::from(bucket), entry.to_bits());
    }

    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry {
        let index = group as usize * BUCKETS + usize::from(bucket);
        RouteEntry::from_bits(self.groups.get(index).unwrap_or(0))
    }

    fn store_pair(&mut self, pair: u32, entries: [RouteEntry; 2]) {
        let first = pair as usize * PAIR_WORDS;
        for (index, entry) in (first..).zip(entries.map(RouteEntry::to_bits)) {
            if self.backups.load(index) != entry {
                self.backups.store(index, entry);
            }
        }
    }

    fn insert_ftn(&mut self, key: FtnKey, entry: RouteEntry) -> Result<(), TableError> {
        if !mem::replace(&mut self.filled[usize::from(key.domain.0)], true) {
            // Before anything is published.
            self.mark_ports(key.domain);
        }
        self.ftn.insert(key, entry).map_err(|source| TableError {
            map: map::FTN,
            operation: "insert into",
            source,
        })
    }

    fn remove_ftn(&mut self, key: FtnKey) -> Result<(), TableError> {
        self.ftn.remove(key).map_err(|source| TableError {
            map: map::FTN,
            operation: "remove from",
            source,
        })
    }

    fn publish_ftn(&mut self, spend: &mut dyn FnMut(usize) -> bool) -> bool {
        let is_published = self.ftn.publish_step(&mut self.grace_periods, spend);
        if is_published {
            self.find_empty_domains();
        }
        is_published
    }

    fn is_ftn_published(&self) -> bool {
        self.ftn.is_published()
    }

    fn needs_publishing(&self) -> bool {
        self.ftn.needs_publishing()
    }

    fn await_ftn_room(&mut self) -> Option<GracePeriod> {
        self.ftn.await_room(&mut self.grace_periods)
    }

    fn store_port(&mut self, port: u16, word: PortWord) {
        self.ports.store(port.into(), self.marked(word).to_bits());
    }

    fn store_label_ranges(&mut self, port: u16, ranges: &[LabelRange]) {
        let slots = label_range_words(port.into());
        let wanted: Vec<u64> = ranges.iter().map(|range| range.to_bits()).collect();
        let (kept, mut others): (Vec<_>, Vec<_>) =
            slots.partition(|&slot| wanted.contains(&self.label_ranges.load(slot)));
        // Free ones are taken first: the old ranges must be there until the new ones are.
        others.sort_by_key(|&slot| std::cmp::Reverse(self.label_ranges.load(slot) == 0));
        let kept: Vec<u64> = kept.into_iter().map(|slot| self.label_ranges.load(slot)).collect();
        let mut others = others.into_iter();
        for (word, slot) in wanted.iter().filter(|word| !kept.contains(word)).zip(&mut others) {
            self.label_ranges.store(slot, *word);
        }
        for slot in others {
            self.label_ranges.store(slot, 0);
        }
    }

    fn store_cross_connect(&mut self, port: u16, cross: CrossConnect) {
        self.cross_connects.store(port.into(), cross.to_bits());
    }

    fn store_pseudowire(&mut self, index: u32, cross: CrossConnect, encapsulation: Encapsulation) {
        store_pseudowire(&self.pseudowires, index, cross.to_bits(), encapsulation);
    }

    fn store_attachment(&mut self, index: u32, entry: RouteEntry, encapsulation: Encapsulation) {
        store_pseudowire(&self.attachments, index, entry.to_bits(), encapsulation);
    }

    fn store_traffic_classes(&mut self, port: u16, classes: TrafficClasses) {
        let first = usize::from(port) * TRAFFIC_CLASS_WORDS;
        for (index, word) in (first..).zip(classes.to_words()) {
            self.traffic_classes.store(index, word);
        }
    }

    fn store_vrf(&mut self, index: u32, word: VrfWord) {
        self.vrfs.store(index as usize, word.to_bits());
    }

    fn set_way_out(&mut self, ifindex: u32, way_out: CrossConnect) -> Result<(), TableError> {
        self.ways_out
            .insert(ifindex, way_out.to_bits(), 0)
            .map_err(|error| table_error(map::WAYS_OUT, "insert into", error))
    }

    fn remove_way_out(&mut self, ifindex: u32) -> Result<(), TableError> {
        match self.ways_out.remove(&ifindex) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(table_error(map::WAYS_OUT, "remove from", error)),
        }
    }

    fn set_tx_port(&mut self, port: u16, ifindex: u32) -> Result<(), TableError> {
        const BPF_NOEXIST: u64 = 1;
        match self.interfaces.insert(ifindex, u32::from(port), BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(|error| table_error(map::INTERFACES, "insert into", error))?,
        }
        self.tx_ports
            .set(port.into(), ifindex, None, 0)
            .map_err(|source| TableError {
                map: map::TX_PORTS,
                operation: "update",
                source: io::Error::other(source),
            })
    }

    fn clear_tx_port(&mut self, port: u16) -> Result<(), TableError> {
        let interfaces = self.interfaces.iter().filter_map(Result::ok);
        let redirected: Vec<u32> = interfaces
            .filter(|&(_, number)| number == u32::from(port))
            .map(|(ifindex, _)| ifindex)
            .collect();
        for ifindex in redirected {
            self.interfaces
                .remove(&ifindex)
                .map_err(|error| table_error(map::INTERFACES, "remove from", error))?;
        }
        match bpf::delete_element(self.tx_ports_map.fd().as_fd(), u32::from(port)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TableError {
                map: map::TX_PORTS,
                operation: "delete from",
                source: error,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn insert_sub_interface(&mut self, key: SubInterfaceKey, port: u16) -> Result<(), TableError> {
        self.sub_interfaces
            .insert(key.to_bits(), u32::from(port), 0)
            .map_err(|error| table_error(map::SUB_INTERFACES, "insert into", error))
    }

    fn remove_sub_interface(&mut self, key: SubInterfaceKey) -> Result<(), TableError> {
        match self.sub_interfaces.remove(&key.to_bits()) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(table_error(map::SUB_INTERFACES, "remove from", error)),
        }
    }

    fn begin_grace_period(&mut self) -> GracePeriod {
        self.grace_periods.begin()
    }

    fn is_over(&self, period: GracePeriod) -> bool {
        self.grace_periods.is_over(period)
    }

    fn route_counter(&self, slot: u32) -> Result<Counter, TableError> {
        Ok(self.route_counters.get(slot))
    }

    fn route_counters(&self, first: u32, count: u32) -> Result<Vec<Counter>, TableError> {
        Ok(self.route_counters.read(first, count))
    }

    fn reason_counter(&self, port: u16, reason: Reason) -> Result<Counter, TableError> {
        self.reason_counters.get(reason_slot(port, reason.slot()))
    }

    fn loss_counter(&self, port: u16, reason: Reason, loss: Loss) -> Result<Counter, TableError> {
        // Frames that are not punted have no such slot: another counter would be in its place.
        if reason.is_punted() {
            self.reason_counters.get(reason_slot(port, loss.slot(reason)))
        } else {
            Ok(Counter::default())
        }
    }

    fn redirect_lost(&self, port: u16) -> Result<Counter, TableError> {
        self.reason_counters.get(reason_slot(port, REDIRECT_LOST_SLOT))
    }

    fn clear_reason_counters(&mut self, port: u16) -> Result<(), TableError> {
        (0..REASON_SLOTS).try_for_each(|slot| self.reason_counters.clear(reason_slot(port, slot)))
    }

    fn memory(&self) -> Result<Vec<TableMemory>, TableError> {
        let mut memory = self.memory.clone();
        if let Some(ftn) = memory.iter_mut().find(|table| table.name == map::FTN) {
            ftn.entries = 2 * MAX_FTN;
            ftn.bytes += self.ftn.bytes();
        }
        if let Some(counters) = memory.iter_mut().find(|table| table.name == map::ROUTE_COUNTERS) {
            counters.entries = self.route_counters.slots();
        }
        Ok(memory)
    }
}

/// `map` as the type that matches its contents.
fn typed<T: TryFrom<Map, Error = MapError>>(name: &'static str, map: Map) -> Result<T, TableError> {
    T::try_from(map).map_err(|error| table_error(name, "open", error))
}

fn table_error(map: &'static str, operation: &'static str, error: MapError) -> TableError {
    let source = match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    };
    TableError { map, operation, source }
}

fn memory_of(name: &'static str, map: &MapData) -> Result<TableMemory, TableError> {
    let (entries, bytes) = bpf::size_and_memory(map.fd().as_fd()).map_err(|source| TableError {
        map: name,
        operation: "read the size",
        source,
    })?;
    Ok(TableMemory { name, entries, bytes })
}

/// A descriptor of its own.
fn descriptor(name: &'static str, map: &MapData) -> Result<OwnedFd, TableError> {
    let descriptor = map.fd().as_fd().try_clone_to_owned();
    descriptor.map_err(|source| TableError {
        map: name,
        operation: "keep the descriptor",
        source,
    })
}

/// The places of a port's words in `LABEL_RANGES`.
fn label_range_words(port: u32) -> Range<usize> {
    let first = port as usize * LABEL_RANGE_WORDS;
    first..first + LABEL_RANGE_WORDS
}

/// Stores the two words of a pseudowire. Its encapsulation changes only while nothing refers to it, so it is stored first.
fn store_pseudowire(words: &MappedWords, index: u32, way: u64, encapsulation: Encapsulation) {
    let first = index as usize * PSEUDOWIRE_WORDS;
    if words.load(first + 1) != encapsulation.to_bits() {
        words.store(first + 1, encapsulation.to_bits());
    }
    words.store(first, way);
}

/// The slot of `REASON_COUNTERS` that is a port's `slot`.
fn reason_slot(port: u16, slot: u32) -> u32 {
    u32::from(port) * REASON_SLOTS + slot
}

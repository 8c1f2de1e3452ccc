//! The counters. Those of routes are in an array that is mapped, those of reasons in a per-CPU array, which is read and
//! zeroed by the bpf system call.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use mplsxdp_common::abi::{Counter, CounterSlots, map};

use super::{descriptor, table_error, typed};
use crate::dataplane::loader::{Pins, cpus};
use crate::dataplane::mapped::MappedWords;
use crate::dataplane::{TableError, bpf};

/// A counter as aya reads it: packets, bytes.
type CounterWords = [u64; COUNTER_WORDS];

const COUNTER_WORDS: usize = size_of::<Counter>() / size_of::<u64>();

/// The counters of routes.
#[derive(Clone)]
pub struct RouteCounters {
    words: Arc<MappedWords>,
    slots: u32,
    cpus: u32,
}

impl RouteCounters {
    const NAME: &str = map::ROUTE_COUNTERS;

    pub(super) fn open(pins: &Pins) -> Result<Self, TableError> {
        let map = pins.open(Self::NAME);
        let map = map.map_err(|error| table_error(Self::NAME, "open", error))?;
        let info = map.info();
        let entries = info
            .map_err(|error| table_error(Self::NAME, "read the size", error))?
            .max_entries();
        let cpus = cpus().map_err(|source| error(Self::NAME, "count the CPUs for", source))?;
        Ok(Self {
            words: Arc::new(MappedWords::new(Self::NAME, &map, entries as usize * COUNTER_WORDS)?),
            slots: entries / cpus,
            cpus,
        })
    }

    /// Slots of each CPU.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn get(&self, slot: u32) -> Counter {
        self.read(slot, 1).first().copied().unwrap_or_default()
    }

    /// The counters of `count` slots from `first` on; fewer at the end of the table.
    pub fn read(&self, first: u32, count: u32) -> Vec<Counter> {
        let end = self.slots.min(first.saturating_add(count));
        let layout = CounterSlots::new(self.slots);
        let mut counters = vec![Counter::default(); end.saturating_sub(first) as usize];
        for cpu in 0..self.cpus {
            for (slot, sum) in (first..).zip(&mut counters) {
                let word = layout.index(cpu, slot) as usize * COUNTER_WORDS;
                sum.packets = sum.packets.wrapping_add(self.words.load(word));
                sum.bytes = sum.bytes.wrapping_add(self.words.load(word + 1));
            }
        }
        counters
    }
}

/// One array of counters.
pub(super) struct CounterArray {
    slots: PerCpuArray<MapData, CounterWords>,
    /// `slots` again: aya's type reads one slot at a time.
    reader: CounterReader,
}

impl CounterArray {
    pub fn open(pins: &Pins, name: &'static str) -> Result<Self, TableError> {
        let open = || pins.open(name).map_err(|error| table_error(name, "open", error));
        let possible_cpus = nr_cpus().map_err(|(_, source)| error(name, "count the CPUs for", source))?;
        Ok(Self {
            slots: typed(name, Map::PerCpuArray(open()?))?,
            reader: CounterReader {
                name,
                map: descriptor(name, &open()?)?,
                possible_cpus,
            },
        })
    }

    pub fn get(&self, slot: u32) -> Result<Counter, TableError> {
        let values = self.slots.get(&slot, 0);
        let values = values.map_err(|error| table_error(self.reader.name, "read", error))?;
        Ok(total(&values))
    }

    pub fn clear(&mut self, slot: u32) -> Result<(), TableError> {
        let CounterReader {
            name, possible_cpus, ..
        } = self.reader;
        let zero = PerCpuValues::try_from(vec![[0; 2]; possible_cpus]);
        let zero = zero.map_err(|source| error(name, "make values for", source))?;
        let cleared = self.slots.set(slot, zero, 0);
        cleared.map_err(|error| table_error(name, "update", error))
    }

    pub fn reader(&self) -> Result<CounterReader, TableError> {
        let CounterReader {
            name,
            ref map,
            possible_cpus,
        } = self.reader;
        let map = map.try_clone();
        Ok(CounterReader {
            name,
            map: map.map_err(|source| error(name, "keep the descriptor", source))?,
            possible_cpus,
        })
    }
}

/// Handles for all counters.
pub struct CounterReaders {
    /// By counter slots of routes.
    pub routes: RouteCounters,
    /// By ports, then reasons.
    pub reasons: CounterReader,
}

/// Reads many counters at a time.
pub struct CounterReader {
    name: &'static str,
    map: OwnedFd,
    possible_cpus: usize,
}

impl CounterReader {
    /// The counters of `count` slots from `first` on; fewer at the end of the table.
    pub fn read(&self, first: u32, count: u32) -> Result<Vec<Counter>, TableError> {
        let mut keys = vec![0; count as usize];
        let mut values: Vec<CounterWords> = vec![[0; 2]; count as usize * self.possible_cpus];
        let read = bpf::lookup_batch(self.map.as_fd(), first, &mut keys, &mut values);
        let read = read.map_err(|source| error(self.name, "read", source))?;
        Ok(values.chunks(self.possible_cpus).take(read).map(total).collect())
    }
}

fn total(values: &[CounterWords]) -> Counter {
    values.iter().fold(Counter::default(), |sum, [packets, bytes]| Counter {
        packets: sum.packets.wrapping_add(*packets),
        bytes: sum.bytes.wrapping_add(*bytes),
    })
}

fn error(map: &'static str, operation: &'static str, source: io::Error) -> TableError {
    TableError { map, operation, source }
}

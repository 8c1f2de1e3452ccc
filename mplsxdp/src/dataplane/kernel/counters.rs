//! The counters: per-CPU arrays, read and zeroed by the bpf system call.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use mplsxdp_common::abi::Counter;

use super::{descriptor, table_error, typed};
use crate::dataplane::loader::Pins;
use crate::dataplane::{TableError, bpf};

/// A counter as aya reads it: packets, bytes.
type CounterWords = [u64; 2];

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

    /// As [`CounterReader::read`].
    pub fn read(&self, first: u32, count: u32) -> Result<Vec<Counter>, TableError> {
        self.reader.read(first, count)
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
    pub routes: CounterReader,
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

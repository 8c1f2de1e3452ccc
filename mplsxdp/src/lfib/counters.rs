//! The counters of routes. The XDP program only adds to a slot, and nobody ever sets one to zero, so that the total of all slots
//! never goes backwards: a route counts from the figure at which it got its slot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use mplsxdp_common::abi::Counter;

use super::pool::SlotPool;
use crate::dataplane::{TableError, Tables};

const WORD: usize = u64::BITS as usize;

/// Who has which slot of the counter table, and since which figure.
#[derive(Debug)]
pub struct Counters {
    slots: SlotPool,
    /// By slot, its figure when the route that has it got it; zero beyond the end.
    baselines: Vec<Counter>,
    /// By slot, one bit each: its frames are forwarded frames. A slot that was given back keeps its bit until it is taken anew.
    forwarding: Vec<u64>,
    /// What to add to the figures of those slots: what was counted in slots that count as forwarded no more, less what slots
    /// had counted before they did. Modulo 2^64.
    correction: Counter,
    totals: Vec<Weak<Total>>,
}

impl Counters {
    /// For a table with this many slots, of which slot 0 counts for nobody.
    pub fn new(end: u32) -> Self {
        Self {
            slots: SlotPool::new(1, end),
            baselines: Vec::new(),
            forwarding: Vec::new(),
            correction: Counter::default(),
            totals: Vec::new(),
        }
    }

    /// A slot that counts from now on, or 0 if none is left.
    pub fn take(&mut self, tables: &impl Tables) -> u32 {
        match self.slots.take() {
            Some((slot, true)) => {
                match tables.route_counter(slot) {
                    Ok(raw) => self.set_baseline(slot, raw),
                    Err(error) => tracing::warn!(slot, %error, "a counter goes on from an older route's count"),
                }
                slot
            }
            Some((slot, false)) => slot,
            None => 0,
        }
    }

    fn set_baseline(&mut self, slot: u32, raw: Counter) {
        let index = slot as usize;
        if self.baselines.len() <= index && raw != Counter::default() {
            self.baselines.resize(index + 1, Counter::default());
        }
        if let Some(baseline) = self.baselines.get_mut(index) {
            *baseline = raw;
        }
    }

    fn baseline(&self, slot: u32) -> Counter {
        self.baselines.get(slot as usize).copied().unwrap_or_default()
    }

    /// What the route that has `slot` has counted, if the table says `raw`.
    pub fn since_taken(&self, slot: u32, raw: Counter) -> Counter {
        minus(raw, self.baseline(slot))
    }

    /// Whether the frames of `slot` are forwarded frames from now on. `is_new`: its route is about to be published, and the slot
    /// has not changed since it was taken.
    pub fn set_forwarding(
        &mut self,
        slot: u32,
        forwarding: bool,
        is_new: bool,
        tables: &impl Tables,
    ) -> Result<(), TableError> {
        let (word, bit) = place(slot);
        let was = self.forwarding.get(word).is_some_and(|bits| bits & bit != 0);
        if slot == 0 || was == forwarding {
            return Ok(());
        }
        let raw = if is_new {
            self.baseline(slot)
        } else {
            tables.route_counter(slot)?
        };
        if self.forwarding.len() <= word {
            self.forwarding.resize(word + 1, 0);
        }
        self.forwarding[word] ^= bit;
        if forwarding {
            self.correction = minus(self.correction, raw);
        } else {
            self.correction = plus(self.correction, raw);
            for total in self.totals.iter().filter_map(Weak::upgrade) {
                total.add(slot, raw);
            }
        }
        Ok(())
    }

    /// Begins to add up what all slots have forwarded.
    pub fn total(&mut self) -> Arc<Total> {
        let total = Arc::new(Total {
            pending: self.forwarding.iter().copied().map(AtomicU64::new).collect(),
            packets: self.correction.packets.into(),
            bytes: self.correction.bytes.into(),
        });
        self.totals.retain(|total| total.strong_count() > 0);
        self.totals.push(Arc::downgrade(&total));
        total
    }

    /// Gives back a slot that no entry points to any more.
    pub fn hold_back(&mut self, slot: u32) {
        self.slots.hold_back(slot);
    }

    pub fn has_held_back(&self) -> bool {
        self.slots.has_held_back()
    }

    pub fn take_held_back(&mut self) -> Vec<u32> {
        self.slots.take_held_back()
    }

    pub fn release(&mut self, slots: &[u32]) {
        self.slots.release(slots);
    }
}

/// A sum over slots that another thread reads while routes come and go: each slot goes into it once, as it was at some moment
/// between the beginning and the end. So one total that begins after another has ended is never less.
#[derive(Debug)]
pub struct Total {
    /// The slots that are not in the sum yet.
    pending: Vec<AtomicU64>,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Total {
    /// How many slots are read at a time.
    pub const BATCH: u32 = 4096;

    /// Reads all slots that are not in the sum yet, with `read`, which tells the figures of so many slots from one on.
    pub fn finish<E>(&self, mut read: impl FnMut(u32, u32) -> Result<Vec<Counter>, E>) -> Result<Counter, E> {
        let words = Self::BATCH as usize / WORD;
        for (index, pending) in self.pending.chunks(words).enumerate() {
            if pending.iter().all(|bits| bits.load(Ordering::Relaxed) == 0) {
                continue;
            }
            let first = index as u32 * Self::BATCH;
            let raw = read(first, (pending.len() * WORD) as u32)?;
            // A slot that has stopped counting meanwhile, and may be another route's, is in the sum already.
            for (slot, raw) in (first..).zip(raw) {
                self.add(slot, raw);
            }
        }
        Ok(Counter {
            packets: self.packets.load(Ordering::Acquire),
            bytes: self.bytes.load(Ordering::Acquire),
        })
    }

    /// Takes a slot into the sum, unless it is in it. Its figure must have been read before the call.
    fn add(&self, slot: u32, raw: Counter) {
        let (word, bit) = place(slot);
        let Some(pending) = self.pending.get(word) else { return };
        if pending.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
            self.packets.fetch_add(raw.packets, Ordering::AcqRel);
            self.bytes.fetch_add(raw.bytes, Ordering::AcqRel);
        }
    }
}

fn place(slot: u32) -> (usize, u64) {
    (slot as usize / WORD, 1 << (slot as usize % WORD))
}

fn plus(one: Counter, other: Counter) -> Counter {
    Counter {
        packets: one.packets.wrapping_add(other.packets),
        bytes: one.bytes.wrapping_add(other.bytes),
    }
}

fn minus(one: Counter, other: Counter) -> Counter {
    Counter {
        packets: one.packets.wrapping_sub(other.packets),
        bytes: one.bytes.wrapping_sub(other.bytes),
    }
}

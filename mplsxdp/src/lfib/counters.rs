//! The counters of routes. The XDP program only adds to a slot and nobody sets one to zero, so the total of all slots
//! never goes backwards. A route counts from the value that its slot had when the route got it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use mplsxdp_common::abi::{Counter, CounterSlots};

use crate::dataplane::{TableError, Tables};
use crate::route::RouteKey;

const WORD: usize = u64::BITS as usize;
/// How many slots are read at a time before they are handed out.
const AHEAD: usize = 1024;

/// Which slots of the counter table are in use, and the value from which each counts.
#[derive(Debug)]
pub struct Counters {
    layout: CounterSlots,
    /// The end of the table.
    end: u32,
    free: FreeSlots,
    /// By slot, one bit: it was handed out before, so it may have counted.
    used: Vec<u64>,
    held_back: Vec<u32>,
    /// The routes that have other slots than the program expects: prefixes, and labels whose likely slot was taken.
    others: HashMap<u32, RouteKey>,
    /// The values of a range of slots, read when all free slots in it were already free. Nothing counts in a free slot.
    ahead: (u32, Vec<Counter>),
    /// By slot: packets and bytes at the time its route got it; empty while all are zero.
    baselines: Vec<[u64; 2]>,
    /// By slot, one bit: its frames count as forwarded. A released slot keeps its bit until it is handed out again.
    forwarding: Vec<u64>,
    /// A correction to the sum of those slots: adds what was counted in slots that no longer count as forwarded, and
    /// subtracts what slots had counted before they did. Modulo 2^64.
    correction: Counter,
    totals: Vec<Weak<Total>>,
}

impl Counters {
    /// For a table with this many slots; slot 0 is used by no route.
    pub fn new(end: u32) -> Self {
        Self {
            layout: CounterSlots::new(end),
            end,
            free: FreeSlots::all(1..end),
            used: vec![0; (end as usize).div_ceil(WORD)],
            held_back: Vec::new(),
            others: HashMap::new(),
            ahead: (0, Vec::new()),
            baselines: Vec::new(),
            forwarding: Vec::new(),
            correction: Counter::default(),
            totals: Vec::new(),
        }
    }

    /// A slot that counts from now on for the route of `key`, or 0 if none is left. A label gets the slot that the
    /// program expects if it is free. Others get the last one that is free, because the first ones are those of small
    /// labels.
    pub fn take(&mut self, key: RouteKey, tables: &impl Tables) -> u32 {
        let likely = match key {
            RouteKey::Label(label) => Some(self.layout.likely(label)).filter(|&slot| self.free.contains(slot)),
            RouteKey::Prefix(_) | RouteKey::Attachment(_) => None,
        };
        let Some(slot) = likely.or_else(|| self.free.last()) else {
            return 0;
        };
        let (word, bit) = place(slot);
        if self.used[word] & bit != 0 {
            match self.figure(slot, tables) {
                Ok(raw) => self.set_baseline(slot, raw),
                Err(error) => tracing::warn!(slot, %error, "a counter continues from an older route's count"),
            }
        }
        self.used[word] |= bit;
        self.free.remove(slot);
        // Ports are renamed, and there are few of them.
        if likely.is_none() && !matches!(key, RouteKey::Attachment(_)) {
            self.others.insert(slot, key);
        }
        slot
    }

    /// The prefix, or the labels, that may have `slot`.
    pub fn keys_of(&self, slot: u32) -> impl Iterator<Item = RouteKey> {
        let labels = self.layout.labels(slot).map(RouteKey::Label);
        self.others.get(&slot).copied().into_iter().chain(labels)
    }

    /// The value of a free slot. The slots after it are read with it, because they are likely to be handed out next.
    fn figure(&mut self, slot: u32, tables: &impl Tables) -> Result<Counter, TableError> {
        let known = |(first, figures): &(u32, Vec<Counter>)| {
            let index = slot.checked_sub(*first)?;
            figures.get(index as usize).copied()
        };
        if let Some(figure) = known(&self.ahead) {
            return Ok(figure);
        }
        let count = self.free.dense(slot, AHEAD);
        self.ahead = (slot, tables.route_counters(slot, count as u32)?);
        Ok(known(&self.ahead).unwrap_or_default())
    }

    fn set_baseline(&mut self, slot: u32, raw: Counter) {
        if self.baselines.is_empty() && raw != Counter::default() {
            self.baselines = vec![[0; 2]; self.end as usize];
        }
        if let Some(baseline) = self.baselines.get_mut(slot as usize) {
            *baseline = [raw.packets, raw.bytes];
        }
    }

    fn baseline(&self, slot: u32) -> Counter {
        let [packets, bytes] = self.baselines.get(slot as usize).copied().unwrap_or_default();
        Counter { packets, bytes }
    }

    /// Where the route that has `slot` is counted.
    pub fn place(&self, slot: u32) -> CountedAt {
        CountedAt {
            slot,
            since: self.baseline(slot),
        }
    }

    /// Sets whether the frames of `slot` count as forwarded from now on. `is_new`: its route is about to be published,
    /// and the slot has not changed since it was handed out.
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

    /// Starts a sum of what all slots have forwarded.
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
        self.others.remove(&slot);
        self.held_back.push(slot);
    }

    pub fn has_held_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// Takes the slots that are held back, to be released after a grace period that begins now.
    pub fn take_held_back(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.held_back)
    }

    /// Releases slots: no reader is left.
    pub fn release(&mut self, slots: &[u32]) {
        for &slot in slots {
            self.free.insert(slot);
        }
        // Some of them may have counted in the meantime.
        self.ahead.1.clear();
    }
}

/// A set of slots.
#[derive(Debug)]
struct FreeSlots {
    bits: Vec<u64>,
    /// No word from this one on has a free slot.
    end_word: usize,
}

impl FreeSlots {
    /// The least number of free slots for which a word is worth reading whole.
    const DENSE: u32 = u64::BITS / 4;

    fn all(slots: std::ops::Range<u32>) -> Self {
        let mut free = Self {
            bits: vec![0; (slots.end as usize).div_ceil(WORD)],
            end_word: 0,
        };
        slots.for_each(|slot| free.insert(slot));
        free
    }

    fn contains(&self, slot: u32) -> bool {
        let (word, bit) = place(slot);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn insert(&mut self, slot: u32) {
        let (word, bit) = place(slot);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits |= bit;
            self.end_word = self.end_word.max(word + 1);
        }
    }

    fn remove(&mut self, slot: u32) {
        let (word, bit) = place(slot);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits &= !bit;
        }
    }

    fn last(&mut self) -> Option<u32> {
        let rest = self.bits.iter().take(self.end_word).rev();
        self.end_word -= rest.take_while(|&&bits| bits == 0).count();
        let word = self.end_word.checked_sub(1)?;
        Some(word as u32 * u64::BITS + self.bits[word].ilog2())
    }

    /// How many slots from `slot` on are worth reading at once: up to the end of the last of the consecutive words with
    /// many free ones, about `most` at most.
    fn dense(&self, slot: u32, most: usize) -> usize {
        let (word, _) = place(slot);
        let words = self.bits.iter().skip(word).take(most / WORD);
        let dense = words.take_while(|bits| bits.count_ones() >= Self::DENSE).count();
        ((word + dense) * WORD).saturating_sub(slot as usize).max(1)
    }
}

/// Where a route is counted: its slot, and the slot's value when the route got it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountedAt {
    pub slot: u32,
    since: Counter,
}

impl CountedAt {
    #[cfg(test)]
    pub fn new(slot: u32, since: Counter) -> Self {
        Self { slot, since }
    }

    /// What the route has counted, if the table has the value `raw`.
    pub fn counted(self, raw: Counter) -> Counter {
        minus(raw, self.since)
    }
}

/// A sum over slots that another thread reads while routes come and go. Each slot enters it once, with its value at
/// some moment between the beginning and the end. So a total that begins after another has ended is never less.
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

    /// Reads all slots that are not in the sum yet. `read` returns the values of a number of slots from one on.
    pub fn finish<E>(&self, mut read: impl FnMut(u32, u32) -> Result<Vec<Counter>, E>) -> Result<Counter, E> {
        let words = Self::BATCH as usize / WORD;
        for (index, pending) in self.pending.chunks(words).enumerate() {
            if pending.iter().all(|bits| bits.load(Ordering::Relaxed) == 0) {
                continue;
            }
            let first = index as u32 * Self::BATCH;
            let raw = read(first, (pending.len() * WORD) as u32)?;
            // A slot that has stopped counting in the meantime, and may belong to another route, is already in the sum.
            for (slot, raw) in (first..).zip(raw) {
                self.add(slot, raw);
            }
        }
        Ok(Counter {
            packets: self.packets.load(Ordering::Acquire),
            bytes: self.bytes.load(Ordering::Acquire),
        })
    }

    /// Adds a slot to the sum, unless it is in it. Its value must have been read before the call.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mplsxdp_common::wire::Label;
    use proptest::prelude::*;

    use super::*;
    use crate::dataplane::memory::MemoryTables;

    proptest! {
        /// Whatever was counted in a slot before, its next user counts from there, and no slot is handed out twice. A label
        /// gets the slot that the program expects if it can.
        #[test]
        fn a_slot_that_is_taken_anew_counts_from_zero(
            steps in prop::collection::vec((any::<bool>(), 1_usize..300, 1_usize..4), 1..12),
        ) {
            let tables = MemoryTables::default();
            let mut counters = Counters::new(1024);
            let mut taken = BTreeSet::new();
            for (takes, count, every) in steps {
                if takes {
                    for number in 0..count {
                        let label = number as u32 * every as u32 + 16;
                        let key = match every {
                            3 => RouteKey::Prefix("10.0.0.0/8".parse::<ipnet::IpNet>().unwrap().into()),
                            _ => RouteKey::Label(Label::new(label).unwrap()),
                        };
                        let slot = counters.take(key, &tables);
                        if every != 3 && slot != label {
                            prop_assert!(taken.contains(&label));
                        }
                        prop_assert!(slot == 0 || taken.insert(slot));
                        let raw = tables.route_counter(slot).unwrap();
                        prop_assert_eq!(counters.place(slot).counted(raw), Counter::default());
                    }
                } else {
                    let given: Vec<u32> = taken.iter().copied().step_by(every).take(count).collect();
                    for &slot in &given {
                        taken.remove(&slot);
                        counters.hold_back(slot);
                        // A program that still runs may count.
                        let mut all = tables.route_counters.borrow_mut();
                        all.entry(slot).or_default().packets += u64::from(slot);
                    }
                    let held_back = counters.take_held_back();
                    counters.release(&held_back);
                }
                for &slot in &taken {
                    tables.route_counters.borrow_mut().entry(slot).or_default().packets += 1;
                }
            }
        }
    }

    /// Consecutive free slots are read together, and single ones alone.
    #[test]
    fn free_slots_are_read_ahead_where_many_are_free() {
        let mut free = FreeSlots::all(0..1024);
        (0..1024).for_each(|slot| free.remove(slot));
        assert_eq!(free.last(), None);
        (64..64 + 256).for_each(|slot| free.insert(slot));
        free.insert(1000);
        assert_eq!((free.last(), free.dense(64, AHEAD)), (Some(1000), 256));
        assert_eq!((free.dense(100, AHEAD), free.dense(64, 128)), (220, 128));
        (64..64 + 256).for_each(|slot| free.remove(slot));
        assert_eq!(free.dense(1000, AHEAD), 1);
        free.remove(1000);
        assert_eq!(free.last(), None);
        free.insert(3);
        assert_eq!(
            (free.last(), free.contains(3), free.contains(4)),
            (Some(3), true, false)
        );
    }
}

//! Models of how the tables are written and read at the same time, on every order of reads and stores that a CPU with a
//! weak memory order allows (ARM64): [`loom`] goes through all of them. `docs/map-abi.md` gives the reasons.
//!
//! The stores are those of the controller, in its order. The reads are those of the XDP program. The program's reads
//! depend on one another by their addresses; CPUs keep that order. Loom knows no such dependency, so the read that
//! others depend on is an acquiring one here. Each rule has a reader or a writer beside it that breaks it: the model
//! must find what goes wrong then.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed as Whatever};

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use mplsxdp_common::abi::{Adjacency, LINE_WORDS, VlanTags};
use mplsxdp_common::ftn::{Nodes, Roots, Shape, begun, longest_match, look_up, pointer};
use mplsxdp_common::wire::Mac;

use super::adjacency_writes;

/// Goes through all ways in which `write` and `read` can overlap, and returns whether `is_wrong` for any result.
fn ever<T: Send + Sync + 'static, R: 'static>(
    make: impl Fn() -> T + Send + Sync + 'static,
    write: fn(&T),
    read: fn(&T) -> R,
    is_wrong: fn(R) -> bool,
) -> bool {
    let seen = std::sync::Arc::new(AtomicBool::new(false));
    let found = seen.clone();
    loom::model(move || {
        let memory = Arc::new(make());
        let writer = loom::thread::spawn({
            let memory = memory.clone();
            move || write(&memory)
        });
        if is_wrong(read(&memory)) {
            found.store(true, Whatever);
        }
        writer.join().unwrap();
    });
    seen.load(Whatever)
}

fn words<const N: usize>(values: [u64; N]) -> [AtomicU64; N] {
    values.map(AtomicU64::new)
}

/// A slot that is given to another next hop: nobody finds it resolved any more, and it keeps what it had.
fn old() -> Adjacency {
    Adjacency::new(Mac::ZERO, 1, Mac([2, 0, 0, 0, 0, 1]), 1500).with_tags(VlanTags::one(0x8100, 100))
}

fn new() -> Adjacency {
    Adjacency::new(Mac([2, 0, 0, 0, 0, 9]), 7, Mac([2, 0, 0, 0, 0, 7]), 9000).with_one_buffer(true)
}

fn resolve(slot: &[AtomicU64; 4]) {
    for (word, value) in adjacency_writes(old(), new()) {
        slot[word].store(value, Release);
    }
}

fn is_torn(read: [u64; 4]) -> bool {
    Adjacency::from_words(read).is_resolved() && read != new().words()
}

#[test]
fn an_adjacency_that_is_read_resolved_is_read_whole() {
    let read = |slot: &[AtomicU64; 4]| {
        let first = slot[0].load(Acquire);
        [
            first,
            slot[1].load(Relaxed),
            slot[2].load(Relaxed),
            slot[3].load(Relaxed),
        ]
    };
    assert!(!ever(|| words(old().words()), resolve, read, is_torn));
    let last = |slot: &[AtomicU64; 4]| {
        let [third, second, fourth] = [2, 1, 3].map(|word: usize| slot[word].load(Relaxed));
        [slot[0].load(Acquire), second, third, fourth]
    };
    assert!(ever(|| words(old().words()), resolve, last, is_torn));
    let independent = |slot: &[AtomicU64; 4]| [0, 1, 2, 3].map(|word: usize| slot[word].load(Relaxed));
    assert!(ever(|| words(old().words()), resolve, independent, is_torn));
    let unordered = |slot: &[AtomicU64; 4]| {
        for (word, value) in adjacency_writes(old(), new()) {
            slot[word].store(value, Relaxed);
        }
    };
    assert!(ever(|| words(old().words()), unordered, read, is_torn));
}

#[test]
fn an_entry_that_is_read_leads_to_what_was_written_for_it() {
    /// An entry, and the stack that it leads to.
    type Tables = (AtomicU64, [AtomicU64; 3]);

    const ENTRY: u64 = 1;
    const STACK: [u64; 3] = [2, 3, 4];

    fn write((entry, stack): &Tables) {
        for (word, value) in stack.iter().zip(STACK) {
            word.store(value, Release);
        }
        entry.store(ENTRY, Release);
    }
    fn is_wrong((entry, stack): (u64, [u64; 3])) -> bool {
        entry == ENTRY && stack != STACK
    }
    let make = || (AtomicU64::new(0), words([0; 3]));
    let read = |(entry, stack): &Tables| {
        let entry = entry.load(Acquire);
        (entry, stack.each_ref().map(|word| word.load(Relaxed)))
    };
    assert!(!ever(make, write, read, is_wrong));
    let before = |(entry, stack): &Tables| {
        let stack = stack.each_ref().map(|word| word.load(Relaxed));
        (entry.load(Acquire), stack)
    };
    assert!(ever(make, write, before, is_wrong));
}

#[test]
fn an_entry_for_a_next_hop_and_its_backup_leads_to_one_of_both_and_to_its_stack() {
    /// An entry, the two of its pair, whether their adjacencies are resolved, and the stack of the backup.
    struct Tables {
        entry: AtomicU64,
        pair: [AtomicU64; 2],
        resolved: [AtomicU64; 2],
        stack: AtomicU64,
    }

    const ENTRY: u64 = 1;
    /// Each has the index of its adjacency in bit 0.
    const PAIR: [u64; 2] = [2, 5];
    const STACK: u64 = 7;

    fn make() -> Tables {
        Tables {
            entry: AtomicU64::new(0),
            pair: words([0; 2]),
            resolved: words([1, 1]),
            stack: AtomicU64::new(0),
        }
    }
    /// Publishes a route; then its next hop fails.
    fn write(tables: &Tables) {
        tables.stack.store(STACK, Release);
        for (word, value) in tables.pair.iter().zip(PAIR) {
            word.store(value, Release);
        }
        tables.entry.store(ENTRY, Release);
        tables.resolved[0].store(0, Release);
    }
    /// What the frame is sent by, and the stack.
    fn follow(tables: &Tables, [primary, backup]: [u64; 2]) -> Option<(u64, u64)> {
        let is_resolved = |entry: u64| tables.resolved[(entry & 1) as usize].load(Acquire) == 1;
        let chosen = if is_resolved(primary) { primary } else { backup };
        is_resolved(chosen).then(|| (chosen, tables.stack.load(Relaxed)))
    }
    fn read(tables: &Tables) -> Option<(u64, u64)> {
        (tables.entry.load(Acquire) == ENTRY)
            .then(|| follow(tables, tables.pair.each_ref().map(|word| word.load(Acquire))))
            .flatten()
    }
    /// Without the dependency of the pair on the entry.
    fn read_before(tables: &Tables) -> Option<(u64, u64)> {
        let pair = tables.pair.each_ref().map(|word| word.load(Relaxed));
        (tables.entry.load(Acquire) == ENTRY)
            .then(|| follow(tables, pair))
            .flatten()
    }
    fn is_wrong(sent: Option<(u64, u64)>) -> bool {
        sent.is_some_and(|(entry, stack)| !PAIR.contains(&entry) || entry == PAIR[1] && stack != STACK)
    }
    assert!(!ever(make, write, read, is_wrong));
    assert!(ever(make, write, read_before, is_wrong));
    // A frame is lost at most while the next hop fails, between the two looks at its adjacency.
    fn is_lost(sent: (bool, Option<(u64, u64)>)) -> bool {
        sent.0 && sent.1.is_none()
    }
    let failed_before = |tables: &Tables| (tables.resolved[0].load(Acquire) == 0, read(tables));
    assert!(!ever(make, write, failed_before, is_lost));
}

/// The words of one root, and of two nodes of one line.
struct Ftn {
    root: [AtomicU64; 2],
    lines: [[AtomicU64; LINE_WORDS]; 2],
}

/// The prefix 10.0.0.0/8, another one within the same node, and the prefix of length 0.
const PREFIX: u64 = 0x10;
const OTHER: u64 = 0x20;
const WHOLE: u64 = 0x30;
/// What is looked up: an address in the first prefix.
const ADDRESS: u64 = 10 << 56;

/// A node of one line whose first run has 0, the second, at 10, this entry, and the others 0 or [`OTHER`].
fn line(entry: u64, other: u64) -> [u64; LINE_WORDS] {
    let mut line = [0; LINE_WORDS];
    line[0] = begun(&[10, 11, 12]);
    (line[2], line[3]) = (entry, other);
    line
}

fn to_line(number: u32) -> u64 {
    pointer(number, Shape::Runs(8), 0, 0)
}

impl Ftn {
    fn new(entry: u64, whole: u64) -> Self {
        Self {
            root: words([to_line(0), whole]),
            lines: [line(entry, 0), [0; LINE_WORDS]].map(words),
        }
    }

    fn look_up(&self) -> u64 {
        look_up(self, 0, |first| longest_match(self, first, ADDRESS, 0))
    }
}

impl Nodes for Ftn {
    type Node = usize;

    fn node(&self, line: u32) -> Option<usize> {
        Some(line as usize)
    }

    fn word(&self, node: usize, index: usize) -> u64 {
        // A line that is not there yet has any number of runs.
        self.lines[node].get(index).map_or(0, |word| word.load(Acquire))
    }

    fn word_before(&self, _node: usize) -> u64 {
        unreachable!("no pointer here compares bytes")
    }
}

impl Roots for Ftn {
    type Place = usize;

    fn place(&self, index: u32) -> Option<usize> {
        Some(index as usize)
    }

    fn after(&self, place: usize, _value: u64) -> usize {
        place
    }

    fn load(&self, place: usize) -> u64 {
        self.root[place].load(Acquire)
    }
}

/// As [`Ftn::look_up`], with the prefix of length 0 read in another order.
fn whole_after(ftn: &Ftn) -> u64 {
    match longest_match(ftn, ftn.load(0), ADDRESS, 0) {
        0 => ftn.load(1),
        found => found,
    }
}

fn whole_before(ftn: &Ftn) -> u64 {
    let whole = ftn.load(1);
    match longest_match(ftn, ftn.load(0), ADDRESS, 0) {
        0 => whole,
        found => found,
    }
}

/// What a CPU makes of [`whole_after`] if only a branch is between the two reads.
fn whole_after_a_branch(ftn: &Ftn) -> u64 {
    let found = ftn.lines[0][2].load(Relaxed);
    match found {
        0 => ftn.root[1].load(Relaxed),
        found => found,
    }
}

#[test]
fn the_prefix_of_length_0_is_not_used_for_an_address_that_another_one_got_before() {
    let write = |ftn: &Ftn| {
        ftn.lines[0][2].store(PREFIX, Release);
        ftn.root[1].store(WHOLE, Release);
    };
    let is_wrong = |found| ![0, PREFIX].contains(&found);
    assert!(!ever(|| Ftn::new(0, 0), write, Ftn::look_up, is_wrong));
    assert!(ever(|| Ftn::new(0, 0), write, whole_after, is_wrong));
}

#[test]
fn the_prefix_of_length_0_is_used_for_an_address_that_another_one_is_removed_for() {
    let write = |ftn: &Ftn| {
        ftn.root[1].store(WHOLE, Release);
        ftn.lines[0][2].store(0, Release);
    };
    let is_wrong = |found| ![PREFIX, WHOLE].contains(&found);
    assert!(!ever(|| Ftn::new(PREFIX, 0), write, Ftn::look_up, is_wrong));
    assert!(ever(|| Ftn::new(PREFIX, 0), write, whole_before, is_wrong));
    assert!(ever(|| Ftn::new(PREFIX, 0), write, whole_after_a_branch, is_wrong));
}

#[test]
fn an_address_never_gets_a_prefix_of_length_0_that_went_before_its_own() {
    let write = |ftn: &Ftn| {
        ftn.root[1].store(0, Release);
        ftn.lines[0][2].store(0, Release);
    };
    let is_wrong = |found| ![PREFIX, 0].contains(&found);
    assert!(!ever(|| Ftn::new(PREFIX, WHOLE), write, Ftn::look_up, is_wrong));
    assert!(ever(|| Ftn::new(PREFIX, WHOLE), write, whole_before, is_wrong));
}

#[test]
fn a_node_that_is_found_has_all_its_words() {
    let write = |ftn: &Ftn| {
        for (word, value) in ftn.lines[1].iter().zip(line(PREFIX, OTHER)) {
            word.store(value, Relaxed);
        }
        ftn.root[0].store(to_line(1), Release);
    };
    let is_wrong = |found| found != PREFIX;
    assert!(!ever(|| Ftn::new(PREFIX, 0), write, Ftn::look_up, is_wrong));
    let unordered = |ftn: &Ftn| {
        for (word, value) in ftn.lines[1].iter().zip(line(PREFIX, OTHER)) {
            word.store(value, Relaxed);
        }
        ftn.root[0].store(to_line(1), Relaxed);
    };
    assert!(ever(|| Ftn::new(PREFIX, 0), unordered, Ftn::look_up, is_wrong));
}

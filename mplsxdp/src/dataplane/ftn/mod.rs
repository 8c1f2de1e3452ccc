//! The FTN as the controller keeps it: the prefixes of each node, and the [memory](Memory) that programs read. The
//! layout is that of [`mplsxdp_common::ftn`].
//!
//! A node whose layout stays the same is changed in place, by one store for each word that has another value. Otherwise
//! a copy is written to free lines, and the store of its pointer in the parent node, or in the root, publishes it.
//! Either way an address has its answer in one word, and a reader finds the old or the new one. The lines of the old
//! node are [retired](Trie::take_retired): they are free when no reader is left that may have the old pointer.
//!
//! Writes are gathered until [`Trie::publish_step`], so that a node is written once for many of them. Nodes are written
//! as they will be after all of them, so an address goes from its old answer to its new one in one store. One short
//! prefix may concern every node, so publishing goes in steps, and writes may come in between:
//!
//! 1. From the top down, nodes learn what covers them. It changes no layout, so these nodes are changed in place.
//! 2. From the bottom up, changed nodes are written, so that nothing points to a node that is not there yet.
//! 3. The roots follow, and then the entries of prefixes of length 0, which no node has.

mod heap;
pub mod kernel;
mod lines;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use mplsxdp_common::abi::{CHUNK_LINES, Domain, FTN_ROOTS, LINE_WORDS, RouteEntry};
use mplsxdp_common::ftn::{
    CELLS, DIRECT_LINES, MAX_SKIPPED, Nodes, RUNS, Roots, Shape, begun, halves_v4, halves_v6, longest_match, pointer,
};

pub use heap::Heap;
pub use lines::Block;
use lines::Lines;

use super::FtnKey;

/// The nodes that one write may have to allot, and those that a removal needs less of.
const INSERT_NODES: usize = 8;
const REMOVE_NODES: usize = 4;
/// What it takes to publish a node, in operations of about a microsecond.
const NODE_COST: usize = 8;
/// How many of its children an operation looks at.
const CHILDREN_EACH: usize = 8;
/// The most lines of a node: those of a direct one, and one in front.
const NODE_LINES: u32 = 1 + DIRECT_LINES;

/// The memory of the trie, as its readers have it.
pub trait Memory {
    /// A word of `FTN_ROOTS`.
    fn root(&self, index: u32) -> &AtomicU64;

    /// The words of a chunk, if it is there.
    fn chunk(&self, index: u32) -> Option<&[AtomicU64]>;
}

/// Some words from the first one of a line on, in one chunk.
fn words(memory: &impl Memory, line: u32, count: usize) -> &[AtomicU64] {
    let first = (line % CHUNK_LINES) as usize * LINE_WORDS;
    let chunk = memory.chunk(line / CHUNK_LINES);
    chunk
        .and_then(|chunk| chunk.get(first..first + count))
        .unwrap_or_default()
}

/// A reader of the trie's memory in this process.
struct Reader<'a, M>(&'a M);

impl<M: Memory> Nodes for Reader<'_, M> {
    type Node = u32;

    fn node(&self, line: u32) -> Option<u32> {
        self.0.chunk(line / CHUNK_LINES).map(|_| line)
    }

    fn word(&self, node: u32, index: usize) -> u64 {
        let line = node + (index / LINE_WORDS) as u32;
        let word = words(self.0, line, LINE_WORDS).get(index % LINE_WORDS);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn word_before(&self, node: u32) -> u64 {
        self.word(node.wrapping_sub(1), LINE_WORDS - 1)
    }
}

impl<M: Memory> Roots for Reader<'_, M> {
    type Place = u32;

    fn place(&self, index: u32) -> Option<u32> {
        Some(index)
    }

    /// Reads are in order: see `load`.
    fn after(&self, place: u32, _value: u64) -> u32 {
        place
    }

    fn load(&self, place: u32) -> u64 {
        self.0.root(place).load(Ordering::Acquire)
    }
}

/// The entry of the longest prefix in a domain that an address matches.
pub fn look_up(memory: &impl Memory, domain: Domain, address: IpAddr) -> RouteEntry {
    let (root, (high, low)) = match address {
        IpAddr::V4(address) => (domain.root_v4(), halves_v4(address.octets())),
        IpAddr::V6(address) => (domain.root_v6(), halves_v6(address.octets())),
    };
    let reader = Reader(memory);
    RouteEntry::from_bits(mplsxdp_common::ftn::look_up(&reader, root, |first| {
        longest_match(&reader, first, high, low)
    }))
}

type NodeId = u32;

/// One node.
#[derive(Default, Debug)]
struct Node {
    /// The index of its root.
    root: u32,
    /// The number of the address byte that it decides by.
    depth: u8,
    /// The address bytes before that one, from the left; the rest is zero.
    key: u128,
    parent: Option<NodeId>,
    /// Its prefixes, each before those within it.
    own: Vec<(Cells, u64)>,
    /// By the value of the byte, in order.
    children: Vec<(u8, NodeId)>,
    /// Where readers find it.
    published: Option<Published>,
    /// The entry for addresses for which it has nothing.
    default: u64,
}

/// What readers find of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Published {
    block: Block,
    shape: Shape,
    /// How many bytes readers compare before they come to its byte.
    skipped: u8,
}

impl Published {
    /// The line that pointers have.
    fn line(&self) -> u32 {
        self.block.line + u32::from(self.skipped > 0)
    }
}

/// The values of a node's byte that a prefix covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Cells {
    first: u8,
    /// How many bits of the byte belong to the prefix: 1 to 8.
    bits: u8,
}

impl Cells {
    fn range(self) -> std::ops::Range<usize> {
        let first = usize::from(self.first);
        first..first + (CELLS >> self.bits)
    }
}

impl Node {
    /// The value of its byte in an address.
    fn cell(&self, address: u128) -> u8 {
        byte(address, self.depth)
    }

    fn child(&self, cell: u8) -> Option<NodeId> {
        let at = self.children.binary_search_by_key(&cell, |&(cell, _)| cell).ok()?;
        Some(self.children[at].1)
    }

    fn set_child(&mut self, cell: u8, child: NodeId) {
        match self.children.binary_search_by_key(&cell, |&(cell, _)| cell) {
            Ok(at) => self.children[at].1 = child,
            Err(at) => self.children.insert(at, (cell, child)),
        }
    }

    fn remove_child(&mut self, cell: u8) {
        self.children.retain(|&(other, _)| other != cell);
    }

    /// What its own prefixes say of each value of the byte.
    fn cells(&self) -> [u64; CELLS] {
        let mut cells = [0; CELLS];
        for &(covered, entry) in &self.own {
            cells[covered.range()].fill(entry);
        }
        cells
    }
}

/// The lines of a node, from the one before its first.
struct Image {
    words: [u64; NODE_LINES as usize * LINE_WORDS],
    shape: Shape,
}

impl Image {
    /// `cells`: what prefixes and children say of each value of the byte; 0: nothing, that is, `default`.
    fn new(cells: &[u64; CELLS], default: u64) -> Self {
        let mut words = [0; NODE_LINES as usize * LINE_WORDS];
        words[LINE_WORDS - 1] = default;
        let shape = shape(cells);
        let table = &mut words[LINE_WORDS..];
        let answer = |cell| if cell == 0 { default } else { cell };
        match shape {
            Shape::Direct => table
                .iter_mut()
                .zip(cells)
                .for_each(|(word, &cell)| *word = answer(cell)),
            Shape::Runs(bits) => {
                let values = 1 << bits;
                for (line, first) in table.chunks_exact_mut(LINE_WORDS).zip((0..CELLS).step_by(values)) {
                    let (mut starts, mut runs) = ([0; RUNS], 0);
                    for value in first..first + values {
                        if value == first || cells[value] != cells[value - 1] {
                            starts[runs] = value as u8;
                            runs += 1;
                            line[runs] = answer(cells[value]);
                        }
                    }
                    line[0] = begun(&starts[1..runs]);
                }
            }
        }
        Self { words, shape }
    }

    /// The words that a node has to have if readers compare bytes before, or do not.
    fn words(&self, skipped: u8) -> &[u64] {
        let first = if skipped > 0 { 0 } else { LINE_WORDS };
        &self.words[first..LINE_WORDS + self.shape.lines() as usize * LINE_WORDS]
    }
}

/// The shape with the fewest lines that has room for all runs.
fn shape(cells: &[u64; CELLS]) -> Shape {
    // How many runs begin in each 16 values after the first value, and at the first.
    let mut within = [0; CELLS / 16];
    let mut at_first = [0; CELLS / 16];
    for (index, pair) in cells.windows(2).enumerate() {
        let value = index + 1;
        let begins = if value.is_multiple_of(16) {
            &mut at_first
        } else {
            &mut within
        };
        begins[value / 16] += usize::from(pair[0] != pair[1]);
    }
    let fits = |bits: u8| {
        let groups = 1 << (bits - 4);
        (0..CELLS / 16).step_by(groups).all(|first| {
            let further: usize = at_first[first + 1..first + groups].iter().sum();
            1 + within[first..first + groups].iter().sum::<usize>() + further <= RUNS
        })
    };
    (4..=8)
        .rev()
        .find(|&bits| fits(bits))
        .map_or(Shape::Direct, Shape::Runs)
}

/// There is no room for another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// All prefixes of all domains.
#[derive(Debug)]
pub struct Trie<M> {
    memory: M,
    lines: Lines,
    chunks: u32,
    nodes: Vec<Node>,
    /// Nodes that are not in use.
    unused: Vec<NodeId>,
    /// The first node of each root.
    first: Vec<Option<NodeId>>,
    /// Nodes that may have another default than before, or whose children may. The highest come first.
    stale: BTreeSet<(u8, NodeId)>,
    /// Nodes whose blocks may differ from what is wanted, by more than the default. The deepest come first.
    dirty: BTreeSet<(Reverse<u8>, NodeId)>,
    /// Roots whose first node may be another one than readers find.
    dirty_roots: BTreeSet<u32>,
    /// Entries of prefixes of length 0, by their roots, that follow what was written before them.
    zero_lengths: BTreeMap<u32, u64>,
    retired: Vec<Block>,
}

impl<M: Memory> Trie<M> {
    pub fn new(memory: M) -> Self {
        Self {
            memory,
            lines: Lines::default(),
            chunks: 0,
            nodes: Vec::new(),
            unused: Vec::new(),
            first: vec![None; FTN_ROOTS as usize / 2],
            stale: BTreeSet::new(),
            dirty: BTreeSet::new(),
            dirty_roots: BTreeSet::new(),
            zero_lengths: BTreeMap::new(),
            retired: Vec::new(),
        }
    }

    pub fn memory(&self) -> &M {
        &self.memory
    }

    pub fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// The memory has this chunk, too.
    pub fn add_chunk(&mut self, index: u32) {
        self.lines.add_chunk(index);
        self.chunks += 1;
    }

    /// Takes a chunk out of use that has no node, if there is one.
    pub fn remove_chunk(&mut self) -> Option<u32> {
        let chunk = self.lines.take_chunk()?;
        self.chunks -= 1;
        Some(chunk)
    }

    /// Whether readers find no entry in a domain.
    pub fn is_empty(&self, domain: Domain) -> bool {
        let mut roots = domain.roots();
        roots.all(|root| self.memory.root(root).load(Ordering::Relaxed) == 0)
    }

    /// Whether there is no node, and none that a reader may still find.
    pub fn is_unused(&self) -> bool {
        self.dirty.is_empty() && self.lines.free_lines() == self.chunks * CHUNK_LINES
    }

    /// How many chunks the memory has.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// How many lines are free.
    pub fn free_lines(&self) -> u32 {
        self.lines.free_lines()
    }

    /// How many nodes may be written before there is no room.
    pub fn room(&self) -> usize {
        self.lines.sure().saturating_sub(self.dirty.len())
    }

    /// Gives a prefix an entry. It is published with other writes.
    pub fn insert(&mut self, key: FtnKey, entry: RouteEntry) -> Result<(), Full> {
        let (root, address, length) = parts(key);
        let Some((depth, covered)) = place(address, length) else {
            self.set_zero_length(root, entry.to_bits());
            return Ok(());
        };
        self.make_room(INSERT_NODES)?;
        let id = self.node_at(root, address, depth);
        let own = &mut self.nodes[id as usize].own;
        match own.binary_search_by_key(&covered, |&(covered, _)| covered) {
            Ok(at) => own[at].1 = entry.to_bits(),
            Err(at) => own.insert(at, (covered, entry.to_bits())),
        }
        self.touch(id);
        Ok(())
    }

    /// Removes the entry of a prefix, if it has one, as [`Trie::insert`] writes it.
    pub fn remove(&mut self, key: FtnKey) -> Result<(), Full> {
        let (root, address, length) = parts(key);
        let Some((depth, covered)) = place(address, length) else {
            self.set_zero_length(root, 0);
            return Ok(());
        };
        let Some(id) = self.find(root, address, depth) else {
            return Ok(());
        };
        let own = |node: &Node| node.own.binary_search_by_key(&covered, |&(covered, _)| covered);
        let Ok(at) = own(&self.nodes[id as usize]) else {
            return Ok(());
        };
        self.make_room(REMOVE_NODES)?;
        self.nodes[id as usize].own.remove(at);
        self.touch(id);
        self.prune(id);
        Ok(())
    }

    /// Sets the entry of the prefix of length 0. Addresses that get an entry by an earlier write must have that first.
    fn set_zero_length(&mut self, root: u32, entry: u64) {
        self.zero_lengths.insert(root, entry);
        if self.stale.is_empty() && self.dirty.is_empty() && self.dirty_roots.is_empty() {
            self.store_zero_lengths();
        }
    }

    fn store_zero_lengths(&mut self) {
        while let Some((root, entry)) = self.zero_lengths.pop_first() {
            self.memory.root(root + 1).store(entry, Ordering::Release);
        }
    }

    /// Whether there is room for the nodes that a write needs, and no earlier write that must be published first.
    fn make_room(&mut self, nodes: usize) -> Result<(), Full> {
        match self.zero_lengths.is_empty() && self.room() >= nodes {
            true => Ok(()),
            false => Err(Full),
        }
    }

    /// Whether a write may be refused until everything is published.
    pub fn needs_publishing(&self, nodes: usize) -> bool {
        !self.zero_lengths.is_empty() || self.room() < nodes && !self.is_published()
    }

    /// Whether readers find everything that was written.
    pub fn is_published(&self) -> bool {
        self.stale.is_empty() && self.dirty.is_empty() && self.dirty_roots.is_empty() && self.zero_lengths.is_empty()
    }

    /// Has readers find what was written, node by node, until `spend` returns false. It gets what each has cost, in
    /// operations. Returns whether everything is published.
    pub fn publish_step(&mut self, spend: &mut dyn FnMut(usize) -> bool) -> bool {
        while !self.is_published() {
            let mut cost = NODE_COST;
            if let Some((_, id)) = self.stale.pop_first() {
                cost += self.hand_down(id) / CHILDREN_EACH;
            } else if let Some((_, id)) = self.dirty.pop_first() {
                self.write(id);
            } else if let Some(root) = self.dirty_roots.pop_first() {
                let first = self.first[root as usize / 2].map_or(0, |id| self.pointer(id));
                self.memory.root(root).store(first, Ordering::Release);
            } else {
                self.store_zero_lengths();
            }
            if !spend(cost) {
                break;
            }
        }
        self.is_published()
    }

    /// Retired blocks, which are free when no reader is left that began before this call: then they are to be given to
    /// [`Trie::release`]. There are none as long as not everything is published: readers may still find them.
    pub fn take_retired(&mut self) -> Vec<Block> {
        match self.is_published() {
            true => mem::take(&mut self.retired),
            false => Vec::new(),
        }
    }

    /// No reader is left that may read these.
    pub fn release(&mut self, blocks: &[Block]) {
        for &block in blocks {
            self.lines.release(block);
        }
    }

    fn touch(&mut self, id: NodeId) {
        let depth = self.nodes[id as usize].depth;
        self.stale.insert((depth, id));
        self.dirty.insert((Reverse(depth), id));
    }

    fn find(&self, root: u32, address: u128, depth: u8) -> Option<NodeId> {
        let mut at = self.first[root as usize / 2];
        while let Some(id) = at {
            let node = &self.nodes[id as usize];
            if node.depth > depth || node.key != bytes(address, node.depth) {
                return None;
            }
            if node.depth == depth {
                return Some(id);
            }
            at = node.child(node.cell(address));
        }
        None
    }

    /// The node that decides by the byte `depth` of addresses that begin like this one; it is made if there is none.
    fn node_at(&mut self, root: u32, address: u128, depth: u8) -> NodeId {
        let mut parent: Option<NodeId> = None;
        loop {
            let child = match parent {
                None => self.first[root as usize / 2],
                Some(id) => {
                    let node = &self.nodes[id as usize];
                    node.child(node.cell(address))
                }
            };
            let Some(child) = child else {
                let at = depth.min(self.next_depth(parent) + MAX_SKIPPED);
                let id = self.make(root, address, at, parent);
                if at == depth {
                    return id;
                }
                parent = Some(id);
                continue;
            };
            let node = &self.nodes[child as usize];
            let common = ((node.key ^ address).leading_zeros() / 8) as u8;
            if common >= node.depth && node.depth <= depth {
                if node.depth == depth {
                    return child;
                }
                parent = Some(child);
                continue;
            }
            // Between the two.
            let at = common.min(depth);
            let (child_key, id) = (node.key, self.make(root, address, at, parent));
            let between = &mut self.nodes[id as usize];
            between.set_child(byte(child_key, at), child);
            self.nodes[child as usize].parent = Some(id);
            self.touch(child);
            if at == depth {
                return id;
            }
            parent = Some(id);
        }
    }

    /// The depth beneath a node, or beneath a root.
    fn next_depth(&self, parent: Option<NodeId>) -> u8 {
        parent.map_or(0, |id| self.nodes[id as usize].depth + 1)
    }

    /// How many bytes readers compare before they come to a node's byte.
    fn skipped(&self, id: NodeId) -> u8 {
        let node = &self.nodes[id as usize];
        node.depth - self.next_depth(node.parent)
    }

    /// The word that leads readers to a node.
    fn pointer(&self, id: NodeId) -> u64 {
        let node = &self.nodes[id as usize];
        let Some(published) = node.published else {
            return 0;
        };
        let compared = node.key << (8 * u32::from(node.depth - published.skipped));
        pointer(
            published.line(),
            published.shape,
            published.skipped,
            (compared >> 96) as u32,
        )
    }

    /// A new node beneath `parent`, in place of what is there.
    fn make(&mut self, root: u32, address: u128, depth: u8, parent: Option<NodeId>) -> NodeId {
        let id = self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() as NodeId - 1
        });
        self.nodes[id as usize] = Node {
            root,
            depth,
            key: bytes(address, depth),
            parent,
            ..Node::default()
        };
        self.link(root, address, parent, Some(id));
        self.touch(id);
        id
    }

    /// Puts a node, or none, beneath `parent`, where it is for this address.
    fn link(&mut self, root: u32, address: u128, parent: Option<NodeId>, child: Option<NodeId>) {
        let Some(parent) = parent else {
            self.first[root as usize / 2] = child;
            self.dirty_roots.insert(root);
            return;
        };
        let node = &mut self.nodes[parent as usize];
        let cell = node.cell(address);
        match child {
            Some(child) => node.set_child(cell, child),
            None => node.remove_child(cell),
        }
        self.touch(parent);
    }

    /// Takes out a node that is not needed any more, and those above it that are not needed then.
    fn prune(&mut self, mut id: NodeId) {
        loop {
            let node = &self.nodes[id as usize];
            let (root, key, parent) = (node.root, node.key, node.parent);
            let child = match &*node.children {
                _ if !node.own.is_empty() => return,
                [] => None,
                &[(_, child)] => Some(child),
                _ => return,
            };
            let is_near = |child| self.nodes[child as usize].depth - self.next_depth(parent) <= MAX_SKIPPED;
            if !child.is_none_or(is_near) {
                return;
            }
            self.link(root, key, parent, child);
            if let Some(child) = child {
                self.nodes[child as usize].parent = parent;
                self.touch(child);
            }
            let node = mem::take(&mut self.nodes[id as usize]);
            self.stale.remove(&(node.depth, id));
            self.dirty.remove(&(Reverse(node.depth), id));
            // Its pointer goes when this is published.
            self.retired.extend(node.published.map(|published| published.block));
            self.unused.push(id);
            match (child, parent) {
                (None, Some(parent)) => id = parent,
                _ => return,
            }
        }
    }

    /// Has a node follow its default, and its children know theirs. Returns how many children it has.
    fn hand_down(&mut self, id: NodeId) -> usize {
        let node = &mut self.nodes[id as usize];
        if node.parent.is_none() {
            node.default = 0;
        }
        let (depth, default) = (node.depth, node.default);
        if !self.dirty.contains(&(Reverse(depth), id)) {
            // Only the default differs. So the layout stays, and this takes no lines.
            self.write(id);
        }
        let node = &self.nodes[id as usize];
        let children = node.children.len();
        if children == 0 {
            return 0;
        }
        let cells = node.cells();
        for at in 0..children {
            let (cell, child) = self.nodes[id as usize].children[at];
            let wanted = match cells[usize::from(cell)] {
                0 => default,
                entry => entry,
            };
            let node = &mut self.nodes[child as usize];
            if mem::replace(&mut node.default, wanted) != wanted {
                self.stale.insert((node.depth, child));
            }
        }
        children
    }

    /// Has readers find a node as it is. The nodes beneath it are written, and its default is known.
    fn write(&mut self, id: NodeId) {
        let node = &self.nodes[id as usize];
        let mut cells = node.cells();
        for &(cell, child) in &node.children {
            cells[usize::from(cell)] = self.pointer(child);
        }
        let image = Image::new(&cells, node.default);
        let (root, parent, old, skipped) = (node.root, node.parent, node.published, self.skipped(id));
        let wanted = image.words(skipped);
        // Readers that compare other bytes find another node: each of them is right for its own addresses only.
        if let Some(old) = old
            && (old.shape, old.skipped) == (image.shape, skipped)
        {
            let words = words(&self.memory, old.block.line, wanted.len());
            let is_run = |index: usize| image.shape == Shape::Direct || !index.is_multiple_of(LINE_WORDS);
            let mut pairs = words.iter().zip(wanted).enumerate();
            if pairs.all(|(index, (word, &wanted))| is_run(index) || word.load(Ordering::Relaxed) == wanted) {
                for (word, &wanted) in words.iter().zip(wanted) {
                    if word.load(Ordering::Relaxed) != wanted {
                        word.store(wanted, Ordering::Release);
                    }
                }
                return;
            }
        }
        // There is room for all nodes that are touched, see `make_room`.
        let Some(block) = self.lines.take((wanted.len() / LINE_WORDS) as u32) else {
            return;
        };
        for (word, &wanted) in words(&self.memory, block.line, wanted.len()).iter().zip(wanted) {
            // The store of the pointer to the node publishes these.
            word.store(wanted, Ordering::Relaxed);
        }
        let shape = image.shape;
        self.nodes[id as usize].published = Some(Published { block, shape, skipped });
        self.retired.extend(old.map(|old| old.block));
        match parent {
            // Its children have the same defaults as before.
            Some(parent) => {
                self.dirty.insert((Reverse(self.nodes[parent as usize].depth), parent));
            }
            None => {
                self.dirty_roots.insert(root);
            }
        }
    }
}

/// The root of a key, its address from the left, and its length.
fn parts(key: FtnKey) -> (u32, u128, u8) {
    match key.prefix.trunc() {
        IpNet::V4(prefix) => {
            let address = u128::from(u32::from(prefix.addr())) << 96;
            (key.domain.root_v4(), address, prefix.prefix_len())
        }
        IpNet::V6(prefix) => (key.domain.root_v6(), prefix.addr().into(), prefix.prefix_len()),
    }
}

/// The depth of the node that a prefix belongs to, and what it covers there. `None`: it has length 0.
fn place(address: u128, length: u8) -> Option<(u8, Cells)> {
    let depth = length.checked_sub(1)? / 8;
    let first = byte(address, depth);
    let bits = length - 8 * depth;
    Some((depth, Cells { first, bits }))
}

/// One byte of an address, by its number from the left.
fn byte(address: u128, number: u8) -> u8 {
    (address >> (120 - 8 * u32::from(number))) as u8
}

/// The first bytes of an address.
fn bytes(address: u128, count: u8) -> u128 {
    match count {
        0 => 0,
        count => address >> (128 - 8 * u32::from(count)) << (128 - 8 * u32::from(count)),
    }
}

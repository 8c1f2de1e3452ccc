//! The FTN as the controller keeps it: the prefixes of each node, and the [memory](Memory) that programs read. The layout is
//! that of [`mplsxdp_common::ftn`].
//!
//! A node whose runs stay the same is changed in place, by one store for each run that has another value. Otherwise a copy is
//! written to free lines, and the store of its pointer in the parent node, or in the root, publishes it. Either way an address
//! has its answer in one word, and a reader finds the old or the new one. The lines of the old node are [retired](Trie::take_retired):
//! they are free when no reader is left that may have the old pointer.
//!
//! Writes of prefixes of one length are gathered, so that a node is copied once for many of them. The next write of another
//! length publishes them, so that the order of a change stays the order of lengths.

mod heap;
pub mod kernel;
mod lines;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use mplsxdp_common::abi::{CHUNK_LINES, Domain, FTN_ROOTS, LINE_WORDS, RouteEntry};
use mplsxdp_common::ftn::{
    CELLS, DEFAULT, HEAD_WORDS, KEY, LOW, NODE_WORDS, Nodes, PLACE, halves_v4, halves_v6, longest_match, pointer,
};

pub use heap::Heap;
pub use lines::Block;
use lines::Lines;

use super::FtnKey;

/// The nodes that one write may have to allot, and those that a removal needs less of.
const INSERT_NODES: usize = 8;
const REMOVE_NODES: usize = 4;
/// The node of this depth is not left out where others are beneath: its byte is the last of the high half.
const LAST_HIGH: u8 = 7;

/// The memory of the trie, as its readers have it.
pub trait Memory {
    /// A word of `FTN_ROOTS`.
    fn root(&self, index: u32) -> &AtomicU64;

    /// A word of `FTN`, by its line; `index` may be beyond that line. `None`: there is no such line.
    fn word(&self, line: u32, index: usize) -> Option<&AtomicU64>;
}

/// A reader of the trie's memory in this process.
struct Reader<'a, M>(&'a M);

impl<M: Memory> Nodes for Reader<'_, M> {
    type Node = u32;

    fn node(&self, line: u32) -> Option<u32> {
        self.0.word(line, 0).map(|_| line)
    }

    fn head(&self, node: u32, index: usize) -> u64 {
        self.word(node, index)
    }

    fn word(&self, node: u32, index: usize) -> u64 {
        let word = self.0.word(node, index);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn default_after(&self, node: u32, _earlier: u64) -> u64 {
        // What was read before was read with acquire order.
        self.word(node, DEFAULT)
    }
}

/// The entry of the longest prefix in a domain that an address matches.
pub fn look_up(memory: &impl Memory, domain: Domain, address: IpAddr) -> RouteEntry {
    let (root, (high, low)) = match address {
        IpAddr::V4(address) => (domain.root_v4(), halves_v4(address.octets())),
        IpAddr::V6(address) => (domain.root_v6(), halves_v6(address.octets())),
    };
    let first = memory.root(root).load(Ordering::Acquire);
    let found = match first {
        0 => 0,
        first => longest_match(&Reader(memory), first, high, low),
    };
    RouteEntry::from_bits(match found {
        0 => memory.root(root + 1).load(Ordering::Acquire),
        found => found,
    })
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
    block: Option<Block>,
    /// The entry for addresses for which it has nothing.
    default: u64,
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

/// What readers find in a node.
struct Image {
    words: [u64; NODE_WORDS],
    len: usize,
}

impl Image {
    fn new(node: &Node, cells: &[u64; CELLS]) -> Self {
        let mut words = [0; NODE_WORDS];
        let (mut len, mut before) = (HEAD_WORDS, None);
        let low = node.depth > LAST_HIGH;
        let mut place = u64::from(56 - 8 * (node.depth % 8)) | if low { LOW } else { 0 };
        for (index, &cell) in cells.iter().enumerate() {
            if index % 64 == 0 {
                place |= (len as u64 - 1) << (8 * (index / 64) + 8);
            }
            if before != Some(cell) {
                words[index / 64] |= 1 << (index % 64);
                words[len] = cell;
                len += 1;
                before = Some(cell);
            }
        }
        words[KEY] = if low { node.key as u64 } else { (node.key >> 64) as u64 };
        words[DEFAULT] = node.default;
        words[PLACE] = place;
        Self { words, len }
    }

    fn lines(&self) -> u32 {
        self.len.div_ceil(LINE_WORDS) as u32
    }
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
    /// Nodes whose blocks may differ from what is wanted. The deepest come first.
    dirty: BTreeSet<(Reverse<u8>, NodeId)>,
    /// What the gathered writes are: whether they insert, and the length of their prefixes.
    gathered: Option<(bool, u8)>,
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
            dirty: BTreeSet::new(),
            gathered: None,
            retired: Vec::new(),
        }
    }

    pub fn memory(&self) -> &M {
        &self.memory
    }

    pub fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// The memory has another chunk.
    pub fn add_chunk(&mut self) {
        self.lines.add_chunk(self.chunks);
        self.chunks += 1;
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

    /// Gives a prefix an entry. It is published with the other writes of its length, by [`Trie::publish`] at the latest.
    pub fn insert(&mut self, key: FtnKey, entry: RouteEntry) -> Result<(), Full> {
        let (root, address, length) = parts(key);
        self.gather(true, length, INSERT_NODES)?;
        let Some((depth, covered)) = place(address, length) else {
            self.memory.root(root + 1).store(entry.to_bits(), Ordering::Release);
            return Ok(());
        };
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
            self.publish();
            self.memory.root(root + 1).store(0, Ordering::Release);
            return Ok(());
        };
        let Some(id) = self.find(root, address, depth) else {
            return Ok(());
        };
        let own = |node: &Node| node.own.binary_search_by_key(&covered, |&(covered, _)| covered);
        let Ok(at) = own(&self.nodes[id as usize]) else {
            return Ok(());
        };
        self.gather(false, length, REMOVE_NODES)?;
        self.nodes[id as usize].own.remove(at);
        self.touch(id);
        self.prune(id);
        Ok(())
    }

    /// Gathers a write with others like it, or publishes those first. Then there is room for what it needs.
    fn gather(&mut self, inserts: bool, length: u8, nodes: usize) -> Result<(), Full> {
        let kind = Some((inserts, length));
        if self.gathered != kind || self.room() < nodes {
            self.publish();
        }
        if self.room() < nodes {
            return Err(Full);
        }
        self.gathered = kind;
        Ok(())
    }

    /// Has readers find everything that was written.
    pub fn publish(&mut self) {
        self.gathered = None;
        if self.dirty.is_empty() {
            return;
        }
        let touched: Vec<NodeId> = self.dirty.iter().rev().map(|&(_, id)| id).collect();
        for id in touched {
            self.hand_down(id);
        }
        while let Some((_, id)) = self.dirty.pop_first() {
            self.write(id);
        }
    }

    /// Retired blocks, which are free when no reader is left that began before this call: then they are to be given to
    /// [`Trie::release`]. Everything written is published first.
    pub fn take_retired(&mut self) -> Vec<Block> {
        self.publish();
        mem::take(&mut self.retired)
    }

    /// Whether there are any.
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// No reader is left that may read these.
    pub fn release(&mut self, blocks: &[Block]) {
        for &block in blocks {
            self.lines.release(block);
        }
    }

    fn touch(&mut self, id: NodeId) {
        self.dirty.insert((Reverse(self.nodes[id as usize].depth), id));
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
            let parent_depth = parent.map(|id| self.nodes[id as usize].depth);
            let Some(child) = child else {
                let must_stop = depth > LAST_HIGH && parent_depth.is_none_or(|depth| depth < LAST_HIGH);
                let at = if must_stop { LAST_HIGH } else { depth };
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
            if at == depth {
                return id;
            }
            parent = Some(id);
        }
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
                &[(_, child)] if node.depth == LAST_HIGH && self.nodes[child as usize].depth > LAST_HIGH => return,
                &[(_, child)] => Some(child),
                _ => return,
            };
            self.link(root, key, parent, child);
            if let Some(child) = child {
                self.nodes[child as usize].parent = parent;
                if parent.is_none() {
                    // Its pointer comes into the root.
                    self.touch(child);
                }
            } else if parent.is_none() {
                self.memory.root(root).store(0, Ordering::Release);
            }
            let node = mem::take(&mut self.nodes[id as usize]);
            self.dirty.remove(&(Reverse(node.depth), id));
            // Its pointer goes when this is published, which `take_retired` does.
            self.retired.extend(node.block);
            self.unused.push(id);
            match (child, parent) {
                (None, Some(parent)) => id = parent,
                _ => return,
            }
        }
    }

    /// Has the children of a node know the entry for what they have nothing for, and theirs.
    fn hand_down(&mut self, id: NodeId) {
        let node = &self.nodes[id as usize];
        if node.parent.is_none() && node.default != 0 {
            self.set_default(id, 0);
        }
        let mut rest = vec![id];
        while let Some(id) = rest.pop() {
            let node = &self.nodes[id as usize];
            if node.children.is_empty() {
                continue;
            }
            let (cells, default) = (node.cells(), node.default);
            for at in 0..node.children.len() {
                let (cell, child) = self.nodes[id as usize].children[at];
                let wanted = match cells[usize::from(cell)] {
                    0 => default,
                    entry => entry,
                };
                if self.nodes[child as usize].default != wanted {
                    self.set_default(child, wanted);
                    rest.push(child);
                }
            }
        }
    }

    fn set_default(&mut self, id: NodeId, default: u64) {
        let node = &mut self.nodes[id as usize];
        node.default = default;
        if let Some(block) = node.block {
            store(&self.memory, block.line, DEFAULT, default);
        }
    }

    /// Has readers find a node as it is. The nodes beneath it are written, and its default is known.
    fn write(&mut self, id: NodeId) {
        let node = &self.nodes[id as usize];
        let mut cells = node.cells();
        for &(cell, child) in &node.children {
            let block = self.nodes[child as usize].block;
            cells[usize::from(cell)] = block.map_or(0, |block| pointer(block.line));
        }
        let image = Image::new(node, &cells);
        let (root, parent, old) = (node.root, node.parent, node.block);
        let same = |block: Block| (0..4).all(|word| load(&self.memory, block.line, word) == image.words[word]);
        let block = match old {
            Some(block) if same(block) => {
                for (index, &word) in image.words[..image.len].iter().enumerate().skip(HEAD_WORDS) {
                    if load(&self.memory, block.line, index) != word {
                        store(&self.memory, block.line, index, word);
                    }
                }
                block
            }
            _ => {
                // There is room for all nodes that are touched, see `gather`.
                let Some(block) = self.lines.take(image.lines()) else {
                    return;
                };
                for (index, &word) in image.words[..image.len].iter().enumerate() {
                    store(&self.memory, block.line, index, word);
                }
                block
            }
        };
        self.nodes[id as usize].block = Some(block);
        match parent {
            _ if old == Some(block) => {}
            Some(parent) => self.touch(parent),
            None => {}
        }
        if parent.is_none() {
            let word = self.memory.root(root);
            let pointer = pointer(block.line);
            if word.load(Ordering::Relaxed) != pointer {
                word.store(pointer, Ordering::Release);
            }
        }
        self.retired.extend(old.filter(|&old| old != block));
    }
}

fn load(memory: &impl Memory, line: u32, index: usize) -> u64 {
    memory.word(line, index).map_or(0, |word| word.load(Ordering::Relaxed))
}

/// A reader that sees this store also sees the earlier ones.
fn store(memory: &impl Memory, line: u32, index: usize, value: u64) {
    if let Some(word) = memory.word(line, index) {
        word.store(value, Ordering::Release);
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

/// The chunk that a line is in, and the first word of the line there.
pub fn chunk_and_word(line: u32) -> (usize, usize) {
    (
        (line / CHUNK_LINES) as usize,
        (line % CHUNK_LINES) as usize * LINE_WORDS,
    )
}

//! The FTN: a trie of prefixes. A node decides by one byte of the address; it has one word for each run of equal values of that
//! byte, and bitmaps that say which run a value belongs to. Chains of nodes with one child are left out.
//!
//! A node is a block of lines of eight words:
//!
//! | word | content |
//! |---|---|
//! | 0-3 | bit N: the value N of the byte begins a run; bit 0 is always set |
//! | 4 | the bits of the address before the byte, in the half of the address that has the byte; the other bits are zero |
//! | 5 | the entry for addresses for which the node has nothing; 0: there is none |
//! | 6 | bits 0-5: how far the byte is from the right end of its half; bit 6: the half is the low one; byte 1 + N: the number of runs that begin in words 0 to N - 1, plus 7 |
//! | 7 | reserved |
//! | 8 and up to 263 | for each run: a route entry, a [pointer] to a node, or 0: the node has nothing for it |
//!
//! An IPv4 address counts as the left 32 bits of the high half. The two words of a root are a pointer to the first node, and the
//! entry of the prefix of length 0; each is 0 if there is none.

/// Words in front of the runs.
pub const HEAD_WORDS: usize = 8;
/// The most words of a node.
pub const NODE_WORDS: usize = HEAD_WORDS + CELLS;
/// Values of one byte.
pub const CELLS: usize = 256;
/// The word of a node with the address bits before its byte.
pub const KEY: usize = 4;
/// The word of a node with the entry for what it has nothing for.
pub const DEFAULT: usize = 5;
/// The word of a node with the place of its byte and the numbers of runs.
pub const PLACE: usize = 6;
/// In [`PLACE`]: the byte is in the low half of the address.
pub const LOW: u64 = 1 << 6;
/// More nodes than this are on no way: one for each byte of an IPv6 address.
const MAX_DEPTH: usize = 16;
/// The operation of a [pointer], which no route entry has.
const POINTER: u64 = 15;

/// The word that points to the node that begins at `line`.
#[inline(always)]
pub const fn pointer(line: u32) -> u64 {
    (line as u64) << 32 | POINTER
}

#[inline(always)]
const fn is_pointer(word: u64) -> bool {
    word & 0xf == POINTER
}

/// The line that a pointer points to.
#[inline(always)]
pub const fn line(pointer: u64) -> u32 {
    (pointer >> 32) as u32
}

/// The memory of nodes.
pub trait Nodes {
    type Node: Copy;

    /// The node that begins at `line`. `None`: there is no such line.
    fn node(&self, line: u32) -> Option<Self::Node>;

    /// A word of the head of a node. `index` is below [`HEAD_WORDS`].
    fn head(&self, node: Self::Node, index: usize) -> u64;

    /// Any word of a node. `index` is below [`NODE_WORDS`].
    fn word(&self, node: Self::Node, index: usize) -> u64;

    /// [`DEFAULT`], read after `earlier` was.
    fn default_after(&self, node: Self::Node, earlier: u64) -> u64;
}

/// The entry of the longest prefix, longer than 0, that an address matches. 0: there is none. `root` is the root's pointer.
#[inline(always)]
pub fn longest_match<N: Nodes>(nodes: &N, root: u64, high: u64, low: u64) -> u64 {
    let mut pointer = root;
    for _ in 0..MAX_DEPTH {
        let Some(node) = nodes.node(line(pointer)) else {
            return 0;
        };
        let place = nodes.head(node, PLACE);
        let (shift, half) = (place & 63, if place & LOW == 0 { high } else { low });
        // In two steps: one of 64 bits is none.
        if (half ^ nodes.head(node, KEY)) >> 8 >> shift != 0 {
            return nodes.head(node, DEFAULT);
        }
        let cell = half >> shift & 0xff;
        let group = cell >> 6;
        let begun = nodes.head(node, group as usize) << (63 - (cell & 63));
        let before = place >> (8 * group + 8) & 0xff;
        let run = nodes.word(node, (before + ones(begun)) as usize);
        if !is_pointer(run) {
            return match run {
                0 => nodes.default_after(node, run),
                entry => entry,
            };
        }
        pointer = run;
    }
    0
}

/// The number of bits that are set. BPF has no instruction for it.
#[inline(always)]
const fn ones(word: u64) -> u64 {
    let pairs = word - (word >> 1 & 0x5555_5555_5555_5555);
    let nibbles = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let bytes = (nibbles + (nibbles >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56
}

/// The halves of an IPv4 address.
#[inline(always)]
pub const fn halves_v4(address: [u8; 4]) -> (u64, u64) {
    ((u32::from_be_bytes(address) as u64) << 32, 0)
}

/// The halves of an IPv6 address.
#[inline(always)]
pub const fn halves_v6(address: [u8; 16]) -> (u64, u64) {
    let address = u128::from_be_bytes(address);
    ((address >> 64) as u64, address as u64)
}

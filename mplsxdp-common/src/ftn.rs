//! The FTN: a trie of prefixes. A node decides by one byte of the address. A look-up reads one line of each node:
//! everything else that it needs is in the pointer to the node.
//!
//! | bits of a pointer | content |
//! |---|---|
//! | 0-3 | 15, which no route entry has |
//! | 4-6 | N: each of its lines is for 2^(3 + N) values of the byte |
//! | 7-9 | how many bytes are compared before the node's byte, 0 to 4: nodes with one child are left out |
//! | 10-30 | the node's first line |
//! | 31 | 1: the node is *direct*; N is 0 |
//! | 32-63 | the bytes to compare, from the left; the rest is zero |
//!
//! A direct node has 32 lines: a word for each value of the byte. The lines of any other node have runs. Runs are
//! values in a row with the same content, and a line has at most seven of them: its word 0 says which [values](begun)
//! begin a run, and words 1 to 7 are the runs. The word of a value or run is a route entry, a pointer to another node,
//! or 0: no prefix.
//!
//! If the compared bytes differ, the answer is the word before the node's first line. Only nodes to which a pointer
//! with such bytes points have a line there.
//!
//! An IPv4 address counts as the left 32 bits of an IPv6 one. The two words of a root are a pointer to the first node,
//! and the entry of the prefix of length 0; each is 0 if there is none.

use crate::abi::LINE_WORDS;

/// Values of one byte.
pub const CELLS: usize = 256;
/// The lines of a direct node.
pub const DIRECT_LINES: u32 = (CELLS / LINE_WORDS) as u32;
/// The most runs of a line.
pub const RUNS: usize = LINE_WORDS - 1;
/// The most bytes that a pointer compares.
pub const MAX_SKIPPED: u8 = 4;
/// More nodes than this are on no way: one for each byte of an IPv6 address.
const MAX_DEPTH: usize = 16;
/// The operation of a pointer, which no route entry has.
const POINTER: u64 = 15;
/// In a pointer: the node is direct.
const DIRECT: u64 = 1 << 31;
/// One bit in each of the seven fields of nine bits of a line's word 0.
const FIELDS: u64 = 0x0040_2010_0804_0201;
/// In a field: no run begins.
const NONE: u64 = CELLS as u64;

/// How the lines of a node are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Direct,
    /// Lines of runs, each for 2^N values; N is 4 to 8.
    Runs(u8),
}

impl Shape {
    pub const fn lines(self) -> u32 {
        match self {
            Self::Direct => DIRECT_LINES,
            Self::Runs(bits) => 1 << (8 - bits),
        }
    }
}

/// The word that points to a node. `skipped`: how many bytes are compared; `key`: these bytes, from the left of the
/// word, which may have others behind them.
pub const fn pointer(line: u32, shape: Shape, skipped: u8, key: u32) -> u64 {
    let layout = match shape {
        Shape::Direct => DIRECT,
        Shape::Runs(bits) => (bits as u64 - 3) << 4,
    };
    let compared = (!0_u64 << 32).unbounded_shl(32 - 8 * skipped as u32);
    (key as u64) << 32 & compared | (line as u64) << 10 | (skipped as u64) << 7 | layout | POINTER
}

#[inline(always)]
const fn is_pointer(word: u64) -> bool {
    word & 0xf == POINTER
}

/// Word 0 of a line of runs: the values that begin the second run and further ones. Unused places have [`CELLS`].
pub fn begun(starts: &[u8]) -> u64 {
    let start = |index: usize| starts.get(index).map_or(NONE, |&start| start.into());
    (0..RUNS).map(|index| start(index) << (9 * index)).sum()
}

/// The memory of nodes.
pub trait Nodes {
    type Node: Copy;

    /// The node that begins at `line`. `None`: there is no such line.
    fn node(&self, line: u32) -> Option<Self::Node>;

    /// A word of a node. `index` is below [`CELLS`].
    fn word(&self, node: Self::Node, index: usize) -> u64;

    /// The word before a node.
    fn word_before(&self, node: Self::Node) -> u64;
}

/// The words of the roots.
pub trait Roots {
    type Place: Copy;

    /// Where a word is. `None`: there is no such word.
    fn place(&self, index: u32) -> Option<Self::Place>;

    /// The same place, for a read that must not come before the read of `value`.
    fn after(&self, place: Self::Place, value: u64) -> Self::Place;

    fn load(&self, place: Self::Place) -> u64;
}

/// How often a look-up is made if the entry of length 0 changes meanwhile.
const ATTEMPTS: usize = 2;

/// The entry of the longest prefix that an address matches. 0: there is none. `root` is the number of the root's first
/// word. `walk` makes [`longest_match`] from a root's pointer.
///
/// The entry of length 0 answers if no longer prefix matches: that takes two words, which must be of one moment. So the
/// entry must be the same before the walk and after it. Read only before, it may be older than the removal of a prefix
/// that it was added for. Read only after, it may be newer than a prefix for which the walk came too early.
#[inline(always)]
pub fn look_up<R: Roots>(roots: &R, root: u32, walk: impl Fn(u64) -> u64) -> u64 {
    let (Some(pointer), Some(whole)) = (roots.place(root), roots.place(root + 1)) else {
        return 0;
    };
    let mut answer = 0;
    for _ in 0..ATTEMPTS {
        let before = roots.load(whole);
        let first = roots.load(roots.after(pointer, before));
        // Each read depends on the value itself, not on a branch: CPUs read ahead of branches.
        let whole = roots.after(whole, first);
        let found = match first {
            0 => 0,
            first => walk(first),
        };
        answer = roots.load(roots.after(whole, found));
        if found != 0 {
            return found;
        }
        if answer == before {
            break;
        }
    }
    answer
}

/// The entry of the longest prefix, longer than 0, that an address matches. 0: there is none. `root` is the root's
/// pointer.
#[inline(always)]
pub fn longest_match<N: Nodes>(nodes: &N, root: u64, mut high: u64, mut low: u64) -> u64 {
    let mut pointer = root;
    for _ in 0..MAX_DEPTH {
        let Some(node) = nodes.node((pointer >> 10) as u32 & 0x1f_ffff) else {
            return 0;
        };
        // In bits.
        let skipped = pointer >> 4 & 0x38;
        // In two steps: a shift by 64 bits is none.
        if (high ^ pointer) >> 32 >> (32 - skipped) != 0 {
            return nodes.word_before(node);
        }
        let cell = high << skipped >> 56;
        high = high << skipped << 8 | low >> (56 - skipped);
        low = low << skipped << 8;
        let line = cell >> 3 >> (pointer >> 4 & 7) << 3;
        let run = 1 + runs_begun(nodes.word(node, line as usize), cell);
        // Without a branch: the verifier would follow both ways from each node on. All ones if the node is direct.
        let direct = ((pointer << 32) as i64 >> 63) as u64;
        let index = line + (cell & 7 & direct | run & !direct);
        pointer = nodes.word(node, index as usize);
        if !is_pointer(pointer) {
            return pointer;
        }
    }
    0
}

/// How many of the values in a line's word 0 are `cell` or before it.
#[inline(always)]
const fn runs_begun(starts: u64, cell: u64) -> u64 {
    // The ninth bit of each field stays set where the difference is not negative.
    // The words of a direct node are no starts; their count is not used.
    let not_after = ((cell | NONE) * FIELDS).wrapping_sub(starts) & (NONE * FIELDS);
    // The product's last field is the sum of all.
    (not_after >> 8).wrapping_mul(FIELDS) >> 54 & 7
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_the_runs_that_have_begun() {
        for starts in [&[][..], &[1], &[255], &[3, 9, 64, 127, 128, 255], &[1, 2, 3, 4, 5, 6]] {
            let word = begun(starts);
            for cell in 0..=255 {
                let expected = starts.iter().filter(|&&start| start <= cell).count() as u64;
                assert_eq!(runs_begun(word, cell.into()), expected, "{starts:?} at {cell}");
            }
        }
    }

    #[test]
    fn a_pointer_keeps_only_the_bytes_that_are_compared() {
        let word = |skipped| pointer(0x1f_fffe, Shape::Runs(8), skipped, 0x1234_5678);
        let keys = [0, 0x1200_0000, 0x1234_0000, 0x1234_5600, 0x1234_5678];
        for (skipped, key) in (0..=MAX_SKIPPED).zip(keys) {
            assert_eq!(word(skipped) >> 32, key, "{skipped}");
            assert_eq!(word(skipped) >> 10 & 0x1f_ffff, 0x1f_fffe);
            assert_eq!(word(skipped) >> 7 & 7, skipped.into());
        }
        assert_eq!(pointer(1, Shape::Direct, 0, 0), 1 << 31 | 1 << 10 | 15);
    }
}

//! Which lines of the FTN's memory are free. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mplsxdp_common::abi::CHUNK_LINES;

use super::NODE_LINES;

/// Lines in a row, in one chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Block {
    pub line: u32,
    pub lines: u32,
}

/// The free lines.
#[derive(Default, Debug)]
pub struct Lines {
    /// Length by the first line. No two are neighbours in one chunk.
    free: BTreeMap<u32, u32>,
    /// The same by length.
    by_length: BTreeSet<(u32, u32)>,
    free_lines: u32,
    /// How many nodes there is room for, however large they are.
    sure: usize,
}

impl Lines {
    /// How many nodes there is room for, however large they are.
    pub fn sure(&self) -> usize {
        self.sure
    }

    pub fn free_lines(&self) -> u32 {
        self.free_lines
    }

    /// A chunk has come.
    pub fn add_chunk(&mut self, index: u32) {
        self.release(Block {
            line: index * CHUNK_LINES,
            lines: CHUNK_LINES,
        });
    }

    /// Takes out the last chunk of which all lines are free.
    pub fn take_chunk(&mut self) -> Option<u32> {
        let &(length, line) = self.by_length.range((CHUNK_LINES, 0)..).next_back()?;
        self.remove(line, length);
        Some(line / CHUNK_LINES)
    }

    /// Takes lines from the shortest free row that has as many.
    pub fn take(&mut self, lines: u32) -> Option<Block> {
        let &(length, line) = self.by_length.range((lines, 0)..).next()?;
        self.remove(line, length);
        if length > lines {
            self.insert(line + lines, length - lines);
        }
        Some(Block { line, lines })
    }

    pub fn release(&mut self, block: Block) {
        let Block { mut line, mut lines } = block;
        let chunk = line / CHUNK_LINES;
        if let Some((&before, &length)) = self.free.range(..line).next_back()
            && before + length == line
            && before / CHUNK_LINES == chunk
        {
            self.remove(before, length);
            (line, lines) = (before, length + lines);
        }
        let after = line + lines;
        if after / CHUNK_LINES == chunk
            && let Some(&length) = self.free.get(&after)
        {
            self.remove(after, length);
            lines += length;
        }
        self.insert(line, lines);
    }

    fn insert(&mut self, line: u32, length: u32) {
        self.free.insert(line, length);
        self.by_length.insert((length, line));
        self.free_lines += length;
        self.sure += (length / NODE_LINES) as usize;
    }

    fn remove(&mut self, line: u32, length: u32) {
        self.free.remove(&line);
        self.by_length.remove(&(length, line));
        self.free_lines -= length;
        self.sure -= (length / NODE_LINES) as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_free_lines_join_again_within_a_chunk() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(1), None);
        lines.add_chunk(0);
        lines.add_chunk(1);
        assert_eq!(lines.free_lines(), 2 * CHUNK_LINES);
        let whole = 2 * (CHUNK_LINES / NODE_LINES) as usize;
        assert_eq!(lines.sure(), whole);
        let blocks: Vec<Block> = [3, NODE_LINES, 1, 7].map(|count| lines.take(count).unwrap()).to_vec();
        assert_eq!(lines.free_lines(), 2 * CHUNK_LINES - NODE_LINES - 11);
        for index in [2, 0, 3, 1] {
            lines.release(blocks[index]);
        }
        assert_eq!((lines.sure(), lines.free.len()), (whole, 2));
        assert_eq!(lines.take(CHUNK_LINES + 1), None);
    }
}

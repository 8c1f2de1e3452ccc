//! The memory of the FTN without a kernel.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use mplsxdp_common::abi::{CHUNK_WORDS, FTN_ROOTS, MAX_CHUNKS};

use super::Memory;

/// Chunks in ordinary memory. Threads may read it while a trie writes to it.
#[derive(Debug)]
pub struct Heap {
    roots: Vec<AtomicU64>,
    chunks: Vec<OnceLock<Vec<AtomicU64>>>,
}

impl Default for Heap {
    fn default() -> Self {
        Self {
            roots: zeros(FTN_ROOTS as usize),
            chunks: (0..MAX_CHUNKS).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl Heap {
    /// Makes the chunk with this index. Returns whether there can be such a chunk.
    pub fn grow(&self, index: u32) -> bool {
        let chunk = self.chunks.get(index as usize);
        chunk.is_some_and(|chunk| chunk.set(zeros(CHUNK_WORDS)).is_ok())
    }
}

impl Memory for Heap {
    fn root(&self, index: u32) -> &AtomicU64 {
        &self.roots[index as usize]
    }

    fn chunk(&self, index: u32) -> Option<&[AtomicU64]> {
        self.chunks.get(index as usize)?.get().map(Vec::as_slice)
    }
}

fn zeros(words: usize) -> Vec<AtomicU64> {
    std::iter::repeat_with(AtomicU64::default).take(words).collect()
}

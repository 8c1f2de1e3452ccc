//! The memory of the FTN in the kernel. It grows by inner maps of `FTN`. Putting one there makes the kernel wait for a grace
//! period, so a thread does it, ahead of the need.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use mplsxdp_common::abi::{CHUNK_LINES, CHUNK_WORDS, MAX_CHUNKS, RouteEntry};

use super::super::grace::GracePeriods;
use super::super::mapped::MappedWords;
use super::super::{FtnKey, GracePeriod, bpf};
use super::lines::NODE_LINES;
use super::{Block, Full, Memory, Trie, chunk_and_word};

/// The name of inner maps.
const NAME: &str = "FTN.inner";
/// Changes wait if there is room for fewer nodes of the largest size.
const ENOUGH_NODES: usize = 64;
/// More memory is made when fewer lines than this, or than an eighth of all, are free: before changes have to wait.
const FEW_LINES: u32 = 2 * CHUNK_LINES / 3;
const _: () = assert!(FEW_LINES > ENOUGH_NODES as u32 * NODE_LINES);
/// The most chunks that are made at a time.
const MOST_CHUNKS: u32 = 16;

/// The mapped maps.
pub struct Mapped {
    roots: MappedWords,
    chunks: Vec<MappedWords>,
}

impl Memory for Mapped {
    fn root(&self, index: u32) -> &AtomicU64 {
        self.roots.word(index as usize)
    }

    fn word(&self, line: u32, index: usize) -> Option<&AtomicU64> {
        let (chunk, word) = chunk_and_word(line);
        self.chunks.get(chunk).map(|chunk| chunk.word(word + index))
    }
}

/// What a thread makes: chunks, up to the first that it could not make.
type Made = Arc<Mutex<Vec<io::Result<Chunk>>>>;

struct Chunk {
    words: MappedWords,
    /// Kernel memory.
    bytes: u64,
}

/// The FTN in the kernel.
pub struct KernelFtn {
    trie: Trie<Mapped>,
    /// The map of maps.
    outer: Arc<OwnedFd>,
    /// Chunks that are being made, and when they are there.
    growth: Option<(GracePeriod, Made)>,
    /// Whether there was ever a write: an empty FTN takes no memory.
    is_used: bool,
    /// Why the last chunk could not be made.
    failure: Option<io::Error>,
    /// Blocks that programs may still read, in the order of their grace periods.
    held_back: VecDeque<(GracePeriod, Vec<Block>)>,
    /// Kernel memory of all chunks.
    bytes: u64,
}

impl KernelFtn {
    pub fn new(roots: MappedWords, outer: OwnedFd) -> Self {
        Self {
            trie: Trie::new(Mapped {
                roots,
                chunks: Vec::new(),
            }),
            outer: Arc::new(outer),
            growth: None,
            is_used: false,
            failure: None,
            held_back: VecDeque::new(),
            bytes: 0,
        }
    }

    pub fn memory(&self) -> &Mapped {
        self.trie.memory()
    }

    /// Kernel memory of all inner maps.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn insert(&mut self, key: FtnKey, entry: RouteEntry) -> io::Result<()> {
        self.is_used = true;
        self.trie.insert(key, entry).map_err(|full| self.error(full))
    }

    pub fn remove(&mut self, key: FtnKey) -> io::Result<()> {
        self.trie.remove(key).map_err(|full| self.error(full))
    }

    fn error(&mut self, Full: Full) -> io::Error {
        let full = || io::Error::new(io::ErrorKind::StorageFull, "there is no room for another node");
        self.failure.take().unwrap_or_else(full)
    }

    /// Publishes what was written. Lines that are not used any more are free after a grace period.
    pub fn publish(&mut self, periods: &mut GracePeriods) {
        let retired = self.trie.take_retired();
        if !retired.is_empty() {
            self.held_back.push_back((periods.begin(), retired));
        }
        self.tend(periods);
    }

    /// The grace period that changes wait for, for want of room.
    pub fn await_room(&mut self, periods: &mut GracePeriods) -> Option<GracePeriod> {
        if self.trie.room() >= ENOUGH_NODES {
            return None;
        }
        self.is_used = true;
        self.publish(periods);
        if self.trie.room() >= ENOUGH_NODES {
            return None;
        }
        let growth = self.growth.as_ref().map(|&(period, _)| period);
        growth.or(self.held_back.front().map(|&(period, _)| period))
    }

    /// Takes what grace periods have brought, and begins to grow in time.
    fn tend(&mut self, periods: &mut GracePeriods) {
        while let Some((period, _)) = self.held_back.front()
            && periods.is_over(*period)
            && let Some((_, blocks)) = self.held_back.pop_front()
        {
            self.trie.release(&blocks);
        }
        if let Some((_, made)) = self.growth.take_if(|(period, _)| periods.is_over(*period)) {
            let made = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
            for chunk in made {
                match chunk {
                    Ok(chunk) => {
                        self.trie.memory_mut().chunks.push(chunk.words);
                        self.trie.add_chunk();
                        self.bytes += chunk.bytes;
                        self.failure = None;
                    }
                    Err(error) => {
                        self.failure = Some(error);
                        break;
                    }
                }
            }
        }
        let chunks = self.trie.chunks();
        let few = FEW_LINES.max(chunks * CHUNK_LINES / 8);
        let has_few = self.is_used && self.trie.free_lines() < few && chunks < MAX_CHUNKS;
        if has_few && self.growth.is_none() && self.failure.is_none() {
            let count = chunks.clamp(1, MOST_CHUNKS).min(MAX_CHUNKS - chunks);
            let made = Made::default();
            let (outer, result) = (Arc::clone(&self.outer), Arc::clone(&made));
            let period = periods.begin_after(Box::new(move || {
                let chunks = make_chunks(&outer, chunks, count);
                *result.lock().unwrap_or_else(PoisonError::into_inner) = chunks;
            }));
            self.growth = Some((period, made));
        }
    }
}

/// Makes chunks and puts them into the map of maps. The kernel waits for a grace period for each, and all wait at once.
fn make_chunks(outer: &OwnedFd, first: u32, count: u32) -> Vec<io::Result<Chunk>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (first..first + count)
            .map(|index| thread::Builder::new().spawn_scoped(scope, move || make_chunk(outer, index)))
            .collect();
        let results = threads.into_iter().map(|thread| {
            let result = thread?.join();
            result.unwrap_or_else(|_| Err(io::Error::other("the thread that makes it has failed")))
        });
        results.collect()
    })
}

fn make_chunk(outer: &OwnedFd, index: u32) -> io::Result<Chunk> {
    let map = bpf::create_mapped_array(NAME, CHUNK_WORDS as u32 * 8)?;
    let words = MappedWords::map(map.as_fd(), CHUNK_WORDS)?;
    let (_, bytes) = bpf::size_and_memory(map.as_fd())?;
    bpf::update_element(outer.as_fd(), index, map.as_raw_fd().cast_unsigned())?;
    Ok(Chunk { words, bytes })
}

//! The memory of the FTN in the kernel. It grows by inner maps of `FTN`, ahead of the need, and gives those back of
//! which much more is free than is needed. Either makes the kernel wait for a grace period, so a thread does it.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use mplsxdp_common::abi::{CHUNK_LINES, CHUNK_WORDS, Domain, MAX_CHUNKS, RouteEntry};

use super::super::grace::GracePeriods;
use super::super::mapped::MappedWords;
use super::super::{FtnKey, GracePeriod, bpf};
use super::{Block, Full, Memory, NODE_LINES, Trie};

/// The name of inner maps.
const NAME: &str = "FTN.inner";
/// Changes wait if there is room for fewer nodes of the largest size.
const ENOUGH_NODES: usize = 64;
/// More memory is made when fewer lines than this, or than an eighth of all, are free: before changes have to wait.
const FEW_LINES: u32 = 2 * CHUNK_LINES / 3;
const _: () = assert!(FEW_LINES > ENOUGH_NODES as u32 * NODE_LINES);
/// The most chunks that are made or given back at a time.
const MOST_CHUNKS: u32 = 16;

/// The mapped maps.
pub struct Mapped {
    roots: MappedWords,
    /// By their indexes.
    chunks: Vec<Option<Chunk>>,
}

impl Memory for Mapped {
    fn root(&self, index: u32) -> &AtomicU64 {
        self.roots.word(index as usize)
    }

    fn chunk(&self, index: u32) -> Option<&[AtomicU64]> {
        Some(self.chunks.get(index as usize)?.as_ref()?.words.words())
    }
}

/// What a thread makes: chunks with their indexes, or why it could not make one.
type Made = Arc<Mutex<Vec<io::Result<(u32, Chunk)>>>>;

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
    /// Chunks that are being made or given back, and when that is done.
    resizing: Option<(GracePeriod, Made)>,
    /// Whether there is a prefix, or is to be one: an empty FTN takes no memory.
    is_used: bool,
    /// Whether there has been a prefix since then.
    is_filled: bool,
    /// Why the last chunk could not be made.
    failure: Option<io::Error>,
    /// Blocks that programs may still read, in the order of their grace periods.
    held_back: VecDeque<(GracePeriod, Vec<Block>)>,
}

impl KernelFtn {
    pub fn new(roots: MappedWords, outer: OwnedFd) -> Self {
        Self {
            trie: Trie::new(Mapped {
                roots,
                chunks: (0..MAX_CHUNKS).map(|_| None).collect(),
            }),
            outer: Arc::new(outer),
            resizing: None,
            is_used: false,
            is_filled: false,
            failure: None,
            held_back: VecDeque::new(),
        }
    }

    pub fn memory(&self) -> &Mapped {
        self.trie.memory()
    }

    /// Kernel memory of all inner maps.
    pub fn bytes(&self) -> u64 {
        let chunks = self.trie.memory().chunks.iter().flatten();
        chunks.map(|chunk| chunk.bytes).sum()
    }

    pub fn insert(&mut self, key: FtnKey, entry: RouteEntry) -> io::Result<()> {
        (self.is_used, self.is_filled) = (true, true);
        self.trie.insert(key, entry).map_err(|full| self.error(full))
    }

    pub fn remove(&mut self, key: FtnKey) -> io::Result<()> {
        self.trie.remove(key).map_err(|full| self.error(full))
    }

    fn error(&mut self, Full: Full) -> io::Error {
        let full = || io::Error::new(io::ErrorKind::StorageFull, "there is no room for another node");
        self.failure.take().unwrap_or_else(full)
    }

    /// Publishes some of what was written: see [`Trie::publish_step`]. Lines that are not used any more are free after a
    /// grace period, which begins when everything is published.
    pub fn publish_step(&mut self, periods: &mut GracePeriods, spend: &mut dyn FnMut(usize) -> bool) -> bool {
        let is_published = self.trie.publish_step(spend);
        let retired = self.trie.take_retired();
        if !retired.is_empty() {
            self.held_back.push_back((periods.begin(), retired));
        }
        self.tend(periods);
        is_published
    }

    /// Whether readers find no entry in a domain.
    pub fn is_empty(&self, domain: Domain) -> bool {
        self.trie.is_empty(domain)
    }

    pub fn is_published(&self) -> bool {
        self.trie.is_published()
    }

    /// Whether changes wait until everything is published, for want of room or because of the order of writes.
    pub fn needs_publishing(&self) -> bool {
        self.trie.needs_publishing(ENOUGH_NODES)
    }

    /// The grace period that changes wait for, for want of room, once everything is published.
    pub fn await_room(&mut self, periods: &mut GracePeriods) -> Option<GracePeriod> {
        if self.trie.room() >= ENOUGH_NODES {
            return None;
        }
        self.is_used = true;
        self.tend(periods);
        if self.trie.room() >= ENOUGH_NODES {
            return None;
        }
        let resizing = self.resizing.as_ref().map(|&(period, _)| period);
        resizing.or(self.held_back.front().map(|&(period, _)| period))
    }

    /// Takes what grace periods have brought, and begins to grow in time, or to shrink.
    fn tend(&mut self, periods: &mut GracePeriods) {
        while let Some((period, _)) = self.held_back.front()
            && periods.is_over(*period)
            && let Some((_, blocks)) = self.held_back.pop_front()
        {
            self.trie.release(&blocks);
        }
        if let Some((_, made)) = self.resizing.take_if(|(period, _)| periods.is_over(*period)) {
            for chunk in mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner)) {
                match chunk {
                    Ok((index, chunk)) => {
                        self.trie.memory_mut().chunks[index as usize] = Some(chunk);
                        self.trie.add_chunk(index);
                        self.failure = None;
                    }
                    Err(error) => self.failure = Some(error),
                }
            }
        }
        if self.resizing.is_none() {
            self.resize(periods);
        }
    }

    fn resize(&mut self, periods: &mut GracePeriods) {
        if self.is_filled && self.held_back.is_empty() && self.trie.is_unused() {
            (self.is_used, self.is_filled) = (false, false);
        }
        let chunks = self.trie.chunks();
        let few = FEW_LINES.max(chunks * CHUNK_LINES / 8);
        let free = self.trie.free_lines();
        // Growing may double the memory, and does not make any spare.
        let most = if self.is_used {
            few + chunks * CHUNK_LINES / 2
        } else {
            0
        };
        if self.is_used && free < few && chunks < MAX_CHUNKS && self.failure.is_none() {
            let count = chunks.clamp(1, MOST_CHUNKS);
            let absent = self
                .trie
                .memory()
                .chunks
                .iter()
                .zip(0..)
                .filter(|(chunk, _)| chunk.is_none());
            let indexes: Vec<u32> = absent.map(|(_, index)| index).take(count as usize).collect();
            let made = Made::default();
            let (outer, result) = (Arc::clone(&self.outer), Arc::clone(&made));
            let period = periods.begin_after(Box::new(move || {
                let chunks = make_chunks(&outer, &indexes);
                *result.lock().unwrap_or_else(PoisonError::into_inner) = chunks;
            }));
            self.resizing = Some((period, made));
        } else if free >= most + CHUNK_LINES {
            // Its lines are free, so no program reads it any more.
            let spare = ((free - most) / CHUNK_LINES).min(MOST_CHUNKS);
            let removed: Vec<u32> = (0..spare).map_while(|_| self.trie.remove_chunk()).collect();
            if removed.is_empty() {
                return;
            }
            let memory = self.trie.memory_mut();
            let chunks: Vec<_> = removed
                .into_iter()
                .map(|index| (index, memory.chunks[index as usize].take()))
                .collect();
            let outer = Arc::clone(&self.outer);
            let period = periods.begin_after(Box::new(move || remove_chunks(&outer, chunks)));
            self.resizing = Some((period, Made::default()));
        }
    }
}

/// Makes chunks and puts them into the map of maps. The kernel waits for a grace period for each, and all wait at once.
fn make_chunks(outer: &OwnedFd, indexes: &[u32]) -> Vec<io::Result<(u32, Chunk)>> {
    thread::scope(|scope| {
        let make = |index| move || Ok((index, make_chunk(outer, index)?));
        let threads: Vec<_> = indexes
            .iter()
            .map(|&index| thread::Builder::new().spawn_scoped(scope, make(index)))
            .collect();
        let results = threads.into_iter().map(|thread| {
            let result = thread?.join();
            result.unwrap_or_else(|_| Err(io::Error::other("the thread that makes it has failed")))
        });
        results.collect()
    })
}

/// Takes chunks out of the map of maps: the kernel frees their memory. It may wait as well.
fn remove_chunks(outer: &OwnedFd, chunks: Vec<(u32, Option<Chunk>)>) {
    thread::scope(|scope| {
        for (index, chunk) in chunks {
            let remove = move || {
                if let Err(error) = bpf::delete_element(outer.as_fd(), index) {
                    // Nothing refers to it, and the next chunk with this index replaces it.
                    tracing::debug!(%error, index, "cannot give a chunk of the FTN back");
                }
                drop(chunk);
            };
            // Without a thread the chunk stays, likewise.
            let _ = thread::Builder::new().spawn_scoped(scope, remove);
        }
    });
}

fn make_chunk(outer: &OwnedFd, index: u32) -> io::Result<Chunk> {
    let map = bpf::create_mapped_array(NAME, CHUNK_WORDS as u32 * 8)?;
    let words = MappedWords::map(map.as_fd(), CHUNK_WORDS)?;
    let (_, bytes) = bpf::size_and_memory(map.as_fd())?;
    bpf::update_element(outer.as_fd(), index, map.as_raw_fd().cast_unsigned())?;
    Ok(Chunk { words, bytes })
}

//! BPF arrays in this process's memory.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::ptr::{NonNull, copy_nonoverlapping};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::TableError;

/// An mmapable BPF array of 64-bit words in this process.
pub struct MappedWords {
    words: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to this value, and is only accessed atomically.
unsafe impl Send for MappedWords {}
// SAFETY: likewise; `copy_from` borrows it mutably.
unsafe impl Sync for MappedWords {}

impl MappedWords {
    pub fn new(name: &'static str, map: &MapData, len: usize) -> Result<Self, TableError> {
        Self::map(map.fd().as_fd(), len).map_err(|source| TableError {
            map: name,
            operation: "map",
            source,
        })
    }

    /// Maps the map with this descriptor.
    pub fn map(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(len * size_of::<u64>()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, of a kernel object that outlives it.
        let words = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map,
                0,
            )
        }?;
        Ok(Self {
            words: words.cast(),
            len,
        })
    }

    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "word {index} of a map of {}", self.len);
        // SAFETY: within the mapping, page-aligned and therefore aligned for its words.
        unsafe { self.words.add(index).as_ref() }
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping; other processes and programs access its words only atomically, too.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }

    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }

    /// `None` after the end.
    pub fn get(&self, index: usize) -> Option<u64> {
        (index < self.len).then(|| self.load(index))
    }

    /// The address of `count` words from `index` on; `None` after the end.
    pub fn slice(&self, index: usize, count: usize) -> Option<NonNull<AtomicU64>> {
        // SAFETY: within the mapping.
        (index + count <= self.len).then(|| unsafe { self.words.add(index) })
    }

    /// Copies bytes to word `index` and after. No program may read them meanwhile.
    pub fn copy_from(&mut self, index: usize, bytes: &[u8]) {
        let room = self.len.saturating_sub(index) * size_of::<u64>();
        assert!(
            bytes.len() <= room,
            "{} bytes at word {index} of a map of {}",
            bytes.len(),
            self.len
        );
        // SAFETY: within the mapping, which this process writes to by `self` alone.
        unsafe { copy_nonoverlapping(bytes.as_ptr(), self.words.add(index).cast().as_ptr(), bytes.len()) };
    }

    /// A reader that sees this store also sees the earlier ones.
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }
}

impl Drop for MappedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no reference to it is left.
        let _ = unsafe { munmap(self.words.cast(), self.len * size_of::<u64>()) };
    }
}

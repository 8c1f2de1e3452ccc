//! The maps through which the programs of ports pass on captured frames. They are there only while somebody captures.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use mplsxdp_common::abi::{CAPTURE_HEADER, CaptureFilter, CaptureHeader, map};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::loader::Pins;

/// What each port captures.
pub struct CaptureFilters(Array<MapData, [u64; 3]>);

/// The captured frames, for one thread.
pub struct CaptureRing {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    /// How many had been lost when that was asked last.
    lost_before: u64,
}

impl CaptureFilters {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapError> {
        Ok(Self(Map::Array(pins.open(map::CAPTURE_FILTERS)?).try_into()?))
    }

    pub fn set(&mut self, port: u16, filter: CaptureFilter) -> io::Result<()> {
        let set = self.0.set(port.into(), filter.words(), 0);
        set.map_err(io::Error::other)
    }
}

impl CaptureRing {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapError> {
        Ok(Self {
            ring: RingBuf::try_from(Map::RingBuf(pins.open(map::CAPTURE)?))?,
            lost: Map::PerCpuArray(pins.open(map::CAPTURE_LOST)?).try_into()?,
            lost_before: 0,
        })
    }

    /// Waits until there are frames, or for this time.
    pub fn wait(&self, time: Duration) -> io::Result<()> {
        // SAFETY: the ring is open as long as `self` lives.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(ring, PollFlags::POLLIN)], time) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes on up to `limit` frames that are there. Returns how many there were.
    pub fn take(&mut self, limit: usize, mut each: impl FnMut(CaptureHeader, &[u8])) -> usize {
        for taken in 0..limit {
            let Some(record) = self.ring.next() else { return taken };
            let Some((head, bytes)) = record.split_first_chunk::<CAPTURE_HEADER>() else {
                continue;
            };
            let (words, _) = head.as_chunks::<8>();
            let mut all = [0; CAPTURE_HEADER / 8];
            all.iter_mut()
                .zip(words)
                .for_each(|(word, bytes)| *word = u64::from_ne_bytes(*bytes));
            if let Some(header) = CaptureHeader::from_words(all)
                && let Some(bytes) = bytes.get(..header.kept as usize)
            {
                each(header, bytes);
            }
        }
        limit
    }

    /// How many frames had no room in the ring since the last call.
    pub fn take_lost(&mut self) -> u64 {
        let Ok(lost) = self.lost.get(&0, 0) else { return 0 };
        let lost: u64 = lost.iter().sum();
        let since = lost - self.lost_before;
        self.lost_before = lost;
        since
    }
}

//! Captured frames on their way to a client. The queue is bounded: a client that does not keep up loses frames, and
//! nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use mplsxdp_common::abi::{CaptureFilter, Reason};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_MPLS_UC, LSE_LEN, Lse, VLAN_HLEN};
use tokio::sync::mpsc;

/// How many frames wait for a client.
const QUEUE: usize = 4096;

/// The frames that a client wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The bits [`CaptureFilter::bit`] of exceptions.
    pub reasons: u64,
    /// One in so many of the frames that are forwarded; 0: none.
    pub sample: u32,
    /// Only frames that arrive at this port.
    pub ifname: Option<String>,
    /// Only frames that arrive with this label on top.
    pub label: Option<u32>,
}

impl Wanted {
    /// What the programs are to capture for it.
    pub fn filter(&self) -> CaptureFilter {
        CaptureFilter::new(self.reasons, self.sample, self.label)
    }
}

/// Where a captured frame was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// At the port where it arrived, and it was forwarded to this one.
    In { to: Arc<str> },
    /// At the port where it leaves; it arrived at this one.
    Out { from: Arc<str> },
    /// At the port where it arrived, and it was not forwarded.
    Exception(Reason, Verdict),
}

/// What the program did with a frame that it did not forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Punted,
    Passed,
    Dropped,
}

impl Verdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Punted => "punted",
            Self::Passed => "passed",
            Self::Dropped => "dropped",
        }
    }
}

/// A captured frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub time: SystemTime,
    pub place: Place,
    /// The port that `place` speaks of.
    pub port: Arc<str>,
    pub length: u32,
    /// All of it, or the beginning.
    pub bytes: Box<[u8]>,
}

/// The switch's end of a client's queue. Two are equal if they have the same queue.
#[derive(Clone, Debug)]
pub struct Tap {
    pub wanted: Wanted,
    queue: mpsc::Sender<Arc<Frame>>,
    lost: Arc<AtomicU64>,
}

/// The client's end.
#[derive(Debug)]
pub struct Tapped {
    pub frames: mpsc::Receiver<Arc<Frame>>,
    lost: Arc<AtomicU64>,
}

pub fn tap(wanted: Wanted) -> (Tap, Tapped) {
    let (queue, frames) = mpsc::channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let tap = Tap {
        wanted,
        queue,
        lost: Arc::clone(&lost),
    };
    (tap, Tapped { frames, lost })
}

impl PartialEq for Tap {
    fn eq(&self, other: &Self) -> bool {
        self.queue.same_channel(&other.queue)
    }
}

impl Eq for Tap {}

impl Tap {
    pub fn is_gone(&self) -> bool {
        self.queue.is_closed()
    }

    /// Waits until the client has gone.
    pub async fn gone(self) {
        self.queue.closed().await;
    }

    /// Queues a frame; if there is no room, it is lost. Never waits.
    pub fn pass_on(&self, frame: &Arc<Frame>) {
        if self.queue.try_send(Arc::clone(frame)).is_err() {
            self.lose(1);
        }
    }

    /// So many frames are missing for another reason.
    pub fn lose(&self, frames: u64) {
        self.lost.fetch_add(frames, Ordering::Relaxed);
    }
}

impl Tapped {
    /// How many frames were lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// The label on top of a frame, beneath its VLAN tags.
pub fn top_label(frame: &[u8]) -> Option<u32> {
    let mut at = ETH_HLEN - 2;
    let ethertype = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    while at < ETH_HLEN + VLAN_HLEN && matches!(ethertype(at)?, ETH_P_8021Q | ETH_P_8021AD) {
        at += VLAN_HLEN;
    }
    if ethertype(at)? != ETH_P_MPLS_UC {
        return None;
    }
    let entry: &[u8; LSE_LEN] = frame.get(at + 2..)?.first_chunk()?;
    Some(Lse::from_bytes(*entry).label().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_on_top_is_beneath_the_tags() {
        let mut frame = vec![2; 12];
        frame.extend([0x88, 0x47, 0, 0x06, 0x41, 1]);
        assert_eq!(top_label(&frame), Some(100));
        for tag in [[0x81, 0x00, 0, 7], [0x88, 0xa8, 0, 8]] {
            frame.splice(12..12, tag);
            assert_eq!(top_label(&frame), Some(100));
        }
        for cut in 0..frame.len() {
            assert_eq!(top_label(&frame[..cut]), None, "{cut}");
        }
        frame.splice(12..12, [0x81, 0, 0, 9]);
        assert_eq!(top_label(&frame), None, "three tags");
    }

    #[test]
    fn a_client_that_does_not_keep_up_loses_frames() {
        let (tap, mut tapped) = tap(Wanted::default());
        let frame = Arc::new(Frame {
            time: SystemTime::UNIX_EPOCH,
            place: Place::In { to: "eth2".into() },
            port: "eth1".into(),
            length: 60,
            bytes: [0; 60].into(),
        });
        for _ in 0..QUEUE + 5 {
            tap.pass_on(&frame);
        }
        tap.lose(2);
        assert_eq!((tapped.take_lost(), tapped.take_lost()), (7, 0));
        let mut received = 0;
        while tapped.frames.try_recv().is_ok() {
            received += 1;
        }
        assert_eq!(received, QUEUE);
        drop(tapped);
        assert!(tap.is_gone());
    }
}

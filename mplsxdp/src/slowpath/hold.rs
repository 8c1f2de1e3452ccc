//! Frames that wait for the MAC address of their next hop: a few for each, for a few seconds. The time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a frame waits.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// The maximum number of waiting frames, for all next hops together.
pub const MAX_FRAMES: usize = 4096;

/// A frame that waits.
#[derive(Debug)]
pub struct Held {
    /// The next hop that it waits for: an index into the adjacency table.
    pub adjacency: u16,
    /// That of the backup, if there is one: the frame also leaves when that is resolved.
    pub backup: Option<u16>,
    /// Where it arrived.
    pub port: u16,
    pub frame: Vec<u8>,
    deadline: Instant,
}

/// All waiting frames, in the order in which they arrived. Buffers are reused: only a longer frame, or more frames than
/// before, allocate.
#[derive(Debug)]
pub struct Hold {
    per_next_hop: usize,
    frames: VecDeque<Held>,
    waiting: HashMap<u16, usize>,
    spare: Vec<Vec<u8>>,
}

impl Hold {
    pub fn new(per_next_hop: usize) -> Self {
        Self {
            per_next_hop,
            frames: VecDeque::new(),
            waiting: HashMap::new(),
            spare: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// How many wait for `adjacency`.
    pub fn waiting_for(&self, adjacency: u16) -> usize {
        self.waiting.get(&adjacency).copied().unwrap_or(0)
    }

    /// Keeps a copy of `frame`. Returns whether there was room.
    pub fn push(&mut self, adjacency: u16, backup: Option<u16>, port: u16, frame: &[u8], now: Instant) -> bool {
        if self.frames.len() >= MAX_FRAMES || self.waiting_for(adjacency) >= self.per_next_hop {
            return false;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        self.put_back(Held {
            adjacency,
            backup,
            port,
            frame: copy,
            deadline: now + PATIENCE,
        });
        true
    }

    /// Takes the frame that has waited longest.
    pub fn pop(&mut self) -> Option<Held> {
        let held = self.frames.pop_front()?;
        if let Some(count) = self.waiting.get_mut(&held.adjacency) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&held.adjacency);
            }
        }
        Some(held)
    }

    /// Takes the frame that has waited longest, if it has waited too long.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Held> {
        if self.next_deadline()? <= now { self.pop() } else { None }
    }

    /// Puts a frame after all others. Taking all frames and putting back some keeps their order.
    pub fn put_back(&mut self, held: Held) {
        *self.waiting.entry(held.adjacency).or_default() += 1;
        self.frames.push_back(held);
    }

    /// Keeps the buffer of a frame for reuse.
    pub fn recycle(&mut self, held: Held) {
        self.spare.push(held.frame);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.frames.front().map(|held| held.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(hold: &mut Hold) -> Vec<(u16, Vec<u8>)> {
        std::iter::from_fn(|| hold.pop())
            .map(|held| (held.adjacency, held.frame))
            .collect()
    }

    #[test]
    fn each_next_hop_has_so_many_frames_in_order() {
        let now = Instant::now();
        let mut hold = Hold::new(2);
        let pushed = [(1, b"a"), (2, b"b"), (1, b"c"), (1, b"d"), (2, b"e")]
            .map(|(adjacency, frame)| hold.push(adjacency, None, 0, frame, now));
        assert_eq!(pushed, [true, true, true, false, true]);
        assert_eq!(
            (hold.waiting_for(1), hold.waiting_for(2), hold.waiting_for(3)),
            (2, 2, 0)
        );
        let frames = [(1, b"a"), (2, b"b"), (1, b"c"), (2, b"e")].map(|(adjacency, frame)| (adjacency, frame.to_vec()));
        assert_eq!(order(&mut hold), frames);
        assert_eq!((hold.waiting_for(1), hold.len()), (0, 0));
    }

    #[test]
    fn all_next_hops_together_have_a_limit() {
        let now = Instant::now();
        let mut hold = Hold::new(64);
        let kept = (0..10_000)
            .filter(|&index| hold.push((index % 1000) as u16, None, 0, b"frame", now))
            .count();
        assert_eq!(kept, MAX_FRAMES);
    }

    #[test]
    fn a_frame_waits_three_seconds_from_its_own_arrival() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut hold = Hold::new(64);
        assert_eq!(hold.next_deadline(), None);
        hold.push(1, None, 7, b"a", start);
        hold.push(1, None, 7, b"b", after(1000));
        assert_eq!(hold.next_deadline(), Some(after(3000)));
        assert!(hold.pop_expired(after(2999)).is_none());
        let held = hold.pop_expired(after(3000)).unwrap();
        assert_eq!((held.port, &held.frame[..]), (7, &b"a"[..]));
        assert!(hold.pop_expired(after(3000)).is_none());
        assert_eq!(hold.next_deadline(), Some(after(4000)));
    }

    #[test]
    fn buffers_are_used_again() {
        let now = Instant::now();
        let mut hold = Hold::new(64);
        hold.push(1, None, 0, &[1; 100], now);
        let held = hold.pop().unwrap();
        let buffer = held.frame.as_ptr();
        hold.recycle(held);
        hold.push(2, None, 0, &[2; 50], now);
        let held = hold.pop().unwrap();
        assert_eq!((held.frame.as_ptr(), &held.frame[..]), (buffer, &[2; 50][..]));
    }
}

//! Frames that wait for the MAC address of their next hop: a few for each, for a few seconds. Pure: the time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a frame waits.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How many frames wait at most, for all next hops together.
pub const MAX_FRAMES: usize = 4096;

/// A frame that waits.
#[derive(Debug)]
pub struct Held {
    /// What it waits for: an index into the adjacency table.
    pub adjacency: u16,
    /// Where it arrived.
    pub port: u16,
    pub frame: Vec<u8>,
    deadline: Instant,
}

/// All that wait, in the order in which they came. Buffers are used again, so that only a longer frame, or more frames than
/// ever, allocate.
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
    pub fn push(&mut self, adjacency: u16, port: u16, frame: &[u8], now: Instant) -> bool {
        if self.frames.len() >= MAX_FRAMES || self.waiting_for(adjacency) >= self.per_next_hop {
            return false;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        self.put_back(Held {
            adjacency,
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

    /// Takes the frame that has waited longest, if that is too long.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Held> {
        if self.next_deadline()? <= now { self.pop() } else { None }
    }

    /// Puts a frame behind all others: who takes all and puts back some keeps their order.
    pub fn put_back(&mut self, held: Held) {
        *self.waiting.entry(held.adjacency).or_default() += 1;
        self.frames.push_back(held);
    }

    /// Keeps the buffer of a frame that is done with.
    pub fn recycle(&mut self, held: Held) {
        self.spare.push(held.frame);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.frames.front().map(|held| held.deadline)
    }
}

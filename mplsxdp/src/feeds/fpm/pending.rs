//! Messages that are read but not handled yet: only the last one for each key.

use std::collections::{HashMap, VecDeque};

use super::Key;
use crate::rtnl::Message;

/// How many places of replaced messages may be left in the queue, beyond one for each message that counts.
const SLACK: usize = 1024;

/// Messages, and marks between them, in order. A message replaces an earlier one with the same key, and moves to the
/// end of the queue, unless there is a mark between the two.
#[derive(Debug)]
pub struct Pending<M> {
    /// `None` for a message that was replaced.
    entries: VecDeque<Option<Entry<M>>>,
    /// The position of each key's message since the last mark, counted from the first entry ever.
    places: HashMap<Key, u64>,
    /// How many entries have left the front of the queue.
    left: u64,
    len: usize,
}

#[derive(Debug)]
enum Entry<M> {
    Mark(M),
    Message(Key, Message),
}

/// What comes next.
#[derive(Clone, PartialEq, Debug)]
pub enum Next<M> {
    Mark(M),
    Messages(Vec<Message>),
}

impl<M> Default for Pending<M> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            places: HashMap::new(),
            left: 0,
            len: 0,
        }
    }
}

impl<M> Pending<M> {
    /// How many messages and marks there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether the message replaced another.
    pub fn push(&mut self, key: Key, message: Message) -> bool {
        let place = self.left + self.entries.len() as u64;
        let before = self.places.insert(key, place);
        self.entries.push_back(Some(Entry::Message(key, message)));
        self.len += 1;
        let Some(before) = before else { return false };
        if let Some(replaced) = self.entries.get_mut((before - self.left) as usize) {
            *replaced = None;
            self.len -= 1;
        }
        if self.entries.len() > 2 * self.len + SLACK {
            self.close_gaps();
        }
        true
    }

    pub fn mark(&mut self, mark: M) {
        self.places.clear();
        self.entries.push_back(Some(Entry::Mark(mark)));
        self.len += 1;
    }

    /// Takes the next mark, or up to `count` messages before it.
    pub fn take(&mut self, count: usize) -> Option<Next<M>> {
        let mut messages = Vec::new();
        while messages.len() < count
            && let Some(entry) = self.entries.pop_front()
        {
            self.left += 1;
            match entry {
                None => {}
                Some(Entry::Message(key, message)) => {
                    self.len -= 1;
                    // After a mark there may be another message with the same key.
                    if self.places.get(&key) == Some(&(self.left - 1)) {
                        self.places.remove(&key);
                    }
                    if messages.is_empty() {
                        messages.reserve(count.min(self.len + 1));
                    }
                    messages.push(message);
                }
                Some(Entry::Mark(mark)) if messages.is_empty() => {
                    self.len -= 1;
                    return Some(Next::Mark(mark));
                }
                Some(mark) => {
                    self.left -= 1;
                    self.entries.push_front(Some(mark));
                    break;
                }
            }
        }
        if self.is_empty() && self.entries.capacity() > SLACK {
            // Frees the memory that a burst took.
            *self = Self::default();
        }
        (!messages.is_empty()).then_some(Next::Messages(messages))
    }

    /// Drops the places of replaced messages.
    fn close_gaps(&mut self) {
        self.left = 0;
        self.entries.retain(Option::is_some);
        for (place, entry) in self.entries.iter().enumerate() {
            if let Some(Entry::Message(key, _)) = entry
                && self.places.contains_key(key)
            {
                self.places.insert(*key, place as u64);
            }
        }
    }
}

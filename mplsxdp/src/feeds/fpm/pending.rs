//! Messages that are read but not handled yet: only the last one for each key.

use std::collections::BTreeMap;

use super::Key;
use crate::rtnl::Message;

/// Messages, and marks between them, in order. A message replaces an earlier one with the same key, and moves to the
/// end of the queue, unless there is a mark between the two. No operation takes long, however many messages there are,
/// because the event loop waits for the lock.
#[derive(Debug)]
pub struct Pending<M> {
    /// By their positions.
    entries: BTreeMap<u64, Entry<M>>,
    /// The position of each key's last message.
    places: BTreeMap<Key, u64>,
    /// The next position, and the one after the last mark.
    next: u64,
    marked: u64,
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
            entries: BTreeMap::new(),
            places: BTreeMap::new(),
            next: 0,
            marked: 0,
        }
    }
}

impl<M> Pending<M> {
    /// How many messages and marks there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the message took the place of another.
    pub fn push(&mut self, key: Key, message: Message) -> bool {
        let before = self.places.insert(key, self.next);
        self.add(Entry::Message(key, message));
        let replaced = before.filter(|&place| place >= self.marked);
        replaced.is_some_and(|place| self.entries.remove(&place).is_some())
    }

    pub fn mark(&mut self, mark: M) {
        self.add(Entry::Mark(mark));
        self.marked = self.next;
    }

    /// Takes the next mark, or up to `count` messages in front of it.
    pub fn take(&mut self, count: usize) -> Option<Next<M>> {
        let mut messages = Vec::new();
        while messages.len() < count
            && let Some(first) = self.entries.first_entry()
        {
            if matches!(first.get(), Entry::Mark(_)) && !messages.is_empty() {
                break;
            }
            match first.remove_entry() {
                (_, Entry::Mark(mark)) => return Some(Next::Mark(mark)),
                (place, Entry::Message(key, message)) => {
                    // Behind a mark there may be another with its key.
                    if self.places.get(&key) == Some(&place) {
                        self.places.remove(&key);
                    }
                    messages.push(message);
                }
            }
        }
        (!messages.is_empty()).then_some(Next::Messages(messages))
    }

    fn add(&mut self, entry: Entry<M>) {
        self.entries.insert(self.next, entry);
        self.next += 1;
    }
}

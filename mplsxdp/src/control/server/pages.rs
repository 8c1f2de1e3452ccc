//! The replies of a list.

use std::io;

use serde::Serialize;

/// The replies of a list, one after the other. Each has as many items as fit.
pub struct Pages {
    head: String,
    limit: usize,
    /// The current reply: `head` and items.
    bytes: Vec<u8>,
}

impl Pages {
    pub fn new(field: &str, limit: usize) -> Self {
        let head = format!("{{\"parameters\":{{\"{field}\":[");
        Self {
            bytes: head.clone().into_bytes(),
            head,
            limit,
        }
    }

    /// Adds an item. Returns the full reply that had no room for it, if any.
    pub fn add<T: Serialize>(&mut self, item: &T) -> io::Result<Option<Vec<u8>>> {
        let before = self.bytes.len();
        let is_first = before == self.head.len();
        if !is_first {
            self.bytes.push(b',');
        }
        serde_json::to_writer(&mut self.bytes, item)?;
        if is_first || self.bytes.len() - self.head.len() <= self.limit {
            return Ok(None);
        }
        let mut next = self.head.clone().into_bytes();
        next.extend(self.bytes.drain(before..).skip(1));
        let mut full = std::mem::replace(&mut self.bytes, next);
        full.extend(b"]},\"continues\":true}\0");
        Ok(Some(full))
    }

    pub fn into_last(mut self) -> Vec<u8> {
        self.bytes.extend(b"]}}\0");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the lengths of the items, each reply is a message of its own, only a single item can make one too
        /// long, and all items come in order.
        #[test]
        fn a_list_is_cut_by_bytes(lengths in prop::collection::vec(0_usize..60, 0..50)) {
            let items: Vec<String> = lengths.into_iter().map(|length| "x".repeat(length)).collect();
            let mut pages = Pages::new("items", 100);
            let mut replies: Vec<Vec<u8>> = items.iter().filter_map(|item| pages.add(item).unwrap()).collect();
            let full = replies.len();
            replies.push(pages.into_last());
            let mut listed = Vec::new();
            for (index, reply) in replies.iter().enumerate() {
                let (nul, message) = reply.split_last().unwrap();
                prop_assert_eq!(*nul, 0);
                let message: serde_json::Value = serde_json::from_slice(message).unwrap();
                prop_assert_eq!(message["continues"] == true, index < full);
                let some = message["parameters"]["items"].as_array().unwrap();
                prop_assert!(serde_json::to_vec(some).unwrap().len() <= 100 + 2, "{} items", some.len());
                prop_assert!(index == 0 || !some.is_empty());
                listed.extend(some.iter().map(|item| item.as_str().unwrap().to_owned()));
            }
            prop_assert_eq!(listed, items);
        }
    }
}

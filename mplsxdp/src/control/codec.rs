//! Varlink's framing: messages that end in a NUL byte.

use bytes::{Buf, BytesMut};
use tokio_util::codec::Decoder;

/// Splits a stream of bytes into messages. A message that is too large is reported as soon as that is clear, and
/// skipped to its end.
#[derive(Debug)]
pub struct Messages {
    limit: usize,
    /// How much of the buffer was searched and contains no NUL.
    scanned: usize,
    skipping: bool,
}

/// What was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    Whole(BytesMut),
    TooLarge,
}

impl Messages {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            scanned: 0,
            skipping: false,
        }
    }

    /// Whether the end of a message is still to come, given what `decode` left in the buffer.
    pub fn is_within_message(&self, buffer: &BytesMut) -> bool {
        self.skipping || !buffer.is_empty()
    }
}

impl Decoder for Messages {
    type Item = Message;
    type Error = std::io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, std::io::Error> {
        loop {
            let nul = memchr::memchr(0, &buffer[self.scanned..]).map(|offset| self.scanned + offset);
            match nul {
                Some(end) if self.skipping => {
                    buffer.advance(end + 1);
                    self.scanned = 0;
                    self.skipping = false;
                }
                Some(end) => {
                    let message = buffer.split_to(end);
                    buffer.advance(1);
                    self.scanned = 0;
                    return Ok(Some(if end > self.limit {
                        Message::TooLarge
                    } else {
                        Message::Whole(message)
                    }));
                }
                None if self.skipping => {
                    buffer.clear();
                    self.scanned = 0;
                    return Ok(None);
                }
                None if buffer.len() > self.limit => {
                    buffer.clear();
                    self.scanned = 0;
                    self.skipping = true;
                    return Ok(Some(Message::TooLarge));
                }
                None => {
                    self.scanned = buffer.len();
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The messages that result if the bytes arrive in pieces of these sizes, repeated.
    fn split(limit: usize, bytes: &[u8], sizes: &[usize]) -> Vec<Message> {
        let mut messages = Messages::new(limit);
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        let mut rest = bytes;
        for &size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            buffer.extend_from_slice(piece);
            while let Some(message) = messages.decode(&mut buffer).unwrap() {
                out.push(message);
            }
            rest = after;
            if rest.is_empty() {
                return out;
            }
        }
        out
    }

    #[test]
    fn too_large_is_reported_once_and_the_next_message_is_whole() {
        let whole = |text: &str| Message::Whole(text.as_bytes().into());
        for sizes in [&[1][..], &[3], &[100]] {
            assert_eq!(
                split(4, b"abcd\0abcdefghij\0\0xy\0z", sizes),
                [whole("abcd"), Message::TooLarge, whole(""), whole("xy")]
            );
        }
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(
            bytes in prop::collection::vec(prop_oneof![Just(0_u8), 1_u8..4], 1..200),
            sizes in prop::collection::vec(1_usize..20, 1..10),
        ) {
            prop_assert_eq!(split(5, &bytes, &sizes), split(5, &bytes, &[bytes.len()]));
        }
    }
}

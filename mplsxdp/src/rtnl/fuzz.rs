//! Properties of reading route messages that must hold for any bytes: [`rtnl`] panics if one does not.

use super::{Message, decode, encode, split};

/// Checks these properties; `data` is a datagram or the content of a frame. Every message in it is readable, or is an
/// error that names a part; a readable message can be written and read again.
pub fn rtnl(data: &[u8]) {
    let mut rest = data;
    while !rest.is_empty() {
        let (message, after) = match split(rest) {
            Ok(split) => split,
            Err(error) => {
                assert!(!error.part.is_empty());
                break;
            }
        };
        assert!(after.len() + message.len() <= rest.len(), "a byte is in two messages");
        rest = after;
        match decode(message) {
            Ok(Some(read)) => check(&read),
            Ok(None) => {}
            Err(error) => assert!(!error.part.is_empty() && error.to_string().contains(error.part)),
        }
    }
}

fn check(read: &Message) {
    let mut written = Vec::new();
    encode(read, &mut written);
    assert_eq!(decode(&written).as_ref(), Ok(&Some(read.clone())), "{written:02x?}");
}

//! The properties of reading an FPM connection that must hold for any bytes: [`fpm`] panics if one does not.

use std::time::{Duration, Instant};

use super::{Key, Next, Pending, Session, State};
use crate::rtnl::Message;

const QUIET: Duration = Duration::from_secs(2);

/// Checks these properties; `data` are the bytes of a connection. They mean the same in one piece as byte by byte; each
/// byte is counted in at most one frame; and for each key, the last message comes out of the queue.
pub fn fpm(data: &[u8]) {
    let now = Instant::now();
    let (whole, in_one) = read(data, data.len().max(1), now);
    let (mut pieces, in_pieces) = read(data, 1, now);
    assert_eq!(in_one, in_pieces);
    assert_eq!(whole.counters(), pieces.counters());
    let counters = whole.counters();
    assert!(counters.bytes <= data.len() as u64 && counters.frames * 4 <= counters.bytes);
    assert_eq!(whole.state() == State::Connected, in_one.is_empty());
    if let Some(due) = pieces.deadline() {
        assert!(due <= now + QUIET && !pieces.poll(now));
        assert_eq!(pieces.poll(due), counters.unreadable == 0);
        assert_eq!((pieces.state(), pieces.poll(due)), (State::Synced, false));
    }
    let mut pending = Pending::<()>::default();
    for (key, message) in &in_one {
        pending.push(*key, message.clone());
    }
    let mut last: Vec<&(Key, Message)> = Vec::new();
    for update in &in_one {
        last.retain(|(key, _)| *key != update.0);
        last.push(update);
    }
    assert_eq!(pending.len(), last.len());
    let mut taken = Vec::new();
    while let Some(Next::Messages(messages)) = pending.take(3) {
        assert!(messages.len() <= 3);
        taken.extend(messages);
    }
    assert!(pending.is_empty() && taken.iter().eq(last.iter().map(|(_, message)| message)));
}

/// What is read if the bytes come in pieces of this length.
fn read(data: &[u8], piece: usize, now: Instant) -> (Session, Vec<(Key, Message)>) {
    let mut session = Session::new(QUIET, now);
    session.connect(now);
    let mut messages = Vec::new();
    let mut buffer = Vec::new();
    for bytes in data.chunks(piece) {
        buffer.extend(bytes);
        match session.read(&buffer, now, |key, message| messages.push((key, message))) {
            Ok(taken) => drop(buffer.drain(..taken)),
            Err(_) => break,
        }
    }
    (session, messages)
}

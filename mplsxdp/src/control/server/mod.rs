//! The server's side of the control socket. It splits, limits, checks and answers calls; the switch carries them out.
//! Each connection is a task.

mod connection;
mod pages;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::api::Error;
use super::{Call, MAX_MESSAGE_BYTES, Peer};
use crate::descriptors::Shortage;
use connection::Connection;

/// How long connections may continue with the current call when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// The limits for clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub message_bytes: usize,
    /// The maximum size of the items in one reply of a list; a longer list is sent as several replies. The largest
    /// item, a route with 256 next hops, is smaller.
    pub list_bytes: usize,
    /// From the first byte of a message to its last.
    pub message_time: Duration,
    /// Between the messages of a transaction.
    pub transaction_idle: Duration,
    /// Between the messages of a client that has no transaction.
    pub idle: Duration,
    /// For a client to take a reply.
    pub write_time: Duration,
    pub clients: usize,
    /// Additional clients of user 0, so that others cannot use up all places.
    pub root_clients: usize,
    /// The maximum number of paths (a route has one for each next hop) in the open transactions of user 0, and also in
    /// those of all other users.
    pub staged_paths: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: MAX_MESSAGE_BYTES,
            list_bytes: 1 << 20,
            message_time: Duration::from_secs(30),
            transaction_idle: Duration::from_secs(300),
            idle: Duration::from_secs(300),
            write_time: Duration::from_secs(30),
            clients: 64,
            root_clients: 8,
            staged_paths: 4 << 20,
        }
    }
}

/// Answers clients until `shutdown`; calls in progress are still answered.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>, limits: Limits, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    let room = Room::new(&limits);
    loop {
        let accepted = tokio::select! {
            // Closed connections make room before the next one is counted.
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let peer = peer_of(&stream);
                match room.place(peer.uid) {
                    Some(place) => {
                        let connection = Connection::new(stream, calls.clone(), limits, &room, peer, shutdown.clone());
                        connections.spawn(async move {
                            connection.run().await;
                            drop(place);
                        });
                    }
                    None => turn_away(&stream, peer, limits.clients),
                }
            }
            Err(error) => {
                let hint = Shortage::of(&error).map(|shortage| format!(": {shortage}"));
                tracing::warn!(
                    "control socket: cannot accept a client: {error}{}",
                    hint.unwrap_or_default()
                );
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let finished = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        tracing::debug!("control socket: {} clients were cut off", connections.len());
    }
}

/// What all clients share.
struct Room {
    places: Arc<Semaphore>,
    root_places: Arc<Semaphore>,
    staging: Arc<Semaphore>,
    root_staging: Arc<Semaphore>,
}

impl Room {
    fn new(limits: &Limits) -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Self {
            places: of(limits.clients),
            root_places: of(limits.root_clients),
            staging: of(limits.staged_paths),
            root_staging: of(limits.staged_paths),
        }
    }

    /// A place for a client of this user, until it is dropped.
    fn place(&self, uid: u32) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place
            .or_else(|full| match uid {
                0 => Arc::clone(&self.root_places).try_acquire_owned(),
                _ => Err(full),
            })
            .ok()
    }

    /// The counter for the paths in this user's transactions.
    fn staging(&self, uid: u32) -> &Arc<Semaphore> {
        match uid {
            0 => &self.root_staging,
            _ => &self.staging,
        }
    }
}

fn peer_of(stream: &UnixStream) -> Peer {
    let credentials = stream.peer_cred().ok();
    // -1 is no user: the kernel's own "invalid user".
    Peer {
        pid: credentials.and_then(|credentials| credentials.pid()).unwrap_or(0),
        uid: credentials.map_or(u32::MAX, |credentials| credentials.uid()),
    }
}

fn turn_away(stream: &UnixStream, Peer { pid, uid }: Peer, limit: usize) {
    tracing::warn!(
        uid,
        pid,
        "control socket: a client was turned away: {limit} are connected"
    );
    // A new socket's buffer has room for this.
    if let Ok(reply) = encode(&Error::TooManyClients { limit }) {
        let _ = stream.try_write(&reply);
    }
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_users_cannot_take_the_places_of_root() {
        let room = Room::new(&Limits {
            clients: 2,
            root_clients: 1,
            ..Limits::default()
        });
        let others = [room.place(1000), room.place(1001)];
        assert!(others.iter().all(Option::is_some));
        assert!(room.place(1000).is_none());
        let root = room.place(0);
        assert!(root.is_some() && room.place(0).is_none());
        drop(others);
        assert!(room.place(0).is_some() && room.place(1000).is_some());
    }
}

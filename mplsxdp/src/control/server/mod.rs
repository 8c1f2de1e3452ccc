//! The server's side of the control socket. It splits, limits, checks and answers calls; the switch carries them out.
//! Each connection is a task.

mod capture;
mod connection;
mod counts;
mod monitor;
mod pages;
mod seats;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::access::{self, Class, Groups};
use super::api::Error;
use super::{Call, MAX_MESSAGE_BYTES, Peer};
use crate::descriptors::Shortage;
use connection::Connection;
pub use counts::{Counts, MethodCounts};
use seats::Seats;

/// How long connections may continue with the current call when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// The limits for clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub message_bytes: usize,
    /// The same for clients that may only read, whose calls are short.
    pub view_message_bytes: usize,
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
    /// Clients of root and group `mplsxdp`.
    pub clients: usize,
    /// Additional clients of root, so that others cannot use up all places. If root has used up these too, the client of
    /// root that has waited longest makes room for the next.
    pub root_clients: usize,
    /// Clients of group `mplsxdp-view`.
    pub view_clients: usize,
    /// The maximum number of paths (a route has one for each next hop) in the open transactions of user 0, and also in
    /// those of all other users.
    pub staged_paths: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: MAX_MESSAGE_BYTES,
            view_message_bytes: 64 << 10,
            list_bytes: 1 << 20,
            message_time: Duration::from_secs(30),
            transaction_idle: Duration::from_secs(300),
            idle: Duration::from_secs(300),
            write_time: Duration::from_secs(30),
            clients: 64,
            root_clients: 8,
            view_clients: 64,
            staged_paths: 4 << 20,
        }
    }
}

/// Who is at the other end of a connection, and what it may do.
#[derive(Clone, Copy, Debug)]
struct Caller {
    peer: Peer,
    class: Class,
}

/// What a connection has of the server.
struct Server {
    calls: mpsc::Sender<Call>,
    limits: Limits,
    /// The room for transactions of clients of this class.
    staging: Arc<Semaphore>,
    counts: Arc<Counts>,
    shutdown: CancellationToken,
}

/// Answers clients of these groups and of root until `shutdown`; calls in progress are still answered.
pub async fn serve(
    listener: UnixListener,
    calls: mpsc::Sender<Call>,
    groups: Groups,
    limits: Limits,
    counts: Arc<Counts>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut seats = Seats::new(&limits);
    let staging = Staging::new(&limits);
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
                let (peer, gids) = access::peer_of(&stream);
                let Some(class) = groups.class(peer.uid, &gids) else {
                    let Peer { pid, uid } = peer;
                    tracing::warn!(
                        uid,
                        pid,
                        "control socket: a client was turned away: it is in none of the groups"
                    );
                    counts.turned_away();
                    turn_away(&stream, &access::turn_away(peer));
                    continue;
                };
                match seats.take(class) {
                    Ok(seat) => {
                        counts.accepted();
                        let caller = Caller { peer, class };
                        let server = Server {
                            calls: calls.clone(),
                            limits,
                            staging: staging.of(class),
                            counts: Arc::clone(&counts),
                            shutdown: shutdown.clone(),
                        };
                        let connection = Connection::new(stream, server, caller, seat);
                        connections.spawn(connection.run());
                    }
                    Err(limit) => {
                        counts.turned_away();
                        let Peer { pid, uid } = peer;
                        tracing::warn!(
                            uid,
                            pid,
                            "control socket: a client was turned away: {limit} are connected"
                        );
                        turn_away(&stream, &Error::TooManyClients { limit });
                    }
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

/// The counters for the paths in open transactions.
struct Staging {
    root: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Staging {
    fn new(limits: &Limits) -> Self {
        let paths = || Arc::new(Semaphore::new(limits.staged_paths));
        Self {
            root: paths(),
            others: paths(),
        }
    }

    fn of(&self, class: Class) -> Arc<Semaphore> {
        Arc::clone(match class {
            Class::Root => &self.root,
            Class::Change | Class::View => &self.others,
        })
    }
}

fn turn_away(stream: &UnixStream, error: &Error) {
    // A new socket's buffer has room for this.
    if let Ok(reply) = encode(error) {
        let _ = stream.try_write(&reply);
    }
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    Ok(bytes)
}

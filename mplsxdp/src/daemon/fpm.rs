//! The server that zebra connects to (`--sync fpm`). A thread reads and decodes, so that the event loop takes only the
//! latest message for each route, in batches, and zebra does not wait until tables are written.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt as _, Interest, Ready};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::sleep_until;
use crate::control::api::FpmServer;
use crate::feeds::fpm::{Counters, Dialect, Key, Next, Pending, Remark, Session, State};
use crate::rtnl::Message;
use crate::switch::FeedEvent;

/// How many messages the event loop takes at once.
const BATCH: usize = 512;
/// How many messages may wait for the event loop. If there are more, reading pauses: zebra gives up after 15 s in which
/// it cannot send, and the event loop takes this many in less than a second.
const PENDING_MAX: usize = 1 << 17;
/// Room for more than two frames of the maximum length.
const BUFFER_BYTES: usize = 1 << 18;
/// How long to wait if the queue is locked: the thread that reads adds what it has read.
const LOCKED_PAUSE: Duration = Duration::from_millis(1);
/// A peer that has disappeared is noticed after 5 + 3 * 2 seconds.
const KEEPALIVE_IDLE_S: u32 = 5;
const KEEPALIVE_INTERVAL_S: u32 = 2;
const KEEPALIVE_PROBES: u32 = 3;
/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The state of the server, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub address: SocketAddr,
    pub state: State,
    /// The connected peer.
    pub peer: Option<SocketAddr>,
    /// The connected program, or else the previous one.
    pub dialect: Option<Dialect>,
    pub counters: Counters,
    /// Connections that were accepted, and those that were refused because there was one already.
    pub connections: u64,
    pub refused: u64,
    /// Messages that replaced others for the same route that had not been taken yet.
    pub replaced: u64,
    /// Messages that wait for the event loop.
    pub pending: usize,
}

impl From<Status> for FpmServer {
    fn from(status: Status) -> Self {
        let Counters {
            bytes,
            frames,
            labels,
            labels_gone,
            prefixes,
            prefixes_gone,
            objects,
            objects_gone,
            ignored,
            unreadable,
            framing_lost,
        } = status.counters;
        Self {
            address: status.address.to_string(),
            dialect: status.dialect.map(|dialect| dialect.name().to_owned()),
            connections: status.connections,
            refused_connections: status.refused,
            frames,
            bytes,
            labels,
            labels_deleted: labels_gone,
            prefixes,
            prefixes_deleted: prefixes_gone,
            nexthop_objects: objects,
            nexthop_objects_deleted: objects_gone,
            ignored,
            unreadable,
            framing_lost,
            coalesced: status.replaced,
            queued: status.pending as u64,
        }
    }
}

/// The server. It ends when this value is dropped.
pub struct Fpm {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Something was added to the queue, or taken from it.
    added: Notify,
    taken: Notify,
}

struct Inner {
    pending: Pending<FeedEvent>,
    status: Status,
}

impl Inner {
    fn take(&mut self) -> Option<Next<FeedEvent>> {
        let next = self.pending.take(BATCH);
        self.status.pending = self.pending.len();
        next
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot wait for a routing daemon on {0}: another program listens there (`ss -ltnp sport = :{port}` names it); choose \
         another port: `--sync fpm:PORT`, and `fpm address {ip} port PORT` in FRR",
        port = .0.port(), ip = .0.ip()
    )]
    InUse(SocketAddr),
    #[error(
        "cannot wait for a routing daemon on {0}: {ip} is not an address of this network namespace; {advice}",
        ip = .0.ip(), advice = advice(*.0)
    )]
    NotAnAddress(SocketAddr),
    #[error("cannot wait for a routing daemon on {0}")]
    Failed(SocketAddr, #[source] io::Error),
}

/// How it can become one.
fn advice(address: SocketAddr) -> &'static str {
    match address.ip().is_loopback() {
        true => "`ip link set lo up` makes it one",
        false => "`ip address` lists those that are",
    }
}

/// Takes the address, in the network namespace of this thread.
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address),
        io::ErrorKind::AddrNotAvailable => ListenError::NotAnAddress(address),
        _ => ListenError::Failed(address, error),
    })
}

impl Fpm {
    /// Listens in the network namespace of this thread. `quiet`: how long zebra must be silent for its replay to count
    /// as complete.
    pub fn listen(address: SocketAddr, quiet: Duration) -> Result<Self, ListenError> {
        let listener = bind(address)?;
        Self::serve(listener, quiet).map_err(|error| ListenError::Failed(address, error))
    }

    fn serve(listener: TcpListener, quiet: Duration) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let status = Status {
            // Port 0 selects any.
            address: listener.local_addr()?,
            state: State::Listening,
            peer: None,
            dialect: None,
            counters: Counters::default(),
            connections: 0,
            refused: 0,
            replaced: 0,
            pending: 0,
        };
        let pending = Pending::default();
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { pending, status }),
            added: Notify::new(),
            taken: Notify::new(),
        });
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let server = Server {
            shared: Arc::clone(&shared),
            session: Session::new(quiet, Instant::now()),
            connection: None,
            complaint: None,
        };
        let stopped = stop.clone();
        thread::Builder::new()
            .name("fpm".into())
            .spawn(move || runtime.block_on(stopped.run_until_cancelled(server.run(listener))))?;
        Ok(Self { shared, stop })
    }

    /// Waits for what comes next. Can be dropped and called again at any time.
    pub async fn next(&self) -> FeedEvent {
        loop {
            // The event loop does not wait for the thread that reads, which may have no CPU while it holds the lock.
            let taken = match self.shared.inner.try_lock() {
                Err(TryLockError::WouldBlock) => None,
                Err(TryLockError::Poisoned(inner)) => Some(inner.into_inner().take()),
                Ok(mut inner) => Some(inner.take()),
            };
            let Some(next) = taken else {
                tokio::time::sleep(LOCKED_PAUSE).await;
                continue;
            };
            match next {
                None => self.shared.added.notified().await,
                Some(next) => {
                    self.shared.taken.notify_one();
                    return match next {
                        Next::Mark(event) => event,
                        Next::Messages(messages) => FeedEvent::Messages(messages),
                    };
                }
            }
        }
    }

    pub fn status(&self) -> Status {
        self.shared.lock().status.clone()
    }
}

impl Drop for Fpm {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Server {
    shared: Arc<Shared>,
    session: Session,
    connection: Option<Connection>,
    /// The last log message about useless connections: a peer that retries again and again is logged once.
    complaint: Option<String>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    buffer: Vec<u8>,
    /// How many bytes of the buffer are filled.
    filled: usize,
    /// It has sent something readable, and the switch knows of it.
    announced: bool,
}

impl Server {
    async fn run(mut self, listener: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return warn!(%error, "cannot wait for connections of a routing daemon"),
        };
        loop {
            let has_room = self.shared.lock().pending.len() < PENDING_MAX;
            let deadline = self.session.deadline().filter(|_| has_room);
            let can_read = has_room && self.connection.is_some();
            tokio::select! {
                biased;
                read = read(&mut self.connection), if can_read => self.take(read),
                () = self.shared.taken.notified(), if !has_room => self.session.resume(Instant::now()),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.accept(stream, peer).await,
                    Err(error) => {
                        self.complain(format!("cannot accept a connection of a routing daemon: {error}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = sleep_until(deadline), if deadline.is_some() => {
                    if !self.has_more().await {
                        self.poll();
                    }
                }
            }
        }
    }

    /// Accepts one routing daemon at a time. A peer that has closed its end, or has never sent anything readable, is
    /// replaced.
    async fn accept(&mut self, stream: TcpStream, peer: SocketAddr) {
        if let Some(connection) = &self.connection {
            let is_useful = connection.announced && !is_closed(&connection.stream).await;
            if is_useful {
                self.shared.lock().status.refused += 1;
                let first = connection.peer;
                self.complain(format!(
                    "a second routing daemon ({}) wants to send routes, and is refused: the one at {first} is connected",
                    peer.ip()
                ));
                return;
            }
            self.end("another connection has replaced it");
        }
        if let Err(error) = keep_alive(&stream) {
            debug!(%peer, %error, "cannot switch on TCP keepalive");
        }
        debug!(%peer, "a connection for routes");
        self.session.connect(Instant::now());
        self.connection = Some(Connection {
            stream,
            peer,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0,
            announced: false,
        });
        self.shared.lock().status.connections += 1;
        self.publish();
    }

    /// Handles the result of reading; nothing was read at the end of the connection.
    fn take(&mut self, read: io::Result<usize>) {
        let Some(connection) = &mut self.connection else { return };
        match read {
            Ok(0) => return self.end("it closed the connection"),
            Err(error) => return self.end(&error.to_string()),
            Ok(count) => connection.filled += count,
        }
        let mut messages: Vec<(Key, Message)> = Vec::new();
        let bytes = connection.buffer.get(..connection.filled).unwrap_or_default();
        let read = self
            .session
            .read(bytes, Instant::now(), |key, message| messages.push((key, message)));
        if !messages.is_empty() {
            let peer = connection.peer.to_string();
            let is_first = !std::mem::replace(&mut connection.announced, true);
            if is_first {
                self.complaint = None;
            }
            let mut inner = self.shared.lock();
            if is_first {
                inner.pending.mark(FeedEvent::Connected { peer });
            }
            // All of a frame at once: a deletion and an addition in it are one change.
            for (key, message) in messages {
                let replaces = inner.pending.push(key, message);
                inner.status.replaced += u64::from(replaces);
            }
        }
        match read {
            Ok(taken) => {
                connection.buffer.copy_within(taken..connection.filled, 0);
                connection.filled -= taken;
            }
            Err(lost) => self.end(&lost.to_string()),
        }
        self.shared.added.notify_one();
        self.session.heard(Instant::now());
        self.poll();
    }

    /// Whether there is something to read: zebra was not silent if its data has already arrived.
    async fn has_more(&self) -> bool {
        match &self.connection {
            Some(connection) => ready(&connection.stream).await.is_some(),
            None => false,
        }
    }

    /// Reports to the switch once zebra has sent everything.
    fn poll(&mut self) {
        let is_synced = self.session.poll(Instant::now());
        self.publish();
        if is_synced {
            self.mark(FeedEvent::Synced);
        }
    }

    fn end(&mut self, reason: &str) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let peer = connection.peer.ip();
        self.session.disconnect();
        self.publish();
        if connection.announced {
            let reason = reason.to_owned();
            self.mark(FeedEvent::Disconnected { reason });
        } else {
            self.complain(format!("a connection from {peer} ended without routes: {reason}"));
        }
    }

    fn mark(&self, event: FeedEvent) {
        self.shared.lock().pending.mark(event);
        self.shared.added.notify_one();
    }

    /// Logs the session's remarks, and publishes its state.
    fn publish(&mut self) {
        for remark in self.session.take_remarks() {
            match &remark {
                Remark::Dialect(Dialect::Zebra | Dialect::Sonic) | Remark::NoLabels => info!("{remark}"),
                Remark::Dialect(_) | Remark::Unreadable(_) | Remark::Kept { .. } => warn!("{remark}"),
            }
        }
        let mut inner = self.shared.lock();
        let Inner { pending, status } = &mut *inner;
        status.state = self.session.state();
        status.peer = self.connection.as_ref().map(|connection| connection.peer);
        status.dialect = self.session.dialect();
        status.counters = *self.session.counters();
        status.pending = pending.len();
    }

    fn complain(&mut self, complaint: String) {
        if self.complaint.as_ref() == Some(&complaint) {
            debug!("{complaint}");
        } else {
            warn!("{complaint}");
            self.complaint = Some(complaint);
        }
    }
}

/// Appends to the buffer, which always has room for the rest of a frame.
async fn read(connection: &mut Option<Connection>) -> io::Result<usize> {
    match connection {
        None => std::future::pending().await,
        Some(Connection {
            stream, buffer, filled, ..
        }) => stream.read(buffer.get_mut(*filled..).unwrap_or_default()).await,
    }
}

/// Whether the other end will send no more, even if there is still something to read.
async fn is_closed(stream: &TcpStream) -> bool {
    ready(stream).await.is_some_and(Ready::is_read_closed)
}

/// Whether a connection is readable or closed; `None`: neither.
async fn ready(stream: &TcpStream) -> Option<Ready> {
    // Lets the runtime notice it first.
    tokio::task::yield_now().await;
    stream.ready(Interest::READABLE).now_or_never()?.ok()
}

fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)
}

#[cfg(test)]
mod tests;

//! The server's side of the control socket. It frames, limits, checks and answers; what a call means is the controller's.
//! Each connection is a task; a transaction lives in its connection and ends with it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;

use super::api::{self, ChangeMode, Error, Reply, Request};
use super::call::{self, Command, Flags, List};
use super::codec::{Message, Messages};
use super::{Call, MAX_MESSAGE_BYTES, Peer};
use crate::descriptors::Shortage;
use crate::lfib::next_hops::Position;
use crate::route::{Route, RouteKey};

/// How much of a list the controller tells at once: paths of routes, or next hops. So a long list does not hold it up.
const CHUNK: usize = 1000;
/// A message that is larger is read by another thread, so that the event loop goes on meanwhile.
const LARGE_MESSAGE_BYTES: usize = 64 << 10;
/// How long connections may go on with the call at hand when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// What clients may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub message_bytes: usize,
    /// Of the items in one reply of a list; a longer list comes as several replies. The largest item is a route with 256 next
    /// hops, and takes less.
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
    /// Further clients, of user 0: nobody else can take all places.
    pub root_clients: usize,
    /// Paths (a route has one for each of its next hops) in the open transactions of user 0; and as many in those of all others.
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

/// Answers clients until `shutdown`; calls that are at hand then are still answered.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>, limits: Limits, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    let room = Room::new(&limits);
    loop {
        let accepted = tokio::select! {
            // Who has gone makes room before the next is counted.
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

    /// Where the transactions of this user have their paths counted.
    fn staging(&self, uid: u32) -> &Arc<Semaphore> {
        match uid {
            0 => &self.root_staging,
            _ => &self.staging,
        }
    }
}

fn peer_of(stream: &UnixStream) -> Peer {
    let credentials = stream.peer_cred().ok();
    // -1 is nobody's: the kernel's own "invalid user".
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

struct Connection {
    stream: UnixStream,
    peer: Peer,
    calls: mpsc::Sender<Call>,
    limits: Limits,
    shutdown: CancellationToken,
    messages: Messages,
    buffer: BytesMut,
    transaction: Option<Transaction>,
    staging: Arc<Semaphore>,
}

struct Transaction {
    replace_all: bool,
    routes: Vec<Route>,
    /// The room that they take.
    room: Option<OwnedSemaphorePermit>,
    /// The first call that failed since it was opened.
    failed: Option<Error>,
}

/// The parameters of the only reply.
#[derive(Serialize)]
struct Answer<'a, T> {
    parameters: &'a T,
}

#[derive(Serialize)]
struct Info {
    vendor: &'static str,
    product: &'static str,
    version: &'static str,
    url: &'static str,
    interfaces: [&'static str; 2],
}

#[derive(Serialize)]
struct Description {
    description: &'static str,
}

impl Connection {
    fn new(
        stream: UnixStream,
        calls: mpsc::Sender<Call>,
        limits: Limits,
        room: &Room,
        peer: Peer,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            stream,
            peer,
            calls,
            limits,
            shutdown,
            messages: Messages::new(limits.message_bytes),
            buffer: BytesMut::new(),
            transaction: None,
            staging: Arc::clone(room.staging(peer.uid)),
        }
    }

    async fn run(mut self) {
        let Peer { pid, uid } = self.peer;
        if let Err(error) = self.converse().await {
            tracing::info!(pid, uid, "control socket: client cut off: {error}");
        }
        if let Some(transaction) = self.transaction {
            let staged = transaction.routes.len();
            tracing::info!(pid, uid, staged, "transaction rolled back: the client went away");
        }
    }

    async fn converse(&mut self) -> io::Result<()> {
        while let Some(message) = self.next_message().await? {
            let (flags, command) = match message {
                Message::Whole(message) => self.read(message).await,
                Message::TooLarge => {
                    let limit = self.limits.message_bytes;
                    (Flags::default(), Err(Error::MessageTooLarge { limit }))
                }
            };
            let outcome = match command {
                Ok(command) => self.carry_out(command, flags).await,
                Err(error) => Err(error.into()),
            };
            let reply = match outcome {
                Ok(reply) => reply,
                Err(Failure::Connection(error)) => return Err(error),
                Err(Failure::Call(error)) => {
                    let reply = encode(&error)?;
                    if let Some(transaction) = &mut self.transaction {
                        transaction.failed.get_or_insert(error);
                    }
                    reply
                }
            };
            self.send(&reply, flags).await?;
        }
        Ok(())
    }

    /// `None` when the client has hung up or the server stops.
    async fn next_message(&mut self) -> io::Result<Option<Message>> {
        let mut within_since = None;
        loop {
            if let Some(message) = self.messages.decode(&mut self.buffer)? {
                return Ok(Some(message));
            }
            let (time, what) = if self.messages.is_within_message(&self.buffer) {
                let since: Instant = *within_since.get_or_insert_with(Instant::now);
                (
                    self.limits.message_time.saturating_sub(since.elapsed()),
                    "a message did not end",
                )
            } else {
                match &self.transaction {
                    Some(_) => (self.limits.transaction_idle, "an open transaction had no message"),
                    None => (self.limits.idle, "it had no call"),
                }
            };
            self.buffer.reserve(LARGE_MESSAGE_BYTES);
            let read = self.stream.read_buf(&mut self.buffer);
            let read = async {
                timeout(time, read)
                    .await
                    .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} in time"))))
            };
            let length = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(None),
                length = read => length?,
            };
            if length == 0 {
                return Ok(None);
            }
        }
    }

    async fn read(&self, message: BytesMut) -> (Flags, Result<Command, Error>) {
        let staged = self
            .transaction
            .as_ref()
            .map_or(0, |transaction| transaction.routes.len());
        if message.len() < LARGE_MESSAGE_BYTES {
            return call::read(&message, staged);
        }
        tokio::task::spawn_blocking(move || call::read(&message, staged))
            .await
            .unwrap_or_else(|_| (Flags::default(), Err(Error::ShuttingDown {})))
    }

    /// The reply, or the last one where there are several.
    async fn carry_out(&mut self, command: Command, flags: Flags) -> Result<Vec<u8>, Failure> {
        match command {
            Command::GetInfo => answer(&Info {
                vendor: "mplsxdp",
                product: "mplsxdp",
                version: env!("CARGO_PKG_VERSION"),
                url: env!("CARGO_PKG_REPOSITORY"),
                interfaces: [call::SERVICE_INTERFACE, api::INTERFACE],
            }),
            Command::Describe { definition } => answer(&Description {
                description: definition,
            }),
            Command::Ask(request) => answer_of(self.ask(request).await?),
            Command::List(list) => self.list(list, flags).await,
            Command::Begin { replace_all } => {
                self.begin(replace_all)?;
                answer(&api::Nothing {})
            }
            Command::Stage { routes } => {
                let staged = self.stage(routes)?;
                answer(&api::Staged { staged })
            }
            Command::Commit { allow_empty } => answer_of(self.commit(allow_empty).await?),
            Command::Rollback => {
                self.transaction.take().ok_or(Error::NoTransaction {})?;
                answer(&api::Nothing {})
            }
        }
    }

    /// Sends all of a list but its last reply, and returns that one.
    async fn list(&mut self, list: List, flags: Flags) -> Result<Vec<u8>, Failure> {
        let mut pages = Pages::new(list.field(), self.limits.list_bytes);
        let mut next = Some(list);
        while let Some(list) = next {
            next = match self.ask(list.request()).await? {
                Reply::Routes(routes) => {
                    self.add_to(&mut pages, &routes, flags).await?;
                    list.after_routes(&routes)
                }
                Reply::Neighbors { neighbors, last } => {
                    self.add_to(&mut pages, &neighbors, flags).await?;
                    list.after_neighbors(last)
                }
                Reply::Links(links) => {
                    self.add_to(&mut pages, &links, flags).await?;
                    None
                }
                Reply::UnknownLabels(labels) => {
                    self.add_to(&mut pages, &labels, flags).await?;
                    None
                }
                _ => return Err(Error::ShuttingDown {}.into()),
            };
        }
        Ok(pages.into_last())
    }

    /// Adds items to the reply at hand, and sends what is full.
    async fn add_to<T: Serialize>(&mut self, pages: &mut Pages, items: &[T], flags: Flags) -> Result<(), Failure> {
        for item in items {
            if let Some(page) = pages.add(item)? {
                if !flags.more {
                    return Err(Error::ExpectedMore {}.into());
                }
                self.send(&page, flags).await?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, replace_all: bool) -> Result<(), Error> {
        if self.transaction.is_some() {
            return Err(Error::TransactionOpen {});
        }
        self.transaction = Some(Transaction {
            replace_all,
            routes: Vec::new(),
            room: None,
            failed: None,
        });
        Ok(())
    }

    fn stage(&mut self, routes: Vec<Route>) -> Result<u64, Error> {
        let transaction = self.transaction.as_mut().ok_or(Error::NoTransaction {})?;
        let limit = self.limits.staged_paths;
        let paths: usize = routes.iter().map(|route| route.paths().len()).sum();
        let room = u32::try_from(paths)
            .ok()
            .and_then(|paths| Arc::clone(&self.staging).try_acquire_many_owned(paths).ok())
            .ok_or(Error::TooManyPaths { limit })?;
        match &mut transaction.room {
            Some(all) => all.merge(room),
            none => *none = Some(room),
        }
        transaction.routes.extend(routes);
        Ok(transaction.routes.len() as u64)
    }

    async fn commit(&mut self, allow_empty: bool) -> Result<Reply, Error> {
        let Transaction {
            replace_all,
            routes,
            room: _room,
            failed,
        } = self.transaction.take().ok_or(Error::NoTransaction {})?;
        match failed {
            Some(error) => Err(Error::TransactionFailed {
                reason: error.to_string(),
            }),
            None if replace_all && routes.is_empty() && !allow_empty => Err(Error::InvalidParameter {
                parameter: "parameters.allow_empty".into(),
                reason: "no route was staged, and to replace all routes by none would delete them: commit with `allow_empty` \
                         true if that is meant; nothing was changed, and the transaction is over"
                    .into(),
            }),
            None => {
                let mode = if replace_all {
                    ChangeMode::ReplaceAll
                } else {
                    ChangeMode::Replace
                };
                let wait = true;
                self.ask(Request::ChangeRoutes { mode, routes, wait }).await
            }
        }
    }

    /// Asks the controller. What changes something is logged, with who asked for it.
    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        let Peer { pid, uid } = self.peer;
        let change = change(&request);
        let (sender, answer) = oneshot::channel();
        let call = Call {
            request,
            peer: self.peer,
            reply: sender,
        };
        self.calls.send(call).await.map_err(|_| Error::ShuttingDown {})?;
        let reply = answer.await.map_err(|_| Error::ShuttingDown {})?;
        if let Some(what) = change {
            match &reply {
                Ok(Reply::Changed(api::Changed { changes, .. }) | Reply::Committed(api::Committed { changes, .. })) => {
                    let api::Changes {
                        added,
                        replaced,
                        deleted,
                    } = changes;
                    tracing::info!(pid, uid, added, replaced, deleted, "{what}");
                }
                Ok(_) => tracing::info!(pid, uid, "{what}"),
                Err(refusal) => tracing::info!(pid, uid, "{what}: refused: {refusal}"),
            }
        }
        Ok(reply?)
    }

    async fn send(&mut self, reply: &[u8], flags: Flags) -> io::Result<()> {
        if flags.oneway {
            return Ok(());
        }
        timeout(self.limits.write_time, self.stream.write_all(reply))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not take its replies")))
    }
}

/// What a request changes, for the log; `None` where it changes nothing.
fn change(request: &Request) -> Option<String> {
    match request {
        Request::ChangeRoutes { mode, routes, .. } => Some(match mode {
            ChangeMode::Add => format!("add {} routes", routes.len()),
            ChangeMode::Replace => format!("add or replace {} routes", routes.len()),
            ChangeMode::ReplaceAll => format!("replace all routes by {}", routes.len()),
        }),
        Request::DeleteRoutes { keys } => Some(format!("delete {} routes", keys.len())),
        Request::FlushRoutes { filter } => Some(format!("flush routes: {filter:?}")),
        Request::AddLink {
            name,
            tx_only,
            checksum,
        } => {
            let tx_only = if *tx_only { " tx-only" } else { "" };
            let checksum = checksum.map(|checksum| format!(" checksum {}", checksum.name()));
            Some(format!("add link {name}{tx_only}{}", checksum.unwrap_or_default()))
        }
        Request::DeleteLink { name } => Some(format!("delete link {name}")),
        Request::SetLink { name, mpls } => Some(format!("set link {name} mpls {}", if *mpls { "on" } else { "off" })),
        Request::Unload => Some("unload".into()),
        Request::GetStatus
        | Request::ListRoutes { .. }
        | Request::ListLinks { .. }
        | Request::ListNeighbors { .. }
        | Request::GetStats { .. }
        | Request::GetUnknownLabels => None,
    }
}

impl List {
    /// What the definition calls the items.
    fn field(&self) -> &'static str {
        match self {
            Self::Routes { .. } => "routes",
            Self::Links { .. } => "links",
            Self::Neighbors { .. } => "neighbors",
            Self::UnknownLabels => "labels",
        }
    }

    fn request(&self) -> Request {
        match self {
            Self::Routes {
                filter,
                after,
                counters,
            } => Request::ListRoutes {
                filter: filter.clone(),
                after: *after,
                limit: CHUNK,
                counters: *counters,
            },
            Self::Links { counters } => Request::ListLinks { counters: *counters },
            Self::Neighbors { after, counters } => Request::ListNeighbors {
                after: after.clone(),
                limit: CHUNK,
                counters: *counters,
            },
            Self::UnknownLabels => Request::GetUnknownLabels,
        }
    }

    /// What is left of a list of next hops after `last`; `None` at its end.
    fn after_neighbors(self, last: Option<Position>) -> Option<Self> {
        let Self::Neighbors { counters, .. } = self else {
            return None;
        };
        let after = Some(last?);
        Some(Self::Neighbors { after, counters })
    }

    /// What is left of a list of routes after some of it; `None` at its end.
    fn after_routes(self, routes: &[api::InstalledRoute]) -> Option<Self> {
        let Self::Routes { filter, counters, .. } = self else {
            return None;
        };
        let paths: usize = routes.iter().map(|listed| listed.route.path_count()).sum();
        let last = &routes.last().filter(|_| paths >= CHUNK)?.route;
        let key = api::Key {
            label: last.label,
            prefix: last.prefix,
        };
        Some(Self::Routes {
            filter,
            after: Some(RouteKey::try_from(key).ok()?),
            counters,
        })
    }
}

/// The replies of a list, one after the other. Each has as many items as fit.
struct Pages {
    head: String,
    limit: usize,
    /// The reply at hand: `head` and items.
    bytes: Vec<u8>,
}

impl Pages {
    fn new(field: &str, limit: usize) -> Self {
        let head = format!("{{\"parameters\":{{\"{field}\":[");
        Self {
            bytes: head.clone().into_bytes(),
            head,
            limit,
        }
    }

    /// Adds an item. Returns the reply that has no room for it, if there is one.
    fn add<T: Serialize>(&mut self, item: &T) -> io::Result<Option<Vec<u8>>> {
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

    fn into_last(mut self) -> Vec<u8> {
        self.bytes.extend(b"]}}\0");
        self.bytes
    }
}

/// Why there is no reply.
enum Failure {
    /// The call gets an error; the connection goes on.
    Call(Error),
    Connection(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

fn answer_of(reply: Reply) -> Result<Vec<u8>, Failure> {
    match reply {
        Reply::Status(status) => answer(&api::StatusReply { status: *status }),
        Reply::Changed(changed) => answer(&changed),
        Reply::Committed(committed) => answer(&committed),
        Reply::Stats(stats) => answer(&api::StatsReply { stats }),
        // `list` answers with these.
        Reply::Routes(_) | Reply::Neighbors { .. } | Reply::Links(_) | Reply::UnknownLabels(_) | Reply::Done => {
            answer(&api::Nothing {})
        }
    }
}

fn answer<T: Serialize>(parameters: &T) -> Result<Vec<u8>, Failure> {
    Ok(encode(&Answer { parameters })?)
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the lengths of the items, each reply is a message of its own, none is longer than it may be but for one
        /// item, and all items come in their order.
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

//! The server's side of the control socket. It frames, limits, checks and answers; what a call means is the controller's.
//! Each connection is a task; a transaction lives in its connection and ends with it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use nix::unistd::Group;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;

use super::api::{self, ChangeMode, Error, Reply, Request, RouteFilter};
use super::call::{self, Command, Flags};
use super::codec::{Message, Messages};
use super::{Call, GROUP, Instance, MAX_MESSAGE_BYTES, Peer};
use crate::lfib::route::{Route, RouteKey};

/// How many routes one reply of `ListRoutes` has at most.
const PAGE: usize = 2000;
/// A message that is larger is read by another thread, so that the event loop goes on meanwhile.
const LARGE_MESSAGE_BYTES: usize = 64 << 10;
/// How long connections may go on with the call at hand when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// What clients may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub message_bytes: usize,
    /// From the first byte of a message to its last.
    pub message_time: Duration,
    /// Between the messages of a transaction.
    pub transaction_idle: Duration,
    /// For a client to take a reply.
    pub write_time: Duration,
    pub clients: usize,
    /// Routes in one transaction.
    pub staged_routes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: MAX_MESSAGE_BYTES,
            message_time: Duration::from_secs(30),
            transaction_idle: Duration::from_secs(300),
            write_time: Duration::from_secs(30),
            clients: 64,
            staged_routes: 4 << 20,
        }
    }
}

/// Takes the instance's name and opens its socket. What a killed process left behind is put away.
pub fn bind(instance: &Instance) -> Result<(UnixListener, SocketGuard), BindError> {
    let lock = take_lock(instance)?;
    let socket = instance.socket();
    let guard = SocketGuard {
        dir: instance.dir().to_owned(),
        lock_path: instance.lock(),
        _lock: lock,
        socket: socket.clone(),
    };
    let at_socket = |what| BindError::io(what, &socket);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at_socket("cannot remove")(error)),
        _ => {}
    }
    // Whoever connects before the mode is right needs to be allowed to write, which a umask of 022 leaves to root.
    let listener = UnixListener::bind(&socket).map_err(at_socket("cannot open the socket"))?;
    let group = Group::from_name(GROUP).unwrap_or_else(|error| {
        tracing::warn!("cannot look up the group {GROUP}: {error}; only root can use the control socket");
        None
    });
    if let Some(group) = group {
        std::os::unix::fs::chown(&socket, None, Some(group.gid.as_raw()))
            .map_err(at_socket("cannot change the group of"))?;
    }
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o660))
        .map_err(at_socket("cannot change the mode of"))?;
    Ok((listener, guard))
}

/// Holds an instance's name. Removes the socket, and the run directory after the last instance, when dropped.
#[derive(Debug)]
pub struct SocketGuard {
    dir: PathBuf,
    lock_path: PathBuf,
    socket: PathBuf,
    _lock: File,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        for path in [&self.socket, &self.lock_path] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("cannot remove {}: {error}", path.display());
                }
                _ => {}
            }
        }
        // Other instances keep it.
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "instance `{name}` runs already{pid}: end it with `mplsxdp --instance {name} unload`, or give this one another name \
         with `--instance`"
    )]
    Running { name: String, pid: String },
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl BindError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The lock file, locked, with this process's id in it.
fn take_lock(instance: &Instance) -> Result<File, BindError> {
    let path = instance.lock();
    // An instance on its way out removes the file and perhaps the directory, and a client that waits for it holds the lock for
    // an instant: only what stays is refused.
    let mut refusal = None;
    for attempt in 0..10 {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(instance.dir())
            .map_err(BindError::io("cannot create", instance.dir()))?;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refusal = Some(BindError::io("cannot open", &path)(error));
                continue;
            }
            opened => opened.map_err(BindError::io("cannot open", &path))?,
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => {
                let pid = std::process::id();
                return file
                    .set_len(0)
                    .and_then(|()| write!(file, "{pid}"))
                    .map(|()| file)
                    .map_err(BindError::io("cannot write", &path));
            }
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = file.read_to_string(&mut pid).is_ok() && !pid.is_empty();
                refusal = Some(BindError::Running {
                    name: instance.name().to_owned(),
                    pid: if known { format!(" (pid {pid})") } else { pid },
                });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(BindError::io("cannot lock", &path)(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| BindError::io("cannot keep", &path)(io::ErrorKind::NotFound.into())))
}

/// Whether the file is still the one at this path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(file), Ok(path)) => (file.dev(), file.ino()) == (path.dev(), path.ino()),
        _ => false,
    }
}

/// Answers clients until `shutdown`; calls that are at hand then are still answered.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>, limits: Limits, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Who has gone makes room before the next is counted.
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < limits.clients => {
                let connection = Connection::new(stream, calls.clone(), limits, shutdown.clone());
                connections.spawn(connection.run());
            }
            Ok((stream, _)) => turn_away(&stream, limits.clients),
            Err(error) => {
                tracing::warn!("control socket: cannot accept a client: {error}");
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

fn turn_away(stream: &UnixStream, limit: usize) {
    tracing::warn!("control socket: a client was turned away: {limit} are connected");
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
}

struct Transaction {
    replace_all: bool,
    routes: Vec<Route>,
    /// The first call that failed since it was opened.
    failed: Option<Error>,
}

/// The parameters of a reply, and whether others follow it.
#[derive(Serialize)]
struct Answer<'a, T> {
    parameters: &'a T,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
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
    fn new(stream: UnixStream, calls: mpsc::Sender<Call>, limits: Limits, shutdown: CancellationToken) -> Self {
        let credentials = stream.peer_cred().ok();
        // -1 is nobody's: the kernel's own "invalid user".
        let peer = Peer {
            pid: credentials.and_then(|credentials| credentials.pid()).unwrap_or(0),
            uid: credentials.map_or(u32::MAX, |credentials| credentials.uid()),
        };
        Self {
            stream,
            peer,
            calls,
            limits,
            shutdown,
            messages: Messages::new(limits.message_bytes),
            buffer: BytesMut::new(),
            transaction: None,
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
            let wait = if self.messages.is_within_message(&self.buffer) {
                let since: Instant = *within_since.get_or_insert_with(Instant::now);
                Some((
                    self.limits.message_time.saturating_sub(since.elapsed()),
                    "a message did not end",
                ))
            } else {
                let idle = self.limits.transaction_idle;
                self.transaction
                    .as_ref()
                    .map(|_| (idle, "an open transaction had no message"))
            };
            self.buffer.reserve(LARGE_MESSAGE_BYTES);
            let read = self.stream.read_buf(&mut self.buffer);
            let read = async {
                match wait {
                    None => read.await,
                    Some((time, what)) => timeout(time, read)
                        .await
                        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} in time")))),
                }
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
            Command::ListRoutes { filter, counters } => self.list_routes(filter, counters, flags).await,
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

    async fn list_routes(&mut self, filter: RouteFilter, counters: bool, flags: Flags) -> Result<Vec<u8>, Failure> {
        let mut after = None;
        loop {
            let request = Request::ListRoutes {
                filter: filter.clone(),
                after,
                limit: PAGE,
                counters,
            };
            let Reply::Routes(routes) = self.ask(request).await? else {
                return Err(unanswerable("ListRoutes"));
            };
            let page = api::RouteList { routes };
            let last = match page.routes.last() {
                Some(last) if page.routes.len() >= PAGE => last,
                _ => return answer(&page),
            };
            if !flags.more {
                return Err(Error::ExpectedMore {}.into());
            }
            let key = api::Key {
                label: last.route.label,
                prefix: last.route.prefix,
            };
            after = Some(RouteKey::try_from(key).map_err(|_| unanswerable("ListRoutes"))?);
            let reply = encode(&Answer {
                parameters: &page,
                continues: true,
            })?;
            self.send(&reply, flags).await?;
        }
    }

    fn begin(&mut self, replace_all: bool) -> Result<(), Error> {
        if self.transaction.is_some() {
            return Err(Error::TransactionOpen {});
        }
        self.transaction = Some(Transaction {
            replace_all,
            routes: Vec::new(),
            failed: None,
        });
        Ok(())
    }

    fn stage(&mut self, routes: Vec<Route>) -> Result<u64, Error> {
        let transaction = self.transaction.as_mut().ok_or(Error::NoTransaction {})?;
        let limit = self.limits.staged_routes;
        if transaction.routes.len() + routes.len() > limit {
            return Err(Error::TooManyRoutes { limit });
        }
        transaction.routes.extend(routes);
        Ok(transaction.routes.len() as u64)
    }

    async fn commit(&mut self, allow_empty: bool) -> Result<Reply, Error> {
        let Transaction {
            replace_all,
            routes,
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
                Ok(Reply::Changed(changes) | Reply::Committed(api::Committed { changes, .. })) => {
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
        Request::AddLink { name, tx_only: false } => Some(format!("add link {name}")),
        Request::AddLink { name, tx_only: true } => Some(format!("add link {name} tx-only")),
        Request::DeleteLink { name } => Some(format!("delete link {name}")),
        Request::SetLink { name, mpls } => Some(format!("set link {name} mpls {}", if *mpls { "on" } else { "off" })),
        Request::Unload => Some("unload".into()),
        Request::GetStatus
        | Request::ListRoutes { .. }
        | Request::ListLinks
        | Request::ListNeighbors
        | Request::GetStats { .. }
        | Request::GetUnknownLabels => None,
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

/// The controller answered something else than it was asked.
fn unanswerable(method: &str) -> Failure {
    Failure::Call(Error::MethodNotImplemented {
        method: format!("{}.{method}", api::INTERFACE),
    })
}

fn answer_of(reply: Reply) -> Result<Vec<u8>, Failure> {
    match reply {
        Reply::Status(status) => answer(&api::StatusReply { status: *status }),
        Reply::Routes(routes) => answer(&api::RouteList { routes }),
        Reply::Changed(changes) => answer(&api::Changed { changes }),
        Reply::Committed(committed) => answer(&committed),
        Reply::Links(links) => answer(&api::LinkList { links }),
        Reply::Neighbors(neighbors) => answer(&api::NeighborList { neighbors }),
        Reply::Stats(stats) => answer(&api::StatsReply { stats }),
        Reply::UnknownLabels(labels) => answer(&api::UnknownLabels { labels }),
        Reply::Done => answer(&api::Nothing {}),
    }
}

/// The only reply, or the last.
fn answer<T: Serialize>(parameters: &T) -> Result<Vec<u8>, Failure> {
    Ok(encode(&Answer {
        parameters,
        continues: false,
    })?)
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    Ok(bytes)
}

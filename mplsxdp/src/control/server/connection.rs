//! One client's connection: it splits, checks and answers messages. A transaction belongs to its connection.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;

use super::pages::Pages;
use super::seats::{Activity, Seat};
use super::{Caller, Counts, Limits, Server, encode};
use crate::control::access::{self, Access, Class};
use crate::control::api::{self, ChangeMode, Error, Method, Reply, Request};
use crate::control::call::{self, Command, Flags, List};
use crate::control::codec::{Message, Messages};
use crate::control::{Call, Peer};
use crate::lfib::next_hops::Position;
use crate::route::{Route, RouteKey, Source};

/// How much of a list the switch returns at once (paths of routes, or next hops), so that a long list does not hold it
/// up.
const CHUNK: usize = 1000;
/// A larger message is read by another thread, so that the event loop continues meanwhile.
const LARGE_MESSAGE_BYTES: usize = 64 << 10;
/// The routes of a larger transaction may have to be moved when others join them, which takes milliseconds: another thread
/// does so.
const LARGE_TRANSACTION: usize = 16 << 10;

pub struct Connection {
    pub(super) stream: UnixStream,
    caller: Caller,
    seat: Seat,
    calls: mpsc::Sender<Call>,
    pub(super) limits: Limits,
    /// The largest message of this client.
    message_bytes: usize,
    pub(super) shutdown: CancellationToken,
    messages: Messages,
    buffer: BytesMut,
    transaction: Option<Transaction>,
    staging: Arc<Semaphore>,
    counts: Arc<Counts>,
}

struct Transaction {
    replace_all: bool,
    owner: Source,
    routes: Vec<Route>,
    /// The room that its routes take.
    room: Option<OwnedSemaphorePermit>,
    /// The first call that has failed since the transaction was opened.
    failed: Option<Error>,
}

/// The method of a message that is being read, perhaps by another thread.
type Called = Arc<OnceLock<Method>>;

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
    pub fn new(stream: UnixStream, server: Server, caller: Caller, seat: Seat) -> Self {
        let Server {
            calls,
            limits,
            staging,
            counts,
            shutdown,
        } = server;
        let message_bytes = match caller.class {
            Class::View => limits.view_message_bytes,
            Class::Change | Class::Root => limits.message_bytes,
        };
        Self {
            stream,
            caller,
            seat,
            calls,
            limits,
            message_bytes,
            shutdown,
            messages: Messages::new(message_bytes),
            buffer: BytesMut::new(),
            transaction: None,
            staging,
            counts,
        }
    }

    pub async fn run(mut self) {
        let Peer { pid, uid } = self.caller.peer;
        let lost = self.seat.lost();
        let ended = tokio::select! {
            ended = self.converse() => ended,
            () = lost.cancelled() => Err(io::Error::other("root has another client, and there is no free place")),
        };
        if let Err(error) = ended {
            tracing::info!(pid, uid, "control socket: client cut off: {error}");
        }
        if let Some(transaction) = self.transaction {
            let staged = transaction.routes.len();
            tracing::info!(pid, uid, staged, "transaction rolled back: the client went away");
        }
    }

    async fn converse(&mut self) -> io::Result<()> {
        while let Some(message) = self.next_message().await? {
            self.seat.set(Activity::Calls);
            let called = Called::default();
            let (flags, command) = match message {
                Message::Whole(message) => self.read(message, &called).await,
                Message::TooLarge => {
                    let limit = self.message_bytes;
                    (Flags::default(), Err(Error::MessageTooLarge { limit }))
                }
            };
            let outcome = match command {
                Ok(command) => self.carry_out(command, flags).await,
                Err(error) => Err(error.into()),
            };
            let is_error = matches!(outcome, Err(Failure::Call(_)));
            self.counts.answered(called.get().copied(), is_error);
            let reply = match outcome {
                Ok(reply) => reply,
                Err(Failure::HungUp) => return Ok(()),
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
            self.seat.set(self.waits());
        }
        Ok(())
    }

    fn waits(&self) -> Activity {
        let in_transaction = self.transaction.is_some();
        let since = std::time::Instant::now();
        Activity::Waits { in_transaction, since }
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

    /// `called` gets the method, if it is one of the interface.
    async fn read(&self, message: BytesMut, called: &Called) -> (Flags, Result<Command, Error>) {
        let staged = self
            .transaction
            .as_ref()
            .map_or(0, |transaction| transaction.routes.len());
        let Caller { peer, class } = self.caller;
        let called = Arc::clone(called);
        let permit = move |method: Method| {
            let _ = called.set(method);
            match class.may(method.access()) {
                true => Ok(()),
                false => Err(access::refuse(peer, method.name())),
            }
        };
        if message.len() < LARGE_MESSAGE_BYTES {
            return call::read(&message, staged, permit);
        }
        tokio::task::spawn_blocking(move || call::read(&message, staged, permit))
            .await
            .unwrap_or_else(|_| (Flags::default(), Err(Error::ShuttingDown {})))
    }

    /// The reply, or the last of several.
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
            Command::Monitor(monitor) => self.monitor(monitor, flags).await,
            Command::Capture(wanted) => self.capture(wanted, flags).await,
            Command::Begin { replace_all, owner } => {
                self.begin(replace_all, owner)?;
                answer(&api::Nothing {})
            }
            Command::Stage { routes } => {
                let staged = self.stage(routes).await?;
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
                Reply::Routes { routes, after } => {
                    self.add_to(&mut pages, &routes, flags).await?;
                    list.after_routes(after)
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

    /// Adds items to the current reply, and sends replies that are full.
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

    fn begin(&mut self, replace_all: bool, owner: Source) -> Result<(), Error> {
        if self.transaction.is_some() {
            return Err(Error::TransactionOpen {});
        }
        self.transaction = Some(Transaction {
            replace_all,
            owner,
            routes: Vec::new(),
            room: None,
            failed: None,
        });
        Ok(())
    }

    async fn stage(&mut self, routes: Vec<Route>) -> Result<u64, Error> {
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
        if transaction.routes.len() < LARGE_TRANSACTION {
            transaction.routes.extend(routes);
        } else {
            let mut staged = std::mem::take(&mut transaction.routes);
            let extended = tokio::task::spawn_blocking(move || {
                staged.extend(routes);
                staged
            });
            transaction.routes = extended.await.map_err(|_| Error::ShuttingDown {})?;
        }
        Ok(transaction.routes.len() as u64)
    }

    async fn commit(&mut self, allow_empty: bool) -> Result<Reply, Error> {
        let Transaction {
            replace_all,
            owner,
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
                self.ask(Request::ChangeRoutes {
                    mode,
                    owner,
                    routes,
                    wait,
                })
                .await
            }
        }
    }

    /// Asks the switch. Changes are logged, with the client that asked for them.
    pub(super) async fn ask(&self, request: Request) -> Result<Reply, Error> {
        let Caller { peer, class } = self.caller;
        let Peer { pid, uid } = peer;
        let change = change(&request);
        // Some methods change something only with certain parameters.
        if let Some(what) = &change
            && !class.may(Access::Change)
        {
            return Err(access::refuse(peer, format_args!("`{what}`")));
        }
        let (sender, answer) = oneshot::channel();
        let call = Call {
            request,
            peer,
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
        self.send_within(self.limits.write_time, reply).await
    }

    /// Sends a reply, which the client must take within this time.
    pub(super) async fn send_within(&mut self, time: Duration, reply: &[u8]) -> io::Result<()> {
        self.is_waiting();
        timeout(time, self.stream.write_all(reply))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not read its replies")))?;
        self.seat.set(Activity::Calls);
        Ok(())
    }

    /// The switch does nothing for the client now.
    pub(super) fn is_waiting(&self) {
        self.seat.set(self.waits());
    }
}

/// What a request changes, for the log; `None` if it changes nothing.
fn change(request: &Request) -> Option<String> {
    match request {
        Request::ChangeRoutes { mode, routes, .. } => Some(match mode {
            ChangeMode::Add => format!("add {} routes", routes.len()),
            ChangeMode::Change => format!("change {} routes", routes.len()),
            ChangeMode::Replace => format!("add or replace {} routes", routes.len()),
            ChangeMode::ReplaceAll => format!("replace all routes by {}", routes.len()),
        }),
        Request::DeleteRoutes { routes, .. } => Some(format!("delete {} routes", routes.len())),
        Request::FlushRoutes { filter, .. } => Some(format!("flush routes: {filter}")),
        Request::AddLink {
            name,
            tx_only,
            accept,
            mpls_mtu,
            dscp_map,
            tc_map,
            checksum,
        } => {
            let tx_only = if *tx_only { " tx-only" } else { "" };
            let accept = accept.0.map(|ranges| format!(" accept-labels {ranges}"));
            let mpls_mtu = mpls_mtu.0.map(|bytes| format!(" mpls-mtu {bytes}"));
            let dscp_map = (!dscp_map.is_default()).then(|| format!(" dscp-map {dscp_map}"));
            let tc_map = (!tc_map.is_default()).then(|| format!(" tc-map {tc_map}"));
            let checksum = checksum.map(|checksum| format!(" checksum {}", checksum.name()));
            Some(format!(
                "add link {name}{tx_only}{}{}{}{}{}",
                accept.unwrap_or_default(),
                mpls_mtu.unwrap_or_default(),
                dscp_map.unwrap_or_default(),
                tc_map.unwrap_or_default(),
                checksum.unwrap_or_default()
            ))
        }
        Request::DeleteLink { name } => Some(format!("delete link {name}")),
        Request::SetLink { name, change } => {
            let mpls = change.mpls.map(|mpls| if mpls { " mpls on" } else { " mpls off" });
            let accept = change.accept_labels.map(|accept| format!(" accept-labels {accept}"));
            let mpls_mtu = change.mpls_mtu.map(|mtu| format!(" mpls-mtu {mtu}"));
            let dscp_map = change.dscp_map.map(|map| format!(" dscp-map {map}"));
            let tc_map = change.tc_map.map(|map| format!(" tc-map {map}"));
            Some(format!(
                "set link {name}{}{}{}{}{}",
                mpls.unwrap_or_default(),
                accept.unwrap_or_default(),
                mpls_mtu.unwrap_or_default(),
                dscp_map.unwrap_or_default(),
                tc_map.unwrap_or_default()
            ))
        }
        Request::AddCrossConnect {
            name,
            to,
            vlan,
            one_way,
        } => {
            let vlan = vlan.map(|operation| format!(" vlan {}", operation.name()));
            let one_way = if *one_way { " one-way" } else { "" };
            Some(format!("add xconnect {name} {to}{}{one_way}", vlan.unwrap_or_default()))
        }
        Request::DeleteCrossConnect { name, to, one_way } => {
            let to = to.as_ref().map(|to| format!(" {to}")).unwrap_or_default();
            let one_way = if *one_way { " one-way" } else { "" };
            Some(format!("delete xconnect {name}{to}{one_way}"))
        }
        Request::CheckSync { repair: true } => Some("repair what differs from the kernel's routes".into()),
        Request::SendLspPing(_) => None,
        Request::Confirm => Some("confirm the load".into()),
        Request::Upgrade => Some("upgrade".into()),
        Request::Unload => Some("unload".into()),
        Request::GetStatus
        | Request::GetConfig
        | Request::ListRoutes { .. }
        | Request::GetRoute { .. }
        | Request::GetVrf { .. }
        | Request::Trace { .. }
        | Request::ListLinks { .. }
        | Request::ListNeighbors { .. }
        | Request::GetStats { .. }
        | Request::GetBusiestRoutes { .. }
        | Request::GetSync
        | Request::CheckSync { repair: false }
        | Request::GetUnknownLabels
        | Request::Monitor { .. }
        | Request::Capture { .. }
        | Request::DescribeRoutes { .. }
        | Request::GetRings => None,
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

    /// The rest of a list of next hops after `last`; `None` at its end.
    fn after_neighbors(self, last: Option<Position>) -> Option<Self> {
        let Self::Neighbors { counters, .. } = self else {
            return None;
        };
        let after = Some(last?);
        Some(Self::Neighbors { after, counters })
    }

    /// The rest of a list of routes after `last`; `None` at its end.
    fn after_routes(self, last: Option<RouteKey>) -> Option<Self> {
        let Self::Routes { filter, counters, .. } = self else {
            return None;
        };
        let after = Some(last?);
        Some(Self::Routes {
            filter,
            after,
            counters,
        })
    }
}

/// Why there is no reply.
pub(super) enum Failure {
    /// The call gets an error; the connection continues.
    Call(Error),
    Connection(io::Error),
    /// The client has closed the connection.
    HungUp,
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
        Reply::Config(config) => answer(&api::ConfigReply { config }),
        Reply::Route(route) => answer(&api::RouteReply { route: *route }),
        Reply::Vrf(vrf) => answer(&vrf),
        Reply::Changed(changed) => answer(&changed),
        Reply::Committed(committed) => answer(&committed),
        Reply::Trace(trace) => answer(&api::TraceReply { trace: *trace }),
        Reply::Sync(sources) => answer(&api::SyncReply { sources }),
        Reply::SyncChecks(checks) => answer(&api::SyncChecks { checks }),
        Reply::Stats(stats) => answer(&api::StatsReply { stats }),
        Reply::Busiest(busiest) => answer(&busiest),
        Reply::LspPingSent(sent) => answer(&sent),
        // `list` answers with these.
        Reply::Routes { .. } | Reply::Neighbors { .. } | Reply::Links(_) | Reply::UnknownLabels(_) => {
            answer(&api::Nothing {})
        }
        // No method asks for rings.
        Reply::Rings(_) | Reply::Done => answer(&api::Nothing {}),
    }
}

fn answer<T: Serialize>(parameters: &T) -> Result<Vec<u8>, Failure> {
    Ok(encode(&Answer { parameters })?)
}

//! The client's side of the control socket, blocking: `examples/control_plane.rs` shows how a program uses it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::access::{self, GROUP, VIEW_GROUP};
use super::api::{self, Changes, Error, INTERFACE, InstalledRoute, Lookup, Nothing};
use super::{Instance, MAX_MESSAGE_BYTES};
use crate::dataplane::pinned::PinFolder;
use crate::route::{Description, Route, RoutingTable, Source};

/// How long a command waits for an instance that holds its name but does not listen yet.
const START_WAIT: Duration = Duration::from_secs(3);
/// How long a command waits if nothing is found: a shell continues after `load &` before the process has taken its
/// name. That takes some tens of milliseconds on an idle machine.
const SIGN_WAIT: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(20);

/// A connection to a running instance.
#[derive(Debug)]
pub struct Client {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    instance: Instance,
    owner: Option<Source>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no mplsxdp runs as instance `{name}`: start it with `mplsxdp load{option} --iface IFACE`; running: {running}"
    )]
    NotRunning {
        name: String,
        option: String,
        running: String,
    },
    #[error(
        "no mplsxdp runs as instance `{name}`, but the programs of an earlier one are still on {ports} interfaces and forward: \
         `mplsxdp --instance {name} load --persist ...` takes them over, `mplsxdp --instance {name} unload --force` ends that"
    )]
    OnlyForwards { name: String, ports: usize },
    #[error("no permission for {}: {}", .0.display(), how_to_get_in())]
    Denied(PathBuf),
    /// The instance replied with an error; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Error),
    #[error("the connection to the instance broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the instance `{0}` has ended")]
    Ended(String),
    #[error("this version does not understand the instance's answer: {0}")]
    Garbled(#[from] serde_json::Error),
    #[error(
        "instance `{instance}` is of mplsxdp {theirs}, and this command of {}: {problem}; use the command of that version, or end \
         the instance with `mplsxdp --instance {instance} unload` and load it again with this one",
        env!("CARGO_PKG_VERSION")
    )]
    OtherVersion {
        instance: String,
        theirs: String,
        problem: String,
    },
}

/// What a user needs whom the kernel does not let connect.
pub fn how_to_get_in() -> String {
    format!(
        "run as root, or as a member of the group {GROUP}, or of {VIEW_GROUP} to read only; {}",
        access::HINT
    )
}

impl ClientError {
    /// Whether the instance is ending: it said so, or closed the connection.
    pub fn is_ending(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};

        match self {
            Self::Refused(error) => matches!(error, Error::ShuttingDown {}),
            Self::Broken(error) => matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof),
            _ => false,
        }
    }
}

#[derive(Serialize)]
struct Message<'a, P> {
    method: &'a str,
    parameters: &'a P,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

/// A reply with unread parameters.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(default)]
    continues: bool,
}

impl Client {
    /// Waits a moment for an instance that is starting.
    pub fn connect(instance: &Instance) -> Result<Self, ClientError> {
        wait_for(|| is_starting(instance), || Self::try_connect(instance))?.ok_or_else(|| not_running(instance))
    }

    /// `None` if nobody listens.
    pub fn try_connect(instance: &Instance) -> Result<Option<Self>, ClientError> {
        let socket = instance.socket();
        let connected = match UnixStream::connect(&socket) {
            // A new socket may not have its group yet.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                std::thread::sleep(RETRY);
                UnixStream::connect(&socket)
            }
            connected => connected,
        };
        let writer = match connected {
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                    io::ErrorKind::PermissionDenied => Err(ClientError::Denied(socket)),
                    _ => Err(error.into()),
                };
            }
            Ok(writer) => writer,
        };
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Some(Self {
            writer,
            reader,
            instance: instance.clone(),
            owner: None,
        }))
    }

    /// Sets the owner for calls that change routes from now on; `None`: static routes.
    pub fn set_owner(&mut self, owner: Option<Source>) {
        self.owner = owner;
    }

    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The process that listens, 0 if it is in another PID namespace.
    pub fn pid(&self) -> io::Result<i32> {
        Ok(getsockopt(&self.writer, sockopt::PeerCredentials)?.pid())
    }

    /// A reply that takes longer than this breaks the connection; `None`: no limit.
    pub fn set_patience(&self, time: Option<Duration>) -> io::Result<()> {
        self.writer.set_read_timeout(time)
    }

    pub fn status(&mut self) -> Result<api::Status, ClientError> {
        let api::StatusReply { status } = self.call("GetStatus", &Nothing {})?;
        Ok(status)
    }

    /// The instance as a config file describes it, without its routes.
    pub fn config(&mut self) -> Result<BTreeMap<String, serde_json::Value>, ClientError> {
        let api::ConfigReply { config } = self.call("GetConfig", &Nothing {})?;
        Ok(config)
    }

    /// Passes on the routes of a list as they arrive.
    pub fn routes<E: From<ClientError>>(
        &mut self,
        list: &api::ListRoutes,
        mut each: impl FnMut(InstalledRoute) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pages("ListRoutes", list, |api::RouteList { routes }| {
            routes.into_iter().try_for_each(&mut each)
        })
    }

    /// Passes on the replies of a list as they arrive.
    fn pages<P: Serialize, R: DeserializeOwned, E: From<ClientError>>(
        &mut self,
        method: &str,
        parameters: &P,
        mut each: impl FnMut(R) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send(method, parameters, true)?;
        loop {
            let (page, continues) = self.receive()?;
            each(page)?;
            if !continues {
                return Ok(());
            }
        }
    }

    /// All items of a list.
    fn list<P: Serialize, R: DeserializeOwned, T>(
        &mut self,
        method: &str,
        parameters: &P,
        items: impl Fn(R) -> Vec<T>,
    ) -> Result<Vec<T>, ClientError> {
        let mut all = Vec::new();
        self.pages(method, parameters, |page| {
            all.extend(items(page));
            Ok::<_, ClientError>(())
        })?;
        Ok(all)
    }

    pub fn add_routes(&mut self, routes: &[Route]) -> Result<api::Changed, ClientError> {
        self.call("AddRoutes", &self.owned(routes))
    }

    pub fn replace_routes(&mut self, routes: &[Route]) -> Result<api::Changed, ClientError> {
        self.call("ReplaceRoutes", &self.owned(routes))
    }

    /// Replaces the routes with the same keys, each of which must exist.
    pub fn change_routes(&mut self, routes: &[Route]) -> Result<api::Changed, ClientError> {
        self.call("ChangeRoutes", &self.owned(routes))
    }

    /// The route that `lookup` finds, with its counter.
    pub fn route(&mut self, lookup: Lookup) -> Result<InstalledRoute, ClientError> {
        let api::RouteReply { route } = self.call("GetRoute", &api::GetRoute::from(lookup))?;
        Ok(route)
    }

    /// The routing table of a VRF.
    pub fn vrf_table(&mut self, name: &str) -> Result<RoutingTable, ClientError> {
        let name = name.to_owned();
        let api::Vrf { table } = self.call("GetVrf", &api::GetVrf { name })?;
        Ok(RoutingTable(table))
    }

    /// Deletes routes, each of which must exist and match its description.
    pub fn delete_routes<'a>(
        &mut self,
        routes: impl IntoIterator<Item = &'a Description>,
    ) -> Result<Changes, ClientError> {
        let keys = routes.into_iter().map(api::Route::from).collect();
        let owner = self.owner;
        let api::Changed { changes, .. } = self.call("DeleteRoutes", &api::Keys { keys, owner })?;
        Ok(changes)
    }

    pub fn flush_routes(&mut self, chosen: &api::FlushRoutes) -> Result<Changes, ClientError> {
        let owner = chosen.owner.or(self.owner);
        let chosen = api::FlushRoutes {
            owner,
            ..chosen.clone()
        };
        let api::Changed { changes, .. } = self.call("FlushRoutes", &chosen)?;
        Ok(changes)
    }

    fn owned(&self, routes: &[Route]) -> api::OwnedRoutes {
        api::OwnedRoutes {
            routes: routes.iter().map(api::Route::from).collect(),
            owner: self.owner,
        }
    }

    /// Opens a transaction. Dropping the client rolls it back.
    pub fn begin(&mut self, replace_all: bool) -> Result<Transaction<'_>, ClientError> {
        let owner = self.owner;
        let Nothing {} = self.call("Begin", &api::Begin { replace_all, owner })?;
        Ok(Transaction {
            client: self,
            awaits_reply: false,
        })
    }

    pub fn links(&mut self, counters: bool) -> Result<Vec<api::Link>, ClientError> {
        self.list("ListLinks", &with(counters), |api::LinkList { links }| links)
    }

    pub fn add_link(&mut self, link: &api::AddLink) -> Result<(), ClientError> {
        let Nothing {} = self.call("AddLink", link)?;
        Ok(())
    }

    pub fn delete_link(&mut self, name: &str) -> Result<(), ClientError> {
        let Nothing {} = self.call("DeleteLink", &api::DeleteLink { ifname: name.into() })?;
        Ok(())
    }

    pub fn add_cross_connect(&mut self, cross: &api::AddCrossConnect) -> Result<(), ClientError> {
        let Nothing {} = self.call("AddCrossConnect", cross)?;
        Ok(())
    }

    pub fn delete_cross_connect(&mut self, cross: &api::DeleteCrossConnect) -> Result<(), ClientError> {
        let Nothing {} = self.call("DeleteCrossConnect", cross)?;
        Ok(())
    }

    pub fn set_link(&mut self, link: &api::SetLink) -> Result<(), ClientError> {
        let Nothing {} = self.call("SetLink", link)?;
        Ok(())
    }

    pub fn neighbors(&mut self, counters: bool) -> Result<Vec<api::NextHopState>, ClientError> {
        self.list("ListNeighbors", &with(counters), |api::NeighborList { neighbors }| {
            neighbors
        })
    }

    /// Sends an MPLS echo request, and returns the way that it takes from here.
    pub fn lsp_ping(&mut self, request: &api::LspPing) -> Result<api::LspPingSent, ClientError> {
        self.call("SendLspPing", request)
    }

    pub fn stats(&mut self, all: bool) -> Result<api::Stats, ClientError> {
        let api::StatsReply { stats } = self.call("GetStats", &api::GetStats { all: Some(all) })?;
        Ok(stats)
    }

    /// The routes that forward most. The reply takes as long as their frames are counted.
    pub fn busiest_routes(&mut self, wanted: &api::GetBusiestRoutes) -> Result<api::BusiestRoutes, ClientError> {
        self.call("GetBusiestRoutes", wanted)
    }

    /// What would happen to a frame that arrived at this port.
    pub fn trace(&mut self, ifname: &str, frame: &[u8]) -> Result<api::Trace, ClientError> {
        let (ifname, frame) = (ifname.to_owned(), hex::encode(frame));
        let api::TraceReply { trace } = self.call("Trace", &api::TraceFrame { ifname, frame })?;
        Ok(trace)
    }

    /// The sources of routes that the instance follows.
    pub fn sync(&mut self) -> Result<Vec<api::SyncSource>, ClientError> {
        let api::SyncReply { sources } = self.call("GetSync", &Nothing {})?;
        Ok(sources)
    }

    /// Compares the sources' routes with what is installed.
    pub fn check_sync(&mut self, repair: bool) -> Result<Vec<api::SyncCheck>, ClientError> {
        let repair = Some(repair);
        let api::SyncChecks { checks } = self.call("CheckSync", &api::CheckSync { repair })?;
        Ok(checks)
    }

    pub fn unknown_labels(&mut self) -> Result<Vec<api::UnknownLabel>, ClientError> {
        self.list("GetUnknownLabels", &Nothing {}, |api::UnknownLabels { labels }| labels)
    }

    /// Passes on events as they happen, until `output` has no reader any more.
    pub fn monitor<E: From<ClientError>>(
        &mut self,
        chosen: &api::Monitor,
        output: BorrowedFd<'_>,
        each: impl FnMut(api::Events) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stream("Monitor", chosen, output, each)
    }

    /// Passes on captured frames, until `output` has no reader any more.
    pub fn capture<E: From<ClientError>>(
        &mut self,
        chosen: &api::Capture,
        output: BorrowedFd<'_>,
        each: impl FnMut(api::Frames) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stream("Capture", chosen, output, each)
    }

    /// Passes on replies without an end, as long as `output` has a reader.
    fn stream<P: Serialize, R: DeserializeOwned, E: From<ClientError>>(
        &mut self,
        method: &str,
        parameters: &P,
        output: BorrowedFd<'_>,
        mut each: impl FnMut(R) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send(method, parameters, true)?;
        while !self.reader.buffer().is_empty() || self.wait(output).map_err(ClientError::from)? {
            let (reply, _) = self.receive().map_err(|error| self.ended(error))?;
            each(reply)?;
        }
        Ok(())
    }

    /// Says so if the instance has ended.
    fn ended(&self, error: ClientError) -> ClientError {
        match error.is_ending() {
            true => ClientError::Ended(self.instance.name().to_owned()),
            false => error,
        }
    }

    /// Waits for a reply. Returns whether `output` still has a reader.
    fn wait(&self, output: BorrowedFd<'_>) -> io::Result<bool> {
        let socket = PollFd::new(self.writer.as_fd(), PollFlags::POLLIN);
        // Errors and hang-ups are reported without being asked for.
        let mut both = [socket, PollFd::new(output, PollFlags::empty())];
        loop {
            match poll(&mut both, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                polled => {
                    polled?;
                    return Ok(both[1].revents().is_none_or(|hung_up| hung_up.is_empty()));
                }
            }
        }
    }

    /// Keeps an instance that was loaded with `--confirm`.
    pub fn confirm(&mut self) -> Result<(), ClientError> {
        let Nothing {} = self.call("Confirm", &Nothing {})?;
        Ok(())
    }

    /// Waits until the instance runs its file again, which may be another version; returns what it runs then.
    pub fn upgrade(mut self) -> Result<api::Status, ClientError> {
        let Nothing {} = self.call("Upgrade", &Nothing {})?;
        let pid = Pid::from_raw(self.pid()?);
        // The old program ends this connection last of all.
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error.into()),
            _ => {}
        }
        // The process stays, and has no lock until the new program takes it. (0 is a process that cannot be seen.)
        while pid.as_raw() != 0 && kill(pid, None) != Err(Errno::ESRCH) {
            let connected = Self::try_connect(&self.instance);
            match connected.and_then(|client| client.map(|mut client| client.status()).transpose()) {
                Ok(Some(status)) => return Ok(status),
                Err(error) if !error.is_ending() => return Err(error),
                // No socket yet, or that of the old program, which is about to close it.
                Ok(None) | Err(_) => std::thread::sleep(RETRY),
            }
        }
        Self::connect(&self.instance)?.status()
    }

    /// Ends the instance, and waits until everything of it is gone.
    pub fn unload(mut self) -> Result<(), ClientError> {
        let Nothing {} = self.call("Unload", &Nothing {})?;
        let lock = self.instance.lock();
        let pid = Pid::from_raw(self.pid()?);
        // The lock file is the last thing that it removes; if it cannot, wait for the end of the process. (0 is a
        // process that cannot be seen.)
        while lock.try_exists()? && (pid.as_raw() == 0 || kill(pid, None) != Err(Errno::ESRCH)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Calls any method of the interface and returns its single reply.
    pub fn call<P: Serialize, R: DeserializeOwned>(&mut self, method: &str, parameters: &P) -> Result<R, ClientError> {
        self.send(method, parameters, false)?;
        Ok(self.receive()?.0)
    }

    fn send<P: Serialize>(&mut self, method: &str, parameters: &P, more: bool) -> Result<(), ClientError> {
        let mut bytes = serde_json::to_vec(&Message {
            method: &format!("{INTERFACE}.{method}"),
            parameters,
            more,
        })?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            let limit = MAX_MESSAGE_BYTES;
            return Err(Error::MessageTooLarge { limit }.into());
        }
        bytes.push(0);
        match self.writer.write_all(&bytes) {
            // The server may have sent the reason before it closed the connection.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => match self.receive::<serde::de::IgnoredAny>() {
                Err(ClientError::Refused(error)) => Err(error.into()),
                _ => Err(error.into()),
            },
            written => Ok(written?),
        }
    }

    /// One reply, and whether another follows.
    fn receive<R: DeserializeOwned>(&mut self) -> Result<(R, bool), ClientError> {
        let mut message = Vec::new();
        self.reader.read_until(0, &mut message)?;
        if message.pop() != Some(0) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed before the answer").into());
        }
        let answer: Answer = serde_json::from_slice(&message)?;
        if answer.error.is_some() {
            let error = match serde_json::from_slice::<Error>(&message) {
                Ok(error @ Error::MethodNotFound { .. }) => self.otherwise(error.to_string(), error),
                Ok(error) => error.into(),
                Err(error) => self.otherwise(error.to_string(), error),
            };
            return Err(error);
        }
        let parameters = serde_json::from_str(answer.parameters.map_or("{}", RawValue::get));
        let parameters = parameters.map_err(|error| self.otherwise(format!("its answer has a {error}"), error))?;
        Ok((parameters, answer.continues))
    }

    /// The error, or a hint that the instance has another version.
    fn otherwise(&self, problem: String, error: impl Into<ClientError>) -> ClientError {
        match version_of(&self.instance) {
            Some(theirs) if theirs != env!("CARGO_PKG_VERSION") => ClientError::OtherVersion {
                instance: self.instance.name().to_owned(),
                theirs,
                problem,
            },
            _ => error.into(),
        }
    }
}

/// An open transaction. One batch is being sent while the next is prepared.
#[derive(Debug)]
pub struct Transaction<'a> {
    client: &'a mut Client,
    awaits_reply: bool,
}

impl Transaction<'_> {
    /// Stages a batch. An error may be about the routes of the previous call.
    pub fn stage(&mut self, routes: &[api::Route]) -> Result<(), ClientError> {
        #[derive(Serialize)]
        struct Routes<'a> {
            routes: &'a [api::Route],
        }

        self.client.send("Stage", &Routes { routes }, false)?;
        if std::mem::replace(&mut self.awaits_reply, true) {
            self.client.receive::<api::Staged>()?;
        }
        Ok(())
    }

    /// With `allow_empty`, a `replace_all` transaction without routes may delete all routes.
    pub fn commit(mut self, allow_empty: bool) -> Result<api::Committed, ClientError> {
        if std::mem::take(&mut self.awaits_reply) {
            self.client.receive::<api::Staged>()?;
        }
        let allow_empty = allow_empty.then_some(true);
        self.client.call("Commit", &api::Commit { allow_empty })
    }
}

fn with(counters: bool) -> api::WithCounters {
    let counters = counters.then_some(true);
    api::WithCounters { counters }
}

/// The version of an instance, asked over a separate connection: others may have replies under way.
fn version_of(instance: &Instance) -> Option<String> {
    #[derive(Deserialize)]
    struct Info {
        version: String,
    }

    let mut client = Client::try_connect(instance).ok()??;
    client.set_patience(Some(START_WAIT)).ok()?;
    client
        .writer
        .write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0")
        .ok()?;
    let mut message = Vec::new();
    client.reader.read_until(0, &mut message).ok()?;
    message.pop();
    let answer: Answer = serde_json::from_slice(&message).ok()?;
    let info: Info = serde_json::from_str(answer.parameters?.get()).ok()?;
    Some(info.version)
}

/// The error of a command for an instance that does not run.
pub fn not_running(instance: &Instance) -> ClientError {
    let name = instance.name();
    let ports = PinFolder::of(name).attached();
    if ports > 0 {
        let name = name.to_owned();
        return ClientError::OnlyForwards { name, ports };
    }
    let running = running(instance);
    ClientError::NotRunning {
        name: name.into(),
        option: if name == super::DEFAULT_INSTANCE {
            String::new()
        } else {
            format!(" --instance {name}")
        },
        running: if running.is_empty() {
            "none".into()
        } else {
            running.join(", ")
        },
    }
}

/// The names of the other instances in the run directory that accept connections.
fn running(instance: &Instance) -> Vec<String> {
    instances(instance.dir(), "sock")
        .into_iter()
        .filter(|other| other != instance && UnixStream::connect(other.socket()).is_ok())
        .map(|other| other.name().to_owned())
        .collect()
}

/// The instances that have a file with this extension in the run directory, by name; they may be gone.
pub fn instances(dir: &Path, extension: &str) -> Vec<Instance> {
    let mut instances: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_stem()?.to_str()?;
            path.extension().is_some_and(|found| found == extension).then_some(())?;
            Instance::in_dir(dir, name).ok()
        })
        .collect();
    instances.sort_by(|one, other| one.name().cmp(other.name()));
    instances
}

/// Whether a process holds the instance's name. This works without taking the lock, and for users who cannot open the
/// lock file.
pub fn is_starting(instance: &Instance) -> bool {
    let (Ok(lock), Ok(locks)) = (
        std::fs::metadata(instance.lock()),
        std::fs::read_to_string("/proc/locks"),
    ) else {
        return false;
    };
    is_locked(&locks, lock.dev(), lock.ino())
}

/// Whether `/proc/locks` lists a lock of the file: `1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF` (proc_locks(5)).
fn is_locked(locks: &str, device: u64, inode: u64) -> bool {
    let file = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    locks
        .lines()
        .any(|line| line.split_whitespace().any(|word| word == file))
}

/// Tries until it succeeds, or until nothing is found and nothing is starting.
pub fn wait_for<T>(
    is_starting: impl Fn() -> bool,
    attempt: impl Fn() -> Result<Option<T>, ClientError>,
) -> Result<Option<T>, ClientError> {
    let began = Instant::now();
    loop {
        // An attempt may itself take long; an instance that starts meanwhile is found by the next one.
        let waited = began.elapsed();
        if let Some(found) = attempt()? {
            return Ok(Some(found));
        }
        let patience = if is_starting() { START_WAIT } else { SIGN_WAIT };
        if waited >= patience {
            return Ok(None);
        }
        std::thread::sleep(RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 812 fe:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 15965 00:1a:2564113 0 EOF\n";
        assert!(is_locked(locks, libc::makedev(0, 0x1a), 2_564_113));
        assert!(!is_locked(locks, libc::makedev(0, 0x1b), 2_564_113));
        assert!(!is_locked(locks, libc::makedev(0, 0x1a), 256_411));
        assert!(!is_locked("", libc::makedev(0, 0x1a), 2_564_113));
    }
}

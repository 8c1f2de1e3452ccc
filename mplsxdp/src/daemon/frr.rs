//! Asks FRR for the backups that it computes and the pseudowires that it signals (`--sync frr`). A thread asks, reads and
//! parses: an answer may be many megabytes, and zebra may take seconds for it. The event loop gets what has changed, in
//! batches.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::{Gid, Group};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::control::api::{FrrVty, SyncState};
use crate::feeds::Key;
use crate::feeds::frr::{
    Answer, Backups, COMMANDS, Kind, Names, PSEUDOWIRES, Schedule, Unreadable, Wire, changed, parse_bindings,
    parse_labels, parse_prefixes, parse_wires, pseudowire_routes,
};
use crate::route::Route;
use crate::switch::FrrAnswer;

/// The daemons' sockets for vtysh.
const SOCKET: &str = "zebra.vty";
const LDPD_SOCKET: &str = "ldpd.vty";
/// The group whose members may connect to it, with FRR's packages.
const GROUP: &str = "frrvty";
/// The longest answer: about a million labels.
const ANSWER_MAX: usize = 256 << 20;
/// How long zebra may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all of its answers may take.
const WHOLE: Duration = Duration::from_secs(120);
/// How many keys the event loop takes at once.
const BATCH: usize = 512;
/// Bytes that are read at once.
const READ: usize = 1 << 16;

/// The thread. It ends when this value is dropped.
pub struct Frr {
    shared: Arc<Shared>,
    thread: Thread,
    answers: mpsc::Receiver<FrrAnswer>,
}

struct Shared {
    socket: PathBuf,
    stale_after: Duration,
    /// A route that may have a backup has changed. The event loop waits for no lock to say so.
    hinted: AtomicBool,
    ended: AtomicBool,
    inner: Mutex<Inner>,
}

/// For people.
struct Inner {
    answers: u64,
    failures: u64,
    /// The last complete answer: when it came, how long it took, and its length.
    last: Option<(Instant, Duration, usize)>,
    pseudowires: usize,
    failure: Option<String>,
    /// When it began to ask.
    since: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// How long there has been no answer, if that is too long.
    fn stale(&self, after: Duration, now: Instant) -> Option<Duration> {
        let last = self.last.map_or(self.since, |(then, ..)| then);
        Some(now.saturating_duration_since(last)).filter(|age| *age > after)
    }
}

/// Why there is no answer. The texts say what helps.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("there is no directory {0}: FRR has not been started; or name the one with its sockets: `--sync frr=DIR`")]
    NoDirectory(String),
    #[error("there is no {0}: {daemon} is not running", daemon = daemon(.0))]
    NoSocket(String),
    #[error("nobody listens on {0}: {daemon} is not running", daemon = daemon(.0))]
    Refused(String),
    #[error(
        "this process may not connect to {socket}, which belongs to {owner}: it takes part in the group {GROUP}, or that of the \
         socket, if that exists when it starts: load the instance again, after FRR"
    )]
    NotPermitted { socket: String, owner: String },
    #[error("FRR has not answered `{command}` for {} s", PATIENCE.as_secs())]
    Silent { command: &'static str },
    #[error("FRR has not answered everything within {} s", WHOLE.as_secs())]
    Slow,
    #[error("FRR has closed the connection in its answer to `{command}`")]
    Closed { command: &'static str },
    #[error("the answer of FRR to `{command}` cannot be used: {reason}")]
    Unreadable { command: &'static str, reason: Unreadable },
    #[error("the answer of FRR to `{command}` is not the JSON that FRR writes: {reason}")]
    Json {
        command: &'static str,
        reason: serde_json::Error,
    },
    #[error("cannot talk to FRR over {0}: {1}")]
    Io(String, io::Error),
}

/// The daemon whose socket this is.
fn daemon(socket: &str) -> &str {
    let name = socket.rsplit('/').next().unwrap_or(socket);
    name.strip_suffix(".vty").unwrap_or(name)
}

/// The groups that may connect to the socket in this directory. This reads files.
pub fn groups(directory: &Path) -> Vec<Gid> {
    let named = match Group::from_name(GROUP) {
        Ok(group) => group.map(|group| group.gid),
        Err(error) => {
            debug!("cannot look up the group {GROUP}: {error}");
            None
        }
    };
    let has = |path: &Path| fs::metadata(path).ok().map(|file| Gid::from_raw(file.gid()));
    let all = named
        .into_iter()
        .chain(has(directory))
        .chain(has(&directory.join(SOCKET)));
    all.filter(|group| group.as_raw() != 0).collect()
}

impl Frr {
    /// `stale_after`: how long an answer counts as fresh.
    pub fn start(directory: &Path, stale_after: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket: directory.join(SOCKET),
            stale_after,
            hinted: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                answers: 0,
                failures: 0,
                last: None,
                pseudowires: 0,
                failure: None,
                since: Instant::now(),
            }),
        });
        let (sender, answers) = mpsc::channel(1);
        let asker = Asker {
            shared: Arc::clone(&shared),
            schedule: Schedule::new(),
            answers: sender,
            last: Arc::default(),
            pseudowires: None,
            retired: Vec::new(),
            complaint: None,
            is_stale: false,
        };
        let started = thread::Builder::new().name("frr".into()).spawn(move || asker.run())?;
        Ok(Self {
            shared,
            thread: started.thread().clone(),
            answers,
        })
    }

    /// A route that may have a backup has changed.
    pub fn hint(&self) {
        self.shared.hinted.store(true, Ordering::Release);
        self.thread.unpark();
    }

    /// Waits for what has changed. Can be dropped and called again at any time.
    pub async fn next(&mut self) -> FrrAnswer {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// Its state, for people.
    pub fn status(&self) -> (SyncState, FrrVty) {
        let inner = self.shared.lock();
        let now = Instant::now();
        let state = match (inner.last, inner.stale(self.shared.stale_after, now)) {
            (_, Some(_)) => SyncState::Stale,
            (Some(_), None) => SyncState::Synced,
            (None, None) => SyncState::Waiting,
        };
        let vty = FrrVty {
            socket: self.shared.socket.display().to_string(),
            answers: inner.answers,
            failures: inner.failures,
            answered_seconds: inner
                .last
                .map(|(then, ..)| now.saturating_duration_since(then).as_secs_f64()),
            took_seconds: inner.last.map(|(_, took, _)| took.as_secs_f64()),
            bytes: inner.last.map_or(0, |(.., bytes)| bytes as u64),
            pseudowires: inner.pseudowires as u64,
            failure: inner.failure.clone(),
        };
        (state, vty)
    }

    /// How long there has been no answer, if that is too long.
    pub fn stale_seconds(&self) -> Option<u64> {
        let stale = self.shared.lock().stale(self.shared.stale_after, Instant::now());
        stale.map(|age| age.as_secs())
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

struct Asker {
    shared: Arc<Shared>,
    schedule: Schedule,
    answers: mpsc::Sender<FrrAnswer>,
    /// What the event loop knows.
    last: Arc<Backups>,
    /// The same of pseudowires; `None`: nothing yet.
    pseudowires: Option<Arc<Vec<Route>>>,
    /// What it may still have: this thread frees them.
    retired: Vec<Arc<Backups>>,
    /// The last log message about a failure: the same one is logged once.
    complaint: Option<String>,
    is_stale: bool,
}

impl Asker {
    fn run(mut self) {
        while self.wait() {
            let begin = Instant::now();
            match ask(&self.shared.socket, begin) {
                Ok(All {
                    backups,
                    pseudowires,
                    bytes,
                }) => {
                    if !self.take(backups, pseudowires) {
                        return;
                    }
                    self.answered(begin, bytes);
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Waits until the next question is due. Returns `false` at the end.
    fn wait(&mut self) -> bool {
        loop {
            if self.shared.ended.load(Ordering::Acquire) {
                return false;
            }
            let now = Instant::now();
            if self.shared.hinted.swap(false, Ordering::AcqRel) {
                self.schedule.hint(now);
            }
            match self.schedule.due().map(|due| due.saturating_duration_since(now)) {
                None | Some(Duration::ZERO) => return true,
                Some(left) => thread::park_timeout(left),
            }
        }
    }

    /// Passes on what has changed. Returns `false` if nobody takes it.
    fn take(&mut self, backups: Backups, pseudowires: Vec<Route>) -> bool {
        if self.pseudowires.as_deref() != Some(&pseudowires) {
            self.pseudowires = Some(Arc::new(pseudowires));
        }
        let changed = changed(&self.last, &backups);
        // The same backups are not held twice.
        let backups = match changed.is_empty() {
            true => Arc::clone(&self.last),
            false => Arc::new(backups),
        };
        let batches = changed.chunks(BATCH).map(<[Key]>::to_vec);
        // The first answer counts even if it has nothing.
        let none = changed.is_empty().then(Vec::new);
        for changed in batches.chain(none) {
            let answer = FrrAnswer {
                backups: Arc::clone(&backups),
                changed,
                pseudowires: self.pseudowires.clone().unwrap_or_default(),
            };
            if self.answers.blocking_send(answer).is_err() {
                return false;
            }
        }
        self.retired.push(std::mem::replace(&mut self.last, backups));
        self.retired.retain(|old| Arc::strong_count(old) > 1);
        true
    }

    fn answered(&mut self, begin: Instant, bytes: usize) {
        let now = Instant::now();
        let took = now.saturating_duration_since(begin);
        let mut inner = self.shared.lock();
        let is_first = inner.last.is_none();
        inner.answers += 1;
        inner.last = Some((now, took, bytes));
        // Each has a route for either direction.
        inner.pseudowires = self.pseudowires.as_deref().map_or(0, Vec::len) / 2;
        inner.failure = None;
        drop(inner);
        self.schedule.answered(begin, now);
        self.is_stale = false;
        let routes = self.last.len();
        match self.complaint.take().is_some() || is_first {
            true => info!(routes, bytes, "zebra has answered which backups FRR has"),
            false => debug!(routes, bytes, ?took, "zebra has answered which backups FRR has"),
        }
    }

    fn failed(&mut self, error: &NoAnswer) {
        let now = Instant::now();
        let text = error.to_string();
        let mut inner = self.shared.lock();
        inner.failures += 1;
        inner.failure = Some(text.clone());
        let stale = inner.stale(self.shared.stale_after, now);
        let had_answer = inner.last.is_some();
        drop(inner);
        self.schedule.failed(now);
        if self.complaint.as_ref() == Some(&text) {
            debug!("{text}");
        } else {
            warn!("{text}; nothing is changed, and it is tried again");
            self.complaint = Some(text);
        }
        if let Some(age) = stale
            && had_answer
            && !std::mem::replace(&mut self.is_stale, true)
        {
            warn!(
                seconds = age.as_secs(),
                "the backups of FRR stay, but they are stale: zebra does not answer"
            );
        }
    }
}

/// What FRR has.
struct All {
    backups: Backups,
    /// The routes of pseudowires that are up.
    pseudowires: Vec<Route>,
    /// How long the answers were.
    bytes: usize,
}

fn ask(path: &Path, begin: Instant) -> Result<All, NoAnswer> {
    let mut connection = Connection::to(path, begin)?;
    let (mut backups, mut names, mut bytes) = (Backups::new(), Names::default(), 0);
    for (command, kind) in COMMANDS {
        let text = connection.answer_to(command)?;
        bytes += text.len();
        let parsed = match kind {
            Kind::Labels => parse_labels(&text, &mut names, &mut backups),
            Kind::Prefixes => parse_prefixes(&text, &mut names, &mut backups),
        };
        parsed.map_err(|reason| NoAnswer::Json { command, reason })?;
    }
    let [command, of_ldpd] = PSEUDOWIRES;
    let text = connection.answer_to(command)?;
    bytes += text.len();
    let wires = parse_wires(&text).map_err(|reason| NoAnswer::Json { command, reason })?;
    let mut bindings = Vec::new();
    if wires.iter().any(Wire::is_signalled) {
        let command = of_ldpd;
        let path = path.with_file_name(LDPD_SOCKET);
        let text = Connection::to(&path, begin)?.answer_to(command)?;
        bytes += text.len();
        bindings = parse_bindings(&text).map_err(|reason| NoAnswer::Json { command, reason })?;
    }
    Ok(All {
        backups,
        pseudowires: pseudowire_routes(&wires, &bindings),
        bytes,
    })
}

struct Connection<'a> {
    stream: UnixStream,
    path: &'a Path,
    begin: Instant,
}

impl<'a> Connection<'a> {
    fn to(path: &'a Path, begin: Instant) -> Result<Self, NoAnswer> {
        let stream = connect_to(path)?;
        let mut connection = Self { stream, path, begin };
        connection.answer_to("enable")?;
        Ok(connection)
    }

    fn answer_to(&mut self, command: &'static str) -> Result<Vec<u8>, NoAnswer> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => NoAnswer::Silent { command },
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => NoAnswer::Closed { command },
            _ => NoAnswer::Io(self.path.display().to_string(), error),
        };
        let line = [command.as_bytes(), b"\0"].concat();
        self.stream.write_all(&line).map_err(failed)?;
        let mut answer = Answer::new(ANSWER_MAX);
        let mut buffer = vec![0; READ];
        loop {
            let count = match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(failed)?,
            };
            if count == 0 {
                return Err(NoAnswer::Closed { command });
            }
            if self.begin.elapsed() > WHOLE {
                return Err(NoAnswer::Slow);
            }
            let taken = answer.take(buffer.get(..count).unwrap_or_default());
            if let Some(text) = taken.map_err(|reason| NoAnswer::Unreadable { command, reason })? {
                return Ok(text);
            }
        }
    }
}

/// A connection that gives up on a zebra that is silent, also while it is made.
fn connect_to(path: &Path) -> Result<UnixStream, NoAnswer> {
    let shown = || path.display().to_string();
    let failed = |error: nix::Error| match (error, path.parent()) {
        (nix::Error::ENOENT, Some(directory)) if !directory.exists() => {
            NoAnswer::NoDirectory(directory.display().to_string())
        }
        (nix::Error::ENOENT, _) => NoAnswer::NoSocket(shown()),
        (nix::Error::ECONNREFUSED, _) => NoAnswer::Refused(shown()),
        (nix::Error::EACCES, _) => NoAnswer::NotPermitted {
            socket: shown(),
            owner: owner(path),
        },
        (nix::Error::EAGAIN, _) => NoAnswer::Silent { command: "enable" },
        (error, _) => NoAnswer::Io(shown(), error.into()),
    };
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
    setsockopt(&socket, sockopt::SendTimeout, &patience).map_err(failed)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience).map_err(failed)?;
    let address = UnixAddr::new(path).map_err(failed)?;
    connect(socket.as_raw_fd(), &address).map_err(failed)?;
    Ok(socket.into())
}

/// Who may connect, as far as this process may see it.
fn owner(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(file) => format!(
            "uid {} gid {} with mode {:o}",
            file.uid(),
            file.gid(),
            file.mode() & 0o7777
        ),
        Err(error) => format!("whom? ({error})"),
    }
}

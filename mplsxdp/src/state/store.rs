//! The thread that writes. Changes reach it in order; it appends them, and then lets their clients have their answers.
//! The event loop never touches the disk.
//!
//! If the disk is full, read-only or broken, forwarding goes on, and so do changes: they are answered without being
//! saved, and a new snapshot is tried from time to time until one is complete. Then everything is saved again.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{error, info, warn};

use super::record::{self, Head, Record, Start};
use super::recovery::{self, Problem, Recovered, SNAPSHOT, Saved, UNFINISHED, journal_name};
use super::text::Writer;
use super::{Batch, Part, Piece};
use crate::directory;
use crate::route::RouteKey;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// How much is written at once.
const CHUNK: usize = 1 << 20;
/// How often the journal is put on the disk. If the machine stops, what came after is lost.
const SYNC: Duration = Duration::from_secs(1);
/// A new snapshot waits until no change came for so long, because it takes time from them...
const QUIET: Duration = Duration::from_secs(1);
/// ...unless the journals are so much larger than the old one.
const LARGE_BYTES: u64 = 64 << 20;
const LARGE_FACTOR: u64 = 4;
/// Journals below this size are short enough.
const SMALL_BYTES: u64 = 1 << 20;
/// How many journals are kept; each start begins one.
const MAX_JOURNALS: usize = 8;
/// The time between two attempts to write again doubles up to this.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Records that wait to be written. A disk that is slower is given up, because memory is limited.
const MAX_QUEUED: usize = 8 << 20;

/// A request for a part of a snapshot: the routes after this key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Of which snapshot.
    pub attempt: u64,
    pub after: Option<RouteKey>,
}

/// How the store is, for clients.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StoreStatus {
    pub dir: PathBuf,
    pub snapshot_bytes: u64,
    pub journal_bytes: u64,
    /// Since when changes are not saved, and why.
    pub failure: Option<(SystemTime, String)>,
}

enum Message {
    Batch(Batch),
    /// To be called when everything before it is written.
    Then(Box<dyn FnOnce() + Send>),
    Piece(u64, Piece),
    /// The switch can be asked for its routes.
    Ready,
    Synced(io::Result<()>),
    /// A snapshot is in place, or is not.
    Placed(u64, io::Result<()>),
    Stop {
        keep: bool,
    },
}

/// A directory whose files were read.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    recovered: Recovered,
}

impl Directory {
    /// Reads what an earlier process has left in the directory, if it exists.
    pub fn read(path: PathBuf) -> Result<Self, Problem> {
        directory::check(&path)?;
        let recovered = recovery::recover(&path)?.unwrap_or_default();
        for note in &recovered.notes {
            warn!("{note}");
        }
        Ok(Self { path, recovered })
    }

    /// Removes an instance's saved state.
    pub fn discard(path: &Path) -> Result<(), Problem> {
        directory::check(path)?;
        remove_files(path).map_err(Problem::io("remove files in", path))
    }

    /// Renames the files, so that the next start begins without them. Returns their new names.
    pub fn keep_aside(path: &Path, now: SystemTime) -> Result<Vec<PathBuf>, Problem> {
        let time = humantime::format_rfc3339_seconds(now).to_string().replace(':', "");
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(Problem::io("read", path))? {
            let old = entry.map_err(Problem::io("read", path))?.path();
            if !is_ours(&old) {
                continue;
            }
            let mut name = old.as_os_str().to_owned();
            name.push(format!(".damaged-{time}"));
            fs::rename(&old, &name).map_err(Problem::io("rename", &old))?;
            names.push(PathBuf::from(name));
        }
        names.sort();
        Ok(names)
    }

    pub fn saved(&self) -> &Saved {
        &self.recovered.saved
    }

    /// Begins to save, under this start. The result has what of the saved state is wanted under it, and the requests for
    /// parts of snapshots.
    pub fn open(self, start: Start) -> io::Result<(Saved, Store, UnboundedReceiver<Request>)> {
        let Self { path, mut recovered } = self;
        let mut saved = std::mem::take(&mut recovered.saved);
        // A start always belongs.
        let _ = saved.apply(Record::Start(start.clone()));
        let (requests, requested) = unbounded_channel();
        let (sender, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let disk = Disk::start(sender.clone())?;
        let mut writing = Writing::new(path, start, recovered, Arc::clone(&shared), requests, disk);
        writing.open();
        let thread = thread::Builder::new().name("state".into());
        let thread = thread.spawn(move || writing.run(&receiver))?;
        let store = Store {
            sender,
            shared,
            thread: Some(thread),
        };
        Ok((saved, store, requested))
    }
}

/// Whether a file of an instance's directory is one that is read at the start.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("journal.").map(str::parse::<u64>);
    matches!(name, SNAPSHOT | UNFINISHED) || matches!(number, Some(Ok(_)))
}

fn remove_files(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if is_ours(&path) {
            remove(&path)?;
        }
    }
    // Files that were kept aside stay.
    let _ = fs::remove_dir(dir);
    Ok(())
}

/// What is gone already is removed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the thread shares with its handle.
#[derive(Default, Debug)]
struct Shared {
    status: Mutex<StoreStatus>,
    /// Records that wait to be written.
    queued: AtomicUsize,
    /// There were too many, and some were not passed on.
    overflowed: AtomicBool,
}

/// The handle of the thread.
#[derive(Debug)]
pub struct Store {
    sender: Sender<Message>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Saves a change. It comes after all changes before it.
    pub fn append(&self, batch: Batch) {
        let records: usize = batch.parts.iter().map(Part::records).sum();
        if self.shared.queued.load(Ordering::Relaxed) + records > MAX_QUEUED {
            self.shared.overflowed.store(true, Ordering::Relaxed);
            return;
        }
        self.shared.queued.fetch_add(records, Ordering::Relaxed);
        self.send(Message::Batch(batch));
    }

    /// Calls `then` on the thread when all changes before it are saved, or cannot be saved.
    pub fn then(&self, then: impl FnOnce() + Send + 'static) {
        self.send(Message::Then(Box::new(then)));
    }

    /// The answer to a request.
    pub fn give(&self, request: Request, piece: Piece) {
        self.send(Message::Piece(request.attempt, piece));
    }

    /// The switch is up: snapshots may be taken.
    pub fn ready(&self) {
        self.send(Message::Ready);
    }

    pub fn status(&self) -> StoreStatus {
        let status = self.shared.status.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes what is left, and ends. Unless it is to `keep` them, it removes the files.
    pub fn stop(mut self, keep: bool) {
        self.send(Message::Stop { keep });
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread that saves routes and ports has panicked");
        }
    }

    fn send(&self, message: Message) {
        // The thread ends after this value, unless it panics: then nothing is saved any more.
        if let Err(mpsc::SendError(message)) = self.sender.send(message) {
            let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
            let panicked = || (SystemTime::now(), "the thread that saves them has panicked".to_owned());
            status.failure.get_or_insert_with(panicked);
            if let Message::Then(then) = message {
                then();
            }
        }
    }
}

/// What takes long on a disk is done on a thread of its own, so that changes do not wait for it.
struct Disk(Sender<Job>);

enum Job {
    Sync(Arc<File>),
    /// Puts a complete snapshot in place.
    Place(u64, Placing),
}

struct Placing {
    dir: PathBuf,
    file: File,
    /// Journals that it makes obsolete.
    obsolete: Vec<u64>,
}

impl Placing {
    fn place(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(self.dir.join(UNFINISHED), self.dir.join(SNAPSHOT))?;
        sync_dir(&self.dir)?;
        for number in self.obsolete {
            remove(&self.dir.join(journal_name(number)))?;
        }
        Ok(())
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Disk {
    fn start(done: Sender<Message>) -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel();
        let work = move || {
            for job in jobs {
                let message = match job {
                    Job::Sync(file) => Message::Synced(file.sync_data()),
                    Job::Place(attempt, placing) => Message::Placed(attempt, placing.place()),
                };
                if done.send(message).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("state-disk".into()).spawn(work)?;
        Ok(Self(sender))
    }

    fn begin(&self, job: Job) {
        // The thread ends only after this value.
        let _ = self.0.send(job);
    }
}

/// A journal that is being written.
struct Journal {
    number: u64,
    path: PathBuf,
    file: Arc<File>,
    inode: u64,
    writer: Writer,
    /// The size of the whole changes.
    size: u64,
    has_unsynced: bool,
}

/// A snapshot that is being written.
struct Snapshot {
    attempt: u64,
    file: File,
    writer: Writer,
    size: u64,
    routes: u64,
    /// Journals that it makes obsolete.
    obsolete: Vec<u64>,
    obsolete_bytes: u64,
    /// It is complete, and is being put in place.
    is_complete: bool,
}

struct Failure {
    since: SystemTime,
    reason: String,
    delay: Duration,
    retry: Instant,
}

/// The state of the thread.
struct Writing {
    dir: PathBuf,
    start: Start,
    shared: Arc<Shared>,
    requests: UnboundedSender<Request>,
    disk: Disk,
    recovered: Recovered,
    /// Journals that continue the snapshot, without the current one.
    journals: Vec<u64>,
    /// Their size.
    journal_bytes: u64,
    snapshot_bytes: u64,
    journal: Option<Journal>,
    snapshot: Option<Snapshot>,
    /// The number of the next journal.
    next: u64,
    attempt: u64,
    failure: Option<Failure>,
    is_ready: bool,
    is_syncing: bool,
    synced: Instant,
    last_change: Instant,
    buffer: Vec<u8>,
    waiting: VecDeque<Box<dyn FnOnce() + Send>>,
}

/// What could not be done.
struct Failed(&'static str, io::Error);

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Failed {
    move |error| Failed(what, error)
}

impl Writing {
    fn new(
        dir: PathBuf,
        start: Start,
        recovered: Recovered,
        shared: Arc<Shared>,
        requests: UnboundedSender<Request>,
        disk: Disk,
    ) -> Self {
        let now = Instant::now();
        let journals: Vec<u64> = recovered.journals.iter().map(|&(number, _)| number).collect();
        Self {
            dir,
            start,
            shared,
            requests,
            disk,
            next: journals.last().map_or(1, |last| last + 1),
            journal_bytes: recovered.journal_bytes,
            snapshot_bytes: recovered.snapshot_bytes,
            journals,
            recovered,
            journal: None,
            snapshot: None,
            attempt: 0,
            failure: None,
            is_ready: false,
            is_syncing: false,
            synced: now,
            last_change: now,
            buffer: Vec::with_capacity(CHUNK + (CHUNK >> 3)),
            waiting: VecDeque::new(),
        }
    }

    /// Makes the directory fit for new changes.
    fn open(&mut self) {
        if let Err(error) = self.try_open() {
            self.fail(error);
        }
        self.report();
    }

    fn try_open(&mut self) -> Result<(), Failed> {
        self.make_dir()?;
        for path in std::mem::take(&mut self.recovered.obsolete) {
            remove(&path).map_err(failed("remove an old file"))?;
        }
        let is_fresh = self.journals.is_empty();
        if let Some(&(number, size)) = self.recovered.journals.last() {
            let file = OpenOptions::new().write(true).open(self.dir.join(journal_name(number)));
            let file = file.map_err(failed("open the journal"))?;
            file.set_len(size).map_err(failed("cut the journal"))?;
            file.sync_all().map_err(failed("write the journal"))?;
        }
        self.begin_journal(false)?;
        if is_fresh {
            let (mut writer, mut buffer) = record::begin(Head::Snapshot(self.next - 1));
            Record::Start(self.start.clone()).write(&mut writer, &mut buffer);
            Record::End(0).write(&mut writer, &mut buffer);
            let mut file = self.create(UNFINISHED).map_err(failed("write the snapshot"))?;
            file.write_all(&buffer).map_err(failed("write the snapshot"))?;
            let dir = self.dir.clone();
            let placing = Placing {
                dir,
                file,
                obsolete: Vec::new(),
            };
            placing.place().map_err(failed("put the snapshot in place"))?;
            self.snapshot_bytes = buffer.len() as u64;
            return Ok(());
        }
        sync_dir(&self.dir).map_err(failed("write the directory"))?;
        self.write_start()
    }

    /// The journal begins with this start: what was saved under another one may not be wanted.
    fn write_start(&mut self) -> Result<(), Failed> {
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        self.buffer.clear();
        Record::Start(self.start.clone()).write(&mut journal.writer, &mut self.buffer);
        Record::Commit.write(&mut journal.writer, &mut self.buffer);
        self.flush(true)
    }

    fn make_dir(&self) -> Result<(), Failed> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(DIR_MODE).create(&self.dir);
        let checked = made.and_then(|()| directory::check(&self.dir).map_err(io::Error::other));
        checked.map_err(failed("make the directory"))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(FILE_MODE);
        options.custom_flags(libc::O_NOFOLLOW).open(self.dir.join(name))
    }

    /// Begins the next journal; changes are appended there from now on.
    fn begin_journal(&mut self, after_gap: bool) -> Result<(), Failed> {
        if let Some(journal) = &self.journal {
            // Only the last one may be torn.
            journal.file.sync_data().map_err(failed("write the journal"))?;
        }
        let number = self.next;
        let name = journal_name(number);
        let begin = || {
            let mut file = self.create(&name)?;
            let (writer, buffer) = record::begin_journal(number, after_gap);
            file.write_all(&buffer)?;
            file.sync_all()?;
            Ok(Journal {
                number,
                path: self.dir.join(&name),
                inode: file.metadata()?.ino(),
                file: Arc::new(file),
                writer,
                size: buffer.len() as u64,
                has_unsynced: false,
            })
        };
        let new = begin().map_err(failed("begin a journal"))?;
        self.next += 1;
        if let Some(old) = self.journal.replace(new) {
            self.journals.push(old.number);
            self.journal_bytes += old.size;
        }
        Ok(())
    }

    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let next = match self.deadline() {
                Some(deadline) => messages.recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut next = match next {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // What has come together is written together.
            while let Some(message) = next {
                if let Message::Stop { keep } = message {
                    return self.stop(keep);
                }
                self.take(message);
                next = messages.try_recv().ok();
            }
            self.write_out();
            self.waiting.drain(..).for_each(|then| then());
            self.tend(Instant::now());
            self.report();
        }
    }

    /// When to look after the files if no message comes.
    fn deadline(&self) -> Option<Instant> {
        let retry = self.failure.as_ref().map(|failure| failure.retry);
        let retry = retry.filter(|_| self.snapshot.is_none() && self.is_ready);
        let sync = self.has_to_sync().then(|| self.synced + SYNC);
        let snapshot = self.wants_snapshot().then(|| self.last_change + QUIET);
        retry.into_iter().chain(sync).chain(snapshot).min()
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Batch(batch) => self.append(&batch),
            Message::Then(then) => self.waiting.push_back(then),
            Message::Piece(attempt, piece) => {
                if let Err(error) = self.take_piece(attempt, &piece) {
                    self.fail(error);
                }
            }
            Message::Ready => self.is_ready = true,
            Message::Synced(result) => {
                self.is_syncing = false;
                if let Err(error) = result {
                    self.fail(Failed("write the journal", error));
                }
            }
            Message::Placed(attempt, result) => self.placed(attempt, result),
            Message::Stop { .. } => {}
        }
    }

    fn append(&mut self, batch: &Batch) {
        let records: usize = batch.parts.iter().map(Part::records).sum();
        self.shared.queued.fetch_sub(records, Ordering::Relaxed);
        self.last_change = Instant::now();
        if batch.parts.iter().any(|part| matches!(part, Part::Renamed(_))) && self.snapshot.is_some() {
            // Some of its routes have new names already, which must not be applied to them again.
            self.abandon_snapshot();
        }
        let mut place = Some((0, 0));
        while let Some(from) = place
            && let Some(journal) = &mut self.journal
        {
            place = record::write_batch(batch, from, &mut journal.writer, &mut self.buffer, CHUNK);
            if self.buffer.len() >= CHUNK
                && let Err(error) = self.flush(place.is_none())
            {
                self.fail(error);
            }
        }
    }

    /// Writes what is in the buffer, which ends with a whole change.
    fn write_out(&mut self) {
        if !self.buffer.is_empty()
            && let Err(error) = self.flush(true)
        {
            self.fail(error);
        }
        if self.shared.overflowed.swap(false, Ordering::Relaxed) {
            let slow = io::Error::new(io::ErrorKind::TimedOut, "the disk is too slow for so many changes");
            self.fail(Failed("write the journal", slow));
        }
    }

    fn flush(&mut self, is_whole: bool) -> Result<(), Failed> {
        let Some(journal) = &mut self.journal else {
            self.buffer.clear();
            return Ok(());
        };
        let written = (&*journal.file).write_all(&self.buffer);
        written.map_err(failed("write the journal"))?;
        journal.has_unsynced = true;
        if is_whole {
            journal.size = journal.file.metadata().map_err(failed("look at the journal"))?.len();
        }
        self.buffer.clear();
        Ok(())
    }

    fn has_to_sync(&self) -> bool {
        !self.is_syncing && self.journal.as_ref().is_some_and(|journal| journal.has_unsynced)
    }

    fn total_bytes(&self) -> u64 {
        self.journal_bytes + self.journal.as_ref().map_or(0, |journal| journal.size)
    }

    /// Whether the journals are long enough for a new snapshot.
    fn wants_snapshot(&self) -> bool {
        let is_long = self.total_bytes() > SMALL_BYTES.max(self.snapshot_bytes) || self.journals.len() >= MAX_JOURNALS;
        is_long && self.is_ready && self.snapshot.is_none() && self.failure.is_none()
    }

    /// Does what is due.
    fn tend(&mut self, now: Instant) {
        if self.has_to_sync() && now >= self.synced + SYNC {
            self.sync(now);
        }
        let is_quiet = now >= self.last_change + QUIET;
        let is_large = self.total_bytes() > LARGE_BYTES + LARGE_FACTOR * self.snapshot_bytes;
        let is_due = self.wants_snapshot() && (is_quiet || is_large);
        let retries = self.is_ready
            && self.snapshot.is_none()
            && self.failure.as_ref().is_some_and(|failure| now >= failure.retry);
        if (is_due || retries)
            && let Err(error) = self.begin_snapshot()
        {
            self.fail(error);
        }
    }

    fn sync(&mut self, now: Instant) {
        let Some(journal) = &mut self.journal else { return };
        self.synced = now;
        match fs::symlink_metadata(&journal.path) {
            Ok(found) if found.ino() == journal.inode => {}
            Ok(_) => {
                let error = io::Error::other("another file has its name");
                return self.fail(Failed("write the journal", error));
            }
            Err(error) => return self.fail(Failed("find the journal", error)),
        }
        journal.has_unsynced = false;
        self.is_syncing = true;
        self.disk.begin(Job::Sync(Arc::clone(&journal.file)));
    }

    fn begin_snapshot(&mut self) -> Result<(), Failed> {
        self.make_dir()?;
        self.begin_journal(self.failure.is_some())?;
        self.write_start()?;
        let (mut writer, mut buffer) = record::begin(Head::Snapshot(self.next - 1));
        Record::Start(self.start.clone()).write(&mut writer, &mut buffer);
        let mut file = self.create(UNFINISHED).map_err(failed("write a snapshot"))?;
        file.write_all(&buffer).map_err(failed("write a snapshot"))?;
        sync_dir(&self.dir).map_err(failed("write the directory"))?;
        self.attempt += 1;
        self.snapshot = Some(Snapshot {
            attempt: self.attempt,
            file,
            writer,
            size: buffer.len() as u64,
            routes: 0,
            obsolete: self.journals.clone(),
            obsolete_bytes: self.journal_bytes,
            is_complete: false,
        });
        self.ask(None);
        Ok(())
    }

    fn ask(&self, after: Option<RouteKey>) {
        // The event loop ends after this thread.
        let _ = self.requests.send(Request {
            attempt: self.attempt,
            after,
        });
    }

    fn take_piece(&mut self, attempt: u64, piece: &Piece) -> Result<(), Failed> {
        let Some(snapshot) = &mut self.snapshot else {
            return Ok(());
        };
        if snapshot.attempt != attempt || snapshot.is_complete {
            return Ok(());
        }
        let mut buffer = Vec::with_capacity(CHUNK >> 3);
        snapshot.routes += record::write_piece(piece, &mut snapshot.writer, &mut buffer);
        if piece.after.is_none() {
            Record::End(snapshot.routes).write(&mut snapshot.writer, &mut buffer);
        }
        snapshot.file.write_all(&buffer).map_err(failed("write a snapshot"))?;
        snapshot.size += buffer.len() as u64;
        if piece.after.is_some() {
            self.ask(piece.after);
            return Ok(());
        }
        snapshot.is_complete = true;
        let placing = Placing {
            dir: self.dir.clone(),
            file: snapshot.file.try_clone().map_err(failed("write a snapshot"))?,
            obsolete: snapshot.obsolete.clone(),
        };
        self.disk.begin(Job::Place(attempt, placing));
        Ok(())
    }

    fn placed(&mut self, attempt: u64, result: io::Result<()>) {
        let Some(snapshot) = self.snapshot.take_if(|snapshot| snapshot.attempt == attempt) else {
            return;
        };
        if let Err(error) = result {
            return self.fail(Failed("put a snapshot in place", error));
        }
        self.journals.retain(|number| !snapshot.obsolete.contains(number));
        self.journal_bytes -= snapshot.obsolete_bytes;
        self.snapshot_bytes = snapshot.size;
        if let Some(failure) = self.failure.take() {
            let since = humantime::format_rfc3339_seconds(failure.since);
            info!(
                "routes and ports are saved in {} again; they were not since {since}",
                self.dir.display()
            );
        }
    }

    /// The snapshot is begun anew later. One that is complete is put in place, but is not known to be.
    fn abandon_snapshot(&mut self) {
        if let Some(snapshot) = &self.snapshot
            && !snapshot.is_complete
        {
            self.snapshot = None;
        }
    }

    /// From now on, changes are not saved until a new snapshot is complete.
    fn fail(&mut self, Failed(what, error): Failed) {
        self.buffer.clear();
        if let Some(journal) = self.journal.take() {
            // What is whole stays; if this fails too, the next start cuts it.
            let _ = journal.file.set_len(journal.size);
            self.journals.push(journal.number);
            self.journal_bytes += journal.size;
        }
        if let Some(snapshot) = self.snapshot.take()
            && !snapshot.is_complete
        {
            let _ = remove(&self.dir.join(UNFINISHED));
        }
        let reason = format!("cannot {what}: {error}");
        let delay = match &self.failure {
            None => SYNC,
            Some(before) => (2 * before.delay).min(MAX_DELAY),
        };
        let is_new = self.failure.as_ref().is_none_or(|before| before.reason != reason);
        let since = self
            .failure
            .as_ref()
            .map_or_else(SystemTime::now, |before| before.since);
        if is_new {
            warn!(
                "routes and ports are not saved in {}: {reason}. Forwarding and changes go on, but if this process ended now, the \
                 next load would have the routes and ports of {}. {}; it is tried again at least once a minute",
                self.dir.display(),
                humantime::format_rfc3339_seconds(since),
                remedy(&error, &self.dir)
            );
        }
        self.failure = Some(Failure {
            since,
            reason,
            delay,
            retry: Instant::now() + delay,
        });
    }

    fn report(&self) {
        let failure = self.failure.as_ref();
        let status = StoreStatus {
            dir: self.dir.clone(),
            snapshot_bytes: self.snapshot_bytes,
            journal_bytes: self.total_bytes(),
            failure: failure.map(|failure| (failure.since, failure.reason.clone())),
        };
        *self.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn stop(mut self, keep: bool) {
        self.write_out();
        if keep
            && let Some(journal) = &self.journal
            && let Err(error) = journal.file.sync_data()
        {
            self.fail(Failed("write the journal", error));
        }
        self.waiting.drain(..).for_each(|then| then());
        if self.snapshot.as_ref().is_some_and(|snapshot| !snapshot.is_complete) {
            let _ = remove(&self.dir.join(UNFINISHED));
        }
        if !keep && let Err(error) = remove_files(&self.dir) {
            warn!(%error, "cannot remove the files in {}", self.dir.display());
        }
    }
}

/// What an administrator can do about it.
fn remedy(error: &io::Error, dir: &Path) -> String {
    let dir = dir.display();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) => format!("Make room there: `df {dir}`"),
        Some(Errno::EDQUOT) => format!("Raise the quota of {dir}"),
        Some(Errno::EROFS) => format!("Make it writable: `findmnt -T {dir}` names what to mount with `-o remount,rw`"),
        Some(Errno::EACCES | Errno::EPERM) => format!("Let this process write there: `ls -ld {dir}`"),
        Some(Errno::EIO) => format!("Look for errors of the disk in `dmesg`; `findmnt -T {dir}` names it"),
        _ => format!("See what is at {dir}"),
    }
}

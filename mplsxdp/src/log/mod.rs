//! The log of a running switch: lines on standard error, which never delay or end the switch.
//!
//! Callers put a finished line into a bounded queue; a separate thread writes it. So a stalled reader holds up that
//! thread only, and a line that does not fit in the queue or cannot be written is lost and counted. (The worker of
//! `tracing-appender` does not count failed writes, and it reports a slow end with `eprintln!`, which blocks or panics
//! on exactly such a standard error.)
//!
//! Lines of one kind are limited, because neighbours can cause some of them. At the end of each window, the omitted
//! lines are summed up in one line per subject.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, callsite};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Lines that wait to be written.
const QUEUE_LINES: usize = 4096;
/// How long the end of the process waits for lines that are not written yet.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// How often the writer looks for windows that are over.
const TICK: Duration = Duration::from_secs(1);
/// How long the writer waits before it retries a non-blocking standard error that has no room.
const RETRY: Duration = Duration::from_millis(20);

/// The period that limits apply to, starting with the first line of a kind.
const WINDOW: Duration = Duration::from_secs(60);
/// Lines of one kind (one place in the source) in a window.
const KIND_LINES: u32 = 200;
/// Those of them that are about one subject, that is, have the same first field.
const SUBJECT_LINES: u32 = 20;
/// Debug lines, which appear only on request, get this many times as much.
const DEBUG_FACTOR: u32 = 10;

static LOST: AtomicU64 = AtomicU64::new(0);
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Lines of this process that could not be written, because nobody reads them or writing failed.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// Lines of this process that were summed up in others, because there were too many of their kind.
pub fn left_out() -> u64 {
    LEFT_OUT.load(Relaxed)
}

/// Who reads standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    Anyone,
    /// The journal has the time of each line, and takes its level from a prefix (sd-daemon(3)).
    Journal,
}

impl Reader {
    /// `stream` is `$JOURNAL_STREAM`: device and inode of the socket that systemd connected (systemd.exec(5)).
    fn of(output: &std::fs::File, stream: Option<&str>) -> Self {
        let same = || {
            let (device, inode) = stream?.split_once(':')?;
            let found = output.metadata().ok()?;
            Some((found.dev(), found.ino()) == (device.parse().ok()?, inode.parse().ok()?))
        };
        match same() {
            Some(true) => Self::Journal,
            _ => Self::Anyone,
        }
    }

    fn prefix(self, level: Level) -> &'static str {
        match (self, level) {
            (Self::Anyone, _) => "",
            (Self::Journal, Level::ERROR) => "<3>",
            (Self::Journal, Level::WARN) => "<4>",
            (Self::Journal, Level::INFO) => "<6>",
            (Self::Journal, _) => "<7>",
        }
    }
}

impl FormatTime for Reader {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match self {
            Self::Anyone => SystemTime.format_time(writer),
            Self::Journal => Ok(()),
        }
    }
}

/// The log, which writes what it can when dropped.
pub struct Log {
    reader: Reader,
    queue: SyncSender<Message>,
    ended: Receiver<()>,
}

enum Message {
    Line(String),
    End,
}

impl Log {
    /// Logs all events of this process to its standard error. `RUST_LOG` overrides `level`.
    pub fn start(level: &str, ansi: bool) -> io::Result<Self> {
        // A separate handle: the standard library's is locked for as long as a write takes.
        let output = std::fs::File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let stream = std::env::var("JOURNAL_STREAM").ok();
        let reader = Reader::of(&output, stream.as_deref());
        let limits = Arc::new(Mutex::new(Limits::default()));
        let log = Self::with_output(output, reader, Arc::clone(&limits))?;
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .log_internal_errors(false)
            .event_format(Limited {
                format: tracing_subscriber::fmt::format()
                    .with_target(false)
                    .with_ansi(ansi)
                    .with_timer(reader),
                reader,
                limits,
            })
            .with_writer(Queue(log.queue.clone()))
            .init();
        Ok(log)
    }

    fn with_output(
        output: impl io::Write + Send + 'static,
        reader: Reader,
        limits: Arc<Mutex<Limits>>,
    ) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE_LINES);
        let (end, ended) = sync_channel(1);
        thread::Builder::new().name("log".into()).spawn(move || {
            write_lines(&messages, output, reader, &limits);
            // The log may have stopped waiting.
            let _ = end.try_send(());
        })?;
        Ok(Self { reader, queue, ended })
    }

    /// Writes an error that is not an event. It waits for room in the queue for a limited time.
    pub fn line(&self, line: &str) {
        let line = format!("{}{line}\n", self.reader.prefix(Level::ERROR));
        if !self.send(Message::Line(line), Instant::now() + FLUSH_TIME) {
            LOST.fetch_add(1, Relaxed);
        }
    }

    fn send(&self, mut message: Message, deadline: Instant) -> bool {
        loop {
            match self.queue.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => message = back,
                Err(_) => return false,
            }
            thread::sleep(RETRY);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_TIME;
        if self.send(Message::End, deadline) {
            // Lines that are not written by then are lost.
            let _ = self
                .ended
                .recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

/// The log's thread.
fn write_lines(messages: &Receiver<Message>, mut output: impl io::Write, reader: Reader, limits: &Mutex<Limits>) {
    let mut reported = 0;
    let mut next_tick = Instant::now() + TICK;
    loop {
        let now = Instant::now();
        let is_over = match messages.recv_timeout(next_tick.saturating_duration_since(now)) {
            Ok(Message::Line(line)) => {
                write_line(&mut output, &line);
                false
            }
            Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        };
        let now = Instant::now();
        if !is_over && now < next_tick {
            continue;
        }
        next_tick = now + TICK;
        let due = if is_over { None } else { Some(now) };
        let mut summaries = String::new();
        lock(limits).close(due, &mut summaries);
        for line in summaries.split_inclusive('\n') {
            write_line(&mut output, line);
        }
        let lost = lost();
        if lost > reported
            && write_line(
                &mut output,
                &format!(
                    "{}{} lines of this log are lost\n",
                    reader.prefix(Level::WARN),
                    lost - reported
                ),
            )
        {
            reported = lost;
        }
        if is_over {
            return;
        }
    }
}

/// Writes a line, or counts it as lost and returns false.
fn write_line(output: &mut impl io::Write, line: &str) -> bool {
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => break,
            Ok(length) => rest = rest.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => break,
        }
    }
    let is_written = rest.is_empty();
    if !is_written {
        LOST.fetch_add(1, Relaxed);
    }
    is_written
}

/// The way into the queue for one caller.
struct Queue(SyncSender<Message>);

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl io::Write for &Queue {
    /// One event, or nothing if it was omitted.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(lines).into_owned();
        if self.0.try_send(Message::Line(line)).is_err() {
            LOST.fetch_add(1, Relaxed);
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats events, except those that exceed the limits.
struct Limited {
    format: Format<Full, Reader>,
    reader: Reader,
    limits: Arc<Mutex<Limits>>,
}

impl<S, N> FormatEvent<S, N> for Limited
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        if self.reader == Reader::Journal {
            // Blanks are left of the time.
            line = format!("{}{}", self.reader.prefix(*metadata.level()), line.trim_start());
        }
        let factor = if *metadata.level() > Level::INFO {
            DEBUG_FACTOR
        } else {
            1
        };
        let mut subject = SubjectOf::default();
        event.record(&mut subject);
        let mut lines = String::new();
        lock(&self.limits).admit(
            (metadata.callsite(), factor),
            subject.hasher.finish(),
            line,
            Instant::now(),
            &mut lines,
        );
        writer.write_str(&lines)
    }
}

/// The first field of an event; its message if it has no other field.
#[derive(Default)]
struct SubjectOf {
    hasher: DefaultHasher,
    is_known: bool,
}

impl Visit for SubjectOf {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.is_known {
            return;
        }
        if field.name() != "message" {
            self.is_known = true;
            self.hasher = DefaultHasher::new();
        }
        // Writing into a hasher does not fail.
        let _ = write!(HashText(&mut self.hasher), "{value:?}");
    }
}

struct HashText<'a>(&'a mut DefaultHasher);

impl fmt::Write for HashText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// The recent lines, by kind. It has at most one entry for each place in the source that logs, each with as many
/// subjects as it may have lines.
#[derive(Default)]
struct Limits {
    kinds: HashMap<callsite::Identifier, Kind>,
}

struct Kind {
    since: Instant,
    lines: u32,
    subjects: HashMap<u64, Subject>,
    /// Lines about subjects that are not in `subjects`.
    others: LeftOut,
}

#[derive(Default)]
struct Subject {
    lines: u32,
    left_out: LeftOut,
}

#[derive(Default)]
struct LeftOut {
    count: u64,
    last: String,
}

impl Limits {
    /// Appends to `out` what should be written now: the line, unless there have been too many of its kind, and before
    /// it the summaries of the previous window if that is over.
    fn admit(
        &mut self,
        (kind, factor): (callsite::Identifier, u32),
        subject: u64,
        line: String,
        now: Instant,
        out: &mut String,
    ) {
        let kind = self.kinds.entry(kind).or_insert_with(|| Kind::new(now));
        if kind.is_over(now) {
            kind.sum_up(out);
            *kind = Kind::new(now);
        }
        let is_full = kind.lines >= KIND_LINES * factor;
        if is_full && !kind.subjects.contains_key(&subject) {
            kind.others.add(line);
            return;
        }
        let subject = kind.subjects.entry(subject).or_default();
        if is_full || subject.lines >= SUBJECT_LINES * factor {
            subject.left_out.add(line);
            return;
        }
        kind.lines += 1;
        subject.lines += 1;
        out.push_str(&line);
    }

    /// Appends the summaries of windows that are over at `now`, or of all of them.
    fn close(&mut self, now: Option<Instant>, out: &mut String) {
        self.kinds.retain(|_, kind| {
            let is_over = now.is_none_or(|now| kind.is_over(now));
            if is_over {
                kind.sum_up(out);
            }
            !is_over
        });
    }
}

impl Kind {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            subjects: HashMap::new(),
            others: LeftOut::default(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    fn sum_up(&mut self, out: &mut String) {
        for subject in self.subjects.values_mut() {
            subject.left_out.sum_up(out);
        }
        self.others.sum_up(out);
    }
}

impl LeftOut {
    fn add(&mut self, line: String) {
        LEFT_OUT.fetch_add(1, Relaxed);
        self.count += 1;
        self.last = line;
    }

    /// The last line, with the number of those before it.
    fn sum_up(&mut self, out: &mut String) {
        if self.count > 0 {
            out.push_str(self.last.trim_end());
            if let more @ 1.. = self.count - 1 {
                let _ = write!(out, " (and {more} more like this)");
            }
            out.push('\n');
        }
        *self = Self::default();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc::{Sender, channel};

    use tracing::callsite::Identifier;

    use super::*;

    struct Place;

    impl callsite::Callsite for Place {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &tracing::Metadata<'_> {
            unreachable!("nobody asks")
        }
    }

    // Kinds differ by their addresses; values without a size would share one.
    static PLACES: [(Place, u8); 2] = [(Place, 0), (Place, 1)];

    fn kind(index: usize) -> Identifier {
        Identifier(&PLACES[index].0)
    }

    fn admit(limits: &mut Limits, kind_of: usize, subject: u64, line: &str, now: Instant) -> String {
        let mut out = String::new();
        limits.admit((kind(kind_of), 1), subject, format!("{line}\n"), now, &mut out);
        out
    }

    #[test]
    fn a_subject_that_has_had_its_lines_leaves_those_of_others_alone() {
        let mut limits = Limits::default();
        let now = Instant::now();
        let written = (0..1000).filter(|n| !admit(&mut limits, 0, 1, &n.to_string(), now).is_empty());
        assert_eq!(written.count(), SUBJECT_LINES as usize);
        assert_eq!(admit(&mut limits, 0, 2, "another", now), "another\n");
        let mut out = String::new();
        limits.close(Some(now), &mut out);
        assert_eq!(out, "", "the window is not over");
        limits.close(Some(now + WINDOW), &mut out);
        assert_eq!(out, "999 (and 979 more like this)\n");
        assert!(limits.kinds.is_empty());
    }

    #[test]
    fn a_kind_has_its_lines_whatever_they_are_about_and_other_kinds_have_theirs() {
        let mut limits = Limits::default();
        let now = Instant::now();
        let written = (0..100_000).filter(|&n| !admit(&mut limits, 0, n, &n.to_string(), now).is_empty());
        assert_eq!(written.count(), KIND_LINES as usize);
        assert_eq!(limits.kinds[&kind(0)].subjects.len(), KIND_LINES as usize);
        assert_eq!(admit(&mut limits, 1, 1, "another", now), "another\n");
        // The next line of the kind comes after the end of the window.
        let out = admit(&mut limits, 0, 1, "next", now + WINDOW);
        assert_eq!(out, "99999 (and 99799 more like this)\nnext\n");
    }

    #[test]
    fn one_line_that_was_left_out_is_written_as_it_is() {
        let mut limits = Limits::default();
        for n in 0..=SUBJECT_LINES {
            admit(&mut limits, 0, 1, &n.to_string(), Instant::now());
        }
        let mut out = String::new();
        limits.close(None, &mut out);
        assert_eq!(out, format!("{SUBJECT_LINES}\n"));
    }

    /// Fails, or stalls until the other end of the channel is gone, or keeps what it gets.
    enum Output {
        Broken,
        Stalled(Receiver<()>),
        Kept(Sender<Vec<u8>>),
    }

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self {
                Self::Broken => return Err(io::ErrorKind::StorageFull.into()),
                Self::Stalled(until) => drop(until.recv()),
                // In pieces.
                Self::Kept(to) => {
                    let piece = bytes.get(..7).unwrap_or(bytes);
                    to.send(piece.to_vec()).unwrap();
                    return Ok(piece.len());
                }
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log_to(output: Output) -> Log {
        Log::with_output(output, Reader::Anyone, Arc::default()).unwrap()
    }

    #[test]
    fn the_journal_gets_levels_and_no_times() {
        let (one_end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let output = std::fs::File::from(std::os::fd::OwnedFd::from(one_end));
        let found = output.metadata().unwrap();
        let stream = format!("{}:{}", found.dev(), found.ino());
        assert_eq!(Reader::of(&output, Some(&stream)), Reader::Journal);
        // Standard error was redirected since.
        for stream in [None, Some(""), Some("1:2"), Some("1"), Some(&*format!("{stream}1"))] {
            assert_eq!(Reader::of(&output, stream), Reader::Anyone, "{stream:?}");
        }
        let (to, written) = channel();
        let log = Log::with_output(Output::Kept(to), Reader::Journal, Arc::default()).unwrap();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Limited {
                format: tracing_subscriber::fmt::format()
                    .with_target(false)
                    .with_ansi(false)
                    .with_timer(Reader::Journal),
                reader: Reader::Journal,
                limits: Arc::default(),
            })
            .with_writer(Queue(log.queue.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(port = "eth1", "a warning");
            tracing::info!("news");
        });
        log.line("mplsxdp: the end");
        drop(log);
        let text = String::from_utf8(written.iter().flatten().collect()).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("are lost")).collect();
        assert_eq!(
            lines,
            ["<4>WARN a warning port=\"eth1\"", "<6>INFO news", "<3>mplsxdp: the end"]
        );
    }

    #[test]
    fn what_is_logged_is_written_whole_and_before_the_end() {
        let (to, written) = channel();
        let log = log_to(Output::Kept(to));
        for n in 0..100 {
            (&Queue(log.queue.clone()))
                .write_all(format!("line {n}\n").as_bytes())
                .unwrap();
        }
        log.line("mplsxdp: the last word");
        drop(log);
        let text = String::from_utf8(written.iter().flatten().collect()).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("are lost")).collect();
        assert_eq!(lines.len(), 101);
        assert_eq!((lines[0], lines[100]), ("line 0", "mplsxdp: the last word"));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_block_nobody() {
        let before = lost();
        let log = log_to(Output::Broken);
        log.line("a");
        drop(log);
        assert!(lost() > before);

        let (free, stalled) = channel();
        let log = log_to(Output::Stalled(stalled));
        let before = lost();
        for _ in 0..QUEUE_LINES + 100 {
            (&Queue(log.queue.clone())).write_all(b"line\n").unwrap();
        }
        // The writer may hold one.
        assert!(lost() - before >= 99);
        // The end does not wait for ever either: the writer is still stalled.
        drop(log);
        drop(free);
    }
}

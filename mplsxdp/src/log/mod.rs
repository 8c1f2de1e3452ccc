//! The log of a running switch: lines on standard error, which never delay or end the switch.
//!
//! Callers put a finished line into a bounded queue; a separate thread writes it. So a stalled reader holds up that
//! thread only, and a line that does not fit in the queue or cannot be written is lost and counted. (The worker of
//! `tracing-appender` does not count failed writes, and it reports a slow end with `eprintln!`, which blocks or panics
//! on exactly such a standard error.)
//!
//! Lines of one kind are limited, because neighbours can cause some of them. At the end of each window, the omitted
//! lines are summed up in one line per subject.

mod format;
mod limits;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use self::format::{Limited, Reader};
use self::limits::Limits;
pub use self::limits::left_out;
use crate::privileges;

/// Lines that wait to be written.
const QUEUE_LINES: usize = 4096;
/// How long the end of the process waits for lines that are not written yet.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// How often the writer looks for windows that are over.
const TICK: Duration = Duration::from_secs(1);
/// How long the writer waits before it retries a non-blocking standard error that has no room.
const RETRY: Duration = Duration::from_millis(20);

static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines of this process that could not be written, because nobody reads them or writing failed.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
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
            .event_format(Limited::new(reader, ansi, limits))
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
            // It writes to an open file. If it cannot do without them, it keeps them.
            let _ = privileges::keep_capabilities(CapabilitySet::empty());
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

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
            .event_format(Limited::new(Reader::Journal, false, Arc::default()))
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

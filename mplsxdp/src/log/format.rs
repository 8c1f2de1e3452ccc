//! The form of a line, for people or for the journal.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::limits::Limits;
use super::lock;

/// Debug lines, which appear only on request, get this many times as much.
const DEBUG_FACTOR: u32 = 10;

/// Who reads standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reader {
    Anyone,
    /// The journal has the time of each line, and takes its level from a prefix (sd-daemon(3)).
    Journal,
}

impl Reader {
    /// `stream` is `$JOURNAL_STREAM`: device and inode of the socket that systemd connected (systemd.exec(5)).
    pub(super) fn of(output: &std::fs::File, stream: Option<&str>) -> Self {
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

    pub(super) fn prefix(self, level: Level) -> &'static str {
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

/// Formats events, except those that exceed the limits.
pub(super) struct Limited {
    format: Format<Full, Reader>,
    reader: Reader,
    limits: Arc<Mutex<Limits>>,
}

impl Limited {
    pub(super) fn new(reader: Reader, ansi: bool, limits: Arc<Mutex<Limits>>) -> Self {
        let format = tracing_subscriber::fmt::format();
        Self {
            format: format.with_target(false).with_ansi(ansi).with_timer(reader),
            reader,
            limits,
        }
    }
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

//! `capture`: frames that are not forwarded, and some of those that are, as pcapng.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mplsxdp_common::abi::Reason;

use super::args::CaptureArgs;
use super::pcapng::{self, Pcapng};
use super::{Failure, Session};
use crate::control::api::{self, CapturedFrame, Frames};

/// The word for no exception at all.
const NONE: &str = "none";

pub fn capture(args: &CaptureArgs, session: &mut Session) -> Result<(), Failure> {
    let chosen = chosen(args)?;
    let to_stdout = args.write == Path::new("-");
    if to_stdout && io::IsTerminal::is_terminal(&io::stdout()) {
        return Err(Failure::Usage(
            "standard output is a terminal: pass the frames on, such as with `-w - | tshark -r -`, or name a file"
                .into(),
        ));
    }
    let (file, watched): (Box<dyn Write>, OwnedFd) = if to_stdout {
        (
            Box::new(io::stdout().lock()),
            io::stdout().as_fd().try_clone_to_owned()?,
        )
    } else {
        let name = args.write.display();
        let create = File::create(&args.write);
        let file = create.map_err(|error| Failure::Refused(format!("cannot write {name}: {error}")))?;
        let watched = file.as_fd().try_clone_to_owned()?;
        (Box::new(file), watched)
    };
    let client = session.client()?;
    let mut writer = Writer {
        pcapng: Pcapng::new(BufWriter::new(file), concat!("mplsxdp ", env!("CARGO_PKG_VERSION")))?,
        left: args.count,
        written: 0,
        lost: 0,
        noted: 0,
        has_begun: false,
    };
    writer.pcapng.flush()?;
    let ended = client.capture(&chosen, watched.as_fd(), |frames| writer.write(&frames));
    match ended {
        Ok(()) | Err(Failure::NobodyReads) if writer.left == Some(0) => writer.report(),
        Ok(()) => Err(Failure::NobodyReads),
        Err(failure) => {
            writer.report()?;
            Err(failure)
        }
    }
}

fn chosen(args: &CaptureArgs) -> Result<api::Capture, Failure> {
    let is_none = args.reason.iter().any(|reason| reason == NONE);
    if is_none && args.reason.len() > 1 {
        return Err(Failure::Usage(format!("`--reason {NONE}` goes with no other reason")));
    }
    if is_none && args.sample.is_none() {
        return Err(Failure::Usage(format!(
            "`--reason {NONE}` without `--sample` captures nothing: add `--sample N`"
        )));
    }
    for reason in args.reason.iter().filter(|&reason| reason != NONE) {
        if !Reason::ALL.iter().any(|known| known.name() == reason) {
            let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
            return Err(Failure::Usage(format!(
                "`{reason}` is not a reason; reasons: {}, {NONE}",
                known.join(", ")
            )));
        }
    }
    let reasons = match (is_none, args.reason.is_empty()) {
        (true, _) => Some(Vec::new()),
        (false, true) => None,
        (false, false) => Some(args.reason.clone()),
    };
    Ok(api::Capture {
        reasons,
        ifname: args.iface.clone(),
        label: args.label,
        sample: args.sample,
    })
}

struct Writer<W> {
    pcapng: Pcapng<W>,
    /// How many frames are still wanted.
    left: Option<u64>,
    written: u64,
    lost: u64,
    /// How many of them the capture mentions.
    noted: u64,
    /// All ports capture, which the first reply says.
    has_begun: bool,
}

impl<W: Write> Writer<W> {
    /// Fails when there are as many frames as are wanted.
    fn write(&mut self, frames: &Frames) -> Result<(), Failure> {
        if !std::mem::replace(&mut self.has_begun, true) {
            // If standard error is closed, that cannot be said.
            let _ = writeln!(io::stderr(), "mplsxdp: capturing; Ctrl-C ends it");
        }
        self.lost += frames.lost.unwrap_or(0);
        if self.lost > self.noted
            && let Some(frame) = frames.frames.first()
        {
            // At which ports they were is not known.
            self.pcapng.dropped(time_of(frame), &frame.ifname, self.lost)?;
            self.noted = self.lost;
        }
        for frame in &frames.frames {
            if self.left == Some(0) {
                break;
            }
            self.left = self.left.map(|left| left - 1);
            self.written += 1;
            let bytes = STANDARD.decode(&*frame.data);
            let bytes = bytes.map_err(|error| Failure::Refused(format!("a frame cannot be read: {error}")))?;
            let direction = match frame.direction {
                api::Direction::In => pcapng::Direction::In,
                api::Direction::Out => pcapng::Direction::Out,
            };
            let length = u32::try_from(frame.length).unwrap_or(u32::MAX);
            let comment = comment(frame);
            self.pcapng
                .frame(time_of(frame), &frame.ifname, direction, length, &bytes, &comment)?;
        }
        self.pcapng.flush()?;
        match self.left {
            Some(0) => Err(Failure::NobodyReads),
            _ => Ok(()),
        }
    }

    /// On standard error, as tcpdump does.
    fn report(&self) -> Result<(), Failure> {
        let _ = writeln!(
            io::stderr(),
            "mplsxdp: {} frames captured, {} lost",
            self.written,
            self.lost
        );
        Ok(())
    }
}

fn time_of(frame: &CapturedFrame) -> SystemTime {
    humantime::parse_rfc3339(&frame.time).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What happened to a frame, for people.
fn comment(frame: &CapturedFrame) -> String {
    let CapturedFrame {
        verdict, reason, other, ..
    } = frame;
    let description = |name: &str| {
        let reason = Reason::ALL.iter().find(|reason| reason.name() == name);
        reason.map(|reason| reason.description()).unwrap_or_default()
    };
    match (reason, other, frame.direction) {
        (Some(reason), ..) => format!("{verdict}: {reason}. {}", description(reason)),
        (None, Some(other), api::Direction::In) => format!("{verdict} to {other}"),
        (None, Some(other), api::Direction::Out) => format!("{verdict} from {other}"),
        (None, None, _) => verdict.clone(),
    }
}

//! `Capture`: sends a client frames until it hangs up.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tokio::time::sleep;

use super::connection::{Connection, Failure};
use super::encode;
use crate::control::api::{self, Error, Request};
use crate::control::call::Flags;
use crate::control::frames::{self, Frame, Place, Wanted};

/// A reply that is as long as this is not made longer. In base64, that is a third more.
const REPLY_BYTES: usize = 256 << 10;

/// How long lost frames may stay unmentioned if no other follows.
const LOST_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Continued<'a> {
    parameters: &'a api::Frames,
    continues: bool,
}

impl Connection {
    /// Ends with an error in any case.
    pub(super) async fn capture(&mut self, wanted: Wanted, flags: Flags) -> Result<Vec<u8>, Failure> {
        if !flags.more {
            return Err(Error::ExpectedMore {}.into());
        }
        let (tap, mut tapped) = frames::tap(wanted);
        self.ask(Request::Capture { tap }).await?;
        // The client knows now that all ports capture.
        self.send_frames(api::Frames::default()).await?;
        loop {
            self.is_waiting();
            let next = tokio::select! {
                hung_up = super::monitor::until_hung_up(&mut self.stream) => return Err(hung_up),
                () = self.shutdown.cancelled() => return Err(Error::ShuttingDown {}.into()),
                next = tapped.frames.recv() => Some(next.ok_or(Error::ShuttingDown {})?),
                () = sleep(LOST_INTERVAL) => None,
            };
            let (mut frames, mut bytes) = (Vec::new(), 0);
            let mut add = |frame: &Frame| {
                bytes += frame.bytes.len();
                frames.push(captured(frame));
                bytes < REPLY_BYTES
            };
            let mut goes_on = next.is_none_or(|frame| add(&frame));
            while goes_on && let Ok(frame) = tapped.frames.try_recv() {
                goes_on = add(&frame);
            }
            let lost = Some(tapped.take_lost()).filter(|&lost| lost > 0);
            if lost.is_some() || !frames.is_empty() {
                self.send_frames(api::Frames { lost, frames }).await?;
            }
        }
    }

    async fn send_frames(&mut self, frames: api::Frames) -> Result<(), Failure> {
        let reply = encode(&Continued {
            parameters: &frames,
            continues: true,
        })?;
        let time = self.limits.idle;
        Ok(self.send_within(time, &reply).await?)
    }
}

fn captured(frame: &Frame) -> api::CapturedFrame {
    let (direction, verdict, reason, other) = match &frame.place {
        Place::In { to } => (api::Direction::In, "forwarded", None, Some(to.to_string())),
        Place::Out { from } => (api::Direction::Out, "forwarded", None, Some(from.to_string())),
        Place::Exception(reason, verdict) => (api::Direction::In, verdict.name(), Some(reason.name().to_owned()), None),
    };
    api::CapturedFrame {
        time: time(frame.time),
        ifname: frame.port.to_string(),
        direction,
        verdict: verdict.to_owned(),
        other,
        reason,
        length: frame.length.into(),
        data: STANDARD.encode(&frame.bytes),
    }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mplsxdp_common::abi::Reason;

    use super::*;
    use crate::control::frames::Verdict;

    #[test]
    fn a_frame_is_described_with_what_happened_to_it() {
        let frame = |place| Frame {
            time: SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789),
            place,
            port: "eth1".into(),
            length: 1500,
            bytes: [1, 2, 3, 4].into(),
        };
        let shown = captured(&frame(Place::Exception(Reason::NoRoute, Verdict::Punted)));
        assert_eq!(shown.time, "2027-01-15T08:00:00.123456789Z");
        assert_eq!(
            (&*shown.verdict, shown.reason.as_deref()),
            ("punted", Some(Reason::NoRoute.name()))
        );
        assert_eq!((&*shown.ifname, shown.length, &*shown.data), ("eth1", 1500, "AQIDBA=="));
        let shown = captured(&frame(Place::Out { from: "eth2".into() }));
        assert_eq!(
            (shown.direction, shown.other.as_deref()),
            (api::Direction::Out, Some("eth2"))
        );
        let shown = captured(&frame(Place::In { to: "eth2".into() }));
        assert_eq!((shown.direction, &*shown.verdict), (api::Direction::In, "forwarded"));
    }
}

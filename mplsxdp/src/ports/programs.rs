//! XDP programs that another process takes off the ports or replaces. The daemon looks at the links; this only decides.

use std::time::{Duration, Instant};

use super::waiting::Retry;
use crate::dataplane::port::Interference;
use crate::neighbour::LinkInfo;

/// A program that stays for this long was put back for good.
const CALM: Duration = Duration::from_secs(60);

/// A port whose program is not in place, or is again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub number: u16,
    /// The link that was checked.
    pub link_id: u32,
    /// `None`: the program was lost and is in place.
    pub interference: Option<Interference>,
}

/// The state of a port's program.
#[derive(Debug)]
pub struct ProgramState {
    /// The ids of the bpf_link and of its program.
    pub link_id: u32,
    pub program_id: u32,
    /// What another process has done, until it is undone.
    pub found: Option<Interference>,
    /// How often it was put back.
    pub put_back: u64,
    /// It is off, and was not put back yet.
    pub lost: Option<Lost>,
    /// It is put back even without `--guard`: nobody has taken it off, this process has failed to attach it.
    pub wanted: bool,
    /// The last time that it was put back, and how long it stays off next time.
    last: Option<(Instant, Retry)>,
}

/// A program that is off its interface.
#[derive(Debug)]
pub struct Lost {
    pub reason: String,
    /// The interface had another program at the last attempt.
    pub held: bool,
    pub retry: Retry,
}

impl ProgramState {
    pub fn attached(link_id: u32, program_id: u32) -> Self {
        Self {
            link_id,
            program_id,
            found: None,
            put_back: 0,
            lost: None,
            wanted: false,
            last: None,
        }
    }

    /// Whether a finding is about an earlier link or program.
    pub fn is_outdated(&self, found: &Finding) -> bool {
        let is_own =
            matches!(found.interference, Some(Interference::Replaced { other, .. }) if other == self.program_id);
        self.link_id != found.link_id || is_own
    }

    /// The interface was reported: another program may have left it.
    pub fn follow(&mut self, link: &LinkInfo, now: Instant) {
        if let Some(lost) = &mut self.lost
            && lost.held
            && link.xdp.is_none()
        {
            lost.held = false;
            lost.retry = Retry::at_once(now);
        }
    }

    /// Whether to put the program back now, or to try again.
    pub fn is_due(&self, now: Instant) -> bool {
        self.lost.as_ref().is_none_or(|lost| lost.retry.is_due(now))
    }

    /// How long a program stays off that was put back a short time ago: two processes must not fight over a port at full
    /// speed.
    pub fn pause(&mut self, now: Instant) -> Option<Duration> {
        self.last
            .take_if(|(last, _)| now.saturating_duration_since(*last) > CALM);
        self.last.and_then(|(_, retry)| retry.left(now))
    }

    /// Another process has taken the program off again.
    pub fn pauses(&mut self, reason: String, pause: Duration, now: Instant) {
        let retry = Retry::at(now + pause);
        let held = false;
        self.lost = Some(Lost { reason, held, retry });
    }

    /// The program is back. Returns whether it was missing for a while.
    pub fn was_put_back(&mut self, link_id: u32, program_id: u32, now: Instant) -> bool {
        (self.link_id, self.program_id) = (link_id, program_id);
        self.put_back += 1;
        self.wanted = false;
        let (_, mut retry) = self.last.unwrap_or((now, Retry::default()));
        retry.failed(now);
        self.last = Some((now, retry));
        self.lost.take().is_some()
    }

    /// An attempt to put the program back has failed. Returns whether the reason is new.
    pub fn failed(&mut self, reason: String, held: bool, now: Instant) -> bool {
        let (is_news, mut retry) = match self.lost.take() {
            Some(lost) => (lost.reason != reason, lost.retry),
            None => (true, Retry::default()),
        };
        retry.failed(now);
        self.lost = Some(Lost { reason, held, retry });
        is_news
    }
}

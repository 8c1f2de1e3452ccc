//! XDP programs that another process takes off the ports or replaces. The daemon looks at the links; this only decides.

use std::time::Instant;

use super::waiting::Retry;
use crate::dataplane::port::Interference;
use crate::neighbour::LinkInfo;

/// A port whose program is not in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub number: u16,
    /// The link that was checked.
    pub link_id: u32,
    pub interference: Interference,
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
    /// It is off, and could not be put back yet.
    pub lost: Option<Lost>,
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
        }
    }

    /// Whether a finding is about an earlier link or program.
    pub fn is_outdated(&self, found: &Finding) -> bool {
        let is_own = matches!(found.interference, Interference::Replaced { other, .. } if other == self.program_id);
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

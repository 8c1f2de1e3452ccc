//! XDP programs that another process takes off the ports, or replaces. Pure: the daemon looks at the links.

use std::time::Instant;

use super::waiting::Retry;
use crate::dataplane::port::Interference;
use crate::neighbour::LinkInfo;

/// A port whose program is not where it was put.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub number: u16,
    /// The link that was looked at.
    pub link_id: u32,
    pub interference: Interference,
}

/// What is known of the program of a port.
#[derive(Debug)]
pub struct ProgramState {
    /// Of the bpf_link, and of the program on it.
    pub link_id: u32,
    pub program_id: u32,
    /// What another process has done, while it is undone.
    pub found: Option<Interference>,
    /// How often it was put back.
    pub put_back: u64,
    /// It is off, and could not be put back so far.
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

    /// Whether a finding is about a link, or a program, of before.
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

    /// Whether it is time to put the program back, or to try again.
    pub fn is_due(&self, now: Instant) -> bool {
        self.lost.as_ref().is_none_or(|lost| lost.retry.is_due(now))
    }

    /// An attempt to put the program back failed. Returns whether the reason is news.
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

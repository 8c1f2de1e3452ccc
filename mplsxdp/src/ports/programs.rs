//! XDP programs that another process takes off the ports, or replaces: noticed within half a second, and put back.
//!
//! The kernel does not report that a bpf_link is detached. So the links are looked at again and again, on a thread of its own:
//! the kernel answers under its RTNL lock, for which it may have to wait.

use std::time::Instant;

use tokio::task::JoinHandle;
use tracing::debug;

use super::waiting::Retry;
use crate::dataplane::bpf;
use crate::dataplane::port::{Interference, Probe};
use crate::neighbour::LinkInfo;

/// From one look at the links to the next.
const INTERVAL: std::time::Duration = std::time::Duration::from_millis(500);

/// A port whose program is not where it was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    pub number: u16,
    /// The link that was looked at.
    pub link_id: u32,
    pub interference: Interference,
}

/// Looks at the links again and again.
pub struct Watch {
    due: Instant,
    /// A look that is under way.
    looking: Option<JoinHandle<Vec<Finding>>>,
}

impl Watch {
    pub fn new(now: Instant) -> Self {
        Self {
            due: now + INTERVAL,
            looking: None,
        }
    }

    /// The links are looked at next at `now`.
    pub fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// Waits until some program is not where it was put, at each look anew. May be dropped and called anew at any time.
    pub async fn findings(&mut self, probes: impl Fn() -> Vec<(u16, Probe)>) -> Vec<Finding> {
        loop {
            if let Some(looking) = &mut self.looking {
                let found = looking.await;
                self.looking = None;
                // What failed is looked at again.
                let found = found.unwrap_or_default();
                if !found.is_empty() {
                    return found;
                }
            }
            tokio::time::sleep_until(self.due.into()).await;
            self.due = Instant::now() + INTERVAL;
            let probes = probes();
            self.looking = Some(tokio::task::spawn_blocking(move || look(&probes)));
        }
    }
}

fn look(probes: &[(u16, Probe)]) -> Vec<Finding> {
    let interference = |probe: &Probe| {
        probe.interference().unwrap_or_else(|error| {
            debug!(link_id = probe.link_id, %error, "cannot look at a link");
            None
        })
    };
    let found = probes.iter().filter_map(|(number, probe)| {
        Some(Finding {
            number: *number,
            link_id: probe.link_id,
            interference: interference(probe)?,
        })
    });
    found.collect()
}

/// What is known of the program of a port.
#[derive(Default)]
pub struct ProgramState {
    /// How often it was put back.
    pub put_back: u64,
    /// It is off, and could not be put back so far.
    pub lost: Option<Lost>,
}

/// A program that is off its interface.
pub struct Lost {
    pub reason: String,
    /// The interface had another program at the last attempt.
    pub held: bool,
    pub retry: Retry,
}

impl ProgramState {
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

/// A program as messages name it.
pub fn describe(program_id: u32) -> String {
    let name = bpf::program_name(program_id).ok().filter(|name| !name.is_empty());
    match name {
        Some(name) => format!("{program_id} ({name})"),
        None => program_id.to_string(),
    }
}

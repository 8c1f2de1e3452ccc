//! Checks periodically that the programs are in place: the kernel does not report that a bpf_link is detached. A thread
//! does so, because the kernel answers under its RTNL lock, for which it may have to wait.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::debug;

use crate::dataplane::port::Probe;
use crate::ports::programs::Finding;

/// The time between two checks of the links.
const INTERVAL: Duration = Duration::from_millis(500);

/// Checks the links periodically.
pub struct Watch {
    due: Instant,
    /// A check that is under way.
    looking: Option<JoinHandle<Vec<Finding>>>,
}

impl Watch {
    pub fn new(now: Instant) -> Self {
        Self {
            due: now + INTERVAL,
            looking: None,
        }
    }

    /// Check the links next at `now`.
    pub fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// Waits until a check finds a program that is not in place. Can be dropped and called again at any time.
    pub async fn findings(&mut self, probes: impl Fn() -> Vec<(u16, Probe)>) -> Vec<Finding> {
        loop {
            if let Some(looking) = &mut self.looking {
                let found = looking.await;
                self.looking = None;
                // After a failure, check again.
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

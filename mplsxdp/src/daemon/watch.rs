//! Looks again and again at what the kernel does not report: whether the programs are in place (a bpf_link can be
//! detached), and the settings of the TTL. A thread does so, because the kernel may answer under its RTNL lock, for which
//! the thread may have to wait.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::debug;

use super::audit;
use crate::dataplane::port::{Found, Probe};
use crate::feeds::TtlDefaults;
use crate::ports::programs::Finding;

/// The time between two checks of the links.
const LINKS: Duration = Duration::from_millis(500);
/// The time between two readings of the settings of the TTL. inotify is no substitute: it misses writes through another
/// mount of procfs, and has nothing to watch before the kernel's MPLS module is loaded.
const TTL: Duration = Duration::from_secs(2);

/// Does the same thing again and again, on a thread.
struct Repeated<T> {
    interval: Duration,
    due: Instant,
    under_way: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Repeated<T> {
    fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            due: now + interval,
            under_way: None,
        }
    }

    /// Waits for the next result; `None`: there is none this time. Can be dropped and called again at any time.
    async fn next<F: FnOnce() -> T + Send + 'static>(&mut self, prepare: impl FnOnce() -> F) -> Option<T> {
        if self.under_way.is_none() {
            tokio::time::sleep_until(self.due.into()).await;
            self.due = Instant::now() + self.interval;
        }
        let under_way = self
            .under_way
            .get_or_insert_with(|| tokio::task::spawn_blocking(prepare()));
        let result = under_way.await;
        self.under_way = None;
        result.ok()
    }
}

/// What a check of the links has found.
#[derive(Default)]
pub struct Findings {
    pub programs: Vec<Finding>,
    /// Ports and their links whose pins are gone.
    pub unpinned: Vec<(u16, u32)>,
}

/// Checks the links periodically.
pub struct Watch(Repeated<Findings>);

impl Watch {
    pub fn new(now: Instant) -> Self {
        Self(Repeated::new(LINKS, now))
    }

    /// Check the links next at `now`.
    pub fn hurry(&mut self, now: Instant) {
        self.0.due = self.0.due.min(now);
    }

    /// Waits until a check finds something. Can be dropped and called again at any time.
    pub async fn findings(&mut self, probes: impl Fn() -> Vec<(u16, Probe)>) -> Findings {
        loop {
            let look = || {
                let probes = probes();
                move || look(&probes)
            };
            let is_something = |found: &Findings| !found.programs.is_empty() || !found.unpinned.is_empty();
            if let Some(found) = self.0.next(look).await.filter(is_something) {
                return found;
            }
        }
    }
}

fn look(probes: &[(u16, Probe)]) -> Findings {
    let mut findings = Findings::default();
    for (number, probe) in probes {
        let (number, link_id) = (*number, probe.link_id);
        let found = probe.look().unwrap_or_else(|error| {
            debug!(link_id, %error, "cannot look at a link");
            None
        });
        let interference = match found {
            None => continue,
            Some(Found::Unpinned) => {
                findings.unpinned.push((number, link_id));
                continue;
            }
            Some(Found::InPlace) => None,
            Some(Found::Interference(interference)) => Some(interference),
        };
        findings.programs.push(Finding {
            number,
            link_id,
            interference,
        });
    }
    findings
}

/// Reads the kernel's settings of the TTL periodically.
pub struct TtlSettings(Repeated<TtlDefaults>);

impl TtlSettings {
    pub fn new(now: Instant) -> Self {
        Self(Repeated::new(TTL, now))
    }

    /// Waits for the next reading. Can be dropped and called again at any time.
    pub async fn next(&mut self) -> TtlDefaults {
        loop {
            if let Some(ttl) = self.0.next(|| audit::ttl_defaults).await {
                return ttl;
            }
        }
    }
}

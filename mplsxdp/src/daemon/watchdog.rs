//! The service manager's watchdog (`WatchdogSec=` of systemd.exec(5)): it ends a process that does not report in time. Only
//! the event loop reports, between two inputs, so a loop that hangs is noticed whatever the other threads do.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

use super::sleep_until;

pub struct Watchdog {
    /// Half of the time that the service manager waits; `None` if it does not watch this process.
    interval: Option<Duration>,
    due: Option<Instant>,
}

impl Watchdog {
    pub fn new(now: Instant) -> Self {
        let interval = sd_notify::watchdog_enabled().map(|time| time / 2);
        let due = interval.map(|_| now);
        Self { interval, due }
    }

    /// Waits until it is time to report. Can be dropped and called again at any time.
    pub async fn due(&self) {
        sleep_until(self.due).await;
    }

    /// Reports if it is time to.
    pub fn report(&mut self, now: Instant) {
        if let Some(interval) = self.interval
            && self.due.is_none_or(|due| now >= due)
        {
            self.due = Some(now + interval);
            if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                warn!(%error, "cannot report to the service manager's watchdog");
            }
        }
    }
}

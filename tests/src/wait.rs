//! Waiting for conditions.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mplsxdp::slowpath::xsk::{XskError, XskPort};

/// The time between two attempts.
const INTERVAL: Duration = Duration::from_millis(10);

/// How many times slower than an ordinary machine this one is, a whole number. `cargo xtask guest` sets it in guests.
const SLOWNESS_VARIABLE: &str = "MPLSXDP_SLOWNESS";
static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    let value = std::env::var(SLOWNESS_VARIABLE).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(1)
});

/// A time limit for an ordinary machine, as long as this machine needs.
pub fn limit(ordinary: Duration) -> Duration {
    ordinary * *SLOWNESS
}

/// Calls `look` until it returns something; `what` is for the error if there is nothing within the [`limit`] of
/// `ordinary`.
pub fn until<T>(what: &str, ordinary: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = limit(ordinary);
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(INTERVAL);
    }
}

/// Opens the AF_XDP sockets of an interface. If it had others a moment ago, waits until the kernel has freed their
/// queues.
pub fn open_sockets(interface: &str, open: impl Fn() -> Result<XskPort, XskError>) -> Result<XskPort> {
    /// The kernel frees them after it has handled the interfaces that other tests add and remove.
    const PATIENCE: Duration = Duration::from_secs(20);
    until(
        &format!("the queues of {interface} are free"),
        PATIENCE,
        || match open() {
            Err(error) if error.is_busy() => Ok(None),
            opened => Ok(Some(opened?)),
        },
    )
}

//! Waiting for conditions.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until there is something; `what` is for the error when there is nothing within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
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

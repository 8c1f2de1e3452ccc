//! The event loop that ties the wings together. It decides nothing itself.

use crate::config::Config;

/// Loads, serves until told to stop, and unloads.
pub async fn run(_config: Config) -> anyhow::Result<()> {
    Ok(())
}

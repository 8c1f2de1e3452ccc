//! Reports of a switch's counters. They are read by separate handles, on another thread than the one that repairs
//! links: the switch says which counters are needed, and their values when they began to count.

pub mod busiest;
pub mod metrics;
pub mod notation;
pub mod reasons;
pub mod routes;
pub mod stats;

use mplsxdp_common::abi::Counter;
use tracing::warn;

/// A counter that cannot be read is shown as zero; the rest is still worth showing.
pub(crate) fn unreadable(error: impl std::fmt::Display) -> Counter {
    warn!(%error, "a counter reads as zero");
    Counter::default()
}

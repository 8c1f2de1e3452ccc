//! Metrics for Prometheus: what an instance does, as OpenMetrics or in Prometheus' text format. Nothing of it is done by the
//! event loop, which answers the same requests here as those of clients, and counts how long its inputs hold it.

pub mod address;
mod families;
pub mod listener;
mod process;
pub mod server;
mod snapshot;
pub mod times;

pub use families::Format;
pub use snapshot::Source;

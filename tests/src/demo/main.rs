//! `cargo xtask demo`: mplsxdp at work in network namespaces.

mod forwarding;
mod own_traffic;
mod show;
mod traceroute;

use anyhow::Result;
use mplsxdp_tests::{Lab, tidy};

fn main() -> Result<()> {
    tidy::on_signals()?;
    let lab = Lab::new()?;
    forwarding::show(&lab)?;
    own_traffic::show(&lab)?;
    traceroute::show(&lab)?;
    tidy::ensure_nothing_left()
}

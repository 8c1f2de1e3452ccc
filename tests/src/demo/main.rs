//! `cargo xtask demo`: mplsxdp at work in network namespaces.

mod forwarding;
mod own_traffic;
mod patch;
mod show;
mod traceroute;

use anyhow::{Result, bail};
use mplsxdp_tests::{Lab, tidy};

fn main() -> Result<()> {
    tidy::on_signals()?;
    let lab = Lab::new()?;
    match std::env::args().nth(1).as_deref() {
        None => {
            forwarding::show(&lab)?;
            own_traffic::show(&lab)?;
            traceroute::show(&lab)?;
        }
        Some("patch") => patch::show(&lab)?,
        Some(other) => bail!("there is no part `{other}`, only `patch`"),
    }
    tidy::ensure_nothing_left()
}

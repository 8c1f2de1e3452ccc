//! What a switch has done since it was loaded.

use std::fmt::Display;

use mplsxdp_common::abi::Counter;

use super::{reasons, unreadable};
use crate::control::api;
use crate::lfib::counters::Total;

/// The reasons of these ports, by number and name: those above zero, or `all`.
pub fn reasons<E: Display>(
    ports: &[(u16, String)],
    all: bool,
    mut read: impl FnMut(u32, u32) -> Result<Vec<Counter>, E>,
) -> Vec<api::ReasonCounter> {
    let reasons = ports
        .iter()
        .flat_map(|(number, name)| reasons::of_port(*number, name, all, &mut read));
    let mut reasons: Vec<_> = reasons.collect();
    reasons.sort_by(|one, other| one.port.cmp(&other.port));
    reasons
}

/// The frames that all routes have forwarded, including deleted routes.
pub fn forwarded<E: Display>(total: &Total, read: impl FnMut(u32, u32) -> Result<Vec<Counter>, E>) -> api::Counter {
    let forwarded = total.finish(read).unwrap_or_else(unreadable);
    api::Counter {
        packets: forwarded.packets,
        bytes: forwarded.bytes,
    }
}

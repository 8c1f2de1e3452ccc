//! The kernel's counters of labelled frames: RTM_GETSTATS, with `ip stats`.

use anyhow::{Context as _, Result};

use crate::net::Node;
use crate::show;

/// Labelled packets that the kernel of a router has received and sent on some interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MplsPackets {
    pub received: u64,
    pub sent: u64,
}

pub fn mpls_packets(node: &Node, interfaces: &[&str]) -> Result<MplsPackets> {
    let mut sum = MplsPackets::default();
    for interface in interfaces {
        let shown = node.run(&format!("ip -j stats show dev {interface} group afstats subgroup mpls"))?;
        let read: serde_json::Value = serde_json::from_str(&shown).with_context(|| shown.clone())?;
        let count = |direction: &str| {
            let packets = read[0]["mpls_stats"][direction]["packets"].as_u64();
            packets.with_context(|| format!("no MPLS counters of {interface}: {shown}"))
        };
        sum.received += count("rx")?;
        sum.sent += count("tx")?;
    }
    Ok(sum)
}

/// The same, as shown to people.
pub fn show_mpls_packets(node: &Node, interfaces: &[&str]) -> Result<()> {
    for interface in interfaces {
        show::shell(
            node,
            &format!("ip stats show dev {interface} group afstats subgroup mpls"),
        )?;
    }
    Ok(())
}

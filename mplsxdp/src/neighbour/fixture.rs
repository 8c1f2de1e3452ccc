//! Interfaces for tests.

use mplsxdp_common::wire::Mac;

use super::LinkInfo;

/// An Ethernet interface that is up, with the MAC address 02:00:00:00:00:IFINDEX.
pub fn link(ifindex: u32, name: &str) -> LinkInfo {
    LinkInfo {
        mac: Some(Mac([2, 0, 0, 0, 0, ifindex as u8])),
        mtu: 1500,
        up: true,
        running: true,
        ..LinkInfo::new(ifindex, name)
    }
}

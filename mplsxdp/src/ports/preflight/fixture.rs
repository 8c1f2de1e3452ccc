//! What is found out about a good interface, for tests.

use super::{Capabilities, Facts};
use crate::kernel::ethtool::VlanOffloads;
use crate::kernel::netdev::XdpFeatures;
use crate::neighbour::fixture::link;

/// NETDEV_XDP_ACT_BASIC, REDIRECT, NDO_XMIT and NDO_XMIT_SG.
pub const ALL: XdpFeatures = XdpFeatures(0x47);
/// NETDEV_XDP_ACT_BASIC and REDIRECT.
pub const NO_XMIT: XdpFeatures = XdpFeatures(0x3);

/// A good NIC, and all capabilities.
pub fn nic() -> Facts {
    Facts {
        name: "eth1".into(),
        available: Vec::new(),
        link: Some(link(11, "eth1")),
        program_name: None,
        peer: None,
        far_end: None,
        master: None,
        members: Vec::new(),
        merging: Vec::new(),
        features: Some(ALL),
        far_end_takes_redirects: None,
        driver: Some("ixgbe".into()),
        guest_checksum: false,
        vlan: Some(VlanOffloads::default()),
        peer_sends: None,
        capabilities: Capabilities(!0),
        page_size_bytes: 4096,
    }
}

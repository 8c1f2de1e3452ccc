//! How large the packets are that XDP can send by an interface, and MPLS MTUs that are larger.

use std::sync::Arc;

use mplsxdp_common::abi::VlanTags;
use mplsxdp_common::wire::VLAN_HLEN;

use super::PortError;
use crate::dataplane::mpls_mtu::MplsMtu;
use crate::neighbour::LinkInfo;

/// The largest packet that XDP can send by `link` with `tags`: the kernel silently drops redirected frames that are
/// longer than the Ethernet header and the MTU by more than one VLAN tag (`xdp_ok_fwd_dev`).
pub fn largest_redirected(link: &LinkInfo, tags: VlanTags) -> u32 {
    let longest = link.mtu.saturating_add(VLAN_HLEN as u32);
    longest.saturating_sub(tags.len_bytes() as u32)
}

/// Checks that XDP can send packets of an MPLS MTU by port `name`, whose packets may have `largest` bytes.
pub fn check(name: impl Into<Arc<str>>, MplsMtu(set): MplsMtu, largest: u32) -> Result<(), PortError> {
    match set.map(|set| (set, u32::from(set).saturating_sub(largest))) {
        Some((set, missing @ 1..)) => Err(PortError::MplsMtu {
            name: name.into(),
            set,
            largest,
            missing,
        }),
        Some((_, 0)) | None => Ok(()),
    }
}

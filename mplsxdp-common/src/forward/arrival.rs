//! Where a frame arrived.

use super::frame::{Frame, load_u16};
use super::{MAX_L2_LEN, PortView};
use crate::abi::SubInterfaceKey;
use crate::wire::{ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, VLAN_HLEN, VLAN_VID_MASK};

/// The number of the port or sub-interface at which a frame arrived; the port's number if its tags belong to no
/// sub-interface.
#[inline(always)]
pub fn arrival_port<F: Frame, T: PortView>(frame: &F, tables: &T) -> u32 {
    let arrival = Arrival::of(frame, tables);
    arrival
        .and_then(|arrival| arrival.port)
        .unwrap_or(tables.settings().port())
}

/// Where a frame arrived, and what its Ethernet header says.
#[derive(Clone, Copy)]
pub struct Arrival {
    /// The number of the port, or of the sub-interface that the frame's tags belong to. `None` if they belong to none.
    pub port: Option<u32>,
    /// The EtherType after the tags.
    pub ethertype: u16,
    /// Length of the Ethernet header with its tags.
    pub l2_len: usize,
    /// The VLAN identifier of the first tag that has one; 0: none has.
    pub outer_vid: u16,
}

impl Arrival {
    /// Reads the Ethernet header of a frame as it arrived, with up to two tags (RFC 3032 section 5). `None` if the
    /// frame is shorter than its Ethernet header.
    #[inline(always)]
    pub fn of<F: Frame, T: PortView>(frame: &F, tables: &T) -> Option<Self> {
        let port = tables.settings().port();
        let untagged = |ethertype| Self {
            port: Some(port),
            ethertype,
            l2_len: ETH_HLEN,
            outer_vid: 0,
        };
        let outer = load_u16(frame, ETH_HLEN - 2)?;
        if !is_tag(outer) {
            return Some(untagged(outer));
        }
        let outer_vid = load_u16(frame, ETH_HLEN)? & VLAN_VID_MASK;
        let inner = load_u16(frame, ETH_HLEN + 2)?;
        let (inner_vid, ethertype, l2_len) = if is_tag(inner) {
            let inner_vid = load_u16(frame, ETH_HLEN + VLAN_HLEN)? & VLAN_VID_MASK;
            (inner_vid, load_u16(frame, ETH_HLEN + VLAN_HLEN + 2)?, MAX_L2_LEN)
        } else {
            (0, inner, ETH_HLEN + VLAN_HLEN)
        };
        // IEEE 802.1Q section 6.9: VID 0 carries only a priority, not a VLAN.
        let (outer_vid, inner_vid) = if outer_vid == 0 {
            (inner_vid, 0)
        } else {
            (outer_vid, inner_vid)
        };
        let port = if outer_vid == 0 {
            Some(port)
        } else {
            tables.sub_interface(SubInterfaceKey::new(port, outer_vid, inner_vid))
        };
        Some(Self {
            port,
            ethertype,
            l2_len,
            outer_vid,
        })
    }
}

pub(crate) const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD)
}

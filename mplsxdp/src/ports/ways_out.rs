//! How frames leave by each interface that the kernel may route packets of a VRF to.

use std::collections::BTreeMap;

use mplsxdp_common::abi::CrossConnect;
use mplsxdp_common::wire::{ETH_HLEN, VLAN_HLEN};
use tracing::warn;

use super::sub_interface::Tags;
use super::{Port, Ports, Role};
use crate::dataplane::Tables;
use crate::neighbour::LinkInfo;

impl Ports {
    /// How frames leave by a port.
    pub(super) fn way_out_by(&self, port: &Port) -> CrossConnect {
        let Some(program_port) = self.program_port(port) else {
            return CrossConnect::NOWHERE;
        };
        // The kernel redirects no longer frames (xdp_ok_fwd_dev).
        let longest = program_port.mtu.saturating_add((ETH_HLEN + VLAN_HLEN) as u32);
        let tags = port.tags().into_iter().flat_map(Tags::iter);
        let tags: Vec<_> = tags.map(|vlan| (vlan.tpid, vlan.vid)).collect();
        CrossConnect::new(port.number(), longest.try_into().unwrap_or(u16::MAX))
            .with_tags(&tags)
            .with_one_buffer(!self.sends_multi_buffer(port.number()))
    }

    /// Publishes how frames leave by the kernel's interfaces that are ports. Ports have changed.
    pub(super) fn publish_ways_out(&mut self, tables: &mut impl Tables) {
        let sends = |port: &&Port| port.is_usable() && port.role() != Role::Local && !port.is_cross_connected();
        let ports = self.ports.iter().filter(sends);
        let wanted: BTreeMap<u32, CrossConnect> = ports
            // The kernel routes nothing to an interface that it does not have.
            .filter(|port| port.ifindex() < LinkInfo::FIRST_VIRTUAL)
            .map(|port| (port.ifindex(), self.way_out_by(port)))
            .collect();
        let gone: Vec<u32> = self
            .ways_out
            .keys()
            .filter(|ifindex| !wanted.contains_key(ifindex))
            .copied()
            .collect();
        for ifindex in gone {
            match tables.remove_way_out(ifindex) {
                Ok(()) => drop(self.ways_out.remove(&ifindex)),
                Err(error) => warn!(%error, "cannot forget a way out of VRFs"),
            }
        }
        for (ifindex, way_out) in wanted {
            if self.ways_out.get(&ifindex) == Some(&way_out) {
                continue;
            }
            match tables.set_way_out(ifindex, way_out) {
                Ok(()) => drop(self.ways_out.insert(ifindex, way_out)),
                Err(error) => warn!(%error, "cannot publish a way out of VRFs: its packets are left to the kernel"),
            }
        }
    }
}

//! Attachment circuits: ports whose frames all go into a pseudowire.

use std::collections::BTreeMap;
use std::sync::Arc;

use mplsxdp_common::abi::CrossConnect;

use super::cross_connect::CrossConnectError;
use super::{Port, Ports, Role};
use crate::dataplane::Tables;
use crate::lfib::PortFacts;
use crate::route::PortName;

/// The ports that routes make attachment circuits, present or not.
#[derive(Default, Debug)]
pub(super) struct Attachments {
    /// Their indexes in `ATTACHMENTS`.
    slots: BTreeMap<Arc<str>, u32>,
    /// Ports may be others since they were last asked for.
    has_changed: bool,
}

impl Ports {
    /// Sends the frames of these ports into pseudowires, by their indexes in `ATTACHMENTS`.
    pub fn set_attachments(&mut self, slots: BTreeMap<PortName, u32>, tables: &mut impl Tables) {
        let before: Vec<_> = self.ports.iter().map(|port| port.attachment).collect();
        let slots = slots.into_iter().map(|(name, slot)| (name.as_str().into(), slot));
        self.attachments.slots = slots.collect();
        self.publish_cross_connects(tables);
        for (port, before) in self.ports.iter().zip(before) {
            if port.attachment.is_some() != before.is_some() {
                port.store(tables);
            }
        }
    }

    /// Notes which ports are attachment circuits. Ports have changed.
    pub(super) fn find_attachments(&mut self) {
        self.attachments.has_changed = true;
        for port in &mut self.ports {
            let is_free = port.role() == Role::Switching && port.cross_connect.is_none();
            let slot = self.attachments.slots.get(&port.name);
            port.attachment = slot.copied().filter(|_| is_free);
        }
    }

    /// All ports as pseudowires use them, if they may be others than at the last call.
    pub fn take_pseudowire_ports(&mut self) -> Option<BTreeMap<PortName, PortFacts>> {
        if !std::mem::take(&mut self.attachments.has_changed) {
            return None;
        }
        let ports = self.ports.iter().filter_map(|port| {
            let facts = PortFacts {
                way_out: match port.check_way_out() {
                    Ok(()) => self.way_out_by(port),
                    Err(_) => CrossConnect::NOWHERE,
                },
                vids: port
                    .tags()
                    .into_iter()
                    .flat_map(|tags| tags.iter())
                    .map(|tag| tag.vid)
                    .collect(),
            };
            Some((PortName::new(port.name()).ok()?, facts))
        });
        Some(ports.collect())
    }

    /// Checks that frames of pseudowires can leave by a port.
    pub fn check_exit(&self, port: &Port, vlan: Option<u16>) -> Result<(), CrossConnectError> {
        port.check_way_out()?;
        match vlan {
            Some(_) if port.tags().is_some() => Err(CrossConnectError::OwnTags {
                name: port.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Checks that all frames of a port can go into a pseudowire. `next_hops`: how many are reached through it.
    pub fn check_attachment(&self, port: &Port, next_hops: usize) -> Result<(), CrossConnectError> {
        let (name, role) = (port.name.clone(), port.role());
        if role != Role::Switching {
            return Err(CrossConnectError::Role { name, role });
        }
        if let Some(with) = port.cross_connect.clone() {
            return Err(CrossConnectError::Already { name, with });
        }
        port.check_visible_tags()?;
        self.check_crossed(port.number(), |_| true)?;
        CrossConnectError::check_next_hops(port, "a pseudowire", next_hops)
    }
}

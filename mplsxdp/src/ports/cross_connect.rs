//! Cross-connects: every frame that arrives at one port leaves by another.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mplsxdp_common::abi::CrossConnect;

use super::sub_interface::Tags;
use super::{Port, PortError, Ports, Role};
use crate::control::api::VlanOperation;
use crate::dataplane::Tables;

/// What is done to the tags of a frame between two ports; `None`: nothing.
const fn operation(from: Option<Tags>, to: Option<Tags>) -> Option<VlanOperation> {
    match (from, to) {
        (Some(_), Some(_)) => Some(VlanOperation::Translate),
        (Some(_), None) => Some(VlanOperation::Pop),
        (None, Some(_)) => Some(VlanOperation::Push),
        (None, None) => None,
    }
}

/// The interfaces whose frames for other stations are needed, too.
#[derive(Default, Debug)]
pub(super) struct CrossedInterfaces {
    pub(super) wanted: BTreeSet<u32>,
    told: BTreeSet<u32>,
}

/// Why two ports cannot be cross-connected.
#[derive(Debug, thiserror::Error)]
pub enum CrossConnectError {
    #[error("{0} cannot be cross-connected with itself")]
    Itself(Arc<str>),
    #[error("{name} is {role}: only frames of switching ports can be cross-connected")]
    Role { name: Arc<str>, role: Role },
    #[error("{name} is {role}: no frames can be sent there")]
    NoWayOut { name: Arc<str>, role: Role },
    #[error("{name} is cross-connected with {with} already: `mplsxdp xconnect del {name} {with}` ends that")]
    Already { name: Arc<str>, with: Arc<str> },
    #[error("the frames of {name} go into a pseudowire: `mplsxdp xconnect del {name}` ends that")]
    Attached { name: Arc<str> },
    #[error(
        "{name} has sub-interfaces that are ports ({}): cross-connect these, or take them off by `mplsxdp link del`",
        .sub_interfaces.join(", ")
    )]
    SubInterfaces {
        name: Arc<str>,
        sub_interfaces: Vec<Arc<str>>,
    },
    #[error(
        "{next_hops} next hops of routes are reached through {name}, and their answers to ARP and ND would leave by {to}: \
         delete these routes first"
    )]
    NextHops {
        name: Arc<str>,
        to: Arc<str>,
        next_hops: usize,
    },
    #[error("tags of frames would be lost: {0}")]
    HiddenTags(Arc<str>),
    #[error("`vlan {}` does not fit: {}", .given.name(), fits(.from, .to, *.is))]
    Vlan {
        from: Arc<str>,
        to: Arc<str>,
        given: VlanOperation,
        is: Option<VlanOperation>,
    },
    #[error(
        "{name} has tags of its own, so frames that leave there get no `vlan`; `tagged` takes off the pseudowire's"
    )]
    OwnTags { name: Arc<str> },
    #[error("{from} is not cross-connected with {to}")]
    None { from: Arc<str>, to: Arc<str> },
    #[error("{name} is not cross-connected")]
    NotConnected { name: Arc<str> },
}

fn fits(from: &str, to: &str, is: Option<VlanOperation>) -> String {
    match is {
        Some(operation) => format!("from {from} to {to} it is `vlan {}`", operation.name()),
        None => format!("neither {from} nor {to} is a sub-interface"),
    }
}

impl CrossConnectError {
    /// Checks that no next hops are reached through the port whose frames go `to` another.
    pub fn check_next_hops(from: &Port, to: &str, next_hops: usize) -> Result<(), Self> {
        match next_hops {
            0 => Ok(()),
            next_hops => Err(Self::NextHops {
                name: from.name.clone(),
                to: to.into(),
                next_hops,
            }),
        }
    }
}

impl Port {
    /// Checks that frames from elsewhere can leave by it.
    pub(super) fn check_way_out(&self) -> Result<(), CrossConnectError> {
        match self.is_usable() && self.role() != Role::Local {
            true => Ok(()),
            false => Err(CrossConnectError::NoWayOut {
                name: self.name.clone(),
                role: self.role(),
            }),
        }
    }
}

impl Ports {
    /// Checks that every frame of `from` can go to `to`. `next_hops`: how many are reached through `from`.
    pub fn check_cross_connect(
        &self,
        from: &Port,
        to: &Port,
        vlan: Option<VlanOperation>,
        next_hops: usize,
    ) -> Result<(), CrossConnectError> {
        if from.number() == to.number() {
            return Err(CrossConnectError::Itself(from.name.clone()));
        }
        let (name, role) = (from.name.clone(), from.role());
        if role != Role::Switching {
            return Err(CrossConnectError::Role { name, role });
        }
        to.check_way_out()?;
        let is = operation(from.tags(), to.tags());
        if let Some(given) = vlan.filter(|given| Some(*given) != is) {
            let (from, to) = (name, to.name.clone());
            return Err(CrossConnectError::Vlan { from, to, given, is });
        }
        from.check_visible_tags()?;
        if from.attachment.is_some() {
            return Err(CrossConnectError::Attached { name });
        }
        if let Some(with) = from.cross_connect.clone().filter(|with| *with != to.name) {
            return Err(CrossConnectError::Already { name, with });
        }
        self.check_crossed(from.number(), |_| true)?;
        CrossConnectError::check_next_hops(from, &to.name, next_hops)
    }

    /// Checks that no frames of port `number` belong to sub-interfaces that stay ports.
    pub fn check_crossed(&self, number: u16, stays: impl Fn(&str) -> bool) -> Result<(), CrossConnectError> {
        let sub_interfaces = self.sub_interfaces(number).map(|port| port.name.clone());
        let sub_interfaces: Vec<_> = sub_interfaces.filter(|name| stays(name)).collect();
        match self.name(number) {
            Some(name) if !sub_interfaces.is_empty() => Err(CrossConnectError::SubInterfaces {
                name: name.into(),
                sub_interfaces,
            }),
            _ => Ok(()),
        }
    }

    /// Sends every frame of port `number` to the port with this name, or to none in particular.
    pub fn set_cross_connect(&mut self, number: u16, to: Option<Arc<str>>, tables: &mut impl Tables) {
        if let Some(port) = self.get_mut(number) {
            port.cross_connect = to;
        }
        self.publish_cross_connects(tables);
        if let Some(port) = self.get(number) {
            port.store(tables);
        }
    }

    /// Publishes where the frames of cross-connected ports go. Ports have changed.
    pub(super) fn publish_cross_connects(&mut self, tables: &mut impl Tables) {
        self.find_attachments();
        let crossed = self.ports.iter().filter(|port| port.is_cross_connected());
        let interfaces = crossed.filter_map(|port| Some(self.program_port(port)?.ifindex()));
        self.crossed_interfaces.wanted = interfaces.collect();
        self.publish_ways_out(tables);
        for port in &self.ports {
            let to = port.cross_connect.as_ref().map(|to| self.crossing(port, to));
            let attachment = || port.attachment.map(CrossConnect::attachment_circuit);
            if let Some(to) = to.or_else(attachment) {
                tables.store_cross_connect(port.number(), to);
            }
        }
    }

    /// The interfaces behind cross-connected ports, if they are others than at the last call.
    pub fn take_crossed_interfaces(&mut self) -> Option<BTreeSet<u32>> {
        let CrossedInterfaces { wanted, told } = &mut self.crossed_interfaces;
        (wanted != told).then(|| {
            told.clone_from(wanted);
            wanted.clone()
        })
    }

    /// Nowhere while there is no port with this name.
    fn crossing(&self, from: &Port, to: &str) -> CrossConnect {
        let to = self.ports.iter().find(|port| *port.name == *to && port.is_usable());
        let way_out = to.map_or(CrossConnect::NOWHERE, |to| self.way_out_by(to));
        way_out.without_tags(from.tags().into_iter().flat_map(Tags::iter).count())
    }

    /// The port with which each is cross-connected has this name now.
    pub fn rename_cross_connects(&mut self, renamed: &HashMap<Arc<str>, Arc<str>>) {
        let ports = self.ports.iter_mut().map(|port| &mut port.cross_connect);
        let waiting = self.waiting.iter_mut().map(|waiting| &mut waiting.wish.cross_connect);
        for to in ports.chain(waiting).flatten() {
            if let Some(new) = renamed.get(to) {
                *to = new.clone();
            }
        }
    }

    /// Checks that no port's frames go to the one with this name.
    pub fn check_uncrossed(&self, name: &str) -> Result<(), PortError> {
        let mut ports = self.ports.iter();
        match ports.find(|port| port.cross_connect.as_deref() == Some(name)) {
            Some(port) => Err(PortError::CrossConnected {
                name: name.into(),
                from: port.name.clone(),
            }),
            None => Ok(()),
        }
    }
}

//! Requests to cross-connect ports.

use std::sync::Arc;

use super::{Call, Switch};
use crate::config::{Config, PortConfig};
use crate::control::api::{Refusal, Reply, Request, VlanOperation};
use crate::dataplane::Tables;
use crate::error;
use crate::ports::cross_connect::CrossConnectError;
use crate::ports::{Port, PortError};

impl<T: Tables> Switch<T> {
    pub(super) fn change_cross_connect(&mut self, call: Call) {
        let result = match &call.request {
            Request::AddCrossConnect {
                name,
                to,
                vlan,
                one_way,
            } => self.add_cross_connect(name, to, *vlan, *one_way),
            Request::DeleteCrossConnect { name, to, one_way } => {
                self.delete_cross_connect(name, to.as_deref(), *one_way)
            }
            _ => return,
        };
        let result = result.map(|changed| {
            changed.iter().for_each(|name| self.save_port(name));
            Reply::Done
        });
        self.reply(call.token, call.peer, result);
    }

    /// Returns the names of the ports that it has changed.
    fn add_cross_connect(
        &mut self,
        name: &str,
        to: &str,
        vlan: Option<VlanOperation>,
        one_way: bool,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        let (from, to) = (self.port(name)?, self.port(to)?);
        let mut directions = vec![(from, to, vlan)];
        if !one_way {
            directions.push((to, from, vlan.map(back)));
        }
        for (from, to, vlan) in &directions {
            let next_hops = self.resolver.next_hops_through(from.ifindex());
            let checked = self.ports.check_cross_connect(from, to, *vlan, next_hops);
            checked.map_err(|error| refusal(name, error))?;
        }
        let directions: Vec<_> = directions
            .into_iter()
            .map(|(from, to, _)| (from.number(), to.name().into()))
            .collect();
        Ok(self.set_cross_connects(directions.into_iter().map(|(number, to)| (number, Some(to)))))
    }

    /// Likewise.
    fn delete_cross_connect(&mut self, name: &str, to: Option<&str>, one_way: bool) -> Result<Vec<Arc<str>>, Refusal> {
        let from = self.port(name)?;
        let leads_to = |port: &Port, to: &str| port.cross_connect() == Some(to);
        let Some(to) = to.or(from.cross_connect()) else {
            let name = from.name().into();
            return Err(refusal(from.name(), CrossConnectError::NotConnected { name }));
        };
        let other = self.ports.iter().find(|port| port.name() == to);
        let mut numbers: Vec<u16> = Vec::new();
        numbers.extend(leads_to(from, to).then_some(from.number()));
        numbers.extend(
            other
                .filter(|other| !one_way && leads_to(other, name))
                .map(Port::number),
        );
        if numbers.is_empty() {
            let (from, to) = (name.into(), to.into());
            return Err(refusal(name, CrossConnectError::None { from, to }));
        }
        Ok(self.set_cross_connects(numbers.into_iter().map(|number| (number, None))))
    }

    /// Checks where a new configuration sends the frames of a port, once its routes are installed.
    pub(super) fn check_recross(&self, port: &PortConfig, config: &Config) -> Result<(), CrossConnectError> {
        let found = self.ports.number(&port.name).and_then(|number| self.ports.get(number));
        let (Some(to), Some(port)) = (&port.cross_connect, found) else {
            return Ok(());
        };
        let stays = |name: &str| config.ports.iter().any(|port| port.name == name);
        self.ports.check_crossed(port.number(), stays)?;
        port.check_visible_tags()?;
        CrossConnectError::check_next_hops(port, to, self.resolver.next_hops_through(port.ifindex()))
    }

    /// A new configuration says where the frames of a port go.
    pub(super) fn recross(&mut self, name: &str, to: Option<Arc<str>>) {
        if let Some(waiting) = self.ports.waiting_mut().get_mut(name) {
            waiting.wish.cross_connect = to;
        } else if let Some(number) = self.ports.number(name) {
            self.ports.set_cross_connect(number, to, self.lfib.tables_mut());
        }
    }

    fn set_cross_connects(&mut self, changes: impl Iterator<Item = (u16, Option<Arc<str>>)>) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        for (number, to) in changes {
            self.ports.set_cross_connect(number, to, self.lfib.tables_mut());
            changed.extend(self.ports.name(number).map(Arc::from));
        }
        changed
    }

    fn port(&self, name: &str) -> Result<&Port, Refusal> {
        let port = self.ports.number(name).and_then(|number| self.ports.get(number));
        port.ok_or_else(|| self.no_such_link(name))
    }
}

/// What happens to tags the other way round.
const fn back(operation: VlanOperation) -> VlanOperation {
    match operation {
        VlanOperation::Translate => VlanOperation::Translate,
        VlanOperation::Pop => VlanOperation::Push,
        VlanOperation::Push => VlanOperation::Pop,
    }
}

fn refusal(name: &str, error: CrossConnectError) -> Refusal {
    Refusal::LinkRefused {
        ifname: name.to_owned(),
        reason: error::report(&PortError::from(error)),
    }
}

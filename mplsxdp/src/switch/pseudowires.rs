//! Keeps the ends of pseudowires in step: the ports in the LFIB, and the LFIB's attachment circuits at the ports.

use super::Switch;
use super::routes::unreachable;
use crate::control::api::Refusal;
use crate::dataplane::Tables;
use crate::error;
use crate::lfib::PseudowireEnd;
use crate::ports::Port;
use crate::route::Route;

impl<T: Tables> Switch<T> {
    /// Ports or routes may have changed.
    pub(super) fn follow_pseudowires(&mut self) {
        if let Some(ports) = self.ports.take_pseudowire_ports() {
            self.lfib.set_pseudowire_ports(ports);
        }
        if let Some(attached) = self.lfib.take_attached() {
            self.ports.set_attachments(attached, self.lfib.tables_mut());
        }
    }

    /// Checks that the ports of new routes can be ends of pseudowires.
    pub(super) fn check_pseudowire_ends(&self, ends: &[(usize, PseudowireEnd)]) -> Result<(), Refusal> {
        if ends.is_empty() {
            return Ok(());
        }
        let next_hops = self.next_hops_by_interface();
        for &(index, end) in ends {
            let refused = self.check_end(end, |ifindex| next_hops.get(&ifindex).copied().unwrap_or_default());
            refused.map_err(|reason| unreachable(index, reason))?;
        }
        Ok(())
    }

    /// Why the port of a pseudowire's route cannot be its end now.
    pub(super) fn pseudowire_problem(&self, route: &Route) -> Option<String> {
        let mut ends = PseudowireEnd::of(route).filter(|end| !self.is_attached(*end));
        ends.find_map(|end| self.check_end(end, |_| 0).err())
    }

    /// Whether the frames of a port go into its pseudowire.
    fn is_attached(&self, end: PseudowireEnd) -> bool {
        let PseudowireEnd::Attachment(name) = end else {
            return false;
        };
        let port = self
            .ports
            .number(name.as_str())
            .and_then(|number| self.ports.get(number));
        port.is_some_and(Port::is_attached)
    }

    /// `next_hops`: how many are reached through an interface.
    fn check_end(&self, end: PseudowireEnd, next_hops: impl Fn(u32) -> usize) -> Result<(), String> {
        let (PseudowireEnd::Attachment(name) | PseudowireEnd::Exit(name, _)) = end;
        let number = self.ports.number(name.as_str());
        let Some(port) = number.and_then(|number| self.ports.get(number)) else {
            return Err(format!("{name} is not a port: add it with `mplsxdp link add {name}`"));
        };
        let checked = match end {
            PseudowireEnd::Exit(_, vlan) => self.ports.check_exit(port, vlan),
            PseudowireEnd::Attachment(_) => self.ports.check_attachment(port, next_hops(port.ifindex())),
        };
        checked.map_err(|error| error::report(&error))
    }
}

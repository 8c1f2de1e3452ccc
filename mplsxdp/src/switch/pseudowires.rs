//! Keeps the ends of pseudowires in step: the ports in the LFIB, and the LFIB's attachment circuits at the ports.

use super::Switch;
use super::routes::unreachable;
use crate::control::api::Refusal;
use crate::dataplane::Tables;
use crate::error;
use crate::lfib::{Budget, PseudowireEnd};
use crate::route::Route;

/// What it takes to check a port, in operations.
const CHECK: usize = 8;

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

    /// Goes on to check that the ports of new routes can be ends of pseudowires. Returns whether all are checked.
    pub(super) fn check_ends(
        &self,
        ends: &[(usize, PseudowireEnd)],
        at: &mut usize,
        budget: &mut Budget<'_>,
    ) -> Result<bool, Refusal> {
        while let Some(&(index, end)) = ends.get(*at) {
            self.check_end(end).map_err(|reason| unreachable(index, reason))?;
            *at += 1;
            if !budget.spend(CHECK) {
                break;
            }
        }
        Ok(*at == ends.len())
    }

    /// Why the port of a pseudowire's route cannot be its end now, or should not.
    pub(super) fn pseudowire_problem(&self, route: &Route) -> Option<String> {
        PseudowireEnd::of(route).find_map(|end| self.check_end(end).err())
    }

    fn check_end(&self, end: PseudowireEnd) -> Result<(), String> {
        let (PseudowireEnd::Attachment(name) | PseudowireEnd::Exit(name, _)) = end;
        let number = self.ports.number(name.as_str());
        let Some(port) = number.and_then(|number| self.ports.get(number)) else {
            return Err(format!("{name} is not a port: add it with `mplsxdp link add {name}`"));
        };
        let checked = match end {
            PseudowireEnd::Exit(_, vlan) => self.ports.check_exit(port, vlan),
            PseudowireEnd::Attachment(_) => {
                let next_hops = self.resolver.next_hops_through(port.ifindex());
                self.ports.check_attachment(port, next_hops)
            }
        };
        checked.map_err(|error| error::report(&error))
    }
}

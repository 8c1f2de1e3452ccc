//! Makes ports accept labels if the kernel does (`net.mpls.conf.IFACE.input`).

use std::collections::HashSet;

use tracing::{info, warn};

use crate::dataplane::Tables;
use crate::neighbour::LinkInfo;
use crate::ports::{Port, Ports};

/// Where the kernel accepts labels.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// The interfaces by their indexes; `None`: the kernel has no MPLS, or has not reported any interface.
    accepting: Option<HashSet<u32>>,
    /// The ports may not follow yet.
    changed: bool,
}

impl Inputs {
    /// The kernel accepts labels on this interface, or does not.
    pub fn set(&mut self, ifindex: u32, accepted: bool) {
        let is_first = self.accepting.is_none();
        let accepting = self.accepting.get_or_insert_default();
        let changed = match accepted {
            true => accepting.insert(ifindex),
            false => accepting.remove(&ifindex),
        };
        self.changed |= changed || is_first;
    }

    /// There may be other ports now.
    pub fn ports_may_have_changed(&mut self) {
        self.changed |= self.accepting.is_some();
    }

    pub fn has_work(&self) -> bool {
        self.changed
    }

    /// Sets every port that is an interface of the kernel.
    pub fn follow(&mut self, ports: &mut Ports, tables: &mut impl Tables) {
        self.changed = false;
        let Some(accepting) = &self.accepting else { return };
        let kernels = ports
            .iter()
            .map(Port::ifindex)
            .filter(|&ifindex| ifindex < LinkInfo::FIRST_VIRTUAL);
        for ifindex in kernels.collect::<Vec<_>>() {
            let accepted = accepting.contains(&ifindex);
            let Some(port) = ports.set_kernel_input(ifindex, accepted, tables) else {
                continue;
            };
            match accepted {
                true => info!(
                    port = port.name(),
                    "the kernel accepts labels here, and so does the switch"
                ),
                false => warn!(
                    port = port.name(),
                    "the kernel accepts no labels here, and neither does the switch: `sysctl net.mpls.conf.{}.input=1`",
                    port.name()
                ),
            }
        }
    }
}

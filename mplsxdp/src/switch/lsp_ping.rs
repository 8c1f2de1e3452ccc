//! MPLS echo requests that clients send: where their LSPs begin.

use ipnet::IpNet;

use super::Switch;
use crate::control::api::{EchoRequest, Lsp, Refusal};
use crate::dataplane::Tables;
use crate::route::{Fec, NextHop, RouteKey};
use crate::slowpath::oam::sender::{Ingress, Outgoing};

impl<T: Tables> Switch<T> {
    /// The request as the slow path can send it.
    pub(super) fn echo_request(&self, request: &EchoRequest) -> Result<Outgoing, Refusal> {
        let refused = |reason: String| Refusal::LspPingRefused { reason };
        let ingress = match &request.lsp {
            Lsp::Prefix(prefix) => {
                if !self.has_route(*prefix) {
                    return Err(refused(format!("{prefix} has no route")));
                }
                Ingress::Prefix(*prefix)
            }
            Lsp::Stack { labels, via, dev } => {
                let next_hops = self.lfib.next_hops();
                // The interface may have been found by a look-up.
                let leaves_by = |id, next_hop: &NextHop| {
                    let found = next_hops.slot(id).map(|slot| self.lfib.tables().adjacency(slot).port());
                    let found = found.and_then(|port| self.ports.name(port));
                    next_hop.dev.as_deref().or(found).map(str::to_owned)
                };
                let found = next_hops
                    .all()
                    .filter(|(_, next_hop)| next_hop.via.address() == Some(*via));
                let found = found.map(|(id, next_hop)| (id, leaves_by(id, next_hop)));
                let mut found = found.filter(|(_, leaves_by)| dev.is_none() || leaves_by == dev);
                let Some((id, leaves_by)) = found.next() else {
                    let dev = dev.as_ref().map(|dev| format!(" dev {dev}")).unwrap_or_default();
                    return Err(refused(format!("no route uses the next hop {via}{dev}")));
                };
                if found.any(|(_, other)| other != leaves_by) {
                    return Err(refused(format!(
                        "routes use {via} on several interfaces; name one with `dev`"
                    )));
                }
                let adjacency = next_hops.slot(id);
                Ingress::Stack {
                    labels: labels.clone(),
                    adjacency: adjacency.ok_or_else(|| refused(format!("the next hop {via} is not in use")))?,
                }
            }
        };
        Ok(Outgoing {
            ingress,
            source: request.source,
            source_port: request.source_port,
            destination: request.destination,
            ttl: request.ttl,
            payload: request.payload.clone(),
            dry_run: request.dry_run,
        })
    }

    fn has_route(&self, prefix: IpNet) -> bool {
        self.lfib.get(RouteKey::Prefix(Fec::from(prefix))).is_some()
    }
}

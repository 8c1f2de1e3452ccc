//! What an imposed prefix must leave to the kernel, by the routing table of each port's VRF: the domains of the FTN.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use tracing::{debug, error, warn};

use super::claims::{claim, some_claims};
use super::{Effect, Switch};
use crate::config::SyncTable;
use crate::control::api::Refusal;
use crate::dataplane::{FtnKey, Tables};
use crate::lfib::{Budget, VrfDevice};
use crate::ports::local::LocalPair;
use crate::ports::sub_interface;

/// How many places the kernel's claims may change at in one step, and how many of the kernel's routes one step looks at.
const CLAIMS: usize = 256;
const SWEPT: usize = 1024;

impl<T: Tables> Switch<T> {
    /// The kernel's routes for these prefixes have changed. If there are many, the LFIB learns of the rest in steps.
    pub(super) fn claims_changed(&mut self, prefixes: BTreeSet<IpNet>) {
        self.stale_claims.extend(prefixes);
        self.follow_claims();
    }

    /// Whether the LFIB does not know of all that has changed of the kernel's claims.
    pub(super) fn has_claims_to_follow(&self) -> bool {
        self.kernel_routes.has_to_sweep() || !self.stale_claims.is_empty()
    }

    /// Passes some of the kernel's claims that have changed to the LFIB.
    pub(super) fn follow_claims(&mut self) {
        let domains: Vec<_> = self.lfib.domains().collect();
        let most = CLAIMS.div_ceil(domains.len());
        if self.stale_claims.len() < most {
            self.kernel_routes.sweep(SWEPT, &mut self.stale_claims);
        }
        let into_local = self.local.as_ref().map(LocalPair::ifindex);
        let some = std::iter::from_fn(|| self.stale_claims.pop_first()).take(most);
        let claims = some.flat_map(|prefix| {
            let domains = domains.iter();
            domains.map(move |&(domain, vrf_table)| (FtnKey::new(domain, prefix), vrf_table))
        });
        let claims = claims.map(|(key, vrf_table)| {
            let routes = self.kernel_routes.get(key.prefix);
            (key, claim(routes, vrf_table, into_local))
        });
        let claims: BTreeMap<_, _> = claims.collect();
        if claims.is_empty() {
            return;
        }
        if let Err(error) = self.lfib.set_claims(&claims) {
            debug!(%error, "cannot keep all of the kernel's addresses and routes out of the FTN yet");
        }
        self.effects.push_back(Effect::RetryHeld);
    }

    /// Makes each port and label look in the domain of its VRF, and begins to fill the domains of VRFs that have new ports
    /// or will have them soon. Returns whether ports have changed their VRFs.
    pub(super) fn follow_vrfs(&mut self, coming: &[&str]) -> bool {
        let links = self.resolver.links();
        let coming = coming.iter().filter_map(|name| match links.by_name(name) {
            Some(link) => Some(link.ifindex),
            None => Some(sub_interface::find(name, links).ok()??.parent),
        });
        let coming = coming.filter_map(|ifindex| Some(links.vrf(ifindex)?.table));
        let used: BTreeSet<u32> = self
            .port_tables()
            .filter_map(|(_, table)| table)
            .chain(coming)
            .collect();
        let devices = links.iter().filter_map(|link| {
            let (ifindex, table) = (link.ifindex, link.vrf_table?);
            Some((link.name.clone(), VrfDevice { ifindex, table }))
        });
        self.lfib.set_vrf_devices(devices.collect());
        for &table in &used {
            if !self.lfib.use_vrf(table) && !self.vrf_tables.contains(&table) {
                warn!(
                    table,
                    "ports are in too many VRFs: packets without a label are left to the kernel in this one"
                );
            }
        }
        self.enter_domains();
        self.lfib.leave_vrfs(&used);
        let are_others = used != self.vrf_tables;
        self.vrf_tables = used;
        are_others
    }

    /// The routing table of the VRF device with this name.
    pub(super) fn vrf_table(&self, name: &str) -> Result<u32, Refusal> {
        let links = self.resolver.links();
        let vrfs = links.iter().filter_map(|link| Some((&*link.name, link.vrf_table?)));
        let vrfs: BTreeMap<&str, u32> = vrfs.collect();
        if let Some(&table) = vrfs.get(name) {
            return Ok(table);
        }
        let what = match links.by_name(name) {
            Some(_) => format!("`{name}` is not a VRF"),
            None => format!("there is no VRF `{name}`"),
        };
        let names: Vec<&str> = vrfs.into_keys().collect();
        let help = match names.as_slice() {
            [] => "; `ip link add NAME type vrf table N` makes one".to_owned(),
            names => format!("; there are: {}", names.join(", ")),
        };
        Err(Refusal::NoSuchVrf {
            name: name.to_owned(),
            reason: format!("{what}{help}"),
        })
    }

    /// `--sync-table` may name VRFs that do not exist yet.
    pub(super) fn warn_of_missing_vrfs(&self) {
        for table in &self.config.sync_table {
            if let SyncTable::Vrf(name) = table
                && let Err(missing) = self.vrf_table(name)
            {
                warn!("--sync-table {name}: {missing}; its routes are followed once it exists");
            }
        }
    }

    /// The routing table of the VRF that each port is in.
    fn port_tables(&self) -> impl Iterator<Item = (u16, Option<u32>)> {
        let links = self.resolver.links();
        self.ports.iter().map(|port| {
            let vrf = self.ports.vrf(port.number(), links);
            (port.number(), vrf.map(|vrf| vrf.table))
        })
    }

    /// Makes each port look in the domain of its VRF, or in none until that is filled.
    fn enter_domains(&mut self) {
        let mut changed = false;
        for (port, table) in Vec::from_iter(self.port_tables()) {
            let domain = self.lfib.domain(table);
            changed |= self.ports.set_domain(port, domain, self.lfib.tables_mut());
        }
        self.lfib.follow_vrfs();
        if changed {
            self.effects.push_back(Effect::RetryHeld);
        }
    }

    /// Finds out what the kernel claims in a VRF, or fills or empties its domain, by one step.
    pub(super) fn domain_step(&mut self, budget: &mut Budget<'_>) {
        if let Some((table, from)) = self.lfib.unclaimed() {
            let into_local = self.local.as_ref().map(LocalPair::ifindex);
            let (claims, next) = some_claims(table, &self.kernel_routes, from, into_local, budget);
            return self.lfib.add_claims(table, claims, next);
        }
        // Reported once, and tried again periodically.
        if let Err(error) = self.lfib.domain_step(budget)
            && self.ftn_retry.is_none()
        {
            error!(
                %error,
                "cannot write the prefix routes for the VRF of a port: packets without a label that arrive there are left to the \
                 kernel until they can be written; `mplsxdp route del` of prefix routes makes room"
            );
        }
        self.enter_domains();
    }
}

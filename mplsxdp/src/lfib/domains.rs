//! The domains of the FTN: one for ports outside of VRFs, and one for the routing table of each VRF that has ports. A
//! domain is filled step by step before any port uses it, and emptied step by step after the last port has left it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use mplsxdp_common::abi::{Domain, RouteEntry};

use super::Lfib;
use super::fecs::Families;
use super::ftn::Write;
use super::pass::{Claim, FIRST};
use super::plan::Budget;
use crate::dataplane::{FtnKey, GracePeriod, TableError, Tables};
use crate::route::RoutingTable;

/// The VRFs that have a domain, by their routing tables.
#[derive(Default, Debug)]
pub(super) struct Vrfs {
    by_table: BTreeMap<u32, Vrf>,
    /// The domain could not be filled at the last attempt.
    stalled: bool,
    /// Another attempt is due.
    retry: bool,
}

#[derive(Clone, Copy, Debug)]
struct Vrf {
    domain: Domain,
    /// No port uses the domain; once this grace period is over, no program does either.
    left: Option<GracePeriod>,
    /// The kernel's claims of prefixes from this one on are not known yet; the domain is filled once all are.
    unclaimed: Option<IpNet>,
    /// Programs find everything that belongs into the domain.
    is_filled: bool,
}

/// Why a domain is not filled yet.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error(
        "the {family} prefix routes take {wanted} entries in all, and there are {capacity}: a route without `table` takes one for \
         each VRF that ports are in and one for the other ports"
    )]
    NoRoom {
        family: &'static str,
        wanted: usize,
        capacity: u32,
    },
    #[error(transparent)]
    Table(#[from] TableError),
}

impl<T: Tables> Lfib<T> {
    /// The domains in use, each with the routing table of its VRF.
    pub fn domains(&self) -> impl Iterator<Item = (Domain, Option<u32>)> {
        let vrfs = self.vrfs.by_table.iter().map(|(&table, vrf)| (vrf.domain, Some(table)));
        std::iter::once((Domain::NO_VRF, None)).chain(vrfs)
    }

    /// The domain for ports in the VRF with this table, or outside of VRFs.
    pub fn domain(&self, table: Option<u32>) -> Domain {
        match table {
            None => Domain::NO_VRF,
            Some(table) => match self.vrfs.by_table.get(&table) {
                Some(vrf) if vrf.left.is_none() && vrf.is_filled => vrf.domain,
                _ => Domain::EMPTY,
            },
        }
    }

    /// Whether ports are in the VRF with this table.
    pub(super) fn uses_vrf(&self, table: u32) -> bool {
        let vrf = self.vrfs.by_table.get(&table);
        vrf.is_some_and(|vrf| vrf.left.is_none())
    }

    /// Ports are in the VRF with this table. Its domain is filled by [`Lfib::domain_step`] once the kernel's claims there
    /// are known: see [`Lfib::add_claims`]. Returns whether there is a number for it.
    pub fn use_vrf(&mut self, table: u32) -> bool {
        if let Some(vrf) = self.vrfs.by_table.get_mut(&table) {
            vrf.left = None;
            return true;
        }
        let taken: BTreeSet<Domain> = self.pass.domains().collect();
        let mut numbers = (0..Domain::EMPTY.0).map(Domain);
        let Some(domain) = numbers.find(|domain| !taken.contains(domain)) else {
            return false;
        };
        self.pass.add_domain(domain, RoutingTable(table));
        let vrf = Vrf {
            domain,
            left: None,
            unclaimed: Some(FIRST),
            is_filled: false,
        };
        self.vrfs.by_table.insert(table, vrf);
        true
    }

    /// A VRF, by its table, in which the kernel's claims of prefixes from this one on are not known yet.
    pub fn unclaimed(&self) -> Option<(u32, IpNet)> {
        let mut used = self.vrfs.by_table.iter().filter(|(_, vrf)| vrf.left.is_none());
        used.find_map(|(&table, vrf)| Some((table, vrf.unclaimed?)))
    }

    /// What the kernel claims in the VRF with this table, of prefixes before `next`, or of all. Nothing is written: its
    /// domain is not filled yet.
    pub fn add_claims(&mut self, table: u32, claims: BTreeMap<IpNet, Claim>, next: Option<IpNet>) {
        let vrf = self.vrfs.by_table.get_mut(&table);
        let Some(vrf) = vrf.filter(|vrf| vrf.unclaimed.is_some()) else {
            return;
        };
        vrf.unclaimed = next;
        for (prefix, claim) in claims {
            self.pass.set_claim(FtnKey::new(vrf.domain, prefix), Some(claim));
        }
    }

    /// [`Lfib::use_vrf`], with all that the kernel claims there.
    #[cfg(test)]
    pub fn use_vrf_with(&mut self, table: u32, claims: impl FnOnce() -> BTreeMap<IpNet, Claim>) -> bool {
        let is_there = self.use_vrf(table);
        if self
            .vrfs
            .by_table
            .get(&table)
            .is_some_and(|vrf| vrf.unclaimed.is_some())
        {
            self.add_claims(table, claims(), None);
        }
        is_there
    }

    /// Notes that ports use only the VRFs with the tables `used`: [`Lfib::domain_step`] empties the domains of all
    /// others.
    pub fn leave_vrfs(&mut self, used: &BTreeSet<u32>) {
        let is_left = |(table, vrf): &(&u32, &mut Vrf)| vrf.left.is_none() && !used.contains(table);
        if self.vrfs.by_table.iter_mut().find(is_left).is_none() {
            return;
        }
        // Labels do not lead there any more, either.
        self.store_vrfs(|table| used.contains(&table));
        let period = self.tables.begin_grace_period();
        let left = self.vrfs.by_table.iter_mut().filter(is_left);
        left.for_each(|(_, vrf)| vrf.left = Some(period));
    }

    /// Whether [`Lfib::domain_step`] has something to do.
    pub fn has_domain_steps(&self) -> bool {
        let has_filled = || {
            self.vrfs
                .by_table
                .values()
                .any(|vrf| self.pass.is_whole(vrf.domain) != vrf.is_filled)
        };
        !self.awaits_room()
            && (self.has_to_empty() || self.to_be_filled().is_some() || self.unclaimed().is_some() || has_filled())
    }

    /// Fills or empties a domain by a number of entries.
    pub fn domain_step(&mut self, budget: &mut Budget<'_>) -> Result<(), FillError> {
        if !self.note_filled(budget) || !self.look_for_ftn_room() {
            return Ok(());
        }
        if self.empty_step() {
            return Ok(());
        }
        let Some(domain) = self.to_be_filled() else {
            return Ok(());
        };
        let filled = self.fill_step(domain);
        self.note_filled(budget);
        (self.vrfs.stalled, self.vrfs.retry) = (filled.is_err(), false);
        filled
    }

    /// Publishes what was written, and notes which domains are filled. Returns whether everything is published.
    fn note_filled(&mut self, budget: &mut Budget<'_>) -> bool {
        let is_published = self.publish_step(budget);
        for vrf in self.vrfs.by_table.values_mut().filter(|_| is_published) {
            vrf.is_filled = self.pass.is_whole(vrf.domain);
        }
        is_published
    }

    /// Whether a domain could not be filled. Ports in its VRF impose nothing.
    pub fn is_filling_stalled(&self) -> bool {
        self.vrfs.stalled
    }

    /// Makes the next step try again, because there may be room or memory now.
    pub fn retry_filling(&mut self) {
        self.vrfs.retry = true;
    }

    fn to_be_emptied(&self) -> Option<(u32, Domain)> {
        let vrfs = self.vrfs.by_table.iter().map(|(&table, &vrf)| (table, vrf));
        let left = vrfs.filter(|(_, vrf)| vrf.left.is_some_and(|period| self.tables.is_over(period)));
        let mut left = left.map(|(table, vrf)| (table, vrf.domain));
        // Entries that could not be removed are retried with everything else that is unsettled.
        left.find(|&(_, domain)| !self.pass.has_not_begun(domain) || !self.is_unsettled(domain))
    }

    fn to_be_filled(&self) -> Option<Domain> {
        let used = self
            .vrfs
            .by_table
            .values()
            .filter(|vrf| vrf.left.is_none() && vrf.unclaimed.is_none());
        let may_fill = !self.vrfs.stalled || self.vrfs.retry;
        let mut domains = used.map(|vrf| vrf.domain).filter(|_| may_fill);
        domains.find(|&domain| !self.pass.is_whole(domain))
    }

    fn is_unsettled(&self, domain: Domain) -> bool {
        let mut others = self.unsettled.keys().filter(|key| key.domain == domain);
        others.next().is_some()
    }

    fn fill_step(&mut self, domain: Domain) -> Result<(), FillError> {
        let capacity = self.tables.capacity().prefixes;
        let Families { v4, v6 } = self.pass.route_entries(Some(domain));
        for (family, wanted) in [("IPv4", v4), ("IPv6", v6)] {
            if wanted > capacity as usize {
                return Err(FillError::NoRoom {
                    family,
                    wanted,
                    capacity,
                });
            }
        }
        let (places, end) = self.pass.next_places(domain, self.step);
        self.pass.set_end(domain, end);
        for prefix in places {
            let key = FtnKey::new(domain, prefix);
            if self.tables.needs_publishing() {
                self.pass.set_end(domain, Some(prefix));
                return Ok(());
            }
            let write = Write {
                key,
                // Nothing, except entries that could not be removed before.
                held: self.unsettled.get(&key).copied().flatten(),
                wanted: self.wanted(key),
            };
            if let Err(error) = self.write_ftn(write) {
                self.pass.set_end(domain, Some(prefix));
                if self.unsettled.get(&key) == Some(&None) {
                    self.unsettled.remove(&key);
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Whether [`Lfib::empty_step`] has something to do.
    pub(super) fn has_to_empty(&self) -> bool {
        self.to_be_emptied().is_some()
    }

    /// Removes entries of a domain that no program uses any more. Returns whether there was one.
    pub(super) fn empty_step(&mut self) -> bool {
        let Some((table, domain)) = self.to_be_emptied() else {
            return false;
        };
        if self.tables.needs_publishing() {
            self.publish_some();
            return true;
        }
        let (places, end) = self.pass.last_places(domain, self.step);
        let keys = places.into_iter().map(|prefix| FtnKey::new(domain, prefix));
        let held: Vec<(FtnKey, Option<RouteEntry>)> = keys.map(|key| (key, self.held(key))).collect();
        self.pass.set_end(domain, Some(end));
        if let Some(vrf) = self.vrfs.by_table.get_mut(&table) {
            vrf.is_filled = false;
        }
        let mut last = None;
        for (key, held) in held {
            if self.tables.needs_publishing() {
                self.pass.set_end(domain, last);
                break;
            }
            last = Some(key.prefix);
            // Entries that cannot be removed are unsettled.
            let _ = self.write_ftn(Write {
                key,
                held,
                wanted: None,
            });
        }
        self.publish_some();
        if self.pass.has_not_begun(domain) && !self.is_unsettled(domain) {
            self.pass.remove_domain(domain);
            self.vrfs.by_table.remove(&table);
        }
        true
    }
}

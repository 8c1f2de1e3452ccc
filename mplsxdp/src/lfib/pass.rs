//! Pass entries: the parts of an FTN prefix that must not be imposed. This box's own and other addresses that are never
//! forwarded as labelled packets, and kernel routes more specific than the FTN prefix, stay the kernel's. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why a prefix is the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Claim {
    /// Never imposed, whatever the FTN says: local, broadcast, multicast, link-local and loopback addresses.
    Never,
    /// A kernel route: it wins where it is more specific than every FTN prefix.
    Route,
}

/// Addresses that no box imposes labels on.
pub const NEVER: [IpNet; 9] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
];

/// What the kernel claims, and what the FTN has.
#[derive(Debug)]
pub struct PassEntries {
    claims: BTreeMap<IpNet, BTreeSet<Claim>>,
    ftn: BTreeSet<IpNet>,
}

/// What belongs at a prefix of the FTN table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The route for this prefix.
    Route,
    Pass,
    Nothing,
}

impl Default for PassEntries {
    fn default() -> Self {
        let claims = NEVER
            .iter()
            .map(|&prefix| (prefix, BTreeSet::from([Claim::Never])))
            .collect();
        Self {
            claims,
            ftn: BTreeSet::new(),
        }
    }
}

impl PassEntries {
    /// The FTN has, or no longer has, a route for `prefix`. Returns the prefixes at which something else is wanted now.
    pub fn set_ftn(&mut self, prefix: IpNet, present: bool) -> Vec<IpNet> {
        let changed = if present {
            self.ftn.insert(prefix)
        } else {
            self.ftn.remove(&prefix)
        };
        if !changed {
            return Vec::new();
        }
        // Claims within the prefix, which it may cover now or no longer, and itself.
        let within = self
            .claims
            .range(prefix..)
            .map(|(&claim, _)| claim)
            .take_while(|claim| prefix.contains(claim));
        std::iter::once(prefix)
            .chain(within.filter(|&claim| claim != prefix))
            .collect()
    }

    /// The kernel claims, or no longer claims, `prefix`. Returns whether something else is wanted at it now.
    pub fn set_claim(&mut self, prefix: IpNet, claim: Claim, present: bool) -> bool {
        if claim == Claim::Never && NEVER.contains(&prefix) {
            return false;
        }
        let before = self.wanted(prefix);
        let claims = self.claims.entry(prefix).or_default();
        if present {
            claims.insert(claim);
        } else {
            claims.remove(&claim);
        }
        if claims.is_empty() {
            self.claims.remove(&prefix);
        }
        self.wanted(prefix) != before
    }

    /// What belongs at `prefix`.
    pub fn wanted(&self, prefix: IpNet) -> Wanted {
        let in_ftn = self.ftn.contains(&prefix);
        match self.claims.get(&prefix).and_then(|claims| claims.first()) {
            Some(Claim::Never) if in_ftn || self.is_covered(prefix) => Wanted::Pass,
            Some(Claim::Route) if !in_ftn && self.is_covered(prefix) => Wanted::Pass,
            _ if in_ftn => Wanted::Route,
            _ => Wanted::Nothing,
        }
    }

    /// Whether a shorter FTN prefix holds `prefix`.
    fn is_covered(&self, prefix: IpNet) -> bool {
        std::iter::successors(prefix.supernet(), IpNet::supernet).any(|shorter| self.ftn.contains(&shorter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_more_specific_kernel_route_passes_and_a_less_specific_one_does_not_matter() {
        let mut entries = PassEntries::default();
        assert!(!entries.set_claim(net("10.4.0.0/16"), Claim::Route, true));
        assert!(!entries.set_claim(net("0.0.0.0/0"), Claim::Route, true));
        assert_eq!(
            entries.set_ftn(net("10.0.0.0/8"), true),
            [net("10.0.0.0/8"), net("10.4.0.0/16")]
        );
        assert_eq!(entries.wanted(net("10.4.0.0/16")), Wanted::Pass);
        assert_eq!(entries.wanted(net("0.0.0.0/0")), Wanted::Nothing);
        assert!(entries.set_claim(net("10.4.5.0/24"), Claim::Route, true));
        assert_eq!(entries.wanted(net("10.4.5.0/24")), Wanted::Pass);
        assert_eq!(
            entries.set_ftn(net("10.4.0.0/16"), true),
            [net("10.4.0.0/16"), net("10.4.5.0/24")]
        );
        assert_eq!(entries.wanted(net("10.4.0.0/16")), Wanted::Route);
        assert!(entries.set_claim(net("10.4.5.0/24"), Claim::Route, false));
        assert_eq!(entries.wanted(net("10.4.5.0/24")), Wanted::Nothing);
        entries.set_ftn(net("10.4.0.0/16"), false);
        entries.set_ftn(net("10.0.0.0/8"), false);
        assert_eq!(entries.wanted(net("10.4.0.0/16")), Wanted::Nothing);
    }

    #[test]
    fn this_box_s_addresses_are_never_imposed_even_where_the_ftn_has_them() {
        let mut entries = PassEntries::default();
        entries.set_ftn(net("10.0.0.1/32"), true);
        assert!(entries.set_claim(net("10.0.0.1/32"), Claim::Never, true));
        assert_eq!(entries.wanted(net("10.0.0.1/32")), Wanted::Pass);
        // The address as a kernel route goes; as this box's own it stays.
        entries.set_claim(net("10.0.0.1/32"), Claim::Route, true);
        assert!(!entries.set_claim(net("10.0.0.1/32"), Claim::Route, false));
        assert!(entries.set_claim(net("10.0.0.1/32"), Claim::Never, false));
        assert_eq!(entries.wanted(net("10.0.0.1/32")), Wanted::Route);
    }

    #[test]
    fn a_default_route_in_the_ftn_leaves_multicast_and_loopback_alone() {
        let mut entries = PassEntries::default();
        entries.set_ftn(net("0.0.0.0/0"), true);
        entries.set_ftn(net("::/0"), true);
        assert!(NEVER.iter().all(|&prefix| entries.wanted(prefix) == Wanted::Pass));
    }
}

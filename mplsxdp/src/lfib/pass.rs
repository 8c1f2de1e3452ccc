//! Pass entries: the parts of an FTN prefix on which no labels may be imposed. This router's own addresses, other
//! addresses that are never forwarded as labelled packets, and kernel routes more specific than the FTN prefix stay
//! with the kernel. What the kernel claims depends on the VRF, so each [`Domain`] has its own entries. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Bound;

use ipnet::{IpNet, Ipv4Net};
use mplsxdp_common::abi::Domain;

use super::fecs::{Families, Fecs};
use crate::dataplane::FtnKey;
use crate::route::{Fec, NEVER, RoutingTable};

/// Why a prefix belongs to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Claim {
    /// Never imposed, whatever the FTN says: local, broadcast, multicast, link-local and loopback addresses.
    Never,
    /// A kernel route: it wins if it is more specific than every FTN prefix.
    Route,
}

/// The FECs that have a route, and for each domain the prefixes that the kernel claims.
#[derive(Debug)]
pub struct PassEntries {
    fecs: Fecs,
    domains: BTreeMap<Domain, Entries>,
}

/// One domain.
#[derive(Debug)]
struct Entries {
    /// The routing table of the ports that use the domain.
    table: RoutingTable,
    claims: BTreeMap<IpNet, Claim>,
    /// Prefixes without a route within which some claims have pass entries already, or still. Such entries change
    /// nothing for any packet, so they can be written in steps before a route comes, and removed in steps after it has
    /// gone.
    laid: BTreeMap<IpNet, Laid>,
    /// Prefixes before this one, in order, are in the table; with `None`, all are. No port uses an incomplete domain.
    end: Option<IpNet>,
}

/// The claims within a prefix that have pass entries although the prefix has no route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Laid {
    /// Those before this one, in order; with `None`, all.
    pub end: Option<IpNet>,
    /// The entries should be removed.
    pub going: bool,
}

impl Laid {
    /// All entries, after their route has gone.
    pub const ALL_GOING: Self = Self { end: None, going: true };

    pub fn is_whole(self) -> bool {
        self.end.is_none()
    }

    fn has(self, claim: IpNet) -> bool {
        self.end.is_none_or(|end| claim < end)
    }
}

/// What the FTN table should hold at a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The route of this FEC.
    Route(Fec),
    Pass,
    Nothing,
}

/// Comes before all other prefixes, in their order.
pub(super) const FIRST: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

impl Default for PassEntries {
    /// With the domain of ports outside of VRFs.
    fn default() -> Self {
        let mut entries = Self {
            fecs: Fecs::default(),
            domains: BTreeMap::new(),
        };
        entries.add_domain(Domain::NO_VRF, RoutingTable::MAIN);
        entries.set_end(Domain::NO_VRF, None);
        entries
    }
}

impl PassEntries {
    pub fn domains(&self) -> impl Iterator<Item = Domain> {
        self.domains.keys().copied()
    }

    /// How many domains have, or may have, entries in the table.
    pub fn domains_begun(&self) -> usize {
        let begun = self.domains.values().filter(|entries| entries.has_begun());
        begun.count()
    }

    /// How many entries routes have in the domains that are begun, and in `other`.
    pub fn route_entries(&self, other: Option<Domain>) -> Families {
        let domains = self.domains.iter();
        let begun = domains.filter(|&(&domain, entries)| entries.has_begun() || Some(domain) == other);
        begun.fold(Families::default(), |mut count, (_, entries)| {
            count += self.fecs.count(entries.table);
            count
        })
    }

    /// How many entries a route of `fec` takes in the domains that are begun, if the FECs in `others` have a route,
    /// too.
    pub fn new_entries(&self, fec: Fec, others: impl Fn(Fec) -> bool) -> usize {
        let places = self.places(fec).filter(|key| self.find(*key).is_none());
        let new = places.filter(|key| {
            self.domains.get(&key.domain).is_some_and(|entries| {
                let other = match fec.table {
                    Some(_) => None,
                    None => Some(entries.table),
                };
                entries.has_begun() && !others(Fec::new(fec.prefix, other))
            })
        });
        new.count()
    }

    /// Adds a domain, of which nothing is in the table yet: see [`PassEntries::next_places`].
    pub fn add_domain(&mut self, domain: Domain, table: RoutingTable) {
        let entries = Entries {
            table,
            claims: NEVER.map(|prefix| (prefix, Claim::Never)).into(),
            laid: BTreeMap::new(),
            end: Some(FIRST),
        };
        self.domains.insert(domain, entries);
    }

    pub fn remove_domain(&mut self, domain: Domain) {
        self.domains.remove(&domain);
    }

    /// Whether all entries of a domain are in the table.
    pub fn is_whole(&self, domain: Domain) -> bool {
        self.domains.get(&domain).is_some_and(|entries| entries.end.is_none())
    }

    /// Whether no entry of a domain is in the table.
    pub fn has_not_begun(&self, domain: Domain) -> bool {
        self.domains.get(&domain).is_none_or(|entries| !entries.has_begun())
    }

    /// Whether the domain is not yet filled as far as `key`: then nothing is wanted at `key` or within it.
    pub fn is_beyond_end(&self, key: FtnKey) -> bool {
        let entries = self.domains.get(&key.domain);
        entries.is_none_or(|entries| entries.is_beyond_end(key.prefix))
    }

    /// Sets how much of `domain` should be in the table from now on: the entries for prefixes before `end`, or all.
    pub fn set_end(&mut self, domain: Domain, end: Option<IpNet>) {
        if let Some(entries) = self.domains.get_mut(&domain) {
            entries.end = end;
        }
    }

    /// Up to `most` further prefixes that may have entries in a domain, and its new end once those are in the table.
    pub fn next_places(&self, domain: Domain, most: usize) -> (Vec<IpNet>, Option<IpNet>) {
        let Some(entries) = self.domains.get(&domain) else {
            return (Vec::new(), None);
        };
        let Some(end) = entries.end else {
            return (Vec::new(), None);
        };
        let claims = entries.claims.range(end..).take(most + 1).map(|(&prefix, _)| prefix);
        let routes = self.fecs.first(entries.table, end, most + 1);
        let mut places: Vec<IpNet> = BTreeSet::from_iter(claims.chain(routes)).into_iter().collect();
        let end = places.get(most).copied();
        places.truncate(most);
        (places, end)
    }

    /// The last prefixes, up to `most`, that may have entries in a domain, and its new end once those are removed from
    /// the table.
    pub fn last_places(&self, domain: Domain, most: usize) -> (Vec<IpNet>, IpNet) {
        let Some(entries) = self.domains.get(&domain) else {
            return (Vec::new(), FIRST);
        };
        let before = entries.end.map_or(Bound::Unbounded, Bound::Excluded);
        let claims = entries.claims.range((Bound::Unbounded, before)).rev();
        let claims = claims.take(most).map(|(&prefix, _)| prefix);
        let routes = self.fecs.last(entries.table, before, most);
        let places: Vec<IpNet> = BTreeSet::from_iter(claims.chain(routes))
            .into_iter()
            .rev()
            .take(most)
            .collect();
        let end = places.last().copied().filter(|_| places.len() == most);
        (places, end.unwrap_or(FIRST))
    }

    /// Sets whether `fec` has a route. What is wanted may change at its [places](Self::places) and at the claims within
    /// them.
    pub fn set_route(&mut self, fec: Fec, present: bool) {
        if present {
            self.fecs.insert(fec);
        } else {
            self.fecs.remove(fec);
        }
    }

    /// The places where the route of `fec` applies, or would if there were one.
    pub fn places(&self, fec: Fec) -> impl Iterator<Item = FtnKey> {
        let domains = self.domains.iter().filter(move |(_, entries)| match fec.table {
            Some(table) => table == entries.table,
            None => !self.fecs.contains(Fec::new(fec.prefix, Some(entries.table))),
        });
        domains.map(move |(&domain, _)| FtnKey::new(domain, fec.prefix))
    }

    /// Whether another route applies at the [places](Self::places) of `fec` while `fec` itself has none.
    pub fn has_fallback(&self, fec: Fec) -> bool {
        fec.table.is_some() && self.fecs.contains(fec.prefix.into())
    }

    /// Sets the claim on `key`. What is wanted may change at `key` only.
    pub fn set_claim(&mut self, key: FtnKey, claim: Option<Claim>) {
        let Some(entries) = self
            .domains
            .get_mut(&key.domain)
            .filter(|_| !NEVER.contains(&key.prefix))
        else {
            return;
        };
        match claim {
            Some(claim) => entries.claims.insert(key.prefix, claim),
            None => entries.claims.remove(&key.prefix),
        };
    }

    /// What the kernel claims of `key`.
    pub fn claim(&self, key: FtnKey) -> Option<Claim> {
        self.domains.get(&key.domain)?.claims.get(&key.prefix).copied()
    }

    /// The claimed prefixes within `within`, itself included.
    pub fn claims_within(&self, within: FtnKey) -> impl Iterator<Item = FtnKey> {
        let FtnKey { domain, prefix } = within;
        let entries = self.domains.get(&domain).into_iter();
        let claims = entries.flat_map(move |entries| entries.claims.range(prefix..).map(|(&claim, _)| claim));
        claims
            .take_while(move |claim| prefix.contains(claim))
            .map(move |claim| FtnKey::new(domain, claim))
    }

    /// Whether more than `count` claims are within `key`, itself excluded.
    pub fn holds_more_than(&self, count: usize, key: FtnKey) -> bool {
        let entries = self.domains.get(&key.domain);
        entries.is_some_and(|entries| entries.claims_beneath(key.prefix, None).nth(count).is_some())
    }

    /// The FEC whose route applies at `key`.
    pub fn find(&self, key: FtnKey) -> Option<Fec> {
        self.fecs.find(self.domains.get(&key.domain)?.table, key.prefix)
    }

    /// The FEC whose route applies to `prefix` at ports of `table`.
    pub fn find_in(&self, table: RoutingTable, prefix: IpNet) -> Option<Fec> {
        self.fecs.find(table, prefix)
    }

    pub fn laid(&self, key: FtnKey) -> Option<Laid> {
        self.domains.get(&key.domain)?.laid.get(&key.prefix).copied()
    }

    /// Sets which claims within `key` have pass entries. What is wanted may change at these claims: see
    /// [`PassEntries::more`] and [`PassEntries::less`].
    pub fn set_laid(&mut self, key: FtnKey, laid: Option<Laid>) {
        let Some(entries) = self.domains.get_mut(&key.domain) else {
            return;
        };
        match laid {
            Some(laid) => entries.laid.insert(key.prefix, laid),
            None => entries.laid.remove(&key.prefix),
        };
    }

    /// A prefix whose pass entries are to be removed.
    pub fn going(&self) -> Option<FtnKey> {
        self.domains.iter().find_map(|(&domain, entries)| {
            let going = entries.laid.iter().find(|(_, laid)| laid.going);
            going.map(|(&prefix, _)| FtnKey::new(domain, prefix))
        })
    }

    /// Whether any pass entries are there without a route.
    #[cfg(test)]
    pub fn has_laid(&self) -> bool {
        self.domains.values().any(|entries| !entries.laid.is_empty())
    }

    /// Marks the pass entries of all prefixes without a route for removal.
    pub fn set_all_going(&mut self) {
        let laid = self.domains.values_mut().flat_map(|entries| entries.laid.values_mut());
        laid.for_each(|laid| laid.going = true);
    }

    /// Up to `most` further claims within `key` for which pass entries can be written, and the new state afterwards.
    pub fn more(&self, key: FtnKey, most: usize) -> (Vec<IpNet>, Laid) {
        let laid = self.laid(key);
        let is_whole = laid.is_some_and(Laid::is_whole);
        let first = laid.and_then(|laid| laid.end).unwrap_or(key.prefix);
        let entries = self.domains.get(&key.domain).filter(|_| !is_whole).into_iter();
        let rest = entries.flat_map(|entries| entries.claims.range(first..).map(|(&claim, _)| claim));
        let mut rest = rest
            .take_while(|claim| key.prefix.contains(claim))
            .filter(|&claim| claim != key.prefix);
        let claims = rest.by_ref().take(most).collect();
        let end = rest.next();
        (claims, Laid { end, going: false })
    }

    /// The last claims, up to `most`, within `key` whose pass entries can be removed, and the new state afterwards.
    pub fn less(&self, key: FtnKey, most: usize) -> (Vec<IpNet>, Option<Laid>) {
        let end = self.laid(key).and_then(|laid| laid.end);
        let entries = self.domains.get(&key.domain).into_iter();
        let claims = entries.flat_map(|entries| entries.claims_beneath(key.prefix, end).rev());
        let claims: Vec<IpNet> = claims.take(most).collect();
        let rest = claims.last().filter(|_| claims.len() == most);
        let laid = rest.map(|&first| Laid {
            end: Some(first),
            going: true,
        });
        (claims, laid)
    }

    /// The places, longest prefix first, where routes apply whose prefixes cover that of `key`, itself included.
    pub fn covering(&self, key: FtnKey) -> impl Iterator<Item = FtnKey> {
        let prefixes = std::iter::successors(Some(key.prefix), IpNet::supernet);
        let keys = prefixes.map(move |prefix| FtnKey::new(key.domain, prefix));
        keys.filter(|&key| self.find(key).is_some())
    }

    /// What the table should hold at `key`.
    pub fn wanted(&self, key: FtnKey) -> Wanted {
        let FtnKey { domain, prefix } = key;
        let Some(entries) = self.domains.get(&domain) else {
            return Wanted::Nothing;
        };
        if entries.is_beyond_end(prefix) {
            return Wanted::Nothing;
        }
        match (entries.claims.get(&prefix), self.fecs.find(entries.table, prefix)) {
            (Some(Claim::Never), Some(_)) => Wanted::Pass,
            (_, Some(fec)) => Wanted::Route(fec),
            (Some(_), None) if self.is_covered(entries, prefix) => Wanted::Pass,
            (_, None) => Wanted::Nothing,
        }
    }

    /// Whether a shorter prefix covers `prefix` and has a route, or has pass entries up to there.
    fn is_covered(&self, Entries { table, laid, .. }: &Entries, prefix: IpNet) -> bool {
        let covers = |shorter: IpNet| {
            self.fecs.find(*table, shorter).is_some()
                || !laid.is_empty() && laid.get(&shorter).is_some_and(|laid| laid.has(prefix))
        };
        let mut shorter = std::iter::successors(prefix.supernet(), IpNet::supernet);
        shorter.any(covers)
    }
}

impl Entries {
    fn has_begun(&self) -> bool {
        self.end != Some(FIRST)
    }

    fn is_beyond_end(&self, prefix: IpNet) -> bool {
        self.end.is_some_and(|end| prefix >= end)
    }

    /// The claims within `prefix`, itself excluded, before `end`.
    fn claims_beneath(&self, prefix: IpNet, end: Option<IpNet>) -> impl DoubleEndedIterator<Item = IpNet> {
        let last = IpNet::new(prefix.broadcast(), prefix.max_prefix_len()).unwrap_or(prefix);
        let upper = match end {
            Some(end) if end <= last => Bound::Excluded(end),
            _ => Bound::Included(last),
        };
        // A prefix of one address covers no other.
        let range = (prefix < last).then(|| self.claims.range((Bound::Excluded(prefix), upper)));
        range.into_iter().flatten().map(|(&claim, _)| claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn own(prefix: IpNet) -> FtnKey {
        FtnKey::new(Domain::NO_VRF, prefix)
    }

    fn set_claim(entries: &mut PassEntries, prefix: IpNet, claim: Option<Claim>) {
        entries.set_claim(own(prefix), claim);
    }

    fn set_route(entries: &mut PassEntries, prefix: IpNet, present: bool) {
        entries.set_route(prefix.into(), present);
    }

    fn wanted(entries: &PassEntries, prefix: IpNet) -> Wanted {
        entries.wanted(own(prefix))
    }

    #[test]
    fn a_more_specific_kernel_route_passes_and_a_less_specific_one_does_not_matter() {
        let mut entries = PassEntries::default();
        let (default, eight, sixteen) = (net("0.0.0.0/0"), net("10.0.0.0/8"), net("10.4.0.0/16"));
        set_claim(&mut entries, sixteen, Some(Claim::Route));
        set_claim(&mut entries, default, Some(Claim::Route));
        assert_eq!(wanted(&entries, sixteen), Wanted::Nothing);
        set_route(&mut entries, eight, true);
        assert_eq!(
            (wanted(&entries, eight), wanted(&entries, sixteen)),
            (Wanted::Route(eight.into()), Wanted::Pass)
        );
        assert_eq!(wanted(&entries, default), Wanted::Nothing);
        let specific = net("10.4.5.0/24");
        set_claim(&mut entries, specific, Some(Claim::Route));
        assert_eq!(wanted(&entries, specific), Wanted::Pass);
        assert!(entries.claims_within(own(eight)).eq([own(sixteen), own(specific)]));
        set_route(&mut entries, sixteen, true);
        assert_eq!(wanted(&entries, sixteen), Wanted::Route(sixteen.into()));
        assert!(entries.covering(own(specific)).eq([own(sixteen), own(eight)]));
        set_claim(&mut entries, specific, None);
        assert_eq!(wanted(&entries, specific), Wanted::Nothing);
        set_route(&mut entries, sixteen, false);
        set_route(&mut entries, eight, false);
        assert_eq!(wanted(&entries, sixteen), Wanted::Nothing);
    }

    #[test]
    fn this_routers_addresses_are_never_imposed_even_where_the_ftn_has_them() {
        let mut entries = PassEntries::default();
        let own = net("10.0.0.1/32");
        set_route(&mut entries, own, true);
        for (claim, expected) in [
            (Some(Claim::Never), Wanted::Pass),
            (Some(Claim::Route), Wanted::Route(own.into())),
            (None, Wanted::Route(own.into())),
        ] {
            set_claim(&mut entries, own, claim);
            assert_eq!(wanted(&entries, own), expected, "{claim:?}");
        }
    }

    #[test]
    fn a_default_route_in_the_ftn_leaves_multicast_and_loopback_alone() {
        let mut entries = PassEntries::default();
        set_route(&mut entries, net("0.0.0.0/0"), true);
        set_route(&mut entries, net("::/0"), true);
        assert!(NEVER.iter().all(|&prefix| wanted(&entries, prefix) == Wanted::Pass));
    }
}

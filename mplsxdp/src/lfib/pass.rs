//! Pass entries: the parts of an FTN prefix that must not be imposed. This box's own and other addresses that are never
//! forwarded as labelled packets, and kernel routes more specific than the FTN prefix, stay the kernel's. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use ipnet::IpNet;

use crate::route::NEVER;

/// Why a prefix is the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Claim {
    /// Never imposed, whatever the FTN says: local, broadcast, multicast, link-local and loopback addresses.
    Never,
    /// A kernel route: it wins where it is more specific than every FTN prefix.
    Route,
}

/// The prefixes that the kernel claims, and the prefixes that have an FTN route.
#[derive(Debug)]
pub struct PassEntries {
    claims: BTreeMap<IpNet, Claim>,
    ftn: BTreeSet<IpNet>,
    /// Prefixes without a route, and the claims within them that have pass entries all the same. Those change nothing for any
    /// packet, so that they can be written bit by bit before a route comes, and removed bit by bit after it has gone.
    laid: BTreeMap<IpNet, Laid>,
}

/// The claims within a prefix that have pass entries though it has no route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Laid {
    /// Those before this one, in their order; all if there is none.
    pub end: Option<IpNet>,
    /// They are to be removed.
    pub going: bool,
}

impl Laid {
    /// All of them, after their route has gone.
    pub const ALL_GOING: Self = Self { end: None, going: true };

    pub fn is_whole(self) -> bool {
        self.end.is_none()
    }

    fn has(self, claim: IpNet) -> bool {
        self.end.is_none_or(|end| claim < end)
    }
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
        Self {
            claims: NEVER.map(|prefix| (prefix, Claim::Never)).into(),
            ftn: BTreeSet::new(),
            laid: BTreeMap::new(),
        }
    }
}

impl PassEntries {
    /// The FTN has, or no longer has, a route for `prefix`. What is wanted may change at it and at the claims within it.
    pub fn set_ftn(&mut self, prefix: IpNet, present: bool) {
        if present {
            self.ftn.insert(prefix);
        } else {
            self.ftn.remove(&prefix);
        }
    }

    /// The claim on `prefix` is `claim` from now on. What is wanted may change at `prefix`, and nowhere else.
    pub fn set_claim(&mut self, prefix: IpNet, claim: Option<Claim>) {
        if NEVER.contains(&prefix) {
            return;
        }
        match claim {
            Some(claim) => self.claims.insert(prefix, claim),
            None => self.claims.remove(&prefix),
        };
    }

    /// The claimed prefixes that `prefix` holds, itself included.
    pub fn claims_within(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        let claims = self.claims.range(prefix..).map(|(&claim, _)| claim);
        claims.take_while(move |claim| prefix.contains(claim))
    }

    /// Whether `prefix` holds more than `count` claims, itself aside.
    pub fn holds_more_than(&self, count: usize, prefix: IpNet) -> bool {
        self.claims_beneath(prefix, None).nth(count).is_some()
    }

    pub fn has_ftn(&self, prefix: IpNet) -> bool {
        self.ftn.contains(&prefix)
    }

    pub fn laid(&self, prefix: IpNet) -> Option<Laid> {
        self.laid.get(&prefix).copied()
    }

    /// What is wanted may change at the claims that this concerns: see [`PassEntries::more`] and [`PassEntries::less`].
    pub fn set_laid(&mut self, prefix: IpNet, laid: Option<Laid>) {
        match laid {
            Some(laid) => self.laid.insert(prefix, laid),
            None => self.laid.remove(&prefix),
        };
    }

    /// A prefix whose pass entries are to be removed.
    pub fn going(&self) -> Option<IpNet> {
        let mut laid = self.laid.iter();
        laid.find(|(_, laid)| laid.going).map(|(&prefix, _)| prefix)
    }

    /// Whether anything is laid.
    #[cfg(test)]
    pub fn has_laid(&self) -> bool {
        !self.laid.is_empty()
    }

    /// Nothing is to come any more where no route has come.
    pub fn set_all_going(&mut self) {
        self.laid.values_mut().for_each(|laid| laid.going = true);
    }

    /// Up to `most` further claims within `prefix`, for which pass entries can be written, and what is laid then.
    pub fn more(&self, prefix: IpNet, most: usize) -> (Vec<IpNet>, Laid) {
        let first = match self.laid(prefix) {
            Some(Laid { end: None, .. }) => {
                return (
                    Vec::new(),
                    Laid {
                        end: None,
                        going: false,
                    },
                );
            }
            Some(Laid { end: Some(end), .. }) => end,
            None => prefix,
        };
        let rest = self.claims.range(first..).map(|(&claim, _)| claim);
        let mut rest = rest
            .take_while(|claim| prefix.contains(claim))
            .filter(|&claim| claim != prefix);
        let claims = rest.by_ref().take(most).collect();
        let end = rest.next();
        (claims, Laid { end, going: false })
    }

    /// Up to `most` claims within `prefix`, the last ones, whose pass entries can be removed, and what is laid then.
    pub fn less(&self, prefix: IpNet, most: usize) -> (Vec<IpNet>, Option<Laid>) {
        let end = self.laid(prefix).and_then(|laid| laid.end);
        let claims: Vec<IpNet> = self.claims_beneath(prefix, end).rev().take(most).collect();
        let rest = claims.last().filter(|_| claims.len() == most);
        let laid = rest.map(|&first| Laid {
            end: Some(first),
            going: true,
        });
        (claims, laid)
    }

    /// The claims within `prefix`, itself aside, before `end`.
    fn claims_beneath(&self, prefix: IpNet, end: Option<IpNet>) -> impl DoubleEndedIterator<Item = IpNet> {
        let last = IpNet::new(prefix.broadcast(), prefix.max_prefix_len()).unwrap_or(prefix);
        let upper = match end {
            Some(end) if end <= last => Bound::Excluded(end),
            _ => Bound::Included(last),
        };
        // A prefix of one address holds nothing.
        let range = (prefix < last).then(|| self.claims.range((Bound::Excluded(prefix), upper)));
        range.into_iter().flatten().map(|(&claim, _)| claim)
    }

    /// The FTN prefixes that hold `prefix`, itself included; the longest first.
    pub fn covering(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        std::iter::successors(Some(prefix), IpNet::supernet).filter(|prefix| self.ftn.contains(prefix))
    }

    /// What belongs at `prefix`.
    pub fn wanted(&self, prefix: IpNet) -> Wanted {
        let in_ftn = self.ftn.contains(&prefix);
        match self.claims.get(&prefix) {
            Some(Claim::Never) if in_ftn || self.is_covered(prefix) => Wanted::Pass,
            Some(Claim::Route) if !in_ftn && self.is_covered(prefix) => Wanted::Pass,
            _ if in_ftn => Wanted::Route,
            _ => Wanted::Nothing,
        }
    }

    /// Whether a shorter prefix holds `prefix` that has a route, or is laid so far.
    fn is_covered(&self, prefix: IpNet) -> bool {
        let covers = |shorter: &IpNet| {
            self.ftn.contains(shorter)
                || !self.laid.is_empty() && self.laid.get(shorter).is_some_and(|laid| laid.has(prefix))
        };
        let mut shorter = std::iter::successors(prefix.supernet(), IpNet::supernet);
        shorter.any(|shorter| covers(&shorter))
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
        let (default, eight, sixteen) = (net("0.0.0.0/0"), net("10.0.0.0/8"), net("10.4.0.0/16"));
        entries.set_claim(sixteen, Some(Claim::Route));
        entries.set_claim(default, Some(Claim::Route));
        assert_eq!(entries.wanted(sixteen), Wanted::Nothing);
        entries.set_ftn(eight, true);
        assert_eq!(
            (entries.wanted(eight), entries.wanted(sixteen)),
            (Wanted::Route, Wanted::Pass)
        );
        assert_eq!(entries.wanted(default), Wanted::Nothing);
        let specific = net("10.4.5.0/24");
        entries.set_claim(specific, Some(Claim::Route));
        assert_eq!(entries.wanted(specific), Wanted::Pass);
        assert!(entries.claims_within(eight).eq([sixteen, specific]));
        entries.set_ftn(sixteen, true);
        assert_eq!(entries.wanted(sixteen), Wanted::Route);
        assert!(entries.covering(specific).eq([sixteen, eight]));
        entries.set_claim(specific, None);
        assert_eq!(entries.wanted(specific), Wanted::Nothing);
        entries.set_ftn(sixteen, false);
        entries.set_ftn(eight, false);
        assert_eq!(entries.wanted(sixteen), Wanted::Nothing);
    }

    #[test]
    fn this_box_s_addresses_are_never_imposed_even_where_the_ftn_has_them() {
        let mut entries = PassEntries::default();
        let own = net("10.0.0.1/32");
        entries.set_ftn(own, true);
        for (claim, wanted) in [
            (Some(Claim::Never), Wanted::Pass),
            (Some(Claim::Route), Wanted::Route),
            (None, Wanted::Route),
        ] {
            entries.set_claim(own, claim);
            assert_eq!(entries.wanted(own), wanted, "{claim:?}");
        }
    }

    #[test]
    fn a_default_route_in_the_ftn_leaves_multicast_and_loopback_alone() {
        let mut entries = PassEntries::default();
        entries.set_ftn(net("0.0.0.0/0"), true);
        entries.set_ftn(net("::/0"), true);
        assert!(NEVER.iter().all(|&prefix| entries.wanted(prefix) == Wanted::Pass));
    }
}

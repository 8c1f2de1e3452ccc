//! Which of the kernel's routes an imposed prefix must leave to the kernel.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{TABLE_LOCAL, TABLE_MAIN};
use crate::lfib::Budget;
use crate::lfib::pass::Claim;
use crate::neighbour::routes::KernelRoutes;
use crate::neighbour::{KernelRoute, RouteKind};

/// What the kernel claims of a prefix for which it has these `routes`, at ports in the VRF with this table, or in none.
/// For other ports the tables local and main apply; a VRF's table replaces both at its ports. `into_local` is where the
/// kernel sends packets that get labels.
pub fn claim<'a>(
    routes: impl Iterator<Item = &'a KernelRoute>,
    vrf_table: Option<u32>,
    into_local: Option<u32>,
) -> Option<Claim> {
    let claims = routes.filter_map(|route| {
        let (in_local, in_main) = match vrf_table {
            None => (route.table == TABLE_LOCAL, route.table == TABLE_MAIN),
            Some(table) => (route.table == table, route.table == table),
        };
        let is_own = matches!(
            route.kind,
            RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast
        );
        if is_own && in_local {
            return Some(Claim::Never);
        }
        let is_elsewhere = route.oif.is_none() || route.oif != into_local;
        (in_main && is_elsewhere).then_some(Claim::Route)
    });
    claims.min()
}

/// A part of what the kernel claims at ports in the VRF with this table: of the prefixes from `from` on. Also the prefix
/// at which the next part begins; `None` at the end.
pub fn some_claims(
    vrf_table: u32,
    routes: &KernelRoutes,
    from: IpNet,
    into_local: Option<u32>,
    budget: &mut Budget<'_>,
) -> (BTreeMap<IpNet, Claim>, Option<IpNet>) {
    let mut claims = BTreeMap::new();
    let mut last = from;
    for route in routes.from(from) {
        if route.prefix != last && !budget.is_left() {
            return (claims, Some(route.prefix));
        }
        last = route.prefix;
        if route.table == vrf_table {
            let claim = claim(routes.get(route.prefix), Some(vrf_table), into_local);
            claims.extend(claim.map(|claim| (route.prefix, claim)));
        }
        budget.spend(1);
    }
    (claims, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbour::{Event, RoutePosition};

    const VRF: u32 = 10;
    const OTHER: u32 = 11;
    const ETH1: u32 = 2;
    const LOCAL_PAIR: u32 = 7;

    fn route(table: u32, kind: RouteKind, oif: Option<u32>) -> KernelRoute {
        KernelRoute {
            prefix: "10.0.0.0/8".parse().unwrap(),
            table,
            metric: 0,
            selector: 0,
            kind,
            shares: false,
            entry: 0,
            oif,
        }
    }

    fn claim_in(vrf_table: Option<u32>, routes: &[KernelRoute]) -> Option<Claim> {
        claim(routes.iter(), vrf_table, Some(LOCAL_PAIR))
    }

    #[test]
    fn outside_of_vrfs_the_tables_local_and_main_count_and_no_others() {
        for (table, kind, expected) in [
            (TABLE_LOCAL, RouteKind::Local, Some(Claim::Never)),
            (TABLE_LOCAL, RouteKind::Broadcast, Some(Claim::Never)),
            (TABLE_MAIN, RouteKind::Unicast, Some(Claim::Route)),
            (TABLE_MAIN, RouteKind::Blackhole, Some(Claim::Route)),
            (VRF, RouteKind::Local, None),
            (VRF, RouteKind::Unicast, None),
        ] {
            assert_eq!(
                claim_in(None, &[route(table, kind, Some(ETH1))]),
                expected,
                "{table} {kind:?}"
            );
        }
        assert_eq!(claim_in(None, &[]), None);
    }

    #[test]
    fn in_a_vrf_its_table_is_both_and_no_other_counts() {
        for kind in [
            RouteKind::Local,
            RouteKind::Broadcast,
            RouteKind::Anycast,
            RouteKind::Multicast,
        ] {
            let routes = [route(VRF, kind, Some(ETH1))];
            assert_eq!(claim_in(Some(VRF), &routes), Some(Claim::Never), "{kind:?}");
            assert_eq!(claim_in(Some(OTHER), &routes), None, "{kind:?}");
        }
        for kind in [RouteKind::Unicast, RouteKind::Blackhole, RouteKind::Unreachable] {
            let routes = [route(VRF, kind, None)];
            assert_eq!(claim_in(Some(VRF), &routes), Some(Claim::Route), "{kind:?}");
            assert_eq!(claim_in(Some(OTHER), &routes), None, "{kind:?}");
        }
        let several = [
            route(TABLE_LOCAL, RouteKind::Local, Some(ETH1)),
            route(TABLE_MAIN, RouteKind::Unicast, Some(ETH1)),
            route(VRF, RouteKind::Unicast, Some(ETH1)),
        ];
        assert_eq!(claim_in(None, &several), Some(Claim::Never));
        assert_eq!(claim_in(Some(VRF), &several), Some(Claim::Route));
        assert_eq!(claim_in(Some(OTHER), &several), None);
    }

    #[test]
    fn a_route_into_the_local_pair_is_no_claim() {
        for (vrf_table, table) in [(None, TABLE_MAIN), (Some(VRF), VRF)] {
            let routes = [route(table, RouteKind::Unicast, Some(LOCAL_PAIR))];
            assert_eq!(claim_in(vrf_table, &routes), None);
        }
    }

    #[test]
    fn all_claims_of_a_vrf_are_those_of_its_table() {
        let mut routes = KernelRoutes::default();
        for (table, prefix, kind, oif) in [
            (VRF, "10.0.0.0/8", RouteKind::Unicast, ETH1),
            (VRF, "10.0.0.1/32", RouteKind::Local, ETH1),
            (VRF, "10.1.0.0/16", RouteKind::Unicast, LOCAL_PAIR),
            (OTHER, "10.2.0.0/16", RouteKind::Unicast, ETH1),
            (TABLE_MAIN, "10.0.0.1/32", RouteKind::Unicast, ETH1),
            (TABLE_MAIN, "10.3.0.0/16", RouteKind::Unicast, ETH1),
        ] {
            let route = KernelRoute {
                prefix: prefix.parse().unwrap(),
                ..route(table, kind, Some(oif))
            };
            let position = RoutePosition::Last;
            routes.handle(&Event::Route { route, position }, &mut Default::default());
        }
        // One prefix in each part.
        let mut claims = BTreeMap::new();
        let mut from = Some("0.0.0.0/0".parse().unwrap());
        let mut parts = 0;
        while let Some(first) = from {
            let some;
            (some, from) = some_claims(
                VRF,
                &routes,
                first,
                Some(LOCAL_PAIR),
                &mut Budget::new(1, &mut || false),
            );
            claims.extend(some);
            parts += 1;
        }
        assert_eq!(parts, 5);
        let claims: Vec<_> = claims.iter().map(|(net, claim)| (net.to_string(), *claim)).collect();
        assert_eq!(
            claims,
            [
                ("10.0.0.0/8".to_owned(), Claim::Route),
                ("10.0.0.1/32".to_owned(), Claim::Never)
            ]
        );
    }
}

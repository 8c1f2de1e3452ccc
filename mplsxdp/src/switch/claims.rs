//! Which of the kernel's routes an imposed prefix must leave to the kernel. Pure.

use std::collections::BTreeSet;

use super::{TABLE_LOCAL, TABLE_MAIN};
use crate::lfib::pass::Claim;
use crate::neighbour::{KernelRoute, RouteKind};

/// What the kernel claims of a prefix that it has these `routes` for. `vrf_tables` are the tables of the VRFs that ports are
/// in: one has what is in the tables local and main of other ports. `into_local` is where the kernel sends packets that are to
/// get labels.
pub fn claim<'a>(
    routes: impl Iterator<Item = &'a KernelRoute>,
    vrf_tables: &BTreeSet<u32>,
    into_local: Option<u32>,
) -> Option<Claim> {
    let claims = routes.filter_map(|route| {
        let of_vrf = vrf_tables.contains(&route.table);
        let is_own = matches!(
            route.kind,
            RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast
        );
        if is_own && (of_vrf || route.table == TABLE_LOCAL) {
            return Some(Claim::Never);
        }
        let is_elsewhere = route.oif.is_none() || route.oif != into_local;
        ((of_vrf || route.table == TABLE_MAIN) && is_elsewhere).then_some(Claim::Route)
    });
    claims.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VRF: u32 = 10;
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

    fn claim_in(vrf_tables: &[u32], routes: &[KernelRoute]) -> Option<Claim> {
        claim(routes.iter(), &vrf_tables.iter().copied().collect(), Some(LOCAL_PAIR))
    }

    #[test]
    fn outside_of_vrfs_the_tables_local_and_main_count() {
        for (table, kind, expected) in [
            (TABLE_LOCAL, RouteKind::Local, Some(Claim::Never)),
            (TABLE_LOCAL, RouteKind::Broadcast, Some(Claim::Never)),
            (TABLE_MAIN, RouteKind::Unicast, Some(Claim::Route)),
            (TABLE_MAIN, RouteKind::Blackhole, Some(Claim::Route)),
            (VRF, RouteKind::Local, None),
            (VRF, RouteKind::Unicast, None),
        ] {
            assert_eq!(
                claim_in(&[], &[route(table, kind, Some(ETH1))]),
                expected,
                "{table} {kind:?}"
            );
        }
        assert_eq!(claim_in(&[], &[]), None);
    }

    #[test]
    fn the_table_of_a_port_s_vrf_is_both() {
        for kind in [
            RouteKind::Local,
            RouteKind::Broadcast,
            RouteKind::Anycast,
            RouteKind::Multicast,
        ] {
            let routes = [route(VRF, kind, Some(ETH1))];
            assert_eq!(claim_in(&[VRF], &routes), Some(Claim::Never), "{kind:?}");
            assert_eq!(claim_in(&[VRF + 1], &routes), None, "{kind:?}");
        }
        for kind in [RouteKind::Unicast, RouteKind::Blackhole, RouteKind::Unreachable] {
            let routes = [route(VRF, kind, None)];
            assert_eq!(claim_in(&[VRF - 1, VRF], &routes), Some(Claim::Route), "{kind:?}");
        }
        // The stronger claim counts, in whichever table it is.
        let both = [
            route(TABLE_MAIN, RouteKind::Unicast, Some(ETH1)),
            route(VRF, RouteKind::Local, Some(ETH1)),
        ];
        assert_eq!(claim_in(&[VRF], &both), Some(Claim::Never));
        assert_eq!(claim_in(&[], &both), Some(Claim::Route));
    }

    #[test]
    fn a_route_into_the_local_pair_is_no_claim() {
        for table in [TABLE_MAIN, VRF] {
            assert_eq!(
                claim_in(&[VRF], &[route(table, RouteKind::Unicast, Some(LOCAL_PAIR))]),
                None
            );
        }
    }
}

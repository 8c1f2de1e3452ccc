//! The table of the kernel's routes, by prefix: what an imposed prefix must leave to the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeBounds;

use ipnet::IpNet;

use super::{Event, KernelRoute, RouteKind};

/// The routes that the kernel reported, of all tables.
#[derive(Default, Debug)]
pub struct KernelRoutes {
    /// With the number of the resync that last reported it.
    routes: BTreeMap<KernelRoute, u64>,
    round: u64,
}

impl KernelRoutes {
    /// Adds the prefixes whose routes changed to `changed`. While a resync goes on, routes that were not reported yet stay.
    pub fn handle(&mut self, event: &Event, changed: &mut BTreeSet<IpNet>) {
        match event {
            Event::Reset => self.round += 1,
            Event::Synced => {
                let round = self.round;
                self.remove(.., |_, seen| seen != round, changed);
            }
            Event::Route { route, replaces } => {
                if *replaces {
                    let of_prefix = first_of(route.prefix)..=last_of(route.prefix);
                    let place = |route: &KernelRoute| (route.table, route.metric);
                    self.remove(of_prefix, |old, _| old != route && place(old) == place(route), changed);
                }
                if self.routes.insert(*route, self.round).is_none() {
                    changed.insert(route.prefix);
                }
            }
            Event::RouteGone(route) => {
                if self.routes.remove(route).is_some() {
                    changed.insert(route.prefix);
                }
            }
            Event::Link(_)
            | Event::LinkGone(_)
            | Event::Address(_)
            | Event::AddressGone(_)
            | Event::Neighbour(_)
            | Event::NeighbourGone { .. }
            | Event::Rules => {}
        }
    }

    /// The routes for exactly this prefix.
    pub fn get(&self, prefix: IpNet) -> impl Iterator<Item = &KernelRoute> {
        self.routes
            .range(first_of(prefix)..=last_of(prefix))
            .map(|(route, _)| route)
    }

    /// Whether a route other than a default route leads to `destination`.
    pub fn has_specific(&self, destination: IpAddr) -> bool {
        let host = IpNet::from(destination);
        std::iter::successors(Some(host), IpNet::supernet)
            .take_while(|prefix| prefix.prefix_len() > 0)
            .any(|prefix| {
                self.get(prefix)
                    .any(|route| matches!(route.kind, RouteKind::Unicast | RouteKind::Local))
            })
    }

    fn remove(
        &mut self,
        range: impl RangeBounds<KernelRoute>,
        choose: impl Fn(&KernelRoute, u64) -> bool,
        changed: &mut BTreeSet<IpNet>,
    ) {
        let gone = self.routes.extract_if(range, |route, seen| choose(route, *seen));
        changed.extend(gone.map(|(route, _)| route.prefix));
    }
}

/// What sorts before all routes for this prefix.
fn first_of(prefix: IpNet) -> KernelRoute {
    KernelRoute {
        prefix,
        table: 0,
        metric: 0,
        kind: RouteKind::Unicast,
        oif: None,
    }
}

/// What sorts after all routes for this prefix.
fn last_of(prefix: IpNet) -> KernelRoute {
    KernelRoute {
        prefix,
        table: u32::MAX,
        metric: u32::MAX,
        kind: RouteKind::Other,
        oif: Some(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, metric: u32, oif: u32) -> KernelRoute {
        KernelRoute {
            prefix: prefix.parse().unwrap(),
            table: 254,
            metric,
            kind: RouteKind::Unicast,
            oif: Some(oif),
        }
    }

    fn told(routes: &mut KernelRoutes, event: Event) -> Vec<String> {
        let mut changed = BTreeSet::new();
        routes.handle(&event, &mut changed);
        changed.iter().map(IpNet::to_string).collect()
    }

    fn add(routes: &mut KernelRoutes, route: KernelRoute) -> Vec<String> {
        told(routes, Event::Route { route, replaces: false })
    }

    #[test]
    fn a_default_route_is_no_specific_one() {
        let mut routes = KernelRoutes::default();
        for prefix in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.1.2.3/32",
            "10.2.0.0/16",
            "::/0",
        ] {
            assert_eq!(add(&mut routes, route(prefix, 0, 1)), [prefix]);
        }
        for (address, specific) in [
            ("10.1.2.3", true),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(routes.has_specific(address.parse().unwrap()), specific, "{address}");
        }
        assert_eq!(routes.get("10.0.0.0/8".parse().unwrap()).count(), 1);
    }

    #[test]
    fn a_prefix_stays_as_long_as_one_of_its_routes() {
        let mut routes = KernelRoutes::default();
        let prefix: IpNet = "10.0.0.0/8".parse().unwrap();
        add(&mut routes, route("10.0.0.0/8", 0, 1));
        assert_eq!(add(&mut routes, route("10.0.0.0/8", 0, 1)), Vec::<String>::new());
        add(&mut routes, route("10.0.0.0/8", 0, 2));
        add(&mut routes, route("10.0.0.0/8", 5, 2));
        assert_eq!(
            told(&mut routes, Event::RouteGone(route("10.0.0.0/8", 0, 1))),
            ["10.0.0.0/8"]
        );
        assert_eq!(
            told(&mut routes, Event::RouteGone(route("10.0.0.0/8", 0, 1))),
            Vec::<String>::new()
        );
        assert_eq!(routes.get(prefix).count(), 2);

        let replacing = route("10.0.0.0/8", 0, 3);
        told(
            &mut routes,
            Event::Route {
                route: replacing,
                replaces: true,
            },
        );
        let left = Vec::from_iter(routes.get(prefix).copied());
        assert_eq!(left, [replacing, route("10.0.0.0/8", 5, 2)]);
    }

    #[test]
    fn a_resync_drops_what_is_gone() {
        let mut routes = KernelRoutes::default();
        for prefix in ["0.0.0.0/0", "10.0.0.0/8", "::/0"] {
            add(&mut routes, route(prefix, 0, 1));
        }
        assert_eq!(told(&mut routes, Event::Reset), Vec::<String>::new());
        assert_eq!(add(&mut routes, route("10.0.0.0/8", 0, 1)), Vec::<String>::new());
        assert_eq!(told(&mut routes, Event::Synced), ["0.0.0.0/0", "::/0"]);
        assert_eq!(told(&mut routes, Event::Reset), Vec::<String>::new());
        assert_eq!(told(&mut routes, Event::Synced), ["10.0.0.0/8"]);
    }
}

//! The kernel's routes, by prefix: the parts of an imposed prefix that must be left to the kernel. Each kernel route
//! counts once, so a prefix belongs to the kernel until its last route is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use ipnet::IpNet;

use super::{Event, KernelRoute, RouteKind, RoutePosition};

/// The routes that the kernel reported, of all tables.
#[derive(Default, Debug)]
pub struct KernelRoutes {
    routes: BTreeMap<KernelRoute, Known>,
    round: u64,
    /// The order of the next route that is put first: below all others.
    first: i64,
    /// The order of the next route that is put last: above all others.
    last: i64,
    /// A resync has ended: routes that it did not report are removed. The last route that was looked at.
    sweep: Option<Option<KernelRoute>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// The number of the resync that last reported it.
    round: u64,
    /// Its position among those that it can replace.
    order: i64,
}

impl KernelRoutes {
    /// Adds the prefixes whose routes have changed to `changed`. During a resync, routes that have not been reported
    /// yet stay.
    pub fn handle(&mut self, event: &Event, changed: &mut BTreeSet<IpNet>) {
        match event {
            Event::Reset => {
                self.round += 1;
                self.sweep = None;
            }
            Event::Synced => self.sweep = Some(None),
            Event::Route { route, position } => {
                let order = match position {
                    RoutePosition::First => {
                        self.first -= 1;
                        self.first
                    }
                    RoutePosition::Last => self.next_last(),
                    RoutePosition::Replaces => self.replace(route, changed),
                };
                let round = self.round;
                if self.routes.insert(*route, Known { round, order }).is_none() {
                    changed.insert(route.prefix);
                }
            }
            Event::RouteGone(route) => self.remove(paths_of(route), |_, _| true, changed),
            Event::Link(_)
            | Event::LinkGone(_)
            | Event::Address(_)
            | Event::AddressGone(_)
            | Event::Neighbour(_)
            | Event::NeighbourGone { .. }
            | Event::NextHopObjectGone
            | Event::Routing(_)
            | Event::Rules => {}
        }
    }

    /// Whether a resync has ended, and routes that it has not reported may still be there.
    pub fn has_to_sweep(&self) -> bool {
        self.sweep.is_some()
    }

    /// Looks at up to `most` of the routes, and removes those that the resync has not reported. Adds their prefixes to
    /// `changed`.
    pub fn sweep(&mut self, most: usize, changed: &mut BTreeSet<IpNet>) {
        let Some(after) = self.sweep else { return };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let some: Vec<(KernelRoute, u64)> = self
            .routes
            .range((from, Bound::Unbounded))
            .take(most)
            .map(|(route, known)| (*route, known.round))
            .collect();
        self.sweep = some.last().map(|(route, _)| Some(*route));
        for (route, _) in some.into_iter().filter(|(_, round)| *round != self.round) {
            self.routes.remove(&route);
            changed.insert(route.prefix);
        }
    }

    fn next_last(&mut self) -> i64 {
        self.last += 1;
        self.last
    }

    /// Removes what `route` replaces. Returns its order.
    fn replace(&mut self, route: &KernelRoute, changed: &mut BTreeSet<IpNet>) -> i64 {
        let place = |route: &KernelRoute| (route.table, route.metric, route.selector);
        let of_prefix = first_of(route.prefix)..=last_of(route.prefix);
        let rank = |old: &KernelRoute, known: &Known| {
            let same = !route.shares && (old.kind, old.entry) == (route.kind, route.entry);
            (!same, old.shares != route.shares, known.order)
        };
        let replaced = self
            .routes
            .range(of_prefix.clone())
            .filter(|(old, _)| place(old) == place(route))
            .min_by_key(|(old, known)| rank(old, known))
            .map(|(old, known)| (*old, known.order));
        let Some((replaced, order)) = replaced else {
            return self.next_last();
        };
        if replaced.shares {
            let shares = |old: &KernelRoute, _| old.shares && place(old) == place(route);
            self.remove(of_prefix, shares, changed);
        } else {
            self.remove(paths_of(&replaced), |_, _| true, changed);
        }
        order
    }

    /// The routes for exactly this prefix.
    pub fn get(&self, prefix: IpNet) -> impl Iterator<Item = &KernelRoute> {
        self.routes
            .range(first_of(prefix)..=last_of(prefix))
            .map(|(route, _)| route)
    }

    /// The routes for this prefix and those that sort after it.
    pub fn from(&self, prefix: IpNet) -> impl Iterator<Item = &KernelRoute> {
        self.routes.range(first_of(prefix)..).map(|(route, _)| route)
    }

    /// Whether a route other than a default route leads to `destination`, in one of the tables for which `looked_up` is
    /// true.
    pub fn has_specific(&self, destination: IpAddr, looked_up: impl Fn(u32) -> bool) -> bool {
        let host = IpNet::from(destination);
        std::iter::successors(Some(host), IpNet::supernet)
            .take_while(|prefix| prefix.prefix_len() > 0)
            .any(|prefix| {
                self.get(prefix)
                    .any(|route| matches!(route.kind, RouteKind::Unicast | RouteKind::Local) && looked_up(route.table))
            })
    }

    /// Whether this machine has addresses, or routes to other machines, in the family whose default prefix is `all`.
    /// Loopback and link-local networks and multicast do not count, because every machine has them.
    pub fn has_family_of(&self, all: IpNet) -> bool {
        let counts = |route: &KernelRoute| {
            let ip = route.prefix.addr();
            let is_everywhere =
                ip.is_loopback() || ip.is_multicast() || matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            !is_everywhere && matches!(route.kind, RouteKind::Unicast | RouteKind::Local)
        };
        self.routes
            .range(first_of(all)..)
            .map(|(route, _)| route)
            .take_while(|route| all.contains(&route.prefix))
            .any(counts)
    }

    fn remove(
        &mut self,
        range: impl RangeBounds<KernelRoute>,
        choose: impl Fn(&KernelRoute, Known) -> bool,
        changed: &mut BTreeSet<IpNet>,
    ) {
        let gone = self.routes.extract_if(range, |route, known| choose(route, *known));
        changed.extend(gone.map(|(route, _)| route.prefix));
    }
}

/// All paths of the route that this one belongs to.
fn paths_of(route: &KernelRoute) -> RangeInclusive<KernelRoute> {
    let with = |oif| KernelRoute { oif, ..*route };
    with(None)..=with(Some(u32::MAX))
}

/// A key that sorts before all routes for this prefix.
fn first_of(prefix: IpNet) -> KernelRoute {
    KernelRoute {
        prefix,
        table: 0,
        metric: 0,
        selector: 0,
        kind: RouteKind::Unicast,
        shares: false,
        entry: 0,
        oif: None,
    }
}

/// A key that sorts after all routes for this prefix.
fn last_of(prefix: IpNet) -> KernelRoute {
    KernelRoute {
        prefix,
        table: u32::MAX,
        metric: u32::MAX,
        selector: u64::MAX,
        kind: RouteKind::Other,
        shares: true,
        entry: u64::MAX,
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
            selector: 0,
            kind: RouteKind::Unicast,
            shares: false,
            entry: oif.into(),
            oif: Some(oif),
        }
    }

    fn changed_by(routes: &mut KernelRoutes, event: Event) -> Vec<String> {
        let mut changed = BTreeSet::new();
        routes.handle(&event, &mut changed);
        changed.iter().map(IpNet::to_string).collect()
    }

    fn add(routes: &mut KernelRoutes, route: KernelRoute) -> Vec<String> {
        changed_by(
            routes,
            Event::Route {
                route,
                position: RoutePosition::Last,
            },
        )
    }

    #[test]
    fn a_family_is_there_by_what_not_every_machine_has() {
        let all = ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse().unwrap());
        let families = |prefixes: &[(&str, RouteKind)]| {
            let mut routes = KernelRoutes::default();
            for &(prefix, kind) in prefixes {
                add(
                    &mut routes,
                    KernelRoute {
                        kind,
                        ..route(prefix, 0, 1)
                    },
                );
            }
            all.map(|all| routes.has_family_of(all))
        };
        let everywhere = [
            ("127.0.0.0/8", RouteKind::Local),
            ("::1/128", RouteKind::Local),
            ("fe80::/64", RouteKind::Unicast),
            ("fe80::1/128", RouteKind::Local),
            ("ff00::/8", RouteKind::Multicast),
            ("::/0", RouteKind::Unreachable),
        ];
        assert_eq!(families(&everywhere), [false, false]);
        assert_eq!(families(&[("192.0.2.1/32", RouteKind::Local)]), [true, false]);
        assert_eq!(families(&[("0.0.0.0/0", RouteKind::Unicast)]), [true, false]);
        assert_eq!(families(&[("2001:db8::/32", RouteKind::Unicast)]), [false, true]);
        assert_eq!(families(&[("::/0", RouteKind::Unicast)]), [false, true]);
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
            let has_specific = |table| routes.has_specific(address.parse().unwrap(), |found| found == table);
            assert_eq!(has_specific(254), specific, "{address}");
            assert!(!has_specific(10), "{address}");
        }
        assert_eq!(routes.get("10.0.0.0/8".parse().unwrap()).count(), 1);
    }

    #[test]
    fn the_routes_of_tables_are_kept_apart() {
        let mut routes = KernelRoutes::default();
        add(&mut routes, route("10.0.0.0/8", 0, 1));
        for (table, prefix) in [(10, "10.0.0.0/8"), (10, "2001:db8::/32"), (11, "10.1.0.0/16")] {
            let table = KernelRoute {
                table,
                ..route(prefix, 0, 2)
            };
            add(&mut routes, table);
        }
        let all = "0.0.0.0/0".parse().unwrap();
        let of = |table| {
            let found = routes.from(all).filter(|route| route.table == table);
            Vec::from_iter(found.map(|route| route.prefix.to_string()))
        };
        assert_eq!(of(10), ["10.0.0.0/8", "2001:db8::/32"]);
        assert_eq!(of(11), ["10.1.0.0/16"]);
        assert!(of(12).is_empty());
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
            changed_by(&mut routes, Event::RouteGone(route("10.0.0.0/8", 0, 1))),
            ["10.0.0.0/8"]
        );
        assert_eq!(
            changed_by(&mut routes, Event::RouteGone(route("10.0.0.0/8", 0, 1))),
            Vec::<String>::new()
        );
        assert_eq!(routes.get(prefix).count(), 2);

        let replacing = route("10.0.0.0/8", 0, 3);
        changed_by(
            &mut routes,
            Event::Route {
                route: replacing,
                position: RoutePosition::Replaces,
            },
        );
        let left = Vec::from_iter(routes.get(prefix).copied());
        assert_eq!(left, [replacing, route("10.0.0.0/8", 5, 2)]);
    }

    #[test]
    fn what_replaces_takes_the_place_of_its_like() {
        let mut routes = KernelRoutes::default();
        let prefix: IpNet = "2001:db8::/32".parse().unwrap();
        let by = |entry, shares| KernelRoute {
            entry,
            shares,
            ..route("2001:db8::/32", 0, 1)
        };
        let mut step = |route, position| {
            changed_by(&mut routes, Event::Route { route, position });
            Vec::from_iter(routes.get(prefix).map(|route| route.entry))
        };
        step(by(1, false), RoutePosition::Last);
        step(by(2, false), RoutePosition::First);
        step(by(3, true), RoutePosition::Last);
        assert_eq!(step(by(4, true), RoutePosition::Last), [1, 2, 3, 4]);
        // Those that share are replaced together; of the others, only the first.
        assert_eq!(step(by(5, true), RoutePosition::Replaces), [1, 2, 5]);
        assert_eq!(step(by(6, false), RoutePosition::Replaces), [1, 6, 5]);
        // It takes the place of the replaced one.
        assert_eq!(step(by(7, false), RoutePosition::Replaces), [1, 7, 5]);
        // A route whose nexthop object has changed.
        assert_eq!(step(by(1, false), RoutePosition::Replaces), [1, 7, 5]);
        assert_eq!(
            changed_by(&mut routes, Event::RouteGone(by(5, true))),
            ["2001:db8::/32"]
        );
    }

    #[test]
    fn a_resync_drops_what_is_gone() {
        let mut routes = KernelRoutes::default();
        for prefix in ["0.0.0.0/0", "10.0.0.0/8", "::/0"] {
            add(&mut routes, route(prefix, 0, 1));
        }
        assert_eq!(changed_by(&mut routes, Event::Reset), Vec::<String>::new());
        assert_eq!(add(&mut routes, route("10.0.0.0/8", 0, 1)), Vec::<String>::new());
        // In steps, the first of which are not followed by the others.
        let sweep = |routes: &mut KernelRoutes| {
            let mut changed = BTreeSet::new();
            routes.sweep(1, &mut changed);
            Vec::from_iter(changed.iter().map(IpNet::to_string))
        };
        assert!(changed_by(&mut routes, Event::Synced).is_empty());
        assert_eq!(sweep(&mut routes), ["0.0.0.0/0"]);
        assert!(changed_by(&mut routes, Event::Reset).is_empty());
        assert!(!routes.has_to_sweep());
        assert!(add(&mut routes, route("10.0.0.0/8", 0, 1)).is_empty());
        assert!(changed_by(&mut routes, Event::Synced).is_empty());
        assert_eq!([0; 3].map(|_| sweep(&mut routes).concat()), ["", "::/0", ""]);
        assert!(!routes.has_to_sweep());
        assert_eq!(routes.from("0.0.0.0/0".parse().unwrap()).count(), 1);
    }
}

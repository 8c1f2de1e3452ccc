//! The table of the kernel's routes, by prefix: what an imposed prefix must leave to the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

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
                self.remove_where(None, |_, seen| seen != round, changed);
            }
            Event::Route { route, replaces } => {
                if *replaces {
                    let replaced = |old: &KernelRoute| (old.table, old.metric) == (route.table, route.metric);
                    self.remove_where(Some(route.prefix), |old, _| old != route && replaced(old), changed);
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
            .range(first_of(prefix)..)
            .map(|(route, _)| route)
            .take_while(move |route| route.prefix == prefix)
    }

    /// The routes for this prefix and for all prefixes within it.
    pub fn within(&self, prefix: IpNet) -> impl Iterator<Item = &KernelRoute> {
        let from = self.routes.range(first_of(prefix)..).map(|(route, _)| route);
        from.take_while(move |route| prefix.contains(&route.prefix))
    }

    /// `prefix`: only among its routes.
    fn remove_where(
        &mut self,
        prefix: Option<IpNet>,
        choose: impl Fn(&KernelRoute, u64) -> bool,
        changed: &mut BTreeSet<IpNet>,
    ) {
        let first = match prefix {
            Some(prefix) => first_of(prefix),
            None => first_of(IpNet::from(IpAddr::from([0; 4]))),
        };
        let from = self
            .routes
            .range(first..)
            .take_while(|(route, _)| prefix.is_none_or(|prefix| route.prefix == prefix));
        let gone = Vec::from_iter(
            from.filter(|(route, seen)| choose(route, **seen))
                .map(|(route, _)| *route),
        );
        for route in gone {
            self.routes.remove(&route);
            changed.insert(route.prefix);
        }
    }
}

/// What sorts before all routes for this prefix, and for those within it.
fn first_of(prefix: IpNet) -> KernelRoute {
    KernelRoute {
        prefix,
        table: 0,
        metric: 0,
        kind: RouteKind::Unicast,
        oif: None,
    }
}

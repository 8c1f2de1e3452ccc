//! Owners of routes: what one wants goes through the RIB, and what is best into the LFIB. Both change, or neither.

use std::sync::Arc;

use super::Switch;
use crate::control::api::{self, RouteFilter};
use crate::dataplane::Tables;
use crate::lfib::{Change, ChangeError, Changes, Lfib};
use crate::rib::{self, Best, Planned, Rib, Update, UpdateError};
use crate::route::{Owner, Path, Route, RouteKey, Source};

/// What is installed, as the RIB sees it.
struct Installed<'a, T>(&'a Lfib<T>);

impl<T: Tables> Best for Installed<'_, T> {
    fn owner(&self, key: RouteKey) -> Option<Owner> {
        self.0.owner(key)
    }

    fn route(&self, key: RouteKey) -> Option<Route> {
        self.0.get(key).map(|listed| listed.route)
    }

    fn next(&self, after: Option<RouteKey>) -> Option<(RouteKey, Owner)> {
        self.0.next_key(after)
    }
}

/// A change for the LFIB, and what becomes of the RIB once that has made it.
pub(super) struct Settled {
    pub change: Change,
    /// `None`: nothing.
    pub planned: Option<Box<Planned>>,
}

/// Works out what `change` by `source` means. `filter` is what a flush chooses by.
pub(super) fn settle<T: Tables>(
    rib: &Rib,
    lfib: &Lfib<T>,
    source: Source,
    change: &Change,
    filter: &RouteFilter,
) -> Result<Settled, ChangeError> {
    let nothing_stands_by = rib.is_empty();
    let flushed: Vec<RouteKey>;
    let update = match change {
        // No route comes in the place of one that goes.
        Change::Flush(_) if nothing_stands_by => None,
        Change::Flush(select) => {
            let page = lfib.page(None, usize::MAX, usize::MAX, &**select);
            let installed = page.routes.iter().map(|listed| listed.route.key());
            let standby = rib.iter().filter(|(owner, _)| owner.source() == source);
            let standby = standby.filter(|(_, route)| chooses(filter, route));
            flushed = installed.chain(standby.map(|(_, route)| route.key())).collect();
            let keys = &flushed;
            Some(Update::Withdraw { source, keys })
        }
        // Nothing is preferred to anything.
        _ if nothing_stands_by && lfib.has_only(source) => None,
        Change::Install { mode, owner, routes } => Some(Update::Install {
            mode: *mode,
            owner: *owner,
            routes,
        }),
        Change::Delete(keys) => Some(Update::Withdraw { source, keys }),
        Change::Settle { .. } => None,
    };
    let Some(update) = update else {
        let change = change.clone();
        return Ok(Settled { change, planned: None });
    };
    let mut planned = rib.plan(update, &Installed(lfib))?;
    let change = Change::Settle {
        routes: Arc::new(std::mem::take(&mut planned.install)),
        deleted: Arc::new(std::mem::take(&mut planned.delete)),
    };
    let planned = Some(Box::new(planned));
    Ok(Settled { change, planned })
}

/// What the LFIB has made of a settled change: the RIB follows, and an error is about what was given.
pub(super) fn made(
    rib: &mut Rib,
    planned: Option<Box<Planned>>,
    result: Result<Changes, ChangeError>,
) -> Result<Changes, ChangeError> {
    let Some(planned) = planned else { return result };
    result.map_err(|error| error.about(|index| planned.given(index)))?;
    let rib::Changes {
        added,
        replaced,
        deleted,
    } = planned.changes;
    rib.commit(*planned);
    Ok(Changes {
        added,
        replaced,
        deleted,
    })
}

/// Whether `filter` means a route that stands by, whose next hops nobody looks for: `dev` is the one that it was given.
fn chooses(filter: &RouteFilter, route: &Route) -> bool {
    let is_one = |path: &Path| match &path.next_hop {
        Some(hop) => filter.via.is_none_or(|via| via == hop.via) && (filter.dev.is_none() || filter.dev == hop.dev),
        None => filter.via.is_none() && filter.dev.as_deref().is_none_or(|dev| dev == "lo"),
    };
    filter.keys.selects(route.key())
        && filter
            .protocol
            .is_none_or(|protocol| protocol == route.attributes().protocol)
        && route.paths().iter().any(is_one)
}

impl<T: Tables> Switch<T> {
    /// The routes that stand by for `key` and that `filter` means, as clients see them.
    pub(super) fn standby(&self, key: RouteKey, filter: &RouteFilter) -> Vec<api::InstalledRoute> {
        let standby = self.rib.standby(key).iter();
        let meant = standby.filter(|(owner, route)| {
            filter.owner.is_none_or(|source| source == owner.source()) && chooses(filter, route)
        });
        meant
            .map(|(owner, route)| api::InstalledRoute {
                route: route.into(),
                owner: owner.to_string(),
                standby: true,
                next_hop: None,
                paths: None,
                counter: None,
            })
            .collect()
    }
}

impl From<UpdateError> for ChangeError {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Exists { index, key } => Self::Exists { index, key },
            UpdateError::Missing { index, key } => Self::Missing { index, key },
            UpdateError::Twice { index, first, key } => Self::Twice { index, first, key },
            UpdateError::Foreign { index, key, owner, .. } => Self::Foreign { index, key, owner },
        }
    }
}

#[cfg(test)]
mod tests {
    use mplsxdp_common::abi::{Op, TtlPropagate};
    use mplsxdp_common::wire::Label;

    use super::*;
    use crate::dataplane::Capacity;
    use crate::dataplane::memory::MemoryTables;
    use crate::lfib::Select;
    use crate::route::{Action, Mode, NextHop, OutLabels, Via};

    const KERNEL: Owner = Owner::Of(Source::Kernel);

    fn label(value: u32) -> RouteKey {
        RouteKey::Label(Label::from_low_bits(value))
    }

    fn route(value: u32, out: &[u32]) -> Route {
        let out = out.iter().map(|&value| Label::from_low_bits(value)).collect();
        let next_hop = NextHop {
            via: Via::Inet([192, 0, 2, 1].into()),
            dev: Some("eth1".into()),
        };
        let action = Action::Swap(OutLabels::new(out).unwrap());
        Route::new(label(value), action, Some(next_hop), TtlPropagate::Default).unwrap()
    }

    /// One stack of several labels has room.
    fn switch() -> (Rib, Lfib<MemoryTables>) {
        let capacity = Capacity {
            labels: 64,
            counter_slots: 16,
            stacks: 1,
            adjacencies: 16,
            groups: 4,
            prefixes: 16,
        };
        (Rib::default(), Lfib::new(MemoryTables::with_capacity(capacity)))
    }

    fn make(
        (rib, lfib): &mut (Rib, Lfib<MemoryTables>),
        source: Source,
        change: &Change,
        filter: &RouteFilter,
    ) -> Result<Changes, ChangeError> {
        let Settled { change, planned } = settle(rib, lfib, source, change, filter)?;
        let result = lfib.make(change);
        made(rib, planned, result)
    }

    fn install(
        both: &mut (Rib, Lfib<MemoryTables>),
        mode: Mode,
        owner: Owner,
        routes: &[Route],
    ) -> Result<Changes, ChangeError> {
        let routes = Arc::new(routes.to_vec());
        let change = Change::Install { mode, owner, routes };
        make(both, owner.source(), &change, &RouteFilter::default())
    }

    fn withdraw(
        both: &mut (Rib, Lfib<MemoryTables>),
        source: Source,
        keys: &[RouteKey],
    ) -> Result<Changes, ChangeError> {
        let change = Change::Delete(Arc::new(keys.to_vec()));
        make(both, source, &change, &RouteFilter::default())
    }

    fn out((_, lfib): &(Rib, Lfib<MemoryTables>), value: u32) -> Option<u32> {
        let entry = lfib.tables().ilm.get(&Label::from_low_bits(value)).copied();
        let entry = entry.unwrap_or_default();
        (entry.op() == Op::Label).then(|| entry.out_label().get())
    }

    #[test]
    fn the_best_is_published_and_the_next_best_when_it_goes() {
        let mut both = switch();
        install(&mut both, Mode::Add, KERNEL, &[route(20, &[100]), route(21, &[101])]).unwrap();
        let changes = install(&mut both, Mode::Add, Owner::STATIC, &[route(20, &[200])]).unwrap();
        assert_eq!((changes.added, changes.replaced), (1, 0));
        assert_eq!((out(&both, 20), out(&both, 21)), (Some(200), Some(101)));
        assert_eq!(both.0.standby(label(20)), [(KERNEL, route(20, &[100]))]);

        let error = withdraw(&mut both, Source::Static, &[label(20), label(21)]).unwrap_err();
        let owner = KERNEL;
        assert!(matches!(error, ChangeError::Foreign { index: 1, owner: found, .. } if found == owner));
        assert_eq!(out(&both, 20), Some(200));

        withdraw(&mut both, Source::Static, &[label(20)]).unwrap();
        assert_eq!(out(&both, 20), Some(100));
        assert!(both.0.is_empty());
    }

    #[test]
    fn a_sweep_is_of_one_owner() {
        let mut both = switch();
        install(&mut both, Mode::Add, Owner::Config, &[route(20, &[200])]).unwrap();
        install(&mut both, Mode::Add, Owner::STATIC, &[route(22, &[202])]).unwrap();
        install(&mut both, Mode::Add, KERNEL, &[route(20, &[100]), route(21, &[101])]).unwrap();
        // The configuration is read again, and has no route any more.
        install(&mut both, Mode::ReplaceAll, Owner::Config, &[]).unwrap();
        assert_eq!(
            [20, 21, 22].map(|value| out(&both, value)),
            [Some(100), Some(101), Some(202)]
        );
        let changes = install(&mut both, Mode::ReplaceAll, Owner::STATIC, &[route(21, &[201])]).unwrap();
        assert_eq!((changes.added, changes.deleted), (1, 1));
        assert_eq!(
            [20, 21, 22].map(|value| out(&both, value)),
            [Some(100), Some(201), None]
        );
        install(&mut both, Mode::ReplaceAll, KERNEL, &[]).unwrap();
        assert_eq!([20, 21].map(|value| out(&both, value)), [None, Some(201)]);
    }

    /// The stack of the kernel's route has no room while another's is in use, so that neither can come nor go.
    #[test]
    fn what_the_lfib_refuses_changes_neither() {
        let mut both = switch();
        install(&mut both, Mode::Add, KERNEL, &[route(20, &[100, 101])]).unwrap();
        install(&mut both, Mode::Add, Owner::STATIC, &[route(20, &[200])]).unwrap();
        let (rib, lfib) = &mut both;
        // The stack of the kernel's route is free again.
        lfib.reclaim();
        assert_eq!(rib.standby(label(20)).len(), 1);
        install(&mut both, Mode::Add, Owner::STATIC, &[route(21, &[200, 201])]).unwrap();

        let error = withdraw(&mut both, Source::Static, &[label(21), label(20)]).unwrap_err();
        assert!(matches!(error, ChangeError::Full { index: 1, .. }), "{error:?}");
        assert_eq!(out(&both, 20), Some(200));
        assert_eq!(both.0.standby(label(20)), [(KERNEL, route(20, &[100, 101]))]);
        assert!(both.1.get(label(21)).is_some());

        let error = install(
            &mut both,
            Mode::Add,
            KERNEL,
            &[route(22, &[301, 302]), route(21, &[303])],
        )
        .unwrap_err();
        assert!(matches!(error, ChangeError::Full { index: 0, .. }), "{error:?}");
        assert!(both.0.standby(label(21)).is_empty());
    }

    #[test]
    fn a_flush_is_of_one_owner_and_of_what_stands_by() {
        let mut both = switch();
        install(&mut both, Mode::Add, KERNEL, &[route(20, &[100]), route(21, &[101])]).unwrap();
        install(
            &mut both,
            Mode::Add,
            Owner::STATIC,
            &[route(20, &[200]), route(22, &[202])],
        )
        .unwrap();
        let select: Select = Box::new(|route| route.owner.source() == Source::Kernel);
        let flush = Change::Flush(Arc::new(select));
        let changes = make(&mut both, Source::Kernel, &flush, &RouteFilter::default()).unwrap();
        assert_eq!(changes.deleted, 2);
        assert_eq!(
            [20, 21, 22].map(|value| out(&both, value)),
            [Some(200), None, Some(202)]
        );
        assert!(both.0.is_empty());
    }
}

//! Owners of routes: a change of one owner goes through the RIB, and the best routes into the LFIB. Both change, or
//! neither.

use std::collections::HashMap;
use std::sync::Arc;

use super::Switch;
use crate::control::api::{self, RouteFilter};
use crate::dataplane::Tables;
use crate::lfib::{Budget, Change, ChangeError, Changes, Lfib, Remains, Select};
use crate::rib::{self, Best, Planned, Planning, Rib, Update, UpdateError};
use crate::route::{Owner, Path, Route, RouteKey, Source};

/// The installed routes, as the RIB sees them.
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

/// A change for the LFIB, and the RIB's plan for when it is made.
pub(super) struct Settled {
    pub change: Change,
    pub planned: Box<Planned>,
    /// The time that planning took.
    pub remains: Remains,
}

/// The planning of a source's change, in bounded steps.
#[derive(Default, Debug)]
pub(super) struct Settling {
    /// The routes that a flush selects.
    flushed: Flushed,
    planning: Planning,
}

#[derive(Default, Debug)]
struct Flushed {
    keys: Vec<RouteKey>,
    /// Progress among the installed routes, and then those on standby.
    installed: Option<RouteKey>,
    has_all_installed: bool,
    standby: Option<RouteKey>,
    is_whole: bool,
}

/// Whether `change` by `source` can go to the LFIB directly: no route of another source is replaced or restored.
pub(super) fn concerns_no_other<T: Tables>(rib: &Rib, lfib: &Lfib<T>, source: Source, change: &Change) -> bool {
    match change {
        // No route takes the place of a deleted one.
        Change::Flush(_) => rib.is_empty(),
        Change::Install { .. } | Change::Delete(_) => rib.is_empty() && lfib.has_only(source),
        // A source that is followed may withdraw routes that do not exist.
        Change::Settle { deleted, .. } => {
            let is_there = |key: &RouteKey| lfib.owner(*key).is_some();
            rib.is_empty() && lfib.has_only(source) && deleted.iter().all(is_there)
        }
    }
}

impl Settling {
    /// Continues to plan `change` by `source`. `filter` selects the routes of a flush. Returns whether that is done;
    /// until then, neither RIB nor LFIB may change.
    pub fn step<T: Tables>(
        &mut self,
        rib: &Rib,
        lfib: &Lfib<T>,
        source: Source,
        change: &Change,
        filter: &RouteFilter,
        budget: &mut Budget<'_>,
    ) -> Result<bool, ChangeError> {
        let update = match change {
            Change::Flush(select) => {
                if !self.flushed.step(rib, lfib, source, select, filter, budget) {
                    return Ok(false);
                }
                let keys = &self.flushed.keys;
                Update::Withdraw { source, keys }
            }
            Change::Install { mode, owner, routes } => Update::Install {
                mode: *mode,
                owner: *owner,
                routes,
            },
            Change::Delete(keys) => Update::Withdraw { source, keys },
            Change::Settle { routes, deleted } => Update::Follow {
                source,
                routes,
                gone: deleted,
            },
        };
        let spend = &mut |operations| budget.spend(operations);
        Ok(rib.plan_step(&mut self.planning, update, &Installed(lfib), spend)?)
    }

    /// The finished plan.
    pub fn settled(mut self) -> Settled {
        let mut planned = Box::new(std::mem::take(&mut self.planning.planned));
        if !self.flushed.keys.is_empty() {
            planned.unnamed = std::mem::take(&mut self.flushed.keys);
        }
        let change = Change::Settle {
            routes: Arc::new(std::mem::take(&mut planned.install)),
            deleted: Arc::new(std::mem::take(&mut planned.delete)),
        };
        Settled {
            change,
            planned,
            remains: Box::new(self),
        }
    }

    /// Applies new interface names, by the old ones.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        self.planning.rename_devices(names);
    }
}

impl Flushed {
    /// Continues to select. Returns whether that is done.
    fn step<T: Tables>(
        &mut self,
        rib: &Rib,
        lfib: &Lfib<T>,
        source: Source,
        select: &Select,
        filter: &RouteFilter,
        budget: &mut Budget<'_>,
    ) -> bool {
        if self.installed.is_none() {
            self.keys.reserve(lfib.label_routes() + lfib.prefix_routes());
        }
        if !self.has_all_installed {
            self.has_all_installed = lfib.select_step(&mut self.installed, &**select, &mut self.keys, budget);
        }
        while self.has_all_installed && !self.is_whole && budget.is_left() {
            let Some((key, routes)) = rib.next(self.standby) else {
                self.is_whole = true;
                break;
            };
            self.standby = Some(key);
            let mut own = routes.iter().filter(|(owner, _)| owner.source() == source);
            if own.any(|(_, route)| chooses(filter, route)) {
                self.keys.push(key);
            }
            budget.spend(1);
        }
        self.is_whole
    }
}

/// The result of a planned change: an error names the given route or key, and the counts are those of the source's
/// routes.
pub(super) fn about_given(planned: &Planned, result: Result<Changes, ChangeError>) -> Result<Changes, ChangeError> {
    result.map_err(|error| error.about(|index| planned.given(index)))?;
    let rib::Changes {
        added,
        replaced,
        deleted,
    } = planned.changes;
    Ok(Changes {
        added,
        replaced,
        deleted,
    })
}

/// Whether `filter` selects a route on standby. Its next hops are not looked up, so `dev` compares with the given
/// interface.
fn chooses(filter: &RouteFilter, route: &Route) -> bool {
    let is_one = |path: &Path| match &path.next_hop {
        Some(hop) => filter.via.is_none_or(|via| via == hop.via) && (filter.dev.is_none() || filter.dev == hop.dev),
        None => filter.via.is_none() && filter.dev.as_deref().is_none_or(|dev| dev == "lo"),
    };
    filter.selects(route.key())
        && filter
            .protocol
            .is_none_or(|protocol| protocol == route.attributes().protocol)
        && route.paths().iter().any(is_one)
}

impl<T: Tables> Switch<T> {
    /// The routes on standby for `key` that `filter` selects, as clients see them.
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
                passes: None,
                problem: None,
                backups: self.frr_backups(owner.source(), route),
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
            backups: 4,
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
        if concerns_no_other(rib, lfib, source, change) {
            return lfib.make(change.clone());
        }
        let mut settling = Settling::default();
        // With the smallest possible steps.
        while !settling.step(rib, lfib, source, change, filter, &mut Budget::new(1, &mut || false))? {}
        let Settled {
            change, mut planned, ..
        } = settling.settled();
        let changes = about_given(&planned, lfib.make(change))?;
        while !rib.commit_step(&mut planned, &mut |_| false) {}
        Ok(changes)
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
        // The configuration is read again, and has no more routes.
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

    /// The stack of the kernel's route does not fit while another's is in use, so the change can go neither way.
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

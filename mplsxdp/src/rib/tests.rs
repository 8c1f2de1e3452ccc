//! The RIB against a table of all routes by key and source.

use std::ops::Bound;

use mplsxdp_common::abi::TtlPropagate;
use mplsxdp_common::wire::Label;
use proptest::prelude::*;

use super::*;
use crate::route::{Action, NextHop, OutLabels, Via};

/// An LFIB that takes every plan, or none.
#[derive(Default)]
struct Installed(BTreeMap<RouteKey, (Owner, Route)>);

impl Best for Installed {
    fn owner(&self, key: RouteKey) -> Option<Owner> {
        self.0.get(&key).map(|&(owner, _)| owner)
    }

    fn route(&self, key: RouteKey) -> Option<Route> {
        self.0.get(&key).map(|(_, route)| route.clone())
    }

    fn next(&self, after: Option<RouteKey>) -> Option<(RouteKey, Owner)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.0.range((start, Bound::Unbounded));
        rest.next().map(|(&key, &(owner, _))| (key, owner))
    }
}

impl Installed {
    fn take(&mut self, planned: &Planned) {
        for (owner, route) in &planned.install {
            self.0.insert(route.key(), (*owner, route.clone()));
        }
        for key in &planned.delete {
            assert!(self.0.remove(key).is_some(), "{key} was not there to be deleted");
        }
    }
}

fn key(label: u32) -> RouteKey {
    RouteKey::Label(Label::from_low_bits(label))
}

fn route(label: u32, out: u32) -> Route {
    let out = OutLabels::new(vec![Label::from_low_bits(out)]).unwrap();
    let next_hop = NextHop {
        via: Via::Inet([192, 0, 2, 1].into()),
        dev: None,
    };
    Route::new(key(label), Action::Swap(out), Some(next_hop), TtlPropagate::Default).unwrap()
}

/// All routes, by key and source.
type Table = BTreeMap<(RouteKey, Source), (Owner, Route)>;

/// The best of each key, and those that stand by in their order.
fn ranked(table: &Table, preferences: Preferences) -> BTreeMap<RouteKey, Vec<(Owner, Route)>> {
    let mut ranked: BTreeMap<RouteKey, Vec<(Owner, Route)>> = BTreeMap::new();
    for (&(key, _), route) in table {
        ranked.entry(key).or_default().push(route.clone());
    }
    for routes in ranked.values_mut() {
        routes.sort_by_key(|&(owner, _)| preferences.of(owner));
    }
    ranked
}

#[derive(Clone, Debug)]
enum Step {
    Install(Mode, Owner, Vec<(u32, u32)>),
    Withdraw(Source, Vec<u32>),
}

fn step() -> impl Strategy<Value = Step> {
    let owner = prop_oneof![
        Just(Owner::Config),
        prop::sample::select(&Source::ALL[..]).prop_map(Owner::Of)
    ];
    let mode = prop::sample::select(&[Mode::Add, Mode::Change, Mode::Replace, Mode::ReplaceAll][..]);
    let routes = prop::collection::vec((16..22_u32, 100..103_u32), 0..4);
    prop_oneof![
        (mode, owner, routes).prop_map(|(mode, owner, routes)| Step::Install(mode, owner, routes)),
        (
            prop::sample::select(&Source::ALL[..]),
            prop::collection::vec(16..22_u32, 0..3)
        )
            .prop_map(|(source, keys)| Step::Withdraw(source, keys)),
    ]
}

/// What a step does to the table; `None` if it cannot be.
fn expected(step: &Step, table: &Table) -> Option<Table> {
    let mut next = table.clone();
    let mut seen = Vec::new();
    match step {
        Step::Install(mode, owner, routes) => {
            let source = owner.source();
            for &(label, out) in routes {
                let is_there = table.contains_key(&(key(label), source));
                if seen.contains(&label) || (*mode == Mode::Add && is_there) || (*mode == Mode::Change && !is_there) {
                    return None;
                }
                seen.push(label);
                next.insert((key(label), source), (*owner, route(label, out)));
            }
            if *mode == Mode::ReplaceAll {
                next.retain(|(found, _), (other, _)| {
                    seen.iter().any(|&label| key(label) == *found) || !owner.sweeps(*other)
                });
            }
        }
        Step::Withdraw(source, keys) => {
            for &label in keys {
                next.remove(&(key(label), *source))?;
            }
        }
    }
    Some(next)
}

proptest! {
    /// Whatever sources add, replace, withdraw and sweep in whatever order, and whatever the LFIB refuses: what is
    /// installed is the best of what is left, and the others stand by in the order of their preference.
    #[test]
    fn what_is_installed_is_the_best_of_what_is_left(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.2)), 0..40),
        preferences in prop::array::uniform4(0..4_u32),
    ) {
        let preferences = Preferences(preferences);
        let mut rib = Rib { preferences, ..Rib::default() };
        let mut installed = Installed::default();
        let mut table = Table::new();
        for (step, lfib_refuses) in steps {
            let routes: Vec<Route>;
            let keys: Vec<RouteKey>;
            let update = match &step {
                Step::Install(mode, owner, given) => {
                    routes = given.iter().map(|&(label, out)| route(label, out)).collect();
                    Update::Install { mode: *mode, owner: *owner, routes: &routes }
                }
                Step::Withdraw(source, given) => {
                    keys = given.iter().map(|&label| key(label)).collect();
                    Update::Withdraw { source: *source, keys: &keys }
                }
            };
            let planned = rib.plan(update, &installed);
            let next = expected(&step, &table);
            prop_assert_eq!(planned.is_ok(), next.is_some(), "{:?}: {:?}", step, planned);
            if let (Ok(planned), Some(next), false) = (planned, next, lfib_refuses) {
                let gone = table.keys().filter(|of| !next.contains_key(of)).count();
                let new = next.keys().filter(|of| !table.contains_key(of)).count();
                let other = next.iter().filter(|(of, (_, route))| table.get(of).is_some_and(|(_, old)| old != route));
                let changes = Changes { added: new, replaced: other.count(), deleted: gone };
                prop_assert_eq!(planned.changes, changes, "{:?}", step);
                installed.take(&planned);
                rib.commit(planned);
                table = next;
            }
            let ranked = ranked(&table, preferences);
            let best: BTreeMap<_, _> = ranked.iter().map(|(&key, routes)| (key, routes[0].clone())).collect();
            prop_assert_eq!(&installed.0, &best, "{:?}", step);
            for (&key, routes) in &ranked {
                prop_assert_eq!(rib.standby(key), &routes[1..], "{}", key);
            }
            prop_assert!(rib.standby.values().all(|routes| !routes.is_empty()));
            prop_assert!(rib.standby.keys().all(|key| installed.0.contains_key(key)));
        }
    }
}

#[test]
fn nothing_is_kept_of_a_single_source() {
    let (mut rib, mut installed) = (Rib::default(), Installed::default());
    let routes: Vec<Route> = (16..1016).map(|label| route(label, 100)).collect();
    let mode = Mode::Add;
    let owner = Owner::STATIC;
    let update = Update::Install {
        mode,
        owner,
        routes: &routes,
    };
    let planned = rib.plan(update, &installed).unwrap();
    installed.take(&planned);
    rib.commit(planned);
    assert!(rib.is_empty());
    let planned = rib.plan(update, &installed);
    assert_eq!(planned, Err(UpdateError::Exists { index: 0, key: key(16) }));
}

#[test]
fn a_source_does_not_withdraw_what_is_anothers() {
    let (mut rib, mut installed) = (Rib::default(), Installed::default());
    let owner = Owner::Of(Source::Fpm);
    let install = Update::Install {
        mode: Mode::Add,
        owner,
        routes: &[route(16, 100)],
    };
    let planned = rib.plan(install, &installed).unwrap();
    installed.take(&planned);
    rib.commit(planned);
    let withdraw = Update::Withdraw {
        source: Source::Static,
        keys: &[key(16)],
    };
    let error = rib.plan(withdraw, &installed).unwrap_err();
    assert_eq!(error.to_string(), "the route of 16 is not static: it belongs to `fpm`");
}

#[test]
fn an_error_of_the_lfib_is_about_a_given_route() {
    let (mut rib, mut installed) = (Rib::default(), Installed::default());
    for (owner, out) in [(Owner::Of(Source::Kernel), 100), (Owner::STATIC, 101)] {
        let update = Update::Install {
            mode: Mode::Add,
            owner,
            routes: &[route(16, out), route(17, out)],
        };
        let planned = rib.plan(update, &installed).unwrap();
        installed.take(&planned);
        rib.commit(planned);
    }
    // The kernel's routes come back, each by the key that was withdrawn.
    let withdraw = Update::Withdraw {
        source: Source::Static,
        keys: &[key(17), key(16)],
    };
    let planned = rib.plan(withdraw, &installed).unwrap();
    let back: Vec<_> = planned
        .install
        .iter()
        .map(|(owner, route)| (*owner, route.key()))
        .collect();
    let kernel = Owner::Of(Source::Kernel);
    assert_eq!(back, [(kernel, key(17)), (kernel, key(16))]);
    assert_eq!(
        (planned.given(0), planned.given(1), planned.given(2)),
        (Some(0), Some(1), None)
    );
}

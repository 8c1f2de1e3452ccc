//! The LFIB against tables in memory.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::{Adjacency, Counter, CrossConnect, Domain, Encapsulation, TtlPropagate, VlanTags, VrfWord};
use mplsxdp_common::wire::{ETH_P_8021Q, Label, Mac};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::backups::Pair;
use super::groups::Member;
use super::next_hops::NextHopId;
use super::pass::Claim;
use super::*;
use crate::dataplane::memory::{AdjacencyEvent, MemoryTables};
use crate::dataplane::{Capacity, TableError};
use crate::route::filter::KeyFilter;
use crate::route::{
    Action, Backup, Fec, NextHop, OutLabels, PassReason, Path, PortName, Protocol, Pseudowire, Route, RouteKey,
    RoutingTable, ServiceTag, Via,
};

const R1: Mac = Mac([2, 0, 0, 0, 0, 1]);
const R2: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OWN: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn small() -> Capacity {
    Capacity {
        labels: 1000,
        adjacencies: 3,
        stacks: 2,
        groups: 2,
        backups: 2,
        counter_slots: 4,
        prefixes: 100,
    }
}

fn lfib() -> Lfib<MemoryTables> {
    Lfib::new(MemoryTables::with_capacity(small()))
}

fn label(value: u32) -> RouteKey {
    RouteKey::Label(Label::new(value).unwrap())
}

fn labels(values: &[u32]) -> OutLabels {
    OutLabels::new(values.iter().map(|&value| Label::new(value).unwrap()).collect()).unwrap()
}

fn via(last: u8) -> Option<NextHop> {
    Some(NextHop {
        via: Via::Inet([10, 0, 0, last].into()),
        dev: Some(Arc::from("eth0")),
    })
}

fn swap(key: u32, out: &[u32], neighbour: u8) -> Route {
    Route::new(
        label(key),
        Action::Swap(labels(out)),
        via(neighbour),
        TtlPropagate::Default,
    )
    .unwrap()
}

fn push(prefix: &str, out: &[u32], neighbour: u8) -> Route {
    push_in(None, prefix, out, neighbour)
}

fn fec(table: Option<u32>, prefix: &str) -> Fec {
    Fec::new(net(prefix), table.map(RoutingTable))
}

fn push_in(table: Option<u32>, prefix: &str, out: &[u32], neighbour: u8) -> Route {
    Route::new(
        RouteKey::Prefix(fec(table, prefix)),
        Action::Push {
            labels: labels(out),
            ttl: None,
        },
        via(neighbour),
        TtlPropagate::Default,
    )
    .unwrap()
}

fn entry(lfib: &Lfib<MemoryTables>, value: u32) -> RouteEntry {
    lfib.tables()
        .ilm
        .get(&Label::new(value).unwrap())
        .copied()
        .unwrap_or_default()
}

fn list(lfib: &Lfib<MemoryTables>) -> Vec<Listed> {
    lfib.page(KeyFilter::All, None, usize::MAX, usize::MAX, |_| true).routes
}

fn keys(lfib: &Lfib<MemoryTables>, select: impl Fn(&Candidate<'_>) -> bool) -> Vec<RouteKey> {
    let page = lfib.page(KeyFilter::All, None, usize::MAX, usize::MAX, select);
    page.routes.iter().map(|listed| listed.route.key()).collect()
}

fn only_next_hop(lfib: &mut Lfib<MemoryTables>) -> NextHopId {
    match lfib.take_next_hop_changes().as_slice() {
        [NextHopChange::Added(id, _)] => *id,
        other => panic!("{other:?}"),
    }
}

/// Each part of a list is read quickly, however few routes are selected from however many.
#[test]
fn a_list_comes_in_parts_that_are_chosen_from_a_bounded_number_of_routes() {
    let mut lfib = Lfib::new(MemoryTables::default());
    let routes: Vec<Route> = (16..516).map(|key| swap(key, &[110], 1)).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    for (wanted, limit, examined, expected_parts) in [(400, 100, 50, 10), (0, 10, 100, 50), (999, 10, 499, 2)] {
        let examining = Cell::new(0);
        let is_wanted = |route: &Candidate<'_>| {
            examining.set(examining.get() + 1);
            wanted == 0 || route.key == label(wanted)
        };
        let (mut listed, mut after, mut parts) = (Vec::new(), None, 0);
        loop {
            examining.set(0);
            let page = lfib.page(KeyFilter::All, after, limit, examined, is_wanted);
            assert!(examining.get() <= examined && page.routes.len() <= limit);
            listed.extend(page.routes.into_iter().map(|listed| listed.route));
            parts += 1;
            after = page.after;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = routes
            .iter()
            .filter(|route| wanted == 0 || route.key() == label(wanted))
            .cloned()
            .collect();
        assert_eq!((listed, parts), (expected, expected_parts), "{wanted}");
    }
}

/// The tables do not hold them: the entry stays the same, but the route counts as changed.
#[test]
fn a_protocol_and_a_metric_are_kept_with_the_route() {
    let mut lfib = lfib();
    let with = |protocol, metric| {
        let attributes = Attributes {
            protocol: Protocol(protocol),
            metric,
        };
        push("10.4.0.0/16", &[400], 2).with_attributes(attributes).unwrap()
    };
    let key = with(186, 20).key();
    lfib.change(Mode::Add, Owner::STATIC, &[with(186, 20), swap(100, &[110], 1)])
        .unwrap();
    assert_eq!(lfib.get(key).unwrap().route, with(186, 20));
    let of = |protocol| keys(&lfib, |route| route.attributes.protocol == Protocol(protocol));
    assert_eq!((of(186), of(4).len()), (vec![key], 1));
    for (route, replaced) in [
        (with(186, 20), 0),
        (with(188, 20), 1),
        (with(188, 30), 1),
        (with(188, 30), 0),
    ] {
        let changes = lfib
            .change(Mode::Replace, Owner::STATIC, std::slice::from_ref(&route))
            .unwrap();
        assert_eq!((changes.replaced, lfib.get(key).unwrap().route), (replaced, route));
    }
}

/// By one path and by several; a backup does not count.
#[test]
fn routes_are_chosen_by_their_next_hops() {
    let mut lfib = large();
    let routes = [
        swap(100, &[110], 1),
        swap(101, &[110], 2),
        group(102, &[(1, 1), (3, 1)]),
        group(103, &[(2, 1), (3, 1)]),
        protected(104, 3, 1),
        Route::new(
            RouteKey::Label(Label::new(105).unwrap()),
            Action::Local,
            None,
            TtlPropagate::Default,
        )
        .unwrap(),
    ];
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    let chosen = |neighbour: Option<u8>, local| {
        let is_one = |hop: &NextHop| neighbour.is_some_and(|neighbour| via(neighbour).as_ref() == Some(hop));
        let is_way = |id| lfib.next_hops().get(id).is_some_and(is_one);
        let keys = keys(&lfib, |route| local && route.is_local() || route.leads_to(is_way));
        keys.into_iter().map(|key| key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(Some(1), false), ["100", "102"]);
    assert_eq!(chosen(Some(2), false), ["101", "103"]);
    assert_eq!(chosen(Some(3), true), ["102", "103", "104", "105"]);
    assert_eq!(chosen(None, true), ["105"]);
}

#[test]
fn a_route_is_published_as_one_word_and_listed_as_it_was_given() {
    let mut lfib = lfib();
    let routes = [
        swap(100, &[110], 1),
        swap(101, &[200, 300], 1),
        push("10.4.0.0/16", &[400], 2),
    ];
    let changes = lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    assert_eq!(
        changes,
        Changes {
            added: 3,
            ..Changes::default()
        }
    );
    let swapped = entry(&lfib, 100);
    assert_eq!(
        (swapped.op(), swapped.out_label().get(), swapped.slot()),
        (Op::Label, 110, 3),
        "label 100 would have slot 0 of the four"
    );
    let stacked = entry(&lfib, 101);
    assert_eq!((stacked.op(), stacked.next_hop()), (Op::Stack, swapped.next_hop()));
    let stack: Vec<u32> = lfib.tables().stacks[&stacked.operand()]
        .labels()
        .map(Label::get)
        .collect();
    assert_eq!(stack, [200, 300]);
    let listed: Vec<Route> = list(&lfib).into_iter().map(|listed| listed.route).collect();
    assert_eq!(listed, routes);
    assert_eq!(
        lfib.page(KeyFilter::All, Some(label(100)), 1, 10, |_| true).routes[0].route,
        routes[1]
    );
    assert_eq!((lfib.label_routes(), lfib.prefix_routes()), (2, 1));
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1)]).unwrap();
    lfib.take_next_hop_changes();
    let before = (lfib.tables().ilm.clone(), lfib.tables().ftn.clone());
    let cases: Vec<(Vec<Route>, usize)> = vec![
        (vec![swap(200, &[210], 2), swap(100, &[111], 2)], 1),
        (vec![swap(200, &[210], 2), swap(1000, &[210], 2)], 1),
        (
            vec![swap(200, &[210], 2), swap(201, &[210], 2), swap(200, &[211], 2)],
            2,
        ),
        (
            (1..=4).map(|last| swap(300 + u32::from(last), &[1, 2], last)).collect(),
            3,
        ),
        ((1..=3).map(|last| swap(300 + last, &[29 + last, 20], 1)).collect(), 2),
    ];
    for (routes, wrong) in cases {
        let error = lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap_err();
        assert_eq!(error.index(), Some(wrong), "{error}");
        assert_eq!((lfib.tables().ilm.clone(), lfib.tables().ftn.clone()), before);
        assert_eq!(lfib.take_next_hop_changes(), []);
    }
    // What the refused routes took is free again.
    lfib.change(
        Mode::Add,
        Owner::STATIC,
        &[swap(400, &[1, 2], 2), swap(401, &[30, 40], 3)],
    )
    .unwrap();
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The place of a prefix in the domain of ports outside of VRFs.
fn place(prefix: &str) -> FtnKey {
    FtnKey::new(Domain::NO_VRF, net(prefix))
}

fn claim(lfib: &mut Lfib<MemoryTables>, prefix: &str, claim: Claim) {
    lfib.set_claims(&[(place(prefix), Some(claim))].into()).unwrap();
}

/// The label that packets to `address` get outside of VRFs, `None` if they are left to the kernel.
fn imposed(lfib: &Lfib<MemoryTables>, address: &str) -> Option<u32> {
    imposed_in(lfib, Domain::NO_VRF, address)
}

fn imposed_in(lfib: &Lfib<MemoryTables>, domain: Domain, address: &str) -> Option<u32> {
    let entry = lfib.tables().longest_match(domain, address.parse().unwrap());
    (!matches!(entry.op(), Op::None | Op::Pass)).then(|| entry.out_label().get())
}

#[test]
fn a_table_that_fails_half_way_is_put_back() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[push("10.1.0.0/16", &[100], 1)])
        .unwrap();
    claim(&mut lfib, "10.1.2.0/24", Claim::Route);
    let before = lfib.tables().ftn.clone();
    assert_eq!(before.len(), 2);
    lfib.tables_mut().ftn_inserts_left = 2;
    let routes = [
        push("10.1.0.0/16", &[101], 1),
        push("10.2.0.0/16", &[102], 1),
        push("10.3.0.0/16", &[103], 1),
    ];
    let error = lfib.change(Mode::Replace, Owner::STATIC, &routes).unwrap_err();
    assert!(matches!(error, ChangeError::Table(_)));
    // The fake table stays out of memory: everything that could be restored without an insert was restored.
    assert!(!lfib.tables().ftn.contains_key(&place("10.2.0.0/16")));
    assert_eq!(lfib.unsettled(), 1);
    lfib.tables_mut().ftn_inserts_left = usize::MAX;
    lfib.settle().unwrap();
    assert_eq!((&lfib.tables().ftn, lfib.unsettled()), (&before, 0));
    assert_eq!(list(&lfib).len(), 1);
}

#[test]
fn a_change_of_a_prefix_and_of_one_that_covers_it_is_worked_out_from_what_will_be() {
    let specific = |label: u32| push("10.4.5.0/24", &[label], 1);
    let covering = push("10.0.0.0/8", &[200], 1);
    for mode in [Mode::Replace, Mode::ReplaceAll] {
        let mut lfib = large();
        claim(&mut lfib, "10.4.5.0/24", Claim::Route);
        // Both are new; both exist, and one changes; the specific one is new; the covering one goes.
        for (routes, expected) in [
            (vec![specific(100)], (Some(100), None)),
            (vec![specific(300), covering.clone()], (Some(300), Some(200))),
            (vec![covering.clone(), specific(301)], (Some(301), Some(200))),
        ] {
            lfib.change(mode, Owner::STATIC, &routes).unwrap();
            let seen = (imposed(&lfib, "10.4.5.1"), imposed(&lfib, "10.4.6.1"));
            assert_eq!(seen, expected, "{routes:?}");
        }
        lfib.change(Mode::ReplaceAll, Owner::STATIC, std::slice::from_ref(&covering))
            .unwrap();
        assert_eq!(
            (imposed(&lfib, "10.4.5.1"), imposed(&lfib, "10.4.6.1")),
            (None, Some(200))
        );
        lfib.change(Mode::ReplaceAll, Owner::STATIC, &[specific(302)]).unwrap();
        assert_eq!(
            (imposed(&lfib, "10.4.5.1"), imposed(&lfib, "10.4.6.1")),
            (Some(302), None)
        );
    }
}

#[test]
fn prefixes_are_listed_by_what_they_are_in() {
    let mut lfib = large();
    let mut routes = vec![swap(100, &[110], 1)];
    let prefixes = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.4.0.0/16",
        "192.0.2.0/24",
        "::/0",
        "2001:db8::/32",
    ];
    routes.extend(prefixes.iter().map(|prefix| push(prefix, &[200], 1)));
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    for (within, expected) in [
        ("0.0.0.0/0", &prefixes[..4]),
        ("10.0.0.0/8", &prefixes[1..3]),
        ("::/0", &prefixes[4..]),
        ("172.16.0.0/12", &[]),
    ] {
        let listed: Vec<_> = lfib.fecs_within(net(within)).map(|fec| fec.to_string()).collect();
        assert_eq!(listed, expected, "{within}");
    }
}

#[test]
fn a_claim_that_cannot_be_written_is_not_imposed_and_is_written_when_that_is_possible() {
    let mut lfib = large();
    let routes = [push("10.0.0.0/8", &[200], 1), push("10.4.0.0/16", &[300], 1)];
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    lfib.tables_mut().ftn_inserts_left = 0;
    let claims = [
        (place("10.4.5.0/24"), Some(Claim::Route)),
        (place("10.0.0.1/32"), Some(Claim::Never)),
    ];
    lfib.set_claims(&claims.into()).unwrap_err();
    for address in ["10.4.5.1", "10.0.0.1", "10.9.9.9"] {
        assert_eq!(imposed(&lfib, address), None, "{address}");
    }
    // Nor in any other way: not by a new route that covers them, nor by another route in its place.
    for routes in [[push("0.0.0.0/0", &[400], 1)], [push("10.0.0.0/8", &[500], 1)]] {
        lfib.tables_mut().ftn_inserts_left = 0;
        lfib.change(Mode::Replace, Owner::STATIC, &routes).unwrap_err();
        assert_eq!(imposed(&lfib, "10.4.5.1"), None);
    }
    // The next change of any kind finds room again.
    lfib.tables_mut().ftn_inserts_left = usize::MAX;
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1)]).unwrap();
    assert_eq!(lfib.unsettled(), 0);
    let labels = ["10.4.5.1", "10.0.0.1", "10.4.6.1", "10.9.9.9"].map(|address| imposed(&lfib, address));
    assert_eq!(labels, [None, None, Some(300), Some(200)]);
}

#[test]
fn a_full_table_leaves_room_for_the_kernel_s_claims() {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity { prefixes: 4, ..small() }));
    let routes: Vec<Route> = ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]
        .map(|prefix| push(prefix, &[100], 1))
        .to_vec();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    let claims = [
        (place("10.1.1.0/24"), Some(Claim::Route)),
        (place("10.2.0.0/16"), Some(Claim::Never)),
    ];
    lfib.set_claims(&claims.into()).unwrap_err();
    let imposed_of = |lfib: &Lfib<MemoryTables>| {
        ["10.1.1.1", "10.2.0.1", "10.1.0.1", "10.3.0.1", "10.9.0.1"].map(|address| imposed(lfib, address).is_some())
    };
    assert!(!imposed_of(&lfib)[0] && !imposed_of(&lfib)[1]);
    lfib.delete(&[RouteKey::Prefix(net("10.3.0.0/16").into())]).unwrap();
    assert_eq!(lfib.unsettled(), 0);
    assert_eq!(imposed_of(&lfib), [false, false, true, true, true]);
}

#[test]
fn no_slot_is_given_out_again_while_the_table_may_point_to_it() {
    let mut lfib = lfib();
    let claimed = "10.1.0.0/16";
    lfib.change(Mode::Add, Owner::STATIC, &[push(claimed, &[100, 101], 1)])
        .unwrap();
    let entry = lfib.tables().ftn[&place(claimed)];
    // The kernel's claim cannot be written, and existing entries cannot be removed; then the route goes.
    (lfib.tables_mut().ftn_inserts_left, lfib.tables_mut().ftn_removals_left) = (0, 0);
    lfib.set_claims(&[(place(claimed), Some(Claim::Never))].into())
        .unwrap_err();
    assert_eq!(lfib.tables().ftn[&place(claimed)], entry);
    lfib.delete(&[RouteKey::Prefix(net(claimed).into())]).unwrap_err();
    lfib.tables_mut().ftn_inserts_left = usize::MAX;
    lfib.settle().unwrap();
    lfib.delete(&[RouteKey::Prefix(net(claimed).into())]).unwrap_err();
    assert_eq!(imposed(&lfib, "10.1.0.1"), None);

    // A next hop moves to another port, and the entry cannot be moved to its new slot.
    lfib.tables_mut().ftn_removals_left = usize::MAX;
    lfib.delete(&[RouteKey::Prefix(net(claimed).into())]).unwrap();
    lfib.change(Mode::Add, Owner::STATIC, &[push("10.2.0.0/16", &[100], 1)])
        .unwrap();
    let id = lfib.next_hops().list()[0].0;
    let resolved = |port| Reach::Resolved(Adjacency::new(R1, port, OWN, 1500));
    lfib.set_next_hop(id, resolved(1));
    let old = lfib.tables().ftn[&place("10.2.0.0/16")];
    (lfib.tables_mut().ftn_inserts_left, lfib.tables_mut().ftn_removals_left) = (0, 0);
    lfib.set_next_hop(id, resolved(2));
    assert_eq!((lfib.tables().ftn[&place("10.2.0.0/16")], lfib.unsettled()), (old, 1));
    assert!(!lfib.tables().adjacency(old.next_hop()).is_resolved());
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 2)]).unwrap();
    assert_ne!(self::entry(&lfib, 100).next_hop(), old.next_hop());
    lfib.tables_mut().ftn_inserts_left = usize::MAX;
    lfib.settle().unwrap();
    let slot = lfib.tables().ftn[&place("10.2.0.0/16")].next_hop();
    assert_eq!(Some(slot), lfib.next_hops().slot(id));
}

#[test]
fn replace_keeps_the_counter_and_replace_all_sweeps_what_is_not_given() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1), swap(101, &[111], 1)])
        .unwrap();
    let slot = entry(&lfib, 100).slot();
    lfib.tables()
        .route_counters
        .borrow_mut()
        .insert(slot, Counter { packets: 7, bytes: 700 });
    let changes = lfib
        .change(
            Mode::ReplaceAll,
            Owner::STATIC,
            &[swap(100, &[120], 1), swap(102, &[112], 1)],
        )
        .unwrap();
    assert_eq!(
        changes,
        Changes {
            added: 1,
            replaced: 1,
            deleted: 1
        }
    );
    assert_eq!(
        (entry(&lfib, 100).out_label().get(), entry(&lfib, 100).slot()),
        (120, slot)
    );
    assert_eq!(lfib.tables().route_counter(slot).unwrap().packets, 7);
    assert_eq!(entry(&lfib, 101), RouteEntry::EMPTY);
    // The same again: nothing changes, and the only wait is for what the change before has freed.
    let waited = lfib.tables().grace_periods + 1;
    let mut again = || {
        lfib.change(
            Mode::ReplaceAll,
            Owner::STATIC,
            &[swap(100, &[120], 1), swap(102, &[112], 1)],
        )
        .unwrap()
    };
    assert_eq!((again(), again()), (Changes::default(), Changes::default()));
    assert_eq!(lfib.tables().grace_periods, waited);
}

#[test]
fn routes_beyond_the_counter_slots_are_uncounted_and_a_reused_slot_counts_from_where_it_is() {
    let mut lfib = lfib();
    let routes: Vec<Route> = (100..104).map(|key| swap(key, &[110], 1)).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    assert_eq!((lfib.uncounted_routes(), entry(&lfib, 103).slot()), (1, 0));
    let slot = entry(&lfib, 100).slot();
    lfib.tables()
        .route_counters
        .borrow_mut()
        .insert(slot, Counter { packets: 7, bytes: 700 });
    lfib.delete(&[label(100), label(103)]).unwrap();
    assert_eq!(lfib.uncounted_routes(), 0);
    lfib.change(Mode::Add, Owner::STATIC, &[swap(105, &[110], 1)]).unwrap();
    assert_eq!(entry(&lfib, 105).slot(), slot);
    assert_eq!(counted(&lfib, 105), 0);
    count(&lfib, 105, 2);
    assert_eq!((counted(&lfib, 105), forwarded(&mut lfib)), (2, 9));
}

/// Counts frames of 100 bytes that the program forwards by a route.
fn count(lfib: &Lfib<MemoryTables>, key: u32, packets: u64) {
    let mut counters = lfib.tables().route_counters.borrow_mut();
    let counter = counters.entry(entry(lfib, key).slot()).or_default();
    counter.packets += packets;
    counter.bytes += 100 * packets;
}

fn counted(lfib: &Lfib<MemoryTables>, key: u32) -> u64 {
    let place = lfib.counted_at(&lfib.get(label(key)).unwrap()).unwrap();
    place.counted(lfib.tables().route_counter(place.slot).unwrap()).packets
}

fn read(lfib: &Lfib<MemoryTables>, first: u32, slots: u32) -> Result<Vec<Counter>, TableError> {
    (first..first + slots)
        .map(|slot| lfib.tables().route_counter(slot))
        .collect()
}

fn forwarded(lfib: &mut Lfib<MemoryTables>) -> u64 {
    let total = lfib.forwarded();
    let total = total.finish(|first, slots| read(lfib, first, slots)).unwrap();
    assert_eq!(total.bytes, 100 * total.packets);
    total.packets
}

fn for_this_router(key: u32) -> Route {
    Route::new(label(key), Action::Local, None, TtlPropagate::Default).unwrap()
}

/// Packets that were popped for this router are not forwarded packets, before and after their slot counts for another
/// route.
#[test]
fn the_total_of_forwarded_packets_keeps_what_routes_forwarded_that_are_gone() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1), for_this_router(101)])
        .unwrap();
    count(&lfib, 100, 7);
    count(&lfib, 101, 1000);
    assert_eq!(forwarded(&mut lfib), 7);
    // The same slot, for another purpose: the route's own counter goes on.
    lfib.change(
        Mode::Replace,
        Owner::STATIC,
        &[for_this_router(100), swap(101, &[111], 1)],
    )
    .unwrap();
    assert_eq!((forwarded(&mut lfib), counted(&lfib, 100)), (7, 7));
    count(&lfib, 100, 500);
    count(&lfib, 101, 3);
    assert_eq!((forwarded(&mut lfib), counted(&lfib, 101)), (10, 1003));
    lfib.delete(&[label(100), label(101)]).unwrap();
    assert_eq!(forwarded(&mut lfib), 10);
    lfib.change(Mode::Add, Owner::STATIC, &[for_this_router(102), swap(103, &[111], 1)])
        .unwrap();
    assert_eq!((counted(&lfib, 102), counted(&lfib, 103)), (0, 0));
    count(&lfib, 102, 500);
    count(&lfib, 103, 2);
    assert_eq!(forwarded(&mut lfib), 12);
}

#[test]
fn pass_routes_take_no_slot_but_a_counter_and_keep_their_reason() {
    let mut lfib = large();
    let pass = |key, reason: &str| {
        let action = Action::Pass(PassReason::new(reason));
        Route::new(key, action, None, TtlPropagate::Default).unwrap()
    };
    let prefix = RouteKey::Prefix(net("10.1.0.0/16").into());
    let routes = [
        pass(label(100), "20 labels:  more than 16"),
        pass(label(101), "20 labels: more than 16"),
        pass(label(102), ""),
        pass(prefix, "a form that is not known"),
        Route::new(label(103), Action::LocalPass, None, TtlPropagate::Default).unwrap(),
    ];
    lfib.change(Mode::Add, Owner::Of(Source::Kernel), &routes).unwrap();
    for route in &routes {
        assert_eq!(lfib.get(route.key()).unwrap().route, *route);
    }
    assert_eq!(
        (entry(&lfib, 100).op(), entry(&lfib, 103).op()),
        (Op::Pass, Op::LocalPass)
    );
    assert_eq!(lfib.stacks_in_use(), 0);
    assert_eq!(lfib.next_hops().all().count(), 0);
    // Equal reasons are stored once.
    assert_eq!(lfib.pass_reasons.len(), 2);

    let again = lfib.change(Mode::Replace, Owner::Of(Source::Kernel), &routes).unwrap();
    assert_eq!(again, Changes::default());
    let other = [pass(label(100), "delivery to VRF red"), swap(101, &[110], 1)];
    let changes = lfib.change(Mode::Replace, Owner::Of(Source::Kernel), &other).unwrap();
    assert_eq!(changes.replaced, 2);
    assert_eq!(lfib.get(label(100)).unwrap().route, other[0]);
    assert_eq!(lfib.pass_reasons.len(), 2);

    count(&lfib, 100, 5);
    count(&lfib, 101, 3);
    count(&lfib, 103, 7);
    assert_eq!((counted(&lfib, 100), counted(&lfib, 103)), (5, 7));
    assert_eq!(forwarded(&mut lfib), 3);
    lfib.delete(&[label(100), prefix]).unwrap();
    assert!(lfib.pass_reasons.is_empty());
}

/// Another thread reads a total while routes change.
#[test]
fn a_slot_that_becomes_another_routes_while_a_total_is_read_counts_once_and_as_it_was() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1), swap(101, &[111], 1)])
        .unwrap();
    count(&lfib, 100, 7);
    count(&lfib, 101, 5);
    let before = lfib.forwarded();
    let mut after = None;
    let total = before.finish(|first, slots| {
        let figures = read(&lfib, first, slots);
        lfib.change(Mode::Replace, Owner::STATIC, &[for_this_router(100)])
            .unwrap();
        count(&lfib, 100, 1000);
        after = Some(lfib.forwarded());
        figures
    });
    assert_eq!(total.unwrap().packets, 12);
    let late = lfib.forwarded();
    lfib.change(Mode::Replace, Owner::STATIC, &[for_this_router(101)])
        .unwrap();
    count(&lfib, 101, 1000);
    for total in [after.unwrap(), late] {
        let total = total.finish(|first, slots| read(&lfib, first, slots)).unwrap();
        assert_eq!(total.packets, 12);
    }
}

#[test]
fn a_new_mac_is_one_store_and_a_new_port_a_new_adjacency() {
    let mut lfib = lfib();
    lfib.change(
        Mode::Add,
        Owner::STATIC,
        &[swap(100, &[110], 1), push("10.1.0.0/16", &[100], 1)],
    )
    .unwrap();
    let id = only_next_hop(&mut lfib);
    let slot = entry(&lfib, 100).next_hop();
    let resolved = |mac, port, mtu| Some(Adjacency::new(mac, port, OWN, mtu));
    lfib.set_next_hop(id, resolved(R1, 1, 1500));
    assert_eq!(lfib.tables().adjacencies[&slot], resolved(R1, 1, 1500).unwrap());
    let ilm = lfib.tables().ilm.clone();
    let waited = lfib.tables().grace_periods;
    lfib.set_next_hop(id, resolved(R2, 1, 1500));
    assert_eq!(lfib.tables().adjacencies[&slot], resolved(R2, 1, 1500).unwrap());
    assert_eq!((&lfib.tables().ilm, lfib.tables().grace_periods), (&ilm, waited));

    lfib.set_next_hop(id, resolved(R2, 2, 1600));
    let moved = entry(&lfib, 100).next_hop();
    assert_ne!(moved, slot);
    assert_eq!(lfib.tables().adjacencies[&moved], resolved(R2, 2, 1600).unwrap());
    assert_eq!(lfib.tables().ftn[&place("10.1.0.0/16")].next_hop(), moved);
    assert_eq!(lfib.tables().adjacencies[&slot], Adjacency::default());
    assert!(lfib.tables().grace_periods > waited);

    lfib.set_next_hop(id, None);
    assert!(!lfib.tables().adjacencies[&moved].is_resolved());
    lfib.set_next_hop(id, resolved(R1, 1, 1500));
    assert_eq!(
        (entry(&lfib, 100).next_hop(), lfib.tables().adjacencies[&moved]),
        (moved, resolved(R1, 1, 1500).unwrap())
    );
}

/// However many entries a next hop has when it moves to another port, no step moves more than its share. If the next
/// hop fails meanwhile, the entries that have not been moved yet fail as well.
#[test]
fn many_entries_are_turned_to_another_port_in_small_steps() {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity {
        labels: 2000,
        counter_slots: 2000,
        ..small()
    }));
    lfib.turned_at_once = 100;
    let routes: Vec<Route> = (16..1016).map(|key| swap(key, &[110], 1)).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    let id = only_next_hop(&mut lfib);
    let resolved = |port| Some(Adjacency::new(R1, port, OWN, 1500));
    lfib.set_next_hop(id, resolved(1));
    let old = entry(&lfib, 16).next_hop();
    let turned = |lfib: &Lfib<MemoryTables>| (16..1016).filter(|&key| entry(lfib, key).next_hop() != old).count();
    // A change that is under way has taken the remaining slot.
    lfib.begin(install(Mode::Add, &[swap(1016, &[120], 1)])).unwrap();
    assert!(step_of(&mut lfib, 3).is_none());
    lfib.set_next_hop(id, resolved(2));
    assert_eq!(turned(&lfib), 100);
    assert_eq!(entry(&lfib, 1016), RouteEntry::EMPTY);
    assert!(lfib.tables().adjacency(old).is_resolved());
    assert!(list(&lfib).iter().all(|listed| listed.next_hops == [(id, None)]));

    lfib.set_next_hop(id, Reach::Out);
    assert!(!lfib.tables().adjacency(old).is_resolved());
    assert!(!lfib.tables().adjacency(entry(&lfib, 16).next_hop()).is_resolved());
    lfib.set_next_hop(id, resolved(2));
    assert_eq!(turned(&lfib), 100);
    lfib.tidy_step(&mut Budget::new(500, &mut || false));
    assert_eq!(turned(&lfib), 600);
    let mut steps = 0;
    while step_of(&mut lfib, 100).is_none() {
        steps += 1;
    }
    assert_eq!((steps, turned(&lfib), lfib.has_to_tidy()), (4, 1000, false));
    assert_ne!(entry(&lfib, 1016).next_hop(), old);
    assert_eq!(lfib.next_hops().at_slot(old), None);
}

#[test]
fn next_hops_that_change_together_share_their_grace_periods() {
    let routes: Vec<Route> = (1..=8).map(|n| swap(99 + u32::from(n), &[110], n)).collect();
    let resolved = |port| Some(Adjacency::new(R1, port, OWN, 1500));
    // With slots to move all of them to, some of them, and none.
    for adjacencies in [16, 11, 8] {
        let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity {
            adjacencies,
            counter_slots: 100,
            ..small()
        }));
        lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
        let ids: Vec<NextHopId> = lfib.next_hops().list().iter().map(|&(id, _)| id).collect();
        lfib.set_next_hops(ids.iter().map(|&id| (id, resolved(1))));
        assert_eq!(lfib.tables().grace_periods, 0);
        lfib.set_next_hops(ids.iter().map(|&id| (id, resolved(2))));
        assert!(lfib.tables().grace_periods <= 2);
        lfib.set_next_hops(ids.iter().map(|&id| (id, None)));
        lfib.set_next_hops(ids.iter().map(|&id| (id, resolved(1))));
        assert!(lfib.tables().grace_periods <= 3);
        let mut slots: Vec<u16> = (100..108).map(|label| entry(&lfib, label).next_hop()).collect();
        assert!(
            slots
                .iter()
                .all(|slot| lfib.tables().adjacencies[slot] == resolved(1).unwrap())
        );
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), 8);
    }
}

#[test]
fn a_slot_is_reused_only_after_a_grace_period() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[1, 2], 1)]).unwrap();
    let (slot, waited) = (entry(&lfib, 100).next_hop(), lfib.tables().grace_periods);
    lfib.change(Mode::Replace, Owner::STATIC, &[swap(100, &[30, 40], 2)])
        .unwrap();
    assert_eq!(lfib.tables().grace_periods, waited);
    assert_ne!(entry(&lfib, 100).next_hop(), slot);
    lfib.delete(&[label(100)]).unwrap();
    assert_eq!(lfib.tables().grace_periods, waited + 1);
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 3)]).unwrap();
    assert_eq!(lfib.tables().grace_periods, waited + 2);
    assert_eq!((lfib.stacks_in_use(), lfib.next_hops().len()), (0, 1));
}

/// Very many places cannot be written. One step tries some of them, in turn.
#[test]
fn places_are_settled_in_steps() {
    let mut lfib = large();
    lfib.change(Mode::Add, Owner::STATIC, &[push("10.0.0.0/8", &[100], 1)])
        .unwrap();
    lfib.tables_mut().ftn_inserts_left = 0;
    let claims = (0..1000_u32).map(|number| {
        let prefix = ipnet::Ipv4Net::new((0x0a00_0000 | number << 8).into(), 24).unwrap();
        (FtnKey::new(Domain::NO_VRF, prefix.into()), Some(Claim::Route))
    });
    lfib.set_claims(&claims.collect()).unwrap_err();
    // Their prefix is withheld.
    assert_eq!(
        (lfib.unsettled(), lfib.tables().ftn.contains_key(&place("10.0.0.0/8"))),
        (1001, false)
    );
    assert!(lfib.settle().is_err() && !lfib.has_to_tidy());
    lfib.tables_mut().ftn_inserts_left = usize::MAX;
    lfib.tables_mut().ftn_writes.clear();
    lfib.settle().unwrap();
    let mut steps = 1;
    while lfib.has_to_tidy() {
        lfib.tidy_step(&mut Budget::new(1, &mut || false));
        steps += 1;
        assert!(lfib.tables().ftn_writes.len() <= steps * 256);
    }
    assert_eq!(lfib.unsettled(), 0);
    assert!(lfib.tables().ftn.contains_key(&place("10.0.0.0/8")));
}

/// A grace period has taken so long that very many slots wait for its end.
#[test]
fn slots_are_released_in_steps() {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity {
        counter_slots: 41_000,
        ..MemoryTables::default().capacity()
    }));
    let routes: Vec<Route> = (16..40_016).map(|key| swap(key, &[110], 1)).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    lfib.tables_mut().grace_periods_over = Some(0);
    let keys: Vec<RouteKey> = routes.iter().map(Route::key).collect();
    lfib.delete(&keys).unwrap();
    lfib.reclaim();
    let period = lfib.reclaiming().unwrap();
    let waiting = |lfib: &Lfib<MemoryTables>| lfib.freed.iter().map(|(_, freed)| freed.counters.len()).sum::<usize>();
    assert_eq!((waiting(&lfib), lfib.is_reclaimed(period)), (40_000, false));
    assert!(!lfib.has_to_tidy());
    lfib.tables_mut().end_grace_periods();
    for left in [40_000 - (16 << 10), 40_000 - (32 << 10), 0] {
        assert!(!lfib.is_reclaimed(period));
        lfib.tidy_step(&mut Budget::new(1, &mut || false));
        assert_eq!(waiting(&lfib), left);
        assert_eq!(lfib.has_to_tidy(), left > 0);
    }
    assert!(lfib.is_reclaimed(period));
}

#[test]
fn frames_do_not_wait_for_a_grace_period_where_a_next_hop_is_new() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1)]).unwrap();
    let first = only_next_hop(&mut lfib);
    let resolved = Adjacency::new(R1, 1, OWN, 1500);
    lfib.set_next_hop(first, Some(resolved));
    lfib.change(Mode::Replace, Owner::STATIC, &[swap(100, &[110], 2)])
        .unwrap();
    let second = lfib.next_hops().list()[0].0;
    assert_ne!(second, first);
    lfib.set_next_hop(second, None);
    lfib.set_next_hop(second, Some(resolved));
    assert_eq!(lfib.tables().grace_periods, 0);
    let slot = entry(&lfib, 100).next_hop();
    assert_eq!(lfib.tables().adjacencies[&slot], resolved);

    // A next hop that was resolved before may still be read.
    lfib.set_next_hop(second, None);
    lfib.set_next_hop(second, Some(Adjacency::new(R1, 2, OWN, 1500)));
    assert_eq!(lfib.tables().grace_periods, 0, "one store: nothing else differs");
    lfib.set_next_hop(second, None);
    lfib.set_next_hop(second, Some(Adjacency::new(R1, 2, OWN, 1600)));
    assert_eq!(lfib.tables().grace_periods, 1);
    // So may a slot that another next hop had: it is emptied before it is handed out again.
    lfib.change(Mode::Replace, Owner::STATIC, &[swap(100, &[110], 3)])
        .unwrap();
    assert_eq!(lfib.tables().grace_periods, 2);
    let third = lfib.next_hops().list()[0].0;
    lfib.set_next_hop(third, Some(resolved));
    assert_eq!(lfib.tables().grace_periods, 2);
}

#[test]
fn slots_and_next_hops_wait_for_the_end_of_a_grace_period_and_no_change_does() {
    let mut lfib = lfib();
    lfib.tables_mut().end_grace_periods();
    lfib.change(
        Mode::Add,
        Owner::STATIC,
        &[swap(100, &[21, 22], 1), swap(101, &[23, 24], 1)],
    )
    .unwrap();
    let id = only_next_hop(&mut lfib);
    let slot = entry(&lfib, 100).next_hop();
    let resolved = |port| Adjacency::new(R1, port, OWN, 1500 + port);
    lfib.set_next_hop(id, Some(resolved(1)));
    assert_eq!(lfib.reclaiming(), None);
    lfib.set_next_hop(id, None);
    lfib.set_next_hop(id, Some(resolved(2)));
    // Asking again does not make it wait longer.
    lfib.set_next_hop(id, Some(resolved(2)));
    assert_eq!(lfib.tables().grace_periods, 1);
    assert!(!lfib.tables().adjacencies[&slot].is_resolved());
    assert!(lfib.has_resolving() && lfib.is_resolving(id));

    lfib.delete(&[label(100)]).unwrap();
    lfib.reclaim();
    assert!(lfib.reclaiming().is_some());
    let other = [swap(100, &[25, 26], 1)];
    let refused = lfib.change(Mode::Add, Owner::STATIC, &other);
    assert!(matches!(refused, Err(ChangeError::Full { .. })), "{refused:?}");

    lfib.tables_mut().end_grace_periods();
    lfib.reclaim();
    assert_eq!(lfib.tables().adjacencies[&slot], resolved(2));
    assert!(!lfib.has_resolving() && !lfib.is_resolving(id));
    lfib.change(Mode::Add, Owner::STATIC, &other).unwrap();
}

#[test]
fn a_next_hop_that_goes_while_it_waits_for_a_grace_period_is_not_resolved() {
    let mut lfib = lfib();
    lfib.tables_mut().end_grace_periods();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1), swap(101, &[110], 2)])
        .unwrap();
    let (first, second) = (hop_of(&lfib, 1), hop_of(&lfib, 2));
    let resolved = |port| Some(Adjacency::new(R1, port, OWN, 1500 + port));
    for port in [1, 2] {
        lfib.set_next_hops([(first, resolved(port)), (second, resolved(port))]);
        if port == 1 {
            lfib.set_next_hops([(first, None::<Adjacency>), (second, None)]);
        }
    }
    let slot = entry(&lfib, 101).next_hop();
    lfib.set_next_hop(second, Reach::Out);
    lfib.delete(&[label(100)]).unwrap();
    lfib.tables_mut().end_grace_periods();
    lfib.reclaim();
    assert!(!lfib.tables().adjacencies[&slot].is_resolved());
    assert!(
        lfib.tables()
            .adjacencies
            .values()
            .all(|adjacency| !adjacency.is_resolved())
    );
}

#[test]
fn next_hops_that_have_waited_for_a_grace_period_are_resolved_in_steps() {
    let capacity = Capacity {
        labels: 4000,
        adjacencies: 2000,
        ..small()
    };
    let mut lfib = Lfib::new(MemoryTables::with_capacity(capacity));
    lfib.tables_mut().end_grace_periods();
    let routes = (0..1500_u32).map(|number| {
        let via = Via::Inet((0x0a01_0001 + number).into());
        let dev = Some(Arc::from("eth0"));
        let action = Action::Swap(labels(&[110]));
        Route::new(
            label(16 + number),
            action,
            Some(NextHop { via, dev }),
            TtlPropagate::Default,
        )
        .unwrap()
    });
    lfib.change(Mode::Add, Owner::STATIC, &routes.collect::<Vec<_>>())
        .unwrap();
    let ids: Vec<NextHopId> = lfib.next_hops().list().iter().map(|&(id, _)| id).collect();
    let set = |lfib: &mut Lfib<MemoryTables>, adjacency: Option<Adjacency>| {
        lfib.set_next_hops(ids.iter().map(|&id| (id, adjacency)));
    };
    let resolved = |lfib: &Lfib<MemoryTables>| {
        let adjacencies = lfib.tables().adjacencies.values();
        adjacencies.filter(|adjacency| adjacency.is_resolved()).count()
    };
    set(&mut lfib, Some(Adjacency::new(R1, 1, OWN, 1500)));
    set(&mut lfib, None);
    // The contents differ in more than one word.
    set(&mut lfib, Some(Adjacency::new(R1, 2, OWN, 1400)));
    assert_eq!((resolved(&lfib), lfib.has_to_tidy()), (0, false));
    lfib.tables_mut().end_grace_periods();
    lfib.reclaim();
    assert_eq!((resolved(&lfib), lfib.has_to_tidy()), (1024, true));
    lfib.tidy_step(&mut Budget::new(1, &mut || false));
    assert_eq!((resolved(&lfib), lfib.has_to_tidy()), (1500, false));
}

/// What readers of the adjacencies may see of one slot.
#[derive(Clone, Copy, Default)]
struct SeenSlot {
    adjacency: Adjacency,
    /// The first grace period after which every reader that saw it resolved sees its present state.
    settled: u64,
}

/// Follows the stores to the adjacencies as readers may see them. A reader reads the first word of an adjacency before
/// the others, the others in any order, and is gone after the next grace period. Whatever it finds resolved must be one
/// of `given`, whole.
fn check_readers(events: &[AdjacencyEvent], given: &HashSet<[u64; 4]>) {
    let without_backup = |adjacency: Adjacency| adjacency.with_backup(None).words();
    let mut slots: HashMap<u16, SeenSlot> = HashMap::new();
    let (mut begun, mut over) = (0, 0);
    for &event in events {
        match event {
            AdjacencyEvent::GraceBegun(period) => begun = period.0,
            AdjacencyEvent::GraceOver(period) => over = period.0,
            AdjacencyEvent::Emptied { index } => drop(slots.remove(&index)),
            AdjacencyEvent::Stored { index, word, value } => {
                let slot = slots.entry(index).or_default();
                let old = slot.adjacency;
                let mut words = old.words();
                words[word] = value;
                slot.adjacency = Adjacency::from_words(words);
                if word == 0 {
                    if old.is_resolved() {
                        slot.settled = begun + 1;
                    }
                    let whole = without_backup(slot.adjacency);
                    assert!(!slot.adjacency.is_resolved() || given.contains(&whole), "{whole:x?}");
                } else if without_backup(old) != without_backup(slot.adjacency) {
                    assert!(!old.is_resolved(), "word {word} of slot {index} changes in use");
                    assert!(over >= slot.settled, "word {word} of slot {index} may be read");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_reader_sees_a_part_of_an_adjacency(
        steps in proptest::collection::vec(
            (
                proptest::option::of(proptest::collection::vec(route(), 0..3)),
                proptest::collection::vec((1u8..5, proptest::option::of((1u16..3, any::<bool>(), any::<bool>()))), 0..3),
                any::<bool>(),
            ),
            1..40,
        ),
        adjacencies in 3u32..9,
    ) {
        let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity { adjacencies, ..small() }));
        lfib.tables_mut().adjacency_events = Some(Vec::new());
        lfib.tables_mut().end_grace_periods();
        let mut given = HashSet::new();
        for (routes, reached, ends) in steps {
            if let Some(routes) = routes {
                let _ = lfib.change(Mode::ReplaceAll, Owner::STATIC, &routes);
            }
            for (neighbour, reach) in reached {
                let reach = reach.map_or(Reach::Out, |(port, other_mac, tagged)| {
                    let tags = if tagged { VlanTags::one(0x8100, 7) } else { VlanTags::NONE };
                    let mac = if other_mac { R1 } else { R2 };
                    let adjacency = Adjacency::new(mac, port, OWN, 1000 + port).with_tags(tags).with_one_buffer(tagged);
                    given.insert(adjacency.words());
                    Reach::Resolved(adjacency)
                });
                let list = lfib.next_hops().list();
                let ids: Vec<_> = list.iter().filter(|(_, hop)| Some(*hop) == via(neighbour).as_ref()).map(|&(id, _)| id).collect();
                lfib.set_next_hops(ids.into_iter().map(|id| (id, reach)));
            }
            if ends {
                lfib.tables_mut().end_grace_periods();
            }
            lfib.reclaim();
        }
        check_readers(lfib.tables().adjacency_events.as_deref().unwrap(), &given);
    }
}

#[test]
fn a_change_needs_a_route_in_whose_place_it_comes() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1)]).unwrap();
    let refused = lfib.change(
        Mode::Change,
        Owner::STATIC,
        &[swap(100, &[120], 1), swap(101, &[121], 1)],
    );
    assert!(matches!(refused, Err(ChangeError::Missing { index: 1, key }) if key == label(101)));
    assert_eq!(lfib.get(label(100)).unwrap().route, swap(100, &[110], 1));
    let changes = lfib
        .change(Mode::Change, Owner::STATIC, &[swap(100, &[120], 1)])
        .unwrap();
    assert_eq!((changes.added, changes.replaced), (0, 1));
}

#[test]
fn packets_take_the_route_of_the_longest_prefix() {
    let mut lfib = lfib();
    let prefixes = ["0.0.0.0/0", "10.0.0.0/8", "10.4.0.0/16", "10.4.4.4/32", "2001:db8::/32"];
    let routes = prefixes.map(|prefix| push(prefix, &[400], 1));
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    for (address, prefix) in [
        ("10.4.4.4", Some("10.4.4.4/32")),
        ("10.4.4.5", Some("10.4.0.0/16")),
        ("10.5.0.1", Some("10.0.0.0/8")),
        ("192.0.2.1", Some("0.0.0.0/0")),
        ("2001:db8::1", Some("2001:db8::/32")),
        ("2001:db9::1", None),
    ] {
        let found = lfib.longest_match(address.parse().unwrap(), RoutingTable::MAIN);
        assert_eq!(
            found,
            prefix.map(|prefix| RouteKey::Prefix(net(prefix).into())),
            "{address}"
        );
    }
}

#[test]
fn packets_take_the_route_of_their_table_before_the_one_without() {
    let mut lfib = lfib();
    let routes = [
        push("10.0.0.0/8", &[400], 1),
        push_in(Some(10), "10.0.0.0/8", &[401], 1),
        push_in(Some(10), "10.4.0.0/16", &[402], 1),
        push_in(Some(254), "10.5.0.0/16", &[403], 1),
    ];
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    for (table, address, expected) in [
        (254, "10.4.0.1", fec(None, "10.0.0.0/8")),
        (254, "10.5.0.1", fec(Some(254), "10.5.0.0/16")),
        (10, "10.4.0.1", fec(Some(10), "10.4.0.0/16")),
        (10, "10.5.0.1", fec(Some(10), "10.0.0.0/8")),
        (20, "10.4.0.1", fec(None, "10.0.0.0/8")),
    ] {
        let found = lfib.longest_match(address.parse().unwrap(), RoutingTable(table));
        assert_eq!(found, Some(RouteKey::Prefix(expected)), "{table} {address}");
    }
    let exact = |table| lfib.exact_match(net("10.4.0.0/16"), RoutingTable(table));
    assert_eq!((exact(10), exact(254)), (Some(routes[2].key()), None));
}

/// A route that no port uses takes no room. A route that hides another takes no extra room.
#[test]
fn routes_of_a_table_take_room_only_where_it_is_used() {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity { prefixes: 3, ..small() }));
    let unused: Vec<Route> = (0..10)
        .map(|index| push_in(Some(10), &format!("10.{index}.0.0/16"), &[100], 1))
        .collect();
    lfib.change(Mode::Add, Owner::STATIC, &unused).unwrap();
    assert!(lfib.tables().ftn.is_empty());
    let both = [
        push("172.16.0.0/12", &[101], 1),
        push_in(Some(254), "172.16.0.0/12", &[102], 1),
        push_in(Some(20), "172.16.0.0/12", &[103], 1),
    ];
    lfib.change(Mode::Add, Owner::STATIC, &both).unwrap();
    assert_eq!((lfib.tables().ftn.len(), imposed(&lfib, "172.16.0.1")), (1, Some(102)));
    lfib.use_vrf_with(10, BTreeMap::new);
    let error = lfib
        .domain_step(&mut Budget::new(usize::MAX, &mut || false))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the IPv4 prefix routes take 12 entries in all, and there are 3"),
        "{error}"
    );
    lfib.leave_vrfs(&BTreeSet::new());
    lfib.use_vrf_with(20, BTreeMap::new);
    lfib.retry_filling();
    fill(&mut lfib);
    assert_eq!(imposed_in(&lfib, lfib.domain(Some(20)), "172.16.0.1"), Some(103));
    // One more for table main, and none for the other.
    let more = ["10.0.0.0/8", "11.0.0.0/8"].map(|prefix| push_in(Some(254), prefix, &[104], 1));
    let error = lfib.change(Mode::Add, Owner::STATIC, &more).unwrap_err();
    assert_eq!((error.index(), lfib.tables().ftn.len()), (Some(1), 2));
    lfib.change(Mode::Add, Owner::STATIC, &more[..1]).unwrap();
    assert_eq!(imposed(&lfib, "10.1.0.1"), Some(104));
    // The hidden route is used again.
    lfib.delete(&[both[1].key(), both[2].key()]).unwrap();
    assert_eq!(imposed(&lfib, "172.16.0.1"), Some(101));
    assert_eq!(imposed_in(&lfib, lfib.domain(Some(20)), "172.16.0.1"), Some(101));
}

#[test]
fn deleting_what_is_not_there_is_refused_whole() {
    let mut lfib = lfib();
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[110], 1)]).unwrap();
    let error = lfib.delete(&[label(100), label(101)]).unwrap_err();
    assert_eq!(
        (error.index(), error.to_string().as_str()),
        (Some(1), "101 has no route")
    );
    assert_ne!(entry(&lfib, 100), RouteEntry::EMPTY);
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A change that is made in steps of this many operations, between which other things happen.
    Make(Asked, usize, Vec<Meanwhile>),
    Meanwhile(Meanwhile),
    /// All FTN inserts succeed from now on.
    Heal,
    /// This many steps of tidying up.
    Sweep(usize),
}

#[derive(Clone, Debug)]
enum Asked {
    Install(Mode, Vec<Route>),
    Delete(Vec<RouteKey>),
    /// Deletes all label routes, or all prefix routes.
    Flush(bool),
}

/// What may happen in the middle of a change.
#[derive(Clone, Debug)]
enum Meanwhile {
    Nothing,
    /// The neighbour with this last byte becomes reachable by this port, or goes out.
    Reach(u8, Option<u16>),
    /// The kernel claims these prefixes in these tables from now on, or no longer.
    Claim(BTreeMap<(Option<u32>, IpNet), Option<Claim>>),
    /// The VRFs of the ports, by their tables.
    Vrfs(BTreeSet<u32>),
    /// This many steps of filling and emptying their domains.
    Domains(usize),
    /// Only this many FTN inserts succeed from now on.
    Fail(usize),
    /// Slots that no entry points to are given back.
    Reclaim,
}

/// Prefixes that cover one another, in both families; some of them contain addresses on which labels are never imposed.
const NETS: [&str; 11] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.4.0.0/16",
    "10.4.5.0/24",
    "10.4.5.1/32",
    "10.4.6.0/24",
    "224.0.0.0/4",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::1/128",
];

fn route() -> impl Strategy<Value = Route> {
    let action = prop_oneof![
        proptest::collection::vec(16u32..20, 1..4).prop_map(|out| Action::Swap(labels(&out))),
        Just(Action::Pop),
        Just(Action::PenultimatePop),
    ];
    let for_label = (16u32..24, action, 1u8..5, backup()).prop_map(|(key, action, neighbour, backup)| {
        let path = Path {
            backup: backup_of(label(key), neighbour, backup),
            ..Path::new(action, via(neighbour))
        };
        Route::with_paths(label(key), vec![path], TtlPropagate::Default).unwrap()
    });
    let own = (16u32..24, 0..5).prop_map(|(key, action)| {
        let (action, ttl) = match action {
            0 => (Action::Local, TtlPropagate::Enabled),
            1 => (Action::LocalPass, TtlPropagate::Enabled),
            2 => (Action::VrfPass("red".into()), TtlPropagate::Disabled),
            3 => (Action::VrfPass("blue".into()), TtlPropagate::Default),
            _ => (Action::Pass(PassReason::new("a reason")), TtlPropagate::Default),
        };
        Route::new(label(key), action, None, ttl).unwrap()
    });
    // No labels are imposed on multicast.
    let prefix = || proptest::sample::select(NETS.to_vec()).prop_filter("unicast", |net| !net.starts_with("224"));
    let table = || proptest::option::of(proptest::sample::select(TABLES.to_vec()));
    let out = proptest::collection::vec(16u32..20, 1..3);
    let for_prefix = (table(), prefix(), out, 1u8..5, backup()).prop_map(|(table, net, out, neighbour, backup)| {
        let route = push_in(table, net, &out, neighbour);
        let path = Path {
            backup: backup_of(route.key(), neighbour, backup),
            ..route.paths()[0].clone()
        };
        Route::with_paths(route.key(), vec![path], TtlPropagate::Default).unwrap()
    });
    let several = (
        prop_oneof![
            (20u32..24).prop_map(label),
            (table(), prefix()).prop_map(|(table, prefix)| RouteKey::Prefix(fec(table, prefix))),
            port().prop_map(RouteKey::Attachment)
        ],
        proptest::collection::btree_map(1u8..4, (16u32..20, 1u16..4), 2..4),
        backup(),
    );
    let several = several.prop_map(|(key, members, backup)| {
        let action = |out| match key {
            RouteKey::Label(_) => Action::Swap(labels(&[out])),
            RouteKey::Prefix(_) | RouteKey::Attachment(_) => Action::Push {
                labels: labels(&[out]),
                ttl: None,
            },
        };
        let paths = members.into_iter().map(|(neighbour, (out, weight))| Path {
            backup: backup_of(key, neighbour, backup.clone()),
            weight,
            ..Path::new(action(out), via(neighbour))
        });
        Route::with_paths(key, paths.collect(), TtlPropagate::Default).unwrap()
    });
    let exit = (20u32..24, port(), pseudowire());
    let exit = exit.prop_map(|(key, port, pseudowire)| out_of(key, port, pseudowire));
    let out = proptest::collection::vec(16u32..20, 1..3);
    let for_port = (port(), out, 1u8..5, backup(), pseudowire());
    let for_port = for_port.prop_map(|(port, out, neighbour, backup, pseudowire)| {
        let route = into(port, &out, neighbour, pseudowire);
        let path = Path {
            backup: backup_of(route.key(), neighbour, backup),
            ..route.paths()[0].clone()
        };
        route.with_other_paths(vec![path]).unwrap()
    });
    prop_oneof![3 => for_label, 1 => own, 4 => for_prefix, 3 => several, 1 => exit, 2 => for_port]
}

fn port() -> impl Strategy<Value = PortName> {
    proptest::sample::select(vec!["eth5", "eth6.100"]).prop_map(|name| PortName::new(name).unwrap())
}

fn pseudowire() -> impl Strategy<Value = Pseudowire> {
    let service_tag = prop_oneof![
        Just(ServiceTag::Raw),
        Just(ServiceTag::Tagged),
        Just(ServiceTag::Vlan(7))
    ];
    (any::<bool>(), any::<bool>(), service_tag).prop_map(|(control_word, flow_label, service_tag)| Pseudowire {
        control_word,
        flow_label,
        service_tag,
    })
}

/// `KEY xconnect PORT`.
fn out_of(key: u32, port: PortName, pseudowire: Pseudowire) -> Route {
    let route = Route::new(label(key), Action::CrossConnect(port), None, TtlPropagate::Default).unwrap();
    route.with_pseudowire(pseudowire).unwrap()
}

/// `xconnect PORT encap mpls OUT via 192.0.2.NEIGHBOUR`.
fn into(port: PortName, out: &[u32], neighbour: u8, pseudowire: Pseudowire) -> Route {
    let (labels, ttl) = (labels(out), None);
    let (key, action) = (RouteKey::Attachment(port), Action::Push { labels, ttl });
    let route = Route::new(key, action, via(neighbour), TtlPropagate::Default).unwrap();
    route.with_pseudowire(pseudowire).unwrap()
}

/// No backup; one that gets the same labels; one with labels of its own, or none.
fn backup() -> impl Strategy<Value = Option<Vec<u32>>> {
    let own = proptest::collection::vec(16u32..20, 1..3);
    prop_oneof![2 => Just(None), 1 => Just(Some(Vec::new())), 2 => own.prop_map(Some)]
}

/// That backup for a next hop, another neighbour.
fn backup_of(key: RouteKey, neighbour: u8, given: Option<Vec<u32>>) -> Option<Backup> {
    let out = given?;
    let action = match (&*out, key) {
        ([], _) => None,
        ([19], RouteKey::Label(_)) => Some(Action::PenultimatePop),
        (out, RouteKey::Label(_)) => Some(Action::Swap(labels(out))),
        (out, RouteKey::Prefix(_) | RouteKey::Attachment(_)) => Some(Action::Push {
            labels: labels(out),
            ttl: None,
        }),
    };
    let next_hop = via(neighbour % 4 + 1)?;
    Some(Backup { next_hop, action })
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(Mode::Add), Just(Mode::Replace), Just(Mode::ReplaceAll)];
    let asked = prop_oneof![
        5 => (mode, proptest::collection::vec(route(), 0..5)).prop_map(|(mode, routes)| Asked::Install(mode, routes)),
        1 => proptest::collection::vec(route().prop_map(|route| route.key()), 0..3).prop_map(Asked::Delete),
        1 => any::<bool>().prop_map(Asked::Flush),
    ];
    let others = prop_oneof![Just(Vec::new()), proptest::collection::vec(meanwhile(), 1..24)];
    prop_oneof![
        5 => (asked, prop_oneof![Just(usize::MAX), 1_usize..8], others)
            .prop_map(|(asked, operations, others)| Step::Make(asked, operations, others)),
        4 => meanwhile().prop_map(Step::Meanwhile),
        1 => Just(Step::Heal),
        1 => (0usize..4).prop_map(Step::Sweep),
    ]
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        4 => Just(Meanwhile::Nothing),
        2 => (1u8..5, proptest::option::of(1u16..3)).prop_map(|(last, port)| Meanwhile::Reach(last, port)),
        2 => claims().prop_map(Meanwhile::Claim),
        2 => proptest::collection::btree_set(proptest::sample::select(VRFS.to_vec()), 0..3).prop_map(Meanwhile::Vrfs),
        3 => prop_oneof![0usize..4, Just(100)].prop_map(Meanwhile::Domains),
        1 => (0usize..4).prop_map(Meanwhile::Fail),
        1 => Just(Meanwhile::Reclaim),
    ]
}

/// Tables of VRFs.
const VRFS: [u32; 3] = [10, 20, 30];
/// Tables with routes. The last one has no VRF.
const TABLES: [u32; 5] = [10, 20, 30, 254, 40];

fn claims() -> impl Strategy<Value = BTreeMap<(Option<u32>, IpNet), Option<Claim>>> {
    let claim = prop_oneof![Just(Some(Claim::Route)), Just(Some(Claim::Never)), Just(None)];
    let table = proptest::option::of(proptest::sample::select(VRFS.to_vec()));
    let net = proptest::sample::select(NETS.to_vec()).prop_map(net);
    proptest::collection::btree_map((table, net), claim, 1..6)
}

/// The state of the kernel.
#[derive(Default, Debug)]
struct Kernel {
    claims: BTreeMap<(Option<u32>, IpNet), Claim>,
    /// The VRFs of the ports.
    vrfs: BTreeSet<u32>,
}

impl Kernel {
    fn claims_in(&self, table: Option<u32>) -> BTreeMap<IpNet, Claim> {
        let claims = self.claims.iter().filter(|((of, _), _)| *of == table);
        claims.map(|(&(_, net), &claim)| (net, claim)).collect()
    }

    /// The domains in use, with their tables and what the kernel claims in them.
    fn domains(&self, lfib: &Lfib<MemoryTables>) -> BTreeMap<Domain, (RoutingTable, BTreeMap<IpNet, Claim>)> {
        let tables = std::iter::once(None).chain(self.vrfs.iter().copied().map(Some));
        let domains = tables.map(|vrf| {
            let table = vrf.map_or(RoutingTable::MAIN, RoutingTable);
            (lfib.domain(vrf), (table, self.claims_in(vrf)))
        });
        domains.filter(|(domain, _)| *domain != Domain::EMPTY).collect()
    }
}

/// The entries of one domain.
fn entries_in(domain: Domain, ftn: &BTreeMap<FtnKey, RouteEntry>) -> BTreeMap<IpNet, RouteEntry> {
    let entries = ftn.iter().filter(|(key, _)| key.domain == domain);
    entries.map(|(key, &entry)| (key.prefix, entry)).collect()
}

type Model = BTreeMap<RouteKey, Route>;

/// What the FTN table must hold for ports of a table, worked out from scratch: the FECs whose routes are in it, and the
/// pass entries.
fn expected_ftn(model: &Model, table: RoutingTable, claims: &BTreeMap<IpNet, Claim>) -> BTreeMap<IpNet, Option<Fec>> {
    // In the order of keys, a table's own route for a prefix comes after the one without a table, and replaces it.
    let fecs = model.keys().filter_map(|key| match key {
        RouteKey::Prefix(fec) if fec.table.is_none_or(|of| of == table) => Some((fec.prefix, Some(*fec))),
        RouteKey::Prefix(_) | RouteKey::Label(_) | RouteKey::Attachment(_) => None,
    });
    let mut entries: BTreeMap<IpNet, Option<Fec>> = fecs.collect();
    let ftn: Vec<IpNet> = entries.keys().copied().collect();
    let never = crate::route::NEVER.map(|prefix| (prefix, Claim::Never));
    for (prefix, claim) in claims.clone().into_iter().chain(never) {
        let held = |other: &IpNet| other.contains(&prefix) && (claim == Claim::Never || *other != prefix);
        let own = claim == Claim::Route && ftn.contains(&prefix);
        if !own && ftn.iter().any(held) {
            entries.insert(prefix, None);
        }
    }
    entries
}

/// Addresses, some of which are in several of [`NETS`].
fn addresses() -> impl Iterator<Item = IpAddr> {
    let nets = NETS.map(net).into_iter().chain(crate::route::NEVER);
    nets.flat_map(|net| [net.network(), net.broadcast()])
}

/// What the FTN table holds for each of [`addresses`]: no entry and a pass entry count as the same.
fn seen(ftn: &BTreeMap<IpNet, RouteEntry>) -> Vec<RouteEntry> {
    let find = |address: IpAddr| ftn.iter().rfind(|(prefix, _)| prefix.contains(&address));
    addresses()
        .map(|address| find(address).map_or(RouteEntry::EMPTY, |(_, &entry)| entry))
        .map(|entry| {
            if entry == RouteEntry::PASS {
                RouteEntry::EMPTY
            } else {
                entry
            }
        })
        .collect()
}

impl Asked {
    /// The change, and the routes after it.
    fn change(self, model: &Model) -> (Change, Model) {
        let mut wanted = model.clone();
        let change = match self {
            Self::Install(mode, routes) => {
                if mode == Mode::ReplaceAll {
                    wanted.clear();
                }
                wanted.extend(routes.iter().map(|route| (route.key(), route.clone())));
                install(mode, &routes)
            }
            Self::Delete(keys) => {
                wanted.retain(|key, _| !keys.contains(key));
                Change::Delete(Arc::new(keys))
            }
            Self::Flush(labels) => {
                wanted.retain(|key, _| matches!(key, RouteKey::Label(_)) != labels);
                let select: Select = Box::new(move |route| matches!(route.key, RouteKey::Label(_)) == labels);
                Change::Flush(Arc::new(select))
            }
        };
        (change, wanted)
    }
}

/// The labels of a VRF lead into its domain while that is filled, and nowhere otherwise.
fn ensure_vrfs_are_followed(lfib: &mut Lfib<MemoryTables>) -> Result<(), TestCaseError> {
    lfib.follow_vrfs();
    for listed in list(lfib) {
        let [path] = listed.route.paths() else { continue };
        let (RouteKey::Label(key), Action::VrfPass(name)) = (listed.route.key(), &path.action) else {
            continue;
        };
        let expected = match vrf_device(name) {
            Some(device) if lfib.domain(Some(device.table)) != Domain::EMPTY => {
                VrfWord::new(device.ifindex, lfib.domain(Some(device.table)))
            }
            _ => VrfWord::NONE,
        };
        let entry = entry(lfib, key.get());
        prop_assert_eq!(entry.op(), Op::VrfPass);
        let word = lfib.tables().vrfs.get(&entry.operand()).copied().unwrap_or_default();
        prop_assert_eq!(word, expected);
    }
    Ok(())
}

/// Red has the first of [`TABLES`], and blue is not there.
fn vrf_device(name: &str) -> Option<VrfDevice> {
    (name == "red").then_some(VrfDevice {
        ifindex: 50,
        table: TABLES[0],
    })
}

fn vrf_devices() -> BTreeMap<Arc<str>, VrfDevice> {
    let names = ["red", "blue"].into_iter();
    names
        .filter_map(|name| Some((name.into(), vrf_device(name)?)))
        .collect()
}

impl Meanwhile {
    fn happens(self, lfib: &mut Lfib<MemoryTables>, kernel: &mut Kernel) -> Result<(), TestCaseError> {
        match self {
            Self::Nothing => {}
            Self::Reach(last, port) => {
                let list = lfib.next_hops().list().into_iter();
                let ids = list.filter(|&(_, next_hop)| Some(next_hop) == via(last).as_ref());
                let ids: Vec<NextHopId> = ids.map(|(id, _)| id).collect();
                let reach = port.map_or(Reach::Out, |port| Reach::Resolved(Adjacency::new(R1, port, OWN, 1500)));
                lfib.set_next_hops(ids.into_iter().map(|id| (id, reach)));
                let unresolved = lfib.next_hops().list().into_iter().filter(|&(id, _)| {
                    let slot = lfib.next_hops().slot(id).unwrap();
                    !lfib.tables().adjacency(slot).is_resolved()
                });
                prop_assert_eq!(lfib.next_hops().unresolved(), unresolved.count());
            }
            Self::Claim(changes) => {
                let domains = lfib.domains().map(|(domain, table)| (table, domain));
                let domains: BTreeMap<Option<u32>, Domain> = domains.collect();
                let places = changes.iter().filter_map(|(&(table, net), &claim)| {
                    let domain = *domains.get(&table)?;
                    Some((FtnKey::new(domain, net), claim))
                });
                let result = lfib.set_claims(&places.collect());
                prop_assert_eq!(result.is_ok(), lfib.unsettled() == 0);
                for (place, claim) in changes {
                    match claim {
                        Some(claim) => kernel.claims.insert(place, claim),
                        None => kernel.claims.remove(&place),
                    };
                }
            }
            Self::Vrfs(tables) => {
                for &table in &tables {
                    prop_assert!(lfib.use_vrf_with(table, || kernel.claims_in(Some(table))));
                }
                lfib.leave_vrfs(&tables);
                kernel.vrfs = tables;
            }
            Self::Domains(steps) => {
                for _ in 0..steps {
                    let writes = lfib.tables().ftn_writes.len();
                    let result = lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false));
                    prop_assert!(lfib.tables().ftn_writes.len() - writes <= lfib.step);
                    prop_assert!(result.is_ok() || lfib.is_filling_stalled());
                    if !lfib.has_domain_steps() {
                        break;
                    }
                }
                let are_filled = kernel
                    .vrfs
                    .iter()
                    .all(|&table| lfib.domain(Some(table)) != Domain::EMPTY);
                prop_assert!(lfib.has_domain_steps() || lfib.is_filling_stalled() || are_filled);
            }
            Self::Fail(left) => lfib.tables_mut().ftn_inserts_left = left,
            Self::Reclaim => drop(lfib.reclaim()),
        }
        Ok(())
    }
}

/// Checks that the routes are those of `model`, and that the tables match them and the claims.
fn check_tables(lfib: &Lfib<MemoryTables>, model: &Model, kernel: &Kernel) -> Result<(), TestCaseError> {
    check_groups(lfib);
    let listed: Vec<Route> = list(lfib).into_iter().map(|listed| listed.route).collect();
    prop_assert_eq!(&listed, &model.values().cloned().collect::<Vec<_>>());
    // A counter slot leads back to its route.
    for listed in list(lfib).into_iter().filter(|listed| listed.counter_slot != 0) {
        prop_assert_eq!(lfib.counted_in(listed.counter_slot), Some(listed));
    }
    for value in 16..24 {
        prop_assert_eq!(
            entry(lfib, value) == RouteEntry::EMPTY,
            !model.contains_key(&label(value))
        );
    }
    // Frames go to a next hop of their route, and to none that cannot be reached.
    let pairs = lfib.backups.all().into_iter().map(|slot| &lfib.tables().pairs[&slot]);
    let attached = lfib.pseudowires.attached_slots().into_iter();
    let attached = attached.map(|(port, slot)| (RouteKey::Attachment(port), &lfib.tables().attachments[&slot].0));
    let attached: BTreeMap<RouteKey, &RouteEntry> = attached.collect();
    for (&key, &entry) in &attached {
        prop_assert_eq!(lfib.routes.get(key).map(|route| route.entry), Some(*entry));
    }
    let entries = lfib.tables().ilm.values().chain(lfib.tables().ftn.values());
    let entries = entries.chain(attached.into_values());
    for &entry in entries.chain(pairs.flatten()).filter(|entry| uses_next_hop(**entry)) {
        let at_slot = lfib.next_hops().at_slot(entry.next_hop()).map(|(id, _)| id);
        let is_resolved = lfib.tables().adjacency(entry.next_hop()).is_resolved();
        prop_assert!(lfib.unsettled() > 0 || at_slot.is_some());
        prop_assert!(!is_resolved || at_slot.is_some_and(|id| lfib.next_hops().is_resolved(id)));
    }
    let prefixes = model.keys().filter(|key| matches!(key, RouteKey::Prefix(_))).count();
    prop_assert_eq!(lfib.prefix_routes(), prefixes);
    let attachments: Vec<_> = model
        .keys()
        .filter(|key| matches!(key, RouteKey::Attachment(_)))
        .collect();
    prop_assert_eq!(lfib.label_routes() + prefixes + attachments.len(), model.len());

    let all: BTreeSet<Domain> = lfib.domains().map(|(domain, _)| domain).collect();
    prop_assert!(lfib.tables().ftn.keys().all(|key| all.contains(&key.domain)));
    for (domain, (table, claims)) in kernel.domains(lfib) {
        // The table holds what the routes and claims say; if a write has failed, some route is missing.
        let entries = expected_ftn(model, table, &claims).into_iter();
        let entries = entries.map(|(prefix, fec)| {
            let entry = fec.map(|fec| lfib.routes.get(RouteKey::Prefix(fec)).unwrap().entry);
            (prefix, entry.unwrap_or(RouteEntry::PASS))
        });
        let expected: BTreeMap<IpNet, RouteEntry> = entries.collect();
        let all_held = entries_in(domain, &lfib.tables().ftn);
        if lfib.unsettled() == 0 {
            let needless = |(prefix, entry): &(&IpNet, &RouteEntry)| {
                lfib.pass.has_laid() && **entry == RouteEntry::PASS && !expected.contains_key(*prefix)
            };
            let held = all_held.iter().filter(|entry| !needless(entry));
            let held: BTreeMap<_, _> = held.map(|(&prefix, &entry)| (prefix, entry)).collect();
            prop_assert_eq!(&held, &expected);
            prop_assert_eq!(seen(&all_held), seen(&expected));
        }
        for (wanted, held) in seen(&expected).into_iter().zip(seen(&all_held)) {
            prop_assert!(
                wanted != RouteEntry::EMPTY || held == RouteEntry::EMPTY,
                "{:?} is imposed",
                held
            );
        }
    }
    Ok(())
}

/// Checks that no slot that the table points to has become another's.
fn check_meanings(lfib: &Lfib<MemoryTables>, meanings: &mut BTreeMap<FtnKey, Meaning>) -> Result<(), TestCaseError> {
    for (&key, &entry) in &lfib.tables().ftn {
        let meaning = Meaning::of(lfib, entry);
        if let Some(before) = meanings.get(&key).filter(|before: &&Meaning| before.entry == entry) {
            prop_assert!(meaning.is_left_of(before), "{:?} {:?}", before, meaning);
        } else {
            meanings.insert(key, meaning);
        }
    }
    meanings.retain(|key, meaning| lfib.tables().ftn.get(key) == Some(&meaning.entry));
    Ok(())
}

/// What an entry of the table points to.
#[derive(Clone, PartialEq, Debug)]
struct Meaning {
    entry: RouteEntry,
    stack: Option<LabelStack>,
    next_hop: Option<NextHop>,
    members: Option<Vec<Member>>,
    pair: Option<Pair>,
}

impl Meaning {
    fn of(lfib: &Lfib<MemoryTables>, entry: RouteEntry) -> Self {
        let next_hop = uses_next_hop(entry).then(|| lfib.next_hops().at_slot(entry.next_hop()));
        let members = (entry.op() == Op::Group).then(|| lfib.groups.members(entry.operand()));
        let pair = (entry.op() == Op::Protected).then(|| lfib.backups.get(entry.operand()));
        Self {
            entry,
            stack: (entry.op() == Op::Stack).then(|| lfib.tables().stacks[&entry.operand()]),
            next_hop: next_hop.flatten().map(|(_, next_hop)| next_hop.clone()),
            members: members.flatten().map(<[Member]>::to_vec),
            pair: pair.flatten(),
        }
    }

    /// Whether this is the same as `before`, or what is left of it: nothing that it points to belongs to another.
    fn is_left_of(&self, before: &Self) -> bool {
        (self.entry, self.stack) == (before.entry, before.stack)
            && (self.next_hop.is_none() || self.next_hop == before.next_hop)
            && (self.members.is_none() || self.members == before.members)
            && (self.pair.is_none() || self.pair == before.pair)
    }
}

/// Checks that every bucket of every group names a path of its route, by the slot that its next hop has now, and a
/// reachable one if there is any; that every protected next hop names its backup's slot; and that every pair names the
/// slots of both, unless that is still to be done.
fn check_groups(lfib: &Lfib<MemoryTables>) {
    let hops = lfib.next_hops();
    for slot in lfib.backups.all().into_iter().filter(|_| !lfib.has_to_turn()) {
        let entries = lfib.backups.get(slot).unwrap().entries();
        let entries = entries.map(|(entry, id)| entry.with_next_hop(hops.slot(id).unwrap()));
        assert_eq!(lfib.tables().pairs[&slot], entries);
    }
    for listed in list(lfib) {
        let paths = listed.route.paths();
        for (path, &(id, backup)) in paths.iter().zip(&listed.next_hops) {
            let named = path.backup.as_ref().map(|backup| &backup.next_hop);
            assert_eq!(
                (path.next_hop.as_ref(), named),
                (hops.get(id), backup.and_then(|id| hops.get(id)))
            );
            assert_eq!(backup.filter(|_| path.backup_alike().is_some()), hops.backup(id));
            let named = lfib.tables().adjacency(hops.slot(id).unwrap()).backup();
            assert_eq!(
                named,
                hops.backup(id).and_then(|backup| hops.slot(backup)),
                "{}",
                listed.route
            );
        }
        let Some(spread) = lfib.spread(listed.route.key()) else {
            continue;
        };
        let group = lfib.routes.get(listed.route.key()).unwrap().entry;
        assert_eq!(group.op(), Op::Group);
        let is_out = |&(id, backup): &(NextHopId, Option<NextHopId>)| {
            hops.is_out(id) && backup.is_none_or(|backup| hops.is_out(backup))
        };
        let all_out = listed.next_hops.iter().all(is_out);
        for (bucket, &path) in (0..=u8::MAX).zip(spread) {
            let (path, ids) = (&paths[usize::from(path)], listed.next_hops[usize::from(path)]);
            assert!(all_out || !is_out(&ids));
            let entry = lfib.tables().bucket(group.operand(), bucket);
            assert!(entry.op() == Op::Protected || Some(entry.next_hop()) == hops.slot(ids.0));
            let named = lfib.path(listed.route.key(), entry, Some(ids.0), path.weight);
            assert_eq!(named, Some((path.clone(), ids.1)));
        }
    }
}

fn group(key: u32, members: &[(u8, u16)]) -> Route {
    let paths = members.iter().map(|&(neighbour, weight)| Path {
        weight,
        ..Path::new(Action::Swap(labels(&[100 + u32::from(neighbour)])), via(neighbour))
    });
    Route::with_paths(label(key), paths.collect(), TtlPropagate::Default).unwrap()
}

fn large() -> Lfib<MemoryTables> {
    Lfib::new(MemoryTables::default())
}

/// The last byte of the neighbour that gets the frames of each bucket.
fn neighbours(lfib: &Lfib<MemoryTables>, key: u32) -> Vec<u8> {
    let listed = lfib.get(label(key)).unwrap();
    let last = |path: &u8| match listed.route.paths()[usize::from(*path)].next_hop.as_ref().unwrap().via {
        Via::Inet(address) => address.octets()[3],
        _ => unreachable!(),
    };
    lfib.spread(label(key)).unwrap().iter().map(last).collect()
}

fn hop_of(lfib: &Lfib<MemoryTables>, neighbour: u8) -> NextHopId {
    let list = lfib.next_hops().list();
    list.iter()
        .find(|&&(_, next_hop)| Some(next_hop) == via(neighbour).as_ref())
        .unwrap()
        .0
}

#[test]
fn routes_with_the_same_members_share_a_group() {
    let mut lfib = large();
    lfib.change(
        Mode::Add,
        Owner::STATIC,
        &[group(100, &[(1, 1), (2, 1)]), group(101, &[(2, 1), (1, 1)])],
    )
    .unwrap();
    assert_eq!(
        (lfib.groups_in_use(), entry(&lfib, 100).operand()),
        (1, entry(&lfib, 101).operand())
    );
    assert_ne!(entry(&lfib, 100).slot(), entry(&lfib, 101).slot());
    lfib.delete(&[label(100)]).unwrap();
    assert_eq!((lfib.groups_in_use(), lfib.next_hops().len()), (1, 2));
    lfib.delete(&[label(101)]).unwrap();
    assert_eq!((lfib.groups_in_use(), lfib.next_hops().len()), (0, 0));
}

#[test]
fn a_group_is_written_before_its_entry_and_replaced_by_one_store() {
    let mut lfib = large();
    lfib.change(Mode::Add, Owner::STATIC, &[group(100, &[(1, 1), (2, 1)])])
        .unwrap();
    let (first, before) = (entry(&lfib, 100).operand(), lfib.tables().buckets.clone());
    lfib.change(Mode::Replace, Owner::STATIC, &[group(100, &[(1, 1), (2, 1), (3, 1)])])
        .unwrap();
    let second = entry(&lfib, 100).operand();
    assert_ne!(first, second);
    // Readers that still read the former group find it unchanged.
    assert!(
        before
            .iter()
            .all(|(place, entry)| lfib.tables().buckets[place] == *entry)
    );
    assert_eq!(lfib.tables().buckets.len(), 512);
    // The same again: nothing is written.
    lfib.change(Mode::Replace, Owner::STATIC, &[group(100, &[(3, 1), (2, 1), (1, 1)])])
        .unwrap();
    assert_eq!(entry(&lfib, 100).operand(), second);
}

#[test]
fn a_replaced_route_moves_only_the_flows_that_must() {
    let mut lfib = large();
    let moved = |before: &[u8], after: &[u8]| {
        let moved = before.iter().zip(after).filter(|(before, after)| before != after);
        moved.map(|(&before, &after)| (before, after)).collect::<Vec<_>>()
    };
    let change = |lfib: &mut Lfib<MemoryTables>, members: &[(u8, u16)]| {
        lfib.change(Mode::Replace, Owner::STATIC, &[group(100, members)])
            .unwrap();
        neighbours(lfib, 100)
    };
    // From one next hop to two: the first keeps its half.
    lfib.change(Mode::Add, Owner::STATIC, &[swap(100, &[101], 1)]).unwrap();
    let two = change(&mut lfib, &[(1, 1), (2, 1)]);
    assert_eq!(two.iter().filter(|&&neighbour| neighbour == 2).count(), 128);
    // A third takes its share from both.
    let three = change(&mut lfib, &[(1, 1), (2, 1), (3, 2)]);
    let moves = moved(&two, &three);
    assert_eq!(
        (moves.len(), moves.iter().filter(|&&(from, _)| from == 1).count()),
        (128, 64)
    );
    assert!(moves.iter().all(|&(_, to)| to == 3));
    // The first goes.
    let rest = change(&mut lfib, &[(2, 1), (3, 2)]);
    let moves = moved(&three, &rest);
    assert_eq!(moves.len(), 64);
    assert!(moves.iter().all(|&(from, _)| from == 1));
    // Other weights.
    let weighed = change(&mut lfib, &[(2, 1), (3, 1)]);
    assert_eq!(moved(&rest, &weighed).len(), 171 - 128);
}

#[test]
fn a_member_that_is_out_leaves_its_buckets_to_the_others_until_it_is_back() {
    let mut lfib = large();
    lfib.change(Mode::Add, Owner::STATIC, &[group(100, &[(1, 1), (2, 1), (3, 2)])])
        .unwrap();
    let resolved = |port| Reach::Resolved(Adjacency::new(R1, port, OWN, 1500));
    let ids: Vec<NextHopId> = [1, 2, 3].map(|neighbour| hop_of(&lfib, neighbour)).to_vec();
    assert!(!lfib.set_next_hops(ids.iter().map(|&id| (id, resolved(1)))));
    let all = neighbours(&lfib, 100);
    let ilm = entry(&lfib, 100);

    assert!(lfib.set_next_hops([(ids[2], Reach::Out)]));
    let without = neighbours(&lfib, 100);
    assert!(
        all.iter()
            .zip(&without)
            .all(|(&before, &after)| before == after || before == 3)
    );
    assert_eq!(without.iter().filter(|&&neighbour| neighbour == 1).count(), 128);
    // Unresolved again: it does not take flows yet.
    assert!(!lfib.set_next_hops([(ids[2], Reach::Unresolved)]));
    assert_eq!(neighbours(&lfib, 100), without);
    // With the last one out, no member is left: the buckets are as if all were reachable, so that exceptions say why.
    lfib.set_next_hops([(ids[0], Reach::Out), (ids[1], Reach::Out)]);
    assert_eq!(neighbours(&lfib, 100), all);
    lfib.set_next_hops(ids.iter().map(|&id| (id, resolved(2))));
    assert_eq!((neighbours(&lfib, 100), entry(&lfib, 100)), (all, ilm));
    check_groups(&lfib);
}

#[test]
fn a_member_that_is_new_is_waited_for() {
    let mut lfib = large();
    lfib.change(Mode::Add, Owner::STATIC, &[group(100, &[(1, 1), (2, 1)])])
        .unwrap();
    let (first, second) = (hop_of(&lfib, 1), hop_of(&lfib, 2));
    assert!(!lfib.set_next_hops([(first, Reach::Unresolved), (second, Reach::Unresolved)]));
    assert!(lfib.set_next_hops([(first, Reach::Out)]));
}

#[test]
fn a_group_turns_with_a_next_hop_that_moves_to_another_port() {
    let mut lfib = large();
    lfib.change(Mode::Add, Owner::STATIC, &[group(100, &[(1, 1), (2, 1)])])
        .unwrap();
    let id = hop_of(&lfib, 1);
    let resolved = |port| Reach::Resolved(Adjacency::new(R1, port, OWN, 1500));
    lfib.set_next_hop(id, resolved(1));
    let slot = lfib.next_hops().slot(id);
    lfib.set_next_hop(id, resolved(2));
    assert_ne!(lfib.next_hops().slot(id), slot);
    check_groups(&lfib);
}

/// 40 groups, 5 of which have the first next hop as a member.
fn groups_of_which_some_have_the_first_next_hop() -> Lfib<MemoryTables> {
    let mut lfib = large();
    let with = (0..5).map(|number| group(100 + number, &[(1, 1), (10 + number as u8, 1)]));
    let without = (0..35).map(|number| group(200 + number, &[(2, 1), (20 + number as u8, 1)]));
    let routes: Vec<Route> = with.chain(without).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    assert_eq!(lfib.groups_in_use(), 40);
    let resolved = Reach::Resolved(Adjacency::new(R1, 1, OWN, 1500));
    let ids: Vec<NextHopId> = lfib.next_hops().all().map(|(id, _)| id).collect();
    lfib.set_next_hops(ids.into_iter().map(|id| (id, resolved)));
    assert!(!lfib.has_stale_groups());
    lfib
}

/// How many groups have been looked at, and how many were found to be stale, in steps of one item each.
fn steps_to_follow(lfib: &mut Lfib<MemoryTables>) -> usize {
    let mut steps = 0;
    while lfib.has_stale_groups() {
        lfib.follow_groups(&mut Budget::new(1, &mut || false));
        steps += 1;
    }
    steps
}

#[test]
fn only_the_groups_of_a_next_hop_that_fails_are_visited_in_steps() {
    let mut lfib = groups_of_which_some_have_the_first_next_hop();
    lfib.followed_at_once = 1;
    let first = hop_of(&lfib, 1);
    assert!(!lfib.set_next_hops([(first, Reach::Out)]));
    // One group was found at once: 4 others, the end of the search, and a visit to each of the 5.
    assert_eq!(steps_to_follow(&mut lfib), 4 + 1 + 5);
    assert!(lfib.reclaim());
    check_groups(&lfib);
    // It is back before all of its groups have followed.
    lfib.set_next_hop(first, Reach::Resolved(Adjacency::new(R1, 1, OWN, 1500)));
    lfib.follow_groups(&mut Budget::new(3, &mut || false));
    lfib.set_next_hop(first, Reach::Out);
    lfib.set_next_hop(first, Reach::Resolved(Adjacency::new(R1, 1, OWN, 1500)));
    assert!(steps_to_follow(&mut lfib) <= 2 * (5 + 1 + 5));
    check_groups(&lfib);
}

/// Until all buckets point to the new slot, the old one is not given back.
#[test]
fn only_the_groups_of_a_next_hop_that_moves_are_visited_in_steps() {
    let mut lfib = groups_of_which_some_have_the_first_next_hop();
    lfib.followed_at_once = 1;
    let first = hop_of(&lfib, 1);
    let old = lfib.next_hops().slot(first).unwrap();
    lfib.turned_at_once = 1;
    lfib.set_next_hop(first, Reach::Resolved(Adjacency::new(R1, 2, OWN, 1500)));
    assert!(lfib.has_stale_groups());
    assert_eq!(lfib.next_hops().at_slot(old).map(|(id, _)| id), Some(first));
    // What still points to the old slot fails with the next hop.
    lfib.set_next_hop(first, Reach::Out);
    assert!(!lfib.tables().adjacency(old).is_resolved());
    assert!(steps_to_follow(&mut lfib) <= 5 + 1 + 5);
    while lfib.has_to_tidy() {
        lfib.tidy_step(&mut Budget::new(1, &mut || false));
    }
    assert_eq!(lfib.next_hops().at_slot(old), None);
    check_groups(&lfib);
}

/// A route whose group has not followed yet gets another one.
#[test]
fn a_group_that_replaces_a_stale_one_has_no_buckets_of_members_that_are_out() {
    let mut lfib = groups_of_which_some_have_the_first_next_hop();
    lfib.followed_at_once = 1;
    lfib.set_next_hop(hop_of(&lfib, 1), Reach::Out);
    assert!(lfib.has_stale_groups());
    lfib.change(Mode::Replace, Owner::STATIC, &[group(100, &[(1, 1), (10, 1), (11, 1)])])
        .unwrap();
    assert!(!neighbours(&lfib, 100).contains(&1));
    steps_to_follow(&mut lfib);
    check_groups(&lfib);
}

fn protected(key: u32, neighbour: u8, backup: u8) -> Route {
    let path = Path {
        backup: via(backup).map(Backup::from),
        ..Path::new(Action::Swap(labels(&[110])), via(neighbour))
    };
    Route::with_paths(label(key), vec![path], TtlPropagate::Default).unwrap()
}

/// As [`protected`], with labels of its own for the backup.
fn rerouted(key: u32, out: u32, neighbour: u8, backup: (&[u32], u8)) -> Route {
    let (own, backup) = backup;
    let path = Path {
        backup: via(backup).map(|next_hop| Backup {
            next_hop,
            action: Some(Action::Swap(labels(own))),
        }),
        ..Path::new(Action::Swap(labels(&[out])), via(neighbour))
    };
    Route::with_paths(label(key), vec![path], TtlPropagate::Default).unwrap()
}

/// No next hop of such a change is resolved.
#[test]
fn more_next_hops_than_fit_are_refused_before_any_of_them_is_followed() {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity {
        adjacencies: 100,
        counter_slots: 1000,
        ..small()
    }));
    lfib.change(Mode::Add, Owner::STATIC, &[swap(16, &[110], 250)]).unwrap();
    lfib.take_next_hop_changes();
    let routes: Vec<Route> = (0..200).map(|index| swap(100 + index, &[110], index as u8)).collect();
    let error = lfib.search_all(&routes).unwrap_err();
    assert_eq!(error.index(), Some(99));
    assert_eq!(
        error.to_string(),
        "no room for another next hop: all 100 are in use (a replaced route keeps its entries until the new one is in place)"
    );
    assert_eq!(lfib.take_next_hop_changes(), []);

    let fitting = &routes[..99];
    let mut new = lfib.search_all(fitting).unwrap();
    assert!((0..99).all(|at| new.found(at).is_some_and(|(index, ..)| index == at)));
    assert!(new.found(99).is_none());
    lfib.take_all_ahead(&mut new);
    assert_eq!(lfib.take_some_next_hop_changes(60).len(), 60);
    assert_eq!(lfib.take_next_hop_changes().len(), 39);
    assert!(lfib.search_all(&[swap(16, &[120], 0), protected(17, 1, 2)]).is_err());
    lfib.change(Mode::Add, Owner::STATIC, fitting).unwrap();
    lfib.let_all_go(&mut new);
    assert_eq!(lfib.take_next_hop_changes(), []);
    let known = [swap(16, &[120], 5), swap(17, &[120], 250)];
    assert!(lfib.search_all(&known).unwrap().found(0).is_none());
}

proptest! {
    /// The check ahead counts as the change itself does: it refuses the same route, and otherwise there is room.
    #[test]
    fn next_hops_are_counted_as_a_change_takes_them(
        before in prop::collection::vec((1_u8..6, prop::option::of(1_u8..6)), 0..3),
        after in prop::collection::vec((1_u8..6, prop::option::of(1_u8..6)), 0..6),
        adjacencies in 6_u32..10,
    ) {
        let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity { adjacencies, counter_slots: 100, ..small() }));
        let routes = |first: u32, hops: Vec<(u8, Option<u8>)>| {
            let route = |(key, (hop, backup))| match backup {
                Some(backup) if backup != hop => protected(key, hop, backup),
                _ => swap(key, &[110], hop),
            };
            (first..).zip(hops).map(route).collect::<Vec<_>>()
        };
        lfib.change(Mode::Add, Owner::STATIC, &routes(100, before)).unwrap();
        let routes = routes(200, after);
        let counted = lfib.search_all(&routes).map_err(|error| error.index());
        let is_room = counted.as_ref().map(drop).map_err(|index| *index);
        let taken = lfib.change(Mode::Add, Owner::STATIC, &routes).map(drop).map_err(|error| error.index());
        prop_assert_eq!(is_room, taken);
    }
}

#[test]
fn a_backup_is_switched_to_by_one_store_for_all_its_labels() {
    let mut lfib = large();
    let routes: Vec<Route> = (100..200).map(|key| protected(key, 1, 2)).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    // The backup is a next hop by itself, with one user.
    let (primary, backup) = (hop_of(&lfib, 1), hop_of(&lfib, 2));
    assert_eq!(
        (lfib.next_hops().users(primary), lfib.next_hops().users(backup)),
        (100, 1)
    );
    let resolved = |mac, port| Reach::Resolved(Adjacency::new(mac, port, OWN, 1500));
    lfib.set_next_hops([(primary, resolved(R1, 1)), (backup, resolved(R2, 2))]);
    assert_eq!(lfib.tables().grace_periods, 0);
    let (ilm, before) = (lfib.tables().ilm.clone(), lfib.tables().adjacencies.clone());
    lfib.set_next_hop(primary, Reach::Out);
    let changed: Vec<_> = before
        .iter()
        .filter(|(slot, old)| lfib.tables().adjacencies[slot] != **old)
        .collect();
    let slot = lfib.next_hops().slot(primary).unwrap();
    assert_eq!((changed.len(), &lfib.tables().ilm), (1, &ilm));
    let (old, new) = (before[&slot].words(), lfib.tables().adjacencies[&slot].words());
    assert_eq!((new[0], &new[1..]), (0, &old[1..]), "one word");
    assert_eq!(lfib.tables().adjacencies[&slot].backup(), lfib.next_hops().slot(backup));
    lfib.set_next_hop(primary, resolved(R1, 1));
    assert_eq!(lfib.tables().adjacencies, before);

    // The backup moves to another port, and so does the reference to it.
    lfib.set_next_hop(backup, resolved(R2, 3));
    check_groups(&lfib);
    assert_eq!(lfib.get(label(100)).unwrap().route, routes[0]);
    let keys: Vec<RouteKey> = routes.iter().map(Route::key).collect();
    lfib.delete(&keys).unwrap();
    assert!(lfib.next_hops().is_empty());
}

#[test]
fn the_same_next_hop_with_and_without_a_backup_are_two() {
    let mut lfib = large();
    lfib.change(
        Mode::Add,
        Owner::STATIC,
        &[swap(100, &[110], 1), protected(101, 1, 2), protected(102, 1, 3)],
    )
    .unwrap();
    // 1, 1 with 2, 1 with 3, 2, 3.
    assert_eq!(lfib.next_hops().len(), 5);
    assert_ne!(entry(&lfib, 100).next_hop(), entry(&lfib, 101).next_hop());
    lfib.change(Mode::Replace, Owner::STATIC, &[protected(102, 1, 2)])
        .unwrap();
    assert_eq!(lfib.next_hops().len(), 3);
}

#[test]
fn a_member_with_a_backup_stays_for_as_long_as_either_is_there() {
    let mut lfib = large();
    let paths = [1, 2].map(|neighbour| Path {
        backup: via(3).filter(|_| neighbour == 1).map(Backup::from),
        ..Path::new(Action::Pop, via(neighbour))
    });
    let route = Route::with_paths(label(100), paths.to_vec(), TtlPropagate::Default).unwrap();
    lfib.change(Mode::Add, Owner::STATIC, &[route]).unwrap();
    check_member_with_backup(&mut lfib);
    // With labels of its own.
    let paths = [1, 2].map(|neighbour| Path {
        backup: via(3).filter(|_| neighbour == 1).map(|next_hop| Backup {
            next_hop,
            action: Some(Action::Swap(labels(&[200, 300]))),
        }),
        ..Path::new(Action::Pop, via(neighbour))
    });
    let route = Route::with_paths(label(100), paths.to_vec(), TtlPropagate::Default).unwrap();
    lfib.change(Mode::Replace, Owner::STATIC, &[route]).unwrap();
    assert_eq!((lfib.next_hops().len(), lfib.backups_in_use()), (3, 1));
    check_member_with_backup(&mut lfib);
    check_groups(&lfib);
}

/// 1 and 2 are the next hops of 100, and 3 is the backup of 1.
fn check_member_with_backup(lfib: &mut Lfib<MemoryTables>) {
    let (primary, backup) = (hop_of(lfib, 1), hop_of(lfib, 3));
    let resolved = || Reach::Resolved(Adjacency::new(R1, 1, OWN, 1500));
    lfib.set_next_hops([(primary, resolved()), (backup, resolved())]);
    let before = neighbours(lfib, 100);
    assert!(before.contains(&1) && before.contains(&2));
    assert!(!lfib.set_next_hops([(primary, Reach::Out)]));
    assert!(lfib.set_next_hops([(backup, Reach::Out)]));
    assert_eq!(neighbours(lfib, 100), [2; 256]);
    assert!(lfib.set_next_hops([(backup, resolved())]));
    assert_eq!(neighbours(lfib, 100), before);
}

#[test]
fn a_backup_with_labels_of_its_own_is_switched_to_by_one_store_for_all_labels() {
    let mut lfib = large();
    let prefix = RouteKey::Prefix(net("10.4.0.0/16").into());
    let push = |out: &[u32]| Action::Push {
        labels: labels(out),
        ttl: None,
    };
    let imposed = Path {
        backup: via(2).map(|next_hop| Backup {
            next_hop,
            action: Some(push(&[300, 400])),
        }),
        ..Path::new(push(&[110]), via(1))
    };
    let mut routes: Vec<Route> = (100..200)
        .map(|key| rerouted(key, 1000 + key, 1, (&[300, key], 2)))
        .collect();
    routes.push(Route::with_paths(prefix, vec![imposed], TtlPropagate::Enabled).unwrap());
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    let listed: Vec<Route> = list(&lfib).into_iter().map(|listed| listed.route).collect();
    assert_eq!(listed, routes);
    assert_eq!(
        (lfib.backups_in_use(), lfib.stacks_in_use(), lfib.next_hops().len()),
        (101, 101, 2)
    );
    let (primary, backup) = (hop_of(&lfib, 1), hop_of(&lfib, 2));
    assert_eq!(
        (lfib.next_hops().users(primary), lfib.next_hops().users(backup)),
        (101, 101)
    );

    let resolved = |mac, port| Reach::Resolved(Adjacency::new(mac, port, OWN, 1500));
    lfib.set_next_hops([(primary, resolved(R1, 1)), (backup, resolved(R2, 2))]);
    let tables = |lfib: &Lfib<MemoryTables>| {
        let tables = lfib.tables();
        (
            tables.ilm.clone(),
            tables.ftn.clone(),
            tables.pairs.clone(),
            tables.adjacencies.clone(),
        )
    };
    let before = tables(&lfib);
    lfib.set_next_hop(primary, Reach::Out);
    let now = tables(&lfib);
    assert_eq!((&before.0, &before.1, &before.2), (&now.0, &now.1, &now.2));
    let changed = before.3.iter().filter(|(slot, old)| now.3[slot] != **old);
    let words = changed.map(|(slot, old)| (old.words()[1..] == now.3[slot].words()[1..], now.3[slot].words()[0]));
    assert_eq!(words.collect::<Vec<_>>(), [(true, 0)]);
    lfib.set_next_hop(primary, resolved(R1, 1));
    assert_eq!(tables(&lfib), before);

    // Either moves to another port, and the pairs follow; the routes' own entries stay.
    for (id, mac) in [(backup, R2), (primary, R1)] {
        lfib.set_next_hop(id, resolved(mac, 3));
        let now = tables(&lfib);
        assert_eq!((&before.0, &before.1), (&now.0, &now.1));
        check_groups(&lfib);
    }
    assert_ne!(tables(&lfib).2, before.2);

    // Equal pairs are one.
    lfib.change(
        Mode::Replace,
        Owner::STATIC,
        &[rerouted(101, 1100, 1, (&[300, 100], 2))],
    )
    .unwrap();
    assert_eq!(entry(&lfib, 101).operand(), entry(&lfib, 100).operand());
    assert_eq!((lfib.backups_in_use(), lfib.stacks_in_use()), (100, 100));
    let keys: Vec<RouteKey> = routes.iter().map(Route::key).collect();
    lfib.delete(&keys).unwrap();
    assert_eq!(
        (lfib.backups_in_use(), lfib.stacks_in_use(), lfib.next_hops().len()),
        (0, 0, 0)
    );
}

/// As entries do. If the next hop fails meanwhile, frames of pairs that have not been moved go to their backups, too.
#[test]
fn many_pairs_are_turned_to_another_port_in_small_steps() {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity {
        labels: 2000,
        counter_slots: 2000,
        backups: 1000,
        ..small()
    }));
    lfib.turned_at_once = 100;
    let routes: Vec<Route> = (16..1016).map(|key| rerouted(key, key, 1, (&[2000], 2))).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    let id = hop_of(&lfib, 1);
    let resolved = |port| Some(Adjacency::new(R1, port, OWN, 1500));
    lfib.set_next_hop(id, resolved(1));
    let old = lfib.next_hops().slot(id).unwrap();
    let turned = |lfib: &Lfib<MemoryTables>| {
        let pairs = lfib.tables().pairs.values();
        pairs.filter(|[primary, _]| primary.next_hop() != old).count()
    };
    lfib.set_next_hop(id, resolved(2));
    assert_eq!(turned(&lfib), 100);
    assert!(lfib.tables().adjacency(old).is_resolved());
    lfib.set_next_hop(id, Reach::Out);
    assert!(!lfib.tables().adjacency(old).is_resolved());
    lfib.set_next_hop(id, resolved(2));
    lfib.tidy_step(&mut Budget::new(500, &mut || false));
    assert_eq!(turned(&lfib), 600);
    while lfib.has_to_tidy() {
        lfib.tidy_step(&mut Budget::new(500, &mut || false));
    }
    assert_eq!((turned(&lfib), lfib.next_hops().at_slot(old)), (1000, None));
    check_groups(&lfib);
}

#[test]
fn what_does_not_fit_is_refused_with_the_remedy() {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity {
        adjacencies: 16,
        groups: 1,
        ..small()
    }));
    lfib.change(Mode::Add, Owner::STATIC, &[group(100, &[(1, 1), (2, 1)])])
        .unwrap();
    let error = lfib
        .change(Mode::Add, Owner::STATIC, &[group(101, &[(3, 1), (4, 1)])])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no room for another group of next hops: all 1 are in use (a replaced route keeps its entries until the new \
         one is in place): start the \
         switch with a larger `--groups`"
    );
    assert_eq!((lfib.next_hops().len(), lfib.groups_in_use()), (2, 1));

    lfib.change(
        Mode::ReplaceAll,
        Owner::STATIC,
        &[100, 101].map(|key| rerouted(key, key, 1, (&[110], 2))),
    )
    .unwrap();
    // Another equal pair needs no room.
    lfib.change(Mode::Add, Owner::STATIC, &[rerouted(102, 101, 1, (&[110], 2))])
        .unwrap();
    let error = lfib
        .change(Mode::Add, Owner::STATIC, &[rerouted(103, 103, 3, (&[110, 120], 4))])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no room for another backup with labels of its own: all 2 are in use (a replaced route keeps its entries until \
         the new one is in place): start the switch with a larger `--backups`"
    );
    assert_eq!(
        (lfib.next_hops().len(), lfib.stacks_in_use(), lfib.backups_in_use()),
        (2, 0, 2)
    );
}

/// Removes everything that nothing needs any more. Returns how many steps that took.
fn sweep(lfib: &mut Lfib<MemoryTables>) -> usize {
    let mut steps = 0;
    while lfib.has_to_sweep() {
        lfib.sweep_pass_entries();
        steps += 1;
    }
    steps
}

/// One step of at most this many operations.
fn step_of(lfib: &mut Lfib<MemoryTables>, operations: usize) -> Option<Result<Changes, ChangeError>> {
    match lfib.step(&mut Budget::new(operations, &mut || false)) {
        Progress::More => None,
        Progress::Finished(finished) => Some(finished.result),
    }
}

fn install(mode: Mode, routes: &[Route]) -> Change {
    Change::Install {
        mode,
        owner: Owner::STATIC,
        routes: Arc::new(routes.to_vec()),
    }
}

/// However many kernel routes a prefix contains, no step writes more than its share, and no packet sees any but the
/// last.
#[test]
fn a_prefix_that_holds_many_routes_of_the_kernel_comes_and_goes_in_small_steps() {
    let mut lfib = large();
    let claims: BTreeMap<FtnKey, Option<Claim>> = (0..1000_u32)
        .map(|index| {
            let address = std::net::Ipv4Addr::from(0x0a04_0000 + index);
            let key = FtnKey::new(Domain::NO_VRF, IpAddr::from(address).into());
            (key, Some(Claim::Route))
        })
        .collect();
    lfib.set_claims(&claims).unwrap();
    let routes = [push("10.0.0.0/8", &[100], 1)];
    lfib.begin(install(Mode::Add, &routes)).unwrap();
    let mut steps = 0;
    lfib.tables_mut().ftn_writes.clear();
    while lfib.tables().ftn.len() < 1000 {
        assert!(step_of(&mut lfib, 1).is_none());
        steps += 1;
        assert!(lfib.tables().ftn_writes.len() <= STEP);
        lfib.tables_mut().ftn_writes.clear();
        assert_eq!(imposed(&lfib, "10.9.0.1"), None);
    }
    // The first step checks the keys.
    assert_eq!(steps, 9);
    while step_of(&mut lfib, 1).is_none() {}
    assert_eq!(lfib.tables().ftn_writes.len(), 1);
    assert!(imposed(&lfib, "10.9.0.1").is_some() && imposed(&lfib, "10.4.3.1").is_none());

    lfib.tables_mut().ftn_writes.clear();
    lfib.delete(&[RouteKey::Prefix(net("10.0.0.0/8").into())]).unwrap();
    assert_eq!(lfib.tables().ftn_writes.len(), 1);
    assert_eq!((imposed(&lfib, "10.9.0.1"), lfib.tables().ftn.len()), (None, 1000));
    assert_eq!((sweep(&mut lfib), lfib.tables().ftn.len()), (8, 0));

    // A refused change leaves nothing behind.
    lfib.tables_mut().ftn_inserts_left = 2 * STEP;
    assert!(lfib.change(Mode::Add, Owner::STATIC, &routes).is_err());
    sweep(&mut lfib);
    assert!(lfib.tables().ftn.is_empty());
    lfib.tables_mut().ftn_inserts_left = usize::MAX;
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    assert_eq!(lfib.tables().ftn.len(), 1001);
}

/// Fills and empties domains for as long as there is something to do. Returns how many steps that took.
fn fill(lfib: &mut Lfib<MemoryTables>) -> usize {
    let mut steps = 0;
    while lfib.has_domain_steps() {
        let _ = lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false));
        steps += 1;
    }
    steps
}

#[test]
fn a_domain_has_all_routes_and_the_claims_of_its_vrf_only() {
    let mut lfib = large();
    let routes = [push("10.0.0.0/8", &[100], 1), push("2001:db8::/32", &[101], 1)];
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    claim(&mut lfib, "10.4.0.0/16", Claim::Route);
    let red = [(net("10.5.0.0/16"), Claim::Route), (net("10.0.0.1/32"), Claim::Never)];
    assert!(lfib.use_vrf_with(10, || red.into()));
    // The same addresses in two VRFs.
    assert!(lfib.use_vrf_with(20, || [(net("10.0.0.2/32"), Claim::Never)].into()));
    assert_eq!(
        (lfib.domain(Some(10)), lfib.domain(Some(20))),
        (Domain::EMPTY, Domain::EMPTY)
    );
    fill(&mut lfib);
    let domains = [None, Some(10), Some(20), Some(30)].map(|table| lfib.domain(table));
    assert_eq!(domains, [Domain::NO_VRF, Domain(1), Domain(2), Domain::EMPTY]);
    let seen = |lfib: &Lfib<MemoryTables>, address| domains.map(|domain| imposed_in(lfib, domain, address).is_some());
    for (address, expected) in [
        ("10.4.0.1", [false, true, true, false]),
        ("10.5.0.1", [true, false, true, false]),
        ("10.0.0.1", [true, false, true, false]),
        ("10.0.0.2", [true, true, false, false]),
        ("10.6.0.1", [true, true, true, false]),
        ("2001:db8::1", [true, true, true, false]),
        ("224.0.0.1", [false; 4]),
    ] {
        assert_eq!(seen(&lfib, address), expected, "{address}");
    }
    // Changes of routes and claims reach the domains that they concern.
    lfib.change(
        Mode::Replace,
        Owner::STATIC,
        &[push("10.5.0.0/16", &[102], 1), push("0.0.0.0/0", &[103], 1)],
    )
    .unwrap();
    let claims = [
        (FtnKey::new(Domain(1), net("10.0.0.1/32")), None),
        (FtnKey::new(Domain(2), net("10.6.0.0/16")), Some(Claim::Route)),
    ];
    lfib.set_claims(&claims.into()).unwrap();
    let labels = |address| domains.map(|domain| imposed_in(&lfib, domain, address));
    assert_eq!(labels("10.5.0.1"), [Some(102), Some(102), Some(102), None]);
    assert_eq!(labels("10.0.0.1"), [Some(100), Some(100), Some(100), None]);
    assert_eq!(labels("10.6.0.1"), [Some(100), Some(100), None, None]);
    assert_eq!(labels("192.0.2.1"), [Some(103), Some(103), Some(103), None]);
    assert_eq!(labels("224.0.0.1"), [None; 4]);
}

/// One word says where all labels of a VRF lead. It follows the VRF device and the domain, without a store for any label.
#[test]
fn ends_of_pseudowires_follow_their_ports() {
    let mut lfib = large();
    let name = |name| PortName::new(name).unwrap();
    let (eth5, tagged) = (name("eth5"), name("eth5.30"));
    let pseudowire = Pseudowire::default();
    let service = |service_tag| Pseudowire {
        service_tag,
        ..pseudowire
    };
    let routes = [
        out_of(100, eth5, pseudowire),
        out_of(101, eth5, pseudowire),
        out_of(102, eth5, service(ServiceTag::Vlan(9))),
        out_of(103, tagged, service(ServiceTag::Tagged)),
        into(eth5, &[200, 300], 1, service(ServiceTag::Vlan(9))),
        into(tagged, &[400], 1, service(ServiceTag::Tagged)),
    ];
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    for route in &routes {
        assert_eq!(lfib.get(route.key()).unwrap().route, *route);
    }
    let exit = |lfib: &Lfib<MemoryTables>, key| {
        assert_eq!(entry(lfib, key).op(), Op::Pseudowire);
        lfib.tables().pseudowires[&entry(lfib, key).operand()]
    };
    let with_word = Encapsulation::new().with_control_word(true);
    assert_eq!(exit(&lfib, 100), (CrossConnect::NOWHERE, with_word));
    // The ports appear.
    let to = |port| CrossConnect::new(port, 1518);
    let (way_out, vids) = (to(5), Vec::new());
    let whole = PortFacts { way_out, vids };
    let (way_out, vids) = (to(6).with_tags(&[(ETH_P_8021Q, 30)]), vec![30]);
    let sub_interface = PortFacts { way_out, vids };
    lfib.set_pseudowire_ports(BTreeMap::from([(eth5, whole), (tagged, sub_interface)]));
    assert_eq!(entry(&lfib, 100).operand(), entry(&lfib, 101).operand());
    assert_eq!(exit(&lfib, 100), (to(5), with_word));
    let to_vlan = to(5).with_tags(&[(ETH_P_8021Q, 9)]);
    assert_eq!(exit(&lfib, 102), (to_vlan, with_word.without_tags(1)));
    assert_eq!(exit(&lfib, 103), (way_out, with_word.without_tags(1)));
    let attached = lfib.take_attached().unwrap();
    assert_eq!(lfib.take_attached(), None);
    let entrance = |lfib: &Lfib<MemoryTables>, slot| lfib.tables().attachments[&slot];
    let (entry_of_5, encapsulation) = entrance(&lfib, attached[&eth5]);
    assert_eq!(
        (entry_of_5.op(), encapsulation),
        (Op::Stack, with_word.with_tag(Some(9)))
    );
    let (_, encapsulation) = entrance(&lfib, attached[&tagged]);
    assert_eq!(encapsulation, with_word.without_tags(1).with_tag(Some(30)));
    // Other labels are one store; another encapsulation is a row of its own, which the port's word leads to.
    lfib.change(
        Mode::Change,
        Owner::STATIC,
        &[into(eth5, &[500], 1, service(ServiceTag::Vlan(9)))],
    )
    .unwrap();
    assert_eq!(lfib.take_attached(), None);
    assert_eq!(entrance(&lfib, attached[&eth5]).0.out_label().get(), 500);
    let changed = lfib
        .change(Mode::Change, Owner::STATIC, &[into(eth5, &[500], 1, pseudowire)])
        .unwrap();
    assert_eq!(changed.replaced, 1);
    let again = lfib.take_attached().unwrap();
    assert_ne!(again[&eth5], attached[&eth5]);
    assert_eq!(entrance(&lfib, again[&eth5]).1, with_word);
    assert_eq!(entrance(&lfib, attached[&eth5]).1, with_word.with_tag(Some(9)));
    // The port gets another name.
    lfib.rename_devices(&HashMap::from([("eth5".into(), "wan".into())]));
    let wan = name("wan");
    assert_eq!(lfib.take_attached().unwrap()[&wan], again[&eth5]);
    assert_eq!(lfib.get(label(100)).unwrap().route, out_of(100, wan, pseudowire));
    assert_eq!(
        lfib.get(RouteKey::Attachment(wan)).unwrap().route,
        into(wan, &[500], 1, pseudowire)
    );
    assert_eq!(lfib.get(RouteKey::Attachment(eth5)), None);
    lfib.delete(&[RouteKey::Attachment(wan), label(100), label(101)])
        .unwrap();
    assert_eq!(
        lfib.take_attached().unwrap().keys().copied().collect::<Vec<_>>(),
        [tagged]
    );
    lfib.reclaim();
    lfib.tables_mut().end_grace_periods();
    lfib.reclaim();
    assert_eq!(entrance(&lfib, again[&eth5]).0, RouteEntry::EMPTY);
    assert_eq!(lfib.pseudowires_in_use(), [2, 1]);
}

#[test]
fn the_labels_of_a_vrf_follow_it_by_one_word() {
    let mut lfib = large();
    let into = |key: u32, name: &str| {
        Route::new(label(key), Action::VrfPass(name.into()), None, TtlPropagate::Default).unwrap()
    };
    let routes = [
        into(100, "red"),
        into(101, "red"),
        into(102, "blue"),
        swap(103, &[110], 1),
    ];
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    let word = |lfib: &Lfib<MemoryTables>, key| {
        assert_eq!(entry(lfib, key).op(), Op::VrfPass);
        lfib.tables().vrfs[&entry(lfib, key).operand()]
    };
    let words = |lfib: &Lfib<MemoryTables>| [100, 101, 102].map(|key| word(lfib, key));
    for route in &routes {
        assert_eq!(lfib.get(route.key()).unwrap().route, *route);
    }
    let device = |ifindex, table| VrfDevice { ifindex, table };
    let devices = |red| BTreeMap::from([("red".into(), red), ("blue".into(), device(51, 20))]);
    assert_eq!(words(&lfib), [VrfWord::NONE; 3]);
    assert_eq!(lfib.vrf_state("red"), VrfState::NoDevice);
    lfib.set_vrf_devices(devices(device(50, 10)));
    assert_eq!(
        (words(&lfib), lfib.vrf_state("red")),
        ([VrfWord::NONE; 3], VrfState::NoPort)
    );
    // A port enters: the labels lead there once the domain is filled.
    lfib.use_vrf_with(10, BTreeMap::new);
    lfib.follow_vrfs();
    assert_eq!(
        (words(&lfib), lfib.vrf_state("red")),
        ([VrfWord::NONE; 3], VrfState::Filling)
    );
    fill(&mut lfib);
    lfib.follow_vrfs();
    let red = VrfWord::new(50, Domain(1));
    assert_eq!(words(&lfib), [red, red, VrfWord::NONE]);
    assert_eq!(
        (lfib.vrf_state("red"), lfib.vrf_state("blue")),
        (VrfState::Switched, VrfState::NoPort)
    );
    // The device is made anew, and goes.
    lfib.set_vrf_devices(devices(device(52, 10)));
    assert_eq!(word(&lfib, 100), VrfWord::new(52, Domain(1)));
    lfib.set_vrf_devices(BTreeMap::new());
    assert_eq!(words(&lfib), [VrfWord::NONE; 3]);
    lfib.set_vrf_devices(devices(device(52, 10)));
    // The last port leaves. No label leads into the domain any more when the grace period begins after which its number
    // is free.
    lfib.tables_mut().grace_periods_over = Some(lfib.tables().grace_periods);
    lfib.leave_vrfs(&BTreeSet::new());
    assert_eq!(words(&lfib), [VrfWord::NONE; 3]);
    lfib.tables_mut().end_grace_periods();
    fill(&mut lfib);
    lfib.use_vrf_with(20, BTreeMap::new);
    fill(&mut lfib);
    lfib.follow_vrfs();
    assert_eq!(
        words(&lfib),
        [VrfWord::NONE, VrfWord::NONE, VrfWord::new(51, Domain(1))]
    );
    // A slot is used again only when no program can read it as the old VRF.
    let slot = entry(&lfib, 102).operand();
    lfib.delete(&[label(102)]).unwrap();
    lfib.change(Mode::Add, Owner::STATIC, &[into(104, "green")]).unwrap();
    assert_ne!(entry(&lfib, 104).operand(), slot);
    lfib.reclaim();
    lfib.tables_mut().end_grace_periods();
    lfib.reclaim();
    lfib.change(Mode::Add, Owner::STATIC, &[into(105, "blue")]).unwrap();
    assert_eq!(
        (entry(&lfib, 105).operand(), word(&lfib, 105)),
        (slot, VrfWord::new(51, Domain(1)))
    );
    // Packets that the VRF's table sends count as forwarded.
    count(&lfib, 100, 5);
    assert_eq!((counted(&lfib, 100), forwarded(&mut lfib)), (5, 5));
}

/// However many routes there are, no step writes more than its share, and no port uses a domain before it is complete.
#[test]
fn a_domain_is_filled_and_emptied_in_small_steps() {
    let mut lfib = large();
    let prefixes = (0..600_u32).map(|index| format!("{}/32", std::net::Ipv4Addr::from(0x0a04_0000 + index)));
    let routes: Vec<Route> = prefixes.map(|prefix| push(&prefix, &[100], 1)).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    lfib.use_vrf_with(10, || [(net("10.4.0.1/32"), Claim::Never)].into());
    let mut steps = 0;
    while lfib.domain(Some(10)) == Domain::EMPTY {
        lfib.tables_mut().ftn_writes.clear();
        lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false)).unwrap();
        assert!(lfib.tables().ftn_writes.len() <= STEP);
        steps += 1;
    }
    // 600 routes, and 9 prefixes on which labels are never imposed.
    assert_eq!((steps, lfib.has_domain_steps()), (5, false));
    assert_eq!(entries_in(Domain(1), &lfib.tables().ftn).len(), 600);
    // It is emptied once no program looks there any more.
    lfib.tables_mut().grace_periods_over = Some(lfib.tables().grace_periods);
    lfib.leave_vrfs(&BTreeSet::new());
    assert_eq!((lfib.domain(Some(10)), lfib.has_domain_steps()), (Domain::EMPTY, false));
    assert_eq!(entries_in(Domain(1), &lfib.tables().ftn).len(), 600);
    // A port that comes back before that finds everything.
    lfib.use_vrf_with(10, || panic!("they are known"));
    assert_eq!(lfib.domain(Some(10)), Domain(1));
    lfib.leave_vrfs(&BTreeSet::new());
    lfib.tables_mut().end_grace_periods();
    lfib.tables_mut().ftn_writes.clear();
    lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false)).unwrap();
    let removed = lfib.tables().ftn_writes.len();
    assert!((1..=STEP).contains(&removed), "{removed}");
    // Its number is free only when it is empty.
    lfib.use_vrf_with(20, BTreeMap::new);
    assert!(
        lfib.domains()
            .any(|(domain, table)| (domain, table) == (Domain(2), Some(20)))
    );
    // A port that comes back now waits for the rest of the steps.
    lfib.use_vrf_with(10, || panic!("they are known"));
    assert_eq!((fill(&mut lfib), lfib.domain(Some(10))), (1 + 5, Domain(1)));
    lfib.leave_vrfs(&BTreeSet::new());
    lfib.tables_mut().end_grace_periods();
    fill(&mut lfib);
    assert_eq!((lfib.domains().count(), lfib.tables().ftn.len()), (1, 600));
    assert_eq!((lfib.ftn_entries().v4, lfib.ftn_entries().v6), (600, 0));
    lfib.use_vrf_with(30, BTreeMap::new);
    assert!(
        lfib.domains()
            .any(|(domain, table)| (domain, table) == (Domain(1), Some(30)))
    );
    // Each route takes an entry in each domain.
    fill(&mut lfib);
    assert_eq!((lfib.prefix_routes(), lfib.ftn_entries().v4), (600, 1200));
}

#[test]
fn a_domain_that_cannot_be_written_is_no_port_s_and_is_filled_when_that_is_possible() {
    let mut lfib = large();
    lfib.change(
        Mode::Add,
        Owner::STATIC,
        &[push("10.0.0.0/8", &[100], 1), push("10.1.0.0/16", &[101], 1)],
    )
    .unwrap();
    lfib.tables_mut().ftn_inserts_left = 1;
    lfib.use_vrf_with(10, BTreeMap::new);
    assert!(lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false)).is_err() && lfib.is_filling_stalled());
    // It is not retried at once, and changes are made all the same.
    assert!(!lfib.has_domain_steps());
    assert_eq!((lfib.domain(Some(10)), lfib.unsettled()), (Domain::EMPTY, 0));
    lfib.retry_filling();
    assert!(lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false)).is_err() && !lfib.has_domain_steps());
    lfib.tables_mut().ftn_inserts_left = usize::MAX;
    lfib.change(Mode::Replace, Owner::STATIC, &[push("10.0.0.0/8", &[102], 1)])
        .unwrap();
    lfib.retry_filling();
    fill(&mut lfib);
    let domain = lfib.domain(Some(10));
    assert_eq!((domain, lfib.is_filling_stalled()), (Domain(1), false));
    let labels = ["10.9.0.1", "10.1.0.1"].map(|address| imposed_in(&lfib, domain, address));
    assert_eq!(labels, [Some(102), Some(101)]);
}

#[test]
fn routes_for_more_vrfs_than_there_is_room_for_are_refused_before_any_is_written() {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(Capacity { prefixes: 7, ..small() }));
    let routes = ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"].map(|prefix| push(prefix, &[100], 1));
    lfib.change(Mode::Add, Owner::STATIC, &routes[..2]).unwrap();
    for table in [10, 20] {
        lfib.use_vrf_with(table, BTreeMap::new);
    }
    fill(&mut lfib);
    lfib.tables_mut().ftn_writes.clear();
    let more = [push("2001:db8::/32", &[100], 1), routes[2].clone()];
    let error = lfib.change(Mode::Add, Owner::STATIC, &more).unwrap_err();
    assert_eq!(error.index(), Some(1));
    assert_eq!(
        error.to_string(),
        "no room for a route of 10.2.0.0/16: there are 7 entries for prefixes of its family, and each route without `table` \
         takes 3, one for ports outside of VRFs and one for each VRF that ports are in (2)"
    );
    assert!(lfib.tables().ftn_writes.is_empty());
    // A domain that they do not fit into is not begun.
    lfib.use_vrf_with(30, BTreeMap::new);
    let error = lfib
        .domain_step(&mut Budget::new(usize::MAX, &mut || false))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the IPv4 prefix routes take 8 entries in all, and there are 7: a route without `table` takes one for each VRF that \
         ports are in and one for the other ports"
    );
    assert!(lfib.tables().ftn_writes.is_empty());
    // Without it, and with one VRF less, there is room.
    lfib.leave_vrfs(&[10].into());
    fill(&mut lfib);
    lfib.change(Mode::Add, Owner::STATIC, &routes[2..]).unwrap();
    assert_eq!(lfib.tables().ftn.len(), 6);
}

proptest! {
    #[test]
    fn any_sequence_of_changes_leaves_the_tables_as_the_routes_say(
        roomy: bool,
        at_once in prop_oneof![Just(STEP), 1_usize..3],
        steps in proptest::collection::vec(step(), 1..16),
    ) {
        let mut lfib = if roomy { large() } else { lfib() };
        (lfib.step, lfib.turned_at_once) = (at_once, at_once.min(3));
        lfib.set_vrf_devices(vrf_devices());
        let mut model = Model::new();
        let mut kernel = Kernel::default();
        let mut meanings = BTreeMap::new();
        for step in steps {
            let (before, was_settled) = (lfib.tables().ftn.clone(), lfib.unsettled() == 0);
            lfib.tables_mut().ftn_writes.clear();
            let mut refused = false;
            let mut is_alone = true;
            let domains_before = kernel.domains(&lfib);
            match step {
                Step::Make(asked, operations, others) => {
                    is_alone = others.is_empty();
                    let (change, wanted) = asked.change(&model);
                    prop_assert!(lfib.begin(change.clone()).is_ok());
                    prop_assert!(lfib.begin(change).is_err());
                    let mut others = others.into_iter();
                    let result = loop {
                        let writes = lfib.tables().ftn_writes.len();
                        let result = step_of(&mut lfib, operations);
                        let claims_of_one = 4 * if at_once == STEP { 32 } else { at_once + 32 };
                        let written = lfib.tables().ftn_writes.len() - writes;
                        prop_assert!(written <= operations.saturating_mul(claims_of_one), "{} in one step", written);
                        if let Some(result) = result {
                            break result;
                        }
                        // Each key has what it had, or what it should get.
                        let listed: Model = list(&lfib).into_iter().map(|listed| (listed.route.key(), listed.route)).collect();
                        for key in model.keys().chain(wanted.keys()).chain(listed.keys()) {
                            let now = listed.get(key);
                            prop_assert!(now == model.get(key) || now == wanted.get(key), "{} has {:?}", key, now);
                        }
                        check_tables(&lfib, &listed, &kernel)?;
                        check_meanings(&lfib, &mut meanings)?;
                        if let Some(other) = others.next() {
                            other.happens(&mut lfib, &mut kernel)?;
                            check_tables(&lfib, &listed, &kernel)?;
                            check_meanings(&lfib, &mut meanings)?;
                        }
                    };
                    prop_assert!(!lfib.is_changing());
                    refused = result.is_err();
                    if let Ok(changes) = result {
                        let new = wanted.keys().filter(|key| !model.contains_key(key)).count();
                        let gone = model.keys().filter(|key| !wanted.contains_key(key)).count();
                        let other = wanted.iter().filter(|(key, route)| model.get(key).is_some_and(|before| before != *route)).count();
                        prop_assert_eq!((changes.added, changes.deleted), (new, gone));
                        // An equal group may have another number.
                        prop_assert!(changes.replaced >= other);
                        model = wanted;
                    }
                }
                Step::Meanwhile(other) => {
                    other.happens(&mut lfib, &mut kernel)?;
                    ensure_vrfs_are_followed(&mut lfib)?;
                }
                Step::Heal => {
                    lfib.tables_mut().ftn_inserts_left = usize::MAX;
                    lfib.retry_filling();
                    prop_assert!(lfib.settle().is_ok());
                    prop_assert_eq!(lfib.unsettled(), 0);
                }
                Step::Sweep(steps) => {
                    for _ in 0..steps {
                        let writes = lfib.tables().ftn_writes.len();
                        lfib.tidy_step(&mut Budget::new(1, &mut || false));
                        prop_assert!(lfib.tables().ftn_writes.len() - writes <= at_once);
                    }
                }
            }
            check_tables(&lfib, &model, &kernel)?;
            for (domain, (_, claims)) in kernel.domains(&lfib) {
                if !domains_before.contains_key(&domain) {
                    continue;
                }
                // Each address sees one step, from the old entry to the new one.
                let (mut ftn, after) = (entries_in(domain, &before), entries_in(domain, &lfib.tables().ftn));
                let (first, last) = (seen(&ftn), seen(&after));
                let in_nets = |address| NETS.map(net).into_iter().filter(move |net| net.contains(&address)).max_by_key(IpNet::prefix_len);
                let never: Vec<bool> = addresses()
                    .map(|address| in_nets(address).is_some_and(|net| claims.get(&net) == Some(&Claim::Never)))
                    .collect();
                let mut stepped = vec![false; first.len()];
                let writes = lfib.tables().ftn_writes.iter().filter(|(key, _)| key.domain == domain);
                for &(key, entry) in writes {
                    match entry {
                        Some(entry) => ftn.insert(key.prefix, entry),
                        None => ftn.remove(&key.prefix),
                    };
                    for (index, now) in seen(&ftn).into_iter().enumerate() {
                        let (first, last) = (first[index], last[index]);
                        let kernels = first == RouteEntry::EMPTY && last == RouteEntry::EMPTY && (!refused || never[index]);
                        prop_assert!(!kernels || !is_alone || now == RouteEntry::EMPTY);
                        if is_alone && was_settled && lfib.unsettled() == 0 && lfib.tables().ftn_inserts_left > 64 {
                            prop_assert!(now == last || (now == first && !stepped[index]), "{:?} {:?} {:?}", first, now, last);
                            stepped[index] |= now == last && first != last;
                        }
                    }
                }
            }
            check_meanings(&lfib, &mut meanings)?;
        }
        // Nothing leaked: all slots can be taken again.
        lfib.tables_mut().ftn_inserts_left = usize::MAX;
        while lfib.has_to_turn() {
            lfib.tidy_step(&mut Budget::new(1, &mut || false));
        }
        lfib.retry_filling();
        fill(&mut lfib);
        prop_assert!(kernel.vrfs.iter().all(|&table| lfib.domain(Some(table)) != Domain::EMPTY));
        lfib.leave_vrfs(&BTreeSet::new());
        fill(&mut lfib);
        prop_assert_eq!(lfib.domains().count(), 1);
        lfib.change(Mode::ReplaceAll, Owner::STATIC, &[]).unwrap();
        sweep(&mut lfib);
        prop_assert_eq!((lfib.unsettled(), lfib.tables().ftn.len()), (0, 0));
        prop_assert_eq!((lfib.stacks_in_use(), lfib.next_hops().len(), lfib.uncounted_routes()), (0, 0, 0));
        prop_assert_eq!((lfib.groups_in_use(), lfib.backups_in_use()), (0, 0));
        let all: Vec<Route> = (1u8..=3).map(|last| swap(99 + u32::from(last), &[u32::from(last.min(2)), 20], last)).collect();
        prop_assert!(lfib.change(Mode::Add, Owner::STATIC, &all).is_ok());
        prop_assert_eq!(lfib.uncounted_routes(), 0);
    }
}

#[test]
fn routes_follow_a_renamed_port_and_no_table_is_written() {
    let mut lfib = lfib();
    let by = |key, dev: &str| {
        let next_hop = NextHop {
            via: Via::Inet([10, 0, 0, 1].into()),
            dev: Some(dev.into()),
        };
        let action = Action::Swap(labels(&[110]));
        Route::new(label(key), action, Some(next_hop), TtlPropagate::Default).unwrap()
    };
    let rename = |lfib: &mut Lfib<MemoryTables>, names: &[(&str, &str)]| {
        let names = names.iter().map(|&(old, new)| (old.into(), new.into())).collect();
        lfib.rename_devices(&names);
    };
    let routes = [by(100, "eth1"), by(101, "eth2"), by(102, "core0")];
    lfib.change(Mode::Add, Owner::STATIC, &routes).unwrap();
    let entries = |lfib: &Lfib<MemoryTables>| [100, 101, 102].map(|key| entry(lfib, key));
    let before = entries(&lfib);

    rename(&mut lfib, &[("eth1", "eth2"), ("eth2", "eth1")]);
    assert_eq!(entries(&lfib), before);
    let listed = |lfib: &Lfib<MemoryTables>, key| lfib.get(label(key)).unwrap().route;
    assert_eq!(listed(&lfib, 100), by(100, "eth2"));
    assert_eq!(listed(&lfib, 101), by(101, "eth1"));
    // To a name that another route waits for: each keeps its own slot, and gives back its own.
    rename(&mut lfib, &[("eth2", "core0")]);
    assert_eq!(entries(&lfib), before);
    assert_eq!(listed(&lfib, 100), by(100, "core0"));
    lfib.delete(&[label(100)]).unwrap();
    assert_eq!(listed(&lfib, 102), by(102, "core0"));
    lfib.delete(&[label(101), label(102)]).unwrap();
    lfib.change(Mode::Add, Owner::STATIC, &[by(100, "core0")]).unwrap();
    assert_eq!(lfib.next_hops().len(), 1);
}

/// Makes a change, and returns what has become of each route.
fn made(lfib: &mut Lfib<MemoryTables>, change: Change) -> Option<Vec<String>> {
    lfib.begin(change).unwrap();
    loop {
        // With the smallest possible steps.
        if let Progress::Finished(finished) = lfib.step(&mut Budget::new(1, &mut || false)) {
            finished.result.unwrap();
            let made = finished.made?;
            let routes = (0..made.len()).map(|at| match made.get(at).unwrap() {
                MadeRoute::Installed(installs, owner, route) => format!("{installs:?} {owner} {route}"),
                MadeRoute::Deleted(owner, route) => format!("Deleted {owner} {route}"),
                MadeRoute::DeletedKey(key) => format!("Deleted {key}"),
            });
            assert!(made.get(made.len()).is_none());
            return Some(routes.collect());
        }
    }
}

#[test]
fn those_who_watch_get_the_routes_that_are_different_from_before() {
    let mut lfib = lfib();
    let first = vec![
        swap(16, &[100], 1),
        push("10.1.0.0/16", &[101], 1),
        push("10.1.2.0/24", &[102], 1),
        swap(17, &[103], 1),
    ];
    assert_eq!(made(&mut lfib, install(Mode::Add, &first)), None);
    lfib.watch(true);
    assert_eq!(made(&mut lfib, install(Mode::Replace, &first)), Some(Vec::new()));
    let next = vec![
        swap(18, &[104], 1),
        push("10.1.0.0/16", &[101], 2),
        push("10.0.0.0/8", &[105], 1),
        swap(17, &[103], 1),
        swap(16, &[100], 2),
    ];
    let mut seen = made(&mut lfib, install(Mode::ReplaceAll, &next)).unwrap();
    seen.sort();
    let mut expected = [
        format!("New static {}", next[0]),
        format!("Replacement static {}", next[1]),
        format!("New static {}", next[2]),
        format!("Replacement static {}", next[4]),
        format!("Deleted static {}", first[2]),
    ];
    expected.sort();
    assert_eq!(seen, expected);

    let keys = vec![label(17), RouteKey::Prefix(fec(None, "10.0.0.0/8"))];
    let seen = made(&mut lfib, Change::Delete(Arc::new(keys))).unwrap();
    assert_eq!(
        seen,
        [3, 2].map(|index: usize| format!("Deleted static {}", next[index]))
    );
    let all: Select = Box::new(|_| true);
    assert_eq!(made(&mut lfib, Change::Flush(Arc::new(all))).unwrap().len(), 3);
    lfib.watch(false);
    assert_eq!(made(&mut lfib, install(Mode::Add, &first)), None);
}

#[test]
fn of_many_deleted_routes_some_are_kept_and_all_are_named() {
    let mut lfib = Lfib::new(MemoryTables::default());
    let routes: Vec<Route> = (16..3016).map(|key| swap(key, &[110], 1)).collect();
    lfib.watch(true);
    assert_eq!(made(&mut lfib, install(Mode::Add, &routes)).unwrap().len(), 3000);
    let all: Select = Box::new(|_| true);
    let deleted = made(&mut lfib, Change::Flush(Arc::new(all))).unwrap();
    assert_eq!(deleted.len(), 3000);
    let kept = deleted.iter().filter(|line| line.contains(" via "));
    assert_eq!(kept.count(), 1024);
    assert_eq!(deleted[2999], format!("Deleted {}", label(3015)));
}

//! A refused request changes nothing.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use mplsxdp_common::abi::{Adjacency, LabelRange};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as ProptestConfig, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::control::api::Checksum;
use crate::dataplane::FtnKey;

/// Switches, and requests to each.
const SWITCHES: u32 = 500;
const REQUESTS: usize = 20;

/// Everything that frames can meet, and everything that a client is shown.
#[derive(PartialEq, Debug)]
struct State {
    labels: BTreeMap<u32, RouteEntry>,
    prefixes: BTreeMap<FtnKey, RouteEntry>,
    buckets: BTreeMap<(u32, u8), RouteEntry>,
    adjacencies: BTreeMap<u16, Adjacency>,
    ports: BTreeMap<u16, PortWord>,
    label_ranges: BTreeMap<u16, Vec<LabelRange>>,
    routes: String,
    links: Vec<api::Link>,
}

fn state(rig: &mut Rig) -> State {
    let routes = rig.request(Request::ListRoutes {
        filter: RouteFilter {
            standby: true,
            ..RouteFilter::default()
        },
        after: None,
        limit: 1000,
        counters: false,
    });
    let links = rig.links_of_reply();
    let tables = rig.switch.tables();
    let labels = tables.ilm.iter().filter(|(_, entry)| entry.op() != Op::None);
    let labels: BTreeMap<u32, RouteEntry> = labels.map(|(label, entry)| (label.get(), *entry)).collect();
    let prefixes: BTreeMap<FtnKey, RouteEntry> = tables.ftn.iter().map(|(key, entry)| (*key, *entry)).collect();
    // Slots that no entry points to may have been filled.
    let entries: Vec<RouteEntry> = labels.values().chain(prefixes.values()).copied().collect();
    let is_used = |group: u32| {
        let mut entries = entries.iter();
        entries.any(|entry| entry.op() == Op::Group && entry.operand() == group)
    };
    let buckets = tables.buckets.iter().filter(|((group, _), _)| is_used(*group));
    let buckets: BTreeMap<(u32, u8), RouteEntry> = buckets.map(|(key, entry)| (*key, *entry)).collect();
    let leaves = |entry: &&RouteEntry| matches!(entry.op(), Op::Label | Op::Stack | Op::Pop | Op::PenultimatePop);
    let hops = entries.iter().chain(buckets.values()).filter(leaves);
    let hops = hops.map(|entry| entry.next_hop());
    State {
        adjacencies: hops
            .filter_map(|index| tables.adjacencies.get(&index).map(|adjacency| (index, *adjacency)))
            .collect(),
        labels,
        prefixes,
        buckets,
        ports: tables.ports.iter().map(|(port, word)| (*port, *word)).collect(),
        label_ranges: tables
            .label_ranges
            .iter()
            .map(|(port, ranges)| (*port, ranges.clone()))
            .collect(),
        routes: format!("{routes:?}"),
        links,
    }
}

const KEYS: [&str; 9] = [
    "16",
    "100",
    "101",
    "255",
    // Beyond the labels that there are.
    "256",
    "1048575",
    "10.0.0.0/8",
    "10.7.0.0/16",
    "2001:db8::/32",
];

const NEXT_HOPS: [&str; 8] = [
    "via link 02:00:00:00:00:01 dev eth1",
    "via link 02:00:00:00:00:02 dev eth2",
    "via link 02:00:00:00:00:03 dev eth3",
    "via inet 10.0.1.2 dev eth1",
    "via inet 10.0.1.2",
    // No route, this machine, and no such interface.
    "via inet 10.9.9.9",
    "via inet 10.0.1.1",
    "via inet 10.0.1.3 dev eth9",
];

fn any_route() -> impl Strategy<Value = Route> {
    let key = || select(&KEYS[..]);
    let hop = || select(&NEXT_HOPS[..]);
    let action = |key: &str, labels: &str| match key.contains('/') {
        true => format!("encap mpls {labels}"),
        false => format!("as {labels}"),
    };
    let labels = || select(vec!["110", "110/120", "17/18/19/20", "300/301"]);
    let simple = (key(), labels(), hop()).prop_map(move |(key, labels, hop)| {
        let action = action(key, labels);
        format!("{key} {action} {hop}")
    });
    let several = (key(), labels(), hop(), hop(), 1_u16..9).prop_map(move |(key, labels, one, other, weight)| {
        let action = action(key, labels);
        format!("{key} nexthop {action} {one} weight {weight} nexthop {action} {other}")
    });
    let protected = (key(), labels(), hop(), hop()).prop_map(move |(key, labels, hop, backup)| {
        let action = action(key, labels);
        format!("{key} {action} {hop} backup {backup}")
    });
    let other = (select(&KEYS[..6]), hop(), 0..3).prop_map(|(key, hop, kind)| match kind {
        0 => format!("{key} dev lo"),
        1 => format!("{key} as implicit-null {hop}"),
        _ => format!("{key} {hop}"),
    });
    prop_oneof![4 => simple, 2 => several, 1 => protected, 1 => other]
        .prop_filter_map("not a route", |text| line::route(&text, Family::Any).ok())
}

fn any_request() -> impl Strategy<Value = Request> {
    let source = || select(vec![Source::Static, Source::Static, Source::Fpm]);
    let routes = || prop::collection::vec(any_route(), 1..4);
    let modes = vec![ChangeMode::Add, ChangeMode::Change, ChangeMode::Replace];
    let change = (select(modes), source(), routes()).prop_map(|(mode, owner, routes)| Request::ChangeRoutes {
        mode,
        owner,
        routes,
        wait: false,
    });
    let delete = (source(), routes()).prop_map(|(owner, routes)| Request::DeleteRoutes {
        owner,
        routes: routes.iter().map(|route| Description::from(route.key())).collect(),
    });
    let name = || {
        select(vec![
            "eth1",
            "eth2",
            "eth9",
            "",
            "a name that is much too long",
            "eth/1",
            "lo",
        ])
    };
    let link = (name(), 0..3).prop_map(|(name, kind)| {
        let name = name.to_owned();
        match kind {
            0 => Request::AddLink {
                name,
                tx_only: true,
                accept: AcceptLabels::default(),
                mpls_mtu: MplsMtu::default(),
                dscp_map: DscpMap::default(),
                tc_map: TcMap::default(),
                checksum: Some(Checksum::Trust),
            },
            1 => Request::SetLink {
                name,
                change: PortChange {
                    mpls: Some(false),
                    accept_labels: "100-199".parse().ok(),
                    mpls_mtu: "1505".parse().ok(),
                    dscp_map: "46=5".parse().ok(),
                    tc_map: "5=46".parse().ok(),
                },
            },
            _ => Request::DeleteLink { name },
        }
    });
    prop_oneof![6 => change, 3 => delete, 1 => link]
}

/// Ten thousand requests to switches with small tables, most of which cannot be done.
#[test]
fn a_refused_request_changes_nothing() {
    let config_of_test = ProptestConfig {
        cases: SWITCHES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[21; 32]);
    let (refused, done) = (Cell::new(0), Cell::new(0));
    let requests = prop::collection::vec(any_request(), REQUESTS);
    let result = TestRunner::new_with_rng(config_of_test, rng).run(&requests, |requests| {
        let capacity = Capacity {
            labels: 256,
            adjacencies: 6,
            stacks: 3,
            groups: 2,
            backups: 2,
            counter_slots: 4,
            prefixes: 3,
        };
        let mut rig = Rig::up_with_tables(config(&["eth1", "eth2"], &[]), MemoryTables::with_capacity(capacity));
        rig.lookups.extend([
            (IpAddr::from([10, 0, 1, 2]), Lookup::Interface(1)),
            (IpAddr::from([10, 0, 1, 1]), Lookup::Local),
        ]);
        let mut before = state(&mut rig);
        for request in requests {
            let shown = format!("{request:?}");
            let result = rig.request(request);
            let after = state(&mut rig);
            match result {
                Ok(_) => done.set(done.get() + 1),
                Err(refusal) => {
                    refused.set(refused.get() + 1);
                    prop_assert!(!refusal.to_string().is_empty(), "{}", shown);
                    prop_assert_eq!(&before, &after, "{} was refused: {}", shown, refusal);
                }
            }
            before = after;
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    // Of 10,000.
    assert!(
        refused.get() > 5000 && done.get() > 500,
        "{refused:?} refused, {done:?} done"
    );
}

//! Malformed calls: each is refused with its place, and nothing reaches the switch. The cases are the same in each run.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::fake::Fake;

const CASES: u32 = 10_000;

/// One call of each method that has parameters, with all of them.
fn calls() -> Vec<(&'static str, Value)> {
    let via = json!({ "family": "inet", "host": "192.0.2.1" });
    let backup = json!({ "via": via, "dev": "eth2" });
    let path =
        |out: u32| json!({ "action": "swap", "out": [out], "via": via, "dev": "eth1", "backup": backup, "weight": 2 });
    let routes = json!([
        { "label": 100, "action": "swap", "out": [110, 120], "ttl_propagate": true, "via": via, "dev": "eth1",
          "backup": backup, "protocol": "bgp" },
        { "label": 101, "nexthops": [path(110), path(120)] },
        { "prefix": "10.0.0.0/8", "table": 1000, "out": [16], "ttl": 5, "via": via, "metric": 20, "protocol": "7" },
    ]);
    let filter =
        json!({ "family": "mpls", "table": 7, "protocol": "bgp", "via": via, "dev": "eth1", "owner": "static" });
    let mut list = filter.clone();
    list["standby"] = json!(true);
    list["counters"] = json!(true);
    let mut flush = filter;
    flush["all"] = json!(false);
    vec![
        ("AddRoutes", json!({ "routes": routes, "owner": "static" })),
        ("ChangeRoutes", json!({ "routes": routes, "owner": "fpm" })),
        ("ReplaceRoutes", json!({ "routes": routes, "owner": "kernel" })),
        ("DeleteRoutes", json!({ "keys": routes, "owner": "static" })),
        ("FlushRoutes", flush),
        ("ListRoutes", list),
        ("GetRoute", json!({ "prefix": "10.0.0.0/8", "table": 7 })),
        ("GetRoute", json!({ "address": "192.0.2.1" })),
        ("GetVrf", json!({ "name": "red" })),
        ("Begin", json!({ "replace_all": true, "owner": "static" })),
        ("Stage", json!({ "routes": routes })),
        ("Commit", json!({ "allow_empty": true })),
        ("ListLinks", json!({ "counters": true })),
        (
            "AddLink",
            json!({ "ifname": "eth1", "tx_only": true, "checksum": "trust" }),
        ),
        ("DeleteLink", json!({ "ifname": "eth1" })),
        ("SetLink", json!({ "ifname": "eth1", "mpls": true })),
        ("ListNeighbors", json!({ "counters": true })),
        ("GetStats", json!({ "all": true })),
        ("CheckSync", json!({ "repair": true })),
    ]
}

/// The places of all values in `value`, as the errors name them, with JSON pointers.
fn places(value: &Value, place: String, pointer: String, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                places(field, format!("{place}.{name}"), format!("{pointer}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, format!("{place}[{index}]"), format!("{pointer}/{index}"), found);
            }
        }
        _ => {}
    }
    found.push((place, pointer));
}

/// A value that no field has that has `value`.
fn wrong(value: &Value, choice: Index) -> Value {
    let choices: &[Value] = match value {
        Value::Bool(_) => &[json!("on"), json!(1), json!([]), json!({})],
        Value::Number(_) => &[
            json!("100"),
            json!(-1),
            json!(1.5),
            json!(1_u64 << 40),
            json!([]),
            json!(true),
        ],
        Value::String(_) => &[json!(7), json!(true), json!([]), json!({}), json!(0.5)],
        Value::Array(_) => &[json!({}), json!("100"), json!(3), json!(false)],
        _ => &[json!("100"), json!(3), json!(true)],
    };
    choices[choice.index(choices.len())].clone()
}

#[test]
fn ten_thousand_malformed_calls_are_refused_with_their_places_and_change_nothing() {
    let calls = calls();
    // They are good calls: none is unreadable.
    let good = Fake::start();
    let mut raw = good.raw();
    for (method, parameters) in &calls {
        let reply = raw.call(method, parameters.clone());
        assert!(reply["parameters"]["parameter"].is_null(), "{method}: {reply}");
    }
    let fake = Fake::start();
    let mut raw = fake.raw();
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[12; 32]);
    let index = any::<Index>;
    let cases = (index(), index(), index(), prop::option::of("[a-z_]{1,12}"));
    let connection = std::cell::RefCell::new(&mut raw);
    let refused = TestRunner::new_with_rng(config, rng).run(&cases, |(call, place, choice, unknown)| {
        let (method, mut parameters) = calls[call.index(calls.len())].clone();
        let mut found = Vec::new();
        places(&parameters, "parameters".into(), String::new(), &mut found);
        let (mut place, pointer) = found[place.index(found.len())].clone();
        let value = parameters.pointer_mut(&pointer).unwrap();
        match (value.as_object_mut(), unknown) {
            (Some(fields), Some(name)) => {
                let name = format!("no_{name}");
                place = format!("{place}.{name}");
                fields.insert(name, json!(1));
            }
            _ => *value = wrong(value, choice),
        }
        let call = format!("{method} {parameters}");
        let reply = connection.borrow_mut().call(method, parameters);
        let at = reply["parameters"]["parameter"].as_str();
        prop_assert!(reply["error"].is_string(), "{}: {}", call, reply);
        prop_assert!(
            reply["parameters"]["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty()),
            "{}: {}",
            call,
            reply
        );
        // The place itself, or one that contains it or is in it.
        let is_there = at.is_some_and(|at| at.starts_with(&*place) || place.starts_with(at));
        prop_assert!(is_there, "{}: {}", call, reply);
        Ok(())
    });
    refused.unwrap_or_else(|error| panic!("{error}"));
    let kept = fake.kept.lock().unwrap();
    assert!(kept.requests.is_empty() && kept.routes.is_empty());
}

//! Malformed calls: each is refused with its place, and nothing reaches the switch. The cases are the same in each
//! run; `PROPTEST_CASES` makes another number of them.

use std::collections::BTreeSet;
use std::env;

use mplsxdp::control::api::DEFINITION;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use varlink_parser::{IDL, VStruct, VStructOrEnum, VType, VTypeExt};

use crate::fake::Fake;

const CASES: u32 = 10_000;
/// Before the name of a field, until the call is text: a [`Value`] has no name twice.
const TWICE: &str = "twice ";

/// Calls of each method that has parameters. Each parameter, and each field of its type, is in one of them.
fn calls() -> Vec<(&'static str, Value)> {
    let via = json!({ "family": "inet", "host": "192.0.2.1" });
    let backup = json!({ "action": "swap", "out": [130, 140], "via": via, "dev": "eth2" });
    let path =
        |out: u32| json!({ "action": "swap", "out": [out], "via": via, "dev": "eth1", "backup": backup, "weight": 2 });
    let routes = json!([
        { "label": 100, "action": "swap", "out": [110, 120], "ttl_propagate": true, "via": via, "dev": "eth1",
          "backup": backup, "protocol": "bgp" },
        { "label": 101, "nexthops": [path(110), path(120)] },
        { "prefix": "10.0.0.0/8", "table": 1000, "out": [16], "ttl": 5, "via": via, "metric": 20, "protocol": "7",
          "backup": { "out": [18], "ttl": 6, "via": via, "dev": "eth2" } },
        { "prefix": "10.1.0.0/16", "nexthops": [
            { "out": [16], "ttl": 5, "via": via, "backup": { "out": [18], "ttl": 6, "via": via, "dev": "eth2" } },
            { "out": [17], "via": via }] },
        { "label": 102, "action": "pass", "reason": "a form that is not known" },
        { "label": 103, "action": "xconnect", "dev": "eth3" },
        { "attachment": "eth3", "out": [18], "via": via,
          "pseudowire": { "control_word": true, "flow_label": true, "tagged": true, "vlan": 30 } },
    ]);
    let filter =
        json!({ "family": "mpls", "table": 7, "protocol": "bgp", "via": via, "dev": "eth1", "owner": "static" });
    let with = |base: &Value, name: &str, value: Value| {
        let mut changed = base.clone();
        changed[name] = value;
        changed
    };
    let list = with(&with(&filter, "standby", json!(true)), "counters", json!(true));
    let flush = with(&filter, "all", json!(false));
    let mut by_key = filter;
    by_key.as_object_mut().unwrap().remove("family");
    let keys = [
        ("label", json!(100)),
        ("prefix", json!("10.0.0.0/8")),
        ("attachment", json!("eth3")),
        ("within", json!("10.0.0.0/8")),
        ("covering", json!("10.0.0.0/24")),
    ];
    let mut calls = Vec::new();
    for (name, value) in keys {
        calls.push(("ListRoutes", with(&by_key, name, value.clone())));
        calls.push(("FlushRoutes", with(&by_key, name, value)));
    }
    calls.extend([
        ("AddRoutes", json!({ "routes": routes, "owner": "static" })),
        ("ChangeRoutes", json!({ "routes": routes, "owner": "fpm" })),
        ("ReplaceRoutes", json!({ "routes": routes, "owner": "kernel" })),
        ("DeleteRoutes", json!({ "keys": routes, "owner": "static" })),
        ("FlushRoutes", flush),
        ("ListRoutes", list),
        ("GetRoute", json!({ "label": 100 })),
        ("GetRoute", json!({ "prefix": "10.0.0.0/8", "table": 7 })),
        ("GetRoute", json!({ "attachment": "eth3" })),
        ("GetRoute", json!({ "address": "192.0.2.1" })),
        ("GetVrf", json!({ "name": "red" })),
        ("Trace", json!({ "ifname": "eth1", "frame": "0200000000010200000000028847" })),
        ("Begin", json!({ "replace_all": true, "owner": "static" })),
        ("Stage", json!({ "routes": routes })),
        ("Commit", json!({ "allow_empty": true })),
        ("ListLinks", json!({ "counters": true })),
        (
            "AddLink",
            json!({ "ifname": "eth1", "tx_only": false, "accept_labels": "100-199,300", "mpls_mtu": 1508, "dscp_map": "46=5", "tc_map": "5=46", "checksum": "trust" }),
        ),
        ("DeleteLink", json!({ "ifname": "eth1" })),
        (
            "SetLink",
            json!({ "ifname": "eth1", "mpls": true, "accept_labels": "all", "mpls_mtu": 0, "dscp_map": "46=5", "tc_map": "default" }),
        ),
        (
            "AddCrossConnect",
            json!({ "ifname": "eth1", "to": "eth2", "vlan": "translate", "one_way": true }),
        ),
        (
            "DeleteCrossConnect",
            json!({ "ifname": "eth1", "to": "eth2", "one_way": true }),
        ),
        ("ListNeighbors", json!({ "counters": true })),
        ("GetStats", json!({ "all": true })),
        (
            "GetBusiestRoutes",
            json!({ "count": 3, "milliseconds": 10, "order": "bytes" }),
        ),
        ("Monitor", json!({ "kinds": ["link", "rate"], "interval_ms": 500 })),
        (
            "Capture",
            json!({ "reasons": ["no-route"], "ifname": "eth1", "label": 100, "sample": 1000 }),
        ),
        (
            "SendLspPing",
            json!({ "prefix": "10.4.4.0/24", "source_port": 40000, "destination": "127.0.0.1", "ttl": 255, "payload": "0001" }),
        ),
        (
            "SendLspPing",
            json!({ "labels": [100, 200], "via": "10.0.0.2", "dev": "eth1", "source": "10.0.0.1", "source_port": 40000,
                    "destination": "127.0.0.1", "ttl": 1, "payload": "0001", "dry_run": true }),
        ),
        ("CheckSync", json!({ "repair": true })),
    ]);
    calls
}

/// A value in a call.
struct Place<'a> {
    /// As errors name it.
    name: String,
    /// A JSON pointer.
    pointer: String,
    /// The fields of its type; `None` if that is not a structure.
    fields: Option<&'a VStruct<'a>>,
    is_enumeration: bool,
}

/// All values in `value`, which has this type.
fn places<'a>(idl: &'a IDL, vtype: &'a VTypeExt, value: &Value, name: &str, pointer: &str, found: &mut Vec<Place<'a>>) {
    let (mut fields, mut is_enumeration) = (None, false);
    match vtype {
        VTypeExt::Option(inner) => return places(idl, inner, value, name, pointer, found),
        VTypeExt::Array(inner) => {
            for (index, item) in value.as_array().unwrap().iter().enumerate() {
                places(
                    idl,
                    inner,
                    item,
                    &format!("{name}[{index}]"),
                    &format!("{pointer}/{index}"),
                    found,
                );
            }
        }
        VTypeExt::Plain(VType::Typename(of)) => match &idl.typedefs[of].elt {
            VStructOrEnum::VStruct(inner) => {
                places_in(idl, inner, value, name, pointer, found);
                fields = Some(&**inner);
            }
            VStructOrEnum::VEnum(_) => is_enumeration = true,
        },
        _ => {}
    }
    found.push(Place {
        name: name.to_owned(),
        pointer: pointer.to_owned(),
        fields,
        is_enumeration,
    });
}

fn places_in<'a>(
    idl: &'a IDL,
    fields: &'a VStruct,
    value: &Value,
    name: &str,
    pointer: &str,
    found: &mut Vec<Place<'a>>,
) {
    for field in &fields.elts {
        if let Some(value) = value.get(field.name) {
            let (name, pointer) = (format!("{name}.{}", field.name), format!("{pointer}/{}", field.name));
            places(idl, &field.vtype, value, &name, &pointer, found);
        }
    }
}

/// All values in a call, the parameters themselves last.
fn places_of<'a>(idl: &'a IDL, method: &str, parameters: &Value) -> Vec<Place<'a>> {
    let fields = &idl.methods[method].input;
    let mut found = Vec::new();
    places_in(idl, fields, parameters, "parameters", "", &mut found);
    found.push(Place {
        name: "parameters".to_owned(),
        pointer: String::new(),
        fields: Some(fields),
        is_enumeration: false,
    });
    found
}

/// The names of all fields of these and of their types, such as `routes.backup.dev`.
fn fields_of(idl: &IDL, fields: &VStruct, base: &str, names: &mut BTreeSet<String>) {
    for field in &fields.elts {
        let name = format!("{base}.{}", field.name);
        let mut vtype = &field.vtype;
        while let VTypeExt::Option(inner) | VTypeExt::Array(inner) | VTypeExt::Dict(inner) = vtype {
            vtype = inner;
        }
        if let VTypeExt::Plain(VType::Typename(of)) = vtype
            && let VStructOrEnum::VStruct(inner) = &idl.typedefs[of].elt
        {
            fields_of(idl, inner, &name, names);
        }
        names.insert(name);
    }
}

/// The fields of a value in the order of its type: what serde would read as the value.
fn as_array(fields: &VStruct, value: &Value) -> Value {
    let in_order = fields.elts.iter().map(|field| value[field.name].clone());
    Value::Array(in_order.collect())
}

#[test]
fn no_field_of_any_method_is_missing_among_the_calls() {
    let idl = IDL::try_from(DEFINITION).unwrap();
    let (mut defined, mut tried) = (BTreeSet::new(), BTreeSet::new());
    for (name, method) in &idl.methods {
        fields_of(&idl, &method.input, name, &mut defined);
    }
    for (method, parameters) in calls() {
        for place in places_of(&idl, method, &parameters) {
            let name = place.name.replacen("parameters", method, 1);
            let parts = name.split('.').map(|part| part.split('[').next().unwrap_or_default());
            tried.insert(parts.collect::<Vec<_>>().join("."));
        }
    }
    let missing: Vec<_> = defined.difference(&tried).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Serde reads a structure from an array, too, and a name from an object.
#[test]
fn an_array_is_no_structure_and_an_object_is_no_name() {
    let idl = IDL::try_from(DEFINITION).unwrap();
    let fake = Fake::start();
    let mut raw = fake.raw();
    for (method, parameters) in calls() {
        for place in places_of(&idl, method, &parameters) {
            let mut changed = parameters.clone();
            let value = changed.pointer_mut(&place.pointer).unwrap();
            match place.fields {
                Some(fields) => *value = as_array(fields, value),
                None if place.is_enumeration => *value = json!({ value.as_str().unwrap(): null }),
                None => continue,
            }
            let call = format!("{method} {changed}");
            let reply = raw.call(method, changed);
            assert_eq!(
                reply["error"], "org.varlink.service.InvalidParameter",
                "{call}: {reply}"
            );
            assert_eq!(reply["parameters"]["parameter"], place.name, "{call}: {reply}");
        }
    }
    assert!(fake.kept.lock().unwrap().requests.is_empty());
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
        _ => &[json!("100"), json!(3), json!(true), json!([]), json!([7])],
    };
    choices[choice.index(choices.len())].clone()
}

#[test]
fn ten_thousand_malformed_calls_are_refused_with_their_places_and_change_nothing() {
    let idl = IDL::try_from(DEFINITION).unwrap();
    let calls = calls();
    // They are good calls: none is unreadable.
    let good = Fake::start();
    let mut raw = good.raw();
    for (method, parameters) in &calls {
        let reply = raw.call(method, parameters.clone());
        assert!(reply["parameters"]["parameter"].is_null(), "{method}: {reply}");
    }
    let fake = Fake::start();
    let config = Config {
        cases: env::var_os("PROPTEST_CASES").map_or(CASES, |_| Config::default().cases),
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[12; 32]);
    let index = any::<Index>;
    let cases = (index(), index(), index(), prop::option::of("[a-z_]{1,12}"), 0..3);
    let connection = std::cell::RefCell::new(fake.raw());
    let refused = TestRunner::new_with_rng(config, rng).run(&cases, |(call, place, choice, unknown, kind)| {
        let (method, mut parameters) = calls[call.index(calls.len())].clone();
        let found = places_of(&idl, method, &parameters);
        let found = &found[place.index(found.len())];
        let mut place = found.name.clone();
        let value = parameters.pointer_mut(&found.pointer).unwrap();
        match (found.fields, unknown, kind) {
            (Some(fields), _, 0) => *value = as_array(fields, value),
            // One of its fields a second time.
            (Some(_), _, 1) => {
                let fields = value.as_object_mut().unwrap();
                let (name, field) = fields.iter().nth(choice.index(fields.len())).unwrap();
                let (name, field) = (format!("{TWICE}{name}"), field.clone());
                fields.insert(name, field);
            }
            (Some(_), Some(name), _) => {
                let name = format!("no_{name}");
                place = format!("{place}.{name}");
                value[name] = json!(1);
            }
            _ => *value = wrong(value, choice),
        }
        let call = json!({ "method": format!("io.mplsxdp.{method}"), "parameters": parameters });
        let call = call.to_string().replace(TWICE, "");
        let reply = connection.borrow_mut().ask(&call);
        let at = reply["parameters"]["parameter"].as_str();
        prop_assert!(reply["error"].is_string(), "{}: {}", call, reply);
        let reason = reply["parameters"]["reason"].as_str();
        prop_assert!(reason.is_some_and(|reason| !reason.is_empty()), "{}: {}", call, reply);
        // The place itself, or one that contains it or is in it.
        let is_there = at.is_some_and(|at| at.starts_with(&*place) || place.starts_with(at));
        prop_assert!(is_there, "{}: {}", call, reply);
        Ok(())
    });
    refused.unwrap_or_else(|error| panic!("{error}"));
    let kept = fake.kept.lock().unwrap();
    assert!(kept.requests.is_empty() && kept.routes.is_empty());
}

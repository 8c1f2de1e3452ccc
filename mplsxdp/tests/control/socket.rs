//! The messages on the socket, byte by byte.

use std::fs::Permissions;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mplsxdp::control::access::Groups;
use mplsxdp::control::api::{self, ChangeMode, Changes, Error, Refusal, Request};
use mplsxdp::control::client::{Client, ClientError};
use mplsxdp::control::server::Limits;
use mplsxdp::control::socket::{self, BindError};
use mplsxdp::control::{Instance, MAX_MESSAGE_BYTES, Peer};
use mplsxdp::route::{Action, NextHop, OutLabels, Route, RouteKey, Source, Via};
use mplsxdp_common::abi::TtlPropagate;
use mplsxdp_common::wire::Label;
use nix::sys::stat::{Mode, umask};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::Fake;

fn json_route(label: u32) -> Value {
    json!({ "label": label, "out": [label + 1], "via": { "family": "inet", "host": "192.0.2.1" } })
}

fn route(label: u32, out: u32) -> Route {
    Route::new(
        RouteKey::Label(Label::from_low_bits(label)),
        Action::Swap(OutLabels::new(vec![Label::from_low_bits(out)]).unwrap()),
        Some(NextHop {
            via: Via::Inet([192, 0, 2, 1].into()),
            dev: None,
        }),
        TtlPropagate::Default,
    )
    .unwrap()
}

fn line(label: u32) -> String {
    route(label, label + 1).to_string()
}

fn error(reply: &Value) -> &str {
    reply["error"].as_str().unwrap_or_else(|| panic!("no error: {reply}"))
}

#[test]
fn the_service_describes_itself() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    let info = raw.ask(r#"{"method":"org.varlink.service.GetInfo"}"#);
    assert_eq!(
        info["parameters"]["interfaces"],
        json!(["org.varlink.service", "io.mplsxdp"])
    );
    assert_eq!(info["parameters"]["product"], "mplsxdp");
    for interface in ["org.varlink.service", "io.mplsxdp"] {
        let call = json!({
            "method": "org.varlink.service.GetInterfaceDescription",
            "parameters": { "interface": interface },
        });
        let reply = raw.ask(&call.to_string());
        let description = reply["parameters"]["description"].as_str().unwrap();
        let idl = varlink_parser::IDL::try_from(description).unwrap();
        assert_eq!(idl.name, interface);
    }
}

#[test]
fn bad_messages_get_an_error_change_nothing_and_the_connection_goes_on() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    let message = "io.mplsxdp.InvalidMessage";
    let parameter = "org.varlink.service.InvalidParameter";
    for (text, expected, at) in [
        ("", message, None),
        ("not JSON", message, None),
        ("[]", message, None),
        ("{\"method\":7}", message, None),
        ("{\"method\":\"io.mplsxdp.Unload\",\"paramters\":{}}", message, None),
        (
            "{\"method\":\"io.mplsxdp.Nothing\"}",
            "org.varlink.service.MethodNotFound",
            None,
        ),
        (
            "{\"method\":\"com.example.X\"}",
            "org.varlink.service.InterfaceNotFound",
            None,
        ),
        (
            "{\"method\":\"io.mplsxdp.Unload\",\"upgrade\":true}",
            parameter,
            Some("upgrade"),
        ),
        (
            "{\"method\":\"io.mplsxdp.Unload\",\"parameters\":{\"now\":1}}",
            parameter,
            Some("parameters.now"),
        ),
        (
            "{\"method\":\"io.mplsxdp.AddRoutes\",\"parameters\":{\"routes\":[{\"label\":100,\"via\":{\"family\":\"inet\"}}]}}",
            parameter,
            Some("parameters.routes[0].via"),
        ),
        ("{\"method\":\"io.mplsxdp.Commit\"}", "io.mplsxdp.NoTransaction", None),
        ("{\"method\":\"io.mplsxdp.Rollback\"}", "io.mplsxdp.NoTransaction", None),
        (
            "{\"method\":\"io.mplsxdp.Stage\",\"parameters\":{\"routes\":[]}}",
            "io.mplsxdp.NoTransaction",
            None,
        ),
    ] {
        let reply = raw.ask(text);
        assert_eq!(error(&reply), expected, "{text}");
        assert_eq!(reply["parameters"]["parameter"].as_str(), at, "{text}");
    }
    raw.0.write_all(b"{\"method\":\"\xc3\x28\"}\0").unwrap();
    let reply = raw.receive().unwrap();
    assert_eq!(
        reply["parameters"]["reason"],
        "not UTF-8: invalid utf-8 sequence of 1 bytes from index 11"
    );
    // A good route before a bad one is not added either.
    let reply = raw.call("AddRoutes", json!({ "routes": [json_route(100), { "label": 15 }] }));
    assert_eq!(error(&reply), "io.mplsxdp.RouteRefused");
    assert_eq!(reply["parameters"]["index"], 1);
    assert!(fake.kept.lock().unwrap().requests.is_empty());
    assert_eq!(raw.call("GetStatus", json!({}))["parameters"]["status"]["pid"], 4711);
}

#[test]
fn the_controllers_refusals_are_errors_with_their_parameters() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    raw.call("AddRoutes", json!({ "routes": [json_route(100)] }));
    assert_eq!(
        raw.call("AddRoutes", json!({ "routes": [json_route(100)] })),
        json!({ "error": "io.mplsxdp.RouteExists", "parameters": { "key": { "label": 100 }, "route": line(100) } })
    );
    assert_eq!(
        raw.call("DeleteRoutes", json!({ "keys": [{ "prefix": "10.0.0.0/8" }] })),
        json!({ "error": "io.mplsxdp.NoSuchRoute", "parameters": { "key": { "prefix": "10.0.0.0/8" } } })
    );
    assert_eq!(
        raw.call("AddLink", json!({ "ifname": "eth0" })),
        json!({
            "error": "io.mplsxdp.LinkRefused",
            "parameters": { "ifname": "eth0", "reason": "eth0 is taken by another XDP program" },
        })
    );
}

#[test]
fn pipelined_calls_are_answered_in_order_and_oneway_calls_not_at_all() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    let mut bytes = Vec::new();
    for (label, oneway) in [(100, false), (101, true), (100, false), (100, true), (102, false)] {
        let call = json!({
            "method": "io.mplsxdp.AddRoutes",
            "parameters": { "routes": [json_route(label)] },
            "oneway": oneway,
        });
        bytes.extend(call.to_string().bytes());
        bytes.push(0);
    }
    // In two pieces, cut within a message.
    let (first, second) = bytes.split_at(bytes.len() / 3);
    raw.0.write_all(first).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    raw.0.write_all(second).unwrap();
    let added = json!({ "parameters": { "changes": { "added": 1, "replaced": 0, "deleted": 0 } } });
    assert_eq!(raw.receive(), Some(added.clone()));
    assert_eq!(error(&raw.receive().unwrap()), "io.mplsxdp.RouteExists");
    assert_eq!(raw.receive(), Some(added));
    raw.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(raw.receive(), None);
    assert_eq!(fake.routes(), [line(100), line(101), line(102)]);
}

#[test]
fn a_long_list_needs_more_and_comes_in_pieces() {
    let fake = Fake::start();
    let mut client = Client::connect(&fake.instance).unwrap();
    let routes: Vec<_> = (100..10_100).map(|label| route(label, 16)).collect();
    client.add_routes(&routes).unwrap();
    let mut raw = fake.raw();
    assert_eq!(
        raw.call("ListRoutes", json!({})),
        json!({ "error": "org.varlink.service.ExpectedMore", "parameters": {} })
    );
    let one = raw.call("ListRoutes", json!({ "label": 4000, "counters": true }));
    assert_eq!(one["parameters"]["routes"][0]["route"]["label"], 4000);
    assert_eq!(one["parameters"]["routes"][0]["counter"]["packets"], 5);
    assert_eq!(
        raw.call("ListRoutes", json!({ "family": "inet" })),
        json!({ "parameters": { "routes": [] } })
    );
    raw.send(r#"{"method":"io.mplsxdp.ListRoutes","more":true}"#);
    let mut labels = Vec::new();
    let mut replies = 0;
    loop {
        let reply = raw.receive().unwrap();
        replies += 1;
        let routes = reply["parameters"]["routes"].as_array().unwrap();
        labels.extend(routes.iter().map(|route| route["route"]["label"].as_u64().unwrap()));
        if reply.get("continues") != Some(&json!(true)) {
            break;
        }
    }
    assert_eq!(labels, (100..10_100).collect::<Vec<_>>());
    assert!(replies > 1);
    let mut listed = 0;
    client
        .routes(&api::ListRoutes::default(), |_| {
            listed += 1;
            Ok::<_, ClientError>(())
        })
        .unwrap();
    assert_eq!(listed, 10_000);
}

#[test]
fn a_transaction_is_one_request() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    raw.call("AddRoutes", json!({ "routes": [json_route(50), json_route(100)] }));
    assert_eq!(
        raw.call("Begin", json!({ "replace_all": true })),
        json!({ "parameters": {} })
    );
    assert_eq!(
        error(&raw.call("Begin", json!({ "replace_all": true }))),
        "io.mplsxdp.TransactionOpen"
    );
    raw.call("Rollback", json!({}));
    raw.call("Begin", json!({ "replace_all": true }));
    raw.call("Stage", json!({ "routes": [json_route(100)] }));
    assert_eq!(
        raw.call("Stage", json!({ "routes": [json_route(101), json_route(102)] })),
        json!({ "parameters": { "staged": 3 } })
    );
    assert_eq!(fake.routes(), [line(50), line(100)]);
    assert_eq!(
        raw.call("Commit", json!({})),
        json!({ "parameters": { "changes": { "added": 2, "replaced": 0, "deleted": 1 } } })
    );
    assert_eq!(fake.routes(), [line(100), line(101), line(102)]);
    assert_eq!(error(&raw.call("Commit", json!({}))), "io.mplsxdp.NoTransaction");

    raw.call("Begin", json!({ "replace_all": false }));
    raw.call("Stage", json!({ "routes": [json_route(200)] }));
    raw.call("Commit", json!({}));
    let (request, peer) = fake.kept.lock().unwrap().requests.last().unwrap().clone();
    assert_eq!(
        request,
        Request::ChangeRoutes {
            mode: ChangeMode::Replace,
            owner: Source::Static,
            routes: vec![route(200, 201)],
            wait: true,
        }
    );
    let uid = nix::unistd::getuid().as_raw();
    let pid = std::process::id() as i32;
    assert_eq!(peer, Peer { pid, uid });
}

#[test]
fn a_call_that_failed_spoils_the_transaction_even_unread() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    for call in [
        json!({ "method": "io.mplsxdp.Begin", "parameters": { "replace_all": true } }),
        json!({ "method": "io.mplsxdp.Stage", "parameters": { "routes": [json_route(100)] }, "oneway": true }),
        json!({ "method": "io.mplsxdp.Stage", "parameters": { "routes": [{ "label": 3 }] }, "oneway": true }),
        json!({ "method": "io.mplsxdp.Commit" }),
        json!({ "method": "io.mplsxdp.Commit" }),
    ] {
        raw.send(&call.to_string());
    }
    assert_eq!(raw.receive(), Some(json!({ "parameters": {} })));
    assert_eq!(
        raw.receive(),
        Some(json!({
            "error": "io.mplsxdp.TransactionFailed",
            "parameters": {
                "reason": "label 3 is special-purpose (0 to 15, RFC 7274) and takes no route; 0 and 2 are built in",
            },
        }))
    );
    assert_eq!(error(&raw.receive().unwrap()), "io.mplsxdp.NoTransaction");
    assert!(fake.kept.lock().unwrap().requests.is_empty());
}

#[test]
fn errors_in_a_transaction_count_from_its_first_route() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    raw.call("Begin", json!({ "replace_all": true }));
    raw.call("Stage", json!({ "routes": [json_route(100), json_route(101)] }));
    let reply = raw.call("Stage", json!({ "routes": [json_route(102), { "label": 103 }] }));
    assert_eq!(
        (error(&reply), &reply["parameters"]["index"]),
        ("io.mplsxdp.RouteRefused", &json!(3))
    );
    raw.call("Rollback", json!({}));

    let mut client = Client::connect(&fake.instance).unwrap();
    let mut transaction = client.begin(true).unwrap();
    transaction.stage(&[(&route(100, 16)).into()]).unwrap();
    let nowhere = NextHop {
        via: Via::Inet([192, 0, 2, 1].into()),
        dev: Some("nowhere".into()),
    };
    let refused = Route::new(route(101, 16).key(), Action::Pop, Some(nowhere), TtlPropagate::Default).unwrap();
    transaction.stage(&[(&refused).into()]).unwrap();
    match transaction.commit(false) {
        Err(ClientError::Refused(Error::Refused(Refusal::RouteRefused { index: 1, reason, .. }))) => {
            assert_eq!(reason, "nowhere is not a port");
        }
        other => panic!("{other:?}"),
    }
    assert!(fake.routes().is_empty());
}

#[test]
fn a_client_that_goes_away_rolls_back() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    raw.call("Begin", json!({ "replace_all": true }));
    raw.call("Stage", json!({ "routes": [json_route(100)] }));
    drop(raw);
    let mut raw = fake.raw();
    assert_eq!(error(&raw.call("Commit", json!({}))), "io.mplsxdp.NoTransaction");
    assert!(fake.kept.lock().unwrap().requests.is_empty());
}

#[test]
fn staged_paths_are_bounded_over_all_transactions() {
    let fake = Fake::with(Limits {
        staged_paths: 2,
        ..Limits::default()
    });
    let mut raw = fake.raw();
    raw.call("Begin", json!({ "replace_all": true }));
    raw.call("Stage", json!({ "routes": [json_route(100), json_route(101)] }));
    assert_eq!(
        raw.call("Stage", json!({ "routes": [json_route(102)] })),
        json!({ "error": "io.mplsxdp.TooManyPaths", "parameters": { "limit": 2 } })
    );
    let mut other = fake.raw();
    other.call("Begin", json!({ "replace_all": false }));
    let several = json!({ "routes": [{ "label": 200, "nexthops": [
        { "out": [201], "via": { "family": "inet", "host": "192.0.2.1" } },
        { "out": [202], "via": { "family": "inet", "host": "192.0.2.2" } },
    ] }] });
    assert_eq!(error(&other.call("Stage", several.clone())), "io.mplsxdp.TooManyPaths");
    other.call("Rollback", json!({}));
    raw.call("Rollback", json!({}));
    other.call("Begin", json!({ "replace_all": false }));
    assert_eq!(other.call("Stage", several)["parameters"]["staged"], 1);
}

#[test]
fn a_message_that_is_too_large_is_refused_and_skipped() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    let limit = 16 << 20;
    let mut writer = raw.0.try_clone().unwrap();
    let large = std::thread::spawn(move || {
        let spaces = vec![b' '; limit + 1];
        writer.write_all(&spaces).unwrap();
        writer.write_all(&spaces).unwrap();
        writer.write_all(b"\0{\"method\":\"io.mplsxdp.GetStatus\"}\0").unwrap();
        // The largest allowed message.
        let call = b"{\"method\":\"io.mplsxdp.GetStatus\"}";
        writer.write_all(&spaces[..limit - call.len()]).unwrap();
        writer.write_all(call).unwrap();
        writer.write_all(&[0]).unwrap();
    });
    assert_eq!(
        raw.receive(),
        Some(json!({ "error": "io.mplsxdp.MessageTooLarge", "parameters": { "limit": limit } }))
    );
    for _ in 0..2 {
        assert_eq!(raw.receive().unwrap()["parameters"]["status"]["pid"], 4711);
    }
    large.join().unwrap();
}

#[test]
fn who_stalls_is_cut_and_who_is_idle_is_not() {
    let short = Duration::from_millis(100);
    let fake = Fake::with(Limits {
        message_time: short,
        transaction_idle: short,
        ..Limits::default()
    });
    let mut idle = fake.raw();
    idle.call("GetStatus", json!({}));
    let mut half = fake.raw();
    half.0.write_all(b"{\"method\":").unwrap();
    let mut dripping = fake.raw();
    let mut drip = dripping.0.try_clone().unwrap();
    let drops = std::thread::spawn(move || {
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(20));
            if drip.write_all(b" ").is_err() {
                return true;
            }
        }
        false
    });
    let mut open = fake.raw();
    open.call("Begin", json!({ "replace_all": true }));
    for stalled in [&mut half, &mut dripping, &mut open] {
        assert_eq!(stalled.receive(), None);
    }
    assert!(drops.join().unwrap());
    std::thread::sleep(2 * short);
    assert_eq!(idle.call("GetStatus", json!({}))["parameters"]["status"]["pid"], 4711);
}

#[test]
fn who_does_not_take_its_replies_is_cut() {
    let fake = Fake::with(Limits {
        write_time: Duration::from_millis(100),
        ..Limits::default()
    });
    let mut raw = fake.raw();
    raw.0.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let call =
        b"{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"io.mplsxdp\"}}\0";
    // The server stops reading if its output is not read; then it gives up, and writing fails.
    let error = loop {
        if let Err(error) = raw.0.write_all(call) {
            break error;
        }
    };
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
        ),
        "{error}"
    );
}

/// The user of this process counts as root. Places of other users are tried by `tests/kernel/callers.rs`.
#[test]
fn root_always_gets_in() {
    let fake = Fake::with(Limits {
        clients: 40,
        root_clients: 10,
        ..Limits::default()
    });
    let mut transaction = fake.raw();
    transaction.call("Begin", json!({ "replace_all": false }));
    let mut slow = fake.raw();
    slow.0.write_all(b"{\"method\":").unwrap();
    let mut idle: Vec<_> = (0..300)
        .map(|_| {
            let mut raw = fake.raw();
            assert_eq!(raw.call("GetStatus", json!({}))["parameters"]["status"]["pid"], 4711);
            raw
        })
        .collect();
    // The first clients made room for the last ones, those without a transaction first.
    assert_eq!(slow.receive(), None);
    let (first, last) = idle.split_at_mut(300 - 49);
    assert!(first.iter_mut().all(|raw| raw.receive().is_none()));
    for raw in last.iter_mut().chain([&mut transaction]) {
        assert_eq!(raw.call("GetStatus", json!({}))["parameters"]["status"]["pid"], 4711);
    }
    Client::connect(&fake.instance).unwrap().unload().unwrap();
}

#[test]
fn an_instance_runs_once() {
    let fake = Fake::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let error = socket::bind(&fake.instance, &Groups::default()).unwrap_err();
    assert!(matches!(error, BindError::Running { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "instance `default` runs already (pid {}): end it with `mplsxdp --instance default unload`, or give this one \
             another name with `--instance`",
            std::process::id()
        )
    );
    let other = Instance::in_dir(fake.instance.dir(), "other").unwrap();
    let (_listener, guard) = socket::bind(&other, &Groups::default()).unwrap();
    assert!(other.socket().exists());
    drop(guard);
    assert!(!other.socket().exists() && fake.instance.dir().exists());
    assert_eq!(
        fake.raw().call("GetStatus", json!({}))["parameters"]["status"]["pid"],
        4711
    );
}

#[test]
fn the_socket_without_groups_is_for_its_owner_and_goes_with_its_directory() {
    let fake = Fake::start();
    let mode = fake.instance.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        fake.instance.dir().metadata().unwrap().permissions().mode() & 0o777,
        0o755
    );
    let dir = fake.instance.dir().to_owned();
    let outer = TempDir::new().unwrap();
    let _ = std::mem::replace(&mut { fake }.dir, outer);
    assert!(!dir.exists());
}

#[test]
fn nobody_else_can_hold_the_lock_and_the_umask_opens_nothing() {
    let dir = TempDir::new().unwrap();
    let instance = Instance::in_dir(dir.path().join("run"), "default").unwrap();
    std::fs::create_dir(instance.dir()).unwrap();
    std::fs::set_permissions(instance.dir(), Permissions::from_mode(0o755)).unwrap();
    let lock = instance.dir().join("default.lock");
    std::fs::write(&lock, "99999").unwrap();
    std::fs::set_permissions(&lock, Permissions::from_mode(0o666)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for mask in [0, 0o077, 0o777, 0o022] {
        umask(Mode::from_bits_truncate(mask));
        let (_listener, _guard) = socket::bind(&instance, &Groups::default()).unwrap();
        assert_eq!(
            (mode(&lock), mode(&instance.socket())),
            (0o600, 0o600),
            "umask {mask:o}"
        );
        assert_eq!(mode(instance.dir()), 0o755, "umask {mask:o}");
    }
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let dir = TempDir::new().unwrap();
    for mode in [0o775, 0o757, 0o1777] {
        std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        let error = socket::bind(&Instance::in_dir(dir.path(), "default").unwrap(), &Groups::default()).unwrap_err();
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// Whatever stands where the run directory, the lock or the socket belongs: it is replaced by the own one or refused, and
/// nothing is written through it.
#[test]
fn nothing_is_followed_and_nothing_else_is_written() {
    use std::os::unix::fs::symlink;
    let dir = TempDir::new().unwrap();
    let (run, elsewhere) = (dir.path().join("run"), dir.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    let victim = elsewhere.join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let instance = Instance::in_dir(&run, "default").unwrap();
    let bind = || socket::bind(&instance, &Groups::default());
    let is_untouched = || {
        let left: Vec<_> = std::fs::read_dir(&elsewhere)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(left, [&*victim]);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    };

    std::fs::write(&run, "").unwrap();
    let error = bind().unwrap_err().to_string();
    assert!(error.contains("is not a directory"), "{error}");
    std::fs::remove_file(&run).unwrap();

    // A link to a directory of another user, and a link that another user has made.
    if nix::unistd::geteuid().is_root() {
        symlink(&elsewhere, &run).unwrap();
        std::os::unix::fs::chown(&elsewhere, Some(65534), None).unwrap();
        let error = bind().unwrap_err().to_string();
        assert!(error.contains("can change") && error.contains("elsewhere"), "{error}");
        std::os::unix::fs::chown(&elsewhere, Some(0), None).unwrap();
        std::os::unix::fs::lchown(&run, Some(65534), None).unwrap();
        let error = bind().unwrap_err().to_string();
        assert!(error.contains("is a symbolic link of user 65534"), "{error}");
        std::fs::remove_file(&run).unwrap();
        is_untouched();
    }

    std::fs::create_dir(&run).unwrap();
    symlink(&victim, run.join("default.lock")).unwrap();
    let error = bind().unwrap_err().to_string();
    assert!(
        error.contains("cannot open") && error.contains("default.lock"),
        "{error}"
    );
    std::fs::remove_file(run.join("default.lock")).unwrap();
    is_untouched();

    symlink(&victim, run.join("default.sock")).unwrap();
    drop(bind().unwrap());
    is_untouched();
}

#[test]
fn a_client_that_rests_is_cut_off() {
    let fake = Fake::with(Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    });
    let mut raw = fake.raw();
    raw.call("GetStatus", json!({}));
    assert_eq!(raw.receive(), None);
}

#[test]
fn a_list_of_the_largest_routes_comes_in_replies_that_are_no_longer_than_a_message() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    let six = |last: u32| json!({ "family": "inet6", "host": format!("2001:db8:1234:5678:9abc:def0:1234:{last:x}") });
    let large = |label: u32| {
        let path = |index: u32| {
            let out: Vec<u32> = (0..8).map(|place| 1_000_000 + index + place).collect();
            json!({ "out": out, "via": six(index), "dev": "eth1", "weight": 256, "backup": { "via": six(index), "dev": "eth2" } })
        };
        json!({ "label": label, "nexthops": (1000..1256).map(path).collect::<Vec<_>>() })
    };
    for first in (100..300).step_by(50) {
        let routes: Vec<Value> = (first..first + 50).map(large).collect();
        let reply = raw.call("AddRoutes", json!({ "routes": routes }));
        assert_eq!(reply["parameters"]["changes"]["added"], 50, "{reply}");
    }
    assert_eq!(
        error(&raw.call("ListRoutes", json!({}))),
        "org.varlink.service.ExpectedMore"
    );
    let pages = raw.pages("ListRoutes", json!({ "counters": true }));
    let lengths: Vec<usize> = pages.iter().map(|&(_, length)| length).collect();
    assert!(lengths.iter().sum::<usize>() > MAX_MESSAGE_BYTES, "{lengths:?}");
    assert!(
        lengths
            .iter()
            .all(|&length| length < Limits::default().list_bytes + 100),
        "{lengths:?}"
    );
    let routes = pages
        .iter()
        .flat_map(|(page, _)| page["parameters"]["routes"].as_array().unwrap());
    let labels: Vec<u64> = routes
        .map(|listed| {
            assert_eq!(listed["paths"].as_array().unwrap().len(), 256);
            listed["route"]["label"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(labels, (100..300).collect::<Vec<_>>());

    let pages = raw.pages("ListNeighbors", json!({}));
    assert!(
        pages.len() > 1
            && pages
                .iter()
                .all(|&(_, length)| length < Limits::default().list_bytes + 100)
    );
    let neighbors = pages
        .iter()
        .map(|(page, _)| page["parameters"]["neighbors"].as_array().unwrap().len());
    assert_eq!(neighbors.sum::<usize>(), 200 * 256);
}

#[test]
fn every_list_is_cut_and_one_that_needs_more_says_so() {
    let whole = Fake::start();
    let cut = Fake::with(Limits {
        list_bytes: 500,
        ..Limits::default()
    });
    for fake in [&whole, &cut] {
        let routes: Vec<Value> = (100..110).map(json_route).collect();
        fake.raw().call("AddRoutes", json!({ "routes": routes }));
    }
    for (method, field) in [
        ("ListRoutes", "routes"),
        ("ListNeighbors", "neighbors"),
        ("ListLinks", "links"),
    ] {
        let reply = whole.raw().call(method, json!({}));
        let items = reply["parameters"][field].as_array().unwrap();
        assert!(items.len() > 2, "{method}: {reply}");
        let mut raw = cut.raw();
        assert_eq!(
            raw.call(method, json!({})),
            json!({ "error": "org.varlink.service.ExpectedMore", "parameters": {} }),
            "{method}"
        );
        let pages = raw.pages(method, json!({}));
        assert!(pages.len() > 1, "{method}");
        assert!(pages.iter().all(|&(_, length)| length < 600), "{method}: {pages:?}");
        let listed: Vec<&Value> = pages
            .iter()
            .flat_map(|(page, _)| page["parameters"][field].as_array().unwrap())
            .collect();
        assert_eq!(listed, items.iter().collect::<Vec<_>>(), "{method}");
    }
    // One reply is enough: it needs no `more`.
    let reply = cut.raw().call("GetUnknownLabels", json!({}));
    assert_eq!(reply["parameters"]["labels"].as_array().unwrap().len(), 2);
    let mut client = Client::connect(&cut.instance).unwrap();
    assert_eq!(client.neighbors(false).unwrap().len(), 10);
    assert_eq!(client.links(true).unwrap().len(), 4);
    assert_eq!(client.unknown_labels().unwrap().len(), 2);
}

#[test]
fn what_a_killed_process_left_is_put_away() {
    let dir = TempDir::new().unwrap();
    let instance = Instance::in_dir(dir.path(), "default").unwrap();
    drop(std::os::unix::net::UnixListener::bind(instance.socket()).unwrap());
    std::fs::write(dir.path().join("default.lock"), "99999").unwrap();
    assert!(UnixStream::connect(instance.socket()).is_err());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let (_listener, _guard) = socket::bind(&instance, &Groups::default()).unwrap();
    assert!(UnixStream::connect(instance.socket()).is_ok());
}

#[test]
fn the_client_says_what_runs() {
    let fake = Fake::start();
    let other = Instance::in_dir(fake.instance.dir(), "pe1").unwrap();
    assert_eq!(
        Client::connect(&other).unwrap_err().to_string(),
        "no mplsxdp runs as instance `pe1`: start it with `mplsxdp load --instance pe1 --iface IFACE`; running: default"
    );
    let dir = TempDir::new().unwrap();
    let nothing = Instance::in_dir(dir.path().join("run"), "default").unwrap();
    assert_eq!(
        Client::connect(&nothing).unwrap_err().to_string(),
        "no mplsxdp runs as instance `default`: start it with `mplsxdp load --iface IFACE`; running: none"
    );
}

#[test]
fn the_client_waits_for_an_instance_that_holds_its_name_and_does_not_listen_yet() {
    let dir = TempDir::new().unwrap();
    let instance = Instance::in_dir(dir.path(), "default").unwrap();
    let lock = std::fs::File::create(dir.path().join("default.lock")).unwrap();
    // A member of the socket's group cannot open it.
    lock.set_permissions(Permissions::from_mode(0o000)).unwrap();
    lock.lock().unwrap();
    let waiting = std::thread::spawn({
        let instance = instance.clone();
        move || Client::connect(&instance).map(drop)
    });
    // Longer than a client waits if nothing is starting.
    std::thread::sleep(Duration::from_secs(1));
    let _listener = std::os::unix::net::UnixListener::bind(instance.socket()).unwrap();
    waiting.join().unwrap().unwrap();
}

#[test]
fn unload_is_answered_and_waits_until_all_is_gone() {
    let fake = Fake::start();
    let mut bystander = fake.raw();
    bystander.call("GetStatus", json!({}));
    Client::connect(&fake.instance).unwrap().unload().unwrap();
    assert!(!fake.instance.socket().exists());
    assert_eq!(bystander.receive(), None);
}

#[test]
fn changes_are_logged() {
    let fake = Fake::start();
    let mut client = Client::connect(&fake.instance).unwrap();
    let changes = |added, replaced, deleted| Changes {
        added,
        replaced,
        deleted,
    };
    assert_eq!(
        client.add_routes(&[route(100, 16), route(101, 16)]).unwrap().changes,
        changes(2, 0, 0)
    );
    assert_eq!(
        client
            .replace_routes(&[route(100, 17), route(102, 17)])
            .unwrap()
            .changes,
        changes(1, 1, 0)
    );
    assert_eq!(
        client.delete_routes([&route(100, 16).key().into()]).unwrap(),
        changes(0, 0, 1)
    );
    let inet = api::FlushRoutes {
        family: Some(api::Family::Inet),
        ..api::FlushRoutes::default()
    };
    assert_eq!(client.flush_routes(&inet).unwrap(), changes(0, 0, 0));
    let all = api::FlushRoutes {
        all: Some(true),
        ..api::FlushRoutes::default()
    };
    assert_eq!(client.flush_routes(&all).unwrap(), changes(0, 0, 2));
}

#[test]
fn all_routes_go_only_if_that_is_said() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    raw.call("AddRoutes", json!({ "routes": [json_route(100)] }));
    let refused = |reply: Value, parameter: &str, reason: &str| {
        assert_eq!(error(&reply), "org.varlink.service.InvalidParameter");
        assert_eq!(reply["parameters"]["parameter"], parameter);
        assert_eq!(reply["parameters"]["reason"], reason);
        assert_eq!(fake.routes(), [line(100)]);
    };
    let unfiltered = "without a filter all routes would be deleted: give a filter, or `all` true if that is meant";
    for none in [
        json!({}),
        Value::Null,
        json!({ "all": false }),
        json!({ "family": null }),
    ] {
        refused(raw.call("FlushRoutes", none), "parameters", unfiltered);
    }
    refused(
        raw.call("FlushRoutes", json!({ "all": true, "dev": "eth1" })),
        "parameters",
        "`all` true and a filter contradict each other: give one of them",
    );
    for none in [json!({}), json!({ "allow_empty": false })] {
        raw.call("Begin", json!({ "replace_all": true }));
        refused(
            raw.call("Commit", none),
            "parameters.allow_empty",
            "no route was staged, and to replace all routes by none would delete them: commit with `allow_empty` true if \
             that is meant; nothing was changed, and the transaction is over",
        );
        assert_eq!(error(&raw.call("Commit", json!({}))), "io.mplsxdp.NoTransaction");
    }
    // A transaction that deletes nothing needs no confirmation.
    raw.call("Begin", json!({ "replace_all": false }));
    let nothing = json!({ "added": 0, "replaced": 0, "deleted": 0 });
    assert_eq!(raw.call("Commit", json!({}))["parameters"]["changes"], nothing);
    let one = json!({ "added": 0, "replaced": 0, "deleted": 1 });
    raw.call("Begin", json!({ "replace_all": true }));
    let committed = raw.call("Commit", json!({ "allow_empty": true }));
    assert_eq!(committed["parameters"]["changes"], one);
    raw.call("AddRoutes", json!({ "routes": [json_route(100)] }));
    let flushed = raw.call("FlushRoutes", json!({ "all": true }));
    assert_eq!(flushed["parameters"]["changes"], one);
}

#[test]
fn routes_are_changed_deleted_and_got_by_one_call() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    let via = json!({ "family": "inet", "host": "192.0.2.1" });
    let label = |out: u32| json!({ "label": 100, "action": "swap", "out": [out], "via": via });
    let reply = raw.call("ChangeRoutes", json!({ "routes": [label(110)] }));
    assert_eq!(error(&reply), "io.mplsxdp.NoSuchRoute", "{reply}");
    let prefix = |prefix: &str| json!({ "prefix": prefix, "out": [100], "via": via, "protocol": "bgp" });
    let routes = json!([label(110), prefix("10.0.0.0/8"), prefix("10.1.0.0/16")]);
    raw.call("AddRoutes", json!({ "routes": routes }));
    let reply = raw.call("ChangeRoutes", json!({ "routes": [label(111)] }));
    assert_eq!(reply["parameters"]["changes"]["replaced"], 1, "{reply}");
    for (parameters, found) in [
        (json!({ "address": "10.1.2.3" }), json!({ "prefix": "10.1.0.0/16" })),
        (json!({ "address": "10.2.2.3" }), json!({ "prefix": "10.0.0.0/8" })),
        (json!({ "prefix": "10.0.0.0/8" }), json!({ "prefix": "10.0.0.0/8" })),
        (json!({ "label": 100 }), json!({ "label": 100 })),
    ] {
        let reply = raw.call("GetRoute", parameters);
        let route = &reply["parameters"]["route"]["route"];
        assert_eq!(
            (&route["prefix"], &route["label"]),
            (&found["prefix"], &found["label"]),
            "{reply}"
        );
    }
    let reply = raw.call("GetRoute", json!({ "address": "11.0.0.1" }));
    assert_eq!(reply["parameters"]["key"]["prefix"], "11.0.0.1/32", "{reply}");
    for parameters in [json!({}), json!({ "label": 100, "address": "10.1.2.3" })] {
        let reply = raw.call("GetRoute", parameters);
        assert_eq!(error(&reply), "org.varlink.service.InvalidParameter", "{reply}");
    }

    // If one does not match its description, none is deleted.
    let keys = json!([{ "prefix": "10.0.0.0/8" }, label(110)]);
    let reply = raw.call("DeleteRoutes", json!({ "keys": keys }));
    assert_eq!(error(&reply), "io.mplsxdp.RouteDiffers", "{reply}");
    assert_eq!(
        reply["parameters"]["route"],
        "100 as to 111 via inet 192.0.2.1 dev eth1"
    );
    assert_eq!(fake.routes().len(), 3);
    let reply = raw.call(
        "DeleteRoutes",
        json!({ "keys": [{ "label": 100, "out": [110, 3], "via": via }] }),
    );
    assert_eq!(reply["parameters"]["parameter"], "parameters.keys[0].out", "{reply}");
    let keys = json!([{ "prefix": "10.0.0.0/8", "protocol": "bgp" }, label(111), { "prefix": "10.1.0.0/16" }]);
    let reply = raw.call("DeleteRoutes", json!({ "keys": keys }));
    assert_eq!(reply["parameters"]["changes"]["deleted"], 3, "{reply}");
}

#[test]
fn several_next_hops_cross_the_socket_and_mistakes_in_them_are_reported() {
    let fake = Fake::start();
    let mut raw = fake.raw();
    let via = |last: u8| json!({ "family": "inet", "host": format!("192.0.2.{last}") });
    let reply = raw.call(
        "AddRoutes",
        json!({ "routes": [{ "label": 100, "ttl_propagate": true, "nexthops": [
            { "via": via(2), "out": [200], "weight": 2, "backup": { "via": via(3), "dev": "eth2" } },
            { "via": via(1), "out": [3] },
        ] }] }),
    );
    assert_eq!(reply["parameters"]["changes"]["added"], 1, "{reply}");
    assert_eq!(
        fake.routes(),
        ["100 ttl-propagate enabled \
          nexthop as to 200 via inet 192.0.2.2 backup via inet 192.0.2.3 dev eth2 weight 2 \
          nexthop as implicit-null via inet 192.0.2.1 weight 1"]
    );
    let listed = raw.call("ListRoutes", json!({ "label": 100 }));
    let route = &listed["parameters"]["routes"][0];
    assert_eq!(route["route"]["nexthops"][0]["backup"]["dev"], "eth2");
    assert_eq!(route["paths"].as_array().map(Vec::len), Some(2));
    assert_eq!(route["paths"][1]["buckets"][0], json!({ "first": 64, "last": 127 }));
    assert_eq!(route["next_hop"], Value::Null);
    for (route, reason) in [
        (json!({ "nexthops": [] }), "no next hop; a route has at least one"),
        (
            json!({ "out": [5], "nexthops": [{ "via": via(1) }] }),
            "each of several next hops has its own: give it there, after its `nexthop`",
        ),
        (
            json!({ "nexthops": [{ "via": via(1), "weight": 0 }] }),
            "`0` is not a weight: it is 1 to 256",
        ),
        (
            json!({ "nexthops": [{ "via": via(1), "weight": 257 }] }),
            "`257` is not a weight: it is 1 to 256",
        ),
        (
            json!({ "nexthops": [{ "via": via(1) }, { "via": via(1), "weight": 2 }] }),
            "`nexthop via inet 192.0.2.1 weight 2` is given twice: give it once, with a larger `weight`",
        ),
        (
            json!({ "nexthops": [{ "via": via(1) }, { "dev": "lo" }] }),
            "`dev lo` keeps the packet on this machine; it is not one of several next hops",
        ),
    ] {
        let mut route = route;
        route["label"] = 101.into();
        let reply = raw.call("AddRoutes", json!({ "routes": [route] }));
        assert_eq!(reply["parameters"]["reason"], reason, "{reply}");
    }
    let backup = json!({ "via": via(2), "backup": { "via": via(3) } });
    let reply = raw.call(
        "AddRoutes",
        json!({ "routes": [{ "label": 101, "via": via(1), "backup": backup }] }),
    );
    assert_eq!(
        reply["parameters"]["parameter"], "parameters.routes[0].backup.backup",
        "{reply}"
    );
}

//! The command line, as a person or a script uses it.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead as _, Read, Write};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mplsxdp::control::api::{Checksum, Request};
use mplsxdp::control::{Instance, RUN_DIR_VARIABLE};
use mplsxdp::dataplane::class_maps::{DscpMap, TcMap};
use mplsxdp::dataplane::label_ranges::AcceptLabels;
use mplsxdp::dataplane::mpls_mtu::MplsMtu;
use mplsxdp::dataplane::port_change::PortChange;
use nix::sys::socket::MsgFlags;
use serde_json::{Value, json};

use crate::fake::Fake;

/// Exit code, standard output, standard error.
type Outcome = (i32, String, String);

/// `cargo xtask test` names one that this machine can run.
fn program() -> OsString {
    env::var_os("MPLSXDP_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_mplsxdp").into())
}

pub fn command(fake: &Fake, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(words)
        .env(RUN_DIR_VARIABLE, fake.instance.dir())
        .current_dir(fake.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run_with(fake: &Fake, line: &str, input: &str) -> Outcome {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut child = command(fake, &words).spawn().unwrap();
    // Some tests are about commands that fail before they read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn run(fake: &Fake, line: &str) -> Outcome {
    run_with(fake, line, "")
}

fn done(fake: &Fake, line: &str) -> String {
    let (code, out, err) = run(fake, line);
    assert_eq!((code, err.as_str()), (0, ""), "{line}: {out}");
    out
}

fn json_of(fake: &Fake, line: &str) -> Value {
    serde_json::from_str(&done(fake, line)).unwrap()
}

#[test]
fn lines_of_ip_work_with_mplsxdp_in_the_place_of_ip() {
    let fake = Fake::start();
    done(&fake, "-f mpls route add 100 as 110 via inet 192.168.40.102");
    done(&fake, "route add 101 via inet 20.0.0.2 as 111");
    done(&fake, "route add 10.4.4.0/24 encap mpls 100 via inet 192.168.30.102");
    done(
        &fake,
        "-M r a 102 as to 112 via inet 192.168.40.9 dev eth1 proto static",
    );
    done(&fake, "route add 110 dev lo");
    assert_eq!(
        done(&fake, "route show"),
        "100 as to 110 via inet 192.168.40.102 dev eth1 proto static\n\
         101 as to 111 via inet 20.0.0.2 dev eth1 proto static\n\
         102 as to 112 via inet 192.168.40.9 dev eth1 proto static unresolved failed\n\
         110 dev lo proto static\n\
         10.4.4.0/24 encap mpls 100 via inet 192.168.30.102 dev eth1 proto static\n"
    );
    assert_eq!(
        done(&fake, "-4 ro ls"),
        "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102 dev eth1 proto static\n"
    );
    assert_eq!(
        done(&fake, "-s route show 101"),
        "101 as to 111 via inet 20.0.0.2 dev eth1 proto static packets 5 bytes 500\n"
    );
    assert_eq!(done(&fake, "route show 999"), "");
    assert_eq!(
        done(&fake, "route get 100"),
        "100 as to 110 via inet 192.168.40.102 dev eth1 proto static packets 5 bytes 500\n    \
         dev eth1 lladdr 02:00:00:00:00:02 resolved routes 1\n"
    );
    assert!(done(&fake, "route get 10.4.4.2").starts_with("10.4.4.0/24 encap mpls 100 "));
    done(&fake, "route change 100 as 120 via inet 192.168.40.102");
    done(&fake, "route replace 103 as 113 via inet 192.168.40.102");
    done(&fake, "route del 101");
    done(
        &fake,
        "route del 102 as to 112 via inet 192.168.40.9 dev eth1 proto static",
    );
    assert_eq!(
        fake.routes(),
        [
            "100 as to 120 via inet 192.168.40.102",
            "103 as to 113 via inet 192.168.40.102",
            "110 dev lo",
            "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102",
        ]
    );
}

#[test]
fn pass_routes_are_added_shown_with_their_reason_and_deleted() {
    let fake = Fake::start();
    done(&fake, "route add 100 pass proto ldp # 20 labels: more than 16");
    done(&fake, "route add 101 dev lo pass");
    done(&fake, "route add 10.4.4.0/24 pass");
    assert_eq!(
        done(&fake, "route show"),
        "100 pass proto ldp  # 20 labels: more than 16\n\
         101 dev lo pass proto static\n\
         10.4.4.0/24 pass proto static\n"
    );
    assert_eq!(
        done(&fake, "-s route show 100"),
        "100 pass proto ldp packets 5 bytes 500  # 20 labels: more than 16\n"
    );
    assert_eq!(
        done(&fake, "-br route show"),
        "100                  pass            -                         -                -\n\
         101                  pop             -                         lo               pass\n\
         10.4.4.0/24          pass            -                         -                -\n"
    );
    let json = json_of(&fake, "-j route show");
    assert_eq!(
        (&json[0]["pass"], &json[0]["reason"]),
        (&json!(true), &json!("20 labels: more than 16"))
    );
    assert_eq!((&json[1]["pass"], &json[1]["dev"]), (&json!(true), &json!("lo")));
    assert_eq!(json[2].get("reason"), None);
    let saved = done(&fake, "route save");
    let (code, _, err) = run_with(&fake, "route restore", &saved);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(done(&fake, "route save"), saved);
    done(&fake, "route del 100 pass");
    let (code, _, _) = run(&fake, "route del 101 pass");
    assert_eq!(code, 1);
    done(&fake, "route del 101 dev lo pass");
    assert_eq!(fake.routes(), ["10.4.4.0/24 pass"]);
}

/// The instance reports the table of a VRF: the command may run in another network namespace.
#[test]
fn routes_of_a_table_are_chosen_by_it_or_by_its_vrf() {
    let fake = Fake::start();
    done(&fake, "route add 10.4.4.0/24 encap mpls 100 via inet 192.168.30.102");
    done(
        &fake,
        "route add 10.4.4.0/24 vrf red encap mpls 101 via inet 192.168.30.102",
    );
    done(
        &fake,
        "route add 10.4.4.0/24 encap mpls 102 via inet 192.168.30.102 dev eth1 table main scope global",
    );
    let lines = [
        "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102 dev eth1 proto static\n",
        "10.4.4.0/24 encap mpls 102 via inet 192.168.30.102 dev eth1 table main proto static\n",
        "10.4.4.0/24 encap mpls 101 via inet 192.168.30.102 dev eth1 table 1000 proto static\n",
    ];
    for (line, shown) in [
        ("route show", lines.concat()),
        ("route show table all", lines.concat()),
        ("route show 10.4.4.0/24", lines.concat()),
        ("route show table main", lines[1].to_owned()),
        ("route show vrf red", lines[2].to_owned()),
        ("-4 route show root 10/8 table 0x3e8", lines[2].to_owned()),
        ("route show 100 table main", String::new()),
    ] {
        let shown_once = done(&fake, line).replace(" packets 5 bytes 500", "");
        assert_eq!(shown_once, shown, "{line}");
    }
    assert!(done(&fake, "-br route show vrf red").ends_with(" resolved table 1000\n"));
    let json = json_of(&fake, "-j route show");
    assert_eq!(json[0].get("table"), None);
    assert_eq!((&json[1]["table"], &json[2]["table"]), (&json!("main"), &json!("1000")));
    assert!(done(&fake, "route get 10.4.4.9 vrf red").starts_with("10.4.4.0/24 encap mpls 101 "));
    assert!(done(&fake, "route get 10.4.4.9").starts_with("10.4.4.0/24 encap mpls 102 "));
    assert!(done(&fake, "route get 10.4.4.9 table 7").starts_with("10.4.4.0/24 encap mpls 100 "));
    let saved = done(&fake, "route save");
    assert!(
        saved.contains(" table main\n") && saved.contains(" table 1000\n"),
        "{saved}"
    );
    let (code, _, err) = run_with(&fake, "route restore", &saved);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(done(&fake, "route save"), saved);

    for line in [
        "route add 10.5.0.0/16 vrf blue encap mpls 101 via inet 192.168.30.102",
        "route flush vrf blue",
    ] {
        let (code, _, err) = run(&fake, line);
        assert_eq!((code, err.contains("there is no VRF `blue`")), (1, true), "{err}");
    }
    let (code, _, err) = run(&fake, "route add 100 as 110 via inet 192.168.30.102 vrf red");
    assert_eq!((code, err.contains("`table` is for a prefix")), (2, true), "{err}");
    done(&fake, "route del 10.4.4.0/24 vrf red");
    let (code, _, err) = run(&fake, "route del 10.4.4.0/24 table 1000");
    assert_eq!(
        (code, err.contains("10.4.4.0/24 table 1000 has no route")),
        (1, true),
        "{err}"
    );
    done(&fake, "route flush table main");
    assert_eq!(fake.routes(), ["10.4.4.0/24 encap mpls 100 via inet 192.168.30.102"]);
}

/// Another client cannot interfere between a command's look-up and its change.
#[test]
fn change_delete_and_get_are_one_call_each() {
    let fake = Fake::start();
    done(&fake, "route add 100 as 110 via inet 192.0.2.1");
    done(&fake, "route add 10/8 encap mpls 100 via 192.0.2.1");
    let calls = |line: &str, code: i32| {
        fake.kept.lock().unwrap().requests.clear();
        let (exit, _, err) = run(&fake, line);
        assert_eq!(exit, code, "{line}: {err}");
        fake.kept.lock().unwrap().requests.len()
    };
    for (line, code) in [
        ("route change 100 as 120 via inet 192.0.2.1", 0),
        ("route change 101 as 120 via inet 192.0.2.1", 1),
        ("route get 10.1.2.3", 0),
        ("route get 11.1.2.3", 1),
        ("route get 100", 0),
        ("route del 100 as 110 via inet 192.0.2.1", 1),
        ("route del 100 as 120 via inet 192.0.2.1 dev eth2", 1),
        ("route del 100 as 120 via inet 192.0.2.1 dev eth1", 0),
        ("route del 10/8 proto bgp", 1),
        ("route del 10/8 metric 0 proto static", 0),
    ] {
        assert_eq!(calls(line, code), 1, "{line}");
    }
    assert!(fake.routes().is_empty());
}

#[test]
fn refusals_and_mistakes_have_their_reason_and_exit_code() {
    let fake = Fake::start();
    done(&fake, "route add 100 as 110 via inet 192.0.2.1");
    for (line, code, reason) in [
        (
            "route add 100 as 111 via inet 192.0.2.1",
            1,
            "mplsxdp: 100 already has a route: `100 as to 110 via inet 192.0.2.1`; `replace` replaces it\n",
        ),
        ("route del 101", 1, "mplsxdp: 101 has no route\n"),
        ("route change 101 via inet 192.0.2.1", 1, "mplsxdp: 101 has no route\n"),
        ("route get 10.0.0.1", 1, "mplsxdp: 10.0.0.1/32 has no route\n"),
        (
            "route del 100 as 111 via inet 192.0.2.1",
            1,
            "mplsxdp: the route of 100 is different: `100 as to 110 via inet 192.0.2.1 dev eth1`\n",
        ),
        (
            "route append 100 via inet 192.0.2.1",
            1,
            "mplsxdp: `append`: a label or prefix has only one route: use `add` or `replace`\n",
        ),
        (
            "route add 101 as foo via inet 192.0.2.1",
            2,
            "mplsxdp: `foo` is not a label: labels are 0 to 1048575\n  101 as foo via inet 192.0.2.1\n         ^^^\n",
        ),
        (
            "route flush all 100",
            2,
            "mplsxdp: `100` after `all`: only one label, prefix or `all` is expected\n  all 100\n      ^^^\n",
        ),
        (
            "route flush",
            2,
            "mplsxdp: `route flush` needs arguments, as with `ip`: `route flush all` deletes all routes; the selectors are \
             `all`, LABEL, PREFIX, `xconnect IFACE`, `root PREFIX`, `match PREFIX`, `table TABLE`, `vrf VRF`, `proto PROTO`, `via ADDRESS` and `dev IFACE`\n",
        ),
        ("r f", 2, "mplsxdp: `route flush` needs arguments, as with `ip`: "),
        (
            "-4 route fl",
            2,
            "mplsxdp: `route flush` needs arguments, as with `ip`: ",
        ),
        (
            "route del 100 proto bgp",
            1,
            "mplsxdp: the route of 100 is different: `100 as to 110 via inet 192.0.2.1 dev eth1`\n",
        ),
        (
            "-M route save",
            2,
            "mplsxdp: `route save` is about all routes: no `-f`, `-M`, `-4` or `-6`\n",
        ),
        ("link add eth0", 1, "mplsxdp: eth0 is taken by another XDP program\n"),
        (
            "link del eth7",
            1,
            "mplsxdp: eth7 is not a port: add it with `mplsxdp link add eth7`\n",
        ),
        (
            "link del mpls0-port",
            1,
            "mplsxdp: mpls0-port is the far end of mpls0, and is there as long as the instance runs\n",
        ),
        (
            "link show eth7",
            1,
            "mplsxdp: eth7 is not a port: add it with `link add eth7`\n",
        ),
        (
            "--instance pe1 status",
            1,
            "mplsxdp: no mplsxdp runs as instance `pe1`: start it with `mplsxdp load --instance pe1 --iface IFACE`; \
             running: default\n",
        ),
        (
            "--instance a/b status",
            2,
            "mplsxdp: the instance name `a/b` may contain only ",
        ),
        (
            "neigh show dev eth9",
            1,
            "mplsxdp: eth9 is not a port: add it with `link add eth9`\n",
        ),
        (
            "route get",
            2,
            "mplsxdp: `route get`: the line is incomplete: expected a label, such as 100, a prefix, such as 10.4.4.0/24, or `xconnect IFACE`\n",
        ),
        ("-f mpls", 2, "mplsxdp: no command; `mplsxdp --help` lists them\n"),
        (
            "load",
            1,
            "mplsxdp: no interface: name at least one with `--iface IFACE`, or with `iface` in the config file\n",
        ),
        (
            "load --iface eth1 --netns no/such/netns",
            1,
            "mplsxdp: cannot open the network namespace no/such/netns: ",
        ),
    ] {
        let (exit, out, err) = run(&fake, line);
        assert!(err.starts_with(reason), "{line}: {err}");
        assert_eq!((exit, out.as_str()), (code, ""), "{line}");
    }
    for line in [
        "fly",
        "route",
        "status now",
        "load --labels 5",
        "route fly",
        "link set eth1 mpls maybe",
    ] {
        let (code, out, err) = run(&fake, line);
        if line == "route" {
            assert_eq!(code, 0);
        } else {
            assert_eq!((code, out.as_str()), (2, ""), "{line}");
            assert!(!err.is_empty(), "{line}");
        }
    }
    assert_eq!(fake.routes(), ["100 as to 110 via inet 192.0.2.1"]);
}

#[test]
fn json() {
    let fake = Fake::start();
    done(&fake, "route add 100 as 110/120 via inet 192.0.2.1");
    done(
        &fake,
        "route add 10.0.0.0/8 encap mpls 100 ttl 7 via inet 192.0.2.9 ttl-propagate disabled",
    );
    let label = json!({
        "dst": "100",
        "to": "110/120",
        "via": { "family": "inet", "host": "192.0.2.1" },
        "dev": "eth1",
        "protocol": "static",
        "owner": "static",
        "flags": [],
        "lladdr": "02:00:00:00:00:02",
        "state": "resolved",
    });
    let prefix = json!({
        "dst": "10.0.0.0/8",
        "encap": "mpls",
        "to": "100",
        "ttl": 7,
        "ttl_propagate": false,
        "via": { "family": "inet", "host": "192.0.2.9" },
        "dev": "eth1",
        "protocol": "static",
        "owner": "static",
        "flags": ["unresolved"],
        "state": "failed",
    });
    assert_eq!(json_of(&fake, "-j route"), json!([label, prefix]));
    assert_eq!(json_of(&fake, "-j -p route show"), json!([label, prefix]));
    assert!(done(&fake, "-j -p route show").lines().count() > 10);
    assert_eq!(json_of(&fake, "-j -6 route show"), json!([]));
    assert_eq!(
        json_of(&fake, "-j route get 100")[0]["stats"],
        json!({ "packets": 5, "bytes": 500 })
    );
    assert_eq!(json_of(&fake, "-j link show")[0]["ifname"], "eth1");
    assert_eq!(json_of(&fake, "neigh -j").as_array().unwrap().len(), 2);
    let stats = json_of(&fake, "-j stats");
    assert_eq!(stats["reasons"][0]["packets"], 1234);
    assert_eq!(
        (&stats["reasons"][0]["policed"], &stats["reasons"][0]["unheard"]),
        (&json!(123), &json!(12))
    );
    assert_eq!(stats["slow_path"][0]["name"], "unknown-label");
    assert_eq!(
        json_of(&fake, "-j stats --unknown"),
        json!([
            { "port": "eth1", "label": 999, "packets": 1200, "rate_pps": 99.96, "idle_seconds": 0.25 },
            { "port": "eth1", "label": 16, "packets": 34, "rate_pps": 0.0, "idle_seconds": 754.5 },
        ])
    );
    let links = json_of(&fake, "-j link show");
    assert_eq!(links[3]["local"], true);
    assert_eq!((&links[1]["parent_only"], links[1].get("vlan")), (&json!(true), None));
    assert_eq!(links[2]["parent"], "eth2");
    assert_eq!(
        links[2]["vlan"],
        json!([{ "protocol": "802.1ad", "id": 100 }, { "protocol": "802.1Q", "id": 10 }])
    );
    assert_eq!(json_of(&fake, "-j status")["pid"], 4711);
    assert_eq!(
        json_of(&fake, "-j route flush all"),
        json!({ "added": 0, "replaced": 0, "deleted": 2 })
    );
}

/// Two paths of a route may become the same through the interfaces that were found; the route is still shown.
#[test]
fn ways_that_lead_to_the_same_neighbour_now_are_shown_and_deleted_one_by_one() {
    let fake = Fake::start();
    done(
        &fake,
        "route add 100 as 200 via inet 192.0.2.1 backup via inet 192.0.2.1 dev eth1",
    );
    let protected = "as to 200 via inet 192.0.2.1 backup via inet 192.0.2.1 dev eth1";
    assert_eq!(done(&fake, "route show"), format!("100 {protected} proto static\n"));
    done(&fake, &format!("route del 100 {protected}"));
    done(
        &fake,
        "route add 101 nexthop as 200 via inet 192.0.2.1 nexthop as 200 via inet 192.0.2.1 dev eth1",
    );
    let shown = done(&fake, "route show");
    assert_eq!(
        shown,
        "101 proto static\n\tnexthop as to 200 via inet 192.0.2.1 weight 1\n\
         \tnexthop as to 200 via inet 192.0.2.1 dev eth1 weight 1\n"
    );
    done(&fake, &format!("-o route replace {}", shown.replace('\n', " ")));

    done(
        &fake,
        "route add 102 nexthop as 200 via inet 192.0.2.1 nexthop as 201 via inet 192.0.2.2",
    );
    let twice = "nexthop as 200 via inet 192.0.2.1";
    let (code, _, reason) = run(&fake, &format!("route del 102 {twice} {twice} dev eth1"));
    assert_eq!(code, 1);
    assert!(reason.contains("the route of 102 is different"), "{reason}");
    done(
        &fake,
        "route del 102 nexthop as 201 via inet 192.0.2.2 dev eth1 nexthop as 200 via inet 192.0.2.1",
    );
}

#[test]
fn several_next_hops_and_backups_are_shown_as_ip_does() {
    let fake = Fake::start();
    done(
        &fake,
        "route add 100 nexthop via inet 192.0.2.1 as 200 weight 3 nexthop as 300/301 via inet 192.0.2.9",
    );
    done(
        &fake,
        "route add 101 as 111 via inet 192.0.2.1 backup via inet 192.0.2.2 dev eth2",
    );
    let group = "100 proto static\n\
                 \tnexthop as to 200 via inet 192.0.2.1 dev eth1 weight 3\n\
                 \tnexthop as to 300/301 via inet 192.0.2.9 dev eth1 weight 1 unresolved failed\n";
    let protected = "101 as to 111 via inet 192.0.2.1 dev eth1 backup via inet 192.0.2.2 dev eth2 proto static\n";
    assert_eq!(done(&fake, "route show"), format!("{group}{protected}"));
    assert_eq!(
        done(&fake, "-o route show 100"),
        group.trim_end().replace('\n', " \\") + "\n"
    );
    // A route shown on one line can be used as input.
    let shown = done(&fake, "-o route show 100");
    done(&fake, &format!("route replace {}", shown.trim_end()));
    assert_eq!(done(&fake, "route show 100"), group);
    assert_eq!(
        done(&fake, "route get 100"),
        "100 proto static packets 5 bytes 500\n\
         \tnexthop as to 200 via inet 192.0.2.1 dev eth1 weight 3\n    \
         dev eth1 lladdr 02:00:00:00:00:02 resolved routes 1 buckets 128 (0-63, 128-191)\n\
         \tnexthop as to 300/301 via inet 192.0.2.9 dev eth1 weight 1 unresolved failed\n    \
         dev eth1 failed routes 1 buckets 128 (64-127, 192-255)\n"
    );
    assert_eq!(
        done(&fake, "route get 101"),
        "101 as to 111 via inet 192.0.2.1 dev eth1 backup via inet 192.0.2.2 dev eth2 proto static packets 5 bytes 500\n    \
         dev eth1 lladdr 02:00:00:00:00:02 resolved backup 192.0.2.2 dev eth1 lladdr 02:00:00:00:00:02 resolved routes 1\n"
    );
    assert_eq!(
        json_of(&fake, "-j route get 100"),
        json!([{
            "dst": "100",
            "protocol": "static",
            "owner": "static",
            "nexthops": [
                {
                    "to": "200",
                    "via": { "family": "inet", "host": "192.0.2.1" },
                    "dev": "eth1",
                    "weight": 3,
                    "flags": [],
                    "lladdr": "02:00:00:00:00:02",
                    "state": "resolved",
                    "buckets": 128,
                    "bucket_ranges": [{ "first": 0, "last": 63 }, { "first": 128, "last": 191 }],
                },
                {
                    "to": "300/301",
                    "via": { "family": "inet", "host": "192.0.2.9" },
                    "dev": "eth1",
                    "weight": 1,
                    "flags": ["unresolved"],
                    "state": "failed",
                    "buckets": 128,
                    "bucket_ranges": [{ "first": 64, "last": 127 }, { "first": 192, "last": 255 }],
                },
            ],
            "stats": { "packets": 5, "bytes": 500 },
        }])
    );
    assert_eq!(
        json_of(&fake, "-j route show 101")[0]["backup"],
        json!({
            "via": { "family": "inet", "host": "192.0.2.2" },
            "dev": "eth2",
            "lladdr": "02:00:00:00:00:02",
            "state": "resolved",
        })
    );
    // One with labels of its own, for a next hop that does not resolve.
    done(
        &fake,
        "route add 102 as 112 via inet 192.0.2.9 backup as 300/100 via inet 192.0.2.2 dev eth2",
    );
    let rerouted =
        "102 as to 112 via inet 192.0.2.9 dev eth1 backup as to 300/100 via inet 192.0.2.2 dev eth2 proto static";
    assert_eq!(
        done(&fake, "route get 102"),
        format!(
            "{rerouted} unresolved failed packets 5 bytes 500\n    \
             dev eth1 failed backup 192.0.2.2 dev eth1 lladdr 02:00:00:00:00:02 resolved in-use routes 1\n"
        )
    );
    assert_eq!(
        json_of(&fake, "-j route show 102")[0]["backup"],
        json!({
            "to": "300/100",
            "via": { "family": "inet", "host": "192.0.2.2" },
            "dev": "eth2",
            "lladdr": "02:00:00:00:00:02",
            "state": "resolved",
            "in_use": true,
        })
    );
    // What is said of its labels has to be right.
    let described = |labels: &str| format!("route del 102 as 112 via inet 192.0.2.9 backup {labels}via inet 192.0.2.2");
    assert_eq!(run(&fake, &described("as 300/101 ")).0, 1);
    done(&fake, &described("as 300/100 "));
    // Printed routes can be used as input; a whole route is deleted only if it matches.
    let shown = done(&fake, "route show");
    let saved = done(&fake, "route save");
    assert_eq!(saved.lines().count(), 3, "{saved}");
    let (code, _, err) = run(
        &fake,
        "route del 100 nexthop via inet 192.0.2.1 as 200 nexthop via inet 192.0.2.9",
    );
    assert_eq!(code, 1, "{err}");
    done(
        &fake,
        &format!("route del {}", group.replace("weight 3", "weight 3 linkdown")),
    );
    assert_eq!(done(&fake, "route show"), protected);
    done(&fake, "route flush all");
    assert_eq!(
        run_with(&fake, "route restore", &saved),
        (0, String::new(), String::new())
    );
    assert_eq!(done(&fake, "route show"), shown);
    assert_eq!(
        run_with(&fake, "route restore", &shown),
        (0, String::new(), String::new())
    );
    assert_eq!(done(&fake, "route show"), shown);
    let mistaken = shown.replace("weight 3", "weight 300");
    let (code, _, err) = run_with(&fake, "route restore", &mistaken);
    assert_eq!(code, 1);
    assert!(err.starts_with("mplsxdp: line 1, column "), "{err}");
    assert!(err.contains("`300` is not a weight: it is 1 to 256"), "{err}");
    let (_, _, err) = run_with(&fake, "route restore", "\tnexthop via inet 192.0.2.1\n");
    assert!(err.contains("`nexthop` is not a label"), "{err}");
}

/// The attributes of a route are kept: shown, saved, restored, and usable as selectors.
#[test]
fn protocols_and_metrics_are_kept() {
    let fake = Fake::start();
    for line in [
        "route add 100 as 110 via inet 192.0.2.1 proto bgp",
        "route add 101 as 111 via inet 192.0.2.2 dev eth1 proto 250",
        "route add 102 dev lo",
        "route add 10.1/16 nhid 25 encap mpls 17 via 192.0.2.1 dev eth1 proto ospf metric 20",
        "route add 10.1.2/24 encap mpls 18 via 192.0.2.2 proto bgp",
        "-6 route add default encap mpls 19 via 2001:db8::1 proto bgp metric 1024 pref medium",
        "route add 10.2/16 proto bgp metric 5 nexthop encap mpls 20 via 192.0.2.1 nexthop encap mpls 21 via 192.0.2.2",
    ] {
        assert_eq!(done(&fake, line), "", "{line}");
    }
    let shown = "100 as to 110 via inet 192.0.2.1 dev eth1 proto bgp\n\
                 101 as to 111 via inet 192.0.2.2 dev eth1 proto 250\n\
                 102 dev lo proto static\n\
                 10.1.0.0/16 encap mpls 17 via inet 192.0.2.1 dev eth1 proto ospf metric 20\n\
                 10.1.2.0/24 encap mpls 18 via inet 192.0.2.2 dev eth1 proto bgp\n\
                 10.2.0.0/16 proto bgp metric 5\n\
                 \tnexthop encap mpls 20 via inet 192.0.2.1 dev eth1 weight 1\n\
                 \tnexthop encap mpls 21 via inet 192.0.2.2 dev eth1 weight 1\n\
                 default encap mpls 19 via inet6 2001:db8::1 dev eth1 proto bgp metric 1024\n";
    assert_eq!(done(&fake, "route show"), shown);
    let json = json_of(&fake, "-j route");
    assert_eq!((&json[0]["protocol"], json[0].get("metric")), (&json!("bgp"), None));
    assert_eq!((&json[3]["protocol"], &json[3]["metric"]), (&json!("ospf"), &json!(20)));
    assert_eq!((&json[5]["protocol"], &json[5]["metric"]), (&json!("bgp"), &json!(5)));
    for (selector, destinations) in [
        ("proto bgp", &["100", "10.1.2.0/24", "10.2.0.0/16", "default"][..]),
        ("-4 proto bgp", &["10.1.2.0/24", "10.2.0.0/16"]),
        ("proto bgp via 192.0.2.2", &["10.1.2.0/24", "10.2.0.0/16"]),
        ("root 10.1/16", &["10.1.0.0/16", "10.1.2.0/24"]),
        ("match 10.1.2.3", &["10.1.0.0/16", "10.1.2.0/24"]),
        ("match 10.1.2.3 proto ospf", &["10.1.0.0/16"]),
        ("dev lo", &["102"]),
        ("-M all", &["100", "101", "102"]),
        ("100 proto static", &[]),
        ("-6 default", &["default"]),
        ("default", &[]),
    ] {
        let (options, selector) = match selector.split_once(' ') {
            Some((option, selector)) if option.starts_with('-') => (option, selector),
            _ => ("", selector),
        };
        let routes = json_of(&fake, &format!("-j {options} route show {selector}"));
        let found: Vec<_> = routes
            .as_array()
            .unwrap()
            .iter()
            .map(|route| route["dst"].clone())
            .collect();
        assert_eq!(json!(found), json!(destinations), "{options} {selector}");
    }
    let saved = done(&fake, "route save");
    assert_eq!(done(&fake, "-s route flush dev lo"), "0 added, 0 replaced, 1 deleted\n");
    assert_eq!(
        done(&fake, "-s route flush proto bgp root 10/8"),
        "0 added, 0 replaced, 2 deleted\n"
    );
    assert_eq!(done(&fake, "-s -4 route flush all"), "0 added, 0 replaced, 1 deleted\n");
    assert_eq!(done(&fake, "-s route flush 77"), "0 added, 0 replaced, 0 deleted\n");
    done(&fake, "route replace 100 as 110 via inet 192.0.2.1 proto static");
    assert_eq!(
        run_with(&fake, "-s route restore", &saved),
        (0, "4 added, 1 replaced, 0 deleted\n".into(), String::new())
    );
    assert_eq!(done(&fake, "route show"), shown);
    done(&fake, "route del 10.1/16 proto ospf metric 20");
    done(&fake, "route del 100 proto bgp");
}

#[test]
fn tables() {
    let fake = Fake::start();
    done(&fake, "route add 100 as 110 via inet 192.0.2.1");
    done(&fake, "route add 101 via link 02:00:00:00:00:02 dev eth1");
    assert_eq!(
        done(&fake, "link"),
        "2: eth1: UP mpls on mtu 1500 mode native\n    link/ether 02:00:00:00:00:01 bpf_link 3 prog 4 redirect-target yes checksum finish\n\
         \x20   faster: `ip netns exec left ethtool -K eth0 tx off`, then `link del eth1` and `link add eth1 checksum trust`\n\
         5: eth2: UP parent-only mtu 1500 mode native\n    link/ether 02:00:00:00:00:01 bpf_link 3 prog 4 put-back 2 redirect-target yes checksum finish\n\
         \x20   faster: `ethtool -K PEER tx off` on what sends to eth2, then `link del eth2` and `link add eth2 checksum trust`\n\
         eth2.100.10@eth2: UP mpls on mtu 1500 mode native\n    link/ether 02:00:00:00:00:01 vlan 802.1ad 100 vlan 802.1Q 10 \
         bpf_link 3 prog 4 redirect-target yes checksum finish\n\
         4: mpls0-port: UP mpls off local mtu 1468 mode native\n    link/ether 02:00:00:00:00:03 bpf_link 3 prog 4 checksum finish\n"
    );
    assert_eq!(done(&fake, "-o link show dev eth1").lines().count(), 1);
    assert_eq!(
        done(&fake, "-br link"),
        "eth1         UP  02:00:00:00:00:01  native  mpls on\n\
         eth2         UP  02:00:00:00:00:01  native  parent-only\n\
         eth2.100.10  UP  02:00:00:00:00:01  native  mpls on\n\
         mpls0-port   UP  02:00:00:00:00:03  native  mpls off local\n"
    );
    assert_eq!(
        done(&fake, "neigh show dev eth1"),
        "192.0.2.1 dev eth1 lladdr 02:00:00:00:00:02 resolved routes 1\n\
         link 02:00:00:00:00:02 dev eth1 lladdr 02:00:00:00:00:02 resolved routes 1\n"
    );
    assert_eq!(done(&fake, "neigh show dev eth2"), "");
    assert_eq!(
        done(&fake, "stats --all"),
        "PORT  REASON       PACKETS   BYTES  POLICED  UNHEARD  MEANING\n\
         eth1  no-route        1234  123400      123       12  About no-route.\n\
         eth1  ttl-expired        0       0        0        0  About ttl-expired.\n\
         forwarded packets 10 bytes 1000\n\
         SLOW PATH      PACKETS  MEANING\n\
         unknown-label     1099  unknown-label, in a sentence.\n\
         time-exceeded        0  time-exceeded, in a sentence.\n"
    );
    assert!(!done(&fake, "stats").contains("time-exceeded"));
    assert_eq!(
        done(&fake, "stats --unknown"),
        "PORT  LABEL  PACKETS  RATE(pps)    LAST\n\
         eth1    999     1200      100.0    0.2s\n\
         eth1     16       34        0.0  12m34s\n"
    );
    assert_eq!(
        done(&fake, "status"),
        "instance default pid 4711 up 1:02:05 version 0.1.0 abi 1\n    \
         mode native ttl-propagate linux tunnel-ttl 255 ip-ttl-propagate 0 default-ttl 64\n    \
         unknown punt icmp-via auto local mpls0\n    \
         links 2 label routes 2 prefix routes 0\n    \
         next hops 1 unresolved 0\n    \
         ports eth1 mpls0-port\n    \
         prefer static=1 kernel=5 fpm=10\n    \
         frr stale: no answer for 1m35s; its backups stay: `sync show`\n    \
         netns r1 config /etc/mplsxdp/default.toml\n    \
         state /var/lib/mplsxdp/default snapshot 2 KiB journal 1 KiB\n    \
         not saved since 2026-11-29T12:31:00Z: cannot write the journal: no space\n\
         TABLE  USED  CAPACITY    MEMORY\n\
         ILM       2   1048576  8192 KiB\n"
    );
}

#[test]
fn counters_of_ports() {
    let fake = Fake::start();
    assert_eq!(
        done(&fake, "-s link show eth1").lines().collect::<Vec<_>>(),
        [
            "2: eth1: UP mpls on mtu 1500 mode native",
            "    link/ether 02:00:00:00:00:01 bpf_link 3 prog 4 redirect-target yes checksum finish",
            "    faster: `ip netns exec left ethtool -K eth0 tx off`, then `link del eth1` and `link add eth1 checksum trust`",
            "    RX:      bytes  packets  errors  dropped  missed  mcast",
            "         123456789     1234       1        2       3      4",
            "    TX:  bytes  packets  errors  dropped  carrier  collsns",
            "          5678       56       5        6        7        8",
            "    MPLS:               bytes  packets  policed  unheard",
            "    no-route           123400     1234      123       12",
            "    ttl-expired             0        0        0        0",
            "    checksum-finished    7000       70        7        0",
            "    not forwarded      123400     1234      123       12",
        ]
    );
    // The kernel has no interface for it.
    assert_eq!(
        done(&fake, "-s link show eth2.100.10")
            .lines()
            .skip(2)
            .collect::<Vec<_>>(),
        [
            "    MPLS:          bytes  packets  policed  unheard",
            "    not forwarded      0        0        0        0",
        ]
    );
    assert_eq!(done(&fake, "-s -o link show eth1").lines().count(), 1);
    assert_eq!(
        done(&fake, "-s -br link").lines().collect::<Vec<_>>()[..3],
        [
            "eth1         UP  02:00:00:00:00:01  native  mpls on         rx 1234 tx 56 not-forwarded 1234",
            "eth2         UP  02:00:00:00:00:01  native  parent-only     rx 1234 tx 56 not-forwarded 1234",
            "eth2.100.10  UP  02:00:00:00:00:01  native  mpls on         not-forwarded 0",
        ]
    );
    let links = json_of(&fake, "-j -s link");
    assert_eq!(
        (&links[0]["ifname"], &links[0]["address"]),
        (&json!("eth1"), &json!("02:00:00:00:00:01"))
    );
    assert_eq!(
        links[0]["stats64"],
        json!({
            "rx": {
                "bytes": 123456789, "packets": 1234, "errors": 1, "dropped": 2, "over_errors": 9, "missed_errors": 3,
                "multicast": 4
            },
            "tx": { "bytes": 5678, "packets": 56, "errors": 5, "dropped": 6, "carrier_errors": 7, "collisions": 8 },
        })
    );
    assert_eq!(links[0]["reasons"][0]["reason"], "no-route");
    assert_eq!((&links[2]["stats64"], &links[2]["reasons"]), (&json!(null), &json!([])));
    let plain = json_of(&fake, "-j link");
    assert_eq!(
        (&plain[0]["stats64"], &plain[0]["reasons"]),
        (&json!(null), &json!(null))
    );
}

#[test]
fn next_hops_as_ip_shows_neighbours() {
    let fake = Fake::start();
    done(&fake, "route add 100 as 110 via inet 192.0.2.1");
    done(&fake, "route add 101 via inet 198.51.100.9");
    done(&fake, "route add 102 via link 02:00:00:00:00:02 dev eth1");
    assert_eq!(
        done(&fake, "-s neigh"),
        "192.0.2.1 dev eth1 lladdr 02:00:00:00:00:02 resolved routes 1 ref 1 used 12/3/45 probes 6 REACHABLE\n\
         198.51.100.9 dev eth1 failed routes 1 ref 1 used 12/3/45 probes 6 FAILED\n\
         link 02:00:00:00:00:02 dev eth1 lladdr 02:00:00:00:00:02 resolved routes 1\n"
    );
    assert_eq!(
        done(&fake, "-br neigh"),
        "192.0.2.1                               eth1             02:00:00:00:00:02 resolved\n\
         198.51.100.9                            eth1             -                 failed\n\
         02:00:00:00:00:02                       eth1             02:00:00:00:00:02 resolved\n"
    );
    for (line, address) in [
        ("neigh show 192.0.2.1", "192.0.2.1"),
        ("neigh show dev eth1 to 198.51.100.9", "198.51.100.9"),
        ("neigh list 02:00:00:00:00:02 dev eth1", "link"),
    ] {
        let shown = done(&fake, line);
        assert_eq!(shown.lines().count(), 1, "{line}: {shown}");
        assert!(shown.starts_with(&format!("{address} ")), "{line}: {shown}");
    }
    for line in [
        "neigh flush",
        "neigh show eth1",
        "neigh show dev",
        "neigh show dev eth1 dev eth1",
        "neigh add 192.0.2.1",
    ] {
        let (code, out, err) = run(&fake, line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}");
        assert!(err.contains("neigh show [ADDRESS] [dev IFACE]"), "{line}: {err}");
    }
    assert!(
        done(&fake, "-br -s neigh")
            .lines()
            .next()
            .is_some_and(|line| line.ends_with(" resolved ref 1 used 12/3/45 probes 6 REACHABLE"))
    );
    let neighbors = json_of(&fake, "-j -s neigh");
    assert_eq!(
        neighbors[0],
        json!({
            "dst": "192.0.2.1", "dev": "eth1", "lladdr": "02:00:00:00:00:02", "refcnt": 1, "used": 12, "confirmed": 3,
            "updated": 45, "probes": 6, "nud": ["REACHABLE"], "state": "resolved", "routes": 1,
            "redirect_lost": false, "own_backups": false, "via": { "family": "inet", "host": "192.0.2.1" },
        })
    );
    assert_eq!(
        (&neighbors[1]["lladdr"], &neighbors[2]["refcnt"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(json_of(&fake, "-j neigh")[0]["refcnt"], json!(null));
}

/// One line for each next hop, with the same columns in all.
#[test]
fn brief_routes() {
    let fake = Fake::start();
    for route in [
        "100 as 110 via inet 192.0.2.1",
        "101 as implicit-null via inet 192.0.2.9",
        "102 via link 02:00:00:00:00:02 dev eth1",
        "103 dev lo",
        "104 nexthop as 1000 via inet 192.0.2.1 weight 2 nexthop via inet 192.0.2.2",
        "10.0.0.0/8 encap mpls 200/300 via inet6 2001:db8::1 proto bgp metric 5",
    ] {
        done(&fake, &format!("route add {route}"));
    }
    let words = |line: &str| -> Vec<Vec<String>> {
        let shown = done(&fake, line);
        let columns = shown
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect());
        columns.collect()
    };
    let brief = [
        "100 110 192.0.2.1 eth1 resolved",
        "101 implicit-null 192.0.2.9 eth1 failed",
        "102 pop 02:00:00:00:00:02 eth1 resolved",
        "103 pop - lo -",
        "104 1000 192.0.2.1 eth1 resolved",
        "104 pop 192.0.2.2 eth1 resolved",
        "10.0.0.0/8 200/300 2001:db8::1 eth1 resolved",
    ];
    let shown = words("-br route");
    assert_eq!(shown.iter().map(|words| words.join(" ")).collect::<Vec<_>>(), brief);
    assert!(shown.iter().all(|words| words.len() == 5));
    assert_eq!(words("-o -br route show 104"), shown[4..6]);
    let counted = words("-s -br route show 104");
    assert_eq!(counted[0][5..], ["packets", "5", "bytes", "500"]);
    assert_eq!(counted[1], shown[5]);
    assert_eq!(json_of(&fake, "-br -j route"), json_of(&fake, "-j route"));
    assert_eq!(
        done(&fake, "-br route show 100"),
        "100                  110             192.0.2.1                 eth1             resolved\n"
    );
}

/// On standard output, and also from a batch, which continues after it.
#[test]
fn help_is_shown_without_an_instance() {
    let fake = Fake::start();
    for command in [
        "",
        "load",
        "route",
        "link",
        "neigh",
        "stats",
        "status",
        "config",
        "instances",
        "unload",
    ] {
        let (code, help, err) = run(&fake, &format!("--instance gone {command} --help"));
        assert_eq!((code, err.as_str()), (0, ""), "{command}");
        assert_eq!(
            done(&fake, &format!("--instance gone {command} help")),
            help,
            "{command}"
        );
    }
    let verbs = done(&fake, "route add help");
    assert!(verbs.contains("route get {LABEL|PREFIX|ADDRESS}"), "{verbs}");
    let batch = done(&fake, "-c=auto -d neigh help") + "eth1  UP  02:00:00:00:00:01  native  mpls on\n";
    let (code, out, err) = run_with(&fake, "-b -", "neigh show help\n-ts -c -br link show eth1\n");
    assert_eq!((code, out, err.as_str()), (0, batch, ""));
}

#[test]
fn the_configuration_is_shown_as_a_file_that_can_be_read() {
    let fake = Fake::start();
    let without_routes = "hold = 7\niface = [\"eth1\"]\nnetns = 'a \"name\"'\n";
    assert_eq!(done(&fake, "config show"), without_routes);
    assert_eq!(done(&fake, "config"), without_routes);
    done(&fake, "route add 100 as 110 via inet 192.0.2.1");
    done(&fake, "route add 10.0.0.0/8 encap mpls 100 via inet 192.0.2.9");
    let shown = done(&fake, "config show");
    let routes = "routes = [\n    \"100 as to 110 via inet 192.0.2.1\",\n    \"10.0.0.0/8 encap mpls 100 via inet 192.0.2.9\",\n]\n";
    assert_eq!(shown, format!("{without_routes}{routes}"));
    let given = mplsxdp::config::file::parse("shown", &shown).unwrap();
    let config = given.check().unwrap();
    assert_eq!(
        (config.hold.get(), config.netns.as_deref(), config.routes.len()),
        (7, Some("a \"name\""), 2)
    );
    assert_eq!(
        json_of(&fake, "-j config show"),
        json!({
            "hold": 7,
            "iface": ["eth1"],
            "netns": "a \"name\"",
            "routes": ["100 as to 110 via inet 192.0.2.1", "10.0.0.0/8 encap mpls 100 via inet 192.0.2.9"],
        })
    );
    let (code, _, err) = run(&fake, "config set hold 8");
    assert_eq!(
        (code, err.as_str()),
        (2, "mplsxdp: `config set hold 8` is not a command; `config show` is\n")
    );
}

#[test]
fn all_instances_are_listed() {
    let fake = Fake::start();
    assert_eq!(
        done(&fake, "instances"),
        "INSTANCE  NETNS   PID  SINCE                 PORTS            CONFIG\n\
         default   r1     4711  2026-11-29T12:30:00Z  eth1,mpls0-port  /etc/mplsxdp/default.toml\n"
    );
    assert_eq!(
        json_of(&fake, "-j instances"),
        json!([{
            "name": "default",
            "netns": "r1",
            "pid": 4711,
            "ports": ["eth1", "mpls0-port"],
            "since": "2026-11-29T12:30:00Z",
            "config_file": "/etc/mplsxdp/default.toml",
            "version": "0.1.0",
        }])
    );
    // One that has ended is not listed, whatever it left behind.
    let left = Instance::in_dir(fake.instance.dir(), "left").unwrap();
    std::fs::write(left.socket(), "").unwrap();
    assert_eq!(done(&fake, "instances").lines().count(), 2);
}

/// It accepts the connection and ends before it answers.
#[test]
fn an_instance_that_ends_while_it_is_asked_is_not_listed() {
    let fake = Fake::start();
    let ending = Instance::in_dir(fake.instance.dir(), "ending").unwrap();
    let listener = std::os::unix::net::UnixListener::bind(ending.socket()).unwrap();
    // With the call unread, closing resets the connection; once it is read, closing ends it. It may also say so.
    let farewell = b"{\"error\":\"io.mplsxdp.ShuttingDown\",\"parameters\":{}}\0";
    for (reads, answer) in [(false, &b""[..]), (true, b""), (true, farewell)] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut byte = [0];
                match reads {
                    true => while stream.read(&mut byte).unwrap() == 1 && byte != [0] {},
                    // It is there, and stays unread.
                    false => _ = nix::sys::socket::recv(stream.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK).unwrap(),
                }
                stream.write_all(answer).unwrap();
            });
            let listed = done(&fake, "instances");
            assert!(listed.contains("\ndefault ") && !listed.contains("ending"), "{listed}");
        });
    }
}

/// An instance of version 0.0.9, which answers every call of its interface with `reply`.
fn old_instance(dir: &std::path::Path, reply: &'static str) -> Instance {
    let instance = Instance::in_dir(dir, "old").unwrap();
    let listener = std::os::unix::net::UnixListener::bind(instance.socket()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut calls = std::io::BufReader::new(stream.try_clone().unwrap()).split(0);
                while let Some(Ok(call)) = calls.next() {
                    let reply = match String::from_utf8(call).unwrap().contains("org.varlink.service.GetInfo") {
                        true => {
                            r#"{"parameters":{"vendor":"mplsxdp","product":"mplsxdp","version":"0.0.9","url":"","interfaces":[]}}"#
                        }
                        false => reply,
                    };
                    stream.write_all(reply.as_bytes()).unwrap();
                    stream.write_all(&[0]).unwrap();
                }
            });
        }
    });
    instance
}

#[test]
fn an_instance_of_another_version_is_named_as_such() {
    let fake = Fake::start();
    let advice = "use the command of that version, or end the instance with `mplsxdp --instance old unload` and load it again \
                  with this one\n";
    let _old = old_instance(fake.instance.dir(), r#"{"parameters":{"links":[{"name":"eth1"}]}}"#);
    let (code, out, err) = run(&fake, "--instance old link");
    assert_eq!((code, out.as_str()), (1, ""));
    let begin =
        "mplsxdp: instance `old` is of mplsxdp 0.0.9, and this command of 0.1.0: its answer has a missing field `";
    assert!(err.starts_with(begin) && err.ends_with(advice), "{err}");

    let fake = Fake::start();
    let _old = old_instance(
        fake.instance.dir(),
        r#"{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"io.mplsxdp.GetConfig"}}"#,
    );
    let (code, out, err) = run(&fake, "--instance old config show");
    assert_eq!((code, out.as_str()), (1, ""));
    let begin = "mplsxdp: instance `old` is of mplsxdp 0.0.9, and this command of 0.1.0: there is no method io.mplsxdp.GetConfig; ";
    assert!(err.starts_with(begin) && err.ends_with(advice), "{err}");
}

/// `status` of an instance that does not know later fields.
#[test]
fn fields_that_an_older_instance_does_not_have_are_left_out() {
    let fake = Fake::start();
    let mut status = json_of(&fake, "-j status");
    for field in [
        "since",
        "netns",
        "config_file",
        "ports",
        "preferences",
        "ip_ttl_propagate",
        "default_ttl",
    ] {
        assert!(status.as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    let status: mplsxdp::control::api::Status = serde_json::from_value(status).unwrap();
    assert_eq!((status.pid, status.ports, status.since), (4711, None, None));
}

#[test]
fn links_are_changed() {
    let fake = Fake::start();
    for line in [
        "link add eth2",
        "link add dev eth3 tx-only",
        "link add eth5 checksum trust tx-only",
        "link set dev eth1 mpls off",
        "link set eth1 mpls on",
        "link set eth1 accept-labels 300,100-199",
        "link set eth1 mpls on accept-labels all",
        "link set eth1 mpls-mtu 1508",
        "link set eth1 mpls-mtu default mpls on",
        "link add eth6 mpls-mtu 1504 tx-only",
        "link set eth1 dscp-map 46=5,34=4 tc-map 5=46",
        "link set eth1 tc-map default",
        "link del eth1",
    ] {
        assert_eq!(done(&fake, line), "");
    }
    let requests: Vec<_> = fake
        .kept
        .lock()
        .unwrap()
        .requests
        .iter()
        .map(|(request, _)| request.clone())
        .collect();
    let add = |name: &str, tx_only| Request::AddLink {
        name: name.into(),
        tx_only,
        accept: AcceptLabels::default(),
        mpls_mtu: MplsMtu((name == "eth6").then_some(1504)),
        dscp_map: DscpMap::default(),
        tc_map: TcMap::default(),
        checksum: (name == "eth5").then_some(Checksum::Trust),
    };
    let set = |mpls, accept: Option<&str>, mpls_mtu| Request::SetLink {
        name: "eth1".into(),
        change: PortChange {
            mpls,
            accept_labels: accept.map(|accept| accept.parse().unwrap()),
            mpls_mtu,
            ..PortChange::default()
        },
    };
    let map = |dscp_map: Option<&str>, tc_map: &str| Request::SetLink {
        name: "eth1".into(),
        change: PortChange {
            dscp_map: dscp_map.map(|map| map.parse().unwrap()),
            tc_map: tc_map.parse().ok(),
            ..PortChange::default()
        },
    };
    assert_eq!(
        requests,
        [
            add("eth2", false),
            add("eth3", true),
            add("eth5", true),
            set(Some(false), None, None),
            set(Some(true), None, None),
            set(None, Some("100-199,300"), None),
            set(Some(true), Some("all"), None),
            set(None, None, Some(MplsMtu(Some(1508)))),
            set(Some(true), None, Some(MplsMtu(None))),
            add("eth6", true),
            map(Some("34=4,46=5"), "5=46"),
            map(None, "default"),
            Request::DeleteLink { name: "eth1".into() }
        ]
    );
}

#[test]
fn what_was_saved_is_restored() {
    let fake = Fake::start();
    done(&fake, "route add 100 as 110 via inet 192.0.2.1");
    done(&fake, "route add 101 as implicit-null via inet6 fe80::1 dev eth1");
    done(
        &fake,
        "route add 10.0.0.0/8 encap mpls 100/200 ttl 7 via inet 192.0.2.9",
    );
    let before = fake.routes();
    let saved = done(&fake, "route save");
    assert_eq!(
        saved,
        format!(
            "# Routes of mplsxdp, for `mplsxdp route restore`.\n{}\n",
            before.join("\n")
        )
    );
    done(&fake, "route replace 100 as 111 via inet 192.0.2.1");
    done(&fake, "route add 102 dev lo");
    done(&fake, "route del 101");
    let (code, out, err) = run_with(&fake, "-s route restore", &saved);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "1 added, 1 replaced, 1 deleted\n", "")
    );
    assert_eq!(fake.routes(), before);
}

#[test]
fn a_restore_with_a_mistake_changes_nothing_and_names_the_line() {
    let fake = Fake::start();
    done(&fake, "route add 50 dev lo");
    let (code, _, err) = run_with(
        &fake,
        "route restore",
        "# a comment\n\n100 as 110 via inet 192.0.2.1\n  101 as to nowhere via inet 192.0.2.1\n",
    );
    assert_eq!(
        (code, err.as_str()),
        (
            1,
            "mplsxdp: line 4, column 13: `nowhere` is not a label: labels are 0 to 1048575\n    \
             101 as to nowhere via inet 192.0.2.1\n              ^^^^^^^\n"
        )
    );
    let (code, _, err) = run_with(
        &fake,
        "route restore",
        "\n100 as 110 via inet 192.0.2.1\n# the controller refuses this one:\n101 via inet 192.0.2.1 dev nowhere\n",
    );
    assert_eq!((code, err.as_str()), (1, "mplsxdp: line 4: nowhere is not a port\n"));
    assert_eq!(fake.routes(), ["50 dev lo"]);
}

/// A file cut short by a full disk, or never written, must not delete existing routes.
#[test]
fn a_restore_of_nothing_or_of_half_a_file_is_refused() {
    let fake = Fake::start();
    done(&fake, "route add 50 dev lo");
    let empty = "mplsxdp: the input has no route, and a restore of it would delete all routes: if that is meant \
                 (`route save` of an instance without routes writes such a file), say `route restore --allow-empty`\n";
    for input in [
        "",
        "\n",
        " \n\n\t",
        "# Routes of mplsxdp, for `mplsxdp route restore`.\n",
        "# half",
    ] {
        assert_eq!(
            run_with(&fake, "route restore", input),
            (1, String::new(), empty.into()),
            "{input:?}"
        );
    }
    for (input, line) in [
        ("50 dev lo", 1),
        ("60 dev lo\n50 dev lo", 2),
        ("60 dev lo\n50 as 11", 2),
        ("60 dev lo\n61 dev l", 2),
        ("60 dev lo\n# half a comment", 2),
        ("100 proto bgp\n\tnexthop via 192.0.2.1\n\tnexthop via 192.0.2.2", 3),
    ] {
        for options in ["", " --allow-empty"] {
            assert_eq!(
                run_with(&fake, &format!("route restore{options}"), input),
                (
                    1,
                    String::new(),
                    format!(
                        "mplsxdp: line {line}: the input ends within this line, which has no newline, so it may be cut off: if it \
                         is whole, end it with a newline (`echo >> FILE`)\n"
                    )
                ),
                "{input:?}"
            );
        }
    }
    assert_eq!(fake.routes(), ["50 dev lo"]);
    let (code, _, err) = run(&fake, "route flush all --allow-empty");
    assert!(
        code == 2 && err.starts_with("mplsxdp: `--allow-empty` is for `route restore`: "),
        "{err}"
    );
    // A blank at the end does not make an incomplete line.
    let (code, out, err) = run_with(&fake, "-s route restore", "60 dev lo\n  ");
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "1 added, 0 replaced, 1 deleted\n", "")
    );
    let (code, out, err) = run_with(&fake, "-s route restore --allow-empty", "# none\n");
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "0 added, 0 replaced, 1 deleted\n", "")
    );
    assert!(fake.routes().is_empty());
}

#[test]
fn a_restore_names_routes_that_wait_for_a_next_hop() {
    let fake = Fake::start();
    let waiting = |count| {
        let line = |label| format!("{label} as 17 via inet 192.0.2.1 dev later\n");
        (100..100 + count).map(line).collect::<String>() + "50 dev lo\n"
    };
    assert_eq!(
        run_with(&fake, "-s route restore", &waiting(1)),
        (
            0,
            "2 added, 0 replaced, 0 deleted\n".into(),
            "mplsxdp: 100 waits: later is down: `ip link set later up`\n\
             mplsxdp: 1 route waits for a next hop that cannot be reached now; `route show` marks what is `unresolved` or \
             `linkdown`\n"
                .into()
        )
    );
    let (code, out, err) = run_with(&fake, "-j route restore", &waiting(12_000));
    assert_eq!((code, err.lines().count()), (0, 11), "{err}");
    assert!(
        err.contains("\nmplsxdp: 109 waits: ") && err.contains("\nmplsxdp: 12000 routes wait for a next hop "),
        "{err}"
    );
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (
            &report["added"],
            &report["unreachable_total"],
            &report["unreachable"][99]["dst"]
        ),
        (&json!(11_999), &json!(12_000), &json!("199"))
    );
    assert_eq!(report["unreachable"].as_array().unwrap().len(), 100);
}

#[test]
fn a_warning_is_printed_once_and_is_no_failure() {
    let fake = Fake::start();
    let warning = "mplsxdp: warning: proto 99 is odd\n";
    for line in ["add 100", "replace 100", "change 100"] {
        let (code, out, err) = run(&fake, &format!("route {line} dev lo proto 99"));
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", warning), "{line}");
    }
    let lines = "route add 200 dev lo proto 99\nroute add 201 dev lo proto 99\n";
    let (code, out, err) = run_with(&fake, "-b -", lines);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", warning));
    let (code, out, err) = run_with(&fake, "-j route restore", "300 dev lo proto 99\n301 dev lo proto 99\n");
    assert_eq!((code, err.as_str()), (0, warning));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["warnings"], json!(["proto 99 is odd"]));
    let (code, _, err) = run(&fake, "route add 100 dev lo");
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn many_routes_are_restored_and_listed() {
    let fake = Fake::start();
    let lines: String = (16..30_016)
        .map(|label| format!("{label} as {label} via inet 192.0.2.1 dev eth1\n"))
        .collect();
    let start = Instant::now();
    let (code, out, err) = run_with(&fake, "-s route restore", &lines);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "30000 added, 0 replaced, 0 deleted\n", "")
    );
    assert!(start.elapsed() < Duration::from_secs(60));
    let shown = done(&fake, "route");
    assert_eq!(shown.lines().count(), 30_000);
    // `restore` reads what `show` prints.
    let (code, out, err) = run_with(&fake, "-s route restore", &shown);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "0 added, 0 replaced, 0 deleted\n", "")
    );
    // If the reader goes away, the command ends quietly.
    let mut child = command(&fake, &["route"]).spawn().unwrap();
    let mut first = [0; 3];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (&first, output.status.code(), output.stderr.as_slice()),
        (b"16 ", Some(0), &[][..])
    );
}

#[test]
fn a_batch_stops_at_the_first_failure_unless_forced() {
    let fake = Fake::start();
    let batch = "# routes\n\
                 route add 100 as 110 via inet 192.0.2.1 # to r2\n\
                 route add 100 as 111 via inet 192.0.2.1\n\
                 \n\
                 -M route add 101 dev lo\n\
                 -br link show eth1\n\
                 fly\n";
    std::fs::write(fake.dir.path().join("batch"), batch).unwrap();
    let refused =
        "mplsxdp: batch:3: 100 already has a route: `100 as to 110 via inet 192.0.2.1`; `replace` replaces it\n";
    assert_eq!(run(&fake, "-b batch"), (1, String::new(), refused.into()));
    assert_eq!(fake.routes(), ["100 as to 110 via inet 192.0.2.1"]);
    done(&fake, "route flush all");
    let (code, out, err) = run(&fake, "-batch batch -force");
    assert_eq!(
        (code, out.as_str()),
        (1, "eth1  UP  02:00:00:00:00:01  native  mpls on\n")
    );
    assert!(
        err.starts_with(refused) && err.contains("mplsxdp: batch:7: error: unrecognized subcommand 'fly'"),
        "{err}"
    );
    assert_eq!(fake.routes(), ["100 as to 110 via inet 192.0.2.1", "101 dev lo"]);
    let (code, _, err) = run_with(&fake, "-b -", "route flush all\nroute restore\n");
    assert_eq!(code, 1);
    assert_eq!(
        err,
        "mplsxdp: stdin:2: `route restore` reads its standard input, and the batch comes from there\n"
    );
    assert!(fake.routes().is_empty());
}

/// As `ip route` prints several next hops, and as iproute2 joins the lines of a batch.
#[test]
fn a_command_of_a_batch_may_go_on_below() {
    let fake = Fake::start();
    let batch = "route add 10.100.0.4 nhid 26 proto ospf metric 20 rt_trap \n\
                 \tnexthop  encap mpls  18 via 10.0.1.2 dev eth1 weight 1 \n\
                 \tnexthop  encap mpls  19/20 via 10.0.2.2 dev eth1 weight 2 # the long way\n\
                 -M route add 100 as 110 \\\n  via inet 10.0.1.2\n\
                 route add 101 as 111 via inet 10.0.1.2 ttl-propogate disabled\n\
                 nexthop via 10.0.1.2\n";
    let (code, _, err) = run_with(&fake, "-b - -force", batch);
    assert_eq!(code, 1);
    assert!(
        err.starts_with("mplsxdp: stdin:7: error: unrecognized subcommand 'nexthop'"),
        "{err}"
    );
    assert_eq!(
        fake.routes(),
        [
            "100 as to 110 via inet 10.0.1.2",
            "101 as to 111 via inet 10.0.1.2 ttl-propagate disabled",
            "10.100.0.4/32 proto ospf metric 20 nexthop encap mpls 18 via inet 10.0.1.2 dev eth1 weight 1 \
             nexthop encap mpls 19/20 via inet 10.0.2.2 dev eth1 weight 2",
        ]
    );
}

#[test]
fn unload() {
    let fake = Fake::start();
    assert_eq!(done(&fake, "unload"), "");
    assert!(!fake.instance.socket().exists());
    assert_eq!(run(&fake, "unload").0, 1);
}

#[test]
fn a_frame_is_traced_in_words_in_hexadecimal_or_from_a_capture() {
    let fake = Fake::start();
    let said = done(&fake, "trace [100 64] ip to 10.4.4.2 --in eth1");
    assert_eq!(
        said,
        "a frame\n    1 label 100, TTL 64, TC 0, S 1: out label 110, TTL uniform (RFC 3031 section 3.13)\n\
         forwarded by eth1: another frame\n"
    );
    let traced = json_of(&fake, "-j trace [100 64] ip to 10.4.4.2 --in eth1");
    let frame = traced["arrived"]["frame"].as_str().unwrap();
    // To the port, from the usual source, label 100.
    assert!(frame.starts_with("0200000000010200000000018847000641404500"), "{frame}");
    let again = json_of(&fake, &format!("-j trace hex {frame} --in eth1"));
    assert_eq!(again, traced);
    let details = done(&fake, &format!("-d trace hex {frame} --in eth1"));
    assert_eq!(details.lines().nth(1).unwrap().trim(), frame);

    let mut file = vec![
        0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0,
    ];
    for number in 1..=2_u8 {
        file.extend([0, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 14, 0, 0, 0]);
        file.extend([number; 14]);
    }
    std::fs::write(fake.dir.path().join("dump.pcap"), file).unwrap();
    assert!(done(&fake, "trace pcap dump.pcap --in eth1").contains("frame 2\n"));
    let second = json_of(&fake, "-j trace pcap dump.pcap --packet 2 --in eth1");
    assert_eq!(second["arrived"]["frame"], json!("02".repeat(14)));

    for (line, code, part) in [
        (
            "trace ip to 10.4.4.2 --in eth9",
            1,
            "eth9 is not a port; the ports: eth1",
        ),
        ("trace ip to 10.4.4.2", 1, "Add `--in IFACE`, one of: eth1"),
        (
            "trace [100 ip --in eth1",
            2,
            "`ip` is not a TTL, a number from 0 to 255",
        ),
        ("trace hex 02 --in eth1", 1, "a frame has 14 to 65535 bytes, not 1"),
        ("trace hex zz --in eth1", 2, "not hexadecimal"),
        (
            "trace pcap dump.pcap --packet 3 --in eth1",
            1,
            "there is no frame 3: the file has 2",
        ),
        ("trace pcap nowhere --in eth1", 1, "cannot read nowhere"),
        (
            "trace ip to 10.4.4.2 --packet 3 --in eth1",
            2,
            "`--packet` goes with `pcap`",
        ),
    ] {
        let (found, _, err) = run(&fake, line);
        assert!(found == code && err.contains(part), "{line}: {found} {err}");
    }
}

//! Backups that FRR computes, for routes of a routing daemon; the test plays both ends of zebra.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{NextHopState, Resolution, SyncSource, SyncState};
use mplsxdp_common::wire::{ETH_P_IP, Mac};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp, with_ttl};
use mplsxdp_tests::vty::Vty;
use mplsxdp_tests::zebra::{Zebra, impose, ip, lsp, lsp_gone, swap};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use serde_json::{Value, json};

use crate::test;

const PORT: u16 = 2620;
const LABELS: &str = "show mpls table json";
const PREFIXES: &str = "show ip route isis json";
const WIRES: &str = "show mpls pseudowires detail json";
const BINDINGS: &str = "show l2vpn atom binding json";
/// Longer than two questions, and shorter than the pause between two without a hint.
const LIMIT: Duration = Duration::from_secs(20);
/// Not a group of this machine.
const GROUP: u32 = 54_321;

pub fn tests() -> Vec<Trial> {
    vec![
        test("frr::frames_take_the_backups_that_frr_has", filled),
        test("frr::pseudowires_carry_frames_while_frr_has_them", pseudowires),
        test("frr::backups_stay_when_zebra_is_gone", stale),
        test("frr::what_is_not_an_answer_changes_nothing", malformed),
        test("frr::a_large_answer_is_read", large),
        test("frr::a_socket_of_a_group_can_be_used", permission),
    ]
}

/// ```text
///                          e1 10.0.1.1 ---- 10.0.1.2 right1
///  left tap ---- eth0 router
///                          e2 10.0.2.1 ---- 10.0.2.2 right2
/// ```
struct Bench {
    router: Router,
    zebra: Zebra,
    left: Tap,
    /// The port where frames arrive.
    port: Mac,
    rights: Vec<Right>,
    _lab: Lab,
}

struct Right {
    tap: Tap,
    port: Mac,
    ifindex: u32,
    /// The far end's namespace.
    netns: Netns,
}

/// A next hop of `show mpls table json`.
fn nhlfe(number: u8, labels: &[u32], backup: Option<usize>) -> Value {
    let mut nhlfe = json!({
        "type": "SR (IS-IS)",
        "outLabel": labels.first().unwrap_or(&3),
        "outLabelStack": labels,
        "distance": 150,
        "installed": true,
        "nexthop": format!("10.0.{number}.2"),
        "interface": format!("e{number}"),
    });
    if let Some(index) = backup {
        nhlfe["backupIndex"] = json!([index]);
    }
    nhlfe
}

/// A label by right 1 with a backup by right 2, as an entry of the label table.
fn protected(label: u32, to: &[u32], backup: &[u32]) -> Value {
    json!({
        "inLabel": label,
        "installed": true,
        "nexthops": [nhlfe(1, to, Some(0))],
        "backupNexthops": [nhlfe(2, backup, None)],
    })
}

fn table(entries: impl IntoIterator<Item = Value>) -> String {
    let entries = entries.into_iter().map(|entry| (entry["inLabel"].to_string(), entry));
    Value::Object(entries.collect()).to_string()
}

/// A prefix by right 1 with a backup by right 2.
fn prefixes(prefix: &str, to: &[u32], backup: &[u32]) -> String {
    let hop = |number: u8, labels: &[u32]| {
        json!({
            "ip": format!("10.0.{number}.2"), "interfaceName": format!("e{number}"), "active": true, "labels": labels
        })
    };
    let mut primary = hop(1, to);
    primary["backupIndex"] = json!([0]);
    let route = json!({
        "prefix": prefix, "protocol": "isis", "selected": true, "table": 254,
        "nexthops": [primary], "backupNexthops": [hop(2, backup)],
    });
    json!({ prefix: [route] }).to_string()
}

impl Bench {
    fn new(directory: &Path, options: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let (left, middle) = (lab.netns("left")?, lab.netns("router")?);
        link(End::new(&left, "eth0"), End::new(&middle, "eth0"))?;
        let mut rights = Vec::new();
        for number in 1..=2 {
            let right = lab.netns(&format!("right{number}"))?;
            let (own, other) = (format!("10.0.{number}.1/24"), format!("10.0.{number}.2/24"));
            let name = format!("e{number}");
            link(
                End::new(&middle, &name).address(&own),
                End::new(&right, "eth0").address(&other),
            )?;
            let shown = middle.ip(&format!("-oneline link show dev {name}"))?;
            let ifindex = shown.split(':').next().and_then(|index| index.parse().ok());
            rights.push(Right {
                tap: Tap::open(&right, "eth0")?,
                port: middle.mac(&name)?,
                ifindex: ifindex.context("an interface without a number")?,
                netns: right,
            });
        }
        let directory = directory.display();
        let options = format!("--iface eth0 --iface e1 --iface e2 --sync fpm --sync frr={directory} {options}");
        let router = Router::load(&middle, &options)?;
        Ok(Self {
            zebra: Zebra::connect(&middle, PORT)?,
            port: middle.mac("eth0")?,
            left: Tap::open(&left, "eth0")?,
            rights,
            router,
            _lab: lab,
        })
    }

    /// Zebra sends a label by right 1.
    fn label(&mut self, label: u32, to: &[u32]) -> Result<()> {
        let ifindex = self.rights[0].ifindex;
        self.zebra.say([lsp(label, [swap(ifindex, [10, 0, 1, 2], to)])])
    }

    fn wait_for(&self, routes: &[&str]) -> Result<()> {
        let mut last = String::new();
        wait::until("the routes", LIMIT, || {
            last = self.router.run("route show")?;
            Ok(last.lines().eq(routes.iter().copied()).then_some(()))
        })
        .with_context(|| format!("expected {routes:#?}, there is\n{last}"))?;
        self.router.wait_resolved()
    }

    fn frr(&self) -> Result<SyncSource> {
        let sources: Vec<SyncSource> = self.router.json("sync show")?;
        let mut frr = sources.into_iter().filter(|source| source.source == "frr");
        frr.next().context("FRR is not followed")
    }

    fn wait_frr(&self, what: &str, is_it: impl Fn(&SyncSource) -> bool) -> Result<()> {
        let mut last = None;
        wait::until(what, LIMIT, || Ok(is_it(last.insert(self.frr()?)).then_some(())))
            .with_context(|| format!("{last:#?}"))
    }

    /// Sends a frame, which must arrive at one of the next hops, by its number less one, in this form.
    fn expect(&self, sent: &[u8], right: usize, expected: impl Fn(&Right) -> Vec<u8>) -> Result<()> {
        self.left.send(sent)?;
        let right = &self.rights[right];
        let expected = expected(right);
        right.tap.receive("the frame", |frame| frame == expected).map(drop)
    }

    fn expect_labels(&self, label: u32, right: usize, stack: &[u32]) -> Result<()> {
        let packet = udp("192.0.2.1".parse()?, "192.0.2.2".parse()?, 9, b"mine")?;
        let sent = labelled(self.port, self.left.mac(), &[Entry::new(label, 64)], &packet);
        let stack: Vec<_> = stack.iter().map(|&label| Entry::new(label, 63)).collect();
        self.expect(&sent, right, |right| {
            labelled(right.tap.mac(), right.port, &stack, &packet)
        })
        .with_context(|| format!("label {label}"))
    }

    fn expect_imposed(&self, right: usize, stack: &[u32]) -> Result<()> {
        let packet = udp("192.0.2.1".parse()?, "10.4.4.1".parse()?, 64, b"mine")?;
        let sent = ethernet(self.port, self.left.mac(), ETH_P_IP, &packet);
        let (packet, stack) = (
            with_ttl(&packet, 63)?,
            stack.iter().map(|&label| Entry::new(label, 63)).collect::<Vec<_>>(),
        );
        self.expect(&sent, right, |right| {
            labelled(right.tap.mac(), right.port, &stack, &packet)
        })
    }

    /// The carrier of the link to right 1 is lost, or is back.
    fn set_link(&self, state: &str) -> Result<()> {
        self.rights[0].netns.ip(&format!("link set dev eth0 {state}"))?;
        wait::until("another state of the link", LIMIT, || {
            let next_hops: Vec<NextHopState> = self.router.json("neigh show")?;
            let mut first = next_hops.iter().filter(|next_hop| *next_hop.via.host == *"10.0.1.2");
            let is_down = first.all(|next_hop| matches!(next_hop.state, Resolution::LinkDown | Resolution::NoRoute));
            Ok((is_down == (state == "down")).then_some(()))
        })
    }
}

fn route_line(label: u32, to: &str, backup: &str) -> String {
    match backup {
        "" => format!("{label} as {to} via inet 10.0.1.2 dev e1 proto ldp owner fpm"),
        _ => format!(
            "{label} as {to} via inet 10.0.1.2 dev e1 backup as {backup} via inet 10.0.2.2 dev e2 proto ldp owner fpm backups frr"
        ),
    }
}

const PREFIX_LINE: &str = "10.4.4.0/24 encap mpls 400 via inet 10.0.1.2 dev e1 backup encap mpls 15001/400 via inet 10.0.2.2 \
                           dev e2 table main proto ldp metric 20 owner fpm backups frr";

fn filled() -> Result<()> {
    let vty = Vty::new()?;
    vty.say(
        LABELS,
        &table([
            protected(100, &[200], &[15001, 200]),
            protected(101, &[3], &[15001]),
            // Of another next hop's label: that route is not the one that the kernel or FPM has.
            protected(102, &[999], &[15001]),
        ]),
    );
    vty.say(PREFIXES, &prefixes("10.4.4.0/24", &[400], &[15001, 400]));
    let mut bench = Bench::new(vty.directory(), "")?;
    bench.label(100, &[200])?;
    bench.label(101, &[])?;
    bench.label(102, &[202])?;
    let imposed = impose(bench.rights[0].ifindex, [10, 0, 1, 2], &[400]);
    bench.zebra.say([ip("10.4.4.0/24".parse()?, [imposed])])?;
    let lines = |third: &str| {
        [
            route_line(100, "to 200", "to 15001/200"),
            route_line(101, "implicit-null", "to 15001"),
            route_line(102, third, ""),
            PREFIX_LINE.to_owned(),
        ]
    };
    let wait_for =
        |bench: &Bench, lines: &[String]| bench.wait_for(&lines.iter().map(|line| &**line).collect::<Vec<_>>());
    wait_for(&bench, &lines("to 202"))?;
    let frr = bench.frr()?;
    ensure!(
        (frr.state, frr.labels, frr.prefixes, frr.refused) == (SyncState::Synced, 3, 1, 0),
        "{frr:?}"
    );
    let shown: Value = bench.router.json("route show")?;
    ensure!(shown[0]["backups"] == "frr" && shown[2]["backups"].is_null(), "{shown}");

    bench.expect_labels(100, 0, &[200])?;
    bench.expect_imposed(0, &[400])?;
    bench.set_link("down")?;
    bench.expect_labels(100, 1, &[15001, 200])?;
    bench.expect_labels(101, 1, &[15001])?;
    bench.expect_imposed(1, &[15001, 400])?;
    bench.set_link("up")?;
    bench.expect_labels(100, 0, &[200])?;

    // A route that is reported again keeps its backup; one with other labels has none until FRR says so.
    bench.label(100, &[200])?;
    bench.label(102, &[203])?;
    wait_for(&bench, &lines("to 203"))?;
    bench.label(100, &[201])?;
    let mut changed = lines("to 203");
    changed[0] = route_line(100, "to 201", "");
    wait_for(&bench, &changed)?;
    vty.say(LABELS, &table([protected(100, &[201], &[15002])]));
    bench.label(102, &[204])?;
    changed[0] = route_line(100, "to 201", "to 15002");
    changed[1] = route_line(101, "implicit-null", "");
    changed[2] = route_line(102, "to 204", "");
    wait_for(&bench, &changed)?;
    // The interface of the backup is no port any more, and is one again.
    bench.router.run("link del e2")?;
    let mut without = changed.clone();
    without[0] = route_line(100, "to 201", "");
    without[3] = "10.4.4.0/24 encap mpls 400 via inet 10.0.1.2 dev e1 table main proto ldp metric 20 owner fpm".into();
    wait_for(&bench, &without)?;
    bench.router.run("link add e2")?;
    wait_for(&bench, &changed)?;
    let check = bench.router.run("sync check")?;
    ensure!(check.contains("stale 0 missing 0 different 0"), "{check}");
    bench.zebra.say([lsp_gone(100), lsp_gone(101), lsp_gone(102)])?;
    bench.wait_for(&[PREFIX_LINE])?;
    bench.router.unload()
}

fn stale() -> Result<()> {
    let mut vty = Vty::new()?;
    vty.say(LABELS, &table([protected(100, &[200], &[300])]));
    let mut bench = Bench::new(vty.directory(), "--sync-stale 1s")?;
    bench.label(100, &[200])?;
    let line = route_line(100, "to 200", "to 300");
    bench.wait_for(&[&line])?;
    vty.stop()?;
    // Hints make it ask.
    bench.label(101, &[201])?;
    bench.wait_frr("stale backups", |frr| frr.state == SyncState::Stale)?;
    bench.wait_frr("a reason", |frr| {
        let failure = frr.vty.as_ref().and_then(|vty| vty.failure.as_deref());
        failure.is_some_and(|failure| failure.ends_with("zebra.vty: zebra is not running"))
    })?;
    bench.wait_for(&[&line, &route_line(101, "to 201", "")])?;
    let status = bench.router.run("status")?;
    ensure!(status.contains("frr stale: no answer for "), "{status}");
    ensure!(
        bench
            .router
            .said()
            .contains("the backups of FRR stay, but they are stale")
    );
    bench.set_link("down")?;
    bench.expect_labels(100, 1, &[300])?;
    // It is back, and has nothing yet; then with other backups.
    vty.say(LABELS, &table([protected(100, &[200], &[301])]));
    vty.start()?;
    bench.wait_frr("an answer", |frr| frr.state == SyncState::Synced)?;
    bench.expect_labels(100, 1, &[301])?;
    bench.set_link("up")?;
    bench.wait_for(&[&route_line(100, "to 200", "to 301"), &route_line(101, "to 201", "")])?;
    bench.router.unload()
}

fn malformed() -> Result<()> {
    let vty = Vty::new()?;
    vty.say(LABELS, &table([protected(100, &[200], &[300])]));
    let mut bench = Bench::new(vty.directory(), "")?;
    bench.label(100, &[200])?;
    let line = route_line(100, "to 200", "to 300");
    bench.wait_for(&[&line])?;
    for (answer, reason) in [
        (
            &b"\n% Unknown command: show mpls table json\n\0\0\0\x02"[..],
            "its status is 2: % Unknown command: show mpls table json",
        ),
        (
            b"{\"100\":{\"nexthops\":7}}\0\0\0\0",
            "is not the JSON that FRR writes: ",
        ),
        (b"{}\0{}", "it does not end in three NULs and a status"),
    ] {
        vty.say_bytes(LABELS, answer);
        // The first time, a hint makes it ask.
        bench.label(101, &[201])?;
        bench.zebra.say([lsp_gone(101)])?;
        bench.wait_frr(reason, |frr| {
            let failure = frr.vty.as_ref().and_then(|vty| vty.failure.as_deref());
            failure.is_some_and(|failure| failure.contains(reason))
        })?;
        bench.wait_for(&[&line])?;
    }
    vty.say(LABELS, &table([protected(100, &[200], &[301])]));
    bench.wait_for(&[&route_line(100, "to 200", "to 301")])?;
    bench.wait_frr("an answer", |frr| {
        frr.vty
            .as_ref()
            .is_some_and(|vty| vty.failure.is_none() && vty.failures >= 3)
    })?;
    bench.router.unload()
}

/// Some megabytes, of which nearly all are about labels that are no routes.
fn large() -> Result<()> {
    let vty = Vty::new()?;
    let many = (16..20_000).map(|label| protected(label, &[label], &[300, label]));
    vty.say(LABELS, &table(many));
    let mut bench = Bench::new(vty.directory(), "")?;
    bench.label(19_999, &[19_999])?;
    bench.wait_for(&[&route_line(19_999, "to 19999", "to 300/19999")])?;
    let frr = bench.frr()?;
    ensure!(frr.labels == 19_984, "{frr:?}");
    bench.router.unload()
}

/// The process is root without its capabilities, as which it may connect only by the group.
fn permission() -> Result<()> {
    let vty = Vty::new()?;
    vty.say(LABELS, &table([protected(100, &[200], &[300])]));
    let own = |group| -> Result<()> {
        chown(vty.socket(), Some(GROUP + 1), Some(group))?;
        Ok(std::fs::set_permissions(vty.socket(), Permissions::from_mode(0o660))?)
    };
    own(GROUP)?;
    let mut bench = Bench::new(vty.directory(), "")?;
    bench.label(100, &[200])?;
    let line = route_line(100, "to 200", "to 300");
    bench.wait_for(&[&line])?;
    own(GROUP + 2)?;
    bench.label(101, &[201])?;
    bench.wait_frr("a refusal", |frr| {
        let failure = frr.vty.as_ref().and_then(|vty| vty.failure.as_deref());
        failure.is_some_and(|failure| failure.contains("may not connect") && failure.contains("gid 54323"))
    })?;
    bench.wait_for(&[&line, &route_line(101, "to 201", "")])?;
    bench.router.unload()
}

/// A pseudowire of eth0, with the other end behind right 1.
fn wires(status: &str) -> String {
    let wire = json!({
        "interface": "eth0", "neighbor": "10.255.0.2", "localLabel": 600, "remoteLabel": 500, "protocol": "ldp", "vcId": 100,
        "Status": status, "nexthops": [{ "nexthop": "10.0.1.2, via e1", "nhLabel": 17 }],
    });
    json!({ "pw": [wire] }).to_string()
}

fn binding(control_word: u8) -> String {
    let binding = json!({
        "destination": "10.255.0.2", "vcId": 100, "localControlWord": 1, "remoteControlWord": control_word,
        "localVcType": "Ethernet",
    });
    json!({ "10.255.0.2: 100": binding }).to_string()
}

fn pseudowires() -> Result<()> {
    let vty = Vty::new()?;
    // It answers for ldpd, too.
    symlink(vty.socket(), vty.directory().join("ldpd.vty"))?;
    vty.say(WIRES, &wires("Up"));
    vty.say(BINDINGS, &binding(1));
    let mut bench = Bench::new(vty.directory(), "")?;
    let has = |bench: &Bench, lines: &[&str]| {
        wait::until(&format!("{lines:?}"), LIMIT, || {
            let routes = bench.router.run("route show")?;
            let own: Vec<_> = routes.lines().filter(|line| line.ends_with("owner frr")).collect();
            Ok((own == lines).then_some(()))
        })
    };
    has(
        &bench,
        &[
            "600 xconnect eth0 proto ldp owner frr",
            "xconnect eth0 encap mpls 17/500 via inet 10.0.1.2 dev e1 proto ldp owner frr",
        ],
    )?;
    bench.router.wait_resolved()?;
    let frame = |number: u8| ethernet(Mac([2, 0, 0, 0, 9, number]), bench.left.mac(), 0x88b5, &[number; 60]);
    let right = &bench.rights[0];
    let into = |number: u8, word: &[u8]| {
        let payload = [word, &frame(number)[..]].concat();
        let labels = [Entry::new(17, 255), Entry::new(500, 255)];
        labelled(right.tap.mac(), right.port, &labels, &payload)
    };
    bench.left.send(&frame(1))?;
    let expected = into(1, &[0; 4]);
    right
        .tap
        .receive("a frame in the pseudowire", |found| found == expected)?;
    let back = labelled(
        right.port,
        right.tap.mac(),
        &[Entry::new(600, 1)],
        &[&[0; 4][..], &frame(2)].concat(),
    );
    right.tap.send(&back)?;
    bench
        .left
        .receive("a frame out of the pseudowire", |found| found == frame(2))?;
    // The other end wants no control word any more; a change of labels hints at it.
    vty.say(BINDINGS, &binding(0));
    bench.label(100, &[200])?;
    has(
        &bench,
        &[
            "600 xconnect eth0 no-cw proto ldp owner frr",
            "xconnect eth0 no-cw encap mpls 17/500 via inet 10.0.1.2 dev e1 proto ldp owner frr",
        ],
    )?;
    // It goes down.
    vty.say(WIRES, &wires("Down"));
    bench.label(101, &[201])?;
    has(&bench, &[])?;
    bench.router.unload()
}

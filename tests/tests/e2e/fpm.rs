//! Routes of a routing daemon; the test plays zebra's end of an FPM connection.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{SyncCheck, SyncSource, SyncState};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC};
use mplsxdp_tests::frame::{Entry, ethernet, udp, udp_of_ports};
use mplsxdp_tests::zebra::{self, Zebra, impose, ip, ip_by, ip_gone, lsp, lsp_gone, object, swap};
use mplsxdp_tests::{Router, wait};

use crate::bench::{Bench, RIGHT, v4, v6};
use crate::test;

const OPTIONS: &str = "--iface eth1 --iface eth2 --unknown punt --sync fpm --sync-quiet 500ms";
const PORT: u16 = 2620;
const PATIENCE: Duration = Duration::from_secs(10);
const VIA: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

pub fn tests() -> Vec<Trial> {
    vec![
        test("fpm::labels_objects_and_routes_of_zebra_are_followed", followed),
        test("fpm::what_zebra_says_in_any_order", any_order),
        test("fpm::several_paths_and_ipv6", several_paths_and_ipv6),
        test("fpm::a_zebra_that_dies_takes_no_route_along", restarts),
        test("fpm::restarts_of_zebra_cost_no_frame", restarts_under_traffic),
        test("fpm::garbage_changes_nothing", garbage),
        test("fpm::a_second_zebra_is_refused", second),
        test("fpm::an_audit_finds_what_zebra_has_not_sent", audit),
    ]
}

struct Lab {
    bench: Bench,
    /// The index of eth2.
    right: u32,
}

impl Lab {
    fn new() -> Result<Self> {
        let bench = Bench::new(OPTIONS)?;
        let netns = bench.router.netns();
        netns.ip(&format!("neigh replace {VIA} lladdr {RIGHT} dev eth2 nud permanent"))?;
        let shown = netns.ip("-oneline link show dev eth2")?;
        let right = shown.split(':').next().and_then(|index| index.parse().ok());
        let right = right.context("eth2 has no number")?;
        Ok(Self { bench, right })
    }

    fn zebra(&self) -> Result<Zebra> {
        Zebra::connect(self.bench.router.netns(), PORT)
    }

    /// The routes of zebra, as they are shown, each on one line.
    fn routes(&self) -> Result<Vec<String>> {
        let shown = self.bench.router.run("route --owner fpm show")?.replace("\n\t", " ");
        Ok(shown.lines().map(str::to_owned).collect())
    }

    /// Waits until these are the routes of zebra.
    fn wait_for(&self, routes: &[String]) -> Result<()> {
        let mut last = Vec::new();
        wait::until("the routes of zebra", PATIENCE, || {
            last = self.routes()?;
            Ok((last == routes).then_some(()))
        })
        .with_context(|| format!("expected {routes:#?}, there are {last:#?}"))?;
        self.bench.router.wait_resolved()
    }

    fn swapped(&self, from: u32, to: &[u32]) -> Result<()> {
        let payload = v4(9)?;
        let sent = self.bench.labelled(&[Entry::new(from, 64)], &payload);
        let stack: Vec<Entry> = to.iter().map(|&label| Entry::new(label, 63)).collect();
        let expected = self.bench.out_labelled(&stack, &payload);
        self.bench.expect(&format!("label {from}"), &sent, &expected)
    }

    fn imposed(&self, destination: &str, labels: &[u32]) -> Result<()> {
        let (source, ethertype) = match destination.contains(':') {
            false => ("192.0.2.1", ETH_P_IP),
            true => ("2001:db8::1", ETH_P_IPV6),
        };
        let packet = |ttl| udp(source.parse()?, destination.parse()?, ttl, b"mine");
        let sent = ethernet(self.bench.port1, self.bench.left.mac(), ethertype, &packet(64)?);
        let stack: Vec<Entry> = labels.iter().map(|&label| Entry::new(label, 63)).collect();
        let expected = self.bench.out_labelled(&stack, &packet(63)?);
        self.bench.expect(destination, &sent, &expected)
    }
}

/// A label route as it is shown.
fn shown(label: u32, action: &str) -> String {
    format!("{label} as {action} via inet {VIA} dev eth2 proto ldp owner fpm")
}

fn shown_prefix(prefix: &str, labels: &str) -> String {
    format!("{prefix} encap mpls {labels} via inet {VIA} dev eth2 table main proto ldp metric 20 owner fpm")
}

fn followed() -> Result<()> {
    let lab = Lab::new()?;
    let mut zebra = lab.zebra()?;
    zebra.say([
        lsp(100, [swap(lab.right, VIA, &[200])]),
        lsp(101, [swap(lab.right, VIA, &[201, 202, 203])]),
        lsp(102, [swap(lab.right, VIA, &[])]),
        object(1, impose(lab.right, VIA, &[300])),
        ip_by("10.4.4.0/24".parse()?, 1),
        ip_by("10.4.5.0/24".parse()?, 1),
        ip("10.4.6.0/24".parse()?, [impose(lab.right, VIA, &[301, 302])]),
    ])?;
    let labels = [
        shown(100, "to 200"),
        shown(101, "to 201/202/203"),
        shown(102, "implicit-null"),
    ];
    let prefixes = |label: &str| {
        [
            shown_prefix("10.4.4.0/24", label),
            shown_prefix("10.4.5.0/24", label),
            shown_prefix("10.4.6.0/24", "301/302"),
        ]
    };
    lab.wait_for(&[&labels[..], &prefixes("300")].concat())?;
    lab.swapped(100, &[200])?;
    lab.swapped(101, &[201, 202, 203])?;
    for (packet, ethertype) in [(v4(9)?, ETH_P_IP), (v6(9)?, ETH_P_IPV6)] {
        let sent = lab.bench.labelled(&[Entry::new(102, 64)], &packet);
        let forwarded = lab.bench.forward(&sent)?;
        ensure!(forwarded.len() == 1, "label 102, {ethertype:#x}: {forwarded:02x?}");
    }
    lab.imposed("10.4.4.1", &[300])?;
    lab.imposed("10.4.6.1", &[301, 302])?;

    // One message changes all routes that use the object.
    zebra.say([object(1, impose(lab.right, VIA, &[310]))])?;
    lab.wait_for(&[&labels[..], &prefixes("310")].concat())?;
    lab.imposed("10.4.4.1", &[310])?;
    lab.imposed("10.4.5.1", &[310])?;
    // Deleted and added in one frame.
    zebra.say_together(&[
        ip_gone("10.4.6.0/24".parse()?),
        ip("10.4.6.0/24".parse()?, [impose(lab.right, VIA, &[303])]),
    ])?;
    zebra.say([lsp_gone(101), lsp(100, [swap(lab.right, VIA, &[210])])])?;
    // Without labels, the prefix is left to the kernel.
    zebra.say([
        ip("10.4.5.0/24".parse()?, [swap(lab.right, VIA, &[])]),
        ip_gone("10.4.4.0/24".parse()?),
    ])?;
    lab.wait_for(&[
        shown(100, "to 210"),
        shown(102, "implicit-null"),
        shown_prefix("10.4.6.0/24", "303"),
    ])?;
    lab.swapped(100, &[210])?;
    lab.imposed("10.4.6.1", &[303])?;
    let sent = lab.bench.labelled(&[Entry::new(101, 64)], &v4(9)?);
    lab.bench.expect_drop("no-route", &sent)?;
    lab.bench.router.unload()
}

fn several_paths_and_ipv6() -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.bench.router.netns();
    let (second, v6): (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 0, 2, 3), "fd00:2::2".parse()?);
    for address in [&second.to_string(), "fd00:2::2"] {
        netns.ip(&format!(
            "neigh replace {address} lladdr {RIGHT} dev eth2 nud permanent"
        ))?;
    }
    let mut zebra = lab.zebra()?;
    zebra.say([
        lsp(100, [swap(lab.right, VIA, &[200]), swap(lab.right, second, &[201])]),
        lsp(101, [swap(lab.right, v6, &[202, 203])]),
        object(1, impose(lab.right, v6, &[300, 301])),
        ip_by("2001:db8:4::/48".parse()?, 1),
        ip("2001:db8:5::/48".parse()?, [impose(lab.right, v6, &[302])]),
        ip(
            "10.4.4.0/24".parse()?,
            [impose(lab.right, VIA, &[303]), impose(lab.right, second, &[304])],
        ),
    ])?;
    let by_v6 = "via inet6 fd00:2::2 dev eth2";
    lab.wait_for(&[
        format!(
            "100 proto ldp owner fpm nexthop as to 200 via inet {VIA} dev eth2 weight 1 \
             nexthop as to 201 via inet {second} dev eth2 weight 1"
        ),
        format!("101 as to 202/203 {by_v6} proto ldp owner fpm"),
        format!(
            "10.4.4.0/24 table main proto ldp metric 20 owner fpm nexthop encap mpls 303 via inet {VIA} dev eth2 weight 1 \
             nexthop encap mpls 304 via inet {second} dev eth2 weight 1"
        ),
        format!("2001:db8:4::/48 encap mpls 300/301 {by_v6} table main proto ldp metric 20 owner fpm"),
        format!("2001:db8:5::/48 encap mpls 302 {by_v6} table main proto ldp metric 20 owner fpm"),
    ])?;
    lab.swapped(101, &[202, 203])?;
    lab.imposed("2001:db8:4::1", &[300, 301])?;
    lab.imposed("2001:db8:5::1", &[302])?;
    let flow = |destination: &str, port, ttl| {
        udp_of_ports("192.0.2.1".parse()?, destination.parse()?, [port, 7], ttl, b"flow")
    };
    let bench = &lab.bench;
    // The packets of each flow leave by one of the two, and flows by both.
    let mut seen = BTreeSet::new();
    for port in 1000..1032 {
        let (inner, packet) = (flow("10.9.0.1", port, 64)?, flow("10.4.4.1", port, 64)?);
        let labelled = bench.labelled(&[Entry::new(100, 64)], &inner);
        let imposed = ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &packet);
        for (sent, payload) in [(labelled, inner), (imposed, flow("10.4.4.1", port, 63)?)] {
            let forwarded = bench.forward(&sent)?;
            let label = forwarded.first().and_then(|frame| frame.get(14..18)?.try_into().ok());
            let label = u32::from_be_bytes(label.context("a frame without a label")?) >> 12;
            let expected = bench.out_labelled(&[Entry::new(label, 63)], &payload);
            ensure!(forwarded == [expected], "flow {port}: {forwarded:02x?}");
            seen.insert(label);
        }
    }
    ensure!(seen == BTreeSet::from([200, 201, 303, 304]), "{seen:?}");

    // What has come is counted.
    let sources: Vec<SyncSource> = bench.router.json("sync show")?;
    let [source] = &sources[..] else { bail!("{sources:?}") };
    let server = source.server.as_ref().context("no counters of the server")?;
    ensure!(
        (
            server.connections,
            server.frames,
            server.labels,
            server.prefixes,
            server.nexthop_objects
        ) == (1, 6, 2, 3, 1),
        "{server:?}"
    );
    ensure!(server.dialect.as_deref() == Some("dplane_fpm_nl"), "{server:?}");
    let shown = bench.router.run("sync show")?;
    for text in [
        "server 127.0.0.1:2620 by dplane_fpm_nl: connections 1",
        "added labels 2 prefixes 3",
    ] {
        ensure!(shown.contains(text), "{shown}");
    }
    lab.bench.router.unload()
}

fn any_order() -> Result<()> {
    let lab = Lab::new()?;
    let mut zebra = lab.zebra()?;
    // A route before its group, a group before its members.
    zebra.say([
        ip_by("10.4.4.0/24".parse()?, 3),
        zebra::group(3, &[1, 2]),
        lsp(100, [swap(lab.right, VIA, &[200])]),
    ])?;
    lab.wait_for(&[shown(100, "to 200")])?;
    zebra.say([object(1, impose(lab.right, VIA, &[300]))])?;
    zebra.say([object(2, impose(lab.right, VIA, &[300]))])?;
    wait::until("the route by the group", PATIENCE, || {
        Ok(lab
            .routes()?
            .iter()
            .any(|route| route.starts_with("10.4.4.0/24"))
            .then_some(()))
    })?;
    lab.bench.router.wait_resolved()?;
    lab.imposed("10.4.4.1", &[300])?;
    lab.bench.router.unload()
}

fn restarts() -> Result<()> {
    let lab = Lab::new()?;
    let say = |labels: &[u32]| {
        let mut zebra = lab.zebra()?;
        zebra.say(
            labels
                .iter()
                .map(|&label| lsp(label, [swap(lab.right, VIA, &[label + 100])])),
        )?;
        Ok::<_, anyhow::Error>(zebra)
    };
    let routes = |labels: &[u32]| -> Vec<String> {
        let route = |label: &u32| shown(*label, &format!("to {}", label + 100));
        labels.iter().map(route).collect()
    };
    let zebra = say(&[100, 101])?;
    lab.wait_for(&routes(&[100, 101]))?;
    let said = |text: &str, times: usize| {
        wait::until(text, PATIENCE, || {
            let said = lab.bench.router.said();
            Ok((said.matches(text).count() >= times).then_some(()))
        })
    };
    let (synced, gone) = ("has sent all of its routes", "has disconnected");
    said(synced, 1)?;
    drop(zebra);
    said(gone, 1)?;
    lab.swapped(100, &[200])?;
    lab.swapped(101, &[201])?;
    // It dies again before it has sent everything.
    drop(say(&[102])?);
    said(gone, 2)?;
    lab.wait_for(&routes(&[100, 101, 102]))?;
    lab.swapped(101, &[201])?;
    // Then it sends everything, which is less than before.
    let zebra = say(&[100])?;
    said(synced, 2)?;
    lab.wait_for(&routes(&[100]))?;
    lab.swapped(100, &[200])?;
    for label in [101, 102] {
        let sent = lab.bench.labelled(&[Entry::new(label, 64)], &v4(9)?);
        lab.bench.expect_drop("no-route", &sent)?;
    }
    drop(zebra);
    lab.bench.router.unload()
}

/// Sends frames for a label until `stop`, each once the one before has come out. Returns how many.
fn numbered(bench: &Bench, label: u32, to: u32, stop: &AtomicBool) -> Result<u64> {
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let packet = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, &count.to_be_bytes())?;
        bench.left.send(&bench.labelled(&[Entry::new(label, 64)], &packet))?;
        let expected = bench.out_labelled(&[Entry::new(to, 63)], &packet);
        let is_ours = |frame: &[u8]| frame.get(12..14) == Some(&ETH_P_MPLS_UC.to_be_bytes());
        let frame = bench.right.receive(&format!("frame {count}"), is_ours)?;
        ensure!(frame == expected, "frame {count}: {frame:02x?}");
        count += 1;
    }
    Ok(count)
}

/// Zebra crashes without deleting a route, comes back and crashes again while it sends its routes, sends fewer of them,
/// and sends a route that stays as a deletion and an addition.
fn restarts_under_traffic() -> Result<()> {
    let lab = Lab::new()?;
    let bench = &lab.bench;
    let wait_for = |labels: &[u32]| {
        let route = |&label: &u32| shown(label, &format!("to {}", label + 100));
        lab.wait_for(&labels.iter().map(route).collect::<Vec<_>>())
    };
    let add = |label: u32| lsp(label, [swap(lab.right, VIA, &[label + 100])]);
    let until = |what: &str, is: &dyn Fn(&SyncSource) -> bool| wait_until(&bench.router, what, is);
    let synced = || until("synced", &|source| source.state == SyncState::Synced);
    let lost = || until("lost", &|source| source.state == SyncState::Lost);
    let mut zebra = lab.zebra()?;
    zebra.say([100, 101, 102].map(add))?;
    synced()?;
    wait_for(&[100, 101, 102])?;
    let stop = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        let sender = scope.spawn(|| numbered(bench, 100, 200, &stop));
        let scenario = || {
            drop(zebra);
            lost()?;
            wait_for(&[100, 101, 102])?;
            for _ in 0..5 {
                let mut zebra = lab.zebra()?;
                zebra.say([add(102)])?;
                until("a replay", &|source| source.state == SyncState::Syncing)?;
                drop(zebra);
                lost()?;
            }
            wait_for(&[100, 101, 102])?;
            // It is back, with one route fewer and a new one.
            let mut zebra = lab.zebra()?;
            zebra.say_together(&[lsp_gone(100), add(100)])?;
            zebra.say([add(102), add(103)])?;
            synced()?;
            wait_for(&[100, 102, 103])?;
            for _ in 0..50 {
                zebra.say_together(&[lsp_gone(100), add(100)])?;
            }
            zebra.say([lsp_gone(103)])?;
            wait_for(&[100, 102])
        };
        let done = scenario();
        stop.store(true, Ordering::Relaxed);
        let count = sender.join().map_err(|_| anyhow!("the sender has panicked"))?;
        done.and(count)
    })?;
    let counted = bench.router.forwarded("100")?;
    ensure!(
        counted == count && count > 0,
        "{count} frames were sent, {counted} forwarded"
    );
    let sent = bench.labelled(&[Entry::new(101, 64)], &v4(9)?);
    bench.expect_drop("no-route", &sent)?;
    lab.bench.router.unload()
}

fn garbage() -> Result<()> {
    let lab = Lab::new()?;
    let mut zebra = lab.zebra()?;
    zebra.say([lsp(100, [swap(lab.right, VIA, &[200])])])?;
    let routes = [shown(100, "to 200")];
    lab.wait_for(&routes)?;
    drop(zebra);
    let mut message = Vec::new();
    zebra::frame(&[lsp(100, [swap(lab.right, VIA, &[999])])], &mut message);
    // The S bit of RTA_NEWDST, and the length of an attribute.
    let mut damaged = message.clone();
    let entry = (999_u32 << 12 | 0x100).to_be_bytes();
    let at = damaged
        .windows(4)
        .position(|bytes| bytes == entry)
        .context("no label")?;
    damaged[at + 2] &= !1;
    let mut long = message.clone();
    long[at - 4] = 0xff;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"[..],
        &[0xff; 100_000],
        &[1, 1, 0, 2],
        &[1, 2, 0, 8, 1, 2, 3, 4],
        &message[..message.len() - 1],
        &damaged,
        &long,
    ] {
        // The server may have closed the connection already.
        let _ = lab.zebra()?.say_bytes(garbage);
    }
    // The log line is written at the end of the connection, so the other lines are there.
    let text = "cannot be read, and is ignored: RTA_NEWDST";
    wait::until("a word about a message", PATIENCE, || {
        Ok(lab.bench.router.said().contains(text).then_some(()))
    })?;
    ensure!(lab.routes()? == routes, "{:#?}", lab.routes()?);
    lab.swapped(100, &[200])?;
    let said = lab.bench.router.unload_and_tell()?;
    let lines = said.lines().filter(|line| line.contains("ended without routes"));
    let reasons = [
        "has version 71; must be 1",
        "has version 255; must be 1",
        "has length 2; must be 4 or more",
    ];
    for reason in reasons {
        let count = lines.clone().filter(|line| line.contains(reason)).count();
        ensure!(count == 1, "`{reason}` is said {count} times: {said}");
    }
    ensure!(said.contains("zebra uses its module fpm:protobuf"), "{said}");
    Ok(())
}

fn second() -> Result<()> {
    let lab = Lab::new()?;
    let mut first = lab.zebra()?;
    first.say([lsp(100, [swap(lab.right, VIA, &[200])])])?;
    lab.wait_for(&[shown(100, "to 200")])?;
    for _ in 0..3 {
        let _ = lab.zebra()?.say([lsp(100, [swap(lab.right, VIA, &[999])])]);
    }
    first.say([lsp(101, [swap(lab.right, VIA, &[201])])])?;
    lab.wait_for(&[shown(100, "to 200"), shown(101, "to 201")])?;
    lab.swapped(100, &[200])?;
    let said = lab.bench.router.unload_and_tell()?;
    let count = said.matches("a second routing daemon").count();
    ensure!(count == 1, "said {count} times: {said}");
    Ok(())
}

/// Waits for what `sync show` has of zebra.
fn wait_until(router: &Router, what: &str, is: &dyn Fn(&SyncSource) -> bool) -> Result<()> {
    wait::until(what, PATIENCE, || {
        let sources: Vec<SyncSource> = router.json("sync show")?;
        Ok(sources.first().is_some_and(is).then_some(()))
    })
}

/// Another client makes changes in zebra's name. Those of routes that zebra can have are put right at once; an audit finds
/// the others.
fn audit() -> Result<()> {
    let lab = Lab::new()?;
    let router = &lab.bench.router;
    let mut zebra = lab.zebra()?;
    zebra.say([
        lsp(100, [swap(lab.right, VIA, &[200])]),
        lsp(101, [swap(lab.right, VIA, &[201])]),
        ip("10.4.4.0/24".parse()?, [impose(lab.right, VIA, &[300])]),
    ])?;
    let routes = [
        shown(100, "to 200"),
        shown(101, "to 201"),
        shown_prefix("10.4.4.0/24", "300"),
    ];
    lab.wait_for(&routes)?;
    let via = format!("via inet {VIA} dev eth2");
    for change in [
        "del 100".to_owned(),
        format!("replace 101 as 999 {via}"),
        format!("add 102 as 202 {via}"),
        format!("replace 10.4.4.0/24 encap mpls 999 {via} table main"),
    ] {
        router.run(&format!("route --owner fpm {change}"))?;
    }
    lab.wait_for(&routes)?;
    lab.swapped(100, &[200])?;
    lab.swapped(101, &[201])?;
    // A kernel with MPLS lacks these labels.
    zebra.say([lsp_gone(100), lsp_gone(101)])?;
    let routes = [shown_prefix("10.4.4.0/24", "300")];
    lab.wait_for(&routes)?;
    let checked = router.run("sync check")?;
    let clean = "fpm: 1 routes compared: stale 0 missing 0 different 0\n";
    ensure!(checked == clean, "{checked}");
    // Until then, a route that zebra has not sent would be swept.
    wait_until(router, "the end of the replay", &|source| {
        source.state == SyncState::Synced
    })?;

    // Every route of zebra is of a table.
    router.run(&format!("route --owner fpm add 10.5.0.0/16 encap mpls 502 {via}"))?;
    router.wait_resolved()?;
    lab.imposed("10.5.0.1", &[502])?;
    let error = router.run("sync check").err().context("no difference is found")?;
    let error = error.to_string();
    for line in [
        "fpm: 1 routes compared: stale 1 missing 0 different 0\n",
        "10.5.0.0/16 stale\n",
        &format!("installed: 10.5.0.0/16 encap mpls 502 {via}"),
        "exit status: 1",
    ] {
        ensure!(error.contains(line), "no `{line}` in {error}");
    }
    // Looking changes nothing.
    lab.imposed("10.5.0.1", &[502])?;
    let repaired = router.run("sync check --repair")?;
    ensure!(
        repaired.contains("stale 1 missing 0 different 0, repaired"),
        "{repaired}"
    );
    // That was done when the command ended.
    ensure!(lab.routes()? == routes, "{:#?}", lab.routes()?);
    let checks: Vec<SyncCheck> = router.json("sync check")?;
    let [check] = &checks[..] else { bail!("{checks:?}") };
    ensure!(
        (check.checked, check.stale, check.repaired) == (1, 0, false),
        "{check:?}"
    );
    lab.imposed("10.4.4.1", &[300])?;
    let sources: Vec<SyncSource> = router.json("sync show")?;
    let [source] = &sources[..] else { bail!("{sources:?}") };
    ensure!(
        (source.state, source.differences) == (SyncState::Synced, Some(0)),
        "{source:?}"
    );
    lab.bench.router.unload()
}

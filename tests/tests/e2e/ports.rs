//! Ports whose interfaces change: renamed, removed and recreated, or deprived of their programs.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::Link;
use mplsxdp_common::wire::Mac;
use mplsxdp_tests::frame::{Entry, labelled};
use mplsxdp_tests::rig::{self, ForeignLink};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use nix::sys::signal::Signal;

use crate::test;

/// More than the longest pause before a program is put back.
const LIMIT: Duration = Duration::from_secs(20);
const PORTS: &str = "--iface eth1 --iface eth2";

pub fn tests() -> Vec<Trial> {
    vec![
        test("ports::routes_follow_a_port_that_is_renamed", renamed),
        test("ports::routes_follow_ports_that_swap_their_names", swapped),
        test("ports::an_interface_made_anew_is_the_port_that_it_was", made_anew),
        test("ports::an_interface_made_anew_is_left_alone_if_told_so", left_alone),
        test(
            "ports::what_is_refused_when_it_is_made_anew_is_tried_again",
            refused_at_first,
        ),
        test("ports::an_interface_that_is_down_is_taken_at_load", down_at_load),
        test("ports::an_interface_that_is_not_there_is_waited_for", waited_for),
        test("ports::a_program_that_was_detached_is_put_back", detached),
        test(
            "ports::a_program_that_was_detached_is_reported_without_guard",
            unguarded,
        ),
        test("ports::a_program_that_was_replaced_is_put_back", replaced),
        test(
            "ports::a_program_that_another_one_keeps_off_is_put_back_when_it_can_be",
            kept_off,
        ),
        test("ports::a_configuration_is_read_again", read_again),
        test("ports::a_configuration_that_is_wrong_changes_nothing", wrong_config),
        test("ports::without_a_config_file_nothing_is_read_again", nothing_to_read),
        test(
            "ports::a_cross_connect_that_contradicts_the_configuration_is_refused",
            contradicting_cross_connect,
        ),
    ]
}

/// left - eth1 router eth2 - right; each side has one tap.
struct Bench {
    netns: Netns,
    left: Netns,
    right: Netns,
    _lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, netns, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        let bench = Self {
            netns,
            left,
            right,
            _lab: lab,
        };
        bench.cable_left()?;
        bench.cable_right()?;
        Ok(bench)
    }

    fn cable_left(&self) -> Result<()> {
        link(
            End::new(&self.left, "eth0").address("10.0.1.2/24"),
            End::new(&self.netns, "eth1").address("10.0.1.1/24"),
        )
    }

    fn cable_right(&self) -> Result<()> {
        link(
            End::new(&self.netns, "eth2").address("10.0.2.1/24"),
            End::new(&self.right, "eth0")
                .address("10.0.2.2/24")
                .mac("02:00:00:00:22:02"),
        )
    }

    /// Sends frames with label 100 to the port `port` on the left, until one leaves on the right, from its port `out`.
    fn expect_swap(&self, port: &str, out: &str, label: u32) -> Result<()> {
        let (left, right) = (Tap::open(&self.left, "eth0")?, Tap::open(&self.right, "eth0")?);
        let frame = labelled(self.netns.mac(port)?, left.mac(), &[Entry::new(100, 64)], b"payload");
        let expected = labelled(right.mac(), self.netns.mac(out)?, &[Entry::new(label, 63)], b"payload");
        wait::until(&format!("a frame with label {label} from {out}"), LIMIT, || {
            left.send(&frame)?;
            Ok(right.drain()?.contains(&expected).then_some(()))
        })
    }

    /// The same the other way, from right to left.
    fn expect_swap_back(&self, port: &str, out: &str, label: u32) -> Result<()> {
        let (left, right) = (Tap::open(&self.left, "eth0")?, Tap::open(&self.right, "eth0")?);
        let frame = labelled(self.netns.mac(port)?, right.mac(), &[Entry::new(200, 64)], b"payload");
        let expected = labelled(left.mac(), self.netns.mac(out)?, &[Entry::new(label, 63)], b"payload");
        wait::until(&format!("a frame with label {label} from {out}"), LIMIT, || {
            right.send(&frame)?;
            Ok(left.drain()?.contains(&expected).then_some(()))
        })
    }
}

/// A config file, removed when dropped.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(netns: &Netns, text: &str) -> Result<Self> {
        let file = Self(env::temp_dir().join(format!("{}.toml", netns.name())));
        file.write(text)?;
        Ok(file)
    }

    fn write(&self, text: &str) -> Result<()> {
        fs::write(&self.0, text).context("cannot write a config file")
    }

    fn options(&self) -> String {
        format!("--config {}", self.0.display())
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn wait_for_port(router: &Router, name: &str) -> Result<Link> {
    wait::until(&format!("port {name}"), LIMIT, || {
        let links: Vec<Link> = router.json("link show")?;
        Ok(links
            .into_iter()
            .find(|link| link.ifname == name && link.problem.is_none()))
    })
}

fn routes(router: &Router) -> Result<Vec<String>> {
    let saved = router.run("route save")?;
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

fn renamed() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, PORTS)?;
    router.run("link add eth2.7")?;
    let mac: Mac = "02:00:00:00:22:02".parse().map_err(anyhow::Error::msg)?;
    router.add_routes(&[
        "100 as 110 via inet 10.0.2.2 dev eth2",
        "101 as 111 via inet 10.0.2.2",
        &format!("102 as 112 via link {mac} dev eth2.7"),
        "103 nexthop as 113 via inet 10.0.2.2 dev eth2 nexthop as 114 via inet 10.0.1.2 dev eth1",
        "104 as 115 via inet 10.0.1.2 dev eth1 backup via inet 10.0.2.2 dev eth2",
    ])?;
    bench.expect_swap("eth1", "eth2", 110)?;
    let before = router.said();

    bench.netns.ip("link set dev eth2 name core0")?;
    wait_for_port(&router, "core0.7")?;
    bench.expect_swap("eth1", "core0", 110)?;
    let saved = routes(&router)?;
    for expected in [
        "100 as to 110 via inet 10.0.2.2 dev core0",
        "101 as to 111 via inet 10.0.2.2",
        &format!("102 as to 112 via link {mac} dev core0.7"),
        "104 as to 115 via inet 10.0.1.2 dev eth1 backup via inet 10.0.2.2 dev core0",
    ] {
        ensure!(
            saved.iter().any(|line| line.starts_with(expected)),
            "{expected}: {saved:?}"
        );
    }
    ensure!(!saved.iter().any(|line| line.contains("eth2")), "{saved:?}");
    // No next hop was unresolved meanwhile.
    let since = router.said().split_off(before.len());
    ensure!(!since.contains("NoSuchDev"), "{since}");

    // A saved state is the present state.
    let restored = router.run_with("route restore", &router.run("route save")?)?;
    ensure!(routes(&router)? == saved, "{restored}");
    // The new name is the port's, and the old one is unused.
    router.run("route replace 100 as 120 via inet 10.0.2.2 dev core0")?;
    bench.expect_swap("eth1", "core0", 120)?;
    let refused = router.run("route add 300 as 301 via inet 10.0.2.2 dev eth2").err();
    let refused = format!("{:#}", refused.context("a route with the old name")?);
    ensure!(refused.contains("there is no interface eth2"), "{refused}");
    router.run("link del core0.7")?;
    router.run("link del core0")?;
    router.unload()
}

fn swapped() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, PORTS)?;
    router.add_routes(&[
        "100 as 110 via inet 10.0.2.2 dev eth2",
        "200 as 210 via inet 10.0.1.2 dev eth1",
    ])?;
    bench.expect_swap("eth1", "eth2", 110)?;
    bench.expect_swap_back("eth2", "eth1", 210)?;
    for rename in ["eth1 name tmp", "eth2 name eth1", "tmp name eth2"] {
        bench.netns.ip(&format!("link set dev {rename}"))?;
    }
    wait::until("the routes with the new names", LIMIT, || {
        let saved = routes(&router)?.join("\n");
        let swapped = saved.contains("10.0.2.2 dev eth1") && saved.contains("10.0.1.2 dev eth2");
        Ok(swapped.then_some(()))
    })?;
    bench.expect_swap("eth2", "eth1", 110)?;
    bench.expect_swap_back("eth1", "eth2", 210)?;

    // A name that a route waits for.
    router.run("link del eth2")?;
    bench.netns.ip("link set dev eth2 name other")?;
    bench.netns.ip("link set dev eth1 name eth2")?;
    wait::until("both routes by the port eth2", LIMIT, || {
        let saved = routes(&router)?;
        Ok(saved.iter().all(|line| line.contains("dev eth2")).then_some(()))
    })?;
    // Each is still a route of its own.
    router.run("route del 200")?;
    router.run("link add other")?;
    bench.expect_swap("other", "eth2", 110)?;
    router.unload()
}

/// A cable is removed, and another one appears with the same name, like a container that is restarted.
fn remake(bench: &Bench) -> Result<()> {
    bench.netns.ip("link del dev eth2")?;
    bench.cable_right()
}

fn made_anew() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, "--iface eth1 --iface eth2 --tx-only eth2.8")?;
    router.run("link add eth2.7")?;
    router.run("link set eth2.7 mpls off")?;
    router.add_routes(&[
        "100 as 110 via inet 10.0.2.2 dev eth2",
        "101 as 111 via link 02:00:00:00:22:02 dev eth2.7",
    ])?;
    bench.expect_swap("eth1", "eth2", 110)?;
    bench.expect_swap("eth1", "eth2", 110)?;
    // The counter continues.
    let right = Tap::open(&bench.right, "eth0")?;
    let unknown = labelled(
        bench.netns.mac("eth2")?,
        right.mac(),
        &[Entry::new(999, 64)],
        b"unknown",
    );
    right.send(&unknown)?;
    wait::until(
        "a count",
        LIMIT,
        || Ok((router.dropped("no-route")? == 1).then_some(())),
    )?;

    bench.netns.ip("link del dev eth2")?;
    let gone = wait::until("a port that waits", LIMIT, || {
        let links: Vec<Link> = router.json("link show")?;
        let link = links.into_iter().find(|link| link.ifname == "eth2");
        Ok(link.filter(|link| link.problem.is_some()))
    })?;
    ensure!(
        gone.problem.as_deref() == Some("its interface is gone") && !gone.up,
        "{gone:?}"
    );
    ensure!(router.run("link show eth2")?.contains("WAITING"), "not shown");
    // Settings made meanwhile count.
    router.run("link set eth2 mpls off")?;
    router.run("link set eth2 mpls on")?;
    ensure!(routes(&router)?.len() == 2, "routes are lost");

    bench.cable_right()?;
    let back = wait_for_port(&router, "eth2")?;
    ensure!(back.mpls && !back.tx_only, "{back:?}");
    bench.expect_swap("eth1", "eth2", 110)?;
    let parts: Vec<_> = ["eth2.7", "eth2.8"]
        .map(|name| wait_for_port(&router, name).map(|link| (link.mpls, link.tx_only, link.parent)))
        .into_iter()
        .collect::<Result<_>>()?;
    let on = Some("eth2".to_owned());
    ensure!(parts == [(false, false, on.clone()), (false, true, on)], "{parts:?}");
    ensure!(router.dropped("no-route")? == 1, "counters do not go on");
    router.wait_resolved()?;

    // Repeatedly, also as fast as possible.
    for _ in 0..5 {
        remake(&bench)?;
    }
    wait_for_port(&router, "eth2")?;
    bench.expect_swap("eth1", "eth2", 110)?;
    router.run("link del eth2")?;
    let said = router.unload_and_tell()?;
    ensure!(!said.contains("another process"), "{said}");
    Ok(())
}

fn left_alone() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, &format!("{PORTS} --no-readopt"))?;
    router.add_routes(&["100 as 110 via inet 10.0.2.2 dev eth2"])?;
    remake(&bench)?;
    wait::until("the loss of the port", LIMIT, || {
        Ok(router
            .said()
            .contains("add it with `mplsxdp link add eth2`")
            .then_some(()))
    })?;
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.len() == 1, "{links:?}");
    router.run("link add eth2")?;
    bench.expect_swap("eth1", "eth2", 110)?;
    router.unload()
}

fn refused_at_first() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, PORTS)?;
    router.add_routes(&["100 as 110 via inet 10.0.2.2 dev eth2"])?;
    bench.netns.ip("link del dev eth2")?;
    bench.netns.ip("link add eth2 type bridge")?;
    wait::until("the reason", LIMIT, || {
        Ok(router.said().contains("still waits: eth2 is a bridge").then_some(()))
    })?;
    let shown = router.run("link show eth2")?;
    ensure!(shown.contains("problem: eth2 is a bridge"), "{shown}");
    remake(&bench)?;
    wait_for_port(&router, "eth2")?;
    bench.expect_swap("eth1", "eth2", 110)?;

    // One that waits can be given up.
    bench.netns.ip("link del dev eth2")?;
    wait::until("a port that waits", LIMIT, || {
        Ok(router.run("link show eth2")?.contains("WAITING").then_some(()))
    })?;
    router.run("link del eth2")?;
    bench.cable_right()?;
    router.run("link add eth2")?;
    bench.expect_swap("eth1", "eth2", 110)?;
    router.unload()
}

fn port(router: &Router, name: &str) -> Result<Link> {
    let links: Vec<Link> = router.json("link show")?;
    let link = links.into_iter().find(|link| link.ifname == name);
    link.with_context(|| format!("{name} is not a port"))
}

/// Waits until the program of a port was put back this many times.
fn wait_put_back(router: &Router, name: &str, times: u64) -> Result<Link> {
    let put_back = || {
        let link = port(router, name)?;
        Ok((link.put_back == times && link.problem.is_none()).then_some(link))
    };
    wait::until(&format!("the program of {name}"), LIMIT, put_back).with_context(|| router.said())
}

/// Waits until the log contains this.
fn expect_said(router: &Router, text: &str) -> Result<()> {
    wait::until(text, LIMIT, || Ok(router.said().contains(text).then_some(()))).with_context(|| router.said())
}

fn detached() -> Result<()> {
    for mode in ["native", "generic"] {
        let bench = Bench::new()?;
        let router = Router::load(&bench.netns, &format!("{PORTS} --guard --local mpls0 --mode {mode}"))?;
        let local = router
            .json::<Vec<Link>>("link show")?
            .into_iter()
            .find(|link| link.local);
        let local = local.context("no local port")?.ifname;
        router.run("link add eth2.7")?;
        router.add_routes(&[
            "100 as 110 via inet 10.0.2.2 dev eth2",
            "200 as 210 via inet 10.0.1.2 dev eth1",
        ])?;
        bench.expect_swap("eth1", "eth2", 110)?;
        for name in ["eth1", "eth2", &local] {
            let before = port(&router, name)?;
            let link = ForeignLink::open(before.link_id)?;
            for _ in 0..2 {
                link.detach()?;
            }
            let after = wait_put_back(&router, name, 1)?;
            ensure!(after.link_id != before.link_id && after.up, "{after:?}");
            ensure!(after.program_id == before.program_id, "{before:?} {after:?}");
            let what = "another process has detached the XDP program from this port; it is attached again";
            let hint = format!("; `mplsxdp link del {name}` removes it for good port=\"{name}\"");
            expect_said(&router, &format!("{what}{}", if *name == local { "" } else { &hint }))?;
            bench.expect_swap("eth1", "eth2", 110)?;
            bench.expect_swap_back("eth2", "eth1", 210)?;
        }
        ensure!(router.run("link show eth1")?.contains(" put-back 1"), "not shown");
        // A sub-interface has the program of its parent.
        ensure!(wait_put_back(&router, "eth2.7", 1)?.parent.is_some(), "no parent");
        // Exceptions still come up.
        let left = Tap::open(&bench.left, "eth0")?;
        let unknown = labelled(bench.netns.mac("eth1")?, left.mac(), &[Entry::new(999, 64)], b"unknown");
        left.send(&unknown)?;
        wait::until("an unknown label", LIMIT, || {
            Ok(router
                .unknown_labels()?
                .iter()
                .any(|label| label.label == 999)
                .then_some(()))
        })?;
        // As often as it happens; and a process that holds the link does not keep the program on the interface.
        let link = ForeignLink::open(port(&router, "eth1")?.link_id)?;
        link.detach()?;
        let held = ForeignLink::open(wait_put_back(&router, "eth1", 2)?.link_id)?;
        bench.expect_swap("eth1", "eth2", 110)?;
        router.unload()?;
        drop(held);
    }
    Ok(())
}

/// Without `--guard`, it is reported and left off until a client adds the port again. `ip` cannot take it off at all.
fn unguarded() -> Result<()> {
    let bench = Bench::new()?;
    let config = ConfigFile::new(&bench.netns, "iface = [\"eth1\", \"eth2\"]\n")?;
    let router = Router::load(&bench.netns, &config.options())?;
    router.add_routes(&[
        "100 as 110 via inet 10.0.2.2 dev eth2",
        "200 as 210 via inet 10.0.1.2 dev eth1",
    ])?;
    bench.expect_swap("eth1", "eth2", 110)?;
    for kind in ["xdp", "xdpdrv"] {
        let refused = bench.netns.ip(&format!("link set dev eth1 {kind} off"));
        ensure!(refused.is_err(), "`ip` has taken the program off");
    }
    bench.expect_swap("eth1", "eth2", 110)?;

    let link = ForeignLink::open(port(&router, "eth1")?.link_id)?;
    link.detach()?;
    let lost = wait::until("a problem", LIMIT, || {
        Ok(Some(port(&router, "eth1")?).filter(|link| link.problem.is_some()))
    })?;
    let problem = "another process has detached the XDP program from this port: labelled frames that arrive here are \
                   lost; `mplsxdp link add eth1` puts it back, and `mplsxdp load --guard` does so by itself";
    ensure!(lost.problem.as_deref() == Some(problem), "{lost:?}");
    expect_said(&router, problem)?;
    let shown = router.run("link show eth1")?;
    ensure!(shown.contains("eth1: DETACHED") && shown.contains(problem), "{shown}");
    // Frames still leave there.
    bench.expect_swap_back("eth2", "eth1", 210)?;
    router.run("link add eth1")?;
    let back = port(&router, "eth1")?;
    ensure!((back.problem, back.put_back) == (None, 1), "it is not put back");
    bench.expect_swap("eth1", "eth2", 110)?;
    ensure!(router.run("link add eth1").is_err(), "it is a port already");

    // A program in its place, and back again.
    let own = port(&router, "eth1")?;
    let link = ForeignLink::open(own.link_id)?;
    let other = link.replace("pass")?;
    expect_said(
        &router,
        &format!("another process has replaced the XDP program of this port by program {other} (pass): labelled"),
    )?;
    link.replace_by_id(own.program_id)?;
    expect_said(&router, "the XDP program is in place again")?;
    bench.expect_swap("eth1", "eth2", 110)?;

    // One that is off is put back when the configuration says so.
    link.replace("pass")?;
    wait::until("a problem", LIMIT, || {
        Ok(port(&router, "eth1")?.problem.is_some().then_some(()))
    })?;
    config.write("iface = [\"eth1\", \"eth2\"]\nguard = true\n")?;
    router.signal(Signal::SIGHUP)?;
    wait_put_back(&router, "eth1", 2)?;
    bench.expect_swap("eth1", "eth2", 110)?;
    let said = router.unload_and_tell()?;
    ensure!(!said.contains("takes effect only when"), "{said}");
    Ok(())
}

fn replaced() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, &format!("{PORTS} --guard"))?;
    router.add_routes(&["100 as 110 via inet 10.0.2.2 dev eth2"])?;
    let before = port(&router, "eth1")?;
    let other = ForeignLink::open(before.link_id)?.replace("pass")?;
    let after = wait_put_back(&router, "eth1", 1)?;
    ensure!(
        (after.link_id, after.program_id) == (before.link_id, before.program_id),
        "{before:?} {after:?}"
    );
    expect_said(
        &router,
        &format!("another process has replaced the XDP program of this port by program {other}"),
    )?;
    bench.expect_swap("eth1", "eth2", 110)?;
    router.unload()
}

fn kept_off() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, &format!("{PORTS} --guard"))?;
    router.add_routes(&[
        "100 as 110 via inet 10.0.2.2 dev eth2",
        "200 as 210 via inet 10.0.1.2 dev eth1",
    ])?;
    bench.expect_swap("eth1", "eth2", 110)?;
    // It may be put back before the other one appears.
    let other = wait::until("another program on eth1", LIMIT, || {
        ForeignLink::open(port(&router, "eth1")?.link_id)?.detach()?;
        Ok(rig::attach(&bench.netns, "eth1", "pass").ok())
    })?;
    // After a pause, if it was put back before.
    let lost = wait::until("a problem with the other program", LIMIT, || {
        let found = port(&router, "eth1")?;
        let is_the_other = |problem: &String| problem.contains("it cannot be put back yet");
        Ok(Some(found).filter(|link| link.problem.as_ref().is_some_and(is_the_other)))
    })?;
    let problem = lost.problem.context("no problem")?;
    for part in [
        "another process has detached the XDP program from this port, and it cannot be put back yet: eth1 has another XDP \
         program already: id ",
        " (pass), native mode: ",
    ] {
        ensure!(problem.contains(part), "{part}: {problem}");
    }
    ensure!((lost.link_id, lost.program_id, lost.up) == (0, 0, true), "ids");
    let shown = router.run("link show eth1")?;
    ensure!(shown.contains("eth1: DETACHED") && shown.contains(&problem), "{shown}");
    expect_said(&router, &problem)?;
    // Frames still leave there.
    bench.expect_swap_back("eth2", "eth1", 210)?;
    // A larger MTU loads another program, in time.
    for netns in [&bench.netns, &bench.left] {
        let name = if netns.name() == bench.left.name() {
            "eth0"
        } else {
            "eth1"
        };
        netns.ip(&format!("link set dev {name} mtu 1600"))?;
    }
    drop(other);
    wait_for_port(&router, "eth1")?;
    bench.expect_swap("eth1", "eth2", 110)?;
    expect_said(&router, "the XDP program is attached again")?;
    let said = router.said();
    ensure!(said.matches(&problem).count() == 1, "said again: {said}");
    router.unload()
}

fn down_at_load() -> Result<()> {
    let bench = Bench::new()?;
    bench.netns.ip("link set dev eth2 down")?;
    let router = Router::load(&bench.netns, PORTS)?;
    let said = router.said_at_load()?;
    ensure!(
        said.contains("WARN") && said.contains("`ip link set dev eth2 up`"),
        "{said}"
    );
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.len() == 2 && links.iter().any(|link| !link.up), "{links:?}");
    bench.netns.ip("link set dev eth2 up")?;
    router.add_routes(&["100 as 110 via inet 10.0.2.2 dev eth2"])?;
    bench.expect_swap("eth1", "eth2", 110)?;
    router.unload()
}

fn waited_for() -> Result<()> {
    let bench = Bench::new()?;
    bench.netns.ip("link del dev eth2")?;
    let file = ConfigFile::new(
        &bench.netns,
        r#"iface = ["eth1", "eth2", "eth2.7"]
        wait = true
        routes = ["100 as 110 via inet 10.0.2.2 dev eth2"]"#,
    )?;
    let router = Router::load(&bench.netns, &file.options())?;
    let said = router.said_at_load()?;
    ensure!(
        said.contains("eth2") && said.contains("there is no such interface"),
        "{said}"
    );
    let shown = router.run("-br link show")?;
    ensure!(shown.matches("WAITING").count() == 2, "{shown}");
    bench.cable_right()?;
    wait_for_port(&router, "eth2.7")?;
    bench.expect_swap("eth1", "eth2", 110)?;
    router.unload()
}

/// Sends SIGHUP and waits for the `count`th log line about it.
fn hang_up(router: &Router, said: &str, count: usize) -> Result<()> {
    router.signal(Signal::SIGHUP)?;
    let waited = wait::until(said, LIMIT, || {
        Ok((router.said().matches(said).count() == count).then_some(()))
    });
    waited.with_context(|| router.said())
}

/// The labels that have routes, and the labels that they are swapped to.
fn swaps(router: &Router) -> Result<Vec<String>> {
    let routes: Vec<serde_json::Value> = router.json("route show")?;
    let swap = |route: &serde_json::Value| Some(format!("{} {}", route["dst"].as_str()?, route["to"].as_str()?));
    routes
        .iter()
        .map(|route| swap(route).with_context(|| format!("not a swap: {route}")))
        .collect()
}

const READ: &str = "the configuration was read again";
const REFUSED: &str = "nothing was changed";

fn read_again() -> Result<()> {
    let bench = Bench::new()?;
    let file = ConfigFile::new(
        &bench.netns,
        r#"iface = ["eth1", "eth2"]
        routes = [
            "100 as 110 via inet 10.0.2.2 dev eth2",
            "101 as 111 via inet 10.0.2.2 dev eth2",
            "102 as 112 via inet 10.0.2.2 dev eth2",
            "103 as 113 via inet 10.0.2.2 dev eth2",
        ]"#,
    )?;
    let router = Router::load(&bench.netns, &file.options())?;
    router.add_routes(&["500 as 510 via inet 10.0.2.2 dev eth2"])?;
    // From here on it does not belong to the configuration.
    router.run("route replace 103 as 114 via inet 10.0.2.2 dev eth2")?;
    router.run("link add eth2.9")?;
    bench.expect_swap("eth1", "eth2", 110)?;
    let before = router.forwarded("100")?;
    let links = |router: &Router| -> Result<Vec<(String, bool, u32)>> {
        let links: Vec<Link> = router.json("link show")?;
        Ok(links
            .into_iter()
            .map(|link| (link.ifname, link.tx_only, link.program_id))
            .collect())
    };
    let programs = links(&router)?;

    file.write(
        r#"iface = ["eth1", "eth2", "eth1.5"]
        tx-only = ["eth2.7"]
        hold = 7
        routes = [
            "100 as 110 via inet 10.0.2.2 dev eth2",
            "101 as 211 via inet 10.0.2.2 dev eth2",
            "104 as 114 via link 02:00:00:00:22:02 dev eth2.7",
        ]"#,
    )?;
    hang_up(&router, READ, 1)?;
    let said = router.said();
    for part in [
        "routes_added=1 routes_replaced=1 routes_deleted=1",
        r#"ports_added="eth1.5 eth2.7" ports_changed="" ports_removed="""#,
        "WARN hold changed in the configuration",
    ] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    let routes = swaps(&router)?;
    ensure!(
        routes == ["100 110", "101 211", "103 114", "104 114", "500 510"],
        "{routes:?}"
    );
    bench.expect_swap("eth1", "eth2", 110)?;
    ensure!(
        router.forwarded("100")? > before,
        "the count of an unchanged route begins anew"
    );
    let now = links(&router)?;
    ensure!(
        programs.iter().all(|port| now.contains(port)) && now.len() == 5,
        "{programs:?} {now:?}"
    );
    ensure!(
        now.iter().any(|(name, tx_only, _)| name == "eth2.7" && *tx_only),
        "{now:?}"
    );

    // Ports change, among them one that only sends.
    file.write(
        r#"iface = ["eth1", "eth2", "eth1.5"]
        tx-only = ["eth2.7"]
        mpls-mtu = ["eth2=1504", "eth2.7=1400"]
        routes = ["100 as 110 via inet 10.0.2.2 dev eth2"]"#,
    )?;
    hang_up(&router, READ, 2)?;
    let said = router.said();
    ensure!(said.contains(r#"ports_changed="eth2 eth2.7""#), "{said}");
    let mtus: Vec<Link> = router.json("link show")?;
    let mtus: Vec<_> = mtus.into_iter().map(|link| (link.ifname, link.mpls_mtu)).collect();
    for (name, mtu) in [("eth1", 1500), ("eth2", 1504), ("eth2.7", 1400), ("eth2.9", 1500)] {
        ensure!(mtus.contains(&(name.to_owned(), mtu)), "{mtus:?}");
    }

    // One port changes its kind, another one goes; one that a person added stays.
    file.write(
        r#"iface = ["eth1", "eth2", "eth2.7"]
        routes = ["100 as 110 via inet 10.0.2.2 dev eth2"]"#,
    )?;
    hang_up(&router, READ, 3)?;
    let mtus: Vec<Link> = router.json("link show")?;
    ensure!(mtus.iter().all(|link| link.mpls_mtu == 1500), "{mtus:?}");
    let now = links(&router)?;
    let names: Vec<_> = now.iter().map(|(name, ..)| &**name).collect();
    ensure!(names == ["eth1", "eth2", "eth2.7", "eth2.9"], "{names:?}");
    ensure!(now.iter().all(|(_, tx_only, _)| !tx_only), "{now:?}");
    let routes = swaps(&router)?;
    ensure!(routes == ["100 110", "103 114", "500 510"], "{routes:?}");
    bench.expect_swap("eth1", "eth2", 110)?;

    // A restore replaces all static routes, wherever they came from.
    router.run_with("route restore", "500 as 510 via inet 10.0.2.2 dev eth2\n")?;
    let routes = swaps(&router)?;
    ensure!(routes == ["500 510"], "{routes:?}");
    router.unload()
}

fn wrong_config() -> Result<()> {
    let bench = Bench::new()?;
    let right = r#"iface = ["eth1", "eth2"]
        routes = ["100 as 110 via inet 10.0.2.2 dev eth2"]"#;
    let file = ConfigFile::new(&bench.netns, right)?;
    let router = Router::load(&bench.netns, &file.options())?;
    router.wait_resolved()?;
    let wrong = [
        ("iface = [", "TOML"),
        (
            r#"iface = ["eth1", "eth2", "eth1.5", "eth9"]
            routes = ["101 as 111 via inet 10.0.2.2 dev eth2"]"#,
            "there is no interface eth9",
        ),
        (
            r#"iface = ["eth1", "eth2"]
            labels = 1000
            routes = ["1000 as 110 via inet 10.0.2.2 dev eth2"]"#,
            "label 1000 is beyond `labels`",
        ),
        (
            r#"iface = ["eth1", "eth2", "eth1.5"]
            stacks = 1
            routes = ["100 via inet 10.0.2.2 dev eth2", "nonsense"]"#,
            "nonsense",
        ),
    ];
    for (count, (text, reason)) in (1..).zip(wrong) {
        file.write(text)?;
        hang_up(&router, REFUSED, count)?;
        let said = router.said();
        ensure!(said.contains(reason) || reason == "TOML", "{reason}: {said}");
        let links: Vec<Link> = router.json("link show")?;
        ensure!(links.len() == 2, "{links:?}");
        let routes = swaps(&router)?;
        ensure!(routes == ["100 110"], "{routes:?}");
        bench.expect_swap("eth1", "eth2", 110)?;
    }
    file.write(right)?;
    hang_up(&router, READ, 1)?;
    ensure!(
        router
            .said()
            .contains("routes_added=0 routes_replaced=0 routes_deleted=0"),
        "{}",
        router.said()
    );
    router.unload()
}

fn nothing_to_read() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, PORTS)?;
    router.add_routes(&["100 as 110 via inet 10.0.2.2 dev eth2"])?;
    hang_up(&router, "no config file to read again", 1)?;
    bench.expect_swap("eth1", "eth2", 110)?;
    router.unload()
}

fn contradicting_cross_connect() -> Result<()> {
    let bench = Bench::new()?;
    let interfaces = [["eth1.100", "eth1", "eth2"], ["eth1", "eth1.100", "eth2"]];
    for interfaces in interfaces {
        let file = ConfigFile::new(
            &bench.netns,
            &format!("iface = {interfaces:?}\nxconnect = [\"eth1 eth2\"]\n"),
        )?;
        let refused = Router::load(&bench.netns, &file.options()).err();
        let refused = format!("{:#}", refused.context("it was loaded")?);
        ensure!(
            refused.contains("sub-interfaces") && refused.contains("eth1"),
            "{refused}"
        );
    }

    // What the configuration says is changed by SIGHUP, until it can be applied.
    let text = |more: &str| format!("iface = [\"eth1\", \"eth2\", \"eth1.100\"]\n{more}");
    let file = ConfigFile::new(&bench.netns, &text(""))?;
    let router = Router::load(&bench.netns, &file.options())?;
    router.add_routes(&["200 as 210 via inet 10.0.1.2 dev eth1"])?;
    file.write(&text("xconnect = [\"eth1 eth2\"]"))?;
    hang_up(
        &router,
        "the cross-connects are not changed: eth1 has sub-interfaces that are ports (eth1.100)",
        1,
    )?;
    file.write("iface = [\"eth1\", \"eth2\"]\nxconnect = [\"eth1 eth2\"]")?;
    hang_up(
        &router,
        "the cross-connects are not changed: 1 next hops of routes are reached through eth1",
        1,
    )?;
    ensure!(router.run("xconnect show")?.is_empty(), "something is cross-connected");
    bench.expect_swap_back("eth2", "eth1", 210)?;
    router.run("route del 200")?;
    hang_up(&router, READ, 3)?;
    let shown = router.run("xconnect show")?;
    ensure!(shown == "eth1 <-> eth2\n", "{shown}");
    router.unload()
}

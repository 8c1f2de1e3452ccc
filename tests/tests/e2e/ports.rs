//! Ports whose interfaces change under them: renamed, gone and made anew.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::Link;
use mplsxdp_common::wire::Mac;
use mplsxdp_tests::frame::{Entry, labelled};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};

use crate::test;

const LIMIT: Duration = Duration::from_secs(10);
const PORTS: &str = "--iface eth1 --iface eth2";

pub fn tests() -> Vec<Trial> {
    vec![
        test("ports::routes_follow_a_port_that_is_renamed", renamed),
        test("ports::routes_follow_ports_that_swap_their_names", swapped),
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

    /// Frames with label 100 that arrive at the port `port` on the left, until one comes out on the right, from its port `out`.
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

fn wait_for_port(router: &Router, name: &str) -> Result<Link> {
    wait::until(&format!("port {name}"), LIMIT, || {
        let links: Vec<Link> = router.json("link show")?;
        Ok(links.into_iter().find(|link| link.name == name))
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

    // What was saved is what is there.
    let restored = router.run_with("route restore", &router.run("route save")?)?;
    ensure!(routes(&router)? == saved, "{restored}");
    // The new name is that of the port, the old one of nothing.
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
    // Each is a route of its own all the same.
    router.run("route del 200")?;
    router.run("link add other")?;
    bench.expect_swap("other", "eth2", 110)?;
    router.unload()
}

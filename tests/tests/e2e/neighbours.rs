//! Next hops as the kernel's neighbour table sees them appear, change and disappear.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{NextHopState, Resolution};
use mplsxdp_common::wire::Mac;
use mplsxdp_tests::frame::{Entry, labelled};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use serde_json::{Value, json};

use crate::test;

const LIMIT: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "neighbours::a_next_hop_is_resolved_and_a_new_mac_address_is_followed",
            mac_change,
        ),
        test("neighbours::an_ipv6_next_hop_is_resolved", ipv6),
        test("neighbours::an_interface_that_goes_down_and_comes_up", down_and_up),
        test("neighbours::a_mac_address_of_no_single_neighbour_is_not_used", bad_mac),
        test("neighbours::a_next_hop_that_moves_to_another_interface", moved),
        test(
            "neighbours::the_kernel_s_counters_are_shown_beside_ours",
            counters_of_the_kernel,
        ),
    ]
}

/// left - eth1 router eth2 - right, with a second way to the right by eth3.
struct Bench {
    router: Router,
    left: Tap,
    right: Netns,
    lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, middle, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(End::new(&left, "eth0"), End::new(&middle, "eth1"))?;
        link(
            End::new(&middle, "eth2").address("10.0.2.1/24").address("fd00:2::1/64"),
            End::new(&right, "eth0").address("10.0.2.2/24").address("fd00:2::2/64"),
        )?;
        let router = Router::load(&middle, "--iface eth1 --iface eth2")?;
        Ok(Self {
            router,
            left: Tap::open(&left, "eth0")?,
            right,
            lab,
        })
    }

    fn send(&self) -> Result<()> {
        let port = self.router.netns().mac("eth1")?;
        self.left
            .send(&labelled(port, self.left.mac(), &[Entry::new(100, 64)], b"payload"))
    }

    /// Sends until a frame gets through, and checks its addresses.
    fn expect(&self, tap: &Tap, source: Mac, destination: Mac) -> Result<()> {
        let expected = labelled(destination, source, &[Entry::new(110, 63)], b"payload");
        wait::until(&format!("a frame to {destination}"), LIMIT, || {
            self.send()?;
            Ok(tap.drain()?.contains(&expected).then_some(()))
        })
    }

    fn expect_state(&self, wanted: Resolution) -> Result<()> {
        let mut last = Vec::new();
        wait::until(&format!("next hop state {wanted:?}"), LIMIT, || {
            last = self.router.json::<Vec<NextHopState>>("neigh show")?;
            Ok(last.iter().all(|next_hop| next_hop.state == wanted).then_some(()))
        })
        .map_err(|error| error.context(format!("{last:?}")))
    }
}

fn mac_change() -> Result<()> {
    let bench = Bench::new()?;
    let tap = Tap::open(&bench.right, "eth0")?;
    let source = bench.router.netns().mac("eth2")?;
    bench.router.add_routes(&["100 as 110 via inet 10.0.2.2"])?;
    bench.expect(&tap, source, bench.right.mac("eth0")?)?;

    let changed = "02:00:00:00:77:77";
    bench.right.ip(&format!("link set dev eth0 address {changed}"))?;
    // Like a host that changes its address and informs its neighbours, here by asking one (RFC 5227 section 3).
    bench.right.ip("neigh flush dev eth0")?;
    bench.right.run("ping -n -c 1 -W 2 10.0.2.1")?;
    bench.expect(&tap, source, changed.parse().map_err(anyhow::Error::msg)?)
}

fn ipv6() -> Result<()> {
    let bench = Bench::new()?;
    let tap = Tap::open(&bench.right, "eth0")?;
    bench.router.add_routes(&["100 as 110 via inet6 fd00:2::2"])?;
    bench.expect(&tap, bench.router.netns().mac("eth2")?, bench.right.mac("eth0")?)
}

fn down_and_up() -> Result<()> {
    let bench = Bench::new()?;
    let (tap, netns) = (Tap::open(&bench.right, "eth0")?, bench.router.netns().clone());
    let source = netns.mac("eth2")?;
    bench.router.add_routes(&["100 as 110 via inet 10.0.2.2 dev eth2"])?;
    bench.expect(&tap, source, bench.right.mac("eth0")?)?;

    netns.ip("link set dev eth2 down")?;
    bench.expect_state(Resolution::LinkDown)?;
    let before = bench.router.dropped("unresolved")?;
    bench.send()?;
    wait::until("a count of unresolved", LIMIT, || {
        Ok((bench.router.dropped("unresolved")? == before + 1).then_some(()))
    })?;

    netns.ip("link set dev eth2 up")?;
    bench.expect_state(Resolution::Resolved)?;
    bench.expect(&tap, source, bench.right.mac("eth0")?)
}

/// RFC 1812 section 3.3.2.
fn bad_mac() -> Result<()> {
    let bench = Bench::new()?;
    let (tap, netns) = (Tap::open(&bench.right, "eth0")?, bench.router.netns().clone());
    let (source, good) = (netns.mac("eth2")?, bench.right.mac("eth0")?);
    bench.router.add_routes(&["100 as 110 via inet 10.0.2.2"])?;
    for (bad, nud) in [
        ("ff:ff:ff:ff:ff:ff", "permanent"),
        ("01:00:5e:00:00:01", "noarp"),
        ("00:00:00:00:00:00", "permanent"),
        ("03:00:00:00:00:01", "reachable"),
    ] {
        bench.expect(&tap, source, good)?;
        netns.ip(&format!("neigh replace 10.0.2.2 lladdr {bad} dev eth2 nud {nud}"))?;
        bench.expect_state(Resolution::BadMac)?;
        let shown = bench.router.run("neigh show")?;
        ensure!(shown.contains(&format!("lladdr {bad} bad_mac")), "{shown}");
        let shown = bench.router.run("route show")?;
        ensure!(shown.contains(" unresolved bad_mac"), "{shown}");
        let said = format!("the kernel has {bad} for this neighbour");
        wait::until(&said, LIMIT, || Ok(bench.router.said().contains(&said).then_some(())))
            .with_context(|| bench.router.said())?;
        tap.drain()?;
        let before = bench.router.dropped("unresolved")?;
        bench.send()?;
        wait::until("a count of unresolved", LIMIT, || {
            Ok((bench.router.dropped("unresolved")? == before + 1).then_some(()))
        })?;
        let sent = tap.drain()?;
        let labelled = sent.iter().filter(|frame| frame.get(12..14) == Some(&[0x88, 0x47]));
        ensure!(labelled.count() == 0, "{sent:02x?}");
        netns.ip(&format!("neigh replace 10.0.2.2 lladdr {good} dev eth2 nud reachable"))?;
        let refused = bench
            .router
            .run(&format!("route add 101 as 111 via link {bad} dev eth2"));
        let refused = format!("{:#}", refused.err().context("it was taken")?);
        ensure!(refused.contains("is not the MAC address of one neighbour"), "{refused}");
    }
    bench.router.unload()
}

fn moved() -> Result<()> {
    let bench = Bench::new()?;
    let netns = bench.router.netns().clone();
    bench.router.add_routes(&["100 as 110 via inet 10.0.2.2"])?;
    let other = bench.lab.netns("other")?;
    link(
        End::new(&netns, "eth3"),
        End::new(&other, "eth0").address("10.0.2.2/24"),
    )?;
    bench.router.run("link add eth3")?;
    netns.ip("address add 10.0.2.1/24 dev eth3")?;
    // More specific than the prefix of eth2.
    netns.ip("route add 10.0.2.2/32 dev eth3")?;
    let tap = Tap::open(&other, "eth0")?;
    bench.expect(&tap, netns.mac("eth3")?, other.mac("eth0")?)?;
    let next_hops: Vec<NextHopState> = bench.router.json("neigh show")?;
    ensure!(
        next_hops.len() == 1 && next_hops[0].dev.as_deref() == Some("eth3"),
        "{next_hops:?}"
    );
    Ok(())
}

/// `-s neigh` and `-s link` show the same as `ip` in the namespace of the instance.
fn counters_of_the_kernel() -> Result<()> {
    let bench = Bench::new()?;
    let tap = Tap::open(&bench.right, "eth0")?;
    let (router, netns) = (&bench.router, bench.router.netns());
    router.add_routes(&["100 as 110 via inet 10.0.2.2", "101 as 111 via inet6 fd00:2::2"])?;
    router.run("route add 102 as 112 via inet 10.0.2.99 dev eth2")?;
    router.run("route add 103 as 113 via link 02:00:00:00:00:09 dev eth2")?;
    bench.expect(&tap, netns.mac("eth2")?, bench.right.mac("eth0")?)?;

    // Read until nothing has happened between two reports of the kernel, except that time has passed.
    let entry = |neighbour: &Value, state: &str| {
        ["dst", "dev", "lladdr", "refcnt", "probes", state].map(|name| neighbour[name].clone())
    };
    let ages = |neighbour: &Value| ["used", "confirmed", "updated"].map(|name| neighbour[name].as_u64());
    wait::until("neighbours as the kernel reports them", LIMIT, || {
        let kernel = || -> Result<Vec<Value>> { Ok(serde_json::from_str(&netns.ip("-j -s neigh show dev eth2")?)?) };
        let before = kernel()?;
        let shown: Vec<Value> = router.json("-s neigh show")?;
        let after = kernel()?;
        let (static_, shown): (Vec<_>, Vec<_>) = shown.into_iter().partition(|shown| shown["state"] == "static");
        ensure!(static_.len() == 1 && static_[0].get("refcnt").is_none(), "{static_:?}");
        ensure!(shown.len() == 3, "{shown:?}");
        let is_the_kernel_s = |shown: &Value| {
            let mut own = entry(shown, "nud");
            // `ip` was given the interface.
            own[1] = Value::Null;
            let find = |kernel: &[Value]| kernel.iter().find(|kernel| entry(kernel, "state") == own).map(ages);
            let (Some(before), Some(after)) = (find(&before), find(&after)) else {
                return false;
            };
            let between = |index: usize, age: Option<u64>| age.is_some() && before[index] <= age && age <= after[index];
            ages(shown)
                .into_iter()
                .enumerate()
                .all(|(index, age)| between(index, age))
        };
        Ok(shown.iter().all(is_the_kernel_s).then_some(()))
    })?;

    let before: Vec<Value> = router.json("-s link show eth1")?;
    for _ in 0..3 {
        let frame = labelled(netns.mac("eth1")?, bench.left.mac(), &[Entry::new(999, 64)], b"payload");
        bench.left.send(&frame)?;
    }
    let packets = |links: &[Value]| links[0]["stats64"]["rx"]["packets"].as_u64().context("no packets");
    wait::until("three frames without a route, counted on both sides", LIMIT, || {
        let kernel: Vec<Value> = serde_json::from_str(&netns.ip("-j -s link show dev eth1")?)?;
        let shown: Vec<Value> = router.json("-s link show eth1")?;
        let reasons = &shown[0]["reasons"][0];
        Ok((kernel[0]["stats64"]["tx"] == shown[0]["stats64"]["tx"]
            && packets(&kernel)? == packets(&shown)?
            && packets(&shown)? >= packets(&before)? + 3
            && (&reasons["reason"], &reasons["packets"]) == (&json!("no-route"), &json!(3)))
            .then_some(()))
    })?;
    let shown = router.run("-s link show eth1")?;
    ensure!(shown.contains("RX:") && shown.contains("not forwarded"), "{shown}");
    Ok(())
}

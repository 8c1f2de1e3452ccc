//! Routes as people and routing daemons write, keep, choose and restore them.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::{End, Lab, Netns, Router, link};

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![test(
        "routes::lines_that_ip_prints_are_taken_and_routes_are_chosen_by_protocol_and_interface",
        pasted_and_chosen,
    )]
}

/// left - eth1 router eth2 - right.
struct Bench {
    router: Router,
    _ends: [Netns; 2],
    _lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, middle, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(
            End::new(&middle, "eth1").address("10.0.1.1/24").address("fd00:1::1/64"),
            End::new(&left, "eth0").address("10.0.1.2/24").address("fd00:1::2/64"),
        )?;
        link(
            End::new(&middle, "eth2").address("10.0.2.1/24").address("fd00:2::1/64"),
            End::new(&right, "eth0").address("10.0.2.2/24").address("fd00:2::2/64"),
        )?;
        Ok(Self {
            router: Router::load(&middle, "--iface eth1 --iface eth2")?,
            _ends: [left, right],
            _lab: lab,
        })
    }

    /// Labels and prefixes of the routes that are chosen.
    fn shown(&self, selector: &str) -> Result<Vec<String>> {
        let routes: Vec<serde_json::Value> = self.router.json(&format!("route show {selector}"))?;
        let destinations = routes
            .iter()
            .map(|route| route["dst"].as_str().unwrap_or_default().to_owned());
        Ok(destinations.collect())
    }
}

fn pasted_and_chosen() -> Result<()> {
    let bench = Bench::new()?;
    let router = &bench.router;
    // As `ip -M route`, `ip route` and `ip -6 route` print them; those with `nhid` as FRR has had them installed.
    let pasted = "100 as to 110 via inet 10.0.1.2 dev eth1 proto static ttl-propogate disabled\n\
                  101 as to 111 via inet 10.0.2.2 dev eth2 proto ospf \n\
                  102 proto bgp \n\
                  \tnexthop as to 112 via inet 10.0.1.2  dev eth1\n\
                  \tnexthop as to 113 via inet6 fd00:2::2  dev eth2\n\
                  103 nexthop dev lo\n\
                  10.100.0.3 nhid 25  encap mpls  17 via 10.0.2.2 dev eth2 proto ospf metric 20 \n\
                  10.100.0.4 nhid 26 proto ospf metric 20 rt_offload rt_trap \n\
                  \tnexthop  encap mpls  18 via 10.0.1.2 dev eth1 weight 1 \n\
                  \tnexthop  encap mpls  19/20 via 10.0.2.2 dev eth2 weight 1 onlink \n\
                  2001:db8::3 nhid 30  encap mpls  17 via fd00:2::2 dev eth2 proto isis metric 20 pref medium\n";
    let all = [
        "100",
        "101",
        "102",
        "103",
        "10.100.0.3/32",
        "10.100.0.4/32",
        "2001:db8::3/128",
    ];
    router.run_with("route restore", pasted)?;
    router.wait_resolved()?;
    ensure!(bench.shown("")? == all, "{:?}", bench.shown("")?);
    let shown = router.run("route show")?;
    for line in [
        "100 as to 110 via inet 10.0.1.2 dev eth1 ttl-propagate disabled proto static\n",
        "102 proto bgp\n\tnexthop as to 112 via inet 10.0.1.2 dev eth1 weight 1\n",
        "10.100.0.3/32 encap mpls 17 via inet 10.0.2.2 dev eth2 proto ospf metric 20\n",
    ] {
        ensure!(shown.contains(line), "no `{line}` in {shown}");
    }
    for (selector, chosen) in [
        ("proto ospf", &["101", "10.100.0.3/32", "10.100.0.4/32"][..]),
        ("dev eth1", &["100", "102", "10.100.0.4/32"]),
        ("dev lo", &["103"]),
        ("dev eth2 proto bgp", &["102"]),
        ("via inet6 fd00:2::2", &["102", "2001:db8::3/128"]),
        ("via 10.0.2.2 dev eth1", &[]),
        ("root 10.100/16 proto ospf", &["10.100.0.3/32", "10.100.0.4/32"]),
        ("match 10.100.0.3", &["10.100.0.3/32"]),
        ("101 proto ospf", &["101"]),
        ("101 proto bgp", &[]),
    ] {
        let found = bench.shown(selector)?;
        ensure!(found == chosen, "{selector}: {found:?}");
    }
    for command in ["route show dev eth7", "route flush dev eth7"] {
        let refusal = router.run(command).map_err(|error| error.to_string());
        ensure!(
            refusal
                .as_ref()
                .is_err_and(|refusal| refusal.contains("eth7 is not a port; there is no such interface")),
            "{command}: {refusal:?}"
        );
    }
    for command in ["route flush", "route f", "r fl"] {
        let refusal = router.run(command).map_err(|error| error.to_string());
        ensure!(
            refusal.is_err_and(|refusal| refusal.contains("`route flush` needs arguments")),
            "{command}"
        );
    }
    ensure!(
        bench.shown("")? == all,
        "a refusal changed something: {:?}",
        bench.shown("")?
    );

    // What was shown and what was saved is taken again, and is the same.
    let saved = router.run("route save")?;
    for text in [&saved, &shown] {
        let report = router.run_with("-s route restore", text)?;
        ensure!(report == "0 added, 0 replaced, 0 deleted\n", "{report}");
    }
    for (selector, deleted) in [
        ("dev eth1 proto ospf", 1),
        ("proto ospf", 2),
        ("dev lo", 1),
        ("proto 250", 0),
    ] {
        let report = router.run(&format!("-s route flush {selector}"))?;
        ensure!(
            report == format!("0 added, 0 replaced, {deleted} deleted\n"),
            "{selector}: {report}"
        );
    }
    ensure!(
        bench.shown("")? == ["100", "102", "2001:db8::3/128"],
        "{:?}",
        bench.shown("")?
    );
    router.run("route replace 100 as 110 via inet 10.0.1.2 dev eth1 proto bgp")?;
    ensure!(bench.shown("proto bgp")? == ["100", "102"]);
    let report = router.run_with("-s route restore", &saved)?;
    ensure!(report == "4 added, 1 replaced, 0 deleted\n", "{report}");
    ensure!(router.run("route show")? == shown, "{}", router.run("route show")?);
    router.run("route flush all")?;
    ensure!(bench.shown("")?.is_empty());
    Ok(())
}

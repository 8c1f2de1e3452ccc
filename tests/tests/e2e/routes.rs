//! Routes as people and routing daemons write, keep, select and restore them.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, NextHopState, Resolution};
use mplsxdp_tests::{End, Lab, Netns, Router, link, wait};

use crate::test;

const LIMIT: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "routes::lines_that_ip_prints_are_taken_and_routes_are_chosen_by_protocol_and_interface",
            pasted_and_chosen,
        ),
        test(
            "routes::a_restore_and_a_configuration_install_what_cannot_be_reached_yet_and_name_it",
            unreachable,
        ),
        test(
            "routes::a_full_table_takes_a_change_that_follows_a_deletion_at_once",
            full_table,
        ),
    ]
}

/// left - eth1 router eth2 - right.
struct Bench {
    router: Router,
    _ends: [Netns; 2],
    _lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        Self::with_options("")
    }

    fn with_options(options: &str) -> Result<Self> {
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
            router: Router::load(&middle, &format!("--iface eth1 --iface eth2 {options}"))?,
            _ends: [left, right],
            _lab: lab,
        })
    }

    /// Labels and prefixes of the selected routes.
    fn shown(&self, selector: &str) -> Result<Vec<String>> {
        let routes: Vec<serde_json::Value> = self.router.json(&format!("route show {selector}"))?;
        let destinations = routes
            .iter()
            .map(|route| route["dst"].as_str().unwrap_or_default().to_owned());
        Ok(destinations.collect())
    }
}

/// The slot of a label stack is free again only after a grace period: an earlier change waits for it, and is refused
/// only if there is still no room.
fn full_table() -> Result<()> {
    let bench = Bench::with_options("--stacks 1")?;
    let router = &bench.router;
    let added = |label: u32| format!("route add {label} as {0}/{0} via inet 10.0.1.2 dev eth1", label + 100);
    router.run(&added(100))?;
    let changes: String = (100..150)
        .map(|label| format!("route del {label}\n{}\n", added(label + 1)))
        .collect();
    router.run_with("--batch -", &changes)?;
    match router.run(&added(151)) {
        Ok(_) => bail!("there is a stack too many"),
        Err(error) => ensure!(
            format!("{error:#}").contains("no room for another label stack"),
            "{error:#}"
        ),
    }
    ensure!(bench.shown("")? == ["150"]);
    Ok(())
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

    // Shown and saved routes can be used as input, and are the same.
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

/// A command that is refused, and its message.
fn refusal(router: &Router, command: &str) -> Result<String> {
    match router.run(command) {
        Ok(said) => bail!("`{command}` was done: {said}"),
        Err(error) => Ok(error.to_string()),
    }
}

fn unreachable() -> Result<()> {
    let lab = Lab::new()?;
    let (left, middle, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
    link(
        End::new(&middle, "eth1").address("10.0.1.1/24"),
        End::new(&left, "eth0").address("10.0.1.2/24"),
    )?;
    for (ours, theirs, netns, number) in [("eth2", "eth0", &right, 2), ("eth3", "eth1", &right, 3)] {
        link(
            End::new(&middle, ours).address(&format!("10.0.{number}.1/24")),
            End::new(netns, theirs).address(&format!("10.0.{number}.2/24")),
        )?;
    }
    let lines = "100 as 110 via inet 10.0.1.2\n\
                 101 as 111 via inet 10.0.2.2\n\
                 102 as 112 via inet 10.0.3.2\n\
                 103 as 113 via inet 192.0.2.1\n\
                 104 as 114 via link 02:00:00:00:00:01 dev eth9\n";
    let reasons = [
        "102 waits: via inet 10.0.3.2: eth3 is not a port of this switch: add it with `mplsxdp link add eth3`",
        "104 waits: via link 02:00:00:00:00:01 dev eth9: there is no interface eth9; `ip link show` lists them",
    ];
    let down = "via inet 10.0.2.2: 10.0.2.2 is in the network of eth2, but eth2 is down: `ip link set eth2 up`";
    let router = Router::load(&middle, "--iface eth1 --iface eth2")?;
    middle.ip("link set eth2 down")?;
    wait::until("the link's state", LIMIT, || {
        let links: Vec<Link> = router.json("link show")?;
        Ok(links.iter().any(|link| !link.up).then_some(()))
    })?;

    // A single route is refused, with what helps.
    for (route, reason) in [
        (
            "101 as 111 via inet 10.0.2.2",
            "10.0.2.2 is in the network of eth2, but eth2 is down: `ip link set eth2 up`",
        ),
        (
            "103 as 113 via inet 192.0.2.1",
            "the kernel has no route to 192.0.2.1, and eth2 is down: `ip link set eth2 up`; or give an interface an address in \
             its network (`ip address add`), or add `dev IFACE`",
        ),
    ] {
        let said = refusal(&router, &format!("route add {route}"))?;
        ensure!(said.contains(reason), "{said}");
    }

    // All routes of a file are installed, and those that wait are named, each time.
    for report in ["5 added, 0 replaced, 0 deleted\n", "0 added, 0 replaced, 0 deleted\n"] {
        let (said, warned) = router.run_with_warnings("-s route restore", lines)?;
        ensure!(said == report, "{said}");
        ensure!(warned.contains(&format!("101 waits: {down}")), "{warned}");
        for reason in reasons {
            ensure!(warned.contains(reason), "no `{reason}` in {warned}");
        }
        ensure!(
            !warned.contains("100 waits") && warned.contains("4 routes wait "),
            "{warned}"
        );
    }
    // They start to work once there is a way.
    middle.ip("link set eth2 up")?;
    router.run("link add eth3")?;
    middle.ip("address add 192.0.2.9/24 dev eth3")?;
    right.ip("address add 192.0.2.1/24 dev eth1")?;
    wait::until("three more next hops", LIMIT, || {
        let next_hops: Vec<NextHopState> = router.json("neigh show")?;
        let resolved = next_hops.iter().filter(|hop| hop.state == Resolution::Resolved);
        Ok((resolved.count() == 4).then_some(()))
    })?;
    router.unload()?;

    // The same for a configuration, in the log.
    let file = std::env::temp_dir().join(format!("{}.toml", middle.name()));
    let routes: Vec<String> = lines.lines().take(4).map(|line| format!("{line:?}")).collect();
    std::fs::write(&file, format!("routes = [{}]\n", routes.join(", ")))?;
    let options = format!("--iface eth1 --iface eth2 --config {}", file.display());
    middle.ip("address del 192.0.2.9/24 dev eth3")?;
    let router = Router::load(&middle, &options);
    std::fs::remove_file(&file)?;
    let router = router?;
    let said = router.said_at_load()?;
    for reason in [
        "the route of 102 waits: via inet 10.0.3.2: eth3 is not a port of this switch",
        "the route of 103 waits: via inet 192.0.2.1: the kernel has no route to 192.0.2.1",
    ] {
        ensure!(said.contains(reason), "no `{reason}` in {said}");
    }
    ensure!(!said.contains("the route of 101"), "{said}");
    router.run("link add eth3")?;
    middle.ip("address add 192.0.2.9/24 dev eth3")?;
    router.wait_resolved()
}

//! What is lost when a protected link of PR fails: without FRR's backups, and with them (`--sync frr`). The backups take
//! labels of their own: P2 would send packets for PE2 back to PR, so PR puts P2's adjacency SID on top.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::{Lab, Router, wait};
use nix::sys::signal::Signal;

use crate::frr::Frr;
use crate::kernel_counters::mpls_packets;
use crate::net::{Node, address, link, tapped_link};
use crate::show::{ask, heading, load, shell, title};
use crate::traffic::{Counted, INTERVAL, Traffic};

const ROUNDS: usize = 1;
/// For IS-IS, in a guest without KVM.
const CONVERGENCE: Duration = Duration::from_secs(120);
/// How long FRR is stopped while the link is down: shorter than IS-IS' hold time.
const FROZEN: Duration = Duration::from_secs(3);
const PE2: &str = "10.255.0.2";
const LABEL: &str = "16002";
const PORTS: &str = "--sync kernel --iface to-PE1 --iface to-PE2 --iface to-P2 --iface to-H";

struct Nodes {
    pe1: Node,
    pe2: Node,
    pr: Node,
    p2: Node,
    host: Node,
    cable: Node,
}

/// Which packets are counted.
#[derive(Clone, Copy)]
enum From {
    /// They arrive at PR with a label.
    Pe1,
    /// PR imposes the labels.
    Host,
}

pub fn run(lab: &Lab) -> Result<()> {
    title("A link that TI-LFA protects fails under numbered traffic to PE2");
    println!(
        "
  PE1 =========== PR ======= x ======= PE2
                / \\\\                  //
              H     ======= P2 =======   (costs 60)
"
    );
    let nodes = Nodes::new(lab)?;
    heading("FRR starts: labs/ti-lfa");
    let start = |node, name| Frr::start(node, &format!("ti-lfa/{name}.conf"), &["isisd"], "");
    let _others = [
        start(&nodes.pe1, "PE1")?,
        start(&nodes.pe2, "PE2")?,
        start(&nodes.p2, "P2")?,
    ];
    let frr = start(&nodes.pr, "PR")?;
    settled(&nodes, &frr)?;
    frr.show("show isis fast-reroute summary")?;
    frr.show("show mpls table json")?;
    frr.show("show ip route isis json")?;
    shell(&nodes.pr, "ip -f mpls route show")?;
    shell(&nodes.p2, "ip -f mpls route show")?;

    let mut table = Vec::new();
    heading("mplsxdp on PR without FRR's backups");
    let router = load(&nodes.pr, PORTS)?;
    synchronised(&router, false)?;
    rounds(&nodes, &frr, &router, false, &mut table)?;
    router.unload()?;

    heading("mplsxdp on PR with FRR's backups");
    let router = load(&nodes.pr, &format!("{PORTS} --sync frr=/run/frr/PR"))?;
    synchronised(&router, true)?;
    ask(&nodes.pr, &router, "route show")?;
    ask(&nodes.pr, &router, "sync show")?;
    rounds(&nodes, &frr, &router, true, &mut table)?;

    heading("In short: what was lost when the link failed (a datagram every 5 ms)");
    for (what, lost) in table {
        println!("{what:<47} {lost}");
    }
    router.unload()
}

impl Nodes {
    fn new(lab: &Lab) -> Result<Self> {
        let node = |name| Node::new(lab, name);
        let nodes = Self {
            pe1: node("PE1")?,
            pe2: node("PE2")?,
            pr: node("PR")?,
            p2: node("P2")?,
            host: node("H")?,
            cable: node("PR-PE2")?,
        };
        let Self {
            pe1,
            pe2,
            pr,
            p2,
            host,
            cable,
        } = &nodes;
        link(pe1, pr)?;
        tapped_link(pr, cable, pe2)?;
        link(pr, p2)?;
        link(p2, pe2)?;
        link(host, pr)?;
        address(host, "to-PR", &["10.0.5.1/24"])?;
        host.run("ip route add default via 10.0.5.2")?;
        for (router, interfaces) in [
            (pe1, &["to-PR"][..]),
            (pe2, &["to-PR", "to-P2", "lo"]),
            (pr, &["to-PE1", "to-PE2", "to-P2"]),
            (p2, &["to-PR", "to-PE2", "lo"]),
        ] {
            router.sysctls("router.sysctl")?;
            router.accept_labels(interfaces)?;
        }
        Ok(nodes)
    }

    /// The carrier of PR's link to PE2 is lost, or is back.
    fn set_link(&self, state: &str) -> Result<()> {
        self.cable.run_all(&[&format!("ip link set dev a {state}")])
    }
}

/// Waits until PR's first way to PE2 is their link, with a backup in zebra, and P2 has the labels that the backup takes.
fn settled(nodes: &Nodes, frr: &Frr<'_>) -> Result<()> {
    wait::until("PE2's label on PR, with a backup", CONVERGENCE, || {
        std::thread::sleep(INTERVAL * 40);
        let kernel = nodes.pr.run("ip -f mpls route show")?;
        let is_first = |line: &str| line.starts_with(LABEL) && line.contains("dev to-PE2");
        let from = nodes.pe1.run(&format!("ip route show {PE2}"))?;
        let table: serde_json::Value = serde_json::from_str(&frr.ask("show mpls table json")?)?;
        let stack = &table[LABEL]["backupNexthops"][0]["outLabelStack"];
        let on_p2 = nodes.p2.run("ip -f mpls route show")?;
        let adjacency = |line: &str| line.starts_with(&stack[1].to_string()) && line.contains("dev to-PE2");
        let ready = kernel.lines().any(is_first) && from.contains("encap mpls") && on_p2.lines().any(adjacency);
        Ok(ready.then_some(()))
    })
}

/// Waits until mplsxdp has PE2's label and prefix by their link, with backups or without.
fn synchronised(router: &Router, with_backups: bool) -> Result<()> {
    wait::until("PE2's label and prefix in mplsxdp", CONVERGENCE, || {
        let routes = router.run("route show")?;
        let is_it = |line: &str, begin: &str| {
            let is_first = line.starts_with(begin) && line.contains("via inet 10.0.2.1 dev to-PE2");
            is_first && line.contains("backup ") == with_backups && line.contains("backups frr") == with_backups
        };
        let has = |begin: &str| routes.lines().any(|line| is_it(line, begin));
        Ok((has(&format!("{LABEL} ")) && has(&format!("{PE2}/32 "))).then_some(()))
    })
    .with_context(|| router.run("route show").unwrap_or_default())?;
    router.wait_resolved()
}

fn rounds(
    nodes: &Nodes,
    frr: &Frr<'_>,
    router: &Router,
    with_backups: bool,
    table: &mut Vec<(String, Counted)>,
) -> Result<()> {
    let which = if with_backups { "with backups" } else { "without" };
    for (from, what) in [(From::Pe1, "label"), (From::Host, "prefix")] {
        for _ in 0..ROUNDS {
            let lost = fail(nodes, frr, router, from, with_backups, None)?;
            table.push((format!("{which}, {what}, until FRR has another way"), lost));
        }
        let lost = fail(nodes, frr, router, from, with_backups, Some(FROZEN))?;
        let frozen = FROZEN.as_secs();
        table.push((format!("{which}, {what}, FRR stopped for {frozen} s"), lost));
        // Everything, or only what was sent before the switch knew.
        ensure!(
            if with_backups {
                lost.lost < lost.sent / 10
            } else {
                lost.lost > lost.sent / 2
            },
            "while FRR was stopped: {lost}"
        );
    }
    Ok(())
}

/// The link fails under traffic, and comes up again. `frozen`: the FRR of PR is stopped for so long before it can notice,
/// and the traffic ends before it goes on.
fn fail(
    nodes: &Nodes,
    frr: &Frr<'_>,
    router: &Router,
    from: From,
    with_backups: bool,
    frozen: Option<Duration>,
) -> Result<Counted> {
    let by_p2 = || Ok::<_, anyhow::Error>(mpls_packets(&nodes.p2, &["to-PR"])?.received);
    let from = match from {
        From::Pe1 => &nodes.pe1,
        From::Host => &nodes.host,
    };
    let before = by_p2()?;
    let traffic = Traffic::start(from, &nodes.pe2, PE2.parse()?)?;
    std::thread::sleep(INTERVAL * 100);
    let lost = match frozen {
        Some(time) => {
            frr.signal(Signal::SIGSTOP)?;
            nodes.set_link("down")?;
            std::thread::sleep(time);
            let lost = traffic.count();
            let routes = router.run(&format!("route get {LABEL}"));
            frr.signal(Signal::SIGCONT)?;
            let routes = routes?;
            ensure!(
                routes.contains("in-use") == with_backups,
                "the backup was to be used with `--sync frr` only:\n{routes}"
            );
            ensure!(!with_backups || by_p2()? > before, "P2 was to see the labelled packets");
            lost?
        }
        None => {
            nodes.set_link("down")?;
            rerouted(nodes)?;
            std::thread::sleep(INTERVAL * 200);
            let lost = traffic.count()?;
            ensure!(by_p2()? > before, "P2 was to see the labelled packets");
            lost
        }
    };
    rerouted(nodes)?;
    println!("{lost}");
    nodes.set_link("up")?;
    settled(nodes, frr)?;
    synchronised(router, with_backups)?;
    Ok(lost)
}

/// Waits until PR's kernel has another way to PE2.
fn rerouted(nodes: &Nodes) -> Result<()> {
    wait::until("another way in PR's kernel", CONVERGENCE, || {
        std::thread::sleep(INTERVAL * 40);
        let kernel = nodes.pr.run("ip -f mpls route show")?;
        let is_second = |line: &str| line.starts_with(LABEL) && line.contains("dev to-P2");
        Ok(kernel.lines().any(is_second).then_some(()))
    })
}

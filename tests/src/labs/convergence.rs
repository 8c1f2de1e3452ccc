//! What is lost when a link of PR fails and there is a second way: by PR's kernel, and by mplsxdp. On the second way PR
//! swaps labels, which it only pops on the first.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mplsxdp_tests::{Lab, Router, wait};

use crate::frr::Frr;
use crate::kernel_counters::mpls_packets;
use crate::l3vpn::{CORE, CORE_DAEMONS, Nodes, Routers, synchronised, unseen};
use crate::net::{Node, link, tapped_link};
use crate::show::{ask, heading, load, ping, shell, title};
use crate::traffic::{Counted, INTERVAL, Traffic};
use crate::watch::{Watch, stack};

const ROUNDS: usize = 3;
const EACH_ROUND: &str =
    "Three rounds: the link goes down, and it comes up again once OSPF and LDP have found the second way.";
const RECOVERY: Duration = Duration::from_secs(60);

pub fn run(lab: &Lab) -> Result<()> {
    title("A link of PR fails under numbered traffic from CE1 to CE2");
    println!(
        "
  CE1 --- PE1 =========== PR ====== x ====== PE2 --- CE2
                            \\               //
                             ===== P2 ======        (costs more)
"
    );
    let nodes = Nodes::new(lab)?;
    let (p2, cable) = (Node::new(lab, "P2")?, Node::new(lab, "PR-P2")?);
    tapped_link(&nodes.pr, &cable, &p2)?;
    link(&p2, &nodes.pe[1])?;
    p2.sysctls("router.sysctl")?;
    p2.accept_labels(&["to-PR", "to-PE2"])?;
    nodes.pr.accept_labels(&["to-P2"])?;
    nodes.pe[1].accept_labels(&["to-P2"])?;
    heading("FRR starts: labs/convergence");
    let _second = Frr::start(&p2, "convergence/P2.conf", &CORE_DAEMONS, "")?;
    let routers = Routers::start(&nodes, "convergence", &CORE_DAEMONS)?;
    routers.converged()?;
    settled(&nodes, "to-PE2")?;
    shell(&nodes.pr, "ip -f mpls route show")?;

    let mut table = Vec::new();
    heading("PR's kernel forwards");
    println!("{EACH_ROUND}");
    for _ in 0..ROUNDS {
        table.push(("kernel", fail(&nodes, &p2)?));
    }
    heading("mplsxdp on PR forwards");
    let router = load(&nodes.pr, "--sync kernel --iface to-PE1 --iface to-PE2 --iface to-P2")?;
    synchronised(&router, &nodes.pr)?;
    for _ in 0..ROUNDS {
        table.push(("mplsxdp", fail(&nodes, &p2)?));
        synchronised(&router, &nodes.pr)?;
    }
    swaps(&nodes, &cable, &router)?;
    heading("In short: what was lost when the link failed (a datagram every 5 ms)");
    for (who, lost) in table {
        println!("{who:<8} {lost}");
    }
    router.unload()
}

/// Waits until PR's kernel reaches PE2 through this interface, by its routes and by its labels.
fn settled(nodes: &Nodes, interface: &str) -> Result<()> {
    wait::until(&format!("PE2 behind {interface} of PR"), RECOVERY, || {
        let route = nodes.pr.run("ip route show 10.255.0.2")?;
        let is_first = nodes.pr.run("ip -f mpls route show")?.contains("dev to-PE2");
        let ready = route.contains(&format!("dev {interface}")) && is_first == (interface == "to-PE2");
        std::thread::sleep(INTERVAL * 40);
        Ok(ready.then_some(()))
    })
}

/// The link to PE2 goes down and comes up again.
fn fail(nodes: &Nodes, p2: &Node) -> Result<Counted> {
    let before = mpls_packets(p2, &["to-PR"])?.received;
    let traffic = Traffic::start(&nodes.ce[0], &nodes.ce[1], "192.168.2.1".parse()?)?;
    std::thread::sleep(INTERVAL * 200);
    nodes.pr.run_all(&["ip link set to-PE2 down"])?;
    settled(nodes, "to-P2")?;
    std::thread::sleep(INTERVAL * 400);
    let lost = traffic.count()?;
    println!("{lost}");
    let by_p2 = mpls_packets(p2, &["to-PR"])?.received - before;
    ensure!(by_p2 > 0, "P2 was to see the labelled packets");
    restore(nodes)?;
    Ok(lost)
}

/// The link to PE2 comes up again, and is used.
fn restore(nodes: &Nodes) -> Result<()> {
    nodes.pr.run_all(&["ip link set to-PE2 up"])?;
    settled(nodes, "to-PE2")?;
    both_ways(nodes)
}

/// Waits until PE2 has found the same way back.
fn both_ways(nodes: &Nodes) -> Result<()> {
    let ce1 = &nodes.ce[0];
    wait::until("pings", RECOVERY, || {
        let answered = ce1.output("ping -n -c 1 -W 1 192.168.2.1")?.contains("ttl=");
        Ok(answered.then_some(()))
    })
}

/// By the second way, PR swaps the outer label for P2's and leaves the inner one as it is.
fn swaps(nodes: &Nodes, cable: &Node, router: &Router) -> Result<()> {
    let pr = &nodes.pr;
    heading("The second way: PR swaps the outer label in XDP, and P2 pops it");
    pr.run_all(&["ip link set to-PE2 down"])?;
    settled(nodes, "to-P2")?;
    let routes = wait::until("the label by P2 in mplsxdp", RECOVERY, || {
        let routes = router.run("route show")?;
        Ok((!routes.contains("dev to-PE2")).then_some(routes))
    })?;
    router.wait_resolved()?;
    both_ways(nodes)?;
    ask(pr, router, "route show")?;
    let watches = [Watch::start(&nodes.cables[0], "mpls")?, Watch::start(cable, "mpls")?];
    let before = mpls_packets(pr, &CORE)?;
    ping(&nodes.ce[0], "192.168.2.1", 62)?;
    let request = ["192.168.1.1 > 192.168.2.1: ICMP echo request"];
    let [left] = watches[0].first(request)?.map(|line| stack(&line));
    let [right] = watches[1].first(request)?.map(|line| stack(&line));
    let ([(label, 63), inner @ ..], [(swapped, 62), inner_on @ ..]) = (&left[..], &right[..]) else {
        bail!("PR was to take 1 off the TTL of the outer label: {left:?} to {right:?}");
    };
    ensure!(
        inner.len() == 1 && inner == inner_on && routes.contains(&format!("{label} as to {swapped} via inet 10.0.3.4")),
        "PR was to swap by its route, and to leave the inner label as it is: {left:?} to {right:?} by\n{routes}"
    );
    unseen(pr, before)?;
    restore(nodes)
}

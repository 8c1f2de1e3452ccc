//! What is lost when a link of PR fails and there is a second way: by PR's kernel, and by mplsxdp.

use std::time::Duration;

use anyhow::{Result, ensure};
use mplsxdp_tests::{Lab, wait};

use crate::frr::Frr;
use crate::kernel_counters::mpls_packets;
use crate::l3vpn::{CORE_DAEMONS, Nodes, Routers, synchronised};
use crate::net::{Node, link};
use crate::show::{command, heading, load, ping, shell, title};
use crate::traffic::{Counted, INTERVAL, Traffic};

const ROUNDS: usize = 3;
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
    let p2 = Node::new(lab, "P2")?;
    for (a, b) in [(&nodes.pr, &p2), (&p2, &nodes.pe[1])] {
        link(a, b)?;
    }
    p2.sysctls("router.sysctl")?;
    p2.accept_labels(&["to-PR", "to-PE2"])?;
    nodes.pr.accept_labels(&["to-P2"])?;
    nodes.pe[1].accept_labels(&["to-P2"])?;
    let _second = Frr::start(&p2, "convergence/P2.conf", &CORE_DAEMONS, "")?;
    let routers = Routers::start(&nodes, "convergence", &CORE_DAEMONS)?;
    routers.converged()?;
    settled(&nodes, "to-PE2")?;
    shell(&nodes.pr, "ip -f mpls route show")?;

    let mut table = Vec::new();
    heading("PR's kernel forwards");
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
    heading("In short (a datagram every 5 ms)");
    for (who, lost) in table {
        println!("{who:<8} {lost}");
    }
    router.unload()
}

/// Waits until PR's kernel routes to PE2 through this interface.
fn settled(nodes: &Nodes, interface: &str) -> Result<()> {
    wait::until(&format!("PE2 behind {interface} of PR"), RECOVERY, || {
        let route = nodes.pr.run("ip route show 10.255.0.2")?;
        let labels = nodes.pr.run("ip -f mpls route show")?;
        let ready = route.contains(&format!("dev {interface}")) && labels.contains(&format!("dev {interface}"));
        std::thread::sleep(INTERVAL * 40);
        Ok(ready.then_some(()))
    })
}

/// The link to PE2 goes down and comes up again.
fn fail(nodes: &Nodes, p2: &Node) -> Result<Counted> {
    let before = mpls_packets(p2, &["to-PR"])?.received;
    let traffic = Traffic::start(&nodes.ce[0], &nodes.ce[1], "192.168.2.1".parse()?)?;
    std::thread::sleep(INTERVAL * 200);
    command(&nodes.pr, "ip link set to-PE2 down");
    nodes.pr.run("ip link set to-PE2 down")?;
    settled(nodes, "to-P2")?;
    std::thread::sleep(INTERVAL * 400);
    let lost = traffic.count()?;
    println!("{lost}");
    let by_p2 = mpls_packets(p2, &["to-PR"])?.received - before;
    ensure!(by_p2 > 0, "P2 was to see the labelled packets");
    nodes.pr.run("ip link set to-PE2 up")?;
    settled(nodes, "to-PE2")?;
    wait::until("pings by the first way", RECOVERY, || {
        Ok(nodes.ce[0]
            .output("ping -n -c 1 -W 1 192.168.2.1")?
            .contains("ttl=")
            .then_some(()))
    })?;
    ping(&nodes.ce[0], "192.168.2.1", 62)?;
    Ok(lost)
}

//! Two customers' networks behind two provider edge routers that run FRR, and a P router between them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mplsxdp_tests::{Lab, wait};

use crate::frr::Frr;
use crate::kernel_counters::{mpls_packets, show_mpls_packets};
use crate::net::{Node, link, tapped_link};
use crate::show::{heading, hop, no_ping, ping, shell, title};
use crate::watch::{Watch, stack};

const DRAWING: &str = "
  CUSTA  CE1 192.168.1.1 ---+                                          +--- CE2 192.168.2.1  CUSTA
                            |                                          |
                           PE1 =========== PR =========== PE2
                            |  10.0.1.0/24    10.0.2.0/24  |
  CUSTB  CE3 192.168.3.1 ---+                              +--- CE4 192.168.4.1  CUSTB
                       10.255.0.1   10.255.0.3   10.255.0.2
                          OSPF and LDP on both links; VPN routes by BGP from PE1 to PE2
";
/// For OSPF, LDP and BGP, one after the other, in a guest without KVM.
const CONVERGENCE: Duration = Duration::from_secs(120);
/// PR's interfaces.
const CORE: [&str; 2] = ["to-PE1", "to-PE2"];
/// Each customer's interface on a PE, with its VRF and the number of the table.
const VRFS: [(&str, &str); 2] = [("CUSTA", "10"), ("CUSTB", "20")];

pub struct Nodes {
    pub ce: [Node; 4],
    pub pe: [Node; 2],
    pub pr: Node,
    pub cables: [Node; 2],
}

impl Nodes {
    /// Namespaces, cables, VRFs and sysctls; no FRR.
    pub fn new(lab: &Lab) -> Result<Self> {
        let node = |name| Node::new(lab, name);
        let nodes = Self {
            ce: [node("CE1")?, node("CE2")?, node("CE3")?, node("CE4")?],
            pe: [node("PE1")?, node("PE2")?],
            pr: node("PR")?,
            cables: [node("PE1-PR")?, node("PR-PE2")?],
        };
        let Self { ce, pe, pr, cables } = &nodes;
        tapped_link(&pe[0], &cables[0], pr)?;
        tapped_link(pr, &cables[1], &pe[1])?;
        for (index, ce) in ce.iter().enumerate() {
            link(ce, &pe[index % 2])?;
            let (number, to_pe) = (index + 1, format!("to-PE{}", index % 2 + 1));
            ce.run(&format!("ip address add 192.168.{number}.1/24 dev {to_pe}"))?;
            ce.run(&format!("ip address add 172.16.{number}.1/24 dev lo"))?;
            ce.run(&format!("ip route add default via 192.168.{number}.254"))?;
        }
        for (index, pe) in pe.iter().enumerate() {
            for ((vrf, table), ce) in VRFS.into_iter().zip(ce.iter().skip(index).step_by(2)) {
                pe.run_all(&[
                    &format!("ip link add {vrf} type vrf table {table}"),
                    &format!("ip link set {vrf} up"),
                    &format!("ip link set to-{} master {vrf}", ce.name()),
                ])?;
            }
            pe.sysctls("router.sysctl")?;
            pe.accept_labels(&["to-PR"])?;
        }
        pr.sysctls("router.sysctl")?;
        pr.accept_labels(&CORE)?;
        Ok(nodes)
    }
}

/// FRR on the three routers.
pub struct Routers<'a> {
    pub pe: [Frr<'a>; 2],
    pub pr: Frr<'a>,
}

impl<'a> Routers<'a> {
    pub fn start(nodes: &'a Nodes, zebra_of_pr: &'static str) -> Result<Self> {
        const PE: [&str; 3] = ["ospfd", "ldpd", "bgpd"];
        Ok(Self {
            pr: Frr::start(&nodes.pr, "l3vpn/PR.conf", &PE[..2], zebra_of_pr)?,
            pe: [
                Frr::start(&nodes.pe[0], "l3vpn/PE1.conf", &PE, "")?,
                Frr::start(&nodes.pe[1], "l3vpn/PE2.conf", &PE, "")?,
            ],
        })
    }

    /// Waits until both PEs route both customers' networks behind the other PE through two labels.
    pub fn converged(&self) -> Result<()> {
        let begin = Instant::now();
        for (pe, networks) in self
            .pe
            .iter()
            .zip([["172.16.2.0/24", "172.16.4.0/24"], ["172.16.1.0/24", "172.16.3.0/24"]])
        {
            for ((vrf, _), network) in VRFS.into_iter().zip(networks) {
                let line = format!("ip route show vrf {vrf} {network}");
                wait::until(
                    &format!("{network} with labels on {}", pe.node().name()),
                    CONVERGENCE,
                    || {
                        let route = pe.node().run(&line)?;
                        let labels = route
                            .split("encap mpls")
                            .nth(1)
                            .and_then(|rest| rest.split_whitespace().next());
                        let two = labels.is_some_and(|labels| labels.split('/').count() == 2);
                        std::thread::sleep(Duration::from_millis(300));
                        Ok(two.then_some(()))
                    },
                )?;
            }
        }
        println!("(after {} s)", begin.elapsed().as_secs());
        Ok(())
    }
}

pub fn run(lab: &Lab) -> Result<()> {
    title("An MPLS VPN: FRR on every router, mplsxdp on PR");
    println!("{DRAWING}");
    heading("VRFs, and labels accepted on the core's interfaces");
    let nodes = Nodes::new(lab)?;
    heading("FRR starts: labs/l3vpn/PE1.conf, PR.conf, PE2.conf");
    let routers = Routers::start(&nodes, "")?;
    routers.converged()?;
    routers.pr.show("show mpls ldp neighbor")?;
    routers.pr.show("show mpls table")?;
    shell(&nodes.pe[0], "ip route show vrf CUSTA")?;
    shell(&nodes.pr, "ip -f mpls route show")?;
    by_kernel(&nodes)
}

/// How it is without mplsxdp.
fn by_kernel(nodes: &Nodes) -> Result<()> {
    let [ce1, _, ce3, _] = &nodes.ce;
    heading("PR's kernel forwards");
    let before = mpls_packets(&nodes.pr, &CORE)?;
    let watches = [
        Watch::start(&nodes.cables[0], "mpls")?,
        Watch::start(&nodes.cables[1], "mpls")?,
    ];
    ping(ce1, "192.168.2.1", 62)?;
    let request = "192.168.1.1 > 192.168.2.1: ICMP echo request";
    let [left] = watches[0].first([request])?;
    let [right] = watches[1].first([request])?;
    let (left, right) = (stack(&left), stack(&right));
    ensure!(
        left.len() == 2 && right == left[1..],
        "{left:?} to {right:?}: the outer label was to go, the inner to stay"
    );
    drop(watches);
    ping(ce3, "192.168.4.1", 62)?;
    no_ping(ce1, "192.168.4.1")?;
    show_mpls_packets(&nodes.pr, &CORE)?;
    let after = mpls_packets(&nodes.pr, &CORE)?;
    ensure!(
        after.received >= before.received + 12,
        "{before:?} to {after:?}: PR's kernel was to count 12 pings"
    );
    let trace = shell(ce1, "traceroute -n -e -q 1 -w 2 192.168.2.1")?;
    ensure!(hop(&trace, 2).contains('*'), "PR's kernel was not expected to answer");
    Ok(())
}

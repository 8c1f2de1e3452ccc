//! Two customers' networks behind two provider edge routers that run FRR, and a P router between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::{Lab, Router, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::frr::Frr;
use crate::kernel_counters::{MplsPackets, mpls_packets, show_mpls_packets};
use crate::net::{Node, link, tapped_link};
use crate::show::{self, ask, heading, hop, load, no_ping, ping, shell, title};
use crate::traffic::Traffic;
use crate::watch::{Watch, stack};

pub const DRAWING: &str = "
  CUSTA  CE1 192.168.1.1 ---+                              +--- CE2 192.168.2.1  CUSTA
                            |                              |
                           PE1 =========== PR =========== PE2
                            |  10.0.1.0/24    10.0.2.0/24  |
  CUSTB  CE3 192.168.3.1 ---+                              +--- CE4 192.168.4.1  CUSTB
                       10.255.0.1      10.255.0.3      10.255.0.2
                          OSPF and LDP on both links; VPN routes by BGP from PE1 to PE2
";
/// For OSPF, LDP and BGP, one after the other, in a guest without KVM.
const CONVERGENCE: Duration = Duration::from_secs(120);
const SYNCHRONISED: Duration = Duration::from_secs(10);
pub const CORE_DAEMONS: [&str; 2] = ["ospfd", "ldpd"];
/// PR's interfaces.
pub const CORE: [&str; 2] = ["to-PE1", "to-PE2"];
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
        heading("VRFs, and labels accepted on the core's interfaces");
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
    /// With the configurations of a directory; `core` are the daemons of all three.
    pub fn start(nodes: &'a Nodes, directory: &str, core: &[&'static str]) -> Result<Self> {
        Ok(Self {
            pr: Frr::start(&nodes.pr, &format!("{directory}/PR.conf"), core, "")?,
            pe: Self::edges(nodes, directory, core)?,
        })
    }

    /// With LDP; PR has another configuration, and options for zebra.
    pub fn with_pr(nodes: &'a Nodes, configuration: &str, zebra: &str) -> Result<Self> {
        Ok(Self {
            pr: Frr::start(&nodes.pr, configuration, &CORE_DAEMONS, zebra)?,
            pe: Self::edges(nodes, "l3vpn", &CORE_DAEMONS)?,
        })
    }

    fn edges(nodes: &'a Nodes, directory: &str, core: &[&'static str]) -> Result<[Frr<'a>; 2]> {
        let daemons = [core, &["bgpd"]].concat();
        let [pe1, pe2] = &nodes.pe;
        Ok([
            Frr::start(pe1, &format!("{directory}/PE1.conf"), &daemons, "")?,
            Frr::start(pe2, &format!("{directory}/PE2.conf"), &daemons, "")?,
        ])
    }

    /// Waits until PR has a label for each PE again, in zebra and in the kernel, and both LDP sessions.
    pub fn relearned(&self) -> Result<()> {
        wait::until("both LDP sessions and labels of PR", CONVERGENCE, || {
            std::thread::sleep(Duration::from_millis(300));
            // A daemon that has just started may not answer yet.
            let Ok(sessions) = self.pr.ask("show mpls ldp neighbor") else {
                return Ok(None);
            };
            // The kernel may still have labels of a zebra that was killed.
            let labels = self.pr.ask("show mpls table")?.matches(" LDP ").count();
            let routes = self.pr.node().run("ip -f mpls route show")?;
            let ways = CORE.iter().all(|interface| routes.contains(interface));
            let up = sessions.matches("OPERATIONAL").count() == 2;
            Ok((up && labels == 2 && ways).then_some(()))
        })
    }

    /// The same as [`Self::wait_converged`], and says what is waited for.
    pub fn converged(&self) -> Result<()> {
        println!("Waiting until both PEs have labels for the networks behind the other; half a minute to two ...");
        let begin = Instant::now();
        self.wait_converged()?;
        println!("... which they have after {} s.", begin.elapsed().as_secs());
        Ok(())
    }

    /// Waits until both PEs route both customers' networks behind the other PE through two labels.
    pub fn wait_converged(&self) -> Result<()> {
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
        Ok(())
    }
}

/// The VPN, with mplsxdp following the kernel's routes.
pub fn run(lab: &Lab) -> Result<()> {
    title("An MPLS VPN: FRR on every router, mplsxdp on PR by the kernel's routes");
    println!("{DRAWING}");
    let nodes = Nodes::new(lab)?;
    heading("FRR starts: labs/l3vpn/PE1.conf, PR.conf, PE2.conf");
    let routers = Routers::start(&nodes, "l3vpn", &CORE_DAEMONS)?;
    routers.converged()?;
    routers.pr.show("show mpls ldp neighbor")?;
    routers.pr.show("show mpls table")?;
    shell(&nodes.pe[0], "ip route show vrf CUSTA")?;
    shell(&nodes.pr, "ip -f mpls route show")?;
    by_kernel(&nodes)?;
    by_xdp(&nodes, &routers, "--sync kernel --iface to-PE1 --iface to-PE2")
}

/// The VPN, with mplsxdp getting its routes from zebra.
pub fn by_fpm(lab: &Lab) -> Result<()> {
    title("An MPLS VPN: FRR on every router, mplsxdp on PR by FPM");
    println!("{DRAWING}");
    let nodes = Nodes::new(lab)?;
    heading("FRR starts: labs/l3vpn/PE1.conf, labs/fpm/PR.conf, labs/l3vpn/PE2.conf");
    let routers = Routers::with_pr(&nodes, "fpm/PR.conf", "-M dplane_fpm_nl")?;
    routers.converged()?;
    routers.pr.show("show mpls table")?;
    by_xdp(&nodes, &routers, "--sync fpm --iface to-PE1 --iface to-PE2")?;
    heading("What zebra has counted; the connection errors are its attempts while mplsxdp was not loaded");
    routers.pr.show("show fpm counters")?;
    Ok(())
}

/// The VPN without mplsxdp.
fn by_kernel(nodes: &Nodes) -> Result<()> {
    let [ce1, _, ce3, _] = &nodes.ce;
    heading("PR's kernel forwards: pings between the sites of a customer, and none to the other's");
    let before = mpls_packets(&nodes.pr, &CORE)?;
    pings_and_labels(nodes)?;
    ping(ce3, "192.168.4.1", 62)?;
    no_ping(ce1, "192.168.4.1")?;
    show_mpls_packets(&nodes.pr, &CORE)?;
    let after = mpls_packets(&nodes.pr, &CORE)?;
    ensure!(
        after.received >= before.received + 12,
        "{before:?} to {after:?}: PR's kernel was to count 12 packets"
    );
    heading("PR's kernel does not answer traceroute: it drops labelled packets whose TTL expires");
    let trace = shell(ce1, "traceroute -n -e -q 1 -w 2 192.168.2.1")?;
    ensure!(hop(&trace, 2).contains('*'), "PR's kernel was not expected to answer");
    Ok(())
}

/// CE1 pings CE2, with the labels on both sides of PR; returns those before PR.
pub fn pings_and_labels(nodes: &Nodes) -> Result<Vec<(u32, u8)>> {
    let watches = [
        Watch::start(&nodes.cables[0], "mpls")?,
        Watch::start(&nodes.cables[1], "mpls")?,
    ];
    ping(&nodes.ce[0], "192.168.2.1", 62)?;
    let request = ["192.168.1.1 > 192.168.2.1: ICMP echo request"];
    let [left] = watches[0].first(request)?.map(|line| stack(&line));
    let [right] = watches[1].first(request)?.map(|line| stack(&line));
    ensure!(
        left.len() == 2 && right == left[1..] && right[0].1 == 63,
        "{left:?} to {right:?}: PR was to pop the outer label, and to leave the inner one as it is"
    );
    Ok(left)
}

/// mplsxdp on PR: loaded, killed, loaded again, unloaded.
fn by_xdp(nodes: &Nodes, routers: &Routers<'_>, options: &str) -> Result<()> {
    let [ce1, ce2, ce3, _] = &nodes.ce;
    let pr = &nodes.pr;
    let sessions = Sessions::of(routers)?;

    heading("mplsxdp on PR");
    let traffic = Traffic::start_shown(ce1, ce2, "192.168.2.1".parse()?)?;
    let router = load(pr, options)?;
    synchronised(&router, pr)?;
    ask(pr, &router, "route show")?;
    heading("The same pings: PR pops in XDP, and the counters of its kernel's MPLS stand still");
    show_mpls_packets(pr, &CORE)?;
    let before = mpls_packets(pr, &CORE)?;
    let labels = pings_and_labels(nodes)?;
    let label = labels[0].0.to_string();
    ping(ce3, "192.168.4.1", 62)?;
    no_ping(ce1, "192.168.4.1")?;
    let forwarded = router.forwarded(&label)?;
    unseen(pr, before)?;
    show_mpls_packets(pr, &CORE)?;
    ask(pr, &router, "-s route show")?;
    ensure!(
        forwarded >= 6,
        "mplsxdp was to count 6 packets and more with label {label}, not {forwarded}"
    );

    heading("PR answers traceroute");
    let trace = shell(ce1, "traceroute -n -e -q 1 -w 2 192.168.2.1")?;
    let second = hop(&trace, 2);
    ensure!(
        second.contains("10.0.1.2") && second.contains(&format!("<MPLS:L={label},")),
        "hop 2 was to be PR with label {label}: {second}"
    );

    heading("mplsxdp is killed: its XDP program goes with it, and PR's kernel forwards");
    let before = mpls_packets(pr, &CORE)?;
    show::command(pr, "kill -KILL $(pidof mplsxdp)");
    router.stop(Signal::SIGKILL)?;
    ping(ce1, "192.168.2.1", 62)?;
    seen(pr, before)?;
    heading("It loads again");
    let router = load(pr, options)?;
    synchronised(&router, pr)?;
    let before = mpls_packets(pr, &CORE)?;
    ping(ce1, "192.168.2.1", 62)?;
    unseen(pr, before)?;
    heading("It is unloaded");
    router.unload()?;
    ping(ce1, "192.168.2.1", 62)?;
    seen(pr, before)?;
    let lost = traffic.count()?;
    println!("Numbered datagrams from CE1 to CE2 all the while: {lost}.");
    sessions.ensure_unbroken(routers)?;
    ensure!(lost.lost == 0, "nothing was to be lost");
    Ok(())
}

/// Checks that PR's kernel has counted no labelled packet since.
pub fn unseen(pr: &Node, before: MplsPackets) -> Result<()> {
    let now = mpls_packets(pr, &CORE)?;
    ensure!(
        before == now,
        "PR's kernel was to see no labelled packet: {before:?}, now {now:?}"
    );
    Ok(())
}

/// Checks that it has.
fn seen(pr: &Node, before: MplsPackets) -> Result<()> {
    let now = mpls_packets(pr, &CORE)?;
    ensure!(
        now.received >= before.received + 6,
        "PR's kernel was to see labelled packets: {before:?}, now {now:?}"
    );
    Ok(())
}

/// Waits until mplsxdp has a route for each label of the kernel's, by the same interface unless it passes.
pub fn synchronised(router: &Router, node: &Node) -> Result<()> {
    wait::until("the kernel's labels in mplsxdp", SYNCHRONISED, || {
        let kernel = label_routes(&node.run("ip -f mpls route show")?);
        let own = label_routes(&router.run("route show")?);
        let same = |(label, interface): (&u32, &Option<String>)| {
            let by_kernel = kernel.get(label);
            by_kernel.is_some_and(|by_kernel| interface.is_none() || interface == by_kernel)
        };
        Ok((own.len() == kernel.len() && own.iter().all(same)).then_some(()))
    })
    .with_context(|| {
        let shown = [node.run("ip -f mpls route show"), router.run("route show")];
        shown.map(Result::unwrap_or_default).join("\nmplsxdp:\n")
    })?;
    router.wait_resolved()
}

/// The routes for labels in the output of `ip -f mpls route show` or `mplsxdp route show`, with the interface of each.
fn label_routes(text: &str) -> BTreeMap<u32, Option<String>> {
    let route = |line: &str| {
        let line = line.split('#').next()?;
        let label = line.split_whitespace().next()?.parse().ok()?;
        let interface = line.split_whitespace().skip_while(|&word| word != "dev").nth(1);
        Some((label, interface.map(str::to_owned)))
    };
    text.lines().filter_map(route).collect()
}

/// The routing protocols' sessions of PR and PE1.
#[derive(Debug)]
pub struct Sessions {
    ldp: Vec<u64>,
    ospf: Vec<String>,
    bgp: (u64, u64),
}

impl Sessions {
    pub fn of(routers: &Routers<'_>) -> Result<Self> {
        let ldp: Value = serde_json::from_str(&routers.pr.ask("show mpls ldp neighbor json")?)?;
        let seconds = |neighbor: &Value| {
            let up = neighbor["upTime"].as_str()?;
            let numbers: Option<Vec<u64>> = up.split(':').map(|number| number.parse().ok()).collect();
            Some(numbers?.iter().fold(0, |sum, number| sum * 60 + number))
        };
        let ldp: Option<Vec<u64>> = ldp["neighbors"].as_array().into_iter().flatten().map(seconds).collect();
        let ospf = routers.pr.ask("show ip ospf neighbor detail")?;
        let states = ospf
            .lines()
            .filter(|line| line.contains("State is") || line.contains("state changes"));
        let bgp: Value = serde_json::from_str(&routers.pe[0].ask("show bgp neighbors 10.255.0.2 json")?)?;
        let bgp = &bgp["10.255.0.2"];
        let count = |name: &str| bgp[name].as_u64().with_context(|| format!("no {name} in {bgp}"));
        Ok(Self {
            ldp: ldp.context("no upTime of LDP neighbours")?,
            ospf: states.map(|line| line.trim().to_owned()).collect(),
            bgp: (count("connectionsEstablished")?, count("connectionsDropped")?),
        })
    }

    /// Checks that no session has restarted since.
    pub fn ensure_unbroken(&self, routers: &Routers<'_>) -> Result<()> {
        heading("FRR's sessions: none has restarted");
        routers.pr.show("show mpls ldp neighbor")?;
        routers.pr.show("show ip ospf neighbor")?;
        routers.pe[0].show("show bgp ipv4 vpn summary")?;
        let now = Self::of(routers)?;
        let older = self.ldp.iter().zip(&now.ldp).all(|(before, after)| after > before);
        ensure!(
            self.ldp.len() == 2 && now.ldp.len() == 2 && older && self.ospf == now.ospf && self.bgp == now.bgp,
            "a session was lost: {self:?}, now {now:?}"
        );
        Ok(())
    }
}

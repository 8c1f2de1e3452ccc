//! The VPN of `l3vpn` with mplsxdp on every router: the PEs impose labels in XDP by the routes of the customers' VRFs.

use std::time::Duration;

use anyhow::{Result, ensure};
use mplsxdp_tests::{Lab, Router, wait};
use nix::sys::signal::Signal;

use crate::kernel_counters::{mpls_packets, show_mpls_packets};
use crate::l3vpn::{CORE, CORE_DAEMONS, DRAWING, Nodes, Routers, Sessions, pings_and_labels, synchronised, unseen};
use crate::net::Node;
use crate::show::{ask, command, heading, hop, load, no_ping, ping, shell, title};
use crate::traffic::Traffic;

const SYNCHRONISED: Duration = Duration::from_secs(30);
const TO_PR: [&str; 1] = ["to-PR"];
const PR_OPTIONS: &str = "--sync kernel --iface to-PE1 --iface to-PE2";
const PE_OPTIONS: [&str; 2] = [
    "--sync kernel --sync-table CUSTA --sync-table CUSTB --iface to-PR --iface to-CE1 --iface to-CE3",
    "--sync kernel --sync-table CUSTA --sync-table CUSTB --iface to-PR --iface to-CE2 --iface to-CE4",
];
/// Each customer's network behind the other PE.
const BEHIND_THE_OTHER: [[&str; 2]; 2] = [
    ["192.168.2.0/24", "192.168.4.0/24"],
    ["192.168.1.0/24", "192.168.3.0/24"],
];
/// Enough that what a PE itself sends to the other, which its kernel labels, is few beside them.
const PINGS: u64 = 50;

pub fn run(lab: &Lab) -> Result<()> {
    title("An MPLS VPN: mplsxdp on PR and on both PEs, by the kernels' routes");
    println!("{DRAWING}");
    let nodes = Nodes::new(lab)?;
    let [ce1, _, ce3, _] = &nodes.ce;
    let [pe1, pe2] = &nodes.pe;
    heading("FRR starts: labs/l3vpn/PE1.conf, PR.conf, PE2.conf");
    let routers = Routers::start(&nodes, "l3vpn", &CORE_DAEMONS)?;
    routers.converged()?;
    shell(pe1, "ip route show vrf CUSTA")?;

    heading("mplsxdp on each router; on the PEs with the tables of both VRFs");
    let on_pr = load(&nodes.pr, PR_OPTIONS)?;
    let on_pe1 = load(pe1, PE_OPTIONS[0])?;
    let on_pe2 = load(pe2, PE_OPTIONS[1])?;
    synchronised(&on_pr, &nodes.pr)?;
    followed(&on_pe1, pe1, BEHIND_THE_OTHER[0])?;
    followed(&on_pe2, pe2, BEHIND_THE_OTHER[1])?;
    let routes = ask(pe1, &on_pe1, "route show")?;
    for vrf in ["CUSTA", "CUSTB"] {
        ensure!(
            routes.contains(&format!(" vrf {vrf} pass proto bgp owner kernel\n")),
            "the label of {vrf} was to lead into it"
        );
    }
    ask(pe1, &on_pe1, "route get 192.168.2.1 vrf CUSTA")?;
    ask(&nodes.pr, &on_pr, "route show")?;

    heading("Labels are imposed in XDP by PE1, one is popped in XDP by PR, and the other by PE2, into the VRF");
    let of_pr = mpls_packets(&nodes.pr, &CORE)?;
    let before = mpls_packets(pe1, &TO_PR)?;
    let imposed = on_pe1.forwarded(BEHIND_THE_OTHER[0][0])?;
    let passed = on_pe1.dropped("pass-route")?;
    let routed = on_pe1.dropped("vrf")?;
    pings_and_labels(&nodes)?;
    shell(ce1, &format!("ping -n -q -c {PINGS} -i 0.02 -W 2 192.168.2.1"))?;
    let imposed = on_pe1.forwarded(BEHIND_THE_OTHER[0][0])? - imposed;
    let passed = on_pe1.dropped("pass-route")? - passed;
    let routed = on_pe1.dropped("vrf")? - routed;
    let after = mpls_packets(pe1, &TO_PR)?;
    ping(ce1, "172.16.2.1", 62)?;
    ping(ce3, "192.168.4.1", 62)?;
    no_ping(ce1, "192.168.4.1")?;
    ask(pe1, &on_pe1, "-s route show")?;
    show_mpls_packets(pe1, &TO_PR)?;
    let (sent, received) = (after.sent - before.sent, after.received - before.received);
    println!(
        "PE1 since the first ping: XDP imposed labels on {imposed} packets, the kernel on {sent} (PE1's own, to PE2); \
         XDP sent {routed} by the VRF's table, and passed {passed} to the kernel, which received {received}"
    );
    ensure!(imposed >= PINGS + 3, "PE1 was to impose labels in XDP");
    ensure!(
        sent < PINGS / 2,
        "PE1's kernel was to impose no labels but on packets of its own"
    );
    ensure!(
        routed >= PINGS && routed + passed >= PINGS + 3 && passed < PINGS / 2 && received < PINGS / 2,
        "XDP was to send what is for VRFs"
    );
    unseen(&nodes.pr, of_pr)?;

    heading("traceroute names PE1, and PR with the labels that arrived there");
    let trace = shell(ce1, "traceroute -n -e -q 1 -w 2 192.168.2.1")?;
    for (number, address) in [(1, "192.168.1.254"), (2, "10.0.1.2 <MPLS:L="), (3, "192.168.2.1")] {
        ensure!(
            hop(&trace, number).contains(address),
            "hop {number} was to be {address}: {}",
            hop(&trace, number)
        );
    }

    heading("mplsxdp on PE1 is killed and loads again, under numbered traffic from CE1 to CE2");
    let sessions = Sessions::of(&routers)?;
    let traffic = Traffic::start_shown(ce1, &nodes.ce[1], "192.168.2.1".parse()?)?;
    let before = mpls_packets(pe1, &TO_PR)?;
    command(pe1, "kill -KILL $(pidof mplsxdp)");
    on_pe1.stop(Signal::SIGKILL)?;
    shell(ce1, &format!("ping -n -q -c {PINGS} -i 0.02 -W 2 192.168.2.1"))?;
    let sent = mpls_packets(pe1, &TO_PR)?.sent - before.sent;
    ensure!(
        sent >= PINGS,
        "PE1's kernel was to impose labels again, not {sent} times"
    );
    let on_pe1 = load(pe1, PE_OPTIONS[0])?;
    followed(&on_pe1, pe1, BEHIND_THE_OTHER[0])?;
    shell(ce1, &format!("ping -n -q -c {PINGS} -i 0.02 -W 2 192.168.2.1"))?;
    let lost = traffic.count()?;
    println!("Numbered datagrams from CE1 to CE2: {lost}.");
    sessions.ensure_unbroken(&routers)?;
    ensure!(lost.lost == 0, "nothing was to be lost");
    ensure!(
        on_pe1.forwarded(BEHIND_THE_OTHER[0][0])? >= PINGS,
        "PE1 was to impose labels in XDP again"
    );

    heading("What XDP leaves to the kernel on a PE");
    println!("What is for the PE itself in a VRF, or for a neighbour that is not resolved.");
    println!("What the PE itself sends, such as BGP to the other PE: XDP sees only what arrives.");
    for router in [on_pe1, on_pe2, on_pr] {
        router.unload()?;
    }
    Ok(())
}

/// Waits until mplsxdp on a PE has the kernel's labels, and imposes some for these prefixes.
fn followed(router: &Router, pe: &Node, prefixes: [&str; 2]) -> Result<()> {
    synchronised(router, pe)?;
    wait::until("routes of VRFs that impose labels", SYNCHRONISED, || {
        let routes = router.run("route show")?;
        let imposes = |prefix: &str| routes.contains(&format!("{prefix} encap mpls"));
        Ok(prefixes.into_iter().all(imposes).then_some(()))
    })?;
    router.wait_resolved()
}

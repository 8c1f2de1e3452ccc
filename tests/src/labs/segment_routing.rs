//! The VPN of `l3vpn` with segment routing in place of LDP: by OSPF, and by IS-IS.

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::Lab;

use crate::kernel_counters::mpls_packets;
use crate::l3vpn::{CORE, Nodes, Routers, synchronised, unseen};
use crate::show::{ask, heading, load, ping, shell, title};
use crate::watch::{Watch, stack};

/// Prefix SIDs in labs/sr-ospf and labs/sr-isis: PE1's is popped by PR, PE2 pops its own.
const PE1_LABEL: u32 = 16001;
const PE2_LABEL: u32 = 16002;
/// An address of PE2 that no protocol announces.
const ASIDE: &str = "10.9.9.9";

pub fn by_ospf(lab: &Lab) -> Result<()> {
    title("An MPLS VPN over OSPF segment routing, mplsxdp on PR by the kernel's routes");
    run(lab, "sr-ospf", "ospfd")
}

pub fn by_isis(lab: &Lab) -> Result<()> {
    title("An MPLS VPN over IS-IS segment routing, mplsxdp on PR by the kernel's routes");
    run(lab, "sr-isis", "isisd")
}

fn run(lab: &Lab, directory: &str, igp: &'static str) -> Result<()> {
    println!(
        "
  CE1 --- PE1 =========== PR =========== PE2 --- CE2
        10.255.0.1    10.255.0.3     10.255.0.2
        SID 1 (PHP)   SID 3          SID 2 (no PHP)
                      explicit null
"
    );
    let nodes = Nodes::new(lab)?;
    // A label beneath one that ends in this router is looked up as if it had arrived at lo.
    for pe in &nodes.pe {
        pe.accept_labels(&["lo"])?;
    }
    heading(&format!("FRR starts: labs/{directory}"));
    let routers = Routers::start(&nodes, directory, &[igp])?;
    routers.converged()?;
    let (ce1, ce2) = (&nodes.ce[0], &nodes.ce[1]);
    let (pe1, pe2, pr) = (&nodes.pe[0], &nodes.pe[1], &nodes.pr);
    let table = shell(pr, "ip -f mpls route show")?;
    shell(pe1, "ip route show vrf CUSTA 192.168.2.0/24")?;
    let adjacency = table.lines().find_map(|line| {
        let label: u32 = line.split_whitespace().next()?.parse().ok()?;
        (label < 16000 && line.contains("dev to-PE2")).then_some(label)
    });
    let adjacency = adjacency.context("PR has no adjacency SID for PE2")?;

    heading("mplsxdp on PR");
    let router = load(pr, "--sync kernel --iface to-PE1 --iface to-PE2")?;
    synchronised(&router, pr)?;
    ask(pr, &router, "route show")?;

    heading("Prefix SIDs: PR swaps that of PE2, which pops it itself, and pops that of PE1");
    let before = mpls_packets(pr, &CORE)?;
    let watches = [
        Watch::start(&nodes.cables[0], "mpls")?,
        Watch::start(&nodes.cables[1], "mpls")?,
    ];
    ping(ce1, "192.168.2.1", 62)?;
    let messages = [
        "192.168.1.1 > 192.168.2.1: ICMP echo request",
        "192.168.2.1 > 192.168.1.1: ICMP echo reply",
    ];
    let left = watches[0].first(messages)?.map(|line| stack(&line));
    let right = watches[1].first(messages)?.map(|line| stack(&line));
    let ([there, back], [there_on, back_in]) = (&left, &right);
    ensure!(
        there[0] == (PE2_LABEL, 63) && there_on[0] == (PE2_LABEL, 62) && there[1..] == there_on[1..],
        "PR was to swap {PE2_LABEL}: {there:?} to {there_on:?}"
    );
    ensure!(
        back_in[0].0 == PE1_LABEL && back[..] == back_in[1..],
        "PR was to pop {PE1_LABEL}: {back_in:?} to {back:?}"
    );
    drop(watches);
    unseen(pr, before)?;
    shell(ce2, "ping -n -c 3 -i 0.2 -W 2 192.168.1.1")?;

    heading("Explicit null: PE1 sends label 0 to PR, which takes it off for its own kernel");
    let watch = Watch::start(&nodes.cables[0], "mpls")?;
    ping(pe1, "10.255.0.3", 64)?;
    let [request] = watch.first(["10.255.0.3: ICMP echo request"])?;
    ensure!(stack(&request)[0].0 == 0, "label 0 was expected");
    drop(watch);

    heading("An adjacency SID: PR pops it and sends what is beneath to PE2, whatever its routes say");
    pe2.run_all(&[&format!("ip address add {ASIDE}/32 dev lo")])?;
    pe1.run_all(&[&format!(
        "ip route add {ASIDE} encap mpls {adjacency} via inet 10.0.1.2"
    )])?;
    ping(pe1, ASIDE, 63)?;
    ask(pr, &router, "-s route show")?;
    let forwarded = router.forwarded(&adjacency.to_string())?;
    ensure!(
        forwarded >= 3,
        "mplsxdp was to count 3 packets with label {adjacency}, not {forwarded}"
    );

    heading("mplsxdp on PE2 too: its own SID, which PR leaves on, is a label for PE2 itself");
    let on_pe2 = load(pe2, "--sync kernel --iface to-PR")?;
    synchronised(&on_pe2, pe2)?;
    let routes = ask(pe2, &on_pe2, "route show")?;
    ensure!(
        routes.contains(&format!("{PE2_LABEL} dev lo ")),
        "{PE2_LABEL} dev lo was expected"
    );
    println!("Beneath it: IP for PE2, and the label of a VRF, which PE2's kernel delivers.");
    ping(pe1, "10.255.0.2", 63)?;
    let passed = on_pe2.dropped("pass-route")?;
    ping(ce1, "192.168.2.1", 62)?;
    ask(pe2, &on_pe2, "-s route show")?;
    let passed = on_pe2.dropped("pass-route")? - passed;
    ensure!(passed >= 3, "PE2's kernel was to get 3 packets for a VRF, not {passed}");
    on_pe2.unload()?;
    router.unload()
}

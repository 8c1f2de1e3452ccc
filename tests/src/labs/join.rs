//! One more router joins a network under FRR: what docs/fleet.md says to do, for LDP and for segment routing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::{Lab, wait};

use crate::frr::Frr;
use crate::kernel_counters::mpls_packets;
use crate::l3vpn::synchronised;
use crate::net::{Node, link, source_text};
use crate::show::{ask, command, heading, load, ping, shell, title};

/// For OSPF and LDP in a guest without KVM.
const CONVERGENCE: Duration = Duration::from_secs(120);

/// What differs between the two.
struct Protocol {
    /// The suffix of the configurations in labs/join, and PR's configuration.
    name: &'static str,
    pr: &'static str,
    daemons: &'static [&'static str],
    has_ldp: bool,
}

const LDP: Protocol = Protocol {
    name: "ldp",
    pr: "l3vpn/PR.conf",
    daemons: &["ospfd", "ldpd"],
    has_ldp: true,
};
const SEGMENT_ROUTING: Protocol = Protocol {
    name: "sr",
    pr: "sr-ospf/PR.conf",
    daemons: &["ospfd"],
    has_ldp: false,
};
/// PR's interfaces.
const CORE: [&str; 2] = ["to-PE1", "to-N"];
/// The page whose commands PR gets.
const PAGE: &str = "docs/fleet.md";
/// The lines in it that only LDP needs.
const OF_LDP: [&str; 3] = ["mpls ldp", "address-family ipv4", "interface to-N"];

pub fn run(lab: &Lab) -> Result<()> {
    title("One more router, N, joins at PR");
    println!(
        "
  PE1 =========== PR =========== N
  10.255.0.1  10.255.0.3  10.255.0.4
     10.0.1.0/24    10.0.3.0/24
"
    );
    for protocol in [LDP, SEGMENT_ROUTING] {
        join(lab, &protocol)?;
    }
    Ok(())
}

fn join(lab: &Lab, protocol: &Protocol) -> Result<()> {
    let Protocol {
        name,
        pr: configuration,
        daemons,
        has_ldp,
    } = protocol;
    heading(&format!("{}: PE1 and PR, with mplsxdp on PR", name.to_uppercase()));
    let [pe1, pr, n] = ["PE1", "PR", "N"].map(|name| Node::new(lab, name));
    let (pe1, pr, n) = (pe1?, pr?, n?);
    link(&pe1, &pr)?;
    for (node, interface) in [(&pe1, "to-PR"), (&pr, "to-PE1")] {
        node.sysctls("router.sysctl")?;
        node.accept_labels(&[interface])?;
    }
    let on_pr = Frr::start(&pr, configuration, daemons, "")?;
    let _on_pe1 = Frr::start(&pe1, &format!("join/PE1-{name}.conf"), daemons, "")?;
    let router = load(&pr, "--sync kernel --iface to-PE1")?;
    wait::until("PE1's label on PR", CONVERGENCE, || {
        Ok(router.run("route show")?.contains("dev to-PE1").then_some(()))
    })?;
    ask(&pr, &router, "route show")?;

    heading("On N: its configuration. On PR: the new link's address, the protocols, and mplsxdp");
    link(&pr, &n)?;
    n.sysctls("router.sysctl")?;
    n.accept_labels(&["to-PR"])?;
    let _on_n = Frr::start(&n, &format!("join/N-{name}.conf"), daemons, "")?;
    ask(&pr, &router, "link add to-N")?;
    pr.accept_labels(&["to-N"])?;
    let lines = commands(*has_ldp)?;
    command(&pr, &format!("vtysh <<EOF\n{lines}\nEOF"));
    on_pr.ask(&lines)?;

    heading("PE1 imposes a label for N, and N for PE1; PR pops both in XDP");
    for (node, target) in [(&pe1, "10.255.0.4"), (&n, "10.255.0.1")] {
        wait::until(&format!("{target} on {}", node.name()), CONVERGENCE, || {
            std::thread::sleep(Duration::from_millis(300));
            Ok(node
                .run(&format!("ip route show {target}"))?
                .contains("encap mpls")
                .then_some(()))
        })?;
        shell(node, &format!("ip route show {target}"))?;
    }
    synchronised(&router, &pr)?;
    let before = mpls_packets(&pr, &CORE)?;
    ping(&pe1, "-I 10.255.0.1 10.255.0.4", 63)?;
    ping(&n, "-I 10.255.0.4 10.255.0.1", 63)?;
    let after = mpls_packets(&pr, &CORE)?;
    ensure!(
        before == after,
        "PR's kernel was to see no labelled packet: {before:?}, now {after:?}"
    );
    let shown = ask(&pr, &router, "-s route show")?;
    let counted = shown.lines().filter(|line| line.contains("packets 6 ")).count();
    ensure!(counted == 2, "6 packets each by two routes were expected: {shown}");
    router.unload()
}

/// The lines for vtysh on the neighbour of a new router, as the page has them.
fn commands(has_ldp: bool) -> Result<String> {
    let page = source_text(PAGE)?;
    let block = page
        .split_once("vtysh <<EOF\n")
        .and_then(|(_, rest)| rest.split_once("\nEOF\n"));
    let (block, _) = block.with_context(|| format!("{PAGE} has no commands for vtysh"))?;
    let (before, of_ldp) = block
        .split_once(&format!("\n{}\n", OF_LDP.join("\n")))
        .with_context(|| format!("the commands of {PAGE} are without {OF_LDP:?}"))?;
    ensure!(of_ldp == "end\nwrite", "the commands of {PAGE} end otherwise: {of_ldp}");
    Ok(match has_ldp {
        true => format!("{before}\n{}", OF_LDP.join("\n")),
        false => before.to_owned(),
    })
}

//! The topologies of the demo, with Linux where labels are pushed and popped for the last time: `ip route ... encap
//! mpls` and `ip -f mpls route`.

use anyhow::{Result, ensure};
use mplsxdp_tests::Lab;

use crate::kernel_counters::mpls_packets;
use crate::net::{Node, address, link, tapped_link};
use crate::show::{ask, heading, hop, load, ping, shell, title, transfer};
use crate::watch::{Watch, stack};

const BYTES: usize = 50_000_000;

pub fn run(lab: &Lab) -> Result<()> {
    transit(lab)?;
    own_traffic(lab)
}

/// Two Linux PEs, and an mplsxdp P router that swaps.
fn transit(lab: &Lab) -> Result<()> {
    title("Linux at the edges, mplsxdp on P");
    println!(
        "
  host1 -------------- PE1 ================ P ================ PE2 -------------- host2
  10.3.3.2          push 100   label 100  100->110  label 110  pop             10.4.4.2
  fd00:3::2              pop   label 210  210<-200  label 200  push 200       fd00:4::2
       10.3.3.0/24      192.168.30.0/24      192.168.40.0/24      10.4.4.0/24
"
    );
    let node = |name| Node::new(lab, name);
    let (host1, pe1, p, pe2, host2) = (node("host1")?, node("PE1")?, node("P")?, node("PE2")?, node("host2")?);
    let cables = [node("PE1-P")?, node("P-PE2")?];
    link(&host1, &pe1)?;
    tapped_link(&pe1, &cables[0], &p)?;
    tapped_link(&p, &cables[1], &pe2)?;
    link(&pe2, &host2)?;
    address(&host1, "to-PE1", &["10.3.3.2/24", "fd00:3::2/64"])?;
    address(&pe1, "to-host1", &["10.3.3.1/24", "fd00:3::1/64"])?;
    address(&pe1, "to-P", &["192.168.30.101/24", "fd00:30::101/64"])?;
    address(&p, "to-PE1", &["192.168.30.102/24", "fd00:30::102/64"])?;
    address(&p, "to-PE2", &["192.168.40.101/24", "fd00:40::101/64"])?;
    address(&pe2, "to-P", &["192.168.40.102/24", "fd00:40::102/64"])?;
    address(&pe2, "to-host2", &["10.4.4.1/24", "fd00:4::1/64"])?;
    address(&host2, "to-PE2", &["10.4.4.2/24", "fd00:4::2/64"])?;
    for (host, gateways) in [(&host1, ["10.3.3.1", "fd00:3::1"]), (&host2, ["10.4.4.1", "fd00:4::1"])] {
        for gateway in gateways {
            host.run(&format!("ip route add default via {gateway}"))?;
        }
    }
    for pe in [&pe1, &pe2] {
        pe.sysctls("router.sysctl")?;
        pe.accept_labels(&["to-P"])?;
    }
    heading("The kernel's routes on the PEs");
    pe1.run_all(&[
        "ip route add 10.4.4.0/24 encap mpls 100 via inet 192.168.30.102",
        "ip -6 route add fd00:4::/64 encap mpls 100 via inet6 fd00:30::102",
        "ip -f mpls route add 210 via inet 10.3.3.2",
    ])?;
    pe2.run_all(&[
        "ip route add 10.3.3.0/24 encap mpls 200 via inet 192.168.40.101",
        "ip -6 route add fd00:3::/64 encap mpls 200 via inet6 fd00:40::101",
        "ip -f mpls route add 110 via inet 10.4.4.2",
    ])?;
    heading("mplsxdp on P");
    let router = load(&p, "--iface to-PE1 --iface to-PE2")?;
    ask(&p, &router, "route add 100 as 110 via inet 192.168.40.102")?;
    ask(&p, &router, "route add 200 as 210 via inet 192.168.30.101")?;
    router.wait_resolved()?;

    heading("Pings both ways, in both families: three routers take 3 off the TTL of 64");
    let watches = [Watch::start(&cables[0], "mpls")?, Watch::start(&cables[1], "mpls")?];
    let before = mpls_packets(&pe1, &["to-P"])?;
    ping(&host1, "10.4.4.2", 61)?;
    ping(&host2, "10.3.3.2", 61)?;
    ping(&host1, "fd00:4::2", 61)?;
    ping(&host2, "fd00:3::2", 61)?;
    let seen = mpls_packets(&pe1, &["to-P"])?;
    ensure!(
        seen.received >= before.received + 12 && seen.sent >= before.sent + 12,
        "{before:?} to {seen:?}: PE1's kernel was to pop and push the labels of 12 pings"
    );
    heading("The first pings on the cables beside P");
    let requests = [
        "10.3.3.2 > 10.4.4.2: ICMP echo request",
        "10.4.4.2 > 10.3.3.2: ICMP echo request",
        "fd00:3::2 > fd00:4::2: ICMP6, echo request",
        "fd00:4::2 > fd00:3::2: ICMP6, echo request",
    ];
    let left = watches[0].first(requests)?.map(|line| stack(&line));
    let right = watches[1].first(requests)?.map(|line| stack(&line));
    ensure!(
        left == [vec![(100, 63)], vec![(210, 62)], vec![(100, 63)], vec![(210, 62)]]
            && right == [vec![(110, 62)], vec![(200, 63)], vec![(110, 62)], vec![(200, 63)]],
        "other labels or TTLs were expected: {left:?}, {right:?}"
    );
    drop(watches);

    heading("50 MB by TCP, both ways");
    transfer(&host1, &host2, "10.4.4.2".parse()?, BYTES)?;
    transfer(&host2, &host1, "fd00:3::2".parse()?, BYTES)?;
    ask(&p, &router, "-s route show")?;
    ask(&p, &router, "stats")?;

    heading("traceroute names P; the PEs now route what they pop, so that P's answers find the way back");
    pe1.run_all(&["ip -f mpls route replace 210 dev lo"])?;
    pe2.run_all(&["ip -f mpls route replace 110 dev lo"])?;
    for (target, address) in [("10.4.4.2", "192.168.30.102"), ("fd00:4::2", "fd00:30::102")] {
        let trace = shell(&host1, &format!("traceroute -n -e -q 1 -w 2 {target}"))?;
        let second = hop(&trace, 2);
        ensure!(
            second.contains(address) && second.contains("<MPLS:L=100,"),
            "hop 2 was to be P, {address}, with label 100: {second}"
        );
    }
    println!("Hop 3 is the label at PE2, whose kernel drops what expires with a label; hop 4 is the IP packet there.");
    router.unload()
}

/// Two hosts that push labels themselves, and two mplsxdp routers: one swaps, the other pops.
fn own_traffic(lab: &Lab) -> Result<()> {
    title("Linux hosts that push labels, mplsxdp on both routers");
    println!(
        "
  1.1.1.1                                                                   2.2.2.2
  fd00:1::1                                                                 fd00:2::2
   host1 ================ ubuntu01 ================ ubuntu02 ================ host2
       10.0.0.0/24                  20.0.0.0/24                  30.0.0.0/24
  push 101    label 101    101->111    label 111    pop
                             pop       label 211    211<-201    label 201    push 201
"
    );
    let node = |name| Node::new(lab, name);
    let (host1, r1, r2, host2) = (node("host1")?, node("ubuntu01")?, node("ubuntu02")?, node("host2")?);
    let cables = [node("left")?, node("middle")?, node("right")?];
    tapped_link(&host1, &cables[0], &r1)?;
    tapped_link(&r1, &cables[1], &r2)?;
    tapped_link(&r2, &cables[2], &host2)?;
    address(&host1, "lo", &["1.1.1.1/32", "fd00:1::1/128"])?;
    address(&host2, "lo", &["2.2.2.2/32", "fd00:2::2/128"])?;
    for (node, interface, network, number) in [
        (&host1, "to-ubuntu01", 10, 2),
        (&r1, "to-host1", 10, 1),
        (&r1, "to-ubuntu02", 20, 1),
        (&r2, "to-ubuntu01", 20, 2),
        (&r2, "to-host2", 30, 1),
        (&host2, "to-ubuntu02", 30, 2),
    ] {
        let addresses = [
            format!("{network}.0.0.{number}/24"),
            format!("fd00:{network}::{number}/64"),
        ];
        address(node, interface, &[&addresses[0], &addresses[1]])?;
    }
    heading("The kernel's routes on the hosts");
    host1.run_all(&[
        "ip route add 2.2.2.2/32 encap mpls 101 via inet 10.0.0.1 src 1.1.1.1",
        "ip -6 route add fd00:2::2/128 encap mpls 101 via inet6 fd00:10::1 src fd00:1::1",
    ])?;
    host2.run_all(&[
        "ip route add 1.1.1.1/32 encap mpls 201 via inet 30.0.0.1 src 2.2.2.2",
        "ip -6 route add fd00:1::1/128 encap mpls 201 via inet6 fd00:30::1 src fd00:2::2",
    ])?;
    heading("mplsxdp on both routers");
    let routers = [
        load(&r1, "--iface to-host1 --iface to-ubuntu02")?,
        load(&r2, "--iface to-ubuntu01 --iface to-host2")?,
    ];
    ask(&r1, &routers[0], "route add 101 as 111 via inet 20.0.0.2")?;
    ask(&r1, &routers[0], "route add 211 via inet 10.0.0.2")?;
    ask(&r2, &routers[1], "route add 111 via inet 30.0.0.2")?;
    ask(&r2, &routers[1], "route add 201 as 211 via inet 20.0.0.1")?;
    for router in &routers {
        router.wait_resolved()?;
    }
    heading("Pings both ways, in both families: two routers take 2 off the TTL of 64");
    let watches = [Watch::start(&cables[0], "mpls")?, Watch::start(&cables[1], "mpls")?];
    for (host, target) in [
        (&host1, "2.2.2.2"),
        (&host2, "1.1.1.1"),
        (&host1, "fd00:2::2"),
        (&host2, "fd00:1::1"),
    ] {
        ping(host, target, 62)?;
    }
    heading("The first pings on the cables beside ubuntu01, which swaps");
    let requests = [
        "1.1.1.1 > 2.2.2.2: ICMP echo request",
        "fd00:1::1 > fd00:2::2: ICMP6, echo request",
    ];
    let left = watches[0].first(requests)?.map(|line| stack(&line));
    let middle = watches[1].first(requests)?.map(|line| stack(&line));
    ensure!(
        left == [[(101, 64)], [(101, 64)]] && middle == [[(111, 63)], [(111, 63)]],
        "other labels or TTLs were expected: {left:?}, {middle:?}"
    );
    heading("50 MB by TCP");
    transfer(&host1, &host2, "2.2.2.2".parse()?, BYTES)?;
    let [router1, router2] = routers;
    router1.unload()?;
    router2.unload()
}

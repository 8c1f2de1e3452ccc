//! A pseudowire that FRR's ldpd signals between two PEs, which Linux itself cannot carry: mplsxdp does (`--sync frr`).

use std::time::Duration;

use anyhow::{Result, ensure};
use mplsxdp_tests::{Lab, Router, Tap, wait};

use crate::frr::Frr;
use crate::kernel_counters::mpls_packets;
use crate::l3vpn::{CORE, CORE_DAEMONS, synchronised, unseen};
use crate::net::{Node, address, link, tapped_link};
use crate::show::{ask, heading, load, no_ping, ping, shell, title};
use crate::watch::{Watch, stack};

/// For OSPF and LDP in a guest without KVM.
const CONVERGENCE: Duration = Duration::from_secs(120);
/// After a change: zebra is asked every 3 seconds at most, and every 30 in any case.
const FOLLOWED: Duration = Duration::from_secs(60);
const MEMBER: &str = "member pseudowire to-CE2";

pub fn run(lab: &Lab) -> Result<()> {
    title("A pseudowire: FRR signals it by LDP, mplsxdp carries the frames");
    println!(
        "
  CE1 ------- PE1 =========== PR =========== PE2 ------- CE2
  172.20.0.1      10.255.0.1     10.255.0.3      10.255.0.2      172.20.0.2
             OSPF and LDP on both links; a targeted LDP session between the PEs
"
    );
    let node = |name| Node::new(lab, name);
    let ce = [node("CE1")?, node("CE2")?];
    let pe = [node("PE1")?, node("PE2")?];
    let pr = node("PR")?;
    let cables = [node("PE1-PR")?, node("PR-PE2")?];
    tapped_link(&pe[0], &cables[0], &pr)?;
    tapped_link(&pr, &cables[1], &pe[1])?;
    for (index, (ce, pe)) in ce.iter().zip(&pe).enumerate() {
        link(ce, pe)?;
        address(
            ce,
            &format!("to-{}", pe.name()),
            &[&format!("172.20.0.{}/24", index + 1)],
        )?;
        pe.sysctls("router.sysctl")?;
        pe.accept_labels(&["to-PR"])?;
    }
    pr.sysctls("router.sysctl")?;
    pr.accept_labels(&CORE)?;

    heading("FRR starts: labs/pseudowires/PE1.conf, PR.conf, PE2.conf");
    let _on_pr = Frr::start(&pr, "pseudowires/PR.conf", &CORE_DAEMONS, "")?;
    let frr = [
        Frr::start(&pe[0], "pseudowires/PE1.conf", &CORE_DAEMONS, "")?,
        Frr::start(&pe[1], "pseudowires/PE2.conf", &CORE_DAEMONS, "")?,
    ];
    for frr in &frr {
        wait::until("the pseudowire in zebra", CONVERGENCE, || {
            std::thread::sleep(Duration::from_millis(300));
            let text = frr.ask("show mpls pseudowires detail json")?;
            Ok((text.contains("\"Up\"") && text.contains("nhLabel")).then_some(()))
        })?;
    }
    frr[0].show("show mpls pseudowires detail json")?;
    frr[0].show("show l2vpn atom binding json")?;

    heading("FRR says that it is up, but Linux carries nothing");
    no_ping(&ce[0], "172.20.0.2")?;

    heading("mplsxdp on each router");
    let on_pr = load(&pr, "--sync kernel --iface to-PE1 --iface to-PE2")?;
    let on_pe1 = load(
        &pe[0],
        "--sync kernel --sync frr=/run/frr/PE1 --iface to-PR --iface to-CE1",
    )?;
    let on_pe2 = load(
        &pe[1],
        "--sync kernel --sync frr=/run/frr/PE2 --iface to-PR --iface to-CE2",
    )?;
    synchronised(&on_pr, &pr)?;
    for (pe, router) in pe.iter().zip([&on_pe1, &on_pe2]) {
        is_there(router, true)?;
        router.wait_resolved()?;
        ask(pe, router, "xconnect show")?;
    }
    ask(&pe[0], &on_pe1, "sync show")?;

    heading("CE1 and CE2 are on one link: ARP and ping, and no router between them");
    let before = mpls_packets(&pr, &CORE)?;
    let watch = Watch::start(&cables[0], "mpls")?;
    ping(&ce[0], "172.20.0.2", 64)?;
    let [line] = watch.first(["label"])?;
    println!("Between PE1 and PR: {line}");
    let labels = stack(&line);
    ensure!(
        labels.len() == 2 && labels[1].1 == 255,
        "a label for PE2 and that of the pseudowire were to be there, not {labels:?}"
    );

    heading("LLDP, which no bridge forwards, crosses too");
    let taps = [Tap::open(ce[0].netns(), "to-PE1")?, Tap::open(ce[1].netns(), "to-PE2")?];
    for (from, to) in [(0, 1), (1, 0)] {
        let lldp = lldp(&taps[from]);
        taps[from].send(&lldp)?;
        taps[to].receive("the other CE's LLDP", |frame| frame == lldp)?;
        println!("{} has received LLDP of {}", ce[to].name(), ce[from].name());
    }
    unseen(&pr, before)?;
    ask(&pe[0], &on_pe1, "-s xconnect show to-CE1")?;

    heading("PE2 withdraws its label: PE1 has no pseudowire any more. It comes back");
    let l2vpn = "configure terminal\nl2vpn CUST type vpls\n";
    frr[1].show(&format!("{l2vpn}no {MEMBER}"))?;
    is_there(&on_pe1, false)?;
    is_there(&on_pe2, false)?;
    no_ping(&ce[0], "172.20.0.2")?;
    frr[1].show(&format!("{l2vpn}{MEMBER}\nneighbor lsr-id 10.255.0.1\npw-id 100"))?;
    is_there(&on_pe1, true)?;
    is_there(&on_pe2, true)?;
    ping(&ce[0], "172.20.0.2", 64)?;
    shell(&pe[0], "ip -f mpls route show")?;
    for router in [on_pe1, on_pe2, on_pr] {
        router.unload()?;
    }
    Ok(())
}

/// Waits until a PE has the pseudowire, both ways, or has none.
fn is_there(router: &Router, wanted: bool) -> Result<()> {
    wait::until("the pseudowire in mplsxdp", FOLLOWED, || {
        std::thread::sleep(Duration::from_millis(300));
        let routes = router.run("route show")?;
        let lines = routes.lines().filter(|line| line.contains("owner frr"));
        Ok((lines.count() == if wanted { 2 } else { 0 }).then_some(()))
    })
}

/// A frame of LLDP: chassis and port by MAC address, 120 seconds.
fn lldp(from: &Tap) -> Vec<u8> {
    let mac = from.mac().0;
    let nearest_bridge = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    let chassis = [&[0x02, 7, 4], &mac[..]].concat();
    let port = [&[0x04, 7, 3], &mac[..]].concat();
    let frame = [
        &nearest_bridge[..],
        &mac,
        &[0x88, 0xcc],
        &chassis,
        &port,
        &[0x06, 2, 0, 120],
        &[0, 0],
    ];
    frame.concat()
}

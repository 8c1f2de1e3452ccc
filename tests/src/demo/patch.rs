//! A patch panel: two hosts whose frames all reach each other, beside a Linux bridge, which keeps some.

use anyhow::{Result, ensure};
use mplsxdp_common::wire::Mac;
use mplsxdp_tests::bystanders::lldp;
use mplsxdp_tests::frame::ethernet;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::tcpdump::Tcpdump;
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link};

use crate::show::{ask, command, heading, loaded, part, run};

const DRAWING: &str = "
     host1 ---------- eth1 patch eth2 ---------- host2          (an mplsxdp with a cross-connect)
   10.5.5.1                                    10.5.5.2

     host3 ---------- eth1 bridge eth2 --------- host4          (a Linux bridge)
   10.5.5.3                                    10.5.5.4
";
const OPTIONS: &str = "--iface eth1 --iface eth2";
const NEAREST_BRIDGE: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
const ETH_P_LLDP: u16 = 0x88cc;

pub fn show(lab: &Lab) -> Result<()> {
    part("A patch panel");
    println!("Two ports are cross-connected: every frame that arrives at one leaves by the other, as by a cable.");
    println!("{DRAWING}");
    let [host1, patch, host2] = cabled(lab, ["host1", "patch", "host2"], ["10.5.5.1/24", "10.5.5.2/24"])?;
    let router = Router::load(&patch, OPTIONS)?;
    loaded(&router, OPTIONS);
    ask(&router, "xconnect add eth1 eth2")?;

    heading("Neighbours find each other by LLDP");
    ensure!(sees_lldp(&host1, &host2)?, "LLDP was expected to go through");
    ensure!(sees_lldp(&host2, &host1)?, "LLDP was expected to go back");

    heading("ARP and ping");
    run(&host1, "ping -c 3 -i 0.2 10.5.5.2")?;
    run(&host1, "ip neigh show 10.5.5.2")?;
    ask(&router, "-s xconnect show")?;
    router.unload()?;

    heading("The same with a Linux bridge");
    if let Some(missing) = Need::LinkKind("bridge", "bridge").missing() {
        println!("(left out: {missing})");
        return Ok(());
    }
    let [host3, bridge, host4] = cabled(lab, ["host3", "bridge", "host4"], ["10.5.5.3/24", "10.5.5.4/24"])?;
    for line in [
        "link add br0 up type bridge",
        "link set eth1 master br0",
        "link set eth2 master br0",
    ] {
        command(&format!("ip -n {} {line}", bridge.name()));
        bridge.ip(line)?;
    }
    run(&host3, "ping -c 3 -i 0.2 10.5.5.4")?;
    ensure!(!sees_lldp(&host3, &host4)?, "a bridge was expected to keep LLDP");
    println!("Ping works, but the bridge keeps what is for the nearest bridge: LLDP does not arrive.");
    Ok(())
}

/// Two hosts with these addresses, and what is between them.
fn cabled(lab: &Lab, names: [&str; 3], addresses: [&str; 2]) -> Result<[Netns; 3]> {
    let [a, middle, b] = names.map(|name| lab.netns(name));
    let (a, middle, b) = (a?, middle?, b?);
    link(End::new(&a, "eth0").address(addresses[0]), End::new(&middle, "eth1"))?;
    link(End::new(&middle, "eth2"), End::new(&b, "eth0").address(addresses[1]))?;
    Ok([a, middle, b])
}

/// Sends an LLDP frame from one host, then a ping; shows what the other host sees of the frame.
fn sees_lldp(from: &Netns, to: &Netns) -> Result<bool> {
    const MARK: &str = "0x4d4d";
    let tap = Tap::open(from, "eth0")?;
    let filter = format!("ether proto 0x88cc or ether proto {MARK}");
    let arguments = ["-n", "-e", "-t", "-l", "-c", "1", "-i", "eth0", &filter];
    let tcpdump = Tcpdump::start(to, &arguments)?;
    command(tcpdump.line());
    println!("  ({} sends LLDP)", from.name());
    tap.send(&ethernet(NEAREST_BRIDGE, tap.mac(), ETH_P_LLDP, &lldp(tap.mac())))?;
    // What comes first ends tcpdump.
    tap.send(&ethernet(Mac([0xff; 6]), tap.mac(), 0x4d4d, &[0; 46]))?;
    let shown = String::from_utf8(tcpdump.finish()?)?;
    let seen = shown.contains("LLDP");
    println!("{}", if seen { shown.trim_end() } else { "  (nothing)" });
    Ok(seen)
}

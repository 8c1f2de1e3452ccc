//! Frames that are not labelled traffic for this router reach the kernel as they came, byte for byte.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, Mac};
use mplsxdp_tests::bystanders::{IGMP_REPORT, arp_request, lldp, neighbour_solicitation};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use mplsxdp_tests::{End, Lab, Router, Tap, link};

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![test(
        "untouched::frames_that_are_not_labelled_traffic_for_this_router",
        untouched,
    )]
}

fn untouched() -> Result<()> {
    let lab = Lab::new()?;
    let (host, netns) = (lab.netns("host")?, lab.netns("router")?);
    link(
        End::new(&host, "eth0"),
        End::new(&netns, "eth1").address("10.0.1.1/24").address("fd00:1::1/64"),
    )?;
    let router = Router::load(&netns, "--iface eth1")?;
    // Imposition is on, and must not touch these.
    router.run("route add 10.9.0.0/16 encap mpls 300 via link 02:00:00:00:00:09 dev eth1")?;
    let (tap, port) = (Tap::open(&host, "eth0")?, Tap::open(&netns, "eth1")?);
    let (here, us) = (port.mac(), tap.mac());
    let multicast = |last: [u8; 3]| Mac([0x01, 0x00, 0x5e, last[0], last[1], last[2]]);

    for (name, frame) in [
        (
            "LLDP",
            ethernet(Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]), us, 0x88cc, &lldp(us)),
        ),
        (
            "STP",
            ethernet(
                Mac([0x01, 0x80, 0xc2, 0, 0, 0]),
                us,
                38,
                &[&[0x42, 0x42, 0x03][..], &[0; 35]].concat(),
            ),
        ),
        ("an ARP request", ethernet(Mac([0xff; 6]), us, 0x0806, &arp_request(us))),
        (
            "an ARP request to this router only",
            ethernet(here, us, 0x0806, &arp_request(us)),
        ),
        (
            "an IGMP report",
            ethernet(multicast([0, 0, 0x16]), us, ETH_P_IP, &IGMP_REPORT),
        ),
        (
            "an IPv6 neighbour solicitation",
            ethernet(
                Mac([0x33, 0x33, 0xff, 0, 0, 1]),
                us,
                ETH_P_IPV6,
                &neighbour_solicitation(us),
            ),
        ),
        (
            "IPv4 without an FTN entry",
            ethernet(
                here,
                us,
                ETH_P_IP,
                &udp("192.0.2.1".parse()?, "198.51.100.1".parse()?, 64, b"x")?,
            ),
        ),
        (
            "IPv4 for the router itself, TTL 1",
            ethernet(
                here,
                us,
                ETH_P_IP,
                &udp("10.0.1.9".parse()?, "10.0.1.1".parse()?, 1, b"x")?,
            ),
        ),
        (
            "IPv6 without an FTN entry",
            ethernet(
                here,
                us,
                ETH_P_IPV6,
                &udp("2001:db8::1".parse()?, "2001:db8::2".parse()?, 64, b"x")?,
            ),
        ),
        ("a broken IPv4 header", ethernet(here, us, ETH_P_IP, &[0x41; 40])),
        (
            "IPv4 with an FTN entry for another MAC",
            ethernet(
                Mac([2, 9, 9, 9, 9, 9]),
                us,
                ETH_P_IP,
                &udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, b"x")?,
            ),
        ),
        (
            "labels for another MAC",
            labelled(Mac([2, 9, 9, 9, 9, 9]), us, &[Entry::new(100, 1)], b"x"),
        ),
        (
            "MPLS multicast",
            ethernet(here, us, 0x8848, &[0, 0x06, 0x41, 64, 1, 2, 3, 4]),
        ),
        ("an unknown EtherType", ethernet(here, us, 0x9000, &[0xa5; 100])),
        ("a full-sized frame", ethernet(here, us, 0x9000, &[0x5a; 1500])),
    ] {
        tap.send(&frame)?;
        port.receive(name, |arrived| arrived == frame)?;
    }
    let stats: mplsxdp::control::api::Stats = router.json("stats")?;
    ensure!(
        stats.reasons.is_empty() && stats.forwarded.packets == 0,
        "counted: {stats:?}"
    );
    router.unload()
}

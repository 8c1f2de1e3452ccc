//! What is not labelled traffic for this box reaches the kernel as it came, byte for byte.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, Mac};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use mplsxdp_tests::{End, Lab, Router, Tap, link};

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![test("untouched::what_is_not_labelled_traffic_for_this_box", untouched)]
}

fn untouched() -> Result<()> {
    let lab = Lab::new()?;
    let (host, netns) = (lab.netns("host")?, lab.netns("router")?);
    link(
        End::new(&host, "eth0"),
        End::new(&netns, "eth1").address("10.0.1.1/24").address("fd00:1::1/64"),
    )?;
    let router = Router::load(&netns, "--iface eth1")?;
    // Imposition is on, and has to tell these from what it is for.
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
        ("an ARP request", ethernet(Mac([0xff; 6]), us, 0x0806, &arp(us))),
        ("an ARP request to this box only", ethernet(here, us, 0x0806, &arp(us))),
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
            "IPv4 for the box itself, TTL 1",
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

/// Chassis and port by MAC address, 120 s, end (IEEE 802.1AB).
pub fn lldp(mac: Mac) -> Vec<u8> {
    [
        &[0x02, 0x07, 0x04][..],
        &mac.0,
        &[0x04, 0x07, 0x03],
        &mac.0,
        &[0x06, 0x02, 0x00, 0x78, 0x00, 0x00],
    ]
    .concat()
}

/// 10.0.1.9 asks for 10.0.1.1.
pub fn arp(mac: Mac) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &mac.0,
        &[10, 0, 1, 9],
        &[0; 6],
        &[10, 0, 1, 1],
    ]
    .concat()
}

/// IGMPv3 membership report from 10.0.1.9 to 224.0.0.22 for 239.1.1.1, with the Router Alert option (RFC 3376 section 4.2).
const IGMP_REPORT: [u8; 40] = [
    0x46, 0xc0, 0, 40, 0, 0, 0x40, 0, 1, 2, 0x42, 0xfd, 10, 0, 1, 9, 224, 0, 0, 22, 0x94, 0x04, 0, 0, 0x22, 0, 0xe9,
    0xfb, 0, 0, 0, 1, 4, 0, 0, 0, 239, 1, 1, 1,
];

/// fe80::9 asks for fd00:1::1 (RFC 4861 section 4.3). The checksum is not right, and not looked at on the way.
pub fn neighbour_solicitation(mac: Mac) -> Vec<u8> {
    let target = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    [
        &[0x60, 0, 0, 0, 0, 32, 58, 255][..],
        &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
        &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1],
        &[135, 0, 0, 0, 0, 0, 0, 0],
        &target,
        &[1, 1],
        &mac.0,
    ]
    .concat()
}

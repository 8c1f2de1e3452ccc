//! Three routers and two hosts: what users see, and the frames on each cable.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::frame::{Entry, Ip, Parsed};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::three_routers::{HOST1, HOST2, ThreeRouters, transfer};
use mplsxdp_tests::{Lab, Tap};

use crate::{test, test_with};

const PING: Need = Need::Program("ping", "iputils-ping");
const PINGS: usize = 5;
const ICMP: u8 = 1;
const MIB: usize = 1 << 20;

pub fn tests() -> Vec<Trial> {
    vec![
        test_with(
            "routing::pings_carry_these_labels_and_ttls_on_every_cable",
            Some(PING),
            pings,
        ),
        test("routing::a_tcp_transfer_of_50_mb_arrives_both_ways", tcp),
    ]
}

fn pings() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::new(&lab)?;
    net.add_routes()?;
    let taps = [
        Tap::open(&net.cable12, "a")?,
        Tap::open(&net.cable23, "a")?,
        Tap::open(&net.host2, "eth0")?,
        Tap::open(&net.cable23, "b")?,
        Tap::open(&net.cable12, "b")?,
        Tap::open(&net.host1, "eth0")?,
    ];
    let shown = net.host1.run(&format!("ping -n -c {PINGS} -i 0.05 -W 2 {HOST2}"))?;
    ensure!(shown.matches("ttl=61").count() == PINGS, "{shown}");
    let shown = net.host2.run(&format!("ping -n -c {PINGS} -i 0.05 -W 2 {HOST1}"))?;
    ensure!(shown.matches("ttl=61").count() == PINGS, "{shown}");

    // (label, its TTL) on the cable, or none; the TTL of the IP packet; MAC addresses from and to.
    let [r1, r2, r3] = &net.routers;
    let mac = |netns: &mplsxdp_tests::Netns, interface| netns.mac(interface);
    let expected = [
        (Some((100, 63)), 63, mac(r1.netns(), "eth2")?, mac(r2.netns(), "eth1")?),
        (Some((110, 62)), 63, mac(r2.netns(), "eth2")?, mac(r3.netns(), "eth1")?),
        (None, 61, mac(r3.netns(), "eth2")?, mac(&net.host2, "eth0")?),
        (Some((200, 63)), 63, mac(r3.netns(), "eth1")?, mac(r2.netns(), "eth2")?),
        (Some((210, 62)), 63, mac(r2.netns(), "eth1")?, mac(r1.netns(), "eth2")?),
        (None, 61, mac(r1.netns(), "eth1")?, mac(&net.host1, "eth0")?),
    ];
    let (host1, host2) = (HOST1.parse()?, HOST2.parse()?);
    for (index, (tap, (label, ttl, source, destination))) in taps.iter().zip(expected).enumerate() {
        let (from, to) = if index < 3 { (host1, host2) } else { (host2, host1) };
        let mut seen = 0;
        for frame in tap.drain()? {
            let frame = Parsed::new(&frame)?;
            let Ok(ip) = frame.ip() else { continue };
            if (ip.source, ip.destination) != (from, to) {
                continue;
            }
            let stack: Vec<_> = label.into_iter().map(|(label, ttl)| Entry::new(label, ttl)).collect();
            let right = Ip {
                source: from,
                destination: to,
                ttl,
                protocol: ICMP,
            };
            ensure!(
                frame.stack == stack && ip == right,
                "cable {index}: {frame:?}, expected {stack:?} {right:?}"
            );
            ensure!(
                (frame.source, frame.destination) == (source, destination),
                "cable {index}: {frame:?}"
            );
            seen += 1;
        }
        // The requests of one host, and its replies to the other's.
        ensure!(seen == 2 * PINGS, "cable {index}: {seen} packets");
    }

    for (router, keys) in net
        .routers
        .iter()
        .zip([["10.4.4.0/24", "210"], ["100", "200"], ["10.3.3.0/24", "110"]])
    {
        for key in keys {
            let forwarded = router.forwarded(key)?;
            ensure!(
                forwarded == 2 * PINGS as u64,
                "{} counted {forwarded} packets for {key}",
                router.instance()
            );
        }
    }
    for router in net.routers {
        router.unload()?;
    }
    Ok(())
}

fn tcp() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::new(&lab)?;
    net.add_routes()?;
    transfer(&net.host1, &net.host2, HOST2.parse()?, 50 * MIB).context("from host1 to host2")?;
    let took = transfer(&net.host2, &net.host1, HOST1.parse()?, 50 * MIB).context("from host2 to host1")?;
    ensure!(took < Duration::from_secs(20), "{took:?} for 50 MiB");
    // At least one full segment each, through the fast path and not the kernel.
    let [_, r2, _] = &net.routers;
    for label in ["100", "200"] {
        let forwarded = r2.forwarded(label)?;
        ensure!(
            forwarded > (50 * MIB / 1460) as u64,
            "label {label}: {forwarded} packets"
        );
    }
    Ok(())
}

//! VLAN and QinQ sub-interfaces between two taps: with which tags frames arrive and leave, byte by byte, and on which
//! port they are counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, NextHopState, Resolution, Stats};
use mplsxdp_common::wire::{ETH_P_8021AD as AD, ETH_P_8021Q as Q, ETH_P_IP, ETH_P_IPV6, Mac};
use mplsxdp_tests::bystanders::{arp_request, lldp, neighbour_solicitation};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, tagged, udp, untagged, with_ttl};
use mplsxdp_tests::icmp::{IcmpError, PACKET_TOO_BIG_V6, TIME_EXCEEDED_V4, TIME_EXCEEDED_V6};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::router::ensure_nothing_left;
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};

use crate::bench::{Bench, LEFT, NATIVE, RIGHT, v4, v6};
use crate::{test, test_with};

const PATIENCE: Duration = Duration::from_secs(5);
/// Untagged and tagged on the same interfaces, the sub-interfaces first.
const TAGGED: &str =
    "--iface eth1.100 --iface eth2.200 --iface eth2.300.30 --iface eth1.300.10 --iface eth1 --iface eth2";
const VLAN100: &[(u16, u16)] = &[(Q, 100)];
const VLAN200: &[(u16, u16)] = &[(Q, 200)];
const SERVICE: &[(u16, u16)] = &[(AD, 300), (Q, 10)];
const SERVICE_OUT: &[(u16, u16)] = &[(AD, 300), (Q, 30)];

pub fn tests() -> Vec<Trial> {
    let with_devices = Some(Need::LinkKind("vlan", "8021q"));
    vec![
        test("vlan::tags_go_in_and_out", tags),
        test("vlan::every_operation_works_between_vlans", operations),
        test("vlan::ip_in_a_vlan_is_imposed_on", imposition),
        test("vlan::priority_tags_are_no_vlan", priority),
        test("vlan::a_wrong_vid_is_counted_and_dropped", wrong_vid),
        test("vlan::what_is_not_labelled_keeps_its_tags", untouched),
        test("vlan::labels_popped_for_this_router_take_the_tags_along", local),
        test("vlan::expired_ttls_are_answered_along_the_lsp_with_tags", ttl_expired),
        test("vlan::frames_wait_for_a_sub_interface_and_leave_with_tags", held),
        test("vlan::a_tag_does_not_count_against_the_mtu", too_big),
        test("vlan::unknown_labels_are_those_of_the_sub_interface", unknown_label),
        test("vlan::sub_interfaces_come_and_go_while_the_parent_forwards", run_time),
        test(
            "vlan::the_parent_carries_the_program_as_long_as_it_is_needed",
            parent_only,
        ),
        test("vlan::a_port_that_is_sent_by_only_can_have_sub_interfaces", tx_only),
        test("vlan::next_hops_follow_the_parent", parent_down),
        test("vlan::what_cannot_be_is_refused_with_what_to_do", refused),
        test("vlan::the_parent_takes_its_sub_interfaces_along", parent_gone),
        test("vlan::an_interface_of_the_same_name_takes_nothing_away", namesake),
        test("vlan::the_labels_of_a_port_are_forgotten_with_it", forgotten_labels),
        test("vlan::a_configured_next_hop_that_needs_a_device_is_told", needs_device),
        test_with("vlan::a_device_of_the_kernel_resolves_next_hops", with_devices, devices),
        test_with("vlan::a_device_may_come_and_go", with_devices, device_comes_and_goes),
        test_with("vlan::a_device_gets_what_is_popped_for_it", with_devices, device_local),
        test_with("vlan::stacked_devices_are_qinq", with_devices, stacked_devices),
        test_with(
            "vlan::a_device_on_a_veth_s_peer_tags_beside_the_frame",
            with_devices,
            hidden_tags,
        ),
    ]
}

/// Adds a route to the right tap by a sub-interface of eth2.
fn route(bench: &Bench, route: &str, dev: &str) -> Result<()> {
    bench
        .router
        .run(&format!("route add {route} via link {RIGHT} dev {dev}"))
        .map(drop)
}

/// Frames that a port has not forwarded for this reason.
fn dropped_at(router: &Router, port: &str, reason: &str) -> Result<u64> {
    let stats: Stats = router.json("stats")?;
    let counter = |found: &&mplsxdp::control::api::ReasonCounter| (&*found.port, &*found.reason) == (port, reason);
    Ok(stats.reasons.iter().find(counter).map_or(0, |found| found.packets))
}

fn shown(router: &Router, name: &str) -> Result<Link> {
    let links: Vec<Link> = router.json("link show")?;
    let found = links.into_iter().find(|link| link.ifname == name);
    found.with_context(|| format!("{name} is not shown"))
}

/// An ICMP error that arrives with these tags.
fn receive_error(tap: &Tap, what: &str, tags: &[(u16, u16)]) -> Result<(IcmpError, Vec<u8>)> {
    let frame = tap.receive(what, |frame| {
        let (found, frame) = untagged(frame);
        found == tags && IcmpError::read(&frame).is_some()
    })?;
    let (_, frame) = untagged(&frame);
    let error = IcmpError::read(&frame).context("no ICMP error")??;
    Ok((error, frame))
}

fn until_outcome(router: &Router, name: &str, count: u64) -> Result<()> {
    wait::until(&format!("{count} frames with the outcome {name}"), PATIENCE, || {
        Ok((router.outcome(name)? == count).then_some(()))
    })
}

fn tags() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "100 as 110", "eth2")?;
    route(&bench, "101 as 111", "eth2.200")?;
    route(&bench, "102 as 112", "eth2.300.30")?;
    let ins: [&[(u16, u16)]; 4] = [&[], VLAN100, &[(AD, 100)], SERVICE];
    for tags in ins {
        for (label, out) in [(100, &[][..]), (101, VLAN200), (102, SERVICE_OUT)] {
            for packet in [v4(64)?, v6(64)?] {
                let sent = tagged(tags, &bench.labelled(&[Entry::new(label, 64).tc(5)], &packet));
                let swapped = bench.out_labelled(&[Entry::new(label + 10, 63).tc(5)], &packet);
                bench.expect(&format!("{tags:x?} to {out:x?}"), &sent, &tagged(out, &swapped))?;
            }
        }
    }
    // Priority and drop eligibility are not part of the VLAN, and are not copied.
    let sent = tagged(&[(Q, 0xf000 | 100)], &bench.labelled(&[Entry::new(101, 64)], &v4(64)?));
    let expected = tagged(VLAN200, &bench.out_labelled(&[Entry::new(111, 63)], &v4(64)?));
    bench.expect("a priority", &sent, &expected)?;
    let forwarded = bench.router.forwarded("101")?;
    ensure!(forwarded == 9, "counted {forwarded}");
    bench.router.unload()
}

fn operations() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    for (tags, out, dev) in [
        (VLAN100, VLAN200, "eth2.200"),
        (SERVICE, VLAN200, "eth2.200"),
        (VLAN100, SERVICE_OUT, "eth2.300.30"),
        (&[], SERVICE_OUT, "eth2.300.30"),
        (SERVICE, &[], "eth2"),
    ] {
        for line in [
            "100 as 200/110",
            "101 as 1001/1002/1003/1004/1005/1006/1007/1008",
            "17 as implicit-null",
            "210",
        ] {
            bench
                .router
                .run(&format!("route replace {line} via link {RIGHT} dev {dev}"))?;
        }
        let what = format!("{tags:x?} to {out:x?}");
        let expect = |sent: &[u8], expected: &[u8]| bench.expect(&what, &tagged(tags, sent), &tagged(out, expected));
        for (packet, ethertype) in [(v4(62)?, ETH_P_IP), (v6(62)?, ETH_P_IPV6)] {
            expect(
                &bench.labelled(&[Entry::new(100, 64).tc(4)], &packet),
                &bench.out_labelled(&[Entry::new(200, 63).tc(4), Entry::new(110, 63).tc(4)], &packet),
            )?;
            let eight: Vec<_> = (1001..=1008).map(|label| Entry::new(label, 63)).collect();
            expect(
                &bench.labelled(&[Entry::new(101, 64)], &packet),
                &bench.out_labelled(&eight, &packet),
            )?;
            expect(
                &bench.labelled(&[Entry::new(17, 63), Entry::new(146, 99)], &packet),
                &bench.out_labelled(&[Entry::new(146, 62)], &packet),
            )?;
            expect(
                &bench.labelled(&[Entry::new(210, 62)], &packet),
                &ethernet(bench.right.mac(), bench.port2, ethertype, &with_ttl(&packet, 61)?),
            )?;
        }
    }
    Ok(())
}

fn imposition() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "10.9.0.0/16 encap mpls 300", "eth2.200")?;
    route(&bench, "2001:db8:9::/48 encap mpls 400/500", "eth2.300.30")?;
    for tags in [&[], VLAN100, SERVICE] {
        let ip = |ethertype, packet: &[u8]| tagged(tags, &ethernet(bench.port1, bench.left.mac(), ethertype, packet));
        bench.expect(
            "IPv4",
            &ip(ETH_P_IP, &v4(64)?),
            &tagged(VLAN200, &bench.out_labelled(&[Entry::new(300, 63)], &v4(63)?)),
        )?;
        let stack = [Entry::new(400, 63), Entry::new(500, 63)];
        bench.expect(
            "IPv6",
            &ip(ETH_P_IPV6, &v6(64)?),
            &tagged(SERVICE_OUT, &bench.out_labelled(&stack, &v6(63)?)),
        )?;
    }
    Ok(())
}

fn priority() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "100 as 110", "eth2.200")?;
    let sent = bench.labelled(&[Entry::new(100, 64)], &v4(64)?);
    let expected = tagged(VLAN200, &bench.out_labelled(&[Entry::new(110, 63)], &v4(64)?));
    for tags in [&[(Q, 0xe000)][..], &[(Q, 0)], &[(Q, 0), (Q, 0xa000)]] {
        bench.expect(&format!("{tags:x?}"), &tagged(tags, &sent), &expected)?;
    }
    // Its exceptions are those of the interface.
    bench.left.send(&tagged(
        &[(Q, 0xe000)],
        &bench.labelled(&[Entry::new(4711, 64)], &v4(64)?),
    ))?;
    until_outcome(&bench.router, "unknown-label", 1)?;
    let listed = bench.router.unknown_labels()?;
    ensure!(listed.len() == 1 && listed[0].port == "eth1", "{listed:?}");
    Ok(())
}

fn wrong_vid() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "100 as 110", "eth2.200")?;
    let sent = bench.labelled(&[Entry::new(100, 64)], &v4(64)?);
    let wrong: [&[(u16, u16)]; 5] = [
        &[(Q, 101)],
        &[(AD, 300)],
        &[(AD, 300), (Q, 11)],
        &[(Q, 100), (Q, 10)],
        // A sub-interface of the other port.
        VLAN200,
    ];
    for (count, tags) in wrong.into_iter().enumerate() {
        bench.expect_drop("unknown-vlan", &tagged(tags, &sent))?;
        let counted = dropped_at(&bench.router, "eth1", "unknown-vlan")?;
        ensure!(counted == count as u64 + 1, "{tags:x?}: counted {counted}");
    }
    // Only two of three tags are read: what follows is not a label.
    let kernel = Tap::open(bench.router.netns(), "eth1")?;
    let deep = tagged(&[(AD, 300), (Q, 10), (Q, 5)], &sent);
    bench.left.send(&deep)?;
    kernel.receive("the frame with three tags", |frame| frame == deep)?;
    Ok(())
}

fn untouched() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "10.9.0.0/16 encap mpls 300", "eth2.200")?;
    let kernel = Tap::open(bench.router.netns(), "eth1")?;
    let (here, us) = (bench.port1, bench.left.mac());
    let elsewhere = udp("192.0.2.1".parse()?, "198.51.100.1".parse()?, 64, b"x")?;
    // In VLANs of ports, and in others.
    let all: [&[(u16, u16)]; 5] = [
        VLAN100,
        SERVICE,
        &[(Q, 0xe000 | 77)],
        &[(AD, 300), (Q, 99)],
        &[(Q, 0xe000)],
    ];
    for tags in all {
        for (name, frame) in [
            (
                "LLDP",
                ethernet(Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]), us, 0x88cc, &lldp(us)),
            ),
            ("an ARP request", ethernet(Mac([0xff; 6]), us, 0x0806, &arp_request(us))),
            (
                "an ARP request to this router only",
                ethernet(here, us, 0x0806, &arp_request(us)),
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
            ("IPv4 without an FTN entry", ethernet(here, us, ETH_P_IP, &elsewhere)),
            (
                "labels for another MAC",
                labelled(Mac([2, 9, 9, 9, 9, 9]), us, &[Entry::new(100, 1)], b"x"),
            ),
            ("a full-sized frame", ethernet(here, us, 0x9000, &[0x5a; 1500])),
        ] {
            let sent = tagged(tags, &frame);
            bench.left.send(&sent)?;
            kernel.receive(&format!("{name} with {tags:x?}"), |arrived| arrived == sent)?;
        }
    }
    let stats: Stats = bench.router.json("stats")?;
    ensure!(stats.reasons.is_empty(), "counted: {stats:?}");
    Ok(())
}

/// The kernel has no device for the VLAN: it gets the packet as the parent's.
fn local() -> Result<()> {
    let bench = Bench::new("--iface eth1.100 --iface eth1.300.10 --iface eth1 --iface eth2")?;
    bench.router.run("route add 110 dev lo")?;
    let kernel = Tap::open(bench.router.netns(), "eth1")?;
    for tags in [VLAN100, SERVICE] {
        for stack in [
            &[Entry::new(110, 62)][..],
            &[Entry::new(0, 63), Entry::new(110, 9)],
            // Through the slow path.
            &[Entry::new(1, 62), Entry::new(110, 9)],
        ] {
            let packet = udp("10.0.1.2".parse()?, "198.51.100.1".parse()?, 64, b"for the kernel")?;
            bench.left.send(&tagged(tags, &bench.labelled(stack, &packet)))?;
            let popped = with_ttl(&packet, 61)?;
            let expected = ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &popped);
            kernel.receive(&format!("the packet of {tags:x?}"), |frame| frame == expected)?;
        }
    }
    Ok(())
}

fn ttl_expired() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "100 as 110", "eth2.200")?;
    route(&bench, "101 as 111", "eth2.300.30")?;
    route(&bench, "102 as 112", "eth2")?;
    let mut count = 0;
    for (tags, port) in [(VLAN100, "eth1.100"), (SERVICE, "eth1.300.10"), (&[], "eth1")] {
        for (label, out) in [(100, VLAN200), (101, SERVICE_OUT), (102, &[])] {
            for (packet, kind, router) in [
                (v4(64)?, TIME_EXCEEDED_V4, "10.0.1.1"),
                (v6(64)?, TIME_EXCEEDED_V6, "fd00:1::1"),
            ] {
                count += 1;
                let stack = [Entry::new(label, 1).tc(3)];
                bench.left.send(&tagged(tags, &bench.labelled(&stack, &packet)))?;
                let (error, frame) = receive_error(&bench.right, "time exceeded", out)?;
                // The parent's address: the sub-interface has none.
                ensure!(
                    (error.kind, &error.stack[..], error.source) == (kind, &stack[..], router.parse()?),
                    "{error:?}"
                );
                error.ensure_quotes(&packet)?;
                let expected = bench.out_labelled(&[Entry::new(label + 10, 64).tc(6)], &[]);
                ensure!(frame.starts_with(&expected), "{frame:02x?}");
            }
        }
        ensure!(
            dropped_at(&bench.router, port, "ttl-expired")? == 6,
            "counted at the sub-interface"
        );
    }
    until_outcome(&bench.router, "time-exceeded", count)
}

fn held() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "100 as 110", "eth2.200")?;
    route(&bench, "101 as 111", "eth2.300.30")?;
    for (label, tags, out, dev) in [
        (100, VLAN100, VLAN200, "eth2.200"),
        (101, SERVICE, SERVICE_OUT, "eth2.300.30"),
    ] {
        let packets: Vec<_> = (0..5)
            .map(|number| udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, &[number; 40]))
            .collect::<Result<_>>()?;
        // Frames wait for 3 s; a slow machine may need several attempts.
        let mut attempts = 0..5;
        loop {
            attempts.next().context("the frames never waited long enough")?;
            let count = |name| bench.router.outcome(name);
            let (held, released, expired) = (count("held")?, count("released")?, count("hold-expired")?);
            bench.router.run(&format!("link del {dev}"))?;
            for packet in &packets {
                bench
                    .left
                    .send(&tagged(tags, &bench.labelled(&[Entry::new(label, 64)], packet)))?;
            }
            until_outcome(&bench.router, "held", held + 5)?;
            bench.router.run(&format!("link add {dev}"))?;
            wait::until("the end of the wait", PATIENCE, || {
                Ok((count("released")? + count("hold-expired")? == released + expired + 5).then_some(()))
            })?;
            if count("hold-expired")? == expired {
                break;
            }
            bench.right.drain()?;
        }
        for packet in &packets {
            let expected = tagged(out, &bench.out_labelled(&[Entry::new(label + 10, 63)], packet));
            let is_ours = |frame: &[u8]| frame.starts_with(&bench.right.mac().0);
            let frame = bench.right.receive("a frame that waited", is_ours)?;
            ensure!(frame == expected, "received {frame:02x?}\nexpected {expected:02x?}");
        }
    }
    Ok(())
}

fn too_big() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "100 as 110", "eth2.200")?;
    route(&bench, "101 as 111", "eth2.300.30")?;
    // The second tag counts: the kernel redirects only frames that are one tag longer.
    for (label, out, mtu) in [(100, VLAN200, 1500), (101, SERVICE_OUT, 1496)] {
        let in_full: usize = mtu - 4;
        let packet = |length: usize| {
            let mut packet = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, &vec![7; length - 28])?;
            // It may be fragmented.
            packet[6] = 0;
            with_ttl(&packet, 64)
        };
        let sent = |packet: &[u8]| tagged(VLAN100, &bench.labelled(&[Entry::new(label, 64)], packet));
        let fits = packet(in_full)?;
        bench.expect(
            "a packet that fits",
            &sent(&fits),
            &tagged(out, &bench.out_labelled(&[Entry::new(label + 10, 63)], &fits)),
        )?;
        // One byte too long: two fragments, as long as fits in units of 8 bytes.
        bench.left.send(&sent(&packet(in_full + 1)?))?;
        let first = (in_full - 20) / 8 * 8 + 20;
        for length in [first, in_full + 1 - first + 20] {
            let is_ours = |frame: &[u8]| frame.starts_with(&bench.right.mac().0);
            let frame = bench.right.receive("a fragment", is_ours)?;
            let start = tagged(out, &bench.out_labelled(&[Entry::new(label + 10, 63)], &[]));
            ensure!(
                frame.starts_with(&start) && frame.len() == start.len() + length,
                "{} bytes: {frame:02x?}",
                frame.len()
            );
        }
        let packet = udp(
            "2001:db8::1".parse()?,
            "2001:db8:9::1".parse()?,
            64,
            &vec![7; in_full + 1 - 48],
        )?;
        bench.left.send(&sent(&packet))?;
        let (error, _) = receive_error(&bench.right, "packet too big", out)?;
        ensure!(
            (error.kind, error.mtu) == (PACKET_TOO_BIG_V6, in_full as u32),
            "{error:?}"
        );
        error.ensure_quotes(&packet)?;
    }
    ensure!(
        dropped_at(&bench.router, "eth1.100", "too-big")? == 4,
        "counted at the sub-interface"
    );
    ensure!(shown(&bench.router, "eth2.200")?.mtu == 1500, "MTU of eth2.200");
    ensure!(shown(&bench.router, "eth2.300.30")?.mtu == 1496, "MTU of eth2.300.30");
    Ok(())
}

fn unknown_label() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    for tags in [VLAN100, SERVICE, &[]] {
        bench
            .left
            .send(&tagged(tags, &bench.labelled(&[Entry::new(4711, 64)], &v4(64)?)))?;
    }
    until_outcome(&bench.router, "unknown-label", 3)?;
    let listed = bench.router.unknown_labels()?;
    let mut ports: Vec<_> = listed.iter().map(|unknown| &*unknown.port).collect();
    ports.sort_unstable();
    ensure!(ports == ["eth1", "eth1.100", "eth1.300.10"], "{listed:?}");
    for port in ports {
        ensure!(dropped_at(&bench.router, port, "no-route")? == 1, "counted at {port}");
    }
    let said = bench.router.said();
    ensure!(
        said.lines()
            .any(|line| line.contains("no route") && line.contains("eth1.100")),
        "{said}"
    );
    Ok(())
}

/// Sends frames one by one, each after the previous one has arrived, while `work` is done.
fn while_forwarding(bench: &Bench, sent: &[u8], expected: &[u8], work: impl FnOnce() -> Result<()>) -> Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let forwarding = scope.spawn(|| {
            let mut frames = 0;
            while !stop.load(Ordering::Relaxed) {
                bench.left.send(sent)?;
                bench
                    .right
                    .receive(&format!("frame {frames}"), |frame| frame == expected)?;
                frames += 1;
            }
            Ok::<_, anyhow::Error>(frames)
        });
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let frames = forwarding.join().map_err(|_| anyhow!("the sender panicked"))??;
        worked?;
        ensure!(frames > 0, "nothing was forwarded");
        Ok(())
    })
}

fn run_time() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    let sent = bench.labelled(&[Entry::new(100, 64)], &v4(64)?);
    let expected = bench.out_labelled(&[Entry::new(110, 63)], &v4(64)?);
    while_forwarding(&bench, &sent, &expected, || {
        for _ in 0..5 {
            for name in ["eth1.100", "eth2.200", "eth1.300.10"] {
                bench.router.run(&format!("link add {name}"))?;
            }
            bench.router.run("link set eth1.100 mpls off")?;
            for name in ["eth1.100", "eth2.200", "eth1.300.10"] {
                bench.router.run(&format!("link del {name}"))?;
            }
        }
        Ok(())
    })?;
    // The other way round: the parent comes and goes beneath its sub-interface.
    bench.router.run("link add eth1.100")?;
    bench.router.run("link add eth2.200")?;
    route(&bench, "101 as 111", "eth2.200")?;
    let sent = tagged(VLAN100, &bench.labelled(&[Entry::new(101, 64)], &v4(64)?));
    let expected = tagged(VLAN200, &bench.out_labelled(&[Entry::new(111, 63)], &v4(64)?));
    while_forwarding(&bench, &sent, &expected, || {
        for _ in 0..5 {
            for name in ["eth1", "eth2"] {
                bench.router.run(&format!("link del {name}"))?;
                bench.router.run(&format!("link add {name}"))?;
            }
        }
        Ok(())
    })?;
    // `mpls off` applies to one of them only.
    bench.router.run("link set eth1.100 mpls off")?;
    bench.expect_drop("port-disabled", &sent)?;
    ensure!(
        dropped_at(&bench.router, "eth1.100", "port-disabled")? == 1,
        "counted at eth1.100"
    );
    bench.router.run("link set eth1.100 mpls on")?;
    bench.expect("on again", &sent, &expected)?;
    bench.router.run("link del eth1.100")?;
    bench.expect_drop("unknown-vlan", &sent)?;
    bench.router.unload()
}

/// Two interfaces in a namespace, and a tap at the other end of each.
struct Pair {
    netns: Netns,
    left: Tap,
    right: Tap,
    others: [Netns; 2],
    _lab: Lab,
}

impl Pair {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, netns, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(End::new(&left, "eth0").mac(LEFT), End::new(&netns, "eth1"))?;
        link(End::new(&netns, "eth2"), End::new(&right, "eth0").mac(RIGHT))?;
        // XDP sees only the tags that are in the frames of a VLAN device at the other end.
        for netns in [&left, &right] {
            netns.run("ethtool -K eth0 txvlan off tx-vlan-stag-hw-insert off")?;
        }
        Ok(Self {
            left: Tap::open(&left, "eth0")?,
            right: Tap::open(&right, "eth0")?,
            netns,
            others: [left, right],
            _lab: lab,
        })
    }

    /// Label 100 goes from the left to the right, swapped to 110.
    fn expect_swap(&self, tags: &[(u16, u16)], out: &[(u16, u16)]) -> Result<()> {
        let (port1, port2) = (self.netns.mac("eth1")?, self.netns.mac("eth2")?);
        let sent = labelled(port1, self.left.mac(), &[Entry::new(100, 64)], b"payload");
        let expected = labelled(self.right.mac(), port2, &[Entry::new(110, 63)], b"payload");
        self.left.send(&tagged(tags, &sent))?;
        let expected = tagged(out, &expected);
        self.right
            .receive("the swapped frame", |frame| frame == expected)
            .map(drop)
    }
}

fn parent_only() -> Result<()> {
    let pair = Pair::new()?;
    let router = Router::load(&pair.netns, "--iface eth1.100 --tx-only eth2.200")?;
    router.run(&format!("route add 100 as 110 via link {RIGHT} dev eth2.200"))?;
    pair.expect_swap(VLAN100, VLAN200)?;
    let parent = shown(&router, "eth1")?;
    let sub_interface = shown(&router, "eth1.100")?;
    ensure!(
        parent.parent_only && !parent.mpls && parent.vlan.is_none(),
        "{parent:?}"
    );
    ensure!(
        !sub_interface.parent_only && sub_interface.mpls && sub_interface.up && sub_interface.ifindex.is_none(),
        "{sub_interface:?}"
    );
    ensure!(
        (
            sub_interface.parent.as_deref(),
            sub_interface.link_id,
            &sub_interface.address
        ) == (Some("eth1"), parent.link_id, &parent.address),
        "{sub_interface:?}"
    );
    let tags: Vec<_> = sub_interface
        .vlan
        .iter()
        .flatten()
        .map(|tag| (&*tag.protocol, tag.id))
        .collect();
    ensure!(tags == [("802.1Q", 100)], "{tags:?}");
    ensure!(shown(&router, "eth2.200")?.tx_only, "eth2.200 is transmitted to only");
    let text = router.run("link show eth1.100")?;
    ensure!(
        text.starts_with("eth1.100@eth1: UP mpls on mtu 1500 mode native\n") && text.contains(" vlan 802.1Q 100 "),
        "{text}"
    );

    // An untagged frame is not for it.
    let port1 = pair.netns.mac("eth1")?;
    pair.left
        .send(&labelled(port1, pair.left.mac(), &[Entry::new(100, 64)], b"x"))?;
    let count = |port, reason, count| {
        wait::until(&format!("{count} frames of {reason} at {port}"), PATIENCE, || {
            Ok((dropped_at(&router, port, reason)? == count).then_some(()))
        })
    };
    count("eth1", "port-disabled", 1)?;
    // Nothing is accepted where frames are only sent.
    let port2 = pair.netns.mac("eth2")?;
    let back = labelled(port2, pair.right.mac(), &[Entry::new(100, 64)], b"x");
    pair.right.send(&tagged(VLAN200, &back))?;
    count("eth2.200", "port-disabled", 1)?;

    for (command, says) in [
        ("link del eth1", "eth1 has the program only for eth1.100"),
        ("link set eth1 mpls on", "`mplsxdp link add eth1`"),
    ] {
        let error = router.run(command).err().context(command)?.to_string();
        ensure!(error.contains(says), "{command}: {error}");
    }
    // The program is removed with the last one.
    let attached =
        |interface: &str| Ok::<_, anyhow::Error>(pair.netns.ip(&format!("link show dev {interface}"))?.contains("xdp"));
    ensure!(attached("eth1")? && attached("eth2")?, "attached to the parents");
    router.run("link add eth1.101")?;
    router.run("link del eth1.100")?;
    ensure!(attached("eth1")?, "attached for eth1.101");
    router.run("link del eth1.101")?;
    ensure!(!attached("eth1")? && attached("eth2")?, "detached");
    // An interface that switches itself keeps it.
    router.run("link add eth1.100")?;
    router.run("link add eth1")?;
    pair.expect_swap(&[], VLAN200)?;
    pair.expect_swap(VLAN100, VLAN200)?;
    router.run("link del eth1.100")?;
    pair.expect_swap(&[], VLAN200)?;
    router.run("link add eth1.100")?;
    router.run("link del eth1")?;
    ensure!(
        shown(&router, "eth1")?.parent_only,
        "eth1 only holds the program for eth1.100"
    );
    pair.expect_swap(VLAN100, VLAN200)?;
    router.unload()
}

fn tx_only() -> Result<()> {
    let bench = Bench::new("--tx-only eth1 --iface eth2")?;
    bench.router.run("link add eth1.100")?;
    bench.router.run("link add eth2.200")?;
    route(&bench, "100 as 110", "eth2.200")?;
    bench
        .left
        .send(&tagged(VLAN100, &bench.labelled(&[Entry::new(100, 1)], &v4(64)?)))?;
    let (error, _) = receive_error(&bench.right, "time exceeded", VLAN200)?;
    ensure!(error.kind == TIME_EXCEEDED_V4, "{error:?}");
    ensure!(shown(&bench.router, "eth1")?.tx_only, "eth1 is transmitted to only");
    Ok(())
}

fn parent_down() -> Result<()> {
    let bench = Bench::new(TAGGED)?;
    route(&bench, "100 as 110", "eth2.200")?;
    let netns = bench.router.netns();
    let until = |expected: Resolution| {
        wait::until(&format!("{expected:?}"), PATIENCE, || {
            let hops: Vec<NextHopState> = bench.router.json("neigh show dev eth2.200")?;
            Ok((hops.len() == 1 && hops[0].state == expected).then_some(()))
        })
    };
    until(Resolution::Static)?;
    netns.ip("link set dev eth2 down")?;
    until(Resolution::LinkDown)?;
    ensure!(!shown(&bench.router, "eth2.200")?.up, "eth2.200 is down");
    netns.ip("link set dev eth2 up")?;
    until(Resolution::Static)?;
    // Its MAC address and MTU are the parent's.
    netns.ip("link set dev eth2 address 02:00:00:00:77:01 mtu 1400")?;
    wait::until("the MAC address and MTU", PATIENCE, || {
        let link = shown(&bench.router, "eth2.200")?;
        Ok(((&*link.address, link.mtu) == ("02:00:00:00:77:01", 1400)).then_some(()))
    })?;
    let sent = tagged(VLAN100, &bench.labelled(&[Entry::new(100, 64)], &v4(64)?));
    let port2 = Mac([2, 0, 0, 0, 0x77, 1]);
    let expected = tagged(
        VLAN200,
        &labelled(bench.right.mac(), port2, &[Entry::new(110, 63)], &v4(64)?),
    );
    bench.left.send(&sent)?;
    bench.right.receive("from the new address", |frame| frame == expected)?;
    // So is its name.
    netns.ip("link set dev eth2 down")?;
    netns.ip("link set dev eth2 name wan")?;
    wait::until("the new name", PATIENCE, || Ok(shown(&bench.router, "wan.200").ok()))?;
    Ok(())
}

fn refused() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let refusal = |command: &str| -> Result<String> {
        Ok(bench
            .router
            .run(command)
            .err()
            .with_context(|| format!("{command} is not refused"))?
            .to_string())
    };
    bench.router.run("link add eth1.100")?;
    bench.router.run("link add eth1.300.10")?;
    for (command, says) in [
        ("link add eth1.100", "eth1.100 is a port already"),
        (
            "link add eth1.0",
            "eth1.0: 0 is not a VLAN identifier: these are 1 to 4094",
        ),
        ("link add eth1.4095", "4095 is not a VLAN identifier"),
        ("link add eth1.1.2.3", "eth1.1.2.3 has more than two VLAN tags"),
        ("link add eth9.100", "there is no interface eth9.100"),
        ("link del eth1.101", "`mplsxdp link add eth1.101`"),
        ("link del eth9.101", "there is no such interface"),
        ("link del eth1.0", "0 is not a VLAN identifier: these are 1 to 4094"),
        (
            "link set eth1.4095 mpls off",
            "4095 is not a VLAN identifier: these are 1 to 4094",
        ),
        ("link show eth1.101", "add it with `link add eth1.101`"),
        (
            "link add eth1.4095",
            "4095 is not a VLAN identifier: these are 1 to 4094",
        ),
        ("link add eth1.100.10.5", "eth1.100.10.5 has more than two VLAN tags"),
        (
            "route add 100 as 110 via link 02:00:00:00:00:09 dev eth2.4095",
            "4095 is not a VLAN identifier: these are 1 to 4094",
        ),
        (
            "route add 100 as 110 via link 02:00:00:00:00:09 dev eth1.100.10.5",
            "eth1.100.10.5 has more than two VLAN tags",
        ),
        (
            "route add 100 as 110 via inet 10.0.1.2 dev eth1.100",
            "the kernel has no VLAN device for eth1.100, and resolves no addresses there: make one (`ip link add link eth1 name \
             eth1.100 type vlan id 100`), or name the next hop by its MAC address (`via link MAC dev eth1.100`)",
        ),
        (
            "route add 100 as 110 via inet6 fe80::2 dev eth1.300.10",
            "(`ip link add link eth1 name eth1.300 type vlan protocol 802.1ad id 300; ip link add link eth1.300 name eth1.300.10 \
             type vlan id 10`)",
        ),
        (
            "route add 100 as 110 via link 02:00:00:00:00:09 dev eth1.101",
            "eth1.101 is not a port of this switch: add it with `mplsxdp link add eth1.101`",
        ),
    ] {
        let error = refusal(command)?;
        ensure!(error.contains(says), "{command}: {error}");
    }
    // An interface with such a name is used as such.
    bench
        .router
        .netns()
        .ip("link add eth1.500 type veth peer name peer500")?;
    bench.router.run("link add eth1.500")?;
    let port = shown(&bench.router, "eth1.500")?;
    ensure!(port.parent.is_none() && port.vlan.is_none(), "{port:?}");
    bench.router.run("link del eth1.500")?;
    bench.router.unload()?;

    // A veth does not take tags out of frames, whatever it reports; but the tags that its peer sends beside a frame are
    // not in the frame.
    let netns = bench.lab.netns("both")?;
    netns.ip("link add eth1 type veth peer name host1")?;
    for name in ["eth1", "host1"] {
        netns.ip(&format!("link set dev {name} up"))?;
    }
    let remedy = "`ethtool -K host1 txvlan off tx-vlan-stag-hw-insert off`";
    for (command, advised) in [
        ("ethtool -K host1 txvlan on", true),
        ("ethtool -K host1 txvlan off tx-vlan-stag-hw-insert off", false),
    ] {
        netns.run(command)?;
        let router = Router::load(&netns, "--iface eth1.100")?;
        ensure!(router.said().contains(remedy) == advised, "{}", router.said());
        router.unload()?;
    }
    Ok(())
}

fn parent_gone() -> Result<()> {
    let pair = Pair::new()?;
    let router = Router::load(&pair.netns, "--iface eth1.100 --iface eth2 --iface eth2.200")?;
    pair.netns.ip("link del dev eth2")?;
    wait::until("the end of eth2 and eth2.200", PATIENCE, || {
        let links: Vec<Link> = router.json("link show")?;
        let (waiting, ports): (Vec<_>, Vec<_>) = links.iter().partition(|link| link.problem.is_some());
        let names = |links: &[&Link]| links.iter().map(|link| link.ifname.clone()).collect::<Vec<_>>();
        let gone = names(&ports) == ["eth1", "eth1.100"] && names(&waiting) == ["eth2", "eth2.200"];
        Ok(gone.then_some(()))
    })?;
    let instance = router.instance().to_owned();
    router.unload()?;
    ensure_nothing_left(&pair.netns, &instance)
}

/// Its name is the port's, in routes and in `link show`.
fn namesake() -> Result<()> {
    let pair = Pair::new()?;
    let router = Router::load(&pair.netns, "--iface eth1 --iface eth2.200")?;
    let next_hop = format!("via link {RIGHT} dev eth2.200");
    router.run(&format!("route add 100 as 110 {next_hop}"))?;
    pair.expect_swap(&[], VLAN200)?;
    pair.netns.ip("link add eth2.200 type veth peer name other")?;
    pair.netns.ip("link set dev eth2.200 up")?;
    pair.netns.ip("link set dev other up")?;
    wait::until("the switch to know the interface", PATIENCE, || {
        Ok(router.run("link del other").err().filter(|error| {
            let error = error.to_string();
            error.contains("add it with `mplsxdp link add other`")
        }))
    })?;
    pair.expect_swap(&[], VLAN200)?;
    let hops: Vec<NextHopState> = router.json("neigh show dev eth2.200")?;
    ensure!(hops.len() == 1 && hops[0].state == Resolution::Static, "{hops:?}");
    router.run(&format!("route add 101 as 111 {next_hop}"))?;
    router.run(&format!("route replace 100 as 110 {next_hop}"))?;
    pair.expect_swap(&[], VLAN200)?;
    ensure!(
        shown(&router, "eth2.200")?.ifindex.is_none(),
        "the kernel has no device"
    );
    // By its address it is found all the same, and distinguished.
    pair.netns.ip("address add 10.0.99.1/24 dev eth2.200")?;
    let refused = router.run("route add 102 as 112 via inet 10.0.99.2").err();
    let said = refused.context("the interface is no port")?.to_string();
    ensure!(said.contains("which is not the port eth2.200"), "{said}");
    pair.netns.ip("link del dev eth2.200")?;
    pair.expect_swap(&[], VLAN200)?;
    router.unload()
}

/// Its number is another's next.
fn forgotten_labels() -> Result<()> {
    let bench = Bench::new("--iface eth1 --iface eth2 --iface eth1.100")?;
    bench
        .left
        .send(&tagged(VLAN100, &bench.labelled(&[Entry::new(4711, 64)], &v4(64)?)))?;
    until_outcome(&bench.router, "unknown-label", 1)?;
    ensure!(bench.router.unknown_labels()?.len() == 1, "it is listed");
    bench.router.run("link del eth1.100")?;
    bench.router.run("link add eth2.200")?;
    let listed = bench.router.unknown_labels()?;
    ensure!(listed.is_empty(), "{listed:?}");
    bench.router.unload()
}

fn needs_device() -> Result<()> {
    let pair = Pair::new()?;
    let path = std::env::temp_dir().join(format!("{}.toml", pair.netns.name()));
    std::fs::write(&path, "routes = [\"100 as 110 via inet 10.0.20.2 dev eth2.200\"]\n")?;
    let options = format!("--iface eth1 --iface eth2.200 --config {}", path.display());
    let loaded = Router::load(&pair.netns, &options);
    std::fs::remove_file(&path)?;
    let router = loaded?;
    let remedy = "`ip link add link eth2 name eth2.200 type vlan id 200`";
    let said = router.said_at_load()?;
    let warning = said.lines().find(|line| line.contains(remedy));
    ensure!(warning.is_some_and(|line| line.contains("WARN")), "{said}");
    router.unload()
}

/// A VLAN device that is up, with an address.
fn add_device(netns: &Netns, parent: &str, name: &str, vlan: &str, address: &str) -> Result<()> {
    netns.ip(&format!("link add link {parent} name {name} type vlan {vlan}"))?;
    netns.ip(&format!("address add {address} dev {name}"))?;
    netns.ip(&format!("link set dev {name} up"))?;
    Ok(())
}

fn devices() -> Result<()> {
    let pair = Pair::new()?;
    // With an arbitrary name, and with the usual one.
    add_device(&pair.netns, "eth2", "customer", "id 200", "10.0.20.1/24")?;
    add_device(&pair.netns, "eth1", "eth1.100", "id 100", "10.0.10.1/24")?;
    add_device(&pair.others[1], "eth0", "vlan200", "id 200", "10.0.20.2/24")?;
    let router = Router::load(&pair.netns, "--iface eth1.100 --iface customer")?;
    for route in ["via inet 10.0.20.2 dev customer", "via inet 10.0.20.2"] {
        router.run(&format!("route replace 100 as 110 {route}"))?;
        router.wait_resolved()?;
        pair.expect_swap(VLAN100, VLAN200)?;
    }
    let link = shown(&router, "customer")?;
    ensure!(
        link.ifindex.is_some() && link.parent.as_deref() == Some("eth2"),
        "{link:?}"
    );
    router.unload()
}

fn device_comes_and_goes() -> Result<()> {
    let pair = Pair::new()?;
    add_device(&pair.others[1], "eth0", "vlan200", "id 200", "10.0.20.2/24")?;
    let router = Router::load(&pair.netns, "--iface eth1.100 --iface eth2.200")?;
    let route = "route add 100 as 110 via inet 10.0.20.2 dev eth2.200";
    ensure!(router.run(route).is_err(), "there is no device yet");
    for name in ["eth2.200", "customer"] {
        add_device(&pair.netns, "eth2", name, "id 200", "10.0.20.1/24")?;
        wait::until("the device is taken", PATIENCE, || {
            Ok(shown(&router, "eth2.200")?.ifindex.is_some().then_some(()))
        })?;
        if name == "eth2.200" {
            router.run(route)?;
        }
        router.wait_resolved()?;
        pair.expect_swap(VLAN100, VLAN200)?;
        pair.netns.ip(&format!("link del dev {name}"))?;
        wait::until("the device is left", PATIENCE, || {
            let hops: Vec<NextHopState> = router.json("neigh show")?;
            let left = shown(&router, "eth2.200")?.ifindex.is_none();
            Ok((left && hops.iter().all(|hop| hop.state == Resolution::NoArp)).then_some(()))
        })?;
    }
    // The MAC address can be given by hand.
    router.run(&format!("route replace 100 as 110 via link {RIGHT} dev eth2.200"))?;
    pair.expect_swap(VLAN100, VLAN200)?;
    router.unload()
}

fn device_local() -> Result<()> {
    let pair = Pair::new()?;
    add_device(&pair.netns, "eth1", "eth1.100", "id 100", "10.0.10.1/24")?;
    let router = Router::load(&pair.netns, "--iface eth1.100")?;
    router.run("route add 110 dev lo")?;
    let device = Tap::open(&pair.netns, "eth1.100")?;
    let packet = udp("10.0.10.2".parse()?, "10.0.10.1".parse()?, 64, b"for the kernel")?;
    let expected = ethernet(device.mac(), pair.left.mac(), ETH_P_IP, &with_ttl(&packet, 63)?);
    // The second one through the slow path.
    for stack in [&[Entry::new(110, 64)][..], &[Entry::new(1, 64), Entry::new(110, 9)]] {
        let frame = labelled(device.mac(), pair.left.mac(), stack, &packet);
        pair.left.send(&tagged(VLAN100, &frame))?;
        device.receive(&format!("the packet of {stack:?}, by the device"), |frame| {
            frame == expected
        })?;
    }
    router.unload()
}

fn stacked_devices() -> Result<()> {
    let pair = Pair::new()?;
    for (netns, parent, own) in [
        (&pair.netns, "eth2", "10.0.30.1/24"),
        (&pair.others[1], "eth0", "10.0.30.2/24"),
    ] {
        netns.ip(&format!(
            "link add link {parent} name service type vlan protocol 802.1ad id 300"
        ))?;
        netns.ip("link set dev service up")?;
        add_device(netns, "service", "inner", "id 30", own)?;
    }
    pair.others[1].run("ethtool -K service txvlan off")?;
    let router = Router::load(&pair.netns, "--iface eth1 --iface inner")?;
    router.run("route add 100 as 110 via inet 10.0.30.2")?;
    router.wait_resolved()?;
    pair.expect_swap(&[], SERVICE_OUT)?;
    let link = shown(&router, "inner")?;
    let tags: Vec<_> = link.vlan.iter().flatten().map(|tag| (&*tag.protocol, tag.id)).collect();
    ensure!(
        tags == [("802.1ad", 300), ("802.1Q", 30)] && link.parent.as_deref() == Some("eth2"),
        "{link:?}"
    );
    router.unload()
}

/// As docs/usage.md says of a veth: only the tags that its peer puts into the frame itself are seen. (A kernel with
/// MPLS always puts the tags of labelled frames into them, but not those of IP packets.)
fn hidden_tags() -> Result<()> {
    let pair = Pair::new()?;
    let left = &pair.others[0];
    left.ip("link add link eth0 name eth0.100 type vlan id 100")?;
    left.ip("link set dev eth0.100 up")?;
    let router = Router::load(&pair.netns, "--iface eth1 --iface eth1.100 --iface eth2")?;
    router.run(&format!(
        "route add 10.9.0.0/16 encap mpls 300 via link {RIGHT} dev eth2"
    ))?;
    // Where it is counted shows where it arrived.
    let sent = ethernet(pair.netns.mac("eth1")?, pair.left.mac(), ETH_P_IP, &v4(1)?);
    for (offload, port) in [("on", "eth1"), ("off", "eth1.100")] {
        left.run(&format!("ethtool -K eth0 txvlan {offload}"))?;
        Tap::open(left, "eth0.100")?.send(&sent)?;
        wait::until(&format!("a frame at {port}, txvlan {offload}"), PATIENCE, || {
            Ok((dropped_at(&router, port, "ttl-expired")? == 1).then_some(()))
        })?;
    }
    router.unload()
}

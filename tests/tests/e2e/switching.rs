//! One router between two taps: frames in and out, byte by byte, and the counters.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::Ipv4Header;
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, Stats, Status};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp, with_ttl};
use mplsxdp_tests::wait;

use crate::bench::{Bench, LEFT, NATIVE, v4, v6};
use crate::test;
use crate::too_big::{datagram, fragmented};

pub fn tests() -> Vec<Trial> {
    vec![
        test("switching::swap_keeps_tc_and_payload_and_takes_one_off_the_ttl", swap),
        test(
            "switching::pop_above_the_bottom_hands_the_ttl_down",
            pop_above_the_bottom,
        ),
        test(
            "switching::pop_at_the_bottom_patches_ttl_and_checksum",
            pop_at_the_bottom,
        ),
        test("switching::swap_and_push_writes_the_outermost_label_first", push),
        test("switching::pipe_mode_hides_the_hops_of_the_tunnel", pipe),
        test("switching::ip_is_imposed_by_the_longest_prefix", imposition),
        test("switching::explicit_null_is_popped_here", explicit_null),
        test("switching::what_cannot_be_forwarded_is_counted_by_its_reason", drops),
        test(
            "switching::what_routes_have_forwarded_is_counted_when_they_are_gone",
            total,
        ),
        test("switching::in_and_out_by_the_same_port", one_armed),
        test("switching::a_port_without_mpls_takes_no_labels", port_disabled),
        test("switching::a_port_takes_only_the_labels_of_its_ranges", accepted_labels),
        test("switching::a_port_maps_dscps_to_tcs_and_back", class_maps),
        test("switching::generic_mode_does_the_same_and_says_so", generic),
    ]
}

fn swap() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    for (ttl, tc) in [(64, 5), (255, 7), (2, 0)] {
        let sent = bench.labelled(&[Entry::new(100, ttl).tc(tc)], &v4(64)?);
        let expected = bench.out_labelled(&[Entry::new(110, ttl - 1).tc(tc)], &v4(64)?);
        bench.expect(&format!("TTL {ttl}, TC {tc}"), &sent, &expected)?;
    }
    // Whatever is beneath: a swap does not look at it.
    let sent = bench.labelled(&[Entry::new(100, 64), Entry::new(7000, 9).tc(3)], b"\xffnot IP");
    let expected = bench.out_labelled(&[Entry::new(110, 63), Entry::new(7000, 9).tc(3)], b"\xffnot IP");
    bench.expect("two labels", &sent, &expected)?;
    let forwarded = bench.router.forwarded("100")?;
    ensure!(forwarded == 4, "counted {forwarded}");
    bench.router.unload()
}

fn total() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    // Each frame is followed by a marker.
    let expect_frames = |label: u32, frames: u64| {
        for _ in 0..frames {
            let sent = bench.labelled(&[Entry::new(label, 64)], &v4(64)?);
            let expected = bench.out_labelled(&[Entry::new(label + 10, 63)], &v4(64)?);
            bench.expect("a swap", &sent, &expected)?;
        }
        let counted = bench.router.forwarded(&label.to_string())?;
        ensure!(counted == frames, "label {label}: counted {counted}");
        anyhow::Ok(())
    };
    let expect_total = |frames: u64| {
        let total = bench.router.json::<Stats>("stats")?.forwarded.packets;
        ensure!(total == 2 * frames, "{total} in all after {frames} frames");
        anyhow::Ok(())
    };
    expect_total(0)?;
    bench.route("100 as 110")?;
    expect_frames(100, 3)?;
    expect_total(3)?;
    bench.router.run("route del 100")?;
    expect_total(3)?;
    bench.route("200 as 210")?;
    bench.route("300 as 310")?;
    expect_frames(200, 2)?;
    expect_frames(300, 1)?;
    expect_total(6)?;
    bench.router.unload()
}

fn pop_above_the_bottom() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("17 as implicit-null")?;
    for (outer, inner) in [(63, 63), (30, 200), (200, 30)] {
        let sent = bench.labelled(&[Entry::new(17, outer), Entry::new(146, inner).tc(2)], &v4(64)?);
        let expected = bench.out_labelled(&[Entry::new(146, outer - 1).tc(2)], &v4(64)?);
        bench.expect(&format!("[17 {outer}][146 {inner}]"), &sent, &expected)?;
    }
    Ok(())
}

fn pop_at_the_bottom() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("210")?;
    for (packet, ethertype) in [(v4(62)?, ETH_P_IP), (v6(62)?, ETH_P_IPV6)] {
        let sent = bench.labelled(&[Entry::new(210, 62)], &packet);
        let expected = ethernet(bench.right.mac(), bench.port2, ethertype, &with_ttl(&packet, 61)?);
        bench.expect(&format!("EtherType {ethertype:#06x}"), &sent, &expected)?;
    }
    Ok(())
}

fn push() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 200/110")?;
    bench.route("101 as 1001/1002/1003/1004/1005/1006/1007/1008")?;
    let sent = bench.labelled(&[Entry::new(100, 64).tc(4)], &v4(64)?);
    let expected = bench.out_labelled(&[Entry::new(200, 63).tc(4), Entry::new(110, 63).tc(4)], &v4(64)?);
    bench.expect("two labels", &sent, &expected)?;
    let stack: Vec<_> = (1001..=1008).map(|label| Entry::new(label, 63)).collect();
    bench.expect(
        "eight labels",
        &bench.labelled(&[Entry::new(101, 64)], &v6(64)?),
        &bench.out_labelled(&stack, &v6(64)?),
    )?;
    // The maximum number of labels, in place of one label and on IP.
    let stack: Vec<_> = (1001..=1016).map(|label| Entry::new(label, 63)).collect();
    let labels: Vec<_> = stack.iter().map(|entry| entry.label.to_string()).collect();
    bench.route(&format!("102 as {}", labels.join("/")))?;
    bench.route(&format!("10.16.0.0/16 encap mpls {}", labels.join("/")))?;
    bench.expect(
        "sixteen labels",
        &bench.labelled(&[Entry::new(102, 64), Entry::new(17, 5)], &v4(64)?),
        &bench.out_labelled(&[&stack[..], &[Entry::new(17, 5)]].concat(), &v4(64)?),
    )?;
    let packet = |ttl| udp("192.0.2.1".parse()?, "10.16.0.1".parse()?, ttl, b"deep");
    bench.expect(
        "sixteen labels on IP",
        &ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &packet(64)?),
        &bench.out_labelled(&stack, &packet(63)?),
    )
}

fn pipe() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --ttl-propagate pipe"))?;
    for route in [
        "100 as 200/110",
        "17 as implicit-null",
        "10.9.0.0/16 encap mpls 300 ttl 77",
        "210",
    ] {
        bench.route(route)?;
    }
    let sent = bench.labelled(&[Entry::new(100, 64)], &v4(64)?);
    let expected = bench.out_labelled(&[Entry::new(200, 255), Entry::new(110, 63)], &v4(64)?);
    bench.expect("a pushed label has a TTL of its own", &sent, &expected)?;
    let sent = bench.labelled(&[Entry::new(17, 30), Entry::new(146, 63)], &v4(64)?);
    bench.expect(
        "the inner TTL stays",
        &sent,
        &bench.out_labelled(&[Entry::new(146, 63)], &v4(64)?),
    )?;
    let sent = ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &v4(64)?);
    bench.expect(
        "a configured TTL",
        &sent,
        &bench.out_labelled(&[Entry::new(300, 77)], &v4(63)?),
    )?;
    let sent = bench.labelled(&[Entry::new(210, 30)], &v4(64)?);
    let expected = ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &v4(63)?);
    bench.expect("the egress takes one off the IP TTL", &sent, &expected)
}

fn imposition() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("10.0.0.0/8 encap mpls 300")?;
    bench.route("10.9.0.0/16 encap mpls 400/500")?;
    bench.route("2001:db8:9::/48 encap mpls 600")?;
    let ip = |ethertype, packet: &[u8]| ethernet(bench.port1, bench.left.mac(), ethertype, packet);
    let stack = [Entry::new(400, 63), Entry::new(500, 63)];
    bench.expect(
        "10.9.0.1",
        &ip(ETH_P_IP, &v4(64)?),
        &bench.out_labelled(&stack, &v4(63)?),
    )?;
    bench.expect(
        "2001:db8:9::1",
        &ip(ETH_P_IPV6, &v6(64)?),
        &bench.out_labelled(&[Entry::new(600, 63)], &v6(63)?),
    )?;
    // DSCP EF is IP precedence 5, and so TC 5.
    let (source, other): (IpAddr, IpAddr) = ("192.0.2.1".parse()?, "10.8.0.1".parse()?);
    let marked = |ttl| -> Result<Vec<u8>> {
        let mut packet = udp(source, other, 64, b"voice")?;
        packet[1] = 46 << 2;
        with_ttl(&packet, ttl)
    };
    bench.expect(
        "TC",
        &ip(ETH_P_IP, &marked(64)?),
        &bench.out_labelled(&[Entry::new(300, 63).tc(5)], &marked(63)?),
    )?;
    bench.expect_drop("ttl-expired", &ip(ETH_P_IP, &v4(1)?))
}

fn explicit_null() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("10.9.0.0/16 encap mpls 300")?;
    bench.route("146 as 147")?;
    let sent = bench.labelled(&[Entry::new(0, 64)], &v4(64)?);
    bench.expect(
        "then imposed again",
        &sent,
        &bench.out_labelled(&[Entry::new(300, 62)], &v4(62)?),
    )?;
    let sent = bench.labelled(&[Entry::new(0, 64), Entry::new(146, 64)], &v4(64)?);
    bench.expect(
        "above another label",
        &sent,
        &bench.out_labelled(&[Entry::new(147, 62)], &v4(64)?),
    )
}

fn drops() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    bench.route("210")?;
    // From a source that gets no answers.
    let packet = udp("0.0.0.0".parse()?, "10.9.0.1".parse()?, 64, b"four")?;
    for (reason, entry) in [
        ("ttl-expired", Entry::new(100, 1)),
        ("ttl-expired", Entry::new(100, 0)),
        ("no-route", Entry::new(101, 64)),
        ("no-route", Entry::new(1_048_575, 64)),
        ("implicit-null", Entry::new(3, 64)),
        ("special-label", Entry::new(4, 64)),
        ("oam", Entry::new(14, 64)),
        // It stands above a label.
        ("malformed", Entry::new(1, 64)),
    ] {
        bench.expect_drop(reason, &bench.labelled(&[entry], &packet))?;
    }
    // No bottom of stack within the frame; a payload that is not an IP packet, or a broken one.
    let endless = ethernet(bench.port1, bench.left.mac(), 0x8847, &[0, 0x06, 0x40, 64]);
    bench.expect_drop("malformed", &[&endless[..], &[0x00; 2]].concat())?;
    bench.expect_drop(
        "malformed",
        &bench.labelled(&[Entry::new(210, 64)], b"\x51 neither 4 nor 6"),
    )?;
    let mut broken = packet.clone();
    broken[0] = 0x44;
    bench.expect_drop("malformed", &bench.labelled(&[Entry::new(210, 64)], &broken))?;
    // Too large to leave, and not an IP packet whose source could be informed.
    bench.expect_drop("too-big", &bench.labelled(&[Entry::new(100, 64)], &[0; 1497]))
}

fn one_armed() -> Result<()> {
    let bench = Bench::new("--iface eth1 --iface eth2")?;
    bench
        .router
        .run(&format!("route add 100 as 110 via link {LEFT} dev eth1"))?;
    bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &v4(64)?))?;
    let expected = labelled(bench.left.mac(), bench.port1, &[Entry::new(110, 63)], &v4(64)?);
    bench
        .left
        .receive("the frame that comes back", |frame| frame == expected)?;
    Ok(())
}

fn port_disabled() -> Result<()> {
    let bench = Bench::new("--iface eth1 --tx-only eth2")?;
    bench.route("100 as 110")?;
    let packet = v4(64)?;
    bench.expect(
        "to a port that only sends",
        &bench.labelled(&[Entry::new(100, 64)], &packet),
        &bench.out_labelled(&[Entry::new(110, 63)], &packet),
    )?;
    let before = bench.router.dropped("port-disabled")?;
    bench.right.send(&labelled(
        bench.port2,
        bench.right.mac(),
        &[Entry::new(100, 64)],
        &packet,
    ))?;
    let counted = |expected| {
        wait::until("a count of port-disabled", Duration::from_secs(5), || {
            Ok((bench.router.dropped("port-disabled")? == expected).then_some(()))
        })
    };
    counted(before + 1)?;
    bench.router.run("link set eth1 mpls off")?;
    bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &packet))?;
    counted(before + 2)?;
    bench.router.run("link set eth1 mpls on")?;
    bench.expect(
        "enabled again",
        &bench.labelled(&[Entry::new(100, 64)], &packet),
        &bench.out_labelled(&[Entry::new(110, 63)], &packet),
    )
}

fn accepted_labels() -> Result<()> {
    // 999 is the label of the marker.
    let bench = Bench::new("--iface eth1 --iface eth2 --accept-labels eth1=100-199,300,999")?;
    for route in ["100 as 110", "200 as 210", "300 as 310"] {
        bench.route(route)?;
    }
    bench.router.run("route add 150 dev lo")?;
    let packet = v4(64)?;
    let sent = |stack: &[u32]| {
        let stack: Vec<_> = stack.iter().map(|&label| Entry::new(label, 64)).collect();
        bench.labelled(&stack, &packet)
    };
    let forwarded = |stack: &[u32], out: u32, ttl: u8| {
        bench.expect(
            &format!("{stack:?}"),
            &sent(stack),
            &bench.out_labelled(&[Entry::new(out, ttl)], &packet),
        )
    };
    let refused = |stack: &[u32]| bench.expect_drop("label-not-accepted", &sent(stack));
    forwarded(&[100], 110, 63)?;
    forwarded(&[300], 310, 63)?;
    forwarded(&[150, 100], 110, 62)?;
    forwarded(&[0, 100], 110, 62)?;
    // An entropy label is not looked up. Its indicator and it are one hop.
    forwarded(&[7, 5000, 100], 110, 63)?;
    refused(&[200])?;
    // Also without a route, with an expired TTL, and beneath a label that is popped here.
    refused(&[4000])?;
    refused(&[150, 200])?;
    refused(&[0, 200])?;
    refused(&[7, 100, 200])?;
    bench.expect_drop("label-not-accepted", &bench.labelled(&[Entry::new(200, 1)], &packet))?;
    // The slow path looks up what is beneath a router alert.
    bench.left.send(&sent(&[1, 200]))?;
    wait::until("the end of an alert", Duration::from_secs(5), || {
        Ok((bench.router.outcome("not-handled")? == 1).then_some(()))
    })?;
    bench.left.send(&sent(&[1, 100]))?;
    let expected = bench.out_labelled(&[Entry::new(1, 63), Entry::new(110, 63)], &packet);
    let mut others = 0;
    bench.right.receive("a router alert", |frame| {
        others += u32::from(frame.get(12..14) == Some(&[0x88, 0x47]) && frame != expected);
        frame == expected
    })?;
    ensure!(others == 0, "{others} other labelled frames");
    // The other port is not restricted.
    bench.right.send(&labelled(
        bench.port2,
        bench.right.mac(),
        &[Entry::new(200, 64)],
        &packet,
    ))?;
    let expected = labelled(bench.right.mac(), bench.port2, &[Entry::new(210, 63)], &packet);
    bench
        .right
        .receive("the frame that comes back", |frame| frame == expected)?;

    let shown = bench.router.run("link show eth1")?;
    ensure!(shown.contains("mpls on accept-labels 100-199,300,999"), "{shown}");
    bench.router.run("link set eth1 accept-labels 200,999")?;
    forwarded(&[200], 210, 63)?;
    refused(&[100])?;
    let config = bench.router.run("config")?;
    ensure!(config.contains("accept-labels = [\"eth1=200,999\"]"), "{config}");
    for (line, part) in [
        ("link set eth1 accept-labels 0-200", "16 to 1048575"),
        (
            "link add eth3 tx-only accept-labels 100",
            "a port with `tx_only` accepts no labels",
        ),
    ] {
        let wrong = bench.router.run(line).err().context("it was taken")?;
        ensure!(format!("{wrong:#}").contains(part), "{line}: {wrong:#}");
    }
    refused(&[100])?;
    bench.router.run("link set eth1 accept-labels all")?;
    forwarded(&[100], 110, 63)?;
    forwarded(&[200], 210, 63)
}

/// The packet with another TOS or traffic class byte.
fn marked(packet: &[u8], tos: u8) -> Result<Vec<u8>> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        (packet[0], packet[1]) = (0x60 | tos >> 4, tos << 4 | packet[1] & 0xf);
        return Ok(packet);
    }
    packet[1] = tos;
    let (header, _) = Ipv4Header::from_slice(&packet)?;
    let checksum = header.calc_header_checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    Ok(packet)
}

fn class_maps() -> Result<()> {
    let bench = Bench::new("--iface eth1 --iface eth2 --dscp-map eth1=46=6,10=1 --tc-map eth1=5=34,0=8")?;
    for route in [
        "100 as 110",
        "300 as 200/110",
        "210",
        "10.9.0.0/16 encap mpls 500",
        "2001:db8:9::/48 encap mpls 500/501",
    ] {
        bench.route(route)?;
    }
    bench.router.run("route add 150 dev lo")?;
    // DSCPs in the map and others; the ECN field stays.
    let imposed = |tos: u8, tc: u8| {
        for (ethertype, sent, out, labels) in [
            (ETH_P_IP, v4(64)?, v4(63)?, &[500][..]),
            (ETH_P_IPV6, v6(64)?, v6(63)?, &[500, 501]),
        ] {
            let sent = ethernet(bench.port1, bench.left.mac(), ethertype, &marked(&sent, tos)?);
            let stack: Vec<_> = labels.iter().map(|&label| Entry::new(label, 63).tc(tc)).collect();
            let expected = bench.out_labelled(&stack, &marked(&out, tos)?);
            bench.expect(&format!("imposition on TOS {tos:#x}"), &sent, &expected)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let popped = |tc: u8, before: u8, after: u8| {
        for (ethertype, packet) in [(ETH_P_IP, v4(64)?), (ETH_P_IPV6, v6(64)?)] {
            let out = if ethertype == ETH_P_IP { v4(63)? } else { v6(63)? };
            let sent = bench.labelled(&[Entry::new(210, 64).tc(tc)], &marked(&packet, before)?);
            let expected = ethernet(bench.right.mac(), bench.port2, ethertype, &marked(&out, after)?);
            bench.expect(&format!("a pop of TC {tc}, TOS {before:#x}"), &sent, &expected)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    imposed(46 << 2 | 1, 6)?;
    imposed(10 << 2, 1)?;
    imposed(34 << 2 | 2, 4)?;
    popped(5, 46 << 2 | 3, 34 << 2 | 3)?;
    popped(0, 0xff, 8 << 2 | 3)?;
    popped(3, 0xbb, 0xbb)?;
    // Labels that stay keep their TCs, and the packet beneath its DSCP.
    let packet = marked(&v4(64)?, 46 << 2)?;
    bench.expect(
        "a swap",
        &bench.labelled(&[Entry::new(100, 64).tc(5)], &packet),
        &bench.out_labelled(&[Entry::new(110, 63).tc(5)], &packet),
    )?;
    bench.expect(
        "a push",
        &bench.labelled(&[Entry::new(300, 64).tc(5)], &packet),
        &bench.out_labelled(&[Entry::new(200, 63).tc(5), Entry::new(110, 63).tc(5)], &packet),
    )?;
    // A packet that is popped here and imposed anew has the DSCP first.
    for (tc, dscp, out) in [(5, 34, 4), (3, 46, 6)] {
        bench.expect(
            "a pop to this machine",
            &bench.labelled(&[Entry::new(150, 64).tc(tc)], &packet),
            &bench.out_labelled(&[Entry::new(500, 62).tc(out)], &marked(&v4(62)?, dscp << 2)?),
        )?;
    }
    // The slow path does the same.
    let large = datagram(1600, false, 3)?;
    bench.left.send(&bench.labelled(&[Entry::new(210, 64).tc(5)], &large))?;
    for fragment in fragmented(&marked(&large, 34 << 2)?, 1500, 63)? {
        let expected = ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &fragment);
        bench.right.receive("a fragment", |frame| frame == expected)?;
    }

    let shown = bench.router.run("link show eth1")?;
    ensure!(shown.contains("    dscp-map 10=1,46=6 tc-map 0=8,5=34\n"), "{shown}");
    let config = bench.router.run("config")?;
    for option in ["dscp-map = [\"eth1=10=1,46=6\"]", "tc-map = [\"eth1=0=8,5=34\"]"] {
        ensure!(config.contains(option), "{config}");
    }
    for (command, error) in [
        ("link set eth1 dscp-map 64=5", "`64=5` is not DSCP=TC: write 0 to 63"),
        ("link set eth1 tc-map 5=64", "`5=64` is not TC=DSCP: write 0 to 7"),
        ("link set eth1 tc-map 5=1,5=2", "5 is mapped twice"),
        (
            "link add eth3 tx-only tc-map 5=46",
            "nothing that arrives at a port with `tx_only`",
        ),
    ] {
        let wrong = bench.router.run(command).err().context(command)?;
        ensure!(format!("{wrong:#}").contains(error), "{wrong:#}");
    }
    popped(5, 46 << 2 | 3, 34 << 2 | 3)?;
    bench.router.run("link set eth1 tc-map default")?;
    popped(5, 46 << 2 | 3, 46 << 2 | 3)?;
    imposed(46 << 2, 6)?;
    bench.router.run("link set eth1 dscp-map default")?;
    imposed(46 << 2, 5)
}

fn generic() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --mode generic"))?;
    bench.route("100 as 110")?;
    let packet = v4(64)?;
    bench.expect(
        "swap",
        &bench.labelled(&[Entry::new(100, 64)], &packet),
        &bench.out_labelled(&[Entry::new(110, 63)], &packet),
    )?;
    let status: Status = bench.router.json("status")?;
    ensure!(status.mode == "generic", "{status:?}");
    let links: Vec<Link> = bench.router.json("link show")?;
    ensure!(
        links.len() == 2 && links.iter().all(|link| link.mode == "generic" && link.link_id != 0),
        "{links:?}"
    );
    bench.router.unload()
}

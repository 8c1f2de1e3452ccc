//! Packets that are larger than the next hop's MTU with their labels: fragments, ICMP, and how hosts react to both.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::{IpFragOffset, Ipv4Header};
use libtest_mimic::Trial;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6};
use mplsxdp_tests::frame::{Entry, Parsed, ethernet, labelled, udp};
use mplsxdp_tests::icmp::{FRAGMENTATION_NEEDED_V4, IcmpError, PACKET_TOO_BIG_V6};
use mplsxdp_tests::three_routers::{HOST1, HOST1_V6, HOST2, HOST2_V6, NARROW_MTU, ThreeRouters, transfer};
use mplsxdp_tests::{Lab, wait};

use crate::bench::{Bench, NATIVE};
use crate::local::udp_both_ways;
use crate::test;

const PATIENCE: Duration = Duration::from_secs(20);
/// MTU of the link to the right.
const MTU: usize = 1500;
const MIB: usize = 1 << 20;
const FAR: &str = "192.0.2.1";
const FAR_V6: &str = "2001:db8::1";
const TARGET: &str = "10.9.0.1";
const TARGET_V6: &str = "2001:db8:9::1";

pub fn tests() -> Vec<Trial> {
    vec![
        test("too_big::fragments_leave_under_the_stack_in_order", fragments),
        test("too_big::the_source_is_told_along_the_lsp", error_on_lsp),
        test("too_big::at_imposition_the_source_is_error_by_ip", error_by_ip),
        test("too_big::tcp_finds_the_mtu_of_a_narrow_link_under_two_labels", path_mtu),
        test("too_big::udp_crosses_a_narrow_link_in_fragments", datagrams),
        test("too_big::labelled_packets_obey_the_mpls_mtu_of_their_port", mpls_mtu),
        test("too_big::an_mpls_mtu_is_limited_to_what_xdp_can_send", limited_mpls_mtu),
    ]
}

/// A datagram that may or may not be fragmented.
pub fn datagram(length: usize, dont_fragment: bool, identification: u16) -> Result<Vec<u8>> {
    let data: Vec<u8> = (0..251).cycle().take(length).collect();
    let packet = udp(FAR.parse()?, TARGET.parse()?, 64, &data)?;
    changed(&packet, |header| {
        header.dont_fragment = dont_fragment;
        header.identification = identification;
    })
}

/// The packet with another header and the matching checksum.
fn changed(packet: &[u8], change: impl Fn(&mut Ipv4Header)) -> Result<Vec<u8>> {
    let (mut header, data) = Ipv4Header::from_slice(packet)?;
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    Ok([&header.to_bytes()[..], data].concat())
}

/// The fragments that a router makes of the packet for `mtu`, with this TTL.
pub fn fragmented(packet: &[u8], mtu: usize, ttl: u8) -> Result<Vec<Vec<u8>>> {
    let (whole, data) = Ipv4Header::from_slice(packet)?;
    let most = (mtu - 20) / 8 * 8;
    let pieces = data.chunks(most).enumerate().map(|(index, piece)| {
        let mut header = whole.clone();
        header.time_to_live = ttl;
        header.set_payload_len(piece.len())?;
        let offset = usize::from(whole.fragment_offset.value()) + index * most / 8;
        header.fragment_offset = IpFragOffset::try_new(offset as u16)?;
        header.more_fragments |= (index + 1) * most < data.len();
        header.header_checksum = header.calc_header_checksum();
        Ok([&header.to_bytes()[..], piece].concat())
    });
    pieces.collect()
}

fn fragments() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    bench.route("300 as 200/110")?;
    bench.route("210")?;
    bench.route("10.9.0.0/16 encap mpls 500/501")?;
    let swapped = |ttl| Entry::new(110, ttl).tc(3);
    let mut count = 0;
    // The left link takes 2000 bytes.
    for length in [1469, 1900] {
        let whole = datagram(length, false, 0x1234)?;
        let middle = changed(&whole, |header| {
            header.more_fragments = true;
            header.fragment_offset = IpFragOffset::try_new(100).unwrap_or_default();
        })?;
        for packet in [whole, middle] {
            let from_left = |label| bench.labelled(&[Entry::new(label, 64).tc(3)], &packet);
            let unlabelled = ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &packet);
            for (frame, stack, ttl) in [
                (from_left(100), vec![swapped(63)], 64),
                (from_left(300), vec![Entry::new(200, 63).tc(3), swapped(63)], 64),
                (from_left(210), vec![], 63),
                (unlabelled, vec![Entry::new(500, 63), Entry::new(501, 63)], 63),
            ] {
                if packet.len() + stack.len() * 4 <= MTU {
                    continue;
                }
                count += 1;
                bench.left.send(&frame)?;
                for fragment in fragmented(&packet, MTU - stack.len() * 4, ttl)? {
                    let expected = if stack.is_empty() {
                        ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &fragment)
                    } else {
                        bench.out_labelled(&stack, &fragment)
                    };
                    let is_ours = |frame: &[u8]| frame.starts_with(&bench.right.mac().0);
                    let received = bench.right.receive("a fragment", is_ours)?;
                    ensure!(
                        received == expected,
                        "received {received:02x?}\nexpected {expected:02x?}"
                    );
                }
            }
        }
    }
    ensure!(count == 14, "{count} packets were too large");
    ensure!(bench.router.dropped("too-big")? == count, "counted by the fast path");
    until_outcome(&bench, "fragmented", count)
}

pub fn until_outcome(bench: &Bench, name: &str, count: u64) -> Result<()> {
    wait::until(&format!("{count} frames with the outcome {name}"), PATIENCE, || {
        Ok((bench.router.outcome(name)? == count).then_some(()))
    })
}

/// A packet that is larger than the right link takes under a label, and the ICMP error that its source gets.
struct TooBig {
    packet: Vec<u8>,
    ethertype: u16,
    kind: (u8, u8),
}

/// Of both families, from these sources.
fn too_big(near: [&str; 2]) -> Result<[TooBig; 2]> {
    let [v4, v6] = near;
    Ok([
        TooBig {
            packet: udp(v4.parse()?, TARGET.parse()?, 64, &[0x5a; 1472])?,
            ethertype: ETH_P_IP,
            kind: FRAGMENTATION_NEEDED_V4,
        },
        TooBig {
            packet: udp(v6.parse()?, TARGET_V6.parse()?, 64, &[0x5a; 1452])?,
            ethertype: ETH_P_IPV6,
            kind: PACKET_TOO_BIG_V6,
        },
    ])
}

fn error_on_lsp() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("300 as 200/110")?;
    let received = [Entry::new(300, 64)];
    for TooBig { packet, kind, .. } in too_big([FAR, FAR_V6])? {
        bench.left.send(&bench.labelled(&received, &packet))?;
        let frame = bench
            .right
            .receive("an ICMP error", |frame| IcmpError::read(frame).is_some())?;
        let error = IcmpError::read(&frame).context("no ICMP error")??;
        ensure!(
            (error.kind, error.mtu, error.ttl) == (kind, MTU as u32 - 8, 64),
            "{error:?}"
        );
        // RFC 4884 section 4.5: ICMPv6 Packet Too Big has no extension.
        let shown = if kind == PACKET_TOO_BIG_V6 { &[][..] } else { &received };
        ensure!(error.stack == shown, "{error:?}");
        error.ensure_quotes(&packet)?;
        let under = [Entry::new(200, 64).tc(6), Entry::new(110, 64).tc(6)];
        let parsed = Parsed::new(&frame)?;
        ensure!(parsed.stack == under, "{parsed:?}");
    }
    until_outcome(&bench, "too-big-answered", 2)
}

fn error_by_ip() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("10.9.0.0/16 encap mpls 500")?;
    bench.route("2001:db8:9::/48 encap mpls 500")?;
    let routers: [IpAddr; 2] = ["10.0.1.1".parse()?, "fd00:1::1".parse()?];
    for (big, router) in too_big(["10.0.1.2", "fd00:1::2"])?.into_iter().zip(routers) {
        let TooBig {
            packet,
            ethertype,
            kind,
        } = big;
        bench
            .left
            .send(&ethernet(bench.port1, bench.left.mac(), ethertype, &packet))?;
        let frame = bench
            .left
            .receive("an ICMP error", |frame| IcmpError::read(frame).is_some())?;
        let error = IcmpError::read(&frame).context("no ICMP error")??;
        ensure!(
            (error.kind, error.mtu, error.source) == (kind, MTU as u32 - 4, router) && error.stack.is_empty(),
            "{error:?}"
        );
        error.ensure_quotes(&packet)?;
    }
    until_outcome(&bench, "too-big-answered", 2)
}

fn path_mtu() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::with_narrow_link(&lab)?;
    let [_, r2, r3] = &net.routers;
    let (host1, host2) = (&net.host1, &net.host2);
    let found = format!(" mtu {} ", NARROW_MTU - 8);
    // From host1, r2 finds a segment too large under its labels; from host2, r3 does at imposition.
    for (from, to, address, router) in [
        (host1, host2, HOST2, r2),
        (host1, host2, HOST2_V6, r2),
        (host2, host1, HOST1, r3),
        (host2, host1, HOST1_V6, r3),
    ] {
        let before = router.outcome("too-big-answered")?;
        transfer(from, to, address.parse()?, 10 * MIB).with_context(|| format!("to {address}"))?;
        ensure!(
            router.outcome("too-big-answered")? > before,
            "{} has sent no ICMP error",
            router.instance()
        );
        let shown = from.ip(&format!("route get {address}"))?;
        ensure!(shown.contains(&found), "no{found}in {shown}");
        // A host that knows of the narrow link asks for short segments, so that the other one never finds it.
        for family in ["-4", "-6"] {
            from.ip(&format!("{family} route flush cache"))?;
        }
    }
    for router in &net.routers {
        ensure!(
            router.outcome("fragmented")? == 0,
            "{} has fragmented",
            router.instance()
        );
    }
    Ok(())
}

fn datagrams() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::with_narrow_link(&lab)?;
    let [_, r2, r3] = &net.routers;
    // Sockets then leave the DF flag out.
    for host in [&net.host1, &net.host2] {
        host.sysctl("ipv4/ip_no_pmtu_disc", "1")?;
    }
    // A packet that fits, one byte more, a whole packet of a host; then several, which are fragments already.
    for (length, too_big) in [(1364, 0), (1365, 1), (1472, 1), (5000, 3), (20_000, 13)] {
        let before = [r2.outcome("fragmented")?, r3.outcome("fragmented")?];
        udp_both_ways([(&net.host1, HOST1), (&net.host2, HOST2)], length)
            .with_context(|| format!("{length} bytes by UDP"))?;
        let counted = [
            r2.outcome("fragmented")? - before[0],
            r3.outcome("fragmented")? - before[1],
        ];
        ensure!(
            counted == [too_big; 2],
            "{length} bytes: {counted:?} packets were fragmented"
        );
    }
    ensure!(r2.outcome("too-big-answered")? == 0, "r2 has sent an ICMP error");
    Ok(())
}

/// What crosses the bench with limits for labelled and unlabelled packets.
fn ensure_limits(bench: &Bench, mtu: usize, mpls_mtu: usize) -> Result<()> {
    for (label, stack, limit) in [
        (Some(100), vec![Entry::new(110, 63)], mpls_mtu),
        (Some(300), vec![Entry::new(200, 63), Entry::new(110, 63)], mpls_mtu),
        (Some(210), vec![], mtu),
        (None, vec![Entry::new(500, 63), Entry::new(501, 63)], mpls_mtu),
    ] {
        let most = limit - stack.len() * 4;
        let what = format!("{label:?} with an MTU of {mtu} and an MPLS MTU of {mpls_mtu}");
        for (length, fits) in [(most, true), (most + 1, false)] {
            let packet = datagram(length - 28, true, 7)?;
            let sent = match label {
                Some(label) => bench.labelled(&[Entry::new(label, 64)], &packet),
                None => ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &packet),
            };
            if fits {
                // The label's TTL is copied to the packet by a pop, and imposition counts as a hop.
                let ttl = if label.is_none() || stack.is_empty() { 63 } else { 64 };
                let packet = changed(&packet, |header| header.time_to_live = ttl)?;
                let expected = match stack[..] {
                    [] => ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &packet),
                    _ => bench.out_labelled(&stack, &packet),
                };
                ensure!(bench.forward(&sent)? == [expected], "{what}: {length} bytes");
            } else {
                let handled = || -> Result<u64> {
                    Ok(bench.router.outcome("too-big-answered")? + bench.router.outcome("no-way-back")?)
                };
                let before = handled()?;
                bench.left.send(&sent)?;
                wait::until(&format!("{what}: {length} bytes are too many"), PATIENCE, || {
                    Ok((handled()? == before + 1).then_some(()))
                })?;
                // An answer along the LSP has the size that fits. A frame that is not for the router goes nowhere.
                let foreign = labelled(bench.right.mac(), bench.left.mac(), &[Entry::new(100, 64)], &[]);
                for frame in bench.forward(&foreign)? {
                    let error = IcmpError::read(&frame).with_context(|| format!("{what}: {frame:02x?}"))??;
                    ensure!(error.mtu == most as u32, "{what}: {error:?}");
                }
            }
        }
    }
    // Fragments are as long as they may be.
    let packet = datagram(1900 - 28, false, 9)?;
    bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &packet))?;
    for fragment in fragmented(&packet, mpls_mtu - 4, 64)? {
        let expected = bench.out_labelled(&[Entry::new(110, 63)], &fragment);
        bench.right.receive("a fragment", |frame| frame == expected)?;
    }
    Ok(())
}

fn mpls_mtu() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --mpls-mtu eth2=1504"))?;
    for route in ["100 as 110", "300 as 200/110", "210", "10.9.0.0/16 encap mpls 500/501"] {
        bench.route(route)?;
    }
    ensure_limits(&bench, MTU, MTU + 4)?;
    let config = bench.router.run("config")?;
    ensure!(config.contains("mpls-mtu = [\"eth2=1504\"]"), "{config}");
    bench.router.run("link set eth2 mpls-mtu 1400")?;
    let shown = bench.router.run("link show eth2")?;
    ensure!(shown.contains(" mtu 1500 mpls-mtu 1400 mode "), "{shown}");
    ensure_limits(&bench, MTU, 1400)?;
    bench.router.run("link set eth2 mpls-mtu default")?;
    ensure_limits(&bench, MTU, MTU)?;
    for (command, error) in [
        ("link set eth2 mpls-mtu 71", "72 to 65535"),
        (
            "link set eth2 mpls-mtu 1505",
            "XDP can send packets of up to 1504 bytes there",
        ),
        ("link set eth9 mpls-mtu 1500", "eth9 is not a port"),
        ("load --iface eth1 --mpls-mtu eth9=1500", "names `eth9`"),
    ] {
        let wrong = bench.router.run(command).err().context(command)?;
        ensure!(format!("{wrong:#}").contains(error), "{wrong:#}");
    }
    ensure_limits(&bench, MTU, MTU)
}

fn limited_mpls_mtu() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --mpls-mtu eth2=1508"))?;
    let said = bench.router.said();
    ensure!(said.contains("an MPLS MTU of 1508 is too large for eth2"), "{said}");
    for route in ["100 as 110", "300 as 200/110", "210", "10.9.0.0/16 encap mpls 500/501"] {
        bench.route(route)?;
    }
    ensure_limits(&bench, MTU, MTU + 4)?;
    let until_shown = |mtu: u32, words: &str| {
        bench.router.netns().ip(&format!("link set eth2 mtu {mtu}"))?;
        wait::until(words, PATIENCE, || {
            Ok(bench.router.run("link show")?.contains(words).then_some(()))
        })
    };
    until_shown(1400, "mtu 1400 mpls-mtu 1404 (of 1508, which the MTU does not allow)")?;
    ensure_limits(&bench, 1400, 1404)?;
    bench.right_netns.ip("link set eth0 mtu 1504")?;
    until_shown(1504, "mtu 1504 mpls-mtu 1508 mode")?;
    ensure_limits(&bench, 1504, 1508)?;

    // A tag takes the 4 bytes.
    let wrong = bench.router.run("link add eth2.7 tx-only mpls-mtu 1505").err();
    let wrong = wrong.context("1505 bytes with a tag")?;
    ensure!(format!("{wrong:#}").contains("up to 1504 bytes"), "{wrong:#}");
    bench.router.run("link add eth2.7 tx-only mpls-mtu 1504")?;
    until_shown(1500, "mtu 1500 mpls-mtu 1500 (of 1504, which the MTU does not allow)")?;
    until_shown(1504, "mtu 1504 mpls-mtu 1504 mode")?;
    let said = bench.router.said();
    ensure!(said.contains("an MPLS MTU of 1504 is too large for eth2.7"), "{said}");
    let right = bench.right.mac();
    bench
        .router
        .run(&format!("route add 400 as 410 via link {right} dev eth2.7"))?;
    let packet = datagram(1500 - 28, true, 7)?;
    let expected = bench.out_labelled(&[Entry::new(410, 63)], &packet);
    let tag = [0x81, 0, 0, 7];
    let expected = [&expected[..12], &tag, &expected[12..]].concat();
    bench.expect(
        "1504 bytes with a tag",
        &bench.labelled(&[Entry::new(400, 64)], &packet),
        &expected,
    )?;
    let before = bench.router.dropped("too-big")?;
    let sent = bench.labelled(&[Entry::new(400, 64)], &datagram(1501 - 28, true, 7)?);
    // Only the answer, which goes along the LSP, may leave.
    let answered = bench.forward(&sent)?;
    ensure!(answered.iter().all(|frame| frame.len() < 300), "{answered:02x?}");
    ensure!(bench.router.dropped("too-big")? == before + 1, "not counted");
    Ok(())
}

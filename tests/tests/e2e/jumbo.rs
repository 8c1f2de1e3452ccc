//! Frames that do not fit one buffer of the driver, with an MTU of 9000.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::Link;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6};
use mplsxdp_tests::frame::{Entry, Parsed, ethernet, labelled, udp};
use mplsxdp_tests::icmp::IcmpError;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::vm::Nic;
use mplsxdp_tests::wait;

use crate::bench::{Bench, NATIVE};
use crate::test_with;
use crate::too_big::{datagram, fragmented, until_outcome};

const MTU: u32 = 9000;
const PATIENCE: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Trial> {
    let redirect = Some(Need::Kernel(6, 3, "redirects of frames in several buffers"));
    // The slow path gets them.
    let punt = Some(Need::Kernel(6, 6, "AF_XDP frames in several buffers"));
    vec![
        test_with("jumbo::frames_of_9000_bytes_are_switched_whole", redirect, switched),
        test_with("jumbo::an_mtu_that_grows_while_frames_flow", redirect, grown),
        test_with("jumbo::exceptions_are_answered", punt, answered),
        test_with("jumbo::the_kernel_receives_them", punt, received),
        test_with("jumbo::fragments_for_a_link_that_takes_less", punt, in_fragments),
        test_with(
            "jumbo::a_port_that_takes_one_buffer_gets_them_from_the_slow_path",
            punt,
            to_tap,
        ),
    ]
}

/// An IP packet of `length` bytes, each of which differs from the next.
fn packet(family: u16, length: usize, ttl: u8) -> Result<Vec<u8>> {
    let (source, destination, headers) = match family {
        ETH_P_IP => ("192.0.2.1", "10.9.0.1", 28),
        _ => ("2001:db8::1", "2001:db8:9::1", 48),
    };
    let data: Vec<u8> = (0..251).cycle().take(length - headers).collect();
    udp(source.parse()?, destination.parse()?, ttl, &data)
}

fn switched() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, MTU, MTU)?;
    let said = bench.router.said_at_load()?;
    ensure!(!said.contains("multi-buffer"), "{said}");
    for route in [
        "100 as 110",
        "101 as 1001/1002/1003/1004/1005/1006/1007/1008",
        "17 as implicit-null",
        "210",
        "10.9.0.0/16 encap mpls 500/501",
        "2001:db8:9::/48 encap mpls 500/501",
    ] {
        bench.route(route)?;
    }
    let eight: Vec<_> = (1001..=1008).map(|label| Entry::new(label, 63)).collect();
    for family in [ETH_P_IP, ETH_P_IPV6] {
        for length in [1500, 3500, 4096, 8900, 8968] {
            let packet = |ttl| packet(family, length, ttl);
            let cases = [
                (vec![Entry::new(100, 64)], vec![Entry::new(110, 63)], 64),
                (vec![Entry::new(101, 64)], eight.clone(), 64),
                (
                    vec![Entry::new(17, 64), Entry::new(18, 9)],
                    vec![Entry::new(18, 63)],
                    64,
                ),
                (vec![Entry::new(210, 64)], vec![], 63),
                (vec![], vec![Entry::new(500, 63), Entry::new(501, 63)], 63),
            ];
            for (from, to, ttl) in cases {
                let sent = match from.is_empty() {
                    true => ethernet(bench.port1, bench.left.mac(), family, &packet(64)?),
                    false => bench.labelled(&from, &packet(64)?),
                };
                let expected = match to.is_empty() {
                    true => ethernet(bench.right.mac(), bench.port2, family, &packet(ttl)?),
                    false => bench.out_labelled(&to, &packet(ttl)?),
                };
                bench.expect(&format!("{from:?}, {length} bytes"), &sent, &expected)?;
            }
        }
    }
    // To the byte.
    let fits = packet(ETH_P_IP, MTU as usize - 4, 64)?;
    let sent = bench.labelled(&[Entry::new(100, 64)], &fits);
    bench.expect(
        "all that fits",
        &sent,
        &bench.out_labelled(&[Entry::new(110, 63)], &fits),
    )?;
    let status: serde_json::Value = bench.router.json("link show")?;
    ensure!(status.to_string().contains("native"), "{status}");
    bench.router.unload()
}

/// The program for large frames replaces the other one.
fn grown() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, 1500, 1500)?;
    bench.route("100 as 110")?;
    let router = bench.router.netns();
    let programs = || -> Result<Vec<u32>> {
        let links: Vec<Link> = bench.router.json("link show")?;
        Ok(links.iter().map(|link| link.program_id).collect())
    };
    let small_programs = programs()?;
    for (netns, interface) in [
        (&bench.left_netns, "eth0"),
        (router, "eth1"),
        (router, "eth2"),
        (&bench.right_netns, "eth0"),
    ] {
        let small = packet(ETH_P_IP, 1000, 64)?;
        let sent = bench.labelled(&[Entry::new(100, 64)], &small);
        bench.expect(interface, &sent, &bench.out_labelled(&[Entry::new(110, 63)], &small))?;
        netns.ip(&format!("link set dev {interface} mtu {MTU}"))?;
    }
    let large = packet(ETH_P_IP, 8900, 64)?;
    let sent = bench.labelled(&[Entry::new(100, 64)], &large);
    let expected = bench.out_labelled(&[Entry::new(110, 63)], &large);
    wait::until("the switch to know its interfaces' MTUs", PATIENCE, || {
        let links: Vec<Link> = bench.router.json("link show")?;
        Ok(links.iter().all(|link| link.mtu == MTU).then_some(()))
    })?;
    wait::until("the programs for large frames", PATIENCE, || {
        let changed = programs()?
            .iter()
            .zip(&small_programs)
            .all(|(now, before)| now != before);
        Ok(changed.then_some(()))
    })?;
    let before = bytes_forwarded(&bench)?;
    bench.expect("a large frame", &sent, &expected)?;
    ensure!(
        bytes_forwarded(&bench)? - before == sent.len() as u64,
        "all of its bytes are counted"
    );
    bench.router.unload()
}

fn bytes_forwarded(bench: &Bench) -> Result<u64> {
    let routes: serde_json::Value = bench.router.json("--stats route show 100")?;
    routes[0]["stats"]["bytes"]
        .as_u64()
        .with_context(|| format!("no count in {routes}"))
}

/// An expired jumbo frame is answered, with as much as RFC 4884 has room for.
fn answered() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, MTU, MTU)?;
    bench.route("100 as 110")?;
    for family in [ETH_P_IP, ETH_P_IPV6] {
        let packet = packet(family, 8500, 7)?;
        let sent = bench.labelled(&[Entry::new(100, 1)], &packet);
        bench.left.send(&sent)?;
        let is_ours = |frame: &[u8]| frame.starts_with(&bench.right.mac().0);
        let frame = bench.right.receive("Time Exceeded along the LSP", is_ours)?;
        let parsed = Parsed::new(&frame)?;
        ensure!(parsed.stack == [Entry::new(110, 64).tc(6)], "{:?}", parsed.stack);
        let error = IcmpError::read(&frame).context("no ICMP error")??;
        ensure!(error.stack == [Entry::new(100, 1)], "{:?}", error.stack);
        error.ensure_quotes(&packet)?;
    }
    until_outcome(&bench, "time-exceeded", 2)
}

/// A packet that ends here beneath a router alert: as long as the port allows, and longer than the kernel turns into a
/// packet.
fn received() -> Result<()> {
    const LARGER_MTU: u32 = 20_000;
    for options in [NATIVE, "--iface eth1 --iface eth2 --mode generic"] {
        let bench = Bench::with_mtus(options, LARGER_MTU, MTU)?;
        bench.router.run("route add 106 dev lo")?;
        let stack = [Entry::new(1, 64), Entry::new(106, 64)];
        let lengths = [1000, 3440, 4096, MTU as usize - 8, MTU as usize, 15_000];
        for (any, own, neighbour) in [("0.0.0.0", "10.0.1.1", "10.0.1.2"), ("::", "fd00:1::1", "fd00:1::2")] {
            let socket = bench
                .router
                .netns()
                .within(|| UdpSocket::bind((any.parse::<IpAddr>()?, 5000)).context("no socket in the router"))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            for length in lengths {
                let data: Vec<u8> = (0..251).cycle().take(length).collect();
                let packet = udp(neighbour.parse()?, own.parse()?, 64, &data)?;
                bench.left.send(&bench.labelled(&stack, &packet))?;
                let mut buffer = vec![0; usize::from(u16::MAX)];
                let (received, from) = socket
                    .recv_from(&mut buffer)
                    .with_context(|| format!("{length} bytes to {own}, {options}"))?;
                ensure!(
                    buffer[..received] == data && from.ip() == neighbour.parse::<IpAddr>()?,
                    "{length} bytes: received {received} from {from}"
                );
            }
        }
        until_outcome(&bench, "delivered", 2 * lengths.len() as u64)?;
        let packet = udp("10.0.1.2".parse()?, "10.0.1.1".parse()?, 64, &[0; 17_000])?;
        bench.left.send(&bench.labelled(&stack, &packet))?;
        until_outcome(&bench, "not-delivered", 1)?;
    }
    Ok(())
}

fn in_fragments() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, MTU, 2000)?;
    bench.route("100 as 200/110")?;
    let packet = datagram(7972, false, 0x1234)?;
    bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &packet))?;
    for fragment in fragmented(&packet, 2000 - 8, 64)? {
        let expected = bench.out_labelled(&[Entry::new(200, 63), Entry::new(110, 63)], &fragment);
        let is_ours = |frame: &[u8]| frame.starts_with(&bench.right.mac().0);
        let received = bench.right.receive("a fragment", is_ours)?;
        ensure!(
            received == expected,
            "received {received:02x?}\nexpected {expected:02x?}"
        );
    }
    until_outcome(&bench, "fragmented", 1)
}

/// A tap does not accept multi-buffer frames from XDP: they are exceptions, and none is lost.
fn to_tap() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, MTU, MTU)?;
    let nic = Nic {
        queues: 1,
        vnet_header: true,
        nonblocking: true,
    };
    let netns = bench.router.netns();
    nic.make_tap(netns, "tap0")?;
    netns.ip(&format!("link set dev tap0 mtu {MTU}"))?;
    let vm = nic.plug(netns, "tap0")?;
    bench.router.run("link add tap0")?;
    let said = bench.router.said();
    ensure!(said.contains("take the slow path"), "{said}");
    let (neighbour, port) = (vm.mac(), netns.mac("tap0")?);
    for route in [
        "100 as 200/110",
        "210",
        "10.9.0.0/16 encap mpls 500",
        "2001:db8:9::/48 encap mpls 500",
    ] {
        bench
            .router
            .run(&format!("route add {route} via link {neighbour} dev tap0"))?;
    }
    let mut large = 0;
    for family in [ETH_P_IP, ETH_P_IPV6] {
        for length in [100, 3000, 4096, 8900] {
            let (packet, hop) = (packet(family, length, 64)?, packet(family, length, 63)?);
            let swapped = [Entry::new(200, 63), Entry::new(110, 63)];
            for (sent, expected) in [
                (
                    bench.labelled(&[Entry::new(100, 64)], &packet),
                    labelled(neighbour, port, &swapped, &packet),
                ),
                (
                    bench.labelled(&[Entry::new(210, 64)], &packet),
                    ethernet(neighbour, port, family, &hop),
                ),
                (
                    ethernet(bench.port1, bench.left.mac(), family, &packet),
                    labelled(neighbour, port, &[Entry::new(500, 63)], &hop),
                ),
            ] {
                bench.left.send(&sent)?;
                vm.receive(&format!("{length} bytes"), |frame| frame == expected)?;
                large += u64::from(length > 4000);
            }
        }
    }
    let too_big = bench.router.dropped("too-big")?;
    ensure!(too_big == large, "{too_big} exceptions, expected {large}");
    until_outcome(&bench, "forwarded", large)?;
    bench.router.unload()
}

//! Checksums that senders left to their NICs: where they are finished, and that finished ones stay as they are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Checksum, Link, ReasonCounter, Stats};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp, with_ttl};
use mplsxdp_tests::icmp::IcmpError;
use mplsxdp_tests::router::Router;
use mplsxdp_tests::three_routers::{HOST1, HOST1_V6, HOST2, HOST2_V6, ThreeRouters, transfer};
use mplsxdp_tests::{End, Lab, Tap, link, wait};
use nix::errno::Errno;

use crate::bench::{Bench, NATIVE};
use crate::test;
use crate::too_big::{datagram, fragmented};

const PATIENCE: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;
const GENERIC: &str = "--iface eth1 --iface eth2 --mode generic";

pub fn tests() -> Vec<Trial> {
    vec![
        test("checksum::tcp_of_50_mb_of_both_families_by_hosts_as_they_are", tcp),
        test("checksum::each_operation_finishes_it", operations),
        test("checksum::what_takes_the_slow_path_is_finished_too", slow_path),
        test("checksum::the_slow_path_finishes_what_xdp_cannot", generic),
        test("checksum::a_flood_of_them_holds_back_no_other_exceptions", flood),
        test("checksum::a_port_that_trusts_changes_nothing", trusting),
        test("checksum::unsegmented_packets_of_a_peer_are_warned_of", unsegmented),
        test("checksum::the_mode_is_chosen_and_shown", shown),
    ]
}

fn finished(router: &Router) -> Result<u64> {
    router.dropped("checksum-finished")
}

/// The packet with the sum of its pseudo-header in place of the UDP checksum, as a host leaves it to its NIC.
fn unfinished(packet: &[u8]) -> Vec<u8> {
    let (header, addresses) = match packet[0] >> 4 {
        4 => (20, &packet[12..20]),
        _ => (40, &packet[8..40]),
    };
    let words = addresses
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + 17 + (packet.len() - header) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let mut packet = packet.to_vec();
    packet[header + 6..header + 8].copy_from_slice(&(sum as u16).to_be_bytes());
    packet
}

fn tcp() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::new(&lab)?;
    net.add_routes()?;
    let [r1, r2, r3] = &net.routers;
    r1.run("route add fd00:4::/64 encap mpls 100 via inet 192.168.30.102")?;
    r3.run("route add fd00:3::/64 encap mpls 200 via inet 192.168.40.101")?;
    let segments = (50 * MIB / 1460) as u64;
    for (there, back) in [(HOST2, HOST1), (HOST2_V6, HOST1_V6)] {
        let before = (finished(r1)?, finished(r3)?);
        transfer(&net.host1, &net.host2, there.parse()?, 50 * MIB).with_context(|| format!("to {there}"))?;
        let took = transfer(&net.host2, &net.host1, back.parse()?, 50 * MIB).with_context(|| format!("to {back}"))?;
        println!("50 MiB to {back} took {took:?}");
        let after = (finished(r1)?, finished(r3)?);
        ensure!(
            after.0 - before.0 > segments && after.1 - before.1 > segments,
            "{before:?} and {after:?} finished"
        );
    }
    // They are complete from the first router on. One in 65536 equals its unfinished value by chance, and is counted.
    ensure!(finished(r2)? <= 30, "r2 finished {}", finished(r2)?);
    for host in [&net.host1, &net.host2] {
        host.run("ethtool -K eth0 tx off")?;
    }
    let before = (finished(r1)?, finished(r3)?);
    transfer(&net.host1, &net.host2, HOST2.parse()?, 5 * MIB).context("with checksums by the host")?;
    transfer(&net.host1, &net.host2, HOST2_V6.parse()?, 5 * MIB).context("with checksums by the host, IPv6")?;
    let after = (finished(r1)?, finished(r3)?);
    // At most those that are equal by chance: one in 65536.
    ensure!(
        after.0 - before.0 <= 5 && after.1 - before.1 <= 5,
        "{before:?} and {after:?}"
    );
    Ok(())
}

const ROUTES: [&str; 6] = [
    "100 as 110",
    "101 as 200/110",
    "17 as implicit-null",
    "210",
    "10.9.0.0/16 encap mpls 300",
    "2001:db8:9::/48 encap mpls 300/301",
];

/// A name, a frame with an unfinished checksum, and the frame that leaves with the right one, by [`ROUTES`].
type Case = (&'static str, Vec<u8>, Vec<u8>);

fn cases(bench: &Bench) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for length in [0, 1, 22, 171, 172, 173, 185, 1000, 1400] {
        let data: Vec<u8> = (0..=255).cycle().take(length).collect();
        let v4 = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, &data)?;
        let v6 = udp("2001:db8::1".parse()?, "2001:db8:9::1".parse()?, 64, &data)?;
        for (packet, ethertype) in [(v4, ETH_P_IP), (v6, ETH_P_IPV6)] {
            let sent = unfinished(&packet);
            let popped = with_ttl(&packet, 63)?;
            let labelled = |stack: &[Entry]| bench.labelled(stack, &sent);
            let plain = ethernet(bench.right.mac(), bench.port2, ethertype, &popped);
            let swapped = bench.out_labelled(&[Entry::new(110, 63)], &packet);
            cases.push(("swap", labelled(&[Entry::new(100, 64)]), swapped));
            let stack = [Entry::new(200, 63), Entry::new(110, 63), Entry::new(9000, 5)];
            let pushed = bench.out_labelled(&stack, &packet);
            cases.push(("push", labelled(&[Entry::new(101, 64), Entry::new(9000, 5)]), pushed));
            let exposed = bench.out_labelled(&[Entry::new(146, 63)], &packet);
            let above = labelled(&[Entry::new(17, 64), Entry::new(146, 9)]);
            cases.push(("pop above the bottom", above, exposed));
            cases.push(("pop", labelled(&[Entry::new(210, 64)]), plain));
            let null = Entry::new(if ethertype == ETH_P_IP { 0 } else { 2 }, 64);
            let out = bench.out_labelled(&[Entry::new(110, 62)], &packet);
            cases.push((
                "explicit null above a label",
                labelled(&[null, Entry::new(100, 9)]),
                out,
            ));
            let imposed = match ethertype {
                ETH_P_IP => bench.out_labelled(&[Entry::new(300, 63)], &popped),
                _ => bench.out_labelled(&[Entry::new(300, 63), Entry::new(301, 63)], &popped),
            };
            let ip = ethernet(bench.port1, bench.left.mac(), ethertype, &sent);
            cases.push(("imposition", ip, imposed));
        }
    }
    Ok(cases)
}

fn finishes_all(options: &str, forwarded_by_slow_path: bool) -> Result<()> {
    let bench = Bench::new(options)?;
    for route in ROUTES {
        bench.route(route)?;
    }
    let cases = cases(&bench)?;
    for (what, sent, expected) in &cases {
        // A frame that the slow path sends may come later than the next one.
        bench.left.send(sent)?;
        bench.right.receive(what, |frame| frame == expected)?;
    }
    let count = cases.len() as u64;
    ensure!(
        finished(&bench.router)? == count,
        "{} of {count}",
        finished(&bench.router)?
    );
    let by_slow_path = bench.router.outcome("forwarded")?;
    let expected = if forwarded_by_slow_path { count } else { 0 };
    ensure!(
        by_slow_path == expected,
        "{by_slow_path} of {expected} by the slow path"
    );
    Ok(())
}

fn operations() -> Result<()> {
    finishes_all(NATIVE, false)
}

fn generic() -> Result<()> {
    // Not held back by the limit of exceptions.
    finishes_all(&format!("{GENERIC} --punt-rate 1"), true)
}

/// Packets for the slow path to finish come as fast as the slow path can take them, on another port and on the same
/// one. TTLs that expire meanwhile are answered, each at its rate.
///
/// The ports are in generic mode, where frames wait in one queue of the CPU before XDP sees them, and before the host
/// on the right does. The kernel drops some when the flood has filled it: packets and answers that are lost there are
/// sent again.
fn flood() -> Result<()> {
    const ROUNDS: usize = 40;
    /// Fewer than the queue of a veth (256) and the receive ring (1024) have room for.
    const FRAMES: usize = 200;
    let bench = Bench::new(&format!("{GENERIC} --punt-rate 100"))?;
    bench.route("100 as 110")?;
    let flooder = bench.lab.netns("flooder")?;
    link(End::new(&flooder, "eth0"), End::new(bench.router.netns(), "eth3"))?;
    bench.router.run("link add eth3")?;
    let other = Tap::open(&flooder, "eth0")?;
    let packet = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, &[7; 1400])?;
    let stack = [Entry::new(100, 64)];
    let same_port = bench.labelled(&stack, &unfinished(&packet));
    let other_port = labelled(
        bench.router.netns().mac("eth3")?,
        other.mac(),
        &stack,
        &unfinished(&packet),
    );
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                match other.send(&other_port) {
                    // Only some kernels report that a veth had no room.
                    Err(error) if error.downcast_ref() == Some(&Errno::ENOBUFS) => {}
                    result => result?,
                }
            }
            Ok(())
        });
        let answered = (0..ROUNDS).try_for_each(|round| {
            for _ in 0..FRAMES {
                bench.left.send(&same_port)?;
            }
            expect_answer(&bench, round)
        });
        stop.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow!("the flood panicked"))?.and(answered)
    })?;
    expect_all_answered(&bench)?;
    let stats: Stats = bench.router.json("stats")?;
    let same = counter(&stats, "eth1", "checksum-finished")?;
    let other = counter(&stats, "eth3", "checksum-finished")?;
    for counter in [same, other] {
        ensure!((counter.policed, counter.unheard) == (0, 0), "{counter:?}");
    }
    ensure!(other.packets > same.packets, "{same:?} and {other:?}");
    Ok(())
}

/// Sends a packet whose TTL expires until an answer arrives. Each one that XDP has seen must be answered.
fn expect_answer(bench: &Bench, round: usize) -> Result<()> {
    const ATTEMPTS: usize = 50;
    /// Frames of the flood: more than wait in the tap's receive buffer before the answer.
    const PASSED_OVER: usize = 20_000;
    let payload = format!("round {round}");
    let packet = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, payload.as_bytes())?;
    let is_answer =
        |frame: &[u8]| matches!(IcmpError::read(frame), Some(Ok(error)) if error.ensure_quotes(&packet).is_ok());
    for _ in 0..ATTEMPTS {
        bench.left.send(&bench.labelled(&[Entry::new(100, 1)], &packet))?;
        expect_all_answered(bench)?;
        let mut seen = 0;
        let frame = bench.right.receive("an answer, or many other frames", |frame| {
            seen += 1;
            seen > PASSED_OVER || is_answer(frame)
        })?;
        if is_answer(&frame) {
            return Ok(());
        }
    }
    bail!("no answer to {ATTEMPTS} packets of round {round}")
}

/// All packets with an expired TTL that XDP has seen are answered, none is policed.
fn expect_all_answered(bench: &Bench) -> Result<()> {
    wait::until("answers to all expired TTLs that XDP has seen", PATIENCE, || {
        let stats: Stats = bench.router.json("stats --all")?;
        let late = counter(&stats, "eth1", "ttl-expired")?;
        ensure!((late.policed, late.unheard) == (0, 0), "{late:?}");
        let mut outcomes = stats.slow_path.iter();
        let answered = outcomes.find(|outcome| outcome.name == "time-exceeded");
        Ok((late.packets == answered.context("no outcome")?.packets).then_some(()))
    })
}

fn counter<'a>(stats: &'a Stats, port: &str, reason: &str) -> Result<&'a ReasonCounter> {
    let mut reasons = stats.reasons.iter();
    let found = reasons.find(|counter| (&*counter.port, &*counter.reason) == (port, reason));
    found.with_context(|| format!("no {reason} at {port}"))
}

/// In generic mode, packets that a veth's peer leaves to be segmented are too big for a label; a load warns of it.
fn unsegmented() -> Result<()> {
    for (options, advised) in [(GENERIC, true), (NATIVE, false)] {
        let bench = Bench::new(options)?;
        let said = bench.router.said();
        ensure!(said.contains("arrive unsegmented (TSO)") == advised, "{said}");
    }
    Ok(())
}

fn slow_path() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    // Larger than the right link takes with its labels: fragments, of the packet with the right checksum.
    let packet = datagram(1600, false, 7)?;
    bench
        .left
        .send(&bench.labelled(&[Entry::new(100, 64)], &unfinished(&packet)))?;
    for fragment in fragmented(&packet, 1496, 64)? {
        let expected = bench.out_labelled(&[Entry::new(110, 63)], &fragment);
        bench.right.receive("a fragment", |frame| frame == expected)?;
    }
    // Beneath a router alert.
    let packet = datagram(100, false, 8)?;
    let sent = bench.labelled(&[Entry::new(1, 64), Entry::new(100, 64)], &unfinished(&packet));
    let expected = bench.out_labelled(&[Entry::new(1, 63), Entry::new(110, 63)], &packet);
    bench.left.send(&sent)?;
    bench.right.receive("router alert", |frame| frame == expected)?;
    wait::until("two finished checksums", PATIENCE, || {
        Ok((finished(&bench.router)? == 2).then_some(()))
    })
}

fn trusting() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --checksum trust"))?;
    bench.route("100 as 110")?;
    let sent = unfinished(&datagram(100, false, 1)?);
    let expected = bench.out_labelled(&[Entry::new(110, 63)], &sent);
    bench.expect("trust", &bench.labelled(&[Entry::new(100, 64)], &sent), &expected)?;
    ensure!(finished(&bench.router)? == 0, "counted {}", finished(&bench.router)?);
    Ok(())
}

fn shown() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --checksum eth2=trust"))?;
    let modes = |bench: &Bench| -> Result<Vec<(String, Checksum)>> {
        let links: Vec<Link> = bench.router.json("link show")?;
        Ok(links.into_iter().map(|link| (link.ifname, link.checksum)).collect())
    };
    let (eth1, eth2) = ("eth1".to_owned(), "eth2".to_owned());
    ensure!(
        modes(&bench)? == [(eth1.clone(), Checksum::Finish), (eth2.clone(), Checksum::Trust)],
        "{:?}",
        modes(&bench)?
    );
    let text = bench.router.run("link show eth1")?;
    let sender = format!("`ip netns exec {} ethtool -K eth0 tx off`", bench.left_netns.name());
    ensure!(text.contains("checksum finish") && text.contains(&sender), "{text}");
    bench.router.run("link del eth1")?;
    bench.router.run("link add eth1 checksum trust")?;
    let refused = bench.router.run("link add eth1.100 checksum finish");
    let message = format!("{:#}", refused.err().context("eth1 cannot do both")?);
    ensure!(
        message.contains("eth1 has the program already, with checksum trust"),
        "{message}"
    );
    ensure!(
        modes(&bench)?.iter().all(|(_, mode)| *mode == Checksum::Trust),
        "{:?}",
        modes(&bench)?
    );
    Ok(())
}

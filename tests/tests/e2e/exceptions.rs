//! Frames that the fast path cannot forward, except for expired TTLs: what happens to them, and that they do not harm
//! the others.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Stats, Status};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp, with_ttl};
use mplsxdp_tests::icmp::{ADDRESS_UNREACHABLE_V6, HOST_UNREACHABLE_V4, IcmpError, TIME_EXCEEDED_V4, TIME_EXCEEDED_V6};
use mplsxdp_tests::rig::PagePools;
use mplsxdp_tests::three_routers::EDGE_SYSCTLS;
use mplsxdp_tests::{End, Tap, link, wait};
use nix::errno::Errno;

use crate::bench::{Bench, LEFT, NATIVE, RIGHT, v4, v6};
use crate::test;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long frames wait for a next hop.
const HOLD: Duration = Duration::from_secs(3);
/// An address of a next hop on the right that does not exist yet.
const ABSENT: &str = "10.0.2.9";

pub fn tests() -> Vec<Trial> {
    vec![
        test("exceptions::frames_wait_for_a_next_hop_and_leave_in_order", held),
        test(
            "exceptions::frames_wait_on_for_the_next_hop_of_a_replaced_route",
            held_for_replaced,
        ),
        test("exceptions::nothing_leaves_late_by_a_port_that_was_down", port_down),
        test("exceptions::no_more_frames_wait_than_may", hold_limit),
        test("exceptions::a_long_frame_waits_whole", held_whole),
        test("exceptions::as_many_frames_leave_at_once_as_may_wait", many_held),
        test(
            "exceptions::a_next_hop_that_does_not_appear_is_unreachable",
            unreachable,
        ),
        test("exceptions::unknown_labels_are_listed_by_rate", unknown_punt),
        test("exceptions::unknown_labels_can_be_dropped_at_once", unknown_drop),
        test("exceptions::unknown_labels_can_be_the_kernels", unknown_pass),
        test("exceptions::router_alert_goes_on_with_its_packet", router_alert),
        test(
            "exceptions::beneath_a_router_alert_the_kernel_forwards_as_without_it",
            alert_forwarded,
        ),
        test(
            "exceptions::beneath_a_router_alert_the_kernel_forwards_nothing_that_it_need_not",
            alert_not_forwarded,
        ),
        test(
            "exceptions::beneath_a_router_alert_packets_are_received_as_any_others",
            alert_received,
        ),
        test(
            "exceptions::what_is_handed_to_the_kernel_may_stay_unread_for_ever",
            unread,
        ),
        test("exceptions::oam_and_lsp_ping_are_counted", oam),
        test("exceptions::an_answer_that_the_kernel_refuses_is_none", no_way_back),
        test("exceptions::answers_are_limited_in_total", total_limit),
        test("exceptions::answers_are_limited_for_each_source", source_limit),
        test("exceptions::a_flood_is_policed_and_costs_others_nothing", policed_flood),
        test(
            "exceptions::a_flood_that_is_not_policed_costs_others_nothing",
            unpoliced_flood,
        ),
        test(
            "exceptions::a_flood_of_one_reason_leaves_room_for_another",
            one_port_flood,
        ),
    ]
}

/// A packet whose data contains its number.
fn numbered(number: usize) -> Result<Vec<u8>> {
    udp(
        "192.0.2.1".parse()?,
        "10.9.0.1".parse()?,
        64,
        format!("number {number}").as_bytes(),
    )
}

/// Waits until this many frames have had this outcome.
fn until_outcome(bench: &Bench, name: &str, count: u64) -> Result<()> {
    let what = format!("{count} frames with the outcome {name}");
    wait::until(&what, PATIENCE, || {
        let counted = bench.router.outcome(name)?;
        ensure!(
            counted <= count,
            "{counted} frames with the outcome {name}, {count} expected"
        );
        Ok((counted == count).then_some(()))
    })
}

fn held() -> Result<()> {
    const FRAMES: usize = 10;
    let bench = Bench::new(NATIVE)?;
    bench.router.run(&format!("route add 500 as 510 via inet {ABSENT}"))?;
    for number in 0..FRAMES {
        bench
            .left
            .send(&bench.labelled(&[Entry::new(500, 64)], &numbered(number)?))?;
    }
    until_outcome(&bench, "held", FRAMES as u64)?;
    bench.right_netns.ip(&format!("address add {ABSENT}/24 dev eth0"))?;
    let out = |number| Ok::<_, anyhow::Error>(bench.out_labelled(&[Entry::new(510, 63)], &numbered(number)?));
    let is_ours = |frame: &[u8]| frame[12..].starts_with(&[0x88, 0x47]);
    for number in 0..FRAMES {
        let frame = bench.right.receive(&format!("frame {number}"), is_ours)?;
        ensure!(frame == out(number)?, "frame {number}: {frame:02x?}");
    }
    ensure!(
        bench.router.dropped("unresolved")? == FRAMES as u64,
        "counted by the fast path"
    );
    ensure!(
        bench.router.outcome("released")? == FRAMES as u64,
        "counted by the slow path"
    );
    // From now on through the fast path.
    bench.router.wait_resolved()?;
    bench.expect(
        "afterwards",
        &bench.labelled(&[Entry::new(500, 64)], &numbered(FRAMES)?),
        &out(FRAMES)?,
    )?;
    ensure!(bench.router.forwarded("500")? == 1, "counted for the route");
    Ok(())
}

fn held_for_replaced() -> Result<()> {
    const ALSO_ABSENT: &str = "10.0.2.8";
    let bench = Bench::new(NATIVE)?;
    let router = &bench.router;
    router.run(&format!("route add 500 as 510 via inet {ABSENT}"))?;
    router.run(&format!("route add 501 as 511 via inet {ALSO_ABSENT}"))?;
    let frame = |label, number| anyhow::Ok(bench.labelled(&[Entry::new(label, 64)], &numbered(number)?));
    for (number, label) in [500, 501, 500].into_iter().enumerate() {
        bench.left.send(&frame(label, number)?)?;
        until_outcome(&bench, "held", number as u64 + 1)?;
    }
    router.run(&format!("route replace 500 as 520 via inet {ALSO_ABSENT}"))?;
    bench.left.send(&frame(500, 3)?)?;
    until_outcome(&bench, "held", 4)?;
    bench
        .right_netns
        .ip(&format!("address add {ALSO_ABSENT}/24 dev eth0"))?;
    let is_ours = |frame: &[u8]| frame[12..].starts_with(&[0x88, 0x47]);
    for (number, label) in [520, 511, 520, 520].into_iter().enumerate() {
        let frame = bench.right.receive(&format!("frame {number}"), is_ours)?;
        let expected = bench.out_labelled(&[Entry::new(label, 63)], &numbered(number)?);
        ensure!(frame == expected, "frame {number}: {frame:02x?}");
    }
    ensure!(router.outcome("released")? == 4, "counted by the slow path");
    Ok(())
}

/// Frames that the slow path sends to a port that is down are dropped, whether it knows that or not. None is held: if
/// it knows, the next hop is not resolved.
fn port_down() -> Result<()> {
    const FRAMES: usize = 20;
    let bench = Bench::new(&format!("{NATIVE} --hold 0"))?;
    bench.route("500 as 510")?;
    let netns = bench.router.netns();
    // For the slow path only.
    let alert = |number| anyhow::Ok(bench.labelled(&[Entry::new(1, 64), Entry::new(500, 64)], &numbered(number)?));
    let send = |numbers: std::ops::Range<usize>| {
        numbers
            .into_iter()
            .try_for_each(|number| bench.left.send(&alert(number)?))
    };
    bench.router.signal(nix::sys::signal::Signal::SIGSTOP)?;
    send(0..FRAMES)?;
    netns.ip("link set eth2 down")?;
    bench.router.signal(nix::sys::signal::Signal::SIGCONT)?;
    until_outcome(&bench, "router-alert", FRAMES as u64)?;
    netns.ip("link set eth2 up")?;
    bench.router.wait_resolved()?;
    // The port sends again a moment later, once its sockets are open again.
    let mut seen = wait::until("a frame sent after", PATIENCE, || {
        let seen = bench.forward(&alert(2 * FRAMES)?)?;
        Ok((!seen.is_empty()).then_some(seen))
    })?;
    seen.extend(bench.forward(&alert(2 * FRAMES)?)?);
    let payload = numbered(2 * FRAMES)?;
    for frame in seen {
        ensure!(frame.ends_with(&payload), "a stale frame: {frame:02x?}");
    }
    bench.router.unload()
}

fn hold_limit() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --hold 4"))?;
    bench.router.run(&format!("route add 500 as 510 via inet {ABSENT}"))?;
    for number in 0..10 {
        bench
            .left
            .send(&bench.labelled(&[Entry::new(500, 64)], &numbered(number)?))?;
    }
    until_outcome(&bench, "hold-full", 6)?;
    bench.right_netns.ip(&format!("address add {ABSENT}/24 dev eth0"))?;
    bench.router.wait_resolved()?;
    // The first ones, and later frames only after them.
    let last = bench.labelled(&[Entry::new(500, 64)], &numbered(10)?);
    bench.left.send(&last)?;
    for number in [0, 1, 2, 3, 10] {
        let is_ours = |frame: &[u8]| frame[12..].starts_with(&[0x88, 0x47]);
        let frame = bench.right.receive(&format!("frame {number}"), is_ours)?;
        let expected = bench.out_labelled(&[Entry::new(510, 63)], &numbered(number)?);
        ensure!(frame == expected, "frame {number}: {frame:02x?}");
    }
    Ok(())
}

/// Longer than a chunk of the socket's memory, which is 2 KiB with headroom. Only the left side has room for it.
fn held_whole() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.router.run("route add 500 as 510 via inet 10.0.1.9")?;
    let packet = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, &[0x5a; 1960])?;
    bench.left.send(&bench.labelled(&[Entry::new(500, 64)], &packet))?;
    until_outcome(&bench, "held", 1)?;
    bench.left_netns.ip("address add 10.0.1.9/24 dev eth0")?;
    let expected = labelled(bench.left.mac(), bench.port1, &[Entry::new(510, 63)], &packet);
    bench.left.receive("the frame that waited", |frame| frame == expected)?;
    Ok(())
}

/// More than are queued for the kernel at once.
fn many_held() -> Result<()> {
    const FRAMES: u64 = 640;
    /// Fewer than the queue of a veth has room for (256).
    const AT_ONCE: u64 = 64;
    let bench = Bench::new(&format!("{NATIVE} --hold 1024"))?;
    bench.router.run(&format!("route add 500 as 510 via inet {ABSENT}"))?;
    let frame = bench.labelled(&[Entry::new(500, 64)], &numbered(0)?);
    for held in (0..FRAMES).step_by(AT_ONCE as usize) {
        for _ in 0..AT_ONCE {
            bench.left.send(&frame)?;
        }
        until_outcome(&bench, "held", held + AT_ONCE)?;
    }
    let kernel = bench.router.netns();
    kernel.ip(&format!("neigh replace {ABSENT} lladdr {RIGHT} dev eth2 nud permanent"))?;
    until_outcome(&bench, "released", FRAMES)?;
    until_outcome(&bench, "not-sent", 0)
}

fn unreachable() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    for route in [
        "500 as 510",
        "10.9.0.0/16 encap mpls 510",
        "2001:db8:9::/48 encap mpls 510",
    ] {
        bench.router.run(&format!("route add {route} via inet {ABSENT}"))?;
    }
    for (near, target, ethertype, kind, router) in [
        ("10.0.1.2", "10.9.0.1", ETH_P_IP, HOST_UNREACHABLE_V4, "10.0.1.1"),
        (
            "fd00:1::2",
            "2001:db8:9::1",
            ETH_P_IPV6,
            ADDRESS_UNREACHABLE_V6,
            "fd00:1::1",
        ),
    ] {
        let packet = udp(near.parse()?, target.parse()?, 64, b"unreachable")?;
        let unlabelled = ethernet(bench.port1, bench.left.mac(), ethertype, &packet);
        let stack = vec![Entry::new(500, 64)];
        for (frame, stack) in [(bench.labelled(&stack, &packet), stack), (unlabelled, Vec::new())] {
            let start = Instant::now();
            bench.left.send(&frame)?;
            let frame = bench
                .left
                .receive("host unreachable", |frame| IcmpError::read(frame).is_some())?;
            let took = start.elapsed();
            let error = IcmpError::read(&frame).context("no ICMP error")??;
            ensure!(took >= HOLD, "after {took:?}");
            ensure!(
                error.kind == kind && error.source == router.parse::<IpAddr>()? && error.stack == stack,
                "{error:?}"
            );
            error.ensure_quotes(&packet)?;
        }
    }
    until_outcome(&bench, "host-unreachable", 4)?;
    until_outcome(&bench, "hold-expired", 4)
}

/// Sends three frames of one label without a route, and one of another.
fn send_unknown(bench: &Bench) -> Result<()> {
    for label in [4711, 4712, 4711, 4711] {
        let forwarded = bench.forward(&bench.labelled(&[Entry::new(label, 64)], &v4(64)?))?;
        ensure!(forwarded.is_empty(), "label {label}: {forwarded:02x?}");
    }
    ensure!(
        bench.router.dropped("no-route")? == 4,
        "the fast path counts all of them"
    );
    Ok(())
}

fn unknown_punt() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    send_unknown(&bench)?;
    until_outcome(&bench, "unknown-label", 4)?;
    let listed = bench.router.unknown_labels()?;
    let counts: Vec<_> = listed
        .iter()
        .map(|unknown| (unknown.port.as_str(), unknown.label, unknown.packets))
        .collect();
    ensure!(counts == [("eth1", 4711, 3), ("eth1", 4712, 1)], "{listed:?}");
    ensure!(listed[0].rate_pps > listed[1].rate_pps, "{listed:?}");
    let shown = bench.router.run("stats --unknown")?;
    ensure!(shown.lines().count() == 3 && shown.contains("4711"), "{shown}");
    // The log reports the first one at once, and the others after some seconds.
    let lines = bench.router.said();
    let lines: Vec<_> = lines.lines().filter(|line| line.contains("no route")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("4711"), "{lines:?}");
    Ok(())
}

fn unknown_drop() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --unknown drop"))?;
    send_unknown(&bench)?;
    // The next frame has come up, and none before it.
    bench.left.send(&bench.labelled(&[Entry::new(14, 64)], &v4(64)?))?;
    until_outcome(&bench, "oam", 1)?;
    until_outcome(&bench, "unknown-label", 0)?;
    let listed = bench.router.unknown_labels()?;
    ensure!(listed.is_empty(), "{listed:?}");
    Ok(())
}

fn unknown_pass() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --unknown pass"))?;
    let kernel = Tap::open(bench.router.netns(), "eth1")?;
    let frame = bench.labelled(&[Entry::new(4711, 64).tc(3), Entry::new(99, 2)], &v6(64)?);
    bench.left.send(&frame)?;
    kernel.receive("the same frame", |seen| seen == frame)?;
    ensure!(bench.router.dropped("no-route")? == 1, "the fast path counts it");
    until_outcome(&bench, "unknown-label", 0)
}

fn router_alert() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    bench.route("210")?;
    let packet = v4(64)?;
    // Not through the fast path, where a later frame may overtake it.
    let expect = |stack: &[Entry], expected: &[u8]| -> Result<()> {
        bench.left.send(&bench.labelled(stack, &packet))?;
        let what = format!("{stack:?} as {expected:02x?}");
        bench.right.receive(&what, |frame| frame == expected).map(drop)
    };
    let alert = |ttl| Entry::new(1, ttl).tc(2);
    let swapped = [alert(63), Entry::new(110, 63).tc(5)];
    expect(
        &[alert(64), Entry::new(100, 9).tc(5)],
        &bench.out_labelled(&swapped, &packet),
    )?;
    // No label is left beneath the alert.
    let popped = with_ttl(&packet, 63)?;
    expect(
        &[alert(64), Entry::new(210, 64)],
        &ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &popped),
    )?;
    until_outcome(&bench, "router-alert", 2)?;
    until_outcome(&bench, "forwarded", 2)?;
    // The label beneath decides.
    bench
        .left
        .send(&bench.labelled(&[alert(64), Entry::new(4711, 64)], &packet))?;
    until_outcome(&bench, "unknown-label", 1)?;
    ensure!(bench.router.dropped("router-alert")? == 3, "counted by the fast path");
    Ok(())
}

/// A packet through the router, in one family.
struct Through {
    source: &'static str,
    destination: &'static str,
    /// Towards the source and the destination.
    gateways: [&'static str; 2],
    ethertype: u16,
    time_exceeded: (u8, u8),
}

const THROUGH: [Through; 2] = [
    Through {
        source: "192.0.2.1",
        destination: "10.9.0.1",
        gateways: ["10.0.1.2", "10.0.2.2"],
        ethertype: ETH_P_IP,
        time_exceeded: TIME_EXCEEDED_V4,
    },
    Through {
        source: "2001:db8::1",
        destination: "2001:db8:9::1",
        gateways: ["fd00:1::2", "fd00:2::2"],
        ethertype: ETH_P_IPV6,
        time_exceeded: TIME_EXCEEDED_V6,
    },
];

impl Through {
    fn packet(&self) -> Result<Vec<u8>> {
        udp(self.source.parse()?, self.destination.parse()?, 64, b"for the kernel")
    }
}

/// A router whose kernel has routes to both sides, and forwards if `forwards` is set.
fn routed_bench(options: &str, forwards: bool) -> Result<Bench> {
    let bench = Bench::new(options)?;
    bench.router.run("route add 106 dev lo")?;
    let kernel = bench.router.netns();
    for (key, value) in EDGE_SYSCTLS {
        kernel.sysctl(key, if forwards { value } else { "0" })?;
    }
    for through in THROUGH {
        let [left, right] = through.gateways;
        for (address, gateway, mac, dev) in [
            (through.source, left, LEFT, "eth1"),
            (through.destination, right, RIGHT, "eth2"),
        ] {
            kernel.ip(&format!("neigh replace {gateway} lladdr {mac} dev {dev} nud permanent"))?;
            kernel.ip(&format!("route add {address} via {gateway}"))?;
        }
    }
    Ok(bench)
}

/// Stacks that end in the router, the last two through the slow path. Their TTLs are the packet's.
fn ending_stacks(ttl: u8, ethertype: u16) -> [Vec<Entry>; 4] {
    let entry = |label| Entry::new(label, ttl);
    let null = entry(if ethertype == ETH_P_IP { 0 } else { 2 });
    [
        vec![null],
        vec![entry(106)],
        vec![entry(1), null],
        vec![entry(1), entry(106)],
    ]
}

fn alert_forwarded() -> Result<()> {
    for options in [NATIVE, "--iface eth1 --iface eth2 --mode generic"] {
        let bench = routed_bench(options, true)?;
        for through in THROUGH {
            let (packet, ethertype) = (through.packet()?, through.ethertype);
            for ttl in [64, 3] {
                // One for the pop, one for the kernel.
                let routed = with_ttl(&packet, ttl - 2)?;
                let expected = ethernet(bench.right.mac(), bench.port2, ethertype, &routed);
                for stack in ending_stacks(ttl, ethertype) {
                    bench.left.send(&bench.labelled(&stack, &packet))?;
                    bench
                        .right
                        .receive(&format!("the packet of {stack:?}"), |frame| frame == expected)?;
                }
            }
            for stack in ending_stacks(2, ethertype) {
                bench.left.send(&bench.labelled(&stack, &packet))?;
                let frame = bench.left.receive(&format!("an answer to {stack:?}"), |frame| {
                    IcmpError::read(frame).is_some()
                })?;
                // The kernel's own error, which does not know of labels.
                let error = IcmpError::read(&frame).context("no ICMP error")??;
                ensure!(
                    error.kind == through.time_exceeded && error.stack.is_empty(),
                    "{error:?}"
                );
                error.ensure_quotes(&with_ttl(&packet, 1)?)?;
            }
        }
        until_outcome(&bench, "delivered", 12)?;
        ensure_only_multicast(&bench)?;
    }
    Ok(())
}

/// Checks that nothing more has left to the right except the kernel's own multicast.
fn ensure_only_multicast(bench: &Bench) -> Result<()> {
    let out = bench.right.drain()?;
    let ours: Vec<_> = out
        .iter()
        .filter(|frame| frame.starts_with(&bench.right.mac().0))
        .collect();
    ensure!(ours.is_empty(), "{ours:02x?}");
    Ok(())
}

fn alert_not_forwarded() -> Result<()> {
    let bench = routed_bench(NATIVE, false)?;
    for through in THROUGH {
        let packet = through.packet()?;
        for stack in ending_stacks(64, through.ethertype) {
            let forwarded = bench.forward(&bench.labelled(&stack, &packet))?;
            ensure!(forwarded.is_empty(), "{stack:?}: {forwarded:02x?}");
        }
    }
    until_outcome(&bench, "delivered", 4)?;
    ensure_only_multicast(&bench)
}

fn alert_received() -> Result<()> {
    /// The port of [`udp`].
    const PORT: u16 = 5000;
    for options in [NATIVE, "--iface eth1 --iface eth2 --mode generic"] {
        // It would forward: if it does not receive, the reason is another.
        let bench = routed_bench(options, true)?;
        for (own, loopback, neighbour, ethertype) in [
            ("10.0.1.1", "127.0.0.1", "10.0.1.2", ETH_P_IP),
            ("fd00:1::1", "::1", "fd00:1::2", ETH_P_IPV6),
        ] {
            let (own, loopback, neighbour): (IpAddr, IpAddr, IpAddr) =
                (own.parse()?, loopback.parse()?, neighbour.parse()?);
            // A socket for any address gets every packet that the kernel accepts.
            let any = if own.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = bench.router.netns().within(|| {
                UdpSocket::bind((any.parse::<IpAddr>()?, PORT)).context("cannot have a socket in the router")
            })?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let packet =
                |source, destination, data: &str| -> Result<Vec<u8>> { udp(source, destination, 64, data.as_bytes()) };
            for stack in ending_stacks(64, ethertype) {
                let send = |packet: &[u8]| bench.left.send(&bench.labelled(&stack, packet));
                send(&packet(neighbour, loopback, "to loopback")?)?;
                send(&packet(loopback, own, "from loopback")?)?;
                // IPv4 only; the last is malformed, whatever its destination.
                if own.is_ipv4() {
                    send(&packet(own, own, "from myself")?)?;
                    let mut wrong = packet(neighbour, own, "with a wrong checksum")?;
                    wrong[10] ^= 1;
                    send(&wrong)?;
                }
                send(&packet(neighbour, own, "well")?)?;
                let mut buffer = [0; 100];
                let (length, from) = socket
                    .recv_from(&mut buffer)
                    .with_context(|| format!("{stack:?} to {own}"))?;
                let got = String::from_utf8_lossy(&buffer[..length]);
                ensure!(got == "well" && from.ip() == neighbour, "{stack:?}: {got} from {from}");
            }
        }
        until_outcome(&bench, "delivered", 2 * (4 + 3))?;
        until_outcome(&bench, "not-delivered", 0)?;
    }
    Ok(())
}

/// An unread packet keeps its page pool from being freed, which the kernel logs every 60 s.
fn unread() -> Result<()> {
    const PACKETS: u64 = 100;
    for options in [NATIVE, "--iface eth1 --iface eth2 --mode generic"] {
        let bench = routed_bench(options, false)?;
        let socket = bench
            .router
            .netns()
            .within(|| UdpSocket::bind("10.0.1.1:5000").context("cannot have a socket in the router"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let pools = PagePools::of(bench.router.json::<Status>("status")?.pid)?;
        let data = |number: u64| format!("packet {number}").into_bytes();
        let [.., stack] = ending_stacks(64, ETH_P_IP);
        for number in 0..PACKETS {
            let packet = udp("10.0.1.2".parse()?, "10.0.1.1".parse()?, 64, &data(number))?;
            bench.left.send(&bench.labelled(&stack, &packet))?;
        }
        until_outcome(&bench, "delivered", PACKETS)?;
        let pools = pools.count()?;
        ensure!(pools < PACKETS as usize / 4, "{pools} page pools for {PACKETS} packets");
        for number in 0..PACKETS {
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer)?;
            ensure!(buffer[..length] == data(number), "packet {number} is not the next");
        }
        // They do not come back to the program, which sees received frames in generic mode.
        let exceptions = bench.router.dropped("router-alert")?;
        ensure!(exceptions == PACKETS, "{exceptions} router alerts");
        let stats: Stats = bench.router.json("stats")?;
        ensure!(stats.reasons.len() == 1, "{:?}", stats.reasons);
    }
    Ok(())
}

/// TTLs expire, and neither an LSP nor the kernel knows the way to the source.
fn no_way_back() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.router.run("route add 106 dev lo")?;
    bench.route("10.9.0.0/16 encap mpls 510")?;
    bench.route("2001:db8:9::/48 encap mpls 510")?;
    for (count, (packet, ethertype)) in [(v4(1)?, ETH_P_IP), (v6(1)?, ETH_P_IPV6)].into_iter().enumerate() {
        bench.left.send(&bench.labelled(&[Entry::new(106, 1)], &packet))?;
        bench
            .left
            .send(&ethernet(bench.port1, bench.left.mac(), ethertype, &packet))?;
        until_outcome(&bench, "no-way-back", 2 * (count as u64 + 1))?;
    }
    until_outcome(&bench, "time-exceeded", 0)
}

fn oam() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    for label in [13, 14] {
        bench.expect_drop("oam", &bench.labelled(&[Entry::new(label, 64)], &v4(64)?))?;
    }
    until_outcome(&bench, "oam", 2)?;
    // An echo request that ends here, by explicit null; its checksum is left out.
    let mut echo = udp("192.0.2.1".parse()?, "127.0.0.1".parse()?, 64, b"echo request")?;
    echo[22..24].copy_from_slice(&3503u16.to_be_bytes());
    echo[26..28].fill(0);
    bench.expect_drop("lsp-ping", &bench.labelled(&[Entry::new(0, 64)], &echo))?;
    until_outcome(&bench, "lsp-ping", 1)
}

/// Sends frames whose TTL expires, from this source, and waits until all are handled. Returns how many were answered,
/// by the counters and by the frames that arrive, and how long it took.
fn expire(bench: &Bench, source: &str, frames: u64) -> Result<(u64, Duration)> {
    let answered = || bench.router.outcome("time-exceeded");
    let limited = || bench.router.outcome("answer-limited");
    let (before, before_limited) = (answered()?, limited()?);
    let start = Instant::now();
    let packet = udp(source.parse()?, "10.9.0.1".parse()?, 64, b"expires")?;
    for _ in 0..frames {
        bench.left.send(&bench.labelled(&[Entry::new(100, 1)], &packet))?;
    }
    wait::until("the end of all frames", PATIENCE, || {
        let done = answered()? - before + limited()? - before_limited;
        Ok((done == frames).then_some(()))
    })?;
    let (answered, took) = (answered()? - before, start.elapsed());
    let arrived = bench.right.drain()?;
    let arrived = arrived.iter().filter(|frame| IcmpError::read(frame).is_some()).count() as u64;
    ensure!(arrived == answered, "{arrived} answers arrived, {answered} are counted");
    Ok((answered, took))
}

/// Checks a limit of 10 per second, and 50 at once.
fn ensure_limited(answered: u64, took: Duration) -> Result<()> {
    let most = 50 + (took.as_secs_f64() * 10.0) as u64 + 1;
    ensure!((50..=most).contains(&answered), "{answered} answers in {took:?}");
    Ok(())
}

fn total_limit() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --icmp-rate 10 --icmp-source-rate 0"))?;
    bench.route("100 as 110")?;
    let (answered, took) = expire(&bench, "192.0.2.1", 300)?;
    ensure_limited(answered, took)?;
    // Other sources share the limit.
    let (others, more) = expire(&bench, "192.0.2.2", 300)?;
    ensure_limited(answered + others, took + more)
}

fn source_limit() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --icmp-rate 0 --icmp-source-rate 10"))?;
    bench.route("100 as 110")?;
    for source in ["192.0.2.1", "192.0.2.2"] {
        let (answered, took) = expire(&bench, source, 300)?;
        ensure_limited(answered, took).with_context(|| source.to_owned())?;
    }
    Ok(())
}

fn policed_flood() -> Result<()> {
    let policed = flood("--punt-rate 1000")?;
    ensure!(policed > 0, "nothing was policed");
    Ok(())
}

fn unpoliced_flood() -> Result<()> {
    let policed = flood("--punt-rate 0")?;
    ensure!(policed == 0, "{policed} frames were policed");
    Ok(())
}

/// Unknown labels flood a third port as fast as they can be sent, while valid frames go from left to right, and TTLs
/// expire among them. Returns how many frames were policed.
fn flood(options: &str) -> Result<u64> {
    const ROUNDS: usize = 100;
    /// Fewer than the queue of a veth has room for (256).
    const FRAMES: usize = 64;
    let bench = Bench::new(&format!("{NATIVE} {options}"))?;
    bench.route("100 as 110")?;
    let flooder = bench.lab.netns("flooder")?;
    link(End::new(&flooder, "eth0"), End::new(bench.router.netns(), "eth3"))?;
    bench.router.run("link add eth3")?;
    let source = Tap::open(&flooder, "eth0")?;
    let port3 = bench.router.netns().mac("eth3")?;
    let unknown: Vec<Vec<u8>> = (0..1000)
        .map(|index| Ok(labelled(port3, source.mac(), &[Entry::new(5000 + index, 64)], &v4(64)?)))
        .collect::<Result<_>>()?;

    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            for frame in unknown.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                match source.send(frame) {
                    // Only some kernels report that a veth had no room.
                    Err(error) if error.downcast_ref() == Some(&Errno::ENOBUFS) => {}
                    result => {
                        result?;
                        sent += 1;
                    }
                }
            }
            Ok(sent)
        });
        let valid = (|| {
            for round in 0..ROUNDS {
                for number in 0..FRAMES {
                    let packet = numbered(round * FRAMES + number)?;
                    bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &packet))?;
                }
                for number in 0..FRAMES {
                    let expected = bench.out_labelled(&[Entry::new(110, 63)], &numbered(round * FRAMES + number)?);
                    let what = format!("frame {number} of round {round}");
                    bench.right.receive(&what, |frame| frame == expected)?;
                }
                if round % 10 == 0 {
                    ensure_answered(&bench, &format!("round {round}"))?;
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = flood.join().map_err(|_| anyhow!("the flood panicked"))?;
        valid.and(sent)
    })?;
    let forwarded = bench.router.forwarded("100")?;
    ensure!(
        forwarded == (ROUNDS * FRAMES) as u64,
        "{forwarded} frames are counted as forwarded"
    );
    // Frames that the veth of the flood itself had no room for never reached the switch.
    let stats: Stats = bench.router.json("stats")?;
    let flooded = stats
        .reasons
        .iter()
        .find(|counter| (counter.port.as_str(), counter.reason.as_str()) == ("eth3", "no-route"))
        .context("no unknown labels are counted")?;
    ensure!(
        flooded.packets <= sent && flooded.packets > (ROUNDS * FRAMES) as u64,
        "{} of {sent} frames of the flood are counted",
        flooded.packets
    );
    Ok(flooded.policed)
}

/// Checks that a frame whose TTL expires gets an answer.
fn ensure_answered(bench: &Bench, what: &str) -> Result<()> {
    let packet = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, what.as_bytes())?;
    bench.left.send(&bench.labelled(&[Entry::new(100, 1)], &packet))?;
    bench.right.receive(
        &format!("an answer in {what}"),
        |frame| matches!(IcmpError::read(frame), Some(Ok(error)) if error.ensure_quotes(&packet).is_ok()),
    )?;
    Ok(())
}

fn one_port_flood() -> Result<()> {
    const ROUNDS: u64 = 40;
    const FRAMES: u64 = 200;
    let bench = Bench::new(&format!("{NATIVE} --punt-rate 100"))?;
    bench.route("100 as 110")?;
    let packet = v4(64)?;
    for round in 0..ROUNDS {
        for number in 0..FRAMES {
            let label = 5000 + (number % 10) as u32;
            bench.left.send(&bench.labelled(&[Entry::new(label, 64)], &packet))?;
        }
        ensure_answered(&bench, &format!("round {round}"))?;
    }
    let unknown = ROUNDS * FRAMES;
    ensure!(
        bench.router.dropped("no-route")? == unknown,
        "the fast path counts all of them"
    );
    let stats: Stats = bench.router.json("stats")?;
    let policed = |reason: &str| {
        let found = stats.reasons.iter().find(|counter| counter.reason == reason);
        found.map(|counter| counter.policed).context("not counted")
    };
    ensure!(policed("ttl-expired")? == 0, "expired TTLs are policed");
    let policed = policed("no-route")?;
    ensure!(policed > 0, "nothing was policed");
    until_outcome(&bench, "unknown-label", unknown - policed)
}

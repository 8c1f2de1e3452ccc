//! Cross-connected ports: every frame goes through, byte by byte, whatever it is.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, Stats};
use mplsxdp_common::wire::{ETH_P_8021AD as AD, ETH_P_8021Q as Q, ETH_P_IP, Mac};
use mplsxdp_tests::bystanders;
use mplsxdp_tests::frame::{Entry, ethernet, labelled, tagged};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::router::ensure_nothing_left;
use mplsxdp_tests::vm::Nic;
use mplsxdp_tests::{End, Lab, Router, Tap, link, wait};
use nix::sys::signal::Signal;

use crate::bench::{Bench, NATIVE, v4, v6};
use crate::{test, test_with};

const PATIENCE: Duration = Duration::from_secs(5);
const LOCAL_EXPERIMENTAL: u16 = 0x88b5;
const GROUP: [u8; 5] = [0x01, 0x80, 0xc2, 0, 0];

pub fn tests() -> Vec<Trial> {
    vec![
        test("xconnect::every_frame_goes_through_both_ways", every_frame),
        test("xconnect::what_is_too_long_is_counted", too_long),
        test("xconnect::frames_for_other_stations_are_received", promiscuous),
        test("xconnect::one_way_leaves_the_other_port_as_it_was", one_way),
        test("xconnect::tags_of_sub_interfaces_are_replaced", tags),
        test_with(
            "xconnect::virtual_machines_talk_to_each_other_and_to_a_wire",
            Some(Need::TapQueues),
            taps,
        ),
        test("xconnect::hosts_talk_as_by_a_cable", || hosts("")),
        test("xconnect::hosts_talk_in_generic_mode", || hosts("--mode generic")),
        test("xconnect::what_contradicts_another_use_is_refused", refused),
        test("xconnect::it_follows_its_ports", follows),
    ]
}

/// Sends a frame from one tap, and waits for it at another.
fn cross(what: &str, from: &Tap, to: &Tap, sent: &[u8], expected: &[u8]) -> Result<()> {
    from.send(sent)?;
    to.receive(&format!("{what}: {expected:02x?}"), |frame| frame == expected)?;
    Ok(())
}

/// A frame of nobody's protocol, with an EtherType that says so and a number.
fn frame(number: u8) -> Vec<u8> {
    ethernet(
        Mac([2, 0, 0, 0, 9, number]),
        Mac([2, 0, 0, 0, 8, 8]),
        LOCAL_EXPERIMENTAL,
        &[number; 60],
    )
}

/// What a port has counted for a reason.
fn counted(router: &Router, port: &str, reason: &str) -> Result<u64> {
    let stats: Stats = router.json("stats")?;
    let found = stats
        .reasons
        .iter()
        .find(|found| (&*found.port, &*found.reason) == (port, reason));
    Ok(found.map_or(0, |found| found.packets))
}

fn every_frame() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, 1500, 1500)?;
    bench.router.run("xconnect add eth1 eth2")?;
    let (left, right) = (&bench.left, &bench.right);
    for (from, to, port) in [(left, right, bench.port1), (right, left, bench.port2)] {
        let mut frames = bystanders::all(port, from.mac());
        let slow_protocols = Mac([0x01, 0x80, 0xc2, 0, 0, 0x02]);
        let spanning_tree = Mac([0x01, 0x80, 0xc2, 0, 0, 0x00]);
        let labels = [Entry::new(100, 1), Entry::new(200, 0)];
        let full = vec![7; 1500];
        frames.extend([
            ("LACP", ethernet(slow_protocols, from.mac(), 0x8809, &[1; 110])),
            (
                "a BPDU, with a length for an EtherType",
                ethernet(spanning_tree, from.mac(), 38, &[0x42; 46]),
            ),
            ("labels without a route", labelled(port, from.mac(), &labels, &v4(1)?)),
            ("IPv4 for the router", ethernet(port, from.mac(), ETH_P_IP, &v4(64)?)),
            ("IPv6 for nobody here", ethernet(to.mac(), from.mac(), 0x86dd, &v6(64)?)),
            ("QinQ", tagged(&[(AD, 100), (Q, 200)], &frame(1))),
            ("three tags", tagged(&[(AD, 1), (Q, 2), (Q, 3)], &frame(2))),
            (
                "as long as the MTU",
                ethernet(to.mac(), from.mac(), LOCAL_EXPERIMENTAL, &full),
            ),
            (
                "the same with a tag",
                tagged(&[(Q, 5)], &ethernet(to.mac(), from.mac(), LOCAL_EXPERIMENTAL, &full)),
            ),
            ("60 bytes", frame(3)[..60].to_vec()),
            (
                "an IPv4 header that is cut off",
                ethernet(port, from.mac(), ETH_P_IP, &[0x45]),
            ),
            ("labels without a bottom", ethernet(port, from.mac(), 0x8847, &[0; 46])),
        ]);
        for (what, sent) in &frames {
            cross(what, from, to, sent, sent)?;
        }
        // PAUSE is for the other end of a link only.
        let pause = [&GROUP[..], &[1], &from.mac().0, &[0x88, 0x08, 0, 1], &[0xff; 44]].concat();
        from.send(&pause)?;
        from.send(&frame(4))?;
        let mut paused = false;
        to.receive("the frame after PAUSE", |found| {
            paused |= found == pause;
            found == frame(4)
        })?;
        ensure!(!paused, "PAUSE went through");
    }
    let links: Vec<Link> = bench.router.json("link show")?;
    let connected: Vec<_> = links.iter().map(|link| link.cross_connect.as_deref()).collect();
    ensure!(connected == [Some("eth2"), Some("eth1")], "{links:?}");
    let shown = bench.router.run("-s xconnect show")?;
    ensure!(shown.starts_with("eth1 <-> eth2\n    eth1 -> eth2 packets "), "{shown}");
    ensure!(counted(&bench.router, "eth1", "cross-connected")? >= 20, "{shown}");
    // Afterwards they are ports like any other.
    bench.router.run("xconnect del eth2")?;
    ensure!(bench.router.run("xconnect show")?.is_empty(), "something is left");
    bench.route("100 as 110")?;
    let packet = v4(64)?;
    bench.expect(
        "a label",
        &bench.labelled(&[Entry::new(100, 64)], &packet),
        &bench.out_labelled(&[Entry::new(110, 63)], &packet),
    )?;
    bench.router.unload()
}

/// A NIC would filter them. Veths do not, but the kernel counts.
fn promiscuous() -> Result<()> {
    let bench = Bench::new("--iface eth1 --iface eth2 --iface eth2.5")?;
    bench.router.run("route del 999")?;
    let netns = bench.router.netns();
    let expect = |what: &str, expected: [&str; 2]| {
        wait::until(what, PATIENCE, || {
            let links = [netns.ip("-d link show eth1")?, netns.ip("-d link show eth2")?];
            let fits = |(link, count): (&String, &&str)| link.contains(&format!(" promiscuity {count} "));
            Ok(links.iter().zip(&expected).all(fits).then_some(()))
        })
    };
    bench.router.run("xconnect add eth1 eth2 one-way")?;
    expect("the first port alone", ["1", "0"])?;
    bench.router.run("xconnect del eth1")?;
    expect("no port", ["0", "0"])?;
    bench.router.run("xconnect add eth1 eth2.5 vlan push")?;
    expect("a port, and the parent of the other", ["1", "1"])?;
    bench.router.run("xconnect del eth1")?;
    expect("no port", ["0", "0"])?;
    bench.router.run("xconnect add eth1 eth2.5")?;
    netns.ip("link add br0 type bridge")?;
    netns.ip("link set br0 up")?;
    let netns = netns.clone();
    bench.router.stop(Signal::SIGKILL)?;
    for interface in ["eth1", "eth2"] {
        let link = netns.ip(&format!("-d link show {interface}"))?;
        ensure!(link.contains(" promiscuity 0 "), "{link}");
    }
    // On a bridge, tags are beside the frames.
    let router = Router::load(&netns, "--mode generic --iface br0 --iface eth2")?;
    let wrong = router.run("xconnect add br0 eth2").err().context("it was taken")?;
    ensure!(
        format!("{wrong:#}").contains("tags of frames would be lost"),
        "{wrong:#}"
    );
    router.unload()
}

fn too_long() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, 2000, 1500)?;
    bench.router.run("xconnect add eth1 eth2")?;
    let long = |payload| {
        ethernet(
            bench.right.mac(),
            bench.left.mac(),
            LOCAL_EXPERIMENTAL,
            &vec![3; payload],
        )
    };
    cross("the MTU and a tag", &bench.left, &bench.right, &long(1504), &long(1504))?;
    bench.left.send(&long(1505))?;
    wait::until("a frame that is too long", PATIENCE, || {
        Ok((counted(&bench.router, "eth1", "cross-too-big")? == 1).then_some(()))
    })?;
    // The MTU may change.
    bench.router.netns().ip("link set eth2 mtu 2000")?;
    bench.right_netns.ip("link set eth0 mtu 2000")?;
    wait::until("the new MTU", PATIENCE, || {
        let links: Vec<Link> = bench.router.json("link show eth2")?;
        Ok((links.first().context("no eth2")?.mtu == 2000).then_some(()))
    })?;
    cross("a longer one", &bench.left, &bench.right, &long(1505), &long(1505))
}

fn one_way() -> Result<()> {
    let bench = Bench::new("--iface eth1 --tx-only eth2")?;
    bench.router.run("xconnect add eth1 eth2 one-way")?;
    cross("forth", &bench.left, &bench.right, &frame(1), &frame(1))?;
    bench.right.send(&frame(2))?;
    cross("forth again", &bench.left, &bench.right, &frame(3), &frame(3))?;
    let back = bench.left.drain()?;
    ensure!(back.iter().all(|found| *found != frame(2)), "a frame came back");
    ensure!(bench.router.run("xconnect show")? == "eth1 -> eth2\n");
    let wrong = bench
        .router
        .run("xconnect add eth2 eth1 one-way")
        .err()
        .context("it was taken")?;
    ensure!(format!("{wrong:#}").contains("eth2 is tx-only"), "{wrong:#}");
    bench.router.run("xconnect del eth1 eth2 one-way")?;
    ensure!(bench.router.run("xconnect show")?.is_empty());
    Ok(())
}

fn tags() -> Result<()> {
    let options =
        "--iface eth1.100 --iface eth2.200 --iface eth1.300 --iface eth2 --iface eth1.400.40 --iface eth2.500";
    let bench = Bench::with_mtus(options, 1500, 1500)?;
    for line in ["eth1.100 eth2.200 vlan translate", "eth1.400.40 eth2.500"] {
        bench.router.run(&format!("xconnect add {line}"))?;
    }
    let (left, right) = (&bench.left, &bench.right);
    let both = |what: &str, a: &[(u16, u16)], b: &[(u16, u16)]| {
        for inner in [&[][..], &[(Q, 7)], &[(AD, 7), (Q, 8)]] {
            let within = tagged(inner, &frame(1));
            cross(what, left, right, &tagged(a, &within), &tagged(b, &within))?;
            cross(what, right, left, &tagged(b, &within), &tagged(a, &within))?;
        }
        anyhow::Ok(())
    };
    both("translate", &[(Q, 100)], &[(Q, 200)])?;
    both("translate with priority", &[(Q, 0xb064)], &[(Q, 0xb0c8)])?;
    both("two tags and one", &[(AD, 400), (Q, 40)], &[(Q, 500)])?;
    let prioritised = tagged(&[(Q, 0xe000), (Q, 100)], &frame(2));
    cross(
        "behind a priority",
        left,
        right,
        &prioritised,
        &tagged(&[(Q, 0xe0c8)], &frame(2)),
    )?;
    let shown = bench.router.run("xconnect")?;
    ensure!(
        shown == "eth1.100 <-> eth2.200 vlan translate\neth1.400.40 <-> eth2.500 vlan translate\n",
        "{shown}"
    );
    // An interface as a whole has no sub-interfaces.
    for name in ["eth2.200", "eth2.500"] {
        let wrong = bench
            .router
            .run(&format!("link del {name}"))
            .err()
            .context("it was taken")?;
        ensure!(format!("{wrong:#}").contains("xconnect del"), "{wrong:#}");
        bench.router.run(&format!("xconnect del {name}"))?;
        bench.router.run(&format!("link del {name}"))?;
    }
    bench.router.run("route del 999")?;
    bench.router.run("xconnect add eth1.300 eth2 vlan pop")?;
    both("pop", &[(Q, 300)], &[])?;
    let wrong = bench.router.run("link add eth2.7").err().context("it was taken")?;
    ensure!(
        format!("{wrong:#}").contains("eth2 is cross-connected with eth1.300"),
        "{wrong:#}"
    );
    bench.router.unload()
}

/// Two VMs by their taps, one with several queues, and the other of them by a wire.
fn taps() -> Result<()> {
    let lab = Lab::new()?;
    let (patch, right) = (lab.netns("patch")?, lab.netns("right")?);
    link(End::new(&patch, "eth1"), End::new(&right, "eth0"))?;
    let nics = [1, 2].map(|queues| Nic {
        queues,
        vnet_header: true,
        nonblocking: true,
    });
    let mut machines = Vec::new();
    for (nic, tap) in nics.into_iter().zip(["tap0", "tap1"]) {
        nic.make_tap(&patch, tap)?;
        machines.push(nic.plug(&patch, tap)?);
    }
    let router = Router::load(&patch, "--iface tap0 --iface tap1 --iface eth1")?;
    let wire = Tap::open(&right, "eth0")?;
    for (ports, [one, other]) in [
        ("tap0 tap1", [&machines[0], &machines[1]]),
        ("tap1 eth1", [&machines[1], &wire]),
    ] {
        router.run(&format!("xconnect add {ports}"))?;
        for (from, to) in [(one, other), (other, one)] {
            for (number, sent) in [tagged(&[(AD, 100), (Q, 200)], &frame(1)), frame(2)].iter().enumerate() {
                cross(&format!("frame {number} by {ports}"), from, to, sent, sent)?;
            }
        }
        let (from, _) = ports.split_once(' ').context("two ports")?;
        router.run(&format!("xconnect del {from}"))?;
    }
    router.unload()
}

/// Checksums that senders leave to their NIC go with the frames, or are computed.
fn hosts(mode: &str) -> Result<()> {
    let lab = Lab::new()?;
    let (left, middle, right) = (lab.netns("left")?, lab.netns("patch")?, lab.netns("right")?);
    link(
        End::new(&left, "eth0").address("10.0.0.1/24"),
        End::new(&middle, "eth1"),
    )?;
    link(
        End::new(&middle, "eth2"),
        End::new(&right, "eth0").address("10.0.0.2/24"),
    )?;
    let router = Router::load(&middle, &format!("--iface eth1 --iface eth2 {mode}"))?;
    router.run("xconnect add eth1 eth2")?;
    if !mode.is_empty() {
        // Otherwise segments that are longer than the MTU arrive (docs/usage.md, Checksums).
        for host in [&left, &right] {
            host.run("ethtool --offload eth0 tso off gso off")?;
        }
    }
    left.run("ping -c 3 -i 0.2 -W 5 10.0.0.2")?;
    mplsxdp_tests::three_routers::transfer(&left, &right, "10.0.0.2".parse()?, 1 << 20)?;
    let instance = router.instance().to_owned();
    router.unload()?;
    ensure_nothing_left(&middle, &instance)
}

fn refused() -> Result<()> {
    let bench = Bench::new("--iface eth1 --iface eth2 --iface eth2.5 --tx-only eth1.9")?;
    bench.router.run("route add 100 as 110 via inet 10.0.1.2 dev eth1")?;
    for (line, part) in [
        ("xconnect add eth1 eth9", "eth9 is not a port"),
        ("xconnect add eth9 eth1", "eth9 is not a port"),
        ("xconnect add eth1 eth1", "with itself"),
        ("xconnect add eth1 eth2.5", "eth1.9"),
        (
            "xconnect add eth2 eth1 one-way",
            "eth2 has sub-interfaces that are ports (eth2.5)",
        ),
        ("xconnect add eth2.5 eth1.9 vlan pop", "it is `vlan translate`"),
        ("xconnect add eth2.5 eth1.9", "eth1.9 is tx-only"),
        ("xconnect add eth2.5 eth1.9 vlan swap", "`translate`, `pop` or `push`"),
        ("xconnect add eth2.5", "invalid arguments"),
        ("xconnect del eth2.5", "eth2.5 is not cross-connected"),
        ("xconnect del eth2.5 eth1", "eth2.5 is not cross-connected with eth1"),
    ] {
        let wrong = bench
            .router
            .run(line)
            .err()
            .with_context(|| format!("{line} was taken"))?;
        ensure!(format!("{wrong:#}").contains(part), "{line}: {wrong:#}");
    }
    bench.router.run("link del eth1.9")?;
    let wrong = bench
        .router
        .run("xconnect add eth1 eth2.5")
        .err()
        .context("it was taken")?;
    ensure!(
        format!("{wrong:#}").contains("1 next hops of routes are reached through eth1"),
        "{wrong:#}"
    );
    bench.router.run("route del 100")?;
    bench.router.run("xconnect add eth1 eth2.5 vlan push")?;
    let wrong = bench
        .router
        .run("route add 100 as 110 via inet 10.0.1.2 dev eth1")
        .err();
    let wrong = format!("{:#}", wrong.context("it was taken")?);
    ensure!(wrong.contains("eth1 is cross-connected with eth2.5"), "{wrong}");
    let wrong = bench
        .router
        .run("xconnect add eth1 eth2 one-way")
        .err()
        .context("it was taken")?;
    ensure!(
        format!("{wrong:#}").contains("cross-connected with eth2.5 already"),
        "{wrong:#}"
    );
    // Nothing has changed by all that.
    cross(
        "a frame",
        &bench.left,
        &bench.right,
        &frame(1),
        &tagged(&[(Q, 5)], &frame(1)),
    )
}

fn follows() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, 1500, 1500)?;
    bench.router.run("route del 999")?;
    bench.router.run("xconnect add eth1 eth2")?;
    let netns = bench.router.netns();
    // A new name.
    for line in ["link set eth2 down", "link set eth2 name far", "link set far up"] {
        netns.ip(line)?;
    }
    wait::until("the new name", PATIENCE, || {
        Ok((bench.router.run("xconnect show")? == "eth1 <-> far\n").then_some(()))
    })?;
    wait::until("frames through the renamed port", PATIENCE, || {
        bench.left.send(&frame(1))?;
        Ok(bench.right.drain()?.contains(&frame(1)).then_some(()))
    })?;
    let config = bench.router.run("config")?;
    ensure!(config.contains("xconnect = [\"eth1 far\"]"), "{config}");
    // It is gone, and comes back.
    netns.ip("link del far")?;
    wait::until("a frame to nowhere", PATIENCE, || {
        bench.left.send(&frame(2))?;
        Ok((counted(&bench.router, "eth1", "no-port")? > 0).then_some(()))
    })?;
    link(End::new(netns, "far"), End::new(&bench.right_netns, "eth0"))?;
    let right = Tap::open(&bench.right_netns, "eth0")?;
    wait::until("frames through the port that is back", PATIENCE, || {
        bench.left.send(&frame(3))?;
        Ok(right.drain()?.contains(&frame(3)).then_some(()))
    })?;
    wait::until("frames back", PATIENCE, || {
        right.send(&frame(4))?;
        Ok(bench.left.drain()?.contains(&frame(4)).then_some(()))
    })
}

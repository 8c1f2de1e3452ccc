//! One router on two virtio NICs of a guest, cabled to two more, in native mode: the driver that virtual machines have.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, Stats, Status};
use mplsxdp_common::wire::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, tagged, with_ttl};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::virtio::Nics;
use mplsxdp_tests::{Tap, bystanders};

use crate::bench::{Bench, NATIVE, v4, v6};
use crate::test_with;
use crate::traceroute::expect_answer;

pub fn tests() -> Vec<Trial> {
    let test = |name: &str, test: fn(&Bench) -> Result<()>| {
        test_with(name, Some(Need::Virtio), move || {
            let nics = Nics::take()?;
            let bench = Bench::cabled(NATIVE, 2000, 1500, |cable, a, b| nics.link(cable, a, b))?;
            test(&bench)?;
            bench.router.unload()
        })
    };
    vec![
        test("virtio::labelled_frames_are_switched_in_native_mode", switched),
        test("virtio::a_flood_is_switched_whole_and_in_order", flood),
        test("virtio::a_ttl_that_runs_out_is_answered_through_af_xdp", answered),
        test("virtio::a_cross_connect_takes_frames_for_all_stations", crossed),
        test("virtio::what_is_not_labelled_traffic_is_left_alone", untouched),
    ]
}

fn switched(bench: &Bench) -> Result<()> {
    let status: Status = bench.router.json("status")?;
    ensure!(status.mode == "native", "{status:?}");
    let links: Vec<Link> = bench.router.json("link show")?;
    ensure!(
        links.len() == 2 && links.iter().all(|link| link.mode == "native" && link.link_id != 0),
        "{links:?}"
    );
    bench.route("100 as 110")?;
    bench.route("101 as 200/110")?;
    bench.route("210")?;
    bench.route("10.9.0.0/16 encap mpls 300")?;
    let packet = v4(64)?;
    let pairs = [
        (
            bench.labelled(&[Entry::new(100, 64).tc(5)], &packet),
            bench.out_labelled(&[Entry::new(110, 63).tc(5)], &packet),
        ),
        (
            bench.labelled(&[Entry::new(101, 64)], &packet),
            bench.out_labelled(&[Entry::new(200, 63), Entry::new(110, 63)], &packet),
        ),
        (
            bench.labelled(&[Entry::new(210, 64)], &packet),
            ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &with_ttl(&packet, 63)?),
        ),
        (
            bench.labelled(&[Entry::new(210, 64)], &v6(64)?),
            ethernet(bench.right.mac(), bench.port2, ETH_P_IPV6, &with_ttl(&v6(64)?, 63)?),
        ),
        (
            ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &packet),
            bench.out_labelled(&[Entry::new(300, 63)], &with_ttl(&packet, 63)?),
        ),
    ];
    for (sent, expected) in &pairs {
        bench.expect("a frame", sent, expected)?;
    }
    // The other way, and back out of the port where it arrived.
    let left = bench.left.mac();
    bench
        .router
        .run(&format!("route add 120 as 130 via link {left} dev eth1"))?;
    for (tap, port) in [(&bench.right, bench.port2), (&bench.left, bench.port1)] {
        tap.send(&labelled(port, tap.mac(), &[Entry::new(120, 9)], &packet))?;
        let expected = labelled(left, bench.port1, &[Entry::new(130, 8)], &packet);
        bench.left.receive("a frame to the left", |frame| frame == expected)?;
    }
    ensure!(bench.router.forwarded("120")? == 2, "counted otherwise");
    Ok(())
}

fn flood(bench: &Bench) -> Result<()> {
    // Within the capacity of the NICs' rings and the tap's buffer.
    const FRAMES: u32 = 5000;
    const AT_ONCE: u32 = 50;
    bench.route("100 as 110")?;
    let mut received = 0;
    for first in (0..FRAMES).step_by(AT_ONCE as usize) {
        for number in first..first + AT_ONCE {
            bench
                .left
                .send(&bench.labelled(&[Entry::new(100, 64)], &number.to_be_bytes()))?;
        }
        for number in first..first + AT_ONCE {
            let expected = bench.out_labelled(&[Entry::new(110, 63)], &number.to_be_bytes());
            let to_it = |frame: &[u8]| frame.starts_with(&bench.right.mac().0);
            let frame = bench.right.receive(&format!("frame {number}"), to_it)?;
            ensure!(frame.starts_with(&expected), "frame {number} is {frame:02x?}");
            received += 1;
        }
    }
    ensure!(bench.router.forwarded("100")? == received, "counted otherwise");
    Ok(())
}

fn answered(bench: &Bench) -> Result<()> {
    bench.route("100 as 110")?;
    let lsp = [Entry::new(110, 64).tc(6)];
    for (near, far) in [("10.0.1.2", "192.0.2.1"), ("fd00:1::2", "2001:db8::1")] {
        // By IP, through the kernel; and along the LSP, from the slow path.
        expect_answer(bench, &bench.left, near, &[Entry::new(100, 1)], &[])?;
        expect_answer(bench, &bench.right, far, &[Entry::new(100, 1)], &lsp)?;
    }
    Ok(())
}

/// The NIC filters them otherwise.
fn crossed(bench: &Bench) -> Result<()> {
    bench.router.run("route del 999")?;
    bench.router.run("xconnect add eth1 eth2")?;
    for (from, to) in [(&bench.left, &bench.right), (&bench.right, &bench.left)] {
        for (name, frame) in bystanders::all(to.mac(), from.mac()) {
            from.send(&frame)?;
            to.receive(name, |arrived| arrived == frame)?;
            let frame = tagged(&[(ETH_P_8021AD, 100), (ETH_P_8021Q, 200)], &frame);
            from.send(&frame)?;
            to.receive(&format!("{name}, with tags"), |arrived| arrived == frame)?;
        }
    }
    Ok(())
}

fn untouched(bench: &Bench) -> Result<()> {
    // Imposition is on, and must not touch these.
    bench.route("10.9.0.0/16 encap mpls 300")?;
    let port = Tap::open(bench.router.netns(), "eth1")?;
    for (name, frame) in bystanders::all(bench.port1, bench.left.mac()) {
        bench.left.send(&frame)?;
        port.receive(name, |arrived| arrived == frame)?;
    }
    // The other way: packets that the router itself sends.
    bench.router.netns().run("ping -c 1 -W 5 10.0.1.2")?;
    bench.router.netns().run("ping -c 1 -W 5 fd00:1::2")?;
    let stats: Stats = bench.router.json("stats")?;
    ensure!(
        stats.reasons.is_empty() && stats.forwarded.packets == 0,
        "counted: {stats:?}"
    );
    Ok(())
}

//! Labels that are left to the kernel, on kernels that have MPLS: the kernel forwards them by its own routes, and XDP
//! forwards those that it has routes for.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_common::wire::ETH_P_IP;
use mplsxdp_tests::frame::{Entry, ethernet, udp, with_ttl};
use mplsxdp_tests::needs::Need;

use crate::bench::{Bench, NATIVE, RIGHT};
use crate::kernel_sync::accept_labels;
use crate::{test_with, test_with_all};

const MPLS: Need = Need::Mpls;
const VRF: Need = Need::LinkKind("vrf", "vrf");

pub fn tests() -> Vec<Trial> {
    vec![
        test_with(
            "kernel_mpls::pass_routes_are_the_kernels",
            Some(MPLS),
            pass_routes_are_the_kernels,
        ),
        test_with(
            "kernel_mpls::dev_lo_pass_switches_labels_and_passes_packets",
            Some(MPLS),
            dev_lo_pass,
        ),
        test_with_all(
            "kernel_mpls::a_delivery_to_a_vrf_passes",
            &[MPLS, VRF],
            a_delivery_to_a_vrf_passes,
        ),
    ]
}

/// The kernel of the router accepts labels on the left, and knows the neighbour on the right.
fn bench() -> Result<Bench> {
    let bench = Bench::new(&format!("{NATIVE} --ttl-propagate linux"))?;
    let netns = bench.router.netns();
    accept_labels(netns)?;
    netns.ip(&format!("neigh replace 10.0.2.2 lladdr {RIGHT} dev eth2"))?;
    netns.ip("route add 198.51.100.0/24 via 10.0.2.2")?;
    Ok(bench)
}

fn packet(ttl: u8) -> Result<Vec<u8>> {
    let (source, destination) = (Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(198, 51, 100, 1));
    udp(source.into(), IpAddr::from(destination), ttl, b"whose?")
}

/// Sends a frame from the left, which must reach the right in this form.
fn expect(bench: &Bench, sent: &[u8], expected: &[u8]) -> Result<()> {
    bench.left.send(sent)?;
    bench
        .right
        .receive(&format!("{expected:02x?}"), |frame| frame == expected)?;
    Ok(())
}

/// The packets that a label's route has counted.
fn counted(bench: &Bench, label: u32) -> Result<u64> {
    bench.router.forwarded(&label.to_string())
}

fn pass_routes_are_the_kernels() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    netns.ip("-M route add 100 as 200/201 via inet 10.0.2.2 dev eth2")?;
    netns.ip("-M route add 101 via inet 10.0.2.2 dev eth2")?;
    bench.router.run("route add 100 pass # as a test wants it")?;
    bench.router.run("route add 101 pass")?;
    let packet = packet(64)?;
    expect(
        &bench,
        &bench.labelled(&[Entry::new(100, 64)], &packet),
        &bench.out_labelled(&[Entry::new(200, 63), Entry::new(201, 63)], &packet),
    )?;
    expect(
        &bench,
        &bench.labelled(&[Entry::new(101, 64), Entry::new(17, 9).tc(3)], &packet),
        &bench.out_labelled(&[Entry::new(17, 9).tc(3)], &packet),
    )?;
    let (counted, passed) = (counted(&bench, 100)?, bench.router.dropped("pass-route")?);
    ensure!((counted, passed) == (1, 2), "counted {counted}, {passed} at the port");

    // XDP takes over, and hands back.
    bench
        .router
        .run(&format!("route replace 100 as 300 via link {RIGHT} dev eth2"))?;
    let by_xdp = bench.out_labelled(&[Entry::new(300, 63)], &packet);
    expect(&bench, &bench.labelled(&[Entry::new(100, 64)], &packet), &by_xdp)?;
    bench.router.run("route replace 100 pass")?;
    expect(
        &bench,
        &bench.labelled(&[Entry::new(100, 9)], &packet),
        &bench.out_labelled(&[Entry::new(200, 8), Entry::new(201, 8)], &packet),
    )
}

fn dev_lo_pass() -> Result<()> {
    let bench = bench()?;
    bench.router.netns().ip("-M route add 101 dev lo")?;
    bench.router.run("route add 101 dev lo pass")?;
    bench.route("102 as 300")?;
    let packet = packet(64)?;
    expect(
        &bench,
        &bench.labelled(&[Entry::new(101, 64), Entry::new(102, 20).tc(3)], &packet),
        &bench.out_labelled(&[Entry::new(300, 19).tc(3)], &packet),
    )?;
    ensure!(
        bench.router.dropped("pass-route")? == 0,
        "the kernel got a label that XDP has"
    );
    // The kernel pops with the label's TTL minus 1, and routes the packet.
    expect(
        &bench,
        &bench.labelled(&[Entry::new(101, 40)], &packet),
        &ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &with_ttl(&packet, 38)?),
    )?;
    ensure!(bench.router.dropped("pass-route")? == 1, "not counted");
    ensure!(counted(&bench, 101)? == 2, "not counted for the route");
    Ok(())
}

/// The default table has no route for the packet, the VRF's table has one. The kernel routes the popped packet there
/// without another hop.
fn a_delivery_to_a_vrf_passes() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    netns.add_vrf("red", 10)?;
    netns.ip("route del 198.51.100.0/24")?;
    netns.ip("route add 198.51.100.0/24 via 10.0.2.2 dev eth2 table 10")?;
    netns.ip("-M route add 103 dev red")?;
    bench.router.run("route add 103 pass # delivery to VRF red")?;
    let packet = packet(64)?;
    expect(
        &bench,
        &bench.labelled(&[Entry::new(103, 40)], &packet),
        &ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &with_ttl(&packet, 39)?),
    )?;
    let shown = bench.router.run("route show 103")?;
    ensure!(
        shown.contains("103 pass") && shown.contains("# delivery to VRF red"),
        "{shown}"
    );
    Ok(())
}

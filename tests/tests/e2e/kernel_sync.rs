//! `load --sync kernel` on kernels that have MPLS: all that the kernel's tables can hold, and all ways in which that
//! changes. What XDP forwards, the kernel must not have seen; what XDP leaves to the kernel, the kernel must forward.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{SyncCheck, SyncSource, SyncState};
use mplsxdp::route::{Protocol, Via};
use mplsxdp::rtnl::{self, Destination, Labels, Message, Path, Position, Route, To};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, Label};
use mplsxdp_tests::frame::{Entry, ethernet, udp, udp_of_ports, with_ttl};
use mplsxdp_tests::icmp::{FRAGMENTATION_NEEDED_V4, IcmpError};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::zebra::{Zebra, lsp, swap};
use mplsxdp_tests::{Netns, netlink, wait};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::route::{MplsLabel, RouteMessage, RouteNextHop, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::signal::Signal;
use rtnetlink::{RouteMessageBuilder, RouteNextHopBuilder};

use crate::bench::{Bench, NATIVE, RIGHT};
use crate::{test_with, test_with_all};

const MPLS: Need = Need::Mpls;
const VRF: Need = Need::LinkKind("vrf", "vrf");
/// Of a guest that has no KVM.
const PATIENCE: Duration = Duration::from_secs(30);
const VIA: &str = "via inet 10.0.2.2 dev eth2";
const VIA6: &str = "via inet6 fd00:2::2 dev eth2";

pub fn tests() -> Vec<Trial> {
    let test = |name: &str, test: fn() -> Result<()>| test_with(&format!("kernel_sync::{name}"), Some(MPLS), test);
    let with_vrf =
        |name: &str, test: fn() -> Result<()>| test_with_all(&format!("kernel_sync::{name}"), &[MPLS, VRF], test);
    vec![
        test("label_routes_of_every_form", label_routes),
        with_vrf("what_xdp_cannot_do_passes", passes),
        with_vrf("labels_of_a_vrf_are_routed_in_it", vrf_labels),
        test("several_paths_of_a_label", several_paths),
        test("prefixes_inline_and_by_nexthop_objects", prefixes),
        test("objects_and_devices_that_go_without_a_word", silences),
        test("labels_are_accepted_where_the_kernel_accepts_them", inputs),
        with_vrf("prefixes_of_vrfs_and_numbered_tables", tables),
        test("more_messages_than_the_kernel_keeps", overrun),
        test("an_audit_finds_what_a_second_writer_changed", audit),
        test("labels_that_only_zebra_or_only_the_kernel_has", unmatched),
        test("ttls_as_the_kernels_settings_say", ttls),
        test("routes_as_holo_writes_them", holo),
    ]
}

/// The kernel accepts labels on the left, and forwards packets.
pub fn accept_labels(netns: &Netns) -> Result<()> {
    // The second one is needed for `encap mpls`. Where they are a part of the kernel, there is nothing to load.
    let _ = Command::new("modprobe")
        .args(["-a", "mpls_router", "mpls_iptunnel"])
        .output();
    for (key, value) in [
        ("mpls/platform_labels", "100000"),
        ("mpls/conf/eth1/input", "1"),
        ("mpls/conf/lo/input", "1"),
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
    ] {
        netns.sysctl(key, value)?;
    }
    Ok(())
}

/// `eth3`, which is not a port, with addresses of its own.
fn add_other_interface(netns: &Netns) -> Result<()> {
    netns.ip("link add eth3 type veth peer name eth3-peer")?;
    netns.ip("address add 10.0.3.1/24 dev eth3")?;
    netns.ip("link set eth3 up").map(drop)
}

/// The kernel has MPLS before `mplsxdp` is loaded, accepts labels on the left, and knows its neighbours on the right.
fn bench(options: &str) -> Result<Bench> {
    bench_with(options, &[])
}

/// The same with these settings before the load.
fn bench_with(options: &str, settings: &[(&str, &str)]) -> Result<Bench> {
    let bench = Bench::cabled(&format!("{NATIVE} {options}"), 1500, 1500, |cable, left, right| {
        let netns = right.netns().clone();
        mplsxdp_tests::link(left, right)?;
        if cable == 0 {
            accept_labels(&netns)?;
            settings.iter().try_for_each(|(key, value)| netns.sysctl(key, value))?;
        }
        Ok(())
    })?;
    know_neighbours(bench.router.netns())?;
    Ok(bench)
}

fn know_neighbours(netns: &Netns) -> Result<()> {
    for address in ["10.0.2.2", "10.0.2.3", "fd00:2::2", "fd00:2::3"] {
        netns.ip(&format!(
            "neigh replace {address} lladdr {RIGHT} dev eth2 nud permanent"
        ))?;
    }
    Ok(())
}

/// The routes that came from the kernel, each on one line, without what all of them have.
fn shown(bench: &Bench) -> Result<String> {
    let shown = bench.router.run("route --owner kernel show")?;
    Ok([("\n\t", " "), (" owner kernel", ""), (" weight 1", ""), ("  #", " #")]
        .iter()
        .fold(shown, |shown, (from, to)| shown.replace(from, to)))
}

/// Waits until these, in any order, are the routes that came from the kernel.
fn wait_for(bench: &Bench, routes: &[&str]) -> Result<()> {
    let wanted: BTreeSet<&str> = routes.iter().copied().collect();
    let mut last = String::new();
    wait::until("the kernel's routes", PATIENCE, || {
        last = shown(bench)?;
        Ok((last.lines().collect::<BTreeSet<_>>() == wanted).then_some(()))
    })
    .with_context(|| format!("expected {wanted:#?}, there are\n{last}"))?;
    bench.router.wait_resolved()
}

/// Labelled packets that the kernel of the router has received on the left.
fn kernel_received(bench: &Bench) -> Result<u64> {
    let netns = bench.router.netns();
    let shown = netns.ip("-j stats show dev eth1 group afstats subgroup mpls")?;
    let read: serde_json::Value = serde_json::from_str(&shown)?;
    let count = read[0]["mpls_stats"]["rx"]["packets"].as_u64();
    count.with_context(|| format!("no counters: {shown}"))
}

/// XDP forwards this by the route of `key`, and the kernel sees nothing of it.
fn by_xdp(bench: &Bench, key: &str, sent: &[u8], expected: &[u8]) -> Result<()> {
    let counts = || Ok::<_, anyhow::Error>((bench.router.forwarded(key)?, kernel_received(bench)?));
    let (counted, kernels) = counts()?;
    bench.expect(key, sent, expected)?;
    let after = counts()?;
    ensure!(
        after == (counted + 1, kernels),
        "{key}: XDP and the kernel have counted {after:?}, and {:?} before",
        (counted, kernels)
    );
    Ok(())
}

/// The kernel forwards this: it has a route that XDP leaves to it.
fn by_kernel(bench: &Bench, sent: &[u8], expected: &[u8]) -> Result<()> {
    let counts = || Ok::<_, anyhow::Error>((bench.router.dropped("pass-route")?, kernel_received(bench)?));
    let (passed, kernels) = counts()?;
    bench.left.send(sent)?;
    bench
        .right
        .receive(&format!("{expected:02x?}"), |frame| frame == expected)?;
    let after = counts()?;
    ensure!(
        after == (passed + 1, kernels + 1),
        "XDP has passed and the kernel received {after:?}, and {:?} before",
        (passed, kernels)
    );
    Ok(())
}

fn packet(ttl: u8) -> Result<Vec<u8>> {
    let (source, destination) = (Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(198, 51, 100, 1));
    udp(source.into(), IpAddr::from(destination), ttl, b"whose?")
}

/// XDP swaps a label for others.
fn swapped(bench: &Bench, label: u32, to: &[u32]) -> Result<()> {
    let packet = packet(64)?;
    let stack: Vec<Entry> = to.iter().map(|&label| Entry::new(label, 63)).collect();
    let sent = bench.labelled(&[Entry::new(label, 64)], &packet);
    by_xdp(bench, &label.to_string(), &sent, &bench.out_labelled(&stack, &packet))
}

/// Packets to this address get these labels by XDP, with this TTL: the route of `key`.
fn imposed(bench: &Bench, key: &str, destination: &str, labels: &[u32], ttl: u8) -> Result<()> {
    let destination: IpAddr = destination.parse()?;
    let (source, ethertype): (IpAddr, _) = match destination {
        IpAddr::V4(_) => ("192.0.2.1".parse()?, ETH_P_IP),
        IpAddr::V6(_) => ("2001:db8::1".parse()?, ETH_P_IPV6),
    };
    let packet = |ttl| udp(source, destination, ttl, b"mine");
    let sent = ethernet(bench.port1, bench.left.mac(), ethertype, &packet(64)?);
    let stack: Vec<Entry> = labels.iter().map(|&label| Entry::new(label, ttl)).collect();
    by_xdp(bench, key, &sent, &bench.out_labelled(&stack, &packet(63)?))
}

fn label_routes() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    let deepest = "21/22/23/24/25/26/27/28/29/30/31/32/33/34/35/36";
    for route in [
        &format!("100 as 200 {VIA}"),
        &format!("101 as 201/202/203 {VIA6}"),
        &format!("102 {VIA} proto ospf"),
        &format!("103 as 0 via link {RIGHT} dev eth2"),
        &format!("104 {VIA} ttl-propagate disabled"),
        &format!("105 as 205 {VIA} ttl-propagate disabled"),
        "106 dev lo",
        &format!("107 as {deepest} {VIA6}"),
    ] {
        netns.ip(&format!("-M route add {route}"))?;
    }
    wait_for(
        &bench,
        &[
            &format!("100 as to 200 {VIA} proto boot"),
            &format!("101 as to 201/202/203 {VIA6} proto boot"),
            &format!("102 as implicit-null {VIA} proto ospf"),
            &format!("103 as to 0 via link {RIGHT} dev eth2 proto boot"),
            &format!("104 {VIA} ttl-propagate disabled proto boot"),
            &format!("105 as to 205 {VIA} proto boot"),
            "106 dev lo pass proto boot",
            &format!("107 as to {deepest} {VIA6} proto boot"),
        ],
    )?;
    let sent = |stack: &[Entry]| Ok::<_, anyhow::Error>(bench.labelled(stack, &packet(64)?));
    let out = |stack: &[Entry]| Ok::<_, anyhow::Error>(bench.out_labelled(stack, &packet(64)?));
    let popped = |ttl| Ok::<_, anyhow::Error>(ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &packet(ttl)?));
    swapped(&bench, 100, &[200])?;
    swapped(&bench, 101, &[201, 202, 203])?;
    swapped(&bench, 105, &[205])?;
    swapped(&bench, 107, &(21..=36).collect::<Vec<_>>())?;
    // Popped: what is beneath a label keeps its TTL, a packet gets the label's unless the route forbids it.
    let inner = Entry::new(17, 9).tc(3);
    by_xdp(&bench, "102", &sent(&[Entry::new(102, 40), inner])?, &out(&[inner])?)?;
    by_xdp(&bench, "102", &sent(&[Entry::new(102, 40)])?, &popped(39)?)?;
    by_xdp(&bench, "104", &sent(&[Entry::new(104, 40)])?, &popped(63)?)?;
    by_xdp(
        &bench,
        "103",
        &sent(&[Entry::new(103, 40)])?,
        &out(&[Entry::new(0, 39)])?,
    )?;
    // Looked up again.
    by_xdp(
        &bench,
        "100",
        &sent(&[Entry::new(106, 40), Entry::new(100, 30)])?,
        &out(&[Entry::new(200, 29)])?,
    )?;

    // Replaced, then deleted one by one, and the rest all at once without a request for each.
    netns.ip(&format!("-M route replace 100 as 210/211 {VIA6}"))?;
    netns.ip("-M route del 101")?;
    for label in [103, 104, 105, 106, 107] {
        netns.ip(&format!("-M route del {label}"))?;
    }
    let left = [
        &*format!("100 as to 210/211 {VIA6} proto boot"),
        &format!("102 as implicit-null {VIA} proto ospf"),
    ];
    wait_for(&bench, &left)?;
    swapped(&bench, 100, &[210, 211])?;
    netns.sysctl("mpls/platform_labels", "0")?;
    wait_for(&bench, &[])?;
    // Nobody has a route now. XDP passes, and the kernel drops.
    let before = bench.router.dropped("no-route")?;
    let forwarded = bench.forward(&sent(&[Entry::new(100, 64)])?)?;
    ensure!(forwarded.is_empty(), "still forwarded: {forwarded:02x?}");
    ensure!(bench.router.dropped("no-route")? == before + 1, "not counted");
    netns.sysctl("mpls/platform_labels", "1000")?;
    netns.ip(&format!("-M route add 100 as 200 {VIA}"))?;
    wait_for(&bench, &[&format!("100 as to 200 {VIA} proto boot")])?;
    swapped(&bench, 100, &[200])?;
    bench.router.unload()
}

/// A label route with more labels than `ip` writes.
fn deep(label: u32, depth: u32, ifindex: u32) -> Result<Vec<u8>> {
    let to_label = |value| Label::new(value).with_context(|| format!("label {value}"));
    let stack: Result<_> = (0..depth).map(|index| to_label(500 + index)).collect();
    let path = Path {
        ifindex,
        via: Some(Via::Inet([10, 0, 2, 2].into())),
        labels: Labels::Out(stack?),
        weight: 1,
    };
    let message = Message::route(
        Route {
            destination: Destination::Label(to_label(label)?),
            protocol: Protocol(193),
            unicast: true,
            to: To::Paths([path].into_iter().collect()),
            ttl_propagate: None,
        },
        Position::Replaces,
    );
    let mut bytes = Vec::new();
    rtnl::encode(&message, &mut bytes);
    Ok(bytes)
}

fn ifindex(netns: &Netns, name: &str) -> Result<u32> {
    let shown = netns.ip(&format!("-oneline link show dev {name}"))?;
    let number = shown.split(':').next().and_then(|number| number.parse().ok());
    number.with_context(|| format!("{name} has no number"))
}

fn passes() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    netns.add_vrf("red", 10)?;
    netns.ip("route add 198.51.100.0/24 via 10.0.2.2 dev eth2 table 10")?;
    add_other_interface(netns)?;
    netns.ip("link set eth3-peer up")?;
    netlink::request(netns, &deep(100, 30, ifindex(netns, "eth2")?)?)?;
    netns.ip("-M route add 101 dev red")?;
    netns.ip("-M route add 102 as 302 via inet 10.0.3.2 dev eth3")?;
    netns.ip(&format!(
        "-M route add 103 ttl-propagate disabled nexthop as 303 {VIA} nexthop via inet 10.0.2.3 dev eth2"
    ))?;
    wait_for(
        &bench,
        &[
            "100 pass proto ldp # 30 labels to push; at most 16 are supported",
            "101 vrf red pass proto boot # no port is in VRF red",
            "102 pass proto boot # eth3 is not a port",
            "103 pass proto boot # ttl-propagate of paths that pop and paths that swap",
        ],
    )?;
    let packet = packet(64)?;
    let stack: Vec<Entry> = (0..30).map(|index| Entry::new(500 + index, 63)).collect();
    by_kernel(
        &bench,
        &bench.labelled(&[Entry::new(100, 64)], &packet),
        &bench.out_labelled(&stack, &packet),
    )?;
    by_kernel(
        &bench,
        &bench.labelled(&[Entry::new(101, 40)], &packet),
        &ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &with_ttl(&packet, 39)?),
    )?;
    // It is XDP's once the interface is a port, and the kernel's again when it is none.
    bench.router.run("link add eth3")?;
    let shown = || bench.router.run("route show 102");
    let until = |text: &str| wait::until(text, PATIENCE, || Ok(shown()?.contains(text).then_some(())));
    until("102 as to 302 via inet 10.0.3.2 dev eth3")?;
    bench.router.run("link del eth3")?;
    until("102 pass proto boot owner kernel  # eth3 is not a port")?;
    // The route goes with the device.
    netns.ip("link del eth3")?;
    wait::until("no route 102", PATIENCE, || {
        Ok((!bench.router.run("route --owner kernel show")?.contains("102 pass")).then_some(()))
    })?;
    bench.router.unload()
}

/// A label of a VRF: XDP pops it and sends the packet as the VRF routes it, once a port is in the VRF and the neighbour is
/// resolved. What only the kernel can handle is left to it.
fn vrf_labels() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    netns.add_vrf("red", 10)?;
    netns.ip("addr add 10.9.9.9/32 dev red")?;
    netns.ip("-M route add 101 dev red")?;
    wait_for(&bench, &["101 vrf red pass proto boot # no port is in VRF red"])?;
    netns.ip("link set eth2 master red")?;
    netns.ip("-6 addr replace fd00:2::1/64 dev eth2 nodad")?;
    netns.ip("route add 198.51.100.0/24 via 10.0.2.2 vrf red")?;
    netns.ip("route add 10.0.1.0/24 via 10.0.2.2 vrf red")?;
    netns.ip("-6 route add 2001:db8:9::/48 via fd00:2::2 vrf red")?;
    wait_for(&bench, &["101 vrf red pass proto boot"])?;
    let label = |ttl| [Entry::new(101, ttl)];
    let sent = bench.labelled(&label(40), &packet(64)?);
    let expected = ethernet(bench.right.mac(), bench.port2, ETH_P_IP, &with_ttl(&packet(64)?, 39)?);
    // The neighbour is not resolved: the packet waits in the kernel.
    let passed = || bench.router.dropped("pass-route");
    let before = passed()?;
    bench.left.send(&sent)?;
    wait::until("a frame that passes", PATIENCE, || {
        Ok((passed()? > before).then_some(()))
    })?;
    know_neighbours(netns)?;
    bench
        .right
        .receive("the packet that waited", |frame| frame == expected)?;
    // The kernel does not see that XDP uses it, and verifies it none the less.
    netns.ip(&format!("neigh replace 10.0.2.2 lladdr {RIGHT} dev eth2 nud stale"))?;
    wait::until("verification of the neighbour", PATIENCE, || {
        Ok((!netns.ip("neigh show 10.0.2.2")?.contains("STALE")).then_some(()))
    })?;
    know_neighbours(netns)?;
    let before = (passed()?, bench.router.dropped("vrf")?);
    for _ in 0..3 {
        by_xdp(&bench, "101", &sent, &expected)?;
    }
    let six = |ttl| udp("2001:db8:8::1".parse()?, "2001:db8:9::1".parse()?, ttl, b"whose?");
    by_xdp(
        &bench,
        "101",
        &bench.labelled(&label(40), &six(64)?),
        &ethernet(bench.right.mac(), bench.port2, ETH_P_IPV6, &six(39)?),
    )?;
    ensure!(
        (passed()?, bench.router.dropped("vrf")?) == (before.0, before.1 + 4),
        "{before:?}"
    );
    // An address of the VRF, an expired label, and a packet that does not fit: the kernel answers that.
    let local = udp("10.0.1.2".parse()?, "10.9.9.9".parse()?, 64, b"who?")?;
    let large = udp("10.0.1.2".parse()?, "198.51.100.1".parse()?, 64, &[7; 1400])?;
    netns.ip("link set eth2 mtu 1400")?;
    let frames = [
        bench.labelled(&label(40), &local),
        bench.labelled(&label(1), &packet(64)?),
        bench.labelled(&label(40), &large),
    ];
    for (number, frame) in (1..).zip(&frames) {
        let before = (passed()?, kernel_received(&bench)?);
        bench.left.send(frame)?;
        wait::until("a frame that passes", PATIENCE, || {
            let now = (passed()?, kernel_received(&bench)?);
            Ok((now == (before.0 + 1, before.1 + 1)).then_some(()))
        })
        .with_context(|| format!("frame {number}"))?;
    }
    let about = |frame: &[u8]| {
        IcmpError::read(frame)?
            .ok()
            .filter(|error| error.kind == FRAGMENTATION_NEEDED_V4)
    };
    bench
        .right
        .receive("Fragmentation Needed", |frame| about(frame).is_some())?;
    netns.ip("link set eth2 mtu 1500")?;
    // It follows the VRF device, and the port that leaves.
    netns.ip("link set red down")?;
    netns.ip("link set red name purple")?;
    netns.ip("link set purple up")?;
    wait_for(&bench, &["101 vrf purple pass proto boot"])?;
    netns.ip("link set eth2 nomaster")?;
    wait_for(&bench, &["101 vrf purple pass proto boot # no port is in VRF purple"])?;
    bench.router.unload()
}

/// The labels under which packets of many flows leave.
fn out_labels(bench: &Bench, label: u32) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for port in 1000..1032 {
        let packet = udp_of_ports("192.0.2.1".parse()?, "198.51.100.1".parse()?, [port, 7], 64, b"flow")?;
        let forwarded = bench.forward(&bench.labelled(&[Entry::new(label, 64)], &packet))?;
        let [frame] = &forwarded[..] else {
            anyhow::bail!("flow {port}: {forwarded:02x?}")
        };
        let entry = frame
            .get(14..18)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes);
        let out = entry.context("a frame without a label")? >> 12;
        ensure!(
            *frame == bench.out_labelled(&[Entry::new(out, 63)], &packet),
            "{frame:02x?}"
        );
        found.insert(out);
    }
    Ok(found)
}

fn several_paths() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    netns.ip("neigh replace 10.0.1.2 lladdr 02:00:00:00:01:02 dev eth1 nud permanent")?;
    netns.ip(&format!(
        "-M route add 100 nexthop as 200 {VIA} nexthop as 201 via inet 10.0.2.3 dev eth2 nexthop as 202 {VIA6}"
    ))?;
    wait_for(
        &bench,
        &[&format!(
            "100 proto boot nexthop as to 200 {VIA} nexthop as to 201 via inet 10.0.2.3 dev eth2 nexthop as to 202 {VIA6}"
        )],
    )?;
    let before = kernel_received(&bench)?;
    let labels = out_labels(&bench, 100)?;
    ensure!(labels == BTreeSet::from([200, 201, 202]), "{labels:?}");
    ensure!(kernel_received(&bench)? == before, "the kernel has seen frames");
    netns.ip(&format!(
        "-M route replace 100 nexthop as 210 {VIA} nexthop as 211 via inet 10.0.1.2 dev eth1"
    ))?;
    let both = format!("100 proto boot nexthop as to 210 {VIA} nexthop as to 211 via inet 10.0.1.2 dev eth1");
    wait_for(&bench, &[&both])?;

    // The kernel sends no route message when a link loses its carrier: everything leaves by the other.
    bench.right_netns.ip("link set eth0 down")?;
    wait::until("eth2 is down", PATIENCE, || {
        Ok(netns.ip("link show dev eth2")?.contains("NO-CARRIER").then_some(()))
    })?;
    let packet = packet(64)?;
    let sent = bench.labelled(&[Entry::new(100, 64)], &packet);
    let other = mplsxdp_tests::frame::labelled(bench.left.mac(), bench.port1, &[Entry::new(211, 63)], &packet);
    let link_is_down = |down: bool| {
        wait::until(&format!("link down: {down}"), PATIENCE, || {
            let next_hops = bench.router.run("neigh show")?;
            Ok((next_hops.contains("linkdown") == down).then_some(()))
        })
    };
    link_is_down(true)?;
    for _ in 0..8 {
        bench.left.send(&sent)?;
        bench.left.receive("label 211", |frame| frame == other)?;
    }
    let left = shown(&bench)?;
    ensure!(left.contains("210") && left.contains("211"), "{left}");
    bench.right_netns.ip("link set eth0 up")?;
    link_is_down(false)?;
    wait_for(&bench, &[&both])?;
    bench.router.unload()
}

fn prefixes() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    for command in [
        "route add 10.4.1.0/24 encap mpls 301 via 10.0.2.2 dev eth2",
        "route add 10.4.2.0/24 encap mpls 302/312 ttl 9 via inet6 fd00:2::2 dev eth2",
        "-6 route add 2001:db8:4::/48 encap mpls 303 via fd00:2::2 dev eth2 metric 5",
        "nexthop add id 1 encap mpls 304 via 10.0.2.2 dev eth2",
        "nexthop add id 2 encap mpls 305 via 10.0.2.3 dev eth2",
        "nexthop add id 3 group 1,3/2,1",
        "nexthop add id 4 encap mpls 306 via fd00:2::2 dev eth2",
        "nexthop add id 5 encap mpls 307 via fd00:2::3 dev eth2",
        "nexthop add id 6 group 4/5",
        "route add 10.4.3.0/24 nhid 1",
        "route add 10.4.4.0/24 nhid 3",
        "-6 route add 2001:db8:5::/48 nhid 4",
        "-6 route add 2001:db8:6::/48 nhid 6",
        "route add 10.4.5.0/24 nexthop encap mpls 308 via 10.0.2.2 dev eth2 weight 2 nexthop encap mpls 309 via 10.0.2.3 dev eth2",
        // Without labels they are the kernel's, whatever is around them.
        "route add 10.4.1.128/25 via 10.0.2.2 dev eth2",
    ] {
        netns.ip(command)?;
    }
    let by_1 = |label: u32| format!("10.4.3.0/24 encap mpls {label} {VIA} table main proto boot");
    let by_3 = |label: u32| {
        format!(
            "10.4.4.0/24 table main proto boot nexthop encap mpls {label} {VIA} weight 3 \
             nexthop encap mpls 305 via inet 10.0.2.3 dev eth2"
        )
    };
    let inline = [
        format!("10.4.1.0/24 encap mpls 301 {VIA} table main proto boot"),
        format!("10.4.2.0/24 encap mpls 302/312 ttl 9 {VIA6} table main proto boot"),
        format!(
            "10.4.5.0/24 table main proto boot nexthop encap mpls 308 {VIA} weight 2 \
             nexthop encap mpls 309 via inet 10.0.2.3 dev eth2"
        ),
    ];
    let inline_6 = format!("2001:db8:4::/48 encap mpls 303 {VIA6} table main proto boot metric 5");
    let by_4 = format!("2001:db8:5::/48 encap mpls 306 {VIA6} table main proto boot metric 1024");
    let by_6 = format!(
        "2001:db8:6::/48 table main proto boot metric 1024 nexthop encap mpls 306 {VIA6} \
         nexthop encap mpls 307 via inet6 fd00:2::3 dev eth2"
    );
    let routes = |label: u32| -> Vec<String> {
        let of_objects = [by_1(label), by_3(label), by_4.clone(), by_6.clone(), inline_6.clone()];
        inline.iter().cloned().chain(of_objects).collect()
    };
    let wait_for_all = |routes: &[String]| wait_for(&bench, &routes.iter().map(String::as_str).collect::<Vec<_>>());
    wait_for_all(&routes(304))?;
    imposed(&bench, "10.4.1.0/24", "10.4.1.1", &[301], 63)?;
    imposed(&bench, "10.4.2.0/24", "10.4.2.1", &[302, 312], 9)?;
    imposed(&bench, "10.4.3.0/24", "10.4.3.1", &[304], 63)?;
    imposed(&bench, "2001:db8:4::/48", "2001:db8:4::1", &[303], 63)?;
    imposed(&bench, "2001:db8:5::/48", "2001:db8:5::1", &[306], 63)?;

    // One message changes all routes that use the object, and another one the group of them.
    netns.ip("nexthop replace id 1 encap mpls 299 via 10.0.2.2 dev eth2")?;
    wait_for_all(&routes(299))?;
    imposed(&bench, "10.4.3.0/24", "10.4.3.1", &[299], 63)?;
    netns.ip("nexthop replace id 6 group 5")?;
    let mut changed = routes(299);
    changed.retain(|route| *route != by_6);
    changed
        .push("2001:db8:6::/48 encap mpls 307 via inet6 fd00:2::3 dev eth2 table main proto boot metric 1024".into());
    wait_for_all(&changed)?;
    imposed(&bench, "2001:db8:6::/48", "2001:db8:6::1", &[307], 63)?;
    // Its routes go with the object, without a message for each of IPv4.
    netns.ip("nexthop del id 1")?;
    let without = |changed: &mut Vec<String>, gone: &str| changed.retain(|route| !route.starts_with(gone));
    without(&mut changed, "10.4.3.0/24");
    without(&mut changed, "10.4.4.0/24");
    changed.push("10.4.4.0/24 encap mpls 305 via inet 10.0.2.3 dev eth2 table main proto boot".into());
    wait_for_all(&changed)?;
    imposed(&bench, "10.4.4.0/24", "10.4.4.1", &[305], 63)?;
    // Of several routes for a prefix the one with the lowest metric counts.
    netns.ip("route add 10.4.1.0/24 encap mpls 321 via 10.0.2.2 dev eth2 metric 10")?;
    netns.ip("route del 10.4.1.0/24 metric 0")?;
    without(&mut changed, "10.4.1.0/24");
    changed.push(format!(
        "10.4.1.0/24 encap mpls 321 {VIA} table main proto boot metric 10"
    ));
    wait_for_all(&changed)?;
    // Without labels it is the kernel's.
    netns.ip("route replace 10.4.2.0/24 via 10.0.2.2 dev eth2")?;
    without(&mut changed, "10.4.2.0/24");
    wait_for_all(&changed)?;
    for route in ["10.4.1.0/24", "10.4.4.0/24", "10.4.5.0/24"] {
        netns.ip(&format!("route del {route}"))?;
    }
    for route in ["2001:db8:4::/48", "2001:db8:5::/48", "2001:db8:6::/48"] {
        netns.ip(&format!("-6 route del {route}"))?;
    }
    wait_for(&bench, &[])?;
    bench.router.unload()
}

/// The kernel reports neither the IPv4 routes nor the objects that go when an interface goes down.
fn silences() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    let add = || {
        for command in [
            "nexthop replace id 1 encap mpls 301 via 10.0.2.2 dev eth2",
            "route replace 10.4.1.0/24 nhid 1",
            "route replace 10.4.2.0/24 encap mpls 302 via 10.0.2.2 dev eth2",
            "-M route replace 100 as 200 via inet 10.0.2.2 dev eth2",
        ] {
            netns.ip(command)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let label = format!("100 as to 200 {VIA} proto boot");
    let prefixes = [
        format!("10.4.1.0/24 encap mpls 301 {VIA} table main proto boot"),
        format!("10.4.2.0/24 encap mpls 302 {VIA} table main proto boot"),
    ];
    let all = [&*label, &prefixes[0], &prefixes[1]];
    add()?;
    wait_for(&bench, &all)?;
    imposed(&bench, "10.4.1.0/24", "10.4.1.1", &[301], 63)?;
    netns.ip("link set eth2 down")?;
    netns.ip("link set eth2 up")?;
    netns.ip("-6 address replace fd00:2::1/64 dev eth2 nodad")?;
    // The kernel asks for the neighbour, which does not answer, and whose address is then given.
    wait::until("a failed neighbour", PATIENCE, || {
        Ok(bench.router.run("neigh show")?.contains("failed").then_some(()))
    })?;
    know_neighbours(netns)?;
    ensure!(
        netns.ip("route show 10.4.0.0/16")?.is_empty(),
        "the kernel keeps IPv4 routes"
    );
    ensure!(netns.ip("nexthop show")?.is_empty(), "the kernel keeps objects");
    wait_for(&bench, &[&label])?;
    swapped(&bench, 100, &[200])?;
    add()?;
    wait_for(&bench, &all)?;
    imposed(&bench, "10.4.1.0/24", "10.4.1.1", &[301], 63)?;
    imposed(&bench, "10.4.2.0/24", "10.4.2.1", &[302], 63)?;
    swapped(&bench, 100, &[200])?;
    // Of several next hops those go whose device goes; a route with one goes with it.
    add_other_interface(netns)?;
    netns.ip(&format!(
        "-M route add 101 nexthop as 201 {VIA} nexthop as 202 via inet 10.0.3.2 dev eth3"
    ))?;
    netns.ip("-M route add 102 as 202 via inet 10.0.3.2 dev eth3")?;
    let passing = [
        "101 pass proto boot # eth3 is not a port",
        "102 pass proto boot # eth3 is not a port",
    ];
    wait_for(&bench, &[&all[..], &passing].concat())?;
    netns.ip("link del eth3")?;
    let left = format!("101 as to 201 {VIA} proto boot");
    wait_for(&bench, &[&all[..], &[&*left]].concat())?;
    swapped(&bench, 101, &[201])?;
    bench.router.unload()
}

fn inputs() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    netns.ip(&format!("-M route add 100 as 200 {VIA}"))?;
    wait_for(&bench, &[&format!("100 as to 200 {VIA} proto boot")])?;
    let accepts = |text: &str| {
        wait::until(text, PATIENCE, || {
            let links: serde_json::Value = bench.router.json("link show eth1")?;
            Ok((links[0]["mpls"].as_bool() == Some(text == "on")).then_some(()))
        })
    };
    accepts("on")?;
    swapped(&bench, 100, &[200])?;
    netns.sysctl("mpls/conf/eth1/input", "0")?;
    accepts("off")?;
    let before = bench.router.dropped("port-disabled")?;
    bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &packet(64)?))?;
    wait::until("a frame that is dropped", PATIENCE, || {
        Ok((bench.router.dropped("port-disabled")? == before + 1).then_some(()))
    })?;
    let said = bench.router.said();
    ensure!(said.contains("sysctl net.mpls.conf.eth1.input=1"), "{said}");
    netns.sysctl("mpls/conf/eth1/input", "1")?;
    accepts("on")?;
    swapped(&bench, 100, &[200])?;
    // The frame that came meanwhile is not among what came out.
    bench.router.unload()
}

fn tables() -> Result<()> {
    let bench = bench("--sync kernel --sync-table red --sync-table 1000")?;
    let netns = bench.router.netns();
    for command in [
        "route add 10.4.1.0/24 encap mpls 300 via 10.0.2.2 dev eth2",
        "route add 10.4.1.0/24 encap mpls 301 via 10.0.2.2 dev eth2 table 10",
        "-6 route add 2001:db8:4::/48 encap mpls 302 via fd00:2::2 dev eth2 table 10",
        "route add 10.4.1.0/24 encap mpls 303 via 10.0.2.2 dev eth2 table 1000",
    ] {
        netns.ip(command)?;
    }
    let numbered = format!("10.4.1.0/24 encap mpls 303 {VIA} table 1000 proto boot");
    let red = [
        format!("10.4.1.0/24 encap mpls 301 {VIA} table 10 proto boot"),
        format!("2001:db8:4::/48 encap mpls 302 {VIA6} table 10 proto boot metric 1024"),
    ];
    // No VRF has the name so far.
    wait_for(&bench, &[&numbered])?;
    netns.add_vrf("red", 10)?;
    wait_for(&bench, &[&numbered, &red[0], &red[1]])?;
    let sent = |destination: &str| {
        let packet = udp("192.0.2.1".parse()?, destination.parse()?, 64, b"mine")?;
        Ok::<_, anyhow::Error>(ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &packet))
    };
    // Outside of the VRF its routes do not count; the kernel imposes by main's, which is not followed.
    let counted = |key: &str| bench.router.forwarded(key);
    bench.left.send(&sent("10.4.1.1")?)?;
    let by_kernel = bench.out_labelled(
        &[Entry::new(300, 63)],
        &udp("192.0.2.1".parse()?, "10.4.1.1".parse()?, 63, b"mine")?,
    );
    bench.right.receive("label 300", |frame| frame == by_kernel)?;
    netns.ip("link set eth1 master red")?;
    netns.ip("-6 address replace fd00:1::1/64 dev eth1 nodad")?;
    wait::until("the VRF's routes at its port", PATIENCE, || {
        bench.left.send(&sent("10.4.1.1")?)?;
        Ok((counted("10.4.1.0/24 table 10")? > 0).then_some(()))
    })?;
    bench.right.drain()?;
    imposed(&bench, "10.4.1.0/24 table 10", "10.4.1.1", &[301], 63)?;
    imposed(&bench, "2001:db8:4::/48 table 10", "2001:db8:4::1", &[302], 63)?;
    netns.ip("route replace 10.4.1.0/24 encap mpls 311/312 via 10.0.2.2 dev eth2 table 10")?;
    let changed = format!("10.4.1.0/24 encap mpls 311/312 {VIA} table 10 proto boot");
    wait_for(&bench, &[&numbered, &changed, &red[1]])?;
    imposed(&bench, "10.4.1.0/24 table 10", "10.4.1.1", &[311, 312], 63)?;
    // The other table's route is that of no port, until a VRF has the table.
    netns.add_vrf("blue", 1000)?;
    netns.ip("link set eth1 master blue")?;
    wait::until("the other VRF's routes at its port", PATIENCE, || {
        bench.left.send(&sent("10.4.1.1")?)?;
        Ok((counted("10.4.1.0/24 table 1000")? > 0).then_some(()))
    })?;
    bench.right.drain()?;
    imposed(&bench, "10.4.1.0/24 table 1000", "10.4.1.1", &[303], 63)?;
    // Nothing says which table is meant once the VRF is gone.
    netns.ip("link del red")?;
    wait_for(&bench, &[&numbered])?;
    bench.router.unload()
}

/// While mplsxdp is stopped, the kernel has more to report than it keeps. What was lost is found by a dump.
fn overrun() -> Result<()> {
    const TIMES: usize = 4000;
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    netns.ip(&format!("-M route add 100 as 200 {VIA}"))?;
    netns.ip(&format!("-M route add 101 as 201 {VIA}"))?;
    netns.ip("route add 10.4.1.0/24 encap mpls 301 via 10.0.2.2 dev eth2")?;
    let kept = format!("101 as to 201 {VIA} proto boot");
    wait_for(
        &bench,
        &[
            &format!("100 as to 200 {VIA} proto boot"),
            &kept,
            &format!("10.4.1.0/24 encap mpls 301 {VIA} table main proto boot"),
        ],
    )?;
    bench.router.signal(Signal::SIGSTOP)?;
    // The same route again and again is a message each time.
    let one = deep(102, 16, ifindex(netns, "eth2")?)?;
    netlink::flood(netns, &one.repeat(50), TIMES)?;
    // XDP forwards by what it knew.
    let packet = packet(64)?;
    bench.left.send(&bench.labelled(&[Entry::new(101, 64)], &packet))?;
    let expected = bench.out_labelled(&[Entry::new(201, 63)], &packet);
    bench.right.receive("label 201", |frame| frame == expected)?;
    netns.ip("-M route del 100")?;
    netns.ip("route del 10.4.1.0/24")?;
    netns.ip(&format!("-M route add 103 as 203 {VIA}"))?;
    netns.ip(&format!("-M route replace 102 as 202 {VIA} proto 193"))?;
    bench.router.signal(Signal::SIGCONT)?;
    wait_for(
        &bench,
        &[
            &kept,
            &format!("102 as to 202 {VIA} proto ldp"),
            &format!("103 as to 203 {VIA} proto boot"),
        ],
    )?;
    swapped(&bench, 101, &[201])?;
    swapped(&bench, 102, &[202])?;
    swapped(&bench, 103, &[203])?;
    let said = bench.router.unload_and_tell()?;
    ensure!(said.contains("netlink subscription lost"), "nothing was lost: {said}");
    Ok(())
}

fn audit() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    for label in 100..103 {
        netns.ip(&format!("-M route add {label} as {} {VIA}", label + 100))?;
    }
    netns.ip("route add 10.4.1.0/24 encap mpls 301 via 10.0.2.2 dev eth2")?;
    let right = [
        format!("100 as to 200 {VIA} proto boot"),
        format!("101 as to 201 {VIA} proto boot"),
        format!("102 as to 202 {VIA} proto boot"),
        format!("10.4.1.0/24 encap mpls 301 {VIA} table main proto boot"),
    ];
    let right: Vec<&str> = right.iter().map(String::as_str).collect();
    wait_for(&bench, &right)?;
    let checked = |text: &str| {
        let shown = bench.router.run("sync check")?;
        ensure!(shown.trim_end().ends_with(text), "{shown}");
        Ok(())
    };
    checked("stale 0 missing 0 different 0")?;
    // A second writer uses the kernel's name: one route goes, one becomes another, and two come that the kernel does
    // not have.
    bench.router.run("route --owner kernel del 100")?;
    bench
        .router
        .run(&format!("route --owner kernel replace 101 as 999 {VIA} proto boot"))?;
    bench
        .router
        .run(&format!("route --owner kernel add 500 as 501 {VIA}"))?;
    bench.router.run(&format!(
        "route --owner kernel add 10.5.0.0/16 encap mpls 502 {VIA} table main"
    ))?;
    let error = bench.router.run("sync check").err().context("no difference is found")?;
    let error = error.to_string();
    for line in [
        "routes compared: stale 2 missing 1 different 1",
        "100 missing",
        "101 different",
        &format!("kernel: 101 as to 201 {VIA} proto boot"),
        &format!("installed: 101 as to 999 {VIA} proto boot"),
        "500 stale",
        "10.5.0.0/16 table main stale",
    ] {
        ensure!(error.contains(line), "no `{line}` in {error}");
    }
    ensure!(error.contains("exit status: 1"), "{error}");
    let packet = packet(64)?;
    let sent = |label| bench.labelled(&[Entry::new(label, 64)], &packet);
    let out = |label| bench.out_labelled(&[Entry::new(label, 63)], &packet);
    bench.expect("a wrong route", &sent(101), &out(999))?;
    let repaired = bench.router.run("sync check --repair")?;
    ensure!(
        repaired.contains("stale 2 missing 1 different 1, repaired"),
        "{repaired}"
    );
    // That was done when the command ended.
    let shown = shown(&bench)?;
    let shown: Vec<&str> = shown.lines().collect();
    ensure!(shown == right, "{shown:#?}");
    bench.router.wait_resolved()?;
    swapped(&bench, 100, &[200])?;
    swapped(&bench, 101, &[201])?;
    ensure!(bench.forward(&sent(500))?.is_empty(), "a stale route");
    checked("stale 0 missing 0 different 0")?;
    let sources: Vec<SyncSource> = bench.router.json("sync show")?;
    let [source] = &sources[..] else {
        anyhow::bail!("{sources:?}")
    };
    ensure!(
        (&*source.source, source.state, source.labels, source.differences) == ("kernel", SyncState::Synced, 3, Some(0)),
        "{source:?}"
    );
    let checks: Vec<SyncCheck> = bench.router.json("sync check")?;
    ensure!(checks.len() == 1 && checks[0].checked >= 4, "{checks:?}");
    bench.router.unload()
}

/// FPM and the kernel disagree, as after an installation that the kernel has refused or a deletion that zebra has not sent.
fn unmatched() -> Result<()> {
    let bench = bench("--sync fpm --sync-quiet 500ms")?;
    let netns = bench.router.netns();
    let eth2 = ifindex(netns, "eth2")?;
    let said = |label: u32| lsp(label, [swap(eth2, Ipv4Addr::new(10, 0, 2, 2), &[label + 100])]);
    for label in [101, 102] {
        netns.ip(&format!("-M route add {label} as {} {VIA}", label + 100))?;
    }
    let mut zebra = Zebra::connect(netns, 2620)?;
    zebra.say([100, 101].map(said))?;
    wait::until("the routes of zebra", PATIENCE, || {
        let sources: Vec<SyncSource> = bench.router.json("sync show")?;
        let is_synced = |source: &SyncSource| source.state == SyncState::Synced && source.pending == 0;
        Ok(sources.first().is_some_and(is_synced).then_some(()))
    })?;
    // Nothing is repaired, because it is not known which side is right.
    for command in ["sync check", "sync check --repair"] {
        let error = bench.router.run(command).err().context("no difference is found")?;
        let error = error.to_string();
        for line in [
            "fpm: 2 routes compared: stale 0 missing 0 different 0 unmatched 2\n",
            "100 not in the kernel\n",
            &format!("installed: 100 as to 200 {VIA} proto ldp\n"),
            "102 only in the kernel\n",
            "exit status: 1",
        ] {
            ensure!(error.contains(line), "no `{line}` in {error}");
        }
    }
    bench.router.wait_resolved()?;
    swapped(&bench, 100, &[200])?;
    netns.ip(&format!("-M route add 100 as 200 {VIA}"))?;
    zebra.say([said(102)])?;
    wait::until("no difference", PATIENCE, || {
        Ok(bench.router.run("sync check").is_ok().then_some(()))
    })?;
    bench.router.unload()
}

fn ttls() -> Result<()> {
    let bench = bench_with(
        "--sync kernel",
        &[("mpls/ip_ttl_propagate", "0"), ("mpls/default_ttl", "77")],
    )?;
    let netns = bench.router.netns().clone();
    for command in [
        "-M route add 100 via inet 10.0.2.2 dev eth2",
        "-M route add 101 as 201/202 via inet 10.0.2.2 dev eth2",
        "-M route add 102 ttl-propagate enabled via inet 10.0.2.2 dev eth2",
        "route add 10.4.1.0/24 encap mpls 301/302 via 10.0.2.2 dev eth2",
        "route add 10.4.2.0/24 encap mpls 303 ttl 9 via 10.0.2.2 dev eth2",
        "-6 route add 2001:db8:4::/48 encap mpls 304 via fd00:2::2 dev eth2",
    ] {
        netns.ip(command)?;
    }
    let routes = |pop: &str, ttl: &str| {
        [
            format!("100{pop} proto boot"),
            format!("101 as to 201/202 {VIA} proto boot"),
            format!("102 as implicit-null {VIA} ttl-propagate enabled proto boot"),
            format!("10.4.1.0/24 encap mpls 301/302{ttl} {VIA} table main proto boot"),
            format!("10.4.2.0/24 encap mpls 303 ttl 9 {VIA} table main proto boot"),
            format!("2001:db8:4::/48 encap mpls 304{ttl} {VIA6} table main proto boot metric 1024"),
        ]
    };
    let wait_for_all = |pop: &str, ttl: &str| wait_for(&bench, &routes(pop, ttl).each_ref().map(String::as_str));
    wait_for_all(&format!(" {VIA} ttl-propagate disabled"), " ttl 77")?;
    let shown = |text: &str| {
        for command in ["sync show", "status"] {
            let shown = bench.router.run(command)?;
            ensure!(shown.contains(text), "{command}: {shown}");
        }
        Ok(())
    };
    shown("ip-ttl-propagate 0 default-ttl 77")?;
    let (left, right, port1, port2) = (bench.left.mac(), bench.right.mac(), bench.port1, bench.port2);
    // What is sent, the key of the route that it takes, and what comes out, as the settings say.
    let frames = |inner: u8, ttl: u8| {
        let packet = packet(64)?;
        let labelled = |label| mplsxdp_tests::frame::labelled(port1, left, &[Entry::new(label, 40)], &packet);
        let out = |stack: &[Entry], packet: &[u8]| mplsxdp_tests::frame::labelled(right, port2, stack, packet);
        let popped = |ttl| Ok::<_, anyhow::Error>(ethernet(right, port2, ETH_P_IP, &with_ttl(&packet, ttl)?));
        let mine = |destination: &str, ttl| udp("10.0.1.2".parse()?, destination.parse()?, ttl, b"mine");
        let mine_6 = |ttl| udp("fd00:1::2".parse()?, "2001:db8:4::1".parse()?, ttl, b"mine");
        Ok::<_, anyhow::Error>([
            ("100", labelled(100), popped(inner)?),
            (
                "101",
                labelled(101),
                out(&[Entry::new(201, 39), Entry::new(202, 39)], &packet),
            ),
            ("102", labelled(102), popped(39)?),
            (
                "10.4.1.0/24",
                ethernet(port1, left, ETH_P_IP, &mine("10.4.1.1", 64)?),
                out(&[Entry::new(301, ttl), Entry::new(302, ttl)], &mine("10.4.1.1", 63)?),
            ),
            (
                "10.4.2.0/24",
                ethernet(port1, left, ETH_P_IP, &mine("10.4.2.1", 64)?),
                out(&[Entry::new(303, 9)], &mine("10.4.2.1", 63)?),
            ),
            (
                "2001:db8:4::/48",
                ethernet(port1, left, ETH_P_IPV6, &mine_6(64)?),
                out(&[Entry::new(304, ttl)], &mine_6(63)?),
            ),
        ])
    };
    for (key, sent, expected) in frames(63, 77)? {
        by_xdp(&bench, key, &sent, &expected)?;
    }
    // The kernel does not report a change.
    netns.sysctl("mpls/ip_ttl_propagate", "1")?;
    wait_for_all(&format!(" as implicit-null {VIA}"), "")?;
    shown("ip-ttl-propagate 1 default-ttl 77")?;
    for (key, sent, expected) in frames(39, 63)? {
        by_xdp(&bench, key, &sent, &expected)?;
    }
    // What the kernel makes of the same frames.
    let Bench {
        router, left, right, ..
    } = bench;
    router.unload()?;
    for (propagates, inner, ttl) in [("1", 39, 63), ("0", 63, 77)] {
        netns.sysctl("mpls/ip_ttl_propagate", propagates)?;
        for (key, sent, expected) in frames(inner, ttl)? {
            left.send(&sent)?;
            right.receive(&format!("{key} by the kernel: {expected:02x?}"), |frame| {
                frame == expected
            })?;
        }
    }
    Ok(())
}

/// The request with which holo installs a route (holo-routing/src/netlink.rs), made by a newer version of the crate that
/// holo uses.
fn as_holo_writes(route: RouteMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route));
    message.header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn stack(labels: &[u32]) -> Vec<MplsLabel> {
    let entry = |(index, &label)| MplsLabel {
        label,
        traffic_class: 0,
        bottom_of_stack: index + 1 == labels.len(),
        ttl: 0,
    };
    labels.iter().enumerate().map(entry).collect()
}

/// A next hop. Implicit null was left out of the labels, so that there may be none.
fn holo_next_hop(family: AddressFamily, ifindex: u32, via: &str, labels: &[u32]) -> Result<RouteNextHop> {
    let builder = RouteNextHopBuilder::new(family).interface(ifindex).via(via.parse()?)?;
    Ok(builder.mpls(stack(labels)).build())
}

fn holo() -> Result<()> {
    let bench = bench("--sync kernel")?;
    let netns = bench.router.netns();
    let eth2 = ifindex(netns, "eth2")?;
    let label = |label: u32, next_hops: Vec<RouteNextHop>| {
        // LDP has no protocol number of its own.
        let builder = RouteMessageBuilder::<MplsLabel>::new().protocol(RouteProtocol::Unspec);
        let builder = builder.label(MplsLabel {
            label,
            traffic_class: 0,
            bottom_of_stack: true,
            ttl: 0,
        });
        netlink::request(netns, &as_holo_writes(builder.multipath(next_hops).build()))
    };
    let prefix = |address: &str, length: u8, next_hops: Vec<RouteNextHop>| {
        let builder = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address.parse()?, length)?;
        let route = builder.protocol(RouteProtocol::Ospf).multipath(next_hops).build();
        netlink::request(netns, &as_holo_writes(route))
    };
    let mpls = AddressFamily::Mpls;
    label(100, vec![holo_next_hop(mpls, eth2, "10.0.2.2", &[200])?])?;
    label(101, vec![holo_next_hop(mpls, eth2, "10.0.2.2", &[])?])?;
    label(
        102,
        vec![
            holo_next_hop(mpls, eth2, "10.0.2.2", &[202])?,
            holo_next_hop(mpls, eth2, "fd00:2::2", &[203])?,
        ],
    )?;
    let inet = AddressFamily::Inet;
    prefix("10.4.1.0", 24, vec![holo_next_hop(inet, eth2, "10.0.2.2", &[301])?])?;
    prefix("10.4.2.0", 24, vec![holo_next_hop(inet, eth2, "10.0.2.2", &[])?])?;
    prefix(
        "2001:db8:4::",
        48,
        vec![holo_next_hop(AddressFamily::Inet6, eth2, "fd00:2::2", &[302, 303])?],
    )?;
    let two = format!("102 proto unspec nexthop as to 202 {VIA} nexthop as to 203 {VIA6}");
    wait_for(
        &bench,
        &[
            &format!("100 as to 200 {VIA} proto unspec"),
            &format!("101 as implicit-null {VIA} proto unspec"),
            &two,
            &format!("10.4.1.0/24 encap mpls 301 {VIA} table main proto ospf"),
            &format!("2001:db8:4::/48 encap mpls 302/303 {VIA6} table main proto ospf metric 1024"),
        ],
    )?;
    swapped(&bench, 100, &[200])?;
    let inner = Entry::new(17, 9);
    by_xdp(
        &bench,
        "101",
        &bench.labelled(&[Entry::new(101, 64), inner], &packet(64)?),
        &bench.out_labelled(&[inner], &packet(64)?),
    )?;
    let labels = out_labels(&bench, 102)?;
    ensure!(labels == BTreeSet::from([202, 203]), "{labels:?}");
    imposed(&bench, "10.4.1.0/24", "10.4.1.1", &[301], 63)?;
    imposed(&bench, "2001:db8:4::/48", "2001:db8:4::1", &[302, 303], 63)?;
    bench.router.unload()
}

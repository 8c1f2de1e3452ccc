//! Hosts that put labels on their own packets, through local ports.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, Status};
use mplsxdp_tests::frame::{self, Entry, Ip, Parsed};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::own_traffic::{LOOPBACK1, LOOPBACK1_V6, LOOPBACK2, LOOPBACK2_V6, OwnTraffic};
use mplsxdp_tests::three_routers::transfer;
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use nix::sys::signal::Signal;

use crate::{test, test_with};

const PING: Option<Need> = Some(Need::Program("ping", "iputils-ping"));
const PINGS: usize = 5;
const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

pub fn tests() -> Vec<Trial> {
    vec![
        test_with("local::pings_cross_two_hops_with_labels_from_the_hosts", PING, pings),
        test_with("local::pings_of_ipv6_cross_two_hops", PING, ipv6),
        test("local::tcp_and_udp_of_the_hosts_arrive_both_ways", tcp_and_udp),
        test_with("local::the_mtu_leaves_room_for_the_labels_of_routes", PING, mtu),
        test("local::the_same_in_generic_mode", generic),
        test("local::what_no_prefix_route_takes_is_dropped_once", no_route),
        test(
            "local::a_narrower_kernel_route_into_the_pair_keeps_its_labels",
            narrower,
        ),
        test("local::the_port_is_shown_and_goes_with_the_switch", lifecycle),
        test("local::an_interface_of_another_is_left_alone", foreign),
        test("local::the_pair_has_no_sub_interfaces", sub_interfaces),
    ]
}

fn pings() -> Result<()> {
    let lab = Lab::new()?;
    let net = OwnTraffic::new(&lab)?;
    net.add_routes()?;
    ensure_pings(&net, LOOPBACK1.parse()?, LOOPBACK2.parse()?)?;
    let [ubuntu01, ubuntu02] = &net.routers;
    for (router, key) in [
        (&net.host1, "2.2.2.2/32"),
        (ubuntu01, "101"),
        (ubuntu01, "211"),
        (ubuntu02, "111"),
        (ubuntu02, "201"),
        (&net.host2, "1.1.1.1/32"),
    ] {
        let forwarded = router.forwarded(key)?;
        ensure!(
            forwarded == 2 * PINGS as u64,
            "{} counted {forwarded} packets for {key}",
            router.instance()
        );
    }
    net.unload()
}

fn ipv6() -> Result<()> {
    let lab = Lab::new()?;
    let net = OwnTraffic::new(&lab)?;
    net.add_routes()?;
    ensure_pings(&net, LOOPBACK1_V6.parse()?, LOOPBACK2_V6.parse()?)
}

/// Pings from each host to the other; checks the TTLs that arrive, and the frames on each cable.
fn ensure_pings(net: &OwnTraffic, address1: IpAddr, address2: IpAddr) -> Result<()> {
    let taps: Vec<Tap> = net
        .cables
        .iter()
        .flat_map(|cable| ["a", "b"].map(|end| Tap::open(cable, end)))
        .collect::<Result<_>>()?;
    for (host, from, to) in [(&net.host1, address1, address2), (&net.host2, address2, address1)] {
        let shown = host
            .netns()
            .run(&format!("ping -n -c {PINGS} -i 0.05 -W 2 -I {from} {to}"))?;
        ensure!(shown.matches("ttl=62").count() == PINGS, "{shown}");
    }
    // At each end of each cable: the label if there is one, and the TTLs. The hosts do not decrement, the first router
    // writes only into the label, the second copies its TTL down.
    let there = (address1, address2);
    let back = (address2, address1);
    let expected = [
        (there, Some((101, 64)), 64),
        (back, None, 62),
        (there, Some((111, 63)), 64),
        (back, Some((211, 63)), 64),
        (there, None, 62),
        (back, Some((201, 64)), 64),
    ];
    for (index, (tap, ((source, destination), label, ttl))) in taps.iter().zip(expected).enumerate() {
        let stack = Vec::from_iter(label.map(|(label, ttl)| Entry::new(label, ttl)));
        let right = Ip {
            source,
            destination,
            ttl,
            protocol: if source.is_ipv4() { 1 } else { 58 },
        };
        let mut seen = 0;
        for frame in tap.drain()? {
            let frame = Parsed::new(&frame)?;
            let Ok(ip) = frame.ip() else { continue };
            if ![there, back].contains(&(ip.source, ip.destination)) {
                continue;
            }
            ensure!(
                frame.stack == stack && ip == right,
                "cable {} end {}: {frame:?}, expected {stack:?} {right:?}",
                index / 2 + 1,
                ["a", "b"][index % 2]
            );
            seen += 1;
        }
        // The requests of one host, and its replies to the other's.
        ensure!(seen == 2 * PINGS, "cable {}: {seen} packets", index / 2 + 1);
    }
    Ok(())
}

fn tcp_and_udp() -> Result<()> {
    let lab = Lab::new()?;
    let net = OwnTraffic::new(&lab)?;
    net.add_routes()?;
    let (host1, host2) = (net.host1.netns(), net.host2.netns());
    transfer(host1, host2, LOOPBACK2.parse()?, 10 * MIB).context("from host1 to host2")?;
    transfer(host2, host1, LOOPBACK1.parse()?, 10 * MIB).context("from host2 to host1")?;
    // At least one full segment each: the data went there with labels, not around them.
    let [_, ubuntu02] = &net.routers;
    for label in ["111", "201"] {
        let forwarded = ubuntu02.forwarded(label)?;
        ensure!(
            forwarded > (10 * MIB / 1460) as u64,
            "label {label}: {forwarded} packets"
        );
    }
    for length in [0, 1, 1440, 1441, 5000] {
        udp_both_ways([(host1, LOOPBACK1), (host2, LOOPBACK2)], length)
            .with_context(|| format!("{length} bytes by UDP"))?;
    }
    Ok(())
}

/// In both directions; what does not fit a packet is fragmented.
pub fn udp_both_ways(hosts: [(&Netns, &str); 2], length: usize) -> Result<()> {
    let socket = |(netns, address): (&Netns, &str)| -> Result<UdpSocket> {
        let socket = netns.within(|| Ok(UdpSocket::bind((address, 0))?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let [one, other] = hosts.map(socket);
    let (one, other) = (one?, other?);
    let data: Vec<u8> = (0..251).cycle().take(length).collect();
    for (from, to) in [(&one, &other), (&other, &one)] {
        from.send_to(&data, to.local_addr()?)?;
        let mut received = vec![0; 65_536];
        let (length, source) = to.recv_from(&mut received)?;
        ensure!(
            received[..length] == data && source == from.local_addr()?,
            "{length} bytes from {source}"
        );
    }
    Ok(())
}

fn mtu() -> Result<()> {
    let lab = Lab::new()?;
    let net = OwnTraffic::new(&lab)?;
    net.add_routes()?;
    let host1 = net.host1.netns();
    let shown = host1.ip("link show dev mpls0")?;
    ensure!(shown.contains("mtu 1468 "), "{shown}");
    let ping = |bytes: usize| {
        host1.run(&format!(
            "ping -n -c 1 -W 2 -M do -s {bytes} -I {LOOPBACK1} {LOOPBACK2}"
        ))
    };
    // 20 bytes of IP header and 8 of ICMP.
    ping(1440)?;
    let error = ping(1441).err().context("1441 bytes fit")?;
    ensure!(format!("{error:#}").contains("mtu=1468"), "{error:#}");
    // The kernel fragments packets that may be fragmented.
    let shown = host1.run(&format!("ping -n -c 1 -W 2 -s 4000 -I {LOOPBACK1} {LOOPBACK2}"))?;
    ensure!(shown.contains("ttl=62"), "{shown}");
    // A route with more labels, and back again.
    let labels = (0..12)
        .map(|label| (500 + label).to_string())
        .collect::<Vec<_>>()
        .join("/");
    let mtu_is = |mtu: &str| {
        wait::until(&format!("the MTU {mtu}"), PATIENCE, || {
            Ok(host1
                .ip("link show dev mpls0")?
                .contains(&format!("mtu {mtu} "))
                .then_some(()))
        })
    };
    net.host1
        .run(&format!("route add 192.0.2.0/24 encap mpls {labels} via inet 10.0.0.1"))?;
    mtu_is("1452")?;
    net.host1.run("route del 192.0.2.0/24")?;
    mtu_is("1468")
}

fn generic() -> Result<()> {
    let lab = Lab::new()?;
    let net = OwnTraffic::with_options(&lab, "--mode generic")?;
    net.add_routes()?;
    let (host1, host2) = (net.host1.netns(), net.host2.netns());
    for length in [1, 1440, 5000] {
        udp_both_ways([(host1, LOOPBACK1), (host2, LOOPBACK2)], length)
            .with_context(|| format!("{length} bytes by UDP"))?;
    }
    transfer(host1, host2, LOOPBACK2.parse()?, MIB)?;
    Ok(())
}

/// The kernel's route for packets to the far end is the near end.
fn no_route() -> Result<()> {
    const PACKETS: u64 = 10;

    let lab = Lab::new()?;
    let [netns, other] = one_cable(&lab)?;
    netns.sysctl("ipv4/ip_forward", "1")?;
    netns.sysctl("ipv6/conf/all/forwarding", "1")?;
    let router = Router::load(&netns, "--iface eth0 --local")?;
    // Switched on again, for all interfaces.
    netns.sysctl("ipv4/ip_forward", "0")?;
    netns.sysctl("ipv4/ip_forward", "1")?;
    let host = Tap::open(&other, "eth0")?;
    let mut dropped = 0;
    for (address, route, source, destination) in [
        ("1.1.1.1/32", "2.2.2.0/24", "10.0.0.2", "2.2.2.2"),
        ("fd00:1::1/128", "fd00:2::/64", "fd00:3::2", "fd00:2::2"),
    ] {
        netns.ip(&format!("address add {address} dev lo"))?;
        netns.ip(&format!("route add {route} dev mpls0"))?;
        let (source, destination) = (source.parse()?, destination.parse()?);
        let own: IpAddr = address.split('/').next().context("no address")?.parse()?;
        let socket = netns.within(|| Ok(UdpSocket::bind((own, 0))?))?;
        let ethertype = if own.is_ipv4() { 0x0800 } else { 0x86dd };
        for _ in 0..PACKETS {
            socket.send_to(b"own", (destination, 9))?;
            let packet = frame::udp(source, destination, 255, b"transit")?;
            host.send(&frame::ethernet(netns.mac("eth0")?, host.mac(), ethertype, &packet))?;
        }
        dropped += 2 * PACKETS;
        wait::until("the packets that nobody labels", PATIENCE, || {
            Ok((router.dropped("no-ftn")? >= dropped).then_some(()))
        })?;
    }
    // A looping packet would have been counted many times.
    let counted = router.dropped("no-ftn")?;
    ensure!(counted == dropped, "{counted} counted of {dropped}");
    let forwarded = |name: &str| -> Result<u64> {
        let shown = netns.run(&format!("nstat -asz {name}"))?;
        let line = shown.lines().find(|line| line.starts_with(name));
        let count = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(count.with_context(|| format!("no {name} in {shown}"))?.parse()?)
    };
    for name in ["IpForwDatagrams", "Ip6OutForwDatagrams"] {
        let forwarded = forwarded(name)?;
        ensure!(forwarded == PACKETS, "{name}: {forwarded} for {PACKETS} packets");
    }
    router.unload()
}

/// A kernel route that is more specific than a prefix of the FTN belongs to the kernel, unless it leads into the FTN.
fn narrower() -> Result<()> {
    let lab = Lab::new()?;
    let [netns, other] = one_cable(&lab)?;
    let router = Router::load(&netns, "--iface eth0 --local")?;
    let far = Tap::open(&other, "eth0")?;
    netns.ip("address add 10.0.0.1/24 dev eth0")?;
    for (address, wide, narrow) in [
        ("1.1.1.1/32", "10.32.0.0/12", "10.33.0.0/16"),
        ("fd00:1::1/128", "fd00:32::/32", "fd00:32:1::/48"),
    ] {
        netns.ip(&format!("address add {address} dev lo"))?;
        netns.ip(&format!("route add {narrow} dev mpls0"))?;
        router.run(&format!(
            "route add {wide} encap mpls 300 via link {} dev eth0",
            far.mac()
        ))?;
    }
    for (source, destination) in [("1.1.1.1:0", "10.33.0.1:9"), ("[fd00:1::1]:0", "[fd00:32:1::1]:9")] {
        let socket = netns.within(|| Ok(UdpSocket::bind(source)?))?;
        socket.send_to(b"own", destination)?;
        let frame = far.receive(&format!("a labelled packet to {destination}"), |frame| {
            frame.get(12..14) == Some(&[0x88, 0x47])
        })?;
        let stack = Parsed::new(&frame)?.stack;
        ensure!(stack == [Entry::new(300, 64)], "{stack:?}");
    }
    router.unload()
}

/// Two namespaces with a cable between them.
fn one_cable(lab: &Lab) -> Result<[Netns; 2]> {
    let (one, other) = (lab.netns("one")?, lab.netns("other")?);
    link(End::new(&one, "eth0"), End::new(&other, "eth0"))?;
    Ok([one, other])
}

fn lifecycle() -> Result<()> {
    let lab = Lab::new()?;
    let [netns, _other] = one_cable(&lab)?;
    let before = netns.ip("-oneline link show")?;
    let router = Router::load(&netns, "--iface eth0 --local pe1")?;
    let status: Status = router.json("status")?;
    ensure!(status.local.as_deref() == Some("pe1"), "{status:?}");
    let links: Vec<Link> = router.json("link show")?;
    let local = links.iter().filter(|link| link.local).map(|link| link.ifname.as_str());
    ensure!(local.collect::<Vec<_>>() == ["pe1-port"], "{links:?}");
    let error = router
        .run("link del pe1-port")
        .err()
        .context("the local port was deleted")?;
    ensure!(format!("{error:#}").contains("own packets"), "{error:#}");

    // After a kill, the pair is left, and the next instance replaces it.
    router.stop(Signal::SIGKILL)?;
    ensure!(
        netns.ip("link show dev pe1")?.contains("pe1"),
        "the kernel has removed it"
    );
    let router = Router::load(&netns, "--iface eth0 --local pe1")?;
    router.unload()?;
    wait::until("the end of the local port", PATIENCE, || {
        Ok((netns.ip("-oneline link show")? == before).then_some(()))
    })
}

fn foreign() -> Result<()> {
    let lab = Lab::new()?;
    let [netns, _other] = one_cable(&lab)?;
    netns.ip("link add mpls0 type veth peer name somebody")?;
    let before = netns.ip("-oneline link show")?;
    let error = Router::load(&netns, "--iface eth0 --local")
        .err()
        .context("it was taken")?;
    let said = format!("{error:#}");
    ensure!(
        said.contains("there is an interface mpls0 already") && said.contains("--local NAME"),
        "{said}"
    );
    ensure!(!said.contains("attached"), "checked too late: {said}");
    ensure!(netns.ip("-oneline link show")? == before, "something was changed");
    Router::load(&netns, "--iface eth0 --local mpls1")?.unload()
}

fn sub_interfaces() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, peer) = (lab.netns("router")?, lab.netns("peer")?);
    link(End::new(&netns, "eth1"), End::new(&peer, "eth0"))?;
    let router = Router::load(&netns, "--iface eth1 --local")?;
    for name in ["mpls0", "mpls0.5", "mpls0.5.6", "mpls0-port.5"] {
        for role in ["", " tx-only"] {
            let refused = router.run(&format!("link add {name}{role}")).err();
            let said = format!("{:#}", refused.with_context(|| format!("{name} was not refused"))?);
            ensure!(said.contains("this machine's own packets"), "{said}");
        }
    }
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.len() == 2, "{links:?}");
    router.unload()
}

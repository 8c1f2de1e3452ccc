//! Ports in a VRF: the kernel keeps the routes of its table, next hops are looked up there, and ICMP errors leave by
//! it. The port on the right is in no VRF.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use mplsxdp_tests::icmp::{IcmpError, TIME_EXCEEDED_V4, TIME_EXCEEDED_V6};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::{Netns, Router, Tap, wait};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, setsockopt, socket, sockopt};

use crate::bench::{Bench, LEFT, NATIVE};
use crate::test_with;

const VRF: Option<Need> = Some(Need::LinkKind("vrf", "vrf"));
const PATIENCE: Duration = Duration::from_secs(20);
/// The routing table of the VRF.
const TABLE: u32 = 10;

pub fn tests() -> Vec<Trial> {
    vec![
        test_with("vrf::what_the_vrf_routes_is_the_kernels", VRF, claims),
        test_with("vrf::each_port_goes_by_the_table_of_its_vrf_only", VRF, other_ports),
        test_with("vrf::two_vrfs_may_have_the_same_addresses", VRF, overlapping),
        test_with(
            "vrf::own_traffic_goes_by_the_vrf_of_the_local_interface",
            VRF,
            own_traffic,
        ),
        test_with("vrf::routes_of_a_table_count_at_its_ports_only", VRF, own_routes),
        test_with("vrf::a_port_moves_in_and_out", VRF, moves),
        test_with("vrf::a_member_of_a_bridge_in_a_vrf", VRF, bridge),
        test_with("vrf::icmp_errors_leave_by_the_vrf", VRF, icmp_errors),
        test_with(
            "vrf::what_is_handed_to_the_kernel_is_received_in_the_vrf",
            VRF,
            handed_up,
        ),
        test_with("vrf::next_hops_are_looked_up_in_the_vrf", VRF, next_hops),
        test_with("vrf::a_vrf_is_not_a_port", VRF, not_a_port),
    ]
}

/// The kernel takes the interface down for a moment, which removes its IPv6 addresses.
fn enslave(netns: &Netns, vrf: &str) -> Result<()> {
    netns.ip(&format!("link set eth1 master {vrf}"))?;
    netns.ip("-6 addr replace fd00:1::1/64 dev eth1 nodad").map(drop)
}

/// With the left port in VRF red. Prefixes of both families cover all addresses here, and are imposed to the right.
fn bench() -> Result<Bench> {
    let bench = Bench::cabled(NATIVE, 1500, 1500, |cable, left, right| {
        let netns = right.netns().clone();
        mplsxdp_tests::link(left, right)?;
        if cable == 0 {
            netns.add_vrf("red", TABLE)?;
            enslave(&netns, "red")?;
        }
        Ok(())
    })?;
    for prefix in ["10.0.0.0/8", "fd00::/16", "2001:db8::/32"] {
        bench.route(&format!("{prefix} encap mpls 200"))?;
    }
    Ok(bench)
}

/// A packet to `destination`, and its EtherType.
fn packet(destination: &str, ttl: u8) -> Result<(u16, Vec<u8>)> {
    let destination: IpAddr = destination.parse()?;
    let (source, ethertype): (IpAddr, _) = match destination {
        IpAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1).into(), ETH_P_IP),
        IpAddr::V6(_) => ("2001:db8:ffff::1".parse()?, ETH_P_IPV6),
    };
    Ok((ethertype, udp(source, destination, ttl, b"whose?")?))
}

/// Whether this packet to `destination` leaves to the right under label 200 when it arrives on the left. Otherwise it
/// must not leave.
fn is_imposed(bench: &Bench, destination: &str) -> Result<bool> {
    let (ethertype, sent) = packet(destination, 64)?;
    let received = bench.forward(&ethernet(bench.port1, bench.left.mac(), ethertype, &sent))?;
    let imposed = bench.out_labelled(&[Entry::new(200, 63)], &packet(destination, 63)?.1);
    ensure!(
        received.is_empty() || received == [imposed],
        "{destination}: received {received:02x?}"
    );
    Ok(!received.is_empty())
}

fn expect(bench: &Bench, destination: &str, imposed: bool) -> Result<()> {
    ensure!(
        is_imposed(bench, destination)? == imposed,
        "{destination}: imposed: {}",
        !imposed
    );
    Ok(())
}

/// The same once the kernel's last change has its effect.
fn expect_soon(bench: &Bench, destination: &str, imposed: bool) -> Result<()> {
    wait::until(&format!("imposed({destination}) to be {imposed}"), PATIENCE, || {
        Ok((is_imposed(bench, destination)? == imposed).then_some(()))
    })
}

fn claims() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    // The port's own addresses, its networks' broadcast and anycast addresses, and its connected networks.
    for kernels in [
        "10.0.1.1",
        "10.0.1.255",
        "10.0.1.77",
        "fd00:1::1",
        "fd00:1::",
        "fd00:1::77",
    ] {
        expect_soon(&bench, kernels, false)?;
    }
    let specific = ["10.4.5.1", "2001:db8:4:5::1"];
    for beyond in specific.into_iter().chain(["10.4.6.1", "2001:db8:4:6::1"]) {
        expect(&bench, beyond, true)?;
    }
    // An address that only its own prefix covers is never imposed if it is the VRF's own.
    bench.route("10.0.1.1/32 encap mpls 200")?;
    expect(&bench, "10.0.1.1", false)?;
    // More specific routes come and go.
    netns.ip("route add 10.4.5.0/24 via 10.0.1.2 vrf red")?;
    netns.ip("-6 route add 2001:db8:4:5::/64 via fd00:1::2 vrf red")?;
    for kernels in specific {
        expect_soon(&bench, kernels, false)?;
    }
    expect(&bench, "10.4.6.1", true)?;
    expect(&bench, "2001:db8:4:6::1", true)?;
    netns.ip("route del 10.4.5.0/24 vrf red")?;
    netns.ip("-6 route del 2001:db8:4:5::/64 vrf red")?;
    for free in specific {
        expect_soon(&bench, free, true)?;
    }
    // An address of the VRF device belongs to the VRF.
    netns.ip("addr add 10.9.9.9/32 dev red")?;
    expect_soon(&bench, "10.9.9.9", false)?;
    bench.router.unload()
}

fn moves() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let netns = bench.router.netns();
    bench.route("10.0.0.0/8 encap mpls 200")?;
    for (vrf, table) in [("red", TABLE), ("blue", 11)] {
        netns.add_vrf(vrf, table)?;
        netns.ip(&format!("route add blackhole 10.4.{table}.0/24 table {table}"))?;
    }
    netns.ip("route add blackhole 10.4.13.0/24")?;
    let of = |vrfs: [bool; 2]| -> Result<()> {
        expect_soon(&bench, "10.4.10.1", !vrfs[0])?;
        expect_soon(&bench, "10.4.11.1", !vrfs[1])?;
        // Table `main` applies outside of VRFs.
        expect_soon(&bench, "10.4.13.1", vrfs[0] || vrfs[1])?;
        expect_soon(&bench, "10.0.1.1", false)?;
        expect_soon(&bench, "10.0.1.255", false)?;
        expect(&bench, "10.4.12.1", true)
    };
    of([false, false])?;
    enslave(netns, "red")?;
    of([true, false])?;
    enslave(netns, "blue")?;
    of([false, true])?;
    netns.ip("link set eth1 nomaster")?;
    of([false, false])?;
    // It disappears together with its VRF.
    enslave(netns, "red")?;
    of([true, false])?;
    netns.ip("link del red")?;
    of([false, false])?;
    // A port that is added when it is already in the VRF.
    bench.router.run("link del eth1")?;
    enslave(netns, "blue")?;
    bench.router.run("link add eth1")?;
    of([false, true])?;
    bench.router.unload()
}

fn bridge() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    netns.ip("link set eth1 nomaster")?;
    netns.ip("addr flush dev eth1")?;
    netns.ip("link add br0 type bridge")?;
    netns.ip("link set eth1 master br0")?;
    netns.ip("link set br0 up master red")?;
    netns.ip("addr add 10.0.1.1/24 dev br0")?;
    // Nothing is imposed before the port is in the VRF and the VRF's domain is filled.
    expect_soon(&bench, "10.4.5.1", true)?;
    for kernels in ["10.0.1.1", "10.0.1.255", "10.0.1.77"] {
        expect_soon(&bench, kernels, false)?;
    }
    bench.router.unload()
}

/// The ICMP error about `sent`, an IP packet that comes from the left under these labels.
fn answer(bench: &Bench, stack: &[Entry], sent: &[u8]) -> Result<IcmpError> {
    let frame = if stack.is_empty() {
        let ethertype = if sent[0] >> 4 == 4 { ETH_P_IP } else { ETH_P_IPV6 };
        ethernet(bench.port1, bench.left.mac(), ethertype, sent)
    } else {
        bench.labelled(stack, sent)
    };
    bench.left.send(&frame)?;
    // Hosts and the kernel send each other other errors.
    let is_about = |error: &IcmpError| error.ensure_quotes(sent).is_ok();
    let read = |frame: &[u8]| IcmpError::read(frame)?.ok().filter(is_about);
    let frame = bench.left.receive("an ICMP error", |frame| read(frame).is_some())?;
    ensure!(frame.starts_with(&bench.left.mac().0), "{frame:02x?}");
    read(&frame).context("no ICMP error")
}

fn icmp_errors() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    bench.left_netns.ip("-6 addr replace fd00:1::2/64 dev eth0 nodad")?;
    // Hosts beyond, for which the main table has other routes.
    netns.ip("route add 192.0.2.0/24 via 10.0.1.2 vrf red")?;
    netns.ip("-6 route add 2001:db8:ffff::/64 via fd00:1::2 vrf red")?;
    netns.ip("route add 192.0.2.0/24 dev eth2")?;
    netns.ip("-6 route add 2001:db8:ffff::/64 dev eth2")?;
    bench.route("100 as 110")?;
    let (four, six): (IpAddr, IpAddr) = ("10.0.1.1".parse()?, "fd00:1::1".parse()?);
    let cases = [
        ("10.0.1.2", "10.9.0.1", TIME_EXCEEDED_V4, four),
        ("192.0.2.1", "10.9.0.1", TIME_EXCEEDED_V4, four),
        ("fd00:1::2", "2001:db8:9::1", TIME_EXCEEDED_V6, six),
        ("2001:db8:ffff::1", "2001:db8:9::1", TIME_EXCEEDED_V6, six),
    ];
    for (source, destination, kind, from) in cases {
        let source: IpAddr = source.parse()?;
        for (stack, ttl) in [(vec![Entry::new(100, 1)], 64), (Vec::new(), 1)] {
            let error = answer(&bench, &stack, &udp(source, destination.parse()?, ttl, b"late")?)?;
            ensure!(
                (error.kind, error.source, error.destination) == (kind, from, source),
                "{source}, {stack:?}: {error:?}"
            );
        }
    }
    ensure!(bench.router.outcome("no-way-back")? == 0, "no-way-back was counted");
    // If the port has no address, one of the VRF answers; no other does.
    netns.ip("addr add 10.7.7.7/32 dev red")?;
    netns.ip("addr flush dev eth1 scope global")?;
    netns.ip("route add 10.0.1.2 dev eth1 vrf red")?;
    netns.ip("route add 192.0.2.0/24 via 10.0.1.2 dev eth1 onlink vrf red")?;
    bench.left_netns.ip("route add 10.7.7.7 dev eth0")?;
    let sent = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, b"late")?;
    wait::until("an answer from the VRF's address", PATIENCE, || {
        let error = answer(&bench, &[Entry::new(100, 1)], &sent)?;
        Ok((error.source == IpAddr::from([10, 7, 7, 7])).then_some(()))
    })?;
    bench.router.unload()
}

fn handed_up() -> Result<()> {
    const PORT: u16 = 5000;
    let bench = bench()?;
    bench.router.run("route add 106 dev lo")?;
    let open = |device: &str| {
        bench.router.netns().within(|| {
            let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, sockopt::BindToDevice, &device.into())?;
            let address = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0));
            bind(socket.as_raw_fd(), &address)?;
            Ok(UdpSocket::from(socket))
        })
    };
    // Packets that arrived outside the VRF are for the other socket.
    let (inside, outside) = (open("red")?, open("eth2")?);
    inside.set_read_timeout(Some(PATIENCE))?;
    outside.set_nonblocking(true)?;
    for (source, own) in [("10.0.1.2", "10.0.1.1"), ("fd00:1::2", "fd00:1::1")] {
        for stack in [&[Entry::new(106, 64)][..], &[Entry::new(1, 64), Entry::new(106, 64)]] {
            let data = format!("{stack:?} from {source}");
            let packet = udp(source.parse()?, own.parse()?, 64, data.as_bytes())?;
            bench.left.send(&bench.labelled(stack, &packet))?;
            let mut buffer = [0; 200];
            let length = inside.recv(&mut buffer).with_context(|| data.clone())?;
            ensure!(buffer[..length] == *data.as_bytes(), "not {data}");
        }
    }
    ensure!(outside.recv(&mut [0]).is_err(), "received outside the VRF");
    ensure!(bench.router.outcome("delivered")? == 2, "not by way of the slow path");
    bench.router.unload()
}

fn next_hops() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    // Without `dev`, in either family; the kernel's default route leads elsewhere.
    netns.ip("route add default dev eth2")?;
    let set_neighbours = || -> Result<()> {
        for address in ["10.0.1.2", "fd00:1::2"] {
            netns.ip(&format!("neigh replace {address} lladdr {LEFT} dev eth1"))?;
        }
        Ok(())
    };
    let expect_back = |label, out| -> Result<()> {
        bench.left.send(&bench.labelled(&[Entry::new(label, 64)], b"back"))?;
        let expected = labelled(bench.left.mac(), bench.port1, &[Entry::new(out, 63)], b"back");
        bench
            .left
            .receive("the frame back", |frame| frame == expected)
            .map(drop)
    };
    let expect_both_back = || -> Result<()> {
        bench.router.wait_resolved()?;
        expect_back(300, 310)?;
        expect_back(301, 311)
    };
    set_neighbours()?;
    bench
        .router
        .add_routes(&["300 as 310 via inet 10.0.1.2", "301 as 311 via inet6 fd00:1::2"])?;
    expect_both_back()?;
    // Out of the VRF and back in, the next hop is followed; also when its interface becomes a port again.
    netns.ip("link set eth1 nomaster")?;
    enslave(netns, "red")?;
    set_neighbours()?;
    expect_both_back()?;
    bench.router.run("link del eth1")?;
    bench.router.run("link add eth1")?;
    expect_both_back()?;
    bench.router.unload()
}

fn not_a_port() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns().clone();
    let refusal = |name: &str, options: &str| -> Result<String> {
        let refused = Router::load_instance(&netns, &format!("{}-vrf", netns.name()), options).err();
        Ok(format!(
            "{:#}",
            refused.with_context(|| format!("{name} was not refused"))?
        ))
    };
    netns.ip("link add eth3 type dummy")?;
    netns.ip("link set eth3 master red")?;
    for mode in ["", " --mode generic"] {
        let said = refusal("red", &format!("--iface red{mode}"))?;
        ensure!(said.contains("red is a VRF") && said.contains("eth1, eth3"), "{said}");
    }
    let said = format!(
        "{:#}",
        bench.router.run("link add red").err().context("it was not refused")?
    );
    ensure!(said.contains("red is a VRF") && said.contains("eth1, eth3"), "{said}");
    bench.router.unload()
}

/// Whether this packet to `destination` leaves to the right under label 200 when it arrives on the right. Otherwise it
/// must not leave.
fn is_imposed_on_the_right(bench: &Bench, destination: &str) -> Result<bool> {
    let (ethertype, sent) = packet(destination, 64)?;
    let (from, to) = (bench.right.mac(), bench.port2);
    bench.right.send(&ethernet(to, from, ethertype, &sent))?;
    bench.right.send(&labelled(to, from, &[Entry::new(999, 64)], &[]))?;
    let imposed = bench.out_labelled(&[Entry::new(200, 63)], &packet(destination, 63)?.1);
    let marker = bench.out_labelled(&[Entry::new(998, 63)], &[]);
    let mut found = false;
    bench.right.receive("the marker", |frame| {
        found |= frame == imposed;
        frame == marker
    })?;
    Ok(found)
}

/// The same on the left and on the right, once the kernel's last change has its effect.
fn expect_both(bench: &Bench, destination: &str, expected: [bool; 2]) -> Result<()> {
    wait::until(&format!("imposed({destination}) to be {expected:?}"), PATIENCE, || {
        let imposed = [
            is_imposed(bench, destination)?,
            is_imposed_on_the_right(bench, destination)?,
        ];
        Ok((imposed == expected).then_some(()))
    })
}

fn other_ports() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    netns.ip("route add 10.4.5.0/24 via 10.0.1.2 vrf red")?;
    netns.ip("route add 10.4.6.0/24 dev eth2")?;
    for (destination, expected) in [
        ("10.4.5.1", [false, true]),
        ("10.4.6.1", [true, false]),
        // Own addresses, and connected networks.
        ("10.0.1.1", [false, true]),
        ("10.0.1.77", [false, true]),
        ("10.0.2.1", [true, false]),
        ("10.0.2.77", [true, false]),
        ("fd00:1::1", [false, true]),
        ("fd00:2::1", [true, false]),
        ("10.4.7.1", [true, true]),
        ("2001:db8:4:7::1", [true, true]),
    ] {
        expect_both(&bench, destination, expected)?;
    }
    // A route for exactly that prefix is imposed everywhere.
    bench.route("10.4.5.0/24 encap mpls 200")?;
    expect_both(&bench, "10.4.5.1", [true, true])?;
    bench.router.run("route del 10.4.5.0/24")?;
    expect_both(&bench, "10.4.5.1", [false, true])?;
    // The domain disappears with the last port of the VRF, and comes back with the next.
    bench.router.run("link del eth1")?;
    for destination in ["10.4.5.1", "10.4.7.1"] {
        ensure!(is_imposed_on_the_right(&bench, destination)?, "{destination}");
    }
    ensure!(!is_imposed_on_the_right(&bench, "10.4.6.1")?, "10.4.6.1 is main's");
    bench.router.run("link add eth1")?;
    expect_both(&bench, "10.4.5.1", [false, true])?;
    expect_both(&bench, "10.4.6.1", [true, false])?;
    bench.router.unload()
}

fn overlapping() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    netns.add_vrf("blue", 11)?;
    netns.ip("link set eth2 master blue")?;
    netns.ip("addr add 10.0.1.1/24 dev eth2")?;
    netns.ip("addr add 10.0.1.8/24 dev eth2")?;
    netns.ip("route add 10.4.5.0/24 via 10.0.1.2 vrf red")?;
    netns.ip("route add 10.4.5.128/25 via 10.0.1.2 vrf blue")?;
    netns.ip("route add 10.4.6.0/24 dev lo")?;
    let expect_all = || -> Result<()> {
        for (destination, expected) in [
            ("10.0.1.1", [false, false]),
            ("10.0.1.77", [false, false]),
            ("10.4.5.1", [false, true]),
            ("10.4.5.129", [false, false]),
            ("10.4.6.1", [true, true]),
            ("10.0.2.77", [true, false]),
        ] {
            expect_both(&bench, destination, expected)?;
        }
        Ok(())
    };
    expect_all()?;
    // A change in one VRF does not affect the other.
    netns.ip("route del 10.4.5.128/25 vrf blue")?;
    expect_both(&bench, "10.4.5.129", [false, true])?;
    netns.ip("route del 10.4.5.0/24 vrf red")?;
    netns.ip("route add 10.4.5.128/25 via 10.0.1.2 vrf blue")?;
    expect_both(&bench, "10.4.5.129", [true, false])?;
    netns.ip("route add 10.4.5.0/24 via 10.0.1.2 vrf red")?;
    // Both in the same VRF, and back.
    netns.ip("link set eth2 master red")?;
    expect_both(&bench, "10.4.5.1", [false, false])?;
    expect_both(&bench, "10.0.1.8", [false, false])?;
    netns.ip("link set eth2 master blue")?;
    netns.ip("route replace 10.4.5.128/25 via 10.0.1.2 dev eth2 onlink vrf blue")?;
    expect_all()?;
    bench.router.unload()
}

/// The label under which a packet to `destination` leaves to the right when it arrives on the left, and on the right.
fn labels_of(bench: &Bench, destination: &str) -> Result<[Option<u32>; 2]> {
    let (ethertype, sent) = packet(destination, 64)?;
    let forwarded = packet(destination, 63)?.1;
    let marker = bench.out_labelled(&[Entry::new(998, 63)], &[]);
    let label_of = |tap: &Tap, port| -> Result<Option<u32>> {
        tap.send(&ethernet(port, tap.mac(), ethertype, &sent))?;
        tap.send(&labelled(port, tap.mac(), &[Entry::new(999, 64)], &[]))?;
        let mut found = None;
        bench.right.receive("the marker", |frame| {
            let mut all = 200..=204;
            let label = all.find(|&out| frame == bench.out_labelled(&[Entry::new(out, 63)], &forwarded));
            found = label.or(found);
            frame == marker
        })?;
        Ok(found)
    };
    Ok([
        label_of(&bench.left, bench.port1)?,
        label_of(&bench.right, bench.port2)?,
    ])
}

fn own_routes() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    netns.add_vrf("blue", 11)?;
    netns.ip("link set eth2 master blue")?;
    let (four, six) = ("10.4.7.1", "2001:db8:4::7");
    let expect_all = |expected: [u32; 2]| -> Result<()> {
        let expected = expected.map(Some);
        for destination in [four, six] {
            wait::until(&format!("{destination} to get {expected:?}"), PATIENCE, || {
                Ok((labels_of(&bench, destination)? == expected).then_some(()))
            })?;
        }
        // The label for destinations for which no table has its own route.
        let others = labels_of(&bench, "10.9.1.1")?;
        ensure!(others == [Some(200); 2], "10.9.1.1 gets {others:?}");
        Ok(())
    };
    let prefixes = ["10.4.0.0/16", "2001:db8:4::/48"];
    let add = |what: &str| -> Result<()> {
        prefixes
            .iter()
            .try_for_each(|prefix| bench.route(&format!("{prefix} {what}")))
    };
    let delete = |what: &str| -> Result<()> {
        prefixes
            .iter()
            .try_for_each(|prefix| bench.router.run(&format!("route del {prefix} {what}")).map(drop))
    };
    expect_all([200, 200])?;
    add("encap mpls 201 vrf red")?;
    expect_all([201, 200])?;
    add("encap mpls 202 table 11")?;
    expect_all([201, 202])?;
    // A route without a table applies if the table has none of its own.
    add("encap mpls 203")?;
    expect_all([201, 202])?;
    add("encap mpls 204 table main")?;
    expect_all([201, 202])?;
    netns.ip("link set eth2 nomaster")?;
    expect_all([201, 204])?;
    delete("table main")?;
    expect_all([201, 203])?;
    netns.ip("link set eth2 master red")?;
    expect_all([201, 201])?;
    netns.ip("link set eth2 master blue")?;
    expect_all([201, 202])?;
    // What the kernel claims in one VRF still belongs to it there.
    netns.ip("route add 10.4.7.0/24 via 10.0.1.2 vrf red")?;
    wait::until("10.4.7.1 to be the kernel's on the left", PATIENCE, || {
        Ok((labels_of(&bench, four)? == [None, Some(202)]).then_some(()))
    })?;
    netns.ip("route del 10.4.7.0/24 vrf red")?;
    expect_all([201, 202])?;

    let found = bench.router.run("route get 10.4.7.1 vrf red")?;
    ensure!(
        found.contains("encap mpls 201") && found.contains("table 10"),
        "{found}"
    );
    let found = bench.router.run("route get 10.4.7.1")?;
    ensure!(found.contains("encap mpls 203") && !found.contains("table"), "{found}");
    let shown = bench.router.run("route show vrf blue")?;
    ensure!(
        shown.lines().count() == 2 && shown.lines().all(|line| line.contains(" table 11 ")),
        "{shown}"
    );
    let shown = bench.router.run("route show 10.4.0.0/16")?;
    ensure!(shown.lines().count() == 3, "{shown}");
    let refused = bench
        .router
        .run("route add 10.6.0.0/16 vrf green encap mpls 201 via inet 10.0.1.2");
    let refused = format!("{:#}", refused.err().context("it was not refused")?);
    ensure!(
        refused.contains("there is no VRF `green`; there are: blue, red"),
        "{refused}"
    );
    delete("vrf red")?;
    expect_all([203, 202])?;
    bench.router.run("route flush vrf blue")?;
    expect_all([203, 203])?;
    bench.router.unload()
}

fn own_traffic() -> Result<()> {
    let bench = Bench::new("--iface eth1 --iface eth2 --local mpls0")?;
    let netns = bench.router.netns();
    bench.route("10.0.0.0/8 encap mpls 200")?;
    netns.add_vrf("red", TABLE)?;
    netns.ip("link set mpls0 master red")?;
    netns.ip("addr add 10.9.9.9/32 dev red")?;
    netns.ip("route add 10.4.0.0/16 dev mpls0 src 10.9.9.9 vrf red")?;
    // Outside of the VRF they belong to the kernel.
    netns.ip("route add 10.4.5.0/24 via 10.0.1.2")?;
    expect_soon(&bench, "10.4.5.1", false)?;
    wait::until("a packet from the VRF under a label", PATIENCE, || {
        // There is no answer.
        let _ = netns.run("ping -n -c 1 -W 1 -I red 10.4.5.1");
        let imposed = bench.right.drain()?.into_iter().any(|frame| {
            frame.starts_with(&bench.right.mac().0) && frame[12..14] == [0x88, 0x47] && frame[34..38] == [10, 4, 5, 1]
        });
        Ok(imposed.then_some(()))
    })?;
    ensure!(bench.router.dropped("no-ftn")? == 0, "no-ftn was counted");
    bench.router.unload()
}

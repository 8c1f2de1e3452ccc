//! Ports on the devices that people have: labelled frames in and out of them, and everything else as if mplsxdp were
//! not there. docs/devices.md lists the combinations.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, Stats, Status, UnknownLabel};
use mplsxdp_common::wire::{ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, Mac};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, tagged, udp, with_ttl};
use mplsxdp_tests::icmp::{IcmpError, TIME_EXCEEDED_V4};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::vm::{self, Nic};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, bystanders, link, wait};

use crate::bench::{v4, v6};
use crate::{test, test_with};

const PING: Option<Need> = Some(Need::Program("ping", "iputils-ping"));
const BOND: Option<Need> = Some(Need::LinkKind("bond", "bonding"));
const PORTS: &str = "--iface eth1 --iface eth2";
const PATIENCE: Duration = Duration::from_secs(5);

const ONE_QUEUE: Nic = Nic {
    queues: 1,
    vnet_header: true,
    nonblocking: true,
};
const TWO_QUEUES: Nic = Nic { queues: 2, ..ONE_QUEUE };

pub fn tests() -> Vec<Trial> {
    vec![
        test("devices::veth", veth),
        test("devices::veths_whose_peers_must_have_gro", fix_peers),
        test("devices::frames_that_a_port_does_not_take_are_counted", redirect_lost),
        test("devices::gro_that_is_switched_off_later", gro_later),
        test("devices::veth_peers_elsewhere_that_hide_tags", hidden_tags),
        test_with(
            "devices::veth_peers_elsewhere_with_vlan_devices",
            Some(Need::LinkKind("vlan", "8021q")),
            hidden_vlan_devices,
        ),
        test("devices::tap_of_a_vm", tap),
        test_with(
            "devices::tap_of_a_vm_with_two_queues_and_virtio_headers",
            Some(Need::TapQueues),
            tap_with_queues,
        ),
        test("devices::tap_of_a_vm_that_is_started_anew", tap_restart),
        test("devices::taps_with_an_mtu_of_9000", jumbo_taps),
        test("devices::a_vm_that_sends_more_than_the_mtu_of_its_tap", vm_above_mtu),
        test_with(
            "devices::a_tap_that_is_to_switch_is_heard_on_all_queues",
            Some(Need::TapQueues),
            late_queues,
        ),
        test_with(
            "devices::a_queue_that_is_taken_leaves_the_port_as_it_was",
            Some(Need::TapQueues),
            taken_queue,
        ),
        test_with("devices::macvlan_parent", PING, macvlan_parent),
        test("devices::macvtap_parent", macvtap_parent),
        test("devices::macvlan_and_macvtap_themselves", macvlan),
        test_with("devices::bridge_port", PING, bridge_port),
        test("devices::bridge_port_that_is_a_tap", bridge_port_tap),
        test("devices::next_hops_of_a_bridge_port", bridge_next_hops),
        test("devices::bridge_itself", bridge),
        test("devices::bridge_whose_ports_take_more_than_its_mtu", bridge_above_mtu),
        test("devices::bridge_whose_ports_merge_packets", bridge_merging),
        test_with("devices::bond_and_its_members", BOND, bond),
        test_with(
            "devices::vxlan_in_generic_mode",
            Some(Need::LinkKind("vxlan", "vxlan")),
            vxlan,
        ),
        test("devices::tun_has_no_mac_address", tun),
        test_with(
            "devices::wireguard_has_no_mac_address",
            Some(Need::LinkKind("wireguard", "wireguard")),
            wireguard,
        ),
        test_with(
            "devices::dummy_goes_nowhere",
            Some(Need::LinkKind("dummy", "dummy")),
            dummy,
        ),
    ]
}

/// Three namespaces; the cable on the right is plain.
///
/// ```text
///  left: eth0 ---- eth1 [router] eth2 ---- eth0 :right
/// ```
struct Bed {
    left: Netns,
    netns: Netns,
    right: Netns,
    lab: Lab,
}

impl Bed {
    /// Without the left cable.
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, netns, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(
            End::new(&netns, "eth2").address("10.0.2.1/24"),
            End::new(&right, "eth0"),
        )?;
        Ok(Self {
            left,
            netns,
            right,
            lab,
        })
    }

    fn with_left_cable() -> Result<Self> {
        let bed = Self::new()?;
        link(
            End::new(&bed.left, "eth0")
                .address("10.0.1.2/24")
                .address("fd00:1::2/64"),
            End::new(&bed.netns, "eth1"),
        )?;
        Ok(bed)
    }

    fn take_large_on_the_right(&self) -> Result<()> {
        for (netns, name) in [(&self.netns, "eth2"), (&self.right, "eth0")] {
            netns.ip(&format!("link set dev {name} mtu 9000"))?;
        }
        Ok(())
    }

    fn left(&self) -> Result<Tap> {
        Tap::open(&self.left, "eth0")
    }

    /// The port is `port`, with `wire` as its neighbour; the other side is on the right.
    fn expect_switching(&self, router: &Router, wire: &Tap, port: &str) -> Result<()> {
        let right = Tap::open(&self.right, "eth0")?;
        let one = Side::new(&self.netns, wire, port)?;
        let other = Side::new(&self.netns, &right, "eth2")?;
        expect_way(router, &one, &other).with_context(|| format!("in by {port}, out by eth2"))?;
        expect_way(router, &other, &one).with_context(|| format!("in by eth2, out by {port}"))?;
        let links: Vec<Link> = router.json("link show")?;
        let status: Status = router.json("status")?;
        let modes = links.iter().map(|link| &link.mode);
        ensure!(
            links.len() == 2 && modes.into_iter().all(|mode| *mode == status.mode),
            "{status:?} {links:?}"
        );
        Ok(())
    }

    /// The kernel gets every frame that arrives at a port, and its own frames leave, byte for byte.
    fn expect_untouched(&self, router: &Router, wire: &Tap, port: &str) -> Result<()> {
        let here = Tap::open(&self.netns, port)?;
        unchanged(router, || {
            cross("to the kernel", wire, &here, here.mac())?;
            cross("from the kernel", &here, wire, wire.mac())
        })
    }

    /// Loading and unloading leaves the device as it was.
    fn load_and_unload(&self, device: &str, options: &str, test: impl FnOnce(&Router) -> Result<()>) -> Result<()> {
        let before = self.look(device)?;
        let router = Router::load(&self.netns, options)?;
        test(&router)?;
        router.unload()?;
        let after = self.look(device)?;
        ensure!(before == after, "{device} was\n{before}\nand is\n{after}");
        Ok(())
    }

    /// All settings of a device.
    fn look(&self, device: &str) -> Result<String> {
        let link = self.netns.ip(&format!("-details link show dev {device}"))?;
        let features = self.netns.run(&format!("ethtool --show-features {device}"))?;
        // Bridges and their ports show clocks. In generic mode the kernel switches off the NIC's merging of frames for
        // good, as it does when it forwards.
        let passing = ["hello_timer", "hold_timer", "large-receive-offload", "rx-gro-hw"];
        let lines = link.lines().chain(features.lines());
        let lasting = lines.filter(|line| !passing.iter().any(|word| line.contains(word)));
        Ok(Vec::from_iter(lasting).join("\n"))
    }

    /// Exit status 1, and all of these words.
    fn expect_refusal(&self, options: &str, words: &[&str]) -> Result<()> {
        let refused = Router::load(&self.netns, options).err();
        let refused = refused.with_context(|| format!("`load {options}` was not refused"))?;
        let said = format!("{refused:#}");
        for word in ["exit status: 1"].iter().chain(words) {
            ensure!(said.contains(word), "no \"{word}\" in: {said}");
        }
        Ok(())
    }
}

/// Both peers are in other network namespaces.
fn fix_peers() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    let wire = bed.left()?;
    let peers = [("eth1", &bed.left), ("eth2", &bed.right)];
    for (_, peer) in peers {
        peer.run("ethtool -K eth0 gro off")?;
    }
    let hint = |peer: &Netns| {
        let within = format!("ip netns exec {} ethtool -K eth0 gro", peer.name());
        format!("`{within} off; {within} on`")
    };
    let targets = |router: &Router| -> Result<Vec<Option<bool>>> {
        let links: Vec<Link> = router.json("link show")?;
        Ok(links.iter().map(|link| link.redirect_target).collect())
    };
    let router = Router::load(&bed.netns, PORTS)?;
    ensure!(targets(&router)? == [Some(false); 2], "{:?}", targets(&router)?);
    for (name, peer) in peers {
        let said = router.said();
        let lost = format!("{name}: frames that are redirected to it are lost");
        ensure!(said.contains(&lost) && said.contains(&hint(peer)), "{said}");
    }
    router.unload()?;
    // Also for one that is added later.
    let router = Router::load(&bed.netns, "--iface eth2 --fix-peers")?;
    router.run("link add eth1")?;
    ensure!(targets(&router)? == [Some(true); 2], "{:?}", targets(&router)?);
    let said = router.said();
    ensure!(!said.contains("are lost") && said.contains(&hint(&bed.left)), "{said}");
    bed.expect_switching(&router, &wire, "eth1")?;
    router.unload()
}

/// The frames in `stats` that were redirected to a port but not sent by it.
fn lost(router: &Router, port: &str) -> Result<u64> {
    let stats: Stats = router.json("stats --all")?;
    let counted = stats.reasons.iter().filter(|counter| counter.reason == "redirect-lost");
    let of_port = counted.filter(|counter| counter.port == port);
    let packets: Vec<u64> = of_port.map(|counter| counter.packets).collect();
    ensure!(packets.len() == 1, "{stats:?}");
    Ok(packets[0])
}

fn redirect_lost() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    bed.right.run("ethtool -K eth0 gro off")?;
    let (left, right) = (bed.left()?, Tap::open(&bed.right, "eth0")?);
    // Another instance, in another network namespace, whose interfaces have the same indexes.
    let others = Bed::with_left_cable()?;
    let other = Router::load(&others.netns, PORTS)?;
    let router = Router::load(&bed.netns, PORTS)?;
    let via = format!("via link {} dev eth2", right.mac());
    router.run(&format!("route add 100 as 110 {via}"))?;
    router.run(&format!(
        "route add 101 nexthop as 111 {via} nexthop as 112 via link {} dev eth1",
        left.mac()
    ))?;
    let (from, to) = (
        Side::new(&bed.netns, &left, "eth1")?,
        Side::new(&bed.netns, &right, "eth2")?,
    );
    let send = |payload: &[u8]| from.wire.send(&from.incoming(&[Entry::new(100, 64)], payload));
    let counted = |expected: u64| {
        wait::until(&format!("{expected} lost frames"), PATIENCE, || {
            let lost = lost(&router, "eth2")?;
            ensure!(lost <= expected, "{lost} lost");
            Ok((lost == expected).then_some(()))
        })
    };
    for _ in 0..10 {
        send(&v4(64)?)?;
    }
    counted(10)?;
    ensure!(router.forwarded("100")? == 10, "{}", router.forwarded("100")?);
    ensure!(
        lost(&router, "eth1")? == 0 && lost(&other, "eth2")? == 0,
        "{}",
        router.run("stats")?
    );
    // Marked, in a line that can be used as input.
    let shown = router.run("route show")?;
    let marked: Vec<&str> = shown.lines().filter(|line| line.ends_with(" redirect-lost")).collect();
    ensure!(
        marked.len() == 2 && marked.iter().all(|line| line.contains("dev eth2")),
        "{shown}"
    );
    ensure!(
        router.run("neigh show")?.contains("static redirect-lost"),
        "{}",
        router.run("neigh show")?
    );
    let line = marked
        .iter()
        .find(|line| line.starts_with("100 "))
        .context("no route")?;
    router.run(&format!("route replace {line}"))?;

    bed.right.run("ethtool -K eth0 gro on")?;
    let after = wait::until("routes without a mark", PATIENCE, || {
        let shown = router.run("route show")?;
        Ok((!shown.contains("redirect-lost")).then_some(shown))
    })?;
    ensure!(after.contains("100 as"), "{after}");
    let payload = v4(64)?;
    send(&payload)?;
    let expected = to.outgoing(&[Entry::new(110, 63)], &payload);
    to.wire.receive("a frame that is not lost", |frame| frame == expected)?;
    counted(10)?;

    // This driver refuses frames that are larger than its peer receives.
    bed.right.ip("link set dev eth0 mtu 1000")?;
    for _ in 0..3 {
        send(&[0x5a; 1400])?;
    }
    counted(13)?;
    ensure!(
        lost(&router, "eth1")? == 0 && lost(&other, "eth2")? == 0,
        "{}",
        router.run("stats")?
    );
    router.unload()?;
    other.unload()
}

/// Reported, and fixed if `--fix-peers` is given.
fn gro_later() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    let heard = |router: &Router, times: usize, text: &str| {
        wait::until(&format!("{text}, {times} times"), PATIENCE, || {
            Ok((router.said().matches(text).count() == times).then_some(()))
        })
    };
    let lose = || bed.right.run("ethtool -K eth0 gro off").map(drop);
    let (is_lost, is_fine) = (
        "eth2: frames that are redirected to it are lost",
        "frames that are redirected to it are no longer lost",
    );
    bed.right.run("ethtool -K eth0 gro on")?;
    let router = Router::load(&bed.netns, PORTS)?;
    lose()?;
    heard(&router, 1, is_lost)?;
    ensure!(
        router
            .said()
            .contains(&format!("ip netns exec {} ethtool", bed.right.name())),
        "{}",
        router.said()
    );
    bed.right.run("ethtool -K eth0 gro on")?;
    heard(&router, 1, is_fine)?;
    lose()?;
    heard(&router, 2, is_lost)?;
    router.unload()?;

    let router = Router::load(&bed.netns, &format!("{PORTS} --fix-peers"))?;
    heard(&router, 1, "GRO is on at its veth peer")?;
    lose()?;
    heard(&router, 2, "GRO is on at its veth peer")?;
    ensure!(!router.said().contains(is_lost), "{}", router.said());
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.iter().all(|link| link.redirect_target == Some(true)), "{links:?}");
    router.unload()
}

/// A sub-interface does not see the tags of VLAN devices on its veth peer, which is in another network namespace.
fn hidden_tags() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    let remedy = format!(
        "`ip netns exec {} ethtool -K eth0 txvlan off tx-vlan-stag-hw-insert off`",
        bed.left.name()
    );
    for (state, advised) in [("on", true), ("off", false)] {
        bed.left.run(&format!(
            "ethtool -K eth0 txvlan {state} tx-vlan-stag-hw-insert {state}"
        ))?;
        let router = Router::load(&bed.netns, "--iface eth1.100 --iface eth2")?;
        let said = router.said();
        ensure!(
            said.contains(&remedy) == advised && !said.contains("treats their"),
            "{said}"
        );
        router.unload()?;
    }
    Ok(())
}

/// A port without sub-interfaces treats their frames as untagged.
fn hidden_vlan_devices() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    bed.left.ip("link add link eth0 name customer type vlan id 100")?;
    let router = Router::load(&bed.netns, PORTS)?;
    let said = router.said();
    let warning = format!(
        "eth1: its veth peer eth0 hides the VLAN tags of customer from XDP, which treats their frames as untagged: \
         `ip netns exec {} ethtool -K eth0 txvlan off",
        bed.left.name()
    );
    ensure!(
        said.contains(&warning) && !said.contains("eth2: its veth peer"),
        "{said}"
    );
    router.unload()
}

/// A port, and its neighbour on the wire.
struct Side<'a> {
    wire: &'a Tap,
    port: &'a str,
    mac: Mac,
}

impl<'a> Side<'a> {
    fn new(netns: &Netns, wire: &'a Tap, port: &'a str) -> Result<Self> {
        let mac = netns.mac(port)?;
        Ok(Self { wire, port, mac })
    }

    fn incoming(&self, stack: &[Entry], payload: &[u8]) -> Vec<u8> {
        labelled(self.mac, self.wire.mac(), stack, payload)
    }

    fn outgoing(&self, stack: &[Entry], payload: &[u8]) -> Vec<u8> {
        labelled(self.wire.mac(), self.mac, stack, payload)
    }
}

/// Every operation, and the slow path, from one side to the other.
fn expect_way(router: &Router, from: &Side, to: &Side) -> Result<()> {
    for route in [
        "100 as 110",
        "101 as 200/110",
        "17 as implicit-null",
        "210",
        "10.9.0.0/16 encap mpls 300",
    ] {
        router.run(&format!(
            "route replace {route} via link {} dev {}",
            to.wire.mac(),
            to.port
        ))?;
    }
    let (four, six) = (v4(64)?, v6(64)?);
    let to_ip = |ethertype, packet: &[u8]| ethernet(to.wire.mac(), to.mac, ethertype, packet);
    let large = vec![0x5a; 1400];
    let before = router.forwarded("100")?;
    for (what, sent, expected) in [
        (
            "swap",
            from.incoming(&[Entry::new(100, 64).tc(5)], &four),
            to.outgoing(&[Entry::new(110, 63).tc(5)], &four),
        ),
        (
            "swap of a large frame",
            from.incoming(&[Entry::new(100, 64), Entry::new(7000, 9)], &large),
            to.outgoing(&[Entry::new(110, 63), Entry::new(7000, 9)], &large),
        ),
        (
            "push",
            from.incoming(&[Entry::new(101, 64)], &four),
            to.outgoing(&[Entry::new(200, 63), Entry::new(110, 63)], &four),
        ),
        (
            "pop above another label",
            from.incoming(&[Entry::new(17, 63), Entry::new(146, 63)], &four),
            to.outgoing(&[Entry::new(146, 62)], &four),
        ),
        (
            "pop, IPv4",
            from.incoming(&[Entry::new(210, 62)], &four),
            to_ip(ETH_P_IP, &with_ttl(&four, 61)?),
        ),
        (
            "pop, IPv6",
            from.incoming(&[Entry::new(210, 62)], &six),
            to_ip(ETH_P_IPV6, &with_ttl(&six, 61)?),
        ),
        (
            "imposition",
            ethernet(from.mac, from.wire.mac(), ETH_P_IP, &four),
            to.outgoing(&[Entry::new(300, 63)], &with_ttl(&four, 63)?),
        ),
        (
            "router alert, through the slow path",
            from.incoming(&[Entry::new(1, 64), Entry::new(100, 64)], &four),
            to.outgoing(&[Entry::new(1, 63), Entry::new(110, 63)], &four),
        ),
    ] {
        from.wire.send(&sent)?;
        to.wire.receive(what, |frame| frame == expected)?;
    }
    let swapped = router.forwarded("100")? - before;
    ensure!(swapped >= 2, "the fast path has swapped {swapped}");
    expect_unknown(router, from, 0, 4000)
}

/// A label without a route is reported, on the queue where it arrived.
fn expect_unknown(router: &Router, from: &Side, queue: usize, label: u32) -> Result<()> {
    from.wire
        .send_on(queue, &from.incoming(&[Entry::new(label, 64)], &v4(64)?))?;
    wait::until("an unknown label", PATIENCE, || {
        let heard = router.unknown_labels()?;
        let found = heard
            .iter()
            .any(|unknown| unknown.label == label && unknown.port == from.port);
        Ok(found.then_some(()))
    })
}

/// Frames that are not labelled traffic arrive as they were sent.
fn cross(what: &str, from: &Tap, to: &Tap, destination: Mac) -> Result<()> {
    for (name, frame) in bystanders::all(destination, from.mac()) {
        from.send(&frame)?;
        to.receive(&format!("{name} {what}"), |arrived| arrived == frame)?;
    }
    Ok(())
}

/// Nothing is counted meanwhile.
fn unchanged(router: &Router, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let counted = || -> Result<_> {
        let stats: Stats = router.json("stats")?;
        Ok((stats.reasons, stats.forwarded))
    };
    let before = counted()?;
    what()?;
    let after = counted()?;
    ensure!(before == after, "counted: {before:?}, then {after:?}");
    Ok(())
}

/// Frames of 8918 bytes and more, longer than the port's MTU, are seen whole.
fn expect_large(bed: &Bed, router: &Router, wire: &Tap, port: &str) -> Result<()> {
    const IP_BYTES: usize = 8900;
    let right = Tap::open(&bed.right, "eth0")?;
    let (from, to) = (
        Side::new(&bed.netns, wire, port)?,
        Side::new(&bed.netns, &right, "eth2")?,
    );
    for route in ["100 as 110", "210", "10.9.0.0/16 encap mpls 300"] {
        let neighbour = to.wire.mac();
        router.run(&format!("route add {route} via link {neighbour} dev eth2"))?;
    }
    let data: Vec<u8> = (0..251).cycle().take(IP_BYTES - 28).collect();
    let packet = |ttl| udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, ttl, &data);
    let swap = from.incoming(&[Entry::new(100, 64)], &packet(64)?);
    for (what, sent, expected) in [
        ("swap", &swap, to.outgoing(&[Entry::new(110, 63)], &packet(64)?)),
        (
            "pop",
            &from.incoming(&[Entry::new(210, 64)], &packet(64)?),
            ethernet(to.wire.mac(), to.mac, ETH_P_IP, &packet(63)?),
        ),
        (
            "imposition",
            &ethernet(from.mac, from.wire.mac(), ETH_P_IP, &packet(64)?),
            to.outgoing(&[Entry::new(300, 63)], &packet(63)?),
        ),
    ] {
        wire.send(sent)?;
        right.receive(what, |frame| frame == expected)?;
    }
    let routes: serde_json::Value = router.json("--stats route show 100")?;
    let counted = &routes[0]["stats"]["bytes"];
    ensure!(counted.as_u64() == Some(swap.len() as u64), "counted {counted} bytes");
    // Frames that do not fit are not forwarded.
    bed.netns.ip("link set dev eth2 mtu 1500")?;
    wait::until("the new MTU", PATIENCE, || {
        let links: Vec<Link> = router.json("link show eth2")?;
        Ok((links[0].mtu == 1500).then_some(()))
    })?;
    wire.send(&swap)?;
    wait::until("a frame that is too big", PATIENCE, || {
        Ok((router.dropped("too-big")? == 1).then_some(()))
    })
}

/// ARP and ND work, and so does the traffic that needs them.
fn expect_pings(from: &Netns, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        from.run(&format!("ping -n -c 2 -i 0.2 -W 5 {address}"))?;
    }
    Ok(())
}

fn veth() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    for mode in ["native", "generic"] {
        bed.load_and_unload("eth1", &format!("{PORTS} --mode {mode}"), |router| {
            bed.expect_switching(router, &bed.left()?, "eth1")?;
            bed.expect_untouched(router, &bed.left()?, "eth1")
        })?;
    }
    Ok(())
}

fn tap() -> Result<()> {
    for nonblocking in [true, false] {
        let nic = Nic {
            queues: 1,
            vnet_header: false,
            nonblocking,
        };
        let bed = Bed::new()?;
        nic.make_tap(&bed.netns, "tap0")?;
        let wire = nic.plug(&bed.netns, "tap0")?;
        bed.load_and_unload("tap0", "--iface tap0 --iface eth2", |router| {
            bed.expect_switching(router, &wire, "tap0")?;
            bed.expect_untouched(router, &wire, "tap0")
        })?;
    }
    Ok(())
}

fn tap_with_queues() -> Result<()> {
    let bed = Bed::new()?;
    TWO_QUEUES.make_tap(&bed.netns, "tap0")?;
    let wire = TWO_QUEUES.plug(&bed.netns, "tap0")?;
    bed.load_and_unload("tap0", "--iface tap0 --iface eth2", |router| {
        bed.expect_switching(router, &wire, "tap0")?;
        let side = Side::new(&bed.netns, &wire, "tap0")?;
        expect_unknown(router, &side, 1, 4001)?;
        bed.expect_untouched(router, &wire, "tap0")?;
        // Queues that the VM opens later have no sockets until the port is added again.
        let more = TWO_QUEUES.plug(&bed.netns, "tap0")?;
        let side = Side::new(&bed.netns, &more, "tap0")?;
        more.send(&side.incoming(&[Entry::new(4002, 64)], &v4(64)?))?;
        wait::until("a frame that is unheard", PATIENCE, || {
            let stats: Stats = router.json("stats")?;
            let unheard: u64 = stats.reasons.iter().map(|counter| counter.unheard).sum();
            Ok((unheard == 1).then_some(()))
        })?;
        router.run("link del tap0")?;
        router.run("link add tap0")?;
        expect_unknown(router, &side, 0, 4002)
    })
}

/// The tap stays when the VM ends, like those of libvirt or `ip tuntap`.
fn tap_restart() -> Result<()> {
    let bed = Bed::new()?;
    ONE_QUEUE.make_tap(&bed.netns, "tap0")?;
    // Without the VM, there is no carrier.
    let router = Router::load(&bed.netns, "--iface tap0 --iface eth2")?;
    for _ in 0..2 {
        let wire = ONE_QUEUE.plug(&bed.netns, "tap0")?;
        router.run(&format!("route replace 100 as 110 via link {} dev tap0", wire.mac()))?;
        router.wait_resolved()?;
        bed.expect_switching(&router, &wire, "tap0")?;
    }
    router.unload()
}

/// A tap accepts native mode at any MTU: for a frame that does not fit a page, the program runs on its skb.
fn jumbo_taps() -> Result<()> {
    let bed = Bed::new()?;
    let names = ["tap0", "tap1"];
    for name in names {
        ONE_QUEUE.make_tap(&bed.netns, name)?;
        bed.netns.ip(&format!("link set dev {name} mtu 9000"))?;
    }
    let (one, other) = (ONE_QUEUE.plug(&bed.netns, "tap0")?, ONE_QUEUE.plug(&bed.netns, "tap1")?);
    let router = Router::load(&bed.netns, "--iface tap0 --iface tap1")?;
    let said = router.said_at_load()?;
    let warnings = said.matches("its driver cannot send redirected multi-buffer frames");
    ensure!(warnings.count() == 2, "{said}");
    let sides = [
        Side::new(&bed.netns, &one, "tap0")?,
        Side::new(&bed.netns, &other, "tap1")?,
    ];
    for (from, to) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
        for route in ["100 as 110", "101 as 200/110", "17 as implicit-null"] {
            let neighbour = to.wire.mac();
            router.run(&format!("route replace {route} via link {neighbour} dev {}", to.port))?;
        }
        for length in [3000, 4096, 8980] {
            let payload = vec![0x5a; length];
            for (label, below) in [
                (100, &[Entry::new(110, 63)][..]),
                (101, &[Entry::new(200, 63), Entry::new(110, 63)]),
            ] {
                from.wire.send(&from.incoming(&[Entry::new(label, 64)], &payload))?;
                let expected = to.outgoing(below, &payload);
                let what = format!("{length} bytes under {below:?}");
                to.wire.receive(&what, |frame| frame == expected)?;
            }
            from.wire
                .send(&from.incoming(&[Entry::new(17, 64), Entry::new(146, 64)], &payload))?;
            let expected = to.outgoing(&[Entry::new(146, 63)], &payload);
            to.wire
                .receive(&format!("{length} bytes, popped"), |frame| frame == expected)?;
        }
    }
    router.unload()
}

/// A tap does not compare what a VM sends with its MTU.
fn vm_above_mtu() -> Result<()> {
    let bed = Bed::new()?;
    bed.take_large_on_the_right()?;
    ONE_QUEUE.make_tap(&bed.netns, "tap0")?;
    let wire = ONE_QUEUE.plug(&bed.netns, "tap0")?;
    let router = Router::load(&bed.netns, "--iface tap0 --iface eth2")?;
    expect_large(&bed, &router, &wire, "tap0")?;
    router.unload()
}

/// A port that was only sent to has a socket on one queue.
fn late_queues() -> Result<()> {
    let bed = Bed::new()?;
    TWO_QUEUES.make_tap(&bed.netns, "tap0")?;
    let wire = TWO_QUEUES.plug(&bed.netns, "tap0")?;
    let router = Router::load(&bed.netns, "--tx-only tap0 --iface eth2")?;
    // First it only holds the program for its sub-interface, then it is a port that switches.
    router.run("link add tap0.100 tx-only")?;
    router.run("link del tap0")?;
    router.run("link add tap0")?;
    let side = Side::new(&bed.netns, &wire, "tap0")?;
    for queue in [1, 0] {
        expect_unknown(&router, &side, queue, 4000 + queue as u32)?;
    }
    router.unload()
}

fn taken_queue() -> Result<()> {
    let bed = Bed::new()?;
    TWO_QUEUES.make_tap(&bed.netns, "tap0")?;
    let wire = TWO_QUEUES.plug(&bed.netns, "tap0")?;
    let router = Router::load(&bed.netns, "--tx-only tap0 --iface eth2")?;
    let right = Tap::open(&bed.right, "eth0")?;
    let from = Side::new(&bed.netns, &right, "eth2")?;
    router.run(&format!("route add 100 as 110 via link {} dev tap0", wire.mac()))?;
    let expect_answer = |what: &str| -> Result<()> {
        right.send(&from.incoming(&[Entry::new(100, 1)], &v4(64)?))?;
        wire.receive(what, |frame| IcmpError::read(frame).is_some()).map(drop)
    };
    expect_answer("Time Exceeded")?;
    let other = bed.netns.within(|| occupy_queue("tap0", 1))?;
    let refused = router.run("link add tap0.100").err().context("it was not refused")?;
    let said = format!("{refused:#}");
    ensure!(
        said.contains("queue 1 of tap0") && said.contains("another program has an AF_XDP socket there"),
        "{said}"
    );
    expect_answer("Time Exceeded, after a refusal")?;
    drop(other);
    router.run("link add tap0.100")?;
    expect_answer("Time Exceeded, with more queues")?;
    let side = Side::new(&bed.netns, &wire, "tap0")?;
    for queue in [0, 1] {
        let label = 4000 + queue as u32;
        let frame = side.incoming(&[Entry::new(label, 64)], &v4(64)?);
        wire.send_on(queue, &tagged(&[(ETH_P_8021Q, 100)], &frame))?;
        wait::until("an unknown label", PATIENCE, || {
            let heard = router.unknown_labels()?;
            let found = |unknown: &UnknownLabel| unknown.label == label && unknown.port == "tap0.100";
            Ok(heard.iter().any(found).then_some(()))
        })?;
    }
    router.unload()
}

/// Occupies a queue of an interface, as another program's AF_XDP socket does: no other socket can be opened there.
fn occupy_queue(interface: &str, queue: u32) -> Result<OwnedFd> {
    const CHUNK: u32 = 2048;
    let ring: u32 = 64;

    // SAFETY: the call takes no memory.
    let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(socket >= 0, "no AF_XDP socket: {}", std::io::Error::last_os_error());
    // SAFETY: it was just opened, and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // It is freed with the process.
    let memory = Vec::leak(vec![0u64; (ring * CHUNK) as usize / size_of::<u64>() + 512]);
    let umem = libc::xdp_umem_reg {
        addr: (memory.as_ptr() as u64).next_multiple_of(4096),
        len: (ring * CHUNK).into(),
        chunk_size: CHUNK,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    let set = |option, value: *const libc::c_void, length: usize| -> Result<()> {
        // SAFETY: the value is that long, and outlives the call.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_XDP,
                option,
                value,
                length as libc::socklen_t,
            )
        };
        ensure!(done == 0, "option {option}: {}", std::io::Error::last_os_error());
        Ok(())
    };
    set(libc::XDP_UMEM_REG, (&raw const umem).cast(), size_of_val(&umem))?;
    for option in [
        libc::XDP_UMEM_FILL_RING,
        libc::XDP_UMEM_COMPLETION_RING,
        libc::XDP_RX_RING,
    ] {
        set(option, (&raw const ring).cast(), size_of_val(&ring))?;
    }
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: nix::net::if_::if_nametoindex(interface)?,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is that long, and outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(bound == 0, "cannot bind: {}", std::io::Error::last_os_error());
    Ok(socket)
}

fn macvlan_parent() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    bed.netns.ip("address add 10.0.1.1/24 dev eth1")?;
    let child = bed.lab.netns("child")?;
    bed.netns.ip("link add link eth1 name mv0 type macvlan mode bridge")?;
    bed.netns.ip(&format!("link set dev mv0 netns {}", child.name()))?;
    for command in [
        "address add 10.0.1.9/24 dev mv0",
        "address add fd00:1::9/64 dev mv0",
        "link set dev mv0 up",
    ] {
        child.ip(command)?;
    }
    bed.load_and_unload("eth1", PORTS, |router| {
        let (wire, beside) = (bed.left()?, Tap::open(&child, "mv0")?);
        bed.expect_switching(router, &wire, "eth1")?;
        bed.expect_untouched(router, &wire, "eth1")?;
        unchanged(router, || {
            cross("to the macvlan", &wire, &beside, beside.mac())?;
            cross("from the macvlan", &beside, &wire, wire.mac())
        })?;
        // Labels for the child are not the port's.
        let foreign = labelled(beside.mac(), wire.mac(), &[Entry::new(100, 64)], &v4(64)?);
        unchanged(router, || {
            wire.send(&foreign)?;
            beside
                .receive("labels for the macvlan", |frame| frame == foreign)
                .map(drop)
        })?;
        expect_pings(&bed.left, &["10.0.1.9", "fd00:1::9", "10.0.1.1"])?;
        expect_pings(&child, &["10.0.1.2", "fd00:1::2"])?;
        // A neighbour on the parent's own address.
        router.add_routes(&["500 as 510 via inet 10.0.1.2"])?;
        let right = Tap::open(&bed.right, "eth0")?;
        let (from, to) = (
            Side::new(&bed.netns, &right, "eth2")?,
            Side::new(&bed.netns, &wire, "eth1")?,
        );
        right.send(&from.incoming(&[Entry::new(500, 64)], b"x"))?;
        let expected = to.outgoing(&[Entry::new(510, 63)], b"x");
        wire.receive("by ARP on the parent", |frame| frame == expected)
            .map(drop)
    })
}

fn macvtap_parent() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    bed.netns.ip("link add link eth1 name mt0 type macvtap mode bridge")?;
    // Without this a macvtap accepts only the multicast that the VM asks for; LLDP, for example, must be asked for.
    bed.netns.ip("link set dev mt0 allmulticast on up")?;
    let machine = vm::plug_macvtap(&bed.netns, "mt0")?;
    bed.load_and_unload("eth1", PORTS, |router| {
        let wire = bed.left()?;
        bed.expect_switching(router, &wire, "eth1")?;
        bed.expect_untouched(router, &wire, "eth1")?;
        unchanged(router, || {
            cross("to the VM", &wire, &machine, machine.mac())?;
            cross("from the VM", &machine, &wire, wire.mac())
        })
    })
}

fn macvlan() -> Result<()> {
    for (name, kind) in [("mv0", "macvlan"), ("mt0", "macvtap")] {
        let bed = Bed::with_left_cable()?;
        bed.netns
            .ip(&format!("link add link eth1 name {name} type {kind} mode bridge"))?;
        bed.netns.ip(&format!("link set dev {name} up"))?;
        let options = format!("--iface {name} --iface eth2");
        bed.expect_refusal(&options, &[kind, "use eth1", "--mode generic"])?;
        bed.load_and_unload(name, &format!("{options} --mode generic"), |router| {
            bed.expect_switching(router, &bed.left()?, name)?;
            bed.expect_untouched(router, &bed.left()?, name)
        })?;
    }
    Ok(())
}

/// `eth1`, or an interface with another name, in a bridge with `eth3`, whose other end is `eth0` of the returned
/// namespace. The router's addresses are the bridge's.
fn make_bridge(bed: &Bed, port: &str) -> Result<Netns> {
    let beyond = bed.lab.netns("beyond")?;
    link(
        End::new(&bed.netns, "eth3"),
        End::new(&beyond, "eth0").address("10.0.1.3/24").address("fd00:1::3/64"),
    )?;
    for command in [
        // A bridge forwards LLDP only if it is configured to, and acts on the IGMP that it sees.
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 group_fwd_mask 0x4000",
        "link set dev br0 address 02:00:00:00:00:b0",
        &format!("link set dev {port} master br0"),
        "link set dev eth3 master br0",
        "link set dev br0 up",
        "address add 10.0.1.1/24 dev br0",
        "address add fd00:1::1/64 dev br0",
    ] {
        bed.netns.ip(command)?;
    }
    Ok(beyond)
}

fn bridge_port() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    let beyond = make_bridge(&bed, "eth1")?;
    bed.load_and_unload("eth1", PORTS, |router| {
        let (wire, across) = (bed.left()?, Tap::open(&beyond, "eth0")?);
        bed.expect_switching(router, &wire, "eth1")?;
        unchanged(router, || {
            cross("across the bridge", &wire, &across, across.mac())?;
            cross("back across the bridge", &across, &wire, wire.mac())
        })?;
        expect_pings(&bed.left, &["10.0.1.1", "fd00:1::1", "10.0.1.3", "fd00:1::3"])?;
        expect_pings(&beyond, &["10.0.1.1", "fd00:1::1", "10.0.1.2", "fd00:1::2"])?;
        // The addresses are the bridge's, and ICMP errors come from there, not from another port's.
        let side = Side::new(&bed.netns, &wire, "eth1")?;
        wire.send(&side.incoming(&[Entry::new(100, 1)], &v4(64)?))?;
        wire.receive("Time Exceeded from 10.0.1.1", |frame| {
            let error = IcmpError::read(frame).and_then(Result::ok);
            error.is_some_and(|error| error.kind == TIME_EXCEEDED_V4 && error.source == IpAddr::from([10, 0, 1, 1]))
        })?;
        // Packets that end here are received by the bridge, also those of the slow path.
        router.run("route add 106 dev lo")?;
        let socket = bed
            .netns
            .within(|| UdpSocket::bind("10.0.1.1:5000").context("no socket in the router"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        for stack in [&[Entry::new(106, 64)][..], &[Entry::new(1, 64), Entry::new(106, 64)]] {
            let packet = udp("10.0.1.2".parse()?, "10.0.1.1".parse()?, 64, b"to the bridge")?;
            wire.send(&side.incoming(stack, &packet))?;
            let length = socket.recv(&mut [0; 100]).with_context(|| format!("{stack:?}"))?;
            ensure!(length == b"to the bridge".len(), "{length} bytes");
        }
        router.run("route del 106")?;
        // Labels for the bridge's own MAC address are left to the bridge, and a warning says so.
        let (bridge, mac) = (Tap::open(&bed.netns, "br0")?, bed.netns.mac("eth1")?);
        let foreign = labelled(bridge.mac(), wire.mac(), &[Entry::new(100, 64)], &v4(64)?);
        unchanged(router, || {
            wire.send(&foreign)?;
            bridge
                .receive("labels for the bridge", |frame| frame == foreign)
                .map(drop)
        })?;
        let said = router.said();
        let remedy = format!("ip link set dev br0 address {mac}");
        ensure!(said.contains(&remedy), "no \"{remedy}\" in: {said}");
        // The warning's advice works: a neighbour that resolves the bridge's address reaches the port.
        bed.netns.ip(&format!("link set dev br0 address {mac}"))?;
        bed.left.ip("neighbour flush dev eth0")?;
        expect_pings(&bed.left, &["10.0.1.1", "10.0.1.3"])?;
        let known = bed.left.ip("neighbour show to 10.0.1.1 dev eth0")?;
        ensure!(known.contains(&mac.to_string()), "no {mac} in {known}");
        bed.expect_switching(router, &wire, "eth1")
    })
}

fn bridge_port_tap() -> Result<()> {
    let bed = Bed::new()?;
    ONE_QUEUE.make_tap(&bed.netns, "tap0")?;
    let wire = ONE_QUEUE.plug(&bed.netns, "tap0")?;
    let beyond = make_bridge(&bed, "tap0")?;
    bed.load_and_unload("tap0", "--iface tap0 --iface eth2", |router| {
        bed.expect_switching(router, &wire, "tap0")?;
        let across = Tap::open(&beyond, "eth0")?;
        unchanged(router, || {
            cross("from the VM across the bridge", &wire, &across, across.mac())?;
            cross("to the VM across the bridge", &across, &wire, wire.mac())
        })
    })
}

fn bridge_next_hops() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    let _beyond = make_bridge(&bed, "eth1")?;
    let router = Router::load(&bed.netns, PORTS)?;
    for route in ["500 as 510 via inet 10.0.1.2", "500 as 510 via inet 10.0.1.2 dev br0"] {
        let refused = router.run(&format!("route add {route}")).err();
        let said = format!("{:#}", refused.with_context(|| format!("{route} was not refused"))?);
        ensure!(
            said.contains("br0 is not a port") && said.contains("use `dev eth1`"),
            "{said}"
        );
    }
    router.add_routes(&[
        "500 as 510 via inet 10.0.1.2 dev eth1",
        "501 as 511 via inet6 fd00:1::2 dev eth1",
    ])?;
    let (wire, right) = (bed.left()?, Tap::open(&bed.right, "eth0")?);
    let (from, to) = (
        Side::new(&bed.netns, &right, "eth2")?,
        Side::new(&bed.netns, &wire, "eth1")?,
    );
    let expect = |what: &str, label: u32| -> Result<()> {
        right.send(&from.incoming(&[Entry::new(label, 64)], b"payload"))?;
        let expected = to.outgoing(&[Entry::new(label + 10, 63)], b"payload");
        wire.receive(what, |frame| frame == expected).map(drop)
    };
    expect("by ARP on the bridge", 500)?;
    expect("by ND on the bridge", 501)?;
    // Out of the bridge, the addresses go with the port.
    bed.netns.ip("link set dev eth1 nomaster")?;
    bed.netns.ip("address del 10.0.1.1/24 dev br0")?;
    bed.netns.ip("address add 10.0.1.1/24 dev eth1")?;
    router.run("route add 502 as 512 via inet 10.0.1.2 dev eth1")?;
    router.run("route del 501")?;
    router.wait_resolved()?;
    expect("by ARP on the port", 502)?;
    expect("by ARP on the port, added before", 500)?;
    router.unload()
}

fn bridge() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    let _beyond = make_bridge(&bed, "eth1")?;
    let options = "--iface br0 --iface eth2";
    bed.expect_refusal(options, &["br0 is a bridge", "eth1", "eth3", "--mode generic"])?;
    // The bridge's program does not see the tags of frames on its ports.
    bed.expect_refusal(
        "--iface br0.100 --mode generic",
        &["br0 is a bridge", "no VLAN on it can be a port"],
    )?;
    bed.load_and_unload("br0", &format!("{options} --mode generic"), |router| {
        bed.expect_switching(router, &bed.left()?, "br0")?;
        bed.expect_untouched(router, &bed.left()?, "br0")?;
        router.add_routes(&["500 as 510 via inet 10.0.1.2"])
    })
}

fn bridge_above_mtu() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    bed.take_large_on_the_right()?;
    for (netns, name) in [(&bed.left, "eth0"), (&bed.netns, "eth1")] {
        netns.ip(&format!("link set dev {name} mtu 9000"))?;
    }
    let _beyond = make_bridge(&bed, "eth1")?;
    bed.netns.ip("link set dev br0 mtu 1500")?;
    let router = Router::load(&bed.netns, "--iface br0 --iface eth2 --mode generic")?;
    expect_large(&bed, &router, &bed.left()?, "br0")?;
    router.unload()
}

fn bridge_merging() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    let _beyond = make_bridge(&bed, "eth1")?;
    for (gro, advised) in [("on", true), ("off", false)] {
        bed.netns.run(&format!("ethtool -K eth1 gro {gro}"))?;
        let router = Router::load(&bed.netns, "--iface br0 --iface eth2 --mode generic")?;
        let said = router.said_at_load()?;
        ensure!(said.contains("ethtool -K eth1 gro off") == advised, "{said}");
        router.unload()?;
    }
    Ok(())
}

fn bond() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    for command in [
        "link add bond0 type bond mode active-backup",
        "link set dev eth1 down",
        "link set dev eth1 master bond0",
        "link set dev bond0 up",
    ] {
        bed.netns.ip(command)?;
    }
    wait::until("the carrier of the bond", PATIENCE, || {
        Ok(bed.netns.ip("link show dev bond0")?.contains("state UP").then_some(()))
    })?;
    let member = &[
        "eth1 is a member of bond0",
        "nomaster",
        "bond0 itself with `--mode generic`",
    ];
    for mode in ["native", "generic"] {
        bed.expect_refusal(&format!("{PORTS} --mode {mode}"), member)?;
    }
    let options = "--iface bond0 --iface eth2";
    bed.expect_refusal(options, &["bond0 is a bond", "--mode generic"])?;
    bed.load_and_unload("bond0", &format!("{options} --mode generic"), |router| {
        bed.expect_switching(router, &bed.left()?, "bond0")?;
        bed.expect_untouched(router, &bed.left()?, "bond0")
    })
}

fn vxlan() -> Result<()> {
    let bed = Bed::with_left_cable()?;
    bed.netns.ip("address add 10.0.1.1/24 dev eth1")?;
    for (netns, local, remote, lower) in [
        (&bed.left, "10.0.1.2", "10.0.1.1", "eth0"),
        (&bed.netns, "10.0.1.1", "10.0.1.2", "eth1"),
    ] {
        netns.ip(&format!(
            "link add vx0 type vxlan id 5 local {local} remote {remote} dstport 4789 dev {lower}"
        ))?;
        netns.ip("link set dev vx0 up")?;
    }
    let options = "--iface vx0 --iface eth2";
    bed.expect_refusal(
        options,
        &["vx0: its driver (vxlan) has no native XDP", "--mode generic"],
    )?;
    let wire = Tap::open(&bed.left, "vx0")?;
    bed.load_and_unload("vx0", &format!("{options} --mode generic"), |router| {
        bed.expect_switching(router, &wire, "vx0")?;
        bed.expect_untouched(router, &wire, "vx0")
    })
}

fn tun() -> Result<()> {
    let bed = Bed::new()?;
    bed.netns.ip("tuntap add dev tun0 mode tun")?;
    bed.netns.ip("link set dev tun0 up")?;
    bed.expect_refusal(
        "--iface tun0",
        &["tun0 (tun)", "no MAC address", "a tap instead of a tun"],
    )
}

fn wireguard() -> Result<()> {
    let bed = Bed::new()?;
    bed.netns.ip("link add wg0 type wireguard")?;
    bed.netns.ip("link set dev wg0 up")?;
    bed.expect_refusal("--iface wg0", &["wg0 (wireguard)", "no MAC address", "a vxlan over"])
}

fn dummy() -> Result<()> {
    let bed = Bed::new()?;
    bed.netns.ip("link add dummy0 type dummy")?;
    bed.netns.ip("link set dev dummy0 up")?;
    for mode in ["native", "generic"] {
        bed.expect_refusal(
            &format!("--iface dummy0 --mode {mode}"),
            &["dummy0 is a dummy interface", "`dev lo`"],
        )?;
    }
    Ok(())
}

//! Labels of VRFs: the program asks the kernel's FIB in a network namespace, through BPF_PROG_TEST_RUN, and the host asks
//! the same routes in memory. What is forwarded, and every byte of it, must be as expected on both sides. The kernel needs
//! no VRF for this: asked by the index of an interface that is in none, it looks in the table `main`. Needs root.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use mplsxdp::dataplane::Tables;
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::loader::{Loader, Program};
use mplsxdp::dataplane::memory::{FibNextHop, FibRoute, MemoryTables};
use mplsxdp::lfib::{Budget, Lfib, Mode, VrfDevice};
use mplsxdp::route::{Owner, line};
use mplsxdp_common::abi::{Adjacency, Checksum, Counter, CrossConnect, PortWord, Reason, Settings, TtlMode};
use mplsxdp_common::forward::Verdict;
use mplsxdp_common::wire::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, Mac};
use mplsxdp_tests::conformance::kernel::{LOOPBACK, SIZES, XDP_PASS, XDP_REDIRECT, test_run};
use mplsxdp_tests::conformance::lab::{self, TX_PORTS};
use mplsxdp_tests::conformance::notation::{OWN_MAC, PEER_MAC};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, tagged, udp, with_ttl};
use mplsxdp_tests::{Lab, Netns};

/// The neighbour behind `ce`, and the one behind `ce2`, whose frames get a tag as if it were a VLAN device.
const CE: Mac = Mac([2, 0, 0, 0, 0xce, 1]);
const CE_VLAN: Mac = Mac([2, 0, 0, 0, 0xce, 2]);
/// The routing table of the VRF, as far as prefix routes are concerned.
const TABLE: u32 = 10;
/// Of `ce`.
const MTU: usize = 600;
/// Of the routes by `ce2`, which is less than its own.
const VLAN_MTU: usize = 400;
const LABEL: u32 = 500;
const PORT: u32 = 0;

/// Both sides.
struct Twins {
    netns: Netns,
    loader: Loader,
    /// By their settings.
    programs: HashMap<u64, Program>,
    host: Lfib<MemoryTables>,
    kernel: Lfib<KernelTables>,
    /// Of `ce` and `ce2`.
    macs: [Mac; 2],
    _lab: Lab,
}

fn ifindex(netns: &Netns, name: &str) -> Result<u32> {
    let shown = netns.ip(&format!("-oneline link show dev {name}"))?;
    let number = shown.split(':').next().and_then(|number| number.trim().parse().ok());
    number.with_context(|| format!("{name} has no number"))
}

/// The customer's side of a PE: networks behind a neighbour, behind one in a VLAN, and what only the kernel can handle.
fn customer(lab: &Lab) -> Result<Netns> {
    let netns = lab.netns("pe")?;
    netns.sysctl("ipv4/ip_forward", "1")?;
    netns.sysctl("ipv6/conf/all/forwarding", "1")?;
    for line in [
        "link add ce type veth peer name ce-peer",
        "link add other type veth peer name other-peer",
        "link add ce2 type veth peer name ce2-peer",
    ] {
        netns.ip(line)?;
    }
    netns.ip(&format!("link set ce mtu {MTU}"))?;
    for name in ["ce", "ce-peer", "other", "other-peer", "ce2", "ce2-peer"] {
        netns.ip(&format!("link set {name} up"))?;
    }
    for line in [
        "addr add 10.0.1.1/24 dev ce".to_owned(),
        "addr add 10.0.2.1/24 dev other".to_owned(),
        "addr add 10.0.3.1/24 dev ce2".to_owned(),
        format!("neigh add 10.0.1.2 lladdr {CE} dev ce nud permanent"),
        format!("neigh add 10.0.2.2 lladdr {CE} dev other nud permanent"),
        format!("neigh add 10.0.3.2 lladdr {CE_VLAN} dev ce2 nud permanent"),
        "route add 10.4.0.0/16 via 10.0.1.2".to_owned(),
        "route add 10.5.0.0/16 via 10.0.1.3".to_owned(),
        "route add 10.6.0.0/16 via 10.0.2.2".to_owned(),
        format!("route add 10.7.0.0/16 via 10.0.3.2 mtu lock {VLAN_MTU}"),
        "route add blackhole 10.8.0.0/16".to_owned(),
        // A default route also covers what is never forwarded.
        "route add default via 10.0.1.2".to_owned(),
    ] {
        netns.ip(&line)?;
    }
    // The kernel does without IPv6 where the MTU is below 1280.
    netns.ip("link add six type veth peer name six-peer")?;
    netns.ip("link set six up")?;
    netns.ip("link set six-peer up")?;
    for line in [
        "-6 addr add 2001:db8:1::1/64 dev six nodad".to_owned(),
        format!("-6 neigh add 2001:db8:1::2 lladdr {CE} dev six nud permanent"),
        "-6 route add 2001:db8:4::/48 via 2001:db8:1::2".to_owned(),
        "-6 route add 2001:db8:5::/48 via 2001:db8:1::3".to_owned(),
    ] {
        netns.ip(&line)?;
    }
    Ok(netns)
}

/// Fills the VRF's domain, in which one prefix is imposed.
fn install<T: Tables>(mut tables: T, vrf: u32, ways_out: &[(u32, CrossConnect)]) -> Result<Lfib<T>> {
    for &(ifindex, way_out) in ways_out {
        tables.set_way_out(ifindex, way_out)?;
    }
    tables.store_port(PORT as u16, PortWord::new(OWN_MAC, PortWord::MPLS));
    let mut lfib = Lfib::new(tables);
    let device = VrfDevice {
        ifindex: vrf,
        table: TABLE,
    };
    lfib.set_vrf_devices(BTreeMap::from([(Arc::from("red"), device)]));
    ensure!(lfib.use_vrf(TABLE), "no domain");
    lfib.add_claims(TABLE, BTreeMap::new(), None);
    let routes = [
        format!("{LABEL} vrf red pass"),
        format!("{} vrf red pass ttl-propagate disabled", LABEL + 1),
        format!("{} vrf blue pass", LABEL + 2),
        format!("{} dev lo", LABEL + 3),
        format!("10.9.0.0/16 encap mpls 900 via inet 192.0.2.1 dev a table {TABLE}"),
        format!("10.10.0.0/16 pass table {TABLE}"),
    ];
    let routes: Result<Vec<_>, _> = routes.iter().map(|text| line::route(text, line::Family::Any)).collect();
    lfib.change(Mode::Add, Owner::STATIC, &routes?)?;
    while lfib.has_domain_steps() {
        lfib.domain_step(&mut Budget::new(usize::MAX, &mut || false))?;
    }
    lfib.follow_vrfs();
    let next_hops: Vec<_> = lfib
        .next_hops()
        .all()
        .map(|(id, next_hop)| (id, next_hop.clone()))
        .collect();
    for (id, next_hop) in next_hops {
        let neighbour = lab::neighbours()
            .into_iter()
            .find(|neighbour| Some(neighbour.dev) == next_hop.dev.as_deref());
        lfib.set_next_hop(id, neighbour.and_then(|neighbour| neighbour.adjacency));
    }
    Ok(lfib)
}

impl Twins {
    fn new() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "this test loads the XDP program into the kernel: run it as root, as `cargo xtask test` does"
        );
        let lab = Lab::new()?;
        let netns = customer(&lab)?;
        let [ce, other, vlan, six] = ["ce", "other", "ce2", "six"].map(|name| ifindex(&netns, name));
        let (ce, other, vlan, six) = (ce?, other?, vlan?, six?);
        let macs = [netns.mac("ce")?, netns.mac("ce2")?];
        let longest = MTU as u16 + 18;
        let way_out = CrossConnect::new(TX_PORTS[1], longest);
        let ways_out = [
            (ce, way_out),
            (vlan, way_out.with_tags(&[(ETH_P_8021Q, 100)])),
            (
                six,
                CrossConnect::new(TX_PORTS[2], 1518).with_tags(&[(ETH_P_8021AD, 7), (ETH_P_8021Q, 8)]),
            ),
        ];
        let mut memory = MemoryTables::with_capacity(lab::CAPACITY);
        let to = |ifindex, mtu, source, destination| {
            Some(FibNextHop {
                ifindex,
                mtu,
                source,
                destination,
            })
        };
        let six_mac = netns.mac("six")?;
        let routes = [
            ("0.0.0.0/0", to(ce, MTU, macs[0], CE)),
            ("10.0.1.1/32", None),
            ("10.0.1.2/32", to(ce, MTU, macs[0], CE)),
            ("10.0.1.255/32", None),
            ("10.4.0.0/16", to(ce, MTU, macs[0], CE)),
            ("10.5.0.0/16", None),
            ("10.6.0.0/16", to(other, 1500, Mac::ZERO, CE)),
            ("10.7.0.0/16", to(vlan, VLAN_MTU, macs[1], CE_VLAN)),
            ("10.8.0.0/16", None),
            ("2001:db8:4::/48", to(six, 1500, six_mac, CE)),
            ("2001:db8:5::/48", None),
        ];
        for (prefix, to) in routes {
            memory.fib.push(FibRoute {
                vrf: six,
                prefix: prefix.parse()?,
                to,
            });
        }
        let host = install(memory, six, &ways_out)?;
        let (loader, kernel) = netns.within(|| {
            let loader = Loader::new(SIZES)?;
            let mut tables = KernelTables::open(loader.pins(), 0)?;
            for port in TX_PORTS {
                tables.set_tx_port(port, LOOPBACK)?;
            }
            Ok((loader, install(tables, six, &ways_out)?))
        })?;
        Ok(Self {
            netns,
            loader,
            programs: HashMap::new(),
            host,
            kernel,
            macs,
            _lab: lab,
        })
    }

    /// What both sides make of a frame; `None`: it is left to the kernel as it arrived.
    fn run(&mut self, settings: Settings, frame: &[u8]) -> Result<Option<(u16, Vec<u8>)>> {
        let Self {
            netns,
            loader,
            programs,
            host,
            kernel,
            ..
        } = self;
        let by_host = lab::run(host.tables(), settings, frame);
        let program = match programs.entry(settings.to_bits()) {
            hash_map::Entry::Occupied(found) => found.into_mut(),
            hash_map::Entry::Vacant(place) => place.insert(loader.program(settings)?),
        };
        let before = kernel.tables().reason_counter(PORT as u16, Reason::Vrf)?;
        let by_kernel = netns.within(|| test_run(program, frame, 0))?;
        let counted = kernel.tables().reason_counter(PORT as u16, Reason::Vrf)?;
        match by_host.verdict {
            Verdict::Forward { port } => {
                ensure!(
                    (by_kernel.action, &by_kernel.frame) == (XDP_REDIRECT, &by_host.frame),
                    "host {port} {:02x?}\nkernel {} {:02x?}",
                    by_host.frame,
                    by_kernel.action,
                    by_kernel.frame
                );
                let one = Counter {
                    packets: before.packets + 1,
                    bytes: before.bytes + frame.len() as u64,
                };
                ensure!(counted == one, "{before:?} {counted:?}");
                Ok(Some((port, by_host.frame)))
            }
            Verdict::Exception(Reason::PassRoute) => {
                ensure!(by_host.frame == frame && by_host.counted.is_empty(), "{by_host:02x?}");
                ensure!(
                    by_kernel.action == XDP_PASS && by_kernel.frame == frame && counted == before,
                    "kernel {} {:02x?}",
                    by_kernel.action,
                    by_kernel.frame
                );
                Ok(None)
            }
            other => anyhow::bail!("{other:?}, XDP action {}", by_kernel.action),
        }
    }
}

fn settings(mode: TtlMode) -> Settings {
    Settings::new(PORT, mode, 200, false, false)
}

fn all_settings() -> Vec<Settings> {
    let modes = [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux].map(settings);
    let others = [
        settings(TtlMode::Uniform).with_checksum(Checksum::Finish),
        Settings::new(PORT, TtlMode::Uniform, 200, true, false).with_frags(true),
    ];
    modes.into_iter().chain(others).collect()
}

fn packet(destination: &str, ttl: u8, data: usize) -> Result<Vec<u8>> {
    let destination: IpAddr = destination.parse()?;
    let source = match destination {
        IpAddr::V4(_) => "192.0.2.1",
        IpAddr::V6(_) => "2001:db8:ffff::1",
    };
    udp(source.parse()?, destination, ttl, &vec![7; data])
}

fn under(stack: &[Entry], packet: &[u8]) -> Vec<u8> {
    labelled(OWN_MAC, PEER_MAC, stack, packet)
}

#[test]
fn a_packet_is_sent_as_the_vrf_routes_it() -> Result<()> {
    let mut twins = Twins::new()?;
    let [ce, vlan] = twins.macs;
    let six = twins.netns.mac("six")?;
    let to_ce = |packet: &[u8]| ethernet(CE, ce, ETH_P_IP, packet);
    for settings in all_settings() {
        let popped = if settings.ttl_mode() == TtlMode::Pipe { 39 } else { 63 };
        let sent = |twins: &mut Twins, stack: &[Entry], packet: &[u8]| twins.run(settings, &under(stack, packet));
        let label = [Entry::new(LABEL, 64)];
        // Behind a neighbour, on its link, and by the default route.
        for destination in ["10.4.1.2", "10.0.1.2", "198.51.100.1"] {
            let out = sent(&mut twins, &label, &packet(destination, 40, 20)?)?;
            assert_eq!(
                out,
                Some((TX_PORTS[1], to_ce(&packet(destination, popped, 20)?))),
                "{destination}"
            );
        }
        // In a VLAN, and under two tags.
        let out = sent(&mut twins, &label, &packet("10.7.0.1", 40, 20)?)?;
        let plain = ethernet(CE_VLAN, vlan, ETH_P_IP, &packet("10.7.0.1", popped, 20)?);
        assert_eq!(out, Some((TX_PORTS[1], tagged(&[(ETH_P_8021Q, 100)], &plain))));
        let out = sent(&mut twins, &label, &packet("2001:db8:4::9", 40, 20)?)?;
        let plain = ethernet(CE, six, ETH_P_IPV6, &packet("2001:db8:4::9", popped, 20)?);
        let tags = [(ETH_P_8021AD, 7), (ETH_P_8021Q, 8)];
        assert_eq!(out, Some((TX_PORTS[2], tagged(&tags, &plain))));
        // A route of its own says how the TTL crosses.
        let out = sent(&mut twins, &[Entry::new(LABEL + 1, 64)], &packet("10.4.1.2", 40, 20)?)?;
        assert_eq!(out, Some((TX_PORTS[1], to_ce(&packet("10.4.1.2", 39, 20)?))));
        // Beneath labels of this router, and an entropy label. The TTL of an explicit null is copied in uniform mode.
        let inner = match settings.ttl_mode() {
            TtlMode::Uniform => 28,
            TtlMode::Pipe => 39,
            TtlMode::Linux => 63,
        };
        for above in [vec![Entry::new(0, 30)], vec![Entry::new(LABEL + 3, 30)]] {
            let out = sent(
                &mut twins,
                &[above, label.to_vec()].concat(),
                &packet("10.4.1.2", 40, 20)?,
            )?;
            assert_eq!(out, Some((TX_PORTS[1], to_ce(&packet("10.4.1.2", inner, 20)?))));
        }
        // Bytes behind the packet are cut off, and padding stays.
        let short = packet("10.4.1.2", 40, 0)?;
        let out = sent(&mut twins, &label, &[&short[..], &[0; 40]].concat())?;
        let padded = [packet("10.4.1.2", popped, 0)?, vec![0; 18]].concat();
        assert_eq!(out, Some((TX_PORTS[1], to_ce(&padded))));
        // The VRF's prefix routes come first; the pop is the one hop.
        let out = sent(&mut twins, &label, &packet("10.9.0.1", 40, 20)?)?;
        let (port, frame) = out.context("left to the kernel")?;
        let a = lab::neighbours()[0].adjacency.context("no neighbour")?;
        let outer = if settings.ttl_mode() == TtlMode::Pipe {
            200
        } else {
            popped
        };
        let imposed = labelled(
            a.destination(),
            a.source(),
            &[Entry::new(900, outer)],
            &packet("10.9.0.1", popped, 20)?,
        );
        assert_eq!((port, frame), (a.port(), imposed));
    }
    Ok(())
}

/// The kernel gets the whole frame, untouched.
#[test]
fn what_only_the_kernel_can_handle_is_left_to_it() -> Result<()> {
    let mut twins = Twins::new()?;
    let label = Entry::new(LABEL, 64);
    let whole = packet("10.4.1.2", 40, 20)?;
    // Options after the header, and a header checksum that is right.
    let options = {
        let mut packet = with_ttl(&whole, 40)?;
        packet[0] = 0x46;
        packet.splice(20..20, [1; 4]);
        packet[2..4].copy_from_slice(&(whole.len() as u16 + 4).to_be_bytes());
        packet[10..12].fill(0);
        let sum: u32 = packet[..24]
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        packet
    };
    let mut wrong_checksum = whole.clone();
    wrong_checksum[10] ^= 1;
    let hop_by_hop = {
        let mut packet = packet("2001:db8:4::9", 40, 20)?;
        packet[6] = 0;
        packet
    };
    let to = |destination: &str| packet(destination, 40, 20);
    let link_local = udp("fe80::1".parse()?, "2001:db8:4::9".parse()?, 40, b"x")?;
    let loopback = udp("127.0.0.1".parse()?, "10.4.1.2".parse()?, 40, b"x")?;
    let packets = [
        ("an address of the VRF", to("10.0.1.1")?),
        ("a broadcast address of the VRF", to("10.0.1.255")?),
        ("multicast", to("224.0.0.5")?),
        ("loopback", to("127.0.0.1")?),
        ("from loopback", loopback),
        ("link-local", to("fe80::9")?),
        ("from link-local", link_local),
        ("IPv6 multicast", to("ff02::5")?),
        ("an unresolved neighbour", to("10.5.0.1")?),
        ("an unresolved IPv6 neighbour", to("2001:db8:5::9")?),
        ("no IPv6 route", to("2001:db8:6::9")?),
        ("an interface that is not a port", to("10.6.0.1")?),
        ("a blackhole", to("10.8.0.1")?),
        ("larger than the link's MTU", packet("10.4.1.2", 40, MTU - 27)?),
        ("larger than the route's MTU", packet("10.7.0.1", 40, VLAN_MTU - 27)?),
        ("IPv4 options", options),
        ("IPv6 hop-by-hop options", hop_by_hop),
        ("a wrong header checksum", wrong_checksum),
        ("neither IPv4 nor IPv6", vec![0x12; 40]),
        ("a packet that is not whole", whole[..whole.len() - 1].to_vec()),
        ("nothing", Vec::new()),
    ];
    for settings in all_settings() {
        for (what, packet) in &packets {
            let out = twins.run(settings, &under(&[label], packet)).context(*what)?;
            assert_eq!(out, None, "{what}, {settings:?}");
        }
        let stacks = [
            ("an expired label", vec![Entry::new(LABEL, 1)]),
            ("a TTL of 0", vec![Entry::new(LABEL, 0)]),
            ("a label beneath", vec![label, Entry::new(100, 64)]),
            ("a VRF that does not exist", vec![Entry::new(LABEL + 2, 64)]),
        ];
        for (what, stack) in stacks {
            let out = twins.run(settings, &under(&stack, &whole)).context(what)?;
            assert_eq!(out, None, "{what}, {settings:?}");
        }
    }
    // The packet fits exactly.
    for (destination, mtu) in [("10.4.1.2", MTU), ("10.7.0.1", VLAN_MTU)] {
        let packet = packet(destination, 40, mtu - 28)?;
        assert!(
            twins
                .run(settings(TtlMode::Uniform), &under(&[label], &packet))?
                .is_some()
        );
    }
    // The hop that the TTL does not allow.
    let last = packet("10.4.1.2", 1, 20)?;
    assert_eq!(twins.run(settings(TtlMode::Pipe), &under(&[label], &last))?, None);
    assert!(
        twins
            .run(settings(TtlMode::Uniform), &under(&[label], &last))?
            .is_some()
    );
    Ok(())
}

/// The next hop of an imposed prefix is out: the kernel, which may have another way, gets the whole frame.
#[test]
fn a_packet_that_cannot_get_its_labels_is_left_to_the_kernel() -> Result<()> {
    let mut twins = Twins::new()?;
    let ids: Vec<_> = twins.host.next_hops().all().map(|(id, _)| id).collect();
    for id in ids {
        twins.host.set_next_hop(id, None::<Adjacency>);
        twins.kernel.set_next_hop(id, None::<Adjacency>);
    }
    let frame = under(&[Entry::new(LABEL, 64)], &packet("10.9.0.1", 40, 20)?);
    assert_eq!(twins.run(settings(TtlMode::Uniform), &frame)?, None);
    Ok(())
}

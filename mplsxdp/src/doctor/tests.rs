use std::io;
use std::time::Duration;

use super::facts::{Instance, Interface, Machine, NeighbourTable, Port, was_full};
use super::losses::{Counter, Losses};
use super::*;
use crate::neighbour::XdpAttachment;
use crate::ports::preflight::fixture::nic;
use crate::ports::preflight::{Facts, FarEnd};

fn machine(settings: &[(&str, u32)]) -> Machine {
    Machine {
        release: "6.18.5".into(),
        settings: settings.iter().map(|&(key, value)| (key.to_owned(), value)).collect(),
        neighbour_tables: Some([table(0), table(0)]),
        ..Machine::default()
    }
}

fn interface(facts: Facts) -> Interface {
    Interface {
        facts,
        mode: XdpMode::Native,
        port: None,
        queues: Ok(1),
        merges_in_hardware: Some(false),
        counters: Ok(Vec::new()),
        losses: None,
        prefix: String::new(),
        client: "mplsxdp".into(),
    }
}

fn instance() -> Instance {
    Instance {
        name: "pe1".into(),
        mode: XdpMode::Native,
        follows_kernel: true,
        links: Vec::new(),
        netns_inode: 0,
        netns: None,
    }
}

fn bad(findings: &[Finding]) -> Vec<(&str, Level, Option<&str>)> {
    let bad = findings.iter().filter(|finding| finding.level != Level::Ok);
    bad.map(|finding| (finding.check, finding.level, finding.command.as_deref()))
        .collect()
}

#[test]
fn a_good_machine_has_no_complaint() {
    let good = machine(&[
        ("core/bpf_jit_enable", 1),
        ("ipv4/ip_forward", 1),
        ("ipv4/conf/all/rp_filter", 0),
        ("ipv4/conf/eth1/rp_filter", 2),
        ("ipv6/conf/all/forwarding", 1),
        ("mpls/platform_labels", 1000),
        ("mpls/conf/eth1/input", 1),
    ]);
    let findings = examine(&good, &[interface(nic())], Some(&instance()));
    assert_eq!(bad(&findings), []);
    // Everything that was checked is listed.
    let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(
        checks,
        [
            "kernel",
            "capabilities",
            "bpf-jit",
            "ip_forward",
            "ipv6-forwarding",
            "neighbour-table",
            "mpls-labels",
            "port",
            "driver",
            "vlan-tags",
            "lro",
            "checksums",
            "queues",
            "rp_filter",
            "mpls-input",
            "default-route",
            "driver-counters",
        ]
    );
}

#[test]
fn settings_come_with_the_command_in_their_namespace() {
    let machine = Machine {
        prefix: "ip netns exec r1 ".into(),
        default_routes: vec!["eth1".into()],
        leftover_pairs: vec![("mpls0".into(), "pe2".into())],
        ..machine(&[
            ("core/bpf_jit_enable", 0),
            ("ipv4/ip_forward", 0),
            ("ipv4/conf/all/rp_filter", 1),
            ("ipv4/conf/eth1/rp_filter", 0),
            ("ipv6/conf/all/forwarding", 0),
            ("mpls/platform_labels", 0),
            ("mpls/conf/eth1/input", 0),
        ])
    };
    let eth1 = Interface {
        port: Some(Port {
            checksum: Checksum::Trust,
            problem: None,
            unheard: 3,
        }),
        merges_in_hardware: Some(true),
        prefix: "ip netns exec r1 ".into(),
        ..interface(nic())
    };
    let warning = |check, command| (check, Level::Warning, Some(command));
    assert_eq!(
        bad(&examine(&machine, &[eth1], Some(&instance()))),
        [
            warning("bpf-jit", "ip netns exec r1 sysctl -w net.core.bpf_jit_enable=1"),
            warning("ip_forward", "ip netns exec r1 sysctl -w net.ipv4.ip_forward=1"),
            warning(
                "ipv6-forwarding",
                "ip netns exec r1 sysctl -w net.ipv6.conf.all.forwarding=1"
            ),
            warning(
                "mpls-labels",
                "ip netns exec r1 sysctl -w net.mpls.platform_labels=1048575"
            ),
            warning("leftovers", "ip netns exec r1 ip link del dev mpls0"),
            warning("lro", "ip netns exec r1 ethtool -K eth1 lro off"),
            warning("queues", "mplsxdp link del eth1 && mplsxdp link add eth1"),
            warning("rp_filter", "ip netns exec r1 sysctl -w net.ipv4.conf.eth1.rp_filter=2"),
            warning("mpls-input", "ip netns exec r1 sysctl -w net.mpls.conf.eth1.input=1"),
            ("default-route", Level::Warning, None),
        ]
    );
}

fn table(was_full: u64) -> NeighbourTable {
    NeighbourTable { limit: 1024, was_full }
}

#[test]
fn a_neighbour_table_that_was_full_is_a_warning() {
    let rows = "entries  allocs   table_fulls\n00000008 00000d7c 00000010\n00000008 00001110 00000003\n";
    assert_eq!(was_full(rows), 19);
    let found = |tables| {
        let mut machine = machine(&[]);
        machine.neighbour_tables = Some(tables);
        let finding = neighbour_table(&machine).unwrap();
        (finding.level, finding.command)
    };
    assert_eq!(found([table(0), table(0)]), (Level::Ok, None));
    let v4 = "sysctl -w net.ipv4.neigh.default.gc_thresh2=1024 net.ipv4.neigh.default.gc_thresh3=2048";
    assert_eq!(found([table(1), table(0)]), (Level::Warning, Some(v4.into())));
    let both = v4.to_owned() + " net.ipv6.neigh.default.gc_thresh2=1024 net.ipv6.neigh.default.gc_thresh3=2048";
    assert_eq!(found([table(1), table(9)]), (Level::Warning, Some(both)));
}

#[test]
fn a_veth_whose_peer_loses_frames_is_mended_at_the_peer() {
    let mut facts = nic();
    facts.link.as_mut().unwrap().kind = Some("veth".into());
    facts.driver = Some("veth".into());
    facts.features = Some(preflight::fixture::NO_XMIT);
    facts.far_end = Some(FarEnd {
        name: "h1".into(),
        netns: Some("/run/netns/host".into()),
    });
    let command = "ip netns exec host ethtool -K h1 gro off; ip netns exec host ethtool -K h1 gro on";
    let findings = examine(&machine(&[]), &[interface(facts)], None);
    assert_eq!(bad(&findings), [("port", Level::Warning, Some(command))]);
}

#[test]
fn an_interface_that_is_not_there_is_not_checked_further() {
    let facts = Facts { link: None, ..nic() };
    let findings = examine(&machine(&[]), &[interface(facts)], None);
    assert_eq!(bad(&findings), [("port", Level::Error, None)]);
    assert_eq!(findings.iter().filter(|finding| finding.interface.is_some()).count(), 1);
}

#[test]
fn another_program_is_not_ended_by_a_repair() {
    let mut facts = nic();
    facts.link.as_mut().unwrap().xdp = Some(XdpAttachment {
        program: 7,
        mode: crate::neighbour::AttachMode::Native,
    });
    let findings = examine(&machine(&[]), &[interface(facts)], None);
    assert_eq!(bad(&findings), [("port", Level::Error, None)]);
}

#[test]
fn lost_frames_are_errors_while_they_are_lost() {
    let lost = |redirects, exceptions, grown| {
        let counter = Counter {
            name: "rx_xdp_aborted".into(),
            value: 5,
            grown,
        };
        let interface = Interface {
            losses: Some(Ok(Losses {
                watched: Duration::from_secs(2),
                redirects,
                exceptions,
            })),
            counters: Ok(vec![counter]),
            ..interface(nic())
        };
        losses(&interface)
            .into_iter()
            .map(|finding| (finding.level, finding.text))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        lost(0, 0, 0),
        [
            (Level::Ok, "none in 2 s".into()),
            (Level::Ok, "losses of the past: rx_xdp_aborted 5".into())
        ]
    );
    assert_eq!(
        lost(3, 0, 2),
        [
            (Level::Error, "in 2 s, 3 redirects failed (xdp_redirect_err)".into()),
            (Level::Error, "XDP frames are lost now: rx_xdp_aborted 5 (+2)".into())
        ]
    );
    let unknown = Interface {
        losses: Some(Err(io::ErrorKind::PermissionDenied.into())),
        ..interface(nic())
    };
    assert_eq!(losses(&unknown)[0].level, Level::Warning);
}

#[test]
fn only_commands_that_can_be_run_are_taken_from_messages() {
    for (text, command) in [
        ("x is down: `ip link set dev x up`", Some("ip link set dev x up")),
        (
            "use `--mode generic`, or `ethtool -K x gro off`",
            Some("ethtool -K x gro off"),
        ),
        ("`ethtool -K PEER gro on`, in its namespace", None),
        ("`ip link set dev eth1 address MAC` sets another", None),
        ("either `ip link del x` or `ip link del y`", None),
        ("no command", None),
    ] {
        assert_eq!(quoted_command(text).as_deref(), command, "{text}");
    }
}

#[test]
fn drivers_are_in_order_and_in_the_documentation() {
    let page = include_str!("../../../docs/devices.md");
    let (_, table) = page.split_once("| driver | native XDP since Linux |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let known = drivers::DRIVERS.iter().map(|driver| {
        let [tried, limits] = [driver.tried, driver.limits].map(Option::unwrap_or_default);
        format!("| {} | {} | {tried} | {limits} |", driver.name, driver.since)
    });
    assert_eq!(rows.collect::<Vec<_>>(), known.collect::<Vec<_>>());
    assert!(drivers::DRIVERS.is_sorted_by(|one, other| one.name < other.name));
}

#[test]
fn a_driver_is_described() {
    let described = driver(&interface(nic())).text;
    assert_eq!(
        described,
        "ixgbe: native XDP, redirects frames, transmits redirected frames, transmits multi-buffer frames; native XDP since \
         Linux 4.12; MTU at most about 3000; not tried with mplsxdp"
    );
}

use super::*;
use mplsxdp_common::wire::Mac;

use crate::kernel::ethtool::TagKinds;
use crate::neighbour::fixture::link;
use crate::neighbour::{AttachMode, Master, XdpAttachment};
use crate::ports::preflight::Capabilities;
use crate::ports::preflight::far_end::Sending;
use crate::ports::preflight::fixture::{ALL, NO_XMIT, nic};

fn far_end(netns: Option<&str>) -> FarEnd {
    FarEnd {
        name: "host1".into(),
        netns: netns.map(Into::into),
    }
}

/// A good veth with its peer in this namespace.
fn veth() -> Facts {
    Facts {
        link: Some(LinkInfo {
            kind: Some("veth".into()),
            ..link(11, "eth1")
        }),
        peer: Some(LinkInfo {
            kind: Some("veth".into()),
            ..link(11, "host1")
        }),
        far_end: Some(far_end(None)),
        driver: Some("veth".into()),
        ..nic()
    }
}

#[test]
fn checksums_are_finished_where_senders_leave_them_to_the_port() {
    let driven = |driver: &str, kind: Option<&str>, guest_checksum| Facts {
        driver: Some(driver.into()),
        guest_checksum,
        ..with_link(|link| link.kind = kind.map(str::to_owned))
    };
    use abi::Checksum::{Finish, Punt, Trust};
    for (facts, native, generic) in [
        (nic(), Trust, Trust),
        (veth(), Finish, Punt),
        (driven("tun", Some("tun"), false), Punt, Punt),
        (driven("virtio_net", None, true), Finish, Punt),
        (driven("virtio_net", None, false), Trust, Trust),
        (driven("bridge", Some("bridge"), false), Trust, Punt),
    ] {
        let driver = facts.driver.as_deref();
        assert_eq!(facts.checksum(None, XdpMode::Native), native, "{driver:?}");
        assert_eq!(facts.checksum(None, XdpMode::Generic), generic, "{driver:?}");
        assert_eq!(facts.checksum(Some(Checksum::Trust), XdpMode::Native), Trust);
    }
    assert_eq!(nic().checksum(Some(Checksum::Finish), XdpMode::Native), Finish);
}

fn with_link(change: impl Fn(&mut LinkInfo)) -> Facts {
    let mut facts = nic();
    change(facts.link.as_mut().unwrap());
    facts
}

fn refused(facts: &Facts, mode: XdpMode) -> String {
    check(facts, mode).unwrap_err().to_string()
}

#[test]
fn good_interfaces_pass() {
    for facts in [nic(), veth()] {
        for mode in [XdpMode::Native, XdpMode::Generic] {
            assert_eq!(check(&facts, mode).unwrap(), Vec::<String>::new());
            assert_eq!(check_attached(&facts, mode).unwrap(), Vec::<String>::new());
        }
    }
    // What the kernel does not tell is not held against an interface.
    let unknown = Facts {
        features: None,
        ..nic()
    };
    assert_eq!(check(&unknown, XdpMode::Native).unwrap(), Vec::<String>::new());
    assert_eq!(check_attached(&unknown, XdpMode::Native).unwrap(), Vec::<String>::new());
}

#[test]
fn missing_capabilities_are_named() {
    let missing = |capabilities| refused(&Facts { capabilities, ..nic() }, XdpMode::Native);
    assert_eq!(
        missing(Capabilities(0)),
        "this process lacks CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN: run it as root, or \
         `setcap cap_net_admin,cap_net_raw,cap_sys_admin+ep` a copy of its file that root owns and that only \
         administrators of this machine may run (`chown root:GROUP FILE && chmod 750 FILE` before `setcap`): everyone who \
         runs it has these capabilities"
    );
    assert!(
        missing(Capabilities(!(1 << 13))).starts_with(
            "this process lacks CAP_NET_RAW: run it as root, or `setcap cap_net_raw+ep` a copy of its file"
        )
    );
    assert_eq!(Capabilities(1 << 12 | 1 << 13 | 1 << 21).missing(), Vec::<&str>::new());
}

#[test]
fn a_missing_interface_is_answered_by_those_that_exist() {
    let facts = Facts {
        link: None,
        available: vec!["lo".into(), "eth0".into()],
        ..nic()
    };
    assert_eq!(
        refused(&facts, XdpMode::Native),
        "there is no interface eth1 in this network namespace; there are: lo, eth0"
    );
}

#[test]
fn interfaces_that_cannot_carry_labels_are_refused() {
    assert_eq!(
        refused(&with_link(|link| link.loopback = true), XdpMode::Generic),
        "eth1 is a loopback interface: no labelled frame ever arrives on it; `dev lo` in a route needs no port"
    );
    assert_eq!(
        refused(&with_link(|link| link.mac = None), XdpMode::Generic),
        "eth1 is not an Ethernet interface: it has no MAC address, which MPLS frames need: use a tap instead of a tun, or \
         a vxlan on top of this interface"
    );
    for (mac, shown) in [
        (Mac::ZERO, "00:00:00:00:00:00"),
        (Mac([0xff; 6]), "ff:ff:ff:ff:ff:ff"),
        (Mac([1, 0, 0x5e, 0, 0, 1]), "01:00:5e:00:00:01"),
    ] {
        assert_eq!(
            refused(&with_link(|link| link.mac = Some(mac)), XdpMode::Native),
            format!(
                "eth1: its MAC address ({shown}) is not valid for frames: `ip link set dev eth1 \
                 address MAC` sets another"
            )
        );
    }
    let down = with_link(|link| (link.up, link.running) = (false, false));
    assert_eq!(
        check(&down, XdpMode::Native).unwrap(),
        ["eth1 is down: it cannot send or receive until `ip link set dev eth1 up`"]
    );
    assert_eq!(
        check(&with_link(|link| link.running = false), XdpMode::Native).unwrap(),
        ["eth1 has no carrier: it cannot send or receive until it has one"]
    );
}

#[test]
fn of_interfaces_on_top_of_each_other_the_right_one_is_named() {
    let of_kind = |kind: &str| with_link(|link| link.kind = Some(kind.into()));
    for mode in [XdpMode::Native, XdpMode::Generic] {
        assert_eq!(
            refused(&of_kind("dummy"), mode),
            "eth1 is a dummy interface: it discards what is sent to it, and nothing ever arrives: use an interface with a \
             link; `dev lo` in a route ends an LSP on this machine"
        );
    }
    let tun = with_link(|link| (link.kind, link.mac) = (Some("tun".into()), None));
    assert!(refused(&tun, XdpMode::Native).starts_with("eth1 (tun) is not an Ethernet interface"));
    assert_eq!(
        refused(&of_kind("bridge"), XdpMode::Native),
        "eth1 is a bridge, and native XDP runs on its ports: use those (it has none yet), or use `--mode generic`, which \
         works on eth1 itself and is slower"
    );
    let with_ports = Facts {
        members: vec!["tap0".into(), "tap1".into()],
        ..of_kind("bridge")
    };
    assert!(refused(&with_ports, XdpMode::Native).contains("use those (tap0, tap1), or"));
    for kind in ["macvlan", "macvtap", "vlan"] {
        let on_eth0 = Facts {
            peer: Some(link(11, "eth0")),
            ..of_kind(kind)
        };
        assert_eq!(
            refused(&on_eth0, XdpMode::Native),
            format!(
                "eth1 is a {kind} on eth0, and has no native XDP: use eth0, or use `--mode generic`, which works on eth1 \
                 itself and is slower"
            )
        );
        assert_eq!(
            refused(&of_kind(kind), XdpMode::Native),
            format!(
                "eth1 is a {kind} on an interface of another network namespace, and has no native XDP: use that interface, \
                 in its namespace, or use `--mode generic`, which works on eth1 itself and is slower"
            )
        );
    }
    for kind in ["bridge", "macvlan", "macvtap", "vlan", "bond"] {
        assert_eq!(
            check(&of_kind(kind), XdpMode::Generic).unwrap(),
            Vec::<String>::new(),
            "{kind}"
        );
    }
}

/// eth1 as a member of an interface of this kind.
fn member(kind: &str, master: &str) -> Facts {
    let mut facts = with_link(|link| {
        link.master = Some(Master {
            ifindex: 21,
            kind: Some(kind.into()),
        });
    });
    facts.master = Some(LinkInfo {
        ifindex: 21,
        kind: Some(kind.into()),
        ..link(11, master)
    });
    facts
}

#[test]
fn a_bond_is_taken_as_a_whole_and_in_generic_mode() {
    for (kind, mode) in [
        ("bond", XdpMode::Native),
        ("bond", XdpMode::Generic),
        ("team", XdpMode::Native),
    ] {
        assert_eq!(
            refused(&member(kind, "bond0"), mode),
            "eth1 is a member of bond0, which decides by which member a frame leaves: use bond0 itself with `--mode \
             generic`, or take eth1 out of it with `ip link set dev eth1 nomaster`"
        );
    }
    assert_eq!(
        refused(&with_link(|link| link.kind = Some("bond".into())), XdpMode::Native),
        "eth1 is a bond: in native mode its members would run the program, and their frames reach no AF_XDP socket of eth1: \
         use `--mode generic`, which works on eth1 itself, or take the members out of it"
    );
}

#[test]
fn a_vrf_device_is_refused_in_either_mode_with_the_names_of_its_members() {
    let facts = |members: &[&str]| Facts {
        members: members.iter().map(|name| Arc::from(*name)).collect(),
        ..with_link(|link| {
            link.kind = Some("vrf".into());
            link.mtu = 65575;
        })
    };
    for mode in [XdpMode::Native, XdpMode::Generic] {
        assert_eq!(
            refused(&facts(&["eth2", "eth3"]), mode),
            "eth1 is a VRF device, and no frame arrives at it: make its members ports (eth2, eth3), in either mode"
        );
        assert_eq!(
            refused(&facts(&[]), mode),
            "eth1 is a VRF device, and no frame arrives at it: make its members ports (it has none yet), in either mode"
        );
    }
}

#[test]
fn a_bridge_port_warns_of_the_bridge_s_own_mac_address() {
    for kind in ["bridge", "vrf"] {
        // The same address.
        assert_eq!(
            check(&member(kind, "br0"), XdpMode::Native).unwrap(),
            Vec::<String>::new()
        );
    }
    let mut facts = member("bridge", "br0");
    facts.master.as_mut().unwrap().mac = Some(Mac([0x52, 0x54, 0, 0, 0, 9]));
    let note = "eth1 is a port of the bridge br0: labelled frames for br0's MAC address (52:54:00:00:00:09) are left to the \
                bridge: neighbours must send to eth1's (02:00:00:00:00:0b), or `ip link set dev br0 address \
                02:00:00:00:00:0b` makes the two the same";
    for mode in [XdpMode::Native, XdpMode::Generic] {
        assert_eq!(check(&facts, mode).unwrap(), [note]);
        assert_eq!(check_attached(&facts, mode).unwrap(), [note]);
    }
    facts.master.as_mut().unwrap().kind = Some("vrf".into());
    assert_eq!(check(&facts, XdpMode::Native).unwrap(), Vec::<String>::new());
}

#[test]
fn another_program_is_named_with_the_way_to_take_it_off() {
    for (mode, where_, keyword) in [
        (AttachMode::Native, "native mode", "xdpdrv"),
        (AttachMode::Generic, "generic mode", "xdpgeneric"),
        (AttachMode::Offload, "offloaded to the NIC", "xdpoffload"),
        (AttachMode::Several, "and more, in several modes", "xdp"),
    ] {
        let attached = XdpAttachment { program: 42, mode };
        let facts = with_link(|link| link.xdp = Some(attached));
        let named = Facts {
            program_name: Some("filter".into()),
            ..facts.clone()
        };
        let message = refused(&named, XdpMode::Native);
        assert!(message.starts_with(&format!(
            "eth1 has another XDP program already: id 42 (filter), {where_}: "
        )));
        assert_eq!(
            refused(&facts, XdpMode::Native),
            format!(
                "eth1 has another XDP program already: id 42, {where_}: detach it with `ip link set dev eth1 {keyword} \
                 off`, or, if a bpf_link holds it (`bpftool link show`), end its owner or `bpftool link detach id \
                 ID`"
            )
        );
    }
}

#[test]
fn native_mode_needs_a_driver_that_has_it() {
    let facts = Facts {
        features: Some(XdpFeatures(0)),
        ..nic()
    };
    let message = "eth1: its driver (ixgbe) has no native XDP: use `--mode generic`, which is slower";
    assert_eq!(refused(&facts, XdpMode::Native), message);
    assert_eq!(check(&facts, XdpMode::Generic).unwrap(), Vec::<String>::new());
    let nameless = Facts { driver: None, ..facts };
    assert_eq!(
        refused(&nameless, XdpMode::Native),
        "eth1: its driver has no native XDP: use `--mode generic`, which is slower"
    );
    let queues = Facts {
        features: Some(XdpFeatures(0)),
        ..veth()
    };
    assert_eq!(
        refused(&queues, XdpMode::Native),
        "eth1 cannot run XDP: its veth peer (host1) has more transmit queues than eth1 has receive queues: \
         `ethtool -L host1 tx 1`, or recreate the pair with equal numbers"
    );
}

#[test]
fn a_nic_that_hides_tags_must_leave_them() {
    let kinds = |customer, service| TagKinds { customer, service };
    let offloads = |receive, transmit| {
        Some(VlanOffloads {
            receive,
            receive_optional: receive,
            transmit,
        })
    };
    let none = TagKinds::default();
    for vlan in [None, offloads(none, kinds(true, true))] {
        assert_eq!(check_tags(&Facts { vlan, ..nic() }).unwrap(), Vec::<String>::new());
    }
    for (receive, command) in [
        (kinds(true, false), "rxvlan off"),
        (kinds(false, true), "rx-vlan-stag-hw-parse off"),
        (kinds(true, true), "rxvlan off rx-vlan-stag-hw-parse off"),
    ] {
        let hides = Facts {
            vlan: offloads(receive, none),
            ..nic()
        };
        assert_eq!(
            check_tags(&hides).unwrap_err().to_string(),
            format!("eth1: its driver (ixgbe) strips VLAN tags before XDP sees the frame: `ethtool -K eth1 {command}`")
        );
        // Where no tags are asked for, it may be meant so.
        assert_eq!(
            hides.hides_tags(),
            Some(format!(
                "eth1: its driver (ixgbe) strips VLAN tags before XDP sees the frame, so frames from every VLAN are \
                 treated as untagged: `ethtool -K eth1 {command}`"
            ))
        );
        let mut fixed = hides;
        fixed.vlan.as_mut().unwrap().receive_optional = none;
        assert_eq!(fixed.hides_tags(), None);
    }
    // Whatever an interface that stands on others says.
    for kind in ["bridge", "bond", "macvlan"] {
        let upper = with_link(|link| link.kind = Some(kind.into()));
        assert_eq!(
            check_tags(&upper).unwrap_err().to_string(),
            format!(
                "eth1 is a {kind}, and the kernel strips VLAN tags before XDP sees the frame there: no VLAN on it can be a \
                 port; one on the interface beneath it can, in native mode"
            )
        );
    }
    // A veth only says so.
    let pair = |vlan: Option<VlanOffloads>| Facts {
        vlan: offloads(kinds(true, true), none),
        peer_sends: vlan.map(|vlan| Sending {
            vlan,
            ..Sending::default()
        }),
        ..veth()
    };
    for peer_vlan in [None, offloads(kinds(true, true), none)] {
        assert_eq!(check_tags(&pair(peer_vlan)).unwrap(), Vec::<String>::new());
        assert_eq!(pair(peer_vlan).hides_tags(), None);
    }
    assert_eq!(
        check_tags(&pair(offloads(none, kinds(true, true)))).unwrap(),
        [
            "eth1: XDP does not see the tags of VLAN devices on its veth peer host1: `ethtool -K host1 txvlan off \
          tx-vlan-stag-hw-insert off`"
        ]
    );
    // At load only if there are VLAN devices; in whichever network namespace.
    let with_devices = |devices: &[&str]| Facts {
        far_end: Some(far_end(Some("/run/netns/h1"))),
        peer_sends: Some(Sending {
            vlan: offloads(none, kinds(true, false)).unwrap(),
            vlan_devices: devices.iter().map(|&device| device.to_owned()).collect(),
            ..Sending::default()
        }),
        ..veth()
    };
    assert_eq!(with_devices(&[]).hides_tags(), None);
    assert_eq!(
        with_devices(&["host1.100", "v7"]).hides_tags().unwrap(),
        "eth1: its veth peer host1 hides the VLAN tags of host1.100, v7 from XDP, which treats their frames as untagged: \
         `ip netns exec h1 ethtool -K host1 txvlan off`"
    );
}

#[test]
fn unsegmented_packets_of_a_veth_peer_are_warned_of_in_generic_mode() {
    let sends = |unsegmented| Facts {
        far_end: Some(far_end(Some("/run/netns/h1"))),
        peer_sends: Some(Sending {
            unsegmented,
            ..Sending::default()
        }),
        ..veth()
    };
    assert_eq!(
        sends(true).peer_sends_unsegmented(XdpMode::Generic).unwrap(),
        "eth1: in generic mode TCP packets of its veth peer host1 arrive unsegmented (TSO), too big for a label: \
         `ip netns exec h1 ethtool -K host1 tso off`"
    );
    assert_eq!(sends(true).peer_sends_unsegmented(XdpMode::Native), None);
    assert_eq!(sends(false).peer_sends_unsegmented(XdpMode::Generic), None);
    assert_eq!(nic().peer_sends_unsegmented(XdpMode::Generic), None);
}

#[test]
fn packets_merged_beneath_are_warned_of_in_generic_mode() {
    let on = |kind: &str, merging: &[&str]| Facts {
        merging: merging.iter().map(|&name| name.into()).collect(),
        ..with_link(|link| link.kind = Some(kind.into()))
    };
    for (facts, place, mend) in [
        (on("bridge", &["eth0"]), "eth0", "`ethtool -K eth0 gro off`"),
        (
            on("bond", &["eth0", "eth2"]),
            "eth0, eth2",
            "`ethtool -K eth0 gro off; ethtool -K eth2 gro off`",
        ),
        (
            on("vxlan", &[]),
            "the interface that its packets arrive at",
            "`ethtool -K IFACE gro off` there",
        ),
    ] {
        let note =
            format!("eth1: IP packets that are merged beneath it (GRO), on {place}, are too big for a label: {mend}");
        assert_eq!(check(&facts, XdpMode::Generic).unwrap(), [&*note]);
        assert_eq!(check_attached(&facts, XdpMode::Generic).unwrap(), [&*note]);
    }
    assert_eq!(
        check_attached(&on("bridge", &["eth0"]), XdpMode::Native).unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn frames_above_the_mtu_are_expected_where_they_can_come() {
    let driven = |driver: &str| Facts {
        driver: Some(driver.into()),
        ..nic()
    };
    for (facts, native) in [
        (nic(), false),
        (veth(), false),
        (driven("tun"), true),
        (driven("virtio_net"), true),
    ] {
        assert_eq!(facts.exceeds_mtu(XdpMode::Native), native, "{facts:?}");
        assert!(facts.exceeds_mtu(XdpMode::Generic));
    }
}

#[test]
fn a_driver_that_does_not_send_frames_in_several_buffers_is_known() {
    let sends = |features, mode| Facts { features, ..nic() }.sends_multi_buffer(mode);
    let without = Some(XdpFeatures(0x7));
    assert!(sends(Some(ALL), XdpMode::Native) && sends(without, XdpMode::Generic));
    assert!(!sends(without, XdpMode::Native) && !sends(None, XdpMode::Native));
    let jumbo = |features| Facts {
        features,
        ..with_link(|link| link.mtu = 9000)
    };
    for (facts, mode) in [
        (jumbo(Some(ALL)), XdpMode::Native),
        (jumbo(without), XdpMode::Generic),
        (
            Facts {
                features: without,
                ..nic()
            },
            XdpMode::Native,
        ),
    ] {
        assert_eq!(check_attached(&facts, mode).unwrap(), Vec::<String>::new());
    }
    assert_eq!(
        check_attached(&jumbo(without), XdpMode::Native).unwrap(),
        [
            "eth1: its driver cannot send redirected multi-buffer frames (which frames over 1500 bytes may be): they take the \
             slow path, at most `--punt-rate` per second: `ip link set dev eth1 mtu 1500`, or use `--mode generic`"
        ]
    );
    // Kernels before 6.3 tell nothing, and lose them.
    assert_eq!(
        check(&jumbo(None), XdpMode::Native).unwrap_err().to_string(),
        "eth1: its MTU (9000) is too large for native XDP: `ip link set dev eth1 mtu 3506`"
    );
    let tap = Facts {
        driver: Some("tun".into()),
        ..jumbo(None)
    };
    assert!(check(&jumbo(None), XdpMode::Generic).is_ok() && check(&tap, XdpMode::Native).is_ok());
    let large = Facts {
        features: None,
        ..with_link(|link| link.mtu = 3506)
    };
    assert!(check(&large, XdpMode::Native).is_ok());
}

#[test]
fn a_redirect_target_is_a_note_before_and_an_error_after() {
    let facts = Facts {
        features: Some(NO_XMIT),
        ..nic()
    };
    assert_eq!(
        check(&facts, XdpMode::Native).unwrap(),
        ["eth1: its driver does not transmit redirected frames now; many do once a program is attached"]
    );
    assert_eq!(
        check_attached(&facts, XdpMode::Native).unwrap_err().to_string(),
        "eth1: its driver (ixgbe) does not transmit frames that XDP redirects to it, so no labelled frame could leave by \
         it: use `--mode generic`"
    );
    assert_eq!(check_attached(&facts, XdpMode::Generic).unwrap(), Vec::<String>::new());

    let facts = Facts {
        features: Some(NO_XMIT),
        ..veth()
    };
    let note = "eth1: frames that are redirected to it are lost until its veth peer has GRO on or an XDP program: \
                `ethtool -K host1 gro off; ethtool -K host1 gro on` while it is up, or `mplsxdp load --fix-peers`";
    assert_eq!(check(&facts, XdpMode::Native).unwrap(), [note]);
    assert_eq!(check_attached(&facts, XdpMode::Native).unwrap(), [note]);
    for (netns, command) in [
        ("/run/netns/h1", "ip netns exec h1"),
        ("/proc/77/ns/net", "nsenter --net=/proc/77/ns/net"),
    ] {
        let elsewhere = Facts {
            peer: None,
            far_end: Some(far_end(Some(netns))),
            ..facts.clone()
        };
        assert_eq!(
            check_attached(&elsewhere, XdpMode::Native).unwrap(),
            [format!(
                "eth1: frames that are redirected to it are lost until its veth peer has GRO on or an XDP program: \
                 `{command} ethtool -K host1 gro off; {command} ethtool -K host1 gro on` while it is up, or \
                 `mplsxdp load --fix-peers`"
            )]
        );
    }
    assert_eq!(facts.end_to_fix(XdpMode::Native), Some(&far_end(None)));
    assert_eq!(facts.end_to_fix(XdpMode::Generic), None);
    // Before Linux 6.3, only the other end shows it.
    let old = |takes_redirects| Facts {
        features: None,
        far_end_takes_redirects: takes_redirects,
        ..facts.clone()
    };
    assert_eq!(check(&old(Some(false)), XdpMode::Native).unwrap(), [note]);
    assert_eq!(check_attached(&old(Some(false)), XdpMode::Native).unwrap(), [note]);
    assert_eq!(old(Some(false)).end_to_fix(XdpMode::Native), Some(&far_end(None)));
    for takes_redirects in [Some(true), None] {
        assert_eq!(check(&old(takes_redirects), XdpMode::Native).unwrap(), [""; 0]);
        assert_eq!(old(takes_redirects).end_to_fix(XdpMode::Native), None);
    }
    assert_eq!(veth().end_to_fix(XdpMode::Native), None);
    let elsewhere = Facts {
        peer: None,
        far_end: None,
        ..facts
    };
    assert_eq!(
        check_attached(&elsewhere, XdpMode::Native).unwrap(),
        [
            "eth1: frames that are redirected to it are lost until its veth peer has GRO on or an XDP program: \
          `ethtool -K PEER gro off; ethtool -K PEER gro on` while it is up, in the peer's network namespace"
        ]
    );
}

#[test]
fn the_errno_of_an_attach_tells_the_cause() {
    let message =
        |facts: &Facts, mode, errno| attach_error(facts, mode, io::Error::from_raw_os_error(errno)).to_string();
    let jumbo = with_link(|link| link.mtu = 9000);
    let too_large = "eth1: its MTU (9000) is too large for native XDP: `ip link set dev eth1 mtu 3506`";
    assert_eq!(message(&jumbo, XdpMode::Native, libc::EINVAL), too_large);
    assert_eq!(message(&jumbo, XdpMode::Native, libc::ERANGE), too_large);
    assert_eq!(
        message(&nic(), XdpMode::Native, libc::EINVAL),
        "the XDP program cannot be attached to eth1: Invalid argument (os error 22)"
    );
    assert_eq!(
        message(&jumbo, XdpMode::Generic, libc::EINVAL),
        "the XDP program cannot be attached to eth1: Invalid argument (os error 22)"
    );
    let guest = Facts {
        driver: Some("virtio_net".into()),
        ..nic()
    };
    let offloads = message(&guest, XdpMode::Native, libc::EOPNOTSUPP);
    assert!(
        offloads.starts_with("eth1: virtio_net cannot run native XDP while guest offloads")
            && offloads.contains("guest_csum=off"),
        "{offloads}"
    );

    let mut pair = veth();
    pair.peer.as_mut().unwrap().mtu = 9000;
    assert_eq!(
        message(&pair, XdpMode::Native, libc::ERANGE),
        "eth1: the MTU of its veth peer host1 (9000) is too large for native XDP: `ip link set dev host1 mtu 3506`"
    );
    let elsewhere = Facts { peer: None, ..pair };
    assert_eq!(
        message(&elsewhere, XdpMode::Native, libc::ERANGE),
        "eth1: the MTU of its veth peer is too large for native XDP: `ip link set dev PEER mtu 3506`, in the peer's \
         network namespace"
    );
    assert!(message(&veth(), XdpMode::Native, libc::ENOSPC).starts_with("eth1 cannot run XDP: its veth peer (host1)"));
    for errno in [libc::EOPNOTSUPP, ENOTSUPP] {
        let message = message(&nic(), XdpMode::Native, errno);
        assert_eq!(
            message,
            "eth1: its driver (ixgbe) has no native XDP: use `--mode generic`, which is slower"
        );
    }
    assert_eq!(
        message(&nic(), XdpMode::Native, libc::EBUSY),
        "the XDP program cannot be attached to eth1: Device or resource busy (os error 16)"
    );
}

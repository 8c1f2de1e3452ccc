//! The preflight checks on real interfaces, and the kernel's answer when a program is attached.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use mplsxdp::dataplane::XdpMode;
use mplsxdp::kernel::Netlink;
use mplsxdp::kernel::netdev::XdpFeatures;
use mplsxdp::neighbour::AttachMode;
use mplsxdp::ports::preflight::{PreflightError, attach_error, check, check_attached, gather};

use crate::lab::{Lab, ip, run};

/// The part of `union bpf_attr` that BPF_PROG_LOAD and BPF_LINK_CREATE read here.
#[repr(C, align(8))]
struct BpfAttr([u32; 36]);

fn bpf(command: libc::c_long, attr: &BpfAttr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` has the given length, and its pointers outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<BpfAttr>()) };
    match fd {
        // SAFETY: the kernel has just made this descriptor for us.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An XDP program that passes everything, without frags support.
pub fn pass() -> OwnedFd {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    // r0 = XDP_PASS; exit
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let license = c"GPL";
    let halves = |pointer: u64| [pointer as u32, (pointer >> 32) as u32];
    let mut attr = BpfAttr([0; 36]);
    attr.0[0] = BPF_PROG_TYPE_XDP;
    attr.0[1] = instructions.len() as u32;
    attr.0[2..4].copy_from_slice(&halves(instructions.as_ptr() as u64));
    attr.0[4..6].copy_from_slice(&halves(license.as_ptr() as u64));
    bpf(BPF_PROG_LOAD, &attr).expect("a program of two instructions")
}

/// Attaches with a bpf_link, which holds until it is dropped.
pub fn attach(program: &OwnedFd, ifindex: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let mut attr = BpfAttr([0; 36]);
    attr.0[0] = program.as_raw_fd() as u32;
    attr.0[1] = ifindex;
    attr.0[2] = BPF_XDP;
    attr.0[3] = match mode {
        XdpMode::Native => XDP_FLAGS_DRV_MODE,
        XdpMode::Generic => XDP_FLAGS_SKB_MODE,
    };
    bpf(BPF_LINK_CREATE, &attr)
}

#[test]
fn a_veth_is_fit_once_its_peer_takes_redirected_frames() {
    Lab::run(async |lab| {
        let netlink = Netlink::open_requests().unwrap();
        let facts = gather("eth1", &netlink).await.unwrap();
        assert_eq!(facts.driver.as_deref(), Some("veth"));
        assert_eq!(facts.capabilities.missing(), Vec::<&str>::new());
        let note = "eth1: frames that are redirected to it are lost until its veth peer has GRO on or an XDP program: \
                    `ethtool -K PEER gro off; ethtool -K PEER gro on` while it is up, in the peer's network namespace";
        // Before Linux 6.3 the kernel does not report it.
        let features = facts
            .features
            .expect("a kernel with the netdev netlink family (Linux 6.3)");
        assert!(features.contains(XdpFeatures::BASIC) && features.contains(XdpFeatures::REDIRECT));
        assert_eq!(check(&facts, XdpMode::Native).unwrap(), [note]);
        assert_eq!(check(&facts, XdpMode::Generic).unwrap(), Vec::<String>::new());

        let program = pass();
        let link = attach(&program, facts.link.unwrap().ifindex, XdpMode::Native).unwrap();
        let facts = gather("eth1", &netlink).await.unwrap();
        assert_eq!(check_attached(&facts, XdpMode::Native).unwrap(), [note]);

        // The command that the note names.
        lab.peer_run("ethtool", "-K eth1 gro on");
        let facts = gather("eth1", &netlink).await.unwrap();
        assert_eq!(check_attached(&facts, XdpMode::Native).unwrap(), Vec::<String>::new());
        drop(link);
    });
}

#[test]
fn a_peer_in_the_same_namespace_is_named() {
    Lab::run(async |_| {
        ip("link add left type veth peer name right");
        ip("link set dev left up");
        ip("link set dev right up");
        let netlink = Netlink::open_requests().unwrap();
        let facts = gather("left", &netlink).await.unwrap();
        let notes = check(&facts, XdpMode::Native).unwrap();
        assert!(
            notes[0].contains("`ethtool -K right gro off; ethtool -K right gro on` while it is up"),
            "{notes:?}"
        );
        run("ethtool", "-K right gro on");
        let facts = gather("left", &netlink).await.unwrap();
        assert_eq!(check(&facts, XdpMode::Native).unwrap(), Vec::<String>::new());
    });
}

#[test]
fn interfaces_that_will_not_do_are_refused() {
    Lab::run(async |lab| {
        let netlink = Netlink::open_requests().unwrap();
        let refused = async |name: &str| {
            let facts = gather(name, &netlink).await.unwrap();
            check(&facts, XdpMode::Native).unwrap_err().to_string()
        };
        let missing = refused("eth9").await;
        assert!(
            missing.starts_with("there is no interface eth9 in this network namespace; there are: "),
            "{missing}"
        );
        assert!(missing.contains("eth1") && missing.contains("eth2"), "{missing}");
        assert!(refused("lo").await.starts_with("lo is a loopback interface"));
        ip("link set dev eth1 down");
        let facts = gather("eth1", &netlink).await.unwrap();
        assert!(check(&facts, XdpMode::Native).unwrap()[0].starts_with("eth1 is down"));
        ip("link set dev eth1 up");
        lab.peer_ip("link set dev eth1 down");
        let facts = gather("eth1", &netlink).await.unwrap();
        assert!(check(&facts, XdpMode::Generic).unwrap()[0].starts_with("eth1 has no carrier"));
        ip("tuntap add dev tun0 mode tun");
        ip("link set dev tun0 up");
        assert!(
            refused("tun0")
                .await
                .starts_with("tun0 (tun) is not an Ethernet interface")
        );
        ip("link add bridge0 type bridge");
        ip("link set dev bridge0 up");
        ip("link set dev eth2 master bridge0");
        assert_eq!(
            refused("bridge0").await,
            "bridge0 is a bridge, and native XDP runs on its ports: use those (eth2), or use `--mode generic`, which works \
             on bridge0 itself and is slower"
        );
        ip("link set dev bridge0 address 02:00:00:00:00:99");
        let facts = gather("eth2", &netlink).await.unwrap();
        let notes = check(&facts, XdpMode::Native).unwrap();
        assert!(
            notes[0].starts_with(
                "eth2 is a port of the bridge bridge0: labelled frames for bridge0's MAC address (02:00:00:00:00:99)"
            ),
            "{notes:?}"
        );
        ip("link add mv0 link eth1 type macvlan");
        ip("link set dev mv0 up");
        assert_eq!(
            refused("mv0").await,
            "mv0 is a macvlan on eth1, and has no native XDP: use eth1, or use `--mode generic`, which works on mv0 itself \
             and is slower"
        );
    });
}

#[test]
fn another_program_is_found_in_either_mode() {
    Lab::run(async |_| {
        let netlink = Netlink::open_requests().unwrap();
        let program = pass();
        for (mode, found) in [
            (XdpMode::Native, AttachMode::Native),
            (XdpMode::Generic, AttachMode::Generic),
        ] {
            let facts = gather("eth1", &netlink).await.unwrap();
            let ifindex = facts.link.as_ref().unwrap().ifindex;
            let link = attach(&program, ifindex, mode).unwrap();
            // Too late for the earlier check.
            let late = attach_error(&facts, mode, attach(&program, ifindex, mode).unwrap_err());
            assert!(
                late.to_string()
                    .starts_with("the XDP program cannot be attached to eth1: "),
                "{late}"
            );
            let facts = gather("eth1", &netlink).await.unwrap();
            match check(&facts, mode).unwrap_err() {
                PreflightError::OtherProgram { attached, .. } => {
                    assert_eq!(attached.mode, found);
                    assert_ne!(attached.program, 0);
                }
                error => panic!("{error}"),
            }
            drop(link);
            // The kernel may take some time: a process that another test has just forked can still hold the link.
            let mut attempts = 0;
            while check(&gather("eth1", &netlink).await.unwrap(), mode).is_err() {
                attempts += 1;
                assert!(attempts < 100, "still attached after 2 s");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}

#[test]
fn the_mtu_that_the_message_names_is_the_largest_that_works() {
    Lab::run(async |_| {
        ip("link add left type veth peer name right");
        for name in ["left", "right"] {
            ip(&format!("link set dev {name} mtu 9000 up"));
        }
        let netlink = Netlink::open_requests().unwrap();
        let facts = gather("left", &netlink).await.unwrap();
        let ifindex = facts.link.as_ref().unwrap().ifindex;
        let program = pass();
        let error = attach(&program, ifindex, XdpMode::Native).unwrap_err();
        let message = attach_error(&facts, XdpMode::Native, error).to_string();
        let (_, command) = message
            .split_once("too large for native XDP: `ip ")
            .unwrap_or_else(|| panic!("{message}"));
        let (command, _) = command.split_once('`').unwrap();
        assert!(command.starts_with("link set dev right mtu "), "{message}");
        ip(command);
        drop(attach(&program, ifindex, XdpMode::Native).unwrap());
        let (_, limit) = command.rsplit_once(' ').unwrap();
        let one_more = limit.parse::<u32>().unwrap() + 1;
        ip(&format!("link set dev right mtu {one_more}"));
        assert!(attach(&program, ifindex, XdpMode::Native).is_err());
    });
}

#[test]
fn a_veth_with_too_few_receive_queues_is_refused() {
    Lab::run(async |_| {
        ip("link add left numrxqueues 1 type veth peer name right numtxqueues 2");
        run("ethtool", "-L right tx 2");
        ip("link set dev left up");
        ip("link set dev right up");
        let netlink = Netlink::open_requests().unwrap();
        let facts = gather("left", &netlink).await.unwrap();
        let ifindex = facts.link.as_ref().unwrap().ifindex;
        let error = attach(&pass(), ifindex, XdpMode::Native).unwrap_err();
        let message = attach_error(&facts, XdpMode::Native, error).to_string();
        assert!(message.contains("`ethtool -L right tx 1`"), "{message}");
        // Before Linux 6.3 only an attempt shows it.
        if facts.features.is_some() {
            assert_eq!(check(&facts, XdpMode::Native).unwrap_err().to_string(), message);
        }
        run("ethtool", "-L right tx 1");
        let facts = gather("left", &netlink).await.unwrap();
        assert!(check(&facts, XdpMode::Native).is_ok());
    });
}

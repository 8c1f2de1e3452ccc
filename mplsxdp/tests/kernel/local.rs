//! The local port's veth pair, as the kernel has it.

use std::net::UdpSocket;
use std::process::Command;

use mplsxdp::kernel::Netlink;
use mplsxdp::ports::local::{LeftPair, LocalError, LocalPair, MAC, mtu_beneath};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, recv, setsockopt, socket, sockopt,
};

use crate::lab::{Lab, ip, run};
use crate::preflight::{attach, pass};

fn interfaces() -> String {
    ip("-oneline link show")
}

/// The names of all interfaces: other properties may change by themselves while a carrier comes up.
fn names() -> Vec<String> {
    let lines = interfaces();
    let names = lines.lines().filter_map(|line| line.split_whitespace().nth(1));
    names.map(|name| name.trim_end_matches(':').to_owned()).collect()
}

async fn create(name: &str, instance: &str) -> Result<LocalPair, LocalError> {
    let netlink = Netlink::open_requests().unwrap();
    LocalPair::create(name, instance, mtu_beneath(1500, 0), LeftPair::Replace, &netlink).await
}

#[test]
fn both_ends_are_up_as_a_local_port_needs_them() {
    Lab::run(async |_| {
        for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{family}"), "1").unwrap();
        }
        let pair = create("mpls0", "default").await.unwrap();
        assert_eq!((pair.name(), pair.port_name()), ("mpls0", "mpls0-port"));
        let near = ip("-details -oneline link show dev mpls0");
        let far = ip("-details -oneline link show dev mpls0-port");
        for end in [&near, &far] {
            assert!(end.contains("NOARP,UP,LOWER_UP") && end.contains("mtu 1468"), "{end}");
            assert!(
                end.contains(&format!("link/ether {MAC} ")) && end.contains(" veth "),
                "{end}"
            );
        }
        // Some segmentation offloads do not depend on the checksum offload, such as UDP's before Linux 6.11.
        assert!(near.contains(" gso_max_segs 1 "), "{near}");
        assert!(near.contains("alias mplsxdp default"), "{near}");
        assert!(far.starts_with(&format!("{}: ", pair.port_ifindex())), "{far}");
        assert_eq!(ip("-6 address show dev mpls0"), "");
        assert_eq!(ip("-6 address show dev mpls0-port"), "");
        for (path, value) in [
            ("ipv6/conf/mpls0-port/disable_ipv6", "1"),
            ("ipv6/conf/mpls0-port/forwarding", "0"),
            ("ipv4/conf/mpls0-port/forwarding", "0"),
            ("ipv6/conf/mpls0/disable_ipv6", "0"),
            ("ipv6/conf/mpls0/forwarding", "1"),
            ("ipv4/conf/mpls0/forwarding", "1"),
        ] {
            let sysctl = std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap();
            assert_eq!(sysctl.trim(), value, "{path}");
        }
        let features = run("ethtool", "--show-features mpls0");
        for feature in [
            "tx-checksumming: off",
            "tx-tcp-segmentation: off",
            "tx-tcp6-segmentation: off",
            "generic-segmentation-offload: off",
            "generic-receive-offload: on",
        ] {
            assert!(features.contains(feature), "no `{feature}`:\n{features}");
        }

        let netlink = Netlink::open_requests().unwrap();
        pair.set_mtu(mtu_beneath(1400, 0), &netlink).await.unwrap();
        assert_eq!(interfaces().matches("mtu 1368").count(), 2);
        pair.set_mtu(mtu_beneath(1600, 0), &netlink).await.unwrap();
        assert_eq!(interfaces().matches("mtu 1568").count(), 2);
    });
}

#[test]
fn nothing_is_left_after_removal() {
    Lab::run(async |_| {
        let before = names();
        let netlink = Netlink::open_requests().unwrap();
        let pair = create("a-longer-name.0", "default").await.unwrap();
        assert!(names().contains(&"a-longer-n-port@a-longer-name.0".to_owned()));
        pair.remove(&netlink).await.unwrap();
        assert_eq!(names(), before);
        // The name is already taken.
        let pair = create("mpls0", "default").await.unwrap();
        ip("link del dev mpls0-port");
        pair.remove(&netlink).await.unwrap();
        assert_eq!(names(), before);
    });
}

#[test]
fn a_pair_that_was_left_behind_is_replaced() {
    Lab::run(async |_| {
        // As after kill -9: nothing calls remove. Left by the same instance, by another one, and by one that was killed
        // before the pair got its alias.
        for (left_by, forget) in [("default", false), ("other", false), ("other", true)] {
            let old = create("mpls0", left_by).await.unwrap();
            if forget {
                let set = Command::new("ip")
                    .args(["link", "set", "dev", "mpls0", "alias", ""])
                    .status();
                assert!(set.unwrap().success() && !ip("link show dev mpls0").contains("alias"));
            }
            let new = create("mpls0", "default").await.unwrap();
            assert_ne!(old.port_ifindex(), new.port_ifindex());
            assert_eq!(interfaces().matches("mpls0").count(), 4, "{}", interfaces());
            assert!(ip("link show dev mpls0").contains("alias mplsxdp default"));
        }
        // Only the far end kept its name.
        ip("link set dev mpls0 down");
        ip("link set dev mpls0 name mpls9");
        create("mpls0", "default").await.unwrap();
        assert!(!interfaces().contains("mpls9"), "{}", interfaces());
    });
}

#[test]
fn a_pair_of_an_instance_that_runs_is_refused() {
    Lab::run(async |_| {
        let pair = create("mpls0", "other").await.unwrap();
        let program = pass();
        let link = attach(&program, pair.port_ifindex(), mplsxdp::dataplane::XdpMode::Native).unwrap();
        let before = names();
        for name in ["mpls0", "mpls0-port"] {
            assert_eq!(
                create(name, "default").await.unwrap_err().to_string(),
                format!(
                    "{name} is the local port of instance `other`, which runs in this network namespace: give this one another \
                     name by `--local NAME`"
                )
            );
        }
        assert_eq!(names(), before);
        drop(link);
        // The kernel removes the program some time after the link's file is closed.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while let Err(error) = create("mpls0", "default").await {
            assert!(std::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn an_interface_of_somebody_else_is_refused() {
    Lab::run(async |_| {
        ip("link add mpls0 type veth peer name mpls0-other");
        ip("link add x type veth peer name mpls1-port");
        let before = names();
        for (name, taken) in [
            ("mpls0", "mpls0"),
            ("mpls1", "mpls1-port"),
            ("eth1", "eth1"),
            ("lo", "lo"),
        ] {
            assert_eq!(
                create(name, "default").await.unwrap_err().to_string(),
                format!(
                    "there is an interface {taken} already, which is not mplsxdp's: give the local port another name by \
                     `--local NAME`, or remove the interface by `ip link del dev {taken}`"
                )
            );
        }
        assert_eq!(names(), before);
    });
}

/// A packet socket on the far end, in place of the program.
fn listen(ifindex: u32) -> std::os::fd::OwnedFd {
    // No protocol yet: nothing arrives, from another interface, before the socket is bound to this one.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: a whole sockaddr_ll, and its length.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(size_of_val(&address) as u32)) };
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address.unwrap()).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(5, 0)).unwrap();
    socket
}

fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn what_the_kernel_sends_arrives_at_the_far_end_as_whole_frames_with_right_checksums() {
    Lab::run(async |_| {
        let pair = create("mpls0", "default").await.unwrap();
        ip("address add 1.1.1.1/32 dev lo");
        ip("address add fd00::1/128 dev lo nodad");
        ip("route add 2.2.2.2/32 dev mpls0 src 1.1.1.1");
        ip("-6 route add fd00::2/128 dev mpls0 src fd00::1");
        let far = listen(pair.port_ifindex());
        // The larger one does not fit the MTU: it is fragmented, one frame each. Other ports each time: a process that
        // another test has just forked can still hold the previous one.
        for (source, destination, length) in [
            ("1.1.1.1:4000", "2.2.2.2:5000", 100),
            ("1.1.1.1:4001", "2.2.2.2:5000", 1440),
            ("[fd00::1]:4000", "[fd00::2]:5000", 100),
        ] {
            let data: Vec<u8> = (0..=255).cycle().take(length).collect();
            let socket = UdpSocket::bind(source).unwrap();
            assert_eq!(socket.send_to(&data, destination).unwrap(), length);
            let frame = receive(&far);
            let (ip, pseudo_header) = match frame[12..14] {
                [0x08, 0x00] => {
                    assert_eq!(ones_complement_sum(&frame[14..34]), 0xffff, "IPv4 header checksum");
                    (20, [&frame[26..34], &[0, 17], &frame[38..40]].concat())
                }
                _ => (40, [&frame[22..54], &[0, 17], &frame[58..60]].concat()),
            };
            assert_eq!((&frame[..6], &frame[6..12]), (&MAC.0[..], &MAC.0[..]));
            assert_eq!(frame.len(), 14 + ip + 8 + length);
            assert_eq!(frame[14 + ip + 8..], data);
            let sum = ones_complement_sum(&[&pseudo_header[..], &frame[14 + ip..]].concat());
            assert_eq!(sum, 0xffff, "UDP checksum of {length} bytes from {source}");
        }
        let socket = UdpSocket::bind("1.1.1.1:4002").unwrap();
        socket.send_to(&[7; 2000], "2.2.2.2:5000").unwrap();
        let fragments = [receive(&far), receive(&far)];
        for fragment in &fragments {
            assert!(fragment.len() <= 14 + 1468, "{}", fragment.len());
            assert_eq!(ones_complement_sum(&fragment[14..34]), 0xffff, "IPv4 header checksum");
        }
        let payload: Vec<u8> = fragments.iter().flat_map(|fragment| &fragment[34..]).copied().collect();
        assert_eq!(payload.len(), 8 + 2000);
        let pseudo_header = [&fragments[0][26..34], &[0, 17], &payload[4..6]].concat();
        assert_eq!(
            ones_complement_sum(&[&pseudo_header[..], &payload[..]].concat()),
            0xffff
        );
    });
}

/// The next frame; nothing else is sent on the pair.
fn receive(socket: &std::os::fd::OwnedFd) -> Vec<u8> {
    let mut frame = vec![0; 4096];
    let length = recv(std::os::fd::AsRawFd::as_raw_fd(socket), &mut frame, MsgFlags::empty()).expect("a frame");
    frame.truncate(length);
    frame
}

mod iproute2;
mod properties;

use super::*;
use crate::route::Fec;

fn read(line: &str, family: Family) -> Result<String, String> {
    route(line, family)
        .map(|route| route.to_string())
        .map_err(|error| error.to_string())
}

#[test]
fn good_lines() {
    for (line, means) in [
        (
            "100 as 110 via inet 192.168.40.102",
            "100 as to 110 via inet 192.168.40.102",
        ),
        ("101 via inet 20.0.0.2 as 111", "101 as to 111 via inet 20.0.0.2"),
        (
            "100 as to 110 via inet6 fe80::1 dev eth1",
            "100 as to 110 via inet6 fe80::1 dev eth1",
        ),
        (
            "100 as 200/300 via inet 192.0.2.1",
            "100 as to 200/300 via inet 192.0.2.1",
        ),
        (
            "100 dev eth1 via link 02:00:00:00:00:01 as 16",
            "100 as to 16 via link 02:00:00:00:00:01 dev eth1",
        ),
        ("100 via 192.0.2.1", "100 via inet 192.0.2.1"),
        ("100 via 2001:db8::1", "100 via inet6 2001:db8::1"),
        (
            "100 as implicit-null via inet 192.0.2.1",
            "100 as implicit-null via inet 192.0.2.1",
        ),
        ("100 as 3 via inet 192.0.2.1", "100 as implicit-null via inet 192.0.2.1"),
        (
            "100 as explicit-null via inet 192.0.2.1",
            "100 as to 0 via inet 192.0.2.1",
        ),
        (
            "100 as ipv6-explicit-null via inet 192.0.2.1",
            "100 as to 2 via inet 192.0.2.1",
        ),
        (
            "100 as 200/explicit-null via inet 192.0.2.1",
            "100 as to 200/0 via inet 192.0.2.1",
        ),
        ("100 dev lo", "100 dev lo"),
        ("100 dev lo pass", "100 dev lo pass"),
        ("100 pass dev lo", "100 dev lo pass"),
        ("100 pass", "100 pass"),
        ("10.4.4.0/24 pass metric 20", "10.4.4.0/24 pass metric 20"),
        (
            "100 pass proto ldp packets 5 bytes 500  #  20 labels:\tmore than 16 ",
            "100 pass proto ldp # 20 labels: more than 16",
        ),
        ("500 xconnect eth2", "500 xconnect eth2"),
        (
            "500 xconnect eth2.30 flow-label tagged no-cw proto ldp",
            "500 xconnect eth2.30 tagged no-cw flow-label proto ldp",
        ),
        (
            "500 xconnect eth2 cw tagged vlan 0x1e packets 1 bytes 60",
            "500 xconnect eth2 vlan 30",
        ),
        (
            "xconnect eth2 encap mpls 100/500 via 192.0.2.1 dev eth1 vlan 0",
            "xconnect eth2 vlan 0 encap mpls 100/500 via inet 192.0.2.1 dev eth1",
        ),
        (
            "xconnect eth2 no-cw nexthop via 192.0.2.2 encap mpls 500 nexthop encap mpls 500 via 192.0.2.1",
            "xconnect eth2 no-cw nexthop encap mpls 500 via inet 192.0.2.1 weight 1 nexthop encap mpls 500 via inet 192.0.2.2 weight 1",
        ),
        ("100 pass #", "100 pass"),
        ("100 pass ##1 # 2", "100 pass # 1 # 2"),
        (
            "100 ttl-propagate disabled as 110 via inet 192.0.2.1",
            "100 as to 110 via inet 192.0.2.1 ttl-propagate disabled",
        ),
        (
            "10.4.4.0/24 encap mpls 100 via inet 192.0.2.1",
            "10.4.4.0/24 encap mpls 100 via inet 192.0.2.1",
        ),
        (
            "10.4.4.0/24 encap mpls 100/200 ttl 9 via 192.0.2.1 dev eth1",
            "10.4.4.0/24 encap mpls 100/200 ttl 9 via inet 192.0.2.1 dev eth1",
        ),
        (
            "10.0.0.1 via 192.0.2.1 encap mpls 100",
            "10.0.0.1/32 encap mpls 100 via inet 192.0.2.1",
        ),
        (
            "2001:db8::1 encap mpls 100 via 2001:db8::2",
            "2001:db8::1/128 encap mpls 100 via inet6 2001:db8::2",
        ),
        (
            "default encap mpls 100 via 192.0.2.1",
            "default encap mpls 100 via inet 192.0.2.1",
        ),
        ("to 100 via inet 192.0.2.1", "100 via inet 192.0.2.1"),
        // As `ip -M route` and `ip route` print them.
        (
            "100 as to 110 via inet 192.168.40.102 dev eth1 proto static ",
            "100 as to 110 via inet 192.168.40.102 dev eth1",
        ),
        (
            "100 as to 110 via inet 192.168.40.102 dev eth1 proto static dead linkdown ",
            "100 as to 110 via inet 192.168.40.102 dev eth1",
        ),
        (
            "110 via inet 10.4.4.2 dev eth2 proto static",
            "110 via inet 10.4.4.2 dev eth2",
        ),
        (
            "10.4.4.0/24  encap mpls  100 ttl 5 via 192.168.30.102 dev eth1 proto static metric 20",
            "10.4.4.0/24 encap mpls 100 ttl 5 via inet 192.168.30.102 dev eth1 metric 20",
        ),
        (
            "2001:db8::/32  encap mpls  100 via fe80::1 dev eth1 metric 1024 pref medium",
            "2001:db8::/32 encap mpls 100 via inet6 fe80::1 dev eth1 metric 1024",
        ),
        (
            "100 as to 110 via inet 192.0.2.1 dev eth1 proto static unresolved packets 5 bytes 500",
            "100 as to 110 via inet 192.0.2.1 dev eth1",
        ),
    ] {
        assert_eq!(read(line, Family::Any), Ok(means.to_owned()), "{line}");
    }
}

#[test]
fn several_next_hops_and_backups() {
    for (line, means) in [
        (
            "100 nexthop via inet 192.0.2.2 as 200 weight 3 nexthop as 100/200 via 192.0.2.1 dev eth1",
            "100 nexthop as to 100/200 via inet 192.0.2.1 dev eth1 weight 1 nexthop as to 200 via inet 192.0.2.2 weight 3",
        ),
        (
            "100 nexthop via inet 192.0.2.2 nexthop as 3 via inet 192.0.2.2 nexthop as 110 via inet6 2001:db8::1 weight 256",
            "100 nexthop as to 110 via inet6 2001:db8::1 weight 256 nexthop via inet 192.0.2.2 weight 1 \
             nexthop as implicit-null via inet 192.0.2.2 weight 1",
        ),
        // A single `nexthop`: an ordinary route.
        (
            "100 nexthop via inet 192.0.2.2 as 200 weight 3",
            "100 as to 200 via inet 192.0.2.2",
        ),
        (
            "100 as 110 via inet 192.0.2.1 dev eth1 backup via inet 198.51.100.1 dev eth2",
            "100 as to 110 via inet 192.0.2.1 dev eth1 backup via inet 198.51.100.1 dev eth2",
        ),
        (
            "100 as 110 via inet 192.0.2.1 backup as 300/100 via inet 198.51.100.1 dev eth2 dev eth1",
            "100 as to 110 via inet 192.0.2.1 dev eth1 backup as to 300/100 via inet 198.51.100.1 dev eth2",
        ),
        (
            "100 via inet 192.0.2.1 backup as to 3 via inet 198.51.100.1",
            "100 via inet 192.0.2.1 backup as implicit-null via inet 198.51.100.1",
        ),
        (
            "10.4.0.0/16 encap mpls 110 ttl 7 via 192.0.2.1 backup encap mpls 300/100 ttl 9 via 198.51.100.1",
            "10.4.0.0/16 encap mpls 110 ttl 7 via inet 192.0.2.1 backup encap mpls 300/100 ttl 9 via inet 198.51.100.1",
        ),
        // The same labels are not its own.
        (
            "100 as 110 via inet 192.0.2.1 backup as 110 via inet 198.51.100.1",
            "100 as to 110 via inet 192.0.2.1 backup via inet 198.51.100.1",
        ),
        (
            "100 via inet 192.0.2.1 backup via link 02:00:00:00:00:01 dev eth2 dev eth1 ttl-propagate enabled",
            "100 via inet 192.0.2.1 dev eth1 backup via link 02:00:00:00:00:01 dev eth2 ttl-propagate enabled",
        ),
        (
            "100 ttl-propagate disabled nexthop via 192.0.2.1 backup via 2001:db8::1 weight 2 nexthop via 192.0.2.2",
            "100 ttl-propagate disabled nexthop via inet 192.0.2.1 backup via inet6 2001:db8::1 weight 2 \
             nexthop via inet 192.0.2.2 weight 1",
        ),
        // As `ip -M route` and `ip route` print them.
        (
            "100 proto static \n\tnexthop as to 200 via inet 10.0.1.2 dev eth1 weight 1 \n\
             \tnexthop as to 300 via inet 10.0.2.2 dev eth2 weight 2 dead linkdown ",
            "100 nexthop as to 200 via inet 10.0.1.2 dev eth1 weight 1 nexthop as to 300 via inet 10.0.2.2 dev eth2 weight 2",
        ),
        (
            "10.4.0.0/16 proto static metric 20 \\\tnexthop  encap mpls  100/200 ttl 5 via 10.0.1.2 dev eth1 weight 1 \
             \\\tnexthop  encap mpls  300 via 10.0.2.2 dev eth2 weight 1 ",
            "10.4.0.0/16 metric 20 nexthop encap mpls 100/200 ttl 5 via inet 10.0.1.2 dev eth1 weight 1 \
             nexthop encap mpls 300 via inet 10.0.2.2 dev eth2 weight 1",
        ),
    ] {
        assert_eq!(read(line, Family::Any), Ok(means.to_owned()), "{line}");
        assert_eq!(read(means, Family::Any), Ok(means.to_owned()), "{line}");
    }
    let members = |count: usize| {
        let members = (0..count).map(|index| format!(" nexthop via inet 10.0.{}.{}", index / 200, index % 200 + 1));
        read(&format!("100{}", members.collect::<String>()), Family::Any)
    };
    assert!(members(256).is_ok());
    assert_eq!(
        members(257),
        Err("257 next hops for one route; at most 256 are supported".into())
    );
}

#[test]
fn a_family_says_what_a_key_is() {
    let prefix = "10.0.0.0/8 encap mpls 100 via 192.0.2.1";
    assert!(read(prefix, Family::Inet).is_ok());
    assert_eq!(
        read(prefix, Family::Mpls),
        Err("`10.0.0.0/8` is not a label, such as 100".into())
    );
    assert_eq!(
        read(prefix, Family::Inet6),
        Err("`10.0.0.0/8` is not an IPv6 prefix, such as 2001:db8::/32".into())
    );
    assert_eq!(
        read("100 via inet 192.0.2.1", Family::Inet),
        Err("`100` is not an IPv4 prefix, such as 10.4.4.0/24".into())
    );
    assert_eq!(
        read("default encap mpls 100 via 2001:db8::1", Family::Inet6),
        Ok("default encap mpls 100 via inet6 2001:db8::1".into())
    );
}

/// Each line, the words that the error points at, and its message.
#[test]
fn bad_lines() {
    for (line, words, reason) in [
        (
            "",
            "",
            "the line is incomplete: expected a label, such as 100, a prefix, such as 10.4.4.0/24, or `xconnect IFACE`",
        ),
        (
            "foo",
            "foo",
            "`foo` is not a label, such as 100, a prefix, such as 10.4.4.0/24, or `xconnect IFACE`",
        ),
        (
            "-1 via inet 192.0.2.1",
            "-1",
            "`-1` is not a label, such as 100, a prefix, such as 10.4.4.0/24, or `xconnect IFACE`",
        ),
        (
            "1048576 via inet 192.0.2.1",
            "1048576",
            "`1048576` is not a label: labels are 0 to 1048575",
        ),
        (
            "99999999999 via inet 192.0.2.1",
            "99999999999",
            "`99999999999` is not a label: labels are 0 to 1048575",
        ),
        (
            "15 via inet 192.0.2.1",
            "15",
            "label 15 is special-purpose (0 to 15, RFC 7274) and takes no route; 0 and 2 are built in",
        ),
        (
            "100",
            "",
            "no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
        ),
        (
            "100 as",
            "",
            "the line is incomplete: expected outgoing labels after `as`, such as 110 or 200/300",
        ),
        (
            "500 xconnect",
            "",
            "the line is incomplete: expected the name of a port after `xconnect`",
        ),
        (
            "500 xconnect a/b",
            "a/b",
            "`a/b` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces",
        ),
        (
            "500 xconnect eth2 via inet 192.0.2.1",
            "via inet 192.0.2.1",
            "`xconnect PORT` sends the frames of a pseudowire out of a port; it takes no `via`, `backup`, `as` or `encap`, \
             and no `dev`",
        ),
        (
            "500 xconnect eth2 vlan 4095",
            "vlan 4095",
            "`4095` is not a VLAN: it is 0 to 4094",
        ),
        ("500 xconnect eth2 vlan x", "x", "`x` is not a VLAN: it is 0 to 4094"),
        ("500 xconnect eth2 cw no-cw", "no-cw", "`no-cw` is given twice"),
        (
            "500 xconnect eth2 ttl-propagate enabled",
            "ttl-propagate enabled",
            "`ttl-propagate` is not for pseudowires: the frames in there have no TTL",
        ),
        (
            "500 as 600 via inet 192.0.2.1 flow-label",
            "flow-label",
            "`cw`, `no-cw`, `flow-label`, `tagged` and `vlan` are for pseudowires: `LABEL xconnect PORT` or `xconnect PORT \
             encap mpls LABELS`",
        ),
        (
            "10.0.0.0/8 xconnect eth2",
            "xconnect eth2",
            "`xconnect PORT` after a prefix: only a label can be a pseudowire's",
        ),
        (
            "xconnect eth2 as 500 via inet 192.0.2.1",
            "as 500",
            "frames of eth2 get labels: `xconnect eth2 encap mpls LABEL via ...`",
        ),
        (
            "xconnect eth2 encap mpls 100/0 via inet 192.0.2.1",
            "encap mpls 100/0",
            "label 0 is special-purpose; the last label is the pseudowire's, 16 or more",
        ),
        (
            "xconnect eth2 table 10 encap mpls 500 via inet 192.0.2.1",
            "table 10",
            "`table` is for a prefix, not for the frames of a port",
        ),
        (
            "100 as foo via inet 192.0.2.1",
            "foo",
            "`foo` is not a label: labels are 0 to 1048575",
        ),
        (
            "100 as 1048576 via inet 192.0.2.1",
            "as 1048576",
            "`1048576` is not a label: labels are 0 to 1048575",
        ),
        (
            "100 as +5 via inet 192.0.2.1",
            "+5",
            "`+5` is not a label: labels are 0 to 1048575",
        ),
        (
            "100 as 200//300 via inet 192.0.2.1",
            "200//300",
            "`` is not a label: labels are 0 to 1048575",
        ),
        (
            "100 as 3/200 via inet 192.0.2.1",
            "as 3/200",
            "implicit-null (3) is never on the wire (RFC 3032 section 2.1): it must be the only label, as `as implicit-null`, and \
             only for an incoming label",
        ),
        (
            "100 as 200/1 via inet 192.0.2.1",
            "as 200/1",
            "router alert (1) is never the last label (RFC 3032 section 2.1): another one follows it, such as in `1/200`",
        ),
        (
            "10.4.4.0/24 encap mpls 200/7/15 via inet 192.0.2.1",
            "encap mpls 200/7/15",
            "an entropy label of 16 or more follows its indicator (7) at once (RFC 6790 section 3), such as in `200/7/5000`",
        ),
        (
            "100 as 7 via inet 192.0.2.1",
            "as 7",
            "an entropy label of 16 or more follows its indicator (7) at once (RFC 6790 section 3), such as in `200/7/5000`",
        ),
        (
            "10.4.4.0/24 encap mpls 200/2 via inet 192.0.2.1",
            "encap mpls 200/2",
            "label 2 as the last one says that it is not IPv4 beneath (RFC 3032 section 2.1); the explicit null of IPv4 \
             is 0",
        ),
        (
            "2001:db8::/32 encap mpls 0 via inet 192.0.2.1",
            "encap mpls 0",
            "label 0 as the last one says that it is not IPv6 beneath (RFC 3032 section 2.1); the explicit null of IPv6 \
             is 2",
        ),
        (
            "100 as 16/17/18/19/20/21/22/23/24/25/26/27/28/29/30/31/32 via inet 192.0.2.1",
            "as 16/17/18/19/20/21/22/23/24/25/26/27/28/29/30/31/32",
            "17 labels to push; at most 16 are supported",
        ),
        ("100 as 110 as 111 via inet 192.0.2.1", "as", "`as` is given twice"),
        (
            "100 via",
            "",
            "the line is incomplete: expected a next hop after `via`: `inet ADDRESS`, `inet6 ADDRESS` or `link MAC`",
        ),
        (
            "100 via inet",
            "",
            "the line is incomplete: expected an IPv4 address after `via inet`, such as 192.0.2.1",
        ),
        (
            "100 via inet fe80::1",
            "via inet fe80::1",
            "`fe80::1` is not an IPv4 address, such as 192.0.2.1",
        ),
        (
            "100 via inet6 192.0.2.1",
            "via inet6 192.0.2.1",
            "`192.0.2.1` is not an IPv6 address, such as 2001:db8::1",
        ),
        (
            "100 via link 02:00",
            "via link 02:00",
            "`02:00` is not a MAC address, such as 52:54:00:12:34:56",
        ),
        (
            "100 via mpls 100",
            "mpls",
            "`mpls` is not `inet ADDRESS`, `inet6 ADDRESS`, `link MAC` or an IP address",
        ),
        (
            "100 via link 02:00:00:00:00:01",
            "via link 02:00:00:00:00:01",
            "`via link` needs `dev IFACE`",
        ),
        (
            "100 via inet6 fe80::1",
            "via inet6 fe80::1",
            "link-local fe80::1 needs `dev IFACE`",
        ),
        (
            "100 via inet 224.0.0.1",
            "via inet 224.0.0.1",
            "224.0.0.1 is not the address of one neighbour",
        ),
        (
            "100 dev eth1",
            "dev eth1",
            "`dev` without `via`: name the neighbour with `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
        ),
        (
            "100 via inet 192.0.2.1 dev lo",
            "dev lo",
            "`dev lo` keeps the packet on this machine; it takes no `via`, no `backup`, no `as` and no other `dev`",
        ),
        (
            "100 via inet 192.0.2.1 dev an-interface-of-16",
            "dev an-interface-of-16",
            "`an-interface-of-16` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces",
        ),
        (
            "100 via inet 192.0.2.1 dev",
            "",
            "the line is incomplete: expected an interface after `dev`",
        ),
        (
            "100 encap mpls 110 via inet 192.0.2.1",
            "encap mpls 110",
            "`encap mpls` (`push`) is for a prefix; a label takes `as` (`swap`)",
        ),
        (
            "100 ttl 5 via inet 192.0.2.1",
            "ttl 5",
            "`ttl` is only for `encap mpls`; a label has `ttl-propagate`",
        ),
        (
            "10.0.0.0/8 as 100 via inet 192.0.2.1",
            "as 100",
            "a route for a prefix pushes labels: `10.0.0.0/8 encap mpls LABEL`",
        ),
        (
            "10.0.0.0/8 via inet 192.0.2.1",
            "",
            "a route for a prefix pushes labels: `10.0.0.0/8 encap mpls LABEL`",
        ),
        (
            "10.0.0.1/8 encap mpls 100 via inet 192.0.2.1",
            "10.0.0.1/8",
            "10.0.0.1/8 has bits set beyond its length; it would be 10.0.0.0/8",
        ),
        (
            "10.0.0.0/33 encap mpls 100",
            "10.0.0.0/33",
            "`10.0.0.0/33` is not a label, such as 100, a prefix, such as 10.4.4.0/24, or `xconnect IFACE`",
        ),
        (
            "127.0.0.0/8 encap mpls 100 via inet 192.0.2.1",
            "127.0.0.0/8",
            "labels are never imposed on 127.0.0.0/8: loopback, link-local and multicast addresses are left to the kernel",
        ),
        (
            "10.0.0.0/8 encap ip 100",
            "ip",
            "`encap ip` is not supported, only `encap mpls`",
        ),
        (
            "10.0.0.0/8 encap mpls 100 ttl 0 via 192.0.2.1",
            "ttl 0",
            "`0` is not a TTL: it is 1 to 255",
        ),
        (
            "10.0.0.0/8 encap mpls 100 ttl 256 via 192.0.2.1",
            "256",
            "`256` is not a TTL: it is 1 to 255",
        ),
        (
            "100 ttl-propagate on via inet 192.0.2.1",
            "on",
            "`on`: `ttl-propagate` is `enabled` or `disabled`",
        ),
        (
            "100 nexthop as 110 nexthop via inet 192.0.2.2 as 111",
            "nexthop",
            "no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
        ),
        (
            "100 as 110 nexthop via inet 192.0.2.1 nexthop via inet 192.0.2.2",
            "as 110",
            "each of several next hops has its own: give it there, after its `nexthop`",
        ),
        (
            "100 nexthop as 110 via inet 192.0.2.1 weight 2 nexthop via inet 192.0.2.1 as 110",
            "nexthop",
            "`nexthop as to 110 via inet 192.0.2.1 weight 2` is given twice: give it once, with a larger `weight`",
        ),
        (
            "100 nexthop via inet 192.0.2.1 weight 0",
            "weight 0",
            "`0` is not a weight: it is 1 to 256",
        ),
        (
            "100 nexthop via inet 192.0.2.1 weight 257",
            "weight 257",
            "`257` is not a weight: it is 1 to 256",
        ),
        (
            "100 via inet 192.0.2.1 weight 2",
            "weight 2",
            "`weight` is for one of several: `nexthop via inet ADDRESS weight N`",
        ),
        (
            "100 nexthop via inet 192.0.2.1 nexthop dev lo",
            "dev lo",
            "`dev lo` keeps the packet on this machine; it is not one of several next hops",
        ),
        (
            "10.0.0.0/8 encap mpls 100 nexthop via 192.0.2.1",
            "encap mpls 100",
            "each of several next hops has its own: give it there, after its `nexthop`",
        ),
        (
            "10.0.0.0/8 nexthop via 192.0.2.1",
            "nexthop",
            "a route for a prefix pushes labels: `10.0.0.0/8 encap mpls LABEL`",
        ),
        (
            "100 via inet 192.0.2.1 backup via inet 192.0.2.2 backup via inet 192.0.2.3",
            "backup",
            "a backup cannot have a backup",
        ),
        (
            "100 via inet 192.0.2.1 backup via inet 192.0.2.2 dev eth2 backup via inet 192.0.2.3",
            "backup",
            "a backup cannot have a backup",
        ),
        (
            "100 via inet 192.0.2.1 backup inet 192.0.2.2",
            "inet",
            "`inet` is not `via` after `backup`, such as `backup via inet 192.0.2.1` or `backup as 300/100 via inet 192.0.2.1`",
        ),
        (
            "100 as 110 via inet 192.0.2.1 backup as 300/3 via inet 192.0.2.2",
            "as 300/3",
            "implicit-null (3) is never on the wire (RFC 3032 section 2.1): it must be the only label, as `as implicit-null`, and only for \
             an incoming label",
        ),
        (
            "100 as 110 via inet 192.0.2.1 backup as \
             16/17/18/19/20/21/22/23/24/25/26/27/28/29/30/31/32 via inet 192.0.2.2",
            "as 16/17/18/19/20/21/22/23/24/25/26/27/28/29/30/31/32",
            "17 labels to push; at most 16 are supported",
        ),
        (
            "100 as 110 via inet 192.0.2.1 backup encap mpls 300 via inet 192.0.2.2",
            "encap mpls 300",
            "`encap mpls` (`push`) is for a prefix; a label takes `as` (`swap`)",
        ),
        (
            "10.0.0.0/8 encap mpls 110 via inet 192.0.2.1 backup as 300 via inet 192.0.2.2",
            "as 300",
            "a route for a prefix pushes labels: `10.0.0.0/8 encap mpls LABEL`",
        ),
        (
            "10.0.0.0/8 encap mpls 110 via inet 192.0.2.1 backup encap mpls 300/2 via inet 192.0.2.2",
            "encap mpls 300/2",
            "label 2 as the last one says that it is not IPv4 beneath (RFC 3032 section 2.1); the explicit null of IPv4 is 0",
        ),
        (
            "10.0.0.0/8 encap mpls 110 via inet 192.0.2.1 backup encap mpls 300 ttl 0 via inet 192.0.2.2",
            "ttl 0",
            "`0` is not a TTL: it is 1 to 255",
        ),
        (
            "100 as 110 via inet 192.0.2.1 backup as 300 ttl 9 via inet 192.0.2.2",
            "ttl",
            "`ttl` is not `via` after `backup`, such as `backup via inet 192.0.2.1` or `backup as 300/100 via inet 192.0.2.1`",
        ),
        (
            "100 as 110 via inet 192.0.2.1 backup as 300",
            "",
            "the line is incomplete: expected `via` after `backup`, such as `backup via inet 192.0.2.1` or `backup as 300/100 via inet 192.0.2.1`",
        ),
        (
            "100 via inet 192.0.2.1 backup via link 02:00:00:00:00:01",
            "backup via link 02:00:00:00:00:01",
            "`via link` needs `dev IFACE`",
        ),
        (
            "100 via inet 192.0.2.1 backup via inet 192.0.2.1",
            "backup via inet 192.0.2.1",
            "`backup via inet 192.0.2.1` is the next hop itself; a backup is another neighbour",
        ),
        (
            "100 backup via inet 192.0.2.1",
            "",
            "no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
        ),
        (
            "100 dev lo backup via inet 192.0.2.1",
            "backup via inet 192.0.2.1",
            "`dev lo` keeps the packet on this machine; it takes no `via`, no `backup`, no `as` and no other `dev`",
        ),
        (
            "100 as 110 via inet 192.0.2.1 mut 1500",
            "mut",
            "`mut` is not known; a route has `as`, `via`, `dev`, `encap`, `pass`, `ttl`, `ttl-propagate`, `backup`, `nexthop`, \
             `table`, `vrf`, `proto` and `metric`, and a pseudowire has `xconnect`, `cw`, `no-cw`, `flow-label`, `tagged` and `vlan`",
        ),
        (
            "100 as 110 via inet 192.0.2.1 table 10",
            "table 10",
            "`table` is for a prefix: a label means the same at all ports",
        ),
        (
            "10.0.0.0/8 encap mpls 100 via inet 192.0.2.1 table nonesuch",
            "nonesuch",
            "`nonesuch` is not a routing table: it is a number, 1 to 4294967295, `main`, or a name of /etc/iproute2/rt_tables",
        ),
        (
            "10.0.0.0/8 encap mpls 100 via inet 192.0.2.1 table 0",
            "0",
            "0 is not a routing table: a table is a number from 1 to 4294967295, or a name of /etc/iproute2/rt_tables",
        ),
        (
            "10.0.0.0/8 table 10 encap mpls 100 via inet 192.0.2.1 table 20",
            "table",
            "`table` is given twice",
        ),
        (
            "10.0.0.0/8 encap mpls 100 via inet 192.0.2.1 vrf red",
            "red",
            "`vrf red`: only a command can ask which table that is; write `table N`, as `ip -d link show red` has it",
        ),
        (
            "blackhole 10.0.0.0/8",
            "blackhole",
            "`blackhole` routes are not supported; a label, such as 100, a prefix, such as 10.4.4.0/24, or `xconnect IFACE` is expected",
        ),
    ] {
        let error = route(line, Family::Any).unwrap_err();
        assert_eq!(
            (&line[error.at.clone()], error.to_string().as_str()),
            (words, reason),
            "{line}"
        );
        if words.is_empty() {
            assert_eq!(error.at.start, line.len(), "{line}");
        }
    }
}

#[test]
fn an_error_is_pointed_out() {
    let line = "100 as to nowhere via inet 192.0.2.1";
    let error = route(line, Family::Any).unwrap_err();
    assert_eq!(error.column(line), 11);
    assert_eq!(
        error.point_out(line),
        "  100 as to nowhere via inet 192.0.2.1\n            ^^^^^^^"
    );
    let error = route("100 as", Family::Any).unwrap_err();
    assert_eq!(error.point_out("100 as"), "  100 as\n        ^");
}

#[test]
fn keys() {
    assert_eq!(key("100", Family::Any).map(|key| key.to_string()), Ok("100".into()));
    assert_eq!(
        key("10.0.0.1", Family::Any).map(|key| key.to_string()),
        Ok("10.0.0.1/32".into())
    );
    assert_eq!(
        key("100 via", Family::Any).map_err(|error| error.to_string()),
        Err(
            "`via` is not expected here: give only the label, `xconnect IFACE` or prefix, and its `table` or `vrf`"
                .into()
        )
    );
    for (line, means) in [
        ("10/8 table 0x3e8", Ok("10.0.0.0/8 table 1000")),
        ("10/8 table main", Ok("10.0.0.0/8 table main")),
        ("100 table main", Ok("100")),
        (
            "100 table 10",
            Err(("table", "`table` is for a prefix: a label means the same at all ports")),
        ),
        ("10/8 table 10 vrf red", Err(("vrf", "`vrf` is given twice"))),
    ] {
        let read = read_with_vrfs(line, |line, context| key(line, context));
        let read = read.map(|key| key.to_string());
        let expected = means.map(str::to_owned);
        let shown = |error: GrammarError| (&line[error.at.clone()], error.to_string());
        assert_eq!(
            read.map_err(shown),
            expected.map_err(|(at, text)| (at, text.to_owned())),
            "{line}"
        );
    }
}

/// Reads with a VRF `red` that has table 1000.
fn read_with_vrfs<T>(line: &str, read: impl FnOnce(&str, Context<'_>) -> T) -> T {
    let mut find = |name: &str| match name {
        "red" => Some(RoutingTable(1000)),
        _ => None,
    };
    let find_vrf: FindVrf<'_> = &mut find;
    read(
        line,
        Context {
            family: Family::Any,
            find_vrf: Some(find_vrf),
        },
    )
}

/// As with iproute2, `vrf NAME` is the table of that VRF.
#[test]
fn a_vrf_is_its_table() {
    let as_route = |line: &str| {
        read_with_vrfs(line, |line, context| route(line, context))
            .unwrap()
            .to_string()
    };
    let shown = "10.0.0.0/8 encap mpls 100 via inet 192.0.2.1 table 1000 metric 5";
    for line in [
        "10/8 vrf red encap mpls 100 via 192.0.2.1 metric 5",
        "10/8 encap mpls 100 via 192.0.2.1 metric 5 table 1000",
    ] {
        assert_eq!(as_route(line), shown);
    }
    let whole = read_with_vrfs("10/8 vrf red", |line, context| deletion(line, context)).unwrap();
    let of_red = RouteKey::Prefix(Fec::new("10.0.0.0/8".parse().unwrap(), Some(RoutingTable(1000))));
    assert_eq!((whole.key, whole.is_key()), (of_red, true));
    assert_eq!(
        read_with_vrfs("10/8 vrf red", |line, context| key(line, context)),
        Ok(of_red)
    );
    let filter = read_with_vrfs("root 10/8 vrf red", |line, context| selection(line, context));
    let filter = filter.unwrap().unwrap();
    assert_eq!(filter.table, Some(RoutingTable(1000)));
    assert!(filter.selects(of_red));
    assert!(!filter.selects(RouteKey::Prefix(Fec::from("10.0.0.0/8".parse::<IpNet>().unwrap()))));
    let error = read_with_vrfs("10/8 vrf blue", |line, context| key(line, context)).unwrap_err();
    assert_eq!(
        (error.at, error.reason.to_string().as_str()),
        (9..13, "there is no VRF `blue`")
    );
}

/// What a line deletes: the key, the whole route if there is one, and what must be true of it.
#[test]
fn deletions() {
    for (line, key, whole, attributes) in [
        ("100", "100", None, (None, None)),
        (
            "100 via inet 192.0.2.1",
            "100",
            Some("100 via inet 192.0.2.1"),
            (None, None),
        ),
        ("10.1/16 proto bgp", "10.1.0.0/16", None, (Some(186), None)),
        (
            "10.1/16 metric 20 table main",
            "10.1.0.0/16 table main",
            None,
            (None, Some(20)),
        ),
        ("100 table main", "100", None, (None, None)),
        (
            "10.1/16 proto 7 encap mpls 100 via 192.0.2.1 metric 5",
            "10.1.0.0/16",
            Some("10.1.0.0/16 encap mpls 100 via inet 192.0.2.1 proto 7 metric 5"),
            (Some(7), Some(5)),
        ),
    ] {
        let found = deletion(line, Family::Any).unwrap();
        assert_eq!(found.key.to_string(), key, "{line}");
        assert_eq!(found.route().map(|route| route.to_string()).as_deref(), whole, "{line}");
        let protocol = found.protocol().map(|Protocol(number)| number);
        assert_eq!((protocol, found.metric()), attributes, "{line}");
    }
    assert!(deletion("100 mtu 5", Family::Any).is_err());
    assert!(deletion("", Family::Any).is_err());
}

#[test]
fn selections() {
    let filter = |keys| RouteFilter::from(keys);
    let of_main = |keys| RouteFilter {
        table: Some(RoutingTable::MAIN),
        ..filter(keys)
    };
    let prefix = |text: &str| text.parse::<IpNet>().unwrap();
    let one = |text: &str| filter(key(text, Family::Any).unwrap().into());
    for (line, family, means) in [
        ("", Family::Any, None),
        (" ", Family::Inet, None),
        ("all", Family::Any, Some(filter(KeyFilter::All))),
        ("all", Family::Mpls, Some(filter(KeyFilter::Labels))),
        ("table main", Family::Inet6, Some(of_main(KeyFilter::V6Prefixes))),
        ("table main", Family::Mpls, Some(filter(KeyFilter::Labels))),
        ("100 table main", Family::Any, Some(one("100"))),
        (
            "10/8 table main",
            Family::Any,
            Some(of_main(KeyFilter::Prefix(prefix("10.0.0.0/8")))),
        ),
        ("100", Family::Any, Some(one("100"))),
        ("0x64", Family::Mpls, Some(one("100"))),
        ("10/8", Family::Inet, Some(one("10.0.0.0/8"))),
        ("to exact 10.4/16", Family::Any, Some(one("10.4.0.0/16"))),
        ("default", Family::Inet6, Some(one("::/0"))),
        (
            "to root 10.4.5/16",
            Family::Any,
            Some(filter(KeyFilter::Within(prefix("10.4.0.0/16")))),
        ),
        (
            "match 10.4.5.6",
            Family::Any,
            Some(filter(KeyFilter::Covering(prefix("10.4.5.6/32")))),
        ),
        (
            "proto bgp",
            Family::Inet,
            Some(RouteFilter {
                protocol: Some(Protocol(186)),
                ..filter(KeyFilter::V4Prefixes)
            }),
        ),
        (
            "dev eth1 all proto 7 via inet6 fe80::1",
            Family::Any,
            Some(RouteFilter {
                keys: KeyFilter::All,
                table: None,
                protocol: Some(Protocol(7)),
                via: Some(Via::Inet6("fe80::1".parse().unwrap())),
                dev: Some("eth1".into()),
                owner: None,
                standby: false,
            }),
        ),
    ] {
        // `all` also selects standby routes.
        let standby = line.split(' ').any(|word| word == "all");
        let means = means.map(|means| RouteFilter { standby, ..means });
        assert_eq!(selection(line, family), Ok(means), "{line}");
    }
    let everything = Some(filter(KeyFilter::All));
    assert_eq!(selection("table all", Family::Any), Ok(everything));
    for (line, words, reason) in [
        (
            "all 100",
            "100",
            "`100` after `all`: only one label, prefix or `all` is expected",
        ),
        (
            "100 101",
            "101",
            "`101` after `100`: only one label, prefix or `all` is expected",
        ),
        (
            "root 100",
            "100",
            "`root` takes a prefix, such as 10.0.0.0/8; `100` is not one",
        ),
        (
            "proto bgpp",
            "bgpp",
            "`bgpp` is not a routing protocol: it is a name such as static, bgp, ospf or isis, or a number, 0 to 255",
        ),
        ("proto bgp proto bgp", "proto", "`proto` is given twice"),
        ("dev", "", "the line is incomplete: expected an interface after `dev`"),
        (
            "100 table 10",
            "table",
            "`table` is for a prefix: a label means the same at all ports",
        ),
        ("table 10 table all", "table", "`table` is given twice"),
        (
            "scope link",
            "scope",
            "`scope` is not a selector; the selectors are `all`, LABEL, PREFIX, `xconnect IFACE`, `root PREFIX`, `match PREFIX`, \
             `table TABLE`, `vrf VRF`, `proto PROTO`, `via ADDRESS` and `dev IFACE`",
        ),
    ] {
        let error = selection(line, Family::Any).unwrap_err();
        assert_eq!(
            (&line[error.at.clone()], error.to_string().as_str()),
            (words, reason),
            "{line}"
        );
    }
}

#[test]
fn a_label_leads_into_a_vrf() {
    let shown = |line: &str| route(line, Family::Any).map(|route| route.to_string());
    for line in ["100 vrf red pass", "100 vrf red pass ttl-propagate disabled proto bgp"] {
        assert_eq!(shown(line).unwrap(), line);
    }
    // `route show` adds why packets are left to the kernel.
    assert_eq!(
        shown("100 vrf red pass  # no port is in VRF red").unwrap(),
        "100 vrf red pass"
    );
    for (line, word) in [
        ("100 vrf red", "red"),
        ("100 vrf red as 110 via inet 192.0.2.1", "red"),
        ("100 vrf red pass via inet 192.0.2.1", "via inet 192.0.2.1"),
        (
            "100 vrf red pass backup via inet 192.0.2.1",
            "backup via inet 192.0.2.1",
        ),
        ("100 vrf red pass as 110", "as"),
        ("100 vrf red pass dev eth1", "dev"),
        ("100 vrf a/b pass", "vrf a/b pass"),
        (
            "100 nexthop vrf red pass nexthop via inet 192.0.2.1 dev eth1",
            "vrf red pass",
        ),
    ] {
        let error = route(line, Family::Any).unwrap_err();
        assert_eq!(&line[error.at.clone()], word, "{line}: {error}");
    }
}

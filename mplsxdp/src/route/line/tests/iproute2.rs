//! Lines of `ip` and FRR, and words that mean nothing here.

use super::*;

/// Lines that FRR has installed, and others that `ip` accepts or prints, word for word.
#[test]
fn lines_of_ip_and_frr() {
    for (line, means) in [
        (
            "10.100.0.3 nhid 25  encap mpls  17 via 10.2.0.2 dev b0 proto ospf metric 20 ",
            "10.100.0.3/32 encap mpls 17 via inet 10.2.0.2 dev b0 proto ospf metric 20",
        ),
        (
            "10.100.0.3 nhid 25 proto ospf metric 20 \n\tnexthop  encap mpls  17 via 10.2.0.2 dev b0 weight 1 \n\
             \tnexthop  encap mpls  implicit-null-not-here via 10.3.0.2 dev b1 weight 1 ",
            "",
        ),
        (
            "10.100.0.3 nhid 25 proto ospf metric 20 \n\tnexthop  encap mpls  17 via 10.2.0.2 dev b0 weight 1 \n\
             \tnexthop  encap mpls  18/19 via 10.3.0.2 dev b1 weight 1 onlink linkdown ",
            "10.100.0.3/32 proto ospf metric 20 nexthop encap mpls 17 via inet 10.2.0.2 dev b0 weight 1 \
             nexthop encap mpls 18/19 via inet 10.3.0.2 dev b1 weight 1",
        ),
        (
            "2001:db8::3 nhid 31  encap mpls  17 via fe80::2 dev b0 proto isis metric 20 pref medium",
            "2001:db8::3/128 encap mpls 17 via inet6 fe80::2 dev b0 proto isis metric 20",
        ),
        (
            "17 as to 18 via inet 10.2.0.2 dev b0 proto ospf ",
            "17 as to 18 via inet 10.2.0.2 dev b0 proto ospf",
        ),
        (
            "16 nhid 9 via inet6 fe80::2 dev b0 proto 193 rt_offload rt_trap offload trap ",
            "16 via inet6 fe80::2 dev b0 proto ldp",
        ),
        (
            "100 as to 110 via inet 10.2.0.2 dev b0 proto static ttl-propogate disabled",
            "100 as to 110 via inet 10.2.0.2 dev b0 ttl-propagate disabled",
        ),
        // `ip -oneline -M route` prints its backslash right after the word.
        (
            "100 proto static ttl-propogate enabled\\\tnexthop as to 200 via inet 10.0.1.2  dev eth1 dead linkdown \\\tnexthop \
             as to 300 via inet 10.0.2.2  dev eth2 ",
            "100 ttl-propagate enabled nexthop as to 200 via inet 10.0.1.2 dev eth1 weight 1 \
             nexthop as to 300 via inet 10.0.2.2 dev eth2 weight 1",
        ),
        ("103 nexthop dev lo", "103 dev lo"),
        (
            "0x67 as 0x68/0X69 via inet 192.0.2.1",
            "103 as to 104/105 via inet 192.0.2.1",
        ),
        (
            "10.22/16 encap mpls 100 via 192.0.2.1",
            "10.22.0.0/16 encap mpls 100 via inet 192.0.2.1",
        ),
        (
            "10/8 encap mpls 100 via 192.0.2.1",
            "10.0.0.0/8 encap mpls 100 via inet 192.0.2.1",
        ),
        (
            "10.22 encap mpls 100 via 192.0.2.1",
            "10.22.0.0/32 encap mpls 100 via inet 192.0.2.1",
        ),
        (
            "10.22.0.0/255.255.0.0 encap mpls 100 via 192.0.2.1",
            "10.22.0.0/16 encap mpls 100 via inet 192.0.2.1",
        ),
        (
            "all encap mpls 100 via 192.0.2.1",
            "default encap mpls 100 via inet 192.0.2.1",
        ),
        (
            "default encap mpls 100 via 2001:db8::1",
            "default encap mpls 100 via inet6 2001:db8::1",
        ),
        (
            "default nexthop encap mpls 100 via inet6 2001:db8::1 nexthop encap mpls 101 via 192.0.2.1",
            "default nexthop encap mpls 100 via inet6 2001:db8::1 weight 1 nexthop encap mpls 101 via inet 192.0.2.1 weight 1",
        ),
        (
            "default encap mpls 100 via link 02:00:00:00:00:01 dev eth1",
            "default encap mpls 100 via link 02:00:00:00:00:01 dev eth1",
        ),
        (
            "10.0.0.0/8 encap mpls 100 via 192.0.2.1 dev eth1 table main scope global onlink expires 86sec error -101 uid 0",
            "10.0.0.0/8 encap mpls 100 via inet 192.0.2.1 dev eth1 table main",
        ),
        (
            "10.0.0.0/8 encap mpls 100 via 192.0.2.1 metric 0 proto 4",
            "10.0.0.0/8 encap mpls 100 via inet 192.0.2.1",
        ),
        (
            "10.0.0.0/8 encap mpls 100 via 192.0.2.1 priority 0x10 protocol 0xba",
            "10.0.0.0/8 encap mpls 100 via inet 192.0.2.1 proto bgp metric 16",
        ),
    ] {
        match means {
            "" => assert!(read(line, Family::Any).is_err(), "{line}"),
            _ => assert_eq!(read(line, Family::Any), Ok(means.to_owned()), "{line}"),
        }
    }
    assert_eq!(
        read("10 encap mpls 100 via 192.0.2.1", Family::Inet),
        Err("`10` is not an IPv4 prefix, such as 10.4.4.0/24".into())
    );
    assert_eq!(
        read("default encap mpls 100 via inet6 2001:db8::1", Family::Inet),
        Ok("0.0.0.0/0 encap mpls 100 via inet6 2001:db8::1".into())
    );
    assert_eq!(
        read(
            "default encap mpls 100 via link 02:00:00:00:00:01 dev eth1",
            Family::Inet6
        ),
        Ok("::/0 encap mpls 100 via link 02:00:00:00:00:01 dev eth1".into())
    );
}

/// No word is accepted and then lost: it is kept, or changes nothing in any case, or is refused.
#[test]
fn words_that_mean_something_else_than_a_route_here_has() {
    for (words, at, reason) in [
        (
            "metric 3",
            "metric 3",
            "`metric` is for a prefix; a label or port has one route, and nothing to prefer it to",
        ),
        (
            "metric 4294967296",
            "4294967296",
            "`4294967296` is not a number: `metric` is 0 to 4294967295",
        ),
        (
            "metric many",
            "many",
            "`many` is not a number: `metric` is 0 to 4294967295",
        ),
        (
            "scope link",
            "link",
            "`scope link` is for destinations without a router; a route here has a next hop, which is `scope global`: \
             leave it out",
        ),
        (
            "onlink",
            "onlink",
            "`onlink` needs `dev IFACE`, the interface that the neighbour is on",
        ),
        (
            "table 10",
            "table 10",
            "`table` is for a prefix: a label means the same at all ports",
        ),
        (
            "pref high",
            "high",
            "`pref high`: a prefix has only one route here, so nothing is preferred: leave it out",
        ),
        (
            "src 192.0.2.9",
            "src",
            "`src` is for packets that this machine itself sends, which the kernel routes: \
             `ip route add PREFIX dev mpls0 src ADDRESS`, with `load --local`",
        ),
        (
            "mtu lock 1400",
            "mtu",
            "`mtu`: a packet must fit the MTU of the port that it leaves by: `ip link set dev IFACE mtu N`",
        ),
        (
            "advmss 1400",
            "advmss",
            "`advmss` is for packets that this machine itself sends, which the kernel routes: use it with `ip route`",
        ),
        (
            "tos 4",
            "tos",
            "`tos`: a route matches only a label or a destination prefix",
        ),
        (
            "expires 100",
            "expires",
            "`expires`: a route here stays until it is deleted; leave it out",
        ),
        (
            "proto egp",
            "egp",
            "`egp` is not a routing protocol: it is a name such as static, bgp, ospf or isis, or a number, 0 to 255",
        ),
        ("proto bgp proto bgp", "proto", "`proto` is given twice"),
    ] {
        let line = format!("100 as 110 via inet 192.0.2.1 {words}");
        let error = route(&line, Family::Any).unwrap_err();
        assert_eq!(
            (&line[error.at.clone()], error.to_string().as_str()),
            (at, reason),
            "{line}"
        );
    }
    for (line, at, reason) in [
        (
            "100 nhid 25 proto ospf",
            "nhid",
            "`nhid 25` is a next hop that only the kernel knows: name it with `via inet ADDRESS`",
        ),
        (
            "0100 via inet 192.0.2.1",
            "0100",
            "`0100` begins with 0, which `ip` reads as octal: write it without, or as 0x in hexadecimal",
        ),
        (
            "010.1/16 encap mpls 100 via 192.0.2.1",
            "010.1/16",
            "`010.1/16` is not a label, such as 100, a prefix, such as 10.4.4.0/24, or `xconnect IFACE`",
        ),
        (
            "100 onlink nexthop via 192.0.2.1 nexthop via 192.0.2.2",
            "onlink",
            "each of several next hops has its own: give it there, after its `nexthop`",
        ),
    ] {
        let error = route(line, Family::Any).unwrap_err();
        assert_eq!(
            (&line[error.at.clone()], error.to_string().as_str()),
            (at, reason),
            "{line}"
        );
    }
}

//! Messages byte by byte, as Linux 6.1 and zebra 8.4.4 wrote them, and properties of any message.

use std::net::{IpAddr, Ipv4Addr};

use mplsxdp_common::wire::Mac;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use smallvec::smallvec;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    assert_eq!(digits.len() % 2, 0, "{hex}");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn decoded(hex: &str) -> Option<Message> {
    let bytes = bytes(hex);
    let (message, rest) = split(&bytes).unwrap();
    assert_eq!((message.len(), rest.len()), (bytes.len(), 0));
    decode(message).unwrap()
}

fn error(hex: &str) -> DecodeError {
    decode(&bytes(hex)).unwrap_err()
}

fn label(value: u32) -> Label {
    Label::new(value).unwrap()
}

fn stack(labels: &[u32]) -> Stack {
    labels.iter().map(|&value| label(value)).collect()
}

fn via(address: &str) -> Option<Via> {
    Some(match address.parse().unwrap() {
        IpAddr::V4(address) => Via::Inet(address),
        IpAddr::V6(address) => Via::Inet6(address),
    })
}

fn path(ifindex: u32, via: Option<Via>, labels: Labels) -> Path {
    Path {
        ifindex,
        via,
        labels,
        weight: 1,
    }
}

fn out(labels: &[u32]) -> Labels {
    Labels::Out(stack(labels))
}

fn imposed(labels: &[u32], ttl: Option<u8>) -> Labels {
    let stack = stack(labels);
    Labels::Imposed { stack, ttl }
}

fn label_route(value: u32, protocol: u8, paths: &[Path]) -> Route {
    Route {
        destination: Destination::Label(label(value)),
        protocol: Protocol(protocol),
        unicast: true,
        to: To::Paths(paths.iter().cloned().collect()),
        ttl_propagate: None,
    }
}

fn destination(prefix: &str, table: u32, metric: u32) -> Destination {
    Destination::Prefix(Prefix {
        table,
        prefix: prefix.parse().unwrap(),
        metric,
        selective: false,
    })
}

fn ip_route(destination: Destination, protocol: u8, to: To) -> Route {
    Route {
        destination,
        protocol: Protocol(protocol),
        unicast: true,
        to,
        ttl_propagate: None,
    }
}

fn new(route: Route, position: Position) -> Option<Message> {
    Some(Message::route(route, position))
}

fn object(id: u32, to: ObjectTo) -> Option<Message> {
    Some(Message::Object(Object { id, to }))
}

#[test]
fn label_routes_of_the_kernel() {
    // ip -f mpls route add 100 as 200 via inet 10.0.1.2 dev e1 proto 193
    let message = "40000000 1800 0000 733d0c6b 82000000 1c140000 fec10001 00000000 0800 0100 00064100
                   0800 1300 000c8100 0a00 1200 0200 0a000102 0000 0800 0400 05000000";
    let route = label_route(100, 193, &[path(5, via("10.0.1.2"), out(&[200]))]);
    assert_eq!(decoded(message), new(route.clone(), Position::First));
    // ... replace 100 ...
    let replaced = message.replacen("1800 0000", "1800 0001", 1);
    assert_eq!(decoded(&replaced), new(route.clone(), Position::Replaces));
    // The same in a dump, and in a dump with the flag for replacing.
    let dumped = message.replacen("1800 0000", "1800 0200", 1);
    assert_eq!(decoded(&dumped), new(route.clone(), Position::Last));
    assert_eq!(
        decoded(&message.replacen("1800 0000", "1800 0201", 1)),
        new(route, Position::Last)
    );
    // ... add 101 as 200/300/400 via inet6 fd00:1::2 dev e1
    let message = "54000000 1800 0000 733d0c6b 84000000 1c140000 fe030001 00000000 0800 0100 00065100
                   1000 1300 000c8000 0012c000 00190100 1600 1200 0a00 fd000001000000000000000000000002 0000
                   0800 0400 05000000";
    let route = label_route(101, 3, &[path(5, via("fd00:1::2"), out(&[200, 300, 400]))]);
    assert_eq!(decoded(message), new(route, Position::First));
    // ... add 102 via inet 10.0.1.2 dev e1 proto bgp
    let message = "38000000 1800 0000 743d0c6b 86000000 1c140000 feba0001 00000000 0800 0100 00066100
                   0a00 1200 0200 0a000102 0000 0800 0400 05000000";
    let route = label_route(102, 186, &[path(5, via("10.0.1.2"), out(&[]))]);
    assert_eq!(decoded(message), new(route, Position::First));
    // ... add 104 dev red
    let message = "2c000000 1800 0000 753d0c6b 8a000000 1c140000 fe030001 00000000 0800 0100 00068100
                   0800 0400 0a000000";
    let route = label_route(104, 3, &[path(10, None, out(&[]))]);
    assert_eq!(decoded(message), new(route, Position::First));
    // ... add 106 as 203 via link 02:00:00:00:00:01 dev e1 ttl-propagate disabled
    let message = "48000000 1800 0000 773d0c6b 8e000000 1c140000 fe030001 00000000 0800 0100 0006a100
                   0500 1a00 00000000 0800 1300 000cb100 0c00 1200 1100 020000000001 0800 0400 05000000";
    let mac = Via::Link(Mac([2, 0, 0, 0, 0, 1]));
    let route = Route {
        ttl_propagate: Some(false),
        ..label_route(106, 3, &[path(5, Some(mac), out(&[203]))])
    };
    assert_eq!(decoded(message), new(route, Position::First));
}

#[test]
fn a_label_route_of_the_kernel_with_several_next_hops() {
    // ip -f mpls route add 105 nexthop as 201 via inet 10.0.1.2 dev e1
    //   nexthop as 202/17 via inet 10.0.2.2 dev e2 nexthop via inet 10.0.3.2 dev e3
    let message = "78000000 1800 0000 763d0c6b 8c000000 1c140000 fe030001 00000000 0800 0100 00069100
                   5400 0900
                   1c00 0000 05000000 0800 1300 000c9100 0a00 1200 0200 0a000102 0000
                   2000 0000 07000000 0c00 1300 000ca000 00011100 0a00 1200 0200 0a000202 0000
                   1400 0000 09000000 0a00 1200 0200 0a000302 0000";
    let paths = [
        path(5, via("10.0.1.2"), out(&[201])),
        path(7, via("10.0.2.2"), out(&[202, 17])),
        path(9, via("10.0.3.2"), out(&[])),
    ];
    let route = label_route(105, 3, &paths);
    assert_eq!(decoded(message), new(route, Position::First));
    // ip link del e3, with e2 down
    let message = "64000000 1800 0001 00000000 00000000 1c140000 fe030001 00000000 0800 0100 00069100
                   4000 0900
                   1c00 0000 05000000 0800 1300 000c9100 0a00 1200 0200 0a000102 0000
                   2000 1100 07000000 0c00 1300 000ca000 00011100 0a00 1200 0200 0a000202 0000";
    let route = label_route(105, 3, &paths[..2]);
    assert_eq!(decoded(message), new(route, Position::Replaces));
}

#[test]
fn the_kernel_takes_thirty_labels() {
    let entries: String = (1001..1031).map(|label| format!("{:08x}", label << 12)).collect();
    let message = "b4000000 1800 0000 783d0c6b 92000000 1c140000 fe030001 00000000 0800 0100 0006c100 7c00 1300";
    let rest = "0a00 1200 0200 0a000102 0000 0800 0400 05000000";
    let last = "00406100";
    let message = format!("{message} {} {last} {rest}", &entries[..29 * 8]);
    let labels: Vec<u32> = (1001..1031).collect();
    let route = label_route(108, 3, &[path(5, via("10.0.1.2"), out(&labels))]);
    assert_eq!(decoded(&message), new(route, Position::First));
}

#[test]
fn ip_routes_of_the_kernel() {
    // ip route add 10.9.0.0/24 metric 20 encap mpls 501/502 ttl 64 via 10.0.1.2 dev e1 proto 186
    let message = "64000000 1800 0006 7d3d0c6b 9e000000 02180000 feba0001 00000000 0800 0f00 fe000000
                   0800 0100 0a090000 0800 0600 14000000 0800 0500 0a000102 0800 0400 05000000
                   1800 1600 0c00 0100 001f5000 001f6100 0500 0200 40000000 0600 1500 01000000";
    let labels = imposed(&[501, 502], Some(64));
    let to = To::Paths(smallvec![path(5, via("10.0.1.2"), labels)]);
    let route = ip_route(destination("10.9.0.0/24", 254, 20), 186, to);
    assert_eq!(decoded(message), new(route, Position::First));
    // ip route add 10.10.0.0/24 nexthop encap mpls 503 via 10.0.1.2 dev e1 weight 3
    //   nexthop encap mpls 504 ttl 0 via 10.0.2.2 dev e2
    let message = "80000000 1800 0006 7e3d0c6b a0000000 02180000 fe030001 00000000 0800 0f00 fe000000
                   0800 0100 0a0a0000 5400 0900
                   2400 0002 05000000 0800 0500 0a000102 0c00 1600 0800 0100 001f7100 0600 1500 01000000
                   2c00 0000 07000000 0800 0500 0a000202 1400 1600 0800 0100 001f8100 0500 0200 00000000
                   0600 1500 01000000";
    let to = To::Paths(smallvec![
        Path {
            weight: 3,
            ..path(5, via("10.0.1.2"), imposed(&[503], None))
        },
        path(7, via("10.0.2.2"), imposed(&[504], Some(0))),
    ]);
    let route = ip_route(destination("10.10.0.0/24", 254, 0), 3, to);
    assert_eq!(decoded(message), new(route, Position::First));
    // ip route add 10.12.0.0/24 table 1000 encap mpls 506 via inet6 fd00:1::2 dev e1
    let message = "60000000 1800 0006 7f3d0c6b a4000000 02180000 fc030001 00000000 0800 0f00 e8030000
                   0800 0100 0a0c0000 1600 1200 0a00 fd000001000000000000000000000002 0000 0800 0400 05000000
                   0c00 1600 0800 0100 001fa100 0600 1500 01000000";
    let to = To::Paths(smallvec![path(5, via("fd00:1::2"), imposed(&[506], None))]);
    let route = ip_route(destination("10.12.0.0/24", 1000, 0), 3, to);
    assert_eq!(decoded(message), new(route, Position::First));
    // ip route add 10.13.0.0/24 tos 4 via 10.0.1.2
    let message = "3c000000 1800 0006 803d0c6b a6000000 02180004 fe030001 00000000 0800 0f00 fe000000
                   0800 0100 0a0d0000 0800 0500 0a000102 0800 0400 05000000";
    let to = To::Paths(smallvec![path(5, via("10.0.1.2"), out(&[]))]);
    let for_some = Destination::Prefix(Prefix {
        table: 254,
        prefix: "10.13.0.0/24".parse().unwrap(),
        metric: 0,
        selective: true,
    });
    assert_eq!(decoded(message), new(ip_route(for_some, 3, to), Position::First));
    // ip route add blackhole 10.14.0.0/24
    let message = "2c000000 1800 0006 813d0c6b a8000000 02180000 fe030006 00000000 0800 0f00 fe000000
                   0800 0100 0a0e0000";
    let to = To::Paths(smallvec![]);
    let route = Route {
        unicast: false,
        ..ip_route(destination("10.14.0.0/24", 254, 0), 3, to)
    };
    assert_eq!(decoded(message), new(route, Position::First));
    // ip route add 10.15.0.0/24 encap ip id 5 dst 10.0.1.2 dev e1
    let message = "74000000 1800 0006 813d0c6b aa000000 02180000 fe03fd01 00000000 0800 0f00 fe000000
                   0800 0100 0a0f0000 0800 0400 05000000 3800 1600 0c00 0100 0000000000000005
                   0800 0200 0a000102 0800 0300 00000000 0500 0500 00000000 0500 0400 00000000
                   0600 0600 00000000 0600 1500 02000000";
    let to = To::Paths(smallvec![path(5, None, Labels::Other(2))]);
    let route = ip_route(destination("10.15.0.0/24", 254, 0), 3, to);
    assert_eq!(decoded(message), new(route, Position::First));
}

#[test]
fn ipv6_routes_of_the_kernel() {
    let cache_info = "2400 0c00 0000000000000000000000000000000000000000000000000000000000000000 0500 1400 00000000";
    // ip -6 route add fd08::/64 encap mpls 510 via fd00:1::2 dev e1
    let message = "9c000000 1800 0006 823d0c6b ac000000 0a400000 fe030001 00000000 0800 0f00 fe000000
                   1400 0100 fd080000000000000000000000000000 0800 0600 00040000
                   1400 0500 fd000001000000000000000000000002 0800 0400 05000000
                   0c00 1600 0800 0100 001fe100 0600 1500 01000000";
    let paths = smallvec![path(5, via("fd00:1::2"), imposed(&[510], None))];
    let route = ip_route(destination("fd08::/64", 254, 1024), 3, To::Paths(paths));
    assert_eq!(decoded(&format!("{message} {cache_info}")), new(route, Position::First));
    // ip -6 route append fd09::/64 encap mpls 514 via fd00:1::3 dev e1, to a route with a next hop
    let message = "d0000000 1800 000c 843d0c6b b0000000 0a400000 fe030001 00000000 0800 0f00 fe000000
                   1400 0100 fd090000000000000000000000000000 0800 0600 00040000 6400 0900
                   3000 0000 05000000 1400 0500 fd000001000000000000000000000003
                   0c00 1600 0800 0100 00202100 0600 1500 01000000
                   3000 0006 07000000 1400 0500 fd000002000000000000000000000002
                   0c00 1600 0800 0100 00201100 0600 1500 01000000";
    let paths = smallvec![
        path(5, via("fd00:1::3"), imposed(&[514], None)),
        Path {
            weight: 7,
            ..path(7, via("fd00:2::2"), imposed(&[513], None))
        },
    ];
    let route = ip_route(destination("fd09::/64", 254, 1024), 3, To::Paths(paths));
    assert_eq!(decoded(&format!("{message} {cache_info}")), new(route, Position::Last));
    // ip -6 route del fd09::/64 via fd00:1::2 dev e1: one of its next hops is removed
    let message = "a0000000 1900 0000 943d0c6b de000000 0a400000 fe030001 00000000 0800 0f00 fe000000
                   1400 0100 fd090000000000000000000000000000 0800 0600 00040000
                   1400 0500 fd000001000000000000000000000002 0800 0400 05000000
                   1000 1600 0c00 0100 001ff000 00200100 0600 1500 01000000";
    let paths = smallvec![path(5, via("fd00:1::2"), imposed(&[511, 512], None))];
    let route = ip_route(destination("fd09::/64", 254, 1024), 3, To::Paths(paths));
    assert_eq!(decoded(&format!("{message} {cache_info}")), Some(Message::gone(route)));
}

#[test]
fn nexthop_objects_of_the_kernel() {
    // ip nexthop add id 1 encap mpls 600/601 via 10.0.1.2 dev e1
    let message = "48000000 6800 0506 853d0c6b b4000000 02fd0000 00000000 0800 0100 01000000
                   0800 0500 05000000 0800 0600 0a000102 1000 0800 0c00 0100 00258000 00259100 0600 0700 01000000";
    let to = ObjectTo::Path(path(5, via("10.0.1.2"), imposed(&[600, 601], None)));
    assert_eq!(decoded(message), object(1, to));
    // ip nexthop add id 4 blackhole
    let message = "24000000 6800 0506 873d0c6b ba000000 02000000 00000000 0800 0100 04000000 0400 0400";
    assert_eq!(decoded(message), object(4, ObjectTo::Blackhole));
    // ip nexthop add id 5 dev e1
    let message = "28000000 6800 0506 883d0c6b bc000000 02fe0000 00000000 0800 0100 05000000 0800 0500 05000000";
    assert_eq!(decoded(message), object(5, ObjectTo::Path(path(5, None, out(&[])))));
    // ip nexthop add id 3 group 1,255/8
    let message = "3c000000 6800 0506 8a3d0c6b c2000000 00000000 00000000 0800 0100 03000000
                   0600 0300 00000000 1400 0200 01000000 fe000000 08000000 00000000";
    assert_eq!(decoded(message), object(3, ObjectTo::Group(vec![(1, 255), (8, 1)])));
    // Since Linux 6.12: a weight of 65,536.
    let heavy = message.replacen("fe000000", "ffff0000", 1);
    assert_eq!(decoded(&heavy), object(3, ObjectTo::Group(vec![(1, 65536), (8, 1)])));
    // ip route add 10.20.0.0/24 nhid 3: with next hops for programs that do not know objects
    let message = "84000000 1800 0006 8c3d0c6b c8000000 02180000 fe030001 00000000 0800 0f00 fe000000
                   0800 0100 0a140000 0800 1e00 03000000 5000 0900
                   2800 00fe 05000000 0800 0500 0a000102 1000 1600 0c00 0100 00258000 00259100 0600 1500 01000000
                   2400 0000 07000000 0800 0500 0a000202 0c00 1600 0800 0100 0025a100 0600 1500 01000000";
    let route = ip_route(destination("10.20.0.0/24", 254, 0), 3, To::Object(3));
    assert_eq!(decoded(message), new(route, Position::First));
    // ip nexthop del id 3
    let message = "34000000 6900 0500 923d0c6b d8000000 00000000 00000000 0800 0100 03000000
                   0600 0300 00000000 0c00 0200 01000000 fe000000";
    assert_eq!(decoded(message), Some(Message::ObjectGone(3)));
}

#[test]
fn mpls_settings_of_the_kernel() {
    // sysctl -w net.mpls.conf.e1.input=1
    let message = "24000000 5000 0000 00000000 00000000 1c000000 0800 0100 05000000 0800 0700 01000000";
    let input = |accepted| Some(Message::Input { ifindex: 5, accepted });
    assert_eq!(decoded(message), input(true));
    assert_eq!(decoded(&message.replacen("0700 01", "0700 00", 1)), input(false));
    // For IPv4: forwarding of an interface.
    let other = message.replacen("1c000000", "02000000", 1);
    assert_eq!(decoded(&other), None);
    // ip link del e3
    let message = "1c000000 5100 0000 00000000 00000000 1c000000 0800 0100 09000000";
    assert_eq!(decoded(message), Some(Message::InputGone { ifindex: 9 }));
}

#[test]
fn label_routes_of_zebra() {
    // mpls lsp 102 10.0.1.2 201; mpls lsp 102 10.0.2.2 explicit-null
    let message = "60000000 1800 0105 00000000 f136a1be 1c140000 fec40001 00000000 0800 0100 00066100 3c00 0980
                   1c00 0000 05000000 0800 1300 000c9100 0a00 1200 0200 0a000102 0000
                   1c00 0000 07000000 0800 1300 00000100 0a00 1200 0200 0a000202 0000";
    let paths = [
        path(5, via("10.0.1.2"), out(&[201])),
        path(7, via("10.0.2.2"), out(&[0])),
    ];
    assert_eq!(decoded(message), new(label_route(102, 196, &paths), Position::Replaces));
    // mpls lsp 101 10.0.1.2 implicit-null; the padding is not zero
    let message = "38000000 1800 0105 00000000 f136a1be 1c140000 fec40001 00000000 0800 0100 00065100
                   0a00 1200 0200 0a000102 1200 0800 0400 05000000";
    let paths = [path(5, via("10.0.1.2"), out(&[]))];
    assert_eq!(decoded(message), new(label_route(101, 196, &paths), Position::Replaces));
    // no mpls lsp 100: with an interface that zebra does not know, RTNH_F_ONLINK, and no address
    let message = "34000000 1900 0104 00000000 f136a1be 1c140000 fe000001 04000000 0800 0100 00064100
                   0800 1300 000c8100 0800 0400 00000000";
    assert_eq!(decoded(message), Some(Message::gone(label_route(100, 0, &[]))));
    // Its next hops do not matter, even if they are unreadable.
    let damaged = message.replacen("0800 1300 000c8100", "0800 1300 000c8000", 1);
    assert_eq!(decoded(&damaged), decoded(message));
}

#[test]
fn ip_routes_and_objects_of_zebra() {
    // ipv6 route fd09::/64 fd00:1::2 label 310/311
    let message = "54000000 6800 0105 00000000 f136a1be 0a000b00 00000000 0800 0100 2b000000
                   1400 0600 fd000001000000000000000000000002 0800 0500 05000000 0600 0700 01000000
                   1000 0880 0c00 0100 00136000 00137100";
    let to = ObjectTo::Path(path(5, via("fd00:1::2"), imposed(&[310, 311], None)));
    assert_eq!(decoded(message), object(0x2b, to));
    // A next hop of a VRF route, without a family, and with padding that is not zero.
    let message = "44000000 6800 0105 00000000 f136a1be 00000b00 00000000 0800 0100 34000000
                   0800 0600 0a000102 0800 0500 05000000 0600 0700 01000500 0c00 0880 0800 0100 0012f100";
    let to = ObjectTo::Path(path(5, via("10.0.1.2"), imposed(&[303], None)));
    assert_eq!(decoded(message), object(0x34, to));
    // The table of a VRF, whose number takes more than 8 bits.
    let message = "3c000000 1800 0105 00000000 f136a1be 02180000 00c40001 00000000 0800 0100 0a0f0000
                   0800 0600 14000000 0800 0f00 4c040000 0800 1e00 3a000000";
    let route = ip_route(destination("10.15.0.0/24", 1100, 20), 196, To::Object(0x3a));
    assert_eq!(decoded(message), new(route, Position::Replaces));
    // IPv6 routes are not replaced.
    let message = "40000000 1800 0104 00000000 f136a1be 0a400000 fe020001 00000000
                   1400 0100 fd000001000000000000000000000000 0800 0600 14000000 0800 1e00 18000000";
    let route = ip_route(destination("fd00:1::/64", 254, 20), 2, To::Object(0x18));
    assert_eq!(decoded(message), new(route, Position::First));
    // A route that is deleted has no type and no next hop.
    let message = "2c000000 1900 0104 00000000 f136a1be 02180000 fec40000 00000000 0800 0100 0a080000
                   0800 0600 14000000";
    let to = To::Paths(smallvec![]);
    let route = Route {
        unicast: false,
        ..ip_route(destination("10.8.0.0/24", 254, 20), 196, to)
    };
    assert_eq!(decoded(message), Some(Message::gone(route)));
}

#[test]
fn messages_are_written_as_zebra_writes_them() {
    // Sequence number and port of the sender do not matter.
    for message in [
        "60000000 1800 0105 00000000 00000000 1c140000 fec40001 00000000 0800 0100 00066100 3c00 0900
         1c00 0000 05000000 0800 1300 000c9100 0a00 1200 0200 0a000102 0000
         1c00 0000 07000000 0800 1300 00000100 0a00 1200 0200 0a000202 0000",
        "40000000 1800 0105 00000000 00000000 1c140000 fec10001 00000000 0800 0100 00064100
         0800 1300 000c8100 0a00 1200 0200 0a000102 0000 0800 0400 05000000",
        "54000000 6800 0105 00000000 00000000 0a000000 00000000 0800 0100 2b000000
         1400 0600 fd000001000000000000000000000002 0800 0500 05000000 0600 0700 01000000
         1000 0880 0c00 0100 00136000 00137100",
        "34000000 6800 0105 00000000 00000000 00000000 00000000 0800 0100 23000000
         1400 0200 24000000 00000000 25000000 06000000",
        "3c000000 1800 0105 00000000 00000000 02180000 fcc40001 00000000 0800 0100 0a0f0000
         0800 0600 14000000 0800 0f00 4c040000 0800 1e00 3a000000",
        "50000000 1800 0105 00000000 00000000 02180000 fec40001 00000000 0800 0100 0a080000
         0800 0600 14000000 0600 1500 01000000 0c00 1680 0800 0100 001f4100
         0800 0500 0a000102 0800 0400 05000000",
        "20000000 6900 0100 00000000 00000000 00000000 00000000 0800 0100 2b000000",
    ] {
        let bytes = bytes(message);
        let mut written = Vec::new();
        encode(&decoded(message).unwrap(), &mut written);
        assert_eq!(written, bytes, "{message}");
    }
}

#[test]
fn next_hops_in_other_forms_are_the_same() {
    // A single next hop in RTA_MULTIPATH, which has no weight for a label.
    let several = "44000000 1800 0005 00000000 00000000 1c140000 fec10001 00000000 0800 0100 00064100
                   2000 0900 1c00 0004 05000000 0800 1300 000c8100 0a00 1200 0200 0a000102 0000";
    let route = label_route(100, 193, &[path(5, via("10.0.1.2"), out(&[200]))]);
    assert_eq!(decoded(several), new(route, Position::Replaces));
    // No table means the main table, bits beyond the prefix length are ignored, 0.0.0.0 is not a gateway, and 0 is not
    // an object.
    let message = "3c000000 1800 0105 00000000 00000000 02180000 00c40001 00000000 0800 0100 0a0800ff
                   0800 0500 00000000 0800 1e00 00000000 0800 0400 05000000";
    let to = To::Paths(smallvec![path(5, None, out(&[]))]);
    let route = ip_route(destination("10.8.0.0/24", 254, 0), 196, to);
    assert_eq!(decoded(message), new(route, Position::Replaces));
    // A default route needs no address.
    let message = "24000000 1800 0105 00000000 00000000 02000000 fe040001 00000000 0800 0400 05000000";
    let to = To::Paths(smallvec![path(5, None, out(&[]))]);
    let route = ip_route(destination("0.0.0.0/0", 254, 0), 4, to);
    assert_eq!(decoded(message), new(route, Position::Replaces));
}

#[test]
fn what_is_about_other_things_is_no_message() {
    for message in [
        // RTM_NEWLINK, and NLMSG_DONE.
        "10000000 1000 0000 00000000 00000000",
        "14000000 0300 0200 00000000 00000000 00000000",
        // A cached route, and one of multicast.
        "1c000000 1800 0000 00000000 00000000 02200000 fe000001 00020000",
        "1c000000 1800 0000 00000000 00000000 80200000 fe000001 00000000",
        // MPLS settings of an interface, without `input`.
        "1c000000 5000 0000 00000000 00000000 1c000000 0800 0100 05000000",
    ] {
        assert_eq!(decoded(message), None, "{message}");
    }
}

/// The message of an LSP, with some bytes replaced.
fn damaged(from: &str, to: &str) -> DecodeError {
    let message = "40000000 1800 0105 00000000 00000000 1c140000 fec10001 00000000 0800 0100 00064100
                   0800 1300 000c8100 0a00 1200 0200 0a000102 0000 0800 0400 05000000";
    assert!(decoded(message).is_some() && message.contains(from));
    error(&message.replacen(from, to, 1))
}

#[test]
fn errors_name_the_part_and_what_would_be_right() {
    let destination = Some(Destination::Label(label(100)));
    for (error, about, text) in [
        (
            damaged("1c14", "1c18"),
            None,
            "rtm_dst_len: 24; must be 20, the bits of a label",
        ),
        (
            damaged("0800 0100 00064100", "0800 0200 00064100"),
            None,
            "RTA_DST: missing; one label stack entry is required",
        ),
    ] {
        assert_eq!((error.destination, &*error.to_string()), (about, text));
    }
    for (error, text) in [
        (
            damaged("000c8100", "000c8000"),
            "RTA_NEWDST: entry 1 of 1 has no S bit; the last one must have it, and no other",
        ),
        (
            damaged("0200 0a000102", "0300 0a000102"),
            "RTA_VIA: address family 3; must be 2 (IPv4), 10 (IPv6) or 17 (MAC address)",
        ),
        (
            damaged("0200 0a000102", "0a00 0a000102"),
            "RTA_VIA: length 6; must be 18: family and IPv6 address",
        ),
        (
            damaged("0800 0400 05000000", "0500 0400 05000000"),
            "RTA_OIF: length 1; must be 4",
        ),
        (
            damaged("0800 0400 05000000", "0800 0900 05000000"),
            "struct rtnexthop of RTA_MULTIPATH: length 4; must be 8 or more",
        ),
        (
            damaged("0800 0400 05000000", "0800 1a00 05000000"),
            "RTA_TTL_PROPAGATE: length 4; must be 1: 0 or 1",
        ),
    ] {
        assert_eq!((error.destination, &*error.to_string()), (destination, text));
    }
    for (message, text) in [
        (
            "18000000 1800 0105 00000000 00000000 02210000 fe040001",
            "struct rtmsg: length 8; must be 12 or more",
        ),
        (
            "24000000 1800 0105 00000000 00000000 02210000 fe040001 00000000 0800 0100 0a000000",
            "rtm_dst_len: 33; must be 32 or less",
        ),
        (
            "24000000 1800 0105 00000000 00000000 0a200000 fe040001 00000000 0800 0100 0a000000",
            "RTA_DST: length 4; must be 16: an IPv6 address",
        ),
        (
            "1c000000 1800 0105 00000000 00000000 02180000 fe040001 00000000",
            "RTA_DST: missing; the address of the prefix, which is longer than 0 bits, is required",
        ),
        (
            "2c000000 1800 0105 00000000 00000000 02180000 fe040001 00000000 0800 0100 0a000000 0600 1500 01000000",
            "RTA_ENCAP: missing; the labels, for encapsulation type 1 (MPLS), is required",
        ),
        (
            "18000000 6800 0105 00000000 00000000 00000000 00000000",
            "NHA_ID: missing; a number other than 0 is required",
        ),
        (
            "20000000 6800 0105 00000000 00000000 00000000 00000000 0800 0100 05000000",
            "NHA_OIF: missing; an interface, or NHA_GATEWAY, NHA_GROUP or NHA_BLACKHOLE, is required",
        ),
        (
            "28000000 6800 0105 00000000 00000000 00000000 00000000 0800 0100 05000000 0800 0200 05000000",
            "NHA_GROUP: length 4; must be 8 for each member, and one member or more",
        ),
        (
            "14000000 5000 0105 00000000 00000000 1c000000",
            "NETCONFA_IFINDEX: missing; an interface is required",
        ),
    ] {
        assert_eq!(error(message).to_string(), text, "{message}");
    }
    let error = split(&bytes("20000000 6800 0105 00000000 00000000")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nlmsg_len: 32; must be 16 to 16, which is where the data ends"
    );
    let error = split(&bytes("20000000 6800")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nlmsg_len: 6 bytes are left; a message has 16 or more"
    );
}

#[test]
fn messages_follow_one_another() {
    let first = "26000000 6800 0105 00000000 00000000 00000000 00000000 0800 0100 05000000 0600 0700 0200";
    let datagram = bytes(&format!("{first} 0000 10000000 0300 0200 00000000 00000000"));
    let (message, rest) = split(&datagram).unwrap();
    assert_eq!((message.len(), rest.len()), (0x26, 16));
    let (message, rest) = split(rest).unwrap();
    assert_eq!((message.len(), rest.len()), (16, 0));
    // The last one need not be padded.
    assert_eq!(split(&datagram[..0x26]).unwrap().1.len(), 0);
}

fn any_stack() -> impl Strategy<Value = Stack> {
    let label = (0_u32..=0xf_ffff).prop_map(label);
    vec(label, 1..=30).prop_map(Stack::from_vec)
}

fn any_via() -> impl Strategy<Value = Via> {
    prop_oneof![
        (1_u32..).prop_map(|address| Via::Inet(Ipv4Addr::from_bits(address))),
        (1_u128..).prop_map(|address| Via::Inet6(address.into())),
        any::<[u8; 6]>().prop_map(|mac| Via::Link(Mac(mac))),
    ]
}

fn any_label_path() -> impl Strategy<Value = Path> {
    let labels = prop_oneof![any_stack(), Just(Stack::new())].prop_map(Labels::Out);
    (any::<u32>(), option::of(any_via()), labels).prop_map(|(ifindex, via, labels)| path(ifindex, via, labels))
}

fn any_ip_labels() -> impl Strategy<Value = Labels> {
    prop_oneof![
        Just(Labels::Out(Stack::new())),
        (any_stack(), any::<Option<u8>>()).prop_map(|(stack, ttl)| Labels::Imposed { stack, ttl }),
        (2_u16..).prop_map(Labels::Other),
    ]
}

fn any_ip_path() -> impl Strategy<Value = Path> {
    let parts = (any::<u32>(), option::of(any_via()), any_ip_labels(), 1_u32..=256);
    parts.prop_map(|(ifindex, via, labels, weight)| Path {
        weight,
        ..path(ifindex, via, labels)
    })
}

fn any_label_route() -> impl Strategy<Value = Route> {
    let paths = vec(any_label_path(), 0..6);
    let parts = (0_u32..=0xf_ffff, any::<u8>(), paths, any::<Option<bool>>());
    parts.prop_map(|(value, protocol, paths, ttl_propagate)| Route {
        ttl_propagate,
        ..label_route(value, protocol, &paths)
    })
}

fn any_prefix() -> impl Strategy<Value = IpNet> {
    let net = |address: IpAddr, length| IpNet::new(address, length).unwrap().trunc();
    prop_oneof![
        (any::<[u8; 4]>(), 0_u8..=32).prop_map(move |(address, length)| net(address.into(), length)),
        (any::<[u8; 16]>(), 0_u8..=128).prop_map(move |(address, length)| net(address.into(), length)),
    ]
}

fn any_ip_route() -> impl Strategy<Value = Route> {
    let to = prop_oneof![
        (1_u32..).prop_map(To::Object),
        vec(any_ip_path(), 0..6).prop_map(|paths| To::Paths(paths.into())),
    ];
    let table = prop_oneof![1_u32..300, 1_u32..];
    let parts = (
        any_prefix(),
        table,
        any::<u32>(),
        any::<bool>(),
        any::<u8>(),
        any::<bool>(),
        to,
    );
    parts.prop_map(|(prefix, table, metric, selective, protocol, unicast, to)| Route {
        destination: Destination::Prefix(Prefix {
            table,
            prefix,
            metric,
            selective,
        }),
        protocol: Protocol(protocol),
        unicast,
        to,
        ttl_propagate: None,
    })
}

fn any_object() -> impl Strategy<Value = Object> {
    let via = prop_oneof![
        Just(None),
        any_via().prop_map(|via| Some(via).filter(|via| via.address().is_some()))
    ];
    let one = (any::<u32>(), via, any_ip_labels());
    let to = prop_oneof![
        Just(ObjectTo::Blackhole),
        one.prop_map(|(ifindex, via, labels)| ObjectTo::Path(path(ifindex, via, labels))),
        vec((any::<u32>(), 1_u32..=65536), 1..9).prop_map(ObjectTo::Group),
    ];
    (1_u32.., to).prop_map(|(id, to)| Object { id, to })
}

fn any_message() -> impl Strategy<Value = Message> {
    let position = prop_oneof![Just(Position::First), Just(Position::Last), Just(Position::Replaces)];
    let route = prop_oneof![any_label_route(), any_ip_route()];
    prop_oneof![
        4 => (route, position).prop_map(|(route, position)| Message::route(route, position)),
        1 => any_ip_route().prop_map(Message::gone),
        1 => any_label_route().prop_map(|route| Message::gone(Route {
            to: To::Paths(smallvec![]),
            ttl_propagate: None,
            ..route
        })),
        2 => any_object().prop_map(Message::Object),
        1 => (1_u32..).prop_map(Message::ObjectGone),
        1 => any::<(u32, bool)>().prop_map(|(ifindex, accepted)| Message::Input { ifindex, accepted }),
        1 => any::<u32>().prop_map(|ifindex| Message::InputGone { ifindex }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(messages in vec(any_message(), 1..4)) {
        let mut datagram = Vec::new();
        messages.iter().for_each(|message| encode(message, &mut datagram));
        let mut rest = &datagram[..];
        for message in &messages {
            let (bytes, after) = split(rest).unwrap();
            prop_assert_eq!(decode(bytes), Ok(Some(message.clone())));
            rest = after;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn damaged_messages_do_no_harm(message in any_message(), at: proptest::sample::Index, byte: u8, cut in 0_usize..40) {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes);
        *at.get_mut(&mut bytes) = byte;
        fuzz::rtnl(&bytes);
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        fuzz::rtnl(&bytes);
    }
}

/// holo (holo-routing/src/netlink.rs) writes by the crate rtnetlink: also a single next hop as RTA_MULTIPATH, protocol
/// 0 for LDP, which has no number, and no label where implicit null was one.
#[test]
fn routes_as_holo_writes_them() {
    use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
    use netlink_packet_route::route::{MplsLabel, RouteMessage, RouteNextHop, RouteProtocol, RouteType};
    use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
    use rtnetlink::{RouteMessageBuilder, RouteNextHopBuilder};

    let entry = |label, bottom_of_stack| MplsLabel {
        label,
        traffic_class: 0,
        bottom_of_stack,
        ttl: 0,
    };
    let next_hop = |family, address: &str, labels: &[u32]| -> RouteNextHop {
        let last = labels.len().saturating_sub(1);
        let stack = labels
            .iter()
            .enumerate()
            .map(|(index, &label)| entry(label, index == last));
        let builder = RouteNextHopBuilder::new(family)
            .interface(5)
            .via(address.parse().unwrap());
        builder.unwrap().mpls(stack.collect()).build()
    };
    let read = |message: RouteNetlinkMessage| {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        decode(&bytes).unwrap()
    };
    let label_message = |next_hops: Vec<RouteNextHop>| -> RouteMessage {
        let builder = RouteMessageBuilder::<MplsLabel>::new().protocol(RouteProtocol::Unspec);
        builder.label(entry(100, true)).multipath(next_hops).build()
    };
    let mpls = AddressFamily::Mpls;
    for (next_hops, paths) in [
        (
            vec![next_hop(mpls, "10.0.1.2", &[200])],
            vec![path(5, via("10.0.1.2"), out(&[200]))],
        ),
        (
            vec![next_hop(mpls, "10.0.1.2", &[])],
            vec![path(5, via("10.0.1.2"), out(&[]))],
        ),
        (
            vec![
                next_hop(mpls, "10.0.1.2", &[200]),
                next_hop(mpls, "fd00::2", &[201, 202]),
            ],
            vec![
                path(5, via("10.0.1.2"), out(&[200])),
                path(5, via("fd00::2"), out(&[201, 202])),
            ],
        ),
    ] {
        let message = label_message(next_hops);
        let expected = new(label_route(100, 0, &paths), Position::Replaces);
        assert_eq!(read(RouteNetlinkMessage::NewRoute(message)), expected);
    }
    for (family, prefix, address, labels) in [
        (AddressFamily::Inet, "10.4.4.0/24", "10.0.1.2", imposed(&[300], None)),
        (AddressFamily::Inet, "10.4.4.0/24", "10.0.1.2", out(&[])),
        (
            AddressFamily::Inet6,
            "2001:db8::/32",
            "fd00::2",
            imposed(&[300, 301], None),
        ),
    ] {
        let given: Vec<u32> = match &labels {
            Labels::Imposed { stack, .. } => stack.iter().map(|label| label.get()).collect(),
            _ => Vec::new(),
        };
        let net: IpNet = prefix.parse().unwrap();
        let builder = RouteMessageBuilder::<IpAddr>::new();
        let builder = builder.destination_prefix(net.addr(), net.prefix_len()).unwrap();
        let builder = builder.protocol(RouteProtocol::Ospf).kind(RouteType::Unicast);
        let message = builder.multipath(vec![next_hop(family, address, &given)]).build();
        let to = To::Paths(smallvec![path(5, via(address), labels)]);
        let expected = new(ip_route(destination(prefix, 254, 0), 188, to), Position::Replaces);
        assert_eq!(read(RouteNetlinkMessage::NewRoute(message)), expected);
    }
    // A deletion names the label.
    let builder = RouteMessageBuilder::<MplsLabel>::new().protocol(RouteProtocol::Unspec);
    let message = builder.label(entry(100, true)).build();
    let gone = Some(Message::gone(label_route(100, 0, &[])));
    assert_eq!(read(RouteNetlinkMessage::DelRoute(message)), gone);
}

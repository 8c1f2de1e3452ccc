use etherparse::checksum::Sum16BitWords;
use etherparse::{SlicedPacket, TransportSlice};

use super::parse::{ParseError, Parsed, parse, parse_body};
use super::*;

/// UDP in IPv4 from 10.0.0.2 with TTL 1, and in IPv6 from 2001:db8::2 with hop limit 1.
const UDP_V4: &str = "45000028 00000000 01119cb2 0a000002 0a090909 0fa0829a 0014b0d2 40414243 44454647 48494a4b";
const UDP_V6: &str = "60000000 00141101 20010db8 00000000 00000000 00000002 20010db8 00090000 00000000 00000009
    0fa0829a 00147260 40414243 44454647 48494a4b";
/// `[100 ttl 1][200 ttl 63 tc 5]`
const STACK: &str = "00064001 000c8b3f";
/// Version 2, checksum; length 12, class 1, C-Type 1; the stack.
const EXTENSION: &str = "200013a0 000c0101 00064001 000c8b3f";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn v4<'a>(error: Error, quoted: &'a [u8], stack: &'a [u8]) -> Message<'a> {
    Message {
        error,
        addresses: Addresses::V4 {
            source: [10, 0, 1, 1].into(),
            destination: [10, 0, 0, 2].into(),
        },
        quoted,
        stack,
    }
}

fn v6<'a>(error: Error, quoted: &'a [u8], stack: &'a [u8]) -> Message<'a> {
    Message {
        error,
        addresses: Addresses::V6 {
            source: "2001:db8:1::1".parse().unwrap(),
            destination: "2001:db8::2".parse().unwrap(),
        },
        quoted,
        stack,
    }
}

fn written(message: Message<'_>) -> Vec<u8> {
    let mut packet = b"what was there before".to_vec();
    message.write(1, usize::MAX, &mut packet);
    packet
}

/// Checks that `message` is written as `bytes`, and that these are parsed as the message, with its quoted packet padded
/// by `padding`.
fn check(message: Message<'_>, padding: usize, bytes: &[&str]) {
    let expected = hex(&bytes.concat());
    assert_eq!(written(message), expected);
    let quoted = [message.quoted, &vec![0; padding]].concat();
    let message = Message {
        quoted: &quoted,
        ..message
    };
    assert_eq!(parse(&expected), Ok(Parsed { message, ttl: 64 }));
}

#[test]
fn time_exceeded_v4_with_the_label_stack() {
    let (udp, stack) = (hex(UDP_V4), hex(STACK));
    let padding = "00".repeat(88);
    check(
        v4(Error::TimeExceeded, &udp, &stack),
        88,
        &[
            "45c000ac 00010000 4001648e 0a000101 0a000002",
            "0b001219 00200000",
            UDP_V4,
            &padding,
            EXTENSION,
        ],
    );
}

#[test]
fn time_exceeded_v6_with_the_label_stack() {
    let (udp, stack) = (hex(UDP_V6), hex(STACK));
    let padding = "00".repeat(68);
    check(
        v6(Error::TimeExceeded, &udp, &stack),
        68,
        &[
            "6c000000 00983a40 20010db8 00010000 00000000 00000001 20010db8 00000000 00000000 00000002",
            "03001fc7 10000000",
            UDP_V6,
            &padding,
            EXTENSION,
        ],
    );
}

#[test]
fn host_unreachable_about_a_packet_without_labels_has_no_extension() {
    let udp = hex(UDP_V4);
    check(
        v4(Error::HostUnreachable, &udp, &[]),
        0,
        &[
            "45c00044 00010000 400164f6 0a000101 0a000002",
            "03011a38 00000000",
            UDP_V4,
        ],
    );
    let udp = hex(UDP_V6);
    check(
        v6(Error::HostUnreachable, &udp, &[]),
        0,
        &[
            "6c000000 00443a40 20010db8 00010000 00000000 00000001 20010db8 00000000 00000000 00000002",
            "01033218 00000000",
            UDP_V6,
        ],
    );
}

#[test]
fn packet_too_big_has_the_mtu_and_in_v6_no_extension() {
    let (udp, stack) = (hex(UDP_V4), hex(STACK));
    let padding = "00".repeat(88);
    check(
        v4(Error::PacketTooBig { mtu: 1496 }, &udp, &stack),
        88,
        &[
            "45c000ac 00010000 4001648e 0a000101 0a000002",
            "0304143d 002005d8",
            UDP_V4,
            &padding,
            EXTENSION,
        ],
    );
    let udp = hex(UDP_V6);
    let too_big = v6(Error::PacketTooBig { mtu: 1496 }, &udp, &stack);
    let bytes = [
        "6c000000 00443a40 20010db8 00010000 00000000 00000001 20010db8 00000000 00000000 00000002",
        "02002b43 000005d8",
        UDP_V6,
    ];
    assert_eq!(written(too_big), hex(&bytes.concat()));
    check(v6(Error::PacketTooBig { mtu: 1496 }, &udp, &[]), 0, &bytes);
}

#[test]
fn as_much_is_quoted_as_fits_and_128_bytes_before_an_extension() {
    let long = Vec::from_iter((0..1500).map(|index| index as u8));
    let (none, one, deep) = (vec![], vec![7; 4], vec![7; 256]);
    for (stack, quoted_v4, quoted_v6) in [(&none, 548, 1232), (&one, 128, 128), (&deep, 128, 128)] {
        for length in 0..long.len() {
            for (message, most, longest) in [
                (v4(Error::TimeExceeded, &long[..length], stack), quoted_v4, 576),
                (v6(Error::TimeExceeded, &long[..length], stack), quoted_v6, 1280),
            ] {
                let packet = written(message);
                assert!(packet.len() <= longest);
                let quoted = parse(&packet).unwrap().message.quoted;
                let same = length.min(most);
                let padded = if stack.is_empty() { same } else { 128 };
                assert_eq!((quoted.len(), &quoted[..same]), (padded, &long[..same]));
                assert!(quoted[same..].iter().all(|&byte| byte == 0));
            }
        }
    }
}

#[test]
fn the_least_that_is_quoted_on_demand_is_what_an_extension_needs() {
    let (long, mut packet) = (vec![1; 1500], Vec::new());
    v4(Error::TimeExceeded, &long, &[7; 4]).write(1, QUOTED, &mut packet);
    assert_eq!(packet.len(), 20 + 8 + 128 + 8 + 4);
    v6(Error::TimeExceeded, &long, &[]).write(1, QUOTED, &mut packet);
    assert_eq!(packet.len(), 40 + 8 + 128);
}

#[test]
fn no_more_than_64_labels_are_shown() {
    let stack = Vec::from_iter((0..=255).flat_map(|index| [0, index, 0, 0]));
    for message in [
        v4(Error::TimeExceeded, &[1], &stack),
        v6(Error::TimeExceeded, &[1], &stack),
    ] {
        let packet = written(message);
        assert_eq!(parse(&packet).unwrap().message.stack, &stack[..256]);
    }
}

#[test]
fn another_implementation_finds_the_checksums_right() {
    for (length, stack) in [(20, 0), (27, 4), (128, 8), (333, 4), (1500, 64)] {
        let (quoted, stack) = (vec![0x5a; length], vec![0xa5; stack]);
        let packet = written(v4(Error::TimeExceeded, &quoted, &stack));
        let sliced = SlicedPacket::from_ip(&packet).unwrap();
        let header = sliced.net.unwrap().ipv4_ref().unwrap().header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.total_len), packet.len());
        let sum = Sum16BitWords::new().add_slice(&packet[IPV4_HLEN..]);
        assert_eq!(sum.ones_complement(), 0);

        let packet = written(v6(Error::HostUnreachable, &quoted, &stack));
        let sliced = SlicedPacket::from_ip(&packet).unwrap();
        let header = sliced.net.unwrap().ipv6_ref().unwrap().header();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
            panic!("no ICMPv6 in {packet:02x?}")
        };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
    }
}

#[test]
fn a_ttl_that_was_changed_is_set_back() {
    for message in [
        v4(Error::TimeExceeded, &[1; 20], &[]),
        v6(Error::TimeExceeded, &[1; 40], &[]),
    ] {
        let right = written(message);
        let mut packet = right.clone();
        let offset = if packet[0] == 0x45 { 8 } else { 7 };
        packet[offset] = 254;
        set_ttl(&mut packet);
        assert_eq!(packet, right);
    }
    set_ttl(&mut []);
}

#[test]
fn what_is_wrong_with_a_message_is_said() {
    let (udp, stack) = (hex(UDP_V4), hex(STACK));
    for (message, header) in [
        (v4(Error::TimeExceeded, &udp, &stack), 20),
        (v6(Error::TimeExceeded, &udp, &stack), 40),
    ] {
        let good = written(message);
        let with = |offset: usize, value: u8| {
            let mut packet = good.clone();
            packet[offset] = value;
            packet
        };
        // With a corrected checksum.
        let righted = |offset: usize, value: u8| {
            let mut packet = with(offset, value);
            let start = match message.addresses {
                Addresses::V4 { .. } => 0,
                Addresses::V6 { source, destination } => pseudo_header(source, destination, good.len() - header),
            };
            set(&mut packet, header + 2, [0, 0]);
            let right = checksum(start, &packet[header..]);
            set(&mut packet, header + 2, right.to_be_bytes());
            packet
        };
        let extension = good.len() - 16;
        let length = if header == 20 { header + 5 } else { header + 4 };
        assert_eq!(parse(&with(0, 0x50)), Err(ParseError::NotIp));
        assert_eq!(parse(&good[..good.len() - 1]), Err(ParseError::Length));
        assert_eq!(parse(&with(header + 30, 1)), Err(ParseError::IcmpChecksum));
        assert_eq!(parse(&righted(header, 77)), Err(ParseError::Kind { kind: 77, code: 0 }));
        assert_eq!(parse(&righted(length, 255)), Err(ParseError::Truncated));
        assert!(matches!(parse(&righted(length, 1)), Err(ParseError::Quoted(_))));
        assert_eq!(parse(&righted(extension, 0x10)), Err(ParseError::ExtensionVersion(1)));
        assert_eq!(parse(&righted(extension + 3, 1)), Err(ParseError::ExtensionChecksum));
    }
    let good = written(v4(Error::TimeExceeded, &udp, &stack));
    let mut wrong = good.clone();
    wrong[8] = 63;
    assert_eq!(parse(&wrong), Err(ParseError::IpChecksum));
    assert_eq!(parse(&udp), Err(ParseError::NotIcmp));
    assert_eq!(parse(&good[..19]), Err(ParseError::Truncated));
    assert_eq!(parse(&[]), Err(ParseError::NotIp));
}

#[test]
fn a_label_stack_is_found_behind_other_objects() {
    // RFC 5837 interface information, class 2.
    let objects = hex("0008 0200 11223344 0008 0101 00064101");
    let mut extension = [&hex("2000 0000")[..], &objects].concat();
    let right = checksum(0, &extension);
    set(&mut extension, 2, right.to_be_bytes());
    let body = [&[0; 128][..], &extension].concat();
    assert_eq!(parse_body(&body, 128), Ok((&[0; 128][..], &hex("00064101")[..])));
    assert_eq!(parse_body(&body[..128 + 12], 128), Err(ParseError::ExtensionChecksum));
    for objects in ["0003 0101", "0009 0101 00064101", "0007 0101 000641"] {
        let mut extension = hex(&["2000 0000", objects].concat());
        let right = checksum(0, &extension);
        set(&mut extension, 2, right.to_be_bytes());
        let body = [&[0; 128][..], &extension].concat();
        assert_eq!(parse_body(&body, 128), Err(ParseError::Object), "{objects}");
    }
}

#[test]
fn checksum_is_the_worked_example_of_rfc_1071() {
    // Section 3: the sum of these is ddf2.
    assert_eq!(checksum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    assert_eq!(checksum(0, &[0xff]), !0xff00);
}

use mplsxdp_common::wire::{ETH_HLEN, ETH_P_MPLS_UC, IPPROTO_HOPOPTS, IPPROTO_TCP, IPV6_HLEN};

use super::*;

#[test]
fn tags_are_written_and_read_outermost_first() {
    let frame = Frame::parse("stag 100/5 tag 10 [100 64] ip").to_bytes();
    assert_eq!(
        frame[12..26],
        [0x88, 0xa8, 0xa0, 100, 0x81, 0x00, 0, 10, 0x88, 0x47, 0, 0x06, 0x41, 64]
    );
    let Anatomy {
        tags, ethertype, stack, ..
    } = anatomy(&frame);
    assert_eq!((tags.len(), ethertype, stack.len()), (2, ETH_P_MPLS_UC, 1));
    assert!(show(&frame).contains(" stag 100/5 tag 10/0 [100 64/0] ip ttl 64 "));
}

/// The wrong word, in backquotes, and a part of what would be right.
#[test]
fn an_error_names_the_word_that_is_not_a_frame() {
    for (text, wrong, right) in [
        ("", "no word", "`[100 64] ip`"),
        ("[100 64] ipx", "`ipx`", "ip6"),
        ("[100 64 ip", "`[100 64 ip`", "[LABEL TTL]"),
        ("[100 256] ip", "`[100 256]`", "the TTL, a number from 0 to 255"),
        ("[100 64/9] ip", "`[100 64/9]`", "the TC, a number from 0 to 7"),
        ("[100 64/8] ip", "`[100 64/8]`", "0 to 7"),
        (
            "[1048576 64] ip",
            "`[1048576 64]`",
            "the label, a number from 0 to 1048575",
        ),
        ("[100 64 - 77] ip", "`[100 64 - 77]`", "[LABEL TTL]"),
        ("[100 64 x] ip", "`[100 64 x]`", "[LABEL TTL]"),
        ("[100] ip", "`[100]`", "[LABEL TTL]"),
        ("[100 64]x0", "`[100 64]x0`", "1 to 1000"),
        ("[100 64]y2", "`[100 64]y2`", "xN"),
        ("tag 4096 ip", "`tag 4096`", "0 to 4095"),
        ("tag 1/8 ip", "`tag 1/8`", "0 to 7"),
        ("for 1.2.3.4 ip", "`for 1.2.3.4`", "a MAC address"),
        ("type 0x10000 ip", "`type 0x10000`", "65535"),
        // Order: link layer, stack, payload.
        ("ip to 10.1.0.1 [17 3]", "`[17 3]`", "before the payload"),
        ("icmp 11/0 [100 1]", "`[100 1]`", "`shows [100 1]`"),
        ("hex 00 [100 1]", "`[100 1]`", "before the payload"),
        ("[100 64] tag 5 ip", "`tag`", "before the label stack"),
        ("ip src 02:00:00:00:00:01", "`src`", "before the label stack"),
        ("ip ttl 9 ip6", "`ip6`", "a payload already"),
        ("hex 00 ttl 3", "`ttl`", "nothing follows"),
        // Each word once.
        ("ip ttl 3 ttl 4", "`ttl`", "twice"),
        ("type 0x0800 type 0x86dd ip", "`type`", "twice"),
        // Words of the other family or kind.
        ("ip to 2001:db8::1", "`to 2001:db8::1`", "an IPv4 address"),
        ("ip from 2001:db8::1", "`from 2001:db8::1`", "an IPv4 address"),
        ("ip6 to 10.1.0.1", "`to 10.1.0.1`", "an IPv6 address"),
        ("icmp6 3/0 from 10.1.0.1", "`from 10.1.0.1`", "an IPv6 address"),
        ("ip6 fragment 1", "`fragment`", "fraghdr"),
        ("ip6 options 1", "`options`", "hopopts"),
        ("ip6 ihl 5", "`ihl`", "of IPv4"),
        ("ip6 id 5", "`id`", "fraghdr"),
        ("ip hopopts 1", "`hopopts`", "options"),
        ("ip fraghdr 1", "`fraghdr`", "fragment"),
        ("ip mtu 3", "`mtu`", "icmp TYPE/CODE"),
        ("ip quotes ip", "`quotes`", "icmp TYPE/CODE"),
        ("icmp 11/0 size 60", "`size`", "shows"),
        ("icmp 11/0 udp 3", "`udp`", "shows"),
        // Words that contradict another.
        ("ip proto 6 udp 99", "`udp`", "no ports"),
        ("ip udp 3 data 64", "`udp`", "no ports"),
        ("ip sport 3 proto 47", "`sport`", "no ports"),
        ("ip tcp 3 udp 4", "`udp` and `tcp`", "one of them"),
        ("ip proto 6", "`proto 6`", "tcp PORT"),
        // Ranges.
        ("ip options 11", "`options 11`", "0 to 10"),
        ("ip ihl 16", "`ihl 16`", "0 to 15"),
        ("ip version 20", "`version 20`", "0 to 15"),
        ("ip size 70000", "`size 70000`", "65535"),
        ("icmp 3/4 mtu 70000", "`mtu 70000`", "65535"),
        ("ip ttl 256", "`ttl 256`", "255"),
        ("ip ttl +3", "`ttl +3`", "a number"),
        ("ip size 10", "`size 10`", "28 bytes"),
        ("ip size 27", "`size 27`", "28 bytes"),
        ("ip6 size 39", "`size 39`", "48 bytes"),
        ("ip6 hopopts 1 proto 59 size 47", "`size 47`", "48 bytes"),
        // Something is missing, or nothing could be read.
        ("ip ttl", "`ttl`", "a number follows"),
        ("ip ttl x", "`ttl x`", "a number from 0 to 255"),
        ("hex 0g", "`hex 0g`", "two digits"),
        ("hex 012", "`hex 012`", "two digits"),
        ("icmp 11 ip", "`icmp 11`", "TYPE/CODE"),
        ("icmp 11/300", "`icmp 11/300`", "255"),
        ("icmp 11/0 shows ttl 3", "`shows`", "[100 1]"),
        ("icmp 11/0 quotes [100 1] ip", "`[100 1]`", "none of"),
        ("icmp 11/0 quotes ip size x", "`size x`", "65535"),
    ] {
        let problem = Frame::read(text).expect_err(text);
        assert!(problem.starts_with(wrong), "{text}: {problem}");
        assert!(problem.contains(right), "{text}: {problem}");
        assert!(problem.ends_with(&format!("`{text}`")), "{text}: {problem}");
    }
}

#[test]
fn what_may_be_said_together_is_read() {
    for text in [
        "type 0x0806 for ff:ff:ff:ff:ff:ff",
        "ip fragment 0x20 proto 6 data 128",
        "ip size 28",
        "ip proto 59 size 20",
        "ip6 size 48",
        "ip6 hopopts 255 fraghdr 1 data 8",
        "icmp 11/0 mtu 5 shows [100 1] [17 3 -] quoted 9 trailer 3 quotes ip6 ttl 3",
        "icmp6 2/0 mtu 70000 quotes icmp6 128/0 quotes hex 00",
    ] {
        Frame::parse(text).to_bytes();
    }
}

#[test]
fn ports_and_headers_stand_where_they_belong() {
    for (protocol, word, length) in [(17, "udp", 8), (6, "tcp", 20), (132, "sctp", 12)] {
        let packet = Frame::parse(&format!("ip {word} 0x1234 sport 0x5678 size 60"))
            .to_bytes()
            .split_off(ETH_HLEN);
        assert_eq!((packet.len(), packet[9]), (60, protocol));
        assert_eq!(packet[20..24], [0x56, 0x78, 0x12, 0x34]);
        // Data begins where the header ends.
        assert_eq!(usize::from(packet[20 + length]), 20 + length, "{word}");
    }
    let packet = Frame::parse("ip6 hopopts 1 fraghdr 0x0009 id 0xabcd tcp 5")
        .to_bytes()
        .split_off(ETH_HLEN);
    assert_eq!(
        (packet[6], packet[40], packet[48]),
        (IPPROTO_HOPOPTS, IPPROTO_FRAGMENT, IPPROTO_TCP)
    );
    assert_eq!(packet[48..60], [6, 0, 0, 9, 0, 0, 0xab, 0xcd, 0, 7, 0, 5]);
    assert_eq!(usize::from(packet[5]), packet.len() - IPV6_HLEN);
    let wrong = Frame::parse("ip checksum 0x1234").to_bytes();
    assert_eq!(wrong[14 + 10..14 + 12], [0x12, 0x34]);
}

#[test]
fn icmp_lengths_stand_where_rfc_4884_has_them() {
    let v4 = Frame::parse("icmp 11/0 shows [100 1] quotes ip size 41").to_bytes();
    // 128 bytes are 32 words of 4 bytes.
    assert_eq!(v4[14 + 20..][..8][4..], [0, 32, 0, 0]);
    assert_eq!(v4.len(), 14 + 20 + 8 + 128 + 12);
    let v6 = Frame::parse("icmp6 3/0 shows [100 1] [17 3] quotes ip6 size 133").to_bytes();
    // Longer packets are cut to 128 bytes, which are 16 words of 8 bytes.
    assert_eq!(v6[14 + 40..][..8][4..], [16, 0, 0, 0]);
    assert_eq!(v6.len(), 14 + 40 + 8 + 128 + 16);
    assert_eq!(v6[v6.len() - 8..], [0, 6, 0x40, 1, 0, 1, 0x11, 3]);
}

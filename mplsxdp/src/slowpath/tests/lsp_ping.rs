//! MPLS echo requests: each return code of RFC 8029 section 3.1 that this machine gives, and what else a reply has.

use std::net::SocketAddr;

use super::super::oam::message::{
    self, ALL_ROUTERS_V4, AddressMask, Downstream, DownstreamLabel, Fec, Header, InterfaceAndLabelStack, LinkAddress,
    Message, Multipath, Pad, Protocol, Timestamp, Tlv,
};
use super::super::oam::sender::{self, Departed, Ingress, NotSent, Outgoing};
use super::super::oam::udp::Datagram;
use super::*;

const SENDER: &str = "10.9.0.1:40000";
const LOOPBACK: &str = "127.0.0.1:3503";
/// The network of this machine, and another.
const OWN: &str = "10.0.1.0/24";
const FOREIGN: &str = "10.4.4.0/24";

fn fec(prefix: &str) -> Fec {
    Fec::Prefix {
        protocol: Protocol::Ldp,
        prefix: prefix.parse().unwrap(),
    }
}

fn fecs(prefixes: &[&str]) -> Tlv {
    Tlv::FecStack(prefixes.iter().map(|prefix| fec(prefix)).collect())
}

fn request(tlvs: Vec<Tlv>) -> Message {
    Message {
        header: Header {
            kind: message::REQUEST,
            reply_mode: message::REPLY_BY_IP,
            handle: 0x1234_5678,
            sequence: 9,
            sent: Timestamp(0x1111_2222_3333_4444),
            ..Header::default()
        },
        tlvs,
    }
}

fn packet(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let datagram = Datagram {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        ttl: 1,
        ds_field: 0,
        payload,
    };
    let mut packet = Vec::new();
    assert!(datagram.write(1, &mut packet));
    packet
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.write(&mut bytes);
    bytes
}

fn frame(stack: &[(u32, u8)], request: &Message) -> Vec<u8> {
    framed(stack, &packet(SENDER, LOOPBACK, &bytes(request)))
}

fn framed(stack: &[(u32, u8)], packet: &[u8]) -> Vec<u8> {
    match stack {
        [] => ethernet(ETH_P_IP, packet),
        stack => labelled(stack, packet),
    }
}

/// The reply to a frame, and its DS field. Everything is checked that is the same in each.
fn reply_to(router: &mut Router, frame: &[u8]) -> (Message, u8) {
    let answered = router.count(Outcome::LspPingAnswered);
    let mut taken = router.receive(frame);
    taken.retain(|taken| !matches!(taken, Taken::Report(_)));
    let [Taken::SendByIp(packet)] = &taken[..] else {
        panic!("not one reply: {taken:?}");
    };
    assert_eq!(router.count(Outcome::LspPingAnswered), answered + 1);
    let datagram = Datagram::read(packet).unwrap();
    let (source, destination): (SocketAddr, SocketAddr) = ("10.0.1.1:3503".parse().unwrap(), SENDER.parse().unwrap());
    assert_eq!(
        (datagram.source, datagram.destination, datagram.ttl),
        (source, destination, 255)
    );
    let (header, rest) = Header::read(datagram.payload).unwrap();
    let expected = Header {
        kind: message::REPLY,
        code: header.code,
        subcode: header.subcode,
        reply_mode: header.reply_mode,
        received: Timestamp::of(NOW),
        ..request(Vec::new()).header
    };
    assert_eq!(header, expected);
    let tlvs = Tlv::read_all(rest).unwrap();
    (Message { header, tlvs }, datagram.ds_field)
}

fn codes(router: &mut Router, frame: &[u8]) -> (u8, u8) {
    let (reply, _) = reply_to(router, frame);
    (reply.header.code, reply.header.subcode)
}

#[test]
fn each_hop_says_what_becomes_of_the_label() {
    for (stack, prefixes, expected) in [
        // A label that goes on.
        (&[(122, 1)][..], &[FOREIGN][..], (message::LABEL_SWITCHED, 1)),
        (&[(122, 1), (99, 60)], &[FOREIGN; 2], (message::LABEL_SWITCHED, 2)),
        (&[(300, 1)], &[FOREIGN], (message::LABEL_SWITCHED, 1)),
        (&[(17, 1)], &[FOREIGN], (message::LABEL_SWITCHED, 1)),
        (&[(210, 1), (99, 60)], &[FOREIGN; 2], (message::LABEL_SWITCHED, 2)),
        (&[(1, 1), (122, 1)], &[FOREIGN], (message::LABEL_SWITCHED, 1)),
        // No label beyond, and no neighbour beyond.
        (&[(210, 1)], &[FOREIGN], (message::NO_MPLS_FORWARDING, 1)),
        (&[(500, 1)], &[FOREIGN], (message::NO_MPLS_FORWARDING, 1)),
        // No entry, whatever the TTL is.
        (&[(901, 1)], &[FOREIGN], (message::NO_LABEL_ENTRY, 1)),
        (&[(901, 64), (99, 1)], &[FOREIGN; 2], (message::NO_LABEL_ENTRY, 2)),
        (&[(120, 64), (901, 64)], &[OWN, FOREIGN], (message::NO_LABEL_ENTRY, 1)),
        // The end of the LSP.
        (&[(120, 64)], &[OWN], (message::EGRESS, 1)),
        (&[(120, 1)], &["10.0.1.1/32"], (message::EGRESS, 1)),
        (&[(120, 64), (120, 64)], &[OWN; 2], (message::EGRESS, 1)),
        (&[(0, 64)], &[OWN], (message::EGRESS, 1)),
        (&[], &[OWN], (message::EGRESS, 1)),
        // The penultimate hop has popped the outer label.
        (&[(120, 64)], &[OWN; 2], (message::EGRESS, 1)),
        (&[(120, 64)], &[FOREIGN], (message::NO_MAPPING, 1)),
        (&[], &[FOREIGN], (message::NO_MAPPING, 1)),
        (&[(120, 64), (120, 64)], &[FOREIGN, OWN], (message::NO_MAPPING, 2)),
        (&[(120, 64), (120, 64)], &[OWN, FOREIGN], (message::NO_MAPPING, 1)),
    ] {
        let mut router = Router::default();
        let found = codes(&mut router, &frame(stack, &request(vec![fecs(prefixes)])));
        assert_eq!(found, expected, "{stack:?} {prefixes:?}");
    }
    let nil = Tlv::FecStack(vec![Fec::Nil(label(120))]);
    let found = codes(&mut Router::default(), &frame(&[(120, 64)], &request(vec![nil])));
    assert_eq!(found, (message::EGRESS, 1));
    let other = Tlv::FecStack(vec![Fec::Other {
        kind: 6,
        value: vec![0; 13],
    }]);
    let found = codes(&mut Router::default(), &frame(&[(120, 64)], &request(vec![other])));
    assert_eq!(found, (message::NO_MAPPING, 1));
}

#[test]
fn a_malformed_request_is_told_so_and_an_unknown_tlv_comes_back() {
    for tlvs in [
        vec![],
        vec![Tlv::FecStack(Vec::new())],
        vec![fecs(&[OWN]), fecs(&[OWN])],
        vec![
            fecs(&[OWN]),
            Tlv::Other {
                kind: 20,
                value: vec![],
            },
        ],
    ] {
        let found = codes(&mut Router::default(), &frame(&[(120, 64)], &request(tlvs)));
        assert_eq!(found, (message::MALFORMED, 0));
    }
    let unknown = Tlv::Other {
        kind: 15,
        value: vec![1, 2, 3, 4],
    };
    let ignored = Tlv::Other {
        kind: 0x8001,
        value: vec![1],
    };
    let asked = request(vec![fecs(&[OWN]), unknown.clone(), ignored.clone()]);
    let (reply, _) = reply_to(&mut Router::default(), &frame(&[(120, 64)], &asked));
    let mut errored = Vec::new();
    unknown.write(&mut errored);
    assert_eq!(
        (reply.header.code, reply.tlvs),
        (message::TLV_NOT_UNDERSTOOD, vec![Tlv::Errored(errored)])
    );
    let found = codes(
        &mut Router::default(),
        &frame(&[(120, 64)], &request(vec![fecs(&[OWN]), ignored])),
    );
    assert_eq!(found, (message::EGRESS, 1));
}

#[test]
fn a_reply_has_the_fecs_the_padding_to_copy_and_the_wanted_ds_field() {
    let pad = |action| {
        Tlv::Pad(Pad {
            action,
            filler: vec![7; 20],
        })
    };
    let asked = request(vec![fecs(&[OWN]), pad(Pad::COPY), pad(Pad::DROP), Tlv::ReplyTos(0xb8)]);
    let (reply, ds_field) = reply_to(&mut Router::default(), &frame(&[(120, 64)], &asked));
    assert_eq!((reply.tlvs, ds_field), (vec![fecs(&[OWN]), pad(Pad::COPY)], 0xb8));
    let (_, ds_field) = reply_to(
        &mut Router::default(),
        &frame(&[(120, 64)], &request(vec![fecs(&[OWN])])),
    );
    assert_eq!(ds_field, 0xc0);
    // Without the padding, if it does not fit.
    let is_long = |action: &Action<'_>| matches!(action, Action::SendByIp { packet, .. } if packet.len() > 90);
    let (reply, _) = reply_to(&mut Router::default().failing(is_long), &frame(&[(120, 64)], &asked));
    assert_eq!(reply.tlvs, [fecs(&[OWN])]);
}

#[test]
fn requests_that_want_no_reply_or_are_none_get_none() {
    let asked = request(vec![fecs(&[OWN])]);
    let with = |change: fn(&mut Header)| {
        let mut asked = asked.clone();
        change(&mut asked.header);
        frame(&[(120, 64)], &asked)
    };
    let from = |source: &str| labelled(&[(120, 64)], &packet(source, LOOPBACK, &bytes(&asked)));
    let mut wrong_checksum = frame(&[(120, 64)], &asked);
    *wrong_checksum.last_mut().unwrap() ^= 1;
    for frame in [
        with(|header| header.reply_mode = message::NO_REPLY),
        with(|header| header.reply_mode = 4),
        with(|header| header.reply_mode = 5),
        with(|header| header.kind = message::REPLY),
        with(|header| header.flags = message::ONLY_IF_TTL_EXPIRED),
        from("127.0.0.1:40000"),
        from("0.0.0.0:40000"),
        from("224.0.0.1:40000"),
        from("255.255.255.255:40000"),
        from("10.0.1.255:40000"),
        from("10.9.0.1:0"),
        wrong_checksum,
        labelled(&[(120, 64)], &packet(SENDER, LOOPBACK, &[0, 1, 0, 0, 1, 2])),
    ] {
        Router::default().check_dropped(&frame, Outcome::LspPing);
    }
    // The TTL has expired, or there is no label whose TTL could.
    let mut only_expired = asked.clone();
    only_expired.header.flags = message::ONLY_IF_TTL_EXPIRED;
    for stack in [&[(120, 1)][..], &[]] {
        let found = codes(&mut Router::default(), &frame(stack, &only_expired));
        assert_eq!(found, (message::EGRESS, 1));
    }
    let mut with_alert = asked.clone();
    with_alert.header.reply_mode = message::REPLY_WITH_ALERT;
    assert_eq!(
        codes(&mut Router::default(), &frame(&[(120, 64)], &with_alert)),
        (message::EGRESS, 1)
    );
}

#[test]
fn replies_have_a_rate_of_their_own() {
    let mut router = Router::with(Options {
        icmp_rate: Rate {
            per_second: 1,
            burst: 1,
        },
        ..Options::default()
    });
    let frame = frame(&[(120, 64)], &request(vec![fecs(&[OWN])]));
    for _ in 0..60 {
        router.receive(&frame);
    }
    assert_eq!(
        [Outcome::LspPingAnswered, Outcome::LspPingLimited].map(|outcome| router.count(outcome)),
        [50, 10]
    );
}

fn downstream(link: LinkAddress, labels: &[u32]) -> Downstream {
    let last = labels.len().saturating_sub(1);
    let labels = labels.iter().enumerate().map(|(index, &value)| DownstreamLabel {
        label: label(value),
        tc: 0,
        bottom: index == last,
        protocol: 0,
    });
    Downstream {
        mtu: 1500,
        flags: 0,
        link,
        code: 0,
        subcode: 0,
        multipath: None,
        labels: Some(labels.collect()),
        others: Vec::new(),
    }
}

#[test]
fn the_mapping_of_the_router_upstream_is_checked() {
    let own = LinkAddress::of(OWN_V4.into());
    let other = LinkAddress::of([10, 0, 1, 7].into());
    let all = LinkAddress::V4Unnumbered {
        address: ALL_ROUTERS_V4,
        index: 0,
    };
    for (link, labels, stack, code) in [
        (own, &[120][..], &[(120, 64)][..], message::EGRESS),
        (own, &[3, 120], &[(120, 64)], message::EGRESS),
        (own, &[3], &[], message::EGRESS),
        (own, &[121], &[(120, 64)], message::DOWNSTREAM_MISMATCH),
        (own, &[120, 121], &[(120, 64)], message::DOWNSTREAM_MISMATCH),
        (other, &[120], &[(120, 64)], message::DOWNSTREAM_MISMATCH),
        (all, &[999], &[(120, 64)], message::EGRESS),
        (LinkAddress::UNKNOWN, &[120], &[(120, 64)], message::EGRESS),
        (LinkAddress::UNKNOWN, &[121], &[(120, 64)], message::DOWNSTREAM_MISMATCH),
        (own, &[122], &[(122, 1)], message::LABEL_SWITCHED),
        (own, &[123], &[(122, 1)], message::DOWNSTREAM_MISMATCH),
    ] {
        let asked = request(vec![fecs(&[OWN]), Tlv::Downstream(downstream(link, labels))]);
        let (found, _) = codes(&mut Router::default(), &frame(stack, &asked));
        assert_eq!(found, code, "{link:?} {labels:?}");
    }
}

#[test]
fn a_transit_router_tells_where_its_label_goes() {
    let ask = Downstream {
        flags: message::WANTS_LABEL_STACK,
        labels: None,
        ..downstream(LinkAddress::of(ALL_ROUTERS_V4.into()), &[])
    };
    for (stack, adjacency, code, mtu, labels) in [
        (&[(122, 1)][..], NEIGHBOUR, message::LABEL_SWITCHED, MTU, &[22][..]),
        (
            &[(300, 1), (99, 60)],
            NEIGHBOUR,
            message::LABEL_SWITCHED,
            MTU,
            &[200, 110, 99],
        ),
        (&[(17, 1)], NEIGHBOUR, message::LABEL_SWITCHED, MTU, &[3]),
        (&[(17, 1), (99, 60)], NEIGHBOUR, message::LABEL_SWITCHED, MTU, &[3, 99]),
        (&[(600, 1)], NARROW, message::LABEL_SWITCHED, NARROW_MTU, &[610]),
        (&[(500, 1)], UNRESOLVED, message::NO_MPLS_FORWARDING, 0, &[]),
    ] {
        let asked = request(vec![fecs(&[FOREIGN]), Tlv::Downstream(ask.clone())]);
        let (reply, _) = reply_to(&mut Router::default(), &frame(stack, &asked));
        let link = match adjacency {
            NARROW => LinkAddress::UNKNOWN,
            adjacency => LinkAddress::of(next_hop_v4(adjacency).into()),
        };
        let expected = Downstream {
            mtu,
            code,
            subcode: stack.len() as u8,
            ..downstream(link, labels)
        };
        let received = InterfaceAndLabelStack {
            link: LinkAddress::of(OWN_V4.into()),
            stack: entries(&lses(stack)).collect(),
        };
        let tlvs = [
            fecs(&[FOREIGN]),
            Tlv::InterfaceAndLabelStack(received),
            Tlv::Downstream(expected),
        ];
        assert_eq!((reply.header.code, &reply.tlvs[..]), (code, &tlvs[..]), "{stack:?}");
    }
}

#[test]
fn each_address_of_a_mask_is_told_the_way_that_it_takes() {
    let mut router = Router::default();
    let members = [
        entry(Op::Label, 710, NEIGHBOUR),
        entry(Op::Stack, 0, NEIGHBOUR),
        entry(Op::PenultimatePop, 0, NEIGHBOUR),
        entry(Op::Label, 730, UNRESOLVED),
    ];
    for (bucket, &member) in (0..=u8::MAX).zip(members.iter().cycle()) {
        router.world.tables.store_bucket(0, bucket, member);
    }
    router.world.tables.store_ilm(label(700), entry(Op::Group, 0, 0));
    let mask = AddressMask {
        base: [127, 0, 0, 16].into(),
        mask: vec![0xff, 0x0f, 0xff, 0xff],
    };
    let ask = Downstream {
        multipath: Some(mask.multipath()),
        labels: None,
        ..downstream(LinkAddress::of(ALL_ROUTERS_V4.into()), &[])
    };
    let asked = request(vec![fecs(&[FOREIGN]), Tlv::Downstream(ask)]);
    let (reply, _) = reply_to(&mut router, &frame(&[(700, 1)], &asked));
    assert_eq!(reply.header.code, message::SEE_DOWNSTREAM);
    let ways = Vec::from_iter(reply.downstreams().map(|way| {
        let Some(Multipath { kind: 8, .. }) = way.multipath else {
            panic!("no mask: {way:?}");
        };
        let takers = AddressMask::of(way.multipath.as_ref().unwrap(), true).unwrap();
        let labels = way.labels.iter().flatten().map(|label| label.label.get());
        (takers, way.code, Vec::from_iter(labels))
    }));
    assert_eq!(ways.len(), members.len(), "{ways:?}");
    for (place, address) in mask.chosen() {
        let takes = Vec::from_iter(ways.iter().filter(|(takers, ..)| takers.has(place)));
        let [(_, code, labels)] = takes[..] else {
            panic!("{address} takes {} ways", takes.len());
        };
        // The same request on its way through.
        let packet = packet(SENDER, &format!("{address}:3503"), &bytes(&asked));
        let mut fresh = Router::default();
        std::mem::swap(&mut fresh.world, &mut router.world);
        let taken = fresh.receive(&labelled(&[(700, 64)], &packet));
        match &taken[..] {
            [Taken::Transmit(_, frame)] => {
                let parts = Parts::of(frame).unwrap();
                let left = Vec::from_iter(entries(parts.stack).map(|lse| lse.label().get()));
                let shown = if left.is_empty() { vec![3] } else { left };
                assert_eq!((*code, labels), (message::LABEL_SWITCHED, &shown));
            }
            [Taken::Resolve(UNRESOLVED)] => assert_eq!((*code, labels.len()), (message::NO_MPLS_FORWARDING, 0)),
            taken => panic!("{taken:?}"),
        }
        std::mem::swap(&mut fresh.world, &mut router.world);
    }
    let chosen: usize = ways.iter().map(|(takers, ..)| takers.chosen().count()).sum();
    assert_eq!(chosen, mask.chosen().count());
}

fn send(router: &mut Router, request: &Outgoing) -> (Result<Departed, NotSent>, Vec<Taken>) {
    let mut result = Err(NotSent::NoPort);
    let taken = router.step(|_, world, _, emit| result = sender::send(request, world, emit));
    (result, taken)
}

#[test]
fn a_request_leaves_by_the_entry_of_its_prefix_or_under_the_given_labels() {
    let payload = bytes(&request(vec![fecs(&[FOREIGN])]));
    let outgoing = |ingress| Outgoing {
        ingress,
        source: None,
        source_port: 40000,
        destination: [127, 0, 0, 1].into(),
        ttl: 2,
        payload: payload.clone(),
        dry_run: false,
    };
    let prefix = |text: &str| outgoing(Ingress::Prefix(text.parse().unwrap()));
    let stack = |adjacency| {
        outgoing(Ingress::Stack {
            labels: vec![label(200), label(110)],
            adjacency,
        })
    };
    for (asked, labels) in [(prefix(FOREIGN), &[1000][..]), (stack(NEIGHBOUR), &[200, 110])] {
        for mode in [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux] {
            let mut router = Router::default().mode(mode);
            let (departed, taken) = send(&mut router, &asked);
            let departed = departed.unwrap();
            let (left, packet) = labelled_frame(&taken);
            let expected = Vec::from_iter(labels.iter().map(|&label| (label, 2, 0)));
            assert_eq!(left, expected, "{mode:?}");
            let datagram = Datagram::read(&packet).unwrap();
            let (source, destination): (SocketAddr, SocketAddr) =
                ("10.0.1.1:40000".parse().unwrap(), LOOPBACK.parse().unwrap());
            assert_eq!(
                (datagram.source, datagram.destination, datagram.payload),
                (source, destination, &payload[..])
            );
            let values = Vec::from_iter(departed.labels.iter().map(|label| label.get()));
            assert_eq!(
                (departed.port, departed.adjacency, &values[..]),
                (EGRESS, NEIGHBOUR, labels)
            );
            // Without sending.
            let dry = Outgoing {
                dry_run: true,
                ..asked.clone()
            };
            assert_eq!(send(&mut router, &dry), (Ok(departed), vec![]));
        }
    }
    let long = |asked: Outgoing| Outgoing {
        payload: vec![0; 1600],
        ..asked
    };
    let mixed = Outgoing {
        source: Some("2001:db8::1".parse().unwrap()),
        ..prefix(FOREIGN)
    };
    for (asked, error) in [
        (prefix("10.5.5.0/24"), NotSent::Unresolved),
        (prefix("10.6.6.0/24"), NotSent::NoLabels),
        (stack(UNRESOLVED), NotSent::Unresolved),
        (long(prefix(FOREIGN)), NotSent::TooBig),
        (long(stack(NEIGHBOUR)), NotSent::TooBig),
        (mixed, NotSent::Families),
    ] {
        assert_eq!(send(&mut Router::default(), &asked), (Err(error), vec![]), "{asked:?}");
    }
}

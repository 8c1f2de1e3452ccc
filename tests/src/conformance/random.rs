//! Random tables and frames from a small world, so that a random frame often meets a route: labels below [`LABELS`], a
//! few prefixes, next hops, backups, stacks and counter slots, and some of each that do not exist.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;

use mplsxdp::dataplane::{FtnKey, Tables};
use mplsxdp_common::abi::{
    Adjacency, CrossConnect, Domain, DscpToTc, Encapsulation, LabelRange, LabelStack, MAX_PUSH, Op, PortWord,
    RouteEntry, Settings, SubInterfaceKey, TcToDscp, TrafficClasses, TtlPropagate, VlanTags, VrfWord,
};
use mplsxdp_common::wire::{
    ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, LSP_PING_PORT, Label, Lse, Mac,
};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::lab;
use super::notation::{Frame, OWN_MAC, PEER_MAC, Packet, Payload, Tag, anatomy};

pub const LABELS: u32 = 48;
const ADJACENCIES: u8 = 8;
const STACKS: u32 = 16;
const SLOTS: u32 = 32;
const GROUPS: u32 = 4;
const PAIRS: u32 = 8;
/// Pseudowires, and attachment circuits. One more of each does not exist.
const PSEUDOWIRES: u32 = 4;
/// The VRFs of labels; others do not exist.
const VRFS: u32 = 4;
/// No interface has this index: the kernel's FIB has no answer, so packets get labels or are left to the kernel.
const NO_INTERFACE: u32 = i32::MAX as u32;
/// VIDs of each port's sub-interfaces, whose numbers are [`lab::sub_interface`].
const SUB_INTERFACES: [(u16, u16); lab::SUB_INTERFACES] = [(5, 0), (6, 0), (6, 7)];
const DOMAINS: [Domain; 3] = [Domain::NO_VRF, Domain(1), Domain(7)];
const PREFIXES: [&str; 12] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/23",
    "10.1.2.3/32",
    "127.0.0.0/8",
    "::/0",
    "::/8",
    "2001:db8::/32",
    "2001:db8::/47",
    "2001:db8:1:2::/64",
    "2001:db8:1:2::3/128",
];

/// Everything that the program reads, except its settings.
#[derive(Clone, Debug)]
pub struct World {
    ilm: Vec<RouteEntry>,
    adjacencies: Vec<Adjacency>,
    stacks: Vec<LabelStack>,
    /// For each of [`DOMAINS`], the entry of each prefix.
    ftn: Vec<Vec<Option<RouteEntry>>>,
    /// For each group, the entries that take turns in its buckets.
    groups: Vec<Vec<RouteEntry>>,
    /// The entries of a next hop and of its backup.
    pairs: Vec<[RouteEntry; 2]>,
    pseudowires: Vec<(CrossConnect, Encapsulation)>,
    attachments: Vec<(RouteEntry, Encapsulation)>,
    /// Each of [`lab::settings`].
    ports: Vec<Port>,
}

/// A port and its sub-interfaces, if it has them. What the words lead to is the same for all of them.
#[derive(Clone, Debug)]
struct Port {
    word: PortWord,
    sub_interfaces: [Option<PortWord>; lab::SUB_INTERFACES],
    label_ranges: Vec<LabelRange>,
    cross_connect: CrossConnect,
    classes: TrafficClasses,
}

impl Port {
    /// What its words lead to is stored before them.
    fn store(&self, settings: Settings, tables: &mut impl Tables) {
        self.store_word(settings.port() as u16, self.word, 0, tables);
        for (index, ((outer, inner), word)) in SUB_INTERFACES.into_iter().zip(self.sub_interfaces).enumerate() {
            let key = SubInterfaceKey::new(settings.port(), outer, inner);
            let number = lab::sub_interface(settings, index);
            match word {
                Some(word) => {
                    self.store_word(number, word, 1 + usize::from(inner != 0), tables);
                    tables.insert_sub_interface(key, number).unwrap();
                }
                None => tables.remove_sub_interface(key).unwrap(),
            }
        }
    }

    fn store_word(&self, number: u16, word: PortWord, tags: usize, tables: &mut impl Tables) {
        tables.store_label_ranges(number, &self.label_ranges);
        tables.store_cross_connect(number, self.cross_connect.without_tags(tags));
        tables.store_traffic_classes(number, self.classes);
        tables.store_port(number, word);
    }
}

impl World {
    /// Writes everything over the contents of an earlier world.
    pub fn store(&self, tables: &mut impl Tables) {
        for (label, &entry) in (0..).zip(&self.ilm) {
            tables.store_ilm(Label::new(label).unwrap(), entry);
        }
        for (index, &adjacency) in (0..).zip(&self.adjacencies) {
            tables.store_adjacency(index, adjacency);
        }
        for (index, &stack) in (0..).zip(&self.stacks) {
            tables.store_stack(index, stack);
        }
        while tables.await_ftn_room().is_some() {
            std::thread::yield_now();
        }
        for (domain, entries) in DOMAINS.into_iter().zip(&self.ftn) {
            for (prefix, &entry) in PREFIXES.into_iter().zip(entries) {
                let key = FtnKey::new(domain, prefix.parse().unwrap());
                if tables.needs_publishing() {
                    tables.publish_ftn(&mut |_| true);
                    while tables.await_ftn_room().is_some() {
                        std::thread::yield_now();
                    }
                }
                match entry {
                    Some(entry) => tables.insert_ftn(key, entry).unwrap(),
                    None => tables.remove_ftn(key).unwrap(),
                }
            }
        }
        tables.publish_ftn(&mut |_| true);
        for (group, entries) in (0..).zip(&self.groups) {
            for (bucket, &entry) in (0..=u8::MAX).zip(entries.iter().cycle()) {
                tables.store_bucket(group, bucket, entry);
            }
        }
        for (index, &pair) in (0..).zip(&self.pairs) {
            tables.store_pair(index, pair);
        }
        for (index, &(cross, encapsulation)) in (0..).zip(&self.pseudowires) {
            tables.store_pseudowire(index, cross, encapsulation);
        }
        for (index, &(entry, encapsulation)) in (0..).zip(&self.attachments) {
            tables.store_attachment(index, entry, encapsulation);
        }
        for (index, domain) in (0..VRFS).zip(DOMAINS.into_iter().cycle()) {
            tables.store_vrf(index, VrfWord::new(NO_INTERFACE, domain));
        }
        for (settings, port) in lab::settings().iter().zip(&self.ports) {
            port.store(*settings, tables);
        }
    }
}

pub fn world() -> impl Strategy<Value = World> {
    // An entry for each label, also for special ones: those must not be looked up.
    let ilm = prop::collection::vec(route_entry(), LABELS as usize);
    let adjacencies: Vec<_> = (0..ADJACENCIES).map(adjacency).collect();
    let stacks = prop::collection::vec(label_stack(), STACKS as usize);
    let ftn = prop::collection::vec(weighted(0.4, ftn_entry()), PREFIXES.len());
    let ftn = prop::collection::vec(ftn, DOMAINS.len());
    let groups = prop::collection::vec(prop::collection::vec(route_entry(), 1..5), GROUPS as usize);
    let pair = prop_oneof![3 => [next_hop_entry(), next_hop_entry()], 1 => [route_entry(), route_entry()]];
    let pairs = prop::collection::vec(pair, PAIRS as usize);
    let ports = prop::collection::vec(port(), lab::settings().len()).boxed();
    // Boxed, because all of a world's strategies together would be too large for the stack of a test.
    let pseudowires = prop::collection::vec((cross_connect(), encapsulation()), PSEUDOWIRES as usize).boxed();
    // With the same operations as a prefix: labels are pushed.
    let attachments = prop::collection::vec((ftn_entry(), encapsulation()), PSEUDOWIRES as usize).boxed();
    (
        ilm,
        adjacencies,
        stacks,
        ftn,
        groups,
        pairs,
        (pseudowires, attachments),
        ports,
    )
        .prop_map(
            |(ilm, adjacencies, stacks, ftn, groups, pairs, (pseudowires, attachments), ports)| World {
                ilm,
                adjacencies,
                stacks,
                ftn,
                groups,
                pairs,
                pseudowires,
                attachments,
                ports,
            },
        )
}

fn encapsulation() -> impl Strategy<Value = Encapsulation> {
    let tag = weighted(0.3, 0u16..4096);
    let sensible =
        (weighted(0.7, Just(())), any::<bool>(), 0usize..3, tag).prop_map(|(word, flow_label, lost, vid)| {
            Encapsulation::new()
                .with_control_word(word.is_some())
                .with_flow_label(flow_label)
                .without_tags(lost)
                .with_tag(vid)
        });
    prop_oneof![30 => sensible, 1 => any::<u64>().prop_map(Encapsulation::from_bits)]
}

fn port() -> impl Strategy<Value = Port> {
    let flags = || {
        prop_oneof![
            6 => Just(PortWord::MPLS | PortWord::IMPOSE),
            1 => Just(PortWord::MPLS | PortWord::RANGES),
            2 => Just(PortWord::MPLS | PortWord::IMPOSE | PortWord::CLASSES),
            2 => Just(PortWord::CROSS_CONNECT),
            // No cross-connected port accepts labels.
            2 => any::<u8>().prop_map(|flags| match flags & PortWord::CROSS_CONNECT {
                0 => flags,
                _ => flags & !PortWord::MPLS,
            }),
        ]
    };
    let domain = || prop_oneof![6 => select(DOMAINS.to_vec()), 1 => Just(Domain::EMPTY)];
    let word = || (flags(), domain()).prop_map(|(flags, domain)| PortWord::new(OWN_MAC, flags).with_domain(domain));
    let sub_interfaces = [(); lab::SUB_INTERFACES].map(|()| weighted(0.8, word()));
    let label_ranges = prop::collection::vec(label_range(), 0..4);
    (word(), sub_interfaces, label_ranges, cross_connect(), traffic_classes()).prop_map(
        |(word, sub_interfaces, label_ranges, cross_connect, classes)| Port {
            word,
            sub_interfaces,
            label_ranges,
            cross_connect,
            classes,
        },
    )
}

fn cross_connect() -> impl Strategy<Value = CrossConnect> {
    let port = prop_oneof![8 => select(lab::TX_PORTS.to_vec()), 1 => any::<u16>()];
    let longest = prop_oneof![3 => Just(1518), 1 => 14u16..200];
    let tag = || (select(vec![ETH_P_8021Q, ETH_P_8021AD]), 0u16..4096);
    let added = prop::collection::vec(tag(), 0..3);
    let sensible = (port, longest, added, any::<bool>()).prop_map(|(port, longest, added, one_buffer)| {
        CrossConnect::new(port, longest)
            .with_tags(&added)
            .with_one_buffer(one_buffer)
    });
    prop_oneof![
        30 => sensible,
        15 => (0..=PSEUDOWIRES).prop_map(CrossConnect::attachment_circuit),
        1 => Just(CrossConnect::NOWHERE),
        1 => any::<u64>().prop_map(CrossConnect::from_bits),
    ]
}

fn label_range() -> impl Strategy<Value = LabelRange> {
    let label = || (16..LABELS).prop_map(Label::from_low_bits);
    (label(), label()).prop_map(|(a, b)| LabelRange::new(a.min(b), a.max(b)))
}

/// Maps of some TCs and DSCPs.
fn traffic_classes() -> impl Strategy<Value = TrafficClasses> {
    let tcs = prop::collection::vec((0u8..8, 0u8..64), 0..8);
    let dscps = prop::collection::vec((0u8..64, 0u8..8), 0..64);
    (tcs, dscps).prop_map(|(tcs, dscps)| {
        let tc = tcs
            .into_iter()
            .fold(TcToDscp::default(), |map, (tc, dscp)| map.with(tc, dscp));
        let dscp = dscps
            .into_iter()
            .fold(DscpToTc::default(), |map, (dscp, tc)| map.with(dscp, tc));
        TrafficClasses { tc, dscp }
    })
}

fn route_entry() -> impl Strategy<Value = RouteEntry> {
    entry(prop_oneof![
        1 => Just(Op::None),
        4 => Just(Op::Label),
        4 => Just(Op::Stack),
        3 => Just(Op::Pop),
        3 => Just(Op::PenultimatePop),
        4 => Just(Op::Local),
        2 => Just(Op::LocalPass),
        4 => Just(Op::Group),
        4 => Just(Op::Protected),
        1 => Just(Op::Pass),
        2 => Just(Op::VrfPass),
        5 => Just(Op::Pseudowire),
    ])
}

/// An entry for a next hop.
fn next_hop_entry() -> impl Strategy<Value = RouteEntry> {
    entry(select(vec![Op::Label, Op::Stack, Op::Pop, Op::PenultimatePop]))
}

fn ftn_entry() -> impl Strategy<Value = RouteEntry> {
    entry(prop_oneof![
        4 => Just(Op::Label),
        4 => Just(Op::Stack),
        2 => Just(Op::Group),
        2 => Just(Op::Protected),
        2 => Just(Op::Pass),
        1 => select(vec![Op::None, Op::Pop, Op::PenultimatePop, Op::Local]),
    ])
}

fn entry(op: impl Strategy<Value = Op>) -> impl Strategy<Value = RouteEntry> {
    let ttl = select(vec![
        TtlPropagate::Default,
        TtlPropagate::Default,
        TtlPropagate::Enabled,
        TtlPropagate::Disabled,
    ]);
    let operand = prop_oneof![4 => 0..STACKS, 4 => 0..GROUPS, 1 => STACKS..STACKS + 4, 1 => any::<u32>()];
    let next_hop = prop_oneof![12 => 0..u16::from(ADJACENCIES), 1 => any::<u16>()];
    let slot = prop_oneof![8 => 0..SLOTS, 1 => any::<u32>()];
    let sensible = (op, ttl, operand, next_hop, slot)
        .prop_map(|(op, ttl, operand, next_hop, slot)| RouteEntry::new(op, ttl, operand, next_hop, slot));
    prop_oneof![30 => sensible, 1 => any::<u64>().prop_map(RouteEntry::from_bits)]
}

/// Each has its own MAC addresses, so that a frame shows where it was sent.
fn adjacency(index: u8) -> impl Strategy<Value = Adjacency> {
    let destination = prop_oneof![9 => Just(Mac([2, 1, 0, 0, index, 1])), 1 => Just(Mac::ZERO)];
    let port = prop_oneof![8 => select(lab::TX_PORTS.to_vec()), 1 => any::<u16>()];
    let mtu = prop_oneof![6 => Just(1500), 2 => 40u16..160, 1 => any::<u16>()];
    let vid = || any::<u16>();
    let tags = prop_oneof![
        4 => Just(VlanTags::NONE),
        1 => vid().prop_map(|vid| VlanTags::one(ETH_P_8021Q, vid)),
        1 => (vid(), vid()).prop_map(|(outer, inner)| VlanTags::two(ETH_P_8021AD, outer, ETH_P_8021Q, inner)),
    ];
    let backup = weighted(0.5, prop_oneof![8 => 0..u16::from(ADJACENCIES), 1 => 0..u16::MAX]);
    let mpls_mtu = weighted(0.3, 40u16..160);
    let parts = (destination, port, mtu, mpls_mtu, tags, backup);
    parts.prop_map(move |(destination, port, mtu, mpls_mtu, tags, backup)| {
        Adjacency::new(destination, port, Mac([2, 1, 0, 0, index, 2]), mtu)
            .with_mpls_mtu(mpls_mtu.unwrap_or(mtu))
            .with_tags(tags)
            .with_backup(backup)
    })
}

fn label_stack() -> impl Strategy<Value = LabelStack> {
    let labels = prop::collection::vec(label(), 1..=MAX_PUSH);
    let ttl = weighted(0.3, 1u8..);
    (labels, ttl).prop_map(|(labels, ttl)| LabelStack::new(&labels, ttl.and_then(NonZeroU8::new)).unwrap())
}

fn label() -> impl Strategy<Value = Label> {
    let value = prop_oneof![
        12 => 16..LABELS,
        // Explicit nulls and entropy label indicators more often than labels that only end in a drop.
        3 => select(vec![0u32, 2, 7]),
        1 => 0u32..16,
        1 => select(vec![LABELS, lab::CAPACITY.labels - 1, lab::CAPACITY.labels, 1_048_575]),
    ];
    value.prop_map(|value| Label::new(value).unwrap())
}

/// A frame as it arrives, whole or damaged.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    damaged(
        (whole_frame(), tags(), weighted(0.5, Just(()))).prop_map(|(frame, tags, unfinished)| {
            let mut bytes = frame.to_bytes();
            bytes.splice(12..12, tags.into_iter().flatten().flat_map(u16::to_be_bytes));
            if unfinished.is_some() {
                leave_unfinished(&mut bytes);
            }
            bytes
        }),
    )
}

/// Replaces a TCP or UDP checksum with the sum of the pseudo-header, like a sender that leaves the rest to its NIC.
fn leave_unfinished(frame: &mut [u8]) {
    let ip = frame.len() - anatomy(frame).payload.len();
    let found = match frame.get(ip..) {
        Some(packet @ [first, ..]) if first >> 4 == 4 && packet.len() >= 20 => {
            let header = usize::from(first & 0xf) * 4;
            let end = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            Some((packet[9], &packet[12..20], header, end))
        }
        Some(packet @ [first, ..]) if first >> 4 == 6 && packet.len() >= 40 => {
            let end = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            // After Hop-by-Hop Options, if there are any.
            let (protocol, header) = match (packet[6], packet.get(40..42)) {
                (0, Some(&[next, words])) => (next, 48 + usize::from(words) * 8),
                (protocol, _) => (protocol, 40),
            };
            Some((protocol, &packet[8..40], header, end))
        }
        _ => None,
    };
    let Some((protocol, addresses, header, end)) = found else {
        return;
    };
    let at = match protocol {
        IPPROTO_TCP => header + 16,
        IPPROTO_UDP => header + 6,
        _ => return,
    };
    let words = addresses
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + u32::from(protocol) + end.saturating_sub(header) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if let Some(field) = frame.get_mut(ip + at..ip + at + 2) {
        field.copy_from_slice(&(sum as u16).to_be_bytes());
    }
}

/// Some of these with changed bytes, or without their end.
pub fn damaged(whole: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop_oneof![
        8 => Just(Vec::new()),
        2 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..3),
    ];
    (whole, damage, weighted(0.1, any::<Index>())).prop_map(|(mut bytes, damage, length)| {
        for (place, value) in damage {
            // Damage in headers is worth more than in data.
            let reach = bytes.len().min(80);
            bytes[place.index(reach)] = value;
        }
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len()));
        }
        bytes
    })
}

/// VLAN tags of a frame as it arrives: TPID and TCI of each.
fn tags() -> impl Strategy<Value = Vec<[u16; 2]>> {
    let vid = prop_oneof![8 => select(vec![5u16, 6, 7]), 1 => Just(0), 1 => 0u16..4096];
    let tag = (select(vec![ETH_P_8021Q, ETH_P_8021AD]), vid, any::<u16>())
        .prop_map(|(tpid, vid, priority)| [tpid, vid | priority & 0xf000]);
    let number = prop_oneof![20 => Just(0usize), 5 => Just(1), 5 => Just(2), 1 => Just(3)];
    number.prop_flat_map(move |number| prop::collection::vec(tag.clone(), number))
}

fn whole_frame() -> BoxedStrategy<Frame> {
    let destination = prop_oneof![
        30 => Just(OWN_MAC),
        1 => Just(Mac([0xff; 6])),
        1 => Just(Mac([2, 0, 0, 0, 0, 2])),
    ];
    let ethertype = prop_oneof![
        40 => Just(None),
        1 => Just(Some(0x8848)),
        1 => Just(Some(0x0806)),
        1 => Just(Some(ETH_P_IP)),
    ];
    let tag = (prop_oneof![Just(0x8100), Just(0x88a8)], any::<u16>()).prop_map(|(tpid, tci)| Tag { tpid, tci });
    let tags = prop_oneof![49 => Just(Vec::new()), 1 => prop::collection::vec(tag, 1..4)];
    (destination, ethertype, tags, stack(), payload())
        .prop_map(|(destination, ethertype, tags, stack, payload)| Frame {
            destination,
            source: PEER_MAC,
            tags,
            ethertype,
            stack,
            payload,
        })
        .boxed()
}

fn stack() -> impl Strategy<Value = Vec<Lse>> {
    let ttl = || prop_oneof![6 => 3u8.., 1 => 0u8..3];
    let entry = move || (label(), 0u8..8, ttl());
    let depth = prop_oneof![2 => Just(0usize), 8 => 1usize..6, 2 => 6usize..13, 1 => 60usize..70];
    let entries = depth.prop_flat_map(move |depth| prop::collection::vec(entry(), depth));
    let bottoms = prop_oneof![
        12 => Just(None),
        1 => prop::collection::vec(any::<bool>(), 70).prop_map(Some),
    ];
    (entries, bottoms).prop_map(|(entries, bottoms)| {
        let last = entries.len();
        let entries = entries.into_iter().enumerate();
        entries
            .map(|(index, (label, tc, ttl))| {
                let bottom = bottoms.as_ref().map_or(index + 1 == last, |bottoms| bottoms[index]);
                Lse::new(label, tc, bottom, ttl)
            })
            .collect()
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        10 => packet().prop_map(Payload::Ip),
        4 => in_pseudowire().prop_map(Payload::Bytes).boxed(),
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Payload::Bytes),
    ]
}

/// What may be in a pseudowire: an Ethernet frame, mostly with a control word in front.
fn in_pseudowire() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        1 => Just(None),
        4 => Just(Some(0u32)),
        1 => (0u32..64).prop_map(|length| Some(length << 16)),
        1 => any::<u32>().prop_map(|rest| Some(rest & 0x0f3f_ffff)),
        1 => any::<u32>().prop_map(Some),
    ];
    let destination = prop_oneof![
        6 => any::<[u8; 6]>(),
        1 => Just(OWN_MAC.0),
        1 => Just([0x01, 0x80, 0xc2, 0, 0, 1]),
    ];
    let tag = (select(vec![ETH_P_8021Q, ETH_P_8021AD]), any::<u16>());
    let tags = prop::collection::vec(tag, 0..3);
    (word, destination, tags, packet()).prop_map(|(word, destination, tags, packet)| {
        let frame = Frame {
            destination: Mac(destination),
            source: PEER_MAC,
            tags: tags.into_iter().map(|(tpid, tci)| Tag { tpid, tci }).collect(),
            ethertype: None,
            stack: Vec::new(),
            payload: Payload::Ip(packet),
        };
        let word = word.into_iter().flat_map(u32::to_be_bytes);
        word.chain(frame.to_bytes()).collect()
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    let fields = (
        address(),
        prop_oneof![4 => 3u8.., 1 => 0u8..3],
        any::<u8>(),
        prop_oneof![3 => Just(IPPROTO_UDP), 1 => Just(IPPROTO_TCP), 1 => Just(IPPROTO_SCTP), 1 => any::<u8>()],
        prop_oneof![1 => Just(LSP_PING_PORT), 1 => any::<u16>()],
        prop_oneof![3 => Just(0u8), 1 => 1u8..=10],
        prop_oneof![2 => Just(0u8), 2 => 1u8..4],
    );
    let fragment = (
        prop_oneof![6 => Just(0x4000u16), 1 => any::<u16>()],
        weighted(0.1, any::<u16>()),
    );
    let size = weighted(0.5, 40usize..180);
    let lies = (
        weighted(0.03, 0u8..16),
        weighted(0.03, 0u8..16),
        weighted(0.03, 0u16..200),
    );
    let v6_source = prop_oneof![
        8 => Just(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        1 => any::<[u16; 7]>().prop_map(|[a, b, c, d, e, f, g]| Ipv6Addr::new(0xfe00 | a & 0x1ff, b, c, d, e, f, g, 1)),
        1 => select(vec![Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST]),
    ];
    let v4_source = prop_oneof![
        8 => Just(Ipv4Addr::new(192, 0, 2, 1)),
        1 => any::<u32>().prop_map(Ipv4Addr::from),
        1 => (select(vec![0u8, 127, 223, 224, 240]), any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d)),
    ];
    let sources = (v4_source, v6_source, any::<u16>());
    let rest = (size, lies, 0usize..20, sources);
    (fields, fragment, rest).prop_map(
        |(fields, (fragment, fragment_header), (size, lies, trailer, sources))| {
            let (v4_source, v6_source, source_port) = sources;
            let (destination, ttl, tos, protocol, port, options, hop_options) = fields;
            let (version, ihl, length) = lies;
            Packet {
                destination,
                v4_source,
                v6_source,
                source_port,
                fragment_header,
                ttl,
                tos,
                protocol,
                port,
                options,
                hop_options,
                fragment,
                size,
                version,
                ihl,
                length,
                trailer,
                ..Packet::v4()
            }
        },
    )
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = prop_oneof![
        6 => (0u8..3, 0u8..4, 2u8..4).prop_map(|(b, c, d)| Ipv4Addr::new(10, b, c, d)),
        2 => Just(Ipv4Addr::LOCALHOST),
        1 => any::<u32>().prop_map(Ipv4Addr::from),
    ];
    let v6 = prop_oneof![
        6 => (0u16..3, 1u16..4, 2u16..4).prop_map(|(c, d, h)| Ipv6Addr::new(0x2001, 0xdb8, c, d, 0, 0, 0, h)),
        1 => Just(Ipv6Addr::LOCALHOST),
        1 => any::<[u8; 3]>().prop_map(|[b, c, d]| Ipv4Addr::new(127, b, c, d).to_ipv6_mapped()),
        1 => any::<u128>().prop_map(Ipv6Addr::from),
    ];
    prop_oneof![v4.prop_map(IpAddr::from), v6.prop_map(IpAddr::from)]
}

/// One of the settings of [`lab::settings`].
pub fn settings() -> impl Strategy<Value = Settings> {
    select(lab::settings())
}

//! Properties of the forwarding core that must hold for any tables and any frame: [`core`] panics if one does not.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mplsxdp_common::abi::{
    Adjacency, BUCKETS, CrossConnect, Domain, Encapsulation, LabelStack, MAX_PUSH, Op, PortWord, RouteEntry, Settings,
    SubInterfaceKey, TtlMode, TtlPropagate, VlanTags, VrfWord,
};
use mplsxdp_common::forward::{Verdict, forward};
use mplsxdp_common::wire::{
    ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, ETH_ZLEN, IPV4_HLEN, IPV6_HLEN, LSE_LEN,
    Label, Lse, Mac, VLAN_HLEN, VLAN_VID_MASK,
};

use super::frame::MemoryFrame;
use super::memory::{FibNextHop, FibRoute, MemoryTables};
use super::recorder::Recorded;
use super::{FtnKey, Tables as _};

const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// VLAN tags, which come before the frame's own EtherType.
const TAGS: [u16; 2] = [ETH_P_8021Q, ETH_P_8021AD];
/// The port where frames arrive; its sub-interface has the frame's own VIDs.
const PORT: u16 = 0;
const SUB_INTERFACE: u16 = 1;
/// One for each next hop. Those from [`UNRESOLVED`] on have no MAC address.
const MTUS: [u16; 10] = [1500, 1500, 1500, 9000, 60, 100, 0, 1500, 1500, 1500];
const UNRESOLVED: usize = 7;
/// The backups of next hops that are not resolved. The last one's backup is not resolved, either.
const BACKUPS: [(usize, u16); 2] = [(8, 2), (9, 7)];
/// Next hops that routes name: some do not exist.
const HOPS: u8 = MTUS.len() as u8 + 2;
const GROUPS: u8 = 4;
/// Pairs of a next hop and a backup with labels of its own.
const PAIRS: u8 = 8;
/// VRFs that labels lead into; the last one leaves its packets to the kernel.
const VRFS: u8 = 3;
/// The interface index of the first one's device.
const VRF_DEVICE: u32 = 50;
/// The interfaces that the kernel routes packets of a VRF to, with the MTU of their routes. The last one is not a port.
const WAYS_OUT: [(u32, usize, Option<CrossConnect>); 4] = [
    (1, 1500, Some(CrossConnect::new(30, 1518))),
    (
        2,
        1400,
        Some(CrossConnect::new(31, 1518).with_tags(&[(ETH_P_8021Q, 300)])),
    ),
    (
        3,
        1500,
        Some(CrossConnect::new(32, 100).with_tags(&[(ETH_P_8021AD, 300), (ETH_P_8021Q, 30)])),
    ),
    (4, 1500, None),
];
/// Ends of pseudowires, each with another encapsulation.
const PSEUDOWIRES: u8 = 8;
/// The tag of those in tagged mode, and the longest frame that leaves by the last one.
const SERVICE_VID: u16 = 77;
const LONGEST: [u16; PSEUDOWIRES as usize] = [1518, 1518, 1518, 1518, 1518, 1518, 1518, 70];
/// Where the first one's frames leave.
const PSEUDOWIRE_PORT: u16 = 40;
/// The last four are chosen by bits of their own.
const OPS: [Op; 12] = [
    Op::Label,
    Op::Stack,
    Op::Pop,
    Op::PenultimatePop,
    Op::Local,
    Op::Pass,
    Op::None,
    Op::Group,
    Op::LocalPass,
    Op::Protected,
    Op::VrfPass,
    Op::Pseudowire,
];
/// The position of [`Op::Pass`].
const PASS: usize = 5;
/// The bits of a route's third byte that stand for [`Op::LocalPass`], [`Op::Protected`], [`Op::VrfPass`] and
/// [`Op::Pseudowire`].
const LOCAL_PASS: u8 = 0x40;
const PROTECTED: u8 = 0x80;
const VRF_PASS: u8 = 0xc0;
const PSEUDOWIRE: u8 = 0xe0;
/// Routes for the first labels of the frame, then one for all IPv4 addresses and one for all IPv6 addresses. The
/// buckets of groups and the entries of pairs use the same routes.
const ROUTES: usize = 16;
const ROUTE_LEN: usize = 4;
/// Settings, TTL of tunnels, headroom, VLANs and hash seed.
const SETUP_LEN: usize = 4;
const HEADER_LEN: usize = SETUP_LEN + ROUTES * ROUTE_LEN;

/// Checks these properties. `data` begins with the router's settings and routes, of fixed length; the rest is the
/// frame. Unless a bit says otherwise, its destination MAC and IPv4 checksum are corrected: no fuzzer would find them.
pub fn core(data: &[u8]) {
    let Some((header, frame)) = data.split_at_checked(HEADER_LEN) else {
        return;
    };
    let &[setup, tunnel_ttl, headroom, vlan_and_seed, ref routes @ ..] = header else {
        return;
    };
    let mut frame = frame.to_vec();
    if setup & 0x80 == 0
        && let Some(destination) = frame.first_chunk_mut()
    {
        *destination = OWN_MAC.0;
    }
    if setup & 0x40 == 0 {
        right_ipv4_checksum(&mut frame);
    }
    let headroom = if setup & 0x20 == 0 {
        MemoryFrame::HEADROOM
    } else {
        usize::from(headroom)
    };
    let ttl_mode = [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux, TtlMode::Uniform][usize::from(setup & 3)];
    let settings = Settings::new(0, ttl_mode, tunnel_ttl.max(1), setup & 4 != 0, false);
    let flags = if setup & 8 == 0 {
        PortWord::MPLS | PortWord::IMPOSE
    } else {
        setup >> 4 & 7
    };
    let kernel_vlan = vlan_and_seed & 2 != 0;
    let word = PortWord::new(OWN_MAC, flags | if kernel_vlan { PortWord::KERNEL_VLAN } else { 0 });
    // The port is an attachment circuit.
    let attachment = (tunnel_ttl == 0).then_some(vlan_and_seed % PSEUDOWIRES);

    let run = |frame: &[u8]| {
        let mut tables = tables(routes, frame);
        tables.store_port(PORT, word);
        if let Some(index) = attachment {
            attach(&mut tables, index);
        }
        if vlan_and_seed & 1 == 0 {
            add_sub_interface(&mut tables, frame, word);
        }
        tables.hash_seed = u32::from(vlan_and_seed >> 2).wrapping_mul(0x9e37_79b1);
        let mut out = MemoryFrame::with_headroom(frame, headroom);
        let verdict = forward(&mut out, &tables.at_wire(settings));
        if headroom == MemoryFrame::HEADROOM {
            let counted = tables.route_counters.borrow().clone();
            let recorded = Recorded::of(frame, &tables.at_wire(settings), None);
            assert_eq!(
                (recorded.verdict, recorded.frame.bytes()),
                (verdict, out.bytes()),
                "a record changes it"
            );
            assert_eq!(*tables.route_counters.borrow(), counted, "a record counts");
        }
        (verdict, out.bytes().to_vec(), tables)
    };
    let (verdict, out, tables) = run(&frame);
    let (same_verdict, same_out, _) = run(&frame);
    assert_eq!(
        (verdict, &out),
        (same_verdict, &same_out),
        "another time, another outcome"
    );
    if let Some(other) = with_other_traffic_class(&frame) {
        assert_eq!(
            run(&other).0,
            verdict,
            "the traffic class decides nothing, a flow's path neither"
        );
    }
    let counters = tables.route_counters.borrow();
    for counter in counters.values() {
        assert_eq!(counter.bytes, counter.packets * frame.len() as u64);
    }
    match verdict {
        Verdict::Exception(_) => assert_eq!(out, frame, "{verdict:?} leaves the frame as it arrived"),
        Verdict::Pass if out == frame => {}
        Verdict::Pass => check_delivered(&frame, &out, kernel_vlan),
        Verdict::Forward { port } if port >= PSEUDOWIRE_PORT => check_left(&frame, &out, port - PSEUDOWIRE_PORT),
        Verdict::Forward { port } => {
            assert!(!counters.is_empty(), "forwarded, and counted for nobody");
            let hop = MTUS
                .iter()
                .enumerate()
                .map(|(number, &mtu)| adjacency(number as u8, mtu));
            let hop = hop
                .filter(|hop| hop.is_resolved())
                .chain(ways_out())
                .find(|hop| hop.port() == port)
                .expect("a next hop that is resolved");
            match attachment {
                Some(index) => check_entered(&frame, &out, hop, encapsulation(index)),
                None => check_forwarded(&frame, &out, hop),
            }
        }
    }
}

/// Inputs that contain this frame, so that each operation of [`OPS`] is tried on it.
pub fn core_seeds(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..OPS.len())
        .map(move |op| {
            let mut data = vec![(op % 3) as u8, 255, 0, 0];
            for number in 0..ROUTES {
                // The first two are for addresses: packets that are popped for this router are left to the kernel. Labels
                // beneath the first get another operation: a frame with only local labels is malformed.
                let op = match number {
                    0 | 1
                        if matches!(
                            OPS[op],
                            Op::Pop | Op::PenultimatePop | Op::Local | Op::LocalPass | Op::VrfPass | Op::Pseudowire
                        ) =>
                    {
                        PASS
                    }
                    0..=2 => op,
                    _ => op & !4,
                };
                let bits = match OPS[op] {
                    Op::LocalPass => LOCAL_PASS,
                    Op::Protected => PROTECTED,
                    Op::VrfPass => VRF_PASS,
                    Op::Pseudowire => PSEUDOWIRE,
                    _ => 0,
                };
                data.extend([op as u8, 20 + number as u8, (number as u8 % 3) | bits, number as u8]);
            }
            data.extend(frame);
            data
        })
        .chain((0..PSEUDOWIRES).map(move |index| {
            // The port is an attachment circuit.
            let mut data = vec![0, 0, 0, index];
            for number in 0..ROUTES as u8 {
                data.extend([number % 2, 20 + number, 3, number]);
            }
            data.extend(frame);
            data
        }))
}

/// Tables in which the first labels of the frame have routes, and so does every address.
fn tables(routes: &[u8], frame: &[u8]) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for (number, mtu) in MTUS.into_iter().enumerate() {
        tables.store_adjacency(number as u16, adjacency(number as u8, mtu));
    }
    for depth in 1..=MAX_PUSH {
        let labels: Vec<_> = (1..=depth as u32)
            .map(|number| Label::from_low_bits(200 + number))
            .collect();
        let ttl = NonZeroU8::new(depth as u8 & 1);
        if let Some(stack) = LabelStack::new(&labels, ttl) {
            tables.store_stack(depth as u32, stack);
        }
    }
    let entry = |[op, operand, hop, slot]: [u8; ROUTE_LEN], bits: u8| {
        let ttl = [TtlPropagate::Default, TtlPropagate::Enabled, TtlPropagate::Disabled][usize::from(op >> 3) % 3];
        let op = match bits {
            PSEUDOWIRE.. => Op::Pseudowire,
            VRF_PASS.. => Op::VrfPass,
            PROTECTED.. => Op::Protected,
            LOCAL_PASS.. => Op::LocalPass,
            _ => OPS[usize::from(op & 7)],
        };
        // Most of the pushed stacks exist, and most groups and pairs.
        let operand = match op {
            Op::Stack => operand % (MAX_PUSH as u8 + 2),
            Op::Group => operand % (GROUPS + 1),
            Op::Protected => operand % (PAIRS + 1),
            Op::VrfPass => operand % VRFS,
            Op::Pseudowire => operand % PSEUDOWIRES,
            _ => operand,
        };
        RouteEntry::new(op, ttl, operand.into(), (hop % LOCAL_PASS % HOPS).into(), slot.into())
    };
    let routes = routes.as_chunks::<ROUTE_LEN>().0;
    for (pair, routes) in (0..PAIRS).zip(routes.windows(ROUTES - usize::from(PAIRS) + 1)) {
        let both = [routes.first(), routes.last()];
        tables.store_pair(
            pair.into(),
            both.map(|route| route.map_or(RouteEntry::EMPTY, |&route| entry(route, 0))),
        );
    }
    let entries: Vec<RouteEntry> = routes.iter().map(|&route| entry(route, route[2])).collect();
    let mut entries = entries.into_iter();
    for group in 0..GROUPS {
        let members = entries.as_slice();
        for (bucket, &entry) in (0..BUCKETS).zip(members.iter().cycle().skip(group.into())) {
            tables.store_bucket(group.into(), bucket as u8, entry);
        }
    }
    let v4 = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    let v6 = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0));
    for (prefix, entry) in [v4, v6].into_iter().zip(&mut entries) {
        let key = FtnKey::new(Domain::NO_VRF, prefix);
        tables.insert_ftn(key, entry).expect("room for two prefixes");
    }
    tables.publish_ftn(&mut |_| true);
    add_vrfs(&mut tables);
    for index in 0..PSEUDOWIRES {
        let encapsulation = encapsulation(index);
        let tags: &[_] = match encapsulation.added_len() {
            0 => &[],
            _ => &[(ETH_P_8021Q, SERVICE_VID)],
        };
        let port = PSEUDOWIRE_PORT + u16::from(index);
        let cross = CrossConnect::new(port, LONGEST[usize::from(index)]).with_tags(tags);
        // The tag in the pseudowire makes room for that of the port.
        let leaving = encapsulation.with_tag(None).without_tags(tags.len());
        tables.store_pseudowire(index.into(), cross, leaving);
        tables.store_attachment(
            index.into(),
            entries.as_slice().first().copied().unwrap_or_default(),
            encapsulation,
        );
    }
    let labels = frame.get(l2_len(frame)..).unwrap_or_default().as_chunks().0.iter();
    for (lse, entry) in labels.zip(entries) {
        tables.ilm.entry(Lse::from_bytes(*lse).label()).or_insert(entry);
    }
    tables
}

/// With a control word, a flow label and a tag, or without.
fn encapsulation(index: u8) -> Encapsulation {
    Encapsulation::new()
        .with_control_word(index & 1 != 0)
        .with_flow_label(index & 2 != 0)
        .with_tag((index & 4 != 0).then_some(SERVICE_VID))
}

/// Sends all frames of the port into a pseudowire.
fn attach(tables: &mut MemoryTables, index: u8) {
    tables.store_cross_connect(PORT, CrossConnect::attachment_circuit(index.into()));
    tables.store_port(PORT, PortWord::new(OWN_MAC, PortWord::CROSS_CONNECT));
}

/// Each has its own MAC addresses and its own port, so that a frame shows where it was sent. One has one tag, another
/// two.
fn adjacency(number: u8, mtu: u16) -> Adjacency {
    let index = usize::from(number);
    let destination = if index >= UNRESOLVED {
        Mac::ZERO
    } else {
        Mac([2, 1, 0, 0, number, 1])
    };
    let tags = match number {
        1 => VlanTags::one(ETH_P_8021Q, 200),
        2 => VlanTags::two(ETH_P_8021AD, 200, ETH_P_8021Q, 10),
        _ => VlanTags::NONE,
    };
    let backup = BACKUPS.iter().find(|(of, _)| *of == index).map(|&(_, backup)| backup);
    // Labelled packets may be larger or smaller than others at some.
    let mpls_mtu = match number {
        1 => mtu + 8,
        3 => 1500,
        4 => 80,
        _ => mtu,
    };
    Adjacency::new(destination, 10 + u16::from(number), Mac([2, 1, 0, 0, number, 2]), mtu)
        .with_mpls_mtu(mpls_mtu)
        .with_tags(tags)
        .with_backup(backup)
}

/// One VRF with the prefix routes, and one without. Each has the same routes of the kernel.
fn add_vrfs(tables: &mut MemoryTables) {
    let domains = [Domain::NO_VRF, Domain(1)];
    for (index, domain) in (0..).zip(domains) {
        let device = VRF_DEVICE + index;
        tables.store_vrf(index, VrfWord::new(device, domain));
        // By the first three bits of the address; there is no way for some.
        for eighth in 0..8_u8 {
            let to = WAYS_OUT.get(usize::from(eighth) % (WAYS_OUT.len() + 1));
            let to = to.map(|&(ifindex, mtu, ..)| FibNextHop {
                ifindex,
                mtu,
                source: way_out_mac(ifindex, 2),
                destination: way_out_mac(ifindex, 1),
            });
            let v4 = Ipv4Net::new_assert(Ipv4Addr::new(eighth << 5, 0, 0, 0), 3);
            let v6 = Ipv6Net::new_assert(Ipv6Addr::new(u16::from(eighth) << 13, 0, 0, 0, 0, 0, 0, 0), 3);
            let routes = [v4.into(), v6.into()].map(|prefix| FibRoute {
                vrf: device,
                prefix,
                to,
            });
            tables.fib.extend(routes);
        }
    }
    for (ifindex, _, way_out) in WAYS_OUT {
        if let Some(way_out) = way_out {
            tables.set_way_out(ifindex, way_out).expect("room for a few");
        }
    }
}

fn way_out_mac(ifindex: u32, end: u8) -> Mac {
    Mac([2, 2, 0, 0, ifindex as u8, end])
}

/// The next hops that the kernel's routes of VRFs lead to.
fn ways_out() -> impl Iterator<Item = Adjacency> {
    WAYS_OUT.into_iter().filter_map(|(ifindex, mtu, way_out)| {
        let way_out = way_out?;
        let fits = way_out.longest() - ETH_HLEN - way_out.added_len();
        let (to, from) = (way_out_mac(ifindex, 1), way_out_mac(ifindex, 2));
        Some(Adjacency::new(to, way_out.port(), from, mtu.min(fits) as u16).with_tags(way_out.tags()))
    })
}

/// Gives the sub-interface the frame's own VIDs, which no fuzzer would find.
fn add_sub_interface(tables: &mut MemoryTables, frame: &[u8], word: PortWord) {
    let vids: Vec<u16> = frame[..l2_len(frame).min(frame.len())]
        .get(ETH_HLEN..)
        .unwrap_or_default()
        .as_chunks::<VLAN_HLEN>()
        .0
        .iter()
        .map(|&[high, low, ..]| u16::from_be_bytes([high, low]) & VLAN_VID_MASK)
        .collect();
    let key = match vids[..] {
        [outer] => SubInterfaceKey::new(PORT.into(), outer, 0),
        [outer, inner] => SubInterfaceKey::new(PORT.into(), outer, inner),
        _ => return,
    };
    tables.store_port(SUB_INTERFACE, word);
    tables.insert_sub_interface(key, SUB_INTERFACE).expect("room for one");
}

/// The frame with another traffic class in its top label, if it has one.
fn with_other_traffic_class(frame: &[u8]) -> Option<Vec<u8>> {
    let top = l2_len(frame);
    let ethertype = frame.get(top - 2..top)?;
    if ethertype != ETH_P_MPLS_UC.to_be_bytes() {
        return None;
    }
    let mut other = frame.to_vec();
    *other.get_mut(top + 2)? ^= 0b1110;
    Some(other)
}

/// Length of the Ethernet header with its tags.
fn l2_len(frame: &[u8]) -> usize {
    let tag_at = |offset: usize| {
        let ethertype = frame.get(offset..).and_then(|rest| rest.first_chunk());
        ethertype.is_some_and(|&ethertype| TAGS.contains(&u16::from_be_bytes(ethertype)))
    };
    let tags = (0..).take_while(|tags| tag_at(ETH_HLEN - 2 + tags * VLAN_HLEN)).count();
    ETH_HLEN + tags * VLAN_HLEN
}

/// The parts of a frame.
struct Parts<'a> {
    ethertype: u16,
    /// Empty in an unlabelled frame.
    stack: Vec<Lse>,
    payload: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` if the frame ends before its Ethernet header or its stack does.
    fn of(frame: &'a [u8]) -> Option<Self> {
        let (l2, mut payload) = frame.split_at_checked(l2_len(frame))?;
        let ethertype = u16::from_be_bytes(*l2.last_chunk()?);
        let mut stack: Vec<Lse> = Vec::new();
        while ethertype == ETH_P_MPLS_UC && stack.last().is_none_or(|lse| !lse.bottom()) {
            let (entry, rest) = payload.split_first_chunk::<LSE_LEN>()?;
            stack.push(Lse::from_bytes(*entry));
            payload = rest;
        }
        Some(Self {
            ethertype,
            stack,
            payload,
        })
    }

    /// The TTL that the next hop will see.
    fn ttl(&self) -> u8 {
        match (self.stack.first(), self.payload.first().map(|first| first >> 4)) {
            (Some(top), _) => top.ttl(),
            (None, Some(4)) => self.payload[8],
            (None, Some(6)) => self.payload[7],
            (None, version) => panic!("IP version {version:?}"),
        }
    }

    /// The EtherType matches the content, and the TTL is not 0, unless it arrived as 0 beneath and this hop must not
    /// change it (RFC 3443 section 3.2).
    fn check_outgoing(&self, before: &Self) {
        let is_v4 = self.payload.first().is_some_and(|first| first >> 4 == 4);
        let ethertype = match (self.stack.is_empty(), is_v4) {
            (false, _) => ETH_P_MPLS_UC,
            (true, true) => ETH_P_IP,
            (true, false) => ETH_P_IPV6,
        };
        assert_eq!(self.ethertype, ethertype);
        let popped = before.stack.len().saturating_sub(self.stack.len());
        let beneath = Parts {
            ethertype,
            stack: before.stack[popped..].to_vec(),
            payload: before.payload,
        };
        assert!(self.ttl() != 0 || popped > 0 && beneath.ttl() == 0, "TTL 0");
    }
}

/// All of its labels were this router's own: the kernel gets the packet, with its tags if it has a device for them.
fn check_delivered(frame: &[u8], out: &[u8], kernel_vlan: bool) {
    let (before, after) = (
        Parts::of(frame).expect("a whole stack"),
        Parts::of(out).expect("a packet"),
    );
    let kept = if kernel_vlan { l2_len(frame) - 2 } else { ETH_HLEN - 2 };
    assert_eq!(out[..kept], frame[..kept], "MAC addresses, and tags");
    assert_eq!(l2_len(out), kept + 2, "tags");
    assert!(!before.stack.is_empty() && after.stack.is_empty());
    after.check_outgoing(&before);
    check_payload(before.payload, after.payload);
}

/// The frame is beneath labels, as it was but for the tag that it got.
fn check_entered(frame: &[u8], out: &[u8], hop: Adjacency, encapsulation: Encapsulation) {
    let macs = [hop.destination().0, hop.source().0].concat();
    assert_eq!(out[..12], macs, "MAC addresses");
    let after = Parts::of(out).expect("a whole stack goes out");
    let longest = l2_len(out) + usize::from(hop.mpls_mtu());
    assert!(out.len() <= longest, "larger than the link takes");
    let bottom = after.stack.last().expect("a label");
    assert!(!encapsulation.has_flow_label() || !bottom.label().is_special() && bottom.ttl() == 1);
    let (addresses, rest) = frame.split_at(ETH_HLEN - 2);
    let word = [0; 4];
    let word = if encapsulation.has_control_word() {
        &word[..]
    } else {
        &[]
    };
    let tag = &encapsulation.tag().to_bytes()[..encapsulation.added_len()];
    assert_eq!(after.payload, [word, addresses, tag, rest].concat(), "the frame");
}

/// What leaves a pseudowire was in the frame, but for tags.
fn check_left(frame: &[u8], out: &[u8], index: u16) {
    let is_in = |part: &[u8]| frame.windows(part.len()).any(|window| window == part);
    let (addresses, rest) = out.split_at(ETH_HLEN - 2);
    let tag_len = match index & 4 {
        0 => 0,
        _ => VLAN_HLEN,
    };
    assert!(rest.len() >= tag_len + 2 && out.len() <= usize::from(LONGEST[usize::from(index)]));
    match tag_len {
        0 => assert!(is_in(out), "the frame"),
        _ => assert!(is_in(addresses) && is_in(&rest[tag_len..]), "the parts of the frame"),
    }
}

fn check_forwarded(frame: &[u8], out: &[u8], hop: Adjacency) {
    assert_eq!(
        out[..12],
        [hop.destination().0, hop.source().0].concat(),
        "MAC addresses"
    );
    let tags = &out[ETH_HLEN - 2..l2_len(out) - 2];
    assert_eq!(tags, &hop.tags().to_bytes()[..hop.tags_len_bytes()], "tags");
    let before = Parts::of(frame).expect("a whole stack came in");
    let after = Parts::of(out).expect("a whole stack goes out");
    let mtu = match after.stack[..] {
        [] => hop.mtu(),
        _ => hop.mpls_mtu(),
    };
    assert!(
        out.len() <= l2_len(out) + usize::from(mtu),
        "larger than the link takes"
    );
    after.check_outgoing(&before);
    // Only the pushed labels may differ: the labels beneath are the same, entry by entry.
    if let Some(beneath) = after.stack.get(MAX_PUSH..) {
        assert!(before.stack.ends_with(beneath), "labels beneath those pushed");
    }
    if let ([_, kept @ ..], true) = (&after.stack[..], after.stack.len() <= before.stack.len()) {
        let is_pushed = |lse: &Lse| (201..=208).contains(&lse.label().get());
        let kept = kept
            .iter()
            .skip_while(|lse| is_pushed(lse))
            .copied()
            .collect::<Vec<_>>();
        assert!(before.stack.ends_with(&kept), "labels beneath the one on top");
    }
    check_payload(before.payload, after.payload);
}

/// Of a packet, only the TTL, the traffic class and what follows from them may differ; of anything else, nothing. The
/// bytes after the packet may be gone.
fn check_payload(before: &[u8], after: &[u8]) {
    if before.len() != after.len() {
        let total_len = match *before {
            [first, _, high, low, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([high, low])),
            [_, _, _, _, high, low, ..] => IPV6_HLEN + usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        let least = (ETH_ZLEN - ETH_HLEN).min(before.len());
        assert_eq!(after.len(), total_len.max(least), "length of the payload");
    }
    let rewritten: &[(usize, u8)] = match before.first().map(|first| first >> 4) {
        Some(4) => &[(1, 0xff), (8, 0xff), (10, 0xff), (11, 0xff)],
        Some(6) => &[(0, 0x0f), (1, 0xf0), (7, 0xff)],
        _ => &[],
    };
    for (offset, (before, after)) in before.iter().zip(after).enumerate() {
        let mask = rewritten
            .iter()
            .find(|(place, _)| *place == offset)
            .map_or(0, |(_, mask)| *mask);
        assert_eq!(before & !mask, after & !mask, "byte {offset} of the payload");
    }
    if has_right_ipv4_checksum(before) {
        assert!(has_right_ipv4_checksum(after), "the header checksum is right no more");
    }
}

fn ipv4_header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let len = usize::from(first & 0xf) * 4;
    (first >> 4 == 4 && (IPV4_HLEN..=packet.len()).contains(&len)).then_some(len)
}

/// The sum of RFC 1071.
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&word| u32::from(u16::from_be_bytes(word)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn has_right_ipv4_checksum(packet: &[u8]) -> bool {
    ipv4_header_len(packet).is_some_and(|len| ones_complement_sum(&packet[..len]) == 0xffff)
}

fn right_ipv4_checksum(frame: &mut [u8]) {
    let Some(payload_len) = Parts::of(frame).map(|parts| parts.payload.len()) else {
        return;
    };
    let (_, packet) = frame.split_at_mut(frame.len() - payload_len);
    if let Some(len) = ipv4_header_len(packet) {
        packet[10..12].fill(0);
        let checksum = !ones_complement_sum(&packet[..len]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

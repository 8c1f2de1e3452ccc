//! Answers MPLS echo requests (RFC 8029 section 4.4). The forwarding core says what becomes of a request's labels, and
//! which of its addresses take which path.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use mplsxdp_common::abi::{Op, RouteEntry};
use mplsxdp_common::forward::{PortView, Verdict};
use mplsxdp_common::wire::{IPV4_HLEN, LSP_PING_PORT, Label, Lse};

use super::message::{
    self, ALL_ROUTERS_V4, ALL_ROUTERS_V6, AddressMask, Downstream, DownstreamLabel, Fec, Header,
    InterfaceAndLabelStack, LinkAddress, Malformed, Message, Pad, Timestamp, Tlv,
};
use super::udp::Datagram;
use crate::dataplane::frame::MemoryFrame;
use crate::slowpath::answer::{Answerer, UNEXPIRED, set_entries};
use crate::slowpath::ask::{Answer, Received, ask_of_any_length};
use crate::slowpath::icmp::{DS_FIELD, checksum};
use crate::slowpath::limit::{Limiter, Rate};
use crate::slowpath::outcome::Outcome;
use crate::slowpath::packet::{Parts, entries, is_one_host};
use crate::slowpath::{Emit, World};

/// Replies to all, and to one source. RFC 8029 section 5 requires a limit.
const RATE: Rate = Rate {
    per_second: 500,
    burst: 100,
};
const SOURCE_RATE: Rate = Rate {
    per_second: 100,
    burst: 50,
};
/// RFC 8029 section 4.5.
const REPLY_TTL: u8 = 255;
/// The most bytes of Downstream Detailed Mappings in a reply, which then fits an IPv6 link of the least MTU.
const MAX_DOWNSTREAMS_LEN: usize = 1000;

/// The request in a packet, and who sent it.
#[derive(Clone, Copy)]
struct Request<'a> {
    datagram: Datagram<'a>,
    header: Header,
    tlvs: &'a [u8],
}

impl<'a> Request<'a> {
    /// The request that is the packet. `None` if it is another packet, or its source is not that of a host.
    fn read(packet: &'a [u8]) -> Option<Self> {
        let datagram = Datagram::read(packet)?;
        let is_to_loopback = match datagram.destination.ip() {
            IpAddr::V4(address) => address.is_loopback(),
            IpAddr::V6(address) => {
                address.is_loopback() || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback())
            }
        };
        if datagram.destination.port() != LSP_PING_PORT || !is_to_loopback || !is_one_host(datagram.source.ip()) {
            return None;
        }
        let (header, tlvs) = Header::read(datagram.payload)?;
        (header.kind == message::REQUEST && datagram.source.port() != 0).then_some(Self { datagram, header, tlvs })
    }
}

/// Whether the packet is a request whose sender may get a reply.
pub fn is_request(packet: &[u8], trimmed: usize) -> bool {
    trimmed == 0 && Request::read(packet).is_some()
}

/// What became of the request's labels here: a return code, and the depth that it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Finding {
    code: u8,
    /// The bottom label is 1 (RFC 8029 section 3.1).
    depth: usize,
    /// The label that is switched here, by its index.
    switched: Option<usize>,
}

impl Finding {
    const fn new(code: u8, depth: usize) -> Self {
        Self {
            code,
            depth,
            switched: None,
        }
    }
}

/// Where a packet goes from here.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Way {
    adjacency: u16,
    labels: Vec<Label>,
    mtu: u16,
    code: u8,
}

/// Builds replies.
#[derive(Debug)]
pub struct Responder {
    limiter: Limiter,
    identification: u16,
    payload: Vec<u8>,
    packet: Vec<u8>,
    probe: Vec<u8>,
    scratch: MemoryFrame,
}

impl Default for Responder {
    fn default() -> Self {
        Self {
            limiter: Limiter::new(RATE, SOURCE_RATE),
            identification: 0,
            payload: Vec::new(),
            packet: Vec::new(),
            probe: Vec::new(),
            scratch: MemoryFrame::default(),
        }
    }
}

impl Responder {
    /// Answers the request in a frame that arrived, if a reply is due.
    pub fn respond<W: World>(
        &mut self,
        received: Received<'_>,
        world: &W,
        answerer: &mut Answerer,
        now: Instant,
        emit: &mut Emit<'_>,
    ) -> Outcome {
        let Some(parts) = Parts::of(received.frame).filter(|_| received.trimmed == 0) else {
            return Outcome::LspPing;
        };
        let Some(request) = Request::read(parts.payload) else {
            return Outcome::LspPing;
        };
        let source = request.datagram.source;
        let stack = Vec::from_iter(entries(parts.stack));
        // RFC 8029 section 3.1. Under no label, it has arrived at the end of its LSP.
        let is_unexpired = stack.first().is_some_and(|lse| lse.ttl() > 1);
        let wants_none = request.header.flags & message::ONLY_IF_TTL_EXPIRED != 0 && is_unexpired;
        let is_known_mode = matches!(
            request.header.reply_mode,
            message::REPLY_BY_IP | message::REPLY_WITH_ALERT
        );
        if wants_none || !is_known_mode || world.is_broadcast(received.port, source.ip()) {
            return Outcome::LspPing;
        }
        if !self.limiter.allow(source.ip(), now) {
            return Outcome::LspPingLimited;
        }
        let Some(own) = world.source_address(received.port, source.ip()) else {
            return Outcome::NoSource;
        };
        let tables = world.tables_at(received.port);
        let (mut reply, ds_field) = self.reply(request, received, parts, &stack, own, world);
        reply.header = Header {
            flags: 0,
            kind: message::REPLY,
            received: Timestamp::of(world.time_since_epoch()),
            ..reply.header
        };
        loop {
            self.identification = self.identification.wrapping_add(1);
            self.payload.clear();
            reply.write(&mut self.payload);
            let datagram = Datagram {
                source: SocketAddr::new(own, LSP_PING_PORT),
                destination: source,
                ttl: REPLY_TTL,
                ds_field,
                payload: &self.payload,
            };
            if !datagram.write(self.identification, &mut self.packet) {
                return Outcome::NoSource;
            }
            if answerer.send_own(&self.packet, received.port, &tables, emit) {
                return Outcome::LspPingAnswered;
            }
            // Without padding, it may fit.
            let length = reply.tlvs.len();
            reply.tlvs.retain(|tlv| !matches!(tlv, Tlv::Pad(_)));
            if reply.tlvs.len() == length {
                return Outcome::NoWayBack;
            }
        }
    }

    /// The reply, apart from the rest of its header, and its DS field.
    fn reply<W: World>(
        &mut self,
        request: Request<'_>,
        received: Received<'_>,
        parts: Parts<'_>,
        stack: &[Lse],
        own: IpAddr,
        world: &W,
    ) -> (Message, u8) {
        let asked = match read(request) {
            Ok(asked) => asked,
            Err(_) => return (concluded(request.header, message::MALFORMED, 0, Vec::new()), DS_FIELD),
        };
        let tos = asked.tlvs.iter().find_map(|tlv| match tlv {
            Tlv::ReplyTos(value) => Some(*value),
            _ => None,
        });
        let ds_field = tos.unwrap_or(DS_FIELD);
        let mut tlvs = Vec::new();
        let unknown = asked.tlvs.iter().filter(|tlv| !tlv.is_understood());
        let mut errored = Vec::new();
        unknown.for_each(|tlv| tlv.write(&mut errored));
        if !errored.is_empty() {
            tlvs.push(Tlv::Errored(errored));
            return (
                concluded(request.header, message::TLV_NOT_UNDERSTOOD, 0, tlvs),
                ds_field,
            );
        }
        for tlv in &asked.tlvs {
            match tlv {
                Tlv::FecStack(_) => tlvs.push(tlv.clone()),
                Tlv::Pad(pad) if pad.action == Pad::COPY => tlvs.push(tlv.clone()),
                _ => {}
            }
        }
        let downstream = asked.downstreams().next();
        let tables = world.tables_at(received.port);
        let mut finding = find(&tables, stack, asked.fecs(), received.port, world);
        if downstream.is_some_and(|downstream| downstream.flags & message::WANTS_LABEL_STACK != 0) {
            tlvs.push(Tlv::InterfaceAndLabelStack(InterfaceAndLabelStack {
                link: LinkAddress::of(own),
                stack: stack.to_vec(),
            }));
        }
        let is_mismatch = downstream.is_some_and(|downstream| !is_confirmed(downstream, stack, world));
        if is_mismatch && finding.code != message::NO_LABEL_ENTRY {
            finding = Finding::new(message::DOWNSTREAM_MISMATCH, stack.len());
        }
        if let Some(index) = finding.switched {
            let ways = self.ways(request, received, parts, index, downstream, &tables);
            let codes = || ways.iter().map(|(way, _)| way.code);
            // RFC 8029 section 3.4: where they differ, each mapping has its own.
            finding.code = match codes().min() {
                Some(least) if codes().max() == Some(least) => least,
                Some(_) if downstream.is_some() => message::SEE_DOWNSTREAM,
                Some(least) => least,
                None => message::NO_MPLS_FORWARDING,
            };
            if downstream.is_some() {
                tlvs.extend(mappings(ways, stack, finding.depth, world));
            }
        }
        (concluded(request.header, finding.code, finding.depth, tlvs), ds_field)
    }

    /// The ways of a packet whose label with this index is switched here: of the packet itself, or of each address that
    /// the sender asks about, with the addresses that take it.
    fn ways<T: PortView>(
        &mut self,
        request: Request<'_>,
        received: Received<'_>,
        parts: Parts<'_>,
        index: usize,
        downstream: Option<&Downstream>,
        tables: &T,
    ) -> Vec<(Way, Option<AddressMask>)> {
        let destination = request.datagram.destination.ip();
        let multipath = downstream.and_then(|downstream| downstream.multipath.as_ref());
        let mask = multipath.and_then(|multipath| AddressMask::of(multipath, destination.is_ipv4()));
        let Some(mask) = mask else {
            let way = self.way(received.port, parts, index, destination, tables);
            return way.map(|way| (way, None)).into_iter().collect();
        };
        let mut ways: Vec<(Way, Option<AddressMask>)> = Vec::new();
        for (place, address) in mask.chosen() {
            let Some(way) = self.way(received.port, parts, index, address, tables) else {
                continue;
            };
            let known = ways.iter().position(|(known, _)| *known == way);
            let known = known.unwrap_or_else(|| {
                ways.push((way, Some(mask.emptied())));
                ways.len() - 1
            });
            if let Some((_, Some(takers))) = ways.get_mut(known) {
                takers.choose(place);
            }
        }
        ways
    }

    /// The way of the packet if it goes to `destination`. `None` if it has none: its route has no next hop.
    fn way<T: PortView>(
        &mut self,
        port: u16,
        parts: Parts<'_>,
        index: usize,
        destination: IpAddr,
        tables: &T,
    ) -> Option<Way> {
        let depth = entries(parts.stack).count();
        let top = entries(parts.stack).nth(index)?;
        self.probe.clear();
        self.probe.extend(parts.ethernet);
        let start = self.probe.len();
        self.probe
            .extend(entries(parts.stack).skip(index).flat_map(Lse::to_bytes));
        let packet = self.probe.len();
        self.probe.extend(parts.payload);
        let (head, packet) = self.probe.split_at_mut(packet);
        set_entries(head.get_mut(start..)?, |lse| lse.with_ttl(UNEXPIRED));
        readdress(packet, destination)?;
        let probe = Received {
            port,
            frame: &self.probe,
            trimmed: 0,
        };
        let (answer, next_hop) = ask_of_any_length(&mut self.scratch, probe, tables);
        let adjacency = answer.adjacency?;
        let left = Vec::from_iter(entries(Parts::of(self.scratch.bytes())?.stack).map(Lse::label));
        let is_popped = left.len() + 1 == depth - index;
        let is_last = is_popped && left.is_empty();
        let code = match answer.verdict {
            Verdict::Forward { .. } if is_last && operation(tables, top.label(), answer) == Op::Pop => {
                message::NO_MPLS_FORWARDING
            }
            Verdict::Forward { .. } => message::LABEL_SWITCHED,
            Verdict::Pass | Verdict::Exception(_) => message::NO_MPLS_FORWARDING,
        };
        let mtu = if is_last { next_hop.mtu() } else { next_hop.mpls_mtu() };
        let labels = match answer.verdict {
            // RFC 8029 section 3.4.1.2: a label that is popped here appears as implicit null.
            Verdict::Forward { .. } if is_popped => [&[Label::IMPLICIT_NULL], &left[..]].concat(),
            Verdict::Forward { .. } => left,
            Verdict::Pass | Verdict::Exception(_) => Vec::new(),
        };
        Some(Way {
            adjacency,
            labels,
            mtu,
            code,
        })
    }
}

/// The parts of the request.
fn read(request: Request<'_>) -> Result<Message, Malformed> {
    let tlvs = Tlv::read_all(request.tlvs)?;
    // RFC 8029 section 3: each request has the FECs of its LSP.
    if tlvs.iter().filter(|tlv| matches!(tlv, Tlv::FecStack(_))).count() != 1 {
        return Err(Malformed::FecStack);
    }
    let header = request.header;
    let asked = Message { header, tlvs };
    match asked.fecs() {
        [] => Err(Malformed::FecStack),
        _ if asked.downstreams().count() > 1 => Err(Malformed::Twice),
        _ => Ok(asked),
    }
}

fn concluded(request: Header, code: u8, depth: usize, tlvs: Vec<Tlv>) -> Message {
    let header = Header {
        code,
        subcode: u8::try_from(depth).unwrap_or(u8::MAX),
        ..request
    };
    Message { header, tlvs }
}

/// RFC 8029 section 4.4, steps 3 to 6: looks at the labels from the top.
fn find<T: PortView, W: World>(tables: &T, stack: &[Lse], fecs: &[Fec], port: u16, world: &W) -> Finding {
    let mut rest = (0..).zip(stack);
    while let Some((index, lse)) = rest.next() {
        let depth = stack.len() - index;
        match lse.label() {
            Label::ROUTER_ALERT | Label::IPV4_EXPLICIT_NULL | Label::IPV6_EXPLICIT_NULL => continue,
            // RFC 6790 section 4.2: the entropy label is popped with its indicator.
            Label::ENTROPY_INDICATOR => {
                rest.next();
                continue;
            }
            label if label.is_special() => return Finding::new(message::NO_LABEL_ENTRY, depth),
            _ => {}
        }
        match tables.ilm(lse.label()).op() {
            Op::None => return Finding::new(message::NO_LABEL_ENTRY, depth),
            Op::Local | Op::LocalPass => {}
            // The LSP ends here.
            Op::VrfPass | Op::Pseudowire => break,
            // The kernel forwards it.
            Op::Pass => return Finding::new(message::NO_MPLS_FORWARDING, depth),
            Op::Label | Op::Stack | Op::Pop | Op::PenultimatePop | Op::Group | Op::Protected => {
                return Finding {
                    switched: Some(index),
                    ..Finding::new(message::LABEL_SWITCHED, depth)
                };
            }
        }
    }
    // The last FEC is that of the bottom label. Where labels are fewer, the penultimate hop has popped one.
    let depths = (1..=fecs.len()).rev();
    for (fec, depth) in fecs.iter().zip(depths) {
        let is_ours = match fec {
            Fec::Prefix { prefix, .. } => world.is_own_prefix(port, *prefix),
            Fec::Nil(_) => true,
            Fec::Other { .. } => false,
        };
        if !is_ours {
            return Finding::new(message::NO_MAPPING, depth);
        }
    }
    Finding::new(message::EGRESS, 1)
}

/// Whether the request came as the router upstream says (RFC 8029 section 4.4, step 3).
fn is_confirmed<W: World>(downstream: &Downstream, stack: &[Lse], world: &W) -> bool {
    let address = downstream.link.address();
    if address == IpAddr::V4(ALL_ROUTERS_V4) || address == IpAddr::V6(ALL_ROUTERS_V6) {
        return true;
    }
    let is_ours = match downstream.link {
        LinkAddress::V4 { interface, .. } => interface.is_loopback() || world.is_own_address(interface.into()),
        LinkAddress::V6 { interface, .. } => interface.is_loopback() || world.is_own_address(interface.into()),
        LinkAddress::V4Unnumbered { .. } | LinkAddress::V6Unnumbered { .. } => true,
    };
    let are_right = downstream.labels.as_ref().is_none_or(|labels| {
        let labels = labels.iter().map(|label| label.label);
        let received = stack.iter().map(|lse| lse.label());
        labels.filter(|&label| label != Label::IMPLICIT_NULL).eq(received)
    });
    is_ours && are_right
}

/// The Downstream Detailed Mappings of these ways, as many as fit.
fn mappings<W: World>(
    ways: Vec<(Way, Option<AddressMask>)>,
    stack: &[Lse],
    depth: usize,
    world: &W,
) -> impl Iterator<Item = Tlv> {
    let tc = stack.first().map_or(0, |lse| lse.tc());
    let tlvs = ways.into_iter().map(move |(way, takers)| {
        let last = way.labels.len().saturating_sub(1);
        let labels = way.labels.iter().enumerate().map(|(index, &label)| DownstreamLabel {
            label,
            tc,
            bottom: index == last,
            protocol: 0,
        });
        Tlv::Downstream(Downstream {
            mtu: way.mtu,
            flags: 0,
            link: world
                .next_hop_address(way.adjacency)
                .map_or(LinkAddress::UNKNOWN, LinkAddress::of),
            code: way.code,
            subcode: u8::try_from(depth).unwrap_or(u8::MAX),
            multipath: takers.map(|takers| takers.multipath()),
            labels: Some(labels.collect()),
            others: Vec::new(),
        })
    });
    let mut written = Vec::new();
    tlvs.take_while(move |tlv| {
        tlv.write(&mut written);
        written.len() <= MAX_DOWNSTREAMS_LEN
    })
}

/// What the entry that was used for a label does.
fn operation<T: PortView>(tables: &T, label: Label, answer: Answer) -> Op {
    let mut entry: RouteEntry = tables.ilm(label);
    if entry.op() == Op::Group {
        entry = answer
            .bucket
            .map_or(entry, |bucket| tables.bucket(entry.operand(), bucket));
    }
    if entry.op() == Op::Protected {
        let [primary, backup] = tables.protected(entry.operand());
        entry = match tables.is_resolved(primary.next_hop()) {
            true => primary,
            false => backup,
        };
    }
    entry.op()
}

/// Changes the destination of an IP packet, and sets a TTL that does not expire.
fn readdress(packet: &mut [u8], destination: IpAddr) -> Option<()> {
    match destination {
        IpAddr::V4(address) => {
            let header_len = usize::from(packet.first()? & 0xf) * 4;
            let header = packet.get_mut(..header_len)?;
            let fields = header.first_chunk_mut::<IPV4_HLEN>()?;
            fields[8] = UNEXPIRED;
            (fields[10], fields[11]) = (0, 0);
            fields[16..].copy_from_slice(&address.octets());
            let sum = checksum(0, header).to_be_bytes();
            header.get_mut(10..)?.first_chunk_mut().map(|place| *place = sum)
        }
        IpAddr::V6(address) => {
            *packet.get_mut(7)? = UNEXPIRED;
            let place = packet.get_mut(24..)?.first_chunk_mut()?;
            *place = address.octets();
            Some(())
        }
    }
}

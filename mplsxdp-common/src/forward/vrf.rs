//! Labels of a VRF: the packet beneath is sent as the VRF's prefix routes and the kernel's table say. The kernel gets the
//! whole frame, untouched, if only it can handle it: it has a route for the same label.

use super::egress::Egress;
use super::frame::Frame;
use super::ip::{Ip, impose};
use super::label::load_lse;
use super::{Checked, OFFSET_MASK, PortView, ServiceFrame, Verdict, arrival_port};
use crate::abi::{Adjacency, DscpToTc, Op, Reason, TcToDscp, VrfWord};
use crate::fib::FibLookup;
use crate::ip::{Family, Header};
use crate::wire::{ETH_HLEN, IPPROTO_HOPOPTS, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPV4_HLEN, IPV6_HLEN, LSE_LEN};

/// The more-fragments flag and the fragment offset of an IPv4 header.
const FRAGMENT: u64 = 0x3fff;

/// Pops the label of a VRF and sends the packet, or leaves the frame to the kernel. Returns the code of a verdict.
#[inline(always)]
pub fn send_in_vrf<F: Frame, T: PortView>(frame: &mut F, tables: &T, received: ServiceFrame) -> u32 {
    send(frame, tables, received)
        .unwrap_or(Verdict::Exception(Reason::PassRoute))
        .to_code()
}

/// Any error means that the kernel must handle the frame.
#[inline(always)]
fn send<F: Frame, T: PortView>(frame: &mut F, tables: &T, received: ServiceFrame) -> Checked<Verdict> {
    const TO_KERNEL: Checked<Verdict> = Err(Reason::PassRoute);
    let lse = load_lse(frame, received.offset())?;
    let entry = tables.ilm(lse.label());
    // Another route may have taken its place.
    if entry.op() != Op::VrfPass || received.ttl() <= 1 || !lse.bottom() || received.is_unfinished() {
        return TO_KERNEL;
    }
    let vrf = tables.vrf(entry.operand());
    if vrf == VrfWord::NONE {
        return TO_KERNEL;
    }
    let offset = received.offset() + LSE_LEN;
    // Only IP is beneath the label of a VRF, so nothing has to show that it is.
    let Some(header) = Header::at(frame, offset).filter(|header| header.is_plain(frame, offset)) else {
        return TO_KERNEL;
    };
    let mut ip = Ip::new(frame, offset, header);
    let mode = entry.ttl_propagate().mode(tables.settings().ttl_mode());
    ip.after_pop(mode, received.ttl() - 1, false)?;
    let number = arrival_port(frame, tables);
    let port = tables.port(number);
    let dscps = TcToDscp::from_bits(tables.traffic_classes(port, number, 0));
    ip.set_class(tables.settings(), lse.tc(), Some(dscps));
    // Keeps the verifier from processing what follows once for each path to this point.
    (ip.offset, ip.kept_len, ip.excess) = (
        frame.opaque(ip.offset) & OFFSET_MASK,
        frame.opaque(ip.kept_len),
        frame.opaque(ip.excess),
    );
    let prefix = ip.ftn(frame, tables, vrf.domain())?;
    let len = frame.len();
    let verdict = match prefix.op() {
        // Also where the kernel has routes of its own: its table has the answer.
        Op::None | Op::Pass => route(frame, tables, ip, vrf, entry.slot()),
        _ => {
            let dscp = ip.dscp();
            let classes = tables.traffic_classes(port, number, 1 + DscpToTc::word(dscp));
            // The pop has counted this hop.
            impose(frame, tables, prefix, ip, DscpToTc::of(classes, dscp), false, 0)
        }
    }?;
    tables.count_reason(number, Reason::Vrf, len);
    Ok(verdict)
}

/// Sends a packet as the kernel's table of a VRF says, counted in `slot`.
#[inline(always)]
fn route<F: Frame, T: PortView>(frame: &mut F, tables: &T, mut ip: Ip, vrf: VrfWord, slot: u32) -> Checked<Verdict> {
    let mut lookup = question(frame, &ip, vrf.ifindex())?;
    if !tables.fib(frame, &mut lookup) {
        return Err(Reason::PassRoute);
    }
    // Likewise for each family.
    ip.family = Family::of(frame.opaque(ip.family.ethertype().into()) as u16);
    let way_out = tables.way_out(lookup.ifindex()).ok_or(Reason::PassRoute)?;
    let received = frame.len();
    let is_refused = way_out.takes_one_buffer() && tables.settings().native_frags() && frame.is_split();
    let is_longer = ETH_HLEN + way_out.added_len() + ip.kept_len > way_out.longest();
    let neighbour = lookup.destination_mac();
    if is_refused || is_longer || neighbour.is_zero() {
        return Err(Reason::PassRoute);
    }
    let adjacency = Adjacency::new(neighbour, way_out.port(), lookup.source_mac(), 0).with_tags(way_out.tags());
    let egress = Egress::by(adjacency);
    egress.begin(frame, ip.offset, 0, ip.family.ethertype())?;
    ip.store(frame, egress.l2_len())?;
    ip.cut_trailer(frame);
    tables.count(slot, received);
    Ok(egress.verdict())
}

/// What the kernel is asked about a packet. An error if the kernel forwards no packets with such addresses, or must see
/// their headers.
#[inline(always)]
fn question<F: Frame>(frame: &F, ip: &Ip, vrf: u32) -> Checked<FibLookup> {
    // Bounded again, as in `Ip::ftn`.
    let offset = frame.opaque(ip.offset) & OFFSET_MASK;
    let load = |offset| frame.load(offset).ok_or(Reason::Malformed);
    let (protocol, is_fragment, header_len, flow, addresses) = match ip.family {
        Family::V4 => {
            let addresses: [u8; 8] = load(offset + 12)?;
            let [source, _, _, _, destination, ..] = addresses;
            // RFC 1812 section 5.3.7: this network, loopback, multicast, class E and broadcast.
            if matches!(source, 0 | 127 | 224..) || matches!(destination, 0 | 127 | 224..) {
                return Err(Reason::PassRoute);
            }
            let addresses = u64::from_le_bytes(addresses);
            let protocol = (ip.second >> 16) as u8;
            let tos = (ip.first >> 48) as u8;
            let addresses = [addresses & 0xffff_ffff, 0, addresses >> 32, 0];
            (protocol, ip.first & FRAGMENT != 0, IPV4_HLEN, tos.into(), addresses)
        }
        Family::V6 => {
            let addresses = [
                load(offset + 8)?,
                load(offset + 16)?,
                load(offset + 24)?,
                load(offset + 32)?,
            ];
            let [source, _, destination, _] = addresses.map(u64::from_be_bytes);
            if is_not_forwarded(source) || is_not_forwarded(destination) {
                return Err(Reason::PassRoute);
            }
            let next_header = (ip.first >> 8) as u8;
            if next_header == IPPROTO_HOPOPTS {
                return Err(Reason::PassRoute);
            }
            let flow = (ip.first >> 32) as u32 & 0x0fff_ffff;
            (
                next_header,
                false,
                IPV6_HLEN,
                flow.to_be(),
                addresses.map(u64::from_le_bytes),
            )
        }
    };
    let ports = match protocol {
        IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP if !is_fragment => frame.load(offset + header_len),
        _ => None,
    };
    let len = u16::try_from(ip.kept_len).map_err(|_| Reason::PassRoute)?;
    Ok(FibLookup::new(
        ip.family,
        protocol,
        ports.unwrap_or_default(),
        len,
        vrf,
        flow,
        addresses,
    ))
}

/// Whether an IPv6 address, of which this is the first half, is one that the kernel does not forward packets from or to, or
/// only by special rules: unspecified, loopback, IPv4-mapped, link-local and multicast (RFC 4291 section 2.5.2, 2.5.3, 2.5.5,
/// 2.5.6, 2.7).
const fn is_not_forwarded(high: u64) -> bool {
    high == 0 || high >> 54 == 0xfe80 >> 6 || high >> 56 == 0xff
}

//! Ethernet pseudowires (RFC 4448): the frames of an attachment circuit leave under labels, and frames that arrive under the
//! label of a pseudowire leave by its attachment circuit. Between the labels and the frame there may be a control word (RFC
//! 4385, RFC 8469), and at the bottom of the stack a flow label (RFC 6391).

use super::cross_connect::{MAC_CONTROL, TAGS, arrival_tags, store_header};
use super::egress::Egress;
use super::frame::{Frame, cut_tail, load_u16, move_head, store};
use super::label::{in_use, label_stack, load_lse, special_label, store_labels};
use super::{Checked, PortView, ServiceFrame, Verdict, is_tag};
use crate::abi::{Adjacency, CrossConnect, Op, Reason, RouteEntry, TtlMode};
use crate::hash::{circuit_hash, ethernet_flow_hash};
use crate::wire::{ETH_HLEN, ETH_P_MPLS_UC, LSE_LEN, Label, Lse, VLAN_HLEN, VLAN_VID_MASK};

/// Length of the control word.
const CONTROL_WORD_LEN: usize = 4;
/// The first four bits of a control word, and of the header of an associated channel (RFC 4385 section 3, section 5).
const DATA: u32 = 0;
const ASSOCIATED_CHANNEL: u32 = 1;
/// A mask that holds every offset that is read or written here: behind the headers and labels that arrive, or that leave.
const OFFSET_MASK: usize = 127;
/// The TTL of the label of a pseudowire, which no router on the way sees.
const TTL: u8 = 255;
/// The TTL of a flow label: no router may forward a packet by it (RFC 6391 section 3).
const FLOW_LABEL_TTL: u8 = 1;

/// Takes off the label of a pseudowire and what follows it, and sends the Ethernet frame by the attachment circuit. Returns
/// the code of a verdict.
#[inline(always)]
pub fn leave_pseudowire<F: Frame, T: PortView>(frame: &mut F, tables: &T, received: ServiceFrame) -> u32 {
    leave(frame, tables, received)
        .unwrap_or_else(Verdict::Exception)
        .to_code()
}

#[inline(always)]
fn leave<F: Frame, T: PortView>(frame: &mut F, tables: &T, received: ServiceFrame) -> Checked<Verdict> {
    let lse = load_lse(frame, received.offset())?;
    let entry = tables.ilm(lse.label());
    // Another route may have taken its place.
    if entry.op() != Op::Pseudowire {
        return Err(Reason::NoRoute);
    }
    if received.ttl() == 0 {
        return Err(Reason::TtlExpired);
    }
    let (cross, encapsulation) = tables.pseudowire(entry.operand());
    let mut offset = received.offset() + LSE_LEN;
    if !lse.bottom() {
        let flow = load_lse(frame, offset)?;
        // RFC 6391 section 3: the flow label is looked at only to see whether it is a special-purpose label. The one of the
        // associated channel may be here without flow labels, too (RFC 6423).
        if flow.label().is_special() {
            return Err(special_label(flow.label(), flow.bottom()));
        }
        if !flow.bottom() || !encapsulation.has_flow_label() {
            return Err(Reason::Malformed);
        }
        offset += LSE_LEN;
    }
    let received_len = frame.len();
    let mut excess = 0;
    if encapsulation.has_control_word() {
        let word = frame.load(offset).map(u32::from_be_bytes).ok_or(Reason::Malformed)?;
        excess = control_word_excess(word, received_len - offset)?;
        offset += CONTROL_WORD_LEN;
    }
    // Keeps the verifier from processing what follows once for each path to this point.
    let (offset, excess) = (frame.opaque(offset) & OFFSET_MASK, frame.opaque(excess));
    let addresses: [u8; TAGS] = frame.load(offset).ok_or(Reason::Malformed)?;
    let ethertype = load_u16(frame, offset + TAGS).ok_or(Reason::Malformed)?;
    // RFC 4448 section 4.4.5: no such frame enters a pseudowire.
    if addresses.starts_with(&MAC_CONTROL) {
        return Err(Reason::Malformed);
    }
    if cross == CrossConnect::NOWHERE || cross.attachment().is_some() {
        return Err(Reason::NoPort);
    }
    let (mut removed, mut priority) = (0, 0);
    if encapsulation.removed_len() != 0 && is_tag(ethertype) {
        let tci = load_u16(frame, offset + ETH_HLEN).ok_or(Reason::Malformed)?;
        (removed, priority) = (VLAN_HLEN, tci & !VLAN_VID_MASK);
    }
    // Likewise.
    let (removed, priority) = (frame.opaque(removed) & VLAN_HLEN, frame.opaque(priority.into()) as u16);
    let rest = offset + TAGS + removed;
    let added = cross.added_len();
    if rest + 2 + excess > received_len {
        return Err(Reason::Malformed);
    }
    // RFC 4448 section 4.4.2.
    if received_len - excess - rest + TAGS + added > cross.longest() {
        return Err(Reason::CrossTooBig);
    }
    if cross.takes_one_buffer() && tables.settings().native_frags() && frame.is_split() {
        return Err(Reason::CrossTooBig);
    }
    move_head(frame, rest as i32 - (TAGS + added) as i32)?;
    store_header(frame, addresses, cross, priority)?;
    cut_tail(frame, excess);
    tables.count(entry.slot(), received_len);
    Ok(Verdict::Forward { port: cross.port() })
}

/// How many bytes follow the frame behind this control word, which is the first of `available` bytes. An error if the word is
/// that of something else than a whole frame.
#[inline(always)]
fn control_word_excess(word: u32, available: usize) -> Checked<usize> {
    match word >> 28 {
        DATA => {}
        ASSOCIATED_CHANNEL => return Err(Reason::Oam),
        _ => return Err(Reason::ControlWord),
    }
    // RFC 4623: a part of a frame. That takes an agreement of both ends.
    if word >> 22 & 3 != 0 {
        return Err(Reason::ControlWord);
    }
    // RFC 4385 section 3: the length of the control word and the frame, if they are so short that a link may have padded
    // them.
    let length = (word >> 16 & 0x3f) as usize;
    if length == 0 {
        return Ok(0);
    }
    if length < CONTROL_WORD_LEN + ETH_HLEN || length > available {
        return Err(Reason::Malformed);
    }
    Ok(available - length)
}

/// Puts the labels of a pseudowire in front of a frame that arrived at its attachment circuit, and sends it on. Returns the
/// code of a verdict, with [`Verdict::ENTERED`].
#[inline(always)]
pub fn enter_pseudowire<F: Frame, T: PortView>(frame: &mut F, tables: &T, received: ServiceFrame) -> u32 {
    match enter(frame, tables, received) {
        Ok(verdict) => verdict.to_code() | Verdict::ENTERED,
        Err(reason) => Verdict::Exception(reason).to_code(),
    }
}

#[inline(always)]
fn enter<F: Frame, T: PortView>(frame: &mut F, tables: &T, received: ServiceFrame) -> Checked<Verdict> {
    let index = received.attachment();
    let (entry, encapsulation) = tables.attachment(index);
    let slot = entry.slot();
    let flow = match encapsulation.has_flow_label() {
        true => ethernet_flow_hash(frame, tables.hash_seed()),
        // All frames take one path, whatever is in them.
        false => circuit_hash(index, tables.hash_seed()),
    };
    let entry = match entry.op() {
        Op::Group => tables.bucket(entry.operand(), (flow >> 24) as u8),
        _ => entry,
    };
    let entry = RouteEntry::from_bits(in_use(tables, entry.to_bits()));
    let addresses: [u8; TAGS] = frame.load(0).ok_or(Reason::Malformed)?;
    let (priority, removed) = arrival_tags(frame, encapsulation.removed_len())?;
    // Keeps the verifier from processing what follows once for each path to this point.
    let (removed, priority) = (frame.opaque(removed), frame.opaque(priority.into()) as u16);
    let flow_len = frame.opaque(LSE_LEN * usize::from(encapsulation.has_flow_label())) & LSE_LEN;
    let word_len = frame.opaque(CONTROL_WORD_LEN * usize::from(encapsulation.has_control_word())) & CONTROL_WORD_LEN;
    let tag_len = frame.opaque(encapsulation.added_len()) & VLAN_HLEN;
    // What is kept of the frame as it is, from its EtherType on.
    let kept = (TAGS + removed) & OFFSET_MASK;
    let received_len = frame.len();
    let in_front = flow_len + word_len + TAGS + tag_len;
    let unfinished = received.is_unfinished().into();
    let settings = tables.settings();
    let outer_ttl = match entry.ttl_propagate().mode(settings.ttl_mode()) {
        TtlMode::Pipe => settings.tunnel_ttl(),
        TtlMode::Uniform | TtlMode::Linux => TTL,
    };
    let stack = match entry.op() {
        Op::Label => None,
        Op::Stack => Some(label_stack(tables, entry)?),
        // There is no next hop, or only the kernel could find it: it knows no pseudowires.
        _ => return Err(Reason::NoPort),
    };
    let labels_len = stack.map_or(LSE_LEN, |(_, depth)| depth * LSE_LEN);
    let frame_len = ETH_HLEN + labels_len + in_front + received_len - kept;
    let egress = Egress::find(frame, tables, entry, frame_len, Adjacency::mpls_mtu, unfinished);
    let egress = egress.map_err(|reason| match reason {
        // RFC 4448 section 6: the frame is dropped. Nobody could be told.
        Reason::TooBig => Reason::CrossTooBig,
        reason => reason,
    })?;
    egress.begin(frame, kept, labels_len + in_front, ETH_P_MPLS_UC)?;
    let is_bottom = flow_len == 0;
    match stack {
        None => {
            let lse = Lse::new(entry.out_label(), 0, is_bottom, TTL);
            store(frame, egress.l2_len(), lse.to_bytes())?;
        }
        Some((stack, depth)) => {
            let (outer_ttl, ttl) = match stack.ttl() {
                0 => (outer_ttl, TTL),
                ttl => (ttl, ttl),
            };
            store_labels(frame, egress.l2_len(), (stack, depth), 0, outer_ttl, (is_bottom, ttl))?;
        }
    }
    // What is not there has no length: the next part is written over it.
    let at = frame.opaque(egress.l2_len() + labels_len) & OFFSET_MASK;
    store(
        frame,
        at,
        Lse::new(flow_label(flow), 0, true, FLOW_LABEL_TTL).to_bytes(),
    )?;
    // RFC 4448 section 4.6: all bits are 0. Sequence number 0 says that there are none.
    store(frame, at + flow_len, [0; CONTROL_WORD_LEN])?;
    let at = at + flow_len + word_len;
    store(frame, at, addresses)?;
    if tag_len != 0 {
        let [a, b, c, d, ..] = encapsulation.tag().to_bytes();
        store(frame, at + TAGS, [a, b, c | (priority >> 8) as u8, d])?;
    }
    tables.count(slot, received_len);
    Ok(egress.verdict())
}

/// The flow label for a flow with this hash: not a special-purpose label (RFC 6391 section 3).
#[inline(always)]
const fn flow_label(flow: u32) -> Label {
    let label = flow >> 12;
    let first = Label::FIRST_ORDINARY.get();
    let raised = first * (label < first) as u32;
    Label::from_low_bits(label | raised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flow_label_is_special() {
        for flow in [0, 1 << 12, 15 << 12, 16 << 12, u32::MAX] {
            let label = flow_label(flow);
            assert!(!label.is_special());
            assert!(flow >> 12 < 16 || label.get() == flow >> 12);
        }
    }

    #[test]
    fn a_control_word_is_that_of_a_whole_frame() {
        assert_eq!(control_word_excess(0, 64), Ok(0));
        // Flags and the sequence number are not read.
        assert_eq!(control_word_excess(0x0f00_ffff, 64), Ok(0));
        assert_eq!(control_word_excess(0x1000_0021, 64), Err(Reason::Oam));
        for nibble in 2..16 {
            assert_eq!(control_word_excess(nibble << 28, 64), Err(Reason::ControlWord));
        }
        for fragment in 1..4 {
            assert_eq!(control_word_excess(fragment << 22, 64), Err(Reason::ControlWord));
        }
        for length in 1..64 {
            let expected = match length {
                18..=50 => Ok(50 - length as usize),
                _ => Err(Reason::Malformed),
            };
            assert_eq!(control_word_excess(length << 16, 50), expected);
        }
    }
}

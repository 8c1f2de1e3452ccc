//! What labels do: local pops, swap, push, pop.

use super::egress::Egress;
use super::frame::{Frame, store};
use super::ip::Ip;
use super::service::SERVICE;
use super::{Checked, MAX_LOCAL_POPS, MAX_STACK_DEPTH, OFFSET_MASK, PortView, ServiceFrame, Verdict, arrival_port};
use crate::abi::{Adjacency, LabelStack, MAX_PUSH, Op, PortWord, Reason, RouteEntry, TcToDscp, TtlMode, TtlPropagate};
use crate::hash::flow_hash;
use crate::ip::Family;
use crate::wire::{ETH_HLEN, ETH_P_MPLS_UC, LSE_LEN, Label, Lse};

/// Pops this router's own labels, beginning with the first label at `l2_len`. Of the labels that are looked up, the first
/// `accepted` are accepted. Nothing is written yet.
#[inline(always)]
pub(super) fn pop_local<F: Frame, T: PortView>(
    frame: &F,
    tables: &T,
    accepted: usize,
    l2_len: usize,
    unfinished: usize,
    service_frame: &mut ServiceFrame,
) -> Checked<Left> {
    let mut offset = l2_len;
    // Not an `Option`, which leaves bytes undefined: the verifier does not allow copying those.
    let mut handed_down = NOT_HANDED_DOWN as u32;
    // Whether the popped labels were known to the kernel too (`THE_KERNELS`) or to this router alone (`OURS`).
    let mut payload_is = 0;
    for pops in 0..=MAX_LOCAL_POPS {
        let lse = load_lse(frame, offset)?;
        let ttl = if handed_down == NOT_HANDED_DOWN as u32 {
            lse.ttl()
        } else {
            handed_down as u8
        };
        if pops == accepted {
            return Err(Reason::LabelNotAccepted);
        }
        let (entry, family) = ilm(frame, tables, lse).inspect_err(|&reason| {
            if reason == SERVICE {
                *service_frame = ServiceFrame::labelled(ttl, offset, unfinished);
            }
        })?;
        if ttl <= 1 {
            return Err(Reason::TtlExpired);
        }
        if !matches!(entry.op(), Op::Local | Op::LocalPass) {
            let top = Top {
                lse,
                ttl,
                offset,
                unfinished,
                classes: 0,
            };
            return Ok(Left::Label(entry, top));
        }
        if pops == MAX_LOCAL_POPS {
            return Err(Reason::Malformed);
        }

        let mode = entry.ttl_propagate().mode(tables.settings().ttl_mode());
        let mut bottom = lse.bottom();
        let mut label_ttl = ttl - 1;
        offset += LSE_LEN;
        if lse.label() == Label::ENTROPY_INDICATOR {
            // RFC 6790 section 4.2: the entropy label follows its indicator and is popped with it. Its TTL and TC have
            // no meaning: the indicator's stand for the pair.
            if bottom {
                return Err(Reason::Malformed);
            }
            let entropy = load_lse(frame, offset)?;
            if entropy.label().is_special() {
                return Err(Reason::Malformed);
            }
            offset += LSE_LEN;
            bottom = entropy.bottom();
            if !bottom {
                // The pair does not count as a hop: the label beneath decrements the TTL once for both.
                label_ttl = ttl;
            }
        }
        payload_is |= match (entry.op(), lse.label()) {
            (Op::LocalPass, _) => THE_KERNELS,
            // The kernel has these built in, too.
            (_, Label::IPV4_EXPLICIT_NULL | Label::IPV6_EXPLICIT_NULL) => 0,
            _ => OURS,
        };
        tables.count(entry.slot(), frame.len());
        // Keeps the verifier from processing what follows once for each path to this point.
        offset = frame.opaque(offset) & OFFSET_MASK;
        payload_is = frame.opaque(payload_is);
        if bottom {
            if payload_is == THE_KERNELS {
                return Err(Reason::PassRoute);
            }
            let mut ip = Ip::beneath_labels(frame, offset)?;
            if family.is_some_and(|family| family != ip.family) {
                return Err(Reason::Malformed);
            }
            // This router is the egress, so the packet must not be forwarded.
            ip.refuse_lsp_ping(frame)?;
            ip.after_pop(mode, label_ttl, false)?;
            return Ok(Left::Ip(ip, lse.tc()));
        }
        handed_down = frame.opaque(match mode {
            TtlMode::Uniform => label_ttl.into(),
            TtlMode::Pipe | TtlMode::Linux => NOT_HANDED_DOWN,
        }) as u32;
    }
    Err(Reason::Malformed)
}

/// How many of the labels from `offset` on are in ranges of port `number`, up to the first one that is not. They count if
/// they can be looked up, so entropy labels do not. Special-purpose labels are accepted.
#[inline(never)]
pub(super) fn accepted_labels<F: Frame, T: PortView>(
    frame: &F,
    tables: &T,
    port: u64,
    number: u32,
    mut offset: usize,
) -> usize {
    for accepted in 0..ALL_LABELS {
        // A frame that ends here is malformed, which is found where this label is looked up.
        let Ok(lse) = load_lse(frame, offset) else {
            return ALL_LABELS;
        };
        let label = lse.label();
        if !label.is_special() && !tables.accepts_label(PortWord::from_bits(port), number, label) {
            return accepted;
        }
        let mut bottom = lse.bottom();
        offset += LSE_LEN;
        if label == Label::ENTROPY_INDICATOR && !bottom {
            bottom = load_lse(frame, offset).is_ok_and(Lse::bottom);
            offset += LSE_LEN;
        }
        if bottom {
            return ALL_LABELS;
        }
        offset = frame.opaque(offset) & OFFSET_MASK;
    }
    ALL_LABELS
}

/// As many labels as are looked up at most.
pub(super) const ALL_LABELS: usize = MAX_LOCAL_POPS + 1;

/// The kernel also has a route for a popped label. If this is the only bit set, this holds for all of them.
const THE_KERNELS: usize = 1;
/// The kernel does not know one of the popped labels.
const OURS: usize = 2;

/// No TTL of a popped label is copied down: the label beneath has its own.
pub(super) const NOT_HANDED_DOWN: usize = 256;

/// The rest of a frame after this router's own labels are popped.
pub(super) enum Left {
    Label(RouteEntry, Top),
    /// An IP packet, with its TTL as it is after the pops, and the TC of the last label.
    Ip(Ip, u8),
}

/// The ILM entry of the label of `lse`, and the one IP family that an explicit null allows beneath it. A frame for a
/// `pass` route is counted here.
#[inline(always)]
pub(super) fn ilm<F: Frame, T: PortView>(frame: &F, tables: &T, lse: Lse) -> Checked<(RouteEntry, Option<Family>)> {
    if lse.label().is_special() {
        return match lse.label() {
            Label::IPV4_EXPLICIT_NULL => Ok((EXPLICIT_NULL, Some(Family::V4))),
            Label::IPV6_EXPLICIT_NULL => Ok((EXPLICIT_NULL, Some(Family::V6))),
            Label::ENTROPY_INDICATOR => Ok((EXPLICIT_NULL, None)),
            special => Err(special_label(special, lse.bottom())),
        };
    }
    let entry = tables.ilm(lse.label());
    match entry.op() {
        Op::None => Err(Reason::NoRoute),
        Op::Pass => {
            tables.count(entry.slot(), frame.len());
            Err(Reason::PassRoute)
        }
        Op::VrfPass | Op::Pseudowire => Err(SERVICE),
        _ => Ok((entry, None)),
    }
}

/// The entry for an explicit null or an entropy label indicator on top: like a `dev lo` route, but without a route.
const EXPLICIT_NULL: RouteEntry = RouteEntry::new(Op::Local, TtlPropagate::Default, 0, 0, 0);

/// The top label, the TTL that applies to it, and its offset.
#[derive(Clone, Copy)]
pub(super) struct Top {
    pub(super) lse: Lse,
    pub(super) ttl: u8,
    pub(super) offset: usize,
    /// Not 0 if the frame must not leave as it is, because its checksum is unfinished. A number, so that the verifier
    /// does not follow both cases.
    pub(super) unfinished: usize,
    /// Not 0 if the port where the frame arrived has traffic classes. A number, likewise.
    pub(super) classes: usize,
}

/// The reason for a special-purpose label other than the nulls and the entropy label indicator.
#[inline(always)]
pub(super) fn special_label(label: Label, bottom: bool) -> Reason {
    match label {
        // RFC 3032 section 2.1: legal anywhere in the stack except at the bottom.
        Label::ROUTER_ALERT if bottom => Reason::Malformed,
        Label::ROUTER_ALERT => Reason::RouterAlert,
        Label::IMPLICIT_NULL => Reason::ImplicitNull,
        Label::GAL | Label::OAM_ALERT => Reason::Oam,
        _ => Reason::SpecialLabel,
    }
}

/// Swap, swap and push, or pop towards a next hop, counted in `slot`. The caller has checked that the TTL is at least
/// 2.
#[inline(always)]
pub(super) fn label_operation<F: Frame, T: PortView>(
    frame: &mut F,
    tables: &T,
    entry: RouteEntry,
    slot: u32,
    top: Top,
) -> Checked<Verdict> {
    // Evaluated only when needed: a swap has no TTL modes.
    let mode = || entry.ttl_propagate().mode(tables.settings().ttl_mode());
    let ttl = top.ttl - 1;
    let beneath = top.offset + LSE_LEN;
    if !top.lse.bottom() && !load_lse(frame, beneath)?.bottom() {
        find_bottom(frame, beneath + LSE_LEN)?;
    }
    let received = frame.len();
    let unlabelled = received - (beneath - ETH_HLEN);
    let egress = match entry.op() {
        Op::Label => {
            let egress = Egress::find(
                frame,
                tables,
                entry,
                unlabelled + LSE_LEN,
                Adjacency::mpls_mtu,
                top.unfinished,
            )?;
            let out = top.lse.swapped(entry.out_label(), ttl);
            egress.begin(frame, beneath, LSE_LEN, ETH_P_MPLS_UC)?;
            store(frame, egress.l2_len(), out.to_bytes())?;
            egress
        }
        Op::Stack => {
            let (stack, depth) = label_stack(tables, entry)?;
            let egress = Egress::find(
                frame,
                tables,
                entry,
                unlabelled + depth * LSE_LEN,
                Adjacency::mpls_mtu,
                top.unfinished,
            )?;
            let outer_ttl = match mode() {
                TtlMode::Pipe => tables.settings().tunnel_ttl(),
                TtlMode::Uniform | TtlMode::Linux => ttl,
            };
            egress.begin(frame, beneath, depth * LSE_LEN, ETH_P_MPLS_UC)?;
            let bottom = (top.lse.bottom(), ttl);
            store_labels(frame, egress.l2_len(), (stack, depth), top.lse.tc(), outer_ttl, bottom)?;
            egress
        }
        Op::Pop | Op::PenultimatePop if top.lse.bottom() => {
            let mut ip = Ip::beneath_labels(frame, beneath)?;
            let penultimate = entry.op() == Op::PenultimatePop;
            // RFC 8029 section 4.4: an MPLS echo request is forwarded like any other packet. The next hop is the
            // egress: it treats a request that arrives without a label as one whose label was popped here.
            ip.after_pop(mode(), ttl, penultimate)?;
            let dscps = (top.classes != 0).then(|| TcToDscp::from_bits(arrival_dscps(frame, tables)));
            ip.set_class(tables.settings(), top.lse.tc(), dscps);
            let egress = Egress::find(
                frame,
                tables,
                entry,
                ETH_HLEN + ip.kept_len,
                Adjacency::mtu,
                top.unfinished,
            )?;
            egress.begin(frame, beneath, 0, ip.family.ethertype())?;
            ip.store(frame, egress.l2_len())?;
            ip.cut_trailer(frame);
            egress
        }
        Op::Pop | Op::PenultimatePop => {
            let exposed = load_lse(frame, beneath)?;
            // RFC 3443 section 3.1: uniform copies the TTL down. RFC 3032 section 2.4.2 knows no other way for a pop.
            let exposed = if mode() == TtlMode::Uniform {
                exposed.with_ttl(ttl)
            } else {
                exposed
            };
            let egress = Egress::find(frame, tables, entry, unlabelled, Adjacency::mpls_mtu, top.unfinished)?;
            egress.begin(frame, beneath, 0, ETH_P_MPLS_UC)?;
            store(frame, egress.l2_len(), exposed.to_bytes())?;
            egress
        }
        Op::None | Op::Local | Op::LocalPass | Op::VrfPass | Op::Pass | Op::Group | Op::Protected | Op::Pseudowire => {
            return Err(Reason::NoRoute);
        }
    };
    tables.count(slot, received);
    Ok(egress.verdict())
}

/// What TCs become at the port where a frame arrived. That is found once more, and not inlined: what was known of the port
/// would have the verifier process all between once for each case.
#[inline(never)]
fn arrival_dscps<F: Frame, T: PortView>(frame: &F, tables: &T) -> u64 {
    let number = arrival_port(frame, tables);
    tables.traffic_classes(tables.port(number), number, 0)
}

/// `entry`, or the entry of its group's bucket for the flow of the labelled frame with its stack at `offset`; and of two
/// entries for a next hop and its backup, the one to use now.
#[inline(always)]
pub(super) fn one_next_hop<F: Frame, T: PortView>(
    frame: &F,
    tables: &T,
    entry: RouteEntry,
    offset: usize,
) -> RouteEntry {
    match entry.op() {
        Op::Group | Op::Protected => RouteEntry::from_bits(chosen(frame, tables, entry.to_bits(), offset)),
        _ => entry,
    }
}

/// The entry of a group's bucket, or of a next hop or its backup, as a number. Not inlined, to keep the hash and its
/// registers out of the common case.
#[inline(never)]
fn chosen<F: Frame, T: PortView>(frame: &F, tables: &T, entry: u64, offset: usize) -> u64 {
    let mut entry = RouteEntry::from_bits(entry);
    if entry.op() == Op::Group {
        let hash = flow_hash(frame, offset, tables.hash_seed());
        entry = tables.bucket(entry.operand(), (hash >> 24) as u8);
    }
    in_use(tables, entry.to_bits())
}

/// `entry`; or, if that is for a next hop whose backup has labels of its own, the entry of whichever is to be used now.
/// Not inlined, to keep the verifier from processing what follows once for each.
#[inline(never)]
pub(super) fn in_use<T: PortView>(tables: &T, entry: u64) -> u64 {
    let entry = RouteEntry::from_bits(entry);
    if entry.op() != Op::Protected {
        return entry.to_bits();
    }
    let [primary, backup] = tables.protected(entry.operand());
    match tables.is_resolved(primary.next_hop()) {
        true => primary.to_bits(),
        false => backup.to_bits(),
    }
}

#[inline(always)]
pub(super) fn load_lse<F: Frame>(frame: &F, offset: usize) -> Checked<Lse> {
    frame.load(offset).map(Lse::from_bytes).ok_or(Reason::Malformed)
}

/// Checks that a label stack entry at or after `offset`, the place of the third one, has the S bit.
#[inline(always)]
fn find_bottom<F: Frame>(frame: &F, offset: usize) -> Checked<()> {
    if has_bottom(frame, offset) {
        Ok(())
    } else {
        Err(Reason::Malformed)
    }
}

/// [`find_bottom`]'s loop. Not inlined: what the verifier learns in each turn of the loop ends with the call, so it
/// processes the code after it once, not once for each turn.
#[inline(never)]
fn has_bottom<F: Frame>(frame: &F, offset: usize) -> bool {
    for index in 0..MAX_STACK_DEPTH - 2 {
        match frame.load(offset + index * LSE_LEN) {
            Some(lse) if Lse::from_bytes(lse).bottom() => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// The labels that `entry` pushes and their number, within bounds that the verifier sees. An empty slot means no route.
#[inline(always)]
pub(super) fn label_stack<T: PortView>(tables: &T, entry: RouteEntry) -> Checked<(&LabelStack, usize)> {
    let stack = tables.label_stack(entry.operand()).ok_or(Reason::NoRoute)?;
    match stack.depth() {
        depth @ 1..=MAX_PUSH => Ok((stack, depth)),
        _ => Err(Reason::NoRoute),
    }
}

/// Stacks of up to this many labels are written without a loop; deeper ones are rare.
const SHALLOW: usize = 4;

/// Writes the labels of a stack of known depth at `offset`. `bottom` is the S bit and the TTL of the innermost label.
#[inline(always)]
pub(super) fn store_labels<F: Frame>(
    frame: &mut F,
    offset: usize,
    (stack, depth): (&LabelStack, usize),
    tc: u8,
    outer_ttl: u8,
    bottom: (bool, u8),
) -> Checked<()> {
    let last = depth - 1;
    if last < SHALLOW {
        return store_up_to::<_, SHALLOW>(frame, offset, (stack, last), tc, outer_ttl, bottom);
    }
    // Keeps the verifier from processing what follows once for each depth. A function that is not inlined would cost it
    // many times more.
    let (offset, last) = (frame.opaque(offset), frame.opaque(last));
    store_up_to::<_, MAX_PUSH>(frame, offset, (stack, last), tc, outer_ttl, bottom)
}

/// Writes the labels up to the one with index `last`, which is below `MAX`.
#[inline(always)]
fn store_up_to<F: Frame, const MAX: usize>(
    frame: &mut F,
    offset: usize,
    (stack, last): (&LabelStack, usize),
    tc: u8,
    outer_ttl: u8,
    bottom: (bool, u8),
) -> Checked<()> {
    for index in 0..MAX {
        if index > last {
            break;
        }
        let Some(label) = stack.label(index) else { break };
        let (bottom, ttl) = if index == last { bottom } else { (false, outer_ttl) };
        let ttl = ttl & stack.ttl_mask(index);
        store(
            frame,
            offset + index * LSE_LEN,
            Lse::new(label, tc, bottom, ttl).to_bytes(),
        )?;
    }
    Ok(())
}

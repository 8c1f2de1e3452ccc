//! The forwarding core: one frame and the tables in, a [`Verdict`] out. Every MPLS rule of the data plane is here,
//! once. The XDP program and the host run this same code; they differ only in their [`Frame`] and [`PortView`].
//!
//! All checks and look-ups come before the first write: a frame that is an exception, or that is left to the kernel, is
//! still as it arrived. Only [`Reason::NoHeadroom`] cannot be known in advance: making room fails then, still before
//! anything is written. The checksum of a frame for a pseudowire may be finished by then.

mod arrival;
mod cross_connect;
mod egress;
mod frame;
mod ip;
mod label;
mod pseudowire;
mod service;
mod vrf;

use crate::abi::{
    Adjacency, Checksum, CrossConnect, Domain, DscpToTc, Encapsulation, LabelStack, Op, PortWord, Reason, RouteEntry,
    Settings, SubInterfaceKey, TcToDscp, VrfWord,
};
use crate::checksum;
use crate::fib::FibLookup;
use crate::ip::{Family, Header};
use crate::wire::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, LSE_LEN, Label, Lse, VLAN_HLEN};
pub(crate) use arrival::is_tag;
pub use arrival::{Arrival, arrival_port};
use cross_connect::{cross, crossed, crossed_to};
pub use frame::Frame;
pub(crate) use frame::load_u16;
use ip::{Ip, hand_up, impose};
use label::{ALL_LABELS, Left, Top, accepted_labels, ilm, label_operation, one_next_hop, pop_local};
pub use pseudowire::{enter_pseudowire, leave_pseudowire};
use service::SERVICE;
pub use service::{Service, ServiceFrame, serve};
pub use vrf::send_in_vrf;

/// How many labels in one frame may be this router's own (`dev lo`, explicit null, entropy indicator) before another
/// look-up.
pub const MAX_LOCAL_POPS: usize = 4;
/// The longest Ethernet header: two VLAN tags.
const MAX_L2_LEN: usize = ETH_HLEN + 2 * VLAN_HLEN;
/// Masks that hold every length of an Ethernet header, and every offset of what is left after local pops.
const L2_LEN_MASK: usize = 31;
const OFFSET_MASK: usize = 63;
const _: () = assert!(MAX_L2_LEN <= L2_LEN_MASK && MAX_L2_LEN + MAX_LOCAL_POPS * 2 * LSE_LEN <= OFFSET_MASK);
/// How deep the stack of a forwarded label may be: if no bottom is found within this many entries, the frame is
/// malformed.
pub const MAX_STACK_DEPTH: usize = 64;

/// The tables that the controller wrote, as seen from the port where a frame arrived, and the counters there. The
/// tables of the XDP program and of the host implement it; `mplsxdp::dataplane::Tables` writes them.
pub trait PortView {
    fn settings(&self) -> Settings;
    /// Zero if no port has this number.
    fn port(&self, number: u32) -> PortWord;
    /// Whether a label is in one of the ranges of the port with this word and number, which are read after its word.
    fn accepts_label(&self, port: PortWord, number: u32, label: Label) -> bool;
    /// Where every frame of the port with this word and number goes, which is read after its word.
    fn cross_connect(&self, port: PortWord, number: u32) -> CrossConnect;
    /// The pseudowire with this index: where its frames leave, and what is taken off them first. [`CrossConnect::NOWHERE`] if
    /// there is no such pseudowire.
    fn pseudowire(&self, index: u32) -> (CrossConnect, Encapsulation);
    /// The pseudowire that frames of an attachment circuit enter, by the index in its [`CrossConnect`]: where it begins, and
    /// what is put in front of them. [`RouteEntry::EMPTY`] if there is none.
    fn attachment(&self, index: u32) -> (RouteEntry, Encapsulation);
    /// A word of the [`TrafficClasses`](crate::abi::TrafficClasses) of the port with this word and number; 0 if it has none.
    /// The port's word is looked at in here, because a branch outside would have the verifier follow what comes after it
    /// twice.
    fn traffic_classes(&self, port: PortWord, number: u32, index: usize) -> u64;
    /// The number of a sub-interface.
    fn sub_interface(&self, key: SubInterfaceKey) -> Option<u32>;
    /// [`RouteEntry::EMPTY`] if there is no route.
    fn ilm(&self, label: Label) -> RouteEntry;
    /// The longest match in a domain, [`RouteEntry::EMPTY`] if there is none.
    fn ftn_v4(&self, domain: Domain, destination: [u8; 4]) -> RouteEntry;
    /// Likewise.
    fn ftn_v6(&self, domain: Domain, destination: [u8; 16]) -> RouteEntry;
    fn adjacency(&self, index: u16) -> Option<Adjacency>;
    fn label_stack(&self, index: u32) -> Option<&LabelStack>;
    /// The entry of a group's bucket. [`RouteEntry::EMPTY`] if there is no such group.
    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry;
    /// What a next hop and its backup do. [`RouteEntry::EMPTY`] if there is no such pair.
    fn protected(&self, pair: u32) -> [RouteEntry; 2];
    /// Whether there is a neighbour at this adjacency.
    fn is_resolved(&self, index: u16) -> bool {
        self.adjacency(index).is_some_and(Adjacency::is_resolved)
    }
    /// The VRF with this index.
    fn vrf(&self, index: u32) -> VrfWord;
    /// Asks which way the kernel would forward the packet in `frame`, and whether it can be sent there now. `false`: only the
    /// kernel can handle it, or the kernel cannot be asked.
    fn fib<F: Frame>(&self, frame: &F, lookup: &mut FibLookup) -> bool;
    /// How frames leave by the kernel's interface with this index; `None` if it is not a port that sends.
    fn way_out(&self, ifindex: u32) -> Option<CrossConnect>;
    /// [`serve`], which a program has in functions of its own.
    fn serve<F: Frame>(&self, frame: &mut F, received: ServiceFrame) -> u32
    where
        Self: Sized,
    {
        serve(frame, self, received)
    }
    /// [`checksum::finish`], which a program has in a function of its own.
    fn finish_checksum<F: Frame>(&self, frame: &mut F) -> bool {
        checksum::finish(frame)
    }
    /// The start value of the flow hash. Routers along a path must use different ones; otherwise the second would find
    /// all flows that reach it in the same few buckets.
    fn hash_seed(&self) -> u32;
    /// A frame is likely to be counted for the route of this label. The tables may fetch the counter.
    fn expect(&self, _label: Label) {}
    /// Counts a frame of `bytes` for the route that has counter slot `slot`.
    fn count(&self, slot: u32, bytes: usize);
    /// Counts a frame of `bytes` that arrived at port `port` and is forwarded, for one of the reasons
    /// [`Reason::ChecksumFinished`] (not on ports with [`Checksum::Trust`]), [`Reason::CrossConnected`] and [`Reason::Vrf`].
    fn count_reason(&self, port: u32, reason: Reason, bytes: usize);
}

/// What happens to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Left to the kernel: untouched, or with its last label popped for this router.
    Pass,
    /// Rewritten, to be sent out of this port.
    Forward { port: u16 },
    /// Not forwarded; the frame is as it arrived. The kernel gets it if a `pass` route matched ([`Reason::PassRoute`]).
    Exception(Reason),
}

impl Verdict {
    const FORWARD: u32 = 1 << 16;
    /// In a code: the frame has entered a pseudowire, with its checksum finished if that was necessary.
    const ENTERED: u32 = 1 << 17;

    /// The verdict as one number, for a function that the XDP program calls without inlining: an enum leaves bytes
    /// undefined, and the verifier does not allow returning those.
    #[inline(always)]
    const fn to_code(self) -> u32 {
        match self {
            Self::Pass => 0,
            Self::Forward { port } => Self::FORWARD | port as u32,
            Self::Exception(reason) => reason as u32,
        }
    }

    #[inline(always)]
    fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Pass,
            code if code & Self::FORWARD != 0 => Self::Forward { port: code as u16 },
            code => Self::Exception(Reason::from_number(code as u8).unwrap_or(Reason::Malformed)),
        }
    }
}

/// A rule that ends in an exception returns the reason as an error.
type Checked<T> = Result<T, Reason>;

/// Decides what happens to `frame`. If it is forwarded, rewrites it and treats its checksum as the port's settings say.
///
/// The common cases are handled here, at offsets that the compiler knows: an untagged frame with a label that goes on to
/// a next hop, at a port that trusts checksums; and IP packets where no prefix has a route. Everything else is a call.
#[inline(always)]
pub fn forward<F: Frame, T: PortView>(frame: &mut F, tables: &T) -> Verdict {
    // Frozen by the loader: the verifier removes the code for what the port does not do.
    let trusts = tables.settings().checksum() == Checksum::Trust;
    if let Some(head) = frame.load::<{ ETH_HLEN + LSE_LEN }>(0)
        && let Some((start, rest)) = head.split_first_chunk::<8>()
        && let Some((ethertype, rest)) = rest[4..].split_first_chunk::<2>()
        && let Some(lse) = rest.first_chunk::<LSE_LEN>()
    {
        let port = tables.port(tables.settings().port());
        match u16::from_be_bytes(*ethertype) {
            ETH_P_MPLS_UC if trusts && port.is_destination(*start) && port.accepts_any_label() => {
                let lse = Lse::from_bytes(*lse);
                match switch(frame, tables, lse) {
                    Ok(Some(verdict)) => return verdict,
                    Ok(None) => {}
                    Err(SERVICE) => {
                        let service_frame = ServiceFrame::labelled(lse.ttl(), ETH_HLEN, 0);
                        return Verdict::from_code(tables.serve(frame, service_frame));
                    }
                    Err(reason) => return Verdict::Exception(reason),
                }
            }
            ethertype @ (ETH_P_IP | ETH_P_IPV6)
                if port.has(PortWord::NO_PREFIXES) && !may_be_lsp_ping(frame, Family::of(ethertype)) =>
            {
                return Verdict::Pass;
            }
            _ => {}
        }
    }
    Verdict::from_code(match trusts {
        true => forward_all(frame, tables, 0),
        false => forward_and_finish(frame, tables),
    })
}

/// Whether an untagged IP packet may be one that [`Ip::refuse_lsp_ping`] refuses: by the first bytes of its destination.
#[inline(always)]
fn may_be_lsp_ping<F: Frame>(frame: &F, family: Family) -> bool {
    match family {
        Family::V4 => frame.load::<1>(ETH_HLEN + 16).is_none_or(|first| first == [127]),
        Family::V6 => frame
            .load(ETH_HLEN + 24)
            .is_none_or(|first| u64::from_ne_bytes(first) == 0),
    }
}

/// [`forward`] at a port where checksums may be unfinished. Not inlined, like [`forward_any`].
#[inline(never)]
fn forward_and_finish<F: Frame, T: PortView>(frame: &mut F, tables: &T) -> u32 {
    let mode = tables.settings().checksum();
    // Keeps the verifier from processing what follows once for each result so far.
    let port = frame.opaque(arrival_port(frame, tables) as usize) as u32;
    let received = frame.opaque(frame.len());
    let unfinished = match mode {
        Checksum::Punt => frame.opaque(checksum::is_unfinished(frame).into()),
        Checksum::Trust | Checksum::Finish => 0,
    };
    let code = forward_all(frame, tables, unfinished);
    let code = frame.opaque(code as usize) as u32;
    let finishes = match Verdict::from_code(code) {
        // The kernel's note that the checksum is unfinished is still right.
        Verdict::Pass => false,
        Verdict::Forward { .. } => mode == Checksum::Finish && code & Verdict::ENTERED == 0,
        Verdict::Exception(reason) => tables.settings().punts(reason),
    };
    if frame.opaque(finishes.into()) != 0
        && tables.finish_checksum(frame)
        && code != Verdict::Exception(Reason::ChecksumFinished).to_code()
    {
        tables.count_reason(port, Reason::ChecksumFinished, received);
    }
    code
}

/// Forwards an untagged labelled frame that is addressed to this router, with the label stack entry `lse` on top.
/// `None` if its label is this router's own: [`forward_any`] handles those.
#[inline(always)]
fn switch<F: Frame, T: PortView>(frame: &mut F, tables: &T, lse: Lse) -> Checked<Option<Verdict>> {
    tables.expect(lse.label());
    let (entry, _) = ilm(frame, tables, lse)?;
    if matches!(entry.op(), Op::Local | Op::LocalPass) {
        return Ok(None);
    }
    if lse.ttl() <= 1 {
        return Err(Reason::TtlExpired);
    }
    let top = Top {
        lse,
        ttl: lse.ttl(),
        offset: ETH_HLEN,
        unfinished: 0,
        classes: 0,
    };
    let slot = entry.slot();
    let entry = one_next_hop(frame, tables, entry, ETH_HLEN);
    label_operation(frame, tables, entry, slot, top).map(Some)
}

/// Forwards any frame. Returns the code of the verdict.
#[inline(always)]
fn forward_all<F: Frame, T: PortView>(frame: &mut F, tables: &T, unfinished: usize) -> u32 {
    // Not a part of the code, on which the verifier would process all that comes before once for each number.
    let mut service_frame = ServiceFrame::default();
    match forward_any(frame, tables, unfinished, &mut service_frame) {
        code if code == SERVICE as u32 => {
            // Where the frame is under labels, nothing would find its checksum. Not later: the calls there are too deep for
            // the stack.
            if tables.settings().checksum() == Checksum::Finish && service_frame.is_at_attachment_circuit() {
                let received = frame.len();
                if tables.finish_checksum(frame) {
                    tables.count_reason(arrival_port(frame, tables), Reason::ChecksumFinished, received);
                }
            }
            tables.serve(frame, service_frame)
        }
        code => code,
    }
}

/// Forwards any frame, except frames of VRFs and pseudowires: for those, it ends in [`SERVICE`] and fills in
/// `service_frame`. Not inlined, to keep its size and its registers out of the common case.
#[inline(never)]
fn forward_any<F: Frame, T: PortView>(
    frame: &mut F,
    tables: &T,
    unfinished: usize,
    service_frame: &mut ServiceFrame,
) -> u32 {
    decide(frame, tables, unfinished, service_frame)
        .unwrap_or_else(Verdict::Exception)
        .to_code()
}

#[inline(always)]
fn decide<F: Frame, T: PortView>(
    frame: &mut F,
    tables: &T,
    unfinished: usize,
    service_frame: &mut ServiceFrame,
) -> Checked<Verdict> {
    let Some(start) = frame.load::<8>(0) else {
        return Ok(Verdict::Pass);
    };
    let parent = tables.port(tables.settings().port());
    if parent.has(PortWord::CROSS_CONNECT) {
        let crossed = cross(frame, tables, tables.settings().port(), start, unfinished);
        return crossed_to(crossed, unfinished, service_frame);
    }
    let Some(arrival) = Arrival::of(frame, tables) else {
        return Ok(Verdict::Pass);
    };
    if let Some(number) = crossed(tables, &arrival) {
        let crossed = cross(frame, tables, number, start, unfinished);
        return crossed_to(crossed, unfinished, service_frame);
    }
    let Some(number) = arrival.port else {
        return if arrival.ethertype == ETH_P_MPLS_UC && parent.is_destination(start) {
            Err(Reason::UnknownVlan)
        } else {
            Ok(Verdict::Pass)
        };
    };
    let port = tables.port(number);
    if !port.is_destination(start) {
        return Ok(Verdict::Pass);
    }
    // Keeps the verifier from processing what follows once for each number of tags.
    let l2_len = frame.opaque(arrival.l2_len) & L2_LEN_MASK;
    let (ip, popped) = match arrival.ethertype {
        ETH_P_MPLS_UC if port.has(PortWord::MPLS) => {
            let accepted = match port.has(PortWord::RANGES) {
                true => accepted_labels(frame, tables, port.to_bits(), number, l2_len),
                false => ALL_LABELS,
            };
            // Likewise for each of the two.
            match pop_local(frame, tables, frame.opaque(accepted), l2_len, unfinished, service_frame)? {
                Left::Label(entry, top) => {
                    let slot = entry.slot();
                    let entry = one_next_hop(frame, tables, entry, top.offset);
                    let classes = frame.opaque(port.has(PortWord::CLASSES).into());
                    return label_operation(frame, tables, entry, slot, Top { classes, ..top });
                }
                Left::Ip(mut ip, tc) => {
                    ip.set_class(
                        tables.settings(),
                        tc,
                        Some(TcToDscp::from_bits(tables.traffic_classes(port, number, 0))),
                    );
                    (ip, true)
                }
            }
        }
        ETH_P_MPLS_UC => return Err(Reason::PortDisabled),
        ETH_P_IP | ETH_P_IPV6 if port.has(PortWord::IMPOSE) => {
            let family = Family::of(arrival.ethertype);
            let ip = match Header::at(frame, l2_len).filter(|header| header.family == family) {
                Some(header) => Ip::new(frame, l2_len, header),
                // Only the kernel can say what is wrong with an invalid header.
                None if !port.has(PortWord::LOCAL) => return Ok(Verdict::Pass),
                None => return Err(Reason::Malformed),
            };
            ip.refuse_lsp_ping(frame)?;
            (ip, false)
        }
        _ => return Ok(Verdict::Pass),
    };
    let entry = ip.ftn(frame, tables, port.domain())?;
    match (entry.op(), popped) {
        // The kernel sent it here to be labelled: if it got it back, it would route it into the pair again.
        (Op::None | Op::Pass, false) if port.has(PortWord::LOCAL) => Err(Reason::NoFtn),
        (Op::None | Op::Pass, false) => {
            // A route, not one of the many entries for the kernel's own addresses.
            if entry.slot() != 0 {
                tables.count(entry.slot(), frame.len());
            }
            Ok(Verdict::Pass)
        }
        (Op::None | Op::Pass, true) => {
            if entry.slot() != 0 {
                tables.count(entry.slot(), frame.len());
            }
            // The tags stay if the kernel has a device for them.
            let l2_len = if port.has(PortWord::KERNEL_VLAN) {
                l2_len
            } else {
                ETH_HLEN
            };
            hand_up(frame, ip, l2_len)
        }
        (_, popped) => {
            let dscp = ip.dscp();
            let classes = tables.traffic_classes(port, number, 1 + DscpToTc::word(dscp));
            let tc = DscpToTc::of(classes, dscp);
            let forwarded = popped || !port.has(PortWord::LOCAL);
            impose(frame, tables, entry, ip, tc, forwarded, unfinished)
        }
    }
}

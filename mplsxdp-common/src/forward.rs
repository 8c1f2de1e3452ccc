//! The forwarding core: one frame and the tables in, a [`Verdict`] out. Every MPLS rule of the data plane is here, once. The
//! XDP program and the host run this same code; they differ only in what a [`Frame`] and the [`Tables`] are.
//!
//! All checks and look-ups come before the first write: a frame that is an exception, or the kernel's, is as it arrived. The
//! one exception to that is [`Reason::NoHeadroom`], which can only be known by trying, before anything is written.

use crate::abi::{
    Adjacency, Checksum, Domain, IlmEntry, LabelStack, MAX_PUSH, Op, PortWord, Reason, Settings, SubInterfaceKey,
    TtlMode,
};
use crate::checksum;
use crate::hash::{flow_hash, ip_flow_hash};
use crate::ip::{self, Family, Header};
use crate::wire::{
    ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, IPPROTO_HOPOPTS, IPPROTO_UDP, IPV6_HLEN,
    LSE_LEN, LSP_PING_PORT, Label, Lse, VLAN_HLEN, VLAN_VID_MASK, checksum_update,
};

/// How many labels in one frame may be this box's own (`dev lo`, explicit null, entropy indicator) before another look-up.
pub const MAX_LOCAL_POPS: usize = 4;
/// The longest Ethernet header: two VLAN tags.
const MAX_L2_LEN: usize = ETH_HLEN + 2 * VLAN_HLEN;
/// Masks that hold every length of an Ethernet header, and every offset at which what is left after local pops may stand.
const L2_LEN_MASK: usize = 31;
const OFFSET_MASK: usize = 63;
const _: () = assert!(MAX_L2_LEN <= L2_LEN_MASK && MAX_L2_LEN + MAX_LOCAL_POPS * 2 * LSE_LEN <= OFFSET_MASK);
/// How deep the stack of a label that goes on may be: where no bottom is found within this many entries, the frame is
/// malformed.
pub const MAX_STACK_DEPTH: usize = 64;

/// A frame, from the destination MAC on.
pub trait Frame {
    /// Length in bytes.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a part of it is in other buffers than the first, and can neither be read nor written.
    fn is_split(&self) -> bool;

    /// The `N` bytes at `offset`, `None` where they are not all within the frame.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Writes `bytes` at `offset`, or does nothing and returns `None` where they do not fit within the frame.
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// The ones' complement sum of the 16-bit words (RFC 1071) in the `len` bytes at `offset`, in whichever buffers; an odd last
    /// byte is followed by a zero. `None` if they are not all within the frame.
    fn sum(&self, offset: usize, len: usize) -> Option<u16>;

    /// Moves the start of the frame by `delta` bytes: forward cuts bytes off, backward puts undefined bytes in front. `None`
    /// where there is no room; the frame is then as it was.
    fn move_head(&mut self, delta: i32) -> Option<()>;

    /// Cuts `bytes` bytes off the end, at most all behind an Ethernet header. `None` if there are not as many; the frame is then as it
    /// was.
    fn cut_tail(&mut self, bytes: usize) -> Option<()>;

    /// `value`, of which the verifier is to know nothing: it then follows the code behind once for all values, not once for
    /// each. Nothing to do elsewhere.
    fn opaque(&self, value: usize) -> usize {
        value
    }
}

/// What the controller wrote, and the port at which the frame arrived.
pub trait Tables {
    fn settings(&self) -> Settings;
    /// Zero where there is none of this number.
    fn port(&self, number: u32) -> PortWord;
    /// The number of a sub-interface.
    fn sub_interface(&self, key: SubInterfaceKey) -> Option<u32>;
    /// [`IlmEntry::EMPTY`] where there is none.
    fn ilm(&self, label: Label) -> IlmEntry;
    /// Longest match in a domain, [`IlmEntry::EMPTY`] where there is none.
    fn ftn_v4(&self, domain: Domain, destination: [u8; 4]) -> IlmEntry;
    /// Likewise.
    fn ftn_v6(&self, domain: Domain, destination: [u8; 16]) -> IlmEntry;
    fn adjacency(&self, index: u16) -> Option<Adjacency>;
    fn label_stack(&self, index: u32) -> Option<&LabelStack>;
    /// What a group does with the flows of a bucket. [`IlmEntry::EMPTY`] where there is no such group.
    fn bucket(&self, group: u32, bucket: u8) -> IlmEntry;
    /// What the flow hash begins with. Routers in a row have different ones, else the second would find all flows of a next hop
    /// in the same buckets.
    fn hash_seed(&self) -> u32;
    /// Counts a frame of `bytes` for the route that has counter slot `slot`.
    fn count(&self, slot: u32, bytes: usize);
    /// Counts a frame of `bytes` that arrived at port `port` and whose checksum was finished. Not called for tables of
    /// [`Checksum::Trust`].
    fn count_finished(&self, port: u32, bytes: usize);
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The kernel's: untouched, or with its last label popped for this box.
    Pass,
    /// Rewritten, to be sent out of this port.
    Forward { port: u16 },
    /// Not forwarded; the frame is as it arrived.
    Exception(Reason),
}

impl Verdict {
    const FORWARD: u32 = 1 << 16;

    /// The verdict as one number, for a function that is a call of its own in the XDP program: an enum leaves bytes undefined,
    /// and the verifier does not let those leave a register.
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

/// Rules that end in an exception return it as an error.
type Checked<T> = Result<T, Reason>;

/// Decides on `frame` and, where it is to be forwarded, rewrites it, and finishes its checksum as the port's settings have it.
///
/// The common case is all here, at offsets that the compiler knows: an untagged frame with a label that goes on to a next hop, at
/// a port that trusts checksums. Everything else is a call.
#[inline(always)]
pub fn forward<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    // Frozen by the loader: the verifier takes out what a port does not do.
    if tables.settings().checksum() != Checksum::Trust {
        return Verdict::from_code(forward_and_finish(frame, tables));
    }
    let (Some(start), Some(ethertype)) = (frame.load::<8>(0), frame.load::<2>(12)) else {
        return Verdict::Pass;
    };
    if u16::from_be_bytes(ethertype) == ETH_P_MPLS_UC {
        let port = tables.port(tables.settings().port());
        if port.is_destination(start) && port.has(PortWord::MPLS) {
            match switch(frame, tables) {
                Ok(Some(verdict)) => return verdict,
                Ok(None) => {}
                Err(reason) => return Verdict::Exception(reason),
            }
        }
    }
    Verdict::from_code(forward_any(frame, tables, 0))
}

/// [`forward`] at a port where checksums may be unfinished. A call of its own, as [`forward_any`].
#[inline(never)]
fn forward_and_finish<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> u32 {
    let mode = tables.settings().checksum();
    // Whatever was found out so far, and whatever will be, the verifier is to follow what comes behind it once.
    let port = frame.opaque(arrival_port(frame, tables) as usize) as u32;
    let received = frame.opaque(frame.len());
    let unfinished = match mode {
        Checksum::Punt => frame.opaque(checksum::is_unfinished(frame).into()),
        Checksum::Trust | Checksum::Finish => 0,
    };
    let code = forward_any(frame, tables, unfinished);
    let code = frame.opaque(code as usize) as u32;
    let finishes = match Verdict::from_code(code) {
        // The kernel's note that the checksum is unfinished is still right.
        Verdict::Pass => false,
        Verdict::Forward { .. } => mode == Checksum::Finish,
        Verdict::Exception(reason) => tables.settings().punts(reason),
    };
    if frame.opaque(finishes.into()) != 0
        && checksum::finish(frame)
        && code != Verdict::Exception(Reason::ChecksumFinished).to_code()
    {
        tables.count_finished(port, received);
    }
    code
}

/// The number of the port or sub-interface at which a frame arrived; that of the port if its tags are of none.
#[inline(always)]
pub fn arrival_port<F: Frame, T: Tables>(frame: &F, tables: &T) -> u32 {
    let arrival = Arrival::of(frame, tables);
    arrival
        .and_then(|arrival| arrival.port)
        .unwrap_or(tables.settings().port())
}

/// An untagged labelled frame for this box. `None` where its label is this box's own, or has several next hops: that is for
/// [`forward_any`].
#[inline(always)]
fn switch<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Checked<Option<Verdict>> {
    let lse = load_lse(frame, ETH_HLEN)?;
    let (entry, _) = ilm(tables, lse)?;
    if matches!(entry.op(), Op::Local | Op::Group) {
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
    };
    label_operation(frame, tables, entry, entry.slot(), top).map(Some)
}

/// Any frame. A call of its own, which keeps its size and its registers off the common case.
#[inline(never)]
fn forward_any<F: Frame, T: Tables>(frame: &mut F, tables: &T, unfinished: usize) -> u32 {
    decide(frame, tables, unfinished)
        .unwrap_or_else(Verdict::Exception)
        .to_code()
}

#[inline(always)]
fn decide<F: Frame, T: Tables>(frame: &mut F, tables: &T, unfinished: usize) -> Checked<Verdict> {
    let (Some(start), Some(arrival)) = (frame.load::<8>(0), Arrival::of(frame, tables)) else {
        return Ok(Verdict::Pass);
    };
    let Some(number) = arrival.port else {
        let parent = tables.port(tables.settings().port());
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
    // The verifier is not to follow what comes once for each number of tags.
    let l2_len = frame.opaque(arrival.l2_len) & L2_LEN_MASK;
    let (ip, popped) = match arrival.ethertype {
        ETH_P_MPLS_UC if port.has(PortWord::MPLS) => match pop_local(frame, tables, l2_len, unfinished)? {
            Left::Label(entry, top) => {
                let slot = entry.slot();
                let entry = one_next_hop(tables, entry, || flow_hash(frame, top.offset, tables.hash_seed()));
                return label_operation(frame, tables, entry, slot, top);
            }
            Left::Ip(ip) => (ip, true),
        },
        ETH_P_MPLS_UC => return Err(Reason::PortDisabled),
        ETH_P_IP | ETH_P_IPV6 if port.has(PortWord::IMPOSE) => {
            let family = Family::of(arrival.ethertype);
            let ip = match Header::at(frame, l2_len).filter(|header| header.family == family) {
                Some(header) => Ip::new(frame, l2_len, header),
                // Only the kernel can say what is wrong with a header that is not right.
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
        // The kernel sent it here to get labels: it would route what it got back into the pair again.
        (Op::None | Op::Pass, false) if port.has(PortWord::LOCAL) => Err(Reason::NoFtn),
        (Op::None | Op::Pass, false) => Ok(Verdict::Pass),
        (Op::None | Op::Pass, true) => {
            // The tags stay on where the kernel has a device for them.
            let l2_len = if port.has(PortWord::KERNEL_VLAN) {
                l2_len
            } else {
                ETH_HLEN
            };
            hand_up(frame, ip, l2_len)
        }
        (_, popped) => impose(
            frame,
            tables,
            entry,
            ip,
            popped || !port.has(PortWord::LOCAL),
            unfinished,
        ),
    }
}

/// Where a frame arrived, and what its Ethernet header says.
#[derive(Clone, Copy)]
pub struct Arrival {
    /// The number of the port, or of its sub-interface that the frame's tags are of. `None` where they are of none.
    pub port: Option<u32>,
    /// What is behind the tags.
    pub ethertype: u16,
    /// Length of the Ethernet header with its tags.
    pub l2_len: usize,
}

impl Arrival {
    /// Of a frame as it arrived: up to two tags (RFC 3032 section 5). `None` where it is shorter than its Ethernet header.
    #[inline(always)]
    pub fn of<F: Frame, T: Tables>(frame: &F, tables: &T) -> Option<Self> {
        let port = tables.settings().port();
        let untagged = |ethertype| Self {
            port: Some(port),
            ethertype,
            l2_len: ETH_HLEN,
        };
        let outer = load_u16(frame, ETH_HLEN - 2)?;
        if !is_tag(outer) {
            return Some(untagged(outer));
        }
        let outer_vid = load_u16(frame, ETH_HLEN)? & VLAN_VID_MASK;
        let inner = load_u16(frame, ETH_HLEN + 2)?;
        let (inner_vid, ethertype, l2_len) = if is_tag(inner) {
            let inner_vid = load_u16(frame, ETH_HLEN + VLAN_HLEN)? & VLAN_VID_MASK;
            (inner_vid, load_u16(frame, ETH_HLEN + VLAN_HLEN + 2)?, MAX_L2_LEN)
        } else {
            (0, inner, ETH_HLEN + VLAN_HLEN)
        };
        // IEEE 802.1Q section 6.9: VID 0 carries a priority and no VLAN.
        let (outer_vid, inner_vid) = if outer_vid == 0 {
            (inner_vid, 0)
        } else {
            (outer_vid, inner_vid)
        };
        let port = if outer_vid == 0 {
            Some(port)
        } else {
            tables.sub_interface(SubInterfaceKey::new(port, outer_vid, inner_vid))
        };
        Some(Self {
            port,
            ethertype,
            l2_len,
        })
    }
}

pub(crate) const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD)
}

/// Pops what is this box's own, from the first label at `l2_len` on. Nothing is written yet.
#[inline(always)]
fn pop_local<F: Frame, T: Tables>(frame: &F, tables: &T, l2_len: usize, unfinished: usize) -> Checked<Left> {
    let mut offset = l2_len;
    // Not an `Option`, which leaves bytes undefined: the verifier does not let those be copied.
    let mut handed_down = NOT_HANDED_DOWN as u32;
    for pops in 0..=MAX_LOCAL_POPS {
        let lse = load_lse(frame, offset)?;
        let ttl = if handed_down == NOT_HANDED_DOWN as u32 {
            lse.ttl()
        } else {
            handed_down as u8
        };
        let (entry, family) = ilm(tables, lse)?;
        if ttl <= 1 {
            return Err(Reason::TtlExpired);
        }
        if entry.op() != Op::Local {
            let top = Top {
                lse,
                ttl,
                offset,
                unfinished,
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
            // RFC 6790 section 4.2: the entropy label follows its indicator and goes with it.
            // Its TTL and TC mean nothing: the indicator's stand for the pair.
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
                // The pair stands for no hop of its own: the label beneath takes off what this hop takes off.
                label_ttl = ttl;
            }
        }
        tables.count(entry.slot(), frame.len());
        // The verifier is not to follow what comes once for each way to get here.
        offset = frame.opaque(offset) & OFFSET_MASK;
        if bottom {
            let mut ip = Ip::beneath_labels(frame, offset)?;
            if family.is_some_and(|family| family != ip.family) {
                return Err(Reason::Malformed);
            }
            // This box is the egress: what is not for it may not go on.
            ip.refuse_lsp_ping(frame)?;
            ip.after_pop(tables.settings(), mode, label_ttl, lse.tc(), false)?;
            return Ok(Left::Ip(ip));
        }
        handed_down = frame.opaque(match mode {
            TtlMode::Uniform => label_ttl.into(),
            TtlMode::Pipe | TtlMode::Linux => NOT_HANDED_DOWN,
        }) as u32;
    }
    Err(Reason::Malformed)
}

/// No TTL of a popped label: the one beneath has its own.
const NOT_HANDED_DOWN: usize = 256;

/// What is left of a frame when this box's own labels are off.
enum Left {
    Label(IlmEntry, Top),
    /// As it is once they are off.
    Ip(Ip),
}

/// What the label of `lse` maps to, and the only family that an explicit null may have beneath it.
#[inline(always)]
fn ilm<T: Tables>(tables: &T, lse: Lse) -> Checked<(IlmEntry, Option<Family>)> {
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
        Op::None | Op::Pass => Err(Reason::NoRoute),
        _ => Ok((entry, None)),
    }
}

/// What an explicit null or an entropy label indicator on top does: as `dev lo`, without a route.
const EXPLICIT_NULL: IlmEntry = IlmEntry::new(Op::Local, crate::abi::TtlPropagate::Default, 0, 0, 0);

/// The label on top, the TTL that counts as its, and where it stands.
#[derive(Clone, Copy)]
struct Top {
    lse: Lse,
    ttl: u8,
    offset: usize,
    /// Not 0: the frame is not to leave as it is. A number, which the verifier does not follow twice.
    unfinished: usize,
}

/// What becomes of a special-purpose label other than the nulls and the entropy label indicator.
#[inline(always)]
fn special_label(label: Label, bottom: bool) -> Reason {
    match label {
        // RFC 3032 section 2.1: legal anywhere in the stack except at the bottom.
        Label::ROUTER_ALERT if bottom => Reason::Malformed,
        Label::ROUTER_ALERT => Reason::RouterAlert,
        Label::IMPLICIT_NULL => Reason::ImplicitNull,
        Label::GAL | Label::OAM_ALERT => Reason::Oam,
        _ => Reason::SpecialLabel,
    }
}

/// Swap, swap and push, or pop towards a next hop, counted in `slot`. The TTL has been found to be at least 2.
#[inline(always)]
fn label_operation<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    entry: IlmEntry,
    slot: u32,
    top: Top,
) -> Checked<Verdict> {
    // Only where it is asked for: a swap knows no modes.
    let mode = || entry.ttl_propagate().mode(tables.settings().ttl_mode());
    let ttl = top.ttl - 1;
    let beneath = top.offset + LSE_LEN;
    if !top.lse.bottom() {
        find_bottom(frame, beneath)?;
    }
    let received = frame.len();
    let unlabelled = received - (beneath - ETH_HLEN);
    let egress = match entry.op() {
        Op::Label => {
            let egress = Egress::find(frame, tables, entry, unlabelled + LSE_LEN, top.unfinished)?;
            let out = top.lse.swapped(entry.out_label(), ttl);
            egress.begin(frame, beneath, LSE_LEN, ETH_P_MPLS_UC)?;
            store(frame, egress.l2_len(), out.to_bytes())?;
            egress
        }
        Op::Stack => {
            let (stack, depth) = label_stack(tables, entry)?;
            let egress = Egress::find(frame, tables, entry, unlabelled + depth * LSE_LEN, top.unfinished)?;
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
            // RFC 8029 section 4.4: an MPLS echo request goes on like any other packet. The next hop is the egress, and takes one that
            // comes without a label for one whose label was popped here.
            ip.after_pop(tables.settings(), mode(), ttl, top.lse.tc(), penultimate)?;
            let egress = Egress::find(frame, tables, entry, ETH_HLEN + ip.kept_len, top.unfinished)?;
            egress.begin(frame, beneath, 0, ip.family.ethertype())?;
            ip.store(frame, egress.l2_len())?;
            ip.cut_trailer(frame);
            egress
        }
        Op::Pop | Op::PenultimatePop => {
            let exposed = load_lse(frame, beneath)?;
            // RFC 3443 section 3.1: uniform hands the TTL down. RFC 3032 section 2.4.2 has it no other way for a pop.
            let exposed = if mode() == TtlMode::Uniform {
                exposed.with_ttl(ttl)
            } else {
                exposed
            };
            let egress = Egress::find(frame, tables, entry, unlabelled, top.unfinished)?;
            egress.begin(frame, beneath, 0, ETH_P_MPLS_UC)?;
            store(frame, egress.l2_len(), exposed.to_bytes())?;
            egress
        }
        Op::None | Op::Local | Op::Pass | Op::Group => return Err(Reason::NoRoute),
    };
    tables.count(slot, received);
    Ok(egress.verdict())
}

/// `entry`, or what its group does with the flow of this hash.
#[inline(always)]
fn one_next_hop<T: Tables>(tables: &T, entry: IlmEntry, hash: impl FnOnce() -> u32) -> IlmEntry {
    if entry.op() == Op::Group {
        tables.bucket(entry.operand(), (hash() >> 24) as u8)
    } else {
        entry
    }
}

/// Leaves a packet whose labels are off to the kernel, behind the first `l2_len` bytes of its Ethernet header.
#[inline(always)]
fn hand_up<F: Frame>(frame: &mut F, ip: Ip, l2_len: usize) -> Checked<Verdict> {
    // Addresses and first tag, and second tag: of an untagged frame, what is behind them is written over.
    let (macs, tag) = (
        frame.load::<{ ETH_HLEN + 2 }>(0).ok_or(Reason::Malformed)?,
        frame.load::<VLAN_HLEN>(ETH_HLEN + 2).ok_or(Reason::Malformed)?,
    );
    move_head(frame, ip.offset as i32 - l2_len as i32)?;
    store(frame, 0, macs)?;
    store(frame, ETH_HLEN + 2, tag)?;
    store(frame, l2_len - 2, ip.family.ethertype().to_be_bytes())?;
    ip.store(frame, l2_len)?;
    Ok(Verdict::Pass)
}

/// Pushes the labels of an FTN entry on `ip`. `forwarded`: the packet is not this box's own, so this hop counts.
#[inline(always)]
fn impose<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    entry: IlmEntry,
    mut ip: Ip,
    forwarded: bool,
    unfinished: usize,
) -> Checked<Verdict> {
    let settings = tables.settings();
    let slot = entry.slot();
    let at = ip.offset;
    let entry = one_next_hop(tables, entry, || ip_flow_hash(frame, at, tables.hash_seed()));
    let (received, ttl) = (frame.len(), ip.ttl());
    if ttl <= forwarded as u8 {
        return Err(Reason::TtlExpired);
    }
    let ttl = ttl - forwarded as u8;
    let pipe = entry.ttl_propagate().mode(settings.ttl_mode()) == TtlMode::Pipe;
    let label_ttl = if pipe { settings.tunnel_ttl() } else { ttl };
    let tc = ip.precedence();
    let unlabelled = ETH_HLEN + ip.kept_len;
    ip.set_ttl(ttl);
    let egress = match entry.op() {
        Op::Label => {
            let egress = Egress::find(frame, tables, entry, unlabelled + LSE_LEN, unfinished)?;
            let lse = Lse::new(entry.out_label(), tc, true, label_ttl);
            egress.begin(frame, ip.offset, LSE_LEN, ETH_P_MPLS_UC)?;
            store(frame, egress.l2_len(), lse.to_bytes())?;
            ip.store(frame, egress.l2_len() + LSE_LEN)?;
            ip.cut_trailer(frame);
            egress
        }
        Op::Stack => {
            let (stack, depth) = label_stack(tables, entry)?;
            let egress = Egress::find(frame, tables, entry, unlabelled + depth * LSE_LEN, unfinished)?;
            let label_ttl = if stack.ttl() != 0 { stack.ttl() } else { label_ttl };
            egress.begin(frame, ip.offset, depth * LSE_LEN, ETH_P_MPLS_UC)?;
            store_labels(frame, egress.l2_len(), (stack, depth), tc, label_ttl, (true, label_ttl))?;
            ip.store(frame, egress.l2_len() + depth * LSE_LEN)?;
            ip.cut_trailer(frame);
            egress
        }
        _ => return Err(Reason::NoRoute),
    };
    tables.count(slot, received);
    Ok(egress.verdict())
}

/// The way out: a resolved neighbour whose link takes the packet.
struct Egress(Adjacency);

impl Egress {
    /// `frame_len` is the length of the frame as it would leave, with an Ethernet header without tags.
    #[inline(always)]
    fn find<F: Frame, T: Tables>(
        frame: &F,
        tables: &T,
        entry: IlmEntry,
        frame_len: usize,
        unfinished: usize,
    ) -> Checked<Self> {
        let mut adjacency = tables.adjacency(entry.next_hop()).ok_or(Reason::Unresolved)?;
        if !adjacency.is_resolved() {
            let backup = adjacency.backup().ok_or(Reason::Unresolved)?;
            adjacency = tables.adjacency(backup).ok_or(Reason::Unresolved)?;
            if !adjacency.is_resolved() {
                return Err(Reason::Unresolved);
            }
        }
        if frame_len > ETH_HLEN + usize::from(adjacency.mtu()) {
            return Err(Reason::TooBig);
        }
        if adjacency.takes_one_buffer() && tables.settings().native_frags() && frame.is_split() {
            return Err(Reason::TooBig);
        }
        if unfinished != 0 {
            return Err(Reason::ChecksumFinished);
        }
        Ok(Self(adjacency))
    }

    /// Length of the Ethernet header, tags included.
    #[inline(always)]
    fn l2_len(&self) -> usize {
        ETH_HLEN + self.0.tags_len_bytes()
    }

    /// Makes room for `labels_len` bytes of labels in front of what is at `payload`, and writes the Ethernet header before them.
    #[inline(always)]
    fn begin<F: Frame>(&self, frame: &mut F, payload: usize, labels_len: usize, ethertype: u16) -> Checked<()> {
        move_head(frame, payload as i32 - (self.l2_len() + labels_len) as i32)?;
        store(frame, 0, self.0.macs())?;
        if self.0.tags_len_bytes() != 0 {
            // Of one tag, what follows it is written over.
            store(frame, ETH_HLEN - 2, self.0.tags().to_bytes())?;
        }
        store(frame, self.l2_len() - 2, ethertype.to_be_bytes())
    }

    #[inline(always)]
    fn verdict(&self) -> Verdict {
        Verdict::Forward { port: self.0.port() }
    }
}

/// The part of an IP header that label switching reads and rewrites: the first 12 bytes of IPv4 (up to the checksum), the
/// first 8 of IPv6 (up to the hop limit).
struct Ip {
    family: Family,
    offset: usize,
    /// The first 8 bytes of the header, and the 4 after them.
    first: u64,
    second: u32,
    /// Length of the packet in bytes, and of the padding of a short one.
    kept_len: usize,
    /// How many more bytes follow in the frame.
    excess: usize,
}

impl Ip {
    #[inline(always)]
    fn new<F: Frame>(frame: &F, offset: usize, header: Header) -> Self {
        let available = frame.len() - offset;
        let kept_len = ip::kept_len(header.total_len, available);
        Self {
            family: header.family,
            offset,
            first: header.first,
            second: header.second,
            kept_len,
            excess: available - kept_len,
        }
    }

    /// What the last label was in front of.
    #[inline(always)]
    fn beneath_labels<F: Frame>(frame: &F, offset: usize) -> Checked<Self> {
        let header = Header::beneath_labels(frame, offset).ok_or(Reason::Malformed)?;
        Ok(Self::new(frame, offset, header))
    }

    /// Takes off what follows the packet in the frame, as Linux does: what a link's MTU has to hold is the datagram (RFC 3032
    /// section 3).
    #[inline(always)]
    fn cut_trailer<F: Frame>(&self, frame: &mut F) {
        cut_tail(frame, self.excess);
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        match self.family {
            Family::V4 => (self.second >> 24) as u8,
            Family::V6 => self.first as u8,
        }
    }

    #[inline(always)]
    fn set_ttl(&mut self, ttl: u8) {
        match self.family {
            Family::V4 => {
                let old = (self.second >> 16) as u16;
                let new = u16::from(ttl) << 8 | old & 0xff;
                self.second = u32::from(new) << 16 | self.second & 0xffff;
                self.update_checksum(old, new);
            }
            Family::V6 => self.first = self.first & !0xff | u64::from(ttl),
        }
    }

    /// The IP precedence: the top three bits of the DSCP, which the TC of imposed labels is.
    #[inline(always)]
    fn precedence(&self) -> u8 {
        (self.first >> self.precedence_at() & 7) as u8
    }

    #[inline(always)]
    fn set_precedence(&mut self, tc: u8) {
        let old = self.first >> 48;
        let at = self.precedence_at();
        self.first = self.first & !(7 << at) | u64::from(tc) << at;
        if self.family == Family::V4 {
            self.update_checksum(old as u16, (self.first >> 48) as u16);
        }
    }

    /// Where the IP precedence stands in the first 8 bytes.
    #[inline(always)]
    fn precedence_at(&self) -> u32 {
        match self.family {
            Family::V4 => 53,
            Family::V6 => 57,
        }
    }

    #[inline(always)]
    fn update_checksum(&mut self, old: u16, new: u16) {
        let checksum = checksum_update(self.second as u16, old, new);
        self.second = self.second & !0xffff | u32::from(checksum);
    }

    /// What the last pop does to the packet: `label_ttl` is the popped label's TTL less this hop.
    #[inline(always)]
    fn after_pop(
        &mut self,
        settings: Settings,
        mode: TtlMode,
        label_ttl: u8,
        tc: u8,
        penultimate: bool,
    ) -> Checked<()> {
        match mode {
            TtlMode::Uniform | TtlMode::Linux => self.set_ttl(label_ttl),
            TtlMode::Pipe if penultimate => {}
            TtlMode::Pipe if self.ttl() <= 1 => return Err(Reason::TtlExpired),
            TtlMode::Pipe => self.set_ttl(self.ttl() - 1),
        }
        if settings.tc_propagate() {
            self.set_precedence(tc);
        }
        Ok(())
    }

    /// RFC 8029 section 4.3: an MPLS echo request goes to 127/8 so that it is never forwarded as IP; a pop for this box that copies
    /// the TTL would undo the TTL of 1 that protects it too.
    #[inline(always)]
    fn refuse_lsp_ping<F: Frame>(&self, frame: &F) -> Checked<()> {
        let udp = match self.family {
            Family::V4 => {
                let destination = frame.load::<4>(self.offset + 16).ok_or(Reason::Malformed)?;
                let later_fragment = self.first & 0x1fff != 0;
                if destination[0] != 127 || (self.second >> 16) as u8 != IPPROTO_UDP || later_fragment {
                    return Ok(());
                }
                (self.first >> 56 & 0xf) as usize * 4
            }
            Family::V6 => {
                let destination = frame.load::<16>(self.offset + 24).ok_or(Reason::Malformed)?;
                if !is_v6_loopback(destination) {
                    return Ok(());
                }
                match (self.first >> 8) as u8 {
                    IPPROTO_UDP => IPV6_HLEN,
                    // Where the Router Alert option stands that RFC 8029 section 4.3 asks for.
                    IPPROTO_HOPOPTS => match frame.load::<2>(self.offset + IPV6_HLEN) {
                        Some([IPPROTO_UDP, words]) => IPV6_HLEN + 8 + usize::from(words) * 8,
                        _ => return Ok(()),
                    },
                    _ => return Ok(()),
                }
            }
        };
        match frame.load::<2>(self.offset + udp + 2) {
            Some(port) if u16::from_be_bytes(port) == LSP_PING_PORT => Err(Reason::LspPing),
            _ => Ok(()),
        }
    }

    /// What a domain of the FTN has for the packet. Nothing for one from an address that no packet may be forwarded from: the kernel
    /// drops it.
    #[inline(always)]
    fn ftn<F: Frame, T: Tables>(&self, frame: &F, tables: &T, domain: Domain) -> Checked<IlmEntry> {
        // Bounded where it is used: verifiers before 6.10 do not see that what bounds one sum with it bounds others.
        let offset = frame.opaque(self.offset) & OFFSET_MASK;
        match self.family {
            Family::V4 => {
                let [first, ..] = frame.load::<4>(offset + 12).ok_or(Reason::Malformed)?;
                // RFC 1812 section 5.3.7: this network, loopback, multicast, class E and broadcast.
                if matches!(first, 0 | 127 | 224..) {
                    return Ok(IlmEntry::EMPTY);
                }
                frame
                    .load::<4>(offset + 16)
                    .map(|destination| tables.ftn_v4(domain, destination))
            }
            Family::V6 => {
                let (high, low) = (frame.load(offset + 8), frame.load(offset + 16));
                let high = u64::from_be_bytes(high.ok_or(Reason::Malformed)?);
                let low = u64::from_be_bytes(low.ok_or(Reason::Malformed)?);
                // RFC 4291 section 2.5.2, 2.5.3, 2.5.6, 2.7: unspecified, loopback, link-local and multicast addresses.
                if high == 0 && low <= 1 || high >> 54 == 0xfe80 >> 6 || high >> 56 == 0xff {
                    return Ok(IlmEntry::EMPTY);
                }
                frame
                    .load::<16>(offset + 24)
                    .map(|destination| tables.ftn_v6(domain, destination))
            }
        }
        .ok_or(Reason::Malformed)
    }

    /// Writes the changed bytes where the header now begins.
    #[inline(always)]
    fn store<F: Frame>(&self, frame: &mut F, offset: usize) -> Checked<()> {
        store(frame, offset, self.first.to_be_bytes())?;
        match self.family {
            Family::V4 => store(frame, offset + 8, self.second.to_be_bytes()),
            Family::V6 => Ok(()),
        }
    }
}

/// `::1`, or IPv4 loopback mapped (RFC 8029 section 4.3).
fn is_v6_loopback(address: [u8; 16]) -> bool {
    let value = u128::from_be_bytes(address);
    value == 1 || value >> 24 == 0x00ff_ff7f
}

#[inline(always)]
pub(crate) fn load_u16<F: Frame>(frame: &F, offset: usize) -> Option<u16> {
    frame.load(offset).map(u16::from_be_bytes)
}

#[inline(always)]
fn load_lse<F: Frame>(frame: &F, offset: usize) -> Checked<Lse> {
    frame.load(offset).map(Lse::from_bytes).ok_or(Reason::Malformed)
}

/// That a label stack entry at or after `offset`, where the second one stands, has the S bit.
#[inline(always)]
fn find_bottom<F: Frame>(frame: &F, offset: usize) -> Checked<()> {
    if has_bottom(frame, offset) {
        Ok(())
    } else {
        Err(Reason::Malformed)
    }
}

/// [`find_bottom`]'s loop. Not inlined: what the verifier learns in each turn of the loop
/// ends with the call, so it follows what comes after it once, not once for each turn.
#[inline(never)]
fn has_bottom<F: Frame>(frame: &F, offset: usize) -> bool {
    for index in 0..MAX_STACK_DEPTH - 1 {
        match frame.load(offset + index * LSE_LEN) {
            Some(lse) if Lse::from_bytes(lse).bottom() => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// The labels that `entry` pushes and how many they are, within bounds that the verifier sees. An empty slot is no route.
#[inline(always)]
fn label_stack<T: Tables>(tables: &T, entry: IlmEntry) -> Checked<(&LabelStack, usize)> {
    let stack = tables.label_stack(entry.operand()).ok_or(Reason::NoRoute)?;
    match stack.depth() {
        depth @ 1..=MAX_PUSH => Ok((stack, depth)),
        _ => Err(Reason::NoRoute),
    }
}

/// Writes the labels of a stack of known depth at `offset`. `bottom` is the S bit and the TTL of the innermost.
#[inline(always)]
fn store_labels<F: Frame>(
    frame: &mut F,
    offset: usize,
    (stack, depth): (&LabelStack, usize),
    tc: u8,
    outer_ttl: u8,
    bottom: (bool, u8),
) -> Checked<()> {
    let last = depth - 1;
    for index in 0..MAX_PUSH {
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

#[inline(always)]
fn move_head<F: Frame>(frame: &mut F, delta: i32) -> Checked<()> {
    if delta == 0 {
        Ok(())
    } else {
        frame.move_head(delta).ok_or(Reason::NoHeadroom)
    }
}

/// A call of its own: what the verifier learns of `bytes` ends with it.
#[inline(never)]
fn cut_tail<F: Frame>(frame: &mut F, bytes: usize) {
    if bytes != 0 {
        // There are as many, so it cannot fail.
        let _ = frame.cut_tail(bytes);
    }
}

/// Writes within what was checked before: the error is the verifier's, no frame meets it.
#[inline(always)]
fn store<F: Frame, const N: usize>(frame: &mut F, offset: usize, bytes: [u8; N]) -> Checked<()> {
    frame.store(offset, bytes).ok_or(Reason::NoHeadroom)
}

//! Asks the forwarding core what to do with a frame now, and notes which entries it used. The frame is a scratch copy,
//! which the core rewrites if the frame is to be forwarded.

use std::cell::Cell;

use mplsxdp_common::abi::{
    Adjacency, CrossConnect, Domain, Encapsulation, LabelStack, Op, PortWord, Reason, RouteEntry, Settings,
    SubInterfaceKey, TtlMode, VrfWord,
};
use mplsxdp_common::fib::FibLookup;
use mplsxdp_common::forward::{Frame, PortView, Verdict, forward};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_MPLS_UC, LSE_LEN, Label, Lse, Mac};

use super::packet::{Parts, entries, is_labelled};
use crate::dataplane::frame::MemoryFrame;

/// A frame as it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received<'a> {
    /// Where it arrived.
    pub port: u16,
    /// From the destination MAC address on.
    pub frame: &'a [u8],
    /// How many bytes are missing at the end: before Linux 6.6 the kernel hands up only what fits one chunk of the
    /// socket's memory.
    pub trimmed: usize,
}

/// The forwarding core's decision, and the reason.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub verdict: Verdict,
    /// The label that was looked up last.
    pub label: Option<Label>,
    /// The adjacency that was looked up last: the one in use.
    pub adjacency: Option<u16>,
    /// The adjacency of the next hop that the route or bucket names: the same one, or the one that it is the backup of.
    pub next_hop: Option<u16>,
    /// The bucket of the frame's flow, if its route has several next hops.
    pub bucket: Option<u8>,
    /// The frame had a Router Alert label on top, and was forwarded by the label beneath.
    pub router_alert: bool,
    /// The frame goes into a pseudowire, or that label is that of one: an Ethernet frame is beneath.
    pub is_pseudowire: bool,
}

impl Answer {
    /// Why the program would hand the frame up now.
    pub fn reason(&self) -> Option<Reason> {
        match self.verdict {
            Verdict::Exception(reason) => Some(reason),
            Verdict::Forward { .. } | Verdict::Pass => self.router_alert.then_some(Reason::RouterAlert),
        }
    }

    /// The adjacency of the backup, if that was looked up.
    pub fn backup(&self) -> Option<u16> {
        self.adjacency.filter(|_| self.adjacency != self.next_hop)
    }
}

/// What the core decides for `frame` at a port with `tables`.
pub fn ask<T: PortView>(frame: &mut MemoryFrame, tables: &T) -> Answer {
    ask_noted(frame, &Noted::new(tables))
}

/// The same for another port than that of `tables`.
pub fn ask_at<T: PortView>(frame: &mut MemoryFrame, tables: &T, port: PortWord) -> Answer {
    let noted = Noted {
        port,
        ..Noted::new(tables)
    };
    ask_noted(frame, &noted)
}

/// The same as [`ask`], as if the frame's flow fell into `bucket`, if that is given.
pub fn ask_in_bucket<T: PortView>(frame: &mut MemoryFrame, tables: &T, bucket: Option<u8>) -> Answer {
    let noted = Noted {
        given: bucket,
        ..Noted::new(tables)
    };
    ask_noted(frame, &noted)
}

/// What the core decides for `packet` under one label of this machine's own, whose entry is `entry`: so an entry of the FTN
/// imposes its labels on a packet of this machine that no prefix leads to. `frame` becomes that frame.
pub fn ask_imposed<T: PortView>(frame: &mut MemoryFrame, packet: &[u8], entry: RouteEntry, tables: &T) -> Answer {
    const OWN: Mac = Mac([2, 0, 0, 0, 0, 0]);
    const LABEL: Label = Label::from_low_bits(16);
    let lse = Lse::new(LABEL, 0, true, u8::MAX);
    frame.refill(
        [
            &OWN.0,
            &Mac::ZERO.0,
            &ETH_P_MPLS_UC.to_be_bytes(),
            &lse.to_bytes(),
            packet,
        ],
        0,
    );
    let noted = Noted {
        port: PortWord::new(OWN, PortWord::MPLS),
        imposed: Some(entry),
        ..Noted::new(tables)
    };
    ask_noted(frame, &noted)
}

fn ask_noted<T: PortView>(frame: &mut MemoryFrame, noted: &Noted<'_, T>) -> Answer {
    Answer {
        verdict: forward(frame, noted),
        label: noted.label.get(),
        adjacency: noted.adjacency.get(),
        next_hop: noted.next_hop.get(),
        bucket: noted.bucket.get(),
        router_alert: false,
        is_pseudowire: noted.is_pseudowire.get(),
    }
}

/// The core's decision for a frame that arrived. Below a Router Alert label, the label beneath decides. Afterwards
/// `scratch` has the frame as it should leave.
pub fn ask_of_received<T: PortView>(scratch: &mut MemoryFrame, received: Received<'_>, tables: &T) -> Answer {
    ask_and_beneath_alert(scratch, received, tables, false)
}

/// The same, ignoring the next hop's MTUs; also returns the next hop.
pub fn ask_of_any_length<T: PortView>(
    scratch: &mut MemoryFrame,
    received: Received<'_>,
    tables: &T,
) -> (Answer, Adjacency) {
    let answer = ask_and_beneath_alert(scratch, received, tables, true);
    let used = answer.adjacency.and_then(|index| tables.adjacency(index));
    (answer, used.unwrap_or_default())
}

fn ask_and_beneath_alert<T: PortView>(
    scratch: &mut MemoryFrame,
    received: Received<'_>,
    tables: &T,
    any_length: bool,
) -> Answer {
    let noted = || Noted {
        any_length,
        ..Noted::new(tables)
    };
    scratch.refill([received.frame], received.trimmed);
    let answer = ask_noted(scratch, &noted());
    if answer.verdict == Verdict::Exception(Reason::RouterAlert) {
        ask_beneath_alert(scratch, received, &noted())
    } else {
        answer
    }
}

/// RFC 3032 section 2.1: the label beneath the Router Alert label says where the packet goes, and the alert is pushed
/// back on top of it. The alert does not count as a hop: in uniform mode its TTL is copied to the label beneath, and it
/// leaves with the TTL of that label. If no label is left, the alert is dropped too: it must not be the last label.
fn ask_beneath_alert<T: PortView>(scratch: &mut MemoryFrame, received: Received<'_>, noted: &Noted<'_, T>) -> Answer {
    let found = Parts::of(received.frame).and_then(|parts| {
        let mut stack = entries(parts.stack);
        let depth = stack.position(|lse| lse.label() == Label::ROUTER_ALERT)?;
        let alert = entries(parts.stack).nth(depth)?;
        Some((alert, stack.next()?, ETH_HLEN + depth * LSE_LEN))
    });
    let mut answer = Answer {
        verdict: Verdict::Exception(Reason::Malformed),
        label: Some(Label::ROUTER_ALERT),
        adjacency: None,
        next_hop: None,
        bucket: None,
        router_alert: true,
        is_pseudowire: false,
    };
    let Some((alert, beneath, offset)) = found else {
        return answer;
    };
    let (Some(before), Some(after)) = (received.frame.get(..offset), received.frame.get(offset + LSE_LEN..)) else {
        return answer;
    };
    scratch.refill([before, after], received.trimmed);
    // Beneath a label for this machine, the TTL is the one that the label copies down.
    if offset == ETH_HLEN {
        if alert.ttl() <= 1 {
            answer.verdict = Verdict::Exception(Reason::TtlExpired);
            return answer;
        }
        if noted.settings().ttl_mode() == TtlMode::Uniform {
            scratch.store(offset, beneath.with_ttl(alert.ttl()).to_bytes());
        }
    }
    answer = Answer {
        router_alert: true,
        ..ask_noted(scratch, noted)
    };
    match answer.verdict {
        Verdict::Exception(Reason::RouterAlert) => answer.verdict = Verdict::Exception(Reason::Malformed),
        Verdict::Forward { .. } if is_labelled(scratch.bytes()) => {
            if let Err(reason) = push_back(scratch, alert, answer.adjacency, noted) {
                answer.verdict = Verdict::Exception(reason);
            }
        }
        Verdict::Pass | Verdict::Forward { .. } | Verdict::Exception(_) => {}
    }
    answer
}

/// Puts `alert` on top of the stack of a frame before it leaves, with the TTL of the label beneath it.
fn push_back<T: PortView>(
    frame: &mut MemoryFrame,
    alert: Lse,
    adjacency: Option<u16>,
    tables: &T,
) -> Result<(), Reason> {
    let adjacency = adjacency
        .and_then(|index| tables.adjacency(index))
        .ok_or(Reason::Unresolved)?;
    if frame.len() + LSE_LEN > ETH_HLEN + usize::from(adjacency.mpls_mtu()) {
        return Err(Reason::TooBig);
    }
    let pushed = |frame: &mut MemoryFrame| {
        let ethernet = frame.load::<ETH_HLEN>(0)?;
        let top = Lse::from_bytes(frame.load(ETH_HLEN)?);
        frame.move_head(-(LSE_LEN as i32))?;
        frame.store(0, ethernet)?;
        frame.store(ETH_HLEN, alert.with_ttl(top.ttl()).to_bytes())
    };
    pushed(frame).ok_or(Reason::NoHeadroom)
}

/// A PortView that notes what the core asks for, and may change some of the answers. Frames of the slow path do not count for their routes: those counters
/// belong to the fast path.
struct Noted<'a, T> {
    tables: &'a T,
    port: PortWord,
    label: Cell<Option<Label>>,
    is_pseudowire: Cell<bool>,
    adjacency: Cell<Option<u16>>,
    /// A frame has one next hop: the one looked up after it is its backup.
    next_hop: Cell<Option<u16>>,
    /// A frame has one group, too.
    bucket: Cell<Option<u8>>,
    /// The bucket to use, whatever the flow is.
    given: Option<u8>,
    /// Next hops take frames of any length.
    any_length: bool,
    /// The entry of every label, in place of the tables'.
    imposed: Option<RouteEntry>,
}

impl<'a, T: PortView> Noted<'a, T> {
    fn new(tables: &'a T) -> Self {
        Self {
            tables,
            port: tables.port(tables.settings().port()),
            label: Cell::new(None),
            is_pseudowire: Cell::new(false),
            adjacency: Cell::new(None),
            next_hop: Cell::new(None),
            bucket: Cell::new(None),
            given: None,
            any_length: false,
            imposed: None,
        }
    }
}

impl<T: PortView> PortView for Noted<'_, T> {
    fn settings(&self) -> Settings {
        self.tables.settings()
    }

    fn port(&self, _number: u32) -> PortWord {
        self.port
    }

    fn accepts_label(&self, port: PortWord, number: u32, label: Label) -> bool {
        self.tables.accepts_label(port, number, label)
    }

    fn cross_connect(&self, port: PortWord, number: u32) -> CrossConnect {
        self.tables.cross_connect(port, number)
    }

    fn pseudowire(&self, index: u32) -> (CrossConnect, Encapsulation) {
        self.tables.pseudowire(index)
    }

    fn attachment(&self, index: u32) -> (RouteEntry, Encapsulation) {
        self.is_pseudowire.set(true);
        self.tables.attachment(index)
    }

    fn traffic_classes(&self, port: PortWord, number: u32, index: usize) -> u64 {
        self.tables.traffic_classes(port, number, index)
    }

    fn sub_interface(&self, key: SubInterfaceKey) -> Option<u32> {
        self.tables.sub_interface(key)
    }

    fn ilm(&self, label: Label) -> RouteEntry {
        let entry = self.imposed.unwrap_or_else(|| self.tables.ilm(label));
        self.label.set(Some(label));
        self.is_pseudowire.set(entry.op() == Op::Pseudowire);
        entry
    }

    fn ftn_v4(&self, domain: Domain, destination: [u8; 4]) -> RouteEntry {
        self.tables.ftn_v4(domain, destination)
    }

    fn ftn_v6(&self, domain: Domain, destination: [u8; 16]) -> RouteEntry {
        self.tables.ftn_v6(domain, destination)
    }

    fn adjacency(&self, index: u16) -> Option<Adjacency> {
        self.adjacency.set(Some(index));
        self.next_hop.set(self.next_hop.get().or(Some(index)));
        let adjacency = self.tables.adjacency(index)?;
        Some(match self.any_length {
            true => adjacency.with_mtu(u16::MAX),
            false => adjacency,
        })
    }

    fn label_stack(&self, index: u32) -> Option<&LabelStack> {
        self.tables.label_stack(index)
    }

    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry {
        let bucket = self.given.unwrap_or(bucket);
        self.bucket.set(Some(bucket));
        self.tables.bucket(group, bucket)
    }

    fn protected(&self, pair: u32) -> [RouteEntry; 2] {
        self.tables.protected(pair)
    }

    fn vrf(&self, index: u32) -> VrfWord {
        self.tables.vrf(index)
    }

    fn fib<F: Frame>(&self, frame: &F, lookup: &mut FibLookup) -> bool {
        self.tables.fib(frame, lookup)
    }

    fn way_out(&self, ifindex: u32) -> Option<CrossConnect> {
        self.tables.way_out(ifindex)
    }

    fn hash_seed(&self) -> u32 {
        self.tables.hash_seed()
    }

    fn count(&self, _slot: u32, _bytes: usize) {}

    fn count_reason(&self, _port: u32, _reason: Reason, _bytes: usize) {}
}

//! The slow path handles frames that the fast path could not forward. Its input is a frame as it arrived; its output is
//! actions. Only [`xsk`], which receives the frames, uses sockets or clocks.
//!
//! It does not rely on the reason for which a frame came up: `ask` runs the forwarding core on a copy of it, so that
//! changes in the meantime count (such as a MAC address that is known by now). `answer` sends ICMP errors, which
//! [`icmp`] builds if `packet` allows them and `limit` has room; [`oam`] answers MPLS echo requests; `too_big`
//! fragments; `hold` keeps frames for next hops; [`unknown`] tracks the labels without a route; [`outcome`] counts.
//! [`rehearsal`] finds out what would be done, without doing it.

mod answer;
mod ask;
#[cfg(any(test, feature = "test-support"))]
pub mod fixture;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod hold;
pub mod icmp;
mod limit;
pub mod oam;
pub mod outcome;
pub mod packet;
pub mod rehearsal;
#[cfg(test)]
mod tests;
mod too_big;
pub mod unknown;
pub mod xsk;

use std::convert::identity;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ipnet::IpNet;
use mplsxdp_common::abi::Reason;
use mplsxdp_common::forward::{self, PortView as _, Verdict};
use serde::{Deserialize, Serialize};

use crate::dataplane::frame::MemoryFrame;
use answer::Answerer;
pub use ask::Received;
use ask::{Answer, ask_of_any_length, ask_of_received};
use hold::{Held, Hold};
use icmp::Error;
pub use limit::Rate;
use oam::responder::{Responder, is_request};
use outcome::{Counters, Outcome};
use too_big::Remedy;
use unknown::UnknownLabels;

/// The path of ICMP errors about labelled packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IcmpVia {
    /// Along the LSP if there was more than one label or this machine has no route to the source, else by IP.
    #[default]
    Auto,
    /// Along the LSP (RFC 3032 section 2.3.2).
    Lsp,
    /// By IP from this machine.
    Ip,
}

/// What the slow path may know about this machine.
pub trait World {
    type View<'a>: forward::PortView
    where
        Self: 'a;

    /// The tables as the program of `port` sees them. Nothing is counted in them.
    fn tables_at(&self, port: u16) -> Self::View<'_>;

    /// The address of this machine to answer `remote` from, for a packet that arrived at `port`: an address of the same
    /// family, of the interface or as configured. `None` if there is none.
    fn source_address(&self, port: u16, remote: IpAddr) -> Option<IpAddr>;

    /// Whether `address` is the broadcast address of a network of this machine, for a packet that arrived at `port`.
    fn is_broadcast(&self, port: u16, address: IpAddr) -> bool;

    /// Whether the kernel has a route to `destination`, other than a default route, for a packet that arrived at
    /// `port`.
    fn has_specific_route(&self, port: u16, destination: IpAddr) -> bool;

    /// Whether `address` is one of this machine's.
    fn is_own_address(&self, address: IpAddr) -> bool;

    /// Whether `prefix` is the network of an address of this machine, or such an address alone, in the VRF of `port`.
    fn is_own_prefix(&self, port: u16, prefix: IpNet) -> bool;

    /// The address of the next hop in this slot of the adjacency table. `None` if it has none but a MAC address.
    fn next_hop_address(&self, adjacency: u16) -> Option<IpAddr>;

    /// The time of day, since the Unix epoch.
    fn time_since_epoch(&self) -> Duration;
}

/// Carries out an action. Returns whether that worked; what happens to the packet later is not known.
pub type Emit<'a> = dyn FnMut(Action<'_>) -> bool + 'a;

/// Something that must be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action<'a> {
    /// Send `frame`, including its Ethernet header, out of `port`.
    Transmit { port: u16, frame: &'a [u8] },
    /// Send `packet`, an IP packet of this machine, as the kernel routes it, in the VRF of `port` if it is in one. The
    /// FTN has no entry for it.
    SendByIp { port: u16, packet: &'a [u8] },
    /// Make the kernel receive `frame`, including its Ethernet header, at `port`: an IP packet that arrived with labels
    /// which ended here, for the kernel to deliver or route; or a labelled frame for a `pass` route.
    Deliver { port: u16, frame: &'a [u8] },
    /// Resolve the next hop in this slot of the adjacency table: frames wait for it.
    Resolve { adjacency: u16 },
    /// Log a label without a route.
    Report(unknown::Report),
    /// Report to those who watch what happened to a frame, or that it is held.
    Handled(Received<'a>, Handled),
}

/// What happened to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handled {
    /// Why the program would hand it up now; `None` if the obstacle is gone.
    pub reason: Option<Reason>,
    pub outcome: Outcome,
}

/// How the slow path behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    pub icmp_via: IcmpVia,
    /// ICMP errors to all.
    pub icmp_rate: Rate,
    /// ICMP errors to one source.
    pub icmp_source_rate: Rate,
    /// How many frames may wait for one next hop.
    pub hold_frames: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            icmp_via: IcmpVia::Auto,
            icmp_rate: Rate {
                per_second: 1000,
                burst: 50,
            },
            icmp_source_rate: Rate {
                per_second: 100,
                burst: 50,
            },
            hold_frames: 64,
        }
    }
}

/// The slow path's state.
#[derive(Debug)]
pub struct SlowPath {
    answerer: Answerer,
    responder: Responder,
    hold: Hold,
    unknown: UnknownLabels,
    counters: Counters,
    /// Somebody watches what happens to each frame.
    is_watched: bool,
    scratch: MemoryFrame,
    fragment: Vec<u8>,
}

impl SlowPath {
    pub fn new(options: Options) -> Self {
        Self {
            answerer: Answerer::new(options),
            responder: Responder::default(),
            hold: Hold::new(options.hold_frames),
            unknown: UnknownLabels::default(),
            counters: Counters::default(),
            is_watched: false,
            scratch: MemoryFrame::default(),
            fragment: Vec::new(),
        }
    }

    /// Handles a frame that came up.
    pub fn receive<W: World>(&mut self, received: Received<'_>, world: &W, now: Instant, emit: &mut Emit<'_>) {
        let answer = ask_of_received(&mut self.scratch, received, &world.tables_at(received.port));
        if answer.router_alert {
            self.counters.count(Outcome::RouterAlert);
        }
        match (answer.verdict, answer.next_hop) {
            (Verdict::Forward { .. } | Verdict::Exception(Reason::TooBig), Some(adjacency))
                if self.hold.waiting_for(adjacency) > 0 =>
            {
                // Earlier frames leave first.
                self.release(world, now, emit, |held| held.adjacency == adjacency);
                let again = ask_of_received(&mut self.scratch, received, &world.tables_at(received.port));
                self.conclude(received, again, Outcome::Forwarded, world, now, emit);
            }
            (Verdict::Exception(Reason::Unresolved), Some(adjacency)) if !answer.is_pseudowire => {
                self.wait(received, &answer, adjacency, now, emit);
            }
            _ => self.conclude(received, answer, Outcome::Forwarded, world, now, emit),
        }
    }

    /// Call when next hops or routes have changed: sends what no longer needs to wait.
    pub fn retry_held<W: World>(&mut self, world: &W, now: Instant, emit: &mut Emit<'_>) {
        self.release(world, now, emit, |held| {
            let tables = world.tables_at(held.port);
            // A next hop that is not resolved keeps its adjacency.
            let mut awaited = std::iter::once(held.adjacency).chain(held.backup);
            awaited.any(|index| tables.is_resolved(index))
        });
    }

    /// Call when routes have changed, or flows have moved to other next hops: sends what no longer needs to wait,
    /// whatever it waited for. The rest waits for its current next hop.
    pub fn retry_all_held<W: World>(&mut self, world: &W, now: Instant, emit: &mut Emit<'_>) {
        self.release(world, now, emit, |_| true);
    }

    /// Call at [`SlowPath::next_deadline`]: gives up on frames that have waited too long.
    pub fn poll<W: World>(&mut self, world: &W, now: Instant, emit: &mut Emit<'_>) {
        while let Some(held) = self.hold.pop_expired(now) {
            let received = of_held(&held);
            // Its route may have changed.
            let answer = ask_of_received(&mut self.scratch, received, &world.tables_at(held.port));
            if answer.verdict == Verdict::Exception(Reason::Unresolved) {
                self.counters.count(Outcome::HoldExpired);
            }
            self.conclude(received, answer, Outcome::Released, world, now, emit);
            self.hold.recycle(held);
        }
    }

    /// When [`SlowPath::poll`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.hold.next_deadline()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn unknown_labels(&self) -> &UnknownLabels {
        &self.unknown
    }

    /// Call when ports have been removed: their numbers may soon be reused.
    pub fn keep_ports(&mut self, is_port: impl Fn(u16) -> bool) {
        self.unknown.keep_ports(is_port);
    }

    /// How many frames wait for next hops now.
    pub fn held(&self) -> usize {
        self.hold.len()
    }

    /// Counts a frame that was handled elsewhere.
    pub fn count(&mut self, outcome: Outcome) {
        self.counters.count(outcome);
    }

    /// From now on, what happens to each frame is reported, or no longer.
    pub fn watch(&mut self, is_watched: bool) {
        self.is_watched = is_watched;
    }

    /// Counts what happened to a frame.
    fn end(&mut self, received: Received<'_>, answer: &Answer, outcome: Outcome, emit: &mut Emit<'_>) {
        self.counters.count(outcome);
        if self.is_watched {
            let reason = answer.reason();
            emit(Action::Handled(received, Handled { reason, outcome }));
        }
    }

    /// Keeps a frame for a next hop that is not resolved.
    fn wait(&mut self, received: Received<'_>, answer: &Answer, adjacency: u16, now: Instant, emit: &mut Emit<'_>) {
        if received.trimmed > 0 {
            return self.end(received, answer, Outcome::Trimmed, emit);
        }
        let backup = answer.backup();
        let first = self.hold.waiting_for(adjacency) == 0;
        if !self.hold.push(adjacency, backup, received.port, received.frame, now) {
            return self.end(received, answer, Outcome::HoldFull, emit);
        }
        self.end(received, answer, Outcome::Held, emit);
        if first {
            resolve(adjacency, backup, emit);
        }
    }

    /// Sends, in order, the held frames for which `choose` is true and that no longer need to wait.
    fn release<W: World>(&mut self, world: &W, now: Instant, emit: &mut Emit<'_>, choose: impl Fn(&Held) -> bool) {
        for _ in 0..self.hold.len() {
            let Some(mut held) = self.hold.pop() else { break };
            if !choose(&held) {
                self.hold.put_back(held);
                continue;
            }
            let received = of_held(&held);
            let answer = ask_of_received(&mut self.scratch, received, &world.tables_at(held.port));
            if let (Verdict::Exception(Reason::Unresolved), Some(adjacency)) = (answer.verdict, answer.next_hop) {
                // Its route may have another next hop than on arrival.
                let is_first = adjacency != held.adjacency && self.hold.waiting_for(adjacency) == 0;
                (held.adjacency, held.backup) = (adjacency, answer.backup());
                self.hold.put_back(held);
                if is_first {
                    resolve(adjacency, answer.backup(), emit);
                }
                continue;
            }
            self.conclude(received, answer, Outcome::Released, world, now, emit);
            self.hold.recycle(held);
        }
    }

    /// Does what `answer` requires, and counts it. The frame as it leaves is in the scratch copy.
    fn conclude<W: World>(
        &mut self,
        received: Received<'_>,
        answer: Answer,
        forwarded: Outcome,
        world: &W,
        now: Instant,
        emit: &mut Emit<'_>,
    ) {
        let outcome = match answer.verdict {
            // RFC 5085 section 5.1.2: the alert makes it a packet of the control channel.
            _ if answer.is_pseudowire && answer.router_alert => Outcome::Oam,
            // Nothing but the program puts frames into pseudowires and takes them out. The route or the next hop may be new.
            Verdict::Forward { .. } | Verdict::Exception(Reason::Unresolved) if answer.is_pseudowire => {
                Outcome::NotHandled
            }
            // Nobody sent an IP packet here.
            Verdict::Exception(Reason::TtlExpired) if answer.is_pseudowire => Outcome::NoAnswerDue,
            Verdict::Forward { .. } | Verdict::Pass if self.scratch.trimmed() > 0 => Outcome::Trimmed,
            Verdict::Forward { port } => {
                let frame = self.scratch.bytes();
                match emit(Action::Transmit { port, frame }) {
                    true => forwarded,
                    false => Outcome::NotSent,
                }
            }
            Verdict::Pass => self.deliver(received, emit),
            Verdict::Exception(reason) => match reason {
                // RFC 8029 section 4.3: a traceroute of the LSP.
                Reason::TtlExpired if is_echo_request(received) => self.respond(received, world, now, emit),
                Reason::TtlExpired => {
                    let answered = self.answerer.answer(Error::TimeExceeded, received, world, now, emit);
                    answered.map_or_else(identity, |()| Outcome::TimeExceeded)
                }
                Reason::Unresolved => {
                    let answered = self.answerer.answer(Error::HostUnreachable, received, world, now, emit);
                    answered.map_or_else(identity, |()| Outcome::HostUnreachable)
                }
                Reason::NoRoute => {
                    if let Some(label) = answer.label
                        && let Some(report) = self.unknown.note(received.port, label, now)
                    {
                        emit(Action::Report(report));
                    }
                    // The sender learns where its LSP ends.
                    match is_echo_request(received) {
                        true => self.respond(received, world, now, emit),
                        false => Outcome::UnknownLabel,
                    }
                }
                Reason::TooBig => self.too_big(received, world, now, emit),
                // The route was added in the meantime; the kernel handles the frame if it can.
                Reason::PassRoute if self.scratch.trimmed() > 0 => Outcome::Trimmed,
                Reason::PassRoute => self.pass(received, emit),
                Reason::Oam => Outcome::Oam,
                Reason::LspPing => self.respond(received, world, now, emit),
                Reason::Malformed | Reason::ImplicitNull | Reason::SpecialLabel => Outcome::Malformed,
                // An alert beneath an alert is malformed, which `ask` has reported.
                Reason::PortDisabled
                | Reason::LabelNotAccepted
                | Reason::CrossConnected
                | Reason::CrossTooBig
                | Reason::Vrf
                | Reason::ControlWord
                | Reason::UnknownVlan
                | Reason::NoFtn
                | Reason::NoHeadroom
                | Reason::NoPort
                // Does not occur for a frame that has come up.
                | Reason::ChecksumFinished
                | Reason::RouterAlert => Outcome::NotHandled,
            },
        };
        self.end(received, &answer, outcome, emit);
    }

    /// Answers an MPLS echo request.
    fn respond<W: World>(&mut self, received: Received<'_>, world: &W, now: Instant, emit: &mut Emit<'_>) -> Outcome {
        self.responder.respond(received, world, &mut self.answerer, now, emit)
    }

    /// Sends an ICMP error to the source of a frame that is larger than the next hop's MTU, or forwards it in
    /// fragments, each under the stack that the frame would have left with (RFC 3032 section 3). If only the bytes
    /// after the packet are too much, they are cut off.
    fn too_big<W: World>(&mut self, received: Received<'_>, world: &W, now: Instant, emit: &mut Emit<'_>) -> Outcome {
        let tables = world.tables_at(received.port);
        let (answer, next_hop) = ask_of_any_length(&mut self.scratch, received, &tables);
        let (Verdict::Forward { port }, Some(parts)) = (answer.verdict, packet::Parts::of(self.scratch.bytes())) else {
            return Outcome::TooBig;
        };
        let mtu = match parts.stack {
            [] => next_hop.mtu(),
            _ => next_hop.mpls_mtu(),
        };
        let mtu = usize::from(mtu).saturating_sub(parts.stack.len());
        match Remedy::find(parts.payload, received.trimmed, mtu) {
            Ok(Remedy::Tell(error)) => {
                let answered = self.answerer.answer(error, received, world, now, emit);
                answered.map_or_else(identity, |()| Outcome::TooBigAnswered)
            }
            Ok(Remedy::Cut(length)) => {
                let end = parts.ethernet.len() + parts.stack.len() + length;
                let frame = self.scratch.bytes().get(..end).unwrap_or_default();
                match emit(Action::Transmit { port, frame }) {
                    true => Outcome::TrailerCut,
                    false => Outcome::NotSent,
                }
            }
            Ok(Remedy::Fragment(mut fragments)) => {
                self.fragment.clear();
                self.fragment.extend(parts.ethernet);
                self.fragment.extend(parts.stack);
                let start = self.fragment.len();
                while fragments.write_next(&mut self.fragment) {
                    let frame = &self.fragment;
                    // The other fragments are useless without this one.
                    if !emit(Action::Transmit { port, frame }) {
                        return Outcome::NotSent;
                    }
                    self.fragment.truncate(start);
                }
                Outcome::Fragmented
            }
            Err(outcome) => outcome,
        }
    }

    /// Hands a labelled frame that has become an IP packet for this machine to the kernel. An unlabelled frame is not
    /// handed over: the kernel already has it, or it is not for this machine.
    fn deliver(&self, received: Received<'_>, emit: &mut Emit<'_>) -> Outcome {
        let frame = self.scratch.bytes();
        if !packet::is_labelled(received.frame) || packet::is_labelled(frame) {
            return Outcome::NotHandled;
        }
        self.pass(received, emit)
    }

    /// Leaves the frame to the kernel, as it is in the scratch copy.
    fn pass(&self, received: Received<'_>, emit: &mut Emit<'_>) -> Outcome {
        let (port, frame) = (received.port, self.scratch.bytes());
        match emit(Action::Deliver { port, frame }) {
            true => Outcome::Delivered,
            false => Outcome::NotDelivered,
        }
    }
}

/// Frames wait for a next hop: it is resolved, and so is its backup.
fn resolve(adjacency: u16, backup: Option<u16>, emit: &mut Emit<'_>) {
    for adjacency in std::iter::once(adjacency).chain(backup) {
        emit(Action::Resolve { adjacency });
    }
}

/// Whether the packet in the frame is an MPLS echo request.
fn is_echo_request(received: Received<'_>) -> bool {
    let parts = packet::Parts::of(received.frame);
    parts.is_some_and(|parts| is_request(parts.payload, received.trimmed))
}

fn of_held(held: &Held) -> Received<'_> {
    Received {
        port: held.port,
        frame: &held.frame,
        trimmed: 0,
    }
}

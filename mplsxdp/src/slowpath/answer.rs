//! Answers a frame with an ICMP error: decides whether, with which error, and by which path.

use std::net::IpAddr;
use std::time::Instant;

use mplsxdp_common::abi::{Domain, Op, PortWord, Reason};
use mplsxdp_common::forward::{PortView, Verdict};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6, LSE_LEN, Label, Lse, Mac};

use super::ask::{Received, ask, ask_at, ask_in_bucket};
use super::icmp::{self, Addresses, Error, Message, QUOTED};
use super::limit::Limiter;
use super::outcome::Outcome;
use super::packet::{Offender, Parts, entries};
use super::{Action, Emit, Options, World};
use crate::dataplane::frame::MemoryFrame;
use crate::slowpath::IcmpVia;

/// The destination MAC address of this machine's own packets, for the core.
const OWN: Mac = Mac([2, 0, 0, 0, 0, 0]);
const OWN_PORT: PortWord = PortWord::new(OWN, PortWord::IMPOSE | PortWord::LOCAL);
/// A TTL high enough for the hops within this machine.
pub(super) const UNEXPIRED: u8 = 255;

/// An answer could not be sent.
enum Unsent {
    TooBig,
    NoWay,
}

/// Builds and sends answers.
#[derive(Debug)]
pub struct Answerer {
    via: IcmpVia,
    limiter: Limiter,
    identification: u16,
    packet: Vec<u8>,
    stack: Vec<u8>,
    scratch: MemoryFrame,
}

impl Answerer {
    pub fn new(options: Options) -> Self {
        Self {
            via: options.icmp_via,
            limiter: Limiter::new(options.icmp_rate, options.icmp_source_rate),
            identification: 0,
            packet: Vec::new(),
            stack: Vec::new(),
            scratch: MemoryFrame::default(),
        }
    }

    /// Sends an error to the source of the IP packet in the frame of `error`, or returns why not.
    pub fn answer<W: World>(
        &mut self,
        error: Error,
        received: Received<'_>,
        world: &W,
        now: Instant,
        emit: &mut Emit<'_>,
    ) -> Result<(), Outcome> {
        let parts = Parts::of(received.frame).ok_or(Outcome::Malformed)?;
        let offender = Offender::read(parts.payload, received.trimmed).ok_or(Outcome::NoAnswerDue)?;
        // RFC 1122 section 3.2.2: only to a single host. Under more than one label, the source may be in another
        // network that has the same addresses.
        if parts.stack.len() <= LSE_LEN && world.is_broadcast(received.port, offender.source) {
            return Err(Outcome::NoAnswerDue);
        }
        if !self.limiter.allow(offender.source, now) {
            return Err(Outcome::AnswerLimited);
        }
        let addresses = world
            .source_address(received.port, offender.source)
            .and_then(|source| Addresses::new(source, offender.source))
            .ok_or(Outcome::NoSource)?;
        let message = Message {
            error,
            addresses,
            quoted: offender.packet,
            stack: parts.stack,
        };
        let port = received.port;
        let tables = world.tables_at(port);
        let on_lsp = !parts.stack.is_empty()
            && match self.via {
                IcmpVia::Lsp => true,
                IcmpVia::Ip => false,
                IcmpVia::Auto => {
                    parts.stack.len() > LSE_LEN
                        || !(has_ftn_entry(&tables, offender.source)
                            || world.has_specific_route(received.port, offender.source))
                }
            };
        // An answer cannot take an LSP whose next hop does not resolve. Under one label, the source is in this
        // machine's own address space, and the default route may lead to it.
        let by_ip_then = self.via == IcmpVia::Auto && parts.stack.len() == LSE_LEN;
        self.identification = self.identification.wrapping_add(1);
        // If the preferred length of the quote does not fit the link, the minimum may.
        for quote in [usize::MAX, QUOTED] {
            message.write(self.identification, quote, &mut self.packet);
            let sent = if on_lsp {
                match self.send_on_lsp(parts, port, &tables, emit) {
                    Err(Unsent::NoWay) if by_ip_then => self.send_by_ip(port, &tables, emit),
                    sent => sent,
                }
            } else {
                self.send_by_ip(port, &tables, emit)
            };
            match sent {
                Ok(()) => return Ok(()),
                Err(Unsent::TooBig) => {}
                Err(Unsent::NoWay) => break,
            }
        }
        Err(Outcome::NoWayBack)
    }

    /// Sends the answer under the stack that the packet would have left with (RFC 3032 section 2.3.2): the core gets it
    /// in place of the packet, with TTLs that do not expire.
    fn send_on_lsp<T: PortView>(
        &mut self,
        parts: Parts<'_>,
        arrived: u16,
        tables: &T,
        emit: &mut Emit<'_>,
    ) -> Result<(), Unsent> {
        self.stack.clear();
        // An answer has no Router Alert label.
        let stack = entries(parts.stack).filter(|lse| lse.label() != Label::ROUTER_ALERT || lse.bottom());
        self.stack.extend(stack.flat_map(Lse::to_bytes));
        set_entries(&mut self.stack, |lse| {
            Lse::new(lse.label(), icmp::PRECEDENCE, lse.bottom(), UNEXPIRED)
        });
        self.scratch.refill([parts.ethernet, &self.stack, &self.packet], 0);
        let mut answer = ask(&mut self.scratch, tables);
        if answer.bucket.is_some() {
            // With several next hops it takes the packet's own, whatever the flow of the answer is.
            self.scratch.refill([parts.ethernet, &self.stack, parts.payload], 0);
            let packet = ask(&mut self.scratch, tables);
            self.scratch.refill([parts.ethernet, &self.stack, &self.packet], 0);
            answer = ask_in_bucket(&mut self.scratch, tables, packet.bucket);
        }
        match answer.verdict {
            Verdict::Forward { port } => {
                set_ttls(self.scratch.bytes_mut());
                let frame = self.scratch.bytes();
                sent(emit(Action::Transmit { port, frame }))
            }
            // The LSP ends here, or the packet belongs to the kernel.
            Verdict::Pass | Verdict::Exception(Reason::PassRoute) => self.send_by_ip(arrived, tables, emit),
            Verdict::Exception(reason) => Err(Unsent::from(reason)),
        }
    }

    /// Sends an IP packet of this machine, in answer to one that arrived at port `arrived`. Returns whether that worked.
    pub(super) fn send_own<T: PortView>(
        &mut self,
        packet: &[u8],
        arrived: u16,
        tables: &T,
        emit: &mut Emit<'_>,
    ) -> bool {
        self.packet.clear();
        self.packet.extend(packet);
        self.send_by_ip(arrived, tables, emit).is_ok()
    }

    /// Sends the answer as this machine's own packet: by the FTN, or else as the kernel routes it.
    fn send_by_ip<T: PortView>(&mut self, arrived: u16, tables: &T, emit: &mut Emit<'_>) -> Result<(), Unsent> {
        let ethertype = match self.packet.first() {
            Some(0x45) => ETH_P_IP,
            _ => ETH_P_IPV6,
        };
        self.scratch
            .refill([&OWN.0, &Mac::ZERO.0, &ethertype.to_be_bytes(), &self.packet], 0);
        let own = OWN_PORT.with_domain(domain(tables));
        match ask_at(&mut self.scratch, tables, own).verdict {
            Verdict::Forward { port } => {
                let frame = self.scratch.bytes();
                sent(emit(Action::Transmit { port, frame }))
            }
            // The FTN has no entry for it.
            Verdict::Pass | Verdict::Exception(Reason::NoFtn) => {
                let (port, packet) = (arrived, &*self.packet);
                sent(emit(Action::SendByIp { port, packet }))
            }
            Verdict::Exception(reason) => Err(Unsent::from(reason)),
        }
    }
}

impl From<Reason> for Unsent {
    fn from(reason: Reason) -> Self {
        if reason == Reason::TooBig {
            Self::TooBig
        } else {
            Self::NoWay
        }
    }
}

fn sent(worked: bool) -> Result<(), Unsent> {
    if worked { Ok(()) } else { Err(Unsent::NoWay) }
}

/// The FTN domain of the port that `tables` are for.
fn domain<T: PortView>(tables: &T) -> Domain {
    tables.port(tables.settings().port()).domain()
}

/// Whether packets to `destination` get labels here.
fn has_ftn_entry<T: PortView>(tables: &T, destination: IpAddr) -> bool {
    let entry = match destination {
        IpAddr::V4(address) => tables.ftn_v4(domain(tables), address.octets()),
        IpAddr::V6(address) => tables.ftn_v6(domain(tables), address.octets()),
    };
    !matches!(entry.op(), Op::None | Op::Pass)
}

/// Changes each entry of a stack except entropy labels, whose TTL must stay zero (RFC 6790 section 4.2).
pub(super) fn set_entries(stack: &mut [u8], change: impl Fn(Lse) -> Lse) {
    let mut is_entropy = false;
    for bytes in stack.as_chunks_mut().0 {
        let lse = Lse::from_bytes(*bytes);
        if !is_entropy {
            *bytes = change(lse).to_bytes();
        }
        is_entropy = !is_entropy && lse.label() == Label::ENTROPY_INDICATOR;
    }
}

/// Sets the TTL of an answer, and of its labels, back to the initial value.
fn set_ttls(frame: &mut [u8]) {
    let Some(stack_len) = Parts::of(frame).map(|parts| parts.stack.len()) else {
        return;
    };
    let (stack, packet) = frame.split_at_mut(ETH_HLEN).1.split_at_mut(stack_len);
    set_entries(stack, |lse| lse.with_ttl(icmp::TTL));
    icmp::set_ttl(packet);
}

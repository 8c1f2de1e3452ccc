//! Sends MPLS echo requests into an LSP of this machine (RFC 8029 section 4.3).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use mplsxdp_common::abi::{Domain, Op, Reason};
use mplsxdp_common::forward::{PortView, Verdict};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_MPLS_UC, LSP_PING_PORT, Label, Lse};

use super::udp::Datagram;
use crate::dataplane::frame::MemoryFrame;
use crate::slowpath::answer::{UNEXPIRED, set_entries};
use crate::slowpath::ask::ask_imposed;
use crate::slowpath::packet::{Parts, entries};
use crate::slowpath::{Action, Emit, World};

/// RFC 8029 section 4.3: no router may forward the packet by IP.
const IP_TTL: u8 = 1;

/// Where an LSP begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// The labels and the next hop that packets to this prefix get.
    Prefix(IpNet),
    /// These labels, outermost first, and the next hop in this slot of the adjacency table.
    Stack { labels: Vec<Label>, adjacency: u16 },
}

/// A request to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    pub ingress: Ingress,
    /// `None`: an address of this machine.
    pub source: Option<IpAddr>,
    pub source_port: u16,
    /// A loopback address.
    pub destination: IpAddr,
    /// Of each label.
    pub ttl: u8,
    /// The MPLS echo message.
    pub payload: Vec<u8>,
    /// Only find out which way it would take.
    pub dry_run: bool,
}

/// How a request left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Departed {
    pub port: u16,
    pub adjacency: u16,
    pub labels: Vec<Label>,
    pub source: IpAddr,
}

/// Why a request was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotSent {
    #[error("packets to this prefix get no labels here")]
    NoLabels,
    #[error("the next hop is not resolved")]
    Unresolved,
    #[error("with its labels the request is larger than the next hop's MPLS MTU")]
    TooBig,
    #[error("this machine has no address to send from; give one with `--source`")]
    NoSource,
    #[error("source and destination are not of the same family")]
    Families,
    #[error("the port does not take it; is it up?")]
    NoPort,
}

/// Sends a request, and returns how it left. It is not counted for a route.
pub fn send<W: World>(request: &Outgoing, world: &W, emit: &mut Emit<'_>) -> Result<Departed, NotSent> {
    // Tables that are the same at all ports.
    let tables = world.tables_at(0);
    // The port is known when the way is, and the address when the port is.
    let mut frame = MemoryFrame::default();
    let unspecified = match request.destination {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let mut way = impose(request, request.source.unwrap_or(unspecified), &tables, &mut frame)?;
    if request.source.is_none() {
        let next_hop = world.next_hop_address(way.adjacency);
        let remote = next_hop.filter(|next_hop| next_hop.is_ipv4() == request.destination.is_ipv4());
        let source = world.source_address(way.port, remote.unwrap_or(unspecified));
        way = impose(request, source.ok_or(NotSent::NoSource)?, &tables, &mut frame)?;
    }
    let (port, frame) = (way.port, frame.bytes());
    match request.dry_run || emit(Action::Transmit { port, frame }) {
        true => Ok(way),
        false => Err(NotSent::NoPort),
    }
}

/// Makes the frame of a request as it leaves.
fn impose<T: PortView>(
    request: &Outgoing,
    source: IpAddr,
    tables: &T,
    frame: &mut MemoryFrame,
) -> Result<Departed, NotSent> {
    let datagram = Datagram {
        source: SocketAddr::new(source, request.source_port),
        destination: SocketAddr::new(request.destination, LSP_PING_PORT),
        ttl: IP_TTL,
        ds_field: 0,
        payload: &request.payload,
    };
    let mut packet = Vec::new();
    if !datagram.write(0, &mut packet) {
        return Err(NotSent::Families);
    }
    let (port, adjacency) = match &request.ingress {
        Ingress::Prefix(prefix) => {
            let entry = match prefix {
                IpNet::V4(prefix) => tables.ftn_v4(Domain::NO_VRF, prefix.addr().octets()),
                IpNet::V6(prefix) => tables.ftn_v6(Domain::NO_VRF, prefix.addr().octets()),
            };
            if matches!(entry.op(), Op::None | Op::Pass) {
                return Err(NotSent::NoLabels);
            }
            // Imposing labels on a packet to a loopback address is refused. So it arrives with a label that is swapped for
            // those of the prefix, by the same entry.
            let answer = ask_imposed(frame, &packet, entry, tables);
            match (answer.verdict, answer.adjacency) {
                (Verdict::Forward { port }, Some(adjacency)) => (port, adjacency),
                (Verdict::Exception(Reason::TooBig), _) => return Err(NotSent::TooBig),
                (Verdict::Exception(Reason::Unresolved), _) => return Err(NotSent::Unresolved),
                _ => return Err(NotSent::NoLabels),
            }
        }
        Ingress::Stack { labels, adjacency } => {
            let next_hop = tables.adjacency(*adjacency).unwrap_or_default();
            if !next_hop.is_resolved() {
                return Err(NotSent::Unresolved);
            }
            let last = labels.len().saturating_sub(1);
            let labels = labels.iter().enumerate();
            let stack = labels.map(|(index, &label)| Lse::new(label, 0, index == last, UNEXPIRED));
            let stack = Vec::from_iter(stack.flat_map(Lse::to_bytes));
            if stack.len() + packet.len() > next_hop.mpls_mtu().into() {
                return Err(NotSent::TooBig);
            }
            frame.refill([&next_hop.macs(), &ETH_P_MPLS_UC.to_be_bytes(), &stack, &packet], 0);
            (next_hop.port(), *adjacency)
        }
    };
    let stack_len = Parts::of(frame.bytes()).ok_or(NotSent::NoLabels)?.stack.len();
    let stack = frame.bytes_mut().get_mut(ETH_HLEN..ETH_HLEN + stack_len);
    let stack = stack.filter(|stack| !stack.is_empty()).ok_or(NotSent::NoLabels)?;
    set_entries(stack, |lse| lse.with_ttl(request.ttl));
    let labels = entries(stack).map(Lse::label).collect();
    Ok(Departed {
        port,
        adjacency,
        labels,
        source,
    })
}

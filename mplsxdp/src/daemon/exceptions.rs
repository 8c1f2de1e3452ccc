//! Passes exceptions from the ports' sockets to the slow path, and carries out its actions.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use mplsxdp_common::abi::{PortWord, VlanTags};
use mplsxdp_common::forward::{Arrival, PortView, Verdict, arrival_port, forward};
use mplsxdp_common::wire::{ETH_HLEN, VLAN_HLEN};
use tracing::{debug, warn};

use super::monitor::Sample;
use super::raw_ip::RawIp;
use crate::control::api::{LspPingSent, Refusal};
use crate::control::events::Event;
use crate::dataplane::frame::MemoryFrame;
use crate::dataplane::inject::Injector;
use crate::dataplane::kernel::{AtPort, KernelTables};
use crate::lfib::NextHops;
use crate::neighbour::addresses::Addresses;
use crate::neighbour::links::Links;
use crate::neighbour::routes::KernelRoutes;
use crate::neighbour::{LinkInfo, Vrf};
use crate::ports::Ports;
use crate::slowpath::oam::sender::{self, Outgoing};
use crate::slowpath::outcome::{Counters, Outcome};
use crate::slowpath::packet::missing_bytes;
use crate::slowpath::rehearsal::{Intended, Rehearsed, rehearse};
use crate::slowpath::unknown::UnknownLabel;
use crate::slowpath::xsk::{Receiver, Statistics, TransmitError, Transmitter, XskPort};
use crate::slowpath::{Action, Options, Received, SlowPath, World};

/// Frames of one port that are handled before other work gets its turn.
const BUDGET: usize = 256;
/// No driver's first buffer is smaller: a shorter frame that claims more than it has was not trimmed, but is malformed.
const LEAST_TRIMMED: usize = 1024;
/// How long to wait for room if the kernel did not take all frames to send.
const UNSENT_INTERVAL: Duration = Duration::from_millis(1);

/// What the slow path may know about this machine.
pub struct View<'a> {
    pub tables: &'a KernelTables,
    pub ports: &'a Ports,
    pub links: &'a Links,
    pub addresses: &'a Addresses,
    pub routes: &'a KernelRoutes,
    pub next_hops: &'a NextHops,
    pub source_v4: Option<Ipv4Addr>,
    pub source_v6: Option<Ipv6Addr>,
}

impl View<'_> {
    /// The VRF of packets that arrive at this port.
    fn vrf(&self, port: u16) -> Option<Vrf> {
        self.ports.vrf(port, self.links)
    }

    /// Whether frames can be sent out of this port's interface.
    fn is_up(&self, port: u16) -> bool {
        let ifindex = self.ports.addressed(port);
        let link = ifindex.and_then(|ifindex| self.links.get(ifindex));
        link.is_some_and(LinkInfo::is_up)
    }
}

impl World for View<'_> {
    type View<'a>
        = AtPort<'a>
    where
        Self: 'a;

    fn tables_at(&self, port: u16) -> AtPort<'_> {
        self.tables.without_tags(self.ports.settings(port))
    }

    fn source_address(&self, port: u16, remote: IpAddr) -> Option<IpAddr> {
        let configured = match remote {
            IpAddr::V4(_) => self.source_v4.map(IpAddr::from),
            IpAddr::V6(_) => self.source_v6.map(IpAddr::from),
        };
        configured.or_else(|| {
            let ifindex = self.ports.addressed(port)?;
            // The addresses and neighbours of a bridge port are the bridge's.
            let link = self.links.get(ifindex);
            let ifindex = link.map_or(ifindex, LinkInfo::ip_ifindex);
            let vrf = self.vrf(port);
            let beside = |other| self.links.vrf(other) == vrf;
            self.addresses.source(ifindex, remote, beside)
        })
    }

    fn is_broadcast(&self, port: u16, address: IpAddr) -> bool {
        let vrf = self.vrf(port);
        let beside = |ifindex| self.links.vrf(ifindex) == vrf;
        self.addresses.is_broadcast(address, beside)
    }

    fn has_specific_route(&self, port: u16, destination: IpAddr) -> bool {
        let vrf = self.vrf(port);
        self.routes.has_specific(destination, |table| match vrf {
            Some(vrf) => table == vrf.table,
            None => !self.links.is_vrf_table(table),
        })
    }

    fn is_own_address(&self, address: IpAddr) -> bool {
        self.addresses.has(address)
    }

    fn is_own_prefix(&self, port: u16, prefix: IpNet) -> bool {
        let vrf = self.vrf(port);
        self.addresses
            .is_own_prefix(prefix, |ifindex| self.links.vrf(ifindex) == vrf)
    }

    fn next_hop_address(&self, adjacency: u16) -> Option<IpAddr> {
        let (_, next_hop) = self.next_hops.at_slot(adjacency)?;
        next_hop.via.address()
    }

    fn time_since_epoch(&self) -> Duration {
        // A clock before 1970 is wrong anyway.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// The slow path and its sockets.
pub struct Exceptions {
    options: Options,
    slow_path: SlowPath,
    outlet: Outlet,
    receivers: BTreeMap<u16, Receiver>,
    /// Exceptions missed by sockets that are closed now.
    missed_before: u64,
    /// A frame that arrived with tags, without them.
    untagged: MemoryFrame,
}

/// Carries out the slow path's actions.
struct Outlet {
    transmitters: BTreeMap<u16, Transmitter>,
    raw_ip: RawIp,
    injector: Injector,
    /// A frame with the tags that it leaves with.
    tagged: Vec<u8>,
    /// Adjacency slots whose next hops frames wait for.
    wanted: Vec<u16>,
    /// When to send more of what the kernel did not take at once.
    unsent_due: Option<Instant>,
    sample: Sample,
}

impl Exceptions {
    pub fn new(options: Options, injector: Injector) -> io::Result<Self> {
        let outlet = Outlet {
            transmitters: BTreeMap::new(),
            raw_ip: RawIp::open()?,
            injector,
            tagged: Vec::new(),
            wanted: Vec::new(),
            unsent_due: None,
            sample: Sample::default(),
        };
        Ok(Self {
            options,
            slow_path: SlowPath::new(options),
            outlet,
            receivers: BTreeMap::new(),
            missed_before: 0,
            untagged: MemoryFrame::default(),
        })
    }

    pub fn add_port(&mut self, port: u16, sockets: XskPort) {
        self.receivers.insert(port, sockets.receiver);
        self.outlet.transmitters.insert(port, sockets.transmitter);
    }

    /// The sockets of a port.
    pub fn receiver_mut(&mut self, port: u16) -> Option<&mut Receiver> {
        self.receivers.get_mut(&port)
    }

    pub fn remove_port(&mut self, port: u16) {
        if let Some(receiver) = self.receivers.remove(&port) {
            self.missed_before += missed(&receiver);
        }
        self.outlet.transmitters.remove(&port);
    }

    /// Closes the sockets of removed ports, and forgets what was stored under their numbers.
    pub fn keep_ports(&mut self, ports: &Ports) {
        self.slow_path.keep_ports(|port| ports.name(port).is_some());
        let known = self.receivers.keys().chain(self.outlet.transmitters.keys()).copied();
        let gone: BTreeSet<u16> = known.filter(|&port| ports.name(port).is_none()).collect();
        for port in gone {
            self.remove_port(port);
        }
    }

    pub fn clear(&mut self) {
        self.receivers.clear();
        self.outlet.transmitters.clear();
    }

    /// Waits until an exception arrives at some port. Can be dropped and called again at any time.
    pub async fn readable(&mut self) {
        poll_fn(|context| {
            let mut result = Poll::Pending;
            // Poll all of them, so that each wakes the task.
            for (port, receiver) in &mut self.receivers {
                match receiver.poll_readable(context) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => result = Poll::Ready(()),
                    Poll::Ready(Err(error)) => warn!(port, %error, "cannot wait for exceptions of a port"),
                }
            }
            result
        })
        .await;
    }

    /// Handles the exceptions that have arrived.
    pub fn receive(&mut self, view: &View<'_>, now: Instant) {
        let Self {
            slow_path,
            outlet,
            receivers,
            untagged,
            ..
        } = self;
        for (&port, receiver) in receivers {
            let trims = receiver.trims();
            receiver.receive(BUDGET, |frame| {
                if let Some(crossed) = outlet.cross(frame, port, view, untagged) {
                    return slow_path.count(crossed);
                }
                let (port, frame) = match untag(frame, port, view, untagged) {
                    Untagged::AsReceived => (port, frame),
                    Untagged::At(port) => (port, untagged.bytes()),
                };
                let trimmed = if trims && frame.len() >= LEAST_TRIMMED {
                    missing_bytes(frame)
                } else {
                    0
                };
                let received = Received { port, frame, trimmed };
                slow_path.receive(received, view, now, &mut |action| outlet.carry_out(action, view));
            });
        }
        self.outlet.flush(view, now);
    }

    /// What would be done with a frame that came up at this port, in order.
    pub fn rehearse(&self, frame: &[u8], port: u16, view: &View<'_>, now: Instant) -> Vec<Rehearsed> {
        let mut untagged = MemoryFrame::default();
        if let Some(verdict) = crossed(frame, port, view, &mut untagged) {
            return vec![match verdict {
                Verdict::Forward { port } => Rehearsed {
                    outcomes: vec![Outcome::Forwarded],
                    actions: vec![Intended::Transmit {
                        port,
                        frame: untagged.bytes().to_vec(),
                    }],
                },
                Verdict::Pass | Verdict::Exception(_) => Rehearsed {
                    outcomes: vec![Outcome::NotHandled],
                    actions: Vec::new(),
                },
            }];
        }
        let (port, frame) = match untag(frame, port, view, &mut untagged) {
            Untagged::AsReceived => (port, frame),
            Untagged::At(port) => (port, untagged.bytes()),
        };
        let received = Received {
            port,
            frame,
            trimmed: 0,
        };
        rehearse(self.options, received, view, now, |action| match *action {
            Action::Transmit { port, .. } => {
                let parent = view.ports.way_out(port).map(|(parent, _)| parent);
                parent.is_some_and(|parent| self.outlet.transmitters.contains_key(&parent) && view.is_up(parent))
            }
            Action::Deliver { port, .. } => view.ports.way_up(port).is_some(),
            Action::SendByIp { .. } | Action::Resolve { .. } | Action::Report(_) | Action::Handled(..) => true,
        })
    }

    /// Sends an MPLS echo request, and returns the way that it takes.
    pub fn send_lsp_ping(&mut self, request: &Outgoing, view: &View<'_>, now: Instant) -> Result<LspPingSent, Refusal> {
        let Self { outlet, .. } = self;
        let sent = sender::send(request, view, &mut |action| outlet.carry_out(action, view));
        self.outlet.flush(view, now);
        let sent = sent.map_err(|error| Refusal::LspPingRefused {
            reason: error.to_string(),
        })?;
        Ok(LspPingSent {
            dev: view.ports.name(sent.port).unwrap_or_default().to_owned(),
            via: view.next_hop_address(sent.adjacency).map(|via| via.to_string()),
            labels: sent.labels.iter().map(|label| label.get()).collect(),
            source: sent.source.to_string(),
        })
    }

    /// Call when next hops have changed.
    pub fn retry_held(&mut self, view: &View<'_>, now: Instant) {
        if self.slow_path.held() == 0 {
            return;
        }
        let Self { slow_path, outlet, .. } = self;
        slow_path.retry_held(view, now, &mut |action| outlet.carry_out(action, view));
        self.outlet.flush(view, now);
    }

    /// Call when flows have moved to other next hops.
    pub fn retry_all_held(&mut self, view: &View<'_>, now: Instant) {
        if self.slow_path.held() == 0 {
            return;
        }
        let Self { slow_path, outlet, .. } = self;
        slow_path.retry_all_held(view, now, &mut |action| outlet.carry_out(action, view));
        self.outlet.flush(view, now);
    }

    /// Ports that are down, or whose interfaces have been down (`down`, by index), and that have frames queued.
    pub fn stale_ports(&mut self, view: &View<'_>, down: &BTreeSet<u32>) -> Vec<u16> {
        let was_down = |port| {
            view.ports
                .addressed(port)
                .is_some_and(|ifindex| down.contains(&ifindex))
        };
        let transmitters = self.outlet.transmitters.iter_mut();
        let stale = transmitters.filter_map(|(&port, transmitter)| {
            let is_stale = (was_down(port) || !view.is_up(port)) && transmitter.queued() > 0;
            is_stale.then_some(port)
        });
        stale.collect()
    }

    /// The adjacency slots whose next hops frames have begun to wait for.
    pub fn take_wanted(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.outlet.wanted)
    }

    /// Call at [`Exceptions::next_deadline`].
    pub fn poll(&mut self, view: &View<'_>, now: Instant) {
        let Self { slow_path, outlet, .. } = self;
        slow_path.poll(view, now, &mut |action| outlet.carry_out(action, view));
        self.outlet.flush(view, now);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.slow_path
            .next_deadline()
            .into_iter()
            .chain(self.outlet.unsent_due)
            .chain(self.outlet.sample.next_deadline())
            .min()
    }

    /// What happens to each frame is to be reported from now on, or no longer.
    pub fn watch(&mut self, is_watched: bool) {
        self.slow_path.watch(is_watched);
        self.outlet.sample.set_on(is_watched);
    }

    /// What is to be reported now.
    pub fn take_events(&mut self, now: Instant) -> Vec<Event> {
        self.outlet.sample.take(now)
    }

    pub fn counters(&self) -> &Counters {
        self.slow_path.counters()
    }

    /// Exceptions that arrived faster than the slow path took them: their socket's ring was full.
    pub fn missed(&self) -> u64 {
        self.missed_before + self.receivers.values().map(missed).sum::<u64>()
    }

    /// What the socket of each port's queue has counted.
    pub fn statistics(&self) -> impl Iterator<Item = (u16, u32, Statistics)> {
        self.receivers.iter().flat_map(|(&port, receiver)| {
            let queues = (0..).zip(receiver.statistics());
            queues.filter_map(move |(queue, counted)| Some((port, queue, counted.ok()?)))
        })
    }

    pub fn unknown_labels(&self, now: Instant) -> Vec<UnknownLabel> {
        self.slow_path.unknown_labels().list(now)
    }
}

impl Outlet {
    /// Returns whether that worked.
    fn carry_out(&mut self, action: Action<'_>, view: &View<'_>) -> bool {
        match action {
            Action::Transmit { port, frame } => {
                let sent = self.transmit(port, frame, view);
                sent.inspect_err(|error| debug!(port, %error, "the slow path's frame is lost"))
                    .is_ok()
            }
            Action::SendByIp { port, packet } => {
                let vrf = view.vrf(port).map(|vrf| vrf.ifindex);
                let sent = self.raw_ip.send(packet, vrf);
                sent.inspect_err(|error| debug!(%error, "the kernel refused the slow path's packet"))
                    .is_ok()
            }
            Action::Deliver { port, frame } => {
                let delivered = self.deliver(port, frame, view);
                delivered
                    .inspect_err(|error| debug!(port, %error, "the kernel does not receive the slow path's frame"))
                    .is_ok()
            }
            Action::Resolve { adjacency } => {
                self.wanted.push(adjacency);
                true
            }
            Action::Report(report) => {
                let port = view.ports.name(report.port).unwrap_or_default();
                warn!(port, label = %report.label, frames = report.frames, "frames with labels that have no route");
                true
            }
            Action::Handled(received, handled) => {
                self.sample.note(received, handled, view.ports.name(received.port));
                true
            }
        }
    }

    /// Sends on a frame of a cross-connected port, which came up because its checksum was unfinished. `None`: it is not.
    fn cross(&mut self, frame: &[u8], port: u16, view: &View<'_>, copy: &mut MemoryFrame) -> Option<Outcome> {
        let Verdict::Forward { port } = crossed(frame, port, view, copy)? else {
            return Some(Outcome::NotHandled);
        };
        // It has the tags that it leaves with.
        let way_out = view.ports.way_out(port).map(|(parent, _)| (parent, VlanTags::NONE));
        Some(match self.transmit_by(way_out, copy.bytes(), view) {
            Ok(()) => Outcome::Forwarded,
            Err(_) => Outcome::NotSent,
        })
    }

    /// Queues a frame at its outgoing port.
    fn transmit(&mut self, port: u16, frame: &[u8], view: &View<'_>) -> io::Result<()> {
        self.transmit_by(view.ports.way_out(port), frame, view)
    }

    /// Queues a frame at a port, with tags.
    fn transmit_by(&mut self, way_out: Option<(u16, VlanTags)>, frame: &[u8], view: &View<'_>) -> io::Result<()> {
        let (parent, tags) = way_out.ok_or(io::ErrorKind::NotFound)?;
        let transmitter = self.transmitters.get_mut(&parent).ok_or(io::ErrorKind::NotFound)?;
        if !view.is_up(parent) {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let frame = tag(frame, tags, &mut self.tagged);
        match transmitter.transmit(frame) {
            // If there is no room, send what is queued first.
            Err(TransmitError::Full) => {
                transmitter.flush()?;
                transmitter.transmit(frame)
            }
            result => result,
        }
        .map_err(io::Error::other)
    }

    /// Makes the kernel receive a frame at the port where it arrived.
    fn deliver(&mut self, port: u16, frame: &[u8], view: &View<'_>) -> io::Result<()> {
        let (ifindex, tags) = view.ports.way_up(port).ok_or(io::ErrorKind::NotFound)?;
        self.injector.receive(ifindex, tag(frame, tags, &mut self.tagged))
    }

    /// Makes the kernel send what was queued. It takes nothing for a port that is down.
    fn flush(&mut self, view: &View<'_>, now: Instant) {
        let mut unsent = 0;
        for (port, transmitter) in &mut self.transmitters {
            if !view.is_up(*port) {
                continue;
            }
            match transmitter.flush() {
                Ok(left) => unsent += left,
                Err(error) => debug!(port, %error, "cannot send the slow path's frames"),
            }
        }
        self.unsent_due = (unsent > 0).then(|| now + UNSENT_INTERVAL);
    }
}

/// Exceptions that arrived faster than they were taken.
fn missed(receiver: &Receiver) -> u64 {
    let queues = receiver.statistics().filter_map(Result::ok);
    queues.map(|queue| queue.ring_full + queue.dropped).sum()
}

/// The verdict on a frame of a cross-connected port, which is in `copy` as it leaves. `None`: it is not of one.
fn crossed(frame: &[u8], port: u16, view: &View<'_>, copy: &mut MemoryFrame) -> Option<Verdict> {
    let tables = view.tables.at_wire(view.ports.settings(port));
    copy.refill([frame], 0);
    let is_crossed = |number| tables.port(number).has(PortWord::CROSS_CONNECT);
    let is_one = is_crossed(port.into()) || is_crossed(arrival_port(copy, &tables));
    is_one.then(|| forward(copy, &tables))
}

/// Where a frame from a port's sockets arrived.
enum Untagged {
    /// At the port: it has no tags, or those of a sub-interface that was just removed.
    AsReceived,
    /// At this sub-interface, or at the port if its tags only carry a priority. The tags have been removed.
    At(u16),
}

/// Removes the VLAN tags of a frame, into `untagged`: the slow path does not handle tags.
fn untag(frame: &[u8], port: u16, view: &View<'_>, untagged: &mut MemoryFrame) -> Untagged {
    untagged.refill([frame.get(..LONGEST).unwrap_or(frame)], 0);
    let Some(arrival) = Arrival::of(untagged, &view.tables.at_wire(view.ports.settings(port))) else {
        return Untagged::AsReceived;
    };
    if arrival.l2_len == ETH_HLEN {
        return Untagged::AsReceived;
    }
    let Some(port) = arrival.port.and_then(|port| port.try_into().ok()) else {
        return Untagged::AsReceived;
    };
    let (macs, rest) = (
        frame.get(..ETHERTYPE),
        frame.get(arrival.l2_len - ETH_HLEN + ETHERTYPE..),
    );
    untagged.refill([macs.unwrap_or_default(), rest.unwrap_or_default()], 0);
    Untagged::At(port)
}

/// Inserts VLAN tags into a frame, in `tagged`.
pub(super) fn tag<'a>(frame: &'a [u8], tags: VlanTags, tagged: &'a mut Vec<u8>) -> &'a [u8] {
    let bytes = tags.to_bytes();
    let Some((macs, rest)) = frame.split_at_checked(ETHERTYPE).filter(|_| tags != VlanTags::NONE) else {
        return frame;
    };
    tagged.clear();
    tagged.extend(macs);
    tagged.extend(bytes.iter().take(tags.len_bytes()));
    tagged.extend(rest);
    tagged
}

/// Offset of the EtherType, or of the first tag.
const ETHERTYPE: usize = ETH_HLEN - 2;
/// Length of an Ethernet header with two tags.
const LONGEST: usize = ETH_HLEN + 2 * VLAN_HLEN;

//! Everything that the kernel reports, as [`Event`]s: a dump, then the changes, and another dump when some were lost.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use tokio::sync::{Notify, mpsc};

use super::decoding::{Received, error_of, events_of, take_message};
use super::dump::{self, Request};
use super::requests::Error;
use crate::neighbour::{Event, InterfaceAddress, KernelRoute, LinkInfo, Neighbour, RoutePosition};
use crate::rtnl::{Destination, Message, Object, Position};

/// How much the kernel may hold for this process before it loses events: room for tens of thousands of them.
pub const RECEIVE_BUFFER_BYTES: usize = 32 << 20;

/// How many events may be on their way to the controller.
const EVENTS: usize = 1024;
/// The kernel's largest dump datagram is 32 KiB.
const DATAGRAM_BYTES: usize = 1 << 17;
/// The pause between a lost subscription and the next, so that the burst that caused the loss passes.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);
/// How often to try to get the first report: a kernel that refuses it this often will not give one.
const FIRST_ATTEMPTS: u32 = 20;
/// Interfaces go down in groups: the routes that were lost with them are dumped once, after this time.
const RESYNC_DELAY: Duration = Duration::from_millis(100);
/// Resyncs take at most one part in this many of the time.
const RESYNC_SHARE: u32 = 5;
const RESYNC_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How often to repeat a dump that the kernel says was interrupted by changes. The changes are reported as well, so
/// hardly anything can be missing from the last one.
const DUMP_ATTEMPTS: u32 = 5;

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// Groups that are also subscribed to if routes are followed (linux/rtnetlink.h).
const MPLS_ROUTE: u32 = 27;
const MPLS_NETCONF: u32 = 29;

/// What to follow in the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Interests {
    /// How much the kernel may hold before it loses events.
    pub receive_buffer_bytes: usize,
    /// Report [`Event::Routing`] as well.
    pub routing: bool,
}

impl Default for Interests {
    fn default() -> Self {
        Self {
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            routing: false,
        }
    }
}

/// The kernel's reports, in their order.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    /// Why there are no more.
    end: Arc<OnceLock<io::Error>>,
}

impl Events {
    /// The next one, when it comes.
    pub async fn next(&mut self) -> Result<Event, Error> {
        let event = self.receiver.recv().await;
        event.ok_or_else(|| Error::NoReports(self.end.get().map(ToString::to_string)))
    }

    /// The next one, if it has come.
    pub fn try_next(&mut self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }

    /// All up to [`Event::Synced`]: what there is.
    pub async fn until_synced(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        while events.last() != Some(&Event::Synced) {
            events.push(self.next().await?);
        }
        Ok(events)
    }
}

/// The kernel's reports, and a future that sends them until [`Events`] is dropped, or the kernel does not give the first
/// full report. Must be called within a tokio runtime whose threads stay in the present network namespace: they reopen a
/// lost subscription.
pub fn events(interests: Interests, resync: Arc<Notify>) -> io::Result<(Events, impl Future<Output = ()> + Send)> {
    let subscription = Subscription::open(interests)?;
    let (sender, receiver) = mpsc::channel(EVENTS);
    let end = Arc::default();
    let events = Events {
        receiver,
        end: Arc::clone(&end),
    };
    let follow = async move {
        // Before the sender is dropped, which ends the receiver.
        if let Err(error) = follow(subscription, interests, &resync, &sender).await {
            let _ = end.set(error);
        }
    };
    Ok((events, follow))
}

/// Keeps a subscription open while there is a receiver. Fails if the first full report cannot be had.
async fn follow(
    first: Subscription,
    interests: Interests,
    resync: &Notify,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let mut subscription = Ok(first);
    let (mut attempt, mut has_reported) = (1, false);
    loop {
        let lost = match subscription {
            Ok(mut subscription) => tokio::select! {
                lost = subscription.run(events, resync, &mut has_reported) => lost,
                () = events.closed() => return Ok(()),
            },
            Err(error) => Err(Stop::Socket(error)),
        };
        match lost {
            Ok(never) => match never {},
            Err(Stop::NobodyListens) => return Ok(()),
            Err(Stop::Socket(error)) if !has_reported && attempt == FIRST_ATTEMPTS => return Err(error),
            Err(Stop::Socket(error)) => {
                tracing::warn!("netlink subscription lost ({error}): starting again with a full dump");
            }
        }
        attempt += 1;
        tokio::time::sleep(REOPEN_PAUSE).await;
        subscription = Subscription::open(interests);
    }
}

/// Why a subscription ended.
enum Stop {
    NobodyListens,
    Socket(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<mpsc::error::SendError<Event>> for Stop {
    fn from(_: mpsc::error::SendError<Event>) -> Self {
        Self::NobodyListens
    }
}

/// One socket that receives all changes and also makes the dumps, so that dump and changes come in one sequence.
struct Subscription {
    socket: TokioSocket,
    /// Netlink's port number of this socket: answers to other sockets have another.
    port: u32,
    sequence: u32,
    datagram: BytesMut,
    routing: bool,
    /// The last dump included the label routes: the kernel has MPLS.
    has_mpls: bool,
    /// The last dump may be out of date: something happened meanwhile that the kernel does not report in full.
    stale: bool,
}

impl Subscription {
    fn open(interests: Interests) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let inner = socket.socket_mut();
        let port = inner.bind_auto()?.port_number();
        // net.core.rmem_max limits processes without CAP_NET_ADMIN.
        let bytes = interests.receive_buffer_bytes;
        if setsockopt(inner, sockopt::RcvBufForce, &bytes).is_err() {
            setsockopt(inner, sockopt::RcvBuf, &bytes)?;
        }
        for group in GROUPS {
            inner.add_membership(group as u32)?;
        }
        for group in [MPLS_ROUTE, MPLS_NETCONF].into_iter().filter(|_| interests.routing) {
            inner.add_membership(group)?;
        }
        Ok(Self {
            socket,
            port,
            sequence: 0,
            datagram: BytesMut::new(),
            routing: interests.routing,
            has_mpls: true,
            stale: false,
        })
    }

    /// Reports everything, then the changes, and everything again if the changes are incomplete.
    async fn run(
        &mut self,
        events: &mpsc::Sender<Event>,
        wanted: &Notify,
        has_reported: &mut bool,
    ) -> Result<std::convert::Infallible, Stop> {
        loop {
            let begin = Instant::now();
            events.send(Event::Reset).await?;
            self.dump_all(events).await?;
            events.send(Event::Synced).await?;
            *has_reported = true;
            let pause = (begin.elapsed() * (RESYNC_SHARE - 1)).max(RESYNC_INTERVAL_MIN);
            let not_before = Instant::now() + pause;
            let resync = std::mem::take(&mut self.stale).then_some(not_before);
            self.follow(events, wanted, resync, not_before).await?;
        }
    }

    /// Reports changes until something happens that the kernel does not report in full: IPv4 routes disappear without a
    /// report when their interface goes down, or their source address or nexthop object is removed. `resync`: when to
    /// stop in any case; `wanted`: a new report was requested.
    async fn follow(
        &mut self,
        events: &mpsc::Sender<Event>,
        wanted: &Notify,
        mut resync: Option<Instant>,
        not_before: Instant,
    ) -> Result<(), Stop> {
        loop {
            let message = tokio::select! {
                biased;
                () = wanted.notified() => return Ok(()),
                () = sleep_until(resync) => return Ok(()),
                message = self.next() => message?,
            };
            for event in events_of(message, self.routing) {
                if self.takes_routes_along(&event) {
                    resync.get_or_insert((Instant::now() + RESYNC_DELAY).max(not_before));
                }
                events.send(event).await?;
            }
        }
    }

    async fn dump_all(&mut self, events: &mpsc::Sender<Event>) -> Result<(), Stop> {
        let has_mpls = !self.routing || dump::has_mpls();
        if self.has_mpls && !has_mpls {
            tracing::warn!(
                "the kernel has no MPLS, so there are no label routes to follow: `modprobe mpls_router mpls_iptunnel`"
            );
        }
        self.has_mpls = has_mpls;
        let mut links = LinkMessage::default();
        links
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        // Changes reported since then are newer than the dump.
        let mut changed = HashSet::new();
        let mut requests = vec![
            Request::from(RouteNetlinkMessage::GetLink(links)),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()).into(),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()).into(),
        ];
        if self.routing {
            requests.push(Request::objects());
        }
        requests.extend([AddressFamily::Inet, AddressFamily::Inet6].map(Request::routes));
        if self.routing && has_mpls {
            requests.extend([Request::routes(AddressFamily::Mpls), Request::inputs()]);
        }
        for request in requests {
            let mut attempt = 1;
            while self.dump(&request, &mut changed, events).await? == Dump::Interrupted && attempt < DUMP_ATTEMPTS {
                attempt += 1;
            }
        }
        Ok(())
    }

    async fn dump(
        &mut self,
        request: &Request,
        changed: &mut HashSet<Subject>,
        events: &mpsc::Sender<Event>,
    ) -> Result<Dump, Stop> {
        self.sequence += 1;
        let message = request.with_sequence(self.sequence);
        self.socket.send_to(&message, &SocketAddr::new(0, 0)).await?;
        let mut outcome = Dump::Complete;
        loop {
            let received = self.next().await?;
            let message = &received.message;
            let header = &message.header;
            let is_answer = header.port_number == self.port && header.sequence_number == self.sequence;
            if is_answer && header.flags & NLM_F_DUMP_INTR != 0 {
                outcome = Dump::Interrupted;
            }
            match &message.payload {
                NetlinkPayload::Done(_) if is_answer => return Ok(outcome),
                NetlinkPayload::Error(error) if is_answer => return Err(Stop::Socket(error_of(error))),
                _ => {}
            }
            for event in events_of(received, self.routing) {
                // The rest of the dump may still have the route that was replaced.
                let replaces = matches!(
                    event,
                    Event::Route {
                        position: RoutePosition::Replaces,
                        ..
                    }
                );
                self.stale |= !is_answer && (replaces || self.takes_routes_along(&event) || is_one_of_several(&event));
                match Subject::of(&event) {
                    Some(subject) if is_answer && changed.contains(&subject) => continue,
                    Some(subject) if !is_answer => changed.insert(subject),
                    _ => true,
                };
                events.send(event).await?;
            }
        }
    }

    /// Whether routes may have disappeared without a report, or label routes have become available.
    fn takes_routes_along(&self, event: &Event) -> bool {
        match event {
            Event::Link(link) => !link.up,
            Event::LinkGone(_) | Event::AddressGone(_) | Event::NextHopObjectGone => true,
            Event::Routing(message) => !self.has_mpls && matches!(**message, Message::Input { .. }),
            _ => false,
        }
    }

    /// The next readable message.
    async fn next(&mut self) -> io::Result<Received> {
        loop {
            if self.datagram.is_empty() {
                self.datagram.reserve(DATAGRAM_BYTES);
                self.socket.recv_from(&mut self.datagram).await?;
            }
            if let Some(message) = take_message(&mut self.datagram)? {
                return Ok(message);
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Dump {
    Complete,
    /// The kernel's table changed meanwhile, and entries may have been left out (NLM_F_DUMP_INTR).
    Interrupted,
}

/// Waits for ever if there is no time.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// What an event is about.
#[derive(PartialEq, Eq, Hash)]
enum Subject {
    Link(u32),
    Address(InterfaceAddress),
    Neighbour(u32, IpAddr),
    /// A route: one of its paths, with no interface.
    Route(KernelRoute),
    Destination(Destination),
    Object(u32),
    Input(u32),
}

impl Subject {
    fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Link(LinkInfo { ifindex, .. }) | Event::LinkGone(ifindex) => Some(Self::Link(*ifindex)),
            Event::Address(address) | Event::AddressGone(address) => Some(Self::Address(*address)),
            Event::Neighbour(Neighbour { ifindex, address, .. }) | Event::NeighbourGone { ifindex, address } => {
                Some(Self::Neighbour(*ifindex, *address))
            }
            Event::Route { route, .. } | Event::RouteGone(route) => {
                Some(Self::Route(KernelRoute { oif: None, ..*route }))
            }
            Event::Routing(message) => Some(match &**message {
                Message::Route { route, .. } | Message::RouteGone(route) => Self::Destination(route.destination),
                Message::Object(Object { id, .. }) | Message::ObjectGone(id) => Self::Object(*id),
                Message::Input { ifindex, .. } | Message::InputGone { ifindex } => Self::Input(*ifindex),
            }),
            Event::Reset | Event::Synced | Event::Rules | Event::NextHopObjectGone => None,
        }
    }
}

/// Whether one of several IP routes or paths for a prefix appeared or disappeared; a dump would report the others.
fn is_one_of_several(event: &Event) -> bool {
    let Event::Routing(message) = event else { return false };
    match &**message {
        Message::Route { route, position } => {
            matches!(route.destination, Destination::Prefix(_)) && *position != Position::Replaces
        }
        Message::RouteGone(route) => matches!(route.destination, Destination::Prefix(_)),
        _ => false,
    }
}

//! The kernel's side of the neighbours: a subscription that turns rtnetlink messages into [`Event`]s, and the requests that
//! the [`resolver`](crate::neighbour::resolver) wants made.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use mplsxdp_common::wire::{ETH_P_8021Q, Mac};
use netlink_packet_core::{
    Emitable, ErrorMessage, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL,
    NLM_F_MULTIPART, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    Parseable,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVlan, InfoVrf, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo as InfoAttribute, LinkMessage, LinkXdp, Stats64, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState as Nud,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::neighbour::{
    AttachMode, Event, InterfaceAddress, KernelRoute, LinkInfo, Lookup, Manager, Master, Neighbour, NeighbourState,
    ParentDevice, Peer, RouteKind, RoutePosition, Vlan, XdpAttachment,
};

/// What the kernel may hold for us before it loses events: room for tens of thousands of them.
pub const RECEIVE_BUFFER_BYTES: usize = 32 << 20;

/// Events under way to the controller.
const EVENTS: usize = 1024;
/// The kernel's largest dump datagram is 32 KiB.
const DATAGRAM_BYTES: usize = 1 << 17;
/// A request that the kernel does not answer within this time has been lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Between a lost subscription and the next: lets the burst pass that overran it.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);
/// Marks the neighbours that [`Netlink::probe`] makes (NDA_PROTOCOL), as the protocol of a route marks routes. It is free in
/// linux/rtnetlink.h and in iproute2's rt_protos.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(77);
/// Interfaces go down in groups: the routes that went with them are dumped once, after this time.
const RESYNC_DELAY: Duration = Duration::from_millis(100);
/// Resyncs take at most one part in this many of the time.
const RESYNC_SHARE: u32 = 5;
const RESYNC_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How often a dump is made again that the kernel says was interrupted by changes. These are reported as well, so that
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

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    #[error("{request}: the kernel says: {source}")]
    Refused { request: String, source: io::Error },
    #[error("{request}: the kernel has not answered within {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut { request: String },
    #[error("{request}: the netlink socket was lost")]
    Lost { request: String },
}

impl Error {
    fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => source.raw_os_error(),
            Self::TimedOut { .. } | Self::Lost { .. } => None,
        }
    }
}

/// Requests to the kernel, in the network namespace of the thread that opened it. Those of one task are carried out in the
/// order in which they are first polled.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Must be called within a tokio runtime whose threads stay in the present network namespace: a lost subscription is
    /// opened anew by them. The subscription ends when the receiver is dropped.
    pub fn open() -> Result<(Self, mpsc::Receiver<Event>), Error> {
        Self::open_with(RECEIVE_BUFFER_BYTES)
    }

    /// With another size of the subscription's receive buffer.
    pub fn open_with(receive_buffer_bytes: usize) -> Result<(Self, mpsc::Receiver<Event>), Error> {
        let netlink = Self::open_requests()?;
        let subscription = Subscription::open(receive_buffer_bytes).map_err(Error::Open)?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        tokio::spawn(follow(subscription, receive_buffer_bytes, sender));
        Ok((netlink, receiver))
    }

    /// Only for requests: no subscription.
    pub fn open_requests() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Which way the kernel would send to `address`; with `oif`, out of that interface, or within that VRF.
    pub async fn route_lookup(&self, address: IpAddr, oif: Option<u32>) -> Result<Lookup, Error> {
        let mut message = RouteMessage::default();
        let (family, length) = family_of(address);
        message.header.address_family = family;
        message.header.destination_prefix_length = length;
        message.attributes.push(RouteAttribute::Destination(address.into()));
        message.attributes.extend(oif.map(RouteAttribute::Oif));
        let request = format!("route look-up of {address}");
        match self
            .request(&request, RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST)
            .await
        {
            Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Ok(lookup_of(&route)),
            Ok(_) => Ok(Lookup::NoRoute),
            // IPv4 says by errors what IPv6 says by routes: none or throw, unreachable, prohibit, blackhole.
            Err(error) => match error.errno() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::ENETDOWN) => {
                    Ok(Lookup::NoRoute)
                }
                _ => Err(error),
            },
        }
    }

    /// Has the kernel resolve a neighbour, and keep it resolved if it can (NTF_EXT_MANAGED, Linux 5.16; before, the
    /// attribute is ignored). Never for one that is PERMANENT or NOARP: the kernel would take that state away.
    ///
    /// NTF_EXT_LEARNED exempts the entry from `gc_thresh3`, which limits the neighbours of all network namespaces together to
    /// 1024 by default: next hops beyond it would never be resolved, and neither would any other neighbour of the machine.
    /// NDA_PROTOCOL says whose the entry is.
    pub async fn probe(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let request = format!("probe of {address} on interface {ifindex}");
        let mut message = neighbour_use(ifindex, address, NeighbourExtFlags::Managed);
        message.header.flags |= NeighbourFlags::ExtLearned;
        message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(&request, RouteNetlinkMessage::NewNeighbour(message), flags)
            .await?;
        Ok(())
    }

    /// Takes back what [`Netlink::probe`] asked for: the neighbour ages like any other. One that is gone is success.
    pub async fn release(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let request = format!("release of {address} on interface {ifindex}");
        let message = neighbour_use(ifindex, address, NeighbourExtFlags::empty());
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE;
        match self
            .request(&request, RouteNetlinkMessage::NewNeighbour(message), flags)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The interface of this name; `None` where there is none.
    pub async fn link(&self, name: &str) -> Result<Option<LinkInfo>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let request = format!("interface {name}");
        match self
            .request(&request, RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)
            .await
        {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(link_info(&link)),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All interfaces.
    pub async fn links(&self) -> Result<Vec<LinkInfo>, Error> {
        let links = self
            .handle
            .link()
            .get()
            .execute()
            .try_filter_map(async |link| Ok(link_info(&link)));
        listed("list of interfaces", links.try_collect()).await
    }

    /// The kernel's counters of an interface (IFLA_STATS64); `None` where it is gone.
    pub async fn link_counters(&self, ifindex: u32) -> Result<Option<Stats64>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let request = format!("counters of interface {ifindex}");
        match self
            .request(&request, RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)
            .await
        {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => {
                Ok(link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::Stats64(stats) => Some(stats),
                    _ => None,
                }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The kernel's neighbour table, by interface and address.
    pub async fn neighbours(&self) -> Result<HashMap<(u32, IpAddr), NeighbourEntry>, Error> {
        let entries = self.handle.neighbours().get().execute();
        let entries = entries.try_filter_map(async |message| Ok(neighbour_entry(&message)));
        listed("list of neighbours", entries.try_collect()).await
    }

    /// Makes a veth pair, down at both ends. Neither end asks for neighbours (NOARP); both have this MAC address and MTU.
    pub async fn add_veth(&self, ends: [&str; 2], mac: Mac, mtu: u32) -> Result<(), Error> {
        let end = |name: &str| {
            let mut end = LinkMessage::default();
            end.header.flags = LinkFlags::Noarp;
            end.header.change_mask = LinkFlags::Noarp;
            end.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Address(mac.0.to_vec()),
                LinkAttribute::Mtu(mtu),
                // Nothing is left to the other end to cut up, whatever features the kernel leaves on.
                LinkAttribute::GsoMaxSegs(1),
            ];
            end
        };
        let [name, peer] = ends;
        let mut message = end(name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            InfoAttribute::Kind(InfoKind::Veth),
            InfoAttribute::Data(InfoData::Veth(InfoVeth::Peer(end(peer)))),
        ]));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(
            &format!("new veth pair {name} and {peer}"),
            RouteNetlinkMessage::NewLink(message),
            flags,
        )
        .await?;
        Ok(())
    }

    pub async fn set_link_up(&self, ifindex: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.set_link("setting up", ifindex, message).await
    }

    pub async fn set_link_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link(&format!("MTU {mtu} for"), ifindex, message).await
    }

    /// A text of at most 255 bytes that says what the interface is for.
    pub async fn set_link_alias(&self, ifindex: u32, alias: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.set_link("alias of", ifindex, message).await
    }

    /// `None` where it has none, or is gone.
    pub async fn link_alias(&self, ifindex: u32) -> Result<Option<String>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let request = format!("alias of interface {ifindex}");
        match self
            .request(&request, RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)
            .await
        {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => {
                Ok(link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfAlias(alias) => Some(alias),
                    _ => None,
                }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes an interface, and the other end with it where it is one of a pair. One that is gone is success.
    pub async fn remove_link(&self, ifindex: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let request = format!("removal of interface {ifindex}");
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        match self
            .request(&request, RouteNetlinkMessage::DelLink(message), flags)
            .await
        {
            Err(error) if error.errno() != Some(libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }

    /// The number that this network namespace has for another one; `None` if it has none.
    pub async fn netns_id(&self, netns: &File) -> Result<Option<i32>, Error> {
        let mut message = NsidMessage::default();
        let file = u32::try_from(netns.as_raw_fd()).map_err(|error| Error::Open(io::Error::other(error)))?;
        message.attributes.push(NsidAttribute::Fd(file));
        let answer = self
            .request(
                "number of a network namespace",
                RouteNetlinkMessage::GetNsId(message),
                NLM_F_REQUEST,
            )
            .await?;
        let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else {
            return Ok(None);
        };
        Ok(answer.attributes.iter().find_map(|attribute| match attribute {
            // NETNSA_NSID_NOT_ASSIGNED is -1.
            NsidAttribute::Id(id) => Some(*id).filter(|&id| id >= 0),
            _ => None,
        }))
    }

    async fn set_link(&self, what: &str, ifindex: u32, mut message: LinkMessage) -> Result<(), Error> {
        message.header.index = ifindex;
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        self.request(
            &format!("{what} interface {ifindex}"),
            RouteNetlinkMessage::SetLink(message),
            flags,
        )
        .await?;
        Ok(())
    }

    /// The first answer, if there is more than an acknowledgement.
    async fn request(
        &self,
        request: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let request = || request.to_owned();
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        let mut answers = self
            .handle
            .clone()
            .request(message)
            .map_err(|_| Error::Lost { request: request() })?;
        match timeout(REQUEST_TIMEOUT, answers.next()).await {
            Err(_) => Err(Error::TimedOut { request: request() }),
            Ok(None) => Ok(None),
            Ok(Some(answer)) => match answer.payload {
                NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                NetlinkPayload::Error(error) if error.code.is_some() => Err(Error::Refused {
                    request: request(),
                    source: error_of(&error),
                }),
                _ => Ok(None),
            },
        }
    }
}

/// The outcome of a dump.
async fn listed<T>(request: &str, list: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, Error> {
    let request = || request.to_owned();
    match timeout(REQUEST_TIMEOUT, list).await {
        Ok(Ok(list)) => Ok(list),
        Ok(Err(rtnetlink::Error::NetlinkError(error))) => Err(Error::Refused {
            request: request(),
            source: error_of(&error),
        }),
        Ok(Err(_)) => Err(Error::Lost { request: request() }),
        Err(_) => Err(Error::TimedOut { request: request() }),
    }
}

/// An entry of the kernel's neighbour table, as `ip -s neigh` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NeighbourEntry {
    /// Such as `REACHABLE`.
    pub state: String,
    pub refcnt: u32,
    /// How many seconds ago it was used.
    pub used: u64,
    pub confirmed: u64,
    pub updated: u64,
    /// How often the kernel has asked since it last heard of the neighbour.
    pub probes: u32,
}

fn neighbour_entry(message: &NeighbourMessage) -> Option<((u32, IpAddr), NeighbourEntry)> {
    let Neighbour { ifindex, address, .. } = neighbour(message)?;
    let mut probes = 0;
    let mut cache = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::CacheInfo(info) => cache = Some(info),
            NeighbourAttribute::Probes(count) => probes = *count,
            _ => {}
        }
    }
    let cache = cache?;
    // Times come in ticks of USER_HZ.
    let seconds = |ticks: u32| u64::from(ticks) / rustix::param::clock_ticks_per_second();
    let entry = NeighbourEntry {
        state: message.header.state.to_string().to_uppercase(),
        refcnt: cache.refcnt,
        used: seconds(cache.used),
        confirmed: seconds(cache.confirmed),
        updated: seconds(cache.updated),
        probes,
    };
    Some(((ifindex, address), entry))
}

/// What the kernel says went wrong. Unlike [`ErrorMessage::to_io`] it takes every number.
pub(crate) fn error_of(message: &ErrorMessage) -> io::Error {
    io::Error::from_raw_os_error(message.raw_code().saturating_abs())
}

/// RTM_NEWNEIGH with NTF_USE: resolve the neighbour as if a packet were to be sent to it.
fn neighbour_use(ifindex: u32, address: IpAddr, flags: NeighbourExtFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address).0;
    message.header.ifindex = ifindex;
    message.header.flags = NeighbourFlags::Use;
    message.attributes = vec![
        NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }),
        NeighbourAttribute::ExtFlags(flags),
    ];
    message
}

fn family_of(address: IpAddr) -> (AddressFamily, u8) {
    match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}

fn lookup_of(route: &RouteMessage) -> Lookup {
    let oif = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    });
    match (route.header.kind, oif) {
        (RouteType::Local, _) => Lookup::Local,
        (RouteType::Unicast, Some(ifindex)) => Lookup::Interface(ifindex),
        _ => Lookup::NoRoute,
    }
}

/// Keeps a subscription going for as long as somebody listens.
async fn follow(first: Subscription, receive_buffer_bytes: usize, events: mpsc::Sender<Event>) {
    let mut subscription = Ok(first);
    while !events.is_closed() {
        let lost = match subscription {
            Ok(mut subscription) => tokio::select! {
                lost = subscription.run(&events) => lost,
                () = events.closed() => return,
            },
            Err(error) => Err(Stop::Socket(error)),
        };
        match lost {
            Ok(never) => match never {},
            Err(Stop::NobodyListens) => return,
            Err(Stop::Socket(error)) => {
                tracing::warn!("netlink subscription lost ({error}): starting anew with a full dump");
            }
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
        subscription = Subscription::open(receive_buffer_bytes);
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

/// One socket that hears of every change, and makes the dumps too: so dump and changes come in one sequence.
struct Subscription {
    socket: TokioSocket,
    /// Netlink's name for this socket: answers to others have another.
    port: u32,
    sequence: u32,
    datagram: BytesMut,
    /// What a dump told may be out of date: something happened meanwhile that is not reported in full.
    stale: bool,
}

impl Subscription {
    fn open(receive_buffer_bytes: usize) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let inner = socket.socket_mut();
        let port = inner.bind_auto()?.port_number();
        // The limit of net.core.rmem_max holds for those without CAP_NET_ADMIN.
        if setsockopt(inner, sockopt::RcvBufForce, &receive_buffer_bytes).is_err() {
            setsockopt(inner, sockopt::RcvBuf, &receive_buffer_bytes)?;
        }
        for group in GROUPS {
            inner.add_membership(group as u32)?;
        }
        Ok(Self {
            socket,
            port,
            sequence: 0,
            datagram: BytesMut::new(),
            stale: false,
        })
    }

    /// Reports everything, then the changes, and everything anew where the changes do not tell all.
    async fn run(&mut self, events: &mpsc::Sender<Event>) -> Result<std::convert::Infallible, Stop> {
        loop {
            let begin = Instant::now();
            events.send(Event::Reset).await?;
            self.dump_all(events).await?;
            events.send(Event::Synced).await?;
            let pause = (begin.elapsed() * (RESYNC_SHARE - 1)).max(RESYNC_INTERVAL_MIN);
            let not_before = Instant::now() + pause;
            let resync = std::mem::take(&mut self.stale).then_some(not_before);
            self.follow(events, resync, not_before).await?;
        }
    }

    /// Reports changes until something happened that the kernel does not report in full: IPv4 routes go without a word
    /// when their interface goes down, or their source address or nexthop object is removed. `resync`: when to stop in any case.
    async fn follow(
        &mut self,
        events: &mpsc::Sender<Event>,
        mut resync: Option<Instant>,
        not_before: Instant,
    ) -> Result<(), Stop> {
        loop {
            let message = match resync {
                None => self.next().await?,
                Some(due) => match tokio::time::timeout_at(due.into(), self.next()).await {
                    Ok(message) => message?,
                    Err(_) => return Ok(()),
                },
            };
            for event in events_of(message) {
                if takes_routes_along(&event) {
                    resync.get_or_insert((Instant::now() + RESYNC_DELAY).max(not_before));
                }
                events.send(event).await?;
            }
        }
    }

    async fn dump_all(&mut self, events: &mpsc::Sender<Event>) -> Result<(), Stop> {
        let mut links = LinkMessage::default();
        links
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let routes = |family| {
            let mut routes = RouteMessage::default();
            routes.header.address_family = family;
            RouteNetlinkMessage::GetRoute(routes)
        };
        // What a change has told of since is newer than what the dump says.
        let mut changed = HashSet::new();
        for request in [
            RouteNetlinkMessage::GetLink(links),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            routes(AddressFamily::Inet),
            routes(AddressFamily::Inet6),
        ] {
            let mut attempt = 1;
            while self.dump(request.clone(), &mut changed, events).await? == Dump::Interrupted
                && attempt < DUMP_ATTEMPTS
            {
                attempt += 1;
            }
        }
        Ok(())
    }

    async fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        changed: &mut HashSet<Subject>,
        events: &mpsc::Sender<Event>,
    ) -> Result<Dump, Stop> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send_to(&buffer, &SocketAddr::new(0, 0)).await?;
        let mut outcome = Dump::Complete;
        loop {
            let message = self.next().await?;
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
            for event in events_of(message) {
                // What was replaced may be in what is left of the dump.
                let replaces = matches!(
                    event,
                    Event::Route {
                        position: RoutePosition::Replaces,
                        ..
                    }
                );
                self.stale |= !is_answer && (replaces || takes_routes_along(&event));
                match Subject::of(&event) {
                    Some(subject) if is_answer && changed.contains(&subject) => continue,
                    Some(subject) if !is_answer => changed.insert(subject),
                    _ => true,
                };
                events.send(event).await?;
            }
        }
    }

    /// The next message that can be read.
    async fn next(&mut self) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
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

/// Takes the next message off a datagram; `None` where it is one that this version cannot read. An error where what follows is no
/// message, or the kernel says that some were lost.
pub(super) fn take_message(datagram: &mut BytesMut) -> io::Result<Option<NetlinkMessage<RouteNetlinkMessage>>> {
    let length = match NetlinkBuffer::new_checked(&datagram[..]) {
        Ok(message) => (message.length() as usize).next_multiple_of(4).min(datagram.len()),
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
    };
    let bytes = datagram.split_to(length);
    // The library knows no nexthop objects.
    if let Ok(buffer) = NetlinkBuffer::new_checked(&bytes[..])
        && [nexthop_message::NEW, nexthop_message::DEL].contains(&buffer.message_type())
    {
        let header = NetlinkHeader::parse(&buffer).map_err(|error| io::Error::other(error.to_string()))?;
        return Ok(Some(NetlinkMessage::new(header, NetlinkPayload::Noop)));
    }
    match NetlinkMessage::deserialize(&bytes) {
        Ok(message) if matches!(message.payload, NetlinkPayload::Overrun(_)) => {
            Err(io::Error::from_raw_os_error(libc::ENOBUFS))
        }
        Ok(message) => Ok(Some(message)),
        Err(error) => {
            // One message says nothing about the others.
            tracing::warn!("cannot read a netlink message: {error}");
            Ok(None)
        }
    }
}

#[derive(PartialEq, Eq)]
enum Dump {
    Complete,
    /// The kernel's table changed meanwhile, and entries may have been left out (NLM_F_DUMP_INTR).
    Interrupted,
}

/// Message types of nexthop objects (linux/rtnetlink.h).
mod nexthop_message {
    pub const NEW: u16 = 104;
    pub const DEL: u16 = 105;
}

/// What an event is about.
#[derive(PartialEq, Eq, Hash)]
enum Subject {
    Link(u32),
    Address(InterfaceAddress),
    Neighbour(u32, IpAddr),
    /// A route: one of its paths, with no interface.
    Route(KernelRoute),
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
            Event::Reset | Event::Synced | Event::Rules | Event::NextHopObjectGone => None,
        }
    }
}

fn takes_routes_along(event: &Event) -> bool {
    match event {
        Event::Link(link) => !link.up,
        Event::LinkGone(_) | Event::AddressGone(_) | Event::NextHopObjectGone => true,
        _ => false,
    }
}

pub(super) fn events_of(message: NetlinkMessage<RouteNetlinkMessage>) -> Vec<Event> {
    let header = message.header;
    if header.message_type == nexthop_message::DEL {
        return vec![Event::NextHopObjectGone];
    }
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return Vec::new();
    };
    let event = match message {
        RouteNetlinkMessage::NewLink(link) => link_info(&link).map(Event::Link),
        RouteNetlinkMessage::DelLink(link) => link_info(&link).map(|link| Event::LinkGone(link.ifindex)),
        RouteNetlinkMessage::NewAddress(address) => interface_address(&address).map(Event::Address),
        RouteNetlinkMessage::DelAddress(address) => interface_address(&address).map(Event::AddressGone),
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbour(&message).map(|Neighbour { ifindex, address, .. }| Event::NeighbourGone { ifindex, address })
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Event::Rules),
        RouteNetlinkMessage::NewRoute(route) => {
            // IPv6 puts what is new behind all others; a dump has them in order.
            let last = route.header.address_family == AddressFamily::Inet6
                || header.flags & (NLM_F_APPEND | NLM_F_MULTIPART) != 0;
            let others = if last {
                RoutePosition::Last
            } else {
                RoutePosition::First
            };
            let replaces = header.flags & NLM_F_REPLACE != 0 && header.flags & NLM_F_MULTIPART == 0;
            let first = if replaces { RoutePosition::Replaces } else { others };
            let positions = std::iter::once(first).chain(std::iter::repeat(others));
            let paths = kernel_routes(&route).into_iter().zip(positions);
            return Vec::from_iter(paths.map(|(route, position)| Event::Route { route, position }));
        }
        RouteNetlinkMessage::DelRoute(route) => {
            return Vec::from_iter(kernel_routes(&route).into_iter().map(Event::RouteGone));
        }
        _ => None,
    };
    Vec::from_iter(event)
}

/// `None` for what bridges say of their ports, which is not about the interface itself (AF_BRIDGE).
fn link_info(message: &LinkMessage) -> Option<LinkInfo> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut name = None;
    let mut link = LinkInfo {
        ifindex: message.header.index,
        name: "".into(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        noarp: flags.contains(LinkFlags::Noarp),
        kind: None,
        master: None,
        xdp: None,
        peer: None,
        vlan: None,
        vrf_table: None,
        parent: None,
    };
    let mut peer = None;
    let (mut master, mut member_kind) = (None, None);
    let (mut bus, mut device) = (None, None);
    let mut netns = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value),
            LinkAttribute::Address(value) => link.mac = value.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Mtu(value) => link.mtu = *value,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    InfoAttribute::Kind(kind) => Some(InfoKind::to_string(kind)),
                    _ => None,
                });
                link.vlan = infos.iter().find_map(|info| match info {
                    InfoAttribute::Data(InfoData::Vlan(attributes)) => vlan(attributes),
                    _ => None,
                });
                link.vrf_table = infos.iter().find_map(|info| match info {
                    InfoAttribute::Data(InfoData::Vrf(attributes)) => vrf_table(attributes),
                    _ => None,
                });
                member_kind = infos.iter().find_map(|info| match info {
                    InfoAttribute::PortKind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(attributes) => link.xdp = xdp_attachment(attributes),
            LinkAttribute::Link(ifindex) if *ifindex != 0 => peer = Some(*ifindex),
            LinkAttribute::LinkNetNsId(id) => netns = Some(*id),
            LinkAttribute::Controller(ifindex) if *ifindex != 0 => master = Some(*ifindex),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name.clone()),
            LinkAttribute::ParentDevName(name) => device = Some(name.clone()),
            _ => {}
        }
    }
    link.name = name?.as_str().into();
    link.peer = peer.map(|ifindex| Peer { ifindex, netns });
    link.master = master.map(|ifindex| Master {
        ifindex,
        kind: member_kind,
    });
    link.parent = bus.zip(device).map(|(bus, device)| ParentDevice { bus, device });
    Some(link)
}

fn vlan(attributes: &[InfoVlan]) -> Option<Vlan> {
    let mut tpid = ETH_P_8021Q;
    let mut vid = None;
    for attribute in attributes {
        match attribute {
            InfoVlan::Id(id) => vid = Some(*id),
            InfoVlan::Protocol(protocol) => tpid = (*protocol).into(),
            _ => {}
        }
    }
    Some(Vlan { tpid, vid: vid? })
}

fn vrf_table(attributes: &[InfoVrf]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

fn xdp_attachment(attributes: &[LinkXdp]) -> Option<XdpAttachment> {
    let mut mode = None;
    let mut program = None;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(AttachMode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(AttachMode::Generic),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some(AttachMode::Offload),
            LinkXdp::Attached(XdpAttached::Multiple) => mode = Some(AttachMode::Several),
            LinkXdp::ProgId(id) => program = Some(*id),
            // Where there are several, only these tell.
            LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => program = program.or(Some(*id)),
            _ => {}
        }
    }
    Some(XdpAttachment {
        program: program?,
        mode: mode?,
    })
}

fn interface_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let find = |choose: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(choose);
    // On a point-to-point interface IFA_ADDRESS is the other end's.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some(InterfaceAddress {
        ifindex: message.header.index,
        address: IpNet::new(address, message.header.prefix_len).ok()?,
    })
}

/// `None` for what is neither ARP's nor ND's (bridges' forwarding entries, proxies).
fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    let mut managed = false;
    let mut marked = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => address = Some(IpAddr::from(*value)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => address = Some(IpAddr::from(*value)),
            NeighbourAttribute::LinkLayerAddress(value) => mac = value.as_slice().try_into().ok().map(Mac),
            NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(protocol) => marked = *protocol == PROTOCOL,
            _ => {}
        }
    }
    let state = match (message.header.state, mac) {
        (Nud::Failed, _) => NeighbourState::Failed,
        (Nud::Permanent, Some(mac)) => NeighbourState::Permanent(mac),
        (Nud::Noarp, Some(mac)) => NeighbourState::NoArp(mac),
        (Nud::Stale, Some(mac)) => NeighbourState::Stale(mac),
        (Nud::Reachable | Nud::Delay | Nud::Probe, Some(mac)) => NeighbourState::Reachable(mac),
        _ => NeighbourState::Incomplete,
    };
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address: address?,
        state,
        managed: match (managed, marked) {
            (false, _) => None,
            (true, true) => Some(Manager::Mplsxdp),
            (true, false) => Some(Manager::Other),
        },
    })
}

/// One for each path; none for what is not a route of IPv4 or IPv6, or only a cached one.
fn kernel_routes(message: &RouteMessage) -> Vec<KernelRoute> {
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => [0; 4].into(),
        AddressFamily::Inet6 => [0; 16].into(),
        _ => return Vec::new(),
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return Vec::new();
    }
    let mut destination = unspecified;
    let mut table = header.table.into();
    let mut metric = 0;
    let mut object = 0;
    let mut selector = DefaultHasher::new();
    (header.tos, header.source_prefix_length).hash(&mut selector);
    // What is said once of all paths of an IPv4 route. IPv6 may change it under a route.
    let mut common = DefaultHasher::new();
    if header.address_family == AddressFamily::Inet {
        (u8::from(header.protocol), u8::from(header.scope)).hash(&mut common);
    }
    let mut ways = Vec::new();
    let mut only = Way::default();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::NhId(id) => object = *id,
            RouteAttribute::Oif(ifindex) => only.oif = Some(*ifindex),
            RouteAttribute::MultiPath(paths) => ways.extend(paths.iter().map(|path| {
                let mut way = Way {
                    oif: Some(path.interface_index),
                    weight: path.hops,
                    ..Way::default()
                };
                path.attributes.iter().for_each(|attribute| way.take(attribute));
                way
            })),
            RouteAttribute::Source(_) => hash_attribute(attribute, &mut selector),
            RouteAttribute::PrefSource(_) | RouteAttribute::Metrics(_)
                if header.address_family == AddressFamily::Inet =>
            {
                hash_attribute(attribute, &mut common);
            }
            other => only.take(other),
        }
    }
    if ways.is_empty() {
        ways.push(only);
    }
    let Ok(prefix) = IpNet::new(destination, header.destination_prefix_length) else {
        return Vec::new();
    };
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Anycast => RouteKind::Anycast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Other,
    };
    let each_is_a_route = header.address_family == AddressFamily::Inet6 && object == 0;
    object.hash(&mut common);
    if object == 0 && !each_is_a_route {
        ways.hash(&mut common);
    }
    // A router's advertisement makes routes that share with nobody.
    let may_share = each_is_a_route && header.protocol != RouteProtocol::Ra;
    let selector = selector.finish();
    let route = |way: Way| KernelRoute {
        prefix,
        table,
        metric,
        selector,
        kind,
        shares: may_share && way.gateway,
        entry: if each_is_a_route {
            let mut entry = DefaultHasher::new();
            (way.oif, &way.bytes).hash(&mut entry);
            entry.finish()
        } else {
            common.finish()
        },
        oif: way.oif,
    };
    Vec::from_iter(ways.into_iter().map(route))
}

/// One of the ways that a route goes, as the kernel tells them apart.
#[derive(Default, Hash)]
struct Way {
    oif: Option<u32>,
    gateway: bool,
    /// Gateway and encapsulation, as attributes.
    bytes: Vec<u8>,
    weight: u8,
}

impl Way {
    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => self.gateway = true,
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => {}
            _ => return,
        }
        let start = self.bytes.len();
        self.bytes.resize(start + attribute.buffer_len(), 0);
        attribute.emit(self.bytes.get_mut(start..).unwrap_or_default());
    }
}

fn hash_attribute(attribute: &RouteAttribute, hasher: &mut DefaultHasher) {
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes.hash(hasher);
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::InfoPortKind;

    use super::*;

    #[test]
    fn a_vrf_device_has_a_table_and_nothing_else_has() {
        let info = |kind, data| {
            let mut message = LinkMessage::default();
            message.header.index = 9;
            message.attributes = vec![
                LinkAttribute::IfName("red".into()),
                LinkAttribute::LinkInfo(vec![InfoAttribute::Kind(kind), InfoAttribute::Data(data)]),
            ];
            link_info(&message).unwrap()
        };
        let vrf = info(InfoKind::Vrf, InfoData::Vrf(vec![InfoVrf::TableId(1000)]));
        assert_eq!((vrf.kind.as_deref(), vrf.vrf_table), (Some("vrf"), Some(1000)));
        let vlan = info(InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(100)]));
        assert_eq!((vlan.kind.as_deref(), vlan.vrf_table), (Some("vlan"), None));
    }

    #[test]
    fn a_member_of_a_vrf_keeps_its_addresses() {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.attributes = vec![
            LinkAttribute::IfName("eth1".into()),
            LinkAttribute::Controller(9),
            LinkAttribute::LinkInfo(vec![InfoAttribute::PortKind(InfoPortKind::Vrf)]),
        ];
        let link = link_info(&message).unwrap();
        assert_eq!(link.master.as_ref().map(|master| master.ifindex), Some(9));
        assert_eq!((link.vrf_table, link.ip_ifindex()), (None, 2));
    }
}

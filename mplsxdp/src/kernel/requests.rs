//! Requests to rtnetlink, each with its answer.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use mplsxdp_common::fib::FibLookup;
use mplsxdp_common::ip::Family;
use mplsxdp_common::wire::Mac;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo as InfoAttribute, LinkMessage, Stats64,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::LocalRoute;
use super::decoding::{error_of, gateway_of, link_info, lookup_of, neighbour_entry, valid_mac};
use super::subscription::{self, Events, Interests};
use crate::neighbour::{LinkInfo, Lookup, Peer};

/// A request that the kernel does not answer within this time is lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Marks the neighbours that [`Netlink::probe`] creates (NDA_PROTOCOL), as a protocol marks routes. The number is free
/// in linux/rtnetlink.h and in iproute2's rt_protos.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(77);

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
    #[error(
        "cannot read the kernel's interfaces, addresses, neighbours and routes: {}",
        .0.as_deref().unwrap_or("the netlink reader has ended")
    )]
    NoReports(Option<String>),
}

impl Error {
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => source.raw_os_error(),
            Self::TimedOut { .. } | Self::Lost { .. } | Self::NoReports(_) => None,
        }
    }
}

/// Requests to the kernel, in the network namespace of the thread that opened it. The requests of a task are sent in
/// the order in which they are first polled.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    resync: Arc<Notify>,
}

impl Netlink {
    /// Opens it with the kernel's reports, as [`subscription::events`].
    pub fn open() -> Result<(Self, Events), Error> {
        Self::open_with(Interests::default())
    }

    /// Opens it with reports of these interests.
    pub fn open_with(interests: Interests) -> Result<(Self, Events), Error> {
        let netlink = Self::open_requests()?;
        let (events, follow) = subscription::events(interests, Arc::clone(&netlink.resync)).map_err(Error::Open)?;
        tokio::spawn(follow);
        Ok((netlink, events))
    }

    /// Only for requests: no subscription. A thread of its own makes them, because the kernel carries them out in the
    /// system call: it may have to wait there until an interface with a thousand neighbours is down.
    pub fn open_requests() -> Result<Self, Error> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(Error::Open)?;
        let (connection, handle, _) = {
            let _within = runtime.enter();
            rtnetlink::new_connection().map_err(Error::Open)?
        };
        // It ends with the last handle.
        let thread = thread::Builder::new().name("netlink".into());
        thread
            .spawn(move || runtime.block_on(connection))
            .map_err(Error::Open)?;
        let resync = Arc::default();
        Ok(Self { handle, resync })
    }

    /// Requests a new report of everything.
    pub fn resync(&self) {
        self.resync.notify_one();
    }

    /// How the kernel would send to `address`; with `oif`, through that interface, or within that VRF.
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
            // IPv4 reports with errors what IPv6 reports with routes: none or throw, unreachable, prohibit, blackhole.
            Err(error) => match error.errno() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::ENETDOWN) => {
                    Ok(Lookup::NoRoute)
                }
                _ => Err(error),
            },
        }
    }

    /// How the kernel would forward a packet as a program asks it (`bpf_fib_lookup`) in the table of a VRF: the interface, and
    /// the neighbour's MAC address. `None`: only the kernel can handle the packet. A route question is the closest to it that
    /// a process can ask; among several next hops of a route, the kernel may choose another for the packet's flow.
    pub async fn fib_lookup(&self, question: &FibLookup) -> Result<Option<(u32, Mac)>, Error> {
        let destination = match (question.family(), question.destination()) {
            (Family::V4, [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
            (Family::V6, address) => IpAddr::from(address),
        };
        let mut message = RouteMessage::default();
        let (family, length) = family_of(destination);
        message.header.address_family = family;
        message.header.destination_prefix_length = length;
        message.attributes = vec![
            RouteAttribute::Destination(destination.into()),
            RouteAttribute::Oif(question.ifindex()),
        ];
        let request = format!("route look-up of {destination} in a VRF");
        let message = RouteNetlinkMessage::GetRoute(message);
        let route = match self.request(&request, message, NLM_F_REQUEST).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(route))) => route,
            Ok(_) | Err(Error::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Lookup::Interface(ifindex) = lookup_of(&route) else {
            return Ok(None);
        };
        let neighbour = gateway_of(&route).unwrap_or(destination);
        let entry = self.neighbour(ifindex, neighbour).await?;
        let mac = entry.as_ref().and_then(valid_mac);
        Ok(mac.map(|mac| (ifindex, mac)))
    }

    /// Makes the kernel resolve a neighbour, and keep it resolved if it can (NTF_EXT_MANAGED, Linux 5.16; older kernels
    /// ignore the attribute). Never for one that is PERMANENT or NOARP: the kernel would remove that state.
    ///
    /// NTF_EXT_LEARNED exempts the entry from `gc_thresh3`, which limits the neighbours of all network namespaces
    /// together to 1024 by default: next hops beyond it would never be resolved, nor any other neighbour of the
    /// machine. NDA_PROTOCOL identifies the owner of the entry.
    pub async fn probe(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        if self.is_permanent(ifindex, address).await? {
            return Ok(());
        }
        let request = format!("probe of {address} on interface {ifindex}");
        let mut message = neighbour_use(ifindex, address, NeighbourExtFlags::Managed);
        message.header.flags |= NeighbourFlags::ExtLearned;
        message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(&request, RouteNetlinkMessage::NewNeighbour(message), flags)
            .await?;
        Ok(())
    }

    /// Whether the kernel has a MAC address for the neighbour that it does not ask for. The event that reports it may
    /// not have been read yet.
    async fn is_permanent(&self, ifindex: u32, address: IpAddr) -> Result<bool, Error> {
        let entry = self.neighbour(ifindex, address).await?;
        let state = entry.map(|entry| entry.header.state);
        Ok(matches!(state, Some(NeighbourState::Permanent | NeighbourState::Noarp)))
    }

    /// `None` if the kernel has no entry for it.
    async fn neighbour(&self, ifindex: u32, address: IpAddr) -> Result<Option<NeighbourMessage>, Error> {
        let request = format!("neighbour {address} on interface {ifindex}");
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address).0;
        message.header.ifindex = ifindex;
        message.attributes = vec![NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        })];
        let message = RouteNetlinkMessage::GetNeighbour(message);
        match self.request(&request, message, NLM_F_REQUEST).await {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(entry))) => Ok(Some(entry)),
            Ok(_) | Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel ask a neighbour that is STALE, as a packet of its own to that neighbour would. Nothing else of the
    /// entry changes: NTF_USE without the flags that it has would take them off.
    pub async fn verify(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let entry = self.neighbour(ifindex, address).await?;
        let Some(entry) = entry.filter(|entry| entry.header.state == NeighbourState::Stale) else {
            return Ok(());
        };
        let ext_flags = entry.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::ExtFlags(flags) => Some(*flags),
            _ => None,
        });
        let request = format!("verification of {address} on interface {ifindex}");
        let mut message = neighbour_use(ifindex, address, ext_flags.unwrap_or_default());
        message.header.flags |= entry.header.flags;
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.request(&request, message, flags).await.map(drop)
    }

    /// Undoes [`Netlink::probe`]: the neighbour ages like any other. If it is gone, that is success.
    pub async fn release(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        if self.is_permanent(ifindex, address).await? {
            return Ok(());
        }
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

    /// The interface with this name; `None` if there is none.
    pub async fn link(&self, name: &str) -> Result<Option<LinkInfo>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(&format!("interface {name}"), message).await
    }

    /// The interface that another one is tied to. `None`: there is none.
    pub async fn peer(&self, peer: Peer) -> Result<Option<LinkInfo>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = peer.ifindex;
        message.attributes.extend(peer.netns.map(LinkAttribute::IfNetnsId));
        self.one_link(&format!("peer interface {}", peer.ifindex), message)
            .await
    }

    async fn one_link(&self, request: &str, message: LinkMessage) -> Result<Option<LinkInfo>, Error> {
        match self
            .request(request, RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)
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

    /// The kernel's counters of an interface (IFLA_STATS64); `None` if it is gone.
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

    /// Creates a veth pair, down at both ends. Neither end asks for neighbours (NOARP); both have this MAC address and
    /// MTU.
    pub async fn add_veth(&self, ends: [&str; 2], mac: Mac, mtu: u32) -> Result<(), Error> {
        let end = |name: &str| {
            let mut end = LinkMessage::default();
            end.header.flags = LinkFlags::Noarp;
            end.header.change_mask = LinkFlags::Noarp;
            end.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Address(mac.0.to_vec()),
                LinkAttribute::Mtu(mtu),
                // The other end must not have to segment anything, whatever features the kernel leaves on.
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

    /// Whether it receives frames for other stations, too, as `ip link set promisc on` has it. This outlives the process.
    pub async fn set_link_promiscuous(&self, ifindex: u32, on: bool) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.flags = if on { LinkFlags::Promisc } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Promisc;
        self.set_link("promiscuous mode of", ifindex, message).await
    }

    pub async fn set_link_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link(&format!("MTU {mtu} for"), ifindex, message).await
    }

    /// Sets the alias of the interface, at most 255 bytes that say what it is for.
    pub async fn set_link_alias(&self, ifindex: u32, alias: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.set_link("alias of", ifindex, message).await
    }

    /// `None` if it has none, or is gone.
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

    /// Removes an interface, and its other end if it is one of a pair. If it is gone, that is success.
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

    /// Adds a route to the main table, through an interface and without a next hop, marked as ours by [`PROTOCOL`].
    pub async fn add_route(&self, prefix: IpNet, src: Option<IpAddr>, ifindex: u32) -> Result<(), Error> {
        let request = format!("new route {prefix}");
        let message = RouteNetlinkMessage::NewRoute(device_route(prefix, src, ifindex));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(&request, message, flags).await.map(drop)
    }

    /// Removes what [`Netlink::add_route`] added. If it is gone, that is success.
    pub async fn remove_route(&self, prefix: IpNet, src: Option<IpAddr>, ifindex: u32) -> Result<(), Error> {
        let request = format!("removal of route {prefix}");
        let message = RouteNetlinkMessage::DelRoute(device_route(prefix, src, ifindex));
        match self.request(&request, message, NLM_F_REQUEST | NLM_F_ACK).await {
            Err(error) if error.errno() != Some(libc::ESRCH) => Err(error),
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

    /// The routes of the main table through an interface that [`Netlink::add_route`] has added, in any process.
    pub async fn own_routes(&self, ifindex: u32) -> Result<BTreeSet<LocalRoute>, Error> {
        let mut own = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let routes = self.handle.route().get(message).execute();
            let routes = routes.try_filter_map(async |route| Ok(local_route_of(&route, ifindex)));
            own.extend(listed("list of routes", routes.try_collect::<Vec<_>>()).await?);
        }
        Ok(own)
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

fn device_route(prefix: IpNet, src: Option<IpAddr>, ifindex: u32) -> RouteMessage {
    let (address_family, scope) = match prefix {
        IpNet::V4(_) => (AddressFamily::Inet, RouteScope::Link),
        // IPv6 has no other scope.
        IpNet::V6(_) => (AddressFamily::Inet6, RouteScope::Universe),
    };
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family,
        destination_prefix_length: prefix.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: PROTOCOL,
        scope,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(prefix.addr().into()),
        RouteAttribute::Oif(ifindex),
    ];
    message
        .attributes
        .extend(src.map(|src| RouteAttribute::PrefSource(src.into())));
    message
}

/// What [`device_route`] makes a message of.
fn local_route_of(message: &RouteMessage, ifindex: u32) -> Option<LocalRoute> {
    let RouteHeader {
        table,
        protocol,
        destination_prefix_length,
        ..
    } = message.header;
    if (table, protocol) != (RouteHeader::RT_TABLE_MAIN, PROTOCOL) {
        return None;
    }
    let (mut destination, mut src, mut oif) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address),
            RouteAttribute::PrefSource(address) => src = ip_of(address),
            RouteAttribute::Oif(index) => oif = Some(*index),
            _ => {}
        }
    }
    let prefix = IpNet::new(destination?, destination_prefix_length).ok()?;
    (oif == Some(ifindex)).then_some(LocalRoute { prefix, src })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
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

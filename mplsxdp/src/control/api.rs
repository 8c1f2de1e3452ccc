//! The types of the control socket, as `io.mplsxdp.varlink` describes them: what goes over the wire as JSON, and the
//! [`Request`]s and [`Reply`]s that the socket's server exchanges with the controller.

use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::TtlPropagate;
use mplsxdp_common::wire::Label;
use serde::{Deserialize, Serialize};

pub use crate::lfib::Mode as ChangeMode;
use crate::lfib::next_hops::Position;
pub use crate::lfib::route::Protocol;
use crate::lfib::route::{self, Action, Attributes, InvalidRoute, NextHop, OutLabels, RouteKey, Via};
use crate::lfib::spread::Spread;

/// The interface's name.
pub const INTERFACE: &str = "io.mplsxdp";
/// The interface's definition.
pub const DEFINITION: &str = include_str!("io.mplsxdp.varlink");

/// `type Route`. Of `label` and `prefix` exactly one is given; a route for a label with neither `out` nor `action` pops. What it
/// does is said by itself, or by each of its `nexthops`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RouteAction>,
    /// Outgoing labels, outermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<Vec<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_propagate: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ViaAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthops: Option<Vec<Path>>,
    /// `static` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

impl Route {
    /// One for each of its next hops.
    pub fn path_count(&self) -> usize {
        self.nexthops.as_ref().map_or(1, Vec::len)
    }
}

/// `type Path`: one of several ways on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Path {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RouteAction>,
    /// Outgoing labels, outermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<Vec<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ViaAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// 1 where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

/// `type Backup`: another neighbour, for while the next hop cannot be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    pub via: ViaAddress,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
}

/// `type RouteAction`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAction {
    Swap,
    Pop,
    PenultimatePop,
    Local,
    Push,
}

/// `type Via`: family and address, as `via inet 192.0.2.1`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViaAddress {
    pub family: ViaFamily,
    pub address: Box<str>,
}

/// `type ViaFamily`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViaFamily {
    Inet,
    Inet6,
    Link,
}

/// `type RouteKey`: exactly one of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
}

fn label(value: u32) -> Result<Label, InvalidRoute> {
    Label::new(value).ok_or_else(|| InvalidRoute(format!("{value} is not a label: labels are 0 to {}", Label::MAX)))
}

impl TryFrom<Key> for RouteKey {
    type Error = InvalidRoute;

    fn try_from(key: Key) -> Result<Self, InvalidRoute> {
        match (key.label, key.prefix) {
            (Some(value), None) => Ok(Self::Label(label(value)?)),
            (None, Some(prefix)) => Ok(Self::Prefix(prefix)),
            (None, None) => Err(InvalidRoute("neither a label nor a prefix".into())),
            (Some(_), Some(_)) => Err(InvalidRoute(
                "both a label and a prefix; a route has one of them".into(),
            )),
        }
    }
}

impl From<RouteKey> for Key {
    fn from(key: RouteKey) -> Self {
        match key {
            RouteKey::Label(label) => Self {
                label: Some(label.get()),
                prefix: None,
            },
            RouteKey::Prefix(prefix) => Self {
                label: None,
                prefix: Some(prefix),
            },
        }
    }
}

impl TryFrom<ViaAddress> for Via {
    type Error = InvalidRoute;

    fn try_from(via: ViaAddress) -> Result<Self, InvalidRoute> {
        let ViaAddress { family, address } = via;
        match family {
            ViaFamily::Inet => address
                .parse()
                .map(Self::Inet)
                .map_err(|_| "an IPv4 address, as 192.0.2.1"),
            ViaFamily::Inet6 => address
                .parse()
                .map(Self::Inet6)
                .map_err(|_| "an IPv6 address, as 2001:db8::1"),
            ViaFamily::Link => address
                .parse()
                .map(Self::Link)
                .map_err(|_| "a MAC address, as 52:54:00:12:34:56"),
        }
        .map_err(|right| InvalidRoute(format!("\"{address}\" is not {right}")))
    }
}

impl From<Via> for ViaAddress {
    fn from(via: Via) -> Self {
        let (family, address) = match via {
            Via::Inet(address) => (ViaFamily::Inet, address.to_string()),
            Via::Inet6(address) => (ViaFamily::Inet6, address.to_string()),
            Via::Link(mac) => (ViaFamily::Link, mac.to_string()),
        };
        Self {
            family,
            address: address.into(),
        }
    }
}

impl TryFrom<Route> for route::Route {
    type Error = InvalidRoute;

    fn try_from(api: Route) -> Result<Self, InvalidRoute> {
        let key = RouteKey::try_from(Key {
            label: api.label,
            prefix: api.prefix,
        })?;
        route::check_key(key)?;
        let ttl_propagate = match api.ttl_propagate {
            None => TtlPropagate::Default,
            Some(true) => TtlPropagate::Enabled,
            Some(false) => TtlPropagate::Disabled,
        };
        let by_itself = Path {
            action: api.action,
            out: api.out,
            ttl: api.ttl,
            via: api.via,
            dev: api.dev,
            backup: api.backup,
            weight: None,
        };
        let paths = match api.nexthops {
            None => vec![by_itself.checked(key)?],
            Some(_) if by_itself != Path::default() => {
                return Err(InvalidRoute(
                    "`nexthops` and a next hop or labels of the route itself: each of `nexthops` has its own".into(),
                ));
            }
            Some(paths) => paths
                .into_iter()
                .map(|path| path.checked(key))
                .collect::<Result<_, _>>()?,
        };
        let attributes = Attributes {
            protocol: api.protocol.unwrap_or_default(),
            metric: api.metric.unwrap_or_default(),
        };
        Self::with_paths(key, paths, ttl_propagate)?.with_attributes(attributes)
    }
}

/// By its name or number, as a string.
impl Serialize for Protocol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse()
            .map_err(|InvalidRoute(reason)| serde::de::Error::custom(reason))
    }
}

impl Path {
    fn checked(self, key: RouteKey) -> Result<route::Path, InvalidRoute> {
        let out = self
            .out
            .map(|out| out.into_iter().map(label).collect::<Result<Vec<_>, _>>())
            .transpose()?;
        let action = match (key, self.action, out) {
            // What iproute2 users write: `as 3`, and no `as` at all.
            (RouteKey::Label(_), None | Some(RouteAction::Swap | RouteAction::PenultimatePop), Some(out))
                if out == [Label::IMPLICIT_NULL] =>
            {
                Action::PenultimatePop
            }
            (RouteKey::Label(_), None | Some(RouteAction::Swap), Some(out)) => Action::Swap(OutLabels::new(out)?),
            (RouteKey::Label(_), None, None) if self.via.is_none() && self.dev.as_deref() == Some("lo") => {
                Action::Local
            }
            (RouteKey::Label(_), None | Some(RouteAction::Pop), None) => Action::Pop,
            (RouteKey::Label(_), Some(RouteAction::PenultimatePop), None) => Action::PenultimatePop,
            (RouteKey::Label(_), Some(RouteAction::Local), None) => Action::Local,
            (RouteKey::Label(_), Some(RouteAction::Swap), None) => {
                return Err(InvalidRoute("a swap needs `out`, the outgoing labels".into()));
            }
            (RouteKey::Label(_), Some(RouteAction::Push), _) => {
                return Err(InvalidRoute(
                    "`push` is for a prefix; a label takes `swap` with several labels".into(),
                ));
            }
            (RouteKey::Label(_), Some(_), Some(_)) => {
                return Err(InvalidRoute("`out` goes with the action `swap` only".into()));
            }
            (RouteKey::Prefix(_), None | Some(RouteAction::Push), Some(out)) => {
                let ttl = match self.ttl {
                    Some(ttl) => Some(
                        ttl.try_into()
                            .map_err(|_| InvalidRoute("ttl 0; it is 1 to 255".into()))?,
                    ),
                    None => None,
                };
                Action::Push {
                    labels: OutLabels::new(out)?,
                    ttl,
                }
            }
            (RouteKey::Prefix(prefix), _, _) => {
                return Err(InvalidRoute(format!(
                    "a route for a prefix pushes labels: `{prefix} encap mpls LABEL`"
                )));
            }
        };
        if self.ttl.is_some() && !matches!(action, Action::Push { .. }) {
            return Err(InvalidRoute(
                "`ttl` goes with `encap mpls`; for a label there is `ttl-propagate`".into(),
            ));
        }
        let via = self.via.map(Via::try_from).transpose()?;
        let next_hop = match (&action, via, self.dev) {
            (Action::Local, None, dev) if dev.as_deref().is_none_or(|dev| dev == "lo") => None,
            (Action::Local, _, _) => {
                return Err(InvalidRoute(
                    "`dev lo` keeps the packet on this box; it takes no `via` and no other `dev`".into(),
                ));
            }
            (_, Some(via), dev) => Some(NextHop { via, dev }),
            (_, None, Some(dev)) => {
                return Err(InvalidRoute(format!(
                    "dev {dev} without `via`: say which neighbour, by `via inet`, `inet6` or `link`"
                )));
            }
            (_, None, None) => None,
        };
        let path = route::Path {
            action,
            next_hop,
            backup: self.backup.map(NextHop::try_from).transpose()?,
            weight: self.weight.unwrap_or(1),
        };
        path.check(key)?;
        Ok(path)
    }
}

impl TryFrom<Backup> for NextHop {
    type Error = InvalidRoute;

    fn try_from(backup: Backup) -> Result<Self, InvalidRoute> {
        Ok(Self {
            via: backup.via.try_into()?,
            dev: backup.dev,
        })
    }
}

impl From<&NextHop> for Backup {
    fn from(next_hop: &NextHop) -> Self {
        Self {
            via: next_hop.via.into(),
            dev: next_hop.dev.clone(),
        }
    }
}

impl From<&route::Route> for Route {
    fn from(route: &route::Route) -> Self {
        let Key { label, prefix } = route.key().into();
        let ttl_propagate = match route.ttl_propagate() {
            TtlPropagate::Default => None,
            TtlPropagate::Enabled => Some(true),
            TtlPropagate::Disabled => Some(false),
        };
        let (by_itself, nexthops) = match route.paths() {
            [path] => (Path::from(path), None),
            paths => (Path::default(), Some(paths.iter().map(Path::from).collect())),
        };
        Self {
            label,
            prefix,
            action: by_itself.action,
            out: by_itself.out,
            ttl: by_itself.ttl,
            ttl_propagate,
            via: by_itself.via,
            dev: by_itself.dev,
            backup: by_itself.backup,
            nexthops,
            protocol: Some(route.attributes().protocol),
            metric: Some(route.attributes().metric).filter(|&metric| metric != 0),
        }
    }
}

impl From<&route::Path> for Path {
    fn from(path: &route::Path) -> Self {
        let values = |labels: &OutLabels| Some(labels.as_slice().iter().map(|label| label.get()).collect());
        let (action, out, ttl) = match &path.action {
            Action::Swap(labels) => (RouteAction::Swap, values(labels), None),
            Action::Pop => (RouteAction::Pop, None, None),
            Action::PenultimatePop => (RouteAction::PenultimatePop, None, None),
            Action::Local => (RouteAction::Local, None, None),
            Action::Push { labels, ttl } => (RouteAction::Push, values(labels), ttl.map(|ttl| ttl.get())),
        };
        Self {
            action: Some(action),
            out,
            ttl,
            via: path.next_hop.as_ref().map(|next_hop| next_hop.via.into()),
            dev: path.next_hop.as_ref().and_then(|next_hop| next_hop.dev.clone()),
            backup: path.backup.as_ref().map(Backup::from),
            weight: Some(path.weight),
        }
    }
}

/// `type InstalledRoute`: a route, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstalledRoute {
    pub route: Route,
    pub owner: String,
    /// The next hop's state, `None` for `dev lo` and where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHopState>,
    /// The state of each of the route's `nexthops`, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<PathState>>,
    /// `None` where the route has no counter slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<Counter>,
}

/// `type PathState`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PathState {
    pub next_hop: NextHopState,
    /// The buckets whose flows take this path now; only where one route was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<BucketRange>>,
}

/// `type BucketRange`: from `first` to `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BucketRange {
    pub first: u8,
    pub last: u8,
}

impl BucketRange {
    /// The buckets that are `path`'s, in order.
    pub fn of(spread: &Spread, path: u8) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for (bucket, _) in (0..=u8::MAX).zip(spread).filter(|&(_, &owner)| owner == path) {
            match ranges.last_mut() {
                Some(range) if range.last.checked_add(1) == Some(bucket) => range.last = bucket,
                _ => ranges.push(Self {
                    first: bucket,
                    last: bucket,
                }),
            }
        }
        ranges
    }

    /// How many it has.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }
}

/// `type Counter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// `type NextHopState`: one next hop that routes use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NextHopState {
    pub via: ViaAddress,
    /// The interface, given or found; `None` where the kernel has no route to the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    /// `None` while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    pub state: Resolution,
    /// Its port takes no redirected frames: what is forwarded to it is lost.
    pub redirect_lost: bool,
    /// How many routes use it, those of several paths once for each, and next hops that it is the backup of.
    pub routes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupState>,
    /// `None` if it was not asked for, and if the kernel has no entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelNeighbor>,
}

/// `type KernelNeighbor`: the entry of the kernel's neighbour table. Times are in seconds, from then to now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KernelNeighbor {
    /// As `ip neigh` names it, such as `REACHABLE`.
    pub state: String,
    pub refcnt: u32,
    pub used: u64,
    pub confirmed: u64,
    pub updated: u64,
    pub probes: u32,
}

/// `type BackupState`: what takes the place of a next hop that is not resolved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupState {
    pub via: ViaAddress,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    pub state: Resolution,
    /// Its port takes no redirected frames: what is forwarded to it is lost.
    pub redirect_lost: bool,
}

/// `type Resolution`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The MAC is known: frames go out.
    Resolved,
    /// `via link`: nothing to resolve.
    Static,
    /// Asked, no answer yet.
    Incomplete,
    /// Asked, no answer within the kernel's time; asked again.
    Failed,
    /// The kernel has a MAC address for it that is not one neighbour's: broadcast, multicast or zero.
    BadMac,
    /// The kernel has no route to the address.
    NoRoute,
    /// The interface is down or without carrier.
    LinkDown,
    /// The interface is not a port.
    NotAPort,
    /// The interface has no MAC addresses to resolve (IFF_NOARP).
    NoArp,
    /// There is no interface of the name given.
    NoSuchDev,
    /// The address is this box's own.
    Local,
}

/// `type VlanTag`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VlanTag {
    /// `802.1Q` or `802.1ad`.
    pub protocol: String,
    pub id: u16,
}

/// `type Checksum`: what a port does about TCP and UDP checksums that the sender left to its NIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// Finishes them.
    Finish,
    /// Does not look for them.
    Trust,
}

impl Checksum {
    /// As people and the socket write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finish => "finish",
            Self::Trust => "trust",
        }
    }
}

impl std::str::FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "finish" => Ok(Self::Finish),
            "trust" => Ok(Self::Trust),
            _ => Err(format!("`checksum` is `{text}`; it must be `finish` or `trust`")),
        }
    }
}

/// `type Link`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    pub name: String,
    /// `None` for a sub-interface that the kernel has no VLAN device for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    pub mac: String,
    pub mtu: u32,
    pub up: bool,
    /// `native` or `generic`.
    pub mode: String,
    /// How the program is attached: `bpf_link` with its id.
    pub link_id: u32,
    pub program_id: u32,
    /// How often the program was put back after another process had taken it off, or replaced it.
    pub put_back: u64,
    /// Labelled frames are accepted.
    pub mpls: bool,
    pub tx_only: bool,
    /// The far end of the veth pair that this box's own packets are sent into.
    pub local: bool,
    /// It has the program for its sub-interfaces only.
    pub carrier: bool,
    /// Of a sub-interface: the interface that has the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Of a sub-interface: the tags of its frames, outermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vec<VlanTag>>,
    /// Whether frames can be redirected to it; `None` where the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_target: Option<bool>,
    /// What keeps it from working: it waits for its interface, or its program cannot be put back. Labelled frames that arrive are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What is done about unfinished checksums of frames that arrive.
    pub checksum: Checksum,
    /// `None` if it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<LinkCounters>,
}

/// `type LinkCounters`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// `None` if the kernel has no such interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelCounters>,
    /// What was counted at this port by its reason, of reasons that were seen.
    pub reasons: Vec<ReasonCounter>,
}

/// `type KernelCounters`: those of IFLA_STATS64 that `ip -s link` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KernelCounters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub rx_missed: u64,
    pub rx_over: u64,
    pub multicast: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
    pub tx_carrier: u64,
    pub collisions: u64,
}

/// `type Status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub abi_version: u32,
    pub instance: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// Of its network namespace, in nsfs; 0 if it is not known.
    pub netns_inode: u64,
    /// `native` or `generic`.
    pub mode: String,
    pub ttl_mode: String,
    pub tunnel_ttl: u8,
    pub tc_propagate: bool,
    /// `punt`, `drop` or `pass`.
    pub unknown: String,
    /// `auto`, `lsp` or `ip`.
    pub icmp_via: String,
    /// The interface for this box's own packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    pub links: u64,
    /// Labels 16 to this less one can have routes.
    pub labels: u32,
    pub label_routes: u64,
    pub prefix_routes: u64,
    pub next_hops: u64,
    pub unresolved_next_hops: u64,
    pub tables: Vec<Table>,
    /// Routes that forward uncounted, because every counter slot is taken.
    pub uncounted_routes: u64,
    /// Lines that could not be written.
    pub log_lines_lost: u64,
    /// Lines that were summed up in others.
    pub log_lines_left_out: u64,
}

/// `type Table`: how full a table is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub used: u64,
    pub capacity: u64,
    /// What the map takes of the kernel's memory.
    pub memory_bytes: u64,
}

/// `type ReasonCounter`: frames of one port that were not forwarded for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReasonCounter {
    pub port: String,
    pub reason: String,
    pub description: String,
    pub packets: u64,
    pub bytes: u64,
    /// Of these, how many the slow path did not get because there were too many at once.
    pub policed: u64,
    /// Of these, how many it did not get because it does not listen on the queue that they came in on.
    pub unheard: u64,
}

/// `type Outcome`: what became of frames that the slow path got.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub name: String,
    pub description: String,
    pub packets: u64,
}

/// `type UnknownLabel`: a label without a route that arrived at a port.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct UnknownLabel {
    pub port: String,
    pub label: u32,
    /// Since it was first seen.
    pub packets: u64,
    /// Of late.
    pub rate_pps: f64,
    /// Since it was last seen.
    pub idle_seconds: f64,
}

/// `type Stats`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Only those that are not zero, unless all were asked for.
    pub reasons: Vec<ReasonCounter>,
    /// Likewise.
    pub slow_path: Vec<Outcome>,
    /// What routes with a counter slot have forwarded since the start, those that are gone included.
    pub forwarded: Counter,
    pub uncounted_routes: u64,
}

/// `type Changes`: what a call did to the routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Changes {
    pub added: u64,
    pub replaced: u64,
    pub deleted: u64,
}

/// `type Family`: routes of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Mpls,
    Inet,
    Inet6,
}

/// Parameters of methods that take none, and of replies that say no more than that it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Parameters of `AddRoutes`, `ReplaceRoutes` and `Stage`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    pub routes: Vec<Route>,
}

/// Parameters of `ListRoutes`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListRoutes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covering: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ViaAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<bool>,
}

/// Reply of `ListRoutes`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RouteList {
    pub routes: Vec<InstalledRoute>,
}

/// Parameters of `DeleteRoutes`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    pub keys: Vec<Key>,
}

/// Parameters of `FlushRoutes`: which routes, as in [`ListRoutes`], or explicitly `all`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushRoutes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covering: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ViaAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
}

impl From<FlushRoutes> for ListRoutes {
    fn from(flush: FlushRoutes) -> Self {
        let FlushRoutes {
            all: _,
            family,
            label,
            prefix,
            within,
            covering,
            protocol,
            via,
            dev,
        } = flush;
        Self {
            family,
            label,
            prefix,
            within,
            covering,
            protocol,
            via,
            dev,
            counters: None,
        }
    }
}

impl From<&RouteFilter> for FlushRoutes {
    fn from(filter: &RouteFilter) -> Self {
        let mut chosen = Self {
            protocol: filter.protocol,
            via: filter.via.map(ViaAddress::from),
            dev: filter.dev.clone(),
            ..Self::default()
        };
        match filter.keys {
            KeyFilter::All => {}
            KeyFilter::Labels => chosen.family = Some(Family::Mpls),
            KeyFilter::V4Prefixes => chosen.family = Some(Family::Inet),
            KeyFilter::V6Prefixes => chosen.family = Some(Family::Inet6),
            KeyFilter::One(key) => {
                Key {
                    label: chosen.label,
                    prefix: chosen.prefix,
                } = key.into();
            }
            KeyFilter::Within(prefix) => chosen.within = Some(prefix),
            KeyFilter::Covering(prefix) => chosen.covering = Some(prefix),
        }
        chosen.all = (chosen == Self::default()).then_some(true);
        chosen
    }
}

/// Reply of every call that changes routes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Changed {
    pub changes: Changes,
    /// What keeps the routes from doing what they are for, each with the command that helps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl From<Changes> for Changed {
    fn from(changes: Changes) -> Self {
        let warnings = Vec::new();
        Self { changes, warnings }
    }
}

/// `type UnreachableRoute`: a route that was installed and has no way to a next hop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreachableRoute {
    pub key: Key,
    /// The next hop, what is in the way, and what helps.
    pub reason: String,
}

/// Reply of `Commit`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Committed {
    pub changes: Changes,
    /// The first of those that wait for a next hop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<UnreachableRoute>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreachable_total: u64,
    /// As in [`Changed`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Parameters of `Begin`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    pub replace_all: bool,
}

/// Parameters of `Commit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// A transaction that replaces all routes by none is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
}

/// Reply of `Stage`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Staged {
    pub staged: u64,
}

/// Parameters of `AddLink`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddLink {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_only: Option<bool>,
    /// `None`: as the kind of interface needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

/// Parameters of `DeleteLink`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteLink {
    pub name: String,
}

/// Parameters of `SetLink`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLink {
    pub name: String,
    pub mpls: bool,
}

/// Parameters of `ListLinks` and `ListNeighbors`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithCounters {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<bool>,
}

/// Reply of `ListLinks`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LinkList {
    pub links: Vec<Link>,
}

/// Reply of `ListNeighbors`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NeighborList {
    pub neighbors: Vec<NextHopState>,
}

/// Parameters of `GetStats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetStats {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// Reply of `GetStats`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StatsReply {
    pub stats: Stats,
}

/// Reply of `GetUnknownLabels`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct UnknownLabels {
    pub labels: Vec<UnknownLabel>,
}

/// Reply of `GetStatus`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusReply {
    pub status: Status,
}

/// Which routes are meant: those of which all of it is true.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteFilter {
    pub keys: KeyFilter,
    pub protocol: Option<Protocol>,
    /// One of the next hops is this one, backups aside.
    pub via: Option<Via>,
    /// One of the next hops is reached by this interface, backups aside; `lo`: it pops to this box.
    pub dev: Option<Arc<str>>,
}

/// Which labels and prefixes are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeyFilter {
    #[default]
    All,
    Labels,
    V4Prefixes,
    V6Prefixes,
    One(RouteKey),
    /// This prefix, and those that are parts of it.
    Within(IpNet),
    /// This prefix, and those that it is a part of.
    Covering(IpNet),
}

impl KeyFilter {
    pub fn selects(self, key: RouteKey) -> bool {
        match (self, key) {
            (Self::All, _)
            | (Self::Labels, RouteKey::Label(_))
            | (Self::V4Prefixes, RouteKey::Prefix(IpNet::V4(_)))
            | (Self::V6Prefixes, RouteKey::Prefix(IpNet::V6(_))) => true,
            (Self::One(one), _) => key == one,
            (Self::Within(whole), RouteKey::Prefix(prefix)) => whole.contains(&prefix),
            (Self::Covering(part), RouteKey::Prefix(prefix)) => prefix.contains(&part),
            _ => false,
        }
    }
}

impl From<KeyFilter> for RouteFilter {
    fn from(keys: KeyFilter) -> Self {
        Self {
            keys,
            ..Self::default()
        }
    }
}

/// What the server asks of the controller. Each is all or nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    GetStatus,
    /// Routes after `after`, in the order of keys, up to the one by which they come to `limit` paths, so that a long list does
    /// not hold the controller up.
    ListRoutes {
        filter: RouteFilter,
        after: Option<RouteKey>,
        limit: usize,
        counters: bool,
    },
    /// With `wait`, routes without a way to their next hops are installed and wait for it; else they are refused.
    ChangeRoutes {
        mode: ChangeMode,
        routes: Vec<route::Route>,
        wait: bool,
    },
    DeleteRoutes {
        keys: Vec<RouteKey>,
    },
    FlushRoutes {
        filter: RouteFilter,
    },
    ListLinks {
        counters: bool,
    },
    AddLink {
        name: String,
        tx_only: bool,
        checksum: Option<Checksum>,
    },
    DeleteLink {
        name: String,
    },
    SetLink {
        name: String,
        mpls: bool,
    },
    /// Up to `limit` next hops after `after`, in their order.
    ListNeighbors {
        after: Option<Position>,
        limit: usize,
        counters: bool,
    },
    GetStats {
        all: bool,
    },
    GetUnknownLabels,
    Unload,
}

/// What the controller answers.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    Status(Box<Status>),
    Routes(Vec<InstalledRoute>),
    Changed(Changed),
    Committed(Committed),
    Links(Vec<Link>),
    Neighbors {
        neighbors: Vec<NextHopState>,
        /// The position of the last, if there are others after it.
        last: Option<Position>,
    },
    Stats(Stats),
    /// The most frequent first.
    UnknownLabels(Vec<UnknownLabel>),
    Done,
}

/// Why the controller refused: nothing was changed. Each is an error of the interface.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum Refusal {
    #[error("{key} has a route already: `{route}`; `replace` takes its place")]
    #[serde(rename = "io.mplsxdp.RouteExists")]
    RouteExists {
        #[serde(with = "route_key")]
        key: RouteKey,
        route: String,
    },
    #[error("{key} has no route")]
    #[serde(rename = "io.mplsxdp.NoSuchRoute")]
    NoSuchRoute {
        #[serde(with = "route_key")]
        key: RouteKey,
    },
    /// One of the routes given cannot be; `index` counts from 0.
    #[error("{reason}")]
    #[serde(rename = "io.mplsxdp.RouteRefused")]
    RouteRefused { index: usize, reason: String },
    #[error("{name} is not a port{hint}")]
    #[serde(rename = "io.mplsxdp.NoSuchLink")]
    NoSuchLink { name: String, hint: String },
    #[error("{reason}")]
    #[serde(rename = "io.mplsxdp.LinkRefused")]
    LinkRefused { name: String, reason: String },
}

/// A [`RouteKey`] goes over the wire as `type RouteKey`.
mod route_key {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Key, RouteKey};

    pub fn serialize<S: Serializer>(key: &RouteKey, serializer: S) -> Result<S::Ok, S::Error> {
        Key::from(*key).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RouteKey, D::Error> {
        RouteKey::try_from(Key::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Every error that a call can be answered by.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum Error {
    #[error("there is no interface {interface}")]
    #[serde(rename = "org.varlink.service.InterfaceNotFound")]
    InterfaceNotFound { interface: String },
    #[error("there is no method {method}")]
    #[serde(rename = "org.varlink.service.MethodNotFound")]
    MethodNotFound { method: String },
    #[error("{method} is not implemented")]
    #[serde(rename = "org.varlink.service.MethodNotImplemented")]
    MethodNotImplemented { method: String },
    /// `reason` goes beyond the standard, which has only the place.
    #[error("{parameter}: {reason}")]
    #[serde(rename = "org.varlink.service.InvalidParameter")]
    InvalidParameter {
        parameter: String,
        #[serde(default)]
        reason: String,
    },
    #[error("the answer does not fit one message; the call needs `more`")]
    #[serde(rename = "org.varlink.service.ExpectedMore")]
    ExpectedMore {},

    #[error("not a varlink call: {reason}")]
    #[serde(rename = "io.mplsxdp.InvalidMessage")]
    InvalidMessage { reason: String },
    #[error("a message is larger than {limit} bytes")]
    #[serde(rename = "io.mplsxdp.MessageTooLarge")]
    MessageTooLarge { limit: usize },
    #[error("{limit} clients are connected already")]
    #[serde(rename = "io.mplsxdp.TooManyClients")]
    TooManyClients { limit: usize },
    #[error("the open transactions have at most {limit} paths together; a route has one for each of its next hops")]
    #[serde(rename = "io.mplsxdp.TooManyPaths")]
    TooManyPaths { limit: usize },
    #[error("a transaction is open already; Commit or Rollback ends it")]
    #[serde(rename = "io.mplsxdp.TransactionOpen")]
    TransactionOpen {},
    #[error("no transaction is open; Begin opens one")]
    #[serde(rename = "io.mplsxdp.NoTransaction")]
    NoTransaction {},
    #[error("nothing was changed, because an earlier call of the transaction failed: {reason}")]
    #[serde(rename = "io.mplsxdp.TransactionFailed")]
    TransactionFailed { reason: String },
    #[error("the instance is shutting down")]
    #[serde(rename = "io.mplsxdp.ShuttingDown")]
    ShuttingDown {},

    #[error(transparent)]
    #[serde(untagged)]
    Refused(#[from] Refusal),
}

//! The types of the control socket, as `io.mplsxdp.varlink` describes them: the JSON on the wire, and the [`Request`]s
//! and [`Reply`]s that the socket's server exchanges with the switch.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mplsxdp_common::wire::Label;
use serde::{Deserialize, Serialize};

use super::access::Access;
use super::events::Watcher;
use super::frames::Tap;
use crate::dataplane::class_maps::{DscpMap, TcMap};
use crate::dataplane::label_ranges::{AcceptLabels, LabelRanges};
use crate::dataplane::mpls_mtu::MplsMtu;
use crate::dataplane::port_change::PortChange;
use crate::lfib::next_hops::Position;
use crate::lfib::spread::Spread;
pub use crate::route::Mode as ChangeMode;
pub use crate::route::filter::{KeyFilter, RouteFilter};
pub use crate::route::wire::{Backup, Key, Path, Route, RouteAction, ViaAddress, ViaFamily};
use crate::route::{Description, Owner, PortName, RouteKey, RoutingTable};
pub use crate::route::{Protocol, Source};

/// The interface's name.
pub const INTERFACE: &str = "io.mplsxdp";
/// The interface's definition.
pub const DEFINITION: &str = include_str!("io.mplsxdp.varlink");

/// Declares the methods of the interface, each with what it does.
macro_rules! methods {
    ($($method:ident $access:ident,)*) => {
        /// A method of the interface.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Method {
            $($method,)*
        }

        impl Method {
            pub const ALL: &[Self] = &[$(Self::$method,)*];

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$method => stringify!($method),)*
                }
            }

            /// What its caller must be allowed to do.
            pub const fn access(self) -> Access {
                match self {
                    $(Self::$method => Access::$access,)*
                }
            }

            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($method) => Some(Self::$method),)*
                    _ => None,
                }
            }
        }
    };
}

methods! {
    GetStatus Read,
    GetConfig Read,
    ListRoutes Read,
    GetRoute Read,
    GetVrf Read,
    AddRoutes Change,
    ChangeRoutes Change,
    ReplaceRoutes Change,
    DeleteRoutes Change,
    FlushRoutes Change,
    Begin Change,
    Stage Change,
    Commit Change,
    Rollback Change,
    ListLinks Read,
    AddLink Change,
    DeleteLink Change,
    SetLink Change,
    AddCrossConnect Change,
    DeleteCrossConnect Change,
    ListNeighbors Read,
    GetStats Read,
    GetBusiestRoutes Read,
    GetUnknownLabels Read,
    Trace Read,
    SendLspPing Change,
    Monitor Read,
    // Frames have the contents of other people's traffic.
    Capture Change,
    GetSync Read,
    // With `repair` it changes something, which is checked when the request is made.
    CheckSync Read,
    Confirm Change,
    Upgrade Change,
    Unload Change,
}

/// `type InstalledRoute`: a route, and its state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InstalledRoute {
    pub route: Route,
    /// `static`, `config` (also static, from the config file), or the name of another source.
    pub owner: String,
    /// It is not installed because another owner's route is preferred.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// The next hop's state; `None` for `dev lo` and for several next hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHopState>,
    /// The state of each of the route's `nexthops`, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<PathState>>,
    /// For `vrf_pass`: why all its packets are left to the kernel; `None` if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<String>,
    /// For a pseudowire: why the port cannot be its end; `None` if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The source of its backups, if that is not the owner: `frr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<String>,
    /// `None` if the route has no counter slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<Counter>,
}

/// `type PathState`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PathState {
    pub next_hop: NextHopState,
    /// The buckets whose flows take this path now; only if the call was for one route.
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
    /// The buckets of `path`, in order.
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

    /// The number of buckets.
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
    /// The interface, given or found; `None` if the kernel has no route to the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    /// `None` while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    pub state: Resolution,
    /// Its port does not send redirected frames: what is forwarded to it is lost.
    pub redirect_lost: bool,
    /// How many users it has: routes, once for each path that leads to it or has it as a backup with labels of its own,
    /// and next hops that it is another backup of.
    pub routes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupState>,
    /// Its routes have backups with labels of their own.
    pub own_backups: bool,
    /// `None` if the call did not ask for it, or if the kernel has no entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelNeighbor>,
}

/// `type KernelNeighbor`: the entry of the kernel's neighbour table. Times are in seconds before now.
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

/// `type BackupState`: the backup of a next hop, used while that is not resolved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupState {
    pub via: ViaAddress,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    pub state: Resolution,
    /// It gets the frames now.
    pub in_use: bool,
    /// Its port does not send redirected frames: what is forwarded to it is lost.
    pub redirect_lost: bool,
}

/// `type Resolution`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The MAC address is known: frames are sent.
    Resolved,
    /// `via link`: nothing to resolve.
    Static,
    /// The neighbour has not answered yet.
    Incomplete,
    /// The neighbour did not answer within the kernel's time; it is asked again.
    Failed,
    /// The kernel has a MAC address for it that cannot be one neighbour's: broadcast, multicast or zero.
    BadMac,
    /// The kernel has no route to the address.
    NoRoute,
    /// The interface is down or without carrier.
    #[serde(rename = "linkdown")]
    LinkDown,
    /// The interface is not a port.
    NotAPort,
    /// The interface has no MAC addresses to resolve (IFF_NOARP).
    NoArp,
    /// There is no interface with the given name.
    NoSuchDev,
    /// The address belongs to this machine.
    Local,
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolved => "resolved",
            Self::Static => "static",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::BadMac => "bad_mac",
            Self::NoRoute => "no_route",
            Self::LinkDown => "linkdown",
            Self::NotAPort => "not_a_port",
            Self::NoArp => "no_arp",
            Self::NoSuchDev => "no_such_dev",
            Self::Local => "local",
        })
    }
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
    /// Trusts that there are none.
    Trust,
}

impl Checksum {
    /// Its name on the command line and the socket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finish => "finish",
            Self::Trust => "trust",
        }
    }
}

/// A text is not a [`Checksum`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`checksum` is `{0}`; it must be `finish` or `trust`")]
pub struct UnknownChecksum(Box<str>);

impl std::str::FromStr for Checksum {
    type Err = UnknownChecksum;

    fn from_str(text: &str) -> Result<Self, UnknownChecksum> {
        match text {
            "finish" => Ok(Self::Finish),
            "trust" => Ok(Self::Trust),
            _ => Err(UnknownChecksum(text.into())),
        }
    }
}

/// `type Link`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    pub ifname: String,
    /// `None` for a sub-interface that the kernel has no VLAN device for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Its MAC address.
    pub address: String,
    pub mtu: u32,
    pub up: bool,
    /// `native` or `generic`.
    pub mode: String,
    /// The attachment: the id of its `bpf_link`.
    pub link_id: u32,
    pub program_id: u32,
    /// How often the program was put back after another process had removed or replaced it.
    pub put_back: u64,
    /// Whether labelled frames are accepted.
    pub mpls: bool,
    /// The labels of those frames: ranges such as `100-199,300`; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_labels: Option<LabelRanges>,
    /// The largest labelled packet that may leave by it, label stack included.
    pub mpls_mtu: u32,
    /// The MPLS MTU that was set, which is larger than `mpls_mtu` if the interface's MTU does not allow it; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpls_mtu_set: Option<u32>,
    /// The port that every frame goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_connect: Option<String>,
    /// A route sends every frame into a pseudowire.
    pub attachment: bool,
    /// How the TC of imposed labels follows from the DSCP; absent: it is the IP precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp_map: Option<DscpMap>,
    /// How the DSCP of packets follows from the TC of their last label; absent: they keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tc_map: Option<TcMap>,
    pub tx_only: bool,
    /// The far end of the veth pair for this machine's own packets.
    pub local: bool,
    /// It only holds the program for its sub-interfaces.
    pub parent_only: bool,
    /// For a sub-interface: the interface that has the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// For a sub-interface: the tags of its frames, outermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vec<VlanTag>>,
    /// For a veth: the name of its other end, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// A file for the network namespace of `peer`; `None` if it is the instance's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_netns: Option<String>,
    /// Whether frames can be redirected to it; `None` if the kernel does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_target: Option<bool>,
    /// Why it does not work: it waits for its interface, or another process has taken its program off. Labelled
    /// frames that arrive are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What it does about unfinished checksums of arriving frames.
    pub checksum: Checksum,
    /// `None` if the call did not ask for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<LinkCounters>,
}

/// `type LinkCounters`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// `None` if the kernel has no such interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelCounters>,
    /// The counters of this port by reason, for reasons that were seen.
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
    /// The inode of its network namespace in nsfs; 0 if unknown.
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
    /// The interface for this machine's own packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    pub links: u64,
    /// Labels from 16 up to, but not including, this number can have routes.
    pub labels: u32,
    pub label_routes: u64,
    pub prefix_routes: u64,
    pub next_hops: u64,
    pub unresolved_next_hops: u64,
    pub tables: Vec<Table>,
    /// Routes that are not counted because all counter slots are taken.
    pub uncounted_routes: u64,
    /// Lines that could not be written.
    pub log_lines_lost: u64,
    /// Lines that were summed up in others.
    pub log_lines_left_out: u64,
    /// When it was started, in UTC (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The name or path of its network namespace, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The config file that it was loaded from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
    /// The names of the ports, including those that wait for their interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<String>>,
    /// How much the routes of each owner are preferred to those of others: the lowest number wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<BTreeMap<Source, u32>>,
    /// As in [`SyncSource`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_ttl_propagate: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_ttl: Option<u8>,
    /// How long FRR has not answered, if that is longer than `sync-stale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frr_stale_seconds: Option<u64>,
    /// What outlives the process; absent without `persist`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SavedState>,
}

/// `type SavedState`: where routes and ports are saved.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SavedState {
    pub directory: String,
    pub snapshot_bytes: u64,
    /// What was written since the snapshot.
    pub journal_bytes: u64,
    /// Why changes are not saved now, and since when, in UTC (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<String>,
}

/// `type Table`: how full a table is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub used: u64,
    pub capacity: u64,
    /// How much kernel memory the map uses.
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
    /// How many of them did not reach the slow path because there were too many at once.
    pub policed: u64,
    /// How many of them did not reach it because it does not listen on their receive queue.
    pub unheard: u64,
}

/// `type Outcome`: what happened to frames that the slow path got.
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
    /// Recently.
    pub rate_pps: f64,
    /// Since it was last seen.
    pub idle_seconds: f64,
}

/// `type Stats`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Only those that are not zero, unless the call asked for all.
    pub reasons: Vec<ReasonCounter>,
    /// As for `reasons`.
    pub slow_path: Vec<Outcome>,
    /// What routes with a counter slot have forwarded since the start, including deleted routes.
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
    /// Of attachment circuits.
    Xconnect,
}

/// Parameters of methods that take none, and replies that only confirm success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Parameters of `Stage`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    pub routes: Vec<Route>,
}

/// Parameters of `AddRoutes`, `ChangeRoutes` and `ReplaceRoutes`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedRoutes {
    pub routes: Vec<Route>,
    /// `static` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Source>,
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
    pub attachment: Option<PortName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
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
    /// Only routes of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Source>,
    /// Also standby routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<bool>,
}

/// Reply of `ListRoutes`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RouteList {
    pub routes: Vec<InstalledRoute>,
}

/// Parameters of `GetRoute`: exactly one of label, prefix, attachment and address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetRoute {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<PortName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
}

impl From<Lookup> for GetRoute {
    fn from(lookup: Lookup) -> Self {
        match lookup {
            Lookup::Key(key) => {
                let Key {
                    label,
                    prefix,
                    attachment,
                    table,
                } = key.into();
                Self {
                    label,
                    prefix,
                    attachment,
                    address: None,
                    table,
                }
            }
            Lookup::Address(address, table) => Self {
                address: Some(address),
                table: Some(table.0).filter(|_| table != RoutingTable::MAIN),
                ..Self::default()
            },
        }
    }
}

/// Reply of `GetRoute`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteReply {
    pub route: InstalledRoute,
}

/// How many bytes a frame for `Trace` may have: an Ethernet header, and up to the longest packet behind it.
pub const TRACED_LEN: RangeInclusive<usize> = 14..=65_535;

/// Parameters of `Trace`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceFrame {
    pub ifname: String,
    /// In hexadecimal, from the destination MAC address on.
    pub frame: String,
}

/// Reply of `Trace`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TraceReply {
    pub trace: Trace,
}

/// `type FrameTrace`: what would happen to a frame.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// The frame at the port of the program, with its tags.
    pub arrived: TracedFrame,
    pub steps: Vec<TraceStep>,
    pub verdict: TraceVerdict,
    /// Why it is not forwarded, by the name that GetStats uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The source of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The frame as it leaves, or as the kernel gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<TracedFrame>,
    pub slow_path: Vec<TracedAnswer>,
}

/// `type TraceVerdict`: who handles the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceVerdict {
    Forwarded,
    Kernel,
    SlowPath,
    Dropped,
}

/// `type TracedFrame`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TracedFrame {
    pub ifname: String,
    /// In hexadecimal.
    pub frame: String,
    /// In words.
    pub text: String,
}

/// `type TraceStep`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TraceStep {
    /// Its kind, such as `label`.
    pub step: String,
    pub text: String,
    /// The source of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The route that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<InstalledRoute>,
}

/// `type TracedAnswer`: what the slow path does with the frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TracedAnswer {
    pub when: String,
    /// By the names and descriptions that GetStats uses.
    pub outcomes: Vec<TracedOutcome>,
    pub actions: Vec<TracedAction>,
}

/// `type TracedOutcome`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TracedOutcome {
    pub name: String,
    pub description: String,
}

/// `type TracedAction`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TracedAction {
    pub text: String,
    /// What is sent, or what the kernel gets. A packet that is sent by IP is without an Ethernet header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<TracedFrame>,
}

/// Parameters of `GetVrf`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetVrf {
    pub name: String,
}

/// Reply of `GetVrf`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vrf {
    pub table: u32,
}

/// Parameters of `DeleteRoutes`: labels and prefixes, and what must be true of their routes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    pub keys: Vec<Route>,
    /// `static` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Source>,
}

/// Parameters of `FlushRoutes`: a selection as in [`ListRoutes`], or explicitly `all`.
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
    pub attachment: Option<PortName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
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
    /// Whose routes are deleted: `static` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Source>,
}

impl From<FlushRoutes> for ListRoutes {
    fn from(flush: FlushRoutes) -> Self {
        let FlushRoutes {
            all: _,
            family,
            label,
            prefix,
            attachment,
            table,
            within,
            covering,
            protocol,
            via,
            dev,
            owner,
        } = flush;
        Self {
            family,
            label,
            prefix,
            attachment,
            table,
            within,
            covering,
            protocol,
            via,
            dev,
            owner,
            standby: None,
            counters: None,
        }
    }
}

impl From<&RouteFilter> for FlushRoutes {
    fn from(filter: &RouteFilter) -> Self {
        let mut chosen = Self {
            table: filter.table.map(|table| table.0),
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
            KeyFilter::Label(label) => chosen.label = Some(label.get()),
            KeyFilter::Prefix(prefix) => chosen.prefix = Some(prefix),
            KeyFilter::Within(prefix) => chosen.within = Some(prefix),
            KeyFilter::Covering(prefix) => chosen.covering = Some(prefix),
            KeyFilter::Attachments => chosen.family = Some(Family::Xconnect),
            KeyFilter::Attachment(port) => chosen.attachment = Some(port),
        }
        chosen.all = (chosen == Self::default()).then_some(true);
        chosen.owner = filter.owner;
        chosen
    }
}

/// Reply of every call that changes routes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Changed {
    pub changes: Changes,
    /// Settings that keep the routes from working, each with the command that helps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl From<Changes> for Changed {
    fn from(changes: Changes) -> Self {
        let warnings = Vec::new();
        Self { changes, warnings }
    }
}

/// `type UnreachableRoute`: a route that was installed and cannot reach a next hop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreachableRoute {
    pub key: Key,
    /// The next hop, the cause and the remedy.
    pub reason: String,
}

/// Reply of `Commit`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Committed {
    pub changes: Changes,
    /// The first of the routes that wait for a next hop.
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
    /// `static` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Source>,
}

/// Parameters of `Commit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Confirms that the transaction may replace all routes by none.
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
    pub ifname: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_only: Option<bool>,
    /// `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_labels: Option<AcceptLabels>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpls_mtu: Option<MplsMtu>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp_map: Option<DscpMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tc_map: Option<TcMap>,
    /// `None`: the default for the kind of interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

/// Parameters of `DeleteLink`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteLink {
    pub ifname: String,
}

/// Parameters of `SetLink`; `None` is left as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLink {
    pub ifname: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpls: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_labels: Option<AcceptLabels>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpls_mtu: Option<MplsMtu>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp_map: Option<DscpMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tc_map: Option<TcMap>,
}

/// What a cross-connect does to the tags of the sub-interfaces that it connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VlanOperation {
    /// Those of one sub-interface become those of the other.
    Translate,
    /// From a sub-interface to an interface.
    Pop,
    /// From an interface to a sub-interface.
    Push,
}

impl VlanOperation {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Translate => "translate",
            Self::Pop => "pop",
            Self::Push => "push",
        }
    }
}

/// Parameters of `AddCrossConnect`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddCrossConnect {
    pub ifname: String,
    pub to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanOperation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way: Option<bool>,
}

/// Parameters of `DeleteCrossConnect`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteCrossConnect {
    pub ifname: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way: Option<bool>,
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

/// Parameters of `Monitor`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// `None`: all but `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<EventKind>>,
    /// The time between two rates; 1000 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
}

/// Parameters of `Capture`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasons: Option<Vec<String>>,
    /// Only frames that arrive at this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Only frames that arrive with this label on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    /// Also one in so many of the frames that are forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
}

/// Reply of `Capture`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Frames {
    /// How many frames were lost about here, for lack of room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    pub frames: Vec<CapturedFrame>,
}

/// `type Direction`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    In,
    Out,
}

/// `type CapturedFrame`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CapturedFrame {
    /// In UTC, with nanoseconds (RFC 3339).
    pub time: String,
    pub ifname: String,
    /// As it arrived at the port, or as it left.
    pub direction: Direction,
    /// `forwarded`, `punted`, `passed` or `dropped`.
    pub verdict: String,
    /// If it was forwarded: the port at the other side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// If it was not forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of the frame, in bytes.
    pub length: u64,
    /// The frame, or its beginning, in base64.
    pub data: String,
}

/// Reply of `Monitor`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    /// How many events were lost before these because the client did not keep up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    pub events: Vec<Event>,
}

/// `type EventKind`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Route,
    Neigh,
    Link,
    Exception,
    Rate,
}

impl EventKind {
    pub const ALL: &[Self] = &[Self::Route, Self::Neigh, Self::Link, Self::Exception, Self::Rate];

    /// Its name on the command line and the socket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Neigh => "neigh",
            Self::Link => "link",
            Self::Exception => "exception",
            Self::Rate => "rate",
        }
    }
}

/// `type EventChange`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventChange {
    Added,
    /// Or another route in its place.
    Changed,
    Deleted,
}

/// `type Event`: something that has happened, by its kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// In UTC (RFC 3339).
    pub time: String,
    pub kind: EventKind,
    /// Of `route`, `neigh` and `link`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<EventChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<InstalledRoute>,
    /// In place of `route`: one of more than a thousand routes that were deleted at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbor: Option<NextHopState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<Exception>,
    /// In place of `exception`: so many were left out because there were too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<LinkRate>,
}

/// `type Exception`: a frame that the slow path has handled, or has begun to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Exception {
    pub port: String,
    /// Why XDP would not forward it; `None` if it would now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened to it.
    pub outcome: String,
    /// Its length in bytes, without VLAN tags.
    pub length: u64,
    /// The label stack, from the top.
    pub labels: Vec<StackEntry>,
    /// Of the IP packet, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
}

/// `type StackEntry`: one entry of a label stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StackEntry {
    pub label: u32,
    pub tc: u8,
    pub ttl: u8,
}

/// `type LinkRate`: what a port has done since the last time, per second.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LinkRate {
    pub ifname: String,
    /// The time since the last time.
    pub seconds: f64,
    /// By the kernel's counters of the interface; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_pps: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_bps: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_pps: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_bps: Option<f64>,
    /// The reasons for which frames that arrived were not forwarded.
    pub reasons: Vec<ReasonRate>,
}

/// `type ReasonRate`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ReasonRate {
    pub reason: String,
    pub pps: f64,
    pub bps: f64,
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

/// Parameters of `GetBusiestRoutes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetBusiestRoutes {
    /// At most so many; 20 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// How long their frames are counted; 1000 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<BusyOrder>,
}

impl GetBusiestRoutes {
    pub const COUNTS: RangeInclusive<u32> = 1..=1000;
    pub const MILLISECONDS: RangeInclusive<u32> = 10..=60_000;
}

/// `type BusyOrder`: what makes a route busy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusyOrder {
    #[default]
    Packets,
    Bytes,
}

/// Reply of `GetBusiestRoutes`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BusiestRoutes {
    /// How long the frames were counted.
    pub seconds: f64,
    /// The busiest first.
    pub routes: Vec<BusyRoute>,
}

/// `type BusyRoute`: a route, and what it forwards now.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BusyRoute {
    pub route: InstalledRoute,
    pub packets_per_second: f64,
    pub bits_per_second: f64,
}

/// Parameters of `SendLspPing`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LspPing {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub source_port: u16,
    pub destination: String,
    pub ttl: u8,
    /// In hexadecimal.
    pub payload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// Reply of `SendLspPing`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LspPingSent {
    pub dev: String,
    /// `None` if the next hop has only a MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    pub labels: Vec<u32>,
    pub source: String,
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

/// Reply of `GetConfig`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigReply {
    /// Values by the keys of the config file.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// Reply of `GetSync`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SyncReply {
    pub sources: Vec<SyncSource>,
}

/// `type SyncSource`: a source of routes that the instance follows.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SyncSource {
    /// `kernel` or `fpm`, which is also the owner of its routes; or `frr`, which has backups for their routes.
    pub source: String,
    pub state: SyncState,
    /// The address of the routing daemon that is connected, or was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// How many of each the source has. Of `frr`: labels and prefixes with backups.
    pub labels: u64,
    pub prefixes: u64,
    pub nexthop_objects: u64,
    /// Routes that have not been processed yet.
    pub pending: u64,
    /// Routes that did not fit into the tables and were left to the kernel. Of `frr`: those that got no backups.
    pub refused: u64,
    /// The time since the last audit ended, and how many differences it found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differences: Option<u64>,
    /// The kernel's `net.mpls.ip_ttl_propagate` and `net.mpls.default_ttl`, or the option that replaces it, if routes
    /// follow them: unless `ttl-propagate` was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_ttl_propagate: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_ttl: Option<u8>,
    /// Of `fpm`: what has come over its connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<FpmServer>,
    /// Of `frr`: what zebra has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vty: Option<FrrVty>,
}

/// `type FrrVty`: the socket over which zebra is asked for backups. It counts from the load on.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FrrVty {
    pub socket: String,
    /// How often everything was asked and answered, and how often that failed.
    pub answers: u64,
    pub failures: u64,
    /// The time since the last answer, how long that took, and its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_seconds: Option<f64>,
    pub bytes: u64,
    /// How many pseudowires were up then.
    pub pseudowires: u64,
    /// Why there was no answer, if the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// `type FpmServer`: the server that a routing daemon connects to. It counts from the load on, over all connections.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FpmServer {
    /// The address and port that it listens on.
    pub address: String,
    /// Zebra's module at the other end, or at the last one: `dplane_fpm_nl`, `fpm`, `fpm:protobuf` or
    /// `dplane_fpm_sonic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// Connections that were accepted, and those that were refused because another was open.
    pub connections: u64,
    pub refused_connections: u64,
    pub frames: u64,
    pub bytes: u64,
    /// Messages that add or replace a label route, an IP route, a nexthop object, and messages that delete one.
    pub labels: u64,
    pub labels_deleted: u64,
    pub prefixes: u64,
    pub prefixes_deleted: u64,
    pub nexthop_objects: u64,
    pub nexthop_objects_deleted: u64,
    /// Messages about other things, and frames that are not netlink.
    pub ignored: u64,
    /// Messages that cannot be read.
    pub unreadable: u64,
    /// Connections that were closed because something else stood where a frame must begin.
    pub framing_lost: u64,
    /// Messages that a later one for the same route replaced before they were applied.
    pub coalesced: u64,
    /// Messages that wait to be applied.
    pub queued: u64,
}

/// `type SyncState`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncState {
    /// No routing daemon has connected yet.
    #[default]
    Waiting,
    /// The source is sending all of its routes.
    Syncing,
    Synced,
    /// The routing daemon is gone; its routes stay.
    Lost,
    /// FRR has not answered for `sync-stale`; its backups stay.
    Stale,
}

impl SyncState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Syncing => "syncing",
            Self::Synced => "synced",
            Self::Lost => "lost",
            Self::Stale => "stale",
        }
    }
}

/// Parameters of `CheckSync`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSync {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<bool>,
}

/// Reply of `CheckSync`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncChecks {
    pub checks: Vec<SyncCheck>,
}

/// `type SyncCheck`: the result of comparing a source with the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncCheck {
    pub source: String,
    /// How many routes were compared.
    pub checked: u64,
    pub stale: u64,
    pub missing: u64,
    pub different: u64,
    /// Labels that either the kernel or the routing daemon has, but not both. Repairing does not change that.
    pub unmatched: u64,
    /// The first 1,000 differences.
    pub differences: Vec<SyncDifference>,
    pub repaired: bool,
}

/// `type SyncDifference`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncDifference {
    /// The label or prefix.
    pub route: String,
    pub problem: SyncProblem,
    /// The route that should be installed, as a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// The route that is installed, as a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<String>,
}

/// `type SyncProblem`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncProblem {
    /// The source does not have the route, but it is installed.
    #[default]
    Stale,
    /// The source has the route, but it is not installed.
    Missing,
    Different,
    /// The kernel has a route for the label, but the routing daemon has not sent one.
    OnlyKernel,
    /// The routing daemon has sent a route for the label, but the kernel has none.
    OnlyDaemon,
}

impl SyncProblem {
    /// Whether the route that is installed is wrong, so that the right one can be installed.
    pub const fn is_repaired(self) -> bool {
        matches!(self, Self::Stale | Self::Missing | Self::Different)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Different => "different",
            Self::OnlyKernel => "only in the kernel",
            Self::OnlyDaemon => "not in the kernel",
        }
    }
}

/// What the AF_XDP socket of a port's queue has counted since it was opened. It is not on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ring {
    pub port: String,
    pub queue: u32,
    /// Frames that the slow path took.
    pub received: u64,
    /// Frames that were lost because the receive ring was full.
    pub ring_full: u64,
    /// Frames that were lost because they did not fit, or for lack of memory.
    pub dropped: u64,
    /// How often there was no buffer for a frame.
    pub fill_ring_empty: u64,
}

/// Requests from the server to the switch. Each is all or nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    GetStatus,
    GetConfig,
    /// Routes after `after`, in the order of keys, up to the one with which they reach `limit` paths, or fewer, so that
    /// a long list or search does not hold the switch up.
    ListRoutes {
        filter: RouteFilter,
        after: Option<RouteKey>,
        limit: usize,
        counters: bool,
    },
    /// With `wait`, routes that cannot reach their next hops are installed and wait; otherwise they are refused.
    ChangeRoutes {
        mode: ChangeMode,
        owner: Source,
        routes: Vec<crate::route::Route>,
        wait: bool,
    },
    /// The route of a key, or the one that packets to an address take.
    GetRoute {
        lookup: Lookup,
    },
    /// The routing table of a VRF.
    GetVrf {
        name: String,
    },
    /// Each route must exist and match its description.
    DeleteRoutes {
        owner: Source,
        routes: Vec<Description>,
    },
    /// The owner's routes that `filter` selects.
    FlushRoutes {
        owner: Source,
        filter: RouteFilter,
    },
    ListLinks {
        counters: bool,
    },
    AddLink {
        name: String,
        tx_only: bool,
        accept: AcceptLabels,
        mpls_mtu: MplsMtu,
        dscp_map: DscpMap,
        tc_map: TcMap,
        checksum: Option<Checksum>,
    },
    DeleteLink {
        name: String,
    },
    SetLink {
        name: String,
        change: PortChange,
    },
    /// Every frame of port `name` goes to port `to`, and unless it is `one_way`, the other way round.
    AddCrossConnect {
        name: String,
        to: String,
        /// What must happen to tags.
        vlan: Option<VlanOperation>,
        one_way: bool,
    },
    /// `to`: `None` is the port that `name` is cross-connected with.
    DeleteCrossConnect {
        name: String,
        to: Option<String>,
        one_way: bool,
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
    /// The `count` routes that forward most within `time`.
    GetBusiestRoutes {
        count: usize,
        time: Duration,
        order: BusyOrder,
    },
    GetUnknownLabels,
    /// What would happen to `frame` if it arrived at port `name`.
    Trace {
        name: String,
        frame: Vec<u8>,
    },
    SendLspPing(Box<EchoRequest>),
    /// Events go into this queue from now on.
    Monitor {
        watcher: Watcher,
    },
    /// Captured frames go into this queue from now on.
    Capture {
        tap: Tap,
    },
    /// These routes, which were installed, with their state now; without it if they are not installed any more.
    DescribeRoutes {
        routes: Vec<(Owner, crate::route::Route)>,
    },
    /// For metrics.
    GetRings,
    GetSync,
    CheckSync {
        repair: bool,
    },
    Confirm,
    /// Go on as another process image, from the file that this process was started from.
    Upgrade,
    Unload,
}

/// An MPLS echo request to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EchoRequest {
    pub lsp: Lsp,
    /// `None`: an address of this machine.
    pub source: Option<IpAddr>,
    pub source_port: u16,
    pub destination: IpAddr,
    pub ttl: u8,
    pub payload: Vec<u8>,
    pub dry_run: bool,
}

/// The beginning of an LSP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lsp {
    /// That of packets to this prefix.
    Prefix(IpNet),
    /// These labels, at a next hop of a route.
    Stack {
        labels: Vec<Label>,
        via: IpAddr,
        dev: Option<String>,
    },
}

/// The route to look up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// For a prefix, the route that applies at ports of the table, or outside of VRFs ([`RoutingTable::MAIN`]) if there
    /// is no table.
    Key(RouteKey),
    /// By the longest match, at ports of this table.
    Address(IpAddr, RoutingTable),
}

/// The switch's answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    Status(Box<Status>),
    Config(BTreeMap<String, serde_json::Value>),
    Routes {
        routes: Vec<InstalledRoute>,
        /// The list continues after this key; `None` at its end.
        after: Option<RouteKey>,
    },
    Route(Box<InstalledRoute>),
    Vrf(Vrf),
    Changed(Changed),
    Committed(Committed),
    Links(Vec<Link>),
    Neighbors {
        neighbors: Vec<NextHopState>,
        /// The position of the last one, if others follow.
        last: Option<Position>,
    },
    Stats(Stats),
    Busiest(BusiestRoutes),
    /// The most frequent first.
    UnknownLabels(Vec<UnknownLabel>),
    LspPingSent(LspPingSent),
    Rings(Vec<Ring>),
    Trace(Box<Trace>),
    Sync(Vec<SyncSource>),
    SyncChecks(Vec<SyncCheck>),
    Done,
}

/// Why the request was refused: nothing was changed. Each is an error of the interface.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum Refusal {
    #[error("{key} already has a route: `{route}`; `replace` replaces it")]
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
    #[error("{reason}")]
    #[serde(rename = "io.mplsxdp.NoSuchVrf")]
    NoSuchVrf { name: String, reason: String },
    #[error("the route of {key} is different: `{route}`")]
    #[serde(rename = "io.mplsxdp.RouteDiffers")]
    RouteDiffers {
        #[serde(with = "route_key")]
        key: RouteKey,
        route: String,
    },
    #[error("the route of {key} belongs to `{owner}`: to change it, use `mplsxdp route --owner {owner} ...`")]
    #[serde(rename = "io.mplsxdp.RouteForeign")]
    RouteForeign {
        #[serde(with = "route_key")]
        key: RouteKey,
        owner: String,
    },
    /// One of the given routes is not possible; `index` counts from 0. If one of its fields is wrong, `parameter` says
    /// which.
    #[error("{reason}")]
    #[serde(rename = "io.mplsxdp.RouteRefused")]
    RouteRefused {
        index: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parameter: Option<String>,
        reason: String,
    },
    #[error("{ifname} is not a port{hint}")]
    #[serde(rename = "io.mplsxdp.NoSuchLink")]
    NoSuchLink { ifname: String, hint: String },
    #[error("{reason}")]
    #[serde(rename = "io.mplsxdp.LinkRefused")]
    LinkRefused { ifname: String, reason: String },
    #[error("no MPLS echo request was sent: {reason}")]
    #[serde(rename = "io.mplsxdp.LspPingRefused")]
    LspPingRefused { reason: String },
    #[error("{reason}")]
    #[serde(rename = "io.mplsxdp.UpgradeRefused")]
    UpgradeRefused { reason: String },
    #[error("{reason}")]
    #[serde(rename = "io.mplsxdp.CaptureRefused")]
    CaptureRefused { reason: String },
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

/// Every error that a call can return.
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
    /// `reason` goes beyond the standard, which has only `parameter`.
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
    /// `group`: the group whose members may.
    #[error("{reason}")]
    #[serde(rename = "io.mplsxdp.PermissionDenied")]
    PermissionDenied { group: String, reason: String },
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

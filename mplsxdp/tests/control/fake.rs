//! An instance without a data plane.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Bound;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use mplsxdp::control::access::Groups;
use mplsxdp::control::api::{
    BackupState, BucketRange, BusiestRoutes, ChangeMode, Changed, Changes, Checksum, Committed, Counter,
    InstalledRoute, KernelCounters, KernelNeighbor, KeyFilter, Link, LinkCounters, Lookup, LspPingSent, NextHopState,
    Outcome, PathState, ReasonCounter, Refusal, Reply, Request, Resolution, RouteFilter, SavedState, Stats, Status,
    Table, Trace, TraceStep, TraceVerdict, TracedFrame, UnknownLabel, UnreachableRoute, ViaAddress, ViaFamily, VlanTag,
    Vrf,
};
use mplsxdp::control::events::{Event, Timed, Watcher};
use mplsxdp::control::frames::Tap;
use mplsxdp::control::server::{self, Limits};
use mplsxdp::control::socket;
use mplsxdp::control::{Call, Instance, Peer};
use mplsxdp::lfib::next_hops::NextHopId;
use mplsxdp::route::{Backup, NextHop, Path, Route, RouteKey, Source};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The port for this machine's own packets.
const LOCAL_PORT: &str = "mpls0-port";

/// The state of the controller.
#[derive(Default)]
pub struct Kept {
    pub routes: BTreeMap<RouteKey, Route>,
    /// The requests that it got, except lists of routes.
    pub requests: Vec<(Request, Peer)>,
    /// Those who watch.
    pub watchers: Vec<Watcher>,
    /// Those who capture.
    pub taps: Vec<Tap>,
}

/// A running instance in its own directory. Ends when dropped.
pub struct Fake {
    pub instance: Instance,
    pub kept: Arc<Mutex<Kept>>,
    pub dir: TempDir,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let dir = TempDir::new().unwrap();
        let instance = Instance::in_dir(dir.path().join("run"), "default").unwrap();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (instance, kept, shutdown) = (instance.clone(), Arc::clone(&kept), shutdown.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let (listener, _guard) = socket::bind(&instance, &Groups::default()).unwrap();
                    ready.send(()).unwrap();
                    let (sender, receiver) = mpsc::channel(16);
                    tokio::join!(
                        server::serve(
                            listener,
                            sender,
                            Groups::default(),
                            limits,
                            Arc::default(),
                            shutdown.clone()
                        ),
                        control(receiver, kept, shutdown),
                    );
                });
            }
        });
        is_ready.recv().unwrap();
        Self {
            instance,
            kept,
            dir,
            shutdown,
            thread: Some(thread),
        }
    }

    /// Reports an event to those who watch.
    pub fn tell(&self, event: Event) {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_000);
        let event = Arc::new(Timed { time, event });
        self.kept
            .lock()
            .unwrap()
            .watchers
            .iter()
            .for_each(|watcher| watcher.tell(&event));
    }

    /// Waits until so many watch.
    pub fn await_watchers(&self, count: usize) {
        let watchers = || {
            let mut kept = self.kept.lock().unwrap();
            kept.watchers.retain(|watcher| !watcher.is_gone());
            kept.watchers.len()
        };
        while watchers() != count {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn raw(&self) -> Raw {
        Raw::new(&self.instance)
    }

    /// The present routes, as lines.
    pub fn routes(&self) -> Vec<String> {
        self.kept
            .lock()
            .unwrap()
            .routes
            .values()
            .map(Route::to_string)
            .collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

async fn control(mut calls: mpsc::Receiver<Call>, kept: Arc<Mutex<Kept>>, shutdown: CancellationToken) {
    while let Some(Call { request, peer, reply }) = calls.recv().await {
        let unload = request == Request::Unload;
        let answer = kept.lock().unwrap().answer(request, peer);
        let _ = reply.send(answer);
        if unload {
            shutdown.cancel();
        }
    }
}

/// A list comes in parts, each selected from at most this many routes: some parts are empty.
const EXAMINED: usize = 300;

impl Kept {
    fn answer(&mut self, request: Request, peer: Peer) -> Result<Reply, Refusal> {
        if !matches!(request, Request::ListRoutes { .. }) {
            self.requests.push((request.clone(), peer));
        }
        match request {
            Request::GetStatus => Ok(Reply::Status(Box::new(self.status()))),
            Request::GetConfig => Ok(Reply::Config(
                [
                    ("iface".to_owned(), json!(["eth1"])),
                    ("hold".to_owned(), json!(7)),
                    ("netns".to_owned(), json!("a \"name\"")),
                ]
                .into(),
            )),
            Request::ListRoutes {
                filter,
                after,
                limit,
                counters,
            } => {
                let rest = |after: Option<RouteKey>| {
                    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
                    self.routes.range((start, Bound::Unbounded))
                };
                let (mut routes, mut paths, mut last) = (Vec::new(), 0, after);
                for (&key, route) in rest(after).take(EXAMINED) {
                    last = Some(key);
                    if chosen(&filter, route) {
                        paths += route.paths().len();
                        routes.push(installed(route, counters));
                    }
                    if paths >= limit {
                        break;
                    }
                }
                let after = last.filter(|&last| rest(Some(last)).next().is_some());
                Ok(Reply::Routes { routes, after })
            }
            Request::ChangeRoutes { mode, routes, wait, .. } => {
                let waits = |hop: &NextHop| hop.dev.as_deref() == Some("later");
                let waiting = routes.iter().filter(|route| route.next_hops().any(waits));
                let keys: Vec<RouteKey> = waiting.map(Route::key).collect();
                match self.change(mode, routes)? {
                    Reply::Changed(Changed { changes, warnings }) if wait => Ok(Reply::Committed(Committed {
                        changes,
                        warnings,
                        unreachable: keys
                            .iter()
                            .take(100)
                            .map(|&key| UnreachableRoute {
                                key: key.into(),
                                reason: "later is down: `ip link set later up`".into(),
                            })
                            .collect(),
                        unreachable_total: keys.len() as u64,
                    })),
                    reply => Ok(reply),
                }
            }
            Request::GetRoute { lookup } => {
                let (key, found) = match lookup {
                    Lookup::Key(key) => (key, Some(key)),
                    Lookup::Address(address, table) => {
                        let host = IpNet::from(address);
                        let covering = KeyFilter::Covering(host);
                        let counts = |key: &RouteKey| {
                            let RouteKey::Prefix(fec) = key else { return false };
                            covering.selects(*key) && fec.table.is_none_or(|other| other == table)
                        };
                        let covering = self.routes.keys().filter(|key| counts(key));
                        (RouteKey::Prefix(host.into()), covering.max_by_key(length).copied())
                    }
                };
                let route = found.and_then(|key| self.routes.get(&key));
                let route = route.ok_or(Refusal::NoSuchRoute { key })?;
                Ok(Reply::Route(Box::new(installed(route, true))))
            }
            Request::GetVrf { name } if name == "red" => Ok(Reply::Vrf(Vrf { table: 1000 })),
            Request::GetVrf { name } => Err(Refusal::NoSuchVrf {
                reason: format!("there is no VRF `{name}`"),
                name,
            }),
            Request::DeleteRoutes { routes, .. } => {
                for described in &routes {
                    let key = described.key;
                    let found = self.routes.get(&key).ok_or(Refusal::NoSuchRoute { key })?;
                    let found = on_eth1(found);
                    if !described.fits(&found) {
                        let route = found.to_string();
                        return Err(Refusal::RouteDiffers { key, route });
                    }
                }
                for described in &routes {
                    self.routes.remove(&described.key);
                }
                Ok(deleted(routes.len()))
            }
            Request::FlushRoutes { filter, .. } => {
                let before = self.routes.len();
                self.routes.retain(|_, route| !chosen(&filter, route));
                Ok(deleted(before - self.routes.len()))
            }
            Request::Trace { name, frame } => Ok(Reply::Trace(Box::new(Trace {
                arrived: TracedFrame {
                    ifname: name.clone(),
                    frame: hex(&frame),
                    text: "a frame".into(),
                },
                steps: vec![TraceStep {
                    step: "label".into(),
                    text: "label 100, TTL 64, TC 0, S 1: out label 110, TTL uniform".into(),
                    rule: Some("RFC 3031 section 3.13".into()),
                    route: None,
                }],
                verdict: TraceVerdict::Forwarded,
                reason: None,
                description: None,
                rule: None,
                sent: Some(TracedFrame {
                    ifname: name,
                    frame: hex(&frame[6..]),
                    text: "another frame".into(),
                }),
                slow_path: Vec::new(),
            }))),
            Request::ListLinks { counters } => Ok(Reply::Links(links(counters))),
            Request::AddLink { name, .. } if name == "eth0" => Err(Refusal::LinkRefused {
                reason: "eth0 is taken by another XDP program".into(),
                ifname: name,
            }),
            Request::DeleteLink { name } if name == LOCAL_PORT => Err(Refusal::LinkRefused {
                reason: format!("{name} is the far end of mpls0, and is there as long as the instance runs"),
                ifname: name,
            }),
            Request::DeleteLink { name } | Request::SetLink { name, .. } if name != "eth1" && name != LOCAL_PORT => {
                Err(Refusal::NoSuchLink {
                    hint: format!(": add it with `mplsxdp link add {name}`"),
                    ifname: name,
                })
            }
            Request::AddLink { .. }
            | Request::DeleteLink { .. }
            | Request::SetLink { .. }
            | Request::AddCrossConnect { .. }
            | Request::DeleteCrossConnect { .. }
            | Request::Confirm
            | Request::Upgrade
            | Request::Unload => Ok(Reply::Done),
            Request::ListNeighbors { after, limit, counters } => {
                let paths = self.routes.values().flat_map(Route::paths);
                let hops = (0..).map(NextHopId).zip(paths.filter(|path| path.next_hop.is_some()));
                let mut rest = hops.filter(|&(id, _)| after.as_ref().is_none_or(|&(.., after)| id > after));
                let some: Vec<_> = rest.by_ref().take(limit).collect();
                Ok(Reply::Neighbors {
                    neighbors: some
                        .iter()
                        .filter_map(|(_, path)| next_hop(path))
                        .map(|state| NextHopState {
                            kernel: kernel_neighbor(&state).filter(|_| counters),
                            ..state
                        })
                        .collect(),
                    last: some.last().filter(|_| rest.next().is_some()).and_then(|&(id, path)| {
                        let next_hop = path.next_hop.clone()?;
                        Some((next_hop, path.backup_alike().cloned(), id))
                    }),
                })
            }
            Request::GetStats { all } => Ok(Reply::Stats(stats(all))),
            Request::GetBusiestRoutes { .. } => Ok(Reply::Busiest(BusiestRoutes::default())),
            Request::GetSync => Ok(Reply::Sync(Vec::new())),
            Request::CheckSync { .. } => Ok(Reply::SyncChecks(Vec::new())),
            Request::SendLspPing(_) => Ok(Reply::LspPingSent(LspPingSent::default())),
            Request::GetUnknownLabels => Ok(Reply::UnknownLabels(unknown_labels())),
            Request::Monitor { watcher } => {
                self.watchers.push(watcher);
                Ok(Reply::Done)
            }
            Request::Capture { tap } => {
                self.taps.push(tap);
                Ok(Reply::Done)
            }
            Request::DescribeRoutes { routes } => Ok(Reply::Routes {
                routes: routes.iter().map(|(_, route)| installed(route, false)).collect(),
                after: None,
            }),
            Request::GetRings => panic!("no method asks for rings"),
        }
    }

    fn change(&mut self, mode: ChangeMode, routes: Vec<Route>) -> Result<Reply, Refusal> {
        let mut next = if mode == ChangeMode::ReplaceAll {
            BTreeMap::new()
        } else {
            self.routes.clone()
        };
        let mut changes = Changes::default();
        let is_odd = |route: &Route| route.attributes().protocol == "99".parse().unwrap();
        let odd = routes.iter().any(is_odd);
        let warnings = odd.then(|| "proto 99 is odd".to_owned()).into_iter().collect();
        for (index, route) in routes.into_iter().enumerate() {
            let key = route.key();
            if route
                .next_hops()
                .any(|next_hop| next_hop.dev.as_deref() == Some("nowhere"))
            {
                return Err(Refusal::RouteRefused {
                    index,
                    parameter: None,
                    reason: "nowhere is not a port".into(),
                });
            }
            match self.routes.get(&key) {
                Some(there) if mode == ChangeMode::Add => {
                    return Err(Refusal::RouteExists {
                        key,
                        route: there.to_string(),
                    });
                }
                None if mode == ChangeMode::Change => return Err(Refusal::NoSuchRoute { key }),
                Some(there) if *there == route => {}
                Some(_) => changes.replaced += 1,
                None => changes.added += 1,
            }
            next.insert(key, route);
        }
        changes.deleted = self.routes.keys().filter(|key| !next.contains_key(key)).count() as u64;
        self.routes = next;
        Ok(Reply::Changed(Changed { changes, warnings }))
    }

    fn status(&self) -> Status {
        Status {
            version: "0.1.0".into(),
            abi_version: 1,
            instance: "default".into(),
            pid: 4711,
            uptime_seconds: 3725,
            netns_inode: 4_026_531_840,
            mode: "native".into(),
            ttl_mode: "linux".into(),
            tunnel_ttl: 255,
            tc_propagate: false,
            unknown: "punt".into(),
            icmp_via: "auto".into(),
            local: Some("mpls0".into()),
            links: 2,
            labels: 1 << 20,
            label_routes: self.routes.len() as u64,
            prefix_routes: 0,
            next_hops: 1,
            unresolved_next_hops: 0,
            tables: vec![Table {
                name: "ILM".into(),
                used: self.routes.len() as u64,
                capacity: 1 << 20,
                memory_bytes: 8 << 20,
            }],
            uncounted_routes: 0,
            log_lines_lost: 0,
            log_lines_left_out: 0,
            since: Some("2026-11-29T12:30:00Z".into()),
            netns: Some("r1".into()),
            config_file: Some("/etc/mplsxdp/default.toml".into()),
            ports: Some(vec!["eth1".into(), LOCAL_PORT.into()]),
            preferences: Some(BTreeMap::from([
                (Source::Static, 1),
                (Source::Fpm, 10),
                (Source::Kernel, 5),
            ])),
            ip_ttl_propagate: Some(false),
            default_ttl: Some(64),
            frr_stale_seconds: Some(95),
            state: Some(SavedState {
                directory: "/var/lib/mplsxdp/default".into(),
                snapshot_bytes: 2048,
                journal_bytes: 1,
                failure: Some("cannot write the journal: no space".into()),
                failing_since: Some("2026-11-29T12:31:00Z".into()),
            }),
        }
    }
}

fn chosen(filter: &RouteFilter, route: &Route) -> bool {
    let is_one = |path: &Path| match next_hop(path) {
        Some(hop) => {
            let via = filter.via.map(ViaAddress::from);
            via.is_none_or(|via| via == hop.via) && (filter.dev.is_none() || filter.dev == hop.dev)
        }
        None => filter.via.is_none() && filter.dev.as_deref().is_none_or(|dev| dev == "lo"),
    };
    filter.selects(route.key())
        && filter
            .protocol
            .is_none_or(|protocol| protocol == route.attributes().protocol)
        && route.paths().iter().any(is_one)
}

fn length(key: &&RouteKey) -> (u8, bool) {
    match key {
        RouteKey::Label(_) | RouteKey::Attachment(_) => (0, false),
        RouteKey::Prefix(fec) => (fec.prefix.prefix_len(), fec.table.is_some()),
    }
}

/// The route with the interface that is found for its next hops, unless that makes two of them equal.
fn on_eth1(route: &Route) -> Route {
    let found = |next_hop: &NextHop| NextHop {
        dev: next_hop.dev.clone().or(Some("eth1".into())),
        ..next_hop.clone()
    };
    let paths = route.paths().iter().map(|path| Path {
        next_hop: path.next_hop.as_ref().map(found),
        backup: path.backup.as_ref().map(|backup| Backup {
            next_hop: found(&backup.next_hop),
            action: backup.action.clone(),
        }),
        ..path.clone()
    });
    let found = Route::with_paths(route.key(), paths.collect(), route.ttl_propagate());
    let found = found.and_then(|found| found.with_attributes(route.attributes()));
    found.unwrap_or_else(|_| route.clone())
}

fn deleted(count: usize) -> Reply {
    let changes = Changes {
        deleted: count as u64,
        ..Changes::default()
    };
    Reply::Changed(changes.into())
}

/// Addresses that end in .9 do not resolve; all others are behind eth1.
fn next_hop(path: &Path) -> Option<NextHopState> {
    let BackupState {
        via,
        dev,
        lladdr,
        state,
        redirect_lost,
        ..
    } = resolution(path.next_hop.as_ref()?);
    let backup = path.backup.as_ref().map(|backup| resolution(&backup.next_hop));
    Some(NextHopState {
        via,
        dev,
        lladdr,
        state,
        redirect_lost,
        routes: 1,
        backup: backup.map(|backup| BackupState {
            in_use: state != Resolution::Resolved && backup.state == Resolution::Resolved,
            ..backup
        }),
        own_backups: path.backup.is_some() && path.backup_alike().is_none(),
        kernel: None,
    })
}

/// The kernel has an entry for each next hop that is not named by its MAC address.
fn kernel_neighbor(next_hop: &NextHopState) -> Option<KernelNeighbor> {
    (next_hop.via.family != ViaFamily::Link).then(|| KernelNeighbor {
        state: if next_hop.lladdr.is_some() {
            "REACHABLE"
        } else {
            "FAILED"
        }
        .into(),
        refcnt: 1,
        used: 12,
        confirmed: 3,
        updated: 45,
        probes: 6,
    })
}

fn resolution(next_hop: &NextHop) -> BackupState {
    let resolved = !next_hop.via.to_string().ends_with(".9");
    BackupState {
        via: next_hop.via.into(),
        dev: Some("eth1".into()),
        lladdr: resolved.then(|| "02:00:00:00:00:02".into()),
        state: if resolved {
            Resolution::Resolved
        } else {
            Resolution::Failed
        },
        in_use: false,
        redirect_lost: false,
    }
}

/// Several paths take turns in the buckets.
fn installed(route: &Route, counters: bool) -> InstalledRoute {
    let (next_hop, paths) = match route.paths() {
        [path] => (next_hop(path), None),
        paths => {
            let spread = std::array::from_fn(|bucket| (bucket / 64 % paths.len()) as u8);
            let paths = paths.iter().zip(0..=u8::MAX).filter_map(|(path, index)| {
                Some(PathState {
                    next_hop: next_hop(path)?,
                    buckets: Some(BucketRange::of(&spread, index)),
                })
            });
            (None, Some(paths.collect()))
        }
    };
    InstalledRoute {
        route: route.into(),
        owner: "static".into(),
        standby: false,
        next_hop,
        paths,
        passes: None,
        problem: None,
        backups: None,
        counter: counters.then_some(Counter { packets: 5, bytes: 500 }),
    }
}

pub fn links(counters: bool) -> Vec<Link> {
    let mut seen = stats(true).reasons;
    seen.push(reason("checksum-finished", 70));
    let eth1 = Link {
        ifname: "eth1".into(),
        ifindex: Some(2),
        address: "02:00:00:00:00:01".into(),
        mtu: 1500,
        up: true,
        mode: "native".into(),
        link_id: 3,
        program_id: 4,
        put_back: 0,
        mpls: true,
        accept_labels: None,
        mpls_mtu: 1500,
        mpls_mtu_set: None,
        cross_connect: None,
        attachment: false,
        dscp_map: None,
        tc_map: None,
        tx_only: false,
        local: false,
        parent_only: false,
        parent: None,
        vlan: None,
        peer: Some("eth0".into()),
        peer_netns: Some("/run/netns/left".into()),
        redirect_target: Some(true),
        problem: None,
        checksum: Checksum::Finish,
        counters: counters.then_some(LinkCounters {
            kernel: Some(KernelCounters {
                rx_bytes: 123456789,
                rx_packets: 1234,
                rx_errors: 1,
                rx_dropped: 2,
                rx_missed: 3,
                rx_over: 9,
                multicast: 4,
                tx_bytes: 5678,
                tx_packets: 56,
                tx_errors: 5,
                tx_dropped: 6,
                tx_carrier: 7,
                collisions: 8,
            }),
            reasons: seen,
        }),
    };
    let local = Link {
        ifname: LOCAL_PORT.into(),
        ifindex: Some(4),
        address: "02:00:00:00:00:03".into(),
        mtu: 1468,
        mpls: false,
        local: true,
        redirect_target: None,
        ..eth1.clone()
    };
    let vlan = |protocol: &str, id| VlanTag {
        protocol: protocol.into(),
        id,
    };
    let parent_only = Link {
        ifname: "eth2".into(),
        peer: None,
        peer_netns: None,
        ifindex: Some(5),
        put_back: 2,
        mpls: false,
        parent_only: true,
        ..eth1.clone()
    };
    let qinq = Link {
        ifname: "eth2.100.10".into(),
        ifindex: None,
        parent: Some("eth2".into()),
        vlan: Some(vec![vlan("802.1ad", 100), vlan("802.1Q", 10)]),
        counters: counters.then(LinkCounters::default),
        ..eth1.clone()
    };
    vec![eth1, parent_only, qinq, local]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unknown_labels() -> Vec<UnknownLabel> {
    let unknown = |label, packets, rate_pps, idle_seconds| UnknownLabel {
        port: "eth1".into(),
        label,
        packets,
        rate_pps,
        idle_seconds,
    };
    vec![unknown(999, 1200, 99.96, 0.25), unknown(16, 34, 0.0, 754.5)]
}

fn reason(name: &str, packets: u64) -> ReasonCounter {
    ReasonCounter {
        port: "eth1".into(),
        reason: name.into(),
        description: format!("About {name}."),
        packets,
        bytes: packets * 100,
        policed: packets / 10,
        unheard: packets / 100,
    }
}

fn stats(all: bool) -> Stats {
    let outcome = |name: &str, packets| Outcome {
        name: name.into(),
        description: format!("{name}, in a sentence."),
        packets,
    };
    let mut slow_path = vec![outcome("unknown-label", 1099)];
    let mut reasons = vec![reason("no-route", 1234)];
    if all {
        reasons.push(reason("ttl-expired", 0));
        slow_path.push(outcome("time-exceeded", 0));
    }
    Stats {
        reasons,
        slow_path,
        forwarded: Counter {
            packets: 10,
            bytes: 1000,
        },
        uncounted_routes: 0,
    }
}

/// A client that can send any bytes.
pub struct Raw(pub UnixStream);

impl Raw {
    pub fn new(instance: &Instance) -> Self {
        let stream = UnixStream::connect(instance.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
        self.0.write_all(&[0]).unwrap();
    }

    /// One message, or `None` at the end of the connection.
    pub fn receive(&mut self) -> Option<Value> {
        let mut message = Vec::new();
        loop {
            let mut byte = [0];
            match self.0.read(&mut byte).unwrap() {
                0 => {
                    assert!(message.is_empty(), "the connection ended within a message");
                    return None;
                }
                _ if byte == [0] => return Some(serde_json::from_slice(&message).unwrap()),
                _ => message.extend(byte),
            }
        }
    }

    /// All replies to a call of a list with `more`, and the length of each.
    pub fn pages(&mut self, method: &str, parameters: Value) -> Vec<(Value, usize)> {
        let call = json!({ "method": format!("io.mplsxdp.{method}"), "parameters": parameters, "more": true });
        self.send(&call.to_string());
        let mut stream = BufReader::new(&self.0);
        let mut pages = Vec::new();
        loop {
            let mut message = Vec::new();
            stream.read_until(0, &mut message).unwrap();
            let length = message.len();
            assert_eq!(message.pop(), Some(0));
            let page: Value = serde_json::from_slice(&message).unwrap();
            let continues = page["continues"] == true;
            pages.push((page, length));
            if !continues {
                return pages;
            }
        }
    }

    pub fn ask(&mut self, text: &str) -> Value {
        self.send(text);
        self.receive().unwrap()
    }

    /// Calls a method of our interface.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.ask(&serde_json::json!({ "method": format!("io.mplsxdp.{method}"), "parameters": parameters }).to_string())
    }
}

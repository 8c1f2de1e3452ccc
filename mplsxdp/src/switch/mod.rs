//! The switch itself: requests, kernel events and results come in, effects go out. Nothing here waits, and nothing
//! reaches outside except through the tables and the effects: [`crate::daemon`] performs them, and feeds back their
//! results.
//!
//! ```text
//!   requests, kernel events, results, the time ---> Switch::handle ---> tables
//!                                       ^                |
//!                                       |                v
//!                                       +---- daemon <-- effects: replies, look-ups, probes, programs to attach
//! ```

mod audit;
mod claims;
mod cross_connects;
mod domains;
mod feeds;
mod frr;
mod handover;
mod inputs;
mod load;
mod lsp_ping;
mod next_hops;
mod owners;
mod ports;
mod pseudowires;
mod reachability;
mod report;
mod returning;
mod routes;
mod saving;
#[cfg(test)]
mod tests;
mod trace;
mod watched;

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use mplsxdp_common::abi::Settings;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::control::Peer;
use crate::control::api::{self, Refusal, Reply, Request};
use crate::control::events::{self, Watcher};
use crate::control::frames::Tap;
use crate::dataplane::Tables;
use crate::feeds::TtlDefaults;
use crate::kernel::{self, LocalRoute};
use crate::lfib::counters::{CountedAt, Total};
use crate::lfib::next_hops::Position;
use crate::lfib::{Budget, Change, Lfib, NextHops, Remains};
use crate::neighbour::addresses::Addresses;
use crate::neighbour::links::Links;
use crate::neighbour::resolver::Resolver;
use crate::neighbour::routes::KernelRoutes;
use crate::neighbour::{Event, Lookup};
use crate::observe::busiest::Growth;
use crate::ports::attach::{Attached, Order, Survey};
use crate::ports::local::LocalPair;
use crate::ports::preflight::Facts;
use crate::ports::programs::Finding;
use crate::ports::{PortError, Ports, sub_interface};
use crate::rib::Rib;
use crate::route::filter::RouteFilter;
use crate::route::{NextHopId, Owner};
use crate::slowpath::oam::sender::Outgoing;
use crate::state;
use audit::Audits;
pub use audit::Reading;
pub use feeds::FeedEvent;
use feeds::Feeds;
pub use frr::{FRR, FrrAnswer};
pub use handover::Situation;
pub use load::ConfigurationError;
use ports::Work;
use report::RouteList;
use returning::Returning;
use routes::{Origin, RouteChange, RouteChanges};
use saving::Saving;
pub use saving::Wanted;
use watched::{News, Watched};

/// RT_TABLE_MAIN and RT_TABLE_LOCAL of rtnetlink(7).
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
/// Ethernet's, if there is no port to ask.
const DEFAULT_MTU: u32 = 1500;
/// How long to wait before a failed write to the FTN table is repeated.
const FTN_RETRY: Duration = Duration::from_secs(1);

/// The receiver of the answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Token(pub u64);

/// A request, and who made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    pub token: Token,
    pub peer: Peer,
    pub request: Request,
}

/// An input of the switch.
#[derive(Debug)]
pub enum Input {
    /// Apply the configuration that the switch was made with: its routes and its ports.
    Start,
    Call(Call),
    /// What the kernel reports, in order.
    Kernel(Vec<Event>),
    /// Links that are down or gone, which [`Input::Kernel`] will report: frames must not go there any more.
    LinksFailed(Vec<u32>),
    /// The answer to [`Effect::LookUp`]: one for each scope, up to the first for which the kernel could not be asked.
    LookedUp {
        address: IpAddr,
        answers: Vec<Result<Lookup, kernel::Error>>,
    },
    /// Frames have begun to wait for the next hops of these adjacency slots.
    Wanted(Vec<u16>),
    /// The configuration was read again.
    Reread(Result<Box<Config>, String>),
    Port(PortEvent),
    /// An event of a routing daemon.
    Feed(FeedEvent),
    /// The backups that FRR has.
    Frr(FrrAnswer),
    /// The answer to [`Effect::CountBusiest`]: the slots that counted most, and how long they counted.
    Busiest {
        token: Token,
        slots: Vec<Growth>,
        time: Duration,
    },
    /// The answer to [`Effect::ReadRoutes`].
    RoutesRead(Result<Reading, String>),
    /// Programs of ports are not in place, or are again.
    Interference(Vec<Finding>),
    /// The result of [`Effect::PutBack`] or [`Effect::LookAtLost`].
    PutBack {
        number: u16,
        result: Result<ProgramIds, NotPutBack>,
    },
    /// The result of [`Effect::ReplaceProgram`].
    Replaced {
        number: u16,
        result: Result<ProgramIds, String>,
    },
    /// The XDP features of an interface, or of any (`None`), may have changed.
    FeaturesChanged(Option<u32>),
    /// The answer to [`Effect::LookAtFeatures`].
    Features {
        ifindex: u32,
        facts: Box<Facts>,
    },
    /// The result of [`Effect::TakeOver`].
    TakenOver {
        programs: Vec<(u16, ProgramIds)>,
        /// The ports that have no program now.
        failed: Vec<u16>,
        /// The interfaces that are not ports any more, and from which the dead process's program was taken.
        were_ports: Vec<u32>,
    },
    /// A part of a snapshot is wanted.
    SnapshotWanted(state::Request),
    /// [`Switch::next_deadline`] or a grace period is over.
    Tick,
    /// Detach everything, and release the kernel's neighbours.
    ShutDown,
}

/// The results of the effects by which an interface becomes a port. There is one at a time.
#[derive(Debug)]
pub enum PortEvent {
    Surveyed(Result<Survey, PortError>),
    Attached(Box<Order>, Result<Attached, PortError>),
    Listening(Result<(), PortError>),
    RoomForLocal(Result<(), PortError>),
    LocalCreated(Result<LocalPair, PortError>),
}

/// The kernel's ids of an attached program: of its bpf_link, and its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgramIds {
    pub link_id: u32,
    pub program_id: u32,
}

/// Why a program could not be put back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotPutBack {
    /// The interface is gone or renamed, which will be reported soon.
    Gone,
    /// `held`: it has another program.
    Refused { reason: String, held: bool },
    /// It was not tried, without `--guard`.
    Unguarded,
}

/// An effect that the switch requests.
#[derive(Debug)]
pub enum Effect {
    Reply {
        token: Token,
        result: Result<Reply, Refusal>,
    },
    /// The same for a change of routes: the warnings of [`Situation::warnings`] are added.
    ReplyAfterHandover {
        token: Token,
        reply: Reply,
        situation: Situation,
    },
    LogHandover(Situation),
    /// Sends an MPLS echo request, and replies with the way that it takes.
    SendLspPing {
        token: Token,
        request: Box<Outgoing>,
    },
    /// Replies with what was forwarded and what the slow path did.
    ReplyStats {
        token: Token,
        all: bool,
        stats: api::Stats,
        /// Ports that have counters, by their numbers.
        ports: Vec<(u16, String)>,
        total: Arc<Total>,
    },
    /// The same for routes: their counters are added.
    ReplyCounted {
        token: Token,
        reply: Reply,
        counted_at: Vec<Option<CountedAt>>,
    },
    /// Reply with our own counters and the kernel's for these ports.
    ReplyLinks {
        token: Token,
        links: Vec<api::Link>,
        /// The numbers of those that are ports.
        numbers: Vec<Option<u16>>,
    },
    /// Reply with the kernel's neighbour entries for these next hops.
    ReplyNeighbors {
        token: Token,
        neighbors: Vec<(Option<(u32, IpAddr)>, api::NextHopState)>,
        last: Option<Position>,
    },
    /// Reply with what would happen to a frame that arrives at this port.
    ReplyTrace {
        token: Token,
        port: u16,
        frame: Vec<u8>,
    },
    ReplyUnknownLabels {
        token: Token,
    },
    /// Find the slots of routes that count most within some time.
    CountBusiest {
        token: Token,
        count: usize,
        time: Duration,
        order: api::BusyOrder,
    },
    ReplyRings {
        token: Token,
    },
    /// Ask how the kernel would send to this address, outside of VRFs (`None`) and in these, in this order.
    LookUp {
        address: IpAddr,
        scopes: Vec<Option<u32>>,
    },
    /// Make the kernel resolve the neighbour, and keep it resolved.
    Probe {
        ifindex: u32,
        address: IpAddr,
    },
    /// The neighbour no longer needs to be kept resolved.
    Release {
        ifindex: u32,
        address: IpAddr,
    },
    /// Make the kernel verify the neighbour, if it is STALE.
    Verify {
        ifindex: u32,
        address: IpAddr,
    },
    /// Look at an interface that should become a port; `own` are the interfaces that have the program.
    Survey {
        name: String,
        own: Vec<u32>,
    },
    Attach(Box<Order>),
    /// Open sockets for exceptions on all queues of a port.
    ListenEverywhere {
        number: u16,
        name: Arc<str>,
    },
    /// Detach what is no longer a port, and close its sockets.
    KeepPorts,
    /// These interfaces, and no others, must receive frames for other stations, too.
    ReceiveAll(BTreeSet<u32>),
    /// These interfaces went down: frames that are queued there must not leave when they are up again.
    LinksDown(BTreeSet<u32>),
    MakeRoomForLocal {
        name: String,
    },
    CreateLocal {
        name: String,
        mtu: u32,
    },
    /// The kernel's routes into it.
    SetLocalRoutes(Vec<LocalRoute>),
    SetLocalMtu {
        pair: LocalPair,
        mtu: u32,
    },
    RemoveLocal(LocalPair),
    /// Check soon whether programs are in place.
    WatchSoon,
    PutBack {
        number: u16,
        ifindex: u32,
        name: Arc<str>,
    },
    /// The same without putting it back: is it another process that has taken it off, or is the interface gone?
    LookAtLost {
        number: u16,
        ifindex: u32,
        name: Arc<str>,
    },
    ReplaceProgram {
        number: u16,
        settings: Settings,
    },
    LookAtFeatures {
        ifindex: u32,
        name: Arc<str>,
    },
    SetFixesPeers(bool),
    /// Put the programs of this process in the place of those that a dead process has left on the ports, and take the
    /// latter off all other interfaces.
    TakeOver,
    /// FRR may have other backups now.
    AskFrr,
    /// Read the kernel's routes.
    ReadRoutes,
    /// Make the kernel report its interfaces, addresses, neighbours and routes again.
    Resync,
    /// From now on, the client of this queue gets events.
    Watch {
        token: Token,
        watcher: Watcher,
    },
    /// From now on, the client of this queue gets captured frames.
    Capture {
        token: Token,
        tap: Tap,
    },
    /// Report this to the clients that watch.
    Tell(events::Event),
    /// Save this change. Replies that follow wait until that is done.
    Save(state::Batch),
    /// The answer to [`Input::SnapshotWanted`].
    Snapshot {
        request: state::Request,
        piece: state::Piece,
    },
    /// Drop this, which may take a while.
    Drop(Remains),
    /// Frames that wait for their next hops may be able to leave now.
    RetryHeld,
    /// Try the program's file, and go on with it.
    Upgrade {
        token: Token,
        peer: Peer,
    },
    /// The switch is up.
    Ready,
    /// It cannot be started.
    Failed(ConfigurationError),
    /// The last request was answered.
    Stop,
}

/// What the switch knows about the process around it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub pid: u32,
    pub netns_inode: u64,
    /// The name of the network namespace, if it has one.
    pub netns_name: Option<String>,
    /// When it was started.
    pub since: SystemTime,
}

/// All state of a running switch.
pub struct Switch<T> {
    started: Instant,
    identity: Identity,
    config: Config,
    resolver: Resolver,
    kernel_routes: KernelRoutes,
    addresses: Addresses,
    /// The routing tables of the VRFs that ports are in.
    vrf_tables: BTreeSet<u32>,
    /// Prefixes of which the LFIB does not know yet what the kernel claims.
    stale_claims: BTreeSet<IpNet>,
    rib: Rib,
    lfib: Lfib<T>,
    ports: Ports,
    local: Option<LocalPair>,
    /// The depth of label stacks that its MTU allows for.
    local_depth: usize,
    /// When to repeat failed writes to the FTN table.
    ftn_retry: Option<Instant>,
    /// When the load is undone, unless a client confirms it.
    unconfirmed: Option<Instant>,
    changes: RouteChanges,
    saving: Saving,
    feeds: Feeds,
    audits: Audits,
    work: Work,
    /// Links that have failed, and of which the kernel's events have not spoken since.
    failed_links: BTreeSet<u32>,
    /// Ports have changed, and the adjacencies of the next hops after this one are still to be rewritten.
    republishing: Option<Option<NextHopId>>,
    /// Next hops whose frames are about to leave their backups.
    returning: Returning,
    /// The time of the input that is handled.
    now: Instant,
    /// Changes of next hops that are still to be logged and reported.
    unlogged: VecDeque<News>,
    watched: Watched,
    effects: VecDeque<Effect>,
}

impl<T: Tables> Switch<T> {
    /// `settings` are common to all ports.
    pub fn new(config: Config, identity: Identity, settings: Settings, tables: T, now: Instant) -> Self {
        let mut resolver = Resolver::default();
        if config.persist {
            resolver.hold_leftovers();
        }
        Self {
            started: now,
            identity,
            audits: Audits::default(),
            feeds: Feeds::new(&config.sync, &config.sync_table),
            ports: Ports::new(config.mode, settings, !config.no_readopt),
            rib: Rib::new(config.preferences()),
            config,
            resolver,
            kernel_routes: KernelRoutes::default(),
            addresses: Addresses::default(),
            vrf_tables: BTreeSet::new(),
            stale_claims: BTreeSet::new(),
            local: None,
            local_depth: 0,
            unconfirmed: None,
            ftn_retry: None,
            changes: RouteChanges::default(),
            saving: Saving::default(),
            work: Work::default(),
            failed_links: BTreeSet::new(),
            republishing: None,
            returning: Returning::default(),
            now,
            unlogged: VecDeque::new(),
            watched: Watched::default(),
            lfib: Lfib::new(tables),
            effects: VecDeque::new(),
        }
    }

    /// What the kernel does with the TTL of routes that do not say.
    pub fn set_ttl_defaults(&mut self, ttl: TtlDefaults) {
        self.feeds.set_ttl(ttl, &self.config);
    }

    pub fn tables(&self) -> &T {
        self.lfib.tables()
    }

    pub fn tables_mut(&mut self) -> &mut T {
        self.lfib.tables_mut()
    }

    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    pub fn links(&self) -> &Links {
        self.resolver.links()
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub fn kernel_routes(&self) -> &KernelRoutes {
        &self.kernel_routes
    }

    pub fn next_hops(&self) -> &NextHops {
        self.lfib.next_hops()
    }

    /// The interface for this machine's own packets.
    pub fn local(&self) -> Option<&LocalPair> {
        self.local.as_ref()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Handles one input. Its effects are in [`Switch::take_effect`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.now = now;
        self.watched.note(&input);
        match input {
            Input::Start => self.start(now),
            Input::Call(call) => self.answer(call, now),
            Input::Kernel(events) => {
                self.handle_events(&events, now);
                self.feed_kernel(events);
            }
            Input::LinksFailed(failed) => self.fail_links(failed, true),
            Input::LookedUp { address, answers } => self.looked_up(address, answers, now),
            Input::Wanted(slots) => self.resolve_wanted(&slots),
            Input::Reread(read) => self.reread(read, now),
            Input::Port(event) => self.port_event(event, now),
            Input::Feed(event) => self.feed_event(event),
            Input::Frr(answer) => self.frr_answered(answer),
            Input::RoutesRead(result) => self.routes_read(result, now),
            Input::Busiest { token, slots, time } => {
                let result = Ok(Reply::Busiest(self.busiest(&slots, time)));
                self.effects.push_back(Effect::Reply { token, result });
            }
            Input::Interference(found) => self.put_back(&found, now),
            Input::PutBack { number, result } => self.was_put_back(number, result, now),
            Input::Replaced { number, result } => self.replaced(number, result),
            Input::FeaturesChanged(ifindex) => {
                let interfaces = self.ports.interfaces(ifindex).into_iter();
                let looks = interfaces.map(|(ifindex, name)| Effect::LookAtFeatures { ifindex, name });
                self.effects.extend(looks);
            }
            Input::Features { ifindex, facts } => self.ports.follow_features(ifindex, &facts),
            Input::TakenOver {
                programs,
                failed,
                were_ports,
            } => self.taken_over(&programs, &failed, &were_ports, now),
            Input::SnapshotWanted(request) => self.want_piece(request),
            Input::Tick => self.tick(now),
            Input::ShutDown => self.shut_down(now),
        }
        self.follow_up(now);
    }

    /// What may have to follow any change.
    fn follow_up(&mut self, now: Instant) {
        self.follow_pseudowires();
        self.fit_local_mtu_to_labels();
        self.reclaim(now);
        self.watch_ftn(now);
        self.take_over_when_resolved(now);
        if let Some(devices) = self.lfib.take_switched_vrfs() {
            self.resolver.set_switched_vrfs(devices, now);
        }
        self.ask_frr();
        if let Some(crossed) = self.ports.take_crossed_interfaces() {
            self.effects.push_back(Effect::ReceiveAll(crossed));
        }
        self.tell_links();
    }

    /// The next effect. Effects are performed in this order, all of them before the next input.
    pub fn take_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether there is long work, which is done in small steps.
    pub fn has_steps(&self) -> bool {
        let others = || {
            !self.changes.is_idle()
                || self.lfib.has_domain_steps()
                || self.work.awaits_domains()
                || self.feeds.has_work()
                || self.audits.has_work(self.feeds.is_followed())
        };
        self.lfib.has_stale_groups()
            || self.resolver.has_steps()
            || self.republishing.is_some()
            || self.lfib.has_to_publish()
            || self.has_claims_to_follow()
            || self.lfib.has_to_tidy()
            || !self.unlogged.is_empty()
            || !self.lfib.awaits_room() && others()
    }

    /// Takes one such step, which ends soon after `is_over` returns true.
    pub fn step(&mut self, now: Instant, is_over: &mut dyn FnMut() -> bool) {
        self.now = now;
        let awaits_room = self.lfib.awaits_room();
        if self.lfib.has_stale_groups() {
            self.lfib.follow_groups(&mut Budget::new(usize::MAX, is_over));
        } else if self.resolver.has_steps() {
            self.resolve_step(&mut Budget::new(usize::MAX, is_over), now);
        } else if self.republishing.is_some() {
            self.republish_step(&mut Budget::new(usize::MAX, is_over));
        } else if self.lfib.has_to_publish() {
            self.lfib.publish_step(&mut Budget::new(usize::MAX, is_over));
        } else if !self.unlogged.is_empty() {
            self.log_next_hops(&mut Budget::new(usize::MAX, is_over));
        } else if self.has_claims_to_follow() {
            self.follow_claims();
        } else if !self.changes.is_idle() && !awaits_room {
            self.work_on_routes(&mut Budget::new(usize::MAX, is_over), now);
        } else if self.lfib.has_to_tidy() {
            self.lfib.tidy_step(&mut Budget::new(usize::MAX, is_over));
        } else if !awaits_room {
            self.step_in_the_background(now, is_over);
        }
        self.follow_up(now);
    }

    /// What waits until no change of routes is under way.
    fn step_in_the_background(&mut self, now: Instant, is_over: &mut dyn FnMut() -> bool) {
        let mut budget = Budget::new(usize::MAX, is_over);
        if self.lfib.has_domain_steps() {
            self.domain_step(&mut budget);
        } else if self.work.awaits_domains() {
            self.go_on_loading(now);
        } else if self.feeds.has_work() {
            self.feed_step(&mut budget, now);
        } else {
            self.audit_step(&mut budget, now);
        }
    }

    /// When to call [`Switch::handle`] with [`Input::Tick`].
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.ports.waiting().next_deadline().filter(|_| self.work.is_idle());
        let deadlines = self.resolver.next_deadline().into_iter();
        let audit = self.audits.next_deadline();
        let takeover = self.work.takeover_bound();
        deadlines
            .chain(self.ftn_retry)
            .chain(waiting)
            .chain(audit)
            .chain(takeover)
            .chain(self.unconfirmed)
            .chain(self.returning.next_deadline())
            .min()
    }

    fn tick(&mut self, now: Instant) {
        let mut actions = Vec::new();
        self.resolver.poll(now, &mut actions);
        self.perform(actions);
        self.return_due(now);
        self.audit_if_due(now);
        self.undo_if_unconfirmed(now);
        if self.work.is_idle()
            && let Some(name) = self.ports.waiting().due(now)
        {
            self.try_waiting(&name, now);
        }
    }

    /// Carries out a request, or begins to.
    fn answer(&mut self, call: Call, now: Instant) {
        let Call {
            token,
            peer,
            ref request,
        } = call;
        let result = match request {
            Request::GetStatus => Ok(Reply::Status(Box::new(self.status(now)))),
            Request::GetConfig => Ok(Reply::Config(self.running_config())),
            Request::ListRoutes {
                filter,
                after,
                limit,
                counters,
            } => match self.list_routes(filter, *after, *limit, *counters) {
                Ok(RouteList {
                    routes,
                    after,
                    counted_at,
                }) => {
                    let reply = Reply::Routes { routes, after };
                    return self.reply_counted(token, reply, counted_at);
                }
                Err(refusal) => Err(refusal),
            },
            Request::GetRoute { lookup } => match self.look_up(*lookup) {
                Ok((route, counted_at)) => {
                    let reply = Reply::Route(Box::new(route));
                    return self.reply_counted(token, reply, vec![counted_at]);
                }
                Err(refusal) => Err(refusal),
            },
            Request::GetVrf { name } => self.vrf_table(name).map(|table| Reply::Vrf(api::Vrf { table })),
            Request::ChangeRoutes { .. } | Request::DeleteRoutes { .. } => return self.route_request(call, now),
            Request::FlushRoutes { owner, filter } => match self.selector(&RouteFilter {
                owner: Some(*owner),
                ..filter.clone()
            }) {
                Ok(select) => {
                    let origin = Origin::Call {
                        token,
                        peer,
                        waits: false,
                    };
                    let change = RouteChange::flush(origin, *owner, filter.clone(), select);
                    return self.change_routes(change, now);
                }
                Err(refusal) => Err(refusal),
            },
            Request::ListLinks { counters: false } => Ok(Reply::Links(self.list_links())),
            Request::ListLinks { counters: true } => {
                let links = self.list_links();
                let numbers = links.iter().map(|link| self.ports.number(&link.ifname)).collect();
                return self.effects.push_back(Effect::ReplyLinks { token, links, numbers });
            }
            Request::AddLink { .. }
            | Request::DeleteLink { .. }
            | Request::SetLink { .. }
            | Request::AddCrossConnect { .. }
            | Request::DeleteCrossConnect { .. } => {
                return self.port_request(call, now);
            }
            Request::ListNeighbors { after, limit, counters } => {
                let (neighbors, last) = self.list_next_hops(after.as_ref(), *limit);
                if *counters {
                    let neighbors = neighbors.into_iter();
                    let neighbors = neighbors
                        .map(|(id, state)| (self.kernel_neighbour(id), state))
                        .collect();
                    return self
                        .effects
                        .push_back(Effect::ReplyNeighbors { token, neighbors, last });
                }
                let neighbors = neighbors.into_iter().map(|(_, state)| state).collect();
                Ok(Reply::Neighbors { neighbors, last })
            }
            Request::GetStats { all } => {
                let stats = Effect::ReplyStats {
                    token,
                    all: *all,
                    stats: self.stats(),
                    ports: self.counted_ports(),
                    total: self.lfib.forwarded(),
                };
                return self.effects.push_back(stats);
            }
            Request::GetSync => Ok(Reply::Sync(self.feeds.report(now))),
            Request::CheckSync { repair } => return self.check_sync(token, peer, *repair, now),
            &Request::GetBusiestRoutes { count, time, order } => {
                let effect = Effect::CountBusiest {
                    token,
                    count,
                    time,
                    order,
                };
                return self.effects.push_back(effect);
            }
            Request::Trace { name, frame } => match self.ports.number(name) {
                Some(port) => {
                    let frame = frame.clone();
                    return self.effects.push_back(Effect::ReplyTrace { token, port, frame });
                }
                None => Err(self.no_such_link(name)),
            },
            Request::SendLspPing(request) => match self.echo_request(request) {
                Ok(request) => {
                    let request = Box::new(request);
                    return self.effects.push_back(Effect::SendLspPing { token, request });
                }
                Err(refusal) => Err(refusal),
            },
            Request::GetUnknownLabels => return self.effects.push_back(Effect::ReplyUnknownLabels { token }),
            Request::Monitor { watcher } => {
                let watcher = watcher.clone();
                return self.effects.push_back(Effect::Watch { token, watcher });
            }
            Request::Capture { tap } => match &tap.wanted.ifname {
                Some(name) if self.ports.number(name).is_none() => Err(self.no_such_link(name)),
                _ => {
                    let tap = tap.clone();
                    return self.effects.push_back(Effect::Capture { token, tap });
                }
            },
            Request::DescribeRoutes { routes } => {
                let (routes, after) = (self.describe(routes), None);
                Ok(Reply::Routes { routes, after })
            }
            Request::GetRings => return self.effects.push_back(Effect::ReplyRings { token }),
            Request::Confirm => {
                self.unconfirmed = None;
                Ok(Reply::Done)
            }
            Request::Upgrade if self.config.persist => return self.effects.push_back(Effect::Upgrade { token, peer }),
            Request::Upgrade => Err(Refusal::UpgradeRefused {
                reason: "it was loaded without `--persist`, so the ports would stop forwarding meanwhile: `unload` it, and load it \
                         with `--persist`"
                    .to_owned(),
            }),
            Request::Unload => Ok(Reply::Done),
        };
        let is_last = matches!(request, Request::Unload);
        self.reply(token, peer, result);
        if is_last {
            self.effects.push_back(Effect::Stop);
        }
    }

    fn route_request(&mut self, call: Call, now: Instant) {
        let Call { token, peer, request } = call;
        let origin = |waits| Origin::Call { token, peer, waits };
        let change = match request {
            Request::ChangeRoutes {
                mode,
                owner,
                routes,
                wait,
            } => {
                let (owner, routes) = (Owner::Of(owner), Arc::new(routes));
                RouteChange::new(origin(wait), Change::Install { mode, owner, routes })
            }
            Request::DeleteRoutes { owner, routes } => RouteChange::delete(origin(false), owner, routes),
            _ => return,
        };
        self.change_routes(change, now);
    }

    /// Replies with the counters of routes, if they are wanted.
    fn reply_counted(&mut self, token: Token, reply: Reply, counted_at: Vec<Option<CountedAt>>) {
        self.effects.push_back(match counted_at.iter().any(Option::is_some) {
            true => Effect::ReplyCounted {
                token,
                reply,
                counted_at,
            },
            false => Effect::Reply {
                token,
                result: Ok(reply),
            },
        });
    }

    fn reply(&mut self, token: Token, peer: Peer, result: Result<Reply, Refusal>) {
        if let Err(refusal) = &result {
            info!(pid = peer.pid, uid = peer.uid, %refusal, "refused");
        }
        self.effects.push_back(Effect::Reply { token, result });
    }

    /// Carries out what waited for the end of a grace period, and begins another if one is needed.
    fn reclaim(&mut self, now: Instant) {
        if self.lfib.reclaim() {
            // Frames that wait for a member of a group may now belong to another.
            self.effects.push_back(Effect::RetryHeld);
        }
        self.ports.free_numbers(self.lfib.tables_mut());
        self.retry_for_room(now);
    }

    /// Repeats, from time to time, failed writes to the FTN table.
    fn watch_ftn(&mut self, now: Instant) {
        if self.lfib.unsettled() == 0 && !self.lfib.is_filling_stalled() {
            if self.ftn_retry.take().is_some() {
                info!("the FTN table is complete again");
            }
            return;
        }
        if self.ftn_retry.is_some_and(|due| now < due) {
            return;
        }
        let result = self.lfib.settle();
        self.lfib.retry_filling();
        self.effects.push_back(Effect::RetryHeld);
        if let (Err(error), None) = (result, self.ftn_retry) {
            error!(
                prefixes = self.lfib.unsettled(),
                %error,
                "cannot write the FTN table: prefix routes that hold addresses or routes of the kernel's are left to the kernel \
                 until it can be written; `mplsxdp route del` of prefix routes makes room"
            );
        }
        self.ftn_retry = Some(now + FTN_RETRY);
    }

    /// The configured sources of ICMP errors that are not addresses of this machine.
    fn foreign_sources(&self) -> Vec<IpAddr> {
        let four = self.config.icmp_source_v4.map(IpAddr::from);
        let six = self.config.icmp_source_v6.map(IpAddr::from);
        let configured = four.into_iter().chain(six);
        configured.filter(|address| !self.addresses.has(*address)).collect()
    }

    /// Warns about those that are not `known`.
    fn warn_of_foreign_sources(&self, known: &[IpAddr]) {
        for address in self.foreign_sources() {
            if known.contains(&address) {
                continue;
            }
            let mut own: Vec<_> = self.addresses.reachable_as(address).collect();
            own.sort();
            own.dedup();
            let others = match own.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ") {
                none if none.is_empty() => String::new(),
                some => format!(", or use one that it has: {some}"),
            };
            warn!(
                "--icmp-source {address} is not an address of this machine: replies to its ICMP errors will be lost, and routers that \
                 filter by source will drop the errors: `ip address add {address} dev lo`{others}"
            );
        }
    }

    fn shut_down(&mut self, now: Instant) {
        self.ports.clear();
        self.effects.push_back(Effect::KeepPorts);
        self.effects.extend(self.local.take().map(Effect::RemoveLocal));
        let mut actions = Vec::new();
        self.resolver.shutdown(now, &mut actions);
        self.perform(actions);
    }

    fn no_such_link(&self, name: &str) -> Refusal {
        let links = self.resolver.links();
        let hint = match sub_interface::find(name, links) {
            Err(reason) => format!("; {reason}"),
            Ok(None) if links.by_name(name).is_none() => "; there is no such interface".to_owned(),
            Ok(_) => format!("; add it with `mplsxdp link add {name}`"),
        };
        Refusal::NoSuchLink {
            ifname: name.to_owned(),
            hint,
        }
    }
}

//! The event loop that ties the wings together: requests from the control socket, events from the kernel, the clock and signals
//! come in; routes, next hops and ports change. What a change means is decided in the wings.

mod claims;
mod handover;
mod postponed;
mod reachability;
mod reload;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ipnet::IpNet;
use mplsxdp_common::abi::{Adjacency, Police};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config::{Config, Number, PortConfig, burst};
use crate::control::api::{self, ChangeMode, Changes, Refusal, Reply, Request};
use crate::control::{Call, Instance, Peer, server, socket};
use crate::daemon::exceptions::{Exceptions, View};
use crate::daemon::signals;
use crate::dataplane::kernel::KernelTables;
use crate::dataplane::loader::{Loader, LostFrames, Sizes};
use crate::dataplane::{FtnKey, GracePeriod, Tables as _};
use crate::descriptors::Shortage;
use crate::kernel::Netlink;
use crate::kernel::netdev::FeatureChanges;
use crate::lfib::next_hops::{NextHopChange, NextHopId};
use crate::lfib::{ChangeError, Lfib, Reach};
use crate::neighbour::Event;
use crate::neighbour::addresses::Addresses;
use crate::neighbour::resolver::{Action, HopState, Resolver};
use crate::neighbour::routes::KernelRoutes;
use crate::ports::local::{self, LocalPair};
use crate::ports::local_routes::LocalRoutes;
use crate::ports::preflight::PreflightError;
use crate::ports::programs::Finding;
use crate::ports::sub_interface;
use crate::ports::{Ports, Role, Wish};
use crate::route::{NextHop, Owner};
use crate::slowpath::xsk::{Patience, XskError};
use crate::slowpath::{Options, Rate};
use claims::{claim, claims_in};
use postponed::{Postponed, Work};
use reload::Reading;
pub use reload::Reread;

/// RT_TABLE_MAIN and RT_TABLE_LOCAL of rtnetlink(7).
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
/// Of Ethernet, where there is no port to ask.
const DEFAULT_MTU: u32 = 1500;
/// Requests that wait for the controller.
const CALL_BACKLOG: usize = 64;
/// Kernel events that are taken in before what they mean for the tables is worked out.
const EVENT_BATCH: usize = 4096;
/// How long to wait before the FTN table is written again where that has failed.
const FTN_RETRY: Duration = Duration::from_secs(1);

/// Loads, serves until told to stop, and unloads.
pub async fn run(config: Config, reread: Option<Reread>) -> anyhow::Result<()> {
    // First: from here on no signal ends this process before it has cleaned up.
    let mut ending = signals::Ending::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut reading = Reading::default();
    let (listener, _socket) = socket::bind(&Instance::new(&config.instance)?)?;
    let (netlink, mut events) =
        Netlink::open().context("cannot read the kernel's interfaces, routes and neighbours")?;
    let mut controller = Controller::new(&config, netlink)?;
    controller.follow_until_synced(&mut events).await?;
    if let Err(error) = controller.start(&config).await {
        controller.shut_down().await;
        return Err(error);
    }

    let (calls_in, mut calls) = mpsc::channel(CALL_BACKLOG);
    let stop_serving = CancellationToken::new();
    let serving = tokio::spawn(server::serve(
        listener,
        calls_in,
        server::Limits::default(),
        stop_serving.clone(),
    ));
    info!(instance = config.instance, ports = controller.ports.len(), "ready");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%error, "cannot tell the service manager");
    }

    let mut failure = None;
    let mut stopping = false;
    while !stopping {
        let deadline = controller.next_deadline();
        tokio::select! {
            Some(call) = calls.recv() => stopping = controller.answer(call).await,
            event = events.recv() => {
                let Some(event) = event else {
                    failure = Some(anyhow::anyhow!("the netlink reader has ended"));
                    break;
                };
                let mut batch = vec![event];
                while batch.len() < EVENT_BATCH && let Ok(event) = events.try_recv() {
                    batch.push(event);
                }
                controller.handle_events(&batch).await;
            }
            () = sleep_until(deadline) => controller.poll().await,
            // Clients and the kernel come first.
            () = tokio::task::yield_now(), if controller.has_steps() => controller.take_step().await,
            () = controller.exceptions.readable() => controller.take_exceptions(),
            changed = next_feature_change(&mut controller.feature_changes) => {
                controller.ports.follow_features(changed, &controller.netlink).await;
            }
            () = ending.arrived() => stopping = true,
            _ = hangup.recv(), if reading.is_idle() => reading.begin(reread.as_ref()),
            read = reading.done() => controller.reload(read).await,
            found = controller.ports.interference() => controller.put_back(found).await,
            () = controller.lfib.tables().grace_period_ended() => {}
        }
        controller.reclaim().await;
        controller.retry_held();
        controller.resolve_wanted().await;
        controller.watch_ftn();
    }
    info!("unloading");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    controller.shut_down().await;
    // Who still waits for an answer is told that there is none.
    drop(calls);
    stop_serving.cancel();
    serving.await.context("the control socket's server has failed")?;
    failure.map_or(Ok(()), Err)
}

/// An error with its causes, each said once: many say their cause themselves. And what to do if file descriptors ran out.
pub fn told(error: &anyhow::Error) -> String {
    let told = error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.is_empty() {
            true => cause,
            false if told.contains(&cause) => told,
            false => format!("{told}: {cause}"),
        }
    });
    match Shortage::of(error.as_ref()) {
        Some(shortage) => format!("{told}: {shortage}"),
        None => told,
    }
}

/// A number that no other router is likely to have: all that the standard library's hashers are for.
fn random_seed() -> u32 {
    std::hash::RandomState::new().hash_one(()) as u32
}

/// For ever where there is no deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Never where the kernel does not tell.
async fn next_feature_change(changes: &mut Option<FeatureChanges>) -> Option<u32> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// All state of a running switch.
struct Controller {
    started: Instant,
    config: Config,
    netlink: Netlink,
    resolver: Resolver,
    kernel_routes: KernelRoutes,
    addresses: Addresses,
    /// The routing tables of the VRFs that ports are in.
    vrf_tables: BTreeSet<u32>,
    lfib: Lfib<KernelTables>,
    ports: Ports,
    exceptions: Exceptions,
    local: Option<LocalPair>,
    local_routes: Option<LocalRoutes>,
    feature_changes: Option<FeatureChanges>,
    _lost_frames: Option<LostFrames>,
    /// When to write again what could not be written to the FTN table.
    ftn_retry: Option<Instant>,
    postponed: Postponed,
    /// Calls of `ChangeRoutes` that are prepared step by step, and how many of their routes are.
    preparing: VecDeque<(Call, usize)>,
    /// Changes of routes that find room, if any, once a grace period is over.
    awaiting_room: Vec<(GracePeriod, Call)>,
}

impl Controller {
    fn new(config: &Config, netlink: Netlink) -> anyhow::Result<Self> {
        let sizes = Sizes {
            labels: config.labels.get(),
            stacks: config.stacks.get(),
            groups: config.groups.get(),
            counter_slots: config.counter_slots.get(),
        };
        let police = Police::new(config.punt_rate.get(), burst(config.punt_rate.get()));
        let hash_seed = config.hash_seed.map_or_else(random_seed, Number::get);
        let mut loader = Loader::new(sizes)?.with_police(police).with_hash_seed(hash_seed);
        if config.log_exceptions {
            loader.follow_log()?;
        }
        let tables = KernelTables::open(loader.pins(), hash_seed)?;
        let injector = loader.injector()?;
        let lost_frames = loader.lost_frames();
        let lost_frames = lost_frames.inspect_err(|error| warn!(%error, "`redirect-lost` is not counted"));
        let feature_changes = FeatureChanges::follow();
        let feature_changes = feature_changes
            .inspect_err(|error| warn!(%error, "cannot tell whether ports go on to take redirected frames"));
        Ok(Self {
            started: Instant::now(),
            ports: Ports::new(loader, config),
            config: config.without_routes(),
            netlink,
            resolver: Resolver::default(),
            kernel_routes: KernelRoutes::default(),
            addresses: Addresses::default(),
            vrf_tables: BTreeSet::new(),
            local: None,
            local_routes: None,
            feature_changes: feature_changes.unwrap_or_default(),
            _lost_frames: lost_frames.ok(),
            ftn_retry: None,
            postponed: Postponed::default(),
            preparing: VecDeque::new(),
            awaiting_room: Vec::new(),
            exceptions: Exceptions::new(slow_path_options(config), injector)
                .context("cannot open raw sockets, to send IP by")?,
            lfib: Lfib::new(tables),
        })
    }

    /// Takes in what the kernel has at the start.
    async fn follow_until_synced(&mut self, events: &mut mpsc::Receiver<Event>) -> anyhow::Result<()> {
        let mut batch = Vec::new();
        while batch.last() != Some(&Event::Synced) {
            batch.push(events.recv().await.context("the netlink reader has ended")?);
        }
        self.handle_events(&batch).await;
        Ok(())
    }

    /// Checks every port before anything is attached, fills the tables, then attaches.
    async fn start(&mut self, config: &Config) -> anyhow::Result<()> {
        let mut absent = HashSet::new();
        for port in &config.ports {
            match self.ports.check(&port.name, &self.netlink).await {
                Ok(()) => {}
                Err(error) if !is_absence(&error) => return Err(error),
                Err(error) if !config.wait => {
                    return Err(anyhow::anyhow!("{error}; `--wait` takes it when it comes"));
                }
                Err(_) => {
                    absent.insert(&*port.name);
                }
            }
        }
        if let Some(name) = &config.local {
            LocalPair::make_room(name, &config.instance, &self.netlink).await?;
        }
        // A next hop of the configuration may not be reachable yet: its routes wait for it.
        self.lfib
            .change(ChangeMode::Add, Owner::Config, &config.routes)
            .map_err(|error| anyhow::anyhow!("{}: {error}", config_route(config, &error)))?;
        let names: Vec<&str> = config.ports.iter().map(|port| &*port.name).collect();
        self.follow_vrfs(&names);
        while self.lfib.has_domain_steps() {
            self.domain_step();
        }
        for port in &config.ports {
            self.take_port_patiently(port, absent.contains(&*port.name)).await?;
        }
        if let Some(name) = &config.local {
            let pair = LocalPair::create(name, &config.instance, self.local_mtu(), &self.netlink).await?;
            let port = pair.port_name().to_owned();
            self.local_routes = Some(LocalRoutes::install(&config.kernel_route, pair.ifindex(), &self.netlink).await);
            self.local = Some(pair);
            self.add_port(&port, Wish::new(Role::Local, None)).await?;
        }
        self.ports.follow_waiting(self.resolver.links(), Instant::now());
        self.follow_sub_interfaces().await;
        self.follow_next_hops().await;
        self.waiting_routes(&config.routes).log();
        self.log_handover(&config.routes);
        self.warn_of_foreign_sources(&[]);
        Ok(())
    }

    /// What ICMP errors are to come from, and is no address of this box.
    fn foreign_sources(&self) -> Vec<IpAddr> {
        let four = self.config.icmp_source_v4.map(IpAddr::from);
        let six = self.config.icmp_source_v6.map(IpAddr::from);
        let configured = four.into_iter().chain(six);
        configured.filter(|address| !self.addresses.has(*address)).collect()
    }

    /// Tells of those that are not `known`.
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
                some => format!(", or take one of its own: {some}"),
            };
            warn!(
                "--icmp-source {address} is no address of this box: what is sent in answer to its ICMP errors goes astray, and routers \
                 that check sources drop them: `ip address add {address} dev lo`{others}"
            );
        }
    }

    /// Carries out a request and answers it. Returns whether it was the last one.
    async fn answer(&mut self, call: Call) -> bool {
        match call.request {
            Request::GetStats { all } => {
                self.answer_stats(all, call.reply);
                false
            }
            Request::ListLinks { counters: true } => {
                self.answer_links(call.reply);
                false
            }
            Request::ListNeighbors {
                after,
                limit,
                counters: true,
            } => {
                self.answer_next_hops(after.as_ref(), limit, call.reply);
                false
            }
            Request::AddLink { .. } => {
                self.answer_add_link(call, None).await;
                false
            }
            Request::ChangeRoutes { .. } => {
                self.prepare_change(call, 0).await;
                false
            }
            request => {
                let last = request == Request::Unload;
                let result = self.carry_out(request).await;
                reply_to(call.peer, call.reply, result);
                last
            }
        }
    }

    /// Answers `ChangeRoutes`: at once, or after as many steps as its preparation takes. `done` is how many of its routes are
    /// prepared.
    async fn prepare_change(&mut self, call: Call, _done: usize) {
        let reclaiming = self.lfib.reclaiming();
        match (self.change_routes(&call.request).await, reclaiming) {
            (Err(NotChanged::Full(_)), Some(period)) => self.awaiting_room.push((period, call)),
            (result, _) => reply_to(call.peer, call.reply, result.map_err(NotChanged::into_refusal)),
        }
    }

    /// Whether there is long work at hand, which is done in small steps.
    fn has_steps(&self) -> bool {
        !self.preparing.is_empty() || self.lfib.has_to_tidy() || self.lfib.has_domain_steps()
    }

    async fn take_step(&mut self) {
        match self.preparing.pop_front() {
            Some((call, done)) => self.prepare_change(call, done).await,
            None if self.lfib.has_to_tidy() => {
                let until = Instant::now() + Duration::from_millis(1);
                let mut is_over = || Instant::now() >= until;
                self.lfib
                    .tidy_step(&mut crate::lfib::Budget::new(usize::MAX, &mut is_over));
            }
            None => {
                self.domain_step();
                self.enter_domains();
            }
        }
    }

    /// Fills or empties the domain of a VRF by a step.
    fn domain_step(&mut self) {
        // Told once, and tried again from time to time.
        if let Err(error) = self.lfib.domain_step()
            && self.ftn_retry.is_none()
        {
            error!(
                %error,
                "cannot write the prefix routes for the VRF of a port: packets without a label that arrive there are left to the \
                 kernel until they can be written; `mplsxdp route del` of prefix routes makes room"
            );
        }
    }

    /// Answers `AddLink`; if it finds a queue busy, later. Until then it is tried again, with `patience`.
    async fn answer_add_link(&mut self, call: Call, patience: Option<Patience>) {
        let Request::AddLink {
            name,
            tx_only,
            checksum,
        } = &call.request
        else {
            return;
        };
        let added = self.add_link(name, *tx_only, *checksum).await;
        let (call, error) = match added {
            Ok(()) => return reply_to(call.peer, call.reply, Ok(Reply::Done)),
            Err(error) if is_busy(&error) => {
                let postponed = self.postponed.add(Work::AddLink(call), patience, Instant::now());
                let Err(Work::AddLink(call)) = postponed else { return };
                (call, error)
            }
            Err(error) => (call, error),
        };
        if let Request::AddLink { name, .. } = call.request {
            let reason = told(&error);
            reply_to(call.peer, call.reply, Err(Refusal::LinkRefused { name, reason }));
        }
    }

    async fn add_link(&mut self, name: &str, tx_only: bool, checksum: Option<api::Checksum>) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.local.as_ref().is_none_or(|pair| pair.name() != name),
            "{name} is where this box's own packets go in; its other end is a port already"
        );
        anyhow::ensure!(
            !self.is_on_local_pair(name),
            "it is on the interface for this box's own packets, which has no sub-interfaces"
        );
        let role = if tx_only { Role::TxOnly } else { Role::Switching };
        self.add_port(name, Wish::new(role, checksum)).await?;
        self.ports_changed().await;
        Ok(())
    }

    /// Carries out what has waited for the end of a grace period, and begins another if there is a need for one.
    async fn reclaim(&mut self) {
        if self.lfib.reclaim() {
            // Frames that wait for a member of a group may be another's now.
            self.retry_all_held();
        }
        self.ports.free_numbers(&mut self.lfib);
        let tables = self.lfib.tables();
        let due: Vec<_> = self
            .awaiting_room
            .extract_if(.., |(period, _)| tables.is_over(*period))
            .collect();
        for (_, call) in due {
            let result = self.change_routes(&call.request).await;
            reply_to(call.peer, call.reply, result.map_err(NotChanged::into_refusal));
        }
    }

    async fn carry_out(&mut self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::GetStatus => Ok(Reply::Status(Box::new(self.status()))),
            Request::ListRoutes {
                filter,
                after,
                limit,
                counters,
            } => Ok(Reply::Routes(self.list_routes(&filter, after, limit, counters)?)),
            Request::GetRoute { lookup } => self.look_up(lookup).map(|route| Reply::Route(Box::new(route))),
            Request::DeleteRoutes { routes } => {
                self.check_described(&routes)?;
                let keys: Vec<_> = routes.iter().map(|described| described.key).collect();
                let changes = self.lfib.delete(&keys).map_err(|error| self.refusal(&error))?;
                self.routes_changed().await;
                Ok(Reply::Changed(count(changes).into()))
            }
            Request::FlushRoutes { filter } => {
                let select = self.selector(&filter)?;
                let flush = crate::lfib::Change::Flush(Arc::new(Box::new(select)));
                let changes = self.lfib.make(flush).map_err(|error| self.refusal(&error))?;
                self.routes_changed().await;
                Ok(Reply::Changed(count(changes).into()))
            }
            Request::ListLinks { .. } => Ok(Reply::Links(self.list_links())),
            Request::DeleteLink { name } => {
                if self.ports.waiting_mut().remove(&name).is_some() {
                    return Ok(Reply::Done);
                }
                let port = self.ports.number(&name).ok_or_else(|| self.no_such_link(&name))?;
                if self.local.as_ref().is_some_and(|pair| pair.port_name() == name) {
                    let reason = format!("{name} is for this box's own packets; it goes when the instance is unloaded");
                    return Err(Refusal::LinkRefused { name, reason });
                }
                let removal = self.ports.check_removal(port);
                removal.map_err(|reason| Refusal::LinkRefused { name, reason })?;
                self.remove_port(port).await;
                Ok(Reply::Done)
            }
            Request::SetLink { name, mpls } => {
                if let Some(waiting) = self.ports.waiting_mut().get_mut(&name)
                    && waiting.wish.role == Role::Switching
                {
                    waiting.wish.mpls = mpls;
                    return Ok(Reply::Done);
                }
                let port = self.ports.number(&name).ok_or_else(|| self.no_such_link(&name))?;
                let set = self.ports.set_mpls(port, mpls, &mut self.lfib);
                set.map_err(|reason| Refusal::LinkRefused { name, reason })?;
                Ok(Reply::Done)
            }
            Request::ListNeighbors { after, limit, .. } => {
                let (neighbors, last) = self.list_next_hops(after.as_ref(), limit);
                let neighbors = neighbors.into_iter().map(|(_, state)| state).collect();
                Ok(Reply::Neighbors { neighbors, last })
            }
            Request::GetUnknownLabels => Ok(Reply::UnknownLabels(self.unknown_labels())),
            // `answer` does what there is to do.
            Request::ChangeRoutes { .. } | Request::GetStats { .. } | Request::AddLink { .. } | Request::Unload => {
                Ok(Reply::Done)
            }
        }
    }

    async fn change_routes(&mut self, request: &Request) -> Result<Reply, NotChanged> {
        let Request::ChangeRoutes { mode, routes, wait } = request else {
            return Ok(Reply::Done);
        };
        let new = self.lfib.search_all(routes);
        let mut new = new.map_err(|error| self.not_changed(&error))?;
        if !wait {
            self.check_next_hops(&new).await?;
        }
        // What is known of the neighbours counts from the first frame on.
        self.lfib.take_all_ahead(&mut new);
        self.follow_next_hops().await;
        let changes = self.lfib.change(*mode, Owner::Static, routes);
        self.lfib.let_all_go(&mut new);
        self.routes_changed().await;
        let changes = changes.map_err(|error| self.not_changed(&error))?;
        let changes = count(changes);
        let warnings = self.handover_warnings(routes);
        if !wait {
            return Ok(Reply::Changed(api::Changed { changes, warnings }));
        }
        let waiting = self.waiting_routes(routes);
        if waiting.total > 0 {
            warn!(
                routes = waiting.total,
                "routes were installed and wait for their next hops"
            );
        }
        Ok(Reply::Committed(waiting.with(changes, warnings)))
    }

    /// Whether `name` is that of a sub-interface of the near end of the local pair.
    fn is_on_local_pair(&self, name: &str) -> bool {
        let found = sub_interface::find(name, self.resolver.links()).ok().flatten();
        let pair = self.local.as_ref();
        found.is_some_and(|found| pair.is_some_and(|pair| pair.ifindex() == found.parent))
    }

    async fn handle_events(&mut self, batch: &[Event]) {
        let now = Instant::now();
        let mut actions = Vec::new();
        let mut changed = BTreeSet::new();
        let mut ports_changed = false;
        let mut links_changed = false;
        let foreign_sources = self.foreign_sources();
        for event in batch {
            debug!(?event, "kernel");
            self.resolver.handle(event, now, &mut actions);
            self.kernel_routes.handle(event, &mut changed);
            self.addresses.handle(event);
            links_changed |= matches!(event, Event::Link(_) | Event::LinkGone(_) | Event::Synced);
        }
        // First of all: frames are lost for as long as they go to a link that is down.
        let mut others = self.take_next_hop_changes(actions);
        let names = if links_changed {
            self.ports.names()
        } else {
            HashMap::new()
        };
        for event in batch {
            ports_changed |= match event {
                Event::Link(link) => {
                    self.ports.follow_program(link, now);
                    self.ports.follow(link, &mut self.lfib)
                }
                Event::LinkGone(ifindex) => self.ports.lose(*ifindex, &mut self.lfib),
                Event::Synced => self.ports.lose_all_but(self.resolver.links(), &mut self.lfib),
                _ => false,
            };
        }
        if links_changed {
            ports_changed |= self.ports.follow_sub_interfaces(self.resolver.links(), &mut self.lfib);
            if let Some(pair) = &mut self.local {
                pair.follow_names(self.resolver.links());
            }
            let mut actions = Vec::new();
            self.follow_ports(&names, now, &mut actions);
            others.extend(self.take_next_hop_changes(actions));
            self.ports.follow_waiting(self.resolver.links(), now);
        }
        if links_changed {
            let down = batch.iter().filter_map(|event| match event {
                Event::Link(link) if !link.is_up() => Some(link.ifindex),
                _ => None,
            });
            self.discard_unsent(&down.collect());
        }
        if links_changed && self.follow_vrfs(&[]) {
            self.resolver.look_up_again(&mut others);
        }
        if !changed.is_empty() {
            self.claims_changed(changed);
        }
        self.perform(others).await;
        // At the start, those that are foreign have been so all along.
        self.warn_of_foreign_sources(&foreign_sources);
        if ports_changed {
            self.exceptions.keep_ports(&self.ports);
            self.republish_next_hops();
            self.fit_local_mtu().await;
        }
    }

    /// Opens the sockets anew of ports that went down with frames queued: those must not leave once the port is up, which it
    /// may be again already.
    fn discard_unsent(&mut self, down: &BTreeSet<u32>) {
        for port in self.with_exceptions(|exceptions, view| exceptions.stale_ports(view, down)) {
            self.exceptions.remove_port(port);
            self.listen_anew(port, None);
        }
    }

    /// Opens the sockets of a port that has lost its own.
    fn listen_anew(&mut self, port: u16, patience: Option<Patience>) {
        if self.ports.name(port).is_none() || self.exceptions.receiver_mut(port).is_some() {
            return;
        }
        let Err(error) = self.ports.listen_anew(port, &mut self.lfib, &mut self.exceptions) else {
            return;
        };
        let work = Work::Listen(port);
        if is_busy(&error) && self.postponed.add(work, patience, Instant::now()).is_ok() {
            return;
        }
        warn!(
            port = self.ports.name(port),
            error = told(&error),
            "cannot open the sockets of a port anew"
        );
    }

    /// Carries out those actions that are changes of next hops, and returns the others.
    fn take_next_hop_changes(&mut self, actions: Vec<Action>) -> Vec<Action> {
        let (changes, others): (Vec<_>, Vec<_>) = actions
            .into_iter()
            .partition(|action| matches!(action, Action::Changed { .. }));
        self.next_hops_changed(&changes);
        others
    }

    /// Has the LFIB know what the kernel claims of these prefixes.
    fn claims_changed(&mut self, prefixes: BTreeSet<IpNet>) {
        let into_local = self.local.as_ref().map(LocalPair::ifindex);
        let claims = prefixes.into_iter().flat_map(|prefix| {
            let domains = self.lfib.domains();
            domains.map(move |(domain, vrf_table)| (FtnKey::new(domain, prefix), vrf_table))
        });
        let claims = claims.map(|(key, vrf_table)| {
            let routes = self.kernel_routes.get(key.prefix);
            (key, claim(routes, vrf_table, into_local))
        });
        let claims = claims.collect();
        if let Err(error) = self.lfib.set_claims(&claims) {
            debug!(%error, "cannot keep all of the kernel's addresses and routes out of the FTN yet");
        }
        self.retry_all_held();
    }

    /// Has each port look in the domain of the VRF that it is in, and begins to fill those of VRFs that ports have come into, and of
    /// the interfaces that are about to become ports. Returns whether ports are in other VRFs now.
    fn follow_vrfs(&mut self, coming: &[&str]) -> bool {
        let links = self.resolver.links();
        let coming = coming.iter().filter_map(|name| match links.by_name(name) {
            Some(link) => Some(link.ifindex),
            None => Some(sub_interface::find(name, links).ok()??.parent),
        });
        let coming = coming.filter_map(|ifindex| Some(links.vrf(ifindex)?.table));
        let used: BTreeSet<u32> = self
            .port_tables()
            .filter_map(|(_, table)| table)
            .chain(coming)
            .collect();
        let into_local = self.local.as_ref().map(LocalPair::ifindex);
        for &table in &used {
            let claims = || claims_in(table, &self.kernel_routes, into_local);
            if !self.lfib.use_vrf(table, claims) && !self.vrf_tables.contains(&table) {
                warn!(
                    table,
                    "ports are in too many VRFs: packets without a label are left to the kernel in this one"
                );
            }
        }
        self.enter_domains();
        self.lfib.leave_vrfs(&used);
        let are_others = used != self.vrf_tables;
        self.vrf_tables = used;
        are_others
    }

    /// The routing table of the VRF that each port is in.
    fn port_tables(&self) -> impl Iterator<Item = (u16, Option<u32>)> {
        let links = self.resolver.links();
        self.ports.iter().map(|port| {
            let vrf = self.ports.vrf(port.number(), links);
            (port.number(), vrf.map(|vrf| vrf.table))
        })
    }

    /// Has each port look in the domain of its VRF, or in none until that is filled.
    fn enter_domains(&mut self) {
        let mut changed = false;
        for (port, table) in Vec::from_iter(self.port_tables()) {
            let domain = self.lfib.domain(table);
            changed |= self.ports.set_domain(port, domain, &mut self.lfib);
        }
        if changed {
            self.retry_all_held();
        }
    }

    /// Makes an interface a port. Until the domain of its VRF is filled, packets without a label are left to the kernel there.
    async fn add_port(&mut self, name: &str, wish: Wish) -> anyhow::Result<()> {
        self.follow_vrfs(&[name]);
        let added = self
            .ports
            .add(name, wish, &self.netlink, &mut self.lfib, &mut self.exceptions)
            .await;
        self.follow_vrfs(&[]);
        added
    }

    /// Makes an interface of the configuration a port, or has it wait: for one that is `absent`, or as it is down.
    async fn take_port(&mut self, port: &PortConfig, absent: bool) -> anyhow::Result<()> {
        let (name, wish) = (&*port.name, wish(port));
        let reason = if absent {
            "there is no such interface".to_owned()
        } else {
            match self.add_port(name, wish).await {
                Ok(()) => return Ok(()),
                Err(error) if self.is_down(name) => told(&error),
                Err(error) => return Err(error),
            }
        };
        self.have_wait(name, wish, reason)
    }

    /// [`Controller::take_port`], again while a queue is busy: an instance that ended a moment ago may have had it. Nothing else
    /// is done meanwhile.
    async fn take_port_patiently(&mut self, port: &PortConfig, absent: bool) -> anyhow::Result<()> {
        let mut patience = Patience::new(Instant::now());
        loop {
            let taken = self.take_port(port, absent).await;
            match (&taken, patience.next(Instant::now())) {
                (Err(error), Some(due)) if is_busy(error) => tokio::time::sleep_until(due.into()).await,
                _ => return taken,
            }
        }
    }

    fn have_wait(&mut self, name: &str, wish: Wish, reason: String) -> anyhow::Result<()> {
        warn!(
            port = name,
            "waits: {reason}; it is taken when the interface comes or changes"
        );
        self.ports.wait_for(name, wish, reason)
    }

    /// Takes a port away, first of all as a way out.
    async fn remove_port(&mut self, number: u16) {
        self.ports.retire(number);
        self.republish_next_hops();
        self.ports.remove(number, &mut self.lfib);
        self.exceptions.keep_ports(&self.ports);
        self.follow_sub_interfaces().await;
    }

    fn is_down(&self, name: &str) -> bool {
        self.resolver.links().by_name(name).is_some_and(|link| !link.up)
    }

    /// Tries a port that waits for its interface. It is as it was, routes and all, or waits on.
    async fn try_waiting(&mut self, name: &str) {
        let Some(wish) = self.ports.waiting().get(name).map(|waiting| waiting.wish) else {
            return;
        };
        match self.add_port(name, wish).await {
            Ok(()) => {
                info!(port = name, "taken, as it has its interface now");
                self.ports_changed().await;
            }
            Err(error) => {
                let reason = told(&error);
                if self.ports.waiting_mut().failed(name, reason.clone(), Instant::now()) {
                    warn!(port = name, "waits on: {reason}");
                }
                self.exceptions.keep_ports(&self.ports);
            }
        }
    }

    /// Puts back programs that another process has taken off the ports.
    async fn put_back(&mut self, found: Vec<Finding>) {
        let now = Instant::now();
        for finding in found {
            self.ports.put_back(finding, &self.netlink, now).await;
        }
    }

    /// Ports have come or gone, by our own doing.
    async fn ports_changed(&mut self) {
        self.exceptions.keep_ports(&self.ports);
        self.follow_sub_interfaces().await;
        self.republish_next_hops();
        self.fit_local_mtu().await;
    }

    async fn fit_local_mtu(&self) {
        let mtu = self.local_mtu();
        if let Some(pair) = &self.local
            && let Err(error) = pair.set_mtu(mtu, &self.netlink).await
        {
            warn!(%error, "cannot fit the local interface's MTU to that of the ports");
        }
    }

    /// Has the resolver know the ports that there are.
    async fn follow_sub_interfaces(&mut self) {
        let now = Instant::now();
        let mut actions = Vec::new();
        let names = self.ports.names();
        self.ports.follow_sub_interfaces(self.resolver.links(), &mut self.lfib);
        self.follow_ports(&names, now, &mut actions);
        // Another port may be the way out of a VRF.
        if self.follow_vrfs(&[]) || !self.vrf_tables.is_empty() {
            self.resolver.look_up_again(&mut actions);
        }
        self.perform(actions).await;
    }

    /// Has routes and resolver know the ports by their names. `names` are those that they are known by.
    fn follow_ports(&mut self, names: &HashMap<u16, Arc<str>>, now: Instant, actions: &mut Vec<Action>) {
        let renamed = self.ports.renamed_since(names);
        for (old, new) in &renamed {
            info!(
                port = &**new,
                was = &**old,
                "renamed; routes with the old name have the new one"
            );
        }
        if !renamed.is_empty() {
            self.lfib.rename_devices(&renamed);
        }
        let (without_device, interfaces) = self.ports.links_of_ports(self.resolver.links());
        self.resolver
            .set_ports(&without_device, interfaces, &renamed, now, actions);
    }

    /// What this box's own packets may measure, so that they fit every port with the most labels on them.
    fn local_mtu(&self) -> u32 {
        let ports = self
            .ports
            .iter()
            .filter(|port| !matches!(port.role(), Role::Local | Role::Carrier));
        local::mtu_beneath(ports.map(|port| port.mtu().into()).min().unwrap_or(DEFAULT_MTU))
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.resolver
            .next_deadline()
            .into_iter()
            .chain(self.exceptions.next_deadline())
            .chain(self.ftn_retry)
            .chain(self.ports.waiting().next_deadline())
            .chain(self.postponed.next_deadline())
            .min()
    }

    async fn poll(&mut self) {
        let now = Instant::now();
        let mut actions = Vec::new();
        self.resolver.poll(now, &mut actions);
        self.perform(actions).await;
        self.with_exceptions(|exceptions, view| exceptions.poll(view, now));
        // One at a time: each takes as long as its program takes to verify.
        if let Some(name) = self.ports.waiting().due(now) {
            self.try_waiting(&name).await;
        }
        for (work, patience) in self.postponed.take_due(now) {
            match work {
                Work::AddLink(call) => self.answer_add_link(call, Some(patience)).await,
                Work::Listen(port) => self.listen_anew(port, Some(patience)),
            }
        }
    }

    /// Writes again, from time to time, what could not be written to the FTN table.
    fn watch_ftn(&mut self) {
        let now = Instant::now();
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
        self.retry_all_held();
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

    /// Has the slow path deal with the exceptions that have come up.
    fn take_exceptions(&mut self) {
        let now = Instant::now();
        self.with_exceptions(|exceptions, view| exceptions.receive(view, now));
    }

    /// Has the next hops resolved that frames wait for.
    async fn resolve_wanted(&mut self) {
        for slot in self.exceptions.take_wanted() {
            let next_hops = self.lfib.next_hops();
            let Some((id, _)) = next_hops.at_slot(slot) else {
                continue;
            };
            let wanted = [Some(id), next_hops.backup(id)].into_iter().flatten();
            let probes = wanted.filter_map(|id| {
                let (HopState::Incomplete { ifindex } | HopState::Failed { ifindex }) = self.resolver.state(id)? else {
                    return None;
                };
                let address = self.resolver.next_hop(id)?.via.address()?;
                Some(Action::Probe { ifindex, address })
            });
            let probes = probes.collect();
            self.perform(probes).await;
        }
    }

    /// Sends what the slow path holds and need not hold any more.
    fn retry_held(&mut self) {
        let now = Instant::now();
        self.with_exceptions(|exceptions, view| exceptions.retry_held(view, now));
    }

    /// Sends what the slow path holds and need not hold any more, whatever it waited for.
    fn retry_all_held(&mut self) {
        let now = Instant::now();
        self.with_exceptions(|exceptions, view| exceptions.retry_all_held(view, now));
    }

    /// Lets the slow path see what it may know.
    fn with_exceptions<R>(&mut self, work: impl FnOnce(&mut Exceptions, &View<'_>) -> R) -> R {
        let view = View {
            tables: self.lfib.tables(),
            ports: &self.ports,
            links: self.resolver.links(),
            addresses: &self.addresses,
            routes: &self.kernel_routes,
            source_v4: self.config.icmp_source_v4,
            source_v6: self.config.icmp_source_v6,
        };
        work(&mut self.exceptions, &view)
    }

    /// Has the next hops of the routes that came and went followed, and sends what waits and need not under the routes that there
    /// are now.
    async fn routes_changed(&mut self) {
        // First, or newer frames would leave before those that wait.
        self.retry_all_held();
        self.follow_next_hops().await;
    }

    /// Has the resolver follow the next hops that came into use, and forget those that went out of it.
    async fn follow_next_hops(&mut self) {
        let now = Instant::now();
        let mut actions = Vec::new();
        for change in self.lfib.take_next_hop_changes() {
            match change {
                NextHopChange::Added(id, next_hop) => self.resolver.add(id, next_hop, now, &mut actions),
                NextHopChange::Removed(id) => self.resolver.remove(id, now, &mut actions),
            }
        }
        self.perform(actions).await;
    }

    /// Carries out what the resolver wants, and what it wants of the answers.
    async fn perform(&mut self, mut actions: Vec<Action>) {
        while !actions.is_empty() {
            let (changes, others): (Vec<_>, Vec<_>) = std::mem::take(&mut actions)
                .into_iter()
                .partition(|action| matches!(action, Action::Changed { .. }));
            self.next_hops_changed(&changes);
            for action in others {
                match action {
                    Action::Lookup { address } => {
                        let answer = self.lookup(address).await;
                        if let Err(error) = &answer {
                            warn!(%address, %error, "cannot look up the way to a next hop");
                        }
                        self.resolver
                            .lookup_done(address, answer.ok(), Instant::now(), &mut actions);
                    }
                    Action::Probe { ifindex, address } => {
                        if let Err(error) = self.netlink.probe(ifindex, address).await {
                            debug!(ifindex, %address, %error, "cannot have a neighbour resolved");
                        }
                    }
                    Action::Release { ifindex, address } => {
                        if let Err(error) = self.netlink.release(ifindex, address).await {
                            debug!(ifindex, %address, %error, "cannot release a neighbour");
                        }
                    }
                    Action::Changed { .. } => {}
                }
            }
        }
    }

    /// Tells the LFIB of all of them at once: each may need a grace period, which they share.
    fn next_hops_changed(&mut self, changes: &[Action]) {
        let mut reached = BTreeMap::new();
        for change in changes {
            if let Action::Changed { id, state } = *change {
                info!(next_hop = self.next_hop_name(id), ?state, "next hop");
                if let HopState::BadMac { mac, .. } = state {
                    warn!(
                        next_hop = self.next_hop_name(id),
                        "the kernel has {mac} for this neighbour, which is not the MAC address of one interface (RFC 1812 section \
                         3.3.2): no frames are sent there until `ip neigh replace ADDRESS lladdr MAC dev IFACE` or the neighbour \
                         tells another one"
                    );
                }
                if let HopState::NoArp { ifindex } = state
                    && let Some(next_hop) = self.resolver.next_hop(id)
                    && let Some(reason) = self.ports.no_device(ifindex, next_hop)
                {
                    warn!(%next_hop, "{reason}");
                }
                reached.insert(id, self.reach(Some(state)));
            }
        }
        self.set_next_hops(reached);
    }

    fn set_next_hops(&mut self, reached: impl IntoIterator<Item = (NextHopId, Reach)>) {
        if self.lfib.set_next_hops(reached) {
            // Frames that wait for a member of a group may be another's now.
            self.retry_all_held();
        }
    }

    /// What a next hop in `state` is to the routes.
    fn reach(&self, state: Option<HopState>) -> Reach {
        let Some(state) = state else { return Reach::Unresolved };
        match (self.adjacency(state), state) {
            (Some(adjacency), _) => Reach::Resolved(adjacency),
            (None, HopState::Incomplete { ifindex }) if self.ports.by_ifindex(ifindex).is_some() => Reach::Unresolved,
            // Nobody there, or no way there, be it that the interface is not a port.
            (None, _) => Reach::Out,
        }
    }

    /// The adjacency of a next hop in `state`, where its interface is a port.
    fn adjacency(&self, state: HopState) -> Option<Adjacency> {
        let (ifindex, mac) = state.adjacency()?;
        let port = self.ports.by_ifindex(ifindex)?;
        let adjacency = Adjacency::new(mac, port.number(), port.mac(), port.mtu()).with_tags(port.vlan_tags());
        Some(adjacency.with_one_buffer(!self.ports.sends_fragments(port.number())))
    }

    /// Writes every adjacency anew, where ports came, went or changed.
    fn republish_next_hops(&mut self) {
        let reached: Vec<_> = self
            .resolver
            .next_hops()
            .map(|(id, _, state)| (id, self.reach(state)))
            .collect();
        self.set_next_hops(reached);
    }

    /// Detaches, then leaves the kernel's neighbours to themselves. Maps and programs go with this process.
    async fn shut_down(&mut self) {
        self.ports.detach_all();
        self.exceptions.clear();
        if let Some(pair) = self.local.take()
            && let Err(error) = pair.remove(&self.netlink).await
        {
            warn!(%error, "cannot remove the local interface");
        }
        let mut actions = Vec::new();
        self.resolver.shutdown(Instant::now(), &mut actions);
        self.perform(actions).await;
    }

    /// What a change that the LFIB refused is to its client.
    fn refusal(&self, error: &ChangeError) -> Refusal {
        match error {
            ChangeError::Exists { key, .. } => Refusal::RouteExists {
                key: *key,
                route: self
                    .lfib
                    .get(*key)
                    .map(|listed| listed.route.to_string())
                    .unwrap_or_default(),
            },
            ChangeError::Missing { key, .. } => Refusal::NoSuchRoute { key: *key },
            other => Refusal::RouteRefused {
                index: other.index().unwrap_or(0),
                parameter: None,
                reason: other.to_string(),
            },
        }
    }

    fn not_changed(&self, error: &ChangeError) -> NotChanged {
        let refusal = self.refusal(error);
        match error {
            ChangeError::Full { .. } => NotChanged::Full(refusal),
            _ => NotChanged::Refused(refusal),
        }
    }

    fn no_such_link(&self, name: &str) -> Refusal {
        let links = self.resolver.links();
        let hint = match sub_interface::find(name, links) {
            Err(reason) => format!("; {reason}"),
            Ok(None) if links.by_name(name).is_none() => "; there is no such interface".to_owned(),
            Ok(_) => format!("; `mplsxdp link add {name}` makes it one"),
        };
        Refusal::NoSuchLink {
            name: name.to_owned(),
            hint,
        }
    }

    fn next_hop_name(&self, id: NextHopId) -> String {
        self.resolver.next_hop(id).map(NextHop::to_string).unwrap_or_default()
    }
}

/// Why a change of routes was not made.
enum NotChanged {
    Refused(Refusal),
    /// There may be room later.
    Full(Refusal),
}

impl NotChanged {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) | Self::Full(refusal) => refusal,
        }
    }
}

impl From<Refusal> for NotChanged {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn wish(port: &PortConfig) -> Wish {
    let role = if port.tx_only { Role::TxOnly } else { Role::Switching };
    Wish {
        mpls: port.mpls,
        ..Wish::new(role, port.checksum)
    }
}

fn reply_to(peer: Peer, reply: oneshot::Sender<Result<Reply, Refusal>>, result: Result<Reply, Refusal>) {
    if let Err(refusal) = &result {
        info!(pid = peer.pid, uid = peer.uid, %refusal, "refused");
    }
    // The client may be gone; what it asked for is done all the same.
    let _ = reply.send(result);
}

/// Whether an interface could not be taken because an AF_XDP queue of it is busy.
fn is_busy(error: &anyhow::Error) -> bool {
    error.downcast_ref::<XskError>().is_some_and(XskError::is_busy)
}

/// Whether an interface could not be taken because there is none of its name.
fn is_absence(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(PreflightError::NoSuchInterface { .. }))
}

fn slow_path_options(config: &Config) -> Options {
    let rate = |per_second| Rate {
        per_second,
        burst: burst(per_second),
    };
    Options {
        icmp_via: config.icmp_via,
        icmp_rate: rate(config.icmp_rate.get()),
        icmp_source_rate: rate(config.icmp_source_rate.get()),
        hold_frames: config.hold.get().into(),
    }
}

/// The line of the configuration that a change was refused for.
fn config_route(config: &Config, error: &ChangeError) -> String {
    let route = error.index().and_then(|index| config.routes.get(index));
    route.map_or_else(
        || "the configured routes".to_owned(),
        |route| format!("the configured route `{route}`"),
    )
}

fn count(changes: crate::lfib::Changes) -> Changes {
    let crate::lfib::Changes {
        added,
        replaced,
        deleted,
    } = changes;
    Changes {
        added: added as u64,
        replaced: replaced as u64,
        deleted: deleted as u64,
    }
}

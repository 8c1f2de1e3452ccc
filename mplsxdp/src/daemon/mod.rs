//! The process around the switch: it waits for events, passes them to [`Switch`], and performs the effects. Anything
//! that takes long is a future or a thread, whose result is an input of the switch.

mod audit;
mod capture;
pub mod exceptions;
pub mod fpm;
mod frr;
mod heap;
mod monitor;
mod raw_ip;
mod reading;
mod reports;
mod requests;
mod saving;
mod signals;
#[cfg(test)]
mod tests;
mod threads;
mod trace;
pub mod upgrade;
mod watch;
mod watchdog;

use std::collections::{BTreeSet, HashMap};
use std::future::{Future, pending};
use std::hash::BuildHasher as _;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use mplsxdp_common::abi::{Police, Settings};
use mplsxdp_common::wire::Mac;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config::{Config, Number, SyncSource, burst};
use crate::control::access::Groups;
use crate::control::api::{EventKind, Refusal, Reply};
use crate::control::events;
use crate::control::frames::Tap;
use crate::control::{Instance, server, socket};
use crate::dataplane::capture::{CaptureFilters, CaptureRing};
use crate::dataplane::kernel::{CounterReaders, KernelTables};
use crate::dataplane::loader::{Loader, LostFrames, Program, Sizes};
use crate::dataplane::port::{AttachError, Attachment, TakenOver, Takeover};
use crate::dataplane::recorder::FibAnswer;
use crate::error;
use crate::feeds::TtlDefaults;
use crate::kernel::failed_links::FailedLinks;
use crate::kernel::netdev::FeatureChanges;
use crate::kernel::promiscuity::Promiscuity;
use crate::kernel::{Events, Interests, Netlink, netns, sysctl};
use crate::neighbour::Event;
use crate::observe::metrics;
use crate::observe::metrics::address::MetricsAddress;
use crate::observe::metrics::listener::Listener;
use crate::observe::metrics::times::LoopTimes;
use crate::ports::PortError;
use crate::ports::adoption::{self, Persistence};
use crate::ports::attach::{self, Attached, Attacher, Order, Parts};
use crate::ports::local::{LeftPair, LocalPair};
use crate::ports::local_routes::LocalRoutes;
use crate::ports::preflight::PreflightError;
use crate::privileges::{self, Start};
use crate::route::Source;
use crate::slowpath::xsk::{Patience, XskPort};
use crate::slowpath::{Options, Rate};
use crate::switch::{
    Call, Effect, FRR, FeedEvent, FrrAnswer, Identity, Input, NotPutBack, PortEvent, ProgramIds, Situation, Switch,
    Token,
};
use crate::{control, ports, state};
use capture::{Captures, News, Passing};
use exceptions::{Exceptions, View};
use fpm::{Fpm, ListenError};
use frr::Frr;
use monitor::Monitor;
use reading::Reading;
pub use reading::Reread;
use requests::Requests;
use saving::{Opened, Saving};
use threads::Dropper;
use trace::Traced;
use watch::{Findings, TtlSettings, Watch};
use watchdog::Watchdog;

/// Requests that wait for the switch.
const CALL_BACKLOG: usize = 64;
/// Kernel events that are read before their effect on the tables is worked out: at most a millisecond's work.
const EVENT_BATCH: usize = 64;

/// How many searches for the busiest routes go on at a time. Each has two tables of all counters in memory.
const BUSIEST_TURNS: usize = 4;
/// How long one step of long work may take; nothing else is done meanwhile.
const STEP: Duration = Duration::from_millis(1);
/// What holds the event loop longer is logged: a link that goes down waits for it.
const LONG: Duration = Duration::from_millis(2);

/// Takes the answer to a request.
type Answer = oneshot::Sender<Result<Reply, Refusal>>;
type Running = FuturesUnordered<Pin<Box<dyn Future<Output = Outcome>>>>;

/// Loads, serves until it is asked to stop, and unloads or leaves the ports forwarding.
pub async fn run(config: Config, reread: Option<Reread>) -> anyhow::Result<End> {
    heap::give_back_large_memory();
    // First of all, so that no signal ends this process before it has cleaned up.
    let ending = signals::Ending::new()?;
    let hangup = signal(SignalKind::hangup())?;
    let instance = Instance::new(&config.instance)?;
    // This reads files, so it must be done before the socket exists.
    let groups = Groups::look_up();
    if let Some(directory) = config.sync.iter().find_map(SyncSource::frr_directory)
        && let Err(error) = privileges::join_groups(&frr::groups(directory))
    {
        warn!(%error, "cannot join the group of FRR's sockets");
    }
    let (listener, _socket) = socket::bind(&instance, &groups)?;
    let metrics = config.metrics.as_ref();
    let metrics = metrics.map(|address| Listener::open(address, &groups)).transpose()?;
    threads::go_first();
    // Before other threads start, which then have no more of them either. The one of the log has none.
    let mut kept = privileges::RUNNING;
    kept.set(privileges::REREADING, reread.is_some());
    kept.set(privileges::STARTING_AGAIN, config.persist);
    let has_low_port = config.metrics.as_ref().is_some_and(MetricsAddress::has_low_port);
    kept.set(privileges::LOW_PORT, config.persist && has_low_port);
    privileges::keep_capabilities(kept).context("cannot give up capabilities")?;
    let interests = Interests {
        routing: config.sync.contains(&SyncSource::Kernel),
        ..Interests::default()
    };
    let (netlink, mut events) =
        Netlink::open_with(interests).context("cannot read the kernel's interfaces, routes and neighbours")?;
    let persistence = match config.persist {
        true => Some(Persistence::open(&instance, config.mode, &netlink).await?),
        false => {
            adoption::refuse_leftovers(&instance)?;
            None
        }
    };
    let opened = match &persistence {
        Some(persistence) => Some(saving::open(&config, persistence.adopts()).await?),
        None => None,
    };
    let mut daemon = Daemon::new(config, netlink, persistence.map(Arc::new), opened)?;
    let found = events.until_synced().await?;
    daemon.handle(Input::Kernel(found));
    daemon.handle(Input::Start);

    let (calls_in, calls) = mpsc::channel(CALL_BACKLOG);
    let mut event_loop = EventLoop {
        daemon,
        events,
        calls,
        ending,
        hangup,
        reread,
        reading: Reading::default(),
        listener: Some((listener, calls_in)),
        groups,
        serving: None,
        metrics,
        serving_metrics: None,
        times: Arc::default(),
        probes: None,
        stop_serving: CancellationToken::new(),
        failure: None,
        turns: Turns::default(),
        watchdog: Watchdog::new(Instant::now()),
    };
    take_each(
        &mut event_loop,
        async |event_loop| event_loop.next().await,
        EventLoop::take,
    )
    .await;
    match event_loop.daemon.stays() {
        true => info!("ending; the programs stay on the ports and forward"),
        false => info!("unloading"),
    }
    let end = match event_loop.daemon.upgrades {
        true => End::Upgrade,
        false => {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            End::Stop
        }
    };
    let EventLoop {
        mut daemon,
        calls,
        listener,
        serving,
        metrics,
        serving_metrics,
        stop_serving,
        failure,
        ..
    } = event_loop;
    let failed = daemon.failure.take();
    daemon.shut_down().await;
    // Requests that still wait for an answer learn that there is none.
    drop((calls, listener, metrics, daemon));
    stop_serving.cancel();
    for (serving, what) in [
        (serving, "the control socket's server has failed"),
        (serving_metrics, "the server of metrics has failed"),
    ] {
        let Some(serving) = serving else { continue };
        let served = tokio::task::spawn_blocking(move || serving.join());
        let served = served.await?.map_err(|_| anyhow::anyhow!("a panic"));
        served.context(what)?;
    }
    match failed {
        Some(error) => Err(error.into()),
        None => failure.map_or(Ok(end), Err),
    }
}

/// What follows when the daemon has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Stop,
    /// The program's file takes over: [`upgrade::execute`].
    Upgrade,
}

/// Takes one input after the other until there is none, and gives way after each: the runtime looks at its sockets and
/// timers only while this task waits, and if one input follows the other, it never does.
async fn take_each<S, I>(state: &mut S, mut next: impl AsyncFnMut(&mut S) -> Option<I>, take: impl Fn(&mut S, I)) {
    while let Some(input) = next(state).await {
        take(state, input);
        tokio::task::yield_now().await;
    }
}

/// The daemon, and what reaches it from outside.
struct EventLoop {
    daemon: Daemon,
    events: Events,
    calls: mpsc::Receiver<control::Call>,
    ending: signals::Ending,
    hangup: Signal,
    reread: Option<Reread>,
    reading: Reading,
    /// Until the switch is ready.
    listener: Option<(UnixListener, mpsc::Sender<control::Call>)>,
    /// Who may use the control socket.
    groups: Groups,
    serving: Option<thread::JoinHandle<()>>,
    /// With `--metrics`, until the switch is ready.
    metrics: Option<Listener>,
    serving_metrics: Option<thread::JoinHandle<()>>,
    times: Arc<LoopTimes>,
    /// When each was sent.
    probes: Option<mpsc::Receiver<Instant>>,
    stop_serving: CancellationToken,
    failure: Option<anyhow::Error>,
    turns: Turns,
    watchdog: Watchdog,
}

/// Whose turn it is. Kernel events come before every other input: a link may be down. A call comes before every other
/// one that is not a call: chance would decide otherwise.
#[derive(Default, Debug)]
struct Turns {
    had_events: bool,
    had_call: bool,
}

impl Turns {
    fn taken(&mut self, happened: &Happened) {
        self.had_events = matches!(happened, Happened::Event(_));
        if !self.had_events {
            self.had_call = matches!(happened, Happened::Call(_));
        }
    }

    /// The input whose turn it is, if it waits.
    fn next(
        &self,
        event: impl FnOnce() -> Option<Event>,
        call: impl FnOnce() -> Option<control::Call>,
    ) -> Option<Happened> {
        let event = if self.had_events { None } else { event() };
        event.map(Happened::Event).or_else(|| {
            let call = if self.had_call { None } else { call() };
            call.map(Happened::Call)
        })
    }
}

impl EventLoop {
    /// Waits for the next input; `None` at the end.
    async fn next(&mut self) -> Option<Happened> {
        if self.daemon.stopping {
            return None;
        }
        if self.daemon.is_ready
            && let Some((listener, calls_in)) = self.listener.take()
        {
            if let Err(error) = self.serve(listener, calls_in) {
                self.failure = Some(error);
                return None;
            }
            let start = match self.daemon.switch.config().persist {
                // An upgrade replaces the program of this process.
                true => Start::Again,
                false => Start::Never,
            };
            if let Err(error) = privileges::restrict_calls(start) {
                warn!("{error}; the instance can make all system calls");
            }
            info!(
                instance = self.daemon.switch.config().instance,
                ports = self.daemon.switch.ports().len(),
                "ready"
            );
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                warn!(%error, "cannot notify the service manager");
            }
        }
        let (events, calls) = (&mut self.events, &mut self.calls);
        if let Some(failed) = self.daemon.failed_links() {
            return Some(Happened::LinksFailed(failed));
        }
        let next = self.turns.next(|| events.try_next(), || calls.try_recv().ok());
        if next.is_some() {
            return next;
        }
        loop {
            return Some(tokio::select! {
                event = self.events.next() => match event {
                    Ok(event) => Happened::Event(event),
                    Err(error) => {
                        self.failure = Some(error.into());
                        return None;
                    }
                },
                Some(call) = self.calls.recv() => Happened::Call(call),
                () = self.ending.arrived() => return None,
                () = self.watchdog.due() => {
                    self.watchdog.report(Instant::now());
                    continue;
                }
                Some(sent) = next_probe(&mut self.probes) => {
                    self.times.delay.count(sent.elapsed());
                    continue;
                }
                _ = self.hangup.recv(), if self.reading.is_idle() => {
                    self.reading.begin(self.reread.as_ref());
                    continue;
                }
                read = self.reading.done() => Happened::Outcome(Box::new(Outcome::Input(Input::Reread(read)))),
                happened = self.daemon.next() => happened,
            });
        }
    }

    fn take(&mut self, happened: Happened) {
        let held = Held::begin();
        let name = happened.name();
        self.turns.taken(&happened);
        self.daemon.take(happened, &mut self.events);
        self.watchdog.report(Instant::now());
        self.times.held.count(held.end(name));
    }

    /// Begins to serve clients, and metrics if that is wanted.
    fn serve(&mut self, listener: UnixListener, calls: mpsc::Sender<control::Call>) -> anyhow::Result<()> {
        let counts = Arc::default();
        if let Some(metrics) = self.metrics.take() {
            let config = self.daemon.switch.config();
            let source = metrics::Source::new(
                calls.clone(),
                Arc::clone(&self.times),
                Arc::clone(&counts),
                config.metrics_routes.map_or(0, Number::get),
            );
            let (probe, probes) = mpsc::channel(1);
            self.probes = Some(probes);
            let allowed = config.metrics_allow.clone();
            let serving = metrics::server::start(metrics, allowed, source, probe, self.stop_serving.clone());
            self.serving_metrics = Some(serving.context("cannot start the thread that serves metrics")?);
        }
        let serving = serve(listener, calls, self.groups, counts, self.stop_serving.clone())?;
        self.serving = Some(serving);
        Ok(())
    }
}

/// How long an input holds the event loop.
struct Held {
    begin: Instant,
    /// The time that this thread had run until then, if that is to be logged.
    ran: Option<Duration>,
}

impl Held {
    fn begin() -> Self {
        Self {
            begin: Instant::now(),
            ran: tracing::enabled!(tracing::Level::DEBUG).then(threads::ran),
        }
    }

    /// Returns the time. The difference of the times that are logged is that for which the thread had no CPU.
    fn end(self, by: &str) -> Duration {
        let held = self.begin.elapsed();
        if let Some(before) = self.ran
            && held > LONG
        {
            let ran = threads::ran().saturating_sub(before);
            debug!(?held, ?ran, by, "the event loop was held");
        }
        held
    }
}

/// Serves clients on a thread of its own, so that reading and writing their messages does not hold the event loop.
fn serve(
    listener: UnixListener,
    calls: mpsc::Sender<control::Call>,
    groups: Groups,
    counts: Arc<server::Counts>,
    stop: CancellationToken,
) -> anyhow::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(threads::readers())
        .build()?;
    let listener = listener.into_std()?;
    let serve = move || {
        runtime.block_on(async {
            match UnixListener::from_std(listener) {
                Ok(listener) => server::serve(listener, calls, groups, server::Limits::default(), counts, stop).await,
                Err(error) => error!(%error, "cannot serve clients"),
            }
        });
    };
    let thread = thread::Builder::new().name("control".into());
    thread
        .spawn(serve)
        .context("cannot start the thread that serves clients")
}

/// What woke the event loop.
enum Happened {
    LinksFailed(Vec<u32>),
    Event(Event),
    Call(control::Call),
    Outcome(Box<Outcome>),
    Deadline,
    /// There is long work to do, and no event.
    Idle,
    Exceptions,
    FeaturesChanged(Option<u32>),
    Interference(Findings),
    GracePeriod,
    /// A part of a snapshot is wanted.
    Snapshot(state::Request),
    Feed(FeedEvent),
    Frr(FrrAnswer),
    TtlSettings(TtlDefaults),
}

impl Happened {
    /// For the log.
    const fn name(&self) -> &'static str {
        match self {
            Self::LinksFailed(_) => "failed links",
            Self::Event(_) => "a kernel event",
            Self::Call(_) => "a call",
            Self::Outcome(_) => "the result of an effect",
            Self::Deadline => "a deadline",
            Self::Idle => "a step",
            Self::Exceptions => "exceptions",
            Self::FeaturesChanged(_) => "XDP features",
            Self::Interference(_) => "changed programs",
            Self::GracePeriod => "a grace period",
            Self::Snapshot(_) => "a snapshot",
            Self::Feed(_) => "a routing daemon",
            Self::Frr(_) => "backups of FRR",
            Self::TtlSettings(_) => "settings of the TTL",
        }
    }
}

/// The result of an effect.
enum Outcome {
    Input(Input),
    Attached(Box<Order>, Box<Result<(Parts, Attached), PortError>>),
    /// Sockets for a port that has lost its own.
    Sockets(u16, Result<XskPort, PortError>),
    /// A queue of a port was busy.
    ListenAgain(u16, Arc<str>, Patience),
    LocalCreated(Result<LocalPair, PortError>),
    LocalRoutes(LocalRoutes),
    /// A program for a port whose frames have become larger.
    Program(u16, Result<Program, PortError>),
    /// The takeover of ports, and the interfaces from which the dead process's program was taken.
    TakenOver(Vec<(u16, Result<TakenOver, AttachError>)>, Vec<u32>),
    /// The ring for captured frames.
    CaptureBegun(Result<(CaptureRing, CaptureFilters), PortError>),
    /// A program that captures, or no longer does.
    Reprogram(u16, Result<Program, PortError>),
    /// It is in place.
    Reprogrammed(u16, Result<TakenOver, String>),
    /// A client has ended its capture.
    CaptureEnded,
    /// Whether the program's file can take over.
    FileTried(Token, Result<(), String>),
    /// What the kernel answers about the packet of a frame that is traced.
    FibAsked(Token, u16, Vec<u8>, Option<(u32, Mac)>),
    Nothing,
}

/// Everything that the switch acts on, except the tables.
struct Daemon {
    switch: Switch<KernelTables>,
    netlink: Netlink,
    requests: Requests,
    failed_links: FailedLinks,
    /// Futures whose results the switch waits for.
    running: Running,
    attacher: Attacher,
    attachments: HashMap<u16, Attachment>,
    exceptions: Exceptions,
    watch: Watch,
    /// Unless an option takes their place.
    ttl_settings: Option<TtlSettings>,
    feature_changes: Option<FeatureChanges>,
    local_routes: Option<LocalRoutes>,
    fpm: Option<Fpm>,
    frr: Option<Frr>,
    _lost_frames: Option<LostFrames>,
    counters: Arc<CounterReaders>,
    /// For [`reports::busiest`].
    busiest_turns: Arc<Semaphore>,
    dropper: Dropper,
    monitor: Monitor,
    captures: Captures,
    saving: Option<Saving>,
    answers: HashMap<Token, Answer>,
    next_token: Token,
    /// With `--persist`.
    persistence: Option<Arc<Persistence>>,
    promiscuity: Promiscuity,
    /// The interfaces that receive frames for other stations.
    crossed: BTreeSet<u32>,
    /// Why links are not pinned any more.
    unpinned: Option<String>,
    /// The takeover has begun.
    takes_over: bool,
    is_ready: bool,
    stopping: bool,
    /// The instance is to end, not only this process.
    unloads: bool,
    /// The program's file is to go on.
    upgrades: bool,
    failure: Option<crate::switch::ConfigurationError>,
}

impl Daemon {
    fn new(
        config: Config,
        netlink: Netlink,
        persistence: Option<Arc<Persistence>>,
        opened: Option<Opened>,
    ) -> anyhow::Result<Self> {
        let sizes = Sizes {
            labels: config.labels.get(),
            stacks: config.stacks.get(),
            groups: config.groups.get(),
            backups: config.backups.get(),
            counter_slots: config.counter_slots.get(),
        };
        let police = Police::new(config.punt_rate.get(), burst(config.punt_rate.get()));
        let random = || config.hash_seed.map_or_else(random_seed, Number::get);
        let hash_seed = opened.as_ref().map_or_else(random, |opened| opened.hash_seed);
        let mut loader = Loader::new(sizes)?.with_police(police).with_hash_seed(hash_seed);
        if config.log_exceptions {
            loader.follow_log()?;
        }
        let tables = KernelTables::open(loader.pins(), hash_seed)?;
        let injector = loader.injector()?;
        let lost_frames = loader.lost_frames();
        let lost_frames = lost_frames.inspect_err(|error| warn!(%error, "`redirect-lost` is not counted"));
        let feature_changes = FeatureChanges::follow();
        let feature_changes =
            feature_changes.inspect_err(|error| warn!(%error, "cannot follow whether ports accept redirected frames"));
        let settings = Settings::new(
            0,
            config.ttl_mode().into(),
            config.pipe_ttl(),
            config.tc_propagate,
            config.log_exceptions,
        )
        .with_unknown(config.unknown.into());
        let netns_inode = netns::inode("/proc/thread-self/ns/net").unwrap_or_default();
        let identity = Identity {
            pid: std::process::id(),
            netns_inode,
            netns_name: netns::name(netns_inode),
            since: SystemTime::now(),
        };
        let now = Instant::now();
        let fpm = listen_for_fpm(&config)?;
        let frr = config.sync.iter().find_map(SyncSource::frr_directory);
        let frr = frr.map(|directory| Frr::start(directory, config.sync_stale.get()));
        let frr = frr.transpose().context("cannot start the thread that asks FRR")?;
        let exceptions =
            Exceptions::new(slow_path_options(&config), injector).context("cannot open raw sockets for IP")?;
        let counters = Arc::new(tables.counter_readers()?);
        let follows_ttl = !config.sync.is_empty() && config.ttl_propagate.is_none();
        let attacher =
            Attacher::new(loader, netlink.clone(), config.mode, config.fix_peers).with_persistence(persistence.clone());
        let mut switch = Switch::new(config, identity, settings, tables, now);
        switch.set_ttl_defaults(audit::ttl_defaults());
        let saving = opened.map(|opened| {
            switch.save(opened.wanted);
            opened.saving
        });
        Ok(Self {
            requests: Requests::new(netlink.clone()),
            failed_links: FailedLinks::follow().context("cannot follow the kernel's links")?,
            running: Running::new(),
            attacher,
            attachments: HashMap::new(),
            exceptions,
            watch: Watch::new(now),
            ttl_settings: follows_ttl.then(|| TtlSettings::new(now)),
            feature_changes: feature_changes.unwrap_or_default(),
            local_routes: None,
            fpm,
            frr,
            _lost_frames: lost_frames.ok(),
            counters,
            busiest_turns: Arc::new(Semaphore::new(BUSIEST_TURNS)),
            dropper: Dropper::new()?,
            monitor: Monitor::default(),
            captures: Captures::default(),
            saving,
            answers: HashMap::new(),
            next_token: Token(0),
            persistence,
            promiscuity: Promiscuity::new().context("cannot open a packet socket")?,
            crossed: BTreeSet::new(),
            unpinned: None,
            takes_over: false,
            is_ready: false,
            stopping: false,
            unloads: false,
            upgrades: false,
            failure: None,
            switch,
            netlink,
        })
    }

    /// Waits for the next event. Can be dropped and called again at any time.
    async fn next(&mut self) -> Happened {
        let Self {
            switch,
            requests,
            failed_links,
            running,
            attachments,
            exceptions,
            watch,
            ttl_settings,
            feature_changes,
            fpm,
            frr,
            saving,
            ..
        } = self;
        let deadline = switch
            .next_deadline()
            .into_iter()
            .chain(exceptions.next_deadline())
            .min();
        let probes = || {
            let own = attachments.iter().filter(|(_, attachment)| attachment.is_settled());
            let probe = |(&number, attachment): (&u16, &Attachment)| {
                (number, attachment.probe(switch.ports().is_program_lost(number)))
            };
            own.map(probe).collect()
        };
        tokio::select! {
            Some(outcome) = running.next(), if !running.is_empty() => Happened::Outcome(Box::new(outcome)),
            outcome = requests.next() => Happened::Outcome(Box::new(outcome)),
            () = failed_links.readable() => Happened::LinksFailed(failed_links.take()),
            () = sleep_until(deadline) => Happened::Deadline,
            () = tokio::task::yield_now(), if switch.has_steps() => Happened::Idle,
            () = exceptions.readable() => Happened::Exceptions,
            changed = next_feature_change(feature_changes) => Happened::FeaturesChanged(changed),
            found = watch.findings(probes) => Happened::Interference(found),
            () = switch.tables().grace_period_ended() => Happened::GracePeriod,
            event = next_feed_event(fpm) => Happened::Feed(event),
            answer = next_frr_answer(frr) => Happened::Frr(answer),
            Some(request) = next_request(saving) => Happened::Snapshot(request),
            ttl = next_ttl(ttl_settings) => Happened::TtlSettings(ttl),
        }
    }

    /// Takes a kernel event, and those that have come after it.
    fn take_events(&mut self, first: Event, events: &mut Events) {
        let mut batch = vec![first];
        while batch.len() < EVENT_BATCH
            && let Some(event) = events.try_next()
        {
            batch.push(event);
        }
        // Those that came before any of these events: otherwise a link could be taken for failed that is up again.
        if let Some(failed) = self.failed_links() {
            self.handle(Input::LinksFailed(failed));
        }
        self.handle(Input::Kernel(batch));
    }

    /// The links that have failed since the last call, if there are any.
    fn failed_links(&mut self) -> Option<Vec<u32>> {
        Some(self.failed_links.take()).filter(|failed| !failed.is_empty())
    }

    /// Takes an input. `events`: the kernel events that follow.
    fn take(&mut self, happened: Happened, events: &mut Events) {
        let now = Instant::now();
        match happened {
            Happened::LinksFailed(failed) => self.handle(Input::LinksFailed(failed)),
            Happened::Event(event) => self.take_events(event, events),
            Happened::Call(control::Call { request, peer, reply }) => {
                let token = self.next_token;
                self.next_token = Token(token.0 + 1);
                self.answers.insert(token, reply);
                self.handle(Input::Call(Call { token, peer, request }));
            }
            Happened::Outcome(outcome) => self.take_outcome(*outcome),
            Happened::Deadline => {
                self.with_exceptions(|exceptions, view| exceptions.poll(view, now));
                self.handle(Input::Tick);
            }
            Happened::Idle => {
                self.switch.step(now, &mut || now.elapsed() >= STEP);
                self.perform_all();
            }
            Happened::Exceptions => {
                self.with_exceptions(|exceptions, view| exceptions.receive(view, now));
                self.perform_all();
            }
            Happened::FeaturesChanged(ifindex) => self.handle(Input::FeaturesChanged(ifindex)),
            Happened::Interference(found) => {
                self.pin_again(&found.unpinned);
                if !found.programs.is_empty() {
                    self.handle(Input::Interference(found.programs));
                }
            }
            Happened::GracePeriod => self.handle(Input::Tick),
            Happened::Snapshot(request) => self.handle(Input::SnapshotWanted(request)),
            Happened::TtlSettings(ttl) => self.switch.set_ttl_defaults(ttl),
            Happened::Frr(answer) => self.handle(Input::Frr(answer)),
            Happened::Feed(event) => {
                self.handle(Input::Feed(event));
                // One step for each: it may go on for long.
                if self.switch.has_steps() {
                    self.switch.step(now, &mut || now.elapsed() >= STEP);
                    self.perform_all();
                }
            }
        }
    }

    fn take_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Input(input) => self.handle(input),
            Outcome::Attached(order, result) => {
                let result = result.and_then(|(mut parts, attached)| {
                    self.listen(order.number, parts.sockets)?;
                    if let Some(persistence) = &self.persistence {
                        parts.attachment.persist(&persistence.folder)?;
                    }
                    self.attachments.insert(order.number, parts.attachment);
                    Ok(attached)
                });
                let number = order.number;
                self.handle(Input::Port(PortEvent::Attached(order, result)));
                self.reprogram(number);
                self.set_captured();
            }
            Outcome::Sockets(number, sockets) => {
                if self.switch.ports().name(number).is_none() || self.exceptions.receiver_mut(number).is_some() {
                    return;
                }
                if let Err(error) = sockets.and_then(|sockets| self.listen(number, sockets)) {
                    warn!(
                        port = self.switch.ports().name(number),
                        error = error::report(&error),
                        "cannot reopen the sockets of a port"
                    );
                }
            }
            Outcome::Program(number, program) => {
                let is_lost = self.switch.ports().is_program_lost(number);
                let Some(attachment) = self.attachments.get_mut(&number) else {
                    return;
                };
                let replaced = program.and_then(|program| match is_lost {
                    true => {
                        attachment.replace_later(program);
                        Ok(())
                    }
                    false => Ok(attachment.replace(program)?),
                });
                let ids = program_ids(attachment);
                let result = replaced.map(|()| ids).map_err(|error| error::report(&error));
                self.handle(Input::Replaced { number, result });
                self.reprogram(number);
            }
            Outcome::CaptureBegun(begun) => self.capture_begun(begun),
            Outcome::Reprogram(number, program) => self.put_program(number, program),
            Outcome::Reprogrammed(number, done) => self.reprogrammed(number, done),
            Outcome::CaptureEnded => self.follow_taps(),
            Outcome::ListenAgain(number, name, patience) => self.try_to_listen(number, name, patience),
            Outcome::LocalCreated(created) => {
                let pair = created.as_ref().ok().cloned();
                // First; otherwise the routes into the pair would look like other routes.
                self.handle(Input::Port(PortEvent::LocalCreated(created)));
                if let Some(pair) = pair {
                    let (routes, netlink) = (self.switch.config().kernel_route.clone(), self.netlink.clone());
                    self.requests.push(async move {
                        Outcome::LocalRoutes(LocalRoutes::install(&routes, &pair, &netlink).await)
                    });
                }
            }
            Outcome::FileTried(token, tried) => {
                match &tried {
                    Ok(()) => (self.upgrades, self.stopping) = (true, true),
                    Err(reason) => warn!("it is not upgraded: {reason}"),
                }
                let refused = |reason| Refusal::UpgradeRefused { reason };
                self.reply(token, tried.map(|()| Reply::Done).map_err(refused));
            }
            Outcome::TakenOver(taken, were_ports) => self.taken_over(taken, were_ports),
            Outcome::LocalRoutes(routes) => self.local_routes = Some(routes),
            Outcome::FibAsked(token, port, frame, answer) => {
                let answer = answer.map_or(FibAnswer::Kernel, |(ifindex, destination)| {
                    let link = self.switch.links().get(ifindex);
                    let source = link.and_then(|link| link.mac).unwrap_or(Mac::ZERO);
                    FibAnswer::Neighbour {
                        ifindex,
                        source,
                        destination,
                    }
                });
                self.trace(token, port, frame, Some(answer));
            }
            Outcome::Nothing => {}
        }
    }

    /// Receives exceptions of a port through these sockets.
    fn listen(&mut self, number: u16, sockets: XskPort) -> Result<(), PortError> {
        for (queue, socket) in sockets.receiver.sockets() {
            self.switch.tables_mut().set_listener(number, queue, socket)?;
        }
        self.exceptions.add_port(number, sockets);
        Ok(())
    }

    /// Has the switch handle an input, and performs its effects.
    fn handle(&mut self, input: Input) {
        self.switch.handle(input, Instant::now());
        self.perform_all();
    }

    fn perform_all(&mut self) {
        loop {
            while let Some(effect) = self.switch.take_effect() {
                self.perform(effect);
            }
            let now = Instant::now();
            self.with_exceptions(|exceptions, view| exceptions.retry_held(view, now));
            self.exceptions
                .take_events(now)
                .into_iter()
                .for_each(|event| self.tell(event));
            let wanted = self.exceptions.take_wanted();
            if wanted.is_empty() {
                return;
            }
            self.switch.handle(Input::Wanted(wanted), now);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { token, result } => self.reply(token, result),
            Effect::ReplyAfterHandover {
                token,
                reply,
                situation,
            } => self.reply(token, Ok(with_warnings(reply, &situation))),
            Effect::Watch { token, watcher } => {
                self.monitor.add(watcher);
                self.follow_watchers();
                self.reply(token, Ok(Reply::Done));
            }
            Effect::Tell(event) => self.tell(event),
            Effect::Capture { token, tap } => self.capture(token, tap),
            Effect::Save(batch) => {
                if let Some(saving) = &self.saving {
                    saving.store.append(batch);
                }
            }
            Effect::Snapshot { request, piece } => {
                if let Some(saving) = &self.saving {
                    saving.store.give(request, piece);
                }
            }
            Effect::LogHandover(situation) => {
                for warning in situation.warnings(sysctl::read) {
                    warn!("{warning}");
                }
            }
            Effect::ReplyStats {
                token,
                all,
                mut stats,
                ports,
                total,
            } => {
                stats.slow_path = reports::outcomes(&self.exceptions, all);
                if let Some(answer) = self.answers.remove(&token) {
                    reports::stats(answer, stats, ports, all, total, Arc::clone(&self.counters));
                }
            }
            Effect::ReplyCounted {
                token,
                reply,
                counted_at,
            } => {
                if let Some(answer) = self.answers.remove(&token) {
                    reports::routes(answer, reply, counted_at, Arc::clone(&self.counters));
                }
            }
            Effect::ReplyLinks { token, links, numbers } => {
                if let Some(answer) = self.answers.remove(&token) {
                    let (counters, netlink) = (Arc::clone(&self.counters), self.netlink.clone());
                    tokio::spawn(reports::links(answer, links, numbers, counters, netlink));
                }
            }
            Effect::ReplyNeighbors { token, neighbors, last } => {
                if let Some(answer) = self.answers.remove(&token) {
                    tokio::spawn(reports::neighbors(answer, neighbors, last, self.netlink.clone()));
                }
            }
            Effect::CountBusiest {
                token,
                count,
                time,
                order,
            } => {
                let busiest = reports::busiest(
                    count,
                    time,
                    order,
                    Arc::clone(&self.counters),
                    Arc::clone(&self.busiest_turns),
                );
                self.run(async move {
                    let (slots, time) = busiest.await;
                    Outcome::Input(Input::Busiest { token, slots, time })
                });
            }
            Effect::ReplyTrace { token, port, frame } => self.trace(token, port, frame, None),
            Effect::SendLspPing { token, request } => {
                let sent =
                    self.with_exceptions(|exceptions, view| exceptions.send_lsp_ping(&request, view, Instant::now()));
                self.reply(token, sent.map(Reply::LspPingSent));
            }
            Effect::ReplyUnknownLabels { token } => {
                let labels = reports::unknown_labels(&self.exceptions, self.switch.ports(), Instant::now());
                self.reply(token, Ok(Reply::UnknownLabels(labels)));
            }
            Effect::ReplyRings { token } => {
                let rings = reports::rings(&self.exceptions, self.switch.ports());
                self.reply(token, Ok(Reply::Rings(rings)));
            }
            Effect::LookUp { address, scopes } => self.requests.look_up(address, scopes),
            Effect::Probe { ifindex, address } => self.requests.probe(ifindex, address),
            Effect::Release { ifindex, address } => self.requests.release(ifindex, address),
            Effect::Verify { ifindex, address } => self.requests.verify(ifindex, address),
            Effect::Survey { name, own } => {
                let survey = self.attacher.clone().survey(name, own);
                self.run(async move { port_event(PortEvent::Surveyed(survey.await)) });
            }
            Effect::Attach(order) => {
                let attacher = self.attacher.clone();
                self.run(async move {
                    let result = attacher.attach((*order).clone()).await;
                    Outcome::Attached(order, Box::new(result))
                });
            }
            Effect::ListenEverywhere { number, name } => {
                self.try_to_listen(number, name, Patience::new(Instant::now()));
            }
            Effect::KeepPorts => {
                let ports = self.switch.ports();
                let has_program = |number| ports.get(number).is_some_and(|port| port.tags().is_none());
                let gone = self.attachments.extract_if(|&number, _| !has_program(number));
                gone.for_each(|(_, attachment)| attachment.remove());
                self.exceptions.keep_ports(ports);
                self.set_captured();
            }
            Effect::ReceiveAll(crossed) => self.receive_all(crossed),
            Effect::LinksDown(down) => self.discard_unsent(&down),
            Effect::MakeRoomForLocal { name } => {
                let (netlink, instance) = (self.netlink.clone(), self.switch.config().instance.clone());
                let left = self.left_pair();
                self.requests.push(async move {
                    let room = LocalPair::make_room(&name, &instance, left, &netlink).await;
                    port_event(PortEvent::RoomForLocal(room.map_err(PortError::from)))
                });
            }
            Effect::CreateLocal { name, mtu } => {
                let (netlink, instance) = (self.netlink.clone(), self.switch.config().instance.clone());
                let left = self.left_pair();
                self.requests.push(async move {
                    let pair = LocalPair::create(&name, &instance, mtu, left, &netlink).await;
                    Outcome::LocalCreated(pair.map_err(PortError::from))
                });
            }
            Effect::SetLocalRoutes(routes) => {
                if let Some(local_routes) = &self.local_routes {
                    local_routes.set(&routes);
                }
            }
            Effect::SetLocalMtu { pair, mtu } => {
                let netlink = self.netlink.clone();
                self.requests.push(async move {
                    if let Err(error) = pair.set_mtu(mtu, &netlink).await {
                        warn!(%error, "cannot adjust the local interface's MTU to that of the ports");
                    }
                    Outcome::Nothing
                });
            }
            Effect::RemoveLocal(pair) => {
                let netlink = self.netlink.clone();
                self.requests.push(async move {
                    remove_local(pair, &netlink).await;
                    Outcome::Nothing
                });
            }
            Effect::WatchSoon => self.watch.hurry(Instant::now()),
            Effect::PutBack { number, ifindex, name } => self.put_back(number, ifindex, name),
            Effect::LookAtLost { number, ifindex, name } => {
                let attacher = self.attacher.clone();
                self.run(async move {
                    let result = Err(match attacher.has(&name, ifindex).await {
                        true => NotPutBack::Unguarded,
                        false => NotPutBack::Gone,
                    });
                    Outcome::Input(Input::PutBack { number, result })
                });
            }
            Effect::ReplaceProgram { number, settings } => {
                let program = self.attacher.clone().program(settings);
                self.run(async move { Outcome::Program(number, program.await) });
            }
            Effect::LookAtFeatures { ifindex, name } => {
                let attacher = self.attacher.clone();
                self.run(async move {
                    match attacher.gather_fixed(&name).await {
                        Ok(facts) => Outcome::Input(Input::Features {
                            ifindex,
                            facts: Box::new(facts),
                        }),
                        Err(_) => Outcome::Nothing,
                    }
                });
            }
            Effect::TakeOver => self.take_over(),
            Effect::SetFixesPeers(fixes_peers) => self.attacher.set_fixes_peers(fixes_peers),
            Effect::Drop(remains) => self.dropper.drop(remains),
            Effect::RetryHeld => {
                let now = Instant::now();
                self.with_exceptions(|exceptions, view| exceptions.retry_all_held(view, now));
            }
            Effect::Upgrade { token, peer } => {
                info!(pid = peer.pid, uid = peer.uid, "trying the program's file");
                self.run(async move {
                    let tried = tokio::task::spawn_blocking(upgrade::try_file).await;
                    Outcome::FileTried(token, tried.unwrap_or_else(|error| Err(error.to_string())))
                });
            }
            Effect::Ready => {
                self.is_ready = true;
                if let Some(saving) = &self.saving {
                    saving.store.ready();
                }
            }
            Effect::Failed(error) => {
                self.failure = Some(error);
                self.stopping = true;
            }
            Effect::ReadRoutes => self.run(async move {
                let read = tokio::task::spawn_blocking(audit::read_routes);
                let result = read.await.map_err(|error| error.to_string()).flatten();
                Outcome::Input(Input::RoutesRead(result))
            }),
            Effect::Resync => self.netlink.resync(),
            Effect::AskFrr => {
                if let Some(frr) = &self.frr {
                    frr.hint();
                }
            }
            Effect::Stop => {
                self.stopping = true;
                self.unloads = true;
            }
        }
    }

    /// Reports an event to the clients that watch.
    fn tell(&mut self, event: events::Event) {
        let is_route = event.kind() == EventKind::Route;
        let told = self.monitor.tell(event);
        if is_route {
            // It may have the last reference to a million of them.
            self.dropper.drop(Box::new(told));
        }
        self.follow_watchers();
    }

    /// Has the switch report what clients want, and nothing else.
    fn follow_watchers(&mut self) {
        let kinds = self.monitor.kinds();
        if kinds != self.switch.watched() {
            self.switch.watch(kinds);
            self.exceptions.watch(kinds.contains(EventKind::Exception));
        }
    }

    /// A client wants to capture.
    fn capture(&mut self, token: Token, tap: Tap) {
        let gone = tap.clone();
        self.run(async move {
            gone.gone().await;
            Outcome::CaptureEnded
        });
        self.captures.taps.push(tap);
        self.captures.waiting.push(token);
        match &self.captures.passing {
            Some(_) => self.set_captured(),
            None if self.captures.begins => {}
            None => {
                self.captures.begins = true;
                let begun = self.attacher.clone().begin_capture();
                self.run(async move { Outcome::CaptureBegun(begun.await) });
            }
        }
        self.answer_captures();
    }

    fn capture_begun(&mut self, begun: Result<(CaptureRing, CaptureFilters), PortError>) {
        self.captures.begins = false;
        let unknown = self.switch.config().unknown.into();
        let begun = begun.map_err(|error| error::report(&error));
        let passing =
            begun.and_then(|(ring, filters)| Passing::start(ring, filters, unknown).map_err(|error| error.to_string()));
        match passing {
            Ok(passing) => self.captures.passing = Some(passing),
            Err(reason) => return self.refuse_captures(&reason),
        }
        self.set_captured();
        let numbers: Vec<u16> = self.attachments.keys().copied().collect();
        for number in numbers {
            self.reprogram(number);
        }
        self.follow_taps();
        self.answer_captures();
    }

    /// Gives a port a program that captures, or one that does not, if it has the other one.
    fn reprogram(&mut self, number: u16) {
        let captures = self.captures.passing.is_some();
        let is_other = |own: &Attachment| own.captures() != captures && !own.is_changing();
        let is_other = self.attachments.get(&number).is_some_and(is_other);
        if let (true, Some(settings)) = (is_other, self.switch.ports().settings_now(number)) {
            if captures {
                self.captures.awaited.insert(number);
            }
            let program = self.attacher.clone().program(settings);
            self.run(async move { Outcome::Reprogram(number, program.await) });
        }
    }

    /// The program that a port is to have is loaded. Replacing the old one may wait for the kernel's RTNL lock.
    fn put_program(&mut self, number: u16, program: Result<Program, PortError>) {
        let captures = self.captures.passing.is_some();
        let is_lost = self.switch.ports().is_program_lost(number);
        let Some(attachment) = self.attachments.get_mut(&number) else {
            return self.reprogrammed(number, Err("the port is gone".to_owned()));
        };
        let takeover = match program {
            // It was loaded before a capture began or ended.
            Ok(program) if program.captures() != captures => return self.reprogram(number),
            Ok(program) if is_lost => {
                attachment.replace_later(program);
                None
            }
            Ok(program) => attachment.change(program),
            Err(error) => return self.reprogrammed(number, Err(error::report(&error))),
        };
        let Some(takeover) = takeover else {
            self.captures.awaited.remove(&number);
            return self.answer_captures();
        };
        self.run(async move {
            let done = tokio::task::spawn_blocking(move || takeover.perform());
            let done = match done.await {
                Ok(done) => done.map_err(|error| error::report(&error)),
                Err(error) => Err(error.to_string()),
            };
            Outcome::Reprogrammed(number, done)
        });
    }

    fn reprogrammed(&mut self, number: u16, done: Result<TakenOver, String>) {
        self.captures.awaited.remove(&number);
        if let Some(attachment) = self.attachments.get_mut(&number) {
            match done {
                Ok(taken) => {
                    attachment.taken_over(taken);
                    let result = Ok(program_ids(attachment));
                    self.handle(Input::Replaced { number, result });
                }
                Err(error) => {
                    // If the interface has lost its program, the watch finds that.
                    attachment.not_taken_over();
                    let port = self.switch.ports().name(number).unwrap_or_default();
                    let reason = format!("cannot change the program of {port}: {error}");
                    warn!("{reason}");
                    self.refuse_captures(&reason);
                }
            }
        }
        // A capture may have begun or ended meanwhile.
        self.reprogram(number);
        self.answer_captures();
    }

    /// Answers clients whose captures have begun.
    fn answer_captures(&mut self) {
        if self.captures.passing.is_some() && self.captures.awaited.is_empty() {
            for token in std::mem::take(&mut self.captures.waiting) {
                self.reply(token, Ok(Reply::Done));
            }
        }
    }

    fn refuse_captures(&mut self, reason: &str) {
        for token in std::mem::take(&mut self.captures.waiting) {
            let refusal = Refusal::CaptureRefused {
                reason: reason.to_owned(),
            };
            self.reply(token, Err(refusal));
        }
    }

    /// Clients have gone. With the last one, ports get programs that do not capture.
    fn follow_taps(&mut self) {
        self.captures.taps.retain(|tap| !tap.is_gone());
        self.set_captured();
        if self.captures.taps.is_empty() && self.captures.passing.take().is_some() {
            self.captures.awaited.clear();
            self.attacher.end_capture();
            let numbers: Vec<u16> = self.attachments.keys().copied().collect();
            for number in numbers {
                self.reprogram(number);
            }
        }
    }

    /// Has the programs capture what clients want, by the ports as they are now.
    fn set_captured(&mut self) {
        let Some(passing) = &mut self.captures.passing else {
            return;
        };
        let ports = self.switch.ports();
        let (mut names, mut programs) = (HashMap::new(), HashMap::<u16, BTreeSet<Arc<str>>>::new());
        for port in ports.iter() {
            let name: Arc<str> = port.name().into();
            if let Some(program) = ports.program_port(port) {
                programs.entry(program.number()).or_default().insert(Arc::clone(&name));
            }
            names.insert(port.number(), name);
        }
        let taps = self.captures.taps.clone();
        passing.set(News { taps, names }, &programs);
    }

    /// Replies with what would happen to a frame. The kernel is asked first, if the program would ask it.
    fn trace(&mut self, token: Token, port: u16, frame: Vec<u8>, fib: Option<FibAnswer>) {
        let traced = self.with_exceptions(|exceptions, view| Traced::of(&frame, port, fib, exceptions, view));
        match traced.unanswered() {
            Some(question) => {
                let netlink = self.netlink.clone();
                self.run(async move {
                    let answer = netlink.fib_lookup(&question).await.unwrap_or_else(|error| {
                        warn!(%error, "a frame is traced without the kernel's answer");
                        None
                    });
                    Outcome::FibAsked(token, port, frame, answer)
                });
            }
            None => {
                let trace = traced.explain(&self.switch);
                self.reply(token, Ok(Reply::Trace(Box::new(trace))));
            }
        }
    }

    fn run(&mut self, future: impl Future<Output = Outcome> + 'static) {
        self.running.push(Box::pin(future));
    }

    fn reply(&mut self, token: Token, mut result: Result<Reply, Refusal>) {
        if let (Ok(Reply::Sync(sources)), Some(fpm)) = (&mut result, &self.fpm) {
            let fed = sources.iter_mut().filter(|source| source.source == Source::Fpm.name());
            fed.for_each(|source| source.server = Some(fpm.status().into()));
        }
        match (&mut result, &self.frr) {
            (Ok(Reply::Sync(sources)), Some(frr)) => {
                for source in sources.iter_mut().filter(|source| source.source == FRR) {
                    let (state, vty) = frr.status();
                    (source.state, source.vty) = (state, Some(vty));
                }
            }
            (Ok(Reply::Status(status)), Some(frr)) => status.frr_stale_seconds = frr.stale_seconds(),
            _ => {}
        }
        if let (Ok(Reply::Status(status)), Some(saving)) = (&mut result, &self.saving) {
            status.state = Some(reports::state(saving.store.status()));
        }
        let Some(answer) = self.answers.remove(&token) else {
            return;
        };
        // The client may be gone; its request is carried out anyway.
        match &self.saving {
            Some(saving) if is_about_change(&result) => saving.store.then(move || drop(answer.send(result))),
            _ => drop(answer.send(result)),
        }
    }

    /// Opens sockets for a port's exceptions on all queues. Retries a busy queue for a while.
    fn try_to_listen(&mut self, number: u16, name: Arc<str>, mut patience: Patience) {
        let result = self.listen_everywhere(number, &name);
        let is_busy = result.as_ref().is_err_and(PortError::is_busy);
        let due = patience.next(Instant::now()).filter(|_| is_busy);
        self.run(async move {
            match due {
                Some(due) => {
                    tokio::time::sleep_until(due.into()).await;
                    Outcome::ListenAgain(number, name, patience)
                }
                None => port_event(PortEvent::Listening(result)),
            }
        });
    }

    fn listen_everywhere(&mut self, number: u16, name: &str) -> Result<(), PortError> {
        let queues = attach::queues(name, ports::Role::Switching)?;
        let receiver = self.exceptions.receiver_mut(number);
        let receiver = receiver.ok_or_else(|| PortError::NoSockets { name: name.into() })?;
        receiver.extend(name, queues)?;
        for (queue, socket) in receiver.sockets() {
            self.switch.tables_mut().set_listener(number, queue, socket)?;
        }
        Ok(())
    }

    /// Reopens the sockets of ports that went down with frames queued: those frames must not leave when the port comes
    /// up again, which may already have happened.
    fn discard_unsent(&mut self, down: &BTreeSet<u32>) {
        for number in self.with_exceptions(|exceptions, view| exceptions.stale_ports(view, down)) {
            self.exceptions.remove_port(number);
            if let Some(port) = self.switch.ports().get(number) {
                let (name, role) = (port.name().to_owned(), port.role());
                self.run(async move { Outcome::Sockets(number, attach::open_sockets(&name, role).await) });
            }
        }
    }

    fn put_back(&mut self, number: u16, ifindex: u32, name: Arc<str>) {
        let Some(attachment) = self.attachments.get_mut(&number) else {
            return;
        };
        let Err(error) = attachment.put_back() else {
            let result = Ok(program_ids(attachment));
            return self.run(async move { Outcome::Input(Input::PutBack { number, result }) });
        };
        let obstacle = self.attacher.clone().obstacle(name, ifindex, error);
        self.run(async move {
            let result = Err(match obstacle.await {
                None => NotPutBack::Gone,
                Some(error) => NotPutBack::Refused {
                    held: matches!(error, PortError::Preflight(PreflightError::OtherProgram { .. })),
                    reason: error::report(&error),
                },
            });
            Outcome::Input(Input::PutBack { number, result })
        });
    }

    /// Another process has removed the pins of these links, or unmounted the bpffs.
    fn pin_again(&mut self, unpinned: &[(u16, u32)]) {
        let mut problem = None;
        for &(number, link_id) in unpinned {
            let Some(pinned) = self.attachments.get(&number).and_then(|own| own.pin_again(link_id)) else {
                continue;
            };
            match pinned {
                Ok(()) => warn!(
                    port = self.switch.ports().name(number),
                    "another process has removed the pin of this port's link, or the bpffs; it is pinned again"
                ),
                Err(error) => problem = Some(error::report(&error)),
            }
        }
        if let (None, Some(persistence)) = (&problem, &self.persistence) {
            for &ifindex in &self.crossed {
                adoption::note_promiscuous(&persistence.folder, ifindex);
            }
        }
        if let Some(problem) = &problem
            && self.unpinned.as_ref() != Some(problem)
        {
            error!("ports do not go on forwarding when this process ends, because their pins are gone: {problem}");
        }
        self.unpinned = problem;
    }

    fn left_pair(&self) -> LeftPair {
        match self.persistence {
            Some(_) => LeftPair::Adopt,
            None => LeftPair::Replace,
        }
    }

    fn take_over(&mut self) {
        let Some(persistence) = self.persistence.clone() else {
            return;
        };
        self.takes_over = true;
        let awaiting = self
            .attachments
            .iter()
            .filter(|(_, attachment)| attachment.awaits_takeover());
        let takeovers: Vec<_> = awaiting
            .map(|(&number, attachment)| (number, attachment.takeover()))
            .collect();
        let adopted = self.attachments.values().map(|attachment| attachment.link_id).collect();
        let (instance, netlink) = (self.switch.config().instance.clone(), self.netlink.clone());
        let pair = self.switch.local().cloned();
        self.run(async move {
            let taken = tokio::task::spawn_blocking(move || {
                let perform = |(number, takeover): &(u16, Takeover)| (*number, takeover.perform());
                let taken = takeovers.iter().map(perform).collect::<Vec<_>>();
                let rest = persistence.take_rest(&adopted);
                persistence.release(&rest);
                (taken, rest.iter().map(|pinned| pinned.state.ifindex).collect())
            });
            let (taken, were_ports) = taken.await.unwrap_or_default();
            match LocalPair::remove_others(&instance, pair.as_ref(), &netlink).await {
                Ok(removed) => removed
                    .iter()
                    .for_each(|name| info!("removed {name}, a local port of before")),
                Err(error) => warn!(%error, "cannot remove a local port of before"),
            }
            Outcome::TakenOver(taken, were_ports)
        });
    }

    fn taken_over(&mut self, taken: Vec<(u16, Result<TakenOver, AttachError>)>, were_ports: Vec<u32>) {
        let (mut programs, mut failed) = (Vec::new(), Vec::new());
        for (number, result) in taken {
            let Some(attachment) = self.attachments.get_mut(&number) else {
                continue;
            };
            match result {
                Ok(taken) => {
                    attachment.taken_over(taken);
                    programs.push((number, program_ids(attachment)));
                }
                // The watch finds that the program is not there, and puts it back when that is possible.
                Err(error) => {
                    attachment.not_taken_over();
                    failed.push(number);
                    let name = self.switch.ports().name(number);
                    let error = error::report(&error);
                    error!(
                        port = name,
                        "cannot put the program in the place of the one of before: {error}"
                    );
                }
            }
        }
        self.handle(Input::TakenOver {
            programs,
            failed,
            were_ports,
        });
        // Interfaces whose frames went through cross-connects of the dead process, and do not any more.
        let left = self
            .persistence
            .as_ref()
            .map(|persistence| persistence.take_promiscuous());
        let still = self.crossed.clone();
        self.crossed.extend(left.unwrap_or_default());
        self.receive_all(still);
    }

    /// Whether the ports go on forwarding when this process ends. One that has not started yet leaves what was there
    /// before.
    fn stays(&self) -> bool {
        let has_started = self.is_ready || self.takes_over;
        self.persistence.is_some() && has_started && !self.unloads && self.failure.is_none()
    }

    /// Frames go through a cross-connect whatever station they are for. With `--persist`, also when this process has ended.
    fn receive_all(&mut self, crossed: BTreeSet<u32>) {
        let changed: Vec<u32> = crossed.symmetric_difference(&self.crossed).copied().collect();
        for ifindex in changed {
            let on = crossed.contains(&ifindex);
            if let Some(persistence) = &self.persistence {
                let (persistence, netlink) = (Arc::clone(persistence), self.netlink.clone());
                self.requests.push(async move {
                    let set = adoption::set_promiscuous(&persistence.folder, &netlink, ifindex, on).await;
                    if let Err(error) = set {
                        warn_of_promiscuity(ifindex, on, &error);
                    }
                    Outcome::Nothing
                });
            } else if let Err(error) = self.promiscuity.set(ifindex, on) {
                warn_of_promiscuity(ifindex, on, &error);
            }
        }
        self.crossed = crossed;
    }

    /// Gives the slow path a view of what it may know.
    fn with_exceptions<R>(&mut self, work: impl FnOnce(&mut Exceptions, &View<'_>) -> R) -> R {
        let config = self.switch.config();
        let view = View {
            tables: self.switch.tables(),
            ports: self.switch.ports(),
            links: self.switch.links(),
            addresses: self.switch.addresses(),
            routes: self.switch.kernel_routes(),
            next_hops: self.switch.next_hops(),
            source_v4: config.icmp_source_v4,
            source_v6: config.icmp_source_v6,
        };
        work(&mut self.exceptions, &view)
    }

    /// Detaches, then releases the kernel's neighbours. Maps and programs disappear with this process. With `--persist`
    /// they do only if the instance is unloaded.
    async fn shut_down(&mut self) {
        // A local pair that is being created is finished first, so that it can be removed.
        let unfinished = self.requests.finish().await;
        for outcome in unfinished {
            if let Outcome::LocalCreated(Ok(pair)) = outcome
                && !pair.is_adopted()
            {
                remove_local(pair, &self.netlink).await;
            }
        }
        match &self.persistence {
            Some(_) if self.stays() => {}
            // It could not be started, and a dead process's programs forward as before.
            Some(persistence) if persistence.adopts() => {
                self.attachments.drain().for_each(|(_, attachment)| attachment.remove());
                if let Some(pair) = self.switch.local().filter(|pair| !pair.is_adopted()) {
                    remove_local(pair.clone(), &self.netlink).await;
                }
            }
            _ => self.handle(Input::ShutDown),
        }
        self.exceptions.clear();
        self.requests.finish().await;
        if let Some(persistence) = &self.persistence {
            persistence.folder.remove();
        }
        if let Some(saving) = self.saving.take() {
            saving.store.stop(!self.unloads);
        }
    }
}

/// One that is gone needs no more.
fn warn_of_promiscuity(ifindex: u32, on: bool, error: &(dyn std::error::Error + 'static)) {
    if on {
        warn!(
            ifindex,
            error, "a cross-connected interface does not receive frames for other stations"
        );
    }
}

async fn remove_local(pair: LocalPair, netlink: &Netlink) {
    if let Err(error) = pair.remove(netlink).await {
        warn!(%error, "cannot remove the local interface");
    }
}

fn port_event(event: PortEvent) -> Outcome {
    Outcome::Input(Input::Port(event))
}

fn program_ids(attachment: &Attachment) -> ProgramIds {
    ProgramIds {
        link_id: attachment.link_id,
        program_id: attachment.program_id,
    }
}

/// Whether the reply says that something was changed, which must be saved then.
fn is_about_change(result: &Result<Reply, Refusal>) -> bool {
    matches!(result, Ok(Reply::Changed(_) | Reply::Committed(_) | Reply::Done))
}

/// Adds the settings that keep packets left to the kernel from getting through.
fn with_warnings(mut reply: Reply, situation: &Situation) -> Reply {
    let warnings = situation.warnings(sysctl::read);
    match &mut reply {
        Reply::Changed(changed) => changed.warnings = warnings,
        Reply::Committed(committed) => committed.warnings = warnings,
        _ => {}
    }
    reply
}

/// A number that other routers are unlikely to have, from the standard library's hashers.
fn random_seed() -> u32 {
    std::hash::RandomState::new().hash_one(()) as u32
}

/// Waits for ever if there is no deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// Never returns if the kernel does not report it.
async fn next_feature_change(changes: &mut Option<FeatureChanges>) -> Option<u32> {
    match changes {
        Some(changes) => changes.next().await,
        None => pending().await,
    }
}

/// Never returns if no settings are followed.
async fn next_ttl(settings: &mut Option<TtlSettings>) -> TtlDefaults {
    match settings {
        Some(settings) => settings.next().await,
        None => pending().await,
    }
}

/// Never returns if there are no metrics.
async fn next_probe(probes: &mut Option<mpsc::Receiver<Instant>>) -> Option<Instant> {
    match probes {
        Some(probes) => probes.recv().await,
        None => pending().await,
    }
}

/// Never returns if nothing is saved.
async fn next_request(saving: &mut Option<Saving>) -> Option<state::Request> {
    match saving {
        Some(saving) => saving.requests.recv().await,
        None => pending().await,
    }
}

/// Never returns if no routing daemon is followed.
async fn next_feed_event(fpm: &Option<Fpm>) -> FeedEvent {
    match fpm {
        Some(fpm) => fpm.next().await,
        None => pending().await,
    }
}

/// Never returns if FRR is not asked.
async fn next_frr_answer(frr: &mut Option<Frr>) -> FrrAnswer {
    match frr {
        Some(frr) => frr.next().await,
        None => pending().await,
    }
}

/// The server for a routing daemon, if the configuration names one.
fn listen_for_fpm(config: &Config) -> Result<Option<Fpm>, ListenError> {
    let Some(address) = config.sync.iter().find_map(|source| source.fpm_address()) else {
        return Ok(None);
    };
    let fpm = Fpm::listen(address, config.sync_quiet.get())?;
    if !address.ip().is_loopback() {
        warn!(
            "every host that can reach {address} can add and delete routes, because FPM has no authentication: let only \
             the routing daemon's host through a firewall, or listen on 127.0.0.1"
        );
    }
    Ok(Some(fpm))
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

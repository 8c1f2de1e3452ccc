//! What an instance is and has counted at one moment, gathered by requests to the switch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::process::Process;
use super::times::{Counted, LoopTimes};
use crate::control::api::{self, Reply, Request};
use crate::control::server::{Counts, MethodCounts};
use crate::control::{Call, Peer};
use crate::route::filter::RouteFilter;

/// How much of a list the switch returns at once: less than for clients, because nobody waits for metrics.
const CHUNK: usize = 200;
/// More next hops are only counted by state: each has series of its own.
pub const MAX_NEXT_HOPS: usize = 4096;

/// Everything that metrics are made of.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub status: Option<Box<api::Status>>,
    pub links: Vec<api::Link>,
    pub stats: api::Stats,
    /// All of them.
    pub next_hops: Vec<api::NextHopState>,
    pub sources: Vec<api::SyncSource>,
    pub rings: Vec<api::Ring>,
    /// The first routes that are counted, in the order of their keys.
    pub routes: Vec<RouteCount>,
    pub has_more_routes: bool,
    pub control: MethodCounts,
    pub held: Counted,
    pub delay: Counted,
    pub process: Option<Process>,
    pub refused: u64,
    /// How long it took to gather this.
    pub took: Duration,
}

/// The key of a route, and what it has forwarded.
#[derive(Debug)]
pub struct RouteCount {
    pub key: api::Key,
    pub counter: api::Counter,
}

/// Where snapshots come from.
#[derive(Debug)]
pub struct Source {
    calls: mpsc::Sender<Call>,
    times: Arc<LoopTimes>,
    control: Arc<Counts>,
    /// How many routes have metrics at most.
    routes: usize,
    /// Connections of clients that may not connect.
    pub(super) refused: AtomicU64,
}

/// The switch does not answer any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the instance is ending")]
pub struct Ending;

impl Source {
    /// `calls` leads to the switch. `routes`: how many of them have metrics at most.
    pub fn new(calls: mpsc::Sender<Call>, times: Arc<LoopTimes>, control: Arc<Counts>, routes: u32) -> Self {
        Self {
            calls,
            times,
            control,
            routes: routes as usize,
            refused: AtomicU64::new(0),
        }
    }

    pub(super) async fn gather(&self) -> Result<Snapshot, Ending> {
        let begin = Instant::now();
        let mut snapshot = Snapshot::default();
        if let Reply::Status(status) = self.ask(Request::GetStatus).await? {
            snapshot.status = Some(status);
        }
        if let Reply::Links(links) = self.ask(Request::ListLinks { counters: true }).await? {
            snapshot.links = links;
        }
        if let Reply::Stats(stats) = self.ask(Request::GetStats { all: true }).await? {
            snapshot.stats = stats;
        }
        if let Reply::Sync(sources) = self.ask(Request::GetSync).await? {
            snapshot.sources = sources;
        }
        if let Reply::Rings(rings) = self.ask(Request::GetRings).await? {
            snapshot.rings = rings;
        }
        let mut after = None;
        loop {
            let (limit, counters) = (CHUNK, false);
            match self.ask(Request::ListNeighbors { after, limit, counters }).await? {
                Reply::Neighbors { neighbors, last } => {
                    snapshot.next_hops.extend(neighbors);
                    after = last;
                }
                _ => break,
            }
            if after.is_none() {
                break;
            }
        }
        self.gather_routes(&mut snapshot).await?;
        let process = Process::read().inspect_err(|error| warn!(%error, "metrics are without those of the process"));
        snapshot.process = process.ok();
        snapshot.control = self.control.read();
        (snapshot.held, snapshot.delay) = (self.times.held.read(), self.times.delay.read());
        snapshot.refused = self.refused.load(Relaxed);
        snapshot.took = begin.elapsed();
        Ok(snapshot)
    }

    async fn gather_routes(&self, snapshot: &mut Snapshot) -> Result<(), Ending> {
        let mut after = None;
        while snapshot.routes.len() < self.routes {
            let request = Request::ListRoutes {
                filter: RouteFilter::default(),
                after,
                limit: CHUNK,
                counters: true,
            };
            let Reply::Routes { routes, after: last } = self.ask(request).await? else {
                break;
            };
            snapshot.routes.extend(routes.into_iter().filter_map(|installed| {
                let api::Route {
                    label,
                    prefix,
                    attachment,
                    table,
                    ..
                } = installed.route;
                let key = api::Key {
                    label,
                    prefix,
                    attachment,
                    table,
                };
                Some(RouteCount {
                    key,
                    counter: installed.counter?,
                })
            }));
            snapshot.has_more_routes = last.is_some();
            after = last;
            if after.is_none() {
                break;
            }
        }
        snapshot.has_more_routes |= snapshot.routes.len() > self.routes;
        snapshot.routes.truncate(self.routes);
        Ok(())
    }

    async fn ask(&self, request: Request) -> Result<Reply, Ending> {
        let (reply, answer) = oneshot::channel();
        let peer = Peer {
            pid: std::process::id().cast_signed(),
            uid: nix::unistd::geteuid().as_raw(),
        };
        let call = Call { request, peer, reply };
        self.calls.send(call).await.map_err(|_| Ending)?;
        // These requests are not refused.
        answer.await.map_err(|_| Ending)?.map_err(|_| Ending)
    }
}

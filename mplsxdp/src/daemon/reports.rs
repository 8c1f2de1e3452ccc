//! Reports of the switch together with what only the process knows. None of it holds the event loop: tasks ask the
//! kernel, and a thread reads the counters of a million routes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_packet_route::link::Stats64;
use tokio::sync::Semaphore;
use tracing::warn;

use super::Answer;
use super::exceptions::Exceptions;
use crate::control::api;
use crate::dataplane::TableError;
use crate::dataplane::kernel::CounterReaders;
use crate::kernel::{NeighbourEntry, Netlink};
use crate::lfib::counters::{CountedAt, Total};
use crate::lfib::next_hops::Position;
use crate::observe::busiest::{self, Growth};
use crate::observe::routes::add_counters;
use crate::observe::{reasons, stats};
use crate::ports::Ports;
use crate::slowpath::outcome::Outcome;
use crate::state::StoreStatus;

/// How routes and ports are saved.
pub fn state(status: StoreStatus) -> api::SavedState {
    let (since, failure) = status.failure.unzip();
    api::SavedState {
        directory: status.dir.display().to_string(),
        snapshot_bytes: status.snapshot_bytes,
        journal_bytes: status.journal_bytes,
        failure,
        failing_since: since.map(|since| humantime::format_rfc3339_seconds(since).to_string()),
    }
}

/// Replies with next hops and their entries in the kernel's neighbour table.
pub async fn neighbors(
    answer: Answer,
    states: Vec<(Option<(u32, IpAddr)>, api::NextHopState)>,
    last: Option<Position>,
    netlink: Netlink,
) {
    let entries = netlink.neighbours().await.unwrap_or_else(|error| {
        warn!(%error, "next hops are listed without the kernel's neighbour entries");
        HashMap::new()
    });
    let neighbors = states
        .into_iter()
        .map(|(entry, state)| api::NextHopState {
            kernel: entry.and_then(|entry| entries.get(&entry)).map(kernel_neighbor),
            ..state
        })
        .collect();
    // The client may be gone.
    let _ = answer.send(Ok(api::Reply::Neighbors { neighbors, last }));
}

/// Replies with ports, their counters (by port number) and the kernel's.
pub async fn links(
    answer: Answer,
    mut links: Vec<api::Link>,
    numbers: Vec<Option<u16>>,
    readers: Arc<CounterReaders>,
    netlink: Netlink,
) {
    let read = tokio::task::spawn_blocking(move || {
        for (link, number) in links.iter_mut().zip(numbers) {
            let of_port = |number| {
                reasons::of_port(number, &link.ifname, false, |first, count| {
                    readers.reasons.read(first, count)
                })
            };
            link.counters = Some(api::LinkCounters {
                kernel: None,
                reasons: number.map_or_else(Vec::new, of_port),
            });
        }
        links
    });
    let Ok(mut links) = read.await else { return };
    for link in &mut links {
        let Some(ifindex) = link.ifindex else { continue };
        let read = netlink.link_counters(ifindex).await;
        let kernel = read.unwrap_or_else(|error| {
            warn!(%error, "a port is listed without the kernel's counters");
            None
        });
        if let Some(counters) = &mut link.counters {
            counters.kernel = kernel.map(kernel_counters);
        }
    }
    let _ = answer.send(Ok(api::Reply::Links(links)));
}

/// Replies with routes and their counters.
pub fn routes(answer: Answer, mut reply: api::Reply, counted_at: Vec<Option<CountedAt>>, readers: Arc<CounterReaders>) {
    tokio::task::spawn_blocking(move || {
        let routes = match &mut reply {
            api::Reply::Routes { routes, .. } => routes.as_mut_slice(),
            api::Reply::Route(route) => std::slice::from_mut(route.as_mut()),
            _ => &mut [],
        };
        add_counters(routes, &counted_at, |first, count| {
            Ok::<_, TableError>(readers.routes.read(first, count))
        });
        let _ = answer.send(Ok(reply));
    });
}

/// The slots of routes that grow most within `time`, and how long that was. Two tables of all counters are in memory
/// meanwhile, so `turns` are few.
pub async fn busiest(
    count: usize,
    time: Duration,
    order: api::BusyOrder,
    readers: Arc<CounterReaders>,
    turns: Arc<Semaphore>,
) -> (Vec<Growth>, Duration) {
    let _turn = turns.acquire_owned().await;
    let read = |readers: Arc<CounterReaders>| {
        tokio::task::spawn_blocking(move || (Instant::now(), readers.routes.read(0, u32::MAX)))
    };
    let Ok((began, before)) = read(Arc::clone(&readers)).await else {
        return (Vec::new(), time);
    };
    tokio::time::sleep(time).await;
    let Ok((ended, after)) = read(readers).await else {
        return (Vec::new(), time);
    };
    let found = tokio::task::spawn_blocking(move || busiest::busiest(&before, &after, count, order));
    (found.await.unwrap_or_default(), ended - began)
}

/// Replies with what ports did not forward and what routes forwarded.
pub fn stats(
    answer: Answer,
    stats: api::Stats,
    ports: Vec<(u16, String)>,
    all: bool,
    total: Arc<Total>,
    readers: Arc<CounterReaders>,
) {
    tokio::task::spawn_blocking(move || {
        let stats = api::Stats {
            reasons: stats::reasons(&ports, all, |first, count| readers.reasons.read(first, count)),
            forwarded: stats::forwarded(&total, |first, count| {
                Ok::<_, TableError>(readers.routes.read(first, count))
            }),
            ..stats
        };
        let _ = answer.send(Ok(api::Reply::Stats(stats)));
    });
}

/// What happened to the frames that the slow path got: outcomes that were seen, or `all`.
pub fn outcomes(exceptions: &Exceptions, all: bool) -> Vec<api::Outcome> {
    let counters = exceptions.counters();
    let outcomes = Outcome::ALL
        .iter()
        .map(|&outcome| (outcome.name(), outcome.description(), counters.get(outcome)));
    // The slow path does not see what its sockets lost.
    let missed = (
        "missed",
        "Dropped: it came faster than the slow path took it.",
        exceptions.missed(),
    );
    outcomes
        .chain([missed])
        .filter(|&(.., packets)| all || packets > 0)
        .map(|(name, description, packets)| api::Outcome {
            name: name.to_owned(),
            description: description.to_owned(),
            packets,
        })
        .collect()
}

pub fn unknown_labels(exceptions: &Exceptions, ports: &Ports, now: Instant) -> Vec<api::UnknownLabel> {
    let labels = exceptions.unknown_labels(now).into_iter();
    labels
        .map(|seen| api::UnknownLabel {
            port: ports.name(seen.port).unwrap_or("(gone)").to_owned(),
            label: seen.label.get(),
            packets: seen.frames,
            rate_pps: seen.frames_per_second,
            idle_seconds: seen.idle.as_secs_f64(),
        })
        .collect()
}

/// The AF_XDP sockets of all ports, in the order of ports and queues.
pub fn rings(exceptions: &Exceptions, ports: &Ports) -> Vec<api::Ring> {
    let mut rings: Vec<_> = exceptions.statistics().collect();
    rings.sort_by_key(|&(port, queue, _)| (port, queue));
    let rings = rings.into_iter().filter_map(|(port, queue, counted)| {
        Some(api::Ring {
            port: ports.name(port)?.to_owned(),
            queue,
            received: counted.received,
            ring_full: counted.ring_full,
            dropped: counted.dropped,
            fill_ring_empty: counted.fill_ring_empty,
        })
    });
    rings.collect()
}

fn kernel_neighbor(entry: &NeighbourEntry) -> api::KernelNeighbor {
    api::KernelNeighbor {
        state: entry.state.clone(),
        refcnt: entry.refcnt,
        used: entry.used,
        confirmed: entry.confirmed,
        updated: entry.updated,
        probes: entry.probes,
    }
}

fn kernel_counters(stats: Stats64) -> api::KernelCounters {
    api::KernelCounters {
        rx_bytes: stats.rx_bytes,
        rx_packets: stats.rx_packets,
        rx_errors: stats.rx_errors,
        rx_dropped: stats.rx_dropped,
        rx_missed: stats.rx_missed_errors,
        rx_over: stats.rx_over_errors,
        multicast: stats.multicast,
        tx_bytes: stats.tx_bytes,
        tx_packets: stats.tx_packets,
        tx_errors: stats.tx_errors,
        tx_dropped: stats.tx_dropped,
        tx_carrier: stats.tx_carrier_errors,
        collisions: stats.collisions,
    }
}

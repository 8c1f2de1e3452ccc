//! `Monitor`: sends a client what happens, until it hangs up. Everything that takes time is done here, in the client's
//! task, and at the client's pace.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::MissedTickBehavior;

use super::connection::{Connection, Failure};
use super::encode;
use crate::control::api::{self, Error, EventChange, EventKind, Reply, Request};
use crate::control::call::{Flags, Monitor};
use crate::control::events::{self, Event, Next, Timed, Watching};
use crate::lfib::{Installs, Made, MadeRoute};
use crate::route::{Owner, Route};
use crate::slowpath::packet::{self, entries};

/// How many events are sent in one reply, and for how many paths of routes the switch is asked at once, so that a large
/// change does not hold it up.
const TOGETHER: usize = 256;
/// Dropping more routes takes longer than other clients should wait.
const MANY_ROUTES: usize = 4096;

/// A reply that others follow.
#[derive(Serialize)]
struct Continued<'a> {
    parameters: &'a api::Events,
    continues: bool,
}

impl Connection {
    /// Ends with an error in any case.
    pub(super) async fn monitor(&mut self, monitor: Monitor, flags: Flags) -> Result<Vec<u8>, Failure> {
        if !flags.more {
            return Err(Error::ExpectedMore {}.into());
        }
        let (watcher, mut watching) = events::watch(monitor.kinds);
        let mut rates = match monitor.kinds.contains(EventKind::Rate) {
            true => Some(Rates::begin(monitor.interval, self).await?),
            false => None,
        };
        self.ask(Request::Monitor { watcher }).await?;
        // The client knows now that it misses nothing.
        self.send_events(api::Events::default()).await?;
        loop {
            self.is_waiting();
            let happened = tokio::select! {
                hung_up = until_hung_up(&mut self.stream) => return Err(hung_up),
                () = self.shutdown.cancelled() => Next::End,
                next = watching.next() => next,
                () = tick(&mut rates) => {
                    if let Some(rates) = &mut rates {
                        let events = rates.read(self).await?;
                        self.send_events(api::Events { lost: None, events }).await?;
                    }
                    continue;
                }
            };
            self.pass_on(happened, &mut watching).await?;
        }
    }

    /// Sends what has happened, and what has happened since, if it is there.
    async fn pass_on(&mut self, first: Next, watching: &mut Watching) -> Result<(), Failure> {
        let mut events = Vec::new();
        let mut next = Some(first);
        while let Some(happened) = next {
            match happened {
                Next::Event(timed) => match &timed.event {
                    Event::Routes(made) => {
                        self.send_and_clear(&mut events).await?;
                        self.send_routes(timed.time, made).await?;
                        watching.done(&timed);
                        drop_elsewhere(timed);
                    }
                    _ => events.push(event(&timed)),
                },
                Next::Lost(lost) => {
                    self.send_and_clear(&mut events).await?;
                    let (lost, events) = (Some(lost), Vec::new());
                    self.send_events(api::Events { lost, events }).await?;
                }
                Next::End => {
                    self.send_and_clear(&mut events).await?;
                    return Err(Error::ShuttingDown {}.into());
                }
            }
            next = match events.len() {
                TOGETHER.. => None,
                _ => watching.try_next(),
            };
        }
        self.send_and_clear(&mut events).await
    }

    async fn send_and_clear(&mut self, events: &mut Vec<api::Event>) -> Result<(), Failure> {
        match std::mem::take(events) {
            none if none.is_empty() => Ok(()),
            events => self.send_events(api::Events { lost: None, events }).await,
        }
    }

    async fn send_events(&mut self, events: api::Events) -> Result<(), Failure> {
        let reply = encode(&Continued {
            parameters: &events,
            continues: true,
        })?;
        // The client may be a person who reads, with a pager.
        let time = self.limits.idle;
        Ok(self.send_within(time, &reply).await?)
    }

    /// Sends the routes of a change, with their states as they are now.
    async fn send_routes(&mut self, time: SystemTime, made: &Made) -> Result<(), Failure> {
        let mut at = 0;
        while at < made.len() {
            let begin = at;
            let (mut installed, mut paths) = (Vec::new(), 0);
            while paths < TOGETHER
                && let Some(route) = made.get(at)
            {
                if let MadeRoute::Installed(_, owner, route) = route {
                    paths += route.paths().len();
                    installed.push((owner, route.clone()));
                } else {
                    paths += 1;
                }
                at += 1;
            }
            let mut described = self.describe(installed).await?.into_iter();
            let events = (begin..at).filter_map(|at| route_event(time, made.get(at)?, &mut described));
            let (lost, events) = (None, events.collect());
            self.send_events(api::Events { lost, events }).await?;
        }
        Ok(())
    }

    async fn describe(&self, routes: Vec<(Owner, Route)>) -> Result<Vec<api::InstalledRoute>, Error> {
        if routes.is_empty() {
            return Ok(Vec::new());
        }
        match self.ask(Request::DescribeRoutes { routes }).await? {
            Reply::Routes { routes, .. } => Ok(routes),
            _ => Err(Error::ShuttingDown {}),
        }
    }
}

/// Waits until the client hangs up, which is the only thing that it may do while replies follow.
pub(super) async fn until_hung_up(stream: &mut UnixStream) -> Failure {
    let mut unexpected = [0; 1024];
    match stream.read(&mut unexpected).await {
        Ok(0) => Failure::HungUp,
        Ok(_) => {
            let reason = "it has sent a message although replies follow, which only hanging up ends";
            io::Error::new(io::ErrorKind::InvalidData, reason).into()
        }
        Err(error) => error.into(),
    }
}

/// The next of `described` is for the next route that is installed.
fn route_event(
    time: SystemTime,
    made: MadeRoute<'_>,
    described: &mut impl Iterator<Item = api::InstalledRoute>,
) -> Option<api::Event> {
    let event = event_of(time, EventKind::Route);
    Some(match made {
        MadeRoute::Installed(installs, ..) => api::Event {
            change: Some(match installs {
                Installs::New => EventChange::Added,
                Installs::Replacement => EventChange::Changed,
            }),
            route: Some(described.next()?),
            ..event
        },
        MadeRoute::Deleted(owner, route) => api::Event {
            change: Some(EventChange::Deleted),
            route: Some(api::InstalledRoute {
                route: route.into(),
                owner: owner.to_string(),
                ..api::InstalledRoute::default()
            }),
            ..event
        },
        MadeRoute::DeletedKey(key) => api::Event {
            change: Some(EventChange::Deleted),
            key: Some(key.into()),
            ..event
        },
    })
}

fn event_of(time: SystemTime, kind: EventKind) -> api::Event {
    api::Event {
        time: humantime::format_rfc3339_micros(time).to_string(),
        kind,
        change: None,
        route: None,
        key: None,
        neighbor: None,
        link: None,
        exception: None,
        left_out: None,
        rate: None,
    }
}

/// An event that is not about routes.
fn event(timed: &Timed) -> api::Event {
    let event = event_of(timed.time, timed.event.kind());
    match &timed.event {
        Event::NextHop(change, neighbor) => api::Event {
            change: Some(*change),
            neighbor: Some(neighbor.clone()),
            ..event
        },
        Event::Link(change, link) => api::Event {
            change: Some(*change),
            link: Some((**link).clone()),
            ..event
        },
        Event::Exception(exception) => api::Event {
            exception: Some(read(exception)),
            ..event
        },
        Event::ExceptionsLeftOut(count) => api::Event {
            left_out: Some(*count),
            ..event
        },
        Event::Routes(_) => event,
    }
}

/// Reads what can be said about the frame of an exception.
fn read(exception: &events::Exception) -> api::Exception {
    let (stack, payload) = packet::split(&exception.head);
    let labels = entries(stack).map(|lse| api::StackEntry {
        label: lse.label().get(),
        tc: lse.tc(),
        ttl: lse.ttl(),
    });
    let (source, destination) = packet::addresses(payload).unzip();
    api::Exception {
        port: exception.port.to_string(),
        reason: exception.handled.reason.map(|reason| reason.name().to_owned()),
        outcome: exception.handled.outcome.name().to_owned(),
        length: exception.length as u64,
        labels: labels.collect(),
        source,
        destination,
    }
}

/// This may be the last user of a million routes.
fn drop_elsewhere(timed: Arc<Timed>) {
    if let Event::Routes(made) = &timed.event
        && made.held() > MANY_ROUTES
    {
        tokio::task::spawn_blocking(move || drop(timed));
    }
}

/// What ports do per second.
struct Rates {
    ticks: tokio::time::Interval,
    since: Instant,
    before: HashMap<String, api::LinkCounters>,
}

impl Rates {
    async fn begin(interval: Duration, connection: &Connection) -> Result<Self, Error> {
        let before = counters(connection).await?;
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        // A client that does not keep up gets fewer.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            ticks,
            since: Instant::now(),
            before: before.into_iter().collect(),
        })
    }

    /// The rates since the last time.
    async fn read(&mut self, connection: &Connection) -> Result<Vec<api::Event>, Error> {
        let now = counters(connection).await?;
        let (time, seconds) = (SystemTime::now(), self.since.elapsed().as_secs_f64());
        self.since = Instant::now();
        let rates = now.iter().filter_map(|(name, counters)| {
            let before = self.before.get(name)?;
            let rate = Some(rate(name, seconds, before, counters));
            let event = event_of(time, EventKind::Rate);
            Some(api::Event { rate, ..event })
        });
        let rates = rates.collect();
        self.before = now.into_iter().collect();
        Ok(rates)
    }
}

/// Waits for the next tick, if there is one.
async fn tick(rates: &mut Option<Rates>) {
    match rates {
        Some(rates) => drop(rates.ticks.tick().await),
        None => std::future::pending().await,
    }
}

/// The counters of all ports, in the order of their names.
async fn counters(connection: &Connection) -> Result<Vec<(String, api::LinkCounters)>, Error> {
    match connection.ask(Request::ListLinks { counters: true }).await? {
        Reply::Links(links) => {
            let links = links.into_iter();
            Ok(links
                .map(|link| (link.ifname, link.counters.unwrap_or_default()))
                .collect())
        }
        _ => Err(Error::ShuttingDown {}),
    }
}

/// Counters that are lower than before belong to another interface of this name.
fn rate(name: &str, seconds: f64, before: &api::LinkCounters, now: &api::LinkCounters) -> api::LinkRate {
    let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds.max(f64::EPSILON);
    let kernel = before.kernel.zip(now.kernel);
    let of_kernel = |counter: fn(&api::KernelCounters) -> u64, factor: f64| {
        kernel.map(|(before, now)| factor * per_second(counter(&before), counter(&now)))
    };
    let reasons = now.reasons.iter().filter_map(|counter| {
        let before = before.reasons.iter().find(|before| before.reason == counter.reason);
        let (packets, bytes) = before.map_or((0, 0), |before| (before.packets, before.bytes));
        let pps = per_second(packets, counter.packets);
        let reason = api::ReasonRate {
            reason: counter.reason.clone(),
            pps,
            bps: 8.0 * per_second(bytes, counter.bytes),
        };
        (pps > 0.0).then_some(reason)
    });
    api::LinkRate {
        ifname: name.to_owned(),
        seconds,
        rx_pps: of_kernel(|kernel| kernel.rx_packets, 1.0),
        rx_bps: of_kernel(|kernel| kernel.rx_bytes, 8.0),
        tx_pps: of_kernel(|kernel| kernel.tx_packets, 1.0),
        tx_bps: of_kernel(|kernel| kernel.tx_bytes, 8.0),
        reasons: reasons.collect(),
    }
}

#[cfg(test)]
mod tests {
    use mplsxdp_common::abi::Reason;

    use super::*;
    use crate::slowpath::Handled;
    use crate::slowpath::outcome::Outcome;

    #[test]
    fn an_exception_is_read_from_its_frame() {
        let mut frame = vec![2; 12];
        frame.extend([0x88, 0x47]);
        frame.extend([0, 0x06, 0x40, 1]); // label 100
        frame.extend([0, 0x0c, 0x8b, 64]); // label 200, TC 5, bottom
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 63, 17, 0, 0, 10, 1, 1, 1, 10, 4, 4, 2]);
        let reason = Some(Reason::TtlExpired);
        let outcome = Outcome::TimeExceeded;
        let exception = |head: &[u8]| events::Exception {
            port: "eth1".into(),
            handled: Handled { reason, outcome },
            length: 62,
            head: head.into(),
        };
        let shown = read(&exception(&frame));
        let labels: Vec<_> = shown
            .labels
            .iter()
            .map(|entry| (entry.label, entry.tc, entry.ttl))
            .collect();
        assert_eq!(labels, [(100, 0, 1), (200, 5, 64)]);
        let addresses = [shown.source, shown.destination].map(|address| address.unwrap().to_string());
        assert_eq!(addresses, ["10.1.1.1", "10.4.4.2"]);
        let Some(reason) = shown.reason else {
            panic!("no reason")
        };
        assert_eq!(
            (&*shown.port, &*reason, &*shown.outcome, shown.length),
            ("eth1", Reason::TtlExpired.name(), "time-exceeded", 62)
        );
        for cut in 0..frame.len() {
            let shown = read(&exception(&frame[..cut]));
            assert!(shown.labels.len() <= 2 && shown.source.is_none());
        }
    }

    #[test]
    fn rates_are_differences_per_second() {
        let counters = |factor: u64, reasons: &[(&str, u64)]| api::LinkCounters {
            kernel: Some(api::KernelCounters {
                rx_packets: 10 * factor,
                rx_bytes: 1000 * factor,
                tx_packets: 2 * factor,
                tx_bytes: 120 * factor,
                ..api::KernelCounters::default()
            }),
            reasons: reasons
                .iter()
                .map(|&(reason, packets)| api::ReasonCounter {
                    port: "eth1".into(),
                    reason: reason.into(),
                    description: String::new(),
                    packets,
                    bytes: 100 * packets,
                    policed: 0,
                    unheard: 0,
                })
                .collect(),
        };
        let before = counters(1, &[("no-route", 5), ("oam", 1)]);
        let now = counters(3, &[("no-route", 9), ("oam", 1), ("too-big", 2)]);
        let shown = rate("eth1", 2.0, &before, &now);
        let kernel = [shown.rx_pps, shown.rx_bps, shown.tx_pps, shown.tx_bps].map(Option::unwrap);
        assert_eq!(kernel, [10.0, 8000.0, 2.0, 960.0]);
        let reasons = shown.reasons.iter().map(|rate| (&*rate.reason, rate.pps, rate.bps));
        assert_eq!(
            reasons.collect::<Vec<_>>(),
            [("no-route", 2.0, 1600.0), ("too-big", 1.0, 800.0)]
        );
        // The interface was made anew.
        let again = rate("eth1", 2.0, &now, &counters(1, &[]));
        assert_eq!((again.rx_pps, again.reasons.len()), (Some(0.0), 0));
        let none = rate("eth1", 2.0, &api::LinkCounters::default(), &now);
        assert_eq!(none.rx_pps, None);
    }
}

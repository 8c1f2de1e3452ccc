//! `monitor`: what happens, line by line, as `ip monitor` prints it.

use std::io;
use std::os::fd::AsFd as _;
use std::time::SystemTime;

use serde::Serialize;

use super::link::{self, JsonLink, JsonNeighbor};
use super::output::Output;
use super::route::{JsonRoute, route_lines};
use super::{Failure, Session, verb};
use crate::control::api::{self, Event, EventChange, EventKind, Events, LinkRate, StackEntry};
use crate::route::{RouteKey, tables};

pub const HELP: &str = "\
Kinds:
  monitor route       a route that was installed, changed or deleted
  monitor neigh       a next hop whose state, MAC address or use of its backup has changed, or that no route uses any more
  monitor link        a port that was added or deleted, or has changed
  monitor exception   a frame that the slow path got: port, reason, labels, source and destination, and what happened to it
  monitor rate        what each port receives, sends and does not forward, per second
  monitor all         all but rate, which is the default
  monitor label       name the kind of each event, which is done anyway if there are several kinds

-ts prints the time of each event, -t in its long form. -j prints JSON, one object per line.";

/// Words of the command line.
#[derive(Clone, Copy)]
enum Word {
    Kind(EventKind),
    All,
    Label,
}

/// In the order in which abbreviations are resolved.
const WORDS: &[(&str, Word)] = &[
    ("route", Word::Kind(EventKind::Route)),
    ("neigh", Word::Kind(EventKind::Neigh)),
    ("neighbour", Word::Kind(EventKind::Neigh)),
    ("neighbor", Word::Kind(EventKind::Neigh)),
    ("link", Word::Kind(EventKind::Link)),
    ("exception", Word::Kind(EventKind::Exception)),
    ("rate", Word::Kind(EventKind::Rate)),
    ("all", Word::All),
    ("label", Word::Label),
];

/// How lines begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Timestamp {
    #[default]
    None,
    /// On a line of its own.
    Long,
    Short,
}

pub fn monitor(words: &[String], interval: Option<f64>, session: &mut Session) -> Result<(), Failure> {
    let (kinds, has_labels) = kinds(words)?;
    let interval_ms = interval.map(milliseconds).transpose()?;
    if interval.is_some() && !kinds.contains(&EventKind::Rate) {
        return Err(Failure::Usage(
            "`--interval` is for rates: `mplsxdp monitor rate --interval SECONDS`".into(),
        ));
    }
    let chosen = api::Monitor {
        kinds: Some(kinds),
        interval_ms,
    };
    let (client, out) = session.client_and_output()?;
    let output = io::stdout();
    client.monitor(&chosen, output.as_fd(), |events| {
        print(&events, has_labels, out)?;
        out.flush()
    })?;
    Err(Failure::NobodyReads)
}

/// The kinds that were given, and whether their lines have labels.
fn kinds(words: &[String]) -> Result<(Vec<EventKind>, bool), Failure> {
    let (mut chosen, mut all, mut labels) = (Vec::new(), false, false);
    for word in words {
        match verb(word, WORDS) {
            Some(Word::Kind(kind)) if !chosen.contains(&kind) => chosen.push(kind),
            Some(Word::Kind(_)) => {}
            Some(Word::All) => all = true,
            Some(Word::Label) => labels = true,
            None => return Err(Failure::Usage(format!("`{word}` is not a kind of event\n{HELP}"))),
        }
    }
    if all || chosen.is_empty() {
        let others = EventKind::ALL.iter().filter(|&&kind| kind != EventKind::Rate);
        let others: Vec<EventKind> = others.copied().filter(|kind| !chosen.contains(kind)).collect();
        chosen.extend(others);
    }
    let several = chosen.len() > 1;
    Ok((chosen, labels || several))
}

fn milliseconds(seconds: f64) -> Result<u64, Failure> {
    match (seconds * 1000.0).round() {
        milliseconds @ 100.0..=3_600_000.0 => Ok(milliseconds as u64),
        _ => Err(Failure::Usage(format!(
            "`--interval {seconds}`: give 0.1 to 3600 seconds"
        ))),
    }
}

fn print(events: &Events, has_labels: bool, out: &mut Output) -> Result<(), Failure> {
    let json = out.style.json;
    match events.lost {
        Some(lost) if json => out.json(&JsonLost { lost })?,
        Some(1) => out.line("1 event lost")?,
        Some(lost) => out.line(&format!("{lost} events lost"))?,
        None => {}
    }
    for event in &events.events {
        if json {
            out.json(&JsonEvent::new(event)?)?;
            continue;
        }
        let label = match has_labels {
            true => format!("[{}]", event.kind.name().to_uppercase()),
            false => String::new(),
        };
        let time = timestamp(&event.time, out.style.timestamp);
        out.line(&format!("{time}{label}{}", text(event)?))?;
    }
    Ok(())
}

/// What happened, on one line.
fn text(event: &Event) -> Result<String, Failure> {
    let deleted = match event.change {
        Some(EventChange::Deleted) => "Deleted ",
        Some(EventChange::Added | EventChange::Changed) | None => "",
    };
    let what = if let Some(route) = &event.route {
        joined(&route_lines(route, false)?)
    } else if let Some(key) = &event.key {
        destination(key)
    } else if let Some(neighbor) = &event.neighbor {
        link::neighbor_line(neighbor)
    } else if let Some(link) = &event.link {
        joined(&link::link_lines(link))
    } else if let Some(exception) = &event.exception {
        exception_line(exception)
    } else if let Some(rate) = &event.rate {
        rate_line(rate)
    } else {
        match event.left_out.unwrap_or_default() {
            1 => "1 exception left out".to_owned(),
            count => format!("{count} exceptions left out"),
        }
    };
    Ok(format!("{deleted}{what}"))
}

/// As iproute2 joins the lines of one item.
fn joined(lines: &[String]) -> String {
    lines.join(" \\")
}

/// The label, prefix or port of a route.
fn destination(key: &api::Key) -> String {
    match RouteKey::try_from(*key) {
        Ok(key) => match key.table() {
            Some(table) => format!("{key} table {}", tables::name(table)),
            None => key.to_string(),
        },
        Err(_) => "?".to_owned(),
    }
}

pub fn exception_line(exception: &api::Exception) -> String {
    let api::Exception {
        port,
        reason,
        outcome,
        length,
        labels,
        source,
        destination,
    } = exception;
    let reason = reason.as_deref().unwrap_or("-");
    let labels: String = labels
        .iter()
        .map(|StackEntry { label, ttl, .. }| format!("[{label} {ttl}]"))
        .collect();
    let labels = if labels.is_empty() {
        labels
    } else {
        format!(" {labels}")
    };
    let packet = match (source, destination) {
        (Some(source), Some(destination)) => format!(" {source} > {destination}"),
        _ => String::new(),
    };
    format!("{port} {reason}{labels}{packet} length {length} {outcome}")
}

fn rate_line(rate: &LinkRate) -> String {
    let both = |name: &str, pps: Option<f64>, bps: Option<f64>| match pps.zip(bps) {
        Some((pps, bps)) => format!(" {name} {pps:.0} pps {bps:.0} bps"),
        None => String::new(),
    };
    let reasons = rate.reasons.iter();
    let reasons: String = reasons
        .map(|api::ReasonRate { reason, pps, bps }| format!(" {reason} {pps:.0} pps {bps:.0} bps"))
        .collect();
    format!(
        "{}{}{}{reasons}",
        rate.ifname,
        both("rx", rate.rx_pps, rate.rx_bps),
        both("tx", rate.tx_pps, rate.tx_bps)
    )
}

/// The time of an event, in local time and as `ip -t` or `ip -ts` prints it.
fn timestamp(time: &str, style: Timestamp) -> String {
    let Some(since) = humantime::parse_rfc3339(time)
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
    else {
        return String::new();
    };
    let (date, micros) = (local(since.as_secs()), since.subsec_micros());
    let Date { year, month, day, .. } = date;
    let clock = format!("{:02}:{:02}:{:02}", date.hour, date.minute, date.second);
    match style {
        Timestamp::None => String::new(),
        Timestamp::Short => format!("[{year:04}-{:02}-{day:02}T{clock}.{micros:06}] ", month + 1),
        Timestamp::Long => {
            let month = MONTHS.get(month).unwrap_or(&"???");
            let weekday = WEEKDAYS.get(date.weekday).unwrap_or(&"???");
            format!("Timestamp: {weekday} {month} {day:2} {clock} {year} {micros} usec\n")
        }
    }
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// Indexes count from 0.
#[derive(Clone, Copy, Debug, Default)]
struct Date {
    year: i32,
    month: usize,
    day: i32,
    weekday: usize,
    hour: i32,
    minute: i32,
    second: i32,
}

/// Seconds since 1970 in local time.
fn local(seconds: u64) -> Date {
    let Ok(seconds) = libc::time_t::try_from(seconds) else {
        return Date::default();
    };
    // SAFETY: all bits zero are a valid `tm`.
    let mut date: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to values of ours.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut date) };
    let index = |value: i32| usize::try_from(value).unwrap_or(usize::MAX);
    Date {
        year: date.tm_year + 1900,
        month: index(date.tm_mon),
        day: date.tm_mday,
        weekday: index(date.tm_wday),
        hour: date.tm_hour,
        minute: date.tm_min,
        second: date.tm_sec,
    }
}

#[derive(Serialize)]
struct JsonLost {
    lost: u64,
}

/// An event with its parts as the other commands print them.
#[derive(Serialize)]
struct JsonEvent<'a> {
    time: &'a str,
    kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<EventChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<JsonEventRoute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    neigh: Option<JsonNeighbor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<JsonLink>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<&'a api::Exception>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<&'a LinkRate>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonEventRoute {
    Whole(Box<JsonRoute>),
    Key {
        dst: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        table: Option<String>,
    },
}

impl<'a> JsonEvent<'a> {
    fn new(event: &'a Event) -> Result<Self, Failure> {
        let whole = event.route.as_ref().map(|route| JsonRoute::new(route, false));
        let whole = whole.transpose()?.map(|route| JsonEventRoute::Whole(Box::new(route)));
        let key = event.key.as_ref().and_then(|key| RouteKey::try_from(*key).ok());
        let key = key.map(|key| JsonEventRoute::Key {
            dst: key.to_string(),
            table: key.table().map(tables::name),
        });
        Ok(Self {
            time: &event.time,
            kind: event.kind,
            change: event.change,
            route: whole.or(key),
            neigh: event.neighbor.clone().map(JsonNeighbor::from),
            link: event.link.clone().map(JsonLink::from),
            exception: event.exception.as_ref(),
            left_out: event.left_out,
            rate: event.rate.as_ref(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(line: &str) -> Result<(Vec<&'static str>, bool), String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (kinds, has_labels) = kinds(&words).map_err(|error| error.to_string())?;
        Ok((kinds.into_iter().map(EventKind::name).collect(), has_labels))
    }

    #[test]
    fn kinds_of_the_command_line() {
        let all = vec!["route", "neigh", "link", "exception"];
        assert_eq!(chosen(""), Ok((all.clone(), true)));
        assert_eq!(chosen("all"), Ok((all.clone(), true)));
        assert_eq!(chosen("rate all").unwrap().0.len(), 5);
        assert_eq!(chosen("ro"), Ok((vec!["route"], false)));
        assert_eq!(chosen("label neigh"), Ok((vec!["neigh"], true)));
        assert_eq!(chosen("l e l"), Ok((vec!["link", "exception"], true)));
        assert!(chosen("routes").unwrap_err().starts_with("`routes` is not a kind"));
        assert_eq!(milliseconds(0.25).ok(), Some(250));
        for wrong in [0.0, -1.0, 0.09, 3601.0, f64::NAN, f64::INFINITY] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_as_those_of_ip() {
        let time = "2026-12-01T12:20:08.000123Z";
        let short = timestamp(time, Timestamp::Short);
        let at = local(
            humantime::parse_rfc3339(time)
                .unwrap()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        );
        // Whatever the time zone is here.
        assert_eq!(short.len(), "[2026-12-01T12:20:08.000123] ".len());
        assert!(
            short.starts_with("[2026-1") && short.ends_with(":08.000123] "),
            "{short}"
        );
        let long = timestamp(time, Timestamp::Long);
        let begin = format!("Timestamp: {} {} {:2} ", WEEKDAYS[at.weekday], MONTHS[at.month], at.day);
        assert!(
            long.starts_with(&begin) && long.ends_with(":08 2026 123 usec\n"),
            "{long}"
        );
        assert_eq!(timestamp(time, Timestamp::None), "");
    }

    #[test]
    fn exceptions_and_rates_take_one_line() {
        let exception = api::Exception {
            port: "eth1".into(),
            reason: Some("ttl-expired".into()),
            outcome: "time-exceeded".into(),
            length: 62,
            labels: [(100, 1), (200, 64)]
                .map(|(label, ttl)| StackEntry { label, tc: 5, ttl })
                .into(),
            source: Some([10, 1, 1, 1].into()),
            destination: Some([10, 4, 4, 2].into()),
        };
        assert_eq!(
            exception_line(&exception),
            "eth1 ttl-expired [100 1][200 64] 10.1.1.1 > 10.4.4.2 length 62 time-exceeded"
        );
        let unlabelled = api::Exception {
            reason: None,
            labels: Vec::new(),
            source: None,
            ..exception
        };
        assert_eq!(exception_line(&unlabelled), "eth1 - length 62 time-exceeded");
        let rate = LinkRate {
            ifname: "eth1".into(),
            seconds: 1.0,
            rx_pps: Some(1000.4),
            rx_bps: Some(672_000.0),
            tx_pps: None,
            tx_bps: None,
            reasons: vec![api::ReasonRate {
                reason: "no-route".into(),
                pps: 2.0,
                bps: 900.0,
            }],
        };
        assert_eq!(rate_line(&rate), "eth1 rx 1000 pps 672000 bps no-route 2 pps 900 bps");
    }
}

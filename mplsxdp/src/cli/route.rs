//! `route`: verbs and output as iproute2 has them.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::TtlPropagate;
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use super::grammar::{self, Family, GrammarError};
use super::link::{next_hop, state};
use super::output::Output;
use super::{Failure, Session, verb};
use crate::control::api::{self, Changes, InstalledRoute, Refusal, Resolution};
use crate::control::client::{Client, ClientError};
use crate::lfib::route::{Action, NextHop, Route, RouteKey};

pub const HELP: &str = "\
Verbs:
  route {add|replace|change} LABEL [as OUT[/OUT...]] via {inet A|inet6 A|link MAC} [dev IFACE] [ttl-propagate {enabled|disabled}]
  route {add|replace|change} LABEL dev lo
  route {add|replace|change} PREFIX encap mpls OUT[/OUT...] [ttl N] via {inet A|inet6 A|link MAC} [dev IFACE]
  route del {LABEL|PREFIX}        or the whole route: deleted only if it is the one
  route show [LABEL|PREFIX]       all that there are; counters with -s
  route get {LABEL|PREFIX|ADDRESS}
  route flush [all|LABEL|PREFIX]
  route save > FILE               all routes, one a line
  route restore < FILE            makes these all that there are, at once or not at all";

/// Routes in one message of a restore: about a megabyte.
const BATCH: usize = 8192;

#[derive(Clone, Copy)]
enum Verb {
    Show,
    Get,
    Add,
    Change,
    Replace,
    Several,
    Delete,
    Flush,
    Save,
    Restore,
}

/// In the order in which iproute2 resolves abbreviations.
const VERBS: &[(&str, Verb)] = &[
    ("list", Verb::Show),
    ("show", Verb::Show),
    ("lst", Verb::Show),
    ("ls", Verb::Show),
    ("get", Verb::Get),
    ("add", Verb::Add),
    ("change", Verb::Change),
    ("chg", Verb::Change),
    ("replace", Verb::Replace),
    ("prepend", Verb::Several),
    ("append", Verb::Several),
    ("delete", Verb::Delete),
    ("flush", Verb::Flush),
    ("save", Verb::Save),
    ("restore", Verb::Restore),
];

pub fn route(words: &[String], session: &mut Session) -> Result<(), Failure> {
    let (word, rest) = words
        .split_first()
        .map_or(("show", &[][..]), |(word, rest)| (word, rest));
    if word == "help" {
        return session.out.line(HELP);
    }
    let Some(verb) = verb(word, VERBS) else {
        return Err(Failure::Usage(format!("`{word}` is not known here\n{HELP}")));
    };
    let family = session.family;
    let line = rest.join(" ");
    let in_line = |error: GrammarError| Failure::Usage(format!("{error}\n{}", error.point_out(&line)));
    let only = |usage: &str| Failure::Usage(format!("`route {word}` takes nothing more: `{usage}`"));
    match verb {
        Verb::Show if line.is_empty() => show(None, session),
        Verb::Show => show(Some(grammar::key(&line, family).map_err(in_line)?), session),
        Verb::Get => get(grammar::key(&line, family).map_err(in_line)?, session),
        Verb::Add => {
            let route = grammar::route(&line, family).map_err(in_line)?;
            session.client()?.add_routes(&[route])?;
            Ok(())
        }
        Verb::Change => {
            let route = grammar::route(&line, family).map_err(in_line)?;
            let key = route.key();
            existing(key, session.client()?)?.ok_or_else(|| none(key))?;
            session.client()?.replace_routes(&[route])?;
            Ok(())
        }
        Verb::Replace => {
            let route = grammar::route(&line, family).map_err(in_line)?;
            session.client()?.replace_routes(&[route])?;
            Ok(())
        }
        Verb::Several => Err(Failure::Refused(format!(
            "`{word}`: a label or prefix has one route; `add` and `replace` are for that"
        ))),
        Verb::Delete => {
            let (key, route) = grammar::key_or_route(&line, family).map_err(in_line)?;
            delete(key, route, session.client()?)
        }
        Verb::Flush => match rest {
            [one] if one != "all" => {
                let key = grammar::key(&line, family).map_err(in_line)?;
                flush_one(key, session)
            }
            [] | [_] => {
                let changes = session.client()?.flush_routes(api_family(family))?;
                report(changes, &mut session.out)
            }
            _ => Err(only("route flush [all|LABEL|PREFIX]")),
        },
        Verb::Save if !rest.is_empty() => Err(only("route save > FILE")),
        Verb::Restore if !rest.is_empty() => Err(only("route restore < FILE")),
        Verb::Save | Verb::Restore if family != Family::Any => Err(Failure::Usage(format!(
            "`route {word}` is about all routes: no `-f`, `-M`, `-4` or `-6`"
        ))),
        Verb::Save => save(session),
        Verb::Restore if session.stdin_is_taken => Err(Failure::Usage(
            "`route restore` reads its standard input, and the batch comes from there".into(),
        )),
        Verb::Restore if io::stdin().is_terminal() => Err(Failure::Usage(
            "`route restore` reads its standard input: `mplsxdp route restore < FILE`".into(),
        )),
        Verb::Restore => {
            // A connection of its own: where the restore fails, its transaction goes with it.
            let changes = restore(io::stdin().lock(), &mut Client::connect(&session.instance)?)?;
            report(changes, &mut session.out)
        }
    }
}

fn api_family(family: Family) -> Option<api::Family> {
    match family {
        Family::Any => None,
        Family::Mpls => Some(api::Family::Mpls),
        Family::Inet => Some(api::Family::Inet),
        Family::Inet6 => Some(api::Family::Inet6),
    }
}

fn none(key: RouteKey) -> Failure {
    ClientError::from(api::Error::from(Refusal::NoSuchRoute { key })).into()
}

/// Numbers, for those who ask.
fn report(changes: Changes, out: &mut Output) -> Result<(), Failure> {
    let Changes {
        added,
        replaced,
        deleted,
    } = changes;
    if out.style.json {
        out.json(&changes)
    } else if out.style.stats {
        out.line(&format!("{added} added, {replaced} replaced, {deleted} deleted"))
    } else {
        Ok(())
    }
}

fn one(key: RouteKey) -> api::ListRoutes {
    let api::Key { label, prefix } = key.into();
    api::ListRoutes {
        label,
        prefix,
        counters: Some(true),
        ..api::ListRoutes::default()
    }
}

fn existing(key: RouteKey, client: &mut Client) -> Result<Option<InstalledRoute>, Failure> {
    let mut found = None;
    client.routes(&one(key), |route| {
        found = Some(route);
        Ok::<_, Failure>(())
    })?;
    Ok(found)
}

/// With the whole route given, only that one is deleted.
fn delete(key: RouteKey, given: Option<Route>, client: &mut Client) -> Result<(), Failure> {
    if let Some(given) = given {
        let installed = existing(key, client)?.ok_or_else(|| none(key))?;
        let found = with_dev_found(&installed)?;
        if contradicts(&given, &found) {
            return Err(Failure::Refused(format!(
                "the route of {key} is another one: `{found}`"
            )));
        }
    }
    client.delete_routes(vec![key.into()])?;
    Ok(())
}

/// Whether what is said of a route to delete is not so. What is not said is not asked: no `as`, no `dev`.
fn contradicts(said: &Route, found: &Route) -> bool {
    let action = *said.action() != Action::Pop && said.action() != found.action();
    let ttl = said.ttl_propagate() != TtlPropagate::Default && said.ttl_propagate() != found.ttl_propagate();
    let next_hop = match (said.next_hop(), found.next_hop()) {
        (Some(said), Some(found)) => said.via != found.via || (said.dev.is_some() && said.dev != found.dev),
        (Some(_), None) => true,
        (None, _) => false,
    };
    action || ttl || next_hop
}

/// As iproute2's flush: what is not there needs none.
fn flush_one(key: RouteKey, session: &mut Session) -> Result<(), Failure> {
    let changes = match session.client()?.delete_routes(vec![key.into()]) {
        Err(ClientError::Refused(api::Error::Refused(Refusal::NoSuchRoute { .. }))) => Changes::default(),
        outcome => outcome?,
    };
    report(changes, &mut session.out)
}

fn show(key: Option<RouteKey>, session: &mut Session) -> Result<(), Failure> {
    let list = match key {
        Some(key) => one(key),
        None => api::ListRoutes {
            family: api_family(session.family),
            counters: Some(session.out.style.stats),
            ..api::ListRoutes::default()
        },
    };
    session.client()?;
    let Session {
        client: Some(client),
        out,
        ..
    } = session
    else {
        return Ok(());
    };
    let style = out.style;
    match (style.json, style.pretty) {
        (false, _) => client.routes(&list, |route| out.line(&line(&route, style.stats)?)),
        (true, false) => show_json(&list, client, serde_json::Serializer::new(&mut out.writer), style.stats),
        (true, true) => show_json(
            &list,
            client,
            serde_json::Serializer::pretty(&mut out.writer),
            style.stats,
        ),
    }?;
    if style.json { out.line("") } else { Ok(()) }
}

/// Writes the routes as they come: a million of them are not kept.
fn show_json<W: io::Write, F: serde_json::ser::Formatter>(
    list: &api::ListRoutes,
    client: &mut Client,
    mut serializer: serde_json::Serializer<W, F>,
    counters: bool,
) -> Result<(), Failure> {
    let mut array = serializer.serialize_seq(None).map_err(io::Error::from)?;
    client.routes(list, |route| {
        let route = JsonRoute::new(&route, counters)?;
        Ok::<_, Failure>(array.serialize_element(&route).map_err(io::Error::from)?)
    })?;
    Ok(array.end().map_err(io::Error::from)?)
}

/// As `ip -j` prints a route.
#[derive(Serialize)]
struct JsonRoute {
    dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encap: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_propagate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<JsonVia>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    protocol: String,
    flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lladdr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<api::Counter>,
}

#[derive(Serialize)]
struct JsonVia {
    family: api::ViaFamily,
    host: Box<str>,
}

impl JsonRoute {
    fn new(installed: &InstalledRoute, counters: bool) -> Result<Self, Failure> {
        let route = with_dev_found(installed)?;
        let to = match route.action() {
            Action::Swap(labels) | Action::Push { labels, .. } => Some(labels.to_string()),
            Action::PenultimatePop => Some("implicit-null".into()),
            Action::Pop | Action::Local => None,
        };
        let api::Route {
            ttl,
            ttl_propagate,
            via,
            dev,
            ..
        } = (&route).into();
        let dev = match route.action() {
            Action::Local => Some("lo".into()),
            _ => dev.as_deref().map(str::to_owned),
        };
        Ok(Self {
            dst: route.key().to_string(),
            encap: matches!(route.key(), RouteKey::Prefix(_)).then_some("mpls"),
            to,
            ttl,
            ttl_propagate,
            via: via.map(|via| JsonVia {
                family: via.family,
                host: via.address,
            }),
            dev,
            protocol: installed.owner.clone(),
            flags: flag(installed).into_iter().collect(),
            lladdr: installed.next_hop.as_ref().and_then(|next_hop| next_hop.mac.clone()),
            state: installed.next_hop.as_ref().map(|next_hop| state(next_hop.state)),
            stats: installed.counter.filter(|_| counters),
        })
    }
}

/// As `ip route` prints a route, and takes it again.
fn line(installed: &InstalledRoute, counters: bool) -> Result<String, Failure> {
    let mut line = format!("{} proto {}", with_dev_found(installed)?, installed.owner);
    if let Some(flag) = flag(installed) {
        line.push(' ');
        line.push_str(flag);
    }
    match installed.counter {
        Some(api::Counter { packets, bytes }) if counters => {
            line.push_str(&format!(" packets {packets} bytes {bytes}"))
        }
        None if counters => line.push_str(" uncounted"),
        _ => {}
    }
    Ok(line)
}

/// Why nothing goes out, in a word that iproute2 has too where it can.
fn flag(installed: &InstalledRoute) -> Option<&'static str> {
    match installed.next_hop.as_ref()?.state {
        Resolution::Resolved | Resolution::Static => None,
        Resolution::LinkDown => Some("linkdown"),
        Resolution::Incomplete
        | Resolution::Failed
        | Resolution::NoRoute
        | Resolution::NotAPort
        | Resolution::NoArp
        | Resolution::NoSuchDev
        | Resolution::Local => Some("unresolved"),
    }
}

/// The route as it was asked for.
fn desired(installed: &InstalledRoute) -> Result<Route, Failure> {
    Route::try_from(installed.route.clone()).map_err(|error| {
        Failure::Refused(format!(
            "the instance has a route that this version does not know: {error}"
        ))
    })
}

/// The route with the interface that was found for it.
fn with_dev_found(installed: &InstalledRoute) -> Result<Route, Failure> {
    let route = desired(installed)?;
    let found = installed.next_hop.as_ref().and_then(|next_hop| next_hop.dev.as_ref());
    let next_hop = route.next_hop().map(|next_hop| NextHop {
        via: next_hop.via,
        dev: next_hop.dev.as_ref().or(found).map(Arc::clone),
    });
    Route::new(route.key(), route.action().clone(), next_hop, route.ttl_propagate())
        .map_err(|error| Failure::Refused(error.to_string()))
}

fn get(key: RouteKey, session: &mut Session) -> Result<(), Failure> {
    let client = session.client()?;
    let found = match key {
        RouteKey::Prefix(host) if host.prefix_len() == host.max_prefix_len() => longest_match(host, client)?,
        _ => existing(key, client)?,
    };
    let installed = found.ok_or_else(|| none(key))?;
    if session.out.style.json {
        return session.out.json(&[JsonRoute::new(&installed, true)?]);
    }
    let mut lines = vec![line(&installed, true)?];
    if let Some(hop) = &installed.next_hop {
        lines.push(format!("    {} routes {}", next_hop(hop), hop.routes));
    }
    session.out.lines(&lines)
}

/// The route that a packet to this address takes.
fn longest_match(host: IpNet, client: &mut Client) -> Result<Option<InstalledRoute>, Failure> {
    let mut next = Some(host);
    while let Some(prefix) = next {
        if let Some(found) = existing(RouteKey::Prefix(prefix), client)? {
            return Ok(Some(found));
        }
        next = prefix.supernet();
    }
    Ok(None)
}

fn save(session: &mut Session) -> Result<(), Failure> {
    session.client()?;
    let Session {
        client: Some(client),
        out,
        ..
    } = session
    else {
        return Ok(());
    };
    out.line("# Routes of mplsxdp, for `mplsxdp route restore`.")?;
    client.routes(&api::ListRoutes::default(), |route| {
        out.line(&desired(&route)?.to_string())
    })
}

/// Reads, checks and sends in one go; only the last word makes it happen.
fn restore(input: impl BufRead, client: &mut Client) -> Result<Changes, Failure> {
    // The line of each route, for an error that names a route by its index.
    let mut lines: Vec<u32> = Vec::new();
    let mut transaction = client.begin(true)?;
    let mut routes = Vec::with_capacity(BATCH);
    for saved in saved_routes(input) {
        let (number, route) = saved?;
        lines.push(number);
        routes.push(route);
        if routes.len() == BATCH {
            transaction.stage(&routes).map_err(|error| by_line(error, &lines))?;
            routes.clear();
        }
    }
    transaction.stage(&routes).map_err(|error| by_line(error, &lines))?;
    transaction.commit().map_err(|error| by_line(error, &lines))
}

/// The routes of what `save` wrote, and the lines that they stand in.
pub(super) fn saved_routes(mut input: impl BufRead) -> impl Iterator<Item = Result<(u32, Route), Failure>> {
    let mut line = Vec::new();
    let lines = (1..).map_while(move |number| {
        line.clear();
        match input.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(saved_route(number, &line)),
            Err(error) => Some(Err(Failure::Refused(format!("line {number}: {error}")))),
        }
    });
    lines.filter_map(Result::transpose)
}

/// `None` where the line has no route.
fn saved_route(number: u32, line: &[u8]) -> Result<Option<(u32, Route)>, Failure> {
    let text = str::from_utf8(line).map_err(|error| Failure::Refused(format!("line {number}: not UTF-8: {error}")))?;
    // Other spaces than those of ASCII can be part of an interface's name.
    let text = text.trim_ascii_end();
    if text.is_empty() || text.trim_ascii_start().starts_with('#') {
        return Ok(None);
    }
    let route = grammar::route(text, Family::Any).map_err(|error| {
        Failure::Refused(format!(
            "line {number}, column {}: {error}\n{}",
            error.column(text),
            error.point_out(text)
        ))
    })?;
    Ok(Some((number, route)))
}

fn by_line(error: ClientError, lines: &[u32]) -> Failure {
    match &error {
        ClientError::Refused(api::Error::Refused(Refusal::RouteRefused { index, reason })) => match lines.get(*index) {
            Some(number) => Failure::Refused(format!("line {number}: {reason}")),
            None => error.into(),
        },
        _ => error.into(),
    }
}

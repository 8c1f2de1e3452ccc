//! `route`: verbs and output in the style of iproute2.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write as _};
use std::sync::Arc;

use mplsxdp_common::abi::REDIRECT_LOST;
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use super::lines::{Kind, Lines, Unreadable};
use super::link::next_hop;
use super::output::Output;
use super::{Failure, Session, verb};
use crate::control::api::{
    self, BucketRange, Changes, InstalledRoute, KeyFilter, Lookup, NextHopState, Refusal, Resolution, RouteFilter,
};
use crate::control::client::{Client, ClientError};
use crate::route::line::{self, Context, Family, GrammarError, SELECTORS};
use crate::route::{Action, Fec, NextHop, Path, Route, RouteKey, RoutingTable, Source};
use crate::route::{protocols, tables};

pub const HELP: &str = "\
Verbs:
  route {add|replace|change} LABEL [as OUT[/OUT...]] via {inet A|inet6 A|link MAC} [dev IFACE] [ttl-propagate {enabled|disabled}]
  route {add|replace|change} LABEL dev lo [pass]      pass: to the kernel, untouched, if no label is left
  route {add|replace|change} {LABEL|PREFIX} pass      left to the kernel, untouched
  route {add|replace|change} PREFIX encap mpls OUT[/OUT...] [ttl N] via {inet A|inet6 A|link MAC} [dev IFACE]
  ... PREFIX [table T|vrf VRF]     only for packets from ports in the VRF with this routing table; `main`: outside of VRFs
  ... via A [dev IFACE] backup via {inet B|inet6 B|link MAC} [dev IFACE]     B is used while A cannot be reached
  ... {LABEL|PREFIX} nexthop [as OUT|encap mpls OUT] via A ... [weight N] nexthop ...     next hops that share the flows
  route del {LABEL|PREFIX} [...]  with more of the route: deleted only if all of it matches
  ... [proto {NAME|NUMBER}] [metric N]     kept and shown; they do not affect forwarding
  route show [SELECTOR]           the installed routes, or the selected ones; counters with -s
  route show all                  also routes on standby: another owner's route for the label or prefix is preferred
  route get {LABEL|PREFIX|ADDRESS} [table T|vrf VRF]   with the state of its next hops, and their buckets
  route flush SELECTOR            delete the selected routes
  route save > FILE               all routes, one per line
  route restore < FILE            make the routes equal to the file's, as a whole or not at all; --allow-empty: delete all
Selectors; a route must match all of them: all, LABEL, PREFIX, root PREFIX (it and those inside it), match PREFIX (it and
those that cover it), table T, vrf VRF, proto PROTO, via {inet A|inet6 A|link MAC}, dev IFACE";

/// Routes in one message of a restore: about a megabyte.
const BATCH: usize = 8192;
/// How many waiting routes a restore names.
const NAMED: usize = 10;

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

/// The options of `route`.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    pub allow_empty: bool,
    pub owner: Option<Source>,
}

pub fn route(words: &[String], choices: Choices, session: &mut Session) -> Result<(), Failure> {
    let Choices { allow_empty, owner } = choices;
    let changes = |session: &mut Session| -> Result<(), Failure> {
        session.client()?.set_owner(owner);
        Ok(())
    };
    let (word, rest) = words
        .split_first()
        .map_or(("show", &[][..]), |(word, rest)| (word, rest));
    let Some(verb) = verb(word, VERBS) else {
        return Err(Failure::Usage(format!("`{word}` is not a verb of `route`\n{HELP}")));
    };
    let family = session.family;
    let line = rest.join(" ");
    let in_line = |error: GrammarError| match line.is_empty() {
        true => Failure::Usage(format!("`route {word}`: {error}")),
        false => Failure::Usage(format!("{error}\n{}", error.point_out(&line))),
    };
    let read_route = |session: &mut Session| read(session, |context| line::route(&line, context).map_err(in_line));
    let read_selection =
        |session: &mut Session| read(session, |context| line::selection(&line, context).map_err(in_line));
    let only = |usage: &str| Failure::Usage(format!("`route {word}` takes no other arguments: `{usage}`"));
    match verb {
        _ if allow_empty && !matches!(verb, Verb::Restore) => Err(Failure::Usage(
            "`--allow-empty` is for `route restore`: it lets an input without routes delete all routes".into(),
        )),
        Verb::Show => {
            let chosen = read_selection(session)?;
            let chosen = chosen.unwrap_or_else(|| of_family(family));
            show(&RouteFilter { owner, ..chosen }, session)
        }
        Verb::Get => {
            let key = read(session, |context| line::key(&line, context).map_err(in_line))?;
            get(key, session)
        }
        Verb::Add => {
            let route = read_route(session)?;
            changes(session)?;
            let changed = session.client()?.add_routes(&[route])?;
            session.warn(changed.warnings);
            Ok(())
        }
        Verb::Change => {
            let route = read_route(session)?;
            changes(session)?;
            let changed = session.client()?.change_routes(&[route])?;
            session.warn(changed.warnings);
            Ok(())
        }
        Verb::Replace => {
            let route = read_route(session)?;
            changes(session)?;
            let changed = session.client()?.replace_routes(&[route])?;
            session.warn(changed.warnings);
            Ok(())
        }
        Verb::Several => Err(Failure::Refused(format!(
            "`{word}`: a label or prefix has only one route: use `add` or `replace`"
        ))),
        Verb::Delete => {
            let described = read(session, |context| line::deletion(&line, context).map_err(in_line))?;
            changes(session)?;
            session.client()?.delete_routes([&described])?;
            Ok(())
        }
        Verb::Flush => match read_selection(session)? {
            None => Err(Failure::Usage(format!(
                "`route flush` needs arguments, as with `ip`: `route flush all` deletes all routes; {SELECTORS}"
            ))),
            Some(chosen) => {
                changes(session)?;
                let deleted = session.client()?.flush_routes(&(&chosen).into())?;
                report(deleted, &mut session.out)
            }
        },
        Verb::Save if !rest.is_empty() => Err(only("route save > FILE")),
        Verb::Restore if !rest.is_empty() => Err(only("route restore < FILE")),
        Verb::Save | Verb::Restore if family != Family::Any => Err(Failure::Usage(format!(
            "`route {word}` is about all routes: no `-f`, `-M`, `-4` or `-6`"
        ))),
        Verb::Save => save(owner.unwrap_or_default(), session),
        Verb::Restore if session.stdin_is_taken => Err(Failure::Usage(
            "`route restore` reads its standard input, and the batch comes from there".into(),
        )),
        Verb::Restore if io::stdin().is_terminal() => Err(Failure::Usage(
            "`route restore` reads its standard input: `mplsxdp route restore < FILE`".into(),
        )),
        Verb::Restore => {
            // A separate connection: if the restore fails, its transaction ends with it.
            let mut client = session.connect()?;
            client.set_owner(owner);
            let committed = restore(io::stdin().lock(), allow_empty, &mut client)?;
            warn_of_unreachable(&committed);
            session.warn(committed.warnings.clone());
            if session.out.style.json {
                return session.out.json(&Restored::from(committed));
            }
            report(committed.changes, &mut session.out)
        }
    }
}

/// Reads a line that may name VRFs, which the instance is asked about.
fn read<T>(session: &mut Session, parse: impl FnOnce(Context<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    let family = session.family;
    let mut failed = None;
    let mut find_vrf = |name: &str| {
        let found = session.client().and_then(|client| Ok(client.vrf_table(name)?));
        found.map_err(|failure| failed = Some(failure)).ok()
    };
    let read = parse(Context {
        family,
        find_vrf: Some(&mut find_vrf),
    });
    match failed {
        Some(failure) => Err(failure),
        None => read,
    }
}

/// Whether a command installs a route but names no next hop: the lines below may name them, as `ip route` prints them.
pub(super) fn takes_next_hops(command: &str) -> bool {
    let mut words = command.split_ascii_whitespace();
    let is_route = words.any(|word| "route".starts_with(word));
    let verb = words.next().and_then(|word| verb(word, VERBS));
    is_route
        && matches!(verb, Some(Verb::Add | Verb::Change | Verb::Replace))
        && words.next().is_some()
        && !words.any(|word| matches!(word, "via" | "dev" | "oif" | "pass"))
}

/// The filter for an empty selection.
fn of_family(family: Family) -> RouteFilter {
    RouteFilter::from(match family {
        Family::Any => KeyFilter::All,
        Family::Mpls => KeyFilter::Labels,
        Family::Inet => KeyFilter::V4Prefixes,
        Family::Inet6 => KeyFilter::V6Prefixes,
    })
}

/// Prints the number of changes, if asked.
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

fn show(chosen: &RouteFilter, session: &mut Session) -> Result<(), Failure> {
    let one = chosen.is_narrow();
    let list = api::ListRoutes {
        counters: Some(one || session.out.style.stats),
        standby: chosen.standby.then_some(true),
        ..api::FlushRoutes::from(chosen).into()
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
        (false, _) if style.brief => client.routes(&list, |route| {
            let brief = brief(&route, style.stats)?;
            brief.iter().try_for_each(|line| out.line(line))
        }),
        (false, _) => client.routes(&list, |route| out.lines(&lines(&route, style.stats)?)),
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

/// Writes routes as they arrive, because a million of them are not kept in memory.
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

/// A route as `ip -j` prints it.
#[derive(Serialize)]
struct JsonRoute {
    dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(flatten)]
    by_itself: Option<JsonPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_propagate: Option<bool>,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    owner: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    standby: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    nexthops: Option<Vec<JsonPath>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<api::Counter>,
}

/// One path: the route's own, or one of several.
#[derive(Serialize)]
struct JsonPath {
    #[serde(skip_serializing_if = "Option::is_none")]
    encap: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<api::ViaAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pass: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lladdr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Resolution>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<JsonBackup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket_ranges: Option<Vec<BucketRange>>,
}

#[derive(Serialize)]
struct JsonBackup {
    via: api::ViaAddress,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lladdr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Resolution>,
}

impl JsonRoute {
    fn new(installed: &InstalledRoute, counters: bool) -> Result<Self, Failure> {
        let route = desired(installed)?;
        let several = route.paths().len() > 1;
        let mut states = states(installed);
        let mut paths = found_paths(&route, installed).into_iter().map(|path| {
            let (state, buckets) = states.next().unzip();
            let buckets = buckets.flatten();
            JsonPath {
                weight: several.then_some(path.weight),
                buckets: buckets.map(count),
                bucket_ranges: buckets.map(<[_]>::to_vec),
                ..JsonPath::new(&route, &path, state)
            }
        });
        let (by_itself, nexthops) = match several {
            false => (paths.next(), None),
            true => (None, Some(paths.collect())),
        };
        let api::Route {
            ttl_propagate, metric, ..
        } = api::Route::from(&route);
        Ok(Self {
            dst: route.destination(),
            table: route.key().table().map(tables::name),
            by_itself,
            ttl_propagate,
            protocol: protocols::name(route.attributes().protocol),
            metric,
            reason: route.pass_reason().map(ToString::to_string),
            owner: installed.owner.clone(),
            standby: installed.standby,
            nexthops,
            stats: installed.counter.filter(|_| counters),
        })
    }
}

impl JsonPath {
    fn new(route: &Route, path: &Path, found: Option<&NextHopState>) -> Self {
        let to = match &path.action {
            Action::Swap(labels) | Action::Push { labels, .. } => Some(labels.to_string()),
            Action::PenultimatePop => Some("implicit-null".into()),
            Action::Pop | Action::Local | Action::LocalPass | Action::Pass(_) => None,
        };
        let api::Path {
            ttl, via, dev, backup, ..
        } = path.into();
        let dev = match path.action {
            Action::Local | Action::LocalPass => Some("lo".into()),
            _ => dev.as_deref().map(str::to_owned),
        };
        let backup_found = found.and_then(|found| found.backup.as_ref());
        Self {
            encap: matches!(route.key(), RouteKey::Prefix(_)).then_some("mpls"),
            to,
            ttl,
            via,
            dev,
            pass: matches!(path.action, Action::LocalPass | Action::Pass(_)),
            weight: None,
            flags: found.and_then(flag).into_iter().collect(),
            lladdr: found.and_then(|found| found.lladdr.clone()),
            state: found.map(|found| found.state),
            backup: backup.map(|backup| JsonBackup {
                via: backup.via,
                dev: backup.dev,
                lladdr: backup_found.and_then(|found| found.lladdr.clone()),
                state: backup_found.map(|found| found.state),
            }),
            buckets: None,
            bucket_ranges: None,
        }
    }
}

/// A route as `ip route` prints it, and as `route add` accepts it; several next hops on a line each.
fn lines(installed: &InstalledRoute, counters: bool) -> Result<Vec<String>, Failure> {
    let route = desired(installed)?;
    let protocol = protocols::name(route.attributes().protocol);
    let table = route.key().table().map(tables::name);
    let table = table.as_ref().map(|table| table as &dyn fmt::Display);
    let mut line = String::new();
    let head = match installed.paths {
        None => &with_dev_found(installed)?,
        Some(_) => &route,
    };
    // Writing into a string does not fail.
    let _ = head.fmt_head(&mut line, table, Some(&protocol));
    // Most routes are static, as they are with `ip`.
    if installed.owner != Source::Static.name() {
        line.push_str(&format!(" owner {}", installed.owner));
    }
    if installed.standby {
        line.push_str(" standby");
    }
    line.push_str(&installed.next_hop.as_ref().map(mark).unwrap_or_default());
    match installed.counter {
        _ if installed.standby => {}
        Some(api::Counter { packets, bytes }) if counters => {
            line.push_str(&format!(" packets {packets} bytes {bytes}"))
        }
        None if counters => line.push_str(" uncounted"),
        _ => {}
    }
    if let Some(reason) = route.pass_reason() {
        line.push_str(&format!("  # {reason}"));
    }
    if let [_] = route.paths() {
        return Ok(vec![line]);
    }
    let mut states = states(installed);
    let nexthops = found_paths(&route, installed).into_iter().map(|path| {
        let mark = states.next().map(|(state, _)| mark(state)).unwrap_or_default();
        format!("\t{path}{mark}")
    });
    Ok(std::iter::once(line).chain(nexthops).collect())
}

/// One line for each next hop: label or prefix, what happens to its labels, next hop, interface and state, in columns;
/// `-` for missing values. The route's table follows, if it has one. Counters are on the route's first line.
fn brief(installed: &InstalledRoute, counters: bool) -> Result<Vec<String>, Failure> {
    let route = desired(installed)?;
    let key = route.destination();
    let table = route
        .key()
        .table()
        .map(|table| format!(" table {}", tables::name(table)));
    let table = table.unwrap_or_default();
    let counter = match installed.counter {
        _ if !counters => String::new(),
        Some(api::Counter { packets, bytes }) => format!(" packets {packets} bytes {bytes}"),
        None if installed.standby => String::new(),
        None => " uncounted".to_owned(),
    };
    let mut states = states(installed);
    let paths = found_paths(&route, installed).into_iter().enumerate();
    let lines = paths.map(|(index, path)| {
        let out = match &path.action {
            Action::Swap(labels) | Action::Push { labels, .. } => labels.to_string(),
            Action::PenultimatePop => "implicit-null".to_owned(),
            Action::Pop | Action::Local | Action::LocalPass => "pop".to_owned(),
            Action::Pass(_) => "pass".to_owned(),
        };
        let found = states.next().map(|(found, _)| found);
        let given = path.next_hop.as_ref().map(|next_hop| next_hop.via.bare());
        let via = found.map(|found| found.via.host.to_string()).or(given);
        let via = via.as_deref().unwrap_or("-");
        let dev = match path.action {
            Action::Local | Action::LocalPass => "lo",
            _ => found.and_then(|found| found.dev.as_deref()).unwrap_or("-"),
        };
        let state = match installed.standby {
            true => "standby".to_owned(),
            false if path.action == Action::LocalPass => "pass".to_owned(),
            false => found.map_or_else(|| "-".to_owned(), |found| found.state.to_string()),
        };
        let counter = if index == 0 { counter.as_str() } else { "" };
        format!("{key:<20} {out:<15} {via:<25} {dev:<16} {state}{table}{counter}")
    });
    Ok(lines.collect())
}

fn count(buckets: &[BucketRange]) -> usize {
    buckets.iter().map(|range| range.count()).sum()
}

/// Such as `128 (0-63, 128-191)`.
fn buckets(buckets: &[BucketRange]) -> String {
    let ranges: Vec<_> = buckets
        .iter()
        .map(|BucketRange { first, last }| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    match ranges.is_empty() {
        true => "0".to_owned(),
        false => format!("{} ({})", count(buckets), ranges.join(", ")),
    }
}

/// The state of the next hop follows, in text.
const UNRESOLVED: &str = "unresolved";

/// The same as text, with a leading space: `unresolved` is followed by the state.
fn mark(next_hop: &NextHopState) -> String {
    match flag(next_hop) {
        Some(flag @ UNRESOLVED) => format!(" {flag} {}", next_hop.state),
        Some(flag) => format!(" {flag}"),
        None => String::new(),
    }
}

/// Why frames do not get through, in iproute2's word if it has one.
fn flag(next_hop: &NextHopState) -> Option<&'static str> {
    match next_hop.state {
        Resolution::Resolved | Resolution::Static => next_hop.redirect_lost.then_some(REDIRECT_LOST),
        Resolution::LinkDown => Some("linkdown"),
        Resolution::BadMac
        | Resolution::Incomplete
        | Resolution::Failed
        | Resolution::NoRoute
        | Resolution::NotAPort
        | Resolution::NoArp
        | Resolution::NoSuchDev
        | Resolution::Local => Some(UNRESOLVED),
    }
}

/// The route as it was requested.
pub(super) fn desired(installed: &InstalledRoute) -> Result<Route, Failure> {
    installed.route.clone().check().map_err(|error| {
        Failure::Refused(format!(
            "the instance has a route that this version does not know: {error}"
        ))
    })
}

/// The route with the interfaces that were found for it; its paths keep their order.
fn with_dev_found(installed: &InstalledRoute) -> Result<Route, Failure> {
    let route = desired(installed)?;
    let found = Route::with_paths(route.key(), found_paths(&route, installed), route.ttl_propagate());
    let found = found.and_then(|found| found.with_attributes(route.attributes()));
    Ok(found.unwrap_or(route))
}

/// The paths of `route`, in their order, with the interfaces that were found for them. Several paths stay as they were
/// requested if they would not be a valid route otherwise, such as two that now lead to the same neighbour.
fn found_paths(route: &Route, installed: &InstalledRoute) -> Vec<Path> {
    let found = |next_hop: &Option<NextHop>, dev: Option<&Arc<str>>| {
        next_hop.as_ref().map(|next_hop| NextHop {
            via: next_hop.via,
            dev: next_hop.dev.as_ref().or(dev).map(Arc::clone),
        })
    };
    let mut states = states(installed).map(|(state, _)| state);
    let paths = route.paths().iter().map(|path| {
        let state = states.next();
        let backup = state.and_then(|state| state.backup.as_ref());
        Path {
            next_hop: found(&path.next_hop, state.and_then(|state| state.dev.as_ref())),
            backup: found(&path.backup, backup.and_then(|backup| backup.dev.as_ref())),
            ..path.clone()
        }
    });
    let paths: Vec<Path> = paths.collect();
    let is_valid = |paths| Route::with_paths(route.key(), paths, route.ttl_propagate()).is_ok();
    if paths.len() == 1 || is_valid(paths.clone()) {
        paths
    } else {
        route.paths().to_vec()
    }
}

/// The state of each path, and its buckets.
fn states(installed: &InstalledRoute) -> impl Iterator<Item = (&NextHopState, Option<&[BucketRange]>)> {
    let several = installed.paths.iter().flatten();
    let several = several.map(|path| (&path.next_hop, path.buckets.as_deref()));
    installed.next_hop.iter().map(|state| (state, None)).chain(several)
}

fn get(key: RouteKey, session: &mut Session) -> Result<(), Failure> {
    let lookup = match key {
        RouteKey::Prefix(Fec { prefix, table }) if prefix.prefix_len() == prefix.max_prefix_len() => {
            Lookup::Address(prefix.addr(), table.unwrap_or(RoutingTable::MAIN))
        }
        _ => Lookup::Key(key),
    };
    let installed = session.client()?.route(lookup)?;
    if session.out.style.json {
        return session.out.json(&[JsonRoute::new(&installed, true)?]);
    }
    let mut shown = Vec::new();
    let mut states = states(&installed);
    for (index, line) in lines(&installed, true)?.into_iter().enumerate() {
        shown.push(line);
        // The first line of several is the route's.
        if index == 0 && installed.paths.is_some() {
            continue;
        }
        if let Some((hop, owned)) = states.next() {
            let owned = owned
                .map(|owned| format!(" buckets {}", buckets(owned)))
                .unwrap_or_default();
            shown.push(format!("    {} routes {}{owned}", next_hop(hop), hop.routes));
        }
    }
    session.out.lines(&shown)
}

/// Prints the routes of one owner, for `restore`.
fn save(owner: Source, session: &mut Session) -> Result<(), Failure> {
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
    let list = api::ListRoutes {
        owner: Some(owner),
        standby: Some(true),
        ..api::ListRoutes::default()
    };
    client.routes(&list, |route| out.line(&desired(&route)?.to_string()))
}

/// Reads, checks and sends in one pass; only the commit changes anything.
fn restore(input: impl BufRead, allow_empty: bool, client: &mut Client) -> Result<api::Committed, Failure> {
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
    if lines.is_empty() && !allow_empty {
        return Err(Failure::Refused(
            "the input has no route, and a restore of it would delete all routes: if that is meant (`route save` of an \
             instance without routes writes such a file), say `route restore --allow-empty`"
                .into(),
        ));
    }
    transaction.stage(&routes).map_err(|error| by_line(error, &lines))?;
    transaction.commit(allow_empty).map_err(|error| by_line(error, &lines))
}

/// The result of a restore, for programs.
#[derive(Serialize)]
struct Restored {
    #[serde(flatten)]
    changes: Changes,
    unreachable: Vec<Unreachable>,
    unreachable_total: u64,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Unreachable {
    dst: String,
    reason: String,
}

impl From<api::Committed> for Restored {
    fn from(committed: api::Committed) -> Self {
        let unreachable = committed.unreachable.into_iter();
        Self {
            changes: committed.changes,
            unreachable: unreachable
                .map(|route| Unreachable {
                    dst: destination(route.key),
                    reason: route.reason,
                })
                .collect(),
            unreachable_total: committed.unreachable_total,
            warnings: committed.warnings,
        }
    }
}

/// In the format of `route show`.
fn destination(key: api::Key) -> String {
    RouteKey::try_from(key).map_or_else(|error| error.to_string(), |key| key.to_string())
}

/// Names some of the routes that were installed but wait for a next hop.
fn warn_of_unreachable(committed: &api::Committed) {
    let total = committed.unreachable_total;
    if total == 0 {
        return;
    }
    let named = committed.unreachable.iter().take(NAMED);
    let lines = named.map(|route| format!("mplsxdp: {} waits: {}", destination(route.key), route.reason));
    let routes = if total == 1 { "route waits" } else { "routes wait" };
    let last = format!(
        "mplsxdp: {total} {routes} for a next hop that cannot be reached now; `route show` marks what is `unresolved` or `linkdown`"
    );
    for line in lines.chain([last]) {
        // If standard error is closed, that cannot be reported.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// The routes in a file written by `save`, with the lines where they begin.
pub(super) fn saved_routes(input: impl BufRead) -> impl Iterator<Item = Result<(u32, Route), Failure>> {
    let mut lines = Lines::new(input, Kind::Routes);
    let next = move || {
        let line = lines.next().transpose()?;
        Some(match lines.cut_off() {
            Some(line) => Err(Unreadable {
                line,
                reason: "the input ends within this line, which has no newline, so it may be cut off: if it is whole, \
                         end it with a newline (`echo >> FILE`)"
                    .into(),
            }),
            None => line,
        })
    };
    std::iter::from_fn(next).map(|line| {
        let (number, text) =
            line.map_err(|Unreadable { line, reason }| Failure::Refused(format!("line {line}: {reason}")))?;
        let route = line::route(&text, Family::Any).map_err(|error| {
            Failure::Refused(format!(
                "line {number}, column {}: {error}\n{}",
                error.column(&text),
                error.point_out(&text)
            ))
        })?;
        Ok((number, route))
    })
}

fn by_line(error: ClientError, lines: &[u32]) -> Failure {
    match &error {
        ClientError::Refused(api::Error::Refused(Refusal::RouteRefused { index, reason, .. })) => {
            match lines.get(*index) {
                Some(number) => Failure::Refused(format!("line {number}: {reason}")),
                None => error.into(),
            }
        }
        _ => error.into(),
    }
}

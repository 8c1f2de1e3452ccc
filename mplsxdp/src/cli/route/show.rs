//! Installed routes as people and programs read them.

use std::fmt;
use std::io;
use std::sync::Arc;

use mplsxdp_common::abi::REDIRECT_LOST;
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use crate::cli::link::next_hop;
use crate::cli::{Failure, Session};
use crate::control::api::{self, BucketRange, InstalledRoute, Lookup, NextHopState, Resolution, RouteFilter};
use crate::control::client::Client;
use crate::route::pseudowire::GivenPseudowire;
use crate::route::{
    Action, Backup, Fec, NextHop, PassReason, Path, Route, RouteKey, RoutingTable, Source, protocols, tables,
};

pub(super) fn show(chosen: &RouteFilter, session: &mut Session) -> Result<(), Failure> {
    let one = chosen.is_narrow();
    let list = api::ListRoutes {
        counters: Some(one || session.out.style.stats),
        standby: chosen.standby.then_some(true),
        ..api::FlushRoutes::from(chosen).into()
    };
    let (client, out) = session.client_and_output()?;
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
pub struct JsonRoute {
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
    pseudowire: Option<GivenPseudowire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backups: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    vrf: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xconnect: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u8>,
    via: api::ViaAddress,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lladdr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Resolution>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    in_use: bool,
}

impl JsonRoute {
    pub fn new(installed: &InstalledRoute, counters: bool) -> Result<Self, Failure> {
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
            ttl_propagate,
            metric,
            pseudowire,
            ..
        } = api::Route::from(&route);
        Ok(Self {
            dst: route.destination(),
            table: route.key().table().map(tables::name),
            by_itself,
            ttl_propagate,
            protocol: protocols::name(route.attributes().protocol),
            metric,
            pseudowire,
            reason: route
                .pass_reason()
                .map(ToString::to_string)
                .or(installed.passes.clone())
                .or(installed.problem.clone()),
            owner: installed.owner.clone(),
            backups: installed.backups.clone(),
            standby: installed.standby,
            nexthops,
            stats: installed.counter.filter(|_| counters),
        })
    }
}

impl JsonPath {
    fn new(route: &Route, path: &Path, found: Option<&NextHopState>) -> Self {
        let own = path.backup.as_ref().and_then(|backup| backup.action.as_ref());
        let api::Path {
            ttl, via, dev, backup, ..
        } = path.into();
        let dev = match path.action {
            Action::Local | Action::LocalPass => Some("lo".into()),
            Action::VrfPass(_) | Action::CrossConnect(_) => None,
            _ => dev.as_deref().map(str::to_owned),
        };
        let backup_found = found.and_then(|found| found.backup.as_ref());
        Self {
            encap: (!matches!(route.key(), RouteKey::Label(_))).then_some("mpls"),
            to: labels(&path.action),
            ttl,
            via,
            dev,
            vrf: match &path.action {
                Action::VrfPass(name) => Some(name.to_string()),
                _ => None,
            },
            xconnect: match &path.action {
                Action::CrossConnect(port) => Some(port.to_string()),
                _ => None,
            },
            pass: matches!(path.action, Action::LocalPass | Action::VrfPass(_) | Action::Pass(_)),
            weight: None,
            flags: found.and_then(flag).into_iter().collect(),
            lladdr: found.and_then(|found| found.lladdr.clone()),
            state: found.map(|found| found.state),
            backup: backup.map(|backup| JsonBackup {
                to: own.and_then(labels),
                ttl: backup.ttl,
                via: backup.via,
                dev: backup.dev,
                lladdr: backup_found.and_then(|found| found.lladdr.clone()),
                state: backup_found.map(|found| found.state),
                in_use: backup_found.is_some_and(|found| found.in_use),
            }),
            buckets: None,
            bucket_ranges: None,
        }
    }
}

/// The outgoing labels.
fn labels(action: &Action) -> Option<String> {
    match action {
        Action::Swap(labels) | Action::Push { labels, .. } => Some(labels.to_string()),
        Action::PenultimatePop => Some("implicit-null".into()),
        Action::Pop
        | Action::Local
        | Action::LocalPass
        | Action::VrfPass(_)
        | Action::CrossConnect(_)
        | Action::Pass(_) => None,
    }
}

/// A route as `ip route` prints it, and as `route add` accepts it; several next hops on a line each.
pub fn lines(installed: &InstalledRoute, counters: bool) -> Result<Vec<String>, Failure> {
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
    if let Some(source) = &installed.backups {
        line.push_str(&format!(" backups {source}"));
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
    if let Some(reason) = route
        .pass_reason()
        .map(PassReason::as_str)
        .or(installed.passes.as_deref())
        .or(installed.problem.as_deref())
    {
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
            Action::Pop | Action::Local | Action::LocalPass | Action::VrfPass(_) | Action::CrossConnect(_) => {
                "pop".to_owned()
            }
            Action::Pass(_) => "pass".to_owned(),
        };
        let found = states.next().map(|(found, _)| found);
        let given = path.next_hop.as_ref().map(|next_hop| next_hop.via.bare());
        let via = found.map(|found| found.via.host.to_string()).or(given);
        let via = via.as_deref().unwrap_or("-");
        let dev = match &path.action {
            Action::Local | Action::LocalPass => "lo",
            Action::VrfPass(name) => name,
            Action::CrossConnect(port) => port.as_str(),
            _ => found.and_then(|found| found.dev.as_deref()).unwrap_or("-"),
        };
        let state = match installed.standby {
            true => "standby".to_owned(),
            false if matches!(path.action, Action::LocalPass) || installed.passes.is_some() => "pass".to_owned(),
            false if matches!(path.action, Action::VrfPass(_)) => "vrf".to_owned(),
            false if matches!(path.action, Action::CrossConnect(_)) => "xconnect".to_owned(),
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
pub(in crate::cli) fn desired(installed: &InstalledRoute) -> Result<Route, Failure> {
    installed.route.clone().check().map_err(|error| {
        Failure::Refused(format!(
            "the instance has a route that this version does not know: {error}"
        ))
    })
}

/// The route with the interfaces that were found for it; its paths keep their order.
fn with_dev_found(installed: &InstalledRoute) -> Result<Route, Failure> {
    let route = desired(installed)?;
    let found = route.with_other_paths(found_paths(&route, installed));
    Ok(found.unwrap_or(route))
}

/// The paths of `route`, in their order, with the interfaces that were found for them. Several paths stay as they were
/// requested if they would not be a valid route otherwise, such as two that now lead to the same neighbour.
fn found_paths(route: &Route, installed: &InstalledRoute) -> Vec<Path> {
    let found = |next_hop: &NextHop, dev: Option<&Arc<str>>| NextHop {
        via: next_hop.via,
        dev: next_hop.dev.as_ref().or(dev).map(Arc::clone),
    };
    let mut states = states(installed).map(|(state, _)| state);
    let paths = route.paths().iter().map(|path| {
        let state = states.next();
        let backup = state.and_then(|state| state.backup.as_ref());
        let dev = state.and_then(|state| state.dev.as_ref());
        let backup_dev = backup.and_then(|backup| backup.dev.as_ref());
        Path {
            next_hop: path.next_hop.as_ref().map(|next_hop| found(next_hop, dev)),
            backup: path.backup.as_ref().map(|given| Backup {
                next_hop: found(&given.next_hop, backup_dev),
                action: given.action.clone(),
            }),
            ..path.clone()
        }
    });
    let paths: Vec<Path> = paths.collect();
    let is_valid = |paths| route.with_other_paths(paths).is_ok();
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

pub(super) fn get(key: RouteKey, session: &mut Session) -> Result<(), Failure> {
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

//! `xconnect`: ports whose frames go to one other port, or into a pseudowire, whatever they are.

use mplsxdp_common::abi::Reason;
use serde::Serialize;

use super::route::{self, JsonRoute, route_lines};
use super::{Failure, Session, verb};
use crate::control::api::{
    self, AddCrossConnect, Counter, DeleteCrossConnect, Family, InstalledRoute, Link, Lookup, Refusal, VlanOperation,
};
use crate::control::client::ClientError;
use crate::route::wire::RouteAction;
use crate::route::{PortName, RouteKey};

pub const HELP: &str = "\
Verbs:
  xconnect show [IFACE]           -s: the frames of each direction
  xconnect add IFACE IFACE [vlan {translate|pop|push}] [one-way]
                                  every frame that arrives at one port leaves by the other, unchanged; the tags of
                                  sub-interfaces (eth1.100) are replaced, removed or added as the two need it, which
                                  `vlan` checks
  xconnect {add|replace|change} IFACE encap mpls OUT[/OUT...] via {inet A|inet6 A|link MAC} [dev IFACE] [WORDS]
                                  every frame that arrives goes into a pseudowire (RFC 4448), whose label is the last; like a
                                  route otherwise: `route` takes the same as `xconnect IFACE encap mpls ...`. The other way:
                                  `route add LABEL xconnect IFACE [WORDS]`. WORDS, the same at both ends:
                                  no-cw: without control word; flow-label: with a flow label; tagged: frames in the
                                  pseudowire have a tag; vlan N: this one
  xconnect del IFACE [IFACE] [one-way]

Both ports must have been loaded or added. A port takes part in nothing else while its frames go elsewhere.";

#[derive(Clone, Copy)]
enum Verb {
    Show,
    Add,
    Change,
    Replace,
    Delete,
}

const VERBS: &[(&str, Verb)] = &[
    ("add", Verb::Add),
    ("change", Verb::Change),
    ("replace", Verb::Replace),
    ("show", Verb::Show),
    ("list", Verb::Show),
    ("lst", Verb::Show),
    ("ls", Verb::Show),
    ("delete", Verb::Delete),
];

pub fn xconnect(words: &[String], session: &mut Session) -> Result<(), Failure> {
    let mut words = words.iter().map(String::as_str);
    let word = words.next().unwrap_or("show");
    let Some(verb) = verb(word, VERBS) else {
        return Err(Failure::Usage(format!("`{word}` is not a verb of `xconnect`\n{HELP}")));
    };
    let words: Vec<_> = words.collect();
    let invalid = || Failure::Usage(format!("invalid arguments for `xconnect {word}`\n{HELP}"));
    match (verb, words.as_slice()) {
        (Verb::Add | Verb::Change | Verb::Replace | Verb::Delete, [_, rest @ ..]) if rest.contains(&"encap") => {
            route_of_port(word, &words, session)
        }
        (Verb::Show, []) => show(None, session),
        (Verb::Show, [name]) => show(Some(name), session),
        (Verb::Add, [ifname, to, options @ ..]) => {
            let (vlan, one_way) = options_of(options)?.ok_or_else(invalid)?;
            Ok(session.client()?.add_cross_connect(&AddCrossConnect {
                ifname: (*ifname).to_owned(),
                to: (*to).to_owned(),
                vlan,
                one_way,
            })?)
        }
        (Verb::Delete, [ifname]) if is_attachment(ifname, session)? => route_of_port(word, &words, session),
        (Verb::Delete, [ifname, rest @ ..]) => {
            let (to, one_way) = match *rest {
                [] => (None, None),
                ["one-way"] => (None, Some(true)),
                [to] => (Some(to), None),
                [to, "one-way"] => (Some(to), Some(true)),
                _ => return Err(invalid()),
            };
            Ok(session.client()?.delete_cross_connect(&DeleteCrossConnect {
                ifname: (*ifname).to_owned(),
                to: to.map(str::to_owned),
                one_way,
            })?)
        }
        _ => Err(invalid()),
    }
}

/// Changes the route of an attachment circuit: `words` are the port, and the rest of the route.
fn route_of_port(verb: &str, words: &[&str], session: &mut Session) -> Result<(), Failure> {
    let words: Vec<String> = [&[verb, "xconnect"], words]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    route::route(&words, route::Choices::default(), session)
}

/// Whether the frames of this port go into a pseudowire.
fn is_attachment(name: &str, session: &mut Session) -> Result<bool, Failure> {
    let Ok(port) = PortName::new(name) else {
        return Ok(false);
    };
    match session.client()?.route(Lookup::Key(RouteKey::Attachment(port))) {
        Ok(_) => Ok(true),
        Err(ClientError::Refused(api::Error::Refused(Refusal::NoSuchRoute { .. }))) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

type Options = (Option<VlanOperation>, Option<bool>);

/// The words after both ports, in any order; `None` if there are others.
fn options_of(mut words: &[&str]) -> Result<Option<Options>, Failure> {
    let (mut vlan, mut one_way) = (None, None);
    loop {
        words = match *words {
            [] => return Ok(Some((vlan, one_way))),
            ["one-way", ref rest @ ..] if one_way.is_none() => {
                one_way = Some(true);
                rest
            }
            ["vlan", word, ref rest @ ..] if vlan.is_none() => {
                let all = [VlanOperation::Translate, VlanOperation::Pop, VlanOperation::Push];
                let found = all.into_iter().find(|operation| operation.name() == word);
                vlan = Some(found.ok_or_else(|| {
                    Failure::Usage(format!("`vlan {word}`: it must be `translate`, `pop` or `push`"))
                })?);
                rest
            }
            _ => return Ok(None),
        }
    }
}

/// One direction.
#[derive(Serialize)]
struct Direction {
    ifname: String,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<VlanOperation>,
    /// No frames go back.
    one_way: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    counter: Option<Counter>,
}

/// What `show` lists.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Direction(&'a Direction),
    Pseudowire(Box<JsonRoute>),
}

/// The routes of attachment circuits; and if only one port is shown, those by which frames leave there.
fn pseudowires(name: Option<&str>, session: &mut Session) -> Result<Vec<InstalledRoute>, Failure> {
    let counters = Some(session.out.style.stats);
    let mut routes = Vec::new();
    let (of_ports, exits) = match name {
        None => (
            Some(api::ListRoutes {
                family: Some(Family::Xconnect),
                counters,
                ..Default::default()
            }),
            None,
        ),
        Some(name) => {
            let attachment = PortName::new(name).ok();
            let of_port = attachment.map(|attachment| api::ListRoutes {
                attachment: Some(attachment),
                counters,
                ..Default::default()
            });
            let exits = api::ListRoutes {
                family: Some(Family::Mpls),
                dev: Some(name.into()),
                counters,
                ..Default::default()
            };
            (of_port, Some(exits))
        }
    };
    for list in of_ports.iter().chain(&exits) {
        session.client()?.routes(list, |route| {
            let leads_to_port = matches!(route.route.action, Some(RouteAction::Xconnect));
            if route.route.attachment.is_some() || leads_to_port {
                routes.push(route);
            }
            Ok::<_, Failure>(())
        })?;
    }
    Ok(routes)
}

fn show(name: Option<&str>, session: &mut Session) -> Result<(), Failure> {
    let stats = session.out.style.stats;
    let links = session.client()?.links(stats)?;
    if let Some(name) = name.filter(|name| links.iter().all(|link| link.ifname != **name)) {
        return Err(Failure::Refused(format!(
            "{name} is not a port: add it with `link add {name}`"
        )));
    }
    let all: Vec<_> = links.iter().filter_map(|link| direction(link, &links)).collect();
    let is_chosen = |one: &&Direction| name.is_none_or(|name| one.ifname == name || one.to == name);
    let chosen: Vec<_> = all.iter().filter(is_chosen).collect();
    let pseudowires = pseudowires(name, session)?;
    let out = &mut session.out;
    if out.style.json {
        let pseudowires = pseudowires
            .iter()
            .map(|route| Ok(Shown::Pseudowire(JsonRoute::new(route, stats)?.into())));
        let pseudowires = pseudowires.collect::<Result<Vec<_>, Failure>>()?;
        let directions = chosen.into_iter().map(Shown::Direction);
        return out.json(&directions.chain(pseudowires).collect::<Vec<_>>());
    }
    for one in &chosen {
        let Direction { ifname, to, .. } = one;
        let back = chosen.iter().find(|other| other.ifname == *to && other.to == *ifname);
        // Of the two directions of a pair, the first is shown with the other.
        if back.is_some() && to < ifname {
            continue;
        }
        let arrow = if back.is_some() { "<->" } else { "->" };
        let vlan = one.vlan.map(|operation| format!(" vlan {}", operation.name()));
        let mut lines = vec![format!("{ifname} {arrow} {to}{}", vlan.unwrap_or_default())];
        for direction in std::iter::once(one).chain(back) {
            if let Some(Counter { packets, bytes }) = direction.counter {
                let Direction { ifname, to, .. } = direction;
                lines.push(format!("    {ifname} -> {to} packets {packets} bytes {bytes}"));
            }
        }
        out.lines(&lines)?;
    }
    pseudowires
        .iter()
        .try_for_each(|route| out.lines(&route_lines(route, stats)?))
}

/// Where the frames of a port go.
fn direction(link: &Link, links: &[Link]) -> Option<Direction> {
    let to = link.cross_connect.clone()?;
    let other = links.iter().find(|other| other.ifname == to);
    let tagged = |link: &Link| link.vlan.is_some();
    let vlan = match (tagged(link), other.is_some_and(tagged)) {
        (true, true) => Some(VlanOperation::Translate),
        (true, false) => Some(VlanOperation::Pop),
        (false, true) => Some(VlanOperation::Push),
        (false, false) => None,
    };
    let crossed = |counters: &api::LinkCounters| {
        let mut reasons = counters.reasons.iter();
        let reason = reasons.find(|reason| reason.reason == Reason::CrossConnected.name());
        reason.map_or(Counter::default(), |reason| Counter {
            packets: reason.packets,
            bytes: reason.bytes,
        })
    };
    Some(Direction {
        ifname: link.ifname.clone(),
        vlan,
        one_way: other.is_none_or(|other| other.cross_connect.as_ref() != Some(&link.ifname)),
        counter: link.counters.as_ref().map(crossed),
        to,
    })
}

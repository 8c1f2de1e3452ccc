//! Reads a message: the call that it makes, or what is wrong with it and where. Has no access to sockets and changes
//! nothing.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mplsxdp_common::abi::{CaptureFilter, MAX_PUSH, Reason};
use mplsxdp_common::wire::Label;
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::api::{
    self, ChangeMode, EchoRequest, Error, EventKind, Family, INTERFACE, Key, KeyFilter, Lookup, Lsp, Method, Request,
    RouteFilter,
};
use super::events::Kinds;
use super::frames::Wanted;
use crate::dataplane::port_change::PortChange;
use crate::lfib::next_hops::Position;
use crate::route::check::address;
use crate::route::{InvalidRoute, Route, RouteKey, RoutingTable, Rule, Source};
use crate::strict::{self, Strict};

/// The interface that every varlink service has.
pub const SERVICE_INTERFACE: &str = "org.varlink.service";
/// Its definition.
pub const SERVICE_DEFINITION: &str = include_str!("org.varlink.service.varlink");

/// The command in a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    GetInfo,
    Describe {
        definition: &'static str,
    },
    /// A request that needs a single answer from the switch.
    Ask(Request),
    /// A list, whose answer may take several replies.
    List(List),
    /// Events as they happen, until the client hangs up.
    Monitor(Monitor),
    /// Frames, until the client hangs up.
    Capture(Wanted),
    Begin {
        replace_all: bool,
        owner: Source,
    },
    Stage {
        routes: Vec<Route>,
    },
    Commit {
        /// Confirms that all routes may be replaced by none.
        allow_empty: bool,
    },
    Rollback,
}

/// What a client wants to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Monitor {
    pub kinds: Kinds,
    /// Between two rates.
    pub interval: Duration,
}

/// A list, or the rest of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum List {
    Routes {
        filter: RouteFilter,
        after: Option<RouteKey>,
        counters: bool,
    },
    Links {
        counters: bool,
    },
    Neighbors {
        after: Option<Position>,
        counters: bool,
    },
    UnknownLabels,
}

/// How the client wants the call to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// With as many replies as necessary.
    pub more: bool,
    /// Not at all.
    pub oneway: bool,
}

/// Reads one message. `staged` is how many routes the open transaction has: indexes of the routes of a `Stage` continue
/// from there. `permit` refuses methods that the caller may not use, before their parameters are read.
pub fn read(
    message: &[u8],
    staged: usize,
    permit: impl FnOnce(Method) -> Result<(), Error>,
) -> (Flags, Result<Command, Error>) {
    match envelope(message) {
        Ok(envelope) => {
            let flags = Flags {
                more: envelope.more == Some(true),
                oneway: envelope.oneway == Some(true),
            };
            (flags, command(&envelope, staged, permit))
        }
        Err(error) => (Flags::default(), Err(error)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(default)]
    more: Option<bool>,
    #[serde(default)]
    oneway: Option<bool>,
    #[serde(default)]
    upgrade: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetInterfaceDescription {
    interface: String,
}

fn envelope(message: &[u8]) -> Result<Envelope<'_>, Error> {
    let invalid = |reason: String| Error::InvalidMessage { reason };
    let text = str::from_utf8(message).map_err(|error| invalid(format!("not UTF-8: {error}")))?;
    let object = text.trim_ascii_start().starts_with('{');
    strict::from_json(text).map_err(|error| match error.classify() {
        Category::Data if object => {
            let (at, reason) = explain::<Envelope>(text, "");
            let at = if at.is_empty() { at } else { format!("{at}: ") };
            invalid(format!("{at}{reason}"))
        }
        Category::Data => invalid("not a JSON object".into()),
        Category::Io | Category::Syntax | Category::Eof => invalid(format!("not JSON: {error}")),
    })
}

fn command(
    envelope: &Envelope,
    staged: usize,
    permit: impl FnOnce(Method) -> Result<(), Error>,
) -> Result<Command, Error> {
    if envelope.upgrade == Some(true) {
        return Err(Error::InvalidParameter {
            parameter: "upgrade".into(),
            reason: "no method can be upgraded".into(),
        });
    }
    let method = envelope.method.as_ref();
    let raw = envelope.parameters;
    let Some((interface, name)) = method.rsplit_once('.') else {
        return Err(Error::InvalidParameter {
            parameter: "method".into(),
            reason: format!("\"{method}\" is not an interface, a dot and a method, such as {INTERFACE}.GetStatus"),
        });
    };
    match interface {
        INTERFACE => {
            let method = Method::from_name(name).ok_or_else(|| Error::MethodNotFound {
                method: format!("{INTERFACE}.{name}"),
            })?;
            permit(method)?;
            our_command(method, raw, staged)
        }
        SERVICE_INTERFACE => service_command(name, raw),
        _ => Err(Error::InterfaceNotFound {
            interface: interface.into(),
        }),
    }
}

fn service_command(name: &str, raw: Option<&RawValue>) -> Result<Command, Error> {
    match name {
        "GetInfo" => nothing(raw, Command::GetInfo),
        "GetInterfaceDescription" => {
            let GetInterfaceDescription { interface } = parameters(raw)?;
            match interface.as_str() {
                INTERFACE => Ok(Command::Describe {
                    definition: api::DEFINITION,
                }),
                SERVICE_INTERFACE => Ok(Command::Describe {
                    definition: SERVICE_DEFINITION,
                }),
                _ => Err(Error::InterfaceNotFound { interface }),
            }
        }
        _ => Err(Error::MethodNotFound {
            method: format!("{SERVICE_INTERFACE}.{name}"),
        }),
    }
}

fn our_command(method: Method, raw: Option<&RawValue>, staged: usize) -> Result<Command, Error> {
    let change = |mode| {
        let api::OwnedRoutes { routes, owner } = parameters(raw)?;
        Ok(Command::Ask(Request::ChangeRoutes {
            mode,
            owner: owner.unwrap_or_default(),
            routes: checked(routes, 0)?,
            wait: false,
        }))
    };
    match method {
        Method::GetStatus => nothing(raw, Command::Ask(Request::GetStatus)),
        Method::GetConfig => nothing(raw, Command::Ask(Request::GetConfig)),
        Method::GetRoute => {
            let api::GetRoute {
                label,
                prefix,
                attachment,
                address,
                table,
            } = parameters(raw)?;
            let given = Key {
                label,
                prefix,
                attachment,
                table,
            };
            let is_address = label.is_none() && prefix.is_none() && attachment.is_none();
            let lookup = match (address, is_address) {
                (None, _) => Lookup::Key(key(given)?),
                (Some(address), true) => Lookup::Address(address, routing_table(table)?.unwrap_or(RoutingTable::MAIN)),
                (Some(_), false) => {
                    let reason = "only one of `label`, `prefix`, `attachment` and `address` can be given";
                    return Err(invalid("parameters", reason));
                }
            };
            Ok(Command::Ask(Request::GetRoute { lookup }))
        }
        Method::GetVrf => {
            let api::GetVrf { name } = parameters(raw)?;
            Ok(Command::Ask(Request::GetVrf { name }))
        }
        Method::ListRoutes => list_routes(parameters(raw)?),
        Method::AddRoutes => change(ChangeMode::Add),
        Method::ChangeRoutes => change(ChangeMode::Change),
        Method::ReplaceRoutes => change(ChangeMode::Replace),
        Method::DeleteRoutes => {
            let api::Keys { keys, owner } = parameters(raw)?;
            let routes = keys
                .into_iter()
                .enumerate()
                .map(|(index, described)| {
                    described.describe().map_err(|InvalidRoute { place, rule }| {
                        invalid(place.within(&format!("parameters.keys[{index}]")), rule)
                    })
                })
                .collect::<Result<_, _>>()?;
            let owner = owner.unwrap_or_default();
            Ok(Command::Ask(Request::DeleteRoutes { owner, routes }))
        }
        Method::FlushRoutes => {
            let flush: api::FlushRoutes = parameters(raw)?;
            let all = flush.all.unwrap_or(false);
            let owner = flush.owner.unwrap_or_default();
            let filter = filter(api::FlushRoutes { owner: None, ..flush }.into())?;
            let wrong = match (all, filter == RouteFilter::default()) {
                (false, true) => {
                    "without a filter all routes would be deleted: give a filter, or `all` true if that is meant"
                }
                (true, false) => "`all` true and a filter contradict each other: give one of them",
                _ => return Ok(Command::Ask(Request::FlushRoutes { owner, filter })),
            };
            Err(Error::InvalidParameter {
                parameter: "parameters".into(),
                reason: wrong.into(),
            })
        }
        Method::Begin => {
            let api::Begin { replace_all, owner } = parameters(raw)?;
            let owner = owner.unwrap_or_default();
            Ok(Command::Begin { replace_all, owner })
        }
        Method::Stage => Ok(Command::Stage {
            routes: checked(parameters::<api::Routes>(raw)?.routes, staged)?,
        }),
        Method::Commit => {
            let api::Commit { allow_empty } = parameters(raw)?;
            Ok(Command::Commit {
                allow_empty: allow_empty.unwrap_or(false),
            })
        }
        Method::Rollback => nothing(raw, Command::Rollback),
        Method::ListLinks => {
            let api::WithCounters { counters } = parameters(raw)?;
            Ok(Command::List(List::Links {
                counters: counters.unwrap_or(false),
            }))
        }
        Method::AddLink => {
            let api::AddLink {
                ifname: name,
                tx_only,
                accept_labels,
                mpls_mtu,
                dscp_map,
                tc_map,
                checksum,
            } = parameters(raw)?;
            let (tx_only, accept) = (tx_only.unwrap_or(false), accept_labels.unwrap_or_default());
            if tx_only && accept.0.is_some() {
                return Err(invalid("accept_labels", "a port with `tx_only` accepts no labels"));
            }
            let (dscp_map, tc_map) = (dscp_map.unwrap_or_default(), tc_map.unwrap_or_default());
            for (name, is_default) in [("dscp_map", dscp_map.is_default()), ("tc_map", tc_map.is_default())] {
                if tx_only && !is_default {
                    return Err(invalid(
                        name,
                        "nothing that arrives at a port with `tx_only` is forwarded",
                    ));
                }
            }
            Ok(Command::Ask(Request::AddLink {
                name,
                tx_only,
                accept,
                mpls_mtu: mpls_mtu.unwrap_or_default(),
                dscp_map,
                tc_map,
                checksum,
            }))
        }
        Method::DeleteLink => {
            let api::DeleteLink { ifname: name } = parameters(raw)?;
            Ok(Command::Ask(Request::DeleteLink { name }))
        }
        Method::SetLink => {
            let api::SetLink {
                ifname: name,
                mpls,
                accept_labels,
                mpls_mtu,
                dscp_map,
                tc_map,
            } = parameters(raw)?;
            let change = PortChange {
                mpls,
                accept_labels,
                mpls_mtu,
                dscp_map,
                tc_map,
            };
            if change == PortChange::default() {
                let reason = "`mpls`, `accept_labels`, `mpls_mtu`, `dscp_map` or `tc_map` must be given";
                return Err(invalid("parameters", reason));
            }
            Ok(Command::Ask(Request::SetLink { name, change }))
        }
        Method::AddCrossConnect => {
            let api::AddCrossConnect {
                ifname: name,
                to,
                vlan,
                one_way,
            } = parameters(raw)?;
            Ok(Command::Ask(Request::AddCrossConnect {
                name,
                to,
                vlan,
                one_way: one_way.unwrap_or(false),
            }))
        }
        Method::DeleteCrossConnect => {
            let api::DeleteCrossConnect {
                ifname: name,
                to,
                one_way,
            } = parameters(raw)?;
            Ok(Command::Ask(Request::DeleteCrossConnect {
                name,
                to,
                one_way: one_way.unwrap_or(false),
            }))
        }
        Method::ListNeighbors => {
            let api::WithCounters { counters } = parameters(raw)?;
            Ok(Command::List(List::Neighbors {
                after: None,
                counters: counters.unwrap_or(false),
            }))
        }
        Method::GetStats => {
            let api::GetStats { all } = parameters(raw)?;
            Ok(Command::Ask(Request::GetStats {
                all: all.unwrap_or(false),
            }))
        }
        Method::GetBusiestRoutes => {
            let given: api::GetBusiestRoutes = parameters(raw)?;
            let within = |field: &str, value: Option<u32>, default, range: RangeInclusive<u32>| {
                let value = value.unwrap_or(default);
                let (first, last) = (range.start(), range.end());
                match range.contains(&value) {
                    true => Ok(value),
                    false => Err(invalid(
                        format!("parameters.{field}"),
                        format!("{value} is not {first} to {last}"),
                    )),
                }
            };
            let count = within("count", given.count, 20, api::GetBusiestRoutes::COUNTS)?;
            let time = within(
                "milliseconds",
                given.milliseconds,
                1000,
                api::GetBusiestRoutes::MILLISECONDS,
            )?;
            Ok(Command::Ask(Request::GetBusiestRoutes {
                count: count as usize,
                time: Duration::from_millis(time.into()),
                order: given.order.unwrap_or_default(),
            }))
        }
        Method::Trace => {
            let api::TraceFrame { ifname: name, frame } = parameters(raw)?;
            let wrong = |reason: String| invalid("parameters.frame", reason);
            let frame = hex::decode(&frame).map_err(|error| wrong(format!("not hexadecimal: {error}")))?;
            if !api::TRACED_LEN.contains(&frame.len()) {
                let (first, last) = (api::TRACED_LEN.start(), api::TRACED_LEN.end());
                return Err(wrong(format!(
                    "a frame has {first} to {last} bytes, not {}",
                    frame.len()
                )));
            }
            Ok(Command::Ask(Request::Trace { name, frame }))
        }
        Method::SendLspPing => Ok(Command::Ask(Request::SendLspPing(Box::new(echo_request(parameters(
            raw,
        )?)?)))),
        Method::GetUnknownLabels => nothing(raw, Command::List(List::UnknownLabels)),
        Method::Monitor => monitor(parameters(raw)?),
        Method::Capture => capture(parameters(raw)?),
        Method::GetSync => nothing(raw, Command::Ask(Request::GetSync)),
        Method::CheckSync => {
            let api::CheckSync { repair } = parameters(raw)?;
            Ok(Command::Ask(Request::CheckSync {
                repair: repair.unwrap_or(false),
            }))
        }
        Method::Confirm => nothing(raw, Command::Ask(Request::Confirm)),
        Method::Upgrade => nothing(raw, Command::Ask(Request::Upgrade)),
        Method::Unload => nothing(raw, Command::Ask(Request::Unload)),
    }
}

/// The shortest and the longest time between two rates, in milliseconds.
const INTERVAL_MS: RangeInclusive<u64> = 100..=3_600_000;

fn monitor(given: api::Monitor) -> Result<Command, Error> {
    let kinds: Kinds = match given.kinds {
        Some(kinds) if kinds.is_empty() => {
            let reason = "no kind is given: leave it out for all but `rate`";
            return Err(invalid("parameters.kinds", reason));
        }
        Some(kinds) => kinds.into_iter().collect(),
        None => EventKind::ALL
            .iter()
            .copied()
            .filter(|&kind| kind != EventKind::Rate)
            .collect(),
    };
    let interval_ms = given.interval_ms.unwrap_or(1000);
    if given.interval_ms.is_some() && !kinds.contains(EventKind::Rate) {
        let reason = "there is nothing to report at intervals without the kind `rate`";
        return Err(invalid("parameters.interval_ms", reason));
    }
    if !INTERVAL_MS.contains(&interval_ms) {
        let (least, most) = (INTERVAL_MS.start(), INTERVAL_MS.end());
        let reason = format!("{interval_ms} is not a number from {least} to {most}");
        return Err(invalid("parameters.interval_ms", reason));
    }
    let interval = Duration::from_millis(interval_ms);
    Ok(Command::Monitor(Monitor { kinds, interval }))
}

fn capture(given: api::Capture) -> Result<Command, Error> {
    let api::Capture {
        reasons,
        ifname,
        label,
        sample,
    } = given;
    let bit = |(index, name): (usize, String)| {
        let reason = Reason::ALL.iter().find(|reason| reason.name() == name);
        let place = || {
            invalid(
                format!("parameters.reasons[{index}]"),
                format!("there is no reason `{name}`"),
            )
        };
        reason.map(|&reason| CaptureFilter::bit(reason)).ok_or_else(place)
    };
    let all = || {
        Reason::ALL
            .iter()
            .map(|&reason| CaptureFilter::bit(reason))
            .fold(0, |all, bit| all | bit)
    };
    let reasons = match reasons {
        Some(names) => names
            .into_iter()
            .enumerate()
            .map(bit)
            .try_fold(0, |bits, bit| bit.map(|bit| bits | bit))?,
        None => all(),
    };
    match sample {
        Some(0) => return Err(invalid("parameters.sample", "it is 0, but must be a number from 1 on")),
        None if reasons == 0 => {
            let reason = "nothing would be captured: give a reason, or `sample`";
            return Err(invalid("parameters.reasons", reason));
        }
        _ => {}
    }
    if label.is_some_and(|label| label > Label::MAX.get()) {
        let reason = format!("it is not a label, 0 to {}", Label::MAX);
        return Err(invalid("parameters.label", reason));
    }
    let sample = sample.unwrap_or(0);
    Ok(Command::Capture(Wanted {
        reasons,
        sample,
        ifname,
        label,
    }))
}

fn list_routes(list: api::ListRoutes) -> Result<Command, Error> {
    Ok(Command::List(List::Routes {
        counters: list.counters.unwrap_or(false),
        after: None,
        filter: filter(list)?,
    }))
}

fn key(given: Key) -> Result<RouteKey, Error> {
    let key = RouteKey::try_from(given);
    key.map_err(|InvalidRoute { place, rule }| invalid(place.within("parameters"), rule))
}

fn routing_table(given: Option<u32>) -> Result<Option<RoutingTable>, Error> {
    match given {
        Some(0) => Err(invalid("parameters.table", Rule::NotATable)),
        table => Ok(table.map(RoutingTable)),
    }
}

/// The filter of a list; `counters` is not part of it.
fn filter(list: api::ListRoutes) -> Result<RouteFilter, Error> {
    let family = list.family.map(|family| match family {
        Family::Mpls => KeyFilter::Labels,
        Family::Inet => KeyFilter::V4Prefixes,
        Family::Inet6 => KeyFilter::V6Prefixes,
        Family::Xconnect => KeyFilter::Attachments,
    });
    let label = list.label.map(|value| match Label::new(value) {
        Some(label) => Ok(KeyFilter::Label(label)),
        None => Err(invalid("parameters.label", Rule::NotALabel(value))),
    });
    let label = label.transpose()?;
    let prefix = list.prefix.map(KeyFilter::Prefix);
    let within = list.within.map(|prefix| KeyFilter::Within(prefix.trunc()));
    let covering = list.covering.map(|prefix| KeyFilter::Covering(prefix.trunc()));
    let attachment = list.attachment.map(KeyFilter::Attachment);
    let mut keys = [family, label, prefix, attachment, within, covering]
        .into_iter()
        .flatten();
    let chosen = keys.next().unwrap_or_default();
    if keys.next().is_some() {
        return Err(Error::InvalidParameter {
            parameter: "parameters".into(),
            reason: "only one of `family`, `label`, `prefix`, `attachment`, `within` and `covering` can be given"
                .into(),
        });
    }
    Ok(RouteFilter {
        keys: chosen,
        table: routing_table(list.table)?,
        protocol: list.protocol,
        via: list
            .via
            .map(address)
            .transpose()
            .map_err(|rule| invalid("parameters.via", rule))?,
        dev: list.dev,
        owner: list.owner,
        standby: list.standby.unwrap_or(false),
    })
}

/// The routes of a call, each checked. `base` is the index of the first one in errors.
fn checked(routes: Vec<api::Route>, base: usize) -> Result<Vec<Route>, Error> {
    // Most next hops of a list use the same interface, so its name is shared.
    let mut last: Option<Arc<str>> = None;
    let mut share = |dev: &mut Arc<str>| match &last {
        Some(known) if known == dev => *dev = Arc::clone(known),
        _ => last = Some(Arc::clone(dev)),
    };
    routes
        .into_iter()
        .enumerate()
        .map(|(index, mut route)| {
            route.dev.as_mut().map(&mut share);
            route.check().map_err(|InvalidRoute { place, rule }| {
                Error::Refused(api::Refusal::RouteRefused {
                    index: base + index,
                    parameter: Some(place.within(&format!("parameters.routes[{index}]"))),
                    reason: rule.to_string(),
                })
            })
        })
        .collect()
}

/// The request that a call of `SendLspPing` is for.
fn echo_request(call: api::LspPing) -> Result<EchoRequest, Error> {
    let address = |name: &str, text: &str| {
        let address = text.parse::<IpAddr>();
        address.map_err(|_| invalid(format!("parameters.{name}"), format!("`{text}` is not an IP address")))
    };
    let lsp = match (&call.prefix, &call.labels, &call.via) {
        (Some(prefix), None, None) if call.dev.is_none() => {
            let prefix = prefix.parse::<IpNet>();
            Lsp::Prefix(
                prefix
                    .map_err(|_| invalid("parameters.prefix", "not a prefix such as 10.4.4.0/24"))?
                    .trunc(),
            )
        }
        (None, Some(labels), Some(via)) => {
            let labels = labels
                .iter()
                .map(|&label| Label::new(label))
                .collect::<Option<Vec<_>>>();
            let labels = labels.filter(|labels| (1..=MAX_PUSH).contains(&labels.len()));
            Lsp::Stack {
                labels: labels.ok_or_else(|| {
                    let reason = format!("must be 1 to {MAX_PUSH} labels, each from 0 to 1048575");
                    invalid("parameters.labels", reason)
                })?,
                via: address("via", via)?,
                dev: call.dev,
            }
        }
        _ => return Err(invalid("parameters", "`prefix`, or `labels` and `via`, must be given")),
    };
    let destination = address("destination", &call.destination)?;
    let is_loopback = match destination {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback())
        }
    };
    if !is_loopback {
        let reason = format!("{destination} is not a loopback address: 127.0.0.0/8, ::1 or ::ffff:127.0.0.0/104");
        return Err(invalid("parameters.destination", reason));
    }
    if call.ttl == 0 || call.source_port == 0 {
        let place = if call.ttl == 0 {
            "parameters.ttl"
        } else {
            "parameters.source_port"
        };
        return Err(invalid(place, "must not be 0"));
    }
    let source = call.source.map(|source| address("source", &source)).transpose()?;
    if source.is_some_and(|source| source.is_ipv4() != destination.is_ipv4()) {
        return Err(invalid("parameters.source", "must be of the family of `destination`"));
    }
    Ok(EchoRequest {
        lsp,
        source,
        source_port: call.source_port,
        destination,
        ttl: call.ttl,
        payload: hexadecimal(&call.payload).ok_or_else(|| invalid("parameters.payload", "not hexadecimal octets"))?,
        dry_run: call.dry_run.unwrap_or(false),
    })
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let octet = |&[high, low]: &[u8; 2]| Some((digit(high)? << 4 | digit(low)?) as u8);
    pairs
        .iter()
        .map(octet)
        .collect::<Option<_>>()
        .filter(|_| rest.is_empty())
}

fn nothing(raw: Option<&RawValue>, command: Command) -> Result<Command, Error> {
    parameters(raw).map(|api::Nothing {}| command)
}

fn invalid(parameter: impl Into<String>, reason: impl ToString) -> Error {
    Error::InvalidParameter {
        parameter: parameter.into(),
        reason: reason.to_string(),
    }
}

/// Reads parameters directly into their type. Only if that fails are they read again, to find the place of the error.
fn parameters<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Result<T, Error> {
    let text = raw.map_or("{}", RawValue::get);
    if !text.starts_with('{') {
        return Err(invalid("parameters", "not a JSON object"));
    }
    strict::from_json(text).map_err(|_| {
        let (place, reason) = explain::<T>(text, "parameters");
        invalid(place, reason)
    })
}

/// The place of an unreadable value, below `root`, and what is wrong there.
fn explain<'a, T: Deserialize<'a>>(text: &'a str, root: &str) -> (String, String) {
    let mut json = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(Strict(&mut json)) {
        Ok(_) => (root.into(), "trailing characters".into()),
        Err(error) => {
            let path = error.path().to_string();
            let place = match (root, path.as_str()) {
                (_, ".") => root.into(),
                ("", _) => path,
                _ => format!("{root}.{path}"),
            };
            let reason = error.into_inner().to_string();
            // serde_json gives the place as a column in a message that no person sees as text.
            let reason = reason
                .rsplit_once(" at line ")
                .map_or(reason.as_str(), |(what, _)| what);
            (place, reason.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(message: &str) -> String {
        let (_, outcome) = read(message.as_bytes(), 0, |_| Ok(()));
        serde_json::to_string(&outcome.unwrap_err()).unwrap()
    }

    fn parameter(at: &str, reason: &str) -> String {
        serde_json::json!({
            "error": "org.varlink.service.InvalidParameter",
            "parameters": { "parameter": at, "reason": reason },
        })
        .to_string()
    }

    fn message(reason: &str) -> String {
        serde_json::json!({ "error": "io.mplsxdp.InvalidMessage", "parameters": { "reason": reason } }).to_string()
    }

    #[test]
    fn a_bad_call_gets_an_error_that_says_what_and_where() {
        for (text, reason) in [
            ("", "not JSON: EOF while parsing a value at line 1 column 0"),
            ("hello", "not JSON: expected value at line 1 column 1"),
            (
                "{\"method\":\"x.Y\"",
                "not JSON: EOF while parsing an object at line 1 column 15",
            ),
            (
                "{\"method\":\"x.Y\"} {}",
                "not JSON: trailing characters at line 1 column 18",
            ),
            ("[\"io.mplsxdp.GetStatus\"]", "not a JSON object"),
            ("\"io.mplsxdp.GetStatus\"", "not a JSON object"),
            ("{}", "missing field `method`"),
            ("{\"method\":5}", "method: invalid type: integer `5`, expected a string"),
            (
                "{\"method\":\"io.mplsxdp.GetStatus\",\"more\":1}",
                "more: invalid type: integer `1`, expected a boolean",
            ),
            (
                "{\"method\":\"io.mplsxdp.GetStatus\",\"method\":\"io.mplsxdp.Unload\"}",
                "duplicate field `method`",
            ),
            (
                "{\"method\":\"io.mplsxdp.GetStatus\",\"params\":{}}",
                "params: unknown field `params`, expected one of `method`, `parameters`, `more`, `oneway`, `upgrade`",
            ),
        ] {
            assert_eq!(error(text), message(reason), "{text}");
        }
        let (_, outcome) = read(b"{\"method\":\"\xff\"}", 0, |_| Ok(()));
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "not a varlink call: not UTF-8: invalid utf-8 sequence of 1 bytes from index 11"
        );
    }

    #[test]
    fn bad_parameters_get_an_error_that_says_what_and_where() {
        for (method, parameters, at, reason) in [
            ("GetStatus", "[]", "parameters", "not a JSON object"),
            ("GetStatus", "5", "parameters", "not a JSON object"),
            (
                "GetStatus",
                "{\"x\":1}",
                "parameters.x",
                "unknown field `x`, there are no fields",
            ),
            ("AddRoutes", "{}", "parameters", "missing field `routes`"),
            (
                "AddRoutes",
                "{\"routes\":{}}",
                "parameters.routes",
                "invalid type: map, expected a sequence",
            ),
            (
                "AddRoutes",
                "{\"routes\":[{\"label\":100},{\"label\":101,\"via\":{\"family\":\"inet\",\"host\":7}}]}",
                "parameters.routes[1].via.host",
                "invalid type: integer `7`, expected a string",
            ),
            (
                "Stage",
                "{\"routes\":[{\"label\":-1}]}",
                "parameters.routes[0].label",
                "invalid value: integer `-1`, expected u32",
            ),
            (
                "AddRoutes",
                "{\"routes\":[{\"label\":100,\"out\":[110,\"x\"]}]}",
                "parameters.routes[0].out[1]",
                "invalid type: string \"x\", expected u32",
            ),
            (
                "AddRoutes",
                "{\"routes\":[{\"label\":100,\"lable\":100}]}",
                "parameters.routes[0].lable",
                "unknown field `lable`, expected one of `label`, `prefix`, `attachment`, `table`, `action`, `out`, `ttl`, `ttl_propagate`, `via`, `dev`, `backup`, `nexthops`, `protocol`, `metric`, `reason`, `pseudowire`",
            ),
            (
                "AddRoutes",
                "{\"routes\":[{\"label\":100,\"action\":\"drop\"}]}",
                "parameters.routes[0].action",
                "unknown variant `drop`, expected one of `swap`, `pop`, `penultimate_pop`, `local`, `local_pass`, `vrf_pass`, `xconnect`, `push`, `pass`",
            ),
            (
                "AddRoutes",
                "{\"routes\":[{\"prefix\":\"10.0.0.0/33\"}]}",
                "parameters.routes[0].prefix",
                "invalid IP address syntax",
            ),
            (
                "DeleteRoutes",
                "{\"keys\":[{}]}",
                "parameters.keys[0]",
                "neither a label nor a prefix nor the port of an attachment circuit",
            ),
            (
                "ListRoutes",
                "{\"label\":1048576}",
                "parameters.label",
                "`1048576` is not a label: labels are 0 to 1048575",
            ),
            (
                "ListRoutes",
                "{\"label\":100,\"family\":\"mpls\"}",
                "parameters",
                "only one of `family`, `label`, `prefix`, `attachment`, `within` and `covering` can be given",
            ),
            ("Begin", "{}", "parameters", "missing field `replace_all`"),
            (
                "SetLink",
                "{\"ifname\":\"eth1\",\"mpls\":\"on\"}",
                "parameters.mpls",
                "invalid type: string \"on\", expected a boolean",
            ),
            (
                "SetLink",
                "{\"ifname\":\"eth1\",\"mpls_mtu\":71}",
                "parameters.mpls_mtu",
                "71 is not an MPLS MTU: it is 72 to 65535 bytes, or 0 for the port's MTU",
            ),
        ] {
            let text = format!("{{\"method\":\"io.mplsxdp.{method}\",\"parameters\":{parameters}}}");
            assert_eq!(error(&text), parameter(at, reason), "{text}");
        }
        assert_eq!(
            error("{\"method\":\"io.mplsxdp.GetStatus\",\"upgrade\":true}"),
            parameter("upgrade", "no method can be upgraded")
        );
        assert_eq!(
            error("{\"method\":\"GetStatus\"}"),
            parameter(
                "method",
                "\"GetStatus\" is not an interface, a dot and a method, such as io.mplsxdp.GetStatus"
            )
        );
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let standard = |error: &str, parameter: &str, value: &str| {
            serde_json::json!({ "error": format!("org.varlink.service.{error}"), "parameters": { parameter: value } })
                .to_string()
        };
        assert_eq!(
            error("{\"method\":\"io.mplsxdp.Explode\"}"),
            standard("MethodNotFound", "method", "io.mplsxdp.Explode")
        );
        assert_eq!(
            error("{\"method\":\"org.example.Ping\"}"),
            standard("InterfaceNotFound", "interface", "org.example")
        );
        assert_eq!(
            error(
                "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"org.example\"}}"
            ),
            standard("InterfaceNotFound", "interface", "org.example")
        );
    }

    #[test]
    fn a_route_that_cannot_be_is_named_by_its_index() {
        let text = "{\"method\":\"io.mplsxdp.Stage\",\"parameters\":{\"routes\":[\
                    {\"label\":100,\"out\":[110],\"via\":{\"family\":\"inet\",\"host\":\"192.0.2.1\"}},\
                    {\"label\":101,\"via\":{\"family\":\"inet\",\"host\":\"192.0.2.256\"}}]}}";
        let (_, outcome) = read(text.as_bytes(), 1000, |_| Ok(()));
        assert_eq!(
            outcome,
            Err(Error::Refused(api::Refusal::RouteRefused {
                index: 1001,
                parameter: Some("parameters.routes[1].via".into()),
                reason: "`192.0.2.256` is not an IPv4 address, such as 192.0.2.1".into(),
            }))
        );
    }

    proptest! {
        /// A good message with some bytes changed, cut short or doubled is a call or an error, never a panic.
        #[test]
        fn no_message_is_too_odd(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            length in any::<prop::sample::Index>(),
        ) {
            let mut message = br#"{"method":"io.mplsxdp.Stage","more":true,"parameters":{"routes":[{"label":100,"action":"swap",
                "out":[110,120],"ttl_propagate":false,"via":{"family":"inet","host":"192.0.2.1"},"dev":"eth1"},
                {"prefix":"10.0.0.0/8","out":[16],"ttl":5,"via":{"family":"link","host":"02:00:00:00:00:01"},"dev":"e"}]}}"#
                .to_vec();
            let whole = changes.is_empty();
            for (at, byte) in changes {
                let at = at.index(message.len());
                message[at] = byte;
            }
            prop_assert!(read(&message, 0, |_| Ok(())).1.is_ok() || !whole);
            message.truncate(length.index(message.len()));
            prop_assert!(read(&message, 0, |_| Ok(())).1.is_err());
        }
    }

    #[test]
    fn flags_and_missing_parameters() {
        let (flags, outcome) = read(
            b"{\"method\":\"io.mplsxdp.ListRoutes\",\"more\":true,\"oneway\":false,\"parameters\":null}",
            0,
            |_| Ok(()),
        );
        assert_eq!(
            flags,
            Flags {
                more: true,
                oneway: false
            }
        );
        assert_eq!(
            outcome,
            Ok(Command::List(List::Routes {
                filter: RouteFilter::default(),
                after: None,
                counters: false
            }))
        );
    }
}

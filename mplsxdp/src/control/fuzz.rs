//! Properties of reading calls that must hold whatever a client sends: [`control`] panics if one does not.

use bytes::BytesMut;
use mplsxdp_common::abi::{CaptureFilter, Reason};
use serde_json::{Value, json};
use tokio_util::codec::Decoder as _;

use super::api::{self, ChangeMode, EchoRequest, Error, EventKind, INTERFACE, Lsp, Request, RouteFilter};
use super::call::{self, Command, Flags, List, Monitor, SERVICE_INTERFACE};
use super::codec::{Message, Messages};
use crate::route::Route;

/// Checks these properties. `data` begins with the maximum length of a message and how many bytes arrive at once; the
/// rest is what arrives. Messages must be the same in whatever pieces they arrive; no more may be buffered than one
/// message may have; and each message must be a call or an error, either of which can be written and read again.
pub fn control(data: &[u8]) {
    let Some((&[limit, piece], stream)) = data.split_first_chunk() else {
        return;
    };
    let limit = usize::from(limit) * 16;
    let messages = split(limit, stream, usize::from(piece) + 1);
    assert_eq!(messages, split(limit, stream, stream.len().max(1)), "the pieces matter");
    for message in messages {
        match message {
            Message::Whole(message) => {
                assert!(message.len() <= limit);
                check_call(&message);
            }
            Message::TooLarge => {}
        }
    }
}

fn split(limit: usize, stream: &[u8], piece: usize) -> Vec<Message> {
    let mut messages = Messages::new(limit);
    let mut buffer = BytesMut::new();
    let mut out = Vec::new();
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        while let Some(message) = messages
            .decode(&mut buffer)
            .expect("there is nothing that cannot be split")
        {
            out.push(message);
        }
        assert!(buffer.len() <= limit, "{} bytes are kept", buffer.len());
    }
    out
}

fn check_call(message: &[u8]) {
    match call::read(message, 0, |_| Ok(())) {
        (flags, Ok(command)) => {
            let written = message_of(&command, flags).to_string();
            let again = call::read(written.as_bytes(), 0, |_| Ok(()));
            assert_eq!(again, (flags, Ok(command)), "{written}");
        }
        (_, Err(error)) => {
            match &error {
                Error::InvalidParameter { parameter, reason } => {
                    let places = ["parameters", "method", "upgrade"];
                    assert!(places.iter().any(|place| parameter.starts_with(place)), "{parameter}");
                    assert!(!reason.is_empty());
                }
                Error::InvalidMessage { reason } => assert!(!reason.is_empty()),
                _ => {}
            }
            let written = serde_json::to_string(&error).expect("an error can be written");
            let again: Error = serde_json::from_str(&written).expect("what was written can be read");
            assert_eq!(again, error, "{written}");
        }
    }
}

/// The call as a client would write it.
fn message_of(command: &Command, flags: Flags) -> Value {
    let (interface, method, parameters) = match command {
        Command::GetInfo => (SERVICE_INTERFACE, "GetInfo", json!({})),
        Command::Describe { definition } => {
            let interface = if *definition == api::DEFINITION {
                INTERFACE
            } else {
                SERVICE_INTERFACE
            };
            let parameters = json!({ "interface": interface });
            (SERVICE_INTERFACE, "GetInterfaceDescription", parameters)
        }
        Command::Ask(request) => {
            let (method, parameters) = request_of(request);
            (INTERFACE, method, parameters)
        }
        Command::List(List::Routes { filter, counters, .. }) => (INTERFACE, "ListRoutes", list_of(filter, *counters)),
        Command::List(List::Links { counters }) => (INTERFACE, "ListLinks", json!({ "counters": counters })),
        Command::List(List::Neighbors { counters, .. }) => {
            (INTERFACE, "ListNeighbors", json!({ "counters": counters }))
        }
        Command::List(List::UnknownLabels) => (INTERFACE, "GetUnknownLabels", json!({})),
        Command::Monitor(Monitor { kinds, interval }) => {
            let kinds = EventKind::ALL.iter().copied().filter(|&kind| kinds.contains(kind));
            let interval_ms = kinds
                .clone()
                .any(|kind| kind == EventKind::Rate)
                .then_some(interval.as_millis());
            let parameters = json!({ "kinds": kinds.collect::<Vec<_>>(), "interval_ms": interval_ms });
            (INTERFACE, "Monitor", parameters)
        }
        Command::Capture(wanted) => {
            let reasons = Reason::ALL.iter().copied();
            let reasons = reasons.filter(|&reason| wanted.reasons & CaptureFilter::bit(reason) != 0);
            let capture = api::Capture {
                reasons: Some(reasons.map(|reason| reason.name().to_owned()).collect()),
                ifname: wanted.ifname.clone(),
                label: wanted.label,
                sample: Some(wanted.sample).filter(|&sample| sample > 0),
            };
            (INTERFACE, "Capture", json!(capture))
        }
        Command::Begin { replace_all, owner } => (
            INTERFACE,
            "Begin",
            json!({ "replace_all": replace_all, "owner": owner }),
        ),
        Command::Stage { routes } => (INTERFACE, "Stage", routes_of(routes)),
        Command::Commit { allow_empty } => (INTERFACE, "Commit", json!({ "allow_empty": allow_empty })),
        Command::Rollback => (INTERFACE, "Rollback", json!({})),
    };
    json!({
        "method": format!("{interface}.{method}"),
        "parameters": parameters,
        "more": flags.more,
        "oneway": flags.oneway,
    })
}

fn request_of(request: &Request) -> (&'static str, Value) {
    match request {
        Request::GetStatus => ("GetStatus", json!({})),
        Request::GetConfig => ("GetConfig", json!({})),
        Request::ListRoutes { .. }
        | Request::ListLinks { .. }
        | Request::ListNeighbors { .. }
        | Request::GetUnknownLabels => {
            unreachable!("lists are read as lists")
        }
        Request::Monitor { .. } | Request::Capture { .. } | Request::DescribeRoutes { .. } => {
            unreachable!("no call is read as these")
        }
        Request::GetRings => unreachable!("no method asks for rings"),
        Request::ChangeRoutes {
            mode, owner, routes, ..
        } => {
            let method = match mode {
                ChangeMode::Add => "AddRoutes",
                ChangeMode::Change => "ChangeRoutes",
                ChangeMode::Replace => "ReplaceRoutes",
                ChangeMode::ReplaceAll => unreachable!("only a transaction replaces all"),
            };
            let mut parameters = routes_of(routes);
            parameters["owner"] = json!(owner);
            (method, parameters)
        }
        Request::GetRoute { lookup } => ("GetRoute", json!(api::GetRoute::from(*lookup))),
        Request::Trace { name, frame } => {
            let (ifname, frame) = (name.clone(), hex::encode(frame));
            ("Trace", json!(api::TraceFrame { ifname, frame }))
        }
        Request::GetVrf { name } => ("GetVrf", json!(api::GetVrf { name: name.clone() })),
        Request::DeleteRoutes { owner, routes } => {
            let keys = routes.iter().map(api::Route::from).collect();
            let owner = Some(*owner);
            ("DeleteRoutes", json!(api::Keys { keys, owner }))
        }
        Request::FlushRoutes { owner, filter } => {
            let owner = Some(*owner);
            let flush = api::FlushRoutes { owner, ..filter.into() };
            ("FlushRoutes", json!(flush))
        }
        Request::AddLink {
            name,
            tx_only,
            accept,
            mpls_mtu,
            dscp_map,
            tc_map,
            checksum,
        } => (
            "AddLink",
            json!({
                "ifname": name,
                "tx_only": tx_only,
                "accept_labels": accept,
                "mpls_mtu": mpls_mtu,
                "dscp_map": dscp_map,
                "tc_map": tc_map,
                "checksum": checksum,
            }),
        ),
        Request::DeleteLink { name } => ("DeleteLink", json!({ "ifname": name })),
        Request::SetLink { name, change } => (
            "SetLink",
            json!({
                "ifname": name,
                "mpls": change.mpls,
                "accept_labels": change.accept_labels,
                "mpls_mtu": change.mpls_mtu,
                "dscp_map": change.dscp_map,
                "tc_map": change.tc_map,
            }),
        ),
        Request::AddCrossConnect {
            name,
            to,
            vlan,
            one_way,
        } => (
            "AddCrossConnect",
            json!({ "ifname": name, "to": to, "vlan": vlan, "one_way": one_way }),
        ),
        Request::DeleteCrossConnect { name, to, one_way } => (
            "DeleteCrossConnect",
            json!({ "ifname": name, "to": to, "one_way": one_way }),
        ),
        Request::GetStats { all } => ("GetStats", json!({ "all": all })),
        Request::GetBusiestRoutes { count, time, order } => (
            "GetBusiestRoutes",
            json!({ "count": count, "milliseconds": time.as_millis(), "order": order }),
        ),
        Request::SendLspPing(request) => ("SendLspPing", echo_of(request)),
        Request::GetSync => ("GetSync", json!({})),
        Request::CheckSync { repair } => ("CheckSync", json!({ "repair": repair })),
        Request::Confirm => ("Confirm", json!({})),
        Request::Upgrade => ("Upgrade", json!({})),
        Request::Unload => ("Unload", json!({})),
    }
}

fn echo_of(request: &EchoRequest) -> Value {
    let mut call = api::LspPing {
        source: request.source.map(|source| source.to_string()),
        source_port: request.source_port,
        destination: request.destination.to_string(),
        ttl: request.ttl,
        payload: request.payload.iter().map(|byte| format!("{byte:02x}")).collect(),
        dry_run: Some(request.dry_run),
        ..api::LspPing::default()
    };
    match &request.lsp {
        Lsp::Prefix(prefix) => call.prefix = Some(prefix.to_string()),
        Lsp::Stack { labels, via, dev } => {
            call.labels = Some(labels.iter().map(|label| label.get()).collect());
            (call.via, call.dev) = (Some(via.to_string()), dev.clone());
        }
    }
    json!(call)
}

fn routes_of(routes: &[Route]) -> Value {
    let routes = routes.iter().map(api::Route::from).collect();
    json!(api::Routes { routes })
}

fn list_of(filter: &RouteFilter, counters: bool) -> Value {
    json!(api::ListRoutes {
        counters: Some(counters),
        standby: Some(filter.standby),
        ..api::FlushRoutes::from(filter).into()
    })
}

//! The pseudowires that FRR's ldpd signals, as routes. Zebra has their labels, their states and the ways to their other
//! ends; only ldpd knows what was agreed on about control words and tags.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mplsxdp_common::abi::TtlPropagate;
use mplsxdp_common::wire::Label;
use serde::Deserialize;
use serde_json::Value;
use tracing::debug;

use crate::route::{
    Action, Attributes, InvalidRoute, NextHop, OutLabels, Path, PortName, Protocol, Pseudowire, Route, RouteKey,
    ServiceTag, Via,
};

/// The name of LDP in zebra's answers, and its number as the protocol of routes.
const LDP: (&str, Protocol) = ("ldp", Protocol(193));
/// The type of a pseudowire in tagged mode, in ldpd's answers (RFC 4446 section 3.2: 4).
const TAGGED: &str = "Eth Tagged";

/// The answer to `show mpls pseudowires detail json`.
#[derive(Deserialize)]
struct Wires {
    #[serde(default)]
    pw: Vec<Wire>,
}

/// A pseudowire of zebra. A label that is not there is a text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wire {
    interface: Box<str>,
    neighbor: Box<str>,
    #[serde(default)]
    local_label: Value,
    #[serde(default)]
    remote_label: Value,
    #[serde(default)]
    protocol: Box<str>,
    #[serde(default)]
    vc_id: u32,
    #[serde(default, rename = "Status")]
    status: Box<str>,
    #[serde(default)]
    nexthops: Vec<WireHop>,
}

/// A way to the other end: such as `10.0.1.2, via eth1`, and the label for it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireHop {
    nexthop: Box<str>,
    nh_label: Option<u32>,
}

/// An entry of the answer to `show l2vpn atom binding json`. Flags are numbers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    destination: Box<str>,
    vc_id: u32,
    #[serde(default)]
    local_control_word: Value,
    #[serde(default)]
    remote_control_word: Value,
    #[serde(default)]
    local_vc_type: Box<str>,
}

/// Zebra's pseudowires.
pub fn parse_wires(text: &[u8]) -> serde_json::Result<Vec<Wire>> {
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let wires: Wires = serde_json::from_slice(text)?;
    Ok(wires.pw)
}

/// What ldpd has agreed on with the other ends.
pub fn parse_bindings(text: &[u8]) -> serde_json::Result<Vec<Binding>> {
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let bindings: BTreeMap<Box<str>, Binding> = serde_json::from_slice(text)?;
    Ok(bindings.into_values().collect())
}

impl Wire {
    /// Whether LDP signals it; otherwise it is configured at zebra.
    pub fn is_signalled(&self) -> bool {
        *self.protocol == *LDP.0
    }

    /// `None`: it is not up, or without all that it takes.
    fn routes(&self, bindings: &[Binding]) -> Option<Result<[Route; 2], InvalidRoute>> {
        if !self.status.eq_ignore_ascii_case("up") {
            return None;
        }
        let port = PortName::new(&self.interface).ok()?;
        let (local, remote) = (label(&self.local_label)?, label(&self.remote_label)?);
        let pseudowire = match self.is_signalled() {
            true => {
                let is_it = |binding: &&Binding| binding.destination == self.neighbor && binding.vc_id == self.vc_id;
                bindings.iter().find(is_it)?.pseudowire()
            }
            // Zebra does not say otherwise.
            false => Pseudowire::default(),
        };
        let hops: Option<Vec<_>> = self.nexthops.iter().map(|hop| hop.path(remote)).collect();
        let hops = hops.filter(|hops| !hops.is_empty())?;
        Some(self.made(port, local, pseudowire, hops))
    }

    fn made(
        &self,
        port: PortName,
        local: Label,
        pseudowire: Pseudowire,
        hops: Vec<Path>,
    ) -> Result<[Route; 2], InvalidRoute> {
        let attributes = Attributes {
            protocol: if self.is_signalled() { LDP.1 } else { Protocol::STATIC },
            ..Attributes::default()
        };
        let out = Path::new(Action::CrossConnect(port), None);
        let route = |key, paths| {
            let route = Route::with_paths(key, paths, TtlPropagate::Default)?;
            route.with_pseudowire(pseudowire)?.with_attributes(attributes)
        };
        Ok([
            route(RouteKey::Label(local), vec![out])?,
            route(RouteKey::Attachment(port), hops)?,
        ])
    }
}

impl WireHop {
    /// The path to the other end. `None`: it is not one that can be used.
    fn path(&self, remote: Label) -> Option<Path> {
        let (address, dev) = self.nexthop.split_once(", via ")?;
        let via = match address.trim().parse().ok()? {
            IpAddr::V4(address) => Via::Inet(address),
            IpAddr::V6(address) => Via::Inet6(address),
        };
        let transport = self.nh_label.map(Label::new);
        // The other end is a neighbour.
        let transport = transport.filter(|&label| label != Some(Label::IMPLICIT_NULL));
        let labels: Option<Vec<Label>> = transport.into_iter().chain([Some(remote)]).collect();
        let labels = OutLabels::new(labels?).ok()?;
        let dev = Some(dev.trim().into());
        let action = Action::Push { labels, ttl: None };
        Some(Path::new(action, Some(NextHop { via, dev })))
    }
}

impl Binding {
    fn pseudowire(&self) -> Pseudowire {
        let is_set = |value: &Value| value.as_bool() == Some(true) || value.as_u64().is_some_and(|value| value != 0);
        Pseudowire {
            // RFC 8077 section 7.1: it is used if both ends want it.
            control_word: is_set(&self.local_control_word) && is_set(&self.remote_control_word),
            flow_label: false,
            service_tag: match &*self.local_vc_type {
                TAGGED => ServiceTag::Tagged,
                _ => ServiceTag::Raw,
            },
        }
    }
}

/// The routes of all pseudowires that are up, in the order of their keys.
pub fn pseudowire_routes(wires: &[Wire], bindings: &[Binding]) -> Vec<Route> {
    let mut routes = BTreeMap::new();
    for wire in wires {
        match wire.routes(bindings) {
            None => {}
            Some(Ok(both)) if both.iter().all(|route| !routes.contains_key(&route.key())) => {
                routes.extend(both.map(|route| (route.key(), route)));
            }
            Some(Ok(_)) => debug!(
                interface = &*wire.interface,
                "FRR has another pseudowire with this interface or label"
            ),
            Some(Err(error)) => debug!(
                interface = &*wire.interface,
                "a pseudowire of FRR cannot be made: {error}"
            ),
        }
    }
    routes.into_values().collect()
}

fn label(value: &Value) -> Option<Label> {
    Label::new(value.as_u64()?.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Of FRR 8.4.4, from PE1 of the lab `pseudowires`.
    const WIRES: &str = include_str!("fixtures/pseudowires.json");
    const BINDINGS: &str = include_str!("fixtures/l2vpn-binding.json");

    fn lines(wires: &str, bindings: &str) -> Vec<String> {
        let wires = parse_wires(wires.as_bytes()).unwrap();
        let bindings = parse_bindings(bindings.as_bytes()).unwrap();
        let routes = pseudowire_routes(&wires, &bindings);
        routes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pseudowire_that_ldp_signals() {
        let expected = [
            "16 xconnect to-CE1 proto ldp",
            "xconnect to-CE1 encap mpls 17/16 via inet 10.0.1.2 dev to-PR proto ldp",
        ];
        assert_eq!(lines(WIRES, BINDINGS), expected);
        // The other end wants no control word; the pseudowire is tagged.
        let without = BINDINGS.replace("remoteControlWord\":1", "remoteControlWord\":0");
        assert_eq!(lines(WIRES, &without)[0], "16 xconnect to-CE1 no-cw proto ldp");
        let tagged = BINDINGS.replace("\"Ethernet\"", "\"Eth Tagged\"");
        assert_eq!(lines(WIRES, &tagged)[0], "16 xconnect to-CE1 tagged proto ldp");
        // The other end is a neighbour, or is reached in two ways.
        for label in ["3", "null"] {
            let near = WIRES.replace("\"nhLabel\":17", &format!("\"nhLabel\":{label}"));
            let line = "xconnect to-CE1 encap mpls 16 via inet 10.0.1.2 dev to-PR proto ldp";
            assert_eq!(lines(&near, BINDINGS)[1], line);
        }
        let second = "{\"nexthop\":\"fe80::1, via eth3\",\"nhLabel\":18},{";
        let two = WIRES.replacen("\"nexthops\":[\n        {", &format!("\"nexthops\":[{second}"), 1);
        let both = "xconnect to-CE1 proto ldp nexthop encap mpls 17/16 via inet 10.0.1.2 dev to-PR weight 1 \
                    nexthop encap mpls 18/16 via inet6 fe80::1 dev eth3 weight 1";
        assert_eq!(lines(&two, BINDINGS)[1], both);
    }

    #[test]
    fn what_is_not_up_on_both_sides_is_left_out() {
        for (from, to) in [
            ("\"Up\"", "\"Down\""),
            ("\"remoteLabel\":16", "\"remoteLabel\":\"-\""),
            ("\"localLabel\":16", "\"localLabel\":\"unassigned\""),
            ("\"localLabel\":16", "\"localLabel\":3"),
            ("10.0.1.2, via to-PR", "unknown"),
            ("to-CE1", "to/CE1"),
            ("\"vcId\":100", "\"vcId\":101"),
        ] {
            let text = WIRES.replace(from, to);
            assert_ne!(text, WIRES, "{from}");
            assert_eq!(lines(&text, BINDINGS), [""; 0], "{from}");
        }
        assert_eq!(lines(WIRES, "{}"), [""; 0]);
        assert_eq!(lines("{\"pw\":[]}", ""), [""; 0]);
        // One that is configured at zebra needs no ldpd.
        let fixed = WIRES.replace("\"ldp\"", "\"static\"");
        assert_eq!(lines(&fixed, "")[0], "16 xconnect to-CE1");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in vec(any::<u8>(), 0..100), at in 0..600_usize, byte in any::<u8>()) {
            for whole in [WIRES, BINDINGS] {
                let mut changed = whole.as_bytes().to_vec();
                if let Some(place) = changed.get_mut(at) {
                    *place = byte;
                }
                for bytes in [&text, &changed] {
                    let wires = parse_wires(bytes).unwrap_or_default();
                    let bindings = parse_bindings(bytes).or_else(|_| parse_bindings(BINDINGS.as_bytes()));
                    let _ = pseudowire_routes(&wires, &bindings.unwrap_or_default());
                }
            }
        }
    }
}

//! Routes as JSON on the control socket: the types that `io.mplsxdp.varlink` describes, and conversions between them
//! and the model.

use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::TtlPropagate;
use serde::{Deserialize, Serialize};

use super::pseudowire::{GivenPseudowire, PortName};
use super::{Action, Fec, InvalidRoute, OutLabels, Protocol, RouteKey, Source, Via, check};
use crate::route;

/// `type Route`. Exactly one of `label`, `prefix` and `attachment` is given; a route for a label with neither `out` nor
/// `action` pops. What it does is in its own fields, or in each of its `nexthops`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    /// The port whose frames all go into a pseudowire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<PortName>,
    /// For a prefix: the routing table that it belongs to; without one, it is for all tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RouteAction>,
    /// Outgoing labels, outermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<Vec<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_propagate: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ViaAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthops: Option<Vec<Path>>,
    /// `static` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// For `pass`: why frames are left to the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// For `attachment` and `xconnect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudowire: Option<GivenPseudowire>,
}

impl Route {
    pub fn key(&self) -> Key {
        Key {
            label: self.label,
            prefix: self.prefix,
            attachment: self.attachment,
            table: self.table,
        }
    }

    /// The number of next hops.
    pub fn path_count(&self) -> usize {
        self.nexthops.as_ref().map_or(1, Vec::len)
    }
}

/// `type Path`: one of several paths.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Path {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RouteAction>,
    /// Outgoing labels, outermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<Vec<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ViaAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

/// `type Backup`: a neighbour that is used while the next hop cannot be reached. With neither `out` nor `action`, frames
/// get the same labels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RouteAction>,
    /// Outgoing labels, outermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<Vec<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    pub via: ViaAddress,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Arc<str>>,
}

/// `type RouteAction`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAction {
    Swap,
    Pop,
    PenultimatePop,
    Local,
    LocalPass,
    VrfPass,
    Xconnect,
    Push,
    Pass,
}

/// `type Via`: a family and an address in it, such as `via inet 192.0.2.1`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViaAddress {
    pub family: ViaFamily,
    pub host: Box<str>,
}

/// `type ViaFamily`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViaFamily {
    Inet,
    Inet6,
    Link,
}

/// `type RouteKey`: a label, or a prefix with or without a table, or the port of an attachment circuit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<PortName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
}

impl TryFrom<Key> for RouteKey {
    type Error = InvalidRoute;

    fn try_from(given: Key) -> Result<Self, InvalidRoute> {
        check::key(given)
    }
}

impl From<RouteKey> for Key {
    fn from(key: RouteKey) -> Self {
        match key {
            RouteKey::Label(label) => Self {
                label: Some(label.get()),
                ..Self::default()
            },
            RouteKey::Prefix(Fec { prefix, table }) => Self {
                prefix: Some(prefix),
                table: table.map(|table| table.0),
                ..Self::default()
            },
            RouteKey::Attachment(port) => Self {
                attachment: Some(port),
                ..Self::default()
            },
        }
    }
}

impl From<Via> for ViaAddress {
    fn from(via: Via) -> Self {
        let (family, host) = match via {
            Via::Inet(address) => (ViaFamily::Inet, address.to_string()),
            Via::Inet6(address) => (ViaFamily::Inet6, address.to_string()),
            Via::Link(mac) => (ViaFamily::Link, mac.to_string()),
        };
        Self {
            family,
            host: host.into(),
        }
    }
}

/// By its name or number, as a string.
impl Serialize for Protocol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// By its name.
impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl From<&route::Backup> for Backup {
    fn from(backup: &route::Backup) -> Self {
        let (action, out, ttl) = match &backup.action {
            Some(action) => {
                let (action, out, ttl) = fields(action);
                (Some(action), out, ttl)
            }
            None => (None, None, None),
        };
        Self {
            action,
            out,
            ttl,
            via: backup.next_hop.via.into(),
            dev: backup.next_hop.dev.clone(),
        }
    }
}

/// The fields of a route or backup that does this: `action`, `out` and `ttl`.
fn fields(action: &Action) -> (RouteAction, Option<Vec<u32>>, Option<u8>) {
    let values = |labels: &OutLabels| Some(labels.as_slice().iter().map(|label| label.get()).collect());
    match action {
        Action::Swap(labels) => (RouteAction::Swap, values(labels), None),
        Action::Pop => (RouteAction::Pop, None, None),
        Action::PenultimatePop => (RouteAction::PenultimatePop, None, None),
        Action::Local => (RouteAction::Local, None, None),
        Action::LocalPass => (RouteAction::LocalPass, None, None),
        Action::VrfPass(_) => (RouteAction::VrfPass, None, None),
        Action::CrossConnect(_) => (RouteAction::Xconnect, None, None),
        Action::Pass(_) => (RouteAction::Pass, None, None),
        Action::Push { labels, ttl } => (RouteAction::Push, values(labels), ttl.map(|ttl| ttl.get())),
    }
}

impl From<&route::Route> for Route {
    fn from(route: &route::Route) -> Self {
        let Key {
            label,
            prefix,
            attachment,
            table,
        } = route.key().into();
        let ttl_propagate = match route.ttl_propagate() {
            TtlPropagate::Default => None,
            TtlPropagate::Enabled => Some(true),
            TtlPropagate::Disabled => Some(false),
        };
        let (by_itself, nexthops) = match route.paths() {
            [path] => (Path::from(path), None),
            paths => (Path::default(), Some(paths.iter().map(Path::from).collect())),
        };
        Self {
            label,
            prefix,
            attachment,
            table,
            action: by_itself.action,
            out: by_itself.out,
            ttl: by_itself.ttl,
            ttl_propagate,
            via: by_itself.via,
            dev: by_itself.dev,
            backup: by_itself.backup,
            nexthops,
            protocol: Some(route.attributes().protocol),
            metric: Some(route.attributes().metric).filter(|&metric| metric != 0),
            reason: route.pass_reason().map(|reason| reason.as_str().into()),
            pseudowire: route.pseudowire().map(GivenPseudowire::from),
        }
    }
}

/// Only the fields that it has.
impl From<&route::Description> for Route {
    fn from(described: &route::Description) -> Self {
        let Key {
            label,
            prefix,
            attachment,
            table,
        } = described.key.into();
        Self {
            label,
            prefix,
            attachment,
            table,
            protocol: described.protocol(),
            metric: described.metric(),
            ..described.route().map(Self::from).unwrap_or_default()
        }
    }
}

impl From<&route::Path> for Path {
    fn from(path: &route::Path) -> Self {
        let (action, out, ttl) = fields(&path.action);
        Self {
            action: Some(action),
            out,
            ttl,
            via: path.next_hop.as_ref().map(|next_hop| next_hop.via.into()),
            dev: match &path.action {
                Action::VrfPass(name) => Some(name.clone()),
                Action::CrossConnect(port) => Some(port.as_str().into()),
                _ => path.next_hop.as_ref().and_then(|next_hop| next_hop.dev.clone()),
            },
            backup: path.backup.as_ref().map(Backup::from),
            weight: Some(path.weight),
        }
    }
}

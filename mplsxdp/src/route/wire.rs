//! Routes as JSON, as the control socket has them: the types that `io.mplsxdp.varlink` describes, and both ways between them and
//! the model.

use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::TtlPropagate;
use mplsxdp_common::wire::Label;
use serde::{Deserialize, Serialize};

use super::{Action, Attributes, InvalidRoute, NextHop, OutLabels, Protocol, RouteKey, Via};
use crate::route;

/// `type Route`. Of `label` and `prefix` exactly one is given; a route for a label with neither `out` nor `action` pops. What it
/// does is said by itself, or by each of its `nexthops`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
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
    /// `static` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

impl Route {
    /// One for each of its next hops.
    pub fn path_count(&self) -> usize {
        self.nexthops.as_ref().map_or(1, Vec::len)
    }
}

/// `type Path`: one of several ways on.
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
    /// 1 where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

/// `type Backup`: another neighbour, for while the next hop cannot be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
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
    Push,
}

/// `type Via`: family and address, as `via inet 192.0.2.1`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViaAddress {
    pub family: ViaFamily,
    pub address: Box<str>,
}

/// `type ViaFamily`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViaFamily {
    Inet,
    Inet6,
    Link,
}

/// `type RouteKey`: exactly one of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
}

fn label(value: u32) -> Result<Label, InvalidRoute> {
    Label::new(value).ok_or_else(|| InvalidRoute(format!("{value} is not a label: labels are 0 to {}", Label::MAX)))
}

impl TryFrom<Key> for RouteKey {
    type Error = InvalidRoute;

    fn try_from(key: Key) -> Result<Self, InvalidRoute> {
        match (key.label, key.prefix) {
            (Some(value), None) => Ok(Self::Label(label(value)?)),
            (None, Some(prefix)) => Ok(Self::Prefix(prefix)),
            (None, None) => Err(InvalidRoute("neither a label nor a prefix".into())),
            (Some(_), Some(_)) => Err(InvalidRoute(
                "both a label and a prefix; a route has one of them".into(),
            )),
        }
    }
}

impl From<RouteKey> for Key {
    fn from(key: RouteKey) -> Self {
        match key {
            RouteKey::Label(label) => Self {
                label: Some(label.get()),
                prefix: None,
            },
            RouteKey::Prefix(prefix) => Self {
                label: None,
                prefix: Some(prefix),
            },
        }
    }
}

impl TryFrom<ViaAddress> for Via {
    type Error = InvalidRoute;

    fn try_from(via: ViaAddress) -> Result<Self, InvalidRoute> {
        let ViaAddress { family, address } = via;
        match family {
            ViaFamily::Inet => address
                .parse()
                .map(Self::Inet)
                .map_err(|_| "an IPv4 address, as 192.0.2.1"),
            ViaFamily::Inet6 => address
                .parse()
                .map(Self::Inet6)
                .map_err(|_| "an IPv6 address, as 2001:db8::1"),
            ViaFamily::Link => address
                .parse()
                .map(Self::Link)
                .map_err(|_| "a MAC address, as 52:54:00:12:34:56"),
        }
        .map_err(|right| InvalidRoute(format!("\"{address}\" is not {right}")))
    }
}

impl From<Via> for ViaAddress {
    fn from(via: Via) -> Self {
        let (family, address) = match via {
            Via::Inet(address) => (ViaFamily::Inet, address.to_string()),
            Via::Inet6(address) => (ViaFamily::Inet6, address.to_string()),
            Via::Link(mac) => (ViaFamily::Link, mac.to_string()),
        };
        Self {
            family,
            address: address.into(),
        }
    }
}

impl TryFrom<Route> for route::Route {
    type Error = InvalidRoute;

    fn try_from(api: Route) -> Result<Self, InvalidRoute> {
        let key = RouteKey::try_from(Key {
            label: api.label,
            prefix: api.prefix,
        })?;
        route::check_key(key)?;
        let ttl_propagate = match api.ttl_propagate {
            None => TtlPropagate::Default,
            Some(true) => TtlPropagate::Enabled,
            Some(false) => TtlPropagate::Disabled,
        };
        let by_itself = Path {
            action: api.action,
            out: api.out,
            ttl: api.ttl,
            via: api.via,
            dev: api.dev,
            backup: api.backup,
            weight: None,
        };
        let paths = match api.nexthops {
            None => vec![by_itself.checked(key)?],
            Some(_) if by_itself != Path::default() => {
                return Err(InvalidRoute(
                    "`nexthops` and a next hop or labels of the route itself: each of `nexthops` has its own".into(),
                ));
            }
            Some(paths) => paths
                .into_iter()
                .map(|path| path.checked(key))
                .collect::<Result<_, _>>()?,
        };
        let attributes = Attributes {
            protocol: api.protocol.unwrap_or_default(),
            metric: api.metric.unwrap_or_default(),
        };
        Self::with_paths(key, paths, ttl_propagate)?.with_attributes(attributes)
    }
}

/// By its name or number, as a string.
impl Serialize for Protocol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse()
            .map_err(|InvalidRoute(reason)| serde::de::Error::custom(reason))
    }
}

impl Path {
    fn checked(self, key: RouteKey) -> Result<route::Path, InvalidRoute> {
        let out = self
            .out
            .map(|out| out.into_iter().map(label).collect::<Result<Vec<_>, _>>())
            .transpose()?;
        let action = match (key, self.action, out) {
            // What iproute2 users write: `as 3`, and no `as` at all.
            (RouteKey::Label(_), None | Some(RouteAction::Swap | RouteAction::PenultimatePop), Some(out))
                if out == [Label::IMPLICIT_NULL] =>
            {
                Action::PenultimatePop
            }
            (RouteKey::Label(_), None | Some(RouteAction::Swap), Some(out)) => Action::Swap(OutLabels::new(out)?),
            (RouteKey::Label(_), None, None) if self.via.is_none() && self.dev.as_deref() == Some("lo") => {
                Action::Local
            }
            (RouteKey::Label(_), None | Some(RouteAction::Pop), None) => Action::Pop,
            (RouteKey::Label(_), Some(RouteAction::PenultimatePop), None) => Action::PenultimatePop,
            (RouteKey::Label(_), Some(RouteAction::Local), None) => Action::Local,
            (RouteKey::Label(_), Some(RouteAction::Swap), None) => {
                return Err(InvalidRoute("a swap needs `out`, the outgoing labels".into()));
            }
            (RouteKey::Label(_), Some(RouteAction::Push), _) => {
                return Err(InvalidRoute(
                    "`push` is for a prefix; a label takes `swap` with several labels".into(),
                ));
            }
            (RouteKey::Label(_), Some(_), Some(_)) => {
                return Err(InvalidRoute("`out` goes with the action `swap` only".into()));
            }
            (RouteKey::Prefix(_), None | Some(RouteAction::Push), Some(out)) => {
                let ttl = match self.ttl {
                    Some(ttl) => Some(
                        ttl.try_into()
                            .map_err(|_| InvalidRoute("ttl 0; it is 1 to 255".into()))?,
                    ),
                    None => None,
                };
                Action::Push {
                    labels: OutLabels::new(out)?,
                    ttl,
                }
            }
            (RouteKey::Prefix(prefix), _, _) => {
                return Err(InvalidRoute(format!(
                    "a route for a prefix pushes labels: `{prefix} encap mpls LABEL`"
                )));
            }
        };
        if self.ttl.is_some() && !matches!(action, Action::Push { .. }) {
            return Err(InvalidRoute(
                "`ttl` goes with `encap mpls`; for a label there is `ttl-propagate`".into(),
            ));
        }
        let via = self.via.map(Via::try_from).transpose()?;
        let next_hop = match (&action, via, self.dev) {
            (Action::Local, None, dev) if dev.as_deref().is_none_or(|dev| dev == "lo") => None,
            (Action::Local, _, _) => {
                return Err(InvalidRoute(
                    "`dev lo` keeps the packet on this box; it takes no `via` and no other `dev`".into(),
                ));
            }
            (_, Some(via), dev) => Some(NextHop { via, dev }),
            (_, None, Some(dev)) => {
                return Err(InvalidRoute(format!(
                    "dev {dev} without `via`: say which neighbour, by `via inet`, `inet6` or `link`"
                )));
            }
            (_, None, None) => None,
        };
        let path = route::Path {
            action,
            next_hop,
            backup: self.backup.map(NextHop::try_from).transpose()?,
            weight: self.weight.unwrap_or(1),
        };
        path.check(key)?;
        Ok(path)
    }
}

impl TryFrom<Backup> for NextHop {
    type Error = InvalidRoute;

    fn try_from(backup: Backup) -> Result<Self, InvalidRoute> {
        Ok(Self {
            via: backup.via.try_into()?,
            dev: backup.dev,
        })
    }
}

impl From<&NextHop> for Backup {
    fn from(next_hop: &NextHop) -> Self {
        Self {
            via: next_hop.via.into(),
            dev: next_hop.dev.clone(),
        }
    }
}

impl From<&route::Route> for Route {
    fn from(route: &route::Route) -> Self {
        let Key { label, prefix } = route.key().into();
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
        }
    }
}

impl From<&route::Path> for Path {
    fn from(path: &route::Path) -> Self {
        let values = |labels: &OutLabels| Some(labels.as_slice().iter().map(|label| label.get()).collect());
        let (action, out, ttl) = match &path.action {
            Action::Swap(labels) => (RouteAction::Swap, values(labels), None),
            Action::Pop => (RouteAction::Pop, None, None),
            Action::PenultimatePop => (RouteAction::PenultimatePop, None, None),
            Action::Local => (RouteAction::Local, None, None),
            Action::Push { labels, ttl } => (RouteAction::Push, values(labels), ttl.map(|ttl| ttl.get())),
        };
        Self {
            action: Some(action),
            out,
            ttl,
            via: path.next_hop.as_ref().map(|next_hop| next_hop.via.into()),
            dev: path.next_hop.as_ref().and_then(|next_hop| next_hop.dev.clone()),
            backup: path.backup.as_ref().map(Backup::from),
            weight: Some(path.weight),
        }
    }
}

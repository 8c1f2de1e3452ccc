//! Selects the routes that a client lists or deletes.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::wire::Label;

use super::{Fec, PortName, Protocol, RouteKey, RoutingTable, Source, Via};

/// Selects routes: all conditions must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteFilter {
    pub keys: KeyFilter,
    /// Only prefixes of this table.
    pub table: Option<RoutingTable>,
    pub protocol: Option<Protocol>,
    /// One of the next hops is this one; backups do not count.
    pub via: Option<Via>,
    /// One of the next hops is reached by this interface (backups do not count); `lo`: the route pops to this router.
    pub dev: Option<Arc<str>>,
    pub owner: Option<Source>,
    /// Also standby routes: another source's route for their key is preferred.
    pub standby: bool,
}

/// Written as selectors of `route show`.
impl fmt::Display for RouteFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.fmt(f)?;
        if let Some(table) = self.table {
            write!(f, " table {table}")?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, " proto {protocol}")?;
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        match &self.dev {
            Some(dev) => write!(f, " dev {dev}"),
            None => Ok(()),
        }
    }
}

/// Selects labels and prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeyFilter {
    #[default]
    All,
    Labels,
    V4Prefixes,
    V6Prefixes,
    Label(Label),
    /// This prefix, in any table.
    Prefix(IpNet),
    /// This prefix and its more specific ones.
    Within(IpNet),
    /// This prefix and those that cover it.
    Covering(IpNet),
    Attachments,
    /// The attachment circuit at this port.
    Attachment(PortName),
}

impl fmt::Display for KeyFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Labels => f.write_str("labels"),
            Self::V4Prefixes => f.write_str("IPv4 prefixes"),
            Self::V6Prefixes => f.write_str("IPv6 prefixes"),
            Self::Label(label) => label.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Within(prefix) => write!(f, "root {prefix}"),
            Self::Covering(prefix) => write!(f, "match {prefix}"),
            Self::Attachments => f.write_str("xconnect"),
            Self::Attachment(port) => write!(f, "xconnect {port}"),
        }
    }
}

impl KeyFilter {
    /// The first and the last of the keys to look through.
    pub fn range(self) -> (Bound<RouteKey>, Bound<RouteKey>) {
        let (first, last) = match self {
            Self::Label(label) => (RouteKey::Label(label), RouteKey::Label(label)),
            Self::Prefix(prefix) => {
                let last = Fec::new(prefix, Some(RoutingTable(u32::MAX)));
                (RouteKey::Prefix(prefix.into()), RouteKey::Prefix(last))
            }
            Self::Attachments => return (Bound::Included(RouteKey::FIRST_ATTACHMENT), Bound::Unbounded),
            Self::Attachment(port) => (RouteKey::Attachment(port), RouteKey::Attachment(port)),
            _ => return (Bound::Unbounded, Bound::Unbounded),
        };
        (Bound::Included(first), Bound::Included(last))
    }

    pub fn selects(self, key: RouteKey) -> bool {
        match (self, key) {
            (Self::All, _)
            | (Self::Attachments, RouteKey::Attachment(_))
            | (Self::Labels, RouteKey::Label(_))
            | (
                Self::V4Prefixes,
                RouteKey::Prefix(Fec {
                    prefix: IpNet::V4(_), ..
                }),
            )
            | (
                Self::V6Prefixes,
                RouteKey::Prefix(Fec {
                    prefix: IpNet::V6(_), ..
                }),
            ) => true,
            (Self::Label(one), RouteKey::Label(label)) => label == one,
            (Self::Attachment(one), RouteKey::Attachment(port)) => port == one,
            (Self::Prefix(one), RouteKey::Prefix(fec)) => fec.prefix == one,
            (Self::Within(whole), RouteKey::Prefix(fec)) => whole.contains(&fec.prefix),
            (Self::Covering(part), RouteKey::Prefix(fec)) => fec.prefix.contains(&part),
            _ => false,
        }
    }
}

impl RouteFilter {
    /// Whether it selects a single label, port or prefix, of any table.
    pub fn is_narrow(&self) -> bool {
        matches!(
            self.keys,
            KeyFilter::Label(_) | KeyFilter::Prefix(_) | KeyFilter::Attachment(_)
        )
    }

    /// Whether it selects by next hop.
    pub fn has_way(&self) -> bool {
        self.via.is_some() || self.dev.is_some()
    }

    /// Whether a route of this key can be selected.
    pub fn selects(&self, key: RouteKey) -> bool {
        self.keys.selects(key) && (self.table.is_none() || self.table == key.table())
    }
}

/// Selects this label, or this prefix in any table.
impl From<RouteKey> for KeyFilter {
    fn from(key: RouteKey) -> Self {
        match key {
            RouteKey::Label(label) => Self::Label(label),
            RouteKey::Prefix(fec) => Self::Prefix(fec.prefix),
            RouteKey::Attachment(port) => Self::Attachment(port),
        }
    }
}

impl From<KeyFilter> for RouteFilter {
    fn from(keys: KeyFilter) -> Self {
        Self {
            keys,
            ..Self::default()
        }
    }
}

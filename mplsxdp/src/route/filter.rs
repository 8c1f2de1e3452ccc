//! Which routes are meant, by a client that lists or deletes some.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Protocol, RouteKey, Source, Via};

/// Which routes are meant: those of which all of it is true.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteFilter {
    pub keys: KeyFilter,
    pub protocol: Option<Protocol>,
    /// One of the next hops is this one, backups aside.
    pub via: Option<Via>,
    /// One of the next hops is reached by this interface, backups aside; `lo`: it pops to this box.
    pub dev: Option<Arc<str>>,
    pub owner: Option<Source>,
    /// Those that stand by, too, as another source's route for their key is preferred.
    pub standby: bool,
}

/// As a selector of `route show`.
impl fmt::Display for RouteFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.fmt(f)?;
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

/// Which labels and prefixes are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeyFilter {
    #[default]
    All,
    Labels,
    V4Prefixes,
    V6Prefixes,
    One(RouteKey),
    /// This prefix, and those that are parts of it.
    Within(IpNet),
    /// This prefix, and those that it is a part of.
    Covering(IpNet),
}

impl fmt::Display for KeyFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Labels => f.write_str("labels"),
            Self::V4Prefixes => f.write_str("IPv4 prefixes"),
            Self::V6Prefixes => f.write_str("IPv6 prefixes"),
            Self::One(key) => key.fmt(f),
            Self::Within(prefix) => write!(f, "root {prefix}"),
            Self::Covering(prefix) => write!(f, "match {prefix}"),
        }
    }
}

impl KeyFilter {
    pub fn selects(self, key: RouteKey) -> bool {
        match (self, key) {
            (Self::All, _)
            | (Self::Labels, RouteKey::Label(_))
            | (Self::V4Prefixes, RouteKey::Prefix(IpNet::V4(_)))
            | (Self::V6Prefixes, RouteKey::Prefix(IpNet::V6(_))) => true,
            (Self::One(one), _) => key == one,
            (Self::Within(whole), RouteKey::Prefix(prefix)) => whole.contains(&prefix),
            (Self::Covering(part), RouteKey::Prefix(prefix)) => prefix.contains(&part),
            _ => false,
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

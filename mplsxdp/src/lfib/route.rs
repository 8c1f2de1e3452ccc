//! The route model: what a route is, whoever asked for it and however it is written. A [`Route`] that exists is one that the
//! forwarding core can carry out; [`Route::new`] refuses everything else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::{MAX_PUSH, TtlPropagate};
use mplsxdp_common::wire::{Label, Mac};

use super::pass::NEVER;

/// What a route is for: an incoming label (an ILM entry) or a FEC, here always an address prefix (an FTN entry).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RouteKey {
    Label(Label),
    Prefix(IpNet),
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => label.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

/// Outgoing labels, outermost first: 1 to [`MAX_PUSH`] of them, none of them implicit null.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OutLabels(Box<[Label]>);

impl OutLabels {
    pub fn new(labels: Vec<Label>) -> Result<Self, InvalidRoute> {
        if labels.is_empty() {
            return Err(InvalidRoute("a push needs at least one label".into()));
        }
        if labels.len() > MAX_PUSH {
            return Err(InvalidRoute(format!(
                "{} labels to push; at most {MAX_PUSH} are supported",
                labels.len()
            )));
        }
        if labels.contains(&Label::IMPLICIT_NULL) {
            return Err(InvalidRoute(
                "implicit-null (3) is never on the wire (RFC 3032 section 2.1): it stands alone, as `as implicit-null`, \
                 and only for an incoming label"
                    .into(),
            ));
        }
        Ok(Self(labels.into()))
    }

    pub fn as_slice(&self) -> &[Label] {
        &self.0
    }
}

impl fmt::Display for OutLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            label.fmt(f)?;
        }
        Ok(())
    }
}

/// What is done to the stack.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Label routes: the top label is replaced by these (one: swap; more: swap and push).
    Swap(OutLabels),
    /// Label routes: pop, and send the payload to the next hop, as the egress.
    Pop,
    /// Label routes: pop, and send the payload to the next hop, as the penultimate hop (`as implicit-null`).
    PenultimatePop,
    /// Label routes: pop; the payload is this box's own (`dev lo`).
    Local,
    /// Prefix routes: impose these labels. `ttl` is theirs, `None` what the TTL mode says.
    Push { labels: OutLabels, ttl: Option<NonZeroU8> },
}

/// How a next hop is named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Via {
    Inet(Ipv4Addr),
    Inet6(Ipv6Addr),
    /// A static adjacency: nothing to resolve.
    Link(Mac),
}

impl Via {
    /// The address to resolve, if there is one.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Inet(address) => Some(address.into()),
            Self::Inet6(address) => Some(address.into()),
            Self::Link(_) => None,
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "inet {address}"),
            Self::Inet6(address) => write!(f, "inet6 {address}"),
            Self::Link(mac) => write!(f, "link {mac}"),
        }
    }
}

/// Where the frame goes next. `dev` is given, or found by a kernel route look-up of the address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NextHop {
    pub via: Via,
    pub dev: Option<Arc<str>>,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "via {}", self.via)?;
        match &self.dev {
            Some(dev) => write!(f, " dev {dev}"),
            None => Ok(()),
        }
    }
}

/// Who asked for a route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Owner {
    /// A person, the config file, or a program on the control socket.
    #[default]
    Static,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static => "static",
        })
    }
}

/// One route. Displays as the line that `route add` takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    key: RouteKey,
    action: Action,
    next_hop: Option<NextHop>,
    ttl_propagate: TtlPropagate,
}

impl Route {
    /// Checks that the parts go together; the error says which do not.
    pub fn new(
        key: RouteKey,
        action: Action,
        next_hop: Option<NextHop>,
        ttl_propagate: TtlPropagate,
    ) -> Result<Self, InvalidRoute> {
        match key {
            RouteKey::Label(label) if label.is_special() => {
                return Err(InvalidRoute(format!(
                    "label {label} is special-purpose (0 to 15, RFC 7274) and takes no route; 0 and 2 are built in"
                )));
            }
            RouteKey::Label(_) if matches!(action, Action::Push { .. }) => {
                return Err(InvalidRoute("`encap mpls` is for a prefix; a label takes `as`".into()));
            }
            RouteKey::Prefix(_) if !matches!(action, Action::Push { .. }) => {
                return Err(InvalidRoute(format!(
                    "a route for a prefix pushes labels: `{key} encap mpls LABEL`"
                )));
            }
            RouteKey::Prefix(prefix) if prefix != prefix.trunc() => {
                return Err(InvalidRoute(format!(
                    "{prefix} has bits set beyond its length; it would be {}",
                    prefix.trunc()
                )));
            }
            RouteKey::Prefix(prefix) if NEVER.iter().any(|never| never.contains(&prefix)) => {
                return Err(InvalidRoute(format!(
                    "{prefix} is never imposed: loopback, link-local and multicast addresses stay the kernel's"
                )));
            }
            RouteKey::Label(_) | RouteKey::Prefix(_) => {}
        }
        match (&action, &next_hop) {
            (Action::Local, Some(_)) => {
                return Err(InvalidRoute(
                    "`dev lo` keeps the packet on this box; it takes no `via` and no `as`".into(),
                ));
            }
            (Action::Local, None) => {}
            (_, None) => {
                return Err(InvalidRoute(
                    "no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`".into(),
                ));
            }
            (_, Some(next_hop)) => check_next_hop(next_hop)?,
        }
        Ok(Self {
            key,
            action,
            next_hop,
            ttl_propagate,
        })
    }

    pub fn key(&self) -> RouteKey {
        self.key
    }

    pub fn action(&self) -> &Action {
        &self.action
    }

    pub fn next_hop(&self) -> Option<&NextHop> {
        self.next_hop.as_ref()
    }

    pub fn ttl_propagate(&self) -> TtlPropagate {
        self.ttl_propagate
    }
}

fn check_next_hop(next_hop: &NextHop) -> Result<(), InvalidRoute> {
    let needs_dev = |what: String| match next_hop.dev {
        Some(_) => Ok(()),
        None => Err(InvalidRoute(format!("{what} needs `dev IFACE`"))),
    };
    match next_hop.via {
        Via::Link(mac) if mac.is_multicast() || mac.is_zero() => {
            Err(InvalidRoute(format!("{mac} is not the MAC address of one neighbour")))
        }
        Via::Link(_) => needs_dev("`via link`".into()),
        Via::Inet(address) if address.is_unspecified() || address.is_multicast() || address.is_broadcast() => {
            Err(InvalidRoute(format!("{address} is not the address of one neighbour")))
        }
        Via::Inet6(address) if address.is_unspecified() || address.is_multicast() => {
            Err(InvalidRoute(format!("{address} is not the address of one neighbour")))
        }
        Via::Inet6(address) if address.is_unicast_link_local() => needs_dev(format!("link-local {address}")),
        Via::Inet(_) | Via::Inet6(_) => Ok(()),
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)?;
        match &self.action {
            Action::Swap(labels) => write!(f, " as to {labels}")?,
            Action::Pop => {}
            Action::PenultimatePop => f.write_str(" as implicit-null")?,
            Action::Local => f.write_str(" dev lo")?,
            Action::Push { labels, ttl } => {
                write!(f, " encap mpls {labels}")?;
                if let Some(ttl) = ttl {
                    write!(f, " ttl {ttl}")?;
                }
            }
        }
        if let Some(next_hop) = &self.next_hop {
            write!(f, " {next_hop}")?;
        }
        match self.ttl_propagate {
            TtlPropagate::Default => Ok(()),
            TtlPropagate::Enabled => f.write_str(" ttl-propagate enabled"),
            TtlPropagate::Disabled => f.write_str(" ttl-propagate disabled"),
        }
    }
}

/// Why something is not a route: one sentence, with what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRoute(pub String);

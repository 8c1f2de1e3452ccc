//! What is wrong with a configuration.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::MAX_PORTS;
use mplsxdp_common::wire::Label;

use super::file::ROUTES;
use super::{Options, Place, Preference};
use crate::control::InvalidInstance;
use crate::observe::metrics::address::MetricsAddress;
use crate::route::RouteKey;
use crate::route::interface::InvalidInterface;
use crate::route::line::GrammarError;

/// All that is wrong with a configuration, one line each.
#[derive(Clone, Debug)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl Error for ConfigError {}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Where it was given: an option of the command line, a file, or a place in one.
    pub place: Option<Arc<str>>,
    pub reason: Reason,
}

impl Problem {
    pub fn at(place: impl fmt::Display, reason: impl Into<Reason>) -> Self {
        Self {
            place: Some(place.to_string().into()),
            reason: reason.into(),
        }
    }
}

impl From<Reason> for Problem {
    fn from(reason: Reason) -> Self {
        Self { place: None, reason }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        self.reason.fmt(f)
    }
}

/// Why a configuration is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Reason {
    #[error("no interface: name at least one with `--iface IFACE`, or with `iface` in the config file")]
    NoInterface,
    #[error("{0} interfaces; at most {MAX_PORTS} are supported")]
    TooManyInterfaces(usize),
    #[error("`{0}` is in `iface` and in `tx-only`; it can be in one of them")]
    TxOnlyToo(String),
    #[error(
        "`{0}` is named by `local`, which creates an interface, and by `iface` or `tx-only`, which need an existing one"
    )]
    LocalIsPort(String),
    #[error("`mpls-off` names `{0}`, which is not in `iface`: add it there")]
    MplsOff(String),
    #[error("`accept-labels` names `{0}`, which is not in `iface`: add it there")]
    AcceptLabels(String),
    #[error("`{0}` names `{1}`, which is not in `iface`: add it there")]
    ClassMap(&'static str, String),
    #[error("`mpls-mtu` names `{0}`, which is not an interface that is loaded: add it to `iface` or `tx-only`")]
    MplsMtu(String),
    #[error("`xconnect` names `{0}`, which is not an interface that is loaded: add it to `iface` or `tx-only`")]
    CrossConnected(String),
    #[error("`xconnect` connects `{0}` with itself")]
    CrossConnectedWithItself(String),
    #[error(
        "`xconnect` names `{0}`, which is in `tx-only`: no frames are taken from there, so it can only be the second \
             one, with `one-way`"
    )]
    CrossConnectedTxOnly(String),
    #[error("`xconnect` sends the frames of `{0}` to `{1}` and to `{2}`; they can go to one")]
    CrossConnectedTwice(String, String, String),
    #[error("`checksum` names `{0}`, which is not an interface that is loaded: add it to `iface` or `tx-only`")]
    Checksum(String),
    #[error(transparent)]
    Interface(#[from] InvalidInterface),
    #[error(transparent)]
    Instance(#[from] InvalidInstance),
    #[error("`{0}` is given twice")]
    SourceTwice(&'static str),
    #[error("it needs `sync`, which names the source of the routes")]
    TableWithoutSource,
    #[error("`frr` gives backups to the routes of other sources: add `--sync kernel` or `--sync fpm`")]
    BackupsWithoutRoutes,
    #[error(
        "`icmp-source` is {0}; it must be a routable unicast address of this machine, such as 192.0.2.1 or 2001:db8::1"
    )]
    IcmpSource(IpAddr),
    #[error("`icmp-source` is {0} and {1}; it can be one address of each family")]
    IcmpSources(IpAddr, IpAddr),
    #[error("`prefer` gives {0} and {1}; each owner has one preference")]
    Preferences(Preference, Preference),
    #[error("`kernel-route` leads into the interface of `local`, and there is none: add `local = true`")]
    KernelRouteWithoutLocal,
    #[error("`kernel-route` has {0} twice")]
    KernelRouteTwice(IpNet),
    #[error(
        "metrics at {0} can be read by whoever reaches this address: name those who may with `metrics-allow`, such as \
         `metrics-allow 192.0.2.0/24`, or serve them at 127.0.0.1 or unix:PATH"
    )]
    MetricsForAll(MetricsAddress),
    #[error("it is for `metrics` at an address other than loopback, and there is none: add `metrics ADDRESS:PORT`")]
    MetricsAllow,
    #[error("it needs `metrics`, which says where to serve them")]
    MetricsRoutes,
    #[error("{key} already has a route, at {first}")]
    RouteTwice { key: RouteKey, first: Place },
    #[error("label {label} is beyond `labels`, which is {labels}")]
    LabelBeyond { label: Label, labels: u32 },
    #[error("unknown key `{0}`; the keys are {names}, {ROUTES}", names = Options::names().join(", "))]
    UnknownKey(String),
    /// In serde's words.
    #[error("`{option}`: {message}")]
    Value { option: String, message: String },
    /// In the parser's words.
    #[error("{0}")]
    Toml(String),
    #[error("`{ROUTES}`: it must be an array of strings")]
    NotRoutes,
    #[error("`{ROUTES}`: {error}: `{line}`")]
    Route { error: GrammarError, line: String },
    /// What was to be read cannot be read.
    #[error("{0}")]
    Unreadable(Arc<dyn Error + Send + Sync>),
}

impl Reason {
    pub fn unreadable(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Unreadable(Arc::new(error))
    }
}

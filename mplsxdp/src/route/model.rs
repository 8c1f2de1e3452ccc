//! The route model: what a route is, whoever asked for it and however it is written. A [`Route`] that exists is one that the
//! forwarding core can carry out; [`Route::new`] refuses everything else.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mplsxdp_common::abi::{BUCKETS, MAX_PUSH, TtlPropagate};
use mplsxdp_common::wire::{Label, Mac};

/// The most paths that one route has: each can have a bucket.
pub const MAX_PATHS: usize = BUCKETS;
/// As with iproute2: the kernel has a byte for the weight less one.
pub const MAX_WEIGHT: u16 = 256;

/// Addresses that no box imposes labels on.
pub const NEVER: [IpNet; 9] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
];

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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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
        if labels.last() == Some(&Label::ROUTER_ALERT) {
            return Err(InvalidRoute(
                "router alert (1) is never the last label (RFC 3032 section 2.1): another one follows it, as in `1/200`".into(),
            ));
        }
        let is_alone = |(index, &label): (usize, &Label)| {
            label == Label::ENTROPY_INDICATOR && labels.get(index + 1).is_none_or(|entropy| entropy.is_special())
        };
        if labels.iter().enumerate().any(is_alone) {
            return Err(InvalidRoute(
                "an entropy label of 16 or more follows its indicator (7) at once (RFC 6790 section 3), as in `200/7/5000`"
                    .into(),
            ));
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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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

/// Number of a next hop for as long as a route uses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NextHopId(pub u16);

impl NextHop {
    /// Takes the new name of the interface, if `names` has one for its old name.
    pub fn rename_device(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        if let Some(new) = self.dev.as_ref().and_then(|dev| names.get(dev)) {
            self.dev = Some(new.clone());
        }
    }
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
    /// A person or a program on the control socket.
    #[default]
    Static,
    /// The configuration.
    Config,
}

impl Owner {
    /// Whether a change of `self` that replaces all takes a route of `other` away if it is not given. What the control socket
    /// restores is all that there is to be; a configuration that is read again leaves alone what is not from it.
    pub fn sweeps(self, other: Self) -> bool {
        self == Self::Static || self == other
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static => "static",
            Self::Config => "config",
        })
    }
}

/// Which routing protocol a route is from: a number of `rtm_protocol` in rtnetlink(7), which iproute2 calls `proto`. It labels the
/// route, for people and for programs that own some of the routes; forwarding does not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// The protocol of a route that names none.
    pub const STATIC: Self = Self(4);

    /// The names that iproute2 comes with (rt_protos).
    const NAMES: &[(u8, &str)] = &[
        (0, "unspec"),
        (1, "redirect"),
        (2, "kernel"),
        (3, "boot"),
        (4, "static"),
        (8, "gated"),
        (9, "ra"),
        (10, "mrt"),
        (11, "zebra"),
        (12, "bird"),
        (13, "dnrouted"),
        (14, "xorp"),
        (15, "ntk"),
        (16, "dhcp"),
        (18, "keepalived"),
        (42, "babel"),
        (84, "ovn"),
        (99, "openr"),
        (186, "bgp"),
        (187, "isis"),
        (188, "ospf"),
        (189, "rip"),
        (192, "eigrp"),
    ];

    /// The name that everybody knows, if there is one.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES
            .iter()
            .find(|(number, _)| *number == self.0)
            .map(|(_, name)| *name)
    }
}

impl Default for Protocol {
    fn default() -> Self {
        Self::STATIC
    }
}

/// The name that everybody knows, else the number.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = InvalidRoute;

    /// Reads a name of iproute2's, or a number (0x for hexadecimal).
    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        let named = Self::NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(number, _)| *number);
        let number = named.or_else(|| match text.strip_prefix("0x") {
            Some(hexadecimal) => u8::from_str_radix(hexadecimal, 16).ok(),
            None => text.parse().ok(),
        });
        number.map(Self).ok_or_else(|| {
            InvalidRoute(format!(
                "`{text}` is not a routing protocol: it is a name such as static, bgp, ospf or isis, or a number, 0 to 255"
            ))
        })
    }
}

/// What is kept of a route for others to see; forwarding does not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    pub protocol: Protocol,
    /// Of a prefix, as the protocol gave it; 0: none.
    pub metric: u32,
}

/// One way on: an NHLFE (RFC 3031 section 3.10), and its share of the flows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Path {
    pub action: Action,
    /// `None` only for `dev lo`.
    pub next_hop: Option<NextHop>,
    /// Takes the place of `next_hop`, with the same labels, while that cannot be reached.
    pub backup: Option<NextHop>,
    /// 1 to [`MAX_WEIGHT`], in proportion to those of the route's other paths.
    pub weight: u16,
}

impl Path {
    /// Without a backup, of weight 1.
    pub fn new(action: Action, next_hop: Option<NextHop>) -> Self {
        Self {
            action,
            next_hop,
            backup: None,
            weight: 1,
        }
    }

    /// The next hop and its backup, as far as there are any.
    pub fn next_hops(&self) -> impl Iterator<Item = &NextHop> {
        self.next_hop.iter().chain(&self.backup)
    }

    /// That the parts go together, in a route for `key`.
    pub fn check(&self, key: RouteKey) -> Result<(), InvalidRoute> {
        match (key, &self.action) {
            (RouteKey::Label(_), Action::Push { .. }) => {
                return Err(InvalidRoute("`encap mpls` is for a prefix; a label takes `as`".into()));
            }
            (RouteKey::Prefix(prefix), Action::Push { labels, .. }) => check_explicit_null(prefix, labels)?,
            (RouteKey::Label(_), _) => {}
            (RouteKey::Prefix(_), _) => {
                return Err(InvalidRoute(format!(
                    "a route for a prefix pushes labels: `{key} encap mpls LABEL`"
                )));
            }
        }
        match (&self.action, &self.next_hop, &self.backup) {
            (Action::Local, None, None) => {}
            (Action::Local, ..) => {
                return Err(InvalidRoute(
                    "`dev lo` keeps the packet on this box; it takes no `via` and no `as`".into(),
                ));
            }
            (_, None, _) => {
                return Err(InvalidRoute(
                    "no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`".into(),
                ));
            }
            (_, Some(next_hop), Some(backup)) if next_hop == backup => {
                return Err(InvalidRoute(format!(
                    "`backup {backup}` is the next hop itself; a backup is another neighbour"
                )));
            }
            (_, Some(_), _) => self.next_hops().try_for_each(check_next_hop)?,
        }
        if (1..=MAX_WEIGHT).contains(&self.weight) {
            Ok(())
        } else {
            Err(InvalidRoute(format!("weight {}: it is 1 to {MAX_WEIGHT}", self.weight)))
        }
    }

    fn fmt_action(&self, f: &mut impl fmt::Write) -> fmt::Result {
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
        match &self.backup {
            Some(backup) => write!(f, " backup {backup}"),
            None => Ok(()),
        }
    }
}

/// As one of several of a route, as iproute2 writes it.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nexthop")?;
        self.fmt_action(f)?;
        write!(f, " weight {}", self.weight)
    }
}

/// One route. Displays as the line that `route add` takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    key: RouteKey,
    paths: Box<[Path]>,
    ttl_propagate: TtlPropagate,
    attributes: Attributes,
}

impl Route {
    /// With one path. Checks that the parts go together; the error says which do not.
    pub fn new(
        key: RouteKey,
        action: Action,
        next_hop: Option<NextHop>,
        ttl_propagate: TtlPropagate,
    ) -> Result<Self, InvalidRoute> {
        Self::with_paths(key, vec![Path::new(action, next_hop)], ttl_propagate)
    }

    /// With paths that share its flows by their weights. Their order says nothing: they are kept in an order of their own. Of a
    /// single one, the weight says nothing.
    pub fn with_paths(key: RouteKey, mut paths: Vec<Path>, ttl_propagate: TtlPropagate) -> Result<Self, InvalidRoute> {
        check_key(key)?;
        paths.iter().try_for_each(|path| path.check(key))?;
        match paths.as_mut_slice() {
            [] => return Err(InvalidRoute("no next hop; a route has at least one".into())),
            [path] => path.weight = 1,
            paths => check_several(paths)?,
        }
        Ok(Self {
            key,
            paths: paths.into(),
            ttl_propagate,
            attributes: Attributes::default(),
        })
    }

    /// The same with these attributes.
    pub fn with_attributes(self, attributes: Attributes) -> Result<Self, InvalidRoute> {
        if matches!(self.key, RouteKey::Label(_)) && attributes.metric != 0 {
            return Err(InvalidRoute(
                "`metric` is for a prefix; a label has one route, and nothing to prefer it to".into(),
            ));
        }
        Ok(Self { attributes, ..self })
    }

    pub fn key(&self) -> RouteKey {
        self.key
    }

    /// One or more.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// The next hops of all paths, and their backups.
    pub fn next_hops(&self) -> impl Iterator<Item = &NextHop> {
        self.paths.iter().flat_map(Path::next_hops)
    }

    pub fn ttl_propagate(&self) -> TtlPropagate {
        self.ttl_propagate
    }

    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// All of the route but its next hops if they are several, as one line. `protocol` is what to call its protocol, if that is to
    /// be said.
    pub fn fmt_head(&self, f: &mut impl fmt::Write, protocol: Option<&dyn fmt::Display>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let [path] = &*self.paths {
            path.fmt_action(f)?;
        }
        match self.ttl_propagate {
            TtlPropagate::Default => {}
            TtlPropagate::Enabled => f.write_str(" ttl-propagate enabled")?,
            TtlPropagate::Disabled => f.write_str(" ttl-propagate disabled")?,
        }
        if let Some(protocol) = protocol {
            write!(f, " proto {protocol}")?;
        }
        match self.attributes.metric {
            0 => Ok(()),
            metric => write!(f, " metric {metric}"),
        }
    }
}

/// That a route can be for `key`.
pub fn check_key(key: RouteKey) -> Result<(), InvalidRoute> {
    match key {
        RouteKey::Label(label) if label.is_special() => Err(InvalidRoute(format!(
            "label {label} is special-purpose (0 to 15, RFC 7274) and takes no route; 0 and 2 are built in"
        ))),
        RouteKey::Prefix(prefix) if prefix != prefix.trunc() => Err(InvalidRoute(format!(
            "{prefix} has bits set beyond its length; it would be {}",
            prefix.trunc()
        ))),
        RouteKey::Prefix(prefix) if NEVER.iter().any(|never| never.contains(&prefix)) => Err(InvalidRoute(format!(
            "{prefix} is never imposed: loopback, link-local and multicast addresses stay the kernel's"
        ))),
        RouteKey::Label(_) | RouteKey::Prefix(_) => Ok(()),
    }
}

/// Puts paths, each of them checked, in order, and checks that they can be one route's.
fn check_several(paths: &mut [Path]) -> Result<(), InvalidRoute> {
    if paths.len() > MAX_PATHS {
        return Err(InvalidRoute(format!(
            "{} next hops for one route; at most {MAX_PATHS} are supported",
            paths.len()
        )));
    }
    if paths.iter().any(|path| path.action == Action::Local) {
        return Err(InvalidRoute(
            "`dev lo` keeps the packet on this box; it is not one of several next hops".into(),
        ));
    }
    paths.sort_unstable();
    let same = |pair: &&[Path]| {
        let way = |path: &Path| (path.action.clone(), path.next_hop.clone(), path.backup.clone());
        way(&pair[0]) == way(&pair[1])
    };
    match paths.windows(2).find(same) {
        Some(pair) => Err(InvalidRoute(format!(
            "`{}` is given twice: give it once, with a larger `weight`",
            pair[1]
        ))),
        None => Ok(()),
    }
}

/// That an explicit null that is pushed on packets to `prefix` says what they are (RFC 3032 section 2.1).
pub fn check_explicit_null(prefix: IpNet, labels: &OutLabels) -> Result<(), InvalidRoute> {
    let (family, null, other) = match prefix {
        IpNet::V4(_) => ("IPv4", Label::IPV4_EXPLICIT_NULL, Label::IPV6_EXPLICIT_NULL),
        IpNet::V6(_) => ("IPv6", Label::IPV6_EXPLICIT_NULL, Label::IPV4_EXPLICIT_NULL),
    };
    if labels.as_slice().last() == Some(&other) {
        return Err(InvalidRoute(format!(
            "label {other} as the last one says that it is not {family} beneath (RFC 3032 section 2.1); the explicit null of \
             {family} is {null}"
        )));
    }
    Ok(())
}

fn check_next_hop(next_hop: &NextHop) -> Result<(), InvalidRoute> {
    let needs_dev = |what: String| match next_hop.dev {
        Some(_) => Ok(()),
        None => Err(InvalidRoute(format!("{what} needs `dev IFACE`"))),
    };
    match next_hop.via {
        Via::Link(mac) if !mac.is_unicast() => {
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
        let protocol = self.attributes.protocol;
        let said: Option<&dyn fmt::Display> = (protocol != Protocol::STATIC).then_some(&protocol);
        self.fmt_head(f, said)?;
        if let paths @ [_, _, ..] = &*self.paths {
            paths.iter().try_for_each(|path| write!(f, " {path}"))?;
        }
        Ok(())
    }
}

/// Why something is not a route: one sentence, with what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRoute(pub String);

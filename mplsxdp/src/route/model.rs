//! The route model: what a route is, whatever its owner and notation. Every [`Route`] is one that the forwarding core
//! can carry out; [`Route::new`] refuses everything else.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mplsxdp_common::abi::{BUCKETS, TtlPropagate};
use mplsxdp_common::wire::{Label, Mac};

use super::check::{self, InvalidRoute, Rule};
use super::fec::{Fec, RoutingTable};
use super::pseudowire::{PortName, Pseudowire};

/// The most paths of one route: each can have a bucket.
pub const MAX_PATHS: usize = BUCKETS;
/// As with iproute2: the kernel stores the weight less one in a byte.
pub const MAX_WEIGHT: u16 = 256;

/// Addresses for which labels are never imposed.
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

/// The key of a route: an incoming label (an ILM entry); a FEC, here always an address prefix (an FTN entry); or an
/// attachment circuit (RFC 3985 section 1.4), a port whose frames all go into a pseudowire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RouteKey {
    Label(Label),
    Prefix(Fec),
    Attachment(PortName),
}

impl RouteKey {
    /// Before all attachment circuits, and after all other keys.
    pub const FIRST_ATTACHMENT: Self = Self::Attachment(PortName::FIRST);

    /// The table of a prefix route, if it has one.
    pub fn table(self) -> Option<RoutingTable> {
        match self {
            Self::Label(_) | Self::Attachment(_) => None,
            Self::Prefix(fec) => fec.table,
        }
    }

    /// Applies new names of ports, by the old ones.
    pub fn rename_port(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        if let Self::Attachment(port) = self {
            port.rename(names);
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => label.fmt(f),
            Self::Prefix(fec) => fec.fmt(f),
            Self::Attachment(port) => write!(f, "xconnect {port}"),
        }
    }
}

/// Outgoing labels, outermost first: 1 to [`MAX_PUSH`] of them, none of them implicit null.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutLabels(Box<[Label]>);

impl OutLabels {
    /// `labels` are outermost first. The error is the rule of label stacks that they break.
    pub fn new(labels: Vec<Label>) -> Result<Self, Rule> {
        check::check_labels(&labels)?;
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

/// What is done to the label stack.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// Label routes: the top label is replaced by these (one: swap; more: swap and push).
    Swap(OutLabels),
    /// Label routes: pop, and send the payload to the next hop, as the egress.
    Pop,
    /// Label routes: pop, and send the payload to the next hop, as the penultimate hop (`as implicit-null`).
    PenultimatePop,
    /// Label routes: pop; the payload is for this machine (`dev lo`).
    Local,
    /// Label routes: pop and look at the next label, like [`Action::Local`]. If there is none, the whole frame is left
    /// unchanged to the kernel, which has the same route (`dev lo pass`).
    LocalPass,
    /// Label routes: pop, and send the packet as this VRF routes it. What needs the kernel is left to it unchanged; it has the
    /// same route (`vrf NAME pass`).
    VrfPass(Arc<str>),
    /// Label routes: pop, and send the frame of the pseudowire out of this port (`xconnect PORT`).
    CrossConnect(PortName),
    /// Prefix routes and attachment circuits: impose these labels. `ttl` is their TTL; `None`: as the TTL mode says.
    Push { labels: OutLabels, ttl: Option<NonZeroU8> },
    /// Frames are left to the kernel unchanged, and packets get no labels (`pass`); `None`: no reason is given.
    Pass(Option<PassReason>),
}

impl Action {
    /// Whether there is no next hop: frames stay on this machine, or it routes them, or they leave by a port.
    pub const fn has_no_next_hop(&self) -> bool {
        matches!(
            self,
            Self::Local | Self::LocalPass | Self::VrfPass(_) | Self::CrossConnect(_) | Self::Pass(_)
        )
    }

    /// The words of a line that say so, each with a space in front.
    fn fmt_words(&self, f: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::Swap(labels) => write!(f, " as to {labels}"),
            Self::Pop => Ok(()),
            Self::PenultimatePop => f.write_str(" as implicit-null"),
            Self::Local => f.write_str(" dev lo"),
            Self::LocalPass => f.write_str(" dev lo pass"),
            Self::VrfPass(name) => write!(f, " vrf {name} pass"),
            Self::CrossConnect(port) => write!(f, " xconnect {port}"),
            Self::Pass(_) => f.write_str(" pass"),
            Self::Push { labels, ttl: None } => write!(f, " encap mpls {labels}"),
            Self::Push { labels, ttl: Some(ttl) } => write!(f, " encap mpls {labels} ttl {ttl}"),
        }
    }
}

/// Why a route leaves frames to the kernel, as one line of text, such as `20 labels: more than 16`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PassReason(Arc<str>);

impl PassReason {
    /// In characters; longer text is cut.
    pub const MAX: usize = 100;

    /// Takes `text` with single spaces between its words, and without control characters. `None` if nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let text: String = words.join(" ").chars().take(Self::MAX).collect();
        // A backslash at the end of a line would join it to the next.
        let text = text.trim_end_matches(['\\', ' ']);
        (!text.is_empty()).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PassReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Via {
    Inet(Ipv4Addr),
    Inet6(Ipv6Addr),
    /// A static adjacency: nothing to resolve.
    Link(Mac),
}

impl Via {
    /// The address alone, whatever its family.
    pub fn bare(self) -> String {
        match self {
            Self::Inet(address) => address.to_string(),
            Self::Inet6(address) => address.to_string(),
            Self::Link(mac) => mac.to_string(),
        }
    }

    /// The name for its kind of address.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Inet(_) | Self::Inet6(_) => "address",
            Self::Link(_) => "MAC address",
        }
    }

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

/// The sources of routes. Each has at most one route for a key; the best of several is installed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Source {
    /// The control socket and the configuration.
    #[default]
    Static,
    /// A routing daemon that speaks the FPM protocol.
    Fpm,
    /// The kernel's MPLS routes.
    Kernel,
    /// The pseudowires of FRR.
    Frr,
}

impl Source {
    pub const ALL: [Self; 4] = [Self::Static, Self::Fpm, Self::Kernel, Self::Frr];

    /// Its name on the command line and the socket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Fpm => "fpm",
            Self::Kernel => "kernel",
            Self::Frr => "frr",
        }
    }

    /// The default preference; the lowest wins, like metrics in Linux and distances in FRR.
    pub const fn preference(self) -> u32 {
        match self {
            Self::Static => 1,
            Self::Fpm => 10,
            Self::Kernel => 20,
            Self::Frr => 30,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, UnknownSource> {
        let mut all = Self::ALL.into_iter();
        all.find(|source| source.name() == text)
            .ok_or_else(|| UnknownSource(text.to_owned()))
    }
}

/// A text that names no source of routes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not an owner of routes: `static`, `fpm`, `kernel` or `frr`")]
pub struct UnknownSource(pub String);

/// Who requested a route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// The configuration. Its routes are static: a client of the control socket can replace and delete them.
    Config,
    /// The source itself: for static routes a person or a program on the control socket.
    Of(Source),
}

impl Owner {
    pub const STATIC: Self = Self::Of(Source::Static);

    pub const fn source(self) -> Source {
        match self {
            Self::Config => Source::Static,
            Self::Of(source) => source,
        }
    }

    /// Whether a replace-all change of `self` deletes routes of `other` that are not given. A restore through the
    /// control socket makes its routes the only ones of the source; when a configuration is read again, routes from
    /// elsewhere stay.
    pub fn sweeps(self, other: Self) -> bool {
        match self {
            Self::Config => other == Self::Config,
            Self::Of(source) => other.source() == source,
        }
    }
}

impl Default for Owner {
    fn default() -> Self {
        Self::STATIC
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Of(source) => source.name(),
        })
    }
}

/// How given routes relate to existing ones of their source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Each must be new.
    Add,
    /// Each replaces another.
    Change,
    /// Each is added or replaces another.
    Replace,
    /// As `Replace`; routes that are not given are deleted if the owner sweeps them. Mark and sweep: unchanged routes
    /// are not touched.
    ReplaceAll,
}

/// The routing protocol of a route: a number of `rtm_protocol` in rtnetlink(7), which iproute2 calls `proto`. It labels
/// the route for people and for programs that own some of the routes; forwarding does not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// The default protocol.
    pub const STATIC: Self = Self(4);

    /// The names that iproute2 comes with (rt_protos), and those of FRR's daemons, which FRR installs as a file of
    /// iproute2's (rt_protos.d/frr.conf). FRR calls 196 `static`, too; here that name is the kernel's 4 alone, so that
    /// it always means the same routes.
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
        (190, "ripng"),
        (191, "nhrp"),
        (192, "eigrp"),
        (193, "ldp"),
        (194, "sharp"),
        (195, "pbr"),
        (196, "frr-static"),
        (197, "openfabric"),
        (198, "srte"),
    ];

    /// Its well-known name, if it has one.
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

/// The well-known name, else the number.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    /// Reads a name of iproute2's, or a number (0x for hexadecimal).
    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        let named = Self::NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(number, _)| *number);
        let number = named.or_else(|| match text.strip_prefix("0x") {
            Some(hexadecimal) => u8::from_str_radix(hexadecimal, 16).ok(),
            None => text.parse().ok(),
        });
        number.map(Self).ok_or_else(|| UnknownProtocol(text.to_owned()))
    }
}

/// A text that names no routing protocol.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a routing protocol: it is a name such as static, bgp, ospf or isis, or a number, 0 to 255")]
pub struct UnknownProtocol(pub String);

/// Values that are kept for display; forwarding does not depend on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    pub protocol: Protocol,
    /// The protocol's metric for a prefix; 0: none.
    pub metric: u32,
}

/// Where a path's frames go while its next hop cannot be reached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Backup {
    pub next_hop: NextHop,
    /// What is done to the label stack then: a swap, a pop as the penultimate hop, or a push; `None`: the same as
    /// otherwise.
    pub action: Option<Action>,
}

/// With the same labels.
impl From<NextHop> for Backup {
    fn from(next_hop: NextHop) -> Self {
        Self { next_hop, action: None }
    }
}

/// One path: an NHLFE (RFC 3031 section 3.10), and its share of the flows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Path {
    pub action: Action,
    /// `None` only for `dev lo`, `vrf`, `xconnect` and `pass`.
    pub next_hop: Option<NextHop>,
    /// Replaces `next_hop` while that cannot be reached.
    pub backup: Option<Backup>,
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

    /// The next hop and its backup, if there are any.
    pub fn next_hops(&self) -> impl Iterator<Item = &NextHop> {
        let backup = self.backup.as_ref().map(|backup| &backup.next_hop);
        self.next_hop.iter().chain(backup)
    }

    /// The backup's next hop, if the path's labels are the backup's, too.
    pub fn backup_alike(&self) -> Option<&NextHop> {
        let alike = self.backup.as_ref().filter(|backup| backup.action.is_none());
        alike.map(|backup| &backup.next_hop)
    }

    fn fmt_action(&self, f: &mut impl fmt::Write) -> fmt::Result {
        self.action.fmt_words(f)?;
        if let Some(next_hop) = &self.next_hop {
            write!(f, " {next_hop}")?;
        }
        let Some(backup) = &self.backup else { return Ok(()) };
        f.write_str(" backup")?;
        if let Some(action) = &backup.action {
            action.fmt_words(f)?;
        }
        write!(f, " {}", backup.next_hop)
    }
}

/// As one of several paths of a route, in iproute2's form.
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
    /// For attachment circuits and [`Action::CrossConnect`].
    pseudowire: Option<Pseudowire>,
    attributes: Attributes,
}

impl Route {
    /// With one path. Checks that the parts are compatible; the error says which are not.
    pub fn new(
        key: RouteKey,
        action: Action,
        next_hop: Option<NextHop>,
        ttl_propagate: TtlPropagate,
    ) -> Result<Self, InvalidRoute> {
        Self::with_paths(key, vec![Path::new(action, next_hop)], ttl_propagate)
    }

    /// With paths that share its flows by their weights. They are kept in a fixed order; the given order has no
    /// meaning. The weight of a single path has no meaning. The error names a path by its index among those given.
    pub fn with_paths(key: RouteKey, mut paths: Vec<Path>, ttl_propagate: TtlPropagate) -> Result<Self, InvalidRoute> {
        check::check_paths(key, &mut paths)?;
        check::check_ttl_propagate(key, &paths, ttl_propagate)?;
        let is_pseudowire = matches!(key, RouteKey::Attachment(_))
            || matches!(&*paths, [path] if matches!(path.action, Action::CrossConnect(_)));
        Ok(Self {
            pseudowire: is_pseudowire.then(Pseudowire::default),
            key,
            paths: paths.into(),
            ttl_propagate,
            attributes: Attributes::default(),
        })
    }

    /// The same with these attributes.
    pub fn with_attributes(self, attributes: Attributes) -> Result<Self, InvalidRoute> {
        check::check_attributes(self.key, attributes)?;
        Ok(Self { attributes, ..self })
    }

    /// The same with this between the labels of its pseudowire and a frame.
    pub fn with_pseudowire(self, pseudowire: Pseudowire) -> Result<Self, InvalidRoute> {
        check::check_pseudowire(self.pseudowire, pseudowire)?;
        Ok(Self {
            pseudowire: Some(pseudowire),
            ..self
        })
    }

    /// The same with other paths.
    pub fn with_other_paths(&self, paths: Vec<Path>) -> Result<Self, InvalidRoute> {
        let mut other = Self::with_paths(self.key, paths, self.ttl_propagate)?;
        if let Some(pseudowire) = self.pseudowire {
            other = other.with_pseudowire(pseudowire)?;
        }
        other.with_attributes(self.attributes)
    }

    /// Applies new interface names, by the old ones.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        self.key.rename_port(names);
        for path in &mut self.paths {
            if let Action::CrossConnect(port) = &mut path.action {
                port.rename(names);
            }
            let backup = path.backup.as_mut().map(|backup| &mut backup.next_hop);
            let next_hops = path.next_hop.iter_mut().chain(backup);
            next_hops.for_each(|next_hop| next_hop.rename_device(names));
        }
        self.paths.sort_unstable();
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

    /// What stands between the labels and a frame, if it is a route of a pseudowire.
    pub fn pseudowire(&self) -> Option<Pseudowire> {
        self.pseudowire
    }

    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Its label or prefix as `ip` shows it: `default` for 0.0.0.0/0 and ::/0. A line that begins with `default` is
    /// read as a route of the IP version of its first next hop (IPv4 for a MAC address). If that would be wrong, this
    /// is the prefix.
    pub fn destination(&self) -> String {
        let first = self.paths.first().and_then(|path| path.next_hop.as_ref());
        let is_v6 = first.is_some_and(|next_hop| matches!(next_hop.via, Via::Inet6(_)));
        match self.key {
            RouteKey::Prefix(Fec { prefix, .. }) if prefix.prefix_len() == 0 && prefix.addr().is_ipv6() == is_v6 => {
                "default".to_owned()
            }
            RouteKey::Prefix(Fec { prefix, .. }) => prefix.to_string(),
            key => key.to_string(),
        }
    }

    /// The reason why it leaves frames to the kernel, if one was given. A line has it at the end, after `#`.
    pub fn pass_reason(&self) -> Option<&PassReason> {
        match &*self.paths {
            [
                Path {
                    action: Action::Pass(reason),
                    ..
                },
            ] => reason.as_ref(),
            _ => None,
        }
    }

    /// The route as one line, without its next hops if there are several. `table` is the name of its table, if it has
    /// one, and `protocol` the name of its protocol, if it should be shown.
    pub fn fmt_head(
        &self,
        f: &mut impl fmt::Write,
        table: Option<&dyn fmt::Display>,
        protocol: Option<&dyn fmt::Display>,
    ) -> fmt::Result {
        f.write_str(&self.destination())?;
        if let (RouteKey::Attachment(_), Some(pseudowire)) = (self.key, self.pseudowire) {
            write!(f, "{pseudowire}")?;
        }
        if let [path] = &*self.paths {
            path.fmt_action(f)?;
        }
        if let (RouteKey::Label(_), Some(pseudowire)) = (self.key, self.pseudowire) {
            write!(f, "{pseudowire}")?;
        }
        if let Some(table) = table {
            write!(f, " table {table}")?;
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

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.attributes.protocol;
        let shown: Option<&dyn fmt::Display> = (protocol != Protocol::STATIC).then_some(&protocol);
        let table = self.key.table();
        let table = table.as_ref().map(|table| table as &dyn fmt::Display);
        self.fmt_head(f, table, shown)?;
        if let paths @ [_, _, ..] = &*self.paths {
            paths.iter().try_for_each(|path| write!(f, " {path}"))?;
        }
        match self.pass_reason() {
            Some(reason) => write!(f, " # {reason}"),
            None => Ok(()),
        }
    }
}

//! All rules of a route. Routes are checked here, whatever they are read from. An error names the broken rule and the
//! field that breaks it; the reader of a line or message knows where that field is.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::abi::{MAX_PUSH, TtlPropagate};
use mplsxdp_common::wire::Label;

use super::interface::{InvalidInterface, check_interface};
use super::pseudowire::{GivenPseudowire, PortName, Pseudowire, ServiceTag};
use super::wire::{self, RouteAction, ViaAddress, ViaFamily};
use super::{
    Action, Attributes, Backup, Description, Fec, MAX_PATHS, MAX_WEIGHT, NEVER, NextHop, OutLabels, PassReason, Path,
    Route, RouteKey, RoutingTable, Via,
};

/// A part of a route, by its name in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// The route as a whole.
    Route,
    Label,
    Prefix,
    Attachment,
    Table,
    Action,
    /// The outgoing labels.
    Out,
    Ttl,
    TtlPropagate,
    Via,
    Dev,
    Backup,
    BackupAction,
    BackupOut,
    BackupTtl,
    BackupVia,
    BackupDev,
    Weight,
    NextHops,
    Protocol,
    Metric,
    Reason,
    ControlWord,
    FlowLabel,
    Tagged,
    Vlan,
}

impl Field {
    /// Its name in JSON, empty for the whole route.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Route => "",
            Self::Label => "label",
            Self::Prefix => "prefix",
            Self::Attachment => "attachment",
            Self::Table => "table",
            Self::Action => "action",
            Self::Out => "out",
            Self::Ttl => "ttl",
            Self::TtlPropagate => "ttl_propagate",
            Self::Via => "via",
            Self::Dev => "dev",
            Self::Backup => "backup",
            Self::BackupAction => "backup.action",
            Self::BackupOut => "backup.out",
            Self::BackupTtl => "backup.ttl",
            Self::BackupVia => "backup.via",
            Self::BackupDev => "backup.dev",
            Self::Weight => "weight",
            Self::NextHops => "nexthops",
            Self::Protocol => "protocol",
            Self::Metric => "metric",
            Self::Reason => "reason",
            Self::ControlWord => "pseudowire.control_word",
            Self::FlowLabel => "pseudowire.flow_label",
            Self::Tagged => "pseudowire.tagged",
            Self::Vlan => "pseudowire.vlan",
        }
    }
}

/// A field of a route, or of one of its next hops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The index of a next hop among several, in the order given; `None`: the route itself.
    pub next_hop: Option<usize>,
    pub field: Field,
}

impl From<Field> for Place {
    fn from(field: Field) -> Self {
        Self { next_hop: None, field }
    }
}

impl Place {
    /// The JSON path, for a route at `root`: `routes[3].nexthops[1].via`.
    pub fn within(self, root: &str) -> String {
        let place = self.to_string();
        let dot = if root.is_empty() || place.is_empty() { "" } else { "." };
        format!("{root}{dot}{place}")
    }
}

/// The JSON path within the route: `nexthops[1].via`; empty for the whole route.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.field.name();
        match self.next_hop {
            None => f.write_str(name),
            Some(index) if name.is_empty() => write!(f, "nexthops[{index}]"),
            Some(index) => write!(f, "nexthops[{index}].{name}"),
        }
    }
}

/// Why something is not a route: the rule, and the field that breaks it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{rule}")]
pub struct InvalidRoute {
    pub place: Place,
    pub rule: Rule,
}

impl InvalidRoute {
    fn new(place: impl Into<Place>, rule: Rule) -> Self {
        let place = place.into();
        Self { place, rule }
    }
}

/// A broken rule of routes. Displays as a sentence that says what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rule {
    #[error("neither a label nor a prefix nor the port of an attachment circuit")]
    NoKey,
    #[error("a route has either a label or a prefix or the port of an attachment circuit")]
    TwoKeys,
    #[error("`{0}` is not a label: labels are 0 to {max}", max = Label::MAX)]
    NotALabel(u32),
    #[error("label {0} is special-purpose (0 to 15, RFC 7274) and takes no route; 0 and 2 are built in")]
    SpecialLabel(Label),
    #[error("{0} has bits set beyond its length; it would be {net}", net = .0.trunc())]
    HostBits(IpNet),
    #[error("`table` is for a prefix: a label means the same at all ports")]
    TableForLabel,
    #[error("`table` is for a prefix, not for the frames of a port")]
    TableForAttachment,
    #[error(
        "0 is not a routing table: a table is a number from 1 to {}, or a name of /etc/iproute2/rt_tables",
        u32::MAX
    )]
    NotATable,
    #[error("labels are never imposed on {0}: loopback, link-local and multicast addresses are left to the kernel")]
    NeverImposed(IpNet),

    #[error("a push needs at least one label")]
    NoLabels,
    #[error("{0} labels to push; at most {MAX_PUSH} are supported")]
    TooManyLabels(usize),
    /// RFC 3032 section 2.1.
    #[error(
        "router alert (1) is never the last label (RFC 3032 section 2.1): another one follows it, such as in `1/200`"
    )]
    RouterAlertLast,
    /// RFC 6790 section 3.
    #[error(
        "an entropy label of 16 or more follows its indicator (7) at once (RFC 6790 section 3), such as in `200/7/5000`"
    )]
    NoEntropyLabel,
    /// RFC 3032 section 2.1.
    #[error(
        "implicit-null (3) is never on the wire (RFC 3032 section 2.1): it must be the only label, as `as implicit-null`, and only for \
         an incoming label"
    )]
    ImplicitNullPushed,
    /// RFC 3032 section 2.1.
    #[error(
        "label {given} as the last one says that it is not {family} beneath (RFC 3032 section 2.1); the explicit null of \
         {family} is {right}"
    )]
    ExplicitNullOfOther {
        given: Label,
        family: &'static str,
        right: Label,
    },

    #[error("`encap mpls` (`push`) is for a prefix; a label takes `as` (`swap`)")]
    PushForLabel,
    #[error("a route for a prefix pushes labels: `{0} encap mpls LABEL`")]
    PrefixPushes(IpNet),
    #[error("frames of {0} get labels: `xconnect {0} encap mpls LABEL via ...`")]
    AttachmentPushes(PortName),
    /// RFC 3985 section 5.4.
    #[error("label {0} is special-purpose; the last label is the pseudowire's, 16 or more")]
    NotAPseudowireLabel(Label),
    #[error(
        "`xconnect PORT` sends the frames of a pseudowire out of a port; it takes no `via`, `backup`, `as` or `encap`, and no `dev`"
    )]
    CrossConnectAlone,
    #[error("`xconnect PORT` sends the frames of a pseudowire out of a port; it is not one of several next hops")]
    CrossConnectAmongSeveral,
    #[error("`xconnect` needs the name of a port, `dev`")]
    CrossConnectWithoutPort,
    #[error("`xconnect PORT` after a prefix: only a label can be a pseudowire's")]
    CrossConnectForPrefix,
    #[error(
        "`cw`, `no-cw`, `flow-label`, `tagged` and `vlan` are for pseudowires: `LABEL xconnect PORT` or `xconnect PORT encap mpls LABELS`"
    )]
    NotAPseudowire,
    #[error("`{0}` is not a VLAN: it is 0 to 4094")]
    NotAVlan(u16),
    #[error("with `vlan`, frames in the pseudowire are tagged")]
    VlanWithoutTag,
    #[error("`ttl-propagate` is not for pseudowires: the frames in there have no TTL")]
    TtlOfFrames,
    #[error("a swap needs `out`, the outgoing labels")]
    SwapWithoutLabels,
    #[error("outgoing labels go with the action `swap` only")]
    LabelsWithoutSwap,
    #[error("`ttl` is only for `encap mpls`; a label has `ttl-propagate`")]
    TtlForLabel,
    #[error("`0` is not a TTL: it is 1 to 255")]
    TtlZero,
    #[error("`dev lo` keeps the packet on this machine; it takes no `via`, no `backup`, no `as` and no other `dev`")]
    LocalAlone,
    #[error("`dev lo` keeps the packet on this machine; it is not one of several next hops")]
    LocalAmongSeveral,
    #[error("`dev lo` keeps the packet on this machine; it is not a backup")]
    LocalBackup,
    #[error(
        "`pass` leaves frames to the kernel as they are; it takes no `via`, `backup`, `as`, `encap` or `ttl-propagate`, and no `dev` but `lo`"
    )]
    PassAlone,
    #[error("`pass` leaves frames to the kernel; it is not one of several next hops")]
    PassAmongSeveral,
    #[error("`pass` with `dev lo` (`local_pass`) is for a label; a prefix takes only `pass`")]
    LocalPassForPrefix,
    #[error(
        "`vrf NAME pass` sends packets as the VRF routes them; it takes no `via`, `backup`, `as` or `encap`, and no `dev`"
    )]
    VrfAlone,
    #[error("`vrf NAME pass` sends packets as the VRF routes them; it is not one of several next hops")]
    VrfAmongSeveral,
    #[error(
        "`vrf {0}` needs `pass`: packets that only the kernel can handle are left to it, which must have the label, too (`ip -f \
         mpls route add LABEL dev {0}`)"
    )]
    VrfWithoutPass(Arc<str>),
    #[error("`vrf_pass` needs the name of a VRF, `dev`")]
    VrfWithoutName,
    #[error("`vrf_pass` is for a label; a prefix names the table of a VRF")]
    VrfPassForPrefix,
    #[error("a reason is only for `pass`")]
    ReasonWithoutPass,

    #[error("no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`")]
    NoNextHop,
    #[error("`dev` without `via`: name the neighbour with `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`")]
    DevWithoutVia,
    #[error("`{address}` is not {}", .family.expected())]
    NotAnAddress { family: ViaFamily, address: Box<str> },
    #[error("{address} is not the {kind} of one neighbour", address = .0.bare(), kind = .0.kind())]
    NotOneNeighbour(Via),
    #[error("`via link` needs `dev IFACE`")]
    LinkWithoutDev,
    #[error("link-local {address} needs `dev IFACE`", address = .0.bare())]
    LinkLocalWithoutDev(Via),
    #[error(transparent)]
    Interface(#[from] InvalidInterface),
    #[error("`backup {0}` is the next hop itself; a backup is another neighbour")]
    BackupIsNextHop(NextHop),
    #[error(
        "a backup does what the next hop does, or it has labels of its own (`swap`, `backup as LABELS via ...`) or none \
         (`penultimate_pop`, `backup as implicit-null via ...`)"
    )]
    BackupAction,

    #[error("`{0}` is not a weight: it is 1 to {MAX_WEIGHT}")]
    Weight(u16),
    #[error("no next hop; a route has at least one")]
    NoPaths,
    #[error("{0} next hops for one route; at most {MAX_PATHS} are supported")]
    TooManyPaths(usize),
    #[error("`{0}` is given twice: give it once, with a larger `weight`")]
    PathTwice(Box<Path>),
    #[error("each of several next hops has its own: give it there, after its `nexthop`")]
    BesideSeveral,
    #[error("`metric` is for a prefix; a label or port has one route, and nothing to prefer it to")]
    MetricForLabel,
}

/// The rule that a next hop breaks.
type Broken = (Field, Rule);

impl wire::Route {
    /// Makes a route of the given fields if they obey all rules.
    pub fn check(self) -> Result<Route, InvalidRoute> {
        let key = key(self.key())?;
        check_key(key)?;
        let ttl_propagate = match self.ttl_propagate {
            None => TtlPropagate::Default,
            Some(true) => TtlPropagate::Enabled,
            Some(false) => TtlPropagate::Disabled,
        };
        let by_itself = wire::Path {
            action: self.action,
            out: self.out,
            ttl: self.ttl,
            via: self.via,
            dev: self.dev,
            backup: self.backup,
            weight: None,
        };
        let mut paths = match self.nexthops {
            None => vec![path(key, by_itself).map_err(|(field, rule)| InvalidRoute::new(field, rule))?],
            Some(several) => {
                if let Some(field) = by_itself.first_field() {
                    return Err(InvalidRoute::new(field, Rule::BesideSeveral));
                }
                let mut paths = Vec::with_capacity(several.len());
                for (index, given) in several.into_iter().enumerate() {
                    paths.push(path(key, given).map_err(|broken| at_next_hop(index, broken))?);
                }
                paths
            }
        };
        match (paths.as_mut_slice(), self.reason) {
            (_, None) => {}
            (
                [
                    Path {
                        action: Action::Pass(reason),
                        ..
                    },
                ],
                Some(text),
            ) => *reason = PassReason::new(&text),
            (_, Some(_)) => return Err(InvalidRoute::new(Field::Reason, Rule::ReasonWithoutPass)),
        }
        let pseudowire = self.pseudowire.map(pseudowire).transpose()?;
        let attributes = Attributes {
            protocol: self.protocol.unwrap_or_default(),
            metric: self.metric.unwrap_or_default(),
        };
        let mut route = Route::with_paths(key, paths, ttl_propagate)?;
        if let Some(pseudowire) = pseudowire {
            route = route.with_pseudowire(pseudowire)?;
        }
        route.with_attributes(attributes)
    }

    /// The given fields as a description of an existing route: see [`Description`].
    pub fn describe(self) -> Result<Description, InvalidRoute> {
        let key = key(self.key())?;
        let (protocol, metric) = (self.protocol, self.metric);
        let bare = Self {
            label: self.label,
            prefix: self.prefix,
            attachment: self.attachment,
            table: self.table,
            protocol,
            metric,
            ..Self::default()
        };
        let route = (self != bare).then(|| self.check()).transpose()?;
        Ok(Description::new(key, route, protocol, metric))
    }
}

fn at_next_hop(index: usize, (field, rule): Broken) -> InvalidRoute {
    let next_hop = Some(index);
    InvalidRoute::new(Place { next_hop, field }, rule)
}

/// The key of a route.
pub fn key(given: wire::Key) -> Result<RouteKey, InvalidRoute> {
    let wire::Key {
        label,
        prefix,
        attachment,
        table,
    } = given;
    match (label, prefix) {
        (None, None) if let Some(port) = attachment => match table {
            None => Ok(RouteKey::Attachment(port)),
            Some(_) => Err(InvalidRoute::new(Field::Table, Rule::TableForAttachment)),
        },
        _ if attachment.is_some() => Err(InvalidRoute::new(Field::Route, Rule::TwoKeys)),
        (Some(_), None) if table.is_some() => Err(InvalidRoute::new(Field::Table, Rule::TableForLabel)),
        (Some(value), None) => match Label::new(value) {
            Some(label) => Ok(RouteKey::Label(label)),
            None => Err(InvalidRoute::new(Field::Label, Rule::NotALabel(value))),
        },
        (None, Some(_)) if table == Some(0) => Err(InvalidRoute::new(Field::Table, Rule::NotATable)),
        (None, Some(prefix)) => Ok(RouteKey::Prefix(Fec::new(prefix, table.map(RoutingTable)))),
        (None, None) => Err(InvalidRoute::new(Field::Route, Rule::NoKey)),
        (Some(_), Some(_)) => Err(InvalidRoute::new(Field::Route, Rule::TwoKeys)),
    }
}

/// Checks that a route can have `key`.
pub fn check_key(key: RouteKey) -> Result<(), InvalidRoute> {
    match key {
        RouteKey::Label(label) if label.is_special() => Err(InvalidRoute::new(Field::Label, Rule::SpecialLabel(label))),
        RouteKey::Prefix(Fec { prefix, .. }) if prefix != prefix.trunc() => {
            Err(InvalidRoute::new(Field::Prefix, Rule::HostBits(prefix)))
        }
        RouteKey::Prefix(Fec { prefix, .. }) if NEVER.iter().any(|never| never.contains(&prefix)) => {
            Err(InvalidRoute::new(Field::Prefix, Rule::NeverImposed(prefix)))
        }
        RouteKey::Prefix(Fec {
            table: Some(RoutingTable(0)),
            ..
        }) => Err(InvalidRoute::new(Field::Table, Rule::NotATable)),
        RouteKey::Label(_) | RouteKey::Prefix(_) | RouteKey::Attachment(_) => Ok(()),
    }
}

/// What is given of a pseudowire.
fn pseudowire(given: GivenPseudowire) -> Result<Pseudowire, InvalidRoute> {
    let GivenPseudowire {
        control_word,
        flow_label,
        tagged,
        vlan,
    } = given;
    let default = Pseudowire::default();
    Ok(Pseudowire {
        control_word: control_word.unwrap_or(default.control_word),
        flow_label: flow_label.unwrap_or(default.flow_label),
        service_tag: match (vlan, tagged) {
            (Some(_), Some(false)) => return Err(InvalidRoute::new(Field::Tagged, Rule::VlanWithoutTag)),
            (Some(vid), _) => ServiceTag::Vlan(vid),
            (None, Some(true)) => ServiceTag::Tagged,
            (None, _) => ServiceTag::Raw,
        },
    })
}

/// Checks that a route can have this between its labels and a frame; `before`: it is a pseudowire's.
pub(super) fn check_pseudowire(before: Option<Pseudowire>, pseudowire: Pseudowire) -> Result<(), InvalidRoute> {
    match (before, pseudowire.service_tag) {
        (None, _) => {
            let field = match pseudowire.service_tag {
                ServiceTag::Vlan(_) => Field::Vlan,
                ServiceTag::Tagged => Field::Tagged,
                ServiceTag::Raw if pseudowire.flow_label => Field::FlowLabel,
                ServiceTag::Raw => Field::ControlWord,
            };
            Err(InvalidRoute::new(field, Rule::NotAPseudowire))
        }
        // IEEE 802.1Q table 9-2: 4095 is reserved.
        (Some(_), ServiceTag::Vlan(vid @ 4095..)) => Err(InvalidRoute::new(Field::Vlan, Rule::NotAVlan(vid))),
        (Some(_), _) => Ok(()),
    }
}

/// Checks that labels can be pushed in this order, outermost first, whatever is beneath.
pub(super) fn check_labels(labels: &[Label]) -> Result<(), Rule> {
    let is_alone = |(index, &label): (usize, &Label)| {
        label == Label::ENTROPY_INDICATOR && labels.get(index + 1).is_none_or(|entropy| entropy.is_special())
    };
    match labels {
        [] => Err(Rule::NoLabels),
        _ if labels.len() > MAX_PUSH => Err(Rule::TooManyLabels(labels.len())),
        [.., Label::ROUTER_ALERT] => Err(Rule::RouterAlertLast),
        _ if labels.iter().enumerate().any(is_alone) => Err(Rule::NoEntropyLabel),
        _ if labels.contains(&Label::IMPLICIT_NULL) => Err(Rule::ImplicitNullPushed),
        _ => Ok(()),
    }
}

/// One next hop of a route for `key`, from the given fields.
fn path(key: RouteKey, given: wire::Path) -> Result<Path, Broken> {
    let wire::Path {
        action,
        out,
        ttl,
        via,
        dev,
        backup,
        weight,
    } = given;
    let to_lo = dev.as_deref() == Some("lo");
    let label = |value| Label::new(value).ok_or((Field::Out, Rule::NotALabel(value)));
    let out = out.map(|out| out.into_iter().map(label).collect::<Result<Vec<_>, _>>());
    let pushed = |labels| OutLabels::new(labels).map_err(|rule| (Field::Out, rule));
    let action = match (key, action, out.transpose()?) {
        // iproute2's users write `as 3`, or no `as` at all.
        (RouteKey::Label(_), None | Some(RouteAction::Swap | RouteAction::PenultimatePop), Some(out))
            if out == [Label::IMPLICIT_NULL] =>
        {
            Action::PenultimatePop
        }
        (RouteKey::Label(_), None | Some(RouteAction::Swap), Some(out)) => Action::Swap(pushed(out)?),
        (RouteKey::Label(_), Some(RouteAction::Xconnect), Some(_)) => {
            return Err((Field::Out, Rule::CrossConnectAlone));
        }
        (RouteKey::Label(_), Some(RouteAction::Xconnect), None) => match &dev {
            Some(name) => Action::CrossConnect(PortName::new(name).map_err(|error| (Field::Dev, error.into()))?),
            None => return Err((Field::Dev, Rule::CrossConnectWithoutPort)),
        },
        (RouteKey::Prefix(_), Some(RouteAction::Xconnect), _) => {
            return Err((Field::Action, Rule::CrossConnectForPrefix));
        }
        (RouteKey::Label(_), None, None) if via.is_none() && to_lo => Action::Local,
        (RouteKey::Label(_), Some(RouteAction::Pass), None) if to_lo => Action::LocalPass,
        (RouteKey::Label(_), Some(RouteAction::LocalPass), None) => Action::LocalPass,
        (RouteKey::Prefix(_), Some(RouteAction::Pass), None) if to_lo => {
            return Err((Field::Dev, Rule::LocalPassForPrefix));
        }
        (RouteKey::Prefix(_), Some(RouteAction::LocalPass), _) => {
            return Err((Field::Action, Rule::LocalPassForPrefix));
        }
        (RouteKey::Prefix(_), Some(RouteAction::VrfPass), _) => {
            return Err((Field::Action, Rule::VrfPassForPrefix));
        }
        (RouteKey::Label(_), Some(RouteAction::VrfPass), Some(_)) => return Err((Field::Out, Rule::VrfAlone)),
        (RouteKey::Label(_), Some(RouteAction::VrfPass), None) => match &dev {
            Some(name) => Action::VrfPass(name.clone()),
            None => return Err((Field::Dev, Rule::VrfWithoutName)),
        },
        (RouteKey::Label(_) | RouteKey::Prefix(_), Some(RouteAction::Pass), None) => Action::Pass(None),
        (_, Some(RouteAction::Pass | RouteAction::LocalPass), Some(_)) => return Err((Field::Out, Rule::PassAlone)),
        (RouteKey::Label(_), None | Some(RouteAction::Pop), None) => Action::Pop,
        (RouteKey::Label(_), Some(RouteAction::PenultimatePop), None) => Action::PenultimatePop,
        (RouteKey::Label(_), Some(RouteAction::Local), None) => Action::Local,
        (RouteKey::Label(_), Some(RouteAction::Swap), None) => return Err((Field::Out, Rule::SwapWithoutLabels)),
        (RouteKey::Label(_), Some(RouteAction::Push), _) => return Err((Field::Action, Rule::PushForLabel)),
        (RouteKey::Label(_), Some(_), Some(_)) => return Err((Field::Out, Rule::LabelsWithoutSwap)),
        (RouteKey::Prefix(_) | RouteKey::Attachment(_), None | Some(RouteAction::Push), Some(out)) => Action::Push {
            labels: pushed(out)?,
            ttl: match ttl {
                Some(ttl) => Some(ttl.try_into().map_err(|_| (Field::Ttl, Rule::TtlZero))?),
                None => None,
            },
        },
        (RouteKey::Prefix(fec), _, _) => return Err((Field::Action, Rule::PrefixPushes(fec.prefix))),
        (RouteKey::Attachment(port), _, _) => return Err((Field::Action, Rule::AttachmentPushes(port))),
    };
    if ttl.is_some() && !matches!(action, Action::Push { .. }) {
        let rule = if matches!(action, Action::Pass(_)) {
            Rule::PassAlone
        } else {
            Rule::TtlForLabel
        };
        return Err((Field::Ttl, rule));
    }
    let (is_local, alone) = match action {
        Action::Local => (true, Rule::LocalAlone),
        Action::LocalPass => (true, Rule::PassAlone),
        Action::Pass(_) => (false, Rule::PassAlone),
        Action::VrfPass(_) => (false, Rule::VrfAlone),
        Action::CrossConnect(_) => (false, Rule::CrossConnectAlone),
        _ => (false, Rule::LocalAlone),
    };
    let is_pass = matches!(action, Action::Pass(_));
    let dev = dev.filter(|_| !matches!(action, Action::VrfPass(_) | Action::CrossConnect(_)));
    let via = via.map(|via| address(via).map_err(|rule| (Field::Via, rule)));
    let next_hop = match (via.transpose()?, dev) {
        (None, None) => None,
        (None, Some(_)) if is_local && to_lo => None,
        (Some(_), _) if is_local || action.has_no_next_hop() => return Err((Field::Via, alone)),
        (_, Some(_)) if is_local || is_pass || to_lo => return Err((Field::Dev, alone)),
        (Some(via), dev) => Some(NextHop { via, dev }),
        (None, Some(_)) => return Err((Field::Dev, Rule::DevWithoutVia)),
    };
    let path = Path {
        action,
        next_hop,
        backup: backup.map(|given| self::backup(key, given)).transpose()?,
        weight: weight.unwrap_or(1),
    };
    check_path(key, &path)?;
    Ok(path)
}

/// The backup of a next hop of a route for `key`, from the given fields.
fn backup(key: RouteKey, given: wire::Backup) -> Result<Backup, Broken> {
    let wire::Backup {
        action,
        out,
        ttl,
        via,
        dev,
    } = given;
    let label = |value| Label::new(value).ok_or((Field::BackupOut, Rule::NotALabel(value)));
    let out = out.map(|out| out.into_iter().map(label).collect::<Result<Vec<_>, _>>());
    let pushed = |labels| OutLabels::new(labels).map_err(|rule| (Field::BackupOut, rule));
    let action = match (key, action, out.transpose()?) {
        (_, None, None) => None,
        (RouteKey::Label(_), None | Some(RouteAction::Swap | RouteAction::PenultimatePop), Some(out))
            if out == [Label::IMPLICIT_NULL] =>
        {
            Some(Action::PenultimatePop)
        }
        (RouteKey::Label(_), None | Some(RouteAction::Swap), Some(out)) => Some(Action::Swap(pushed(out)?)),
        (RouteKey::Label(_), Some(RouteAction::PenultimatePop), None) => Some(Action::PenultimatePop),
        (RouteKey::Label(_), Some(RouteAction::Swap), None) => {
            return Err((Field::BackupOut, Rule::SwapWithoutLabels));
        }
        (RouteKey::Label(_), Some(RouteAction::PenultimatePop), Some(_)) => {
            return Err((Field::BackupOut, Rule::LabelsWithoutSwap));
        }
        (RouteKey::Label(_), Some(RouteAction::Push), _) => return Err((Field::BackupAction, Rule::PushForLabel)),
        (RouteKey::Label(_), Some(_), _) => return Err((Field::BackupAction, Rule::BackupAction)),
        (RouteKey::Prefix(_) | RouteKey::Attachment(_), None | Some(RouteAction::Push), Some(out)) => {
            Some(Action::Push {
                labels: pushed(out)?,
                ttl: match ttl {
                    Some(ttl) => Some(ttl.try_into().map_err(|_| (Field::BackupTtl, Rule::TtlZero))?),
                    None => None,
                },
            })
        }
        (RouteKey::Prefix(fec), _, _) => return Err((Field::BackupAction, Rule::PrefixPushes(fec.prefix))),
        (RouteKey::Attachment(port), _, _) => return Err((Field::BackupAction, Rule::AttachmentPushes(port))),
    };
    if ttl.is_some() && !matches!(action, Some(Action::Push { .. })) {
        return Err((Field::BackupTtl, Rule::TtlForLabel));
    }
    let via = address(via).map_err(|rule| (Field::BackupVia, rule))?;
    let next_hop = NextHop { via, dev };
    Ok(Backup { next_hop, action })
}

/// The neighbour that `via` names.
pub fn address(via: ViaAddress) -> Result<Via, Rule> {
    let ViaAddress { family, host } = via;
    let read = match family {
        ViaFamily::Inet => host.parse().map(Via::Inet).ok(),
        ViaFamily::Inet6 => host.parse().map(Via::Inet6).ok(),
        ViaFamily::Link => host.parse().map(Via::Link).ok(),
    };
    read.ok_or(Rule::NotAnAddress { family, address: host })
}

/// Checks that the parts of a next hop are compatible, in a route for `key`.
fn check_path(key: RouteKey, path: &Path) -> Result<(), Broken> {
    match (key, &path.action) {
        (RouteKey::Label(_), Action::Push { .. }) => return Err((Field::Action, Rule::PushForLabel)),
        (RouteKey::Prefix(fec), Action::Push { labels, .. }) => {
            check_explicit_null(fec.prefix, labels).map_err(|rule| (Field::Out, rule))?;
        }
        (RouteKey::Attachment(_), Action::Push { labels, .. }) => {
            check_pseudowire_label(labels).map_err(|rule| (Field::Out, rule))?;
        }
        (RouteKey::Attachment(port), _) => return Err((Field::Action, Rule::AttachmentPushes(port))),
        (RouteKey::Prefix(_), Action::CrossConnect(_)) => return Err((Field::Action, Rule::CrossConnectForPrefix)),
        (_, Action::Pass(_)) | (RouteKey::Label(_), _) => {}
        (RouteKey::Prefix(_), Action::LocalPass) => return Err((Field::Action, Rule::LocalPassForPrefix)),
        (RouteKey::Prefix(_), Action::VrfPass(_)) => return Err((Field::Action, Rule::VrfPassForPrefix)),
        (RouteKey::Prefix(fec), _) => return Err((Field::Action, Rule::PrefixPushes(fec.prefix))),
    }
    match (&path.action, &path.next_hop, &path.backup) {
        (Action::VrfPass(name), None, None) => check_interface(name).map_err(|error| (Field::Dev, error.into()))?,
        (Action::VrfPass(_), Some(_), _) => return Err((Field::Via, Rule::VrfAlone)),
        (Action::VrfPass(_), None, Some(_)) => return Err((Field::Backup, Rule::VrfAlone)),
        (Action::CrossConnect(_), Some(_), _) => return Err((Field::Via, Rule::CrossConnectAlone)),
        (Action::CrossConnect(_), None, Some(_)) => return Err((Field::Backup, Rule::CrossConnectAlone)),
        (Action::CrossConnect(_) | Action::Local | Action::LocalPass | Action::Pass(_), None, None) => {}
        (Action::Local, Some(_), _) => return Err((Field::Via, Rule::LocalAlone)),
        (Action::Local, None, Some(_)) => return Err((Field::Backup, Rule::LocalAlone)),
        (Action::LocalPass | Action::Pass(_), Some(_), _) => return Err((Field::Via, Rule::PassAlone)),
        (Action::LocalPass | Action::Pass(_), None, Some(_)) => return Err((Field::Backup, Rule::PassAlone)),
        (_, None, _) => return Err((Field::Via, Rule::NoNextHop)),
        (_, Some(next_hop), backup) => {
            check_next_hop(next_hop, Field::Via, Field::Dev, Rule::LocalAlone)?;
            if let Some(backup) = backup {
                check_backup(key, backup)?;
                if backup.next_hop == *next_hop {
                    return Err((Field::Backup, Rule::BackupIsNextHop(next_hop.clone())));
                }
            }
        }
    }
    if (1..=MAX_WEIGHT).contains(&path.weight) {
        Ok(())
    } else {
        Err((Field::Weight, Rule::Weight(path.weight)))
    }
}

/// Checks that a next hop of a route for `key` can have this backup.
fn check_backup(key: RouteKey, backup: &Backup) -> Result<(), Broken> {
    match (key, &backup.action) {
        (_, None) | (RouteKey::Label(_), Some(Action::Swap(_) | Action::PenultimatePop)) => {}
        (RouteKey::Label(_), Some(Action::Push { .. })) => return Err((Field::BackupAction, Rule::PushForLabel)),
        (RouteKey::Label(_), Some(_)) => return Err((Field::BackupAction, Rule::BackupAction)),
        (RouteKey::Prefix(fec), Some(Action::Push { labels, .. })) => {
            check_explicit_null(fec.prefix, labels).map_err(|rule| (Field::BackupOut, rule))?;
        }
        (RouteKey::Attachment(_), Some(Action::Push { labels, .. })) => {
            check_pseudowire_label(labels).map_err(|rule| (Field::BackupOut, rule))?;
        }
        (RouteKey::Prefix(fec), Some(_)) => return Err((Field::BackupAction, Rule::PrefixPushes(fec.prefix))),
        (RouteKey::Attachment(port), Some(_)) => return Err((Field::BackupAction, Rule::AttachmentPushes(port))),
    }
    check_next_hop(&backup.next_hop, Field::BackupVia, Field::BackupDev, Rule::LocalBackup)
}

/// Checks that the label on the frames of a port can be a pseudowire's.
fn check_pseudowire_label(labels: &OutLabels) -> Result<(), Rule> {
    match labels.as_slice() {
        // An entropy label belongs to the one that precedes it (RFC 6790 section 4.1).
        [.., Label::ENTROPY_INDICATOR, entropy] => Err(Rule::NotAPseudowireLabel(*entropy)),
        [.., last] if last.is_special() => Err(Rule::NotAPseudowireLabel(*last)),
        _ => Ok(()),
    }
}

/// Checks that an explicit null pushed on packets to `prefix` matches their IP version (RFC 3032 section 2.1).
fn check_explicit_null(prefix: IpNet, labels: &OutLabels) -> Result<(), Rule> {
    let (family, right, other) = match prefix {
        IpNet::V4(_) => ("IPv4", Label::IPV4_EXPLICIT_NULL, Label::IPV6_EXPLICIT_NULL),
        IpNet::V6(_) => ("IPv6", Label::IPV6_EXPLICIT_NULL, Label::IPV4_EXPLICIT_NULL),
    };
    if labels.as_slice().last() == Some(&other) {
        let given = other;
        return Err(Rule::ExplicitNullOfOther { given, family, right });
    }
    Ok(())
}

/// Checks that this can name a neighbour. `lo` is the rule that a `dev` of `lo` breaks.
fn check_next_hop(next_hop: &NextHop, via: Field, dev: Field, lo: Rule) -> Result<(), Broken> {
    match &next_hop.dev {
        Some(name) if &**name == "lo" => return Err((dev, lo)),
        Some(name) => check_interface(name).map_err(|error| (dev, error.into()))?,
        None => {}
    }
    let is_one = match next_hop.via {
        Via::Link(mac) => mac.is_unicast(),
        Via::Inet(address) => !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast(),
        Via::Inet6(address) => !address.is_unspecified() && !address.is_multicast(),
    };
    match next_hop.via {
        _ if !is_one => Err((via, Rule::NotOneNeighbour(next_hop.via))),
        Via::Link(_) if next_hop.dev.is_none() => Err((via, Rule::LinkWithoutDev)),
        Via::Inet6(address) if address.is_unicast_link_local() && next_hop.dev.is_none() => {
            Err((via, Rule::LinkLocalWithoutDev(next_hop.via)))
        }
        Via::Inet(_) | Via::Inet6(_) | Via::Link(_) => Ok(()),
    }
}

/// Checks that a route for `key` can have these paths, and brings them into the form and order in which a route keeps
/// them.
pub(super) fn check_paths(key: RouteKey, paths: &mut Vec<Path>) -> Result<(), InvalidRoute> {
    check_key(key)?;
    for path in paths.iter_mut() {
        if let Some(backup) = &mut path.backup {
            backup.action.take_if(|action| *action == path.action);
        }
    }
    let is_only = paths.len() == 1;
    for (index, path) in paths.iter().enumerate() {
        check_path(key, path).map_err(|broken| match is_only {
            true => InvalidRoute::new(broken.0, broken.1),
            false => at_next_hop(index, broken),
        })?;
    }
    match paths.len() {
        0 => return Err(InvalidRoute::new(Field::NextHops, Rule::NoPaths)),
        1 => {
            paths.iter_mut().for_each(|path| path.weight = 1);
            return Ok(());
        }
        2..=MAX_PATHS => {}
        count => return Err(InvalidRoute::new(Field::NextHops, Rule::TooManyPaths(count))),
    }
    if let Some(index) = paths.iter().position(|path| path.action.has_no_next_hop()) {
        return Err(at_next_hop(
            index,
            match paths[index].action {
                Action::Local => (Field::Dev, Rule::LocalAmongSeveral),
                Action::VrfPass(_) => (Field::Action, Rule::VrfAmongSeveral),
                Action::CrossConnect(_) => (Field::Action, Rule::CrossConnectAmongSeveral),
                _ => (Field::Action, Rule::PassAmongSeveral),
            },
        ));
    }
    let mut numbered: Vec<(Path, usize)> = std::mem::take(paths).into_iter().zip(0..).collect();
    numbered.sort_unstable();
    let way = |path: &Path| (path.action.clone(), path.next_hop.clone(), path.backup.clone());
    let twice = numbered.windows(2).find(|pair| way(&pair[0].0) == way(&pair[1].0));
    if let Some([(_, first), (path, second)]) = twice {
        let rule = Rule::PathTwice(Box::new(path.clone()));
        return Err(at_next_hop(*first.max(second), (Field::Route, rule)));
    }
    paths.extend(numbered.into_iter().map(|(path, _)| path));
    Ok(())
}

/// Checks that labels are changed in a way to which TTL propagation applies.
pub(super) fn check_ttl_propagate(
    key: RouteKey,
    paths: &[Path],
    ttl_propagate: TtlPropagate,
) -> Result<(), InvalidRoute> {
    let is_any = |is: fn(&Action) -> bool| paths.iter().any(|path| is(&path.action));
    let is_pseudowire =
        matches!(key, RouteKey::Attachment(_)) || is_any(|action| matches!(action, Action::CrossConnect(_)));
    let rule = match ttl_propagate {
        TtlPropagate::Default => return Ok(()),
        _ if is_pseudowire => Rule::TtlOfFrames,
        _ if is_any(|action| matches!(action, Action::Pass(_))) => Rule::PassAlone,
        TtlPropagate::Enabled | TtlPropagate::Disabled => return Ok(()),
    };
    Err(InvalidRoute::new(Field::TtlPropagate, rule))
}

/// Checks that a route for `key` can have these attributes.
pub(super) fn check_attributes(key: RouteKey, attributes: Attributes) -> Result<(), InvalidRoute> {
    if !matches!(key, RouteKey::Prefix(_)) && attributes.metric != 0 {
        return Err(InvalidRoute::new(Field::Metric, Rule::MetricForLabel));
    }
    Ok(())
}

impl wire::Path {
    /// The first of its fields that is given.
    fn first_field(&self) -> Option<Field> {
        let given = [
            (Field::Action, self.action.is_some()),
            (Field::Out, self.out.is_some()),
            (Field::Ttl, self.ttl.is_some()),
            (Field::Via, self.via.is_some()),
            (Field::Dev, self.dev.is_some()),
            (Field::Backup, self.backup.is_some()),
            (Field::Weight, self.weight.is_some()),
        ];
        given.into_iter().find(|&(_, given)| given).map(|(field, _)| field)
    }
}

impl ViaFamily {
    /// The form of its addresses.
    const fn expected(self) -> &'static str {
        match self {
            Self::Inet => "an IPv4 address, such as 192.0.2.1",
            Self::Inet6 => "an IPv6 address, such as 2001:db8::1",
            Self::Link => "a MAC address, such as 52:54:00:12:34:56",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::route::line::{self, Family};

    /// Each broken rule has the same sentence wherever the route comes from, and each reader points at the field that
    /// breaks it.
    #[test]
    fn a_line_and_a_message_break_the_same_rules_in_their_own_places() {
        let via = |address: &str| json!({ "family": "inet", "host": address });
        for (line, words, message, place) in [
            (
                "100 nexthop via inet 192.0.2.1 nexthop as 110 via inet 224.0.0.1",
                "via inet 224.0.0.1",
                json!({ "label": 100, "nexthops": [{ "via": via("192.0.2.1") }, { "out": [110], "via": via("224.0.0.1") }] }),
                "nexthops[1].via",
            ),
            (
                "100 nexthop via inet 192.0.2.1 nexthop as 200/1 via inet 192.0.2.2",
                "as 200/1",
                json!({ "label": 100, "nexthops": [{ "via": via("192.0.2.1") }, { "out": [200, 1], "via": via("192.0.2.2") }] }),
                "nexthops[1].out",
            ),
            (
                "100 nexthop as 110 via inet 192.0.2.2 nexthop via inet 192.0.2.1 nexthop as 110 via inet 192.0.2.2 weight 9",
                "nexthop",
                json!({ "label": 100, "nexthops": [
                    { "out": [110], "via": via("192.0.2.2") },
                    { "via": via("192.0.2.1") },
                    { "out": [110], "via": via("192.0.2.2"), "weight": 9 },
                ] }),
                "nexthops[2]",
            ),
            (
                "100 nexthop via inet 192.0.2.1 weight 300 nexthop via inet 192.0.2.2",
                "weight 300",
                json!({ "label": 100, "nexthops": [{ "via": via("192.0.2.1"), "weight": 300 }, { "via": via("192.0.2.2") }] }),
                "nexthops[0].weight",
            ),
            (
                "100 as 110 nexthop via inet 192.0.2.1 nexthop via inet 192.0.2.2",
                "as 110",
                json!({ "label": 100, "action": "swap", "out": [110], "nexthops": [{ "via": via("192.0.2.1") }, { "via": via("192.0.2.2") }] }),
                "action",
            ),
            (
                "100 via inet 192.0.2.1 backup via inet 192.0.2.2 dev a/b",
                "backup via inet 192.0.2.2 dev a/b",
                json!({ "label": 100, "via": via("192.0.2.1"), "backup": { "via": via("192.0.2.2"), "dev": "a/b" } }),
                "backup.dev",
            ),
            (
                "100 via inet 192.0.2.1 dev lo",
                "dev lo",
                json!({ "label": 100, "via": via("192.0.2.1"), "dev": "lo" }),
                "dev",
            ),
            (
                "100 via inet 192.0.2.1 backup via inet 192.0.2.2 dev lo",
                "backup via inet 192.0.2.2 dev lo",
                json!({ "label": 100, "via": via("192.0.2.1"), "backup": { "via": via("192.0.2.2"), "dev": "lo" } }),
                "backup.dev",
            ),
            (
                "100 via inet 192.0.2.1 metric 5",
                "metric 5",
                json!({ "label": 100, "via": via("192.0.2.1"), "metric": 5 }),
                "metric",
            ),
            (
                "10.0.0.0/8 encap mpls 100 ttl 0 via inet 192.0.2.1",
                "ttl 0",
                json!({ "prefix": "10.0.0.0/8", "out": [100], "ttl": 0, "via": via("192.0.2.1") }),
                "ttl",
            ),
            (
                "10.0.0.1/8 encap mpls 100 via inet 192.0.2.1",
                "10.0.0.1/8",
                json!({ "prefix": "10.0.0.1/8", "out": [100], "via": via("192.0.2.1") }),
                "prefix",
            ),
            (
                "100 pass dev eth1",
                "dev eth1",
                json!({ "label": 100, "action": "pass", "dev": "eth1" }),
                "dev",
            ),
            (
                "100 pass via inet 192.0.2.1",
                "via inet 192.0.2.1",
                json!({ "label": 100, "action": "pass", "via": via("192.0.2.1") }),
                "via",
            ),
            (
                "100 dev lo pass backup via inet 192.0.2.1",
                "backup via inet 192.0.2.1",
                json!({ "label": 100, "action": "local_pass", "backup": { "via": via("192.0.2.1") } }),
                "backup",
            ),
            (
                "100 pass ttl-propagate disabled",
                "ttl-propagate disabled",
                json!({ "label": 100, "action": "pass", "ttl_propagate": false }),
                "ttl_propagate",
            ),
            (
                "10.0.0.0/8 pass ttl 5",
                "ttl 5",
                json!({ "prefix": "10.0.0.0/8", "action": "pass", "ttl": 5 }),
                "ttl",
            ),
            (
                "10.0.0.0/8 dev lo pass",
                "dev lo",
                json!({ "prefix": "10.0.0.0/8", "action": "pass", "dev": "lo" }),
                "dev",
            ),
            (
                "100 nexthop via inet 192.0.2.1 nexthop pass",
                "pass",
                json!({ "label": 100, "nexthops": [{ "via": via("192.0.2.1") }, { "action": "pass" }] }),
                "nexthops[1].action",
            ),
            (
                "15 via inet 192.0.2.1",
                "15",
                json!({ "label": 15, "via": via("192.0.2.1") }),
                "label",
            ),
            ("100 as 110", "", json!({ "label": 100, "out": [110] }), "via"),
        ] {
            let from_line = line::route(line, Family::Any).unwrap_err();
            let read: wire::Route = serde_json::from_value(message).unwrap();
            let from_message = read.check().unwrap_err();
            assert_eq!(from_line.to_string(), from_message.to_string(), "{line}");
            assert_eq!(&line[from_line.at], words, "{line}");
            assert_eq!(from_message.place.to_string(), place, "{line}");
        }
    }

    #[test]
    fn a_place_is_a_json_path() {
        let place = Place {
            next_hop: Some(1),
            field: Field::BackupVia,
        };
        assert_eq!(place.within("routes[3]"), "routes[3].nexthops[1].backup.via");
        assert_eq!(Place::from(Field::Route).within("routes[3]"), "routes[3]");
        assert_eq!(Place::from(Field::Label).within(""), "label");
    }
}

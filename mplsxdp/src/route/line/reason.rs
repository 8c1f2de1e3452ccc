//! Why a line is refused.

use mplsxdp_common::wire::Label;

use super::SELECTORS;
use crate::route::interface::InvalidInterface;
use crate::route::{MAX_WEIGHT, Rule, UnknownProtocol};

/// Why a line is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// It breaks a rule of routes.
    #[error(transparent)]
    Rule(#[from] Rule),
    #[error(transparent)]
    Interface(#[from] InvalidInterface),
    #[error(transparent)]
    Protocol(#[from] UnknownProtocol),
    /// The words are not those of a route.
    #[error(transparent)]
    Words(#[from] Words),
}

/// What is wrong with the words of a line, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Words {
    #[error("the line is incomplete: expected {expected}")]
    Incomplete { expected: &'static str },
    #[error("the line is incomplete: expected {expected} after `{keyword}`")]
    NoValue { keyword: Box<str>, expected: &'static str },
    #[error("`{word}` is not {expected}")]
    Unexpected { word: Box<str>, expected: &'static str },
    #[error("`{0}` is given twice")]
    Twice(Box<str>),

    #[error("`{word}` routes are not supported; {expected} is expected")]
    Type { word: Box<str>, expected: &'static str },
    #[error("`{0}` is not a label: labels are 0 to {max}", max = Label::MAX)]
    NotALabel(Box<str>),
    #[error("`{0}` begins with 0, which `ip` reads as octal: write it without, or as 0x in hexadecimal")]
    Octal(Box<str>),
    #[error("`{word}` is not a number: `{keyword}` is 0 to {max}", max = u32::MAX)]
    NotANumber { word: Box<str>, keyword: Box<str> },
    #[error("`{0}` is not a weight: it is 1 to {MAX_WEIGHT}")]
    NotAWeight(Box<str>),
    #[error("`{0}` is not a TTL: it is 1 to 255")]
    NotATtl(Box<str>),
    #[error("`{0}` is not a VLAN: it is 0 to 4094")]
    NotAVlan(Box<str>),
    #[error(
        "`{0}` is not a routing table: it is a number, 1 to {max}, `main`, or a name of /etc/iproute2/rt_tables",
        max = u32::MAX
    )]
    NotATable(Box<str>),
    #[error("`vrf {0}`: only a command can ask which table that is; write `table N`, as `ip -d link show {0}` has it")]
    VrfNeedsCommand(Box<str>),
    #[error("there is no VRF `{0}`")]
    NoVrf(Box<str>),

    #[error("`encap {0}` is not supported, only `encap mpls`")]
    Encap(Box<str>),
    #[error("`as` and `encap` exclude each other: `as` is for a label, `encap` for a prefix or `xconnect IFACE`")]
    AsAndEncap,
    #[error("`{0}`: `ttl-propagate` is `enabled` or `disabled`")]
    TtlPropagate(Box<str>),
    #[error("a backup cannot have a backup")]
    BackupOfBackup,
    #[error("`weight` is for one of several: `nexthop via inet ADDRESS weight N`")]
    WeightOfOne,
    #[error("`onlink` needs `dev IFACE`, the interface that the neighbour is on")]
    OnlinkWithoutDev,
    #[error("`nhid {0}` is a next hop that only the kernel knows: name it with `via inet ADDRESS`")]
    KernelNextHop(Box<str>),

    #[error("`expires`: a route here stays until it is deleted; leave it out")]
    Expires,
    #[error(
        "`scope {0}` is for destinations without a router; a route here has a next hop, which is `scope global`: leave it \
         out"
    )]
    Scope(Box<str>),
    #[error("`pref {0}`: a prefix has only one route here, so nothing is preferred: leave it out")]
    Pref(Box<str>),
    #[error(
        "`src` is for packets that this machine itself sends, which the kernel routes: \
         `ip route add PREFIX dev mpls0 src ADDRESS`, with `load --local`"
    )]
    Src,
    #[error("`mtu`: a packet must fit the MTU of the port that it leaves by: `ip link set dev IFACE mtu N`")]
    Mtu,
    #[error("`{0}`: a route matches only a label or a destination prefix")]
    Match(Box<str>),
    #[error("`{0}` is for packets that this machine itself sends, which the kernel routes: use it with `ip route`")]
    OwnPackets(Box<str>),
    #[error(
        "`{0}` is not known; a route has `as`, `via`, `dev`, `encap`, `pass`, `ttl`, `ttl-propagate`, `backup`, `nexthop`, \
         `table`, `vrf`, `proto` and `metric`, and a pseudowire has `xconnect`, `cw`, `no-cw`, `flow-label`, `tagged` and `vlan`"
    )]
    Unknown(Box<str>),

    #[error("`{0}` is not expected here: give only the label, `xconnect IFACE` or prefix, and its `table` or `vrf`")]
    KeyOnly(Box<str>),
    #[error("`{0}` is not a selector; {SELECTORS}")]
    NotASelector(Box<str>),
    #[error("`{word}` after `{first}`: only one label, prefix or `all` is expected")]
    SecondKey { word: Box<str>, first: Box<str> },
    #[error("`{keyword}` takes a prefix, such as 10.0.0.0/8; `{word}` is not one")]
    KeyForPrefix { keyword: Box<str>, word: Box<str> },
}

//! Numbers of linux/netlink.h, rtnetlink.h, nexthop.h, netconf.h, mpls_iptunnel.h and lwtunnel.h.

/// An attribute: its number, and its name in errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute {
    pub number: u16,
    pub name: &'static str,
}

macro_rules! attributes {
    ($($name:ident = $number:literal,)*) => {
        $(pub(super) const $name: Attribute = Attribute { number: $number, name: stringify!($name) };)*
    };
}

attributes! {
    RTA_DST = 1,
    RTA_SRC = 2,
    RTA_OIF = 4,
    RTA_GATEWAY = 5,
    RTA_PRIORITY = 6,
    RTA_MULTIPATH = 9,
    RTA_TABLE = 15,
    RTA_VIA = 18,
    RTA_NEWDST = 19,
    RTA_ENCAP_TYPE = 21,
    RTA_ENCAP = 22,
    RTA_TTL_PROPAGATE = 26,
    RTA_NH_ID = 30,

    NHA_ID = 1,
    NHA_GROUP = 2,
    NHA_BLACKHOLE = 4,
    NHA_OIF = 5,
    NHA_GATEWAY = 6,
    NHA_ENCAP_TYPE = 7,
    NHA_ENCAP = 8,

    NETCONFA_IFINDEX = 1,
    NETCONFA_INPUT = 7,

    MPLS_IPTUNNEL_DST = 1,
    MPLS_IPTUNNEL_TTL = 2,
}

pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_NEWNETCONF: u16 = 80;
pub(super) const RTM_DELNETCONF: u16 = 81;
pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;

pub(super) const AF_UNSPEC: u8 = 0;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
pub(super) const AF_PACKET: u8 = 17;
pub(super) const AF_MPLS: u8 = 28;

pub(super) const RT_TABLE_UNSPEC: u32 = 0;
/// The table of a route whose RTA_TABLE does not fit in `rtm_table`.
pub(super) const RT_TABLE_COMPAT: u8 = 252;
pub(super) const RT_TABLE_MAIN: u32 = 254;

pub(super) const RTN_UNICAST: u8 = 1;
pub(super) const RTN_BLACKHOLE: u8 = 6;
pub(super) const RTM_F_CLONED: u32 = 0x200;

pub(super) const LWTUNNEL_ENCAP_NONE: u16 = 0;
pub(super) const LWTUNNEL_ENCAP_MPLS: u16 = 1;

/// `rtm_dst_len` of a label.
pub(super) const LABEL_BITS: u8 = 20;
/// MAX_NEW_LABELS of the kernel's net/mpls/internal.h.
pub(super) const MAX_LABELS: usize = 30;

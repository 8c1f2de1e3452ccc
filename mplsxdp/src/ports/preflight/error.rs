//! Why an interface cannot become a port: the cause, and the command that fixes it.

use std::io;
use std::sync::Arc;

use mplsxdp_common::wire::Mac;

use crate::kernel;
use crate::kernel::ethtool::TagKinds;
use crate::neighbour::{AttachMode, XdpAttachment};

/// Why an interface cannot become a port.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(
        "this process lacks {}: run it as root, or `setcap {}+ep` a copy of its file that root owns and that only \
         administrators of this machine may run (`chown root:GROUP FILE && chmod 750 FILE` before `setcap`): everyone who \
         runs it has these capabilities",
        .missing.join(", "), .missing.join(",").to_lowercase()
    )]
    MissingCapabilities { missing: Vec<&'static str> },
    #[error("there is no interface {name} in this network namespace; there are: {}", .available.join(", "))]
    NoSuchInterface { name: Box<str>, available: Vec<Arc<str>> },
    #[error("{name} is a loopback interface: no labelled frame ever arrives on it; `dev lo` in a route needs no port")]
    Loopback { name: Box<str> },
    #[error(
        "{name}{} is not an Ethernet interface: it has no MAC address, which MPLS frames need: use a tap instead of a tun, \
         or a vxlan on top of this interface", in_parentheses(.kind.as_deref())
    )]
    NotEthernet { name: Box<str>, kind: Option<String> },
    #[error(
        "{name}: its MAC address ({mac}) is not valid for frames: `ip link set dev {name} address MAC` \
         sets another"
    )]
    BadMac { name: Box<str>, mac: Mac },
    #[error(
        "{name} is a dummy interface: it discards what is sent to it, and nothing ever arrives: use an interface with a \
         link; `dev lo` in a route ends an LSP on this machine"
    )]
    Dummy { name: Box<str> },
    #[error("{}", bond_member(.name, .master))]
    BondMember { name: Box<str>, master: Arc<str> },
    #[error(
        "{name} is a bond: in native mode its members would run the program, and their frames reach no AF_XDP socket of \
         {name}: use `--mode generic`, which works on {name} itself, or take the members out of it"
    )]
    Bond { name: Box<str> },
    #[error("{}", bridge(.name, .members))]
    Bridge { name: Box<str>, members: Vec<Arc<str>> },
    #[error("{}", vrf(.name, .members))]
    Vrf { name: Box<str>, members: Vec<Arc<str>> },
    #[error("{}", upper(.name, .kind, .lower.as_deref()))]
    Upper {
        name: Box<str>,
        kind: String,
        /// What it stands on, if that is in this namespace.
        lower: Option<Arc<str>>,
    },
    #[error(
        "{name} has another XDP program already: id {}{}, {}: detach it with `ip link set dev {name} {} off`, or, if a \
         bpf_link holds it (`bpftool link show`), end its owner or `bpftool link detach id ID`",
        .attached.program, in_parentheses(.program.as_deref()), describe(.attached.mode), off_keyword(.attached.mode)
    )]
    OtherProgram {
        name: Box<str>,
        attached: XdpAttachment,
        /// Its name, if it has one.
        program: Option<String>,
    },
    #[error(
        "{name} is a port of the instance `{instance}`, which is running: remove it there with `mplsxdp --instance \
         {instance} link delete {name}`, or end that instance with `mplsxdp --instance {instance} unload`"
    )]
    OtherInstance { name: Box<str>, instance: String },
    #[error("{}", no_native(.name, .driver.as_deref()))]
    NoNativeXdp { name: Box<str>, driver: Option<String> },
    #[error(
        "{name}: virtio_net cannot run native XDP while guest offloads (GRO, partial checksums) are on, and this \
         hypervisor does not let the guest turn them off: start the VM with them disabled (qemu: \
         `guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off`), or use `--mode generic`, which is \
         slower"
    )]
    VirtioOffloads { name: Box<str> },
    #[error("{}", veth_queues(.name, .peer.as_deref()))]
    VethQueues { name: Box<str>, peer: Option<Arc<str>> },
    #[error(
        "{name}: its driver{} does not transmit frames that XDP redirects to it, so no labelled frame could leave by it: \
         use `--mode generic`", in_parentheses(.driver.as_deref())
    )]
    NoRedirectTarget { name: Box<str>, driver: Option<String> },
    #[error("{}", mtu_too_large(.name, .mtu, .limit, .peer))]
    MtuTooLarge {
        name: Box<str>,
        mtu: Option<u32>,
        limit: u32,
        /// If the MTU that is too large is that of a veth's other end: its name, if it is in this namespace.
        peer: Option<Option<Arc<str>>>,
    },
    #[error(
        "{name}: its driver{} strips VLAN tags before XDP sees the frame: `ethtool -K {name} {}`",
        in_parentheses(.driver.as_deref()), off(.tags, ["rxvlan", "rx-vlan-stag-hw-parse"])
    )]
    TagsHidden {
        name: Box<str>,
        driver: Option<String>,
        tags: TagKinds,
    },
    #[error(
        "{name} is a {kind}, and the kernel strips VLAN tags before XDP sees the frame there: no VLAN on it can be a port; \
         one on the interface beneath it can, in native mode"
    )]
    TagsHiddenBeneath { name: Box<str>, kind: String },
    #[error("the XDP program cannot be attached to {name}: {source}")]
    Attach { name: Box<str>, source: io::Error },
    #[error(transparent)]
    Netlink(#[from] kernel::Error),
    #[error("{what}: {source}")]
    Unknown { what: &'static str, source: io::Error },
}

/// The arguments with which ethtool switches tags off, by its names for the two kinds.
pub(super) fn off(tags: &TagKinds, [customer, service]: [&str; 2]) -> String {
    let on = [(customer, tags.customer), (service, tags.service)];
    let off = on.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name} off"));
    off.collect::<Vec<_>>().join(" ")
}

fn bond_member(name: &str, master: &str) -> String {
    format!(
        "{name} is a member of {master}, which decides by which member a frame leaves: use {master} itself with \
         `--mode generic`, or take {name} out of it with `ip link set dev {name} nomaster`"
    )
}

fn bridge(name: &str, members: &[Arc<str>]) -> String {
    let ports = match members {
        [] => "it has none yet".to_owned(),
        _ => members.join(", "),
    };
    format!(
        "{name} is a bridge, and native XDP runs on its ports: use those ({ports}), or use `--mode generic`, which works on \
         {name} itself and is slower"
    )
}

fn vrf(name: &str, members: &[Arc<str>]) -> String {
    let members = match members {
        [] => "it has none yet".to_owned(),
        _ => members.join(", "),
    };
    format!("{name} is a VRF device, and no frame arrives at it: make its members ports ({members}), in either mode")
}

fn upper(name: &str, kind: &str, lower: Option<&str>) -> String {
    let (place, lower) = match lower {
        Some(lower) => (format!("on {lower}"), lower),
        None => (
            "on an interface of another network namespace".to_owned(),
            "that interface, in its namespace",
        ),
    };
    format!(
        "{name} is a {kind} {place}, and has no native XDP: use {lower}, or use `--mode generic`, which works on {name} \
         itself and is slower"
    )
}

fn describe(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Native => "native mode",
        AttachMode::Generic => "generic mode",
        AttachMode::Offload => "offloaded to the NIC",
        AttachMode::Several => "and more, in several modes",
    }
}

fn off_keyword(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Native => "xdpdrv",
        AttachMode::Generic => "xdpgeneric",
        AttachMode::Offload => "xdpoffload",
        AttachMode::Several => "xdp",
    }
}

pub(super) fn in_parentheses(name: Option<&str>) -> String {
    name.map(|name| format!(" ({name})")).unwrap_or_default()
}

fn no_native(name: &str, driver: Option<&str>) -> String {
    format!(
        "{name}: its driver{} has no native XDP: use `--mode generic`, which is slower",
        in_parentheses(driver)
    )
}

fn veth_queues(name: &str, peer: Option<&str>) -> String {
    format!(
        "{name} cannot run XDP: its veth peer{} has more transmit queues than {name} has receive queues: \
         `ethtool -L {} tx 1`, or recreate the pair with equal numbers",
        in_parentheses(peer),
        peer.unwrap_or("PEER")
    )
}

fn mtu_too_large(name: &str, mtu: &Option<u32>, limit: &u32, peer: &Option<Option<Arc<str>>>) -> String {
    let mtu = mtu.map(|mtu| format!(" ({mtu})")).unwrap_or_default();
    match peer {
        None => format!("{name}: its MTU{mtu} is too large for native XDP: `ip link set dev {name} mtu {limit}`"),
        Some(Some(peer)) => format!(
            "{name}: the MTU of its veth peer {peer}{mtu} is too large for native XDP: `ip link set dev {peer} mtu {limit}`"
        ),
        Some(None) => format!(
            "{name}: the MTU of its veth peer is too large for native XDP: `ip link set dev PEER mtu {limit}`, in the \
             peer's network namespace"
        ),
    }
}

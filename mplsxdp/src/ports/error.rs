//! Why an interface cannot become a port, or a port cannot change.

use std::io;
use std::sync::Arc;

use mplsxdp_common::abi::MAX_PORTS;

use super::Role;
use super::cross_connect::CrossConnectError;
use super::local::LocalError;
use super::preflight::PreflightError;
use super::sub_interface::InvalidSubInterface;
use crate::control::api::Checksum;
use crate::dataplane::TableError;
use crate::dataplane::loader::LoadError;
use crate::dataplane::pinned::PinError;
use crate::dataplane::port::AttachError;
use crate::kernel;
use crate::slowpath::xsk::XskError;

#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("{name} is a port already")]
    Exists { name: Box<str> },
    #[error("{name} is a port already, with the same tags on {parent}")]
    SameTags { name: Arc<str>, parent: Arc<str> },
    #[error("{name} is for this machine's own packets, and has no sub-interfaces")]
    LocalParent { name: Arc<str> },
    #[error("{name} is the near end of the pair for this machine's own packets; its other end is a port already")]
    LocalNear { name: Box<str> },
    #[error("it is on the interface for this machine's own packets, which has no sub-interfaces")]
    OnLocalNear,
    #[error("{name} is for this machine's own packets; it is removed when the instance is unloaded")]
    Local { name: Arc<str> },
    #[error("{name} has the program only for {}", .sub_interfaces.join(", "))]
    ParentOnly {
        name: Arc<str>,
        sub_interfaces: Vec<Arc<str>>,
    },
    #[error(
        "{name} is cross-connected with {with}, and so are the frames of its sub-interfaces: `mplsxdp xconnect del {name} \
         {with}` ends that"
    )]
    CrossConnectedParent { name: Arc<str>, with: Arc<str> },
    #[error("{from} is cross-connected with {name}: `mplsxdp xconnect del {from} {name}` ends that")]
    CrossConnected { name: Arc<str>, from: Arc<str> },
    #[error(transparent)]
    CrossConnect(#[from] CrossConnectError),
    #[error("{}", no_labels(.name, *.role))]
    NoLabels { name: Arc<str>, role: Role },
    #[error("{}", not_sent(.name, *.role))]
    NotSent { name: Arc<str>, role: Role },
    #[error(
        "an MPLS MTU of {set} is too large for {name}: XDP can send packets of up to {largest} bytes there; raise the \
         interface's MTU by {missing} (`ip link set`)"
    )]
    MplsMtu {
        name: Arc<str>,
        set: u16,
        largest: u32,
        missing: u32,
    },
    #[error(
        "{name} has the program already, with checksum {}: take {name} and its sub-interfaces off by `mplsxdp link del`, then \
         `mplsxdp link add {name} checksum {}`",
        .is.name(), .wanted.name()
    )]
    OtherChecksum {
        name: Arc<str>,
        is: Checksum,
        wanted: Checksum,
    },
    #[error("all {MAX_PORTS} ports are in use")]
    Full,
    #[error("the interface {name} has just gone")]
    Gone { name: Box<str> },
    #[error("the interface {name} has no MAC address")]
    NoMac { name: Box<str> },
    #[error("{name} has no AF_XDP sockets")]
    NoSockets { name: Box<str> },
    #[error(transparent)]
    SubInterface(#[from] InvalidSubInterface),
    #[error("cannot find out how many receive queues {name} has: {source}")]
    Queues { name: Box<str>, source: io::Error },
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    LocalPair(#[from] LocalError),
    #[error(transparent)]
    Sockets(#[from] XskError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Netlink(#[from] kernel::Error),
    #[error("{0}; with `--wait` it becomes a port when it appears")]
    NotThere(Box<PortError>),
}

impl PortError {
    pub fn gone(name: &str) -> Self {
        Self::Gone { name: name.into() }
    }

    /// There is no interface with the name.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Preflight(PreflightError::NoSuchInterface { .. }))
    }

    /// An AF_XDP queue of the interface is busy.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Sockets(error) if error.is_busy())
    }
}

fn not_sent(name: &str, role: Role) -> String {
    match role {
        Role::ParentOnly => format!(
            "{name} has the program only for its sub-interfaces; to make it a port that sends: `mplsxdp link add {name}`"
        ),
        Role::Local | Role::Switching | Role::TxOnly => {
            format!("{name} is for this machine's own packets: no labelled packets leave there")
        }
    }
}

fn no_labels(name: &str, role: Role) -> String {
    match role {
        Role::TxOnly => format!(
            "frames are only sent to {name}; to make it accept labels: `mplsxdp link del {name}`, then `mplsxdp link add {name}`"
        ),
        Role::ParentOnly => format!(
            "{name} has the program only for its sub-interfaces; to make it accept labels: `mplsxdp link add {name}`"
        ),
        Role::Local | Role::Switching => format!("{name} is for this machine's own packets, which have no labels"),
    }
}

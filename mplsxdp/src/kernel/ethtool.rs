//! Settings of drivers, read and set by the ethtool ioctl, in the network namespace of the calling thread.

use std::io;
use std::os::fd::AsRawFd as _;

use mplsxdp_common::abi::MAX_QUEUES;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// An offload of a driver, as `ethtool -K` sets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Feature {
    /// ETHTOOL_STXCSUM
    TxChecksum = 0x17,
    /// ETHTOOL_SGSO
    Gso = 0x24,
    /// ETHTOOL_SGRO
    Gro = 0x2c,
}

impl Feature {
    pub const fn name(self) -> &'static str {
        match self {
            Self::TxChecksum => "transmit checksum offload",
            Self::Gso => "generic segmentation offload",
            Self::Gro => "generic receive offload",
        }
    }

    pub fn set(self, interface: &str, on: bool) -> io::Result<()> {
        let mut value = EthtoolValue {
            command: self as u32,
            data: on.into(),
        };
        request(interface, &mut value)
    }
}

/// The kinds of VLAN tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TagKinds {
    /// 802.1Q
    pub customer: bool,
    /// 802.1ad
    pub service: bool,
}

impl TagKinds {
    pub fn any(self) -> bool {
        self.customer || self.service
    }
}

/// The VLAN tags that the driver says it strips from received frames and inserts into sent frames. In the kernel these
/// are beside the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VlanOffloads {
    pub receive: TagKinds,
    /// The part of [`VlanOffloads::receive`] that can be switched off.
    pub receive_optional: TagKinds,
    pub transmit: TagKinds,
}

pub fn vlan_offloads(interface: &str) -> io::Result<VlanOffloads> {
    const ETHTOOL_GSTRINGS: u32 = 0x1b;
    const ETHTOOL_GFEATURES: u32 = 0x3a;
    const ETH_SS_FEATURES: u32 = 4;

    let mut names = EthtoolStrings {
        command: ETHTOOL_GSTRINGS,
        set: ETH_SS_FEATURES,
        len: 0,
        strings: [[0; 32]; MAX_FEATURES],
    };
    request(interface, &mut names)?;
    let mut features = EthtoolFeatures {
        command: ETHTOOL_GFEATURES,
        words: FEATURE_WORDS as u32,
        features: [[0; 4]; FEATURE_WORDS],
    };
    request(interface, &mut features)?;
    // Whether it is on, and whether it is on and can be switched off.
    let state = |name: &str| {
        let is_named = |string: &[u8; 32]| string.split(|&byte| byte == 0).next() == Some(name.as_bytes());
        // A kernel that does not have the name does not have the feature.
        let bit = names.strings.iter().position(is_named);
        bit.and_then(|bit| Some((features.features.get(bit / 32)?, bit % 32)))
            .map_or(
                (false, false),
                |([available, _requested, active, _never_changed], bit)| {
                    (active >> bit & 1 != 0, (active & available) >> bit & 1 != 0)
                },
            )
    };
    let customer = state("rx-vlan-hw-parse");
    let service = state("rx-vlan-stag-hw-parse");
    Ok(VlanOffloads {
        receive: TagKinds {
            customer: customer.0,
            service: service.0,
        },
        receive_optional: TagKinds {
            customer: customer.1,
            service: service.1,
        },
        transmit: TagKinds {
            customer: state("tx-vlan-hw-insert").0,
            service: state("tx-vlan-stag-hw-insert").0,
        },
    })
}

/// Whether the kernel merges arriving packets of a flow (GRO).
pub fn merges(interface: &str) -> io::Result<bool> {
    const ETHTOOL_GGRO: u32 = 0x2b;
    is_on(interface, ETHTOOL_GGRO)
}

/// Whether TCP packets are sent unsegmented (TSO).
pub fn sends_unsegmented(interface: &str) -> io::Result<bool> {
    const ETHTOOL_GTSO: u32 = 0x1e;
    is_on(interface, ETHTOOL_GTSO)
}

/// The value that a command for a single setting returns.
fn is_on(interface: &str, command: u32) -> io::Result<bool> {
    let mut value = EthtoolValue { command, data: 0 };
    request(interface, &mut value)?;
    Ok(value.data != 0)
}

/// The kernel has 64 at most (`netdev_features_t`).
const MAX_FEATURES: usize = 128;
const FEATURE_WORDS: usize = MAX_FEATURES / 32;

/// `struct ethtool_gstrings` of linux/ethtool.h, with room for more than there are.
#[repr(C)]
struct EthtoolStrings {
    command: u32,
    set: u32,
    len: u32,
    strings: [[u8; 32]; MAX_FEATURES],
}

/// `struct ethtool_gfeatures` of linux/ethtool.h: for each word of features, those that are available, requested,
/// active, and never changed.
#[repr(C)]
struct EthtoolFeatures {
    command: u32,
    words: u32,
    features: [[u32; 4]; FEATURE_WORDS],
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    command: u32,
    most: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// A structure of linux/ethtool.h that begins with its command, which identifies the structure.
///
/// # Safety
/// The layout must be the kernel's for every command that a value can have.
unsafe trait Structure {}

// SAFETY: `Feature`'s commands and ETHTOOL_GGRO are of this structure.
unsafe impl Structure for EthtoolValue {}
// SAFETY: only ETHTOOL_GSTRINGS is used with it, for the names of features.
unsafe impl Structure for EthtoolStrings {}
// SAFETY: only ETHTOOL_GFEATURES is used with it.
unsafe impl Structure for EthtoolFeatures {}
// SAFETY: only ETHTOOL_GCHANNELS is used with it.
unsafe impl Structure for EthtoolChannels {}

/// The number of receive queues that an interface has in use, at most [`MAX_QUEUES`].
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    const ETHTOOL_GCHANNELS: u32 = 0x3c;

    let mut channels = EthtoolChannels {
        command: ETHTOOL_GCHANNELS,
        ..EthtoolChannels::default()
    };
    match request(interface, &mut channels) {
        Ok(()) => Ok((channels.receive + channels.combined).clamp(1, MAX_QUEUES)),
        // A driver without channels has one queue.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
        Err(error) => Err(error),
    }
}

nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);

fn request<T: Structure>(interface: &str, structure: &mut T) -> io::Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut *structure).cast(),
        },
    };
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request and the structure that it points to outlive the call; the kernel writes only into the latter,
    // of which `Structure` vouches for the layout.
    unsafe { ethtool(any.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

//! What a driver is asked and told by the ethtool ioctl, in the network namespace of the calling thread.

use std::io;
use std::os::fd::AsRawFd as _;

use mplsxdp_common::abi::MAX_QUEUES;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// What a driver does for the kernel, as `ethtool -K` sets it.
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

/// Whether VLAN tags are taken out of frames on receipt, and whether they are left beside frames for the hardware to put in
/// (`rxvlan` and `txvlan` of `ethtool -k`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanOffloads {
    pub receive: bool,
    pub transmit: bool,
}

pub fn vlan_offloads(interface: &str) -> io::Result<VlanOffloads> {
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETH_FLAG_TXVLAN: u32 = 1 << 7;
    const ETH_FLAG_RXVLAN: u32 = 1 << 8;

    let mut flags = EthtoolValue {
        command: ETHTOOL_GFLAGS,
        data: 0,
    };
    request(interface, &mut flags)?;
    Ok(VlanOffloads {
        receive: flags.data & ETH_FLAG_RXVLAN != 0,
        transmit: flags.data & ETH_FLAG_TXVLAN != 0,
    })
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

/// A structure of linux/ethtool.h that begins with its command, which says that the structure is this one.
///
/// # Safety
/// The layout must be the kernel's for every command that a value can have.
unsafe trait Structure {}

// SAFETY: `Feature`'s commands and ETHTOOL_GFLAGS are of this structure.
unsafe impl Structure for EthtoolValue {}
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
        // A driver that has no say on channels has one.
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
    // SAFETY: the request and the structure that it points to outlive the call; the kernel writes only into the latter, of which
    // `Structure` vouches for the layout.
    unsafe { ethtool(any.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

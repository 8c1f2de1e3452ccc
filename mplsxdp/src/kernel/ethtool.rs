//! Settings and counters of drivers, read and set by the ethtool ioctl, in the network namespace of the calling thread.

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

/// Whether checksums of packets that are sent are left to the interface.
pub fn leaves_checksums(interface: &str) -> io::Result<bool> {
    const ETHTOOL_GTXCSUM: u32 = 0x16;
    is_on(interface, ETHTOOL_GTXCSUM)
}

/// Whether the interface itself merges arriving packets of a flow (LRO).
pub fn merges_in_hardware(interface: &str) -> io::Result<bool> {
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETH_FLAG_LRO: u32 = 1 << 15;

    let mut flags = EthtoolValue {
        command: ETHTOOL_GFLAGS,
        data: 0,
    };
    request(interface, &mut flags)?;
    Ok(flags.data & ETH_FLAG_LRO != 0)
}

/// The driver's own counters, by its names (`ethtool -S`). Empty if it has none.
pub fn statistics(interface: &str) -> io::Result<Vec<(String, u64)>> {
    const ETHTOOL_GSTRINGS: u32 = 0x1b;
    const ETHTOOL_GSTATS: u32 = 0x1d;
    const ETHTOOL_GSSET_INFO: u32 = 0x37;
    const ETH_SS_STATS: u32 = 1;

    let mut info = EthtoolSetInfo {
        command: ETHTOOL_GSSET_INFO,
        reserved: 0,
        mask: 1 << ETH_SS_STATS,
        count: 0,
    };
    request(interface, &mut info)?;
    let count = info.count as usize;
    if info.mask == 0 || count == 0 {
        return Ok(Vec::new());
    }
    // Kernels before 6.19 do not heed the number in the request: there is room if a driver gets more queues meanwhile.
    let room = 2 * count + 4096;
    let mut names = vec![0_u32; 3 + 8 * room];
    names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_STATS, info.count]);
    // SAFETY: `struct ethtool_gstrings`, with 32 bytes for each string.
    unsafe { request_at(interface, names.as_mut_ptr().cast()) }?;
    let mut values = vec![0_u32; 2 + 2 * room];
    values[..2].copy_from_slice(&[ETHTOOL_GSTATS, info.count]);
    // SAFETY: `struct ethtool_stats`, with 8 bytes for each value.
    unsafe { request_at(interface, values.as_mut_ptr().cast()) }?;
    let count = names[2].min(values[1]) as usize;
    let name = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).trim().to_owned()
    };
    let value = |words: &[u32]| {
        let [first, second] = [words[0], words[1]].map(u32::to_ne_bytes);
        u64::from_ne_bytes([
            first[0], first[1], first[2], first[3], second[0], second[1], second[2], second[3],
        ])
    };
    let names = names[3..].chunks_exact(8).map(name);
    let values = values[2..].chunks_exact(2).map(value);
    Ok(names.zip(values).take(count).collect())
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

/// `struct ethtool_sset_info` of linux/ethtool.h for one set.
#[repr(C)]
struct EthtoolSetInfo {
    command: u32,
    reserved: u32,
    mask: u64,
    count: u32,
}

/// A structure of linux/ethtool.h that begins with its command, which identifies the structure.
///
/// # Safety
/// The layout must be the kernel's for every command that a value can have.
unsafe trait Structure {}

// SAFETY: only ETHTOOL_GSSET_INFO is used with it.
unsafe impl Structure for EthtoolSetInfo {}
// SAFETY: `Feature`'s commands and those that read one setting are of this structure.
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
    // SAFETY: `Structure` vouches for the layout.
    unsafe { request_at(interface, (&raw mut *structure).cast()) }
}

/// # Safety
/// `structure` points to a structure of linux/ethtool.h that has room for what its command makes the kernel write.
unsafe fn request_at(interface: &str, structure: *mut libc::c_char) -> io::Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: structure },
    };
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request and the structure that it points to outlive the call; the kernel writes only into the latter,
    // for which the caller vouches.
    unsafe { ethtool(any.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

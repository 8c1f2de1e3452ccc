//! `VRFS`.

use super::Domain;

/// One entry of `VRFS`, in one word: the interface index of the VRF device (bits 0-31) and the [`Domain`] of the FTN for the
/// VRF (bits 32-39). All zero: frames are left to the kernel.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VrfWord(u64);

impl VrfWord {
    /// Frames for the VRF are left to the kernel.
    pub const NONE: Self = Self(0);

    pub const fn new(ifindex: u32, domain: Domain) -> Self {
        Self(ifindex as u64 | (domain.0 as u64) << 32)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn ifindex(self) -> u32 {
        self.0 as u32
    }

    pub const fn domain(self) -> Domain {
        Domain((self.0 >> 32) as u8)
    }
}

//! The FTN: domains, and the sizes of the maps `FTN_ROOTS` and `FTN`. [`crate::ftn`] has the layout of nodes.

use super::BUCKETS;

/// A part of the FTN. Each has all prefix routes, and the pass entries for what one routing table of the kernel claims: that of
/// the VRF of the ports that look there.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Domain(pub u8);

impl Domain {
    /// Ports that are in no VRF: the tables local and main.
    pub const NO_VRF: Self = Self(0);
    /// Always empty: a port in a VRF whose domain has not been filled yet imposes nothing.
    pub const EMPTY: Self = Self(255);

    /// The words of this domain in `FTN_ROOTS`: all are 0 if it has no entries.
    pub const fn roots(self) -> core::ops::Range<u32> {
        self.root_v4()..self.root_v4() + 4
    }

    /// The first of the two words in `FTN_ROOTS` for the IPv4 prefixes of this domain.
    #[inline(always)]
    pub const fn root_v4(self) -> u32 {
        self.0 as u32 * 4
    }

    /// The same for IPv6.
    #[inline(always)]
    pub const fn root_v6(self) -> u32 {
        self.0 as u32 * 4 + 2
    }
}

/// Size of `FTN_ROOTS`: two words for each domain and family.
pub const FTN_ROOTS: u32 = 4 << u8::BITS;
/// Words of a line, the unit in which nodes are allotted.
pub const LINE_WORDS: usize = 8;
/// Lines of one inner map of `FTN`.
pub const CHUNK_LINES: u32 = 1 << 12;
/// Words of one inner map of `FTN`: 256 KiB.
pub const CHUNK_WORDS: usize = CHUNK_LINES as usize * LINE_WORDS;
/// Size of `FTN`: the most inner maps, 96 MiB in all.
pub const MAX_CHUNKS: u32 = 384;

const _: () = assert!(BUCKETS.is_power_of_two() && CHUNK_WORDS.is_power_of_two());

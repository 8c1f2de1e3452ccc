//! `FTN_V4` and `FTN_V6`: keys of prefixes.

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
    /// The number of key bits for the domain, by which a prefix is longer.
    pub const BITS: u32 = 32;

    /// The data of a key for an address, or for the first address of a prefix.
    #[inline(always)]
    pub const fn key_v4(self, address: [u8; 4]) -> FtnKeyV4 {
        [self.0 as u32, u32::from_ne_bytes(address)]
    }

    /// Likewise.
    #[inline(always)]
    pub const fn key_v6(self, address: [u8; 16]) -> FtnKeyV6 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        [
            self.0 as u32,
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ]
    }
}

/// The data of a key of `FTN_V4`: the [`Domain`], and the bytes of the address in network byte order. The kernel compares eight
/// bytes at once if there are as many.
pub type FtnKeyV4 = [u32; 2];

/// Data of a key of `FTN_V6`, likewise.
pub type FtnKeyV6 = [u32; 5];

//! `PORTS` and `SUB_INTERFACES`.

use super::Domain;
use super::word::{mac_word, word_mac};
use crate::wire::{Label, Mac};

/// Key of `SUB_INTERFACES`: the port at which a frame arrived and the VLAN identifiers in its tags, in one 64-bit word:
/// bits 0-15 the inner VID (0: no second tag), 16-31 the outer, 32-63 the port's number.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SubInterfaceKey(u64);

impl SubInterfaceKey {
    pub const fn new(port: u32, outer_vid: u16, inner_vid: u16) -> Self {
        Self((port as u64) << 32 | (outer_vid as u64) << 16 | inner_vid as u64)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

/// One entry of `PORTS`, in one word: the port's MAC (bytes 0-5), its flags (byte 6) and its [`Domain`] (byte 7). All
/// zero: no port.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortWord(u64);

impl PortWord {
    /// Labelled frames are accepted (RFC 5920 section 8.1: only where they are expected).
    pub const MPLS: u8 = 1;
    /// IP packets to the port's MAC are looked up in the FTN.
    pub const IMPOSE: u8 = 2;
    /// Arriving packets are this machine's own traffic: imposition does not decrement the IP TTL.
    pub const LOCAL: u8 = 4;
    /// The kernel has a VLAN device for this sub-interface: a frame that is handed to the kernel after its labels are
    /// popped keeps its tags, so that it reaches that device. Without the device the kernel would drop it, so the tags
    /// are removed.
    pub const KERNEL_VLAN: u8 = 8;
    /// A hint: the port's domain of the FTN has no entries, so IP packets are left to the kernel without a look-up.
    pub const NO_PREFIXES: u8 = 16;
    /// Of labels that are looked up, only those of a [`LabelRange`] of the port are accepted.
    pub const RANGES: u8 = 32;
    /// Every frame goes to the port that the [`CrossConnect`](super::CrossConnect) says.
    pub const CROSS_CONNECT: u8 = 128;
    /// The port has [`TrafficClasses`](super::TrafficClasses).
    pub const CLASSES: u8 = 64;

    /// A port outside of VRFs.
    pub const fn new(mac: Mac, flags: u8) -> Self {
        Self(mac_word(mac, flags as u16))
    }

    /// The same port with another domain.
    pub const fn with_domain(self, domain: Domain) -> Self {
        Self((self.0 & !(0xff << 56)) | (domain.0 as u64) << 56)
    }

    /// The same port, with [`PortWord::NO_PREFIXES`] or without. Local ports never have it: they leave nothing to the
    /// kernel.
    pub const fn with_no_prefixes(self, none: bool) -> Self {
        let hint = none && self.has(Self::IMPOSE) && !self.has(Self::LOCAL);
        let bit = (Self::NO_PREFIXES as u64) << 48;
        Self(if hint { self.0 | bit } else { self.0 & !bit })
    }

    /// Whether labelled frames are accepted, whatever their labels are, and their classes do not matter.
    pub const fn accepts_any_label(self) -> bool {
        (self.0 >> 48) as u8 & (Self::MPLS | Self::RANGES | Self::CLASSES) == Self::MPLS
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn mac(self) -> Mac {
        word_mac(self.0)
    }

    /// The FTN domain in which the port's packets are looked up.
    pub const fn domain(self) -> Domain {
        Domain((self.0 >> 56) as u8)
    }

    /// Whether the first eight bytes of a frame begin with this port's MAC.
    pub const fn is_destination(self, frame_start: [u8; 8]) -> bool {
        (u64::from_le_bytes(frame_start) ^ self.0) << 16 == 0
    }

    pub const fn has(self, flag: u8) -> bool {
        (self.0 >> 48) as u8 & flag != 0
    }
}

/// One of the words of a port in `LABEL_RANGES`: the first label of the range (bits 0-31) and the last (bits 32-63). All
/// zero: no range.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LabelRange(u64);

impl LabelRange {
    pub const NONE: Self = Self(0);

    /// `first` is not a special-purpose label.
    pub const fn new(first: Label, last: Label) -> Self {
        Self(first.get() as u64 | (last.get() as u64) << 32)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn first(self) -> u32 {
        self.0 as u32
    }

    pub const fn last(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// For labels that are not special-purpose labels.
    pub const fn contains(self, label: Label) -> bool {
        self.outside(label) == 0
    }

    /// 0 for labels of the range, 1 for others. Without a branch, so that many can be combined without any.
    #[inline(always)]
    pub const fn outside(self, label: Label) -> u64 {
        let length = self.last().wrapping_sub(self.first()) as u64;
        let place = label.get().wrapping_sub(self.first()) as u64;
        length.wrapping_sub(place) >> 63
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_word_compares_only_the_mac() {
        let port = PortWord::new(Mac([2, 0, 0, 0, 0, 9]), PortWord::MPLS);
        assert!(port.is_destination([2, 0, 0, 0, 0, 9, 0xaa, 0xbb]));
        assert!(!port.is_destination([2, 0, 0, 0, 0, 8, 0xaa, 0xbb]));
        assert!(port.has(PortWord::MPLS) && !port.has(PortWord::LOCAL));
    }
}

//! `CROSS_CONNECTS`.

use super::VlanTags;
use crate::wire::{ETH_P_8021AD, ETH_P_8021Q, VLAN_HLEN, VLAN_VID_MASK};

/// Where every frame of a port goes, in one word: the port that sends it (bits 0-15), the length of the longest frame that
/// may leave there, Ethernet header and tags included (16-31), the VLAN identifiers that it gets, outer (32-43) and inner
/// (44-55), how many tags it loses (56-57) and gets (58-59), whether the TPID of the outer (60) and the inner (61) one is
/// 802.1ad and not 802.1Q, and whether the frame must be in one buffer (62).
///
/// If bit 63 is set, the frames of the port enter a pseudowire, and bits 0-31 are an index into `ATTACHMENTS`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CrossConnect(u64);

impl CrossConnect {
    const ATTACHMENT_CIRCUIT: u64 = 1 << 63;

    /// The port that a frame goes to while there is none: no port has this number.
    pub const NOWHERE: Self = Self::new(u16::MAX, u16::MAX);

    pub const fn new(port: u16, longest: u16) -> Self {
        Self(port as u64 | (longest as u64) << 16)
    }

    /// Into the pseudowire with this index in `ATTACHMENTS`.
    pub const fn attachment_circuit(index: u32) -> Self {
        Self(index as u64 | Self::ATTACHMENT_CIRCUIT)
    }

    /// The index in `ATTACHMENTS`, if the port is the attachment circuit of a pseudowire.
    pub const fn attachment(self) -> Option<u32> {
        match self.0 & Self::ATTACHMENT_CIRCUIT {
            0 => None,
            _ => Some(self.0 as u32),
        }
    }

    /// The same, for frames that lose this many tags, at most 2.
    pub const fn without_tags(self, tags: usize) -> Self {
        Self(self.0 & !(3 << 56) | (tags as u64 & 3) << 56)
    }

    /// The same, for frames that get these tags, as TPID and identifier, outermost first, at most 2.
    pub const fn with_tags(self, tags: &[(u16, u16)]) -> Self {
        let mut bits = self.0 & (0xffff_ffff | 3 << 56 | 1 << 62) | (tags.len() as u64 & 3) << 58;
        let mut index = 0;
        while index < tags.len() {
            let (tpid, vid) = tags[index];
            bits |= ((vid & VLAN_VID_MASK) as u64) << (32 + 12 * index);
            bits |= ((tpid == ETH_P_8021AD) as u64) << (60 + index);
            index += 1;
        }
        Self(bits)
    }

    /// The same to a port that does not accept multi-buffer frames from XDP.
    pub const fn with_one_buffer(self, one_buffer: bool) -> Self {
        Self(self.0 & !(1 << 62) | (one_buffer as u64) << 62)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    /// Length in bytes, Ethernet header and tags included.
    pub const fn longest(self) -> usize {
        (self.0 >> 16) as u16 as usize
    }

    /// How many bytes of tags a frame loses: 0, 4 or 8.
    pub const fn removed_len(self) -> usize {
        tags_len(self.0 >> 56)
    }

    /// How many bytes of tags it gets: 0, 4 or 8.
    pub const fn added_len(self) -> usize {
        tags_len(self.0 >> 58)
    }

    /// The tags that a frame gets.
    pub const fn tags(self) -> VlanTags {
        let (outer, inner) = (self.vid(0), self.vid(1));
        match self.added_len() {
            0 => VlanTags::NONE,
            VLAN_HLEN => VlanTags::one(self.tpid(0), outer),
            _ => VlanTags::two(self.tpid(0), outer, self.tpid(1), inner),
        }
    }

    const fn vid(self, index: usize) -> u16 {
        (self.0 >> (32 + 12 * index)) as u16 & VLAN_VID_MASK
    }

    const fn tpid(self, index: usize) -> u16 {
        match self.0 >> (60 + index) & 1 {
            0 => ETH_P_8021Q,
            _ => ETH_P_8021AD,
        }
    }

    pub const fn takes_one_buffer(self) -> bool {
        self.0 >> 62 & 1 != 0
    }
}

/// Length of as many tags as the lowest two bits say.
const fn tags_len(count: u64) -> usize {
    match count & 3 {
        0 => 0,
        1 => VLAN_HLEN,
        _ => 2 * VLAN_HLEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_apart() {
        let plain = CrossConnect::new(0xfffe, 0xfffd);
        let one = &[(ETH_P_8021Q, 0xfff)][..];
        let two = &[(ETH_P_8021AD, 1), (ETH_P_8021Q, 0xffe)][..];
        let lists = [
            (&[][..], VlanTags::NONE),
            (one, VlanTags::one(ETH_P_8021Q, 0xfff)),
            (two, VlanTags::two(ETH_P_8021AD, 1, ETH_P_8021Q, 0xffe)),
        ];
        for (list, tags) in lists {
            for removed in 0..3 {
                for one_buffer in [false, true] {
                    let cross = plain
                        .with_tags(two)
                        .without_tags(removed)
                        .with_one_buffer(one_buffer)
                        .with_tags(list);
                    assert_eq!((cross.port(), cross.longest()), (0xfffe, 0xfffd));
                    assert_eq!(cross.removed_len(), VLAN_HLEN * removed);
                    assert_eq!((cross.tags(), cross.added_len()), (tags, tags.len_bytes()));
                    assert_eq!(cross.takes_one_buffer(), one_buffer);
                    let plainer = cross.with_one_buffer(false).without_tags(0).with_tags(&[]);
                    assert_eq!(plainer, plain);
                    assert_eq!(cross.attachment(), None);
                }
            }
        }
        assert_eq!(CrossConnect::attachment_circuit(u32::MAX).attachment(), Some(u32::MAX));
        assert_eq!(CrossConnect::NOWHERE.attachment(), None);
    }
}

//! `ADJACENCIES`: neighbours and the way to them.

use super::word::{MAC_BITS, mac_word, word_mac, word_rest};
use crate::wire::{Mac, VLAN_VID_MASK};

/// One entry of `ADJACENCIES`: a neighbour and how to reach it. Word 0 is the destination MAC (bytes 0-5) and the
/// transmit port (bytes 6-7). Word 1 is the source MAC and the MTU. Word 2 is the [`VlanTags`] of frames to the
/// neighbour. Word 3 is the next-hop index of its backup, plus 1 (bytes 24-25), the length of the tags in bytes (byte
/// 26), whether frames must be in one buffer (byte 27), and the MPLS MTU (bytes 28-29). A new MAC address of the
/// neighbour is one 8-byte store of word 0. If word 0 has no MAC address, the neighbour is unresolved: its frames go to
/// the backup, if there is one.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adjacency {
    words: [u64; 4],
}

impl Adjacency {
    /// `mtu` is the largest packet that the port sends, with labels (which count) or without.
    pub const fn new(destination: Mac, port: u16, source: Mac, mtu: u16) -> Self {
        Self {
            words: [
                mac_word(destination, port),
                mac_word(source, mtu),
                0,
                (mtu as u64) << 32,
            ],
        }
    }

    /// The same with another limit for labelled packets, labels included.
    pub const fn with_mpls_mtu(self, mtu: u16) -> Self {
        let mut words = self.words;
        words[3] = (words[3] & !(0xffff << 32)) | (mtu as u64) << 32;
        Self { words }
    }

    /// The same on a sub-interface: frames leave with `tags`.
    pub const fn with_tags(self, tags: VlanTags) -> Self {
        let mut words = self.words;
        words[2] = tags.0;
        words[3] = (words[3] & !(0xff << 16)) | (tags.len_bytes() as u64) << 16;
        Self { words }
    }

    /// The same with a backup, which is used while the next hop is unresolved.
    pub const fn with_backup(self, backup: Option<u16>) -> Self {
        let mut words = self.words;
        let backup = match backup {
            Some(index) => index as u64 + 1,
            None => 0,
        };
        words[3] = (words[3] & !0xffff) | backup;
        Self { words }
    }

    /// The same on a port that does not accept multi-buffer frames from XDP: its driver or the kernel would silently
    /// drop them.
    pub const fn with_one_buffer(self, one_buffer: bool) -> Self {
        let mut words = self.words;
        words[3] = (words[3] & !(0xff << 24)) | (one_buffer as u64) << 24;
        Self { words }
    }

    pub const fn from_words(words: [u64; 4]) -> Self {
        Self { words }
    }

    pub const fn words(self) -> [u64; 4] {
        self.words
    }

    pub const fn is_resolved(self) -> bool {
        self.words[0] << 16 != 0
    }

    pub const fn destination(self) -> Mac {
        word_mac(self.words[0])
    }

    /// The destination and source addresses of a frame to this neighbour, as two words, so that they are written with
    /// two stores. One store per byte would be a fifth of the XDP program's work.
    pub fn macs(self) -> [u8; 12] {
        let mut macs = [0; 12];
        let [destination, source, ..] = self.words;
        macs[..8].copy_from_slice(&(destination & MAC_BITS | source << 48).to_le_bytes());
        macs[8..].copy_from_slice(&((source >> 16) as u32).to_le_bytes());
        macs
    }

    pub const fn port(self) -> u16 {
        word_rest(self.words[0])
    }

    pub const fn source(self) -> Mac {
        word_mac(self.words[1])
    }

    /// For packets without labels.
    pub const fn mtu(self) -> u16 {
        word_rest(self.words[1])
    }

    /// For packets with labels.
    pub const fn mpls_mtu(self) -> u16 {
        (self.words[3] >> 32) as u16
    }

    pub const fn tags(self) -> VlanTags {
        VlanTags(self.words[2])
    }

    /// The same as [`VlanTags::len_bytes`].
    #[inline(always)]
    pub const fn tags_len_bytes(self) -> usize {
        (self.words[3] >> 16) as usize & 0xc
    }

    pub const fn takes_one_buffer(self) -> bool {
        self.words[3] >> 24 & 1 != 0
    }

    pub const fn backup(self) -> Option<u16> {
        match self.words[3] as u16 {
            0 => None,
            index => Some(index - 1),
        }
    }

    /// The same next hop with another MTU for all packets.
    pub const fn with_mtu(self, mtu: u16) -> Self {
        let mut words = self.words;
        words[1] = mac_word(self.source(), mtu);
        Self { words }.with_mpls_mtu(mtu)
    }
}

/// The VLAN tags of a sub-interface's frames as they are on the wire, outermost first: TPID and TCI of each. Zero means
/// no tag.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct VlanTags(u64);

impl VlanTags {
    pub const NONE: Self = Self(0);

    /// One tag with TPID and VLAN identifier; the rest of the TCI is 0, as Linux sends it.
    pub const fn one(tpid: u16, vid: u16) -> Self {
        Self(vlan_tag(tpid, vid) as u64)
    }

    pub const fn two(outer_tpid: u16, outer_vid: u16, inner_tpid: u16, inner_vid: u16) -> Self {
        Self(vlan_tag(outer_tpid, outer_vid) as u64 | (vlan_tag(inner_tpid, inner_vid) as u64) << 32)
    }

    /// Length of the tags: 0, 4 or 8.
    pub const fn len_bytes(self) -> usize {
        if self.0 == 0 {
            0
        } else if self.0 >> 32 == 0 {
            4
        } else {
            8
        }
    }

    /// The tags; only the first [`VlanTags::len_bytes`] bytes are used.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
}

const fn vlan_tag(tpid: u16, vid: u16) -> u32 {
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), (vid & VLAN_VID_MASK).to_be_bytes());
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adjacency_without_a_mac_is_unresolved() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        assert!(!Adjacency::new(Mac::ZERO, 5, mac, 1500).is_resolved());
        let adjacency = Adjacency::new(mac, 5, Mac([2, 0, 0, 0, 0, 1]), 1500);
        assert!(adjacency.is_resolved());
        assert_eq!(
            (
                adjacency.destination(),
                adjacency.port(),
                adjacency.source(),
                adjacency.mtu()
            ),
            (mac, 5, Mac([2, 0, 0, 0, 0, 1]), 1500)
        );
    }

    #[test]
    fn an_adjacency_keeps_tags_backup_and_mpls_mtu_apart() {
        let plain = Adjacency::new(Mac([2, 0, 0, 0, 0, 9]), 5, Mac([2, 0, 0, 0, 0, 1]), 1500);
        assert_eq!(
            (plain.tags(), plain.tags_len_bytes(), plain.backup()),
            (VlanTags::NONE, 0, None)
        );
        let one = VlanTags::one(0x8100, 100);
        let two = VlanTags::two(0x88a8, 100, 0x8100, 4095);
        assert_eq!(one.to_bytes(), [0x81, 0, 0, 100, 0, 0, 0, 0]);
        assert_eq!(two.to_bytes(), [0x88, 0xa8, 0, 100, 0x81, 0, 0x0f, 0xff]);
        for (tags, len) in [(VlanTags::NONE, 0), (one, 4), (two, 8)] {
            for backup in [None, Some(0), Some(0xfffe)] {
                for adjacency in [
                    plain.with_tags(tags).with_backup(backup),
                    plain.with_backup(backup).with_tags(tags),
                ] {
                    assert_eq!(
                        (adjacency.tags(), adjacency.tags_len_bytes(), adjacency.backup()),
                        (tags, len, backup)
                    );
                    assert_eq!(adjacency.with_tags(VlanTags::NONE).with_backup(None), plain);
                    let one_buffer = adjacency.with_one_buffer(true);
                    assert!(one_buffer.takes_one_buffer() && !adjacency.takes_one_buffer());
                    assert_eq!((one_buffer.tags_len_bytes(), one_buffer.backup()), (len, backup));
                    assert_eq!(one_buffer.with_one_buffer(false), adjacency);
                    let mpls = one_buffer.with_mpls_mtu(1508);
                    assert_eq!((mpls.mpls_mtu(), mpls.mtu(), adjacency.mpls_mtu()), (1508, 1500, 1500));
                    assert_eq!(mpls.with_mpls_mtu(1500), one_buffer);
                    assert_eq!(mpls.with_backup(None).with_tags(VlanTags::NONE).mpls_mtu(), 1508);
                }
            }
        }
    }
}

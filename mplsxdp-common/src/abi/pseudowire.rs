//! `PSEUDOWIRES` and `ATTACHMENTS`: Ethernet pseudowires (RFC 4448), by which frames leave one and by which they enter one.

use super::VlanTags;
use crate::wire::{ETH_P_8021Q, VLAN_HLEN, VLAN_VID_MASK};

/// What is between the label of a pseudowire and the frame as it is at the attachment circuit, in one word: a control word
/// (bit 0), a flow label (bit 1), how many tags the frame loses (2-3) and whether it gets one (4), with which VLAN identifier
/// (16-27). It is constant while anything refers to it.
///
/// Frames into a pseudowire lose the tags of the sub-interface where they arrived, and get one in tagged mode. Frames out of
/// one may lose one, their service-delimiting tag. Those have it or not; the tags that they get are in the
/// [`CrossConnect`](super::CrossConnect) beside this word.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Encapsulation(u64);

impl Encapsulation {
    const CONTROL_WORD: u64 = 1;
    const FLOW_LABEL: u64 = 2;
    const TAGGED: u64 = 1 << 4;
    const VID_SHIFT: u32 = 16;

    /// No control word, no flow label, no change of tags.
    pub const fn new() -> Self {
        Self(0)
    }

    /// The same with the control word (RFC 4385), or without.
    pub const fn with_control_word(self, control_word: bool) -> Self {
        Self(self.0 & !Self::CONTROL_WORD | control_word as u64)
    }

    /// The same with the flow label (RFC 6391), or without.
    pub const fn with_flow_label(self, flow_label: bool) -> Self {
        Self(self.0 & !Self::FLOW_LABEL | (flow_label as u64) << 1)
    }

    /// The same for frames that lose this many tags, at most 2.
    pub const fn without_tags(self, tags: usize) -> Self {
        Self(self.0 & !(3 << 2) | (tags as u64 & 3) << 2)
    }

    /// The same for frames that get an 802.1Q tag with this VLAN identifier, if there is one.
    pub const fn with_tag(self, vid: Option<u16>) -> Self {
        let rest = self.0 & !(Self::TAGGED | (VLAN_VID_MASK as u64) << Self::VID_SHIFT);
        match vid {
            Some(vid) => Self(rest | Self::TAGGED | ((vid & VLAN_VID_MASK) as u64) << Self::VID_SHIFT),
            None => Self(rest),
        }
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn has_control_word(self) -> bool {
        self.0 & Self::CONTROL_WORD != 0
    }

    pub const fn has_flow_label(self) -> bool {
        self.0 & Self::FLOW_LABEL != 0
    }

    /// How many bytes of tags a frame loses: 0, 4 or 8.
    pub const fn removed_len(self) -> usize {
        match self.0 >> 2 & 3 {
            0 => 0,
            1 => VLAN_HLEN,
            _ => 2 * VLAN_HLEN,
        }
    }

    /// How many bytes of tags a frame gets: 0 or 4.
    pub const fn added_len(self) -> usize {
        match self.0 & Self::TAGGED {
            0 => 0,
            _ => VLAN_HLEN,
        }
    }

    /// The tag that a frame gets.
    pub const fn tag(self) -> VlanTags {
        match self.0 & Self::TAGGED {
            0 => VlanTags::NONE,
            _ => VlanTags::one(ETH_P_8021Q, (self.0 >> Self::VID_SHIFT) as u16 & VLAN_VID_MASK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_apart() {
        let all = Encapsulation::new()
            .with_control_word(true)
            .with_flow_label(true)
            .without_tags(2)
            .with_tag(Some(0xfff));
        for control_word in [false, true] {
            for flow_label in [false, true] {
                for tags in 0..3 {
                    for vid in [None, Some(0), Some(0xfff)] {
                        let encapsulation = all
                            .with_control_word(control_word)
                            .with_flow_label(flow_label)
                            .without_tags(tags)
                            .with_tag(vid);
                        assert_eq!(encapsulation.has_control_word(), control_word);
                        assert_eq!(encapsulation.has_flow_label(), flow_label);
                        assert_eq!(encapsulation.removed_len(), tags * VLAN_HLEN);
                        let tag = vid.map_or(VlanTags::NONE, |vid| VlanTags::one(ETH_P_8021Q, vid));
                        assert_eq!((encapsulation.tag(), encapsulation.added_len()), (tag, tag.len_bytes()));
                    }
                }
            }
        }
        let none = all
            .with_control_word(false)
            .with_flow_label(false)
            .without_tags(0)
            .with_tag(None);
        assert_eq!(none, Encapsulation::default());
    }
}

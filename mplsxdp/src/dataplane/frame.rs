//! A frame in this process's memory for the forwarding core, with headroom as in a driver's buffer.

use mplsxdp_common::forward::Frame;
use mplsxdp_common::wire::ETH_HLEN;

/// A copy of a frame. Its buffer is reused when it is filled again, so it allocates only for a frame longer than all
/// before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryFrame {
    buffer: Vec<u8>,
    start: usize,
    trimmed: usize,
}

impl Default for MemoryFrame {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl MemoryFrame {
    /// The headroom that drivers leave (XDP_PACKET_HEADROOM).
    pub const HEADROOM: usize = 256;

    pub fn new(frame: &[u8]) -> Self {
        let mut new = Self {
            buffer: Vec::new(),
            start: 0,
            trimmed: 0,
        };
        new.refill([frame], 0);
        new
    }

    /// A frame of a driver that leaves less headroom.
    pub fn with_headroom(frame: &[u8], headroom: usize) -> Self {
        let mut buffer = vec![0; headroom];
        buffer.extend_from_slice(frame);
        Self {
            buffer,
            start: headroom,
            trimmed: 0,
        }
    }

    /// Replaces the frame: `parts` one after the other, with `trimmed` bytes missing at the end. Those count in the
    /// frame's length but cannot be read.
    pub fn refill<const N: usize>(&mut self, parts: [&[u8]; N], trimmed: usize) {
        self.buffer.resize(Self::HEADROOM, 0);
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        self.start = Self::HEADROOM;
        self.trimmed = trimmed;
    }

    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..).unwrap_or_default()
    }

    /// How many bytes are missing at the end.
    pub fn trimmed(&self) -> usize {
        self.trimmed
    }
}

impl Frame for MemoryFrame {
    fn len(&self) -> usize {
        self.bytes().len() + self.trimmed
    }

    fn is_split(&self) -> bool {
        self.trimmed > 0
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes().get(offset..)?.first_chunk().copied()
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.bytes_mut().get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }

    fn sum(&self, offset: usize, len: usize) -> Option<u16> {
        let bytes = self.bytes().get(offset..offset.checked_add(len)?)?;
        let (words, rest) = bytes.as_chunks();
        let words = words.iter().map(|word| u64::from(u16::from_be_bytes(*word)));
        let rest = rest.iter().map(|byte| u64::from(*byte) << 8);
        let mut sum: u64 = words.chain(rest).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        Some(sum as u16)
    }

    fn move_head(&mut self, delta: i32) -> Option<()> {
        let start = self.start.checked_add_signed(delta.try_into().ok()?)?;
        // The kernel leaves at least an Ethernet header of a frame (bpf_xdp_adjust_head).
        if start + ETH_HLEN > self.buffer.len() {
            return None;
        }
        self.start = start;
        Some(())
    }

    fn cut_tail(&mut self, bytes: usize) -> Option<()> {
        // The missing end goes first. The kernel leaves at least an Ethernet header (bpf_xdp_adjust_tail).
        let missing = self.trimmed.min(bytes);
        let end = self.buffer.len().checked_sub(bytes - missing)?;
        if self.start + ETH_HLEN > end {
            return None;
        }
        self.buffer.truncate(end);
        self.trimmed -= missing;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_filled_anew_is_as_new() {
        let mut frame = MemoryFrame::new(&[1; 40]);
        assert_eq!(frame.move_head(20), Some(()));
        assert_eq!(frame.bytes(), [1; 20]);
        frame.refill([&[2; 10], &[3; 10]], 0);
        assert_eq!(frame.bytes(), [[2; 10], [3; 10]].concat());
    }

    #[test]
    fn the_head_moves_within_the_room_and_leaves_an_ethernet_header() {
        let mut frame = MemoryFrame::new(&[0; 20]);
        assert_eq!(frame.move_head(7), None);
        assert_eq!(frame.move_head(-257), None);
        assert_eq!((frame.move_head(-256), frame.len()), (Some(()), 276));
        assert_eq!((frame.move_head(262), frame.len()), (Some(()), 14));
    }

    #[test]
    fn the_tail_is_cut_from_what_is_missing_first_and_leaves_an_ethernet_header() {
        let mut frame = MemoryFrame::default();
        frame.refill([&[1; 20]], 5);
        assert_eq!((frame.cut_tail(12), frame.len(), frame.trimmed()), (None, 25, 5));
        assert_eq!((frame.cut_tail(3), frame.len(), frame.trimmed()), (Some(()), 22, 2));
        assert_eq!(
            (frame.cut_tail(4), frame.bytes().len(), frame.trimmed()),
            (Some(()), 18, 0)
        );
        assert_eq!((frame.cut_tail(4), frame.bytes()), (Some(()), &[1; 14][..]));
        assert_eq!(frame.cut_tail(1), None);
    }

    #[test]
    fn what_was_trimmed_counts_but_cannot_be_read() {
        let mut frame = MemoryFrame::default();
        frame.refill([&[1; 16]], 100);
        assert_eq!((frame.len(), frame.trimmed(), frame.bytes().len()), (116, 100, 16));
        assert_eq!((frame.load::<4>(12), frame.load::<4>(13)), (Some([1; 4]), None));
        assert_eq!((frame.store(13, [2; 4]), frame.bytes()), (None, &[1; 16][..]));
    }
}

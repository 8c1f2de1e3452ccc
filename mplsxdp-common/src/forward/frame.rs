//! A frame, and how the core reads and writes it.

use super::Checked;
use crate::abi::Reason;

/// A frame, from the destination MAC on.
pub trait Frame {
    /// Length in bytes.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a part of it is in other buffers than the first, and can neither be read nor written.
    fn is_split(&self) -> bool;

    /// The `N` bytes at `offset`, `None` where they are not all within the frame.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Writes `bytes` at `offset`, or does nothing and returns `None` where they do not fit within the frame.
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// The ones' complement sum of the 16-bit words (RFC 1071) in the `len` bytes at `offset`, in whichever buffers; an odd last
    /// byte is followed by a zero. `None` if they are not all within the frame.
    fn sum(&self, offset: usize, len: usize) -> Option<u16>;

    /// Moves the start of the frame by `delta` bytes: forward cuts bytes off, backward puts undefined bytes in front. `None`
    /// where there is no room; the frame is then as it was.
    fn move_head(&mut self, delta: i32) -> Option<()>;

    /// Cuts `bytes` bytes off the end, at most all behind an Ethernet header. `None` if there are not as many; the frame is then as it
    /// was.
    fn cut_tail(&mut self, bytes: usize) -> Option<()>;

    /// `value`, of which the verifier is to know nothing: it then follows the code behind once for all values, not once for
    /// each. Nothing to do elsewhere.
    fn opaque(&self, value: usize) -> usize {
        value
    }
}

#[inline(always)]
pub(crate) fn load_u16<F: Frame>(frame: &F, offset: usize) -> Option<u16> {
    frame.load(offset).map(u16::from_be_bytes)
}

#[inline(always)]
pub(super) fn move_head<F: Frame>(frame: &mut F, delta: i32) -> Checked<()> {
    if delta == 0 {
        Ok(())
    } else {
        frame.move_head(delta).ok_or(Reason::NoHeadroom)
    }
}

/// A call of its own: what the verifier learns of `bytes` ends with it.
#[inline(never)]
pub(super) fn cut_tail<F: Frame>(frame: &mut F, bytes: usize) {
    if bytes != 0 {
        // There are as many, so it cannot fail.
        let _ = frame.cut_tail(bytes);
    }
}

/// Writes within what was checked before: the error is the verifier's, no frame meets it.
#[inline(always)]
pub(super) fn store<F: Frame, const N: usize>(frame: &mut F, offset: usize, bytes: [u8; N]) -> Checked<()> {
    frame.store(offset, bytes).ok_or(Reason::NoHeadroom)
}

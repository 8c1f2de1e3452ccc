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

    /// Whether the frame continues in further buffers, which can be neither read nor written.
    fn is_split(&self) -> bool;

    /// The `N` bytes at `offset`, `None` if they are not all within the frame.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Writes `bytes` at `offset`. Does nothing and returns `None` if they do not fit within the frame.
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// The ones' complement sum of the 16-bit words (RFC 1071) in the `len` bytes at `offset`, in any of the buffers.
    /// An odd last byte is padded with zero. `None` if the bytes are not all within the frame.
    fn sum(&self, offset: usize, len: usize) -> Option<u16>;

    /// Moves the start of the frame by `delta` bytes: forward cuts bytes off, backward puts undefined bytes in front.
    /// `None` if there is no room; the frame is then unchanged.
    fn move_head(&mut self, delta: i32) -> Option<()>;

    /// Cuts `bytes` bytes off the end, at most everything after the Ethernet header. `None` if there are fewer; the
    /// frame is then unchanged.
    fn cut_tail(&mut self, bytes: usize) -> Option<()>;

    /// What the kernel's helpers need to know of the frame; null elsewhere.
    fn context(&self) -> *mut core::ffi::c_void {
        core::ptr::null_mut()
    }

    /// Returns `value`, but hides it from the verifier, which then processes the following code once for all values
    /// instead of once for each. Does nothing elsewhere.
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

/// Cuts the end off, if there is anything to cut.
#[inline(always)]
pub(super) fn cut_tail<F: Frame>(frame: &mut F, bytes: usize) {
    if bytes != 0 {
        cut_bytes(frame, bytes);
    }
}

/// Not inlined: what the verifier learns about `bytes` ends with the call.
#[inline(never)]
fn cut_bytes<F: Frame>(frame: &mut F, bytes: usize) {
    // There are enough bytes, so it cannot fail.
    let _ = frame.cut_tail(bytes);
}

/// Writes where the bounds were checked before. The error exists for the verifier; no frame causes it.
#[inline(always)]
pub(super) fn store<F: Frame, const N: usize>(frame: &mut F, offset: usize, bytes: [u8; N]) -> Checked<()> {
    frame.store(offset, bytes).ok_or(Reason::NoHeadroom)
}

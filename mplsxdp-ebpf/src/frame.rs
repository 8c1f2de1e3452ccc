//! A frame in the driver's buffers: the first one can be read and written, the others only count in its length.

use core::arch::asm;
use core::ptr::{read_unaligned, read_volatile, write_unaligned, write_volatile};

use aya_ebpf::{
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    macros::map,
    maps::PerCpuArray,
    programs::XdpContext,
};
use mplsxdp_common::forward::{Frame, Tables as _};

use crate::tables::XdpTables;

/// No rule looks further into a frame than this; the verifier wants a bound on every offset.
const MAX_OFFSET: usize = 4096;

#[map]
static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

pub struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// The address of `N` bytes at `offset`, where they are within the frame.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let mut address = self.data();
        // By hand: the compiler would derive the end of these bytes from that of others, and the verifier takes two sums with one
        // unknown number for two unknown numbers.
        // SAFETY: an addition.
        unsafe { asm!("{} += {}", inout(reg) address, in(reg) offset, options(nomem, nostack, pure)) };
        if address + N > self.data_end() {
            None
        } else {
            Some(address as *mut [u8; N])
        }
    }

    /// Where the frame begins. By hand, as `data_end`: the context's fields are 32 bits wide to the compiler, which therefore
    /// subtracts them as such, but 64-bit pointers to the verifier, which does not allow that.
    #[inline(always)]
    fn data(&self) -> usize {
        let data: usize;
        // SAFETY: reads `xdp_md.data`, the first field of the context.
        unsafe { asm!("{} = *(u32 *)({} + 0)", out(reg) data, in(reg) self.ctx.ctx, options(nostack, pure, readonly)) };
        data
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        let end: usize;
        // SAFETY: reads `xdp_md.data_end`, the second field of the context.
        unsafe { asm!("{} = *(u32 *)({} + 4)", out(reg) end, in(reg) self.ctx.ctx, options(nostack, pure, readonly)) };
        end
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        // Frozen by the loader: where it is off, the verifier takes the call out, which costs a sixth of a swap.
        if XdpTables.settings().frags() {
            // SAFETY: the helper takes this program's own context.
            unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as usize }
        } else {
            self.data_end() - self.data()
        }
    }

    #[inline(always)]
    fn is_split(&self) -> bool {
        self.len() > self.data_end() - self.data()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // SAFETY: `at` checked that the bytes are within the frame.
        self.at::<N>(offset).map(|bytes| unsafe { read_unaligned(bytes) })
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        // SAFETY: `at` checked that the bytes are within the frame.
        self.at::<N>(offset)
            .map(|place| unsafe { write_unaligned(place, bytes) })
    }

    #[inline(always)]
    fn move_head(&mut self, delta: i32) -> Option<()> {
        // SAFETY: the helper takes this program's own context; all pointers into the frame are taken anew after it.
        if unsafe { bpf_xdp_adjust_head(self.ctx.ctx, delta) } == 0 {
            Some(())
        } else {
            None
        }
    }

    #[inline(always)]
    fn cut_tail(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: the helper takes this program's own context; all pointers into the frame are taken anew after it.
        if unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, -(bytes as i32)) } == 0 {
            Some(())
        } else {
            None
        }
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        // Through a map: the verifier does not track what is in one.
        match SCRATCH.get_ptr_mut(0) {
            // SAFETY: this CPU's own value.
            Some(scratch) => unsafe {
                write_volatile(scratch, value as u64);
                read_volatile(scratch) as usize
            },
            None => value,
        }
    }
}

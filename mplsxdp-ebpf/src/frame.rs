//! A frame in the driver's buffers: the first buffer can be read and written, the others only count in its length.

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ptr::{read_unaligned, write_unaligned, write_volatile};

use aya_ebpf::{
    helpers::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use mplsxdp_common::forward::{Frame, PortView as _};

use crate::tables::XdpTables;

/// No rule reads further into a frame than this. The verifier requires a bound on every offset.
const MAX_OFFSET: usize = 4096;
const OFFSET_MASK: usize = 2 * MAX_OFFSET - 1;

/// How many bytes are summed at a time. The chunk is on the stack, of which all calls together have 512 bytes: on a
/// real-time kernel, another program could overwrite a map's value before the sum is done.
const CHUNK: usize = 160;
/// The most bytes that are summed: more than the largest MTU of an Ethernet NIC. Longer data has no sum.
const MAX_SUM: usize = 1 << 14;
const MAX_CHUNKS: usize = MAX_SUM / CHUNK;

pub struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// The address of `N` bytes at `offset`, if they are within the frame.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let mut address = self.data();
        // In assembly: the compiler would derive the end of these bytes from that of others, and the verifier does not
        // recognise two sums with the same unknown number as equal. The compiler may also check one copy of the offset
        // and add another, which older verifiers do not know to be equal: so the bound stands here once more, next
        // to the addition. SAFETY: arithmetic.
        unsafe {
            asm!(
                "{offset} &= {mask}",
                "{address} += {offset}",
                offset = inout(reg) offset => _,
                address = inout(reg) address,
                mask = const OFFSET_MASK,
                options(nomem, nostack, pure)
            );
        }
        if address + N > self.data_end() {
            None
        } else {
            Some(address as *mut [u8; N])
        }
    }

    /// The start of the frame. In assembly, like `data_end`: to the compiler the context's fields are 32 bits wide, so
    /// it would subtract them as 32-bit numbers; to the verifier they are 64-bit pointers, and it does not allow that.
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
        // Frozen by the loader: if it is off, the verifier removes the call, which costs a sixth of a swap.
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
    fn sum(&self, offset: usize, len: usize) -> Option<u16> {
        sum(self.ctx, offset as u32, len as u32)
    }

    #[inline(always)]
    fn move_head(&mut self, delta: i32) -> Option<()> {
        // SAFETY: the helper takes this program's own context; all pointers into the frame are computed again after it.
        if unsafe { bpf_xdp_adjust_head(self.ctx.ctx, delta) } == 0 {
            Some(())
        } else {
            None
        }
    }

    #[inline(always)]
    fn cut_tail(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: the helper takes this program's own context; all pointers into the frame are computed again after it.
        if unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, -(bytes as i32)) } == 0 {
            Some(())
        } else {
            None
        }
    }

    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.ctx.ctx.cast()
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        // Adds and removes a number that the verifier does not know, so it does not see that the result is the value.
        // No memory is written: other programs may run on this CPU before this one continues (PREEMPT_RT).
        let mut hidden = value;
        // SAFETY: reads `xdp_md.rx_queue_index`.
        unsafe {
            asm!(
                "{queue} = *(u32 *)({ctx} + 16)",
                "{value} ^= {queue}",
                "{value} ^= {queue}",
                queue = out(reg) _,
                value = inout(reg) hidden,
                ctx = in(reg) self.ctx.ctx,
                options(nostack, readonly, pure)
            );
        }
        hidden
    }
}

/// [`Frame::sum`]. Not inlined, so that it has its own stack frame.
#[inline(never)]
fn sum_of(ctx: &XdpContext, offset: u32, len: u32) -> u64 {
    let mut chunk = MaybeUninit::<[u64; CHUNK / 8]>::uninit();
    let chunk = chunk.as_mut_ptr();
    // The last chunk is summed first, so that the rest of it is zero: the order does not change the sum.
    for index in 0..CHUNK / 8 {
        // SAFETY: within the chunk; volatile, because otherwise the compiler would call memset().
        unsafe { write_volatile((chunk as *mut u64).add(index), 0) };
    }
    let frame = XdpFrame::new(ctx);
    if len as usize > MAX_SUM {
        return NO_SUM;
    }
    let Some(last) = len.checked_sub(1) else { return 0 };
    let mut rest = last as usize % CHUNK;
    // An empty instruction that the compiler cannot see through: otherwise it would remove the check that the verifier
    // requires. SAFETY: no instruction.
    unsafe { asm!("/* {} */", inout(reg) rest, options(nomem, nostack, pure)) };
    if rest >= CHUNK {
        return NO_SUM;
    }
    // In assembly, so that the compiler does not merge the checks: the verifier must see that the last chunk is not
    // empty. SAFETY: an addition.
    unsafe { asm!("{} += 1", inout(reg) rest, options(nomem, nostack, pure)) };
    let rest = rest as u32;
    let whole = len.wrapping_sub(rest);
    // SAFETY: the helpers take this program's own context, and write and read within the chunk.
    let load = |offset, len| unsafe { bpf_xdp_load_bytes(ctx.ctx, offset, chunk.cast(), len) } == 0;
    // SAFETY: the helper reads the chunk, all of which is written.
    let add = |sum: u32| unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, chunk.cast(), CHUNK as u32, sum) as u32 };
    if !load(offset + whole, rest) {
        return NO_SUM;
    }
    // Keeps the verifier from processing the loop once for each path to this point.
    let mut sum = frame.opaque(add(0) as usize) as u32;
    for index in 0..MAX_CHUNKS as u32 {
        if index * CHUNK as u32 >= whole {
            break;
        }
        if !load(offset + index * CHUNK as u32, CHUNK as u32) {
            return NO_SUM;
        }
        sum = add(sum);
    }
    sum.into()
}

const NO_SUM: u64 = 1 << 32;

#[inline(always)]
fn sum(ctx: &XdpContext, offset: u32, len: u32) -> Option<u16> {
    match sum_of(ctx, offset, len) {
        NO_SUM => None,
        sum => {
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            // The kernel sums words as they lie in memory.
            Some(u16::from_be_bytes((sum as u16).to_ne_bytes()))
        }
    }
}

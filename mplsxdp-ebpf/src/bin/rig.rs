//! Programs of the test and measuring rig: a generator that runs on live frames, a bare redirect and a minimal label
//! swap to compare with, programs for the ends of the line that take every frame, and a counter of page pools.
#![no_std]
#![no_main]

use core::ptr::{read_unaligned, read_volatile, write_unaligned};

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_xdp_adjust_tail},
    macros::{map, raw_tracepoint, xdp},
    maps::{Array, CpuMap, DevMap, HashMap, PerCpuArray},
    programs::{RawTracePointContext, XdpContext},
};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_MPLS_UC, Label, Lse};

/// How much of a frame the generator writes, in bytes and in words: the shortest frame.
const HEADER_LEN: usize = 60;
const HEADER_WORDS: usize = HEADER_LEN.div_ceil(8);
const KINDS: usize = 3;

/// What the generator writes at the start of each frame: a header for each of three kinds of frames. Frozen by the
/// loader, like all of these, and in a named section, so that the compiler merges no constant with them. Words, so that
/// they are aligned.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static HEADERS: [[u64; HEADER_WORDS]; KINDS] = [[0; HEADER_WORDS]; KINDS];
/// Lengths of the three kinds of frames in bytes; 0: all frames are of the first kind, and as long as they are.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static LENGTHS: [u32; KINDS] = [0; KINDS];
/// Where in the header the bytes stand that differ from frame to frame, and whether they are 8, or 4.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static DRAW_OFFSET: u32 = 0;
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static DRAW_WIDE: u32 = 0;
/// How many of them are in `DRAWS`, less 1. Their number is a power of two.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static DRAW_MASK: u32 = 0;
/// What `swap` writes: destination MAC, source MAC, four bytes unused.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static MACS: [u64; 2] = [0; 2];

/// The process whose page pools are recorded.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static PROCESS: u32 = 0;

/// What the generator writes into one frame after another, as it is on the wire. It is read in order, so it costs few
/// misses.
#[map]
static DRAWS: Array<u64> = Array::with_max_entries(1, 0);
/// Pace of the generator, in 1/1024 ns: the time from frame to frame, and when the next one is due. 0: none, and at once.
#[map]
static PACE: Array<u64> = Array::with_max_entries(2, 0);
/// How many frames were generated.
#[map]
static GENERATED: Array<u64> = Array::with_max_entries(1, 0);
/// What `swap` makes of each label: the new label; 0: nothing.
#[map]
static SWAPS: Array<u64> = Array::with_max_entries(1, 0);
/// Where `generate`, `redirect` and `swap` send everything: slot 0.
#[map]
static RIG_TX: DevMap = DevMap::with_max_entries(1, 0);
/// Where `spread` hands everything: the CPU of this number.
#[map]
static CPUS: CpuMap = CpuMap::with_max_entries(1, 0);
/// Frames that `sink` took, per CPU.
#[map]
static SUNK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Page pools that got pages while `PROCESS` was running, by address.
#[map]
static PAGE_POOLS: HashMap<u64, u8> = HashMap::with_max_entries(1024, 0);

/// Writes a new header at the start of the frame that it is run on, and sends it on. Frames of a live run come back
/// with what was last written, so all of the header is written each time.
#[xdp(frags)]
pub fn generate(ctx: XdpContext) -> u32 {
    let Some(generated) = GENERATED.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the map's value, which nothing else writes to. Frozen values; volatile so that the compiler does not take
    // those above for granted.
    let (position, mask, offset, is_wide, longest) = unsafe {
        *generated += 1;
        (
            *generated,
            read_volatile(&raw const DRAW_MASK),
            read_volatile(&raw const DRAW_OFFSET) as usize,
            read_volatile(&raw const DRAW_WIDE) != 0,
            read_volatile((&raw const LENGTHS).cast::<u32>().add(KINDS - 1)),
        )
    };
    await_turn();
    let mut kind = 0;
    if longest != 0 {
        // The "simple IMIX": 7 short frames, 4 middling, 1 long.
        kind = match position % 12 {
            0..7 => 0,
            7..11 => 1,
            _ => 2,
        };
        // SAFETY: within the array; the helper takes this program's own context.
        let shortened = unsafe {
            let length = read_volatile((&raw const LENGTHS).cast::<u32>().add(kind));
            bpf_xdp_adjust_tail(ctx.ctx, length as i32 - longest as i32)
        };
        if shortened != 0 {
            return xdp_action::XDP_ABORTED;
        }
    }
    let Some(draw) = DRAWS.get(position as u32 & mask) else {
        return xdp_action::XDP_ABORTED;
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + HEADER_LEN > end || offset > HEADER_LEN - 8 {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: within the array, and within the frame, as checked above.
    unsafe {
        let header = (&raw const HEADERS)
            .cast::<[u64; HEADER_WORDS]>()
            .add(kind)
            .cast::<u64>();
        for word in 0..HEADER_WORDS - 1 {
            write_unaligned((data + word * 8) as *mut u64, read_volatile(header.add(word)));
        }
        let last = read_volatile(header.add(HEADER_WORDS - 1));
        write_unaligned((data + HEADER_LEN - 4) as *mut u32, last as u32);
        if is_wide {
            write_unaligned((data + offset) as *mut u64, *draw);
        } else {
            write_unaligned((data + offset) as *mut u32, *draw as u32);
        }
    }
    redirected()
}

/// Waits until the next frame is due, if there is a pace. A generator that is late does not wait.
#[inline(always)]
fn await_turn() {
    /// A look takes 20 ns or more.
    const LOOKS: usize = 128;
    let (Some(&pace), Some(due)) = (PACE.get(0), PACE.get_ptr_mut(1)) else {
        return;
    };
    if pace == 0 {
        return;
    }
    // SAFETY: the map's value, which nothing else writes to during a run.
    let mut at = unsafe { read_volatile(due) };
    for _ in 0..LOOKS {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() } << 10;
        if at == 0 {
            at = now;
        }
        if now >= at {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { *due = at + pace };
}

/// Sends every frame on, untouched.
#[xdp(frags)]
pub fn redirect(_: XdpContext) -> u32 {
    redirected()
}

/// Hands every frame to another CPU, which runs `swap_there` on it.
#[xdp(frags)]
pub fn spread(_: XdpContext) -> u32 {
    CPUS.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

/// `swap`, on the CPU that a frame was handed to.
#[xdp(frags, map = "cpumap")]
pub fn swap_there(ctx: XdpContext) -> u32 {
    swap_label(&ctx)
}

/// The least that a label switch can do: swaps the label of an untagged frame by a table, writes the next hop's
/// addresses, which are the same for all labels, and sends it on. No look at the destination address, no counter, no
/// MTU, one operation.
#[xdp(frags)]
pub fn swap(ctx: XdpContext) -> u32 {
    swap_label(&ctx)
}

#[inline(always)]
fn swap_label(ctx: &XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + ETH_HLEN + 4 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: within the frame, as checked above.
    let (ethertype, lse) = unsafe {
        (
            read_unaligned((data + ETH_HLEN - 2) as *const [u8; 2]),
            Lse::from_bytes(read_unaligned((data + ETH_HLEN) as *const [u8; 4])),
        )
    };
    if u16::from_be_bytes(ethertype) != ETH_P_MPLS_UC || lse.ttl() <= 1 {
        return xdp_action::XDP_PASS;
    }
    let new = match SWAPS.get(lse.label().get()) {
        Some(&new) if new != 0 => Label::from_low_bits(new as u32),
        _ => return xdp_action::XDP_PASS,
    };
    // SAFETY: within the frame, as checked above. Frozen values; volatile so that the compiler does not take those
    // above for granted.
    unsafe {
        let macs = (&raw const MACS).cast::<u64>();
        write_unaligned(data as *mut u64, read_volatile(macs));
        write_unaligned((data + 8) as *mut u32, read_volatile(macs.add(1)) as u32);
        write_unaligned(
            (data + ETH_HLEN) as *mut [u8; 4],
            lse.swapped(new, lse.ttl() - 1).to_bytes(),
        );
    }
    redirected()
}

/// Counts and drops.
#[xdp(frags)]
pub fn sink(_: XdpContext) -> u32 {
    if let Some(count) = SUNK.get_ptr_mut(0) {
        // SAFETY: this CPU's own value.
        unsafe { *count += 1 };
    }
    xdp_action::XDP_DROP
}

/// Passes every frame: a veth delivers redirected frames only if its peer has a program.
#[xdp]
pub fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Records the page pools that get pages while a process runs. Arguments of the tracepoint: pool, page, number of
/// pages.
#[raw_tracepoint]
pub fn page_pool_state_hold(ctx: RawTracePointContext) -> i32 {
    // SAFETY: a frozen value; volatile so that the compiler does not assume the initial value above.
    let process = unsafe { read_volatile(&raw const PROCESS) };
    if (bpf_get_current_pid_tgid() >> 32) as u32 == process {
        // If the map is full, the missing pools make no difference.
        let _ = PAGE_POOLS.insert(ctx.arg::<u64>(0), 1, 0);
    }
    0
}

#[inline(always)]
fn redirected() -> u32 {
    RIG_TX.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

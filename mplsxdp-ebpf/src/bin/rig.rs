//! Programs of the test and measuring rig: a generator that runs on live frames, a bare redirect to compare with,
//! programs for the ends of the line that take every frame, and a counter of page pools.
#![no_std]
#![no_main]

use core::ptr::{read_volatile, write_unaligned};

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_get_current_pid_tgid, bpf_get_prandom_u32},
    macros::{map, raw_tracepoint, xdp},
    maps::{DevMap, HashMap, PerCpuArray},
    programs::{RawTracePointContext, XdpContext},
};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_MPLS_UC, Label, Lse};

/// The Ethernet header that the generator writes, frozen by the loader: destination MAC, source MAC, two unused bytes.
#[unsafe(no_mangle)]
static MACS: [u8; 14] = [0; 14];
/// The generator's labels are `FIRST_ORDINARY` plus a multiple of `LABEL_STEP`. There are `LABEL_COUNT` of them, a
/// power of two.
#[unsafe(no_mangle)]
static LABEL_COUNT: u32 = 1;
#[unsafe(no_mangle)]
static LABEL_STEP: u32 = 1;
/// The TTL of the label.
#[unsafe(no_mangle)]
static LABEL_TTL: u8 = 64;

/// The process whose page pools are recorded.
#[unsafe(no_mangle)]
static PROCESS: u32 = 0;

/// Slot 0 is where `generate` and `redirect` send everything.
#[map]
static RIG_TX: DevMap = DevMap::with_max_entries(1, 0);
/// Frames that `sink` took, per CPU.
#[map]
static SUNK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Page pools that got pages while `PROCESS` was running, by address.
#[map]
static PAGE_POOLS: HashMap<u64, u8> = HashMap::with_max_entries(1024, 0);

/// Turns the frame into a labelled one with a random label, and sends it on. Frames of a live run come back with the
/// bytes last written, so the header is written again each time.
#[xdp(frags)]
pub fn generate(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + ETH_HLEN + 4 > end {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: frozen values; volatile so that the compiler does not assume the initial values above.
    let (mut header, count, step, ttl) = unsafe {
        (
            read_volatile(&raw const MACS),
            read_volatile(&raw const LABEL_COUNT),
            read_volatile(&raw const LABEL_STEP),
            read_volatile(&raw const LABEL_TTL),
        )
    };
    [header[12], header[13]] = ETH_P_MPLS_UC.to_be_bytes();
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let label = Label::from_low_bits(Label::FIRST_ORDINARY.get() + (random & (count - 1)) * step);
    // SAFETY: within the frame, as checked above.
    unsafe {
        write_unaligned(data as *mut [u8; ETH_HLEN], header);
        write_unaligned(
            (data + ETH_HLEN) as *mut [u8; 4],
            Lse::new(label, 0, true, ttl).to_bytes(),
        );
    }
    redirected()
}

/// Sends every frame on, untouched.
#[xdp(frags)]
pub fn redirect(_: XdpContext) -> u32 {
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

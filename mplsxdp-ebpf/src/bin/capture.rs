//! The XDP program of a port while somebody captures: it does what the other one does, and copies frames into a ring.
//! The other program is not concerned, so capturing costs nothing while nobody does.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[path = "../deliver.rs"]
mod deliver;
#[path = "../exceptions.rs"]
mod exceptions;
#[path = "../frame.rs"]
mod frame;
#[path = "../lost.rs"]
mod lost;
#[path = "../tables.rs"]
mod tables;

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ptr::addr_of_mut;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_load_bytes},
    macros::{map, xdp},
    maps::{Array, PerCpuArray, RingBuf},
    programs::XdpContext,
};
use mplsxdp_common::abi::{
    CAPTURE_BYTES, CAPTURE_HEADER, CAPTURE_KEPT, CaptureFilter, CaptureHeader, Captured, MAX_PORTS, Reason,
};
use mplsxdp_common::forward::{Arrival, Frame as _, PortView as _, Verdict, arrival_port, forward};
use mplsxdp_common::wire::{ETH_P_MPLS_UC, Lse};

use crate::exceptions::except;
use crate::frame::XdpFrame;
use crate::tables::{TX_PORTS, XdpTables};

#[map]
static CAPTURE: RingBuf = RingBuf::with_byte_size(CAPTURE_BYTES, 0);
/// What is captured, by port.
#[map]
static CAPTURE_FILTERS: Array<[u64; 3]> = Array::with_max_entries(MAX_PORTS, 0);
/// How many frames had no room in the ring.
#[map]
static CAPTURE_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[xdp(frags)]
pub fn mplsxdp(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let words = CAPTURE_FILTERS.get(XdpTables.settings().port());
    let filter = words.map_or(CaptureFilter::NONE, |words| CaptureFilter::from_words(*words));
    let is_wanted = match filter.label() {
        None => true,
        Some(label) => top_label(&frame) == Some(label),
    };
    // SAFETY: the helper takes nothing.
    let number = unsafe { bpf_get_prandom_u32() };
    let is_sampled = is_wanted && filter.sample() > 0 && number % filter.sample() == 0;
    if is_sampled {
        record(&ctx, Captured::In, number);
    }
    match forward(&mut frame, &XdpTables) {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Forward { port } => {
            if is_sampled {
                record(&ctx, Captured::Out(port), number);
            }
            match TX_PORTS.redirect(port.into(), 0) {
                Ok(action) => action,
                Err(_) => except(&ctx, Reason::NoPort),
            }
        }
        Verdict::Exception(reason) => {
            if is_wanted && filter.has(reason) {
                record(&ctx, Captured::Exception(reason), number);
            }
            except(&ctx, reason)
        }
    }
}

/// The label on top, beneath VLAN tags, if there is one.
#[inline(always)]
fn top_label(frame: &XdpFrame<'_>) -> Option<u32> {
    let arrival = Arrival::of(frame, &XdpTables)?;
    if arrival.ethertype != ETH_P_MPLS_UC {
        return None;
    }
    Some(Lse::from_bytes(frame.load(arrival.l2_len)?).label().get())
}

/// Copies a frame, as it is now, into the ring.
#[inline(always)]
fn record(ctx: &XdpContext, captured: Captured, number: u32) {
    let frame = XdpFrame::new(ctx);
    let header = CaptureHeader {
        // SAFETY: the helper takes nothing.
        time_ns: unsafe { bpf_ktime_get_ns() },
        captured,
        port: match captured {
            // It has other tags by now.
            Captured::Out(_) => XdpTables.settings().port(),
            Captured::In | Captured::Exception(_) => arrival_port(&frame, &XdpTables),
        } as u16,
        kept: 0,
        length: frame.len() as u32,
        number: number.into(),
    };
    write(ctx, header.words());
}

/// Not inlined, so that the verifier processes it once for each kind of record.
#[inline(never)]
fn write(ctx: &XdpContext, words: [u64; 4]) -> u32 {
    let length = (words[2] >> 32) as usize;
    let is_written = if length <= CAPTURE_KEPT[0] {
        copy::<{ CAPTURE_KEPT[0] }>(ctx, words, length)
    } else if length <= CAPTURE_KEPT[1] {
        copy::<{ CAPTURE_KEPT[1] }>(ctx, words, length)
    } else {
        copy::<{ CAPTURE_KEPT[2] }>(ctx, words, length)
    };
    if !is_written && let Some(lost) = CAPTURE_LOST.get_ptr_mut(0) {
        // SAFETY: a value of a per-CPU map.
        unsafe { *lost += 1 };
    }
    0
}

#[repr(C)]
struct Record<const KEPT: usize> {
    words: [u64; CAPTURE_HEADER / 8],
    bytes: [u8; KEPT],
}

#[inline(always)]
fn copy<const KEPT: usize>(ctx: &XdpContext, mut words: [u64; 4], length: usize) -> bool {
    let Some(mut entry) = CAPTURE.reserve::<Record<KEPT>>(0) else {
        return false;
    };
    let mut kept = if length < KEPT { length } else { KEPT };
    // Shows the verifier that it is neither 0, which no frame's length is, nor more. In assembly: the compiler knows that
    // it is not more, and would leave this out. SAFETY: arithmetic.
    unsafe {
        asm!(
            "{kept} += -1",
            "{kept} &= {mask}",
            "{kept} += 1",
            kept = inout(reg) kept,
            mask = const KEPT - 1,
            options(nomem, nostack, pure)
        );
    }
    words[2] = words[2] & !0xffff_ffff | kept as u64;
    let record: *mut Record<KEPT> = MaybeUninit::as_mut_ptr(&mut entry);
    // SAFETY: the entry has room for a record, and the helper writes at most `kept` bytes of it.
    let copied = unsafe {
        addr_of_mut!((*record).words).write(words);
        bpf_xdp_load_bytes(ctx.ctx, 0, addr_of_mut!((*record).bytes).cast(), kept as u32)
    };
    if copied < 0 {
        entry.discard(0);
        return true;
    }
    entry.submit(0);
    true
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! Makes the kernel receive a frame that the slow path hands to it.

use core::arch::asm;
use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_store_bytes},
    macros::classifier,
    programs::TcContext,
};
use mplsxdp_common::abi::Delivery;

use crate::tables::DELIVERY;

/// Turns the packet that it runs on into the frame in `DELIVERY`, and gives a clone of it to the interface named there,
/// as a received packet. Returns 0, or the result of the kernel function that failed: a negative error number, or
/// NET_RX_DROP (1).
///
/// It is not attached anywhere. The controller runs it with BPF_PROG_TEST_RUN.
#[classifier]
pub fn deliver(ctx: TcContext) -> i32 {
    let Some(delivery) = DELIVERY.get_ptr(0) else {
        return ERROR;
    };
    // SAFETY: the map's value, which the controller wrote before it runs the program.
    let (ifindex, length) = unsafe {
        (
            read_volatile(addr_of!((*delivery).ifindex)),
            read_volatile(addr_of!((*delivery).length)),
        )
    };
    let mut length = (length as usize).wrapping_sub(1);
    if length >= Delivery::ROOM {
        return ERROR;
    }
    // In assembly, so that the verifier sees that it is not zero. SAFETY: an addition.
    unsafe { asm!("{} += 1", inout(reg) length, options(nomem, nostack, pure)) };
    let length = length as u32;
    let skb = ctx.skb.skb;
    // SAFETY: the helpers take this program's own context, and read within the map's value.
    let result = unsafe {
        match bpf_skb_change_tail(skb, length, 0) {
            0 => match bpf_skb_store_bytes(skb, 0, addr_of!((*delivery).frame).cast(), length, 0) {
                0 => bpf_clone_redirect(skb, ifindex, BPF_F_INGRESS.into()),
                error => error,
            },
            error => error,
        }
    };
    result as i32
}

/// EINVAL.
const ERROR: i32 = -22;

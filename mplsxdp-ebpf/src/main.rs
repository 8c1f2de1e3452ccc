//! The XDP program: what a frame and the tables are in the kernel, and what each verdict becomes. The rules are in
//! `mplsxdp_common::forward`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod frame;
mod tables;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use aya_log_ebpf::debug;
use mplsxdp_common::abi::Reason;
use mplsxdp_common::forward::{Frame as _, Tables as _, Verdict, forward};

use crate::frame::XdpFrame;
use crate::tables::{TX_PORTS, XdpTables, count_reason};

#[xdp]
pub fn mplsxdp(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    match forward(&mut frame, &XdpTables) {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Forward { port } => match TX_PORTS.redirect(port.into(), 0) {
            Ok(action) => action,
            Err(_) => except(&ctx, &frame, Reason::NoPort),
        },
        Verdict::Exception(reason) => except(&ctx, &frame, reason),
    }
}

/// Counts a frame that is not forwarded, and drops it.
fn except(ctx: &XdpContext, frame: &XdpFrame<'_>, reason: Reason) -> u32 {
    count_reason(reason, frame);
    // Frozen by the loader: where it is off, the verifier takes the code out.
    if XdpTables.settings().log() {
        let port = XdpTables.settings().port();
        debug!(
            ctx,
            "port {}: exception {}, frame of {} bytes",
            port,
            reason as u8,
            frame.len() as u32
        );
    }
    xdp_action::XDP_DROP
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // A panic that the compiler cannot rule out is an endless loop, which the verifier refuses at load.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! The XDP program: the kernel's frame and tables, and the XDP action for each verdict. The rules are in
//! `mplsxdp_common::forward`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod deliver;
mod exceptions;
mod frame;
mod lost;
mod tables;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use mplsxdp_common::abi::Reason;
use mplsxdp_common::forward::{Verdict, forward};

use crate::exceptions::except;
use crate::frame::XdpFrame;
use crate::tables::{TX_PORTS, XdpTables};

#[xdp(frags)]
pub fn mplsxdp(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    match forward(&mut frame, &XdpTables) {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Forward { port } => match TX_PORTS.redirect(port.into(), 0) {
            Ok(action) => action,
            Err(_) => except(&ctx, Reason::NoPort),
        },
        Verdict::Exception(reason) => except(&ctx, reason),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // A panic that the compiler cannot rule out becomes an endless loop, which the verifier refuses at load.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

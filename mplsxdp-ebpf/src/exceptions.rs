//! What the program does with a frame that it does not forward.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use aya_log_ebpf::debug;
use mplsxdp_common::abi::{Loss, MAX_QUEUES, Reason, UnknownPolicy};
use mplsxdp_common::forward::{Frame as _, PortView as _, arrival_port};

use crate::frame::XdpFrame;
use crate::tables::{XSKS, XdpTables, count_reason, is_admitted};

/// Counts a frame that is not forwarded, and punts or drops it. Not inlined, to keep its registers out of the path of
/// forwarded frames.
#[inline(never)]
pub fn except(ctx: &XdpContext, reason: Reason) -> u32 {
    let frame = XdpFrame::new(ctx);
    // Keeps the verifier from processing this once for each reason.
    let reason = Reason::from_number(frame.opaque(reason as usize) as u8).unwrap_or(Reason::Malformed);
    let settings = XdpTables.settings();
    let port = match reason {
        // Detected only after the frame had been rewritten.
        Reason::NoPort => settings.port(),
        _ => arrival_port(&frame, &XdpTables),
    };
    count_reason(port, reason.slot(), &frame);
    // Frozen by the loader: if it is off, the verifier removes the code.
    if settings.log() {
        debug!(
            ctx,
            "port {}: exception {}, frame of {} bytes",
            port,
            reason as u8,
            frame.len() as u32
        );
    }
    match (reason, settings.unknown()) {
        (Reason::NoRoute, UnknownPolicy::Drop) => xdp_action::XDP_DROP,
        (Reason::NoRoute, UnknownPolicy::Pass) | (Reason::PassRoute, _) => xdp_action::XDP_PASS,
        _ if reason.is_punted() => punt(ctx, &frame, port, reason),
        _ => xdp_action::XDP_DROP,
    }
}

/// Hands a frame to the slow path's socket on the queue on which it arrived.
#[inline(always)]
fn punt(ctx: &XdpContext, frame: &XdpFrame<'_>, port: u32, reason: Reason) -> u32 {
    if reason.is_policed() && !is_admitted(port, reason) {
        count_reason(port, Loss::Policed.slot(reason), frame);
        return xdp_action::XDP_DROP;
    }
    // SAFETY: a field of this program's own context.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    let redirected = if queue < MAX_QUEUES {
        XSKS.redirect(XdpTables.settings().port() * MAX_QUEUES + queue, 0)
    } else {
        Err(0)
    };
    redirected.unwrap_or_else(|_| {
        count_reason(port, Loss::NoListener.slot(reason), frame);
        xdp_action::XDP_DROP
    })
}

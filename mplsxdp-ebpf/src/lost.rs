//! Counts frames that are lost after the program has redirected them. No XDP program sees that, but the kernel has
//! tracepoints.

use aya_ebpf::{helpers::bpf_probe_read_kernel, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::tables::{count_redirect_lost, port_on, watch};

/// The kernel does not hand the frame to the port's driver, because the driver accepts no redirected frames (Linux
/// 6.3), or none of this kind. Arguments of the tracepoint (Linux 5.13): device, program, target, error, map type, map
/// id, index in the map.
#[raw_tracepoint]
pub fn xdp_redirect_err(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u32>(5) == watch().tx_ports_id {
        count_redirect_lost(ctx.arg(6), 1);
    }
    0
}

/// A driver did not accept all of the up to 16 frames that were redirected to it. Arguments of the tracepoint:
/// receiving device, sending device, frames accepted, frames refused, error.
#[raw_tracepoint]
pub fn xdp_devmap_xmit(ctx: RawTracePointContext) -> i32 {
    let lost = ctx.arg::<i32>(3);
    if lost > 0 {
        count_refused(ctx.arg::<u64>(1) as usize, lost as u64);
    }
    0
}

/// Not inlined, to keep its registers out of the common path.
#[inline(never)]
fn count_refused(device: usize, lost: u64) {
    let watch = watch();
    // SAFETY: the helper takes any address.
    let port = unsafe {
        let read = |address: usize| bpf_probe_read_kernel(address as *const u64).unwrap_or(0);
        let netns = read(device + watch.netns_offset as usize) as usize;
        if read(netns + watch.cookie_offset as usize) != watch.netns_cookie {
            return;
        }
        let ifindex = bpf_probe_read_kernel((device + watch.ifindex_offset as usize) as *const u32);
        ifindex.ok().and_then(port_on)
    };
    if let Some(port) = port {
        count_redirect_lost(port, lost);
    }
}

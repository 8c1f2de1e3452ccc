//! Has the kernel receive frames at an interface, as if the XDP program there had passed them: a program that passes every frame
//! is run on them as live frames (BPF_PROG_TEST_RUN, Linux 5.18). So what comes off an LSP meets the checks of received packets:
//! martian addresses, `rp_filter`, checksums, `ip_forward`, TTL, netfilter. It takes the capabilities that loading a program takes.

use std::io;

use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};

/// The program, loaded and attached nowhere.
pub struct Injector {
    program: Xdp,
}

impl Injector {
    pub(super) fn new(program: Xdp) -> Self {
        Self { program }
    }

    /// Has the kernel receive `frame`, from the destination MAC on, at the interface `ifindex` of this network namespace. It has
    /// gone through the kernel's network stack on return.
    ///
    /// ENODEV: there is no such interface. EINVAL: the frame is shorter than an Ethernet header, or longer than what a page
    /// has room for beside the kernel's own data: about 3400 bytes.
    pub fn receive(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, length, 0, ifindex, 0, 0].map(u32::to_ne_bytes);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context.as_flattened()),
            repeat: 1,
            attrs: TestRunAttrs::new().xdp_live_frames(1),
            ..TestRunOptions::new()
        };
        self.program.test_run(options).map(drop).map_err(|error| match error {
            ProgramError::SyscallError(error) => error.io_error,
            other => io::Error::other(other),
        })
    }
}

//! Makes the kernel receive frames at an interface, as if the XDP program there had passed them. So packets that leave
//! an LSP here meet the checks of received packets: martian addresses, `rp_filter`, checksums, `ip_forward`, TTL,
//! netfilter.
//!
//! A traffic-control program runs once for each frame (BPF_PROG_TEST_RUN), and gives the interface a packet in the
//! kernel's own memory (`bpf_clone_redirect`). A test run of an XDP program on live frames would do the same, but
//! creates a page pool each time, which exists as long as a socket has the packet unread.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use aya::maps::MapData;
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use mplsxdp_common::abi::{Delivery, map};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socket};

use super::mapped::MappedWords;

/// The program, loaded but not attached.
pub struct Injector {
    program: SchedClassifier,
    /// A [`Delivery`], the program's input.
    delivery: MappedWords,
    /// Nothing arrives here: see [`Injector::finish`].
    socket: OwnedFd,
}

impl Injector {
    /// Runs the program once, without a frame: an error means that this kernel cannot.
    pub(super) fn new(program: SchedClassifier, map: &MapData) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let injector = Self {
            program,
            delivery: MappedWords::new(map::DELIVERY, map, size_of::<Delivery>() / size_of::<u64>())
                .map_err(|error| error.source)?,
            socket: socket(AddressFamily::Inet, SockType::Datagram, flags, None)?,
        };
        injector.run()?;
        Ok(injector)
    }

    /// Makes the kernel receive `frame`, from the destination MAC address on, at the interface `ifindex` of this
    /// network namespace. On return it has passed through the kernel's network stack.
    ///
    /// EINVAL: there is no such interface, or the frame is longer than what the kernel turns into a packet at once,
    /// about 16,000 bytes. ENOBUFS: the interface is down, or the kernel's queue for received packets is full.
    pub fn receive(&mut self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        if frame.len() > Delivery::ROOM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let head = [ifindex, frame.len() as u32].map(u32::to_ne_bytes);
        self.delivery.copy_from(0, head.as_flattened());
        self.delivery.copy_from(1, frame);
        let result = self.run()?;
        self.finish();
        match result {
            0 => Ok(()),
            error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
            // NET_RX_DROP.
            1.. => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
        }
    }

    /// Returns the program's return value.
    fn run(&self) -> io::Result<i32> {
        /// A packet for the program to fill, without a protocol, so that the kernel does not look into it.
        const PACKET: [u8; 64] = [0; 64];
        let options = TestRunOptions {
            data_in: Some(&PACKET),
            ..TestRunOptions::new()
        };
        match self.program.test_run(options) {
            Ok(result) => Ok(result.return_value.cast_signed()),
            Err(ProgramError::SyscallError(error)) => Err(error.io_error),
            Err(other) => Err(io::Error::other(other)),
        }
    }

    /// Lets the kernel process what it has received. Linux 6.11 and later does so at the end of the test run. Before,
    /// the packet waits in this CPU's queue until the next interrupt, or until bottom halves are enabled again; reading
    /// from a socket's queue does that. Otherwise a CPU that becomes idle complains ("local softirq work is pending").
    fn finish(&self) {
        // EAGAIN: the socket has no address.
        let _ = recv(self.socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT);
    }
}

//! Interfaces that receive frames for other stations, too (promiscuous mode), while this process lives.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A packet socket that receives nothing. The kernel counts its memberships among the reasons for promiscuous mode, and
/// ends them with the socket or the interface (packet(7)).
#[derive(Debug)]
pub struct Promiscuity(OwnedFd);

impl Promiscuity {
    pub fn new() -> io::Result<Self> {
        Ok(Self(socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?))
    }

    pub fn set(&self, ifindex: u32, on: bool) -> io::Result<()> {
        let membership = libc::packet_mreq {
            mr_ifindex: ifindex.cast_signed(),
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        let option = match on {
            true => libc::PACKET_ADD_MEMBERSHIP,
            false => libc::PACKET_DROP_MEMBERSHIP,
        };
        let (value, length) = ((&raw const membership).cast(), size_of_val(&membership));
        // SAFETY: the value is valid for the length that is passed with it.
        match unsafe { libc::setsockopt(self.0.as_raw_fd(), libc::SOL_PACKET, option, value, length as u32) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

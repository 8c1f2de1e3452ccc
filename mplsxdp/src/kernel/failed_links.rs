//! Which links fail, by a subscription of its own. The other one ([`super::subscription`]) may have tens of thousands of
//! routes in front of such a notice.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The group of links, as a bit (linux/rtnetlink.h), and messages about them.
const RTMGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// Both flags are set if frames can be sent (linux/if.h).
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
/// struct nlmsghdr and struct ifinfomsg.
const HEADER: usize = 16;
const IFINFOMSG: usize = 16;
/// A message about a link takes one or two kilobytes.
const DATAGRAM_BYTES: usize = 1 << 15;
/// The most messages that are read at once.
const READ: usize = 64;

/// The subscription.
pub struct FailedLinks {
    socket: AsyncFd<OwnedFd>,
    datagram: Vec<u8>,
}

impl FailedLinks {
    /// Follows the links of this thread's network namespace. Must be called within a tokio runtime.
    pub fn follow() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
        // SAFETY: an `OwnedFd` gives the same descriptor as long as it exists, and it is not replaced.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self {
            socket,
            datagram: vec![0; DATAGRAM_BYTES],
        })
    }

    /// The indexes of links that the kernel has reported as down, without carrier or gone since the last call. If some
    /// reports were lost, the other subscription has them.
    pub fn take(&mut self) -> Vec<u32> {
        let mut failed = Vec::new();
        for _ in 0..READ {
            match recv(self.socket.as_raw_fd(), &mut self.datagram, MsgFlags::empty()) {
                Ok(length) => failed.extend(failed_in(self.datagram.get(..length).unwrap_or_default())),
                // Some were lost, and others may follow.
                Err(nix::errno::Errno::ENOBUFS) => {}
                Err(_) => break,
            }
        }
        failed
    }

    /// Waits until [`FailedLinks::take`] may have something. Can be dropped and called again at any time.
    pub async fn readable(&self) {
        match self.socket.readable().await {
            // Only `take` finds out that there is nothing more.
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// The links that these messages report as failed.
fn failed_in(mut messages: &[u8]) -> Vec<u32> {
    let mut failed = Vec::new();
    while let Some(length) = word(messages, 0) {
        let length = length as usize;
        let Some(message) = messages.get(..length).filter(|_| length >= HEADER) else {
            break;
        };
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = message.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
        let Some(link) = message.get(HEADER..HEADER + IFINFOMSG) else {
            continue;
        };
        let (Some(ifindex), Some(flags)) = (word(link, 4), word(link, 8)) else {
            continue;
        };
        let is_up = flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP;
        if kind == Some(RTM_DELLINK) || kind == Some(RTM_NEWLINK) && !is_up {
            failed.push(ifindex);
        }
    }
    failed
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let (word, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, ifindex: u32, flags: u32, attributes: usize) -> Vec<u8> {
        let length = (HEADER + IFINFOMSG + attributes) as u32;
        let mut message = Vec::new();
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([0; 4]);
        message.extend(ifindex.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 4]);
        message.resize(length as usize, 0);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn links_that_are_down_or_gone_have_failed() {
        const RTM_NEWNEIGH: u16 = 28;
        let messages = [
            message(RTM_NEWLINK, 1, IFF_UP | IFF_LOWER_UP, 7),
            message(RTM_NEWLINK, 2, IFF_UP, 40),
            message(RTM_NEWLINK, 3, IFF_LOWER_UP, 0),
            message(RTM_DELLINK, 4, IFF_UP | IFF_LOWER_UP, 3),
            message(RTM_NEWNEIGH, 5, 0, 0),
            message(RTM_NEWLINK, 6, 0, 1),
        ];
        assert_eq!(failed_in(&messages.concat()), [2, 3, 4, 6]);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            failed_in(&bytes);
        }
    }
}

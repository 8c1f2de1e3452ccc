//! Messages to the kernel that `ip` cannot write.

use anyhow::{Context as _, Result, ensure};
use netlink_packet_core::NLM_F_ACK;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::netns::Netns;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;

/// Sends one message, and fails if the kernel refuses it.
pub fn request(netns: &Netns, message: &[u8]) -> Result<()> {
    let mut message = message.to_vec();
    let flags = message.get_mut(6..8).context("shorter than struct nlmsghdr")?;
    let wanted = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
    flags.copy_from_slice(&wanted.to_ne_bytes());
    let answer = netns.within(|| {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
        Ok(socket.recv_from_full()?.0)
    })?;
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let error = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
    let error = error.map(i32::from_ne_bytes).context("no answer to a request")?;
    ensure!(kind == Some(NLMSG_ERROR), "an answer of type {kind:?}");
    ensure!(
        error == 0,
        "the kernel refuses the message: {}",
        std::io::Error::from_raw_os_error(-error)
    );
    Ok(())
}

/// Sends the same datagram of messages many times, and waits for no answer.
pub fn flood(netns: &Netns, messages: &[u8], times: usize) -> Result<()> {
    netns.within(|| {
        let socket = Socket::new(NETLINK_ROUTE)?;
        for _ in 0..times {
            let sent = socket.send_to(messages, &SocketAddr::new(0, 0), 0)?;
            ensure!(sent == messages.len(), "sent {sent} of {} bytes", messages.len());
        }
        Ok(())
    })
}

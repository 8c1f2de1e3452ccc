//! Sends IP packets of this box that are complete, header and all, as the kernel routes them (raw(7), ipv6(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

/// A raw socket of each family, which needs CAP_NET_RAW.
pub struct RawIp {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

impl RawIp {
    pub fn open() -> io::Result<Self> {
        let open = |family| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(family, SockType::Raw, flags, SockProtocol::Raw)
        };
        // A kernel without IPv6 has none to send.
        Ok(Self {
            v4: open(AddressFamily::Inet)?,
            v6: open(AddressFamily::Inet6).ok(),
        })
    }

    /// Sends `packet` to its destination address.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidInput);
        let flags = MsgFlags::MSG_DONTWAIT;
        match destination(packet).ok_or_else(malformed)? {
            IpAddr::V4(address) => sendto(
                self.v4.as_raw_fd(),
                packet,
                &SockaddrIn::from(SocketAddrV4::new(address, 0)),
                flags,
            )?,
            IpAddr::V6(address) => {
                let socket = self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                sendto(
                    socket.as_raw_fd(),
                    packet,
                    &SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0)),
                    flags,
                )?
            }
        };
        Ok(())
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

//! Sends complete IP packets of this machine, header included, as the kernel routes them (raw(7), ipv6(7)).

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrLike,
    sendmsg, socket,
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
        // A kernel without IPv6 has no IPv6 packets to send.
        Ok(Self {
            v4: open(AddressFamily::Inet)?,
            v6: open(AddressFamily::Inet6).ok(),
        })
    }

    /// Sends `packet` to its destination address, in the VRF with the index `vrf` if there is one.
    pub fn send(&self, packet: &[u8], vrf: Option<u32>) -> io::Result<()> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidInput);
        match destination(packet).ok_or_else(malformed)? {
            IpAddr::V4(address) => {
                let info = vrf.map(|vrf| libc::in_pktinfo {
                    ipi_ifindex: vrf as i32,
                    ipi_spec_dst: libc::in_addr { s_addr: 0 },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                });
                let info = info.as_ref().map(ControlMessage::Ipv4PacketInfo);
                let to = SockaddrIn::from(SocketAddrV4::new(address, 0));
                send(&self.v4, packet, info, &to)
            }
            IpAddr::V6(address) => {
                let socket = self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let info = vrf.map(|vrf| libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: [0; 16] },
                    ipi6_ifindex: vrf,
                });
                let info = info.as_ref().map(ControlMessage::Ipv6PacketInfo);
                let to = SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0));
                send(socket, packet, info, &to)
            }
        }
    }
}

/// `info` names the outgoing interface (IP_PKTINFO, IPV6_PKTINFO): for a VRF device, the kernel looks up the route in
/// its table.
fn send(socket: &OwnedFd, packet: &[u8], info: Option<ControlMessage<'_>>, to: &impl SockaddrLike) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    sendmsg(
        fd,
        &[IoSlice::new(packet)],
        info.as_slice(),
        MsgFlags::MSG_DONTWAIT,
        Some(to),
    )?;
    Ok(())
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

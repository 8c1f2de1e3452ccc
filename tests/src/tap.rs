//! A packet socket on one interface: sends exact frames, and receives what arrives there.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mplsxdp_common::wire::Mac;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Netns;

/// How long a frame that is expected may take: long for a frame, short for a person.
const PATIENCE: Duration = Duration::from_secs(5);
/// Room for what arrives while nobody reads.
const RECEIVE_BUFFER_BYTES: libc::c_int = 16 << 20;
const MAX_FRAME: usize = 65_536;

/// An interface whose frames are the test's.
pub struct Tap {
    socket: OwnedFd,
    mac: Mac,
    place: String,
}

impl Tap {
    /// Listens from now on.
    pub fn open(netns: &Netns, interface: &str) -> Result<Self> {
        let place = format!("{interface} of {}", netns.name());
        let socket =
            netns.within(|| open(interface).with_context(|| format!("cannot open a packet socket on {interface}")))?;
        Ok(Self {
            socket,
            mac: netns.mac(interface)?,
            place,
        })
    }

    /// The interface's MAC address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = nix::unistd::write(&self.socket, frame).with_context(|| format!("cannot send on {}", self.place))?;
        anyhow::ensure!(
            sent == frame.len(),
            "sent {sent} of {} bytes on {}",
            frame.len(),
            self.place
        );
        Ok(())
    }

    /// The next frame that arrives and is wanted; `what` it is, for the error where there is none. Others are passed over.
    pub fn receive(&self, what: &str, mut wanted: impl FnMut(&[u8]) -> bool) -> Result<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        while let Some(frame) = self.next_before(end)? {
            if wanted(&frame) {
                return Ok(frame);
            }
        }
        bail!("{what}: not seen on {} within {PATIENCE:?}", self.place)
    }

    /// Everything that has arrived, in order.
    pub fn drain(&self) -> Result<Vec<Vec<u8>>> {
        let now = Instant::now();
        std::iter::from_fn(|| self.next_before(now).transpose()).collect()
    }

    fn next_before(&self, end: Instant) -> Result<Option<Vec<u8>>> {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        let mut events = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut events, timeout)? == 0 {
            return Ok(None);
        }
        receive(&self.socket)
            .with_context(|| format!("cannot receive on {}", self.place))
            .map(Some)
    }
}

/// One frame, with the VLAN tag that the kernel has taken out of it put back (packet(7), PACKET_AUXDATA).
fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    const TAG_AT: usize = 12;
    let mut frame = vec![0_u8; MAX_FRAME];
    let mut control = [0_u64; 16];
    let mut part = libc::iovec {
        iov_base: frame.as_mut_ptr().cast(),
        iov_len: frame.len(),
    };
    // SAFETY: all zeros are a message without a name, parts and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points to buffers that live, with their lengths.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    frame.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
    // SAFETY: the kernel has filled the message in.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: a header within the control data; what follows it is checked by its kind.
        let next = unsafe {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
                let auxiliary: libc::tpacket_auxdata =
                    libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && frame.len() >= TAG_AT {
                    let tag = [
                        auxiliary.tp_vlan_tpid.to_be_bytes(),
                        auxiliary.tp_vlan_tci.to_be_bytes(),
                    ]
                    .concat();
                    frame.splice(TAG_AT..TAG_AT, tag);
                }
            }
            libc::CMSG_NXTHDR(&raw const message, header)
        };
        header = next;
    }
    Ok(frame)
}

/// On the interface of this name in the thread's namespace.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    // No protocol yet: nothing arrives before the socket is bound to its interface.
    // SAFETY: no memory is passed.
    let socket = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    };
    let socket = match socket {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: a socket that was just opened, and is owned by nobody else.
        socket => unsafe { OwnedFd::from_raw_fd(socket) },
    };
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)?;
    // What the namespace itself sends is not of interest.
    set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    let index = nix::net::if_::if_nametoindex(interface)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: every_protocol,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is valid for the length that is passed with it.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound == -1 {
        return Err(io::Error::last_os_error());
    }
    // So that frames for others arrive too; it ends with the socket.
    let promiscuous = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, promiscuous)?;
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is valid for the length that is passed with it.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

//! A packet socket on one interface: sends exact frames, and receives what arrives there.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mplsxdp_common::wire::Mac;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Netns;

/// How long a frame that is expected may take: long for a frame, in an emulated machine too.
const PATIENCE: Duration = Duration::from_secs(20);
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
        let mut frame = vec![0; MAX_FRAME];
        let length =
            nix::unistd::read(&self.socket, &mut frame).with_context(|| format!("cannot receive on {}", self.place))?;
        frame.truncate(length);
        Ok(Some(frame))
    }
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

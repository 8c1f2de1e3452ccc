//! The test's own end of a cable: a packet socket on an interface, or the file descriptor of a VM's NIC. It sends exact
//! frames, and receives the frames that arrive there.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mplsxdp_common::wire::Mac;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Netns;
use crate::wait;

/// How long to wait for an expected frame: enough for an emulated machine too.
const PATIENCE: Duration = Duration::from_secs(20);
/// Room for frames that arrive while the socket is not read.
const RECEIVE_BUFFER_BYTES: libc::c_int = 16 << 20;
const MAX_FRAME: usize = 65_536;

/// An interface whose frames belong to the test.
pub struct Tap {
    /// One, or one for each queue of a VM's NIC.
    queues: Vec<OwnedFd>,
    mac: Mac,
    /// Bytes in front of every frame (`struct virtio_net_hdr`), zero in sent frames.
    header_bytes: usize,
    place: String,
}

impl Tap {
    /// Listens from now on.
    pub fn open(netns: &Netns, interface: &str) -> Result<Self> {
        let place = format!("{interface} of {}", netns.name());
        let socket =
            netns.within(|| open(interface).with_context(|| format!("cannot open a packet socket on {interface}")))?;
        Ok(Self {
            queues: vec![socket],
            mac: netns.mac(interface)?,
            header_bytes: 0,
            place,
        })
    }

    /// A VM's NIC, by the fds of its queues.
    pub(crate) fn of_queues(queues: Vec<OwnedFd>, mac: Mac, header_bytes: usize, place: String) -> Self {
        Self {
            queues,
            mac,
            header_bytes,
            place,
        }
    }

    /// The interface's MAC address, or the NIC's.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.send_on(0, frame)
    }

    /// Sends on one of the NIC's queues.
    pub fn send_on(&self, queue: usize, frame: &[u8]) -> Result<()> {
        let queue = self.queues.get(queue).context("no such queue")?;
        let bytes = [&vec![0; self.header_bytes][..], frame].concat();
        let sent = nix::unistd::write(queue, &bytes).with_context(|| format!("cannot send on {}", self.place))?;
        anyhow::ensure!(
            sent == bytes.len(),
            "sent {sent} of {} bytes on {}",
            bytes.len(),
            self.place
        );
        Ok(())
    }

    /// The next frame that arrives and is wanted; others are skipped. `what` names it in the error if there is none.
    pub fn receive(&self, what: &str, mut wanted: impl FnMut(&[u8]) -> bool) -> Result<Vec<u8>> {
        let limit = wait::limit(PATIENCE);
        let end = Instant::now() + limit;
        while let Some(frame) = self.next_before(end)? {
            if wanted(&frame) {
                return Ok(frame);
            }
        }
        bail!("{what}: not seen on {} within {limit:?}", self.place)
    }

    /// Everything that has arrived, in order.
    pub fn drain(&self) -> Result<Vec<Vec<u8>>> {
        let now = Instant::now();
        std::iter::from_fn(|| self.next_before(now).transpose()).collect()
    }

    fn next_before(&self, end: Instant) -> Result<Option<Vec<u8>>> {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        let queues = self.queues.iter();
        let mut events: Vec<_> = queues
            .map(|queue| PollFd::new(queue.as_fd(), PollFlags::POLLIN))
            .collect();
        if poll(&mut events, timeout)? == 0 {
            return Ok(None);
        }
        let ready = events.iter().position(|event| event.any() == Some(true));
        let queue = ready
            .and_then(|ready| self.queues.get(ready))
            .context("no queue is ready")?;
        let mut frame = match receive(queue) {
            // Reported once, when the interface goes down.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return self.next_before(end),
            received => received.with_context(|| format!("cannot receive on {}", self.place))?,
        };
        anyhow::ensure!(
            frame.len() >= self.header_bytes,
            "{} gave {} bytes",
            self.place,
            frame.len()
        );
        Ok(Some(frame.split_off(self.header_bytes)))
    }
}

/// `struct tpacket_auxdata` of linux/if_packet.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Auxdata {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

/// A frame as it was on the wire: the kernel takes the outer VLAN tag out of it and reports it separately.
fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    /// Offset of the first tag.
    const ETHERTYPE: usize = 12;
    const CONTROL_BYTES: usize = 64;

    let mut frame = vec![0; MAX_FRAME];
    let mut control = [0u64; CONTROL_BYTES / size_of::<u64>()];
    let mut buffer = libc::iovec {
        iov_base: frame.as_mut_ptr().cast(),
        iov_len: frame.len(),
    };
    // SAFETY: all zeroes is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut buffer;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    // SAFETY: the message points to buffers that outlive the call, with their lengths.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOTSOCK) {
            return Err(error);
        }
        // A VM's NIC: frames are as the VM gets them.
        let length = nix::unistd::read(socket, &mut frame)?;
        frame.truncate(length);
        return Ok(frame);
    };
    frame.truncate(length);
    // Many may be kept.
    frame.shrink_to_fit();
    // SAFETY: the kernel has filled in the control buffer up to `msg_controllen`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let Some(header) =
        header.filter(|header| (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA))
    else {
        return Ok(frame);
    };
    // SAFETY: a control message of this type holds this structure, at any alignment.
    let auxdata: Auxdata = unsafe { libc::CMSG_DATA(header).cast::<Auxdata>().read_unaligned() };
    if auxdata.status & libc::TP_STATUS_VLAN_VALID != 0 {
        let (tpid, tci) = (auxdata.vlan_tpid.to_be_bytes(), auxdata.vlan_tci.to_be_bytes());
        frame.splice(ETHERTYPE..ETHERTYPE, tpid.into_iter().chain(tci));
    }
    Ok(frame)
}

/// Opens a socket on the interface of this name in the thread's namespace.
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
        // SAFETY: a socket that was just opened and has no other owner.
        socket => unsafe { OwnedFd::from_raw_fd(socket) },
    };
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)?;
    // Frames that the namespace itself sends are not of interest.
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
    // Frames for other stations arrive too, until the socket is closed.
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

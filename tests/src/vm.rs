//! The NIC of a simulated VM: the test holds what QEMU would hold, the file descriptors of a tap or a macvtap.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp_common::wire::Mac;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::netns::Netns;
use crate::tap::Tap;
use crate::wait;

/// The VM's own MAC address.
pub const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x77]);
const PATIENCE: Duration = Duration::from_secs(5);
/// `struct virtio_net_hdr`, unless another size is set.
const VNET_HEADER_BYTES: usize = 10;

/// How a VM's NIC opens its tap.
#[derive(Clone, Copy)]
pub struct Nic {
    pub queues: u16,
    /// Every frame has a `struct virtio_net_hdr` in front.
    pub vnet_header: bool,
    /// Writes do not wait (O_NONBLOCK), like QEMU's. The kernel runs XDP on their frames before it turns them into
    /// skbs; for other writes, afterwards.
    pub nonblocking: bool,
}

impl Nic {
    /// Creates the tap that [`Nic::plug`] takes, as a hypervisor does before it starts the VM, and sets it up.
    pub fn make_tap(self, netns: &Netns, interface: &str) -> Result<()> {
        let header = if self.vnet_header { "vnet_hdr" } else { "" };
        let queues = if self.queues > 1 { "multi_queue" } else { "" };
        netns.ip(&format!("tuntap add dev {interface} mode tap {header} {queues}"))?;
        netns.ip(&format!("link set dev {interface} up")).map(drop)
    }

    /// The VM starts. It ends when this is dropped; the tap stays.
    pub fn plug(self, netns: &Netns, interface: &str) -> Result<Tap> {
        let open = || (0..self.queues).map(|_| self.attach(interface)).collect::<Result<_>>();
        let header_bytes = if self.vnet_header { VNET_HEADER_BYTES } else { 0 };
        let place = format!("the VM on {interface} of {}", netns.name());
        Ok(Tap::of_queues(netns.within(open)?, MAC, header_bytes, place))
    }

    /// One more queue on the tap of this name in the thread's namespace.
    fn attach(self, interface: &str) -> Result<OwnedFd> {
        let nonblocking = if self.nonblocking { libc::O_NONBLOCK } else { 0 };
        let tun = open("/dev/net/tun", nonblocking)?;
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
        if self.vnet_header {
            flags |= libc::IFF_VNET_HDR;
        }
        if self.queues > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_flags: flags as libc::c_short,
            },
        };
        ensure!(interface.len() < libc::IFNAMSIZ, "{interface} is too long a name");
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed() as libc::c_char;
        }
        // A process that another thread has just started may still have the previous VM's file descriptors, until it
        // executes its program.
        wait::until(&format!("the tap {interface} to be free"), PATIENCE, || {
            // SAFETY: the request outlives the call, which only reads and writes it.
            let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
            let error = std::io::Error::last_os_error();
            match done {
                0 => Ok(Some(())),
                _ if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
                _ => Err(error).with_context(|| format!("cannot attach to the tap {interface}")),
            }
        })?;
        Ok(tun.into())
    }
}

/// The VM behind a macvtap, which has the macvtap's MAC address.
pub fn plug_macvtap(netns: &Netns, interface: &str) -> Result<Tap> {
    let directory = format!("/sys/class/net/{interface}");
    let index = netns.run(&format!("cat {directory}/ifindex"))?;
    let numbers = netns.run(&format!("cat {directory}/tap{}/dev", index.trim()))?;
    let (major, minor) = numbers.trim().split_once(':').context("a device number")?;
    let device = makedev(major.parse()?, minor.parse()?);
    // The kernel's own name for it contains the ifindex, which interfaces in other namespaces may have as well.
    let path = PathBuf::from(format!("/dev/{}-{interface}", netns.name()));
    mknod(&path, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, device)?;
    let opened = open(&path.to_string_lossy(), libc::O_NONBLOCK);
    fs::remove_file(&path)?;
    let place = format!("the VM on {interface} of {}", netns.name());
    let queues = vec![opened?.into()];
    Ok(Tap::of_queues(queues, netns.mac(interface)?, VNET_HEADER_BYTES, place))
}

fn open(path: &str, flags: libc::c_int) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .with_context(|| format!("cannot open {path}"))
}

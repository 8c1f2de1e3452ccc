//! What the kernel reports about an interface and this process, gathered from netlink, ethtool, sysfs and /proc.

use std::io;
use std::sync::Arc;

use super::error::PreflightError;
use super::far_end::{FarEnd, Sending};
use crate::dataplane::bpf;
use crate::kernel::Netlink;
use crate::kernel::ethtool::{self, VlanOffloads};
use crate::kernel::netdev::{self, XdpFeatures};
use crate::neighbour::LinkInfo;

/// What the kernel reports about an interface and this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The name that was asked for.
    pub name: Box<str>,
    /// `None` if there is no such interface.
    pub link: Option<LinkInfo>,
    /// The name of the XDP program on it, if it has one.
    pub program_name: Option<String>,
    /// The other end of a veth, or the interface beneath a macvlan or VLAN, if it is in this network namespace.
    pub peer: Option<LinkInfo>,
    /// The other end of a veth. If it is in another network namespace, only when it is needed.
    pub far_end: Option<FarEnd>,
    /// The bridge, bond or VRF that it is a member of.
    pub master: Option<LinkInfo>,
    /// The names of its own members.
    pub members: Vec<Arc<str>>,
    /// The names of those interfaces beneath it that merge the packets of a flow (GRO) before it gets them.
    pub merging: Vec<Arc<str>>,
    /// The names of all interfaces, if none has the name asked for.
    pub available: Vec<Arc<str>>,
    /// `None` if the kernel does not say (before Linux 6.3).
    pub features: Option<XdpFeatures>,
    /// Whether the other end of a veth lets it take redirected frames, if `features` do not say that. `None`: unknown.
    pub far_end_takes_redirects: Option<bool>,
    /// `None` if the kernel does not say.
    pub driver: Option<String>,
    /// A virtio NIC whose host may leave checksums unfinished.
    pub guest_checksum: bool,
    /// What happens to VLAN tags on receive; `None` if the kernel does not say.
    pub vlan: Option<VlanOffloads>,
    /// How the other end of a veth sends, after [`Facts::look_at_peer`].
    pub peer_sends: Option<Sending>,
    pub capabilities: Capabilities,
    pub page_size_bytes: u32,
}

/// The capabilities of this thread: CapEff of /proc/thread-self/status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities(pub u64);

impl Capabilities {
    pub const ALL: Self = Self(!0);
    const CAP_NET_ADMIN: Self = Self(1 << 12);
    const CAP_NET_RAW: Self = Self(1 << 13);
    /// For the bpffs and network namespaces; on kernels that know CAP_BPF it includes that.
    const CAP_SYS_ADMIN: Self = Self(1 << 21);

    /// The names of the needed capabilities that are missing.
    pub fn missing(self) -> Vec<&'static str> {
        let needed = [
            (Self::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
            (Self::CAP_NET_RAW, "CAP_NET_RAW"),
            (Self::CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        ];
        let missing = needed.into_iter().filter(|(capability, _)| self.0 & capability.0 == 0);
        missing.map(|(_, name)| name).collect()
    }
}

/// Asks the kernel about the interface `name`.
pub async fn gather(name: &str, netlink: &Netlink) -> Result<Facts, PreflightError> {
    let link = netlink.link(name).await?;
    let links = netlink.links().await?;
    let tied = link.as_ref().and_then(|link| link.peer);
    let peer = link
        .as_ref()
        .and_then(|link| link.peer)
        .filter(|peer| peer.netns.is_none());
    let peer = peer.and_then(|peer| links.iter().find(|link| link.ifindex == peer.ifindex).cloned());
    let master = link.as_ref().and_then(|link| link.master.as_ref());
    let master = master.and_then(|master| links.iter().find(|link| link.ifindex == master.ifindex).cloned());
    let members = match &link {
        Some(link) => members_of(link.ifindex, &links),
        None => Vec::new(),
    };
    let available = match link {
        Some(_) => Vec::new(),
        None => links.into_iter().map(|link| link.name).collect(),
    };
    let features = match &link {
        Some(link) => netdev::xdp_features(link.ifindex).map_err(|source| PreflightError::Unknown {
            what: "cannot ask the kernel what the driver can do with XDP (netdev netlink family)",
            source,
        })?,
        None => None,
    };
    let is_veth = link.as_ref().and_then(|link| link.kind.as_deref()) == Some("veth");
    let may_lose = features.is_none_or(|features| !features.contains(XdpFeatures::NDO_XMIT));
    let far_end = match (&peer, tied) {
        (Some(peer), _) => Some(FarEnd {
            name: peer.name.clone(),
            netns: None,
        }),
        (None, Some(tied)) if is_veth && may_lose => FarEnd::find(tied, netlink).await,
        _ => None,
    };
    let far_end = far_end.filter(|_| is_veth);
    let far_end_takes_redirects = match (&far_end, tied) {
        (Some(far_end), Some(tied)) if features.is_none() => far_end.takes_redirects(tied, netlink).await,
        _ => None,
    };
    let beneath = match link.as_ref().and_then(|link| link.kind.as_deref()) {
        Some("bridge" | "bond" | "team") => members.clone(),
        Some("macvlan" | "macvtap" | "ipvlan" | "ipvtap") => peer.iter().map(|peer| peer.name.clone()).collect(),
        _ => Vec::new(),
    };
    let merges = |name: &Arc<str>| ethtool::merges(name).unwrap_or(false);
    let program = link.as_ref().and_then(|link| link.xdp).map(|xdp| xdp.program);
    let program_name = program.and_then(|id| bpf::program_name(id).ok());
    Ok(Facts {
        name: name.into(),
        program_name: program_name.filter(|name| !name.is_empty()),
        merging: beneath.into_iter().filter(merges).collect(),
        driver: link.as_ref().and_then(driver),
        guest_checksum: link.as_ref().is_some_and(guest_checksum),
        vlan: link.as_ref().and_then(|link| ethtool::vlan_offloads(&link.name).ok()),
        peer_sends: None,
        link,
        peer,
        far_end,
        master,
        members,
        available,
        features,
        far_end_takes_redirects,
        capabilities: capabilities()?,
        page_size_bytes: page_size_bytes(),
    })
}

impl Facts {
    /// Looks at how the other end of a veth sends. What cannot be seen stays unknown.
    pub async fn look_at_peer(&mut self, netlink: &Netlink) {
        if self.far_end.is_none()
            && self.is_veth()
            && let Some(peer) = self.link.as_ref().and_then(|link| link.peer)
        {
            self.far_end = FarEnd::find(peer, netlink).await;
        }
        if let Some(far_end) = &self.far_end {
            self.peer_sends = far_end.sending().await.ok();
        }
    }
}

/// The names of an interface's members.
fn members_of(ifindex: u32, links: &[LinkInfo]) -> Vec<Arc<str>> {
    let is_member = |link: &&LinkInfo| link.master.as_ref().is_some_and(|master| master.ifindex == ifindex);
    links.iter().filter(is_member).map(|link| link.name.clone()).collect()
}

/// The driver of a device on a bus, or the kind of a virtual interface. /sys/bus is the same in all network namespaces.
fn driver(link: &LinkInfo) -> Option<String> {
    if let Some(parent) = &link.parent {
        let driver = std::fs::read_link(format!("/sys/bus/{}/devices/{}/driver", parent.bus, parent.device)).ok()?;
        return Some(driver.file_name()?.to_str()?.to_owned());
    }
    link.kind.clone()
}

/// Whether a virtio NIC has negotiated that its host may leave checksums unfinished (VIRTIO_NET_F_GUEST_CSUM).
fn guest_checksum(link: &LinkInfo) -> bool {
    const GUEST_CSUM: usize = 1;
    let Some(parent) = link.parent.as_ref().filter(|parent| &*parent.bus == "virtio") else {
        return false;
    };
    // One digit for each feature, the first one first. If the file cannot be read, assume yes: looking for them does no
    // harm.
    let features = std::fs::read_to_string(format!("/sys/bus/virtio/devices/{}/features", parent.device));
    features.map_or(true, |features| features.as_bytes().get(GUEST_CSUM) == Some(&b'1'))
}

pub(super) fn capabilities() -> Result<Capabilities, PreflightError> {
    let status = std::fs::read_to_string("/proc/thread-self/status");
    let effective = status.and_then(|status| {
        let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let number = digits.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
        number.ok_or_else(|| io::ErrorKind::InvalidData.into())
    });
    effective.map(Capabilities).map_err(|source| PreflightError::Unknown {
        what: "cannot read this process's capabilities from /proc",
        source,
    })
}

fn page_size_bytes() -> u32 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| size.try_into().ok()).unwrap_or(4096)
}

/// The names of the capabilities that this process lacks.
pub fn missing_capabilities() -> Result<Vec<&'static str>, PreflightError> {
    Ok(capabilities()?.missing())
}

/// Checks that this process has the capabilities that a switch needs.
pub fn check_capabilities() -> Result<(), PreflightError> {
    let missing = missing_capabilities()?;
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::MissingCapabilities { missing })
    }
}

//! Whether an interface can become a port, before and after the program is attached. Every refusal is one message with its
//! cause and the command that mends it.

use std::io;
use std::sync::Arc;

use mplsxdp_common::abi;
use mplsxdp_common::wire::Mac;

use crate::control::api::Checksum;
use crate::dataplane::XdpMode;
use crate::dataplane::bpf;
use crate::kernel::ethtool::{self, TagKinds, VlanOffloads};
use crate::kernel::netlink::{self, Netlink};
use crate::neighbour::{AttachMode, LinkInfo, XdpAttachment};

#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod kernel;
mod netns;

pub use kernel::FeatureChanges;
use netns::{FarEnd, Sending};

/// Drivers keep frames of at most this MTU in one buffer.
pub const ONE_BUFFER_MTU: u32 = 1500;

/// What the kernel says of an interface, and of this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The name that was asked for.
    pub name: Box<str>,
    /// `None` where there is no such interface.
    pub link: Option<LinkInfo>,
    /// The name of the XDP program on it, if it has one.
    pub program_name: Option<String>,
    /// The other end of a veth, or what a macvlan or VLAN stands on, where it is in this network namespace.
    pub peer: Option<LinkInfo>,
    /// The other end of a veth; where it is in another network namespace, only while it must be known.
    pub far_end: Option<FarEnd>,
    /// The bridge, bond or VRF that it is a member of.
    pub master: Option<LinkInfo>,
    /// The names of its own members.
    pub members: Vec<Arc<str>>,
    /// The names of those interfaces beneath it that merge the packets of a flow (GRO) before it gets them.
    pub merging: Vec<Arc<str>>,
    /// The names of all interfaces, where there is none of the name asked for.
    pub available: Vec<Arc<str>>,
    /// `None` where the kernel does not tell (before Linux 6.3).
    pub features: Option<XdpFeatures>,
    /// `None` where the kernel does not tell.
    pub driver: Option<String>,
    /// A virtio NIC whose host may leave checksums unfinished.
    pub guest_checksum: bool,
    /// What becomes of VLAN tags on the way in; `None` where the kernel does not tell.
    pub vlan: Option<VlanOffloads>,
    /// How the other end of a veth sends, once [`Facts::look_at_peer`] has seen it.
    pub peer_sends: Option<Sending>,
    pub capabilities: Capabilities,
    pub page_size_bytes: u32,
}

/// What the driver can do with XDP (NETDEV_XDP_ACT_*, the flags of the netdev netlink family).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Runs programs, with the verdicts ABORTED, DROP, PASS and TX.
    pub const BASIC: Self = Self(1 << 0);
    /// The verdict REDIRECT.
    pub const REDIRECT: Self = Self(1 << 1);
    /// Transmits frames that were redirected to it.
    pub const NDO_XMIT: Self = Self(1 << 2);
    /// Among them those that lie in several buffers (NETDEV_XDP_ACT_NDO_XMIT_SG).
    pub const NDO_XMIT_SG: Self = Self(1 << 6);

    pub fn contains(self, feature: Self) -> bool {
        self.0 & feature.0 == feature.0
    }
}

/// The capabilities of this thread: CapEff of /proc/thread-self/status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities(pub u64);

impl Capabilities {
    const CAP_NET_ADMIN: Self = Self(1 << 12);
    const CAP_NET_RAW: Self = Self(1 << 13);
    /// For the bpffs and network namespaces; on kernels that know CAP_BPF it includes that.
    const CAP_SYS_ADMIN: Self = Self(1 << 21);

    /// The names of those that are needed and not there.
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

/// Why an interface cannot become a port.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(
        "this process lacks {}: run it as root, or `setcap {}+ep` a copy of its file that root owns and only those may run who may \
         administer this machine (`chown root:GROUP FILE && chmod 750 FILE` before `setcap`): whoever runs it has these \
         capabilities",
        .missing.join(", "), .missing.join(",").to_lowercase()
    )]
    MissingCapabilities { missing: Vec<&'static str> },
    #[error("there is no interface {name} in this network namespace; there are: {}", .available.join(", "))]
    NoSuchInterface { name: Box<str>, available: Vec<Arc<str>> },
    #[error("{name} is a loopback interface: no labelled frame ever arrives on it; `dev lo` in a route needs no port")]
    Loopback { name: Box<str> },
    #[error(
        "{name}{} is not an Ethernet interface: it has no MAC address, and MPLS frames need one: take one that has, as a tap \
         in place of a tun, or a vxlan over what has none", in_parentheses(.kind.as_deref())
    )]
    NotEthernet { name: Box<str>, kind: Option<String> },
    #[error(
        "{name}: its MAC address ({mac}) is not one that an interface can have in frames: `ip link set dev {name} address MAC` \
         sets another"
    )]
    BadMac { name: Box<str>, mac: Mac },
    #[error(
        "{name} is a dummy interface: what is sent to it is thrown away, and nothing ever arrives: take an interface with a \
         link behind it; `dev lo` in a route ends an LSP in this box"
    )]
    Dummy { name: Box<str> },
    #[error("{}", bond_member(.name, .master))]
    BondMember { name: Box<str>, master: Arc<str> },
    #[error(
        "{name} is a bond: in native mode its members would run the program, and their frames reach no AF_XDP socket of \
         {name}: use `--mode generic`, which works on {name} itself, or take the members out of it"
    )]
    Bond { name: Box<str> },
    #[error("{}", bridge(.name, .members))]
    Bridge { name: Box<str>, members: Vec<Arc<str>> },
    #[error("{}", vrf(.name, .members))]
    Vrf { name: Box<str>, members: Vec<Arc<str>> },
    #[error("{}", upper(.name, .kind, .lower.as_deref()))]
    Upper {
        name: Box<str>,
        kind: String,
        /// What it stands on, if that is in this namespace.
        lower: Option<Arc<str>>,
    },
    #[error(
        "{name} has another XDP program already: id {}{}, {}: take it off by `ip link set dev {name} {} off`, or, if a bpf_link \
         holds it there (`bpftool link show`), end its owner or `bpftool link detach id ID`",
        .attached.program, in_parentheses(.program.as_deref()), describe(.attached.mode), off_keyword(.attached.mode)
    )]
    OtherProgram {
        name: Box<str>,
        attached: XdpAttachment,
        /// Its name, if it has one.
        program: Option<String>,
    },
    #[error(
        "{name} is a port of the instance `{instance}`, which is running: give it up there with `mplsxdp --instance {instance} \
         link delete {name}`, or end that instance with `mplsxdp --instance {instance} unload`"
    )]
    OtherInstance { name: Box<str>, instance: String },
    #[error("{}", no_native(.name, .driver.as_deref()))]
    NoNativeXdp { name: Box<str>, driver: Option<String> },
    #[error(
        "{name}: virtio_net has no native XDP while the VM's host merges packets and leaves checksums unfinished, and this host \
         cannot be told not to: give the VM a NIC without (qemu: \
         `guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off`), or use `--mode generic`, which is slower"
    )]
    VirtioOffloads { name: Box<str> },
    #[error("{}", veth_queues(.name, .peer.as_deref()))]
    VethQueues { name: Box<str>, peer: Option<Arc<str>> },
    #[error(
        "{name}: its driver{} does not transmit frames that XDP redirects to it, so that no label could be switched out of \
         it: use `--mode generic`", in_parentheses(.driver.as_deref())
    )]
    NoRedirectTarget { name: Box<str>, driver: Option<String> },
    #[error("{}", mtu_too_large(.name, .mtu, .limit, .peer))]
    MtuTooLarge {
        name: Box<str>,
        mtu: Option<u32>,
        limit: u32,
        /// The MTU that is too large is that of the other end of the veth; its name, if it is in this namespace.
        peer: Option<Option<Arc<str>>>,
    },
    #[error(
        "{name}: its driver{} takes VLAN tags out of frames before XDP sees them: `ethtool -K {name} {}`",
        in_parentheses(.driver.as_deref()), off(.tags, ["rxvlan", "rx-vlan-stag-hw-parse"])
    )]
    TagsHidden {
        name: Box<str>,
        driver: Option<String>,
        tags: TagKinds,
    },
    #[error(
        "{name} is a {kind}, and the kernel takes VLAN tags out of frames before XDP sees them there: no VLAN on it can be a port; \
         one on what is beneath it can, in native mode"
    )]
    TagsHiddenBeneath { name: Box<str>, kind: String },
    #[error("the XDP program cannot be attached to {name}: {source}")]
    Attach { name: Box<str>, source: io::Error },
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error("{what}: {source}")]
    Unknown { what: &'static str, source: io::Error },
}

/// That this process may do what a switch does.
pub fn check_capabilities() -> Result<(), PreflightError> {
    let capabilities = kernel::capabilities().map_err(|source| PreflightError::Unknown {
        what: "cannot read this process's capabilities from /proc",
        source,
    })?;
    let missing = capabilities.missing();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::MissingCapabilities { missing })
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
        Some(link) => kernel::xdp_features(link.ifindex).map_err(|source| PreflightError::Unknown {
            what: "cannot ask the kernel what the driver can do with XDP (netdev netlink family)",
            source,
        })?,
        None => None,
    };
    let is_veth = link.as_ref().and_then(|link| link.kind.as_deref()) == Some("veth");
    let loses = features.is_some_and(|features| !features.contains(XdpFeatures::NDO_XMIT));
    let far_end = match (&peer, tied) {
        (Some(peer), _) => Some(FarEnd {
            name: peer.name.clone(),
            netns: None,
        }),
        (None, Some(tied)) if is_veth && loses => FarEnd::find(tied, netlink).await,
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
        driver: link.as_ref().and_then(kernel::driver),
        guest_checksum: link.as_ref().is_some_and(kernel::guest_checksum),
        vlan: link.as_ref().and_then(|link| ethtool::vlan_offloads(&link.name).ok()),
        peer_sends: None,
        link,
        peer,
        far_end: far_end.filter(|_| is_veth),
        master,
        members,
        available,
        features,
        capabilities: kernel::capabilities().map_err(|source| PreflightError::Unknown {
            what: "cannot read this process's capabilities from /proc",
            source,
        })?,
        page_size_bytes: kernel::page_size_bytes(),
    })
}

/// Before the program is attached. What is doubtful but may yet turn out well comes back as notes.
pub fn check(facts: &Facts, mode: XdpMode) -> Result<Vec<String>, PreflightError> {
    let name = || facts.name.clone();
    let missing = facts.capabilities.missing();
    if !missing.is_empty() {
        return Err(PreflightError::MissingCapabilities { missing });
    }
    let Some(link) = &facts.link else {
        let available = facts.available.clone();
        return Err(PreflightError::NoSuchInterface {
            name: name(),
            available,
        });
    };
    if link.loopback {
        return Err(PreflightError::Loopback { name: name() });
    }
    match link.mac {
        None => {
            return Err(PreflightError::NotEthernet {
                name: name(),
                kind: link.kind.clone(),
            });
        }
        Some(mac) if !mac.is_unicast() => return Err(PreflightError::BadMac { name: name(), mac }),
        Some(_) => {}
    }
    check_kind(facts, link, mode)?;
    if let Some(other) = facts.other_program() {
        return Err(other);
    }
    let mut notes = Vec::from_iter(is_down(link));
    if link.up && !link.running {
        notes.push(format!(
            "{} has no carrier: nothing goes in or out until it has",
            facts.name
        ));
    }
    notes.extend(facts.foreign_bridge_mac());
    notes.extend(facts.merged_beneath(mode));
    // A kernel that tells no features, as all before 6.3, loses frames in several buffers where they are redirected.
    if facts.receives_fragments(mode) && facts.features.is_none() && facts.exceeds_one_buffer() {
        return Err(facts.mtu_too_large());
    }
    if let (XdpMode::Native, Some(features)) = (mode, facts.features) {
        if !features.contains(XdpFeatures::BASIC) || !features.contains(XdpFeatures::REDIRECT) {
            return Err(if facts.is_veth() {
                PreflightError::VethQueues {
                    name: name(),
                    peer: facts.peer_name(),
                }
            } else {
                PreflightError::NoNativeXdp {
                    name: name(),
                    driver: facts.driver.clone(),
                }
            });
        }
        if !features.contains(XdpFeatures::NDO_XMIT) {
            notes.push(match facts.is_veth() {
                true => facts.veth_needs_napi(),
                false => format!(
                    "{}: its driver does not transmit redirected frames now; many do once a program is attached",
                    facts.name
                ),
            });
        }
    }
    Ok(notes)
}

/// What there is to say about an interface that is down.
pub fn is_down(link: &LinkInfo) -> Option<String> {
    let name = &link.name;
    (!link.up).then(|| format!("{name} is down: nothing goes in or out until `ip link set dev {name} up`"))
}

/// That frames have their VLAN tags when the program sees them.
pub fn check_tags(facts: &Facts) -> Result<Vec<String>, PreflightError> {
    let kind = facts.link.as_ref().and_then(|link| link.kind.as_deref());
    if let Some(kind @ ("bridge" | "bond" | "team" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap")) = kind {
        // They get their frames from another interface's receive path, which begins with that.
        return Err(PreflightError::TagsHiddenBeneath {
            name: facts.name.clone(),
            kind: kind.to_owned(),
        });
    }
    if facts.is_veth() {
        // A veth says that it takes tags out, and leaves frames as its peer sent them. What the kernel tags there has its tag
        // beside it, if the peer says that it puts tags in.
        let note = facts.peer_puts_tags_beside().map(|(peer, command)| {
            format!(
                "{}: XDP does not see the tags of VLAN devices on its veth peer {peer}: `{command}`",
                facts.name
            )
        });
        return Ok(note.into_iter().collect());
    }
    match facts.vlan {
        Some(VlanOffloads { receive, .. }) if receive.any() => Err(PreflightError::TagsHidden {
            name: facts.name.clone(),
            driver: facts.driver.clone(),
            tags: receive,
        }),
        _ => Ok(Vec::new()),
    }
}

/// As ethtool switches it off, by its names for the two kinds of tags.
fn off(tags: &TagKinds, [customer, service]: [&str; 2]) -> String {
    let on = [(customer, tags.customer), (service, tags.service)];
    let off = on.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name} off"));
    off.collect::<Vec<_>>().join(" ")
}

/// That an interface is the one to take, of those that the same frames go through.
fn check_kind(facts: &Facts, link: &LinkInfo, mode: XdpMode) -> Result<(), PreflightError> {
    let name = || facts.name.clone();
    if let Some(member) = &link.master
        && matches!(member.kind.as_deref(), Some("bond" | "team"))
    {
        let master = facts.master.as_ref().map(|master| master.name.clone());
        return Err(PreflightError::BondMember {
            name: name(),
            master: master.unwrap_or_else(|| "the bond".into()),
        });
    }
    match (link.kind.as_deref(), mode) {
        (Some("dummy"), _) => Err(PreflightError::Dummy { name: name() }),
        (Some("bridge"), XdpMode::Native) => Err(PreflightError::Bridge {
            name: name(),
            members: facts.members.clone(),
        }),
        (Some("vrf"), _) => Err(PreflightError::Vrf {
            name: name(),
            members: facts.members.clone(),
        }),
        (Some("bond"), XdpMode::Native) => Err(PreflightError::Bond { name: name() }),
        (Some(kind @ ("macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "vlan")), XdpMode::Native) => {
            Err(PreflightError::Upper {
                name: name(),
                kind: kind.to_owned(),
                lower: facts.peer_name(),
            })
        }
        _ => Ok(()),
    }
}

/// After the program is attached, with facts gathered anew.
pub fn check_attached(facts: &Facts, mode: XdpMode) -> Result<Vec<String>, PreflightError> {
    let mut notes = Vec::from_iter(facts.link.as_ref().and_then(is_down));
    notes.extend(facts.foreign_bridge_mac());
    notes.extend(facts.merged_beneath(mode));
    // In generic mode the kernel's ordinary transmit path sends what is redirected.
    if let (XdpMode::Native, Some(features)) = (mode, facts.features)
        && !features.contains(XdpFeatures::NDO_XMIT)
    {
        if !facts.is_veth() {
            return Err(PreflightError::NoRedirectTarget {
                name: facts.name.clone(),
                driver: facts.driver.clone(),
            });
        }
        notes.push(facts.veth_needs_napi());
        return Ok(notes);
    }
    if facts.link.as_ref().is_some_and(|link| link.mtu > ONE_BUFFER_MTU) && !facts.sends_fragments(mode) {
        notes.push(delays_fragments(&facts.name));
    }
    Ok(notes)
}

/// What an attempt to attach says, from the facts gathered before it.
pub fn attach_error(facts: &Facts, mode: XdpMode, source: io::Error) -> PreflightError {
    let name = facts.name.clone();
    match (source.raw_os_error(), mode) {
        (Some(libc::ERANGE), XdpMode::Native) => facts.mtu_too_large(),
        (Some(libc::EINVAL | libc::E2BIG), XdpMode::Native) if facts.exceeds_one_buffer() => facts.mtu_too_large(),
        (Some(libc::ENOSPC), XdpMode::Native) if facts.is_veth() => PreflightError::VethQueues {
            name,
            peer: facts.peer_name(),
        },
        // A host that has VIRTIO_NET_F_CTRL_GUEST_OFFLOADS is told by the driver itself.
        (Some(libc::EOPNOTSUPP), XdpMode::Native) if facts.driver.as_deref() == Some("virtio_net") => {
            PreflightError::VirtioOffloads { name }
        }
        (Some(libc::EOPNOTSUPP | ENOTSUPP), XdpMode::Native) => PreflightError::NoNativeXdp {
            name,
            driver: facts.driver.clone(),
        },
        _ => PreflightError::Attach { name, source },
    }
}

/// The kernel's own ENOTSUPP, which some drivers let out; it is no errno of libc's.
const ENOTSUPP: i32 = 524;

impl Facts {
    /// The program that the interface has.
    pub fn other_program(&self) -> Option<PreflightError> {
        Some(PreflightError::OtherProgram {
            name: self.name.clone(),
            attached: self.link.as_ref()?.xdp?,
            program: self.program_name.clone(),
        })
    }

    /// The MTU of what can arrive, as far as it is known: on a veth, the peer's.
    fn arriving_mtu(&self) -> Option<u32> {
        let sender = if self.is_veth() { &self.peer } else { &self.link };
        sender.as_ref().map(|link| link.mtu)
    }

    /// Whether frames that arrive may not fit one buffer.
    fn exceeds_one_buffer(&self) -> bool {
        self.arriving_mtu().is_some_and(|mtu| mtu > self.mtu_limit())
    }

    fn mtu_too_large(&self) -> PreflightError {
        PreflightError::MtuTooLarge {
            name: self.name.clone(),
            mtu: self.arriving_mtu(),
            limit: self.mtu_limit(),
            peer: self.is_veth().then(|| self.peer_name()),
        }
    }

    pub fn is_veth(&self) -> bool {
        self.link.as_ref().and_then(|link| link.kind.as_deref()) == Some("veth")
    }

    /// What to do about unfinished checksums if nothing else is said: whether those who send to the interface leave them to it.
    /// In generic mode the kernel may have got frames from any such sender, but from a wire.
    pub fn default_checksum(&self, mode: XdpMode) -> Checksum {
        let unfinished = match (self.driver.as_deref(), mode) {
            (Some("virtio_net"), _) => self.guest_checksum,
            (Some("veth" | "tun"), _) => true,
            (_, XdpMode::Native) => false,
            (_, XdpMode::Generic) => self.link.as_ref().is_some_and(|link| link.kind.is_some()),
        };
        if unfinished { Checksum::Finish } else { Checksum::Trust }
    }

    /// What a program does about unfinished checksums. Frames that the kernel has made packets of already, as in generic mode and
    /// often at a tap, are the slow path's.
    pub fn checksum(&self, wanted: Option<Checksum>, mode: XdpMode) -> abi::Checksum {
        match wanted.unwrap_or_else(|| self.default_checksum(mode)) {
            Checksum::Trust => abi::Checksum::Trust,
            Checksum::Finish if mode == XdpMode::Generic || self.driver.as_deref() == Some("tun") => {
                abi::Checksum::Punt
            }
            Checksum::Finish => abi::Checksum::Finish,
        }
    }

    /// Whether frames may arrive that are longer than the MTU says: what was merged beneath, in generic mode, and what comes
    /// from the other side of a driver that does not compare.
    pub fn exceeds_mtu(&self, mode: XdpMode) -> bool {
        mode == XdpMode::Generic || matches!(self.driver.as_deref(), Some("tun" | "virtio_net"))
    }

    /// Whether a frame that lies in several buffers leaves by the interface, once the program is attached: the kernel loses those
    /// that cannot without a word. In generic mode, and wherever the program has run on an skb, what is redirected is an skb too,
    /// which every driver takes. A kernel that tells no features redirects no such frames at all.
    pub fn sends_fragments(&self, mode: XdpMode) -> bool {
        let told = self
            .features
            .is_some_and(|features| features.contains(XdpFeatures::NDO_XMIT_SG));
        mode == XdpMode::Generic || told
    }

    /// Whether frames that lie in several buffers are handed to the program by the driver itself. A tap leaves those to generic XDP.
    pub fn receives_fragments(&self, mode: XdpMode) -> bool {
        mode == XdpMode::Native && self.driver.as_deref() != Some("tun")
    }

    /// In generic mode the program runs once per interface, on what those beneath have made of the frames. (On the interface
    /// itself the kernel leaves merging while it has the program.)
    fn merged_beneath(&self, mode: XdpMode) -> Option<String> {
        if mode == XdpMode::Native {
            return None;
        }
        let kind = self.link.as_ref()?.kind.as_deref();
        let (place, mend) = match (self.merging.as_slice(), kind) {
            ([], Some("vxlan" | "geneve" | "gretap" | "ip6gretap")) => (
                "the interface that its packets arrive at".to_owned(),
                "`ethtool -K IFACE gro off` there".to_owned(),
            ),
            ([], _) => return None,
            (names, _) => {
                let commands: Vec<_> = names.iter().map(|name| format!("ethtool -K {name} gro off")).collect();
                (names.join(", "), format!("`{}`", commands.join("; ")))
            }
        };
        Some(format!(
            "{}: IP packets that are merged beneath it (GRO), on {place}, are too big for a label: {mend}",
            self.name
        ))
    }

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

    /// The peer of a veth that leaves the tags of its VLAN devices beside the frames, and what ends that.
    fn peer_puts_tags_beside(&self) -> Option<(&Arc<str>, String)> {
        let tags = self.peer_sends.as_ref()?.vlan.transmit;
        let far_end = self.far_end.as_ref().filter(|_| tags.any())?;
        let command = format!(
            "{}ethtool -K {} {}",
            far_end.shell_prefix(),
            far_end.name,
            off(&tags, ["txvlan", "tx-vlan-stag-hw-insert"])
        );
        Some((&far_end.name, command))
    }

    /// On an interface whose frames are switched as if they had no tags.
    pub fn hides_tags(&self) -> Option<String> {
        if self.is_veth() {
            let (peer, command) = self.peer_puts_tags_beside()?;
            let devices = self.peer_sends.as_ref()?.vlan_devices.join(", ");
            return (!devices.is_empty()).then(|| {
                format!(
                    "{}: its veth peer {peer} hides the VLAN tags of {devices} from XDP, which treats their frames as untagged: \
                     `{command}`",
                    self.name
                )
            });
        }
        let tags = self.vlan?.receive_optional;
        tags.any().then(|| {
            format!(
                "{name}: its driver{driver} takes VLAN tags out of frames before XDP sees them, and those of every VLAN are taken for \
                 untagged ones: `ethtool -K {name} {off}`",
                name = self.name,
                driver = in_parentheses(self.driver.as_deref()),
                off = off(&tags, ["rxvlan", "rx-vlan-stag-hw-parse"]),
            )
        })
    }

    /// In generic mode the program gets the packets of a veth's peer as that leaves them to be segmented; in native mode the kernel
    /// has segmented them before.
    pub fn peer_sends_unsegmented(&self, mode: XdpMode) -> Option<String> {
        let far_end = self.far_end.as_ref()?;
        let unsegmented = mode == XdpMode::Generic && self.peer_sends.as_ref()?.unsegmented;
        unsegmented.then(|| {
            format!(
                "{name}: in generic mode TCP packets of its veth peer {peer} arrive unsegmented (TSO), too big for a label: \
                 `{prefix}ethtool -K {peer} tso off`",
                name = self.name,
                peer = far_end.name,
                prefix = far_end.shell_prefix(),
            )
        })
    }

    fn peer_name(&self) -> Option<Arc<str>> {
        self.peer.as_ref().map(|peer| peer.name.clone())
    }

    /// On a member of a bridge that has another MAC address: labels for that one are not this port's.
    fn foreign_bridge_mac(&self) -> Option<String> {
        let bridge = self.master.as_ref()?;
        let own = self.link.as_ref()?.mac?;
        let foreign = bridge.mac.filter(|&mac| mac != own)?;
        (bridge.kind.as_deref() == Some("bridge")).then(|| {
            format!(
                "{name} is a port of the bridge {bridge}: labelled frames for {bridge}'s MAC address ({foreign}) are left to the \
                 bridge: neighbours have to send to {name}'s ({own}), or `ip link set dev {bridge} address {own}` makes it both",
                name = self.name,
                bridge = bridge.name,
            )
        })
    }

    pub fn veth_needs_napi(&self) -> String {
        let lost = format!(
            "{}: frames that are redirected to it are lost until its veth peer has GRO on or an XDP program",
            self.name
        );
        match &self.far_end {
            Some(far_end) => format!(
                "{lost}: `{}` while it is up, or `mplsxdp load --fix-peers`",
                far_end.command()
            ),
            None => format!(
                "{lost}: `ethtool -K PEER gro off; ethtool -K PEER gro on` while it is up, in the peer's network namespace"
            ),
        }
    }

    /// Whether frames can be redirected to the interface; `None` where the kernel does not tell. In generic mode the kernel's
    /// ordinary transmit path sends them, which every driver has.
    pub fn takes_redirects(&self, mode: XdpMode) -> Option<bool> {
        match mode {
            XdpMode::Generic => Some(true),
            XdpMode::Native => self.features.map(|features| features.contains(XdpFeatures::NDO_XMIT)),
        }
    }

    /// The end that must have GRO on so that frames can be redirected to this one.
    pub fn end_to_fix(&self, mode: XdpMode) -> Option<&FarEnd> {
        let loses = self.takes_redirects(mode) == Some(false);
        self.far_end.as_ref().filter(|_| self.is_veth() && loses)
    }

    /// The largest MTU whose frames fit a page together with what XDP and the kernel keep there, as veth reckons it: one
    /// page less headroom, `struct skb_shared_info` (320 bytes) and the Ethernet header. Other drivers' limits are near it.
    fn mtu_limit(&self) -> u32 {
        const HEADROOM: u32 = 256;
        const SHARED_INFO: u32 = 320;
        const ETHERNET: u32 = 14;
        self.page_size_bytes - HEADROOM - SHARED_INFO - ETHERNET
    }
}

/// On an interface that does not send frames in several buffers, with an MTU that lets them come to it.
pub fn delays_fragments(name: &str) -> String {
    format!(
        "{name}: its driver does not take frames in several buffers from XDP, as those of more than {ONE_BUFFER_MTU} bytes may be \
         that other drivers receive: they go through the slow path, `--punt-rate` of them a second at most: `ip link set dev {name} \
         mtu {ONE_BUFFER_MTU}`, or use `--mode generic`"
    )
}

/// The names of an interface's members.
fn members_of(ifindex: u32, links: &[LinkInfo]) -> Vec<Arc<str>> {
    let is_member = |link: &&LinkInfo| link.master.as_ref().is_some_and(|master| master.ifindex == ifindex);
    links.iter().filter(is_member).map(|link| link.name.clone()).collect()
}

fn bond_member(name: &str, master: &str) -> String {
    format!(
        "{name} is a member of {master}, which decides the member that a frame leaves by: take {master} itself with \
         `--mode generic`, or take {name} out of it by `ip link set dev {name} nomaster`"
    )
}

fn bridge(name: &str, members: &[Arc<str>]) -> String {
    let ports = match members {
        [] => "it has none yet".to_owned(),
        _ => members.join(", "),
    };
    format!(
        "{name} is a bridge, and native XDP runs on its ports: take those ({ports}), or use `--mode generic`, which works on \
         {name} itself and is slower"
    )
}

fn vrf(name: &str, members: &[Arc<str>]) -> String {
    let members = match members {
        [] => "it has none yet".to_owned(),
        _ => members.join(", "),
    };
    format!("{name} is a VRF device, and no frame arrives at it: take its members as ports ({members}), in either mode")
}

fn upper(name: &str, kind: &str, lower: Option<&str>) -> String {
    let (place, lower) = match lower {
        Some(lower) => (format!("on {lower}"), lower),
        None => (
            "on an interface of another network namespace".to_owned(),
            "that one, there",
        ),
    };
    format!(
        "{name} is a {kind} {place}, and has no native XDP: take {lower}, or use `--mode generic`, which works on {name} itself \
         and is slower"
    )
}

fn describe(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Native => "native mode",
        AttachMode::Generic => "generic mode",
        AttachMode::Offload => "offloaded to the NIC",
        AttachMode::Several => "and more, in several modes",
    }
}

fn off_keyword(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Native => "xdpdrv",
        AttachMode::Generic => "xdpgeneric",
        AttachMode::Offload => "xdpoffload",
        AttachMode::Several => "xdp",
    }
}

fn in_parentheses(name: Option<&str>) -> String {
    name.map(|name| format!(" ({name})")).unwrap_or_default()
}

fn no_native(name: &str, driver: Option<&str>) -> String {
    format!(
        "{name}: its driver{} has no native XDP: use `--mode generic`, which is slower",
        in_parentheses(driver)
    )
}

fn veth_queues(name: &str, peer: Option<&str>) -> String {
    format!(
        "{name} cannot run XDP: its veth peer{} has more transmit queues than {name} has receive queues: \
         `ethtool -L {} tx 1`, or make the pair anew with as many of both",
        in_parentheses(peer),
        peer.unwrap_or("PEER")
    )
}

fn mtu_too_large(name: &str, mtu: &Option<u32>, limit: &u32, peer: &Option<Option<Arc<str>>>) -> String {
    let mtu = mtu.map(|mtu| format!(" ({mtu})")).unwrap_or_default();
    match peer {
        None => format!("{name}: its MTU{mtu} is too large for native XDP: `ip link set dev {name} mtu {limit}`"),
        Some(Some(peer)) => format!(
            "{name}: the MTU of its veth peer {peer}{mtu} is too large for native XDP: `ip link set dev {peer} mtu {limit}`"
        ),
        Some(None) => format!(
            "{name}: the MTU of its veth peer is too large for native XDP: `ip link set dev PEER mtu {limit}`, in the peer's \
             network namespace"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbour::Master;

    const ALL: XdpFeatures = XdpFeatures(0x47);
    const NO_XMIT: XdpFeatures = XdpFeatures(0x3);

    fn link(name: &str) -> LinkInfo {
        LinkInfo {
            ifindex: 11,
            name: name.into(),
            mac: Some(Mac([0x52, 0x54, 0, 0, 0, 1])),
            mtu: 1500,
            up: true,
            running: true,
            loopback: false,
            noarp: false,
            kind: None,
            master: None,
            xdp: None,
            peer: None,
            vlan: None,
            vrf_table: None,
            parent: None,
        }
    }

    /// A good NIC, and all capabilities.
    fn nic() -> Facts {
        Facts {
            name: "eth1".into(),
            link: Some(link("eth1")),
            program_name: None,
            peer: None,
            far_end: None,
            master: None,
            members: Vec::new(),
            merging: Vec::new(),
            available: Vec::new(),
            features: Some(ALL),
            driver: Some("ixgbe".into()),
            guest_checksum: false,
            vlan: Some(VlanOffloads::default()),
            peer_sends: None,
            capabilities: Capabilities(!0),
            page_size_bytes: 4096,
        }
    }

    fn far_end(netns: Option<&str>) -> FarEnd {
        FarEnd {
            name: "host1".into(),
            netns: netns.map(Into::into),
        }
    }

    /// A good veth with its peer in this namespace.
    fn veth() -> Facts {
        Facts {
            link: Some(LinkInfo {
                kind: Some("veth".into()),
                ..link("eth1")
            }),
            peer: Some(LinkInfo {
                kind: Some("veth".into()),
                ..link("host1")
            }),
            far_end: Some(far_end(None)),
            driver: Some("veth".into()),
            ..nic()
        }
    }

    #[test]
    fn checksums_are_finished_where_senders_leave_them_to_the_port() {
        let driven = |driver: &str, kind: Option<&str>, guest_checksum| Facts {
            driver: Some(driver.into()),
            guest_checksum,
            ..with_link(|link| link.kind = kind.map(str::to_owned))
        };
        use abi::Checksum::{Finish, Punt, Trust};
        for (facts, native, generic) in [
            (nic(), Trust, Trust),
            (veth(), Finish, Punt),
            (driven("tun", Some("tun"), false), Punt, Punt),
            (driven("virtio_net", None, true), Finish, Punt),
            (driven("virtio_net", None, false), Trust, Trust),
            (driven("bridge", Some("bridge"), false), Trust, Punt),
        ] {
            let driver = facts.driver.as_deref();
            assert_eq!(facts.checksum(None, XdpMode::Native), native, "{driver:?}");
            assert_eq!(facts.checksum(None, XdpMode::Generic), generic, "{driver:?}");
            assert_eq!(facts.checksum(Some(Checksum::Trust), XdpMode::Native), Trust);
        }
        assert_eq!(nic().checksum(Some(Checksum::Finish), XdpMode::Native), Finish);
    }

    fn with_link(change: impl Fn(&mut LinkInfo)) -> Facts {
        let mut facts = nic();
        change(facts.link.as_mut().unwrap());
        facts
    }

    fn refused(facts: &Facts, mode: XdpMode) -> String {
        check(facts, mode).unwrap_err().to_string()
    }

    #[test]
    fn good_interfaces_pass() {
        for facts in [nic(), veth()] {
            for mode in [XdpMode::Native, XdpMode::Generic] {
                assert_eq!(check(&facts, mode).unwrap(), Vec::<String>::new());
                assert_eq!(check_attached(&facts, mode).unwrap(), Vec::<String>::new());
            }
        }
        // What the kernel does not tell is not held against an interface.
        let unknown = Facts {
            features: None,
            ..nic()
        };
        assert_eq!(check(&unknown, XdpMode::Native).unwrap(), Vec::<String>::new());
        assert_eq!(check_attached(&unknown, XdpMode::Native).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn missing_capabilities_are_named() {
        let missing = |capabilities| refused(&Facts { capabilities, ..nic() }, XdpMode::Native);
        assert_eq!(
            missing(Capabilities(0)),
            "this process lacks CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN: run it as root, or \
             `setcap cap_net_admin,cap_net_raw,cap_sys_admin+ep` a copy of its file that root owns and only those may run who \
             may administer this machine (`chown root:GROUP FILE && chmod 750 FILE` before `setcap`): whoever runs it has \
             these capabilities"
        );
        assert!(missing(Capabilities(!(1 << 13))).starts_with(
            "this process lacks CAP_NET_RAW: run it as root, or `setcap cap_net_raw+ep` a copy of its file"
        ));
        assert_eq!(Capabilities(1 << 12 | 1 << 13 | 1 << 21).missing(), Vec::<&str>::new());
    }

    #[test]
    fn a_missing_interface_is_told_from_those_that_are_there() {
        let facts = Facts {
            link: None,
            available: vec!["lo".into(), "eth0".into()],
            ..nic()
        };
        assert_eq!(
            refused(&facts, XdpMode::Native),
            "there is no interface eth1 in this network namespace; there are: lo, eth0"
        );
    }

    #[test]
    fn interfaces_that_cannot_carry_labels_are_refused() {
        assert_eq!(
            refused(&with_link(|link| link.loopback = true), XdpMode::Generic),
            "eth1 is a loopback interface: no labelled frame ever arrives on it; `dev lo` in a route needs no port"
        );
        assert_eq!(
            refused(&with_link(|link| link.mac = None), XdpMode::Generic),
            "eth1 is not an Ethernet interface: it has no MAC address, and MPLS frames need one: take one that has, as a tap in \
             place of a tun, or a vxlan over what has none"
        );
        for (mac, shown) in [
            (Mac::ZERO, "00:00:00:00:00:00"),
            (Mac([0xff; 6]), "ff:ff:ff:ff:ff:ff"),
            (Mac([1, 0, 0x5e, 0, 0, 1]), "01:00:5e:00:00:01"),
        ] {
            assert_eq!(
                refused(&with_link(|link| link.mac = Some(mac)), XdpMode::Native),
                format!(
                    "eth1: its MAC address ({shown}) is not one that an interface can have in frames: `ip link set dev eth1 \
                     address MAC` sets another"
                )
            );
        }
        let down = with_link(|link| (link.up, link.running) = (false, false));
        assert_eq!(
            check(&down, XdpMode::Native).unwrap(),
            ["eth1 is down: nothing goes in or out until `ip link set dev eth1 up`"]
        );
        assert_eq!(
            check(&with_link(|link| link.running = false), XdpMode::Native).unwrap(),
            ["eth1 has no carrier: nothing goes in or out until it has"]
        );
    }

    #[test]
    fn of_interfaces_on_top_of_each_other_the_right_one_is_named() {
        let of_kind = |kind: &str| with_link(|link| link.kind = Some(kind.into()));
        for mode in [XdpMode::Native, XdpMode::Generic] {
            assert_eq!(
                refused(&of_kind("dummy"), mode),
                "eth1 is a dummy interface: what is sent to it is thrown away, and nothing ever arrives: take an interface \
                 with a link behind it; `dev lo` in a route ends an LSP in this box"
            );
        }
        let tun = with_link(|link| (link.kind, link.mac) = (Some("tun".into()), None));
        assert!(refused(&tun, XdpMode::Native).starts_with("eth1 (tun) is not an Ethernet interface"));
        assert_eq!(
            refused(&of_kind("bridge"), XdpMode::Native),
            "eth1 is a bridge, and native XDP runs on its ports: take those (it has none yet), or use `--mode generic`, which \
             works on eth1 itself and is slower"
        );
        let with_ports = Facts {
            members: vec!["tap0".into(), "tap1".into()],
            ..of_kind("bridge")
        };
        assert!(refused(&with_ports, XdpMode::Native).contains("take those (tap0, tap1), or"));
        for kind in ["macvlan", "macvtap", "vlan"] {
            let on_eth0 = Facts {
                peer: Some(link("eth0")),
                ..of_kind(kind)
            };
            assert_eq!(
                refused(&on_eth0, XdpMode::Native),
                format!(
                    "eth1 is a {kind} on eth0, and has no native XDP: take eth0, or use `--mode generic`, which works on eth1 \
                     itself and is slower"
                )
            );
            assert_eq!(
                refused(&of_kind(kind), XdpMode::Native),
                format!(
                    "eth1 is a {kind} on an interface of another network namespace, and has no native XDP: take that one, \
                     there, or use `--mode generic`, which works on eth1 itself and is slower"
                )
            );
        }
        for kind in ["bridge", "macvlan", "macvtap", "vlan", "bond"] {
            assert_eq!(
                check(&of_kind(kind), XdpMode::Generic).unwrap(),
                Vec::<String>::new(),
                "{kind}"
            );
        }
    }

    /// eth1 as a member of an interface of this kind.
    fn member(kind: &str, master: &str) -> Facts {
        let mut facts = with_link(|link| {
            link.master = Some(Master {
                ifindex: 21,
                kind: Some(kind.into()),
            });
        });
        facts.master = Some(LinkInfo {
            ifindex: 21,
            kind: Some(kind.into()),
            ..link(master)
        });
        facts
    }

    #[test]
    fn a_bond_is_taken_as_a_whole_and_in_generic_mode() {
        for (kind, mode) in [
            ("bond", XdpMode::Native),
            ("bond", XdpMode::Generic),
            ("team", XdpMode::Native),
        ] {
            assert_eq!(
                refused(&member(kind, "bond0"), mode),
                "eth1 is a member of bond0, which decides the member that a frame leaves by: take bond0 itself with `--mode \
                 generic`, or take eth1 out of it by `ip link set dev eth1 nomaster`"
            );
        }
        assert_eq!(
            refused(&with_link(|link| link.kind = Some("bond".into())), XdpMode::Native),
            "eth1 is a bond: in native mode its members would run the program, and their frames reach no AF_XDP socket of eth1: \
             use `--mode generic`, which works on eth1 itself, or take the members out of it"
        );
    }

    #[test]
    fn a_vrf_device_is_refused_in_either_mode_with_the_names_of_its_members() {
        let facts = |members: &[&str]| Facts {
            members: members.iter().map(|name| Arc::from(*name)).collect(),
            ..with_link(|link| {
                link.kind = Some("vrf".into());
                link.mtu = 65575;
            })
        };
        for mode in [XdpMode::Native, XdpMode::Generic] {
            assert_eq!(
                refused(&facts(&["eth2", "eth3"]), mode),
                "eth1 is a VRF device, and no frame arrives at it: take its members as ports (eth2, eth3), in either mode"
            );
            assert_eq!(
                refused(&facts(&[]), mode),
                "eth1 is a VRF device, and no frame arrives at it: take its members as ports (it has none yet), in either mode"
            );
        }
    }

    #[test]
    fn a_bridge_port_is_told_of_the_bridge_s_own_mac_address() {
        for kind in ["bridge", "vrf"] {
            // The same address.
            assert_eq!(
                check(&member(kind, "br0"), XdpMode::Native).unwrap(),
                Vec::<String>::new()
            );
        }
        let mut facts = member("bridge", "br0");
        facts.master.as_mut().unwrap().mac = Some(Mac([0x52, 0x54, 0, 0, 0, 9]));
        let note = "eth1 is a port of the bridge br0: labelled frames for br0's MAC address (52:54:00:00:00:09) are left to the \
                    bridge: neighbours have to send to eth1's (52:54:00:00:00:01), or `ip link set dev br0 address \
                    52:54:00:00:00:01` makes it both";
        for mode in [XdpMode::Native, XdpMode::Generic] {
            assert_eq!(check(&facts, mode).unwrap(), [note]);
            assert_eq!(check_attached(&facts, mode).unwrap(), [note]);
        }
        facts.master.as_mut().unwrap().kind = Some("vrf".into());
        assert_eq!(check(&facts, XdpMode::Native).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn another_program_is_named_with_the_way_to_take_it_off() {
        for (mode, where_, keyword) in [
            (AttachMode::Native, "native mode", "xdpdrv"),
            (AttachMode::Generic, "generic mode", "xdpgeneric"),
            (AttachMode::Offload, "offloaded to the NIC", "xdpoffload"),
            (AttachMode::Several, "and more, in several modes", "xdp"),
        ] {
            let attached = XdpAttachment { program: 42, mode };
            let facts = with_link(|link| link.xdp = Some(attached));
            let named = Facts {
                program_name: Some("filter".into()),
                ..facts.clone()
            };
            let message = refused(&named, XdpMode::Native);
            assert!(message.starts_with(&format!(
                "eth1 has another XDP program already: id 42 (filter), {where_}: "
            )));
            assert_eq!(
                refused(&facts, XdpMode::Native),
                format!(
                    "eth1 has another XDP program already: id 42, {where_}: take it off by `ip link set dev eth1 {keyword} \
                     off`, or, if a bpf_link holds it there (`bpftool link show`), end its owner or `bpftool link detach id \
                     ID`"
                )
            );
        }
    }

    #[test]
    fn native_mode_needs_a_driver_that_has_it() {
        let facts = Facts {
            features: Some(XdpFeatures(0)),
            ..nic()
        };
        let message = "eth1: its driver (ixgbe) has no native XDP: use `--mode generic`, which is slower";
        assert_eq!(refused(&facts, XdpMode::Native), message);
        assert_eq!(check(&facts, XdpMode::Generic).unwrap(), Vec::<String>::new());
        let nameless = Facts { driver: None, ..facts };
        assert_eq!(
            refused(&nameless, XdpMode::Native),
            "eth1: its driver has no native XDP: use `--mode generic`, which is slower"
        );
        let queues = Facts {
            features: Some(XdpFeatures(0)),
            ..veth()
        };
        assert_eq!(
            refused(&queues, XdpMode::Native),
            "eth1 cannot run XDP: its veth peer (host1) has more transmit queues than eth1 has receive queues: \
             `ethtool -L host1 tx 1`, or make the pair anew with as many of both"
        );
    }

    #[test]
    fn a_nic_that_hides_tags_is_told_to_leave_them() {
        let kinds = |customer, service| TagKinds { customer, service };
        let offloads = |receive, transmit| {
            Some(VlanOffloads {
                receive,
                receive_optional: receive,
                transmit,
            })
        };
        let none = TagKinds::default();
        for vlan in [None, offloads(none, kinds(true, true))] {
            assert_eq!(check_tags(&Facts { vlan, ..nic() }).unwrap(), Vec::<String>::new());
        }
        for (receive, command) in [
            (kinds(true, false), "rxvlan off"),
            (kinds(false, true), "rx-vlan-stag-hw-parse off"),
            (kinds(true, true), "rxvlan off rx-vlan-stag-hw-parse off"),
        ] {
            let hides = Facts {
                vlan: offloads(receive, none),
                ..nic()
            };
            assert_eq!(
                check_tags(&hides).unwrap_err().to_string(),
                format!(
                    "eth1: its driver (ixgbe) takes VLAN tags out of frames before XDP sees them: `ethtool -K eth1 {command}`"
                )
            );
            // Where no tags are asked for, it may be meant so.
            assert_eq!(
                hides.hides_tags(),
                Some(format!(
                    "eth1: its driver (ixgbe) takes VLAN tags out of frames before XDP sees them, and those of every VLAN are taken \
                     for untagged ones: `ethtool -K eth1 {command}`"
                ))
            );
            let mut fixed = hides;
            fixed.vlan.as_mut().unwrap().receive_optional = none;
            assert_eq!(fixed.hides_tags(), None);
        }
        // Whatever an interface that stands on others says.
        for kind in ["bridge", "bond", "macvlan"] {
            let upper = with_link(|link| link.kind = Some(kind.into()));
            assert_eq!(
                check_tags(&upper).unwrap_err().to_string(),
                format!(
                    "eth1 is a {kind}, and the kernel takes VLAN tags out of frames before XDP sees them there: no VLAN on it can \
                     be a port; one on what is beneath it can, in native mode"
                )
            );
        }
        // A veth only says so.
        let pair = |vlan: Option<VlanOffloads>| Facts {
            vlan: offloads(kinds(true, true), none),
            peer_sends: vlan.map(|vlan| Sending {
                vlan,
                ..Sending::default()
            }),
            ..veth()
        };
        for peer_vlan in [None, offloads(kinds(true, true), none)] {
            assert_eq!(check_tags(&pair(peer_vlan)).unwrap(), Vec::<String>::new());
            assert_eq!(pair(peer_vlan).hides_tags(), None);
        }
        assert_eq!(
            check_tags(&pair(offloads(none, kinds(true, true)))).unwrap(),
            [
                "eth1: XDP does not see the tags of VLAN devices on its veth peer host1: `ethtool -K host1 txvlan off \
              tx-vlan-stag-hw-insert off`"
            ]
        );
        // At load only if there are VLAN devices; in whichever network namespace.
        let with_devices = |devices: &[&str]| Facts {
            far_end: Some(far_end(Some("/run/netns/h1"))),
            peer_sends: Some(Sending {
                vlan: offloads(none, kinds(true, false)).unwrap(),
                vlan_devices: devices.iter().map(|&device| device.to_owned()).collect(),
                unsegmented: false,
            }),
            ..veth()
        };
        assert_eq!(with_devices(&[]).hides_tags(), None);
        assert_eq!(
            with_devices(&["host1.100", "v7"]).hides_tags().unwrap(),
            "eth1: its veth peer host1 hides the VLAN tags of host1.100, v7 from XDP, which treats their frames as untagged: \
             `ip netns exec h1 ethtool -K host1 txvlan off`"
        );
    }

    #[test]
    fn what_a_veth_peer_leaves_unsegmented_is_told_in_generic_mode() {
        let sends = |unsegmented| Facts {
            far_end: Some(far_end(Some("/run/netns/h1"))),
            peer_sends: Some(Sending {
                unsegmented,
                ..Sending::default()
            }),
            ..veth()
        };
        assert_eq!(
            sends(true).peer_sends_unsegmented(XdpMode::Generic).unwrap(),
            "eth1: in generic mode TCP packets of its veth peer host1 arrive unsegmented (TSO), too big for a label: \
             `ip netns exec h1 ethtool -K host1 tso off`"
        );
        assert_eq!(sends(true).peer_sends_unsegmented(XdpMode::Native), None);
        assert_eq!(sends(false).peer_sends_unsegmented(XdpMode::Generic), None);
        assert_eq!(nic().peer_sends_unsegmented(XdpMode::Generic), None);
    }

    #[test]
    fn what_is_merged_beneath_is_told_in_generic_mode() {
        let on = |kind: &str, merging: &[&str]| Facts {
            merging: merging.iter().map(|&name| name.into()).collect(),
            ..with_link(|link| link.kind = Some(kind.into()))
        };
        for (facts, place, mend) in [
            (on("bridge", &["eth0"]), "eth0", "`ethtool -K eth0 gro off`"),
            (
                on("bond", &["eth0", "eth2"]),
                "eth0, eth2",
                "`ethtool -K eth0 gro off; ethtool -K eth2 gro off`",
            ),
            (
                on("vxlan", &[]),
                "the interface that its packets arrive at",
                "`ethtool -K IFACE gro off` there",
            ),
        ] {
            let note = format!(
                "eth1: IP packets that are merged beneath it (GRO), on {place}, are too big for a label: {mend}"
            );
            assert_eq!(check(&facts, XdpMode::Generic).unwrap(), [&*note]);
            assert_eq!(check_attached(&facts, XdpMode::Generic).unwrap(), [&*note]);
        }
        assert_eq!(
            check_attached(&on("bridge", &["eth0"]), XdpMode::Native).unwrap(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn frames_above_the_mtu_are_expected_where_they_can_come() {
        let driven = |driver: &str| Facts {
            driver: Some(driver.into()),
            ..nic()
        };
        for (facts, native) in [
            (nic(), false),
            (veth(), false),
            (driven("tun"), true),
            (driven("virtio_net"), true),
        ] {
            assert_eq!(facts.exceeds_mtu(XdpMode::Native), native, "{facts:?}");
            assert!(facts.exceeds_mtu(XdpMode::Generic));
        }
    }

    #[test]
    fn a_driver_that_does_not_send_frames_in_several_buffers_is_known() {
        let sends = |features, mode| Facts { features, ..nic() }.sends_fragments(mode);
        let without = Some(XdpFeatures(0x7));
        assert!(sends(Some(ALL), XdpMode::Native) && sends(without, XdpMode::Generic));
        assert!(!sends(without, XdpMode::Native) && !sends(None, XdpMode::Native));
        let jumbo = |features| Facts {
            features,
            ..with_link(|link| link.mtu = 9000)
        };
        for (facts, mode) in [
            (jumbo(Some(ALL)), XdpMode::Native),
            (jumbo(without), XdpMode::Generic),
            (
                Facts {
                    features: without,
                    ..nic()
                },
                XdpMode::Native,
            ),
        ] {
            assert_eq!(check_attached(&facts, mode).unwrap(), Vec::<String>::new());
        }
        assert_eq!(
            check_attached(&jumbo(without), XdpMode::Native).unwrap(),
            [
                "eth1: its driver does not take frames in several buffers from XDP, as those of more than 1500 bytes may be that \
                 other drivers receive: they go through the slow path, `--punt-rate` of them a second at most: `ip link set dev \
                 eth1 mtu 1500`, or use `--mode generic`"
            ]
        );
        // Kernels before 6.3 tell nothing, and lose them.
        assert_eq!(
            check(&jumbo(None), XdpMode::Native).unwrap_err().to_string(),
            "eth1: its MTU (9000) is too large for native XDP: `ip link set dev eth1 mtu 3506`"
        );
        let tap = Facts {
            driver: Some("tun".into()),
            ..jumbo(None)
        };
        assert!(check(&jumbo(None), XdpMode::Generic).is_ok() && check(&tap, XdpMode::Native).is_ok());
        let large = Facts {
            features: None,
            ..with_link(|link| link.mtu = 3506)
        };
        assert!(check(&large, XdpMode::Native).is_ok());
    }

    #[test]
    fn a_redirect_target_is_a_note_before_and_an_error_after() {
        let facts = Facts {
            features: Some(NO_XMIT),
            ..nic()
        };
        assert_eq!(
            check(&facts, XdpMode::Native).unwrap(),
            ["eth1: its driver does not transmit redirected frames now; many do once a program is attached"]
        );
        assert_eq!(
            check_attached(&facts, XdpMode::Native).unwrap_err().to_string(),
            "eth1: its driver (ixgbe) does not transmit frames that XDP redirects to it, so that no label could be switched \
             out of it: use `--mode generic`"
        );
        assert_eq!(check_attached(&facts, XdpMode::Generic).unwrap(), Vec::<String>::new());

        let facts = Facts {
            features: Some(NO_XMIT),
            ..veth()
        };
        let note = "eth1: frames that are redirected to it are lost until its veth peer has GRO on or an XDP program: \
                    `ethtool -K host1 gro off; ethtool -K host1 gro on` while it is up, or `mplsxdp load --fix-peers`";
        assert_eq!(check(&facts, XdpMode::Native).unwrap(), [note]);
        assert_eq!(check_attached(&facts, XdpMode::Native).unwrap(), [note]);
        for (netns, command) in [
            ("/run/netns/h1", "ip netns exec h1"),
            ("/proc/77/ns/net", "nsenter --net=/proc/77/ns/net"),
        ] {
            let elsewhere = Facts {
                peer: None,
                far_end: Some(far_end(Some(netns))),
                ..facts.clone()
            };
            assert_eq!(
                check_attached(&elsewhere, XdpMode::Native).unwrap(),
                [format!(
                    "eth1: frames that are redirected to it are lost until its veth peer has GRO on or an XDP program: \
                     `{command} ethtool -K host1 gro off; {command} ethtool -K host1 gro on` while it is up, or \
                     `mplsxdp load --fix-peers`"
                )]
            );
        }
        assert_eq!(facts.end_to_fix(XdpMode::Native), Some(&far_end(None)));
        assert_eq!(facts.end_to_fix(XdpMode::Generic), None);
        assert_eq!(veth().end_to_fix(XdpMode::Native), None);
        let elsewhere = Facts {
            peer: None,
            far_end: None,
            ..facts
        };
        assert_eq!(
            check_attached(&elsewhere, XdpMode::Native).unwrap(),
            [
                "eth1: frames that are redirected to it are lost until its veth peer has GRO on or an XDP program: \
              `ethtool -K PEER gro off; ethtool -K PEER gro on` while it is up, in the peer's network namespace"
            ]
        );
    }

    #[test]
    fn the_errno_of_an_attach_tells_the_cause() {
        let message =
            |facts: &Facts, mode, errno| attach_error(facts, mode, io::Error::from_raw_os_error(errno)).to_string();
        let jumbo = with_link(|link| link.mtu = 9000);
        let too_large = "eth1: its MTU (9000) is too large for native XDP: `ip link set dev eth1 mtu 3506`";
        assert_eq!(message(&jumbo, XdpMode::Native, libc::EINVAL), too_large);
        assert_eq!(message(&jumbo, XdpMode::Native, libc::ERANGE), too_large);
        assert_eq!(
            message(&nic(), XdpMode::Native, libc::EINVAL),
            "the XDP program cannot be attached to eth1: Invalid argument (os error 22)"
        );
        assert_eq!(
            message(&jumbo, XdpMode::Generic, libc::EINVAL),
            "the XDP program cannot be attached to eth1: Invalid argument (os error 22)"
        );
        let guest = Facts {
            driver: Some("virtio_net".into()),
            ..nic()
        };
        let offloads = message(&guest, XdpMode::Native, libc::EOPNOTSUPP);
        assert!(
            offloads.starts_with("eth1: virtio_net has no native XDP while the VM's host merges packets")
                && offloads.contains("guest_csum=off"),
            "{offloads}"
        );

        let mut pair = veth();
        pair.peer.as_mut().unwrap().mtu = 9000;
        assert_eq!(
            message(&pair, XdpMode::Native, libc::ERANGE),
            "eth1: the MTU of its veth peer host1 (9000) is too large for native XDP: `ip link set dev host1 mtu 3506`"
        );
        let elsewhere = Facts { peer: None, ..pair };
        assert_eq!(
            message(&elsewhere, XdpMode::Native, libc::ERANGE),
            "eth1: the MTU of its veth peer is too large for native XDP: `ip link set dev PEER mtu 3506`, in the peer's \
             network namespace"
        );
        assert!(
            message(&veth(), XdpMode::Native, libc::ENOSPC).starts_with("eth1 cannot run XDP: its veth peer (host1)")
        );
        for errno in [libc::EOPNOTSUPP, ENOTSUPP] {
            let message = message(&nic(), XdpMode::Native, errno);
            assert_eq!(
                message,
                "eth1: its driver (ixgbe) has no native XDP: use `--mode generic`, which is slower"
            );
        }
        assert_eq!(
            message(&nic(), XdpMode::Native, libc::EBUSY),
            "the XDP program cannot be attached to eth1: Device or resource busy (os error 16)"
        );
    }
}

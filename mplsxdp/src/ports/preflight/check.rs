//! The rules: whether an interface can become a port, from the [`Facts`] alone.

use std::io;
use std::sync::Arc;

use mplsxdp_common::abi;

use super::error::{PreflightError, in_parentheses, off};
use super::facts::Facts;
use super::far_end::FarEnd;
use crate::control::api::Checksum;
use crate::dataplane::XdpMode;
use crate::kernel::ethtool::VlanOffloads;
use crate::kernel::netdev::XdpFeatures;
use crate::neighbour::LinkInfo;

/// Drivers keep frames of at most this MTU in one buffer.
pub const ONE_BUFFER_MTU: u32 = 1500;

/// Checks before the program is attached. Problems that may still resolve themselves are returned as notes.
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
            "{} has no carrier: it cannot send or receive until it has one",
            facts.name
        ));
    }
    notes.extend(facts.foreign_bridge_mac());
    notes.extend(facts.merged_beneath(mode));
    // Before Linux 6.3 the kernel does not report features, and loses multi-buffer frames that are redirected.
    if facts.receives_multi_buffer(mode) && facts.features.is_none() && facts.exceeds_one_buffer() {
        return Err(facts.mtu_too_large());
    }
    if let (XdpMode::Native, Some(features)) = (mode, facts.features)
        && !(features.contains(XdpFeatures::BASIC) && features.contains(XdpFeatures::REDIRECT))
    {
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
    if facts.takes_redirects(mode) == Some(false) {
        notes.push(match facts.is_veth() {
            true => facts.veth_needs_napi(),
            false => format!(
                "{}: its driver does not transmit redirected frames now; many do once a program is attached",
                facts.name
            ),
        });
    }
    Ok(notes)
}

/// The message about an interface that is down.
pub fn is_down(link: &LinkInfo) -> Option<String> {
    let name = &link.name;
    (!link.up).then(|| format!("{name} is down: it cannot send or receive until `ip link set dev {name} up`"))
}

/// Checks that frames still have their VLAN tags when the program sees them.
pub fn check_tags(facts: &Facts) -> Result<Vec<String>, PreflightError> {
    let kind = facts.link.as_ref().and_then(|link| link.kind.as_deref());
    if let Some(kind @ ("bridge" | "bond" | "team" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap")) = kind {
        // They get their frames from another interface's receive path, which begins by removing tags.
        return Err(PreflightError::TagsHiddenBeneath {
            name: facts.name.clone(),
            kind: kind.to_owned(),
        });
    }
    if facts.is_veth() {
        // A veth reports that it strips tags, but leaves frames as its peer sent them. If the peer reports that it
        // inserts tags, the kernel keeps the tags of the peer's VLAN devices beside the frames.
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

/// Checks that an interface is the right one among those that the same frames go through.
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

/// Checks after the program is attached, with newly gathered facts.
pub fn check_attached(facts: &Facts, mode: XdpMode) -> Result<Vec<String>, PreflightError> {
    let mut notes = Vec::from_iter(facts.link.as_ref().and_then(is_down));
    notes.extend(facts.foreign_bridge_mac());
    notes.extend(facts.merged_beneath(mode));
    // In generic mode the kernel's ordinary transmit path sends what is redirected.
    if facts.takes_redirects(mode) == Some(false) {
        if !facts.is_veth() {
            return Err(PreflightError::NoRedirectTarget {
                name: facts.name.clone(),
                driver: facts.driver.clone(),
            });
        }
        notes.push(facts.veth_needs_napi());
        return Ok(notes);
    }
    if facts.link.as_ref().is_some_and(|link| link.mtu > ONE_BUFFER_MTU) && !facts.sends_multi_buffer(mode) {
        notes.push(delays_multi_buffer(&facts.name));
    }
    Ok(notes)
}

/// The meaning of a failed attempt to attach, from the facts gathered before it.
pub fn attach_error(facts: &Facts, mode: XdpMode, source: io::Error) -> PreflightError {
    let name = facts.name.clone();
    match (source.raw_os_error(), mode) {
        (Some(libc::ERANGE), XdpMode::Native) => facts.mtu_too_large(),
        (Some(libc::EINVAL | libc::E2BIG), XdpMode::Native) if facts.exceeds_one_buffer() => facts.mtu_too_large(),
        (Some(libc::ENOSPC), XdpMode::Native) if facts.is_veth() => PreflightError::VethQueues {
            name,
            peer: facts.peer_name(),
        },
        // If the host has VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, the driver itself switches the offloads off.
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

/// The kernel's internal ENOTSUPP, which some drivers return; libc does not have it.
const ENOTSUPP: i32 = 524;

impl Facts {
    /// Another program on the interface.
    pub fn other_program(&self) -> Option<PreflightError> {
        Some(PreflightError::OtherProgram {
            name: self.name.clone(),
            attached: self.link.as_ref()?.xdp?,
            program: self.program_name.clone(),
        })
    }

    /// The MTU of arriving frames, if known: on a veth, the peer's.
    fn arriving_mtu(&self) -> Option<u32> {
        let sender = if self.is_veth() { &self.peer } else { &self.link };
        sender.as_ref().map(|link| link.mtu)
    }

    /// Whether arriving frames may not fit one buffer.
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

    /// The default for unfinished checksums: depends on whether senders leave checksums to the interface. In generic
    /// mode the kernel may have got frames from any sender that does, except on a NIC.
    pub fn default_checksum(&self, mode: XdpMode) -> Checksum {
        let unfinished = match (self.driver.as_deref(), mode) {
            (Some("virtio_net"), _) => self.guest_checksum,
            (Some("veth" | "tun"), _) => true,
            (_, XdpMode::Native) => false,
            (_, XdpMode::Generic) => self.link.as_ref().is_some_and(|link| link.kind.is_some()),
        };
        if unfinished { Checksum::Finish } else { Checksum::Trust }
    }

    /// What a program does about unfinished checksums. Frames that already are packets of the kernel, such as in
    /// generic mode and often at a tap, go to the slow path.
    pub fn checksum(&self, wanted: Option<Checksum>, mode: XdpMode) -> abi::Checksum {
        match wanted.unwrap_or_else(|| self.default_checksum(mode)) {
            Checksum::Trust => abi::Checksum::Trust,
            Checksum::Finish if mode == XdpMode::Generic || self.driver.as_deref() == Some("tun") => {
                abi::Checksum::Punt
            }
            Checksum::Finish => abi::Checksum::Finish,
        }
    }

    /// Whether frames may arrive that are longer than the MTU: those merged beneath it in generic mode, and those that
    /// a driver takes from its other side without a check.
    pub fn exceeds_mtu(&self, mode: XdpMode) -> bool {
        mode == XdpMode::Generic || matches!(self.driver.as_deref(), Some("tun" | "virtio_net"))
    }

    /// Whether the interface can send multi-buffer frames once the program is attached; if not, the kernel loses them
    /// silently. In generic mode, and wherever the program has run on an skb, a redirected frame is an skb too, which
    /// every driver can send. A kernel that does not report features redirects no such frames at all.
    pub fn sends_multi_buffer(&self, mode: XdpMode) -> bool {
        let driver_sends = self
            .features
            .is_some_and(|features| features.contains(XdpFeatures::NDO_XMIT_SG));
        mode == XdpMode::Generic || driver_sends
    }

    /// Whether the driver itself hands multi-buffer frames to the program. A tap leaves those to generic XDP.
    pub fn receives_multi_buffer(&self, mode: XdpMode) -> bool {
        mode == XdpMode::Native && self.driver.as_deref() != Some("tun")
    }

    /// In generic mode the program runs once per interface, on frames as the interfaces beneath have merged them. (On
    /// the interface itself the kernel stops merging while it has the program.)
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

    /// A veth peer that keeps the tags of its VLAN devices beside the frames, and the command that ends that.
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

    /// The warning about an interface whose tagged frames are treated as untagged.
    pub fn hides_tags(&self) -> Option<String> {
        if self.is_veth() {
            let (peer, command) = self.peer_puts_tags_beside()?;
            let devices = self.peer_sends.as_ref()?.vlan_devices.join(", ");
            return (!devices.is_empty()).then(|| {
                format!(
                    "{}: its veth peer {peer} hides the VLAN tags of {devices} from XDP, which treats their frames as \
                     untagged: `{command}`",
                    self.name
                )
            });
        }
        let tags = self.vlan?.receive_optional;
        tags.any().then(|| {
            format!(
                "{name}: its driver{driver} strips VLAN tags before XDP sees the frame, so frames from every VLAN are \
                 treated as untagged: `ethtool -K {name} {off}`",
                name = self.name,
                driver = in_parentheses(self.driver.as_deref()),
                off = off(&tags, ["rxvlan", "rx-vlan-stag-hw-parse"]),
            )
        })
    }

    /// In generic mode the program gets the packets of a veth's peer before they are segmented; in native mode the
    /// kernel has segmented them.
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

    /// The warning about a member of a bridge that has another MAC address: labelled frames for the bridge's address
    /// are not the port's.
    fn foreign_bridge_mac(&self) -> Option<String> {
        let bridge = self.master.as_ref()?;
        let own = self.link.as_ref()?.mac?;
        let foreign = bridge.mac.filter(|&mac| mac != own)?;
        (bridge.kind.as_deref() == Some("bridge")).then(|| {
            format!(
                "{name} is a port of the bridge {bridge}: labelled frames for {bridge}'s MAC address ({foreign}) are left \
                 to the bridge: neighbours must send to {name}'s ({own}), or `ip link set dev {bridge} address {own}` \
                 makes the two the same",
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

    /// Whether frames can be redirected to the interface; `None` if the kernel does not say. In generic mode they leave
    /// by the kernel's ordinary transmit path, which every driver has.
    pub fn takes_redirects(&self, mode: XdpMode) -> Option<bool> {
        match mode {
            XdpMode::Generic => Some(true),
            XdpMode::Native => {
                let by_features = self.features.map(|features| features.contains(XdpFeatures::NDO_XMIT));
                by_features.or(self.far_end_takes_redirects)
            }
        }
    }

    /// The end that needs GRO so that frames can be redirected to this one.
    pub fn end_to_fix(&self, mode: XdpMode) -> Option<&FarEnd> {
        let loses = self.takes_redirects(mode) == Some(false);
        self.far_end.as_ref().filter(|_| self.is_veth() && loses)
    }

    /// The largest MTU whose frames fit a page together with what XDP and the kernel keep there, computed as veth does:
    /// one page less the headroom, `struct skb_shared_info` (320 bytes) and the Ethernet header. Other drivers' limits
    /// are similar.
    fn mtu_limit(&self) -> u32 {
        const HEADROOM: u32 = 256;
        const SHARED_INFO: u32 = 320;
        const ETHERNET: u32 = 14;
        self.page_size_bytes - HEADROOM - SHARED_INFO - ETHERNET
    }
}

/// The warning about an interface that does not send multi-buffer frames but has an MTU that lets them arrive for it.
pub fn delays_multi_buffer(name: &str) -> String {
    format!(
        "{name}: its driver cannot send redirected multi-buffer frames (which frames over {ONE_BUFFER_MTU} bytes may be): \
         they take the slow path, at most `--punt-rate` per second: `ip link set dev {name} mtu {ONE_BUFFER_MTU}`, or use \
         `--mode generic`"
    )
}

#[cfg(test)]
mod tests;

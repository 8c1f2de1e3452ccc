//! The local port: a veth pair for the packets that this machine sends itself. XDP never sees those on their way out of
//! a NIC.
//!
//! ```text
//!   ip route add 2.2.2.2/32 dev mpls0 src 1.1.1.1
//!
//!   kernel ---- mpls0 (near end) ======== mpls0-port (far end, a port) ---- XDP: imposition, redirect to a NIC
//! ```
//!
//! The near end does not ask for neighbours, so the kernel addresses frames to the interface's own MAC address. The far
//! end has the same address, so every frame is for the port.

use std::io;
use std::sync::Arc;

use mplsxdp_common::wire::{LSE_LEN, Mac};

use tracing::info;

use crate::kernel::ethtool::Feature;
use crate::kernel::{self, Netlink, sysctl};
use crate::neighbour::LinkInfo;
use crate::neighbour::links::Links;

/// The MAC address of both ends: locally administered, and "MPLS" in ASCII. Frames with it never leave the pair. It
/// also identifies a pair that was left behind before it had its alias.
pub const MAC: Mac = Mac([0x02, 0x4d, 0x50, 0x4c, 0x53, 0x00]);

/// The alias of the near end is this and the instance's name.
const ALIAS: &str = "mplsxdp ";
const FAR_SUFFIX: &str = "-port";
/// IFNAMSIZ less the NUL.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// How many labels packets have room for at least, so that the MTU stays the same when ordinary routes come and go.
const LABELS: usize = 8;

/// The MTU of the near end, so that a packet still fits the ports (of which this is the lowest MTU) with all labels that
/// a route pushes, `deepest` at most.
pub fn mtu_beneath(lowest_port_mtu: u32, deepest: usize) -> u32 {
    lowest_port_mtu.saturating_sub((LSE_LEN * deepest.max(LABELS)) as u32)
}

/// The pair, set up. It stays until [`LocalPair::remove`]; the next [`LocalPair::create`] replaces or adopts what a
/// killed process left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalPair {
    near: Box<str>,
    far: Box<str>,
    near_ifindex: u32,
    far_ifindex: u32,
    is_adopted: bool,
}

/// What to do with the pair that a dead process of this instance has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeftPair {
    Replace,
    /// It stays as it is, with its addresses and routes (`--persist`).
    Adopt,
}

impl LocalPair {
    /// `name` must be valid for an interface, `mtu` comes from [`mtu_beneath`]. The instance must belong to this
    /// process alone.
    pub async fn create(
        name: &str,
        instance: &str,
        mtu: u32,
        left: LeftPair,
        netlink: &Netlink,
    ) -> Result<Self, LocalError> {
        let far = far_name(name);
        if left == LeftPair::Adopt
            && let Some(pair) = Self::find(name, instance, netlink).await?
        {
            pair.set_up(instance, netlink).await?;
            pair.set_mtu(mtu, netlink).await?;
            info!(name, "adopted the local port that was left behind");
            return Ok(pair);
        }
        Self::make_room(name, instance, left, netlink).await?;
        netlink.add_veth([name, &far], MAC, mtu).await?;
        let gone = |name: &str| LocalError::Gone { name: name.into() };
        let near = netlink.link(name).await?.ok_or_else(|| gone(name))?;
        let pair = Self {
            near: name.into(),
            near_ifindex: near.ifindex,
            far_ifindex: near.peer.ok_or_else(|| gone(&far))?.ifindex,
            far: far.into(),
            is_adopted: false,
        };
        match pair.set_up(instance, netlink).await {
            Ok(()) => Ok(pair),
            Err(error) => {
                pair.remove(netlink).await?;
                Err(error)
            }
        }
    }

    /// The pair with this name that a dead process of this instance has left, if it is whole.
    async fn find(name: &str, instance: &str, netlink: &Netlink) -> Result<Option<Self>, LocalError> {
        let far = far_name(name);
        let (Some(near), Some(end)) = (netlink.link(name).await?, netlink.link(&far).await?) else {
            return Ok(None);
        };
        let is_tied = near
            .peer
            .is_some_and(|peer| peer.netns.is_none() && peer.ifindex == end.ifindex);
        let is_own = left_by(&near, instance, netlink).await?.as_deref() == Some(instance);
        Ok((is_tied && is_own).then(|| Self {
            near: name.into(),
            far: far.into(),
            near_ifindex: near.ifindex,
            far_ifindex: end.ifindex,
            is_adopted: true,
        }))
    }

    /// The near ends of the pairs of this instance except `kept`: a dead process has left them.
    pub async fn others(
        instance: &str,
        kept: Option<&Self>,
        links: &[LinkInfo],
        netlink: &Netlink,
    ) -> Result<Vec<(u32, Arc<str>)>, LocalError> {
        let own = format!("{ALIAS}{instance}");
        let mut others = Vec::new();
        for link in links.iter().filter(|link| is_end(link)) {
            let is_kept = kept.is_some_and(|kept| kept.near_ifindex == link.ifindex);
            if !is_kept && netlink.link_alias(link.ifindex).await?.as_ref() == Some(&own) {
                others.push((link.ifindex, link.name.clone()));
            }
        }
        Ok(others)
    }

    /// Removes those pairs, and returns their names.
    pub async fn remove_others(
        instance: &str,
        kept: Option<&Self>,
        netlink: &Netlink,
    ) -> Result<Vec<Arc<str>>, LocalError> {
        let links = netlink.links().await?;
        let mut removed = Vec::new();
        for (ifindex, name) in Self::others(instance, kept, &links, netlink).await? {
            netlink.remove_link(ifindex).await?;
            removed.push(name);
        }
        Ok(removed)
    }

    /// Removes what a dead process left under the names of the pair, so that [`LocalPair::create`] can use them.
    pub async fn make_room(name: &str, instance: &str, left: LeftPair, netlink: &Netlink) -> Result<(), LocalError> {
        if left == LeftPair::Adopt && Self::find(name, instance, netlink).await?.is_some() {
            return Ok(());
        }
        for end in [name, &far_name(name)] {
            // Removing one removes the other.
            if let Some(link) = netlink.link(end).await? {
                take_over(&link, instance, netlink).await?;
            }
        }
        Ok(())
    }

    /// A pair that does not exist, for tests. The indexes are those of the near end and the far end.
    #[cfg(test)]
    pub(crate) fn for_test(near: &str, far: &str, [near_ifindex, far_ifindex]: [u32; 2]) -> Self {
        Self {
            near: near.into(),
            far: far.into(),
            near_ifindex,
            far_ifindex,
            is_adopted: false,
        }
    }

    /// Checks whether [`LocalPair::create`] can use the names. Changes nothing.
    pub async fn check(name: &str, instance: &str, netlink: &Netlink) -> Result<(), LocalError> {
        for end in [name, &far_name(name)] {
            if let Some(link) = netlink.link(end).await? {
                left_by(&link, instance, netlink).await?;
            }
        }
        Ok(())
    }

    /// The near end, for kernel routes.
    pub fn name(&self) -> &str {
        &self.near
    }

    /// The far end, which becomes a local port.
    pub fn port_name(&self) -> &str {
        &self.far
    }

    pub fn ifindex(&self) -> u32 {
        self.near_ifindex
    }

    /// Whether a dead process has made it.
    pub fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    pub fn port_ifindex(&self) -> u32 {
        self.far_ifindex
    }

    /// Call when interfaces have been renamed.
    pub fn follow_names(&mut self, links: &Links) {
        for (name, ifindex) in [(&mut self.near, self.near_ifindex), (&mut self.far, self.far_ifindex)] {
            if let Some(link) = links.get(ifindex).filter(|link| *link.name != **name) {
                *name = (&*link.name).into();
            }
        }
    }

    /// Call when the ports' MTUs have changed.
    pub async fn set_mtu(&self, mtu: u32, netlink: &Netlink) -> Result<(), LocalError> {
        for ifindex in [self.far_ifindex, self.near_ifindex] {
            netlink.set_link_mtu(ifindex, mtu).await?;
        }
        // The kernel disables IPv6 below its minimum MTU, and enables it again above it, without its settings.
        self.keep_quiet()
    }

    pub async fn remove(self, netlink: &Netlink) -> Result<(), LocalError> {
        Ok(netlink.remove_link(self.near_ifindex).await?)
    }

    async fn set_up(&self, instance: &str, netlink: &Netlink) -> Result<(), LocalError> {
        netlink
            .set_link_alias(self.near_ifindex, &format!("{ALIAS}{instance}"))
            .await?;
        self.keep_quiet()?;
        // XDP needs whole frames with finished checksums. Switching checksums off also switches off TCP segmentation.
        for feature in [Feature::TxChecksum, Feature::Gso] {
            self.set_feature(feature, false)?;
        }
        netlink.set_link_up(self.far_ifindex).await?;
        netlink.set_link_up(self.near_ifindex).await?;
        // Without GRO a veth loses frames that are redirected to its peer. The peer notices a change of GRO only while
        // the veth is up.
        self.set_feature(Feature::Gro, true)
    }

    /// Without a link-local address the near end sends no solicitations. The kernel must not route what it receives at
    /// the far end: it would go into the near end again. (The XDP program leaves no IP packets there either.)
    fn keep_quiet(&self) -> Result<(), LocalError> {
        sysctl::write_of_interface("ipv6", &self.near, "addr_gen_mode", "1")?;
        sysctl::write_of_interface("ipv6", &self.far, "forwarding", "0")?;
        sysctl::write_of_interface("ipv6", &self.far, "disable_ipv6", "1")?;
        Ok(sysctl::write_of_interface("ipv4", &self.far, "forwarding", "0")?)
    }

    fn set_feature(&self, feature: Feature, on: bool) -> Result<(), LocalError> {
        feature.set(&self.near, on).map_err(|source| LocalError::Feature {
            what: feature.name(),
            name: self.near.clone(),
            source,
        })
    }
}

/// Why there is no local port.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(
        "there is an interface {name} already, which is not mplsxdp's: give the local port another name by `--local NAME`, or \
         remove the interface by `ip link del dev {name}`"
    )]
    Foreign { name: Box<str> },
    #[error(
        "{name} is the local port of instance `{owner}`, which runs in this network namespace: give this one another name by \
         `--local NAME`"
    )]
    InUse { name: Box<str>, owner: Box<str> },
    #[error("{name} has gone while it was set up")]
    Gone { name: Box<str> },
    #[error("cannot set {what} of {name}: {source}")]
    Feature {
        what: &'static str,
        name: Box<str>,
        source: io::Error,
    },
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    #[error(transparent)]
    Netlink(#[from] kernel::Error),
}

/// The instance whose local pair this interface is the near end of.
pub async fn owner(link: &LinkInfo, netlink: &Netlink) -> Option<String> {
    if link.kind.as_deref() != Some("veth") || link.mac != Some(MAC) {
        return None;
    }
    let alias = netlink.link_alias(link.ifindex).await.ok()??;
    alias.strip_prefix(ALIAS).map(str::to_owned)
}

fn far_name(near: &str) -> String {
    let mut name = near.to_owned();
    while name.len() + FAR_SUFFIX.len() > MAX_NAME {
        name.pop();
    }
    name + FAR_SUFFIX
}

/// Whether it is an end of a pair of any instance.
fn is_end(link: &LinkInfo) -> bool {
    link.kind.as_deref() == Some("veth") && link.mac == Some(MAC)
}

/// The instance that left the pair of which an interface is an end, if that process has ended. A program on the far end
/// shows that the process lives, because it is detached when the process ends.
async fn left_by(link: &LinkInfo, instance: &str, netlink: &Netlink) -> Result<Option<String>, LocalError> {
    let peer = link.peer.filter(|peer| peer.netns.is_none()).map(|peer| peer.ifindex);
    let mut owner = netlink.link_alias(link.ifindex).await?;
    if let (None, Some(peer)) = (&owner, peer) {
        owner = netlink.link_alias(peer).await?;
    }
    let owner = owner.as_deref().and_then(|alias| alias.strip_prefix(ALIAS));
    if !is_end(link) {
        return Err(LocalError::Foreign {
            name: link.name.as_ref().into(),
        });
    }
    if let Some(owner) = owner.filter(|owner| *owner != instance) {
        let links = netlink.links().await?;
        let ends = links
            .iter()
            .filter(|other| other.ifindex == link.ifindex || Some(other.ifindex) == peer);
        if ends.into_iter().any(|end| end.xdp.is_some()) {
            return Err(LocalError::InUse {
                name: link.name.as_ref().into(),
                owner: owner.into(),
            });
        }
    }
    Ok(owner.map(str::to_owned))
}

/// Removes what a process that has ended left behind.
async fn take_over(link: &LinkInfo, instance: &str, netlink: &Netlink) -> Result<(), LocalError> {
    let owner = left_by(link, instance, netlink).await?;
    info!(name = &*link.name, owner, "removing a local port that was left behind");
    Ok(netlink.remove_link(link.ifindex).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_end_has_a_name_that_fits() {
        assert_eq!(far_name("mpls0"), "mpls0-port");
        assert_eq!(far_name("0123456789"), "0123456789-port");
        assert_eq!(far_name("0123456789abcde"), "0123456789-port");
        assert_eq!(far_name("ümläutößé"), "ümläutö-port");
    }

    #[test]
    fn all_labels_fit_on_top() {
        assert_eq!(
            [0, 8, 9, 16].map(|deepest| mtu_beneath(1500, deepest)),
            [1468, 1468, 1464, 1436]
        );
        assert_eq!(mtu_beneath(20, 0), 0);
    }
}

//! The other end of a veth, which may be in another network namespace: its name, how it sends, and GRO there.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nix::net::if_::if_nameindex;

use crate::kernel::Netlink;
use crate::kernel::ethtool::{self, Feature, VlanOffloads};
use crate::kernel::netns::{self, within};
use crate::neighbour::Peer;

/// The other end of a veth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FarEnd {
    pub name: Arc<str>,
    /// A file that stands for its network namespace; `None`: it is in this one.
    pub netns: Option<PathBuf>,
}

/// How the other end of a veth sends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sending {
    pub vlan: VlanOffloads,
    /// The names of its VLAN devices.
    pub vlan_devices: Vec<String>,
    /// TCP packets are larger than the MTU (TSO).
    pub unsegmented: bool,
    /// Checksums are left to it (transmit checksum offload).
    pub leaves_checksums: bool,
}

impl FarEnd {
    /// Finds an interface in another network namespace. `None` if this process cannot see or enter that namespace.
    pub async fn find(peer: Peer, netlink: &Netlink) -> Option<Self> {
        let id = peer.netns?;
        for path in tokio::task::spawn_blocking(netns::all).await.ok()? {
            let Ok(file) = File::open(&path) else { continue };
            if netlink.netns_id(&file).await.ok().flatten() != Some(id) {
                continue;
            }
            let ifindex = peer.ifindex;
            let name = within(file, move || {
                let interfaces = if_nameindex()?;
                let found = interfaces.iter().find(|interface| interface.index() == ifindex);
                Ok(found.map(|interface| interface.name().to_string_lossy().into_owned()))
            });
            return Some(Self {
                name: name.await.ok()??.into(),
                netns: Some(path),
            });
        }
        None
    }

    /// The shell command that makes a veth accept redirected frames.
    pub fn command(&self) -> String {
        let (before, name) = (self.shell_prefix(), &self.name);
        format!("{before}ethtool -K {name} gro off; {before}ethtool -K {name} gro on")
    }

    /// The beginning of a shell command to run in its network namespace.
    pub fn shell_prefix(&self) -> String {
        self.netns.as_deref().map_or_else(String::new, netns::shell_prefix)
    }

    /// Looks at how it sends.
    pub async fn sending(&self) -> io::Result<Sending> {
        self.there(|name| {
            // The file does not exist until the kernel has VLAN devices.
            let config = std::fs::read_to_string("/proc/thread-self/net/vlan/config").unwrap_or_default();
            Ok(Sending {
                vlan: ethtool::vlan_offloads(name)?,
                vlan_devices: vlan_devices(&config, name),
                unsegmented: ethtool::sends_unsegmented(name)?,
                leaves_checksums: ethtool::leaves_checksums(name)?,
            })
        })
        .await
    }

    /// Whether frames can be redirected to the veth whose other end is this one, `peer`: only if this end has GRO on or
    /// an XDP program. `None` if that cannot be seen. From Linux 6.3 on, the veth's own XDP features say the same.
    pub async fn takes_redirects(&self, peer: Peer, netlink: &Netlink) -> Option<bool> {
        if self.there(ethtool::merges).await.ok()? {
            return Some(true);
        }
        let link = netlink.peer(peer).await.ok()??;
        Some(link.xdp.is_some())
    }

    /// Does the same as [`FarEnd::command`]. A veth reacts only to changes, so GRO is switched off first.
    pub async fn switch_gro_on(&self) -> io::Result<()> {
        self.there(|name| {
            Feature::Gro.set(name, false)?;
            Feature::Gro.set(name, true)
        })
        .await
    }

    /// Runs `work` with its name in its network namespace.
    async fn there<R: Send + 'static>(
        &self,
        work: impl FnOnce(&str) -> io::Result<R> + Send + 'static,
    ) -> io::Result<R> {
        let name = self.name.clone();
        match &self.netns {
            None => work(&name),
            Some(path) => within(File::open(path)?, move || work(&name)).await,
        }
    }
}

/// The VLAN devices on `parent` in the kernel's `/proc/net/vlan/config`, whose lines are `NAME | VID | PARENT` after
/// two header lines.
fn vlan_devices(config: &str, parent: &str) -> Vec<String> {
    let devices = config.lines().filter_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let (name, _vid, on) = (columns.next()?, columns.next()?, columns.next()?);
        (on == parent).then(|| name.to_owned())
    });
    devices.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlan_devices_are_those_on_the_interface() {
        let config = "VLAN Dev name\t | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n\
                      eth0.100       | 100  | eth0\nvlan7          | 7  | eth0\neth1.100       | 100  | eth1\n\
                      eth0.100.10    | 10  | eth0.100\n";
        assert_eq!(vlan_devices(config, "eth0"), ["eth0.100", "vlan7"]);
        assert_eq!(vlan_devices(config, "eth"), Vec::<String>::new());
        assert_eq!(vlan_devices("", "eth0"), Vec::<String>::new());
    }
}

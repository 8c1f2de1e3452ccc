//! The table of interfaces, by index and by name.

use std::collections::HashMap;
use std::sync::Arc;

use super::{LinkInfo, Vrf};

/// How deep interfaces can be nested (MAX_NEST_DEV of linux/netdevice.h).
const MAX_NESTED: usize = 8;

/// The interfaces that the kernel reported.
#[derive(Default, Debug)]
pub struct Links {
    by_index: HashMap<u32, Link>,
    by_name: HashMap<Arc<str>, u32>,
    /// The names of virtual interfaces. These are ports and take precedence: kernel interfaces with the same names may
    /// come and go.
    virtual_by_name: HashMap<Arc<str>, u32>,
    /// Additional names of ports, which are looked up before the interfaces' own names.
    aliases: HashMap<Arc<str>, u32>,
    /// Counts the resyncs. An entry with an older count was not reported in this one.
    round: u64,
}

#[derive(Debug)]
struct Link {
    info: LinkInfo,
    round: u64,
}

impl Links {
    pub fn get(&self, ifindex: u32) -> Option<&LinkInfo> {
        self.by_index.get(&ifindex).map(|link| &link.info)
    }

    pub fn by_name(&self, name: &str) -> Option<&LinkInfo> {
        let names = [&self.aliases, &self.virtual_by_name, &self.by_name];
        names
            .into_iter()
            .find_map(|names| names.get(name).and_then(|&ifindex| self.get(ifindex)))
    }

    /// Replaces the present aliases, and returns them.
    pub fn set_aliases(&mut self, aliases: HashMap<Arc<str>, u32>) -> HashMap<Arc<str>, u32> {
        std::mem::replace(&mut self.aliases, aliases)
    }

    pub fn aliases(&self) -> &HashMap<Arc<str>, u32> {
        &self.aliases
    }

    /// The VRF that an interface belongs to: as a member, as a member of a bridge or bond that is one, or as the VRF
    /// device.
    pub fn vrf(&self, ifindex: u32) -> Option<Vrf> {
        let master = |link: &&LinkInfo| self.get(link.master.as_ref()?.ifindex);
        let masters = std::iter::successors(self.get(ifindex), master);
        masters.take(MAX_NESTED).find_map(|link| {
            Some(Vrf {
                ifindex: link.ifindex,
                table: link.vrf_table?,
            })
        })
    }

    /// Whether this routing table is a VRF's.
    pub fn is_vrf_table(&self, table: u32) -> bool {
        self.iter().any(|link| link.vrf_table == Some(table))
    }

    pub fn iter(&self) -> impl Iterator<Item = &LinkInfo> {
        self.by_index.values().map(|link| &link.info)
    }

    /// Returns what was known of the interface before.
    pub fn insert(&mut self, info: LinkInfo) -> Option<LinkInfo> {
        let ifindex = info.ifindex;
        let name = info.name.clone();
        let round = self.round;
        let old = self
            .by_index
            .insert(ifindex, Link { info, round })
            .map(|link| link.info);
        if let Some(old) = &old
            && old.name != name
        {
            self.forget_name(&old.name, ifindex);
        }
        // A name belongs to the interface last reported with it. The previous one was renamed to something unknown, or
        // is gone.
        if let Some(former) = self.names_of(ifindex).insert(name, ifindex)
            && former != ifindex
            && let Some(link) = self.by_index.get_mut(&former)
        {
            link.info.name = Arc::from("");
        }
        old
    }

    pub fn remove(&mut self, ifindex: u32) -> Option<LinkInfo> {
        let link = self.by_index.remove(&ifindex)?;
        self.forget_name(&link.info.name, ifindex);
        Some(link.info)
    }

    /// Marks every interface: all are about to be reported again.
    pub fn mark(&mut self) {
        self.round += 1;
    }

    /// The interfaces not reported since [`Links::mark`]. The kernel does not report virtual ones.
    pub fn unmarked(&self) -> Vec<u32> {
        let kernels = self
            .by_index
            .iter()
            .filter(|&(&ifindex, _)| ifindex < LinkInfo::FIRST_VIRTUAL);
        let old = kernels.filter(|(_, link)| link.round != self.round);
        old.map(|(ifindex, _)| *ifindex).collect()
    }

    fn forget_name(&mut self, name: &str, ifindex: u32) {
        let names = self.names_of(ifindex);
        if names.get(name) == Some(&ifindex) {
            names.remove(name);
        }
    }

    /// Where the name of this interface is.
    fn names_of(&mut self, ifindex: u32) -> &mut HashMap<Arc<str>, u32> {
        match ifindex {
            LinkInfo::FIRST_VIRTUAL.. => &mut self.virtual_by_name,
            _ => &mut self.by_name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbour::Master;
    use crate::neighbour::fixture::link;

    #[test]
    fn names_follow_their_interfaces() {
        let mut links = Links::default();
        let index = |links: &Links, name| links.by_name(name).map(|link| link.ifindex);
        assert_eq!(links.insert(link(1, "a")), None);
        links.insert(link(2, "b"));
        // They swap their names, using a third one.
        assert_eq!(links.insert(link(1, "tmp")), Some(link(1, "a")));
        assert_eq!(index(&links, "a"), None);
        links.insert(link(2, "a"));
        links.insert(link(1, "b"));
        assert_eq!(
            (index(&links, "a"), index(&links, "b"), index(&links, "tmp")),
            (Some(2), Some(1), None)
        );
        assert_eq!(links.remove(2), Some(link(2, "a")));
        assert_eq!((index(&links, "a"), links.get(2)), (None, None));
        assert_eq!(links.remove(2), None);
    }

    #[test]
    fn a_name_whose_bearer_is_gone_unheard_goes_to_the_next() {
        let mut links = Links::default();
        links.insert(link(1, "a"));
        links.mark();
        links.insert(link(2, "a"));
        assert_eq!(links.unmarked(), [1]);
        links.remove(1);
        assert_eq!(links.by_name("a"), Some(&link(2, "a")));
        assert_eq!(links.iter().count(), 1);
    }

    #[test]
    fn ports_have_the_first_right_to_their_names() {
        let mut links = Links::default();
        let port = LinkInfo::FIRST_VIRTUAL | 7;
        let index = |links: &Links, name| links.by_name(name).map(|link| link.ifindex);
        links.insert(link(port, "eth1.100"));
        links.insert(link(5, "eth1.100"));
        assert_eq!(index(&links, "eth1.100"), Some(port));
        assert_eq!(links.get(5), Some(&link(5, "eth1.100")));
        links.remove(port);
        assert_eq!(index(&links, "eth1.100"), Some(5));
        // The other way round.
        links.insert(link(port, "eth1.100"));
        assert_eq!(index(&links, "eth1.100"), Some(port));
        links.remove(port);
        // By the name of the kernel's device for it.
        links.insert(link(6, "customer"));
        links.set_aliases(HashMap::from([("eth1.100".into(), 6)]));
        assert_eq!(index(&links, "eth1.100"), Some(6));
        links.remove(6);
        assert_eq!(index(&links, "eth1.100"), Some(5));
    }

    #[test]
    fn an_interface_is_in_the_vrf_of_its_master_or_of_its_bridge() {
        let mut links = Links::default();
        let member = |ifindex, name, master| LinkInfo {
            master: Some(Master {
                ifindex: master,
                kind: None,
            }),
            ..link(ifindex, name)
        };
        let red = Vrf { ifindex: 9, table: 10 };
        links.insert(link(1, "eth1"));
        links.insert(member(2, "eth2", 9));
        links.insert(member(3, "br0", 9));
        links.insert(member(4, "eth4", 3));
        links.insert(member(5, "eth5", 6));
        links.insert(link(6, "br1"));
        // Its VRF has not been reported yet.
        assert_eq!(links.vrf(2), None);
        links.insert(LinkInfo {
            vrf_table: Some(10),
            ..link(9, "red")
        });
        let vrfs: Vec<_> = (1..=7).map(|ifindex| links.vrf(ifindex)).collect();
        assert_eq!(vrfs, [None, Some(red), Some(red), Some(red), None, None, None]);
        // Packets sent from the VRF device itself belong to the VRF.
        assert_eq!(links.vrf(9), Some(red));
        assert!(links.is_vrf_table(10) && !links.is_vrf_table(254));
        // It leaves the VRF.
        links.insert(link(2, "eth2"));
        assert_eq!(links.vrf(2), None);
        links.remove(9);
        assert_eq!(links.vrf(4), None);
    }
}

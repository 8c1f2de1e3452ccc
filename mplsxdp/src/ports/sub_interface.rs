//! VLAN sub-interfaces: the tags and the interface that a name stands for, and the kernel's VLAN device for them.
//!
//! `eth1.100` is VLAN 100 (802.1Q) on eth1, `eth1.100.10` VLAN 10 within service VLAN 100 (802.1ad). A VLAN device of
//! the kernel is recognised by its tags, whatever its name. An interface with such a name that is not a VLAN device is
//! an ordinary interface.

use std::fmt;

use mplsxdp_common::abi::{SubInterfaceKey, VlanTags};
use mplsxdp_common::wire::{ETH_P_8021AD, ETH_P_8021Q};

use crate::neighbour::links::Links;
use crate::neighbour::{LinkInfo, Vlan};

/// The lowest and highest VLAN identifier of a VLAN: 0 is none, 4095 reserved (IEEE 802.1Q section 9.6).
const VIDS: std::ops::RangeInclusive<u16> = 1..=4094;
/// IFNAMSIZ less the NUL.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// The tags of a sub-interface's frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tags {
    pub outer: Vlan,
    pub inner: Option<Vlan>,
}

impl Tags {
    const fn one(outer: Vlan) -> Self {
        Self { outer, inner: None }
    }

    /// Outermost first.
    pub fn iter(self) -> impl Iterator<Item = Vlan> {
        std::iter::once(self.outer).chain(self.inner)
    }

    /// What distinguishes frames of sub-interfaces: the identifiers alone, because both kinds of tags are accepted.
    fn vids(self) -> (u16, u16) {
        (self.outer.vid, self.inner.map_or(0, |inner| inner.vid))
    }

    pub fn key(self, parent: u16) -> SubInterfaceKey {
        let (outer, inner) = self.vids();
        SubInterfaceKey::new(parent.into(), outer, inner)
    }

    pub fn to_wire(self) -> VlanTags {
        match self.inner {
            None => VlanTags::one(self.outer.tpid, self.outer.vid),
            Some(inner) => VlanTags::two(self.outer.tpid, self.outer.vid, inner.tpid, inner.vid),
        }
    }

    /// The name of the sub-interface of `parent` with these tags.
    pub fn name_on(self, parent: &str) -> String {
        self.iter()
            .fold(parent.to_owned(), |name, vlan| format!("{name}.{}", vlan.vid))
    }

    /// The commands that create the kernel's VLAN device `name` on `parent`, under shorter names if these are too long.
    pub fn commands(self, parent: &str, name: &str) -> String {
        let fits = |name: String, tags: Self| match name.len() {
            ..=MAX_NAME => name,
            _ => tags.name_on("vlan").replacen('.', "", 1),
        };
        let name = &fits(name.to_owned(), self);
        let add = |parent: &str, name: &str, vlan: Vlan| {
            let protocol = match vlan.tpid {
                ETH_P_8021AD => "protocol 802.1ad ",
                _ => "",
            };
            format!(
                "ip link add link {parent} name {name} type vlan {protocol}id {}",
                vlan.vid
            )
        };
        match self.inner {
            None => add(parent, name, self.outer),
            Some(inner) => {
                let outer = Self::one(self.outer);
                let between = fits(outer.name_on(parent), outer);
                format!("{}; {}", add(parent, &between, self.outer), add(&between, name, inner))
            }
        }
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, vlan) in self.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{} {}", protocol(vlan), vlan.vid)?;
        }
        Ok(())
    }
}

/// iproute2's name for the TPID.
pub fn protocol(vlan: Vlan) -> &'static str {
    match vlan.tpid {
        ETH_P_8021AD => "802.1ad",
        _ => "802.1Q",
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubInterface {
    /// The interface that receives and sends the tagged frames.
    pub parent: u32,
    pub tags: Tags,
    /// The kernel's VLAN device, if there is one.
    pub device: Option<u32>,
}

/// The sub-interface with this name. `None` if it is the name of an ordinary interface, or of none; an error says why
/// it cannot be a sub-interface.
pub fn find(name: &str, links: &Links) -> Result<Option<SubInterface>, InvalidSubInterface> {
    let by_device = |link: &LinkInfo| match of_device(link, links) {
        Some(Ok(found)) => Ok(Some(found)),
        Some(Err(TooManyTags)) => Err(too_many_tags(name)),
        None => Ok(None),
    };
    // A sub-interface cannot be the parent of another.
    let by_name = |name| {
        links
            .by_name(name)
            .filter(|link| link.ifindex < LinkInfo::FIRST_VIRTUAL)
    };
    if let Some(link) = by_name(name) {
        let found = by_device(link)?;
        return Ok(found.map(|(parent, tags)| SubInterface {
            parent,
            tags,
            device: Some(link.ifindex),
        }));
    }
    let mut rest = name;
    let mut vids = Vec::new();
    let link = loop {
        let Some((shorter, vid)) = split(rest) else {
            return Ok(None);
        };
        rest = shorter;
        vids.insert(0, vid);
        if let Some(link) = by_name(rest) {
            break link;
        }
    };
    let (parent, on_device) = by_device(link)?.map_or((link.ifindex, None), |(parent, tags)| (parent, Some(tags)));
    let vlans = |tpid, vid| vlan(name, tpid, vid);
    let tags = match (on_device, vids.as_slice()) {
        (None, [vid]) => Tags::one(vlans(ETH_P_8021Q, vid)?),
        (None, [outer, inner]) => Tags {
            outer: vlans(ETH_P_8021AD, outer)?,
            inner: Some(vlans(ETH_P_8021Q, inner)?),
        },
        (Some(Tags { outer, inner: None }), [inner]) => Tags {
            outer,
            inner: Some(vlans(ETH_P_8021Q, inner)?),
        },
        _ => return Err(too_many_tags(name)),
    };
    Ok(Some(match device(parent, tags, links) {
        Some((device, tags)) => SubInterface {
            parent,
            tags,
            device: Some(device),
        },
        None => SubInterface {
            parent,
            tags,
            device: None,
        },
    }))
}

/// The kernel's VLAN device on `parent` with the VLAN identifiers of `tags`, and the tags that it sends. If there are
/// several, the one that sends `tags`.
pub fn device(parent: u32, tags: Tags, links: &Links) -> Option<(u32, Tags)> {
    let devices = links.iter().filter_map(|link| match of_device(link, links) {
        Some(Ok((on, found))) if on == parent && found.vids() == tags.vids() => Some((link.ifindex, found)),
        _ => None,
    });
    devices.min_by_key(|&(ifindex, found)| (found != tags, ifindex))
}

struct TooManyTags;

/// The interface at the bottom of a VLAN device, and its tags with those of the devices between. `None` for what is not
/// a VLAN device or is on an interface in another network namespace.
fn of_device(link: &LinkInfo, links: &Links) -> Option<Result<(u32, Tags), TooManyTags>> {
    let vlan = link.vlan?;
    let below = links.get(link.peer.filter(|peer| peer.netns.is_none())?.ifindex)?;
    let Some(outer) = below.vlan else {
        return Some(Ok((below.ifindex, Tags::one(vlan))));
    };
    let lowest = links.get(below.peer.filter(|peer| peer.netns.is_none())?.ifindex)?;
    Some(match lowest.vlan {
        None => Ok((
            lowest.ifindex,
            Tags {
                outer,
                inner: Some(vlan),
            },
        )),
        Some(_) => Err(TooManyTags),
    })
}

/// A name without its last part, and that part, if it is a number.
fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.')
        .filter(|(rest, vid)| !rest.is_empty() && !vid.is_empty() && vid.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Why a name that looks like a sub-interface's cannot be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSubInterface {
    #[error("{name} has more than two VLAN tags; at most two are supported")]
    TooManyTags { name: Box<str> },
    #[error("{name}: {vid} is not a VLAN identifier: these are {} to {}", VIDS.start(), VIDS.end())]
    Vid { name: Box<str>, vid: Box<str> },
}

fn too_many_tags(name: &str) -> InvalidSubInterface {
    InvalidSubInterface::TooManyTags { name: name.into() }
}

fn vlan(name: &str, tpid: u16, vid: &str) -> Result<Vlan, InvalidSubInterface> {
    let number = vid.parse().ok().filter(|number| VIDS.contains(number));
    // Each number can be written in one way only, so that no two names are the same sub-interface.
    match number.filter(|_| !vid.starts_with('0')) {
        Some(vid) => Ok(Vlan { tpid, vid }),
        None => Err(InvalidSubInterface::Vid {
            name: name.into(),
            vid: vid.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbour::Peer;
    use crate::neighbour::fixture::link;

    const Q: u16 = ETH_P_8021Q;
    const AD: u16 = ETH_P_8021AD;

    fn vlan_device(ifindex: u32, name: &str, on: u32, tpid: u16, vid: u16) -> LinkInfo {
        LinkInfo {
            kind: Some("vlan".into()),
            peer: Some(Peer {
                ifindex: on,
                netns: None,
            }),
            vlan: Some(Vlan { tpid, vid }),
            ..link(ifindex, name)
        }
    }

    fn links(infos: impl IntoIterator<Item = LinkInfo>) -> Links {
        let mut links = Links::default();
        for info in infos {
            links.insert(info);
        }
        links
    }

    fn one(tpid: u16, vid: u16) -> Tags {
        Tags::one(Vlan { tpid, vid })
    }

    fn two(outer: (u16, u16), inner: (u16, u16)) -> Tags {
        let vlan = |(tpid, vid)| Vlan { tpid, vid };
        Tags {
            outer: vlan(outer),
            inner: Some(vlan(inner)),
        }
    }

    fn found(name: &str, links: &Links) -> Option<(u32, Tags, Option<u32>)> {
        let found = find(name, links).unwrap();
        found.map(|found| (found.parent, found.tags, found.device))
    }

    #[test]
    fn a_name_says_parent_and_tags() {
        let links = links([link(2, "eth1"), link(3, "a.b")]);
        assert_eq!(found("eth1", &links), None);
        assert_eq!(found("eth1.100", &links), Some((2, one(Q, 100), None)));
        assert_eq!(found("eth1.4094.1", &links), Some((2, two((AD, 4094), (Q, 1)), None)));
        assert_eq!(found("a.b.7", &links), Some((3, one(Q, 7), None)));
        for none in [
            "eth9.100",
            "eth9.100.10",
            "eth1.",
            "eth1.x",
            ".100",
            "100",
            "eth1.100.",
            "a.7",
            "a.7.8.9",
        ] {
            assert_eq!(found(none, &links), None, "{none}");
        }
    }

    #[test]
    fn what_is_no_vlan_identifier_is_named() {
        let links = links([link(2, "eth1")]);
        for (name, vid) in [
            ("eth1.0", "0"),
            ("eth1.4095", "4095"),
            ("eth1.100000", "100000"),
            ("eth1.007", "007"),
            ("eth1.0.10", "0"),
            ("eth1.100.4095", "4095"),
        ] {
            assert_eq!(
                find(name, &links).unwrap_err().to_string(),
                format!("{name}: {vid} is not a VLAN identifier: these are 1 to 4094")
            );
        }
        for name in ["eth1.100.10.5", "eth1.1.2.3.4"] {
            let reason = find(name, &links).unwrap_err().to_string();
            assert_eq!(
                reason,
                format!("{name} has more than two VLAN tags; at most two are supported")
            );
        }
    }

    #[test]
    fn a_vlan_device_is_what_it_is_under_any_name() {
        let links = links([
            link(2, "eth1"),
            vlan_device(5, "vlan100", 2, Q, 100),
            vlan_device(6, "service", 2, AD, 200),
            vlan_device(7, "customer", 6, Q, 10),
            vlan_device(8, "third", 7, Q, 1),
            // Named after another one.
            vlan_device(9, "eth1.30", 2, AD, 31),
        ]);
        assert_eq!(found("vlan100", &links), Some((2, one(Q, 100), Some(5))));
        assert_eq!(found("service", &links), Some((2, one(AD, 200), Some(6))));
        assert_eq!(found("customer", &links), Some((2, two((AD, 200), (Q, 10)), Some(7))));
        assert_eq!(found("eth1.30", &links), Some((2, one(AD, 31), Some(9))));
        // By their parent's name, with the tags that the device has.
        assert_eq!(found("eth1.100", &links), Some((2, one(Q, 100), Some(5))));
        assert_eq!(found("eth1.200", &links), Some((2, one(AD, 200), Some(6))));
        assert_eq!(
            found("eth1.200.10", &links),
            Some((2, two((AD, 200), (Q, 10)), Some(7)))
        );
        // Within a device's VLAN.
        assert_eq!(found("vlan100.10", &links), Some((2, two((Q, 100), (Q, 10)), None)));
        for name in ["third", "customer.1", "vlan100.1.2"] {
            assert_eq!(
                find(name, &links).unwrap_err().to_string(),
                format!("{name} has more than two VLAN tags; at most two are supported")
            );
        }
    }

    #[test]
    fn ordinary_interfaces_win() {
        let mut elsewhere = vlan_device(6, "moved", 2, Q, 7);
        elsewhere.peer.as_mut().unwrap().netns = Some(0);
        let links = links([link(2, "eth1"), link(5, "eth1.100"), elsewhere]);
        assert_eq!(found("eth1.100", &links), None);
        assert_eq!(found("eth1.100.10", &links), Some((5, one(Q, 10), None)));
        assert_eq!(found("moved", &links), None);
    }

    #[test]
    fn what_is_a_port_already_is_no_interface() {
        let links = links([link(2, "eth1"), link(LinkInfo::FIRST_VIRTUAL | 7, "eth1.100")]);
        assert_eq!(found("eth1.100", &links), Some((2, one(Q, 100), None)));
        assert_eq!(found("eth1.100.10", &links), Some((2, two((AD, 100), (Q, 10)), None)));
        assert!(find("eth1.100.10.5", &links).is_err());
    }

    #[test]
    fn of_two_devices_with_the_same_vlan_identifier_the_one_with_the_same_tags() {
        let mut links = links([
            link(2, "eth1"),
            vlan_device(5, "ad", 2, AD, 100),
            vlan_device(6, "q", 2, Q, 100),
        ]);
        assert_eq!(device(2, one(Q, 100), &links), Some((6, one(Q, 100))));
        links.remove(6);
        assert_eq!(device(2, one(Q, 100), &links), Some((5, one(AD, 100))));
        links.remove(5);
        assert_eq!(device(2, one(Q, 100), &links), None);
    }

    #[test]
    fn devices_are_made_by_these_commands() {
        assert_eq!(
            one(Q, 100).commands("eth1", "eth1.100"),
            "ip link add link eth1 name eth1.100 type vlan id 100"
        );
        assert_eq!(
            two((AD, 100), (Q, 10)).commands("eth1", "eth1.100.10"),
            "ip link add link eth1 name eth1.100 type vlan protocol 802.1ad id 100; \
             ip link add link eth1.100 name eth1.100.10 type vlan id 10"
        );
        // No name is longer than the kernel takes.
        assert_eq!(
            one(Q, 10).commands("verylongname0", "verylongname0.1"),
            "ip link add link verylongname0 name verylongname0.1 type vlan id 10"
        );
        assert_eq!(
            one(Q, 100).commands("verylongname012", "verylongname012.100"),
            "ip link add link verylongname012 name vlan100 type vlan id 100"
        );
        assert_eq!(
            two((AD, 1000), (Q, 10)).commands("verylongname0", "verylongname0.1000.10"),
            "ip link add link verylongname0 name vlan1000 type vlan protocol 802.1ad id 1000; \
             ip link add link vlan1000 name vlan1000.10 type vlan id 10"
        );
        assert_eq!(two((AD, 100), (Q, 10)).to_string(), "802.1ad 100 802.1Q 10");
        assert_eq!(two((AD, 100), (Q, 10)).name_on("eth1"), "eth1.100.10");
        assert_eq!(
            two((AD, 100), (Q, 10)).to_wire().to_bytes(),
            [0x88, 0xa8, 0, 100, 0x81, 0, 0, 10]
        );
    }
}

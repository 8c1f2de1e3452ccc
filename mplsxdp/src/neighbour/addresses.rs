//! The table of this machine's addresses, by interface.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Event, InterfaceAddress};

/// The addresses that the kernel reported.
#[derive(Default, Debug)]
pub struct Addresses {
    /// Each address with the number of the resync that last reported it.
    addresses: BTreeMap<InterfaceAddress, u64>,
    round: u64,
}

impl Addresses {
    /// During a resync, addresses that have not been reported yet stay.
    pub fn handle(&mut self, event: &Event) {
        match event {
            Event::Reset => self.round += 1,
            Event::Synced => {
                let round = self.round;
                self.addresses.retain(|_, seen| *seen == round);
            }
            Event::Address(address) => drop(self.addresses.insert(*address, self.round)),
            Event::AddressGone(address) => drop(self.addresses.remove(address)),
            Event::Link(_)
            | Event::LinkGone(_)
            | Event::Neighbour(_)
            | Event::NeighbourGone { .. }
            | Event::Route { .. }
            | Event::RouteGone(_)
            | Event::NextHopObjectGone
            | Event::Routing(_)
            | Event::Rules => {}
        }
    }

    /// Whether `address` belongs to this machine.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.keys().any(|own| own.address.addr() == address)
    }

    /// The addresses, in the family of `address`, that others can reach.
    pub fn reachable_as(&self, address: IpAddr) -> impl Iterator<Item = IpAddr> {
        let addresses = self.addresses.keys().map(|own| own.address.addr());
        addresses.filter(move |own| is_reachable(*own) && own.is_ipv4() == address.is_ipv4())
    }

    /// The address to answer `remote` from, for a packet that arrived on interface `ifindex`: one of the interface,
    /// else of an interface that is `beside` it (in the same VRF), else any address of this machine that others can
    /// reach. If there are several, the one whose network contains `remote`.
    pub fn source(&self, ifindex: u32, remote: IpAddr, beside: impl Fn(u32) -> bool) -> Option<IpAddr> {
        let usable = |address: &&InterfaceAddress| {
            let ip = address.address.addr();
            is_reachable(ip) && ip.is_ipv4() == remote.is_ipv4()
        };
        let best = self.addresses.keys().filter(usable).min_by_key(|address| {
            let elsewhere = address.ifindex != ifindex;
            (
                elsewhere,
                elsewhere && !beside(address.ifindex),
                !address.address.contains(&remote),
                **address,
            )
        });
        best.map(|address| address.address.addr())
    }

    /// The interfaces with an address in the same network as `address`.
    pub fn on_link(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let networks = self.addresses.keys().filter(move |own| own.address.contains(&address));
        networks.map(|own| own.ifindex)
    }

    /// Whether `prefix` is the network of an address of this machine, or such an address alone, on an interface for
    /// which `choose` is true. Loopback networks do not count.
    pub fn is_own_prefix(&self, prefix: IpNet, choose: impl Fn(u32) -> bool) -> bool {
        self.addresses.keys().any(|own| {
            let is_it = own.address.trunc() == prefix || IpNet::from(own.address.addr()) == prefix;
            is_it && is_reachable(own.address.addr()) && choose(own.ifindex)
        })
    }

    /// Whether `address` is the broadcast address of one of this machine's networks, on an interface for which `choose`
    /// is true. Networks of one or two addresses have none (RFC 3021).
    pub fn is_broadcast(&self, address: IpAddr, choose: impl Fn(u32) -> bool) -> bool {
        self.addresses.keys().any(|own| match own.address {
            IpNet::V4(net) => net.prefix_len() <= 30 && address == net.broadcast() && choose(own.ifindex),
            IpNet::V6(_) => false,
        })
    }
}

/// Whether others can send to this address of this machine.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ifindex: u32, text: &str) -> InterfaceAddress {
        InterfaceAddress {
            ifindex,
            address: text.parse().unwrap(),
        }
    }

    fn anywhere(_: u32) -> bool {
        true
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_interface_s_own_address_comes_first_then_one_that_others_can_reach() {
        let mut addresses = Addresses::default();
        for (ifindex, text) in [
            (1, "127.0.0.1/8"),
            (2, "fe80::1/64"),
            (2, "10.0.0.1/24"),
            (2, "10.9.0.1/24"),
            (3, "10.0.1.1/24"),
            (3, "2001:db8::1/64"),
        ] {
            addresses.handle(&Event::Address(address(ifindex, text)));
        }
        assert_eq!(addresses.source(2, ip("192.0.2.1"), anywhere), Some(ip("10.0.0.1")));
        assert_eq!(addresses.source(2, ip("10.9.0.7"), anywhere), Some(ip("10.9.0.1")));
        assert_eq!(addresses.source(3, ip("10.9.0.7"), anywhere), Some(ip("10.0.1.1")));
        assert_eq!(
            addresses.source(2, ip("2001:db8::9"), anywhere),
            Some(ip("2001:db8::1"))
        );
        assert_eq!(addresses.source(4, ip("192.0.2.1"), anywhere), Some(ip("10.0.0.1")));
    }

    #[test]
    fn own_prefixes_are_networks_and_addresses_that_others_can_reach() {
        let mut addresses = Addresses::default();
        for (ifindex, text) in [
            (1, "127.0.0.1/8"),
            (2, "10.0.0.1/24"),
            (1, "192.0.2.4/32"),
            (3, "2001:db8::1/64"),
        ] {
            addresses.handle(&Event::Address(address(ifindex, text)));
        }
        for (prefix, is_own) in [
            ("10.0.0.0/24", true),
            ("10.0.0.1/32", true),
            ("192.0.2.4/32", true),
            ("2001:db8::/64", true),
            ("10.0.0.2/32", false),
            ("10.0.0.0/16", false),
            ("127.0.0.0/8", false),
            ("0.0.0.0/0", false),
        ] {
            assert_eq!(
                addresses.is_own_prefix(prefix.parse().unwrap(), anywhere),
                is_own,
                "{prefix}"
            );
        }
        assert!(!addresses.is_own_prefix("10.0.0.0/24".parse().unwrap(), |ifindex| ifindex != 2));
    }

    #[test]
    fn an_address_of_the_same_vrf_comes_before_others() {
        let mut addresses = Addresses::default();
        for (ifindex, text) in [(2, "10.0.0.1/24"), (3, "10.1.0.1/24"), (4, "fe80::4/64")] {
            addresses.handle(&Event::Address(address(ifindex, text)));
        }
        let beside = |ifindex| ifindex >= 3;
        assert_eq!(addresses.source(4, ip("10.0.0.9"), beside), Some(ip("10.1.0.1")));
        assert_eq!(addresses.source(4, ip("10.0.0.9"), anywhere), Some(ip("10.0.0.1")));
        assert_eq!(addresses.source(2, ip("10.1.0.9"), beside), Some(ip("10.0.0.1")));
    }

    #[test]
    fn a_neighbour_s_address_is_in_the_network_of_an_interface() {
        let mut addresses = Addresses::default();
        for (ifindex, text) in [(2, "10.0.0.1/24"), (3, "10.0.0.129/25"), (3, "2001:db8::1/64")] {
            addresses.handle(&Event::Address(address(ifindex, text)));
        }
        let found = |text: &str| addresses.on_link(ip(text)).collect::<Vec<_>>();
        assert_eq!(found("10.0.0.200"), [2, 3]);
        assert_eq!(found("10.0.0.2"), [2]);
        assert_eq!(found("2001:db8::2"), [3]);
        assert!(found("10.0.1.2").is_empty());
    }

    #[test]
    fn an_address_is_this_routers_while_an_interface_has_it() {
        let mut addresses = Addresses::default();
        for (ifindex, text) in [
            (1, "127.0.0.1/8"),
            (2, "10.0.0.1/24"),
            (3, "10.0.0.1/32"),
            (3, "fe80::1/64"),
        ] {
            addresses.handle(&Event::Address(address(ifindex, text)));
        }
        assert!(addresses.has(ip("10.0.0.1")) && addresses.has(ip("fe80::1")) && !addresses.has(ip("10.0.0.2")));
        let reachable = |text| Vec::from_iter(addresses.reachable_as(ip(text)));
        assert_eq!(reachable("192.0.2.1"), [ip("10.0.0.1"), ip("10.0.0.1")]);
        assert_eq!(reachable("2001:db8::1"), Vec::<IpAddr>::new());
        addresses.handle(&Event::AddressGone(address(2, "10.0.0.1/24")));
        assert!(addresses.has(ip("10.0.0.1")));
        addresses.handle(&Event::AddressGone(address(3, "10.0.0.1/32")));
        assert!(!addresses.has(ip("10.0.0.1")));
    }

    #[test]
    fn a_network_of_more_than_two_addresses_has_a_broadcast_address() {
        let mut addresses = Addresses::default();
        for text in ["10.0.0.1/24", "10.0.1.0/31", "10.0.2.1/32", "2001:db8::1/120"] {
            addresses.handle(&Event::Address(address(2, text)));
        }
        assert!(addresses.is_broadcast(ip("10.0.0.255"), anywhere));
        assert!(!addresses.is_broadcast(ip("10.0.0.255"), |ifindex| ifindex != 2));
        for other in ["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.3.255", "2001:db8::ff"] {
            assert!(!addresses.is_broadcast(ip(other), anywhere), "{other}");
        }
    }

    #[test]
    fn a_resync_drops_what_is_not_reported_again() {
        let mut addresses = Addresses::default();
        addresses.handle(&Event::Address(address(2, "10.0.0.1/24")));
        addresses.handle(&Event::Address(address(2, "10.0.0.2/24")));
        for event in [Event::Reset, Event::Address(address(2, "10.0.0.2/24")), Event::Synced] {
            addresses.handle(&event);
        }
        assert_eq!(addresses.source(2, ip("192.0.2.1"), anywhere), Some(ip("10.0.0.2")));
        addresses.handle(&Event::AddressGone(address(2, "10.0.0.2/24")));
        assert_eq!(addresses.source(2, ip("192.0.2.1"), anywhere), None);
    }
}

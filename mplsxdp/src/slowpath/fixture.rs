//! A machine in memory for tests and fuzzing: its tables, ports and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mplsxdp_common::abi::{Adjacency, Domain, LabelStack, Op, PortWord, RouteEntry, Settings, TtlMode, TtlPropagate};
use mplsxdp_common::wire::{ETH_P_MPLS_UC, Label, Lse, Mac};

use super::World;
use super::icmp::checksum;
use crate::dataplane::memory::{AtPort, MemoryTables};
use crate::dataplane::{FtnKey, Tables as _};

/// Frames arrive here.
pub const INGRESS: u16 = 0;
/// Every resolved next hop is behind this port.
pub const EGRESS: u16 = 1;
/// Slots of the adjacency table.
pub const NEIGHBOUR: u16 = 1;
pub const UNRESOLVED: u16 = 2;
pub const NARROW: u16 = 3;
/// MTU of [`NEIGHBOUR`] and of [`NARROW`].
pub const MTU: u16 = 1500;
pub const NARROW_MTU: u16 = 400;
/// Addresses of this machine.
pub const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
pub const OWN_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 255);
pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// The slow path's view of the machine.
#[derive(Debug)]
pub struct MemoryWorld {
    pub tables: MemoryTables,
    pub settings: Settings,
    pub source_v4: Option<Ipv4Addr>,
    pub source_v6: Option<Ipv6Addr>,
    pub routes: Vec<IpNet>,
}

impl World for MemoryWorld {
    type View<'a> = AtPort<'a>;

    fn tables_at(&self, port: u16) -> AtPort<'_> {
        self.tables.without_tags(self.settings.with_port(port.into()))
    }

    fn source_address(&self, _port: u16, remote: IpAddr) -> Option<IpAddr> {
        match remote {
            IpAddr::V4(_) => self.source_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.source_v6.map(IpAddr::V6),
        }
    }

    fn is_broadcast(&self, _port: u16, address: IpAddr) -> bool {
        address == OWN_BROADCAST
    }

    fn has_specific_route(&self, _port: u16, destination: IpAddr) -> bool {
        self.routes.iter().any(|route| route.contains(&destination))
    }

    fn is_own_address(&self, address: IpAddr) -> bool {
        address == OWN_V4 || address == OWN_V6
    }

    fn is_own_prefix(&self, _port: u16, prefix: IpNet) -> bool {
        let networks: [IpNet; 2] = [
            Ipv4Net::new_assert(OWN_V4, 24).into(),
            Ipv6Net::new_assert(OWN_V6, 64).into(),
        ];
        let mut networks = networks.iter();
        networks.any(|own| own.trunc() == prefix || IpNet::from(own.addr()) == prefix)
    }

    fn next_hop_address(&self, adjacency: u16) -> Option<IpAddr> {
        (adjacency != NARROW).then(|| next_hop_v4(adjacency).into())
    }

    fn time_since_epoch(&self) -> Duration {
        NOW
    }
}

/// The time of day.
pub const NOW: Duration = Duration::from_millis(1_000_000_500);

/// The address of a next hop. [`NARROW`] has none.
pub fn next_hop_v4(adjacency: u16) -> Ipv4Addr {
    let [high, low] = adjacency.to_be_bytes();
    Ipv4Addr::new(10, 0, high, low)
}

impl MemoryWorld {
    /// Without routes.
    pub fn empty() -> Self {
        let mut tables = MemoryTables::default();
        for port in [INGRESS, EGRESS] {
            tables.store_port(port, PortWord::new(port_mac(port), PortWord::MPLS | PortWord::IMPOSE));
        }
        tables.store_adjacency(NEIGHBOUR, adjacency(MTU));
        tables.store_adjacency(NARROW, adjacency(NARROW_MTU));
        Self {
            tables,
            settings: Settings::new(0, TtlMode::Uniform, 255, false, false),
            source_v4: Some(OWN_V4),
            source_v6: Some(OWN_V6),
            routes: Vec::new(),
        }
    }

    /// With these:
    ///
    /// | in | out |
    /// |---|---|
    /// | 100 | as 110 |
    /// | 122 | as 22 |
    /// | 17 | implicit-null |
    /// | 210 | pop |
    /// | 300 | as 200/110 |
    /// | 120 | dev lo |
    /// | 500 | as 510, unresolved |
    /// | 600 | as 610, narrow |
    /// | 10.4.4.0/24, 2001:db8:4::/48 | encap 1000 |
    /// | 10.5.5.0/24 | encap 1001, unresolved |
    pub fn router() -> Self {
        let mut world = Self::empty();
        let stack = LabelStack::new(&[label(200), label(110)], None).unwrap_or_else(|| unreachable!("two labels fit"));
        world.tables.store_stack(0, stack);
        let routes = [
            (100, Op::Label, 110, NEIGHBOUR),
            (122, Op::Label, 22, NEIGHBOUR),
            (17, Op::PenultimatePop, 0, NEIGHBOUR),
            (210, Op::Pop, 0, NEIGHBOUR),
            (300, Op::Stack, 0, NEIGHBOUR),
            (120, Op::Local, 0, 0),
            (500, Op::Label, 510, UNRESOLVED),
            (600, Op::Label, 610, NARROW),
        ];
        for (incoming, op, operand, next_hop) in routes {
            world.tables.store_ilm(label(incoming), entry(op, operand, next_hop));
        }
        world.add_ftn("10.4.4.0/24", entry(Op::Label, 1000, NEIGHBOUR));
        world.add_ftn("2001:db8:4::/48", entry(Op::Label, 1000, NEIGHBOUR));
        world.add_ftn("10.5.5.0/24", entry(Op::Label, 1001, UNRESOLVED));
        world
    }

    pub fn add_ftn(&mut self, prefix: &str, entry: RouteEntry) {
        self.add_ftn_in(Domain::NO_VRF, prefix, entry);
    }

    pub fn add_ftn_in(&mut self, domain: Domain, prefix: &str, entry: RouteEntry) {
        if let Ok(prefix) = prefix.parse() {
            let written = self.tables.insert_ftn(FtnKey::new(domain, prefix), entry);
            written.expect("there is room");
            self.tables.publish_ftn(&mut |_| true);
        }
    }

    /// The MAC address of [`UNRESOLVED`] becomes known.
    pub fn resolve(&mut self) {
        self.tables.store_adjacency(UNRESOLVED, adjacency(MTU));
    }
}

pub const fn entry(op: Op, operand: u32, next_hop: u16) -> RouteEntry {
    RouteEntry::new(op, TtlPropagate::Default, operand, next_hop, 0)
}

pub const fn label(value: u32) -> Label {
    Label::from_low_bits(value)
}

pub const fn port_mac(port: u16) -> Mac {
    Mac([2, 0, 0, 0, 1, port as u8])
}

/// The MAC address of every neighbour.
pub const NEIGHBOUR_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);

const fn adjacency(mtu: u16) -> Adjacency {
    Adjacency::new(NEIGHBOUR_MAC, EGRESS, port_mac(EGRESS), mtu)
}

/// A frame for [`INGRESS`].
pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [
        &port_mac(INGRESS).0,
        &NEIGHBOUR_MAC.0,
        &ethertype.to_be_bytes()[..],
        payload,
    ]
    .concat()
}

/// A labelled frame for [`INGRESS`]. `stack` has labels and TTLs, outermost first.
pub fn labelled(stack: &[(u32, u8)], payload: &[u8]) -> Vec<u8> {
    ethernet(ETH_P_MPLS_UC, &[&lses(stack), payload].concat())
}

/// Label stack entries as on the wire, TC 0.
pub fn lses(stack: &[(u32, u8)]) -> Vec<u8> {
    let last = stack.len().saturating_sub(1);
    let lses = stack.iter().enumerate();
    lses.flat_map(|(index, &(value, ttl))| Lse::new(label(value), 0, index == last, ttl).to_bytes())
        .collect()
}

/// The IPv4 packet that `fragments` belong to; they must be in order, each with a valid header. If fragments before or
/// after them are missing, the result is itself a fragment. `None` if they do not fit together, or if a header field
/// that must be equal in all fragments differs.
pub fn reassembled<T: AsRef<[u8]>>(fragments: &[T]) -> Option<Vec<u8>> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    let word = |header: &[u8], offset: usize| u16::from_be_bytes([header[offset], header[offset + 1]]);
    let first = fragments.first()?.as_ref();
    let first_header = first.get(..usize::from(first.first()? & 0xf) * 4)?;
    let start = usize::from(word(first_header, 6) & 0x1fff) * 8;
    let mut data = Vec::new();
    let mut last_flags = 0;
    for (index, fragment) in fragments.iter().enumerate() {
        let fragment = fragment.as_ref();
        let (header, body) = fragment.split_at_checked(usize::from(fragment.first()? & 0xf) * 4)?;
        last_flags = word(header, 6) & 0xe000;
        let is_right = checksum(0, header) == 0
            && usize::from(word(header, 2)) == fragment.len()
            && (header[1], word(header, 4)) == (first[1], word(first, 4))
            && (&header[8..10], &header[12..20]) == (&first[8..10], &first[12..20])
            && usize::from(word(header, 6) & 0x1fff) * 8 == start + data.len()
            && (index + 1 == fragments.len() || last_flags & MORE_FRAGMENTS != 0)
            && copied_options(&header[20..]).eq(copied_options(&first_header[20..]))
            && (index == 0
                || copied_options(&header[20..])
                    .map(<[u8]>::len)
                    .sum::<usize>()
                    .next_multiple_of(4)
                    == header.len() - 20);
        if !is_right {
            return None;
        }
        data.extend(body);
    }
    let mut packet = [first_header, &data].concat();
    let total_len = packet.len() as u16;
    packet[2..4].copy_from_slice(&total_len.to_be_bytes());
    packet[6..8].copy_from_slice(&(last_flags | (start / 8) as u16).to_be_bytes());
    packet[10..12].fill(0);
    let right = checksum(0, &packet[..first_header.len()]);
    packet[10..12].copy_from_slice(&right.to_be_bytes());
    Some(packet)
}

/// Those of the valid IPv4 options that must be in every fragment.
fn copied_options(mut options: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = std::iter::from_fn(move || {
        let length = match *options.first()? {
            0 => return None,
            1 => 1,
            _ => usize::from(*options.get(1)?).max(2),
        };
        let (option, rest) = options.split_at_checked(length)?;
        options = rest;
        Some(option)
    });
    all.filter(|option| option[0] & 0x80 != 0)
}

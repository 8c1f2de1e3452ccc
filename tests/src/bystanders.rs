//! Frames that share the wire with labelled frames and do not concern a label switch.

use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, Mac};

use crate::frame::ethernet;

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_LLDP: u16 = 0x88cc;
const BROADCAST: Mac = Mac([0xff; 6]);
const NEAREST_BRIDGE: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);

/// One frame of each kind from `source`, with its name; frames for one station go to `destination`.
pub fn all(destination: Mac, source: Mac) -> Vec<(&'static str, Vec<u8>)> {
    let solicited = Mac([0x33, 0x33, 0xff, 0, 0, 1]);
    let igmp = Mac([0x01, 0x00, 0x5e, 0, 0, 0x16]);
    vec![
        ("LLDP", ethernet(NEAREST_BRIDGE, source, ETH_P_LLDP, &lldp(source))),
        (
            "an ARP request",
            ethernet(BROADCAST, source, ETH_P_ARP, &arp_request(source)),
        ),
        (
            "an ARP request to one station",
            ethernet(destination, source, ETH_P_ARP, &arp_request(source)),
        ),
        (
            "an ARP reply",
            ethernet(destination, source, ETH_P_ARP, &arp_reply(destination, source)),
        ),
        ("an IGMP report", ethernet(igmp, source, ETH_P_IP, &IGMP_REPORT)),
        (
            "an IPv6 neighbour solicitation",
            ethernet(solicited, source, ETH_P_IPV6, &neighbour_solicitation(source)),
        ),
        (
            "an IPv6 neighbour advertisement",
            ethernet(destination, source, ETH_P_IPV6, &neighbour_advertisement(source)),
        ),
    ]
}

/// Chassis and port by MAC address, 120 s, end (IEEE 802.1AB).
pub fn lldp(mac: Mac) -> Vec<u8> {
    [
        &[0x02, 0x07, 0x04][..],
        &mac.0,
        &[0x04, 0x07, 0x03],
        &mac.0,
        &[0x06, 0x02, 0x00, 0x78, 0x00, 0x00],
    ]
    .concat()
}

/// 10.0.1.9 asks for 10.0.1.1.
pub fn arp_request(mac: Mac) -> Vec<u8> {
    arp(1, mac, Mac::ZERO)
}

/// 10.0.1.9 announces its MAC address to 10.0.1.1.
pub fn arp_reply(destination: Mac, mac: Mac) -> Vec<u8> {
    arp(2, mac, destination)
}

fn arp(operation: u8, sender: Mac, target: Mac) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4, 0, operation][..],
        &sender.0,
        &[10, 0, 1, 9],
        &target.0,
        &[10, 0, 1, 1],
    ]
    .concat()
}

/// IGMPv3 membership report from 10.0.1.9 to 224.0.0.22 for 239.1.1.1, with the Router Alert option (RFC 3376 section
/// 4.2).
pub const IGMP_REPORT: [u8; 40] = [
    0x46, 0xc0, 0, 40, 0, 0, 0x40, 0, 1, 2, 0xf8, 0xf0, 10, 0, 1, 9, 224, 0, 0, 22, 0x94, 0x04, 0, 0, 0x22, 0, 0xe9,
    0xfb, 0, 0, 0, 1, 4, 0, 0, 0, 239, 1, 1, 1,
];

const FE80_9: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// fe80::9 asks for fd00:1::1 (RFC 4861 section 4.3). The checksum is wrong, which does not matter here.
pub fn neighbour_solicitation(mac: Mac) -> Vec<u8> {
    const SOLICITATION: u8 = 135;
    const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
    let to = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    let target = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    neighbour_discovery(to, [SOLICITATION, 0], target, SOURCE_LINK_LAYER_ADDRESS, mac)
}

/// fe80::9 announces its MAC address to fe80::1, solicited (RFC 4861 section 4.4). The checksum is wrong, too.
pub fn neighbour_advertisement(mac: Mac) -> Vec<u8> {
    const ADVERTISEMENT: u8 = 136;
    const SOLICITED: u8 = 0x40;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    let to = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    neighbour_discovery(to, [ADVERTISEMENT, SOLICITED], FE80_9, TARGET_LINK_LAYER_ADDRESS, mac)
}

fn neighbour_discovery(to: [u8; 16], [kind, flags]: [u8; 2], target: [u8; 16], option: u8, mac: Mac) -> Vec<u8> {
    [
        &[0x60, 0, 0, 0, 0, 32, 58, 255][..],
        &FE80_9,
        &to,
        &[kind, 0, 0, 0, flags, 0, 0, 0],
        &target,
        &[option, 1],
        &mac.0,
    ]
    .concat()
}

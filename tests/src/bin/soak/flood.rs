//! What a hostile neighbour sends.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Result;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_MPLS_UC, Mac};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use mplsxdp_tests::random::Random;
use nix::errno::Errno;

use crate::net::Net;

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// Different frames of a flood.
const FRAMES: u64 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flood {
    /// Their TTL expires, with sources from a whole /16.
    Expired,
    /// Labels without a route.
    Unknown,
    /// ARP in any name.
    Arp,
    /// Random bytes.
    Random,
}

impl Flood {
    pub const ALL: [Self; 4] = [Self::Expired, Self::Unknown, Self::Arp, Self::Random];

    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "flood of expired TTLs",
            Self::Unknown => "flood of unknown labels",
            Self::Arp => "flood of ARP",
            Self::Random => "flood of random bytes",
        }
    }

    fn frame(self, random: &mut Random, to: Mac, from: Mac) -> Result<Vec<u8>> {
        let packet = |source: u64| {
            let source = IpAddr::from(Ipv4Addr::from(0xc612_0000 + source as u32));
            udp(source, "10.9.0.1".parse()?, 64, b"flood")
        };
        let mut bytes = |count: u64| (0..count).map(|_| random.below(256) as u8).collect::<Vec<_>>();
        Ok(match self {
            Self::Expired => labelled(to, from, &[Entry::new(100, 1)], &packet(random.below(1 << 16))?),
            Self::Unknown => {
                let label = 500_000 + random.below(1 << 18) as u32;
                labelled(to, from, &[Entry::new(label, 64)], &packet(1)?)
            }
            Self::Arp => {
                let (mac, address) = (bytes(4), bytes(1));
                let mac = [&[2, 9], &*mac].concat();
                let arp = [
                    &[0, 1, 8, 0, 6, 4, 0, 2][..],
                    &mac,
                    &[10, 0, 3, address[0] | 4],
                    &to.0,
                    &[10, 0, 3, 1],
                ];
                ethernet(to, from, ETH_P_ARP, &arp.concat())
            }
            Self::Random => {
                let ethertype = random.of(&[ETH_P_MPLS_UC, ETH_P_IP, ETH_P_IPV6, ETH_P_ARP, 0x8100]);
                let length = random.below(1400);
                let payload: Vec<_> = (0..length).map(|_| random.below(256) as u8).collect();
                ethernet(to, from, ethertype, &payload)
            }
        })
    }
}

/// Sends as fast as it can for this long.
pub fn send(net: &Net, flood: Flood, time: Duration, random: &mut Random) -> Result<()> {
    let to = net.router().mac("eth3")?;
    let frames = (0..FRAMES)
        .map(|_| flood.frame(random, to, net.attacker.mac()))
        .collect::<Result<Vec<_>>>()?;
    let end = Instant::now() + time;
    for frame in frames.iter().cycle() {
        match net.attacker.send(frame) {
            // Only some kernels report that a veth had no room.
            Err(error) if error.downcast_ref() == Some(&Errno::ENOBUFS) => {}
            sent => sent?,
        }
        if Instant::now() > end {
            break;
        }
    }
    net.attacker.drain().map(drop)
}

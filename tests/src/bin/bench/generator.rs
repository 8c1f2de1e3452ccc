//! The frames that are sent, and the program that sends them.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, DevMap};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use mplsxdp_common::wire::{
    ETH_HLEN, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, IPPROTO_UDP, IPV4_HLEN, IPV6_HLEN, Label, Lse, Mac,
};
use mplsxdp_tests::rig::OBJECT;

/// How much of each frame the generator writes, in bytes: the shortest frame without its checksum.
const HEADER_LEN: usize = 60;
/// Frames that are generated at a time.
const BATCH: u32 = 64;
/// Lengths of the frames of an Internet mix, without their checksums.
const IMIX: [usize; 3] = [60, 570, 1514];

/// How long frames are, without their checksums.
#[derive(Clone, Copy)]
pub enum Size {
    Bytes(usize),
    /// 7 of 60 bytes, 4 of 570, 1 of 1514.
    Imix,
}

impl std::str::FromStr for Size {
    type Err = anyhow::Error;

    /// Bytes on the wire, checksum included, or `imix`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        let bytes: usize = text.parse().context("a number of bytes, or `imix`")?;
        ensure!((64..=1518).contains(&bytes), "from 64 to 1518 bytes");
        Ok(Self::Bytes(bytes - 4))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What the frames of a generator have in common.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    pub destination: Mac,
    pub source: Mac,
    /// VLAN identifier.
    pub tag: Option<u16>,
    /// Outermost first.
    pub labels: &'a [u32],
    pub label_ttl: u8,
    pub family: Family,
}

impl Headers<'_> {
    /// Where the first label stands, or the IP header.
    fn payload_at(self) -> usize {
        ETH_HLEN + if self.tag.is_some() { 4 } else { 0 }
    }

    /// Where the destination address of the IP header stands.
    fn address_at(self) -> usize {
        let at = match self.family {
            Family::V4 => 16,
            Family::V6 => 24,
        };
        self.payload_at() + self.labels.len() * 4 + at
    }

    /// A UDP packet from 192.0.2.1 to 198.51.100.1, or from 2001:db8::1 to 2001:db8::2, behind the labels.
    fn frame(self, len: usize) -> Vec<u8> {
        let mut frame = [self.destination.0, self.source.0].concat();
        if let Some(vid) = self.tag {
            frame.extend(ETH_P_8021Q.to_be_bytes());
            frame.extend(vid.to_be_bytes());
        }
        let ethertype = match (self.labels, self.family) {
            ([], Family::V4) => ETH_P_IP,
            ([], Family::V6) => ETH_P_IPV6,
            _ => ETH_P_MPLS_UC,
        };
        frame.extend(ethertype.to_be_bytes());
        for (index, &label) in self.labels.iter().enumerate() {
            let bottom = index + 1 == self.labels.len();
            frame.extend(Lse::new(Label::from_low_bits(label), 0, bottom, self.label_ttl).to_bytes());
        }
        // Of IPv6 with labels, the shortest frame has no room for more than the header.
        let ip_len = len.saturating_sub(frame.len());
        match self.family {
            Family::V4 => {
                let mut header = vec![0x45, 0];
                header.extend((ip_len as u16).to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, IPPROTO_UDP, 0, 0]);
                header.extend(ADDRESSES_V4);
                let checksum = !sum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                frame.extend(header);
                frame.extend(udp(ip_len - IPV4_HLEN));
            }
            Family::V6 => {
                frame.extend([0x60, 0, 0, 0]);
                let payload = ip_len.saturating_sub(IPV6_HLEN);
                frame.extend((payload as u16).to_be_bytes());
                frame.extend([IPPROTO_UDP, 64]);
                for last in [1, 2] {
                    frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
                }
                if payload >= 8 {
                    frame.extend(udp(payload));
                }
            }
        }
        frame.resize(frame.len().max(len), 0);
        frame
    }
}

/// The source and destination addresses in the header of [`Headers::frame`].
const ADDRESSES_V4: [u8; 8] = [192, 0, 2, 1, 198, 51, 100, 1];

/// Addresses with another destination, and with a source for which the header's checksum stays right.
fn addresses_v4([a, b, c, d]: [u8; 4]) -> [u8; 8] {
    let [g, h, ..] = ADDRESSES_V4;
    let rest = !sum(&[g, h, a, b, c, d]);
    let [e, f] = sum(&[sum(&ADDRESSES_V4).to_be_bytes(), rest.to_be_bytes()].concat()).to_be_bytes();
    [g, h, e, f, a, b, c, d]
}

fn udp(len: usize) -> [u8; 8] {
    let [high, low] = (len as u16).to_be_bytes();
    [0x1f, 0x90, 0x1f, 0x91, high, low, 0, 0]
}

/// A ones' complement sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let sum = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// What differs from frame to frame: the first label, or the destination.
pub enum Draws {
    Labels(Vec<u32>),
    V4(Vec<[u8; 4]>),
    /// The first half of each address.
    V6(Vec<[u8; 8]>),
}

pub struct Generator {
    object: Ebpf,
    frame: Vec<u8>,
}

impl Generator {
    /// The number of draws is a power of two.
    pub fn load(headers: Headers<'_>, draws: &Draws, size: Size) -> Result<Self> {
        let lengths = match size {
            Size::Bytes(len) => [len; 3],
            Size::Imix => IMIX,
        };
        let frames = lengths.map(|len| headers.frame(len));
        let wide = !matches!(draws, Draws::Labels(_));
        let narrow = |[a, b, c, d]: [u8; 4]| [a, b, c, d, 0, 0, 0, 0];
        let (at, draws): (usize, Vec<[u8; 8]>) = match draws {
            Draws::Labels(labels) => {
                let bottom = headers.labels.len() == 1;
                let lse = |label| Lse::new(Label::from_low_bits(label), 0, bottom, headers.label_ttl);
                let draws = labels.iter().map(|&label| narrow(lse(label).to_bytes()));
                (headers.payload_at(), draws.collect())
            }
            Draws::V4(addresses) => {
                let draws = addresses.iter().map(|&address| addresses_v4(address));
                (headers.address_at() - 4, draws.collect())
            }
            Draws::V6(halves) => (headers.address_at(), halves.clone()),
        };
        ensure!(
            draws.len().is_power_of_two(),
            "{} draws, which is not a power of two",
            draws.len()
        );
        let mut words = Vec::new();
        for frame in &frames {
            words.write_all(&frame[..HEADER_LEN])?;
            words.write_all(&[0; HEADER_LEN.next_multiple_of(8) - HEADER_LEN])?;
        }
        let lengths: Vec<u8> = match size {
            Size::Bytes(_) => vec![0; 12],
            Size::Imix => IMIX.iter().flat_map(|&len| (len as u32).to_ne_bytes()).collect(),
        };
        let mut object = EbpfLoader::new()
            .map_max_entries("DRAWS", draws.len() as u32)
            .override_global("HEADERS", &words[..], true)
            .override_global("LENGTHS", &lengths[..], true)
            .override_global("DRAW_OFFSET", &(at as u32), true)
            .override_global("DRAW_WIDE", &u32::from(wide), true)
            .override_global("DRAW_MASK", &(draws.len() as u32 - 1), true)
            .load(OBJECT)?;
        let mut map: Array<_, u64> = object.map_mut("DRAWS").context("no map DRAWS")?.try_into()?;
        for (index, draw) in draws.into_iter().enumerate() {
            map.set(index as u32, u64::from_ne_bytes(draw), 0)?;
        }
        program(&mut object, "generate")?.load()?;
        let [.., frame] = frames;
        Ok(Self { object, frame })
    }

    /// Sends frames into an interface from now on.
    pub fn send_to(&mut self, ifindex: u32) -> Result<()> {
        send_to(&mut self.object, ifindex)
    }

    /// From now on, sends a frame each so many nanoseconds, or as fast as it can.
    pub fn pace(&mut self, ns: Option<f64>) -> Result<()> {
        let mut pace: Array<_, u64> = self.object.map_mut("PACE").context("no map PACE")?.try_into()?;
        pace.set(0, (ns.unwrap_or(0.0) * 1024.0) as u64, 0)?;
        Ok(pace.set(1, 0, 0)?)
    }

    /// Sends so many frames. Returns how long each took on average, as the kernel measures it, in whole nanoseconds:
    /// without the time to set up, and without that of other threads.
    pub fn run(&mut self, frames: u32) -> Result<Duration> {
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        Ok(program(&mut self.object, "generate")?.test_run(options)?.duration)
    }
}

pub fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(object
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

/// Has the programs of a rig object redirect to an interface.
pub fn send_to(object: &mut Ebpf, ifindex: u32) -> Result<()> {
    let mut map: DevMap<_> = object.map_mut("RIG_TX").context("no map RIG_TX")?.try_into()?;
    Ok(map.set(0, ifindex, None, 0)?)
}

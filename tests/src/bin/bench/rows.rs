//! The operations that are measured. One entry of [`ROWS`] each.

use std::collections::HashSet;

use super::generator::{Draws, Family};
use mplsxdp_common::abi::MAX_LABELS;
use mplsxdp_common::wire::Label;

/// One operation.
pub struct Row {
    /// On the command line.
    pub name: &'static str,
    pub title: &'static str,
    pub counters: Counters,
    pub traffic: Traffic,
    /// What the route of each key says, behind the key. `{out}` is a label of its own for each; `{next}` is the next
    /// hop, `{back}` the neighbour that frames come from, `{tagged}` the next hop in a VLAN, `{vrf}` a VRF device.
    pub route: &'static str,
    pub measure: Measure,
}

/// `--counter-slots`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Counters {
    Default,
    /// One for each label.
    All,
}

/// What the frames are compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// A bare redirect, and the least swap where the frames are labelled ones without tags.
    Forwarding,
    /// No program at all: the kernel's stack receives the frames.
    Kernel,
}

/// The frames of an operation.
pub struct Traffic {
    pub keys: Keys,
    /// Labels beneath the first one, outermost first.
    pub beneath: &'static [u32],
    pub tag: Option<u16>,
}

/// The labels and prefixes that have a route, which are those that the frames are for.
pub enum Keys {
    /// So many labels from 16 on, each so far from the one before. All of them equally often.
    Labels(u32, u32),
    /// All labels, the n-th most frequent 1/n times as often as the first; which they are is random.
    Zipf,
    /// So many prefixes next to each other, /24 or /32. All of them equally often.
    Few(Family, u32),
    /// So many, of the lengths that a full table of the Internet has.
    Table(Family, u32),
    /// So many as `Few`, none of which is for the frames.
    Others(Family, u32),
}

/// The VLAN of frames that arrive or leave with a tag.
pub const VLAN: u16 = 100;

impl Row {
    /// Whether every frame of the port where they arrive goes elsewhere: there are no routes for keys.
    pub fn crosses(&self) -> bool {
        matches!(self.route, CROSS | INTO_PSEUDOWIRE)
    }

    /// What `ip route` calls [`Row::route`]. `None` if the kernel has no such route, or was not asked for it.
    pub fn kernel_route(&self) -> Option<String> {
        let is_plain = self.measure == Measure::Forwarding && self.traffic.tag.is_none() && !self.crosses();
        let has_one_way = self.route.ends_with("{next}") && !self.route.contains("nexthop");
        let is_for_ipv4 = self.traffic.keys.family() == Family::V4;
        if self.route == VRF {
            return Some("dev {vrf}".to_owned());
        }
        // Its pop has no label in place of the old one.
        (is_plain && has_one_way && is_for_ipv4).then(|| self.route.replace("as implicit-null ", ""))
    }
}

const fn labels(count: u32) -> Traffic {
    keys(Keys::Labels(count, 1))
}

const fn keys(keys: Keys) -> Traffic {
    Traffic {
        keys,
        beneath: &[],
        tag: None,
    }
}

const fn row(name: &'static str, title: &'static str, traffic: Traffic, route: &'static str) -> Row {
    Row {
        name,
        title,
        counters: Counters::Default,
        traffic,
        route,
        measure: Measure::Forwarding,
    }
}

const fn impose(name: &'static str, title: &'static str, prefixes: Keys) -> Row {
    row(name, title, keys(prefixes), IMPOSE)
}

const fn to_kernel(name: &'static str, title: &'static str, prefixes: u32) -> Row {
    Row {
        measure: Measure::Kernel,
        ..impose(name, title, Keys::Others(Family::V4, prefixes))
    }
}

const fn all_counted(row: Row) -> Row {
    Row {
        counters: Counters::All,
        ..row
    }
}

const SWAP: &str = "as {out} {next}";
const IMPOSE: &str = "encap mpls {out} {next}";
/// No routes for keys: every frame of the port where they arrive goes elsewhere.
const CROSS: &str = "xconnect add {from} {to} one-way";
const INTO_PSEUDOWIRE: &str = "xconnect add {from} encap mpls 500 {next}";
/// Labels of a VRF whose table has a default route to the next hop. `{vrf}` is the VRF device.
pub const VRF: &str = "vrf {vrf} pass";
/// As many labels as the default counter slots are for.
const COUNTED: u32 = 65_520;
const ALL: u32 = MAX_LABELS - Label::FIRST_ORDINARY.get();

pub const ROWS: &[Row] = &[
    row("swap-1", "swap, 1 label", labels(1), SWAP),
    row("swap-4k", "swap, 4k labels side by side", labels(4096), SWAP),
    row(
        "swap-4k-spread",
        "swap, 4k labels spread over the table",
        keys(Keys::Labels(4096, 255)),
        SWAP,
    ),
    row("swap-64k", "swap, 64k labels, all counted", labels(COUNTED), SWAP),
    row("swap-512k", "swap, 512k labels, 65,536 counters", labels(1 << 19), SWAP),
    row("pop", "pop to IP", labels(4096), "as implicit-null {next}"),
    row(
        "php",
        "PHP above the bottom",
        Traffic {
            beneath: &[1_000],
            ..labels(4096)
        },
        "as implicit-null {next}",
    ),
    row("push-1", "swap and push 1", labels(4096), "as 17/{out} {next}"),
    row(
        "push-7",
        "swap and push 7",
        labels(4096),
        "as 17/18/19/20/21/22/23/{out} {next}",
    ),
    row(
        "push-15",
        "swap and push 15",
        labels(4096),
        "as 17/18/19/20/21/22/23/24/25/26/27/28/29/30/31/{out} {next}",
    ),
    row(
        "ecmp",
        "ECMP of two, 512 labels",
        labels(512),
        "nexthop as {out} {next} nexthop as 17 {next}",
    ),
    row(
        "vlan-in",
        "swap, in by a VLAN",
        Traffic {
            tag: Some(VLAN),
            ..labels(4096)
        },
        SWAP,
    ),
    row("vlan-out", "swap, out by a VLAN", labels(4096), "as {out} {tagged}"),
    row(
        "hairpin",
        "swap, out by the port it came in by",
        labels(4096),
        "as {out} {back}",
    ),
    row("xconnect", "cross-connect", labels(4096), CROSS),
    row("pw-in", "into a pseudowire", labels(4096), INTO_PSEUDOWIRE),
    // Whatever is beneath the label is a frame.
    row("pw-out", "out of a pseudowire", labels(4096), "xconnect {to} no-cw"),
    row("vrf", "pop, and IP by the kernel's table of a VRF", labels(4096), VRF),
    impose("impose-1", "imposition, 1 IPv4 prefix", Keys::Few(Family::V4, 1)),
    impose(
        "impose-256",
        "imposition, 256 IPv4 prefixes",
        Keys::Few(Family::V4, 256),
    ),
    impose("impose6-1", "imposition, 1 IPv6 prefix", Keys::Few(Family::V6, 1)),
    impose(
        "impose6-256",
        "imposition, 256 IPv6 prefixes",
        Keys::Few(Family::V6, 256),
    ),
    impose(
        "impose-900k",
        "imposition, 900k IPv4 prefixes",
        Keys::Table(Family::V4, 900_000),
    ),
    impose(
        "impose6-200k",
        "imposition, 200k IPv6 prefixes",
        Keys::Table(Family::V6, 200_000),
    ),
    to_kernel("ip", "IPv4 left to the kernel, no prefix", 0),
    to_kernel("ip-256", "IPv4 left to the kernel, 256 other prefixes", 256),
    all_counted(row(
        "swap-512k-counted",
        "swap, 512k labels, all counted",
        labels(1 << 19),
        SWAP,
    )),
    all_counted(row(
        "swap-zipf",
        "swap, 1M labels, Zipf 1.0, all counted",
        keys(Keys::Zipf),
        SWAP,
    )),
];

/// More than so many draws the larger tables do not need.
const MOST_DRAWS: usize = 1 << 20;
/// So many the smaller ones have: their memory is not to be seen.
const LEAST_DRAWS: usize = 1 << 14;

impl Keys {
    pub fn family(&self) -> Family {
        match self {
            Self::Labels(..) | Self::Zipf => Family::V4,
            Self::Few(family, _) | Self::Table(family, _) | Self::Others(family, _) => *family,
        }
    }

    pub fn are_labels(&self) -> bool {
        matches!(self, Self::Labels(..) | Self::Zipf)
    }

    /// The keys of the routes as they are written, and what the frames draw from.
    pub fn generate(&self) -> (Vec<String>, Draws) {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        match *self {
            Self::Labels(count, step) => {
                let label = |index| Label::FIRST_ORDINARY.get() + index * step;
                let draw = |random: &mut Random| label(random.below(count));
                (
                    (0..count).map(|index| label(index).to_string()).collect(),
                    Draws::Labels(random.draws(count as usize, draw)),
                )
            }
            Self::Zipf => {
                let mut labels: Vec<u32> = (Label::FIRST_ORDINARY.get()..MAX_LABELS).collect();
                for index in (1..labels.len()).rev() {
                    labels.swap(index, random.below(index as u32 + 1) as usize);
                }
                let draw = |random: &mut Random| {
                    // The sum of 1/n is the logarithm, nearly.
                    let rank = f64::from(ALL + 1).powf(random.fraction()) as usize;
                    labels[rank.clamp(1, labels.len()) - 1]
                };
                let draws = random.draws(labels.len(), draw);
                // In their order, so that frequent ones do not have their counters side by side.
                labels.sort_unstable();
                (labels.iter().map(ToString::to_string).collect(), Draws::Labels(draws))
            }
            Self::Few(Family::V4, count) => {
                let network = |index: u32| 10 << 24 | index << 8;
                let draw = |random: &mut Random| (network(random.below(count)) | random.below(256)).to_be_bytes();
                (
                    (0..count).map(|index| v4_prefix(network(index), 24)).collect(),
                    Draws::V4(random.draws(count as usize, draw)),
                )
            }
            Self::Few(Family::V6, count) => {
                let network = |index: u32| 0x2400_0000_0000_0000 | u64::from(index) << 32;
                let draw = |random: &mut Random| (network(random.below(count)) | random.word() >> 32).to_be_bytes();
                (
                    (0..count).map(|index| v6_prefix(network(index), 32)).collect(),
                    Draws::V6(random.draws(count as usize, draw)),
                )
            }
            Self::Table(Family::V4, count) => {
                let prefixes = v4_table(&mut random, count);
                let draw = |random: &mut Random| {
                    let (network, len) = prefixes[random.below(count) as usize];
                    (network | (random.word() as u32).unbounded_shr(len)).to_be_bytes()
                };
                (
                    prefixes.iter().map(|&(network, len)| v4_prefix(network, len)).collect(),
                    Draws::V4(random.draws(count as usize, draw)),
                )
            }
            Self::Table(Family::V6, count) => {
                let prefixes = v6_table(&mut random, count);
                let draw = |random: &mut Random| {
                    let (network, len) = prefixes[random.below(count) as usize];
                    (network | random.word().unbounded_shr(len)).to_be_bytes()
                };
                (
                    prefixes.iter().map(|&(network, len)| v6_prefix(network, len)).collect(),
                    Draws::V6(random.draws(count as usize, draw)),
                )
            }
            // The address in the generator's header, whose checksum is right.
            Self::Others(family, count) => {
                let (keys, _) = Self::Few(family, count.max(1)).generate();
                let draws = match family {
                    Family::V4 => Draws::V4(vec![[198, 51, 100, 1]]),
                    Family::V6 => Draws::V6(vec![[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]]),
                };
                (keys.into_iter().take(count as usize).collect(), draws)
            }
        }
    }
}

fn v4_prefix(network: u32, len: u32) -> String {
    format!("{}/{len}", std::net::Ipv4Addr::from(network))
}

fn v6_prefix(network: u64, len: u32) -> String {
    format!("{}/{len}", std::net::Ipv6Addr::from(u128::from(network) << 64))
}

/// Shares of the lengths of IPv4 prefixes in the Internet's table, in thousandths.
const V4_LENGTHS: &[(u32, u32)] = &[
    (24, 600),
    (23, 100),
    (22, 110),
    (21, 52),
    (20, 45),
    (19, 26),
    (18, 14),
    (17, 9),
    (16, 14),
    (15, 3),
    (14, 3),
    (13, 2),
    (12, 1),
];
/// Of IPv6 prefixes.
const V6_LENGTHS: &[(u32, u32)] = &[
    (48, 470),
    (32, 110),
    (44, 90),
    (40, 85),
    (36, 50),
    (47, 35),
    (46, 35),
    (45, 25),
    (42, 20),
    (38, 20),
    (33, 20),
    (34, 15),
    (29, 25),
];
/// Blocks that registries have given away, in which the longer IPv6 prefixes are.
const V6_BLOCKS: u32 = 20_000;

fn length(random: &mut Random, lengths: &[(u32, u32)]) -> u32 {
    let mut left = random.below(1000);
    for &(length, share) in lengths {
        if left < share {
            return length;
        }
        left -= share;
    }
    lengths[0].0
}

/// Different prefixes, sorted, without those that a kernel keeps for itself.
fn v4_table(random: &mut Random, count: u32) -> Vec<(u32, u32)> {
    let mut prefixes = HashSet::new();
    while prefixes.len() < count as usize {
        let len = length(random, V4_LENGTHS);
        let network = (random.word() as u32) >> (32 - len) << (32 - len);
        if !matches!(network >> 24, 0 | 127 | 224..) && network >> 16 != 0xa9fe {
            prefixes.insert((network, len));
        }
    }
    let mut prefixes: Vec<_> = prefixes.into_iter().collect();
    prefixes.sort_unstable();
    prefixes
}

fn v6_table(random: &mut Random, count: u32) -> Vec<(u64, u32)> {
    let blocks: Vec<u64> = (0..V6_BLOCKS)
        .map(|_| 0x2 << 60 | random.word() >> 4 >> 32 << 32)
        .collect();
    let mut prefixes = HashSet::new();
    while prefixes.len() < count as usize {
        let len = length(random, V6_LENGTHS);
        let block = if len < 36 {
            0x2 << 60 | random.word() >> 4
        } else {
            blocks[random.below(V6_BLOCKS) as usize] | random.word() >> 32
        };
        prefixes.insert((block >> (64 - len) << (64 - len), len));
    }
    let mut prefixes: Vec<_> = prefixes.into_iter().collect();
    prefixes.sort_unstable();
    prefixes
}

/// xorshift64*: the same numbers in each run.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u32) -> u32 {
        (((self.word() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// From 0 to less than 1.
    fn fraction(&mut self) -> f64 {
        f64::from((self.word() >> 32) as u32) / 4_294_967_296.0
    }

    /// So many draws that most of `keys` keys are among them.
    fn draws<T>(&mut self, keys: usize, draw: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = (keys * 2).next_power_of_two().clamp(LEAST_DRAWS, MOST_DRAWS);
        (0..count).map(|_| draw(self)).collect()
    }
}

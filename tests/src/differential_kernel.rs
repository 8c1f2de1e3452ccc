//! mplsxdp against the kernel's own MPLS: the same random tables and frames go through `mpls_router` and through
//! mplsxdp in linux mode. Each difference is one of [`Difference`], which docs/semantics.md lists, or a bug.
//!
//! ```text
//!            +-- eth0 ---- eth1 [kernel]  eth2 ---- eth0 --+
//!   test ----+                                             +---- test
//!            +-- eth0 ---- eth1 [mplsxdp] eth2 ---- eth0 --+
//! ```

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use mplsxdp_common::wire::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, Label, Lse, Mac};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::frame::{Parsed, ethernet, udp_of_ports};
use crate::random::Random;
use crate::{End, Lab, Netns, Router, Tap, link, tidy};

/// A number to use as another seed than the default.
const SEED_VARIABLE: &str = "MPLSXDP_SEED";
const SEED: u64 = 1;
/// Frames for each table, which are under way at a time: few enough for every queue.
const FRAMES: usize = 50;
/// The most labels that a random frame has.
const MAX_DEPTH: usize = 11;
/// So many tables show every difference with the default seed.
pub const TABLES: usize = 100;
/// How many tables are compared between two reports.
const REPORTED: usize = 10;

/// Labels with routes begin here, and so do those of the single paths of routes with several.
const FIRST: u32 = 100;
const ROUTES: u32 = 40;
const FIRST_SINGLE: u32 = 1000;
/// `dev lo`, for the frame that comes last through the kernel's loopback interface; and the label it is swapped to.
const LAST_LOCAL: u32 = 98;
const LAST: u32 = 99;
const LAST_OUT: u32 = 9999;
/// The number of an IP packet that comes last through the kernel, which XDP's frames overtake.
const LAST_NUMBER: u32 = u32::MAX;
const NEIGHBOURS: u8 = 4;
const LEFT: &str = "02:00:00:00:01:02";
const ROUTER_LEFT: &str = "02:00:00:00:01:01";
const ROUTER_RIGHT: &str = "02:00:00:00:02:01";
const UDP_PORT: u16 = 5000;

/// A deliberate difference between mplsxdp and the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Difference {
    /// The kernel writes TC 0 into labels that it pushes; mplsxdp keeps the TC.
    TrafficClass,
    /// Another hash picks another of several next hops.
    Path,
    /// `ttl-propagate disabled`: pushed labels beyond the first have the TTL of tunnels; in the kernel the setting only
    /// affects pops.
    TunnelTtl,
    /// `ttl-propagate disabled`: an IP TTL of 0 or 1 has expired; the kernel sends the packet with a TTL of 0.
    InnerTtl,
    /// The kernel pops labels whose payload is not a whole IP packet with a right checksum; mplsxdp does not forward
    /// it.
    Payload,
    /// The kernel swaps labels of a stack without a bottom.
    NoBottom,
    /// A pop to IP cuts off the bytes after the packet.
    Trailer,
    /// The kernel does not know router alert and entropy labels.
    SpecialLabel,
    /// mplsxdp pops at most four labels for this machine.
    LocalPops,
}

impl Difference {
    pub const ALL: [Self; 9] = [
        Self::TrafficClass,
        Self::Path,
        Self::TunnelTtl,
        Self::InnerTtl,
        Self::Payload,
        Self::NoBottom,
        Self::Trailer,
        Self::SpecialLabel,
        Self::LocalPops,
    ];

    /// How its row in [`DOCUMENT`] begins.
    pub fn row(self) -> &'static str {
        match self {
            Self::TrafficClass => "TC of a label that replaces another or is pushed",
            Self::Path => "which of several next hops a flow takes",
            Self::TunnelTtl => "a label with `ttl-propagate disabled` that pushes several labels",
            Self::InnerTtl => "a pop to IP with `ttl-propagate disabled`, if the IP TTL is 0 or 1",
            Self::Payload => "a pop to what is not a whole IP packet",
            Self::NoBottom => "a stack without a bottom",
            Self::Trailer => "bytes behind the packet, at a pop to IP",
            Self::SpecialLabel => "router alert (1) and entropy labels (7) on top",
            Self::LocalPops => "labels for this machine above another",
        }
    }
}

/// Rows whose frames neither router forwards, so that there is nothing to compare; other tests show what mplsxdp
/// answers.
const NOT_COMPARED: [&str; 2] = ["label TTL 0 or 1", "a packet larger than the next hop's MTU"];

/// The document that lists the differences, and the section that does.
pub const DOCUMENT: &str = "docs/semantics.md";
const SECTION: &str = "## Differences from the kernel";

/// A documented difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The first column.
    pub text: String,
    /// `None`: not compared here.
    pub difference: Option<Difference>,
}

/// The rows of the list in the text of [`DOCUMENT`]. An error if it has a difference that is unknown here, or lacks
/// one.
pub fn documented(document: &str) -> Result<Vec<Row>> {
    let section = document.split(SECTION).nth(1);
    let section = section.with_context(|| format!("{DOCUMENT} has no section {SECTION:?}"))?;
    let lines = section.lines().filter_map(|line| line.strip_prefix("| "));
    let texts: Vec<&str> = lines
        .filter_map(|line| line.split(" | ").next())
        .filter(|text| !text.starts_with('|'))
        .collect();
    let mut rows = Vec::new();
    for text in texts {
        let difference = Difference::ALL.into_iter().find(|one| text.starts_with(one.row()));
        ensure!(
            difference.is_some() || NOT_COMPARED.contains(&text),
            "{DOCUMENT} lists {text:?}, which the comparison does not know"
        );
        rows.push(Row {
            text: text.to_owned(),
            difference,
        });
    }
    for one in Difference::ALL {
        ensure!(
            rows.iter().any(|row| row.difference == Some(one)),
            "{DOCUMENT} does not list {:?}",
            one.row()
        );
    }
    Ok(rows)
}

/// What a comparison has seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub tables: usize,
    /// Of all tables.
    pub routes: usize,
    pub frames: u32,
    /// By either.
    pub forwarded: usize,
    pub by_neither: usize,
    /// Frames for routes with several next hops, each compared with the next hops one by one.
    pub several: usize,
    pub differences: BTreeMap<Difference, usize>,
}

impl Report {
    pub fn count(&self, difference: Difference) -> usize {
        self.differences.get(&difference).copied().unwrap_or_default()
    }
}

/// How frames for a label are forwarded.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Action {
    Local,
    /// No labels means pop.
    To {
        out: Vec<u32>,
        via: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("dev lo"),
            Self::To { out, via } => {
                if !out.is_empty() {
                    let out: Vec<_> = out.iter().map(u32::to_string).collect();
                    write!(f, "as to {} ", out.join("/"))?;
                }
                write!(f, "via {via} dev eth2")
            }
        }
    }
}

/// A route, as both sides read it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct TestRoute {
    label: u32,
    paths: Vec<Action>,
    ttl_propagate: Option<bool>,
}

impl fmt::Display for TestRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.label)?;
        if let [path] = &self.paths[..] {
            write!(f, " {path}")?;
        }
        match self.ttl_propagate {
            Some(true) => f.write_str(" ttl-propagate enabled")?,
            Some(false) => f.write_str(" ttl-propagate disabled")?,
            None => {}
        }
        if self.paths.len() > 1 {
            self.paths.iter().try_for_each(|path| write!(f, " nexthop {path}"))?;
        }
        Ok(())
    }
}

/// The label of the single path `index` of this label's route.
fn single(label: u32, index: usize) -> u32 {
    FIRST_SINGLE + (label - FIRST) * 8 + index as u32
}

fn random_table(random: &mut Random) -> BTreeMap<u32, TestRoute> {
    let mut table = BTreeMap::new();
    for label in FIRST..FIRST + ROUTES {
        let ttl_propagate = random.of(&[None, None, Some(true), Some(false)]);
        let paths = match random.below(10) {
            0 | 1 => vec![Action::Local],
            2 | 3 => (0..2 + random.below(3)).map(|_| random_path(random)).collect(),
            _ => vec![random_path(random)],
        };
        let mut distinct: Vec<Action> = Vec::new();
        for path in paths {
            if !distinct.contains(&path) {
                distinct.push(path);
            }
        }
        if distinct.len() > 1 {
            for (index, path) in distinct.iter().enumerate() {
                let label = single(label, index);
                let paths = vec![path.clone()];
                table.insert(
                    label,
                    TestRoute {
                        label,
                        paths,
                        ttl_propagate,
                    },
                );
            }
        }
        let route = TestRoute {
            label,
            paths: distinct,
            ttl_propagate,
        };
        table.insert(label, route);
    }
    table
}

fn random_path(random: &mut Random) -> Action {
    let depth = match random.below(8) {
        0..=2 => 0,
        3 | 4 => 1,
        5 => 2,
        6 => 3 + random.below(6),
        _ => 9 + random.below(8),
    };
    let out = (0..depth).map(|index| match random.below(12) {
        // Explicit null at the bottom.
        0 if index + 1 == depth => random.of(&[0, 2]),
        _ => 2000 + random.below(1000) as u32,
    });
    let out = out.collect();
    let number = 1 + random.below(NEIGHBOURS.into()) as u8;
    let via = match random.below(3) {
        0 => format!("inet 10.0.2.{}", number + 1),
        1 => format!("inet6 fd00:2::{}", number + 1),
        _ => format!("link {}", neighbour(number)),
    };
    Action::To { out, via }
}

fn neighbour(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 3, number])
}

/// A frame that is sent to both sides, and its peculiarities.
#[derive(Clone, Debug)]
struct Sent {
    stack: Vec<Lse>,
    payload: Vec<u8>,
    /// Length of the IP packet, without the bytes after it; `None` if there is no IP packet.
    packet_len: Option<usize>,
    /// Its header checksum, if it has one, is right.
    is_right: bool,
    inner_ttl: u8,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let stack = self.stack.iter().flat_map(|lse| lse.to_bytes());
        let beneath: Vec<u8> = stack.chain(self.payload.iter().copied()).collect();
        let mac = |text: &str| text.parse().unwrap_or(Mac::ZERO);
        ethernet(mac(ROUTER_LEFT), mac(LEFT), ETH_P_MPLS_UC, &beneath)
    }

    fn has_bottom(&self) -> bool {
        self.stack.iter().any(|lse| lse.bottom())
    }

    /// Also, there is no S bit by accident in the bytes after the labels, unless its number is changed.
    fn is_bottomless(&self) -> bool {
        !self.has_bottom() && self.payload.starts_with(&[0; 8])
    }

    /// The same with another label at `depth`.
    fn with_label(&self, depth: usize, label: u32) -> Self {
        let mut changed = self.clone();
        let lse = changed.stack[depth];
        changed.stack[depth] = Lse::new(Label::from_low_bits(label), lse.tc(), lse.bottom(), lse.ttl());
        changed
    }
}

/// Every frame has its own number in the last bytes of its UDP datagram, which identifies it.
fn random_frame(random: &mut Random, number: u32, local: &[u32]) -> Result<Sent> {
    let depth = 1 + random.below(3) + if random.once_in(4) { random.below(4) } else { 0 };
    let ttl = |random: &mut Random| match random.below(8) {
        0 => random.of(&[0, 1, 2, 3]),
        1 => 255,
        _ => 2 + random.below(253) as u8,
    };
    let mut stack = Vec::new();
    for index in 0..depth {
        let label = match random.below(24) {
            0 => 5000 + random.below(100) as u32,
            1 => random.of(&[0, 2, 1, 3, 7, 13, 14, 15]),
            _ => FIRST + random.below(ROUTES.into()) as u32,
        };
        let bottom = index + 1 == depth && !random.once_in(40);
        let (tc, ttl) = (random.below(8) as u8, ttl(random));
        stack.push(Lse::new(Label::from_low_bits(label), tc, bottom, ttl));
    }
    // More labels for the machine itself than mplsxdp pops.
    if let Some(&local) = local.first().filter(|_| random.once_in(60)) {
        let more = (0..5).map(|_| Lse::new(Label::from_low_bits(local), 0, false, 64));
        stack.splice(0..0, more);
    }
    let inner_ttl = ttl(random);
    let (source, destination): (IpAddr, IpAddr) = match random.below(2) {
        0 => (
            "192.0.2.1".parse()?,
            format!("198.51.100.{}", 1 + random.below(250)).parse()?,
        ),
        _ => (
            "2001:db8::1".parse()?,
            format!("2001:db8:ff::{:x}", 1 + random.below(250)).parse()?,
        ),
    };
    let ports = [1024 + random.below(60000) as u16, UDP_PORT];
    let data = [
        vec![0x5a; 20 + random.below(200) as usize],
        number.to_be_bytes().to_vec(),
    ]
    .concat();
    let mut payload = udp_of_ports(source, destination, ports, inner_ttl, &data)?;
    let mut packet_len = Some(payload.len());
    let mut is_right = true;
    match random.below(16) {
        // No S bit anywhere.
        3 if number & 0x100 == 0 => {
            stack
                .iter_mut()
                .for_each(|lse| *lse = Lse::new(lse.label(), lse.tc(), false, lse.ttl()));
            payload = [vec![0; 8], vec![0x5a; 24], number.to_be_bytes().to_vec()].concat();
            packet_len = None;
        }
        0 if source.is_ipv4() => {
            payload[10] ^= 0x55;
            is_right = false;
        }
        1 => payload.extend(vec![0xee; 1 + random.below(40) as usize]),
        2 => {
            // Not IP. The kernel looks only at the version.
            payload[0] = random.of(&[0x00, 0x45 ^ 0xf0, 0x15]);
            packet_len = None;
        }
        _ => {}
    }
    Ok(Sent {
        stack,
        payload,
        packet_len,
        is_right,
        inner_ttl,
    })
}

/// The number of a frame that arrived; `None` for other frames, such as ICMP errors.
fn number(frame: &[u8]) -> Option<u32> {
    let marked = frame
        .windows(24)
        .rposition(|bytes| bytes[..20].iter().all(|&byte| byte == 0x5a))?;
    let bytes = frame.get(marked + 20..marked + 24)?;
    // An ICMP error quotes the packet after other headers.
    let parsed = Parsed::new(frame).ok();
    let is_icmp = parsed
        .and_then(|parsed| parsed.ip().ok())
        .is_some_and(|ip| matches!(ip.protocol, 1 | 58));
    (!is_icmp).then(|| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// One of the two routers, with the test at its ends.
struct Side {
    left: Tap,
    right: Tap,
    netns: Netns,
    router: Option<Router>,
}

impl Side {
    fn new(lab: &Lab, name: &'static str, by_xdp: bool) -> Result<Self> {
        let named = |end: &str| lab.netns(&format!("{name}-{end}"));
        let (left, netns, right) = (named("left")?, named("router")?, named("right")?);
        link(
            End::new(&left, "eth0")
                .address("10.0.1.2/24")
                .address("fd00:1::2/64")
                .mac(LEFT),
            End::new(&netns, "eth1")
                .address("10.0.1.1/24")
                .address("fd00:1::1/64")
                .mac(ROUTER_LEFT),
        )?;
        link(
            End::new(&netns, "eth2")
                .address("10.0.2.1/24")
                .address("fd00:2::1/64")
                .mac(ROUTER_RIGHT),
            End::new(&right, "eth0"),
        )?;
        netns.ip("link set lo up")?;
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/eth1/rp_filter", "0"),
            ("ipv4/conf/lo/rp_filter", "0"),
        ] {
            netns.sysctl(key, value)?;
        }
        for number in 1..=NEIGHBOURS {
            let mac = neighbour(number);
            netns.ip(&format!("neigh replace 10.0.2.{} lladdr {mac} dev eth2", number + 1))?;
            netns.ip(&format!("neigh replace fd00:2::{} lladdr {mac} dev eth2", number + 1))?;
        }
        netns.ip("route add 198.51.100.0/24 via 10.0.2.2")?;
        netns.ip("-6 route add 2001:db8:ff::/64 via fd00:2::2")?;
        netns.ip("route add 192.0.2.0/24 via 10.0.1.2")?;
        netns.ip("-6 route add 2001:db8::/64 via fd00:1::2")?;
        let router = match by_xdp {
            true => Some(Router::load(&netns, "--iface eth1 --iface eth2 --ttl-propagate linux")?),
            false => {
                for (key, value) in [
                    ("mpls/platform_labels", "10000"),
                    ("mpls/conf/eth1/input", "1"),
                    ("mpls/conf/lo/input", "1"),
                ] {
                    netns.sysctl(key, value)?;
                }
                None
            }
        };
        Ok(Self {
            left: Tap::open(&left, "eth0")?,
            right: Tap::open(&right, "eth0")?,
            netns,
            router,
        })
    }

    /// Makes the routes equal to the table.
    fn set_routes(&self, table: &BTreeMap<u32, TestRoute>) -> Result<()> {
        let last = [
            format!("{LAST_LOCAL} dev lo"),
            format!("{LAST} as to {LAST_OUT} via link {} dev eth2", neighbour(1)),
        ];
        let routes = table.values().map(ToString::to_string).chain(last);
        match &self.router {
            Some(router) => {
                let lines: String = routes.map(|route| route + "\n").collect();
                router.run_with("route restore", &lines)?;
                router.wait_resolved()
            }
            None => {
                self.netns.sysctl("mpls/platform_labels", "0")?;
                self.netns.sysctl("mpls/platform_labels", "10000")?;
                let lines: String = routes.map(|route| format!("route add {route}\n")).collect();
                tidy::ip_batch(&["-n", self.netns.name(), "-M"], &lines)
            }
        }
    }

    /// Sends frames, and returns what arrives on the right for each, by its number.
    fn run(&self, frames: &BTreeMap<u32, Sent>) -> Result<Arrived> {
        // Packets that the kernel pops for itself wait in its loopback interface; this one passes through there more
        // often than any other.
        let locals = if self.router.is_some() { 0 } else { MAX_DEPTH + 1 };
        let mut last: Vec<u32> = vec![LAST_LOCAL; locals];
        last.push(LAST);
        let entry = |(index, &label): (usize, &u32)| Lse::new(Label::from_low_bits(label), 0, index == locals, 64);
        let last = Sent {
            stack: last.iter().enumerate().map(entry).collect(),
            payload: vec![0; 40],
            packet_len: None,
            is_right: true,
            inner_ttl: 0,
        };
        let (source, destination) = ("192.0.2.1".parse()?, "198.51.100.1".parse()?);
        let data = [&[0x5a; 20][..], &LAST_NUMBER.to_be_bytes()].concat();
        let packet = udp_of_ports(source, destination, [1024, UDP_PORT], 64, &data)?;
        let last_packet = ethernet(ROUTER_LEFT.parse()?, LEFT.parse()?, ETH_P_IP, &packet);
        on_one_processor(|| {
            let all = frames.values().chain([&last]);
            all.map(Sent::bytes)
                .chain([last_packet])
                .try_for_each(|bytes| self.left.send(&bytes))
        })?;
        let is_last = Lse::new(Label::from_low_bits(LAST_OUT), 0, true, 63).to_bytes();
        let mut arrived = Arrived::new();
        let mut has_last = false;
        self.right.receive("the last frame and the last packet", |frame| {
            has_last |= frame.get(ETH_HLEN..ETH_HLEN + 4) == Some(&is_last[..]);
            if let Some(number) = number(frame) {
                arrived.entry(number).or_default().push(frame.to_vec());
            }
            has_last && arrived.contains_key(&LAST_NUMBER)
        })?;
        Ok(arrived)
    }
}

/// Frames that are sent on one processor stay in order: each processor has queues of its own, also for packets that the
/// kernel pops for itself.
fn on_one_processor(send: impl FnOnce() -> Result<()>) -> Result<()> {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let first = (0..CpuSet::count()).find(|&number| all.is_set(number) == Ok(true));
    let mut one = CpuSet::new();
    one.set(first.context("no processor")?)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let sent = send();
    sched_setaffinity(Pid::from_raw(0), &all)?;
    sent
}

/// A frame's way through the table: the labels for the machine itself, and the label after them.
struct Way<'a> {
    /// How many labels are popped for the machine.
    locals: usize,
    /// The route by which the frame leaves.
    route: Option<&'a TestRoute>,
    /// A label on the way is special, other than explicit null.
    special: bool,
}

impl<'a> Way<'a> {
    fn of(sent: &Sent, table: &'a BTreeMap<u32, TestRoute>) -> Self {
        let mut way = Self {
            locals: 0,
            route: None,
            special: false,
        };
        for lse in &sent.stack {
            let label = lse.label().get();
            let route = table.get(&label);
            let is_local = matches!(label, 0 | 2) || route.is_some_and(|route| route.paths == [Action::Local]);
            if label < 16 && !matches!(label, 0 | 2) {
                way.special = true;
            }
            if !is_local {
                way.route = route;
                break;
            }
            way.locals += 1;
        }
        way
    }
}

/// The documented differences that explain why the kernel sent `kernel` and mplsxdp `xdp`. An error if none do.
fn explain(
    sent: &Sent,
    table: &BTreeMap<u32, TestRoute>,
    kernel: &[Vec<u8>],
    xdp: &[Vec<u8>],
) -> Result<Vec<Difference>> {
    let way = Way::of(sent, table);
    let disabled = way.route.is_some_and(|route| route.ttl_propagate == Some(false));
    if kernel == xdp {
        return Ok(Vec::new());
    }
    match (kernel, xdp) {
        ([kernel], [xdp]) => same_but(sent, &way, disabled, kernel, xdp),
        ([_], []) => {
            let any_disabled = sent.stack.iter().any(|lse| {
                let route = table.get(&lse.label().get());
                route.is_some_and(|route| route.ttl_propagate == Some(false))
            });
            if !sent.has_bottom() {
                Ok(vec![Difference::NoBottom])
            } else if way.locals > 4 {
                Ok(vec![Difference::LocalPops])
            } else if !sent.is_right || sent.packet_len.is_none() {
                Ok(vec![Difference::Payload])
            } else if any_disabled && sent.inner_ttl <= 1 {
                Ok(vec![Difference::InnerTtl])
            } else {
                bail!("only the kernel forwards it")
            }
        }
        ([], [_]) if way.special => Ok(vec![Difference::SpecialLabel]),
        ([], [_]) => bail!("only mplsxdp forwards it"),
        _ => bail!("more frames than one"),
    }
}

/// Both have forwarded the frame.
fn same_but(sent: &Sent, way: &Way<'_>, disabled: bool, kernel: &[u8], xdp: &[u8]) -> Result<Vec<Difference>> {
    let (Ok(by_kernel), Ok(by_xdp)) = (Parsed::new(kernel), Parsed::new(xdp)) else {
        bail!("a stack without a bottom differs");
    };
    let mut differences = Vec::new();
    let mut note = |difference| {
        if !differences.contains(&difference) {
            differences.push(difference);
        }
    };
    let heads = |parsed: &Parsed| (parsed.destination, parsed.source, parsed.ethertype, parsed.stack.len());
    ensure!(heads(&by_kernel) == heads(&by_xdp), "MAC addresses, EtherType or depth");
    let pushed = way.route.map_or(0, |route| match &route.paths[..] {
        [Action::To { out, .. }] => out.len(),
        _ => 0,
    });
    for (index, (kernel, xdp)) in by_kernel.stack.iter().zip(&by_xdp.stack).enumerate() {
        ensure!(kernel.label == xdp.label, "label {index}");
        if kernel.tc != xdp.tc {
            ensure!(index < pushed && kernel.tc == 0, "TC of label {index}");
            ensure!(sent.stack.iter().any(|lse| lse.tc() == xdp.tc), "TC of label {index}");
            note(Difference::TrafficClass);
        }
        if kernel.ttl != xdp.ttl {
            ensure!(disabled && index + 1 < pushed && xdp.ttl == 255, "TTL of label {index}");
            note(Difference::TunnelTtl);
        }
    }
    if by_kernel.payload != by_xdp.payload {
        let kept = sent.packet_len.context("payload that is not IP")?;
        ensure!(
            matches!(by_kernel.ethertype, ETH_P_IP | ETH_P_IPV6)
                && by_kernel.payload.get(..kept) == Some(&by_xdp.payload[..])
                && by_kernel.payload.len() > kept,
            "payload"
        );
        note(Difference::Trailer);
    }
    Ok(differences)
}

/// Sends random frames over random tables through both. An error is a difference that is not documented, or one that is
/// documented and does not show up.
pub fn compare(lab: &Lab, tables: usize) -> Result<Report> {
    let seed = match env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().context(SEED_VARIABLE)?,
        Err(_) => SEED,
    };
    println!("seed {seed}, {tables} tables, {FRAMES} frames and more for each ({SEED_VARIABLE}=N for another seed)");
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let kernel = Side::new(lab, "kernel", false)?;
    let xdp = Side::new(lab, "xdp", true)?;
    let mut report = Report {
        seed,
        tables,
        ..Report::default()
    };
    for done in 1..=tables {
        let table = random_table(&mut random);
        report.routes += table.len();
        kernel.set_routes(&table)?;
        xdp.set_routes(&table)?;
        let batch = Batch::random(&mut random, &table, &mut report.frames)?;
        let arrived = [kernel.run(&batch.frames)?, xdp.run(&batch.frames)?];
        for (&number, sent) in &batch.frames {
            batch
                .compare(number, sent, &table, &arrived, &mut report)
                .with_context(|| shown(number, sent, &table, &arrived))
                .with_context(|| format!("seed {seed}, table {done}"))?;
        }
        if done % REPORTED == 0 && done < tables {
            println!(
                "{done} tables, {} frames: no difference that is not documented",
                report.frames
            );
        }
    }
    // Otherwise the list claims too much.
    let unseen: Vec<_> = Difference::ALL
        .into_iter()
        .filter(|&one| report.count(one) == 0)
        .collect();
    ensure!(
        unseen.is_empty() || seed != SEED || tables < TABLES,
        "documented, but not seen: {unseen:?}"
    );
    Ok(report)
}

/// Frames that arrived on the right of one of the routers, by their numbers.
type Arrived = BTreeMap<u32, Vec<Vec<u8>>>;

fn of(arrived: &Arrived, number: u32) -> &[Vec<u8>] {
    arrived.get(&number).map_or(&[], Vec::as_slice)
}

/// A frame, its routes, and what both routers have sent for it.
fn shown(number: u32, sent: &Sent, table: &BTreeMap<u32, TestRoute>, [kernel, xdp]: &[Arrived; 2]) -> String {
    let is_used = |route: &&TestRoute| sent.stack.iter().any(|lse| lse.label().get() == route.label);
    let routes: Vec<_> = table.values().filter(is_used).map(ToString::to_string).collect();
    let stack = sent.stack.iter();
    let stack: Vec<_> = stack
        .map(|lse| (lse.label().get(), lse.ttl(), lse.tc(), lse.bottom()))
        .collect();
    format!(
        "frame {number}\nroutes  {routes:#?}\nsent    {stack:?}\n        {:02x?}\nkernel  {:02x?}\nmplsxdp {:02x?}",
        sent.bytes(),
        of(kernel, number),
        of(xdp, number)
    )
}

/// Random frames for a table, by their numbers.
struct Batch {
    frames: BTreeMap<u32, Sent>,
    /// Frames for a route with several next hops, and for each of these the number of the same frame for that next hop
    /// alone: one of them is what a router may have sent.
    several: BTreeMap<u32, Vec<u32>>,
}

impl Batch {
    /// `next` is the next free number.
    fn random(random: &mut Random, table: &BTreeMap<u32, TestRoute>, next: &mut u32) -> Result<Self> {
        let is_local = |route: &&TestRoute| route.paths == [Action::Local];
        let local: Vec<u32> = table.values().filter(is_local).map(|route| route.label).collect();
        let mut batch = Self {
            frames: BTreeMap::new(),
            several: BTreeMap::new(),
        };
        let mut take = || {
            *next += 1;
            *next - 1
        };
        for _ in 0..FRAMES {
            let number = take();
            let sent = random_frame(random, number, &local)?;
            let way = Way::of(&sent, table);
            let route = way.route.filter(|route| route.paths.len() > 1 && !sent.is_bottomless());
            if let Some(route) = route {
                let mut alone = Vec::new();
                for index in 0..route.paths.len() {
                    let number = take();
                    let mut copy = sent.with_label(way.locals, single(route.label, index));
                    mark(&mut copy, number);
                    batch.frames.insert(number, copy);
                    alone.push(number);
                }
                batch.several.insert(number, alone);
            }
            batch.frames.insert(number, sent);
        }
        Ok(batch)
    }

    /// Compares what the two routers have sent for a frame, and counts it in the report.
    fn compare(
        &self,
        number: u32,
        sent: &Sent,
        table: &BTreeMap<u32, TestRoute>,
        arrived: &[Arrived; 2],
        report: &mut Report,
    ) -> Result<()> {
        let [kernel, xdp] = [of(&arrived[0], number), of(&arrived[1], number)];
        if let Some(alone) = self.several.get(&number) {
            for (who, arrived) in ["the kernel", "mplsxdp"].into_iter().zip(arrived) {
                let unnumbered =
                    |number: u32| -> Vec<_> { of(arrived, number).iter().map(|frame| unmarked(frame)).collect() };
                let whole = unnumbered(number);
                ensure!(
                    alone.iter().any(|&one| unnumbered(one) == whole),
                    "{who} sent it by none of the next hops"
                );
            }
            report.several += 1;
            if kernel.first().map(|frame| &frame[..6]) != xdp.first().map(|frame| &frame[..6]) {
                *report.differences.entry(Difference::Path).or_default() += 1;
            }
            return Ok(());
        }
        match (kernel.len(), xdp.len()) {
            (0, 0) => report.by_neither += 1,
            _ => report.forwarded += 1,
        }
        for difference in explain(sent, table, kernel, xdp)? {
            *report.differences.entry(difference).or_default() += 1;
        }
        Ok(())
    }
}

/// Gives a frame another number. Routers do not check UDP checksums.
fn mark(sent: &mut Sent, number: u32) {
    let end = sent.payload.len();
    if let Some(at) = sent
        .payload
        .windows(20)
        .rposition(|bytes| bytes.iter().all(|&byte| byte == 0x5a))
        && at + 24 <= end
    {
        sent.payload[at + 20..at + 24].copy_from_slice(&number.to_be_bytes());
    }
}

/// A frame without its number.
fn unmarked(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Some(at) = frame
        .windows(20)
        .rposition(|bytes| bytes.iter().all(|&byte| byte == 0x5a))
        && at + 24 <= frame.len()
    {
        frame[at + 20..at + 24].fill(0);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::{Difference, documented};

    #[test]
    fn every_difference_is_documented_and_every_documented_one_is_known() {
        let document = include_str!("../../docs/semantics.md");
        let rows = documented(document).unwrap();
        assert!(
            Difference::ALL
                .into_iter()
                .all(|one| rows.iter().any(|row| row.difference == Some(one)))
        );
        assert!(documented(&document.replace("| a stack without a bottom |", "| a stack |")).is_err());
    }
}

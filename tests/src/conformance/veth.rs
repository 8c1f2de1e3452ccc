//! Runs cases on real ports: `mplsxdp load` in a network namespace, with veth pairs to another one. Packet sockets send
//! the frames, and everything that leaves any port is compared.
//!
//! ```text
//!   outside                       router [mplsxdp]
//!   core, ip, tx  ==============  core, ip, tx        frames arrive here: one port of each kind; core.100 and core.100.10
//!                                 mpls0 == mpls0-port (kind `local`)
//!   a, b, narrow, silent  ======  a, b, narrow, silent: the neighbours; b.200 and b.200.10
//! ```
//!
//! There is one `mplsxdp` for each set of options. Nothing sleeps: each frame is followed by a marker for the kernel;
//! once the marker has come through, the fast path has handled and counted the frame. Frames that wait for a next hop's
//! MAC address are sent first, and their answers, three seconds later, are fetched last.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mplsxdp::control::Instance;
use mplsxdp::control::api::{self, ListRoutes, Resolution};
use mplsxdp::control::client::{Client, ClientError};
use mplsxdp::ports::local::MAC as LOCAL_MAC;
use mplsxdp::route::{Route, Via};
use mplsxdp_common::abi::{Counter, Reason, TtlMode, UnknownPolicy};
use mplsxdp_common::forward::Verdict;
use mplsxdp_common::wire::{Mac, VLAN_VID_MASK};

use super::cases::{After, Case, Line, Options, Sent, routed_by_kernel};
use super::host::Host;
use super::notation::{OWN_MAC, OWN_V4, PEER_MAC, anatomy, ones_complement_sum, show};
use super::{Failure, lab, suite};
use crate::{End, Lab, Netns, Router, Tap, link, wait};

/// Ports that frames arrive at, and their names in the statistics.
const ARRIVAL: [(&str, &str); 4] = [("core", "core"), ("ip", "ip"), ("tx", "tx"), ("local", "mpls0-port")];
/// An EtherType that nothing uses: IEEE 802 reserves it for local experiments.
const MARKER: u16 = 0x88b5;
const PATIENCE: Duration = Duration::from_secs(10);
/// Larger than the MTU on the way out, so that frames can be too big.
const ARRIVAL_MTU: u32 = 2000;
/// Outcomes that are counted in addition to the one in which a frame ends.
const BESIDES: [&str; 3] = ["held", "hold-expired", "router-alert"];

/// Runs the lines of these cases that are possible on real ports, with all their options.
pub fn run(cases: &[&Case]) -> Result<Vec<Failure>> {
    let cables = Cables::new()?;
    let lines = || {
        cases
            .iter()
            .flat_map(|&case| case.lines.iter().map(move |line| (case, line)))
    };
    let mut sets: Vec<Options> = Vec::new();
    for (_, line) in lines().filter(|(_, line)| line.no_veth.is_none()) {
        for options in &line.options {
            if !sets.contains(options) {
                sets.push(*options);
            }
        }
    }
    let mut failures = Vec::new();
    for options in sets {
        let ours = lines().filter(|(_, line)| line.no_veth.is_none() && line.options.contains(&options));
        let ours: Vec<_> = ours.collect();
        // On a slow machine, a run that prints nothing for long looks dead.
        eprintln!("conformance on real ports: {} frames with {options:?}", ours.len());
        let found = Running::new(&cables, options)
            .and_then(|running| running.run(&ours))
            .with_context(|| format!("with {options:?}"))?;
        failures.extend(found);
    }
    Ok(failures)
}

/// The namespaces and the cables between them.
struct Cables {
    router: Netns,
    outside: Netns,
    /// Interfaces towards neighbours.
    neighbours: Vec<&'static str>,
    _lab: Lab,
}

impl Cables {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (router, outside) = (lab.netns("router")?, lab.netns("outside")?);
        // Without IPv6 unless a case needs it, because IPv6 sends frames of its own.
        for netns in [&router, &outside] {
            netns.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        }
        for name in ["core", "ip", "tx"] {
            link(
                End::new(&outside, name).mac(&PEER_MAC.to_string()).mtu(ARRIVAL_MTU),
                End::new(&router, name).mac(&OWN_MAC.to_string()).mtu(ARRIVAL_MTU),
            )?;
        }
        router.sysctl("ipv6/conf/core/disable_ipv6", "0")?;
        for line in [
            "address add 10.0.1.1/24 dev core broadcast 10.0.1.255",
            "address add 2001:db8:f0::1/64 dev core",
        ] {
            router.ip(line)?;
        }
        // Packets that the kernel routes go back to where frames come from.
        for (gateway, family) in [("10.0.1.2", "-4"), ("2001:db8:f0::2", "-6")] {
            router.ip(&format!(
                "neigh replace {gateway} lladdr {PEER_MAC} dev core nud permanent"
            ))?;
            router.ip(&format!("{family} route add default via {gateway} dev core"))?;
            let connected = ["10.0.1.0/24", "2001:db8:f0::/64"];
            let of_family = |route: &&&str| route.contains(':') == (family == "-6") && !connected.contains(route);
            for route in lab::KERNEL_ROUTES.iter().filter(of_family) {
                router.ip(&format!("{family} route add {route} via {gateway} dev core"))?;
            }
        }
        let mut neighbours = Vec::new();
        for neighbour in lab::neighbours() {
            let name = neighbour.dev;
            if is_sub_interface(name) {
                neighbours.push(name);
                continue;
            }
            let (near, far) = (End::new(&router, name), End::new(&outside, name));
            match neighbour.adjacency {
                // No machine there has the address.
                None => link(far, near)?,
                Some(adjacency) if lab::TX_PORTS.contains(&adjacency.port()) => {
                    let mtu = adjacency.mtu().into();
                    let (source, destination) = (adjacency.source().to_string(), adjacency.destination().to_string());
                    link(far.mac(&destination).mtu(mtu), near.mac(&source).mtu(mtu))?;
                    for address in gateways(name) {
                        if address.contains(':') {
                            router.sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
                        }
                        router.ip(&format!(
                            "neigh replace {address} lladdr {destination} dev {name} nud permanent"
                        ))?;
                    }
                }
                Some(_) => continue,
            }
            neighbours.push(name);
        }
        Ok(Self {
            router,
            outside,
            neighbours,
            _lab: lab,
        })
    }
}

/// Whether it is a sub-interface, which has no kernel device.
fn is_sub_interface(dev: &str) -> bool {
    dev.contains('.')
}

/// The interface that frames of a neighbour come out of.
fn cable(dev: &'static str) -> &'static str {
    dev.split_once('.').map_or(dev, |(parent, _)| parent)
}

/// The name in the statistics of the port at which a frame arrives.
fn arrival_port(kind: &str, port: &str, frame: &[u8]) -> String {
    let vids: Vec<u16> = anatomy(frame).tags.iter().map(|tag| tag.tci & VLAN_VID_MASK).collect();
    let known = lab::ARRIVAL_TAGS
        .iter()
        .any(|&(outer, inner)| vids == [outer] && inner == 0 || vids == [outer, inner]);
    if kind == "core" && known {
        vids.iter().fold(port.to_owned(), |name, vid| format!("{name}.{vid}"))
    } else {
        port.to_owned()
    }
}

/// The addresses of next hops behind an interface.
fn gateways(dev: &str) -> Vec<String> {
    let next_hops = suite().routes.iter().flat_map(Route::next_hops);
    let here = next_hops.filter(|next_hop| next_hop.dev.as_deref() == Some(dev));
    let mut addresses: Vec<String> = here
        .filter_map(|next_hop| match next_hop.via {
            Via::Inet(address) => Some(address.to_string()),
            Via::Inet6(address) => Some(address.to_string()),
            Via::Link(_) => None,
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Counts by name, or by port and name.
type Counts = BTreeMap<String, u64>;

/// One `mplsxdp` and the sockets around it.
struct Running {
    options: Options,
    router: Router,
    client: Client,
    /// Sends frames to the ports of each kind.
    arrival: HashMap<&'static str, Tap>,
    /// Receives what the router's kernel gets from those ports.
    kernel: HashMap<&'static str, Tap>,
    /// Receives the frames that leave.
    outside: BTreeMap<&'static str, Tap>,
    host: Host,
    markers: u32,
    reasons: Counts,
    /// What the slow path should have counted by now.
    outcomes: Counts,
    /// What routes should have counted by now, by slot.
    routes: HashMap<u32, Counter>,
    /// Outstanding answers that come later.
    late: RefCell<Vec<Late>>,
}

/// A frame that arrives at some later time, and the failure if it never does.
struct Late {
    dev: &'static str,
    frame: Vec<u8>,
    failure: Failure,
}

impl Running {
    fn new(cables: &Cables, options: Options) -> Result<Self> {
        let (router, client) = load(cables, options)?;
        let (mut arrival, mut kernel) = (HashMap::new(), HashMap::new());
        for (kind, interface) in ARRIVAL {
            let sender = if kind == "local" {
                Tap::open(&cables.router, "mpls0")?
            } else {
                Tap::open(&cables.outside, interface)?
            };
            arrival.insert(kind, sender);
            kernel.insert(kind, Tap::open(&cables.router, interface)?);
        }
        let names = ["core", "ip", "tx"]
            .into_iter()
            .chain(cables.neighbours.iter().copied().filter(|name| !is_sub_interface(name)));
        let outside = names.map(|name| Ok((name, Tap::open(&cables.outside, name)?)));
        let mut running = Self {
            outside: outside.collect::<Result<_>>()?,
            options,
            router,
            client,
            arrival,
            kernel,
            host: Host::default(),
            markers: 0,
            reasons: Counts::new(),
            outcomes: Counts::new(),
            routes: HashMap::new(),
            late: RefCell::default(),
        };
        running.reasons = running.counts()?.0;
        running.outcomes = running.counts()?.1;
        Ok(running)
    }

    fn run(mut self, lines: &[(&Case, &Line)]) -> Result<Vec<Failure>> {
        let mut failures = Vec::new();
        let is_late = |line: &Line| line.verdict == Verdict::Exception(Reason::Unresolved);
        let (late, others): (Vec<_>, Vec<_>) = lines.iter().partition(|(_, line)| is_late(line));
        for (case, line) in late.into_iter().chain(others) {
            let failure = |why: &str| Failure::new(case, line, &self.options, why);
            let later = is_late(line).then(|| failure(""));
            let failure = failure("");
            let wrong = self.check(line, later).with_context(|| format!("{}", line.place))?;
            if !wrong.is_empty() {
                let text = failure.text + &wrong;
                failures.push(Failure { text, ..failure });
            }
        }
        failures.extend(self.fetch_late()?);
        let wrong = self.check_totals()?;
        if !wrong.is_empty() {
            failures.push(Failure {
                case: "all-cases".into(),
                text: format!("with {:?}:\n{wrong}", self.options),
            });
        }
        self.router.unload()?;
        Ok(failures)
    }

    /// Sends the frame of a line and returns what is wrong with the result, or an empty string. Answers of a `late`
    /// line are fetched later.
    fn check(&mut self, line: &Line, late: Option<Failure>) -> Result<String> {
        let kind = ARRIVAL.iter().find(|(kind, _)| *kind == line.port);
        let &(kind, port) = kind.with_context(|| format!("a real router has no port of the kind @{}", line.port))?;
        self.arrival[kind].send(&to_port(kind, &line.frame))?;
        let mut wrong = self.await_marker(kind, line)?;
        if let (Verdict::Forward { .. }, Some(dev)) = (line.verdict, self.behind(&line.output)) {
            wrong += &self.expect(dev, &line.output)?;
        }
        self.expect_count(line);
        let sent: Vec<_> = match &line.after {
            After::Punted(_, sent) => sent.iter().map(|sent| self.as_frame(sent)).collect::<Result<_>>()?,
            After::Nothing | After::Passed => Vec::new(),
        };
        match late {
            Some(failure) => self.late.get_mut().extend(sent.into_iter().map(|(dev, frame)| Late {
                dev,
                frame,
                failure: failure.clone(),
            })),
            None => {
                for (dev, frame) in sent {
                    wrong += &self.expect(dev, &frame)?;
                }
                wrong += &self.await_outcome(line)?;
            }
        }
        wrong += &self.check_reasons(line, &arrival_port(kind, port, &line.frame))?;
        for (name, tap) in &self.outside {
            for frame in tap.drain()? {
                if !is_noise(&frame) && !self.was_late(name, &frame) {
                    wrong += &format!(" came out of {name} unexpected: {}\n", show(&frame));
                }
            }
        }
        Ok(wrong)
    }

    /// Waits until a marker sent after the frame has come through. The kernel must have got exactly what it should
    /// before the marker.
    fn await_marker(&mut self, kind: &str, line: &Line) -> Result<String> {
        self.markers += 1;
        let marker = [
            &OWN_MAC.0,
            &PEER_MAC.0,
            &MARKER.to_be_bytes()[..],
            &self.markers.to_be_bytes(),
        ];
        let marker = to_port(kind, &marker.concat());
        self.arrival[kind].send(&marker)?;
        let mut passed = Vec::new();
        self.kernel[kind].receive("the marker", |frame| {
            if frame != marker {
                passed.push(frame.to_vec());
            }
            frame == marker
        })?;
        let to_kernel = line.verdict == Verdict::Pass || line.after == After::Passed;
        let expected = Vec::from_iter(to_kernel.then(|| to_port(kind, &line.output)));
        if passed == expected {
            return Ok(String::new());
        }
        let text = |frames: &[Vec<u8>]| {
            frames
                .iter()
                .map(|frame| format!("\n      {}", show(frame)))
                .collect::<String>()
        };
        Ok(format!(
            " the kernel was to get{}\n and got{}\n",
            text(&expected),
            text(&passed)
        ))
    }

    /// Checks that the next frame that leaves there is this one.
    fn expect(&self, dev: &'static str, expected: &[u8]) -> Result<String> {
        let tap = self
            .outside
            .get(dev)
            .with_context(|| format!("there is no cable to {dev}"))?;
        let wanted = |frame: &[u8]| !is_noise(frame) && (alike(frame, expected) || !self.was_late(dev, frame));
        match tap.receive("", wanted) {
            Ok(frame) if alike(&frame, expected) => Ok(String::new()),
            Ok(frame) => Ok(format!(" want on {dev} {}\n got  {}\n", show(expected), show(&frame))),
            Err(_) => Ok(format!(" want on {dev} {}\n got  nothing\n", show(expected))),
        }
    }

    /// Adds to the expected counts.
    fn expect_count(&mut self, line: &Line) {
        if let After::Punted(outcome, _) = &line.after {
            *self.outcomes.entry(outcome.name().into()).or_default() += 1;
        }
        for (slot, counter) in self.host.forward(line, &self.options).counted {
            let sum = self.routes.entry(slot).or_default();
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
        }
    }

    /// Waits until the slow path is done with a frame.
    fn await_outcome(&mut self, line: &Line) -> Result<String> {
        let After::Punted(outcome, _) = &line.after else {
            return Ok(String::new());
        };
        let expected = self.outcomes[outcome.name()];
        let counted = wait::until("", PATIENCE, || {
            let (_, outcomes) = self.counts()?;
            Ok((outcomes.get(outcome.name()) >= Some(&expected)).then_some(()))
        });
        Ok(match counted {
            Ok(()) => String::new(),
            Err(_) => format!(" the slow path did not count {}\n", outcome.name()),
        })
    }

    /// Compares what the fast path has counted since the last check.
    fn check_reasons(&mut self, line: &Line, port: &str) -> Result<String> {
        let (reasons, _) = self.counts()?;
        let mut expected = std::mem::replace(&mut self.reasons, reasons);
        if let Verdict::Exception(reason) = line.verdict {
            *expected.entry(format!("{port} {}", reason.name())).or_default() += 1;
        }
        Ok(difference("reason", &expected, &self.reasons))
    }

    /// Reasons by port, and outcomes.
    fn counts(&mut self) -> Result<(Counts, Counts)> {
        let stats = self.client.stats(false)?;
        let reasons = stats.reasons.iter().flat_map(|counter| {
            let name = format!("{} {}", counter.port, counter.reason);
            let lost = counter.policed + counter.unheard;
            [(format!("{name}, lost"), lost), (name, counter.packets)]
        });
        let outcomes = stats
            .slow_path
            .iter()
            .map(|outcome| (outcome.name.clone(), outcome.packets));
        Ok((
            reasons.filter(|(_, count)| *count > 0).collect(),
            outcomes.filter(|(name, _)| !BESIDES.contains(&name.as_str())).collect(),
        ))
    }

    /// Waits for the answers that come when the wait for a next hop has ended.
    fn fetch_late(&mut self) -> Result<Vec<Failure>> {
        for (name, tap) in &self.outside {
            let awaited = || self.late.borrow().iter().any(|late| late.dev == *name);
            // Other frames are found when all is counted.
            while awaited() && tap.receive("", |frame| self.was_late(name, frame)).is_ok() {}
        }
        let missing = self.late.take().into_iter().map(|late| {
            let (text, wanted) = (&late.failure.text, show(&late.frame));
            let text = format!("{text} want later on {} {wanted}\n got  nothing\n", late.dev);
            Failure { text, ..late.failure }
        });
        Ok(missing.collect())
    }

    /// Checks all counters, and that no more frames leave.
    fn check_totals(&mut self) -> Result<String> {
        let expected = self.outcomes.clone();
        // The slow path counts a frame after it has sent the answer.
        let settled = wait::until("", PATIENCE, || Ok((self.counts()?.1 == expected).then_some(())));
        let mut wrong = match settled {
            Ok(()) => String::new(),
            Err(_) => difference("outcome", &expected, &self.counts()?.1),
        };
        let mut routes: Vec<api::InstalledRoute> = Vec::new();
        let list = ListRoutes {
            counters: Some(true),
            ..ListRoutes::default()
        };
        self.client.routes(&list, |route| {
            routes.push(route);
            Ok::<_, ClientError>(())
        })?;
        for api::InstalledRoute { route, counter, .. } in routes {
            let route = route.check()?;
            let slot = self.host.slot(route.key()).unwrap_or_default();
            let expected = self.routes.get(&slot).copied().unwrap_or_default();
            let counted = counter.map_or((0, 0), |counter| (counter.packets, counter.bytes));
            if counted != (expected.packets, expected.bytes) {
                wrong += &format!(" route `{route}` counted {counted:?}, want {expected:?}\n");
            }
        }
        // Frames that no case expects.
        let kernel = self
            .kernel
            .iter()
            .map(|(kind, tap)| (format!("to the kernel on @{kind}"), tap));
        let outside = self.outside.iter().map(|(name, tap)| (format!("out of {name}"), tap));
        for (place, tap) in kernel.chain(outside) {
            for frame in tap.drain()?.into_iter().filter(|frame| !is_noise(frame)) {
                wrong += &format!(" came {place} in the end: {}\n", show(&frame));
            }
        }
        Ok(wrong)
    }

    fn as_frame(&self, sent: &Sent) -> Result<(&'static str, Vec<u8>)> {
        match sent {
            Sent::To { dev, frame, .. } => {
                let neighbour = lab::neighbours().into_iter().find(|neighbour| neighbour.dev == dev);
                let neighbour = neighbour.context("there is no such neighbour")?;
                Ok((cable(neighbour.dev), frame.clone()))
            }
            Sent::ByIp(packet) => Ok(("core", routed_by_kernel(packet))),
        }
    }

    /// The neighbour that a frame is addressed to.
    fn behind(&self, frame: &[u8]) -> Option<&'static str> {
        let destination = Mac(*frame.first_chunk()?);
        let neighbour = lab::neighbours().into_iter().find(|neighbour| {
            neighbour
                .adjacency
                .is_some_and(|adjacency| adjacency.destination() == destination)
        });
        neighbour.map(|neighbour| cable(neighbour.dev))
    }

    /// Whether a frame is an answer that was expected later and has now come.
    fn was_late(&self, dev: &str, frame: &[u8]) -> bool {
        let mut late = self.late.borrow_mut();
        let found = late
            .iter()
            .position(|late| late.dev == dev && alike(frame, &late.frame));
        found.map(|index| late.swap_remove(index)).is_some()
    }
}

/// Loads with these options and all routes, and waits until next hops are known.
fn load(cables: &Cables, options: Options) -> Result<(Router, Client)> {
    let mode = match options.mode {
        TtlMode::Uniform => "uniform",
        TtlMode::Pipe => "pipe",
        TtlMode::Linux => "linux",
    };
    let unknown = match options.unknown {
        UnknownPolicy::Punt => "punt",
        UnknownPolicy::Drop => "drop",
        UnknownPolicy::Pass => "pass",
    };
    let via = format!("{:?}", options.icmp_via).to_lowercase();
    let mut line = format!(
        "--iface core --iface core.100 --iface core.100.10 --iface ip --tx-only tx --local mpls0 --labels {} --stacks {} --groups {} --backups {} --counter-slots {} \
         --hash-seed 0 --tunnel-ttl {} --ttl-propagate {mode} --unknown {unknown} --icmp-via {via} --icmp-rate 0 --icmp-source-rate 0 --punt-rate 0 \
         --hold 1024",
        lab::CAPACITY.labels,
        lab::CAPACITY.stacks,
        lab::CAPACITY.groups,
        lab::CAPACITY.backups,
        lab::CAPACITY.counter_slots,
        lab::TUNNEL_TTL
    );
    for name in &cables.neighbours {
        line += &format!(" --iface {name}");
    }
    if options.tc {
        line += " --tc-propagate";
    }
    let router = Router::load(&cables.router, &line)?;
    let mut client = Client::connect(&Instance::new(router.instance())?)?;
    client.set_link(&api::SetLink {
        ifname: "ip".into(),
        mpls: Some(false),
        accept_labels: None,
        mpls_mtu: None,
        dscp_map: None,
        tc_map: None,
    })?;
    let is_here = |route: &&Route| {
        let mut devs = route.next_hops().filter_map(|next_hop| next_hop.dev.as_deref());
        devs.all(|dev| cables.neighbours.contains(&dev))
    };
    let routes: Vec<Route> = suite().routes.iter().filter(is_here).cloned().collect();
    client.add_routes(&routes)?;
    wait::until("MAC addresses of all next hops but one", PATIENCE, || {
        let next_hops = client.neighbors(false)?;
        let waits = next_hops.iter().any(|next_hop| {
            next_hop.dev.as_deref() != Some("silent")
                && !matches!(next_hop.state, Resolution::Resolved | Resolution::Static)
        });
        Ok((!waits).then_some(()))
    })?;
    Ok((router, client))
}

/// A frame for this router is addressed to the port that it is sent to.
fn to_port(kind: &str, frame: &[u8]) -> Vec<u8> {
    match frame.strip_prefix(&OWN_MAC.0) {
        Some(rest) if kind == "local" => [&LOCAL_MAC.0, rest].concat(),
        _ => frame.to_vec(),
    }
}

/// Frames that the router's kernel sends by itself: to groups, which no case uses.
fn is_noise(frame: &[u8]) -> bool {
    frame.first().is_some_and(|byte| byte & 1 != 0)
}

/// Whether two frames are the same, except for the identification of this router's own IPv4 packets, which counts up;
/// the checksum over it must be right.
fn alike(frame: &[u8], other: &[u8]) -> bool {
    fn masked(frame: &[u8]) -> Option<Vec<u8>> {
        const IPPROTO_ICMP: u8 = 1;
        let start = frame.len() - anatomy(frame).payload.len();
        let header = frame.get(start..start + 20)?;
        let is_own = header[0] == 0x45 && header[9] == IPPROTO_ICMP && header[12..16] == OWN_V4.octets();
        (is_own && ones_complement_sum(header) == 0xffff).then(|| {
            let mut masked = frame.to_vec();
            masked[start + 4..start + 6].fill(0);
            masked[start + 10..start + 12].fill(0);
            masked
        })
    }
    frame == other || masked(frame).is_some_and(|frame| Some(frame) == masked(other))
}

fn difference(what: &str, expected: &Counts, counted: &Counts) -> String {
    let names: std::collections::BTreeSet<_> = expected.keys().chain(counted.keys()).collect();
    let different = names
        .into_iter()
        .filter(|name| expected.get(*name) != counted.get(*name));
    different
        .map(|name| {
            let (want, got) = (expected.get(name).unwrap_or(&0), counted.get(name).unwrap_or(&0));
            format!(" {what} {name}: want {want}, got {got}\n")
        })
        .collect()
}

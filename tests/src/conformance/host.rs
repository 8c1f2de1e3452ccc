//! Runs cases on the host: the forwarding core on memory, and the slow path for the exceptions.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mplsxdp::dataplane::frame::MemoryFrame;
use mplsxdp::dataplane::memory::{AtPort, MemoryTables};
use mplsxdp::lfib::Lfib;
use mplsxdp::route::RouteKey;
use mplsxdp::slowpath::outcome::Outcome;
use mplsxdp::slowpath::{self, Action, Rate, Received, SlowPath, World};
use mplsxdp_common::abi::{Adjacency, Loss, Reason, Settings, UnknownPolicy, VlanTags};
use mplsxdp_common::forward::{Arrival, PortView as _, Verdict};
use mplsxdp_common::wire::ETH_HLEN;

use super::cases::{After, Case, Line, Options, Sent};
use super::notation::{OWN_V4, OWN_V6, show};
use super::{Failure, lab};

/// A router in memory.
pub struct Host {
    lfib: Lfib<MemoryTables>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            lfib: lab::install(MemoryTables::with_capacity(lab::CAPACITY)),
        }
    }
}

/// Runs every line of these cases with all its options.
pub fn run(cases: &[&Case]) -> Vec<Failure> {
    let mut host = Host::default();
    let mut failures = Vec::new();
    for case in cases {
        for line in &case.lines {
            for options in &line.options {
                let checked = host.check(line, options);
                failures.extend(checked.err().map(|why| Failure::new(case, line, options, why)));
            }
        }
    }
    failures
}

impl Host {
    /// What the core does with the frame of a line.
    pub fn forward(&mut self, line: &Line, options: &Options) -> lab::Outcome {
        let settings = options.settings();
        lab::store_port(self.lfib.tables_mut(), settings, &line.port);
        let headroom = line.headroom.unwrap_or(MemoryFrame::HEADROOM);
        let frame = MemoryFrame::with_headroom(&line.frame, headroom);
        lab::run_in(self.lfib.tables(), settings, frame)
    }

    /// The port where frames of a line are counted if they are not forwarded.
    pub fn counting_port(&self, line: &Line, options: &Options) -> u16 {
        let settings = options.settings();
        match counted_reason(line.verdict) {
            // Detected only after the frame had been rewritten.
            Some(Reason::NoPort) => settings.port() as u16,
            _ => untag(&line.frame, &self.lfib.tables().at_wire(settings)).0,
        }
    }

    /// The counter slot of a route.
    pub fn slot(&self, key: RouteKey) -> Option<u32> {
        Some(self.lfib.get(key)?.counter_slot)
    }

    /// The error says what happened instead.
    pub fn check(&mut self, line: &Line, options: &Options) -> Result<(), String> {
        let outcome = self.forward(line, options);
        if (outcome.verdict, &outcome.frame) != (line.verdict, &line.output) {
            return Err(format!(
                " in   {}\n want {:?} {}\n got  {:?} {}",
                show(&line.frame),
                line.verdict,
                show(&line.output),
                outcome.verdict,
                show(&outcome.frame)
            ));
        }
        match &line.after {
            After::Punted(outcome, sent) => self.check_slow_path(line, options, *outcome, sent),
            After::Nothing | After::Passed => Ok(()),
        }
    }

    fn check_slow_path(&self, line: &Line, options: &Options, outcome: Outcome, sent: &[Sent]) -> Result<(), String> {
        let unlimited = Rate {
            per_second: 0,
            burst: 0,
        };
        let mut slow_path = SlowPath::new(slowpath::Options {
            icmp_via: options.icmp_via,
            icmp_rate: unlimited,
            icmp_source_rate: unlimited,
            ..slowpath::Options::default()
        });
        let world = Here {
            tables: self.lfib.tables(),
            settings: options.settings(),
        };
        let (port, untagged) = untag(&line.frame, &world.tables.at_wire(world.settings));
        let received = Received {
            port,
            frame: &untagged,
            trimmed: 0,
        };
        let mut got = Vec::new();
        let mut emit = |action: Action<'_>| {
            match action {
                Action::Transmit { port, frame } => got.push((Some(port), tag(frame, port))),
                Action::SendByIp { packet, .. } => got.push((None, packet.to_vec())),
                Action::Deliver { frame, .. } => got.push((None, frame[ETH_HLEN..].to_vec())),
                Action::Resolve { .. } | Action::Report(_) | Action::Handled(..) => {}
            }
            true
        };
        slow_path.receive(received, &world, Instant::now(), &mut emit);
        // No next hop answers.
        while let Some(deadline) = slow_path.next_deadline() {
            slow_path.poll(&world, deadline, &mut emit);
        }
        let want: Vec<_> = sent.iter().map(as_action).collect();
        let counted = slow_path.counters().get(outcome);
        if (&got, counted) == (&want, 1) {
            return Ok(());
        }
        let outcomes = Outcome::ALL
            .iter()
            .filter(|&&outcome| slow_path.counters().get(outcome) > 0);
        let outcomes: Vec<_> = outcomes.map(|outcome| outcome.name()).collect();
        Err(format!(
            " in   {}\n the slow path is to end with {} and to send{}\n it ended with {} and sent{}",
            show(&line.frame),
            outcome.name(),
            show_all(&want),
            outcomes.join(", "),
            show_all(&got)
        ))
    }
}

/// The port or sub-interface at which a frame arrived, and the frame without its tags, as the slow path gets it.
fn untag(frame: &[u8], tables: &AtPort<'_>) -> (u16, Vec<u8>) {
    let own = tables.settings().port();
    let arrival = Arrival::of(&MemoryFrame::new(frame), tables).expect("every frame of a case has an Ethernet header");
    let mut untagged = frame.to_vec();
    untagged.drain(MACS_LEN..MACS_LEN + arrival.l2_len - ETH_HLEN);
    (arrival.port.unwrap_or(own) as u16, untagged)
}

/// A frame as it leaves by a port.
fn tag(frame: &[u8], port: u16) -> Vec<u8> {
    let adjacencies = lab::neighbours()
        .into_iter()
        .filter_map(|neighbour| neighbour.adjacency);
    let tags = adjacencies
        .into_iter()
        .find(|adjacency| adjacency.port() == port)
        .map_or(VlanTags::NONE, Adjacency::tags);
    let mut tagged = frame.to_vec();
    tagged.splice(MACS_LEN..MACS_LEN, tags.to_bytes().into_iter().take(tags.len_bytes()));
    tagged
}

/// Destination and source.
const MACS_LEN: usize = 12;

fn as_action(sent: &Sent) -> (Option<u16>, Vec<u8>) {
    match sent {
        Sent::To { port, frame, .. } => (Some(*port), frame.clone()),
        Sent::ByIp(packet) => (None, packet.clone()),
    }
}

fn show_all(frames: &[(Option<u16>, Vec<u8>)]) -> String {
    if frames.is_empty() {
        return " nothing".into();
    }
    let each = frames.iter().map(|(port, frame)| match port {
        Some(port) => format!("\n      port {port} {}", show(frame)),
        None => format!("\n      by IP {frame:02x?}"),
    });
    each.collect()
}

/// The slow path's view of the router.
struct Here<'a> {
    tables: &'a MemoryTables,
    settings: Settings,
}

impl World for Here<'_> {
    type View<'b>
        = AtPort<'b>
    where
        Self: 'b;

    fn tables_at(&self, port: u16) -> AtPort<'_> {
        self.tables.without_tags(self.settings.with_port(port.into()))
    }

    fn source_address(&self, _port: u16, remote: IpAddr) -> Option<IpAddr> {
        Some(if remote.is_ipv4() { OWN_V4.into() } else { OWN_V6.into() })
    }

    fn is_broadcast(&self, _port: u16, address: IpAddr) -> bool {
        address == lab::OWN_BROADCAST
    }

    fn has_specific_route(&self, _port: u16, destination: IpAddr) -> bool {
        let routes = lab::KERNEL_ROUTES
            .iter()
            .filter_map(|route| route.parse::<IpNet>().ok());
        routes.into_iter().any(|route| route.contains(&destination))
    }

    fn is_own_address(&self, address: IpAddr) -> bool {
        address == OWN_V4 || address == OWN_V6
    }

    fn is_own_prefix(&self, _port: u16, prefix: IpNet) -> bool {
        prefix == IpNet::from(IpAddr::from(OWN_V4)) || prefix == IpNet::from(IpAddr::from(OWN_V6))
    }

    fn next_hop_address(&self, _adjacency: u16) -> Option<IpAddr> {
        None
    }

    fn time_since_epoch(&self) -> Duration {
        Duration::ZERO
    }
}

/// The reason for which an outcome is counted in the fast path: the host does not have the DEVMAP.
pub fn counted_reason(verdict: Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Exception(reason) => Some(reason),
        Verdict::Forward { port } if !lab::TX_PORTS.contains(&port) => Some(Reason::NoPort),
        Verdict::Forward { .. } | Verdict::Pass => None,
    }
}

/// Why the slow path does not get an exception if nothing listens, as in BPF_PROG_TEST_RUN. `None` if it should not get
/// it.
pub fn loss(reason: Reason, unknown: UnknownPolicy) -> Option<Loss> {
    let is_left = reason == Reason::NoRoute && unknown != UnknownPolicy::Punt;
    (reason.is_punted() && !is_left).then_some(Loss::NoListener)
}

#[cfg(test)]
mod tests {
    use super::super::suite;
    use super::*;

    /// Headers, the first of the data, and the last byte: the bytes of the data between them are equivalent.
    fn some_bytes(length: usize) -> impl Iterator<Item = usize> {
        (0..length.min(80)).chain(length.checked_sub(1))
    }

    /// The suite can fail: a case does not pass with a changed byte in the expected frame.
    #[test]
    fn a_wrong_byte_in_what_is_expected_is_noticed() {
        let mut host = Host::default();
        for line in suite().cases.iter().flat_map(|case| &case.lines) {
            let options = &line.options[0];
            assert_eq!(host.check(line, options), Ok(()), "{}", line.place);
            for index in some_bytes(line.output.len()) {
                let mut wrong = Line {
                    after: After::Nothing,
                    ..line.clone()
                };
                wrong.output[index] ^= 0x10;
                assert!(host.check(&wrong, options).is_err(), "{} byte {index}", line.place);
            }
        }
    }

    #[test]
    fn a_wrong_byte_in_what_the_slow_path_is_to_send_is_noticed() {
        let host = Host::default();
        let mut seen = 0;
        for line in suite().cases.iter().flat_map(|case| &case.lines) {
            let After::Punted(outcome, sent) = &line.after else {
                continue;
            };
            let options = &line.options[0];
            for number in 0..sent.len() {
                let length = as_action(&sent[number]).1.len();
                for index in some_bytes(length) {
                    let mut wrong = sent.clone();
                    match &mut wrong[number] {
                        Sent::To { frame, .. } => frame[index] ^= 0x10,
                        Sent::ByIp(packet) => packet[index] ^= 0x10,
                    }
                    let checked = host.check_slow_path(line, options, *outcome, &wrong);
                    assert!(checked.is_err(), "{} frame {number} byte {index}", line.place);
                }
                let fewer = [&sent[..number], &sent[number + 1..]].concat();
                assert!(
                    host.check_slow_path(line, options, *outcome, &fewer).is_err(),
                    "{}",
                    line.place
                );
                seen += 1;
            }
        }
        assert!(seen > 0, "no case has anything sent by the slow path");
    }
}

//! Explains what the forwarding core and the slow path decide about a frame: the routes and next hops behind the entries
//! that were used, in words. It decides nothing itself.

use std::net::IpAddr;

use mplsxdp_common::abi::{
    CrossConnect, Domain, Encapsulation, Op, PortWord, Reason, RouteEntry, Settings, TtlMode, UnknownPolicy,
};
use mplsxdp_common::fib::FibLookup;
use mplsxdp_common::forward::Verdict;
use mplsxdp_common::ip::Family;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, Label, Lse};

use super::Switch;
use crate::control::api::{
    self, Trace, TraceStep, TraceVerdict, TracedAction, TracedAnswer, TracedFrame, TracedOutcome,
};
use crate::dataplane::Tables;
use crate::dataplane::recorder::{FibAnswer, Lookup, Recorded};
use crate::observe::notation;
use crate::route::{RouteKey, RoutingTable};
use crate::slowpath::packet::entries;
use crate::slowpath::rehearsal::{Intended, Rehearsed};

impl<T: Tables> Switch<T> {
    /// Explains what happens to a frame that arrives at the port with this number.
    pub fn explain(&self, port: u16, frame: &[u8], recorded: &Recorded, rehearsed: &[Rehearsed]) -> Trace {
        let settings = recorded.settings;
        let mut steps = vec![self.arrival(port, frame, recorded)];
        steps.extend(self.problems(port));
        let mut labels = Labels::of(frame, recorded);
        for lookup in &recorded.lookups {
            match *lookup {
                Lookup::Ilm { label, entry } => {
                    steps.extend(labels.own_until(label));
                    steps.push(self.label(label, labels.looked_up(entry), entry, settings));
                }
                _ => steps.extend(self.look_up_step(lookup, settings)),
            }
        }
        steps.extend(labels.own_rest());
        let out = recorded.frame.bytes();
        let (verdict, reason, sent) = match recorded.verdict {
            Verdict::Forward { port } => {
                let step = TraceStep {
                    step: "rewrite".into(),
                    text: format!("{} leaves as {}", notation::inside(frame), notation::inside(out)),
                    ..TraceStep::default()
                };
                steps.push(step);
                (TraceVerdict::Forwarded, None, Some(self.frame(port, out)))
            }
            Verdict::Pass => (TraceVerdict::Kernel, None, Some(self.frame(port, out))),
            Verdict::Exception(reason) => match (reason, settings.unknown()) {
                (Reason::PassRoute, _) | (Reason::NoRoute, UnknownPolicy::Pass) => {
                    (TraceVerdict::Kernel, Some(reason), Some(self.frame(port, frame)))
                }
                _ if settings.punts(reason) => (TraceVerdict::SlowPath, Some(reason), None),
                _ => (TraceVerdict::Dropped, Some(reason), None),
            },
        };
        Trace {
            arrived: self.frame(port, frame),
            steps,
            verdict,
            reason: reason.map(|reason| reason.name().to_owned()),
            description: reason.map(|reason| reason.description().trim().to_owned()),
            rule: reason.map(|reason| reason.source().to_owned()),
            sent,
            slow_path: rehearsed
                .iter()
                .zip(["now", "in 3 s, if the next hop has not been resolved by then"])
                .map(|(rehearsed, when)| self.rehearsed_answer(rehearsed, when))
                .collect(),
        }
    }

    fn port_name(&self, number: u16) -> String {
        self.ports.name(number).unwrap_or("(gone)").to_owned()
    }

    fn frame(&self, port: u16, frame: &[u8]) -> TracedFrame {
        TracedFrame {
            ifname: self.port_name(port),
            frame: hex::encode(frame),
            text: notation::show(frame),
        }
    }

    /// Where the frame arrives, and what the port does with such a frame.
    fn arrival(&self, port: u16, frame: &[u8], recorded: &Recorded) -> TraceStep {
        let name = self.port_name(port);
        let word = recorded.port;
        let mut text = format!("arrives at {name}");
        let Some(arrival) = recorded.arrival else {
            text += ": shorter than its Ethernet header, left to the kernel";
            return step("port", text, None);
        };
        match arrival.port.map(|number| number as u16) {
            Some(number) if number != port => text += &format!(", sub-interface {}", self.port_name(number)),
            Some(_) => {}
            None => text += ", with tags that belong to no sub-interface",
        }
        let is_ours = frame.first_chunk().is_some_and(|start| word.is_destination(*start));
        let rule = if word.has(PortWord::CROSS_CONNECT) {
            text += ", which is cross-connected: all its frames go the same way";
            Some("IEEE 802.1Q section 6.7")
        } else if !is_ours {
            text += &format!(
                "; its destination is not the port's MAC address {}: left to the kernel",
                word.mac()
            );
            None
        } else {
            let (what, rule) = match arrival.ethertype {
                _ if arrival.port.is_none() => ("; for this router", Some("RFC 3032 section 5")),
                ETH_P_MPLS_UC if !word.has(PortWord::MPLS) => (
                    "; labelled, and the port does not accept labels",
                    Some("RFC 5920 section 8.1"),
                ),
                ETH_P_MPLS_UC if word.has(PortWord::RANGES) => (
                    "; labelled, and the port accepts some labels",
                    Some("RFC 3032 section 5"),
                ),
                ETH_P_MPLS_UC => ("; labelled", Some("RFC 3032 section 5")),
                ETH_P_IP | ETH_P_IPV6 if word.has(PortWord::IMPOSE) => {
                    ("; an IP packet, which may get labels", Some("RFC 3031 section 3.12"))
                }
                ETH_P_IP | ETH_P_IPV6 => (
                    "; an IP packet, and the port imposes no labels: left to the kernel",
                    None,
                ),
                _ => ("; neither labelled nor IP: left to the kernel", None),
            };
            text += what;
            rule
        };
        step("port", text, rule)
    }

    /// Why the program may not get the frame at all.
    fn problems(&self, port: u16) -> Option<TraceStep> {
        let port = self.ports.get(port)?;
        let lost = self.ports.program(port).and_then(|program| program.lost.as_ref());
        let link = self.resolver.links().get(port.ifindex());
        let text = match (lost, link.is_some_and(|link| link.is_up())) {
            (Some(lost), _) => format!(
                "the program is not in place, and the kernel gets every frame: {}; what follows is what the program would do",
                lost.reason
            ),
            (None, false) => {
                "the interface is down: no frame arrives; what follows is what the program would do".to_owned()
            }
            (None, true) => return None,
        };
        Some(step("problem", text, None))
    }

    fn route(&self, key: RouteKey) -> Option<api::InstalledRoute> {
        self.installed(self.lfib.get(key), false).into_iter().next()
    }

    /// The look-up of a label.
    fn label(&self, label: Label, lse: Option<Lse>, entry: RouteEntry, settings: Settings) -> TraceStep {
        let (what, rule) = match entry.op() {
            Op::None => ("no route".to_owned(), "RFC 3031 section 3.18"),
            Op::Pass => ("left to the kernel".to_owned(), "Linux mpls_router"),
            _ => operation(entry, settings),
        };
        let described = lse.map_or_else(|| format!("label {label}"), lse_text);
        TraceStep {
            route: self.route(RouteKey::Label(label)),
            ..step("label", format!("{described}: {what}"), Some(rule))
        }
    }

    /// Any other look-up; `None` for one that explains nothing.
    fn look_up_step(&self, lookup: &Lookup, settings: Settings) -> Option<TraceStep> {
        let found = match *lookup {
            Lookup::Ilm { .. } => return None,
            Lookup::Accepted { label, accepted } => {
                let word = if accepted {
                    "accepted"
                } else {
                    "in none of the port's ranges"
                };
                step(
                    "label",
                    format!("label {label} is {word}"),
                    Some("RFC 5920 section 8.1"),
                )
            }
            Lookup::CrossConnect { port, to } => match (to.attachment(), to.port()) {
                (Some(_), _) => step(
                    "cross-connect",
                    format!(
                        "{} is the attachment circuit of a pseudowire",
                        self.port_name(port as u16)
                    ),
                    Some("RFC 4448 section 4.4"),
                ),
                (None, _) if to == CrossConnect::NOWHERE => {
                    step("cross-connect", "the port at the other end is not there".into(), None)
                }
                (None, port) => {
                    let text = format!("to {}, frames of up to {} bytes", self.port_name(port), to.longest());
                    step("cross-connect", text, Some("IEEE 802.1Q section 6.7"))
                }
            },
            Lookup::Pseudowire { to, encapsulation } => {
                let end = match to == CrossConnect::NOWHERE || to.attachment().is_some() {
                    true => "its attachment circuit is not there".to_owned(),
                    false => format!("leaves by the attachment circuit at {}", self.port_name(to.port())),
                };
                step(
                    "pseudowire",
                    end + encapsulated(encapsulation),
                    Some("RFC 4448 section 4.4"),
                )
            }
            Lookup::Attachment { entry, encapsulation } => {
                let (what, _) = operation(entry, settings);
                let text = format!("enters a pseudowire: {what}{}", encapsulated(encapsulation));
                step("attachment-circuit", text, Some("RFC 4448 section 4.4"))
            }
            Lookup::Ftn {
                domain,
                is_v4,
                destination,
                entry,
            } => self.prefix(domain, address(is_v4, destination), entry, settings),
            Lookup::Adjacency { index, adjacency } => {
                let (name, state) = match self.lfib.next_hops().at_slot(index) {
                    Some((id, next_hop)) => (
                        next_hop.to_string(),
                        format!(" ({})", self.state_of(self.resolver.state(id))),
                    ),
                    None => (format!("slot {index}"), String::new()),
                };
                let text = match adjacency.filter(|adjacency| adjacency.is_resolved()) {
                    Some(adjacency) => format!(
                        "{name}: MAC address {}, by port {}, MTU {}, for labelled packets {}",
                        adjacency.destination(),
                        self.port_name(adjacency.port()),
                        adjacency.mtu(),
                        adjacency.mpls_mtu(),
                    ),
                    None => match adjacency.and_then(|adjacency| adjacency.backup()) {
                        Some(_) => format!("{name}: not resolved{state}, so its backup is taken"),
                        None => format!("{name}: not resolved{state}, and there is no backup"),
                    },
                };
                step("next-hop", text, Some("RFC 3031 section 3.10"))
            }
            Lookup::Stack(stack) => {
                let labels: Vec<_> = stack.labels().map(|label| label.to_string()).collect();
                let ttl = match stack.ttl() {
                    0 => String::new(),
                    ttl => format!(", with TTL {ttl}"),
                };
                step(
                    "stack",
                    format!("labels {}{ttl}", labels.join("/")),
                    Some("RFC 3031 section 3.10"),
                )
            }
            Lookup::Bucket { bucket, entry, .. } => {
                let (what, _) = operation(entry, settings);
                let text = format!("bucket {bucket} of 256, by the hash of the frame's flow: {what}");
                step("bucket", text, Some("RFC 3031 section 3.11, RFC 2992"))
            }
            Lookup::Protected {
                entries: [first, second],
                resolved,
            } => {
                let (taken, why) = match resolved {
                    true => (first, "the next hop is resolved"),
                    false => (second, "the next hop is not resolved, so its backup is taken"),
                };
                let (what, _) = operation(taken, settings);
                step("backup", format!("{why}: {what}"), Some("RFC 5286"))
            }
            Lookup::Vrf(word) => {
                let text = match word.ifindex() {
                    0 => "the VRF's packets are all left to the kernel".to_owned(),
                    ifindex => format!("VRF {}", self.interface_name(ifindex).unwrap_or("(gone)")),
                };
                step("vrf", text, Some("RFC 4364 section 5"))
            }
            Lookup::Fib { question, answer } => self.fib(&question, answer),
            Lookup::WayOut { ifindex, to } => {
                let name = self.interface_name(ifindex).unwrap_or("(gone)");
                let text = match to {
                    Some(to) => format!("{name} is a port: {}", self.port_name(to.port())),
                    None => format!("{name} is not a port: left to the kernel"),
                };
                step("fib", text, Some("Linux bpf_fib_lookup"))
            }
        };
        Some(found)
    }

    fn prefix(&self, domain: Domain, address: IpAddr, entry: RouteEntry, settings: Settings) -> TraceStep {
        let (what, rule) = match (entry.op(), entry.slot()) {
            (Op::None, _) => (format!("{address}: no prefix route"), "RFC 3031 section 3.12"),
            (Op::Pass, 0) => (
                format!("{address}: the kernel's own: this machine's address, or a more specific route of the kernel"),
                "Linux",
            ),
            (Op::Pass, _) => (format!("{address}: left to the kernel"), "Linux"),
            _ => {
                let (what, _) = operation(entry, settings);
                (format!("{address}: {what}"), "RFC 3031 section 3.12")
            }
        };
        let mut domains = self.lfib.domains();
        let table = domains.find_map(|(number, table)| (number == domain).then_some(table));
        let table = table.flatten().map_or(RoutingTable::MAIN, RoutingTable);
        let is_route = entry != RouteEntry::EMPTY && entry != RouteEntry::PASS;
        let key = is_route.then(|| self.lfib.longest_match(address, table)).flatten();
        TraceStep {
            route: key.and_then(|key| self.route(key)),
            ..step("prefix", what, Some(rule))
        }
    }

    fn fib(&self, question: &FibLookup, answer: Option<FibAnswer>) -> TraceStep {
        let is_v4 = question.family() == Family::V4;
        let address = address(is_v4, question.destination());
        let vrf = self.interface_name(question.ifindex()).unwrap_or("(gone)");
        let text = match answer {
            Some(FibAnswer::Neighbour {
                ifindex, destination, ..
            }) => format!(
                "the kernel's table of {vrf} sends {address} by {} to {destination}",
                self.interface_name(ifindex).unwrap_or("(gone)")
            ),
            Some(FibAnswer::Kernel) => {
                format!("the kernel's table of {vrf} has no resolved neighbour for {address}: left to the kernel")
            }
            None => format!("the kernel's table of {vrf} would be asked for {address}"),
        };
        step("fib", text, Some("Linux bpf_fib_lookup"))
    }

    fn rehearsed_answer(&self, rehearsed: &Rehearsed, when: &str) -> TracedAnswer {
        let outcomes = rehearsed.outcomes.iter().map(|outcome| TracedOutcome {
            name: outcome.name().to_owned(),
            description: outcome.description().trim().to_owned(),
        });
        let actions = rehearsed.actions.iter().map(|action| match action {
            Intended::Transmit { port, frame } => TracedAction {
                text: format!("sends by {}", self.port_name(*port)),
                sent: Some(self.frame(*port, frame)),
            },
            Intended::SendByIp { packet } => TracedAction {
                text: "sends as the kernel routes it".to_owned(),
                sent: Some(TracedFrame {
                    ifname: String::new(),
                    frame: hex::encode(packet),
                    text: notation::packet(packet),
                }),
            },
            Intended::Deliver { port, frame } => TracedAction {
                text: format!("gives to the kernel, as received at {}", self.port_name(*port)),
                sent: Some(self.frame(*port, frame)),
            },
            Intended::Resolve { adjacency } => {
                let next_hop = self.lfib.next_hops().at_slot(*adjacency);
                let name = next_hop.map_or_else(|| format!("slot {adjacency}"), |(_, next_hop)| next_hop.to_string());
                TracedAction {
                    text: format!("has the kernel resolve {name}"),
                    sent: None,
                }
            }
        });
        TracedAnswer {
            when: when.to_owned(),
            outcomes: outcomes.collect(),
            actions: actions.collect(),
        }
    }
}

fn step(kind: &str, text: String, rule: Option<&str>) -> TraceStep {
    TraceStep {
        step: kind.to_owned(),
        text,
        rule: rule.map(str::to_owned),
        route: None,
    }
}

/// An address as the tables' keys have it.
fn address(is_v4: bool, bytes: [u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    match is_v4 {
        true => [a, b, c, d].into(),
        false => bytes.into(),
    }
}

fn lse_text(lse: Lse) -> String {
    let (label, ttl, tc, s) = (lse.label(), lse.ttl(), lse.tc(), u8::from(lse.bottom()));
    format!("label {label}, TTL {ttl}, TC {tc}, S {s}")
}

fn encapsulated(encapsulation: Encapsulation) -> &'static str {
    match (encapsulation.has_control_word(), encapsulation.has_flow_label()) {
        (true, true) => ", with a control word and a flow label",
        (true, false) => ", with a control word",
        (false, true) => ", with a flow label",
        (false, false) => "",
    }
}

/// What an entry does, and the rule. The mode of its TTL is that of the route, or of the instance.
fn operation(entry: RouteEntry, settings: Settings) -> (String, &'static str) {
    let (mode, mode_rule) = match entry.ttl_propagate().mode(settings.ttl_mode()) {
        TtlMode::Uniform => ("TTL uniform", "RFC 3443 section 3.1"),
        TtlMode::Pipe => ("TTL pipe", "RFC 3443 section 3.3"),
        TtlMode::Linux => ("TTL as Linux", "Linux mpls_router"),
    };
    match entry.op() {
        Op::None => ("no route".into(), "RFC 3031 section 3.18"),
        Op::Label => (
            format!("out label {}, {mode}", entry.out_label()),
            "RFC 3031 section 3.13",
        ),
        Op::Stack => (format!("several out labels, {mode}"), "RFC 3031 section 3.10"),
        Op::Pop => (format!("pop as the egress, {mode}"), mode_rule),
        Op::PenultimatePop => (format!("pop as the penultimate hop, {mode}"), "RFC 3031 section 3.16"),
        Op::Local => (format!("pop, for this router, {mode}"), "RFC 3031 section 3.10"),
        Op::LocalPass => (
            format!("pop if a label is beneath, {mode}; else left to the kernel"),
            "RFC 3031 section 3.10",
        ),
        Op::Pass => ("left to the kernel".into(), "Linux mpls_router"),
        Op::Group => ("one of several next hops".into(), "RFC 3031 section 3.11"),
        Op::VrfPass => (
            format!("pop, and send as the VRF routes it, {mode}"),
            "RFC 4364 section 5",
        ),
        Op::Protected => ("a next hop, or a backup with other labels".into(), "RFC 5286"),
        Op::Pseudowire => ("pop, and send the frame beneath".into(), "RFC 4448 section 4.4"),
    }
}

/// The labels of a frame that are looked up, as far as the record has them, with those that take no look-up in between.
struct Labels {
    stack: Vec<Lse>,
    next: usize,
    /// The labels are looked at.
    looked_at: bool,
    /// The last one was popped for this router.
    goes_on: bool,
    is_exception: bool,
}

impl Labels {
    fn of(frame: &[u8], recorded: &Recorded) -> Self {
        let l2_len = recorded.arrival.map_or(frame.len(), |arrival| arrival.l2_len);
        let mut stack = Vec::new();
        for lse in entries(frame.get(l2_len..).unwrap_or_default()) {
            stack.push(lse);
            if lse.bottom() {
                break;
            }
        }
        let is_ours = frame
            .first_chunk()
            .is_some_and(|start| recorded.port.is_destination(*start));
        let looked_at = is_ours
            && recorded
                .arrival
                .is_some_and(|arrival| arrival.ethertype == ETH_P_MPLS_UC && arrival.port.is_some())
            && recorded.port.has(PortWord::MPLS)
            && !recorded.port.has(PortWord::CROSS_CONNECT);
        Self {
            stack,
            next: 0,
            looked_at,
            goes_on: true,
            is_exception: matches!(recorded.verdict, Verdict::Exception(_)),
        }
    }

    /// The labels in front of the one that was looked up.
    fn own_until(&mut self, label: Label) -> Vec<TraceStep> {
        let mut steps = Vec::new();
        while self.stack.get(self.next).is_some_and(|lse| lse.label() != label) {
            match self.own() {
                Some(step) => steps.push(step),
                None => break,
            }
        }
        steps
    }

    /// The label that was looked up, with this result.
    fn looked_up(&mut self, entry: RouteEntry) -> Option<Lse> {
        let lse = self.stack.get(self.next).copied();
        self.next += 1;
        self.goes_on = matches!(entry.op(), Op::Local | Op::LocalPass);
        lse
    }

    /// The labels after the last one that was looked up, down to the packet.
    fn own_rest(&mut self) -> Vec<TraceStep> {
        let most = if self.is_exception { 1 } else { usize::MAX };
        std::iter::from_fn(|| self.own()).take(most).collect()
    }

    /// The next label, if it is one that this router pops without a look-up.
    fn own(&mut self) -> Option<TraceStep> {
        if !self.looked_at || !self.goes_on {
            return None;
        }
        let lse = *self.stack.get(self.next)?;
        let (what, rule) = match lse.label() {
            Label::IPV4_EXPLICIT_NULL => (
                "IPv4 explicit null: pop, for this router".to_owned(),
                "RFC 3032 section 2.1",
            ),
            Label::IPV6_EXPLICIT_NULL => (
                "IPv6 explicit null: pop, for this router".to_owned(),
                "RFC 3032 section 2.1",
            ),
            Label::ENTROPY_INDICATOR => {
                self.next += 1;
                let entropy = self.stack.get(self.next).map(|entropy| entropy.label().to_string());
                let entropy = entropy.unwrap_or_else(|| "(missing)".to_owned());
                (
                    format!("entropy label indicator: pop, with the entropy label {entropy}"),
                    "RFC 6790 section 4.2",
                )
            }
            // The verdict says what they are.
            _ => return None,
        };
        self.next += 1;
        Some(step("label", format!("{}: {what}", lse_text(lse)), Some(rule)))
    }
}

//! `lsp ping` and `lsp traceroute`: MPLS echo requests (RFC 8029) that the instance sends into an LSP.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use ipnet::IpNet;
use mplsxdp_common::wire::Label;
use serde::Serialize;

use super::{Failure, Session};
use crate::control::api::{LspPing, LspPingSent};
use crate::slowpath::oam::message::{
    self, ALL_ROUTERS_V4, ALL_ROUTERS_V6, AddressMask, Downstream, Fec, Header, Igp, LinkAddress, Message, Pad,
    Protocol, Timestamp, Tlv,
};

pub const HELP: &str = "\
Commands:
  ping PREFIX                         the LSP that packets to PREFIX take
  ping LABELS via ADDRESS [dev IFACE] the LSP that begins with these labels, such as 100/200, at a next hop of a route
  traceroute ...                      the same, hop by hop

Each line begins with the letter that Cisco's commands print, such as `!` (egress of the FEC), `L` (label switched), `B`
(label switched, but no MPLS forwarding), `F` (no mapping for the FEC), `N` (no label entry) or `.` (no reply).";

/// The longest path that is followed.
const MAX_HOPS: u8 = 30;
/// How many addresses are followed with --paths.
const PATH_ADDRESSES: usize = 32;

/// The options of `lsp`.
#[derive(Args, Clone, Debug)]
pub struct LspArgs {
    /// A verb and an LSP, as below.
    pub words: Vec<String>,
    /// With `ping`: how many requests; 0 means without end.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub count: u32,
    /// The time between two requests.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub interval: f64,
    /// How long to wait for a reply.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub wait: f64,
    /// The FEC that the router at the end checks: ldp, bgp, generic, isis, ospf or nil, and `:PREFIX` if it is another prefix
    /// [default: generic, or nil for labels].
    #[arg(long, value_name = "PROTOCOL[:PREFIX]")]
    pub fec: Option<String>,
    /// The address that replies go to [default: one of this machine].
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// The loopback address that requests go to; routers choose among several next hops by it [default: 127.0.0.1 or ::1].
    #[arg(long, value_name = "ADDRESS")]
    pub destination: Option<IpAddr>,
    /// Add padding to the request, so that the MPLS echo message has this length.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(..=9000))]
    pub size: Option<u16>,
    /// With `traceroute`: the tree of all paths that packets to 127.0.0.1 to 127.0.0.32 take.
    #[arg(long)]
    pub paths: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.01..=3600.0).contains(&value) => Ok(value),
        _ => Err("must be 0.01 to 3600".into()),
    }
}

pub fn lsp(args: &LspArgs, session: &mut Session) -> Result<(), Failure> {
    let words = Vec::from_iter(args.words.iter().map(String::as_str));
    let Some((&verb, lsp)) = words.split_first() else {
        return Err(usage("`lsp` needs a verb: `ping` or `traceroute`"));
    };
    let is = |name: &str| name.starts_with(verb);
    let mut probe = Probe::new(lsp, args)?;
    if is("ping") && !args.paths {
        ping(&mut probe, args, session)
    } else if is("traceroute") {
        match args.paths {
            true => paths(&mut probe, session),
            false => traceroute(&mut probe, session),
        }
    } else if args.paths {
        Err(usage("`--paths` is for `lsp traceroute`"))
    } else {
        Err(usage(&format!(
            "`{verb}` is not a verb of `lsp`: `ping` or `traceroute`"
        )))
    }
}

fn usage(text: &str) -> Failure {
    Failure::Usage(format!("{text}; see `mplsxdp lsp --help`"))
}

/// What is sent and awaited.
struct Probe {
    socket: UdpSocket,
    call: LspPing,
    fecs: Vec<Fec>,
    destination: IpAddr,
    size: usize,
    wait: Duration,
    handle: u32,
    sequence: u32,
}

/// The reply to a request.
struct Replied {
    from: IpAddr,
    message: Message,
    took: Duration,
}

impl Probe {
    fn new(lsp: &[&str], args: &LspArgs) -> Result<Self, Failure> {
        let (mut call, prefix) = match lsp {
            [prefix] => {
                let prefix = prefix_of(prefix)?;
                let call = LspPing {
                    prefix: Some(prefix.to_string()),
                    ..LspPing::default()
                };
                (call, Some(prefix))
            }
            [labels, "via", rest @ ..] => {
                let rest = match rest {
                    ["inet" | "inet6", rest @ ..] => rest,
                    rest => rest,
                };
                let (via, dev) = match rest {
                    [via] => (via, None),
                    [via, "dev", dev] => (via, Some((*dev).to_owned())),
                    _ => return Err(usage("an LSP is `PREFIX` or `LABELS via ADDRESS [dev IFACE]`")),
                };
                let via: IpAddr = via
                    .parse()
                    .map_err(|_| usage(&format!("`{via}` is not an address such as 192.0.2.1")))?;
                let labels = labels.split('/').map(|label| {
                    let value = label.parse().ok().filter(|&value| Label::new(value).is_some());
                    value.ok_or_else(|| usage(&format!("`{label}` is not a label: 0 to 1048575")))
                });
                let call = LspPing {
                    labels: Some(labels.collect::<Result<_, _>>()?),
                    via: Some(via.to_string()),
                    dev,
                    ..LspPing::default()
                };
                (call, None)
            }
            _ => return Err(usage("an LSP is `PREFIX` or `LABELS via ADDRESS [dev IFACE]`")),
        };
        let fec = fec(args.fec.as_deref(), prefix, call.labels.as_deref())?;
        let is_v4 = match (args.destination, args.source, prefix) {
            (Some(address), ..) | (None, Some(address), _) => address.is_ipv4(),
            (None, None, Some(prefix)) => prefix.addr().is_ipv4(),
            (None, None, None) => true,
        };
        let destination = args.destination.unwrap_or(match is_v4 {
            true => Ipv4Addr::LOCALHOST.into(),
            false => Ipv6Addr::LOCALHOST.into(),
        });
        let any = match is_v4 {
            true => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            false => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((args.source.unwrap_or(any), 0))?;
        call.source = args.source.map(|source| source.to_string());
        call.source_port = socket.local_addr()?.port();
        let now = Timestamp::of(since_epoch());
        Ok(Self {
            socket,
            call,
            fecs: vec![fec],
            destination,
            size: args.size.unwrap_or(0).into(),
            wait: Duration::from_secs_f64(args.wait),
            handle: (now.0 >> 16) as u32 ^ std::process::id(),
            sequence: 0,
        })
    }

    /// How a request to `destination` leaves; it is not sent.
    fn look(&self, destination: IpAddr, session: &mut Session) -> Result<LspPingSent, Failure> {
        let call = LspPing {
            destination: destination.to_string(),
            ttl: 255,
            dry_run: Some(true),
            ..self.call.clone()
        };
        Ok(session.client()?.lsp_ping(&call)?)
    }

    /// Sends a request, and waits for its reply.
    fn ask(
        &mut self,
        destination: IpAddr,
        ttl: u8,
        downstream: Option<Downstream>,
        session: &mut Session,
    ) -> Result<(LspPingSent, Option<Replied>), Failure> {
        self.sequence += 1;
        let mut request = Message {
            header: Header {
                kind: message::REQUEST,
                reply_mode: message::REPLY_BY_IP,
                handle: self.handle,
                sequence: self.sequence,
                sent: Timestamp::of(since_epoch()),
                ..Header::default()
            },
            tlvs: vec![Tlv::FecStack(self.fecs.clone())],
        };
        request.tlvs.extend(downstream.map(Tlv::Downstream));
        let mut payload = Vec::new();
        request.write(&mut payload);
        // The header of the TLV, and the octet that says what to do with it.
        if let Some(filler) = self.size.checked_sub(payload.len() + 5) {
            let action = Pad::DROP;
            let filler = vec![0; filler];
            Tlv::Pad(Pad { action, filler }).write(&mut payload);
        }
        let call = LspPing {
            destination: destination.to_string(),
            ttl,
            payload: payload.iter().map(|byte| format!("{byte:02x}")).collect(),
            ..self.call.clone()
        };
        let start = Instant::now();
        let sent = session.client()?.lsp_ping(&call)?;
        let reply = self.receive(start)?;
        Ok((sent, reply))
    }

    fn receive(&self, start: Instant) -> io::Result<Option<Replied>> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = self.wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => received?,
            };
            let took = start.elapsed();
            let bytes = buffer.get(..length).unwrap_or_default();
            if let Some(message) = self.read(bytes, from) {
                let from = from.ip();
                return Ok(Some(Replied { from, message, took }));
            }
        }
    }

    /// The reply to the last request. Everything else is ignored, such as late replies.
    fn read(&self, bytes: &[u8], from: SocketAddr) -> Option<Message> {
        let (header, rest) = Header::read(bytes)?;
        let is_ours = header.kind == message::REPLY
            && (header.handle, header.sequence) == (self.handle, self.sequence)
            && from.port() == mplsxdp_common::wire::LSP_PING_PORT;
        let tlvs = Tlv::read_all(rest).ok().filter(|_| is_ours)?;
        Some(Message { header, tlvs })
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn prefix_of(text: &str) -> Result<IpNet, Failure> {
    let prefix = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    prefix
        .map(|prefix: IpNet| prefix.trunc())
        .map_err(|_| usage(&format!("`{text}` is not a prefix such as 10.4.4.0/24")))
}

/// The FEC of the innermost label.
fn fec(text: Option<&str>, prefix: Option<IpNet>, labels: Option<&[u32]>) -> Result<Fec, Failure> {
    let (name, given) = match text.map(|text| {
        text.split_once(':')
            .map_or((text, None), |(name, given)| (name, Some(given)))
    }) {
        Some((name, given)) => (name, given.map(prefix_of).transpose()?),
        None if prefix.is_some() => ("generic", None),
        None => ("nil", None),
    };
    let protocol = match name {
        "ldp" => Protocol::Ldp,
        "bgp" => Protocol::Bgp,
        "generic" => Protocol::Generic,
        "isis" => Protocol::Igp(Igp::IsIs),
        "ospf" => Protocol::Igp(Igp::Ospf),
        "nil" => {
            let innermost = labels.and_then(<[u32]>::last).copied().unwrap_or(0);
            return Ok(Fec::Nil(Label::from_low_bits(innermost)));
        }
        other => {
            return Err(usage(&format!(
                "`{other}` is not the protocol of a FEC: ldp, bgp, generic, isis, ospf or nil"
            )));
        }
    };
    match given.or(prefix) {
        Some(prefix) => Ok(Fec::Prefix { protocol, prefix }),
        None => Err(usage(&format!(
            "`--fec {name}` needs a prefix here: `--fec {name}:PREFIX`"
        ))),
    }
}

/// A reply as it is printed.
#[derive(Serialize)]
struct Line {
    /// The hop, or the number of the request.
    number: u32,
    letter: char,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_subcode: Option<u8>,
    meaning: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<f64>,
    /// Where the packet goes on.
    downstream: Vec<Onward>,
}

#[derive(Serialize)]
struct Onward {
    address: IpAddr,
    mtu: u16,
    labels: Vec<u32>,
}

impl Onward {
    fn of(downstream: &Downstream) -> Self {
        let labels = downstream.labels.iter().flatten();
        Self {
            address: downstream.link.address(),
            mtu: downstream.mtu,
            labels: labels.map(|label| label.label.get()).collect(),
        }
    }
}

impl Line {
    fn of(number: u32, reply: Option<&Replied>) -> Self {
        let Some(Replied { from, message, took }) = reply else {
            return Self {
                number,
                letter: '.',
                from: None,
                return_code: None,
                return_subcode: None,
                meaning: "no reply",
                milliseconds: None,
                downstream: Vec::new(),
            };
        };
        let (letter, meaning) = message::meaning(message.header.code);
        Self {
            number,
            letter,
            from: Some(*from),
            return_code: Some(message.header.code),
            return_subcode: Some(message.header.subcode),
            meaning,
            milliseconds: Some((took.as_secs_f64() * 1e6).round() / 1e3),
            downstream: message.downstreams().map(Onward::of).collect(),
        }
    }

    fn text(&self) -> String {
        let Self {
            letter,
            meaning,
            downstream,
            ..
        } = self;
        let mut text = match self.from {
            Some(from) => format!("{letter} {from}: {meaning}"),
            None => format!("{letter} {meaning}"),
        };
        if let Some(subcode) = self.return_subcode.filter(|&subcode| subcode > 0) {
            text.push_str(&format!(" at depth {subcode}"));
        }
        if let Some(milliseconds) = self.milliseconds {
            text.push_str(&format!(", time {milliseconds:.3} ms"));
        }
        for Onward { address, mtu, labels } in downstream {
            text.push_str(&format!(", to {address} mtu {mtu} labels {}", joined(labels)));
        }
        text
    }
}

fn joined(labels: &[u32]) -> String {
    let names = labels.iter().map(|label| match label {
        3 => "implicit-null".into(),
        label => label.to_string(),
    });
    let names = Vec::from_iter(names);
    if names.is_empty() {
        "none".into()
    } else {
        names.join("/")
    }
}

fn departure(sent: &LspPingSent) -> String {
    let via = sent.via.as_deref().map(|via| format!("via {via} ")).unwrap_or_default();
    format!(
        "from {} {via}dev {} labels {}",
        sent.source,
        sent.dev,
        joined(&sent.labels)
    )
}

fn ping(probe: &mut Probe, args: &LspArgs, session: &mut Session) -> Result<(), Failure> {
    let json = session.out.style.json;
    let destination = probe.destination;
    let (mut sent, mut received, mut egress) = (0, 0, 0);
    let mut times = Vec::new();
    let mut lines = Vec::new();
    while args.count == 0 || sent < args.count {
        let start = Instant::now();
        let (left, reply) = probe.ask(destination, 255, None, session)?;
        sent += 1;
        if sent == 1 && !json {
            session.out.line(&format!("LSP PING {}", departure(&left)))?;
        }
        if let Some(reply) = &reply {
            received += 1;
            egress += u32::from(reply.message.header.code == message::EGRESS);
            times.push(reply.took.as_secs_f64() * 1000.0);
        }
        let line = Line::of(sent, reply.as_ref());
        if json {
            lines.push(line);
        } else {
            session.out.line(&format!("seq={sent} {}", line.text()))?;
            session.out.flush()?;
        }
        if args.count == 0 || sent < args.count {
            std::thread::sleep(Duration::from_secs_f64(args.interval).saturating_sub(start.elapsed()));
        }
    }
    if json {
        session.out.json(&lines)?;
    } else {
        let loss = 100.0 * f64::from(sent - received) / f64::from(sent);
        session.out.line(&format!(
            "{sent} requests sent, {received} replies, {egress} from the egress, {loss:.0}% loss"
        ))?;
        if !times.is_empty() {
            let (least, most) = (
                times.iter().copied().fold(f64::INFINITY, f64::min),
                times.iter().copied().fold(0.0, f64::max),
            );
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            session
                .out
                .line(&format!("rtt min/avg/max = {least:.3}/{mean:.3}/{most:.3} ms"))?;
        }
    }
    session.out.flush()?;
    match egress {
        0 => Err(Failure::Reported),
        _ => Ok(()),
    }
}

/// Whether the LSP goes on behind the router that sent this reply.
fn goes_on(reply: &Replied) -> bool {
    matches!(
        reply.message.header.code,
        message::LABEL_SWITCHED | message::SEE_DOWNSTREAM
    )
}

/// The mapping to ask the first router with (RFC 8029 section 3.4).
fn first_mapping(is_v4: bool, mask: Option<&AddressMask>) -> Downstream {
    let link = match is_v4 {
        true => LinkAddress::of(ALL_ROUTERS_V4.into()),
        false => LinkAddress::of(ALL_ROUTERS_V6.into()),
    };
    Downstream {
        mtu: 0,
        flags: 0,
        link,
        code: 0,
        subcode: 0,
        multipath: mask.map(AddressMask::multipath),
        labels: None,
        others: Vec::new(),
    }
}

/// The mapping to ask the next router with: the one that the router before it has replied with.
fn next_mapping(known: &Downstream) -> Downstream {
    Downstream {
        code: 0,
        subcode: 0,
        ..known.clone()
    }
}

fn traceroute(probe: &mut Probe, session: &mut Session) -> Result<(), Failure> {
    let json = session.out.style.json;
    let destination = probe.destination;
    let mut mapping = first_mapping(destination.is_ipv4(), None);
    let mut lines = Vec::new();
    let mut reached = false;
    for hop in 1..=MAX_HOPS {
        let (left, reply) = probe.ask(destination, hop, Some(mapping.clone()), session)?;
        if hop == 1 && !json {
            session.out.line(&format!("LSP TRACEROUTE {}", departure(&left)))?;
        }
        let line = Line::of(hop.into(), reply.as_ref());
        if json {
            lines.push(line);
        } else {
            session.out.line(&format!("{hop:>2} {}", line.text()))?;
            session.out.flush()?;
        }
        if let Some(reply) = reply {
            reached = reply.message.header.code == message::EGRESS;
            if !goes_on(&reply) {
                break;
            }
            if let Some(known) = reply.message.downstreams().next() {
                mapping = next_mapping(known);
            }
        }
    }
    if json {
        session.out.json(&lines)?;
    }
    session.out.flush()?;
    match reached {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

/// A router in the tree of paths.
#[derive(Serialize)]
struct Node {
    #[serde(flatten)]
    line: Line,
    /// How many of the addresses come here.
    addresses: usize,
    next: Vec<Node>,
}

fn paths(probe: &mut Probe, session: &mut Session) -> Result<(), Failure> {
    let base: IpAddr = match probe.destination {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        // ::ffff:127.0.0.1
        IpAddr::V6(_) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
    };
    let all = AddressMask {
        base,
        mask: vec![0xff; PATH_ADDRESSES / 8],
    };
    // Which of this machine's own next hops each address takes.
    let mut starts: BTreeMap<String, AddressMask> = BTreeMap::new();
    for (place, address) in all.chosen() {
        let left = probe.look(address, session)?;
        let takers = starts.entry(departure(&left)).or_insert_with(|| all.emptied());
        takers.choose(place);
    }
    let mut trees = Vec::new();
    for (departure, mask) in starts {
        let mapping = first_mapping(base.is_ipv4(), Some(&mask));
        let node = follow(probe, 1, &mask, &mapping, session)?;
        if !session.out.style.json {
            session.out.line(&format!("LSP TREE {departure}"))?;
            print(&node, 0, session)?;
            session.out.flush()?;
        }
        trees.push(node);
    }
    if session.out.style.json {
        session.out.json(&trees)?;
    }
    session.out.flush()?;
    match trees.iter().all(all_reach) {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

/// Asks the router at this hop that these addresses lead to, and those behind it.
fn follow(
    probe: &mut Probe,
    hop: u8,
    mask: &AddressMask,
    mapping: &Downstream,
    session: &mut Session,
) -> Result<Node, Failure> {
    let addresses = mask.chosen().count();
    let first = mask.chosen().next().map_or(mask.base, |(_, address)| address);
    let (_, reply) = probe.ask(first, hop, Some(mapping.clone()), session)?;
    let line = Line::of(hop.into(), reply.as_ref());
    let mut next = Vec::new();
    if let Some(reply) = reply.filter(|reply| goes_on(reply) && hop < MAX_HOPS) {
        for known in reply.message.downstreams() {
            let multipath = known.multipath.as_ref();
            let takers = multipath.and_then(|multipath| AddressMask::of(multipath, mask.base.is_ipv4()));
            // A router that does not say which addresses: all of them.
            let takers = takers.unwrap_or_else(|| mask.clone());
            if takers.chosen().next().is_none() {
                continue;
            }
            if known.code == message::NO_MPLS_FORWARDING {
                next.push(broken(hop + 1, known, takers.chosen().count()));
                continue;
            }
            let mapping = Downstream {
                multipath: Some(takers.multipath()),
                ..next_mapping(known)
            };
            next.push(follow(probe, hop + 1, &takers, &mapping, session)?);
        }
    }
    Ok(Node { line, addresses, next })
}

/// A path that ends at the router before.
fn broken(hop: u8, known: &Downstream, addresses: usize) -> Node {
    let (letter, meaning) = message::meaning(known.code);
    let line = Line {
        letter,
        meaning,
        from: Some(known.link.address()),
        ..Line::of(hop.into(), None)
    };
    Node {
        line,
        addresses,
        next: Vec::new(),
    }
}

fn print(node: &Node, depth: usize, session: &mut Session) -> Result<(), Failure> {
    let Node { line, addresses, next } = node;
    session.out.line(&format!(
        "{:indent$}{} {} ({addresses} addresses)",
        "",
        line.number,
        line.text(),
        indent = depth * 2
    ))?;
    next.iter().try_for_each(|node| print(node, depth + 1, session))
}

/// Whether every path ends at an egress.
fn all_reach(node: &Node) -> bool {
    match &node.next[..] {
        [] => node.line.return_code == Some(message::EGRESS),
        next => next.iter().all(all_reach),
    }
}

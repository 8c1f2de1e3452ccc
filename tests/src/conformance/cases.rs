//! Reads the case files; `conformance/README.md` describes them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mplsxdp::route::Route;
use mplsxdp::route::line::{self, Family};
use mplsxdp::slowpath::IcmpVia;
use mplsxdp::slowpath::outcome::Outcome;
use mplsxdp_common::abi::{Adjacency, Reason, Settings, TtlMode, UnknownPolicy};
use mplsxdp_common::forward::Verdict;
use mplsxdp_common::wire::ETH_HLEN;

use super::lab;
use super::notation::{Frame, OWN_MAC, PEER_MAC, Packet, Payload, anatomy, show};
use super::problem::{Place, Problem, files};

/// The contents of the case files.
#[derive(Default)]
pub struct Cases {
    pub cases: Vec<Case>,
    /// From all files.
    pub routes: Vec<Route>,
}

/// One fact, shown by frames.
pub struct Case {
    /// Unique in all files.
    pub name: String,
    /// The name of the file.
    pub topic: Arc<str>,
    /// The rules that it shows.
    pub rules: Vec<String>,
    pub lines: Vec<Line>,
    pub place: Place,
    /// Some of its frames could not be read.
    unreadable: bool,
}

/// A frame and what happens to it, with these options.
#[derive(Clone, Debug)]
pub struct Line {
    pub place: Place,
    /// As written in the file.
    pub text: String,
    pub options: Vec<Options>,
    /// One of [`lab::PORT_KINDS`].
    pub port: String,
    /// The headroom that the driver leaves, if it is small.
    pub headroom: Option<usize>,
    pub frame: Vec<u8>,
    pub verdict: Verdict,
    /// The frame as it leaves, or as the kernel or the slow path gets it.
    pub output: Vec<u8>,
    pub after: After,
    /// Why it cannot be shown on real ports.
    pub no_veth: Option<String>,
}

impl Line {
    /// The settings of the program that it runs with.
    pub fn settings(&self) -> impl Iterator<Item = Settings> {
        self.options.iter().map(|options| options.settings())
    }
}

/// What happens to an exception.
#[derive(Clone, PartialEq, Debug)]
pub enum After {
    /// Not an exception, or dropped by the fast path.
    Nothing,
    /// The slow path has this outcome, and sends these, in order.
    Punted(Outcome, Vec<Sent>),
    /// A label without a route that is left to the kernel.
    Passed,
}

impl After {
    /// The frames that are sent, as text.
    pub fn frames(&self) -> impl Iterator<Item = String> {
        let sent = match self {
            Self::Punted(_, sent) => sent.as_slice(),
            Self::Nothing | Self::Passed => &[],
        };
        sent.iter().map(|sent| match sent {
            Sent::To { dev, frame, .. } => format!("to {dev} {}", show(frame)),
            Sent::ByIp(packet) => format!("by IP, {}", show(&routed_by_kernel(packet))),
        })
    }
}

/// A frame or packet that the slow path sends.
#[derive(Clone, PartialEq, Debug)]
pub enum Sent {
    /// To the neighbour behind this device.
    To { dev: String, port: u16, frame: Vec<u8> },
    /// An IP packet that the kernel routes.
    ByIp(Vec<u8>),
}

/// The options that a router is loaded with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    pub mode: TtlMode,
    pub tc: bool,
    pub unknown: UnknownPolicy,
    pub icmp_via: IcmpVia,
}

impl Options {
    /// Every variant of the program has its own port; the first ones are those of [`lab::settings`].
    pub fn settings(&self) -> Settings {
        let base = lab::settings()
            .into_iter()
            .find(|settings| (settings.ttl_mode(), settings.tc_propagate()) == (self.mode, self.tc))
            .unwrap_or_else(|| unreachable!("lab::settings has every mode"));
        let port = base.port() + self.unknown as u32 * lab::settings().len() as u32;
        base.with_unknown(self.unknown).with_port(port)
    }
}

/// Reads all files of a folder.
pub fn read(directory: &Path) -> Result<Cases, Vec<Problem>> {
    let mut cases = Cases::default();
    let mut problems = Vec::new();
    for path in files(directory)? {
        let text = fs::read_to_string(&path).map_err(|error| vec![Problem::file(&path, error)])?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut reader = Reader {
            topic: Arc::from(&*name),
            cases: &mut cases,
            in_case: false,
            above: Above::Nothing,
        };
        for (place, line) in logical_lines(&path, &text) {
            if let Err(message) = reader.line(&place, &line) {
                problems.push(Problem { place, message });
            }
        }
    }
    for (index, case) in cases.cases.iter().enumerate() {
        let mut report = |message: String| {
            let place = case.place.clone();
            problems.push(Problem { place, message });
        };
        if let Some(other) = cases.cases[..index].iter().find(|other| other.name == case.name) {
            report(format!("the case `{}` is at {} already", case.name, other.place));
        }
        if case.rules.is_empty() {
            report(format!(
                "the case `{}` cites no rule: `rules ID...` comes after `case NAME`",
                case.name
            ));
        }
        let is_made_up = |line: &Line| lab::is_made_up(&line.port) || line.headroom.is_some();
        let not_real = |line: &&Line| is_made_up(line) && line.no_veth.is_none();
        if let Some(line) = case.lines.iter().find(not_real) {
            report(format!(
                "{}: the real router has no port @{} with this headroom: say `no-veth WHY` beneath it",
                line.place, line.port
            ));
        }
        if case.lines.is_empty() && !case.unreadable {
            report(format!(
                "the case `{}` has no frame: `any: [100 64] ip -> ...`",
                case.name
            ));
        }
    }
    if problems.is_empty() { Ok(cases) } else { Err(problems) }
}

/// Lines without comments; a line that ends with `\` continues on the next one. The first blank of an indented line
/// stays.
fn logical_lines(path: &Path, text: &str) -> Vec<(Place, String)> {
    let mut lines: Vec<(Place, String)> = Vec::new();
    let mut goes_on = false;
    let comment = |line: &str| line.trim_start().starts_with('#');
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !comment(line)) {
        let (part, more) = match line.trim_end().strip_suffix('\\') {
            Some(part) => (part.trim_end(), true),
            None => (line.trim_end(), false),
        };
        match lines.last_mut() {
            Some((_, whole)) if goes_on => {
                whole.push(' ');
                whole.push_str(part.trim_start());
            }
            _ => lines.push((Place::new(path, index + 1), part.to_owned())),
        }
        goes_on = more;
    }
    lines.retain(|(_, line)| !line.trim().is_empty());
    lines
}

struct Reader<'a> {
    topic: Arc<str>,
    cases: &'a mut Cases,
    in_case: bool,
    above: Above,
}

/// The line that indented lines belong to.
#[derive(PartialEq)]
enum Above {
    Nothing,
    Frame,
    /// A line that could not be read: its indented lines cannot be read, either.
    Unreadable,
}

impl Reader<'_> {
    fn line(&mut self, place: &Place, text: &str) -> Result<(), String> {
        if text.starts_with(char::is_whitespace) {
            let last = self.cases.cases.last_mut().and_then(|case| case.lines.last_mut());
            return match (last, &self.above) {
                (Some(line), Above::Frame) => line_detail(line, text.trim_start()),
                (_, Above::Unreadable) => Ok(()),
                _ => Err("nothing that an indented line could belong to: it says more of the frame above it".into()),
            };
        }
        self.above = Above::Nothing;
        match text.split_once(' ').unwrap_or((text, "")) {
            ("route", route) => {
                let route =
                    line::route(route, Family::Any).map_err(|error| format!("{error}\n{}", error.point_out(route)))?;
                if let Some(other) = self.cases.routes.iter().find(|other| other.key() == route.key()) {
                    return Err(format!("there is a route `{other}` already"));
                }
                for dev in route.next_hops().filter_map(|next_hop| next_hop.dev.as_deref()) {
                    neighbour(dev)?;
                }
                self.cases.routes.push(route);
                Ok(())
            }
            ("case", name) => {
                // What follows belongs to this case, whatever its name.
                self.cases.cases.push(Case {
                    name: name.to_owned(),
                    topic: Arc::clone(&self.topic),
                    rules: Vec::new(),
                    lines: Vec::new(),
                    place: place.clone(),
                    unreadable: false,
                });
                self.in_case = true;
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                    return Err(format!(
                        "`{name}` is not a name for a case: letters, digits and hyphens"
                    ));
                }
                Ok(())
            }
            (word, rest) => match self.cases.cases.last_mut() {
                Some(case) if self.in_case && word == "rules" => {
                    case.rules.extend(rest.split_whitespace().map(str::to_owned));
                    Ok(())
                }
                Some(case) if self.in_case => {
                    let line = frame_line(place, text);
                    self.above = if line.is_ok() { Above::Frame } else { Above::Unreadable };
                    case.unreadable |= line.is_err();
                    case.lines.push(line?);
                    Ok(())
                }
                _ => Err(format!(
                    "`{word}` comes after `case NAME`; before it there are only routes"
                )),
            },
        }
    }
}

/// `WHEN: FRAME -> OUTCOME`.
fn frame_line(place: &Place, text: &str) -> Result<Line, String> {
    let parts = text.split_once(": ").and_then(|(when, rest)| {
        let (frame, outcome) = rest.split_once(" -> ")?;
        Some((when, frame, outcome))
    });
    let (when, frame, outcome) =
        parts.ok_or_else(|| format!("`{text}` is not `MODES [@PORT] [OPTION]...: FRAME -> OUTCOME`"))?;
    let mut words = when.split_whitespace();
    let modes = modes(words.next().unwrap_or_default())?;
    let mut tc = [false, true].as_slice();
    let (mut port, mut headroom) = ("core", None);
    let (mut unknown, mut icmp_via) = (UnknownPolicy::Punt, IcmpVia::Auto);
    let mut kinds = Vec::new();
    for word in words {
        let kind = match word {
            "+tc" | "-tc" => {
                tc = if word == "+tc" { &[true] } else { &[false] };
                "+tc, -tc"
            }
            "unknown=drop" | "unknown=pass" => {
                unknown = if word == "unknown=drop" {
                    UnknownPolicy::Drop
                } else {
                    UnknownPolicy::Pass
                };
                "unknown="
            }
            "icmp-via=lsp" | "icmp-via=ip" => {
                icmp_via = if word == "icmp-via=lsp" {
                    IcmpVia::Lsp
                } else {
                    IcmpVia::Ip
                };
                "icmp-via="
            }
            _ => match (word.strip_prefix('@'), word.strip_prefix("headroom=")) {
                (Some(kind), _) if lab::PORT_KINDS.contains(&kind) => {
                    port = kind;
                    "@PORT"
                }
                (_, Some(bytes)) if bytes.parse::<usize>().is_ok_and(|bytes| bytes.is_multiple_of(4)) => {
                    headroom = bytes.parse().ok();
                    "headroom="
                }
                _ => {
                    return Err(format!(
                        "`{word}` is none of @{}, +tc, -tc, unknown=drop, unknown=pass, icmp-via=lsp, icmp-via=ip, \
                         headroom=BYTES (a multiple of 4)",
                        lab::PORT_KINDS.join(", @")
                    ));
                }
            },
        };
        if kinds.contains(&kind) {
            return Err(format!("`{word}`: of {kind} there is one at most"));
        }
        kinds.push(kind);
    }
    let with = |&mode, &tc| Options {
        mode,
        tc,
        unknown,
        icmp_via,
    };
    let options = modes.iter().flat_map(|mode| tc.iter().map(move |tc| with(mode, tc)));
    let frame = Frame::read(frame)?.to_bytes();
    if frame.len() < ETH_HLEN {
        return Err("shorter than an Ethernet header: no driver hands that up".into());
    }
    let (verdict, output, after) = parse_outcome(outcome, &frame, unknown)?;
    Ok(Line {
        place: place.clone(),
        text: text.to_owned(),
        options: options.collect(),
        port: port.to_owned(),
        headroom,
        frame,
        verdict,
        output,
        after,
        no_veth: None,
    })
}

fn modes(word: &str) -> Result<Vec<TtlMode>, String> {
    let one = |word| match word {
        "uniform" => Ok(TtlMode::Uniform),
        "pipe" => Ok(TtlMode::Pipe),
        "linux" => Ok(TtlMode::Linux),
        _ => Err(format!(
            "`{word}` is not a TTL mode: uniform, pipe, linux, several with commas, or any"
        )),
    };
    if word == "any" {
        return Ok(vec![TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux]);
    }
    let mut modes = Vec::new();
    for name in word.split(',') {
        let mode = one(name)?;
        if modes.contains(&mode) {
            return Err(format!("`{word}`: {name} is given twice"));
        }
        modes.push(mode);
    }
    Ok(modes)
}

fn parse_outcome(text: &str, received: &[u8], unknown: UnknownPolicy) -> Result<(Verdict, Vec<u8>, After), String> {
    let text = text.trim();
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let reason_of = |name: &str| Reason::ALL.iter().find(|reason| reason.name() == name).copied();
    let (name, outcome) = match text.split_once(',') {
        Some((name, outcome)) => (name, Some(outcome.trim())),
        None => (text, None),
    };
    if let Some(reason) = reason_of(name) {
        let after = after_exception(reason, outcome, unknown)?;
        return Ok((Verdict::Exception(reason), received.to_vec(), after));
    }
    match word {
        "untouched" if rest.is_empty() => Ok((Verdict::Pass, received.to_vec(), After::Nothing)),
        "untouched" => Err(format!(
            "`{rest}`: nothing follows `untouched`; what the kernel gets otherwise is `kernel FRAME`"
        )),
        "kernel" => Ok((Verdict::Pass, Frame::read(rest)?.to_bytes(), After::Nothing)),
        "across" => {
            let (dev, frame) = rest.split_once(' ').unwrap_or((rest, ""));
            let port = resolved(dev)?.port();
            let output = match frame {
                "" => received.to_vec(),
                frame => Frame::read(frame)?.to_bytes(),
            };
            Ok((Verdict::Forward { port }, output, After::Nothing))
        }
        _ if reason_of(word).is_some() => Err(format!(
            "`{text}`: a comma stands between a reason and what the slow path makes of it, `{word}, OUTCOME`"
        )),
        _ => {
            let (port, frame) = to_neighbour(word, rest)?;
            Ok((Verdict::Forward { port }, frame.to_bytes(), After::Nothing))
        }
    }
}

/// What happens to an exception; `outcome` is the line's word for the slow path.
fn after_exception(reason: Reason, outcome: Option<&str>, unknown: UnknownPolicy) -> Result<After, String> {
    let name = reason.name();
    let goes_up = reason.is_punted() && (reason != Reason::NoRoute || unknown == UnknownPolicy::Punt);
    let names = || Vec::from_iter(Outcome::ALL.iter().map(|outcome| outcome.name())).join(", ");
    match outcome {
        None if goes_up => Err(format!(
            "the slow path gets it, so it is `{name}, OUTCOME`, which is one of {}",
            names()
        )),
        None if reason == Reason::NoRoute && unknown == UnknownPolicy::Pass => Ok(After::Passed),
        None if reason == Reason::PassRoute => Ok(After::Passed),
        None => Ok(After::Nothing),
        Some(outcome) if !goes_up => Err(format!(
            "`{outcome}`: the slow path gets no frames of the reason {name} here"
        )),
        Some(word) => match Outcome::ALL.iter().find(|outcome| outcome.name() == word) {
            Some(&outcome) => Ok(After::Punted(outcome, Vec::new())),
            None => Err(format!("`{word}`: what follows `{name},` is one of {}", names())),
        },
    }
}

fn neighbour(dev: &str) -> Result<lab::Neighbour, String> {
    let found = lab::neighbours().into_iter().find(|neighbour| neighbour.dev == dev);
    found.ok_or_else(|| {
        let names = Vec::from_iter(lab::neighbours().iter().map(|neighbour| neighbour.dev)).join(", ");
        format!("there is no neighbour `{dev}`: {names}; or `untouched`, `kernel FRAME`, `across NEIGHBOUR [FRAME]`, the name of a reason")
    })
}

fn resolved(dev: &str) -> Result<Adjacency, String> {
    let adjacency = neighbour(dev)?.adjacency;
    adjacency.ok_or_else(|| format!("the neighbour `{dev}` has no MAC address"))
}

/// A frame as it goes to the neighbour behind `dev`, and the port through which it leaves.
fn to_neighbour(dev: &str, frame: &str) -> Result<(u16, Frame), String> {
    let adjacency = resolved(dev)?;
    if let Some(word) = frame.split_whitespace().find(|&word| matches!(word, "for" | "src")) {
        return Err(format!("`{word}`: the MAC addresses are the neighbour's, `{dev}`"));
    }
    let mut frame = Frame::read(frame)?;
    frame.destination = adjacency.destination();
    frame.source = adjacency.source();
    Ok((adjacency.port(), frame))
}

/// `sends NEIGHBOUR FRAME`, `sends by-ip PACKET` or `no-veth WHY`.
fn line_detail(line: &mut Line, text: &str) -> Result<(), String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match (word, &mut line.after) {
        ("no-veth", _) if !rest.is_empty() => line.no_veth = Some(rest.to_owned()),
        ("sends", After::Punted(_, sent)) => {
            let (to, frame) = rest.split_once(' ').unwrap_or((rest, ""));
            if to == "by-ip" {
                let mut packet = Payload::read(frame)?;
                complete(&mut packet, &line.frame);
                sent.push(Sent::ByIp(packet.to_bytes()));
            } else {
                let (port, mut frame) = to_neighbour(to, frame)?;
                complete(&mut frame.payload, &line.frame);
                sent.push(Sent::To {
                    dev: to.to_owned(),
                    port,
                    frame: frame.to_bytes(),
                });
            }
        }
        _ => {
            return Err(format!(
                "`{text}` is neither `sends NEIGHBOUR FRAME` or `sends by-ip PACKET`, which an exception that the slow path \
                 gets may have, nor `no-veth WHY`"
            ));
        }
    }
    Ok(())
}

/// An ICMP error quotes the packet and shows the stack as received, unless it says otherwise. ICMPv6 Packet Too Big has
/// no extension (RFC 4884 section 4.6).
fn complete(payload: &mut Payload, received: &[u8]) {
    if let Payload::Ip(Packet {
        icmp: Some(icmp),
        destination,
        ..
    }) = payload
    {
        let received = anatomy(received);
        icmp.quotes.get_or_insert_with(|| ip_packet(received.payload).to_vec());
        if !(destination.is_ipv6() && icmp.kind == 2) {
            icmp.shows.get_or_insert(received.stack);
        }
    }
}

/// Without the bytes after the packet in the frame.
fn ip_packet(payload: &[u8]) -> &[u8] {
    let length = match *payload {
        [first, _, high, low, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([high, low])),
        [_, _, _, _, high, low, ..] => 40 + usize::from(u16::from_be_bytes([high, low])),
        _ => payload.len(),
    };
    payload.get(..length).unwrap_or(payload)
}

/// The frame in which the kernel sends a packet of [`Sent::ByIp`], behind the port `core`.
pub fn routed_by_kernel(packet: &[u8]) -> Vec<u8> {
    let ethertype: u16 = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        0x86dd
    } else {
        0x0800
    };
    [&PEER_MAC.0, &OWN_MAC.0, &ethertype.to_be_bytes()[..], packet].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one file with this content, and returns its problems.
    fn problems(text: &str) -> Vec<String> {
        let directory = std::env::temp_dir().join(format!("mplsxdp-cases-{}-{:p}", std::process::id(), text));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("topic.txt"), text).unwrap();
        let read = read(&directory);
        fs::remove_dir_all(&directory).unwrap();
        let problems = read.err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_example_in_the_readme_is_a_case() {
        let readme = fs::read_to_string(super::super::source_tree().join("conformance/README.md")).unwrap();
        let example = readme
            .split("```")
            .nth(1)
            .and_then(|block| block.strip_prefix("text\n"));
        assert_eq!(problems(example.unwrap()), [""; 0]);
        assert!(example.unwrap().contains("sends "));
    }

    #[test]
    fn a_file_that_cannot_be_read_says_where_and_what_would_be_right() {
        let good = "route 100 as 110 via inet 192.0.2.2 dev a\ncase name\nrules x\n";
        assert_eq!(problems(&format!("{good}any: [100 64] ip -> a [110 63] ip\n")), [""; 0]);
        for (line, says) in [
            ("every: ip -> untouched", "uniform, pipe, linux"),
            ("pipe,pipe: ip -> untouched", "twice"),
            ("any @eth1: ip -> untouched", "@core"),
            ("any +tc -tc: ip -> untouched", "`-tc`: of +tc, -tc there is one"),
            ("any @ip @core: ip -> untouched", "`@core`: of @PORT there is one"),
            ("any: ip", "FRAME -> OUTCOME"),
            ("any: [100 64 ip -> untouched", "[LABEL TTL]"),
            ("any: ip ttl 3 ttl 4 -> untouched", "twice"),
            ("any: ip to 2001:db8::1 -> untouched", "an IPv4 address"),
            ("any: [100 64] ip -> nobody [110 63] ip", "a, b, narrow"),
            ("any: [100 64] ip -> a [110 63/9] ip", "from 0 to 7"),
            (
                "any: [100 64] ip -> a for 02:00:00:00:0a:01 [110 63] ip",
                "the neighbour's",
            ),
            (
                "any: [100 64] ip -> a src 02:00:00:00:0a:01 [110 63] ip",
                "the neighbour's",
            ),
            ("any: ip -> untouched ip", "nothing follows `untouched`"),
            ("any: [100 1] ip -> ttl-expired", "time-exceeded"),
            ("any: [100 1] ip -> ttl-expired time-exceeded", "a comma stands between"),
            (
                "any: [100 1] ip -> ttl-expired,, time-exceeded",
                "`, time-exceeded`: what follows `ttl-expired,`",
            ),
            (
                "any: [3 1] ip -> implicit-null, malformed",
                "gets no frames of the reason",
            ),
            ("any: hex 00 -> untouched\n    sends a ip", "sends by-ip PACKET"),
            (
                "any: [100 1] ip -> ttl-expired, time-exceeded\n    sends by-ip [100 1] ip",
                "`[100 1]` is none of",
            ),
            (
                "any: [100 1] ip -> ttl-expired, time-exceeded\n    sends by-ip tag 5 ip",
                "`tag` stands before",
            ),
            ("route 100 as 111 via inet 192.0.2.2 dev b", "already"),
            ("route 101 as x via inet 192.0.2.2 dev b", "^"),
            ("case name\nrules x\nany: ip -> untouched", "is at"),
            ("case other-name", "cites no rule"),
            ("any @labels: ip -> untouched", "no-veth WHY"),
        ] {
            let found = problems(&format!("{good}any: ip -> untouched\n{line}\n"));
            assert!(
                found
                    .iter()
                    .any(|problem| problem.contains(says) && problem.contains("topic.txt:")),
                "{line}: {found:?}"
            );
        }
    }
    /// A problem is reported once, without its consequences.
    #[test]
    fn a_line_that_cannot_be_read_makes_no_other_wrong() {
        for text in [
            "case name\nrules x\nany: [100 300] ip -> ttl-expired, time-exceeded\n    sends a icmp 11/0\n    no-veth why\n",
            "case no name\nrules x\nany: ip -> untouched\n",
        ] {
            assert_eq!(problems(text).len(), 1, "{text}: {:?}", problems(text));
        }
    }

    #[test]
    fn lines_go_on_after_a_backslash_and_comments_do_not() {
        let cases = "route 100 as 110 via inet 192.0.2.2 \\\n# a comment \\\n   dev a\ncase name\n# a comment \\\nrules x\nany: [100 64] \\\n ip -> a \\\n  [110 63] ip\n";
        assert_eq!(problems(cases), [""; 0]);
        // A comma without a blank also separates.
        assert_eq!(
            problems("case name\nrules x\nany: [100 1] ip -> ttl-expired,time-exceeded\n"),
            [""; 0]
        );
        let swallowed = problems("case name\n# a comment \\\nrulez x\nany: ip -> untouched\n");
        assert!(
            swallowed
                .iter()
                .any(|problem| problem.contains("topic.txt:3: `rulez x`")),
            "{swallowed:?}"
        );
    }
}

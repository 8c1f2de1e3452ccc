//! `trace`: what would happen to a frame, step by step.

use std::io::{self, Read as _};
use std::path::Path;

use mplsxdp_common::wire::Mac;

use super::route::show;
use super::{Failure, Session};
use crate::control::api::{Link, Trace, TraceVerdict, TracedFrame};
use crate::observe::notation::{self, GRAMMAR};
use crate::pcap;

/// The end of the help.
pub fn help() -> String {
    format!(
        "{GRAMMAR}\n\n\
         Examples:\n  \
         trace '[100 64][200 64] ip to 10.4.4.2' --in eth1\n  \
         trace ip to 10.4.4.2 ttl 1 --in eth1\n  \
         trace hex 0200000000010200000000028847... --in eth1\n  \
         trace pcap dump.pcapng --packet 3 --in eth1\n\n\
         -d also prints frames in hexadecimal."
    )
}

/// A frame to trace, and what to call it.
struct Input {
    name: Option<String>,
    frame: Vec<u8>,
}

pub fn trace(words: &[String], port: Option<&str>, packet: Option<u64>, session: &mut Session) -> Result<(), Failure> {
    let port = the_port(port, session)?;
    let inputs = inputs(words, packet, &port, session)?;
    let mut traces = Vec::new();
    for Input { name, frame } in inputs {
        let trace = session.client()?.trace(&port.ifname, &frame)?;
        if session.out.style.json {
            traces.push(trace);
            continue;
        }
        if let Some(name) = name {
            session.out.line(&name)?;
        }
        print(&trace, session)?;
    }
    match (session.out.style.json, &traces[..]) {
        (false, _) => Ok(()),
        (true, [only]) => session.out.json(only),
        (true, several) => session.out.json(&several),
    }
}

/// The port with this name, or the only one.
fn the_port(name: Option<&str>, session: &mut Session) -> Result<Link, Failure> {
    let links = session.client()?.links(false)?;
    let names = || {
        links
            .iter()
            .map(|link| link.ifname.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let found = match name {
        Some(name) => {
            let found = links.iter().find(|link| link.ifname == name);
            found.ok_or_else(|| format!("{name} is not a port; the ports: {}", names()))
        }
        None => match &links[..] {
            [only] => Ok(only),
            [] => Err("there is no port; add one with `mplsxdp link add IFACE`".to_owned()),
            _ => Err(format!(
                "where does the frame arrive? Add `--in IFACE`, one of: {}",
                names()
            )),
        },
    };
    found.cloned().map_err(Failure::Refused)
}

fn inputs(words: &[String], packet: Option<u64>, port: &Link, session: &Session) -> Result<Vec<Input>, Failure> {
    let one = |frame| Ok(vec![Input { name: None, frame }]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    if packet.is_some() && words.first() != Some(&"pcap") {
        return Err(Failure::Usage("`--packet` goes with `pcap`".into()));
    }
    match words[..] {
        ["hex", "-"] => {
            let text = String::from_utf8(standard_input(session)?);
            let text = text.map_err(|_| Failure::Refused("standard input is not text".into()))?;
            one(hex_of(&text)?)
        }
        ["hex", ref bytes @ ..] => one(hex_of(&bytes.join(" "))?),
        ["pcap", "-"] => captured("standard input", &standard_input(session)?, packet),
        ["pcap", file] => {
            let bytes = pcap::read(Path::new(file)).map_err(|error| Failure::Refused(error.to_string()))?;
            captured(file, &bytes, packet)
        }
        ["pcap", ..] => Err(Failure::Usage(
            "`pcap` takes one file: `trace pcap FILE [--packet N]`".into(),
        )),
        ref frame => {
            let to: Mac = port.address.parse().unwrap_or(Mac::ZERO);
            let frame = notation::read(&frame.join(" "), to);
            one(frame.map_err(|error| Failure::Usage(format!("{error}; `mplsxdp trace --help` has the words")))?)
        }
    }
}

fn standard_input(session: &Session) -> Result<Vec<u8>, Failure> {
    if session.stdin_is_taken {
        return Err(Failure::Usage(
            "the commands are read from standard input; give the frame in a file".into(),
        ));
    }
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The frames of a capture, or only the one with this number.
fn captured(name: &str, file: &[u8], packet: Option<u64>) -> Result<Vec<Input>, Failure> {
    let refused = |reason: String| Failure::Refused(format!("{name}: {reason}"));
    let frames = pcap::frames(file).map_err(|error| refused(error.to_string()))?;
    let numbered = (1..).zip(&frames);
    let wanted: Vec<_> = numbered
        .filter(|(number, _)| packet.is_none_or(|packet| packet == *number))
        .collect();
    if wanted.is_empty() {
        let what = packet.map_or_else(String::new, |packet| format!(" {packet}"));
        return Err(refused(format!(
            "there is no frame{what}: the file has {}",
            frames.len()
        )));
    }
    let inputs = wanted.into_iter().map(|(number, frame)| {
        if frame.is_truncated() {
            let (kept, len) = (frame.bytes.len(), frame.original_len);
            return Err(refused(format!(
                "frame {number} is cut: the file has {kept} of its {len} bytes; capture with `tcpdump -s 0`"
            )));
        }
        Ok(Input {
            name: Some(format!("frame {number}")),
            frame: frame.bytes.to_vec(),
        })
    });
    inputs.collect()
}

/// The bytes of a dump: plain hexadecimal, with or without spaces and colons, or lines of tcpdump -xx or xxd.
fn hex_of(text: &str) -> Result<Vec<u8>, Failure> {
    let mut digits = String::new();
    for line in text.lines() {
        // xxd prints the characters after two spaces.
        let bytes = match line.split_once(": ") {
            Some((offset, rest)) if is_offset(offset) => {
                let rest = rest.trim_start();
                rest.split_once("  ").map_or(rest, |(bytes, _)| bytes)
            }
            // The line that tcpdump prints before a frame.
            Some((before, _)) if !before.trim().chars().all(|char| char.is_ascii_hexdigit()) => continue,
            _ => line,
        };
        for word in bytes
            .split_whitespace()
            .filter(|word| !word.strip_suffix(':').is_some_and(is_offset))
        {
            digits.extend(word.chars().filter(|char| *char != ':'));
        }
    }
    hex::decode(&digits).map_err(|error| Failure::Usage(format!("the frame is not hexadecimal: {error}")))
}

/// Whether this is the offset at the beginning of a line of a dump: at least four digits.
fn is_offset(word: &str) -> bool {
    let word = word.trim();
    let digits = word.strip_prefix("0x").unwrap_or(word);
    digits.len() >= 4 && digits.chars().all(|char| char.is_ascii_hexdigit())
}

fn print(trace: &Trace, session: &mut Session) -> Result<(), Failure> {
    let style = session.out.style;
    let rule = |rule: &Option<String>| rule.as_ref().map(|rule| format!(" ({rule})")).unwrap_or_default();
    let mut lines = vec![trace.arrived.text.clone()];
    let hex = |frame: &TracedFrame, lines: &mut Vec<String>| {
        if style.details {
            lines.push(format!("        {}", frame.frame));
        }
    };
    hex(&trace.arrived, &mut lines);
    for (number, step) in (1..).zip(&trace.steps).filter(|_| !style.brief) {
        lines.push(format!("    {number} {}{}", step.text, rule(&step.rule)));
        if let Some(route) = &step.route {
            let route = show::lines(route, style.stats)?;
            lines.extend(route.iter().map(|line| format!("        {line}")));
        }
    }
    let why = trace.reason.as_ref().map(|reason| {
        let description = trace.description.as_deref().unwrap_or_default();
        format!(": {reason}{}: {description}", rule(&trace.rule))
    });
    let why = why.unwrap_or_default();
    let verdict = match trace.verdict {
        TraceVerdict::Forwarded => "forwarded".to_owned(),
        TraceVerdict::Kernel => format!("left to the kernel{why}"),
        TraceVerdict::SlowPath => format!("raised to the slow path{why}"),
        TraceVerdict::Dropped => format!("dropped{why}"),
    };
    lines.push(match &trace.sent {
        Some(sent) if trace.verdict == TraceVerdict::Forwarded => {
            format!("{verdict} by {}: {}", sent.ifname, sent.text)
        }
        _ => verdict,
    });
    if let Some(sent) = trace.sent.as_ref().filter(|sent| sent.frame != trace.arrived.frame) {
        if trace.verdict != TraceVerdict::Forwarded {
            lines.push(format!("    as {}", sent.text));
        }
        hex(sent, &mut lines);
    }
    for answer in &trace.slow_path {
        let outcomes = answer
            .outcomes
            .iter()
            .map(|outcome| format!("{}: {}", outcome.name, outcome.description));
        lines.extend(outcomes.map(|outcome| format!("    {}: {outcome}", answer.when)));
        for action in &answer.actions {
            let sent = action
                .sent
                .as_ref()
                .map(|sent| format!(": {}", sent.text))
                .unwrap_or_default();
            lines.push(format!("        {}{sent}", action.text));
            if let Some(sent) = &action.sent {
                hex(sent, &mut lines);
            }
        }
    }
    session.out.lines(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_of_tcpdump_and_xxd_are_read() {
        let bytes = [0x02, 0x00, 0x00, 0x88, 0x47, 0x00, 0x06, 0x41, 0x40, 0x45];
        for text in [
            "02000088470006414045",
            "0200 0088 4700 0641 4045",
            "02:00:00:88:47:00:06:41:40:45",
            "\t0x0000:  0200 0088 4700\n\t0x0006:  0641 4045\n",
            "12:00:01.5 MPLS (label 100), length 6: whatever\n\t0x0000:  0200 0088 4700 0641 4045\n",
            "00000000: 0200 0088 4700 0641  ..G..A\n00000008: 4045                 @E\n",
            // The shell has put the lines into one.
            "0x0000: 0200 0088 4700 0x0006: 0641 4045",
        ] {
            assert_eq!(hex_of(text).ok().as_deref(), Some(&bytes[..]), "{text}");
        }
        for wrong in ["02000", "zz", "0x0000:  02zz"] {
            assert!(hex_of(wrong).is_err(), "{wrong}");
        }
    }
}

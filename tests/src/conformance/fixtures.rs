//! Reads `fixtures.txt`, which says what it holds.

use mplsxdp_common::abi::{PortWord, Reason, Settings, TtlMode};
use mplsxdp_common::forward::Verdict;

use super::lab;
use super::notation::Frame;

const TEXT: &str = include_str!("../fixtures.txt");

/// One line: a frame and what becomes of it, under these settings.
#[derive(Debug)]
pub struct Fixture {
    /// Its place in the file, and what it says.
    pub name: String,
    pub settings: Vec<Settings>,
    pub port: PortWord,
    pub frame: Vec<u8>,
    pub verdict: Verdict,
    pub output: Vec<u8>,
}

/// All of them. Panics at a line that cannot be read, and where the listed routes are not those that [`lab`] installs.
pub fn fixtures() -> Vec<Fixture> {
    let installed: Vec<String> = lab::routes().iter().map(ToString::to_string).collect();
    let listed = TEXT.lines().skip_while(|line| *line != "## Routes").skip(1);
    let listed: Vec<&str> = listed.take_while(|line| !line.is_empty()).collect();
    assert_eq!(
        listed,
        installed,
        "routes in fixtures.txt, and as they are:\n{}\n",
        installed.join("\n")
    );
    let lines = TEXT.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines
        .filter(|(_, line)| line.contains("->") && !line.starts_with('#'))
        .map(|(number, line)| fixture(number, line))
        .collect()
}

fn fixture(number: usize, line: &str) -> Fixture {
    let name = format!("fixtures.txt:{number}: {line}");
    let parts = line.split_once(": ").and_then(|(when, rest)| {
        let (frame, outcome) = rest.split_once(" -> ")?;
        Some((when, frame, outcome))
    });
    let Some((when, frame, outcome)) = parts else {
        panic!("not `WHEN: FRAME -> OUTCOME`: {name}")
    };
    let mut words = when.split(' ');
    let modes: Vec<TtlMode> = words
        .next()
        .into_iter()
        .flat_map(|word| word.split(','))
        .flat_map(modes)
        .collect();
    let mut tc = [false, true].as_slice();
    let mut port = "core";
    for word in words {
        match word.strip_prefix('@') {
            Some(kind) => port = kind,
            None if word == "+tc" => tc = &[true],
            None if word == "-tc" => tc = &[false],
            None => panic!("`{word}` in {name}"),
        }
    }
    let frame = Frame::parse(frame).to_bytes();
    let (verdict, output) = parse_outcome(outcome, &frame);
    let all = lab::settings().into_iter();
    Fixture {
        settings: all
            .filter(|settings| modes.contains(&settings.ttl_mode()) && tc.contains(&settings.tc_propagate()))
            .collect(),
        port: lab::port_word(port),
        verdict,
        output,
        frame,
        name,
    }
}

fn modes(word: &str) -> Vec<TtlMode> {
    match word {
        "any" => vec![TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux],
        "uniform" => vec![TtlMode::Uniform],
        "pipe" => vec![TtlMode::Pipe],
        "linux" => vec![TtlMode::Linux],
        _ => panic!("no such mode: {word}"),
    }
}

fn parse_outcome(text: &str, received: &[u8]) -> (Verdict, Vec<u8>) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    if word == "untouched" {
        return (Verdict::Pass, received.to_vec());
    }
    if let Some(&reason) = Reason::ALL.iter().find(|reason| reason.name() == word) {
        return (Verdict::Exception(reason), received.to_vec());
    }
    let mut frame = Frame::parse(rest);
    if word == "kernel" {
        return (Verdict::Pass, frame.to_bytes());
    }
    let neighbour = lab::neighbours().into_iter().find(|neighbour| neighbour.dev == word);
    let adjacency = neighbour
        .and_then(|neighbour| neighbour.adjacency)
        .unwrap_or_else(|| panic!("no such outcome: {text}"));
    frame.destination = adjacency.destination();
    frame.source = adjacency.source();
    (Verdict::Forward { port: adjacency.port() }, frame.to_bytes())
}

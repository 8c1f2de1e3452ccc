//! A capture of a cable while something else happens.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::wait;

use crate::net::Node;
use crate::show;

/// How long frames may take to show.
const PATIENCE: Duration = Duration::from_secs(10);

/// A tcpdump that runs until this is dropped.
pub struct Watch<'a> {
    cable: &'a Node,
    line: String,
    lines: Arc<Mutex<Vec<String>>>,
    _process: Reaped,
}

impl<'a> Watch<'a> {
    /// Listens on the `a` side of a cable; returns once it does.
    pub fn start(cable: &'a Node, filter: &str) -> Result<Self> {
        let line = format!("tcpdump -n -t -l --immediate-mode -i a {filter}");
        let mut command = cable.command(&line);
        let mut process = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let mut said = BufReader::new(process.child().stderr.take().context("no pipe from tcpdump")?);
        let mut all = String::new();
        while !all.contains("listening on") {
            ensure!(said.read_line(&mut all)? > 0, "tcpdump does not listen: {all}");
        }
        // Keeps reading, so that it never blocks.
        thread::spawn(move || said.lines().for_each(drop));
        let output = process.child().stdout.take().context("no pipe from tcpdump")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                collected.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Self {
            cable,
            line,
            lines,
            _process: process,
        })
    }

    /// Waits for the first frames for which tcpdump prints each of `texts`, shows them, and returns them in the order
    /// of `texts`.
    pub fn first<const N: usize>(&self, texts: [&str; N]) -> Result<[String; N]> {
        let found = wait::until(&format!("{texts:?} on {}", self.cable.name()), PATIENCE, || {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let find = |text: &str| lines.iter().find(|line| line.contains(text)).cloned();
            let found: Option<Vec<_>> = texts.into_iter().map(find).collect();
            Ok(found)
        })
        .with_context(|| format!("seen: {:#?}", self.lines.lock().unwrap_or_else(PoisonError::into_inner)))?;
        show::command(self.cable, &self.line);
        for line in &found {
            println!("{line}");
        }
        found.try_into().map_err(|_| anyhow::anyhow!("as many lines as texts"))
    }
}

/// Labels of a frame as tcpdump prints them, outermost first, with their TTLs.
pub fn stack(line: &str) -> Vec<(u32, u8)> {
    // "MPLS (label 17, tc 0, ttl 63) (label 146, tc 0, [S], ttl 63) IP 192.168.1.1 > ..."
    let mut entries = Vec::new();
    for part in line.split("(label ").skip(1) {
        let part = part.split(')').next().unwrap_or_default();
        let label = part
            .split(',')
            .next()
            .and_then(|label| label.split_whitespace().next()?.parse().ok());
        let ttl = part.rsplit("ttl ").next().and_then(|ttl| ttl.trim().parse().ok());
        if let (Some(label), Some(ttl)) = (label, ttl) {
            entries.push((label, ttl));
        }
    }
    entries
}

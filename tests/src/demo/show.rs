//! How the demo shows what it does.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::tidy::{self, Reaped};
use mplsxdp_tests::{Netns, Router};

/// How long a capture waits for its packets.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn part(text: &str) {
    println!("\n==== {text}");
}

pub fn heading(text: &str) {
    println!("\n== {text}");
}

pub fn command(line: &str) {
    println!("$ {line}");
}

/// How a router was loaded.
pub fn loaded(router: &Router, options: &str) {
    let name = router.instance();
    command(&format!("mplsxdp load -n {name} --instance {name} {options}"));
}

/// Shows a command in a namespace and what it prints.
pub fn run(netns: &Netns, line: &str) -> Result<String> {
    command(&format!("ip netns exec {} {line}", netns.name()));
    let output = netns.run(line)?;
    println!("{}", output.trim_end());
    Ok(output)
}

/// Shows a command to an instance and what it prints.
pub fn ask(router: &Router, arguments: &str) -> Result<String> {
    command(&format!("mplsxdp --instance {} {arguments}", router.instance()));
    let output = router.run(arguments)?;
    print!("{output}");
    Ok(output)
}

/// Adds routes, and shows that.
pub fn add_routes(router: &Router, routes: &[&str]) -> Result<()> {
    for route in routes {
        command(&format!("mplsxdp --instance {} route add {route}", router.instance()));
    }
    router.add_routes(routes)
}

/// A tcpdump of two packets: an echo request and its reply.
pub struct Capture {
    cable: &'static str,
    tcpdump: Reaped,
    line: String,
}

impl Capture {
    pub fn start(cable: &'static str, netns: &Netns, interface: &str, filter: &str) -> Result<Self> {
        let mut command = netns.command("tcpdump");
        let arguments = ["-n", "-e", "-t", "-l", "-c", "2", "-i", interface, filter];
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tcpdump = tidy::spawn(&mut command)?;
        // It says when it listens; what it says later fits the pipe.
        let mut said = BufReader::new(tcpdump.child().stderr.take().context("no pipe from tcpdump")?);
        let mut all = String::new();
        while !all.contains("listening on") {
            ensure!(said.read_line(&mut all)? > 0, "tcpdump does not listen: {all}");
        }
        tcpdump.child().stderr = Some(said.into_inner());
        Ok(Self {
            cable,
            tcpdump,
            line: format!("ip netns exec {} tcpdump {}", netns.name(), arguments.join(" ")),
        })
    }

    /// Shows the packets.
    pub fn finish(mut self) -> Result<String> {
        self.tcpdump
            .ended(PATIENCE)
            .with_context(|| format!("`{}` sees no packets", self.line))?;
        let mut shown = String::new();
        self.tcpdump
            .child()
            .stdout
            .take()
            .context("no pipe from tcpdump")?
            .read_to_string(&mut shown)?;
        println!("{}", self.cable);
        command(&self.line);
        print!("{shown}");
        Ok(shown)
    }
}

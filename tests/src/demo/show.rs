//! How the demo shows what it does.

use anyhow::Result;
use mplsxdp_tests::tcpdump::Tcpdump;
use mplsxdp_tests::{Netns, Router};

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
    tcpdump: Tcpdump,
}

impl Capture {
    pub fn start(cable: &'static str, netns: &Netns, interface: &str, filter: &str) -> Result<Self> {
        let tcpdump = Tcpdump::start(netns, &["-n", "-e", "-t", "-l", "-c", "2", "-i", interface, filter])?;
        Ok(Self { cable, tcpdump })
    }

    /// Shows the packets.
    pub fn finish(self) -> Result<String> {
        let line = self.tcpdump.line().to_owned();
        let shown = String::from_utf8(self.tcpdump.finish()?)?;
        println!("{}", self.cable);
        command(&line);
        print!("{shown}");
        Ok(shown)
    }
}

//! How the labs show what they do: headings, and commands with their output behind a prompt that names the router.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use mplsxdp_tests::{Router, three_routers};

use crate::net::Node;

pub fn title(text: &str) {
    println!("\n==== {text}");
}

pub fn heading(text: &str) {
    println!("\n== {text}");
}

/// A command as it is typed on a router.
pub fn command(node: &Node, line: &str) {
    println!("{}# {line}", node.name());
}

/// Shows the output of a command, if it has any.
pub fn printed(output: &str) {
    if !output.trim().is_empty() {
        println!("{}", output.trim_end());
    }
}

/// Runs a command on a node, and shows it with its output. If it fails, the error is its output.
pub fn shell(node: &Node, line: &str) -> Result<String> {
    command(node, line);
    let output = node.run(line)?;
    printed(&output);
    Ok(output)
}

/// The same for one that may fail, such as a ping that gets no answer.
pub fn shell_either_way(node: &Node, line: &str) -> Result<String> {
    command(node, line);
    let output = node.output(line)?;
    printed(&output);
    Ok(output)
}

/// Pings, and checks that every request is answered with this TTL.
pub fn ping(node: &Node, target: &str, ttl: u8) -> Result<()> {
    const COUNT: usize = 3;
    let output = shell(node, &format!("ping -n -c {COUNT} -i 0.2 -W 2 {target}"))?;
    let answers = output.matches(&format!("ttl={ttl} ")).count();
    ensure!(
        answers == COUNT,
        "{COUNT} answers with ttl={ttl} were expected, not {answers}"
    );
    Ok(())
}

/// Pings an address that must not answer.
pub fn no_ping(node: &Node, target: &str) -> Result<()> {
    let output = shell_either_way(node, &format!("ping -n -c 2 -i 0.2 -W 1 {target}"))?;
    ensure!(!output.contains("ttl="), "{target} answers, and must not");
    Ok(())
}

/// Loads mplsxdp on a router, with options as a person types them.
pub fn load(node: &Node, options: &str) -> Result<Router> {
    command(node, &format!("mplsxdp load {options}"));
    Router::load(node.netns(), options)
}

/// A command of mplsxdp's on a router.
pub fn ask(node: &Node, router: &Router, arguments: &str) -> Result<String> {
    command(node, &format!("mplsxdp {arguments}"));
    let output = router.run(arguments)?;
    printed(&output);
    Ok(output)
}

/// Sends bytes by TCP, and checks that each arrives.
pub fn transfer(from: &Node, to: &Node, address: IpAddr, bytes: usize) -> Result<()> {
    let took = three_routers::transfer(from.netns(), to.netns(), address, bytes)?;
    println!(
        "{} MB by TCP from {} to {} ({address}): every byte arrived, in {:.1} s",
        bytes / 1_000_000,
        from.name(),
        to.name(),
        took.as_secs_f64()
    );
    Ok(())
}

/// The line of a traceroute's output for a hop.
pub fn hop(output: &str, number: u8) -> &str {
    let is_hop = |line: &&str| line.trim_start().starts_with(&format!("{number} "));
    output.lines().find(is_hop).unwrap_or_default()
}

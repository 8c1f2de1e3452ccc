//! Routers and hosts, each a network namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use mplsxdp_tests::{Lab, Netns, netns};

use crate::show;

/// A router, a host, or a cable that can be listened to.
pub struct Node {
    name: &'static str,
    netns: Netns,
}

impl Node {
    pub fn new(lab: &Lab, name: &'static str) -> Result<Self> {
        Ok(Self {
            name,
            netns: lab.netns(name)?,
        })
    }

    /// The name for people.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A command with its arguments as a person types them; words may be in single quotes.
    pub fn command(&self, line: &str) -> Command {
        let mut words = words(line);
        let mut command = self.netns.command(words.next().unwrap_or_default());
        command.args(words);
        command
    }

    /// The output of a command; if it fails, the error is its output.
    pub fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line).output()?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !output.status.success() {
            bail!("`{line}` on {}: {}{}", self.name, text[0], text[1].trim());
        }
        Ok(text.into_iter().next().unwrap_or_default())
    }

    /// The output of a command, whether it succeeds or not.
    pub fn output(&self, line: &str) -> Result<String> {
        let output = self.command(line).output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Runs commands, and shows them.
    pub fn run_all(&self, lines: &[&str]) -> Result<()> {
        for line in lines {
            show::command(self, line);
            self.run(line)?;
        }
        Ok(())
    }

    /// Applies a file of the labs directory in the form of /etc/sysctl.d.
    pub fn sysctls(&self, file: &str) -> Result<()> {
        for line in text(file)?.lines().filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.split_once('=') {
                self.sysctl(key.trim(), value.trim())?;
            }
        }
        Ok(())
    }

    /// Sets a sysctl below `net.`, named with dots.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let key = key
            .strip_prefix("net.")
            .with_context(|| format!("{key} is not below net."))?;
        self.netns.sysctl(&key.replace('.', "/"), value)
    }

    /// Accepts labelled frames on these interfaces.
    pub fn accept_labels(&self, interfaces: &[&str]) -> Result<()> {
        for interface in interfaces {
            show::command(self, &format!("sysctl -w net.mpls.conf.{interface}.input=1"));
            self.sysctl(&format!("net.mpls.conf.{interface}.input"), "1")?;
        }
        Ok(())
    }
}

/// Words of a command line; single quotes keep blanks.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split('\'').enumerate().flat_map(|(index, part)| {
        let quoted = (index % 2 == 1).then_some(part);
        let unquoted = (index % 2 == 0).then(|| part.split_whitespace());
        quoted.into_iter().chain(unquoted.into_iter().flatten())
    })
}

/// Joins two nodes by a cable; the interfaces are called after the other side, such as `to-PE1`.
pub fn link(a: &Node, b: &Node) -> Result<()> {
    let (to_b, to_a) = (format!("to-{}", b.name), format!("to-{}", a.name));
    netns::link(netns::End::new(&a.netns, &to_b), netns::End::new(&b.netns, &to_a))
}

/// The same with a node in the middle that has a bridge, so that tcpdump there, on interface `a`, sees what passes. The
/// MTU of the cable leaves room for labels.
pub fn tapped_link(a: &Node, middle: &Node, b: &Node) -> Result<()> {
    const MTU: u32 = 1600;
    let (to_b, to_a) = (format!("to-{}", b.name), format!("to-{}", a.name));
    netns::tapped_link(
        netns::End::new(&a.netns, &to_b).mtu(MTU),
        &middle.netns,
        netns::End::new(&b.netns, &to_a).mtu(MTU),
    )
}

/// A file of the labs directory.
pub fn path(file: &str) -> PathBuf {
    source().join("labs").join(file)
}

pub fn text(file: &str) -> Result<String> {
    source_text(&format!("labs/{file}"))
}

/// A file of the source tree.
pub fn source_text(file: &str) -> Result<String> {
    let path = source().join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The root of the source tree.
fn source() -> PathBuf {
    let source = std::env::var_os("MPLSXDP_SOURCE").map(PathBuf::from);
    source.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

/// Gives an interface addresses.
pub fn address(node: &Node, interface: &str, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        node.run(&format!("ip address add {address} dev {interface}"))?;
    }
    Ok(())
}

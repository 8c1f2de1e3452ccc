//! tcpdump in a namespace.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::netns::Netns;
use crate::tidy::{self, Reaped};

/// The limit for each wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// A tcpdump that ends by itself, after `-c` packets.
pub struct Tcpdump {
    process: Reaped,
    line: String,
}

impl Tcpdump {
    /// Returns once it listens.
    pub fn start(netns: &Netns, arguments: &[&str]) -> Result<Self> {
        let mut command = netns.command("tcpdump");
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = tidy::spawn(&mut command)?;
        // Its later output fits the pipe.
        let mut said = BufReader::new(process.child().stderr.take().context("no pipe from tcpdump")?);
        let mut all = String::new();
        while !all.contains("listening on") {
            ensure!(said.read_line(&mut all)? > 0, "tcpdump does not listen: {all}");
        }
        process.child().stderr = Some(said.into_inner());
        let line = format!("ip netns exec {} tcpdump {}", netns.name(), arguments.join(" "));
        Ok(Self { process, line })
    }

    /// As a person would type it.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Waits for its end, and returns what it wrote, which must fit a pipe.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let status = self
            .process
            .ended(PATIENCE)
            .with_context(|| format!("`{}` does not see as many packets", self.line))?;
        ensure!(status.success(), "`{}`: {status}", self.line);
        let mut written = Vec::new();
        let mut stdout = self.process.child().stdout.take().context("no pipe from tcpdump")?;
        stdout.read_to_end(&mut written)?;
        Ok(written)
    }
}

/// The output of `tcpdump -v` for an Ethernet frame.
pub fn print(frame: &[u8]) -> Result<String> {
    // The pcap format: version 2.4, no time zone, whole packets, LINKTYPE_ETHERNET; then one packet at time 0.
    let length = (frame.len() as u32).to_ne_bytes();
    let mut file = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65535, 1, 0, 0]
        .map(u32::to_ne_bytes)
        .concat();
    file.extend([length, length].concat());
    file.extend(frame);
    let mut command = Command::new("tcpdump");
    command
        .args(["-n", "-v", "-r", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = command.stderr(Stdio::null()).spawn().context("cannot run tcpdump")?;
    // It reads all before it writes more than a pipe holds.
    process.stdin.take().context("no pipe to tcpdump")?.write_all(&file)?;
    let output = process.wait_with_output()?;
    ensure!(output.status.success(), "tcpdump: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

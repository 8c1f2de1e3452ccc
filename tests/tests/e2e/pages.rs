//! Types pages of the documentation: runs every command in order in one shell, and compares the output with the page.
//!
//! The shell has its own mount, network and PID namespace, with an empty /run. So a page's names cannot clash with
//! others, and the kernel removes everything when the shell ends, however it ends.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::mem;
use std::net::IpAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::{router, tidy, wait};

use crate::test_with_all;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long to repeat a command of mplsxdp that only shows something, until its output is as on the page.
const PATIENCE: Duration = Duration::from_secs(10);
/// Printed after the output of each command, before its exit status.
const END: &str = "end of output:";

/// A page, or a part of it that stands alone.
#[derive(Clone, Copy)]
struct Page {
    name: &'static str,
    text: &'static str,
    /// The heading that it begins with; `None`: the top of the page.
    from: Option<&'static str>,
    /// The heading before which it ends; `None`: the end of the page.
    to: Option<&'static str>,
}

const FIRST_LAB: Page = Page {
    name: "docs/first-lab.md",
    text: include_str!("../../../docs/first-lab.md"),
    from: None,
    to: None,
};
const VPN: &str = "## 3. A VPN for two customers";
const PINGS: Page = Page {
    name: "docs/tutorial.md",
    text: include_str!("../../../docs/tutorial.md"),
    from: None,
    to: Some(VPN),
};
const L3VPN: Page = Page {
    from: Some(VPN),
    to: None,
    ..PINGS
};

pub fn tests() -> Vec<Trial> {
    let lab = [
        Need::Program("unshare", "util-linux"),
        Need::Program("mount", "mount"),
        Need::Program("bash", "bash"),
        Need::Program("sysctl", "procps"),
        Need::Program("ethtool", "ethtool"),
        Need::Program("ping", "iputils-ping"),
    ];
    let tools = [
        Need::Kernel(6, 3, "what a veth's peer takes"),
        Need::Program("tcpdump", "tcpdump"),
        Need::Program("traceroute", "traceroute"),
    ];
    let vrf = [Need::LinkKind("vrf", "vrf")];
    let test =
        |name, needs: &[Need], page: Page| test_with_all(name, &[&lab[..], needs].concat(), move || page.check());
    vec![
        test("first_lab::the_page_is_true", &tools, FIRST_LAB),
        test("tutorial::the_pings_are_true", &[], PINGS),
        test("tutorial::the_vpn_is_true", &vrf, L3VPN),
    ]
}

impl Page {
    fn check(self) -> Result<()> {
        let mut shell = Shell::start()?;
        shell.quiet("mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/lab && cd /run/lab")?;
        for block in self.blocks()? {
            block.check(&mut shell).with_context(|| {
                let logs = shell.run("tail -n 30 *.log");
                format!(
                    "{}:{}; the logs:\n{}",
                    self.name,
                    block.line,
                    logs.unwrap_or_default().0
                )
            })?;
        }
        let (left, _) = shell.run("ip netns list; ls -A /run/lab; ls -A /run/mplsxdp 2>/dev/null; jobs -r")?;
        ensure!(left.is_empty(), "{} leaves behind: {left}", self.name);
        Ok(())
    }

    /// The blocks that are marked as `sh` (commands that print nothing and succeed) and as `console`.
    fn blocks(self) -> Result<Vec<Block>> {
        let mut blocks = Vec::new();
        let lines = self.text.lines().zip(1..);
        let mut lines = lines
            .skip_while(|(line, _)| self.from.is_some_and(|from| *line != from))
            .take_while(|(line, _)| Some(*line) != self.to);
        while let Some((line, number)) = lines.next() {
            let Some(kind) = line.strip_prefix("```") else {
                continue;
            };
            let at = || format!("{}:{number}", self.name);
            let body: Vec<_> = lines
                .by_ref()
                .map(|(line, _)| line)
                .take_while(|&line| line != "```")
                .collect();
            let commands = match kind {
                "sh" => vec![Shown {
                    command: body.join("\n"),
                    output: Vec::new(),
                }],
                "console" => console(&body).with_context(at)?,
                "text" => continue,
                other => bail!("{}: a block of kind `{other}`: sh, console or text was expected", at()),
            };
            blocks.push(Block { line: number, commands });
        }
        ensure!(!blocks.is_empty(), "{} has no such part", self.name);
        Ok(blocks)
    }
}

/// A code block with commands.
#[derive(Debug, PartialEq)]
struct Block {
    /// The line of the page where the block begins.
    line: usize,
    commands: Vec<Shown>,
}

/// A command, and its output according to the page.
#[derive(Debug, PartialEq)]
struct Shown {
    command: String,
    output: Vec<String>,
}

/// Lines that begin with a prompt are commands, the others their output.
fn console(body: &[&str]) -> Result<Vec<Shown>> {
    let mut shown: Vec<Shown> = Vec::new();
    for line in body {
        if let Some(command) = line.strip_prefix("# ") {
            shown.push(Shown {
                command: command.to_owned(),
                output: Vec::new(),
            });
        } else {
            let last = shown.last_mut().context("the block does not begin with a command")?;
            last.output.push((*line).to_owned());
        }
    }
    Ok(shown)
}

impl Block {
    fn check(&self, shell: &mut Shell) -> Result<()> {
        self.commands.iter().try_for_each(|shown| shown.check(shell))
    }
}

impl Shown {
    fn check(&self, shell: &mut Shell) -> Result<()> {
        let Self { command, output } = self;
        let shows = ["neigh", "stats", "route show"]
            .iter()
            .any(|word| command.starts_with("mplsxdp") && command.contains(word));
        if output.is_empty() {
            shell.quiet(command)?;
            if command.contains("mplsxdp load") {
                // In a guest without KVM, this takes longer than commands wait for it.
                wait::until("the instances to be ready", LIMIT, || {
                    Ok(shell.run("grep -L ' ready ' *.log")?.0.is_empty().then_some(()))
                })?;
            }
            Ok(())
        } else if shows {
            let mut last = String::new();
            let shown = wait::until(command, PATIENCE, || {
                last = shell.run(command)?.0;
                Ok(is_as_shown(output, &last).then_some(()))
            });
            shown.with_context(|| format!("it printed:\n{last}"))
        } else {
            let (printed, _) = shell.run(command)?;
            ensure!(is_as_shown(output, &printed), "`{command}` printed:\n{printed}");
            Ok(())
        }
    }
}

/// Whether the lines have the same words, except for figures that differ each time. A line `...` stands for any number
/// of lines, a word `...` at the end of a line for any number of words.
fn is_as_shown(expected: &[String], printed: &str) -> bool {
    let printed: Vec<_> = printed.lines().collect();
    lines_match(expected, &printed)
}

fn lines_match(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        Some((first, rest)) => printed
            .split_first()
            .is_some_and(|(line, others)| words_match(first, line) && lines_match(rest, others)),
    }
}

fn words_match(expected: &str, printed: &str) -> bool {
    let expected = words(expected);
    let printed = words(printed);
    match expected.split_last() {
        Some((last, first)) if last == "..." => printed.starts_with(first),
        _ => expected == printed,
    }
}

/// The words of a line, with `*` in place of times, rates, MAC addresses and identifiers.
fn words(line: &str) -> Vec<String> {
    let mut previous = "";
    line.split_whitespace()
        .map(|word| {
            let figure = word.trim_start_matches("time=").trim_end_matches(['m', 's', ',']);
            let number = figure.parse::<f64>().is_ok();
            let measured = figure.contains('.') || word.ends_with("ms") || ["id", "seq"].contains(&previous);
            let mac = word.split(':').count() == 6 && word.parse::<IpAddr>().is_err();
            let differs = (number && measured) || mac;
            previous = word;
            if differs { "*".to_owned() } else { word.to_owned() }
        })
        .collect()
}

/// `bash` in its own namespaces, with the built `mplsxdp` in its PATH.
struct Shell {
    /// Dropped before the process: a shell without input ends.
    input: Option<ChildStdin>,
    output: Receiver<String>,
    _process: tidy::Reaped,
}

impl Shell {
    fn start() -> Result<Self> {
        let program = router::program()?;
        let directory = program.parent().context("mplsxdp is in no directory")?;
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([directory.to_owned()].into_iter().chain(env::split_paths(&path)))?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg("bash")
            .env("PATH", path)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = tidy::spawn(&mut command)?;
        let input = process.child().stdin.take();
        let stdout = process.child().stdout.take().context("the shell has no output")?;
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines();
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self {
            input,
            output,
            _process: process,
        })
    }

    /// The output of commands on both streams, and the exit status of the last one or of one that failed before it.
    fn run(&mut self, commands: &str) -> Result<(String, i32)> {
        let input = self.input.as_mut().context("the shell has no input")?;
        write!(
            input,
            "failed=0; trap 'failed=$?' ERR\n{{ {commands}\n}} 2>&1 </dev/null\ntrap - ERR; printf '\\n{END} %d\\n' $failed\n"
        )?;
        let mut printed = String::new();
        loop {
            match self.output.recv_timeout(wait::limit(LIMIT)) {
                Ok(line) => match line.strip_prefix(END) {
                    Some(status) => {
                        // The line break before the end of output.
                        let text = printed.strip_suffix('\n').unwrap_or(&printed);
                        return Ok((text.to_owned(), status.trim().parse()?));
                    }
                    None => {
                        printed.push_str(&line);
                        printed.push('\n');
                    }
                },
                Err(RecvTimeoutError::Timeout) => bail!("`{commands}` takes too long; it printed:\n{printed}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the shell ended at `{commands}`:\n{printed}"),
            }
        }
    }

    /// Runs commands that print nothing and succeed.
    fn quiet(&mut self, commands: &str) -> Result<()> {
        let (printed, status) = self.run(commands)?;
        ensure!(
            printed.is_empty() && status == 0,
            "`{commands}` ended with status {status} and printed:\n{printed}"
        );
        Ok(())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // When the first process of a PID namespace ends, the kernel ends all others.
        drop(mem::take(&mut self.input));
    }
}

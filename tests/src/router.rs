//! A running `mplsxdp` in a namespace, and its command line.

use std::env;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mplsxdp::control::api::{NextHopState, Resolution, Stats, Status, UnknownLabel};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::netns::Netns;
use crate::tidy::{RUN_DIRECTORY, Reaped, instance_files, spawn};
use crate::wait;

/// Names the program to use instead of the one that was built together with this one.
pub const PROGRAM_VARIABLE: &str = "MPLSXDP_PROGRAM";
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(10);
const RESOLVE: Duration = Duration::from_secs(10);

/// The `mplsxdp` program.
pub fn program() -> Result<PathBuf> {
    if let Some(program) = env::var_os(PROGRAM_VARIABLE) {
        return Ok(program.into());
    }
    // target/debug/demo, or target/debug/deps/e2e-...
    let own = env::current_exe()?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("mplsxdp"));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .context("the program mplsxdp is not built: `cargo xtask test` and `cargo xtask demo` build it first")
}

/// A running `mplsxdp load`.
pub struct Router {
    netns: Netns,
    instance: String,
    process: Reaped,
    output: Output,
}

impl Router {
    /// Runs `mplsxdp load -n NETNS --instance NETNS OPTIONS`, with options as a person types them. Returns once it
    /// answers; if it has ended, the error is its output.
    pub fn load(netns: &Netns, options: &str) -> Result<Self> {
        Self::load_instance(netns, netns.name(), options)
    }

    /// The same under another instance name, which must begin with the namespace's.
    pub fn load_instance(netns: &Netns, instance: &str, options: &str) -> Result<Self> {
        let mut command = Command::new(program()?);
        command
            .args(["load", "-n", netns.name(), "--instance", instance])
            .args(options.split_whitespace());
        Self::start(netns, instance, command)
    }

    /// Starts a command that the caller prepared.
    pub fn start(netns: &Netns, instance: &str, command: Command) -> Result<Self> {
        Self::start_with_stderr(netns, instance, command, Stdio::piped())
    }

    /// The same with the caller's standard error for its output.
    pub fn start_with_stderr(netns: &Netns, instance: &str, mut command: Command, stderr: Stdio) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut process = spawn(&mut command)?;
        let output = Output::default();
        output.collect(process.child().stdout.take());
        output.collect(process.child().stderr.take());
        let mut router = Self {
            netns: netns.clone(),
            instance: instance.to_owned(),
            process,
            output,
        };
        wait::until("an answer on the control socket", START, || {
            if let Some(status) = router.process.child().try_wait()? {
                bail!("mplsxdp ended ({status}): {}", router.output.whole_text().trim());
            }
            // Another instance of this name may answer.
            let answer = router.json::<Status>("status");
            Ok(answer
                .is_ok_and(|status| status.pid == router.process.child().id())
                .then_some(()))
        })?;
        Ok(router)
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(RUN_DIRECTORY).join(format!("{}.sock", self.instance))
    }

    /// A command of the CLI for this instance, with arguments as a person types them. The error is its output.
    pub fn run(&self, arguments: &str) -> Result<String> {
        let words = ["--instance", &self.instance]
            .into_iter()
            .chain(arguments.split_whitespace());
        let output = Command::new(program()?).args(words).stdin(Stdio::null()).output()?;
        answered(arguments, &output)
    }

    /// A command that reads `input`.
    pub fn run_with(&self, arguments: &str, input: &str) -> Result<String> {
        Ok(self.run_with_warnings(arguments, input)?.0)
    }

    /// The output of a command that reads `input`, and its standard error.
    pub fn run_with_warnings(&self, arguments: &str, input: &str) -> Result<(String, String)> {
        let words = ["--instance", &self.instance]
            .into_iter()
            .chain(arguments.split_whitespace());
        let mut command = Command::new(program()?);
        let piped = command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn()?;
        child.stdin.take().context("no pipe")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let warned = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((answered(arguments, &output)?, warned))
    }

    /// The parsed answer of a command with `--json`.
    pub fn json<T: DeserializeOwned>(&self, arguments: &str) -> Result<T> {
        let text = self.run(&format!("--json {arguments}"))?;
        serde_json::from_str(&text).with_context(|| format!("`mplsxdp --json {arguments}` answered {text}"))
    }

    /// Adds routes, and waits until every next hop has its MAC address.
    pub fn add_routes(&self, routes: &[&str]) -> Result<()> {
        for route in routes {
            self.run(&format!("route add {route}"))?;
        }
        self.wait_resolved()
    }

    pub fn wait_resolved(&self) -> Result<()> {
        let unresolved = |next_hop: &NextHopState| !matches!(next_hop.state, Resolution::Resolved | Resolution::Static);
        wait::until("MAC addresses of all next hops", RESOLVE, || {
            let next_hops: Vec<NextHopState> = self.json("neigh show")?;
            Ok((!next_hops.iter().any(unresolved)).then_some(()))
        })
    }

    /// Packets that the route of this label or prefix has forwarded.
    pub fn forwarded(&self, key: &str) -> Result<u64> {
        let routes: serde_json::Value = self.json(&format!("--stats route show {key}"))?;
        let packets = routes.get(0).and_then(|route| route["stats"]["packets"].as_u64());
        packets.with_context(|| format!("no count of packets for {key} in {routes}"))
    }

    /// Packets that were not forwarded for this reason, on all ports.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        let stats: Stats = self.json("stats")?;
        Ok(stats
            .reasons
            .iter()
            .filter(|counter| counter.reason == reason)
            .map(|counter| counter.packets)
            .sum())
    }

    /// Frames for the slow path that had this outcome.
    pub fn outcome(&self, name: &str) -> Result<u64> {
        let stats: Stats = self.json("stats --all")?;
        let found = stats.slow_path.into_iter().find(|outcome| outcome.name == name);
        Ok(found.with_context(|| format!("no outcome {name}"))?.packets)
    }

    /// The labels without a route that have arrived.
    pub fn unknown_labels(&self) -> Result<Vec<UnknownLabel>> {
        self.json("stats --unknown")
    }

    /// Its output so far.
    pub fn said(&self) -> String {
        self.output.text()
    }

    /// Its output until it was ready.
    pub fn said_at_load(&self) -> Result<String> {
        wait::until("the word that it is ready", START, || {
            Ok(Some(self.said()).filter(|said| said.lines().any(|line| line.contains("INFO ready"))))
        })
    }

    /// Sends a signal that does not end it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Sends a signal and waits for the end.
    pub fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        self.process.signal(signal)?;
        self.ended().with_context(|| format!("after {signal}"))
    }

    /// Waits for an end that has another cause.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        let ended = self.process.ended(STOP);
        ended.with_context(|| format!("mplsxdp said: {}", self.output.text()))
    }

    /// `mplsxdp unload`, which ends forwarding of a `--persist` instance too. Nothing may be left.
    pub fn unload_by_command(self) -> Result<()> {
        self.run("unload")?;
        let (netns, instance) = (self.netns.clone(), self.instance.clone());
        drop(self);
        ensure_nothing_left(&netns, &instance)
    }

    /// Sends SIGTERM, after which nothing may be left.
    pub fn unload(self) -> Result<()> {
        self.unload_and_tell().map(drop)
    }

    /// The same; returns all of its output.
    pub fn unload_and_tell(self) -> Result<String> {
        let (netns, instance, output) = (self.netns.clone(), self.instance.clone(), self.output.clone());
        let status = self.stop(Signal::SIGTERM)?;
        let said = output.whole_text();
        ensure!(status.success(), "mplsxdp ended with {status}: {said}");
        ensure_nothing_left(&netns, &instance)?;
        Ok(said)
    }
}

/// The output of a command, if it succeeded.
fn answered(arguments: &str, output: &process::Output) -> Result<String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "`mplsxdp {arguments}` ({}): {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr).trim()
    );
    Ok(text(&output.stdout))
}

/// Checks that no program is on an interface, and that no socket and no pin is left.
pub fn ensure_nothing_left(netns: &Netns, instance: &str) -> Result<()> {
    let links = netns.ip("-details link show")?;
    ensure!(!links.contains("xdp"), "a program is still attached:\n{links}");
    let files = instance_files(instance);
    ensure!(files.is_empty(), "left behind: {files:?}");
    Ok(())
}

/// The output of a process, collected while it runs.
#[derive(Clone, Default)]
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// One for each pipe.
    readers: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Output {
    fn collect(&self, pipe: Option<impl Read + Send + 'static>) {
        let Some(mut pipe) = pipe else { return };
        let bytes = Arc::clone(&self.bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                lock(&bytes).extend(&buffer[..length]);
            }
        });
        lock(&self.readers).push(reader);
    }

    /// The output so far.
    fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.bytes)).into_owned()
    }

    /// The whole output, after the process has ended.
    fn whole_text(&self) -> String {
        for reader in lock(&self.readers).drain(..) {
            // A reader that panicked has read what it has.
            let _ = reader.join();
        }
        self.text()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

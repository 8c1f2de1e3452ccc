//! Routes that change all the time, whoever is there to take them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::random::Random;
use mplsxdp_tests::router::program;

/// Other labels and prefixes than those of the traffic.
const LABELS: std::ops::Range<u64> = 10_000..14_000;
const PREFIXES: u64 = 256;
/// Routes of a `restore`, at most.
const MANY: u64 = 2000;
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Churn {
    instance: String,
    /// The routes of the configuration, which stay.
    fixed: Vec<String>,
    seed: u64,
    stop: AtomicBool,
    answered: AtomicU64,
    /// What was answered, by label or prefix. It is locked while a change is on its way.
    wanted: Mutex<BTreeMap<String, String>>,
}

impl Churn {
    pub fn new(instance: String, fixed: Vec<String>, seed: u64) -> Self {
        Self {
            instance,
            fixed,
            seed,
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            wanted: Mutex::default(),
        }
    }

    /// Changes routes until it is stopped.
    pub fn run(&self) -> Result<()> {
        let mut random = Random::new(self.seed.rotate_left(7) | 1);
        while !self.stop.load(Ordering::Relaxed) {
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            match random.below(20) {
                0 => {
                    let routes = (0..random.below(MANY)).map(|_| route(&mut random)).collect();
                    if self.restore(&routes)? {
                        *wanted = routes;
                    }
                }
                1..7 => {
                    let gone = wanted.keys().nth(random.below(MANY) as usize).cloned();
                    if let Some(key) = gone
                        && self.until_answered(&format!("del {key}"), "", Some("no route"))?
                    {
                        wanted.remove(&key);
                    }
                }
                _ => {
                    let (key, line) = route(&mut random);
                    if self.until_answered(&format!("replace {line}"), "", None)? {
                        wanted.insert(key, line);
                    }
                }
            }
            drop(wanted);
            sleep(PAUSE);
        }
        Ok(())
    }

    /// Between two changes, and with no other routes than those of the configuration. Before, all others are compared
    /// with what was answered.
    pub fn paused(&self, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = self.route("save", "")?;
        let mut saved: Vec<_> = saved.lines().collect();
        let mut expected: Vec<_> = wanted.values().chain(&self.fixed).map(String::as_str).collect();
        saved.sort_unstable();
        expected.sort_unstable();
        let differs = saved.iter().zip(&expected).find(|(saved, expected)| saved != expected);
        ensure!(
            saved == expected,
            "{} routes are installed, {} were answered; the first difference: {differs:?}",
            saved.len(),
            expected.len()
        );
        wanted.clear();
        ensure!(self.restore(&wanted)?, "it was stopped");
        act()
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Makes the routes equal to these and those of the configuration. Returns whether that was answered.
    fn restore(&self, routes: &BTreeMap<String, String>) -> Result<bool> {
        let lines = self.fixed.iter().chain(routes.values());
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        self.until_answered("restore", &text, None)
    }

    /// Tries a change until it succeeds, or fails with the words `done`: the controller may have been killed after an
    /// earlier attempt. False if the churn was stopped before.
    fn until_answered(&self, words: &str, input: &str, done: Option<&str>) -> Result<bool> {
        let end = Instant::now() + PATIENCE;
        while !self.stop.load(Ordering::Relaxed) {
            match self.route(words, input) {
                Ok(_) => {}
                Err(error) if done.is_some_and(|done| format!("{error:#}").contains(done)) => {}
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => {
                    sleep(PAUSE);
                    continue;
                }
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        Ok(false)
    }

    /// `mplsxdp route WORDS`; the error is what it said.
    fn route(&self, words: &str, input: &str) -> Result<String> {
        let mut command = Command::new(program()?);
        command
            .args(["--instance", &self.instance, "route"])
            .args(words.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // A write that fails is that of a command that ended early, and says why.
        let _ = child.stdin.take().context("no pipe")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`route {words}`: {}", said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// A label or prefix, and its route as `route save` writes it.
fn route(random: &mut Random) -> (String, String) {
    let out = 20_000 + random.below(10_000);
    let next_hop = random.of(&["10.0.1.2", "10.0.2.2", "10.0.4.2"]);
    let prefix = random.below(PREFIXES);
    if random.once_in(4) {
        let key = format!("10.11.{prefix}.0/24");
        let line = format!("{key} encap mpls {out}/{} via inet {next_hop}", out + 1);
        return (key, line);
    }
    let key = (LABELS.start + random.below(LABELS.end - LABELS.start)).to_string();
    let line = match random.below(4) {
        0 => format!("{key} via inet {next_hop}"),
        1 => format!("{key} as to {out}/{} via inet {next_hop}", out + 1),
        2 => format!(
            "{key} nexthop as to {out} via inet 10.0.2.2 weight 1 nexthop as to {} via inet 10.0.4.2 weight 1",
            out + 1
        ),
        _ => format!("{key} as to {out} via inet {next_hop}"),
    };
    (key, line)
}

//! How many frames a failed link costs labels whose next hop has a backup with labels of its own.
//!
//! ```text
//! source ---- eth0 switch eth1 ---- near 10.1.0.1
//!                         eth2 ---- far  10.2.0.1
//! ```
//!
//! All labels go to `near`, and the backup of each is `far`. Numbered frames for any of the labels arrive at a steady
//! rate, and `eth1` goes down again and again. Each frame that does not come out is lost. A routing daemon is connected
//! and stopped (SIGSTOP): nothing but the switch itself reacts.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mplsxdp_common::wire::Mac;
use mplsxdp_tests::frame::{Entry, Parsed, labelled};
use mplsxdp_tests::router::program;
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};

use crate::scheduled;

const FIRST: u32 = 16;
/// The label that leads around the failed link.
const AROUND: u32 = 300;
/// Between two frames.
const INTERVAL: Duration = Duration::from_micros(100);
/// How long frames are sent before and after a failure.
const BEFORE: Duration = Duration::from_millis(200);
const AFTER: Duration = Duration::from_millis(600);
/// The order of the labels of frames: far from each other in the tables.
const STRIDE: u32 = 611_953;
const NUMBER_BYTES: usize = 8;
const PAYLOAD: [u8; 38] = *b"numbered frames around a failed link..";

#[derive(clap::Args)]
pub struct Arguments {
    /// Failures of each kind.
    #[arg(long, default_value_t = 20)]
    trials: usize,
    #[arg(long, default_value_t = 1_000_000)]
    labels: u32,
}

/// What the labels have as a backup.
#[derive(Clone, Copy)]
enum Backups {
    /// The same labels.
    Alike,
    /// All labels the same two.
    Shared,
    /// Each label other ones.
    Different,
}

impl Backups {
    const ALL: [(Self, &str); 3] = [
        (Self::Alike, "the same labels"),
        (Self::Shared, "labels of their own, the same for all"),
        (Self::Different, "labels of their own, different for each"),
    ];

    /// The label that a frame leaves with on top of its payload.
    fn out(self, label: u32) -> u32 {
        match self {
            Self::Alike | Self::Different => label,
            Self::Shared => 110,
        }
    }

    /// The labels that frames leave with by the backup.
    fn around(self, label: u32) -> Vec<u32> {
        match self {
            Self::Alike => vec![label],
            Self::Shared | Self::Different => vec![AROUND, self.out(label)],
        }
    }

    fn route(self, label: u32) -> String {
        let own = match self {
            Self::Alike => String::new(),
            Self::Shared | Self::Different => format!("as {AROUND}/{} ", self.out(label)),
        };
        let out = self.out(label);
        format!("{label} as {out} via 10.1.0.1 dev eth1 backup {own}via 10.2.0.1 dev eth2\n")
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    println!(
        "| {} labels, the backups have | trials | frames lost: median | max | ms: median | max |",
        arguments.labels
    );
    println!("|---|--:|--:|--:|--:|--:|");
    for (backups, name) in Backups::ALL {
        let bench = Bench::new(backups, arguments.labels)?;
        let mut lost = Vec::with_capacity(arguments.trials);
        for _ in 0..arguments.trials {
            lost.push(bench.fail_over()?);
        }
        lost.sort_unstable();
        let (median, max) = (lost[lost.len() / 2], lost[lost.len() - 1]);
        let milliseconds = |frames: u32| format!("{:.1}", (INTERVAL * frames).as_secs_f64() * 1000.0);
        let count = lost.len();
        println!(
            "| {name} | {count} | {median} | {max} | {} | {} |",
            milliseconds(median),
            milliseconds(max)
        );
    }
    Ok(())
}

struct Bench {
    backups: Backups,
    labels: u32,
    router: Router,
    source: Tap,
    near: Tap,
    far: Tap,
    port: Mac,
    _daemon: Stopped,
    _netns: [Netns; 3],
    _lab: Lab,
}

/// A process that is stopped, and killed at the end.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    fn new(backups: Backups, labels: u32) -> Result<Self> {
        let lab = Lab::new()?;
        let [source, near, far] = [lab.netns("source")?, lab.netns("near")?, lab.netns("far")?];
        let switch = lab.netns("switch")?;
        link(End::new(&source, "eth0"), End::new(&switch, "eth0"))?;
        link(
            End::new(&near, "eth0").address("10.1.0.1/24"),
            End::new(&switch, "eth1").address("10.1.0.2/24"),
        )?;
        link(
            End::new(&far, "eth0").address("10.2.0.1/24"),
            End::new(&switch, "eth2").address("10.2.0.2/24"),
        )?;
        switch.ip("link set lo up")?;
        let router = Router::load(
            &switch,
            "--iface eth0 --iface eth1 --iface eth2 --sync fpm --counter-slots 1048576 --stacks 1048576 --backups 1048576",
        )?;
        // It stops itself once it is connected.
        let daemon = switch
            .command("bash")
            .args(["-c", "exec 3<>/dev/tcp/127.0.0.1/2620; kill -STOP $$"])
            .spawn()?;
        let daemon = Stopped(daemon);
        let mut routes = String::new();
        for label in (FIRST..).take(labels as usize) {
            routes.push_str(&backups.route(label));
        }
        restore(&router, &routes)?;
        router.wait_resolved()?;
        Ok(Self {
            backups,
            labels,
            port: switch.mac("eth0")?,
            source: Tap::open(&source, "eth0")?,
            near: Tap::open(&near, "eth0")?,
            far: Tap::open(&far, "eth0")?,
            router,
            _daemon: daemon,
            _netns: [source, near, far],
            _lab: lab,
        })
    }

    /// Takes the link down and up again. Returns how many frames are lost.
    fn fail_over(&self) -> Result<u32> {
        let (done, down) = (AtomicBool::new(false), AtomicBool::new(false));
        let lost = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                scheduled::take_precedence()?;
                self.send_until(&done, &down)
            });
            thread::sleep(BEFORE);
            down.store(true, Ordering::Relaxed);
            let result = self.router.netns().ip("link set eth1 down");
            thread::sleep(AFTER);
            done.store(true, Ordering::Relaxed);
            let lost = sending.join().unwrap_or_else(|_| bail!("a panic"))?;
            result.map(|_| lost)
        })?;
        self.router.netns().ip("link set eth1 up")?;
        self.router.wait_resolved()?;
        wait::until("frames at the next hop again", Duration::from_secs(10), || {
            self.near.drain()?;
            self.send(0)?;
            thread::sleep(Duration::from_millis(10));
            Ok(self
                .near
                .drain()?
                .iter()
                .any(|frame| number_of(frame).is_some())
                .then_some(()))
        })?;
        self.far.drain()?;
        Ok(lost)
    }

    fn label_of(&self, number: u64) -> u32 {
        FIRST + (number * u64::from(STRIDE) % u64::from(self.labels)) as u32
    }

    fn send(&self, number: u64) -> Result<()> {
        let payload = [&PAYLOAD[..], &number.to_be_bytes()].concat();
        let stack = [Entry::new(self.label_of(number), 64)];
        self.source
            .send(&labelled(self.port, self.source.mac(), &stack, &payload))
    }

    /// Sends frames and receives them. Each must have the right labels, and come by the next hop, or after it went
    /// `down` by the backup. Returns how many were lost.
    fn send_until(&self, done: &AtomicBool, down: &AtomicBool) -> Result<u32> {
        let mut came: Vec<bool> = Vec::new();
        let mut due = Instant::now();
        let receive = |came: &mut Vec<bool>| -> Result<()> {
            for (tap, is_near) in [(&self.near, true), (&self.far, false)] {
                for frame in tap.drain()? {
                    let Some(number) = number_of(&frame) else { continue };
                    let label = self.label_of(number);
                    let stack = match is_near {
                        true => vec![self.backups.out(label)],
                        false => self.backups.around(label),
                    };
                    let stack: Vec<Entry> = stack.into_iter().map(|label| Entry::new(label, 63)).collect();
                    ensure!(
                        Parsed::new(&frame)?.stack == stack,
                        "frame {number} came as {frame:02x?}"
                    );
                    ensure!(
                        is_near || down.load(Ordering::Relaxed),
                        "frame {number} came by the backup"
                    );
                    let came = came.get_mut(number as usize).context("an unknown number")?;
                    ensure!(!std::mem::replace(came, true), "frame {number} came twice");
                }
            }
            Ok(())
        };
        while !done.load(Ordering::Relaxed) {
            came.push(false);
            self.send(came.len() as u64 - 1)?;
            receive(&mut came)?;
            due += INTERVAL;
            match due.checked_duration_since(Instant::now()) {
                Some(left) => thread::sleep(left),
                None => due = Instant::now(),
            }
        }
        thread::sleep(Duration::from_millis(100));
        receive(&mut came)?;
        Ok(came.iter().filter(|came| !**came).count() as u32)
    }
}

/// The number at the end of one of these frames.
fn number_of(frame: &[u8]) -> Option<u64> {
    let (rest, number) = frame.split_last_chunk::<NUMBER_BYTES>()?;
    rest.ends_with(&PAYLOAD).then(|| u64::from_be_bytes(*number))
}

fn restore(router: &Router, routes: &str) -> Result<()> {
    let file = std::env::temp_dir().join(format!("{}.routes", router.instance()));
    std::fs::write(&file, routes)?;
    let restored = (|| {
        let mut command = Command::new(program()?);
        command.args(["--instance", router.instance(), "route", "restore"]);
        let status = command
            .stdin(std::fs::File::open(&file)?)
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "`route restore` ended with {status}");
        Ok(())
    })();
    std::fs::remove_file(&file)?;
    restored
}

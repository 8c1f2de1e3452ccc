//! How long a failover takes, and how long each request holds up the others.
//!
//! ```text
//! near (answers ARP for 10.1.0.0/17) ---- eth1 switch eth2 ---- far (answers ARP for 10.2.0.0/17)
//! ```
//!
//! 1,000 next hops are behind `eth1`, each with a backup behind `eth2`. `eth1` goes down again and again. The time is
//! from the kernel's notice, as another process receives it, to the store by which the last of the 1,000 adjacencies
//! has no neighbour any more, so that its frames go to the backup. It is seen in the table itself, which this process
//! maps into its memory.
//!
//! Requests are measured by a client that asks for the status all the time while another makes the request: how long it
//! waits at worst is how long the request holds up the event loop, and what the machine adds.
//!
//! The threads that measure have real-time priority, so that they do not wait for a CPU themselves. The kernel counts
//! how long the event loop and the thread that serves clients were runnable without running: that part of a time is the
//! scheduler's.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{MapData, MapInfo};
use aya::programs::loaded_programs;
use mplsxdp::control::Instance;
use mplsxdp::control::client::Client;
use mplsxdp_common::abi::{Adjacency, MAX_ADJACENCIES, map};
use mplsxdp_tests::router::program;
use mplsxdp_tests::zebra::Zebra;
use mplsxdp_tests::{End, Lab, Netns, Router, link, wait};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

use crate::fpm;
use crate::scheduled::{self, Thread};

const NEXT_HOPS: u32 = 1000;
/// The first of the labels whose next hops fail.
const FIRST_PROTECTED: u32 = 16;
const RESOLVE: Duration = Duration::from_secs(60);
/// How often the table is looked at.
const LOOK: Duration = Duration::from_micros(20);

#[derive(clap::Args)]
pub struct Arguments {
    /// Failures of each kind.
    #[arg(long, default_value_t = 200)]
    trials: usize,
    /// Routes beside those that fail over.
    #[arg(long, default_value_t = 1_000_000)]
    routes: u32,
    /// Another `mplsxdp` to measure first.
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
}

/// Measures, in a process of its own for each program.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(before) = &arguments.before {
        println!("Before ({}):\n", before.display());
        let status = Command::new(std::env::current_exe()?)
            .args(["failover", "--trials", &arguments.trials.to_string()])
            .args(["--routes", &arguments.routes.to_string()])
            .env("MPLSXDP_PROGRAM", before)
            .status()?;
        ensure!(
            status.success(),
            "the bench of {} ended with {status}",
            before.display()
        );
        println!("\nNow:\n");
    }
    println!("| link down, {NEXT_HOPS} next hops | trials | | median | 99th percentile | max |");
    println!("|---|--:|---|--:|--:|--:|");
    print_rows(
        "a replay of zebra under way",
        &Bench::new(0, arguments.routes, "--sync fpm")?.fail_over_beside_replays(arguments.trials, arguments.routes)?,
    );
    let bench = Bench::new(arguments.routes, arguments.routes, "")?;
    let idle = trials(arguments.trials, "nothing else to do", || bench.fail_over().map(Some))?;
    print_rows("nothing else to do", &idle);
    print_rows(
        "a restore under way",
        &bench.fail_over_beside_restores(arguments.trials)?,
    );
    println!(
        "\n| request | takes | longest wait of another client | the loop waited for a CPU | the clients' thread did |"
    );
    println!("|---|--:|--:|--:|--:|");
    bench.requests()
}

/// How many trials are made between two lines about the progress, on standard error.
const PROGRESS: usize = 20;

/// Makes all trials of a kind. One that is `None` does not count.
fn trials(count: usize, what: &str, mut trial: impl FnMut() -> Result<Option<Failover>>) -> Result<Vec<Failover>> {
    let start = Instant::now();
    let mut failovers = Vec::with_capacity(count);
    while failovers.len() < count {
        failovers.extend(trial()?);
        let (done, last) = (failovers.len(), failovers.last());
        if let Some(last) = last.filter(|_| done.is_multiple_of(PROGRESS)) {
            let (time, took) = (milliseconds(last.time), start.elapsed().as_secs());
            eprintln!("{what}: {done} of {count} trials in {took} s; the last one: {time}");
        }
    }
    Ok(failovers)
}

/// From the notice to the last store.
struct Failover {
    time: Duration,
    /// How much of it the event loop was runnable without running.
    waited: Duration,
}

fn print_rows(name: &str, failovers: &[Failover]) {
    let row = |name: &str, what: &str, part: fn(&Failover) -> Duration| {
        let mut times: Vec<Duration> = failovers.iter().map(part).collect();
        times.sort_unstable();
        let percentile = |of_hundred: usize| milliseconds(times[(times.len() * of_hundred).div_ceil(100) - 1]);
        let (count, percentiles) = (times.len(), [50, 99, 100].map(percentile).join(" | "));
        println!("| {name} | {count} | {what} | {percentiles} |");
    };
    row(name, "in all", |failover| failover.time);
    row("", "without waits for a CPU", |failover| {
        failover.time.saturating_sub(failover.waited)
    });
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

struct Bench {
    router: Router,
    event_loop: Thread,
    serving: Thread,
    adjacencies: MappedAdjacencies,
    notices: OwnedFd,
    ifindex: u32,
    /// Adjacencies that have a neighbour while all links are up.
    resolved: usize,
    /// Those of them that have none while `eth1` is down.
    failing: Vec<usize>,
    /// Files of routes, with other labels each.
    files: [PathBuf; 2],
    _netns: [Netns; 2],
    _lab: Lab,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for file in &self.files {
            // Nobody needs it.
            let _ = fs::remove_file(file);
        }
    }
}

impl Bench {
    /// `routes`: static ones beside those that fail over; `counted`: the largest number of routes beside them.
    fn new(routes: u32, counted: u32, options: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let (near, switch, far) = (lab.netns("near")?, lab.netns("switch")?, lab.netns("far")?);
        for (number, end) in [(1, &near), (2, &far)] {
            let device = format!("eth{number}");
            let [own, other] = [1, 2].map(|last| format!("10.{number}.255.{last}/16"));
            link(
                End::new(end, "eth0").address(&other),
                End::new(&switch, &device).address(&own),
            )?;
            end.ip(&format!("route add local 10.{number}.0.0/17 dev lo"))?;
        }
        let counter_slots = counted + 2 * NEXT_HOPS;
        let options = format!("--iface eth1 --iface eth2 --counter-slots {counter_slots} {options}");
        let router = Router::load(&switch, &options)?;
        let files = [0, 1].map(|number| std::env::temp_dir().join(format!("{}-{number}.routes", router.instance())));
        for (file, out) in files.iter().zip([100, 101]) {
            fs::write(file, routes_of(routes, out)?)?;
        }
        let pid = router.json::<mplsxdp::control::api::Status>("status")?.pid;
        let adjacencies = MappedAdjacencies::of(pid)?;
        let ifindex = switch.within(|| Ok(nix::net::if_::if_nametoindex("eth1")?))?;
        let mut bench = Self {
            notices: switch.within(link_notices)?,
            event_loop: Thread::first(pid)?,
            serving: Thread::named(pid, "control")?,
            router,
            adjacencies,
            ifindex,
            resolved: 0,
            failing: Vec::new(),
            files,
            _netns: [near, far],
            _lab: lab,
        };
        bench.restore(0)?;
        bench.router.wait_resolved()?;
        let resolved = bench.adjacencies.resolved();
        bench.resolved = resolved.len();
        ensure!(
            bench.resolved > NEXT_HOPS as usize,
            "{} adjacencies are resolved",
            bench.resolved
        );
        bench.router.netns().ip("link set eth1 down")?;
        let left = bench.resolved - NEXT_HOPS as usize;
        wait::until("the next hops to fail", RESOLVE, || {
            Ok((bench.adjacencies.resolved().len() <= left).then_some(()))
        })?;
        bench.failing = resolved
            .into_iter()
            .filter(|&index| !bench.adjacencies.is_resolved(index))
            .collect();
        bench.router.netns().ip("link set eth1 up")?;
        Ok(bench)
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.args(["--instance", self.router.instance()]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }

    fn restore(&self, file: usize) -> Result<()> {
        run_command(self.restore_command(file)?)
    }

    fn restore_command(&self, file: usize) -> Result<Command> {
        let mut command = self.command(&["route", "restore"])?;
        command.stdin(fs::File::open(&self.files[file])?);
        Ok(command)
    }

    /// Takes a link down and up again. Returns how long it took from the notice to the last store.
    fn fail_over(&self) -> Result<Failover> {
        self.wait_until_resolved()?;
        forget_notices(&self.notices)?;
        let failover = thread::scope(|scope| {
            let measuring = scope.spawn(|| {
                scheduled::take_precedence()?;
                let notice = wait_for_notice(&self.notices, self.ifindex)?;
                let waited = self.event_loop.waited()?;
                for &index in &self.failing {
                    while self.adjacencies.is_resolved(index) {
                        ensure!(notice.elapsed() < RESOLVE, "the next hops did not fail");
                        thread::sleep(LOOK);
                    }
                }
                Ok(Failover {
                    time: notice.elapsed(),
                    waited: self.event_loop.waited()?.saturating_sub(waited),
                })
            });
            self.router.netns().ip("link set eth1 down")?;
            measuring.join().unwrap_or_else(|_| bail!("a panic"))
        })?;
        self.router.netns().ip("link set eth1 up")?;
        self.wait_until_resolved()?;
        Ok(failover)
    }

    fn wait_until_resolved(&self) -> Result<()> {
        wait::until("MAC addresses of all next hops", RESOLVE, || {
            Ok((self.adjacencies.resolved().len() >= self.resolved).then_some(()))
        })
    }

    /// The same while routes are restored. Failures count during which a restore was under way from the notice to the
    /// last store.
    fn fail_over_beside_restores(&self, count: usize) -> Result<Vec<Failover>> {
        let done = AtomicBool::new(false);
        // Odd while a restore is under way.
        let restores = AtomicU64::new(0);
        thread::scope(|scope| {
            let restoring = scope.spawn(|| {
                for file in [1, 0].into_iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    restores.fetch_add(1, Ordering::Relaxed);
                    let restored = self.restore(file);
                    restores.fetch_add(1, Ordering::Relaxed);
                    restored?;
                }
                Ok(())
            });
            let failovers = trials(count, "a restore under way", || {
                ensure!(!restoring.is_finished(), "no restore is under way any more");
                let before = restores.load(Ordering::Relaxed);
                let failover = self.fail_over()?;
                let counts = before % 2 == 1 && restores.load(Ordering::Relaxed) == before;
                Ok(counts.then_some(failover))
            });
            done.store(true, Ordering::Relaxed);
            restoring.join().unwrap_or_else(|_| bail!("a panic"))?;
            failovers
        })
    }

    /// The same while zebra sends label routes as fast as they are read, all of them again and again, with other next
    /// hops each time.
    fn fail_over_beside_replays(mut self, count: usize, routes: u32) -> Result<Vec<Failover>> {
        let netns = self.router.netns();
        let eth2 = netns.within(|| Ok(nix::net::if_::if_nametoindex("eth2")?))?;
        let first = FIRST_PROTECTED + NEXT_HOPS;
        let replays = [0, 1].map(|version| fpm::replay(first..first + routes, eth2, version));
        let mut zebra = Zebra::connect(netns, fpm::PORT)?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                for replay in replays.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    zebra.say_bytes(replay)?;
                }
                Ok(())
            });
            self.resolved = (NEXT_HOPS + fpm::NEXT_HOPS) as usize;
            let failovers = trials(count, "a replay of zebra under way", || {
                ensure!(!sending.is_finished(), "zebra sends no longer");
                self.fail_over().map(Some)
            });
            done.store(true, Ordering::Relaxed);
            sending.join().unwrap_or_else(|_| bail!("a panic"))?;
            failovers
        })
    }

    fn requests(&self) -> Result<()> {
        self.request("(none)", || {
            thread::sleep(Duration::from_secs(2));
            Ok(())
        })?;
        let run = |arguments: &'static [&'static str]| move || run_command(self.command(arguments)?);
        self.request("`route restore`, all routes are replaced", || self.restore(1))?;
        self.request("`route restore`, no route changes", || self.restore(1))?;
        self.request("`route show`", run(&["route", "show"]))?;
        self.request(
            "`route show via` a next hop without routes",
            run(&["route", "show", "via", "10.2.99.9"]),
        )?;
        self.request("`route show`, with counters", run(&["--stats", "route", "show"]))?;
        self.request("`stats`", run(&["stats"]))?;
        self.request("`status`", run(&["status"]))?;
        self.request("`neigh show`", run(&["neigh", "show"]))?;
        self.request("`route flush` of all routes", run(&["route", "flush", "all"]))?;
        self.request("`route restore` after it", || self.restore(0))
    }

    /// Prints how long a request takes, and how long another client waits meanwhile at worst.
    fn request(&self, name: &str, request: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut client = Client::connect(&Instance::new(self.router.instance())?)?;
        let done = AtomicBool::new(false);
        let threads = [&self.event_loop, &self.serving];
        let waited = || -> Result<Vec<Duration>> { threads.into_iter().map(Thread::waited).collect() };
        let (took, (longest, waits)) = thread::scope(|scope| {
            let asking = scope.spawn(|| -> Result<(Duration, Vec<Duration>)> {
                scheduled::take_precedence()?;
                let mut longest = (Duration::ZERO, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    let before = waited()?;
                    let start = Instant::now();
                    // The program of another version may have other fields.
                    client.call::<_, serde_json::Value>("GetStatus", &serde_json::json!({}))?;
                    let wait = start.elapsed();
                    if wait > longest.0 {
                        let waits = waited()?.into_iter().zip(before);
                        longest = (
                            wait,
                            waits.map(|(after, before)| after.saturating_sub(before)).collect(),
                        );
                    }
                    thread::sleep(Duration::from_micros(200));
                }
                Ok(longest)
            });
            let start = Instant::now();
            let result = request();
            let took = start.elapsed();
            done.store(true, Ordering::Relaxed);
            let longest = asking.join().unwrap_or_else(|_| bail!("a panic"))?;
            result.map(|()| (took, longest))
        })?;
        let waits: Vec<String> = [longest].into_iter().chain(waits).map(milliseconds).collect();
        println!("| {name} | {:.2} s | {} |", took.as_secs_f64(), waits.join(" | "));
        Ok(())
    }
}

fn run_command(mut command: Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Routes as `route restore` takes them: those that fail over, and the others.
fn routes_of(routes: u32, out: u32) -> Result<String> {
    let mut text = String::new();
    for number in 0..NEXT_HOPS {
        let label = FIRST_PROTECTED + number;
        let host = format!("{}.{}", number / 250, 1 + number % 250);
        writeln!(
            text,
            "{label} as {out} via 10.1.{host} dev eth1 backup via 10.2.0.1 dev eth2"
        )?;
    }
    for label in (FIRST_PROTECTED + NEXT_HOPS..).take(routes as usize) {
        writeln!(text, "{label} as {out} via 10.2.0.{} dev eth2", 1 + label % 200)?;
    }
    Ok(text)
}

/// What the kernel reports of links from now on.
fn link_notices() -> Result<OwnedFd> {
    const RTMGRP_LINK: u32 = 1;
    let protocol = SockProtocol::NetlinkRoute;
    let notices = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(notices.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
    Ok(notices)
}

/// Reads what the kernel has reported so far.
fn forget_notices(notices: &OwnedFd) -> Result<()> {
    let mut buffer = [0; 64 << 10];
    while recv(notices.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    Ok(())
}

/// Returns when the kernel has reported that the interface is down.
fn wait_for_notice(notices: &OwnedFd, ifindex: u32) -> Result<Instant> {
    const RTM_NEWLINK: u16 = 16;
    const IFF_UP: u32 = 1;
    let mut buffer = [0; 64 << 10];
    loop {
        let length = recv(notices.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let received = Instant::now();
        // struct nlmsghdr (length, type, ...), struct ifinfomsg (family, type, index, flags, ...): netlink(7),
        // rtnetlink(7).
        let mut rest = &buffer[..length];
        while let Some((message, behind)) = rest
            .first_chunk()
            .and_then(|length| rest.split_at_checked(u32::from_ne_bytes(*length) as usize))
            .filter(|(message, _)| message.len() >= 32)
        {
            let word = |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            if kind == RTM_NEWLINK && word(20) == ifindex && word(24) & IFF_UP == 0 {
                return Ok(received);
            }
            rest = behind;
        }
    }
}

/// The adjacency table of a running switch, as the XDP program sees it.
struct MappedAdjacencies(NonNull<AtomicU64>);

// SAFETY: it is only read, by atomic loads.
unsafe impl Sync for MappedAdjacencies {}

impl MappedAdjacencies {
    const WORDS: usize = size_of::<Adjacency>() / size_of::<u64>();
    const BYTES: usize = MAX_ADJACENCIES as usize * size_of::<Adjacency>();

    /// That of the process `pid`.
    fn of(pid: u32) -> Result<Self> {
        let map = own_map(pid, map::ADJACENCIES)?;
        let length = NonZeroUsize::new(Self::BYTES).context("an empty table")?;
        // SAFETY: a new mapping, of a map that has this size.
        let words = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        }?;
        Ok(Self(words.cast()))
    }

    /// Whether it has a neighbour.
    fn is_resolved(&self, index: usize) -> bool {
        assert!(index < MAX_ADJACENCIES as usize);
        // SAFETY: within the mapping.
        let first_word = unsafe { self.0.add(index * Self::WORDS).as_ref() };
        first_word.load(Ordering::Acquire) != 0
    }

    /// Those that have one.
    fn resolved(&self) -> Vec<usize> {
        (0..MAX_ADJACENCIES as usize)
            .filter(|&index| self.is_resolved(index))
            .collect()
    }
}

impl Drop for MappedAdjacencies {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made.
        let _ = unsafe { munmap(self.0.cast(), Self::BYTES) };
    }
}

/// The map of this name that a program of the process uses. The process need not have it open.
pub fn own_map(pid: u32, name: &str) -> Result<MapData> {
    let mut programs = Vec::new();
    for entry in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo"))? {
        let info = match fs::read_to_string(entry?.path()) {
            // It was closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            info => info?,
        };
        let id = info
            .lines()
            .find_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok());
        programs.extend(id);
    }
    for program in loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| programs.contains(&program.id()))
    {
        for id in program.map_ids()?.unwrap_or_default() {
            if MapInfo::from_id(id)?.name_as_str() == Some(name) {
                return Ok(MapData::from_id(id)?);
            }
        }
    }
    bail!("no program of process {pid} has a map {name}")
}

//! `--persist`: whatever ends the controller, the ports go on forwarding, and the next load takes over without losing a
//! frame.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, Status};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_MPLS_UC};
use mplsxdp_tests::frame::{Entry, Parsed, ethernet, labelled, udp};
use mplsxdp_tests::numbered::{Flow, MARK, Numbered};
use mplsxdp_tests::rig::ForeignLink;
use mplsxdp_tests::router::{ensure_nothing_left, program};
use mplsxdp_tests::tidy::spawn;
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use nix::sys::signal::Signal;

use crate::test;

/// Names how often the controller is killed.
const KILLS_VARIABLE: &str = "MPLSXDP_KILLS";
const KILLS: u32 = 30;
/// The first label of routes that are changed meanwhile.
const OTHER: u32 = 1000;
/// Names how often the program is upgraded.
const UPGRADES_VARIABLE: &str = "MPLSXDP_UPGRADES";
const UPGRADES: u32 = 30;
const INTERVAL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Trial> {
    vec![
        test("persist::kills_at_random_moments_lose_no_frame", kills),
        test("persist::upgrades_lose_no_frame", upgrades),
        test("persist::an_upgrade_that_cannot_be_changes_nothing", no_upgrade),
        test("persist::every_end_but_unload_leaves_the_ports_forwarding", ends),
        test("persist::exceptions_are_answered_again_after_a_takeover", exceptions),
        test("persist::the_next_load_may_have_other_ports", other_ports),
        test(
            "persist::interfaces_and_links_that_went_meanwhile_are_no_obstacle",
            gone,
        ),
        test("persist::what_cannot_outlive_or_be_taken_over_is_refused", refusals),
        test(
            "persist::forced_unloading_removes_what_is_left_of_this_instance_only",
            forced,
        ),
        test("persist::the_local_port_stays", local),
    ]
}

/// A router with hosts at both sides, and a file with its routes.
struct Bench {
    netns: Netns,
    left: Netns,
    right: Netns,
    folder: PathBuf,
    _lab: Lab,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const PORTS: &str = "iface = [\"eth1\", \"eth2\"]";

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, netns, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(
            End::new(&left, "eth0").address("10.0.1.2/24"),
            End::new(&netns, "eth1").address("10.0.1.1/24"),
        )?;
        link(
            End::new(&netns, "eth2").address("10.0.2.1/24"),
            End::new(&right, "eth0").address("10.0.2.2/24"),
        )?;
        let folder = std::env::temp_dir().join(netns.name());
        fs::create_dir_all(&folder)?;
        let bench = Self {
            netns,
            left,
            right,
            folder,
            _lab: lab,
        };
        bench.configure(PORTS)?;
        Ok(bench)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("router.toml")
    }

    /// The routes are always the same: by a MAC address, by a neighbour, by several next hops, a pop, a prefix, and back.
    fn configure(&self, options: &str) -> Result<()> {
        let mac = self.right.mac("eth0")?;
        let routes = format!(
            "routes = [\n\
             \"100 as 110 via link {mac} dev eth2\",\n\
             \"200 as 210 via inet 10.0.2.2\",\n\
             \"300 nexthop as 310 via inet 10.0.2.2 nexthop as 310 via inet 10.0.2.2 dev eth2\",\n\
             \"400 via inet 10.0.2.2\",\n\
             \"500 as 510 via inet 10.0.1.2\",\n\
             \"10.9.0.0/16 encap mpls 600 via inet 10.0.2.2\",\n\
             ]\n"
        );
        Ok(fs::write(
            self.config(),
            format!("persist = true\n{options}\n{routes}"),
        )?)
    }

    fn command(&self) -> Result<Command> {
        self.command_of(&program()?)
    }

    fn command_of(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(program);
        let name = self.netns.name();
        command.args(["load", "-n", name, "--instance", name, "--config"]);
        command.arg(self.config());
        Ok(command)
    }

    fn load(&self) -> Result<Router> {
        let router = Router::start(&self.netns, self.netns.name(), self.command()?)?;
        router.wait_resolved()?;
        Ok(router)
    }

    fn refusal(&self, command: &mut Command) -> Result<String> {
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(!output.status.success(), "it was not refused");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// `mplsxdp --instance NAME WORDS`.
    fn run(&self, words: &str) -> Result<String> {
        let output = Command::new(program()?)
            .args(["--instance", self.netns.name()])
            .args(words.split_whitespace())
            .output()?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "{words}: {}", text(&output.stderr));
        Ok(text(&output.stdout))
    }

    fn pins(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(Path::new("/sys/fs/bpf/mplsxdp").join(self.netns.name()));
        entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect()
    }

    /// Traffic of every route, in both directions.
    fn traffic(&self) -> Result<Numbered> {
        let taps = vec![Tap::open(&self.left, "eth0")?, Tap::open(&self.right, "eth0")?];
        let [left, right] = [taps[0].mac(), taps[1].mac()];
        let [eth1, eth2] = [self.netns.mac("eth1")?, self.netns.mac("eth2")?];
        // The number follows, which the lengths and checksums of the packets do not cover.
        let packet = |ttl| udp("10.0.1.2".parse()?, "10.9.0.1".parse()?, ttl, MARK);
        let swap = |from: u32, to: u32| -> Result<Flow> {
            Ok(Flow {
                from: 0,
                to: 1,
                sent: labelled(eth1, left, &[Entry::new(from, 64).tc(3)], &packet(64)?),
                expected: labelled(right, eth2, &[Entry::new(to, 63).tc(3)], &packet(64)?),
            })
        };
        let flows = vec![
            swap(100, 110)?,
            swap(200, 210)?,
            swap(300, 310)?,
            Flow {
                expected: ethernet(right, eth2, ETH_P_IP, &packet(63)?),
                ..swap(400, 0)?
            },
            Flow {
                from: 1,
                to: 0,
                sent: labelled(eth2, right, &[Entry::new(500, 9)], &packet(64)?),
                expected: labelled(left, eth1, &[Entry::new(510, 8)], &packet(64)?),
            },
            Flow {
                sent: ethernet(eth1, left, ETH_P_IP, &packet(64)?),
                expected: labelled(right, eth2, &[Entry::new(600, 63)], &packet(63)?),
                ..swap(0, 0)?
            },
        ];
        Ok(Numbered::start(taps, flows, INTERVAL))
    }

    /// Nothing is left of the instance.
    fn ensure_nothing_left(&self) -> Result<()> {
        ensure!(self.pins().is_empty(), "{:?}", self.pins());
        ensure_nothing_left(&self.netns, self.netns.name())
    }
}

/// Pseudorandom numbers.
struct Random(u64);

impl Random {
    fn new() -> Result<Self> {
        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
        Ok(Self(seed | 1))
    }

    /// Below `limit` (xorshift64).
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The controller is killed at any moment: while it starts, takes over, runs, and changes other routes.
fn kills() -> Result<()> {
    let kills = std::env::var(KILLS_VARIABLE)
        .ok()
        .map_or(Ok(KILLS), |count| count.parse())?;
    let bench = Bench::new()?;
    let mut random = Random::new()?;
    let seed = random.0;
    let first = bench.load()?;
    let wanted = first.run("route show")?;
    let traffic = bench.traffic()?;
    first.stop(Signal::SIGKILL)?;
    let began = Instant::now();
    let second = bench.load()?;
    let start = began.elapsed();
    second.stop(Signal::SIGKILL)?;
    let stop = AtomicBool::new(false);
    let killed = thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&bench, &stop));
        let killed = (0..kills).try_for_each(|number| {
            let mut command = bench.command()?;
            let mut process = spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
            // Most of them while it starts.
            thread::sleep(Duration::from_micros(random.below(start.as_micros() as u64 * 5 / 4)));
            if let Some(status) = process.child().try_wait()? {
                bail!("the process ended by itself ({status}) before kill {number}");
            }
            process.signal(Signal::SIGKILL)?;
            process.ended(PATIENCE).map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        killed.and(churn.join().map_err(|_| anyhow!("the churn has panicked")))
    });
    let (changes, answered) = killed.with_context(|| format!("seed {seed}"))?;
    let router = bench.load()?;
    let counts = traffic.stop()?;
    println!("{kills} kills, {changes} changes of other routes in between: {counts}");
    counts
        .ensure_whole()
        .with_context(|| format!("{kills} kills, seed {seed}"))?;
    let shown = router.run("route show")?;
    let label = |line: &str| line.split(' ').next().and_then(|word| word.parse::<u32>().ok());
    let is_other = |line: &str| label(line).is_some_and(|label| label >= OTHER);
    let others: BTreeSet<u32> = shown.lines().filter(|line| is_other(line)).filter_map(label).collect();
    let missing: Vec<_> = answered.difference(&others).collect();
    ensure!(missing.is_empty(), "routes that were answered are lost: {missing:?}");
    let rest: String = shown
        .lines()
        .filter(|line| !is_other(line))
        .map(|line| format!("{line}\n"))
        .collect();
    ensure!(rest == wanted, "{rest}, not {wanted}");
    ensure!(bench.pins().len() == 2, "{:?}", bench.pins());
    router.run("unload")?;
    drop(router);
    bench.ensure_nothing_left()
}

/// Changes other routes whenever there is somebody to take them. Returns how many changes were answered, and their labels.
fn churn(bench: &Bench, stop: &AtomicBool) -> (u32, BTreeSet<u32>) {
    let (mut label, mut count, mut answered) = (OTHER, 0, BTreeSet::new());
    while !stop.load(Ordering::Relaxed) {
        let change = format!("route replace {label} as {} via inet 10.0.2.2", label + 1);
        if bench.socket().exists() && bench.run(&change).is_ok() {
            count += 1;
            answered.insert(label);
            label = OTHER + (label + 1) % 1000;
        }
        thread::sleep(Duration::from_millis(1));
    }
    (count, answered)
}

impl Bench {
    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/run/mplsxdp/{}.sock", self.netns.name()))
    }
}

/// Puts a file in the place of the program, as a package manager does.
fn replace_file(file: &Path, by: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let new = file.with_extension("new");
    by(&new)?;
    Ok(fs::rename(new, file)?)
}

fn copy_program(to: &Path) -> Result<()> {
    fs::copy(program()?, to)?;
    Ok(())
}

fn upgrades() -> Result<()> {
    let upgrades = std::env::var(UPGRADES_VARIABLE)
        .ok()
        .map_or(Ok(UPGRADES), |count| count.parse())?;
    let bench = Bench::new()?;
    let file = bench.folder.join("mplsxdp");
    copy_program(&file)?;
    let router = Router::start(&bench.netns, bench.netns.name(), bench.command_of(&file)?)?;
    router.wait_resolved()?;
    let wanted = router.run("route show")?;
    let pid = router.json::<Status>("status")?.pid;
    let traffic = bench.traffic()?;
    for number in 0..upgrades {
        // The file of a running process cannot be written, only replaced.
        if number % 5 == 0 {
            replace_file(&file, copy_program)?;
        }
        let said = router.run("upgrade")?;
        ensure!(said.contains(&format!("in process {pid}\n")), "{said}");
    }
    let counts = traffic.stop()?;
    println!("{upgrades} upgrades: {counts}");
    counts.ensure_whole()?;
    ensure!(router.run("route show")? == wanted, "{}", router.run("route show")?);
    ensure!(bench.pins().len() == 2, "{:?}", bench.pins());
    let said = router.said();
    let takeovers = said.matches("took over from an earlier process").count();
    ensure!(takeovers == upgrades as usize, "{takeovers} of {upgrades}: {said}");
    // Its priority does not rise each time.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let nice = stat.split(' ').nth(18).context("no nice value")?.parse::<i32>()?;
    ensure!(nice >= -5, "nice {nice}");
    router.run("unload")?;
    drop(router);
    bench.ensure_nothing_left()
}

fn no_upgrade() -> Result<()> {
    let bench = Bench::new()?;
    let file = bench.folder.join("mplsxdp");
    copy_program(&file)?;
    let router = Router::start(&bench.netns, bench.netns.name(), bench.command_of(&file)?)?;
    router.wait_resolved()?;
    let links = || router.json::<Vec<Link>>("link show");
    let before = links()?;
    let traffic = bench.traffic()?;
    let refused = |reason: &str| -> Result<()> {
        let said = router.run("upgrade").err().context("it was upgraded")?;
        ensure!(format!("{said:#}").contains(reason), "{reason}: {said:#}");
        let ids = |links: &[Link]| {
            links
                .iter()
                .map(|link| (link.link_id, link.program_id))
                .collect::<Vec<_>>()
        };
        ensure!(ids(&links()?) == ids(&before), "{:?}", links()?);
        Ok(())
    };
    // Another version that does not know something, no program at all, and no file.
    replace_file(&file, |new| {
        fs::write(
            new,
            "#!/bin/sh\necho \"mplsxdp: newer than this version: $*\" >&2\nexit 1\n",
        )?;
        Ok(fs::set_permissions(new, Permissions::from_mode(0o755))?)
    })?;
    refused("newer than this version: load")?;
    replace_file(&file, |new| {
        fs::write(new, "\x7fELF")?;
        Ok(fs::set_permissions(new, Permissions::from_mode(0o755))?)
    })?;
    refused("cannot run")?;
    fs::remove_file(&file)?;
    refused("cannot run")?;
    // The configuration has become one that cannot be loaded.
    copy_program(&file)?;
    bench.configure("iface = [\"eth1\", \"eth2\"]\nhold = 2000")?;
    refused("`hold`")?;
    bench.configure(PORTS)?;
    // What is saved is of a newer version than the file, or damaged.
    let snapshot = Path::new("/var/lib/mplsxdp").join(bench.netns.name()).join("snapshot");
    let saved = fs::read_to_string(&snapshot)?;
    let (first, rest) = saved.split_once('\n').context("an empty snapshot")?;
    fs::write(&snapshot, format!("mplsxdp-state 4000\n{rest}"))?;
    refused("has version 4000 of the format")?;
    fs::write(&snapshot, format!("{first}\n0{rest}"))?;
    refused("is damaged at line 2")?;
    fs::write(&snapshot, &saved)?;
    router.run("upgrade")?;
    traffic.stop()?.ensure_whole()?;
    router.run("unload")?;
    drop(router);
    bench.ensure_nothing_left()?;
    let router = Router::load(&bench.netns, "--iface eth1")?;
    let said = router.run("upgrade").err().context("it was upgraded")?;
    ensure!(format!("{said:#}").contains("without `--persist`"), "{said:#}");
    router.unload()
}

/// SIGTERM, SIGINT, SIGQUIT and SIGKILL; `unload` and a refused load.
fn ends() -> Result<()> {
    let bench = Bench::new()?;
    let mut router = bench.load()?;
    let traffic = bench.traffic()?;
    for signal in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT, Signal::SIGKILL] {
        let status = router.stop(signal)?;
        ensure!(status.success() == (signal != Signal::SIGKILL), "{signal}: {status}");
        ensure!(bench.pins().len() == 2, "{signal}: {:?}", bench.pins());
        if signal != Signal::SIGKILL {
            ensure!(!bench.socket().exists(), "{signal}: the socket is left");
        }
        // A configuration that cannot be loaded changes nothing.
        bench.configure("iface = [\"eth1\", \"nonesuch\"]")?;
        let refusal = bench.refusal(&mut bench.command()?)?;
        ensure!(refusal.contains("there is no interface nonesuch"), "{refusal}");
        bench.configure(PORTS)?;
        router = bench.load()?;
    }
    traffic.stop()?.ensure_whole()?;
    router.run("unload")?;
    drop(router);
    bench.ensure_nothing_left()
}

fn exceptions() -> Result<()> {
    let bench = Bench::new()?;
    let router = bench.load()?;
    let left = Tap::open(&bench.left, "eth0")?;
    // By IP, because the source is on a network of this router.
    let expect_time_exceeded = || -> Result<()> {
        let packet = udp("10.0.1.2".parse()?, "10.9.0.1".parse()?, 64, b"")?;
        let entry = Entry::new(100, 1);
        left.send(&labelled(bench.netns.mac("eth1")?, left.mac(), &[entry], &packet))?;
        let from_router = |frame: &[u8]| {
            let ip = Parsed::new(frame).and_then(|frame| frame.ip());
            ip.is_ok_and(|ip| ip.protocol == 1 && ip.source.to_string() == "10.0.1.1")
        };
        left.receive("Time Exceeded", from_router).map(drop)
    };
    expect_time_exceeded()?;
    router.stop(Signal::SIGKILL)?;
    let router = bench.load()?;
    ensure!(
        router.said().contains("took over from an earlier process"),
        "{}",
        router.said()
    );
    expect_time_exceeded()?;
    router.run("unload")?;
    drop(router);
    bench.ensure_nothing_left()
}

/// A port less, a port more.
fn other_ports() -> Result<()> {
    let bench = Bench::new()?;
    let third = bench._lab.netns("third")?;
    link(End::new(&bench.netns, "eth3"), End::new(&third, "eth0"))?;
    bench.configure("iface = [\"eth1\", \"eth2\", \"eth3\"]")?;
    bench.load()?.stop(Signal::SIGKILL)?;
    ensure!(bench.pins().len() == 3, "{:?}", bench.pins());
    let traffic = bench.traffic()?;
    bench.configure(PORTS)?;
    let router = bench.load()?;
    ensure!(bench.pins().len() == 2, "{:?}", bench.pins());
    let shown = bench.netns.ip("-details link show dev eth3")?;
    ensure!(!shown.contains("xdp"), "{shown}");
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.len() == 2, "{links:?}");
    router.stop(Signal::SIGTERM)?;
    bench.configure("iface = [\"eth1\", \"eth2\"]\ntx-only = [\"eth3\"]")?;
    let router = bench.load()?;
    ensure!(bench.pins().len() == 3, "{:?}", bench.pins());
    // A port that is removed takes its pin along.
    router.run("link del eth3")?;
    ensure!(bench.pins().len() == 2, "{:?}", bench.pins());
    traffic.stop()?.ensure_whole()?;
    router.run("unload")?;
    drop(router);
    bench.ensure_nothing_left()
}

/// While no controller runs, an interface is deleted and made again, and a link is detached.
fn gone() -> Result<()> {
    let bench = Bench::new()?;
    bench.load()?.stop(Signal::SIGKILL)?;
    bench.netns.ip("link del eth1")?;
    link(
        End::new(&bench.left, "eth0").address("10.0.1.2/24"),
        End::new(&bench.netns, "eth1").address("10.0.1.1/24"),
    )?;
    let router = bench.load()?;
    ensure!(bench.pins().len() == 2, "{:?}", bench.pins());
    let traffic = bench.traffic()?;
    router.stop(Signal::SIGKILL)?;
    let router = bench.load()?;
    traffic.stop()?.ensure_whole()?;
    // The pins are removed: the links stay, and are pinned again by the next load only if they are still there.
    for pin in bench.pins() {
        fs::remove_file(pin)?;
    }
    router.stop(Signal::SIGKILL)?;
    let router = bench.load()?;
    ensure!(bench.pins().len() == 2, "{:?}", bench.pins());
    // One of the links is detached. A pin is named by its link's id.
    router.stop(Signal::SIGKILL)?;
    let pin = bench.pins().into_iter().next().context("no pin")?;
    let id = pin.file_name().and_then(|name| name.to_str()).context("no name")?;
    ForeignLink::open(id.parse()?)?.detach()?;
    let router = bench.load()?;
    ensure!(bench.pins().len() == 2 && !pin.exists(), "{:?}", bench.pins());
    let traffic = bench.traffic()?;
    router.stop(Signal::SIGKILL)?;
    bench.load()?.run("unload")?;
    drop(traffic);
    bench.ensure_nothing_left()
}

fn refusals() -> Result<()> {
    let bench = Bench::new()?;
    let name = bench.netns.name();
    // A mount namespace of its own.
    let mut fleeting = bench.netns.command(&program()?.display().to_string());
    fleeting.args(["load", "--persist", "--instance", name, "--iface", "eth1"]);
    let refusal = bench.refusal(&mut fleeting)?;
    ensure!(refusal.contains("`mplsxdp load --persist -n NAME`"), "{refusal}");
    bench.ensure_nothing_left()?;

    let router = bench.load()?;
    let traffic = bench.traffic()?;
    let second = bench.refusal(&mut bench.command()?)?;
    ensure!(second.contains("runs already"), "{second}");
    let running = bench.refusal(Command::new(program()?).args(["--instance", name, "unload", "--force"]))?;
    ensure!(running.contains("runs already"), "{running}");
    router.stop(Signal::SIGKILL)?;

    let load = |words: &str| {
        let mut command = Command::new(program()?);
        command
            .args(["load", "--instance", name])
            .args(words.split_whitespace());
        bench.refusal(&mut command)
    };
    let forced = format!("`mplsxdp --instance {name} unload --force`");
    let without = load(&format!("-n {name} --iface eth1 --iface eth2"))?;
    ensure!(
        without.contains("still on 2 interfaces") && without.contains(&forced) && without.contains("`--persist`"),
        "{without}"
    );
    let check = load(&format!("-n {name} --iface eth1 --check"))?;
    ensure!(check.contains(&forced), "{check}");
    let elsewhere = load(&format!("-n {} --persist --iface eth0", bench.left.name()))?;
    ensure!(elsewhere.contains("another network namespace"), "{elsewhere}");
    let mode = load(&format!("-n {name} --persist --mode generic --iface eth1"))?;
    ensure!(
        mode.contains("in native mode") && mode.contains("`--mode native`"),
        "{mode}"
    );
    let command = bench.refusal(Command::new(program()?).args(["--instance", name, "route", "show"]))?;
    ensure!(command.contains("forward") && command.contains(&forced), "{command}");
    let listed = bench.run("instances")?;
    let line = listed.lines().find(|line| line.contains(name));
    ensure!(line.is_some_and(|line| line.contains("forwards")), "{listed}");

    let router = bench.load()?;
    traffic.stop()?.ensure_whole()?;
    router.run("unload")?;
    drop(router);
    bench.ensure_nothing_left()
}

fn forced() -> Result<()> {
    let bench = Bench::new()?;
    let third = bench._lab.netns("third")?;
    link(
        End::new(&bench.netns, "eth3").address("10.0.3.1/24"),
        End::new(&third, "eth0").address("10.0.3.2/24"),
    )?;
    // Another instance in the same namespace, which was killed too.
    let other = format!("{}-other", bench.netns.name());
    let load_other = || -> Result<Router> {
        let router = Router::load_instance(&bench.netns, &other, "--persist --iface eth3")?;
        router.run("route replace 700 as 710 via inet 10.0.3.2")?;
        router.wait_resolved()?;
        Ok(router)
    };
    load_other()?.stop(Signal::SIGKILL)?;
    bench.configure(&format!("{PORTS}\nlocal = true"))?;
    bench.load()?.stop(Signal::SIGKILL)?;
    let neighbours = bench.netns.ip("neigh show")?;
    let is_managed = |neighbours: &str, address: &str| {
        neighbours
            .lines()
            .any(|line| line.starts_with(address) && line.contains("managed"))
    };
    ensure!(
        is_managed(&neighbours, "10.0.2.2 ") && is_managed(&neighbours, "10.0.3.2 "),
        "{neighbours}"
    );
    let said = bench.run("unload --force")?;
    ensure!(
        said.contains("eth1") && said.contains("eth2") && said.contains("mpls0"),
        "{said}"
    );
    ensure!(bench.pins().is_empty(), "{:?}", bench.pins());
    ensure!(!bench.socket().exists(), "the socket is left");
    let links = bench.netns.ip("-details link show")?;
    ensure!(
        !links.contains("mpls0") && links.matches("prog/xdp").count() == 1,
        "{links}"
    );
    let neighbours = bench.netns.ip("neigh show")?;
    ensure!(
        !is_managed(&neighbours, "10.0.2.2 ") && is_managed(&neighbours, "10.0.3.2 "),
        "{neighbours}"
    );
    ensure!(bench.run("unload --force")?.contains("has left nothing"), "twice");
    // The other one is taken over.
    let router = load_other()?;
    ensure!(router.said().contains("took over"), "{}", router.said());
    router.run("unload")?;
    drop(router);
    ensure_nothing_left(&bench.netns, &other)?;
    bench.ensure_nothing_left()
}

fn local() -> Result<()> {
    let bench = Bench::new()?;
    let with = "local = true\nkernel-route = [\"10.9.0.0/16 src 10.0.2.1\", \"10.8.0.0/16\"]";
    bench.configure(&format!("{PORTS}\n{with}"))?;
    let router = bench.load()?;
    let index = || bench.netns.ip("-oneline link show dev mpls0");
    let before = index()?;
    bench.netns.ip("address add 192.0.2.7/32 dev mpls0")?;
    router.stop(Signal::SIGKILL)?;
    let without = with.replace(", \"10.8.0.0/16\"", "");
    bench.configure(&format!("{PORTS}\n{without}"))?;
    let router = bench.load()?;
    ensure!(
        before.split(':').next() == index()?.split(':').next(),
        "{before} {}",
        index()?
    );
    ensure!(
        bench.netns.ip("address show dev mpls0")?.contains("192.0.2.7"),
        "the address is gone"
    );
    wait::until("the kernel's routes", PATIENCE, || {
        let routes = bench.netns.ip("route show dev mpls0")?;
        Ok((routes.contains("10.9.0.0/16") && !routes.contains("10.8.0.0/16")).then_some(()))
    })?;
    ensure!(!router.said().contains("refuses the route"), "{}", router.said());
    // This machine's own packets get their label.
    let right = Tap::open(&bench.right, "eth0")?;
    let ping = bench
        .netns
        .command("ping")
        .args(["-c", "1", "-W", "1", "10.9.0.1"])
        .output()?;
    let is_own = |frame: &[u8]| {
        let is_labelled = frame.get(12..14) == Some(&ETH_P_MPLS_UC.to_be_bytes());
        is_labelled && Parsed::new(frame).is_ok_and(|frame| frame.stack.first().map(|entry| entry.label) == Some(600))
    };
    right.receive(&format!("a ping with label 600 ({ping:?})"), is_own)?;
    // Without it, the next one removes it.
    router.stop(Signal::SIGKILL)?;
    bench.configure(PORTS)?;
    let router = bench.load()?;
    ensure!(index().is_err(), "{:?}", index());
    router.run("unload")?;
    drop(router);
    bench.ensure_nothing_left()
}

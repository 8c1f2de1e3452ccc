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
use mplsxdp_common::wire::ETH_P_MPLS_UC;
use mplsxdp_tests::frame::{Entry, Parsed, labelled, udp};
use mplsxdp_tests::random::Random;
use mplsxdp_tests::rig::ForeignLink;
use mplsxdp_tests::router::{ensure_nothing_left, program};
use mplsxdp_tests::tidy::{RUN_DIRECTORY, pins, spawn};
use mplsxdp_tests::transit::Transit;
use mplsxdp_tests::{End, Lab, Router, Tap, link, wait};
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

const PORTS: &str = "iface = [\"eth1\", \"eth2\"]";

fn configured(lab: &Lab) -> Result<Transit> {
    let transit = Transit::new(lab)?;
    transit.configure(PORTS, &[])?;
    Ok(transit)
}

fn load_command(transit: &Transit) -> Result<Command> {
    Ok(transit.load_command(Command::new(program()?)))
}

/// What a command says that must fail.
fn refusal_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(!output.status.success(), "it was not refused");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `mplsxdp --instance NAME WORDS`, whether the instance runs or not.
fn run(transit: &Transit, words: &str) -> Result<String> {
    let output = Command::new(program()?)
        .args(["--instance", transit.router.name()])
        .args(words.split_whitespace())
        .output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{words}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

fn ensure_pins(transit: &Transit, count: usize) -> Result<()> {
    let pins = pins(transit.router.name());
    ensure!(pins.len() == count, "{pins:?}, not {count} pins");
    Ok(())
}

fn socket(transit: &Transit) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(format!("{}.sock", transit.router.name()))
}

/// The controller is killed at any moment: while it starts, takes over, runs, and changes other routes.
fn kills() -> Result<()> {
    let kills = std::env::var(KILLS_VARIABLE)
        .ok()
        .map_or(Ok(KILLS), |count| count.parse())?;
    let transit = configured(&Lab::new()?)?;
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64 | 1;
    let mut random = Random::new(seed);
    let first = transit.load()?;
    let wanted = first.run("route show")?;
    let traffic = transit.traffic()?;
    first.stop(Signal::SIGKILL)?;
    let began = Instant::now();
    let second = transit.load()?;
    let start = began.elapsed();
    second.stop(Signal::SIGKILL)?;
    let stop = AtomicBool::new(false);
    let killed = thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&transit, &stop));
        let killed = (0..kills).try_for_each(|number| {
            let mut command = load_command(&transit)?;
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
    let router = transit.load()?;
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
    ensure_pins(&transit, 2)?;
    router.unload_by_command()
}

/// Changes other routes whenever there is somebody to take them. Returns how many changes were answered, and their labels.
fn churn(transit: &Transit, stop: &AtomicBool) -> (u32, BTreeSet<u32>) {
    let (mut label, mut count, mut answered) = (OTHER, 0, BTreeSet::new());
    while !stop.load(Ordering::Relaxed) {
        let change = format!("route replace {label} as {} via inet 10.0.2.2", label + 1);
        if socket(transit).exists() && run(transit, &change).is_ok() {
            count += 1;
            answered.insert(label);
            label = OTHER + (label + 1) % 1000;
        }
        thread::sleep(Duration::from_millis(1));
    }
    (count, answered)
}

/// Puts an executable file in the place of the program.
fn replace_program(file: &Path, by: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, by)?;
    fs::set_permissions(&new, Permissions::from_mode(0o755))?;
    Ok(fs::rename(new, file)?)
}

fn upgrades() -> Result<()> {
    let upgrades = std::env::var(UPGRADES_VARIABLE)
        .ok()
        .map_or(Ok(UPGRADES), |count| count.parse())?;
    let transit = configured(&Lab::new()?)?;
    let file = transit.replace_program()?;
    let router = transit.load_by(transit.load_command(Command::new(&file)))?;
    let wanted = router.run("route show")?;
    let pid = router.json::<Status>("status")?.pid;
    let traffic = transit.traffic()?;
    for number in 0..upgrades {
        // The file of a running process cannot be written, only replaced.
        if number % 5 == 0 {
            transit.replace_program()?;
        }
        let said = router.run("upgrade")?;
        ensure!(said.contains(&format!("in process {pid}\n")), "{said}");
    }
    let counts = traffic.stop()?;
    println!("{upgrades} upgrades: {counts}");
    counts.ensure_whole()?;
    ensure!(router.run("route show")? == wanted, "{}", router.run("route show")?);
    ensure_pins(&transit, 2)?;
    let said = router.said();
    let takeovers = said.matches("took over from an earlier process").count();
    ensure!(takeovers == upgrades as usize, "{takeovers} of {upgrades}: {said}");
    // Its priority does not rise each time.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let nice = stat.split(' ').nth(18).context("no nice value")?.parse::<i32>()?;
    ensure!(nice >= -5, "nice {nice}");
    router.unload_by_command()
}

fn no_upgrade() -> Result<()> {
    let transit = configured(&Lab::new()?)?;
    let file = transit.replace_program()?;
    let router = transit.load_by(transit.load_command(Command::new(&file)))?;
    let links = || router.json::<Vec<Link>>("link show");
    let before = links()?;
    let traffic = transit.traffic()?;
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
    replace_program(
        &file,
        "#!/bin/sh\necho \"mplsxdp: newer than this version: $*\" >&2\nexit 1\n",
    )?;
    refused("newer than this version: load")?;
    replace_program(&file, "\x7fELF")?;
    refused("cannot run")?;
    fs::remove_file(&file)?;
    refused("cannot run")?;
    // The configuration has become one that cannot be loaded.
    transit.replace_program()?;
    transit.configure("iface = [\"eth1\", \"eth2\"]\nhold = 2000", &[])?;
    refused("`hold`")?;
    transit.configure(PORTS, &[])?;
    // What is saved is of a newer version than the file, or damaged.
    let snapshot = Path::new("/var/lib/mplsxdp")
        .join(transit.router.name())
        .join("snapshot");
    let saved = fs::read_to_string(&snapshot)?;
    let (first, rest) = saved.split_once('\n').context("an empty snapshot")?;
    fs::write(&snapshot, format!("mplsxdp-state 4000\n{rest}"))?;
    refused("has version 4000 of the format")?;
    fs::write(&snapshot, format!("{first}\n0{rest}"))?;
    refused("is damaged at line 2")?;
    fs::write(&snapshot, &saved)?;
    router.run("upgrade")?;
    traffic.stop()?.ensure_whole()?;
    router.unload_by_command()?;
    let router = Router::load(&transit.router, "--iface eth1")?;
    let said = router.run("upgrade").err().context("it was upgraded")?;
    ensure!(format!("{said:#}").contains("without `--persist`"), "{said:#}");
    router.unload()
}

/// SIGTERM, SIGINT, SIGQUIT and SIGKILL; `unload` and a refused load.
fn ends() -> Result<()> {
    let transit = configured(&Lab::new()?)?;
    let mut router = transit.load()?;
    let traffic = transit.traffic()?;
    for signal in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT, Signal::SIGKILL] {
        let status = router.stop(signal)?;
        ensure!(status.success() == (signal != Signal::SIGKILL), "{signal}: {status}");
        ensure_pins(&transit, 2).with_context(|| signal.to_string())?;
        if signal != Signal::SIGKILL {
            ensure!(!socket(&transit).exists(), "{signal}: the socket is left");
        }
        // A configuration that cannot be loaded changes nothing.
        transit.configure("iface = [\"eth1\", \"nonesuch\"]", &[])?;
        let refusal = refusal_of(&mut load_command(&transit)?)?;
        ensure!(refusal.contains("there is no interface nonesuch"), "{refusal}");
        transit.configure(PORTS, &[])?;
        router = transit.load()?;
    }
    traffic.stop()?.ensure_whole()?;
    router.unload_by_command()
}

fn exceptions() -> Result<()> {
    let transit = configured(&Lab::new()?)?;
    let router = transit.load()?;
    let left = Tap::open(&transit.left, "eth0")?;
    // By IP, because the source is on a network of this router.
    let expect_time_exceeded = || -> Result<()> {
        let packet = udp("10.0.1.2".parse()?, "10.9.0.1".parse()?, 64, b"")?;
        let entry = Entry::new(100, 1);
        left.send(&labelled(transit.router.mac("eth1")?, left.mac(), &[entry], &packet))?;
        let from_router = |frame: &[u8]| {
            let ip = Parsed::new(frame).and_then(|frame| frame.ip());
            ip.is_ok_and(|ip| ip.protocol == 1 && ip.source.to_string() == "10.0.1.1")
        };
        left.receive("Time Exceeded", from_router).map(drop)
    };
    expect_time_exceeded()?;
    router.stop(Signal::SIGKILL)?;
    let router = transit.load()?;
    ensure!(
        router.said().contains("took over from an earlier process"),
        "{}",
        router.said()
    );
    expect_time_exceeded()?;
    router.unload_by_command()
}

/// A port less, a port more.
fn other_ports() -> Result<()> {
    let lab = Lab::new()?;
    let transit = configured(&lab)?;
    let third = lab.netns("third")?;
    link(End::new(&transit.router, "eth3"), End::new(&third, "eth0"))?;
    transit.configure("iface = [\"eth1\", \"eth2\", \"eth3\"]", &[])?;
    transit.load()?.stop(Signal::SIGKILL)?;
    ensure_pins(&transit, 3)?;
    let traffic = transit.traffic()?;
    transit.configure(PORTS, &[])?;
    let router = transit.load()?;
    ensure_pins(&transit, 2)?;
    let shown = transit.router.ip("-details link show dev eth3")?;
    ensure!(!shown.contains("xdp"), "{shown}");
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.len() == 2, "{links:?}");
    router.stop(Signal::SIGTERM)?;
    transit.configure("iface = [\"eth1\", \"eth2\"]\ntx-only = [\"eth3\"]", &[])?;
    let router = transit.load()?;
    ensure_pins(&transit, 3)?;
    // A port that is removed takes its pin along.
    router.run("link del eth3")?;
    ensure_pins(&transit, 2)?;
    traffic.stop()?.ensure_whole()?;
    router.unload_by_command()
}

/// While no controller runs, an interface is deleted and made again, and a link is detached.
fn gone() -> Result<()> {
    let transit = configured(&Lab::new()?)?;
    transit.load()?.stop(Signal::SIGKILL)?;
    transit.router.ip("link del eth1")?;
    transit.cable_left()?;
    let router = transit.load()?;
    ensure_pins(&transit, 2)?;
    let traffic = transit.traffic()?;
    router.stop(Signal::SIGKILL)?;
    let router = transit.load()?;
    traffic.stop()?.ensure_whole()?;
    // The pins are removed: the links stay, and are pinned again by the next load only if they are still there.
    for pin in pins(transit.router.name()) {
        fs::remove_file(pin)?;
    }
    router.stop(Signal::SIGKILL)?;
    let router = transit.load()?;
    ensure_pins(&transit, 2)?;
    // One of the links is detached. A pin is named by its link's id.
    router.stop(Signal::SIGKILL)?;
    let pin = pins(transit.router.name()).into_iter().next().context("no pin")?;
    let id = pin.file_name().and_then(|name| name.to_str()).context("no name")?;
    ForeignLink::open(id.parse()?)?.detach()?;
    let router = transit.load()?;
    ensure_pins(&transit, 2)?;
    ensure!(!pin.exists(), "{} is left", pin.display());
    let _traffic = transit.traffic()?;
    router.stop(Signal::SIGKILL)?;
    transit.load()?.unload_by_command()
}

fn refusals() -> Result<()> {
    let transit = configured(&Lab::new()?)?;
    let name = transit.router.name();
    // A mount namespace of its own.
    let mut fleeting = transit.router.command(&program()?.display().to_string());
    fleeting.args(["load", "--persist", "--instance", name, "--iface", "eth1"]);
    let refusal = refusal_of(&mut fleeting)?;
    ensure!(refusal.contains("`mplsxdp load --persist -n NAME`"), "{refusal}");
    ensure_nothing_left(&transit.router, name)?;

    let router = transit.load()?;
    let traffic = transit.traffic()?;
    let second = refusal_of(&mut load_command(&transit)?)?;
    ensure!(second.contains("runs already"), "{second}");
    let running = refusal_of(Command::new(program()?).args(["--instance", name, "unload", "--force"]))?;
    ensure!(running.contains("runs already"), "{running}");
    router.stop(Signal::SIGKILL)?;

    let load = |words: &str| {
        let mut command = Command::new(program()?);
        command
            .args(["load", "--instance", name])
            .args(words.split_whitespace());
        refusal_of(&mut command)
    };
    let forced = format!("`mplsxdp --instance {name} unload --force`");
    let without = load(&format!("-n {name} --iface eth1 --iface eth2"))?;
    ensure!(
        without.contains("still on 2 interfaces") && without.contains(&forced) && without.contains("`--persist`"),
        "{without}"
    );
    let check = load(&format!("-n {name} --iface eth1 --check"))?;
    ensure!(check.contains(&forced), "{check}");
    let elsewhere = load(&format!("-n {} --persist --iface eth0", transit.left.name()))?;
    ensure!(elsewhere.contains("another network namespace"), "{elsewhere}");
    let mode = load(&format!("-n {name} --persist --mode generic --iface eth1"))?;
    ensure!(
        mode.contains("in native mode") && mode.contains("`--mode native`"),
        "{mode}"
    );
    let command = refusal_of(Command::new(program()?).args(["--instance", name, "route", "show"]))?;
    ensure!(command.contains("forward") && command.contains(&forced), "{command}");
    let listed = run(&transit, "instances")?;
    let line = listed.lines().find(|line| line.contains(name));
    ensure!(line.is_some_and(|line| line.contains("forwards")), "{listed}");

    let router = transit.load()?;
    traffic.stop()?.ensure_whole()?;
    router.unload_by_command()
}

fn forced() -> Result<()> {
    let lab = Lab::new()?;
    let transit = configured(&lab)?;
    let third = lab.netns("third")?;
    link(
        End::new(&transit.router, "eth3").address("10.0.3.1/24"),
        End::new(&third, "eth0").address("10.0.3.2/24"),
    )?;
    // Another instance in the same namespace, which was killed too.
    let other = format!("{}-other", transit.router.name());
    let load_other = || -> Result<Router> {
        let router = Router::load_instance(&transit.router, &other, "--persist --iface eth3")?;
        router.run("route replace 700 as 710 via inet 10.0.3.2")?;
        router.wait_resolved()?;
        Ok(router)
    };
    load_other()?.stop(Signal::SIGKILL)?;
    transit.configure(&format!("{PORTS}\nlocal = true"), &[])?;
    transit.load()?.stop(Signal::SIGKILL)?;
    let neighbours = transit.router.ip("neigh show")?;
    let is_managed = |neighbours: &str, address: &str| {
        neighbours
            .lines()
            .any(|line| line.starts_with(address) && line.contains("managed"))
    };
    ensure!(
        is_managed(&neighbours, "10.0.2.2 ") && is_managed(&neighbours, "10.0.3.2 "),
        "{neighbours}"
    );
    let said = run(&transit, "unload --force")?;
    ensure!(
        said.contains("eth1") && said.contains("eth2") && said.contains("mpls0"),
        "{said}"
    );
    ensure_pins(&transit, 0)?;
    ensure!(!socket(&transit).exists(), "the socket is left");
    let links = transit.router.ip("-details link show")?;
    ensure!(
        !links.contains("mpls0") && links.matches("prog/xdp").count() == 1,
        "{links}"
    );
    let neighbours = transit.router.ip("neigh show")?;
    ensure!(
        !is_managed(&neighbours, "10.0.2.2 ") && is_managed(&neighbours, "10.0.3.2 "),
        "{neighbours}"
    );
    ensure!(run(&transit, "unload --force")?.contains("has left nothing"), "twice");
    // The other one is taken over.
    let router = load_other()?;
    ensure!(router.said().contains("took over"), "{}", router.said());
    router.unload_by_command()?;
    ensure_nothing_left(&transit.router, transit.router.name())
}

fn local() -> Result<()> {
    let transit = configured(&Lab::new()?)?;
    let with = "local = true\nkernel-route = [\"10.9.0.0/16 src 10.0.2.1\", \"10.8.0.0/16\"]";
    transit.configure(&format!("{PORTS}\n{with}"), &[])?;
    let router = transit.load()?;
    let index = || transit.router.ip("-oneline link show dev mpls0");
    let before = index()?;
    transit.router.ip("address add 192.0.2.7/32 dev mpls0")?;
    router.stop(Signal::SIGKILL)?;
    let without = with.replace(", \"10.8.0.0/16\"", "");
    transit.configure(&format!("{PORTS}\n{without}"), &[])?;
    let router = transit.load()?;
    ensure!(
        before.split(':').next() == index()?.split(':').next(),
        "{before} {}",
        index()?
    );
    ensure!(
        transit.router.ip("address show dev mpls0")?.contains("192.0.2.7"),
        "the address is gone"
    );
    wait::until("the kernel's routes", PATIENCE, || {
        let routes = transit.router.ip("route show dev mpls0")?;
        Ok((routes.contains("10.9.0.0/16") && !routes.contains("10.8.0.0/16")).then_some(()))
    })?;
    ensure!(!router.said().contains("refuses the route"), "{}", router.said());
    // This machine's own packets get their label.
    let right = Tap::open(&transit.right, "eth0")?;
    let ping = transit
        .router
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
    transit.configure(PORTS, &[])?;
    let router = transit.load()?;
    ensure!(index().is_err(), "{:?}", index());
    router.unload_by_command()
}

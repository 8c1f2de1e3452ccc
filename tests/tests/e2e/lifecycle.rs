//! Loading, unloading, being killed, and meeting another instance.

use fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Output};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, Status};
use mplsxdp::slowpath::xsk::XskPort;
use mplsxdp_tests::frame::{Entry, labelled};
use mplsxdp_tests::groups::Groups;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::router::{ensure_nothing_left, program};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use nix::sys::signal::Signal;

use crate::{test, test_with};

const PORTS: &str = "--iface eth1 --iface eth2";

pub fn tests() -> Vec<Trial> {
    vec![
        test("lifecycle::sigterm_sigint_and_unload_leave_nothing", unload),
        test_with(
            "lifecycle::ports_are_attached_in_native_mode_by_bpf_link",
            Some(Need::Kernel(5, 9, "bpf_link for XDP")),
            attached,
        ),
        test("lifecycle::signals_end_it_cleanly_or_not_at_all", signals),
        test("lifecycle::a_load_that_nobody_confirms_is_undone", unconfirmed),
        test("lifecycle::a_killed_one_is_replaced_by_the_next_load", kill),
        test("lifecycle::a_second_instance_of_the_name_is_refused", second),
        test("lifecycle::a_port_of_another_instance_is_refused", port_in_use),
        test("lifecycle::a_command_waits_for_an_instance_that_starts", starting),
        test("lifecycle::a_namespace_names_its_instance", by_namespace),
        test_with(
            "lifecycle::both_for_a_member_of_the_socket_s_group",
            Some(Need::Program("setpriv", "util-linux")),
            by_group_member,
        ),
        test("lifecycle::the_service_manager_is_told_when_it_is_ready", notify),
        test("lifecycle::links_come_and_go_at_run_time", links),
        test(
            "lifecycle::others_are_answered_while_a_link_waits_for_its_queue",
            busy_queue,
        ),
        test("lifecycle::a_port_takes_three_file_descriptors", descriptors),
        test(
            "lifecycle::the_limit_of_file_descriptors_is_raised_and_named",
            few_descriptors,
        ),
    ]
}

fn unconfirmed() -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("router")?;
    let peer = lab.netns("peer")?;
    link(End::new(&netns, "eth1"), End::new(&peer, "eth0"))?;
    let mut router = Router::load(&netns, "--iface eth1 --confirm 1")?;
    let status = router.ended()?;
    ensure!(status.code() == Some(1), "{status:?}");
    ensure!(
        router.said().contains("nobody confirmed the load within 1 s"),
        "{}",
        router.said()
    );
    ensure_nothing_left(&netns, netns.name())?;
    // One that is confirmed stays until it is unloaded.
    let router = Router::load(&netns, "--iface eth1 --confirm 3")?;
    router.run("confirm")?;
    thread::sleep(Duration::from_secs(4));
    router.run("status")?;
    router.unload()
}

/// Names how many ports are added.
const PORTS_VARIABLE: &str = "MPLSXDP_MORE_PORTS";

/// The file descriptors of an idle `mplsxdp`.
fn count_descriptors(router: &Router) -> Result<usize> {
    let pid = router.json::<Status>("status")?.pid;
    // The connection of the last command may still be open.
    let mut fewest = usize::MAX;
    for _ in 0..20 {
        fewest = fewest.min(fs::read_dir(format!("/proc/{pid}/fd"))?.count());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(fewest)
}

/// Adds veths, `p0` and so on, to the router's namespace, with their peers.
fn add_veths(netns: &Netns, count: usize) -> Result<()> {
    for number in 0..count {
        netns.ip(&format!("link add p{number} type veth peer name q{number}"))?;
        netns.ip(&format!("link set dev p{number} up"))?;
        netns.ip(&format!("link set dev q{number} up"))?;
    }
    Ok(())
}

/// `mplsxdp load` under limits of file descriptors.
fn load_limited(bench: &Bench, limits: &str, options: &str) -> Result<Router> {
    let name = bench.netns.name();
    let mut command = Command::new("sh");
    let script = format!("{limits} && exec \"$0\" load -n {name} --instance {name} {options}");
    command.args(["-c", &script]).arg(program()?);
    Router::start(&bench.netns, name, command)
}

fn descriptors() -> Result<()> {
    let more = std::env::var(PORTS_VARIABLE).map_or(Ok(6), |value| value.parse())?;
    let bench = Bench::new()?;
    add_veths(&bench.netns, more)?;
    let router = load_limited(&bench, "ulimit -n 1024", PORTS)?;
    let before = count_descriptors(&router)?;
    for number in 0..more {
        let kind = if number % 2 == 0 { "" } else { "tx-only" };
        router.run(&format!("link add p{number} {kind}"))?;
    }
    // The program, its link, and an AF_XDP socket on the only queue.
    let with_ports = count_descriptors(&router)?;
    ensure!(with_ports - before == 3 * more, "{before} and {with_ports}");
    // A sub-interface takes none.
    router.run("link add p0.7")?;
    ensure!(count_descriptors(&router)? == with_ports, "a sub-interface takes some");
    router.run("link del p0.7")?;
    for number in 0..more {
        router.run(&format!("link del p{number}"))?;
    }
    ensure!(count_descriptors(&router)? == before, "not all are given back");
    // 256 ports and 128 clients fit 1024.
    ensure!(before - 2 * 3 + 256 * 3 + 128 <= 1024, "{before} with two ports");
    router.unload()
}

fn few_descriptors() -> Result<()> {
    const ADVICE: [&str; 2] = ["`ulimit -n 65536`", "`LimitNOFILE=65536`"];
    let bench = Bench::new()?;
    add_veths(&bench.netns, 12)?;
    // The hard limit counts.
    let router = load_limited(&bench, "ulimit -Sn 20", PORTS)?;
    bench.expect_swap(&router)?;
    router.unload()?;

    // Some ports fit, and not all.
    let limit = 100;
    let router = load_limited(&bench, &format!("ulimit -n {limit}"), PORTS)?;
    let mut refusal = None;
    let mut ports = 0;
    while ports < 12 && refusal.is_none() {
        match router.run(&format!("link add p{ports}")) {
            Ok(_) => ports += 1,
            Err(error) => refusal = Some(format!("{error:#}")),
        }
    }
    let refusal = refusal.context("12 more ports within the limit")?;
    for part in ADVICE.into_iter().chain(["its limit of 100 file descriptors"]) {
        ensure!(refusal.contains(part), "{part}: {refusal}");
    }
    ensure!(!refusal.contains("CAP_") && !refusal.contains("memlock"), "{refusal}");
    // Everything from before is still there, and released descriptors can be used again.
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.len() == ports + 2, "{links:?}");
    bench.expect_swap(&router)?;
    router.run("link del p0")?;
    router.run("link add p0")?;
    router.unload()?;

    // At whatever point of the load they run out.
    for limit in [24, 28, 32, 36, 40, 44, 48] {
        match load_limited(&bench, &format!("ulimit -n {limit}"), PORTS) {
            Ok(router) => router.unload()?,
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(ADVICE.iter().all(|part| said.contains(part)), "{limit}: {said}");
                ensure!(!said.contains("CAP_") && !said.contains("memlock"), "{limit}: {said}");
                ensure_nothing_left(&bench.netns, bench.netns.name())?;
            }
        }
    }
    Ok(())
}

struct Bench {
    netns: Netns,
    left: Netns,
    right: Netns,
    _lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, netns, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(End::new(&left, "eth0"), End::new(&netns, "eth1").address("10.0.1.1/24"))?;
        link(
            End::new(&netns, "eth2").address("10.0.2.1/24"),
            End::new(&right, "eth0"),
        )?;
        Ok(Self {
            netns,
            left,
            right,
            _lab: lab,
        })
    }

    /// Label 100 is swapped from the left to the right.
    fn expect_swap(&self, router: &Router) -> Result<()> {
        let (left, right) = (Tap::open(&self.left, "eth0")?, Tap::open(&self.right, "eth0")?);
        router.run(&format!("route replace 100 as 110 via link {} dev eth2", right.mac()))?;
        left.send(&labelled(
            self.netns.mac("eth1")?,
            left.mac(),
            &[Entry::new(100, 64)],
            b"payload",
        ))?;
        let expected = labelled(right.mac(), self.netns.mac("eth2")?, &[Entry::new(110, 63)], b"payload");
        right.receive("the swapped frame", |frame| frame == expected).map(drop)
    }
}

fn unload() -> Result<()> {
    let bench = Bench::new()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let router = Router::load(&bench.netns, PORTS)?;
        bench.expect_swap(&router)?;
        let status = router.stop(signal)?;
        ensure!(status.success(), "{signal}: {status}");
        ensure_nothing_left(&bench.netns, bench.netns.name())?;
    }
    let mut router = Router::load(&bench.netns, PORTS)?;
    router.run("unload")?;
    let status = router.ended()?;
    ensure!(status.success(), "unload: {status}");
    ensure_nothing_left(&bench.netns, bench.netns.name())
}

fn signals() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, &format!("{PORTS} --local"))?;
    for signal in [
        Signal::SIGALRM,
        Signal::SIGHUP,
        Signal::SIGIO,
        Signal::SIGPIPE,
        Signal::SIGPROF,
        Signal::SIGPWR,
        Signal::SIGTTOU,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGVTALRM,
        Signal::SIGXFSZ,
    ] {
        router.signal(signal)?;
        router.run("status").with_context(|| format!("after {signal}"))?;
    }
    bench.expect_swap(&router)?;
    let status = router.stop(Signal::SIGQUIT)?;
    ensure!(status.success(), "{status}");
    let expect_nothing_left = || {
        let links = bench.netns.ip("link show")?;
        ensure!(!links.contains("mpls0"), "the local pair is left: {links}");
        ensure_nothing_left(&bench.netns, bench.netns.name())
    };
    expect_nothing_left()?;
    let status = Router::load(&bench.netns, &format!("{PORTS} --local"))?.stop(Signal::SIGXCPU)?;
    ensure!(status.success(), "{status}");
    expect_nothing_left()
}

fn attached() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, PORTS)?;
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.len() == 2, "{links:?}");
    for link in &links {
        ensure!(
            link.mode == "native" && link.link_id != 0 && link.up && link.mpls && !link.tx_only,
            "{link:?}"
        );
    }
    // "xdp" is native mode; generic would be "xdpgeneric".
    let shown = bench.netns.ip("-details link show dev eth1")?;
    ensure!(shown.contains("xdp ") && !shown.contains("xdpgeneric"), "{shown}");
    let status: Status = router.json("status")?;
    ensure!(
        (&*status.mode, &*status.instance, status.links) == ("native", bench.netns.name(), 2),
        "{status:?}"
    );
    Ok(())
}

fn kill() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, PORTS)?;
    bench.expect_swap(&router)?;
    bench.right.ip("addr add 10.0.2.2/24 dev eth0")?;
    router.run("route add 200 via inet 10.0.2.2")?;
    let wait_managed = |wanted: bool| {
        wait::until(&format!("managed: {wanted}"), Duration::from_secs(10), || {
            let is_managed = bench.netns.ip("neigh show")?.contains("managed");
            Ok((is_managed == wanted).then_some(()))
        })
    };
    wait_managed(true)?;
    router.stop(Signal::SIGKILL)?;
    let router = Router::load(&bench.netns, PORTS)?;
    bench.expect_swap(&router)?;
    // Only a killed instance leaves one.
    wait_managed(false)?;
    router.unload()
}

fn second() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, "--iface eth1")?;
    let refused = Router::load(&bench.netns, "--iface eth2")
        .err()
        .context("a second instance was loaded")?;
    let said = format!("{refused:#}");
    ensure!(
        said.contains(router.instance()) && said.contains("exit status: 1"),
        "{said}"
    );
    // The first is as it was.
    router.run("link add eth2")?;
    bench.expect_swap(&router)?;
    router.unload()
}

fn port_in_use() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, PORTS)?;
    let other = format!("{}-other", bench.netns.name());
    let refused = Router::load_instance(&bench.netns, &other, "--iface eth1")
        .err()
        .context("eth1 was taken twice")?;
    let said = format!("{refused:#}");
    let named = format!("eth1 is a port of the instance `{}`", router.instance());
    ensure!(said.contains(&named), "{said}");
    bench.expect_swap(&router)?;
    router.unload()
}

/// Runs the CLI with these words. Returns its output, or its error.
fn mplsxdp(words: &[&str]) -> Result<Result<String, String>> {
    let output = Command::new(program()?).args(words).output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    })
}

fn starting() -> Result<()> {
    let bench = Bench::new()?;
    let name = bench.netns.name();
    let route = ["route", "add", "100", "dev", "lo"];
    for which in [["--instance", name], ["--netns", name]] {
        for _ in 0..5 {
            let mut loading = Command::new(program()?)
                .args(["load", "-n", name, "--instance", name, "--iface", "eth1"])
                .stderr(std::process::Stdio::null())
                .spawn()?;
            let added = mplsxdp(&[&which[..], &route].concat())?;
            let unloaded = mplsxdp(&[&which[..], &["unload"]].concat())?;
            if unloaded.is_err() {
                loading.kill()?;
            }
            loading.wait()?;
            ensure!(added.is_ok() && unloaded.is_ok(), "{added:?}, {unloaded:?}");
        }
    }
    Ok(())
}

fn by_namespace() -> Result<()> {
    let bench = Bench::new()?;
    let (here, there) = (bench.netns.name(), bench.right.name());
    let refusal = |words: &[&str]| {
        mplsxdp(words)?
            .err()
            .with_context(|| format!("{words:?} was not refused"))
    };
    let router = Router::load(&bench.netns, "--iface eth1")?;
    router.run("route add 100 dev lo")?;
    let shown = mplsxdp(&["-n", here, "route", "show"])?;
    ensure!(shown.as_ref().is_ok_and(|shown| shown.contains("100")), "{shown:?}");
    let shown = mplsxdp(&["-n", here, "--instance", here, "route", "show"])?;
    ensure!(shown.is_ok(), "{shown:?}");

    let said = refusal(&["-n", there, "route", "show"])?;
    let none = format!("no mplsxdp runs in the network namespace {there}:");
    ensure!(
        said.contains(&none) && said.contains(&format!("{here} in {here}")),
        "{said}"
    );
    let said = refusal(&["-n", there, "--instance", here, "route", "show"])?;
    ensure!(
        said.contains(&format!("does not run in the network namespace {there} but in {here}")),
        "{said}"
    );
    let said = refusal(&["-n", "mx-nowhere", "route", "show"])?;
    ensure!(said.contains("mx-nowhere") && said.contains("No such file"), "{said}");

    let second = format!("{here}-second");
    let other = Router::load_instance(&bench.netns, &second, "--iface eth2")?;
    let said = refusal(&["-n", here, "route", "show"])?;
    ensure!(
        said.contains(&format!("{here}, {second}; name one with `--instance`")),
        "{said}"
    );
    other.stop(Signal::SIGTERM)?;
    router.unload()
}

/// Such a user can neither open the lock file nor see the namespace of root's processes.
fn by_group_member() -> Result<()> {
    const NOBODY: &str = "65534";

    let bench = Bench::new()?;
    let name = bench.netns.name();
    // In a directory that everyone can access.
    let copy = std::env::temp_dir().join(format!("{name}.mplsxdp"));
    fs::copy(program()?, &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    const MEMBER: u32 = 70001;
    const VIEWER: u32 = 70002;
    const OTHER: u32 = 70003;
    let groups = Groups::new(name, &[("mplsxdp", MEMBER), ("mplsxdp-view", VIEWER)])?;
    let run_as = |group: u32, words: &[&str]| -> Result<Output> {
        let member = ["--reuid", NOBODY, "--regid", &group.to_string(), "--clear-groups"];
        let mut command = Command::new("setpriv");
        Ok(command.args(member).arg(&copy).args(words).output()?)
    };
    let run = |words: &[&str]| run_as(MEMBER, words);
    let refused = |group: u32, words: &[&str], why: &str| -> Result<()> {
        let output = run_as(group, &[&["--instance", name], words].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(why), "{words:?}: {said}");
        Ok(())
    };
    let test = || {
        for which in [
            &["--instance", name][..],
            &["-n", name],
            &["-n", name, "--instance", name],
        ] {
            let mut loading = groups
                .command(program()?)
                .args(["load", "-n", name, "--instance", name, "--iface", "eth1"])
                .stderr(std::process::Stdio::null())
                .spawn()?;
            let added = run(&[
                which,
                &[
                    "route",
                    "add",
                    "100",
                    "as",
                    "101",
                    "via",
                    "link",
                    "02:00:00:00:00:01",
                    "dev",
                    "eth1",
                ],
            ]
            .concat())?;
            let elsewhere = run(&["-n", bench.right.name(), "route", "show"])?;
            let shown = run_as(VIEWER, &[which, &["route", "show"]].concat())?;
            let denied = refused(
                VIEWER,
                &["unload"],
                "Unload changes the instance, and the caller (uid 65534) may only read",
            )
            .and_then(|()| refused(OTHER, &["route", "show"], "no permission for "))
            .and_then(|()| refused(OTHER, &["-n", name, "status"], "mplsxdp-view to read only"));
            let unloaded = run(&[which, &["unload"]].concat())?;
            if !unloaded.status.success() {
                loading.kill()?;
            }
            loading.wait()?;
            ensure!(
                added.status.success() && unloaded.status.success(),
                "{added:?}, {unloaded:?}"
            );
            denied?;
            ensure!(shown.stdout.starts_with(b"100 "), "{shown:?}");
            let said = String::from_utf8_lossy(&elsewhere.stderr);
            // Instances of other tests are not for this user.
            let others = said.contains("no permission for ") && !said.contains(&format!("{name}.sock"));
            ensure!(said.contains(&format!("{name} in {name}")) || others, "{said}");
        }
        Ok(())
    };
    let tested = test();
    fs::remove_file(&copy)?;
    tested
}

fn notify() -> Result<()> {
    let bench = Bench::new()?;
    let path = std::env::temp_dir().join(format!("{}.notify", bench.netns.name()));
    let socket = UnixDatagram::bind(&path)?;
    let receive = || -> Result<String> {
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).context("nothing was said on NOTIFY_SOCKET")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let name = bench.netns.name();
    let mut command = Command::new(program()?);
    command
        .args(["load", "-n", name, "--instance", name, "--iface", "eth1"])
        .env("NOTIFY_SOCKET", &path);
    let router = Router::start(&bench.netns, name, command);
    let first = receive();
    fs::remove_file(&path)?;
    let first = first?;
    ensure!(first.lines().any(|line| line == "READY=1"), "{first}");
    router?.unload()
}

fn links() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, "--iface eth1")?;
    let refused = router
        .run("route add 100 as 110 via link 02:00:00:00:00:01 dev eth2")
        .err();
    let said = format!("{:#}", refused.context("a route by an interface that is not a port")?);
    // The command that fixes it.
    ensure!(said.contains("link add eth2"), "{said}");
    router.run("link add eth2")?;
    bench.expect_swap(&router)?;
    router.run("link del eth2")?;
    let shown = bench.netns.ip("-details link show dev eth2")?;
    ensure!(!shown.contains("xdp"), "{shown}");
    router.run("link add eth2")?;
    bench.expect_swap(&router)?;
    router.unload()
}

/// The event loop continues while a queue is busy; the port is added when the queue is free, or else the client gets an
/// error.
fn busy_queue() -> Result<()> {
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, "--iface eth1")?;
    bench.netns.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _context = runtime.enter();
        let holder = XskPort::open("eth2", 1)?;
        let said = format!("{:#}", router.run("link add eth2").err().context("the queue is busy")?);
        ensure!(said.contains("queue 0 of eth2") && said.contains("ss --xdp"), "{said}");

        let call = |stream: &mut UnixStream, method: &str, parameters: &str| {
            stream.write_all(format!("{{\"method\":\"io.mplsxdp.{method}\",\"parameters\":{parameters}}}\0").as_bytes())
        };
        // On a busy machine `mplsxdp` may have given up before this test gets its turn, or before the kernel has freed
        // the queue.
        let mut holder = Some(holder);
        for _ in 0..10 {
            let (mut waiting, mut other) = (
                UnixStream::connect(router.socket())?,
                UnixStream::connect(router.socket())?,
            );
            call(&mut waiting, "AddLink", "{\"ifname\":\"eth2\"}")?;
            call(&mut other, "ListLinks", "{}")?;
            let links = reply(&mut other)?;
            ensure!(!links.contains("eth2"), "eth2 is no port yet: {links}");
            waiting.set_nonblocking(true)?;
            if reply(&mut waiting).is_ok() {
                continue;
            }
            waiting.set_nonblocking(false)?;
            holder.take();
            if reply(&mut waiting)? == "{\"parameters\":{}}" {
                return Ok(());
            }
            holder = Some(wait::open_sockets("eth2", || XskPort::open("eth2", 1))?);
        }
        bail!("no other client was answered before AddLink, or eth2 did not become a port when its queue was free")
    })?;
    bench.expect_swap(&router)?;
    router.unload()
}

fn reply(stream: &mut UnixStream) -> Result<String> {
    let mut reply = Vec::new();
    BufReader::new(stream).read_until(0, &mut reply)?;
    ensure!(reply.pop() == Some(0), "the connection was closed");
    Ok(String::from_utf8(reply)?)
}

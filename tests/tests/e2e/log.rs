//! The log never stops the switch, and neighbours cannot fill it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{NextHopState, Status};
use mplsxdp_common::wire::Mac;
use mplsxdp_tests::frame::{Entry, ethernet, labelled};
use mplsxdp_tests::router::{ensure_nothing_left, program};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("log::a_full_disk_and_a_reader_that_is_gone_end_nothing", unwritable),
        test("log::a_reader_that_stalls_stops_nothing", stalled),
        test(
            "log::a_neighbour_that_changes_its_mac_address_does_not_fill_it",
            changing_neighbour,
        ),
        test("log::logged_exceptions_are_limited_by_kind", exceptions),
    ]
}

/// left - eth1 router eth2 - right, whose address is 10.0.2.2.
struct Bench {
    left: Netns,
    netns: Netns,
    right: Netns,
    _lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, netns, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(End::new(&left, "eth0"), End::new(&netns, "eth1"))?;
        link(
            End::new(&netns, "eth2").address("10.0.2.1/24"),
            End::new(&right, "eth0").address("10.0.2.2/24"),
        )?;
        Ok(Self {
            left,
            netns,
            right,
            _lab: lab,
        })
    }

    /// `load` with `-v` and this standard error.
    fn load(&self, stderr: impl Into<Stdio>) -> Result<Router> {
        let name = self.netns.name();
        let mut command = Command::new(program()?);
        command.args([
            "load",
            "-v",
            "-n",
            name,
            "--instance",
            name,
            "--iface",
            "eth1",
            "--iface",
            "eth2",
        ]);
        Router::start_with_stderr(&self.netns, name, command, stderr.into())
    }

    /// Label 100 is swapped from the left to `destination` on the right.
    fn expect_swap(&self, destination: Mac) -> Result<()> {
        let (left, right) = (Tap::open(&self.left, "eth0")?, Tap::open(&self.right, "eth0")?);
        let port = self.netns.mac("eth1")?;
        left.send(&labelled(port, left.mac(), &[Entry::new(100, 64)], b"payload"))?;
        let expected = labelled(destination, self.netns.mac("eth2")?, &[Entry::new(110, 63)], b"payload");
        right.receive("the swapped frame", |frame| frame == expected).map(drop)
    }

    /// Checks what must work whatever happens to the log.
    fn expect_work(&self, router: Router) -> Result<()> {
        router.add_routes(&["100 as 110 via inet 10.0.2.2"])?;
        self.expect_swap(self.right.mac("eth0")?)?;
        // Each is a line of the log.
        let batch: String = (200..300)
            .map(|label| format!("route add {label} as 110 via inet 10.0.2.2\n"))
            .collect();
        router.run_with("--batch -", &batch)?;
        router.run("link del eth2")?;
        router.run("link add eth2")?;
        router.wait_resolved()?;
        self.expect_swap(self.right.mac("eth0")?)?;
        let status = router.stop(Signal::SIGTERM)?;
        ensure!(status.success(), "{status}");
        ensure_nothing_left(&self.netns, self.netns.name())
    }
}

fn unwritable() -> Result<()> {
    let bench = Bench::new()?;
    let router = bench.load(OpenOptions::new().write(true).open("/dev/full")?)?;
    ensure!(router.json::<Status>("status")?.log_lines_lost > 0, "no line is lost");
    bench.expect_work(router)?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    drop(reader);
    let router = bench.load(writer)?;
    ensure!(router.json::<Status>("status")?.log_lines_lost > 0, "no line is lost");
    bench.expect_work(router)
}

/// A full pipe, whose reader does not read.
fn full_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    let mut file = File::from(writer);
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    while file.write(&[b'\n'; 4096]).is_ok() {}
    while file.write(b"\n").is_ok() {}
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, file.into()))
}

fn stalled() -> Result<()> {
    let bench = Bench::new()?;
    let (_reader, writer) = full_pipe()?;
    bench.expect_work(bench.load(writer)?)?;
    // It does not matter either whether the descriptor blocks.
    let (_reader, writer) = full_pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    bench.expect_work(bench.load(writer)?)
}

/// A gratuitous ARP reply that puts 10.0.2.2 at `mac`: the kernel accepts any number of them, and one other reply per
/// second.
fn is_at(mac: Mac, router: Mac) -> Vec<u8> {
    let address = [&mac.0[..], &[10, 0, 2, 2]].concat();
    let addresses = [&address[..], &address].concat();
    let reply = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &addresses].concat();
    ethernet(router, mac, 0x0806, &reply)
}

fn changing_neighbour() -> Result<()> {
    const CHANGES: u16 = 5000;
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, "-v --iface eth1 --iface eth2")?;
    router.add_routes(&["100 as 110 via inet 10.0.2.2"])?;
    let right = Tap::open(&bench.right, "eth0")?;
    let our_mac = bench.netns.mac("eth2")?;
    let mac = |change: u16| Mac([2, 0, 0, 7, (change >> 8) as u8, change as u8]);
    for change in 0..CHANGES {
        right.send(&is_at(mac(change), our_mac))?;
    }
    let last = mac(CHANGES - 1);
    wait::until("the last MAC address", Duration::from_secs(20), || {
        let next_hops: Vec<NextHopState> = router.json("neigh show")?;
        let is_last = next_hops.iter().any(|hop| hop.lladdr == Some(last.to_string()));
        Ok(is_last.then_some(()))
    })?;
    bench.expect_swap(last)?;
    let status: Status = router.json("status")?;
    ensure!(
        status.log_lines_left_out > 0 && status.log_lines_lost == 0,
        "{status:?}"
    );
    let count_lines = |router: &Router, what: &str| router.said().lines().filter(|line| line.contains(what)).count();
    let lines = count_lines(&router, "INFO next hop");
    ensure!((1..=20).contains(&lines), "{lines} lines about one neighbour");
    // Debug lines get more, but not without limit.
    let lines = count_lines(&router, "DEBUG");
    ensure!(lines < 3000, "{lines} lines");
    // The omitted lines are summed up, at the latest at the end, with the last state.
    let said = router.unload_and_tell()?;
    let summary = said
        .lines()
        .rfind(|line| line.contains("INFO next hop") && line.contains("more like this"));
    ensure!(summary.is_some_and(|line| line.contains(&last.to_string())), "{said}");
    Ok(())
}

fn exceptions() -> Result<()> {
    const FRAMES: u16 = 500;
    let bench = Bench::new()?;
    let router = Router::load(&bench.netns, "--log-exceptions --iface eth1 --iface eth2")?;
    let left = Tap::open(&bench.left, "eth0")?;
    let port = bench.netns.mac("eth1")?;
    for _ in 0..FRAMES {
        left.send(&labelled(port, left.mac(), &[Entry::new(999, 64)], b"payload"))?;
    }
    // Another kind has its own limit.
    left.send(&labelled(port, left.mac(), &[Entry::new(999, 64); 40], b"payload"))?;
    wait::until("all counted", Duration::from_secs(20), || {
        Ok((router.dropped("no-route")? >= FRAMES.into()).then_some(()))
    })?;
    let said = router.unload_and_tell()?;
    let lines = said.lines().filter(|line| line.contains("exception=")).count();
    ensure!((1..=45).contains(&lines), "{lines} lines: {said}");
    ensure!(said.contains("more like this"), "{said}");
    Ok(())
}

//! What goes wrong around a running instance. Numbered frames go on between two ports meanwhile, and none of them may be
//! lost; of the frames for the port or the neighbour at fault, those that are lost are counted, and once the fault is
//! over, none is. `docs/reliability.md` has the outcomes.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, NextHopState, Resolution, Status};
use mplsxdp_common::wire::Mac;
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::numbered::{Counts, Numbered};
use mplsxdp_tests::router::{ensure_nothing_left, program};
use mplsxdp_tests::tidy::pins;
use mplsxdp_tests::transit::{Flows, INTERVAL, Transit};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{test, test_with};

const LIMIT: Duration = Duration::from_secs(20);
const THIRD: &str = "10.0.3.2";
/// To the third neighbour and from it.
const THIRDS_ROUTES: [&str; 2] = ["700 as 710 via inet 10.0.3.2 dev eth3", "800 as 810 via inet 10.0.2.2"];
/// Names how long the controller is stopped.
const STOPPED_VARIABLE: &str = "MPLSXDP_STOPPED_SECONDS";

pub fn tests() -> Vec<Trial> {
    vec![
        test("faults::a_port_that_flaps_costs_others_no_frame", flaps),
        test_with(
            "faults::a_port_that_is_renamed_loses_no_frame",
            Some(Need::Rename),
            renamed,
        ),
        test("faults::a_port_that_vanishes_and_returns", vanishes),
        test("faults::a_port_that_moves_to_another_namespace_and_back", moves),
        test("faults::a_port_that_moves_while_no_controller_runs", moves_meanwhile),
        test("faults::pins_and_a_bpffs_that_are_removed", unpinned),
        test(
            "faults::a_neighbour_that_changes_its_mac_address_vanishes_and_flaps",
            neighbour,
        ),
        test("faults::answers_with_mac_addresses_of_no_single_neighbour", bad_answers),
        test(
            "faults::more_next_hops_than_the_kernel_has_room_for_neighbours",
            many_neighbours,
        ),
        test("faults::a_controller_that_stands_still", stopped),
        test_with(
            "faults::a_clock_that_jumps",
            Some(Need::Program("cc", "gcc")),
            clock_jumps,
        ),
        test("faults::a_full_table_takes_nothing_or_all", full_tables),
        test("faults::locked_memory_that_is_limited", locked_memory),
    ]
}

/// A router in transit, and a third neighbour at eth3, which the fault is about.
struct Bench {
    transit: Transit,
    third: Netns,
    lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let bench = Self {
            transit: Transit::new(&lab)?,
            third: lab.netns("third")?,
            lab,
        };
        bench.cable_third()?;
        Ok(bench)
    }

    fn cable_third(&self) -> Result<()> {
        link(
            End::new(&self.transit.router, "eth3").address("10.0.3.1/24"),
            End::new(&self.third, "eth0")
                .address("10.0.3.2/24")
                .mac("02:00:00:00:33:02"),
        )
    }

    fn routes(&self) -> Result<Vec<String>> {
        let mut routes = self.transit.routes()?;
        routes.extend(THIRDS_ROUTES.map(str::to_owned));
        Ok(routes)
    }

    fn load(&self, options: &str) -> Result<Router> {
        let router = Router::load(
            &self.transit.router,
            &format!("--iface eth1 --iface eth2 --iface eth3 {options}"),
        )?;
        let routes = self.routes()?;
        router.add_routes(&routes.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(router)
    }

    /// Writes the configuration of a `--persist` instance.
    fn configure(&self, options: &str) -> Result<()> {
        let ports = "iface = [\"eth1\", \"eth2\", \"eth3\"]";
        self.transit.configure(&format!("{ports}\n{options}"), &THIRDS_ROUTES)
    }

    /// Frames of the routes between the two ports that nothing happens to, in both directions.
    fn others(&self) -> Result<Numbered> {
        self.transit.traffic()
    }

    /// Frames out of the third port, which has this name.
    fn third(&self, port: &str) -> Result<Numbered> {
        let mut flows = Flows::default();
        let left = flows.add_host(&self.transit.left, &self.transit.router, "eth1")?;
        let third = flows.add_host(&self.third, &self.transit.router, port)?;
        flows.add([left, third], "10.9.0.1", [Some(700), Some(710)])?;
        Ok(flows.start(INTERVAL))
    }

    /// Waits until frames leave by the third port and arrive there, and then counts: none is lost any more.
    fn works(&self, port: &str) -> Result<()> {
        let taps = [&self.transit.left, &self.third, &self.transit.right].map(|netns| Tap::open(netns, "eth0"));
        let [left, third, right] = taps;
        let (left, third, right) = (left?, third?, right?);
        let [eth1, eth2, eth3] = [
            self.transit.router.mac("eth1")?,
            self.transit.router.mac("eth2")?,
            self.transit.router.mac(port)?,
        ];
        let out = labelled(eth1, left.mac(), &[Entry::new(700, 64)], b"out");
        let out_expected = labelled(third.mac(), eth3, &[Entry::new(710, 63)], b"out");
        let back = labelled(eth3, third.mac(), &[Entry::new(800, 64)], b"in");
        let back_expected = labelled(right.mac(), eth2, &[Entry::new(810, 63)], b"in");
        let (mut leaves, mut arrives) = (false, false);
        wait::until("frames out of the third port and in by it", LIMIT, || {
            left.send(&out)?;
            third.send(&back)?;
            leaves |= third.drain()?.contains(&out_expected);
            arrives |= right.drain()?.contains(&back_expected);
            Ok((leaves && arrives).then_some(()))
        })?;
        let traffic = self.third(port)?;
        thread::sleep(Duration::from_millis(200));
        traffic.stop()?.ensure_whole()
    }

    /// Sends frames for the third neighbour while it cannot be reached: each is counted as unresolved, and none leaves.
    fn lose(&self, router: &Router, frames: u64) -> Result<()> {
        let left = Tap::open(&self.transit.left, "eth0")?;
        let frame = labelled(
            self.transit.router.mac("eth1")?,
            left.mac(),
            &[Entry::new(700, 64)],
            b"lost",
        );
        let before = router.dropped("unresolved")?;
        for _ in 0..frames {
            left.send(&frame)?;
        }
        wait::until("lost frames that are counted", LIMIT, || {
            Ok((router.dropped("unresolved")? >= before + frames).then_some(()))
        })?;
        ensure!(router.dropped("unresolved")? == before + frames, "more are counted");
        Ok(())
    }
}

fn report(fault: &str, others: &Counts, lost: &str) {
    println!("{fault}: others: {others}; {lost}");
}

fn port(router: &Router, name: &str) -> Result<Option<Link>> {
    let links: Vec<Link> = router.json("link show")?;
    Ok(links.into_iter().find(|link| link.ifname == name))
}

fn wait_for_port(router: &Router, name: &str, problem: Option<&str>) -> Result<()> {
    wait::until(&format!("port {name} with problem {problem:?}"), LIMIT, || {
        let link = port(router, name)?;
        Ok(link.filter(|link| link.problem.as_deref() == problem).map(drop))
    })
}

/// Waits until the third neighbour is in this state.
fn wait_for_state(router: &Router, wanted: Resolution) -> Result<()> {
    let mut last = Vec::new();
    wait::until(&format!("{THIRD} in state {wanted:?}"), LIMIT, || {
        last = router.json::<Vec<NextHopState>>("neigh show dev eth3")?;
        Ok(last.iter().any(|hop| hop.state == wanted).then_some(()))
    })
    .with_context(|| format!("{last:?}"))
}

fn wait_said(router: &Router, text: &str) -> Result<()> {
    wait::until(text, LIMIT, || Ok(router.said().contains(text).then_some(()))).with_context(|| router.said())
}

/// Frames for the third port are lost while it is down: the program counts them as unresolved or the driver refuses them.
fn flaps() -> Result<()> {
    const FLAPS: u32 = 20;
    let bench = Bench::new()?;
    let router = bench.load("")?;
    let (others, third) = (bench.others()?, bench.third("eth3")?);
    for flap in 0..FLAPS {
        // The interface, or its carrier.
        let (netns, interface) = match flap % 2 {
            0 => (&bench.transit.router, "eth3"),
            _ => (&bench.third, "eth0"),
        };
        netns.ip(&format!("link set dev {interface} down"))?;
        if flap % 4 < 2 {
            wait_for_state(&router, Resolution::LinkDown)?;
        }
        netns.ip(&format!("link set dev {interface} up"))?;
    }
    let third = third.stop()?;
    let counted = router.dropped("unresolved")? + router.dropped("redirect-lost")?;
    bench.works("eth3")?;
    let others = others.stop()?;
    others.ensure_whole()?;
    ensure!((third.duplicated, third.misdirected) == (0, 0), "{third}");
    ensure!(!third.lost.is_empty(), "nothing was lost, so nothing went down");
    // One may be in the driver's queue each time.
    ensure!(
        third.lost.len() as u64 <= counted + u64::from(FLAPS),
        "{third}, but {counted} are counted"
    );
    report(
        "a port that flaps",
        &others,
        &format!("the third port: {third}, {counted} counted"),
    );
    router.unload()
}

fn renamed() -> Result<()> {
    let bench = Bench::new()?;
    let router = bench.load("")?;
    let (others, third) = (bench.others()?, bench.third("eth3")?);
    for name in ["core0", "eth3", "uplink", "eth3"] {
        let old = if name == "eth3" { "core0 uplink" } else { "eth3" };
        let old = old.split(' ').find(|old| bench.transit.router.mac(old).is_ok());
        bench
            .transit
            .router
            .ip(&format!("link set dev {} name {name}", old.context("no such port")?))?;
        wait_for_port(&router, name, None)?;
        let saved = router.run("route save")?;
        ensure!(saved.contains(&format!("via inet {THIRD} dev {name}")), "{saved}");
    }
    let (others, third) = (others.stop()?, third.stop()?);
    report("a port that is renamed", &others, &format!("the renamed port: {third}"));
    others.ensure_whole()?;
    third.ensure_whole()?;
    bench.works("eth3")?;
    router.unload()
}

fn vanishes() -> Result<()> {
    let bench = Bench::new()?;
    let router = bench.load("")?;
    bench.works("eth3")?;
    let others = bench.others()?;
    let mut lost = 0;
    for _ in 0..3 {
        bench.transit.router.ip("link del dev eth3")?;
        wait_for_port(&router, "eth3", Some("its interface is gone"))?;
        bench.lose(&router, 100)?;
        lost += 100;
        bench.cable_third()?;
        wait_for_port(&router, "eth3", None)?;
        bench.works("eth3")?;
    }
    let others = others.stop()?;
    report(
        "a port that vanishes and returns",
        &others,
        &format!("{lost} of {lost} counted as unresolved"),
    );
    others.ensure_whole()?;
    router.unload()
}

/// Whether an interface has an XDP program.
fn has_program(netns: &Netns, interface: &str) -> Result<bool> {
    Ok(netns
        .ip(&format!("-details link show dev {interface}"))?
        .contains("prog/xdp"))
}

fn set_up_third(bench: &Bench) -> Result<()> {
    bench.transit.router.ip("address add 10.0.3.1/24 dev eth3")?;
    bench.transit.router.ip("link set dev eth3 up")?;
    Ok(())
}

fn moves() -> Result<()> {
    let bench = Bench::new()?;
    let elsewhere = bench.lab.netns("elsewhere")?;
    let router = bench.load("")?;
    bench.works("eth3")?;
    let others = bench.others()?;
    for _ in 0..3 {
        bench
            .transit
            .router
            .ip(&format!("link set dev eth3 netns {}", elsewhere.name()))?;
        wait_for_port(&router, "eth3", Some("its interface is gone"))?;
        // It does not switch there.
        wait::until("an interface without a program", LIMIT, || {
            Ok((!has_program(&elsewhere, "eth3")?).then_some(()))
        })?;
        bench.lose(&router, 100)?;
        elsewhere.ip(&format!("link set dev eth3 netns {}", bench.transit.router.name()))?;
        set_up_third(&bench)?;
        wait_for_port(&router, "eth3", None)?;
        bench.works("eth3")?;
    }
    let others = others.stop()?;
    report(
        "a port that moves to another namespace and back",
        &others,
        "300 of 300 counted as unresolved",
    );
    others.ensure_whole()?;
    let said = router.unload_and_tell()?;
    ensure!(!said.contains("another process has"), "{said}");
    Ok(())
}

fn count_pins(bench: &Bench) -> usize {
    pins(bench.transit.router.name()).len()
}

fn moves_meanwhile() -> Result<()> {
    let bench = Bench::new()?;
    let elsewhere = bench.lab.netns("elsewhere")?;
    bench.configure("wait = true")?;
    let router = bench.transit.load()?;
    bench.works("eth3")?;
    let others = bench.others()?;
    router.stop(Signal::SIGKILL)?;
    bench
        .transit
        .router
        .ip(&format!("link set dev eth3 netns {}", elsewhere.name()))?;
    elsewhere.ip("link set dev eth3 up")?;
    // The kernel moves a program with its interface: it goes on by the old tables, until the next load.
    ensure!(has_program(&elsewhere, "eth3")?, "it has no program there");
    // Without its third neighbour.
    let command = bench.transit.load_command(Command::new(program()?));
    let router = Router::start(&bench.transit.router, bench.transit.router.name(), command)?;
    wait_said(&router, "took the program off an interface that is not a port any more")?;
    ensure!(!has_program(&elsewhere, "eth3")?, "the program is still there");
    ensure!(count_pins(&bench) == 2, "{} pins", count_pins(&bench));
    elsewhere.ip(&format!("link set dev eth3 netns {}", bench.transit.router.name()))?;
    set_up_third(&bench)?;
    wait_for_port(&router, "eth3", None)?;
    bench.works("eth3")?;
    ensure!(count_pins(&bench) == 3, "{} pins", count_pins(&bench));
    let others = others.stop()?;
    report("a port that moves while no controller runs", &others, "");
    others.ensure_whole()?;
    router.unload_by_command()
}

/// In a mount namespace of its own, whose bpffs is that of the machine until it is unmounted.
fn unpinned() -> Result<()> {
    let bench = Bench::new()?;
    bench.configure("")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(program()?);
    let router = bench.transit.load_by(bench.transit.load_command(command))?;
    let others = bench.others()?;
    let again = "it is pinned again";
    let wait_pinned = |times: usize| {
        wait::until("pins", LIMIT, || {
            Ok((router.said().matches(again).count() == times).then_some(()))
        })
        .with_context(|| router.said())
    };
    let pin = pins(router.instance()).pop().context("no pins")?;
    let folder = pin.parent().context("no folder")?;
    fs::remove_file(&pin)?;
    wait_pinned(1)?;
    ensure!(pin.exists() && count_pins(&bench) == 3, "{} pins", count_pins(&bench));
    // With their folder.
    fs::remove_dir_all(folder)?;
    wait_pinned(4)?;
    ensure!(count_pins(&bench) == 3, "{} pins", count_pins(&bench));
    bench.works("eth3")?;

    let pid = router.json::<Status>("status")?.pid.to_string();
    let inside = |words: &[&str]| -> Result<()> {
        let status = Command::new("nsenter")
            .args(["--mount", "--target", &pid])
            .args(words)
            .status()?;
        ensure!(status.success(), "{words:?}: {status}");
        Ok(())
    };
    inside(&["umount", "/sys/fs/bpf"])?;
    wait_said(
        &router,
        "ports do not go on forwarding when this process ends, because their pins are gone: no bpffs is mounted at \
         /sys/fs/bpf: `mount -t bpf bpf /sys/fs/bpf`",
    )?;
    bench.works("eth3")?;
    inside(&["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])?;
    wait_pinned(7)?;
    let said = router.said();
    ensure!(said.matches("their pins are gone").count() == 1, "said again: {said}");
    bench.works("eth3")?;
    let others = others.stop()?;
    report("pins and a bpffs that are removed", &others, "");
    others.ensure_whole()?;
    // Those in the bpffs of the machine are out of its reach.
    fs::remove_dir_all(folder)?;
    router.unload_by_command()
}

fn neighbour() -> Result<()> {
    let bench = Bench::new()?;
    for (name, value) in [
        ("base_reachable_time_ms", "500"),
        ("delay_first_probe_time", "1"),
        ("retrans_time_ms", "100"),
    ] {
        bench.transit.router.sysctl(&format!("ipv4/neigh/eth3/{name}"), value)?;
    }
    let router = bench.load("")?;
    bench.works("eth3")?;
    let others = bench.others()?;
    // It has another NIC, and says so.
    bench.third.ip("link set dev eth0 address 02:00:00:00:33:77")?;
    bench.third.run("ping -n -c 1 -W 2 10.0.3.1")?;
    bench.works("eth3")?;
    // It says nothing: the kernel asks again and again, because the entry is managed.
    bench.third.ip("link set dev eth0 address 02:00:00:00:33:02")?;
    bench.works("eth3")?;

    bench.third.ip("link set dev eth0 arp off")?;
    bench.third.ip("neigh flush all")?;
    wait_for_state(&router, Resolution::Failed)?;
    bench.lose(&router, 50)?;
    bench.third.ip("link set dev eth0 arp on")?;
    bench.works("eth3")?;

    // Between two MAC addresses, as two hosts with one address do.
    for number in 0..500 {
        let mac = format!("02:00:00:00:33:{:02x}", 2 + number % 2);
        bench
            .transit
            .router
            .ip(&format!("neigh replace {THIRD} lladdr {mac} dev eth3 nud reachable"))?;
    }
    bench.works("eth3")?;
    let others = others.stop()?;
    report(
        "a neighbour that changes, vanishes and flaps",
        &others,
        "50 of 50 counted as unresolved",
    );
    others.ensure_whole()?;
    router.unload()
}

/// ARP replies of the third neighbour with MAC addresses that it must not have (RFC 1812 section 3.3.2).
fn bad_answers() -> Result<()> {
    let bench = Bench::new()?;
    let router = bench.load("")?;
    bench.works("eth3")?;
    let others = bench.others()?;
    let (third, eth3) = (Tap::open(&bench.third, "eth0")?, bench.transit.router.mac("eth3")?);
    // Its own answers would come in between.
    bench.third.ip("link set dev eth0 arp off")?;
    let answer = |mac: Mac| {
        let from = [&mac.0[..], &[10, 0, 3, 2]].concat();
        let to = [&eth3.0[..], &[10, 0, 3, 1]].concat();
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &from, &to].concat();
        third.send(&ethernet(eth3, third.mac(), 0x0806, &arp))
    };
    let mut refused = 0;
    for bad in [
        Mac([0xff; 6]),
        Mac([0x01, 0, 0x5e, 0, 0, 1]),
        Mac([0; 6]),
        Mac([0x33, 0x33, 0, 0, 0, 1]),
    ] {
        // The kernel ignores a second answer within a second (locktime), and some of these.
        let taken = wait::until(&format!("the answer {bad}"), Duration::from_secs(3), || {
            answer(bad)?;
            let shown = bench.transit.router.ip(&format!("neigh show {THIRD} dev eth3"))?;
            Ok(shown.contains(&format!("lladdr {bad} ")).then_some(()))
        });
        third.drain()?;
        if taken.is_ok() {
            wait_for_state(&router, Resolution::BadMac)?;
            wait_said(&router, &format!("the kernel has {bad} for this neighbour"))?;
            bench.lose(&router, 50)?;
            refused += 1;
        }
        let frames = third.drain()?;
        let sent = frames.iter().filter(|frame| frame.get(..6) == Some(&bad.0[..]));
        ensure!(
            sent.filter(|frame| frame.get(12..14) == Some(&[0x88, 0x47])).count() == 0,
            "a frame to {bad}: {frames:02x?}"
        );
        wait::until("a good answer", LIMIT, || {
            answer(third.mac())?;
            let hops = router.json::<Vec<NextHopState>>("neigh show dev eth3")?;
            Ok(hops.iter().all(|hop| hop.state == Resolution::Resolved).then_some(()))
        })?;
    }
    ensure!(refused > 0, "the kernel has taken none of the answers");
    bench.third.ip("link set dev eth0 arp on")?;
    bench.works("eth3")?;
    let others = others.stop()?;
    report(
        "answers with MAC addresses of no single neighbour",
        &others,
        &format!("{0} of {0} counted as unresolved", 50 * refused),
    );
    others.ensure_whole()?;
    router.unload()
}

/// Next hops are exempt from `gc_thresh3`, which is 1024 unless somebody has changed it, for all namespaces.
fn many_neighbours() -> Result<()> {
    const NEXT_HOPS: u32 = 1300;
    let bench = Bench::new()?;
    let router = bench.load("")?;
    let others = bench.others()?;
    bench.transit.router.ip("address add 10.4.0.1/16 dev eth3")?;
    bench.third.ip("route add 10.4.0.1 dev eth0")?;
    bench.third.ip("route add local 10.4.128.0/17 dev lo")?;
    let mut routes = bench.routes()?;
    routes.extend((0..NEXT_HOPS).map(|number| {
        let label = 1000 + number;
        format!(
            "{label} as {label} via inet 10.4.{}.{} dev eth3",
            128 + number / 250,
            1 + number % 250
        )
    }));
    router.run_with("route restore", &(routes.join("\n") + "\n"))?;
    let mut seen = (0, 0);
    wait::until("all next hops", LIMIT, || {
        let hops: Vec<NextHopState> = router.json("neigh show")?;
        let resolved = hops.iter().filter(|hop| hop.state == Resolution::Resolved).count();
        seen = (hops.len(), resolved);
        Ok((resolved > NEXT_HOPS as usize).then_some(()))
    })
    .with_context(|| format!("{} next hops, {} resolved", seen.0, seen.1))?;
    // The kernel has room for others.
    bench.transit.router.run("ping -n -c 1 -W 2 10.0.1.2")?;
    bench.works("eth3")?;
    let others = others.stop()?;
    report("1,300 next hops", &others, "all resolved");
    others.ensure_whole()?;
    router.unload()
}

/// SIGSTOP: the ports forward. Events of the kernel overrun the subscription, and exceptions the rings of AF_XDP. Then the
/// controller finds out all that it has missed, and answers exceptions again.
fn stopped() -> Result<()> {
    const EVENTS: u32 = 120_000;
    const EXPIRED: u64 = 20_000;
    let bench = Bench::new()?;
    let router = bench.load("--punt-rate 0")?;
    bench.works("eth3")?;
    let pid: i32 = router.json::<Status>("status")?.pid.try_into()?;
    let pid = Pid::from_raw(pid);
    let others = bench.others()?;
    let packet = udp("10.0.1.2".parse()?, "10.9.0.1".parse()?, 9, b"expired")?;
    let expired = labelled(
        bench.transit.router.mac("eth1")?,
        bench.transit.left.mac("eth0")?,
        &[Entry::new(100, 1)],
        &packet,
    );
    let cannot_rename = Need::Rename.missing();
    kill(pid, Signal::SIGSTOP)?;
    let stopped = (|| -> Result<()> {
        let seconds = std::env::var(STOPPED_VARIABLE).map_or(Ok(1), |value| value.parse())?;
        let left = Tap::open(&bench.transit.left, "eth0")?;
        for number in 0..EXPIRED {
            left.send(&expired)?;
            // The queue of a veth has 256 places, and a slow machine empties it slowly.
            if number % 16 == 0 {
                thread::sleep(wait::limit(Duration::from_millis(1)));
            }
        }
        let lines: String = (0..EVENTS)
            .map(|number| {
                let mac = format!("02:00:00:00:44:{:02x}", number % 2);
                format!("neigh replace 10.0.2.99 lladdr {mac} dev eth2 nud permanent\n")
            })
            .collect();
        let batch = bench.transit.file("batch");
        fs::write(&batch, lines)?;
        bench.transit.router.ip(&format!("-batch {}", batch.display()))?;
        // After those that are lost.
        bench.third.ip("link set dev eth0 address 02:00:00:00:33:99")?;
        bench.transit.router.ip(&format!(
            "neigh replace {THIRD} lladdr 02:00:00:00:33:99 dev eth3 nud permanent"
        ))?;
        if cannot_rename.is_none() {
            bench.transit.router.ip("link set dev eth3 name core0")?;
        }
        thread::sleep(Duration::from_secs(seconds));
        Ok(())
    })();
    kill(pid, Signal::SIGCONT)?;
    stopped?;
    wait_said(&router, "netlink subscription lost")?;
    let port = cannot_rename.map_or("core0", |reason| {
        println!("the third port keeps its name: {reason}");
        "eth3"
    });
    wait_for_port(&router, port, None)?;
    bench.works(port)?;
    // Each exception is counted by the program, those that the rings had no room for as well.
    let counted = router.dropped("ttl-expired")?;
    ensure!(counted == EXPIRED, "{counted} of {EXPIRED} are counted");
    let answered =
        |router: &Router| -> Result<u64> { Ok(router.outcome("time-exceeded")? + router.outcome("answer-limited")?) };
    let heard = wait::until("the exceptions that the rings have kept", LIMIT, || {
        let before = answered(&router)?;
        thread::sleep(Duration::from_millis(300));
        Ok(Some(before).filter(|&before| before > 0 && answered(&router).is_ok_and(|now| now == before)))
    })?;
    let missed = router.outcome("missed")?;
    ensure!(
        missed > 0 && heard + missed == EXPIRED,
        "{heard} heard and {missed} missed of {EXPIRED}"
    );
    let before = router.outcome("time-exceeded")?;
    let left = Tap::open(&bench.transit.left, "eth0")?;
    wait::until("an answer", LIMIT, || {
        left.send(&expired)?;
        Ok((router.outcome("time-exceeded")? > before).then_some(()))
    })?;
    let others = others.stop()?;
    report(
        "a controller that stands still",
        &others,
        &format!("{EXPIRED} exceptions, {heard} heard afterwards, {missed} missed"),
    );
    others.ensure_whole()?;
    router.unload()
}

/// The time of day as a process sees it: the kernel's, and the seconds in a file. The machine's clock is not touched.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long *seconds;

__attribute__((constructor)) static void look_at_the_file(void)
{
    int file = open(getenv("CLOCK_SECONDS"), O_RDONLY | O_CLOEXEC);
    seconds = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME && seconds)
        time->tv_sec += *seconds;
    return result;
}
"#;

/// Ten years forth, and ten years back: only the times in the log and in `status` follow.
fn clock_jumps() -> Result<()> {
    const TEN_YEARS: i64 = 3653 * 86_400;
    let bench = Bench::new()?;
    let [source, library, seconds] = ["clock.c", "clock.so", "seconds"].map(|name| bench.transit.file(name));
    fs::write(&source, CLOCK)?;
    fs::write(&seconds, 0_i64.to_ne_bytes())?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
    ensure!(compiler.status()?.success(), "the library does not compile");

    bench.configure("")?;
    let mut command = bench.transit.load_command(Command::new(program()?));
    command.env("LD_PRELOAD", &library).env("CLOCK_SECONDS", &seconds);
    let router = bench.transit.load_by(command)?;
    bench.works("eth3")?;
    let others = bench.others()?;
    let left = Tap::open(&bench.transit.left, "eth0")?;
    let packet = udp("10.0.1.2".parse()?, "10.9.0.1".parse()?, 9, b"expired")?;
    let expired = labelled(
        bench.transit.router.mac("eth1")?,
        left.mac(),
        &[Entry::new(100, 1)],
        &packet,
    );
    for (number, jump) in [TEN_YEARS, -TEN_YEARS, 0].into_iter().enumerate() {
        let changes = || -> Vec<String> {
            let said = router.said();
            let lines = said.lines().filter(|line| line.contains("add 1 routes"));
            lines.map(str::to_owned).collect()
        };
        let count = changes().len();
        fs::write(&seconds, jump.to_ne_bytes())?;
        // A change is answered, saved, and logged with the time as it is now.
        router.run(&format!("route add {} as 900 via inet 10.0.2.2", 900 + number))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let year = 1970 + (i64::try_from(now)? + jump) / 31_556_952;
        // A thread writes the log.
        let line = wait::until("the change in the log", LIMIT, || Ok(changes().into_iter().nth(count)))?;
        let years = [year - 1, year, year + 1].map(|year| year.to_string());
        ensure!(years.iter().any(|year| line.starts_with(year)), "{year}: {line}");
        let status = router.run("status")?;
        ensure!(!status.contains("not saved"), "{status}");
        // Next hops are kept resolved, and exceptions answered.
        bench.transit.router.ip(&format!("neigh del {THIRD} dev eth3"))?;
        bench.works("eth3")?;
        let before = router.outcome("time-exceeded")?;
        wait::until("an answer", LIMIT, || {
            left.send(&expired)?;
            Ok((router.outcome("time-exceeded")? > before).then_some(()))
        })?;
    }
    let others = others.stop()?;
    report("a clock that jumps", &others, "");
    others.ensure_whole()?;
    router.unload_by_command()
}

/// Each request is refused with the remedy, and everything is as it was.
fn full_tables() -> Result<()> {
    let bench = Bench::new()?;
    let router = bench.load("--labels 1024 --stacks 2 --groups 2")?;
    let mac = bench.third.mac("eth0")?;
    router.add_routes(&[
        &format!("900 as 1/2 via link {mac} dev eth3"),
        &format!("901 nexthop as 3 via link {mac} dev eth3 nexthop as 4 via inet 10.0.2.2"),
    ])?;
    router.wait_resolved()?;
    let others = bench.others()?;
    let state = || -> Result<_> {
        let tables = router.json::<Status>("status")?.tables;
        let used: Vec<_> = tables.into_iter().map(|table| (table.name, table.used)).collect();
        Ok((used, router.run("route save")?))
    };
    let before = state()?;
    let ten = |route: &dyn Fn(u32) -> String| (0..10).map(route).collect::<Vec<_>>().join("\n");
    let stacks = ten(&|number| format!("{} as 1{number}/17/18 via link {mac} dev eth3", 910 + number));
    let groups = ten(&|number| {
        format!(
            "{0} nexthop as {0} via link {mac} dev eth3 nexthop as 5 via inet 10.0.2.2",
            920 + number
        )
    });
    let labels = ten(&|number| format!("{} as 5 via link {mac} dev eth3", 1019 + number));
    let next_hops: Vec<_> = (0..16_400_u32)
        .map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            format!("10.{high}.{low}.0/24 encap mpls 5 via link 02:00:00:01:{high:02x}:{low:02x} dev eth3")
        })
        .collect();
    for (what, routes, remedy) in [
        ("stacks", stacks, "--stacks"),
        ("groups", groups, "--groups"),
        ("labels", labels, "--labels"),
        ("next hops", next_hops.join("\n"), "16384"),
    ] {
        // A restore is one change.
        let all = format!("{}{routes}\n", before.1);
        let refused = router.run_with("route restore", &all);
        let refused = format!("{:#}", refused.err().with_context(|| format!("{what}: it was taken"))?);
        ensure!(refused.contains(remedy), "{what}: {refused}");
        // Slots are given back after a grace period.
        wait::until(&format!("the tables as they were before {what}"), LIMIT, || {
            Ok((state()? == before).then_some(()))
        })
        .with_context(|| format!("{:?}", state()))?;
    }

    // The ports: of 300 sub-interfaces, those that there is room for.
    let adds: String = (1..=300).map(|vlan| format!("link add eth3.{vlan}\n")).collect();
    let refused = router.run_with("-b -", &adds);
    let refused = format!("{:#}", refused.err().context("300 ports were taken")?);
    ensure!(refused.contains("256"), "{refused}");
    let links: Vec<Link> = router.json("link show")?;
    ensure!(links.len() == 256, "{} ports", links.len());
    router.run("link del eth3.7")?;
    // Its number is free after a grace period.
    wait::until("room for a port", LIMIT, || Ok(router.run("link add eth3.299").ok()))?;
    bench.works("eth3")?;
    let others = others.stop()?;
    report("full tables", &others, "");
    others.ensure_whole()?;
    router.unload()
}

/// AF_XDP sockets have locked memory. CAP_IPC_LOCK exempts them from the limit, and root has it; without, the refusal says
/// so.
fn locked_memory() -> Result<()> {
    let bench = Bench::new()?;
    let load = |before: &[&str]| {
        let name = bench.transit.router.name();
        let mut command = Command::new("prlimit");
        command.arg("--memlock=65536:65536").args(before).arg(program()?);
        command.args(["load", "-n", name, "--instance", name, "--iface", "eth1"]);
        Router::start(&bench.transit.router, name, command)
    };
    load(&[])?.unload()?;
    let refused = load(&["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]);
    let refused = format!("{:#}", refused.err().context("it was loaded")?);
    ensure!(
        refused.contains("CAP_IPC_LOCK or a larger memlock limit (`ulimit -l`)"),
        "{refused}"
    );
    ensure_nothing_left(&bench.transit.router, bench.transit.router.name())
}

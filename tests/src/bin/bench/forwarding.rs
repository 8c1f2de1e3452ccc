//! The forwarding rate of each operation in [`ROWS`], on one CPU:
//!
//! ```text
//! generator --redirect--> in0 ===veth=== in1 [switch] --redirect--> out0 ===veth=== out1 [sink: counts, drops]
//! ```
//!
//! The bare redirect and the least swap have veth pairs of their own in place of `in0` and `in1`. Generator, program
//! and sink take turns on one CPU, so a time is that of the whole line; what the switch adds is the difference to the
//! bare redirect in the same round. The programs take turns round by round, so that all meet the same noise. The switch
//! is the real program with its default configuration; routes come through the control socket.
//!
//! With `--kernel`, the kernel's own MPLS takes turns, too: the frames become packets in `kernel1`, and are counted
//! where they leave.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::Ebpf;
use aya::maps::{Array, PerCpuArray};
use aya::programs::XdpMode;
use aya::programs::xdp::XdpLinkId;
use clap::Args;
use mplsxdp_common::abi::MAX_LABELS;
use mplsxdp_common::wire::{Label, Mac};
use mplsxdp_tests::rig::OBJECT;
use mplsxdp_tests::router::program as switch_program;
use mplsxdp_tests::{End, Lab, Netns, Router, link, wait};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::generator::{self, Draws, Generator, Headers, Size};
use super::rows::{Counters, Keys, Measure, ROWS, Row, VLAN, VRF};
use super::{median, sorted};

/// What the frames leave by has room for labels.
const OUT_MTU: u32 = 1600;
/// A first batch warms the caches.
const WARM_UP: u32 = 64 * 1024;
/// Shares of the highest rate at which `--loss` offers frames.
const SHARES: [f64; 3] = [0.5, 0.8, 0.95];

#[derive(Args)]
pub struct Arguments {
    /// What to measure; all of it if nothing is named.
    #[arg(value_name = "OPERATION", value_parser = clap::builder::PossibleValuesParser::new(ROWS.iter().map(|row| row.name)))]
    operations: Vec<String>,
    /// Rounds, of every program in turn.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Frames of a round, in thousands.
    #[arg(long, default_value_t = 300)]
    kiloframes: u32,
    /// The CPU that does all of it.
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Length of a frame on the wire, checksum included, or `imix`.
    #[arg(long, default_value = "64")]
    size: Size,
    /// Another `mplsxdp`, to measure in the same rounds.
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// Compare with the kernel's own MPLS (modules mpls_router and mpls_iptunnel) instead of a least swap.
    #[arg(long, conflicts_with = "before")]
    kernel: bool,
    /// Offer frames at shares of the highest rate instead, and count those that are lost.
    #[arg(long, conflicts_with_all = ["before", "kernel"])]
    loss: bool,
}

/// What frames go through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contender {
    Bare,
    /// The least swap.
    Floor,
    Before,
    /// No program: the kernel's own MPLS.
    Kernel,
    Now,
}

impl Contender {
    /// Its veth pair: where frames are sent into, and where the program is.
    const fn ports(self) -> [&'static str; 2] {
        match self {
            Self::Bare => ["bare0", "bare1"],
            Self::Floor => ["least0", "least1"],
            Self::Before => ["before0", "before1"],
            Self::Kernel => ["kernel0", "kernel1"],
            Self::Now => ["in0", "in1"],
        }
    }

    /// The veth pair that it sends into, with the sink at the end. A port belongs to one instance.
    const fn way_out(self) -> [&'static str; 2] {
        match self {
            Self::Before => ["away0", "away1"],
            Self::Kernel => ["beyond0", "beyond1"],
            Self::Bare | Self::Floor | Self::Now => ["out0", "out1"],
        }
    }
}

/// Nanoseconds per frame, round by round.
struct Times {
    row: &'static Row,
    bare: Vec<f64>,
    floor: Option<Vec<f64>>,
    before: Option<Vec<f64>>,
    kernel: Option<Vec<f64>>,
    now: Vec<f64>,
}

impl Times {
    /// Median of the bare redirect, or of no program, in nanoseconds per frame.
    fn bare(&self) -> f64 {
        median(&sorted(self.bare.clone()))
    }

    /// Nanoseconds that a program adds to the bare redirect of the same round, in order.
    fn added(&self, times: &[f64]) -> Vec<f64> {
        sorted(times.iter().zip(&self.bare).map(|(own, bare)| own - bare).collect())
    }

    /// Rate as a share of that of the bare redirect of the same round, median.
    fn ratio(&self, times: &[f64]) -> f64 {
        median(&sorted(
            times.iter().zip(&self.bare).map(|(own, bare)| bare / own).collect(),
        ))
    }

    fn print_head(arguments: &Arguments) {
        if arguments.kernel {
            println!(
                "| operation | bare redirect | the kernel's MPLS | mplsxdp | factor | quartiles | the kernel adds, µs | mplsxdp adds, µs |"
            );
            println!("|---|--:|--:|--:|--:|--:|--:|--:|");
            return;
        }
        let before = arguments.before.is_some();
        let (head, rule) = if before {
            (" before: added ns |", "--:|")
        } else {
            ("", "")
        };
        println!("| operation | Mframes/s | to bare | added ns | quartiles | least swap: added ns |{head} bare ns |");
        println!("|---|--:|--:|--:|--:|--:|{rule}--:|");
    }

    fn print(&self) {
        match &self.kernel {
            Some(kernel) => self.print_beside(kernel),
            None => self.print_added(),
        }
    }

    /// Thousand frames per second, and the factor.
    fn print_beside(&self, kernel: &[f64]) {
        let rate = |times: &[f64]| 1e6 / median(&sorted(times.to_vec()));
        let factors = sorted(kernel.iter().zip(&self.now).map(|(kernel, now)| kernel / now).collect());
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} to {:.1} | {:.2} | {:.2} |",
            self.row.title,
            rate(&self.bare),
            rate(kernel),
            rate(&self.now),
            median(&factors),
            quartile(&factors, 1),
            quartile(&factors, 3),
            median(&self.added(kernel)) / 1e3,
            median(&self.added(&self.now)) / 1e3,
        );
    }

    fn print_added(&self) {
        let added = self.added(&self.now);
        let of = |times: &Option<Vec<f64>>| match times {
            Some(times) => format!("{:.1}", median(&self.added(times))),
            None => String::new(),
        };
        let before = match &self.before {
            Some(_) => format!(" {} |", of(&self.before)),
            None => String::new(),
        };
        println!(
            "| {} | {:.2} | {:.2} | {:.1} | {:.1} to {:.1} | {} |{before} {:.1} |",
            self.row.title,
            1000.0 / median(&sorted(self.now.clone())),
            self.ratio(&self.now),
            median(&added),
            quartile(&added, 1),
            quartile(&added, 3),
            of(&self.floor),
            self.bare(),
        );
    }
}

fn quartile(sorted: &[f64], quarters: usize) -> f64 {
    sorted[(sorted.len() - 1) * quarters / 4]
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("bench")?;
    netns.within(|| {
        let mut bench = Bench::new(&netns, arguments)?;
        let named =
            |row: &Row| arguments.operations.is_empty() || arguments.operations.iter().any(|name| name == row.name);
        let has_vrfs = vrfs_exist(&netns);
        let is_able = |row: &Row| row.route != VRF || has_vrfs;
        let chosen = |row: &&Row| named(row) && is_able(row) && (!arguments.kernel || row.kernel_route().is_some());
        if let Some(row) = ROWS.iter().find(|row| named(row) && !is_able(row)) {
            println!(
                "{} is not measured, because this kernel has no VRF devices (module vrf): `cargo xtask guest bench 6.12 {}`\n",
                row.name, row.name
            );
        }
        if arguments.loss {
            let shares = SHARES.map(|share| format!(" {:.0} % |", share * 100.0)).concat();
            println!("| operation | frames sent | highest rate |{shares}");
            println!("|---|--:|--:|{}", "--:|".repeat(SHARES.len()));
            return ROWS.iter().filter(chosen).try_for_each(|row| bench.measure_loss(row));
        }
        Times::print_head(arguments);
        for row in ROWS.iter().filter(chosen) {
            bench.measure(row)?.print();
        }
        Ok(())
    })?;
    let columns = if arguments.loss {
        "Million frames per second: frames lost in all rounds."
    } else if arguments.kernel {
        "Thousand frames per second; what each adds to a bare redirect."
    } else {
        "`to bare`: rate as a share of a bare redirect's. `added`: to the bare redirect's time for a frame."
    };
    println!(
        "\nMedians of {} rounds of {} thousand frames each; one CPU for generator, program and sink. {columns}",
        arguments.rounds, arguments.kiloframes
    );
    Ok(())
}

struct Bench<'a> {
    netns: &'a Netns,
    arguments: &'a Arguments,
    bare: Ebpf,
    /// How the bare redirect is attached; without it, the kernel gets its frames.
    bare_link: Option<XdpLinkId>,
    /// Attached.
    _floor: Ebpf,
    sink: Ebpf,
    now: Option<Switch>,
    before: Option<Switch>,
}

struct Switch {
    router: Router,
    counters: Counters,
    is_crossed: bool,
}

impl<'a> Bench<'a> {
    fn new(netns: &'a Netns, arguments: &'a Arguments) -> Result<Self> {
        let mut contenders = vec![Contender::Bare, Contender::Floor, Contender::Now];
        contenders.extend(arguments.before.is_some().then_some(Contender::Before));
        contenders.extend(arguments.kernel.then_some(Contender::Kernel));
        for [outer, inner] in contenders.iter().map(|contender| contender.ports()) {
            link(End::new(netns, outer), End::new(netns, inner))?;
        }
        let mut sink = Ebpf::load(OBJECT)?;
        let xdp = generator::program(&mut sink, "sink")?;
        xdp.load()?;
        for contender in [Contender::Now, Contender::Before, Contender::Kernel] {
            if !contenders.contains(&contender) {
                continue;
            }
            let [near, far] = contender.way_out();
            link(End::new(netns, near).mtu(OUT_MTU), End::new(netns, far).mtu(OUT_MTU))?;
            xdp.attach(far, XdpMode::Driver)?;
            // For frames that are sent back.
            xdp.attach(contender.ports()[0], XdpMode::Driver)?;
        }
        if arguments.kernel {
            forward_by_kernel(netns)?;
        }
        let mut bare = Ebpf::load(OBJECT)?;
        generator::send_to(&mut bare, index("out0")?)?;
        generator::program(&mut bare, "redirect")?.load()?;
        Ok(Self {
            netns,
            arguments,
            bare,
            bare_link: None,
            _floor: least_swap(netns)?,
            sink,
            now: None,
            before: None,
        })
    }

    fn measure(&mut self, row: &'static Row) -> Result<Times> {
        let (keys, draws) = row.traffic.keys.generate();
        let mut contenders = vec![Contender::Bare];
        // It leaves everything but labels to the kernel.
        let is_least = row.measure == Measure::Kernel || row.traffic.keys.are_labels() && row.traffic.tag.is_none();
        if is_least && !self.arguments.kernel {
            contenders.push(Contender::Floor);
        }
        if self.arguments.before.is_some() {
            contenders.push(Contender::Before);
        }
        if self.arguments.kernel {
            contenders.push(Contender::Kernel);
        }
        contenders.push(Contender::Now);
        if row.route == VRF {
            contenders
                .iter()
                .try_for_each(|&contender| enter_vrf(self.netns, contender))?;
        }
        // The kernel's routes name their VRF.
        if self.arguments.kernel {
            self.route_by_kernel(row, &keys)?;
        }
        self.attach_bare(row.measure == Measure::Forwarding)?;

        let mut frames = Vec::new();
        for &contender in &contenders {
            if let Contender::Before | Contender::Now = contender {
                self.route_by_switch(row, &keys, contender)?;
            }
            frames.push(self.generator(row, &draws, contender)?);
        }

        let mut times: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
        for round in 0..=self.arguments.rounds {
            for ((&contender, generator), times) in contenders.iter().zip(&mut frames).zip(&mut times) {
                let time = self.round(row, contender, generator)?;
                // In the first one, memory is allotted.
                if round > 0 {
                    times.push(time);
                }
            }
        }
        if row.route == VRF {
            contenders
                .iter()
                .try_for_each(|&contender| leave_vrf(self.netns, contender))?;
        }
        let mut of = |contender| {
            let index = contenders.iter().position(|&other| other == contender)?;
            Some(std::mem::take(&mut times[index]))
        };
        Ok(Times {
            row,
            bare: of(Contender::Bare).unwrap_or_default(),
            floor: of(Contender::Floor),
            before: of(Contender::Before),
            kernel: of(Contender::Kernel),
            now: of(Contender::Now).unwrap_or_default(),
        })
    }

    /// Gives a switch the routes of a row.
    fn route_by_switch(&mut self, row: &Row, keys: &[String], contender: Contender) -> Result<()> {
        let crosses = row.crosses();
        let route = self.route(row, contender)?;
        let routes = if crosses { String::new() } else { lines(keys, &route) };
        let switch = self.switch(contender, row.counters)?;
        let from = contender.ports()[1];
        if switch.is_crossed {
            switch.router.run(&format!("xconnect del {from}"))?;
            switch.router.run(&format!("link add {from}.{VLAN} checksum trust"))?;
        }
        switch.router.run_with("route restore --allow-empty", &routes)?;
        // A port with sub-interfaces cannot be cross-connected.
        if crosses {
            switch.router.run(&format!("link del {from}.{VLAN}"))?;
            switch.router.run(&route)?;
        }
        switch.is_crossed = crosses;
        if row.route == VRF {
            wait::until("the VRF", Duration::from_secs(10), || {
                let shown = switch.router.run(&format!("route get {}", keys[0]))?;
                Ok((!shown.contains('#')).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The frames of a row.
    fn generator(&self, row: &Row, draws: &Draws, contender: Contender) -> Result<Generator> {
        let [outer, inner] = contender.ports();
        let stack: Vec<u32> = match row.traffic.keys {
            Keys::Labels(..) | Keys::Zipf => [&[0], row.traffic.beneath].concat(),
            _ => Vec::new(),
        };
        let headers = Headers {
            destination: self.netns.mac(inner)?,
            source: self.netns.mac(outer)?,
            tag: row.traffic.tag,
            labels: &stack,
            label_ttl: 64,
            family: row.traffic.keys.family(),
        };
        let mut generator = Generator::load(headers, draws, self.arguments.size)?;
        generator.send_to(index(outer)?)?;
        Ok(generator)
    }

    /// Offers the frames of a row as fast as the line takes them, and then at shares of that rate.
    fn measure_loss(&mut self, row: &Row) -> Result<()> {
        let (keys, draws) = row.traffic.keys.generate();
        self.route_by_switch(row, &keys, Contender::Now)?;
        let mut generator = self.generator(row, &draws, Contender::Now)?;
        let (shortest, lost) = self.offer(row, &mut generator, None)?;
        let sent = self.arguments.rounds as u64 * u64::from(self.arguments.kiloframes) * 1000;
        print!("| {} | {sent} | {:.2}: {lost} |", row.title, 1e3 / shortest);
        for share in SHARES {
            let (time, lost) = self.offer(row, &mut generator, Some(shortest / share))?;
            print!(" {:.2}: {lost} |", 1e3 / time);
        }
        println!();
        Ok(())
    }

    /// Sends frames, each so many nanoseconds after the one before. Returns how many nanoseconds there were, and how many
    /// frames did not arrive.
    fn offer(&self, row: &Row, generator: &mut Generator, pace: Option<f64>) -> Result<(f64, u64)> {
        let sent = self.arguments.kiloframes * 1000;
        let (mut times, mut lost) = (Vec::new(), 0);
        // In the first round, memory is allotted.
        for round in 0..=self.arguments.rounds {
            generator.pace(pace)?;
            let before = self.arrived(row, Contender::Now)?;
            let time = on_cpu(self.arguments.cpu, || generator.run(sent))?;
            // As in `round`.
            thread::sleep(Duration::from_millis(5));
            let arrived = self.arrived(row, Contender::Now)? - before;
            if round > 0 {
                times.push(time.as_secs_f64() * 1e9);
                lost += u64::from(sent).saturating_sub(arrived);
            }
        }
        Ok((median(&sorted(times)), lost))
    }

    /// Nanoseconds per frame.
    fn round(&self, row: &Row, contender: Contender, generator: &mut Generator) -> Result<f64> {
        let sent = self.arguments.kiloframes * 1000;
        let (before, time) = on_cpu(self.arguments.cpu, || {
            generator.run(WARM_UP)?;
            let before = self.arrived(row, contender)?;
            Ok((before, generator.run(sent)?))
        })?;
        // What is still in a ring is a batch at most; on a busy machine some frames find a ring full.
        thread::sleep(Duration::from_millis(5));
        let arrived = self.arrived(row, contender)? - before;
        ensure!(
            arrived > u64::from(sent) * 9 / 10,
            "{}, {contender:?}: only {arrived} of {sent} frames arrived",
            row.name
        );
        Ok(time.as_secs_f64() * 1e9 * f64::from(sent) / arrived as f64)
    }

    /// Frames that have come to the end of the line.
    fn arrived(&self, row: &Row, contender: Contender) -> Result<u64> {
        match row.measure {
            Measure::Forwarding => {
                let counts: PerCpuArray<_, u64> = self.sink.map("SUNK").context("no map SUNK")?.try_into()?;
                Ok(counts.get(&0, 0)?.iter().sum())
            }
            Measure::Kernel => {
                let [_, inner] = contender.ports();
                let shown = self.netns.ip(&format!("-json -statistics link show dev {inner}"))?;
                let links: serde_json::Value = serde_json::from_str(&shown)?;
                links[0]["stats64"]["rx"]["packets"]
                    .as_u64()
                    .with_context(|| format!("no count of packets in {shown}"))
            }
        }
    }

    fn attach_bare(&mut self, attach: bool) -> Result<()> {
        let xdp = generator::program(&mut self.bare, "redirect")?;
        match (attach, self.bare_link.take()) {
            (true, None) => self.bare_link = Some(xdp.attach(Contender::Bare.ports()[1], XdpMode::Driver)?),
            (true, link) => self.bare_link = link,
            (false, Some(link)) => xdp.detach(link)?,
            (false, None) => {}
        }
        Ok(())
    }

    /// A switch with so many counters.
    fn switch(&mut self, contender: Contender, counters: Counters) -> Result<&mut Switch> {
        let (slot, instance, program) = match (contender, &self.arguments.before) {
            (Contender::Before, Some(program)) => (
                &mut self.before,
                format!("{}-before", self.netns.name()),
                program.clone(),
            ),
            _ => (&mut self.now, self.netns.name().to_owned(), switch_program()?),
        };
        if slot.as_ref().is_some_and(|switch| switch.counters != counters)
            && let Some(switch) = slot.take()
        {
            drop(switch);
        }
        if slot.is_none() {
            let [_, inner] = contender.ports();
            let [out, _] = contender.way_out();
            let mut command = Command::new(program);
            command
                .args(["load", "-n", self.netns.name(), "--instance", &instance])
                .args(["--iface", inner, "--iface", &format!("{inner}.{VLAN}")])
                .args(["--tx-only", out, "--tx-only", &format!("{out}.{VLAN}")])
                // As a NIC: a veth would have checksums finished.
                .args(["--checksum", "trust"]);
            if counters == Counters::All {
                command.args(["--counter-slots", &MAX_LABELS.to_string()]);
            }
            *slot = Some(Switch {
                is_crossed: false,
                router: Router::start(self.netns, &instance, command)?,
                counters,
            });
        }
        slot.as_mut().context("no switch")
    }

    /// What follows the key in each route of a row, or the command that is there in place of routes.
    fn route(&self, row: &Row, contender: Contender) -> Result<String> {
        let [outer, inner] = contender.ports();
        let [out, far] = contender.way_out();
        let next = self.netns.mac(far)?;
        let route = row
            .route
            .replace("{next}", &format!("via link {next} dev {out}"))
            .replace("{vrf}", &vrf(contender))
            .replace("{tagged}", &format!("via link {next} dev {out}.{VLAN}"))
            .replace("{back}", &format!("via link {} dev {inner}", self.netns.mac(outer)?))
            .replace("{from}", inner)
            .replace("{to}", out);
        Ok(route)
    }

    /// Gives the kernel the routes of a row.
    fn route_by_kernel(&self, row: &Row, keys: &[String]) -> Result<()> {
        let [out, _] = Contender::Kernel.way_out();
        let route = row.kernel_route().context("the kernel has no such route")?;
        let route = route
            .replace("{next}", &format!("via inet {NEIGHBOUR} dev {out}"))
            .replace("{vrf}", &vrf(Contender::Kernel));
        let keys: Vec<String> = keys.iter().map(|key| format!("route replace {key}")).collect();
        let family = if row.traffic.keys.are_labels() { "mpls" } else { "inet" };
        let mut command = self.netns.command("ip");
        let command = command.args(["-family", family, "-batch", "-"]).stdin(Stdio::piped());
        let mut child = command.spawn().context("cannot run ip")?;
        let mut pipe = child.stdin.take().context("no pipe to ip")?;
        pipe.write_all(lines(&keys, &route).as_bytes())?;
        drop(pipe);
        ensure!(child.wait()?.success(), "ip refused a route of {}", row.name);
        Ok(())
    }
}

/// A line for each key, with `route` behind it.
fn lines(keys: &[String], route: &str) -> String {
    let mut lines = String::new();
    for (index, key) in keys.iter().enumerate() {
        let out = out_label(index as u32).to_string();
        lines += key;
        lines.push(' ');
        lines += &route.replace("{out}", &out);
        lines.push('\n');
    }
    lines
}

/// The kernel's next hop.
const NEIGHBOUR: &str = "198.18.0.2";

/// Has the kernel forward what arrives at its port: labels and IP.
fn forward_by_kernel(netns: &Netns) -> Result<()> {
    let [_, inner] = Contender::Kernel.ports();
    let [out, _] = Contender::Kernel.way_out();
    netns.sysctl("mpls/platform_labels", &(MAX_LABELS - 1).to_string())?;
    netns.sysctl(&format!("mpls/conf/{inner}/input"), "1")?;
    netns.sysctl("ipv4/ip_forward", "1")?;
    netns.ip(&format!("address add 198.18.0.1/30 dev {out}"))?;
    know_neighbour(netns, Contender::Kernel)
}

/// The neighbour is [`NEIGHBOUR`] everywhere: each VRF has its own.
fn know_neighbour(netns: &Netns, contender: Contender) -> Result<()> {
    let [out, far] = contender.way_out();
    netns.ip(&format!(
        "neighbour replace {NEIGHBOUR} lladdr {} dev {out} nud permanent",
        netns.mac(far)?
    ))?;
    Ok(())
}

/// The VRF of a contender.
fn vrf(contender: Contender) -> String {
    format!("vrf-{}", contender.way_out()[0])
}

fn vrfs_exist(netns: &Netns) -> bool {
    netns.add_vrf("probe", 99).is_ok() && netns.ip("link del probe").is_ok()
}

/// What a contender sends by is in a VRF, which routes everything to the neighbour. The bare redirect and the least swap
/// know no VRF.
fn enter_vrf(netns: &Netns, contender: Contender) -> Result<()> {
    if let Contender::Bare | Contender::Floor = contender {
        return Ok(());
    }
    let (vrf, [out, _]) = (vrf(contender), contender.way_out());
    // A device made after this has it, too.
    netns.sysctl("ipv4/ip_forward", "1")?;
    netns.add_vrf(&vrf, 10 + index(out)?)?;
    netns.ip(&format!("address replace 198.18.0.1/30 dev {out}"))?;
    netns.ip(&format!("link set {out} master {vrf}"))?;
    know_neighbour(netns, contender)?;
    netns.ip(&format!("route add default via {NEIGHBOUR} vrf {vrf}"))?;
    Ok(())
}

fn leave_vrf(netns: &Netns, contender: Contender) -> Result<()> {
    if let Contender::Bare | Contender::Floor = contender {
        return Ok(());
    }
    let [out, _] = contender.way_out();
    netns.ip(&format!("link del {}", vrf(contender)))?;
    if contender == Contender::Kernel {
        return know_neighbour(netns, contender);
    }
    netns.ip(&format!("address del 198.18.0.1/30 dev {out}")).map(drop)
}

/// A label of its own for each route.
fn out_label(index: u32) -> u32 {
    MAX_LABELS - 1 - index
}

/// The least swap, attached, with an outgoing label for each label.
fn least_swap(netns: &Netns) -> Result<Ebpf> {
    let [destination, source] = [netns.mac("out1")?, netns.mac("out0")?];
    let Mac([a, b, c, d, e, f]) = destination;
    let Mac([g, h, i, j, k, l]) = source;
    let macs = [a, b, c, d, e, f, g, h, i, j, k, l, 0, 0, 0, 0];
    let mut object = aya::EbpfLoader::new()
        .map_max_entries("SWAPS", MAX_LABELS)
        .override_global("MACS", &macs[..], true)
        .load(OBJECT)?;
    let mut swaps: Array<_, u64> = object.map_mut("SWAPS").context("no map SWAPS")?.try_into()?;
    for label in Label::FIRST_ORDINARY.get()..MAX_LABELS {
        swaps.set(label, u64::from(out_label(label - Label::FIRST_ORDINARY.get())), 0)?;
    }
    generator::send_to(&mut object, index("out0")?)?;
    let xdp = generator::program(&mut object, "swap")?;
    xdp.load()?;
    xdp.attach(Contender::Floor.ports()[1], XdpMode::Driver)?;
    Ok(object)
}

/// In this thread's network namespace.
pub fn index(interface: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(interface).with_context(|| format!("no interface {interface}"))
}

/// Runs code on a thread that stays on one CPU, and comes first there.
pub fn on_cpu<T: Send>(cpu: usize, code: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pinned = || {
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("cannot run on CPU {cpu}"))?;
        preempt_others()?;
        code()
    };
    thread::scope(|scope| scope.spawn(pinned).join()).unwrap_or_else(|_| Err(anyhow!("a panic on CPU {cpu}")))
}

/// Gives this thread a real-time priority: `nice` counts within a session only.
fn preempt_others() -> Result<()> {
    prefer(0)
}

/// The same for another thread; 0 is the calling one.
pub fn prefer(thread: i32) -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the parameters.
    let result = unsafe { libc::sched_setscheduler(thread, libc::SCHED_FIFO, &raw const parameters) };
    ensure!(result == 0, "sched_setscheduler: {}", io::Error::last_os_error());
    Ok(())
}

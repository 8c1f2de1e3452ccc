//! What another CPU gains: the least swap on the CPU where frames arrive, and on CPU 0, to which the first hands each
//! frame by a map of CPUs.
//!
//! ```text
//! generator --redirect--> in0 ===veth=== in1 [swap, or hand over] --redirect--> out0 ===veth=== out1 [sink]
//! ```

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, CpuMap, PerCpuArray};
use aya::programs::XdpMode;
use aya::{Ebpf, EbpfLoader};
use clap::Args;
use mplsxdp_common::abi::MAX_LABELS;
use mplsxdp_common::wire::{Label, Mac};
use mplsxdp_tests::rig::OBJECT;
use mplsxdp_tests::{End, Lab, Netns, link};

use super::forwarding::{index, on_cpu, prefer};
use super::generator::{self, Draws, Family, Generator, Headers, Size};
use super::{median, sorted};

/// The CPU where frames arrive.
const ARRIVAL: usize = 1;
/// Frames that wait for the other CPU, at most.
const QUEUE: u32 = 2048;
const LABELS: u32 = 4096;

#[derive(Args)]
pub struct Arguments {
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Frames of a round, in thousands.
    #[arg(long, default_value_t = 300)]
    kiloframes: u32,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("bench")?;
    netns.within(|| measure(&netns, arguments))
}

fn measure(netns: &Netns, arguments: &Arguments) -> Result<()> {
    let pairs = [["in0", "in1"], ["to0", "to1"], ["out0", "out1"]];
    for [one, other] in pairs {
        link(End::new(netns, one), End::new(netns, other))?;
    }
    let mut sink = Ebpf::load(OBJECT)?;
    let program = generator::program(&mut sink, "sink")?;
    program.load()?;
    program.attach("out1", XdpMode::Driver)?;

    let Mac([a, b, c, d, e, f]) = netns.mac("out1")?;
    let macs = [a, b, c, d, e, f, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let mut object = EbpfLoader::new()
        .map_max_entries("SWAPS", MAX_LABELS)
        .override_global("MACS", &macs[..], true)
        .load(OBJECT)?;
    let mut swaps: Array<_, u64> = object.map_mut("SWAPS").context("no map SWAPS")?.try_into()?;
    for label in 0..LABELS + Label::FIRST_ORDINARY.get() {
        swaps.set(label, u64::from(label + 1), 0)?;
    }
    generator::send_to(&mut object, index("out0")?)?;
    for (name, interface) in [("swap", "in1"), ("spread", "to1")] {
        let program = generator::program(&mut object, name)?;
        program.load()?;
        program.attach(interface, XdpMode::Driver)?;
    }
    let there = generator::program(&mut object, "swap_there")?;
    there.load()?;
    let there = there.fd()?.try_clone()?;
    let mut cpus: CpuMap<_> = object.map_mut("CPUS").context("no map CPUS")?.try_into()?;
    let before = threads_of_maps()?;
    cpus.set(0, QUEUE, Some(&there), 0)?;
    // It comes first there, as the generator does here.
    threads_of_maps()?
        .difference(&before)
        .try_for_each(|&thread| prefer(thread))?;

    let labels: Vec<u32> = (0..LABELS).map(|index| Label::FIRST_ORDINARY.get() + index).collect();
    let draws = Draws::Labels(labels);
    let mut contenders = Vec::new();
    for (name, [outer, inner]) in [("on the CPU of arrival", pairs[0]), ("on another CPU", pairs[1])] {
        let headers = Headers {
            destination: netns.mac(inner)?,
            source: netns.mac(outer)?,
            tag: None,
            labels: &[0],
            label_ttl: 64,
            family: Family::V4,
        };
        let mut generator = Generator::load(headers, &draws, Size::Bytes(60))?;
        generator.send_to(index(outer)?)?;
        contenders.push((name, generator, Vec::new(), Vec::new()));
    }
    let sunk = |sink: &Ebpf| -> Result<u64> {
        let counts: PerCpuArray<_, u64> = sink.map("SUNK").context("no map SUNK")?.try_into()?;
        Ok(counts.get(&0, 0)?.iter().sum())
    };
    for _ in 0..arguments.rounds {
        for (_, generator, rates, losses) in &mut contenders {
            let sent = arguments.kiloframes * 1000;
            let before = sunk(&sink)?;
            let time = on_cpu(ARRIVAL, || generator.run(sent))?;
            thread::sleep(Duration::from_millis(20));
            let arrived = sunk(&sink)? - before;
            ensure!(arrived > 0, "no frame arrived");
            rates.push(arrived as f64 / (time.as_nanos() as f64 * f64::from(sent)) * 1e3);
            losses.push(100.0 * (1.0 - arrived as f64 / f64::from(sent)));
        }
    }
    println!("| least swap | Mframes/s | offered | lost, % |\n|---|--:|--:|--:|");
    for (name, _, rates, losses) in contenders {
        let (rate, lost) = (median(&sorted(rates)), median(&sorted(losses)));
        println!(
            "| {name} | {rate:.2} | {:.2} | {lost:.1} |",
            rate / (1.0 - lost / 100.0)
        );
    }
    Ok(())
}

/// The kernel's threads that run programs on CPU 0 for maps of CPUs.
fn threads_of_maps() -> Result<HashSet<i32>> {
    let numbers = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_one = |number: &i32| {
        fs::read_to_string(format!("/proc/{number}/comm")).is_ok_and(|name| name.starts_with("cpumap/0/"))
    };
    Ok(numbers.filter(is_one).collect())
}

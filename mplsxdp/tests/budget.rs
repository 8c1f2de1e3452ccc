//! The data plane's cost for the kernel: verifier work for each variant of the program, and memory of the maps. Needs
//! root.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use aya::util::nr_cpus;
use ipnet::IpNet;
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::loader::{Loader, SHARED_MAPS, Sizes};
use mplsxdp::dataplane::release::Release;
use mplsxdp::dataplane::{FtnKey, TableMemory, Tables};
use mplsxdp_common::abi::{
    Checksum, DEFAULT_BACKUPS, DEFAULT_COUNTER_SLOTS, DEFAULT_GROUPS, DEFAULT_STACKS, Domain, MAX_LABELS, Police,
    RouteEntry, Settings, TtlMode, UnknownPolicy, map,
};

/// Instructions that the verifier processed, and bytes of machine code, by kernel release and program variant. `cargo xtask
/// guest test --only verifier --write` writes the file.
const COUNTS: &str = include_str!("verifier.json");
/// How much more they may be. Small changes of the compiler's output move the counts; a larger difference
/// is a change of the program that must be looked at. The kernel itself gives up at a million.
const MARGIN_PERCENT: u32 = 10;

/// The memory figures are for a machine of two CPUs.
const CPUS: u64 = 2;
const MIB: u64 = 1 << 20;

const DEFAULT: Sizes = Sizes {
    labels: MAX_LABELS,
    stacks: DEFAULT_STACKS,
    groups: DEFAULT_GROUPS,
    backups: DEFAULT_BACKUPS,
    counter_slots: DEFAULT_COUNTER_SLOTS,
};

fn loader(sizes: Sizes) -> Loader {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test loads the XDP program into the kernel: run it as root, as `cargo xtask test` does"
    );
    Loader::new(sizes).unwrap()
}

/// One test for each TTL mode, because they run at the same time, and a kernel without KVM is slow.
#[test]
fn the_verifier_follows_no_more_instructions_than_the_budget_in_uniform_mode() {
    within_budget(TtlMode::Uniform);
}

#[test]
fn the_verifier_follows_no_more_instructions_than_the_budget_in_pipe_mode() {
    within_budget(TtlMode::Pipe);
}

#[test]
fn the_verifier_follows_no_more_instructions_than_the_budget_in_linux_mode() {
    within_budget(TtlMode::Linux);
}

fn within_budget(mode: TtlMode) {
    let loader = loader(DEFAULT);
    let unlimited = measure(&loader, mode, "not policed");
    let policed = measure(&loader.with_police(Police::new(1000, 100)), mode, "policed");
    let running = Release::running().expect("a kernel's name begins with its version");
    for (variant, count) in unlimited.into_iter().chain(policed) {
        let is_arm64 = cfg!(target_arch = "aarch64");
        let Some((release, committed)) = committed(COUNTS, running, is_arm64, &variant) else {
            println!("{variant}: {count}, compared with nothing: no kernel for this kind of processor was measured");
            continue;
        };
        let most = committed + committed * MARGIN_PERCENT / 100;
        assert!(
            count <= most,
            "{variant}: {count} on {running}; at most {most}, {MARGIN_PERCENT} % above the {committed} of {release}"
        );
    }
}

/// The programs that capture are verified too, whatever the settings. Nobody waits long for one.
#[test]
fn the_verifier_accepts_the_programs_that_capture() {
    let loader = loader(DEFAULT).with_police(Police::new(1000, 100));
    let _maps = loader.begin_capture().unwrap();
    for mode in [TtlMode::Uniform, TtlMode::Pipe, TtlMode::Linux] {
        for (unknown, checksum) in [
            (UnknownPolicy::Punt, Checksum::Finish),
            (UnknownPolicy::Drop, Checksum::Trust),
            (UnknownPolicy::Pass, Checksum::Punt),
        ] {
            for frags in [false, true] {
                let settings = Settings::new(7, mode, 255, true, true)
                    .with_unknown(unknown)
                    .with_checksum(checksum)
                    .with_frags(frags)
                    .with_native_frags(frags);
                let program = loader.capturing_program(settings).unwrap();
                assert!(program.captures());
            }
        }
    }
    loader.end_capture();
    assert!(loader.pins().open(map::CAPTURE).is_err());
}

/// What a variant whose name ends so is counted in: it depends on the processor, which the verifier's work does not.
const MACHINE_CODE: &str = ", machine code";

/// The count of a variant on the most similar kernel: the newest one that is not newer, or the oldest of all for an
/// older kernel.
fn committed(counts: &str, running: Release, is_arm64: bool, variant: &str) -> Option<(String, u32)> {
    let counts: BTreeMap<String, BTreeMap<String, u32>> = serde_json::from_str(counts).unwrap();
    let is_like = |release: &str| !variant.ends_with(MACHINE_CODE) || release.ends_with("arm64") == is_arm64;
    let mut releases: Vec<_> = counts
        .into_iter()
        .filter(|(release, _)| is_like(release))
        .filter_map(|(release, counts)| Some((Release::parse(&release).unwrap(), release, *counts.get(variant)?)))
        .collect();
    if releases.is_empty() {
        return None;
    }
    releases.sort();
    let newer = releases.partition_point(|(measured, ..)| *measured <= running);
    let (_, release, count) = releases.swap_remove(newer.saturating_sub(1));
    Some((release, count))
}

#[test]
fn counts_are_compared_with_those_of_the_nearest_older_kernel() {
    let counts = r#"{"6.1.0-50-cloud-amd64": {"Pipe": 1, "Pipe, machine code": 5}, "6.12.9+deb13": {"Pipe": 2},
        "6.2.0": {"Pipe": 3}}"#;
    let found = |running: &str, is_arm64, variant| {
        let found = committed(counts, Release::parse(running).unwrap(), is_arm64, variant);
        found.map(|(_, count)| count)
    };
    for (running, count) in [
        ("5.18", 1),
        ("6.1.200", 1),
        ("6.2.1", 3),
        ("6.11", 3),
        ("6.12", 2),
        ("7.3", 2),
    ] {
        assert_eq!(found(running, false, "Pipe"), Some(count), "{running}");
    }
    assert_eq!(found("6.1", true, "Pipe"), Some(1));
    assert_eq!(found("6.1", false, "Pipe, machine code"), Some(5));
    assert_eq!(found("6.1", true, "Pipe, machine code"), None);
}

/// The maximum over the settings in this mode of what the verifier processes, and of the machine code, by variant. They are
/// also printed, for `cargo xtask guest test`. The bytes of machine code are those of this kind of processor.
fn measure(loader: &Loader, mode: TtlMode, what: &str) -> [(String, u32); 2] {
    /// Each value of either, not each pair: the code for the one has nothing to do with that for the other.
    const POLICIES: [(UnknownPolicy, Checksum); 5] = [
        (UnknownPolicy::Punt, Checksum::Trust),
        (UnknownPolicy::Punt, Checksum::Finish),
        (UnknownPolicy::Punt, Checksum::Punt),
        (UnknownPolicy::Drop, Checksum::Trust),
        (UnknownPolicy::Pass, Checksum::Trust),
    ];
    let (mut most, mut longest) = (0, 0);
    for (tc_propagate, log) in [(false, false), (true, false), (false, true), (true, true)] {
        for (unknown, checksum) in POLICIES {
            let settings = Settings::new(0, mode, 255, tc_propagate, log)
                .with_unknown(unknown)
                .with_frags(tc_propagate)
                .with_checksum(checksum);
            let program = loader.program(settings).unwrap();
            let info = program.xdp().info().unwrap();
            let count = info
                .verified_instruction_count()
                .expect("a kernel of 5.16 or later tells");
            let bytes = info.size_jitted();
            println!(
                "{mode:?}, {what}, TC propagation {tc_propagate}, log {log}, {unknown:?}, {checksum:?}: \
                 {count} instructions, {bytes} bytes"
            );
            (most, longest) = (most.max(count), longest.max(bytes));
        }
    }
    let variant = format!("{mode:?}, {what}");
    let code = format!("{variant}{MACHINE_CODE}");
    println!("verifier: {variant}: {most} instructions at most");
    println!("verifier: {code}: {longest} bytes at most");
    [(variant, most), (code, longest)]
}

#[test]
fn the_maps_take_no_more_memory_than_they_may() {
    let all_counted = Sizes {
        counter_slots: MAX_LABELS,
        ..DEFAULT
    };
    for (sizes, most) in [(DEFAULT, 17 * MIB), (all_counted, 64 * MIB)] {
        let tables = KernelTables::open(loader(sizes).pins(), 0).unwrap();
        let memory = tables.memory().unwrap();
        assert_eq!(memory.iter().map(|table| table.name).collect::<Vec<_>>(), SHARED_MAPS);
        let bytes: Vec<u64> = memory.iter().map(bytes_of_empty_table).collect();
        for (table, bytes) in memory.iter().zip(&bytes) {
            println!("{:16} {:8} entries {bytes:9} bytes", table.name, table.entries);
        }
        let total: u64 = bytes.iter().sum();
        println!("{total} bytes of {most}, {} counter slots\n", sizes.counter_slots);
        assert!(total <= most, "{total} bytes, at most {most}");
    }
}

#[test]
fn the_memory_of_prefixes_goes_back_to_the_kernel_after_they_are_removed() {
    const PREFIXES: u32 = 20_000;
    // A thousand times longer than it takes.
    const ATTEMPTS: usize = 10_000;
    let pause = || thread::sleep(Duration::from_millis(10));
    let mut tables = KernelTables::open(loader(DEFAULT).pins(), 0).unwrap();
    let bytes = |tables: &KernelTables| {
        let memory = tables.memory().unwrap();
        memory.iter().find(|table| table.name == map::FTN).unwrap().bytes
    };
    let empty = bytes(&tables);
    // Each is the only prefix of its node.
    let key = |number: u32| {
        let prefix = IpNet::new(Ipv4Addr::from(number.reverse_bits()).into(), 24);
        FtnKey::new(Domain::NO_VRF, prefix.unwrap().trunc())
    };
    let wait_for_room = |tables: &mut KernelTables| {
        if tables.needs_publishing() {
            tables.publish_ftn(&mut |_| true);
        }
        while let Some(period) = tables.await_ftn_room() {
            while !tables.is_over(period) {
                pause();
            }
        }
    };
    for round in 0..2 {
        for number in 0..PREFIXES {
            wait_for_room(&mut tables);
            tables.insert_ftn(key(number), RouteEntry::PASS).unwrap();
        }
        tables.publish_ftn(&mut |_| true);
        let full = bytes(&tables);
        assert!(
            full > empty + MIB,
            "{full} bytes in round {round}, {empty} when it is empty"
        );
        for number in 0..PREFIXES {
            wait_for_room(&mut tables);
            tables.remove_ftn(key(number)).unwrap();
        }
        for _ in 0..ATTEMPTS {
            tables.publish_ftn(&mut |_| true);
            if bytes(&tables) == empty {
                break;
            }
            pause();
        }
        assert_eq!(bytes(&tables), empty, "after round {round}");
    }
}

/// Of counters, the part that two CPUs need.
fn bytes_of_empty_table(table: &TableMemory) -> u64 {
    let possible = nr_cpus().unwrap() as u64;
    match table.name {
        map::ROUTE_COUNTERS => table.bytes * CPUS / possible,
        map::REASON_COUNTERS => {
            // The map itself is a pointer for each entry, whatever the number of CPUs.
            let pointers = u64::from(table.entries) * 8;
            pointers + (table.bytes - pointers) * CPUS / possible
        }
        _ => table.bytes,
    }
}

//! The forwarding core on the host against its twin in the kernel: the real program, loaded as the controller loads it,
//! gets every frame by BPF_PROG_TEST_RUN, with the same tables; verdict, every byte and every counter must agree. Needs
//! root.
//!
//! `MPLSXDP_SEED` and `MPLSXDP_FRAMES` make another run of the random part, or a longer one.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use mplsxdp::dataplane::Tables;
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::loader::{Loader, Program};
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp_common::abi::{Counter, Op, Reason, Settings};
use mplsxdp_common::forward::{Tables as _, Verdict};
use mplsxdp_tests::conformance::host::counted_reason;
use mplsxdp_tests::conformance::kernel::{LOOPBACK, Ran, SIZES, XDP_DROP, XDP_PASS, XDP_REDIRECT, test_run};
use mplsxdp_tests::conformance::lab::{self, Outcome};
use mplsxdp_tests::conformance::notation::{anatomy, show};
use mplsxdp_tests::conformance::{random, suite};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

const DEFAULT_SEED: u64 = 0x6d70_6c73;
const DEFAULT_FRAMES: u32 = 30_000;
/// Random frames for each random world.
const FRAMES_PER_WORLD: u32 = 200;

/// The program in every variant, and the tables of both sides.
struct Twins<H, K> {
    programs: HashMap<u32, Program>,
    host: H,
    kernel: K,
    /// What the host says that the kernel's counters are.
    routes: HashMap<u32, Counter>,
    reasons: HashMap<(u32, Reason), Counter>,
    verdicts: BTreeMap<String, u32>,
}

fn needs_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test loads the XDP program into the kernel: run it as root, as `cargo xtask test` does"
    );
}

/// Loads the program in every variant, with `fill` doing the same to both sides' tables.
fn twins<H, K>(host: impl FnOnce(MemoryTables) -> H, kernel: impl FnOnce(KernelTables) -> K) -> Twins<H, K> {
    needs_root();
    let loader = Loader::new(SIZES).unwrap();
    let programs = lab::settings()
        .into_iter()
        .map(|settings| (settings.port(), loader.program(settings).unwrap()))
        .collect();
    let mut tables = KernelTables::open(loader.pins()).unwrap();
    assert_eq!(tables.capacity(), lab::CAPACITY);
    for port in lab::TX_PORTS {
        tables.set_tx_port(port, LOOPBACK).unwrap();
    }
    Twins {
        programs,
        host: host(MemoryTables::with_capacity(lab::CAPACITY)),
        kernel: kernel(tables),
        routes: HashMap::new(),
        reasons: HashMap::new(),
        verdicts: BTreeMap::new(),
    }
}

impl<H: AsMut<MemoryTables>, K: AsMut<KernelTables>> Twins<H, K> {
    /// Stores a port's word on both sides.
    fn store_port(&mut self, settings: Settings, word: mplsxdp_common::abi::PortWord) {
        let port = settings.port() as u16;
        self.host.as_mut().store_port(port, word);
        self.kernel.as_mut().store_port(port, word);
    }

    /// Runs a frame on both sides. The error tells where they differ.
    fn compare(&mut self, settings: Settings, frame: &[u8]) -> Result<Outcome, String> {
        let host = lab::run(self.host.as_mut(), settings, frame);
        let program = self.programs.get_mut(&settings.port()).unwrap();
        let kernel = test_run(program, frame, 0).unwrap();

        let reason = counted_reason(host.verdict);
        let expected = Ran {
            action: match (host.verdict, reason) {
                (_, Some(_)) => XDP_DROP,
                (Verdict::Pass, None) => XDP_PASS,
                (_, None) => XDP_REDIRECT,
            },
            frame: host.frame.clone(),
        };
        *self.verdicts.entry(verdict_name(&host, reason, frame)).or_default() += 1;
        for (&slot, counted) in &host.counted {
            if slot < lab::CAPACITY.counter_slots {
                add(self.routes.entry(slot).or_default(), *counted);
            }
        }
        if let Some(reason) = reason {
            let counted = Counter {
                packets: 1,
                bytes: host.frame.len() as u64,
            };
            add(self.reasons.entry((settings.port(), reason)).or_default(), counted);
        }

        let mut differences = String::new();
        if kernel != expected {
            let _ = writeln!(
                differences,
                " host   {:?}, so XDP action {} {}\n kernel XDP action {} {}",
                host.verdict,
                expected.action,
                show(&expected.frame),
                kernel.action,
                show(&kernel.frame)
            );
        }
        for &slot in host.counted.keys() {
            differences += &self.compare_route_counter(slot);
        }
        if let Some(reason) = reason {
            differences += &self.compare_reason_counter(settings.port(), reason);
        }
        if differences.is_empty() {
            return Ok(host);
        }
        Err(format!(
            "host and kernel differ, {:?}, TC propagation {}, port {:?}\n in     {}\n{differences}{}",
            settings.ttl_mode(),
            settings.tc_propagate(),
            self.host.as_mut().at_port(settings).port(),
            show(frame),
            describe(self.host.as_mut(), settings, frame)
        ))
    }

    fn compare_route_counter(&mut self, slot: u32) -> String {
        if slot == 0 || slot >= lab::CAPACITY.counter_slots {
            return String::new();
        }
        let expected = self.routes.entry(slot).or_default();
        let kernel = self.kernel.as_mut().route_counter(slot).unwrap();
        difference(&format!("counter of slot {slot}"), expected, kernel)
    }

    fn compare_reason_counter(&mut self, port: u32, reason: Reason) -> String {
        let expected = self.reasons.entry((port, reason)).or_default();
        let kernel = self.kernel.as_mut().reason_counter(port as u16, reason).unwrap();
        difference(
            &format!("counter of {} at port {port}", reason.name()),
            expected,
            kernel,
        )
    }

    /// All counters: also those that nothing should have touched.
    fn compare_all_counters(&mut self) {
        let mut differences = String::new();
        for slot in 0..lab::CAPACITY.counter_slots {
            differences += &self.compare_route_counter(slot);
        }
        for settings in lab::settings() {
            for &reason in Reason::ALL {
                differences += &self.compare_reason_counter(settings.port(), reason);
            }
        }
        assert!(differences.is_empty(), "{differences}");
    }
}

fn add(sum: &mut Counter, counted: Counter) {
    sum.packets += counted.packets;
    sum.bytes += counted.bytes;
}

/// Says how the two differ, and goes on from what the kernel has: each difference is told once.
fn difference(what: &str, expected: &mut Counter, kernel: Counter) -> String {
    let host = std::mem::replace(expected, kernel);
    if host == kernel {
        String::new()
    } else {
        format!(" {what}: host {host:?}, kernel {kernel:?}\n")
    }
}

/// What the frames of a run were: a run of drops proves little.
fn verdict_name(host: &Outcome, reason: Option<Reason>, frame: &[u8]) -> String {
    match (host.verdict, reason) {
        (_, Some(reason)) => reason.name().into(),
        (Verdict::Pass, None) if host.frame == frame => "passed untouched".into(),
        (Verdict::Pass, None) => "popped for the kernel".into(),
        (_, None) => {
            let labels = |frame: &[u8]| anatomy(frame).stack.len() as isize;
            format!("forwarded, {:+} labels", labels(&host.frame) - labels(frame))
        }
    }
}

/// What the tables say of the labels and the destination of a frame.
fn describe(tables: &MemoryTables, settings: Settings, frame: &[u8]) -> String {
    let tables = tables.at_port(settings);
    let mut text = String::new();
    let stack = anatomy(frame).stack;
    let labels = stack
        .iter()
        .take(6)
        .map(|lse| (lse.label().to_string(), tables.ilm(lse.label())));
    let payload = anatomy(frame).payload;
    let v4 = payload
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(|key| tables.ftn_v4(key));
    let v6 = payload
        .get(24..40)
        .and_then(|bytes| bytes.try_into().ok())
        .map(|key| tables.ftn_v6(key));
    let prefixes = [("as IPv4", v4), ("as IPv6", v6)];
    let prefixes = prefixes
        .into_iter()
        .filter_map(|(name, entry)| Some((name.to_owned(), entry?)));
    for (name, entry) in labels.chain(prefixes) {
        let _ = write!(
            text,
            " {name}: {:?} {:?} operand {} next hop {} slot {} ({:#018x})",
            entry.op(),
            entry.ttl_propagate(),
            entry.operand(),
            entry.next_hop(),
            entry.slot(),
            entry.to_bits()
        );
        if entry.op() == Op::Stack {
            let _ = write!(text, ", {:?}", tables.label_stack(entry.operand()));
        }
        if let Some(adjacency) = tables.adjacency(entry.next_hop()) {
            let (destination, port, mtu) = (adjacency.destination(), adjacency.port(), adjacency.mtu());
            let _ = write!(text, ", {destination} port {port} mtu {mtu}");
        }
        text.push('\n');
    }
    text
}

/// An LFIB's tables.
struct Through<T>(mplsxdp::lfib::Lfib<T>);

impl<T: Tables> AsMut<T> for Through<T> {
    fn as_mut(&mut self) -> &mut T {
        self.0.tables_mut()
    }
}

/// Tables that are written directly.
struct Bare<T>(T);

impl<T> AsMut<T> for Bare<T> {
    fn as_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

fn lab_twins() -> Twins<Through<MemoryTables>, Through<KernelTables>> {
    twins(
        |tables| Through(lab::install(tables)),
        |tables| Through(lab::install(tables)),
    )
}

#[test]
fn every_case_is_the_same_in_the_kernel_wherever_it_is_cut_off() {
    /// The kernel refuses to run a program on less than an Ethernet header.
    const LEAST: usize = 14;
    let mut twins = lab_twins();
    for line in suite().cases.iter().flat_map(|case| &case.lines) {
        // Each variant's own paths were compared on whole frames; bounds are the same in all.
        let settings = lab::settings()[line.options[0].settings().port() as usize % lab::settings().len()];
        twins.store_port(settings, line.port_word());
        for length in LEAST..line.frame.len() {
            twins
                .compare(settings, &line.frame[..length])
                .unwrap_or_else(|difference| panic!("{} cut to {length}\n{difference}", line.place));
        }
    }
    twins.compare_all_counters();
}

#[test]
fn random_frames_over_random_tables_agree() {
    let seed = from_environment("MPLSXDP_SEED", DEFAULT_SEED);
    let frames = from_environment("MPLSXDP_FRAMES", DEFAULT_FRAMES);
    println!("MPLSXDP_SEED={seed} MPLSXDP_FRAMES={frames}");
    let twins = RefCell::new(twins(Bare, Bare));
    let mut worlds = runner(seed, 0, 1);
    for number in 0..frames.div_ceil(FRAMES_PER_WORLD) {
        let world = random::world().new_tree(&mut worlds).unwrap().current();
        {
            let twins = &mut *twins.borrow_mut();
            world.store(twins.host.as_mut());
            world.store(twins.kernel.as_mut());
        }
        let strategy = (random::settings(), random::frame())
            .prop_filter("the kernel wants an Ethernet header", |(_, frame)| frame.len() >= 14);
        let result = runner(seed, u64::from(number) + 1, FRAMES_PER_WORLD).run(&strategy, |(settings, frame)| {
            let compared = twins.borrow_mut().compare(settings, &frame);
            compared.map(drop).map_err(TestCaseError::fail)
        });
        match result {
            Ok(()) => {}
            // The smallest frame that still differs, and how.
            Err(TestError::Fail(difference, _)) => {
                panic!("MPLSXDP_SEED={seed}, world {number}\n{difference}")
            }
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
        twins.borrow_mut().compare_all_counters();
    }
    let twins = twins.into_inner();
    println!("{:#?}", twins.verdicts);
    // A generator that went astray would make all of this agree on nothing. TEST_RUN leaves headroom enough.
    for reason in Reason::ALL.iter().filter(|&&reason| reason != Reason::NoHeadroom) {
        assert!(
            frames < DEFAULT_FRAMES || twins.verdicts.contains_key(reason.name()),
            "never {reason:?}"
        );
    }
}

/// A generator of its own for each world, so that a world can be had without those before it.
fn runner(seed: u64, stream: u64, cases: u32) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&stream.to_le_bytes());
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Err(_) => default,
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is not a number that fits")),
    }
}

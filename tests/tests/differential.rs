//! Compares the forwarding core on the host with the kernel: the real program, loaded as the controller loads it, gets
//! every frame through BPF_PROG_TEST_RUN, with the same tables. The verdict, every byte and every counter must agree:
//! the counters of routes, of reasons, and of exceptions without a listener. Needs root.
//!
//! `MPLSXDP_SEED` and `MPLSXDP_FRAMES` make another or a longer run of the random part; `MPLSXDP_WORLD` runs only the
//! frames of one world, and `MPLSXDP_FRAME_FILE` names a file of frames, in hex, one per line: every other frame is one
//! of these.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;

use mplsxdp::dataplane::Tables;
use mplsxdp::dataplane::frame::MemoryFrame;
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::loader::{Loader, Program};
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp_common::abi::{Counter, Loss, MAX_ADJACENCIES, Op, Reason, Settings};
use mplsxdp_common::forward::{Arrival, Frame as _, PortView as _, Verdict};
use mplsxdp_common::wire::{ETH_HLEN, Label, Lse};
use mplsxdp_tests::conformance::host::{counted_reason, loss};
use mplsxdp_tests::conformance::kernel::{LOOPBACK, Ran, SIZES, XDP_DROP, XDP_PASS, XDP_REDIRECT, test_run_in_buffers};
use mplsxdp_tests::conformance::lab::{self, Outcome, Pseudowire};
use mplsxdp_tests::conformance::notation::{self, Frame, OWN_MAC, anatomy, show};
use mplsxdp_tests::conformance::{random, suite};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

const DEFAULT_SEED: u64 = 0x6d70_6c73;
const DEFAULT_FRAMES: u32 = 30_000;
/// Random frames for each random world.
const FRAMES_PER_WORLD: u32 = 200;
/// How many random worlds have multi-buffer frames.
const WORLDS_IN_BUFFERS: u32 = 30;
/// How many worlds to run between two progress lines.
const PROGRESS: u32 = 250;

/// The program in every variant, and the tables of both sides.
struct Twins<H, K> {
    programs: HashMap<u32, Program>,
    host: H,
    kernel: K,
    /// The expected counters of the kernel, according to the host.
    routes: HashMap<u32, Counter>,
    reasons: HashMap<(u32, Reason), Counter>,
    losses: HashMap<(u32, Reason, Loss), Counter>,
    verdicts: BTreeMap<String, u32>,
    /// The reasons that the core has counted for frames that it forwards.
    counted: HashSet<Reason>,
    kinds: BTreeMap<&'static str, u32>,
}

fn needs_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test loads the XDP program into the kernel: run it as root, as `cargo xtask test` does"
    );
}

/// Loads the program in every variant; `host` and `kernel` do the same to both sides' tables.
fn twins<H, K>(
    hash_seed: u32,
    atomic_counters: bool,
    host: impl FnOnce(MemoryTables) -> H,
    kernel: impl FnOnce(KernelTables) -> K,
) -> Twins<H, K> {
    needs_root();
    let loader = Loader::new(SIZES)
        .unwrap()
        .with_hash_seed(hash_seed)
        .with_atomic_counters(atomic_counters);
    let programs = lab::settings()
        .into_iter()
        .map(|settings| (settings.port(), loader.program(settings).unwrap()))
        .collect();
    let mut tables = KernelTables::open(loader.pins(), hash_seed).unwrap();
    assert_eq!(tables.capacity(), lab::CAPACITY);
    for port in lab::TX_PORTS {
        tables.set_tx_port(port, LOOPBACK).unwrap();
    }
    let mut memory = MemoryTables::with_capacity(lab::CAPACITY);
    memory.hash_seed = hash_seed;
    Twins {
        programs,
        host: host(memory),
        kernel: kernel(tables),
        routes: HashMap::new(),
        reasons: HashMap::new(),
        losses: HashMap::new(),
        verdicts: BTreeMap::new(),
        counted: HashSet::new(),
        kinds: BTreeMap::new(),
    }
}

impl<H: AsMut<MemoryTables>, K: AsMut<KernelTables>> Twins<H, K> {
    /// Stores a port and its sub-interfaces on both sides.
    fn store_port(&mut self, settings: Settings, kind: &str) {
        lab::store_port(self.host.as_mut(), settings, kind);
        lab::store_port(self.kernel.as_mut(), settings, kind);
    }

    /// Runs a frame on both sides. The error says where they differ.
    fn compare(&mut self, settings: Settings, frame: &[u8]) -> Result<Outcome, String> {
        self.compare_in_buffers(settings, frame, frame.len())
    }

    /// The same, with the first `linear` bytes in the first buffer. The host's frame lacks the rest, but has its
    /// length: the program must decide the same.
    fn compare_in_buffers(&mut self, settings: Settings, frame: &[u8], linear: usize) -> Result<Outcome, String> {
        let (first, rest) = frame.split_at(linear);
        let mut received = MemoryFrame::default();
        received.refill([first], rest.len());
        // Frames count for the sub-interface of their tags; what the redirect detects counts for the program's own
        // port.
        let arrival = Arrival::of(&received, &self.host.as_mut().at_wire(settings));
        assert_eq!(received.len(), frame.len());
        let mut host = lab::run_in(self.host.as_mut(), settings, received);
        // The bytes cut off the end are gone.
        host.frame.extend(&rest[..host.missing]);
        let program = self.programs.get_mut(&settings.port()).unwrap();
        let kernel = test_run_in_buffers(program, frame, 0, linear).unwrap();

        let reason = counted_reason(host.verdict);
        let expected = Ran {
            action: match (host.verdict, reason) {
                (Verdict::Exception(Reason::PassRoute), _) => XDP_PASS,
                (_, Some(_)) => XDP_DROP,
                (Verdict::Pass, None) => XDP_PASS,
                (_, None) => XDP_REDIRECT,
            },
            frame: host.frame.clone(),
        };
        let port = match reason {
            Some(Reason::NoPort) => None,
            _ => arrival.and_then(|arrival| arrival.port),
        };
        let port = port.unwrap_or(settings.port());
        *self.verdicts.entry(verdict_name(&host, reason, frame)).or_default() += 1;
        for kind in kinds(self.host.as_mut(), settings, frame, &host) {
            *self.kinds.entry(kind).or_default() += 1;
        }
        for (&slot, counted) in &host.counted {
            if slot < lab::CAPACITY.counter_slots {
                add(self.routes.entry(slot).or_default(), *counted);
            }
        }
        for (counted_for, counted) in self.host.as_mut().counted_reasons.take() {
            self.counted.insert(counted_for.1);
            add(self.reasons.entry(counted_for).or_default(), counted);
        }
        if let Some(reason) = reason {
            let counted = Counter {
                packets: 1,
                bytes: host.frame.len() as u64,
            };
            add(self.reasons.entry((port, reason)).or_default(), counted);
            if let Some(loss) = loss(reason, settings.unknown()) {
                add(self.losses.entry((port, reason, loss)).or_default(), counted);
            }
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
            differences += &self.compare_reason_counter(port, reason);
        }
        if differences.is_empty() {
            return Ok(host);
        }
        Err(format!(
            "host and kernel differ, {:?}, {linear} bytes in the first buffer, TC propagation {}, port {:?}\n in     {}\n{differences}{}",
            settings.ttl_mode(),
            settings.tc_propagate(),
            self.host.as_mut().at_wire(settings).port(settings.port()),
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

    /// From the beginning, and across the end of the table.
    fn compare_route_counters_that_are_read_together(&mut self) -> String {
        let tables = self.kernel.as_mut();
        let reader = tables.counter_readers().unwrap().routes;
        let end = lab::CAPACITY.counter_slots;
        let mut differences = String::new();
        for (first, count) in [(0, end), (1, 3), (end - 2, 7)] {
            let read = reader.read(first, count);
            let one_by_one = (first..end.min(first + count)).map(|slot| tables.route_counter(slot).unwrap());
            if !read.iter().copied().eq(one_by_one) {
                let _ = writeln!(
                    differences,
                    " counters of {count} slots from {first} on, read together: {read:?}"
                );
            }
        }
        differences
    }

    fn compare_reason_counter(&mut self, port: u32, reason: Reason) -> String {
        let expected = self.reasons.entry((port, reason)).or_default();
        let tables = self.kernel.as_mut();
        let kernel = tables.reason_counter(port as u16, reason).unwrap();
        let mut differences = difference(
            &format!("counter of {} at port {port}", reason.name()),
            expected,
            kernel,
        );
        for &loss in Loss::ALL.iter().filter(|_| reason.is_punted()) {
            let expected = self.losses.entry((port, reason, loss)).or_default();
            let kernel = tables.loss_counter(port as u16, reason, loss).unwrap();
            let name = format!("counter of {}, {} at port {port}", reason.name(), loss.name());
            differences += &difference(&name, expected, kernel);
        }
        differences
    }

    /// All counters, including those that nothing should have touched.
    fn compare_all_counters(&mut self) {
        let mut differences = String::new();
        for slot in 0..lab::CAPACITY.counter_slots {
            differences += &self.compare_route_counter(slot);
        }
        differences += &self.compare_route_counters_that_are_read_together();
        for settings in lab::settings() {
            let random = (0..lab::SUB_INTERFACES).map(|index| lab::sub_interface(settings, index));
            let of_cases = (0..lab::ARRIVAL_TAGS.len()).map(|index| lab::arrival_sub_interface(settings, index));
            for port in random.chain(of_cases).map(u32::from).chain([settings.port()]) {
                for &reason in Reason::ALL {
                    differences += &self.compare_reason_counter(port, reason);
                }
            }
        }
        assert!(differences.is_empty(), "{differences}");
    }
}

fn add(sum: &mut Counter, counted: Counter) {
    sum.packets += counted.packets;
    sum.bytes += counted.bytes;
}

/// Describes how the two differ, and sets `expected` to the kernel's value, so that each difference is reported once.
fn difference(what: &str, expected: &mut Counter, kernel: Counter) -> String {
    let host = std::mem::replace(expected, kernel);
    if host == kernel {
        String::new()
    } else {
        format!(" {what}: host {host:?}, kernel {kernel:?}\n")
    }
}

/// The kind of a frame's outcome, for the summary of a run: a run of drops proves little.
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

/// Kinds of forwarding that must occur in a run.
const KINDS: [&str; 12] = [
    "swapped",
    "several labels pushed",
    "popped for a next hop",
    "popped for the kernel",
    "to one of several next hops",
    "to a backup",
    "to a next hop whose backup has labels of its own",
    "to a backup with labels of its own",
    "from a VLAN",
    "into a VLAN",
    "into a pseudowire",
    "out of a pseudowire",
];

/// Those of [`KINDS`] that apply to a frame.
fn kinds(tables: &MemoryTables, settings: Settings, frame: &[u8], host: &Outcome) -> Vec<&'static str> {
    let pseudowire = lab::pseudowire(tables, settings, frame);
    let tables = tables.at_wire(settings);
    let (received, sent) = (anatomy(frame), anatomy(&host.frame));
    let is_done = match host.verdict {
        Verdict::Pass => {
            let mut is_done = [false; KINDS.len()];
            is_done[3] = host.frame != frame;
            is_done
        }
        Verdict::Exception(_) => return Vec::new(),
        Verdict::Forward { .. } => {
            let (before, after) = (received.stack.len(), sent.stack.len());
            // The entry of a label that is not this router's own.
            let entry = received.stack.first().map(|top| tables.ilm(top.label()));
            let op = entry.map_or(Op::None, |entry| entry.op());
            let hop = entry.and_then(|entry| tables.adjacency(entry.next_hop()));
            // Whether the first of a pair is the one to use.
            let first = entry.filter(|_| op == Op::Protected).map(|entry| {
                let [primary, _] = tables.protected(entry.operand());
                tables.is_resolved(primary.next_hop())
            });
            let has_own_hop = matches!(op, Op::Label | Op::Stack | Op::Pop | Op::PenultimatePop);
            [
                op == Op::Label && before == after,
                after > before + 1,
                after < before && matches!(op, Op::Pop | Op::PenultimatePop),
                false,
                op == Op::Group,
                has_own_hop && hop.is_some_and(|hop| !hop.is_resolved()),
                first == Some(true),
                first == Some(false),
                !received.tags.is_empty(),
                !sent.tags.is_empty(),
                pseudowire == Some(Pseudowire::Enters),
                pseudowire == Some(Pseudowire::Leaves),
            ]
        }
    };
    let done = KINDS.into_iter().zip(is_done).filter(|(_, is_done)| *is_done);
    done.map(|(kind, _)| kind).collect()
}

/// The entries for the labels and the destination of a frame.
fn describe(tables: &MemoryTables, settings: Settings, frame: &[u8]) -> String {
    let tables = tables.at_wire(settings);
    let mut text = String::new();
    let stack = anatomy(frame).stack;
    let labels = stack
        .iter()
        .take(6)
        .map(|lse| (lse.label().to_string(), tables.ilm(lse.label())));
    let payload = anatomy(frame).payload;
    let domain = tables.port(settings.port()).domain();
    let v4 = payload
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(|key| tables.ftn_v4(domain, key));
    let v6 = payload
        .get(24..40)
        .and_then(|bytes| bytes.try_into().ok())
        .map(|key| tables.ftn_v6(domain, key));
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
        if entry.op() == Op::Protected {
            let _ = write!(text, ", {:?}", tables.protected(entry.operand()));
        }
        if let Some(adjacency) = tables.adjacency(entry.next_hop()) {
            let (destination, port) = (adjacency.destination(), adjacency.port());
            let (mtu, mpls_mtu) = (adjacency.mtu(), adjacency.mpls_mtu());
            let _ = write!(text, ", {destination} port {port} mtu {mtu} mpls-mtu {mpls_mtu}");
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

/// These count as on a real-time kernel, the ones for random frames as on others.
fn lab_twins() -> Twins<Through<MemoryTables>, Through<KernelTables>> {
    twins(
        0,
        true,
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
        twins.store_port(settings, &line.port);
        for length in LEAST..line.frame.len() {
            twins
                .compare(settings, &line.frame[..length])
                .unwrap_or_else(|difference| panic!("{} cut to {length}\n{difference}", line.place));
        }
    }
    twins.compare_all_counters();
}

/// Like [`Twins::compare`], with next hops for jumbo frames.
fn jumbo_twins() -> Twins<Through<MemoryTables>, Through<KernelTables>> {
    let mut twins = lab_twins();
    for neighbour in lab::neighbours() {
        if let Some(adjacency) = neighbour.adjacency {
            // Routes with backups of their own have it once more.
            for index in 0..MAX_ADJACENCIES as u16 {
                if twins.host.as_mut().adjacency(index) == adjacency {
                    twins.host.as_mut().store_adjacency(index, adjacency.with_mtu(9000));
                    twins.kernel.as_mut().store_adjacency(index, adjacency.with_mtu(9000));
                }
            }
        }
    }
    twins.store_port(jumbo_settings(), "core");
    twins
}

fn jumbo_settings() -> Settings {
    lab::settings().into_iter().find(|settings| settings.frags()).unwrap()
}

#[test]
fn jumbo_frames_are_forwarded_whole() {
    let mut twins = jumbo_twins();
    let settings = jumbo_settings();
    for (stack, more) in [
        ("[100 64]", 4),
        ("[128 64]", 32),
        ("[140 64]", 0),
        ("[150 64] [17 9]", 4),
        ("[160 64] [101 9]", 4),
    ] {
        for family in ["ip", "ip6"] {
            // Larger than a page minus headroom, which is the maximum in a driver's first buffer; and exactly as large
            // as fits.
            for size in [3400, 3600, 4096, 8000, 9000 - more, 9000 - more + 1] {
                let frame = Frame::parse(&format!("{stack} {family} size {size}")).to_bytes();
                let outcome = twins
                    .compare(settings, &frame)
                    .unwrap_or_else(|difference| panic!("{difference}"));
                let fits = match outcome.verdict {
                    Verdict::Forward { .. } => true,
                    Verdict::Exception(Reason::TooBig) => false,
                    verdict => panic!("{verdict:?}: {stack} {family} size {size}"),
                };
                assert_eq!(fits, size + more <= 9000, "{stack} {family} size {size}");
            }
        }
    }
    twins.compare_all_counters();
}

#[test]
fn what_is_beyond_the_first_buffer_is_not_misread() {
    let mut twins = jumbo_twins();
    let settings = jumbo_settings();
    // Swaps, pushes and pops at each depth that has its own bounds; groups, whose hash looks into the packet; tags.
    let frames = [
        "[100 64] ip size 3000",
        "[100 64] [16 9] [17 8] ip size 3000",
        "[128 64] ip size 3000",
        "[128 64] [16 9] [17 8] ip6 size 3000",
        "[140 64] ip size 3000",
        "[150 64] [17 9] ip6 size 3000",
        "[160 64] [7 9] [1000 0] ip6 size 3000 to 2001:db8:1::1",
        "[140 64] ip size 3000 options 10",
        "[700 64] [16 9] ip size 3000 options 10 tcp 80",
        "[700 64] [7 0] [1002 0] ip6 size 3000 sctp 80",
        "[701 64] ip6 size 3000 udp 8",
        "[704 64] ip size 3000",
        "[707 64] ip size 3000",
        "[708 64] ip6 size 3000",
        "tag 100 [600 64] ip size 3000",
        "stag 100 tag 10 [611 64] ip6 size 3000",
        "stag 100 tag 10 [160 64] [2 9] ip6 size 3000 to 2001:db8:99::1",
        "tag 100 tag 11 [100 64] ip size 3000",
        "tag 100 ip size 3000 to 10.70.0.1",
        "[612 64] ip size 3000",
        "ip size 3000 to 10.2.0.1",
        "ip6 size 3000 to ::1 hopopts 2 udp 3503",
        "ip6 size 3000 to 2001:db8:70::1 fraghdr 1",
    ];
    for text in frames {
        let frame = Frame::parse(text).to_bytes();
        for linear in 14..160 {
            let compared = twins.compare_in_buffers(settings, &frame, linear);
            compared.unwrap_or_else(|difference| panic!("{text}\n{difference}"));
        }
    }
    twins.compare_all_counters();
    for kind in KINDS
        .iter()
        .filter(|kind| !kind.ends_with("kernel") && !kind.ends_with("pseudowire"))
    {
        assert!(twins.kinds.contains_key(kind), "never {kind}: {:?}", twins.kinds);
    }
}

/// Small frames that end in other buffers than they begin in, over random tables. Needs a kernel that runs programs on
/// such frames: 6.18.
#[test]
fn random_frames_beyond_the_first_buffer_agree() {
    let seed = from_environment("MPLSXDP_SEED", DEFAULT_SEED);
    let mut twins = twins(seed as u32, false, Bare, Bare);
    let with_frags: Vec<_> = lab::settings()
        .into_iter()
        .filter(|settings| settings.frags())
        .collect();
    let mut runner = runner(seed, u64::MAX, 1);
    let one = |strategy: &BoxedStrategy<Vec<u8>>, runner: &mut TestRunner| strategy.new_tree(runner).unwrap().current();
    let frames = random::frame().prop_filter("", |frame| frame.len() > ETH_HLEN).boxed();
    for number in 0..WORLDS_IN_BUFFERS {
        let world = random::world().new_tree(&mut runner).unwrap().current();
        world.store(twins.host.as_mut());
        world.store(twins.kernel.as_mut());
        for _ in 0..FRAMES_PER_WORLD {
            let frame = one(&frames, &mut runner);
            let settings = select(with_frags.clone()).new_tree(&mut runner).unwrap().current();
            let linear = (ETH_HLEN..frame.len()).new_tree(&mut runner).unwrap().current();
            let compared = twins.compare_in_buffers(settings, &frame, linear);
            compared.unwrap_or_else(|difference| panic!("MPLSXDP_SEED={seed}, world {number}\n{difference}"));
        }
        twins.compare_all_counters();
    }
    println!("{:#?} {:#?}", twins.verdicts, twins.kinds);
    for kind in KINDS {
        assert!(twins.kinds.contains_key(kind), "never {kind}: {:?}", twins.kinds);
    }
}

#[test]
fn random_frames_over_random_tables_agree() {
    let seed = from_environment("MPLSXDP_SEED", DEFAULT_SEED);
    let frames = from_environment("MPLSXDP_FRAMES", DEFAULT_FRAMES);
    let only = std::env::var_os("MPLSXDP_WORLD").map(|_| from_environment("MPLSXDP_WORLD", 0));
    let captured = captured_frames();
    println!(
        "MPLSXDP_SEED={seed} MPLSXDP_FRAMES={frames}, captured frames: {}",
        captured.len()
    );
    let twins = RefCell::new(twins(seed as u32, false, Bare, Bare));
    let mut worlds = runner(seed, 0, 1);
    let last = only.map_or(frames.div_ceil(FRAMES_PER_WORLD), |only| only + 1);
    for number in 0..last {
        let world = random::world().new_tree(&mut worlds).unwrap().current();
        if only.is_some_and(|only| only != number) {
            continue;
        }
        if number > 0 && number.is_multiple_of(PROGRESS) {
            println!("{} frames", number * FRAMES_PER_WORLD);
        }
        {
            let twins = &mut *twins.borrow_mut();
            world.store(twins.host.as_mut());
            world.store(twins.kernel.as_mut());
        }
        let strategy = (random::settings(), frames_or(captured.clone()))
            .prop_filter("the kernel wants an Ethernet header", |(_, frame)| frame.len() >= 14);
        let result = runner(seed, u64::from(number) + 1, FRAMES_PER_WORLD).run(&strategy, |(settings, frame)| {
            let compared = twins.borrow_mut().compare(settings, &frame);
            compared.map(drop).map_err(TestCaseError::fail)
        });
        match result {
            Ok(()) => {}
            // The smallest frame that still differs, and how.
            Err(TestError::Fail(difference, _)) => {
                panic!("MPLSXDP_SEED={seed} MPLSXDP_WORLD={number}\n{difference}")
            }
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
        twins.borrow_mut().compare_all_counters();
    }
    let twins = twins.into_inner();
    println!("{:#?} {:#?}", twins.verdicts, twins.kinds);
    // With a faulty generator, both sides would agree on nothing. TEST_RUN leaves enough headroom.
    for reason in Reason::ALL.iter().filter(|&&reason| reason != Reason::NoHeadroom) {
        let seen = twins.verdicts.contains_key(reason.name()) || twins.counted.contains(reason);
        assert!(frames < DEFAULT_FRAMES || only.is_some() || seen, "never {reason:?}");
    }
    for kind in KINDS {
        assert!(
            frames < DEFAULT_FRAMES || only.is_some() || twins.kinds.contains_key(kind),
            "never {kind}"
        );
    }
}

/// A separate generator for each world, so that a world can be run without those before it.
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

/// Random frames; if there are `captured` ones, every other frame is one of these.
fn frames_or(captured: Vec<Vec<u8>>) -> BoxedStrategy<Vec<u8>> {
    if captured.is_empty() {
        return random::frame().boxed();
    }
    prop_oneof![random::frame(), random::damaged(select(captured).prop_map(at_home))].boxed()
}

/// A frame from elsewhere, for this router and with labels that may have routes.
fn at_home(mut frame: Vec<u8>) -> Vec<u8> {
    let labels = anatomy(&frame).stack.len();
    let start = ETH_HLEN.min(frame.len());
    let (ethernet, stack) = frame.split_at_mut(start);
    if let Some(destination) = ethernet.first_chunk_mut() {
        *destination = OWN_MAC.0;
    }
    for entry in stack.as_chunks_mut().0.iter_mut().take(labels) {
        let lse = Lse::from_bytes(*entry);
        if !lse.label().is_special() {
            let label = Label::new(16 + lse.label().get() % (random::LABELS - 16)).unwrap();
            *entry = Lse::new(label, lse.tc(), lse.bottom(), lse.ttl()).to_bytes();
        }
    }
    frame
}

/// Those that the kernel accepts: with a whole Ethernet header, and within a page.
fn captured_frames() -> Vec<Vec<u8>> {
    let Some(path) = std::env::var_os("MPLSXDP_FRAME_FILE") else {
        return Vec::new();
    };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let frames = text
        .lines()
        .map(|line| notation::hex(line).unwrap_or_else(|_| panic!("`{line}` is not hex")));
    frames
        .filter(|frame| (ETH_HLEN..=3000).contains(&frame.len()))
        .collect()
}

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Err(_) => default,
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is not a number that fits")),
    }
}

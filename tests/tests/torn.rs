//! A thread changes entries as fast as it can while frames run through the real program (BPF_PROG_TEST_RUN). Each frame
//! must be one that the old or the new entry alone makes, in every byte. What they make is found before, with nobody
//! writing. All changes go through the LFIB, with tables so small that slots are used again as soon as they are free.
//! Needs root.
//!
//! `MPLSXDP_TORN_FRAMES` makes another number of frames than the default in all, `MPLSXDP_LABELS` another number of
//! labels that are replaced at once.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};
use mplsxdp::dataplane::Tables as _;
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::loader::{Loader, Program, Sizes};
use mplsxdp::lfib::next_hops::{NextHopChange, NextHopId};
use mplsxdp::lfib::{ChangeError, Lfib, Mode, Reach};
use mplsxdp::route::line::{self, Family};
use mplsxdp::route::{Owner, Route, Via};
use mplsxdp_common::abi::{Adjacency, MAX_LABELS, PortWord, Settings, TtlMode, VlanTags};
use mplsxdp_common::wire::{ETH_P_8021Q, ETH_P_IP, Label, Mac};
use mplsxdp_tests::conformance::kernel::{LOOPBACK, XDP_DROP, XDP_REDIRECT};
use mplsxdp_tests::conformance::notation::show;
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp_of_ports};

const DEFAULT_FRAMES: u64 = 1_000_000;
const DEFAULT_LABELS: u32 = 20_000;
/// The port where frames arrive.
const IN: u16 = 0;
const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SENDER: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// Next hops, on three ports. No byte of their addresses is the same.
const A: &str = "via link 02:11:11:11:11:11 dev a";
const B: &str = "via link 22:22:22:22:22:22 dev b";
const C: &str = "via link 42:33:33:33:33:33 dev c";
/// Routes that keep these next hops resolved. Frames never have their labels.
const KEPT: [(u32, &str); 3] = [(1000, A), (1001, B), (1002, C)];

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")),
        Err(_) => default,
    }
}

/// What became of a frame: the XDP action, and the frame.
type Outcome = (u32, Vec<u8>);

/// What a thread does all the time. The number says which state comes next.
type Write<'a> = &'a mut (dyn FnMut(&mut Switch, usize) + Send);

struct Switch {
    lfib: Lfib<KernelTables>,
    /// The next hops by their devices.
    next_hops: HashMap<Box<str>, NextHopId>,
    /// How often a change found no room, and was made after a grace period.
    waited: u64,
}

fn route(text: &str) -> Route {
    line::route(text, Family::Any).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A way out: each port has another MTU and another address, and the one of `c` sends a VLAN tag.
fn adjacency(dev: &str, to: Mac) -> Adjacency {
    match dev {
        "a" => Adjacency::new(to, 10, Mac([2, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1]), 1500),
        "b" => Adjacency::new(to, 11, Mac([6, 0xb2, 0xb2, 0xb2, 0xb2, 0xb2]), 1400),
        "c" => Adjacency::new(to, 12, Mac([10, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3]), 1300)
            .with_tags(VlanTags::one(ETH_P_8021Q, 200)),
        _ => panic!("no port {dev}"),
    }
}

impl Switch {
    fn new(labels: u32) -> (Self, Program) {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test loads the XDP program into the kernel: run it as root, as `cargo xtask test` does"
        );
        let sizes = Sizes {
            labels,
            stacks: 64,
            groups: 16,
            backups: 16,
            counter_slots: 256,
        };
        let loader = Loader::new(sizes).unwrap();
        let settings = Settings::new(IN.into(), TtlMode::Uniform, 255, false, false);
        let program = loader.program(settings).unwrap();
        let mut tables = KernelTables::open(loader.pins(), 0).unwrap();
        for port in [10, 11, 12] {
            tables.set_tx_port(port, LOOPBACK).unwrap();
        }
        tables.store_port(IN, PortWord::new(OWN, PortWord::MPLS | PortWord::IMPOSE));
        let mut switch = Self {
            lfib: Lfib::new(tables),
            next_hops: HashMap::new(),
            waited: 0,
        };
        for (label, via) in KEPT {
            switch.set(Mode::Add, &[route(&format!("{label} as {label} {via}"))]);
        }
        (switch, program)
    }

    /// Makes a change, when there is room.
    fn set(&mut self, mode: Mode, routes: &[Route]) {
        loop {
            match self.lfib.change(mode, Owner::STATIC, routes) {
                Ok(_) => break,
                Err(ChangeError::Full { .. }) => {
                    self.waited += 1;
                    thread::sleep(Duration::from_millis(1));
                    self.lfib.reclaim();
                }
                Err(error) => panic!("{error}"),
            }
        }
        for change in self.lfib.take_next_hop_changes() {
            if let NextHopChange::Added(id, next_hop) = change {
                let (Via::Link(to), Some(dev)) = (next_hop.via, next_hop.dev) else {
                    panic!("{:?}", next_hop.via)
                };
                self.lfib.set_next_hop(id, Some(adjacency(&dev, to)));
                self.next_hops.insert((*dev).into(), id);
            }
        }
    }

    fn set_lines(&mut self, lines: &[&str]) {
        let routes: Vec<Route> = lines.iter().map(|line| route(line)).collect();
        self.set(Mode::Replace, &routes);
    }

    /// Sets where the frames of a next hop go, and waits until they do.
    fn set_next_hop(&mut self, dev: &str, reach: Reach) {
        let id = self.next_hops[dev];
        self.lfib.set_next_hop(id, reach);
        while matches!(reach, Reach::Resolved(_)) && !self.is_resolved(id) {
            thread::sleep(Duration::from_millis(1));
            self.lfib.reclaim();
        }
    }

    fn is_resolved(&self, id: NextHopId) -> bool {
        let slot = self.lfib.next_hops().slot(id).unwrap();
        self.lfib.tables().adjacency(slot).is_resolved()
    }

    /// Waits until no slot is held back.
    fn settle(&mut self) {
        while let Some(period) = self.lfib.reclaiming() {
            if self.lfib.is_reclaimed(period) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
            self.lfib.reclaim();
        }
    }
}

/// Runs the program on one frame after the other.
struct Runner {
    program: Program,
    out: Vec<u8>,
}

impl Runner {
    fn new(program: Program) -> Self {
        let out = vec![0; 512];
        Self { program, out }
    }

    /// The action, and the frame afterwards.
    fn run(&mut self, frame: &[u8]) -> (u32, &[u8]) {
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.out),
            ..TestRunOptions::new()
        };
        let ran = self.program.xdp().test_run(options).unwrap();
        (ran.return_value, &self.out[..ran.data_size_out as usize])
    }
}

/// What each of the frames may become, and how often it did.
struct Expected {
    frames: Vec<Vec<u8>>,
    outcomes: Vec<BTreeMap<Outcome, u64>>,
    /// How many of its outcomes each frame must have, if it has so many.
    least: usize,
}

impl Expected {
    fn new(frames: Vec<Vec<u8>>) -> Self {
        Self {
            outcomes: vec![BTreeMap::new(); frames.len()],
            frames,
            least: usize::MAX,
        }
    }

    /// The hash of a flow decides which of its outcomes it has.
    fn of_flows(label: u32) -> Self {
        Self {
            least: 2,
            ..Self::new((0..16).map(|flow| labelled_frame(label, flow)).collect())
        }
    }

    /// Frames may become what they become now. They are forwarded.
    fn learn(&mut self, runner: &mut Runner) {
        self.learn_as(XDP_REDIRECT, runner);
    }

    fn learn_as(&mut self, expected: u32, runner: &mut Runner) {
        for (frame, outcomes) in self.frames.iter().zip(&mut self.outcomes) {
            let (action, out) = runner.run(frame);
            assert_eq!(action, expected, "{} becomes {}", show(frame), show(out));
            outcomes.insert((action, out.to_vec()), 0);
        }
    }

    /// Runs so many frames while a thread writes. Every outcome must be a learned one, and the learned ones must occur.
    fn check(mut self, name: &str, switch: &mut Switch, runner: &mut Runner, count: u64, write: Write<'_>) {
        let distinct: usize = self.outcomes.iter().map(BTreeMap::len).sum();
        assert!(distinct > self.frames.len(), "{name}: all states do the same");
        let stop = AtomicBool::new(false);
        let (changes, ran) = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut changes = 0;
                while !stop.load(Ordering::Relaxed) {
                    write(switch, changes);
                    changes += 1;
                }
                changes
            });
            // On one CPU, the writer may not have begun after so many frames.
            let mut ran = 0;
            while ran < count || (!self.all_seen() && ran < count * 20) {
                assert!(!writer.is_finished(), "{name}: the writer has ended");
                for (frame, outcomes) in self.frames.iter().zip(&mut self.outcomes) {
                    let (action, out) = runner.run(frame);
                    let found = outcomes
                        .iter_mut()
                        .find(|((known, bytes), _)| *known == action && bytes == out);
                    match found {
                        Some((_, seen)) => *seen += 1,
                        None => {
                            stop.store(true, Ordering::Relaxed);
                            let known: Vec<_> = outcomes.keys().map(|(_, bytes)| show(bytes)).collect();
                            panic!(
                                "{name}: after {ran} frames, {} becomes {} by action {action}, not one of\n{}",
                                show(frame),
                                show(out),
                                known.join("\n")
                            );
                        }
                    }
                    ran += 1;
                }
            }
            stop.store(true, Ordering::Relaxed);
            (writer.join().unwrap(), ran)
        });
        assert!(self.all_seen(), "{name}: not every state was seen");
        let outcomes = self.outcomes.iter().flatten();
        let exceptions: u64 = outcomes
            .filter(|((action, _), _)| *action != XDP_REDIRECT)
            .map(|(_, seen)| seen)
            .sum();
        println!(
            "{name}: {ran} frames, {exceptions} of them exceptions, {changes} changes, {} waits for room, {distinct} outcomes",
            std::mem::take(&mut switch.waited)
        );
    }

    fn all_seen(&self) -> bool {
        self.outcomes.iter().all(|outcomes| {
            let seen = outcomes.values().filter(|&&seen| seen > 0).count();
            seen >= self.least.min(outcomes.len())
        })
    }
}

/// A UDP packet of a flow.
fn packet(to: &str, flow: u16) -> Vec<u8> {
    let to: IpAddr = to.parse().unwrap();
    udp_of_ports("192.0.2.1".parse().unwrap(), to, [4000 + flow, 5000], 64, b"whole").unwrap()
}

fn labelled_frame(label: u32, flow: u16) -> Vec<u8> {
    let stack = [Entry::new(label, 64).tc(5), Entry::new(77, 33)];
    labelled(OWN, SENDER, &stack, &packet("198.51.100.1", flow))
}

/// Changes from one set of routes to the next, in a circle.
fn by_routes(name: &str, frames: Vec<Vec<u8>>, states: &[&[&str]], count: u64) {
    let (mut switch, program) = Switch::new(1024);
    let mut runner = Runner::new(program);
    let mut expected = Expected::new(frames);
    for state in states {
        switch.set_lines(state);
        expected.learn(&mut runner);
    }
    let states: Vec<Vec<Route>> = states
        .iter()
        .map(|state| state.iter().map(|line| route(line)).collect())
        .collect();
    expected.check(name, &mut switch, &mut runner, count, &mut |switch, number| {
        switch.set(Mode::Replace, &states[number % states.len()]);
    });
}

fn share() -> u64 {
    /// How many tests there are.
    const TESTS: u64 = 10;
    variable("MPLSXDP_TORN_FRAMES", DEFAULT_FRAMES).div_ceil(TESTS)
}

#[test]
fn entries() {
    let states: [&[&str]; 5] = [
        &[&format!("100 as 110 {A}")],
        &[&format!("100 {B}")],
        &[&format!("100 as 1048575/16/120 {A}")],
        &[&format!("100 as implicit-null {C}")],
        &[&format!("100 as 699050 ttl-propagate disabled {C}")],
    ];
    by_routes("entries", vec![labelled_frame(100, 0)], &states, share());
}

#[test]
fn stacks() {
    let deep = |first: u32, depth: u32, via: &str| {
        let labels: Vec<String> = (0..depth).map(|index| (first + index).to_string()).collect();
        format!("100 as {} {via}", labels.join("/"))
    };
    let lines = [
        deep(200, 2, A),
        deep(300, 16, A),
        deep(400, 7, A),
        deep(500, 2, A),
        deep(600, 15, B),
    ];
    let states: Vec<[&str; 1]> = lines.iter().map(|line| [line.as_str()]).collect();
    let states: Vec<&[&str]> = states.iter().map(|state| &state[..]).collect();
    by_routes("stacks", vec![labelled_frame(100, 0)], &states, share());
}

/// Next hops with backups that have labels of their own, in pairs that take each other's places.
#[test]
fn backups() {
    let states = [
        format!("100 as 110 {A} backup as 300/301 {B}"),
        format!("100 as 120/121 {C} backup as 310 {A}"),
        format!("100 as implicit-null {B} backup as 320/321/322 {C}"),
        format!("100 as 140 {B}"),
    ];
    // The next hops stay in use: a new one is not resolved at first.
    let kept = [
        format!("101 as 150 {A} backup as 350 {B}"),
        format!("102 as 151 {B} backup as 351 {C}"),
        format!("103 as 152 {C} backup as 352 {A}"),
    ];
    let states = states
        .each_ref()
        .map(|state| Vec::from_iter(std::iter::once(state).chain(&kept).map(String::as_str)));
    let states = states.each_ref().map(Vec::as_slice);
    by_routes("backups", vec![labelled_frame(100, 0)], &states, share());
}

/// The next hop of a pair moves between ports, and so does its backup while that gets the frames.
#[test]
fn pairs() {
    let (mut switch, program) = Switch::new(1024);
    let mut runner = Runner::new(program);
    switch.set_lines(&[
        &format!("100 as 110 {A} backup as 300/301 {B}"),
        &format!("101 as 120/121 {A} backup as 310 {B}"),
    ]);
    let reaches =
        |own: (&str, Mac), other: (&str, Mac)| [own, other].map(|(dev, to)| Reach::Resolved(adjacency(dev, to)));
    let (a, b) = (
        reaches(("a", mac_of(A)), ("c", mac_of(C))),
        reaches(("b", mac_of(B)), ("c", mac_of(C))),
    );
    for (name, states) in [("a", a), ("b", b)] {
        if name == "b" {
            switch.set_next_hop("a", Reach::Unresolved);
        }
        let mut expected = Expected::new(vec![labelled_frame(100, 0), labelled_frame(101, 0)]);
        for state in states {
            switch.set_next_hop(name, state);
            expected.learn(&mut runner);
            switch.settle();
        }
        expected.check("pairs", &mut switch, &mut runner, share(), &mut |switch, number| {
            switch.set_next_hop(name, states[number % 2]);
        });
    }
}

/// The flows are spread over members that come, go and get other weights and labels.
#[test]
fn groups() {
    let (mut switch, program) = Switch::new(1024);
    let mut runner = Runner::new(program);
    let mut expected = Expected::of_flows(100);
    let members = [
        format!("as 110 {A}"),
        format!("as 120/121 {B}"),
        format!("as 130 {C}"),
        format!("as 140/141/142 {A}"),
    ];
    // A frame may take any member, whole.
    for member in &members {
        switch.set_lines(&[&format!("100 {member}")]);
        expected.learn(&mut runner);
    }
    let states = [
        &[(0, 1), (1, 1)][..],
        &[(0, 1), (1, 5), (2, 1), (3, 1)],
        &[(2, 3), (3, 1)],
    ];
    let states = states.map(|state| {
        let members = state
            .iter()
            .map(|&(member, weight): &(usize, u16)| format!("nexthop {} weight {weight}", members[member]));
        route(&format!("100 {}", members.collect::<Vec<_>>().join(" ")))
    });
    expected.check("groups", &mut switch, &mut runner, share(), &mut |switch, number| {
        switch.set(Mode::Replace, &states[number % states.len()..][..1]);
    });
}

/// Members of a group fail and come back.
#[test]
fn buckets() {
    let (mut switch, program) = Switch::new(1024);
    let mut runner = Runner::new(program);
    let mut expected = Expected::of_flows(100);
    let members = [format!("as 110 {A}"), format!("as 120/121 {B}")];
    for member in &members {
        switch.set_lines(&[&format!("100 {member}")]);
        expected.learn(&mut runner);
    }
    // A frame whose bucket was read before its next hop failed is an exception, for the slow path, which finds the bucket
    // that it has then. Here nobody listens.
    switch.set_next_hop("b", Reach::Out);
    expected.learn_as(XDP_DROP, &mut runner);
    switch.set_next_hop("b", Reach::Resolved(adjacency("b", mac_of(B))));
    switch.set_lines(&[&format!("100 nexthop {} nexthop {}", members[0], members[1])]);
    let [a, b] = [("a", A), ("b", B)].map(|(dev, via)| (dev, adjacency(dev, mac_of(via))));
    expected.check("buckets", &mut switch, &mut runner, share(), &mut |switch, number| {
        let (dev, back) = if number % 2 == 0 { a } else { b };
        switch.set_next_hop(dev, Reach::Out);
        switch.set_next_hop(dev, Reach::Resolved(back));
    });
}

fn mac_of(via: &str) -> Mac {
    via.split(' ').nth(2).unwrap().parse().unwrap()
}

/// A neighbour gets another MAC address.
#[test]
fn mac_addresses() {
    let (mut switch, program) = Switch::new(1024);
    let mut runner = Runner::new(program);
    switch.set_lines(&[&format!("100 as 110 {A}"), &format!("101 as 120/121 {A}")]);
    let mut expected = Expected::new(vec![labelled_frame(100, 0), labelled_frame(101, 0)]);
    let states = [[2, 0x11, 0x11, 0x11, 0x11, 0x11], [0xfe, 0xee, 0xee, 0xee, 0xee, 0xee]]
        .map(|mac| Reach::Resolved(adjacency("a", Mac(mac))));
    for state in states {
        switch.set_next_hop("a", state);
        expected.learn(&mut runner);
    }
    expected.check(
        "MAC addresses",
        &mut switch,
        &mut runner,
        share(),
        &mut |switch, number| {
            switch.set_next_hop("a", states[number % states.len()]);
        },
    );
}

/// A next hop moves between ports, with other source addresses, tags and MTUs; and it fails, so that its frames go to the
/// backup.
#[test]
fn adjacencies() {
    let (mut switch, program) = Switch::new(1024);
    let mut runner = Runner::new(program);
    switch.set_lines(&[
        &format!("100 as 110 {A} backup {B}"),
        &format!("101 as 120/121 {A} backup {B}"),
    ]);
    let mut expected = Expected::new(vec![labelled_frame(100, 0), labelled_frame(101, 0)]);
    // The one with the backup is the last that was added for `a`.
    let states = [
        Reach::Resolved(adjacency("a", mac_of(A))),
        Reach::Resolved(adjacency("c", mac_of(C))),
        Reach::Unresolved,
    ];
    for state in states {
        switch.set_next_hop("a", state);
        expected.learn(&mut runner);
        switch.settle();
    }
    let order = [0, 1, 0, 1, 2];
    expected.check(
        "adjacencies",
        &mut switch,
        &mut runner,
        share(),
        &mut |switch, number| {
            switch.set_next_hop("a", states[order[number % order.len()]]);
        },
    );
}

/// Prefixes come and go within others.
#[test]
fn prefixes() {
    let (mut switch, program) = Switch::new(1024);
    let mut runner = Runner::new(program);
    let within = [
        format!("10.7.0.0/16 encap mpls 200/201 {B}"),
        format!("10.7.0.0/20 encap mpls 300 {C}"),
        format!("10.7.5.0/24 encap mpls 400 {A}"),
        format!("10.7.5.5/32 encap mpls 500/501/502 {B}"),
        format!("10.7.5.128/25 encap mpls 600 {C}"),
    ];
    let within: Vec<Route> = within.iter().map(|line| route(line)).collect();
    let others: Vec<Route> = (0..64)
        .map(|number| route(&format!("10.7.{}.0/24 encap mpls {} {A}", 100 + number, 700 + number)))
        .collect();
    switch.set_lines(&[&format!("10.0.0.0/8 encap mpls 100 {A}")]);
    let addresses = ["10.7.5.5", "10.7.5.200", "10.7.5.77", "10.7.9.9", "10.7.77.7"];
    let frames = addresses.map(|to| ethernet(OWN, SENDER, ETH_P_IP, &packet(to, 0)));
    let mut expected = Expected::new(frames.to_vec());
    expected.learn(&mut runner);
    for route in &within {
        switch.set(Mode::Add, std::slice::from_ref(route));
        expected.learn(&mut runner);
    }
    // An address may also have the entry of a prefix between two that are there.
    for skipped in 0..within.len() {
        switch.lfib.delete(&[within[skipped].key()]).unwrap();
        expected.learn(&mut runner);
        for route in within.iter().rev() {
            switch.set(Mode::Replace, std::slice::from_ref(route));
        }
    }
    for count in (0..within.len()).rev() {
        switch.lfib.delete(&[within[count].key()]).unwrap();
        expected.learn(&mut runner);
    }
    expected.check("prefixes", &mut switch, &mut runner, share(), &mut |switch, number| {
        match number % 4 {
            0 => switch.set(Mode::Replace, &within),
            1 => switch.set(Mode::Replace, &others),
            2 => {
                let keys: Vec<_> = within.iter().map(Route::key).collect();
                switch.lfib.delete(&keys).unwrap();
            }
            _ => {
                // One by one, in another order each time.
                for step in 0..within.len() {
                    let at = (number / 4 + step * 3) % within.len();
                    switch.set(Mode::Replace, &within[at..=at]);
                }
                let keys: Vec<_> = others.iter().chain(&within).map(Route::key).collect();
                switch.lfib.delete(&keys).unwrap();
            }
        }
    });
}

/// All labels are replaced by others, of which half are the same: those lose no frame.
#[test]
fn all_labels() {
    /// How many of the labels that stay are looked at.
    const LOOKED_AT: u32 = 64;
    let labels = variable("MPLSXDP_LABELS", DEFAULT_LABELS);
    let first = Label::FIRST_ORDINARY.get();
    let half = (labels - first) / 3;
    let (mut switch, program) = Switch::new(labels);
    let mut runner = Runner::new(program);
    let out = |label: u32, add: u32| first + (label - first + add) % (MAX_LABELS - first);
    let all = |range: std::ops::Range<u32>, via: &str, add: u32| -> Vec<Route> {
        range
            .map(|label| route(&format!("{label} as {} {via}", out(label, add))))
            .collect()
    };
    let kept = KEPT.map(|(label, via)| route(&format!("{label} as {label} {via}")));
    let with_kept = |mut routes: Vec<Route>| {
        routes.retain(|route| kept.iter().all(|kept| kept.key() != route.key()));
        routes.extend(kept.iter().cloned());
        routes
    };
    let states = [
        with_kept(all(first..first + 2 * half, A, 7)),
        with_kept(all(first + half..first + 3 * half, B, 524_288)),
    ];
    let step = half / LOOKED_AT;
    let looked_at = (0..LOOKED_AT).map(|index| first + half + index * step);
    let looked_at = looked_at.filter(|label| KEPT.iter().all(|(kept, _)| kept != label));
    let mut expected = Expected::new(looked_at.map(|label| labelled_frame(label, 0)).collect());
    for state in &states {
        switch.set(Mode::ReplaceAll, state);
        expected.learn(&mut runner);
    }
    expected.check(
        "all labels",
        &mut switch,
        &mut runner,
        share(),
        &mut |switch, number| {
            switch.set(Mode::ReplaceAll, &states[number % 2]);
        },
    );
}

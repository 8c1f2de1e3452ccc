//! Runs cases on the XDP program in the kernel with BPF_PROG_TEST_RUN: the program as the controller loads it, with its
//! tables in maps. Redirects are decided but not carried out; the slow path is not involved. Needs root.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun, TestRunOptions};
use mplsxdp::dataplane::Tables as _;
use mplsxdp::dataplane::kernel::KernelTables;
use mplsxdp::dataplane::loader::{Loader, Program, Sizes};
use mplsxdp::dataplane::release::Release;
use mplsxdp::lfib::Lfib;
use mplsxdp_common::abi::{Counter, Loss, MAX_PUSH, Reason};
use mplsxdp_common::forward::Verdict;
use mplsxdp_common::wire::{ETH_HLEN, LSE_LEN};

use super::cases::{After, Case, Line, Options};
use super::host::{Host, counted_reason, loss};
use super::notation::show;
use super::{Failure, lab};

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_REDIRECT: u32 = 4;
/// An interface that exists in every network namespace. A redirect to it is decided; TEST_RUN does not carry it out.
pub const LOOPBACK: u32 = 1;
/// Room in TEST_RUN's output for the most by which a frame can grow: pushed labels, a flow label, a control word, an
/// Ethernet header, and two VLAN tags there and one beneath.
const ROOM: usize = (MAX_PUSH + 2) * LSE_LEN + ETH_HLEN + 3 * TAG_LEN;
const TAG_LEN: usize = 4;
/// The kernel keeps some of TEST_RUN's 256 bytes of headroom for a `struct xdp_frame`, as in a driver's buffer.
/// Metadata, which lies before the frame, takes up the rest.
pub const HEADROOM: usize = 216;
/// The first kernel that accepts more than 32 bytes of metadata.
const LONG_METADATA: Release = Release { major: 6, minor: 3 };

/// The result of TEST_RUN.
#[derive(PartialEq)]
pub struct Ran {
    pub action: u32,
    pub frame: Vec<u8>,
}

/// Runs the program on a frame. The first `metadata` bytes of `data` are XDP metadata, which lies in the headroom.
pub fn test_run(program: &mut Program, data: &[u8], metadata: u32) -> Result<Ran> {
    test_run_in_buffers(program, data, metadata, data.len())
}

/// The same, with the first `linear` bytes, or as many as possible, in the first buffer and the rest in others. Kernels
/// before 6.18 accept only whole frames.
pub fn test_run_in_buffers(program: &mut Program, data: &[u8], metadata: u32, linear: usize) -> Result<Ran> {
    // `struct xdp_md`: data, data_end, data_meta, then indexes.
    let context: Vec<u8> = [metadata, linear as u32, 0, 0, 0, 0]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let mut out = vec![0; data.len() + ROOM];
    let result = program.xdp().test_run(TestRunOptions {
        data_in: Some(data),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::new()
    })?;
    out.truncate(result.data_size_out as usize);
    Ok(Ran {
        action: result.return_value,
        frame: out,
    })
}

/// The sizes of the lab's tables.
pub const SIZES: Sizes = Sizes {
    labels: lab::CAPACITY.labels,
    stacks: lab::CAPACITY.stacks,
    groups: lab::CAPACITY.groups,
    backups: lab::CAPACITY.backups,
    counter_slots: lab::CAPACITY.counter_slots,
};

/// Runs every line of these cases with all its options.
pub fn run(cases: &[&Case]) -> Result<Vec<Failure>> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this loads the XDP program into the kernel: run it as root, as `cargo xtask conformance` does"
    );
    let loader = Loader::new(SIZES)?;
    let mut tables = KernelTables::open(loader.pins(), 0)?;
    for port in lab::TX_PORTS {
        tables.set_tx_port(port, LOOPBACK)?;
    }
    let mut kernel = Kernel {
        loader,
        programs: HashMap::new(),
        lfib: lab::install(tables),
        host: Host::default(),
        reasons: HashMap::new(),
        losses: HashMap::new(),
        routes: HashMap::new(),
    };
    let mut failures = Vec::new();
    for case in cases {
        for line in &case.lines {
            if line.headroom.is_some() && Release::running().is_some_and(|running| running < LONG_METADATA) {
                eprintln!(
                    "{}: not in this kernel, which takes no more than 32 bytes of headroom away",
                    line.place
                );
                continue;
            }
            for options in &line.options {
                let wrong = kernel.check(line, options).with_context(|| format!("{}", line.place))?;
                failures.extend((!wrong.is_empty()).then(|| Failure::new(case, line, options, wrong)));
            }
        }
    }
    Ok(failures)
}

struct Kernel {
    loader: Loader,
    /// By port: each has different settings.
    programs: HashMap<u32, Program>,
    lfib: Lfib<KernelTables>,
    /// Says which routes count.
    host: Host,
    /// The present values of the counters.
    reasons: HashMap<(u16, Reason), Counter>,
    losses: HashMap<(u16, Reason, Loss), Counter>,
    routes: HashMap<u32, Counter>,
}

impl Kernel {
    /// What is wrong, or an empty string.
    fn check(&mut self, line: &Line, options: &Options) -> Result<String> {
        let settings = options.settings();
        let port = settings.port();
        if !self.programs.contains_key(&port) {
            self.programs.insert(port, self.loader.program(settings)?);
        }
        let program = self.programs.get_mut(&port).context("the program was just loaded")?;
        lab::store_port(self.lfib.tables_mut(), settings, &line.port);
        let metadata = line.headroom.map_or(0, |bytes| HEADROOM - bytes.min(HEADROOM));
        let mut ran = test_run(
            program,
            &[&vec![0; metadata], &line.frame[..]].concat(),
            metadata as u32,
        )?;
        ran.frame.drain(..metadata);

        let reason = counted_reason(line.verdict);
        let action = match (line.verdict, reason) {
            (_, Some(_)) if line.after == After::Passed => XDP_PASS,
            (_, Some(_)) => XDP_DROP,
            (Verdict::Pass, None) => XDP_PASS,
            (_, None) => XDP_REDIRECT,
        };
        let mut wrong = String::new();
        if (ran.action, &ran.frame) != (action, &line.output) {
            wrong += &format!(
                " in   {}\n want XDP action {action} {}\n got  XDP action {} {}\n",
                show(&line.frame),
                show(&line.output),
                ran.action,
                show(&ran.frame)
            );
        }
        let lab::Outcome {
            counted,
            crossed,
            in_vrf,
            ..
        } = self.host.forward(line, options);
        let port = crossed.unwrap_or_else(|| self.host.counting_port(line, options));
        for (port, reason) in [(crossed, Reason::CrossConnected), (in_vrf, Reason::Vrf)] {
            if let Some(port) = port {
                let counter = self.reasons.entry((port, reason)).or_default();
                counter.packets += 1;
                counter.bytes += line.frame.len() as u64;
            }
        }
        if let Some(reason) = reason {
            let lost = loss(reason, options.unknown).map(|loss| self.losses.entry((port, reason, loss)).or_default());
            for counter in lost
                .into_iter()
                .chain([self.reasons.entry((port, reason)).or_default()])
            {
                counter.packets += 1;
                counter.bytes += line.output.len() as u64;
            }
        }
        let tables = self.lfib.tables();
        for &reason in Reason::ALL {
            let counted = tables.reason_counter(port, reason)?;
            wrong += &difference(reason.name(), self.reasons.entry((port, reason)).or_default(), counted);
            for &loss in Loss::ALL.iter().filter(|_| reason.is_punted()) {
                let counted = tables.loss_counter(port, reason, loss)?;
                let what = format!("{}, {}", reason.name(), loss.name());
                wrong += &difference(&what, self.losses.entry((port, reason, loss)).or_default(), counted);
            }
        }
        for (slot, counter) in counted {
            let expected = self.routes.entry(slot).or_default();
            expected.packets += counter.packets;
            expected.bytes += counter.bytes;
            let counted = self.lfib.tables().route_counter(slot)?;
            wrong += &difference(&format!("slot {slot}"), expected, counted);
        }
        Ok(wrong)
    }
}

/// Describes how the two differ, and sets `expected` to the kernel's value, so that each difference is reported once.
fn difference(what: &str, expected: &mut Counter, counted: Counter) -> String {
    let wanted = std::mem::replace(expected, counted);
    if wanted == counted {
        String::new()
    } else {
        format!(" counter of {what}: want {wanted:?}, got {counted:?}\n")
    }
}

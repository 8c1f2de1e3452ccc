//! Tests in a guest: Debian kernels under qemu, without KVM and without root. See docs/kernels.md.

pub mod bench;
mod counts;
pub mod debian;
pub mod image;
pub mod init;
mod kernels;
pub mod lab;
mod machine;
pub mod package;
mod results;
mod system;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use self::counts::Measured;
use self::debian::{Architecture, Source, Unpacked};
use self::image::Origin;
use self::kernels::{Expected, KERNELS, Kernel, SHORT};
use self::machine::Interrupted;
use self::results::{Results, show};
use self::system::Extras;
use self::wire::Run;
use crate::cross::{Cross, Target};
use crate::needs::{Lacking, Version, lacking};
use crate::run::{Artifact, Kind, Summary, artifacts, build_programs_by, cargo, target};
use crate::setup;

/// The end-to-end test for kernels that are too old.
const REFUSAL: &str = "preflight::a_kernel_that_is_too_old";

/// Which tests to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Selection<'a> {
    Whole,
    /// Tests whose names contain this.
    Named(&'a str),
    /// Those that take a few minutes.
    Short,
}

/// `cargo xtask guest test [KERNEL...]`. `write`: also update the committed verifier counts, including those of this
/// machine's kernel.
pub fn test(names: &[String], selection: Selection<'_>, write: bool) -> Result<Summary> {
    if let Some(unknown) = names.iter().find(|name| kernel(name).is_none()) {
        let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!("there is no kernel {unknown}; there are: {}", known.join(", "));
    }
    if let Some(reason) = debian::missing() {
        bail!("{reason}: the tests in a guest need a machine with a Debian mirror in apt's sources");
    }
    let wanted = |kernel: &&Kernel| names.is_empty() || names.iter().any(|name| name == kernel.name);
    let mut summary = Summary::default();
    let mut measured = Vec::new();
    if write {
        measured.push(counts::measure_here(&Built::new(Architecture::Amd64)?.tests)?);
    }
    // Kernels for one processor are next to each other.
    let mut built: Option<(Architecture, Built)> = None;
    for kernel in KERNELS.iter().filter(wanted) {
        let runs = runs(kernel, selection);
        if runs.is_empty() {
            continue;
        }
        let (_, built) = match built.take_if(|(architecture, _)| *architecture == kernel.architecture) {
            Some(same) => built.insert(same),
            None => built.insert((kernel.architecture, Built::new(kernel.architecture)?)),
        };
        let (of_kernel, counts) = failed_if_not_run(kernel, run(kernel, built, selection, runs))?;
        println!("\nkernel {}: {of_kernel}", kernel.name);
        summary += of_kernel;
        measured.extend(counts);
    }
    if write {
        counts::write(measured)?;
    }
    Ok(summary)
}

/// The guest's part of `cargo xtask test --guest`. If this machine cannot do it, it counts as one skipped test, with
/// the reason.
pub fn test_short() -> Result<Summary> {
    if let Some(reason) = debian::missing() {
        println!("\nguest with kernel {SHORT} ... ignored, {reason}");
        return Ok(Summary {
            skipped: 1,
            ..Summary::default()
        });
    }
    let kernel = kernel(SHORT).context("the kernel of the short run is not in the table")?;
    let selection = Selection::Short;
    let ran = Built::new(kernel.architecture).and_then(|built| run(kernel, &built, selection, runs(kernel, selection)));
    failed_if_not_run(kernel, ran).map(|(summary, _)| summary)
}

/// A guest that could not be run is one failure, and the other tests are still reported. Ctrl-C ends everything.
fn failed_if_not_run(kernel: &Kernel, ran: Result<(Summary, Option<Measured>)>) -> Result<(Summary, Option<Measured>)> {
    match ran {
        Err(error) if !error.is::<Interrupted>() => {
            println!("\nguest with kernel {} ... FAILED: {error:#}", kernel.name);
            let failed = Summary {
                failed: 1,
                ..Summary::default()
            };
            Ok((failed, None))
        }
        ran => ran,
    }
}

fn kernel(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

/// The programs that run in the guest.
struct Built {
    origin: Origin,
    mplsxdp: PathBuf,
    /// This program, as it is now: the build may replace its file.
    xtask: PathBuf,
    /// Test programs, or the labs.
    tests: Vec<Artifact>,
}

impl Built {
    fn new(architecture: Architecture) -> Result<Self> {
        setup::setup()?;
        let cross = match architecture {
            Architecture::Amd64 => None,
            Architecture::Arm64 => Some(Cross::setup(Target::Arm64)?),
        };
        let cargo = |subcommand| {
            cross
                .as_ref()
                .map_or_else(|| cargo(subcommand), |cross| cross.cargo(subcommand))
        };
        let [mplsxdp, xtask] = build_programs_by(cargo("build"), ["mplsxdp", "xtask"])?;
        setup::guest(architecture)?;
        // As `cargo xtask test` builds them: with other packages, other features would be built.
        let mut command = cargo("test");
        command.arg("--no-run");
        let tests = artifacts(command)?
            .into_iter()
            .filter(|artifact| artifact.kind == Kind::IntegrationTests)
            .collect();
        let origin = match architecture {
            Architecture::Amd64 => Origin::Machine,
            Architecture::Arm64 => {
                let directory = target().join("guest").join("arm64-packages");
                fs::create_dir_all(&directory)?;
                let root = debian::packages(architecture, Source::Machine, &system::PACKAGES, &directory);
                Origin::Arm64(root.context("cannot get the guest's programs")?)
            }
        };
        Ok(Self {
            origin,
            mplsxdp,
            xtask,
            tests,
        })
    }
}

/// The runs of test programs, each with its selection of tests, on a kernel of this version.
fn runs(kernel: &Kernel, selection: Selection<'_>) -> Vec<Run> {
    let run = |program: &str, arguments: &[&str]| Run {
        program: program.to_owned(),
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
    };
    let e2e = |filters: &[&str]| filters.iter().map(|filter| run("e2e", &[filter])).collect::<Vec<_>>();
    if kernel.expected == Expected::Refusal {
        return match selection {
            Selection::Named(name) if !REFUSAL.contains(name) => Vec::new(),
            _ => e2e(&[REFUSAL]),
        };
    }
    // The output of `budget` has the verifier's counts.
    if selection == Selection::Short {
        let mut runs = vec![
            run("budget", &["--nocapture", "pipe_mode"]),
            run("xsk", &[]),
            run("kernel", &[]),
        ];
        runs.extend(e2e(&["virtio::", "switching::", "untouched::"]));
        return runs;
    }
    let mut runs = vec![
        run("budget", &["--nocapture"]),
        run("differential", &[]),
        run("torn", &["--show-output"]),
        run("xsk", &[]),
        run("kernel", &["--show-output"]),
        run("e2e", &[]),
    ];
    if let Selection::Named(name) = selection {
        // A program that has the name runs as a whole.
        for run in runs.iter_mut().filter(|run| !run.program.contains(name)) {
            run.arguments.push(name.to_owned());
        }
    }
    runs
}

/// Boots a kernel, runs tests in it and counts them, and collects the verifier's counts of that kernel.
fn run(
    kernel: &'static Kernel,
    built: &Built,
    selection: Selection<'_>,
    mut runs: Vec<Run>,
) -> Result<(Summary, Option<Measured>)> {
    let directory = target().join("guest").join(kernel.name);
    fs::create_dir_all(&directory)?;
    let unpacked = debian::fetch(kernel, &directory).with_context(|| format!("cannot get kernel {}", kernel.name))?;
    let version = Version::of(&unpacked.release).with_context(|| format!("{} is not a version", unpacked.release))?;
    let mut skipped: Vec<(String, Lacking)> = Vec::new();
    for run in &mut runs {
        let wanted = |test: &Lacking| match selection {
            Selection::Named(name) => test.test.contains(name),
            Selection::Whole | Selection::Short => true,
        };
        for test in lacking(&run.program, version).filter(wanted) {
            run.arguments.extend(["--skip".to_owned(), test.test.to_owned()]);
            skipped.push((run.program.clone(), test));
        }
    }
    skipped.dedup_by(|a, b| a.0 == b.0 && a.1.test == b.1.test);
    let initramfs = directory.join("initramfs");
    system::make(&initramfs, &unpacked, built, &runs, &Extras::default())?;

    let all_run = !matches!(selection, Selection::Named(_));
    let (mut results, came_to_its_end) = boot(&unpacked, &initramfs, &directory, &runs, all_run)?;
    let mut summary = results.summary(came_to_its_end);
    for (program, test) in skipped {
        println!("{program} {} ... ignored, {test}", test.test);
        summary.skipped += 1;
    }
    let measured = (!results.counts.is_empty()).then_some(Measured {
        release: unpacked.release,
        counts: results.counts,
    });
    Ok((summary, measured))
}

/// Boots a kernel that does `runs`, and shows the guest's output. Returns what it reported, and whether it came to its
/// end. A guest that dies of a mistake of qemu's gets a second try.
fn boot<'a>(
    kernel: &Unpacked,
    initramfs: &Path,
    directory: &Path,
    runs: &'a [Run],
    all_run: bool,
) -> Result<(Results<'a>, bool)> {
    let messages = directory.join("messages.log");
    let mut again = true;
    loop {
        println!("\nguest with kernel {}", kernel.release);
        let mut results = Results::new(runs, all_run);
        let booted = machine::boot(kernel, initramfs, &messages, |line| {
            show(&line, runs);
            results.hear(line);
        });
        match booted {
            Ok(()) => return Ok((results, true)),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => println!("guest with kernel {}: {error:#}", kernel.release),
        }
        if !again || !machine::died_of_stale_code(&messages) {
            return Ok((results, false));
        }
        println!(
            "guest with kernel {}: that is qemu's mistake: once more",
            kernel.release
        );
        again = false;
    }
}

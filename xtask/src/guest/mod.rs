//! Tests in a guest: kernels of Debian under qemu, which needs no KVM and no root. See docs/kernels.md.

mod counts;
mod debian;
mod image;
pub mod init;
mod kernels;
mod machine;
mod wire;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use self::counts::{Counts, Measured};
use self::debian::Unpacked;
use self::image::Image;
use self::init::{INIT, TESTS};
use self::kernels::{Expected, KERNELS, Kernel, SHORT};
use self::machine::{Interrupted, NICS};
use self::wire::{Line, PLAN, Plan, Run};
use crate::install;
use crate::needs::{Lacking, Version, lacking};
use crate::run::{Artifact, Kind, Summary, artifacts, build_programs, cargo};

/// Tests are told by it where the network interfaces are that they may have; the value is that of `mplsxdp_tests::needs`.
const NICS_VARIABLE: &str = "MPLSXDP_VIRTIO";
/// How many random frames the differential test compares: it is slow without KVM, and the host's run has many more.
const FRAMES: (&str, &str) = ("MPLSXDP_FRAMES", "2000");

/// The end-to-end test for kernels that are too old.
const REFUSAL: &str = "preflight::a_kernel_that_is_too_old";

/// Programs of this machine that the guest has. `depmod` is for this machine only.
const TOOLS: [&str; 12] = [
    "modprobe",
    "ip",
    "ping",
    "ethtool",
    "tcpdump",
    "traceroute",
    "mtr",
    "mtr-packet",
    "setpriv",
    "sh",
    "sleep",
    "cat",
];
/// The parts of the kernel's modules that the guest has.
const MODULES: [&str; 5] = ["net", "lib", "crypto", "drivers/net", "drivers/virtio"];
/// Those that nothing loads by itself: of the machine's devices, and of /dev/net/tun.
const LOADED: [&str; 3] = ["virtio_pci", "virtio_net", "tun"];

/// What of the tests is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Selection<'a> {
    Whole,
    /// Tests whose names contain this.
    Named(&'a str),
    /// What fits into a few minutes.
    Short,
}

/// `cargo xtask guest test [KERNEL...]`. `write`: the table in the documentation is written.
pub fn test(names: &[String], selection: Selection<'_>, write: bool) -> Result<Summary> {
    if let Some(unknown) = names.iter().find(|name| kernel(name).is_none()) {
        let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!("there is no kernel {unknown}; there are: {}", known.join(", "));
    }
    if let Some(reason) = debian::missing() {
        bail!("{reason}: the tests in a guest need a machine with a Debian mirror in apt's sources");
    }
    let wanted = |kernel: &&Kernel| names.is_empty() || names.iter().any(|name| name == kernel.name);
    let built = Built::new()?;
    let mut summary = Summary::default();
    let mut measured = Vec::new();
    for kernel in KERNELS.iter().filter(wanted) {
        let runs = runs(kernel, selection);
        if runs.is_empty() {
            continue;
        }
        let (of_kernel, counts) = failed_if_not_run(kernel, run(kernel, &built, selection, runs))?;
        println!("\nkernel {}: {of_kernel}", kernel.name);
        summary += of_kernel;
        measured.extend(counts);
    }
    if write {
        counts::write(&measured)?;
    }
    Ok(summary)
}

/// The guest's part of `cargo xtask test --guest`. Where this machine cannot do it, that is one skipped test, with the reason.
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
    let ran = Built::new().and_then(|built| run(kernel, &built, selection, runs(kernel, selection)));
    failed_if_not_run(kernel, ran).map(|(summary, _)| summary)
}

/// A guest that could not be had is one failure, and no reason to say nothing of other tests. Ctrl-C is.
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

/// What runs in the guest.
struct Built {
    mplsxdp: PathBuf,
    /// This program, as it is now: the build may have replaced the file that runs.
    xtask: PathBuf,
    tests: Vec<Artifact>,
}

impl Built {
    fn new() -> Result<Self> {
        let [mplsxdp, xtask] = build_programs(["mplsxdp", "xtask"], &[])?;
        install::guest()?;
        let mut command = cargo("test");
        command.args([
            "--no-run",
            "--package",
            "mplsxdp",
            "--package",
            "mplsxdp-tests",
            "--tests",
        ]);
        let tests = artifacts(command)?
            .into_iter()
            .filter(|artifact| artifact.kind == Kind::IntegrationTests)
            .collect();
        Ok(Self { mplsxdp, xtask, tests })
    }
}

/// The runs of test programs, each with what it takes of the tests, on a kernel of this version.
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
    let mut runs = vec![
        // Its output has the verifier's counts.
        match selection {
            Selection::Short => run("budget", &["--nocapture", "pipe_mode"]),
            Selection::Whole | Selection::Named(_) => run("budget", &["--nocapture"]),
        },
        run("differential", &[]),
        run("xsk", &[]),
        run("kernel", &[]),
    ];
    runs.extend(match selection {
        Selection::Whole | Selection::Named(_) => vec![run("e2e", &[])],
        Selection::Short => e2e(&["virtio::", "switching::", "untouched::"]),
    });
    if let Selection::Named(name) = selection {
        for run in &mut runs {
            run.arguments.push(name.to_owned());
        }
    }
    runs
}

/// Boots a kernel, runs tests in it and counts them, and what the verifier says of the program there.
fn run(
    kernel: &Kernel,
    built: &Built,
    selection: Selection<'_>,
    mut runs: Vec<Run>,
) -> Result<(Summary, Option<Measured>)> {
    let directory = target().join("guest").join(kernel.name);
    fs::create_dir_all(&directory)?;
    let unpacked = debian::fetch(kernel, &directory).with_context(|| format!("cannot get kernel {}", kernel.name))?;
    let version = Version::of(&unpacked.release).with_context(|| format!("{} is no version", unpacked.release))?;
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
    make_image(&initramfs, &unpacked, built, &runs)?;

    println!("\nguest with kernel {}", unpacked.release);
    let mut results = Results::new(&runs, !matches!(selection, Selection::Named(_)));
    let messages = directory.join("messages.log");
    let booted = machine::boot(&unpacked.image, &initramfs, &messages, |line| {
        show(&line, &runs);
        results.hear(line);
    });
    let came_to_its_end = match booted {
        Ok(()) => true,
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => {
            println!("guest with kernel {}: {error:#}", kernel.name);
            false
        }
    };
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

fn make_image(path: &Path, kernel: &Unpacked, built: &Built, runs: &[Run]) -> Result<()> {
    let mut image = Image::create(path)?;
    image.program(&built.xtask, INIT.trim_start_matches('/'))?;
    let tests = TESTS.trim_start_matches('/');
    image.program(&built.mplsxdp, &format!("{tests}/mplsxdp"))?;
    let mut programs: Vec<_> = runs.iter().map(|run| &run.program).collect();
    programs.dedup();
    for name in programs {
        let artifact = built.tests.iter().find(|artifact| artifact.name == *name);
        let artifact = artifact.with_context(|| format!("there is no test program {name}"))?;
        image.program(&artifact.executable, &format!("{tests}/{name}"))?;
    }
    for tool in TOOLS {
        image.tool(tool)?;
    }
    // What tools look themselves up in.
    image.text("etc/passwd", b"root:x:0:0::/root:/bin/sh\ntcpdump:x:1:1::/:/bin/sh\n")?;
    image.text("etc/group", b"root:x:0:\ntcpdump:x:1:\n")?;
    let modules = Path::new("usr/lib/modules").join(&kernel.release);
    for entry in fs::read_dir(&kernel.modules)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("modules.") {
            let to = modules.join(&name);
            image.text(&to.to_string_lossy(), &fs::read(entry.path())?)?;
        }
    }
    for part in MODULES {
        let part = Path::new("kernel").join(part);
        let from = kernel.modules.join(&part);
        if from.exists() {
            image.tree(&from, &modules.join(part))?;
        }
    }
    let nics: Vec<_> = (0..NICS).map(|number| format!("virtio{number}")).collect();
    let environment = [
        ("PATH", "/usr/bin"),
        ("HOME", "/root"),
        ("MPLSXDP_PROGRAM", &*format!("{TESTS}/mplsxdp")),
        (NICS_VARIABLE, &nics.join(",")),
        FRAMES,
    ];
    let plan = Plan {
        modules: LOADED.map(str::to_owned).to_vec(),
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        runs: runs.to_vec(),
    };
    image.text(PLAN, &serde_json::to_vec(&plan)?)?;
    image.finish()
}

/// What the user sees of what the guest says.
fn show(line: &Line, runs: &[Run]) {
    match line {
        Line::Kernel(release) => println!("Linux {release} is up"),
        Line::Begin(number) => {
            if let Some(run) = runs.get(*number) {
                println!("\nguest: {run}");
            }
        }
        Line::Stdout(text) | Line::Stderr(text) => println!("{text}"),
        Line::Error(text) => println!("guest: {text}"),
        Line::End(..) | Line::Done => {}
    }
}

/// What the guest has said of each run.
struct Results<'a> {
    runs: &'a [Run],
    /// Whether a program of which no test passes has failed.
    all_run: bool,
    /// Of the runs that have ended: whether the program said that it passed, and what it counted.
    ended: BTreeMap<usize, (bool, Summary)>,
    current: Option<(usize, Summary)>,
    counts: Counts,
    errors: u64,
}

impl<'a> Results<'a> {
    fn new(runs: &'a [Run], all_run: bool) -> Self {
        Self {
            runs,
            all_run,
            ended: BTreeMap::new(),
            current: None,
            counts: Counts::default(),
            errors: 0,
        }
    }

    fn hear(&mut self, line: Line) {
        match line {
            Line::Begin(number) => self.current = Some((number, Summary::default())),
            Line::Stdout(text) => {
                counts::read(&text, &mut self.counts);
                if let Some((_, summary)) = &mut self.current {
                    summary.add_line(&text);
                }
            }
            Line::End(number, well) => {
                if let Some((current, summary)) = self.current.take_if(|(current, _)| *current == number) {
                    self.ended.insert(current, (well, summary));
                }
            }
            Line::Error(_) => self.errors += 1,
            Line::Kernel(_) | Line::Stderr(_) | Line::Done => {}
        }
    }

    /// A run that did not begin, did not end, or ended badly without counting a failure, is one failure; and so is one of
    /// which no test passed: what a guest is made for it must not lack.
    fn summary(&mut self, came_to_its_end: bool) -> Summary {
        let mut summary = Summary::default();
        for (number, run) in self.runs.iter().enumerate() {
            match self.ended.remove(&number) {
                Some((well, counted)) => {
                    let ran = !self.all_run || counted.passed > 0;
                    if counted.failed == 0 && !(well && ran) {
                        println!("guest: `{run}` failed, or no test of it passed");
                        summary.failed += 1;
                    }
                    summary += counted;
                }
                None => {
                    println!("guest: `{run}` did not come to its end");
                    summary.failed += 1;
                }
            }
        }
        // An error is one of a run that is counted already, or of the guest.
        if summary.failed == 0 && (self.errors > 0 || !came_to_its_end) {
            summary.failed = 1;
        }
        summary
    }
}

/// The target directory that this program was built in.
fn target() -> PathBuf {
    let own = env::current_exe().unwrap_or_else(|_| PathBuf::from("."));
    let target = crate::toolchain::work_directory(&own);
    target.parent().unwrap_or(&target).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_runs() -> Vec<Run> {
        ["budget", "e2e"]
            .map(|program| Run {
                program: program.into(),
                arguments: Vec::new(),
            })
            .to_vec()
    }

    fn said(runs: &[Run], lines: &str) -> String {
        let mut results = Results::new(runs, true);
        let mut done = false;
        for line in lines.lines() {
            match Line::parse(line).unwrap() {
                Line::Done => done = true,
                line => results.hear(line),
            }
        }
        results.summary(done).to_string()
    }

    #[test]
    fn what_a_guest_does_not_say_has_failed() {
        let runs = two_runs();
        let well = "B0\n1test result: ok. 2 passed; 0 failed; 0 ignored\nE0 true\n";
        assert_eq!(said(&runs, ""), "0 passed, 2 failed");
        assert_eq!(said(&runs, well), "2 passed, 1 failed");
        assert_eq!(
            said(
                &runs,
                &format!("{well}B1\n1test result: ok. 3 passed; 0 failed; 1 ignored")
            ),
            "2 passed, 1 failed"
        );
        assert_eq!(said(&runs, &format!("{well}B1\nE1 true\nD")), "2 passed, 1 failed");
        assert_eq!(said(&runs, &format!("{well}B1\nE1 false\nD")), "2 passed, 1 failed");
        let whole = format!("{well}B1\n1test result: ok. 3 passed; 0 failed; 1 ignored\nE1 true\n");
        assert_eq!(said(&runs, &whole), "5 passed, 1 failed, 1 skipped");
        assert_eq!(
            said(&runs, &format!("{whole}!modprobe\nD")),
            "5 passed, 1 failed, 1 skipped"
        );
        assert_eq!(said(&runs, &format!("{whole}D")), "5 passed, 0 failed, 1 skipped");
    }
}

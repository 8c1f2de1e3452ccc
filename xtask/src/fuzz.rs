//! Runs the differential test for any length of time, and the fuzz targets with cargo-fuzz.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};

use crate::run::{Interrupts, cargo, checked_test, is_installed, root_command, run_tests, run_tool, shown, workspace};
use crate::setup;

/// Compares host and kernel on random frames; not a target of cargo-fuzz.
const DIFFERENTIAL: &str = "differential";
const DIFFERENTIAL_TEST: &str = "random_frames_over_random_tables_agree";
const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// Longer inputs find nothing that shorter ones do not.
const MAX_LEN: u32 = 4096;
/// No input takes a thousandth of it.
const TIMEOUT_S: u32 = 10;

#[derive(clap::Args)]
pub struct Arguments {
    /// `differential`, or a target in fuzz/fuzz_targets [default: all].
    targets: Vec<String>,
    /// How long each fuzz target runs.
    #[arg(long, default_value_t = 5, conflicts_with = "runs")]
    minutes: u32,
    /// How many inputs each fuzz target gets, instead.
    #[arg(long)]
    runs: Option<u32>,
    /// How many frames the differential test compares.
    #[arg(long, default_value_t = 2_000_000)]
    frames: u32,
    /// The seed of the random frames [default: a new one each time].
    #[arg(long)]
    seed: Option<u64>,
    /// Only the frames of this world, to repeat a failure.
    #[arg(long, requires = "seed")]
    world: Option<u32>,
    /// A capture, pcapng or pcap, whose frames are added to the inputs.
    #[arg(long, value_name = "CAPTURE")]
    seeds: Option<PathBuf>,
}

/// The result of a target.
struct Outcome {
    target: String,
    text: String,
    failed: bool,
}

pub fn fuzz(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    for target in &arguments.targets {
        ensure!(
            target == DIFFERENTIAL || known.contains(target),
            "there is no fuzz target `{target}`; there are {DIFFERENTIAL}, {}",
            known.iter().cloned().collect::<Vec<_>>().join(", ")
        );
    }
    let is_chosen = |target: &str| arguments.targets.is_empty() || arguments.targets.iter().any(|one| one == target);
    setup::setup()?;
    let frames = match &arguments.seeds {
        Some(capture) => Some(make_seeds(capture)?),
        None => None,
    };
    let mut outcomes = Vec::new();
    if is_chosen(DIFFERENTIAL) {
        outcomes.push(differential(arguments, frames.as_deref())?);
    }
    let chosen: Vec<_> = known.into_iter().filter(|target| is_chosen(target)).collect();
    if !chosen.is_empty() {
        let fuzzer = Fuzzer::find()?;
        eprintln!("fuzz targets: {fuzzer}");
        for target in chosen {
            outcomes.push(fuzzer.run(&target, arguments)?);
        }
    }
    println!();
    for Outcome { target, text, .. } in &outcomes {
        println!("{target:14} {text}");
    }
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.failed)
        .map(|outcome| &*outcome.target)
        .collect();
    ensure!(failed.is_empty(), "found something: {}", failed.join(", "));
    Ok(())
}

fn directory(name: &str) -> PathBuf {
    workspace().join("fuzz").join(name)
}

fn targets() -> Result<BTreeSet<String>> {
    let directory = directory("fuzz_targets");
    let programs = fs::read_dir(&directory).with_context(|| format!("no {}", directory.display()))?;
    programs
        .map(|program| {
            Ok(program?
                .path()
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

/// Writes the frames of a capture into the corpora of the targets that take frames; the returned file is for the
/// differential test.
fn make_seeds(capture: &Path) -> Result<PathBuf> {
    let corpus = directory("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let frames = corpus.join("frames.txt");
    let mut command = cargo("run");
    command
        .args(["--quiet", "--package", "mplsxdp-tests", "--example", "fuzz_seeds", "--"])
        .arg(std::path::absolute(capture)?)
        .args([&corpus, &frames]);
    run_tool(&mut command, "the capture gives no seeds")?;
    Ok(frames)
}

fn differential(arguments: &Arguments, frame_file: Option<&Path>) -> Result<Outcome> {
    let test = checked_test(DIFFERENTIAL)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(now.as_secs());
    let (seed_text, frames) = (seed.to_string(), arguments.frames.to_string());
    let world = arguments.world.map(|world| world.to_string());
    let mut variables = vec![
        ("MPLSXDP_SEED", Path::new(&seed_text)),
        ("MPLSXDP_FRAMES", Path::new(&frames)),
    ];
    variables.extend(world.as_ref().map(|world| ("MPLSXDP_WORLD", Path::new(world))));
    variables.extend(frame_file.map(|file| ("MPLSXDP_FRAME_FILE", file)));
    let mut command = root_command(
        &test.executable,
        "The differential test loads a BPF program",
        &variables,
    )?;
    let begin = Instant::now();
    let summary =
        run_tests(
            command
                .current_dir(&test.package_directory)
                .args([DIFFERENTIAL_TEST, "--exact", "--nocapture"]),
        )?;
    let failed = summary.failed > 0 || summary.passed == 0;
    let text = match (failed, arguments.world) {
        (true, _) => {
            let seeds = arguments
                .seeds
                .as_ref()
                .map_or(String::new(), |file| format!(" --seeds {}", file.display()));
            format!(
                "host and kernel differ, seed {seed}; again: cargo xtask fuzz {DIFFERENTIAL}{seeds} --seed {seed} --world N, \
                 where N is the MPLSXDP_WORLD above"
            )
        }
        (false, Some(world)) => format!("world {world} of seed {seed}: host and kernel agree"),
        (false, None) => format!(
            "{frames} frames in {} s, seed {seed}: host and kernel agree",
            begin.elapsed().as_secs()
        ),
    };
    Ok(Outcome {
        target: DIFFERENTIAL.into(),
        text,
        failed,
    })
}

/// cargo-fuzz, and the compiler that it builds with.
struct Fuzzer {
    /// rustup's name of a nightly toolchain. `None`: the compiler of this workspace, with unstable features enabled.
    nightly: Option<String>,
    sanitizer: &'static str,
}

impl std::fmt::Display for Fuzzer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.nightly {
            Some(name) => write!(f, "toolchain {name}")?,
            None => f.write_str("the stable toolchain with RUSTC_BOOTSTRAP=1, because there is no nightly one")?,
        }
        match self.sanitizer {
            "none" => f.write_str(", without a sanitizer, as it has none"),
            sanitizer => write!(f, ", {sanitizer} sanitizer"),
        }
    }
}

impl Fuzzer {
    /// Installs cargo-fuzz if it is missing.
    fn find() -> Result<Self> {
        let mut fuzzer = Self {
            nightly: nightly(),
            sanitizer: "none",
        };
        if fuzzer.has_address_sanitizer()? {
            fuzzer.sanitizer = "address";
        }
        let found = fuzzer.cargo().args(["fuzz", "--version"]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            let mut install = cargo("install");
            install.args(["--locked", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION]);
            // As for programs of this machine, wherever this workspace builds its own.
            run_tool(
                install.env_remove("CARGO_TARGET_DIR"),
                "install cargo-fuzz, from crates.io",
            )?;
        }
        Ok(fuzzer)
    }

    fn tool(&self, name: &str) -> Command {
        match &self.nightly {
            Some(toolchain) => {
                let mut command = Command::new("rustup");
                command.args(["run", toolchain, name]);
                // It is another cargo than the one that runs this.
                command.env_remove("CARGO").env_remove("RUSTC");
                command
            }
            None => {
                let mut command = Command::new(name);
                command.env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }

    fn cargo(&self) -> Command {
        let mut command = self.tool("cargo");
        command.current_dir(workspace());
        command
    }

    /// Whether the runtime for instrumented programs is installed.
    fn has_address_sanitizer(&self) -> Result<bool> {
        let output = self
            .tool("rustc")
            .args(["--print", "target-libdir"])
            .output()
            .context("cannot run rustc")?;
        ensure!(
            output.status.success(),
            "rustc: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let files = fs::read_dir(&directory).with_context(|| format!("no {}", directory.display()))?;
        let is_runtime = |name: &str| name.starts_with("librustc-") && name.ends_with("_rt.asan.a");
        Ok(files
            .flatten()
            .any(|file| is_runtime(&file.file_name().to_string_lossy())))
    }

    /// Runs a target on its corpus, which grows, and on the inputs that were found before.
    fn run(&self, target: &str, arguments: &Arguments) -> Result<Outcome> {
        let corpus = directory("corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        let mut command = self.cargo();
        command
            .args(["fuzz", "run", "--sanitizer", self.sanitizer, target])
            .args([&corpus, &directory("regressions").join(target)])
            .args(["--", "-print_final_stats=1"])
            .arg(format!("-max_len={MAX_LEN}"))
            .arg(format!("-timeout={TIMEOUT_S}"));
        match arguments.runs {
            Some(runs) => command.arg(format!("-runs={runs}")),
            None => command.arg(format!("-max_total_time={}", arguments.minutes * 60)),
        };
        let begin = Instant::now();
        let mut statistics = None;
        let mut artifact = None;
        let status = watch(&mut command, |line| {
            if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                statistics = Some(count.trim().to_owned());
            }
            if let Some((_, path)) = line.split_once("Test unit written to ") {
                artifact = Some(path.trim().to_owned());
            }
        })?;
        let elapsed = begin.elapsed().as_secs();
        let text = match (status.success(), &artifact, statistics) {
            (true, _, Some(runs)) => format!("{runs} inputs in {elapsed} s, none that breaks anything"),
            (_, Some(input), _) => {
                format!("broken by {input}; once mended, keep it: cp {input} fuzz/regressions/{target}/NAME")
            }
            _ => bail!("`{}` failed ({status})", shown(&command)),
        };
        Ok(Outcome {
            target: target.to_owned(),
            text,
            failed: artifact.is_some(),
        })
    }
}

/// The first nightly toolchain that rustup has.
fn nightly() -> Option<String> {
    if !is_installed("rustup") {
        return None;
    }
    let output = Command::new("rustup").args(["toolchain", "list"]).output().ok()?;
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = list.lines().find(|line| line.starts_with("nightly"))?;
    name.split_whitespace().next().map(str::to_owned)
}

/// Runs a command, shows its output, and passes each line of it to `each`.
fn watch(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let line = shown(command);
    eprintln!("> {line}");
    let (reader, writer) = std::io::pipe()?;
    let interrupts = Interrupts::for_child()?;
    let mut child = command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    // The command holds the pipe's other end, too, for another run.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    for output in BufReader::new(reader).split(b'\n') {
        let output = output?;
        let output = String::from_utf8_lossy(&output);
        writeln!(std::io::stderr(), "{output}")?;
        each(&output);
    }
    let status = child.wait()?;
    interrupts.check()?;
    Ok(status)
}

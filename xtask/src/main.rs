//! Builds, shows, tests and measures mplsxdp: `cargo xtask --help`.

mod cross;
mod fuzz;
mod guest;
mod install;
mod needs;
mod package;
mod run;
mod setup;
#[path = "../../mplsxdp/build/toolchain.rs"]
mod toolchain;
mod torn;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::cross::{Cross, Target};
use crate::guest::Selection;
use crate::run::{
    Kind, PROGRAM_VARIABLE, PROMETHEUS_VARIABLE, PYTHON_VARIABLE, Summary, artifacts, build_programs, cargo,
    root_command, run_tests, run_tool,
};

/// Builds, shows, tests and measures mplsxdp.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs the packages and tools that building, the demo and the tests need.
    Setup,
    /// Builds everything.
    Build {
        /// Optimised, as for use.
        #[arg(long)]
        release: bool,
        /// For another processor than this machine's.
        #[arg(long, value_enum, value_name = "TRIPLE")]
        target: Option<Target>,
    },
    /// Builds and installs the program, its manual pages, shell completions and systemd unit.
    Install(install::Arguments),
    /// Builds packages for Debian and for distributions with RPM, and prints where they are.
    Package(package::Arguments),
    /// Shows in network namespaces: labels through three routers, hosts that push labels, traceroute along an LSP.
    ///
    /// `cargo xtask demo patch` shows cross-connected ports instead; `demo frr` an MPLS VPN of routers with FRR, in a virtual
    /// machine (labs/README.md).
    Demo {
        /// What to show instead.
        #[arg(value_enum)]
        part: Option<Part>,
        /// Run the programs `mplsxdp` and `demo` of this directory, such as target/debug, instead of building them.
        #[arg(long, value_name = "DIRECTORY")]
        built: Option<PathBuf>,
    },
    /// Builds and runs every test that this machine can run.
    Test {
        /// Only tests whose names contain this.
        filter: Option<String>,
        /// A few of them also in a guest with the oldest kernel that mplsxdp runs on, and the lab l3vpn.
        #[arg(long, conflicts_with = "filter")]
        guest: bool,
        /// Instead those that qemu's emulator of another processor can run, built for it. They need no root.
        #[arg(long, value_enum, value_name = "TRIPLE", conflicts_with = "guest")]
        target: Option<Target>,
    },
    /// Tests with other kernels, in a virtual machine.
    Guest {
        #[command(subcommand)]
        command: GuestCommand,
    },
    /// Runs every case of conformance/ on the host, in the kernel and on real ports, and prints the table of rules.
    Conformance {
        /// Only cases whose names contain this, with the frames that go in and come out.
        name: Option<String>,
        /// Write docs/conformance.md if everything passes. Without this, a page that does not match the files is a
        /// failure.
        #[arg(long, conflicts_with = "name")]
        write: bool,
    },
    /// Measures the forwarding rate.
    Bench {
        /// Passed on to the bench.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Lets a router run among everything that happens to routers, and accounts for each frame that is lost.
    Soak {
        /// Passed on: `--minutes N`, by default 60, and `--seed S`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Looks for inputs that break something: host and kernel on random frames, and each fuzz target (fuzz/README.md).
    Fuzz(fuzz::Arguments),
    /// Runs many frames while entries change: each must be one that the old or the new entry alone makes.
    Torn(torn::Arguments),
    /// Checks formatting, and runs clippy on all crates.
    Lint,
}

#[derive(Subcommand)]
enum GuestCommand {
    /// Boots kernels of Debian under qemu, without KVM, and runs the tests that need a kernel in each.
    Test {
        /// By their names in docs/kernels.md; all if none is named.
        kernels: Vec<String>,
        /// Only tests whose names contain this.
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
        /// Only those of `cargo xtask test --guest`.
        #[arg(long, conflicts_with = "only")]
        short: bool,
        /// Writes the verifier's counts, including those of this machine's kernel, into mplsxdp/tests/verifier.json and
        /// docs/kernels.md.
        #[arg(long)]
        write: bool,
    },
    /// Measures mplsxdp beside the kernel's own MPLS, in a guest.
    Bench {
        /// By its name in docs/kernels.md.
        #[arg(default_value = "6.12")]
        kernel: String,
        /// Passed on to the bench; by default a swap, a pop and an imposition are measured.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Installs, upgrades, removes and purges the .deb in a Debian with systemd, under traffic.
    Package,
    /// Shows and checks mplsxdp among routers that run FRR or only Linux, in a guest whose kernel has MPLS
    /// (labs/README.md).
    Lab {
        /// Names of labs, or `all`; labs/README.md lists them, and so does a name that no lab has.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// A demo other than the one in network namespaces.
#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// The lab l3vpn: OSPF, LDP and BGP by FRR, and mplsxdp on the P router.
    Frr,
    /// Two hosts through a cross-connect, beside a Linux bridge.
    Patch,
}

fn main() -> ExitCode {
    if guest::init::is_init() {
        guest::init::main();
    }
    run::search_system_directories();
    let done = match Arguments::parse().command {
        Command::Setup => setup::setup().map(|toolchain| eprintln!("eBPF programs: {toolchain}")),
        Command::Install(arguments) => install::install(&arguments),
        Command::Package(arguments) => package::package(&arguments),
        Command::Build { release, target } => build(release, target),
        Command::Demo {
            part: Some(Part::Frr), ..
        } => guest::lab::labs(&[guest::lab::SHOWN.to_owned()]).and_then(|summary| closing_line(&summary, None)),
        Command::Demo { part, built } => demo(part.map(|_| "patch"), built.as_deref()),
        Command::Test {
            filter,
            target: Some(target),
            ..
        } => cross::test(target, filter.as_deref()).and_then(|summary| closing_line(&summary, filter.as_deref())),
        Command::Test {
            filter,
            guest,
            target: None,
        } => test(filter.as_deref(), guest),
        Command::Guest {
            command:
                GuestCommand::Test {
                    kernels,
                    only,
                    short,
                    write,
                },
        } => {
            let selection = match &only {
                Some(name) => Selection::Named(name),
                None if short => Selection::Short,
                None => Selection::Whole,
            };
            guest::test(&kernels, selection, write).and_then(|summary| closing_line(&summary, only.as_deref()))
        }
        Command::Guest {
            command: GuestCommand::Bench { kernel, arguments },
        } => guest::bench::bench(&kernel, &arguments),
        Command::Guest {
            command: GuestCommand::Package,
        } => guest::package::package().and_then(|summary| closing_line(&summary, None)),
        Command::Guest {
            command: GuestCommand::Lab { names },
        } => guest::lab::labs(&names).and_then(|summary| closing_line(&summary, None)),
        Command::Conformance { name, write } => conformance(name.as_deref(), write),
        Command::Bench { arguments } => measure("bench", &arguments),
        Command::Soak { arguments } => measure("soak", &arguments),
        Command::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Command::Torn(arguments) => torn::torn(&arguments),
        Command::Lint => lint(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // After tests, the line with their counts comes last.
            if !error.is::<TestsFailed>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The summary says how many.
#[derive(Debug, thiserror::Error)]
#[error("tests failed")]
struct TestsFailed;

fn build(release: bool, target: Option<Target>) -> Result<()> {
    let cross = target.map(Cross::setup).transpose()?;
    let toolchain = setup::find_toolchain().map_err(|missing| anyhow::anyhow!("{missing}"))?;
    eprintln!("eBPF programs: {toolchain}");
    let mut command = cross.map_or_else(|| cargo("build"), |cross| cross.cargo("build"));
    if release {
        command.arg("--release");
    }
    for program in artifacts(command)?
        .into_iter()
        .filter(|artifact| artifact.name == "mplsxdp")
    {
        println!("{}", program.executable.display());
    }
    Ok(())
}

fn demo(part: Option<&str>, built: Option<&Path>) -> Result<()> {
    let names = ["mplsxdp", "demo"];
    let [mplsxdp, demo] = match built {
        Some(directory) => names.map(|name| directory.join(name)),
        None => build_programs(names, &[])?,
    };
    let error = root_command(
        &demo,
        "The demo makes network namespaces and loads BPF programs",
        &[(PROGRAM_VARIABLE, &mplsxdp)],
    )?
    .args(part)
    .exec();
    Err(error).with_context(|| format!("cannot run {}", demo.display()))
}

fn conformance(name: Option<&str>, write: bool) -> Result<()> {
    let [mplsxdp, conformance] = build_programs(["mplsxdp", "conformance"], &[])?;
    let mut command = root_command(
        &conformance,
        "The cases make network namespaces and load BPF programs",
        &[(PROGRAM_VARIABLE, &mplsxdp)],
    )?;
    let error = command.args(name).args(write.then_some("--write")).exec();
    Err(error).with_context(|| format!("cannot run {}", conformance.display()))
}

/// Builds a program of the lab and mplsxdp, optimised, and runs it.
fn measure(name: &str, arguments: &[OsString]) -> Result<()> {
    let [mplsxdp, program] = build_programs(["mplsxdp", name], &["--release"])?;
    let mut command = root_command(
        &program,
        "It makes network namespaces and loads BPF programs",
        &[(PROGRAM_VARIABLE, &mplsxdp)],
    )?;
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn test(filter: Option<&str>, guest: bool) -> Result<()> {
    let [mplsxdp] = build_programs(["mplsxdp"], &[])?;
    let python = setup::python();
    let mut own = vec![(PROGRAM_VARIABLE, mplsxdp.as_path())];
    own.extend(python.as_deref().map(|python| (PYTHON_VARIABLE, python)));
    setup::browser();
    let prometheus = setup::prometheus();
    own.extend(prometheus.as_deref().map(|directory| (PROMETHEUS_VARIABLE, directory)));
    let mut command = cargo("test");
    command.arg("--no-run");
    let mut summary = Summary::default();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = needs::Version::of(&release).with_context(|| format!("{release} is not a kernel version"))?;
    for artifact in artifacts(command)? {
        let executable = &artifact.executable;
        let (what, mut command) = match artifact.kind {
            Kind::Program => continue,
            Kind::UnitTests => ("unit tests", std::process::Command::new(executable)),
            Kind::IntegrationTests => {
                let reason = "These tests make network namespaces and load BPF programs";
                ("tests", root_command(executable, reason, &own)?)
            }
        };
        let directory = &artifact.package_directory;
        let place = directory.strip_prefix(run::workspace()).unwrap_or(directory);
        println!("\n{what} {} of {}", artifact.name, place.display());
        command.current_dir(directory).args(filter);
        for test in needs::lacking(&artifact.name, kernel) {
            if !test.test.contains(filter.unwrap_or_default()) {
                continue;
            }
            println!("{} ... ignored, {test}", test.test);
            command.args(["--skip", test.test]);
            summary.skipped += 1;
        }
        summary += run_tests(&mut command)?;
    }
    println!("\nexamples in the documentation");
    let mut command = cargo("test");
    command.args(["--doc", "--"]).args(filter);
    summary += run_tests(&mut command)?;
    if guest {
        summary += guest::test_short()?;
        summary += guest::lab::test_short()?;
    }
    closing_line(&summary, filter)
}

/// Reports how the tests went. `name` is the requested filter; a misspelt one must not look like success.
fn closing_line(summary: &Summary, name: Option<&str>) -> Result<()> {
    println!("\n{summary}");
    if summary.failed > 0 {
        return Err(TestsFailed.into());
    }
    match name {
        Some(name) if summary.is_empty() => bail!("no test has `{name}` in its name"),
        _ => ensure!(summary.passed > 0, "no test ran"),
    }
    Ok(())
}

fn lint() -> Result<()> {
    let toolchain = setup::setup()?;
    run_tool(cargo("fmt").args(["--all", "--check"]), "run `cargo fmt --all`")?;
    run_tool(
        cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]),
        "fix what clippy reports",
    )?;
    // Clippy is part of a compiler: the eBPF crate needs that of its own compiler, which cargo finds through PATH.
    let directory = setup::clippy_directory(&toolchain)?;
    let search = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(directory).chain(std::env::split_paths(&search)))?;
    let mut command = toolchain.cargo("clippy");
    command
        .env("PATH", path)
        .current_dir(run::workspace())
        .args(["--", "-D", "warnings"]);
    run_tool(&mut command, "fix what clippy reports")
}

#[cfg(test)]
mod tests {
    use super::{Summary, TestsFailed, closing_line};

    #[test]
    fn a_name_that_no_test_has_is_an_error_and_so_are_failures() {
        let summary = |passed, failed, skipped| Summary {
            passed,
            failed,
            skipped,
        };
        let error = closing_line(&summary(0, 0, 0), Some("mispelt")).unwrap_err();
        assert_eq!(error.to_string(), "no test has `mispelt` in its name");
        let error = closing_line(&summary(0, 0, 1), Some("skipped")).unwrap_err();
        assert_eq!(error.to_string(), "no test ran");
        assert!(closing_line(&summary(0, 0, 0), None).is_err());
        assert!(closing_line(&summary(3, 1, 0), None).unwrap_err().is::<TestsFailed>());
        assert!(closing_line(&summary(3, 0, 1), Some("word")).is_ok());
    }
}

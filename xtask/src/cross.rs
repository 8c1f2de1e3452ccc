//! Building for arm64 on a machine of another kind. Compilers, headers and libraries come from Debian, or the standard
//! library from rustup; what is for arm64 is unpacked beneath the target directory, so that the machine stays as it is.
//! See docs/building.md.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::guest::debian::{self, Architecture, Source};
use crate::guest::image::output;
use crate::run::{self, Artifact, Kind, PROGRAM_VARIABLE, Summary, artifacts, cargo, is_installed, run_tests};
use crate::setup;
use crate::toolchain::SYSTEM_RUSTC;

/// Tools for arm64 that run on this machine, and their Debian packages. The C library is a recommendation of gcc's.
const TOOLS: [(&str, &str); 2] = [
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("aarch64-linux-gnu-gcc", "libc6-dev-arm64-cross"),
];
/// The processor emulator for programs, and its Debian package.
const EMULATOR: (&str, &str) = ("qemu-aarch64", "qemu-user");
/// What libbpf is built with and linked to; the C library comes with them, for the emulator.
const LIBRARIES: [&str; 2] = ["libelf-dev", "zlib1g-dev"];
/// The shared libraries of these: file names, and where Debian may have them.
const LINKED: [(&str, &str); 2] = [("libelf.so", "libelf.so.1"), ("libz.so", "libz.so.1")];
const LIBRARY_DIRECTORIES: [&str; 2] = ["usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu"];
/// The packages with the libraries that the program is linked with, which its own package depends on.
const NEEDED: [&str; 4] = ["libc6", "libelf1", "libgcc-s1", "zlib1g"];
/// Finds a program's packages.
const SHLIBDEPS: &str = "dpkg-shlibdeps";
/// Debian's standard library for [`SYSTEM_RUSTC`].
const STANDARD_LIBRARY: &str = "libstd-rust-web-dev";

/// What an emulator of programs lacks: it passes system calls on to this machine's kernel, but not these.
const NO_BPF: &str = "qemu-user has no bpf(2)";
const NO_AF_XDP: &str = "qemu-user has no AF_XDP sockets";
const NO_SECCOMP: &str = "qemu-user has no seccomp(2)";
const NO_LAB: &str = "qemu-user has neither bpf(2) nor AF_XDP sockets, and not all of netlink";
/// The tests that need more of the kernel than that: test program, beginning of the names, and what is missing.
const NEED_KERNEL: [(&str, &str, &str); 8] = [
    ("mplsxdp", "privileges::calls::tests::a_restricted_thread", NO_SECCOMP),
    (
        "mplsxdp",
        "privileges::calls::tests::calls_that_an_instance",
        NO_SECCOMP,
    ),
    ("budget", "", NO_BPF),
    ("differential", "", NO_BPF),
    ("torn", "", NO_BPF),
    ("xsk", "", NO_AF_XDP),
    ("kernel", "", NO_LAB),
    ("e2e", "", NO_LAB),
];
/// Tests in those programs that do not.
const NEED_NO_KERNEL: [(&str, &str); 2] = [
    ("e2e", "conformance::every_case_on_the_host"),
    ("e2e", "conformance::the_page_is_what_the_files_make"),
];

/// How many cases of each property are tried: proptest's own default, also where this machine tries thousands. An
/// emulator is 10 to 20 times slower.
const CASES: (&str, &str) = ("PROPTEST_CASES", "256");

/// What can be built for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// 64-bit ARM.
    #[value(name = "aarch64-unknown-linux-gnu", alias = "arm64")]
    Arm64,
}

impl Target {
    fn triple(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// Everything that a build for another processor takes.
pub struct Cross {
    target: Target,
    /// The compiler, if it is not cargo's own.
    rustc: Option<PathBuf>,
    /// Where that finds its standard libraries.
    sysroot: Option<PathBuf>,
    /// Libraries and headers.
    root: PathBuf,
    /// A directory with names for the linker only.
    links: PathBuf,
}

impl Cross {
    /// Installs and fetches what is missing.
    pub fn setup(target: Target) -> Result<Self> {
        if std::env::consts::ARCH == "aarch64" {
            bail!("this machine is an arm64 one: build without --target");
        }
        setup::setup()?;
        let missing = TOOLS.into_iter().chain([EMULATOR]);
        setup::install_packages(missing.filter(|(program, _)| !is_installed(program)))?;
        let directory = run::target().join("cross").join(target.triple());
        fs::create_dir_all(directory.join("libraries"))?;
        let (rustc, sysroot) = match has_standard_library(target) {
            true => (None, None),
            false => {
                let sysroot = debian_standard_library(target, &directory)?;
                (Some(SYSTEM_RUSTC.into()), Some(sysroot))
            }
        };
        if let Some(reason) = debian::unavailable() {
            bail!("{reason}: libelf and zlib for arm64 come from there");
        }
        let root = debian::packages(
            Architecture::Arm64,
            Source::Machine,
            &LIBRARIES,
            &directory.join("libraries"),
        )
        .with_context(|| format!("cannot get {} for arm64", LIBRARIES.join(", ")))?;
        let links = directory.join("links");
        fs::create_dir_all(&links)?;
        for (name, file) in LINKED {
            let mut places = LIBRARY_DIRECTORIES.iter().map(|place| root.join(place).join(file));
            let found = places.find(|path| path.exists());
            link(
                &found.with_context(|| format!("{} has no {file}", root.display()))?,
                &links.join(name),
            )?;
        }
        Ok(Self {
            target,
            rustc,
            sysroot,
            root,
            links,
        })
    }

    /// `cargo SUBCOMMAND` for the target. Programs that it runs are emulated.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = cargo(subcommand);
        command.args(["--target", self.target.triple()]);
        let variable = |name: &str| {
            let triple = self.target.triple().replace('-', "_").to_uppercase();
            format!("CARGO_TARGET_{triple}_{name}")
        };
        // Those of the user are for this machine.
        for name in [
            "RUSTFLAGS",
            "RUSTDOCFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_RUSTDOCFLAGS",
        ] {
            command.env_remove(name);
        }
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc);
            command.env("RUSTDOC", rustc.with_file_name("rustdoc"));
        }
        let mut flags = vec![joined("-Lnative=", &self.links)];
        flags.extend(self.sysroot.as_ref().map(|sysroot| joined("--sysroot=", sysroot)));
        for name in ["CARGO_ENCODED_RUSTFLAGS", "CARGO_ENCODED_RUSTDOCFLAGS"] {
            command.env(name, flags.join("\x1f".as_ref()));
        }
        command.env(variable("LINKER"), tool("gcc"));
        let mut runner = OsString::from("qemu-aarch64 -L ");
        runner.push(&self.root);
        command.env(variable("RUNNER"), runner);
        let triple = self.target.triple().replace('-', "_");
        command.env(format!("CC_{triple}"), tool("gcc"));
        // libxdp's build script calls these without regard to the target.
        for (variable, name) in [("AR", "ar"), ("LD", "ld"), ("OBJCOPY", "objcopy")] {
            command.env(variable, tool(name));
        }
        let headers = ["usr/include", "usr/include/aarch64-linux-gnu"].map(|part| self.root.join(part));
        let include = headers.each_ref().map(|directory| joined("-I", directory));
        command.env(format!("BINDGEN_EXTRA_CLANG_ARGS_{triple}"), include.join(" ".as_ref()));
        // After everything else that the compilers look through.
        let headers = headers.each_ref().map(|directory| directory.as_os_str());
        command.env("C_INCLUDE_PATH", headers.join(":".as_ref()));
        command
    }

    pub fn triple(&self) -> &'static str {
        self.target.triple()
    }

    /// A program that was built for the target, emulated.
    pub fn emulated(&self, program: &Path) -> Command {
        let mut command = Command::new(EMULATOR.0);
        command.arg("-L").arg(&self.root).arg(program);
        command
    }

    /// A folder with a `dpkg-shlibdeps` that knows the target's libraries: the one of this machine, which takes those
    /// beneath `debian` for packages that are being built, so that none need be installed.
    pub fn shlibdeps(&self) -> Result<PathBuf> {
        let folder = self.links.with_file_name("shlibdeps");
        let debian = folder.join("debian");
        fs::create_dir_all(&debian)?;
        fs::write(debian.join("control"), "")?;
        let packages = debian::packages_apart(Architecture::Arm64, Source::Machine, &NEEDED, &folder)
            .with_context(|| format!("cannot get {} for arm64", NEEDED.join(", ")))?;
        for name in NEEDED {
            link(&packages.join(name), &debian.join(name))?;
        }
        let search = std::env::var_os("PATH").unwrap_or_default();
        let mut found = std::env::split_paths(&search).map(|directory| directory.join(SHLIBDEPS));
        let own = found.find(|path| path.is_file()).context("no dpkg-shlibdeps")?;
        script(
            &folder.join(SHLIBDEPS),
            &format!("cd {} && exec {} \"$@\"", quoted(&folder), quoted(&own)),
        )?;
        Ok(folder)
    }

    /// A program of this machine that runs a program of the target. An emulated program starts others by exec(2), which
    /// takes only this machine's.
    fn wrapper(&self, program: &Path) -> Result<PathBuf> {
        let path = program.with_extension("emulated");
        let line = format!(
            "exec {} -L {} {} \"$@\"",
            EMULATOR.0,
            quoted(&self.root),
            quoted(program)
        );
        script(&path, &line)?;
        Ok(path)
    }
}

/// Writes a script for the shell.
fn script(path: &Path, line: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{line}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(())
}

/// A path as the shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// `cargo xtask test --target`: builds the tests, and emulates those that need no more of the kernel than other programs
/// do. The rest count as skipped.
pub fn test(target: Target, filter: Option<&str>) -> Result<Summary> {
    let cross = Cross::setup(target)?;
    let mut command = cross.cargo("test");
    command.args(["--no-run", "--lib", "--bins", "--tests"]);
    let artifacts = artifacts(command)?;
    let is_mplsxdp = |artifact: &&Artifact| artifact.kind == Kind::Program && artifact.name == "mplsxdp";
    let mplsxdp = artifacts
        .iter()
        .find(is_mplsxdp)
        .context("the workspace has no program mplsxdp")?;
    let wrapper = cross.wrapper(&mplsxdp.executable)?;
    let mut summary = Summary::default();
    for artifact in artifacts.iter().filter(|artifact| artifact.kind != Kind::Program) {
        let what = match artifact.kind {
            Kind::UnitTests => "unit tests",
            _ => "tests",
        };
        let directory = &artifact.package_directory;
        let place = directory.strip_prefix(run::workspace()).unwrap_or(directory);
        println!("\n{what} {} of {}, {}", artifact.name, place.display(), target.triple());
        let mut run = cross.emulated(&artifact.executable);
        run.current_dir(directory).env(PROGRAM_VARIABLE, &wrapper).args(filter);
        if std::env::var_os(CASES.0).is_none() {
            run.env(CASES.0, CASES.1);
        }
        summary += test_program(&artifact.name, run)?;
    }
    println!("\nexamples in the documentation, {}", target.triple());
    let mut command = cross.cargo("test");
    command.args(["--doc", "--"]).args(filter);
    summary += run_tests(&mut command)?;
    Ok(summary)
}

/// Runs the tests of a program that its `command` lists, if they need no kernel.
fn test_program(program: &str, mut command: Command) -> Result<Summary> {
    let mut list = Command::new(command.get_program());
    list.args(command.get_args()).arg("--list");
    let listed = output(&mut list)?;
    let tests = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let mut summary = Summary::default();
    let mut left = 0;
    for test in tests {
        match need(program, test) {
            Some(missing) => {
                println!("{test} ... ignored, {missing}");
                command.args(["--skip", test]);
                summary.skipped += 1;
            }
            None => left += 1,
        }
    }
    if left == 0 {
        return Ok(summary);
    }
    let mut ran = run_tests(&mut command)?;
    // `--skip` takes parts of names.
    if ran.failed == 0 && ran.passed + ran.skipped < left {
        println!("{program}: not all of {left} tests ran");
        ran.failed = 1;
    }
    summary += ran;
    Ok(summary)
}

/// What a test needs that an emulator of programs lacks.
fn need(program: &str, test: &str) -> Option<&'static str> {
    if NEED_NO_KERNEL.contains(&(program, test)) {
        return None;
    }
    let mut needs = NEED_KERNEL.iter();
    let (.., missing) = needs.find(|(of, name, _)| *of == program && test.starts_with(name))?;
    Some(missing)
}

fn joined(option: &str, path: &Path) -> OsString {
    let mut word = OsString::from(option);
    word.push(path);
    word
}

/// A GNU tool for arm64.
pub fn tool(name: &str) -> String {
    format!("{}-{name}", Architecture::Arm64.gnu())
}

/// Whether the compiler that cargo uses has a standard library for the target; rustup is asked for it.
fn has_standard_library(target: Target) -> bool {
    let is_there = || {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut print = Command::new(rustc);
        print.args(["--print", "target-libdir", "--target", target.triple()]);
        output(&mut print).is_ok_and(|directory| Path::new(directory.trim()).exists())
    };
    if is_there() {
        return true;
    }
    // Debian's compiler is here already: what it takes is fetched from where it came from.
    if Path::new(SYSTEM_RUSTC).exists() && version_of(STANDARD_LIBRARY).is_ok() || !is_installed("rustup") {
        return false;
    }
    eprintln!("> rustup target add {}", target.triple());
    let mut add = Command::new("rustup");
    add.args(["target", "add", target.triple()]).stdin(Stdio::null());
    add.status().is_ok_and(|status| status.success()) && is_there()
}

/// A sysroot with Debian's standard library for the target, of the same version as the one for this machine.
fn debian_standard_library(target: Target, directory: &Path) -> Result<PathBuf> {
    if !Path::new(SYSTEM_RUSTC).exists() {
        bail!(
            "no standard library for {0}: run `rustup target add {0}`, or on Debian 12 `apt-get install rustc-web`",
            target.triple()
        );
    }
    let package = format!("{STANDARD_LIBRARY}={}", version_of(STANDARD_LIBRARY)?);
    fs::create_dir_all(directory.join("std"))?;
    let root = debian::packages_alone(
        Architecture::Arm64,
        Source::Machine,
        &[&package],
        &directory.join("std"),
    )
    .with_context(|| {
        format!("cannot get {package} for arm64: if it is outdated, `apt-get update` and `apt-get install rustc-web`")
    })?;
    let part = Path::new("lib/rustlib").join(target.triple());
    let sysroot = directory.join("sysroot");
    fs::create_dir_all(sysroot.join("lib/rustlib"))?;
    link(&root.join("usr").join(&part), &sysroot.join(&part))?;
    Ok(sysroot)
}

/// The version of a package that is installed.
fn version_of(package: &str) -> Result<String> {
    let version = output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", package]))?;
    if version.is_empty() {
        bail!("{package} is not installed");
    }
    Ok(version)
}

/// A symbolic link that leads there, whatever was in its place.
fn link(to: &Path, from: &Path) -> Result<()> {
    if fs::read_link(from).ok().as_deref() != Some(to) {
        let _ = fs::remove_file(from);
        symlink(to, from).with_context(|| format!("cannot make {}", from.display()))?;
    }
    Ok(())
}

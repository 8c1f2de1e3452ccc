//! Installs what is missing: packages with apt, or else names them; and a compiler and a linker for the eBPF programs.
//! Existing ones are left alone, so a second run takes no time.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::guest::debian::Architecture;
use crate::run::{cargo, is_installed, is_root, run_tool, target};
use crate::toolchain::{
    LINKER_VERSION, Missing, RUSTC_VERSION, SYSTEM_RUSTC, TARGET, Toolchain, version, work_directory,
};

/// Programs that the demo and the tests run, and that building libxdp needs, and their Debian packages.
const TOOLS: [(&str, &str); 14] = [
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("traceroute", "traceroute"),
    ("mtr", "mtr-tiny"),
    ("tshark", "tshark"),
    ("scapy", "python3-scapy"),
    ("tmux", "tmux"),
    ("gcc", "gcc"),
    ("make", "make"),
    ("pkg-config", "pkg-config"),
    ("m4", "m4"),
    ("clang", "clang"),
];
/// Programs that boot a guest, and their Debian packages.
const GUEST_TOOLS: [(&str, &str); 2] = [("depmod", "kmod"), ("setpriv", "util-linux")];
/// The emulators of whole machines, likewise.
const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
const QEMU_ARM64: (&str, &str) = ("qemu-system-aarch64", "qemu-system-arm");
/// Programs that make a system for a guest, and their Debian packages.
const SYSTEM_TOOLS: [(&str, &str); 2] = [("mmdebstrap", "mmdebstrap"), ("bsdtar", "libarchive-tools")];
/// Programs that make packages, and their Debian packages. `rpm` finds the libraries that a program needs.
const PACKAGING_TOOLS: [(&str, &str); 3] = [("dpkg-shlibdeps", "dpkg-dev"), ("rpm", "rpm"), ("gzip", "gzip")];
/// Programs that check packages.
const CHECKING_TOOLS: [(&str, &str); 1] = [("lintian", "lintian")];
/// Headers that libxdp is built with, and their Debian packages.
const HEADERS: [(&str, &str); 2] = [("libelf.h", "libelf-dev"), ("zlib.h", "zlib1g-dev")];
/// Debian's compiler, its core for BPF, and its clippy for `cargo xtask lint`.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"];

/// A browser, and its Debian package.
const BROWSER: &str = "chromium-headless-shell";
/// The client on PyPI that tests use with the control socket.
const VARLINK: &str = "varlink";
const VARLINK_VERSION: &str = "31.0.0";

/// Installs what is missing.
pub fn setup() -> Result<Toolchain> {
    let tools = TOOLS.into_iter().filter(|(program, _)| !is_installed(program));
    let headers = HEADERS
        .into_iter()
        .filter(|(header, _)| !Path::new("/usr/include").join(header).exists());
    install_packages(tools.chain(headers))?;
    if let Err(missing) = find_toolchain() {
        if missing.compiler.is_some() {
            install_compiler(&missing)?;
        }
        if missing.linker.is_some() {
            install_linker()?;
        }
    }
    find_toolchain().map_err(|missing| anyhow!("{missing}"))
}

/// Installs what `cargo xtask guest` needs and is missing.
pub fn guest(architecture: Architecture) -> Result<()> {
    let qemu = match architecture {
        Architecture::Amd64 => QEMU,
        Architecture::Arm64 => QEMU_ARM64,
    };
    let tools = GUEST_TOOLS.into_iter().chain([qemu]);
    install_packages(tools.filter(|(program, _)| !is_installed(program)))
}

/// Installs what makes a system for a guest and is missing.
pub fn guest_systems() -> Result<()> {
    install_packages(SYSTEM_TOOLS.into_iter().filter(|(program, _)| !is_installed(program)))
}

/// Installs what `cargo xtask package` needs and is missing.
pub fn packaging() -> Result<()> {
    install_packages(
        PACKAGING_TOOLS
            .into_iter()
            .filter(|(program, _)| !is_installed(program)),
    )
}

/// Installs what checks packages and is missing.
pub fn package_checks() -> Result<()> {
    install_packages(CHECKING_TOOLS.into_iter().filter(|(program, _)| !is_installed(program)))
}

/// A program that cargo installs, in this version, beneath the target directory: others that the user has stay.
pub fn cargo_tool((name, release): (&str, &str)) -> Result<PathBuf> {
    let root = target().join("tools");
    let program = root.join("bin").join(name);
    let shown = Command::new(&program).arg("--version").output();
    if shown.is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).trim_end().ends_with(release)) {
        return Ok(program);
    }
    let mut install = cargo("install");
    install.args([name, "--version", release, "--locked", "--force", "--root"]);
    run_tool(install.arg(root), "is there a network?")?;
    Ok(program)
}

/// Installs the packages of these programs, which are missing.
pub fn install_packages<'a>(missing: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let (names, packages): (Vec<_>, Vec<_>) = missing.unzip();
    if names.is_empty() {
        return Ok(());
    }
    if !has_apt() {
        bail!("{} missing: install them by your package manager", names.join(", "));
    }
    apt_update()?;
    apt_install(&packages)
}

/// The compiler and linker that builds of this workspace use.
pub fn find_toolchain() -> Result<Toolchain, Missing> {
    let own = env::current_exe().unwrap_or_else(|_| PathBuf::from("."));
    Toolchain::find(&work_directory(&own))
}

/// The directory of the compiler's own clippy.
pub fn clippy_directory(toolchain: &Toolchain) -> Result<PathBuf> {
    let clippy = toolchain.rustc.with_file_name("cargo-clippy");
    if !clippy.exists() && toolchain.rustc == Path::new(SYSTEM_RUSTC) && has_apt() {
        apt_install(&COMPILER_PACKAGES)?;
    }
    match clippy.parent() {
        Some(directory) if clippy.exists() => Ok(directory.to_owned()),
        _ => bail!("{} is missing: install the clippy of this compiler", clippy.display()),
    }
}

/// A Python with the varlink client that a test uses, in its own environment under the target directory. If it is not
/// available, such as without a network, the test is skipped.
pub fn python() -> Option<PathBuf> {
    let own = env::current_exe().ok()?;
    let environment = work_directory(&own).with_file_name("python");
    let python = environment.join("bin/python");
    if python.exists() && has_module(&python, VARLINK) {
        return Some(python);
    }
    match install_python(&environment) {
        Ok(()) => Some(python),
        Err(error) => {
            eprintln!("warning: no varlink client for Python: {error:#}");
            None
        }
    }
}

/// Installs a browser without a screen, by which a test looks at the page of `mplsxdp web`. If it is not available, the
/// test is skipped.
pub fn browser() {
    if is_installed(BROWSER) || is_installed("chromium") {
        return;
    }
    let installed = match has_apt() {
        true => apt_update().and_then(|()| apt_install(&[BROWSER])),
        false => Err(anyhow!("no apt to install {BROWSER} by")),
    };
    if let Err(error) = installed {
        eprintln!("warning: no browser: {error:#}");
    }
}

/// The directory of Prometheus' programs, by which a test scrapes metrics. Debian's package is unpacked under the target
/// directory: if it were installed, its service would start. `None`: they are installed anyway, or not available, and the
/// test is skipped.
pub fn prometheus() -> Option<PathBuf> {
    if is_installed("prometheus") && is_installed("promtool") {
        return None;
    }
    let own = env::current_exe().ok()?;
    let directory = work_directory(&own).with_file_name("prometheus");
    let programs = directory.join("root/usr/bin");
    if programs.exists() {
        return Some(programs);
    }
    match unpack_prometheus(&directory) {
        Ok(()) => Some(programs),
        Err(error) => {
            eprintln!("warning: no Prometheus: {error:#}");
            None
        }
    }
}

fn unpack_prometheus(directory: &Path) -> Result<()> {
    if !has_apt() {
        bail!("no apt to fetch Debian's package by");
    }
    let fresh = directory.join("fresh");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    let download = || {
        let mut apt = Command::new("apt-get");
        // Without dropping privileges: another user may not be able to write to the directory.
        apt.args(["--quiet", "--option", "APT::Sandbox::User=", "download", "prometheus"]);
        run_tool(apt.current_dir(&fresh), "is there a network?")
    };
    download().or_else(|_| apt_update().and_then(|()| download()))?;
    let archive = fs::read_dir(&fresh)?
        .next()
        .context("apt-get downloaded nothing")??
        .path();
    let root = fresh.join("root");
    let mut unpack = Command::new("dpkg-deb");
    run_tool(unpack.arg("--extract").arg(&archive).arg(&root), "is dpkg-deb there?")?;
    // Complete only now.
    fs::rename(root, directory.join("root"))?;
    Ok(fs::remove_dir_all(fresh)?)
}

fn install_python(environment: &Path) -> Result<()> {
    if !(is_installed("python3") && has_module(Path::new("python3"), "ensurepip")) && has_apt() {
        apt_update()?;
        apt_install(&["python3-venv"])?;
    }
    let remedy = "install Python 3 with venv and pip";
    run_tool(Command::new("python3").args(["-m", "venv"]).arg(environment), remedy)?;
    let mut pip = Command::new(environment.join("bin/pip"));
    let package = format!("{VARLINK}=={VARLINK_VERSION}");
    run_tool(
        pip.args(["install", "--quiet", "--disable-pip-version-check", &package]),
        "is there a network?",
    )
}

fn has_module(python: &Path, module: &str) -> bool {
    let output = Command::new(python).args(["-c", &format!("import {module}")]).output();
    output.is_ok_and(|output| output.status.success())
}

fn install_compiler(missing: &Missing) -> Result<()> {
    if has_apt() {
        apt_update()?;
        if debian_has_the_compiler()? {
            return apt_install(&COMPILER_PACKAGES);
        }
    }
    if is_installed("rustup") {
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        command.args(["--component", "rust-src", "--component", "clippy"]);
        return run_tool(
            &mut command,
            "a nightly compiler with rust-src is needed; see docs/building.md",
        );
    }
    bail!("{missing}");
}

/// Whether this release of Debian has a compiler that is new enough, and a core for it.
fn debian_has_the_compiler() -> Result<bool> {
    let output = Command::new("apt-cache")
        .arg("policy")
        .args(COMPILER_PACKAGES)
        .output()
        .context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let candidates: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .collect();
    let is_new_enough = |candidate: &&str| version(candidate) >= RUSTC_VERSION;
    Ok(candidates.len() == COMPILER_PACKAGES.len() && candidates.iter().all(is_new_enough))
}

fn install_linker() -> Result<()> {
    let (major, minor, patch) = LINKER_VERSION;
    let release = format!("{major}.{minor}.{patch}");
    // Forced: an existing one is too old, or does not match the compiler.
    run_tool(
        cargo("install").args(["bpf-linker", "--version", &release, "--locked", "--force"]),
        &format!("the linker for {TARGET} is needed; see docs/building.md"),
    )
}

fn has_apt() -> bool {
    is_installed("apt-get")
}

/// Makes apt update its lists.
pub fn apt_update() -> Result<()> {
    run_tool(
        apt()?.args(["update", "--quiet"]),
        "is there a network, and are the sources of apt right?",
    )
}

fn apt_install(packages: &[&str]) -> Result<()> {
    run_tool(
        apt()?
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
        "install these packages by hand, then try again",
    )
}

fn apt() -> Result<Command> {
    let mut command = if is_root()? {
        Command::new("env")
    } else if !is_installed("sudo") {
        bail!("installing packages needs root, and there is no sudo: run `cargo xtask setup` as root first");
    } else {
        println!("Installing packages needs root: running apt-get through sudo.");
        let mut command = Command::new("sudo");
        command.arg("env");
        command
    };
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .stdin(Stdio::inherit());
    Ok(command)
}

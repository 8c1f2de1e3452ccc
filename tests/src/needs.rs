//! What a test needs from the machine, and whether it is available.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use mplsxdp::dataplane::release::{OLDEST, Release};

use crate::{End, Lab, link, rig, virtio};

/// Browsers that need no screen, in Debian's packages of the same names.
const BROWSERS: [&str; 2] = ["chromium-headless-shell", "chromium"];
/// Names the directory of Prometheus' programs, which need not be installed.
const PROMETHEUS_VARIABLE: &str = "MPLSXDP_PROMETHEUS";
/// Names the Python interpreter to use.
const PYTHON_VARIABLE: &str = "MPLSXDP_PYTHON";

/// Something that not every machine has.
#[derive(Clone, Copy)]
pub enum Need {
    /// Permission to create namespaces and cables, and to attach an XDP program in native mode.
    Lab,
    /// A program, and the Debian package that has it.
    Program(&'static str, &'static str),
    /// The program of [`browser`].
    Browser,
    /// The programs of [`prometheus`].
    Prometheus,
    /// A module of [`python`].
    PythonModule(&'static str),
    /// A kind of interface that `ip link add` knows, and its kernel module.
    LinkKind(&'static str, &'static str),
    /// The kernel has MPLS.
    Mpls,
    /// The kernel reports how many queues a tap has.
    TapQueues,
    /// The kernel renames interfaces that are up.
    Rename,
    /// A kernel of this version, for the given reason.
    Kernel(u32, u32, &'static str),
    /// A kernel older than any that mplsxdp runs on.
    OldKernel,
    /// The NICs of [`crate::virtio`].
    Virtio,
}

impl Need {
    /// Why it is not available; `None` if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Lab => {
                static LAB: OnceLock<Option<String>> = OnceLock::new();
                LAB.get_or_init(|| {
                    try_lab()
                        .err()
                        .map(|error| format!("no lab on this machine: {error:#}"))
                })
                .clone()
            }
            Self::Program(program, package) => {
                (!is_installed(program)).then(|| format!("no {program}: install {package}"))
            }
            Self::Browser => match browser() {
                Some(_) => None,
                None => Some(format!("no browser: install {}", BROWSERS[0])),
            },
            Self::Prometheus => match prometheus("promtool").arg("--version").output() {
                Ok(_) => None,
                Err(error) => Some(format!(
                    "no Prometheus ({error}): install it; `cargo xtask test` fetches it if it can"
                )),
            },
            Self::PythonModule(module) => match python().args(["-c", &format!("import {module}")]).output() {
                Ok(output) if output.status.success() => None,
                Ok(_) => Some(format!(
                    "no Python module {module}; `cargo xtask test` installs it if it can"
                )),
                Err(error) => Some(format!("no Python: {error}")),
            },
            Self::LinkKind(kind, module) => try_link_kind(kind)
                .err()
                .map(|error| format!("no interfaces of the kind {kind} (module {module}): {error:#}")),
            Self::Mpls => try_mpls().err().map(|error| {
                format!(
                    "the kernel has no MPLS (module mpls_router; `cargo xtask guest test 6.1` boots one): {error:#}"
                )
            }),
            Self::TapQueues => try_tap_queues()
                .err()
                .map(|error| format!("the kernel does not tell how many queues a tap has: {error:#}")),
            Self::Rename => try_rename()
                .err()
                .map(|error| format!("the kernel does not rename interfaces that are up: {error:#}")),
            Self::Kernel(major, minor, what) => match Release::running() {
                Some(release) if release >= (Release { major, minor }) => None,
                Some(release) => Some(format!(
                    "kernel {release} is older than {major}.{minor}, which has {what}"
                )),
                None => Some("the kernel's release has no version number".to_owned()),
            },
            Self::OldKernel => match Release::running() {
                Some(release) if release < OLDEST => None,
                _ => Some(format!(
                    "the kernel is not older than {OLDEST}: `cargo xtask guest test 5.10` boots one"
                )),
            },
            Self::Virtio => virtio::missing(),
        }
    }
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// A browser that needs no screen.
pub fn browser() -> Option<&'static str> {
    BROWSERS.into_iter().find(|browser| is_installed(browser))
}

/// A program of Prometheus: the one that xtask has fetched, or else the system's.
pub fn prometheus(program: &str) -> Command {
    let directory = env::var_os(PROMETHEUS_VARIABLE).map(PathBuf::from);
    Command::new(directory.unwrap_or_default().join(program))
}

/// The interpreter for clients of the control socket: the one for which xtask has installed the modules, or else the
/// system's.
pub fn python() -> Command {
    Command::new(env::var_os(PYTHON_VARIABLE).unwrap_or_else(|| "python3".into()))
}

fn try_lab() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "not root; `cargo xtask test` runs tests through sudo"
    );
    let lab = Lab::new()?;
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    link(End::new(&a, "eth0"), End::new(&b, "eth0"))?;
    let _program = rig::attach(&a, "eth0", "pass").context("XDP in native mode on a veth")?;
    Ok(())
}

fn try_link_kind(kind: &str) -> Result<()> {
    let added = Lab::new()?.netns("kind")?.ip(&format!("link add probe0 type {kind}"));
    match added {
        // It may only lack options.
        Err(error) if !format!("{error:#}").contains("Unknown device type") => Ok(()),
        other => other.map(drop),
    }
}

fn try_mpls() -> Result<()> {
    // It is not loaded automatically. An error means that it, or a part of the kernel, is missing.
    let _ = Command::new("modprobe").arg("mpls_router").output();
    Lab::new()?
        .netns("mpls")?
        .run("cat /proc/sys/net/mpls/platform_labels")
        .map(drop)
}

fn try_tap_queues() -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("tap")?;
    netns.ip("tuntap add dev tap0 mode tap multi_queue")?;
    netns.run("ethtool -l tap0").map(drop)
}

fn try_rename() -> Result<()> {
    let netns = Lab::new()?.netns("rename")?;
    link(End::new(&netns, "eth0"), End::new(&netns, "eth1"))?;
    netns.ip("link set dev eth0 name eth2").map(drop)
}

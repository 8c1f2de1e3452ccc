//! The contents of the guest's system.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Built;
use super::debian::Unpacked;
use super::image::{Image, Origin};
use super::init::{INIT, SERVICE, TESTS};
use super::machine::NICS;
use super::wire::{PLAN, Plan, Run};
use crate::run::workspace;

/// Names the network interfaces that tests may use; the same as in `mplsxdp_tests::virtio`.
const NICS_VARIABLE: &str = "MPLSXDP_VIRTIO";
/// How many random frames the differential test compares: it is slow without KVM, and the host's run has many more.
const FRAMES: (&str, &str) = ("MPLSXDP_FRAMES", "2000");
/// By how much tests wait longer in the guest for what must happen, with the name of `mplsxdp_tests::wait`. Without KVM
/// a guest is 10 to 15 times slower, and the limits leave a quiet machine some room.
const SLOWNESS: (&str, &str) = ("MPLSXDP_SLOWNESS", "6");

/// Programs that the guest has. `depmod` is for this machine only.
const TOOLS: [&str; 25] = [
    "modprobe",
    "ip",
    "ping",
    "ethtool",
    "tcpdump",
    "traceroute",
    "mtr",
    "mtr-packet",
    "setpriv",
    "prlimit",
    "unshare",
    "nsenter",
    "mount",
    "umount",
    "sh",
    "bash",
    "sysctl",
    "sleep",
    "timeout",
    "cat",
    "ls",
    "mkdir",
    "rm",
    "tail",
    "grep",
];
/// The Debian packages that have [`TOOLS`], and the libraries that mplsxdp is linked with, for a guest that cannot have
/// programs of this machine.
pub const PACKAGES: [&str; 16] = [
    "bash",
    "coreutils",
    "dash",
    "ethtool",
    "grep",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libelf1",
    "mount",
    "mtr-tiny",
    "procps",
    "tcpdump",
    "traceroute",
    "util-linux",
    "zlib1g",
];
/// Variables of this machine that its tests get in the guest too.
const PASSED_ON: [&str; 2] = ["MPLSXDP_SEED", "MPLSXDP_TABLES"];
/// The place of the source tree in the guest; tests get it in a variable, because other paths are compiled into them.
const SOURCE_TREE: (&str, &str) = ("MPLSXDP_SOURCE", "/source");
/// The parts of it that the conformance suite and the labs read: its files, and the tests that they name.
const SOURCES: [&str; 6] = ["conformance", "docs", "labs", "tests", "mplsxdp", "mplsxdp-common"];
/// The parts of the kernel's modules that the guest has.
const MODULES: [&str; 5] = ["net", "lib", "crypto", "drivers/net", "drivers/virtio"];
/// Modules that are not loaded automatically: for the machine's devices, and for /dev/net/tun.
const LOADED: [&str; 3] = ["virtio_pci", "virtio_net", "tun"];

/// The additions to the tests' system in a guest.
#[derive(Default)]
pub struct Extras<'a> {
    /// Kernel modules to load.
    pub modules: &'a [&'a str],
    /// A tree of Debian packages, which the guest has as [`DEBIAN`].
    pub debian: Option<&'a Path>,
    /// Further programs of this machine.
    pub tools: &'a [&'a str],
}

/// Where the tree of Debian packages is; the labs run its programs by `chroot`, so that they have their own libraries.
const DEBIAN: &str = "debian";

/// Writes the initramfs of a guest that does `runs`.
pub fn make(path: &Path, kernel: &Unpacked, built: &Built, runs: &[Run], extras: &Extras<'_>) -> Result<()> {
    let mut image = Image::create(path, &built.origin)?;
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
    for part in SOURCES {
        image.tree(
            &workspace().join(part),
            &Path::new(SOURCE_TREE.1.trim_start_matches('/')).join(part),
        )?;
    }
    for tool in TOOLS.iter().chain(extras.tools) {
        image.tool(tool)?;
    }
    if let Some(tree) = extras.debian {
        image.system(tree, Path::new(DEBIAN))?;
    }
    // Tools look themselves up in these files.
    image.text("etc/passwd", b"root:x:0:0::/root:/bin/sh\ntcpdump:x:1:1::/:/bin/sh\n")?;
    image.text("etc/group", b"root:x:0:\ntcpdump:x:1:\n")?;
    add_modules(&mut image, kernel)?;
    let nics: Vec<_> = (0..NICS).map(|number| format!("virtio{number}")).collect();
    let environment = [
        ("PATH", "/usr/bin"),
        ("HOME", "/root"),
        ("MPLSXDP_PROGRAM", &*format!("{TESTS}/mplsxdp")),
        (NICS_VARIABLE, &nics.join(",")),
        SOURCE_TREE,
        FRAMES,
        SLOWNESS,
    ];
    let mut environment: Vec<_> = environment
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    let passed_on = PASSED_ON
        .iter()
        .filter_map(|&name| Some((name.to_owned(), env::var(name).ok()?)));
    environment.extend(passed_on);
    let plan = Plan {
        modules: LOADED
            .iter()
            .chain(extras.modules)
            .map(|&name| name.to_owned())
            .collect(),
        environment,
        by_systemd: false,
        runs: runs.to_vec(),
    };
    image.text(PLAN, &serde_json::to_vec(&plan)?)?;
    image.finish()
}

fn add_modules(image: &mut Image, kernel: &Unpacked) -> Result<()> {
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
    Ok(())
}

/// Writes what a Debian with systemd needs in addition, to do `runs`. It has the libraries of this machine. `files` are
/// further ones of this machine, after their places in the guest.
pub fn add_to_systemd<'a>(
    path: &Path,
    kernel: &Unpacked,
    xtask: &Path,
    tests: &Path,
    runs: &[Run],
    files: impl Iterator<Item = (&'a str, &'a Path)>,
) -> Result<()> {
    let mut image = Image::addition(path, &Origin::Machine)?;
    image.program_only(xtask, INIT.trim_start_matches('/'))?;
    let name = tests.file_name().context("no program")?.to_string_lossy();
    image.program_only(tests, &format!("{}/{name}", TESTS.trim_start_matches('/')))?;
    add_modules(&mut image, kernel)?;
    for (place, file) in files {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        image.text(place, &content)?;
    }
    let units = "etc/systemd/system";
    image.text(&format!("{units}/plan.service"), SERVICE.as_bytes())?;
    image.link(
        &format!("{units}/multi-user.target.wants/plan.service"),
        "../plan.service",
    )?;
    let environment = [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), SLOWNESS];
    let plan = Plan {
        modules: Vec::new(),
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        by_systemd: true,
        runs: runs.to_vec(),
    };
    image.text(PLAN, &serde_json::to_vec(&plan)?)?;
    image.finish()
}

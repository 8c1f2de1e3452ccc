//! The .deb in a Debian that runs systemd: installed, upgraded, removed and purged under traffic. The program `labs` of
//! the tests crate carries it out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::debian::Architecture;
use super::image::output;
use super::kernels::SHORT;
use super::system;
use super::wire::Run;
use super::{boot, debian, kernel};
use crate::package::{Built, Staged};
use crate::run::{Summary, build_programs, run_tool, target};
use crate::setup;

const PROGRAM: &str = "labs";
/// The argument of `labs`.
const NAME: &str = "package";
/// Where the packages are in the guest: that of the installed version and a newer one.
const PACKAGES: [&str; 2] = ["packages/first.deb", "packages/second.deb"];
/// What the guest has besides what every Debian has. Of the package's dependencies, only those that the rest needs.
const INCLUDED: &str = "systemd-sysv,iproute2,ethtool,kmod";
/// Folders that nothing in the guest reads. (The packages' own are there.)
const UNUSED: &str = r#"cd "$1/usr" && rm -rf share/doc/* share/man/* share/locale/* lib/*/gconv"#;

/// `cargo xtask guest package`.
pub fn package() -> Result<Summary> {
    if let Some(reason) = debian::missing() {
        bail!("{reason}: the guest needs a machine with a Debian mirror in apt's sources");
    }
    // As other tests in guests, with programs that are not optimised: that takes less time than it saves.
    let [mplsxdp, xtask, labs] = build_programs(["mplsxdp", "xtask", PROGRAM], &[])?;
    let own = Built::of(mplsxdp)?;
    setup::guest(Architecture::Amd64)?;
    setup::guest_systems()?;
    let directory = target().join("guest").join(NAME);
    let deb = |revision| Staged::new(&own, revision)?.deb(&directory);
    let packages = [deb(1)?, deb(2)?];
    let kernel = kernel(SHORT).context("the kernel is not in the table")?;
    let kernel_directory = target().join("guest").join(kernel.name);
    fs::create_dir_all(&kernel_directory)?;
    let unpacked =
        debian::fetch(kernel, &kernel_directory).with_context(|| format!("cannot get kernel {}", kernel.name))?;
    let root = root(&directory)?;
    let runs = [Run {
        program: PROGRAM.into(),
        arguments: vec![NAME.into()],
    }];
    let additions = directory.join("additions");
    let packages = PACKAGES.iter().copied().zip(packages.iter().map(PathBuf::as_path));
    system::add_to_systemd(&additions, &unpacked, &xtask, &labs, &runs, packages)?;
    // The kernel unpacks one archive after the other.
    let initramfs = directory.join("initramfs");
    let mut whole = File::create(&initramfs)?;
    for part in [&root, &additions] {
        std::io::copy(&mut File::open(part)?, &mut whole)?;
    }
    let booted = boot(&unpacked, &initramfs, &directory, &runs, true);
    fs::remove_file(initramfs)?;
    let (mut results, came_to_its_end) = booted?;
    Ok(results.summary(came_to_its_end))
}

/// A small Debian of this machine's release, so that programs of this machine run in it: as an archive, from the cache or
/// from the mirror.
fn root(directory: &Path) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("/etc/os-release names no release of Debian")?;
    let archive = directory.join(format!("{suite}.cpio"));
    if archive.exists() {
        return Ok(archive);
    }
    let tree = directory.join("root.tar");
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap
        .args(["--variant=minbase", "--format=tar", &format!("--include={INCLUDED}")])
        .arg(format!("--customize-hook={UNUSED}"))
        .args([suite, &*tree.to_string_lossy(), &*debian::mirror()?]);
    run_tool(
        &mut bootstrap,
        "mmdebstrap(1) says what it needs, if it does not run as root",
    )?;
    // It gets its name last: an archive that exists is complete.
    let fresh = directory.join("fresh.cpio");
    let mut convert = Command::new("bsdtar");
    convert.args(["--format=newc", "-cf"]).arg(&fresh);
    convert.arg(format!("@{}", tree.display())).stdin(Stdio::null());
    output(&mut convert)?;
    ensure!(fs::metadata(&fresh)?.len() > 0, "{} is empty", fresh.display());
    fs::remove_file(tree)?;
    fs::rename(fresh, &archive)?;
    Ok(archive)
}

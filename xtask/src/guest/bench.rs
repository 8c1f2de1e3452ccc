//! The bench in a guest whose kernel has MPLS, which those of other machines may lack.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};

use super::debian::Architecture;
use super::image::Origin;
use super::kernels::{Expected, KERNELS, Kernel};
use super::system::{self, Extras};
use super::wire::Run;
use super::{Built, boot, debian, kernel};
use crate::run::{Artifact, Kind, build_programs, target, workspace};
use crate::setup;

const PROGRAM: &str = "bench";
/// What the kernel needs for the rows that it can do, too.
const MODULES: [&str; 3] = ["vrf", "mpls_router", "mpls_iptunnel"];
/// What is measured if nothing is named, fewer frames than elsewhere: a guest is slow.
const DEFAULTS: [&str; 7] = ["swap-4k", "pop", "impose-256", "--rounds", "9", "--kiloframes", "100"];

/// `cargo xtask guest bench KERNEL [ARGUMENT...]`: the kernel's own MPLS beside mplsxdp.
pub fn bench(name: &str, arguments: &[String]) -> Result<()> {
    let is_able = |kernel: &&Kernel| {
        // An emulated processor of another kind says nothing of speed.
        kernel.expected == Expected::Everything && kernel.architecture == Architecture::Amd64
    };
    let known = |name: &str| kernel(name).filter(is_able);
    let Some(kernel) = known(name) else {
        let able = KERNELS.iter().filter(|kernel| known(kernel.name).is_some());
        let names: Vec<_> = able.map(|kernel| kernel.name).collect();
        bail!("there is no bench on a kernel {name}; there are: {}", names.join(", "));
    };
    if let Some(reason) = debian::missing() {
        bail!("{reason}: the bench in a guest needs a machine with a Debian mirror in apt's sources");
    }
    let [mplsxdp, xtask, bench] = build_programs(["mplsxdp", "xtask", PROGRAM], &["--release"])?;
    setup::guest(Architecture::Amd64)?;
    let built = Built {
        origin: Origin::Machine,
        mplsxdp,
        xtask,
        tests: vec![Artifact {
            name: PROGRAM.into(),
            package_directory: workspace().into(),
            executable: bench,
            kind: Kind::Program,
        }],
    };
    let mut passed_on: Vec<String> = arguments.to_vec();
    if passed_on.is_empty() {
        passed_on.extend(DEFAULTS.map(str::to_owned));
    }
    passed_on.push("--kernel".to_owned());
    let runs = [Run {
        program: PROGRAM.into(),
        arguments: passed_on,
    }];
    let directory = target().join("guest").join(kernel.name);
    fs::create_dir_all(&directory)?;
    let unpacked = debian::fetch(kernel, &directory).with_context(|| format!("cannot get kernel {}", kernel.name))?;
    let initramfs = directory.join("initramfs");
    let extras = Extras {
        modules: &MODULES,
        ..Extras::default()
    };
    system::make(&initramfs, &unpacked, &built, &runs, &extras)?;
    let (mut results, came_to_its_end) = boot(&unpacked, &initramfs, &directory, &runs, false)?;
    ensure!(
        results.summary(came_to_its_end).failed == 0,
        "the bench failed in the guest"
    );
    Ok(())
}

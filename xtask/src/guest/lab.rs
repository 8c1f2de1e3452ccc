//! The labs: routers that run FRR, or only Linux, in network namespaces of a guest whose kernel has MPLS. The program
//! `labs` of the tests crate carries them out; see labs/README.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::debian::{Architecture, Source};
use super::image::{Origin, output};
use super::kernels::{Kernel, SHORT};
use super::system::{self, Extras};
use super::wire::Run;
use super::{Built, boot, debian, kernel};
use crate::run::{Artifact, Kind, Summary, build_programs, target, workspace};
use crate::setup;

/// The program that carries out labs, and lists them.
const PROGRAM: &str = "labs";
/// Packages that the guest has besides the programs of this machine, and the suite of Debian that they are from: that
/// of FRR 8.4. `util-linux` has setpriv, which starts ExaBGP: every Debian has it, so nothing depends on it.
const PACKAGES: (&str, [&str; 3]) = ("bookworm", ["frr", "exabgp", "util-linux"]);
/// What FRR and the labs need of the kernel.
const MODULES: [&str; 3] = ["vrf", "8021q", "dummy"];
/// Without them the kernel has no MPLS.
const MPLS_MODULES: [&str; 2] = ["mpls_router", "mpls_iptunnel"];
/// Programs of this machine that tests need not have.
const TOOLS: [&str; 1] = ["chroot"];

/// Every lab.
const ALL: &str = "all";
/// The lab that `cargo xtask demo frr` and `cargo xtask test --guest` run.
pub const SHOWN: &str = "l3vpn";

/// A line of `labs --list`: name, whether its kernel has MPLS, and what it shows; separated by tabs.
struct Lab {
    name: String,
    mpls: bool,
    shows: String,
}

impl Lab {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        Some(Self {
            name: fields.next()?.to_owned(),
            mpls: fields.next()? == "mpls",
            shows: fields.next()?.to_owned(),
        })
    }
}

/// The labs' part of `cargo xtask test --guest`. A machine that cannot have it has one skipped test, with the reason.
pub fn test_short() -> Result<Summary> {
    if let Some(reason) = debian::missing() {
        println!("\nlab {SHOWN} ... ignored, {reason}");
        return Ok(Summary {
            skipped: 1,
            ..Summary::default()
        });
    }
    labs(&[SHOWN.to_owned()])
}

/// `cargo xtask guest lab NAME...`: each in a guest of its own.
pub fn labs(names: &[String]) -> Result<Summary> {
    if let Some(reason) = debian::missing() {
        bail!("{reason}: the labs need a machine with a Debian mirror in apt's sources");
    }
    let [mplsxdp, xtask, labs] = build_programs(["mplsxdp", "xtask", PROGRAM], &[])?;
    setup::guest(Architecture::Amd64)?;
    let listed = output(Command::new(&labs).arg("--list"))?;
    // `cargo xtask guest package` has the one with systemd.
    let known = listed.lines().filter(|line| !line.contains("\tsystemd\t"));
    let known: Vec<_> = known.filter_map(Lab::parse).collect();
    ensure!(!known.is_empty(), "{} lists no labs", labs.display());
    let is_unknown = |name: &&String| *name != ALL && !known.iter().any(|lab| lab.name == **name);
    if let Some(unknown) = names.iter().find(is_unknown) {
        let lines = known.iter().map(|lab| format!("  {:<12} {}", lab.name, lab.shows));
        bail!(
            "there is no lab {unknown}; there are:\n{}",
            lines.collect::<Vec<_>>().join("\n")
        );
    }
    let built = Built {
        origin: Origin::Machine,
        mplsxdp,
        xtask,
        tests: vec![Artifact {
            name: PROGRAM.into(),
            package_directory: workspace().into(),
            executable: labs,
            kind: Kind::Program,
        }],
    };
    let kernel = kernel(SHORT).context("the kernel of the labs is not in the table")?;
    let mut summary = Summary::default();
    let mut lines = Vec::new();
    for lab in &known {
        if names.iter().any(|name| *name == lab.name || name == ALL) {
            let begin = Instant::now();
            let ran = run(kernel, &built, lab)?;
            let line = format!("lab {}: {ran}, in {} s", lab.name, begin.elapsed().as_secs());
            println!("\n{line}");
            lines.push(line);
            summary += ran;
        }
    }
    if lines.len() > 1 {
        println!("\n{}", lines.join("\n"));
    }
    Ok(summary)
}

fn run(kernel: &'static Kernel, built: &Built, lab: &Lab) -> Result<Summary> {
    let cache = target().join("guest");
    let unpacked = debian::fetch(kernel, &made(&cache.join(kernel.name))?)
        .with_context(|| format!("cannot get kernel {}", kernel.name))?;
    let (suite, packages) = PACKAGES;
    let directory = made(&cache.join("packages"))?;
    let tree = debian::packages(Architecture::Amd64, Source::Suite(suite), &packages, &directory)
        .with_context(|| format!("cannot get {}", packages.join(", ")))?;
    let directory = made(&cache.join("labs").join(&lab.name))?;
    let initramfs = directory.join("initramfs");
    let runs = [Run {
        program: PROGRAM.into(),
        arguments: vec![lab.name.clone()],
    }];
    let modules = if lab.mpls {
        [&MODULES[..], &MPLS_MODULES].concat()
    } else {
        MODULES.to_vec()
    };
    let extras = Extras {
        modules: &modules,
        debian: Some(&tree),
        tools: &TOOLS,
    };
    system::make(&initramfs, &unpacked, built, &runs, &extras)?;
    let booted = boot(&unpacked, &initramfs, &directory, &runs, true);
    fs::remove_file(initramfs)?;
    let (mut results, came_to_its_end) = booted?;
    Ok(results.summary(came_to_its_end))
}

/// The directory, which now exists.
fn made(directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    Ok(directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::Lab;

    #[test]
    fn the_list_of_labs_is_read() {
        let lab = Lab::parse("bgp-lu\tplain\tlabels by BGP").unwrap();
        assert_eq!(
            (lab.name.as_str(), lab.mpls, lab.shows.as_str()),
            ("bgp-lu", false, "labels by BGP")
        );
        assert!(Lab::parse("l3vpn\tmpls\tan MPLS VPN").unwrap().mpls);
        assert!(Lab::parse("l3vpn").is_none());
    }
}

//! Makes packages: a .deb by cargo-deb and an .rpm by cargo-generate-rpm. Both take their files from one folder that
//! looks like the root of a file system; mplsxdp/Cargo.toml lists them.

mod licences;
mod stage;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cross::{self, Cross, Target};
use crate::guest::image::output;
use crate::install;
use crate::run::{is_root, run_tool, target, workspace};
use crate::setup;

const CARGO_DEB: (&str, &str) = ("cargo-deb", "3.8.0");
const CARGO_GENERATE_RPM: (&str, &str) = ("cargo-generate-rpm", "0.21.1");
const PACKAGE: &str = "mplsxdp";
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(clap::Args)]
pub struct Arguments {
    /// Revision of the .deb and release of the .rpm, for packages of one version.
    #[arg(long, default_value_t = 1)]
    revision: u32,
    /// Also check both packages, with lintian and rpm.
    #[arg(long)]
    check: bool,
    /// For another processor than this machine's.
    #[arg(long, value_enum, value_name = "TRIPLE")]
    target: Option<Target>,
}

/// An architecture, with the names that Debian, RPM and Rust have for it.
#[derive(Clone, Copy)]
enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    fn own() -> Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("packages are for amd64 and arm64, not for {other}"),
        }
    }

    /// That of Rust.
    fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn rpm(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

pub fn package(arguments: &Arguments) -> Result<()> {
    let built = Built::new(arguments.target)?;
    let staged = Staged::new(&built, arguments.revision)?;
    let folder = target().join("package");
    let packages = [staged.deb(&folder)?, staged.rpm(&folder)?];
    if arguments.check {
        check(&built, &packages)?;
    }
    for path in packages {
        let bytes = fs::metadata(&path)?.len();
        println!("{} ({} KiB)", path.display(), bytes.div_ceil(1024));
    }
    Ok(())
}

/// A program for packages.
pub struct Built {
    arch: Arch,
    program: PathBuf,
    /// If it is for another processor than this machine's.
    cross: Option<Cross>,
}

impl Built {
    /// For use: optimised.
    fn new(target: Option<Target>) -> Result<Self> {
        match target {
            None => Self::of(install::build()?),
            Some(target @ Target::Arm64) => {
                let cross = Cross::setup(target)?;
                setup::packaging()?;
                Ok(Self {
                    arch: Arch::Arm64,
                    program: install::build_by(cross.cargo("build"))?,
                    cross: Some(cross),
                })
            }
        }
    }

    /// What is built already, for this machine's architecture.
    pub fn of(program: PathBuf) -> Result<Self> {
        setup::packaging()?;
        let arch = Arch::own()?;
        Ok(Self {
            arch,
            program,
            cross: None,
        })
    }

    /// A program like this one, run on this machine.
    fn run(&self, program: &Path) -> Command {
        self.cross
            .as_ref()
            .map_or_else(|| Command::new(program), |cross| cross.emulated(program))
    }

    fn strip(&self) -> Command {
        Command::new(self.cross.as_ref().map_or("strip".into(), |_| cross::tool("strip")))
    }
}

/// The files of a package of this revision are in their folder.
pub struct Staged<'a> {
    built: &'a Built,
    revision: u32,
    date: u64,
}

impl<'a> Staged<'a> {
    pub fn new(built: &'a Built, revision: u32) -> Result<Self> {
        let staged = Self {
            built,
            revision,
            date: date()?,
        };
        // Where both tools look for assets in `target/release/package`.
        let mut folder = target();
        folder.extend(built.cross.as_ref().map(Cross::triple));
        stage::stage(&folder.join("release/package"), built, revision, staged.date)?;
        Ok(staged)
    }

    pub fn deb(&self, folder: &Path) -> Result<PathBuf> {
        let name = format!("{PACKAGE}_{VERSION}-{}_{}.deb", self.revision, self.built.arch.debian());
        let mut command = Command::new(setup::cargo_tool(CARGO_DEB)?);
        command.args(["--no-build", "--no-strip", "--package", PACKAGE]);
        command.args(["--deb-revision", &self.revision.to_string()]);
        if let Some(cross) = &self.built.cross {
            command.args(["--target", cross.triple()]);
            // cargo-deb calls dpkg-shlibdeps by its name.
            let search = env::var_os("PATH").unwrap_or_default();
            let folder = cross.shlibdeps()?;
            command.env(
                "PATH",
                env::join_paths(std::iter::once(folder).chain(env::split_paths(&search)))?,
            );
        }
        self.run(command, &folder.join(name))
    }

    fn rpm(&self, folder: &Path) -> Result<PathBuf> {
        let name = format!("{PACKAGE}-{VERSION}-{}.{}.rpm", self.revision, self.built.arch.rpm());
        let mut command = Command::new(setup::cargo_tool(CARGO_GENERATE_RPM)?);
        command.args(["--package", PACKAGE, "--arch", self.built.arch.rpm(), "--target-dir"]);
        command.arg(target());
        if let Some(cross) = &self.built.cross {
            command.args(["--target", cross.triple()]);
        }
        command.args(["--set-metadata", &format!("release = \"{}\"", self.revision)]);
        self.run(command, &folder.join(name))
    }

    fn run(&self, mut command: Command, path: &Path) -> Result<PathBuf> {
        fs::create_dir_all(path.parent().context("no folder")?)?;
        command
            .arg("--output")
            .arg(path)
            .current_dir(workspace())
            .env("SOURCE_DATE_EPOCH", self.date.to_string());
        run_tool(&mut command, "mplsxdp/Cargo.toml says what is in packages")?;
        Ok(path.to_owned())
    }
}

/// Seconds since 1970: the date of the sources, so that packages of the same sources are the same.
fn date() -> Result<u64> {
    if let Ok(given) = env::var("SOURCE_DATE_EPOCH") {
        return given
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is {given}, not a number of seconds"));
    }
    let mut log = Command::new("git");
    log.args(["log", "-1", "--format=%ct"]).current_dir(workspace());
    if let Ok(text) = output(&mut log) {
        return text.trim().parse().with_context(|| format!("git has the date {text}"));
    }
    // No repository: an archive of the sources.
    let written = fs::metadata(workspace().join("CHANGELOG.md"))?.modified()?;
    Ok(written.duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

/// The program in the .deb runs, here or emulated, and has the version of the package.
fn check_program(built: &Built, deb: &Path) -> Result<()> {
    let root = target().join("deb-root");
    output(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&root))?;
    let mut show = built.run(&root.join("usr/bin").join(PACKAGE));
    let version = output(show.arg("--version"))?;
    ensure!(
        version.trim() == format!("{PACKAGE} {VERSION}"),
        "the program in {} says that it is {version}",
        deb.display()
    );
    fs::remove_dir_all(root)?;
    Ok(())
}

/// Lintian finds nothing in the .deb, and the .rpm is whole and has the program, the unit and the scripts.
fn check(built: &Built, [deb, rpm]: &[PathBuf; 2]) -> Result<()> {
    setup::package_checks()?;
    check_program(built, deb)?;
    let mut lintian = Command::new("lintian");
    // As root it only warns that it should be another user.
    lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(deb);
    run_tool(
        &mut lintian,
        "mend what lintian names, or override it with a reason in packaging/lintian-overrides",
    )?;
    run_tool(
        Command::new("rpm").args(["--checksig", "--nosignature"]).arg(rpm),
        "its digests are wrong",
    )?;
    let query = |what: &[&str]| output(Command::new("rpm").arg("--query").args(what).arg("--package").arg(rpm));
    let files = query(&["--list"])?;
    for file in [
        "/usr/bin/mplsxdp",
        "/usr/lib/systemd/system/mplsxdp@.service",
        "/usr/share/man/man8/mplsxdp.8.gz",
    ] {
        ensure!(files.lines().any(|line| line == file), "{} lacks {file}", rpm.display());
    }
    let config = query(&["--configfiles"])?;
    ensure!(
        config == "/etc/mplsxdp/default.toml\n",
        "the config files of {} are: {config}",
        rpm.display()
    );
    let needed = query(&["--requires"])?;
    ensure!(
        needed.contains("libelf.so.1"),
        "{} needs no libelf: {needed}",
        rpm.display()
    );
    let scripts = query(&["--scripts"])?;
    for part in ["postinstall", "preuninstall", "postuninstall"] {
        ensure!(
            scripts.contains(&format!("{part} scriptlet")),
            "{} has no {part}",
            rpm.display()
        );
    }
    // Into a root of its own, which only root can enter; scripts concern the running machine.
    if is_root()? {
        let root = target().join("rpm-root");
        fs::create_dir_all(&root)?;
        let within = |arguments: &[&str]| {
            let mut command = Command::new("rpm");
            command
                .arg("--root")
                .arg(&root)
                .args(["--nodeps", "--noscripts"])
                .args(arguments);
            command
        };
        output(within(&["--install", "--ignorearch"]).arg(rpm))?;
        ensure!(root.join("usr/bin/mplsxdp").exists(), "rpm has installed no program");
        output(&mut within(&["--erase", PACKAGE]))?;
        ensure!(
            !root.join("usr/bin/mplsxdp").exists(),
            "rpm has not removed the program"
        );
        fs::remove_dir_all(root)?;
    }
    println!("the program runs, and lintian and rpm find nothing wrong");
    Ok(())
}

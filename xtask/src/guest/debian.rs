//! Kernels and packages from the Debian mirror that this machine's apt is configured for, also those for another
//! processor, unpacked into a directory of the project; nothing is installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::image::output;
use super::kernels::Kernel;
use crate::run::is_installed;
use crate::setup::apt_update;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How the packages with parts of a kernel are named: some releases have one package, some several.
const PARTS: [&str; 4] = ["linux-image-", "linux-base-", "linux-binary-", "linux-modules-"];

/// Parts of packages that nothing in a guest reads.
const UNUSED: [&str; 4] = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl"];
/// The same, beneath the directory of libraries.
const UNUSED_LIBRARIES: [&str; 2] = ["perl", "gconv"];

/// The processor that packages are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    /// As Debian calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As the directories of libraries and the GNU tools for it are called.
    pub const fn gnu(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }
}

/// Where packages come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A suite of Debian.
    Suite(&'a str),
    /// The releases of Debian that this machine's apt has, updates included.
    Machine,
}

/// A kernel, unpacked.
pub struct Unpacked {
    pub kernel: &'static Kernel,
    pub image: PathBuf,
    /// The directory of its modules.
    pub modules: PathBuf,
    pub release: String,
}

/// Why kernels are not available here; `None` if they are.
pub fn missing() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("kernels are those of x86-64".into());
    }
    unavailable()
}

/// Why Debian's packages are not available here; `None` if they are.
pub fn unavailable() -> Option<String> {
    if !is_installed("apt-get") || !is_installed("dpkg-deb") {
        return Some("no apt to get Debian's packages by".into());
    }
    if !Path::new(KEYRING).exists() {
        return Some(format!("no {KEYRING} to check Debian's packages by"));
    }
    mirror().err().map(|error| format!("{error:#}"))
}

/// The kernel from the cache, or from the mirror.
pub fn fetch(kernel: &'static Kernel, directory: &Path) -> Result<Unpacked> {
    let root = directory.join("root");
    // A directory that exists is complete: it gets its name last.
    if !root.exists() {
        let apt = Apt::new(kernel.architecture, Source::Suite(kernel.suite), &directory.join("apt"))?;
        let fresh = directory.join("fresh");
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        fs::create_dir_all(&fresh)?;
        for package in apt.parts(kernel.package)? {
            let archive = apt.download(&package)?;
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("--extract").arg(&archive).arg(&fresh);
            output(&mut unpack)?;
            fs::remove_file(archive)?;
        }
        // Where depmod looks, whatever the layout of the packages.
        if !fresh.join("lib").exists() {
            symlink("usr/lib", fresh.join("lib"))?;
        }
        let release = release(&fresh)?;
        output(Command::new("depmod").arg("--basedir").arg(&fresh).arg(release))?;
        fs::remove_dir_all(directory.join("apt"))?;
        fs::rename(fresh, &root)?;
    }
    let release = release(&root)?;
    let modules = root.join("lib/modules").join(&release);
    let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.exists());
    Ok(Unpacked {
        kernel,
        image: image.with_context(|| format!("no kernel image in {}", root.display()))?,
        modules,
        release,
    })
}

/// Packages with everything that they depend on, unpacked into one tree, from the cache or from the mirror. None of
/// their scripts run, so this needs no root. The cache is kept until the source or the names change.
pub fn packages(architecture: Architecture, source: Source<'_>, names: &[&str], directory: &Path) -> Result<PathBuf> {
    unpacked(architecture, source, names, directory, Apt::download_all)
}

/// Packages, without what they depend on, unpacked in the same way. A name may have `=VERSION` behind it.
pub fn packages_alone(
    architecture: Architecture,
    source: Source<'_>,
    names: &[&str],
    directory: &Path,
) -> Result<PathBuf> {
    unpacked(architecture, source, names, directory, download_each)
}

/// Packages, without what they depend on, each in a folder of its own with its control files in `DEBIAN`.
pub fn packages_apart(
    architecture: Architecture,
    source: Source<'_>,
    names: &[&str],
    directory: &Path,
) -> Result<PathBuf> {
    cached(architecture, source, names, directory, |apt, fresh| {
        for (name, archive) in names.iter().zip(download_each(apt, names)?) {
            let mut unpack = Command::new("dpkg-deb");
            output(unpack.arg("--raw-extract").arg(&archive).arg(fresh.join(name)))?;
        }
        Ok(())
    })
}

fn download_each(apt: &Apt, names: &[&str]) -> Result<Vec<PathBuf>> {
    names.iter().map(|name| apt.download(name)).collect()
}

fn unpacked(
    architecture: Architecture,
    source: Source<'_>,
    names: &[&str],
    directory: &Path,
    download: impl Fn(&Apt, &[&str]) -> Result<Vec<PathBuf>>,
) -> Result<PathBuf> {
    cached(architecture, source, names, directory, |apt, fresh| {
        for archive in download(apt, names)? {
            let mut unpack = Command::new("dpkg-deb");
            output(unpack.arg("--extract").arg(&archive).arg(fresh))?;
        }
        let libraries = UNUSED_LIBRARIES.map(|part| format!("usr/lib/{}/{part}", architecture.gnu()));
        for part in UNUSED.into_iter().chain(libraries.iter().map(String::as_str)) {
            let part = fresh.join(part);
            if part.exists() {
                fs::remove_dir_all(part)?;
            }
        }
        Ok(())
    })
}

/// The folder that `make` fills, or has filled from the same source for the same names.
fn cached(
    architecture: Architecture,
    source: Source<'_>,
    names: &[&str],
    directory: &Path,
    make: impl Fn(&Apt, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let root = directory.join("root");
    let from = match source {
        Source::Suite(suite) => suite,
        Source::Machine => "as this machine",
    };
    let inputs = format!("{} {from}: {}\n", architecture.name(), names.join(" "));
    let record = directory.join("inputs");
    if root.exists() && fs::read_to_string(&record).is_ok_and(|cached| cached == inputs) {
        return Ok(root);
    }
    for old in [directory.join("fresh"), root.clone()] {
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
    }
    let fresh = directory.join("fresh");
    fs::create_dir_all(&fresh)?;
    let apt = Apt::new(architecture, source, &directory.join("apt"))?;
    make(&apt, &fresh)?;
    fs::remove_dir_all(directory.join("apt"))?;
    fs::write(record, inputs)?;
    fs::rename(fresh, &root)?;
    Ok(root)
}

/// The release of the one kernel that is unpacked there.
fn release(root: &Path) -> Result<String> {
    let modules = first(&root.join("lib/modules"), "").with_context(|| format!("no modules in {}", root.display()))?;
    let release = modules.file_name().context("no release")?;
    Ok(release.to_string_lossy().into_owned())
}

fn first(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    })
}

/// apt with its own state, lists and sources.
struct Apt {
    architecture: Architecture,
    directory: PathBuf,
}

impl Apt {
    fn new(architecture: Architecture, source: Source<'_>, directory: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "state", "archives"] {
            fs::create_dir_all(directory.join(part))?;
        }
        fs::write(directory.join("status"), "")?;
        let releases = match source {
            Source::Suite(suite) => vec![(mirror()?, suite.to_owned())],
            Source::Machine => releases(&known_targets()?),
        };
        let (name, mut sources) = (architecture.name(), String::new());
        for (address, suite) in &releases {
            sources.push_str(&format!(
                "deb [arch={name} signed-by={KEYRING}] {address} {suite} main\n"
            ));
        }
        fs::write(directory.join("sources.list"), sources)?;
        let apt = Self {
            architecture,
            directory: directory.to_owned(),
        };
        let suites: Vec<_> = releases.iter().map(|(_, suite)| suite.as_str()).collect();
        eprintln!(
            "> apt-get update (of a directory for {name} of {}, not of this machine)",
            suites.join(", ")
        );
        output(apt.command("apt-get").args(["--quiet", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |part: &str| self.directory.join(part).display().to_string();
        for (option, value) in [
            ("Dir::Etc::SourceList", place("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::State", place("state")),
            ("Dir::State::Lists", place("lists")),
            ("Dir::State::status", place("status")),
            ("Dir::Cache", place("cache")),
            // Without dropping privileges: another user may not be able to read the directory.
            ("APT::Sandbox::User", String::new()),
            ("APT::Architecture", self.architecture.name().into()),
            ("APT::Architectures", self.architecture.name().into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
        ] {
            command.args(["-o", &format!("{option}={value}")]);
        }
        command
    }

    /// The packages with parts of a kernel that `package` depends on.
    fn parts(&self, package: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut names = vec![package.to_owned()];
        while let Some(name) = names.pop() {
            let shown = output(self.command("apt-cache").args(["depends", "--important", &name]))?;
            let depended = shown.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
            let parts = depended.filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
            for part in parts {
                if !found.iter().any(|known| known == part) {
                    found.push(part.to_owned());
                    names.push(part.to_owned());
                }
            }
        }
        ensure!(!found.is_empty(), "{package} depends on no kernel");
        Ok(found)
    }

    /// The archives of these packages and of all that they depend on.
    fn download_all(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        eprintln!(
            "> apt-get install --download-only {} (nothing is installed)",
            names.join(" ")
        );
        let mut command = self.command("apt-get");
        let options = [
            "--quiet",
            "--yes",
            "--no-install-recommends",
            "--download-only",
            "install",
        ];
        output(command.args(options).args(names))?;
        let mut archives = Vec::new();
        for entry in fs::read_dir(self.directory.join("cache/archives"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                archives.push(path);
            }
        }
        ensure!(!archives.is_empty(), "apt-get downloaded nothing");
        archives.sort();
        Ok(archives)
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        let archives = self.directory.join("archives");
        eprintln!("> apt-get download {package}");
        let mut command = self.command("apt-get");
        output(command.args(["--quiet", "download", package]).current_dir(&archives))?;
        let name = package.split_once('=').map_or(package, |(name, _)| name);
        first(&archives, &format!("{name}_")).with_context(|| format!("apt-get downloaded no {package}"))
    }
}

/// The mirror from which this machine's apt gets Debian.
pub fn mirror() -> Result<String> {
    let targets = known_targets()?;
    let found = of_debian(&targets).context("apt on this machine is configured for no mirror of Debian")?;
    Ok(found.to_owned())
}

/// The sources that apt has lists of.
fn known_targets() -> Result<String> {
    let mut targets = targets()?;
    // It reports only sources whose lists are downloaded: on a fresh machine, none.
    if targets.is_empty() {
        apt_update()?;
        targets = self::targets()?;
    }
    Ok(targets)
}

/// Origin, label, address and suite of each.
fn targets() -> Result<String> {
    let format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)|$(RELEASE)";
    output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))
}

fn of_debian(targets: &str) -> Option<&str> {
    let mirrors = targets.lines().filter_map(|line| line.strip_prefix("Debian|Debian|"));
    let mut addresses = mirrors.filter_map(|line| line.split('|').next());
    addresses.next()
}

/// Address and suite of everything that is Debian's, each once.
fn releases(targets: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in targets.lines().filter_map(|line| line.strip_prefix("Debian|")) {
        let mut fields = line.split('|').skip(1).map(str::to_owned);
        if let (Some(address), Some(suite)) = (fields.next(), fields.next())
            && !found.contains(&(address.clone(), suite.clone()))
        {
            found.push((address, suite));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{of_debian, releases};

    #[test]
    fn the_mirror_is_that_of_debian_itself() {
        let others = "Debian|Debian-Security|http://a.example/debian-security/|s\n||http://b.example/|x\n";
        assert_eq!(of_debian(others), None);
        let all = format!("{others}Debian|Debian|http://c.example/debian/|bookworm\n");
        assert_eq!(of_debian(&all), Some("http://c.example/debian/"));
    }

    #[test]
    fn the_releases_of_a_machine_are_those_of_debian() {
        let targets = "Debian|Debian|http://c/debian/|bookworm\nDebian|Debian|http://c/debian/|bookworm\n\
                       Debian|Debian-Security|http://c/security/|bookworm-security\nOther|Other|http://o/|stable\n";
        let [main, security] = &releases(targets)[..] else {
            panic!("{:?}", releases(targets));
        };
        assert_eq!((main.0.as_str(), main.1.as_str()), ("http://c/debian/", "bookworm"));
        assert_eq!(
            (security.0.as_str(), security.1.as_str()),
            ("http://c/security/", "bookworm-security")
        );
    }
}

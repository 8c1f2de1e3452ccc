//! The initramfs, which is the guest's whole system: programs of this machine, or of another processor's packages, and
//! the libraries that they are linked with, the kernel's modules, tests. An archive in the kernel's own format ("newc",
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::debian::Architecture;
use crate::cross;

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

/// Directories that are in /usr in the guest, wherever they are on this machine.
const MERGED: [&str; 3] = ["bin", "lib", "lib64"];

/// The system that a guest's tools and libraries come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Origin {
    Machine,
    /// Packages for arm64, unpacked.
    Arm64(PathBuf),
}

impl Origin {
    /// The name of a GNU tool for its programs.
    fn gnu_tool(&self, name: &str) -> String {
        match self {
            Self::Machine => name.to_owned(),
            Self::Arm64(_) => cross::tool(name),
        }
    }

    fn find_tool(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Machine => {
                let search = std::env::var_os("PATH").unwrap_or_default();
                let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
                let directories = std::env::split_paths(&search).chain(system);
                directories
                    .map(|directory| directory.join(name))
                    .find(|path| path.is_file())
            }
            // Which of several programs has the plain name is decided when a package is installed: `traceroute.db`.
            Self::Arm64(root) => ["usr/bin", "usr/sbin", "bin", "sbin"]
                .iter()
                .flat_map(|directory| {
                    [name.to_owned(), format!("{name}.db")].map(|name| Path::new(directory).join(name))
                })
                .find_map(|path| within(root, &path)),
        }
    }

    /// The libraries that the dynamic linker takes for a program, and their places in its system.
    fn libraries(&self, program: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
        match self {
            Self::Machine => linked(program),
            Self::Arm64(root) => linked_within(root, program),
        }
    }
}

pub struct Image {
    origin: Origin,
    archive: BufWriter<File>,
    /// The paths that are in it, without a leading slash.
    paths: BTreeSet<PathBuf>,
}

impl Image {
    pub fn create(path: &Path, origin: &Origin) -> Result<Self> {
        let mut image = Self::addition(path, origin)?;
        for name in MERGED {
            image.add(Path::new(name), SYMLINK, format!("usr/{name}").as_bytes())?;
            image.directory(&Path::new("usr").join(name))?;
        }
        // Where the kernel looks for modprobe.
        image.add(Path::new("sbin"), SYMLINK, b"usr/bin")?;
        // Mount points, and directories that tools need.
        for name in ["proc", "sys", "dev", "tmp", "run", "var/lib", "root"] {
            image.directory(Path::new(name))?;
        }
        Ok(image)
    }

    /// Files that are added to another system.
    pub fn addition(path: &Path, origin: &Origin) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            origin: origin.clone(),
            archive: BufWriter::new(file),
            paths: BTreeSet::new(),
        })
    }

    /// A file with this content.
    pub fn text(&mut self, to: &str, content: &[u8]) -> Result<()> {
        self.put(Path::new(to), FILE, content)
    }

    /// A program of the system that the guest's tools come from, by its name.
    pub fn tool(&mut self, name: &str) -> Result<()> {
        let from = self.origin.find_tool(name);
        let from = from.with_context(|| format!("no program {name}"))?;
        let content = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        self.put(&Path::new("usr/bin").join(name), PROGRAM, &content)?;
        self.libraries(&from)
    }

    /// A program that was built here, without its debug information.
    pub fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.program_only(from, to)?;
        self.libraries(from)
    }

    /// The same without its libraries.
    pub fn program_only(&mut self, from: &Path, to: &str) -> Result<()> {
        let stripped = from.with_extension("stripped");
        let mut strip = Command::new(self.origin.gnu_tool("strip"));
        strip.arg("-o").arg(&stripped).arg(from);
        output(&mut strip)?;
        let content = fs::read(&stripped)?;
        fs::remove_file(&stripped)?;
        self.put(Path::new(to), PROGRAM, &content)
    }

    /// A symbolic link.
    pub fn link(&mut self, to: &str, target: &str) -> Result<()> {
        self.put(Path::new(to), SYMLINK, target.as_bytes())
    }

    /// Files of a directory and those below it, to the same places below another.
    pub fn tree(&mut self, from: &Path, to: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry?;
            let to = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.tree(&entry.path(), &to)?;
            } else {
                self.put(&to, FILE, &fs::read(entry.path())?)?;
            }
        }
        Ok(())
    }

    /// A system's files of a directory and those below it: programs stay programs, and symbolic links links.
    pub fn system(&mut self, from: &Path, to: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry?;
            let (path, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.directory(&to)?;
                self.system(&path, &to)?;
            } else if kind.is_symlink() {
                self.put(&to, SYMLINK, fs::read_link(&path)?.as_os_str().as_bytes())?;
            } else if kind.is_file() {
                let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
                let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                self.put(&to, if executable { PROGRAM } else { FILE }, &content)?;
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<()> {
        self.add(Path::new("TRAILER!!!"), 0, &[])?;
        self.archive.flush()?;
        Ok(())
    }

    fn libraries(&mut self, program: &Path) -> Result<()> {
        for (from, to) in self.origin.libraries(program)? {
            let content = fs::read(&from).with_context(|| format!("{} needs {}", program.display(), from.display()))?;
            self.put(&to, PROGRAM, &content)?;
        }
        Ok(())
    }

    /// A file with its directories, once.
    fn put(&mut self, to: &Path, mode: u32, content: &[u8]) -> Result<()> {
        let to = match MERGED.iter().any(|name| to.starts_with(name)) {
            true => Path::new("usr").join(to),
            false => to.to_owned(),
        };
        if let Some(parent) = to.parent() {
            self.directory(parent)?;
        }
        self.add(&to, mode, content)
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || self.paths.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.add(path, DIRECTORY, &[])
    }

    /// One member: header, name and content, each padded to four bytes.
    fn add(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        if !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        let name = path.to_str().context("a path that is not UTF-8")?;
        let number = u32::try_from(self.paths.len())?;
        let size = u32::try_from(content.len())?;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let name_size = u32::try_from(name.len() + 1)?;
        // Inode, mode, owner, group, links, time, size, device twice, length of the name, checksum.
        let fields = [number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(name);
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.archive.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.archive.write_all(&[0; 3][..padding])?;
        Ok(())
    }
}

/// The libraries that the dynamic linker of this machine reports.
fn linked(program: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let listed = match output(Command::new("ldd").arg(program)) {
        Ok(listed) => listed,
        Err(error) if format!("{error:#}").contains("not a dynamic executable") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for line in listed.lines() {
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", or the linker itself without an arrow.
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            found.push((path.into(), path.trim_start_matches('/').into()));
        } else if line.contains("not found") {
            bail!("{}: {}", program.display(), line.trim());
        }
    }
    Ok(found)
}

/// The libraries that a program names, and those that they name, in a tree of packages for arm64.
fn linked_within(root: &Path, program: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let gnu = Architecture::Arm64.gnu();
    let places = [
        format!("usr/lib/{gnu}"),
        format!("lib/{gnu}"),
        "usr/lib".into(),
        "lib".into(),
    ];
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut left = vec![program.to_owned()];
    while let Some(next) = left.pop() {
        let shown = output(
            Command::new(cross::tool("readelf"))
                .args(["--wide", "--dynamic", "--program-headers"])
                .arg(&next),
        )?;
        for name in needed(&shown) {
            let mut paths = match name.strip_prefix('/') {
                Some(path) => vec![PathBuf::from(path)],
                None => places.iter().map(|place| Path::new(place).join(&name)).collect(),
            }
            .into_iter();
            let library = paths.find_map(|path| Some((within(root, &path)?, path)));
            let library = library.with_context(|| format!("{} needs {name}", next.display()))?;
            if !found.contains(&library) {
                left.push(library.0.clone());
                found.push(library);
            }
        }
    }
    Ok(found)
}

/// The file name in "0x1 (NEEDED) Shared library: [libc.so.6]", and the path in "[Requesting program interpreter:
/// /lib/ld-linux-aarch64.so.1]", as readelf shows them. The kernel looks for that one nowhere else.
fn needed(shown: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let line = line.trim().strip_suffix(']')?;
        let (_, name) = match line.split_once("(NEEDED)") {
            Some((_, rest)) => rest.split_once('[')?,
            None => line.split_once("[Requesting program interpreter: ")?,
        };
        Some(name.to_owned())
    };
    shown.lines().filter_map(of_line).collect()
}

/// A file of a tree that is to be the root: an absolute link leads back into the tree.
fn within(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut place = root.join(path);
    // More links would be a circle.
    for _ in 0..8 {
        match fs::read_link(&place) {
            Ok(to) if to.is_absolute() => place = root.join(to.strip_prefix("/").ok()?),
            Ok(to) => place = place.parent()?.join(to),
            Err(_) => return place.is_file().then_some(place),
        }
    }
    None
}

/// The output of a command; the error is its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let program = command.get_program();
        bail!(
            "{program:?} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&said).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_program_is_linked_with_is_read() {
        let shown = " [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n\
                     0x0000000000000001 (NEEDED)             Shared library: [libelf.so.1]\n\
                     0x000000000000001d (RUNPATH)            Library runpath: [/usr/lib]\n";
        assert_eq!(needed(shown), ["/lib/ld-linux-aarch64.so.1", "libelf.so.1"]);
    }

    #[test]
    fn links_stay_within_the_tree() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        for directory in ["bin", "sbin"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        fs::write(root.join("bin/kmod"), "").unwrap();
        symlink("/bin/kmod", root.join("sbin/modprobe")).unwrap();
        symlink("kmod", root.join("bin/lsmod")).unwrap();
        symlink("circle", root.join("bin/circle")).unwrap();
        let kmod = Some(root.join("bin/kmod"));
        assert_eq!(within(root, Path::new("sbin/modprobe")), kmod);
        assert_eq!(within(root, Path::new("bin/lsmod")), kmod);
        for missing in ["bin/circle", "bin/none", "bin"] {
            assert_eq!(within(root, Path::new(missing)), None, "{missing}");
        }
    }
}

//! Finds a compiler and a linker for the eBPF programs that work together, and makes the cargo commands that use them.
//! Shared by the build scripts and by xtask, and therefore without dependencies. `docs/building.md` says the same to
//! users.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the compiler; no search is made.
pub const RUSTC_VARIABLE: &str = "MPLSXDP_BPF_RUSTC";
/// Names the linker; no search is made.
pub const LINKER_VARIABLE: &str = "MPLSXDP_BPF_LINKER";
/// The release of bpf-linker to install; older ones are refused.
pub const LINKER_VERSION: Version = (0, 10, 3);

/// The oldest compiler that the eBPF crates accept.
pub const RUSTC_VERSION: Version = (1, 95, 0);
/// Debian's compiler; Debian can also install a ready-made `core` for BPF.
pub const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
pub const TARGET: &str = "bpfel-unknown-none";
/// BTF for the maps and the verifier's log; BPF instruction set version 3 (32-bit operations, kernel 5.1); and
/// unaligned loads and stores, without which headers would be read byte by byte.
const RUSTFLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Ctarget-cpu=v3",
    "-Ctarget-feature=+allows-misaligned-mem-access,+alu32",
];

pub type Version = (u32, u32, u32);

/// A compiler and a linker that were tried together.
pub struct Toolchain {
    pub rustc: PathBuf,
    pub linker: PathBuf,
    release: String,
    core: Core,
    work: PathBuf,
}

/// The source of `core` for the BPF target.
enum Core {
    /// It is installed.
    Ready,
    /// Cargo builds it from rust-src.
    Source,
}

/// The target directory for the eBPF crates: one for all build scripts, within the target directory that `path` is in,
/// so that they share most of the work.
pub fn work_directory(path: &Path) -> PathBuf {
    // Cargo writes the first only into a directory that it has created itself.
    let is_marked = |directory: &&Path| {
        let marks = ["CACHEDIR.TAG", ".rustc_info.json"];
        marks.iter().any(|mark| directory.join(mark).exists())
    };
    let nearest = path.ancestors().find(is_marked).unwrap_or(path);
    // The directory of a build for another processor is in the target directory, and has a mark, too.
    let target = nearest.parent().filter(is_marked).unwrap_or(nearest);
    target.join("ebpf")
}

/// Which half is missing, with the reason; a half that was found has none.
pub struct Missing {
    pub compiler: Option<String>,
    pub linker: Option<String>,
}

impl Toolchain {
    /// `work` is the target directory for the eBPF crates; it is created.
    pub fn find(work: &Path) -> Result<Self, Missing> {
        // Named by process: build scripts run side by side.
        let probes = work.join(format!("probe-{}", std::process::id()));
        let found = Self::find_by_probes(work, &probes);
        // A leftover is only a few small files in the target directory.
        let _ = fs::remove_dir_all(probes);
        found
    }

    fn find_by_probes(work: &Path, probes: &Path) -> Result<Self, Missing> {
        match (find_compiler(probes), find_linker()) {
            (Ok((rustc, compiler)), Ok(linker)) => {
                let toolchain = Self {
                    rustc,
                    linker,
                    release: compiler.release,
                    core: compiler.core,
                    work: work.to_owned(),
                };
                match toolchain.try_linker(&compiler.bitcode) {
                    Ok(()) => Ok(toolchain),
                    Err(reason) => Err(Missing {
                        compiler: None,
                        linker: Some(reason),
                    }),
                }
            }
            (compiler, linker) => Err(Missing {
                compiler: compiler.err(),
                linker: linker.err(),
            }),
        }
    }

    /// `cargo SUBCOMMAND` for the eBPF crate, with this toolchain.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(self.cargo_program());
        command.args([
            subcommand,
            "--locked",
            "--package",
            "mplsxdp-ebpf",
            "--profile",
            "bpf",
            "--target",
            TARGET,
        ]);
        command.arg("--target-dir").arg(&self.work);
        if matches!(self.core, Core::Source) {
            command.arg("-Zbuild-std=core");
        }
        // Variables of the outer cargo or clippy and of the user are for the host's compiler.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let host_only = ["RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN", "RUSTDOC"];
            if text.starts_with("CARGO_BUILD_") || host_only.contains(&&*text) {
                command.env_remove(name);
            }
        }
        command
            .env("RUSTC", &self.rustc)
            // The BPF target is not stable: unstable features of the compiler and of cargo are needed.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        self.prefer_compilers_llvm(&mut command);
        command
    }

    /// A standard library that is built from source needs the cargo of the same release.
    fn cargo_program(&self) -> PathBuf {
        let own = self.rustc.with_file_name("cargo");
        match (&self.core, env::var_os("CARGO")) {
            (Core::Source, _) if own.exists() => own,
            (_, Some(cargo)) => cargo.into(),
            (_, None) => "cargo".into(),
        }
    }

    /// bpf-linker takes the first LLVM that it finds through LD_LIBRARY_PATH; an LLVM older than the compiler's cannot
    /// read the compiler's output. So the compiler's own comes first. (A linker with LLVM built in does not search.)
    fn prefer_compilers_llvm(&self, command: &mut Command) {
        let Some(library) = llvm_of(&self.rustc) else { return };
        let directory = self.work.join("llvm");
        let link = directory.join("libLLVM.so");
        if fs::read_link(&link).ok().as_ref() != Some(&library) {
            // Another build script may be doing the same; both create the same link.
            let fresh = directory.join(format!("libLLVM.so.{}", std::process::id()));
            let made = fs::create_dir_all(&directory)
                .and_then(|()| std::os::unix::fs::symlink(&library, &fresh))
                .and_then(|()| fs::rename(&fresh, &link));
            if made.is_err() {
                return;
            }
        }
        let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let path = std::iter::once(directory).chain(env::split_paths(&inherited));
        if let Ok(path) = env::join_paths(path) {
            command.env("LD_LIBRARY_PATH", path);
        }
    }

    fn try_linker(&self, bitcode: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.linker);
        command
            .args(["--target", TARGET, "--output"])
            .arg(bitcode.with_extension("o"))
            .arg(bitcode);
        command.env("RUST_BACKTRACE", "0");
        self.prefer_compilers_llvm(&mut command);
        run(&mut command).map(|_| ()).map_err(|reason| {
            let (linker, rustc) = (self.linker.display(), self.rustc.display());
            format!(
                "{linker} cannot link what {rustc} ({}) compiles: {reason}",
                self.release
            )
        })
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            Core::Ready => "its ready-made core",
            Core::Source => "core built from its rust-src",
        };
        let (rustc, linker) = (self.rustc.display(), self.linker.display());
        write!(f, "{rustc} {} with {core}, {linker}", self.release)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot build the eBPF programs: ")?;
        if let Some(reason) = &self.compiler {
            write!(
                f,
                "no compiler ({reason}): on Debian 12 `apt-get install rustc-web libstd-rust-web-dev-bpf`, elsewhere \
                 `rustup toolchain install nightly --component rust-src`; "
            )?;
        }
        if let Some(reason) = &self.linker {
            let (major, minor, patch) = LINKER_VERSION;
            write!(
                f,
                "no linker ({reason}): `cargo install bpf-linker --version {major}.{minor}.{patch} --locked`; "
            )?;
        }
        f.write_str("`cargo xtask setup` does all of it")
    }
}

struct Compiler {
    release: String,
    core: Core,
    /// A compiled probe, for the linker to try.
    bitcode: PathBuf,
}

/// The first usable of: the one named by the variable; else the system's, and those of rustup, nightlies first.
fn find_compiler(probes: &Path) -> Result<(PathBuf, Compiler), String> {
    let candidates = match env::var_os(RUSTC_VARIABLE) {
        Some(rustc) => vec![rustc.into()],
        None => {
            let mut candidates = rustup_compilers();
            candidates.insert(0, SYSTEM_RUSTC.into());
            candidates
        }
    };
    let mut reasons = Vec::new();
    for rustc in candidates {
        match try_compiler(&rustc, probes) {
            Ok(compiler) => return Ok((rustc, compiler)),
            Err(reason) => reasons.push(format!("{} {reason}", rustc.display())),
        }
    }
    Err(reasons.join(", "))
}

fn rustup_compilers() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| home(".rustup"));
    let entries = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok());
    let mut toolchains: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let is_nightly = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("nightly"))
    };
    toolchains.sort_by_key(|path| (!is_nightly(path), std::cmp::Reverse(path.clone())));
    toolchains.into_iter().map(|path| path.join("bin/rustc")).collect()
}

/// Compiles something: the compiler's name does not show what it can do.
fn try_compiler(rustc: &Path, probes: &Path) -> Result<Compiler, String> {
    if !rustc.exists() {
        return Err("is not there".into());
    }
    let about = run(Command::new(rustc).arg("-vV"))?;
    let field = |name: &str| {
        about
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
    };
    let release = field("release: ");
    let (major, minor, _) = RUSTC_VERSION;
    if version(release) < RUSTC_VERSION {
        return Err(format!("is {release}, older than {major}.{minor}"));
    }
    let probe = |name: &str, source: &str| {
        let path = |extension| probes.join(name).with_extension(extension);
        let write = fs::create_dir_all(probes).and_then(|()| fs::write(path("rs"), source));
        write.map_err(|error| format!("cannot be tried, {}: {error}", probes.display()))?;
        let mut command = Command::new(rustc);
        command
            .args(["--crate-type=lib", "--emit=llvm-bc", "--target", TARGET, "-o"])
            .arg(path("bc"))
            .arg(path("rs"));
        run(command.env("RUSTC_BOOTSTRAP", "1")).map(|_| path("bc"))
    };
    let ready = probe(
        "ready",
        "#![no_std]\n#[unsafe(no_mangle)]\npub fn probe(byte: &u8) -> u8 { *byte }\n",
    );
    let (core, bitcode) = match ready {
        Ok(bitcode) => (Core::Ready, bitcode),
        Err(_) if !has_rust_src(rustc) => {
            return Err(format!("has neither a core for {TARGET} nor rust-src"));
        }
        Err(_) => (Core::Source, probe("source", "#![feature(no_core)]\n#![no_core]\n")?),
    };
    Ok(Compiler {
        release: format!("{release} (LLVM {})", field("LLVM version: ")),
        core,
        bitcode,
    })
}

fn has_rust_src(rustc: &Path) -> bool {
    sysroot(rustc).is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = run(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    Some(output.trim().into())
}

/// The LLVM that the compiler itself is linked to, if it is a separate library.
fn llvm_of(rustc: &Path) -> Option<PathBuf> {
    // Not `rustc` itself, which may be a proxy of rustup.
    let linked = run(Command::new("ldd").arg(sysroot(rustc)?.join("bin/rustc"))).ok()?;
    let line = linked.lines().find(|line| line.trim_start().starts_with("libLLVM"))?;
    let path = line.split_once("=> ")?.1.split_once(" (")?.0;
    fs::canonicalize(path).ok()
}

fn find_linker() -> Result<PathBuf, String> {
    let linker = match env::var_os(LINKER_VARIABLE) {
        Some(linker) => PathBuf::from(linker),
        None => {
            let search = env::var_os("PATH").unwrap_or_default();
            let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| home(".cargo"));
            env::split_paths(&search)
                .chain(cargo_home.map(|home| home.join("bin")))
                .map(|directory| directory.join("bpf-linker"))
                .find(|path| path.exists())
                .ok_or("bpf-linker is neither in PATH nor in ~/.cargo/bin")?
        }
    };
    let about =
        run(Command::new(&linker).arg("--version")).map_err(|reason| format!("{} {reason}", linker.display()))?;
    let (major, minor, patch) = LINKER_VERSION;
    let about = about.lines().next().unwrap_or_default();
    if version(about.strip_prefix("bpf-linker ").unwrap_or_default()) < LINKER_VERSION {
        return Err(format!(
            "{} is {}, older than {major}.{minor}.{patch}",
            linker.display(),
            about
        ));
    }
    Ok(linker)
}

fn home(directory: &str) -> Option<PathBuf> {
    Some(env::home_dir()?.join(directory))
}

/// "1.97.0-nightly" is (1, 97, 0); anything that is not a version is (0, 0, 0).
pub fn version(text: &str) -> Version {
    let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// Standard output, or the reason for a failure: the first line that the command printed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = said
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    Err(format!("failed ({}): {first}", output.status))
}

//! Runs cargo, and the programs that cargo built.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use signal_hook::SigId;
use signal_hook::consts::SIGINT;

/// The environment variable through which tests and demo find the `mplsxdp` program.
pub const PROGRAM_VARIABLE: &str = "MPLSXDP_PROGRAM";
/// The one through which they find a Python with the modules that they need.
pub const PYTHON_VARIABLE: &str = "MPLSXDP_PYTHON";
/// The one through which tests find the directory of Prometheus' programs.
pub const PROMETHEUS_VARIABLE: &str = "MPLSXDP_PROMETHEUS";

/// The root of the source tree.
pub fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The target directory that this program was built in.
pub fn target() -> PathBuf {
    let own = env::current_exe().unwrap_or_else(|_| PathBuf::from("."));
    let target = crate::toolchain::work_directory(&own);
    target.parent().unwrap_or(&target).to_owned()
}

/// `cargo SUBCOMMAND` in the workspace.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(workspace());
    command
}

/// Runs a tool whose output the user sees; `remedy` says what to do if it fails.
pub fn run_tool(command: &mut Command, remedy: &str) -> Result<()> {
    let line = shown(command);
    eprintln!("> {line}");
    let status = command.status().with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status}): {remedy}");
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Program,
    UnitTests,
    IntegrationTests,
}

/// Something that cargo built and that can be run.
pub struct Artifact {
    pub name: String,
    pub package_directory: PathBuf,
    pub executable: PathBuf,
    pub kind: Kind,
}

/// Runs a cargo command that builds, and lists the programs.
pub fn artifacts(mut command: Command) -> Result<Vec<Artifact>> {
    let line = shown(&command);
    eprintln!("> {line}");
    let mut child = command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let mut artifacts = Vec::new();
    for message in BufReader::new(child.stdout.take().context("no pipe from cargo")?).lines() {
        let message: serde_json::Value = serde_json::from_str(&message?).context("cargo's messages are not JSON")?;
        let (Some(executable), Some(manifest)) = (message["executable"].as_str(), message["manifest_path"].as_str())
        else {
            continue;
        };
        artifacts.push(Artifact {
            name: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            package_directory: Path::new(manifest).parent().unwrap_or(workspace()).to_owned(),
            executable: executable.into(),
            kind: if message["profile"]["test"] != true {
                Kind::Program
            } else if message["target"]["kind"][0] == "test" {
                Kind::IntegrationTests
            } else {
                Kind::UnitTests
            },
        });
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{line}` failed");
    }
    Ok(artifacts)
}

/// Builds an integration test with the profile `checked`.
pub fn checked_test(name: &str) -> Result<Artifact> {
    let mut command = cargo("test");
    command.args(["--no-run", "--profile", "checked", "--test", name]);
    let artifacts = artifacts(command)?.into_iter();
    artifacts
        .filter(|artifact| artifact.kind == Kind::IntegrationTests)
        .find(|artifact| artifact.name == name)
        .with_context(|| format!("the workspace has no test {name}"))
}

/// Builds the workspace's programs and returns those of these names.
pub fn build_programs<const N: usize>(names: [&str; N], options: &[&str]) -> Result<[PathBuf; N]> {
    crate::setup::setup()?;
    let mut command = cargo("build");
    command.args(options);
    build_programs_by(command, names)
}

/// The same by this command, which builds.
pub fn build_programs_by<const N: usize>(command: Command, names: [&str; N]) -> Result<[PathBuf; N]> {
    let artifacts = artifacts(command)?;
    let mut paths = [const { PathBuf::new() }; N];
    for (path, name) in paths.iter_mut().zip(names) {
        let artifact = artifacts.iter().find(|artifact| artifact.name == name);
        path.clone_from(
            &artifact
                .with_context(|| format!("the workspace has no program {name}"))?
                .executable,
        );
    }
    Ok(paths)
}

/// A program of ours, as root: directly or through sudo; then the user is given the reason. The `own` variables name
/// the programs that it should use.
pub fn root_command(program: &Path, reason: &str, own: &[(&'static str, &Path)]) -> Result<Command> {
    let inherited = [
        "PATH",
        "RUST_BACKTRACE",
        "MPLSXDP_KILLS",
        "MPLSXDP_UPGRADES",
        "MPLSXDP_STOPPED_SECONDS",
        "MPLSXDP_MORE_PORTS",
    ]
    .map(|name| (name, env::var_os(name)));
    let inherited = inherited.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let variables = own.iter().map(|&(name, path)| (name, path.into())).chain(inherited);
    let is_root = is_root()?;
    if is_root || !is_installed("sudo") {
        if !is_root {
            println!("{reason}, which needs root, and there is no sudo.");
        }
        let mut command = Command::new(program);
        command.envs(variables);
        return Ok(command);
    }
    println!("{reason}, which needs root: running it through sudo.");
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in variables {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    Ok(command)
}

/// Appends the directories of system programs (ethtool, tcpdump, depmod) to PATH, for this process and all that it
/// runs. The PATH of an ordinary Debian user lacks them.
pub fn search_system_directories() {
    let path = with_system_directories(&env::var_os("PATH").unwrap_or_default());
    // SAFETY: called first in `main`, so there is no other thread that could read the environment.
    unsafe { env::set_var("PATH", path) };
}

fn with_system_directories(path: &OsStr) -> OsString {
    // An empty name is the current directory, in which root must not look for programs.
    let named = env::split_paths(path).filter(|directory| !directory.as_os_str().is_empty());
    let mut directories: Vec<PathBuf> = named.collect();
    for directory in ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    // Names that were split at the separators contain none.
    env::join_paths(directories).unwrap_or_else(|_| path.to_owned())
}

/// Whether a program is in PATH.
pub fn is_installed(program: &str) -> bool {
    let search = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&search).any(|directory| directory.join(program).exists())
}

pub fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("no /proc")?.uid() == 0)
}

/// While this lives, Ctrl-C is for the child, which cleans up: this program waits for it.
pub struct Interrupts {
    seen: Arc<AtomicBool>,
    handler: SigId,
}

impl Interrupts {
    pub fn for_child() -> Result<Self> {
        let seen = Arc::new(AtomicBool::new(false));
        let handler = signal_hook::flag::register(SIGINT, Arc::clone(&seen))?;
        Ok(Self { seen, handler })
    }

    /// Returns an error if there was one.
    pub fn check(&self) -> Result<()> {
        if self.seen.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.handler);
    }
}

/// The counts in the closing lines of test programs.
#[derive(Default)]
pub struct Summary {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Summary {
    /// Whether there was no test at all, not even a skipped one.
    pub fn is_empty(&self) -> bool {
        self.passed + self.failed + self.skipped == 0
    }

    /// Adds the counts in a line of a test program's output: its closing line.
    pub fn add_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            *self += parse_counts(counts);
        }
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

/// Runs tests, shows their output, and sums up its `test result:` lines. A program that ends badly without counting a
/// failure counts as one.
pub fn run_tests(command: &mut Command) -> Result<Summary> {
    let line = shown(command);
    let interrupts = Interrupts::for_child()?;
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let mut summary = Summary::default();
    for output in BufReader::new(child.stdout.take().context("no pipe from the tests")?).lines() {
        let output = output?;
        writeln!(std::io::stdout(), "{output}")?;
        summary.add_line(&output);
    }
    let status = child.wait()?;
    interrupts.check()?;
    if !status.success() && summary.failed == 0 {
        println!("`{line}` failed ({status})");
        summary.failed = 1;
    }
    Ok(summary)
}

/// "ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
fn parse_counts(text: &str) -> Summary {
    let count = |what: &str| {
        let number = text
            .split(['.', ';'])
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok());
        number.unwrap_or(0)
    };
    Summary {
        passed: count("passed"),
        failed: count("failed"),
        skipped: count("ignored"),
    }
}

pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let line = words.join(" ");
    // Cargo is known by its name. The variable is set only beneath cargo.
    match env::var("CARGO") {
        Ok(cargo) => line.replacen(&cargo, "cargo", 1),
        Err(_) => line,
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_counts, with_system_directories};

    #[test]
    fn system_programs_are_found_where_the_path_of_a_user_does_not_have_them() {
        for (path, extended) in [
            (
                "/usr/local/bin:/usr/bin:/bin",
                "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            ),
            (
                "/usr/sbin:/usr/bin:/sbin:/bin",
                "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin",
            ),
            ("", "/usr/local/sbin:/usr/sbin:/sbin"),
        ] {
            assert_eq!(with_system_directories(path.as_ref()), extended);
        }
    }

    #[test]
    fn counts_are_read_from_the_closing_line_of_a_test_program() {
        let summary =
            parse_counts("FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 5 filtered out; finished in 0.12s");
        assert_eq!(summary.to_string(), "12 passed, 3 failed, 4 skipped");
        assert_eq!(
            parse_counts("ok. 7 passed; 0 failed; 0 ignored").to_string(),
            "7 passed, 0 failed"
        );
    }
}

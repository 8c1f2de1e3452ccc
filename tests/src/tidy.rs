//! Cleans up network namespaces and processes, whatever happens to the process that made them.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::wait;

/// Names of namespaces and instances begin with this and the process id of their maker.
pub const PREFIX: &str = "mx-";
/// The directory where `ip netns` keeps names.
const NETNS_DIRECTORY: &str = "/run/netns";
/// The directory where mplsxdp keeps sockets and pins.
pub const RUN_DIRECTORY: &str = "/run/mplsxdp";
/// Where `--persist` pins the links of instances.
const PINS: &str = "/sys/fs/bpf/mplsxdp";
/// Where `--persist` saves routes.
const STATE_DIRECTORY: &str = "/var/lib/mplsxdp";
const BPFFS: &str = "/sys/fs/bpf";
/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

static ALIVE: Mutex<Alive> = Mutex::new(Alive {
    children: Vec::new(),
    namespaces: Vec::new(),
});

struct Alive {
    children: Vec<Pid>,
    namespaces: Vec<String>,
}

fn alive() -> MutexGuard<'static, Alive> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Call this first in `main`: SIGINT, SIGTERM, SIGHUP and the end of the parent process then clean up before this
/// process ends.
pub fn on_signals() -> Result<()> {
    HAD_BPFFS.get_or_init(has_bpffs);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Held until the end, so that nothing new is started.
            let mut alive = alive();
            for &child in &alive.children {
                // A process that is already gone is fine.
                let _ = kill(child, Signal::SIGTERM);
            }
            for child in alive.children.drain(..) {
                reap(child);
            }
            for name in alive.namespaces.drain(..) {
                if let Err(error) = delete_namespace(&name) {
                    eprintln!("{error:#}");
                }
            }
            unmount_bpffs();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Starts a process that ends with this one. It also ends with the calling thread, because the kernel ties the signal
/// to that.
pub fn spawn(command: &mut Command) -> Result<Reaped> {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from));
    }
    let mut alive = alive();
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    alive.children.push(Pid::from_raw(child.id().cast_signed()));
    Ok(Reaped { child })
}

/// A child process that is ended and waited for when this is dropped.
pub struct Reaped {
    child: Child,
}

impl Reaped {
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot send {signal} to process {}", self.pid()))
    }

    /// The status, once it has ended by itself.
    pub fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let pid = self.pid();
        let status = wait::until(&format!("the end of process {pid}"), limit, || {
            Ok(self.child.try_wait()?)
        })?;
        alive().children.retain(|&child| child != pid);
        Ok(status)
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGTERM);
            if self.ended(GRACE).is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        let pid = self.pid();
        alive().children.retain(|&child| child != pid);
    }
}

/// Waits for a child, and kills it if it takes too long.
fn reap(child: Pid) {
    let end = Instant::now() + wait::limit(GRACE);
    while let Ok(WaitStatus::StillAlive) = waitpid(child, Some(WaitPidFlag::WNOHANG)) {
        if Instant::now() > end {
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Makes a named network namespace.
pub fn add_namespace(name: &str) -> Result<()> {
    let mut alive = alive();
    ip(&["netns", "add", name])?;
    alive.namespaces.push(name.to_owned());
    Ok(())
}

/// Deletes a namespace that [`add_namespace`] made.
pub fn remove_namespace(name: &str) -> Result<()> {
    let mut alive = alive();
    alive.namespaces.retain(|other| other != name);
    delete_namespace(name)
}

/// The pins of instances in a namespace whose names begin with that of the namespace go too, because they would keep
/// programs and maps, and so does what they have saved.
fn delete_namespace(name: &str) -> Result<()> {
    remove_pins(name)?;
    remove_folders(STATE_DIRECTORY, name)?;
    // It goes with the last instance that has saved something.
    let _ = fs::remove_dir(STATE_DIRECTORY);
    ip(&["netns", "delete", name]).map(drop)
}

/// Runs `ip` and returns what it printed.
pub fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run ip (iproute2)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}`: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs lines of `ip` by one process; the error is that of the first line that fails.
pub fn ip_batch(options: &[&str], lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip (iproute2)")?;
    // A write that fails is that of an `ip` that ended early, and says why.
    let _ = child.stdin.take().context("no pipe")?.write_all(lines.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // "Command failed -:3", numbered from 1.
        let number = said
            .split("-:")
            .nth(1)
            .and_then(|rest| rest.trim().parse::<usize>().ok());
        let line = number.and_then(|number| lines.lines().nth(number.wrapping_sub(1)));
        bail!(
            "`ip {} {}`: {}",
            options.join(" "),
            line.unwrap_or("-batch -"),
            said.trim()
        );
    }
    Ok(())
}

/// Removes the pins of the instances whose names begin with this. If they do not run, their programs are off the ports
/// then.
pub fn remove_pins(name: &str) -> Result<()> {
    remove_folders(PINS, name)
}

fn remove_folders(directory: &str, name: &str) -> Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(name) {
            let removed = fs::remove_dir_all(entry.path());
            removed.with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Whether a bpffs was mounted at first.
static HAD_BPFFS: OnceLock<bool> = OnceLock::new();

fn has_bpffs() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS))
}

/// Call this last: `load --persist` mounts a bpffs and leaves it mounted, and so it goes if it was not there at first. One
/// that others use stays.
pub fn unmount_bpffs() {
    // Fails unless it is empty.
    let _ = fs::remove_dir(PINS);
    // The kernel puts files into each.
    let is_theirs = |name: &OsStr| name.as_encoded_bytes().ends_with(b".debug");
    let is_empty =
        fs::read_dir(BPFFS).is_ok_and(|entries| entries.flatten().all(|entry| is_theirs(&entry.file_name())));
    if !HAD_BPFFS.get_or_init(has_bpffs) && has_bpffs() && is_empty {
        let _ = nix::mount::umount(BPFFS);
    }
}

/// Removes what dead processes left behind.
pub fn purge() -> Result<()> {
    for name in names(NETNS_DIRECTORY)?.filter(|name| is_left_over(name)) {
        for pid in ip(&["netns", "pids", &name])?.lines() {
            if let Ok(pid) = pid.trim().parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        let gone = || Ok(ip(&["netns", "pids", &name])?.trim().is_empty().then_some(()));
        wait::until(&format!("the end of the processes in {name}"), GRACE, gone)?;
        delete_namespace(&name)?;
    }
    for path in instance_files(PREFIX).into_iter().filter(|path| {
        path.file_name()
            .is_some_and(|name| is_left_over(&name.to_string_lossy()))
    }) {
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Sockets, pins and directories of instances whose names begin with `prefix`.
pub fn instance_files(prefix: &str) -> Vec<PathBuf> {
    fn collect(directory: &Path, prefix: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path());
            } else if entry.path().is_dir() {
                collect(&entry.path(), prefix, found);
            }
        }
    }
    let mut found = Vec::new();
    collect(Path::new(RUN_DIRECTORY), prefix, &mut found);
    collect(Path::new(PINS), prefix, &mut found);
    found
}

/// The pins of an instance.
pub fn pins(instance: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(PINS).join(instance));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// Checks that no namespace of this process is left, and no file of its instances.
pub fn ensure_nothing_left() -> Result<()> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let namespaces: Vec<_> = names(NETNS_DIRECTORY)?
        .filter(|name| name.starts_with(&prefix))
        .collect();
    let files = instance_files(&prefix);
    ensure!(
        namespaces.is_empty() && files.is_empty(),
        "left behind: {namespaces:?} {files:?}"
    );
    Ok(())
}

fn names(directory: &str) -> Result<impl Iterator<Item = String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {directory}")),
    };
    let entries = entries.into_iter().flatten().flatten();
    Ok(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

/// Whether the process that a name belongs to is gone.
fn is_left_over(name: &str) -> bool {
    let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    match maker.and_then(|pid| pid.parse::<u32>().ok()) {
        Some(pid) => !Path::new("/proc").join(pid.to_string()).exists(),
        None => false,
    }
}

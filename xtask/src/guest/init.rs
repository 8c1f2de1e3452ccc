//! The first process of the guest: the kernel starts this program as `/init`. It sets up what tests expect of a
//! machine, runs the plan, reports to the host over the serial port, and reboots, which ends qemu. In a guest with
//! systemd, it starts that in its place, and a service does the rest.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use super::wire::{Line, PLAN, PORT, Plan, Run};

/// Path of this program in the guest.
pub const INIT: &str = "/init";
/// How it is called by the service of [`SERVICE`].
const BY_SYSTEMD: &str = "/init-by-systemd";
const SYSTEMD: &str = "/usr/lib/systemd/systemd";
/// The service that carries out the plan.
pub const SERVICE: &str = "\
[Unit]
Description=What this guest is for

[Service]
ExecStart=@/init /init-by-systemd
StandardOutput=journal+console
";
/// Where tests are, and where they run.
pub const TESTS: &str = "/tests";

const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
];

/// Whether this process is the guest's first, or its service.
pub fn is_init() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    // Only a guest has a plan: elsewhere, a name must not be enough for a reboot.
    (std::process::id() == 1 && name == INIT) || (name == BY_SYSTEMD && Path::new("/").join(PLAN).exists())
}

/// Ends in a reboot, whatever happens.
pub fn main() -> ! {
    if let Err(error) = start() {
        eprintln!("init: {error:#}");
    }
    // SAFETY: no memory is passed.
    unsafe { libc::sync() };
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    eprintln!("init: cannot reboot: {error}");
    // The kernel panics, which ends qemu.
    std::process::exit(1)
}

/// The serial port; lines from several threads stay whole.
struct Port(Mutex<File>);

impl Port {
    fn say(&self, line: &Line) {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // If nothing can be written, the host notices that the end is missing.
        let _ = port.write_all(format!("{line}\n").as_bytes());
    }
}

fn start() -> Result<()> {
    let plan = fs::read(Path::new("/").join(PLAN)).context("cannot read the plan")?;
    let plan: Plan = serde_json::from_slice(&plan).context("the plan is not as it should be")?;
    if std::process::id() == 1 {
        if plan.by_systemd {
            return Err(Command::new(SYSTEMD).exec()).with_context(|| format!("cannot run {SYSTEMD}"));
        }
        mount_all()?;
    }
    let port = open_port()?;
    let done = carry_out(&plan, &port);
    if let Err(error) = &done {
        port.say(&Line::Error(format!("{error:#}")));
    }
    done
}

fn mount_all() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place)?;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    Ok(())
}

fn open_port() -> Result<Port> {
    let port = OpenOptions::new()
        .write(true)
        .open(PORT)
        .with_context(|| format!("cannot open {PORT}"))?;
    // Bytes as they are: no CR before LF.
    let mut settings = nix::sys::termios::tcgetattr(&port)?;
    nix::sys::termios::cfmakeraw(&mut settings);
    nix::sys::termios::tcsetattr(&port, nix::sys::termios::SetArg::TCSANOW, &settings)?;
    Ok(Port(Mutex::new(port)))
}

fn carry_out(plan: &Plan, port: &Port) -> Result<()> {
    port.say(&Line::Kernel(
        nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
    ));
    for module in &plan.modules {
        let loaded = Command::new("modprobe").arg(module).envs(environment(plan)).status();
        let loaded = loaded.context("cannot run modprobe")?;
        anyhow::ensure!(loaded.success(), "modprobe {module} failed ({loaded})");
    }
    for (number, run) in plan.runs.iter().enumerate() {
        port.say(&Line::Begin(number));
        let well = match execute(run, plan, port) {
            Ok(well) => well,
            Err(error) => {
                port.say(&Line::Error(format!("{run}: {error:#}")));
                false
            }
        };
        port.say(&Line::End(number, well));
    }
    port.say(&Line::Done);
    Ok(())
}

fn environment(plan: &Plan) -> impl Iterator<Item = (&str, &str)> {
    plan.environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

fn execute(run: &Run, plan: &Plan, port: &Port) -> Result<bool> {
    let mut child = Command::new(Path::new(TESTS).join(&run.program))
        .args(&run.arguments)
        .current_dir(TESTS)
        .env_clear()
        .envs(environment(plan))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(|| forward(stdout, port, Line::Stdout));
        scope.spawn(|| forward(stderr, port, Line::Stderr));
    });
    Ok(child.wait()?.success())
}

fn forward(pipe: Option<impl Read>, port: &Port, line: fn(String) -> Line) {
    let Some(pipe) = pipe else { return };
    for text in BufReader::new(pipe).split(b'\n') {
        let Ok(text) = text else { return };
        port.say(&line(String::from_utf8_lossy(&text).into_owned()));
    }
}

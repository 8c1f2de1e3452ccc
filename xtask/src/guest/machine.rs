//! Runs qemu without KVM: one guest that boots, prints its output, and ends. Whatever happens to this program, qemu
//! does not stay behind.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::debian::{Architecture, Unpacked};
use super::init::INIT;
use super::wire::Line;

/// The program for a processor.
const fn program(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "qemu-system-x86_64",
        Architecture::Arm64 => "qemu-system-aarch64",
    }
}

/// How long a guest may be silent. The longest test takes less, on a machine that is ten times slower than real ones.
const SILENCE: Duration = Duration::from_secs(600);
/// The time between two checks whether this program should end.
const LOOK: Duration = Duration::from_millis(200);
/// How many lines of the kernel's messages are shown when a guest ends early.
const LAST_MESSAGES: usize = 30;

/// The network interfaces of the guest, by number: 0 is cabled to 1, and 2 to 3.
pub const NICS: usize = 4;

/// By Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Boots a kernel. Each line of the guest's output goes to `hear`. If it does not come to its end, the error is the
/// reason.
pub fn boot(unpacked: &Unpacked, initramfs: &Path, messages: &Path, mut hear: impl FnMut(Line)) -> Result<()> {
    let mut qemu = Qemu::start(unpacked, initramfs, messages)?;
    // The guest's own port: the firmware and the kernel do not write there.
    let output = qemu.0.stdout.take().context("no pipe from qemu")?;
    let (sender, lines) = channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(io::Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let interrupted = Arc::new(AtomicBool::new(false));
    let handler = signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
    let mut heard = Instant::now();
    let mut done = false;
    let ended = loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                heard = Instant::now();
                match Line::parse(&line) {
                    Some(Line::Done) => done = true,
                    Some(line) => hear(line),
                    None => eprintln!("guest: not understood: {line}"),
                }
            }
            _ if interrupted.load(Ordering::Relaxed) => return Err(Interrupted.into()),
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > SILENCE => {
                break Err(format!("the guest said nothing for {SILENCE:?}: ended"));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if done => break Ok(()),
            Err(RecvTimeoutError::Disconnected) => break Err("the guest ended before its tests".to_owned()),
        }
    };
    drop(qemu);
    signal_hook::low_level::unregister(handler);
    // It ends with the pipe.
    let _ = reader.join();
    if let Err(reason) = ended {
        bail!("{reason}; the last that its kernel said:\n{}", last_messages(messages));
    }
    Ok(())
}

/// The process, which ends when this is dropped.
struct Qemu(Child);

impl Qemu {
    fn start(unpacked: &Unpacked, initramfs: &Path, messages: &Path) -> Result<Self> {
        let kernel = unpacked.kernel;
        let program = program(kernel.architecture);
        let mut command = Command::new(program);
        command.args(["-accel", "tcg,thread=multi", "-m", "3072"]);
        command.args(["-smp", &kernel.cpus.to_string()]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        let console = match kernel.architecture {
            // A processor without cmpxchg16b: when qemu emulates that instruction, it stops the other processors, and
            // sometimes leaves garbage in the flags (seen with qemu 7.2), of which kernels die. They do without it if
            // it is missing.
            Architecture::Amd64 => {
                command.args(["-cpu", "Nehalem,-cx16"]);
                "console=ttyS0 no_timer_check"
            }
            // A server's processor.
            Architecture::Arm64 => {
                command.args(["-machine", "virt,gic-version=3", "-cpu", "neoverse-n1"]);
                "console=ttyAMA0"
            }
        };
        command
            .arg("-kernel")
            .arg(&unpacked.image)
            .arg("-initrd")
            .arg(initramfs)
            // A panic reboots, and a reboot ends qemu. Mitigations for real processors only slow it down here; and a
            // late timer, as on a busy machine, is not an error.
            .arg("-append")
            .arg(format!(
                "{console} panic=-1 oops=panic mitigations=off quiet {} rdinit={INIT}",
                kernel.parameters
            ))
            .arg("-serial")
            .arg(format!("file:{}", messages.display()));
        match kernel.architecture {
            Architecture::Amd64 => command.args(["-serial", "stdio"]),
            // The machine has one port; this is the first of another kind.
            Architecture::Arm64 => {
                command.args(["-chardev", "stdio,id=reports", "-device", "pci-serial,chardev=reports"])
            }
        };
        for nic in 0..NICS {
            let hub = nic / 2;
            command
                .args(["-netdev", &format!("hubport,id=n{nic},hubid={hub}")])
                .args(["-device", &format!("virtio-net-pci,netdev=n{nic},romfile=")]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
        }
        let child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        Ok(Self(child))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // One that has ended by itself is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the kernel hit an int3 of its own that was no longer there: it puts one where it patches its code, and
/// qemu's other processor may still execute it afterwards (seen with qemu 7.2 and Linux 7.3, once in a dozen boots).
pub fn died_of_stale_code(messages: &Path) -> bool {
    text(messages).contains("Oops: int3")
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn last_messages(path: &Path) -> String {
    let text = text(path);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_MESSAGES)..].join("\n")
}

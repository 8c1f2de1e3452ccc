//! How long threads wait for a CPU, from the kernel's own count (`/proc/PID/task/TID/schedstat`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A thread of any process.
pub struct Thread(File);

impl Thread {
    /// The first thread of a process. In a switch, it is the event loop.
    pub fn first(pid: u32) -> Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/task/{pid}")))
    }

    /// The thread of this name.
    pub fn named(pid: u32, name: &str) -> Result<Self> {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.trim_end() == name {
                return Self::at(&task);
            }
        }
        anyhow::bail!("process {pid} has no thread {name}")
    }

    fn at(task: &Path) -> Result<Self> {
        Ok(Self(File::open(task.join("schedstat"))?))
    }

    /// How long it has been runnable without running, in total.
    pub fn waited(&self) -> Result<Duration> {
        let mut text = [0; 128];
        let length = self.0.read_at(&mut text, 0)?;
        // Running and waiting in nanoseconds, and a count: Documentation/scheduler/sched-stats.rst.
        let words = std::str::from_utf8(&text[..length])?;
        let waited = words.split_whitespace().nth(1).context("an unknown schedstat")?;
        Ok(Duration::from_nanos(waited.parse()?))
    }
}

/// Gives the calling thread real-time priority: it runs at once when it wakes up.
pub fn take_precedence() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: it reads `parameters`.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

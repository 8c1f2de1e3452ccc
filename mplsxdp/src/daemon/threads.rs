//! The priorities of this process's threads, and how many there are. The event loop moves flows away from failed links,
//! so it goes before the work that is done for it and for clients elsewhere.
//!
//! Every change is relative to what the administrator has chosen for the process (`Nice=` of systemd.exec(5)), and a
//! real-time policy is left alone. Without CAP_SYS_NICE, only what needs no privilege is changed. No thread has a lower
//! priority than usual: it could be preempted while it holds a lock of the memory allocator, and others would wait.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::time::ClockId;
use tracing::debug;

use crate::lfib::Remains;

/// Added to the nice value of the event loop.
const BEFORE_OTHERS: i32 = -5;
/// A thread with a short time slice runs soon after it has become runnable, even if it gets no more time in all (since
/// Linux 6.12; older kernels ignore it).
const SLICE_NS: u64 = 200_000;

/// From linux/sched.h: threads that this one starts have nice 0 if its own is negative, and the usual slice.
const SCHED_FLAG_RESET_ON_FORK: u64 = 1;

/// Lets the calling thread run soon after it has become runnable, and more than others. Threads that it starts later
/// have the usual slice and nice value, or 0 if that is negative. After an upgrade the thread has all this already.
pub fn go_first() {
    let changed = adjust(BEFORE_OTHERS).or_else(|_| adjust(0));
    if let Err(error) = changed {
        debug!(%error, "the event loop has the usual priority");
    }
}

/// Adds `nicer` to the nice value of the calling thread, and gives it a short time slice.
fn adjust(nicer: i32) -> io::Result<()> {
    // SAFETY: all bits zero are valid.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of_val(&attributes);
    // SAFETY: it writes at most `size` bytes there; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    let is_ordinary = attributes.sched_policy == libc::SCHED_OTHER.cast_unsigned();
    if !is_ordinary || attributes.sched_flags & SCHED_FLAG_RESET_ON_FORK != 0 {
        return Ok(());
    }
    attributes.sched_nice = (attributes.sched_nice + nicer).clamp(-20, 19);
    attributes.sched_runtime = SLICE_NS;
    attributes.sched_flags |= SCHED_FLAG_RESET_ON_FORK;
    // SAFETY: it reads `attributes`, which have their size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How long the calling thread has run.
pub fn ran() -> Duration {
    // It cannot fail: every thread has this clock.
    let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now();
    time.map_or(Duration::ZERO, Duration::from)
}

/// How many threads read large messages: one CPU is left to the event loop.
pub fn readers() -> usize {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    cpus.saturating_sub(1).max(1)
}

/// Drops what is left of large changes, one after the other, on a thread of its own.
pub struct Dropper(mpsc::Sender<Remains>);

impl Dropper {
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new().name("drop".into());
        thread.spawn(move || receiver.into_iter().for_each(drop))?;
        Ok(Self(sender))
    }

    pub fn drop(&self, remains: Remains) {
        // The thread ends only after this value.
        let _ = self.0.send(remains);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nice value of the calling thread.
    fn nice() -> i32 {
        // SAFETY: all bits zero are valid, and it writes at most `size` bytes.
        unsafe {
            let mut attributes: libc::sched_attr = std::mem::zeroed();
            let size = size_of_val(&attributes);
            check(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0)).unwrap();
            attributes.sched_nice
        }
    }

    /// The least nice value that this process may take: any with CAP_SYS_NICE, else by RLIMIT_NICE (setrlimit(2)).
    fn least_nice() -> i32 {
        const CAP_SYS_NICE: u32 = 23;
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        if u64::from_str_radix(capabilities.trim(), 16).unwrap() >> CAP_SYS_NICE & 1 == 1 {
            return i32::MIN;
        }
        let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NICE).unwrap();
        20 - i32::try_from(soft).unwrap_or(40)
    }

    /// On threads of their own: a thread cannot always take back what it has asked for.
    #[test]
    fn threads_that_the_event_loop_starts_do_not_share_its_priority() {
        let usual = nice();
        let started = thread::spawn(move || {
            go_first();
            let own = nice();
            let may = usual + BEFORE_OTHERS >= least_nice();
            let expected = if may { (usual + BEFORE_OTHERS).max(-20) } else { usual };
            assert_eq!(own, expected);
            (own, thread::spawn(nice).join().unwrap())
        });
        // The kernel gives them 0 in place of a negative value; a positive one is not before that of others.
        let (own, started) = started.join().unwrap();
        assert_eq!(started, own.max(0));
    }
}

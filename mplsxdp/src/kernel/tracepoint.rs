//! Counts how often a tracepoint of the kernel is hit, by perf events in counting mode: no program is loaded and no
//! record is written.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use perf_event_open_sys::bindings::{PERF_FLAG_FD_CLOEXEC, PERF_TYPE_TRACEPOINT, perf_event_attr};
use perf_event_open_sys::{ioctls, perf_event_open};
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::dataplane::loader::cpus;

/// The hits of a tracepoint on all CPUs since it was opened.
pub struct TracepointCounter(Vec<File>);

impl TracepointCounter {
    /// `path` is `SYSTEM/NAME`. `filter` selects hits by the tracepoint's fields, such as `prog_id == 7`.
    pub fn open(path: &str, filter: &str) -> io::Result<Self> {
        let id = id(path)?;
        let filter = CString::new(filter)?;
        let mut counters = Vec::new();
        for cpu in 0..cpus()?.cast_signed() {
            match open_on(cpu, id) {
                // The CPU is offline.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                counter => counters.push(counter?),
            }
        }
        for counter in &counters {
            // SAFETY: the kernel copies the string, which ends with a zero.
            let result = unsafe { ioctls::SET_FILTER(counter.as_raw_fd(), filter.as_ptr().cast_mut()) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self(counters))
    }

    pub fn read(&self) -> io::Result<u64> {
        let mut sum = 0;
        for mut counter in &self.0 {
            let mut value = [0; 8];
            counter.read_exact(&mut value)?;
            sum += u64::from_ne_bytes(value);
        }
        Ok(sum)
    }
}

fn open_on(cpu: i32, id: u64) -> io::Result<File> {
    let mut attributes = perf_event_attr {
        type_: PERF_TYPE_TRACEPOINT,
        size: size_of::<perf_event_attr>() as u32,
        config: id,
        ..perf_event_attr::default()
    };
    // SAFETY: the attributes have the size that they name. All processes (-1) on one CPU; no group (-1).
    let descriptor = unsafe { perf_event_open(&raw mut attributes, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC.into()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }.into())
}

/// The number of a tracepoint. tracefs need not be mounted.
fn id(path: &str) -> io::Result<u64> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let tracefs = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = String::new();
    File::from(openat(&tracefs, format!("events/{path}/id"), flags, Mode::empty())?).read_to_string(&mut text)?;
    text.trim().parse().map_err(io::Error::other)
}

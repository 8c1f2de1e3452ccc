//! Grace periods: how the controller knows that no XDP program is left that began before some change.
//!
//! The kernel waits for one (`synchronize_rcu`) whenever an element of a map of maps is updated through the system call, so that
//! who updates it knows that all programs use the new one (`maybe_wait_bpf_programs` in Linux 5.0 and later). XDP programs run as
//! RCU readers. `membarrier(MEMBARRIER_CMD_GLOBAL)` waits alike, but not on all kernels: with `nohz_full` it is refused, and
//! with one CPU it returns at once, though a program may have been preempted (PREEMPT_RT). It takes 5 to 50 ms, so a thread of
//! its own waits.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::error;

use super::{GracePeriod, TableError};

/// What errors call the map of maps.
const NAME: &str = "grace";
/// How long to wait before a grace period is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Begins grace periods and knows which are over.
pub struct GracePeriods {
    begun: u64,
    requests: mpsc::Sender<u64>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// All grace periods up to this one are over.
    over: AtomicU64,
    changed: Notify,
}

impl GracePeriods {
    /// Makes the maps, and starts the thread that waits. It ends when this value is dropped.
    pub fn new() -> Result<Self, TableError> {
        let maps = MapOfMaps::new().map_err(|source| TableError {
            map: NAME,
            operation: "create",
            source,
        })?;
        let (requests, receiver) = mpsc::channel();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let serve = move || {
            while let Ok(first) = receiver.recv() {
                // Those that began meanwhile are over with this one.
                let latest = receiver.try_iter().last().unwrap_or(first);
                let mut told = false;
                while let Err(error) = maps.wait_for_readers() {
                    if !std::mem::replace(&mut told, true) {
                        error!(%error, "cannot wait for a grace period yet; table entries that are not used any more stay taken");
                    }
                    thread::sleep(RETRY);
                }
                shared.over.store(latest, Ordering::Release);
                shared.changed.notify_one();
            }
        };
        let thread = thread::Builder::new().name("grace-periods".into()).spawn(serve);
        thread.map_err(|source| TableError {
            map: NAME,
            operation: "start the thread",
            source,
        })?;
        Ok(Self {
            begun: 0,
            requests,
            state,
        })
    }

    /// Begins one: it is over when no program is left that ran before this call.
    pub fn begin(&mut self) -> GracePeriod {
        self.begun += 1;
        // The thread ends only after this value: there is always who receives it.
        let _ = self.requests.send(self.begun);
        GracePeriod(self.begun)
    }

    pub fn is_over(&self, period: GracePeriod) -> bool {
        self.state.over.load(Ordering::Acquire) >= period.0
    }

    /// Returns when one has come to its end since the last call.
    pub async fn ended(&self) {
        self.state.changed.notified().await;
    }
}

/// An array of maps with one element. No program uses it.
struct MapOfMaps {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl MapOfMaps {
    fn new() -> io::Result<Self> {
        const BPF_MAP_TYPE_ARRAY: u32 = 2;
        const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

        let inner = create_map(BPF_MAP_TYPE_ARRAY, 0)?;
        let outer = create_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd().cast_unsigned())?;
        Ok(Self { outer, inner })
    }

    /// Returns when no BPF program is left that ran before this call.
    fn wait_for_readers(&self) -> io::Result<()> {
        const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

        /// The part of `union bpf_attr` for element commands.
        #[repr(C)]
        struct Attributes {
            map_fd: u32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }

        let (key, value) = (0_u32, self.inner.as_raw_fd());
        let attributes = Attributes {
            map_fd: self.outer.as_raw_fd().cast_unsigned(),
            pad: 0,
            key: (&raw const key).addr() as u64,
            value: (&raw const value).addr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
    }
}

/// A map with one element of 32 bits. `inner` is the descriptor of one of the maps in it, 0 if it is not a map of maps.
fn create_map(map_type: u32, inner: u32) -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: libc::c_long = 0;

    /// The part of `union bpf_attr` for BPF_MAP_CREATE.
    #[repr(C)]
    struct Attributes {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        map_name: [u8; 16],
    }

    let mut map_name = [0; 16];
    map_name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    let attributes = Attributes {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: inner,
        numa_node: 0,
        map_name,
    };
    let fd = bpf(BPF_MAP_CREATE, &attributes)?;
    let fd = fd.try_into().map_err(io::Error::other)?;
    // SAFETY: a new descriptor that nobody else has; the kernel marks it close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2) with attributes that the kernel only reads, and whose pointers are good until it returns.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the commands of this file write to no memory.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

//! Grace periods: how the controller knows that no running XDP program began before some change.
//!
//! The kernel waits for one (`synchronize_rcu`) whenever an element of a map of maps is updated through the system
//! call, so that afterwards all programs use the new element (`maybe_wait_bpf_programs` in Linux 5.0 and later). XDP
//! programs run as RCU readers. `membarrier(MEMBARRIER_CMD_GLOBAL)` also waits, but not on all kernels: with
//! `nohz_full` it is refused, and with one CPU it returns at once, even though a program may have been preempted
//! (PREEMPT_RT). The wait takes 5 to 50 ms, so a separate thread does it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::error;

use super::{GracePeriod, TableError, bpf};

/// The name of the map of maps in errors.
const NAME: &str = "grace";
/// How long to wait before a grace period is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Begins grace periods and knows which are over.
pub struct GracePeriods {
    begun: u64,
    requests: mpsc::Sender<Request>,
    state: Arc<State>,
}

/// A grace period to wait for, and work to do before.
type Request = (u64, Option<Work>);
pub type Work = Box<dyn FnOnce() + Send>;

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
        let (requests, receiver) = mpsc::channel::<Request>();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let serve = move || {
            while let Ok((mut latest, work)) = receiver.recv() {
                let mut works = Vec::from_iter(work);
                // Those that began in the meantime end with this one.
                for (later, work) in receiver.try_iter() {
                    latest = later;
                    works.extend(work);
                }
                works.into_iter().for_each(|work| work());
                let mut reported = false;
                while let Err(error) = maps.wait_for_readers() {
                    if !std::mem::replace(&mut reported, true) {
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

    /// Begins a grace period: it is over when no program is running that began before this call.
    pub fn begin(&mut self) -> GracePeriod {
        self.request(None)
    }

    /// The same, and that `work` is done, on the thread that waits.
    pub fn begin_after(&mut self, work: Work) -> GracePeriod {
        self.request(Some(work))
    }

    fn request(&mut self, work: Option<Work>) -> GracePeriod {
        self.begun += 1;
        // The thread ends only after this value, so there is always a receiver.
        let _ = self.requests.send((self.begun, work));
        GracePeriod(self.begun)
    }

    pub fn is_over(&self, period: GracePeriod) -> bool {
        self.state.over.load(Ordering::Acquire) >= period.0
    }

    /// Returns when one has ended since the last call.
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
        let inner = bpf::create_array(NAME, None)?;
        let outer = bpf::create_array(NAME, Some(inner.as_fd()))?;
        Ok(Self { outer, inner })
    }

    /// Returns when no BPF program is running that began before this call.
    fn wait_for_readers(&self) -> io::Result<()> {
        bpf::update_element(self.outer.as_fd(), 0, self.inner.as_raw_fd().cast_unsigned())
    }
}

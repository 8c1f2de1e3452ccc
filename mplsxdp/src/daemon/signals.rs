//! Signals: those that end the switch do so after it has cleaned up, and no other signal that a terminal, a service
//! manager or a limit may send ends it. Signals that cannot be caught (SIGKILL), or that report an error of this
//! program, are not handled here.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::sys::signal::{self, SigHandler};
use tokio::signal::unix::{Signal, SignalKind};

/// These end the switch, as do the real-time signals: an interrupt or a quit from the terminal, a request to terminate,
/// no CPU time left.
const ENDING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGXCPU];

/// These have no meaning here, but would end or stop the process by default. SIGXFSZ and SIGPIPE come from writing to a
/// log that has reached its limit or has no reader; SIGTTOU from writing to a terminal in the background.
const MEANINGLESS: [signal::Signal; 11] = [
    signal::Signal::SIGALRM,
    signal::Signal::SIGIO,
    signal::Signal::SIGPIPE,
    signal::Signal::SIGPROF,
    signal::Signal::SIGPWR,
    signal::Signal::SIGSTKFLT,
    signal::Signal::SIGTTOU,
    signal::Signal::SIGUSR1,
    signal::Signal::SIGUSR2,
    signal::Signal::SIGVTALRM,
    signal::Signal::SIGXFSZ,
];

/// The signals that end the switch.
pub struct Ending(Vec<Signal>);

impl Ending {
    /// From here on no signal ends this process directly.
    pub fn new() -> io::Result<Self> {
        for meaningless in MEANINGLESS {
            // SAFETY: no handler is installed, the kernel drops the signal.
            unsafe { signal::signal(meaningless, SigHandler::SigIgn) }?;
        }
        let ending = ENDING.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
        ending
            .map(|number| tokio::signal::unix::signal(SignalKind::from_raw(number)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Waits for one of them. Can be dropped and called again at any time.
    pub async fn arrived(&mut self) {
        poll_fn(|context| {
            let arrived = self.0.iter_mut().map(|signal| signal.poll_recv(context).is_ready());
            // Poll all of them, so that each wakes the task.
            match arrived.fold(false, |any, one| any | one) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

//! The control socket: a Unix stream socket that speaks varlink, interface `io.mplsxdp`.

pub mod access;
pub mod api;
mod call;
pub mod client;
mod codec;
pub mod events;
pub mod frames;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod instance;
pub mod server;
pub mod socket;

use tokio::sync::oneshot;

use api::{Refusal, Reply, Request};
pub use instance::{DEFAULT_INSTANCE, Instance, InvalidInstance, RUN_DIR, RUN_DIR_VARIABLE};

/// The maximum length of a message in either direction.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// A request on its way to the switch.
#[derive(Debug)]
pub struct Call {
    pub request: Request,
    pub peer: Peer,
    pub reply: oneshot::Sender<Result<Reply, Refusal>>,
}

/// Who is at the other end of a connection (SO_PEERCRED).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
}

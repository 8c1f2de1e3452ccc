//! The control socket: a Unix stream socket that speaks varlink, interface `io.mplsxdp`.

pub mod api;

use tokio::sync::oneshot;

use api::{Refusal, Reply, Request};

/// One request on its way to the controller.
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

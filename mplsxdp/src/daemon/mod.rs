//! What the switch needs of the process around it: the slow path's sockets, raw sockets and signals.

pub mod exceptions;
mod raw_ip;
pub mod signals;

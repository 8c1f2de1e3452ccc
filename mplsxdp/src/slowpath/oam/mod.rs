//! Operations, administration and maintenance of LSPs: MPLS echo requests, "LSP ping" (RFC 8029, RFC 8287, RFC 9570).
//! [`message`] reads and writes the messages, [`udp`] the packets around them; [`responder`] answers requests,
//! and [`sender`] sends them.

#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
pub mod message;
pub mod responder;
pub mod sender;
pub mod udp;

//! Operations, administration and maintenance of LSPs: MPLS echo requests, "LSP ping" (RFC 8029, RFC 8287, RFC 9570).
//! [`message`] reads and writes the messages, [`udp`] the packets around them; [`responder`] answers requests.

#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
pub mod message;
pub mod responder;
pub mod udp;

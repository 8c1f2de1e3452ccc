//! What the XDP program and the host share: bytes on the wire ([`wire`]), bytes in the BPF maps ([`abi`]) and the MPLS
//! forwarding rules themselves ([`forward`], and for several next hops [`hash`]), which are written once and compiled for both.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod forward;
pub mod hash;
pub mod wire;

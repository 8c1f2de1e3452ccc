//! What the XDP program and the host share: bytes on the wire ([`wire`]), bytes in the BPF maps ([`abi`]) and the MPLS
//! forwarding rules themselves ([`forward`], what is IP by [`ip`], and several next hops by [`hash`]), which are written once and
//! compiled for both.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod checksum;
pub mod forward;
pub mod hash;
pub mod ip;
pub mod wire;

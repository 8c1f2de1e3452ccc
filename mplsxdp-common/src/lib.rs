//! What the XDP program and the host share: bytes on the wire ([`wire`]), bytes in the BPF maps ([`abi`]) and the MPLS
//! forwarding rules ([`forward`], with [`ip`] to recognise IP, [`ftn`] to find prefixes and [`hash`] to choose
//! among next hops, [`fib`] to ask the kernel's routes). The rules are written once and compiled for both.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod checksum;
pub mod fib;
pub mod forward;
pub mod ftn;
pub mod hash;
pub mod ip;
pub mod wire;

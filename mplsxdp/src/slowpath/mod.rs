//! The slow path: what the XDP program punts.

pub mod xsk;

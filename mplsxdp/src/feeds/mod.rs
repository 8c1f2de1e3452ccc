//! Sources of routes other than the control socket: each sends netlink messages, and a [`Mirror`] turns them into
//! routes. FRR is asked for backups of these routes. Pure.

pub mod fpm;
pub mod frr;
pub mod mirror;
mod translate;

pub use mirror::{Key, Mirror};
pub use translate::{Interface, InterfaceKind, Interfaces, TtlDefaults, left_to_kernel};

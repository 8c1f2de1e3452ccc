//! The FPM connection of zebra, FRR's route manager: frames of netlink messages. Pure.
//!
//! Zebra is the client. After each connect it sends everything it has: label routes, then nexthop objects, then IP
//! routes. Changes that happen meanwhile are sent in between, and nothing marks the end. (zebra/dplane_fpm_nl.c and
//! fpm/fpm.h of FRR.)

mod frame;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod pending;
mod session;
#[cfg(test)]
mod tests;

pub use frame::{Frame, FramingLost, Kind, take_frame, write_frame};
pub use pending::{Next, Pending};
pub use session::{Counters, Dialect, Key, Remark, Session, State};

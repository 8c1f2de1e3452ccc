//! Whether an interface can become a port, before and after the program is attached: facts are gathered and checked
//! against the rules. Every refusal is one message with the cause and the command that fixes it.

mod check;
mod error;
mod facts;
mod far_end;
#[cfg(test)]
pub mod fixture;

pub use check::{ONE_BUFFER_MTU, attach_error, check, check_attached, check_tags, delays_multi_buffer, is_down};
pub use error::PreflightError;
pub use facts::{Capabilities, Facts, check_capabilities, gather, missing_capabilities};
pub use far_end::FarEnd;

//! What can be a port, and what it stands for.

pub mod preflight;
pub mod sub_interface;

//! What the tests of the forwarding core on the host and of its twin in the kernel share.

pub mod fixtures;
pub mod lab;
pub mod notation;
pub mod random;

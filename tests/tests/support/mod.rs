//! What the tests of the forwarding core on the host and of its twin in the kernel share.

#[path = "../../src/conformance/fixtures.rs"]
pub mod fixtures;
#[path = "../../src/conformance/lab.rs"]
pub mod lab;
#[path = "../../src/conformance/notation.rs"]
pub mod notation;
#[path = "../../src/conformance/random.rs"]
pub mod random;

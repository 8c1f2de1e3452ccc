//! What talks to the kernel, against the kernel: in network namespaces of its own. Needs root, and fails without.

mod grace;
mod lab;
mod local;
mod neighbour;
mod preflight;
mod views;

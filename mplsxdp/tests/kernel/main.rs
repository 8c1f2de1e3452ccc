//! The code that talks to the kernel, in its own network namespaces. Needs root, and fails without it.

mod callers;
mod grace;
mod lab;
mod local;
mod neighbour;
mod preflight;
mod reports;
mod views;

//! The library behind the `mplsxdp` command. Imports go downward only:
//!
//! ```text
//! cli  config                what a person types and reads; what a file says
//!   control                  the socket: types, server, client
//!   switch  daemon           the one event loop; what it needs of the process
//!   ports                    the interfaces that carry the program
//!   lfib  neighbour  slowpath  routes -> table writes; next hops -> MAC addresses; exceptions -> answers (pure at heart)
//!   route                    what a route is; its line and its JSON
//!   dataplane                the tables, in memory or in the kernel; loading and attaching
//!     log  descriptors       lines on standard error that hold up nobody; the limit of file descriptors
//! ```

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod descriptors;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
pub mod kernel;
pub mod lfib;
pub mod log;
pub mod neighbour;
pub mod ports;
pub mod route;
pub mod slowpath;
pub mod switch;

//! The library behind the `mplsxdp` command. A module imports only from lines below its own; `tests/layers.rs` reads
//! this drawing and checks every file against it.
//!
//! ```text
//! fuzz                          what must hold for any bytes, for fuzzers and tests
//! cli                           what a person types and reads
//! daemon doctor                 performs what the switch wants; finds what keeps frames from passing
//! switch                        the core that ties all below together; it never waits
//! config                        the options, from the command line and the config file
//! feeds observe ports state     sources of routes, reports, interfaces, what outlives the process
//! control                       the socket: calls, server, client
//! kernel lfib rib slowpath      netlink and ethtool, routes to writes, best routes, exceptions
//! neighbour                     next hops to MAC addresses
//! rtnl                          routes as netlink messages describe them
//! dataplane route               the tables and the programs; what a route is
//! error http log pcap strict text   errors, logs, HTTP, captures; serde, strictly and by text
//! descriptors directory privileges   limits; who can change directories; what the process may still do
//! ```

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod descriptors;
mod directory;
pub mod doctor;
pub mod error;
pub mod feeds;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod http;
pub mod kernel;
pub mod lfib;
pub mod log;
pub mod neighbour;
pub mod observe;
pub mod pcap;
pub mod ports;
pub mod privileges;
pub mod rib;
pub mod route;
pub mod rtnl;
pub mod slowpath;
pub mod state;
mod strict;
pub mod switch;
mod text;

//! The control socket and the command line, from outside: a real server on a real socket, with a controller that keeps
//! routes in memory. Needs no privileges.

mod command;
mod fake;
mod malformed;
mod monitor;
mod socket;

//! The label forwarding information base: routes as they are wanted, and the table writes that make them so.

pub mod route;

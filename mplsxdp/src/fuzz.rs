//! The fuzz targets of this library, by name. Each module with a parser has its own `fuzz` module: a function that
//! takes any bytes and panics if a property does not hold. `fuzz/` calls these functions with inputs that a fuzzer
//! makes, the tests with inputs that were once found and with variations of them.

pub use crate::cli::fuzz::{command_line, config, route_line, state};
pub use crate::control::fuzz::control;
pub use crate::dataplane::fuzz::{core, core_seeds};
pub use crate::feeds::fpm::fuzz::fpm;
pub use crate::kernel::fuzz::{netdev, netlink};
pub use crate::rtnl::fuzz::rtnl;
pub use crate::slowpath::fuzz::{icmp_codec, slow_path, slow_path_seed};
pub use crate::slowpath::oam::fuzz::lsp_ping;
pub use crate::state::fuzz::saved;

/// A check that takes any bytes.
pub type Check = fn(&[u8]);

pub const TARGETS: &[(&str, Check)] = &[
    ("command_line", command_line),
    ("config", config),
    ("control", control),
    ("core", core),
    ("fpm", fpm),
    ("icmp_codec", icmp_codec),
    ("lsp_ping", lsp_ping),
    ("netdev", netdev),
    ("netlink", netlink),
    ("route_line", route_line),
    ("rtnl", rtnl),
    ("saved", saved),
    ("slow_path", slow_path),
    ("state", state),
];

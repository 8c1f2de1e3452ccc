//! Everything that `load` can be told, by the command line or a TOML file.

use mplsxdp_common::abi::TtlMode;

use crate::lfib::route::Route;

/// What to load, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub instance: String,
    /// The network namespace to enter, by name.
    pub netns: Option<String>,
    pub ports: Vec<PortConfig>,
    pub mode: XdpMode,
    /// Size of the ILM: labels 0 to this less one can have routes.
    pub labels: u32,
    pub counter_slots: u32,
    /// How many different label stacks routes can push.
    pub stacks: u32,
    pub ttl_mode: TtlMode,
    /// TTL of labels pushed in pipe mode.
    pub tunnel_ttl: u8,
    /// The last pop writes TC into the IP precedence.
    pub tc_propagate: bool,
    /// The XDP program sends a log record for each exception.
    pub log_exceptions: bool,
    pub routes: Vec<Route>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    pub name: String,
    /// Only to be transmitted to.
    pub tx_only: bool,
    /// Accepts labelled frames.
    pub mpls: bool,
}

/// How the program is attached. There is no fallback from one to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XdpMode {
    #[default]
    Native,
    Generic,
}

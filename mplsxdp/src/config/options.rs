//! The options of `load`. Each is defined here once: name, type, bounds, help and default. clap reads them from a
//! command line, serde from and into a config file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use mplsxdp_common::abi::{DEFAULT_BACKUPS, DEFAULT_COUNTER_SLOTS, DEFAULT_GROUPS, DEFAULT_STACKS, MAX_LABELS};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::sync::{Span, SyncSource, SyncTable};
use super::values::{
    ChecksumMode, Number, PortLabels, PortMap, PortMplsMtu, PortPair, Preference, Rate, TtlPropagation, UnknownPolicy,
};
use crate::control::DEFAULT_INSTANCE;
use crate::control::api::UnknownChecksum;
use crate::dataplane::XdpMode;
use crate::dataplane::class_maps::{DscpMap, TcMap};
use crate::kernel::LocalRoute;
use crate::observe::metrics::address::{Clients, MetricsAddress};
use crate::slowpath::IcmpVia;

/// The name of `local` if none is given.
pub const DEFAULT_LOCAL: &str = "mpls0";

/// An ILM, FTN or bucket entry has 20 bits for a counter slot, a stack or a group.
const MAX_INDEX: u32 = 1 << 20;
/// The options of `load`. A key of the config file is an option's name without its dashes.
#[derive(Clone, PartialEq, Debug, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// An interface, or a VLAN on it (eth1.100, eth1.100.10), to switch labelled frames on (repeatable).
    #[arg(long, value_name = "IFACE")]
    pub iface: Vec<String>,
    /// An interface to send frames to only: labels that arrive there are dropped (repeatable).
    #[arg(long, value_name = "IFACE")]
    pub tx_only: Vec<String>,
    /// One of --iface that accepts no labelled frames until `link set IFACE mpls on` (repeatable).
    #[arg(long, value_name = "IFACE")]
    pub mpls_off: Vec<String>,
    /// The labels that one of --iface accepts, as up to 8 ranges; frames with others are dropped (repeatable).
    #[arg(long, value_name = "IFACE=RANGES")]
    pub accept_labels: Vec<PortLabels>,
    /// The largest labelled packet that may leave by an interface, label stack included (repeatable) [default: the
    /// interface's MTU].
    #[arg(long, value_name = "IFACE=BYTES")]
    pub mpls_mtu: Vec<PortMplsMtu>,
    /// Two of the interfaces that are cross-connected: every frame that arrives at one leaves by the other, unchanged;
    /// with `one-way`, only from the first to the second (repeatable).
    #[arg(long, value_name = "IFACE IFACE [one-way]")]
    pub xconnect: Vec<PortPair>,
    /// The TC of labels that are imposed on packets which arrive at an interface, by their DSCP, such as eth1=46=5,34=4
    /// (repeatable) [default: the IP precedence].
    #[arg(long, value_name = "IFACE=MAP")]
    pub dscp_map: Vec<PortMap<DscpMap>>,
    /// The DSCP of packets whose last label is popped, by its TC, such as eth1=5=46 (repeatable).
    #[arg(long, value_name = "IFACE=MAP")]
    pub tc_map: Vec<PortMap<TcMap>>,
    /// Make an interface for this machine's own packets: routes for prefixes impose labels on packets sent into it
    /// [NAME: mpls0].
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = DEFAULT_LOCAL)]
    #[serde(deserialize_with = "local")]
    pub local: Option<String>,
    /// A kernel route into the interface of --local, removed when the instance ends (repeatable).
    #[arg(long, value_name = "PREFIX [src ADDRESS]")]
    pub kernel_route: Vec<LocalRoute>,
    /// The instance; several can run on one machine, each under its own name.
    #[arg(skip)]
    pub instance: String,
    /// The network namespace to enter, by name or path.
    #[arg(skip)]
    pub netns: Option<String>,
    /// Wait for interfaces that do not exist yet, and make each a port when it appears.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub wait: bool,
    /// Do not make an interface a port again if it was deleted and then recreated under its name.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_readopt: bool,
    /// Keep forwarding when the process ends, however that happens, until `unload`. The next load takes over.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub persist: bool,
    /// Put the program back onto a port when another process has detached or replaced it.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub guard: bool,
    /// Switch GRO on at the other ends of veths that need it to take redirected frames, in any network namespace.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fix_peers: bool,
    /// How to treat TCP and UDP checksums that senders left to their NICs, on all interfaces or on one: finish or trust
    /// (repeatable) [default: finish on veth, tap and virtio_net, else trust].
    #[arg(long, value_name = "[IFACE=]MODE")]
    #[serde(deserialize_with = "one_or_more")]
    pub checksum: Vec<ChecksumMode>,
    /// How the XDP program is attached.
    #[arg(long, value_name = "MODE")]
    pub mode: XdpMode,
    /// Labels below this number can have routes: 17 to 1048576.
    #[arg(long, value_name = "N")]
    pub labels: Number<u32, 17, MAX_LABELS>,
    /// How many routes can have counters, plus one.
    #[arg(long, value_name = "N")]
    pub counter_slots: Number<u32, 1, MAX_INDEX>,
    /// How many different stacks of two or more labels routes can push.
    #[arg(long, value_name = "N")]
    pub stacks: Number<u32, 1, MAX_INDEX>,
    /// How many different groups of next hops routes can have; each takes 2 KiB.
    #[arg(long, value_name = "N")]
    pub groups: Number<u32, 1, MAX_INDEX>,
    /// How many different pairs of a next hop and a backup with labels of its own routes can have.
    #[arg(long, value_name = "N")]
    pub backups: Number<u32, 1, MAX_INDEX>,
    /// How long a next hop that is back must stay reachable before its frames leave its backups [default: at once].
    #[arg(long, value_name = "TIME")]
    pub backup_hold: Option<Span>,
    /// The start value of the hash that spreads flows over next hops [default: random at each load].
    #[arg(long, value_name = "N")]
    pub hash_seed: Option<Number<u32, 0, { u32::MAX }>>,
    /// Follow a source of routes: `kernel` (its MPLS routes) or `fpm[:ADDRESS][:PORT]` (FRR; 127.0.0.1:2620); or
    /// `frr[=DIR]`, with one of these: the backups that FRR computes (/var/run/frr) (repeatable).
    #[arg(long, value_name = "SOURCE")]
    pub sync: Vec<SyncSource>,
    /// A routing table whose IP routes impose labels: a number, a VRF, or `main` (repeatable) [default: main].
    #[arg(long, value_name = "TABLE")]
    pub sync_table: Vec<SyncTable>,
    /// How long a connected routing daemon must be silent before the routes that it did not send again are deleted.
    #[arg(long, value_name = "TIME")]
    pub sync_quiet: Span,
    /// How long the last answer of FRR is taken for fresh. Then its backups stay, and are reported as stale.
    #[arg(long, value_name = "TIME")]
    pub sync_stale: Span,
    /// How the TTL crosses a push or a pop [default: uniform; with --sync: linux, and as net.mpls.ip_ttl_propagate
    /// says].
    #[arg(long, value_name = "MODE")]
    pub ttl_propagate: Option<TtlPropagation>,
    /// TTL of labels pushed in pipe mode: 1 to 255 [default: 255; with --sync: net.mpls.default_ttl].
    #[arg(long, value_name = "N")]
    pub tunnel_ttl: Option<Number<u8, 1, 255>>,
    /// The last pop writes the traffic class into the IP precedence.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tc_propagate: bool,
    /// What happens to frames whose label has no route [with --sync: pass].
    #[arg(long, value_name = "POLICY")]
    pub unknown: UnknownPolicy,
    /// Which way ICMP errors about labelled packets go.
    #[arg(long, value_name = "WAY")]
    pub icmp_via: IcmpVia,
    /// Send ICMP errors from this address of this machine instead of one of the interface on which the packet arrived
    /// (once for IPv4, once for IPv6).
    #[arg(long, value_name = "ADDRESS")]
    pub icmp_source: Vec<IpAddr>,
    /// ICMP errors per second, in total; 0: no limit.
    #[arg(long, value_name = "N")]
    pub icmp_rate: Rate,
    /// ICMP errors per second to one source; 0: no limit.
    #[arg(long, value_name = "N")]
    pub icmp_source_rate: Rate,
    /// How many frames wait for a next hop whose MAC address is not known yet: 0 to 1024.
    #[arg(long, value_name = "N")]
    pub hold: Number<u16, 0, 1024>,
    /// Exceptions per second, for each reason and port, that reach the slow path; 0: no limit.
    #[arg(long, value_name = "N")]
    pub punt_rate: Rate,
    /// Log each frame that is not forwarded, and why (slow).
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_exceptions: bool,
    /// The preference of an owner's routes over those of others for the same label or prefix: the lowest number wins, 1
    /// to 255 (repeatable) [default: static=1, fpm=10, kernel=20, frr=30].
    #[arg(long, value_name = "OWNER=N")]
    pub prefer: Vec<Preference>,
    /// Serve metrics for Prometheus by HTTP: `unix:PATH`, or `ADDRESS:PORT` (path /metrics).
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<MetricsAddress>,
    /// The clients that may read the metrics if they are served at an address other than loopback (repeatable).
    #[arg(long, value_name = "PREFIX[,...]", value_delimiter = ',')]
    pub metrics_allow: Vec<Clients>,
    /// How many routes have metrics of their own, the first ones of `route show`: 0 to 100000 [default: none].
    #[arg(long, value_name = "N")]
    pub metrics_routes: Option<Number<u32, 0, 100_000>>,
    /// More logging (-v debug, -vv trace).
    #[arg(short, long, action = clap::ArgAction::Count)]
    #[serde(deserialize_with = "verbosity")]
    pub verbose: u8,
    /// Add the routes of this file, which `route save` wrote.
    #[arg(long, value_name = "FILE")]
    pub routes_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            iface: Vec::new(),
            tx_only: Vec::new(),
            mpls_off: Vec::new(),
            accept_labels: Vec::new(),
            mpls_mtu: Vec::new(),
            xconnect: Vec::new(),
            dscp_map: Vec::new(),
            tc_map: Vec::new(),
            local: None,
            kernel_route: Vec::new(),
            instance: DEFAULT_INSTANCE.into(),
            netns: None,
            wait: false,
            no_readopt: false,
            persist: false,
            guard: false,
            fix_peers: false,
            checksum: Vec::new(),
            mode: XdpMode::Native,
            labels: Number(MAX_LABELS),
            counter_slots: Number(DEFAULT_COUNTER_SLOTS),
            stacks: Number(DEFAULT_STACKS),
            groups: Number(DEFAULT_GROUPS),
            backups: Number(DEFAULT_BACKUPS),
            backup_hold: None,
            hash_seed: None,
            sync: Vec::new(),
            sync_table: Vec::new(),
            sync_quiet: Span::from_secs(2),
            sync_stale: Span::from_secs(90),
            ttl_propagate: None,
            tunnel_ttl: None,
            tc_propagate: false,
            unknown: UnknownPolicy::Punt,
            icmp_via: IcmpVia::Auto,
            icmp_source: Vec::new(),
            icmp_rate: Number(1000),
            icmp_source_rate: Number(100),
            hold: Number(64),
            punt_rate: Number(20_000),
            log_exceptions: false,
            prefer: Vec::new(),
            metrics: None,
            metrics_allow: Vec::new(),
            metrics_routes: None,
            verbose: 0,
            routes_file: None,
        }
    }
}

/// Options that a reload applies to the running instance.
const RELOADED: [&str; 15] = [
    "iface",
    "tx-only",
    "mpls-off",
    "accept-labels",
    "mpls-mtu",
    "xconnect",
    "dscp-map",
    "tc-map",
    "checksum",
    "kernel-route",
    "wait",
    "no-readopt",
    "guard",
    "fix-peers",
    "routes-file",
];

impl Options {
    /// As the kernel does, if it has the same routes.
    pub fn ttl_mode(&self) -> TtlPropagation {
        let default = match self.sync.is_empty() {
            true => TtlPropagation::Uniform,
            false => TtlPropagation::Linux,
        };
        self.ttl_propagate.unwrap_or(default)
    }

    /// Of labels pushed in pipe mode.
    pub fn pipe_ttl(&self) -> u8 {
        self.tunnel_ttl.map_or(u8::MAX, Number::get)
    }

    /// The values of the options by name, without those that have none.
    pub fn values(&self) -> BTreeMap<String, Value> {
        let Ok(Value::Object(values)) = serde_json::to_value(self) else {
            return BTreeMap::new();
        };
        values.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    /// The values that are not defaults.
    pub fn differing(&self) -> BTreeMap<String, Value> {
        let defaults = Self::default().values();
        let values = self.values().into_iter();
        values
            .filter(|(name, value)| defaults.get(name) != Some(value))
            .collect()
    }

    /// The names of all options.
    pub fn names() -> Vec<String> {
        match serde_json::to_value(Self::default()) {
            Ok(Value::Object(values)) => values.into_iter().map(|(name, _)| name).collect(),
            _ => Vec::new(),
        }
    }

    /// The names of options that differ from those of `new` and that only a new load would apply.
    pub fn needing_restart(&self, new: &Self) -> Vec<String> {
        let (old, new) = (self.values(), new.values());
        Self::names()
            .into_iter()
            .filter(|name| !RELOADED.contains(&name.as_str()) && old.get(name) != new.get(name))
            .collect()
    }
}

/// A name, or whether to use the default name.
fn local<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Local {
        Wanted(bool),
        Name(String),
    }

    let local = Local::deserialize(deserializer).map_err(|_| D::Error::custom("expected a string, true or false"))?;
    Ok(match local {
        Local::Wanted(wanted) => wanted.then(|| DEFAULT_LOCAL.to_owned()),
        Local::Name(name) => Some(name),
    })
}

/// One value, or an array of them.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ChecksumMode>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }

    let texts = match OneOrMore::deserialize(deserializer) {
        Ok(OneOrMore::One(text)) => vec![text],
        Ok(OneOrMore::More(texts)) => texts,
        Err(_) => return Err(D::Error::custom("expected a string, or an array of strings")),
    };
    let modes = texts.iter().map(|text| text.parse());
    modes.collect::<Result<_, UnknownChecksum>>().map_err(D::Error::custom)
}

fn verbosity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    Number::<u8, 0, 2>::deserialize(deserializer).map(Number::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_needed_for_what_a_reload_does_not_apply() {
        let old = Options::default();
        let new = Options {
            wait: true,
            no_readopt: true,
            guard: true,
            fix_peers: true,
            hold: Number(7),
            labels: Number(4096),
            iface: vec!["eth1".into()],
            ..Options::default()
        };
        assert_eq!(old.needing_restart(&new), ["hold", "labels"]);
        assert!(old.needing_restart(&old).is_empty());
        let new = Options {
            prefer: vec!["kernel=1".parse().unwrap()],
            ..Options::default()
        };
        assert_eq!(Options::default().needing_restart(&new), ["prefer"]);
        for name in RELOADED {
            assert!(Options::names().iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn only_what_is_not_a_default_differs() {
        assert!(Options::default().differing().is_empty());
        let options = Options {
            hold: Number(7),
            local: Some("own".into()),
            prefer: vec!["kernel=1".parse().unwrap()],
            ..Options::default()
        };
        let differing = options.differing();
        assert_eq!(
            serde_json::to_string(&differing).unwrap(),
            r#"{"hold":7,"local":"own","prefer":["kernel=1"]}"#
        );
    }
}

//! What `load` loads: the options as the command line and the config file say them, the defaults of what neither says, and the
//! checks that the whole has to pass before anything starts.

pub mod file;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use clap::ValueEnum;
use mplsxdp_common::abi::{
    self, DEFAULT_COUNTER_SLOTS, DEFAULT_GROUPS, DEFAULT_STACKS, MAX_LABELS, MAX_PORTS, TtlMode,
};

use crate::control::api::Checksum;
use crate::control::{DEFAULT_INSTANCE, Instance};
use crate::dataplane::XdpMode;
use crate::route::interface::{check_interface, check_new_interface};
use crate::route::{Route, RouteKey};
use crate::slowpath::IcmpVia;

/// What `labels` can be: at least one ordinary label has room.
pub const LABELS: RangeInclusive<u32> = 17..=MAX_LABELS;
/// What `counter-slots` can be: slot 0 means "not counted", and an entry has 20 bits for a slot.
pub const COUNTER_SLOTS: RangeInclusive<u32> = 1..=1 << 20;
/// What `stacks` can be: an entry has 20 bits for one.
pub const STACKS: RangeInclusive<u32> = 1..=1 << 20;
/// What `groups` can be: an entry has 20 bits for one, and one takes 2 KiB.
pub const GROUPS: RangeInclusive<u32> = 1..=1 << 20;
/// What `hash-seed` can be.
pub const HASH_SEED: RangeInclusive<u32> = 0..=u32::MAX;
/// What `tunnel-ttl` can be.
pub const TUNNEL_TTL: RangeInclusive<u8> = 1..=255;
/// What a rate per second can be: 0 is no limit, and token buckets count nanoseconds.
pub const RATE: RangeInclusive<u32> = 0..=1_000_000_000;
/// What `hold` can be.
pub const HOLD: RangeInclusive<u16> = 0..=1024;
/// The name of `local` where none is given.
pub const DEFAULT_LOCAL: &str = "mpls0";

/// How many may come at once where there is a limit of so many per second: what comes in 50 ms, and 50 at least.
pub const fn burst(per_second: u32) -> u32 {
    let burst = per_second / 20;
    if burst < 50 { 50 } else { burst }
}

/// What to load, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub instance: String,
    /// The network namespace to enter, by name or path.
    pub netns: Option<String>,
    pub ports: Vec<PortConfig>,
    /// The interface to make for this box's own packets: the near end of a veth pair whose far end is a port.
    pub local: Option<String>,
    /// A port whose interface is not there is taken when that comes.
    pub wait: bool,
    /// A port whose interface goes is taken again when that is made anew.
    pub readopt: bool,
    /// GRO is switched on at the other end of a veth that does not take redirected frames without.
    pub fix_peers: bool,
    pub mode: XdpMode,
    /// Size of the ILM: labels 0 to this less one can have routes.
    pub labels: u32,
    pub counter_slots: u32,
    /// How many different label stacks routes can push.
    pub stacks: u32,
    /// How many different groups of next hops routes can have.
    pub groups: u32,
    /// What the flow hash begins with; `None`: a number that no other router is likely to have.
    pub hash_seed: Option<u32>,
    pub ttl_mode: TtlMode,
    /// TTL of labels pushed in pipe mode.
    pub tunnel_ttl: u8,
    /// The last pop writes TC into the IP precedence.
    pub tc_propagate: bool,
    pub unknown: UnknownPolicy,
    pub icmp_via: IcmpVia,
    /// What ICMP errors come from, where it is not an address of the interface that the packet arrived at.
    pub icmp_source_v4: Option<Ipv4Addr>,
    pub icmp_source_v6: Option<Ipv6Addr>,
    /// ICMP errors per second, in total; 0: no limit.
    pub icmp_rate: u32,
    /// ICMP errors per second to one source; 0: no limit.
    pub icmp_source_rate: u32,
    /// How many frames wait for one next hop.
    pub hold: u16,
    /// Exceptions per second, of one reason and port, that the slow path gets; 0: no limit.
    pub punt_rate: u32,
    /// The XDP program sends a log record for each exception.
    pub log_exceptions: bool,
    /// How much more to log than usual.
    pub verbose: u8,
    pub routes: Vec<Route>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: DEFAULT_INSTANCE.into(),
            netns: None,
            ports: Vec::new(),
            local: None,
            wait: false,
            readopt: true,
            fix_peers: false,
            mode: XdpMode::Native,
            labels: MAX_LABELS,
            counter_slots: DEFAULT_COUNTER_SLOTS,
            stacks: DEFAULT_STACKS,
            groups: DEFAULT_GROUPS,
            hash_seed: None,
            ttl_mode: TtlMode::Uniform,
            tunnel_ttl: 255,
            tc_propagate: false,
            unknown: UnknownPolicy::Punt,
            icmp_via: IcmpVia::Auto,
            icmp_source_v4: None,
            icmp_source_v6: None,
            icmp_rate: 1000,
            icmp_source_rate: 100,
            hold: 64,
            punt_rate: 20_000,
            log_exceptions: false,
            verbose: 0,
            routes: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    pub name: String,
    /// Only to be transmitted to.
    pub tx_only: bool,
    /// Accepts labelled frames.
    pub mpls: bool,
    /// What is done about unfinished checksums; `None`: as the kind of interface needs it.
    pub checksum: Option<Checksum>,
}

/// How the command line and the file call a [`TtlMode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum TtlModeName {
    /// Every pushed label carries the TTL, a pop hands it down (RFC 3443).
    Uniform,
    /// A tunnel is one hop to what it carries (RFC 3443).
    Pipe,
    /// As the Linux kernel: uniform between label and IP, label TTLs beneath a popped one untouched.
    Linux,
}

impl From<TtlModeName> for TtlMode {
    fn from(name: TtlModeName) -> Self {
        match name {
            TtlModeName::Uniform => Self::Uniform,
            TtlModeName::Pipe => Self::Pipe,
            TtlModeName::Linux => Self::Linux,
        }
    }
}

/// What becomes of a frame whose label has no route. It is counted whatever becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum UnknownPolicy {
    /// The slow path counts it by its label and drops it.
    #[default]
    Punt,
    /// Dropped at once.
    Drop,
    /// The kernel's, untouched.
    Pass,
}

impl From<UnknownPolicy> for abi::UnknownPolicy {
    fn from(policy: UnknownPolicy) -> Self {
        match policy {
            UnknownPolicy::Punt => Self::Punt,
            UnknownPolicy::Drop => Self::Drop,
            UnknownPolicy::Pass => Self::Pass,
        }
    }
}

/// What was said, by the command line or by a file. Field by field what the options of `load` are.
#[derive(Clone, PartialEq, Debug, Default, clap::Args)]
pub struct Options {
    /// An interface, or a VLAN on it (eth1.100, eth1.100.10), to switch labelled frames on (repeatable).
    #[arg(long = "iface", value_name = "IFACE")]
    pub ifaces: Vec<String>,
    /// An interface to send frames to only: labels that arrive there are dropped (repeatable).
    #[arg(long = "tx-only", value_name = "IFACE")]
    pub tx_only: Vec<String>,
    /// Make an interface for this box's own packets: routes for prefixes impose labels on what is sent into it [NAME: mpls0].
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = DEFAULT_LOCAL)]
    pub local: Option<String>,
    /// Wait for interfaces that do not exist yet, and take each when it comes.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub wait: Option<bool>,
    /// Do not take an interface again that was deleted and is made anew under its name.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_readopt: Option<bool>,
    /// Switch GRO on at the other ends of veths, in whatever network namespace, where redirected frames are lost without.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fix_peers: Option<bool>,
    /// What becomes of TCP and UDP checksums that senders left to their NICs: finish or trust, of all interfaces or of one
    /// (repeatable) [default: finish on veth, tap and virtio_net, else trust].
    #[arg(long = "checksum", value_name = "[IFACE=]MODE")]
    pub checksums: Vec<String>,
    /// How the XDP program is attached [default: native].
    #[arg(long, value_name = "MODE")]
    pub mode: Option<XdpMode>,
    /// Labels below this number can have routes: 17 to 1048576 [default: 1048576].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(range(LABELS)))]
    pub labels: Option<u32>,
    /// How many routes can have counters, plus one [default: 65536].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(range(COUNTER_SLOTS)))]
    pub counter_slots: Option<u32>,
    /// How many different stacks of two or more labels routes can push [default: 32768].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(range(STACKS)))]
    pub stacks: Option<u32>,
    /// How many different groups of next hops routes can have; each takes 2 KiB [default: 1024].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(range(GROUPS)))]
    pub groups: Option<u32>,
    /// What the hash that spreads flows over next hops begins with [default: random at each load].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(range(HASH_SEED)))]
    pub hash_seed: Option<u32>,
    /// How the TTL crosses a push or a pop [default: uniform].
    #[arg(long = "ttl-propagate", value_name = "MODE")]
    pub ttl_mode: Option<TtlModeName>,
    /// TTL of labels pushed in pipe mode: 1 to 255 [default: 255].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub tunnel_ttl: Option<u8>,
    /// The last pop writes the traffic class into the IP precedence.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tc_propagate: Option<bool>,
    /// What becomes of a label that has no route [default: punt].
    #[arg(long, value_name = "POLICY")]
    pub unknown: Option<UnknownPolicy>,
    /// Which way ICMP errors about labelled packets go [default: auto].
    #[arg(long, value_name = "WAY")]
    pub icmp_via: Option<IcmpVia>,
    /// Send ICMP errors from this address of this box, not from one of the interface that the packet arrived at (once for IPv4,
    /// once for IPv6).
    #[arg(long, value_name = "ADDRESS")]
    pub icmp_source: Vec<IpAddr>,
    /// ICMP errors per second, in total; 0: no limit [default: 1000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(range(RATE)))]
    pub icmp_rate: Option<u32>,
    /// ICMP errors per second to one source; 0: no limit [default: 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(range(RATE)))]
    pub icmp_source_rate: Option<u32>,
    /// How many frames wait for a next hop whose MAC address is not known yet: 0 to 1024 [default: 64].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(range(HOLD)))]
    pub hold: Option<u16>,
    /// Exceptions per second, of one reason and port, that reach the slow path; 0: no limit [default: 20000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(range(RATE)))]
    pub punt_rate: Option<u32>,
    /// Log each frame that is not forwarded, and why (slow).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_exceptions: Option<bool>,
    /// Log more; twice: even more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[arg(skip)]
    pub instance: Option<String>,
    #[arg(skip)]
    pub netns: Option<String>,
    #[arg(skip)]
    pub routes: Vec<PlacedRoute>,
}

/// A static route, and where it stands, for errors.
#[derive(Clone, PartialEq, Debug)]
pub struct PlacedRoute {
    pub route: Route,
    pub place: String,
}

impl Options {
    /// What `self` does not say, `other` does. The interfaces and routes are those of both.
    pub fn or(self, mut other: Self) -> Self {
        let said = |address: &IpAddr| self.icmp_source.iter().any(|one| one.is_ipv4() == address.is_ipv4());
        other.icmp_source.retain(|address| !said(address));
        let both = |mut first: Vec<String>, second| {
            first.extend(second);
            first
        };
        Self {
            ifaces: both(self.ifaces, other.ifaces),
            tx_only: both(self.tx_only, other.tx_only),
            local: self.local.or(other.local),
            wait: self.wait.or(other.wait),
            no_readopt: self.no_readopt.or(other.no_readopt),
            fix_peers: self.fix_peers.or(other.fix_peers),
            // The last one counts.
            checksums: both(other.checksums, self.checksums),
            mode: self.mode.or(other.mode),
            labels: self.labels.or(other.labels),
            counter_slots: self.counter_slots.or(other.counter_slots),
            stacks: self.stacks.or(other.stacks),
            groups: self.groups.or(other.groups),
            hash_seed: self.hash_seed.or(other.hash_seed),
            ttl_mode: self.ttl_mode.or(other.ttl_mode),
            tunnel_ttl: self.tunnel_ttl.or(other.tunnel_ttl),
            tc_propagate: self.tc_propagate.or(other.tc_propagate),
            unknown: self.unknown.or(other.unknown),
            icmp_via: self.icmp_via.or(other.icmp_via),
            icmp_source: self.icmp_source.into_iter().chain(other.icmp_source).collect(),
            icmp_rate: self.icmp_rate.or(other.icmp_rate),
            icmp_source_rate: self.icmp_source_rate.or(other.icmp_source_rate),
            hold: self.hold.or(other.hold),
            punt_rate: self.punt_rate.or(other.punt_rate),
            log_exceptions: self.log_exceptions.or(other.log_exceptions),
            verbose: if self.verbose > 0 { self.verbose } else { other.verbose },
            instance: self.instance.or(other.instance),
            netns: self.netns.or(other.netns),
            routes: self.routes.into_iter().chain(other.routes).collect(),
        }
    }

    /// Fills in the defaults and checks that it all goes together.
    pub fn check(self) -> Result<Config, ConfigError> {
        let mut errors = Vec::new();
        let ports = self.ports(&mut errors);
        let (icmp_source_v4, icmp_source_v6) = self.icmp_sources(&mut errors);
        let default = Config::default();
        let labels = self.labels.unwrap_or(default.labels);
        check_routes(&self.routes, labels, &mut errors);
        let instance = self.instance.unwrap_or(default.instance);
        if let Err(error) = Instance::new(&instance) {
            errors.push(error.to_string());
        }
        if !errors.is_empty() {
            return Err(ConfigError(errors));
        }
        Ok(Config {
            instance,
            netns: self.netns,
            ports,
            local: self.local,
            wait: self.wait.unwrap_or(default.wait),
            readopt: self.no_readopt.map_or(default.readopt, |no_readopt| !no_readopt),
            fix_peers: self.fix_peers.unwrap_or(default.fix_peers),
            mode: self.mode.unwrap_or(default.mode),
            labels,
            counter_slots: self.counter_slots.unwrap_or(default.counter_slots),
            stacks: self.stacks.unwrap_or(default.stacks),
            groups: self.groups.unwrap_or(default.groups),
            hash_seed: self.hash_seed.or(default.hash_seed),
            ttl_mode: self.ttl_mode.map_or(default.ttl_mode, TtlMode::from),
            tunnel_ttl: self.tunnel_ttl.unwrap_or(default.tunnel_ttl),
            tc_propagate: self.tc_propagate.unwrap_or(default.tc_propagate),
            unknown: self.unknown.unwrap_or(default.unknown),
            icmp_via: self.icmp_via.unwrap_or(default.icmp_via),
            icmp_source_v4,
            icmp_source_v6,
            icmp_rate: self.icmp_rate.unwrap_or(default.icmp_rate),
            icmp_source_rate: self.icmp_source_rate.unwrap_or(default.icmp_source_rate),
            hold: self.hold.unwrap_or(default.hold),
            punt_rate: self.punt_rate.unwrap_or(default.punt_rate),
            log_exceptions: self.log_exceptions.unwrap_or(default.log_exceptions),
            verbose: self.verbose,
            routes: self.routes.into_iter().map(|placed| placed.route).collect(),
        })
    }

    /// Each interface once, in the order given.
    fn ports(&self, errors: &mut Vec<String>) -> Vec<PortConfig> {
        let mut ports: Vec<PortConfig> = Vec::new();
        let ifaces = self.ifaces.iter().map(|name| (name, false));
        for (name, tx_only) in ifaces.chain(self.tx_only.iter().map(|name| (name, true))) {
            match ports.iter().find(|port| port.name == *name) {
                Some(port) if port.tx_only != tx_only => errors.push(format!(
                    "`{name}` is given by `iface` and by `tx-only`; it can be one of them"
                )),
                Some(_) => {}
                None => match check_interface(name) {
                    Ok(()) => ports.push(PortConfig {
                        name: name.clone(),
                        tx_only,
                        mpls: !tx_only,
                        checksum: None,
                    }),
                    Err(error) => errors.push(error.to_string()),
                },
            }
        }
        self.set_checksums(&mut ports, errors);
        if let Some(local) = &self.local {
            if let Err(error) = check_new_interface(local) {
                errors.push(error.to_string());
            } else if self.ifaces.iter().chain(&self.tx_only).any(|name| name == local) {
                errors.push(format!(
                    "`{local}` is given by `local`, which makes it, and by `iface` or `tx-only`, which take what is there"
                ));
            }
        }
        if ports.is_empty() && errors.is_empty() {
            errors.push("no interface: name at least one, by `--iface IFACE` or by `iface` in the config file".into());
        }
        let count = ports.len() + usize::from(self.local.is_some());
        if count > MAX_PORTS as usize {
            errors.push(format!("{count} interfaces; at most {MAX_PORTS} are supported"));
        }
        ports
    }

    /// What is said of one interface counts before what is said of all.
    fn set_checksums(&self, ports: &mut [PortConfig], errors: &mut Vec<String>) {
        let (mut all, mut ones) = (None, HashMap::new());
        for text in &self.checksums {
            let (name, mode) = match text.rsplit_once('=') {
                Some((name, mode)) => (Some(name), mode),
                None => (None, text.as_str()),
            };
            match (name, mode.parse::<Checksum>()) {
                (_, Err(error)) => errors.push(error),
                (None, Ok(mode)) => all = Some(mode),
                (Some(name), Ok(mode)) => {
                    ones.insert(name, mode);
                }
            }
        }
        for port in ports.iter_mut() {
            port.checksum = ones.remove(&*port.name).or(all);
        }
        let mut strangers: Vec<_> = ones.into_keys().collect();
        strangers.sort_unstable();
        errors.extend(strangers.into_iter().map(|name| {
            format!(
                "`checksum` names `{name}`, which is not an interface that is loaded: add it to `iface` or `tx-only`"
            )
        }));
    }

    /// One address of each family, each of which a packet can come from.
    fn icmp_sources(&self, errors: &mut Vec<String>) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let (mut v4, mut v6) = (None, None);
        for &address in &self.icmp_source {
            if let Err(reason) = check_source(address) {
                errors.push(reason);
            }
            let first: Option<IpAddr> = match address {
                IpAddr::V4(address) => v4.replace(address).map(Into::into),
                IpAddr::V6(address) => v6.replace(address).map(Into::into),
            };
            if let Some(first) = first.filter(|first| *first != address) {
                errors.push(format!(
                    "`icmp-source` is {first} and {address}; it can be one address of each family"
                ));
            }
        }
        (v4, v6)
    }
}

fn check_routes(routes: &[PlacedRoute], labels: u32, errors: &mut Vec<String>) {
    let mut places: HashMap<RouteKey, &str> = HashMap::with_capacity(routes.len());
    for PlacedRoute { route, place } in routes {
        let key = route.key();
        if let Some(first) = places.insert(key, place) {
            errors.push(format!("{place}: {key} has a route already, at {first}"));
        }
        if let RouteKey::Label(label) = key
            && label.get() >= labels
        {
            errors.push(format!("{place}: label {label} is beyond `labels`, which is {labels}"));
        }
    }
}

/// Whether an ICMP error can come from `address` and go through routers (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5).
fn check_source(address: IpAddr) -> Result<(), String> {
    let unicast = match address {
        IpAddr::V4(v4) => !(v4.octets()[0] == 0 || v4.is_loopback() || v4.octets()[0] >= 224),
        IpAddr::V6(v6) => {
            let special = v6.is_unspecified() || v6.is_loopback() || v6.is_multicast();
            !(special || v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some())
        }
    };
    if unicast {
        Ok(())
    } else {
        Err(format!(
            "`icmp-source` is {address}; it must be a unicast address of this box that others know, as 192.0.2.1 or 2001:db8::1"
        ))
    }
}

/// The range as clap counts.
fn range(range: RangeInclusive<impl Copy + Into<i64>>) -> RangeInclusive<i64> {
    (*range.start()).into()..=(*range.end()).into()
}

/// All that is wrong, one line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

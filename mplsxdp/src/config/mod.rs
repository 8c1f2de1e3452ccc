//! What `load` loads: the options of the command line and the config file, and the checks that they must pass together
//! before anything starts.

mod error;
pub mod file;
mod options;
mod sync;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches as _};
use mplsxdp_common::abi::MAX_PORTS;
use serde_json::Value;

use crate::control::Instance;
use crate::control::api::Checksum;
use crate::dataplane::class_maps::{DscpMap, TcMap};
use crate::dataplane::label_ranges::AcceptLabels;
use crate::dataplane::mpls_mtu::MplsMtu;
use crate::dataplane::port_change::PortChange;
use crate::rib::Preferences;
use crate::route::interface::{check_interface, check_new_interface};
use crate::route::{Route, RouteKey};
pub use error::{ConfigError, Problem, Reason};
pub use options::{DEFAULT_LOCAL, Options};
pub use sync::{Span, SyncSource, SyncTable};
pub use values::{
    ChecksumMode, Number, PortLabels, PortMap, PortMplsMtu, PortPair, Preference, Rate, TtlPropagation, UnknownPolicy,
};

/// The burst that a rate limit per second allows: 50 ms of it, and at least 50.
pub const fn burst(per_second: u32) -> u32 {
    let burst = per_second / 20;
    if burst < 50 { 50 } else { burst }
}

/// What to load, checked. Options can be read as its fields.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Config {
    options: Options,
    /// The config file.
    pub file: Option<PathBuf>,
    pub ports: Vec<PortConfig>,
    /// The source of ICMP errors, if it is not an address of the interface on which the packet arrived.
    pub icmp_source_v4: Option<Ipv4Addr>,
    pub icmp_source_v6: Option<Ipv6Addr>,
    pub routes: Vec<Route>,
    /// Start without what an earlier process has saved.
    pub discard_state: bool,
    /// How long a client may take to confirm the load before it is undone.
    pub confirm: Option<Duration>,
}

impl Deref for Config {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.options
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    pub name: String,
    /// Only for sending.
    pub tx_only: bool,
    /// Accepts labelled frames.
    pub mpls: bool,
    pub accept_labels: AcceptLabels,
    pub mpls_mtu: MplsMtu,
    /// The port that every frame goes to.
    pub cross_connect: Option<String>,
    pub dscp_map: DscpMap,
    pub tc_map: TcMap,
    /// How unfinished checksums are treated; `None`: the default for the kind of interface.
    pub checksum: Option<Checksum>,
}

impl PortConfig {
    /// The part of it that `link set` changes.
    pub fn settings(&self) -> PortChange {
        let receives = !self.tx_only;
        PortChange {
            mpls: receives.then_some(self.mpls),
            accept_labels: receives.then_some(self.accept_labels),
            mpls_mtu: Some(self.mpls_mtu),
            dscp_map: receives.then_some(self.dscp_map),
            tc_map: receives.then_some(self.tc_map),
        }
    }
}

impl Config {
    /// Applies those options of `new`, apart from ports, that a reload changes in a running instance. Returns the names
    /// of the other options that differ.
    pub fn reload(&mut self, new: Self) -> Vec<String> {
        let mut others = self.options.needing_restart(&new.options);
        let checksum_of = |name: &str| {
            self.ports
                .iter()
                .find(|port| port.name == name)
                .map(|port| port.checksum)
        };
        let changed = |port: &PortConfig| checksum_of(&port.name).is_some_and(|checksum| checksum != port.checksum);
        if new.ports.iter().any(changed) {
            others.push("checksum".into());
        }
        let Options {
            wait,
            no_readopt,
            guard,
            fix_peers,
            kernel_route,
            ..
        } = new.options;
        (self.options.wait, self.options.no_readopt) = (wait, no_readopt);
        (self.options.guard, self.options.fix_peers) = (guard, fix_peers);
        self.options.kernel_route = kernel_route;
        self.ports = new.ports;
        others
    }

    /// From options that were not checked.
    #[cfg(test)]
    pub(crate) fn unchecked(options: Options, ports: Vec<PortConfig>, routes: Vec<Route>) -> Self {
        Self {
            options,
            ports,
            routes,
            ..Self::default()
        }
    }

    /// The options, without defaults, with which an instance with these ports would be loaded. `waits`: a port waits
    /// for its interface.
    pub fn running(&self, ports: Vec<PortConfig>, local: Option<String>, waits: bool) -> BTreeMap<String, Value> {
        let names = |chosen: fn(&PortConfig) -> bool| {
            let chosen = ports.iter().filter(|port| chosen(port));
            chosen.map(|port| port.name.clone()).collect::<Vec<_>>()
        };
        let checksum = |port: &PortConfig| {
            Some(ChecksumMode {
                iface: Some(port.name.clone()),
                mode: port.checksum?,
            })
        };
        let accepted = |port: &PortConfig| {
            let accept = port.accept_labels;
            let iface = port.name.clone();
            accept.0.is_some().then_some(PortLabels { iface, accept })
        };
        let mpls_mtu = |port: &PortConfig| {
            let (iface, mtu) = (port.name.clone(), port.mpls_mtu);
            (!mtu.is_default()).then_some(PortMplsMtu { iface, mtu })
        };
        let leads = |from: &str, to: &str| {
            let mut from = ports.iter().filter(|port| port.name == from);
            from.any(|port| port.cross_connect.as_deref() == Some(to))
        };
        let pair = |port: &PortConfig| {
            let (from, to) = (port.name.clone(), port.cross_connect.clone()?);
            let one_way = !leads(&to, &from);
            // Of the two directions of a pair, one is listed.
            (one_way || from < to).then_some(PortPair { from, to, one_way })
        };
        let dscp_map = |port: &PortConfig| {
            let (iface, map) = (port.name.clone(), port.dscp_map);
            (!map.is_default()).then_some(PortMap { iface, map })
        };
        let tc_map = |port: &PortConfig| {
            let (iface, map) = (port.name.clone(), port.tc_map);
            (!map.is_default()).then_some(PortMap { iface, map })
        };
        let options = Options {
            iface: names(|port| !port.tx_only),
            tx_only: names(|port| port.tx_only),
            mpls_off: names(|port| !port.tx_only && !port.mpls),
            accept_labels: ports.iter().filter_map(accepted).collect(),
            mpls_mtu: ports.iter().filter_map(mpls_mtu).collect(),
            xconnect: ports.iter().filter_map(pair).collect(),
            dscp_map: ports.iter().filter_map(dscp_map).collect(),
            tc_map: ports.iter().filter_map(tc_map).collect(),
            checksum: ports.iter().filter_map(checksum).collect(),
            local,
            wait: self.options.wait || waits,
            // Its routes are among those of the instance.
            routes_file: None,
            ..self.options.clone()
        };
        options.differing()
    }

    /// The order of preference between owners' routes.
    pub fn preferences(&self) -> Preferences {
        let given = self.options.prefer.iter();
        Preferences::default().with(given.map(|preference| (preference.source, u32::from(preference.number.get()))))
    }

    /// The same without the interface for this machine's own packets.
    pub fn without_local(mut self) -> Self {
        self.options.local = None;
        self.options.kernel_route.clear();
        self
    }

    /// A copy without the routes, which may be many.
    pub fn without_routes(&self) -> Self {
        Self {
            options: self.options.clone(),
            file: self.file.clone(),
            ports: self.ports.clone(),
            routes: Vec::new(),
            ..*self
        }
    }
}

/// A position in a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1; `None`: the line as a whole.
    pub column: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        self.column.map_or(Ok(()), |column| write!(f, ":{column}"))
    }
}

/// A static route, and its position.
#[derive(Clone, PartialEq, Debug)]
pub struct PlacedRoute {
    pub route: Route,
    pub place: Place,
}

/// Options from a command line and a file, not yet checked against each other.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub options: Options,
    pub file: Option<PathBuf>,
    pub routes: Vec<PlacedRoute>,
    /// Where each option was given, for a list once for each element: `--labels`, or a position in a file.
    places: BTreeMap<String, Vec<String>>,
    /// Options whose values are not valid.
    unread: BTreeSet<String>,
    /// The errors found so far.
    errors: Vec<Problem>,
}

impl Given {
    /// Puts the command line of `load` over a file. Lists have the values of both.
    pub fn with_command_line(mut self, matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut line = Options::default();
        line.update_from_arg_matches(matches)?;
        let file = self.options.clone();
        self.options.update_from_arg_matches(matches)?;
        if line.verbose == 0 {
            self.options.verbose = file.verbose;
        }
        let mut line_places = BTreeMap::new();
        for id in matches.ids() {
            if matches.value_source(id.as_str()) == Some(ValueSource::CommandLine) {
                let name = id.as_str().replace('_', "-");
                let count = matches.get_raw(id.as_str()).map_or(1, Iterator::count);
                line_places.insert(name.clone(), vec![format!("--{name}"); count]);
            }
        }
        // Each family by itself.
        let is_replaced = |address: &IpAddr| {
            line.icmp_source
                .iter()
                .any(|other| other.is_ipv4() == address.is_ipv4())
        };
        let sources = self.places.remove("icmp-source").unwrap_or_default();
        let kept = file.icmp_source.iter().zip(sources);
        let (kept, places) = kept.filter(|(address, _)| !is_replaced(address)).unzip();
        self.places.insert("icmp-source".into(), places);

        // Each owner by itself.
        let is_replaced = |preference: &Preference| line.prefer.iter().any(|other| other.source == preference.source);
        let preferences = self.places.remove("prefer").unwrap_or_default();
        let preferences = file.prefer.iter().zip(preferences);
        let (preferred, places) = preferences.filter(|(preference, _)| !is_replaced(preference)).unzip();
        self.places.insert("prefer".into(), places);

        let options = &mut self.options;
        options.prefer = [line.prefer, preferred].concat();
        options.iface = [line.iface, file.iface].concat();
        options.tx_only = [line.tx_only, file.tx_only].concat();
        options.mpls_off = [line.mpls_off, file.mpls_off].concat();
        options.xconnect = [line.xconnect, file.xconnect].concat();
        options.kernel_route = [line.kernel_route, file.kernel_route].concat();
        options.icmp_source = [line.icmp_source, kept].concat();
        options.sync = [line.sync, file.sync].concat();
        options.sync_table = [line.sync_table, file.sync_table].concat();
        options.metrics_allow = [line.metrics_allow, file.metrics_allow].concat();
        // The last one wins.
        options.accept_labels = [file.accept_labels, line.accept_labels].concat();
        options.mpls_mtu = [file.mpls_mtu, line.mpls_mtu].concat();
        options.dscp_map = [file.dscp_map, line.dscp_map].concat();
        options.tc_map = [file.tc_map, line.tc_map].concat();
        options.checksum = [file.checksum, line.checksum].concat();
        for (name, of_line) in line_places {
            let of_file = self.places.remove(&name).unwrap_or_default();
            let places = match name.as_str() {
                "iface" | "tx-only" | "mpls-off" | "xconnect" | "kernel-route" | "icmp-source" | "prefer" | "sync"
                | "sync-table" | "metrics-allow" => [of_line, of_file].concat(),
                "accept-labels" | "mpls-mtu" | "dscp-map" | "tc-map" | "checksum" => [of_file, of_line].concat(),
                _ => of_line,
            };
            self.places.insert(name, places);
        }
        Ok(self)
    }

    /// Adds an error, for [`Given::check`] to report with the rest.
    pub fn refuse(&mut self, problem: impl Into<Problem>) {
        self.errors.push(problem.into());
    }

    /// Checks that everything fits together. The error names all problems.
    pub fn check(mut self) -> Result<Config, ConfigError> {
        let ports = self.ports();
        let (icmp_source_v4, icmp_source_v6) = self.icmp_sources();
        self.check_preferences();
        self.check_kernel_routes();
        self.check_sync();
        self.check_metrics();
        self.check_routes();
        if let Err(error) = Instance::new(&self.options.instance) {
            self.refuse_option("instance", 0, error);
        }
        if !self.errors.is_empty() {
            return Err(ConfigError(self.errors));
        }
        Ok(Config {
            options: self.options,
            file: self.file,
            confirm: None,
            ports,
            icmp_source_v4,
            icmp_source_v6,
            routes: self.routes.into_iter().map(|placed| placed.route).collect(),
            discard_state: false,
        })
    }

    /// `index`: the element of a list.
    fn refuse_option(&mut self, option: &str, index: usize, reason: impl Into<Reason>) {
        let places = self.places.get(option);
        let place = places.and_then(|places| places.get(index).or(places.last()));
        self.errors.push(Problem {
            place: place.map(|place| place.as_str().into()),
            reason: reason.into(),
        });
    }

    /// Each interface once, in the order given.
    fn ports(&mut self) -> Vec<PortConfig> {
        let mut ports: Vec<PortConfig> = Vec::new();
        for (option, tx_only) in [("iface", false), ("tx-only", true)] {
            let names = if tx_only {
                self.options.tx_only.clone()
            } else {
                self.options.iface.clone()
            };
            for (index, name) in names.into_iter().enumerate() {
                match ports.iter().find(|port| port.name == name) {
                    Some(port) if port.tx_only != tx_only => {
                        self.refuse_option(option, index, Reason::TxOnlyToo(name));
                    }
                    Some(_) => {}
                    None => match check_interface(&name) {
                        Ok(()) => ports.push(PortConfig {
                            name,
                            tx_only,
                            mpls: !tx_only,
                            accept_labels: AcceptLabels::default(),
                            mpls_mtu: MplsMtu::default(),
                            cross_connect: None,
                            dscp_map: DscpMap::default(),
                            tc_map: TcMap::default(),
                            checksum: None,
                        }),
                        Err(error) => self.refuse_option(option, index, error),
                    },
                }
            }
        }
        self.set_mpls(&mut ports);
        self.set_accepted_labels(&mut ports);
        self.set_mpls_mtus(&mut ports);
        self.set_cross_connects(&mut ports);
        self.set_class_maps(&mut ports);
        self.set_checksums(&mut ports);
        if let Some(local) = self.options.local.clone() {
            if let Err(error) = check_new_interface(&local) {
                self.refuse_option("local", 0, error);
            } else if ports.iter().any(|port| port.name == local) {
                self.refuse_option("local", 0, Reason::LocalIsPort(local));
            }
        }
        if ports.is_empty() && self.errors.is_empty() {
            self.refuse(Reason::NoInterface);
        }
        let count = ports.len() + usize::from(self.options.local.is_some());
        if count > MAX_PORTS as usize {
            self.refuse(Reason::TooManyInterfaces(count));
        }
        ports
    }

    /// Each kind of source once. The kernel has the same routes, so frames are treated as it treats them by default.
    fn check_sync(&mut self) {
        for (index, source) in self.options.sync.clone().into_iter().enumerate() {
            let mut before = self.options.sync.iter().take(index);
            if before.any(|other| other.name() == source.name()) {
                self.refuse_option("sync", index, Reason::SourceTwice(source.name()));
            }
        }
        let backups = self
            .options
            .sync
            .iter()
            .position(|source| source.frr_directory().is_some());
        if let Some(index) = backups
            && self.options.sync.iter().all(|source| source.frr_directory().is_some())
        {
            self.refuse_option("sync", index, Reason::BackupsWithoutRoutes);
        }
        if self.options.sync.is_empty() {
            if !self.options.sync_table.is_empty() {
                self.refuse_option("sync-table", 0, Reason::TableWithoutSource);
            }
            return;
        }
        if !self.places.contains_key("unknown") {
            self.options.unknown = UnknownPolicy::Pass;
        }
    }

    /// Metrics at an address that others can reach are for named clients only.
    fn check_metrics(&mut self) {
        if self.unread.contains("metrics") || self.unread.contains("metrics-allow") {
            return;
        }
        let has_clients = !self.options.metrics_allow.is_empty();
        match self.options.metrics.clone() {
            Some(address) if address.is_reachable() && !has_clients => {
                self.refuse_option("metrics", 0, Reason::MetricsForAll(address));
            }
            Some(address) if address.is_reachable() => {}
            _ if has_clients => self.refuse_option("metrics-allow", 0, Reason::MetricsAllow),
            _ => {}
        }
        if self.options.metrics.is_none() && self.options.metrics_routes.is_some() {
            self.refuse_option("metrics-routes", 0, Reason::MetricsRoutes);
        }
    }

    /// Whether every interface that was given is known.
    fn knows_interfaces(&self) -> bool {
        !self.unread.contains("iface") && !self.unread.contains("tx-only")
    }

    fn set_mpls(&mut self, ports: &mut [PortConfig]) {
        for (index, name) in self.options.mpls_off.clone().into_iter().enumerate() {
            match ports.iter_mut().find(|port| port.name == name) {
                Some(port) if !port.tx_only => port.mpls = false,
                _ if self.knows_interfaces() => self.refuse_option("mpls-off", index, Reason::MplsOff(name)),
                _ => {}
            }
        }
    }

    fn set_accepted_labels(&mut self, ports: &mut [PortConfig]) {
        for (index, PortLabels { iface, accept }) in self.options.accept_labels.clone().into_iter().enumerate() {
            match ports.iter_mut().find(|port| port.name == iface) {
                Some(port) if !port.tx_only => port.accept_labels = accept,
                _ if self.knows_interfaces() => {
                    self.refuse_option("accept-labels", index, Reason::AcceptLabels(iface));
                }
                _ => {}
            }
        }
    }

    fn set_mpls_mtus(&mut self, ports: &mut [PortConfig]) {
        for (index, PortMplsMtu { iface, mtu }) in self.options.mpls_mtu.clone().into_iter().enumerate() {
            match ports.iter_mut().find(|port| port.name == iface) {
                Some(port) => port.mpls_mtu = mtu,
                None if self.knows_interfaces() => self.refuse_option("mpls-mtu", index, Reason::MplsMtu(iface)),
                None => {}
            }
        }
    }

    fn set_cross_connects(&mut self, ports: &mut [PortConfig]) {
        for (index, PortPair { from, to, one_way }) in self.options.xconnect.clone().into_iter().enumerate() {
            let mut directions = vec![(&from, &to)];
            directions.extend((!one_way).then_some((&to, &from)));
            for (from, to) in directions {
                let knows = |name: &str| ports.iter().find(|port| port.name == name).map(|port| port.tx_only);
                let reason = match (knows(from), knows(to)) {
                    _ if from == to => Reason::CrossConnectedWithItself(from.clone()),
                    (Some(true), _) => Reason::CrossConnectedTxOnly(from.clone()),
                    (Some(false), Some(_)) => {
                        let Some(port) = ports.iter_mut().find(|port| port.name == *from) else {
                            continue;
                        };
                        match port.cross_connect.replace(to.clone()) {
                            Some(before) if before != *to => {
                                Reason::CrossConnectedTwice(from.clone(), before, to.clone())
                            }
                            _ => continue,
                        }
                    }
                    _ if !self.knows_interfaces() => continue,
                    (None, _) => Reason::CrossConnected(from.clone()),
                    (_, None) => Reason::CrossConnected(to.clone()),
                };
                self.refuse_option("xconnect", index, reason);
            }
        }
    }

    fn set_class_maps(&mut self, ports: &mut [PortConfig]) {
        for (index, PortMap { iface, map }) in self.options.dscp_map.clone().into_iter().enumerate() {
            match ports.iter_mut().find(|port| port.name == iface) {
                Some(port) if !port.tx_only => port.dscp_map = map,
                _ if self.knows_interfaces() => {
                    self.refuse_option("dscp-map", index, Reason::ClassMap("dscp-map", iface));
                }
                _ => {}
            }
        }
        for (index, PortMap { iface, map }) in self.options.tc_map.clone().into_iter().enumerate() {
            match ports.iter_mut().find(|port| port.name == iface) {
                Some(port) if !port.tx_only => port.tc_map = map,
                _ if self.knows_interfaces() => {
                    self.refuse_option("tc-map", index, Reason::ClassMap("tc-map", iface));
                }
                _ => {}
            }
        }
    }

    /// The mode of one interface overrides the mode of all.
    fn set_checksums(&mut self, ports: &mut [PortConfig]) {
        let (mut all, mut each) = (None, BTreeMap::new());
        for (index, ChecksumMode { iface, mode }) in self.options.checksum.clone().into_iter().enumerate() {
            match iface {
                None => all = Some(mode),
                Some(iface) => {
                    each.insert(iface, (index, mode));
                }
            }
        }
        for port in ports.iter_mut() {
            port.checksum = each.remove(&port.name).map(|(_, mode)| mode).or(all);
        }
        if !self.knows_interfaces() {
            return;
        }
        for (name, (index, _)) in each {
            self.refuse_option("checksum", index, Reason::Checksum(name));
        }
    }

    /// At most one address of each family, each of which can be the source of a packet.
    fn icmp_sources(&mut self) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let (mut v4, mut v6) = (None, None);
        for (index, address) in self.options.icmp_source.clone().into_iter().enumerate() {
            if !is_source(address) {
                self.refuse_option("icmp-source", index, Reason::IcmpSource(address));
            }
            let first: Option<IpAddr> = match address {
                IpAddr::V4(address) => v4.replace(address).map(Into::into),
                IpAddr::V6(address) => v6.replace(address).map(Into::into),
            };
            if let Some(first) = first.filter(|first| *first != address) {
                self.refuse_option("icmp-source", index, Reason::IcmpSources(first, address));
            }
        }
        (v4, v6)
    }

    fn check_preferences(&mut self) {
        let mut seen = BTreeMap::new();
        for (index, preference) in self.options.prefer.clone().into_iter().enumerate() {
            if let Some(first) = seen.insert(preference.source, preference) {
                self.refuse_option("prefer", index, Reason::Preferences(first, preference));
            }
        }
    }

    fn check_kernel_routes(&mut self) {
        let routes = self.options.kernel_route.clone();
        if self.options.local.is_none() && !routes.is_empty() && !self.unread.contains("local") {
            self.refuse_option("kernel-route", 0, Reason::KernelRouteWithoutLocal);
        }
        let mut prefixes = BTreeSet::new();
        for (index, route) in routes.iter().enumerate() {
            if !prefixes.insert(route.prefix) {
                self.refuse_option("kernel-route", index, Reason::KernelRouteTwice(route.prefix));
            }
        }
    }

    fn check_routes(&mut self) {
        let labels = self.options.labels.get();
        let mut places: HashMap<RouteKey, &Place> = HashMap::with_capacity(self.routes.len());
        for PlacedRoute { route, place } in &self.routes {
            let key = route.key();
            if let Some(first) = places.insert(key, place) {
                let first = first.clone();
                self.errors.push(Problem::at(place, Reason::RouteTwice { key, first }));
            }
            if let RouteKey::Label(label) = key
                && label.get() >= labels
            {
                self.errors
                    .push(Problem::at(place, Reason::LabelBeyond { label, labels }));
            }
        }
    }
}

/// Whether an ICMP error from `address` can pass through routers (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5).
fn is_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.octets()[0] == 0 || v4.is_loopback() || v4.octets()[0] >= 224),
        IpAddr::V6(v6) => {
            let special = v6.is_unspecified() || v6.is_loopback() || v6.is_multicast();
            !(special || v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some())
        }
    }
}

//! What is found out about the machine, its interfaces and the instance, without changing anything.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::losses::{self, Counter, Losses, Watch};
use super::route_table;
use crate::config::SyncSource;
use crate::control::api::Checksum;
use crate::control::client::{self, Client, ClientError};
use crate::control::{DEFAULT_INSTANCE, Instance as Name, api};
use crate::dataplane::XdpMode;
use crate::dataplane::pinned::PinFolder;
use crate::kernel::{Netlink, ethtool, netns, sysctl};
use crate::neighbour::LinkInfo;
use crate::ports::local;
use crate::ports::preflight::{self, Capabilities, Facts, PreflightError};

/// What concerns all interfaces.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Of the kernel.
    pub release: String,
    pub missing_capabilities: Vec<&'static str>,
    /// By their paths beneath `/proc/sys/net`.
    pub settings: HashMap<String, u32>,
    /// Of IPv4 and IPv6.
    pub neighbour_tables: Option<[NeighbourTable; 2]>,
    /// Local pairs of instances that do not run, and the instances.
    pub leftover_pairs: Vec<(Arc<str>, String)>,
    /// The interfaces of default routes.
    pub default_routes: Vec<String>,
    /// The beginning of a command in the network namespace that is looked at.
    pub prefix: String,
}

/// The kernel's neighbour table of one family, for all network namespaces together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NeighbourTable {
    /// `gc_thresh3`.
    pub limit: u32,
    /// How often it had no room for a new entry, since the machine has booted.
    pub was_full: u64,
}

/// The running instance.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: String,
    pub mode: XdpMode,
    pub follows_kernel: bool,
    pub links: Vec<api::Link>,
    /// Its network namespace, and the name of that.
    pub netns_inode: u64,
    pub netns: Option<String>,
}

/// A port of the running instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    pub checksum: Checksum,
    /// Why it does not work.
    pub problem: Option<String>,
    /// Exceptions that reached no socket.
    pub unheard: u64,
}

/// One interface.
pub struct Interface {
    pub facts: Facts,
    pub mode: XdpMode,
    /// If it is a port.
    pub port: Option<Port>,
    /// How many receive queues it has.
    pub queues: io::Result<u32>,
    /// LRO; `None` if that is unknown.
    pub merges_in_hardware: Option<bool>,
    /// The driver's counters of lost XDP frames.
    pub counters: io::Result<Vec<Counter>>,
    /// `None` if it has no program.
    pub losses: Option<io::Result<Losses>>,
    /// The beginning of a command in its network namespace.
    pub prefix: String,
    /// The command of a client of the instance.
    pub client: String,
}

impl Instance {
    /// Asks a running instance.
    pub fn ask(client: &mut Client) -> Result<Self, ClientError> {
        let config = client.config()?;
        let sources = config.get("sync").cloned().unwrap_or_default();
        let sources: Vec<SyncSource> = serde_json::from_value(sources).unwrap_or_default();
        let status = client.status()?;
        Ok(Self {
            mode: match status.mode.as_str() {
                "generic" => XdpMode::Generic,
                _ => XdpMode::Native,
            },
            name: status.instance,
            follows_kernel: sources.contains(&SyncSource::Kernel),
            links: client.links(true)?,
            netns_inode: status.netns_inode,
            netns: status.netns,
        })
    }
}

/// Gathers everything in the network namespace of this thread. `names` are the interfaces to look at; if there are none,
/// the ports of the instance, or else all interfaces. `tables` are the [`neighbour_tables`] if they are known.
/// Losses are counted for the time `watch`.
pub async fn gather(
    names: &[String],
    instance: Option<&Instance>,
    prefix: &str,
    tables: Option<[NeighbourTable; 2]>,
    watch: Duration,
) -> Result<(Machine, Vec<Interface>), PreflightError> {
    let netlink = Netlink::open_requests()?;
    let links = netlink.links().await?;
    let names = match (names, instance) {
        ([], Some(instance)) => ports(instance),
        ([], None) => {
            let others = links.iter().filter(|link| !link.loopback);
            others.map(|link| link.name.to_string()).collect()
        }
        (names, _) => names.to_vec(),
    };
    let mut interfaces = Vec::new();
    for name in &names {
        interfaces.push(interface(name, instance, prefix, &netlink).await?);
    }
    count_losses(&mut interfaces, watch).await;
    let machine = Machine {
        release: nix::sys::utsname::uname().map_or_else(
            |_| "of an unknown release".to_owned(),
            |name| name.release().to_string_lossy().into_owned(),
        ),
        missing_capabilities: preflight::missing_capabilities()?,
        settings: settings(&names),
        neighbour_tables: match tables {
            Some(tables) => Some(tables),
            None => first_tables().await,
        },
        leftover_pairs: leftover_pairs(&links, &netlink).await,
        default_routes: default_routes(),
        prefix: prefix.to_owned(),
    };
    Ok((machine, interfaces))
}

/// The interfaces that have the instance's program, or wait for it.
fn ports(instance: &Instance) -> Vec<String> {
    let own = instance.links.iter().filter(|link| link.parent.is_none());
    own.map(|link| link.ifname.clone()).collect()
}

async fn interface(
    name: &str,
    instance: Option<&Instance>,
    prefix: &str,
    netlink: &Netlink,
) -> Result<Interface, PreflightError> {
    let mut facts = preflight::gather(name, netlink).await?;
    facts.look_at_peer(netlink).await;
    // That this user lacks some is said once.
    facts.capabilities = Capabilities::ALL;
    let link = instance.and_then(|instance| instance.links.iter().find(|link| link.ifname == name));
    let instance_option = match instance.map(|instance| instance.name.as_str()) {
        None | Some(DEFAULT_INSTANCE) => String::new(),
        Some(name) => format!(" --instance {name}"),
    };
    let unheard = |link: &api::Link| {
        let reasons = link.counters.iter().flat_map(|counters| &counters.reasons);
        reasons.map(|reason| reason.unheard).sum()
    };
    Ok(Interface {
        mode: instance.map_or(XdpMode::default(), |instance| instance.mode),
        port: link.map(|link| Port {
            checksum: link.checksum,
            problem: link.problem.clone(),
            unheard: unheard(link),
        }),
        queues: ethtool::receive_queues(name),
        merges_in_hardware: ethtool::merges_in_hardware(name).ok(),
        counters: Ok(Vec::new()),
        losses: None,
        prefix: prefix.to_owned(),
        client: format!("mplsxdp{instance_option}"),
        facts,
    })
}

/// Counts all interfaces' losses at the same time.
async fn count_losses(interfaces: &mut [Interface], watch: Duration) {
    let begun: Vec<_> = interfaces
        .iter()
        .map(|interface| {
            let program = interface
                .facts
                .link
                .as_ref()
                .and_then(|link| link.xdp)
                .map(|xdp| xdp.program);
            let watch = program.map(Watch::begin);
            (watch, losses::statistics(&interface.facts.name))
        })
        .collect();
    tokio::time::sleep(watch).await;
    for (interface, (watching, before)) in interfaces.iter_mut().zip(begun) {
        interface.losses = watching.map(|watching| watching?.end(watch));
        interface.counters = before.and_then(|before| {
            let after = losses::statistics(&interface.facts.name)?;
            Ok(losses::counters(&before, &after))
        });
    }
}

fn settings(names: &[String]) -> HashMap<String, u32> {
    let of_interfaces = names
        .iter()
        .flat_map(|name| [format!("ipv4/conf/{name}/rp_filter"), format!("mpls/conf/{name}/input")]);
    let of_machine = [
        "core/bpf_jit_enable",
        "ipv4/ip_forward",
        "ipv4/conf/all/rp_filter",
        "ipv6/conf/all/forwarding",
        "mpls/platform_labels",
    ];
    let keys = of_machine.into_iter().map(str::to_owned).chain(of_interfaces);
    keys.filter_map(|key| sysctl::read(&key).map(|value| (key, value)))
        .collect()
}

/// Those of IPv4 and IPv6, in the network namespace of this thread. Only the first one has these settings.
pub fn neighbour_tables() -> Option<[NeighbourTable; 2]> {
    let read = |family: &str, statistics: &str| {
        let rows = fs::read_to_string(format!("/proc/thread-self/net/stat/{statistics}"));
        Some(NeighbourTable {
            limit: sysctl::read(&format!("{family}/neigh/default/gc_thresh3"))?,
            was_full: rows.map_or(0, |rows| was_full(&rows)),
        })
    };
    let v6 = read("ipv6", "ndisc_cache").unwrap_or(NeighbourTable {
        limit: u32::MAX,
        was_full: 0,
    });
    Some([read("ipv4", "arp_cache")?, v6])
}

/// `table_fulls`, which is the last column: a row for each CPU, in hexadecimal.
pub(super) fn was_full(rows: &str) -> u64 {
    let counts = rows.lines().skip(1).filter_map(|row| row.split_whitespace().last());
    counts.filter_map(|count| u64::from_str_radix(count, 16).ok()).sum()
}

/// Those of the first network namespace, if this process may enter it.
async fn first_tables() -> Option<[NeighbourTable; 2]> {
    let first = File::open("/proc/1/ns/net").ok()?;
    netns::within(first, || Ok(neighbour_tables())).await.ok().flatten()
}

async fn leftover_pairs(links: &[LinkInfo], netlink: &Netlink) -> Vec<(Arc<str>, String)> {
    let mut found = Vec::new();
    for link in links {
        let Some(owner) = local::owner(link, netlink).await else {
            continue;
        };
        let runs = Name::new(&owner).is_ok_and(|owner| client::is_starting(&owner));
        // One that does not run but forwards still uses its pair.
        if !runs && !PinFolder::of(&owner).is_used() {
            found.push((link.name.clone(), owner));
        }
    }
    found
}

fn default_routes() -> Vec<String> {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let mut found = route_table::default_v4(&read("route"));
    found.extend(route_table::default_v6(&read("ipv6_route")));
    found
}

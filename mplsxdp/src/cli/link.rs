//! `link` and `neigh`: ports, and the next hops behind them.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use mplsxdp_common::abi::{REDIRECT_LOST, Reason};
use mplsxdp_common::wire::Mac;
use serde::Serialize;

use super::output::{Output, aligned};
use super::{Failure, Session, verb};
use crate::control::api::{
    AddLink, BackupState, Checksum, KernelCounters, KernelNeighbor, Link, LinkCounters, NextHopState, ReasonCounter,
    SetLink, ViaAddress, ViaFamily,
};
use crate::kernel::netns::shell_prefix;

pub const HELP: &str = "\
Verbs:
  link show [IFACE]               -s: the kernel's counters, and exceptions by reason
  link add IFACE [tx-only] [accept-labels RANGES] [mpls-mtu BYTES] [dscp-map MAP] [tc-map MAP]
           [checksum {finish|trust}]
                                  make an interface, or a VLAN on it (eth1.100, eth1.100.10), a port
  link del IFACE                  remove the port; the interface stays
  link set IFACE [mpls {on|off}] [accept-labels {all|RANGES}] [mpls-mtu {BYTES|default}]
           [dscp-map {DSCP=TC,..|default}] [tc-map {TC=DSCP,..|default}]
                                  accept labelled frames, those with some labels (100-199,300), or none;
                                  mpls-mtu: the largest labelled packet that may leave, label stack included;
                                  dscp-map: the TC of labels imposed on packets that arrive (46=5,34=4);
                                  tc-map: the DSCP of packets that lose their last label (5=46,4=34);
                                  use `ip link set` for the rest";

pub const NEIGH_HELP: &str = "\
Verbs:
  neigh show [ADDRESS] [dev IFACE]    -s: with times and probes, like `ip -s neigh`

Next hops come and go with the routes that use them. Use `ip neigh` to change the kernel's entries.";

#[derive(Clone, Copy)]
enum Verb {
    Show,
    Add,
    Delete,
    Set,
}

const VERBS: &[(&str, Verb)] = &[
    ("add", Verb::Add),
    ("set", Verb::Set),
    ("show", Verb::Show),
    ("list", Verb::Show),
    ("lst", Verb::Show),
    ("ls", Verb::Show),
    ("delete", Verb::Delete),
];

pub fn link(words: &[String], session: &mut Session) -> Result<(), Failure> {
    let mut words = words.iter().map(String::as_str);
    let word = words.next().unwrap_or("show");
    let Some(verb) = verb(word, VERBS) else {
        return Err(Failure::Usage(format!("`{word}` is not a verb of `link`\n{HELP}")));
    };
    // As with iproute2, `dev` before the name is optional.
    let words: Vec<_> = words
        .enumerate()
        .filter(|pair| *pair != (0, "dev"))
        .map(|(_, word)| word)
        .collect();
    let invalid = || Failure::Usage(format!("invalid arguments for `link {word}`\n{HELP}"));
    match (verb, words.as_slice()) {
        (Verb::Show, []) => show(None, session),
        (Verb::Show, [name]) => show(Some(name), session),
        (Verb::Add, [name, options @ ..]) => {
            let add = add_options(name, options)?.ok_or_else(invalid)?;
            Ok(session.client()?.add_link(&add)?)
        }
        (Verb::Delete, [name]) => Ok(session.client()?.delete_link(name)?),
        (Verb::Set, [name, options @ ..]) => {
            let set = set_options(name, options)?.ok_or_else(invalid)?;
            Ok(session.client()?.set_link(&set)?)
        }
        _ => Err(invalid()),
    }
}

/// The options of `link add` after the name, in any order; `None` if there is anything else.
fn add_options(name: &str, mut words: &[&str]) -> Result<Option<AddLink>, Failure> {
    let mut add = AddLink {
        ifname: name.to_owned(),
        tx_only: None,
        accept_labels: None,
        mpls_mtu: None,
        dscp_map: None,
        tc_map: None,
        checksum: None,
    };
    loop {
        words = match words {
            [] => return Ok(Some(add)),
            ["tx-only", rest @ ..] if add.tx_only.is_none() => {
                add.tx_only = Some(true);
                rest
            }
            ["accept-labels", value, rest @ ..] if add.accept_labels.is_none() => {
                add.accept_labels = Some(parsed(value)?);
                rest
            }
            ["mpls-mtu", value, rest @ ..] if add.mpls_mtu.is_none() => {
                add.mpls_mtu = Some(parsed(value)?);
                rest
            }
            ["dscp-map", value, rest @ ..] if add.dscp_map.is_none() => {
                add.dscp_map = Some(parsed(value)?);
                rest
            }
            ["tc-map", value, rest @ ..] if add.tc_map.is_none() => {
                add.tc_map = Some(parsed(value)?);
                rest
            }
            ["checksum", value, rest @ ..] if add.checksum.is_none() => {
                add.checksum = Some(parsed(value)?);
                rest
            }
            _ => return Ok(None),
        }
    }
}

/// Those of `link set`, of which there must be one.
fn set_options(name: &str, mut words: &[&str]) -> Result<Option<SetLink>, Failure> {
    let mut set = SetLink {
        ifname: name.to_owned(),
        mpls: None,
        accept_labels: None,
        mpls_mtu: None,
        dscp_map: None,
        tc_map: None,
    };
    let has_options = !words.is_empty();
    loop {
        words = match words {
            [] => return Ok(has_options.then_some(set)),
            ["mpls", value @ ("on" | "off"), rest @ ..] if set.mpls.is_none() => {
                set.mpls = Some(*value == "on");
                rest
            }
            ["accept-labels", value, rest @ ..] if set.accept_labels.is_none() => {
                set.accept_labels = Some(parsed(value)?);
                rest
            }
            ["mpls-mtu", value, rest @ ..] if set.mpls_mtu.is_none() => {
                set.mpls_mtu = Some(parsed(value)?);
                rest
            }
            ["dscp-map", value, rest @ ..] if set.dscp_map.is_none() => {
                set.dscp_map = Some(parsed(value)?);
                rest
            }
            ["tc-map", value, rest @ ..] if set.tc_map.is_none() => {
                set.tc_map = Some(parsed(value)?);
                rest
            }
            _ => return Ok(None),
        }
    }
}

fn parsed<T: FromStr<Err: Display>>(word: &str) -> Result<T, Failure> {
    word.parse().map_err(|error: T::Err| Failure::Usage(error.to_string()))
}

pub fn neigh(words: &[String], session: &mut Session) -> Result<(), Failure> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (address, dev) = match words.split_first() {
        None => (None, None),
        Some((&word, rest)) if matches!(verb(word, VERBS), Some(Verb::Show)) => chosen_neighbours(rest)
            .ok_or_else(|| Failure::Usage(format!("invalid arguments for `neigh {word}`\n{NEIGH_HELP}")))?,
        Some((word, _)) => {
            return Err(Failure::Usage(format!(
                "`{word}` is not a verb of `neigh`\n{NEIGH_HELP}"
            )));
        }
    };
    let style = session.out.style;
    let mut neighbors = session.client()?.neighbors(style.stats)?;
    if let Some(dev) = dev {
        neighbors.retain(|neighbor| neighbor.dev.as_deref() == Some(dev));
        if neighbors.is_empty() {
            port(session.client()?.links(false)?, dev)?;
        }
    }
    neighbors.retain(|neighbor| address.is_none_or(|address| *neighbor.via.host == *address));
    let out = &mut session.out;
    if style.json {
        return out.json(&neighbors.into_iter().map(JsonNeighbor::from).collect::<Vec<_>>());
    }
    neighbors.iter().try_for_each(|neighbor| {
        let kernel = neighbor.kernel.as_ref().map(kernel).unwrap_or_default();
        let line = if style.brief {
            brief_next_hop(neighbor)
        } else {
            neighbor_line(neighbor)
        };
        out.line(&format!("{line}{kernel}"))
    })
}

/// A next hop, on one line.
pub fn neighbor_line(neighbor: &NextHopState) -> String {
    let NextHopState { via: of, routes, .. } = neighbor;
    format!("{} {} routes {routes}", via(of), next_hop(neighbor))
}

/// The address and the interface, in any order; `None` if there are other words.
fn chosen_neighbours<'a>(mut words: &[&'a str]) -> Option<(Option<&'a str>, Option<&'a str>)> {
    let (mut address, mut dev) = (None, None);
    loop {
        words = match *words {
            [] => return Some((address, dev)),
            ["dev", name, ref rest @ ..] if dev.is_none() => {
                dev = Some(name);
                rest
            }
            ["to", word, ref rest @ ..] | [word, ref rest @ ..] if address.is_none() && is_address(word) => {
                address = Some(word);
                rest
            }
            _ => return None,
        }
    }
}

fn is_address(word: &str) -> bool {
    word.parse::<IpAddr>().is_ok() || word.parse::<Mac>().is_ok()
}

/// Address, interface, MAC address and state, in columns as wide as those of `ip -br neigh`; `-` for what is not known.
fn brief_next_hop(neighbor: &NextHopState) -> String {
    let known = |value: Option<&str>| value.unwrap_or("-").to_owned();
    format!(
        "{:<39} {:<16} {:<17} {}",
        neighbor.via.host,
        known(neighbor.dev.as_deref()),
        known(neighbor.lladdr.as_deref()),
        neighbor.state
    )
}

/// In the format of `ip -s neigh`.
fn kernel(entry: &KernelNeighbor) -> String {
    let KernelNeighbor {
        state,
        refcnt,
        used,
        confirmed,
        updated,
        probes,
    } = entry;
    format!(" ref {refcnt} used {used}/{confirmed}/{updated} probes {probes} {state}")
}

/// A next hop as the control socket has it, with `dst` and the counters of `ip -j -s neigh`.
#[derive(Serialize)]
pub struct JsonNeighbor {
    /// The host of `via`.
    dst: Box<str>,
    #[serde(flatten)]
    state: NextHopState,
    #[serde(flatten)]
    kernel: Option<JsonKernelNeighbor>,
}

#[derive(Serialize)]
struct JsonKernelNeighbor {
    refcnt: u32,
    used: u64,
    confirmed: u64,
    updated: u64,
    probes: u32,
    /// The `state` of `ip`; here `state` is the next hop's.
    nud: [String; 1],
}

impl From<NextHopState> for JsonNeighbor {
    fn from(mut state: NextHopState) -> Self {
        let kernel = state.kernel.take().map(|kernel| JsonKernelNeighbor {
            refcnt: kernel.refcnt,
            used: kernel.used,
            confirmed: kernel.confirmed,
            updated: kernel.updated,
            probes: kernel.probes,
            nud: [kernel.state],
        });
        Self {
            dst: state.via.host.clone(),
            state,
            kernel,
        }
    }
}

/// The interface and state of a next hop, without its address.
pub fn next_hop(next_hop: &NextHopState) -> String {
    let dev = next_hop
        .dev
        .as_deref()
        .map(|dev| format!("dev {dev} "))
        .unwrap_or_default();
    let lladdr = next_hop
        .lladdr
        .as_deref()
        .map(|lladdr| format!("lladdr {lladdr} "))
        .unwrap_or_default();
    let own = if next_hop.own_backups { " own-backups" } else { "" };
    let backup = next_hop.backup.as_ref().map_or_else(|| own.to_owned(), backup);
    format!(
        "{dev}{lladdr}{}{}{backup}",
        next_hop.state,
        lost(next_hop.redirect_lost)
    )
}

fn backup(backup: &BackupState) -> String {
    let with = |name: &str, value: Option<&str>| value.map(|value| format!(" {name} {value}")).unwrap_or_default();
    format!(
        " backup {}{}{} {}{}{}",
        via(&backup.via),
        with("dev", backup.dev.as_deref()),
        with("lladdr", backup.lladdr.as_deref()),
        backup.state,
        if backup.in_use { " in-use" } else { "" },
        lost(backup.redirect_lost)
    )
}

fn lost(is_lost: bool) -> String {
    match is_lost {
        true => format!(" {REDIRECT_LOST}"),
        false => String::new(),
    }
}

fn via(via: &ViaAddress) -> String {
    let host = &via.host;
    match via.family {
        ViaFamily::Inet | ViaFamily::Inet6 => host.to_string(),
        ViaFamily::Link => format!("link {host}"),
    }
}

fn show(name: Option<&str>, session: &mut Session) -> Result<(), Failure> {
    let stats = session.out.style.stats;
    let mut links = session.client()?.links(stats)?;
    if let Some(name) = name {
        links = vec![port(links, name)?];
    }
    let out = &mut session.out;
    if out.style.json {
        out.json(&links.into_iter().map(JsonLink::from).collect::<Vec<_>>())
    } else if out.style.brief {
        brief(&links, out)
    } else {
        links.iter().try_for_each(|link| out.lines(&lines(link)))
    }
}

fn port(links: Vec<Link>, name: &str) -> Result<Link, Failure> {
    let mut links = links.into_iter();
    links
        .find(|link| link.ifname == name)
        .ok_or_else(|| Failure::Refused(format!("{name} is not a port: add it with `link add {name}`")))
}

fn brief(links: &[Link], out: &mut Output) -> Result<(), Failure> {
    let rows: Vec<_> = links
        .iter()
        .map(|link| {
            [
                link.ifname.clone(),
                up(link).into(),
                link.address.clone(),
                link.mode.clone(),
                mpls(link),
                link.counters.as_ref().map(brief_counters).unwrap_or_default(),
            ]
        })
        .collect();
    out.table(&rows, &[])
}

fn lines(link: &Link) -> Vec<String> {
    let mut lines = link_lines(link);
    lines.extend(checksum_hint(link));
    lines.extend(link.counters.iter().flat_map(counters));
    lines
}

/// A port without its counters.
pub fn link_lines(link: &Link) -> Vec<String> {
    let Link {
        ifname,
        address,
        mtu,
        mode,
        link_id,
        program_id,
        ..
    } = link;
    let redirect = match link.redirect_target {
        Some(true) => " redirect-target yes",
        Some(false) => " redirect-target no",
        None => "",
    };
    let ifindex = link.ifindex.map(|ifindex| format!("{ifindex}: ")).unwrap_or_default();
    let parent = link
        .parent
        .as_ref()
        .map(|parent| format!("@{parent}"))
        .unwrap_or_default();
    let tags = link.vlan.iter().flatten();
    let tags: String = tags.map(|tag| format!(" vlan {} {}", tag.protocol, tag.id)).collect();
    let put_back = match link.put_back {
        0 => String::new(),
        times => format!(" put-back {times}"),
    };
    let mut lines = vec![
        format!(
            "{ifindex}{ifname}{parent}: {} {} mtu {mtu}{} mode {mode}",
            up(link),
            mpls(link),
            mpls_mtu(link)
        ),
        format!(
            "    link/ether {address}{tags} bpf_link {link_id} prog {program_id}{put_back}{redirect} checksum {}",
            link.checksum.name()
        ),
    ];
    let dscp_map = link.dscp_map.map(|map| format!(" dscp-map {map}")).unwrap_or_default();
    let tc_map = link.tc_map.map(|map| format!(" tc-map {map}")).unwrap_or_default();
    if !dscp_map.is_empty() || !tc_map.is_empty() {
        lines.push(format!("   {dscp_map}{tc_map}"));
    }
    lines.extend(link.problem.as_ref().map(|problem| format!("    problem: {problem}")));
    lines
}

/// The kernel's counters, as `ip -s link` shows them, and beneath them those by reason.
fn counters(counters: &LinkCounters) -> Vec<String> {
    let columns = |head: [&str; 7], values: [u64; 6]| {
        let mut rows = [head.map(str::to_owned), head.map(|_| String::new())];
        for (cell, value) in rows[1].iter_mut().skip(1).zip(values) {
            *cell = value.to_string();
        }
        aligned(&rows, &[1, 2, 3, 4, 5, 6])
    };
    let mut lines = Vec::new();
    if let Some(kernel) = counters.kernel {
        lines.extend(columns(
            ["RX:", "bytes", "packets", "errors", "dropped", "missed", "mcast"],
            [
                kernel.rx_bytes,
                kernel.rx_packets,
                kernel.rx_errors,
                kernel.rx_dropped,
                kernel.rx_missed,
                kernel.multicast,
            ],
        ));
        lines.extend(columns(
            ["TX:", "bytes", "packets", "errors", "dropped", "carrier", "collsns"],
            [
                kernel.tx_bytes,
                kernel.tx_packets,
                kernel.tx_errors,
                kernel.tx_dropped,
                kernel.tx_carrier,
                kernel.collisions,
            ],
        ));
    }
    let mut rows = vec![["MPLS:", "bytes", "packets", "policed", "unheard"].map(str::to_owned)];
    let mut row = |name: &str, values: [u64; 4]| {
        let [bytes, packets, policed, unheard] = values.map(|value| value.to_string());
        rows.push([name.to_owned(), bytes, packets, policed, unheard]);
    };
    for reason in &counters.reasons {
        row(&reason.reason, figures(reason));
    }
    row("not forwarded", not_forwarded(counters));
    lines.extend(aligned(&rows, &[1, 2, 3, 4]));
    lines.into_iter().map(|line| format!("    {line}")).collect()
}

/// Bytes, packets, and how many of these were policed and unheard.
fn figures(reason: &ReasonCounter) -> [u64; 4] {
    [reason.bytes, reason.packets, reason.policed, reason.unheard]
}

/// The sum over all reasons for which frames are not forwarded.
fn not_forwarded(counters: &LinkCounters) -> [u64; 4] {
    let mut total = [0; 4];
    let reasons = counters.reasons.iter();
    let forwarded = [
        Reason::ChecksumFinished.name(),
        Reason::CrossConnected.name(),
        Reason::Vrf.name(),
        REDIRECT_LOST,
    ];
    for reason in reasons.filter(|counter| !forwarded.contains(&&*counter.reason)) {
        for (sum, figure) in total.iter_mut().zip(figures(reason)) {
            *sum += figure;
        }
    }
    total
}

/// Packets only.
fn brief_counters(counters: &LinkCounters) -> String {
    let kernel = counters
        .kernel
        .map(|kernel| format!("rx {} tx {} ", kernel.rx_packets, kernel.tx_packets))
        .unwrap_or_default();
    let [_, packets, ..] = not_forwarded(counters);
    format!("{kernel}not-forwarded {packets}")
}

/// A port as the control socket has it, with the counters of `ip -j -s link`.
#[derive(Serialize)]
pub struct JsonLink {
    #[serde(flatten)]
    link: Link,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats64: Option<JsonStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<Vec<ReasonCounter>>,
}

#[derive(Serialize)]
struct JsonStats {
    rx: JsonReceived,
    tx: JsonSent,
}

#[derive(Serialize)]
struct JsonReceived {
    bytes: u64,
    packets: u64,
    errors: u64,
    dropped: u64,
    over_errors: u64,
    missed_errors: u64,
    multicast: u64,
}

#[derive(Serialize)]
struct JsonSent {
    bytes: u64,
    packets: u64,
    errors: u64,
    dropped: u64,
    carrier_errors: u64,
    collisions: u64,
}

impl From<KernelCounters> for JsonStats {
    fn from(kernel: KernelCounters) -> Self {
        Self {
            rx: JsonReceived {
                bytes: kernel.rx_bytes,
                packets: kernel.rx_packets,
                errors: kernel.rx_errors,
                dropped: kernel.rx_dropped,
                over_errors: kernel.rx_over,
                missed_errors: kernel.rx_missed,
                multicast: kernel.multicast,
            },
            tx: JsonSent {
                bytes: kernel.tx_bytes,
                packets: kernel.tx_packets,
                errors: kernel.tx_errors,
                dropped: kernel.tx_dropped,
                carrier_errors: kernel.tx_carrier,
                collisions: kernel.collisions,
            },
        }
    }
}

impl From<Link> for JsonLink {
    fn from(mut link: Link) -> Self {
        let counters = link.counters.take();
        Self {
            stats64: counters
                .as_ref()
                .and_then(|counters| counters.kernel)
                .map(JsonStats::from),
            reasons: counters.map(|counters| counters.reasons),
            link,
        }
    }
}

/// The command that makes a port which finishes checksums faster.
fn checksum_hint(link: &Link) -> Option<String> {
    let finishes = link.checksum == Checksum::Finish && !link.local && !link.tx_only && link.parent.is_none();
    let name = &link.ifname;
    let sender = match &link.peer {
        Some(peer) => {
            let netns = link.peer_netns.as_deref().map(Path::new);
            let prefix = netns.map(shell_prefix).unwrap_or_default();
            format!("`{prefix}ethtool -K {peer} tx off`")
        }
        None => format!("`ethtool -K PEER tx off` on what sends to {name}"),
    };
    finishes.then(|| format!("    faster: {sender}, then `link del {name}` and `link add {name} checksum trust`"))
}

fn up(link: &Link) -> &'static str {
    match (link.up, link.program_id) {
        (true, 0) => "DETACHED",
        (true, _) => "UP",
        (false, 0) => "WAITING",
        (false, _) => "DOWN",
    }
}

/// The MPLS MTU, if one is set.
fn mpls_mtu(link: &Link) -> String {
    match (link.mpls_mtu_set, link.mpls_mtu) {
        (None, _) => String::new(),
        (Some(set), mtu) if set == mtu => format!(" mpls-mtu {mtu}"),
        (Some(set), mtu) => format!(" mpls-mtu {mtu} (of {set}, which the MTU does not allow)"),
    }
}

/// The role of a port, and whether it accepts labelled frames.
fn mpls(link: &Link) -> String {
    if let Some(to) = &link.cross_connect {
        return format!("xconnect {to}");
    }
    if link.attachment {
        return "xconnect encap mpls".into();
    }
    let mpls = match (link.parent_only, link.tx_only, link.mpls) {
        (true, ..) => "parent-only",
        (_, true, _) => "tx-only",
        (_, _, true) => "mpls on",
        (_, _, false) => "mpls off",
    };
    let accept = link.accept_labels.as_ref().filter(|_| link.mpls);
    let accept = accept.map(|ranges| format!(" accept-labels {ranges}"));
    let local = if link.local { " local" } else { "" };
    format!("{mpls}{}{local}", accept.unwrap_or_default())
}

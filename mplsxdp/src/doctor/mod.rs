//! What keeps frames from passing, and the command that helps: facts are gathered (`facts`) and checked against the
//! rules here, which are pure.

mod drivers;
pub mod facts;
mod losses;
mod route_table;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::control::api::Checksum;
use crate::dataplane::XdpMode;
use crate::kernel::netdev::XdpFeatures;
use crate::kernel::sysctl;
use crate::ports::preflight::{self, PreflightError};
use facts::{Instance, Interface, Machine, NeighbourTable};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Some frames may be lost, or some features do not work.
    Warning,
    /// The interface cannot be a port, or frames are lost.
    Error,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The result of one check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The interface; `None`: the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<Box<str>>,
    pub check: &'static str,
    pub level: Level,
    /// The cause.
    pub text: String,
    /// The shell command that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Finding {
    fn new(check: &'static str, level: Level, text: impl Into<String>) -> Self {
        Self {
            interface: None,
            check,
            level,
            text: text.into(),
            command: None,
        }
    }

    /// A message of the preflight, which quotes its command.
    fn quoting(check: &'static str, level: Level, text: String) -> Self {
        let command = quoted_command(&text);
        Self {
            command,
            ..Self::new(check, level, text)
        }
    }

    fn with_command(self, command: impl Into<String>) -> Self {
        Self {
            command: Some(command.into()),
            ..self
        }
    }
}

/// Checks everything.
pub fn examine(machine: &Machine, interfaces: &[Interface], instance: Option<&Instance>) -> Vec<Finding> {
    let mut findings = of_machine(machine, instance);
    for interface in interfaces {
        let found = of_interface(interface, machine, instance).into_iter();
        findings.extend(found.map(|finding| about(interface, finding)));
    }
    findings
}

/// The finding as one about an interface, whose name many messages of the preflight begin with. Their commands leave out
/// the network namespace that is looked at.
fn about(interface: &Interface, finding: Finding) -> Finding {
    let name = &interface.facts.name;
    let text = finding.text.strip_prefix(&format!("{name}: ")).map(str::to_owned);
    let enters = |command: &str| {
        ["ip netns ", "nsenter ", "mplsxdp "]
            .iter()
            .any(|word| command.starts_with(word))
    };
    let within = |command: &str| match enters(command) {
        true => command.to_owned(),
        false => format!("{}{command}", interface.prefix),
    };
    Finding {
        interface: Some(name.clone()),
        text: text.unwrap_or(finding.text),
        command: finding
            .command
            .map(|command| command.split("; ").map(within).collect::<Vec<_>>().join("; ")),
        ..finding
    }
}

fn of_machine(machine: &Machine, instance: Option<&Instance>) -> Vec<Finding> {
    let mut findings = vec![
        Finding::new("kernel", Level::Ok, format!("Linux {}", machine.release)),
        capabilities(machine),
        jit(machine),
    ];
    findings.extend(forwarding(machine));
    findings.extend(neighbour_table(machine));
    findings.extend(platform_labels(machine, instance));
    findings.extend(machine.leftover_pairs.iter().map(|(name, owner)| {
        Finding::new(
            "leftovers",
            Level::Warning,
            format!("{name} is the local port of instance `{owner}`, which does not run"),
        )
        .with_command(machine.command(&format!("ip link del dev {name}")))
    }));
    findings
}

fn capabilities(machine: &Machine) -> Finding {
    match machine.missing_capabilities.as_slice() {
        [] => Finding::new("capabilities", Level::Ok, "this user may load programs"),
        missing => {
            let error = PreflightError::MissingCapabilities {
                missing: missing.to_vec(),
            };
            Finding::new("capabilities", Level::Error, error.to_string())
        }
    }
}

fn jit(machine: &Machine) -> Finding {
    const KEY: &str = "core/bpf_jit_enable";
    match machine.setting(KEY) {
        Some(0) => Finding::new(
            "bpf-jit",
            Level::Warning,
            "the kernel interprets BPF programs, which is several times slower",
        )
        .with_command(machine.set(&[(KEY, 1)])),
        _ => Finding::new("bpf-jit", Level::Ok, "the kernel compiles BPF programs"),
    }
}

fn forwarding(machine: &Machine) -> [Finding; 2] {
    [
        ("ip_forward", "IPv4", "ipv4/ip_forward"),
        ("ipv6-forwarding", "IPv6", "ipv6/conf/all/forwarding"),
    ]
    .map(|(check, family, key)| match machine.setting(key) {
        Some(0) => Finding::new(
            check,
            Level::Warning,
            format!(
                "the kernel does not forward {family}: packets that routes leave to it (`dev lo`, `pass`) end here"
            ),
        )
        .with_command(machine.set(&[(key, 1)])),
        Some(_) => Finding::new(check, Level::Ok, format!("the kernel forwards {family}")),
        None => Finding::new(check, Level::Ok, format!("the kernel has no {family}")),
    })
}

/// The kernel has one neighbour table for each family, for all network namespaces. It drops the oldest entries above
/// `gc_thresh2`, and refuses new ones at `gc_thresh3`. Next hops are exempt (NTF_EXT_LEARNED), but not the hosts to which the
/// kernel sends what routes leave to it.
fn neighbour_table(machine: &Machine) -> Option<Finding> {
    const CHECK: &str = "neighbour-table";
    let tables = machine.neighbour_tables?;
    let settings_of = |(family, table): (&str, NeighbourTable)| {
        let wanted = table.limit.saturating_mul(2);
        [("gc_thresh2", wanted / 2), ("gc_thresh3", wanted)]
            .map(|(key, value)| (format!("{family}/neigh/default/{key}"), value))
    };
    let full = ["ipv4", "ipv6"]
        .into_iter()
        .zip(tables)
        .filter(|(_, table)| table.was_full > 0);
    let keys: Vec<(String, u32)> = full.flat_map(settings_of).collect();
    let keys: Vec<(&str, u32)> = keys.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let limit = tables.iter().map(|table| table.limit).min()?;
    let times: u64 = tables.iter().map(|table| table.was_full).sum();
    Some(match times {
        0 => Finding::new(
            CHECK,
            Level::Ok,
            format!("the kernel has always had room for neighbours ({limit}, and any number of next hops)"),
        ),
        _ => Finding::new(
            CHECK,
            Level::Warning,
            format!(
                "the kernel had no room for another neighbour {times} times since it has booted, in all network namespaces \
                 together: packets that it should have sent to hosts were lost; next hops of routes are exempt"
            ),
        )
        // The settings exist in the first network namespace only.
        .with_command(settings("", &keys)),
    })
}

fn platform_labels(machine: &Machine, instance: Option<&Instance>) -> Option<Finding> {
    const KEY: &str = "mpls/platform_labels";
    let labels = machine.setting(KEY)?;
    let follows = instance.is_some_and(|instance| instance.follows_kernel);
    Some(match (labels, follows) {
        (0, true) => Finding::new(
            "mpls-labels",
            Level::Warning,
            "the kernel has no room for label routes, which `--sync kernel` follows",
        )
        .with_command(machine.set(&[(KEY, 1_048_575)])),
        _ => Finding::new(
            "mpls-labels",
            Level::Ok,
            format!("the kernel takes label routes below {labels}"),
        ),
    })
}

fn of_interface(interface: &Interface, machine: &Machine, instance: Option<&Instance>) -> Vec<Finding> {
    let (can_be_port, exists) = port(interface, instance);
    let mut findings = can_be_port;
    if !exists {
        return findings;
    }
    findings.push(driver(interface));
    findings.push(vlan_tags(interface));
    findings.extend(lro(interface));
    findings.extend(checksums(interface));
    findings.push(queues(interface));
    findings.extend(rp_filter(interface, machine));
    findings.extend(mpls_input(interface, machine, instance));
    findings.push(default_route(interface, machine));
    findings.extend(losses(interface));
    findings
}

/// Whether the interface can be a port, and whether it exists.
fn port(interface: &Interface, instance: Option<&Instance>) -> (Vec<Finding>, bool) {
    const CHECK: &str = "port";
    let mode = interface.mode;
    let word = match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    };
    let (result, good) = match (&interface.port, instance) {
        (Some(_), Some(instance)) => (
            preflight::check_attached(&interface.facts, mode),
            format!("a port of the instance `{}`, in {word} mode", instance.name),
        ),
        _ => (
            preflight::check(&interface.facts, mode),
            format!("can be a port, in {word} mode"),
        ),
    };
    let notes = match result {
        Ok(notes) => notes,
        Err(error) => {
            let exists = !matches!(error, PreflightError::NoSuchInterface { .. });
            let mut finding = Finding::quoting(CHECK, Level::Error, error.to_string());
            // Ending another program is not a repair.
            if matches!(error, PreflightError::OtherProgram { .. }) {
                finding.command = None;
            }
            return (vec![finding], exists);
        }
    };
    let problem = interface.port.as_ref().and_then(|port| port.problem.clone());
    let mut findings: Vec<Finding> = problem
        .into_iter()
        .map(|problem| Finding::new(CHECK, Level::Error, problem))
        .collect();
    let unsegmented = interface.facts.peer_sends_unsegmented(mode);
    let notes = notes.into_iter().chain(unsegmented);
    findings.extend(notes.map(|note| Finding::quoting(CHECK, Level::Warning, note)));
    if findings.is_empty() {
        findings.push(Finding::new(CHECK, Level::Ok, good));
    }
    (findings, true)
}

fn driver(interface: &Interface) -> Finding {
    let facts = &interface.facts;
    let name = facts.driver.as_deref().unwrap_or("a driver without a name");
    let features = match facts.features {
        None => "the kernel does not report its XDP features (Linux 6.3 does)".to_owned(),
        Some(features) => {
            let words = [
                (XdpFeatures::BASIC, "native XDP"),
                (XdpFeatures::REDIRECT, "redirects frames"),
                (XdpFeatures::NDO_XMIT, "transmits redirected frames"),
                (XdpFeatures::RX_SG, "receives multi-buffer frames"),
                (XdpFeatures::NDO_XMIT_SG, "transmits multi-buffer frames"),
            ];
            let words = words.into_iter().filter(|&(feature, _)| features.contains(feature));
            let words: Vec<&str> = words.map(|(_, word)| word).collect();
            match words.as_slice() {
                [] => "no native XDP now".to_owned(),
                words => words.join(", "),
            }
        }
    };
    let mut text = format!("{name}: {features}");
    if let Some(known) = drivers::find(name) {
        text += &format!("; native XDP since Linux {}", known.since);
        if let Some(limits) = known.limits {
            text += &format!("; {limits}");
        }
        text += &match known.tried {
            Some(kernels) => format!("; tried with Linux {kernels}"),
            None => "; not tried with mplsxdp".to_owned(),
        };
    }
    Finding::new("driver", Level::Ok, text)
}

fn vlan_tags(interface: &Interface) -> Finding {
    const CHECK: &str = "vlan-tags";
    match interface.facts.hides_tags() {
        Some(text) => Finding::quoting(CHECK, Level::Warning, text),
        None => match preflight::check_tags(&interface.facts) {
            Ok(notes) if notes.is_empty() => Finding::new(CHECK, Level::Ok, "XDP sees the VLAN tags of frames"),
            // Only its VLANs as ports would need more.
            Ok(notes) => Finding::quoting(CHECK, Level::Ok, notes.join("; ")),
            Err(error) => Finding::quoting(CHECK, Level::Warning, error.to_string()),
        },
    }
}

/// Drivers refuse a program while LRO is on, or switch it off.
fn lro(interface: &Interface) -> Option<Finding> {
    let name = &interface.facts.name;
    Some(match interface.merges_in_hardware? {
        true => Finding::new(
            "lro",
            Level::Warning,
            "the interface merges received packets (LRO): merged packets are too big for a label, and some drivers refuse an \
             XDP program",
        )
        .with_command(format!("ethtool -K {name} lro off")),
        false => Finding::new("lro", Level::Ok, "off"),
    })
}

/// Who finishes the checksums of packets whose sender has left them to its interface.
fn checksums(interface: &Interface) -> Option<Finding> {
    const CHECK: &str = "checksums";
    let facts = &interface.facts;
    let peer_leaves = facts.peer_sends.as_ref().is_some_and(|sends| sends.leaves_checksums);
    let (sender, command) = match (&facts.far_end, peer_leaves, facts.guest_checksum) {
        (Some(far_end), true, _) => {
            let command = format!("{}ethtool -K {} tx off", far_end.shell_prefix(), far_end.name);
            (format!("its veth peer {}", far_end.name), Some(command))
        }
        (_, _, true) => ("the VM's host".to_owned(), None),
        _ => return Some(Finding::new(CHECK, Level::Ok, "senders finish them")),
    };
    let wanted = interface.port.as_ref().map(|port| port.checksum);
    let trusts = wanted.unwrap_or_else(|| facts.default_checksum(interface.mode)) == Checksum::Trust;
    let finding = match trusts {
        true => Finding::new(
            CHECK,
            Level::Warning,
            format!("{sender} leaves checksums unfinished, and this port trusts them: receivers drop such packets"),
        ),
        false => {
            let text = format!("{sender} leaves checksums unfinished: the port finishes them, which costs time");
            return Some(Finding::new(CHECK, Level::Ok, text));
        }
    };
    Some(Finding { command, ..finding })
}

fn queues(interface: &Interface) -> Finding {
    const CHECK: &str = "queues";
    let name = &interface.facts.name;
    let unheard = interface.port.as_ref().map_or(0, |port| port.unheard);
    if unheard > 0 {
        return Finding::new(
            CHECK,
            Level::Warning,
            format!(
                "{unheard} exceptions arrived on queues without a socket: the interface has more queues than when it became \
                 a port"
            ),
        )
        .with_command(format!(
            "{mplsxdp} link del {name} && {mplsxdp} link add {name}",
            mplsxdp = interface.client
        ));
    }
    match &interface.queues {
        Ok(queues) => Finding::new(CHECK, Level::Ok, format!("{queues} for receiving")),
        Err(error) => Finding::new(CHECK, Level::Warning, format!("cannot read their number: {error}")),
    }
}

/// The kernel checks the sources of packets that are left to it, by the higher of the two settings.
fn rp_filter(interface: &Interface, machine: &Machine) -> Option<Finding> {
    let key = format!("ipv4/conf/{}/rp_filter", interface.facts.name);
    let value = machine.setting(&key)?.max(machine.setting("ipv4/conf/all/rp_filter")?);
    Some(match value {
        1 => Finding::new(
            "rp_filter",
            Level::Warning,
            "strict: the kernel drops popped packets whose source it does not route back out of this interface",
        )
        .with_command(machine.set(&[(&key, 2)])),
        2 => Finding::new(
            "rp_filter",
            Level::Ok,
            "loose: the kernel drops popped packets only if it has no route to their source",
        ),
        _ => Finding::new("rp_filter", Level::Ok, "off"),
    })
}

fn mpls_input(interface: &Interface, machine: &Machine, instance: Option<&Instance>) -> Option<Finding> {
    let key = format!("mpls/conf/{}/input", interface.facts.name);
    let input = machine.setting(&key)?;
    let follows = instance.is_some_and(|instance| instance.follows_kernel);
    Some(match (input, &interface.port) {
        (0, Some(_)) if follows => Finding::new(
            "mpls-input",
            Level::Warning,
            "the kernel accepts no labelled frames here, and with `--sync kernel` the port follows it",
        )
        .with_command(machine.set(&[(&key, 1)])),
        (0, _) => Finding::new("mpls-input", Level::Ok, "the kernel accepts no labelled frames here"),
        _ => Finding::new("mpls-input", Level::Ok, "the kernel accepts labelled frames here"),
    })
}

fn default_route(interface: &Interface, machine: &Machine) -> Finding {
    const CHECK: &str = "default-route";
    match machine
        .default_routes
        .iter()
        .any(|name| **name == *interface.facts.name)
    {
        true => Finding::new(
            CHECK,
            Level::Warning,
            "the default route leaves here: if you reach this machine over this interface, use `mplsxdp load --confirm 60`",
        ),
        false => Finding::new(CHECK, Level::Ok, "no default route leaves here"),
    }
}

/// Frames that are lost where no counter of mplsxdp sees it.
fn losses(interface: &Interface) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &interface.losses {
        None => {}
        Some(Err(error)) => findings.push(Finding::new(
            "lost-frames",
            Level::Warning,
            format!("cannot count the kernel's events xdp_redirect_err and xdp_exception: {error}"),
        )),
        Some(Ok(lost)) => {
            let seconds = lost.watched.as_secs_f64();
            let counts = [
                (lost.redirects, "redirects failed (xdp_redirect_err)"),
                (lost.exceptions, "frames were dropped by the driver (xdp_exception)"),
            ];
            let seen = counts.iter().filter(|(count, _)| *count > 0);
            let seen: Vec<String> = seen.map(|(count, text)| format!("{count} {text}")).collect();
            findings.push(match seen.as_slice() {
                [] => Finding::new("lost-frames", Level::Ok, format!("none in {seconds:.0} s")),
                seen => Finding::new(
                    "lost-frames",
                    Level::Error,
                    format!("in {seconds:.0} s, {}", seen.join(" and ")),
                ),
            });
        }
    }
    findings.push(driver_counters(interface));
    findings
}

fn driver_counters(interface: &Interface) -> Finding {
    const CHECK: &str = "driver-counters";
    let counters = match &interface.counters {
        Ok(counters) => counters,
        Err(error) => {
            return Finding::new(CHECK, Level::Ok, format!("the driver has none: {error}"));
        }
    };
    let shown = |counters: &[losses::Counter]| {
        let shown = counters.iter().map(|counter| match counter.grown {
            0 => format!("{} {}", counter.name, counter.value),
            grown => format!("{} {} (+{grown})", counter.name, counter.value),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    let grown: Vec<losses::Counter> = counters.iter().filter(|counter| counter.grown > 0).cloned().collect();
    if !grown.is_empty() {
        return Finding::new(
            CHECK,
            Level::Error,
            format!("XDP frames are lost now: {}", shown(&grown)),
        );
    }
    let text = match counters.as_slice() {
        [] => "none of XDP losses has counted".to_owned(),
        counters => format!("losses of the past: {}", shown(counters)),
    };
    Finding::new(CHECK, Level::Ok, text)
}

/// The shell command in a message that quotes just one which can be run as it stands.
fn quoted_command(text: &str) -> Option<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let mut commands = quoted.filter(|quoted| {
        let mut words = quoted.split_whitespace();
        let program = words.next().unwrap_or_default();
        // Words in capitals stand for something that the reader knows.
        let stands_for_itself =
            |word: &str| word.len() < 2 || !word.chars().all(|char| char.is_ascii_uppercase() || char == '.');
        matches!(program, "ethtool" | "ip" | "nsenter" | "sysctl") && words.all(stands_for_itself)
    });
    let command = commands.next()?;
    commands.next().is_none().then(|| command.to_owned())
}

/// A command that writes settings, by their paths beneath `/proc/sys/net`.
fn settings(prefix: &str, keys: &[(&str, u32)]) -> String {
    let settings = keys
        .iter()
        .map(|(key, value)| format!(" {}={value}", sysctl::name(key)));
    format!("{prefix}sysctl -w{}", settings.collect::<String>())
}

impl Machine {
    fn setting(&self, key: &str) -> Option<u32> {
        self.settings.get(key).copied()
    }

    /// In the network namespace that was looked at.
    fn command(&self, command: &str) -> String {
        format!("{}{command}", self.prefix)
    }

    fn set(&self, keys: &[(&str, u32)]) -> String {
        settings(&self.prefix, keys)
    }
}

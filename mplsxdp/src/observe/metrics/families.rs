//! The metrics: their names, units, labels and meanings, by the conventions of Prometheus. Names and labels do not change
//! their meaning from one version to the next.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use mplsxdp_common::abi::map;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;
use super::snapshot::{MAX_NEXT_HOPS, RouteCount, Snapshot};
use super::times::Counted;
use crate::control::api::{self, Resolution, SyncState};

/// How metrics are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own text format, 0.0.4.
    Text,
}

impl Format {
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The one that a client prefers, by its `Accept` header (RFC 9110 section 12.5.1).
    pub fn of(accept: &str) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0_f32, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.parse().unwrap_or(0.0),
                    "version" => version = Some(value),
                    _ => {}
                }
            }
            match media.as_str() {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0" | "0.0.1")) => {
                    open = quality.max(open);
                }
                "text/plain" | "text/*" | "*/*" => text = quality.max(text),
                _ => {}
            }
        }
        match open > 0.0 && open >= text {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    pub fn write(self, snapshot: Snapshot) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(snapshot));
        let mut written = String::new();
        match self {
            Self::OpenMetrics => text::encode(&mut written, &registry)?,
            Self::Text => prometheus_text::encode(&mut written, &registry)?,
        }
        Ok(written)
    }
}

/// A family of metrics about each `T`: name, unit, meaning and value.
type Figure<T, V = u64> = (&'static str, Option<Unit>, &'static str, fn(&T) -> V);

type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;

/// A label that is a text.
fn label<'a>(name: &'static str, value: &'a str) -> (&'static str, Cow<'a, str>) {
    (name, Cow::Borrowed(value))
}

/// A label that is written first.
fn written(name: &'static str, value: impl fmt::Display) -> (&'static str, Cow<'static, str>) {
    (name, Cow::Owned(value.to_string()))
}

/// Writes families of metrics. One without samples is left out.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// `name` is without `_total`, and without the unit.
    fn counters<'l>(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in samples {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, unit: Option<&Unit>, help: &str, value: u64) -> fmt::Result {
        self.counters(name, unit, help, [(Labels::new(), value)])
    }

    fn gauges<'l, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn gauge<V: EncodeGaugeValue>(&mut self, name: &str, unit: Option<&Unit>, help: &str, value: V) -> fmt::Result {
        self.gauges(name, unit, help, [(Labels::new(), value)])
    }

    /// `name` is without `_info`.
    fn infos<'l>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Labels<'l>>) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        samples.try_for_each(|labels| family.encode_info(&labels))
    }

    fn histogram(&mut self, name: &str, help: &str, counted: &Counted) -> fmt::Result {
        let unit = Unit::Seconds;
        let mut family = self
            .0
            .encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
        let Counted {
            buckets,
            count,
            seconds,
        } = counted;
        family.encode_histogram::<NoLabelSet>(*seconds, *count, buckets, None)
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        if let Some(status) = &self.status {
            write_status(&mut families, status)?;
        }
        write_links(&mut families, &self.links)?;
        write_stats(&mut families, &self.stats)?;
        write_next_hops(&mut families, &self.next_hops)?;
        write_rings(&mut families, &self.rings)?;
        write_feeds(&mut families, &self.sources)?;
        write_routes(&mut families, &self.routes)?;
        write_control(&mut families, self)?;
        families.histogram(
            "mplsxdp_event_loop_held",
            "How long inputs of the event loop held it, each of which lets the next one wait.",
            &self.held,
        )?;
        families.histogram(
            "mplsxdp_event_loop_delay",
            "How long a probe, ten of which are sent each second, waited for the event loop.",
            &self.delay,
        )?;
        if let Some(process) = &self.process {
            write_process(&mut families, process)?;
        }
        Ok(())
    }
}

/// Tables that are filled as routes and ports are added.
const FILLED_TABLES: [&str; 12] = [
    map::ILM,
    map::ADJACENCIES,
    map::STACKS,
    map::GROUPS,
    map::BACKUPS,
    map::FTN,
    map::PORTS,
    map::CROSS_CONNECTS,
    map::PSEUDOWIRES,
    map::ATTACHMENTS,
    map::SUB_INTERFACES,
    map::ROUTE_COUNTERS,
];

fn write_status(families: &mut Families<'_>, status: &api::Status) -> fmt::Result {
    families.infos(
        "mplsxdp_build",
        "The program.",
        [vec![
            label("version", &status.version),
            written("abi_version", status.abi_version),
        ]],
    )?;
    families.infos(
        "mplsxdp_instance",
        "The instance.",
        [vec![
            label("instance_name", &status.instance),
            label("netns", status.netns.as_deref().unwrap_or_default()),
            label("mode", &status.mode),
            label("ttl_mode", &status.ttl_mode),
            label("unknown", &status.unknown),
        ]],
    )?;
    let since = status.since.as_deref();
    if let Some(since) = since.and_then(|since| humantime::parse_rfc3339_weak(since).ok()) {
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        families.gauge(
            "mplsxdp_start_time",
            Some(&Unit::Seconds),
            "When the instance started, in Unix time; an upgrade is a start, too.",
            since.as_secs_f64(),
        )?;
    }
    families.gauges(
        "mplsxdp_routes",
        None,
        "Routes that are installed, by what they are for.",
        [
            (vec![label("kind", "label")], status.label_routes),
            (vec![label("kind", "prefix")], status.prefix_routes),
        ],
    )?;
    let tables = |value: fn(&api::Table) -> u64| {
        let tables = status.tables.iter();
        tables.map(move |table| (vec![label("table", &table.name)], value(table)))
    };
    let is_filled = |table: &&api::Table| FILLED_TABLES.contains(&&*table.name);
    let filled = |value: fn(&api::Table) -> u64| {
        let tables = status.tables.iter().filter(is_filled);
        tables.map(move |table| (vec![label("table", &table.name)], value(table)))
    };
    families.gauges(
        "mplsxdp_table_entries",
        None,
        "Entries of each table that are used.",
        filled(|table| table.used),
    )?;
    families.gauges(
        "mplsxdp_table_capacity",
        None,
        "How many entries each table has.",
        filled(|table| table.capacity),
    )?;
    families.gauges(
        "mplsxdp_table_memory",
        Some(&Unit::Bytes),
        "Kernel memory of each table.",
        tables(|table| table.memory_bytes),
    )?;
    families.counter(
        "mplsxdp_log_lines_lost",
        None,
        "Lines of the log that could not be written.",
        status.log_lines_lost,
    )?;
    families.counter(
        "mplsxdp_log_lines_left_out",
        None,
        "Lines of the log that were summed up in others.",
        status.log_lines_left_out,
    )?;
    if let Some(state) = &status.state {
        families.gauge(
            "mplsxdp_state_snapshot",
            Some(&Unit::Bytes),
            "Size of the snapshot of routes and ports.",
            state.snapshot_bytes,
        )?;
        families.gauge(
            "mplsxdp_state_journal",
            Some(&Unit::Bytes),
            "What was written since the snapshot.",
            state.journal_bytes,
        )?;
        families.gauge(
            "mplsxdp_state_saved",
            None,
            "Whether changes are saved (1), or cannot be saved now (0).",
            u64::from(state.failure.is_none()),
        )?;
    }
    Ok(())
}

fn role(link: &api::Link) -> &'static str {
    match link {
        api::Link { local: true, .. } => "local",
        api::Link { parent_only: true, .. } => "parent-only",
        api::Link { tx_only: true, .. } => "tx-only",
        _ => "switching",
    }
}

fn write_links(families: &mut Families<'_>, links: &[api::Link]) -> fmt::Result {
    families.infos(
        "mplsxdp_port",
        "The ports.",
        links.iter().map(|link| {
            vec![
                label("port", &link.ifname),
                label("role", role(link)),
                label("mode", &link.mode),
                label("parent", link.parent.as_deref().unwrap_or_default()),
                label("peer", link.peer.as_deref().unwrap_or_default()),
            ]
        }),
    )?;
    let gauges: [Figure<api::Link>; 5] = [
        (
            "mplsxdp_port_up",
            None,
            "Whether the port's interface is up and has a carrier.",
            |link| link.up.into(),
        ),
        (
            "mplsxdp_port_attached",
            None,
            "Whether the port works: its interface exists and has its program.",
            |link| link.problem.is_none().into(),
        ),
        (
            "mplsxdp_port_accepts_labels",
            None,
            "Whether labelled frames are accepted.",
            |link| link.mpls.into(),
        ),
        (
            "mplsxdp_port_mtu",
            Some(Unit::Bytes),
            "MTU of the port's interface.",
            |link| link.mtu.into(),
        ),
        (
            "mplsxdp_port_mpls_mtu",
            Some(Unit::Bytes),
            "The largest labelled packet that may leave, label stack included.",
            |link| link.mpls_mtu.into(),
        ),
    ];
    for (name, unit, help, value) in gauges {
        let samples = links
            .iter()
            .map(|link| (vec![label("port", &link.ifname)], value(link)));
        families.gauges(name, unit.as_ref(), help, samples)?;
    }
    families.counters(
        "mplsxdp_port_program_put_back",
        None,
        "How often the program was put back after another process had removed or replaced it.",
        links
            .iter()
            .map(|link| (vec![label("port", &link.ifname)], link.put_back)),
    )?;
    let counters: [Figure<api::KernelCounters>; 9] = [
        (
            "mplsxdp_port_receive_packets",
            None,
            "Packets that the interface received, as `ip -s link` counts them.",
            |kernel| kernel.rx_packets,
        ),
        (
            "mplsxdp_port_receive",
            Some(Unit::Bytes),
            "Bytes that the interface received.",
            |kernel| kernel.rx_bytes,
        ),
        (
            "mplsxdp_port_receive_errors",
            None,
            "Packets that the interface received with errors.",
            |kernel| kernel.rx_errors,
        ),
        (
            "mplsxdp_port_receive_dropped_packets",
            None,
            "Packets that the interface received and the kernel dropped.",
            |kernel| kernel.rx_dropped,
        ),
        (
            "mplsxdp_port_receive_missed_packets",
            None,
            "Packets that the NIC had no room for.",
            |kernel| kernel.rx_missed,
        ),
        (
            "mplsxdp_port_transmit_packets",
            None,
            "Packets that the interface sent, as `ip -s link` counts them.",
            |kernel| kernel.tx_packets,
        ),
        (
            "mplsxdp_port_transmit",
            Some(Unit::Bytes),
            "Bytes that the interface sent.",
            |kernel| kernel.tx_bytes,
        ),
        (
            "mplsxdp_port_transmit_errors",
            None,
            "Packets that the interface could not send.",
            |kernel| kernel.tx_errors,
        ),
        (
            "mplsxdp_port_transmit_dropped_packets",
            None,
            "Packets for the interface that were dropped.",
            |kernel| kernel.tx_dropped,
        ),
    ];
    for (name, unit, help, value) in counters {
        let samples = links.iter().filter_map(|link| {
            let kernel = link.counters.as_ref()?.kernel.as_ref()?;
            Some((vec![label("port", &link.ifname)], value(kernel)))
        });
        families.counters(name, unit.as_ref(), help, samples)?;
    }
    Ok(())
}

fn write_stats(families: &mut Families<'_>, stats: &api::Stats) -> fmt::Result {
    let counters: [Figure<api::ReasonCounter>; 4] = [
        (
            "mplsxdp_exception_packets",
            None,
            "Packets of a port that met an exception, by its reason.",
            |counter| counter.packets,
        ),
        (
            "mplsxdp_exception",
            Some(Unit::Bytes),
            "Bytes of these packets.",
            |counter| counter.bytes,
        ),
        (
            "mplsxdp_exception_policed_packets",
            None,
            "Packets among them that did not reach the slow path because there were too many at once.",
            |counter| counter.policed,
        ),
        (
            "mplsxdp_exception_unheard_packets",
            None,
            "Packets among them that did not reach the slow path because it does not listen on their receive queue.",
            |counter| counter.unheard,
        ),
    ];
    for (name, unit, help, value) in counters {
        let samples = stats.reasons.iter().map(|counter| {
            let labels = vec![label("port", &counter.port), label("reason", &counter.reason)];
            (labels, value(counter))
        });
        families.counters(name, unit.as_ref(), help, samples)?;
    }
    let reasons: BTreeMap<_, _> = stats
        .reasons
        .iter()
        .map(|counter| (counter.reason.as_str(), counter.description.as_str()))
        .collect();
    families.infos(
        "mplsxdp_reason",
        "What each reason means.",
        reasons
            .into_iter()
            .map(|(reason, meaning)| vec![label("reason", reason), label("meaning", meaning)]),
    )?;
    families.counters(
        "mplsxdp_slow_path_packets",
        None,
        "Packets that the slow path got, by what became of them.",
        stats
            .slow_path
            .iter()
            .map(|outcome| (vec![label("outcome", &outcome.name)], outcome.packets)),
    )?;
    families.infos(
        "mplsxdp_slow_path_outcome",
        "What each outcome means.",
        stats
            .slow_path
            .iter()
            .map(|outcome| vec![label("outcome", &outcome.name), label("meaning", &outcome.description)]),
    )?;
    families.counter(
        "mplsxdp_forwarded_packets",
        None,
        "Packets that routes with a counter have forwarded, deleted routes included.",
        stats.forwarded.packets,
    )?;
    families.counter(
        "mplsxdp_forwarded",
        Some(&Unit::Bytes),
        "Bytes of these packets.",
        stats.forwarded.bytes,
    )?;
    families.gauge(
        "mplsxdp_uncounted_routes",
        None,
        "Routes that are not counted because all counter slots are taken.",
        stats.uncounted_routes,
    )
}

const RESOLUTIONS: [Resolution; 11] = [
    Resolution::Resolved,
    Resolution::Static,
    Resolution::Incomplete,
    Resolution::Failed,
    Resolution::BadMac,
    Resolution::NoRoute,
    Resolution::LinkDown,
    Resolution::NotAPort,
    Resolution::NoArp,
    Resolution::NoSuchDev,
    Resolution::Local,
];

/// Next hops that differ only in their backups, or in whether their interface was given, have the same labels.
#[derive(Default)]
struct NextHop {
    is_unresolved: bool,
    routes: u64,
    /// Whether it has a backup, which is in use.
    backup: Option<bool>,
}

fn write_next_hops(families: &mut Families<'_>, next_hops: &[api::NextHopState]) -> fmt::Result {
    families.gauges(
        "mplsxdp_next_hops",
        None,
        "Next hops by their state: frames are sent to those that are resolved or static.",
        RESOLUTIONS.map(|state| {
            let count = next_hops.iter().filter(|next_hop| next_hop.state == state).count();
            (vec![written("state", state)], count)
        }),
    )?;
    let in_use = |next_hop: &&api::NextHopState| next_hop.backup.as_ref().is_some_and(|backup| backup.in_use);
    families.gauge(
        "mplsxdp_backups_in_use",
        None,
        "Next hops whose backup gets the frames now.",
        next_hops.iter().filter(in_use).count(),
    )?;
    let mut each: BTreeMap<(&str, &str), NextHop> = BTreeMap::new();
    for next_hop in next_hops {
        let key = (&*next_hop.via.host, next_hop.dev.as_deref().unwrap_or_default());
        if each.len() == MAX_NEXT_HOPS && !each.contains_key(&key) {
            continue;
        }
        let found = each.entry(key).or_default();
        found.is_unresolved |= !matches!(next_hop.state, Resolution::Resolved | Resolution::Static);
        found.routes += next_hop.routes;
        if let Some(backup) = &next_hop.backup {
            *found.backup.get_or_insert_default() |= backup.in_use;
        }
    }
    let labels = |&(via, dev): &(&'_ str, &'_ str)| -> Labels<'_> { vec![written("via", via), written("dev", dev)] };
    families.gauges(
        "mplsxdp_next_hop_resolved",
        None,
        "Whether frames can be sent to a next hop; at most the first 4096 of them.",
        each.iter()
            .map(|(key, next_hop)| (labels(key), u64::from(!next_hop.is_unresolved))),
    )?;
    families.gauges(
        "mplsxdp_next_hop_routes",
        None,
        "How many users a next hop has: routes and, if it is a backup, other next hops.",
        each.iter().map(|(key, next_hop)| (labels(key), next_hop.routes)),
    )?;
    families.gauges(
        "mplsxdp_next_hop_backup_in_use",
        None,
        "Whether the backup of a next hop that has one gets its frames now.",
        each.iter()
            .filter_map(|(key, next_hop)| Some((labels(key), u64::from(next_hop.backup?)))),
    )
}

fn write_rings(families: &mut Families<'_>, rings: &[api::Ring]) -> fmt::Result {
    let counters: [Figure<api::Ring>; 4] = [
        (
            "mplsxdp_xsk_received_packets",
            None,
            "Exceptions that the slow path took from the AF_XDP socket of a queue.",
            |ring| ring.received,
        ),
        (
            "mplsxdp_xsk_ring_full_packets",
            None,
            "Exceptions that were lost because the receive ring was full.",
            |ring| ring.ring_full,
        ),
        (
            "mplsxdp_xsk_dropped_packets",
            None,
            "Exceptions that were lost because they did not fit, or for lack of memory.",
            |ring| ring.dropped,
        ),
        (
            "mplsxdp_xsk_fill_ring_empty",
            None,
            "How often the kernel found no buffer for an exception.",
            |ring| ring.fill_ring_empty,
        ),
    ];
    for (name, unit, help, value) in counters {
        let samples = rings.iter().map(|ring| {
            let labels = vec![label("port", &ring.port), written("queue", ring.queue)];
            (labels, value(ring))
        });
        families.counters(name, unit.as_ref(), help, samples)?;
    }
    Ok(())
}

const SYNC_STATES: [SyncState; 5] = [
    SyncState::Waiting,
    SyncState::Syncing,
    SyncState::Synced,
    SyncState::Lost,
    SyncState::Stale,
];

fn write_feeds(families: &mut Families<'_>, sources: &[api::SyncSource]) -> fmt::Result {
    families.gauges(
        "mplsxdp_feed_synced",
        None,
        "Whether a source of routes is connected and has sent all of its routes.",
        sources.iter().map(|source| {
            let is_synced = source.state == SyncState::Synced;
            (vec![label("source", &source.source)], u64::from(is_synced))
        }),
    )?;
    families.gauges(
        "mplsxdp_feed_state",
        None,
        "1 for the state that a source is in.",
        sources.iter().flat_map(|source| {
            SYNC_STATES.map(|state| {
                let labels = vec![label("source", &source.source), label("state", state.name())];
                (labels, u64::from(source.state == state))
            })
        }),
    )?;
    families.gauges(
        "mplsxdp_feed_routes",
        None,
        "Routes that a source has, by what they are for.",
        sources.iter().flat_map(|source| {
            [("label", source.labels), ("prefix", source.prefixes)]
                .map(|(kind, count)| (vec![label("source", &source.source), label("kind", kind)], count))
        }),
    )?;
    let gauges: [Figure<api::SyncSource>; 3] = [
        (
            "mplsxdp_feed_nexthop_objects",
            None,
            "Nexthop objects that a source has.",
            |source| source.nexthop_objects,
        ),
        (
            "mplsxdp_feed_pending_routes",
            None,
            "Routes that have not been processed yet.",
            |source| source.pending,
        ),
        (
            "mplsxdp_feed_refused_routes",
            None,
            "Routes that did not fit into the tables; backups that could not be used.",
            |source| source.refused,
        ),
    ];
    for (name, unit, help, value) in gauges {
        let samples = sources.iter();
        let samples = samples.map(|source| (vec![label("source", &source.source)], value(source)));
        families.gauges(name, unit.as_ref(), help, samples)?;
    }
    let of = |value: fn(&api::SyncSource) -> Option<u64>| {
        let sources = sources.iter();
        sources.filter_map(move |source| Some((vec![label("source", &source.source)], value(source)?)))
    };
    families.gauges(
        "mplsxdp_feed_audit_age",
        Some(&Unit::Seconds),
        "The time since the last audit of a source ended.",
        sources
            .iter()
            .filter_map(|source| Some((vec![label("source", &source.source)], source.audited_seconds?))),
    )?;
    families.gauges(
        "mplsxdp_feed_audit_differences",
        None,
        "How many differences the last audit found.",
        of(|source| source.differences),
    )?;
    let counters: [Figure<api::SyncSource, Option<u64>>; 8] = [
        (
            "mplsxdp_feed_connections",
            None,
            "Connections of the routing daemon: those after the first are reconnects.",
            |source| Some(source.server.as_ref()?.connections),
        ),
        (
            "mplsxdp_feed_refused_connections",
            None,
            "Connections that were refused because another was open.",
            |source| Some(source.server.as_ref()?.refused_connections),
        ),
        (
            "mplsxdp_feed_frames",
            None,
            "Frames that have come over these connections.",
            |source| Some(source.server.as_ref()?.frames),
        ),
        (
            "mplsxdp_feed_received",
            Some(Unit::Bytes),
            "Bytes that have come over these connections.",
            |source| Some(source.server.as_ref()?.bytes),
        ),
        (
            "mplsxdp_feed_unreadable_messages",
            None,
            "Messages that cannot be read.",
            |source| Some(source.server.as_ref()?.unreadable),
        ),
        (
            "mplsxdp_feed_framing_lost",
            None,
            "Connections that were closed because something else stood where a frame must begin.",
            |source| Some(source.server.as_ref()?.framing_lost),
        ),
        (
            "mplsxdp_feed_answers",
            None,
            "How often FRR was asked for everything and answered.",
            |source| Some(source.vty.as_ref()?.answers),
        ),
        (
            "mplsxdp_feed_failures",
            None,
            "How often FRR was asked and did not answer.",
            |source| Some(source.vty.as_ref()?.failures),
        ),
    ];
    for (name, unit, help, value) in counters {
        families.counters(name, unit.as_ref(), help, of(value))?;
    }
    Ok(())
}

fn write_routes(families: &mut Families<'_>, routes: &[RouteCount]) -> fmt::Result {
    let counters: [Figure<api::Counter>; 2] = [
        (
            "mplsxdp_route_packets",
            None,
            "Packets that a route has forwarded.",
            |counter| counter.packets,
        ),
        (
            "mplsxdp_route",
            Some(Unit::Bytes),
            "Bytes that a route has forwarded.",
            |counter| counter.bytes,
        ),
    ];
    for (name, unit, help, value) in counters {
        let samples = routes.iter().map(|RouteCount { key, counter }| {
            let labels = [
                key.label.map(|label| written("label", label)),
                key.prefix.map(|prefix| written("prefix", prefix)),
                key.attachment.map(|port| written("attachment", port)),
                key.table.map(|table| written("table", table)),
            ];
            (labels.into_iter().flatten().collect(), value(counter))
        });
        families.counters(name, unit.as_ref(), help, samples)?;
    }
    Ok(())
}

fn write_control(families: &mut Families<'_>, snapshot: &Snapshot) -> fmt::Result {
    let calls = &snapshot.control.calls;
    families.counters(
        "mplsxdp_control_calls",
        None,
        "Calls on the control socket that were answered.",
        calls
            .iter()
            .map(|&(method, calls, _)| (vec![label("method", method)], calls)),
    )?;
    families.counters(
        "mplsxdp_control_errors",
        None,
        "Calls that were answered by an error.",
        calls
            .iter()
            .map(|&(method, _, errors)| (vec![label("method", method)], errors)),
    )?;
    families.counter(
        "mplsxdp_control_clients",
        None,
        "Clients that have connected to the control socket.",
        snapshot.control.clients,
    )?;
    families.counter(
        "mplsxdp_control_refused_clients",
        None,
        "Clients that were turned away: they got no place, or may not call anything.",
        snapshot.control.turned_away,
    )?;
    families.counter(
        "mplsxdp_metrics_refused_clients",
        None,
        "Clients that may not read the metrics.",
        snapshot.refused,
    )?;
    families.gauge(
        "mplsxdp_metrics_left_out",
        None,
        "Whether routes or next hops have no metrics of their own because there are too many.",
        u64::from(snapshot.has_more_routes || snapshot.next_hops.len() > MAX_NEXT_HOPS),
    )?;
    families.gauge(
        "mplsxdp_metrics_gathered",
        Some(&Unit::Seconds),
        "How long it took to gather these metrics.",
        snapshot.took.as_secs_f64(),
    )
}

fn write_process(families: &mut Families<'_>, process: &Process) -> fmt::Result {
    let mut family = families.0.encode_descriptor(
        "process_cpu",
        "CPU time that the process has used.",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    family.encode_counter::<NoLabelSet, f64, u64>(&process.cpu_seconds, None)?;
    families.gauge(
        "process_start_time",
        Some(&Unit::Seconds),
        "When the process started, in Unix time; it outlives an upgrade.",
        process.start_seconds,
    )?;
    let gauges = [
        (
            "process_virtual_memory",
            Some(Unit::Bytes),
            "Virtual memory of the process.",
            process.virtual_bytes,
        ),
        (
            "process_resident_memory",
            Some(Unit::Bytes),
            "Memory of the process that is in RAM.",
            process.resident_bytes,
        ),
        ("process_threads", None, "Threads of the process.", process.threads),
        ("process_open_fds", None, "Open file descriptors.", process.open_fds),
        (
            "process_max_fds",
            None,
            "How many file descriptors can be open.",
            process.max_fds,
        ),
    ];
    for (name, unit, help, value) in gauges {
        families.gauge(name, unit.as_ref(), help, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::times::LoopTimes;
    use super::*;
    use crate::control::server::Counts;

    fn next_hop(via: &str, dev: &str, state: Resolution, backup: Option<bool>) -> api::NextHopState {
        let via = json!({"family": "inet", "host": via});
        let backup = backup.map(
            |in_use| json!({"via": via, "dev": "eth9", "state": "resolved", "in_use": in_use, "redirect_lost": false}),
        );
        let next_hop = json!({
            "via": via, "dev": dev, "state": state, "redirect_lost": false, "routes": 3, "backup": backup,
            "own_backups": false,
        });
        serde_json::from_value(next_hop).unwrap()
    }

    fn link(name: &str) -> api::Link {
        let link = json!({
            "ifname": name, "ifindex": 3, "address": "52:54:00:12:34:56", "mtu": 1500, "up": true, "mode": "native",
            "link_id": 1, "program_id": 2, "put_back": 1, "mpls": true, "mpls_mtu": 1508, "tx_only": false, "local": false,
            "parent_only": false, "attachment": false, "checksum": "finish",
            "counters": {"kernel": api::KernelCounters { rx_packets: 7, rx_bytes: 700, ..Default::default() }, "reasons": []},
        });
        serde_json::from_value(link).unwrap()
    }

    /// One with something in every family.
    fn snapshot() -> Snapshot {
        let status = json!({
            "version": "1.2.3", "abi_version": 14, "instance": "pe1", "pid": 1, "uptime_seconds": 5, "netns_inode": 1,
            "mode": "native", "ttl_mode": "uniform", "tunnel_ttl": 255, "tc_propagate": false, "unknown": "punt",
            "icmp_via": "auto", "links": 1, "labels": 1024, "label_routes": 4, "prefix_routes": 5, "next_hops": 3,
            "unresolved_next_hops": 2, "uncounted_routes": 0, "log_lines_lost": 0, "log_lines_left_out": 2,
            "since": "2026-01-02T03:04:05Z", "netns": "r1",
            "tables": [
                {"name": "ILM", "used": 4, "capacity": 1024, "memory_bytes": 8192},
                {"name": "META", "used": 1, "capacity": 1, "memory_bytes": 4096},
            ],
            "state": {"directory": "/x", "snapshot_bytes": 10, "journal_bytes": 20, "failure": "disk \"full\"\n"},
        });
        let reason = |reason: &str, packets| api::ReasonCounter {
            port: "eth1".into(),
            reason: reason.into(),
            description: "It is a \"reason\"\\.".into(),
            packets,
            bytes: 100 * packets,
            policed: 1,
            unheard: 0,
        };
        let fpm = json!({
            "source": "fpm", "state": "synced", "labels": 10, "prefixes": 20, "nexthop_objects": 3, "pending": 0,
            "refused": 1, "audited_seconds": 1.5, "differences": 0,
            "server": api::FpmServer { connections: 2, bytes: 99, ..Default::default() },
        });
        let frr = json!({
            "source": "frr", "state": "stale", "labels": 1, "prefixes": 0, "nexthop_objects": 0, "pending": 0, "refused": 0,
            "vty": api::FrrVty { answers: 4, failures: 1, ..Default::default() },
        });
        let route = |key: serde_json::Value, packets| RouteCount {
            key: serde_json::from_value(key).unwrap(),
            counter: api::Counter {
                packets,
                bytes: 10 * packets,
            },
        };
        let times = LoopTimes::default();
        times.held.count(std::time::Duration::from_millis(3));
        Snapshot {
            status: Some(serde_json::from_value(status).unwrap()),
            links: vec![
                link("eth1"),
                api::Link {
                    problem: Some("gone".into()),
                    tx_only: true,
                    up: false,
                    ..link("eth2")
                },
            ],
            stats: api::Stats {
                reasons: vec![reason("ttl-expired", 3), reason("no-route", 0)],
                slow_path: vec![api::Outcome {
                    name: "answered".into(),
                    description: "An ICMP error was sent.".into(),
                    packets: 2,
                }],
                forwarded: api::Counter {
                    packets: 11,
                    bytes: 1100,
                },
                uncounted_routes: 1,
            },
            next_hops: vec![
                next_hop("10.0.0.1", "eth1", Resolution::Resolved, None),
                next_hop("10.0.0.1", "eth1", Resolution::LinkDown, Some(true)),
                next_hop("10.0.0.2", "eth1", Resolution::Resolved, Some(false)),
            ],
            sources: vec![
                serde_json::from_value(fpm).unwrap(),
                serde_json::from_value(frr).unwrap(),
            ],
            rings: vec![api::Ring {
                port: "eth1".into(),
                queue: 0,
                received: 5,
                ring_full: 1,
                dropped: 0,
                fill_ring_empty: 0,
            }],
            routes: vec![
                route(json!({"label": 100}), 5),
                route(json!({"prefix": "10.4.4.0/24", "table": 10}), 6),
            ],
            has_more_routes: true,
            control: Counts::default().read(),
            held: times.held.read(),
            delay: times.delay.read(),
            process: Some(Process {
                cpu_seconds: 1.5,
                threads: 3,
                ..Process::default()
            }),
            refused: 0,
            took: std::time::Duration::from_millis(2),
        }
    }

    /// Samples by name with labels.
    fn samples(text: &str) -> BTreeMap<&str, f64> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut samples = BTreeMap::new();
        for line in lines {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(
                samples.insert(series, value.parse().unwrap()).is_none(),
                "`{series}` is there twice"
            );
        }
        samples
    }

    #[test]
    fn both_formats_have_the_same_samples() {
        let (open, text) = (
            Format::OpenMetrics.write(snapshot()).unwrap(),
            Format::Text.write(snapshot()).unwrap(),
        );
        assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
        let found = samples(&open);
        assert!(found == samples(&text), "{open}\n{text}");
        for (series, value) in [
            ("mplsxdp_build_info{version=\"1.2.3\",abi_version=\"14\"}", 1.0),
            ("mplsxdp_start_time_seconds", 1_767_323_045.0),
            ("mplsxdp_routes{kind=\"label\"}", 4.0),
            ("mplsxdp_table_capacity{table=\"ILM\"}", 1024.0),
            ("mplsxdp_table_memory_bytes{table=\"ILM\"}", 8192.0),
            ("mplsxdp_state_saved", 0.0),
            ("mplsxdp_port_up{port=\"eth1\"}", 1.0),
            ("mplsxdp_port_up{port=\"eth2\"}", 0.0),
            ("mplsxdp_port_attached{port=\"eth2\"}", 0.0),
            ("mplsxdp_port_receive_packets_total{port=\"eth1\"}", 7.0),
            ("mplsxdp_port_receive_bytes_total{port=\"eth1\"}", 700.0),
            (
                "mplsxdp_exception_packets_total{port=\"eth1\",reason=\"ttl-expired\"}",
                3.0,
            ),
            ("mplsxdp_exception_bytes_total{port=\"eth1\",reason=\"no-route\"}", 0.0),
            ("mplsxdp_slow_path_packets_total{outcome=\"answered\"}", 2.0),
            ("mplsxdp_forwarded_bytes_total", 1100.0),
            ("mplsxdp_next_hops{state=\"linkdown\"}", 1.0),
            ("mplsxdp_next_hops{state=\"resolved\"}", 2.0),
            ("mplsxdp_backups_in_use", 1.0),
            ("mplsxdp_next_hop_resolved{via=\"10.0.0.1\",dev=\"eth1\"}", 0.0),
            ("mplsxdp_next_hop_routes{via=\"10.0.0.1\",dev=\"eth1\"}", 6.0),
            ("mplsxdp_next_hop_backup_in_use{via=\"10.0.0.2\",dev=\"eth1\"}", 0.0),
            ("mplsxdp_xsk_ring_full_packets_total{port=\"eth1\",queue=\"0\"}", 1.0),
            ("mplsxdp_feed_synced{source=\"fpm\"}", 1.0),
            ("mplsxdp_feed_state{source=\"frr\",state=\"stale\"}", 1.0),
            ("mplsxdp_feed_connections_total{source=\"fpm\"}", 2.0),
            ("mplsxdp_feed_received_bytes_total{source=\"fpm\"}", 99.0),
            ("mplsxdp_feed_failures_total{source=\"frr\"}", 1.0),
            ("mplsxdp_route_packets_total{label=\"100\"}", 5.0),
            ("mplsxdp_route_bytes_total{prefix=\"10.4.4.0/24\",table=\"10\"}", 60.0),
            ("mplsxdp_control_calls_total{method=\"GetStatus\"}", 0.0),
            ("mplsxdp_control_errors_total{method=\"other\"}", 0.0),
            ("mplsxdp_metrics_left_out", 1.0),
            ("mplsxdp_event_loop_held_seconds_bucket{le=\"0.002\"}", 0.0),
            ("mplsxdp_event_loop_held_seconds_bucket{le=\"0.005\"}", 1.0),
            ("mplsxdp_event_loop_held_seconds_bucket{le=\"+Inf\"}", 1.0),
            ("mplsxdp_event_loop_delay_seconds_count", 0.0),
            ("process_cpu_seconds_total", 1.5),
            ("process_threads", 3.0),
        ] {
            assert_eq!(found.get(series), Some(&value), "{series} of\n{open}");
        }
        assert!(
            found.contains_key("mplsxdp_table_memory_bytes{table=\"META\"}") && !open.contains("_entries{table=\"META")
        );
        let meaning = r#"mplsxdp_reason_info{reason="no-route",meaning="It is a \"reason\"\\."}"#;
        assert_eq!(found.get(meaning), Some(&1.0));
    }

    /// <https://prometheus.io/docs/practices/naming/>, and the rules of OpenMetrics for suffixes.
    #[test]
    fn names_follow_the_conventions() {
        let open = Format::OpenMetrics.write(snapshot()).unwrap();
        let mut families = BTreeSet::new();
        let mut current = ("", "");
        for line in open.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(
                        help.ends_with('.') && !help.starts_with(char::is_lowercase),
                        "{name}: {help}"
                    );
                }
                ["#", "TYPE", name, kind] => {
                    assert!(name.starts_with("mplsxdp_") || name.starts_with("process_"), "{name}");
                    assert!(families.insert(name), "{name} is there twice");
                    current = (name, kind);
                }
                ["#", "UNIT", name, unit] => {
                    assert!(name == current.0 && name.ends_with(unit) && ["bytes", "seconds"].contains(&unit));
                }
                ["#", "EOF"] => {}
                _ => {
                    let name = line.split(['{', ' ']).next().unwrap();
                    let suffixes: &[&str] = match current.1 {
                        "counter" => &["_total"],
                        "info" => &["_info"],
                        "gauge" => &[""],
                        "histogram" => &["_bucket", "_sum", "_count"],
                        kind => panic!("{kind}"),
                    };
                    let is_of_family = |suffix: &&str| name.strip_suffix(*suffix) == Some(current.0);
                    assert!(suffixes.iter().any(is_of_family), "{name} is not of {current:?}");
                }
            }
        }
    }

    #[test]
    fn an_instance_without_anything_has_no_empty_families() {
        let text = Format::Text.write(Snapshot::default()).unwrap();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let has_sample = lines.peek().is_some_and(|next| !next.starts_with('#'));
            assert!(!line.starts_with("# TYPE") || has_sample, "{line}");
        }
    }

    #[test]
    fn more_next_hops_than_the_limit_are_counted_by_state_only() {
        let many = 0..MAX_NEXT_HOPS + 10;
        let next_hops = many.map(|number| next_hop(&format!("n{number}"), "eth1", Resolution::Static, None));
        let snapshot = Snapshot {
            next_hops: next_hops.collect(),
            ..Snapshot::default()
        };
        let text = Format::Text.write(snapshot).unwrap();
        let each = text.lines().filter(|line| line.starts_with("mplsxdp_next_hop_routes{"));
        assert_eq!(each.count(), MAX_NEXT_HOPS);
        let found = samples(&text);
        assert_eq!(
            found["mplsxdp_next_hops{state=\"static\"}"],
            (MAX_NEXT_HOPS + 10) as f64
        );
        assert_eq!(found["mplsxdp_metrics_left_out"], 1.0);
    }

    #[test]
    fn the_client_chooses_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                Format::OpenMetrics,
            ),
            ("Application/OpenMetrics-Text", Format::OpenMetrics),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, */*;q=0.8", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;version=2.0.0", Format::Text),
            ("application/openmetrics-text;q=0.3,text/plain;q=0.9", Format::Text),
        ] {
            assert_eq!(Format::of(accept), format, "{accept}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read(accept in ".{0,80}") {
            Format::of(&accept);
        }
    }
}

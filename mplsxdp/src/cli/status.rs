//! `status` and `stats`.

use super::{Failure, Session};
use crate::control::api::{SavedState, Stats, Status, UnknownLabel};

pub fn status(session: &mut Session) -> Result<(), Failure> {
    let status = session.client()?.status()?;
    let out = &mut session.out;
    if out.style.json {
        return out.json(&status);
    }
    out.lines(&lines(&status))?;
    if out.style.brief {
        return Ok(());
    }
    let head = ["TABLE", "USED", "CAPACITY", "MEMORY"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head)
        .chain(status.tables.iter().map(|table| {
            [
                table.name.clone(),
                table.used.to_string(),
                table.capacity.to_string(),
                format!("{} KiB", table.memory_bytes.div_ceil(1024)),
            ]
        }))
        .collect();
    out.table(&rows, &[1, 2, 3])
}

fn lines(status: &Status) -> Vec<String> {
    let Status {
        version,
        abi_version,
        instance,
        pid,
        mode,
        ttl_mode,
        tunnel_ttl,
        links,
        label_routes,
        prefix_routes,
        next_hops,
        unresolved_next_hops,
        uncounted_routes,
        log_lines_lost,
        log_lines_left_out,
        unknown,
        icmp_via,
        netns,
        config_file,
        ports,
        preferences,
        ip_ttl_propagate,
        default_ttl,
        frr_stale_seconds,
        state,
        ..
    } = status;
    let (minutes, seconds) = (status.uptime_seconds / 60, status.uptime_seconds % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let tc = if status.tc_propagate { " tc-propagate" } else { "" };
    let kernels = ip_ttl_propagate.zip(*default_ttl).map(|(propagates, ttl)| {
        let propagates = u8::from(propagates);
        format!(" ip-ttl-propagate {propagates} default-ttl {ttl}")
    });
    let kernels = kernels.unwrap_or_default();
    let local = status
        .local
        .as_ref()
        .map(|name| format!(" local {name}"))
        .unwrap_or_default();
    let mut lines = vec![
        format!(
            "instance {instance} pid {pid} up {hours}:{minutes:02}:{seconds:02} version {version} abi {abi_version}"
        ),
        format!("    mode {mode} ttl-propagate {ttl_mode} tunnel-ttl {tunnel_ttl}{kernels}{tc}"),
        format!("    unknown {unknown} icmp-via {icmp_via}{local}"),
        format!("    links {links} label routes {label_routes} prefix routes {prefix_routes}"),
        format!("    next hops {next_hops} unresolved {unresolved_next_hops}"),
    ];
    if let Some(ports) = ports {
        lines.push(format!(
            "    ports {}",
            if ports.is_empty() {
                "none".into()
            } else {
                ports.join(" ")
            }
        ));
    }
    if let Some(preferences) = preferences {
        let mut ranked: Vec<_> = preferences.iter().map(|(source, number)| (number, source)).collect();
        ranked.sort();
        let ranked = ranked.iter().map(|(number, source)| format!(" {source}={number}"));
        lines.push(format!("    prefer{}", ranked.collect::<String>()));
    }
    if let Some(seconds) = frr_stale_seconds {
        lines.push(format!(
            "    frr stale: no answer for {}; its backups stay: `sync show`",
            ago(*seconds as f64)
        ));
    }
    let netns = netns.as_ref().map(|name| format!("netns {name}"));
    let config = config_file.as_ref().map(|file| format!("config {file}"));
    let place: Vec<_> = netns.into_iter().chain(config).collect();
    if !place.is_empty() {
        lines.push(format!("    {}", place.join(" ")));
    }
    if let Some(state) = state {
        let SavedState {
            directory,
            snapshot_bytes,
            journal_bytes,
            failure,
            failing_since,
        } = state;
        let (snapshot, journal) = (snapshot_bytes.div_ceil(1024), journal_bytes.div_ceil(1024));
        lines.push(format!(
            "    state {directory} snapshot {snapshot} KiB journal {journal} KiB"
        ));
        if let (Some(failure), Some(since)) = (failure, failing_since) {
            lines.push(format!("    not saved since {since}: {failure}"));
        }
    }
    if *uncounted_routes > 0 {
        lines.push(format!(
            "    uncounted routes {uncounted_routes}: raise --counter-slots"
        ));
    }
    if *log_lines_lost > 0 || *log_lines_left_out > 0 {
        lines.push(format!(
            "    log lines lost {log_lines_lost} left out {log_lines_left_out}"
        ));
    }
    lines
}

pub fn stats(all: bool, session: &mut Session) -> Result<(), Failure> {
    let stats = session.client()?.stats(all)?;
    let out = &mut session.out;
    if out.style.json {
        return out.json(&stats);
    }
    let Stats {
        reasons,
        slow_path,
        forwarded,
        uncounted_routes,
    } = stats;
    if !reasons.is_empty() {
        let head = ["PORT", "REASON", "PACKETS", "BYTES", "POLICED", "UNHEARD", "MEANING"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head)
            .chain(reasons.into_iter().map(|reason| {
                [
                    reason.port,
                    reason.reason,
                    reason.packets.to_string(),
                    reason.bytes.to_string(),
                    reason.policed.to_string(),
                    reason.unheard.to_string(),
                    reason.description,
                ]
            }))
            .collect();
        out.table(&rows, &[2, 3, 4, 5])?;
    }
    out.line(&format!(
        "forwarded packets {} bytes {}",
        forwarded.packets, forwarded.bytes
    ))?;
    if uncounted_routes > 0 {
        out.line(&format!(
            "not counted: {uncounted_routes} routes without a counter; raise --counter-slots"
        ))?;
    }
    if slow_path.is_empty() {
        return Ok(());
    }
    let head = ["SLOW PATH", "PACKETS", "MEANING"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head)
        .chain(
            slow_path
                .into_iter()
                .map(|outcome| [outcome.name, outcome.packets.to_string(), outcome.description]),
        )
        .collect();
    out.table(&rows, &[1])
}

/// `stats --unknown`.
pub fn unknown_labels(session: &mut Session) -> Result<(), Failure> {
    let labels = session.client()?.unknown_labels()?;
    let out = &mut session.out;
    if out.style.json {
        return out.json(&labels);
    }
    if labels.is_empty() {
        return Ok(());
    }
    let head = ["PORT", "LABEL", "PACKETS", "RATE(pps)", "LAST"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head)
        .chain(labels.into_iter().map(|unknown| {
            let UnknownLabel {
                port,
                label,
                packets,
                rate_pps,
                idle_seconds,
            } = unknown;
            [
                port,
                label.to_string(),
                packets.to_string(),
                format!("{rate_pps:.1}"),
                ago(idle_seconds),
            ]
        }))
        .collect();
    out.table(&rows, &[1, 2, 3, 4])
}

/// An elapsed time, with a precision that suits its length.
pub(super) fn ago(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_have_passed() {
        for (seconds, text) in [
            (0.04, "0.0s"),
            (59.9, "59.9s"),
            (60.0, "1m00s"),
            (3599.9, "59m59s"),
            (3600.0, "1h00m"),
            (100_000.0, "27h46m"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }
}

//! `status` and `stats`.

use super::{Failure, Session};
use crate::control::api::{Stats, Status};

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
        ..
    } = status;
    let (minutes, seconds) = (status.uptime_seconds / 60, status.uptime_seconds % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let tc = if status.tc_propagate { " tc-propagate" } else { "" };
    let mut lines = vec![
        format!(
            "instance {instance} pid {pid} up {hours}:{minutes:02}:{seconds:02} version {version} abi {abi_version}"
        ),
        format!("    mode {mode} ttl-propagate {ttl_mode} tunnel-ttl {tunnel_ttl}{tc}"),
        format!("    links {links} label routes {label_routes} prefix routes {prefix_routes}"),
        format!("    next hops {next_hops} unresolved {unresolved_next_hops}"),
    ];
    if *uncounted_routes > 0 {
        lines.push(format!(
            "    uncounted routes {uncounted_routes}: raise --counter-slots"
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
        forwarded,
        uncounted_routes,
    } = stats;
    if !reasons.is_empty() {
        let head = ["PORT", "REASON", "PACKETS", "BYTES", "MEANING"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head)
            .chain(reasons.into_iter().map(|reason| {
                [
                    reason.port,
                    reason.reason,
                    reason.packets.to_string(),
                    reason.bytes.to_string(),
                    reason.description,
                ]
            }))
            .collect();
        out.table(&rows, &[2, 3])?;
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
    Ok(())
}

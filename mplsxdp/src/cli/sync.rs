//! `sync`: the sources of routes that an instance follows, and what comparing them with the kernel finds.

use super::output::Output;
use super::status::ago;
use super::{Failure, Session, verb};
use crate::control::api::{FpmServer, FrrVty, SyncCheck, SyncDifference, SyncSource};

pub const HELP: &str = "Verbs:
  sync show              The sources of routes that the instance follows (`load --sync`), and how far it is.
  sync check             Read the kernel's routes again, compare them with what is installed, and list what is stale, missing or
                         different. Exits with 1 if anything is. The instance does so every 5 minutes, with --repair.
  sync check --repair    The same, and correct the differences.";

#[derive(Clone, Copy)]
enum Verb {
    Show,
    Check,
}

pub fn sync(words: &[String], repair: bool, session: &mut Session) -> Result<(), Failure> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let chosen = match words.as_slice() {
        [] => Some(Verb::Show),
        [word] => verb(
            word,
            &[("show", Verb::Show), ("list", Verb::Show), ("check", Verb::Check)],
        ),
        _ => None,
    };
    match chosen {
        Some(Verb::Show) if repair => Err(Failure::Usage("`--repair` is only for `sync check`".into())),
        Some(Verb::Show) => show(session),
        Some(Verb::Check) => check(repair, session),
        None => Err(Failure::Usage(format!(
            "`sync {}` is not a command; `sync show` and `sync check` are",
            words.join(" ")
        ))),
    }
}

fn show(session: &mut Session) -> Result<(), Failure> {
    let sources = session.client()?.sync()?;
    let out = &mut session.out;
    if out.style.json {
        return out.json(&sources);
    }
    if sources.is_empty() {
        return out.line("no source of routes is followed (`load --sync kernel` follows the kernel)");
    }
    for source in sources {
        let SyncSource {
            source,
            state,
            peer,
            labels,
            prefixes,
            nexthop_objects,
            pending,
            refused,
            audited_seconds,
            differences,
            ip_ttl_propagate,
            default_ttl,
            server,
            vty,
        } = source;
        let peer = peer.map(|peer| format!(" peer {peer}")).unwrap_or_default();
        out.line(&format!("{source}: {}{peer}", state.name()))?;
        if let Some(vty) = vty {
            out.line(&format!(
                "    labels {labels} prefixes {prefixes} with backups, refused {refused}"
            ))?;
            out.lines(&lines_of_vty(&vty))?;
            continue;
        }
        out.line(&format!(
            "    labels {labels} prefixes {prefixes} nexthop-objects {nexthop_objects} pending {pending} refused {refused}"
        ))?;
        if let Some((seconds, differences)) = audited_seconds.zip(differences) {
            out.line(&format!("    compared {} ago: {differences} differences", ago(seconds)))?;
        }
        if let Some((propagates, ttl)) = ip_ttl_propagate.zip(default_ttl) {
            out.line(&format!(
                "    ip-ttl-propagate {} default-ttl {ttl}",
                u8::from(propagates)
            ))?;
        }
        if let Some(server) = server {
            out.lines(&lines_of(&server))?;
        }
    }
    Ok(())
}

fn lines_of(server: &FpmServer) -> [String; 4] {
    let FpmServer {
        address,
        dialect,
        connections,
        refused_connections,
        frames,
        bytes,
        labels,
        labels_deleted,
        prefixes,
        prefixes_deleted,
        nexthop_objects,
        nexthop_objects_deleted,
        ignored,
        unreadable,
        framing_lost,
        coalesced,
        queued,
    } = server;
    let dialect = dialect
        .as_ref()
        .map(|dialect| format!(" by {dialect}"))
        .unwrap_or_default();
    [
        format!(
            "    server {address}{dialect}: connections {connections} refused {refused_connections} frames {frames} bytes {bytes}"
        ),
        format!("        added labels {labels} prefixes {prefixes} nexthop-objects {nexthop_objects}"),
        format!(
            "        deleted labels {labels_deleted} prefixes {prefixes_deleted} nexthop-objects {nexthop_objects_deleted}"
        ),
        format!(
            "        ignored {ignored} unreadable {unreadable} framing-lost {framing_lost} coalesced {coalesced} queued {queued}"
        ),
    ]
}

fn lines_of_vty(vty: &FrrVty) -> Vec<String> {
    let FrrVty {
        socket,
        answers,
        failures,
        answered_seconds,
        took_seconds,
        bytes,
        pseudowires,
        failure,
    } = vty;
    let mut lines = vec![format!("    socket {socket}: answers {answers} failures {failures}")];
    if let Some((seconds, took)) = answered_seconds.zip(*took_seconds) {
        lines.push(format!(
            "        last answer {} ago, {bytes} bytes in {took:.3} s, pseudowires {pseudowires}",
            ago(seconds)
        ));
    }
    lines.extend(failure.iter().map(|failure| format!("        {failure}")));
    lines
}

fn check(repair: bool, session: &mut Session) -> Result<(), Failure> {
    let checks = session.client()?.check_sync(repair)?;
    let out = &mut session.out;
    if out.style.json {
        out.json(&checks)?;
    } else if checks.is_empty() {
        return Err(Failure::Refused(
            "the instance follows no source of routes: load it with `--sync kernel`".into(),
        ));
    } else {
        for check in &checks {
            print(check, out)?;
        }
    }
    let is_wrong = |check: &SyncCheck| {
        let installed = check.stale + check.missing + check.different;
        check.unmatched > 0 || installed > 0 && !check.repaired
    };
    if checks.iter().any(is_wrong) {
        out.flush()?;
        return Err(Failure::Reported);
    }
    Ok(())
}

fn print(check: &SyncCheck, out: &mut Output) -> Result<(), Failure> {
    let SyncCheck {
        source,
        checked,
        stale,
        missing,
        different,
        unmatched,
        differences,
        repaired,
    } = check;
    let repaired = if *repaired { ", repaired" } else { "" };
    let left = stale + missing + different + unmatched - differences.len() as u64;
    let unmatched = match unmatched {
        0 => String::new(),
        count => format!(" unmatched {count}"),
    };
    out.line(&format!(
        "{source}: {checked} routes compared: stale {stale} missing {missing} different {different}{unmatched}{repaired}"
    ))?;
    for SyncDifference {
        route,
        problem,
        wanted,
        installed,
    } in differences
    {
        out.line(&format!("    {route} {}", problem.name()))?;
        for (what, line) in [(&**source, wanted), ("installed", installed)] {
            if let Some(line) = line {
                out.line(&format!("        {what}: {line}"))?;
            }
        }
    }
    if left > 0 {
        out.line(&format!("    and {left} more"))?;
    }
    Ok(())
}

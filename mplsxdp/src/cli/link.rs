//! `link` and `neigh`: ports, and the next hops behind them.

use super::output::Output;
use super::{Failure, Session, verb};
use crate::control::api::{BackupState, Checksum, Link, NextHopState, Resolution, ViaAddress, ViaFamily};

pub const HELP: &str = "\
Verbs:
  link show [IFACE]
  link add IFACE [tx-only] [checksum {finish|trust}]
                                  take an interface, or a VLAN on it (eth1.100, eth1.100.10), as a port
  link del IFACE                  give it back
  link set IFACE mpls {on|off}    accept labelled frames, or drop them";

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
        return Err(Failure::Usage(format!("`{word}` is not known here\n{HELP}")));
    };
    // iproute2 has `dev` in front of the name, or not.
    let words: Vec<_> = words
        .enumerate()
        .filter(|pair| *pair != (0, "dev"))
        .map(|(_, word)| word)
        .collect();
    match (verb, words.as_slice()) {
        (Verb::Show, []) => show(None, session),
        (Verb::Show, [name]) => show(Some(name), session),
        (Verb::Add, [name, options @ ..]) => {
            let (tx_only, checksum) = add_options(options)
                .ok_or_else(|| Failure::Usage(format!("invalid arguments for `link {word}`\n{HELP}")))??;
            Ok(session.client()?.add_link(name, tx_only, checksum)?)
        }
        (Verb::Delete, [name]) => Ok(session.client()?.delete_link(name)?),
        (Verb::Set, [name, "mpls", "on"]) => Ok(session.client()?.set_link(name, true)?),
        (Verb::Set, [name, "mpls", "off"]) => Ok(session.client()?.set_link(name, false)?),
        _ => Err(Failure::Usage(format!("invalid arguments for `link {word}`\n{HELP}"))),
    }
}

/// What `link add` has behind the name, in any order; `None` if that is something else.
fn add_options(mut words: &[&str]) -> Option<Result<(bool, Option<Checksum>), Failure>> {
    let (mut tx_only, mut checksum) = (false, None);
    loop {
        words = match words {
            [] => return Some(Ok((tx_only, checksum))),
            ["tx-only", rest @ ..] if !tx_only => {
                tx_only = true;
                rest
            }
            ["checksum", value, rest @ ..] if checksum.is_none() => {
                match value.parse() {
                    Ok(value) => checksum = Some(value),
                    Err(error) => return Some(Err(Failure::Usage(error))),
                }
                rest
            }
            _ => return None,
        }
    }
}

pub fn neigh(words: &[String], session: &mut Session) -> Result<(), Failure> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let dev = match words.as_slice() {
        [] => None,
        [word] if verb(word, VERBS).is_some_and(|verb| matches!(verb, Verb::Show)) => None,
        [word, "dev", name] if verb(word, VERBS).is_some_and(|verb| matches!(verb, Verb::Show)) => Some(*name),
        _ => return Err(Failure::Usage("it is `neigh show [dev IFACE]`".into())),
    };
    let mut neighbors = session.client()?.neighbors()?;
    neighbors.retain(|neighbor| dev.is_none_or(|dev| neighbor.dev.as_deref() == Some(dev)));
    if session.out.style.json {
        return session.out.json(&neighbors);
    }
    neighbors.iter().try_for_each(|neighbor| {
        let routes = neighbor.routes;
        session.out.line(&format!(
            "{} {} routes {routes}",
            via(&neighbor.via),
            next_hop(neighbor)
        ))
    })
}

/// Where a next hop is and how it is doing, without its address.
pub fn next_hop(next_hop: &NextHopState) -> String {
    let dev = next_hop
        .dev
        .as_deref()
        .map(|dev| format!("dev {dev} "))
        .unwrap_or_default();
    let mac = next_hop
        .mac
        .as_deref()
        .map(|mac| format!("lladdr {mac} "))
        .unwrap_or_default();
    let backup = next_hop.backup.as_ref().map(backup).unwrap_or_default();
    format!("{dev}{mac}{}{backup}", state(next_hop.state))
}

fn backup(backup: &BackupState) -> String {
    let with = |name: &str, value: Option<&str>| value.map(|value| format!(" {name} {value}")).unwrap_or_default();
    format!(
        " backup {}{}{} {}",
        via(&backup.via),
        with("dev", backup.dev.as_deref()),
        with("lladdr", backup.mac.as_deref()),
        state(backup.state)
    )
}

/// As the control socket names it.
pub fn state(state: Resolution) -> &'static str {
    match state {
        Resolution::Resolved => "resolved",
        Resolution::Static => "static",
        Resolution::Incomplete => "incomplete",
        Resolution::Failed => "failed",
        Resolution::BadMac => "bad_mac",
        Resolution::NoRoute => "no_route",
        Resolution::LinkDown => "link_down",
        Resolution::NotAPort => "not_a_port",
        Resolution::NoArp => "no_arp",
        Resolution::NoSuchDev => "no_such_dev",
        Resolution::Local => "local",
    }
}

fn via(via: &ViaAddress) -> String {
    let address = &via.address;
    match via.family {
        ViaFamily::Inet | ViaFamily::Inet6 => address.to_string(),
        ViaFamily::Link => format!("link {address}"),
    }
}

fn show(name: Option<&str>, session: &mut Session) -> Result<(), Failure> {
    let mut links = session.client()?.links()?;
    if let Some(name) = name {
        links.retain(|link| link.name == name);
        if links.is_empty() {
            return Err(Failure::Refused(format!(
                "{name} is not a port: `link add {name}` makes it one, or says why it can be none"
            )));
        }
    }
    let out = &mut session.out;
    if out.style.json {
        out.json(&links)
    } else if out.style.brief {
        brief(&links, out)
    } else {
        links.iter().try_for_each(|link| out.lines(&lines(link)))
    }
}

fn brief(links: &[Link], out: &mut Output) -> Result<(), Failure> {
    let rows: Vec<_> = links
        .iter()
        .map(|link| {
            [
                link.name.clone(),
                up(link).into(),
                link.mac.clone(),
                link.mode.clone(),
                mpls(link),
            ]
        })
        .collect();
    out.table(&rows, &[])
}

fn lines(link: &Link) -> Vec<String> {
    let Link {
        name,
        mac,
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
            "{ifindex}{name}{parent}: {} {} mtu {mtu} mode {mode}",
            up(link),
            mpls(link)
        ),
        format!(
            "    link/ether {mac}{tags} bpf_link {link_id} prog {program_id}{put_back}{redirect} checksum {}",
            link.checksum.name()
        ),
    ];
    lines.extend(link.problem.as_ref().map(|problem| format!("    problem: {problem}")));
    lines.extend(checksum_hint(link));
    lines
}

/// How a port that finishes checksums is made faster.
fn checksum_hint(link: &Link) -> Option<String> {
    let finishes = link.checksum == Checksum::Finish && !link.local && !link.tx_only && link.parent.is_none();
    finishes.then(|| {
        format!(
            "    faster: `ethtool -K PEER tx off` on what sends to {name}, then `link del {name}` and `link add {name} checksum trust`",
            name = link.name
        )
    })
}

fn up(link: &Link) -> &'static str {
    match (link.up, link.program_id) {
        (true, 0) => "DETACHED",
        (true, _) => "UP",
        (false, 0) => "WAITING",
        (false, _) => "DOWN",
    }
}

/// What kind of port it is, and whether it accepts labelled frames.
fn mpls(link: &Link) -> String {
    let mpls = match (link.carrier, link.tx_only, link.mpls) {
        (true, ..) => "carrier",
        (_, true, _) => "tx-only",
        (_, _, true) => "mpls on",
        (_, _, false) => "mpls off",
    };
    format!("{mpls}{}", if link.local { " local" } else { "" })
}

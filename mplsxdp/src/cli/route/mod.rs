//! `route`: verbs and output in the style of iproute2.

mod file;
pub(super) mod show;

use std::io::{self, IsTerminal};

pub(super) use self::file::saved_routes;
use self::file::{Restored, restore, save, warn_of_unreachable};
pub(super) use self::show::{JsonRoute, desired, lines as route_lines};
use self::show::{get, show};
use super::output::Output;
use super::{Failure, Session, verb};
use crate::control::api::{Changes, KeyFilter, RouteFilter};
use crate::route::Source;
use crate::route::line::{self, Context, Family, GrammarError, SELECTORS};

pub const HELP: &str = "\
Verbs:
  route {add|replace|change} LABEL [as OUT[/OUT...]] via {inet A|inet6 A|link MAC} [dev IFACE] [ttl-propagate {enabled|disabled}]
  route {add|replace|change} LABEL dev lo [pass]      pass: to the kernel, untouched, if no label is left
  route {add|replace|change} {LABEL|PREFIX} pass      left to the kernel, untouched
  route {add|replace|change} PREFIX encap mpls OUT[/OUT...] [ttl N] via {inet A|inet6 A|link MAC} [dev IFACE]
  route {add|replace|change} LABEL xconnect IFACE [no-cw] [flow-label] [tagged|vlan N]
                                  the frames of a pseudowire leave by this port; see `xconnect` for the other way
  ... PREFIX [table T|vrf VRF]     only for packets from ports in the VRF with this routing table; `main`: outside of VRFs
  ... via A [dev IFACE] backup [as OUT[/OUT...]|encap mpls OUT[/OUT...] [ttl N]] via {inet B|inet6 B|link MAC} [dev IFACE]
                                  B is used while A cannot be reached, with the same labels or with its own
  ... {LABEL|PREFIX} nexthop [as OUT|encap mpls OUT] via A ... [weight N] nexthop ...     next hops that share the flows
  route del {LABEL|PREFIX} [...]  with more of the route: deleted only if all of it matches
  ... [proto {NAME|NUMBER}] [metric N]     kept and shown; they do not affect forwarding
  route show [SELECTOR]           the installed routes, or the selected ones; counters with -s
  route show all                  also routes on standby: another owner's route for the label or prefix is preferred
  route get {LABEL|PREFIX|ADDRESS} [table T|vrf VRF]   with the state of its next hops, and their buckets
  route flush SELECTOR            delete the selected routes
  route save > FILE               all routes, one per line
  route restore < FILE            make the routes equal to the file's, as a whole or not at all; --allow-empty: delete all
Selectors; a route must match all of them: all, LABEL, PREFIX, xconnect IFACE, root PREFIX (it and those inside it), match PREFIX (it and
those that cover it), table T, vrf VRF, proto PROTO, via {inet A|inet6 A|link MAC}, dev IFACE";

#[derive(Clone, Copy)]
enum Verb {
    Show,
    Get,
    Add,
    Change,
    Replace,
    Several,
    Delete,
    Flush,
    Save,
    Restore,
}

/// In the order in which iproute2 resolves abbreviations.
const VERBS: &[(&str, Verb)] = &[
    ("list", Verb::Show),
    ("show", Verb::Show),
    ("lst", Verb::Show),
    ("ls", Verb::Show),
    ("get", Verb::Get),
    ("add", Verb::Add),
    ("change", Verb::Change),
    ("chg", Verb::Change),
    ("replace", Verb::Replace),
    ("prepend", Verb::Several),
    ("append", Verb::Several),
    ("delete", Verb::Delete),
    ("flush", Verb::Flush),
    ("save", Verb::Save),
    ("restore", Verb::Restore),
];

/// The options of `route`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    pub allow_empty: bool,
    pub owner: Option<Source>,
}

pub fn route(words: &[String], choices: Choices, session: &mut Session) -> Result<(), Failure> {
    let Choices { allow_empty, owner } = choices;
    let changes = |session: &mut Session| -> Result<(), Failure> {
        session.client()?.set_owner(owner);
        Ok(())
    };
    let (word, rest) = words
        .split_first()
        .map_or(("show", &[][..]), |(word, rest)| (word, rest));
    let Some(verb) = verb(word, VERBS) else {
        return Err(Failure::Usage(format!("`{word}` is not a verb of `route`\n{HELP}")));
    };
    let family = session.family;
    let line = rest.join(" ");
    let in_line = |error: GrammarError| match line.is_empty() {
        true => Failure::Usage(format!("`route {word}`: {error}")),
        false => Failure::Usage(format!("{error}\n{}", error.point_out(&line))),
    };
    let read_route = |session: &mut Session| read(session, |context| line::route(&line, context).map_err(in_line));
    let read_selection =
        |session: &mut Session| read(session, |context| line::selection(&line, context).map_err(in_line));
    let only = |usage: &str| Failure::Usage(format!("`route {word}` takes no other arguments: `{usage}`"));
    match verb {
        _ if allow_empty && !matches!(verb, Verb::Restore) => Err(Failure::Usage(
            "`--allow-empty` is for `route restore`: it lets an input without routes delete all routes".into(),
        )),
        Verb::Show => {
            let chosen = read_selection(session)?;
            let chosen = chosen.unwrap_or_else(|| of_family(family));
            show(&RouteFilter { owner, ..chosen }, session)
        }
        Verb::Get => {
            let key = read(session, |context| line::key(&line, context).map_err(in_line))?;
            get(key, session)
        }
        Verb::Add | Verb::Change | Verb::Replace => {
            let routes = [read_route(session)?];
            changes(session)?;
            let client = session.client()?;
            let changed = match verb {
                Verb::Add => client.add_routes(&routes),
                Verb::Change => client.change_routes(&routes),
                _ => client.replace_routes(&routes),
            }?;
            session.warn(changed.warnings);
            Ok(())
        }
        Verb::Several => Err(Failure::Refused(format!(
            "`{word}`: a label or prefix has only one route: use `add` or `replace`"
        ))),
        Verb::Delete => {
            let described = read(session, |context| line::deletion(&line, context).map_err(in_line))?;
            changes(session)?;
            session.client()?.delete_routes([&described])?;
            Ok(())
        }
        Verb::Flush => match read_selection(session)? {
            None => Err(Failure::Usage(format!(
                "`route flush` needs arguments, as with `ip`: `route flush all` deletes all routes; {SELECTORS}"
            ))),
            Some(chosen) => {
                changes(session)?;
                let deleted = session.client()?.flush_routes(&(&chosen).into())?;
                report(deleted, &mut session.out)
            }
        },
        Verb::Save if !rest.is_empty() => Err(only("route save > FILE")),
        Verb::Restore if !rest.is_empty() => Err(only("route restore < FILE")),
        Verb::Save | Verb::Restore if family != Family::Any => Err(Failure::Usage(format!(
            "`route {word}` is about all routes: no `-f`, `-M`, `-4` or `-6`"
        ))),
        Verb::Save => save(owner.unwrap_or_default(), session),
        Verb::Restore if session.stdin_is_taken => Err(Failure::Usage(
            "`route restore` reads its standard input, and the batch comes from there".into(),
        )),
        Verb::Restore if io::stdin().is_terminal() => Err(Failure::Usage(
            "`route restore` reads its standard input: `mplsxdp route restore < FILE`".into(),
        )),
        Verb::Restore => {
            // A separate connection: if the restore fails, its transaction ends with it.
            let mut client = session.connect()?;
            client.set_owner(owner);
            let committed = restore(io::stdin().lock(), allow_empty, &mut client)?;
            warn_of_unreachable(&committed);
            session.warn(committed.warnings.clone());
            if session.out.style.json {
                return session.out.json(&Restored::from(committed));
            }
            report(committed.changes, &mut session.out)
        }
    }
}

/// Reads a line that may name VRFs, which the instance is asked about.
fn read<T>(session: &mut Session, parse: impl FnOnce(Context<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    let family = session.family;
    let mut failed = None;
    let mut find_vrf = |name: &str| {
        let found = session.client().and_then(|client| Ok(client.vrf_table(name)?));
        found.map_err(|failure| failed = Some(failure)).ok()
    };
    let read = parse(Context {
        family,
        find_vrf: Some(&mut find_vrf),
    });
    match failed {
        Some(failure) => Err(failure),
        None => read,
    }
}

/// Whether a command installs a route but names no next hop: the lines below may name them, as `ip route` prints them.
pub(super) fn takes_next_hops(command: &str) -> bool {
    let mut words = command.split_ascii_whitespace();
    let is_route = words.any(|word| "route".starts_with(word));
    let verb = words.next().and_then(|word| verb(word, VERBS));
    is_route
        && matches!(verb, Some(Verb::Add | Verb::Change | Verb::Replace))
        && words.next().is_some()
        && !words.any(|word| matches!(word, "via" | "dev" | "oif" | "pass" | "xconnect"))
}

/// The filter for an empty selection.
fn of_family(family: Family) -> RouteFilter {
    RouteFilter::from(match family {
        Family::Any => KeyFilter::All,
        Family::Mpls => KeyFilter::Labels,
        Family::Inet => KeyFilter::V4Prefixes,
        Family::Inet6 => KeyFilter::V6Prefixes,
    })
}

/// Prints the number of changes, if asked.
fn report(changes: Changes, out: &mut Output) -> Result<(), Failure> {
    let Changes {
        added,
        replaced,
        deleted,
    } = changes;
    if out.style.json {
        out.json(&changes)
    } else if out.style.stats {
        out.line(&format!("{added} added, {replaced} replaced, {deleted} deleted"))
    } else {
        Ok(())
    }
}

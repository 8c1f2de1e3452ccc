//! `save` and `restore`: routes in a file.

use std::io::{self, BufRead, Write as _};

use serde::Serialize;

use super::show::desired;
use crate::cli::lines::{Kind, Lines, Unreadable};
use crate::cli::{Failure, Session};
use crate::control::api::{self, Changes, Refusal};
use crate::control::client::{Client, ClientError};
use crate::route::line::{self, Family};
use crate::route::{Route, RouteKey, Source};

/// Routes in one message of a restore: about a megabyte.
const BATCH: usize = 8192;
/// How many waiting routes a restore names.
const NAMED: usize = 10;

/// Prints the routes of one owner, for `restore`.
pub(super) fn save(owner: Source, session: &mut Session) -> Result<(), Failure> {
    let (client, out) = session.client_and_output()?;
    out.line("# Routes of mplsxdp, for `mplsxdp route restore`.")?;
    let list = api::ListRoutes {
        owner: Some(owner),
        standby: Some(true),
        ..api::ListRoutes::default()
    };
    client.routes(&list, |route| out.line(&desired(&route)?.to_string()))
}

/// Reads, checks and sends in one pass; only the commit changes anything.
pub(super) fn restore(input: impl BufRead, allow_empty: bool, client: &mut Client) -> Result<api::Committed, Failure> {
    // The line of each route, for an error that names a route by its index.
    let mut lines: Vec<u32> = Vec::new();
    let mut transaction = client.begin(true)?;
    let mut routes = Vec::with_capacity(BATCH);
    for saved in saved(input) {
        let (number, (given, _)) = saved?;
        lines.push(number);
        routes.push(given);
        if routes.len() == BATCH {
            transaction.stage(&routes).map_err(|error| by_line(error, &lines))?;
            routes.clear();
        }
    }
    if lines.is_empty() && !allow_empty {
        return Err(Failure::Refused(
            "the input has no route, and a restore of it would delete all routes: if that is meant (`route save` of an \
             instance without routes writes such a file), say `route restore --allow-empty`"
                .into(),
        ));
    }
    transaction.stage(&routes).map_err(|error| by_line(error, &lines))?;
    transaction.commit(allow_empty).map_err(|error| by_line(error, &lines))
}

/// The result of a restore, for programs.
#[derive(Serialize)]
pub(super) struct Restored {
    #[serde(flatten)]
    changes: Changes,
    unreachable: Vec<Unreachable>,
    unreachable_total: u64,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Unreachable {
    dst: String,
    reason: String,
}

impl From<api::Committed> for Restored {
    fn from(committed: api::Committed) -> Self {
        let unreachable = committed.unreachable.into_iter();
        Self {
            changes: committed.changes,
            unreachable: unreachable
                .map(|route| Unreachable {
                    dst: destination(route.key),
                    reason: route.reason,
                })
                .collect(),
            unreachable_total: committed.unreachable_total,
            warnings: committed.warnings,
        }
    }
}

/// In the format of `route show`.
fn destination(key: api::Key) -> String {
    RouteKey::try_from(key).map_or_else(|error| error.to_string(), |key| key.to_string())
}

/// Names some of the routes that were installed but wait for a next hop.
pub(super) fn warn_of_unreachable(committed: &api::Committed) {
    let total = committed.unreachable_total;
    if total == 0 {
        return;
    }
    let named = committed.unreachable.iter().take(NAMED);
    let lines = named.map(|route| format!("mplsxdp: {} waits: {}", destination(route.key), route.reason));
    let routes = if total == 1 { "route waits" } else { "routes wait" };
    let last = format!(
        "mplsxdp: {total} {routes} for a next hop that cannot be reached now; `route show` marks what is `unresolved` or `linkdown`"
    );
    for line in lines.chain([last]) {
        // If standard error is closed, that cannot be reported.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// The routes in a file written by `save`, with the lines where they begin.
pub(in crate::cli) fn saved_routes(input: impl BufRead) -> impl Iterator<Item = Result<(u32, Route), Failure>> {
    saved(input).map(|saved| saved.map(|(number, (_, route))| (number, route)))
}

/// The same, each also as the control socket takes it.
fn saved(input: impl BufRead) -> impl Iterator<Item = Result<(u32, (api::Route, Route)), Failure>> {
    let mut lines = Lines::new(input, Kind::Routes);
    let next = move || {
        let line = lines.next().transpose()?;
        Some(match lines.cut_off() {
            Some(line) => Err(Unreadable {
                line,
                reason: "the input ends within this line, which has no newline, so it may be cut off: if it is whole, \
                         end it with a newline (`echo >> FILE`)"
                    .into(),
            }),
            None => line,
        })
    };
    std::iter::from_fn(next).map(|line| {
        let (number, text) =
            line.map_err(|Unreadable { line, reason }| Failure::Refused(format!("line {line}: {reason}")))?;
        let route = line::given(&text, Family::Any).map_err(|error| {
            Failure::Refused(format!(
                "line {number}, column {}: {error}\n{}",
                error.column(&text),
                error.point_out(&text)
            ))
        })?;
        Ok((number, route))
    })
}

fn by_line(error: ClientError, lines: &[u32]) -> Failure {
    match &error {
        ClientError::Refused(api::Error::Refused(Refusal::RouteRefused { index, reason, .. })) => {
            match lines.get(*index) {
                Some(number) => Failure::Refused(format!("line {number}: {reason}")),
                None => error.into(),
            }
        }
        _ => error.into(),
    }
}

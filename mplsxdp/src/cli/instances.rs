//! `instances`: all instances on this machine, also those that do not run but forward.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::netns::Listening;
use super::{Failure, Session};
use crate::control::api::Status;
use crate::control::client::{self, Client, ClientError};
use crate::control::{self, RUN_DIR};
use crate::dataplane::pinned::{self, PinFolder};

/// How long an instance may take to answer. If it does not, it is listed without its details.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default, Serialize)]
struct Instance {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<String>,
    /// `None`: it does not run, but the programs of its last process are still on ports and forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    ports: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

pub fn instances(session: &mut Session) -> Result<(), Failure> {
    let Listening { clients, denied } = Listening::look(session.instance.dir())?;
    let mut instances = Vec::new();
    let mut silent = Vec::new();
    for mut client in clients {
        match ask(&mut client) {
            Ok(instance) => instances.push(instance),
            // It ended between the connection and its answer.
            Err(error) if error.is_ending() => {}
            Err(error) => silent.push(format!("instance `{}`: {error}", client.instance().name())),
        }
    }
    let dir = session.instance.dir();
    // Pins are the machine's, and do not tell the directory of their instance. Elsewhere than in the usual one, hardly any
    // is of this directory.
    let pinned = match dir == Path::new(RUN_DIR) {
        true => pinned::instances(),
        false => Vec::new(),
    };
    let dead = pinned.into_iter().filter(|name| {
        let is_held = control::Instance::in_dir(dir, name).is_ok_and(|instance| client::is_starting(&instance));
        !is_held && PinFolder::of(name).attached() > 0
    });
    instances.extend(dead.map(|name| Instance {
        name,
        ..Instance::default()
    }));
    instances.sort_by(|one, other| one.name.cmp(&other.name));
    print(instances, session)?;
    session.out.flush()?;
    if denied.is_empty() && silent.is_empty() {
        return Ok(());
    }
    silent.extend(denied.iter().map(|socket| format!("{socket}: no permission")));
    for reason in silent {
        // Nothing is left to report that standard error is closed.
        let _ = writeln!(io::stderr(), "mplsxdp: {reason}");
    }
    Err(Failure::Reported)
}

fn ask(client: &mut Client) -> Result<Instance, ClientError> {
    client.set_patience(Some(PATIENCE))?;
    let Status {
        version,
        instance,
        pid,
        since,
        netns,
        config_file,
        ports,
        ..
    } = client.status()?;
    Ok(Instance {
        name: instance,
        netns,
        pid: Some(pid),
        ports: ports.unwrap_or_default(),
        since,
        config_file,
        version: Some(version),
    })
}

fn print(instances: Vec<Instance>, session: &mut Session) -> Result<(), Failure> {
    let out = &mut session.out;
    if out.style.json {
        return out.json(&instances);
    }
    if instances.is_empty() {
        return Ok(());
    }
    let head = ["INSTANCE", "NETNS", "PID", "SINCE", "PORTS", "CONFIG"].map(str::to_owned);
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let rows: Vec<_> = std::iter::once(head)
        .chain(instances.into_iter().map(|instance| {
            [
                instance.name,
                known(instance.netns),
                instance
                    .pid
                    .map_or_else(|| "forwards".to_owned(), |pid| pid.to_string()),
                known(instance.since),
                known(Some(instance.ports.join(",")).filter(|ports| !ports.is_empty())),
                known(instance.config_file),
            ]
        }))
        .collect();
    out.table(&rows, &[2])
}

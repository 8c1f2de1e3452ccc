//! Network namespaces by name, and the instances that run in them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Failure;
use crate::control::Instance;
use crate::control::client::{self, Client, ClientError};
use crate::kernel::netns;

const NAMED: &str = "/run/netns";
/// How long an instance, which may be starting, may take to report where it runs.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// The inode of the namespace in nsfs, the same for all its names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Id(u64);

impl Id {
    fn of(path: impl AsRef<Path>) -> io::Result<Self> {
        netns::inode(path).map(Self)
    }

    /// The instance is asked if the kernel does not show it to this user, or if the instance has another PID namespace.
    fn of_peer(client: &mut Client) -> Result<Self, ClientError> {
        match client.pid().and_then(|pid| Self::of(format!("/proc/{pid}/ns/net"))) {
            Ok(id) => Ok(id),
            Err(_) => {
                client.set_patience(Some(ANSWER_WAIT))?;
                let status = client.status()?;
                client.set_patience(None)?;
                Ok(Self(status.netns_inode))
            }
        }
    }
}

/// The file of a namespace, by its `ip netns` name or its path.
pub fn path(name: &str) -> PathBuf {
    if name.contains('/') {
        PathBuf::from(name)
    } else {
        Path::new(NAMED).join(name)
    }
}

pub fn refused(what: &str, name: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Refused(format!(
        "cannot {what} the network namespace {}: {error}; `ip netns list` lists them",
        path(name).display()
    ))
}

/// Connects to the instance in the namespace: to the named one, or else to the only one there.
pub fn connect(name: &str, named: Option<&Instance>, dir: &Path) -> Result<Client, Failure> {
    let wanted = Id::of(path(name)).map_err(|error| refused("open", name, &error))?;
    if let Some(instance) = named {
        let mut client = Client::connect(instance)?;
        if Id::of_peer(&mut client)? == wanted {
            return Ok(client);
        }
        let place = place(&mut client).ok_or_else(|| client::not_running(instance))?;
        return Err(Failure::Refused(format!(
            "instance `{}` does not run in the network namespace {name} but {place}: leave out `--netns` or `--instance`",
            instance.name(),
        )));
    }
    let is_starting = || {
        let locked = client::instances(dir, "lock");
        locked
            .iter()
            .any(|instance| client::is_starting(instance) && matches!(Client::try_connect(instance), Ok(None)))
    };
    let found = client::wait_for(is_starting, || {
        let listening = Listening::look(dir)?;
        let here: Vec<_> = listening
            .clients
            .into_iter()
            .filter_map(|mut client| (Id::of_peer(&mut client).ok()? == wanted).then_some(client))
            .collect();
        Ok(Some(here).filter(|here| !here.is_empty()))
    })?;
    let mut found = found.unwrap_or_default();
    match (found.pop(), found.is_empty()) {
        (Some(client), true) => Ok(client),
        (Some(last), false) => {
            found.push(last);
            let names: Vec<_> = found.iter().map(|client| client.instance().name()).collect();
            Err(Failure::Refused(format!(
                "several instances run in the network namespace {name}: {}; name one with `--instance`",
                names.join(", ")
            )))
        }
        (None, _) => {
            let Listening { mut clients, denied } = Listening::look(dir)?;
            // It may be one that this user may not ask.
            if !denied.is_empty() {
                return Err(Failure::Refused(format!(
                    "cannot find out which instance runs in the network namespace {name}: no permission for {}: {}",
                    denied.join(", "),
                    client::how_to_get_in()
                )));
            }
            let others: Vec<_> = clients
                .iter_mut()
                .filter_map(|client| Some(format!("{} {}", client.instance().name().to_owned(), place(client)?)))
                .collect();
            let others = match others.as_slice() {
                [] => "none".to_owned(),
                others => others.join(", "),
            };
            Err(Failure::Refused(format!(
                "no mplsxdp runs in the network namespace {name}: start it with `mplsxdp load -n {name} --iface IFACE`; \
                 running: {others}"
            )))
        }
    }
}

/// The instances that listen.
pub struct Listening {
    pub clients: Vec<Client>,
    /// The sockets to which this user may not connect.
    pub denied: Vec<String>,
}

impl Listening {
    pub fn look(dir: &Path) -> Result<Self, ClientError> {
        let (mut clients, mut denied) = (Vec::new(), Vec::new());
        for instance in client::instances(dir, "sock") {
            match Client::try_connect(&instance) {
                Ok(client) => clients.extend(client),
                Err(ClientError::Denied(socket)) => denied.push(socket.display().to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(Self { clients, denied })
    }
}

/// Where an instance runs, in words; `None` if it has just ended.
fn place(client: &mut Client) -> Option<String> {
    Some(match Id::of_peer(client) {
        Ok(id) => match netns::name(id.0) {
            Some(name) => format!("in {name}"),
            None if Id::of("/proc/self/ns/net").is_ok_and(|own| own == id) => "in the namespace of this command".into(),
            None => "in a namespace without a name".into(),
        },
        Err(error) if error.is_ending() => return None,
        Err(error) => format!("in a namespace that cannot be read ({error})"),
    })
}

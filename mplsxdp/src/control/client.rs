//! The client's side of the control socket, blocking.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::api::{self, Changes, Error, INTERFACE, InstalledRoute, Nothing};
use super::{GROUP, Instance, MAX_MESSAGE_BYTES};
use crate::lfib::route::Route;

/// A connection to a running instance.
#[derive(Debug)]
pub struct Client {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    instance: Instance,
}

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no mplsxdp runs as instance `{name}`: start it with `mplsxdp load{option} --iface IFACE`; running: {running}"
    )]
    NotRunning {
        name: String,
        option: String,
        running: String,
    },
    #[error("no permission for {}: run as root, or as a member of the group {GROUP} where there is one", .0.display())]
    Denied(PathBuf),
    /// The instance answered by an error; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Error),
    #[error("the connection to the instance broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the instance answered what this version does not understand: {0}")]
    Garbled(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Message<'a, P> {
    method: &'a str,
    parameters: &'a P,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

/// A reply, its parameters unread.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(default)]
    continues: bool,
}

impl Client {
    pub fn connect(instance: &Instance) -> Result<Self, ClientError> {
        let socket = instance.socket();
        let writer = UnixStream::connect(&socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => not_running(instance),
            io::ErrorKind::PermissionDenied => ClientError::Denied(socket),
            _ => error.into(),
        })?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self {
            writer,
            reader,
            instance: instance.clone(),
        })
    }

    pub fn status(&mut self) -> Result<api::Status, ClientError> {
        let api::StatusReply { status } = self.call("GetStatus", &Nothing {})?;
        Ok(status)
    }

    /// Hands over the routes of a list as they come.
    pub fn routes<E: From<ClientError>>(
        &mut self,
        list: &api::ListRoutes,
        mut each: impl FnMut(InstalledRoute) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send("ListRoutes", list, true)?;
        loop {
            let (api::RouteList { routes }, continues) = self.receive()?;
            routes.into_iter().try_for_each(&mut each)?;
            if !continues {
                return Ok(());
            }
        }
    }

    pub fn add_routes(&mut self, routes: &[Route]) -> Result<Changes, ClientError> {
        let api::Changed { changes } = self.call("AddRoutes", &wire(routes))?;
        Ok(changes)
    }

    pub fn replace_routes(&mut self, routes: &[Route]) -> Result<Changes, ClientError> {
        let api::Changed { changes } = self.call("ReplaceRoutes", &wire(routes))?;
        Ok(changes)
    }

    pub fn delete_routes(&mut self, keys: Vec<api::Key>) -> Result<Changes, ClientError> {
        let api::Changed { changes } = self.call("DeleteRoutes", &api::Keys { keys })?;
        Ok(changes)
    }

    pub fn flush_routes(&mut self, chosen: &api::FlushRoutes) -> Result<Changes, ClientError> {
        let api::Changed { changes } = self.call("FlushRoutes", chosen)?;
        Ok(changes)
    }

    /// Opens a transaction. Dropping the client rolls it back.
    pub fn begin(&mut self, replace_all: bool) -> Result<Transaction<'_>, ClientError> {
        let Nothing {} = self.call("Begin", &api::Begin { replace_all })?;
        Ok(Transaction {
            client: self,
            awaits_reply: false,
        })
    }

    pub fn links(&mut self) -> Result<Vec<api::Link>, ClientError> {
        let api::LinkList { links } = self.call("ListLinks", &Nothing {})?;
        Ok(links)
    }

    pub fn add_link(&mut self, name: &str, tx_only: bool) -> Result<(), ClientError> {
        let Nothing {} = self.call(
            "AddLink",
            &api::AddLink {
                name: name.into(),
                tx_only: Some(tx_only),
            },
        )?;
        Ok(())
    }

    pub fn delete_link(&mut self, name: &str) -> Result<(), ClientError> {
        let Nothing {} = self.call("DeleteLink", &api::DeleteLink { name: name.into() })?;
        Ok(())
    }

    pub fn set_link(&mut self, name: &str, mpls: bool) -> Result<(), ClientError> {
        let Nothing {} = self.call(
            "SetLink",
            &api::SetLink {
                name: name.into(),
                mpls,
            },
        )?;
        Ok(())
    }

    pub fn neighbors(&mut self) -> Result<Vec<api::NextHopState>, ClientError> {
        let api::NeighborList { neighbors } = self.call("ListNeighbors", &Nothing {})?;
        Ok(neighbors)
    }

    pub fn stats(&mut self, all: bool) -> Result<api::Stats, ClientError> {
        let api::StatsReply { stats } = self.call("GetStats", &api::GetStats { all: Some(all) })?;
        Ok(stats)
    }

    pub fn unknown_labels(&mut self) -> Result<Vec<api::UnknownLabel>, ClientError> {
        let api::UnknownLabels { labels } = self.call("GetUnknownLabels", &Nothing {})?;
        Ok(labels)
    }

    /// Ends the instance, and waits until everything of it is gone.
    pub fn unload(mut self) -> Result<(), ClientError> {
        let Nothing {} = self.call("Unload", &Nothing {})?;
        let lock = self.instance.lock();
        let pid = Pid::from_raw(
            getsockopt(&self.writer, PeerCredentials)
                .map_err(io::Error::from)?
                .pid(),
        );
        // The lock file is the last thing that it removes; where it cannot, its end must do. (0 is a process that cannot be seen.)
        while lock.try_exists()? && (pid.as_raw() == 0 || kill(pid, None) != Err(Errno::ESRCH)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Calls any method of the interface and takes its one reply.
    pub fn call<P: Serialize, R: DeserializeOwned>(&mut self, method: &str, parameters: &P) -> Result<R, ClientError> {
        self.send(method, parameters, false)?;
        Ok(self.receive()?.0)
    }

    fn send<P: Serialize>(&mut self, method: &str, parameters: &P, more: bool) -> Result<(), ClientError> {
        let mut bytes = serde_json::to_vec(&Message {
            method: &format!("{INTERFACE}.{method}"),
            parameters,
            more,
        })?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            let limit = MAX_MESSAGE_BYTES;
            return Err(Error::MessageTooLarge { limit }.into());
        }
        bytes.push(0);
        match self.writer.write_all(&bytes) {
            // The server may have said why before it closed.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => match self.receive::<serde::de::IgnoredAny>() {
                Err(ClientError::Refused(error)) => Err(error.into()),
                _ => Err(error.into()),
            },
            written => Ok(written?),
        }
    }

    /// One reply, and whether another one follows.
    fn receive<R: DeserializeOwned>(&mut self) -> Result<(R, bool), ClientError> {
        let mut message = Vec::new();
        self.reader.read_until(0, &mut message)?;
        if message.pop() != Some(0) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed before the answer").into());
        }
        let answer: Answer = serde_json::from_slice(&message)?;
        if answer.error.is_some() {
            return Err(serde_json::from_slice::<Error>(&message)?.into());
        }
        let parameters = serde_json::from_str(answer.parameters.map_or("{}", RawValue::get))?;
        Ok((parameters, answer.continues))
    }
}

/// An open transaction. One batch is on its way while the next is made.
#[derive(Debug)]
pub struct Transaction<'a> {
    client: &'a mut Client,
    awaits_reply: bool,
}

impl Transaction<'_> {
    /// An error may be about the routes of the call before.
    pub fn stage(&mut self, routes: &[Route]) -> Result<(), ClientError> {
        let routes = wire(routes);
        self.client.send("Stage", &routes, false)?;
        if std::mem::replace(&mut self.awaits_reply, true) {
            self.client.receive::<api::Staged>()?;
        }
        Ok(())
    }

    /// With `allow_empty`, a transaction without routes may delete all that there are.
    pub fn commit(mut self, allow_empty: bool) -> Result<api::Committed, ClientError> {
        if std::mem::take(&mut self.awaits_reply) {
            self.client.receive::<api::Staged>()?;
        }
        let allow_empty = allow_empty.then_some(true);
        self.client.call("Commit", &api::Commit { allow_empty })
    }
}

fn wire(routes: &[Route]) -> api::Routes {
    api::Routes {
        routes: routes.iter().map(api::Route::from).collect(),
    }
}

fn not_running(instance: &Instance) -> ClientError {
    let name = instance.name();
    let running = running(instance);
    ClientError::NotRunning {
        name: name.into(),
        option: if name == super::DEFAULT_INSTANCE {
            String::new()
        } else {
            format!(" --instance {name}")
        },
        running: if running.is_empty() {
            "none".into()
        } else {
            running.join(", ")
        },
    }
}

/// The instances of the same run directory that take connections.
fn running(instance: &Instance) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(instance.dir())
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let name = name.strip_suffix(".sock")?;
            let other = Instance::in_dir(instance.dir(), name).ok()?;
            UnixStream::connect(other.socket()).ok().map(|_| name.to_owned())
        })
        .collect();
    names.sort();
    names
}

//! The socket of the metrics. It is opened before the process gives up its capabilities, and clients wait in it until
//! the instance is ready.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};

use super::address::MetricsAddress;
use crate::control::access::Groups;
use crate::directory::{self, Untrusted};

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot serve metrics at {address}: {source}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("cannot serve metrics at unix:{}: {source}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("cannot serve metrics at unix:{}: {source}", path.display())]
    Untrusted { path: PathBuf, source: Untrusted },
    #[error("cannot serve metrics at unix:{}: it is not a socket: name a path that is free", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot serve metrics at unix:{}: another process serves there: name another path", .0.display())]
    InUse(PathBuf),
}

impl ListenError {
    /// Another process listens there.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Tcp { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            Self::InUse(_) => true,
            Self::Unix { .. } | Self::Untrusted { .. } | Self::NotASocket(_) => false,
        }
    }
}

/// Whether metrics could be served there now. Nothing is changed.
pub fn check(address: &MetricsAddress) -> Result<(), ListenError> {
    match address {
        MetricsAddress::Unix(path) => look(path).map(drop),
        MetricsAddress::Tcp(_) => Listener::open(address, &Groups::default()).map(drop),
    }
}

/// A socket that listens. The file of a Unix socket is removed when this is dropped.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

impl Listener {
    /// Members of these groups can connect to a Unix socket, as to the control socket.
    pub fn open(address: &MetricsAddress, groups: &Groups) -> Result<Self, ListenError> {
        match address {
            MetricsAddress::Unix(path) => {
                make_room(path)?;
                let listener = listen(path, groups).map_err(|source| ListenError::Unix {
                    path: path.clone(),
                    source,
                })?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
            &MetricsAddress::Tcp(address) => {
                let listener = TcpListener::bind(address);
                let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
                listener
                    .map(Self::Tcp)
                    .map_err(|source| ListenError::Tcp { address, source })
            }
        }
    }

    /// Where clients find the metrics.
    pub fn url(&self) -> String {
        match self {
            Self::Unix(_, SocketFile(path)) => format!("unix:{} (path /metrics)", path.display()),
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}/metrics"),
                Err(error) => error.to_string(),
            },
        }
    }
}

/// The file of a socket, until it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

/// Removes a socket that a killed process has left.
fn make_room(path: &Path) -> Result<(), ListenError> {
    if look(path)? {
        std::fs::remove_file(path).map_err(|source| ListenError::Unix {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// Whether a socket is there that nobody listens on. Everything else that is there is an error.
fn look(path: &Path) -> Result<bool, ListenError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    // Otherwise another user could have this process give a different file to the group.
    directory::check(directory).map_err(|source| ListenError::Untrusted {
        path: path.to_owned(),
        source,
    })?;
    let failed = |source| ListenError::Unix {
        path: path.to_owned(),
        source,
    };
    let found = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(failed)?,
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        _ => Err(ListenError::InUse(path.to_owned())),
    }
}

/// Until it listens, which is last, the kernel refuses connections.
fn listen(path: &Path, groups: &Groups) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    groups.admit(path)?;
    socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

/// The address as which clients are allowed: an IPv4 client of an IPv6 socket has its own.
pub fn client(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_socket_that_was_left_is_replaced_and_everything_else_stays() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("metrics");
        let address = MetricsAddress::Unix(path.clone());
        let open = || Listener::open(&address, &Groups::default());
        let first = open().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(matches!(open(), Err(ListenError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        // Left by a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        assert!(check(&address).is_ok() && path.exists());
        drop(open().unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(open(), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(open(), Err(ListenError::Untrusted { .. })));
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Listener::open(&MetricsAddress::Tcp(address), &Groups::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot serve metrics at {address}: Address")),
            "{error}"
        );
    }

    #[test]
    fn a_v4_client_of_a_v6_socket_is_a_v4_client() {
        let address = |text: &str| client(text.parse().unwrap()).to_string();
        assert_eq!(address("[::ffff:192.0.2.1]:5"), "192.0.2.1");
        assert_eq!(address("[2001:db8::1]:5"), "2001:db8::1");
    }
}

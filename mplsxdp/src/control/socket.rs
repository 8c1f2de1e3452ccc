//! Where an instance listens: its run directory, the lock on its name, and the socket. Nobody else can hold the lock,
//! and nobody can connect before the socket has its owner and mode.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use tokio::net::UnixListener;

use super::Instance;
use super::access::Groups;
use crate::directory::{self, Untrusted};

/// Other users pass through the directory to sockets that they may use.
const DIR_MODE: u32 = 0o755;
/// Anyone who can open the lock file, even for reading only, can hold the lock.
const LOCK_MODE: u32 = 0o600;

/// Takes the instance's name and opens its socket. What a killed process left behind is removed. Whatever the umask,
/// nobody connects before only root and the members of these groups can.
pub fn bind(instance: &Instance, groups: &Groups) -> Result<(UnixListener, SocketGuard), BindError> {
    let lock = take_lock(instance)?;
    let socket = instance.socket();
    let guard = SocketGuard {
        dir: instance.dir().to_owned(),
        lock_path: instance.lock(),
        _lock: lock,
        socket: socket.clone(),
    };
    let at_socket = |what| BindError::io(what, &socket);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at_socket("cannot remove")(error)),
        _ => {}
    }
    let listener = listen(&socket, groups).map_err(at_socket("cannot open the socket"))?;
    Ok((listener, guard))
}

/// Until it listens, which is last, the kernel refuses connections.
fn listen(path: &Path, groups: &Groups) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    groups.admit(path)?;
    socket::listen(&socket, Backlog::MAXCONN)?;
    UnixListener::from_std(socket.into())
}

/// Holds an instance's name. Removes the socket, and the run directory after the last instance, when dropped.
#[derive(Debug)]
pub struct SocketGuard {
    dir: PathBuf,
    lock_path: PathBuf,
    socket: PathBuf,
    _lock: File,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        for path in [&self.socket, &self.lock_path] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("cannot remove {}: {error}", path.display());
                }
                _ => {}
            }
        }
        // Other instances still use it.
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "instance `{name}` runs already{pid}: end it with `mplsxdp --instance {name} unload`, or give this one another name \
         with `--instance`"
    )]
    Running { name: String, pid: String },
    #[error("nobody else may take the place of this instance in its run directory {}: {source}", dir.display())]
    UntrustedDirectory { dir: PathBuf, source: Untrusted },
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl BindError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The lock file, locked, with this process's id in it.
fn take_lock(instance: &Instance) -> Result<File, BindError> {
    let path = instance.lock();
    // An instance that is ending removes the file and perhaps the directory: only a lasting one is an error.
    let mut refusal = None;
    for attempt in 0..10 {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let opened = make_dir(instance.dir()).and_then(|()| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(LOCK_MODE)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .map_err(BindError::io("cannot open", &path))
        });
        let mut file = match opened {
            Err(BindError::Io { what, path, source }) if source.kind() == io::ErrorKind::NotFound => {
                refusal = Some(BindError::Io { what, path, source });
                continue;
            }
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => {
                let pid = std::process::id();
                return file
                    // It may be left from a version that let others read it.
                    .set_permissions(Permissions::from_mode(LOCK_MODE))
                    .and_then(|()| file.set_len(0))
                    .and_then(|()| write!(file, "{pid}"))
                    .map(|()| file)
                    .map_err(BindError::io("cannot write", &path));
            }
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = file.read_to_string(&mut pid).is_ok() && !pid.is_empty();
                refusal = Some(BindError::Running {
                    name: instance.name().to_owned(),
                    pid: if known { format!(" (pid {pid})") } else { pid },
                });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(BindError::io("cannot lock", &path)(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| BindError::io("cannot keep", &path)(io::ErrorKind::NotFound.into())))
}

/// Makes the run directory, and those above it. Only root and this user may be able to put files into it, or another in
/// its place.
fn make_dir(dir: &Path) -> Result<(), BindError> {
    let check = || {
        directory::check(dir).map_err(|source| BindError::UntrustedDirectory {
            dir: dir.to_owned(),
            source,
        })
    };
    check()?;
    let all: Vec<&Path> = dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()).collect();
    for dir in all.into_iter().rev() {
        match DirBuilder::new().mode(DIR_MODE).create(dir) {
            // The umask has cleared bits of the mode.
            Ok(()) => std::fs::set_permissions(dir, Permissions::from_mode(DIR_MODE)),
            Err(_) if dir.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(BindError::io("cannot create", dir))?;
    }
    // Another user may have been faster.
    check()
}

/// Whether the file is still the one at this path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(file), Ok(path)) => (file.dev(), file.ino()) == (path.dev(), path.ino()),
        _ => false,
    }
}

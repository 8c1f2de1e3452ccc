//! Other network namespaces.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps their names.
const NAMED: &str = "/run/netns";

/// The inode in nsfs of the network namespace of a file: it is the same for all names of a namespace.
pub fn inode(file: impl AsRef<Path>) -> io::Result<u64> {
    Ok(std::fs::metadata(file)?.ino())
}

/// Identifies the network namespace of the calling thread among all that there have been since the boot.
pub fn cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)))?;
    let (mut cookie, mut size) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: it writes at most `size` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    match result {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The name that `ip netns` has for the network namespace with this inode.
pub fn name(wanted: u64) -> Option<String> {
    let entries = std::fs::read_dir(NAMED).ok()?;
    let found = entries
        .filter_map(Result::ok)
        .find(|entry| inode(entry.path()).is_ok_and(|inode| inode == wanted))?;
    Some(found.file_name().to_string_lossy().into_owned())
}

/// The beginning of a shell command to run in the network namespace of a file.
pub fn shell_prefix(file: &Path) -> String {
    match file.strip_prefix(NAMED) {
        Ok(name) => format!("ip netns exec {} ", name.display()),
        Err(_) => format!("nsenter --net={} ", file.display()),
    }
}

/// Files for the other network namespaces: first those with a name, then a process's file for each of the rest.
pub fn all() -> Vec<PathBuf> {
    let entries = |folder: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let processes = entries("/proc").into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.iter().all(u8::is_ascii_digit)
    });
    let processes = processes.map(|path| path.join("ns/net"));
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let mut seen: HashSet<_> = identity(Path::new("/proc/thread-self/ns/net")).into_iter().collect();
    let all = entries(NAMED).into_iter().chain(processes);
    all.filter(|path| identity(path).is_some_and(|identity| seen.insert(identity)))
        .collect()
}

/// Runs something in a network namespace, on a thread that ends with it.
pub async fn within<T: Send + 'static>(
    netns: File,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        let result = setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .and_then(|()| work());
        let _ = sender.send(result);
    })?;
    receiver.await.map_err(io::Error::other)?
}

//! The other end of a veth where that is in another network namespace: which one, and GRO there.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::net::if_::if_nameindex;
use nix::sched::{CloneFlags, setns};

use crate::dataplane::ethtool::Feature;
use crate::neighbour::Peer;
use crate::neighbour::netlink::Netlink;

const NAMED: &str = "/run/netns";

/// The other end of a veth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FarEnd {
    pub name: Arc<str>,
    /// A file that stands for its network namespace; `None`: it is in this one.
    pub netns: Option<PathBuf>,
}

impl FarEnd {
    /// An interface that is in another network namespace. `None` if nothing names that namespace that this process can see, or
    /// if this process must not enter it.
    pub async fn find(peer: Peer, netlink: &Netlink) -> Option<Self> {
        let id = peer.netns?;
        for path in tokio::task::spawn_blocking(namespaces).await.ok()? {
            let Ok(file) = File::open(&path) else { continue };
            if netlink.netns_id(&file).await.ok().flatten() != Some(id) {
                continue;
            }
            let ifindex = peer.ifindex;
            let name = within(file, move || {
                let interfaces = if_nameindex()?;
                let found = interfaces.iter().find(|interface| interface.index() == ifindex);
                Ok(found.map(|interface| interface.name().to_string_lossy().into_owned()))
            });
            return Some(Self {
                name: name.await.ok()??.into(),
                netns: Some(path),
            });
        }
        None
    }

    /// What makes a veth take the frames that are redirected to it, for a shell.
    pub fn command(&self) -> String {
        let before = match &self.netns {
            None => String::new(),
            Some(path) => match path.strip_prefix(NAMED) {
                Ok(name) => format!("ip netns exec {} ", name.display()),
                Err(_) => format!("nsenter --net={} ", path.display()),
            },
        };
        let name = &self.name;
        format!("{before}ethtool -K {name} gro off; {before}ethtool -K {name} gro on")
    }

    /// The same as [`FarEnd::command`]. A veth looks only at changes, so that GRO that is on is switched off first.
    pub async fn switch_gro_on(&self) -> io::Result<()> {
        let name = self.name.clone();
        let switch = move || {
            Feature::Gro.set(&name, false)?;
            Feature::Gro.set(&name, true)
        };
        match &self.netns {
            None => switch(),
            Some(path) => within(File::open(path)?, switch).await,
        }
    }
}

/// Files that stand for network namespaces: those with a name first, then one of a process for each other one.
fn namespaces() -> Vec<PathBuf> {
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

/// Does something in a network namespace, on a thread that ends with it.
async fn within<T: Send + 'static>(
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

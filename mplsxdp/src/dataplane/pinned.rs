//! Links that outlive the process that made them (`--persist`). They are pinned in the machine's bpffs, in one folder for
//! each instance, and keep their programs, and through these the maps. A pin is named by the link's id, which no other
//! link has until the machine boots again: the indexes of interfaces are those of one network namespace.

use std::collections::{BTreeSet, HashSet};
use std::fs::{DirBuilder, DirEntry, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FsWord, statfs};
use rustix::mount::{MountFlags, mount};

use super::bpf::{LinkState, XdpLink};
use crate::directory::{self, Untrusted};

/// Where every system has its bpffs.
const BPFFS: &str = "/sys/fs/bpf";
/// In the bpffs; one folder for each instance.
const FOLDER: &str = "mplsxdp";
/// `f_type` of a bpffs, from linux/magic.h.
const BPF_FS_MAGIC: FsWord = 0xcafe_4a11;
/// Only root may look into it.
const MODE: u32 = 0o700;
/// The kernel reserves names with dots in a bpffs; no instance has this in its name.
const DOT: char = '+';
/// Beside the pins: an empty folder for each interface that the instance has put into promiscuous mode, named by the index
/// of the interface. A bpffs takes no files.
const PROMISCUOUS: &str = "promiscuous+";

/// Links cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(
        "with `--persist` the programs stay on the ports when this process ends, but {BPFFS} here is not that of process 1 and \
         would go with this process's mount namespace, such as one that `ip netns exec` makes: run it outside, and let it enter \
         the network namespace itself (`mplsxdp load --persist -n NAME`)"
    )]
    Fleeting,
    #[error(
        "cannot find out whether {BPFFS} outlives this process, as `--persist` needs: cannot look at {what}: {source}"
    )]
    Unknown { what: &'static str, source: io::Error },
    #[error("no bpffs is mounted at {BPFFS}: `mount -t bpf bpf {BPFFS}`")]
    Unmounted,
    #[error("cannot mount a bpffs, which `--persist` needs: {0}: `mount -t bpf bpf {BPFFS}`")]
    Mount(#[source] io::Error),
    #[error("nobody else may change where links are pinned: {0}")]
    Untrusted(#[from] Untrusted),
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl PinError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The folder for the pins of one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinFolder(PathBuf);

/// A link that is pinned.
#[derive(Clone)]
pub struct PinnedLink {
    pub link: Arc<XdpLink>,
    /// As it was when it was opened.
    pub state: LinkState,
}

impl PinFolder {
    pub fn of(instance: &str) -> Self {
        Self(top().join(instance.replace('.', &DOT.to_string())))
    }

    /// Whether there could be such a folder that outlives this process. Changes nothing.
    pub fn check() -> Result<(), PinError> {
        check().map(drop)
    }

    /// Makes the folder. If no bpffs is mounted, it is mounted where every system has it, and stays.
    pub fn make(&self, run_dir: &Path) -> Result<(), PinError> {
        if check()? == Found::Missing {
            mount_once(run_dir)?;
        }
        self.create()
    }

    fn create(&self) -> Result<(), PinError> {
        for folder in [&top(), &self.0] {
            match DirBuilder::new().mode(MODE).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(PinError::io("cannot create", folder)(error));
                }
                _ => {}
            }
        }
        // A bpffs that was mounted without options lets everybody make folders, as in /tmp.
        Ok(directory::check(&self.0)?)
    }

    /// The links that are pinned, in the order of their ids; none if there is no such folder.
    pub fn links(&self) -> Result<Vec<PinnedLink>, PinError> {
        directory::check(&self.0)?;
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(PinError::io("cannot read", &self.0))?,
        };
        let mut links = Vec::new();
        for entry in entries {
            let entry = entry.map_err(PinError::io("cannot read", &self.0))?;
            if noted_interface(&entry).is_some() {
                continue;
            }
            let path = entry.path();
            let link = XdpLink::open(&path).and_then(|link| {
                let (state, link) = (link.state()?, Arc::new(link));
                Ok(PinnedLink { link, state })
            });
            links.push(link.map_err(PinError::io("cannot open the link", &path))?);
        }
        links.sort_by_key(|pinned| pinned.state.link_id);
        Ok(links)
    }

    /// Whether something is pinned. What this process may not see is not there for it.
    pub fn is_used(&self) -> bool {
        let mut entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.any(|entry| noted_interface(&entry).is_none())
    }

    /// How many of the links hold their programs on interfaces, as far as this process may see.
    pub fn attached(&self) -> usize {
        let links = self.links().unwrap_or_default();
        links.iter().filter(|pinned| pinned.is_attached()).count()
    }

    /// Pins a link; success if it is pinned here already.
    pub fn pin(&self, link: &XdpLink, link_id: u32) -> Result<(), PinError> {
        let path = self.path(link_id);
        match link.pin(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            pinned => pinned.map_err(PinError::io("cannot pin a link at", &path)),
        }
    }

    /// Pins a link whose pin is gone, perhaps together with its folder or the bpffs.
    pub fn pin_again(&self, link: &XdpLink, link_id: u32) -> Result<(), PinError> {
        if !is_bpffs() {
            return Err(PinError::Unmounted);
        }
        self.create()?;
        self.pin(link, link_id)
    }

    /// Whether this link is pinned here.
    pub fn has(&self, link_id: u32) -> bool {
        self.path(link_id).exists()
    }

    /// Removes a pin. If it is gone, that is success.
    pub fn unpin(&self, link_id: u32) -> Result<(), PinError> {
        let path = self.path(link_id);
        gone(std::fs::remove_file(&path), &path)
    }

    /// Detaches a link, and removes its pin.
    pub fn release(&self, pinned: &PinnedLink) -> Result<(), PinError> {
        let path = self.path(pinned.state.link_id);
        pinned
            .link
            .detach()
            .map_err(PinError::io("cannot detach the link", &path))?;
        self.unpin(pinned.state.link_id)
    }

    /// The interfaces that are noted as promiscuous.
    pub fn promiscuous(&self) -> BTreeSet<u32> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| noted_interface(&entry)).collect()
    }

    /// Notes that the instance puts an interface into promiscuous mode; success if that is noted already.
    pub fn note_promiscuous(&self, ifindex: u32) -> Result<(), PinError> {
        let path = self.promiscuous_path(ifindex);
        match DirBuilder::new().mode(MODE).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(PinError::io("cannot create", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// If it was not noted, that is success.
    pub fn forget_promiscuous(&self, ifindex: u32) -> Result<(), PinError> {
        let path = self.promiscuous_path(ifindex);
        gone(std::fs::remove_dir(&path), &path)
    }

    /// Removes the folder if it is empty, and the folder of all instances after the last one.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir(&self.0);
        let _ = std::fs::remove_dir(top());
    }

    fn path(&self, link_id: u32) -> PathBuf {
        self.0.join(link_id.to_string())
    }

    fn promiscuous_path(&self, ifindex: u32) -> PathBuf {
        self.0.join(format!("{PROMISCUOUS}{ifindex}"))
    }
}

/// The interface that an entry of the folder notes as promiscuous; `None`: it is a pin.
fn noted_interface(entry: &DirEntry) -> Option<u32> {
    entry.file_name().to_str()?.strip_prefix(PROMISCUOUS)?.parse().ok()
}

/// What was gone before is, too.
fn gone(removed: io::Result<()>, path: &Path) -> Result<(), PinError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PinError::io("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

impl PinnedLink {
    /// Whether it still holds its program on an interface.
    pub fn is_attached(&self) -> bool {
        self.link.state().is_ok_and(|state| state.ifindex != 0)
    }
}

/// The names of the instances that have pinned something, whether they run or not, as far as this process may see.
pub fn instances() -> Vec<String> {
    let entries = std::fs::read_dir(top()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().replace(DOT, "."));
    let mut names: Vec<String> = names.filter(|name| PinFolder::of(name).is_used()).collect();
    names.sort();
    names
}

fn top() -> PathBuf {
    Path::new(BPFFS).join(FOLDER)
}

#[derive(PartialEq, Eq, Debug)]
enum Found {
    Mounted,
    /// It can be mounted.
    Missing,
}

/// Whether what is pinned outlives this process. Process 1 stands for the machine: what it has mounted stays. Its list of
/// mounts can be read without a right to look into the process.
fn check() -> Result<Found, PinError> {
    let read = |what| std::fs::read_to_string(what).map_err(|source| PinError::Unknown { what, source });
    let (its, own) = (read("/proc/1/mountinfo")?, read("/proc/self/mountinfo")?);
    found(&its, &own).ok_or(PinError::Fleeting)
}

/// `None`: the mount namespaces differ, and so do the bpffs, if there is one.
fn found(its: &str, own: &str) -> Option<Found> {
    match (bpffs(its), bpffs(own)) {
        (Some(its), Some(own)) if its == own => Some(Found::Mounted),
        (None, None) => {
            // Two mounts have different ids, even in different namespaces.
            let ids = |mounts: &str| {
                mounts
                    .lines()
                    .filter_map(|line| Some(line.split(' ').next()?.to_owned()))
                    .collect()
            };
            let (its, own): (HashSet<String>, HashSet<String>) = (ids(its), ids(own));
            (!its.is_disjoint(&own)).then_some(Found::Missing)
        }
        _ => None,
    }
}

/// The device number of the bpffs in a list of mounts (proc_pid_mountinfo(5)): `ID PARENT MAJOR:MINOR ROOT PLACE ... - TYPE
/// ...`. Of several mounts at one place, the last one counts.
fn bpffs(mounts: &str) -> Option<&str> {
    let at = |line: &&str| line.split(' ').nth(4) == Some(BPFFS);
    let last = mounts.lines().rfind(at)?;
    let (_, kind) = last.split_once(" - ")?;
    kind.starts_with("bpf ").then(|| last.split(' ').nth(2)).flatten()
}

fn is_bpffs() -> bool {
    statfs(BPFFS).is_ok_and(|found| found.f_type == BPF_FS_MAGIC)
}

/// Mounts a bpffs as systemd does. Two instances must not do so at once: the second mount would hide the pins in the first.
fn mount_once(run_dir: &Path) -> Result<(), PinError> {
    let path = run_dir.join(".bpffs.lock");
    let lock = lock(&path).map_err(PinError::io("cannot lock", &path))?;
    let mounted = match is_bpffs() {
        true => Ok(()),
        false => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("bpf", BPFFS, "bpf", flags, c"mode=0700").map_err(|errno| PinError::Mount(errno.into()))
        }
    };
    // Whoever waits for it opens the file anew.
    let _ = std::fs::remove_file(&path);
    drop(lock);
    mounted
}

fn lock(path: &Path) -> io::Result<File> {
    loop {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
        file.lock()?;
        let is_it = std::fs::metadata(path).is_ok_and(|at| file.metadata().is_ok_and(|own| own.ino() == at.ino()));
        if is_it {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_named_after_its_instance_without_dots() {
        assert_eq!(PinFolder::of("pe-1.a_b").0, Path::new("/sys/fs/bpf/mplsxdp/pe-1+a_b"));
        assert_eq!(PinFolder::of("x").path(7), Path::new("/sys/fs/bpf/mplsxdp/x/7"));
    }

    #[test]
    fn a_bpffs_outlives_this_process_if_process_1_has_it_or_would_get_it() {
        let (one, other) = (
            "22 27 0:21 / /proc rw - proc proc rw\n",
            "90 80 0:21 / /proc rw - proc proc rw\n",
        );
        let with =
            |mounts: &str, device: u32| format!("{mounts}33 23 0:{device} / /sys/fs/bpf rw shared:9 - bpf bpf rw\n");
        assert_eq!(found(&with(one, 30), &with(one, 30)), Some(Found::Mounted));
        // A service has a mount namespace of its own, and the same bpffs.
        assert_eq!(found(&with(one, 30), &with(other, 30)), Some(Found::Mounted));
        assert_eq!(found(one, one), Some(Found::Missing));
        assert_eq!(found(one, other), None);
        assert_eq!(found(&with(one, 30), &with(other, 31)), None);
        assert_eq!(found(&with(one, 30), other), None);
        assert_eq!(found(one, &with(other, 30)), None);
        // Covered by something else.
        let covered = with(one, 30) + "44 33 0:50 / /sys/fs/bpf rw - tmpfs tmpfs rw\n";
        assert_eq!(found(&covered, &with(other, 30)), None);
    }
}

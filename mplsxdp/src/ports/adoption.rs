//! `--persist`: the ports' links outlive the process. The next process of the instance adopts them: it prepares
//! everything beside them, and then replaces the program of each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;

use tracing::{info, warn};

use crate::control::Instance;
use crate::dataplane::XdpMode;
use crate::dataplane::pinned::{PinError, PinFolder, PinnedLink};
use crate::error;
use crate::kernel::{self, Netlink};
use crate::neighbour::{AttachMode, LinkInfo};

/// What a dead process of this instance has left on the ports cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(
        "instance `{instance}` does not run, but its programs are still on {links} interfaces and forward: load it with \
         `--persist` to take them over, or end that with `mplsxdp --instance {instance} unload --force`"
    )]
    NotAsked { instance: String, links: usize },
    #[error(
        "the programs of instance `{instance}` are on interfaces of another network namespace, where they forward: load it \
         there (`-n NAME`), or end that with `mplsxdp --instance {instance} unload --force`"
    )]
    Elsewhere { instance: String },
    #[error(
        "instance `{instance}` has left its program on {name} in {left} mode, and the kernel cannot change that while it \
         forwards: load it with `--mode {left}`, or end that with `mplsxdp --instance {instance} unload --force` first"
    )]
    OtherMode {
        instance: String,
        name: Box<str>,
        left: &'static str,
    },
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Netlink(#[from] kernel::Error),
}

/// The links of this instance that outlive the process.
pub struct Persistence {
    pub folder: PinFolder,
    /// Those that a dead process has left.
    left: Mutex<Left>,
}

#[derive(Default)]
struct Left {
    /// By their interfaces.
    here: HashMap<u32, PinnedLink>,
    /// On interfaces that have moved to other network namespaces.
    elsewhere: Vec<PinnedLink>,
    /// The interfaces here that it has put into promiscuous mode.
    promiscuous: BTreeSet<u32>,
}

/// Refuses to load without `--persist` beside what an earlier process has left.
pub fn refuse_leftovers(instance: &Instance) -> Result<(), AdoptError> {
    match PinFolder::of(instance.name()).attached() {
        0 => Ok(()),
        links => Err(AdoptError::NotAsked {
            instance: instance.name().to_owned(),
            links,
        }),
    }
}

impl Persistence {
    /// Makes the folder, and looks at what is in it. Changes nothing on the ports.
    pub async fn open(instance: &Instance, mode: XdpMode, netlink: &Netlink) -> Result<Self, AdoptError> {
        let folder = PinFolder::of(instance.name());
        folder.make(instance.dir())?;
        let mut left = Left::default();
        let links = netlink.links().await?;
        for pinned in folder.links()? {
            if !pinned.is_attached() {
                info!(
                    link_id = pinned.state.link_id,
                    "removing the pin of a link whose interface is gone"
                );
                folder.unpin(pinned.state.link_id)?;
                continue;
            }
            match holder(&pinned, &links) {
                Some((link, found)) if found == mode => {
                    left.here.insert(link.ifindex, pinned);
                }
                Some((link, found)) => {
                    return Err(AdoptError::OtherMode {
                        instance: instance.name().to_owned(),
                        name: (&*link.name).into(),
                        left: match found {
                            XdpMode::Native => "native",
                            XdpMode::Generic => "generic",
                        },
                    });
                }
                None => left.elsewhere.push(pinned),
            }
        }
        if left.here.is_empty() && !left.elsewhere.is_empty() {
            let instance = instance.name().to_owned();
            return Err(AdoptError::Elsewhere { instance });
        }
        for ifindex in folder.promiscuous() {
            match left.here.contains_key(&ifindex) {
                true => drop(left.promiscuous.insert(ifindex)),
                false => folder.forget_promiscuous(ifindex)?,
            }
        }
        let left = Mutex::new(left);
        Ok(Self { folder, left })
    }

    /// Whether a dead process has left links to take over.
    pub fn adopts(&self) -> bool {
        self.with(|left| !left.here.is_empty())
    }

    /// The link that a dead process has left on an interface, if it still has its program there.
    pub fn link_on(&self, ifindex: u32) -> Option<PinnedLink> {
        let pinned = self.with(|left| left.here.get(&ifindex).cloned());
        pinned.filter(|pinned| pinned.link.state().is_ok_and(|state| state == pinned.state))
    }

    /// Whether this program on an interface is one that a dead process has left.
    pub fn is_left(&self, ifindex: u32, program_id: u32) -> bool {
        self.with(|left| {
            left.here
                .get(&ifindex)
                .is_some_and(|pinned| pinned.state.program_id == program_id)
        })
    }

    /// The takeover begins: what is left on interfaces that are not ports any more, which
    /// [`Persistence::release`] takes off.
    pub fn take_rest(&self, adopted: &HashSet<u32>) -> Vec<PinnedLink> {
        let (here, elsewhere) = self.with(|left| (std::mem::take(&mut left.here), std::mem::take(&mut left.elsewhere)));
        let here = here
            .into_values()
            .filter(|pinned| !adopted.contains(&pinned.state.link_id));
        here.chain(elsewhere).collect()
    }

    /// The interfaces that a dead process has put into promiscuous mode; none at the next call.
    pub fn take_promiscuous(&self) -> BTreeSet<u32> {
        self.with(|left| std::mem::take(&mut left.promiscuous))
    }

    /// Takes programs off interfaces that are not ports any more. May wait for the kernel's RTNL lock.
    pub fn release(&self, rest: &[PinnedLink]) {
        for pinned in rest {
            match self.folder.release(pinned) {
                Ok(()) => info!(
                    ifindex = pinned.state.ifindex,
                    link_id = pinned.state.link_id,
                    "took the program off an interface that is not a port any more"
                ),
                Err(error) => warn!("{}", error::report(&error)),
            }
        }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Left) -> R) -> R {
        work(&mut self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// Puts an interface into promiscuous mode, which outlives this process, or ends that. It is noted beside the pins for as
/// long.
pub async fn set_promiscuous(folder: &PinFolder, netlink: &Netlink, ifindex: u32, on: bool) -> Result<(), AdoptError> {
    if on {
        note_promiscuous(folder, ifindex);
    }
    match netlink.set_link_promiscuous(ifindex, on).await {
        Err(error) if on || error.errno() != Some(libc::ENODEV) => return Err(error.into()),
        _ => {}
    }
    if !on {
        folder.forget_promiscuous(ifindex)?;
    }
    Ok(())
}

pub fn note_promiscuous(folder: &PinFolder, ifindex: u32) {
    if let Err(error) = folder.note_promiscuous(ifindex) {
        warn!(
            ifindex,
            "the interface stays in promiscuous mode if its cross-connect goes while no process runs: {}",
            error::report(&error)
        );
    }
}

/// The interface in this network namespace that has a link's program, and how it is attached there. Interfaces are not
/// compared by index: another namespace has the same ones. Each port has a program of its own.
pub fn holder<'a>(pinned: &PinnedLink, links: &'a [LinkInfo]) -> Option<(&'a LinkInfo, XdpMode)> {
    links.iter().find_map(|link| {
        let xdp = link.xdp.filter(|xdp| xdp.program == pinned.state.program_id)?;
        let mode = match xdp.mode {
            AttachMode::Generic => XdpMode::Generic,
            AttachMode::Native | AttachMode::Offload | AttachMode::Several => XdpMode::Native,
        };
        (link.ifindex == pinned.state.ifindex).then_some((link, mode))
    })
}

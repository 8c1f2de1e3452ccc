//! `unload --force`: takes away what a dead process of one instance has left, in whatever network namespace.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use nix::sched::{CloneFlags, setns};

use super::adoption::{AdoptError, holder, set_promiscuous};
use super::local::{LocalError, LocalPair};
use crate::control::Instance;
use crate::dataplane::pinned::{PinError, PinFolder, PinnedLink};
use crate::kernel::{self, Interests, Netlink, netns};
use crate::neighbour::resolver::{Action, Resolver};

/// Not everything could be taken away; trying again continues.
#[derive(Debug, thiserror::Error)]
pub enum LeftoverError {
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Netlink(#[from] kernel::Error),
    #[error(transparent)]
    Promiscuity(#[from] AdoptError),
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error("cannot look into a network namespace: {0}")]
    Netns(#[source] io::Error),
}

/// What was taken away, in words.
#[derive(Default, Debug)]
pub struct Removed {
    /// The interfaces that had a program.
    pub ports: Vec<String>,
    /// Local ports.
    pub local: Vec<String>,
    /// How many neighbours the kernel does not keep resolved any more.
    pub neighbours: usize,
}

/// Takes everything away. The caller holds the instance's name.
pub fn remove(instance: &Instance) -> Result<Removed, LeftoverError> {
    let folder = PinFolder::of(instance.name());
    let pinned = folder.links()?;
    let mut removed = Removed::default();
    // Before the links are detached, which shows where they are.
    let mut places = Vec::new();
    for place in std::iter::once(None).chain(netns::all().into_iter().map(Some)) {
        let found = within(place.as_deref(), || look(&pinned, instance))?;
        if !found.is_empty() {
            places.push((place, found));
        }
    }
    for (place, found) in &places {
        within(place.as_deref(), || end_promiscuity(&folder, &found.ports))?;
    }
    for link in &pinned {
        folder.release(link)?;
    }
    // Of interfaces that are gone.
    for ifindex in folder.promiscuous() {
        folder.forget_promiscuous(ifindex)?;
    }
    folder.remove();
    for (place, found) in places {
        let (local, neighbours) = within(place.as_deref(), || clean(instance, &found.ports))?;
        removed.ports.extend(found.names);
        removed.local.extend(local);
        removed.neighbours += neighbours;
    }
    Ok(removed)
}

/// What was found in a network namespace.
#[derive(Default)]
struct Found {
    ports: Vec<u32>,
    names: Vec<String>,
    has_pair: bool,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.ports.is_empty() && !self.has_pair
    }
}

async fn look(pinned: &[PinnedLink], instance: &Instance) -> Result<Found, LeftoverError> {
    let netlink = Netlink::open_requests()?;
    let links = netlink.links().await?;
    let holders: Vec<_> = pinned
        .iter()
        .filter_map(|pinned| Some(holder(pinned, &links)?.0))
        .collect();
    Ok(Found {
        ports: holders.iter().map(|link| link.ifindex).collect(),
        names: holders.iter().map(|link| link.name.to_string()).collect(),
        has_pair: !LocalPair::others(instance.name(), None, &links, &netlink)
            .await?
            .is_empty(),
    })
}

async fn end_promiscuity(folder: &PinFolder, ports: &[u32]) -> Result<(), LeftoverError> {
    let netlink = Netlink::open_requests()?;
    for ifindex in folder
        .promiscuous()
        .into_iter()
        .filter(|ifindex| ports.contains(ifindex))
    {
        set_promiscuous(folder, &netlink, ifindex, false).await?;
    }
    Ok(())
}

async fn clean(instance: &Instance, ports: &[u32]) -> Result<(Vec<String>, usize), LeftoverError> {
    let (netlink, mut events) = Netlink::open_with(Interests::default())?;
    let (mut resolver, mut actions) = (Resolver::default(), Vec::new());
    resolver.hold_leftovers();
    for event in events.until_synced().await? {
        resolver.handle(&event, Instant::now(), &mut actions);
    }
    resolver.let_leftovers_go(ports, &mut actions);
    let mut neighbours = 0;
    for action in actions {
        if let Action::Release { ifindex, address } = action {
            netlink.release(ifindex, address).await?;
            neighbours += 1;
        }
    }
    let local = LocalPair::remove_others(instance.name(), None, &netlink).await?;
    Ok((local.iter().map(ToString::to_string).collect(), neighbours))
}

/// Does something on a thread in a network namespace; `None`: in that of this thread. A namespace that has just gone has
/// nothing left.
fn within<T: Default + Send, F: Future<Output = Result<T, LeftoverError>>>(
    place: Option<&Path>,
    work: impl FnOnce() -> F + Send,
) -> Result<T, LeftoverError> {
    let work = || {
        if let Some(place) = place {
            let Ok(file) = File::open(place) else {
                return Ok(T::default());
            };
            setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| LeftoverError::Netns(errno.into()))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(LeftoverError::Netns)?.block_on(work())
    };
    let ended = std::thread::scope(|scope| scope.spawn(work).join());
    ended.unwrap_or_else(|_| Err(LeftoverError::Netns(io::Error::other("a panic"))))
}

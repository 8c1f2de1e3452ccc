//! Puts the program onto interfaces: asks the kernel about them, opens their sockets, has the program verified and
//! attached. All of this may take long, but does not hold the event loop: requests to the kernel are awaited, and the
//! verifier runs on a separate thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mplsxdp_common::abi::Settings;
use tracing::{info, warn};

use super::adoption::Persistence;
use super::error::PortError;
use super::preflight::{self, Facts, PreflightError};
use super::sub_interface::{self, SubInterface};
use super::{Role, Wish};
use crate::control::client::{self, Client};
use crate::control::{DEFAULT_INSTANCE, Instance};
use crate::dataplane::XdpMode;
use crate::dataplane::capture::{CaptureFilters, CaptureRing};
use crate::dataplane::loader::{LoadError, Loader, Program};
use crate::dataplane::port::{AttachError, Attachment, adopt, attach};
use crate::kernel::{Netlink, ethtool};
use crate::neighbour::LinkInfo;
use crate::neighbour::links::Links;
use crate::slowpath::xsk::{Patience, XskError, XskPort};

/// How long another instance may take to report its ports.
const HOLDER_WAIT: Duration = Duration::from_secs(1);

/// What is known about a name that should become a port.
#[derive(Debug)]
pub struct Survey {
    /// The sub-interface, if the name is one.
    pub sub_interface: Result<Option<SubInterface>, PortError>,
    /// The interface with that name; for a sub-interface, its parent.
    pub facts: Box<Facts>,
    /// The kernel's VLAN device of a sub-interface.
    pub device: Option<Box<LinkInfo>>,
    /// Another running instance that has its program on the interface.
    pub holder: Option<String>,
}

/// How to put the program onto an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    pub number: u16,
    pub ifindex: u32,
    pub mode: XdpMode,
    pub settings: Settings,
    pub wish: Wish,
    /// The facts before.
    pub facts: Box<Facts>,
}

/// The program is on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    pub link_id: u32,
    pub program_id: u32,
    /// Until the takeover, it is the program of a dead process.
    pub awaits_takeover: bool,
    /// The facts after.
    pub facts: Box<Facts>,
}

/// The result of an [`Order`]: the program on its interface, and sockets for its exceptions.
pub struct Parts {
    pub attachment: Attachment,
    pub sockets: XskPort,
}

/// Carries out orders.
#[derive(Clone)]
pub struct Attacher {
    loader: Arc<Loader>,
    netlink: Netlink,
    mode: XdpMode,
    /// Whether to switch on GRO at the other end of a veth that otherwise does not take redirected frames.
    fixes_peers: Arc<AtomicBool>,
    /// With `--persist`.
    persistence: Option<Arc<Persistence>>,
    /// Whether programs capture that are loaded from now on.
    captures: Arc<AtomicBool>,
}

fn load(loader: &Loader, settings: Settings, captures: bool) -> Result<Program, LoadError> {
    match captures {
        true => loader.capturing_program(settings),
        false => loader.program(settings),
    }
}

impl Attacher {
    pub fn new(loader: Loader, netlink: Netlink, mode: XdpMode, fixes_peers: bool) -> Self {
        Self {
            loader: Arc::new(loader),
            netlink,
            mode,
            fixes_peers: Arc::new(fixes_peers.into()),
            persistence: None,
            captures: Arc::default(),
        }
    }

    /// Adopts the links that a dead process has left.
    pub fn with_persistence(self, persistence: Option<Arc<Persistence>>) -> Self {
        Self { persistence, ..self }
    }

    /// Sets whether to fix the other ends of veths that are attached from now on.
    pub fn set_fixes_peers(&self, fixes_peers: bool) {
        self.fixes_peers.store(fixes_peers, Ordering::Relaxed);
    }

    /// Looks at an interface that should become a port without changing anything. `own` are the interfaces that have
    /// the program.
    pub async fn survey(self, name: String, own: Vec<u32>) -> Result<Survey, PortError> {
        let mut survey = survey(&self.netlink, name, &own).await?;
        if let (Some(persistence), Some(link)) = (&self.persistence, &mut survey.facts.link)
            && let Some(xdp) = link.xdp
            && persistence.is_left(link.ifindex, xdp.program)
        {
            link.xdp = None;
            (survey.facts.program_name, survey.holder) = (None, None);
        }
        Ok(survey)
    }

    /// Carries out an order. If it fails, it leaves nothing behind. A link that a dead process has left on the interface
    /// is adopted and keeps its program.
    pub async fn attach(self, order: Order) -> Result<(Parts, Attached), PortError> {
        let Order {
            ifindex,
            mode,
            settings,
            wish: Wish { role, .. },
            ref facts,
            ..
        } = order;
        let sockets = open_sockets(&facts.name, role).await?;
        let loader = Arc::clone(&self.loader);
        let persistence = self.persistence.clone();
        let captures = Arc::clone(&self.captures);
        let attached = blocking(move || {
            let program = load(&loader, settings, captures.load(Ordering::Relaxed))?;
            match persistence.and_then(|persistence| Some((persistence.link_on(ifindex)?, persistence.folder.clone())))
            {
                Some((pinned, folder)) => Ok(adopt(program, pinned, mode, folder)),
                None => attach(program, ifindex, mode),
            }
        })
        .await;
        let attachment = attached.map_err(|error| match error {
            AttachError::Kernel(error) => preflight::attach_error(facts, mode, error).into(),
            other => PortError::from(other),
        })?;
        // Some drivers accept redirected frames only when they have a program.
        let mut facts = self.gather_fixed(&facts.name).await?;
        let mut notes = preflight::check_attached(&facts, mode)?;
        if role != Role::TxOnly {
            facts.look_at_peer(&self.netlink).await;
            notes.extend(facts.peer_sends_unsegmented(mode));
        }
        if role == Role::Switching {
            notes.extend(facts.hides_tags());
        }
        for note in notes {
            warn!(port = &*facts.name, "{note}");
        }
        let attached = Attached {
            link_id: attachment.link_id,
            program_id: attachment.program_id,
            awaits_takeover: attachment.awaits_takeover(),
            facts: Box::new(facts),
        };
        Ok((Parts { attachment, sockets }, attached))
    }

    /// A copy of the program with other settings.
    pub async fn program(self, settings: Settings) -> Result<Program, PortError> {
        let program = move || load(&self.loader, settings, self.captures.load(Ordering::Relaxed));
        Ok(blocking(move || Ok(program()?)).await?)
    }

    /// Programs that are loaded from now on capture.
    pub async fn begin_capture(self) -> Result<(CaptureRing, CaptureFilters), PortError> {
        let begun = blocking(move || {
            let begun = self.loader.begin_capture()?;
            self.captures.store(true, Ordering::Relaxed);
            Ok(begun)
        });
        Ok(begun.await?)
    }

    /// They do not any more.
    pub fn end_capture(&self) {
        self.captures.store(false, Ordering::Relaxed);
        self.loader.end_capture();
    }

    /// Gathers facts about an interface that has the program, after switching on GRO at its veth peer if that is
    /// wanted.
    pub async fn gather_fixed(&self, name: &str) -> Result<Facts, PreflightError> {
        let facts = preflight::gather(name, &self.netlink).await?;
        let fixes_peers = self.fixes_peers.load(Ordering::Relaxed);
        let Some(peer) = facts.end_to_fix(self.mode).filter(|_| fixes_peers) else {
            return Ok(facts);
        };
        match peer.switch_gro_on().await {
            Ok(()) => info!(port = name, "GRO is on at its veth peer: `{}`", peer.command()),
            Err(error) => warn!(
                port = name,
                "cannot switch GRO on at its veth peer, as `{}` does: {error}",
                peer.command()
            ),
        }
        preflight::gather(name, &self.netlink).await
    }

    /// Whether the interface with this index is still there and has this name.
    pub async fn has(self, name: &str, ifindex: u32) -> bool {
        let link = self.netlink.link(name).await;
        link.is_ok_and(|link| link.is_some_and(|link| link.ifindex == ifindex))
    }

    /// Finds out why a program could not be put back onto an interface. `None` if the interface is gone or another one:
    /// that will be reported soon.
    pub async fn obstacle(self, name: Arc<str>, ifindex: u32, error: AttachError) -> Option<PortError> {
        match preflight::gather(&name, &self.netlink).await {
            Ok(facts) if facts.link.as_ref().map(|link| link.ifindex) != Some(ifindex) => None,
            Ok(facts) => Some(match (facts.other_program(), error) {
                (Some(other), _) => other.into(),
                (None, AttachError::Kernel(error)) => preflight::attach_error(&facts, self.mode, error).into(),
                (None, error) => error.into(),
            }),
            Err(error) => Some(error.into()),
        }
    }
}

/// Opens the sockets of a port. If a queue is busy, it retries for a while: the kernel frees a queue some time after
/// its last socket was closed.
pub async fn open_sockets(name: &str, role: Role) -> Result<XskPort, PortError> {
    let queues = queues(name, role)?;
    let mut patience: Option<Patience> = None;
    loop {
        let error = match XskPort::open(name, queues) {
            Ok(sockets) => return Ok(sockets),
            Err(error) => error,
        };
        let now = Instant::now();
        let due = patience.get_or_insert_with(|| Patience::new(now)).next(now);
        match due.filter(|_| XskError::is_busy(&error)) {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => return Err(error.into()),
        }
    }
}

/// The number of queues on which a port's exceptions arrive.
pub fn queues(name: &str, role: Role) -> Result<u32, PortError> {
    match role {
        // Only for sending.
        Role::TxOnly => Ok(1),
        Role::Switching | Role::Local | Role::ParentOnly => {
            ethtool::receive_queues(name).map_err(|source| PortError::Queues {
                name: name.into(),
                source,
            })
        }
    }
}

/// Runs on a thread that may block.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, AttachError> + Send + 'static,
) -> Result<R, AttachError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(AttachError::Kernel(io::Error::other(error))))
}

/// Looks at an interface that should become a port without changing anything. `own` are the interfaces that have the
/// program.
pub async fn survey(netlink: &Netlink, name: String, own: &[u32]) -> Result<Survey, PortError> {
    let mut links = Links::default();
    for link in netlink.links().await? {
        links.insert(link);
    }
    let sub_interface = sub_interface::find(&name, &links).map_err(PortError::SubInterface);
    let found = sub_interface.as_ref().ok().copied().flatten();
    let interface = match found {
        Some(found) => links.get(found.parent).map(|parent| parent.name.to_string()),
        None => Some(name.clone()),
    };
    let interface = interface.ok_or_else(|| PortError::gone(&name))?;
    let mut facts = preflight::gather(&interface, netlink).await?;
    if found.is_some() {
        facts.look_at_peer(netlink).await;
    }
    let other = facts.link.as_ref().filter(|link| !own.contains(&link.ifindex));
    let holder = match other.and_then(|link| link.xdp) {
        Some(xdp) => tokio::task::spawn_blocking(move || holder(xdp.program))
            .await
            .ok()
            .flatten(),
        None => None,
    };
    let device = found.and_then(|found| links.get(found.device?).cloned()).map(Box::new);
    Ok(Survey {
        sub_interface,
        facts: Box::new(facts),
        device,
        holder,
    })
}

/// Checks that an interface, or a VLAN on one, can become a port of an instance that has no port yet. Changes nothing.
pub async fn check(name: &str, mode: XdpMode, netlink: &Netlink) -> Result<(), PortError> {
    let Survey {
        sub_interface,
        facts,
        holder,
        ..
    } = survey(netlink, name.to_owned(), &[]).await?;
    let is_sub_interface = sub_interface?.is_some();
    check_facts(&facts, mode, holder)?;
    if is_sub_interface {
        preflight::check_tags(&facts)?;
    }
    Ok(())
}

/// Notes of the preflight are left out here: those that still hold when the program is attached are logged then.
pub fn check_facts(facts: &Facts, mode: XdpMode, holder: Option<String>) -> Result<(), PortError> {
    match (preflight::check(facts, mode), holder) {
        (Ok(_), _) => Ok(()),
        (Err(PreflightError::OtherProgram { name, .. }), Some(instance)) => {
            Err(PreflightError::OtherInstance { name, instance }.into())
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// The name of another running instance whose program has this id.
fn holder(program: u32) -> Option<String> {
    let own = Instance::new(DEFAULT_INSTANCE).ok()?;
    client::instances(own.dir(), "sock").into_iter().find_map(|instance| {
        let mut client = Client::try_connect(&instance).ok()??;
        let itself = client
            .pid()
            .is_ok_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
        // An instance that is busy is not named.
        if itself || client.set_patience(Some(HOLDER_WAIT)).is_err() {
            return None;
        }
        let links = client.links(false).ok()?;
        let holds = links.iter().any(|link| link.program_id == program);
        holds.then(|| instance.name().to_owned())
    })
}

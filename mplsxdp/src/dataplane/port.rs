//! A port: an interface that has the program.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::programs::ProgramError;
use tracing::warn;

use super::bpf::{self, LinkState, XdpLink};
use super::loader::{LoadError, Program};
use super::pinned::{PinError, PinFolder, PinnedLink};
use crate::dataplane::XdpMode;
use crate::error;

/// A program that is attached to an interface by a bpf_link. Dropping it detaches the program, unless the link is
/// pinned.
pub struct Attachment {
    program: Arc<Program>,
    ifindex: u32,
    mode: XdpMode,
    /// Shared with a running [`Probe`] or [`Takeover`].
    link: Arc<XdpLink>,
    pub link_id: u32,
    /// The program that the link has.
    pub program_id: u32,
    /// Where the link is pinned.
    folder: Option<PinFolder>,
    /// A dead process has made the link, and its program is still there.
    awaits_takeover: bool,
    /// The program is being replaced on another thread.
    is_changing: bool,
}

/// The program could not be attached to the interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The error of the driver or the kernel.
    #[error("{0}")]
    Kernel(#[from] io::Error),
    #[error("{0}")]
    Other(#[from] Box<ProgramError>),
}

/// What another process has done to an attached program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Interference {
    /// The link is detached (BPF_LINK_DETACH).
    Detached,
    /// The link has the program with this id instead of ours (BPF_LINK_UPDATE); its name, if it has one.
    Replaced { other: u32, name: Option<String> },
}

/// Attaches `program` to an interface.
pub fn attach(program: Program, ifindex: u32, mode: XdpMode) -> Result<Attachment, AttachError> {
    let (link, state) = link(&program, ifindex, mode)?;
    Ok(Attachment {
        program: Arc::new(program),
        ifindex,
        mode,
        link: Arc::new(link),
        link_id: state.link_id,
        program_id: state.program_id,
        folder: None,
        awaits_takeover: false,
        is_changing: false,
    })
}

/// Makes use of the link that a dead process has pinned in `folder`. It keeps its program until the [`Takeover`].
pub fn adopt(program: Program, pinned: PinnedLink, mode: XdpMode, folder: PinFolder) -> Attachment {
    Attachment {
        program: Arc::new(program),
        ifindex: pinned.state.ifindex,
        mode,
        link: pinned.link,
        link_id: pinned.state.link_id,
        program_id: pinned.state.program_id,
        folder: Some(folder),
        awaits_takeover: true,
        is_changing: false,
    }
}

fn link(program: &Program, ifindex: u32, mode: XdpMode) -> Result<(XdpLink, LinkState), AttachError> {
    let link = XdpLink::create(program.fd()?.as_fd(), ifindex, mode)?;
    let state = link.state()?;
    Ok((link, state))
}

/// Gives a link its program; if it is detached, makes another one, which is also returned.
fn update(
    link: &XdpLink,
    program: &Program,
    ifindex: u32,
    mode: XdpMode,
) -> Result<(Option<XdpLink>, LinkState), AttachError> {
    match link.update(program.fd()?.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            let (link, state) = self::link(program, ifindex, mode)?;
            Ok((Some(link), state))
        }
        Err(error) => Err(error.into()),
        Ok(()) => Ok((None, link.state()?)),
    }
}

impl Attachment {
    /// Keeps the program on the interface until [`Attachment::remove`], whatever happens to this process.
    pub fn persist(&mut self, folder: &PinFolder) -> Result<(), PinError> {
        folder.pin(&self.link, self.link_id)?;
        self.folder = Some(folder.clone());
        Ok(())
    }

    /// Replaces the attached program by `program`: every frame meets one of them. Before the takeover, that is later.
    pub fn replace(&mut self, program: Program) -> Result<(), AttachError> {
        self.replace_later(program);
        match self.awaits_takeover {
            true => Ok(()),
            false => self.put_back(),
        }
    }

    /// The same, but attached later by [`Attachment::put_back`].
    pub fn replace_later(&mut self, program: Program) {
        self.program = Arc::new(program);
    }

    /// Replaces the attached program by `program`, on any thread; [`Attachment::taken_over`] or
    /// [`Attachment::not_taken_over`] take the result. `None`: that is done later.
    pub fn change(&mut self, program: Program) -> Option<Takeover> {
        self.replace_later(program);
        self.is_changing = !self.awaits_takeover;
        self.is_changing.then(|| self.takeover())
    }

    pub fn is_changing(&self) -> bool {
        self.is_changing
    }

    /// Whether the link has the program that it should have, unless another process has changed that.
    pub fn is_settled(&self) -> bool {
        !self.awaits_takeover && !self.is_changing
    }

    /// Makes the interface run the program, whatever has happened to the link or its pin. Does nothing if all is as it
    /// should be.
    pub fn put_back(&mut self) -> Result<(), AttachError> {
        let updated = update(&self.link, &self.program, self.ifindex, self.mode)?;
        self.updated(updated);
        Ok(())
    }

    fn updated(&mut self, (link, state): (Option<XdpLink>, LinkState)) {
        self.awaits_takeover = false;
        self.is_changing = false;
        self.program_id = state.program_id;
        let old = std::mem::replace(&mut self.link_id, state.link_id);
        if let Some(link) = link {
            self.link = Arc::new(link);
        }
        let Some(folder) = &self.folder else { return };
        let pinned = folder.pin(&self.link, self.link_id);
        let unpinned = match old == self.link_id {
            true => Ok(()),
            false => folder.unpin(old),
        };
        if let Err(error) = pinned.and(unpinned) {
            warn!("{}: the program goes when this process ends", error::report(&error));
        }
    }

    /// `is_lost`: the program was found to be off.
    pub fn probe(&self, is_lost: bool) -> Probe {
        Probe {
            folder: self.folder.clone(),
            is_lost,
            link: Arc::clone(&self.link),
            link_id: self.link_id,
            program_id: self.program_id,
        }
    }

    /// The pin of this link is gone: pins it again.
    pub fn pin_again(&self, link_id: u32) -> Option<Result<(), PinError>> {
        let folder = self.folder.as_ref().filter(|_| self.link_id == link_id)?;
        Some(folder.pin_again(&self.link, link_id))
    }

    /// Whether the program captures.
    pub fn captures(&self) -> bool {
        self.program.captures()
    }

    /// Whether the link still has a dead process's program.
    pub fn awaits_takeover(&self) -> bool {
        self.awaits_takeover
    }

    /// Replaces the dead process's program, on any thread; [`Attachment::taken_over`] takes the result.
    pub fn takeover(&self) -> Takeover {
        Takeover {
            program: Arc::clone(&self.program),
            ifindex: self.ifindex,
            mode: self.mode,
            link: Arc::clone(&self.link),
        }
    }

    pub fn taken_over(&mut self, done: TakenOver) {
        self.updated(done.0);
    }

    /// The takeover has failed: the interface has no program.
    pub fn not_taken_over(&mut self) {
        self.is_changing = false;
        self.awaits_takeover = false;
    }

    /// Detaches the program and removes the pin of its link. Before the takeover the program is not ours, and stays.
    pub fn remove(mut self) {
        if self.awaits_takeover {
            return;
        }
        let _ = self.link.detach();
        if let Some(folder) = self.folder.take()
            && let Err(error) = folder.unpin(self.link_id)
        {
            warn!("{}", error::report(&error));
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.folder.is_none() {
            // Somebody else who has pinned the link, or a probe, would keep the program attached. A link that is already
            // detached is not an error.
            let _ = self.link.detach();
        }
    }
}

/// The replacement of a dead process's program.
pub struct Takeover {
    program: Arc<Program>,
    ifindex: u32,
    mode: XdpMode,
    link: Arc<XdpLink>,
}

/// The link if it is another one, and its state.
pub struct TakenOver((Option<XdpLink>, LinkState));

impl Takeover {
    /// May wait for the kernel's RTNL lock.
    pub fn perform(&self) -> Result<TakenOver, AttachError> {
        let updated = update(&self.link, &self.program, self.ifindex, self.mode);
        updated
            .or_else(|_| {
                // Whatever the reason: the old program must not forward by tables that nobody keeps up to date.
                let _ = self.link.detach();
                link(&self.program, self.ifindex, self.mode).map(|(link, state)| (Some(link), state))
            })
            .map(TakenOver)
    }
}

/// Finds out what has happened to an [`Attachment`]; can be used on another thread.
pub struct Probe {
    link: Arc<XdpLink>,
    pub link_id: u32,
    program_id: u32,
    folder: Option<PinFolder>,
    is_lost: bool,
}

/// What a [`Probe`] has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    Interference(Interference),
    /// The program was lost and is in place.
    InPlace,
    /// The program is in place, but the link's pin is gone.
    Unpinned,
}

impl Probe {
    /// `None`: all is as it was. May wait for the kernel's RTNL lock.
    pub fn look(&self) -> io::Result<Option<Found>> {
        let state = self.link.state()?;
        Ok(match state.program_id {
            _ if state.ifindex == 0 => Some(Found::Interference(Interference::Detached)),
            own if own == self.program_id => {
                let is_unpinned = |folder: &PinFolder| !folder.has(self.link_id);
                match self.is_lost {
                    true => Some(Found::InPlace),
                    false => self.folder.as_ref().is_some_and(is_unpinned).then_some(Found::Unpinned),
                }
            }
            other => Some(Found::Interference(Interference::Replaced {
                other,
                name: bpf::program_name(other).ok().filter(|name| !name.is_empty()),
            })),
        })
    }
}

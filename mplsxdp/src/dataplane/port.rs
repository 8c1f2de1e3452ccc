//! A port: an interface that has the program.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::programs::ProgramError;

use super::bpf::{self, XdpLink};
use super::loader::{LoadError, Program};
use crate::dataplane::XdpMode;

/// A program that is attached to an interface by a bpf_link. Dropping it detaches the program.
pub struct Attachment {
    program: Program,
    ifindex: u32,
    mode: XdpMode,
    /// Shared with a running [`Probe`].
    link: Arc<XdpLink>,
    pub link_id: u32,
    pub program_id: u32,
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
    let (link, link_id, program_id) = link(&program, ifindex, mode)?;
    Ok(Attachment {
        program,
        ifindex,
        mode,
        link,
        link_id,
        program_id,
    })
}

fn link(program: &Program, ifindex: u32, mode: XdpMode) -> Result<(Arc<XdpLink>, u32, u32), AttachError> {
    let link = XdpLink::create(program.fd()?.as_fd(), ifindex, mode)?;
    let state = link.state()?;
    Ok((Arc::new(link), state.link_id, state.program_id))
}

impl Attachment {
    /// Replaces the attached program by `program`: every frame meets one of them.
    pub fn replace(&mut self, program: Program) -> Result<(), AttachError> {
        self.program = program;
        self.put_back()
    }

    /// The same, but attached later by [`Attachment::put_back`].
    pub fn replace_later(&mut self, program: Program) {
        self.program = program;
    }

    /// Makes the interface run the program, whatever has happened to the link. Does nothing if it already does.
    pub fn put_back(&mut self) -> Result<(), AttachError> {
        match self.link.update(self.program.fd()?.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                (self.link, self.link_id, self.program_id) = link(&self.program, self.ifindex, self.mode)?;
            }
            Err(error) => return Err(error.into()),
            Ok(()) => self.program_id = self.link.state()?.program_id,
        }
        Ok(())
    }

    pub fn probe(&self) -> Probe {
        Probe {
            link: Arc::clone(&self.link),
            link_id: self.link_id,
            program_id: self.program_id,
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // A process that has pinned the link, or a probe, would keep the program attached. A link that is already
        // detached is not an error.
        let _ = self.link.detach();
    }
}

/// Finds out what has happened to an [`Attachment`]; can be used on another thread.
pub struct Probe {
    link: Arc<XdpLink>,
    pub link_id: u32,
    program_id: u32,
}

impl Probe {
    /// May wait for the kernel's RTNL lock.
    pub fn interference(&self) -> io::Result<Option<Interference>> {
        let state = self.link.state()?;
        Ok(match state.program_id {
            _ if state.ifindex == 0 => Some(Interference::Detached),
            own if own == self.program_id => None,
            other => Some(Interference::Replaced {
                other,
                name: bpf::program_name(other).ok().filter(|name| !name.is_empty()),
            }),
        })
    }
}

//! A port: an interface that has the program.

use std::io;

use aya::programs::links::{FdLink, LinkInfo};
use aya::programs::{ProgramError, XdpMode as AyaMode, xdp::XdpError, xdp::XdpLink};

use super::loader::{LoadError, Program};
use super::release::OLDEST;
use crate::config::XdpMode;

/// A program that is attached to an interface by a bpf_link. Dropping it detaches the program.
pub struct Attachment {
    link: FdLink,
    _program: Program,
    pub link_id: u32,
    pub program_id: u32,
}

/// The program did not go onto the interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What the driver or the kernel said to bpf_link_create.
    #[error("{0}")]
    Kernel(io::Error),
    #[error("the kernel has no bpf_link for XDP; mplsxdp needs Linux {OLDEST} or later")]
    NoBpfLink,
    #[error("{0}")]
    Other(#[from] Box<ProgramError>),
}

/// Attaches `program` to an interface.
pub fn attach(mut program: Program, ifindex: u32, mode: XdpMode) -> Result<Attachment, AttachError> {
    let mode = match mode {
        XdpMode::Native => AyaMode::Driver,
        XdpMode::Generic => AyaMode::Skb,
    };
    let xdp = program.xdp()?;
    let id = xdp.attach_to_if_index(ifindex, mode).map_err(|error| match error {
        ProgramError::SyscallError(error) => AttachError::Kernel(error.io_error),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => AttachError::Kernel(io::Error::other(error)),
        other => AttachError::Other(Box::new(other)),
    })?;
    let link = xdp.take_link(id).map_err(Box::new)?;
    Attachment::of(link, program)
}

impl Attachment {
    /// Puts `program` in the place of the one that is attached: every frame meets one of them. If that fails, neither is.
    pub fn replace(self, mut program: Program) -> Result<Self, AttachError> {
        let link = XdpLink::try_from(self.link).map_err(|error| AttachError::Kernel(io::Error::other(error)))?;
        let xdp = program.xdp()?;
        let id = xdp.attach_to_link(link).map_err(|error| match error {
            ProgramError::SyscallError(error) => AttachError::Kernel(error.io_error),
            other => AttachError::Other(Box::new(other)),
        })?;
        let link = xdp.take_link(id).map_err(Box::new)?;
        Self::of(link, program)
    }

    fn of(link: XdpLink, mut program: Program) -> Result<Self, AttachError> {
        // aya falls back to netlink where the kernel refuses a link with EINVAL; what is attached so would outlive the process.
        let link = FdLink::try_from(link).map_err(|_| AttachError::NoBpfLink)?;
        let program_id = program.xdp()?.info().map_err(Box::new)?.id();
        let link_id = link
            .info()
            .map(|info: LinkInfo| info.id())
            .map_err(|error| AttachError::Kernel(io::Error::other(error)))?;
        Ok(Self {
            link,
            _program: program,
            link_id,
            program_id,
        })
    }
}

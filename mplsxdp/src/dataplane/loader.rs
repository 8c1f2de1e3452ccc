//! Brings maps and programs into the kernel. Every port has a copy of the program of its own, with its [`Settings`] frozen in;
//! all copies share their maps through pins in a bpffs that is mounted nowhere: only this process can reach it, and it is gone
//! when the process is, however that ends.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{MapData, MapError};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use mplsxdp_common::abi::{PROGRAM, SETTINGS, Settings, map};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The maps that all copies of the program share.
pub const SHARED_MAPS: &[&str] = &[
    map::ILM,
    map::ADJACENCIES,
    map::STACKS,
    map::FTN_V4,
    map::FTN_V6,
    map::PORTS,
    map::TX_PORTS,
    map::ROUTE_COUNTERS,
    map::REASON_COUNTERS,
    map::META,
    map::SCRATCH,
];

/// The XDP program, as the build compiled it.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mplsxdp.o"));

/// What is fixed for the life of the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub labels: u32,
    pub stacks: u32,
    pub counter_slots: u32,
}

/// Something did not go into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "cannot make a bpffs for the maps: {0}; this needs CAP_SYS_ADMIN and a kernel with CONFIG_BPF_SYSCALL, 5.4 or later"
    )]
    Bpffs(#[source] io::Error),
    #[error("cannot load the XDP object: {0}; this needs CAP_BPF and CAP_NET_ADMIN")]
    Object(#[from] Box<EbpfError>),
    #[error("the XDP object has no program {PROGRAM}")]
    NoProgram,
    #[error("the kernel refuses the XDP program: {0}")]
    Program(#[from] Box<ProgramError>),
}

/// A bpffs of this process, to share maps through.
pub struct Pins {
    directory: OwnedFd,
}

impl Pins {
    fn new() -> Result<Self, LoadError> {
        let mount = || {
            let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        mount()
            .map(|directory| Self { directory })
            .map_err(|errno| LoadError::Bpffs(errno.into()))
    }

    fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()).into()
    }

    /// One of [`SHARED_MAPS`], which the first loaded program made.
    pub fn open(&self, name: &str) -> Result<MapData, MapError> {
        MapData::from_pin(self.path(name))
    }
}

/// Loads copies of the program.
pub struct Loader {
    pins: Pins,
    sizes: Sizes,
}

impl Loader {
    /// Makes the maps.
    pub fn new(sizes: Sizes) -> Result<Self, LoadError> {
        let loader = Self {
            pins: Pins::new()?,
            sizes,
        };
        loader.object(Settings::new(0, mplsxdp_common::abi::TtlMode::Uniform, 0, false, false))?;
        Ok(loader)
    }

    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// A copy of the program with `settings`, verified and not attached.
    pub fn program(&self, settings: Settings) -> Result<Program, LoadError> {
        let mut object = self.object(settings)?;
        let program: &mut Xdp = object
            .program_mut(PROGRAM)
            .ok_or(LoadError::NoProgram)?
            .try_into()
            .map_err(|error: ProgramError| Box::new(error))?;
        program.load().map_err(Box::new)?;
        Ok(Program { object })
    }

    fn object(&self, settings: Settings) -> Result<Ebpf, LoadError> {
        let settings = settings.to_bytes();
        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .map_max_entries(map::ILM, self.sizes.labels)
            .map_max_entries(map::STACKS, self.sizes.stacks)
            .map_max_entries(map::ROUTE_COUNTERS, self.sizes.counter_slots)
            .override_global(SETTINGS, &settings[..], true);
        for name in SHARED_MAPS {
            loader.map_pin_path(name, self.pins.path(name));
        }
        Ok(loader.load(OBJECT).map_err(Box::new)?)
    }
}

/// A loaded copy of the program.
pub struct Program {
    object: Ebpf,
}

impl Program {
    pub fn xdp(&mut self) -> Result<&mut Xdp, LoadError> {
        Ok(self
            .object
            .program_mut(PROGRAM)
            .ok_or(LoadError::NoProgram)?
            .try_into()
            .map_err(|error: ProgramError| Box::new(error))?)
    }
}

//! Loads maps and programs into the kernel. Every port has its own copy of the program, with its [`Settings`] frozen
//! in. All copies share their maps through pins in a bpffs that is not mounted anywhere: only this process can reach
//! it, and it disappears when the process ends, however that happens.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{MapData, MapError};
use aya::programs::{ProgramError, ProgramFd, RawTracePoint, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use aya_log::EbpfLogger;
use aya_obj::programs::XdpAttachType;
use mplsxdp_common::abi::{
    ATOMIC_COUNTERS, COUNTER_SLOTS, CounterSlots, DELIVER_PROGRAM, HASH_SEED, LOST_BEFORE_DRIVER, LOST_BY_DRIVER,
    POLICE, PROGRAM, Police, SETTINGS, Settings, TtlMode, WATCH, Watch, map,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use tracing::{info, warn};

use super::btf::Offsets;
use super::capture::{CaptureFilters, CaptureRing};
use super::inject::Injector;
use super::release::{OLDEST, Release, is_preempt_rt};
use crate::descriptors::hint_unless_short;

/// The maps that all copies of the program share.
pub const SHARED_MAPS: &[&str] = &[
    map::ILM,
    map::ADJACENCIES,
    map::STACKS,
    map::GROUPS,
    map::BACKUPS,
    map::FTN_ROOTS,
    map::FTN,
    map::PORTS,
    map::LABEL_RANGES,
    map::CROSS_CONNECTS,
    map::PSEUDOWIRES,
    map::ATTACHMENTS,
    map::TRAFFIC_CLASSES,
    map::VRFS,
    map::WAYS_OUT,
    map::SUB_INTERFACES,
    map::TX_PORTS,
    map::INTERFACES,
    map::XSKS,
    map::POLICERS,
    map::ROUTE_COUNTERS,
    map::REASON_COUNTERS,
    map::DELIVERY,
    map::META,
    map::LOG_RECORDS,
];

/// The XDP program, as the build compiled it.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mplsxdp.o"));
/// The same for ports while somebody captures. The other program knows nothing of that.
const CAPTURING_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/capture.o"));
/// The maps that only these programs have, and share.
const CAPTURE_MAPS: &[&str] = &[map::CAPTURE, map::CAPTURE_FILTERS, map::CAPTURE_LOST];

/// Sizes that stay fixed for the life of the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub labels: u32,
    pub stacks: u32,
    pub groups: u32,
    pub backups: u32,
    pub counter_slots: u32,
}

/// Something could not be loaded into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "cannot make a bpffs for the maps: {0}{hint}",
        hint = hint_unless_short(.0, "this needs CAP_SYS_ADMIN and a kernel with CONFIG_BPF_SYSCALL")
    )]
    Bpffs(#[source] io::Error),
    #[error("cannot load the XDP object: {0}{hint}", hint = hint_unless_short(.0, "this needs CAP_BPF and CAP_NET_ADMIN"))]
    Object(#[from] Box<EbpfError>),
    #[error("the XDP object has no program {0}")]
    NoProgram(&'static str),
    #[error("the kernel refuses the XDP program: {0}")]
    Program(#[from] Box<ProgramError>),
    #[error("cannot watch for frames that are lost after a redirect: {0}")]
    LostFrames(#[source] io::Error),
    #[error("cannot keep the XDP program: {0}")]
    Keep(#[source] io::Error),
    #[error("cannot hand frames to the kernel with test runs of a program (BPF_PROG_TEST_RUN): {0}")]
    Deliver(#[source] io::Error),
    #[error("cannot open the ring for captured frames: {0}")]
    Capture(#[source] io::Error),
    #[error("cannot count the CPUs: {0}")]
    Cpus(#[source] io::Error),
    #[error("cannot read the XDP program's log records: {0}")]
    Log(#[source] io::Error),
    #[error(
        "{refusal}. mplsxdp needs BPF atomic operations and multi-buffer XDP frames, which Linux has in version {OLDEST} or \
         later, and in older versions if a distributor has added them. This is Linux {running}"
    )]
    MayBeTooOld { running: Release, refusal: Box<LoadError> },
}

impl LoadError {
    /// If the kernel is an old one, says that this may be the reason.
    fn on_this_kernel(self) -> Self {
        match Release::running() {
            Some(running) if running < OLDEST => Self::MayBeTooOld {
                running,
                refusal: Box::new(self),
            },
            _ => self,
        }
    }
}

/// A bpffs of this process, through which programs share maps.
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

    /// One of [`SHARED_MAPS`], which the first loaded program created.
    pub fn open(&self, name: &str) -> Result<MapData, MapError> {
        MapData::from_pin(self.path(name))
    }
}

/// Loads copies of the program.
pub struct Loader {
    pins: Pins,
    sizes: Sizes,
    frozen: Frozen,
    /// The map of log records, as aya-log takes it.
    log: Ebpf,
}

impl Loader {
    /// Creates the maps.
    pub fn new(sizes: Sizes) -> Result<Self, LoadError> {
        let pins = Pins::new()?;
        let frozen = Frozen {
            police: Police::UNLIMITED,
            hash_seed: 0,
            atomic_counters: is_preempt_rt(),
        };
        let settings = Settings::new(0, TtlMode::Uniform, 0, false, false);
        let mut first = object(OBJECT, &pins, sizes, settings, frozen).map_err(LoadError::on_this_kernel)?;
        // The maps are in the bpffs, so their descriptors are not needed here.
        for name in SHARED_MAPS.iter().filter(|&&name| name != map::LOG_RECORDS) {
            drop(first.take_map(name));
        }
        Ok(Self {
            pins,
            sizes,
            frozen,
            log: first,
        })
    }

    /// Sets how copies of the program police their exceptions; by default they do not.
    pub fn with_police(self, police: Police) -> Self {
        Self {
            frozen: Frozen { police, ..self.frozen },
            ..self
        }
    }

    /// Sets the seed of flow hashes in copies of the program; 0 by default.
    pub fn with_hash_seed(self, hash_seed: u32) -> Self {
        Self {
            frozen: Frozen {
                hash_seed,
                ..self.frozen
            },
            ..self
        }
    }

    /// Sets whether copies of the program use atomic instructions for their counters; by default as this kernel needs
    /// it.
    pub fn with_atomic_counters(self, atomic_counters: bool) -> Self {
        Self {
            frozen: Frozen {
                atomic_counters,
                ..self.frozen
            },
            ..self
        }
    }

    /// Logs the log records of all copies from now on, on a separate thread, so that a flood of them does not hold the
    /// event loop. Only programs whose settings say so write records.
    pub fn follow_log(&mut self) -> Result<(), LoadError> {
        let mut logger = EbpfLogger::init_with_logger(&mut self.log, Records)
            .map_err(|error| LoadError::Log(io::Error::other(error)))?;
        let follow = move || loop {
            let mut ready = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => logger.flush(),
                Err(error) => return warn!(%error, "cannot wait for the program's log records any more"),
            }
        };
        let thread = std::thread::Builder::new().name("log-exceptions".into()).spawn(follow);
        thread.map(drop).map_err(LoadError::Log)
    }

    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// A copy of the program with `settings`, verified and not attached.
    pub fn program(&self, settings: Settings) -> Result<Program, LoadError> {
        self.load(OBJECT, false, settings).map_err(LoadError::on_this_kernel)
    }

    /// A copy of the program that also captures.
    pub fn capturing_program(&self, settings: Settings) -> Result<Program, LoadError> {
        self.load(CAPTURING_OBJECT, true, settings)
            .map_err(LoadError::on_this_kernel)
    }

    /// Makes the maps for captures, if they are not there. They disappear after [`Loader::end_capture`], with the last
    /// program that uses them.
    pub fn begin_capture(&self) -> Result<(CaptureRing, CaptureFilters), LoadError> {
        let settings = Settings::new(0, TtlMode::Uniform, 0, false, false);
        drop(object(CAPTURING_OBJECT, &self.pins, self.sizes, settings, self.frozen)?);
        let opened = CaptureRing::open(&self.pins).and_then(|ring| Ok((ring, CaptureFilters::open(&self.pins)?)));
        opened.map_err(|error| LoadError::Capture(io::Error::other(error)))
    }

    pub fn end_capture(&self) {
        for name in CAPTURE_MAPS {
            // One that is not there is as it should be.
            let _ = std::fs::remove_file(self.pins.path(name));
        }
    }

    fn load(&self, object: &[u8], captures: bool, settings: Settings) -> Result<Program, LoadError> {
        let object = self::object(object, &self.pins, self.sizes, settings, self.frozen)?;
        let xdp = load_one(object, PROGRAM)?;
        Ok(Program { xdp, captures })
    }

    /// Counts, as long as the returned value lives, the frames that are redirected to the ports of this network
    /// namespace but not sent by them. Each batch of frames that a driver refuses costs a little. If `Offsets` cannot
    /// be determined, they are not counted.
    pub fn lost_frames(&self) -> Result<LostFrames, LoadError> {
        let io_error = |error: MapError| LoadError::LostFrames(io::Error::other(error));
        let tx_ports = self.pins.open(map::TX_PORTS).map_err(io_error)?;
        let mut watch = Watch {
            netns_cookie: netns_cookie().map_err(LoadError::LostFrames)?,
            tx_ports_id: tx_ports.info().map_err(io_error)?.id(),
            ..Watch::default()
        };
        let offsets = Offsets::of_running_kernel();
        if let Ok(offsets) = &offsets {
            watch.ifindex_offset = offsets.ifindex;
            watch.netns_offset = offsets.netns;
            watch.cookie_offset = offsets.netns_cookie;
        }
        let mut object = object_watching(&self.pins, self.sizes, watch, self.frozen.atomic_counters)?;
        let mut attach = |name: &'static str| -> Result<(), LoadError> {
            let program = object.program_mut(name).ok_or(LoadError::NoProgram(name))?;
            let program: &mut RawTracePoint = program.try_into().map_err(|error: ProgramError| Box::new(error))?;
            program.load().map_err(Box::new)?;
            program.attach(name).map_err(Box::new)?;
            Ok(())
        };
        attach(LOST_BEFORE_DRIVER)?;
        match offsets {
            Ok(_) => attach(LOST_BY_DRIVER)?,
            Err(error) => {
                warn!(%error, "cannot count the frames that drivers refuse: `redirect-lost` does not include them")
            }
        }
        // The programs keep the maps alive.
        for name in SHARED_MAPS {
            drop(object.take_map(name));
        }
        Ok(LostFrames { _object: object })
    }

    /// The path into the kernel for frames that arrived at a port.
    pub fn injector(&self) -> Result<Injector, LoadError> {
        let settings = Settings::new(0, TtlMode::Uniform, 0, false, false);
        let mut object = object(OBJECT, &self.pins, self.sizes, settings, self.frozen)?;
        let program = object
            .program_mut(DELIVER_PROGRAM)
            .ok_or(LoadError::NoProgram(DELIVER_PROGRAM))?;
        let program: &mut SchedClassifier = program.try_into().map_err(|error: ProgramError| Box::new(error))?;
        verify(|| program.load()).map_err(LoadError::on_this_kernel)?;
        let alone = program
            .info()
            .and_then(|info| SchedClassifier::from_program_info(info, DELIVER_PROGRAM.into()));
        let map = self.pins.open(map::DELIVERY);
        let map = map.map_err(|error| LoadError::Deliver(io::Error::other(error)))?;
        Injector::new(alone.map_err(keep_error)?, &map).map_err(LoadError::Deliver)
    }
}

/// Logs the program's records, `EXCEPTION, THE REST`; each exception is a separate subject.
struct Records;

impl Records {
    /// The pause between two records. In a flood the ring fills up meanwhile, and the program skips records, which is
    /// cheaper.
    const PAUSE: Duration = Duration::from_micros(100);
}

impl log::Log for Records {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        let (exception, frame) = text.split_once(", ").unwrap_or((&text, "exception"));
        info!(exception, "{frame}");
        std::thread::sleep(Self::PAUSE);
    }

    fn flush(&self) {}
}

/// Makes the kernel verify and load a program. Its verifier gives up with EAGAIN if a signal arrives for this thread,
/// and must be asked again; libbpf retries as often.
fn verify(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), LoadError> {
    const ATTEMPTS: usize = 5;
    let mut attempts = 1;
    loop {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) && attempts < ATTEMPTS =>
            {
                attempts += 1;
            }
            result => return Ok(result.map_err(Box::new)?),
        }
    }
}

/// Settings that are frozen into all copies of the program alike.
#[derive(Clone, Copy)]
struct Frozen {
    police: Police,
    hash_seed: u32,
    atomic_counters: bool,
}

fn object(bytes: &[u8], pins: &Pins, sizes: Sizes, settings: Settings, frozen: Frozen) -> Result<Ebpf, LoadError> {
    let (settings, police) = (settings.to_bits(), frozen.police.to_bits());
    let atomic_counters = u32::from(frozen.atomic_counters);
    let counter_slots = CounterSlots::new(sizes.counter_slots).to_bits();
    let mut loader = sharing(pins, sizes)?;
    loader
        .override_global(COUNTER_SLOTS, &counter_slots, true)
        .override_global(SETTINGS, &settings, true)
        .override_global(POLICE, &police, true)
        .override_global(HASH_SEED, &frozen.hash_seed, true)
        .override_global(ATOMIC_COUNTERS, &atomic_counters, true);
    for name in CAPTURE_MAPS {
        loader.map_pin_path(name, pins.path(name));
    }
    Ok(loader.load(bytes).map_err(Box::new)?)
}

fn object_watching(pins: &Pins, sizes: Sizes, watch: Watch, atomic_counters: bool) -> Result<Ebpf, LoadError> {
    let words = watch.words();
    let atomic_counters = u32::from(atomic_counters);
    let mut loader = sharing(pins, sizes)?;
    loader
        .override_global(WATCH, &words, true)
        .override_global(ATOMIC_COUNTERS, &atomic_counters, true);
    Ok(loader.load(OBJECT).map_err(Box::new)?)
}

/// A loader for objects that share their maps.
fn sharing<'a>(pins: &Pins, sizes: Sizes) -> Result<EbpfLoader<'a>, LoadError> {
    let counters = sizes.counter_slots.saturating_mul(cpus().map_err(LoadError::Cpus)?);
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries(map::ILM, sizes.labels)
        .map_max_entries(map::STACKS, sizes.stacks)
        .map_max_entries(map::GROUPS, sizes.groups)
        .map_max_entries(map::BACKUPS, sizes.backups)
        .map_max_entries(map::ROUTE_COUNTERS, counters);
    for name in SHARED_MAPS {
        loader.map_pin_path(name, pins.path(name));
    }
    Ok(loader)
}

/// One more than the highest number that a CPU may have.
pub fn cpus() -> io::Result<u32> {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    // Ranges in order, such as `0-3,8-11`.
    let last = possible.trim_end().rsplit(['-', ',']).next().map(str::parse::<u32>);
    match last {
        Some(Ok(last)) => Ok(last + 1),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, possible)),
    }
}

/// The cookie of this thread's network namespace (SO_NETNS_COOKIE, Linux 5.14).
fn netns_cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `cookie` has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Counts lost frames while it lives.
pub struct LostFrames {
    _object: Ebpf,
}

/// A loaded copy of the program.
pub struct Program {
    xdp: Xdp,
    captures: bool,
}

impl Program {
    /// Whether it also captures.
    pub fn captures(&self) -> bool {
        self.captures
    }

    pub fn xdp(&self) -> &Xdp {
        &self.xdp
    }

    pub(super) fn fd(&self) -> Result<&ProgramFd, Box<ProgramError>> {
        self.xdp.fd().map_err(Box::new)
    }
}

/// Makes the kernel verify and load a program of `object`. Nothing else of `object` is kept: each map would take one
/// descriptor, and the kernel keeps the maps as long as the program.
fn load_one(mut object: Ebpf, name: &'static str) -> Result<Xdp, LoadError> {
    let program = object.program_mut(name).ok_or(LoadError::NoProgram(name))?;
    let program: &mut Xdp = program.try_into().map_err(|error: ProgramError| Box::new(error))?;
    verify(|| program.load())?;
    let alone = program
        .info()
        .and_then(|info| Xdp::from_program_info(info, name.into(), XdpAttachType::Interface));
    alone.map_err(keep_error)
}

/// The program is loaded but cannot be kept.
fn keep_error(error: ProgramError) -> LoadError {
    match error {
        ProgramError::IOError(error) => LoadError::Keep(error),
        other => Box::new(other).into(),
    }
}

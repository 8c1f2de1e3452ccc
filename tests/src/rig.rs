//! The programs of the test rig (`mplsxdp-ebpf/src/bin/rig.rs`), and the actions of another process on the links of a
//! switch.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::maps::HashMap;
use aya::programs::{RawTracePoint, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use crate::netns::Netns;

/// The object with all of them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/rig.o"));

/// Attaches one of the programs to an interface until the returned value is dropped.
pub fn attach(netns: &Netns, interface: &str, program: &str) -> Result<Ebpf> {
    netns.within(|| {
        let mut object = EbpfLoader::new()
            .load(OBJECT)
            .context("cannot load the programs of the test rig")?;
        let xdp: &mut Xdp = object
            .program_mut(program)
            .with_context(|| format!("the test rig has no program {program}"))?
            .try_into()?;
        xdp.load()?;
        xdp.attach(interface, XdpMode::Driver)?;
        Ok(object)
    })
}

/// Records page pools while it lives.
pub struct PagePools(Ebpf);

impl PagePools {
    /// Records those that get pages while `process` runs: its own, and some of interrupts.
    pub fn of(process: u32) -> Result<Self> {
        const TRACEPOINT: &str = "page_pool_state_hold";
        let mut loader = EbpfLoader::new();
        let mut object = loader.override_global("PROCESS", &process, true).load(OBJECT)?;
        let program: &mut RawTracePoint = object.program_mut(TRACEPOINT).context("no such program")?.try_into()?;
        program.load()?;
        program.attach(TRACEPOINT)?;
        Ok(Self(object))
    }

    pub fn count(&self) -> Result<usize> {
        let pools: HashMap<_, u64, u8> = self.0.map("PAGE_POOLS").context("no such map")?.try_into()?;
        Ok(pools.keys().count())
    }
}

const BPF_LINK_UPDATE: libc::c_long = 29;

/// A bpf_link of another process.
pub struct ForeignLink(OwnedFd);

impl ForeignLink {
    pub fn open(id: u32) -> Result<Self> {
        const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
        let link = bpf(BPF_LINK_GET_FD_BY_ID, [id, 0]).with_context(|| format!("no link {id}"))?;
        // SAFETY: the kernel has just made this descriptor for its caller.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(link) }))
    }

    /// Like `bpftool link detach`.
    pub fn detach(&self) -> Result<()> {
        const BPF_LINK_DETACH: libc::c_long = 34;
        bpf(BPF_LINK_DETACH, [self.descriptor(), 0]).context("cannot detach a link")?;
        Ok(())
    }

    /// Replaces its program with one of the rig's. Returns the id of that.
    pub fn replace(&self, program: &str) -> Result<u32> {
        let mut object = EbpfLoader::new().load(OBJECT)?;
        let xdp: &mut Xdp = object.program_mut(program).context("no such program")?.try_into()?;
        xdp.load()?;
        let descriptor = xdp.fd()?.as_fd().as_raw_fd().cast_unsigned();
        bpf(BPF_LINK_UPDATE, [self.descriptor(), descriptor, 0, 0]).context("cannot update a link")?;
        Ok(xdp.info()?.id())
    }

    /// Replaces its program with the loaded one with this id.
    pub fn replace_by_id(&self, program: u32) -> Result<()> {
        const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
        let program = bpf(BPF_PROG_GET_FD_BY_ID, [program, 0, 0]).with_context(|| format!("no program {program}"))?;
        // SAFETY: the kernel has just made this descriptor for its caller.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let descriptor = program.as_raw_fd().cast_unsigned();
        bpf(BPF_LINK_UPDATE, [self.descriptor(), descriptor, 0, 0]).context("cannot update a link")?;
        Ok(())
    }

    fn descriptor(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }
}

/// bpf(2) for commands whose attributes are words.
fn bpf<const WORDS: usize>(command: libc::c_long, mut attributes: [u32; WORDS]) -> io::Result<i32> {
    // SAFETY: the attributes have no pointers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of_val(&attributes)) };
    match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

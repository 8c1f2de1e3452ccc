//! The programs of the test rig: `mplsxdp-ebpf/src/bin/rig.rs`.

use anyhow::{Context as _, Result};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use crate::netns::Netns;

/// The object with all of them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/rig.o"));

/// Attaches one of the programs to an interface until the value that is returned goes.
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

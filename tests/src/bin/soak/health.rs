//! What may not grow: the process and its tables. The kernel keeps objects of an instance only for descriptors and mappings
//! of its process, and for pins.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use mplsxdp::control::api::Status;

use crate::net::Net;

/// How much more memory a process may have at its second checkpoint than at its first: buffers of the allocator.
const GROWTH_KIB: u64 = 8 << 10;

/// What is there at every checkpoint: then the routes are those of the configuration.
#[derive(PartialEq, Eq, Debug)]
struct Kept {
    descriptors: usize,
    /// Mapped BPF maps.
    mappings: usize,
    pins: usize,
    /// How much of each table is used.
    tables: Vec<(String, u64)>,
}

/// A process, and how much memory it has.
struct Memory {
    process: (u32, Option<String>),
    kib: u64,
}

#[derive(Default)]
pub struct Health {
    first: Option<Kept>,
    memory: Vec<Memory>,
}

impl Health {
    /// A checkpoint.
    pub fn check(&mut self, net: &Net) -> Result<()> {
        let status: Status = net.running()?.json("status")?;
        let process = format!("/proc/{}", status.pid);
        let about = fs::read_to_string(format!("{process}/status"))?;
        let resident = about.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|line| line.split_whitespace().next());
        let memory = Memory {
            process: (status.pid, status.since),
            kib: kib.context("no VmRSS")?.parse()?,
        };
        let maps = fs::read_to_string(format!("{process}/maps"))?;
        let kept = Kept {
            descriptors: fs::read_dir(format!("{process}/fd"))?.count(),
            mappings: maps.lines().filter(|line| line.contains("bpf-map")).count(),
            pins: fs::read_dir(Path::new("/sys/fs/bpf/mplsxdp").join(net.instance()))?.count(),
            tables: status
                .tables
                .into_iter()
                .map(|table| (table.name, table.used))
                .collect(),
        };
        if let Some(before) = self.memory.last().filter(|before| before.process == memory.process) {
            ensure!(
                memory.kib <= before.kib + GROWTH_KIB,
                "its memory has grown from {} KiB to {} KiB",
                before.kib,
                memory.kib
            );
        }
        println!("checkpoint: {} KiB, {} descriptors", memory.kib, kept.descriptors);
        self.memory.push(memory);
        match &self.first {
            Some(first) => ensure!(kept == *first, "there is {kept:?}, and was {first:?}"),
            None => self.first = Some(kept),
        }
        Ok(())
    }
}

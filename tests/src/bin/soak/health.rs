//! What may not grow: the process and its tables. The kernel keeps objects of an instance only for descriptors and mappings
//! of its process, and for pins.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp::control::api::Status;
use mplsxdp_tests::wait;

use crate::net::Net;

/// How much more memory a process may have at its second checkpoint than at its first: what the allocator keeps (8 MiB,
/// `daemon/heap.rs`), and as much in pieces that are too small to give back.
const GROWTH_KIB: u64 = 16 << 10;
/// How long the controller may take to close the connections of its last clients.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is there at every checkpoint: then the routes are those of the configuration.
#[derive(Debug)]
struct Kept {
    descriptors: usize,
    /// Mapped BPF maps.
    mappings: usize,
    pins: usize,
    /// How much of each table is used.
    tables: Vec<(String, u64)>,
}

impl Kept {
    /// A connection may still have been open at the checkpoint before.
    fn is_like(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && (self.mappings, self.pins, &self.tables) == (before.mappings, before.pins, &before.tables)
    }
}

/// A process, and how much memory it has.
struct Memory {
    process: (u32, Option<String>),
    kib: u64,
}

#[derive(Default)]
pub struct Health {
    /// What the last checkpoint found.
    before: Option<(Memory, Kept)>,
}

impl Health {
    /// A checkpoint.
    pub fn check(&mut self, net: &Net) -> Result<()> {
        let mut found = look(net)?;
        if let Some((memory, kept)) = &self.before {
            // What differs in the end is told below.
            let _ = wait::until("what there was before", PATIENCE, || {
                found = look(net)?;
                Ok(found.1.is_like(kept).then_some(()))
            });
            ensure!(found.1.is_like(kept), "there is {:?}, and was {kept:?}", found.1);
            ensure!(
                memory.process != found.0.process || found.0.kib <= memory.kib + GROWTH_KIB,
                "its memory has grown from {} KiB to {} KiB",
                memory.kib,
                found.0.kib
            );
        }
        println!("checkpoint: {} KiB, {} descriptors", found.0.kib, found.1.descriptors);
        self.before = Some(found);
        Ok(())
    }
}

fn look(net: &Net) -> Result<(Memory, Kept)> {
    let status: Status = net.running()?.json("status")?;
    let process = format!("/proc/{}", status.pid);
    let memory = Memory {
        kib: kib(&fs::read_to_string(format!("{process}/status"))?)?,
        process: (status.pid, status.since),
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
    Ok((memory, kept))
}

/// What a process has of its own (proc_pid_status(5)): the pages of its file come and go.
fn kib(status: &str) -> Result<u64> {
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok::<u64, anyhow::Error>(kib.with_context(|| format!("no {name}"))?.parse()?)
    };
    Ok(of("RssAnon:")? + of("RssShmem:")?)
}

//! Opens what an earlier process has saved, before the switch exists: reading a million routes takes a second.

use std::time::SystemTime;

use anyhow::Context as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{info, warn};

use super::random_seed;
use crate::config::{Config, Number, SyncSource};
use crate::kernel::netns;
use crate::route::Source;
use crate::state::{self, Directory, Problem, Request, Start, Store};
use crate::switch::Wanted;

/// Saves changes while it exists.
pub struct Saving {
    pub store: Store,
    pub requests: UnboundedReceiver<Request>,
}

/// What is saved, and the thread that saves.
pub struct Opened {
    pub saving: Saving,
    pub wanted: Wanted,
    pub hash_seed: u32,
}

/// Reads the saved state of the instance, and begins to save. `forwards`: ports forward by the tables of a dead process.
pub async fn open(config: &Config, forwards: bool) -> anyhow::Result<Opened> {
    let config = config.without_routes();
    tokio::task::spawn_blocking(move || read(&config, forwards)).await?
}

fn read(config: &Config, forwards: bool) -> anyhow::Result<Opened> {
    let path = state::directory(&config.instance);
    if config.discard_state {
        Directory::discard(&path)?;
    }
    let directory = match Directory::read(path.clone()) {
        Err(Problem::Damaged(damage)) if forwards => anyhow::bail!(
            "{damage}; the ports go on forwarding by the tables as they are. `mplsxdp --instance {name} unload --force` ends \
             that, and with `--discard-state` a load starts from the configuration and the followed sources",
            name = config.instance
        ),
        Err(Problem::Damaged(damage)) => {
            let kept = Directory::keep_aside(&path, SystemTime::now())?;
            let kept: Vec<_> = kept.iter().map(|path| path.display().to_string()).collect();
            warn!(
                "{damage}; the routes and ports that an earlier process had saved are not restored: they come from the \
                 configuration and the followed sources. The files are kept as {}",
                kept.join(", ")
            );
            Directory::read(path)?
        }
        read => read?,
    };
    let saved_seed = directory.saved().start.as_ref().map(|start| start.hash_seed);
    let given_seed = config.hash_seed.map(Number::get);
    let hash_seed = given_seed.or(saved_seed).unwrap_or_else(random_seed);
    let follows: Vec<Source> = config.sync.iter().map(SyncSource::source).collect();
    let start = Start {
        boot: boot_id(),
        netns: netns::cookie().unwrap_or_default(),
        hash_seed,
        follows: follows.clone(),
    };
    let opened = directory
        .open(start)
        .context("cannot start the thread that saves routes")?;
    let (saved, store, requests) = opened;
    let routes = saved.route_count();
    if routes > 0 || !saved.ports.is_empty() {
        info!(
            routes,
            ports = saved.ports.len(),
            "restoring what an earlier process has saved"
        );
    }
    Ok(Opened {
        saving: Saving { store, requests },
        wanted: Wanted::new(saved, &follows),
        hash_seed,
    })
}

/// Differs from boot to boot. Without /proc, every start looks like one after a reboot.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| random_seed().to_string(), |id| id.trim().to_owned())
}

//! `load --check`: whether a configuration could be loaded now. Changes nothing.

use mplsxdp_common::abi::{MAX_ADJACENCIES, MAX_FTN};

use crate::config::{Config, Options};
use crate::dataplane::Capacity;
use crate::dataplane::memory::MemoryTables;
use crate::error;
use crate::kernel::Netlink;
use crate::lfib::{Lfib, Mode};
use crate::ports::local::{LocalError, LocalPair};
use crate::ports::preflight::PreflightError;
use crate::ports::{self, PortError};
use crate::route::Owner;

/// Everything that prevents loading these options in the network namespace of this thread. Ports of a running instance with the
/// same name are not an obstacle: that instance would read the file again.
pub async fn system(options: &Options) -> Vec<String> {
    let netlink = match Netlink::open_requests() {
        Ok(netlink) => netlink,
        Err(error) => return vec![error.to_string()],
    };
    let mut errors = Vec::new();
    for name in options.iface.iter().chain(&options.tx_only) {
        let Err(error) = ports::check(name, options.mode, &netlink).await else {
            continue;
        };
        match &error {
            PortError::Preflight(PreflightError::OtherInstance { instance, .. }) if *instance == options.instance => {}
            PortError::Preflight(PreflightError::NoSuchInterface { .. }) if options.wait => {}
            PortError::Preflight(PreflightError::NoSuchInterface { .. }) => {
                errors.push(format!("{error}; with `--wait` it becomes a port when it appears"));
            }
            _ => errors.push(error::report(&error)),
        }
    }
    if let Some(name) = &options.local {
        match LocalPair::check(name, &options.instance, &netlink).await {
            Ok(()) => {}
            Err(LocalError::InUse { owner, .. }) if *owner == *options.instance => {}
            Err(error) => errors.push(error.to_string()),
        }
    }
    errors
}

/// Why the routes do not fit into the tables, if they do not.
pub fn routes(config: &Config) -> Option<String> {
    let capacity = Capacity {
        labels: config.labels.get(),
        adjacencies: MAX_ADJACENCIES,
        stacks: config.stacks.get(),
        groups: config.groups.get(),
        counter_slots: config.counter_slots.get(),
        prefixes: MAX_FTN,
    };
    let mut lfib = Lfib::new(MemoryTables::with_capacity(capacity));
    let error = lfib.change(Mode::Add, Owner::Config, &config.routes).err()?;
    let route = error.index().and_then(|index| config.routes.get(index));
    Some(match route {
        Some(route) => format!("the configured route `{route}`: {error}"),
        None => format!("the configured routes: {error}"),
    })
}

//! `load --check`: whether a configuration could be loaded now. Changes nothing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mplsxdp_common::abi::{MAX_ADJACENCIES, MAX_FTN, Settings, TtlMode};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::config::{Config, Options, SyncSource};
use crate::control::Instance;
use crate::control::client::{self, Client};
use crate::daemon::fpm::{self, ListenError};
use crate::dataplane::Capacity;
use crate::dataplane::memory::MemoryTables;
use crate::dataplane::pinned::PinFolder;
use crate::error;
use crate::kernel::{self, Interests, Netlink, sysctl};
use crate::lfib::{Lfib, Mode};
use crate::observe::metrics::address::MetricsAddress;
use crate::observe::metrics::listener;
use crate::ports::adoption;
use crate::ports::attach::{self, Attached};
use crate::ports::local::{LocalError, LocalPair};
use crate::ports::preflight::PreflightError;
use crate::ports::{self, PortError};
use crate::route::Owner;
use crate::state::{self, Directory, Problem};
use crate::switch::{Effect, Identity, Input, PortEvent, Switch};

/// How long a running instance of the same name may take to report what it follows.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How often files are read that a running instance writes, and the time in between.
const READ_ATTEMPTS: u32 = 3;
const READ_PAUSE: Duration = Duration::from_millis(100);

/// Everything that prevents loading these options in the network namespace of this thread. Ports of a running instance
/// with the same name are not an obstacle: that instance would read the file again.
pub async fn system(options: &Options, discard_state: bool) -> Vec<String> {
    let netlink = match Netlink::open_requests() {
        Ok(netlink) => netlink,
        Err(error) => return vec![error.to_string()],
    };
    let mut errors = Vec::new();
    let left = match left(options) {
        Ok(left) => left,
        Err(error) => {
            errors.push(error);
            Vec::new()
        }
    };
    if options.persist && !discard_state {
        errors.extend(saved(&options.instance, !left.is_empty()));
    }
    for name in options.iface.iter().chain(&options.tx_only) {
        let Err(error) = ports::check(name, options.mode, &netlink).await else {
            continue;
        };
        match &error {
            PortError::Preflight(PreflightError::OtherInstance { instance, .. }) if *instance == options.instance => {}
            PortError::Preflight(PreflightError::OtherProgram { attached, .. }) if left.contains(&attached.program) => {
            }
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
    for address in options.sync.iter().filter_map(|source| source.fpm_address()) {
        match fpm::bind(address) {
            Err(ListenError::InUse(_)) if follows(&options.instance, address) => {}
            bound => errors.extend(bound.err().map(|error| error::report(&error))),
        }
    }
    if let Some(address) = &options.metrics {
        match listener::check(address) {
            Err(error) if error.is_in_use() && serves_metrics(&options.instance, address) => {}
            checked => errors.extend(checked.err().map(|error| error::report(&error))),
        }
    }
    errors
}

/// The programs that a load would take over from a dead process, or why it could not.
fn left(options: &Options) -> Result<Vec<u32>, String> {
    let instance = Instance::new(&options.instance).map_err(|error| error.to_string())?;
    let is_running = client::is_starting(&instance);
    if options.persist {
        PinFolder::check().map_err(|error| error.to_string())?;
    } else if !is_running {
        adoption::refuse_leftovers(&instance).map_err(|error| error.to_string())?;
    }
    let links = PinFolder::of(instance.name())
        .links()
        .map_err(|error| error.to_string())?;
    Ok(links.iter().map(|pinned| pinned.state.program_id).collect())
}

/// Why what the instance has saved would be refused. `forwards`: its ports do.
fn saved(instance: &str, forwards: bool) -> Option<String> {
    let path = state::directory(instance);
    let mut attempts = 0;
    loop {
        let problem = match Directory::read(path.clone()) {
            Ok(_) => return None,
            // A load keeps the files aside.
            Err(Problem::Damaged(_)) if !forwards => return None,
            Err(problem) => problem,
        };
        attempts += 1;
        // A running instance may have replaced a file between two that were read.
        let is_final = matches!(problem, Problem::Newer { .. } | Problem::Untrusted(_));
        if is_final || attempts == READ_ATTEMPTS {
            return Some(problem.to_string());
        }
        thread::sleep(READ_PAUSE);
    }
}

/// Whether an instance of this name runs and waits for a routing daemon there.
fn follows(instance: &str, address: SocketAddr) -> bool {
    let sources: Option<Vec<SyncSource>> = configured(instance, "sync");
    sources.is_some_and(|sources| sources.contains(&SyncSource::Fpm(address)))
}

/// Whether an instance of this name runs and serves metrics there.
fn serves_metrics(instance: &str, address: &MetricsAddress) -> bool {
    configured(instance, "metrics").is_some_and(|served: MetricsAddress| served == *address)
}

/// The option of a running instance of this name.
fn configured<T: DeserializeOwned>(instance: &str, option: &str) -> Option<T> {
    let client = Client::try_connect(&Instance::new(instance).ok()?).ok()?;
    let mut client = client?;
    client.set_patience(Some(ANSWER_WAIT)).ok()?;
    serde_json::from_value(client.config().ok()?.remove(option)?).ok()
}

/// Lets a switch in memory take over the configuration, in the network namespace of this thread as it is now: it logs
/// the warnings of a load, such as next hops that cannot be reached. It follows the kernel's routes if
/// that is configured. Returns what else would keep the configuration from loading.
///
/// The interface for this machine's own packets is left out: it would have to be created.
pub async fn rehearse(config: Config) -> Result<(), String> {
    let error = |error: kernel::Error| error.to_string();
    let interests = Interests {
        routing: config.sync.contains(&SyncSource::Kernel),
        ..Interests::default()
    };
    let (netlink, mut events) = Netlink::open_with(interests).map_err(error)?;
    let found = events.until_synced().await.map_err(error)?;
    let identity = Identity {
        pid: std::process::id(),
        netns_inode: 0,
        netns_name: None,
        since: SystemTime::now(),
    };
    let settings = Settings::new(0, TtlMode::Uniform, config.pipe_ttl(), false, false);
    let (tables, now) = (MemoryTables::with_capacity(capacity(&config)), Instant::now());
    let mut switch = Switch::new(config.without_local(), identity, settings, tables, now);
    let mut inputs = VecDeque::from([Input::Kernel(found), Input::Start]);
    while let Some(input) = inputs.pop_front() {
        switch.handle(input, now);
        loop {
            while let Some(effect) = switch.take_effect() {
                match effect {
                    // What it follows comes after this.
                    Effect::Ready => {}
                    Effect::Failed(error) => return Err(error::report(&error)),
                    effect => inputs.extend(answer(effect, &netlink).await),
                }
            }
            if !switch.has_steps() {
                break;
            }
            switch.step(now, &mut || false);
        }
    }
    Ok(())
}

/// The result of an effect when nothing may be changed.
async fn answer(effect: Effect, netlink: &Netlink) -> Option<Input> {
    Some(match effect {
        Effect::LookUp { address, scopes } => {
            let mut answers = Vec::new();
            for scope in scopes {
                answers.push(netlink.route_lookup(address, scope).await);
            }
            Input::LookedUp { address, answers }
        }
        Effect::Survey { name, own } => {
            let mut survey = attach::survey(netlink, name, &own).await;
            // If there is a program, it belongs to the running instance of the same name.
            if let Ok(survey) = &mut survey {
                survey.holder = None;
                survey.facts.program_name = None;
                if let Some(link) = &mut survey.facts.link {
                    link.xdp = None;
                }
            }
            Input::Port(PortEvent::Surveyed(survey))
        }
        Effect::Attach(order) => {
            let facts = order.facts.clone();
            let (link_id, program_id) = (0, 0);
            let attached = Attached {
                link_id,
                program_id,
                awaits_takeover: false,
                facts,
            };
            Input::Port(PortEvent::Attached(order, Ok(attached)))
        }
        Effect::ListenEverywhere { .. } => Input::Port(PortEvent::Listening(Ok(()))),
        Effect::LogHandover(situation) => {
            for warning in situation.warnings(sysctl::read) {
                warn!("{warning}");
            }
            return None;
        }
        _ => return None,
    })
}

fn capacity(config: &Config) -> Capacity {
    Capacity {
        labels: config.labels.get(),
        adjacencies: MAX_ADJACENCIES,
        stacks: config.stacks.get(),
        groups: config.groups.get(),
        backups: config.backups.get(),
        counter_slots: config.counter_slots.get(),
        prefixes: MAX_FTN,
    }
}

/// Why the routes do not fit into the tables, if they do not.
pub fn routes(config: &Config) -> Option<String> {
    let mut lfib = Lfib::new(MemoryTables::with_capacity(capacity(config)));
    let error = lfib.change(Mode::Add, Owner::Config, &config.routes).err()?;
    let route = error.index().and_then(|index| config.routes.get(index));
    Some(match route {
        Some(route) => format!("the configured route `{route}`: {error}"),
        None => format!("the configured routes: {error}"),
    })
}

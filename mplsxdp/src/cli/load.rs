//! `load`: gathers the configuration, prepares the process, and starts the daemon.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::args::{Global, LoadArgs};
use super::route::saved_routes;
use super::{Failure, check, netns};
use crate::config::{Config, ConfigError, Given, Place, PlacedRoute, Problem, Reason, file};
use crate::daemon::{self, End, Reread, upgrade};
use crate::log::Log;
use crate::ports::preflight;
use crate::{descriptors, error};

pub fn load(args: LoadArgs, global: Global) -> Result<(), Failure> {
    if args.own.check {
        return check(&args, &global);
    }
    upgrade::note_file();
    let mut config = config(&args, &global).map_err(|error| refused(&lines(&error)))?;
    config.discard_state = args.own.discard_state;
    config.confirm = args.own.confirm.map(|seconds| Duration::from_secs(seconds.into()));
    let reread = args
        .own
        .config
        .is_some()
        .then(|| -> Reread { Arc::new(move || self::config(&args, &global)) });
    preflight::check_capabilities().map_err(|error| Failure::Refused(error.to_string()))?;
    // A thread that already existed would stay in the old namespace.
    if let Some(name) = &config.netns {
        enter_netns(name)?;
    }
    let log = log_to_stderr(log_level(config.verbose))?;
    descriptors::raise_limit().map_err(|error| Failure::Refused(error.to_string()))?;
    // The final message is logged too, so it does not wait for a stalled reader for ever.
    match run(config, reread) {
        Ok(End::Stop) => Ok(()),
        Ok(End::Upgrade) => {
            // Its lines are written first.
            drop(log);
            let error = upgrade::execute();
            Err(Failure::Refused(format!(
                "cannot run the program again: {error}; the ports go on forwarding until it is loaded again"
            )))
        }
        Err(failure) => {
            log.line(&format!("mplsxdp: {failure}"));
            Err(Failure::Reported)
        }
    }
}

fn run(config: Config, reread: Option<Reread>) -> Result<End, Failure> {
    block_on(daemon::run(config, reread))?.map_err(|error| Failure::Refused(error::report(error.as_ref())))
}

/// Reports everything that would prevent the configuration from being loaded.
fn check(args: &LoadArgs, global: &Global) -> Result<(), Failure> {
    let given = given(args, global).map_err(|error| refused(&lines(&error)))?;
    let options = given.options.clone();
    let config = given.check();
    let mut errors = match &config {
        Ok(config) => check::routes(config).into_iter().collect(),
        Err(error) => lines(error),
    };
    let capable = preflight::check_capabilities().map_err(|error| Failure::Refused(error.to_string()));
    let entered = match &options.netns {
        Some(name) => capable.and_then(|()| enter_netns(name)),
        None => capable,
    };
    match entered {
        Ok(()) => errors.extend(block_on(check::system(&options, args.own.discard_state))?),
        Err(error) => errors.push(error.to_string()),
    }
    let Ok(config) = config else {
        return Err(refused(&errors));
    };
    if !errors.is_empty() {
        return Err(refused(&errors));
    }
    let (ports, routes) = (config.ports.len(), config.routes.len());
    let done = format!(
        "instance {}: ports {ports} routes {routes}: it can be loaded",
        config.instance
    );
    // Warnings that a load would log.
    let log = log_to_stderr("warn")?;
    block_on(check::rehearse(config))?.map_err(Failure::Refused)?;
    drop(log);
    writeln!(io::stdout(), "{done}")?;
    Ok(())
}

fn lines(error: &ConfigError) -> Vec<String> {
    error.0.iter().map(ToString::to_string).collect()
}

fn refused(errors: &[String]) -> Failure {
    Failure::Refused(errors.join("\nmplsxdp: "))
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Refused(format!("cannot start: {error}")))?;
    Ok(runtime.block_on(work))
}

fn config(args: &LoadArgs, global: &Global) -> Result<Config, ConfigError> {
    given(args, global)?.check()
}

/// The options of the config file, of the command line, and the routes.
fn given(args: &LoadArgs, global: &Global) -> Result<Given, ConfigError> {
    let file = match &args.own.config {
        Some(path) => file::read(path)?,
        None => Given::default(),
    };
    let mut given = file
        .with_command_line(&args.options)
        .map_err(|error| ConfigError(vec![Reason::unreadable(error).into()]))?;
    if let Some(instance) = &global.instance {
        given.options.instance.clone_from(instance);
    }
    if let Some(netns) = &global.netns {
        given.options.netns = Some(netns.clone());
    }
    if let Some(path) = given.options.routes_file.clone() {
        add_routes(&mut given, &path);
    }
    Ok(given)
}

/// Adds the routes of a file that `route save` wrote.
fn add_routes(given: &mut Given, path: &Path) {
    let name: Arc<str> = path.display().to_string().into();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return given.refuse(Problem::at(name, Reason::unreadable(error))),
    };
    for saved in saved_routes(BufReader::new(file)) {
        match saved {
            Ok((line, route)) => given.routes.push(PlacedRoute {
                route,
                place: Place {
                    file: Arc::clone(&name),
                    line: line as usize,
                    column: None,
                },
            }),
            Err(error) => given.refuse(Problem::at(&name, Reason::unreadable(error))),
        }
    }
}

fn log_level(verbose: u8) -> &'static str {
    match verbose {
        0 => "info",
        1 => "info,mplsxdp=debug",
        _ => "debug,mplsxdp=trace",
    }
}

/// `RUST_LOG` takes precedence.
fn log_to_stderr(level: &str) -> Result<Log, Failure> {
    Log::start(level, io::stderr().is_terminal())
        .map_err(|error| Failure::Refused(format!("cannot start the log: {error}")))
}

/// Enters a network namespace.
pub(super) fn enter_netns(name: &str) -> Result<(), Failure> {
    let file = File::open(netns::path(name)).map_err(|error| netns::refused("open", name, &error))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| netns::refused("enter", name, &error))
}

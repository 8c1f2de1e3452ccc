//! The command line. Every command except `load` is a client of the control socket.

mod args;
mod capture;
mod check;
mod config;
mod doctor;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod generate;
mod instances;
mod lines;
mod link;
mod load;
mod lsp;
mod monitor;
mod netns;
mod output;
mod pcapng;
mod route;
mod status;
mod sync;
mod top;
mod trace;
mod unload;
mod web;
mod xconnect;

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::control::client::{Client, ClientError};
use crate::control::{DEFAULT_INSTANCE, Instance, InvalidInstance};
use crate::route::line;
use args::{Cli, Command, Global};
use lines::{Kind, Lines, Unreadable};
use output::{Output, Style};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let failure = match args::parse(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned())) {
        Ok(cli) => match run(cli) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(failure) => failure,
        },
        Err(error) => error.into(),
    };
    failure.report("");
    failure.exit_code()
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It is not a valid command.
    #[error("{0}")]
    Usage(String),
    /// It is valid, and was refused.
    #[error("{0}")]
    Refused(String),
    /// clap formats its own errors; help and version are also returned this way.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// The output has no reader any more.
    #[error("standard output was closed")]
    NobodyReads,
    /// The failure was already reported, line by line.
    #[error("some commands failed")]
    Reported,
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NobodyReads => ExitCode::SUCCESS,
            Self::Clap(error) if !error.use_stderr() => ExitCode::SUCCESS,
            Self::Refused(_) | Self::Reported => ExitCode::from(1),
            Self::Usage(_) | Self::Clap(_) => ExitCode::from(2),
        }
    }

    /// `place` is the position of the command in a batch; empty for the command line.
    fn report(&self, place: &str) {
        // If standard error is closed, that cannot be reported.
        let _ = match self {
            Self::NobodyReads | Self::Reported => Ok(()),
            Self::Clap(error) if place.is_empty() => error.print(),
            Self::Clap(error) => write!(io::stderr(), "mplsxdp: {place}{error}"),
            Self::Usage(_) | Self::Refused(_) => writeln!(io::stderr(), "mplsxdp: {place}{self}"),
        };
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::NobodyReads,
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<InvalidInstance> for Failure {
    fn from(error: InvalidInstance) -> Self {
        Self::Usage(error.to_string())
    }
}

/// What a command shares with the other commands of a batch.
struct Session {
    instance: Instance,
    /// The command line names the instance.
    instance_is_named: bool,
    /// The network namespace that the instance must run in.
    netns: Option<String>,
    client: Option<Client>,
    /// The commands come from standard input, so no command can read it.
    stdin_is_taken: bool,
    /// Warnings already printed: many commands of a batch may get the same one.
    warned: HashSet<String>,
    family: line::Family,
    out: Output,
}

impl Session {
    fn new(global: &Global) -> Result<Self, Failure> {
        Ok(Self {
            instance: Instance::new(global.instance.as_deref().unwrap_or(DEFAULT_INSTANCE))?,
            instance_is_named: global.instance.is_some(),
            netns: global.netns.clone(),
            client: None,
            stdin_is_taken: global.batch.as_deref().is_some_and(is_stdin),
            warned: HashSet::new(),
            family: global.family.map_or(line::Family::Any, Into::into),
            out: Output::new(Style {
                json: global.json,
                pretty: global.pretty,
                stats: global.stats,
                oneline: global.oneline,
                brief: global.brief,
                details: global.details,
                timestamp: global.timestamps(),
            }),
        })
    }

    /// The connection, made at the first call.
    fn client(&mut self) -> Result<&mut Client, Failure> {
        Ok(self.client_and_output()?.0)
    }

    /// The connection, and what its answers are printed to.
    fn client_and_output(&mut self) -> Result<(&mut Client, &mut Output), Failure> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.connect()?,
        };
        Ok((self.client.insert(client), &mut self.out))
    }

    /// Prints the instance's warnings, each once.
    fn warn(&mut self, warnings: Vec<String>) {
        for warning in warnings {
            if !self.warned.contains(&warning) {
                // If standard error is closed, that cannot be reported.
                let _ = writeln!(io::stderr(), "mplsxdp: warning: {warning}");
                self.warned.insert(warning);
            }
        }
    }

    /// A new connection.
    fn connect(&self) -> Result<Client, Failure> {
        match &self.netns {
            None => Ok(Client::connect(&self.instance)?),
            Some(name) => {
                let named = self.instance_is_named.then_some(&self.instance);
                netns::connect(name, named, self.instance.dir())
            }
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match (command, &global.batch) {
        (None, Some(file)) => batch(&global, file),
        (Some(_), Some(_)) => Err(Failure::Usage(
            "`--batch` reads its commands from the file; the command line cannot have another".into(),
        )),
        (None, None) => Err(Failure::Usage("no command; `mplsxdp --help` lists them".into())),
        (Some(Command::Load(args)), None) => load::load(*args, global),
        (Some(Command::Doctor(args)), None) => doctor::doctor(&args, &global),
        (Some(Command::Generate { folder }), None) => generate::generate(&folder),
        (Some(command), None) => {
            let mut session = Session::new(&global)?;
            command_of(command, &mut session)?;
            session.out.flush()
        }
    }
}

fn command_of(command: Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Capture(args) => capture::capture(&args, session),
        Command::Monitor { words, interval } => monitor::monitor(&words, interval, session),
        Command::Web { listen } => web::web(session, listen),
        Command::Load(_) | Command::Doctor(_) | Command::Generate { .. } => Err(Failure::Usage(
            "`load`, `doctor` and `generate` are not for a batch".into(),
        )),
        Command::Route {
            words,
            allow_empty,
            owner,
        } => route::route(&words, route::Choices { allow_empty, owner }, session),
        Command::Link { words } => link::link(&words, session),
        Command::Lsp(args) => lsp::lsp(&args, session),
        Command::Xconnect { words } => xconnect::xconnect(&words, session),
        Command::Neigh { words } => link::neigh(&words, session),
        Command::Stats { unknown: true, .. } => status::unknown_labels(session),
        Command::Stats { all, unknown: false } => status::stats(all, session),
        Command::Trace { words, port, packet } => trace::trace(&words, port.as_deref(), packet, session),
        Command::Sync { words, repair } => sync::sync(&words, repair, session),
        Command::Status => status::status(session),
        Command::Top { interval } => top::top(interval.0, session),
        Command::Config { words } => config::config(&words, session),
        Command::Instances => instances::instances(session),
        Command::Confirm => Ok(session.client()?.confirm()?),
        Command::Upgrade => unload::upgrade(session),
        Command::Unload { force: true } => unload::force(session),
        Command::Unload { force: false } => {
            session.client()?;
            match session.client.take() {
                Some(client) => Ok(client.unload()?),
                None => Ok(()),
            }
        }
    }
}

/// Runs the commands of a file over one connection.
fn batch(global: &Global, file: &Path) -> Result<(), Failure> {
    let name = if is_stdin(file) {
        "stdin".into()
    } else {
        file.display().to_string()
    };
    let reader: Box<dyn BufRead> = if is_stdin(file) {
        Box::new(io::stdin().lock())
    } else {
        let file = std::fs::File::open(file).map_err(|error| Failure::Refused(format!("{name}: {error}")))?;
        Box::new(BufReader::new(file))
    };
    let mut session = Session::new(global)?;
    let mut failed = false;
    let mut lines = Lines::new(reader, Kind::Commands);
    loop {
        let (number, outcome) = match lines.next() {
            Ok(None) => break,
            Ok(Some((number, line))) => (number, batch_line(&line, &mut session)),
            Err(Unreadable { line, reason }) => (line, Err(Failure::Refused(reason))),
        };
        let place = format!("{name}:{number}: ");
        match outcome {
            Ok(()) => {}
            Err(Failure::NobodyReads) => return Err(Failure::NobodyReads),
            Err(failure) => {
                session.out.flush()?;
                failure.report(&place);
                if !global.force {
                    return Err(Failure::Reported);
                }
                failed = true;
            }
        }
    }
    session.out.flush()?;
    if failed { Err(Failure::Reported) } else { Ok(()) }
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// One line of a batch. Its options are its own, in addition to those of the command line.
fn batch_line(line: &str, session: &mut Session) -> Result<(), Failure> {
    let words = line.split_ascii_whitespace().map(str::to_owned);
    let Cli { global, command } = match args::parse(std::iter::once("mplsxdp".to_owned()).chain(words)) {
        Err(asked) if !asked.use_stderr() => return session.out.line(asked.to_string().trim_end()),
        parsed => parsed?,
    };
    if global.batch.is_some() || global.instance.is_some() || global.netns.is_some() {
        return Err(Failure::Usage(
            "`--batch`, `--instance` and `--netns` must be on the command line, not in a batch".into(),
        ));
    }
    let command = match command {
        None => return Err(Failure::Usage("no command".into())),
        Some(Command::Monitor { .. } | Command::Capture(_) | Command::Web { .. }) => {
            let reason = "`monitor`, `capture` and `web` do not end, so they are not for a batch";
            return Err(Failure::Usage(reason.into()));
        }
        Some(command) => command,
    };
    let (family, style) = (session.family, session.out.style);
    session.family = global.family.map_or(family, Into::into);
    session.out.style = Style {
        json: style.json || global.json,
        pretty: style.pretty || global.pretty,
        stats: style.stats || global.stats,
        oneline: style.oneline || global.oneline,
        brief: style.brief || global.brief,
        details: style.details || global.details,
        ..style
    };
    let outcome = command_of(command, session);
    (session.family, session.out.style) = (family, style);
    outcome
}

/// The verb that a word is or abbreviates: the first one that begins with it, as with iproute2.
fn verb<T: Copy>(word: &str, verbs: &[(&str, T)]) -> Option<T> {
    verbs
        .iter()
        .find(|(verb, _)| !word.is_empty() && verb.starts_with(word))
        .map(|&(_, meaning)| meaning)
}

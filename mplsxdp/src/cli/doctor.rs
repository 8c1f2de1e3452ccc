//! `doctor`: what keeps frames from passing, and the commands that help.

use std::io;
use std::process::Command;
use std::time::Duration;

use super::args::{DoctorArgs, Global};
use super::load::{block_on, enter_netns};
use super::output::Output;
use super::{Failure, Session, netns};
use crate::control::client::Client;
use crate::doctor::facts::{self, Instance, NeighbourTable};
use crate::doctor::{self, Finding, Level};
use crate::error;
use crate::kernel;

pub fn doctor(args: &DoctorArgs, global: &Global) -> Result<(), Failure> {
    let mut session = Session::new(global)?;
    let instance = instance(&session)?;
    // Before another network namespace is entered.
    let tables = facts::neighbour_tables();
    let prefix = match &global.netns {
        None => String::new(),
        Some(name) => {
            // Threads that already exist would stay in the old namespace; there is none yet.
            enter_netns(name)?;
            kernel::netns::shell_prefix(&netns::path(name))
        }
    };
    let mut findings = look(args, instance.as_ref(), &prefix, tables)?;
    if args.fix {
        let commands = commands(&findings);
        for command in &commands {
            run(command, &mut session.out)?;
        }
        if !commands.is_empty() {
            findings = look(args, instance.as_ref(), &prefix, tables)?;
        }
    }
    print(&findings, &mut session.out)?;
    session.out.flush()?;
    match findings.iter().any(|finding| finding.level == Level::Error) {
        true => Err(Failure::Reported),
        false => Ok(()),
    }
}

fn look(
    args: &DoctorArgs,
    instance: Option<&Instance>,
    prefix: &str,
    tables: Option<[NeighbourTable; 2]>,
) -> Result<Vec<Finding>, Failure> {
    let watch = Duration::from_secs(args.seconds);
    let gathered = block_on(facts::gather(&args.iface, instance, prefix, tables, watch))?;
    let (machine, interfaces) = gathered.map_err(|error| Failure::Refused(error::report(&error)))?;
    Ok(doctor::examine(&machine, &interfaces, instance))
}

/// The instance, if it runs in the network namespace that is looked at.
fn instance(session: &Session) -> Result<Option<Instance>, Failure> {
    let mut client = match &session.netns {
        // The message says which ones run; here that is not an error.
        Some(_) => match session.connect() {
            Ok(client) => client,
            Err(_) => return Ok(None),
        },
        None => match Client::try_connect(&session.instance)? {
            Some(client) => client,
            None => return Ok(None),
        },
    };
    let instance = Instance::ask(&mut client)?;
    let own = kernel::netns::inode("/proc/thread-self/ns/net").ok();
    if session.netns.is_none() && own != Some(instance.netns_inode) {
        let name = instance.netns.as_deref().unwrap_or("NAME");
        return Err(Failure::Refused(format!(
            "instance `{}` runs in another network namespace: `mplsxdp --netns {name} doctor`",
            instance.name
        )));
    }
    Ok(Some(instance))
}

/// The commands of all findings that are not good, each once.
fn commands(findings: &[Finding]) -> Vec<&str> {
    let mut commands: Vec<&str> = Vec::new();
    for finding in findings.iter().filter(|finding| finding.level != Level::Ok) {
        if let Some(command) = finding.command.as_deref()
            && !commands.contains(&command)
        {
            commands.push(command);
        }
    }
    commands
}

/// Shows a command on standard error, and runs it.
fn run(command: &str, out: &mut Output) -> Result<(), Failure> {
    out.flush()?;
    eprintln!("+ {command}");
    let result = Command::new("sh")
        .args(["-c", command])
        .stdin(std::process::Stdio::null())
        .status();
    let failed = match result {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => io::Error::other(status.to_string()),
        Err(error) => error,
    };
    // The next look says what is still wrong.
    eprintln!("mplsxdp: `{command}` failed: {failed}");
    Ok(())
}

fn print(findings: &[Finding], out: &mut Output) -> Result<(), Failure> {
    if out.style.json {
        return out.json(&findings);
    }
    let subject = |finding: &Finding| finding.interface.as_deref().unwrap_or("machine").to_owned();
    let rows: Vec<[String; 4]> = findings
        .iter()
        .map(|finding| {
            [
                subject(finding),
                finding.level.name().to_owned(),
                finding.check.to_owned(),
                finding.text.clone(),
            ]
        })
        .collect();
    let lines = super::output::aligned(&rows, &[]);
    for (finding, line) in findings.iter().zip(lines) {
        if out.style.brief && finding.level == Level::Ok {
            continue;
        }
        out.line(&line)?;
        if let Some(command) = finding
            .command
            .as_deref()
            .filter(|command| !finding.text.contains(command))
        {
            out.line(&format!("    {command}"))?;
        }
    }
    let count = |level: Level, plural| {
        let count = findings.iter().filter(|finding| finding.level == level).count();
        format!("{count} {}{}", level.name(), if count == 1 { "" } else { plural })
    };
    out.line(&format!(
        "{}, {}, {}",
        count(Level::Ok, ""),
        count(Level::Warning, "s"),
        count(Level::Error, "s")
    ))
}

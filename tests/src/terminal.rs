//! A terminal that a test types into and reads from.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{tidy, wait};

const PATIENCE: Duration = Duration::from_secs(20);

/// tmux with one window of 120 columns and 30 lines, in which a command runs.
pub struct Terminal {
    directory: TempDir,
    _server: tidy::Reaped,
}

impl Terminal {
    /// Runs a command, with its arguments.
    pub fn start<S: AsRef<OsStr>>(command: impl IntoIterator<Item = S>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Not as a daemon, so that it ends with this process.
        let mut server = tmux(&directory);
        server.args(["-D"]).stdout(Stdio::null()).stderr(Stdio::null());
        let server = tidy::spawn(&mut server)?;
        let terminal = Self {
            directory,
            _server: server,
        };
        wait::until("tmux", PATIENCE, || {
            Ok(terminal.directory.path().join("socket").exists().then_some(()))
        })?;
        let mut session = tmux(&terminal.directory);
        session
            .args(["new-session", "-d", "-x", "120", "-y", "30"])
            .args(command);
        let output = session.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(terminal)
    }

    /// Presses keys, by their names in tmux(1).
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        let output = tmux(&self.directory).arg("send-keys").args(keys).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What is on the screen; `None` once the command has ended.
    pub fn screen(&self) -> Result<Option<String>> {
        let output = tmux(&self.directory).args(["capture-pane", "-p"]).output()?;
        Ok(output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Waits until what is on the screen is as `is_so` says.
    pub fn expect(&self, what: &str, is_so: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = None;
        let found = wait::until(what, PATIENCE, || {
            last = self.screen()?;
            Ok(last.clone().filter(|screen| is_so(screen)))
        });
        found.with_context(|| format!("the screen:\n{}", last.unwrap_or_else(|| "(it has ended)".into())))
    }

    /// The process of the command.
    pub fn pid(&self) -> Result<i32> {
        let output = tmux(&self.directory)
            .args(["display-message", "-p", "#{pane_pid}"])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().with_context(|| format!("no process: {text}"))
    }

    /// Waits until the command has ended.
    pub fn ended(&self) -> Result<()> {
        wait::until("the end of the command", PATIENCE, || {
            Ok(self.screen()?.is_none().then_some(()))
        })
    }
}

fn tmux(directory: &TempDir) -> Command {
    let mut tmux = Command::new("tmux");
    tmux.arg("-S")
        .arg(directory.path().join("socket"))
        .args(["-f", "/dev/null"]);
    // Not within another one.
    tmux.env_remove("TMUX").env("LC_ALL", "C.UTF-8");
    tmux
}

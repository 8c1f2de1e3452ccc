//! `upgrade`: the file that this process was started from, which may be another version now, goes on in the same process.
//! Whatever can keep it from taking over is found out before this one ends.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

static FILE: OnceLock<io::Result<PathBuf>> = OnceLock::new();

/// Call this at the start: the path cannot be found any more once the file is replaced.
pub fn note_file() {
    FILE.get_or_init(std::env::current_exe);
}

/// The arguments of this process that also hold for the next image.
fn arguments() -> Vec<OsString> {
    lasting(std::env::args_os().skip(1))
}

/// What was discarded at the start is not discarded again: since then more has been saved. Nor is there anything to
/// confirm: whoever upgrades an instance can reach it.
fn lasting(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut lasting = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_encoded_bytes() {
            b"--discard-state" => {}
            b"--confirm" => drop(arguments.next()),
            bytes if bytes.starts_with(b"--confirm=") => {}
            _ => lasting.push(argument),
        }
    }
    lasting
}

/// Whether the file loads what this process has loaded; else the reason. May take as long as a load.
pub fn try_file() -> Result<(), String> {
    let path = match FILE.get_or_init(std::env::current_exe) {
        Ok(path) => path,
        Err(error) => return Err(format!("cannot find the program's file: {error}")),
    };
    let mut check = Command::new(path);
    check.args(arguments()).arg("--check");
    let output = check.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", path.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = match said.trim() {
        "" => output.status.to_string(),
        said => said.to_owned(),
    };
    Err(format!("{} cannot take over: {reason}", path.display()))
}

/// Replaces this process's image by the file; if that has become impossible, by the one that it has. Returns only if both
/// fail. The calling thread keeps its priority.
pub fn execute() -> io::Error {
    if let Some(Ok(path)) = FILE.get() {
        let error = Command::new(path).args(arguments()).exec();
        // The log has ended. If standard error is closed, that cannot be reported.
        let _ = writeln!(
            io::stderr(),
            "mplsxdp: cannot run {}: {error}; going on as before",
            path.display()
        );
    }
    Command::new("/proc/self/exe").args(arguments()).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_start_is_not_repeated() {
        let lasting = |line: &str| {
            let words = lasting(line.split(' ').map(OsString::from));
            words.join(" ".as_ref()).into_string().unwrap()
        };
        assert_eq!(
            lasting("load --confirm 60 --iface eth1 --discard-state --persist --confirm=5"),
            "load --iface eth1 --persist"
        );
        assert_eq!(lasting("load --iface eth1 --confirm"), "load --iface eth1");
    }
}

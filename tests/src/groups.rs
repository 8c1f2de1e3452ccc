//! Programs that see groups which this machine need not have: the machine's own file stays as it is.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

/// A file of groups, removed when dropped.
pub struct Groups(PathBuf);

impl Groups {
    /// `name` tells it from those of other labs.
    pub fn new(name: &str, groups: &[(&str, u32)]) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("{name}.group"));
        let lines = groups.iter().map(|(group, id)| format!("{group}:x:{id}:\n"));
        fs::write(&path, lines.collect::<String>())?;
        Ok(Self(path))
    }

    /// Runs a program, in a mount namespace of its own, that sees only these groups. Its process id is the one that the
    /// command gets.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/group && exec \"$@\""])
            .arg(&self.0)
            .arg(program);
        command
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

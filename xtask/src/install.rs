//! Installs the program beneath a prefix, with its manual pages, shell completions and systemd unit, and removes them
//! again.
//!
//! Everything is built and staged by the calling user, in a folder that looks like the prefix. Only copying the staged
//! files to their places may need root. A list of the installed files and folders is installed too: `--uninstall`
//! removes those, and nothing else.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{AccessFlags, access};

use crate::run::{artifacts, cargo, is_installed, root_command, run_tool};
use crate::setup;

/// The list of installed files and folders, beneath the prefix.
const LIST: &str = "share/mplsxdp/installed";
const PROGRAM: &str = "bin/mplsxdp";
pub const UNIT: &str = "lib/systemd/system/mplsxdp@.service";
const UNIT_TEMPLATE: &str = include_str!("../files/mplsxdp@.service");
/// Where systemd looks for units of these prefixes (systemd.unit(5)).
const PREFIXES_OF_UNITS: [&str; 2] = ["/usr", "/usr/local"];

#[derive(clap::Args)]
pub struct Arguments {
    /// Install beneath this folder.
    #[arg(long, value_name = "FOLDER", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Remove what was installed beneath the prefix, and nothing else.
    #[arg(long)]
    uninstall: bool,
    /// Install the program `mplsxdp` of this folder, such as target/release, instead of building it.
    #[arg(long, value_name = "FOLDER", conflicts_with = "uninstall")]
    built: Option<PathBuf>,
    /// Copy these staged files to the destination; without it, remove what is installed there.
    #[arg(long, hide = true)]
    staged: Option<PathBuf>,
    /// Do only what may need root: copy or remove files.
    #[arg(long, hide = true)]
    only_files: bool,
    /// Install into this folder as if it were the root of the file system, as packagers do.
    #[arg(long, value_name = "FOLDER", env = "DESTDIR")]
    destdir: Option<PathBuf>,
}

pub fn install(arguments: &Arguments) -> Result<()> {
    let Arguments { prefix, destdir, .. } = arguments;
    ensure!(
        prefix.is_absolute() && !prefix.components().any(|part| part == Component::ParentDir),
        "--prefix {} is not an absolute path",
        prefix.display()
    );
    let target = match destdir {
        Some(root) => root.join(prefix.strip_prefix("/")?),
        None => prefix.clone(),
    };
    if arguments.only_files {
        return match &arguments.staged {
            Some(staged) => place(staged, &target),
            None => remove(&target),
        };
    }
    if arguments.uninstall {
        ensure!(
            target.join(LIST).exists(),
            "nothing is installed beneath {}: there is no {}",
            target.display(),
            target.join(LIST).display()
        );
        files_as_needed(&target, &["--only-files"])?;
        println!("Removed from {}.", target.display());
        return Ok(());
    }
    let staged = stage(prefix, arguments.built.as_deref())?;
    files_as_needed(&target, &["--only-files", "--staged", &staged.to_string_lossy()])?;
    println!("Installed beneath {}:", target.display());
    for file in files(&staged)? {
        println!("  {}", file.display());
    }
    if destdir.is_none() {
        say_what_is_next(prefix);
    }
    Ok(())
}

/// Makes the folder that looks like the prefix.
fn stage(prefix: &Path, built: Option<&Path>) -> Result<PathBuf> {
    let program = match built {
        Some(folder) => folder.join("mplsxdp"),
        None => build()?,
    };
    let own = std::env::current_exe().context("where is this program?")?;
    let staged = own.with_file_name("install");
    match fs::remove_dir_all(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", staged.display()));
        }
        _ => {}
    }
    write(&staged.join(UNIT), unit(prefix).as_bytes(), 0o644)?;
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    write(&staged.join(PROGRAM), &bytes, 0o755)?;
    run_tool(
        Command::new(staged.join(PROGRAM)).arg("generate").arg(&staged),
        "it writes manual pages and shell completions",
    )?;
    Ok(staged)
}

pub fn build() -> Result<PathBuf> {
    setup::setup()?;
    build_by(cargo("build"))
}

/// The same by this command, which builds, such as for another processor.
pub fn build_by(mut command: Command) -> Result<PathBuf> {
    command.args(["--release", "--package", "mplsxdp"]);
    let programs = artifacts(command)?;
    let program = programs.into_iter().find(|artifact| artifact.name == "mplsxdp");
    Ok(program.context("cargo has built no mplsxdp")?.executable)
}

pub fn unit(prefix: &Path) -> String {
    UNIT_TEMPLATE.replace("@PREFIX@", &prefix.to_string_lossy())
}

/// Runs this program again, by sudo if this user cannot write at the target.
fn files_as_needed(target: &Path, options: &[&str]) -> Result<()> {
    let own = std::env::current_exe().context("where is this program?")?;
    let mut command = if is_writable(target) {
        Command::new(&own)
    } else {
        ensure!(
            is_installed("sudo") || crate::run::is_root()?,
            "{} belongs to another user, and there is no sudo: run this as root, or take another `--prefix`",
            target.display()
        );
        root_command(&own, &format!("Files go to or from {}", target.display()), &[])?
    };
    // The target is already complete.
    command
        .env_remove("DESTDIR")
        .args(["install", "--prefix"])
        .arg(target)
        .args(options);
    let status = command.status().context("cannot run this program again")?;
    ensure!(status.success(), "files cannot be written or removed ({status})");
    Ok(())
}

/// Whether this user can make or change files there, or make the folder.
fn is_writable(target: &Path) -> bool {
    let there = |folder: &&Path| folder.exists();
    target
        .ancestors()
        .find(there)
        .is_some_and(|folder| access(folder, AccessFlags::W_OK).is_ok())
}

/// Copies the staged files. What an earlier installation had and this one does not is removed.
fn place(staged: &Path, target: &Path) -> Result<()> {
    let earlier = if target.join(LIST).exists() {
        list(target)?
    } else {
        BTreeSet::new()
    };
    let mut installed = BTreeSet::new();
    let files = files(staged)?;
    for file in files.iter().map(PathBuf::as_path).chain([Path::new(LIST)]) {
        for folder in file.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let path = target.join(folder);
            let is_ours = !path.exists() || earlier.contains(folder);
            // The prefix itself counts, too: it may be a new folder.
            if is_ours {
                fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
                installed.insert(folder.to_owned());
            }
        }
        installed.insert(file.to_owned());
    }
    for file in &files {
        let source = staged.join(file);
        let bytes = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
        let mode = fs::metadata(&source)?.permissions().mode() & 0o777;
        write(&target.join(file), &bytes, mode)?;
    }
    let lines: String = installed.iter().map(|path| format!("{}\n", path.display())).collect();
    write(&target.join(LIST), lines.as_bytes(), 0o644)?;
    remove_all(target, &earlier.difference(&installed).cloned().collect())
}

/// Removes everything on the list.
fn remove(target: &Path) -> Result<()> {
    remove_all(target, &list(target)?)
}

/// Removes files, and folders that are then empty. Missing ones are not an error.
fn remove_all(target: &Path, paths: &BTreeSet<PathBuf>) -> Result<()> {
    // A folder comes before its contents.
    for path in paths.iter().rev() {
        let path = target.join(path);
        let removed = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => match fs::remove_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                removed => removed,
            },
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// What is installed beneath the target, by the list. A list that names something elsewhere is refused.
fn list(target: &Path) -> Result<BTreeSet<PathBuf>> {
    let path = target.join(LIST);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let paths: BTreeSet<PathBuf> = text.lines().map(PathBuf::from).collect();
    let is_beneath = |path: &PathBuf| path.components().all(|part| matches!(part, Component::Normal(_)));
    if let Some(other) = paths.iter().find(|path| !is_beneath(path)) {
        bail!(
            "{} names {}, which is not beneath the prefix",
            path.display(),
            other.display()
        );
    }
    Ok(paths)
}

/// The files beneath a folder, relative to it, in order.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a file whole or not at all: a running program keeps its file.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        fs::write(&new, bytes)?;
        fs::set_permissions(&new, Permissions::from_mode(mode))?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn say_what_is_next(prefix: &Path) {
    let is_ordinary = PREFIXES_OF_UNITS.map(Path::new).contains(&prefix);
    if !is_ordinary {
        println!(
            "systemd does not look for units beneath {}: link the unit by `systemctl link {}`.",
            prefix.display(),
            prefix.join(UNIT).display()
        );
    } else if Path::new("/run/systemd/system").exists() {
        println!("Run `systemctl daemon-reload` for the unit.");
    }
    // Elsewhere, neither a PATH nor man finds it.
    if is_ordinary {
        println!("`sudo mplsxdp load --iface IFACE` runs it; `man mplsxdp` has the rest.");
    } else {
        println!(
            "`sudo {} load --iface IFACE` runs it; `man -M {} mplsxdp` has the rest.",
            prefix.join(PROGRAM).display(),
            prefix.join("share/man").display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(root: &Path, files: &[&str]) -> PathBuf {
        let staged = root.join(format!("staged{}", files.len()));
        for file in files {
            write(
                &staged.join(file),
                file.as_bytes(),
                if file.starts_with("bin") { 0o755 } else { 0o644 },
            )
            .unwrap();
        }
        staged
    }

    fn everything(folder: &Path) -> Vec<String> {
        let mut found: Vec<_> = files(folder)
            .unwrap()
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        found.sort();
        found
    }

    #[test]
    fn what_was_installed_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("usr/local");
        // Files of others, in a folder that existed and in one that is not only ours afterwards.
        write(&target.join("bin/other"), b"other", 0o755).unwrap();
        let first = staged(
            root.path(),
            &[
                "bin/mplsxdp",
                "share/man/man8/mplsxdp.8",
                "share/man/man8/mplsxdp-old.8",
            ],
        );
        place(&first, &target).unwrap();
        assert_eq!(
            fs::metadata(target.join("bin/mplsxdp")).unwrap().permissions().mode() & 0o777,
            0o755
        );
        write(&target.join("share/man/man8/other.8"), b"other", 0o644).unwrap();
        // The next version has no `mplsxdp old`.
        let second = staged(root.path(), &["bin/mplsxdp", "share/man/man8/mplsxdp.8"]);
        place(&second, &target).unwrap();
        assert_eq!(
            everything(&target),
            [
                "bin/mplsxdp",
                "bin/other",
                "share/man/man8/mplsxdp.8",
                "share/man/man8/other.8",
                LIST
            ]
        );
        remove(&target).unwrap();
        assert_eq!(everything(&target), ["bin/other", "share/man/man8/other.8"]);
        assert!(!target.join("share/mplsxdp").exists());
        // Into a prefix that does not exist, and out of it without a trace.
        let new = root.path().join("opt/mplsxdp");
        place(&second, &new).unwrap();
        remove(&new).unwrap();
        assert!(!new.join("bin").exists() && !new.join("share").exists());
    }

    #[test]
    fn a_list_that_leads_elsewhere_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for path in ["../outside", "/etc/passwd"] {
            write(&root.path().join(LIST), format!("bin\n{path}\n").as_bytes(), 0o644).unwrap();
            let error = remove(root.path()).unwrap_err().to_string();
            assert!(
                error.contains(path) && error.ends_with("not beneath the prefix"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_unit_is_one_that_systemd_takes() {
        let text = unit(Path::new("/opt/mplsxdp"));
        assert!(text.contains("ExecStart=/opt/mplsxdp/bin/mplsxdp load "), "{text}");
        assert!(
            !text.contains('@'.to_string().repeat(2).as_str()) && !text.contains("@PREFIX@"),
            "{text}"
        );
        if !is_installed("systemd-analyze") {
            println!("skipped: there is no systemd-analyze to check the unit with");
            return;
        }
        // It checks whether the program is there.
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join(PROGRAM), b"#!/bin/sh\n", 0o755).unwrap();
        let path = root.path().join("mplsxdp@lab.service");
        write(&path, unit(root.path()).as_bytes(), 0o644).unwrap();
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("mplsxdp@"), "{said}");
    }
}

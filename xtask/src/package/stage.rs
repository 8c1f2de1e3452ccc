//! The folder that packages are made of. It looks like the root of a file system, and mplsxdp/Cargo.toml takes the files
//! from it: `target/release/package/...` there, wherever the target folder is.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Built, VERSION, licences};
use crate::guest::image::output;
use crate::install::{self, files};
use crate::run::{run_tool, workspace};

const DOC: &str = "usr/share/doc/mplsxdp";
const PROGRAM: &str = "usr/bin/mplsxdp";
/// Only for the .deb. The name is Debian's.
const DEBIAN_CHANGELOG: &str = "debian/changelog.Debian";
/// A config file for the instance that commands without `--instance` are for.
const CONFIG: &str = "etc/mplsxdp/default.toml";
/// Who makes the packages: also in mplsxdp/Cargo.toml.
const MAINTAINER: &str = "mplsxdp maintainers <mplsxdp@users.noreply.github.com>";
/// Files of the source tree and their places.
const COPIED: [(&str, &str); 5] = [
    ("packaging/sysusers.conf", "usr/lib/sysusers.d/mplsxdp.conf"),
    ("packaging/tmpfiles.conf", "usr/lib/tmpfiles.d/mplsxdp.conf"),
    ("SECURITY.md", "usr/share/doc/mplsxdp/SECURITY.md"),
    ("labs/l3vpn/PR.conf", "usr/share/doc/mplsxdp/examples/frr.conf"),
    ("labs/router.sysctl", "usr/share/doc/mplsxdp/examples/router.sysctl"),
];
/// Folders of the source tree and their places.
const FOLDERS: [(&str, &str); 4] = [
    ("docs", "usr/share/doc/mplsxdp"),
    ("packaging/examples", "usr/share/doc/mplsxdp/examples"),
    ("packaging/grafana", "usr/share/doc/mplsxdp/examples"),
    ("packaging/prometheus", "usr/share/doc/mplsxdp/examples"),
];
/// The header of the config file.
const CONFIG_HEADER: &str = "\
# Instance `default` of mplsxdp. Set `iface` at least, then start it: `systemctl enable --now mplsxdp@default`.
# `mplsxdp load --check --config FILE` checks a file. After a change: `systemctl reload mplsxdp@default`; a file with an
# error changes nothing. Each other file NAME.toml in this folder is for an instance of its own: `mplsxdp@NAME`.
#
# Nothing is set here. Values are examples or defaults. /usr/share/doc/mplsxdp/usage.md explains each option; whole files
# are in /usr/share/doc/mplsxdp/examples.

";

/// Makes the folder anew. The program itself writes manual pages and completions.
pub fn stage(root: &Path, built: &Built, revision: u32, date: u64) -> Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", root.display()));
        }
        _ => {}
    }
    sources(root)?;
    let stripped = root.join(PROGRAM);
    fs::create_dir_all(stripped.parent().context("no folder")?)?;
    let mut strip = built.strip();
    strip.args(["--strip-unneeded", "-o"]);
    output(strip.arg(&stripped).arg(&built.program))?;
    fs::set_permissions(&stripped, Permissions::from_mode(0o755))?;
    run_tool(
        built.run(&built.program).arg("generate").arg(root.join("usr")),
        "it writes manual pages and shell completions",
    )?;
    for page in files(&root.join("usr/share/man"))? {
        let page = root.join("usr/share/man").join(page);
        compress(&page, &fs::read(&page)?)?;
        fs::remove_file(page)?;
    }
    let licences = licences::of(built.arch)?;
    compress(&root.join(DOC).join("third-party-licences"), licences.as_bytes())?;
    let changes = debian_changelog(revision, date)?;
    compress(&root.join(DEBIAN_CHANGELOG), changes.as_bytes())
}

/// The part that comes from the source tree.
fn sources(root: &Path) -> Result<()> {
    let sources = workspace();
    let copy = |from: &Path, to: &Path| {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        install::write(to, &bytes, 0o644)
    };
    for (from, to) in COPIED {
        copy(&sources.join(from), &root.join(to))?;
    }
    for (from, to) in FOLDERS {
        for file in files(&sources.join(from))? {
            copy(&sources.join(from).join(&file), &root.join(to).join(&file))?;
        }
    }
    let changes = fs::read(sources.join("CHANGELOG.md")).context("cannot read CHANGELOG.md")?;
    compress(&root.join(DOC).join("changelog"), &changes)?;
    let usage = fs::read_to_string(sources.join("docs/usage.md")).context("cannot read docs/usage.md")?;
    install::write(&root.join(CONFIG), config(&usage)?.as_bytes(), 0o644)?;
    let unit = install::unit(Path::new("/usr"));
    install::write(&root.join("usr").join(install::UNIT), unit.as_bytes(), 0o644)
}

/// The config file: the example of docs/usage.md, which has every option, with nothing set.
fn config(usage: &str) -> Result<String> {
    let example = usage
        .split_once("```toml\n")
        .and_then(|(_, rest)| rest.split_once("```"));
    let (example, _) = example.context("docs/usage.md has no example of a config file")?;
    let lines = example.lines().map(|line| match line.starts_with('#') {
        true => format!("{line}\n"),
        false => format!("#{line}\n"),
    });
    Ok(CONFIG_HEADER.to_owned() + &lines.collect::<String>())
}

/// The changes of the packages themselves, as Debian has them.
fn debian_changelog(revision: u32, date: u64) -> Result<String> {
    let mut formatted = Command::new("date");
    formatted
        .env("LC_ALL", "C")
        .args(["--utc", "--rfc-email", &format!("--date=@{date}")]);
    let date = output(&mut formatted)?;
    Ok(format!(
        "mplsxdp ({VERSION}-{revision}) unstable; urgency=medium\n\n  * Package of mplsxdp {VERSION}; changelog.gz has its \
         changes.\n\n -- {MAINTAINER}  {date}"
    ))
}

/// Writes `PATH.gz`, the same for the same bytes.
fn compress(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut gzip = Command::new("gzip")
        .args(["--best", "--no-name", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run gzip")?;
    let mut stdin = gzip.stdin.take().context("no pipe to gzip")?;
    let bytes = bytes.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let done = gzip.wait_with_output()?;
    ensure!(done.status.success(), "gzip failed ({})", done.status);
    writer.join().map_err(|_| anyhow::anyhow!("a panic"))??;
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    install::write(&PathBuf::from(name), &done.stdout, 0o644)
}

#[cfg(test)]
mod tests {
    use toml::{Table, Value};

    use super::*;

    /// What `mplsxdp generate`, the linker and others make, by places.
    const GENERATED: [&str; 7] = [
        PROGRAM,
        "usr/share/man/man8/mplsxdp.8.gz",
        "usr/share/bash-completion/completions/mplsxdp",
        "usr/share/zsh/site-functions/_mplsxdp",
        "usr/share/fish/vendor_completions.d/mplsxdp.fish",
        "usr/share/doc/mplsxdp/third-party-licences.gz",
        "debian/changelog.Debian.gz",
    ];
    /// How both tools name the target folder.
    const PREFIX: &str = "target/release/package/";

    fn metadata(format: &str) -> Value {
        let manifest = fs::read_to_string(workspace().join("mplsxdp/Cargo.toml")).unwrap();
        let manifest: Table = manifest.parse().unwrap();
        manifest["package"]["metadata"][format].clone()
    }

    /// Source and place of each asset.
    fn assets(format: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let assets = metadata(format)["assets"].as_array().unwrap().clone();
        let pair = |asset: &Value| match asset {
            Value::Array(parts) => (text(&parts[0]), text(&parts[1])),
            table => (text(&table["source"]), text(&table["dest"])),
        };
        assets.iter().map(pair).collect()
    }

    #[test]
    fn both_packages_have_every_file_and_every_asset_exists() {
        let root = tempfile::tempdir().unwrap();
        sources(root.path()).unwrap();
        for path in GENERATED {
            install::write(&root.path().join(path), b"generated", 0o644).unwrap();
        }
        let staged: Vec<_> = files(root.path())
            .unwrap()
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        for format in ["deb", "generate-rpm"] {
            let assets = assets(format);
            let takes = |source: &str, file: &str| match source.split_once('*') {
                Some((before, _)) => file.starts_with(before),
                None => file == source,
            };
            for (source, _) in &assets {
                let is_there = match source.strip_prefix(PREFIX) {
                    Some(source) => staged.iter().any(|file| takes(source, file)),
                    // Each tool has a folder of its own to begin from.
                    None => ["", "mplsxdp"]
                        .iter()
                        .any(|folder| workspace().join(folder).join(source).exists()),
                };
                assert!(is_there, "{format}: {source}");
            }
            for file in &staged {
                let taken = assets
                    .iter()
                    .filter(|(source, _)| source.strip_prefix(PREFIX).is_some_and(|source| takes(source, file)));
                let expected = usize::from(format == "deb" || !file.starts_with("debian/"));
                assert_eq!(taken.count(), expected, "{format}: {file}");
            }
        }
    }

    #[test]
    fn scripts_and_licences_of_the_packages_exist() {
        let deb = metadata("deb");
        let scripts = workspace()
            .join("mplsxdp")
            .join(deb["maintainer-scripts"].as_str().unwrap());
        let mut paths: Vec<_> = ["postinst", "prerm", "postrm"].map(|name| scripts.join(name)).into();
        paths.push(
            workspace()
                .join("mplsxdp")
                .join(deb["license-file"][0].as_str().unwrap()),
        );
        let rpm = metadata("generate-rpm");
        for name in ["post_install_script", "pre_uninstall_script", "post_uninstall_script"] {
            paths.push(workspace().join("mplsxdp").join(rpm[name].as_str().unwrap()));
        }
        for path in &paths {
            assert!(path.is_file(), "{}", path.display());
        }
        for script in paths.iter().filter(|path| !path.ends_with("copyright")) {
            let status = Command::new("sh").arg("-n").arg(script).status().unwrap();
            assert!(status.success(), "{}", script.display());
        }
        assert_eq!(deb["maintainer"].as_str(), Some(MAINTAINER));
    }

    #[test]
    fn the_config_file_sets_nothing_and_has_every_line_of_the_example() {
        let text = config("# Usage\n```toml\niface = [\"eth1\"]  # a port\n# About hold.\nhold = 64\n```\n").unwrap();
        let expected = format!("{CONFIG_HEADER}#iface = [\"eth1\"]  # a port\n# About hold.\n#hold = 64\n");
        assert_eq!(text, expected);
        assert!(text.parse::<Table>().unwrap().is_empty());
        assert!(config("no example").is_err());
    }

    #[test]
    fn a_changelog_has_the_form_of_debian() {
        let text = debian_changelog(2, 1_700_000_000).unwrap();
        assert!(
            text.starts_with(&format!("mplsxdp ({VERSION}-2) unstable; urgency=medium\n\n  * ")),
            "{text}"
        );
        assert!(text.ends_with(">  Tue, 14 Nov 2023 22:13:20 +0000\n"), "{text}");
    }
}

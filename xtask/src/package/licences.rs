//! The licences of the crates and C libraries that are linked into the program: most of them ask that their texts go
//! with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Arch;
use crate::guest::image::output;
use crate::run::cargo;

/// Packages of this workspace that are linked into the program.
const OWN: [&str; 2] = ["mplsxdp", "mplsxdp-ebpf"];
/// How files with licences are named.
const NAMES: [&str; 5] = ["licen", "copying", "notice", "unlicense", "copyright"];
/// Crates that bring a C library along, and its licence: each can be had under several.
const LIBRARIES: [(&str, &str); 2] = [
    ("libbpf-sys", "libbpf/LICENSE.BSD-2-Clause"),
    ("libxdp-sys", "xdp-tools/LICENSES/BSD-2-Clause"),
];

/// All of them as one text: a list of crates, and each text once, with the crates that it is from.
pub fn of(arch: Arch) -> Result<String> {
    let mut metadata = cargo("metadata");
    metadata.args(["--format-version", "1", "--locked", "--filter-platform", arch.target()]);
    let metadata: Value = serde_json::from_str(&output(&mut metadata)?).context("cargo's metadata are not JSON")?;
    let linked = linked(&metadata)?;
    let mut list = String::from("Crates that are linked into mplsxdp, and their licences.\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        // Those of this workspace come from no registry.
        if !linked.contains(package["id"].as_str().unwrap_or_default()) || package["source"].is_null() {
            continue;
        }
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let title = format!("{} {}", field("name"), field("version"));
        writeln!(list, "{title}: {}", field("license"))?;
        let folder = Path::new(field("manifest_path"))
            .parent()
            .context("a manifest without a folder")?;
        for path in texts_of(field("name"), folder)? {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            texts.entry(text).or_default().push(title.clone());
        }
    }
    ensure!(!texts.is_empty(), "cargo knows no crate that is linked into mplsxdp");
    for (text, crates) in texts {
        write!(list, "\n{:-<80}\n{}:\n\n{text}\n", "", crates.join(", "))?;
    }
    Ok(list)
}

/// The ids of what ordinary dependencies lead to: not those of tests and build scripts.
fn linked(metadata: &Value) -> Result<BTreeSet<&str>> {
    let nodes = metadata["resolve"]["nodes"]
        .as_array()
        .context("cargo resolves nothing")?;
    let packages = metadata["packages"].as_array().context("cargo knows no packages")?;
    let mut open: Vec<&str> = packages
        .iter()
        .filter(|package| OWN.iter().any(|own| package["name"] == *own))
        .filter_map(|package| package["id"].as_str())
        .collect();
    ensure!(
        open.len() == OWN.len(),
        "{} are not in cargo's metadata",
        OWN.join(" and ")
    );
    let mut linked = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !linked.insert(id) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id);
        let dependencies = node.and_then(|node| node["deps"].as_array()).into_iter().flatten();
        let is_ordinary = |dependency: &&Value| {
            let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            kinds.into_iter().any(|kind| kind["kind"].is_null())
        };
        open.extend(
            dependencies
                .filter(is_ordinary)
                .filter_map(|dependency| dependency["pkg"].as_str()),
        );
    }
    Ok(linked)
}

fn texts_of(name: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().to_lowercase();
        if entry.file_type()?.is_file() && NAMES.iter().any(|name| file.starts_with(name)) {
            found.push(entry.path());
        }
    }
    for (_, text) in LIBRARIES.iter().filter(|(library, _)| *library == name) {
        found.push(folder.join(text));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_named_and_what_is_only_for_tests_is_not() {
        let text = of(Arch::Amd64).unwrap();
        let (list, texts) = text.split_once("\n\n--").unwrap();
        let is_listed = |name: &str| list.lines().any(|line| line.starts_with(&format!("{name} ")));
        for name in ["aya", "aya-ebpf", "clap", "libxdp-sys", "libbpf-sys", "tokio"] {
            assert!(is_listed(name), "{name}: {list}");
        }
        for name in ["proptest", "tempfile", "mplsxdp", "bindgen"] {
            assert!(!is_listed(name), "{name}: {list}");
        }
        assert!(texts.contains("Redistributions in binary form"));
    }
}

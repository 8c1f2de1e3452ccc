//! The verifier's counts, as mplsxdp/tests/budget.rs prints them: the file that it compares them with, and the table in
//! docs/kernels.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::needs::Version;
use crate::run::{Artifact, workspace};

const FILE: &str = "mplsxdp/tests/verifier.json";
const DOCUMENT: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- verifier counts: begin -->\n";
const END: &str = "<!-- verifier counts: end -->";

/// Instructions by variants of the program.
pub type Counts = BTreeMap<String, u32>;
/// Counts by the kernel's release.
type Kernels = BTreeMap<String, Counts>;

/// The counts of one kernel.
pub struct Measured {
    pub release: String,
    pub counts: Counts,
}

/// Counts on the kernel that runs here.
pub fn measure_here(tests: &[Artifact]) -> Result<Measured> {
    let budget = tests.iter().find(|test| test.name == "budget");
    let budget = budget.context("the workspace has no test program budget")?;
    let output = Command::new(&budget.executable)
        .args(["--nocapture", "verifier"])
        .output()
        .context("cannot run the test program budget")?;
    let mut counts = Counts::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        read(line, &mut counts);
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    ensure!(
        !counts.is_empty(),
        "no verifier counts of kernel {release}: they take root"
    );
    Ok(Measured { release, counts })
}

/// Reads "verifier: VARIANT: COUNT UNIT at most"; other lines are skipped.
pub fn read(line: &str, counts: &mut Counts) {
    let parsed = || {
        let (variant, rest) = line.strip_prefix("verifier: ")?.rsplit_once(": ")?;
        let (count, _) = rest.strip_suffix(" at most")?.split_once(' ')?;
        Some((variant.to_owned(), count.parse().ok()?))
    };
    counts.extend(parsed());
}

/// Writes the measurements into the file, replacing those of the same versions, and the file's table into the document.
pub fn write(measured: Vec<Measured>) -> Result<()> {
    // Machine code is that of a processor.
    let version = |release: &str| (Version::of(release), release.ends_with("arm64"));
    let mut kernels = committed()?;
    for Measured { release, counts } in measured {
        kernels.retain(|known, _| version(known) != version(&release));
        kernels.insert(release, counts);
    }
    let file = serde_json::to_string_pretty(&kernels)? + "\n";
    fs::write(workspace().join(FILE), file).with_context(|| format!("cannot write {FILE}"))?;
    let text = document()?;
    let [before, _, after] = parts(&text)?;
    fs::write(
        workspace().join(DOCUMENT),
        format!("{before}{BEGIN}{}{END}{after}", table(&kernels)),
    )?;
    eprintln!("{FILE} and {DOCUMENT} have the counts of {} kernels", kernels.len());
    Ok(())
}

fn committed() -> Result<Kernels> {
    let text = fs::read_to_string(workspace().join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    serde_json::from_str(&text).with_context(|| format!("{FILE} is not what this command writes"))
}

fn document() -> Result<String> {
    fs::read_to_string(workspace().join(DOCUMENT)).with_context(|| format!("cannot read {DOCUMENT}"))
}

/// The text before the table in the document, the table, and the text after it.
fn parts(document: &str) -> Result<[&str; 3]> {
    let (before, rest) = document
        .split_once(BEGIN)
        .with_context(|| format!("no {BEGIN} in {DOCUMENT}"))?;
    let (table, after) = rest
        .split_once(END)
        .with_context(|| format!("no {END} in {DOCUMENT}"))?;
    Ok([before, table, after])
}

/// A row for each variant, a column for each kernel, the oldest first.
fn table(kernels: &Kernels) -> String {
    let mut kernels: Vec<(&String, &Counts)> = kernels.iter().collect();
    kernels.sort_by_key(|(release, _)| Version::of(release));
    let mut text = String::from("| variant |");
    for (release, _) in &kernels {
        let _ = write!(text, " {release} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"--:|".repeat(kernels.len()));
    text.push('\n');
    let mut variants: Vec<_> = kernels.iter().flat_map(|(_, counts)| counts.keys()).collect();
    variants.sort_unstable();
    variants.dedup();
    for variant in variants {
        let _ = write!(text, "| {variant} |");
        for (_, counts) in &kernels {
            let count = counts.get(variant).map_or_else(|| "-".to_owned(), u32::to_string);
            let _ = write!(text, " {count} |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_come_out_as_a_table() {
        let mut counts = Counts::new();
        for line in [
            "verifier: Pipe, policed: 1234 instructions at most",
            "verifier: something else",
            "test verifier: ok",
        ] {
            read(line, &mut counts);
        }
        let kernels = Kernels::from([("6.12".into(), Counts::new()), ("6.1.0".into(), counts)]);
        assert_eq!(
            table(&kernels),
            "| variant | 6.1.0 | 6.12 |\n|---|--:|--:|\n| Pipe, policed | 1234 | - |\n"
        );
    }

    #[test]
    fn the_document_has_the_counts_that_the_tests_compare_with() {
        assert_eq!(parts(&document().unwrap()).unwrap()[1], table(&committed().unwrap()));
    }
}

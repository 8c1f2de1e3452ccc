//! The verifier's counts, as mplsxdp/tests/budget.rs prints them, and the table of them in docs/kernels.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};

use crate::run::workspace;

const DOCUMENT: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- verifier counts: begin -->\n";
const END: &str = "<!-- verifier counts: end -->";

/// Instructions by variants of the program.
pub type Counts = BTreeMap<String, u32>;

/// What one kernel said.
pub struct Measured {
    pub release: String,
    pub counts: Counts,
}

/// Takes "verifier: VARIANT: COUNT instructions of BUDGET"; other lines are passed over.
pub fn read(line: &str, counts: &mut Counts) {
    let parsed = || {
        let (variant, rest) = line.strip_prefix("verifier: ")?.rsplit_once(": ")?;
        let (count, _) = rest.split_once(" instructions")?;
        Some((variant.to_owned(), count.parse().ok()?))
    };
    counts.extend(parsed());
}

/// Puts the table into the document.
pub fn write(measured: &[Measured]) -> Result<()> {
    let path = workspace().join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {DOCUMENT}"))?;
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("no {BEGIN} in {DOCUMENT}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("no {END} in {DOCUMENT}"))?;
    fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table(measured)))?;
    eprintln!("{DOCUMENT} has the counts of {} kernels", measured.len());
    Ok(())
}

/// A row for each variant, a column for each kernel.
fn table(measured: &[Measured]) -> String {
    let mut text = String::from("| variant |");
    for kernel in measured {
        let _ = write!(text, " {} |", kernel.release);
    }
    text.push_str("\n|---|");
    text.push_str(&"--:|".repeat(measured.len()));
    text.push('\n');
    let mut variants: Vec<_> = measured.iter().flat_map(|kernel| kernel.counts.keys()).collect();
    variants.sort_unstable();
    variants.dedup();
    for variant in variants {
        let _ = write!(text, "| {variant} |");
        for kernel in measured {
            let count = kernel
                .counts
                .get(variant)
                .map_or_else(|| "-".to_owned(), u32::to_string);
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
            "verifier: Pipe, policed: 1234 instructions of 50000",
            "verifier: something else",
            "test verifier: ok",
        ] {
            read(line, &mut counts);
        }
        let one = Measured {
            release: "6.1.0".into(),
            counts,
        };
        let other = Measured {
            release: "6.12".into(),
            counts: Counts::new(),
        };
        assert_eq!(
            table(&[one, other]),
            "| variant | 6.1.0 | 6.12 |\n|---|--:|--:|\n| Pipe, policed | 1234 | - |\n"
        );
    }
}

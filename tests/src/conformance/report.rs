//! The table of rules: for the terminal with the results, for `docs/conformance.md` as it is when everything passes.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::rules::{Rule, Source, Standing};
use super::{Case, Failure, Suite, source_tree};

/// Where the table is, from the root of the source tree.
pub const DOCUMENT: &str = "docs/conformance.md";

/// Cases whose results were not as written, by where they ran.
#[derive(Default)]
pub struct Results {
    pub host: Vec<Failure>,
    pub kernel: Vec<Failure>,
    pub veth: Vec<Failure>,
}

impl Results {
    fn all(&self) -> [(&'static str, &[Failure]); 3] {
        [("host", &self.host), ("kernel", &self.kernel), ("veth", &self.veth)]
    }

    /// Each with where it happened.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &Failure)> {
        let all = self.all().into_iter();
        all.flat_map(|(place, failures)| failures.iter().map(move |failure| (place, failure)))
    }

    /// Names of cases that failed somewhere.
    pub fn failed(&self) -> BTreeSet<&str> {
        self.failures().map(|(_, failure)| failure.case.as_str()).collect()
    }
}

/// The results of a rule's cases.
struct Shown<'a> {
    cases: Vec<&'a Case>,
    /// Frames, on the host and in the kernel; and those that can be sent to real ports.
    lines: usize,
    on_veth: usize,
}

impl<'a> Shown<'a> {
    fn new(suite: &'a Suite, rule: &Rule) -> Self {
        let cases: Vec<_> = suite
            .cases
            .iter()
            .filter(|case| case.rules.contains(&rule.id))
            .collect();
        let lines = cases.iter().flat_map(|case| &case.lines);
        Self {
            lines: lines.clone().count(),
            on_veth: lines.filter(|line| line.no_veth.is_none()).count(),
            cases,
        }
    }

    /// Columns: on the host, in the kernel, on real ports.
    fn columns(&self, results: &Results) -> [String; 3] {
        results.all().map(|(place, failures)| {
            let failed = |case: &&&Case| failures.iter().any(|failure| failure.case == case.name);
            let failed = self.cases.iter().filter(failed).count();
            match (self.cases.len(), failed) {
                (0, _) => "-".into(),
                (cases, failed @ 1..) => format!("{failed} of {cases} FAILED"),
                _ if place == "veth" && self.on_veth < self.lines => format!("{} of {}", self.on_veth, self.lines),
                _ => self.lines.to_string(),
            }
        })
    }

    fn verdict(&self, rule: &Rule, results: &Results) -> &'static str {
        let failed = results.failed();
        match rule.standing {
            _ if self.cases.iter().any(|case| failed.contains(case.name.as_str())) => "FAILED",
            Standing::ByCases | Standing::ByTests(_) => "met",
            Standing::NotMet(_) => "not met",
            Standing::NotThisPlane(_) => "elsewhere",
        }
    }
}

/// The table with the results.
pub fn terminal(suite: &Suite, results: &Results) -> String {
    let mut text = String::new();
    for Source { title, rules } in &suite.rules {
        let _ = writeln!(text, "\n{title}");
        for rule in rules {
            let shown = Shown::new(suite, rule);
            let [host, kernel, veth] = shown.columns(results);
            let _ = writeln!(
                text,
                "  {:<9} {:<10} {:<36} cases {:<3} host {host:<4} kernel {kernel:<4} veth {veth:<10} {}",
                rule.section,
                rule.level,
                rule.id,
                shown.cases.len(),
                shown.verdict(rule, results)
            );
            if let Standing::NotMet(why) | Standing::NotThisPlane(why) = &rule.standing {
                let _ = writeln!(text, "{:>22}{why}", "");
            }
        }
    }
    text
}

/// `docs/conformance.md`, as it is when every case passes.
pub fn markdown(suite: &Suite) -> String {
    let results = Results::default();
    let rules = || suite.rules.iter().flat_map(|source| &source.rules);
    let standing = |wanted: fn(&Standing) -> bool| rules().filter(|rule| wanted(&rule.standing)).count();
    let lines = || suite.cases.iter().flat_map(|case| &case.lines);
    let runs: usize = lines().map(|line| line.options.len()).sum();
    let mut text = format!(
        "# Conformance\n\n\
         <!-- Made by `cargo xtask conformance --write` of the files in conformance/: change those. -->\n\n\
         This page lists what the RFCs and [semantics.md](semantics.md) ask of a data plane, rule by rule,\n\
         and the cases that show it. `cargo xtask conformance` runs all cases and prints this table with the\n\
         results. `cargo xtask test` does the same, and fails if this page differs from it. The cases are\n\
         text files in [conformance/](../conformance/README.md); reading and adding them takes no Rust.\n\n\
         Each case has one or more frames, and says what happens to each, byte by byte. A frame runs with\n\
         every TTL mode and option that its line is for:\n\n\
         * *host*: through the forwarding core, and the slow path behind it, in ordinary memory;\n\
         * *kernel*: through the XDP program, by `BPF_PROG_TEST_RUN`: verdict, bytes, and the counters of\n  \
         reasons and routes; the run ends where the program hands the frame to the slow path;\n\
         * *veth*: through `mplsxdp load` between veth ports in network namespaces: the frames that leave\n  \
         every port, the answers of the slow path, and the counters. [Below](#not-on-real-ports) are the\n  \
         frames that cannot be run there, with the reason.\n\n\
         {} rules: {} met, {} not met, {} for others than a data plane.\n\
         {} cases, {} frames, {runs} runs of each kind.\n\n\
         Levels: as the RFC has them; *states* if the RFC states it without a keyword; *row* for a row of\n\
         semantics.md; *seen* for a mistake seen in other implementations. The columns host, kernel and veth\n\
         count frames.\n",
        rules().count(),
        standing(|standing| matches!(standing, Standing::ByCases | Standing::ByTests(_))),
        standing(|standing| matches!(standing, Standing::NotMet(_))),
        standing(|standing| matches!(standing, Standing::NotThisPlane(_))),
        suite.cases.len(),
        lines().count(),
    );
    for Source { title, rules } in &suite.rules {
        let _ = write!(
            text,
            "\n## {title}\n\n| section | level | rule | cases | host | kernel | veth | verdict |\n|---|---|---|---|---|---|---|---|\n"
        );
        for rule in rules {
            let _ = writeln!(text, "{}", row(suite, rule, &results));
        }
    }
    text += "\n## Not on real ports\n\n| frame | why |\n|---|---|\n";
    for (case, line) in suite
        .cases
        .iter()
        .flat_map(|case| case.lines.iter().map(move |line| (case, line)))
    {
        if let Some(why) = &line.no_veth {
            let (topic, name, frame) = (&case.topic, &case.name, line.text.replace('|', "\\|"));
            let _ = writeln!(text, "| {topic}/{name}: `{frame}` | {why} |");
        }
    }
    text
}

fn row(suite: &Suite, rule: &Rule, results: &Results) -> String {
    let shown = Shown::new(suite, rule);
    let [host, kernel, veth] = shown.columns(results);
    let mut cases: Vec<String> = shown
        .cases
        .iter()
        .map(|case| format!("{}/{}", case.topic, case.name))
        .collect();
    let mut verdict = shown.verdict(rule, results).to_owned();
    match &rule.standing {
        Standing::ByCases => {}
        Standing::ByTests(tests) => cases.extend(tests.iter().map(|test| format!("`{}`: `{}`", test.file, test.name))),
        Standing::NotMet(why) => verdict = format!("**not met**: {why}"),
        Standing::NotThisPlane(why) => verdict = format!("elsewhere: {why}"),
    }
    format!(
        "| {} | {} | {} (`{}`) | {} | {host} | {kernel} | {veth} | {verdict} |",
        rule.section,
        rule.level,
        rule.text,
        rule.id,
        cases.join(", ")
    )
}

/// Checks that the committed page matches the files; the error says how to regenerate it.
pub fn check_document(suite: &Suite) -> Result<(), String> {
    let path = source_tree().join(DOCUMENT);
    let committed = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {DOCUMENT}: {error}"))?;
    let made = markdown(suite);
    compare(&committed, &made)
}

fn compare(committed: &str, made: &str) -> Result<(), String> {
    if committed == made {
        return Ok(());
    }
    let stale = "does not match the files in conformance/; run `cargo xtask conformance --write`";
    let mut lines = committed.lines().zip(made.lines()).zip(1..);
    Err(match lines.find(|((is, should_be), _)| is != should_be) {
        Some(((is, should_be), number)) => format!("{DOCUMENT}:{number} {stale}\n is     {is}\n should {should_be}"),
        None => format!("{DOCUMENT} {stale}: its length differs"),
    })
}

/// Writes the page.
pub fn write_document(suite: &Suite) -> std::io::Result<()> {
    std::fs::write(source_tree().join(DOCUMENT), markdown(suite))
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn a_stale_page_is_an_error_with_its_first_line_that_differs() {
        assert_eq!(compare("a\nb\n", "a\nb\n"), Ok(()));
        let stale = "does not match the files in conformance/; run `cargo xtask conformance --write`";
        let at_line = format!("docs/conformance.md:2 {stale}\n is     c\n should b");
        assert_eq!(compare("a\nc\n", "a\nb\n"), Err(at_line));
        let length = format!("docs/conformance.md {stale}: its length differs");
        for committed in ["a\n", "a\nb\nc\n", "a\nb"] {
            assert_eq!(compare(committed, "a\nb\n"), Err(length.clone()));
        }
    }
}

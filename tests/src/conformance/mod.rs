//! The conformance suite: rules of the RFCs and of `docs/semantics.md`, and cases that show them. Both are files in
//! `conformance/`, for people to read and extend; this module reads them, runs them and makes the table.
//!
//! A case is a frame and what happens to it. It is run three times: by the forwarding core and the slow path on the
//! host ([`host`]), by the XDP program through BPF_PROG_TEST_RUN ([`kernel`]), and by `mplsxdp load` between real veth
//! ports ([`veth`]).

pub mod cases;
pub mod host;
pub mod kernel;
pub mod lab;
pub mod notation;
mod problem;
pub mod random;
pub mod report;
pub mod rules;
pub mod veth;

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use mplsxdp::route::Route;

pub use cases::{Case, Line};
pub use problem::{Place, Problem};
use rules::Source;

/// The contents of the data files.
pub struct Suite {
    pub cases: Vec<Case>,
    pub routes: Vec<Route>,
    pub rules: Vec<Source>,
}

impl Suite {
    /// Reads the files; the error has all problems in them.
    pub fn read() -> Result<Self, Vec<Problem>> {
        let directory = source_tree().join("conformance");
        let (cases, rules) = (
            cases::read(&directory.join("cases")),
            rules::read(&directory.join("rules")),
        );
        match (cases, rules) {
            (Ok(cases), Ok(rules)) => {
                let problems = rules::check(&rules, &cases.cases);
                if problems.is_empty() {
                    Ok(Self {
                        cases: cases.cases,
                        routes: cases.routes,
                        rules,
                    })
                } else {
                    Err(problems)
                }
            }
            (cases, rules) => {
                let problems = [cases.err(), rules.err()];
                Err(problems.into_iter().flatten().flatten().collect())
            }
        }
    }

    /// The cases whose names contain this.
    pub fn named<'a>(&'a self, part: &str) -> Vec<&'a Case> {
        self.cases.iter().filter(|case| case.name.contains(part)).collect()
    }
}

/// The suite, read once. Panics if it cannot be read; the message is for the author of the file.
pub fn suite() -> &'static Suite {
    static SUITE: OnceLock<Suite> = OnceLock::new();
    SUITE.get_or_init(|| {
        Suite::read().unwrap_or_else(|problems| {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            panic!("the conformance suite cannot be read:\n{}", problems.join("\n"))
        })
    })
}

/// Names the source tree, if it is not where this was compiled, such as in a guest.
const SOURCE_VARIABLE: &str = "MPLSXDP_SOURCE";

/// The root of the source tree.
fn source_tree() -> PathBuf {
    let compiled = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    std::env::var_os(SOURCE_VARIABLE).map_or_else(compiled, PathBuf::from)
}

/// A case whose result was not as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The name of the case.
    pub case: String,
    /// The line, the options, and what happened instead.
    pub text: String,
}

impl Failure {
    fn new(case: &Case, line: &Line, options: &cases::Options, why: impl fmt::Display) -> Self {
        let cases::Options { mode, tc, .. } = options;
        Self {
            case: case.name.clone(),
            text: format!("{}: {}\n  {mode:?}, TC propagation {tc}\n{why}", line.place, line.text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.text)
    }
}

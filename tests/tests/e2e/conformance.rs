//! The conformance suite as ordinary tests: every case on the host, in the kernel and on real ports, and the page in
//! `docs/`.

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::conformance::{Case, Failure, Suite, host, kernel, report, veth};

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("conformance::every_case_on_the_host", || {
            run(|cases| Ok(host::run(cases))).map_err(|error| format!("{error:#}").into())
        }),
        test("conformance::every_case_in_the_kernel", || run(kernel::run)),
        test("conformance::every_case_on_real_ports", || run(veth::run)),
        Trial::test("conformance::the_page_is_what_the_files_make", || {
            document().map_err(|error| format!("{error:#}").into())
        }),
    ]
}

fn suite() -> Result<Suite> {
    Suite::read().map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow!("{}", problems.join("\n"))
    })
}

fn run(runner: impl Fn(&[&Case]) -> Result<Vec<Failure>>) -> Result<()> {
    let suite = suite()?;
    let failures = runner(&suite.named(""))?;
    let texts: Vec<_> = failures.iter().map(ToString::to_string).collect();
    ensure!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        texts.join("\n")
    );
    Ok(())
}

fn document() -> Result<()> {
    report::check_document(&suite()?).map_err(|drift| anyhow!(drift))
}

//! Runs the conformance suite and prints the table of rules. `cargo xtask conformance` calls it as root.

use std::process::ExitCode;

use anyhow::{Error, Result, ensure};
use clap::Parser;
use mplsxdp_tests::conformance::report::{self, Results};
use mplsxdp_tests::conformance::{Case, Suite, host, kernel, notation, veth};
use mplsxdp_tests::{needs::Need, tidy};

/// Runs the conformance suite.
#[derive(Parser)]
struct Arguments {
    /// Only cases whose names contain this; also shows their frames.
    name: Option<String>,
    /// Write docs/conformance.md if everything passes.
    #[arg(long, conflicts_with = "name")]
    write: bool,
}

fn main() -> Result<ExitCode> {
    tidy::on_signals()?;
    let arguments = Arguments::parse();
    let suite = match Suite::read() {
        Ok(suite) => suite,
        Err(problems) => {
            for problem in &problems {
                eprintln!("error: {problem}");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let cases = suite.named(arguments.name.as_deref().unwrap_or_default());
    let results = Results {
        host: host::run(&cases),
        kernel: kernel::run(&cases)?,
        veth: match Need::Lab.missing() {
            Some(why) => anyhow::bail!("real ports: {why}"),
            None => veth::run(&cases)?,
        },
    };
    match arguments.name {
        Some(_) => cases.iter().for_each(|case| show(case)),
        None => print!("{}", report::terminal(&suite, &results)),
    }
    for (place, failure) in results.failures() {
        println!("\nFAILED on {place}: {failure}");
    }
    let failed = results.failed();
    let passed = cases.iter().filter(|case| !failed.contains(case.name.as_str())).count();
    println!("\n{passed} passed, {} failed", failed.len());
    if !failed.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    match &arguments.name {
        Some(name) => ensure!(passed > 0, "no case has `{name}` in its name"),
        None if arguments.write => {
            report::write_document(&suite)?;
            println!("written: {}", report::DOCUMENT);
        }
        None => report::check_document(&suite).map_err(Error::msg)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A case with its frames.
fn show(case: &Case) {
    println!(
        "\n{}/{}, at {}, for {}",
        case.topic,
        case.name,
        case.place,
        case.rules.join(", ")
    );
    for line in &case.lines {
        println!("  {}", line.text);
        println!("   in {}", notation::show(&line.frame));
        println!("  out {:?} {}", line.verdict, notation::show(&line.output));
        for frame in line.after.frames() {
            println!(" sent {frame}");
        }
        if let Some(why) = &line.no_veth {
            println!("      not on real ports: {why}");
        }
    }
}

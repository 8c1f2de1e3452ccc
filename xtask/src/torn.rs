//! Runs the test for torn entries with many more frames than it has by default.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::run::{checked_test, root_command, run_tests};
use crate::setup;

#[derive(clap::Args)]
pub struct Arguments {
    /// How many frames run in all.
    #[arg(long, default_value_t = 100_000_000)]
    frames: u64,
    /// How many labels there are where all are replaced.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(4096..=1 << 20))]
    labels: u32,
    /// Only tests whose names contain this.
    name: Option<String>,
}

pub fn torn(arguments: &Arguments) -> Result<()> {
    setup::setup()?;
    let test = checked_test("torn")?;
    let (frames, labels) = (arguments.frames.to_string(), arguments.labels.to_string());
    let variables = [
        ("MPLSXDP_TORN_FRAMES", Path::new(&frames)),
        ("MPLSXDP_LABELS", Path::new(&labels)),
    ];
    let mut command = root_command(&test.executable, "The test loads a BPF program", &variables)?;
    // One at a time: its two threads need two CPUs.
    command
        .current_dir(&test.package_directory)
        .args(["--test-threads", "1", "--nocapture"])
        .args(&arguments.name);
    let summary = run_tests(&mut command)?;
    println!("\n{summary}");
    ensure!(summary.failed == 0 && summary.passed > 0, "tests failed");
    Ok(())
}

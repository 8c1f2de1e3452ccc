//! A short `cargo xtask soak`.

use std::process::Command;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::router::{PROGRAM_VARIABLE, program};

use crate::test;

const MINUTES: &str = "0.4";

pub fn tests() -> Vec<Trial> {
    vec![test("soak::each_lost_frame_has_a_cause_and_nothing_grows", soak)]
}

fn soak() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_soak"))
        .args(["--minutes", MINUTES])
        .env(PROGRAM_VARIABLE, program()?)
        .output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", text(&output.stdout));
    ensure!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(())
}

//! `fuzz_seeds CAPTURE CORPUS FRAMES`: turns the frames of a capture into seeds for the fuzz targets that take frames,
//! in folders of CORPUS, and writes them to file FRAMES, one per line in hex, for the differential test. `cargo xtask
//! fuzz --seeds` runs it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use mplsxdp::fuzz::{core_seeds, slow_path_seed};
use mplsxdp_tests::capture;

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [capture_file, corpus, frames_file] = &arguments[..] else {
        bail!("three arguments are expected: CAPTURE CORPUS FRAMES");
    };
    let (capture_file, corpus) = (Path::new(capture_file), Path::new(corpus));
    let file = capture::read(capture_file)?;
    let captured = capture::frames(&file).with_context(|| capture_file.display().to_string())?;
    // A truncated frame is not the one that was on the wire.
    let whole = captured.iter().filter(|frame| !frame.is_truncated());
    let frames: BTreeSet<&[u8]> = whole.clone().map(|frame| frame.bytes).collect();
    println!(
        "{}: {} frames, {} of them whole, {} different ones",
        capture_file.display(),
        captured.len(),
        whole.count(),
        frames.len()
    );
    ensure!(!frames.is_empty(), "no whole frame: nothing to begin with");
    let name = capture_file.file_stem().unwrap_or_default().to_string_lossy();
    for (number, frame) in frames.iter().enumerate() {
        write(
            &corpus.join("slow_path"),
            &format!("{name}-{number}"),
            &slow_path_seed(frame),
        )?;
        for (variant, seed) in core_seeds(frame).enumerate() {
            write(&corpus.join("core"), &format!("{name}-{number}-{variant}"), &seed)?;
        }
    }
    let lines = frames.iter().map(|frame| hex(frame) + "\n");
    fs::write(frames_file, lines.collect::<String>()).context("cannot write the frames")
}

fn write(folder: &Path, name: &str, data: &[u8]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(name);
    fs::write(&path, data).with_context(|| format!("cannot write {}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

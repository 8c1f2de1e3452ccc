//! The part of a build script that compiles an eBPF program, for the crate to embed.

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::toolchain::{LINKER_VARIABLE, RUSTC_VARIABLE, TARGET, Toolchain, work_directory};

/// Compiles program `name` of the eBPF crate to `NAME.o` in `OUT_DIR`. Every failure is an error message of the build.
pub fn embed(name: &str) {
    if let Err(message) = compile(name) {
        // Cargo shows each line as an error of this package.
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn compile(name: &str) -> Result<(), String> {
    let variable = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .ok_or(format!("cargo did not set {name}"))
    };
    let out = variable("OUT_DIR")?;
    let workspace = variable("CARGO_MANIFEST_DIR")?.join("..");
    for source in ["Cargo.toml", "Cargo.lock", "mplsxdp-ebpf", "mplsxdp-common"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    for variable in [RUSTC_VARIABLE, LINKER_VARIABLE] {
        println!("cargo::rerun-if-env-changed={variable}");
    }

    let target = work_directory(&out);
    let toolchain = Toolchain::find(&target).map_err(|missing| missing.to_string())?;
    for tool in [&toolchain.rustc, &toolchain.linker] {
        println!("cargo::rerun-if-changed={}", tool.display());
    }
    let output = toolchain
        .cargo("build")
        .args(["--quiet", "--bin", name])
        .current_dir(&workspace)
        .output()
        .map_err(|error| format!("cannot run cargo for the eBPF program {name}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // For each crate, the compiler warns about each unstable target feature in RUSTFLAGS.
    let known = |block: &&str| block.contains("unstable feature specified for `-Ctarget-feature`");
    let said: Vec<_> = said.split("\n\n").filter(|block| !known(block)).collect();
    let said = said.join("\n\n");
    if !output.status.success() {
        return Err(format!(
            "the eBPF program {name} does not build with {toolchain}:\n{said}"
        ));
    }
    for line in said.lines() {
        println!("cargo::warning={line}");
    }
    let program = target.join(TARGET).join("bpf").join(name);
    fs::copy(&program, out.join(name).with_extension("o"))
        .map(|_| ())
        .map_err(|error| format!("{} cannot be copied: {error}", program.display()))
}

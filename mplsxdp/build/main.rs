//! Compiles the XDP program, so that it can be embedded.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let workspace = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let out = PathBuf::from(std::env::var("OUT_DIR").unwrap());
    let target = out.join("ebpf");
    let status = Command::new("cargo")
        .current_dir(&workspace)
        .args(["build", "--package", "mplsxdp-ebpf", "--profile", "bpf", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target)
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Ctarget-cpu=v3\x1f-Ctarget-feature=+allows-misaligned-mem-access,+alu32")
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::copy(target.join("bpfel-unknown-none/bpf/mplsxdp"), out.join("mplsxdp.o")).unwrap();
    println!(
        "cargo::rerun-if-changed={}",
        workspace.join("mplsxdp-ebpf/src").display()
    );
    println!(
        "cargo::rerun-if-changed={}",
        workspace.join("mplsxdp-common/src").display()
    );
}

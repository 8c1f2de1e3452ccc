//! Obstacles to a load are reported before anything is done, with cause and remedy.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::router::{ensure_nothing_left, program};
use mplsxdp_tests::{End, Lab, Netns, Router, link, rig};

use crate::{test, test_with};

pub fn tests() -> Vec<Trial> {
    vec![
        test("preflight::an_interface_that_does_not_exist", missing_interface),
        test("preflight::an_interface_with_a_program_of_others", program_attached),
        test("preflight::a_driver_without_native_xdp", no_native_xdp),
        test("preflight::a_namespace_that_does_not_exist", missing_netns),
        test("preflight::a_config_file_with_an_error", config),
        test_with(
            "preflight::a_process_without_capabilities",
            Some(Need::Program("setpriv", "util-linux")),
            capabilities,
        ),
        test_with("preflight::a_kernel_that_is_too_old", Some(Need::OldKernel), old_kernel),
    ]
}

/// A namespace with a cable: `eth1` here.
fn netns(lab: &Lab) -> Result<(Netns, Netns)> {
    let (netns, peer) = (lab.netns("router")?, lab.netns("peer")?);
    link(End::new(&netns, "eth1"), End::new(&peer, "eth0"))?;
    Ok((netns, peer))
}

/// Checks that a load is refused with exit status 1 and all of these words, and leaves nothing behind.
fn expect_refusal(netns: &Netns, options: &str, words: &[&str]) -> Result<()> {
    let refused = Router::load(netns, options)
        .err()
        .with_context(|| format!("`load {options}` was not refused"))?;
    let said = format!("{refused:#}");
    for word in ["exit status: 1"].iter().chain(words) {
        ensure!(said.contains(word), "no \"{word}\" in: {said}");
    }
    ensure!(
        mplsxdp_tests::tidy::instance_files(netns.name()).is_empty(),
        "files are left"
    );
    Ok(())
}

fn missing_interface() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, _peer) = netns(&lab)?;
    expect_refusal(
        &netns,
        "--iface eth1 --iface eth9",
        &["there is no interface eth9", "eth1", "--wait"],
    )?;
    // The other one is not attached either.
    ensure_nothing_left(&netns, netns.name())
}

fn program_attached() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, _peer) = netns(&lab)?;
    let _program = rig::attach(&netns, "eth1", "pass")?;
    expect_refusal(&netns, "--iface eth1", &["eth1", "XDP program"])?;
    let shown = netns.ip("-details link show dev eth1")?;
    ensure!(shown.contains("xdp"), "the other program is gone: {shown}");
    Ok(())
}

fn no_native_xdp() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, _peer) = netns(&lab)?;
    netns.ip("link add br0 type bridge")?;
    netns.ip("link set dev eth1 master br0")?;
    netns.ip("link set dev br0 up")?;
    expect_refusal(&netns, "--iface br0", &["br0", "native", "--mode generic"])?;
    // The suggested remedy works.
    Router::load(&netns, "--iface br0 --mode generic")?.unload()
}

fn missing_netns() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, _peer) = netns(&lab)?;
    let mut command = Command::new(program()?);
    command.args([
        "load",
        "-n",
        "mx-nowhere",
        "--instance",
        netns.name(),
        "--iface",
        "eth1",
    ]);
    let refused = Router::start(&netns, netns.name(), command)
        .err()
        .context("loaded in a namespace that is not there")?;
    ensure!(format!("{refused:#}").contains("mx-nowhere"), "{refused:#}");
    Ok(())
}

fn config() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, _peer) = netns(&lab)?;
    let path = std::env::temp_dir().join(format!("{}.toml", netns.name()));
    std::fs::write(
        &path,
        "iface = [\"eth1\"]\nroutes = [\"100 as 1048576 via inet 192.0.2.1\"]\n",
    )?;
    let refused = expect_refusal(
        &netns,
        &format!("--config {}", path.display()),
        &["1048576", &path.display().to_string()],
    );
    std::fs::remove_file(&path)?;
    refused?;
    ensure_nothing_left(&netns, netns.name())
}

fn capabilities() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, _peer) = netns(&lab)?;
    // Entering the namespace already needs one capability; without `--netns`, attaching does.
    let mut entering = Command::new("setpriv");
    let mut attaching = netns.command("setpriv");
    for (command, options) in [(&mut entering, &["-n", netns.name()][..]), (&mut attaching, &[])] {
        command
            .args(["--bounding-set", "-all", "--inh-caps", "-all"])
            .arg(program()?);
        command
            .args(["load", "--instance", netns.name(), "--iface", "eth1"])
            .args(options);
    }
    for command in [attaching, entering] {
        let refused = Router::start(&netns, netns.name(), command)
            .err()
            .context("loaded without a capability")?;
        ensure!(format!("{refused:#}").contains("CAP_"), "{refused:#}");
        ensure_nothing_left(&netns, netns.name())?;
    }
    Ok(())
}

fn old_kernel() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, _peer) = netns(&lab)?;
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let running = release.split('.').take(2).collect::<Vec<_>>().join(".");
    expect_refusal(&netns, "--iface eth1", &[&format!("Linux {running}"), "5.18 or later"])?;
    ensure_nothing_left(&netns, netns.name())
}

//! `doctor` names what keeps frames from passing, with the command that helps, and runs it.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::frame::{Entry, labelled};
use mplsxdp_tests::router::program;
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link};
use serde::Deserialize;

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("doctor::what_is_wrong_is_mended", mended),
        test("doctor::frames_that_are_lost_are_counted", lost),
        test("doctor::an_interface_that_does_not_exist", absent),
    ]
}

#[derive(Deserialize, PartialEq, Debug)]
struct Finding {
    interface: Option<String>,
    check: String,
    level: String,
    text: String,
    command: Option<String>,
}

fn doctor(netns: &Netns, options: &str) -> Result<Output> {
    let mut command = Command::new(program()?);
    command
        .args(["--netns", netns.name(), "doctor"])
        .args(options.split_whitespace());
    Ok(command.output()?)
}

/// The findings that are not good, and all of them.
fn findings(netns: &Netns, options: &str) -> Result<(Vec<Finding>, Vec<Finding>)> {
    let output = doctor(netns, &format!("--json {options}"))?;
    let all: Vec<Finding> =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let errors = all.iter().any(|finding| finding.level == "error");
    ensure!(
        output.status.code() == Some(i32::from(errors)),
        "{:?}: {all:?}",
        output.status
    );
    let (good, bad) = all.into_iter().partition(|finding| finding.level == "ok");
    Ok((bad, good))
}

/// `h1 eth0 --- eth1 router eth2 --- eth0 h2`, where h2 does not take redirected frames.
fn bed(lab: &Lab) -> Result<(Netns, Netns, Netns)> {
    let (one, router, two) = (lab.netns("h1")?, lab.netns("router")?, lab.netns("h2")?);
    link(End::new(&one, "eth0"), End::new(&router, "eth1"))?;
    link(End::new(&router, "eth2"), End::new(&two, "eth0"))?;
    two.run("ethtool -K eth0 gro off")?;
    Ok((one, router, two))
}

fn mended() -> Result<()> {
    let lab = Lab::new()?;
    let (_one, netns, two) = bed(&lab)?;
    netns.sysctl("ipv4/ip_forward", "0")?;
    netns.sysctl("ipv6/conf/all/forwarding", "1")?;
    netns.sysctl("ipv4/conf/eth1/rp_filter", "1")?;
    let router = Router::load(&netns, "--iface eth1 --iface eth2")?;
    let (bad, good) = findings(&netns, "")?;
    let enter = |netns: &Netns| format!("ip netns exec {}", netns.name());
    let (here, there) = (enter(&netns), enter(&two));
    let commands: Vec<_> = bad
        .iter()
        .map(|finding| {
            (
                finding.interface.as_deref(),
                &*finding.check,
                finding.command.as_deref(),
            )
        })
        .collect();
    let expected = [
        (None, "ip_forward", format!("{here} sysctl -w net.ipv4.ip_forward=1")),
        (
            Some("eth1"),
            "rp_filter",
            format!("{here} sysctl -w net.ipv4.conf.eth1.rp_filter=2"),
        ),
        (
            Some("eth2"),
            "port",
            format!("{there} ethtool -K eth0 gro off; {there} ethtool -K eth0 gro on"),
        ),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(interface, check, command)| (*interface, *check, Some(command.as_str())))
        .collect();
    ensure!(commands == expected, "{bad:?}");
    let port = good
        .iter()
        .find(|finding| finding.check == "port")
        .context("no good port")?;
    ensure!(
        port.text == format!("a port of the instance `{}`, in native mode", netns.name()),
        "{port:?}"
    );
    // As text, with the commands that it runs on standard error.
    let output = doctor(&netns, "--fix")?;
    let (shown, said) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    ensure!(output.status.success(), "{shown}{said}");
    for (.., command) in expected {
        ensure!(said.contains(&format!("+ {}", command.unwrap_or_default())), "{said}");
    }
    ensure!(shown.ends_with(" ok, 0 warnings, 0 errors\n"), "{shown}");
    ensure!(findings(&netns, "")?.0.is_empty(), "{shown}");
    let brief = doctor(&netns, "--brief")?;
    ensure!(
        String::from_utf8_lossy(&brief.stdout).lines().count() == 1,
        "{:?}",
        String::from_utf8_lossy(&brief.stdout)
    );
    router.unload()
}

fn lost() -> Result<()> {
    let lab = Lab::new()?;
    let (one, netns, _two) = bed(&lab)?;
    let router = Router::load(&netns, "--iface eth1 --iface eth2")?;
    router.run("route add 100 as 110 via link 02:00:00:00:00:02 dev eth2")?;
    let quiet = findings(&netns, "--iface eth1")?;
    ensure!(
        !quiet.0.iter().any(|finding| finding.check == "lost-frames"),
        "{quiet:?}"
    );
    let tap = Tap::open(&one, "eth0")?;
    let frame = labelled(netns.mac("eth1")?, tap.mac(), &[Entry::new(100, 64)], &[0x45; 64]);
    let stop = AtomicBool::new(false);
    let (bad, _) = thread::scope(|scope| {
        let send = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                tap.send(&frame)?;
                thread::sleep(Duration::from_millis(10));
            }
            anyhow::Ok(())
        });
        let found = findings(&netns, "--iface eth1 --seconds 2");
        stop.store(true, Ordering::Relaxed);
        send.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        found
    })?;
    let lost = bad.iter().find(|finding| finding.check == "lost-frames");
    let lost = lost.with_context(|| format!("no lost frames in {bad:?}"))?;
    ensure!(
        lost.level == "error" && lost.interface.as_deref() == Some("eth1") && lost.text.contains("xdp_redirect_err"),
        "{lost:?}"
    );
    router.unload()
}

fn absent() -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("router")?;
    let (bad, _) = findings(&netns, "--iface eth9")?;
    let of_interface: Vec<&Finding> = bad.iter().filter(|finding| finding.interface.is_some()).collect();
    ensure!(
        of_interface.len() == 1
            && of_interface[0].level == "error"
            && of_interface[0].text.contains("no interface eth9"),
        "{bad:?}"
    );
    Ok(())
}

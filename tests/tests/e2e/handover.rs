//! Packets that `dev lo` routes leave to the kernel, and kernel settings that make it drop them: each is named, with
//! the command that helps.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::frame::{Entry, udp};
use mplsxdp_tests::{Router, wait};
use nix::sys::signal::Signal;

use crate::bench::{Bench, NATIVE, RIGHT};
use crate::test;

const PATIENCE: Duration = Duration::from_secs(5);
/// The label of the `dev lo` route.
const LABEL: u32 = 200;
const V4: [&str; 2] = ["192.0.2.1", "10.0.2.2"];
const V6: [&str; 2] = ["2001:db8::1", "fd00:2::2"];

pub fn tests() -> Vec<Trial> {
    vec![
        test("handover::settings_that_drop_are_named_and_the_commands_help", warned),
        test("handover::a_restore_and_a_configuration_name_each_once", once),
    ]
}

/// A bench whose kernel knows the right tap.
fn bench() -> Result<Bench> {
    let bench = Bench::new(NATIVE)?;
    for address in [V4[1], V6[1]] {
        let netns = bench.router.netns();
        netns.ip(&format!(
            "neigh replace {address} lladdr {RIGHT} dev eth2 nud permanent"
        ))?;
    }
    Ok(bench)
}

/// Sends a packet under the label.
fn send(bench: &Bench, [source, destination]: [&str; 2]) -> Result<Vec<Vec<u8>>> {
    let (source, destination): (IpAddr, IpAddr) = (source.parse()?, destination.parse()?);
    let packet = udp(source, destination, 64, b"whose?")?;
    bench.forward(&bench.labelled(&[Entry::new(LABEL, 64)], &packet))
}

fn expect_through(bench: &Bench, ends: [&str; 2]) -> Result<()> {
    wait::until(&format!("a packet from {ends:?}"), PATIENCE, || {
        Ok(send(bench, ends)?.into_iter().next())
    })
    .map(drop)
}

fn expect_dropped(bench: &Bench, ends: [&str; 2]) -> Result<()> {
    // The kernel may have sent an earlier packet late.
    send(bench, ends)?;
    let forwarded = send(bench, ends)?;
    ensure!(forwarded.is_empty(), "{ends:?} got through");
    Ok(())
}

/// Adds the route again. Returns the warnings, each of which must contain all of `words`.
fn replace(bench: &Bench, words: &[&[&str]]) -> Result<Vec<String>> {
    let (_, said) = bench
        .router
        .run_with_warnings(&format!("route replace {LABEL} dev lo"), "")?;
    let warnings: Vec<String> = said.lines().map(str::to_owned).collect();
    let fits = |warning: &String, words: &[&str]| {
        warning.starts_with("mplsxdp: warning: ") && words.iter().all(|word| warning.contains(word))
    };
    ensure!(
        warnings.len() == words.len() && warnings.iter().zip(words).all(|(warning, words)| fits(warning, words)),
        "{warnings:?} instead of {words:?}"
    );
    Ok(warnings)
}

/// Runs the command at the end of each warning.
fn carry_out(warnings: &[String]) -> Result<()> {
    for warning in warnings {
        let command = warning.split('`').rev().nth(1).context("no command")?;
        let mut words = command.split(' ');
        let output = Command::new(words.next().context("no words")?).args(words).output()?;
        ensure!(output.status.success(), "{command}: {output:?}");
    }
    Ok(())
}

fn warned() -> Result<()> {
    let bench = bench()?;
    let netns = bench.router.netns();
    let warnings = replace(
        &bench,
        &[
            &["IPv4", "net.ipv4.ip_forward is 0"],
            &["IPv6", "net.ipv6.conf.all.forwarding is 0"],
        ],
    )?;
    expect_dropped(&bench, V4)?;
    expect_dropped(&bench, V6)?;
    carry_out(&warnings)?;
    replace(&bench, &[])?;
    expect_through(&bench, V4)?;
    expect_through(&bench, V6)?;

    // The setting of the port where packets arrive counts, not that of the port where they leave.
    netns.sysctl("ipv4/conf/eth1/forwarding", "0")?;
    let warnings = replace(&bench, &[&["IPv4", "net.ipv4.conf.eth1.forwarding is 0"]])?;
    expect_dropped(&bench, V4)?;
    carry_out(&warnings)?;
    bench.router.run("link set eth2 mpls off")?;
    netns.sysctl("ipv4/conf/eth2/forwarding", "0")?;
    replace(&bench, &[])?;
    expect_through(&bench, V4)?;

    // First there is no route to the source, then a default route through another interface.
    netns.sysctl("ipv4/conf/all/rp_filter", "2")?;
    let warnings = replace(
        &bench,
        &[&["at eth1 from", "has no route to", "net.ipv4.conf.all.rp_filter=0"]],
    )?;
    expect_dropped(&bench, V4)?;
    expect_through(&bench, V6)?;
    netns.ip("route add default via 10.0.2.9")?;
    wait::until("the default route", PATIENCE, || Ok(replace(&bench, &[]).ok()))?;
    expect_through(&bench, V4)?;
    netns.ip("route del default")?;
    wait::until("no default route", PATIENCE, || Ok(replace(&bench, &[]).err()))?;
    carry_out(&warnings)?;
    replace(&bench, &[])?;
    expect_through(&bench, V4)?;
    netns.ip("route add default via 10.0.2.9")?;
    netns.sysctl("ipv4/conf/eth1/rp_filter", "1")?;
    wait::until("the default route", PATIENCE, || {
        let loose = [&["at eth1 from", "does not route back", "net.ipv4.conf.eth1.rp_filter=2"][..]];
        let Ok(warnings) = replace(&bench, &loose) else {
            return Ok(None);
        };
        expect_dropped(&bench, V4)?;
        carry_out(&warnings).map(Some)
    })?;
    replace(&bench, &[])?;
    expect_through(&bench, V4)?;

    // Packets may come from where an LSP leads.
    netns.ip("route del default")?;
    netns.ip("route add 192.0.2.0/24 via 10.0.2.9")?;
    bench.route("192.0.2.0/25 encap mpls 300")?;
    wait::until("a route to the source", PATIENCE, || Ok(replace(&bench, &[]).ok()))?;
    expect_through(&bench, V4)?;
    bench.route("198.51.100.0/24 encap mpls 301")?;
    replace(&bench, &[&["such as 198.51.100.0/24"]])?;
    // Other routes have nothing to do with the kernel.
    let (_, said) = bench
        .router
        .run_with_warnings(&format!("route add 201 as 202 via link {RIGHT} dev eth2"), "")?;
    ensure!(said.is_empty(), "{said}");
    Ok(())
}

fn once() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let netns = bench.router.netns().clone();
    netns.sysctl("ipv4/conf/eth1/rp_filter", "1")?;
    let is_once = |said: &str| -> Result<()> {
        for word in [
            "ip_forward is 0",
            "net.ipv6.conf.all.forwarding is 0",
            "conf.eth1.rp_filter=0",
        ] {
            ensure!(said.matches(word).count() == 1, "{word} in {said}");
        }
        Ok(())
    };
    let (_, said) = bench
        .router
        .run_with_warnings("route restore", "200 dev lo\n201 dev lo\n202 nexthop dev lo\n")?;
    is_once(&said)?;
    bench.router.stop(Signal::SIGTERM)?;

    let file = std::env::temp_dir().join(format!("{}.toml", netns.name()));
    std::fs::write(&file, "routes = [\"200 dev lo\", \"201 dev lo\"]\n")?;
    let router = Router::load(&netns, &format!("{NATIVE} --config {}", file.display()));
    let loaded = router.and_then(|router| {
        is_once(&router.said_at_load()?)?;
        netns.sysctl("ipv4/ip_forward", "1")?;
        std::fs::write(&file, "routes = [\"203 dev lo\"]\n")?;
        router.signal(Signal::SIGHUP)?;
        wait::until("the configuration", PATIENCE, || {
            Ok(router.said().contains("was read again").then_some(()))
        })?;
        let said = router.said();
        ensure!(
            said.matches("ip_forward is 0").count() == 1 && said.matches("conf.all.forwarding is 0").count() == 2,
            "{said}"
        );
        Ok(())
    });
    std::fs::remove_file(&file)?;
    loaded
}

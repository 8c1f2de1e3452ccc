//! Routes of several owners: the best one forwards, and another replaces it when it goes.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::Status;
use mplsxdp::route::Source;
use mplsxdp_common::wire::ETH_P_IP;
use mplsxdp_tests::frame::{Entry, ethernet, with_ttl};

use crate::bench::{Bench, NATIVE, RIGHT, v4};
use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("owners::the_best_is_forwarded_by_and_the_next_takes_its_place", best),
        test("owners::a_flush_and_a_restore_are_of_one_owner", flushed),
        test("owners::preferences_are_shown_and_configured", preferences),
    ]
}

/// Fpm's routes come last here.
const PREFER: &str = "--prefer fpm=30";
const LABEL: &str = "100";
const PREFIX: &str = "10.9.0.0/16";

/// Adds a route of this owner to this label, for the label and for the prefix.
fn add(bench: &Bench, owner: &str, label: u32) -> Result<()> {
    for route in [format!("{LABEL} as {label}"), format!("{PREFIX} encap mpls {label}")] {
        let command = format!("route --owner {owner} add {route} via link {RIGHT} dev eth2");
        bench.router.run(&command)?;
    }
    Ok(())
}

/// Checks that a labelled packet and one without a label leave with this label.
fn expect(bench: &Bench, label: u32) -> Result<()> {
    let packet = v4(64)?;
    let labelled = bench.labelled(&[Entry::new(100, 64)], &packet);
    let swapped = bench.out_labelled(&[Entry::new(label, 63)], &packet);
    let plain = ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &packet);
    let imposed = bench.out_labelled(&[Entry::new(label, 63)], &with_ttl(&packet, 63)?);
    for (what, sent, expected) in [("label", labelled, swapped), ("prefix", plain, imposed)] {
        bench.left.send(&sent)?;
        let mut received = Vec::new();
        let is_it = |frame: &[u8]| {
            received.push(format!("{frame:02x?}"));
            frame == expected
        };
        let found = bench.right.receive(&format!("{label} for a {what}"), is_it);
        found.with_context(|| format!("received {received:#?}"))?;
    }
    Ok(())
}

/// Owner, label, and whether it is on standby, of each listed label route.
fn shown(bench: &Bench, command: &str) -> Result<Vec<(String, String, bool)>> {
    let routes: Vec<serde_json::Value> = bench.router.json(command)?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let of_label = routes.iter().filter(|route| route["dst"] == LABEL);
    Ok(of_label
        .map(|route| (text(&route["owner"]), text(&route["to"]), route["standby"] == true))
        .collect())
}

fn expect_shown(bench: &Bench, command: &str, expected: &[(&str, &str, bool)]) -> Result<()> {
    let shown = shown(bench, command)?;
    let found: Vec<_> = shown
        .iter()
        .map(|(owner, to, standby)| (&**owner, &**to, *standby))
        .collect();
    ensure!(found == expected, "{command}: {found:?}");
    Ok(())
}

fn best() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} {PREFER}"))?;
    add(&bench, "fpm", 110)?;
    expect(&bench, 110)?;
    add(&bench, "static", 130)?;
    expect(&bench, 130)?;
    // It comes between the two.
    add(&bench, "kernel", 120)?;
    expect(&bench, 130)?;
    let (first, second, third) = (("static", "130", false), ("kernel", "120", true), ("fpm", "110", true));
    expect_shown(&bench, "route show all", &[first, second, third])?;
    expect_shown(&bench, "route show", &[first])?;
    expect_shown(&bench, "route --owner kernel show all", &[second])?;
    let text = bench.router.run("route show all")?;
    ensure!(text.contains("owner kernel") && text.contains("standby"), "{text}");

    // Each owner changes its own routes only.
    let again = bench.router.run(&format!(
        "route --owner kernel add {LABEL} as 121 via link {RIGHT} dev eth2"
    ));
    ensure!(again.is_err(), "the kernel's route was added twice");
    for route in [format!("{LABEL} as 121"), format!("{PREFIX} encap mpls 121")] {
        bench.router.run(&format!(
            "route --owner kernel replace {route} via link {RIGHT} dev eth2"
        ))?;
    }
    expect(&bench, 130)?;
    for (owner, next) in [("static", 121), ("kernel", 110)] {
        for key in [LABEL, PREFIX] {
            bench.router.run(&format!("route --owner {owner} del {key}"))?;
        }
        expect(&bench, next)?;
    }
    let refused = bench
        .router
        .run(&format!("route del {LABEL}"))
        .err()
        .context("fpm's route was deleted")?;
    ensure!(format!("{refused:#}").contains("`fpm`"), "{refused:#}");
    expect(&bench, 110)?;
    for key in [LABEL, PREFIX] {
        bench.router.run(&format!("route --owner fpm del {key}"))?;
    }
    bench.expect_drop("no-route", &bench.labelled(&[Entry::new(100, 64)], &v4(64)?))?;
    expect_shown(&bench, "route show all", &[])
}

fn flushed() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} {PREFER}"))?;
    for (owner, label) in [("kernel", 120), ("static", 130), ("fpm", 110)] {
        add(&bench, owner, label)?;
    }
    // Standby routes are deleted as well.
    bench.router.run("route --owner fpm flush all")?;
    expect_shown(
        &bench,
        "route show all",
        &[("static", "130", false), ("kernel", "120", true)],
    )?;
    expect(&bench, 130)?;
    add(&bench, "fpm", 110)?;
    bench.router.run("route flush all")?;
    expect_shown(
        &bench,
        "route show all",
        &[("kernel", "120", false), ("fpm", "110", true)],
    )?;
    expect(&bench, 120)?;
    // A restore of static routes does not replace other owners' routes, but takes precedence over them.
    let route =
        format!("{LABEL} as 131 via link {RIGHT} dev eth2\n{PREFIX} encap mpls 131 via link {RIGHT} dev eth2\n");
    bench.router.run_with("route restore", &route)?;
    expect(&bench, 131)?;
    bench.router.run_with("route restore --allow-empty", "")?;
    expect_shown(
        &bench,
        "route show all",
        &[("kernel", "120", false), ("fpm", "110", true)],
    )?;
    expect(&bench, 120)?;
    bench.router.run("route --owner kernel flush all")?;
    expect(&bench, 110)
}

fn preferences() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --prefer kernel=1 --prefer static=40"))?;
    for (owner, label) in [("static", 130), ("fpm", 110), ("kernel", 120)] {
        add(&bench, owner, label)?;
        expect(&bench, label)?;
    }
    let status: Status = bench.router.json("status")?;
    let expected = [
        (Source::Static, 40),
        (Source::Fpm, 10),
        (Source::Kernel, 1),
        (Source::Frr, 30),
    ];
    ensure!(status.preferences == Some(expected.into()), "{:?}", status.preferences);
    let text = bench.router.run("status")?;
    ensure!(text.contains("prefer kernel=1 fpm=10 frr=30 static=40\n"), "{text}");
    // The configuration has the instance's static routes, installed or on standby.
    let shown = bench.router.run("config show")?;
    ensure!(shown.contains(r#"prefer = ["kernel=1", "static=40"]"#), "{shown}");
    ensure!(!shown.contains("120") && !shown.contains("110 "), "{shown}");
    ensure!(shown.contains("130"), "the static routes are missing: {shown}");
    Ok(())
}

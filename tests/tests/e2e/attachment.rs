//! Attachment circuits as an operator handles them: commands and refusals, ports that come and go, what outlives the process.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_common::wire::{ETH_P_8021Q as Q, Mac};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, tagged};
use mplsxdp_tests::{Router, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, NATIVE, RIGHT};
use crate::test;

const PATIENCE: Duration = Duration::from_secs(5);
const CONTROL_WORD: [u8; 4] = [0; 4];

pub fn tests() -> Vec<Trial> {
    vec![
        test("attachment::frames_go_in_and_come_out", both_ways),
        test("attachment::what_contradicts_another_use_is_refused", refused),
        test("attachment::it_follows_its_ports_and_outlives_the_process", follows),
    ]
}

fn frame(number: u8) -> Vec<u8> {
    ethernet(
        Mac([0x02, 0, 0, 0, 9, number]),
        Mac([2, 0, 0, 0, 8, 8]),
        0x88b5,
        &[number; 60],
    )
}

/// `frame` in a pseudowire, as it leaves towards the right tap.
fn encapsulated(bench: &Bench, labels: &[u32], between: &[u8], frame: &[u8]) -> Vec<u8> {
    let entries: Vec<Entry> = labels.iter().map(|&label| Entry::new(label, 255)).collect();
    bench.out_labelled(&entries, &[between, frame].concat())
}

/// `frame` in a pseudowire, as it arrives from the right tap.
fn arriving(bench: &Bench, label: u32, between: &[u8], frame: &[u8]) -> Vec<u8> {
    labelled(
        bench.port2,
        bench.right.mac(),
        &[Entry::new(label, 1)],
        &[between, frame].concat(),
    )
}

fn into(bench: &Bench, sent: &[u8], expected: &[u8]) -> Result<()> {
    bench.left.send(sent)?;
    // The far end's kernel sends multicast of its own, which enters, too.
    bench
        .right
        .receive(&format!("{expected:02x?}"), |frame| frame == expected)?;
    Ok(())
}

fn out_of(bench: &Bench, sent: &[u8], expected: &[u8]) -> Result<()> {
    bench.right.send(sent)?;
    bench
        .left
        .receive(&format!("{expected:02x?}"), |frame| frame == expected)?;
    Ok(())
}

fn refusal(router: &Router, line: &str, part: &str) -> Result<()> {
    let wrong = router.run(line).err().with_context(|| format!("{line} was taken"))?;
    ensure!(format!("{wrong:#}").contains(part), "{line}: {wrong:#}");
    Ok(())
}

fn both_ways() -> Result<()> {
    let bench = Bench::with_mtus(NATIVE, 1500, 1600)?;
    let router = &bench.router;
    let via = format!("via link {RIGHT} dev eth2");
    router.run(&format!("xconnect add eth1 encap mpls 100/500 {via}"))?;
    router.run("route add 600 xconnect eth1")?;
    into(
        &bench,
        &frame(1),
        &encapsulated(&bench, &[100, 500], &CONTROL_WORD, &frame(1)),
    )?;
    out_of(&bench, &arriving(&bench, 600, &CONTROL_WORD, &frame(2)), &frame(2))?;
    // Other words, with one command.
    router.run(&format!("xconnect replace eth1 encap mpls 501 {via} no-cw vlan 7"))?;
    router.run("route replace 600 xconnect eth1 no-cw vlan 9")?;
    let in_vlan = |vid, number| tagged(&[(Q, vid)], &frame(number));
    into(&bench, &frame(3), &encapsulated(&bench, &[501], &[], &in_vlan(7, 3)))?;
    out_of(&bench, &arriving(&bench, 600, &[], &in_vlan(7, 4)), &in_vlan(9, 4))?;
    let shown = router.run("-s xconnect show eth1")?;
    let expected = format!("xconnect eth1 vlan 7 no-cw encap mpls 501 {via} proto static packets ");
    ensure!(shown.starts_with(&expected), "{shown}");
    ensure!(
        shown.contains("\n600 xconnect eth1 vlan 9 no-cw proto static packets 2 bytes"),
        "{shown}"
    );
    let shown: Value = router.json("xconnect show")?;
    let words = json!({ "control_word": false, "flow_label": false, "tagged": true, "vlan": 7 });
    ensure!(
        shown[0]["dst"] == "xconnect eth1" && shown[0]["to"] == "501" && shown[0]["pseudowire"] == words,
        "{shown}"
    );
    let shown: Value = router.json("route get 600")?;
    ensure!(
        shown[0]["xconnect"] == "eth1" && shown[0]["pseudowire"]["vlan"] == 9,
        "{shown}"
    );
    ensure!(
        router.run("route show dev eth1")?.starts_with("600 xconnect eth1"),
        "dev eth1"
    );
    router.run("xconnect del eth1")?;
    ensure!(router.run("xconnect show")?.is_empty(), "something is left");
    // Frames go to the kernel again, which answers.
    bench.left.send(&bench.labelled(&[Entry::new(999, 64)], &[]))?;
    let marker = bench.out_labelled(&[Entry::new(998, 63)], &[]);
    bench
        .right
        .receive("a label that is looked at again", |frame| frame == marker)?;
    bench.router.unload()
}

fn refused() -> Result<()> {
    let bench = Bench::new("--iface eth1 --iface eth2 --iface eth2.5 --tx-only eth1.9")?;
    let router = &bench.router;
    let via = format!("via link {RIGHT} dev eth2");
    router.run("route add 100 as 110 via inet 10.0.1.2 dev eth1")?;
    let add = |port: &str, rest: &str| format!("xconnect add {port} encap mpls 500 {via} {rest}");
    for (line, part) in [
        (
            add("eth9", ""),
            "eth9 is not a port: add it with `mplsxdp link add eth9`",
        ),
        (add("eth1", ""), "eth1 has sub-interfaces that are ports (eth1.9)"),
        (add("eth1.9", ""), "eth1.9 is tx-only"),
        (add("eth2.5", "vlan 4095"), "`4095` is not a VLAN: it is 0 to 4094"),
        (add("eth2.5", "as 7"), "`as` and `encap` exclude each other"),
        ("route add 600 xconnect eth9".into(), "eth9 is not a port"),
        (
            "route add 600 xconnect eth2.5 vlan 7".into(),
            "eth2.5 has tags of its own, so frames that leave there get no `vlan`",
        ),
        ("route add 600 dev eth2 no-cw".into(), "`dev` without `via`"),
    ] {
        refusal(router, &line, part)?;
    }
    router.run("link del eth1.9")?;
    refusal(
        router,
        &add("eth1", ""),
        "1 next hops of routes are reached through eth1",
    )?;
    // A transaction makes it so, and it is said.
    let (route, attachment) = (
        "100 as 110 via inet 10.0.1.2 dev eth1",
        format!("xconnect eth1 encap mpls 500 {via}"),
    );
    router.run_with("route restore", &format!("{route}\n{attachment}\n"))?;
    let shown = router.run("xconnect show")?;
    ensure!(
        shown.contains("# 1 next hops of routes are reached through eth1"),
        "{shown}"
    );
    router.run_with("route restore", &format!("{attachment}\n"))?;
    let shown = router.run("xconnect show")?;
    ensure!(!shown.contains('#'), "{shown}");
    let shown = router.run("link show eth1")?;
    ensure!(shown.contains(" xconnect encap mpls"), "{shown}");
    refusal(router, &add("eth1", ""), "xconnect eth1 already has a route")?;
    refusal(
        router,
        "xconnect add eth1 eth2.5",
        "the frames of eth1 go into a pseudowire",
    )?;
    refusal(router, "link add eth1.9", "eth1 is cross-connected with a pseudowire")?;
    refusal(
        router,
        "route add 100 as 110 via inet 10.0.1.2 dev eth1",
        "eth1 is cross-connected with a pseudowire",
    )?;
    router.run("xconnect add eth2.5 eth2 one-way")?;
    refusal(
        router,
        &add("eth2.5", ""),
        "eth2.5 is cross-connected with eth2 already",
    )?;
    // Nothing has changed by all that.
    into(
        &bench,
        &frame(1),
        &encapsulated(&bench, &[500], &CONTROL_WORD, &frame(1)),
    )
}

fn follows() -> Result<()> {
    let bench = Bench::with_mtus(&format!("{NATIVE} --persist"), 1500, 1600)?;
    let netns = bench.router.netns().clone();
    let via = format!("via link {RIGHT} dev eth2");
    bench.router.run(&format!("xconnect add eth1 encap mpls 500 {via}"))?;
    bench.router.run("route add 600 xconnect eth1")?;
    for line in ["link set eth1 down", "link set eth1 name lan", "link set lan up"] {
        netns.ip(line)?;
    }
    wait::until("the new name", PATIENCE, || {
        let shown = bench.router.run("xconnect show lan")?;
        let is_new = shown.starts_with("xconnect lan encap mpls 500") && shown.contains("\n600 xconnect lan ");
        Ok(is_new.then_some(()))
    })?;
    let check = |bench: &Bench, number| {
        wait::until("frames into the pseudowire", PATIENCE, || {
            bench.left.send(&frame(number))?;
            let expected = encapsulated(bench, &[500], &CONTROL_WORD, &frame(number));
            Ok(bench.right.drain()?.contains(&expected).then_some(()))
        })?;
        wait::until("frames out of the pseudowire", PATIENCE, || {
            let sent = arriving(bench, 600, &CONTROL_WORD, &frame(number));
            bench.right.send(&sent)?;
            Ok(bench.left.drain()?.contains(&frame(number)).then_some(()))
        })
    };
    check(&bench, 1)?;
    // Killed, and loaded again.
    bench.router.stop(Signal::SIGKILL)?;
    let bench = Bench {
        router: Router::load(&netns, "--iface lan --iface eth2 --persist")?,
        ..bench
    };
    check(&bench, 2)?;
    // The port is taken away and added again; its routes wait.
    bench.router.run("link del lan")?;
    let shown = bench.router.run("xconnect show")?;
    ensure!(shown.contains("# lan is not a port"), "{shown}");
    bench.router.run("link add lan")?;
    check(&bench, 3)?;
    bench.router.unload_by_command()
}

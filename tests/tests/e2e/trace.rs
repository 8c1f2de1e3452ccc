//! `mplsxdp trace` says what happens: the same frames are traced and then sent.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Trace, TraceVerdict, TracedFrame};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, IPV4_HLEN};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp, udp_of_ports};
use serde_json::{Value, json};

use crate::bench::{Bench, NATIVE, RIGHT, v4, v6};
use crate::test;
use crate::too_big::datagram;

pub fn tests() -> Vec<Trial> {
    vec![test("trace::what_is_traced_happens", traced)]
}

/// What a router has counted, and its tables.
fn state(bench: &Bench) -> Result<Vec<Value>> {
    let reports = ["-j stats --all", "-j -s route show", "-j neigh show", "-j config"];
    let tables = bench.router.json::<Value>("-j status")?["tables"].clone();
    let unknown = bench.router.unknown_labels()?.into_iter();
    // Their ages and rates change with the time.
    let unknown: Vec<_> = unknown.map(|seen| (seen.label, seen.packets)).collect();
    let reports = reports.into_iter().map(|report| bench.router.json(report));
    reports.chain([Ok(tables), Ok(json!(unknown))]).collect()
}

fn trace(bench: &Bench, frame: &[u8]) -> Result<Trace> {
    bench
        .router
        .json(&format!("-j trace hex {} --in eth1", hex::encode(frame)))
}

fn bytes(frame: &TracedFrame) -> Result<Vec<u8>> {
    hex::decode(&frame.frame).context("not hexadecimal")
}

fn traced() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    for route in [
        "100 as 110",
        "200",
        "300 as 310/320",
        "10.9.0.0/16 encap mpls 900",
        "2001:db8:9::/48 encap mpls 901/902",
    ] {
        bench.route(route)?;
    }
    bench.router.add_routes(&[
        "120 dev lo",
        &format!("400 nexthop as 410 via link {RIGHT} dev eth2 nexthop as 420 via link {RIGHT} dev eth2 nexthop as 430 via link {RIGHT} dev eth2"),
    ])?;
    let stack = |entries: &[(u32, u8)]| {
        entries
            .iter()
            .map(|&(label, ttl)| Entry::new(label, ttl))
            .collect::<Vec<_>>()
    };
    let packet = v4(64)?;
    let mut forwarded = vec![
        bench.labelled(&[Entry::new(100, 64).tc(5)], &packet),
        bench.labelled(&stack(&[(120, 9), (0, 8), (100, 64)]), &packet),
        bench.labelled(&stack(&[(200, 64)]), &packet),
        bench.labelled(&stack(&[(200, 64), (7000, 3)]), &packet),
        bench.labelled(&stack(&[(300, 64)]), &packet),
        bench.labelled(&stack(&[(120, 64)]), &packet),
        bench.labelled(&stack(&[(7, 64), (12345, 0), (100, 5)]), &packet),
        bench.labelled(&stack(&[(2, 64)]), &v6(7)?),
        ethernet(bench.port1, bench.left.mac(), ETH_P_IP, &packet),
        ethernet(bench.port1, bench.left.mac(), ETH_P_IPV6, &v6(64)?),
    ];
    for port in 1..=8 {
        let flow = udp_of_ports("192.0.2.1".parse()?, "10.9.0.1".parse()?, [port, 53], 64, b"flow")?;
        forwarded.push(bench.labelled(&stack(&[(400, 64)]), &flow));
    }
    for frame in &forwarded {
        let before = state(&bench)?;
        let trace = trace(&bench, frame)?;
        ensure!(state(&bench)? == before, "the trace has changed something: {trace:?}");
        ensure!(trace.verdict == TraceVerdict::Forwarded, "{trace:?}");
        let sent = trace.sent.as_ref().context("nothing is sent")?;
        ensure!(sent.ifname == "eth2", "{sent:?}");
        bench.expect(&sent.text, frame, &bytes(sent)?)?;
    }

    // What is dropped, and the reasons.
    let long = datagram(1480, false, 7)?;
    let unlabelled = labelled(bench.left.mac(), bench.left.mac(), &stack(&[(100, 64)]), &packet);
    for (frame, verdict, reason, outcome) in [
        (
            bench.labelled(&stack(&[(999_999, 64)]), &packet),
            TraceVerdict::SlowPath,
            Some("no-route"),
            Some("unknown-label"),
        ),
        (
            bench.labelled(&stack(&[(3, 64)]), &packet),
            TraceVerdict::Dropped,
            Some("implicit-null"),
            None,
        ),
        (
            bench.labelled(&stack(&[(13, 64)]), &packet),
            TraceVerdict::SlowPath,
            Some("oam"),
            Some("oam"),
        ),
        (
            bench.labelled(&stack(&[(100, 64)]), &long),
            TraceVerdict::SlowPath,
            Some("too-big"),
            Some("fragmented"),
        ),
        (
            bench.labelled(&stack(&[(1, 64), (100, 64)]), &packet),
            TraceVerdict::SlowPath,
            Some("router-alert"),
            Some("forwarded"),
        ),
        (unlabelled, TraceVerdict::Kernel, None, None),
    ] {
        let before = state(&bench)?;
        let trace = trace(&bench, &frame)?;
        ensure!(state(&bench)? == before, "the trace has changed something: {trace:?}");
        ensure!(
            trace.verdict == verdict && trace.reason.as_deref() == reason,
            "{reason:?}: {trace:?}"
        );
        let count = |name: Option<&str>| name.map_or(Ok(0), |name| bench.router.outcome(name));
        let dropped = |name: Option<&str>| name.map_or(Ok(0), |name| bench.router.dropped(name));
        let counted = (dropped(reason)?, count(outcome)?);
        let received = bench.forward(&frame)?;
        let outcomes = trace.slow_path.iter().flat_map(|answer| &answer.outcomes);
        ensure!(
            outcome.is_none_or(|name| outcomes.clone().any(|outcome| outcome.name == name)),
            "{trace:?}"
        );
        let now = (dropped(reason)?, count(outcome)?);
        let expected = (
            counted.0 + u64::from(reason.is_some()),
            counted.1 + u64::from(outcome.is_some()),
        );
        ensure!(now == expected, "{reason:?}: counted {now:?}, not {expected:?}");
        let actions = trace.slow_path.iter().flat_map(|answer| &answer.actions);
        let said: Vec<_> = actions
            .filter_map(|action| action.sent.as_ref())
            .map(bytes)
            .collect::<Result<_>>()?;
        // What the slow path sends may come after the marker.
        for frame in said {
            if !received.contains(&frame) {
                bench.right.receive("what was traced", |seen| seen == frame)?;
            }
        }
    }

    // An answer: the source, the error and what it quotes. The identification is another each time.
    let expired = bench.labelled(
        &stack(&[(100, 1)]),
        &udp("10.0.1.2".parse()?, "10.9.0.1".parse()?, 9, b"short")?,
    );
    let trace_of_expired = trace(&bench, &expired)?;
    let [answer] = &trace_of_expired.slow_path[..] else {
        anyhow::bail!("{trace_of_expired:?}")
    };
    ensure!(answer.outcomes[0].name == "time-exceeded", "{answer:?}");
    let said = answer.actions[0].sent.as_ref().context("nothing is sent")?;
    ensure!(said.text.contains("icmp type 11 code 0"), "{said:?}");
    let said = bytes(said)?;
    let packet_of = |frame: &[u8]| match frame.get(12..14) {
        Some([0x08, 0]) => frame[14..].to_vec(),
        _ => frame.to_vec(),
    };
    let said = packet_of(&said);
    bench.left.send(&expired)?;
    bench.left.receive("the answer that was traced", |seen| {
        let seen = packet_of(seen);
        seen.get(12..20) == said.get(12..20) && seen.get(IPV4_HLEN..) == said.get(IPV4_HLEN..)
    })?;

    // A next hop that nobody answers for: two ends.
    bench.router.run("route add 500 as 510 via inet 10.0.2.77 dev eth2")?;
    let waits = trace(&bench, &bench.labelled(&stack(&[(500, 64)]), &packet))?;
    let ends: Vec<_> = waits
        .slow_path
        .iter()
        .map(|answer| answer.outcomes[0].name.as_str())
        .collect();
    ensure!(waits.reason.as_deref() == Some("unresolved"), "{waits:?}");
    ensure!(ends.first() == Some(&"held") && ends.len() == 2, "{waits:?}");

    // In words, with the route and the rule.
    let words = bench
        .router
        .run("trace [100 64 tc 5][7000 3] ip to 10.9.0.1 --in eth1")?;
    for part in [
        "arrives at eth1; labelled (RFC 3032 section 5)",
        "label 100, TTL 64, TC 5, S 0: out label 110, TTL uniform (RFC 3031 section 3.13)",
        "100 as to 110 via link 02:00:00:00:02:02 dev eth2",
        "forwarded by eth2: to 02:00:00:00:02:02",
        "[110 63 tc 5][7000 3] ip to 10.9.0.1",
    ] {
        ensure!(words.contains(part), "no `{part}` in {words}");
    }
    bench.router.unload()
}

//! `mplsxdp monitor` beside a router at work.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::frame::{Entry, labelled, udp};
use mplsxdp_tests::router::program;
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::{End, Lab, Router, Tap, link, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::test;

const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "10.0.1.2";

pub fn tests() -> Vec<Trial> {
    vec![
        test("monitor::what_happens_is_reported", events),
        test("monitor::a_large_change_is_reported_route_by_route", large_change),
    ]
}

/// A running `mplsxdp -j monitor`, and what it has printed.
struct Monitor {
    process: Reaped,
    events: Receiver<Value>,
}

impl Monitor {
    /// Watches when this returns.
    fn start(router: &Router, kinds: &str) -> Result<Self> {
        let mut command = Command::new(program()?);
        command
            .args([
                "--instance",
                router.instance(),
                "-j",
                "monitor",
                "--interval",
                "0.1",
                "rate",
            ])
            .args(kinds.split_whitespace());
        let mut process = spawn(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )?;
        let output = BufReader::new(process.child().stdout.take().context("no pipe")?);
        let (sender, events) = channel();
        thread::spawn(move || {
            let values = output.lines().map_while(Result::ok);
            for value in values.map(|line| serde_json::from_str(&line).unwrap_or(Value::String(line))) {
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let monitor = Self { process, events };
        monitor.until("a rate", |event| event["kind"] == "rate")?;
        Ok(monitor)
    }

    /// The next event that is such a one; the others before it are skipped.
    fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + wait::limit(PATIENCE);
        let mut skipped = Vec::new();
        loop {
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) if is_it(&event) => return Ok(event),
                Ok(event) if event["kind"] != "rate" => skipped.push(event.to_string()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    bail!("no event {what} among {skipped:#?}")
                }
            }
        }
    }

    /// The next event of this kind, which must have these members.
    fn expect(&self, kind: &str, members: &Value) -> Result<Value> {
        let event = self.until(&format!("{kind} {members}"), |event| event["kind"] == kind)?;
        let has = members.as_object().into_iter().flatten();
        for (pointer, value) in has {
            ensure!(
                event.pointer(pointer) == Some(value),
                "{event}: {pointer} is not {value}"
            );
        }
        Ok(event)
    }
}

fn events() -> Result<()> {
    let lab = Lab::new()?;
    let (left, middle, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
    link(
        End::new(&left, "eth0").address(&format!("{HOST}/24")),
        End::new(&middle, "eth1").address("10.0.1.1/24"),
    )?;
    link(
        End::new(&middle, "eth2").address("10.0.2.1/24"),
        End::new(&right, "eth0").address("10.0.2.2/24"),
    )?;
    let mut router = Router::load(&middle, "--iface eth1 --iface eth2")?;
    let tap = Tap::open(&left, "eth0")?;
    let port = middle.mac("eth1")?;
    let send = |entries: &[Entry]| {
        let packet = udp(HOST.parse()?, "10.9.0.1".parse()?, 64, b"payload")?;
        tap.send(&labelled(port, tap.mac(), entries, &packet))
    };
    let monitor = Monitor::start(&router, "all")?;

    router.add_routes(&["100 as 110/111 via inet 10.0.2.2"])?;
    let added = json!({
        "/change": "added", "/route/dst": "100", "/route/to": "110/111", "/route/via/host": "10.0.2.2",
        "/route/dev": "eth2", "/route/owner": "static",
    });
    monitor.expect("route", &added)?;
    let mac = right.mac("eth0")?.to_string();
    let resolved = |event: &Value| event["neigh"]["state"] == "resolved";
    let event = monitor.until("resolved", resolved)?;
    ensure!(
        event["neigh"]["lladdr"] == *mac && event["neigh"]["routes"] == 1,
        "{event}"
    );
    router.run("route replace 100 as 120 via inet 10.0.2.2")?;
    let changed = json!({ "/change": "changed", "/route/to": "120", "/route/state": "resolved", "/route/lladdr": mac });
    monitor.expect("route", &changed)?;
    // Nothing is different.
    router.run("route replace 100 as 120 via inet 10.0.2.2")?;

    send(&[Entry::new(100, 1), Entry::new(300, 9)])?;
    let exception = json!({
        "/exception/port": "eth1", "/exception/reason": "ttl-expired", "/exception/source": HOST,
        "/exception/destination": "10.9.0.1",
        "/exception/labels": [{ "label": 100, "tc": 0, "ttl": 1 }, { "label": 300, "tc": 0, "ttl": 9 }],
    });
    let event = monitor.expect("exception", &exception)?;
    let outcome = event["exception"]["outcome"].as_str().context("no outcome")?;
    ensure!(router.outcome(outcome)? == 1, "{event}");
    let unknown = |event: &Value| {
        let reasons = event["rate"]["reasons"].as_array();
        event["rate"]["ifname"] == "eth1"
            && event["rate"]["rx_pps"].as_f64() > Some(0.0)
            && reasons.is_some_and(|reasons| reasons.iter().any(|rate| rate["reason"] == "no-route"))
    };
    for _ in 0..10 {
        send(&[Entry::new(999, 64)])?;
    }
    for _ in 0..10 {
        let exception = json!({ "/exception/reason": "no-route", "/exception/outcome": "unknown-label" });
        monitor.expect("exception", &exception)?;
    }
    for _ in 0..10 {
        send(&[Entry::new(999, 64)])?;
    }
    monitor.until("a rate of no-route", unknown)?;

    middle.ip("link set dev eth2 mtu 1400")?;
    monitor.until("MTU", |event| {
        event["link"]["mtu"] == 1400 && event["link"]["ifname"] == "eth2"
    })?;
    middle.ip("link set dev eth2 down")?;
    monitor.until("port down", |event| {
        event["link"]["up"] == false && event["change"] == "changed"
    })?;
    // The notice of the link came before, or comes now.
    let down = Monitor::start(&router, "neigh")?;
    middle.ip("link set dev eth2 up")?;
    down.until("resolved", resolved)?;
    middle.ip("link set dev eth2 down")?;
    down.until("link down", |event| event["neigh"]["state"] == "linkdown")?;
    router.run("route del 100")?;
    let deleted = json!({ "/change": "deleted", "/route/dst": "100", "/route/to": "120", "/route/protocol": "static" });
    monitor.expect("route", &deleted)?;
    down.until("the end of the next hop", |event| event["change"] == "deleted")?;
    router.run("link del eth2")?;
    monitor.until("port deleted", |event| {
        event["change"] == "deleted" && event["link"]["ifname"] == "eth2"
    })?;

    down.process.signal(Signal::SIGINT)?;
    router.signal(Signal::SIGTERM)?;
    ensure!(router.ended()?.success());
    let Monitor { mut process, .. } = monitor;
    let status = process.ended(PATIENCE)?;
    let mut said = String::new();
    process
        .child()
        .stderr
        .take()
        .context("no pipe")?
        .read_to_string(&mut said)?;
    ensure!(
        status.code() == Some(1) && said.contains("has ended"),
        "{status}: {said}"
    );
    Ok(())
}

/// None is lost, for someone who keeps up.
fn large_change() -> Result<()> {
    const ROUTES: usize = 20_000;
    let lab = Lab::new()?;
    let (middle, right) = (lab.netns("router")?, lab.netns("right")?);
    link(
        End::new(&middle, "eth1").address("10.0.1.1/24"),
        End::new(&right, "eth0").address("10.0.1.2/24"),
    )?;
    let router = Router::load(&middle, "--iface eth1")?;
    let lines = |out: usize| -> String {
        let labels = 1000..1000 + ROUTES;
        labels
            .map(|label| format!("{label} as {out} via inet 10.0.1.2 dev eth1\n"))
            .collect()
    };
    let monitor = Monitor::start(&router, "route")?;
    router.run_with("route restore", &lines(100))?;
    // One of them is different.
    let other = lines(100).replacen("as 100", "as 200", 1);
    router.run_with("route restore", &other)?;
    router.run("route flush all")?;
    let (mut added, mut whole) = (0, 0);
    for (count, change) in [(ROUTES, "added"), (1, "changed"), (ROUTES, "deleted")] {
        for number in 0..count {
            let event = monitor.until(change, |event| event["kind"] == "route" || event["lost"].is_u64())?;
            ensure!(event["change"] == change, "number {number}: {event}");
            added += usize::from(event["route"]["state"].is_string());
            whole += usize::from(event["change"] == "deleted" && event["route"]["to"].is_string());
        }
    }
    // Those that were installed when they were reported have their state.
    ensure!(added > 0 && whole == 1024, "{added} {whole}");
    router.unload()
}

//! Metrics: what they say, who may read them, and that Prometheus understands them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{KernelCounters, NextHopState, Resolution, Stats, Status};
use mplsxdp_tests::frame::Entry;
use mplsxdp_tests::needs::{Need, prometheus};
use mplsxdp_tests::tidy::{RUN_DIRECTORY, spawn};
use mplsxdp_tests::{End, Lab, Netns, Router, http, link, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bench::{Bench, NATIVE, v4};
use crate::{test, test_with};

const PATIENCE: Duration = Duration::from_secs(20);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";
const DASHBOARD: &str = include_str!("../../../packaging/grafana/mplsxdp.json");
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/prometheus/mplsxdp.rules.yml");

pub fn tests() -> Vec<Trial> {
    vec![
        test("metrics::they_are_what_other_commands_show", same),
        test("metrics::a_unix_socket_is_there_as_long_as_the_instance", unix_socket),
        test_with("metrics::prometheus_understands_them", Some(Need::Prometheus), scraped),
    ]
}

/// Reads metrics within a namespace.
fn scrape(netns: &Netns, address: &str, accept: &str) -> Result<String> {
    let (status, text) = netns.within(|| http::get(TcpStream::connect(address)?, "/metrics", accept))?;
    ensure!(status == 200, "{status}: {text}");
    Ok(text)
}

/// Values by series, as they are written.
fn samples(text: &str) -> Result<BTreeMap<&str, f64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').with_context(|| format!("a sample: {line}"))?;
            Ok((series, value.parse()?))
        })
        .collect()
}

fn same() -> Result<()> {
    const ADDRESS: &str = "10.0.1.1:9177";
    let bench = Bench::new(&format!(
        "{NATIVE} --metrics 0.0.0.0:9177 --metrics-allow 10.0.1.0/31,10.0.1.2 --metrics-routes 2"
    ))?;
    let router = &bench.router;
    for route in ["100 as 200", "101 as 201", "10.9.0.0/16 encap mpls 300"] {
        bench.route(route)?;
    }
    router.run("route add 102 as 202 via inet 10.0.2.99")?;
    for _ in 0..3 {
        let sent = bench.labelled(&[Entry::new(100, 64)], &v4(64)?);
        bench.expect("a swap", &sent, &bench.out_labelled(&[Entry::new(200, 63)], &v4(64)?))?;
    }
    bench.expect_drop("no-route", &bench.labelled(&[Entry::new(777, 64)], &v4(64)?))?;
    ensure!(router.run("route get 500").is_err(), "a route that is not there");

    let kernel = || -> Result<KernelCounters> {
        let links: Value = router.json("--stats link show eth1")?;
        let counters = &links[0]["stats64"]["rx"];
        Ok(KernelCounters {
            rx_packets: counters["packets"].as_u64().context("no packets")?,
            rx_bytes: counters["bytes"].as_u64().context("no bytes")?,
            ..KernelCounters::default()
        })
    };
    let before = kernel()?;
    let text = scrape(&bench.left_netns, ADDRESS, "*/*")?;
    let after = kernel()?;
    let found = samples(&text)?;
    let value = |series: &str| -> Result<u64> {
        let value = found.get(series).with_context(|| format!("no {series}"))?;
        Ok(*value as u64)
    };
    let expect = |series: &str, expected: u64| -> Result<()> {
        let value = value(series)?;
        ensure!(value == expected, "{series} is {value}, not {expected}");
        Ok(())
    };

    let stats: Stats = router.json("stats --all")?;
    ensure!(stats.reasons.len() > 40, "{} reasons of two ports", stats.reasons.len());
    for counter in &stats.reasons {
        let labels = format!("{{port=\"{}\",reason=\"{}\"}}", counter.port, counter.reason);
        expect(&format!("mplsxdp_exception_packets_total{labels}"), counter.packets)?;
        expect(&format!("mplsxdp_exception_bytes_total{labels}"), counter.bytes)?;
        expect(
            &format!("mplsxdp_exception_policed_packets_total{labels}"),
            counter.policed,
        )?;
        ensure!(
            text.contains(&format!("{{reason=\"{}\",meaning=\"", counter.reason)),
            "{}",
            counter.reason
        );
    }
    for outcome in &stats.slow_path {
        let series = format!("mplsxdp_slow_path_packets_total{{outcome=\"{}\"}}", outcome.name);
        expect(&series, outcome.packets)?;
    }
    ensure!(router.dropped("no-route")? == 1, "{stats:?}");
    expect("mplsxdp_slow_path_packets_total{outcome=\"unknown-label\"}", 1)?;
    expect("mplsxdp_forwarded_packets_total", stats.forwarded.packets)?;
    expect("mplsxdp_forwarded_bytes_total", stats.forwarded.bytes)?;
    expect("mplsxdp_route_packets_total{label=\"100\"}", 3)?;
    expect("mplsxdp_route_packets_total{label=\"101\"}", 0)?;
    ensure!(
        !text.contains("mplsxdp_route_packets_total{label=\"102\"}"),
        "more routes than were asked for"
    );
    expect("mplsxdp_metrics_left_out", 1)?;

    for (port, up) in [("eth1", 1), ("eth2", 1)] {
        expect(&format!("mplsxdp_port_up{{port=\"{port}\"}}"), up)?;
        expect(&format!("mplsxdp_port_attached{{port=\"{port}\"}}"), 1)?;
    }
    // The kernel's own packets arrive meanwhile.
    let packets = value("mplsxdp_port_receive_packets_total{port=\"eth1\"}")?;
    let bytes = value("mplsxdp_port_receive_bytes_total{port=\"eth1\"}")?;
    ensure!(
        (before.rx_packets..=after.rx_packets).contains(&packets),
        "{packets}: {before:?} {after:?}"
    );
    ensure!(
        (before.rx_bytes..=after.rx_bytes).contains(&bytes),
        "{bytes}: {before:?} {after:?}"
    );
    let received = value("mplsxdp_xsk_received_packets_total{port=\"eth1\",queue=\"0\"}")?;
    ensure!(received >= 1, "the slow path took {received} frames");

    let status: Status = router.json("status")?;
    expect("mplsxdp_routes{kind=\"label\"}", status.label_routes)?;
    expect("mplsxdp_routes{kind=\"prefix\"}", status.prefix_routes)?;
    for table in status
        .tables
        .iter()
        .filter(|table| ["ILM", "ADJACENCIES", "FTN"].contains(&&*table.name))
    {
        expect(
            &format!("mplsxdp_table_entries{{table=\"{}\"}}", table.name),
            table.used,
        )?;
        expect(
            &format!("mplsxdp_table_capacity{{table=\"{}\"}}", table.name),
            table.capacity,
        )?;
    }
    let next_hops: Vec<NextHopState> = router.json("neigh show")?;
    let of_state = |state| next_hops.iter().filter(|next_hop| next_hop.state == state).count() as u64;
    expect("mplsxdp_next_hops{state=\"static\"}", of_state(Resolution::Static))?;
    expect("mplsxdp_next_hops{state=\"resolved\"}", 0)?;
    expect("mplsxdp_next_hop_resolved{via=\"10.0.2.99\",dev=\"eth2\"}", 0)?;
    expect("mplsxdp_next_hop_routes{via=\"10.0.2.99\",dev=\"eth2\"}", 1)?;
    expect("mplsxdp_control_errors_total{method=\"GetRoute\"}", 1)?;
    ensure!(
        value("mplsxdp_control_calls_total{method=\"AddRoutes\"}")? >= 4,
        "too few calls"
    );
    ensure!(value("mplsxdp_event_loop_held_seconds_count")? > 10, "too few inputs");

    let open = scrape(&bench.left_netns, ADDRESS, OPEN_METRICS)?;
    ensure!(open.ends_with("\n# EOF\n"), "{open}");
    let open = samples(&open)?;
    ensure!(open.keys().eq(found.keys()), "the formats have different series");

    // An address that is not among those that may read them.
    bench.left_netns.ip("address del 10.0.1.2/24 dev eth0")?;
    bench.left_netns.ip("address add 10.0.1.77/24 dev eth0")?;
    let refused = scrape(&bench.left_netns, ADDRESS, "*/*");
    ensure!(refused.is_err(), "10.0.1.77 reads {refused:?}");
    let text = scrape(router.netns(), "127.0.0.1:9177", "*/*")?;
    let found = samples(&text)?;
    let refused = found.get("mplsxdp_metrics_refused_clients_total");
    ensure!(refused == Some(&1.0), "refused: {refused:?}");
    bench.router.unload()
}

fn unix_socket() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, peer) = (lab.netns("router")?, lab.netns("peer")?);
    link(End::new(&netns, "eth1"), End::new(&peer, "eth0"))?;
    let path = format!("{RUN_DIRECTORY}/{}.metrics", netns.name());
    let options = format!("--iface eth1 --persist --metrics unix:{path}");
    let scrape = || -> Result<String> {
        let (status, text) = http::get(UnixStream::connect(&path)?, "/metrics", OPEN_METRICS)?;
        ensure!(status == 200 && text.ends_with("# EOF\n"), "{status}: {text}");
        Ok(text)
    };
    let mode = |path: &Path| -> Result<u32> { Ok(fs::metadata(path)?.permissions().mode()) };
    let router = Router::load(&netns, &options)?;
    let control = router.socket();
    scrape()?;
    ensure!(
        mode(Path::new(&path))? == mode(&control)?,
        "others may connect than to the control socket"
    );

    let started = |text: &str| -> Result<f64> {
        let found = samples(text)?;
        let started = found.get("mplsxdp_start_time_seconds");
        started.copied().context("no start time")
    };
    let before = started(&scrape()?)?;
    router.run("upgrade")?;
    let after = wait::until("metrics after an upgrade", PATIENCE, || {
        // Between the two, nobody listens.
        let after = scrape().ok().map(|text| started(&text)).transpose()?;
        Ok(after.filter(|&after| after >= before && router.run("status").is_ok()))
    })?;
    ensure!(after >= before, "{after} {before}");

    // What a killed process leaves is replaced.
    router.stop(Signal::SIGKILL)?;
    ensure!(
        Path::new(&path).exists() && scrape().is_err(),
        "a socket without a process"
    );
    let router = Router::load(&netns, &options)?;
    scrape()?;
    // Another instance cannot take its place.
    let second = Router::load_instance(&netns, &format!("{}-2", netns.name()), &options);
    let refused = second.err().map(|error| format!("{error:#}")).unwrap_or_default();
    let reason = format!("cannot serve metrics at unix:{path}: another process serves there: name another path");
    ensure!(refused.contains(&reason), "{refused}");
    scrape()?;
    router.unload_by_command()?;
    ensure!(!Path::new(&path).exists(), "{path} is left");
    Ok(())
}

/// Asks Prometheus by HTTP.
fn query(netns: &Netns, expression: &str) -> Result<Vec<Value>> {
    let path = format!("/api/v1/query?query={}", http::encoded(expression));
    let (status, answer) = netns.within(|| http::get(TcpStream::connect("127.0.0.1:9090")?, &path, "*/*"))?;
    let answer: Value = serde_json::from_str(&answer).with_context(|| format!("{status}: {answer}"))?;
    ensure!(answer["status"] == "success", "`{expression}`: {answer}");
    answer["data"]["result"]
        .as_array()
        .cloned()
        .with_context(|| format!("no result: {answer}"))
}

/// Title and expressions of each panel, with values in the place of variables.
fn panels() -> Result<Vec<(String, Vec<String>)>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("no panels")?.iter();
    let panels = panels.filter(|panel| panel["type"] != "row").map(|panel| {
        let expression = |target: &Value| -> Result<String> {
            let text = target["expr"].as_str().context("no expression")?;
            let variables = [
                ("$instance", ".*"),
                ("$job", ".*"),
                ("$port", ".*"),
                ("$__rate_interval", "1m"),
            ];
            let text = variables
                .iter()
                .fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
            ensure!(!text.contains('$'), "an unknown variable in {text}");
            Ok(text)
        };
        let title = panel["title"].as_str().context("no title")?.to_owned();
        let targets = panel["targets"]
            .as_array()
            .with_context(|| format!("no targets in {title}"))?;
        Ok((title, targets.iter().map(expression).collect::<Result<_>>()?))
    });
    panels.collect()
}

fn tool(arguments: &[&str], input: &str) -> Result<String> {
    let mut command = prometheus("promtool");
    let piped = command.args(arguments).stdin(Stdio::piped());
    let mut child = piped.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "promtool {arguments:?}: {said}");
    Ok(said)
}

fn scraped() -> Result<()> {
    let bench = Bench::new(&format!(
        "{NATIVE} --metrics 127.0.0.1:9177 --metrics-routes 10 --sync fpm --persist"
    ))?;
    let netns = bench.router.netns().clone();
    bench.route("100 as 200")?;
    bench.router.run("route add 102 as 202 via inet 10.0.2.99")?;

    let said = tool(&["check", "metrics"], &scrape(&netns, "127.0.0.1:9177", "text/plain")?)?;
    ensure!(said.is_empty(), "promtool check metrics: {said}");
    let said = tool(&["check", "rules", RULES], "")?;
    ensure!(said.contains("SUCCESS"), "{said}");

    let folder = std::env::temp_dir().join(netns.name());
    fs::create_dir_all(&folder)?;
    let _removed = Folder(&folder);
    let config = folder.join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{RULES}']\nscrape_configs:\n- job_name: \
             mplsxdp\n  static_configs: [{{targets: ['127.0.0.1:9177']}}]\n"
        ),
    )?;
    let mut command = netns.command(&prometheus("prometheus").get_program().to_string_lossy());
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .args(["--web.listen-address=127.0.0.1:9090", "--log.level=error"]);
    let _prometheus = spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))?;

    // Until rates are known, frames of both kinds go on.
    let rates = [
        "mplsxdp_forwarded_packets_total",
        "mplsxdp_exception_packets_total{reason=\"no-route\"}",
    ];
    wait::until("rates of what is forwarded and dropped", PATIENCE, || {
        bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &v4(64)?))?;
        bench.left.send(&bench.labelled(&[Entry::new(777, 64)], &v4(64)?))?;
        // This is a call on the control socket, too.
        bench.router.run("status")?;
        let known = rates.iter().all(|series| {
            let result = query(&netns, &format!("sum(rate({series}[1m])) > 0"));
            result.is_ok_and(|result| !result.is_empty())
        });
        Ok(known.then_some(()))
    })?;
    for (title, expressions) in panels()? {
        for expression in expressions {
            let result = query(&netns, &expression).with_context(|| format!("panel `{title}`"))?;
            ensure!(!result.is_empty(), "panel `{title}` has no data: {expression}");
        }
    }
    check_alerts(&netns)?;
    bench.router.unload_by_command()
}

/// All expressions are evaluated, and those are true that should be.
fn check_alerts(netns: &Netns) -> Result<()> {
    let rules = wait::until("the evaluation of all alert rules", PATIENCE, || {
        let rules = netns.within(|| http::get(TcpStream::connect("127.0.0.1:9090")?, "/api/v1/rules", "*/*"))?;
        let answer: Value = serde_json::from_str(&rules.1)?;
        let rules = answer["data"]["groups"][0]["rules"].as_array().cloned();
        let rules = rules.with_context(|| format!("no rules: {answer}"))?;
        Ok((!rules.iter().any(|rule| rule["health"] == "unknown")).then_some(rules))
    })?;
    let mut true_ones = Vec::new();
    for rule in &rules {
        ensure!(rule["health"] == "ok", "{rule}");
        let expression = rule["query"].as_str().context("no expression")?;
        if !query(netns, expression)?.is_empty() {
            true_ones.push(rule["name"].as_str().unwrap_or_default());
        }
    }
    // A next hop that does not answer, and no routing daemon.
    ensure!(
        true_ones == ["MplsxdpNextHopUnresolved", "MplsxdpFeedDown"],
        "{true_ones:?}"
    );
    Ok(())
}

/// Removed when it is dropped.
struct Folder<'a>(&'a Path);

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

//! How fast routes of a routing daemon get into the tables, how much memory they take, and how long they hold up
//! others.
//!
//! The bench plays zebra: it sends label routes as fast as they are read. A route is in the tables once the status
//! counts it.

use std::fs;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mplsxdp::control::Instance;
use mplsxdp::control::api::Status;
use mplsxdp::control::client::Client;
use mplsxdp_tests::zebra::{Zebra, frame, lsp, swap};
use mplsxdp_tests::{End, Lab, Netns, Router, link};

pub const PORT: u16 = 2620;
const FIRST: u32 = 16;
/// Next hops, behind eth2.
pub const NEXT_HOPS: u32 = 200;
const QUIET: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two requests of the other client.
const LOOK: Duration = Duration::from_millis(1);

#[derive(clap::Args)]
pub struct Arguments {
    /// Label routes.
    #[arg(long, default_value_t = 1_000_000)]
    routes: u32,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let routes = arguments.routes;
    let lab = Lab::new()?;
    let (switch, far) = (lab.netns("switch")?, lab.netns("far")?);
    link(
        End::new(&switch, "eth1").address("10.2.255.1/16"),
        End::new(&far, "eth0").address("10.2.255.2/16"),
    )?;
    far.ip("route add local 10.2.0.0/17 dev lo")?;
    let options = format!("--iface eth1 --sync fpm --sync-quiet {}s", QUIET.as_secs());
    let router = Router::load(&switch, &options)?;
    let ifindex = switch.within(|| Ok(nix::net::if_::if_nametoindex("eth1")?))?;
    let bench = Bench { router, switch };
    let pid = bench.router.json::<Status>("status")?.pid;
    println!(
        "| {routes} label routes of zebra | time | per second | another client waits, at worst | memory | at most |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    let labels = FIRST..FIRST + routes;
    let before = replay(labels.clone(), ifindex, 0);
    let mut zebra = Zebra::connect(&bench.switch, PORT)?;
    bench.measure("sent first", routes, pid, |client| {
        zebra.say_bytes(&before)?;
        wait_for(client, u64::from(routes))
    })?;
    // The next hop is another for each.
    let after = replay(labels.clone(), ifindex, 1);
    let last = labels.end - 1;
    bench.measure("all changed", routes, pid, |_| {
        zebra.say_bytes(&after)?;
        let deadline = Instant::now() + PATIENCE;
        let shown = format!("to {} ", out_label(last, 1));
        while !bench
            .router
            .run(&format!("route --owner fpm show {last}"))?
            .contains(&shown)
        {
            ensure!(Instant::now() < deadline, "the last route has not changed");
        }
        Ok(())
    })?;
    drop(zebra);
    let mut zebra = Zebra::connect(&bench.switch, PORT)?;
    let one = replay(FIRST..FIRST + 1, ifindex, 1);
    bench.measure(
        "all but one not sent again, with 2 s of silence",
        routes,
        pid,
        |client| {
            zebra.say_bytes(&one)?;
            wait_for(client, 1)
        },
    )?;
    bench.router.unload()
}

struct Bench {
    router: Router,
    switch: Netns,
}

fn out_label(label: u32, version: u32) -> u32 {
    FIRST + (label + version) % 1_000_000
}

/// Frames of label routes with [`NEXT_HOPS`] next hops behind an interface, other ones for each version.
pub fn replay(labels: Range<u32>, ifindex: u32, version: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        let host = Ipv4Addr::from_bits(0x0a02_0001 + (label + version) % NEXT_HOPS);
        let path = swap(ifindex, host, &[out_label(label, version)]);
        frame(&[lsp(label, [path])], &mut bytes);
    }
    bytes
}

impl Bench {
    fn client(&self) -> Result<Client> {
        Ok(Client::connect(&Instance::new(self.router.instance())?)?)
    }

    fn measure(&self, name: &str, routes: u32, pid: u32, work: impl FnOnce(&mut Client) -> Result<()>) -> Result<()> {
        let (mut own, mut other) = (self.client()?, self.client()?);
        let done = AtomicBool::new(false);
        let (took, longest) = thread::scope(|scope| {
            let asking = scope.spawn(|| -> Result<Duration> {
                let mut longest = Duration::ZERO;
                while !done.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    label_routes(&mut other)?;
                    longest = longest.max(start.elapsed());
                    thread::sleep(LOOK);
                }
                Ok(longest)
            });
            let start = Instant::now();
            let result = work(&mut own);
            let took = start.elapsed();
            done.store(true, Ordering::Relaxed);
            let longest = asking.join().unwrap_or_else(|_| bail!("a panic"))?;
            result.map(|()| (took, longest))
        })?;
        println!(
            "| {name} | {:.2} s | {:.0} | {:.2} ms | {} MiB | {} MiB |",
            took.as_secs_f64(),
            f64::from(routes) / took.as_secs_f64(),
            longest.as_secs_f64() * 1000.0,
            memory(pid, "VmRSS")?,
            memory(pid, "VmHWM")?
        );
        Ok(())
    }
}

fn label_routes(client: &mut Client) -> Result<u64> {
    let status = client.call::<_, serde_json::Value>("GetStatus", &serde_json::json!({}))?;
    let count = status["status"]["label_routes"].as_u64();
    count.with_context(|| format!("no count of label routes in {status}"))
}

fn wait_for(client: &mut Client, routes: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while label_routes(client)? != routes {
        ensure!(
            Instant::now() < deadline,
            "there are not {routes} routes within {PATIENCE:?}"
        );
        thread::sleep(LOOK);
    }
    Ok(())
}

/// What /proc says that a process has, in MiB.
pub fn memory(pid: u32, what: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("no {what}"))? / 1024)
}

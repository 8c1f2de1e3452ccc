//! Labels by BGP on kernels without MPLS: ExaBGP and a small program (labs/bgp-lu/feed.py) that feeds mplsxdp over its
//! control socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use mplsxdp_tests::groups::Groups;
use mplsxdp_tests::router::program;
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::{Lab, Router, wait};

use crate::frr::{self, DEBIAN};
use crate::net::{self, Node, address, link, tapped_link};
use crate::show::{self, ask, heading, ping, shell, title};
use crate::watch::{Watch, stack};

const CONVERGENCE: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(10);
/// User and group of ExaBGP: nobody, who owns nothing.
const USER: u32 = 65534;

pub fn run(lab: &Lab) -> Result<()> {
    title("Labels by BGP, without MPLS in the kernel");
    println!(
        "
     A ================= B ================= C
  AS 65001           AS 65002            AS 65003
  10.255.0.1         10.255.0.2          10.255.0.3
         10.0.12.0/24        10.0.23.0/24

  ExaBGP on each router runs feed.py, which gives each prefix a label and puts routes into mplsxdp.
  Nobody speaks an IGP: each loopback is known by BGP-LU (RFC 8277) alone. D, AS 65004, joins at C later.
"
    );
    ensure!(
        !Path::new("/proc/sys/net/mpls").exists(),
        "this lab is for a kernel without MPLS, and this one has it"
    );
    let node = |name| Node::new(lab, name);
    let boxes = [node("A")?, node("B")?, node("C")?];
    let d = node("D")?;
    let cables = [node("A-B")?, node("B-C")?];
    let [a, b, c] = &boxes;
    tapped_link(a, &cables[0], b)?;
    tapped_link(b, &cables[1], c)?;
    for (number, node) in (1..).zip(&boxes) {
        address(node, "lo", &[&format!("10.255.0.{number}/32")])?;
    }
    address(a, "to-B", &["10.0.12.1/24"])?;
    address(b, "to-A", &["10.0.12.2/24"])?;
    address(b, "to-C", &["10.0.23.2/24"])?;
    address(c, "to-B", &["10.0.23.3/24"])?;

    heading("mplsxdp and ExaBGP on each router");
    let options = [
        "--iface to-B --local",
        "--iface to-A --iface to-C --local",
        "--iface to-B --local",
    ];
    let routers = [load(a, options[0])?, load(b, options[1])?, load(c, options[2])?];
    let mut speakers = Vec::new();
    for (node, router) in boxes.iter().zip(&routers) {
        speakers.push(Speaker::start(node, router)?);
    }
    for (own, (node, router)) in (1..).zip(boxes.iter().zip(&routers)) {
        let others: Vec<u8> = (1..=3).filter(|&number| number != own).collect();
        knows(node, router, &others)
            .map_err(|error| error.context(speakers.iter().map(Speaker::said).collect::<String>()))?;
        ask(node, router, "route show")?;
    }
    shell(a, "ip route show dev mpls0")?;

    heading("Each pings each: B takes 1 off the TTL of 64, and the end of the LSP another");
    let watches = [Watch::start(&cables[0], "mpls")?, Watch::start(&cables[1], "mpls")?];
    ping(a, "10.255.0.2", 63)?;
    ping(a, "10.255.0.3", 62)?;
    ping(c, "10.255.0.1", 62)?;
    ping(c, "10.255.0.2", 63)?;
    ping(b, "10.255.0.1", 63)?;
    ping(b, "10.255.0.3", 63)?;
    let request = ["10.255.0.1 > 10.255.0.3: ICMP echo request"];
    let [left] = watches[0].first(request)?;
    let [right] = watches[1].first(request)?;
    let (left, right) = (stack(&left), stack(&right));
    ensure!(
        matches!((&left[..], &right[..]), ([(_, 64)], [(1000, 63)])),
        "one label each, and C's own at last, were expected: {left:?}, {right:?}"
    );
    drop(watches);

    heading("C's BGP goes: its routes go everywhere, and come back with it");
    if let Some(speaker) = speakers.pop() {
        speaker.stop()?;
    }
    let prefix = "10.255.0.3/32";
    wait::until("the withdrawal of C's loopback from A", CONVERGENCE, || {
        Ok((!routers[0].run("route show")?.contains(prefix)).then_some(()))
    })?;
    ask(a, &routers[0], "route show")?;
    ensure!(
        !a.run("ip route show")?.contains("10.255.0.3"),
        "the kernel's route was to go too"
    );
    routers[2].run("route flush proto bgp")?;
    speakers.push(Speaker::start(c, &routers[2])?);
    wait::until("C's loopback on A", CONVERGENCE, || {
        Ok(routers[0].run("route show")?.contains(prefix).then_some(()))
    })?;
    wait::until("A's loopback on C", CONVERGENCE, || {
        Ok(routers[2].run("route show")?.contains("10.255.0.1/32").then_some(()))
    })?;
    ping(a, "10.255.0.3", 62)?;

    heading("Router D joins at C: a cable, an interface for mplsxdp, a neighbor for ExaBGP. A and B need nothing");
    link(c, &d)?;
    address(c, "to-D", &["10.0.34.3/24"])?;
    address(&d, "lo", &["10.255.0.4/32"])?;
    address(&d, "to-C", &["10.0.34.4/24"])?;
    ask(c, &routers[2], "link add to-D")?;
    speakers[2].add("bgp-lu/D-at-C.conf")?;
    let on_d = load(&d, "--iface to-C --local")?;
    speakers.push(Speaker::start(&d, &on_d)?);
    let said = |error: anyhow::Error| error.context(speakers.iter().map(Speaker::said).collect::<String>());
    knows(&d, &on_d, &[1, 2, 3]).map_err(said)?;
    knows(a, &routers[0], &[2, 3, 4]).map_err(said)?;
    ask(&d, &on_d, "route show")?;
    ping(a, "10.255.0.4", 61)?;
    ping(&d, "10.255.0.2", 62)?;
    drop(speakers);
    for router in routers.into_iter().chain([on_d]) {
        router.unload()?;
    }
    Ok(())
}

/// Loads mplsxdp on a router where ExaBGP's group may change routes.
fn load(node: &Node, options: &str) -> Result<Router> {
    show::command(node, &format!("mplsxdp load {options}"));
    let name = node.netns().name();
    let groups = Groups::new(name, &[("mplsxdp", USER)])?;
    let mut command = groups.command(program()?);
    command.args(["load", "-n", name, "--instance", name]);
    command.args(options.split_whitespace());
    // It has read the groups when it answers.
    Router::start(node.netns(), name, command)
}

/// Waits until a router imposes labels for the loopbacks of these routers, and its next hops have their MAC addresses.
fn knows(node: &Node, router: &Router, numbers: &[u8]) -> Result<()> {
    for number in numbers {
        let prefix = format!("10.255.0.{number}/32");
        wait::until(&format!("{prefix} on {}", node.name()), CONVERGENCE, || {
            let routes = router.run(&format!("route show {prefix}"))?;
            Ok(routes.contains("encap mpls").then_some(()))
        })?;
    }
    router.wait_resolved()
}

/// ExaBGP on a router.
struct Speaker<'a> {
    node: &'a Node,
    process: Reaped,
    configuration: PathBuf,
    log: PathBuf,
}

impl<'a> Speaker<'a> {
    fn start(node: &'a Node, router: &Router) -> Result<Self> {
        let file = format!("bgp-lu/{}.conf", node.name());
        let directory = std::env::temp_dir().join(router.instance());
        fs::create_dir_all(&directory)?;
        let configuration = directory.join("exabgp.conf");
        let feed = net::path("bgp-lu/feed.py");
        let text = net::text(&file)?
            .replace("SOCKET", &router.socket().to_string_lossy())
            .replace("FEED", &feed.to_string_lossy());
        fs::write(&configuration, text)?;
        show::command(node, &format!("exabgp {file}"));
        // As under systemd, it is not root: the group of the control socket lets feed.py use that, and ambient
        // capabilities let it add kernel routes and let ExaBGP listen on port 179.
        let mut command = if Path::new(DEBIAN).exists() {
            frr::prepare()?;
            let mut command = node.netns().command("chroot");
            command.args([DEBIAN, "setpriv"]);
            command
        } else {
            node.netns().command("setpriv")
        };
        let (user, capabilities) = (USER.to_string(), "-all,+net_admin,+net_bind_service");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
        // /usr/sbin/exabgp is a link to it, which the installation makes.
        command.args(["--bounding-set", capabilities, "/usr/sbin/python3-exabgp"]);
        let log = directory.join("exabgp.log");
        let output = fs::File::create(&log)?;
        // By default it does not listen.
        command
            .env("exabgp.tcp.bind", "0.0.0.0")
            .env("exabgp.api.cli", "false")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(Self {
            node,
            process: spawn(&mut command)?,
            configuration,
            log,
        })
    }

    /// Adds a file to its configuration, and has it read that, as `systemctl reload exabgp` does.
    fn add(&self, file: &str) -> Result<()> {
        show::command(
            self.node,
            &format!("cat {file} >> exabgp.conf; systemctl reload exabgp"),
        );
        let text = fs::read_to_string(&self.configuration)? + &net::text(file)?;
        fs::write(&self.configuration, text)?;
        self.process.signal(nix::sys::signal::Signal::SIGUSR1)
    }

    fn stop(mut self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        self.process.ended(STOP).map(drop)
    }

    /// Its log.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Speaker<'_> {
    fn drop(&mut self) {
        if let Some(directory) = self.log.parent() {
            // A leftover does no harm.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

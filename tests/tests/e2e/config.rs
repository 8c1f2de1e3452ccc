//! The configuration of a running instance: shown, checked, loaded again; and its file in `status` and `instances`.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{Link, Status};
use mplsxdp_tests::groups::Groups;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::router::program;
use mplsxdp_tests::{End, Lab, Netns, Router, link, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{test, test_with};

pub fn tests() -> Vec<Trial> {
    vec![
        test("config::what_is_shown_loads_to_the_same_state", round_trip),
        test("config::all_that_would_keep_it_from_loading_is_reported_at_once", check),
        test("config::a_check_warns_of_what_a_load_would_warn_of", check_warnings),
        test(
            "config::a_check_tries_the_sources_of_routes_as_a_load_does",
            check_sources,
        ),
        test("config::kernel_routes_come_and_go_with_the_instance", kernel_routes),
        test("config::instances_and_status_tell_where_they_run", instances),
        test_with(
            "config::an_instance_that_this_user_must_not_ask_is_not_in_the_way",
            Some(Need::Program("setpriv", "util-linux")),
            denied,
        ),
        test("config::a_hard_limit_of_few_descriptors_is_an_error", few_descriptors),
    ]
}

const PATIENCE: Duration = Duration::from_secs(10);

struct Bench {
    netns: Netns,
    folder: PathBuf,
    peer: Netns,
    _lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (netns, peer) = (lab.netns("router")?, lab.netns("peer")?);
        for number in 1..=4 {
            let (near, far) = (format!("eth{number}"), format!("far{number}"));
            let near = End::new(&netns, &near);
            let address = format!("10.0.{number}.1/24");
            link(near.address(&address), End::new(&peer, &far))?;
        }
        let folder = std::env::temp_dir().join(netns.name());
        fs::create_dir_all(&folder)?;
        Ok(Self {
            netns,
            folder,
            peer,
            _lab: lab,
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// `mplsxdp load --check`: exit code, standard output and standard error.
    fn check(&self, options: &str) -> Result<(Option<i32>, String, String)> {
        let name = self.netns.name();
        let mut command = Command::new(program()?);
        command.args(["load", "--check", "-n", name, "--instance", name]);
        let output = command.args(options.split_whitespace()).output()?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn round_trip() -> Result<()> {
    let bench = Bench::new()?;
    let routes = bench.write("first.routes", "300 as 310 via inet 10.0.1.9\n")?;
    let first = bench.write(
        "first.toml",
        &format!(
            r#"
            iface = ["eth1", "eth2"]
            local = "own"
            kernel-route = ["10.44.0.0/16"]
            hold = 7
            hash-seed = 5
            icmp-source = ["10.0.1.1"]
            checksum = ["trust", "eth2=finish"]
            routes = ["100 as 110 via inet 10.0.1.2", "10.4.0.0/16 nexthop encap mpls 100 via inet 10.0.1.2 nexthop encap mpls 200 via inet 10.0.2.2"]
            routes-file = "{routes}"
            "#
        ),
    )?;
    let router = Router::load(&bench.netns, &format!("--config {first}"))?;
    router.run("link add eth3 tx-only checksum trust")?;
    router.run("link add eth4.100")?;
    router.run("link set eth1 mpls off")?;
    router.run("link del eth2")?;
    router.run("route add 200 dev lo")?;
    router.run("route del 100")?;
    let shown = router.run("config show")?;
    for part in [
        "hold = 7\n",
        "hash-seed = 5\n",
        r#"iface = ["eth1", "eth4.100"]"#,
        r#"tx-only = ["eth3"]"#,
        r#"mpls-off = ["eth1"]"#,
        r#"kernel-route = ["10.44.0.0/16"]"#,
        r#"local = "own""#,
        "\"200 dev lo",
        "\"300 as to 310 via inet 10.0.1.9",
        "\"10.4.0.0/16 ",
    ] {
        ensure!(shown.contains(part), "{part}: {shown}");
    }
    for part in ["routes-file", "eth2\"", "\"100 as", "labels"] {
        ensure!(!shown.contains(part), "{part}: {shown}");
    }
    let (links, routes) = (state_of_links(&router)?, router.run("route save")?);
    // The ports of the running instance are not an obstacle.
    let second = bench.write("second.toml", &shown)?;
    let (code, out, err) = bench.check(&format!("--config {second}"))?;
    ensure!(
        code == Some(0) && out.contains("ports 3 routes 3: it can be loaded"),
        "{out}{err}"
    );
    router.unload()?;
    let (code, out, err) = bench.check(&format!("--config {second}"))?;
    ensure!(code == Some(0), "{out}{err}");
    let router = Router::load(&bench.netns, &format!("--config {second}"))?;
    ensure!(
        router.run("config show")? == shown,
        "{shown} has become {}",
        router.run("config show")?
    );
    ensure!(
        state_of_links(&router)? == links && router.run("route save")? == routes,
        "{routes}"
    );
    let json: Value = router.json("config show")?;
    ensure!(
        json["hold"] == 7 && json["routes"].as_array().is_some_and(|routes| routes.len() == 3),
        "{json}"
    );
    router.unload()
}

/// For each port: its name, whether it accepts labels, whether it is only sent to, and how it treats checksums.
fn state_of_links(router: &Router) -> Result<Vec<(String, bool, bool, String)>> {
    let links: Vec<Link> = router.json("link show")?;
    let state = |link: Link| (link.ifname, link.mpls, link.tx_only, format!("{:?}", link.checksum));
    Ok(links.into_iter().map(state).collect())
}

fn check() -> Result<()> {
    let bench = Bench::new()?;
    bench.netns.ip("link add own type veth peer name other")?;
    let file = bench.write(
        "wrong.toml",
        "iface = [\"eth1\", \"nowhere\", \"lo\"]\ntx-only = [\"eth1\"]\nlocal = \"own\"\nhold = 5000\nroutes = [\"7 as 8\"]\n",
    )?;
    let before = bench.netns.ip("link show")?;
    let (code, out, err) = bench.check(&format!("--config {file}"))?;
    ensure!(code == Some(1) && out.is_empty(), "{code:?} {out}{err}");
    let parts = [
        format!("{file}:4:8: `hold`: invalid value: integer `5000`, expected a number, 0 to 1024"),
        format!("{file}:5:"),
        format!("{file}:2:12: `eth1` is in `iface` and in `tx-only`"),
        "nowhere".to_owned(),
        "lo".to_owned(),
        "there is an interface own already".to_owned(),
    ];
    for part in parts {
        ensure!(err.lines().any(|line| line.contains(&part)), "{part}: {err}");
    }
    // Options on the command line count, and interfaces to wait for may be missing.
    let (code, _, err) = bench.check("--iface eth1 --iface nowhere --counter-slots 1 --groups 1 --wait")?;
    ensure!(code == Some(0), "{err}");
    let many = bench.write(
        "many.toml",
        r#"
        iface = ["eth1"]
        groups = 1
        routes = ["100 nexthop via inet 10.0.1.2 nexthop via inet 10.0.1.3", "101 nexthop via inet 10.0.1.2 nexthop via inet 10.0.1.4"]
        "#,
    )?;
    let (code, _, err) = bench.check(&format!("--config {many}"))?;
    ensure!(
        code == Some(1) && err.contains("the configured route `101 ") && err.contains("group"),
        "{err}"
    );
    let missing = bench.check("--config /nonexistent.toml")?;
    ensure!(
        missing.0 == Some(1) && missing.2.contains("/nonexistent.toml: No such file"),
        "{missing:?}"
    );
    ensure!(bench.netns.ip("link show")? == before, "something was changed");
    Ok(())
}

/// A check gives the warnings of a load.
fn check_warnings() -> Result<()> {
    let bench = Bench::new()?;
    bench.netns.ip("link set eth4 down")?;
    let file = bench.write(
        "warns.toml",
        r#"
        iface = ["eth1", "eth4"]
        icmp-source = ["192.0.2.7"]
        routes = [
            "100 as 110 via inet 10.0.1.2",
            "101 as 111 via inet 10.0.2.2",
            "102 as 112 via inet 192.0.2.99",
            "103 as 113 via inet 10.0.1.1",
            "104 as 114 via inet 10.0.1.3 dev eth3",
            "105 as 115 via inet 10.0.4.2",
            "106 as 116 via inet 10.0.1.4 dev nowhere",
        ]
        "#,
    )?;
    let warnings = [
        "--icmp-source 192.0.2.7 is not an address of this machine",
        "the route of 101 waits: via inet 10.0.2.2: eth2 is not a port",
        "the route of 102 waits: via inet 192.0.2.99: the kernel has no route",
        "the route of 103 waits: via inet 10.0.1.1: 10.0.1.1 is an address of this",
        "the route of 104 waits: via inet 10.0.1.3 dev eth3: eth3 is not a port",
        "the route of 105 waits: via inet 10.0.4.2: 10.0.4.2 is in the network of eth4, but eth4 is down",
        "the route of 106 waits: via inet 10.0.1.4 dev nowhere: there is no interface nowhere",
    ];
    let before = bench.netns.ip("link show")?;
    let check = || -> Result<()> {
        let (code, out, err) = bench.check(&format!("--config {file}"))?;
        ensure!(
            code == Some(0) && out.contains("ports 2 routes 7: it can be loaded"),
            "{out}{err}"
        );
        for warning in warnings {
            ensure!(err.contains(warning), "{warning}: {err}");
        }
        ensure!(!err.contains("the route of 100 "), "{err}");
        Ok(())
    };
    check()?;
    ensure!(bench.netns.ip("link show")? == before, "--check has changed something");
    // A load says the same, and the running instance is not an obstacle for another check.
    let router = Router::load(&bench.netns, &format!("--config {file}"))?;
    let said = router.said_at_load()?;
    for warning in warnings {
        ensure!(said.contains(warning), "{warning}: {said}");
    }
    check()?;
    router.unload()
}

/// A check and a load say the same of `--sync` and `--sync-table`.
fn check_sources() -> Result<()> {
    let bench = Bench::new()?;
    let refused = |options: &str, error: &str| -> Result<()> {
        let (code, _, err) = bench.check(options)?;
        ensure!(
            code == Some(1) && err == format!("mplsxdp: {error}\n"),
            "{options}: {err}"
        );
        let load = Router::load(&bench.netns, options).err();
        let said = format!("{:#}", load.with_context(|| format!("{options} was loaded"))?);
        ensure!(said.contains(error), "{options}: {said}");
        Ok(())
    };
    // As in a new namespace.
    bench.netns.ip("address flush dev lo")?;
    bench.netns.ip("link set lo down")?;
    let (local, foreign) = ("--iface eth1 --sync fpm", "--iface eth1 --sync fpm:192.0.2.9:2621");
    refused(
        local,
        "cannot wait for a routing daemon on 127.0.0.1:2620: 127.0.0.1 is not an address of this network namespace; \
         `ip link set lo up` makes it one",
    )?;
    refused(
        foreign,
        "cannot wait for a routing daemon on 192.0.2.9:2621: 192.0.2.9 is not an address of this network namespace; \
         `ip address` lists those that are",
    )?;
    bench.netns.ip("link set lo up")?;
    let listener = bench.netns.within(|| Ok(TcpListener::bind("127.0.0.1:2620")?))?;
    refused(
        local,
        "cannot wait for a routing daemon on 127.0.0.1:2620: another program listens there (`ss -ltnp sport = :2620` \
         names it); choose another port: `--sync fpm:PORT`, and `fpm address 127.0.0.1 port PORT` in FRR",
    )?;
    drop(listener);
    let options = "--iface eth1 --sync fpm --sync kernel --sync-table main --sync-table red --sync-table eth2";
    let warnings = [
        "--sync-table red: there is no VRF `red`; `ip link add NAME type vrf table N` makes one; its routes are followed once",
        "--sync-table eth2: `eth2` is not a VRF;",
    ];
    let check = || -> Result<String> {
        let (code, out, err) = bench.check(options)?;
        ensure!(code == Some(0) && out.contains("it can be loaded"), "{out}{err}");
        Ok(err)
    };
    let checked = check()?;
    let router = Router::load(&bench.netns, options)?;
    let said = router.said_at_load()?;
    for warning in warnings {
        ensure!(checked.contains(warning), "{warning}: {checked}");
        ensure!(said.contains(warning), "{warning}: {said}");
    }
    // Whether it has MPLS, and accepts labels, is said of the kernel as it is.
    for warning in ["the kernel has no MPLS", "the kernel accepts no labels here"] {
        ensure!(
            checked.contains(warning) == router.said().contains(warning),
            "{warning}: {checked}{}",
            router.said()
        );
    }
    // The running instance is not in the way; one of another name is.
    check()?;
    let another = Router::load_instance(&bench.netns, &format!("{}-second", bench.netns.name()), local).err();
    let said = format!("{:#}", another.context("a second one was loaded")?);
    ensure!(said.contains("another program listens there"), "{said}");
    router.unload()
}

fn kernel_routes() -> Result<()> {
    let bench = Bench::new()?;
    let ours = |family: &str| bench.netns.ip(&format!("{family} route show proto 77"));
    let text = |routes: &str| format!("iface = [\"eth1\"]\nlocal = true\nkernel-route = [{routes}]\n");
    let file = bench.write(
        "f.toml",
        &text("\"10.44.0.0/16\", \"2.2.2.2/32 src 1.1.1.1\", \"2001:db8:4::/48\""),
    )?;
    let router = Router::load(&bench.netns, &format!("--config {file}"))?;
    ensure!(
        ours("-4")?.trim() == "10.44.0.0/16 dev mpls0 scope link",
        "{}",
        ours("-4")?
    );
    ensure!(ours("-6")?.starts_with("2001:db8:4::/48 dev mpls0"), "{}", ours("-6")?);
    ensure!(
        router
            .said()
            .contains("the kernel refuses the route until 1.1.1.1 is an address of this machine"),
        "{}",
        router.said()
    );
    bench.netns.ip("address add 1.1.1.1/32 dev lo")?;
    wait::until("the route from the new address", PATIENCE, || {
        Ok(ours("-4")?.contains("2.2.2.2 dev mpls0").then_some(()))
    })?;
    bench.write("f.toml", &text("\"2.2.2.2/32 src 1.1.1.1\""))?;
    router.signal(Signal::SIGHUP)?;
    wait::until("the removal of a route", PATIENCE, || {
        let (four, six) = (ours("-4")?, ours("-6")?);
        let done = !four.contains("10.44.0.0/16") && six.is_empty() && four.contains("2.2.2.2");
        Ok(done.then_some(()))
    })?;
    router.unload()?;
    ensure!(ours("-4")?.is_empty(), "{}", ours("-4")?);
    Ok(())
}

fn instances() -> Result<()> {
    let bench = Bench::new()?;
    let name = bench.netns.name();
    let file = bench.write("f.toml", "iface = [\"eth1\"]\nwait = true\ntx-only = [\"coming\"]\n")?;
    let router = Router::load(&bench.netns, &format!("--config {file}"))?;
    let second = format!("{name}-second");
    let other = Router::load_instance(&bench.netns, &second, "--iface eth2")?;
    let status: Status = router.json("status")?;
    ensure!(status.netns.as_deref() == Some(name), "{status:?}");
    ensure!(status.config_file.as_ref() == Some(&file), "{status:?}");
    ensure!(status.ports == Some(vec!["eth1".into(), "coming".into()]), "{status:?}");
    let text = router.run("status")?;
    ensure!(
        text.contains("\n    ports eth1 coming\n") && text.contains(&format!("netns {name} config {file}\n")),
        "{text}"
    );
    // Other instances may run on this machine.
    let listed: Value = router.json("instances")?;
    let ours = |wanted: &str| {
        let mut instances = listed.as_array().into_iter().flatten();
        instances
            .find(|instance| instance["name"] == wanted)
            .with_context(|| format!("{wanted} in {listed}"))
    };
    let first = ours(name)?;
    ensure!(
        first["netns"] == name && first["ports"][0] == "eth1" && first["config_file"] == *file,
        "{first}"
    );
    ensure!(
        first["pid"] == status.pid && first["since"].as_str() == status.since.as_deref(),
        "{first}"
    );
    ensure!(
        ours(&second)?["ports"][0] == "eth2" && ours(&second)?.get("config_file").is_none(),
        "{listed}"
    );
    other.stop(Signal::SIGTERM)?;
    router.unload()
}

/// Another user's socket of another instance does not matter for this one.
fn denied() -> Result<()> {
    const NOBODY: &str = "65534";

    let bench = Bench::new()?;
    let name = bench.netns.name();
    let copy = bench.folder.join("mplsxdp");
    fs::copy(program()?, &copy)?;
    // One that comes first, and one that comes last.
    let (first, last) = (format!("a-{name}"), format!("z-{name}"));
    let groups = Groups::new(name, &[("mplsxdp-view", NOBODY.parse()?)])?;
    let mut command = groups.command(program()?);
    command.args(["load", "-n", name, "--instance", name, "--iface", "eth1"]);
    let router = Router::start(&bench.netns, name, command)?;
    let others = [(&first, "eth2"), (&last, "eth3")];
    let others = others.map(|(other, port)| Router::load_instance(&bench.netns, other, &format!("--iface {port}")));
    let others = others.into_iter().collect::<Result<Vec<_>>>()?;
    let run = |netns: &str| {
        let user = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
        Command::new("setpriv")
            .args(user)
            .arg(&copy)
            .args(["-n", netns, "status"])
            .output()
    };
    let output = run(name)?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success() && out.starts_with(&format!("instance {name} ")),
        "{out}{err}"
    );
    // It cannot know whether an instance that it must not ask runs elsewhere.
    let output = run(bench.peer.name())?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(
        err.contains("cannot find out which instance runs in the network namespace"),
        "{err}"
    );
    for other in others {
        ensure!(err.contains(&other.socket().display().to_string()), "{err}");
        other.stop(Signal::SIGTERM)?;
    }
    router.unload()
}

fn few_descriptors() -> Result<()> {
    let bench = Bench::new()?;
    let name = bench.netns.name();
    for limit in 4..=26 {
        let script = format!("ulimit -n {limit} && exec \"$0\" load -n {name} --instance {name} --iface eth1");
        let output = Command::new("sh").args(["-c", &script]).arg(program()?).output()?;
        let err = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{limit}: {}: {err}", output.status);
        ensure!(!err.contains("panicked"), "{limit}: {err}");
        // With fewer than these, the dynamic linker itself fails, in words of its own.
        if limit >= 6 {
            ensure!(err.contains("`ulimit -n 65536`"), "{limit}: {err}");
        }
    }
    Ok(())
}

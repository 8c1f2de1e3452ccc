//! The .deb in a Debian that runs systemd: what is there after it is installed, what an upgrade and a restart cost in
//! frames, and what is left after it is removed and purged. `cargo xtask guest package` runs this in a guest that has two
//! packages of different revisions.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mplsxdp_tests::numbered::Numbered;
use mplsxdp_tests::transit::{LEFT, RIGHT, Transit};
use mplsxdp_tests::{Lab, wait};

use crate::show::heading;

/// The package, and the same with a higher revision.
const FIRST: &str = "/packages/first.deb";
const SECOND: &str = "/packages/second.deb";
/// Without a terminal, there is no progress to show.
const APT: &str = "apt-get --option Dpkg::Use-Pty=0";
const UNIT: &str = "mplsxdp@lab";
const CONFIG: &str = "/etc/mplsxdp/lab.toml";
/// A route that a client adds.
const ADDED: &str = "700 as 710 via inet 10.0.2.2";
const INTERVAL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the package, the unit and the program put files.
const PLACES: [&str; 6] = ["/etc", "/usr", "/var/lib", "/run/mplsxdp", "/sys/fs/bpf", "/tmp"];
/// Beneath them, what package managers and systemd write about every package.
const OF_OTHERS: [&str; 6] = [
    "/etc/group-",
    "/etc/gshadow-",
    "/var/lib/apt/",
    "/var/lib/dpkg/",
    "/var/lib/systemd/",
    "/etc/.pwd.lock",
];

pub fn run(lab: &Lab) -> Result<()> {
    ensure!(
        Path::new(FIRST).exists(),
        "there is no {FIRST}: `cargo xtask guest package` runs this in a guest"
    );
    wait::until("systemd", PATIENCE, || {
        let state = either_way("systemctl is-active multi-user.target")?;
        Ok((state == "active\n").then_some(()))
    })?;
    let net = Transit::new(lab)?;
    let before = files()?;
    install()?;
    start(&net)?;
    upgrade(&net)?;
    refused_upgrade(&net)?;
    restart_and_stop(&net)?;
    remove(&net)?;
    purge(&net, &before)
}

fn install() -> Result<()> {
    heading("Installed: nothing runs yet, and the config file sets nothing");
    shell(&format!("{APT} install --yes {FIRST}"))?;
    shell("mplsxdp --version")?;
    shell("getent group mplsxdp mplsxdp-view")?;
    expect("systemctl is-enabled mplsxdp@.service", "disabled\n")?;
    expect("stat --format %U:%G:%a /run/mplsxdp", "root:root:755\n")?;
    expect(
        "dpkg-query --show --showformat '${Conffiles}\\n' mplsxdp | tr -d '\\n' | cut -d ' ' -f 2",
        "/etc/mplsxdp/default.toml\n",
    )?;
    ensure!(
        either_way("systemctl list-units --no-legend mplsxdp@*")?.is_empty(),
        "a unit is there"
    );
    ensure!(shell("mplsxdp instances")?.is_empty(), "an instance runs");
    let refusal = either_way("mplsxdp load --config /etc/mplsxdp/default.toml")?;
    ensure!(refusal.contains("no interface: name at least one"), "{refusal}");
    Ok(())
}

fn start(net: &Transit) -> Result<()> {
    heading("An instance with a file of its own is enabled and started");
    configure(net, "")?;
    shell(&format!("cat {CONFIG}"))?;
    shell(&format!("systemctl enable --now {UNIT}"))?;
    shell(&format!("mplsxdp --instance lab route add {ADDED}"))?;
    shell("mplsxdp instances")?;
    shell("systemd-analyze --no-pager security mplsxdp@lab | tail -n 1")?;
    wait_resolved()?;
    Ok(())
}

fn upgrade(net: &Transit) -> Result<()> {
    heading("Upgraded under traffic: the process goes on with the new program");
    let (pid, file) = (main_pid()?, inode(&main_pid()?)?);
    let traffic = send(net)?;
    let said = shell(&format!("{APT} install --yes {SECOND}"))?;
    ensure!(said.contains(&format!("in process {pid}")), "{said}");
    wait_resolved()?;
    whole("the upgrade", traffic)?;
    ensure!(main_pid()? == pid, "another process: {} instead of {pid}", main_pid()?);
    ensure!(inode(&pid)? != file, "the process still has the old file");
    expect(
        "dpkg-query --show --showformat '${Version}\\n' mplsxdp | sed s/.*-//",
        "2\n",
    )?;
    ensure!(
        shell("mplsxdp --instance lab route show 700")?.contains("710"),
        "the added route is gone"
    );
    Ok(())
}

fn refused_upgrade(net: &Transit) -> Result<()> {
    heading("A version that cannot take over: here because the config file has an error");
    let (pid, file) = (main_pid()?, inode(&main_pid()?)?);
    configure(net, "hold = 2000\n")?;
    let traffic = send(net)?;
    let said = shell(&format!("{APT} install --yes --allow-downgrades {FIRST}"))?;
    ensure!(
        said.contains(&format!("{CONFIG}:2:8: ")) && said.contains("instance lab is not upgraded"),
        "{said}"
    );
    whole("the refused downgrade", traffic)?;
    ensure!(main_pid()? == pid && inode(&pid)? == file, "it was replaced");
    configure(net, "")?;
    shell(&format!("{APT} install --yes {SECOND}"))?;
    ensure!(main_pid()? == pid && inode(&pid)? != file, "it was not replaced");
    wait_resolved()
}

fn restart_and_stop(net: &Transit) -> Result<()> {
    heading("Restarted under traffic, and stopped: the ports go on forwarding");
    let pid = main_pid()?;
    let traffic = send(net)?;
    shell(&format!("systemctl restart {UNIT}"))?;
    wait_resolved()?;
    whole("the restart", traffic)?;
    ensure!(main_pid()? != pid, "the same process");
    let traffic = send(net)?;
    shell(&format!("systemctl stop {UNIT}"))?;
    whole("the stop", traffic)?;
    shell(&format!("systemctl start {UNIT}"))?;
    wait_resolved()
}

fn remove(net: &Transit) -> Result<()> {
    heading("Removed: forwarding ends, the configuration and saved routes stay");
    let pid = main_pid()?;
    let said = shell(&format!("{APT} remove --yes mplsxdp"))?;
    ensure!(said.contains("removed from eth1, eth2"), "{said}");
    ensure_nothing_left(net)?;
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "the process runs");
    for (path, stays) in [
        (CONFIG, true),
        ("/etc/mplsxdp/default.toml", true),
        ("/var/lib/mplsxdp/lab", true),
        ("/usr/bin/mplsxdp", false),
        ("/usr/lib/systemd/system/mplsxdp@.service", false),
        ("/run/mplsxdp", false),
    ] {
        ensure!(
            Path::new(path).exists() == stays,
            "{path}: {}",
            if stays { "is gone" } else { "is there" }
        );
    }
    heading("Installed again: the instance goes on where it was");
    shell(&format!("{APT} install --yes {FIRST}"))?;
    shell(&format!("systemctl start {UNIT}"))?;
    wait_resolved()?;
    ensure!(
        shell("mplsxdp --instance lab route show 700")?.contains("710"),
        "the added route is gone"
    );
    let traffic = send(net)?;
    std::thread::sleep(Duration::from_millis(500));
    whole("no change", traffic)
}

fn purge(net: &Transit, before: &BTreeSet<String>) -> Result<()> {
    heading("Purged: nothing is left but the groups");
    shell(&format!("{APT} purge --yes mplsxdp"))?;
    ensure_nothing_left(net)?;
    let left: Vec<_> = files()?.difference(before).cloned().collect();
    ensure!(left.is_empty(), "left: {left:?}");
    expect(
        "getent group mplsxdp mplsxdp-view | cut -d : -f 1",
        "mplsxdp\nmplsxdp-view\n",
    )?;
    ensure!(
        either_way("systemctl list-units --all --no-legend mplsxdp@*")?.is_empty(),
        "systemd has a unit"
    );
    let running = either_way("find /proc -maxdepth 2 -name exe -lname /usr/bin/mplsxdp* 2>/dev/null")?;
    ensure!(running.is_empty(), "{running}");
    Ok(())
}

fn configure(net: &Transit, options: &str) -> Result<()> {
    let text = format!(
        "netns = \"{}\"\n{options}iface = [\"eth1\", \"eth2\"]\nroutes = {:#?}\n",
        net.router.name(),
        net.routes()?
    );
    Ok(fs::write(CONFIG, text)?)
}

/// A flow of each route, the added one included.
fn send(net: &Transit) -> Result<Numbered> {
    let mut flows = net.flows()?;
    flows.add([LEFT, RIGHT], "10.9.0.1", [Some(700), Some(710)])?;
    Ok(flows.start(INTERVAL))
}

fn ensure_nothing_left(net: &Transit) -> Result<()> {
    let links = net.router.ip("link show")?;
    ensure!(!links.contains("xdp"), "{links}");
    let neighbours = net.router.ip("neigh show")?;
    ensure!(!neighbours.contains("managed"), "{neighbours}");
    let pins = either_way("find /sys/fs/bpf -mindepth 1 -name *mplsxdp*")?;
    ensure!(pins.is_empty(), "{pins}");
    Ok(())
}

fn whole(what: &str, traffic: Numbered) -> Result<()> {
    let counts = traffic.stop()?;
    println!("{what}: {counts}");
    counts.ensure_whole().with_context(|| what.to_owned())
}

fn wait_resolved() -> Result<()> {
    wait::until("resolved next hops", PATIENCE, || {
        let next_hops = either_way("mplsxdp --instance lab neigh")?;
        let is_resolved = |line: &str| [" resolved ", " static "].iter().any(|state| line.contains(state));
        let is_resolved = !next_hops.is_empty() && next_hops.lines().all(is_resolved);
        Ok(is_resolved.then_some(()))
    })
}

fn main_pid() -> Result<String> {
    let pid = either_way(&format!("systemctl show --property=MainPID --value {UNIT}"))?;
    Ok(pid.trim().to_owned())
}

/// The file that a process runs.
fn inode(pid: &str) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let path = format!("/proc/{pid}/exe");
    Ok(fs::metadata(&path).with_context(|| path)?.ino())
}

/// Every file, folder and link in the places.
fn files() -> Result<BTreeSet<String>> {
    let listed = either_way(&format!("find {} -xdev", PLACES.join(" ")))?;
    let is_of_others = |path: &str| OF_OTHERS.iter().any(|other| path.starts_with(other));
    Ok(listed
        .lines()
        .filter(|path| !is_of_others(path))
        .map(str::to_owned)
        .collect())
}

/// A command as root types it, shown with what it prints, which is the result. It must succeed.
fn shell(line: &str) -> Result<String> {
    let (text, succeeded) = shown(line)?;
    if !succeeded {
        bail!("`{line}` failed");
    }
    Ok(text)
}

/// A command with this output, whether it succeeds or not.
fn expect(line: &str, expected: &str) -> Result<()> {
    let (text, _) = shown(line)?;
    ensure!(text == expected, "`{line}`: {expected:?} was expected");
    Ok(())
}

fn shown(line: &str) -> Result<(String, bool)> {
    println!("# {line}");
    let (text, succeeded) = execute(line)?;
    print!("{text}");
    Ok((text, succeeded))
}

/// What a command prints, which may fail and is not shown.
fn either_way(line: &str) -> Result<String> {
    Ok(execute(line)?.0)
}

fn execute(line: &str) -> Result<(String, bool)> {
    let output = Command::new("sh")
        .args(["-c", &format!("set -f; {{ {line}; }} 2>&1")])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()?;
    Ok((
        String::from_utf8_lossy(&output.stdout).into_owned(),
        output.status.success(),
    ))
}

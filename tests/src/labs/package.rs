//! The .deb in a Debian that runs systemd: what is there after it is installed, what an upgrade and a restart cost in
//! frames, and what is left after it is removed and purged. `cargo xtask guest package` runs this in a guest that has two
//! packages of different revisions.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mplsxdp_common::wire::ETH_P_IP;
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use mplsxdp_tests::numbered::{Flow, MARK, Numbered};
use mplsxdp_tests::{End, Lab, Netns, Tap, link, wait};

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
    let before = files()?;
    install()?;
    let net = Net::new(lab)?;
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

fn start(net: &Net) -> Result<()> {
    heading("An instance with a file of its own is enabled and started");
    net.configure("")?;
    shell(&format!("cat {CONFIG}"))?;
    shell(&format!("systemctl enable --now {UNIT}"))?;
    shell(&format!("mplsxdp --instance lab route add {ADDED}"))?;
    shell("mplsxdp instances")?;
    shell("systemd-analyze --no-pager security mplsxdp@lab | tail -n 1")?;
    wait_resolved()?;
    Ok(())
}

fn upgrade(net: &Net) -> Result<()> {
    heading("Upgraded under traffic: the process goes on with the new program");
    let (pid, file) = (main_pid()?, inode(&main_pid()?)?);
    let traffic = net.traffic()?;
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

fn refused_upgrade(net: &Net) -> Result<()> {
    heading("A version that cannot take over: here because the config file has an error");
    let (pid, file) = (main_pid()?, inode(&main_pid()?)?);
    net.configure("hold = 2000\n")?;
    let traffic = net.traffic()?;
    let said = shell(&format!("{APT} install --yes --allow-downgrades {FIRST}"))?;
    ensure!(
        said.contains(&format!("{CONFIG}:2:8: ")) && said.contains("instance lab is not upgraded"),
        "{said}"
    );
    whole("the refused downgrade", traffic)?;
    ensure!(main_pid()? == pid && inode(&pid)? == file, "it was replaced");
    net.configure("")?;
    shell(&format!("{APT} install --yes {SECOND}"))?;
    ensure!(main_pid()? == pid && inode(&pid)? != file, "it was not replaced");
    wait_resolved()
}

fn restart_and_stop(net: &Net) -> Result<()> {
    heading("Restarted under traffic, and stopped: the ports go on forwarding");
    let pid = main_pid()?;
    let traffic = net.traffic()?;
    shell(&format!("systemctl restart {UNIT}"))?;
    wait_resolved()?;
    whole("the restart", traffic)?;
    ensure!(main_pid()? != pid, "the same process");
    let traffic = net.traffic()?;
    shell(&format!("systemctl stop {UNIT}"))?;
    whole("the stop", traffic)?;
    shell(&format!("systemctl start {UNIT}"))?;
    wait_resolved()
}

fn remove(net: &Net) -> Result<()> {
    heading("Removed: forwarding ends, the configuration and saved routes stay");
    let pid = main_pid()?;
    let said = shell(&format!("{APT} remove --yes mplsxdp"))?;
    ensure!(said.contains("removed from eth1, eth2"), "{said}");
    net.ensure_nothing_left()?;
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
    let traffic = net.traffic()?;
    std::thread::sleep(Duration::from_millis(500));
    whole("no change", traffic)
}

fn purge(net: &Net, before: &BTreeSet<String>) -> Result<()> {
    heading("Purged: nothing is left but the groups");
    shell(&format!("{APT} purge --yes mplsxdp"))?;
    net.ensure_nothing_left()?;
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

/// A router between two hosts.
struct Net {
    left: Netns,
    router: Netns,
    right: Netns,
}

impl Net {
    fn new(lab: &Lab) -> Result<Self> {
        let net = Self {
            left: lab.netns("left")?,
            router: lab.netns("router")?,
            right: lab.netns("right")?,
        };
        link(
            End::new(&net.left, "eth0").address("10.0.1.2/24"),
            End::new(&net.router, "eth1").address("10.0.1.1/24"),
        )?;
        link(
            End::new(&net.router, "eth2").address("10.0.2.1/24"),
            End::new(&net.right, "eth0").address("10.0.2.2/24"),
        )?;
        Ok(net)
    }

    fn configure(&self, options: &str) -> Result<()> {
        let text = format!(
            "netns = \"{}\"\n{options}iface = [\"eth1\", \"eth2\"]\nroutes = [\n    \"100 as 110 via inet 10.0.2.2\",\n    \
             \"400 via inet 10.0.2.2\",\n    \"500 as 510 via inet 10.0.1.2\",\n    \
             \"10.9.0.0/16 encap mpls 600 via inet 10.0.2.2\",\n]\n",
            self.router.name()
        );
        Ok(fs::write(CONFIG, text)?)
    }

    /// A swap, a pop, a swap in the other direction, an imposition, and a swap by the added route.
    fn traffic(&self) -> Result<Numbered> {
        let taps = vec![Tap::open(&self.left, "eth0")?, Tap::open(&self.right, "eth0")?];
        let [left, right] = [taps[0].mac(), taps[1].mac()];
        let [eth1, eth2] = [self.router.mac("eth1")?, self.router.mac("eth2")?];
        let packet = |ttl| udp("10.0.1.2".parse()?, "10.9.0.1".parse()?, ttl, MARK);
        let swap = |from, to| -> Result<Flow> {
            Ok(Flow {
                from: 0,
                to: 1,
                sent: labelled(eth1, left, &[Entry::new(from, 64)], &packet(64)?),
                expected: labelled(right, eth2, &[Entry::new(to, 63)], &packet(64)?),
            })
        };
        let flows = vec![
            swap(100, 110)?,
            swap(700, 710)?,
            Flow {
                expected: ethernet(right, eth2, ETH_P_IP, &packet(63)?),
                ..swap(400, 0)?
            },
            Flow {
                from: 1,
                to: 0,
                sent: labelled(eth2, right, &[Entry::new(500, 9)], &packet(64)?),
                expected: labelled(left, eth1, &[Entry::new(510, 8)], &packet(64)?),
            },
            Flow {
                sent: ethernet(eth1, left, ETH_P_IP, &packet(64)?),
                expected: labelled(right, eth2, &[Entry::new(600, 63)], &packet(63)?),
                ..swap(0, 0)?
            },
        ];
        Ok(Numbered::start(taps, flows, INTERVAL))
    }

    fn ensure_nothing_left(&self) -> Result<()> {
        let links = self.router.ip("link show")?;
        ensure!(!links.contains("xdp"), "{links}");
        let neighbours = self.router.ip("neigh show")?;
        ensure!(!neighbours.contains("managed"), "{neighbours}");
        let pins = either_way("find /sys/fs/bpf -mindepth 1 -name *mplsxdp*")?;
        ensure!(pins.is_empty(), "{pins}");
        Ok(())
    }
}

fn whole(what: &str, traffic: Numbered) -> Result<()> {
    let counts = traffic.stop()?;
    println!("{what}: {counts}");
    counts.ensure_whole().with_context(|| what.to_owned())
}

fn wait_resolved() -> Result<()> {
    wait::until("resolved next hops", PATIENCE, || {
        let next_hops = either_way("mplsxdp --instance lab neigh")?;
        let is_resolved = !next_hops.is_empty() && next_hops.lines().all(|line| line.contains(" resolved "));
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

//! The systemd unit under a systemd of its own, which is process 1 of a PID namespace and knows only this unit, the
//! journal and the targets that they need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::frame::{Entry, labelled};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::numbered::{Flow, MARK, Numbered};
use mplsxdp_tests::router::program;
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::{End, Lab, Netns, Tap, link, wait};

use crate::test_with;

pub fn tests() -> Vec<Trial> {
    vec![test_with(
        "service::the_unit_starts_reloads_restarts_and_stops",
        Some(Need::Program("systemctl", "systemd")),
        unit,
    )]
}

/// Hides the folders of temporary files.
const TEMPORARY: &str = "PrivateTmp=yes";
/// The tests do not wait that long.
const WATCHDOG: &str = "WatchdogSec=30s";
/// Leads back to where it comes from, under the next label.
const BACK: u32 = 300;
const PATIENCE: Duration = Duration::from_secs(20);
const UNIT: &str = include_str!("../../../xtask/files/mplsxdp@.service");
/// Where Debian has systemd, and its units.
const SYSTEMD: &str = "/usr/lib/systemd";
const JOURNAL: [&str; 2] = ["systemd-journald.service", "systemd-journald.socket"];
/// Targets that the units refer to. They depend on nothing.
const TARGETS: [&str; 5] = ["sysinit", "basic", "shutdown", "network-pre", "multi-user"];
/// Everything that systemd and the instance write is in file systems of the mount namespace. `$0` is the folder with
/// `units` and `etc`.
const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc
mount -t bpf bpf /sys/fs/bpf
mkdir /etc/mplsxdp
mount --bind "$0/etc" /etc/mplsxdp
exec env -i container=lab PATH="$PATH" SYSTEMD_UNIT_PATH="$0/units" \
    "$1/systemd" --system --unit=multi-user.target --show-status=no --log-target=null
"#;

struct Systemd {
    netns: Netns,
    folder: PathBuf,
    /// Process 1, as this namespace numbers it.
    pid: String,
    _process: Reaped,
    peer: Netns,
    _lab: Lab,
}

impl Systemd {
    fn boot() -> Result<Self> {
        let lab = Lab::new()?;
        let (netns, peer) = (lab.netns("router")?, lab.netns("peer")?);
        for number in 1..=2 {
            let address = format!("10.0.{number}.1/24");
            let near = format!("eth{number}");
            link(
                End::new(&netns, &near).address(&address),
                End::new(&peer, &format!("far{number}")),
            )?;
        }
        let folder = std::env::temp_dir().join(netns.name());
        let units = folder.join("units");
        fs::create_dir_all(&units)?;
        fs::create_dir_all(folder.join("etc"))?;
        for target in TARGETS {
            let text = format!("[Unit]\nDescription={target}\nDefaultDependencies=no\n");
            fs::write(units.join(format!("{target}.target")), text)?;
        }
        for unit in JOURNAL {
            let from = Path::new(SYSTEMD).join("system").join(unit);
            fs::copy(&from, units.join(unit)).with_context(|| from.display().to_string())?;
        }
        let program = program()?.canonicalize()?;
        let built = program.parent().context("no folder")?.display();
        let unit = UNIT.replace("@PREFIX@/bin/mplsxdp", &program.display().to_string());
        // The unit hides home and temporary folders, where the program may have been built.
        ensure!(unit.contains(TEMPORARY), "{unit}");
        let unit = unit.replace(TEMPORARY, &format!("{TEMPORARY}\nBindReadOnlyPaths={built}"));
        ensure!(unit.contains(WATCHDOG), "{unit}");
        let unit = unit.replace(WATCHDOG, "WatchdogSec=5s\nTimeoutAbortSec=1s");
        fs::write(units.join("mplsxdp@.service"), unit)?;
        let mut command = netns.command("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--cgroup",
                "sh",
                "-c",
                SCRIPT,
            ])
            .arg(&folder)
            .arg(SYSTEMD)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = spawn(&mut command)?;
        let children = format!("/proc/{0}/task/{0}/children", process.pid());
        let mut systemd = Self {
            netns,
            folder,
            pid: String::new(),
            _process: process,
            peer,
            _lab: lab,
        };
        wait::until("systemd", PATIENCE, || {
            systemd.pid = fs::read_to_string(&children)?.trim().to_owned();
            let state = systemd.run("systemctl is-system-running")?.stdout;
            Ok(matches!(state.trim_ascii(), b"running" | b"degraded").then_some(()))
        })?;
        systemd.done("systemctl start systemd-journald.socket")?;
        Ok(systemd)
    }

    /// Runs a command where systemd runs.
    fn run(&self, line: &str) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid, "--all", "--"])
            .args(line.split_whitespace());
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// What a command prints that succeeds.
    fn done(&self, line: &str) -> Result<String> {
        let output = self.run(line)?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "`{line}`: {}", text(&output.stderr));
        Ok(text(&output.stdout))
    }

    fn mplsxdp(&self, line: &str) -> Result<String> {
        self.done(&format!("{} --instance lab {line}", program()?.display()))
    }

    fn configure(&self, labels: &[u32]) -> Result<()> {
        let routes = labels
            .iter()
            .map(|label| format!("\"{label} as 200 via inet 10.0.1.2\""));
        let routes = routes.collect::<Vec<_>>().join(", ");
        let far = self.peer.mac("far2")?;
        // With the sockets of three ports, more memory is locked than the ordinary limit allows. The last route waits.
        let text = format!(
            "iface = [\"eth1\", \"eth2\"]\nlocal = true\nroutes = [{routes}, \"999 as 200 via inet 192.0.2.1\", \
             \"{BACK} as {} via link {far} dev eth2\"]\n",
            BACK + 1
        );
        Ok(fs::write(self.folder.join("etc/lab.toml"), text)?)
    }

    fn labels(&self) -> Result<Vec<String>> {
        let shown = self.mplsxdp("route show")?;
        let words = shown.lines().filter_map(|line| line.split_whitespace().next());
        let words = words.filter(|word| *word != BACK.to_string());
        Ok(words.map(str::to_owned).collect())
    }

    fn main_pid(&self) -> Result<String> {
        self.done("systemctl show --property=MainPID --value mplsxdp@lab")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn unit() -> Result<()> {
    let systemd = Systemd::boot()?;
    systemd.configure(&[100])?;
    let journal = |options: &str| systemd.done(&format!("journalctl --unit=mplsxdp@lab --output=cat {options}"));
    if let Err(error) = systemd.done("systemctl start mplsxdp@lab") {
        bail!("{error:#}{}", journal("")?);
    }
    // It is ready by then.
    ensure!(systemd.labels()? == ["100", "999"], "{:?}", systemd.labels()?);
    let listed = systemd.mplsxdp("instances")?;
    ensure!(listed.contains("/etc/mplsxdp/lab.toml"), "{listed}");
    let pid = systemd.main_pid()?;

    systemd.configure(&[100, 101])?;
    systemd.done("systemctl reload mplsxdp@lab")?;
    wait::until("the new route", PATIENCE, || {
        Ok((systemd.labels()? == ["100", "101", "999"]).then_some(()))
    })?;
    ensure!(systemd.main_pid()? == pid, "it was started again");

    // A file with errors changes nothing, and the journal has all of them.
    fs::write(
        systemd.folder.join("etc/lab.toml"),
        "iface = [\"eth1\"]\nhold = 2000\nroutes = [\"2000000 dev lo\"]\n",
    )?;
    let refused = systemd
        .done("systemctl reload mplsxdp@lab")
        .err()
        .context("it was reloaded")?;
    let state = systemd.done("systemctl is-active mplsxdp@lab")?;
    ensure!(state == "active\n" && systemd.main_pid()? == pid, "{state}: {refused}");
    ensure!(systemd.labels()? == ["100", "101", "999"], "{:?}", systemd.labels()?);
    let said = journal("")?;
    for error in ["/etc/mplsxdp/lab.toml:2:8: ", "/etc/mplsxdp/lab.toml:3:12: "] {
        ensure!(said.contains(error), "{error}: {said}");
    }
    // Each line has its level, and no time of its own.
    ensure!(said.contains("\nINFO ready instance=\"lab\" ports=3\n"), "{said}");
    let warnings = journal("--priority=warning")?;
    ensure!(
        warnings.contains("WARN the route of 999 waits") && !warnings.contains("INFO"),
        "{warnings}"
    );

    ensure!(!said.contains("can make all system calls"), "{said}");

    // It is started again if it is killed, or if its event loop does nothing for the time of the watchdog.
    systemd.configure(&[100])?;
    for signal in ["KILL", "STOP"] {
        let pid = systemd.main_pid()?;
        systemd.done(&format!("systemctl kill --signal={signal} --kill-who=main mplsxdp@lab"))?;
        wait::until("another process", PATIENCE, || {
            let is_active = systemd.run("systemctl is-active mplsxdp@lab")?.status.success();
            Ok((is_active && ![&*pid, "0\n"].contains(&&*systemd.main_pid()?)).then_some(()))
        })?;
        ensure!(systemd.labels()? == ["100", "999"], "{:?}", systemd.labels()?);
    }
    let restarts = systemd.done("systemctl show --property=NRestarts --value mplsxdp@lab")?;
    ensure!(restarts == "2\n", "{restarts}");

    // An upgrade, a restart and a stop lose no frame.
    let peer = Tap::open(&systemd.peer, "far2")?;
    let eth2 = systemd.netns.mac("eth2")?;
    let back = Flow {
        from: 0,
        to: 0,
        sent: labelled(eth2, peer.mac(), &[Entry::new(BACK, 64)], MARK),
        expected: labelled(peer.mac(), eth2, &[Entry::new(BACK + 1, 63)], MARK),
    };
    let traffic = Numbered::start(vec![peer], vec![back], Duration::from_millis(1));
    let pid = systemd.main_pid()?;
    systemd.mplsxdp("upgrade")?;
    ensure!(systemd.main_pid()? == pid, "another process");
    systemd.done("systemctl restart mplsxdp@lab")?;
    ensure!(systemd.main_pid()? != pid, "the same process");
    ensure!(systemd.labels()? == ["100", "999"], "{:?}", systemd.labels()?);
    systemd.done("systemctl stop mplsxdp@lab")?;
    let result = systemd.done("systemctl show --property=Result --value mplsxdp@lab")?;
    ensure!(result == "success\n", "{result}");
    ensure!(
        systemd.run("ls /run/mplsxdp/lab.sock")?.stdout.is_empty(),
        "the socket is left"
    );
    traffic.stop()?.ensure_whole()?;
    systemd.mplsxdp("unload --force")?;
    let links = systemd.netns.ip("link show")?;
    ensure!(!links.contains("xdp") && !links.contains("mpls0"), "{links}");
    Ok(())
}

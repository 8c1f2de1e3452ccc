//! What a running instance may still do, and what it takes from a local user.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::{End, Lab, Netns, Router, link};

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("sandbox::only_the_needed_privileges_stay", privileges),
        test("sandbox::thousands_of_idle_clients_do_not_keep_root_out", clients),
    ]
}

/// By their numbers in linux/capability.h: NET_ADMIN, NET_RAW, IPC_LOCK, SYS_PTRACE, SYS_ADMIN.
const RUNNING: u64 = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 19 | 1 << 21;
/// CHOWN, for an upgrade.
const STARTING_AGAIN: u64 = 1 << 0;
/// DAC_READ_SEARCH, for a config file that is read again.
const REREADING: u64 = 1 << 2;

struct Bench {
    netns: Netns,
    _peer: Netns,
    _lab: Lab,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (netns, peer) = (lab.netns("router")?, lab.netns("peer")?);
        for number in 1..=2 {
            link(
                End::new(&netns, &format!("eth{number}")),
                End::new(&peer, &format!("far{number}")),
            )?;
        }
        Ok(Self {
            netns,
            _peer: peer,
            _lab: lab,
        })
    }
}

/// Every thread's privileges, with its name: the capability sets in the kernel's order, NoNewPrivs and Seccomp.
fn privileges_of(pid: u32) -> Result<Vec<(String, Vec<u64>)>> {
    const FIELDS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // It may have ended.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let value = |field: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.map(str::trim).with_context(|| format!("no {field}: {status}"))
        };
        let mut values = Vec::new();
        for field in FIELDS {
            values.push(u64::from_str_radix(value(field)?, 16)?);
        }
        for field in ["NoNewPrivs", "Seccomp"] {
            values.push(value(field)?.parse()?);
        }
        threads.push((value("Name")?.to_owned(), values));
    }
    Ok(threads)
}

fn privileges() -> Result<()> {
    let bench = Bench::new()?;
    let config = std::env::temp_dir().join(format!("{}.toml", bench.netns.name()));
    fs::write(&config, "iface = [\"eth1\"]\nlocal = true\n")?;
    let with_file = format!("--config {}", config.display());
    for (options, kept) in [
        ("--iface eth1 --local", RUNNING),
        (&with_file, RUNNING | REREADING),
        ("--iface eth1 --persist", RUNNING | STARTING_AGAIN),
    ] {
        let mut router = Router::load(&bench.netns, options)?;
        // Later threads inherit the same.
        router.run("link add eth2")?;
        router.run("route add 100 as 101 via link 02:00:00:00:00:01 dev eth2")?;
        let pid = router.json::<mplsxdp::control::api::Status>("status")?.pid;
        let threads = privileges_of(pid)?;
        ensure!(threads.len() > 3, "{threads:?}");
        for (name, found) in threads {
            let kept = if name == "log" { 0 } else { kept };
            // Seccomp: 2 is a filter.
            ensure!(found == [0, kept, kept, kept, 0, 1, 2], "{name}: {found:x?}, {kept:x}");
        }
        router.run("unload")?;
        router.ended()?;
    }
    fs::remove_file(config)?;
    Ok(())
}

/// Most of them get nothing, and those that got in make room.
fn clients() -> Result<()> {
    const CLIENTS: usize = 3000;

    let bench = Bench::new()?;
    mplsxdp::descriptors::raise_limit()?;
    let router = Router::load(&bench.netns, "--iface eth1")?;
    let connect = || UnixStream::connect(router.socket());
    let mut clients = (0..CLIENTS).map(|_| connect()).collect::<std::io::Result<Vec<_>>>()?;
    router.run("route add 100 as 101 via link 02:00:00:00:00:01 dev eth1")?;
    // The instance has closed the others, and keeps no descriptor of theirs.
    let mut open = 0;
    for client in &mut clients {
        client.set_nonblocking(true)?;
        match client.read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => open += 1,
            Ok(0) => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(open <= 72, "{open} clients are connected");
    let pid = router.json::<mplsxdp::control::api::Status>("status")?.pid;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    ensure!(descriptors < 72 + 100, "{descriptors} descriptors");
    router.unload()
}

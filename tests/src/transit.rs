//! A router between two hosts, and numbered frames that go through it in both directions, for tests of what the router
//! survives:
//!
//! ```text
//!   left                     router                     right
//!   eth0 10.0.1.2/24 ------- eth1 10.0.1.1/24
//!                            eth2 10.0.2.1/24 ------- 10.0.2.2/24 eth0
//! ```
//!
//! [`Transit::routes`] has a route of each kind, and [`Transit::flows`] a flow for each route. Tests add hosts, routes and
//! flows of their own. [`Transit::configure`] writes the configuration file of an instance with `--persist`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use mplsxdp_common::wire::{ETH_P_IP, Mac};

use crate::frame::{Entry, ethernet, labelled, udp};
use crate::numbered::{Flow, MARK, Numbered};
use crate::router::program;
use crate::{End, Lab, Netns, Router, Tap, link};

/// Between two frames of a flow, unless there is a reason for another.
pub const INTERVAL: Duration = Duration::from_millis(1);

/// The numbers of the hosts in [`Transit::flows`].
pub const LEFT: usize = 0;
pub const RIGHT: usize = 1;

pub struct Transit {
    pub left: Netns,
    pub router: Netns,
    pub right: Netns,
    /// Removed when this is dropped.
    folder: PathBuf,
}

impl Drop for Transit {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Transit {
    pub fn new(lab: &Lab) -> Result<Self> {
        let router = lab.netns("router")?;
        let folder = std::env::temp_dir().join(router.name());
        fs::create_dir_all(&folder)?;
        let transit = Self {
            left: lab.netns("left")?,
            right: lab.netns("right")?,
            router,
            folder,
        };
        transit.cable_left()?;
        link(
            End::new(&transit.router, "eth2").address("10.0.2.1/24"),
            End::new(&transit.right, "eth0").address("10.0.2.2/24"),
        )?;
        Ok(transit)
    }

    pub fn cable_left(&self) -> Result<()> {
        link(
            End::new(&self.left, "eth0").address("10.0.1.2/24"),
            End::new(&self.router, "eth1").address("10.0.1.1/24"),
        )
    }

    /// By a MAC address, by a neighbour, by several next hops, a pop, back, and a prefix.
    pub fn routes(&self) -> Result<Vec<String>> {
        let mac = self.right.mac("eth0")?;
        let rest = [
            "200 as 210 via inet 10.0.2.2",
            "300 nexthop as 310 via inet 10.0.2.2 nexthop as 310 via inet 10.0.2.2 dev eth2",
            "400 via inet 10.0.2.2",
            "500 as 510 via inet 10.0.1.2",
            "10.9.0.0/16 encap mpls 600 via inet 10.0.2.2",
        ];
        let mut routes = vec![format!("100 as 110 via link {mac} dev eth2")];
        routes.extend(rest.map(str::to_owned));
        Ok(routes)
    }

    /// One by each of [`Self::routes`].
    pub fn flows(&self) -> Result<Flows> {
        let mut flows = Flows::default();
        flows.add_host(&self.left, &self.router, "eth1")?;
        flows.add_host(&self.right, &self.router, "eth2")?;
        for labels in [
            [Some(100), Some(110)],
            [Some(200), Some(210)],
            [Some(300), Some(310)],
            [Some(400), None],
            [None, Some(600)],
        ] {
            flows.add([LEFT, RIGHT], "10.9.0.1", labels)?;
        }
        flows.add([RIGHT, LEFT], "10.9.0.1", [Some(500), Some(510)])?;
        Ok(flows)
    }

    pub fn traffic(&self) -> Result<Numbered> {
        Ok(self.flows()?.start(INTERVAL))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn config(&self) -> PathBuf {
        self.file("router.toml")
    }

    /// Writes the configuration file: `options` in lines, [`Self::routes`] and `more` routes.
    pub fn configure(&self, options: &str, more: &[&str]) -> Result<()> {
        let mut routes = self.routes()?;
        routes.extend(more.iter().map(|&route| route.to_owned()));
        let text = format!("persist = true\n{options}\nroutes = {routes:#?}\n");
        Ok(fs::write(self.config(), text)?)
    }

    /// A copy of the program, which takes the place of an earlier one as a package manager's does: the file of a running
    /// process cannot be written.
    pub fn replace_program(&self) -> Result<PathBuf> {
        let (new, file) = (self.file("new"), self.file("mplsxdp"));
        fs::copy(program()?, &new)?;
        fs::rename(new, &file)?;
        Ok(file)
    }

    /// Completes a command that runs the program to `mplsxdp load` with the configuration file.
    pub fn load_command(&self, mut program: Command) -> Command {
        let name = self.router.name();
        program.args(["load", "-n", name, "--instance", name, "--config"]);
        program.arg(self.config());
        program
    }

    /// Loads an instance by this command, and waits for its next hops.
    pub fn load_by(&self, command: Command) -> Result<Router> {
        let router = Router::start(&self.router, self.router.name(), command)?;
        router.wait_resolved()?;
        Ok(router)
    }

    pub fn load(&self) -> Result<Router> {
        self.load_by(self.load_command(Command::new(program()?)))
    }
}

/// Flows between hosts, which are known by their numbers.
#[derive(Default)]
pub struct Flows {
    taps: Vec<Tap>,
    /// The MAC addresses of the ports that the hosts are connected to.
    ports: Vec<Mac>,
    flows: Vec<Flow>,
}

impl Flows {
    /// A host with its end of the cable in `eth0`. Returns its number.
    pub fn add_host(&mut self, host: &Netns, router: &Netns, port: &str) -> Result<usize> {
        self.taps.push(Tap::open(host, "eth0")?);
        self.ports.push(router.mac(port)?);
        Ok(self.taps.len() - 1)
    }

    /// IP packets from one host to another, with the label that they have before the router, and the one behind it; none
    /// is an IP packet as such.
    pub fn add(&mut self, [from, to]: [usize; 2], address: &str, labels: [Option<u32>; 2]) -> Result<()> {
        let [before, behind] = labels;
        let tc = if before.is_some() { 3 } else { 0 };
        let frame = |destination, source, label: Option<u32>, ttl, ip_ttl| -> Result<Vec<u8>> {
            // The number follows, which the lengths and checksums of the packets do not cover.
            let packet = udp("10.0.1.2".parse()?, address.parse()?, ip_ttl, MARK)?;
            Ok(match label {
                Some(label) => labelled(destination, source, &[Entry::new(label, ttl).tc(tc)], &packet),
                None => ethernet(destination, source, ETH_P_IP, &packet),
            })
        };
        // A swap does not look beneath the label.
        let ip_ttl = if before.and(behind).is_some() { 64 } else { 63 };
        self.flows.push(Flow {
            from,
            to,
            sent: frame(self.ports[from], self.taps[from].mac(), before, 64, 64)?,
            expected: frame(self.taps[to].mac(), self.ports[to], behind, 63, ip_ttl)?,
        });
        Ok(())
    }

    pub fn start(self, interval: Duration) -> Numbered {
        Numbered::start(self.taps, self.flows, interval)
    }
}

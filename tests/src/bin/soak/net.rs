//! The router, its neighbours, and the numbered traffic through it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp_common::wire::{ETH_P_IP, Mac};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use mplsxdp_tests::netns::tapped_link;
use mplsxdp_tests::numbered::{Flow, MARK, Numbered};
use mplsxdp_tests::router::{ensure_nothing_left, program};
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use nix::sys::signal::Signal;

/// Between two frames of a flow.
const INTERVAL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// What the exposed link has after it was made again, too.
const EXPOSED_MAC: &str = "02:00:00:00:04:01";
/// The first of the flows that are exposed; all before it are steady.
pub const EXPOSED_FLOW: usize = 6;

pub struct Net {
    pub router: Netns,
    pub left: Netns,
    pub right: Netns,
    pub far: Netns,
    pub attacker: Tap,
    cable: Netns,
    folder: PathBuf,
    /// None while it does not run.
    running: Option<Router>,
    _lab: Lab,
}

impl Drop for Net {
    fn drop(&mut self) {
        self.running = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Net {
    /// With the router loaded.
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let [left, router, right, far, cable, attacker] =
            ["left", "router", "right", "far", "cable", "attacker"].map(|name| lab.netns(name));
        let (left, router, right, far, cable, attacker) = (left?, router?, right?, far?, cable?, attacker?);
        link(
            End::new(&left, "eth0").address("10.0.1.2/24"),
            End::new(&router, "eth1").address("10.0.1.1/24"),
        )?;
        link(
            End::new(&router, "eth2").address("10.0.2.1/24"),
            End::new(&right, "eth0").address("10.0.2.2/24"),
        )?;
        link(
            End::new(&attacker, "eth0"),
            End::new(&router, "eth3").address("10.0.3.1/24"),
        )?;
        tapped_link(
            Self::exposed_end(&router),
            &cable,
            End::new(&far, "eth0").address("10.0.4.2/24"),
        )?;
        let folder = std::env::temp_dir().join(router.name());
        fs::create_dir_all(&folder)?;
        let mut net = Self {
            attacker: Tap::open(&attacker, "eth0")?,
            router,
            left,
            right,
            far,
            cable,
            folder,
            running: None,
            _lab: lab,
        };
        net.configure()?;
        net.replace_program()?;
        net.load()?;
        Ok(net)
    }

    fn exposed_end(router: &Netns) -> End<'_> {
        End::new(router, "eth4").address("10.0.4.1/24").mac(EXPOSED_MAC)
    }

    /// By a MAC address, by a neighbour, by several next hops, a pop, back, a prefix; the exposed ones.
    fn configure(&self) -> Result<()> {
        let mac = self.right.mac("eth0")?;
        let text = format!(
            "persist = true\n\
             iface = [\"eth1\", \"eth2\", \"eth3\", \"eth4\"]\n\
             routes = [\n\
             \"100 as 110 via link {mac} dev eth2\",\n\
             \"200 as 210 via inet 10.0.2.2\",\n\
             \"300 nexthop as 310 via inet 10.0.2.2 nexthop as 310 via inet 10.0.2.2 dev eth2\",\n\
             \"400 via inet 10.0.2.2\",\n\
             \"500 as 510 via inet 10.0.1.2\",\n\
             \"10.9.0.0/16 encap mpls 600 via inet 10.0.2.2\",\n\
             \"700 as 710 via inet 10.0.4.2\",\n\
             \"10.10.0.0/16 encap mpls 800 via inet 10.0.4.2\",\n\
             ]\n"
        );
        Ok(fs::write(self.folder.join("router.toml"), text)?)
    }

    /// Puts a new file in the place of the program, as a package manager does.
    pub fn replace_program(&self) -> Result<()> {
        let new = self.folder.join("new");
        fs::copy(program()?, &new)?;
        Ok(fs::rename(new, self.file())?)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("mplsxdp")
    }

    pub fn instance(&self) -> &str {
        self.router.name()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.file());
        command.args(["load", "-n", self.instance(), "--instance", self.instance(), "--config"]);
        command.arg(self.folder.join("router.toml"));
        command
    }

    /// Loads it, and waits until it has all its next hops.
    pub fn load(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "it runs already");
        let router = Router::start(&self.router, self.instance(), self.command())?;
        router.wait_resolved()?;
        self.running = Some(router);
        Ok(())
    }

    /// A load that nobody waits for.
    pub fn start(&self) -> Result<Reaped> {
        let mut command = self.command();
        spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    pub fn running(&self) -> Result<&Router> {
        self.running.as_ref().context("it does not run")
    }

    pub fn end(&mut self, signal: Signal) -> Result<()> {
        self.running.take().context("it does not run")?.stop(signal)?;
        Ok(())
    }

    /// The exposed link goes, as if its NIC were pulled out, and comes back.
    pub fn unplug(&self) -> Result<()> {
        self.router.ip("link del eth4").map(drop)
    }

    pub fn plug(&self) -> Result<()> {
        link(Self::exposed_end(&self.router), End::new(&self.cable, "a"))?;
        self.cable.ip("link set dev a master br0").map(drop)
    }

    /// Waits until the exposed link carries frames again, and the controller knows.
    pub fn recovered(&self) -> Result<()> {
        // The kernel brings the ends of links into service one by one, and later than it says.
        wait::until("an answer from the far host", PATIENCE, || {
            Ok(self.router.run("ping -c 1 -W 1 10.0.4.2").ok())
        })?;
        self.running()?.wait_resolved()
    }

    /// The routes of the configuration, as `route save` writes them.
    pub fn static_routes(&self) -> Result<Vec<String>> {
        Ok(self.running()?.run("route save")?.lines().map(str::to_owned).collect())
    }

    /// The steady flows, and then the exposed ones.
    pub fn traffic(&self) -> Result<Numbered> {
        let taps = vec![
            Tap::open(&self.left, "eth0")?,
            Tap::open(&self.right, "eth0")?,
            Tap::open(&self.far, "eth0")?,
        ];
        let [left, right, far] = [taps[0].mac(), taps[1].mac(), taps[2].mac()];
        let [eth1, eth2, eth4] = ["eth1", "eth2", "eth4"].map(|name| self.router.mac(name));
        let (eth1, eth2, eth4) = (eth1?, eth2?, eth4?);
        // The number follows, which the lengths and checksums of the packets do not cover.
        let packet = |to: &str, ttl| udp("10.0.1.2".parse()?, to.parse()?, ttl, MARK);
        let inner = packet("10.9.0.1", 64)?;
        let swap = |from: u32, to: usize, macs: [Mac; 2], out: u32| Flow {
            from: 0,
            to,
            sent: labelled(eth1, left, &[Entry::new(from, 64).tc(3)], &inner),
            expected: labelled(macs[0], macs[1], &[Entry::new(out, 63).tc(3)], &inner),
        };
        let push = |address: &str, to: usize, macs: [Mac; 2], out: u32| -> Result<Flow> {
            Ok(Flow {
                from: 0,
                to,
                sent: ethernet(eth1, left, ETH_P_IP, &packet(address, 64)?),
                expected: labelled(macs[0], macs[1], &[Entry::new(out, 63)], &packet(address, 63)?),
            })
        };
        let flows = vec![
            swap(100, 1, [right, eth2], 110),
            swap(200, 1, [right, eth2], 210),
            swap(300, 1, [right, eth2], 310),
            Flow {
                expected: ethernet(right, eth2, ETH_P_IP, &packet("10.9.0.1", 63)?),
                ..swap(400, 1, [right, eth2], 0)
            },
            Flow {
                from: 1,
                to: 0,
                sent: labelled(eth2, right, &[Entry::new(500, 9)], &inner),
                expected: labelled(left, eth1, &[Entry::new(510, 8)], &inner),
            },
            push("10.9.0.1", 1, [right, eth2], 600)?,
            swap(700, 2, [far, eth4], 710),
            push("10.10.0.1", 2, [far, eth4], 800)?,
        ];
        Ok(Numbered::start(taps, flows, INTERVAL))
    }

    /// Frames that the steady flows lost because a queue of a veth was full, by the counters of its ends.
    pub fn overflows(&self) -> Result<u64> {
        let mut frames = 0;
        for (netns, interface) in [
            (&self.left, "eth0"),
            (&self.right, "eth0"),
            (&self.router, "eth1"),
            (&self.router, "eth2"),
        ] {
            let shown: serde_json::Value =
                serde_json::from_str(&netns.ip(&format!("-json -statistics link show dev {interface}"))?)?;
            frames += shown[0]["stats64"]["tx"]["dropped"]
                .as_u64()
                .with_context(|| format!("no count of drops for {interface}"))?;
            let counters = netns.run(&format!("ethtool --statistics {interface}"))?;
            let errors = counters.lines().filter_map(|line| line.split_once(": "));
            frames += errors
                .filter(|(name, _)| name.trim().ends_with("xdp_xmit_errors"))
                .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(frames)
    }

    /// Ends it for good: nothing is left.
    pub fn unload(mut self) -> Result<()> {
        let router = self.running.take().context("it does not run")?;
        router.run("unload")?;
        drop(router);
        ensure_nothing_left(&self.router, self.instance())
    }
}

pub fn ended(process: &mut Reaped) -> Result<()> {
    process.ended(PATIENCE).map(drop)
}

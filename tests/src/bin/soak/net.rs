//! The router, its neighbours, and the numbered traffic through it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp::control::api::Link;
use mplsxdp_tests::netns::tapped_link;
use mplsxdp_tests::numbered::Numbered;
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::transit::{INTERVAL, LEFT, Transit};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);
/// What the exposed link has after it was made again, too.
const EXPOSED_MAC: &str = "02:00:00:00:04:01";
/// The first of the flows that are exposed; all before it are steady.
pub const EXPOSED_FLOW: usize = 6;

pub struct Net {
    /// None while it does not run.
    running: Option<Router>,
    transit: Transit,
    program: PathBuf,
    pub far: Netns,
    pub attacker: Tap,
    cable: Netns,
}

impl Net {
    /// With the router loaded.
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let transit = Transit::new(&lab)?;
        let [far, cable, attacker] = ["far", "cable", "attacker"].map(|name| lab.netns(name));
        let (far, cable, attacker) = (far?, cable?, attacker?);
        link(
            End::new(&attacker, "eth0"),
            End::new(&transit.router, "eth3").address("10.0.3.1/24"),
        )?;
        tapped_link(
            Self::exposed_end(&transit.router),
            &cable,
            End::new(&far, "eth0").address("10.0.4.2/24"),
        )?;
        transit.configure(
            "iface = [\"eth1\", \"eth2\", \"eth3\", \"eth4\"]",
            &[
                "700 as 710 via inet 10.0.4.2",
                "10.10.0.0/16 encap mpls 800 via inet 10.0.4.2",
            ],
        )?;
        let mut net = Self {
            running: None,
            program: transit.replace_program()?,
            transit,
            far,
            attacker: Tap::open(&attacker, "eth0")?,
            cable,
        };
        net.load()?;
        Ok(net)
    }

    fn exposed_end(router: &Netns) -> End<'_> {
        End::new(router, "eth4").address("10.0.4.1/24").mac(EXPOSED_MAC)
    }

    pub fn router(&self) -> &Netns {
        &self.transit.router
    }

    pub fn instance(&self) -> &str {
        self.router().name()
    }

    /// Puts a new file in the place of the program.
    pub fn replace_program(&self) -> Result<()> {
        self.transit.replace_program().map(drop)
    }

    fn command(&self) -> Command {
        self.transit.load_command(Command::new(&self.program))
    }

    /// Loads it, and waits until it has all its next hops.
    pub fn load(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "it runs already");
        self.running = Some(self.transit.load_by(self.command())?);
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
        self.router().ip("link del eth4").map(drop)
    }

    pub fn plug(&self) -> Result<()> {
        link(Self::exposed_end(self.router()), End::new(&self.cable, "a"))?;
        self.cable.ip("link set dev a master br0").map(drop)
    }

    /// Waits until the exposed link carries frames again, and the controller knows all that happened to it: on its way
    /// through older news, a next hop fails once more.
    pub fn recovered(&self) -> Result<()> {
        // The kernel brings the ends of links into service one by one, and later than it says.
        wait::until("an answer from the far host", PATIENCE, || {
            Ok(self.router().run("ping -c 1 -W 1 10.0.4.2").ok())
        })?;
        self.news_arrived()?;
        // Its program is loaded after the news.
        wait::until("the exposed port", PATIENCE, || Ok(self.port("eth4")?.map(drop)))?;
        self.running()?.wait_resolved()
    }

    /// Waits until the controller has heard of a change that is newer than all others.
    fn news_arrived(&self) -> Result<()> {
        let known = || Ok::<_, anyhow::Error>(self.port("eth3")?.context("eth3 is no port")?.mtu);
        let new = known()? ^ 1;
        self.router().ip(&format!("link set eth3 mtu {new}"))?;
        wait::until("the news of another MTU", PATIENCE, || {
            Ok((known()? == new).then_some(()))
        })
    }

    fn port(&self, name: &str) -> Result<Option<Link>> {
        let links: Vec<Link> = self.running()?.json("link show")?;
        // One that waits for its interface is listed, too.
        let mut links = links.into_iter().filter(|link| link.problem.is_none());
        Ok(links.find(|link| link.ifname == name))
    }

    /// The routes of the configuration, as `route save` writes them.
    pub fn static_routes(&self) -> Result<Vec<String>> {
        Ok(self.running()?.run("route save")?.lines().map(str::to_owned).collect())
    }

    /// The steady flows, and then the exposed ones.
    pub fn traffic(&self) -> Result<Numbered> {
        let mut flows = self.transit.flows()?;
        let far = flows.add_host(&self.far, self.router(), "eth4")?;
        flows.add([LEFT, far], "10.9.0.1", [Some(700), Some(710)])?;
        flows.add([LEFT, far], "10.10.0.1", [None, Some(800)])?;
        Ok(flows.start(INTERVAL))
    }

    /// Frames that the steady flows lost because a queue of a veth was full, by the counters of its ends.
    pub fn overflows(&self) -> Result<u64> {
        let mut frames = 0;
        for (netns, interface) in [
            (&self.transit.left, "eth0"),
            (&self.transit.right, "eth0"),
            (&self.transit.router, "eth1"),
            (&self.transit.router, "eth2"),
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
        self.running.take().context("it does not run")?.unload_by_command()
    }
}

pub fn ended(process: &mut Reaped) -> Result<()> {
    process.ended(PATIENCE).map(drop)
}

//! Two hosts that put labels on their own packets, and two routers between them:
//!
//! ```text
//!   1.1.1.1                                                                          2.2.2.2
//!  host1 ===(cable1)=== ubuntu01 ===(cable2)=== ubuntu02 ===(cable3)=== host2
//!   10.0.0.2       10.0.0.1  20.0.0.1       20.0.0.2  30.0.0.1       30.0.0.2
//! ```
//!
//! Every cable can be listened to.

use anyhow::Result;

use crate::Lab;
use crate::netns::{End, Netns, tapped_link};
use crate::router::Router;

/// The hosts' addresses, from which they send.
pub const LOOPBACK1: &str = "1.1.1.1";
pub const LOOPBACK2: &str = "2.2.2.2";
pub const LOOPBACK1_V6: &str = "fd00:1::1";
pub const LOOPBACK2_V6: &str = "fd00:2::2";

/// The options that each of them is loaded with, in the order of the drawing.
pub const OPTIONS: [&str; 4] = [
    "--iface eth0 --local",
    "--iface eth1 --iface eth2",
    "--iface eth1 --iface eth2",
    "--iface eth0 --local",
];

/// The arguments of `ip route add` on the hosts: the kernel's route to the other host's address is through the local
/// port.
pub const KERNEL_ROUTES: [&str; 2] = ["2.2.2.2/32 dev mpls0 src 1.1.1.1", "1.1.1.1/32 dev mpls0 src 2.2.2.2"];
const KERNEL_ROUTES_V6: [&str; 2] = [
    "fd00:2::2/128 dev mpls0 src fd00:1::1",
    "fd00:1::1/128 dev mpls0 src fd00:2::2",
];

/// The arguments of `mplsxdp route add`: labels 101 and 111 there, 201 and 211 back.
pub const ROUTES: [&[&str]; 4] = [
    &["2.2.2.2/32 encap mpls 101 via inet 10.0.0.1"],
    &["101 as 111 via inet 20.0.0.2", "211 via inet 10.0.0.2"],
    &["111 via inet 30.0.0.2", "201 as 211 via inet 20.0.0.1"],
    &["1.1.1.1/32 encap mpls 201 via inet 30.0.0.1"],
];
const ROUTES_V6: [&str; 2] = [
    "fd00:2::2/128 encap mpls 101 via inet 10.0.0.1",
    "fd00:1::1/128 encap mpls 201 via inet 30.0.0.1",
];

pub struct OwnTraffic {
    pub host1: Router,
    pub routers: [Router; 2],
    pub host2: Router,
    /// Interface `a` is on host1's side, `b` on host2's.
    pub cables: [Netns; 3],
}

impl OwnTraffic {
    /// With mplsxdp loaded everywhere, and no routes.
    pub fn new(lab: &Lab) -> Result<Self> {
        Self::with_options(lab, "")
    }

    /// With these options besides [`OPTIONS`].
    pub fn with_options(lab: &Lab, options: &str) -> Result<Self> {
        let [host1, ubuntu01, ubuntu02, host2] = ["host1", "ubuntu01", "ubuntu02", "host2"].map(|name| lab.netns(name));
        let (host1, ubuntu01, ubuntu02, host2) = (host1?, ubuntu01?, ubuntu02?, host2?);
        let cables = [lab.netns("cable1")?, lab.netns("cable2")?, lab.netns("cable3")?];
        tapped_link(
            End::new(&host1, "eth0").address("10.0.0.2/24"),
            &cables[0],
            End::new(&ubuntu01, "eth1").address("10.0.0.1/24"),
        )?;
        tapped_link(
            End::new(&ubuntu01, "eth2").address("20.0.0.1/24"),
            &cables[1],
            End::new(&ubuntu02, "eth1").address("20.0.0.2/24"),
        )?;
        tapped_link(
            End::new(&ubuntu02, "eth2").address("30.0.0.1/24"),
            &cables[2],
            End::new(&host2, "eth0").address("30.0.0.2/24"),
        )?;
        for (host, addresses) in [(&host1, [LOOPBACK1, LOOPBACK1_V6]), (&host2, [LOOPBACK2, LOOPBACK2_V6])] {
            for address in addresses {
                host.ip(&format!("address add {address} dev lo"))?;
            }
        }
        let load = |netns: &Netns, index: usize| Router::load(netns, &format!("{} {options}", OPTIONS[index]));
        Ok(Self {
            host1: load(&host1, 0)?,
            routers: [load(&ubuntu01, 1)?, load(&ubuntu02, 2)?],
            host2: load(&host2, 3)?,
            cables,
        })
    }

    /// From host1 to host2.
    pub fn machines(&self) -> [&Router; 4] {
        let [ubuntu01, ubuntu02] = &self.routers;
        [&self.host1, ubuntu01, ubuntu02, &self.host2]
    }

    /// Adds the routes of the kernel and of mplsxdp, for both families.
    pub fn add_routes(&self) -> Result<()> {
        for (index, host) in [&self.host1, &self.host2].into_iter().enumerate() {
            for route in [KERNEL_ROUTES[index], KERNEL_ROUTES_V6[index]] {
                host.netns().ip(&format!("route add {route}"))?;
            }
            host.add_routes(&[ROUTES_V6[index]])?;
        }
        for (router, routes) in self.machines().into_iter().zip(ROUTES) {
            router.add_routes(routes)?;
        }
        Ok(())
    }

    pub fn unload(self) -> Result<()> {
        for router in [self.host1].into_iter().chain(self.routers).chain([self.host2]) {
            router.unload()?;
        }
        Ok(())
    }
}

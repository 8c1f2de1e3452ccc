//! The topology of the demo and of the first end-to-end test:
//!
//! ```text
//!  host1 ---------- r1 =============== r2 =============== r3 ---------- host2
//!  10.3.3.2   .1      .101         .102  .101         .102     .1    10.4.4.2
//!    10.3.3.0/24        192.168.30.0/24    192.168.40.0/24       10.4.4.0/24
//!    fd00:3::/64         fd00:30::/64       fd00:40::/64         fd00:4::/64
//! ```
//!
//! The links between the routers carry labels, have an MTU of 1600 if not said otherwise, and can be listened to.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::netns::{End, Netns, link, tapped_link};
use crate::router::Router;
use crate::{Lab, wait};

pub const HOST1: &str = "10.3.3.2";
pub const HOST2: &str = "10.4.4.2";
pub const HOST1_V6: &str = "fd00:3::2";
pub const HOST2_V6: &str = "fd00:4::2";

/// The arguments of `mplsxdp route add` on each router: labels 100 and 110 there, 200 and 210 back.
pub const ROUTES: [[&str; 2]; 3] = [
    [
        "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102",
        "210 via inet 10.3.3.2",
    ],
    [
        "100 as 110 via inet 192.168.40.102",
        "200 as 210 via inet 192.168.30.101",
    ],
    [
        "10.3.3.0/24 encap mpls 200 via inet 192.168.40.101",
        "110 via inet 10.4.4.2",
    ],
];

/// The same, but the LSPs end in the edge routers, which then forward by IP with their kernels. So ICMP that follows a
/// packet along its LSP reaches a router that knows the way back (RFC 3032 section 2.3.2).
pub const EDGE_ROUTES: [&[&str]; 3] = [
    &[
        "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102",
        "fd00:4::/64 encap mpls 100 via inet 192.168.30.102",
        "210 dev lo",
    ],
    &ROUTES[1],
    &[
        "10.3.3.0/24 encap mpls 200 via inet 192.168.40.101",
        "fd00:3::/64 encap mpls 200 via inet 192.168.40.101",
        "110 dev lo",
    ],
];

/// Makes the edge routers forward IP.
pub const EDGE_SYSCTLS: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// The arguments of `ip route add` in the edge routers: packets that their kernels send to the other side get labels
/// too.
pub const EDGE_KERNEL_ROUTES: [[&str; 2]; 2] = [
    ["10.4.4.0/24 dev mpls0", "fd00:4::/64 dev mpls0"],
    ["10.3.3.0/24 dev mpls0", "fd00:3::/64 dev mpls0"],
];

/// MTU of the links that carry labels.
const CORE_MTU: u32 = 1600;
/// MTU of the link between r2 and r3 in [`ThreeRouters::with_narrow_link`].
pub const NARROW_MTU: u32 = 1400;

/// The arguments of `mplsxdp route` that give each LSP a second label, which its end pops too.
const SECOND_LABELS: [&[&str]; 3] = [
    &[
        "replace 10.4.4.0/24 encap mpls 100/300 via inet 192.168.30.102",
        "replace fd00:4::/64 encap mpls 100/300 via inet 192.168.30.102",
        "add 400 dev lo",
    ],
    &[],
    &[
        "replace 10.3.3.0/24 encap mpls 200/400 via inet 192.168.40.101",
        "replace fd00:3::/64 encap mpls 200/400 via inet 192.168.40.101",
        "add 300 dev lo",
    ],
];

pub struct ThreeRouters {
    pub routers: [Router; 3],
    pub host1: Netns,
    pub host2: Netns,
    /// The cable between r1 and r2: interface `a` is on r1's side, `b` on r2's.
    pub cable12: Netns,
    /// The same between r2 and r3.
    pub cable23: Netns,
}

impl ThreeRouters {
    /// With mplsxdp loaded on the routers, and no routes.
    pub fn new(lab: &Lab) -> Result<Self> {
        Self::loaded(lab, ["", "", ""], CORE_MTU)
    }

    /// With [`EDGE_ROUTES`], and IP forwarding in the edge routers; `options` are added to `--iface` and, at the edge,
    /// `--local`.
    pub fn with_ip_edges(lab: &Lab, options: [&str; 3]) -> Result<Self> {
        Self::ip_edges(lab, options, CORE_MTU)
    }

    /// The same, with two labels on each packet, and a link between r2 and r3 that is narrower than those of the hosts.
    pub fn with_narrow_link(lab: &Lab) -> Result<Self> {
        let net = Self::ip_edges(lab, ["", "", ""], NARROW_MTU)?;
        for (router, routes) in net.routers.iter().zip(SECOND_LABELS) {
            for route in routes {
                router.run(&format!("route {route}"))?;
            }
            router.wait_resolved()?;
        }
        Ok(net)
    }

    fn ip_edges(lab: &Lab, options: [&str; 3], mtu23: u32) -> Result<Self> {
        let [r1, r2, r3] = options;
        let net = Self::loaded(lab, [&format!("--local {r1}"), r2, &format!("--local {r3}")], mtu23)?;
        for (router, routes) in net.edges().into_iter().zip(EDGE_KERNEL_ROUTES) {
            for (key, value) in EDGE_SYSCTLS {
                router.netns().sysctl(key, value)?;
            }
            for route in routes {
                router.netns().ip(&format!("route add {route}"))?;
            }
        }
        // Kernels answer with only a few ICMP packets per second.
        for netns in net.routers.iter().map(Router::netns).chain([&net.host1, &net.host2]) {
            netns.sysctl("ipv4/icmp_ratelimit", "0")?;
            netns.sysctl("ipv6/icmp/ratelimit", "0")?;
        }
        for (router, routes) in net.routers.iter().zip(EDGE_ROUTES) {
            router.add_routes(routes)?;
        }
        Ok(net)
    }

    /// r1 and r3.
    pub fn edges(&self) -> [&Router; 2] {
        let [r1, _, r3] = &self.routers;
        [r1, r3]
    }

    fn loaded(lab: &Lab, options: [&str; 3], mtu23: u32) -> Result<Self> {
        let [host1, r1, r2, r3, host2] = ["host1", "r1", "r2", "r3", "host2"].map(|name| lab.netns(name));
        let (host1, r1, r2, r3, host2) = (host1?, r1?, r2?, r3?, host2?);
        let (cable12, cable23) = (lab.netns("cable12")?, lab.netns("cable23")?);
        link(
            End::new(&host1, "eth0").address("10.3.3.2/24").address("fd00:3::2/64"),
            End::new(&r1, "eth1").address("10.3.3.1/24").address("fd00:3::1/64"),
        )?;
        tapped_link(
            End::new(&r1, "eth2")
                .address("192.168.30.101/24")
                .address("fd00:30::101/64")
                .mtu(CORE_MTU),
            &cable12,
            End::new(&r2, "eth1")
                .address("192.168.30.102/24")
                .address("fd00:30::102/64")
                .mtu(CORE_MTU),
        )?;
        tapped_link(
            End::new(&r2, "eth2")
                .address("192.168.40.101/24")
                .address("fd00:40::101/64")
                .mtu(mtu23),
            &cable23,
            End::new(&r3, "eth1")
                .address("192.168.40.102/24")
                .address("fd00:40::102/64")
                .mtu(mtu23),
        )?;
        link(
            End::new(&r3, "eth2").address("10.4.4.1/24").address("fd00:4::1/64"),
            End::new(&host2, "eth0").address("10.4.4.2/24").address("fd00:4::2/64"),
        )?;
        host1.ip("route add default via 10.3.3.1")?;
        host2.ip("route add default via 10.4.4.1")?;
        host1.ip("route add default via fd00:3::1")?;
        host2.ip("route add default via fd00:4::1")?;
        let load = |router, options| Router::load(router, &format!("--iface eth1 --iface eth2 {options}"));
        let [options1, options2, options3] = options;
        Ok(Self {
            routers: [load(&r1, options1)?, load(&r2, options2)?, load(&r3, options3)?],
            host1,
            host2,
            cable12,
            cable23,
        })
    }

    pub fn add_routes(&self) -> Result<()> {
        for (router, routes) in self.routers.iter().zip(ROUTES) {
            router.add_routes(&routes)?;
        }
        Ok(())
    }
}

/// Sends this many bytes by TCP and checks that each arrives; returns how long it took.
pub fn transfer(from: &Netns, to: &Netns, address: IpAddr, bytes: usize) -> Result<Duration> {
    const CONNECT: Duration = Duration::from_secs(10);
    const LIMIT: Option<Duration> = Some(Duration::from_secs(30));
    // A period that no power of two divides, so that a lost, doubled or moved block is noticed.
    let data: Vec<u8> = (0..251).cycle().take(bytes).collect();
    let listener = to.within(|| TcpListener::bind((address, 0)).context("cannot listen"))?;
    listener.set_nonblocking(true)?;
    let target: SocketAddr = listener.local_addr()?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            // With a limit: the other side may fail to connect.
            let accept = || match listener.accept() {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
                accepted => Ok(Some(accepted?.0)),
            };
            let mut stream = wait::until("a TCP connection", CONNECT, accept)?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(LIMIT)?;
            let mut received = 0;
            let mut buffer = vec![0; 1 << 16];
            loop {
                let length = stream
                    .read(&mut buffer)
                    .with_context(|| format!("after {received} bytes"))?;
                if length == 0 {
                    return Ok::<_, anyhow::Error>(received);
                }
                let expected = data.get(received..received + length);
                ensure!(
                    expected == Some(&buffer[..length]),
                    "bytes {received} to {} are not what was sent",
                    received + length
                );
                received += length;
            }
        });
        let mut stream = from.within(|| TcpStream::connect_timeout(&target, CONNECT).context("cannot connect"))?;
        stream.set_write_timeout(LIMIT)?;
        let start = Instant::now();
        stream.write_all(&data).context("the transfer stops")?;
        drop(stream);
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        ensure!(received == bytes, "{received} of {bytes} bytes arrived");
        Ok(start.elapsed())
    })
}

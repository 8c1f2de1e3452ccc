//! The topology of the demo and of the first end-to-end test:
//!
//! ```text
//!  host1 ---------- r1 =============== r2 =============== r3 ---------- host2
//!  10.3.3.2   .1      .101         .102  .101         .102     .1    10.4.4.2
//!    10.3.3.0/24        192.168.30.0/24    192.168.40.0/24       10.4.4.0/24
//! ```
//!
//! The links between the routers carry labels, have an MTU of 1600, and can be listened to.

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

/// What is typed on each router after `mplsxdp route add`: labels 100 and 110 there, 200 and 210 back.
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

/// MTU of the links that carry labels.
const CORE_MTU: u32 = 1600;

pub struct ThreeRouters {
    pub routers: [Router; 3],
    pub host1: Netns,
    pub host2: Netns,
    /// The cable between r1 and r2: interface `a` is on r1's side, `b` on r2's.
    pub cable12: Netns,
    /// Likewise between r2 and r3.
    pub cable23: Netns,
}

impl ThreeRouters {
    /// With mplsxdp loaded on the routers, and no routes.
    pub fn new(lab: &Lab) -> Result<Self> {
        let [host1, r1, r2, r3, host2] = ["host1", "r1", "r2", "r3", "host2"].map(|name| lab.netns(name));
        let (host1, r1, r2, r3, host2) = (host1?, r1?, r2?, r3?, host2?);
        let (cable12, cable23) = (lab.netns("cable12")?, lab.netns("cable23")?);
        link(
            End::new(&host1, "eth0").address("10.3.3.2/24"),
            End::new(&r1, "eth1").address("10.3.3.1/24"),
        )?;
        tapped_link(
            End::new(&r1, "eth2").address("192.168.30.101/24").mtu(CORE_MTU),
            &cable12,
            End::new(&r2, "eth1").address("192.168.30.102/24").mtu(CORE_MTU),
        )?;
        tapped_link(
            End::new(&r2, "eth2").address("192.168.40.101/24").mtu(CORE_MTU),
            &cable23,
            End::new(&r3, "eth1").address("192.168.40.102/24").mtu(CORE_MTU),
        )?;
        link(
            End::new(&r3, "eth2").address("10.4.4.1/24"),
            End::new(&host2, "eth0").address("10.4.4.2/24"),
        )?;
        host1.ip("route add default via 10.3.3.1")?;
        host2.ip("route add default via 10.4.4.1")?;
        let load = |router: &Netns| Router::load(router, "--iface eth1 --iface eth2");
        Ok(Self {
            routers: [load(&r1)?, load(&r2)?, load(&r3)?],
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
    // A period that no power of two divides: a block that is lost, doubled or moved shows.
    let data: Vec<u8> = (0..251).cycle().take(bytes).collect();
    let listener = to.within(|| TcpListener::bind((address, 0)).context("cannot listen"))?;
    listener.set_nonblocking(true)?;
    let target: SocketAddr = listener.local_addr()?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            // Not for ever: the other side may fail to connect.
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

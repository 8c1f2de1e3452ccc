//! One router between two taps.

use anyhow::{Result, ensure};
use mplsxdp_common::wire::Mac;
use mplsxdp_tests::frame::{Entry, labelled, udp};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link};

pub const LEFT: &str = "02:00:00:00:01:02";
pub const RIGHT: &str = "02:00:00:00:02:02";
/// The usual options of the router.
pub const NATIVE: &str = "--iface eth1 --iface eth2";
/// Swapped to 998 towards the right: once this frame has come through, so has everything before it.
const MARKER: u32 = 999;

/// ```text
///  left tap ---------- eth1 router eth2 ---------- right tap
///  10.0.1.2    10.0.1.1                  10.0.2.1
///  fd00:1::2   fd00:1::1                 fd00:2::1
/// ```
pub struct Bench {
    pub router: Router,
    pub left: Tap,
    pub right: Tap,
    pub port1: Mac,
    pub port2: Mac,
    pub left_netns: Netns,
    pub right_netns: Netns,
    pub lab: Lab,
}

impl Bench {
    pub fn new(options: &str) -> Result<Self> {
        // So that arriving frames can be too large to leave.
        Self::with_mtus(options, 2000, 1500)
    }

    /// The same with other MTUs on the left and the right.
    pub fn with_mtus(options: &str, left_mtu: u32, right_mtu: u32) -> Result<Self> {
        Self::cabled(options, left_mtu, right_mtu, |_, a, b| link(a, b))
    }

    /// With given cables: the left one is number 0, the right one 1.
    pub fn cabled(
        options: &str,
        left_mtu: u32,
        right_mtu: u32,
        link: impl Fn(usize, End<'_>, End<'_>) -> Result<()>,
    ) -> Result<Self> {
        let lab = Lab::new()?;
        let (left, middle, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(
            0,
            End::new(&left, "eth0")
                .address("10.0.1.2/24")
                .address("fd00:1::2/64")
                .mac(LEFT)
                .mtu(left_mtu),
            End::new(&middle, "eth1")
                .address("10.0.1.1/24")
                .address("fd00:1::1/64")
                .mtu(left_mtu),
        )?;
        link(
            1,
            End::new(&middle, "eth2")
                .address("10.0.2.1/24")
                .address("fd00:2::1/64")
                .mtu(right_mtu),
            End::new(&right, "eth0").mac(RIGHT).mtu(right_mtu),
        )?;
        let router = Router::load(&middle, options)?;
        router.run(&format!("route add {MARKER} as 998 via link {RIGHT} dev eth2"))?;
        Ok(Self {
            router,
            port1: middle.mac("eth1")?,
            port2: middle.mac("eth2")?,
            left: Tap::open(&left, "eth0")?,
            right: Tap::open(&right, "eth0")?,
            left_netns: left,
            right_netns: right,
            lab,
        })
    }

    /// Adds a route towards the right tap.
    pub fn route(&self, route: &str) -> Result<()> {
        self.router
            .run(&format!("route add {route} via link {RIGHT} dev eth2"))
            .map(drop)
    }

    /// A labelled frame as it arrives from the left tap.
    pub fn labelled(&self, stack: &[Entry], payload: &[u8]) -> Vec<u8> {
        labelled(self.port1, self.left.mac(), stack, payload)
    }

    /// A labelled frame as it leaves towards the right tap.
    pub fn out_labelled(&self, stack: &[Entry], payload: &[u8]) -> Vec<u8> {
        labelled(self.right.mac(), self.port2, stack, payload)
    }

    /// Sends a frame from the left; returns what is forwarded to the right.
    pub fn forward(&self, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.left.send(frame)?;
        self.left.send(&self.labelled(&[Entry::new(MARKER, 64)], &[]))?;
        let marker = self.out_labelled(&[Entry::new(998, 63)], &[]);
        let mut forwarded = Vec::new();
        self.right.receive("the marker", |frame| {
            // The router's kernel sends multicast of its own.
            if frame.starts_with(&self.right.mac().0) && frame != marker {
                forwarded.push(frame.to_vec());
            }
            frame == marker
        })?;
        Ok(forwarded)
    }

    pub fn expect(&self, what: &str, sent: &[u8], expected: &[u8]) -> Result<()> {
        let forwarded = self.forward(sent)?;
        ensure!(
            forwarded == [expected],
            "{what}: sent {sent:02x?}\nexpected {expected:02x?}\nreceived {forwarded:02x?}"
        );
        Ok(())
    }

    pub fn expect_drop(&self, reason: &str, sent: &[u8]) -> Result<()> {
        let before = self.router.dropped(reason)?;
        let forwarded = self.forward(sent)?;
        ensure!(
            forwarded.is_empty(),
            "{reason}: sent {sent:02x?}\nreceived {forwarded:02x?}"
        );
        let counted = self.router.dropped(reason)? - before;
        ensure!(counted == 1, "{reason}: sent {sent:02x?}, counted {counted}");
        Ok(())
    }
}

/// From far away: the router has no route to the source.
pub fn v4(ttl: u8) -> Result<Vec<u8>> {
    udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, ttl, b"four")
}

pub fn v6(ttl: u8) -> Result<Vec<u8>> {
    udp("2001:db8::1".parse()?, "2001:db8:9::1".parse()?, ttl, b"six")
}

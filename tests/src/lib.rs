//! The lab for the end-to-end tests, the demo and the benches: network namespaces joined by veth pairs, `mplsxdp`
//! running in them, and sockets that send and receive exact frames. Everything that a lab creates is removed with it:
//! when it is dropped, when a test panics, and on Ctrl-C. The next lab purges what a killed one left behind.

pub mod bystanders;
pub mod conformance;
pub mod differential_kernel;
pub mod frame;
pub mod fuzz;
pub mod groups;
pub mod http;
pub mod icmp;
pub mod needs;
pub mod netlink;
pub mod netns;
pub mod numbered;
pub mod own_traffic;
pub mod random;
pub mod rig;
pub mod router;
pub mod tap;
pub mod tcpdump;
pub mod terminal;
pub mod three_routers;
pub mod tidy;
pub mod transit;
pub mod virtio;
pub mod vm;
pub mod vty;
pub mod wait;
pub mod zebra;

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;

pub use mplsxdp::pcap as capture;
pub use netns::{End, Netns, link};
pub use router::Router;
pub use tap::Tap;

/// A name space for the namespaces of one test.
pub struct Lab {
    number: u32,
}

impl Lab {
    /// The first one of a process purges what dead processes left.
    pub fn new() -> Result<Self> {
        static PURGE: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut purged = Ok(());
        PURGE.call_once(|| purged = tidy::purge());
        purged?;
        Ok(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// A new network namespace; its full name shows which process created it.
    pub fn netns(&self, name: &str) -> Result<Netns> {
        Netns::new(format!("{}{}-{}-{name}", tidy::PREFIX, std::process::id(), self.number))
    }
}

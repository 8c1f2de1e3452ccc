//! Numbered datagrams from one host to another, and which of them are lost.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::net::Node;

/// The time between two datagrams.
pub const INTERVAL: Duration = Duration::from_millis(5);
/// How long the last ones may take.
const LAST: Duration = Duration::from_millis(500);

/// Traffic that flows until it is counted.
pub struct Traffic {
    end: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<BTreeSet<u64>>,
}

/// The result.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub sent: u64,
    pub lost: u64,
    /// The most that were lost in a row.
    pub longest: u64,
}

impl Traffic {
    /// The same, and says so.
    pub fn start_shown(from: &Node, to: &Node, address: IpAddr) -> Result<Self> {
        println!(
            "From here on, {} sends {} a numbered datagram every {} ms; which of them are lost is counted at the end.",
            from.name(),
            to.name(),
            INTERVAL.as_millis()
        );
        Self::start(from, to, address)
    }

    pub fn start(from: &Node, to: &Node, address: IpAddr) -> Result<Self> {
        let receiving = to
            .netns()
            .within(|| UdpSocket::bind((address, 0)).context("cannot receive datagrams"))?;
        let target: SocketAddr = receiving.local_addr()?;
        let unspecified: IpAddr = match address {
            IpAddr::V4(_) => [0; 4].into(),
            IpAddr::V6(_) => [0; 16].into(),
        };
        let sending = from
            .netns()
            .within(|| UdpSocket::bind((unspecified, 0)).context("cannot send datagrams"))?;
        receiving.set_read_timeout(Some(LAST))?;
        let end = Arc::new(AtomicBool::new(false));
        let (stop, ended) = (Arc::clone(&end), Arc::clone(&end));
        let sender = thread::spawn(move || {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                // A datagram that cannot be sent, for example without a route, counts as lost.
                let _ = sending.send_to(&number.to_be_bytes(), target);
                number += 1;
                thread::sleep(INTERVAL);
            }
            number
        });
        let receiver = thread::spawn(move || {
            let mut received = BTreeSet::new();
            let mut buffer = [0; 8];
            loop {
                match receiving.recv(&mut buffer) {
                    Ok(_) => {
                        received.insert(u64::from_be_bytes(buffer));
                    }
                    Err(_) if ended.load(Ordering::Relaxed) => return received,
                    Err(_) => {}
                }
            }
        });
        Ok(Self { end, sender, receiver })
    }

    /// Ends it.
    pub fn count(self) -> Result<Counted> {
        self.end.store(true, Ordering::Relaxed);
        let sent = self.sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let received = self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let (mut lost, mut longest, mut run) = (0, 0, 0);
        for number in 0..sent {
            if received.contains(&number) {
                run = 0;
            } else {
                run += 1;
                lost += 1;
                longest = longest.max(run);
            }
        }
        Ok(Counted { sent, lost, longest })
    }
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, lost, longest } = self;
        match lost {
            0 => write!(f, "none of {sent} datagrams lost"),
            _ => write!(f, "{lost} of {sent} datagrams lost, at most {longest} in a row"),
        }
    }
}

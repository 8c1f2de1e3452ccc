//! Requests to the kernel for the switch: begun in order, with a bounded number under way.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::net::IpAddr;
use std::pin::Pin;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tracing::{debug, warn};

use super::Outcome;
use crate::kernel::Netlink;
use crate::switch::Input;

/// The answers to this many fit the receive buffer of the socket in any case.
const UNDER_WAY: usize = 64;

type Request = Pin<Box<dyn Future<Output = Outcome>>>;

pub struct Requests {
    netlink: Netlink,
    queued: VecDeque<Request>,
    under_way: FuturesUnordered<Request>,
}

impl Requests {
    pub fn new(netlink: Netlink) -> Self {
        Self {
            netlink,
            queued: VecDeque::new(),
            under_way: FuturesUnordered::new(),
        }
    }

    pub fn push(&mut self, request: impl Future<Output = Outcome> + 'static) {
        self.queued.push_back(Box::pin(request));
        self.begin();
    }

    fn begin(&mut self) {
        while self.under_way.len() < UNDER_WAY
            && let Some(request) = self.queued.pop_front()
        {
            self.under_way.push(request);
        }
    }

    /// Asks the kernel in each of these scopes, until one fails.
    pub fn look_up(&mut self, address: IpAddr, scopes: Vec<Option<u32>>) {
        let netlink = self.netlink.clone();
        self.push(async move {
            let mut answers = Vec::with_capacity(scopes.len());
            for scope in scopes {
                answers.push(netlink.route_lookup(address, scope).await);
                if answers.last().is_some_and(Result::is_err) {
                    break;
                }
            }
            Outcome::Input(Input::LookedUp { address, answers })
        });
    }

    pub fn probe(&mut self, ifindex: u32, address: IpAddr) {
        let netlink = self.netlink.clone();
        self.push(async move {
            match netlink.probe(ifindex, address).await {
                Ok(()) => {}
                // No kernel that mplsxdp runs on counts these entries against the limit, but there may be no memory.
                Err(error) if error.errno() == Some(libc::ENOBUFS) => warn!(
                    ifindex,
                    %address,
                    "the kernel has no room for a neighbour, which is tried again every second: see `mplsxdp doctor` \
                     (check neighbour-table)"
                ),
                Err(error) => debug!(ifindex, %address, %error, "cannot have a neighbour resolved"),
            }
            Outcome::Nothing
        });
    }

    pub fn release(&mut self, ifindex: u32, address: IpAddr) {
        let netlink = self.netlink.clone();
        self.push(async move {
            if let Err(error) = netlink.release(ifindex, address).await {
                debug!(ifindex, %address, %error, "cannot release a neighbour");
            }
            Outcome::Nothing
        });
    }

    pub fn verify(&mut self, ifindex: u32, address: IpAddr) {
        let netlink = self.netlink.clone();
        self.push(async move {
            if let Err(error) = netlink.verify(ifindex, address).await {
                debug!(ifindex, %address, %error, "cannot have a neighbour verified");
            }
            Outcome::Nothing
        });
    }

    /// The next result that matters; waits for ever while nothing is under way. Can be dropped and called again at any
    /// time. Results without meaning begin the next requests at once: a thousand neighbours would otherwise wait for as
    /// many steps of other work.
    pub async fn next(&mut self) -> Outcome {
        loop {
            let Some(outcome) = self.under_way.next().await else {
                return pending().await;
            };
            self.begin();
            if !matches!(outcome, Outcome::Nothing) {
                return outcome;
            }
        }
    }

    /// Waits for all of them.
    pub async fn finish(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(outcome) = self.under_way.next().await {
            self.begin();
            outcomes.push(outcome);
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::kernel::Interests;

    /// One wait carries out all of them, so none waits for other work of the event loop.
    #[tokio::test]
    async fn a_request_without_a_result_does_not_end_a_wait() {
        let (netlink, _events) = Netlink::open_with(Interests::default()).unwrap();
        let mut requests = Requests::new(netlink);
        for _ in 0..20 * UNDER_WAY {
            requests.push(async {
                tokio::task::yield_now().await;
                Outcome::Nothing
            });
        }
        requests.push(async { Outcome::Input(Input::Tick) });
        assert!(matches!(requests.next().await, Outcome::Input(Input::Tick)));
        assert!(requests.queued.is_empty());
        while !requests.under_way.is_empty() {
            assert!(requests.next().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    }
}

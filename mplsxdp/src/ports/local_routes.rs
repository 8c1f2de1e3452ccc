//! Kernel routes into the local interface, from the configuration. They are added when the interface is created, and
//! disappear with it. A separate task installs them, so nothing waits for the kernel. A route that the kernel refuses,
//! because its source is not an address of this machine yet, is retried until it succeeds.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::local::LocalPair;
use crate::kernel::{LocalRoute, Netlink};

/// How long to wait before retrying a route that the kernel has refused.
const RETRY: Duration = Duration::from_secs(1);

/// The routes of the running instance. The task ends when this is dropped; the routes disappear with the interface.
#[derive(Debug)]
pub struct LocalRoutes {
    wanted: watch::Sender<BTreeSet<LocalRoute>>,
}

impl LocalRoutes {
    /// Installs the routes, each tried once before this returns. Those that a dead process has left stay if they are
    /// among them.
    pub async fn install(routes: &[LocalRoute], pair: &LocalPair, netlink: &Netlink) -> Self {
        let (wanted, following) = watch::channel(routes.iter().copied().collect());
        let ifindex = pair.ifindex();
        let installed = match pair.is_adopted() {
            true => netlink.own_routes(ifindex).await.unwrap_or_else(|error| {
                warn!(%error, "cannot list the kernel routes that were left behind");
                BTreeSet::new()
            }),
            false => BTreeSet::new(),
        };
        let mut keeper = Keeper {
            ifindex,
            netlink: netlink.clone(),
            installed,
            refused: BTreeSet::new(),
        };
        keeper.follow(routes.iter().copied().collect()).await;
        tokio::spawn(keeper.run(following));
        Self { wanted }
    }

    /// Replaces the routes.
    pub fn set(&self, routes: &[LocalRoute]) {
        self.wanted.send_replace(routes.iter().copied().collect());
    }
}

struct Keeper {
    ifindex: u32,
    netlink: Netlink,
    installed: BTreeSet<LocalRoute>,
    /// Routes about which a warning was logged.
    refused: BTreeSet<LocalRoute>,
}

impl Keeper {
    async fn run(mut self, mut wanted: watch::Receiver<BTreeSet<LocalRoute>>) {
        loop {
            let retry = async {
                if self.refused.is_empty() {
                    std::future::pending().await
                } else {
                    tokio::time::sleep(RETRY).await;
                }
            };
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = retry => {}
            }
            let routes = wanted.borrow_and_update().clone();
            self.follow(routes).await;
        }
    }

    async fn follow(&mut self, wanted: BTreeSet<LocalRoute>) {
        let gone: Vec<_> = self.installed.difference(&wanted).copied().collect();
        for route in gone {
            self.installed.remove(&route);
            let LocalRoute { prefix, src } = route;
            if let Err(error) = self.netlink.remove_route(prefix, src, self.ifindex).await {
                warn!(%route, %error, "cannot remove the kernel route");
            }
        }
        self.refused.retain(|route| wanted.contains(route));
        for route in wanted {
            if self.installed.contains(&route) {
                continue;
            }
            let LocalRoute { prefix, src } = route;
            match self.netlink.add_route(prefix, src, self.ifindex).await {
                Ok(()) => {
                    self.installed.insert(route);
                    if self.refused.remove(&route) {
                        info!(%route, "the kernel has accepted the route");
                    }
                }
                Err(error) => {
                    if self.refused.insert(route) {
                        let until = match src {
                            Some(src) => format!(" until {src} is an address of this machine"),
                            None => String::new(),
                        };
                        warn!(%route, %error, "the kernel refuses the route{until}; it is retried every second");
                    }
                }
            }
        }
    }
}

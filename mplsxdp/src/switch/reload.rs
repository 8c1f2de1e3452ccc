//! SIGHUP: the configuration is read again, and what is new in it takes effect, whole or not at all.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::{Controller, config_route, is_absence, is_busy, told, wish};
use crate::config::{Config, ConfigError, PortConfig};
use crate::control::api::ChangeMode;
use crate::lfib::Changes;
use crate::ports::{Role, Wish};
use crate::route::Owner;

/// Reads the configuration again: the command line, and the config file as it is now.
pub type Reread = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// A configuration that is being read. A long one takes a while, and does so on a thread of its own.
#[derive(Default)]
pub struct Reading(Option<JoinHandle<Result<Config, ConfigError>>>);

impl Reading {
    pub fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    pub fn begin(&mut self, reread: Option<&Reread>) {
        let Some(reread) = reread.cloned() else {
            info!("SIGHUP: there is no config file to read again, so nothing changes; `load --config FILE` names one");
            return;
        };
        info!("SIGHUP: reading the configuration again");
        self.0 = Some(tokio::task::spawn_blocking(move || reread()));
    }

    /// The configuration, once it is read; never if none is being read.
    pub async fn done(&mut self) -> anyhow::Result<Config> {
        let Some(reading) = &mut self.0 else {
            return std::future::pending().await;
        };
        let read = reading.await;
        self.0 = None;
        Ok(read.context("the reader of the configuration has failed")??)
    }
}

/// Ports that came, went or changed by a configuration.
#[derive(Default)]
struct PortChanges {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Controller {
    /// Takes over a configuration that was read again. If it cannot be, all stays as it was.
    pub(super) async fn reload(&mut self, read: anyhow::Result<Config>) {
        let result = match read {
            Ok(config) => self.take_over(config).await,
            Err(error) => Err(error),
        };
        match result {
            Ok((routes, ports)) => info!(
                routes_added = routes.added,
                routes_replaced = routes.replaced,
                routes_deleted = routes.deleted,
                ports_added = ports.added.join(" "),
                ports_changed = ports.changed.join(" "),
                ports_removed = ports.removed.join(" "),
                "the configuration was read again"
            ),
            Err(error) => error!(
                "the configuration cannot be taken over, and nothing was changed: {}; correct it and send SIGHUP again",
                told(&error)
            ),
        }
    }

    async fn take_over(&mut self, config: Config) -> anyhow::Result<(Changes, PortChanges)> {
        let mut ports = PortChanges::default();
        let mut absent = Vec::new();
        let is_there = |port: &&PortConfig| self.wish_of(&port.name).is_some();
        let (old, new): (Vec<&PortConfig>, Vec<&PortConfig>) = config.ports.iter().partition(is_there);
        for port in &new {
            match self.ports.check(&port.name, &self.netlink).await {
                Ok(()) => {}
                Err(error) if is_absence(&error) && config.wait => absent.push(&*port.name),
                Err(error) => return Err(error),
            }
        }
        // What is new is there before the routes that lead to it, and what goes stays until they do not.
        for port in new {
            let taken = match self.take_port(port, absent.contains(&&*port.name)).await {
                // It may be free in a moment, for which nothing else waits.
                Err(error) if is_busy(&error) => self.have_wait(&port.name, wish(port), told(&error)),
                taken => taken,
            };
            if let Err(error) = taken {
                self.give_back(&ports.added).await;
                return Err(error);
            }
            ports.added.push(port.name.clone());
        }
        if !ports.added.is_empty() {
            self.ports.follow_waiting(self.resolver.links(), Instant::now());
            self.ports_changed().await;
        }
        let changes = match self.lfib.search_all(&config.routes) {
            Err(error) => Err(error),
            Ok(mut new) => {
                self.lfib.take_all_ahead(&mut new);
                self.follow_next_hops().await;
                let changes = self.lfib.change(ChangeMode::ReplaceAll, Owner::Config, &config.routes);
                self.lfib.let_all_go(&mut new);
                self.routes_changed().await;
                changes
            }
        };
        let routes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                self.give_back(&ports.added).await;
                return Err(anyhow::anyhow!("{}: {error}", config_route(&config, &error)));
            }
        };
        for port in old {
            let before = self.config.ports.iter().find(|before| before.name == port.name);
            let sets_mpls = before.is_some_and(|before| before.mpls != port.mpls);
            if self.change_port(&port.name, wish(port)).await || (sets_mpls && self.set_mpls(&port.name, port.mpls)) {
                ports.changed.push(port.name.clone());
            }
        }
        let stays = |name: &str| config.ports.iter().any(|port| port.name == name);
        let gone = self.config.ports.iter().map(|port| port.name.clone());
        let gone: Vec<String> = gone.filter(|name| !stays(name)).collect();
        for name in gone {
            if self.drop_port(&name).await {
                ports.removed.push(name);
            }
        }
        self.waiting_routes(&config.routes).log();
        self.log_handover(&config.routes);
        self.ports.set_readopts(!config.no_readopt);
        self.ports.set_fixes_peers(config.fix_peers);
        if let Some(routes) = &self.local_routes {
            routes.set(&config.kernel_route);
        }
        let restart = self.config.reload(config);
        if !restart.is_empty() {
            warn!(
                "{} changed in the configuration: that takes effect when the instance is loaded anew",
                restart.join(", ")
            );
        }
        Ok((routes, ports))
    }

    /// What a port is, or is to be when its interface comes.
    fn wish_of(&self, name: &str) -> Option<Wish> {
        let port = self.ports.number(name).and_then(|number| self.ports.get(number));
        let port = port.map(|port| port.wish()).filter(|wish| wish.role != Role::Carrier);
        port.or_else(|| Some(self.ports.waiting().get(name)?.wish))
    }

    /// Makes a port one that switches, or one that is only transmitted to. Returns whether it was not yet.
    async fn change_port(&mut self, name: &str, wish: Wish) -> bool {
        if self.wish_of(name).is_none_or(|before| before.role == wish.role) {
            return false;
        }
        if let Some(waiting) = self.ports.waiting_mut().get_mut(name) {
            waiting.wish = wish;
            return true;
        }
        let Some(number) = self.ports.number(name) else {
            return false;
        };
        let changed = self.ports.set_role(number, wish, &mut self.lfib, &mut self.exceptions);
        if let Err(error) = &changed {
            error!(port = name, "cannot make it another kind of port: {}", told(error));
        }
        changed.is_ok()
    }

    /// Returns whether there is such a port that can accept labels, or not.
    fn set_mpls(&mut self, name: &str, mpls: bool) -> bool {
        if let Some(waiting) = self.ports.waiting_mut().get_mut(name) {
            waiting.wish.mpls = mpls;
            return true;
        }
        let port = self.ports.number(name);
        port.is_some_and(|port| self.ports.set_mpls(port, mpls, &mut self.lfib).is_ok())
    }

    async fn give_back(&mut self, names: &[String]) {
        for name in names {
            self.drop_port(name).await;
        }
    }

    /// Returns whether there was such a port.
    async fn drop_port(&mut self, name: &str) -> bool {
        if self.ports.waiting_mut().remove(name).is_some() {
            return true;
        }
        let port = self.ports.number(name).filter(|&number| {
            let port = self.ports.get(number);
            port.is_some_and(|port| port.wish().role != Role::Carrier)
        });
        if let Some(number) = port {
            self.remove_port(number).await;
        }
        port.is_some()
    }
}

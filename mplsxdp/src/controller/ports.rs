//! The ports: interfaces that carry the program. A port has a number for as long as it is one; the tables know it by that.

use std::sync::Arc;

use anyhow::Context as _;
use mplsxdp_common::abi::{MAX_PORTS, PortWord, Settings};
use mplsxdp_common::wire::Mac;
use tracing::{debug, info, warn};

use super::preflight;
use crate::config::{Config, XdpMode};
use crate::dataplane::kernel::KernelTables;
use crate::dataplane::loader::Loader;
use crate::dataplane::port::{AttachError, Attachment, attach};
use crate::dataplane::{Tables as _, ethtool};
use crate::lfib::Lfib;
use crate::neighbour::LinkInfo;
use crate::neighbour::links::Links;
use crate::neighbour::netlink::Netlink;
use crate::slowpath::xsk::XskPort;

/// What a port is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Labelled frames and IP packets come in and go out.
    Switching,
    /// Frames only go out.
    TxOnly,
    /// The far end of the veth pair that this box's own packets are sent into.
    Local,
}

/// One port.
pub struct Port {
    number: u16,
    name: Arc<str>,
    ifindex: u32,
    mac: Mac,
    mtu: u32,
    role: Role,
    mpls: bool,
    /// On its way out: nothing is to be sent there any more.
    retired: bool,
    attachment: Attachment,
}

impl Port {
    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// As the adjacency table has it.
    pub fn mtu(&self) -> u16 {
        self.mtu.try_into().unwrap_or(u16::MAX)
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn mpls(&self) -> bool {
        self.mpls
    }

    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    fn word(&self) -> PortWord {
        let flags = match (self.role, self.mpls) {
            (Role::TxOnly, _) => 0,
            (Role::Local, _) => PortWord::IMPOSE | PortWord::LOCAL,
            (Role::Switching, true) => PortWord::IMPOSE | PortWord::MPLS,
            (Role::Switching, false) => PortWord::IMPOSE,
        };
        PortWord::new(self.mac, flags)
    }
}

/// All ports, and the program that goes onto them.
pub struct Ports {
    loader: Loader,
    mode: XdpMode,
    /// Of port 0; each port's own have its number.
    settings: Settings,
    ports: Vec<Port>,
}

impl Ports {
    pub fn new(loader: Loader, config: &Config) -> Self {
        let settings = Settings::new(
            0,
            config.ttl_mode,
            config.tunnel_ttl,
            config.tc_propagate,
            config.log_exceptions,
        )
        .with_unknown(config.unknown.into());
        Self {
            loader,
            mode: config.mode,
            settings,
            ports: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ports.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter()
    }

    /// The port of an interface, unless it is retired.
    pub fn by_ifindex(&self, ifindex: u32) -> Option<&Port> {
        self.ports.iter().find(|port| port.ifindex == ifindex && !port.retired)
    }

    /// What is frozen into the program of port `number`.
    pub fn settings(&self, number: u16) -> Settings {
        self.settings.with_port(number.into())
    }

    pub fn ifindex(&self, number: u16) -> Option<u32> {
        self.get(number).map(Port::ifindex)
    }

    pub fn name(&self, number: u16) -> Option<&str> {
        self.get(number).map(Port::name)
    }

    fn get(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    pub fn number(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| &*port.name == name).map(Port::number)
    }

    /// That `name` can become a port.
    pub async fn check(&self, name: &str, netlink: &Netlink) -> anyhow::Result<preflight::Facts> {
        if self.number(name).is_some() {
            anyhow::bail!("{name} is a port already");
        }
        let facts = preflight::gather(name, netlink).await?;
        for note in preflight::check(&facts, self.mode)? {
            // Told again, as a warning, where it still holds when the program is attached.
            debug!(port = name, "{note}");
        }
        Ok(facts)
    }

    /// Makes an interface a port: its tables and sockets first, then the program. Returns its number, and the sockets that its
    /// exceptions come up through.
    pub async fn add(
        &mut self,
        name: &str,
        role: Role,
        netlink: &Netlink,
        lfib: &mut Lfib<KernelTables>,
    ) -> anyhow::Result<(u16, XskPort)> {
        let facts = self.check(name, netlink).await?;
        let link = facts.link.clone().context("the interface has just gone")?;
        let mac = link.mac.context("the interface has no MAC address")?;
        let number = (0..MAX_PORTS as u16)
            .find(|number| self.ports.iter().all(|port| port.number != *number))
            .with_context(|| format!("all {MAX_PORTS} ports are in use"))?;
        let queues = if role == Role::TxOnly {
            // Only to send by.
            1
        } else {
            ethtool::receive_queues(name).with_context(|| format!("cannot tell how many receive queues {name} has"))?
        };
        let sockets = XskPort::open(name, queues).await?;
        let program = self.loader.program(self.settings(number))?;

        let tables = lfib.tables_mut();
        tables.clear_reason_counters(number)?;
        tables.set_tx_port(number, link.ifindex)?;
        for (queue, socket) in sockets.receiver.sockets() {
            tables.set_listener(number, queue, socket)?;
        }
        let attached = attach(program, link.ifindex, self.mode).map_err(|error| match error {
            AttachError::Kernel(error) => preflight::attach_error(&facts, self.mode, error).into(),
            other => anyhow::Error::from(other),
        });
        let port = attached.map(|attachment| Port {
            number,
            name: link.name.clone(),
            ifindex: link.ifindex,
            mac,
            mtu: link.mtu,
            role,
            mpls: role == Role::Switching,
            retired: false,
            attachment,
        });
        let checked = match port {
            Ok(port) => {
                // Some drivers take redirected frames only once they have a program.
                let facts = preflight::gather(name, netlink).await.map_err(anyhow::Error::from);
                facts.and_then(|facts| Ok((port, preflight::check_attached(&facts, self.mode)?)))
            }
            Err(error) => Err(error),
        };
        match checked {
            Ok((port, notes)) => {
                lfib.tables_mut().store_port(number, port.word());
                for note in notes {
                    warn!(port = name, "{note}");
                }
                info!(port = name, number, link_id = port.attachment.link_id, "attached");
                self.ports.push(port);
                Ok((number, sockets))
            }
            Err(error) => {
                lfib.tables_mut().clear_tx_port(number)?;
                Err(error)
            }
        }
    }

    /// From here on the port is nobody's way out.
    pub fn retire(&mut self, number: u16) {
        if let Some(port) = self.get_mut(number) {
            port.retired = true;
        }
    }

    /// Takes the program off. Next hops must not point to the port any more.
    pub fn remove(&mut self, number: u16, lfib: &mut Lfib<KernelTables>) {
        let Some(index) = self.ports.iter().position(|port| port.number == number) else {
            return;
        };
        let port = self.ports.swap_remove(index);
        info!(port = &*port.name, "detached");
        drop(port);
        let tables = lfib.tables_mut();
        tables.store_port(number, PortWord::default());
        // No frame is on its way to the port any more when its number is given to another.
        tables.wait_for_readers();
        if let Err(error) = tables.clear_tx_port(number) {
            warn!(%error, "cannot free a transmit port");
        }
    }

    pub fn set_mpls(&mut self, number: u16, mpls: bool, lfib: &mut Lfib<KernelTables>) -> Result<(), String> {
        let Some(port) = self.get_mut(number) else {
            return Ok(());
        };
        match port.role {
            Role::TxOnly if mpls => {
                return Err(format!(
                    "{0} is only transmitted to: `mplsxdp link del {0}`, then `mplsxdp link add {0}` has it accept labels",
                    port.name
                ));
            }
            Role::Local if mpls => {
                return Err(format!(
                    "{} is for this box's own packets, which have no labels",
                    port.name
                ));
            }
            Role::Switching | Role::TxOnly | Role::Local => {}
        }
        port.mpls = mpls;
        let word = port.word();
        lfib.tables_mut().store_port(number, word);
        Ok(())
    }

    /// An interface changed. Returns whether adjacencies depend on what did.
    pub fn follow(&mut self, link: &LinkInfo, lfib: &mut Lfib<KernelTables>) -> bool {
        let Some(port) = self.ports.iter_mut().find(|port| port.ifindex == link.ifindex) else {
            return false;
        };
        port.name = link.name.clone();
        let (mac, mtu) = (link.mac.unwrap_or(port.mac), link.mtu);
        if (mac, mtu) == (port.mac, port.mtu) {
            return false;
        }
        (port.mac, port.mtu) = (mac, mtu);
        lfib.tables_mut().store_port(port.number, port.word());
        true
    }

    /// An interface is gone, and the program with it.
    pub fn lose(&mut self, ifindex: u32, lfib: &mut Lfib<KernelTables>) -> bool {
        let Some(port) = self.ports.iter().find(|port| port.ifindex == ifindex) else {
            return false;
        };
        warn!(
            port = &*port.name,
            "the interface is gone, and is no port any more; `mplsxdp link add` takes it when it is back"
        );
        let number = port.number;
        self.retire(number);
        self.remove(number, lfib);
        true
    }

    /// After a resync: what is not among `links` is gone.
    pub fn lose_all_but(&mut self, links: &Links, lfib: &mut Lfib<KernelTables>) -> bool {
        let gone: Vec<u32> = self
            .ports
            .iter()
            .map(Port::ifindex)
            .filter(|&ifindex| links.get(ifindex).is_none())
            .collect();
        for &ifindex in &gone {
            self.lose(ifindex, lfib);
        }
        !gone.is_empty()
    }

    pub fn detach_all(&mut self) {
        self.ports.clear();
    }

    fn get_mut(&mut self, number: u16) -> Option<&mut Port> {
        self.ports.iter_mut().find(|port| port.number == number)
    }
}

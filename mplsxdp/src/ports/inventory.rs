//! The ports: interfaces that carry the program, and their VLAN sub-interfaces, which stand behind it. A port has a number for as
//! long as it is one; the tables know it by that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mplsxdp_common::abi::{self, Domain, MAX_PORTS, PortWord, Settings, VlanTags};
use mplsxdp_common::wire::{Mac, VLAN_HLEN};
use tracing::{debug, info, warn};

use super::programs::{self, Finding, ProgramState, Watch};
use super::waiting::{Waiting, WaitingPorts};
use crate::config::Config;
use crate::control::api::Checksum;
use crate::control::client::{self, Client};
use crate::control::{DEFAULT_INSTANCE, Instance};
use crate::daemon::exceptions::Exceptions;
use crate::dataplane::XdpMode;
use crate::dataplane::kernel::KernelTables;
use crate::dataplane::loader::Loader;
use crate::dataplane::port::{AttachError, Attachment, Interference, attach};
use crate::dataplane::{GracePeriod, Tables as _};
use crate::kernel::Netlink;
use crate::kernel::ethtool;
use crate::lfib::Lfib;
use crate::neighbour::links::Links;
use crate::neighbour::{LinkInfo, Vrf};
use crate::ports::preflight::{self, Facts, ONE_BUFFER_MTU, PreflightError};
use crate::ports::sub_interface::{self, Tags};
use crate::route::{NextHop, Via};
use crate::slowpath::xsk::XskPort;
use crate::switch::told;

/// How long another instance has to say which ports it has.
const HOLDER_WAIT: Duration = Duration::from_secs(1);

/// What a port is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Labelled frames and IP packets come in and go out.
    Switching,
    /// Frames only go out.
    TxOnly,
    /// The far end of the veth pair that this box's own packets are sent into.
    Local,
    /// It has the program for its sub-interfaces only: frames without tags neither come in nor go out.
    Carrier,
}

/// What a port is to be, on whatever interface of its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    pub role: Role,
    /// Labelled frames are accepted.
    pub mpls: bool,
    /// What is done about unfinished checksums; `None`: what the kind of interface needs.
    pub checksum: Option<Checksum>,
}

impl Wish {
    pub fn new(role: Role, checksum: Option<Checksum>) -> Self {
        Self {
            role,
            mpls: role == Role::Switching,
            checksum,
        }
    }
}

/// One port.
pub struct Port {
    number: u16,
    name: Arc<str>,
    mac: Mac,
    mtu: u32,
    role: Role,
    mpls: bool,
    /// As it was asked for.
    checksum: Option<Checksum>,
    /// On its way out: nothing is to be sent there any more.
    retired: bool,
    /// Where in the FTN its packets are looked up.
    domain: Domain,
    place: Place,
}

/// Where a port is.
enum Place {
    Interface {
        ifindex: u32,
        attachment: Box<Attachment>,
        program: ProgramState,
        traits: Traits,
    },
    SubInterface {
        /// The port that has the program.
        parent: u16,
        tags: Tags,
        /// The kernel's VLAN device.
        device: Option<u32>,
        /// Called after the device, not after the parent.
        named_by_device: bool,
    },
}

/// What the driver of an interface is like.
#[derive(Clone, Copy)]
struct Traits {
    /// Frames may arrive that are longer than the MTU says.
    exceeds_mtu: bool,
    /// Frames in several buffers come from the driver, not from generic XDP.
    receives_fragments: bool,
    /// A frame that lies in several buffers leaves, too.
    sends_fragments: bool,
    /// What the program does about unfinished checksums.
    checksum: abi::Checksum,
    /// Frames that are redirected to it leave, and are not lost; `None` where the kernel does not tell.
    takes_redirects: Option<bool>,
}

impl Port {
    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A virtual one where it is a sub-interface that the kernel has no device for.
    pub fn ifindex(&self) -> u32 {
        match self.place {
            Place::Interface { ifindex, .. } => ifindex,
            Place::SubInterface { device, .. } => device.unwrap_or(LinkInfo::FIRST_VIRTUAL | u32::from(self.number)),
        }
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

    pub fn wish(&self) -> Wish {
        Wish {
            role: self.role,
            mpls: self.mpls,
            checksum: self.checksum,
        }
    }

    /// Of a sub-interface.
    pub fn tags(&self) -> Option<Tags> {
        match self.place {
            Place::Interface { .. } => None,
            Place::SubInterface { tags, .. } => Some(tags),
        }
    }

    /// What frames that leave here have in front of their EtherType.
    pub fn vlan_tags(&self) -> VlanTags {
        self.tags().map_or(VlanTags::NONE, Tags::to_wire)
    }

    fn parent(&self) -> Option<u16> {
        match self.place {
            Place::Interface { .. } => None,
            Place::SubInterface { parent, .. } => Some(parent),
        }
    }

    fn word(&self) -> PortWord {
        let flags = match (self.role, self.mpls) {
            (Role::TxOnly | Role::Carrier, _) => 0,
            (Role::Local, _) => PortWord::IMPOSE | PortWord::LOCAL,
            (Role::Switching, true) => PortWord::IMPOSE | PortWord::MPLS,
            (Role::Switching, false) => PortWord::IMPOSE,
        };
        let kernel_vlan = match self.place {
            Place::SubInterface { device: Some(_), .. } => PortWord::KERNEL_VLAN,
            Place::SubInterface { device: None, .. } | Place::Interface { .. } => 0,
        };
        PortWord::new(self.mac, flags | kernel_vlan).with_domain(self.domain)
    }
}

/// What an interface has to be to become a port, checked.
enum Candidate {
    Interface(Facts),
    SubInterface {
        found: sub_interface::SubInterface,
        /// The parent, where that has no program yet.
        parent: Option<Facts>,
        parent_name: Arc<str>,
        mac: Mac,
        mtu: u32,
        notes: Vec<String>,
    },
}

/// All ports, and the program that goes onto them.
pub struct Ports {
    loader: Loader,
    mode: XdpMode,
    /// Of port 0; each port's own have its number.
    settings: Settings,
    ports: Vec<Port>,
    /// Ports whose interfaces go are taken back when these are made anew.
    readopts: bool,
    /// GRO is switched on at the other end of a veth that does not take redirected frames without.
    fixes_peers: bool,
    waiting: WaitingPorts,
    watch: Watch,
    /// Numbers of ports that are gone, each until no frame is on its way to it.
    leaving: Vec<(u16, GracePeriod)>,
}

impl Ports {
    pub fn new(loader: Loader, config: &Config) -> Self {
        let settings = Settings::new(
            0,
            config.ttl_propagate.into(),
            config.tunnel_ttl.get(),
            config.tc_propagate,
            config.log_exceptions,
        )
        .with_unknown(config.unknown.into());
        Self {
            loader,
            mode: config.mode,
            settings,
            ports: Vec::new(),
            readopts: !config.no_readopt,
            fixes_peers: config.fix_peers,
            waiting: WaitingPorts::default(),
            watch: Watch::new(Instant::now()),
            leaving: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ports.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter()
    }

    /// The port of an interface, unless it is retired or there for its sub-interfaces only.
    pub fn by_ifindex(&self, ifindex: u32) -> Option<&Port> {
        self.ports
            .iter()
            .find(|port| port.ifindex() == ifindex && !port.retired && port.role != Role::Carrier)
    }

    /// What is frozen into the program of port `number`.
    pub fn settings(&self, number: u16) -> Settings {
        self.settings.with_port(number.into())
    }

    /// The same with what only the program needs to know. To ask for a frame's whole length takes time: it is done where one may
    /// lie in several buffers.
    fn program_settings(&self, number: u16, mtu: u32, traits: Traits) -> Settings {
        let frags = traits.exceeds_mtu || mtu > ONE_BUFFER_MTU;
        self.settings(number)
            .with_frags(frags)
            .with_native_frags(frags && traits.receives_fragments)
            .with_checksum(traits.checksum)
    }

    /// Whether frames that lie in several buffers can be redirected to a port: what the program has run on in its driver, the
    /// kernel would lose without a word otherwise. (What it has run on as an skb can be redirected anywhere: everything in generic
    /// mode, and from a tap whatever does not fit one buffer.)
    pub fn sends_fragments(&self, number: u16) -> bool {
        let carrier = self.get(number).and_then(|port| self.carrier(port));
        let carrier = carrier.map(|carrier| &carrier.place);
        matches!(carrier, Some(Place::Interface { traits, .. }) if traits.sends_fragments)
    }

    /// What is done about unfinished checksums of frames that arrive at a port.
    pub fn checksum(&self, port: &Port) -> Checksum {
        match self.carrier(port).map(|carrier| &carrier.place) {
            Some(Place::Interface { traits, .. }) if traits.checksum != abi::Checksum::Trust => Checksum::Finish,
            _ => Checksum::Trust,
        }
    }

    /// The kernel's interface whose addresses are those of a port: of a sub-interface without a device of its own, the parent.
    pub fn addressed(&self, number: u16) -> Option<u32> {
        let port = self.get(number)?;
        match port.place {
            Place::SubInterface { device: None, .. } => self.carrier(port).map(Port::ifindex),
            _ => Some(port.ifindex()),
        }
    }

    /// The VRF that packets which arrive at a port are of. The far end of the local pair is in that of the near end.
    pub fn vrf(&self, number: u16, links: &Links) -> Option<Vrf> {
        let ifindex = self.addressed(number)?;
        let is_far_end = self.get(number).is_some_and(|port| port.role == Role::Local);
        let near_end = links.get(ifindex).filter(|_| is_far_end).and_then(|link| link.peer);
        links.vrf(near_end.map_or(ifindex, |peer| peer.ifindex))
    }

    /// Has a port's packets looked up in this domain of the FTN. Returns whether they were looked up in another one before.
    pub fn set_domain(&mut self, number: u16, domain: Domain, lfib: &mut Lfib<KernelTables>) -> bool {
        let Some(port) = self.get_mut(number).filter(|port| port.domain != domain) else {
            return false;
        };
        port.domain = domain;
        let word = port.word();
        lfib.tables_mut().store_port(number, word);
        true
    }

    pub fn name(&self, number: u16) -> Option<&str> {
        self.get(number).map(Port::name)
    }

    pub fn number(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| &*port.name == name).map(Port::number)
    }

    /// The port that has the program which `port` stands behind: its parent, or itself.
    pub fn carrier<'a>(&'a self, port: &'a Port) -> Option<&'a Port> {
        port.parent().map_or(Some(port), |parent| self.get(parent))
    }

    /// The program of a port, and what is known of it.
    pub fn program<'a>(&'a self, port: &'a Port) -> Option<(&'a Attachment, &'a ProgramState)> {
        match &self.carrier(port)?.place {
            Place::Interface {
                attachment, program, ..
            } => Some((attachment, program)),
            Place::SubInterface { .. } => None,
        }
    }

    /// Waits until another process has taken programs off ports, or replaced them. May be dropped and called anew at any time.
    pub async fn interference(&mut self) -> Vec<Finding> {
        let Self { ports, watch, .. } = self;
        let probes = || {
            let probes = ports.iter().filter_map(|port| match &port.place {
                Place::Interface { attachment, .. } => Some((port.number, attachment.probe())),
                Place::SubInterface { .. } => None,
            });
            probes.collect()
        };
        watch.findings(probes).await
    }

    /// Puts back a program that another process has taken off, or replaced. If that fails, it is tried again, ever more seldom;
    /// the port stays what it is meanwhile, for frames may still leave there.
    pub async fn put_back(&mut self, found: Finding, netlink: &Netlink, now: Instant) {
        let mode = self.mode;
        let Some(port) = self.get_mut(found.number) else { return };
        let (name, role) = (port.name.clone(), port.role);
        let Place::Interface {
            ifindex,
            attachment,
            program,
            ..
        } = &mut port.place
        else {
            return;
        };
        // What was found may be about a link, or a program, of before.
        let outdated =
            attachment.link_id != found.link_id || found.interference == Interference::Replaced(attachment.program_id);
        if outdated || !program.is_due(now) {
            return;
        }
        let what = match found.interference {
            Interference::Detached => "detached the XDP program from this port".to_owned(),
            Interference::Replaced(other) => {
                format!(
                    "replaced the XDP program of this port by program {}",
                    programs::describe(other)
                )
            }
        };
        let Err(error) = attachment.put_back() else {
            let link_id = attachment.link_id;
            program.put_back += 1;
            match program.lost.take() {
                Some(_) => info!(port = &*name, link_id, "the XDP program is attached again"),
                None => {
                    let hint = match role {
                        Role::Switching | Role::TxOnly => format!("; `mplsxdp link del {name}` takes it off for good"),
                        Role::Local | Role::Carrier => String::new(),
                    };
                    warn!(
                        port = &*name,
                        link_id, "another process has {what}; it is attached again{hint}"
                    );
                }
            }
            return;
        };
        let error: anyhow::Error = match preflight::gather(&name, netlink).await {
            // It is about to be reported that the interface is gone, or has another name.
            Ok(facts) if facts.link.as_ref().map(|link| link.ifindex) != Some(*ifindex) => return,
            Ok(facts) => match (facts.other_program(), error) {
                (Some(other), _) => other.into(),
                (None, AttachError::Kernel(error)) => preflight::attach_error(&facts, mode, error).into(),
                (None, error) => error.into(),
            },
            Err(error) => error.into(),
        };
        let held = matches!(error.downcast_ref(), Some(PreflightError::OtherProgram { .. }));
        let reason = format!(
            "another process has {what}, and it cannot be put back yet: {}",
            told(&error)
        );
        if program.failed(reason.clone(), held, now) {
            warn!(
                port = &*name,
                "{reason}; labelled frames that arrive here are lost until then"
            );
        }
    }

    /// The port that frames for port `number` are handed to, and the tags that they have there.
    pub fn way_out(&self, number: u16) -> Option<(u16, VlanTags)> {
        let port = self.get(number)?;
        Some((port.parent().unwrap_or(number), port.vlan_tags()))
    }

    /// The interface where the kernel receives a frame that arrived at port `number`, and the tags that it has there: none, unless
    /// the kernel has a device for them.
    pub fn way_up(&self, number: u16) -> Option<(u32, VlanTags)> {
        let port = self.get(number)?;
        let tags = match port.place {
            Place::SubInterface { device: Some(_), .. } => port.vlan_tags(),
            Place::SubInterface { device: None, .. } | Place::Interface { .. } => VlanTags::NONE,
        };
        Some((self.carrier(port)?.ifindex(), tags))
    }

    /// Why the kernel cannot resolve `next_hop` at a sub-interface that it has no device for.
    pub fn no_device(&self, ifindex: u32, next_hop: &NextHop) -> Option<String> {
        let port = self.by_ifindex(ifindex)?;
        match (&port.place, next_hop.via) {
            (Place::SubInterface { device: None, tags, .. }, Via::Inet(_) | Via::Inet6(_)) => Some(format!(
                "the kernel has no VLAN device for {name}, and resolves no addresses there: make one (`{commands}`), or name \
                 the next hop by its MAC address (`via link MAC dev {name}`)",
                name = port.name,
                commands = tags.commands(&self.carrier(port)?.name, &port.name),
            )),
            _ => None,
        }
    }

    /// Whether ports whose interfaces go are taken back when these are made anew.
    pub fn set_readopts(&mut self, readopts: bool) {
        self.readopts = readopts;
    }

    /// Whether GRO is switched on at the other ends of the veths that are taken from now on and need it.
    pub fn set_fixes_peers(&mut self, fixes_peers: bool) {
        self.fixes_peers = fixes_peers;
    }

    pub fn waiting(&self) -> &WaitingPorts {
        &self.waiting
    }

    pub fn waiting_mut(&mut self) -> &mut WaitingPorts {
        &mut self.waiting
    }

    /// Has a port wait for its interface.
    pub fn wait_for(&mut self, name: &str, wish: Wish, reason: String) -> anyhow::Result<()> {
        let number = self.number_for(name)?;
        self.waiting.add(Waiting::new(name, number, wish, reason));
        Ok(())
    }

    /// Interfaces have changed: ports that wait for them may be tried.
    pub fn follow_waiting(&mut self, links: &Links, now: Instant) {
        let Self { ports, waiting, .. } = self;
        waiting.follow(
            |name| {
                let is_port = |port: &Port| port.role != Role::Carrier && *port.name == *name;
                if ports.iter().any(is_port) {
                    return Vec::new();
                }
                let indexes = match sub_interface::find(name, links) {
                    Ok(Some(found)) => [Some(found.parent), found.device],
                    Ok(None) => [links.by_name(name).map(|link| link.ifindex), None],
                    Err(_) => [None, None],
                };
                let found = indexes.into_iter().flatten().filter_map(|ifindex| links.get(ifindex));
                found.cloned().collect()
            },
            now,
        );
    }

    /// That `name` can become a port.
    pub async fn check(&self, name: &str, netlink: &Netlink) -> anyhow::Result<()> {
        self.candidate(name, netlink).await.map(drop)
    }

    async fn candidate(&self, name: &str, netlink: &Netlink) -> anyhow::Result<Candidate> {
        if self
            .ports
            .iter()
            .any(|port| &*port.name == name && port.role != Role::Carrier)
        {
            anyhow::bail!("{name} is a port already");
        }
        let mut links = Links::default();
        for link in netlink.links().await? {
            links.insert(link);
        }
        let Some(found) = sub_interface::find(name, &links).map_err(anyhow::Error::msg)? else {
            return Ok(Candidate::Interface(self.checked(name, netlink).await?));
        };
        let parent = links.get(found.parent).context("the parent interface has just gone")?;
        let port = self.interface(found.parent);
        let (mut facts, parent) = match port {
            None => (self.checked(&parent.name, netlink).await?, parent),
            Some(port) if port.role == Role::Local => {
                anyhow::bail!(
                    "{} is for this box's own packets, and has no sub-interfaces",
                    parent.name
                )
            }
            Some(port) => {
                if let Some(other) = self.sub_interface(port.number, found.tags) {
                    anyhow::bail!(
                        "{} is a port already, with the same tags on {}",
                        other.name,
                        parent.name
                    );
                }
                (preflight::gather(&parent.name, netlink).await?, parent)
            }
        };
        facts.look_at_peer(netlink).await;
        let mut notes = preflight::check_tags(&facts)?;
        let device = found.device.and_then(|device| links.get(device));
        notes.extend(device.and_then(preflight::is_down));
        let mac = device.and_then(|device| device.mac).or(parent.mac);
        Ok(Candidate::SubInterface {
            mac: mac.context("the interface has no MAC address")?,
            mtu: mtu_of(found.tags, parent, device),
            parent_name: parent.name.clone(),
            parent: port.is_none().then_some(facts),
            found,
            notes,
        })
    }

    async fn checked(&self, name: &str, netlink: &Netlink) -> anyhow::Result<Facts> {
        let facts = preflight::gather(name, netlink).await?;
        // What has the program already was checked before it got it.
        let is_carrier = self.number(name).is_some();
        if !is_carrier {
            let notes = match preflight::check(&facts, self.mode) {
                Err(PreflightError::OtherProgram {
                    name,
                    attached,
                    program,
                }) => {
                    let holder = tokio::task::spawn_blocking(move || holder(attached.program)).await;
                    return Err(match holder.ok().flatten() {
                        Some(instance) => PreflightError::OtherInstance { name, instance },
                        None => PreflightError::OtherProgram {
                            name,
                            attached,
                            program,
                        },
                    }
                    .into());
                }
                checked => checked?,
            };
            for note in notes {
                // Told again, as a warning, where it still holds when the program is attached.
                debug!(port = name, "{note}");
            }
        }
        Ok(facts)
    }

    /// Makes an interface or a sub-interface a port: its tables and sockets first, then the program. One that waited, waits no
    /// more.
    pub async fn add(
        &mut self,
        name: &str,
        wish: Wish,
        netlink: &Netlink,
        lfib: &mut Lfib<KernelTables>,
        exceptions: &mut Exceptions,
    ) -> anyhow::Result<()> {
        self.try_add(name, wish, netlink, lfib, exceptions).await?;
        self.waiting.remove(name);
        Ok(())
    }

    async fn try_add(
        &mut self,
        name: &str,
        wish: Wish,
        netlink: &Netlink,
        lfib: &mut Lfib<KernelTables>,
        exceptions: &mut Exceptions,
    ) -> anyhow::Result<()> {
        match self.candidate(name, netlink).await? {
            Candidate::Interface(facts) => match self.number(name) {
                Some(carrier) => {
                    self.check_checksum(carrier, wish.checksum)?;
                    self.set_role(carrier, wish, lfib, exceptions)
                }
                None => self.attach(&facts, wish, netlink, lfib, exceptions).await.map(drop),
            },
            Candidate::SubInterface {
                found,
                parent,
                parent_name,
                mac,
                mtu,
                notes,
            } => {
                for note in notes {
                    warn!(port = name, "{note}");
                }
                let parent = match parent {
                    Some(facts) => {
                        let carrier = Wish::new(Role::Carrier, wish.checksum);
                        self.attach(&facts, carrier, netlink, lfib, exceptions).await?
                    }
                    None => {
                        let parent = self.interface(found.parent).map(Port::number);
                        let parent = parent.context("the parent interface has just gone")?;
                        self.check_checksum(parent, wish.checksum)?;
                        parent
                    }
                };
                let sub_interface = Place::SubInterface {
                    parent,
                    tags: found.tags,
                    device: found.device,
                    named_by_device: *found.tags.name_on(&parent_name) != *name,
                };
                let added = self.add_sub_interface(name, wish, (mac, mtu), sub_interface, lfib, exceptions);
                if added.is_err() {
                    self.drop_idle_carrier(parent, lfib);
                    exceptions.keep_ports(self);
                }
                added
            }
        }
    }

    fn add_sub_interface(
        &mut self,
        name: &str,
        wish: Wish,
        (mac, mtu): (Mac, u32),
        place: Place,
        lfib: &mut Lfib<KernelTables>,
        exceptions: &mut Exceptions,
    ) -> anyhow::Result<()> {
        let number = self.number_for(name)?;
        let Wish { role, mpls, checksum } = wish;
        let port = Port {
            number,
            name: name.into(),
            mac,
            mtu,
            role,
            mpls,
            checksum,
            retired: false,
            domain: Domain::EMPTY,
            place,
        };
        let parent = self.carrier(&port).context("the parent interface has just gone")?;
        let Place::Interface { ifindex, .. } = parent.place else {
            anyhow::bail!("{} is a sub-interface itself", parent.name);
        };
        let (parent, parent_name) = (parent.number, parent.name.clone());
        if role == Role::Switching {
            self.listen_everywhere(parent, lfib, exceptions)?;
        }
        let goes_on = self.counts_on(name);
        let tables = lfib.tables_mut();
        if !goes_on {
            tables.clear_reason_counters(number)?;
        }
        tables.set_tx_port(number, ifindex)?;
        tables.store_port(number, port.word());
        if let Some(tags) = port.tags()
            && let Err(error) = tables.insert_sub_interface(tags.key(parent), number)
        {
            tables.store_port(number, PortWord::default());
            tables.clear_tx_port(number)?;
            return Err(error.into());
        }
        info!(
            port = name,
            number,
            parent = &*parent_name,
            tags = port.tags().map(tracing::field::display),
            "added"
        );
        self.ports.push(port);
        Ok(())
    }

    /// Brings the program onto an interface. Returns the port's number.
    async fn attach(
        &mut self,
        facts: &Facts,
        wish: Wish,
        netlink: &Netlink,
        lfib: &mut Lfib<KernelTables>,
        exceptions: &mut Exceptions,
    ) -> anyhow::Result<u16> {
        let name = &*facts.name;
        let link = facts.link.clone().context("the interface has just gone")?;
        let mac = link.mac.context("the interface has no MAC address")?;
        let number = self.number_for(name)?;
        let Wish { role, mpls, checksum } = wish;
        let queues = match role {
            // Only to send by.
            Role::TxOnly => 1,
            Role::Switching | Role::Local | Role::Carrier => receive_queues(name)?,
        };
        self.listen(number, name, queues, lfib, exceptions)?;
        let attached = self.try_attach(facts, link.ifindex, number, wish, netlink, lfib).await;
        let (attachment, traits) = match attached {
            Ok(attached) => attached,
            Err(error) => {
                exceptions.remove_port(number);
                lfib.tables_mut().clear_tx_port(number)?;
                return Err(error);
            }
        };
        info!(port = name, number, link_id = attachment.link_id, "attached");
        let port = Port {
            number,
            name: link.name.clone(),
            mac,
            mtu: link.mtu,
            role,
            mpls,
            checksum,
            retired: false,
            domain: Domain::EMPTY,
            place: Place::Interface {
                ifindex: link.ifindex,
                attachment: Box::new(attachment),
                program: ProgramState::default(),
                traits,
            },
        };
        lfib.tables_mut().store_port(number, port.word());
        self.ports.push(port);
        Ok(number)
    }

    async fn try_attach(
        &mut self,
        facts: &Facts,
        ifindex: u32,
        number: u16,
        Wish { role, checksum, .. }: Wish,
        netlink: &Netlink,
        lfib: &mut Lfib<KernelTables>,
    ) -> anyhow::Result<(Attachment, Traits)> {
        let mtu = facts.link.as_ref().map_or(0, |link| link.mtu);
        let traits = Traits {
            exceeds_mtu: facts.exceeds_mtu(self.mode),
            receives_fragments: facts.receives_fragments(self.mode),
            sends_fragments: false,
            checksum: facts.checksum(checksum, self.mode),
            takes_redirects: None,
        };
        let program = self.loader.program(self.program_settings(number, mtu, traits))?;
        let goes_on = self.counts_on(&facts.name);
        let tables = lfib.tables_mut();
        if !goes_on {
            tables.clear_reason_counters(number)?;
        }
        tables.set_tx_port(number, ifindex)?;
        let attachment = attach(program, ifindex, self.mode).map_err(|error| match error {
            AttachError::Kernel(error) => preflight::attach_error(facts, self.mode, error).into(),
            other => anyhow::Error::from(other),
        })?;
        // Some drivers take redirected frames only once they have a program.
        let mut facts = self.gather_fixed(&facts.name, netlink).await?;
        let mut notes = preflight::check_attached(&facts, self.mode)?;
        if role != Role::TxOnly {
            facts.look_at_peer(netlink).await;
            notes.extend(facts.peer_sends_unsegmented(self.mode));
        }
        if role == Role::Switching {
            notes.extend(facts.hides_tags());
        }
        for note in notes {
            warn!(port = &*facts.name, "{note}");
        }
        let traits = Traits {
            sends_fragments: facts.sends_fragments(self.mode),
            takes_redirects: facts.takes_redirects(self.mode),
            ..traits
        };
        Ok((attachment, traits))
    }

    /// That port `number`, which has its program already, does `wanted` about unfinished checksums.
    fn check_checksum(&self, number: u16, wanted: Option<Checksum>) -> anyhow::Result<()> {
        let Some(port) = self.get(number) else { return Ok(()) };
        match wanted {
            Some(wanted) if wanted != self.checksum(port) => anyhow::bail!(
                "{name} has the program already, with checksum {}: take {name} and its sub-interfaces off by `mplsxdp link del`, \
                 then `mplsxdp link add {name} checksum {}`",
                self.checksum(port).name(),
                wanted.name(),
                name = port.name
            ),
            _ => Ok(()),
        }
    }

    /// Asks about an interface that carries the program, once its veth peer has GRO on if that is wanted.
    async fn gather_fixed(&self, name: &str, netlink: &Netlink) -> Result<Facts, PreflightError> {
        let facts = preflight::gather(name, netlink).await?;
        let Some(peer) = facts.end_to_fix(self.mode).filter(|_| self.fixes_peers) else {
            return Ok(facts);
        };
        match peer.switch_gro_on().await {
            Ok(()) => info!(port = name, "GRO is on at its veth peer: `{}`", peer.command()),
            Err(error) => warn!(
                port = name,
                "cannot switch GRO on at its veth peer, as `{}` does: {error}",
                peer.command()
            ),
        }
        preflight::gather(name, netlink).await
    }

    /// The XDP features of an interface may have changed, or those of any (`None`). Tells if frames that are redirected to a port
    /// are lost from now on, or are no more.
    pub async fn follow_features(&mut self, ifindex: Option<u32>, netlink: &Netlink) {
        let concerned = self.ports.iter().filter_map(|port| match port.place {
            Place::Interface {
                ifindex: its, traits, ..
            } if ifindex.is_none_or(|ifindex| ifindex == its) => Some((its, port.name.clone(), traits.takes_redirects)),
            _ => None,
        });
        for (ifindex, name, before) in Vec::from_iter(concerned) {
            let Ok(facts) = self.gather_fixed(&name, netlink).await else {
                continue;
            };
            let now = facts.takes_redirects(self.mode);
            if facts.link.as_ref().map(|link| link.ifindex) != Some(ifindex) || now == before {
                continue;
            }
            match now {
                Some(false) if facts.is_veth() => warn!(port = &*name, "{}", facts.veth_needs_napi()),
                Some(false) => warn!(
                    port = &*name,
                    "{name}: frames that are redirected to it are lost: its driver takes none any more"
                ),
                Some(true) => info!(port = &*name, "frames that are redirected to it are not lost any more"),
                None => {}
            }
            if let Some(Port {
                place: Place::Interface { traits, .. },
                ..
            }) = self.interface_mut(ifindex)
            {
                traits.takes_redirects = now;
            }
        }
    }

    /// Whether frames can be redirected to a port; `None` where the kernel does not tell.
    pub fn takes_redirects(&self, port: &Port) -> Option<bool> {
        match self.carrier(port)?.place {
            Place::Interface { traits, .. } => traits.takes_redirects,
            Place::SubInterface { .. } => None,
        }
    }

    /// Opens sockets for the exceptions of an interface that is about to be port `number`.
    fn listen(
        &mut self,
        number: u16,
        name: &str,
        queues: u32,
        lfib: &mut Lfib<KernelTables>,
        exceptions: &mut Exceptions,
    ) -> anyhow::Result<()> {
        let sockets = XskPort::open(name, queues)?;
        for (queue, socket) in sockets.receiver.sockets() {
            lfib.tables_mut().set_listener(number, queue, socket)?;
        }
        exceptions.add_port(number, sockets);
        Ok(())
    }

    /// Opens the sockets of a port that has none any more.
    pub fn listen_anew(
        &mut self,
        number: u16,
        lfib: &mut Lfib<KernelTables>,
        exceptions: &mut Exceptions,
    ) -> anyhow::Result<()> {
        let port = self.get(number).context("the port has just gone")?;
        let name = port.name.clone();
        let queues = match port.role {
            Role::TxOnly => 1,
            Role::Switching | Role::Local | Role::Carrier => receive_queues(&name)?,
        };
        self.listen(number, &name, queues, lfib, exceptions)
    }

    /// Has exceptions heard on all queues of a port, which may have been there only to send by. If that fails, they are heard
    /// where they were before.
    fn listen_everywhere(
        &mut self,
        number: u16,
        lfib: &mut Lfib<KernelTables>,
        exceptions: &mut Exceptions,
    ) -> anyhow::Result<()> {
        let Some(port) = self.get(number) else { return Ok(()) };
        let queues = receive_queues(&port.name)?;
        let receiver = exceptions
            .receiver_mut(number)
            .with_context(|| format!("{} has no AF_XDP sockets", port.name))?;
        receiver.extend(&port.name, queues)?;
        for (queue, socket) in receiver.sockets() {
            lfib.tables_mut().set_listener(number, queue, socket)?;
        }
        Ok(())
    }

    /// The number of a port that waits, or a free one.
    fn number_for(&mut self, name: &str) -> anyhow::Result<u16> {
        if let Some(waiting) = self.waiting.get(name) {
            // Frames that are still on their way to it may leave by it.
            self.leaving.retain(|&(number, _)| number != waiting.number);
            return Ok(waiting.number);
        }
        let taken = self.ports.iter().map(|port| port.number);
        let taken = taken.chain(self.waiting.iter().map(|waiting| waiting.number));
        let taken = taken.chain(self.leaving.iter().map(|&(number, _)| number));
        let taken: HashSet<u16> = taken.collect();
        (0..MAX_PORTS as u16)
            .find(|number| !taken.contains(number))
            .with_context(|| format!("all {MAX_PORTS} ports are in use"))
    }

    /// Whether the counters of a port go on from where they were.
    fn counts_on(&self, name: &str) -> bool {
        self.waiting.get(name).is_some_and(|waiting| waiting.was_port)
    }

    /// That port `number` is one that can be taken away.
    pub fn check_removal(&self, number: u16) -> Result<(), String> {
        match self.get(number) {
            Some(port) if port.role == Role::Carrier => {
                let names: Vec<_> = self.sub_interfaces(number).map(Port::name).collect();
                Err(format!("{} has the program only for {}", port.name, names.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// From here on the port is nobody's way out.
    pub fn retire(&mut self, number: u16) {
        if let Some(port) = self.get_mut(number) {
            port.retired = true;
        }
    }

    /// Takes the program off, or leaves it there for the sub-interfaces. Next hops must not point to the port any more.
    pub fn remove(&mut self, number: u16, lfib: &mut Lfib<KernelTables>) {
        if self.sub_interfaces(number).next().is_some() {
            self.store_role(number, Wish::new(Role::Carrier, None), lfib);
            return;
        }
        let parent = self.get(number).and_then(Port::parent);
        self.remove_at_once(&[number], lfib);
        if let Some(parent) = parent {
            self.drop_idle_carrier(parent, lfib);
        }
    }

    fn remove_at_once(&mut self, numbers: &[u16], lfib: &mut Lfib<KernelTables>) {
        let tables = lfib.tables_mut();
        for port in self.ports.extract_if(.., |port| numbers.contains(&port.number)) {
            match port.tags().zip(port.parent()) {
                None => info!(port = &*port.name, "detached"),
                Some((tags, parent)) => {
                    info!(port = &*port.name, "removed");
                    if let Err(error) = tables.remove_sub_interface(tags.key(parent)) {
                        warn!(%error, "cannot free a sub-interface");
                    }
                }
            }
            tables.store_port(port.number, PortWord::default());
        }
        let period = tables.begin_grace_period();
        self.leaving.extend(numbers.iter().map(|&number| (number, period)));
    }

    /// Frees the numbers of ports that are gone, once no frame is on its way to them.
    pub fn free_numbers(&mut self, lfib: &mut Lfib<KernelTables>) {
        let tables = lfib.tables_mut();
        let free = self.leaving.extract_if(.., |(_, period)| tables.is_over(*period));
        for (number, _) in free.collect::<Vec<_>>() {
            if let Err(error) = tables.clear_tx_port(number) {
                warn!(%error, "cannot free a transmit port");
            }
        }
    }

    /// Takes the program off an interface that has it for sub-interfaces that are gone.
    fn drop_idle_carrier(&mut self, number: u16, lfib: &mut Lfib<KernelTables>) {
        let is_idle = self.get(number).is_some_and(|port| port.role == Role::Carrier)
            && self.sub_interfaces(number).next().is_none();
        if is_idle {
            self.remove_at_once(&[number], lfib);
        }
    }

    /// Makes a port that has its program another kind of port.
    pub fn set_role(
        &mut self,
        number: u16,
        wish: Wish,
        lfib: &mut Lfib<KernelTables>,
        exceptions: &mut Exceptions,
    ) -> anyhow::Result<()> {
        if wish.role == Role::Switching
            && let Some(carrier) = self.get(number).and_then(|port| self.carrier(port))
        {
            self.listen_everywhere(carrier.number, lfib, exceptions)?;
        }
        self.store_role(number, wish, lfib);
        Ok(())
    }

    fn store_role(&mut self, number: u16, Wish { role, mpls, .. }: Wish, lfib: &mut Lfib<KernelTables>) {
        if let Some(port) = self.get_mut(number) {
            (port.role, port.mpls, port.retired) = (role, mpls, false);
            info!(port = &*port.name, ?role, "changed");
            let word = port.word();
            lfib.tables_mut().store_port(number, word);
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
            Role::Carrier if mpls => {
                return Err(format!(
                    "{0} has the program only for its sub-interfaces: `mplsxdp link add {0}` has it accept labels",
                    port.name
                ));
            }
            Role::Local if mpls => {
                return Err(format!(
                    "{} is for this box's own packets, which have no labels",
                    port.name
                ));
            }
            Role::Switching | Role::TxOnly | Role::Local | Role::Carrier => {}
        }
        port.mpls = mpls;
        let word = port.word();
        lfib.tables_mut().store_port(number, word);
        Ok(())
    }

    /// An interface changed: its program may have been taken off, or another one that held it off.
    pub fn follow_program(&mut self, link: &LinkInfo, now: Instant) {
        let Self { ports, watch, .. } = self;
        let port = ports.iter_mut().find(|port| port.ifindex() == link.ifindex);
        let Some(Place::Interface {
            attachment, program, ..
        }) = port.map(|port| &mut port.place)
        else {
            return;
        };
        program.follow(link, now);
        if link.xdp.is_none_or(|xdp| xdp.program != attachment.program_id) && program.is_due(now) {
            watch.hurry(now);
        }
    }

    /// An interface changed. Returns whether adjacencies depend on what did.
    pub fn follow(&mut self, link: &LinkInfo, lfib: &mut Lfib<KernelTables>) -> bool {
        let has_namesake = self.has_sub_interface_named(&link.name);
        let Some(port) = self.interface_mut(link.ifindex) else {
            return false;
        };
        // A name belongs to one port; a sub-interface that the kernel has no device for keeps its own.
        if !has_namesake {
            port.name = link.name.clone();
        }
        let (mac, mtu) = (link.mac.filter(|mac| mac.is_unicast()).unwrap_or(port.mac), link.mtu);
        if (mac, mtu) == (port.mac, port.mtu) {
            return false;
        }
        let outgrown = port.mtu <= ONE_BUFFER_MTU && mtu > ONE_BUFFER_MTU;
        let is_prepared = matches!(port.place, Place::Interface { traits, .. } if traits.exceeds_mtu);
        (port.mac, port.mtu) = (mac, mtu);
        let number = port.number;
        lfib.tables_mut().store_port(number, port.word());
        if outgrown && !self.sends_fragments(number) {
            warn!(port = &*link.name, "{}", preflight::delays_fragments(&link.name));
        }
        if outgrown
            && !is_prepared
            && let Err(error) = self.replace_program(number)
        {
            warn!(
                port = &*link.name,
                %error,
                "cannot attach the program for large frames; the interface is no longer a port"
            );
            let reason = format!("the program for large frames cannot be attached: {error}");
            self.give_up(number, &reason, lfib);
        }
        true
    }

    /// Gives a port the program for the MTU that it has now.
    fn replace_program(&mut self, number: u16) -> Result<(), AttachError> {
        let Some(index) = self.ports.iter().position(|port| port.number == number) else {
            return Ok(());
        };
        let Port { mtu, ref place, .. } = self.ports[index];
        let Place::Interface { traits, .. } = *place else {
            return Ok(());
        };
        let new = self.loader.program(self.program_settings(number, mtu, traits))?;
        match &mut self.ports[index].place {
            Place::Interface {
                attachment, program, ..
            } if program.lost.is_some() => attachment.replace_later(new),
            Place::Interface { attachment, .. } => attachment.replace(new)?,
            Place::SubInterface { .. } => {}
        }
        Ok(())
    }

    /// Interfaces have changed: sub-interfaces take over what their parents and the kernel's VLAN devices have now. Returns
    /// whether adjacencies depend on what changed.
    pub fn follow_sub_interfaces(&mut self, links: &Links, lfib: &mut Lfib<KernelTables>) -> bool {
        let parents: HashMap<u16, (u32, Arc<str>)> = self
            .ports
            .iter()
            .filter(|port| port.parent().is_none())
            .map(|port| (port.number, (port.ifindex(), port.name.clone())))
            .collect();
        let mut changed = false;
        for port in &mut self.ports {
            let before = (port.word(), port.ifindex(), port.mtu, port.vlan_tags());
            let Place::SubInterface {
                parent,
                tags,
                device,
                named_by_device,
            } = &mut port.place
            else {
                continue;
            };
            let Some((ifindex, parent_name)) = parents.get(parent) else {
                continue;
            };
            let found = sub_interface::device(*ifindex, *tags, links);
            let adopted = found.and_then(|(device, _)| links.get(device));
            *device = adopted.map(|adopted| adopted.ifindex);
            *tags = found.map_or(*tags, |(_, tags)| tags);
            if !*named_by_device {
                port.name = tags.name_on(parent_name).into();
            } else if let Some(adopted) = adopted {
                port.name = adopted.name.clone();
            }
            let link = adopted.or_else(|| links.get(*ifindex));
            let mac = link.and_then(|link| link.mac).filter(|mac| mac.is_unicast());
            port.mac = mac.unwrap_or(port.mac);
            port.mtu = links
                .get(*ifindex)
                .map_or(port.mtu, |parent| mtu_of(*tags, parent, adopted));
            let after = (port.word(), port.ifindex(), port.mtu, port.vlan_tags());
            if after.1 != before.1 {
                match adopted {
                    Some(device) => info!(
                        port = &*port.name,
                        device = &*device.name,
                        "the kernel has a VLAN device"
                    ),
                    None => info!(port = &*port.name, "the kernel has no VLAN device any more"),
                }
            }
            if after.0 != before.0 {
                lfib.tables_mut().store_port(port.number, after.0);
            }
            changed |= after != before;
        }
        changed
    }

    /// The name of each port, by its number.
    pub fn names(&self) -> HashMap<u16, Arc<str>> {
        self.ports.iter().map(|port| (port.number, port.name.clone())).collect()
    }

    /// The ports that have other names than in `before`: their new names by the old ones.
    pub fn renamed_since(&self, before: &HashMap<u16, Arc<str>>) -> HashMap<Arc<str>, Arc<str>> {
        let renamed = self.ports.iter().filter_map(|port| {
            let old = before.get(&port.number).filter(|old| **old != port.name)?;
            Some((old.clone(), port.name.clone()))
        });
        renamed.collect()
    }

    /// Ports as the resolver is to know them: sub-interfaces without a device of the kernel as links of their own, and the
    /// interfaces of all others, by the ports' names.
    pub fn links_of_ports(&self, links: &Links) -> (Vec<LinkInfo>, HashMap<Arc<str>, u32>) {
        let mut without_device = Vec::new();
        let mut interfaces = HashMap::new();
        for port in &self.ports {
            let Place::SubInterface { device, .. } = port.place else {
                interfaces.insert(port.name.clone(), port.ifindex());
                continue;
            };
            let parent = self.carrier(port).and_then(|parent| links.get(parent.ifindex()));
            match (device.and_then(|device| links.get(device)), parent) {
                (Some(device), _) => {
                    interfaces.insert(port.name.clone(), device.ifindex);
                }
                (None, None) => {}
                (None, Some(parent)) => without_device.push(LinkInfo {
                    ifindex: port.ifindex(),
                    name: port.name.clone(),
                    mac: Some(port.mac),
                    mtu: port.mtu,
                    // Nobody resolves addresses there.
                    noarp: true,
                    kind: None,
                    xdp: None,
                    peer: None,
                    vlan: None,
                    parent: None,
                    ..parent.clone()
                }),
            }
        }
        (without_device, interfaces)
    }

    /// An interface is gone, and the program and its sub-interfaces with it.
    pub fn lose(&mut self, ifindex: u32, lfib: &mut Lfib<KernelTables>) -> bool {
        let Some(port) = self.interface(ifindex) else {
            return false;
        };
        let number = port.number;
        for port in self.sub_interfaces(number).chain(self.get(number)) {
            let name = &*port.name;
            match port.role {
                Role::Carrier => {}
                Role::Local => warn!(
                    port = name,
                    "the interface for this box's own packets is gone; `mplsxdp unload` and a new load make it again"
                ),
                Role::Switching | Role::TxOnly if self.readopts => {
                    warn!(
                        port = name,
                        "the interface is gone; it is taken again when it is made anew"
                    );
                }
                Role::Switching | Role::TxOnly => warn!(
                    port = name,
                    "the interface is gone, and is no port any more; `mplsxdp link add {name}` takes it when it is back"
                ),
            }
        }
        self.give_up(number, "its interface is gone", lfib);
        true
    }

    /// Takes away an interface and its sub-interfaces, which wait for better times if they may.
    fn give_up(&mut self, number: u16, reason: &str, lfib: &mut Lfib<KernelTables>) {
        let lost: Vec<&Port> = self
            .get(number)
            .into_iter()
            .chain(self.sub_interfaces(number))
            .collect();
        let gone: Vec<u16> = lost.iter().map(|port| port.number).collect();
        if self.readopts {
            let lost = lost
                .into_iter()
                .filter(|port| matches!(port.role, Role::Switching | Role::TxOnly));
            let waiting: Vec<Waiting> = lost
                .map(|port| {
                    let waiting = Waiting::new(&port.name, port.number, port.wish(), reason.to_owned());
                    waiting.after_port(port.mac, port.mtu)
                })
                .collect();
            waiting.into_iter().for_each(|waiting| self.waiting.add(waiting));
        }
        self.remove_at_once(&gone, lfib);
    }

    /// After a resync: what is not among `links` is gone.
    pub fn lose_all_but(&mut self, links: &Links, lfib: &mut Lfib<KernelTables>) -> bool {
        let gone: Vec<u32> = self
            .ports
            .iter()
            .filter(|port| port.parent().is_none())
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

    pub fn get(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    fn get_mut(&mut self, number: u16) -> Option<&mut Port> {
        self.ports.iter_mut().find(|port| port.number == number)
    }

    /// The port that has its program on this interface.
    fn interface(&self, ifindex: u32) -> Option<&Port> {
        self.ports
            .iter()
            .find(|port| port.parent().is_none() && port.ifindex() == ifindex)
    }

    fn interface_mut(&mut self, ifindex: u32) -> Option<&mut Port> {
        self.ports
            .iter_mut()
            .find(|port| port.parent().is_none() && port.ifindex() == ifindex)
    }

    fn has_sub_interface_named(&self, name: &str) -> bool {
        let mut named = self.ports.iter().filter(|port| &*port.name == name);
        named.any(|port| port.parent().is_some())
    }

    fn sub_interfaces(&self, parent: u16) -> impl Iterator<Item = &Port> {
        self.ports.iter().filter(move |port| port.parent() == Some(parent))
    }

    /// The sub-interface of `parent` that frames with the identifiers of `tags` belong to.
    fn sub_interface(&self, parent: u16, tags: Tags) -> Option<&Port> {
        self.sub_interfaces(parent)
            .find(|port| port.tags().is_some_and(|its| its.key(parent) == tags.key(parent)))
    }
}

fn receive_queues(name: &str) -> anyhow::Result<u32> {
    ethtool::receive_queues(name).with_context(|| format!("cannot tell how many receive queues {name} has"))
}

/// The name of another running instance whose program has this id.
fn holder(program: u32) -> Option<String> {
    let own = Instance::new(DEFAULT_INSTANCE).ok()?;
    client::instances(own.dir(), "sock").into_iter().find_map(|instance| {
        let mut client = Client::try_connect(&instance).ok()??;
        let itself = client
            .pid()
            .is_ok_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
        // One that is busy is not named.
        if itself || client.set_patience(Some(HOLDER_WAIT)).is_err() {
            return None;
        }
        let links = client.links(false).ok()?;
        let holds = links.iter().any(|link| link.program_id == program);
        holds.then(|| instance.name().to_owned())
    })
}

/// The MTU of a sub-interface. A tag does not count against that of the parent; a second one does, for the kernel lets XDP
/// redirect frames that are longer by one.
fn mtu_of(tags: Tags, parent: &LinkInfo, device: Option<&LinkInfo>) -> u32 {
    let most = match tags.inner {
        None => parent.mtu,
        Some(_) => parent.mtu.saturating_sub(VLAN_HLEN as u32),
    };
    device.map_or(most, |device| device.mtu.min(most))
}

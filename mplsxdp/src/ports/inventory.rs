//! The ports: interfaces with the program, and their VLAN sub-interfaces. While it is a port, each has a number that
//! identifies it in the tables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mplsxdp_common::abi::{self, CrossConnect, Domain, MAX_PORTS, PortWord, Settings, TrafficClasses, VlanTags};
use mplsxdp_common::wire::{Mac, VLAN_HLEN};
use tracing::{info, warn};

use super::attach::{self, Attached, Order, Survey};
use super::attachments::Attachments;
use super::cross_connect::{CrossConnectError, CrossedInterfaces};
use super::error::PortError;
use super::mpls_mtu::{self, largest_redirected};
use super::preflight::{self, Facts, FarEnd, ONE_BUFFER_MTU};
use super::programs::ProgramState;
use super::sub_interface::{self, SubInterface, Tags};
use super::waiting::{Retry, Waiting, WaitingPorts};
use crate::control::api::Checksum;
use crate::dataplane::class_maps::{self, DscpMap, TcMap};
use crate::dataplane::label_ranges::AcceptLabels;
use crate::dataplane::mpls_mtu::MplsMtu;
use crate::dataplane::port_change::PortChange;
use crate::dataplane::{GracePeriod, Tables, XdpMode};
use crate::neighbour::links::Links;
use crate::neighbour::{LinkInfo, Peer, Vrf};
use crate::route::{NextHop, Via};

/// The role of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Receives and sends labelled frames and IP packets.
    Switching,
    /// Sends frames only.
    TxOnly,
    /// The far end of the veth pair that this machine's own packets are sent into.
    Local,
    /// Holds the program for its sub-interfaces only: it neither receives nor sends frames without tags.
    ParentOnly,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switching => "switching",
            Self::TxOnly => "tx-only",
            Self::Local => "local",
            Self::ParentOnly => "parent-only",
        })
    }
}

/// How a port is configured, whatever interface has its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    pub role: Role,
    /// Labelled frames are accepted.
    pub mpls: bool,
    /// Those with these labels.
    pub accept_labels: AcceptLabels,
    pub mpls_mtu: MplsMtu,
    /// The port that every frame goes to.
    pub cross_connect: Option<Arc<str>>,
    pub dscp_map: DscpMap,
    pub tc_map: TcMap,
    /// What to do about unfinished checksums; `None`: what the kind of interface needs.
    pub checksum: Option<Checksum>,
}

impl Wish {
    /// Changes it as `link set` says.
    pub fn change(&mut self, change: PortChange) {
        self.mpls = change.mpls.unwrap_or(self.mpls);
        self.accept_labels = change.accept_labels.unwrap_or(self.accept_labels);
        self.mpls_mtu = change.mpls_mtu.unwrap_or(self.mpls_mtu);
        self.dscp_map = change.dscp_map.unwrap_or(self.dscp_map);
        self.tc_map = change.tc_map.unwrap_or(self.tc_map);
    }

    pub fn new(role: Role, checksum: Option<Checksum>) -> Self {
        Self {
            role,
            mpls: role == Role::Switching,
            accept_labels: AcceptLabels::default(),
            mpls_mtu: MplsMtu::default(),
            cross_connect: None,
            dscp_map: DscpMap::default(),
            tc_map: TcMap::default(),
            checksum,
        }
    }
}

/// One port.
#[derive(Debug)]
pub struct Port {
    number: u16,
    pub(super) name: Arc<str>,
    mac: Mac,
    pub(super) mtu: u32,
    /// The largest packet that XDP can send there.
    largest_redirected: u32,
    role: Role,
    mpls: bool,
    accept_labels: AcceptLabels,
    mpls_mtu: MplsMtu,
    /// The port that every frame goes to.
    pub(super) cross_connect: Option<Arc<str>>,
    /// Its index in `ATTACHMENTS`, if a route sends its frames into a pseudowire.
    pub(super) attachment: Option<u32>,
    dscp_map: DscpMap,
    tc_map: TcMap,
    /// The kernel accepts labels there, or its settings are not followed.
    kernel_input: bool,
    /// As configured.
    checksum: Option<Checksum>,
    /// It is being removed: nothing may be sent there any more.
    retired: bool,
    /// The FTN domain in which its packets are looked up.
    domain: Domain,
    hidden_tags: HiddenTags,
    place: Place,
}

/// Whether VLAN tags may be beside frames, where the program does not see them: always (an error), or those of some
/// senders (a note). Both say what helps. The tags of a sub-interface are always in the frames.
type HiddenTags = Option<Result<Arc<str>, Arc<str>>>;

fn hidden_tags(facts: &Facts) -> HiddenTags {
    match preflight::check_tags(facts) {
        Ok(notes) => notes.first().map(|note| Ok(Arc::from(&**note))),
        Err(error) => Some(Err(error.to_string().into())),
    }
}

/// The interface behind a port.
#[derive(Debug)]
enum Place {
    Interface {
        ifindex: u32,
        program: ProgramState,
        traits: Traits,
        /// The other end of a veth, as it was found when the program was attached.
        far_end: Option<(Peer, FarEnd)>,
    },
    SubInterface {
        /// The port that has the program.
        parent: u16,
        tags: Tags,
        /// The kernel's VLAN device.
        device: Option<u32>,
        /// It has the device's name, not one made from the parent's.
        named_by_device: bool,
    },
}

/// Properties of an interface's driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Traits {
    /// Frames may arrive that are longer than the MTU.
    exceeds_mtu: bool,
    /// Frames in several buffers come from the driver, not from generic XDP.
    receives_multi_buffer: bool,
    /// It sends multi-buffer frames.
    sends_multi_buffer: bool,
    /// What the program does about unfinished checksums.
    checksum: abi::Checksum,
    /// It sends the frames that are redirected to it, instead of losing them; `None` if the kernel does not say.
    takes_redirects: Option<bool>,
}

impl Traits {
    /// Before the program is attached.
    fn before(facts: &Facts, checksum: Option<Checksum>, mode: XdpMode) -> Self {
        Self {
            exceeds_mtu: facts.exceeds_mtu(mode),
            receives_multi_buffer: facts.receives_multi_buffer(mode),
            sends_multi_buffer: false,
            checksum: facts.checksum(checksum, mode),
            takes_redirects: None,
        }
    }
}

impl Port {
    /// Whether frames may leave by it: it is neither retired nor parent-only.
    pub fn is_usable(&self) -> bool {
        !self.retired && self.role != Role::ParentOnly
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A virtual index for a sub-interface that the kernel has no device for.
    pub fn ifindex(&self) -> u32 {
        match self.place {
            Place::Interface { ifindex, .. } => ifindex,
            Place::SubInterface { device, .. } => device.unwrap_or(LinkInfo::FIRST_VIRTUAL | u32::from(self.number)),
        }
    }

    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// As in the adjacency table.
    pub fn mtu(&self) -> u16 {
        self.mtu.try_into().unwrap_or(u16::MAX)
    }

    /// The largest packet that leaves with labels, as in the adjacency table. It is less than what is set if XDP cannot
    /// send that.
    pub fn mpls_mtu(&self) -> u16 {
        match self.mpls_mtu.0 {
            None => self.mtu(),
            Some(set) => u32::from(set).min(self.largest_redirected) as u16,
        }
    }

    /// Checks that XDP can send packets of an MPLS MTU.
    pub fn check_mpls_mtu(&self, mpls_mtu: MplsMtu) -> Result<(), PortError> {
        mpls_mtu::check(self.name.clone(), mpls_mtu, self.largest_redirected)
    }

    /// The MPLS MTU that is set, and the one that is used.
    fn mpls_mtus(&self) -> (MplsMtu, u16) {
        (self.mpls_mtu, self.mpls_mtu())
    }

    /// Logs that the MPLS MTU which is set is too large, if one of both has changed since `before`.
    fn warn_of_mpls_mtu(&self, before: (MplsMtu, u16)) {
        if let Err(error) = self.check_mpls_mtu(self.mpls_mtu)
            && self.mpls_mtus() != before
        {
            warn!(port = &*self.name, used = self.mpls_mtu(), "{error}");
        }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn mpls(&self) -> bool {
        self.mpls
    }

    /// How many ranges of labels it is restricted to; 0: it is not.
    pub fn label_ranges(&self) -> usize {
        self.accept_labels.0.map_or(0, |ranges| ranges.as_slice().len())
    }

    /// Whether labelled frames that arrive here are accepted.
    pub fn accepts_labels(&self) -> bool {
        self.mpls && self.kernel_input
    }

    pub fn wish(&self) -> Wish {
        Wish {
            role: self.role,
            mpls: self.mpls,
            accept_labels: self.accept_labels,
            mpls_mtu: self.mpls_mtu,
            cross_connect: self.cross_connect.clone(),
            dscp_map: self.dscp_map,
            tc_map: self.tc_map,
            checksum: self.checksum,
        }
    }

    /// The name of the port that every frame goes to.
    pub fn cross_connect(&self) -> Option<&str> {
        self.cross_connect.as_deref()
    }

    /// Whether all its frames go to one port or into one pseudowire.
    pub fn is_cross_connected(&self) -> bool {
        self.cross_connect.is_some() || self.is_attached()
    }

    /// Whether all its frames go into a pseudowire.
    pub fn is_attached(&self) -> bool {
        self.attachment.is_some()
    }

    /// Where all its frames go, for people.
    pub(super) fn crossed_with(&self) -> Option<Arc<str>> {
        let pseudowire = || self.attachment.map(|_| Arc::from("a pseudowire"));
        self.cross_connect.clone().or_else(pseudowire)
    }

    /// Whether it matters if tags are in the frames from now on.
    pub fn needs_visible_tags(&self) -> bool {
        self.hidden_tags.is_some() || self.is_cross_connected()
    }

    /// Checks that tags are in the frames when the program sees them.
    pub fn check_visible_tags(&self) -> Result<(), CrossConnectError> {
        match &self.hidden_tags {
            Some(Err(error)) => Err(CrossConnectError::HiddenTags(error.clone())),
            Some(Ok(note)) => {
                warn!(port = &*self.name, "{note}");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// `None` if it is not a sub-interface.
    pub fn tags(&self) -> Option<Tags> {
        match self.place {
            Place::Interface { .. } => None,
            Place::SubInterface { tags, .. } => Some(tags),
        }
    }

    /// The tags that frames which leave here have before their EtherType.
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
        if self.is_cross_connected() {
            return PortWord::new(self.mac, PortWord::CROSS_CONNECT);
        }
        let flags = match (self.role, self.accepts_labels()) {
            (Role::TxOnly | Role::ParentOnly, _) => 0,
            (Role::Local, _) => PortWord::IMPOSE | PortWord::LOCAL,
            (Role::Switching, true) if self.accept_labels.0.is_some() => {
                PortWord::IMPOSE | PortWord::MPLS | PortWord::RANGES
            }
            (Role::Switching, true) => PortWord::IMPOSE | PortWord::MPLS,
            (Role::Switching, false) => PortWord::IMPOSE,
        };
        let kernel_vlan = match self.place {
            Place::SubInterface { device: Some(_), .. } => PortWord::KERNEL_VLAN,
            Place::SubInterface { device: None, .. } | Place::Interface { .. } => 0,
        };
        let has_classes = self.role == Role::Switching && !self.traffic_classes().is_empty();
        let classes = if has_classes { PortWord::CLASSES } else { 0 };
        PortWord::new(self.mac, flags | kernel_vlan | classes).with_domain(self.domain)
    }

    fn traffic_classes(&self) -> TrafficClasses {
        class_maps::traffic_classes(self.dscp_map, self.tc_map)
    }

    /// Publishes which labels it accepts and its traffic classes, and then its word. The ranges stay if they do not hold any
    /// more: a frame may still go by the old word. Empty classes are those that a port without them has.
    pub(super) fn store(&self, tables: &mut impl Tables) {
        if let Some(ranges) = &self.accept_labels.0 {
            tables.store_label_ranges(self.number, ranges.as_slice());
        }
        tables.store_traffic_classes(self.number, self.traffic_classes());
        tables.store_port(self.number, self.word());
    }
}

/// What must be done to make an interface a port. All checks have passed.
#[derive(Debug)]
pub enum Plan {
    /// Attach the program to this interface.
    Attach(Box<Facts>),
    /// Nothing to attach: the interface already has the program for its sub-interfaces.
    Promote(u16),
    SubInterface(Box<SubInterfacePlan>),
}

/// A sub-interface that should become a port.
#[derive(Clone, Debug)]
pub struct SubInterfacePlan {
    found: SubInterface,
    pub parent_name: Arc<str>,
    /// The parent, if it has no program yet.
    pub parent: Option<Box<Facts>>,
    mac: Mac,
    mtu: u32,
    largest_redirected: u32,
    pub notes: Vec<String>,
}

/// All ports.
#[derive(Debug)]
pub struct Ports {
    mode: XdpMode,
    /// Settings that all ports share; [`Settings::with_port`] fills in the number.
    settings: Settings,
    pub(super) ports: Vec<Port>,
    /// How frames leave by each interface, as published.
    pub(super) ways_out: BTreeMap<u32, CrossConnect>,
    /// Whether ports whose interfaces disappear become ports again when the interfaces are recreated.
    readopts: bool,
    pub(super) waiting: WaitingPorts,
    /// Numbers of removed ports, each kept until no frame is on its way to it.
    leaving: Vec<(u16, GracePeriod)>,
    pub(super) crossed_interfaces: CrossedInterfaces,
    pub(super) attachments: Attachments,
}

impl Ports {
    pub fn new(mode: XdpMode, settings: Settings, readopts: bool) -> Self {
        Self {
            mode,
            settings,
            ports: Vec::new(),
            ways_out: BTreeMap::new(),
            readopts,
            waiting: WaitingPorts::default(),
            leaving: Vec::new(),
            crossed_interfaces: CrossedInterfaces::default(),
            attachments: Attachments::default(),
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

    /// The port of an interface, unless it is retired or parent-only.
    pub fn by_ifindex(&self, ifindex: u32) -> Option<&Port> {
        self.ports
            .iter()
            .find(|port| port.ifindex() == ifindex && port.is_usable())
    }

    /// The settings that are frozen into the program of port `number`.
    pub fn settings(&self, number: u16) -> Settings {
        self.settings.with_port(number.into())
    }

    /// The same for the program only. Asking for a frame's whole length takes time, so the program does it only if
    /// frames may be multi-buffer.
    fn program_settings(&self, number: u16, mtu: u32, traits: Traits) -> Settings {
        let frags = traits.exceeds_mtu || mtu > ONE_BUFFER_MTU;
        self.settings(number)
            .with_frags(frags)
            .with_native_frags(frags && traits.receives_multi_buffer)
            .with_checksum(traits.checksum)
    }

    /// Whether multi-buffer frames can be redirected to a port. If not, the kernel silently loses those on which the
    /// program has run in the driver. (Those on which it has run as an skb can be redirected anywhere: all frames in
    /// generic mode, and frames from a tap that do not fit one buffer.)
    pub fn sends_multi_buffer(&self, number: u16) -> bool {
        let port = self.get(number).and_then(|port| self.program_port(port));
        matches!(port.map(|port| &port.place), Some(Place::Interface { traits, .. }) if traits.sends_multi_buffer)
    }

    /// What is done about unfinished checksums of frames that arrive at a port.
    pub fn checksum(&self, port: &Port) -> Checksum {
        match self.program_port(port).map(|port| &port.place) {
            Some(Place::Interface { traits, .. }) if traits.checksum != abi::Checksum::Trust => Checksum::Finish,
            _ => Checksum::Trust,
        }
    }

    /// The other end of a veth, and the network namespace that it is in; `None` if that is not known. `links` are the
    /// interfaces as they are known now.
    pub fn far_end(&self, port: &Port, links: &Links) -> Option<FarEnd> {
        let Place::Interface { ifindex, far_end, .. } = &port.place else {
            return None;
        };
        let link = links
            .get(*ifindex)
            .filter(|link| link.kind.as_deref() == Some("veth"))?;
        let peer = link.peer?;
        match peer.netns {
            None => links.get(peer.ifindex).map(|link| FarEnd {
                name: link.name.clone(),
                netns: None,
            }),
            Some(_) => {
                let found = far_end.as_ref().filter(|(known, _)| *known == peer);
                found.map(|(_, far_end)| far_end.clone())
            }
        }
    }

    /// The kernel's interface whose addresses are the port's: the parent, for a sub-interface without a device.
    pub fn addressed(&self, number: u16) -> Option<u32> {
        let port = self.get(number)?;
        match port.place {
            Place::SubInterface { device: None, .. } => self.program_port(port).map(Port::ifindex),
            _ => Some(port.ifindex()),
        }
    }

    /// The VRF of packets that arrive at a port. The far end of the local pair is in the VRF of the near end.
    pub fn vrf(&self, number: u16, links: &Links) -> Option<Vrf> {
        let ifindex = self.addressed(number)?;
        let is_far_end = self.get(number).is_some_and(|port| port.role == Role::Local);
        let near_end = links.get(ifindex).filter(|_| is_far_end).and_then(|link| link.peer);
        links.vrf(near_end.map_or(ifindex, |peer| peer.ifindex))
    }

    /// Sets the FTN domain of a port's packets. Returns whether it has changed.
    pub fn set_domain(&mut self, number: u16, domain: Domain, tables: &mut impl Tables) -> bool {
        let Some(port) = self.get_mut(number).filter(|port| port.domain != domain) else {
            return false;
        };
        port.domain = domain;
        let word = port.word();
        tables.store_port(number, word);
        true
    }

    pub fn name(&self, number: u16) -> Option<&str> {
        self.get(number).map(Port::name)
    }

    pub fn number(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| &*port.name == name).map(Port::number)
    }

    /// The port whose program handles the frames of `port`: its parent, or itself.
    pub fn program_port<'a>(&'a self, port: &'a Port) -> Option<&'a Port> {
        port.parent().map_or(Some(port), |parent| self.get(parent))
    }

    /// The state of the program that handles the frames of a port.
    pub fn program<'a>(&'a self, port: &'a Port) -> Option<&'a ProgramState> {
        match &self.program_port(port)?.place {
            Place::Interface { program, .. } => Some(program),
            Place::SubInterface { .. } => None,
        }
    }

    /// Whether the program of port `number` has been taken off its interface.
    pub fn is_program_lost(&self, number: u16) -> bool {
        let program = self.get(number).and_then(|port| self.program(port));
        program.is_some_and(|program| program.lost.is_some())
    }

    /// The program of port `number` and the interface that it is on.
    pub fn program_mut(&mut self, number: u16) -> Option<(u32, &mut ProgramState)> {
        match &mut self.get_mut(number)?.place {
            Place::Interface { ifindex, program, .. } => Some((*ifindex, program)),
            Place::SubInterface { .. } => None,
        }
    }

    /// Programs that are off are put back next time.
    pub fn retry_lost(&mut self, now: Instant) {
        for port in &mut self.ports {
            if let Place::Interface { program, .. } = &mut port.place
                && let Some(lost) = &mut program.lost
            {
                lost.retry = Retry::at_once(now);
            }
        }
    }

    /// The port to which frames for port `number` are handed, and the tags that they have there.
    pub fn way_out(&self, number: u16) -> Option<(u16, VlanTags)> {
        let port = self.get(number)?;
        Some((port.parent().unwrap_or(number), port.vlan_tags()))
    }

    /// The interface where the kernel receives a frame that arrived at port `number`, and the frame's tags there: none
    /// if the kernel has a device for them.
    pub fn way_up(&self, number: u16) -> Option<(u32, VlanTags)> {
        let port = self.get(number)?;
        let tags = match port.place {
            Place::SubInterface { device: Some(_), .. } => port.vlan_tags(),
            Place::SubInterface { device: None, .. } | Place::Interface { .. } => VlanTags::NONE,
        };
        Some((self.program_port(port)?.ifindex(), tags))
    }

    /// Why the kernel cannot resolve `next_hop` at a port: it is cross-connected, or a sub-interface that the kernel has no
    /// device for.
    pub fn no_neighbours(&self, ifindex: u32, next_hop: &NextHop) -> Option<String> {
        let port = self.by_ifindex(ifindex)?;
        if let (Some(with), Some(_)) = (port.crossed_with(), next_hop.via.address()) {
            return Some(format!(
                "{name} is cross-connected with {with}, where the answers of its neighbours go",
                name = port.name
            ));
        }
        match (&port.place, next_hop.via) {
            (Place::SubInterface { device: None, tags, .. }, Via::Inet(_) | Via::Inet6(_)) => Some(format!(
                "the kernel has no VLAN device for {name}, and resolves no addresses there: make one (`{commands}`), or name \
                 the next hop by its MAC address (`via link MAC dev {name}`)",
                name = port.name,
                commands = tags.commands(&self.program_port(port)?.name, &port.name),
            )),
            _ => None,
        }
    }

    /// Sets whether ports whose interfaces disappear become ports again when the interfaces are recreated.
    pub fn set_readopts(&mut self, readopts: bool) {
        self.readopts = readopts;
    }

    pub fn waiting(&self) -> &WaitingPorts {
        &self.waiting
    }

    pub fn waiting_mut(&mut self) -> &mut WaitingPorts {
        &mut self.waiting
    }

    /// Makes a port wait for its interface.
    pub fn wait_for(&mut self, name: &str, wish: Wish, reason: String) -> Result<(), PortError> {
        let number = self.number_for(name)?;
        self.waiting.add(Waiting::new(name, number, wish, reason));
        Ok(())
    }

    /// Interfaces have changed: try the ports that wait for them.
    pub fn follow_waiting(&mut self, links: &Links, now: Instant) {
        let Self { ports, waiting, .. } = self;
        waiting.follow(
            |name| {
                let is_port = |port: &Port| port.role != Role::ParentOnly && *port.name == *name;
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

    /// Whether the interface that was surveyed can become a port called `name`, and how.
    pub fn plan(&self, name: &str, survey: Survey) -> Result<Plan, PortError> {
        let is_port = |port: &&Port| *port.name == *name && port.role != Role::ParentOnly;
        if self.ports.iter().any(|port| is_port(&port)) {
            return Err(PortError::Exists { name: name.into() });
        }
        let Some(found) = survey.sub_interface? else {
            return Ok(match self.number(name) {
                Some(parent_only) => Plan::Promote(parent_only),
                None => {
                    attach::check_facts(&survey.facts, self.mode, survey.holder)?;
                    Plan::Attach(survey.facts)
                }
            });
        };
        let facts = survey.facts;
        let parent = facts.link.clone().ok_or_else(|| PortError::gone(&facts.name))?;
        let port = self.interface(found.parent);
        match port {
            None => attach::check_facts(&facts, self.mode, survey.holder)?,
            Some(port) if port.role == Role::Local => return Err(PortError::LocalParent { name: parent.name }),
            Some(port) if let Some(with) = port.crossed_with() => {
                let name = port.name.clone();
                return Err(PortError::CrossConnectedParent { name, with });
            }
            Some(port) => {
                if let Some(other) = self.sub_interface(port.number, found.tags) {
                    return Err(PortError::SameTags {
                        name: other.name.clone(),
                        parent: parent.name,
                    });
                }
            }
        }
        let mut notes = preflight::check_tags(&facts)?;
        notes.extend(survey.device.as_deref().and_then(preflight::is_down));
        let mac = survey.device.as_ref().and_then(|device| device.mac).or(parent.mac);
        Ok(Plan::SubInterface(Box::new(SubInterfacePlan {
            mac: mac.ok_or_else(|| PortError::NoMac { name: name.into() })?,
            mtu: mtu_of(found.tags, &parent, survey.device.as_deref()),
            largest_redirected: largest_redirected(&parent, found.tags.to_wire()),
            parent_name: parent.name,
            parent: port.is_none().then_some(facts),
            found,
            notes,
        })))
    }

    /// How to put the program onto an interface that is to become a port.
    pub fn order(&mut self, facts: Box<Facts>, wish: Wish) -> Result<Order, PortError> {
        let link = facts.link.as_ref().ok_or_else(|| PortError::gone(&facts.name))?;
        if wish.cross_connect.is_some() {
            preflight::check_tags(&facts)?;
        }
        let number = self.number_for(&facts.name)?;
        let traits = Traits::before(&facts, wish.checksum, self.mode);
        Ok(Order {
            number,
            ifindex: link.ifindex,
            mode: self.mode,
            settings: self.program_settings(number, link.mtu, traits),
            wish,
            facts,
        })
    }

    /// Adds the port of an interface that has the program now. `links` are the interfaces as they are known now.
    pub fn attached(
        &mut self,
        order: &Order,
        attached: &Attached,
        links: &Links,
        tables: &mut impl Tables,
    ) -> Result<(), PortError> {
        let (number, ifindex, wish) = (order.number, order.ifindex, &order.wish);
        let name = &order.facts.name;
        let link = attached.facts.link.as_ref().filter(|link| link.ifindex == ifindex);
        let link = links.get(ifindex).or(link).ok_or_else(|| PortError::gone(name))?;
        let mac = link.mac.ok_or_else(|| PortError::NoMac { name: name.clone() })?;
        if !self.counts_on(name) {
            tables.clear_reason_counters(number)?;
        }
        tables.set_tx_port(number, ifindex)?;
        let port = Port {
            number,
            name: link.name.clone(),
            mac,
            mtu: link.mtu,
            largest_redirected: largest_redirected(link, VlanTags::NONE),
            role: wish.role,
            mpls: wish.mpls,
            accept_labels: wish.accept_labels,
            mpls_mtu: wish.mpls_mtu,
            cross_connect: wish.cross_connect.clone(),
            attachment: None,
            dscp_map: wish.dscp_map,
            tc_map: wish.tc_map,
            kernel_input: true,
            checksum: wish.checksum,
            retired: false,
            domain: Domain::EMPTY,
            place: Place::Interface {
                ifindex,
                program: ProgramState::attached(attached.link_id, attached.program_id),
                traits: Traits {
                    sends_multi_buffer: attached.facts.sends_multi_buffer(self.mode),
                    takes_redirects: attached.facts.takes_redirects(self.mode),
                    ..Traits::before(&order.facts, wish.checksum, self.mode)
                },
                far_end: link.peer.zip(attached.facts.far_end.clone()),
            },
            hidden_tags: hidden_tags(&attached.facts),
        };
        info!(port = &*port.name, number, link_id = attached.link_id, "attached");
        port.warn_of_mpls_mtu(Default::default());
        self.ports.push(port);
        self.added(number, tables);
        Ok(())
    }

    /// Adds a sub-interface, whose parent has the program, as a port.
    pub fn add_sub_interface(
        &mut self,
        name: &str,
        Wish {
            role,
            mpls,
            accept_labels,
            mpls_mtu,
            cross_connect,
            dscp_map,
            tc_map,
            checksum,
        }: Wish,
        plan: &SubInterfacePlan,
        tables: &mut impl Tables,
    ) -> Result<(), PortError> {
        let number = self.number_for(name)?;
        let parent = self.interface(plan.found.parent);
        let parent = parent.ok_or_else(|| PortError::gone(&plan.parent_name))?;
        let (ifindex, parent, parent_name) = (parent.ifindex(), parent.number, parent.name.clone());
        let port = Port {
            number,
            name: name.into(),
            mac: plan.mac,
            mtu: plan.mtu,
            largest_redirected: plan.largest_redirected,
            role,
            mpls,
            accept_labels,
            mpls_mtu,
            cross_connect,
            attachment: None,
            dscp_map,
            tc_map,
            kernel_input: true,
            checksum,
            retired: false,
            domain: Domain::EMPTY,
            hidden_tags: None,
            place: Place::SubInterface {
                parent,
                tags: plan.found.tags,
                device: plan.found.device,
                named_by_device: *plan.found.tags.name_on(&plan.parent_name) != *name,
            },
        };
        if !self.counts_on(name) {
            tables.clear_reason_counters(number)?;
        }
        tables.set_tx_port(number, ifindex)?;
        if let Some(tags) = port.tags()
            && let Err(error) = tables.insert_sub_interface(tags.key(parent), number)
        {
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
        port.warn_of_mpls_mtu(Default::default());
        self.ports.push(port);
        self.added(number, tables);
        Ok(())
    }

    /// Publishes a new port, to which others may be cross-connected.
    fn added(&mut self, number: u16, tables: &mut impl Tables) {
        self.publish_cross_connects(tables);
        if let Some(port) = self.get(number) {
            port.store(tables);
        }
    }

    /// The port that has its program on the parent of a sub-interface.
    pub fn parent_of(&self, plan: &SubInterfacePlan) -> Option<u16> {
        self.interface(plan.found.parent).map(Port::number)
    }

    /// Checks that port `number`, which already has its program, does `wanted` about unfinished checksums.
    pub fn check_checksum(&self, number: u16, wanted: Option<Checksum>) -> Result<(), PortError> {
        let Some(port) = self.get(number) else { return Ok(()) };
        match wanted {
            Some(wanted) if wanted != self.checksum(port) => Err(PortError::OtherChecksum {
                name: port.name.clone(),
                is: self.checksum(port),
                wanted,
            }),
            _ => Ok(()),
        }
    }

    /// Checks that an interface that has the program for its sub-interfaces can be the port that is wished.
    pub fn check_promotion(&self, number: u16, wish: &Wish) -> Result<(), PortError> {
        if wish.cross_connect.is_some() {
            self.check_crossed(number, |_| true)?;
        }
        self.check_checksum(number, wish.checksum)
    }

    /// The interfaces whose XDP features may have changed: the one with this index, or any (`None`).
    pub fn interfaces(&self, ifindex: Option<u32>) -> Vec<(u32, Arc<str>)> {
        let attached = self.ports.iter().filter(|port| port.parent().is_none());
        attached
            .map(|port| (port.ifindex(), port.name.clone()))
            .filter(|&(port, _)| ifindex.is_none_or(|ifindex| ifindex == port))
            .collect()
    }

    /// Reports if frames redirected to a port are lost from now on, or no longer.
    pub fn follow_features(&mut self, ifindex: u32, facts: &Facts) {
        let now = facts.takes_redirects(self.mode);
        let Some(Port {
            name,
            cross_connect,
            hidden_tags,
            place: Place::Interface { traits, .. },
            ..
        }) = self.interface_mut(ifindex)
        else {
            return;
        };
        if facts.link.as_ref().map(|link| link.ifindex) != Some(ifindex) {
            return;
        }
        let are_hidden = self::hidden_tags(facts);
        if let Some(Err(error)) = &are_hidden
            && cross_connect.is_some()
            && *hidden_tags != are_hidden
        {
            warn!(port = &**name, "tags of cross-connected frames are lost: {error}");
        }
        *hidden_tags = are_hidden;
        if now == traits.takes_redirects {
            return;
        }
        traits.takes_redirects = now;
        match now {
            Some(false) if facts.is_veth() => warn!(port = &**name, "{}", facts.veth_needs_napi()),
            Some(false) => warn!(
                port = &**name,
                "{name}: frames that are redirected to it are lost: its driver no longer takes any"
            ),
            Some(true) => info!(port = &**name, "frames that are redirected to it are no longer lost"),
            None => {}
        }
    }

    /// Whether frames can be redirected to a port; `None` if the kernel does not say.
    pub fn takes_redirects(&self, port: &Port) -> Option<bool> {
        match self.program_port(port)?.place {
            Place::Interface { traits, .. } => traits.takes_redirects,
            Place::SubInterface { .. } => None,
        }
    }

    /// The number of a port that waits, or a free one.
    fn number_for(&mut self, name: &str) -> Result<u16, PortError> {
        if let Some(waiting) = self.waiting.get(name) {
            // Frames that are still on their way may leave by it.
            self.leaving.retain(|&(number, _)| number != waiting.number);
            return Ok(waiting.number);
        }
        let taken = self.ports.iter().map(|port| port.number);
        let taken = taken.chain(self.waiting.iter().map(|waiting| waiting.number));
        let taken = taken.chain(self.leaving.iter().map(|&(number, _)| number));
        let taken: HashSet<u16> = taken.collect();
        (0..MAX_PORTS as u16)
            .find(|number| !taken.contains(number))
            .ok_or(PortError::Full)
    }

    /// Whether the counters of a port continue from where they were.
    fn counts_on(&self, name: &str) -> bool {
        self.waiting.get(name).is_some_and(|waiting| waiting.was_port)
    }

    /// Checks that port `number` can be removed.
    pub fn check_removal(&self, number: u16) -> Result<(), PortError> {
        let Some(port) = self.get(number) else { return Ok(()) };
        if port.role == Role::ParentOnly {
            return Err(PortError::ParentOnly {
                name: port.name.clone(),
                sub_interfaces: self.sub_interfaces(number).map(|port| port.name.clone()).collect(),
            });
        }
        self.check_uncrossed(&port.name)
    }

    /// From here on nothing is sent out of the port.
    pub fn retire(&mut self, number: u16) {
        if let Some(port) = self.get_mut(number) {
            port.retired = true;
        }
    }

    /// Removes a port, or leaves its program there for the sub-interfaces. Next hops must not use the port any more.
    pub fn remove(&mut self, number: u16, tables: &mut impl Tables) {
        if self.sub_interfaces(number).next().is_some() {
            self.set_role(number, Wish::new(Role::ParentOnly, None), tables);
            return;
        }
        let parent = self.get(number).and_then(Port::parent);
        self.remove_at_once(&[number], tables);
        if let Some(parent) = parent {
            self.drop_idle_parent(parent, tables);
        }
    }

    fn remove_at_once(&mut self, numbers: &[u16], tables: &mut impl Tables) {
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
        self.publish_cross_connects(tables);
        let period = tables.begin_grace_period();
        self.leaving.extend(numbers.iter().map(|&number| (number, period)));
    }

    /// Frees the numbers of removed ports when no frame is on its way to them.
    pub fn free_numbers(&mut self, tables: &mut impl Tables) {
        let free = self.leaving.extract_if(.., |(_, period)| tables.is_over(*period));
        for (number, _) in free.collect::<Vec<_>>() {
            if let Err(error) = tables.clear_tx_port(number) {
                warn!(%error, "cannot free a transmit port");
            }
        }
    }

    /// Removes a port that has the program only for sub-interfaces that are gone.
    pub fn drop_idle_parent(&mut self, number: u16, tables: &mut impl Tables) {
        let is_idle = self.get(number).is_some_and(|port| port.role == Role::ParentOnly)
            && self.sub_interfaces(number).next().is_none();
        if is_idle {
            self.remove_at_once(&[number], tables);
        }
    }

    /// The kernel accepts labels on this interface, or does not (`net.mpls.conf.IFACE.input`). Returns the port, if
    /// that changes what it does.
    pub fn set_kernel_input(&mut self, ifindex: u32, accepted: bool, tables: &mut impl Tables) -> Option<&Port> {
        let number = self.by_ifindex(ifindex)?.number();
        let port = self.get_mut(number)?;
        let before = port.accepts_labels();
        port.kernel_input = accepted;
        if port.accepts_labels() == before {
            return None;
        }
        let word = port.word();
        tables.store_port(number, word);
        self.get(number)
    }

    /// Changes the role of a port that has its program.
    pub fn set_role(&mut self, number: u16, wish: Wish, tables: &mut impl Tables) {
        if let Some(port) = self.get_mut(number) {
            let before = port.mpls_mtus();
            (port.role, port.mpls, port.retired) = (wish.role, wish.mpls, false);
            (port.accept_labels, port.mpls_mtu) = (wish.accept_labels, wish.mpls_mtu);
            (port.dscp_map, port.tc_map) = (wish.dscp_map, wish.tc_map);
            info!(port = &*port.name, role = %wish.role, "changed");
            port.warn_of_mpls_mtu(before);
            port.cross_connect = wish.cross_connect;
            self.added(number, tables);
        }
    }

    /// Changes a port as `link set` says. Returns whether adjacencies depend on what changed.
    pub fn change(&mut self, number: u16, change: PortChange, tables: &mut impl Tables) -> Result<bool, PortError> {
        let Some(port) = self.get_mut(number) else {
            return Ok(false);
        };
        let (name, role) = (port.name.clone(), port.role);
        if change.is_about_labels() && role != Role::Switching {
            return Err(PortError::NoLabels { name, role });
        }
        if change.mpls_mtu.is_some() && matches!(role, Role::Local | Role::ParentOnly) {
            return Err(PortError::NotSent { name, role });
        }
        let before = port.mpls_mtus();
        let mut wish = port.wish();
        wish.change(change);
        (port.mpls, port.accept_labels, port.mpls_mtu) = (wish.mpls, wish.accept_labels, wish.mpls_mtu);
        (port.dscp_map, port.tc_map) = (wish.dscp_map, wish.tc_map);
        port.store(tables);
        port.warn_of_mpls_mtu(before);
        Ok(port.mpls_mtu() != before.1)
    }

    /// An interface has changed: its program may have been taken off, or another program that blocked it. Returns
    /// whether to look at the program at once.
    pub fn follow_program(&mut self, link: &LinkInfo, now: Instant) -> bool {
        let Some(Port {
            place: Place::Interface { program, .. },
            ..
        }) = self.interface_mut(link.ifindex)
        else {
            return false;
        };
        program.follow(link, now);
        link.xdp.is_none_or(|xdp| xdp.program != program.program_id) && program.is_due(now)
    }

    /// An interface has changed. Returns whether adjacencies depend on the change, and the port that needs the program
    /// for large frames from now on.
    pub fn follow(&mut self, link: &LinkInfo, tables: &mut impl Tables) -> (bool, Option<u16>) {
        let has_namesake = self.has_sub_interface_named(&link.name);
        let Some(port) = self.interface_mut(link.ifindex) else {
            return (false, None);
        };
        // A name belongs to one port; a sub-interface that the kernel has no device for keeps its own.
        if !has_namesake {
            port.name = link.name.clone();
        }
        let (mac, mtu) = (link.mac.filter(|mac| mac.is_unicast()).unwrap_or(port.mac), link.mtu);
        if (mac, mtu) == (port.mac, port.mtu) {
            return (false, None);
        }
        let outgrown = port.mtu <= ONE_BUFFER_MTU && mtu > ONE_BUFFER_MTU;
        let is_prepared = matches!(port.place, Place::Interface { traits, .. } if traits.exceeds_mtu);
        let mpls_mtus = port.mpls_mtus();
        (port.mac, port.mtu) = (mac, mtu);
        port.largest_redirected = largest_redirected(link, VlanTags::NONE);
        port.warn_of_mpls_mtu(mpls_mtus);
        let number = port.number;
        tables.store_port(number, port.word());
        self.publish_cross_connects(tables);
        if outgrown && !self.sends_multi_buffer(number) {
            warn!(port = &*link.name, "{}", preflight::delays_multi_buffer(&link.name));
        }
        (true, (outgrown && !is_prepared).then_some(number))
    }

    /// The program settings that a port needs with its current MTU.
    pub fn settings_now(&self, number: u16) -> Option<Settings> {
        let port = self.get(number)?;
        match port.place {
            Place::Interface { traits, .. } => Some(self.program_settings(number, port.mtu, traits)),
            Place::SubInterface { .. } => None,
        }
    }

    /// The program for large frames could not be attached: the interface is no longer a port.
    pub fn not_replaced(&mut self, number: u16, error: &str, tables: &mut impl Tables) {
        let name = self.name(number).unwrap_or_default();
        warn!(
            port = name,
            error, "cannot attach the program for large frames; the interface is no longer a port"
        );
        let reason = format!("the program for large frames cannot be attached: {error}");
        self.give_up(number, &reason, tables);
    }

    /// Interfaces have changed: updates sub-interfaces from their parents and the kernel's VLAN devices. Returns
    /// whether adjacencies depend on what changed.
    pub fn follow_sub_interfaces(&mut self, links: &Links, tables: &mut impl Tables) -> bool {
        let parents: HashMap<u16, (u32, Arc<str>)> = self
            .ports
            .iter()
            .filter(|port| port.parent().is_none())
            .map(|port| (port.number, (port.ifindex(), port.name.clone())))
            .collect();
        let mut changed = false;
        for port in &mut self.ports {
            let before = (
                port.word(),
                port.ifindex(),
                port.mtu,
                port.vlan_tags(),
                port.mpls_mtus(),
            );
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
            if let Some(parent) = links.get(*ifindex) {
                port.mtu = mtu_of(*tags, parent, adopted);
                port.largest_redirected = largest_redirected(parent, tags.to_wire());
            }
            let after = (
                port.word(),
                port.ifindex(),
                port.mtu,
                port.vlan_tags(),
                port.mpls_mtus(),
            );
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
                tables.store_port(port.number, after.0);
            }
            port.warn_of_mpls_mtu(before.4);
            changed |= after != before;
        }
        if changed {
            self.publish_cross_connects(tables);
        }
        changed
    }

    /// The name of each port, by its number.
    pub fn names(&self) -> HashMap<u16, Arc<str>> {
        self.ports.iter().map(|port| (port.number, port.name.clone())).collect()
    }

    /// The renamed ports since `before`: their new names by the old ones.
    pub fn renamed_since(&self, before: &HashMap<u16, Arc<str>>) -> HashMap<Arc<str>, Arc<str>> {
        let renamed = self.ports.iter().filter_map(|port| {
            let old = before.get(&port.number).filter(|old| **old != port.name)?;
            Some((old.clone(), port.name.clone()))
        });
        renamed.collect()
    }

    /// The ports for the resolver: sub-interfaces that the kernel has no device for as links of their own, and the
    /// interfaces of all others, by the ports' names.
    pub fn links_of_ports(&self, links: &Links) -> (Vec<LinkInfo>, HashMap<Arc<str>, u32>) {
        let mut without_device = Vec::new();
        let mut interfaces = HashMap::new();
        for port in &self.ports {
            let Place::SubInterface { device, .. } = port.place else {
                interfaces.insert(port.name.clone(), port.ifindex());
                continue;
            };
            let parent = self.program_port(port).and_then(|parent| links.get(parent.ifindex()));
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
                    // The kernel resolves no addresses there.
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
    pub fn lose(&mut self, ifindex: u32, tables: &mut impl Tables) -> bool {
        let Some(port) = self.interface(ifindex) else {
            return false;
        };
        let number = port.number;
        for port in self.sub_interfaces(number).chain(self.get(number)) {
            let name = &*port.name;
            match port.role {
                Role::ParentOnly => {}
                Role::Local => warn!(
                    port = name,
                    "the interface for this machine's own packets is gone; to create it again, run `mplsxdp unload` and load again"
                ),
                Role::Switching | Role::TxOnly if self.readopts => {
                    warn!(
                        port = name,
                        "the interface is gone; it becomes a port again when it is recreated"
                    );
                }
                Role::Switching | Role::TxOnly => warn!(
                    port = name,
                    "the interface is gone and is no longer a port; when it is back, add it with `mplsxdp link add {name}`"
                ),
            }
        }
        self.give_up(number, "its interface is gone", tables);
        true
    }

    /// Removes an interface and its sub-interfaces. They wait to be added again if they may.
    fn give_up(&mut self, number: u16, reason: &str, tables: &mut impl Tables) {
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
        self.remove_at_once(&gone, tables);
    }

    /// After a resync: what is not in `links` is gone.
    pub fn lose_all_but(&mut self, links: &Links, tables: &mut impl Tables) -> bool {
        let gone: Vec<u32> = self
            .ports
            .iter()
            .filter(|port| port.parent().is_none())
            .map(Port::ifindex)
            .filter(|&ifindex| links.get(ifindex).is_none())
            .collect();
        for &ifindex in &gone {
            self.lose(ifindex, tables);
        }
        !gone.is_empty()
    }

    pub fn clear(&mut self) {
        self.ports.clear();
        self.crossed_interfaces.wanted.clear();
    }

    pub fn get(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    pub(super) fn get_mut(&mut self, number: u16) -> Option<&mut Port> {
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

    pub(super) fn sub_interfaces(&self, parent: u16) -> impl Iterator<Item = &Port> {
        self.ports.iter().filter(move |port| port.parent() == Some(parent))
    }

    /// The sub-interface of `parent` for frames with the identifiers of `tags`.
    fn sub_interface(&self, parent: u16, tags: Tags) -> Option<&Port> {
        self.sub_interfaces(parent)
            .find(|port| port.tags().is_some_and(|other| other.key(parent) == tags.key(parent)))
    }
}

/// The MTU of a sub-interface. One tag does not count against the parent's MTU. A second one does, because the kernel
/// lets XDP redirect frames that are longer by only one tag.
fn mtu_of(tags: Tags, parent: &LinkInfo, device: Option<&LinkInfo>) -> u32 {
    let most = match tags.inner {
        None => parent.mtu,
        Some(_) => parent.mtu.saturating_sub(VLAN_HLEN as u32),
    };
    device.map_or(most, |device| device.mtu.min(most))
}

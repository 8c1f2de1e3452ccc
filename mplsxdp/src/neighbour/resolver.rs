//! The state of each next hop: its interface, and the MAC address to put on its frames.
//!
//! [`Resolver`] gets the kernel's reports and the time, and returns [`Action`]s: requests to the kernel, and the next
//! hops that have changed. Carry out the actions in order.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mplsxdp_common::wire::Mac;

use super::links::Links;
use super::stale::Stale;
use super::{Event, LinkInfo, Lookup, Manager, Neighbour, NeighbourState};
use crate::route::{NextHop, NextHopId, Via};

/// How long an unresolved neighbour waits for its next probe.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a look-up that failed waits for the next attempt.
pub const LOOKUP_RETRY: Duration = Duration::from_secs(1);
/// Routes change in bursts: addresses are looked up again when no route has changed for this long,
pub const ROUTES_QUIET: Duration = Duration::from_millis(20);
/// or this long after the first change, if changes never stop.
pub const ROUTES_BOUND: Duration = Duration::from_millis(200);
/// How many next hops or addresses an event concerns at once; the others follow in [steps](Resolver::step).
const AT_ONCE: usize = 16;
/// How many neighbours are probed at once.
const PROBED: usize = 256;

/// The state of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HopState {
    /// The neighbour has sent its MAC address, or the administrator has set it.
    Resolved { ifindex: u32, mac: Mac },
    /// `via link`: the MAC address was given.
    Static { ifindex: u32, mac: Mac },
    /// The neighbour has been asked and has not answered yet.
    Incomplete { ifindex: u32 },
    /// The kernel has a MAC address for the neighbour that cannot be a single interface's: broadcast, multicast or zero
    /// (RFC 1812 section 3.3.2).
    BadMac { ifindex: u32, mac: Mac },
    /// The neighbour does not answer. It is asked again periodically.
    Failed { ifindex: u32 },
    /// The interface has no MAC addresses to resolve (IFF_NOARP); only `via link` or a PERMANENT neighbour can be used.
    NoArp { ifindex: u32 },
    /// The interface is down, or has no carrier.
    LinkDown { ifindex: u32 },
    /// There is no interface of this name.
    NoSuchDev,
    /// The kernel has no route to the address.
    NoRoute,
    /// The address belongs to this machine.
    Local,
}

impl HopState {
    /// Where frames for the next hop go, if they can be sent: the interface, and the destination MAC address.
    pub fn adjacency(self) -> Option<(u32, Mac)> {
        match self {
            Self::Resolved { ifindex, mac } | Self::Static { ifindex, mac } => Some((ifindex, mac)),
            Self::Incomplete { .. }
            | Self::BadMac { .. }
            | Self::Failed { .. }
            | Self::NoArp { .. }
            | Self::LinkDown { .. }
            | Self::NoSuchDev
            | Self::NoRoute
            | Self::Local => None,
        }
    }

    /// The MAC address of the next hop if it is known, even if frames cannot be sent to it.
    pub fn mac(self) -> Option<Mac> {
        match self {
            Self::BadMac { mac, .. } => Some(mac),
            _ => self.adjacency().map(|(_, mac)| mac),
        }
    }

    /// The interface towards the next hop, if it is known.
    pub fn ifindex(self) -> Option<u32> {
        match self {
            Self::Resolved { ifindex, .. }
            | Self::Static { ifindex, .. }
            | Self::Incomplete { ifindex }
            | Self::BadMac { ifindex, .. }
            | Self::Failed { ifindex }
            | Self::NoArp { ifindex }
            | Self::LinkDown { ifindex } => Some(ifindex),
            Self::NoSuchDev | Self::NoRoute | Self::Local => None,
        }
    }
}

/// Something that the [`Resolver`] wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask the kernel how it would send to this address, and always answer with [`Resolver::lookup_done`].
    Lookup { address: IpAddr },
    /// Make the kernel resolve the neighbour, and keep it resolved.
    Probe { ifindex: u32, address: IpAddr },
    /// The neighbour no longer needs to be kept resolved.
    Release { ifindex: u32, address: IpAddr },
    /// Make the kernel verify the neighbour, if it is STALE.
    Verify { ifindex: u32, address: IpAddr },
    /// The next hop's state has changed.
    Changed { id: NextHopId, state: HopState },
}

/// The state machine.
#[derive(Default, Debug)]
pub struct Resolver {
    links: Links,
    neighbours: HashMap<Target, Known>,
    /// Counts the resyncs, as in [`Links`].
    round: u64,
    /// Everything was reported at least once. Before that, something missing may not have been reported yet.
    synced: bool,
    hops: BTreeMap<NextHopId, Hop>,
    /// How many next hops with addresses are reached, or should be, through each interface.
    through: HashMap<u32, usize>,
    /// Next hops by the interface that they name.
    by_dev: HashMap<Arc<str>, BTreeSet<NextHopId>>,
    /// Addresses by the interface through which the kernel sends to them.
    by_interface: HashMap<u32, BTreeSet<IpAddr>>,
    /// What events leave to be done, in this order.
    pending: VecDeque<Pending>,
    claims: BTreeMap<Target, Claim>,
    routed: BTreeMap<IpAddr, Routed>,
    /// When to probe each neighbour, earliest first.
    probes_due: BTreeSet<(Instant, Target)>,
    /// When to look up the marked addresses.
    lookups_due: Option<Instant>,
    /// The first of the route changes that those look-ups wait for.
    routes_since: Option<Instant>,
    /// See [`Resolver::hold_leftovers`].
    holds_leftovers: bool,
    /// The VRF devices of the VRFs in which XDP sends packets to the kernel's neighbours.
    switched_vrfs: BTreeSet<u32>,
    stale: Stale,
}

/// A neighbour: interface and address.
type Target = (u32, IpAddr);

#[derive(Debug)]
struct Hop {
    next_hop: NextHop,
    /// The neighbour that it currently resolves to.
    target: Option<Target>,
    /// The last reported state.
    state: Option<HopState>,
}

/// A walk that takes one step for each next hop or address.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Pending {
    /// Find the states of the next hops that name this interface. `again`: report those that are reached through the
    /// interface with this index even if their states are as before.
    Named {
        dev: Arc<str>,
        after: Option<NextHopId>,
        again: Option<u32>,
    },
    /// The same for those whose addresses the kernel sends to through this interface.
    Routed {
        ifindex: u32,
        after: Option<IpAddr>,
        again: Option<u32>,
    },
    /// Look up addresses in this range: all, or those that are marked.
    Ask {
        first: Bound<IpAddr>,
        last: IpAddr,
        marked: bool,
    },
    /// See [`Resolver::release_leftovers`].
    ReleaseLeftovers,
}

/// The first and the last address of each family.
const IPV4: (IpAddr, IpAddr) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST));
const IPV6: (IpAddr, IpAddr) = (
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
);

/// An entry of the kernel's neighbour table.
#[derive(Debug)]
struct Known {
    state: NeighbourState,
    managed: Option<Manager>,
    round: u64,
}

/// A neighbour that next hops need.
#[derive(Default, Debug)]
struct Claim {
    users: BTreeSet<NextHopId>,
    /// The last probe, which made the kernel keep the neighbour resolved.
    probed: Option<Instant>,
    /// Its place in `probes_due`.
    due: Option<Instant>,
}

/// An address whose interface is found through the kernel's routes.
#[derive(Default, Debug)]
struct Routed {
    users: BTreeSet<NextHopId>,
    answer: Option<Lookup>,
    /// A look-up is under way,
    asking: bool,
    /// and its answer will be out of date.
    ask_again: bool,
    /// To be looked up when `lookups_due`.
    marked: bool,
}

impl Resolver {
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The last reported state; `None` as long as the kernel has not reported enough.
    pub fn state(&self, id: NextHopId) -> Option<HopState> {
        self.hops.get(&id)?.state
    }

    pub fn next_hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.hops.get(&id).map(|hop| &hop.next_hop)
    }

    pub fn next_hops(&self) -> impl Iterator<Item = (NextHopId, &NextHop, Option<HopState>)> {
        self.hops.iter().map(|(id, hop)| (*id, &hop.next_hop, hop.state))
    }

    /// The next hop after this one in the order of their ids, or the first.
    pub fn next_hop_after(&self, after: Option<NextHopId>) -> Option<(NextHopId, &NextHop, Option<HopState>)> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (id, hop) = self.hops.range((after, Bound::Unbounded)).next()?;
        Some((*id, &hop.next_hop, hop.state))
    }

    /// How many next hops have answered, or should answer, at an interface.
    pub fn next_hops_through(&self, ifindex: u32) -> usize {
        self.through.get(&ifindex).copied().unwrap_or_default()
    }

    /// Replaces a next hop that had the same `id`.
    pub fn add(&mut self, id: NextHopId, next_hop: NextHop, now: Instant, actions: &mut Vec<Action>) {
        self.remove(id, now, actions);
        let routed = routed_address(&next_hop);
        if let Some(dev) = &next_hop.dev {
            self.by_dev.entry(Arc::clone(dev)).or_default().insert(id);
        }
        let hop = Hop {
            next_hop,
            target: None,
            state: None,
        };
        self.hops.insert(id, hop);
        if let Some(address) = routed {
            let routed = self.routed.entry(address).or_default();
            let is_new = routed.users.is_empty();
            routed.users.insert(id);
            if is_new && self.synced {
                routed.ask(address, actions);
            }
        }
        self.evaluate(id, None, now, actions);
    }

    pub fn remove(&mut self, id: NextHopId, now: Instant, actions: &mut Vec<Action>) {
        self.aim(id, None, now, actions);
        self.set_state(id, None);
        let Some(hop) = self.hops.remove(&id) else { return };
        if let Some(dev) = &hop.next_hop.dev
            && let Some(named) = self.by_dev.get_mut(dev)
        {
            named.remove(&id);
            if named.is_empty() {
                self.by_dev.remove(dev);
            }
        }
        if let Some(address) = routed_address(&hop.next_hop)
            && let Some(routed) = self.routed.get_mut(&address)
        {
            routed.users.remove(&id);
            if routed.users.is_empty() {
                let answer = routed.answer;
                self.routed.remove(&address);
                self.note_answer(address, answer, None);
            }
        }
    }

    /// Keeps `by_interface`.
    fn note_answer(&mut self, address: IpAddr, old: Option<Lookup>, new: Option<Lookup>) {
        if let Some(Lookup::Interface(ifindex)) = old
            && let Some(addresses) = self.by_interface.get_mut(&ifindex)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_interface.remove(&ifindex);
            }
        }
        if let Some(Lookup::Interface(ifindex)) = new {
            self.by_interface.entry(ifindex).or_default().insert(address);
        }
    }

    pub fn handle(&mut self, event: &Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Reset => {
                self.links.mark();
                self.round += 1;
            }
            Event::Synced => self.sweep(now, actions),
            Event::Link(info) => {
                let old = self.links.insert(info.clone());
                self.link_changed(info.ifindex, old.as_ref(), Some(info), now);
            }
            Event::LinkGone(ifindex) => {
                let old = self.links.remove(*ifindex);
                self.link_changed(*ifindex, old.as_ref(), None, now);
            }
            Event::Address(address) | Event::AddressGone(address) => {
                let (first, last) = match address.address {
                    IpNet::V4(_) => IPV4,
                    IpNet::V6(_) => IPV6,
                };
                self.ask_between(first, last);
            }
            Event::Neighbour(neighbour) => {
                let Neighbour {
                    ifindex,
                    address,
                    state,
                    managed,
                } = *neighbour;
                let round = self.round;
                let known = Known { state, managed, round };
                self.neighbours.insert((ifindex, address), known);
                self.neighbour_changed((ifindex, address), now, actions);
            }
            Event::NeighbourGone { ifindex, address } => {
                self.neighbours.remove(&(*ifindex, *address));
                self.neighbour_changed((*ifindex, *address), now, actions);
            }
            Event::Route { route, .. } | Event::RouteGone(route) => {
                self.mark(route.prefix.network(), route.prefix.broadcast(), now);
            }
            Event::NextHopObjectGone | Event::Routing(_) => {}
            Event::Rules => self.mark(IPV4.0, IPV6.1, now),
        }
        self.step(AT_ONCE, now, actions);
    }

    /// Whether events have left something to be done by [`Resolver::step`].
    pub fn has_steps(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Sees to that many of the next hops and addresses that events concern.
    pub fn step(&mut self, mut count: usize, now: Instant, actions: &mut Vec<Action>) {
        while count > 0
            && let Some(pending) = self.pending.pop_front()
        {
            count -= 1;
            if let Some(rest) = self.work_on(pending, now, actions) {
                self.pending.push_front(rest);
            }
        }
    }

    /// Returns what is left of it.
    fn work_on(&mut self, pending: Pending, now: Instant, actions: &mut Vec<Action>) -> Option<Pending> {
        match pending {
            Pending::Named { dev, after, again } => {
                let mut named = self
                    .by_dev
                    .get(&dev)?
                    .range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
                let id = *named.next()?;
                self.evaluate_by_link(id, again, now, actions);
                let after = Some(id);
                Some(Pending::Named { dev, after, again })
            }
            Pending::Routed { ifindex, after, again } => {
                let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
                let address = *self.by_interface.get(&ifindex)?.range(range).next()?;
                let users = self.routed.get(&address).map(|routed| routed.users.clone());
                for id in users.unwrap_or_default() {
                    self.evaluate_by_link(id, again, now, actions);
                }
                let after = Some(address);
                Some(Pending::Routed { ifindex, after, again })
            }
            Pending::Ask { first, last, marked } => {
                let (address, routed) = self.routed.range_mut((first, Bound::Included(last))).next()?;
                if routed.marked || !marked {
                    routed.ask(*address, actions);
                }
                let first = Bound::Excluded(*address);
                Some(Pending::Ask { first, last, marked })
            }
            Pending::ReleaseLeftovers => {
                self.release_leftovers(actions);
                None
            }
        }
    }

    /// Adds something to be done, unless it is about to be done.
    fn plan(&mut self, new: Pending) {
        if !self.pending.contains(&new) {
            self.pending.push_back(new);
        }
    }

    /// [`Resolver::evaluate`] after a change of the link.
    fn evaluate_by_link(&mut self, id: NextHopId, again: Option<u32>, now: Instant, actions: &mut Vec<Action>) {
        self.evaluate(id, again, now, actions);
        if let Some(target) = self.hops.get(&id).and_then(|hop| hop.target) {
            self.refresh(target, now, actions);
        }
    }

    /// Sets all ports: the sub-interfaces that the kernel has no device for, with indexes of their own; the name and
    /// the interface of each other port; and the new names of renamed ports, by the old ones. Next hops that name a
    /// port follow it to its new name.
    pub fn set_ports(
        &mut self,
        without_device: &[LinkInfo],
        aliases: HashMap<Arc<str>, u32>,
        renamed: &HashMap<Arc<str>, Arc<str>>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        for pending in &mut self.pending {
            if let Pending::Named { dev, .. } = pending
                && let Some(new) = renamed.get(dev)
            {
                *dev = Arc::clone(new);
            }
        }
        let named = renamed.iter().map(|(old, new)| (new, self.by_dev.remove(old)));
        for (new, named) in named.collect::<Vec<_>>() {
            for id in named.iter().flatten() {
                if let Some(hop) = self.hops.get_mut(id) {
                    hop.next_hop.rename_device(renamed);
                }
            }
            if let Some(named) = named {
                self.by_dev.entry(Arc::clone(new)).or_default().extend(named);
            }
        }
        let gone: Vec<u32> = self
            .links
            .iter()
            .map(|link| link.ifindex)
            .filter(|&ifindex| {
                ifindex >= LinkInfo::FIRST_VIRTUAL && without_device.iter().all(|link| link.ifindex != ifindex)
            })
            .collect();
        for ifindex in gone {
            self.handle(&Event::LinkGone(ifindex), now, actions);
        }
        for link in without_device {
            if self.links.get(link.ifindex) != Some(link) {
                self.handle(&Event::Link(link.clone()), now, actions);
            }
        }
        if *self.links.aliases() == aliases {
            return;
        }
        let before = self.links.set_aliases(aliases);
        self.follow_stale(now);
        let now_named = self.links.aliases();
        let names = before.keys().chain(now_named.keys());
        let changed = names.filter(|&name| before.get(name) != now_named.get(name));
        let changed: BTreeSet<Arc<str>> = changed.cloned().collect();
        for dev in changed {
            let (after, again) = (None, None);
            self.plan(Pending::Named { dev, after, again });
        }
        if self.synced {
            self.plan(Pending::ReleaseLeftovers);
        }
        self.step(AT_ONCE, now, actions);
    }

    /// XDP sends packets to the kernel's neighbours at the ports of these VRFs, which it has verified when they are STALE.
    pub fn set_switched_vrfs(&mut self, devices: BTreeSet<u32>, now: Instant) {
        self.switched_vrfs = devices;
        self.follow_stale(now);
    }

    /// Ports, VRFs or their members may have changed.
    fn follow_stale(&mut self, now: Instant) {
        let ports = self.links.aliases().values();
        let is_switched = |&&ifindex: &&u32| {
            let vrf = self.links.vrf(ifindex);
            vrf.is_some_and(|vrf| self.switched_vrfs.contains(&vrf.ifindex))
        };
        let interfaces = ports.filter(is_switched).copied().collect();
        if self.stale.set_interfaces(interfaces) {
            for (&target, known) in &self.neighbours {
                self.stale.note(target, Some(known.state), known.managed.is_some(), now);
            }
        }
    }

    /// The neighbours that a dead process of this instance left managed are still in use, until the next call of
    /// [`Resolver::let_leftovers_go`].
    pub fn hold_leftovers(&mut self) {
        self.holds_leftovers = true;
    }

    /// The neighbours that a dead process of this instance left managed are released, except those that next hops need.
    /// They are on the ports, and on these interfaces that were ports of the dead process.
    pub fn let_leftovers_go(&mut self, were_ports: &[u32], actions: &mut Vec<Action>) {
        self.holds_leftovers = false;
        let were_ports = were_ports.iter().filter_map(|&port| self.links.get(port));
        self.release_beside(were_ports.collect(), actions);
    }

    /// How many next hops wait for an answer of the kernel or of a neighbour.
    pub fn unsettled(&self) -> usize {
        let states = self.hops.values().map(|hop| hop.state);
        states
            .filter(|state| matches!(state, None | Some(HopState::Incomplete { .. })))
            .count()
    }

    /// Releases the neighbours that a killed instance left managed: nothing else would, and the kernel would ask for
    /// them for ever. They belong to the killed instance if their interface is one of this instance's ports, or if no
    /// other instance can run in this network namespace because only these ports have an XDP program.
    fn release_leftovers(&self, actions: &mut Vec<Action>) {
        if self.holds_leftovers {
            return;
        }
        self.release_beside(Vec::new(), actions);
    }

    /// The same; `were_ports` are interfaces that were ports of the killed instance, and are not those of another one.
    fn release_beside(&self, were_ports: Vec<&LinkInfo>, actions: &mut Vec<Action>) {
        let ports: HashSet<u32> = self.links.aliases().values().copied().collect();
        let is_alone = self
            .links
            .iter()
            .all(|link| link.xdp.is_none() || ports.contains(&link.ifindex));
        let were_parents = |link: &&LinkInfo| {
            let parent = link.peer.filter(|_| link.vlan.is_some());
            parent.is_some_and(|parent| were_ports.iter().any(|port| port.ifindex == parent.ifindex))
        };
        let with_neighbours: HashSet<u32> = ports
            .iter()
            .filter_map(|&port| self.links.get(port))
            .chain(were_ports.iter().copied())
            .chain(self.links.iter().filter(were_parents))
            .map(LinkInfo::ip_ifindex)
            .collect();
        let leftovers = self.neighbours.iter().filter(|(target, known)| {
            known.managed == Some(Manager::Mplsxdp)
                && !self.claims.contains_key(target)
                && (is_alone || with_neighbours.contains(&target.0))
        });
        actions.extend(leftovers.map(|(&(ifindex, address), _)| Action::Release { ifindex, address }));
    }

    /// The answer to [`Action::Lookup`]; `None` if the kernel could not be asked.
    pub fn lookup_done(&mut self, address: IpAddr, answer: Option<Lookup>, now: Instant, actions: &mut Vec<Action>) {
        let Some(routed) = self.routed.get_mut(&address) else {
            return;
        };
        routed.asking = false;
        if routed.ask_again {
            routed.ask(address, actions);
        }
        if answer.is_none() {
            routed.marked = true;
            self.lookups_due.get_or_insert(now + LOOKUP_RETRY);
        } else if routed.answer != answer {
            let old = std::mem::replace(&mut routed.answer, answer);
            let users = Vec::from_iter(routed.users.iter().copied());
            self.note_answer(address, old, answer);
            for id in users {
                self.evaluate(id, None, now, actions);
            }
        }
    }

    /// Whether an answer to [`Action::Lookup`] for this address is outstanding.
    pub fn is_asking(&self, address: IpAddr) -> bool {
        self.routed.get(&address).is_some_and(|routed| routed.asking)
    }

    /// The first address from this one on for which an answer is outstanding.
    pub fn asked(&self, from: IpAddr) -> Option<IpAddr> {
        let mut asked = self.routed.range(from..).filter(|(_, routed)| routed.asking);
        asked.next().map(|(&address, _)| address)
    }

    /// Call when answers to [`Action::Lookup`] may have changed for a reason that the kernel does not report.
    pub fn look_up_again(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.ask_between(IPV4.0, IPV6.1);
        self.step(AT_ONCE, now, actions);
    }

    /// When [`Resolver::poll`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let probe = self.probes_due.first().map(|(due, _)| *due);
        let verification = self.stale.next_deadline();
        probe.into_iter().chain(self.lookups_due).chain(verification).min()
    }

    pub fn poll(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // If there are more, the deadline stays.
        for _ in 0..PROBED {
            let Some(&(_, target)) = self.probes_due.first().filter(|&&(due, _)| due <= now) else {
                break;
            };
            self.refresh(target, now, actions);
        }
        let due = self.stale.take_due(now).into_iter();
        actions.extend(due.map(|(ifindex, address)| Action::Verify { ifindex, address }));
        if self.lookups_due.is_some_and(|due| due <= now) {
            self.lookups_due = None;
            self.routes_since = None;
            let (first, last) = (Bound::Included(IPV4.0), IPV6.1);
            self.plan(Pending::Ask {
                first,
                last,
                marked: true,
            });
            self.step(AT_ONCE, now, actions);
        }
    }

    /// Forgets all next hops, and releases their neighbours in the kernel.
    pub fn shutdown(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for id in Vec::from_iter(self.hops.keys().copied()) {
            self.remove(id, now, actions);
        }
    }

    /// Finds the state of a next hop, and reports it if it has changed, or if it is reached through the interface `again`.
    fn evaluate(&mut self, id: NextHopId, again: Option<u32>, now: Instant, actions: &mut Vec<Action>) {
        let Some(hop) = self.hops.get(&id).filter(|_| self.synced) else {
            return;
        };
        let (state, target) = self.resolve(&hop.next_hop);
        self.aim(id, target, now, actions);
        let reached = state.and_then(HopState::adjacency).map(|(ifindex, _)| ifindex);
        let is_again = again.is_some() && reached == again;
        if let Some(state) = state
            && (self.state(id) != Some(state) || is_again)
        {
            self.set_state(id, Some(state));
            actions.push(Action::Changed { id, state });
        }
    }

    /// Keeps `through`.
    fn set_state(&mut self, id: NextHopId, state: Option<HopState>) {
        let Some(hop) = self.hops.get_mut(&id) else { return };
        let old = std::mem::replace(&mut hop.state, state);
        let [old, new] = [old, state].map(|state| state.and_then(HopState::ifindex));
        if old == new || hop.next_hop.via.address().is_none() {
            return;
        }
        if let Some(ifindex) = new {
            *self.through.entry(ifindex).or_default() += 1;
        }
        if let Some(ifindex) = old
            && let Entry::Occupied(mut count) = self.through.entry(ifindex)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// The state of a next hop, and the neighbour to resolve for it.
    fn resolve(&self, next_hop: &NextHop) -> (Option<HopState>, Option<Target>) {
        let link = match (&next_hop.dev, next_hop.via.address()) {
            (Some(dev), _) => self.links.by_name(dev),
            (None, Some(address)) => match self.routed.get(&address).and_then(|routed| routed.answer) {
                Some(Lookup::Interface(ifindex)) => self.links.get(ifindex),
                Some(Lookup::NoRoute) => return (Some(HopState::NoRoute), None),
                Some(Lookup::Local) => return (Some(HopState::Local), None),
                None => return (None, None),
            },
            (None, None) => None,
        };
        let Some(link) = link else {
            return (Some(HopState::NoSuchDev), None);
        };
        let ifindex = link.ifindex;
        if !link.is_up() {
            return (Some(HopState::LinkDown { ifindex }), None);
        }
        let address = match next_hop.via {
            Via::Link(mac) => return (Some(HopState::Static { ifindex, mac }), None),
            Via::Inet(address) => address.into(),
            Via::Inet6(address) => address.into(),
        };
        let target = (link.ip_ifindex(), address);
        let with = |mac: Mac| match mac.is_unicast() {
            true => HopState::Resolved { ifindex, mac },
            false => HopState::BadMac { ifindex, mac },
        };
        let state = match self.neighbours.get(&target).map(|known| known.state) {
            Some(NeighbourState::Permanent(mac)) => with(mac),
            _ if link.noarp => HopState::NoArp { ifindex },
            Some(NeighbourState::Reachable(mac) | NeighbourState::Stale(mac) | NeighbourState::NoArp(mac)) => with(mac),
            Some(NeighbourState::Failed) => HopState::Failed { ifindex },
            Some(NeighbourState::Incomplete) | None => HopState::Incomplete { ifindex },
        };
        (Some(state), Some(target))
    }

    /// Makes a next hop use another neighbour.
    fn aim(&mut self, id: NextHopId, target: Option<Target>, now: Instant, actions: &mut Vec<Action>) {
        let Some(hop) = self.hops.get_mut(&id) else { return };
        if hop.target == target {
            return;
        }
        let old = std::mem::replace(&mut hop.target, target);
        if let Some(old) = old
            && let Some(claim) = self.claims.get_mut(&old)
        {
            claim.users.remove(&id);
            if claim.users.is_empty() {
                self.drop_claim(old, actions);
            }
        }
        if let Some(target) = target {
            self.claims.entry(target).or_default().users.insert(id);
            self.refresh(target, now, actions);
        }
    }

    fn drop_claim(&mut self, target: Target, actions: &mut Vec<Action>) {
        let Some(claim) = self.claims.remove(&target) else {
            return;
        };
        if let Some(due) = claim.due {
            self.probes_due.remove(&(due, target));
        }
        if claim.probed.is_some() {
            let (ifindex, address) = target;
            actions.push(Action::Release { ifindex, address });
        }
    }

    /// Probes a neighbour if that is due, and notes when it will be next.
    fn refresh(&mut self, target: Target, now: Instant, actions: &mut Vec<Action>) {
        let (ifindex, address) = target;
        let noarp = self.links.get(ifindex).is_some_and(|link| link.noarp);
        let known = self.neighbours.get(&target);
        let Some(claim) = self.claims.get_mut(&target) else {
            return;
        };
        let interval = match known.map(|known| known.state) {
            // A probe, or a release, would make the entry lose PERMANENT.
            Some(NeighbourState::Permanent(_) | NeighbourState::NoArp(_)) => {
                claim.probed = None;
                Interval::Never
            }
            _ if noarp => {
                if claim.probed.take().is_some() {
                    actions.push(Action::Release { ifindex, address });
                }
                Interval::Never
            }
            Some(NeighbourState::Reachable(_)) => Interval::Once,
            // The kernel does not see that XDP uses the neighbour. It verifies a managed entry anyway; other entries
            // (kernels before 5.16 manage none) stay stale until they are probed.
            Some(NeighbourState::Stale(_)) if known.is_some_and(|known| known.managed.is_some()) => Interval::Once,
            Some(NeighbourState::Stale(_) | NeighbourState::Incomplete | NeighbourState::Failed) | None => {
                Interval::Repeat
            }
        };
        let mut due = interval.next(claim.probed, now);
        if due.is_some_and(|due| due <= now) {
            actions.push(Action::Probe { ifindex, address });
            claim.probed = Some(now);
            due = interval.next(claim.probed, now);
        }
        if let Some(old) = std::mem::replace(&mut claim.due, due) {
            self.probes_due.remove(&(old, target));
        }
        if let Some(due) = due {
            self.probes_due.insert((due, target));
        }
    }

    fn neighbour_changed(&mut self, target: Target, now: Instant, actions: &mut Vec<Action>) {
        let known = self.neighbours.get(&target);
        let is_managed = known.is_some_and(|known| known.managed.is_some());
        self.stale.note(target, known.map(|known| known.state), is_managed, now);
        let Some(claim) = self.claims.get(&target) else { return };
        let users = Vec::from_iter(claim.users.iter().copied());
        self.refresh(target, now, actions);
        for id in users {
            self.evaluate(id, None, now, actions);
        }
    }

    fn link_changed(&mut self, ifindex: u32, old: Option<&LinkInfo>, new: Option<&LinkInfo>, now: Instant) {
        let matters =
            |link: Option<&LinkInfo>| link.map(|link| (link.name.clone(), link.is_up(), link.noarp, link.ip_ifindex()));
        // The VRF that it is in, or may be in, decides which routes lead to it.
        let vrf = |link: Option<&LinkInfo>| {
            link.map(|link| (link.master.as_ref().map(|master| master.ifindex), link.vrf_table))
        };
        if matters(old) == matters(new) && vrf(old) == vrf(new) {
            return;
        }
        let is_up = |link: Option<&LinkInfo>| link.is_some_and(LinkInfo::is_up);
        // The switch takes the adjacencies of a link that is down away at once: it has to give them back if the link is
        // up again when the next hops are looked at.
        let again = (!is_up(new)).then_some(ifindex);
        let names = old.into_iter().chain(new).map(|link| Arc::clone(&link.name));
        self.plan_link(ifindex, names, again);
        if is_up(old) != is_up(new) || vrf(old) != vrf(new) {
            self.ask_between(IPV4.0, IPV6.1);
        }
        if vrf(old) != vrf(new) {
            self.follow_stale(now);
        }
    }

    /// The next hops of a link whose adjacencies the switch has taken away are to be reported again.
    pub fn look_at_link_again(&mut self, ifindex: u32) {
        let name = self.links.get(ifindex).map(|link| Arc::clone(&link.name));
        self.plan_link(ifindex, name, Some(ifindex));
    }

    /// Has the next hops of a link looked at, by its names and those of its ports.
    fn plan_link(&mut self, ifindex: u32, names: impl IntoIterator<Item = Arc<str>>, again: Option<u32>) {
        let aliases = self.links.aliases().iter().filter(|&(_, &index)| index == ifindex);
        let names: BTreeSet<Arc<str>> = names
            .into_iter()
            .chain(aliases.map(|(name, _)| Arc::clone(name)))
            .collect();
        for dev in names {
            let after = None;
            self.plan(Pending::Named { dev, after, again });
        }
        let after = None;
        self.plan(Pending::Routed { ifindex, after, again });
    }

    /// The end of a resync: what was not reported no longer exists.
    fn sweep(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for ifindex in self.links.unmarked() {
            self.handle(&Event::LinkGone(ifindex), now, actions);
        }
        let gone = self.neighbours.iter().filter(|(_, known)| known.round != self.round);
        for (ifindex, address) in Vec::from_iter(gone.map(|(target, _)| *target)) {
            self.handle(&Event::NeighbourGone { ifindex, address }, now, actions);
        }
        let is_first = !std::mem::replace(&mut self.synced, true);
        self.ask_between(IPV4.0, IPV6.1);
        self.step(AT_ONCE, now, actions);
        if is_first {
            for id in Vec::from_iter(self.hops.keys().copied()) {
                self.evaluate(id, None, now, actions);
            }
            self.release_leftovers(actions);
        }
    }

    /// Looks up the addresses from `first` to `last`.
    fn ask_between(&mut self, first: IpAddr, last: IpAddr) {
        if self.synced {
            let (first, marked) = (Bound::Included(first), false);
            self.plan(Pending::Ask { first, last, marked });
        }
    }

    /// The routes to the addresses from `first` to `last` have changed: look them up when routes stop changing.
    fn mark(&mut self, first: IpAddr, last: IpAddr, now: Instant) {
        if !self.synced {
            return;
        }
        let range = (Bound::Included(first), Bound::Included(last));
        let mut any = false;
        for (_, routed) in self.routed.range_mut(range) {
            routed.marked = true;
            any = true;
        }
        if any {
            let since = *self.routes_since.get_or_insert(now);
            self.lookups_due = Some((now + ROUTES_QUIET).min(since + ROUTES_BOUND));
        }
    }
}

impl Routed {
    fn ask(&mut self, address: IpAddr, actions: &mut Vec<Action>) {
        self.marked = false;
        self.ask_again = self.asking;
        if !self.asking {
            self.asking = true;
            actions.push(Action::Lookup { address });
        }
    }
}

/// How often a neighbour is probed.
#[derive(Clone, Copy)]
enum Interval {
    Never,
    Once,
    Repeat,
}

impl Interval {
    fn next(self, last: Option<Instant>, now: Instant) -> Option<Instant> {
        match (self, last) {
            (Self::Never, _) | (Self::Once, Some(_)) => None,
            (Self::Once | Self::Repeat, None) => Some(now),
            (Self::Repeat, Some(last)) => Some(last + PROBE_INTERVAL),
        }
    }
}

/// The address to ask the kernel's routes about, if no interface was given.
fn routed_address(next_hop: &NextHop) -> Option<IpAddr> {
    next_hop.via.address().filter(|_| next_hop.dev.is_none())
}

#[cfg(test)]
mod tests;

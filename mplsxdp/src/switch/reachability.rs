//! Whether the next hops of routes can be reached, and what helps if they cannot. A change of single routes is then
//! refused, because it is probably a typing mistake; the routes of a transaction and of the configuration are installed
//! and wait.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use tracing::warn;

use super::Switch;
use crate::control::api::{self, Changes};
use crate::dataplane::Tables;
use crate::kernel;
use crate::lfib::Budget;
use crate::neighbour::resolver::HopState;
use crate::neighbour::{LinkInfo, Lookup};
use crate::ports::sub_interface;
use crate::ports::{Port, Role};
use crate::route::{NextHop, NextHopId, Route, RouteKey};

/// How many waiting routes are named.
const NAMED: usize = 100;
/// What it takes to say why a next hop cannot be reached, in operations.
const OBSTACLE: usize = 8;
/// How many are named in the log.
const LOGGED: usize = 10;

/// Installed routes that cannot reach their next hop.
#[derive(Default, Debug)]
pub(super) struct Waiting {
    pub total: usize,
    /// The first of them, with the reasons.
    named: Vec<(RouteKey, String)>,
}

impl Waiting {
    pub fn into_committed(self, changes: Changes) -> api::Committed {
        let named = self.named.into_iter();
        api::Committed {
            changes,
            unreachable: named
                .map(|(key, reason)| api::UnreachableRoute {
                    key: key.into(),
                    reason,
                })
                .collect(),
            unreachable_total: self.total as u64,
            warnings: Vec::new(),
        }
    }

    pub fn log(&self) {
        for (key, reason) in self.named.iter().take(LOGGED) {
            warn!("the route of {key} waits: {reason}");
        }
        if self.total > LOGGED {
            warn!(
                routes = self.total,
                "routes wait for their next hops: `mplsxdp route show` marks them `unresolved` or `linkdown`"
            );
        }
    }
}

/// A search for waiting routes: through the next hops, then through the routes.
#[derive(Default, Debug)]
pub(super) struct Survey {
    /// The last next hop that was looked at.
    after: Option<NextHopId>,
    has_all_next_hops: bool,
    /// The reasons by next hop.
    obstacles: HashMap<NextHop, String>,
    /// How many routes have been looked at.
    at: usize,
    pub waiting: Waiting,
}

impl Survey {
    /// Continues to look at these installed routes. Returns whether all are done.
    fn look_at(&mut self, routes: &[Route], budget: &mut Budget<'_>) -> bool {
        if self.obstacles.is_empty() {
            return true;
        }
        while let Some(route) = routes.get(self.at) {
            self.at += 1;
            let mut found = route.next_hops().filter_map(|hop| self.obstacles.get_key_value(hop));
            if let Some((next_hop, reason)) = found.next() {
                self.waiting.total += 1;
                if self.waiting.named.len() < NAMED {
                    self.waiting.named.push((route.key(), format!("{next_hop}: {reason}")));
                }
            }
            if !budget.spend(1) {
                break;
            }
        }
        self.at >= routes.len()
    }
}

impl<T: Tables> Switch<T> {
    /// Why a next hop cannot be used, if it names its interface: that must be a port.
    pub(super) fn obstacle_of_device(&self, next_hop: &NextHop) -> Option<String> {
        match (&next_hop.dev, next_hop.via.address()) {
            (Some(dev), _) => match self.resolver.links().by_name(dev) {
                Some(link) => self.not_usable(link, next_hop),
                None => Some(self.no_such_dev(dev)),
            },
            (None, None) => Some("`via link` needs `dev IFACE`".into()),
            (None, Some(_)) => None,
        }
    }

    /// The same if it does not, and the kernel was asked; `failed` are the addresses for which that failed.
    pub(super) fn obstacle_of_way(&self, next_hop: &NextHop, failed: &HashMap<IpAddr, String>) -> Option<String> {
        let address = next_hop.via.address().filter(|_| next_hop.dev.is_none())?;
        if let Some(error) = failed.get(&address) {
            return Some(format!("cannot look up {address}: {error}"));
        }
        match self.resolver.state(self.lfib.next_hops().any_of(next_hop)?)? {
            HopState::NoRoute => Some(self.no_route(address)),
            HopState::Local => Some(own_address(address)),
            HopState::NoSuchDev => Some(format!("the interface towards {address} has just gone")),
            state => self.not_usable(self.resolver.links().get(state.ifindex()?)?, next_hop),
        }
    }

    fn not_usable(&self, link: &LinkInfo, next_hop: &NextHop) -> Option<String> {
        self.not_a_port(link, next_hop)
            .or_else(|| self.ports.no_neighbours(link.ifindex, next_hop))
    }

    /// Continues a search for those of these routes that cannot reach a next hop. Returns whether it is done.
    pub(super) fn survey_step(&self, survey: &mut Survey, routes: &[Route], budget: &mut Budget<'_>) -> bool {
        while !survey.has_all_next_hops {
            let Some((id, next_hop, state)) = self.resolver.next_hop_after(survey.after) else {
                survey.has_all_next_hops = true;
                break;
            };
            survey.after = Some(id);
            let obstacle = state.and_then(|state| self.known_obstacle(next_hop, state));
            let cost = if obstacle.is_some() { OBSTACLE } else { 1 };
            survey
                .obstacles
                .extend(obstacle.map(|obstacle| (next_hop.clone(), obstacle)));
            if !budget.spend(cost) {
                return false;
            }
        }
        survey.look_at(routes, budget)
    }

    /// Where the kernel looks up the next hop `address`: outside of VRFs first, unless `address` is in the network of
    /// an interface in one; then in the VRFs that ports are in.
    pub(super) fn scopes(&self, address: IpAddr) -> Vec<Option<u32>> {
        let links = self.resolver.links();
        let ports = self.ports.iter().filter_map(|port| self.ports.addressed(port.number()));
        let vrfs: BTreeSet<u32> = ports.filter_map(|ifindex| Some(links.vrf(ifindex)?.ifindex)).collect();
        let on_link: BTreeSet<Option<u32>> = self
            .addresses
            .on_link(address)
            .map(|ifindex| links.vrf(ifindex).map(|vrf| vrf.ifindex))
            .collect();
        let mut scopes = Vec::from_iter(std::iter::once(None).chain(vrfs.into_iter().map(Some)));
        scopes.sort_by_key(|scope| !on_link.contains(scope));
        scopes
    }

    /// The answer of the kernel that counts, in the order of [`Switch::scopes`]: the first way out through a port.
    pub(super) fn choose(&self, answers: Vec<Result<Lookup, kernel::Error>>) -> Result<Lookup, kernel::Error> {
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let by_port = |answer: &Lookup| match *answer {
            Lookup::Interface(ifindex) => self.ports.by_ifindex(ifindex).is_some(),
            Lookup::Local | Lookup::NoRoute => false,
        };
        let chosen = answers.iter().find(|answer| by_port(answer)).or(answers.first());
        Ok(chosen.copied().unwrap_or(Lookup::NoRoute))
    }

    /// Why a next hop in `state` cannot be reached. A neighbour that does not answer is not a reason: it may answer at
    /// any time.
    fn known_obstacle(&self, next_hop: &NextHop, state: HopState) -> Option<String> {
        let links = self.resolver.links();
        let address = next_hop.via.address();
        if let Some(ifindex) = state.ifindex() {
            let link = links.get(ifindex)?;
            return self.not_a_port(link, next_hop).or_else(|| match state {
                HopState::LinkDown { .. } => Some(down(link)),
                HopState::NoArp { .. } => Some(self.ports.no_neighbours(ifindex, next_hop).unwrap_or_else(|| {
                    format!(
                        "{} has no MAC addresses to ask for: use `via link MAC dev {}`",
                        link.name, link.name
                    )
                })),
                _ => None,
            });
        }
        match (state, address, &next_hop.dev) {
            (HopState::NoSuchDev, _, Some(dev)) => Some(self.no_such_dev(dev)),
            (HopState::NoRoute, Some(address), _) => Some(self.no_route(address)),
            (HopState::Local, Some(address), _) => Some(own_address(address)),
            _ => None,
        }
    }

    fn no_such_dev(&self, dev: &str) -> String {
        match sub_interface::find(dev, self.resolver.links()) {
            Ok(Some(_)) => format!("{dev} is not a port of this switch: add it with `mplsxdp link add {dev}`"),
            Ok(None) => format!("there is no interface {dev}; `ip link show` lists them"),
            Err(error) => error.to_string(),
        }
    }

    fn no_route(&self, address: IpAddr) -> String {
        if let Some(link) = self.down_link_of(address) {
            return format!("{address} is in the network of {}, but {}", link.name, down(link));
        }
        // An interface that is set down loses its IPv6 addresses.
        let links = self.resolver.links();
        let ports = self.ports.iter().filter(|port| port.role() != Role::Local);
        let down_port = ports
            .filter_map(|port| links.get(port.ifindex()))
            .find(|link| !link.is_up());
        let remedy = "give an interface an address in its network (`ip address add`), or add `dev IFACE`";
        match down_port {
            Some(link) => format!("the kernel has no route to {address}, and {}; or {remedy}", down(link)),
            None => format!("the kernel has no route to {address}: {remedy}"),
        }
    }

    /// The interface, which is down, whose network contains `address`.
    fn down_link_of(&self, address: IpAddr) -> Option<&LinkInfo> {
        let links = self.resolver.links();
        let mut on_link = self.addresses.on_link(address).filter_map(|ifindex| links.get(ifindex));
        on_link.find(|link| !link.is_up())
    }

    /// Why frames for `next_hop` cannot be sent through `link`, if that is not a port.
    fn not_a_port(&self, link: &LinkInfo, next_hop: &NextHop) -> Option<String> {
        if self.ports.by_ifindex(link.ifindex).is_some() {
            return None;
        }
        // The kernel uses another way while the right link is down.
        if next_hop.dev.is_none()
            && let Some(address) = next_hop.via.address()
            && let Some(own) = self.down_link_of(address)
        {
            return Some(format!(
                "{address} is in the network of {}, but {}",
                own.name,
                down(own)
            ));
        }
        Some(match self.port_beneath(link.ifindex) {
            Some(port) => format!(
                "{} is not a port of this switch, but its member {port} is: use `dev {port}`",
                link.name
            ),
            None if self.has_namesake(link) => format!(
                "the kernel routes to it through its interface {0}, which is not the port {0}: rename the interface, or add \
                 `dev IFACE`",
                link.name
            ),
            None => format!(
                "{} is not a port of this switch: add it with `mplsxdp link add {}`",
                link.name, link.name
            ),
        })
    }

    /// Whether a port that is not this interface has its name.
    fn has_namesake(&self, link: &LinkInfo) -> bool {
        self.ports
            .iter()
            .any(|port| *port.name() == *link.name && port.ifindex() != link.ifindex)
    }

    /// The name of a port that is a member of this interface, such as of a bridge.
    fn port_beneath(&self, ifindex: u32) -> Option<&str> {
        let beneath = |port: &&Port| {
            let link = self.resolver.links().get(port.ifindex());
            let master = link.and_then(|link| link.master.as_ref());
            master.is_some_and(|master| master.ifindex == ifindex)
        };
        self.ports.iter().find(beneath).map(Port::name)
    }
}

fn own_address(address: IpAddr) -> String {
    format!("{address} is an address of this machine")
}

/// The message about a link that is down.
fn down(link: &LinkInfo) -> String {
    let name = &link.name;
    if link.up {
        format!("{name} has no carrier: connect it, or set its other end up")
    } else {
        format!("{name} is down: `ip link set {name} up`")
    }
}

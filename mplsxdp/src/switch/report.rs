//! The switch's reports of its state.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use mplsxdp_common::abi::{ABI_VERSION, map};
use mplsxdp_common::wire::Mac;
use serde_json::Value;
use tracing::warn;

use super::Switch;
use crate::config::PortConfig;
use crate::control::api;
use crate::dataplane::Tables;
use crate::lfib::counters::CountedAt;
use crate::lfib::next_hops::{NextHopId, Position, Protection};
use crate::lfib::{Candidate, Listed, Select, VrfState};
use crate::log;
use crate::neighbour::resolver::HopState;
use crate::neighbour::{LinkInfo, Vlan};
use crate::observe::busiest::Growth;
use crate::ports::Role;
use crate::ports::sub_interface;
use crate::route::{Action, Backup, Description, Fec, NextHop, Path, Route, RouteKey, RoutingTable, Source, Via};

/// How many routes are examined at most for one part of a list: a filter may match none of a million.
const EXAMINED: usize = 8 << 10;

/// A part of a list of routes. Their counters are read elsewhere.
#[derive(Default)]
pub(super) struct RouteList {
    pub routes: Vec<api::InstalledRoute>,
    pub after: Option<RouteKey>,
    /// Where each route is counted, if its counter is wanted.
    pub counted_at: Vec<Option<CountedAt>>,
}

impl<T: Tables> Switch<T> {
    /// The config file with which an instance would be loaded as this one is now, without routes.
    pub(super) fn running_config(&self) -> BTreeMap<String, Value> {
        let mut ports: Vec<_> = self.ports.iter().collect();
        ports.sort_by_key(|port| port.number());
        let ports = ports.into_iter().map(|port| (port.name(), port.wish()));
        let waiting = self.ports.waiting().iter();
        let waiting: Vec<_> = waiting.map(|waiting| (&*waiting.name, waiting.wish.clone())).collect();
        let waits = !waiting.is_empty();
        let ports = ports.chain(waiting).filter_map(|(name, wish)| {
            let tx_only = match wish.role {
                Role::Switching => false,
                Role::TxOnly => true,
                Role::Local | Role::ParentOnly => return None,
            };
            Some(PortConfig {
                name: name.to_owned(),
                tx_only,
                mpls: wish.mpls,
                accept_labels: wish.accept_labels,
                mpls_mtu: wish.mpls_mtu,
                cross_connect: wish.cross_connect.as_deref().map(str::to_owned),
                dscp_map: wish.dscp_map,
                tc_map: wish.tc_map,
                checksum: wish.checksum,
            })
        });
        let local = self.local.as_ref().map(|pair| pair.name().to_owned());
        self.config.running(ports.collect(), local, waits)
    }

    pub(super) fn status(&self, now: Instant) -> api::Status {
        let tables = self.lfib.tables();
        let capacity = tables.capacity();
        let used = |name| match name {
            map::ILM => self.lfib.label_routes(),
            map::ADJACENCIES => self.lfib.next_hops().len(),
            map::STACKS => self.lfib.stacks_in_use(),
            map::GROUPS => self.lfib.groups_in_use(),
            map::BACKUPS => self.lfib.backups_in_use(),
            map::PSEUDOWIRES => self.lfib.pseudowires_in_use()[0],
            map::ATTACHMENTS => self.lfib.pseudowires_in_use()[1],
            map::FTN => self.lfib.ftn_entries().v4 + self.lfib.ftn_entries().v6,
            map::PORTS | map::TX_PORTS => self.ports.len(),
            map::LABEL_RANGES => self.ports.iter().map(|port| port.label_ranges()).sum(),
            map::CROSS_CONNECTS => self.ports.iter().filter(|port| port.is_cross_connected()).count(),
            map::INTERFACES => self.ports.iter().filter(|port| port.tags().is_none()).count(),
            map::SUB_INTERFACES => self.ports.iter().filter(|port| port.tags().is_some()).count(),
            map::ROUTE_COUNTERS => self.counted_routes(),
            map::META => 1,
            _ => 0,
        };
        let memory = tables.memory().unwrap_or_else(|error| {
            warn!(%error, "cannot read the memory of the tables");
            Vec::new()
        });
        let ports = self.ports.iter().filter(|port| port.role() != Role::ParentOnly);
        let ports = ports.map(|port| port.name().to_owned());
        let waiting = self.ports.waiting().iter().map(|waiting| waiting.name.to_string());
        api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: ABI_VERSION,
            instance: self.config.instance.clone(),
            pid: self.identity.pid,
            uptime_seconds: now.duration_since(self.started).as_secs(),
            netns_inode: self.identity.netns_inode,
            mode: word(self.config.mode),
            ttl_mode: word(self.config.ttl_mode()),
            tunnel_ttl: self.config.pipe_ttl(),
            tc_propagate: self.config.tc_propagate,
            unknown: word(self.config.unknown),
            icmp_via: word(self.config.icmp_via),
            local: self.local.as_ref().map(|pair| pair.name().to_owned()),
            links: self.ports.len() as u64,
            labels: capacity.labels,
            label_routes: self.lfib.label_routes() as u64,
            prefix_routes: self.lfib.prefix_routes() as u64,
            next_hops: self.lfib.next_hops().len() as u64,
            unresolved_next_hops: self.lfib.next_hops().unresolved() as u64,
            tables: memory
                .into_iter()
                .map(|table| api::Table {
                    name: table.name.to_owned(),
                    used: used(table.name) as u64,
                    capacity: table.entries.into(),
                    memory_bytes: table.bytes,
                })
                .collect(),
            uncounted_routes: self.lfib.uncounted_routes() as u64,
            log_lines_lost: log::lost(),
            log_lines_left_out: log::left_out(),
            since: Some(humantime::format_rfc3339_seconds(self.identity.since).to_string()),
            netns: self.config.netns.clone().or_else(|| self.identity.netns_name.clone()),
            config_file: self.config.file.as_ref().map(|file| file.display().to_string()),
            ports: Some(ports.chain(waiting).collect()),
            preferences: Some(self.rib.preferences().iter().collect()),
            ip_ttl_propagate: self.feeds.reported_ttl().map(|ttl| ttl.propagates),
            default_ttl: self.feeds.reported_ttl().map(|ttl| ttl.imposed.get()),
            // The daemon knows these.
            frr_stale_seconds: None,
            state: None,
        }
    }

    pub(super) fn list_routes(
        &self,
        filter: &api::RouteFilter,
        after: Option<RouteKey>,
        limit: usize,
        counters: bool,
    ) -> Result<RouteList, api::Refusal> {
        self.check_device_of(filter)?;
        let select = |route: &Candidate<'_>| {
            chooses(filter, route)
                && (!filter.has_way() || leads(filter, route, |id| self.is_way(id, filter.via, filter.dev.as_deref())))
        };
        let buckets = filter.is_narrow();
        let standby = |key| match filter.standby {
            true => self.standby(key, filter),
            false => Vec::new(),
        };
        let has_standby = |key| filter.standby && !self.rib.standby(key).is_empty();
        let is_wanted = |route: &Candidate<'_>| select(route) || has_standby(route.key);
        let page = self.lfib.page(filter.keys, after, limit, EXAMINED, is_wanted);
        let mut list = RouteList {
            after: page.after,
            ..RouteList::default()
        };
        let add_standby = |list: &mut RouteList, key| {
            list.routes.extend(standby(key));
            list.counted_at.resize(list.routes.len(), None);
        };
        // Many routes share a next hop, so those without others on standby are looked at together.
        let mut together = Vec::new();
        for listed in page.routes {
            let key = listed.route.key();
            if self.lfib.candidate(key).is_some_and(|route| select(&route)) {
                let counted_at = counters.then(|| self.lfib.counted_at(&listed));
                list.counted_at.push(counted_at.flatten());
                together.push(listed);
            }
            if filter.standby {
                list.routes
                    .extend(self.installed(std::mem::take(&mut together), buckets));
                add_standby(&mut list, key);
            }
        }
        list.routes.extend(self.installed(together, buckets));
        Ok(list)
    }

    /// The routes of these slots, as far as they have any now, and what they forward.
    pub(super) fn busiest(&self, slots: &[Growth], time: Duration) -> api::BusiestRoutes {
        let seconds = time.as_secs_f64();
        let route = |growth: &Growth| {
            let listed = self.lfib.counted_in(growth.slot)?;
            let counted = self.lfib.counted_at(&listed)?.counted(growth.raw);
            let route = api::InstalledRoute {
                counter: Some(api::Counter {
                    packets: counted.packets,
                    bytes: counted.bytes,
                }),
                ..self.installed([listed], false).pop()?
            };
            // A route that got the slot in the meantime has not counted all of it.
            Some(api::BusyRoute {
                route,
                packets_per_second: growth.by.packets.min(counted.packets) as f64 / seconds,
                bits_per_second: 8.0 * growth.by.bytes.min(counted.bytes) as f64 / seconds,
            })
        };
        api::BusiestRoutes {
            seconds,
            routes: slots.iter().filter_map(route).collect(),
        }
    }

    /// The requested route, with its counter and buckets.
    pub(super) fn look_up(
        &self,
        lookup: api::Lookup,
    ) -> Result<(api::InstalledRoute, Option<CountedAt>), api::Refusal> {
        let (key, found) = match lookup {
            api::Lookup::Key(key @ RouteKey::Prefix(Fec { prefix, table })) => {
                let table = table.unwrap_or(RoutingTable::MAIN);
                (key, self.lfib.exact_match(prefix, table))
            }
            api::Lookup::Key(key) => (key, Some(key)),
            api::Lookup::Address(address, table) => {
                let host = Fec::new(address.into(), Some(table).filter(|&table| table != RoutingTable::MAIN));
                (RouteKey::Prefix(host), self.lfib.longest_match(address, table))
            }
        };
        let listed = found.and_then(|key| self.lfib.get(key));
        let counted_at = listed.as_ref().and_then(|listed| self.lfib.counted_at(listed));
        let route = self.installed(listed, true).into_iter().next();
        let route = route.ok_or(api::Refusal::NoSuchRoute { key })?;
        Ok((route, counted_at))
    }

    /// Checks that the routes of this source match their descriptions. Whether they exist is not checked.
    pub(super) fn check_described(&self, source: Source, routes: &[Description]) -> Result<(), api::Refusal> {
        for described in routes.iter().filter(|described| !described.is_key()) {
            let key = described.key;
            let mut standby = self.rib.standby(key).iter();
            let standby = standby.find(|(owner, _)| owner.source() == source);
            let found = match (self.lfib.get(key), standby) {
                (Some(listed), _) if listed.owner.source() == source => self.with_devices(listed),
                (_, Some((_, route))) => route.clone(),
                _ => continue,
            };
            if !described.fits(&found) {
                let route = found.to_string();
                return Err(api::Refusal::RouteDiffers { key, route });
            }
        }
        Ok(())
    }

    /// The route with the interfaces that were found for its next hops; as it was requested if two of them now lead to
    /// the same neighbour.
    fn with_devices(&self, listed: Listed) -> Route {
        let Listed { route, next_hops, .. } = listed;
        let found = |next_hop: &NextHop, id: Option<NextHopId>| NextHop {
            via: next_hop.via,
            dev: next_hop.dev.clone().or_else(|| self.resolution(id?).dev),
        };
        let mut ids = next_hops.into_iter();
        let paths = route.paths().iter().map(|path| {
            let (id, backup) = ids.next().unzip();
            Path {
                next_hop: path.next_hop.as_ref().map(|next_hop| found(next_hop, id)),
                backup: path.backup.as_ref().map(|given| Backup {
                    next_hop: found(&given.next_hop, backup.flatten()),
                    action: given.action.clone(),
                }),
                ..path.clone()
            }
        });
        route.with_other_paths(paths.collect()).unwrap_or(route)
    }

    /// Routes as clients see them; with their `buckets` if they have several next hops.
    pub(super) fn installed(
        &self,
        routes: impl IntoIterator<Item = Listed>,
        buckets: bool,
    ) -> Vec<api::InstalledRoute> {
        // Many routes share a next hop.
        let mut known: HashMap<_, api::NextHopState> = HashMap::new();
        let mut state = |ids: (NextHopId, Option<NextHopId>)| {
            let (id, backup) = ids;
            let state = known.entry(ids).or_insert_with(|| self.next_hop_state(id, backup));
            state.clone()
        };
        routes
            .into_iter()
            .map(|listed| {
                let (next_hop, paths) = match listed.next_hops.as_slice() {
                    [] => (None, None),
                    [ids] => (Some(state(*ids)), None),
                    several => {
                        let key = listed.route.key();
                        let spread = buckets.then(|| self.lfib.spread(key));
                        let spread = spread.flatten();
                        let paths = several.iter().zip(0..=u8::MAX).map(|(&ids, path)| api::PathState {
                            next_hop: state(ids),
                            buckets: spread.map(|spread| api::BucketRange::of(spread, path)),
                        });
                        (None, Some(paths.collect()))
                    }
                };
                api::InstalledRoute {
                    route: (&listed.route).into(),
                    owner: listed.owner.to_string(),
                    standby: false,
                    next_hop,
                    paths,
                    passes: self.passes(&listed.route),
                    problem: self.pseudowire_problem(&listed.route),
                    backups: self.frr_backups(listed.owner.source(), &listed.route),
                    counter: None,
                }
            })
            .collect()
    }

    /// Why all packets of a VRF's label are left to the kernel, if they are.
    fn passes(&self, route: &Route) -> Option<String> {
        let [
            Path {
                action: Action::VrfPass(name),
                ..
            },
        ] = route.paths()
        else {
            return None;
        };
        match self.lfib.vrf_state(name) {
            VrfState::Switched => None,
            VrfState::NoDevice => Some(format!("there is no VRF {name}")),
            VrfState::NoPort => Some(format!("no port is in VRF {name}")),
            VrfState::Filling => Some(format!("the prefix routes for VRF {name} are not written yet")),
        }
    }

    /// Selects routes by `filter` and the next hops of now, also later. An interface that does not exist is refused.
    pub(super) fn selector(&self, filter: &api::RouteFilter) -> Result<Select, api::Refusal> {
        self.check_device_of(filter)?;
        let next_hops: Option<HashSet<NextHopId>> = filter.has_way().then(|| self.ways(filter).collect());
        let filter = filter.clone();
        Ok(Box::new(move |route: &Candidate<'_>| {
            let is_one = |next_hops: &HashSet<NextHopId>| leads(&filter, route, |id| next_hops.contains(&id));
            chooses(&filter, route) && next_hops.as_ref().is_none_or(is_one)
        }))
    }

    /// The next hops that `filter` selects.
    fn ways(&self, filter: &api::RouteFilter) -> Box<dyn Iterator<Item = NextHopId> + '_> {
        let next_hops = self.lfib.next_hops();
        match (filter.via, filter.dev.clone()) {
            (Some(via), dev) => {
                let named = next_hops.with_name(via);
                Box::new(named.filter(move |&id| self.is_way(id, Some(via), dev.as_deref())))
            }
            (None, None) => Box::new(next_hops.all().map(|(id, _)| id)),
            (None, Some(dev)) => {
                // All are looked at, so each has to be quick: many have the same interface.
                let mut by_interface: HashMap<u32, Option<bool>> = HashMap::new();
                let followed = self.resolver.next_hops();
                let others = next_hops.unfollowed().map(|(id, next_hop)| (id, next_hop, None));
                let ids = followed.chain(others).filter(move |(_, next_hop, state)| {
                    let known = state.and_then(HopState::ifindex).and_then(|ifindex| {
                        let is_it = || self.interface_name(ifindex).map(|name| name == &*dev);
                        *by_interface.entry(ifindex).or_insert_with(is_it)
                    });
                    known.unwrap_or_else(|| next_hop.dev.as_deref() == Some(&*dev))
                });
                Box::new(ids.map(|(id, ..)| id))
            }
        }
    }

    /// Whether the next hop has this name and interface.
    fn is_way(&self, id: NextHopId, via: Option<Via>, dev: Option<&str>) -> bool {
        let has_name = |via| self.lfib.next_hops().get(id).is_some_and(|hop| hop.via == via);
        via.is_none_or(has_name) && dev.is_none_or(|dev| self.device(id) == Some(dev))
    }

    /// Refuses an interface that does not exist, unless a next hop waits for it.
    fn check_device_of(&self, filter: &api::RouteFilter) -> Result<(), api::Refusal> {
        match &filter.dev {
            Some(dev)
                if !is_of_local(filter)
                    && self.ports.number(dev).is_none()
                    && self.resolver.links().by_name(dev).is_none()
                    && self.ways(filter).next().is_none() =>
            {
                Err(self.no_such_link(dev))
            }
            _ => Ok(()),
        }
    }

    /// Up to `limit` next hops after `after`, and the position of the last if others follow.
    pub(super) fn list_next_hops(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> (Vec<(NextHopId, api::NextHopState)>, Option<Position>) {
        let mut list = self.lfib.next_hops().list_after(after, limit.saturating_add(1));
        let goes_on = list.len() > limit;
        list.truncate(limit);
        let state = |id| (id, self.next_hop_state(id, self.lfib.next_hops().backup(id)));
        let states = list.iter().map(|&(.., id)| state(id)).collect();
        (states, list.pop().filter(|_| goes_on))
    }

    /// Where a next hop is in the kernel's neighbour table, if it belongs there.
    pub(super) fn kernel_neighbour(&self, id: NextHopId) -> Option<(u32, IpAddr)> {
        let address = self.lfib.next_hops().get(id)?.via.address()?;
        let ifindex = self.resolver.state(id).and_then(HopState::ifindex)?;
        Some((self.resolver.links().get(ifindex)?.ip_ifindex(), address))
    }

    pub(super) fn list_links(&self) -> Vec<api::Link> {
        let mut links = Vec::new();
        for port in self.ports.iter() {
            let up = self
                .resolver
                .links()
                .get(port.ifindex())
                .is_some_and(|link| link.is_up());
            let parent = port.tags().and(self.ports.program_port(port));
            let program = self.ports.program(port);
            let lost = program.and_then(|program| program.lost.as_ref());
            let attached = program.filter(|_| lost.is_none());
            let far_end = self.ports.far_end(port, self.resolver.links());
            links.push(api::Link {
                ifname: port.name().to_owned(),
                ifindex: Some(port.ifindex()).filter(|&ifindex| ifindex < LinkInfo::FIRST_VIRTUAL),
                address: port.mac().to_string(),
                mtu: port.mtu().into(),
                up,
                mode: word(self.config.mode),
                link_id: attached.map_or(0, |program| program.link_id),
                program_id: attached.map_or(0, |program| program.program_id),
                put_back: program.map_or(0, |program| program.put_back),
                mpls: port.accepts_labels(),
                accept_labels: port.wish().accept_labels.0,
                mpls_mtu: port.mpls_mtu().into(),
                mpls_mtu_set: port.wish().mpls_mtu.0.map(u32::from),
                cross_connect: port.cross_connect().map(str::to_owned),
                attachment: port.is_attached(),
                dscp_map: Some(port.wish().dscp_map).filter(|map| !map.is_default()),
                tc_map: Some(port.wish().tc_map).filter(|map| !map.is_default()),
                tx_only: port.role() == Role::TxOnly,
                local: port.role() == Role::Local,
                parent_only: port.role() == Role::ParentOnly,
                parent: parent.map(|parent| parent.name().to_owned()),
                vlan: port.tags().map(|tags| tags.iter().map(vlan_tag).collect()),
                peer: far_end.as_ref().map(|far_end| far_end.name.to_string()),
                peer_netns: far_end.and_then(|far_end| Some(far_end.netns?.display().to_string())),
                redirect_target: self.ports.takes_redirects(port),
                problem: lost.map(|lost| lost.reason.clone()),
                checksum: self.ports.checksum(port),
                counters: None,
            });
        }
        links.extend(self.ports.waiting().iter().map(|waiting| api::Link {
            ifname: waiting.name.as_ref().to_owned(),
            ifindex: None,
            address: waiting.mac.to_string(),
            mtu: waiting.mtu,
            up: false,
            mode: word(self.config.mode),
            link_id: 0,
            program_id: 0,
            put_back: 0,
            mpls: waiting.wish.mpls,
            accept_labels: waiting.wish.accept_labels.0,
            mpls_mtu: waiting.wish.mpls_mtu.0.map_or(waiting.mtu, u32::from),
            mpls_mtu_set: waiting.wish.mpls_mtu.0.map(u32::from),
            cross_connect: waiting.wish.cross_connect.as_deref().map(str::to_owned),
            attachment: false,
            dscp_map: Some(waiting.wish.dscp_map).filter(|map| !map.is_default()),
            tc_map: Some(waiting.wish.tc_map).filter(|map| !map.is_default()),
            tx_only: waiting.wish.role == Role::TxOnly,
            local: false,
            parent_only: false,
            parent: None,
            vlan: None,
            peer: None,
            peer_netns: None,
            redirect_target: None,
            problem: Some(waiting.reason.clone()),
            checksum: waiting.wish.checksum.unwrap_or(api::Checksum::Finish),
            counters: None,
        }));
        links.sort_by(|one, other| one.ifname.cmp(&other.ifname));
        links
    }

    /// The number of routes that are not counted.
    pub(super) fn stats(&self) -> api::Stats {
        api::Stats {
            uncounted_routes: self.lfib.uncounted_routes() as u64,
            ..api::Stats::default()
        }
    }

    /// The ports that have counters, by their numbers.
    pub(super) fn counted_ports(&self) -> Vec<(u16, String)> {
        let ports = self.ports.iter();
        ports.map(|port| (port.number(), port.name().to_owned())).collect()
    }

    fn counted_routes(&self) -> usize {
        self.lfib.label_routes() + self.lfib.prefix_routes() - self.lfib.uncounted_routes()
    }

    /// The state of a next hop and of its backup.
    pub(super) fn next_hop_state(&self, id: NextHopId, backup: Option<NextHopId>) -> api::NextHopState {
        let api::BackupState {
            via,
            dev,
            lladdr,
            state,
            redirect_lost,
            ..
        } = self.resolution(id);
        api::NextHopState {
            via,
            dev,
            lladdr,
            state,
            redirect_lost,
            routes: self.lfib.next_hops().users(id) as u64,
            backup: backup.map(|backup| api::BackupState {
                in_use: !self.lfib.is_reached(id) && self.lfib.is_reached(backup),
                ..self.resolution(backup)
            }),
            own_backups: self.lfib.next_hops().protection(id) == Protection::OwnLabels,
            kernel: None,
        }
    }

    /// The interface of a next hop. A sub-interface has its own name here, not that of the kernel's device for it.
    pub(super) fn device(&self, id: NextHopId) -> Option<&str> {
        let ifindex = self.resolver.state(id).and_then(HopState::ifindex);
        let next_hop = self.lfib.next_hops().get(id);
        ifindex
            .and_then(|ifindex| self.interface_name(ifindex))
            .or_else(|| next_hop.and_then(|next_hop| next_hop.dev.as_deref()))
    }

    pub(super) fn interface_name(&self, ifindex: u32) -> Option<&str> {
        let port = self.ports.by_ifindex(ifindex).map(|port| port.name());
        port.or_else(|| self.resolver.links().get(ifindex).map(|link| &*link.name))
    }

    /// The state of a next hop, by its public name.
    pub(super) fn state_of(&self, state: Option<HopState>) -> api::Resolution {
        let is_port = |ifindex| self.ports.by_ifindex(ifindex).is_some();
        match state {
            Some(state) if state.ifindex().is_some_and(|ifindex| !is_port(ifindex)) => api::Resolution::NotAPort,
            Some(HopState::Resolved { .. }) => api::Resolution::Resolved,
            Some(HopState::Static { .. }) => api::Resolution::Static,
            None | Some(HopState::Incomplete { .. }) => api::Resolution::Incomplete,
            Some(HopState::Failed { .. }) => api::Resolution::Failed,
            Some(HopState::BadMac { .. }) => api::Resolution::BadMac,
            Some(HopState::NoArp { .. }) => api::Resolution::NoArp,
            Some(HopState::LinkDown { .. }) => api::Resolution::LinkDown,
            Some(HopState::NoSuchDev) => api::Resolution::NoSuchDev,
            Some(HopState::NoRoute) => api::Resolution::NoRoute,
            Some(HopState::Local) => api::Resolution::Local,
        }
    }

    /// The state of a next hop, without its backup.
    fn resolution(&self, id: NextHopId) -> api::BackupState {
        let next_hop = self.lfib.next_hops().get(id);
        let state = self.resolver.state(id);
        let port = state
            .and_then(HopState::ifindex)
            .and_then(|ifindex| self.ports.by_ifindex(ifindex));
        let resolution = match self.state_of(state) {
            api::Resolution::Resolved | api::Resolution::Static if self.lfib.is_resolving(id) => {
                api::Resolution::Incomplete
            }
            resolution => resolution,
        };
        api::BackupState {
            via: next_hop.map_or(Via::Link(Mac::ZERO), |next_hop| next_hop.via).into(),
            dev: self.device(id).map(Into::into),
            lladdr: state.and_then(HopState::mac).map(|mac| mac.to_string()),
            state: resolution,
            in_use: false,
            redirect_lost: port.is_some_and(|port| self.ports.takes_redirects(port) == Some(false)),
        }
    }
}

/// Whether `filter` selects a route by everything except its next hops.
fn chooses(filter: &api::RouteFilter, route: &Candidate<'_>) -> bool {
    filter.selects(route.key)
        && filter.owner.is_none_or(|source| source == route.owner.source())
        && filter
            .protocol
            .is_none_or(|protocol| protocol == route.attributes.protocol)
}

/// Whether a path of the route leads where `filter` says; `is_one` are the next hops that it selects.
fn leads(filter: &api::RouteFilter, route: &Candidate<'_>, is_one: impl Fn(NextHopId) -> bool) -> bool {
    let leaves = || filter.via.is_none() && filter.dev.as_ref().is_some_and(|dev| route.leaves_by(dev));
    route.is_local() && is_of_local(filter) || leaves() || route.leads_to(is_one)
}

/// Whether `filter` selects routes to this machine.
fn is_of_local(filter: &api::RouteFilter) -> bool {
    filter.via.is_none() && filter.dev.as_deref() == Some("lo")
}

fn vlan_tag(vlan: Vlan) -> api::VlanTag {
    api::VlanTag {
        protocol: sub_interface::protocol(vlan).to_owned(),
        id: vlan.vid,
    }
}

/// The value of an option, as on the command line.
fn word(value: impl ValueEnum) -> String {
    let word = value.to_possible_value();
    word.map(|word| word.get_name().to_owned()).unwrap_or_default()
}

//! Events of the kernel, and their effect on next hops, claims and ports.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use mplsxdp_common::abi::Adjacency;
use tracing::{debug, info, warn};

use super::watched::{News, What};
use super::{DEFAULT_MTU, Effect, Switch};
use crate::control::api::EventKind;
use crate::dataplane::Tables;
use crate::lfib::next_hops::{NextHopChange, NextHopId};
use crate::lfib::{Budget, Reach};
use crate::neighbour::Event;
use crate::neighbour::resolver::{Action, HopState};
use crate::ports::local::{self};
use crate::ports::{Port, Role};

/// How many changes of next hops are logged at once; the rest is logged in steps.
const LOGGED: usize = 16;
/// What it takes to log one, in operations.
const LINE: usize = 8;
/// How many next hops are seen to before the clock is read, and what each takes, in operations.
const RESOLVED: usize = 16;
const HOP: usize = 4;
/// How many adjacencies are written at once after ports have changed, in operations.
const REPUBLISHED: usize = 256;

impl<T: Tables> Switch<T> {
    pub(super) fn handle_events(&mut self, batch: &[Event], now: Instant) {
        let mut actions = Vec::new();
        let mut changed = BTreeSet::new();
        let mut ports_changed = false;
        let mut links_changed = false;
        let mut addresses_changed = false;
        // First: frames are lost as long as they go to a link that is down. What else follows takes longer.
        let failed = batch.iter().filter_map(|event| match event {
            Event::Link(link) if !link.is_up() => Some(link.ifindex),
            Event::LinkGone(ifindex) => Some(*ifindex),
            _ => None,
        });
        self.fail_links(failed.collect(), false);
        let foreign_sources = self.foreign_sources();
        for event in batch {
            debug!(?event, "kernel");
            self.look_at_failed_links(event);
            self.resolver.handle(event, now, &mut actions);
            self.kernel_routes.handle(event, &mut changed);
            self.addresses.handle(event);
            links_changed |= matches!(event, Event::Link(_) | Event::LinkGone(_) | Event::Synced);
            addresses_changed |= matches!(event, Event::Address(_) | Event::AddressGone(_));
        }
        if addresses_changed {
            self.feeds.addresses_changed();
        }
        let mut others = self.take_next_hop_changes(actions);
        let names = if links_changed {
            self.ports.names()
        } else {
            HashMap::new()
        };
        for event in batch {
            ports_changed |= match event {
                Event::Link(link) => self.link_changed(link, now),
                Event::LinkGone(ifindex) => self.ports.lose(*ifindex, self.lfib.tables_mut()),
                Event::Synced => self.ports.lose_all_but(self.resolver.links(), self.lfib.tables_mut()),
                _ => false,
            };
        }
        if links_changed || ports_changed {
            self.feeds.interfaces_may_have_changed();
        }
        if links_changed {
            ports_changed |= self
                .ports
                .follow_sub_interfaces(self.resolver.links(), self.lfib.tables_mut());
            if let Some(pair) = &mut self.local {
                pair.follow_names(self.resolver.links());
            }
            let mut actions = Vec::new();
            self.follow_ports(&names, now, &mut actions);
            others.extend(self.take_next_hop_changes(actions));
            self.ports.follow_waiting(self.resolver.links(), now);
            let down = batch.iter().filter_map(|event| match event {
                Event::Link(link) if !link.is_up() => Some(link.ifindex),
                _ => None,
            });
            self.effects.push_back(Effect::LinksDown(down.collect()));
            let changed = batch.iter().filter_map(|event| match event {
                Event::Link(link) => self.ports.by_ifindex(link.ifindex),
                _ => None,
            });
            let looks = changed
                .filter(|port| port.needs_visible_tags())
                .map(|port| Effect::LookAtFeatures {
                    ifindex: port.ifindex(),
                    name: port.name().into(),
                });
            self.effects.extend(looks);
            if self.follow_vrfs(&[]) {
                self.resolver.look_up_again(now, &mut others);
            }
        }
        self.claims_changed(changed);
        self.perform(others);
        // At the start, addresses that are foreign have been so all along.
        self.warn_of_foreign_sources(&foreign_sources);
        if ports_changed {
            self.effects.push_back(Effect::KeepPorts);
            self.republish_next_hops();
            self.fit_local_mtu();
        }
    }

    /// Lets no more frames go to links that are down or gone. The resolver sees to their next hops afterwards, whether
    /// the links are up again or not. `ahead`: the kernel's events are still to come.
    pub(super) fn fail_links(&mut self, failed: Vec<u32>, ahead: bool) {
        let ports = failed.iter().filter_map(|&ifindex| self.ports.by_ifindex(ifindex));
        let numbers: BTreeSet<u16> = ports.map(Port::number).collect();
        if !numbers.is_empty() {
            self.lfib.fail_ports(|number| numbers.contains(&number));
            // Those that were back begin to wait anew.
            let ifindex = |id| self.resolver.state(id).and_then(HopState::ifindex);
            let again = self
                .returning
                .all()
                .filter(|&id| ifindex(id).is_some_and(|ifindex| failed.contains(&ifindex)));
            let again: Vec<NextHopId> = again.collect();
            again.into_iter().for_each(|id| self.returning.forget(id));
        }
        if ahead {
            self.failed_links.extend(failed);
        }
    }

    /// The kernel's events speak of links that have failed before.
    fn look_at_failed_links(&mut self, event: &Event) {
        let spoken_of: BTreeSet<u32> = match event {
            Event::Link(link) => self.failed_links.take(&link.ifindex).into_iter().collect(),
            Event::LinkGone(ifindex) => self.failed_links.take(ifindex).into_iter().collect(),
            // They may have been lost.
            Event::Synced => std::mem::take(&mut self.failed_links),
            _ => return,
        };
        for ifindex in spoken_of {
            self.resolver.look_at_link_again(ifindex);
        }
    }

    /// Sees to some of the next hops that events concern.
    pub(super) fn resolve_step(&mut self, budget: &mut Budget<'_>, now: Instant) {
        while self.resolver.has_steps() && budget.is_left() {
            let mut actions = Vec::new();
            self.resolver.step(RESOLVED, now, &mut actions);
            self.perform(actions);
            budget.spend(RESOLVED * HOP);
        }
    }

    /// Returns whether adjacencies depend on what changed.
    fn link_changed(&mut self, link: &crate::neighbour::LinkInfo, now: Instant) -> bool {
        if self.ports.follow_program(link, now) {
            self.effects.push_back(Effect::WatchSoon);
        }
        let (changed, outgrown) = self.ports.follow(link, self.lfib.tables_mut());
        if let Some(number) = outgrown
            && let Some(settings) = self.ports.settings_now(number)
        {
            self.effects.push_back(Effect::ReplaceProgram { number, settings });
        }
        changed
    }

    /// Carries out the actions that are changes of next hops, and returns the others.
    fn take_next_hop_changes(&mut self, actions: Vec<Action>) -> Vec<Action> {
        let (changes, others): (Vec<_>, Vec<_>) = actions
            .into_iter()
            .partition(|action| matches!(action, Action::Changed { .. }));
        self.next_hops_changed(&changes);
        others
    }

    /// Carries out the resolver's actions: changes of next hops before anything else.
    pub(super) fn perform(&mut self, actions: Vec<Action>) {
        for action in self.take_next_hop_changes(actions) {
            let effect = match action {
                Action::Lookup { address } => Effect::LookUp {
                    address,
                    scopes: self.scopes(address),
                },
                Action::Probe { ifindex, address } => Effect::Probe { ifindex, address },
                Action::Release { ifindex, address } => Effect::Release { ifindex, address },
                Action::Verify { ifindex, address } => Effect::Verify { ifindex, address },
                Action::Changed { .. } => continue,
            };
            self.effects.push_back(effect);
        }
    }

    /// Resolves the next hops that frames wait for.
    pub(super) fn resolve_wanted(&mut self, slots: &[u16]) {
        for &slot in slots {
            let wanted = self.lfib.next_hops().at_slot(slot);
            let probe = wanted.and_then(|(id, _)| {
                let (HopState::Incomplete { ifindex } | HopState::Failed { ifindex }) = self.resolver.state(id)? else {
                    return None;
                };
                let address = self.resolver.next_hop(id)?.via.address()?;
                Some(Effect::Probe { ifindex, address })
            });
            self.effects.extend(probe);
        }
    }

    /// Makes the resolver follow the next hops that came into use, and forget those that went out of use.
    pub(super) fn follow_next_hop_changes(&mut self, changes: Vec<NextHopChange>, now: Instant) {
        let mut actions = Vec::new();
        for change in changes {
            match change {
                NextHopChange::Added(id, next_hop) => self.resolver.add(id, next_hop, now, &mut actions),
                NextHopChange::Removed(id) => {
                    if self.watched.contains(EventKind::Neigh) {
                        self.add_news(id, What::Removed(self.resolver.state(id)));
                    }
                    self.returning.forget(id);
                    self.resolver.remove(id, now, &mut actions);
                }
            }
        }
        self.perform(actions);
    }

    /// Passes all of them to the LFIB at once: each may need a grace period, which they share.
    fn next_hops_changed(&mut self, changes: &[Action]) {
        let changed = changes.iter().filter_map(|change| match *change {
            Action::Changed { id, state } => Some((id, state)),
            _ => None,
        });
        let reached: BTreeMap<NextHopId, Reach> = changed
            .clone()
            .map(|(id, state)| (id, self.reach(Some(state))))
            .collect();
        self.set_next_hops(reached);
        for (id, state) in changed {
            self.add_news(id, What::Changed(state));
        }
        self.log_next_hops(&mut Budget::new(LOGGED * LINE, &mut || false));
    }

    fn add_news(&mut self, id: NextHopId, what: What) {
        let next_hop = self.resolver.next_hop(id).cloned();
        self.unlogged
            .extend(next_hop.map(|next_hop| News { id, next_hop, what }));
    }

    /// Adds news of next hops whose frames may have left their backups, or gone there.
    fn add_news_of_backups(&mut self, next_hops: impl Iterator<Item = NextHopId>) {
        if self.watched.contains(EventKind::Neigh) {
            next_hops.for_each(|id| self.add_news(id, What::Backup));
        }
    }

    /// Logs and reports some of the changes of next hops. The stores come first, because writing a thousand lines takes longer.
    pub(super) fn log_next_hops(&mut self, budget: &mut Budget<'_>) {
        while budget.is_left()
            && let Some(news) = self.unlogged.pop_front()
        {
            budget.spend(LINE);
            self.tell_next_hop(&news);
            let News { next_hop, what, .. } = news;
            let What::Changed(state) = what else { continue };
            let word = self.state_of(Some(state));
            let lladdr = state.mac().map(tracing::field::display);
            info!(next_hop = next_hop.to_string(), state = %word, lladdr, "next hop");
            if let HopState::BadMac { mac, .. } = state {
                warn!(
                    next_hop = next_hop.to_string(),
                    "the kernel has {mac} for this neighbour, which is not the MAC address of one interface (RFC 1812 section \
                     3.3.2): no frames are sent there until `ip neigh replace ADDRESS lladdr MAC dev IFACE` or the neighbour \
                     announces another one"
                );
            }
            if let HopState::NoArp { ifindex } = state
                && let Some(reason) = self.ports.no_neighbours(ifindex, &next_hop)
            {
                warn!(%next_hop, "{reason}");
            }
        }
    }

    fn set_next_hops(&mut self, reached: impl IntoIterator<Item = (NextHopId, Reach)>) {
        let returns_at = self.config.backup_hold.map(|hold| self.now + hold.get());
        let (mut changed, mut any_failed) = (Vec::new(), false);
        for (id, reach) in reached {
            let is_back = matches!(reach, Reach::Resolved(_));
            any_failed |= !is_back;
            match returns_at.filter(|_| is_back && self.lfib.may_return_later(id)) {
                Some(at) => self.returning.wait(id, at),
                None => {
                    self.returning.forget(id);
                    changed.push((id, reach));
                }
            }
        }
        self.set_now(changed);
        if any_failed {
            // These have waited in vain.
            let left_alone = self.returning.all().filter(|&id| !self.lfib.has_stand_ins(id));
            let left_alone: Vec<NextHopId> = left_alone.collect();
            self.let_return(left_alone);
        }
    }

    /// The frames of these leave their backups.
    fn let_return(&mut self, next_hops: Vec<NextHopId>) {
        let reached = next_hops
            .into_iter()
            .map(|id| (id, self.reach(self.resolver.state(id))));
        let reached: Vec<(NextHopId, Reach)> = reached.collect();
        reached.iter().for_each(|&(id, _)| self.returning.forget(id));
        let returned: Vec<NextHopId> = reached.iter().map(|&(id, _)| id).collect();
        self.set_now(reached);
        self.add_news_of_backups(returned.into_iter());
    }

    /// The frames of next hops that have been back for long enough leave their backups.
    pub(super) fn return_due(&mut self, now: Instant) {
        let due = self.returning.take_due(now);
        self.let_return(due);
    }

    fn set_now(&mut self, reached: Vec<(NextHopId, Reach)>) {
        let changed: BTreeSet<NextHopId> = match self.watched.contains(EventKind::Neigh) {
            true => reached.iter().map(|&(id, _)| id).collect(),
            false => BTreeSet::new(),
        };
        if !reached.is_empty() && self.lfib.set_next_hops(reached) {
            // Frames that wait for a member of a group may now belong to another.
            self.effects.push_back(Effect::RetryHeld);
        }
        // Those that cannot be reached themselves, and whose backup may have come or gone.
        let protected = changed.iter().flat_map(|&id| self.lfib.next_hops().protected_by(id));
        let protected = protected.filter(|id| !self.lfib.is_reached(*id) && !changed.contains(id));
        let protected: Vec<NextHopId> = protected.collect();
        self.add_news_of_backups(protected.into_iter());
    }

    /// The meaning of a next hop's `state` for the routes.
    fn reach(&self, state: Option<HopState>) -> Reach {
        let Some(state) = state else { return Reach::Unresolved };
        match (self.adjacency(state), state) {
            (Some(adjacency), _) => Reach::Resolved(adjacency),
            (None, HopState::Incomplete { ifindex }) if self.ports.by_ifindex(ifindex).is_some() => Reach::Unresolved,
            // No neighbour, or no way to it; that includes an interface that is not a port.
            (None, _) => Reach::Out,
        }
    }

    /// The adjacency of a next hop in `state`, if its interface is a port.
    pub(super) fn adjacency(&self, state: HopState) -> Option<Adjacency> {
        let (ifindex, mac) = state.adjacency()?;
        let port = self.ports.by_ifindex(ifindex)?;
        let adjacency = Adjacency::new(mac, port.number(), port.mac(), port.mtu()).with_tags(port.vlan_tags());
        let adjacency = adjacency.with_mpls_mtu(port.mpls_mtu());
        Some(adjacency.with_one_buffer(!self.ports.sends_multi_buffer(port.number())))
    }

    /// Rewrites every adjacency after ports were added, removed or changed. If there are many, frames stop going to ports
    /// that are gone at once, and the rest follows in steps.
    pub(super) fn republish_next_hops(&mut self) {
        self.republishing = Some(None);
        self.republish_step(&mut Budget::new(REPUBLISHED, &mut || false));
        let usable = self.ports.iter().filter(|port| port.is_usable());
        let usable: BTreeSet<u16> = usable.map(Port::number).collect();
        self.lfib.fail_ports(|number| !usable.contains(&number));
    }

    /// Rewrites some of them.
    pub(super) fn republish_step(&mut self, budget: &mut Budget<'_>) {
        while budget.is_left()
            && let Some(after) = self.republishing
        {
            let next = std::iter::successors(self.resolver.next_hop_after(after), |(id, ..)| {
                self.resolver.next_hop_after(Some(*id))
            });
            let some: Vec<_> = next
                .take(RESOLVED)
                .map(|(id, _, state)| (id, self.reach(state)))
                .collect();
            self.republishing = some.last().map(|&(id, _)| Some(id));
            budget.spend(HOP * some.len());
            self.set_next_hops(some);
        }
    }

    /// Ports were added or removed on request.
    pub(super) fn ports_changed(&mut self, now: Instant) {
        self.feeds.interfaces_may_have_changed();
        self.effects.push_back(Effect::KeepPorts);
        self.follow_sub_interfaces(now);
        self.republish_next_hops();
        self.fit_local_mtu();
    }

    /// The largest packet that this machine may send itself, so that it fits every port with the most labels on it.
    pub(super) fn local_mtu(&mut self) -> u32 {
        self.local_depth = self.lfib.deepest_stack().unwrap_or_default();
        let ports = self
            .ports
            .iter()
            .filter(|port| !matches!(port.role(), Role::Local | Role::ParentOnly));
        let lowest = ports.map(|port| port.mpls_mtu().into()).min().unwrap_or(DEFAULT_MTU);
        local::mtu_beneath(lowest, self.local_depth)
    }

    pub(super) fn fit_local_mtu(&mut self) {
        let mtu = self.local_mtu();
        if let Some(pair) = self.local.clone() {
            self.effects.push_back(Effect::SetLocalMtu { pair, mtu });
        }
    }

    /// Routes may push more labels than before, or fewer.
    pub(super) fn fit_local_mtu_to_labels(&mut self) {
        if self.lfib.deepest_stack().unwrap_or_default() != self.local_depth {
            self.fit_local_mtu();
        }
    }

    /// Passes the current ports to the resolver.
    pub(super) fn follow_sub_interfaces(&mut self, now: Instant) {
        let mut actions = Vec::new();
        let names = self.ports.names();
        self.ports
            .follow_sub_interfaces(self.resolver.links(), self.lfib.tables_mut());
        self.follow_ports(&names, now, &mut actions);
        // Another port may be the way out of a VRF.
        if self.follow_vrfs(&[]) || !self.vrf_tables.is_empty() {
            self.resolver.look_up_again(now, &mut actions);
        }
        self.perform(actions);
    }

    /// Passes the names of ports to routes and resolver. `names` are the names that they have now.
    fn follow_ports(&mut self, names: &HashMap<u16, Arc<str>>, now: Instant, actions: &mut Vec<Action>) {
        let renamed = self.ports.renamed_since(names);
        for (old, new) in &renamed {
            info!(
                port = &**new,
                was = &**old,
                "renamed; routes with the old name have the new one"
            );
        }
        if !renamed.is_empty() {
            self.rename_devices(&renamed);
            self.ports.rename_cross_connects(&renamed);
        }
        let (without_device, interfaces) = self.ports.links_of_ports(self.resolver.links());
        self.resolver
            .set_ports(&without_device, interfaces, &renamed, now, actions);
    }
}

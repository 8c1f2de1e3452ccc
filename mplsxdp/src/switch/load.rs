//! Applies a configuration: at the start, and when it was read again (SIGHUP). It is applied as a whole or not at all.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::ports::{Adding, Operation, Progress};
use super::routes::{Origin, Reported, RouteChange};
use super::saving::Restored;
use super::{Effect, PortEvent, ProgramIds, Switch};
use crate::config::{Config, PortConfig};
use crate::control::api::Changes;
use crate::dataplane::Tables;
use crate::error;
use crate::lfib::{Change, ChangeError, Mode};
use crate::ports::{Plan, PortError, Role, Wish};
use crate::route::{Owner, Route};

/// How long the start waits for neighbours before it takes over from a dead process. A neighbour that does not answer is
/// asked three times, a second apart.
const TAKEOVER_BOUND: Duration = Duration::from_secs(3);

/// Why a configuration cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("{route}: {source}")]
    Route { route: String, source: ChangeError },
    #[error("nobody confirmed the load within {} s with `mplsxdp confirm`: it is undone", .within.as_secs())]
    Unconfirmed { within: Duration },
}

/// A configuration that is being applied.
#[derive(Debug)]
pub(super) struct Load {
    config: Config,
    /// The switch starts with it; otherwise it replaces another one.
    is_start: bool,
    stage: Stage,
    /// Ports that already exist.
    old: Vec<PortConfig>,
    /// The others.
    new: Vec<PortConfig>,
    /// Ports whose interfaces do not exist yet.
    absent: HashMap<String, String>,
    /// Ports that an earlier process has saved: they wait if they cannot be ports now.
    saved: Vec<String>,
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    routes: Arc<Vec<Route>>,
    changes: Changes,
    reported: Reported,
}

/// The next step, or what is awaited. New ports are added before the routes that lead to them, and old ones are removed
/// after their routes; at the start, the tables are full before the first frame arrives.
#[derive(Debug)]
enum Stage {
    Beginning,
    /// Whether each of these can be a port.
    Checking(VecDeque<PortConfig>),
    MakingRoom,
    Routes,
    ChangingRoutes,
    /// At the start, routes are restored that an earlier process has saved.
    Restoring(Restored),
    /// At the start, all that the kernel claims is known, and the domains of the ports' VRFs are filled, before a port
    /// looks there.
    FillingDomains,
    /// At the start, the next hops are followed once the ports are there.
    Following,
    LookingUp,
    /// At the start, next hops are resolved before this process takes over from a dead one, until this time at the
    /// latest.
    Resolving(Instant),
    TakingOver,
    Taking(VecDeque<PortConfig>, Option<Adding>),
    CreatingLocal,
    AddingLocal(Adding),
    /// Change the roles of ports.
    Changing(VecDeque<PortConfig>),
    Finishing,
}

impl<T: Tables> Switch<T> {
    pub(super) fn start(&mut self, now: Instant) {
        let routes = mem::take(&mut self.config.routes);
        let mut config = self.config.clone();
        config.routes = routes;
        let mut load = Load::new(config, true);
        (load.config.ports, load.saved) = self.saving.ports(&load.config.ports);
        self.enqueue(Operation::Load(Box::new(load)), now);
    }

    /// Applies a configuration that was read again. If that fails, everything stays as it was.
    pub(super) fn reread(&mut self, read: Result<Box<Config>, String>, now: Instant) {
        match read {
            Ok(config) => {
                let load = Load::new(*config, false);
                self.enqueue(Operation::Load(Box::new(load)), now);
            }
            Err(error) => not_taken_over(&error),
        }
    }

    /// Continues until something must be awaited. `None` at the end.
    pub(super) fn load_next(&mut self, mut load: Box<Load>, now: Instant) -> Option<Box<Load>> {
        loop {
            match &mut load.stage {
                Stage::Beginning => {
                    let ports = load.config.ports.iter().cloned();
                    let (old, new): (Vec<_>, Vec<_>) = ports.partition(|port| self.wish_of(&port.name).is_some());
                    load.stage = Stage::Checking(new.clone().into());
                    (load.old, load.new) = (old, new);
                }
                Stage::Checking(ports) => {
                    if let Some(port) = ports.front() {
                        self.survey(&port.name);
                        return Some(load);
                    }
                    load.stage = match (&load.config.local, load.is_start) {
                        (Some(name), true) => {
                            let name = name.clone();
                            self.effects.push_back(Effect::MakeRoomForLocal { name });
                            load.stage = Stage::MakingRoom;
                            return Some(load);
                        }
                        (None, true) => Stage::Routes,
                        (_, false) => load.taking(),
                    };
                }
                Stage::Routes => {
                    let (mode, origin) = match load.is_start {
                        true => (Mode::Add, Origin::Start),
                        false => (Mode::ReplaceAll, Origin::Reread),
                    };
                    let (owner, routes) = (Owner::Config, Arc::clone(&load.routes));
                    let change = RouteChange::new(origin, Change::Install { mode, owner, routes });
                    load.stage = Stage::ChangingRoutes;
                    self.work.route_change = Some(change);
                    return Some(load);
                }
                Stage::Taking(ports, None) => {
                    if let Some(port) = ports.front() {
                        if let Some(reason) = load.absent.get(&port.name).cloned() {
                            let port = port.clone();
                            load = match self.take_later(load, &port, reason, now) {
                                Ok(load) => load,
                                Err(failed) => return failed,
                            };
                            continue;
                        }
                        let adding = self.begin_adding(port.name.clone(), wish(port));
                        load.stage = Stage::Taking(mem::take(ports), Some(adding));
                        return Some(load);
                    }
                    if !load.is_start {
                        if !load.added.is_empty() {
                            self.ports.follow_waiting(self.resolver.links(), now);
                            self.ports_changed(now);
                        }
                        load.stage = Stage::Routes;
                        continue;
                    }
                    load.stage = match &load.config.local {
                        Some(name) => {
                            let (name, mtu) = (name.clone(), self.local_mtu());
                            self.effects.push_back(Effect::CreateLocal { name, mtu });
                            load.stage = Stage::CreatingLocal;
                            return Some(load);
                        }
                        None => Stage::Following,
                    };
                }
                Stage::Changing(ports) => {
                    let Some(port) = ports.front() else {
                        load.stage = Stage::Finishing;
                        continue;
                    };
                    let (name, wish) = (port.name.clone(), wish(port));
                    let before = self.config.ports.iter().find(|before| before.name == name);
                    let change = port.settings();
                    let is_changed = before.is_some_and(|before| before.settings() != change);
                    let crosses = before.is_some_and(|before| before.cross_connect != port.cross_connect);
                    match self.change_port(&name, wish.clone()) {
                        RoleChange::None if is_changed || crosses => {
                            ports.pop_front();
                            if crosses {
                                self.recross(&name, wish.cross_connect);
                            }
                            let is_set = self.set_link(&name, change).is_some_and(|set| set.is_ok());
                            load.changed.extend(is_set.then_some(name));
                        }
                        // Sockets for exceptions must be open on all queues first.
                        RoleChange::Awaits => return Some(load),
                        change => {
                            ports.pop_front();
                            load.changed.extend((change == RoleChange::Done).then_some(name));
                        }
                    }
                }
                Stage::FillingDomains => {
                    if self.lfib.has_domain_steps() || self.has_claims_to_follow() || self.lfib.has_to_publish() {
                        return Some(load);
                    }
                    load.stage = load.taking();
                }
                Stage::Following => {
                    self.ports.follow_waiting(self.resolver.links(), now);
                    self.follow_sub_interfaces(now);
                    self.work.route_change = Some(RouteChange::started(Arc::clone(&load.routes)));
                    load.stage = Stage::LookingUp;
                    return Some(load);
                }
                Stage::Finishing => {
                    self.finish_load(*load, now);
                    return None;
                }
                Stage::MakingRoom
                | Stage::ChangingRoutes
                | Stage::Restoring(_)
                | Stage::LookingUp
                | Stage::Resolving(_)
                | Stage::TakingOver
                | Stage::Taking(_, Some(_))
                | Stage::CreatingLocal
                | Stage::AddingLocal(_) => return Some(load),
            }
        }
    }

    /// An effect was performed.
    pub(super) fn load_event(&mut self, mut load: Box<Load>, event: PortEvent, now: Instant) -> Option<Box<Load>> {
        let stage = mem::replace(&mut load.stage, Stage::Finishing);
        match (stage, event) {
            (Stage::Checking(mut ports), PortEvent::Surveyed(survey)) => {
                let port = ports.pop_front()?;
                let plan = survey.and_then(|survey| self.ports.plan(&port.name, survey));
                match plan {
                    Ok(Plan::Attach(_) | Plan::Promote(_) | Plan::SubInterface(_)) => {}
                    Err(error) if error.is_absence() && load.config.wait => {
                        load.absent.insert(port.name, "there is no such interface".to_owned());
                    }
                    Err(error) if load.saved.contains(&port.name) => {
                        load.absent.insert(port.name, error::report(&error));
                    }
                    Err(error) if error.is_absence() && load.is_start => {
                        let error = PortError::NotThere(Box::new(error));
                        return self.load_failed(*load, error.into(), now);
                    }
                    Err(error) => return self.load_failed(*load, error.into(), now),
                }
                load.stage = Stage::Checking(ports);
            }
            (Stage::MakingRoom, PortEvent::RoomForLocal(room)) => match room {
                Ok(()) => load.stage = Stage::Routes,
                Err(error) => return self.load_failed(*load, error.into(), now),
            },
            (Stage::Taking(ports, Some(adding)), event) => match self.add_next(adding, event) {
                Progress::Waiting(adding) => load.stage = Stage::Taking(ports, Some(adding)),
                Progress::Done(taken) => {
                    load.stage = Stage::Taking(ports, None);
                    load = match self.taken(load, taken, now) {
                        Ok(load) => load,
                        Err(failed) => return failed,
                    };
                }
            },
            (Stage::CreatingLocal, PortEvent::LocalCreated(created)) => match created {
                Ok(pair) => {
                    let adding = self.begin_adding(pair.port_name().to_owned(), Wish::new(Role::Local, None));
                    self.local = Some(pair);
                    load.stage = Stage::AddingLocal(adding);
                }
                Err(error) => return self.load_failed(*load, error.into(), now),
            },
            (Stage::AddingLocal(adding), event) => match self.add_next(adding, event) {
                Progress::Waiting(adding) => load.stage = Stage::AddingLocal(adding),
                Progress::Done(Ok(())) => load.stage = Stage::Following,
                Progress::Done(Err(error)) => return self.load_failed(*load, error.into(), now),
            },
            (Stage::Changing(mut ports), PortEvent::Listening(heard)) => {
                if let Some(port) = ports.pop_front() {
                    match (heard, self.ports.number(&port.name)) {
                        (Ok(()), Some(number)) => {
                            self.set_role(number, wish(&port));
                            load.changed.push(port.name);
                        }
                        (Ok(()), None) => {}
                        (Err(error), _) => error!(
                            port = port.name,
                            "cannot make it another kind of port: {}",
                            error::report(&error)
                        ),
                    }
                }
                load.stage = Stage::Changing(ports);
            }
            (stage, _) => load.stage = stage,
        }
        self.load_next(load, now)
    }

    /// A port was added, or not. The result is an error, with the rest of the operation, if the configuration cannot be
    /// applied.
    fn taken(
        &mut self,
        mut load: Box<Load>,
        taken: Result<(), PortError>,
        now: Instant,
    ) -> Result<Box<Load>, Option<Box<Load>>> {
        let Stage::Taking(ports, None) = &mut load.stage else {
            return Ok(load);
        };
        let Some(port) = ports.front().cloned() else {
            return Ok(load);
        };
        match taken {
            Ok(()) => {
                ports.pop_front();
                load.added.push(port.name);
                Ok(load)
            }
            // A queue may be free in a moment; nothing else would wait for it.
            Err(error)
                if self.is_down(&port.name)
                    || (!load.is_start && error.is_busy())
                    || load.saved.contains(&port.name) =>
            {
                self.take_later(load, &port, error::report(&error), now)
            }
            Err(error) => Err(self.load_failed(*load, error.into(), now)),
        }
    }

    /// The first of the ports to add waits for its interface.
    fn take_later(
        &mut self,
        mut load: Box<Load>,
        port: &PortConfig,
        reason: String,
        now: Instant,
    ) -> Result<Box<Load>, Option<Box<Load>>> {
        warn!(
            port = port.name,
            "waits: {reason}; it becomes a port when the interface appears or changes"
        );
        if let Err(error) = self.ports.wait_for(&port.name, wish(port), reason) {
            return Err(self.load_failed(*load, error.into(), now));
        }
        if let Stage::Taking(ports, _) = &mut load.stage {
            ports.pop_front();
        }
        load.added.push(port.name.clone());
        Ok(load)
    }

    /// The routes are installed, or were refused.
    pub(super) fn load_routes(
        &mut self,
        mut load: Box<Load>,
        result: Result<Changes, ChangeError>,
        reported: Reported,
        now: Instant,
    ) -> Option<Box<Load>> {
        match result {
            Ok(_) if matches!(load.stage, Stage::Restoring(_)) => {}
            Err(error) if let Stage::Restoring(routes) = &load.stage => self.not_restored(routes, &error),
            Ok(changes) => load.changes = changes,
            Err(error) => {
                let error = load.route_error(error);
                return self.load_failed(*load, error, now);
            }
        }
        if load.is_start
            && matches!(load.stage, Stage::ChangingRoutes | Stage::Restoring(_))
            && let Some(routes) = self.saving.next_routes()
        {
            self.work.route_change = Some(Self::restoring(&routes));
            load.stage = Stage::Restoring(routes);
            return Some(load);
        }
        load.reported = reported;
        load.stage = match (&load.stage, load.is_start) {
            (Stage::LookingUp, _) if self.work.awaits_takeover => Stage::Resolving(now + TAKEOVER_BOUND),
            (Stage::LookingUp, _) if load.config.persist => {
                self.effects.push_back(Effect::TakeOver);
                Stage::TakingOver
            }
            (Stage::LookingUp, _) => Stage::Finishing,
            (_, true) => {
                let names: Vec<&str> = load.new.iter().map(|port| &*port.name).collect();
                self.follow_vrfs(&names);
                Stage::FillingDomains
            }
            (_, false) => {
                let changes = self.check_cross_connects(&mut load);
                Stage::Changing(changes.into())
            }
        };
        self.load_next(load, now)
    }

    /// Returns the ports that already exist, as the configuration wants them. Cross-connects stay as they are if one of
    /// them contradicts another use of its port.
    fn check_cross_connects(&self, load: &mut Load) -> Vec<PortConfig> {
        let mut ports = mem::take(&mut load.old);
        let before = self.config.ports.iter();
        let before: HashMap<_, _> = before.map(|port| (&*port.name, &port.cross_connect)).collect();
        let is_changed = |port: &&PortConfig| before.get(&*port.name).is_some_and(|to| **to != port.cross_connect);
        let mut changed = ports.iter().filter(is_changed);
        let Err(error) = changed.try_for_each(|port| self.check_recross(port, &load.config)) else {
            return ports;
        };
        error!("the cross-connects are not changed: {error}, and send SIGHUP again");
        // The next time, it is a change again.
        for port in ports.iter_mut().chain(&mut load.config.ports) {
            if let Some(&to) = before.get(&*port.name) {
                port.cross_connect.clone_from(to);
            }
        }
        ports
    }

    /// Takes over from a dead process once every next hop that can be resolved is, and all of it is in the tables.
    pub(super) fn take_over_when_resolved(&mut self, now: Instant) {
        let Some(bound) = self.work.takeover_bound() else {
            return;
        };
        let unsettled = self.resolver.unsettled();
        let is_published = || {
            !(self.resolver.has_steps()
                || self.republishing.is_some()
                || self.lfib.has_resolving()
                || self.lfib.has_stale_groups()
                || self.lfib.has_to_publish()
                || self.has_claims_to_follow())
        };
        if now < bound && (unsettled > 0 || !is_published()) {
            return;
        }
        if unsettled > 0 {
            warn!(
                next_hops = unsettled,
                "taking over although not all next hops are resolved: they have not answered for {} s",
                TAKEOVER_BOUND.as_secs()
            );
        }
        self.work.begin_takeover();
        self.effects.push_back(Effect::TakeOver);
    }

    /// The programs of this process are on the ports.
    pub(super) fn taken_over(
        &mut self,
        programs: &[(u16, ProgramIds)],
        failed: &[u16],
        were_ports: &[u32],
        now: Instant,
    ) {
        for &number in failed {
            if let Some((_, program)) = self.ports.program_mut(number) {
                program.wanted = true;
            }
        }
        for &(number, ProgramIds { link_id, program_id }) in programs {
            if let Some((_, program)) = self.ports.program_mut(number) {
                (program.link_id, program.program_id) = (link_id, program_id);
            }
        }
        if !programs.is_empty() {
            info!(
                ports = programs.len(),
                "took over from an earlier process of this instance"
            );
        }
        self.work.awaits_takeover = false;
        let mut actions = Vec::new();
        self.resolver.let_leftovers_go(were_ports, &mut actions);
        self.perform(actions);
        self.work.end_takeover();
        self.go_on_loading(now);
    }

    fn load_failed(&mut self, load: Load, error: ConfigurationError, now: Instant) -> Option<Box<Load>> {
        self.effects.push_back(Effect::Drop(Box::new(load.routes)));
        if load.is_start {
            self.effects.push_back(Effect::Failed(error));
            return None;
        }
        for name in &load.added {
            self.drop_port(name, now);
        }
        not_taken_over(&error::report(&error));
        None
    }

    fn finish_load(&mut self, load: Load, now: Instant) {
        let Load {
            config,
            is_start,
            added,
            changed,
            mut removed,
            changes,
            reported,
            routes,
            ..
        } = load;
        self.effects.push_back(Effect::Drop(Box::new(routes)));
        if !is_start {
            let stays = |name: &str| config.ports.iter().any(|port| port.name == name);
            let gone = self.config.ports.iter().map(|port| port.name.clone());
            let gone: Vec<String> = gone.filter(|name| !stays(name)).collect();
            removed.extend(gone.into_iter().filter(|name| self.drop_port(name, now)));
            for name in added.iter().chain(&changed).chain(&removed) {
                self.forget_port(name);
            }
        }
        if let Some(waiting) = reported.waiting {
            waiting.log();
        }
        if reported.leads_here {
            let situation = self.situation();
            self.effects.push_back(Effect::LogHandover(situation));
        }
        if is_start {
            self.warn_of_foreign_sources(&[]);
            self.warn_of_missing_vrfs();
            self.feeds.start();
            if !self.feeds.is_empty() {
                self.audits.schedule(now);
            }
            self.saving.started();
            self.effects.push_back(Effect::Ready);
            self.await_confirmation(now);
            return;
        }
        self.ports.set_readopts(!config.no_readopt);
        self.effects.push_back(Effect::SetFixesPeers(config.fix_peers));
        self.effects
            .push_back(Effect::SetLocalRoutes(config.kernel_route.clone()));
        let restart = self.config.reload(config);
        if self.config.guard {
            self.ports.retry_lost(now);
        }
        if !restart.is_empty() {
            warn!(
                "{} changed in the configuration: this takes effect only when the instance is loaded again",
                restart.join(", ")
            );
        }
        info!(
            routes_added = changes.added,
            routes_replaced = changes.replaced,
            routes_deleted = changes.deleted,
            ports_added = added.join(" "),
            ports_changed = changed.join(" "),
            ports_removed = removed.join(" "),
            "the configuration was read again"
        );
    }

    fn await_confirmation(&mut self, now: Instant) {
        if let Some(within) = self.config.confirm {
            self.unconfirmed = Some(now + within);
            let instance = &self.config.instance;
            info!(
                "this load is undone in {} s, unless it is confirmed: `mplsxdp --instance {instance} confirm`",
                within.as_secs()
            );
        }
    }

    /// Unloads if it is time.
    pub(super) fn undo_if_unconfirmed(&mut self, now: Instant) {
        if let Some(within) = self.config.confirm
            && self.unconfirmed.is_some_and(|deadline| deadline <= now)
        {
            self.unconfirmed = None;
            let error = ConfigurationError::Unconfirmed { within };
            self.effects.extend([Effect::Failed(error), Effect::Stop]);
        }
    }

    /// The current role of a port, or its role when its interface appears.
    pub(super) fn wish_of(&self, name: &str) -> Option<Wish> {
        let port = self.ports.number(name).and_then(|number| self.ports.get(number));
        let port = port
            .map(|port| port.wish())
            .filter(|wish| wish.role != Role::ParentOnly);
        port.or_else(|| Some(self.ports.waiting().get(name)?.wish.clone()))
    }

    /// Makes a port a switching one, or one for sending only.
    fn change_port(&mut self, name: &str, wish: Wish) -> RoleChange {
        if self.wish_of(name).is_none_or(|before| before.role == wish.role) {
            return RoleChange::None;
        }
        if let Some(waiting) = self.ports.waiting_mut().get_mut(name) {
            waiting.wish = wish;
            return RoleChange::Done;
        }
        let Some(port) = self.ports.number(name).and_then(|number| self.ports.get(number)) else {
            return RoleChange::None;
        };
        let number = port.number();
        if wish.role == Role::Switching
            && let Some(program_port) = self.ports.program_port(port)
        {
            self.listen_everywhere(program_port.number());
            return RoleChange::Awaits;
        }
        self.set_role(number, wish);
        RoleChange::Done
    }

    fn set_role(&mut self, number: u16, wish: Wish) {
        self.ports.set_role(number, wish, self.lfib.tables_mut());
        // With the role, the MPLS MTU may be another.
        self.republish_next_hops();
        self.fit_local_mtu();
    }

    /// Returns whether there was such a port.
    fn drop_port(&mut self, name: &str, now: Instant) -> bool {
        if self.ports.waiting_mut().remove(name).is_some() {
            return true;
        }
        let port = self.ports.number(name).filter(|&number| {
            let port = self.ports.get(number);
            port.is_some_and(|port| port.wish().role != Role::ParentOnly)
        });
        if let Some(number) = port {
            self.remove_port(number, now);
        }
        port.is_some()
    }

    fn is_down(&self, name: &str) -> bool {
        self.resolver.links().by_name(name).is_some_and(|link| !link.up)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RoleChange {
    None,
    Awaits,
    Done,
}

impl Load {
    /// Whether it continues when the domains of VRFs are filled.
    pub fn awaits_domains(&self) -> bool {
        matches!(self.stage, Stage::FillingDomains)
    }

    /// When it takes over from a dead process at the latest, if that is what it waits for.
    pub fn takeover_bound(&self) -> Option<Instant> {
        match self.stage {
            Stage::Resolving(bound) => Some(bound),
            _ => None,
        }
    }

    pub fn begin_takeover(&mut self) {
        self.stage = Stage::TakingOver;
    }

    pub fn end_takeover(&mut self) {
        if matches!(self.stage, Stage::TakingOver) {
            self.stage = Stage::Finishing;
        }
    }

    fn new(mut config: Config, is_start: bool) -> Self {
        Self {
            stage: Stage::Beginning,
            is_start,
            old: Vec::new(),
            new: Vec::new(),
            absent: HashMap::new(),
            saved: Vec::new(),
            added: Vec::new(),
            changed: Vec::new(),
            removed: Vec::new(),
            routes: Arc::new(mem::take(&mut config.routes)),
            changes: Changes::default(),
            reported: Reported::default(),
            config,
        }
    }

    fn taking(&mut self) -> Stage {
        Stage::Taking(mem::take(&mut self.new).into(), None)
    }

    /// Names the route for which a change was refused.
    fn route_error(&self, source: ChangeError) -> ConfigurationError {
        let route = source.index().and_then(|index| self.routes.get(index));
        let route = route.map_or_else(
            || "the configured routes".to_owned(),
            |route| format!("the configured route `{route}`"),
        );
        ConfigurationError::Route { route, source }
    }
}

fn not_taken_over(reason: &str) {
    error!("the new configuration is refused, and nothing was changed: {reason}; correct it and send SIGHUP again");
}

fn wish(port: &PortConfig) -> Wish {
    let role = if port.tx_only { Role::TxOnly } else { Role::Switching };
    Wish {
        mpls: port.mpls,
        accept_labels: port.accept_labels,
        mpls_mtu: port.mpls_mtu,
        cross_connect: port.cross_connect.as_deref().map(Arc::from),
        dscp_map: port.dscp_map,
        tc_map: port.tc_map,
        ..Wish::new(role, port.checksum)
    }
}

//! Ports that are added, removed and changed. Making an interface a port takes several effects, each of which is
//! awaited: it is surveyed, the program is attached, and sockets for exceptions are opened. There is one such operation
//! at a time; the others queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use mplsxdp_common::abi::VlanTags;
use tracing::{error, info, warn};

use super::load::Load;
use super::routes::{Reported, RouteChange};
use super::{Call, Effect, NotPutBack, PortEvent, ProgramIds, Switch};
use crate::control::api::{Changes, Refusal, Reply, Request};
use crate::dataplane::Tables;
use crate::dataplane::mpls_mtu::MplsMtu;
use crate::dataplane::port::Interference;
use crate::dataplane::port_change::PortChange;
use crate::error;
use crate::lfib::ChangeError;
use crate::ports::attach::{Attached, Order, Survey};
use crate::ports::preflight::Facts;
use crate::ports::programs::Finding;
use crate::ports::{Plan, PortError, Role, SubInterfacePlan, Wish, mpls_mtu, sub_interface};

/// A change of ports.
#[derive(Default, Debug)]
pub(super) struct Work {
    current: Option<Operation>,
    queue: VecDeque<Operation>,
    /// What the current operation waits for, if it is about routes.
    pub route_change: Option<RouteChange>,
    /// Ports have the program of a dead process.
    pub awaits_takeover: bool,
    /// Requests to add ports whose programs are being put back, by their numbers.
    put_backs: HashMap<u16, Vec<Call>>,
}

impl Work {
    /// Whether the current operation continues when the domains of VRFs are filled.
    pub fn awaits_domains(&self) -> bool {
        matches!(&self.current, Some(Operation::Load(load)) if load.awaits_domains())
    }

    /// When the current operation takes over from a dead process at the latest, if that is what it waits for.
    pub fn takeover_bound(&self) -> Option<Instant> {
        match &self.current {
            Some(Operation::Load(load)) => load.takeover_bound(),
            _ => None,
        }
    }

    pub fn begin_takeover(&mut self) {
        if let Some(Operation::Load(load)) = &mut self.current {
            load.begin_takeover();
        }
    }

    pub fn end_takeover(&mut self) {
        if let Some(Operation::Load(load)) = &mut self.current {
            load.end_takeover();
        }
    }

    pub fn is_idle(&self) -> bool {
        self.current.is_none() && self.queue.is_empty()
    }
}

#[derive(Debug)]
pub(super) enum Operation {
    /// Answers a request.
    Call(Call, Option<Adding>),
    /// Tries a waiting port.
    Try(Adding),
    /// Applies a configuration.
    Load(Box<Load>),
}

/// An interface that is becoming a port.
#[derive(Debug)]
pub(super) struct Adding {
    name: String,
    wish: Wish,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Surveying,
    /// The program is being attached to the interface, or to the parent of this sub-interface.
    Attaching(Option<Box<SubInterfacePlan>>),
    /// Sockets for exceptions of this port are being opened on all queues; then it, or this sub-interface of it, is a
    /// switching port.
    Listening(u16, Option<Box<SubInterfacePlan>>),
}

/// The result of a step.
pub(super) enum Progress {
    /// An effect was requested; its result brings the next step.
    Waiting(Adding),
    Done(Result<(), PortError>),
}

impl Progress {
    fn of(result: Result<Adding, PortError>) -> Self {
        match result {
            Ok(adding) => Self::Waiting(adding),
            Err(error) => Self::Done(Err(error)),
        }
    }
}

impl<T: Tables> Switch<T> {
    /// Answers a request about ports when its turn comes.
    pub(super) fn port_request(&mut self, call: Call, now: Instant) {
        self.enqueue(Operation::Call(call, None), now);
    }

    pub(super) fn try_waiting(&mut self, name: &str, now: Instant) {
        if let Some(waiting) = self.ports.waiting().get(name) {
            let adding = Adding {
                name: name.to_owned(),
                wish: waiting.wish.clone(),
                stage: Stage::Surveying,
            };
            self.enqueue(Operation::Try(adding), now);
        }
    }

    pub(super) fn enqueue(&mut self, operation: Operation, now: Instant) {
        self.work.queue.push_back(operation);
        self.go_on_with_ports(now);
    }

    /// Works on the queue until something must be awaited.
    fn go_on_with_ports(&mut self, now: Instant) {
        if let Some(change) = self.work.route_change.take() {
            return self.change_routes(change, now);
        }
        while self.work.current.is_none()
            && let Some(operation) = self.work.queue.pop_front()
        {
            self.work.current = match operation {
                Operation::Call(call, _) => self.begin_call(call, now),
                Operation::Try(adding) => {
                    let Adding { name, wish, .. } = adding;
                    Some(Operation::Try(self.begin_adding(name, wish)))
                }
                Operation::Load(load) => self.load_next(load, now).map(Operation::Load),
            };
            if let Some(change) = self.work.route_change.take() {
                self.change_routes(change, now);
            }
        }
    }

    /// An effect of the current operation was performed.
    pub(super) fn port_event(&mut self, event: PortEvent, now: Instant) {
        self.work.current = match self.work.current.take() {
            Some(Operation::Call(call, Some(adding))) => match self.add_next(adding, event) {
                Progress::Waiting(adding) => Some(Operation::Call(call, Some(adding))),
                Progress::Done(result) => {
                    if result.is_ok() {
                        self.ports_changed(now);
                    }
                    self.answer_port(call, result);
                    None
                }
            },
            Some(Operation::Try(adding)) => {
                let name = adding.name.clone();
                match self.add_next(adding, event) {
                    Progress::Waiting(adding) => Some(Operation::Try(adding)),
                    Progress::Done(result) => {
                        self.tried(&name, result, now);
                        None
                    }
                }
            }
            Some(Operation::Load(load)) => self.load_event(load, event, now).map(Operation::Load),
            other => other,
        };
        self.go_on_with_ports(now);
    }

    /// The routes of the configuration are installed, or were refused.
    pub(super) fn resume_load(&mut self, result: Result<Changes, ChangeError>, reported: Reported, now: Instant) {
        self.work.current = match self.work.current.take() {
            Some(Operation::Load(load)) => self.load_routes(load, result, reported, now).map(Operation::Load),
            other => other,
        };
        self.go_on_with_ports(now);
    }

    /// The domains of the ports' VRFs are filled, or the takeover can begin or is done.
    pub(super) fn go_on_loading(&mut self, now: Instant) {
        self.work.current = match self.work.current.take() {
            Some(Operation::Load(load)) => self.load_next(load, now).map(Operation::Load),
            other => other,
        };
        self.go_on_with_ports(now);
    }

    fn begin_call(&mut self, call: Call, now: Instant) -> Option<Operation> {
        let result = match &call.request {
            Request::AddLink {
                name,
                tx_only,
                accept,
                mpls_mtu,
                dscp_map,
                tc_map,
                checksum,
            } => match self
                .check_name(name)
                .and_then(|()| self.check_mpls_mtu(name, *mpls_mtu))
            {
                Ok(()) => {
                    if let Some(number) = self.lost_port(name, *tx_only) {
                        self.put_back_for(number, call);
                        return None;
                    }
                    let role = if *tx_only { Role::TxOnly } else { Role::Switching };
                    let wish = Wish {
                        accept_labels: *accept,
                        mpls_mtu: *mpls_mtu,
                        dscp_map: *dscp_map,
                        tc_map: *tc_map,
                        ..Wish::new(role, *checksum)
                    };
                    let adding = self.begin_adding(name.clone(), wish);
                    return Some(Operation::Call(call, Some(adding)));
                }
                Err(error) => Err(error),
            },
            Request::DeleteLink { name } => match self.delete_link(name, now) {
                Some(result) => result,
                None => return self.refuse_unknown(call),
            },
            Request::SetLink { name, change } => match self.check_and_set_link(name, *change) {
                Some(result) => result,
                None => return self.refuse_unknown(call),
            },
            Request::AddCrossConnect { .. } | Request::DeleteCrossConnect { .. } => {
                self.change_cross_connect(call);
                return None;
            }
            _ => Ok(()),
        };
        self.answer_port(call, result);
        None
    }

    fn answer_port(&mut self, call: Call, result: Result<(), PortError>) {
        let (Request::AddLink { name, .. } | Request::DeleteLink { name } | Request::SetLink { name, .. }) =
            call.request
        else {
            return;
        };
        if result.is_ok() {
            self.save_port(&name);
        }
        let result = match result {
            Ok(()) => Ok(Reply::Done),
            Err(error) => Err(Refusal::LinkRefused {
                ifname: name,
                reason: error::report(&error),
            }),
        };
        self.reply(call.token, call.peer, result);
    }

    fn refuse_unknown(&mut self, call: Call) -> Option<Operation> {
        if let Request::DeleteLink { name } | Request::SetLink { name, .. } = &call.request {
            let refusal = self.no_such_link(name);
            self.reply(call.token, call.peer, Err(refusal));
        }
        None
    }

    /// `None` if there is no such port.
    fn delete_link(&mut self, name: &str, now: Instant) -> Option<Result<(), PortError>> {
        if self.ports.waiting().get(name).is_some() {
            let removal = self.ports.check_uncrossed(name);
            if removal.is_ok() {
                self.ports.waiting_mut().remove(name);
            }
            return Some(removal);
        }
        let number = self.ports.number(name)?;
        if self.local.as_ref().is_some_and(|pair| pair.port_name() == name) {
            return Some(Err(PortError::Local { name: name.into() }));
        }
        let removal = self.ports.check_removal(number);
        if removal.is_ok() {
            self.remove_port(number, now);
        }
        Some(removal)
    }

    /// `None` if there is no such port.
    fn check_and_set_link(&mut self, name: &str, change: PortChange) -> Option<Result<(), PortError>> {
        let port = self.ports.number(name).and_then(|number| self.ports.get(number));
        if let (Some(port), Some(mpls_mtu)) = (port, change.mpls_mtu)
            && let Err(error) = port.check_mpls_mtu(mpls_mtu)
        {
            return Some(Err(error));
        }
        self.set_link(name, change)
    }

    /// The same with an MPLS MTU that may be larger than what can be sent at present. `None` if there is no such port.
    pub(super) fn set_link(&mut self, name: &str, change: PortChange) -> Option<Result<(), PortError>> {
        if let Some(waiting) = self.ports.waiting_mut().get_mut(name)
            && (waiting.wish.role == Role::Switching || !change.is_about_labels())
        {
            waiting.wish.change(change);
            return Some(Ok(()));
        }
        let number = self.ports.number(name)?;
        let changed = self.ports.change(number, change, self.lfib.tables_mut());
        if let Ok(true) = changed {
            self.republish_next_hops();
            self.fit_local_mtu();
        }
        Some(changed.map(drop))
    }

    /// Checks that an interface with this name is not part of the local pair.
    fn check_name(&self, name: &str) -> Result<(), PortError> {
        let Some(pair) = &self.local else { return Ok(()) };
        if pair.name() == name {
            return Err(PortError::LocalNear { name: name.into() });
        }
        let found = sub_interface::find(name, self.resolver.links()).ok().flatten();
        match found.is_some_and(|found| found.parent == pair.ifindex()) {
            true => Err(PortError::OnLocalNear),
            false => Ok(()),
        }
    }

    /// Checks the MPLS MTU of an interface that is to become a port; one that does not exist is refused later.
    fn check_mpls_mtu(&self, name: &str, mpls_mtu: MplsMtu) -> Result<(), PortError> {
        let links = self.resolver.links();
        let (ifindex, tags) = match sub_interface::find(name, links) {
            Ok(Some(found)) => (Some(found.parent), found.tags.to_wire()),
            Ok(None) | Err(_) => (links.by_name(name).map(|link| link.ifindex), VlanTags::NONE),
        };
        match ifindex.and_then(|ifindex| links.get(ifindex)) {
            Some(link) => mpls_mtu::check(name, mpls_mtu, mpls_mtu::largest_redirected(link, tags)),
            None => Ok(()),
        }
    }

    /// Removes a port; traffic leaves it first.
    pub(super) fn remove_port(&mut self, number: u16, now: Instant) {
        self.ports.retire(number);
        self.republish_next_hops();
        self.ports.remove(number, self.lfib.tables_mut());
        self.feeds.interfaces_may_have_changed();
        self.effects.push_back(Effect::KeepPorts);
        self.follow_sub_interfaces(now);
    }

    /// A port that was tried is as before, with its routes, or continues to wait.
    fn tried(&mut self, name: &str, result: Result<(), PortError>, now: Instant) {
        match result {
            Ok(()) => {
                info!(port = name, "its interface has appeared: it is a port now");
                self.ports_changed(now);
            }
            Err(error) => {
                let reason = error::report(&error);
                if self.ports.waiting_mut().failed(name, reason.clone(), now) {
                    warn!(port = name, "still waits: {reason}");
                }
            }
        }
    }

    /// Begins to make an interface a port.
    pub(super) fn begin_adding(&mut self, name: String, wish: Wish) -> Adding {
        self.survey(&name);
        Adding {
            name,
            wish,
            stage: Stage::Surveying,
        }
    }

    pub(super) fn survey(&mut self, name: &str) {
        let own = self.ports.interfaces(None).into_iter().map(|(ifindex, _)| ifindex);
        self.effects.push_back(Effect::Survey {
            name: name.to_owned(),
            own: own.collect(),
        });
    }

    /// Takes the next step in making an interface a port. One that waited no longer waits at the end.
    pub(super) fn add_next(&mut self, adding: Adding, event: PortEvent) -> Progress {
        let name = adding.name.clone();
        let progress = match (adding.stage, event) {
            (Stage::Surveying, PortEvent::Surveyed(survey)) => self.surveyed(adding.name, adding.wish, survey),
            (Stage::Attaching(plan), PortEvent::Attached(order, result)) => {
                self.attached(adding.name, adding.wish, plan, &order, result)
            }
            (Stage::Listening(number, plan), PortEvent::Listening(result)) => match (result, plan) {
                (Err(error), _) => Progress::Done(Err(error)),
                (Ok(()), None) => self.promote(number, adding.wish),
                (Ok(()), Some(plan)) => self.add_sub_interface(&adding.name, adding.wish, &plan),
            },
            (stage, _) => Progress::Waiting(Adding { stage, ..adding }),
        };
        match &progress {
            Progress::Waiting(_) => {}
            Progress::Done(Ok(())) => {
                self.ports.waiting_mut().remove(&name);
                self.follow_vrfs(&[]);
            }
            Progress::Done(Err(_)) => {
                self.follow_vrfs(&[]);
                self.effects.push_back(Effect::KeepPorts);
            }
        }
        progress
    }

    fn surveyed(&mut self, name: String, wish: Wish, survey: Result<Survey, PortError>) -> Progress {
        let plan = survey.and_then(|survey| self.ports.plan(&name, survey));
        // Until the domain of its VRF is filled, packets without a label are left to the kernel there.
        self.follow_vrfs(&[&name]);
        Progress::of(match plan {
            Err(error) => Err(error),
            Ok(Plan::Attach(facts)) => self.attach(name, wish, facts, None),
            Ok(Plan::Promote(number)) => match self.ports.check_promotion(number, &wish) {
                Err(error) => Err(error),
                Ok(()) if wish.role == Role::Switching => Ok(self.listen(name, wish, number, None)),
                Ok(()) => return self.promote(number, wish),
            },
            Ok(Plan::SubInterface(mut plan)) => {
                for note in &plan.notes {
                    warn!(port = name, "{note}");
                }
                match plan.parent.take() {
                    Some(facts) => self.attach(name, wish, facts, Some(plan)),
                    None => return self.stand_on_parent(name, wish, plan),
                }
            }
        })
    }

    fn attach(
        &mut self,
        name: String,
        wish: Wish,
        facts: Box<Facts>,
        plan: Option<Box<SubInterfacePlan>>,
    ) -> Result<Adding, PortError> {
        let role = match plan {
            Some(_) => Wish::new(Role::ParentOnly, wish.checksum),
            None => wish.clone(),
        };
        let order = self.ports.order(facts, role)?;
        self.effects.push_back(Effect::Attach(Box::new(order)));
        let stage = Stage::Attaching(plan);
        Ok(Adding { name, wish, stage })
    }

    fn attached(
        &mut self,
        name: String,
        wish: Wish,
        plan: Option<Box<SubInterfacePlan>>,
        order: &Order,
        result: Result<Attached, PortError>,
    ) -> Progress {
        let links = self.resolver.links();
        let tables = self.lfib.tables_mut();
        self.work.awaits_takeover |= result.as_ref().is_ok_and(|attached| attached.awaits_takeover);
        let added = result.and_then(|attached| self.ports.attached(order, &attached, links, tables));
        match (added, plan) {
            (Err(error), _) => Progress::Done(Err(error)),
            (Ok(()), None) => Progress::Done(Ok(())),
            (Ok(()), Some(plan)) => self.stand_on_parent(name, wish, plan),
        }
    }

    /// The parent of a sub-interface has its program.
    fn stand_on_parent(&mut self, name: String, wish: Wish, plan: Box<SubInterfacePlan>) -> Progress {
        let parent = self.ports.parent_of(&plan);
        let parent = parent.ok_or_else(|| PortError::gone(&plan.parent_name));
        let parent = parent.and_then(|parent| self.ports.check_checksum(parent, wish.checksum).map(|()| parent));
        match parent {
            Err(error) => Progress::Done(Err(error)),
            Ok(parent) if wish.role == Role::Switching => {
                Progress::Waiting(self.listen(name, wish, parent, Some(plan)))
            }
            Ok(_) => self.add_sub_interface(&name, wish, &plan),
        }
    }

    fn add_sub_interface(&mut self, name: &str, wish: Wish, plan: &SubInterfacePlan) -> Progress {
        let added = self.ports.add_sub_interface(name, wish, plan, self.lfib.tables_mut());
        if added.is_err()
            && let Some(parent) = self.ports.parent_of(plan)
        {
            self.ports.drop_idle_parent(parent, self.lfib.tables_mut());
        }
        Progress::Done(added)
    }

    fn listen(&mut self, name: String, wish: Wish, number: u16, plan: Option<Box<SubInterfacePlan>>) -> Adding {
        self.listen_everywhere(number);
        let stage = Stage::Listening(number, plan);
        Adding { name, wish, stage }
    }

    /// Opens sockets for exceptions on all queues of a port, which may have been there only for sending.
    pub(super) fn listen_everywhere(&mut self, number: u16) {
        let name: Arc<str> = self.ports.name(number).unwrap_or_default().into();
        self.effects.push_back(Effect::ListenEverywhere { number, name });
    }

    fn promote(&mut self, number: u16, wish: Wish) -> Progress {
        self.ports.set_role(number, wish, self.lfib.tables_mut());
        Progress::Done(Ok(()))
    }

    /// The port with the program of this port, if another process has taken that off.
    fn lost_port(&self, name: &str, tx_only: bool) -> Option<u16> {
        let role = if tx_only { Role::TxOnly } else { Role::Switching };
        let port = self.ports.get(self.ports.number(name)?)?;
        let number = self.ports.program_port(port)?.number();
        let is_meant = port.role() == role || port.role() == Role::Local;
        (is_meant && self.ports.is_program_lost(number)).then_some(number)
    }

    /// Puts a program back for a client that asks for it.
    fn put_back_for(&mut self, number: u16, call: Call) {
        self.work.put_backs.entry(number).or_default().push(call);
        let Some(name) = self.ports.name(number).map(Arc::from) else {
            return;
        };
        if let Some((ifindex, _)) = self.ports.program_mut(number) {
            self.effects.push_back(Effect::PutBack { number, ifindex, name });
        }
    }

    /// Puts back programs of ports that are not in place, with `--guard`. If that fails, it is tried again at growing
    /// intervals. The port stays as it is meanwhile, because frames may still leave there.
    pub(super) fn put_back(&mut self, found: &[Finding], now: Instant) {
        let guard = self.config.guard;
        for finding in found {
            let number = finding.number;
            let Some(name) = self.ports.name(number).map(Arc::from) else {
                continue;
            };
            let Some((ifindex, program)) = self.ports.program_mut(number) else {
                continue;
            };
            if program.is_outdated(finding) {
                continue;
            }
            let Some(interference) = &finding.interference else {
                if program.lost.take().is_some() {
                    info!(port = &*name, "the XDP program is in place again");
                }
                continue;
            };
            if !program.is_due(now) {
                continue;
            }
            program.found = Some(interference.clone());
            if !guard && !program.wanted {
                self.effects.push_back(Effect::LookAtLost { number, ifindex, name });
                continue;
            }
            if program.lost.is_none()
                && let Some(pause) = program.pause(now)
            {
                let what = undone(program.found.as_ref());
                let reason = format!(
                    "another process has {what} again, soon after it was put back: it is put back after a pause of {} s; \
                     labelled frames that arrive here are lost until then",
                    pause.as_millis().div_ceil(1000)
                );
                warn!(port = &*name, "{reason}");
                program.pauses(reason, pause, now);
                continue;
            }
            self.effects.push_back(Effect::PutBack { number, ifindex, name });
        }
    }

    pub(super) fn was_put_back(&mut self, number: u16, result: Result<ProgramIds, NotPutBack>, now: Instant) {
        // A look at what was found does not answer them.
        if result != Err(NotPutBack::Unguarded) {
            for call in self.work.put_backs.remove(&number).unwrap_or_default() {
                self.answer_put_back(call, &result);
            }
        }
        let Some(port) = self.ports.get(number) else { return };
        let (name, role) = (port.name().to_owned(), port.role());
        let Some((_, program)) = self.ports.program_mut(number) else {
            return;
        };
        let what = undone(program.found.as_ref());
        match result {
            Ok(ProgramIds { link_id, program_id }) => {
                program.found = None;
                if program.was_put_back(link_id, program_id, now) {
                    return info!(port = name, link_id, "the XDP program is attached again");
                }
                let hint = match role {
                    Role::Switching | Role::TxOnly => format!("; `mplsxdp link del {name}` removes it for good"),
                    Role::Local | Role::ParentOnly => String::new(),
                };
                warn!(
                    port = name,
                    link_id, "another process has {what}; it is attached again{hint}"
                );
            }
            Err(NotPutBack::Gone) => {}
            Err(NotPutBack::Unguarded) => {
                let add = match role {
                    Role::ParentOnly => String::new(),
                    _ => format!("`mplsxdp link add {name}` puts it back, and "),
                };
                let reason = format!(
                    "another process has {what}: labelled frames that arrive here are lost; {add}`mplsxdp load --guard` \
                     does so by itself"
                );
                if program.failed(reason.clone(), false, now) {
                    error!(port = name, "{reason}");
                }
            }
            Err(NotPutBack::Refused { reason, held }) => {
                let reason = format!("another process has {what}, and it cannot be put back yet: {reason}");
                if program.failed(reason.clone(), held, now) {
                    warn!(
                        port = name,
                        "{reason}; labelled frames that arrive here are lost until then"
                    );
                }
            }
        }
    }

    fn answer_put_back(&mut self, call: Call, result: &Result<ProgramIds, NotPutBack>) {
        let Request::AddLink { name, .. } = &call.request else {
            return;
        };
        let reason = match result {
            Ok(_) => return self.answer_port(call, Ok(())),
            Err(NotPutBack::Refused { reason, .. }) => reason.clone(),
            Err(NotPutBack::Gone | NotPutBack::Unguarded) => error::report(&PortError::gone(name)),
        };
        let ifname = name.clone();
        self.reply(call.token, call.peer, Err(Refusal::LinkRefused { ifname, reason }));
    }

    /// The program for large frames is on a port, or it is no longer a port.
    pub(super) fn replaced(&mut self, number: u16, result: Result<ProgramIds, String>) {
        match result {
            Ok(ProgramIds { link_id, program_id }) => {
                if let Some((_, program)) = self.ports.program_mut(number) {
                    (program.link_id, program.program_id) = (link_id, program_id);
                }
            }
            Err(error) => {
                self.ports.not_replaced(number, &error, self.lfib.tables_mut());
                self.effects.push_back(Effect::KeepPorts);
                self.republish_next_hops();
            }
        }
    }
}

/// What another process has done, for "another process has ...".
fn undone(found: Option<&Interference>) -> String {
    match found {
        Some(Interference::Replaced { other, name }) => {
            let name = name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            format!("replaced the XDP program of this port by program {other}{name}")
        }
        Some(Interference::Detached) | None => "detached the XDP program from this port".to_owned(),
    }
}

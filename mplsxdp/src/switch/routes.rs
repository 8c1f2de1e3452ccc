//! Changes of routes. They are made one after the other, each in bounded steps, and are all or nothing.
//!
//! A change with new next hops waits, and lets others pass, until the kernel has answered how they are reached. So the
//! state of the neighbours is known from the first frame on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::owners::{Settled, Settling, about_given, concerns_no_other};
use super::reachability::{Survey, Waiting};
use super::{Effect, Switch, Token};
use crate::control::Peer;
use crate::control::api::{Changed, Changes, Refusal, Reply};
use crate::dataplane::{GracePeriod, Tables};
use crate::kernel;
use crate::lfib::{Budget, Change, ChangeError, Mode, NextHopSearch, Progress, Select};
use crate::neighbour::Lookup;
use crate::rib::Planned;
use crate::route::filter::RouteFilter;
use crate::route::{Description, NextHop, Owner, Route, RouteKey, Source};
use crate::state::Names;

/// How much one input may do to the tables; the rest is done in steps, for which the caller sets the time.
const AT_ONCE: usize = 256;
/// How many next hops are followed in one step.
const FOLLOWED: usize = 64;

/// A change of routes, under way or queued.
#[derive(Debug)]
pub(super) struct RouteChange {
    origin: Origin,
    change: Change,
    stage: Stage,
    /// The owner of the routes.
    source: Source,
    /// What must be true of the routes that it deletes.
    described: Vec<Description>,
    /// The filter of a flush.
    filter: RouteFilter,
    /// It does not wait for further grace periods: if there is no room, it is refused.
    is_last: bool,
    /// Interfaces that were renamed while it was being made, if it is to be saved.
    renamed: Vec<Names>,
}

/// Who requested a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Call {
        token: Token,
        peer: Peer,
        /// Routes that cannot reach their next hops are installed and wait; otherwise they are refused.
        waits: bool,
    },
    /// The configuration at the start: its next hops are followed when everything is installed.
    Start,
    /// The same, once everything is installed: nothing more is changed.
    Started,
    /// The configuration that was read again.
    Reread,
    /// A source that the switch follows.
    Feed(Source),
}

#[derive(Debug)]
enum Stage {
    /// Find new next hops in the routes.
    Search(NextHopSearch),
    /// Find those that are not followed yet, and check that they can be used.
    Sift(Ahead, Sieve),
    /// Take them ahead of their routes.
    Take(Ahead),
    /// Follow them, and ask the kernel.
    Follow(Ahead),
    LookUp(Ahead, Box<LookUps>),
    /// Check that they lead out of ports, from this one on.
    CheckWays(Ahead, usize, HashMap<IpAddr, String>),
    Begin(Ahead),
    /// Plan its effect on other owners.
    Settle(Ahead, Box<Settling>),
    /// The LFIB makes the change.
    Make(Ahead, Option<Box<Planned>>),
    /// The LFIB has made the change, and the RIB follows.
    Commit(Ahead, Box<Planned>, Changes),
    /// Release the next hops that were taken ahead.
    LetGo(Ahead, Result<Changes, NotChanged>),
    /// Follow the next hops that came into use, and forget those that went out of use.
    FollowAll(Ahead, Result<Changes, NotChanged>),
    /// Name the waiting routes.
    Survey(Ahead, Changes, Box<Survey>),
}

impl Stage {
    fn first(change: &Change, origin: Origin) -> Self {
        match (change, origin) {
            (Change::Install { .. }, Origin::Call { .. } | Origin::Started | Origin::Reread)
            | (Change::Settle { .. }, Origin::Feed(_)) => Self::Search(NextHopSearch::default()),
            _ => Self::Begin(Ahead::default()),
        }
    }
}

/// New next hops, taken ahead of their routes.
#[derive(Default, Debug)]
struct Ahead {
    search: NextHopSearch,
    /// Those that were not followed before, each with the index of its first route.
    fresh: Vec<(usize, NextHop)>,
}

/// What was looked at, and how many next hops that are.
#[derive(Default, Debug)]
struct Sieve {
    at: usize,
    /// How many ends of pseudowires were checked.
    ends: usize,
    seen: HashSet<NextHop>,
}

/// Waits for the kernel's answers about next hops, one after the other.
#[derive(Default, Debug)]
struct LookUps {
    /// How many of the new next hops have their answers.
    at: usize,
    /// At the start: the address from which on answers may be outstanding.
    from: Option<IpAddr>,
    /// The address whose answer is waited for.
    awaited: Option<IpAddr>,
    /// The addresses for which the kernel could not be asked.
    failed: HashMap<IpAddr, String>,
}

/// Why a change was refused.
#[derive(Debug)]
pub(super) enum NotChanged {
    Refused(Refusal),
    Change(ChangeError),
}

/// All changes of routes.
#[derive(Default, Debug)]
pub(super) struct RouteChanges {
    /// The first one is in progress.
    queue: VecDeque<RouteChange>,
    looking_up: Vec<RouteChange>,
    /// Changes that may find room when a grace period is over.
    awaiting_room: Vec<(GracePeriod, RouteChange)>,
}

impl RouteChanges {
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// A change is in the tables in part.
    pub fn is_half_made(&self) -> bool {
        let first = self.queue.front();
        first.is_some_and(|change| matches!(change.stage, Stage::Make(..) | Stage::Commit(..)))
    }
}

impl RouteChange {
    pub fn new(origin: Origin, change: Change) -> Self {
        Self {
            stage: Stage::first(&change, origin),
            source: match &change {
                Change::Install { owner, .. } => owner.source(),
                _ => Source::default(),
            },
            origin,
            change,
            filter: RouteFilter::default(),
            described: Vec::new(),
            is_last: false,
            renamed: Vec::new(),
        }
    }

    /// A change of the routes of this source.
    pub fn of(origin: Origin, source: Source, change: Change) -> Self {
        Self {
            source,
            ..Self::new(origin, change)
        }
    }

    /// Deletes the routes of a source for which `select` is true; for installed ones, that is `filter`.
    pub fn flush(origin: Origin, source: Source, filter: RouteFilter, select: Select) -> Self {
        Self {
            source,
            filter,
            ..Self::new(origin, Change::Flush(Arc::new(select)))
        }
    }

    /// Deletes routes of a source that exist and match their descriptions.
    pub fn delete(origin: Origin, source: Source, mut described: Vec<Description>) -> Self {
        let keys = described.iter().map(|described| described.key).collect();
        described.retain(|described| !described.is_key());
        Self {
            source,
            described,
            ..Self::new(origin, Change::Delete(Arc::new(keys)))
        }
    }

    /// Routes that a followed source has, and routes that it no longer has.
    pub fn follow(source: Source, routes: Vec<(Owner, Route)>, gone: Vec<RouteKey>) -> Self {
        let (routes, deleted) = (Arc::new(routes), Arc::new(gone));
        Self::of(Origin::Feed(source), source, Change::Settle { routes, deleted })
    }

    /// Follows the next hops of the routes that the switch started with.
    pub fn started(routes: Arc<Vec<Route>>) -> Self {
        let (mode, owner) = (Mode::Replace, Owner::Config);
        Self::new(Origin::Started, Change::Install { mode, owner, routes })
    }

    fn routes(&self) -> Arc<Vec<Route>> {
        match &self.change {
            Change::Install { routes, .. } => Arc::clone(routes),
            Change::Settle { .. } | Change::Delete(_) | Change::Flush(_) => Arc::default(),
        }
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    pub fn source(&self) -> Source {
        self.source
    }

    pub fn change(&self) -> &Change {
        &self.change
    }

    pub fn take_renamed(&mut self) -> Vec<Names> {
        mem::take(&mut self.renamed)
    }

    fn waits(&self) -> bool {
        !matches!(self.origin, Origin::Call { waits: false, .. })
    }
}

impl<T: Tables> Switch<T> {
    /// Makes a change when its turn comes. A small one is made at once.
    pub(super) fn change_routes(&mut self, change: RouteChange, now: Instant) {
        self.changes.queue.push_back(change);
        self.work_on_routes(&mut Budget::new(AT_ONCE, &mut || false), now);
    }

    /// Works on changes of routes until there is nothing to do or the budget is spent.
    pub(super) fn work_on_routes(&mut self, budget: &mut Budget<'_>, now: Instant) {
        while budget.is_left() && self.lfib.publish_step(budget) && !self.changes.is_idle() {
            self.give_piece();
            let Some(mut change) = self.changes.queue.pop_front() else {
                break;
            };
            let stage = mem::replace(&mut change.stage, Stage::Begin(Ahead::default()));
            match self.next_stage(&mut change, stage, budget, now) {
                Next::Stage(Stage::LookUp(ahead, look_ups)) if look_ups.awaited.is_some() => {
                    change.stage = Stage::LookUp(ahead, look_ups);
                    self.changes.looking_up.push(change);
                }
                Next::Stage(stage) => {
                    change.stage = stage;
                    self.changes.queue.push_front(change);
                }
                Next::Again => {
                    let period = self.lfib.reclaiming();
                    let again = RouteChange {
                        is_last: true,
                        stage: Stage::first(&change.change, change.origin),
                        ..change
                    };
                    match period {
                        Some(period) => self.changes.awaiting_room.push((period, again)),
                        None => self.changes.queue.push_front(again),
                    }
                }
                Next::Done(result, reported) => {
                    self.route_change_done(&change, result, reported, now);
                    // This may be the last user of a million routes.
                    self.effects.push_back(Effect::Drop(Box::new(change)));
                }
            }
        }
        self.give_piece();
    }

    /// Works on one stage.
    fn next_stage(&mut self, change: &mut RouteChange, stage: Stage, budget: &mut Budget<'_>, now: Instant) -> Next {
        Next::Stage(match stage {
            Stage::Search(mut search) => match self.lfib.search(&mut search, &change.change, budget) {
                Ok(false) => Stage::Search(search),
                Ok(true) => {
                    let fresh = Vec::new();
                    Stage::Sift(Ahead { search, fresh }, Sieve::default())
                }
                Err(error) => return Self::refused(change, error),
            },
            Stage::Sift(mut ahead, mut sieve) => match self.sift(&mut ahead, &mut sieve, change.waits(), budget) {
                Ok(true) => Stage::Take(ahead),
                Ok(false) => Stage::Sift(ahead, sieve),
                Err(refusal) => return Next::Done(Err(NotChanged::Refused(refusal)), Reported::default()),
            },
            Stage::Take(mut ahead) => match self.lfib.take_ahead(&mut ahead.search, budget) {
                true => Stage::Follow(ahead),
                false => Stage::Take(ahead),
            },
            Stage::Follow(ahead) => {
                if !self.follow_some_next_hops(budget, now) {
                    return Next::Stage(Stage::Follow(ahead));
                }
                Stage::LookUp(ahead, Box::default())
            }
            Stage::LookUp(ahead, mut look_ups) => {
                let is_started = change.origin == Origin::Started;
                match self.await_answers(&ahead, &mut look_ups, is_started, budget) {
                    false => Stage::LookUp(ahead, look_ups),
                    true if is_started => Stage::Survey(ahead, Changes::default(), Box::default()),
                    true if change.waits() => Stage::Begin(ahead),
                    true => Stage::CheckWays(ahead, 0, look_ups.failed),
                }
            }
            Stage::CheckWays(ahead, mut at, failed) => {
                while let Some((index, next_hop)) = ahead.fresh.get(at) {
                    if let Some(reason) = self.obstacle_of_way(next_hop, &failed) {
                        let refusal = unreachable(*index, reason);
                        return Next::Stage(Stage::LetGo(ahead, Err(NotChanged::Refused(refusal))));
                    }
                    at += 1;
                    if !budget.spend(1) {
                        return Next::Stage(Stage::CheckWays(ahead, at, failed));
                    }
                }
                Stage::Begin(ahead)
            }
            Stage::Begin(ahead) if let Err(refusal) = self.check_described(change.source, &change.described) => {
                return Next::done(ahead, Err(NotChanged::Refused(refusal)));
            }
            Stage::Begin(ahead) if concerns_no_other(&self.rib, &self.lfib, change.source, &change.change) => {
                self.make(ahead, change.change.clone(), None)
            }
            Stage::Begin(ahead) => Stage::Settle(ahead, Box::default()),
            Stage::Settle(ahead, mut settling) => {
                let (rib, lfib) = (&self.rib, &self.lfib);
                match settling.step(rib, lfib, change.source, &change.change, &change.filter, budget) {
                    Ok(false) => Stage::Settle(ahead, settling),
                    Ok(true) => {
                        let Settled {
                            change,
                            planned,
                            remains,
                        } = settling.settled();
                        self.effects.push_back(Effect::Drop(remains));
                        self.make(ahead, change, Some(planned))
                    }
                    Err(error) => {
                        self.effects.push_back(Effect::Drop(settling));
                        Stage::LetGo(ahead, Err(NotChanged::Change(error)))
                    }
                }
            }
            Stage::Make(ahead, planned) => match self.step_lfib(budget) {
                Progress::More => Stage::Make(ahead, planned),
                Progress::Finished(finished) => {
                    self.effects.push_back(Effect::Drop(finished.remains));
                    // First; otherwise newer frames would leave before those that wait.
                    self.effects.push_back(Effect::RetryHeld);
                    self.tell_routes(finished.made);
                    match planned {
                        None => {
                            let result = finished.result.map(count).map_err(NotChanged::Change);
                            if let Ok(changes) = &result {
                                self.save_change(change, *changes, finished.deleted);
                            }
                            Stage::LetGo(ahead, result)
                        }
                        Some(planned) => match about_given(&planned, finished.result) {
                            Ok(changes) => Stage::Commit(ahead, planned, count(changes)),
                            Err(error) => {
                                self.effects.push_back(Effect::Drop(planned));
                                Stage::LetGo(ahead, Err(NotChanged::Change(error)))
                            }
                        },
                    }
                }
            },
            Stage::Commit(ahead, mut planned, changes) => {
                match self
                    .rib
                    .commit_step(&mut planned, &mut |operations| budget.spend(operations))
                {
                    false => Stage::Commit(ahead, planned, changes),
                    true => {
                        self.save_change(change, changes, Arc::new(mem::take(&mut planned.unnamed)));
                        self.effects.push_back(Effect::Drop(planned));
                        Stage::LetGo(ahead, Ok(changes))
                    }
                }
            }
            Stage::LetGo(mut ahead, result) => match self.lfib.let_go(&mut ahead.search, budget) {
                true if change.origin == Origin::Start => return Next::done(ahead, result),
                true => Stage::FollowAll(ahead, result),
                false => Stage::LetGo(ahead, result),
            },
            Stage::FollowAll(ahead, result) => {
                if !self.follow_some_next_hops(budget, now) {
                    return Next::Stage(Stage::FollowAll(ahead, result));
                }
                match result {
                    Ok(changes) if change.waits() && matches!(change.change, Change::Install { .. }) => {
                        Stage::Survey(ahead, changes, Box::default())
                    }
                    Err(NotChanged::Change(error)) => return Self::refused(change, error),
                    result => return Next::done(ahead, result),
                }
            }
            Stage::Survey(ahead, changes, mut survey) => {
                match self.survey_step(&mut survey, &change.routes(), budget) {
                    true => return Next::surveyed(ahead, changes, *survey),
                    false => Stage::Survey(ahead, changes, survey),
                }
            }
        })
    }

    /// The LFIB goes on with a change, and the ports follow it before its old slots can become free.
    fn step_lfib(&mut self, budget: &mut Budget<'_>) -> Progress {
        let progress = self.lfib.step(budget);
        self.follow_pseudowires();
        progress
    }

    /// Begins a change in the LFIB. `planned` is the RIB's plan for when it is made.
    fn make(&mut self, ahead: Ahead, change: Change, planned: Option<Box<Planned>>) -> Stage {
        match self.lfib.begin(change) {
            Ok(()) => Stage::Make(ahead, planned),
            // Changes come here one after the other.
            Err(_) => Stage::LetGo(ahead, Err(NotChanged::Change(ChangeError::Busy))),
        }
    }

    /// Applies new interface names, by the old ones, to the routes whose `dev` they are.
    pub(super) fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        self.lfib.rename_devices(names);
        self.rib.rename_devices(names);
        for change in &mut self.changes.queue {
            match &mut change.stage {
                Stage::Settle(_, settling) => settling.rename_devices(names),
                Stage::Make(_, Some(planned)) | Stage::Commit(_, planned, _) => planned.rename_devices(names),
                Stage::Make(_, None) => {}
                _ => continue,
            }
            if self.saving.is_on() {
                change.renamed.push(names.clone());
            }
        }
        self.save_names(names);
    }

    /// Continues to look for the next hops of a search that are not followed yet. Unless they may wait, each that names
    /// its interface must be usable. Returns whether all are found.
    fn sift(
        &self,
        ahead: &mut Ahead,
        sieve: &mut Sieve,
        waits: bool,
        budget: &mut Budget<'_>,
    ) -> Result<bool, Refusal> {
        if !waits && !self.check_ends(ahead.search.ends(), &mut sieve.ends, budget)? {
            return Ok(false);
        }
        while let Some((index, next_hop, backup)) = ahead.search.found(sieve.at) {
            for next_hop in std::iter::once(next_hop).chain(backup) {
                if self.lfib.next_hops().is_in_use(next_hop) || !sieve.seen.insert(next_hop.clone()) {
                    continue;
                }
                let obstacle = if waits { None } else { self.obstacle_of_device(next_hop) };
                if let Some(reason) = obstacle {
                    return Err(unreachable(index, reason));
                }
                ahead.fresh.push((index, next_hop.clone()));
            }
            sieve.at += 1;
            if !budget.spend(2) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on until an answer of the kernel about one of the new next hops is outstanding, or at the start about any
    /// next hop. Returns whether there is none.
    fn await_answers(&self, ahead: &Ahead, look_ups: &mut LookUps, is_started: bool, budget: &mut Budget<'_>) -> bool {
        look_ups.awaited = None;
        if is_started {
            let from = look_ups.from.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            look_ups.from = self.resolver.asked(from);
            look_ups.awaited = look_ups.from;
            return look_ups.awaited.is_none();
        }
        while let Some((_, next_hop, backup)) = ahead.search.found(look_ups.at) {
            let addresses = std::iter::once(next_hop).chain(backup);
            let mut addresses = addresses.filter_map(|next_hop| next_hop.via.address());
            look_ups.awaited = addresses.find(|&address| self.resolver.is_asking(address));
            if look_ups.awaited.is_some() {
                return false;
            }
            look_ups.at += 1;
            if !budget.spend(1) {
                return ahead.search.found(look_ups.at).is_none();
            }
        }
        true
    }

    /// Follows some of the next hops that came into use, and forgets those that went out of use. Returns whether all
    /// are done.
    fn follow_some_next_hops(&mut self, budget: &mut Budget<'_>, now: Instant) -> bool {
        let some = self.lfib.take_some_next_hop_changes(FOLLOWED);
        let all = some.len() < FOLLOWED;
        budget.spend(4 * some.len());
        self.follow_next_hop_changes(some, now);
        all
    }

    /// There may be room later, or already: a grace period may have ended since there was none.
    fn refused(change: &RouteChange, error: ChangeError) -> Next {
        match error {
            ChangeError::Full { .. } if !change.is_last => Next::Again,
            error => Next::Done(Err(NotChanged::Change(error)), Reported::default()),
        }
    }

    pub(super) fn looked_up(&mut self, address: IpAddr, answers: Vec<Result<Lookup, kernel::Error>>, now: Instant) {
        let answer = self.choose(answers);
        if let Err(error) = &answer {
            warn!(%address, %error, "cannot look up the way to a next hop");
        }
        let failure = answer.as_ref().err().map(ToString::to_string);
        let mut actions = Vec::new();
        self.resolver.lookup_done(address, answer.ok(), now, &mut actions);
        self.perform(actions);
        if self.resolver.is_asking(address) {
            return;
        }
        if let Some(failure) = failure {
            for change in self.changes.looking_up.iter_mut().chain(&mut self.changes.queue) {
                if let Stage::LookUp(_, look_ups) = &mut change.stage {
                    look_ups.failed.insert(address, failure.clone());
                }
            }
        }
        let awaits_it = |change: &mut RouteChange| matches!(&change.stage, Stage::LookUp(_, look_ups) if look_ups.awaited == Some(address));
        let before = self.changes.queue.len();
        self.changes
            .queue
            .extend(self.changes.looking_up.extract_if(.., awaits_it));
        if self.changes.queue.len() > before {
            self.work_on_routes(&mut Budget::new(AT_ONCE, &mut || false), now);
        }
    }

    /// Continues changes for which there may be room now.
    pub(super) fn retry_for_room(&mut self, now: Instant) {
        let lfib = &self.lfib;
        let due = self
            .changes
            .awaiting_room
            .extract_if(.., |(period, _)| lfib.is_reclaimed(*period));
        let due: Vec<_> = due.map(|(_, change)| change).collect();
        if !due.is_empty() {
            self.changes.queue.extend(due);
            self.work_on_routes(&mut Budget::new(AT_ONCE, &mut || false), now);
        }
    }

    fn route_change_done(
        &mut self,
        change: &RouteChange,
        result: Result<Changes, NotChanged>,
        reported: Reported,
        now: Instant,
    ) {
        // At the start, the sources have nothing installed yet, except what was restored for them.
        if result.is_ok() && !matches!(change.origin, Origin::Feed(_) | Origin::Start) {
            self.look_at_changed(change.source, &change.change);
        }
        let (token, peer, waits) = match change.origin {
            Origin::Call { token, peer, waits } => (token, peer, waits),
            Origin::Feed(Source::Frr) => {
                if let Err(reason) = &result {
                    self.frr_pseudowires_refused(reason);
                }
                return;
            }
            Origin::Feed(source) => {
                return self.fed(
                    source,
                    result.as_ref().map(|changes| changes.deleted),
                    &change.change,
                    now,
                );
            }
            Origin::Start | Origin::Started | Origin::Reread => {
                let result = match result {
                    Ok(changes) => Ok(changes),
                    Err(NotChanged::Change(error)) => Err(error),
                    // Only changes that do not wait are refused.
                    Err(NotChanged::Refused(_)) => Ok(Changes::default()),
                };
                return self.resume_load(result, reported, now);
            }
        };
        let changes = match result {
            Ok(changes) => changes,
            Err(NotChanged::Refused(refusal)) => return self.reply(token, peer, Err(refusal)),
            Err(NotChanged::Change(error)) => {
                let refusal = self.refusal(&error);
                return self.reply(token, peer, Err(refusal));
            }
        };
        let reply = match reported.waiting {
            Some(waiting) if waits => {
                if waiting.total > 0 {
                    warn!(
                        routes = waiting.total,
                        "routes were installed and wait for their next hops"
                    );
                }
                Reply::Committed(waiting.into_committed(changes))
            }
            _ => Reply::Changed(Changed::from(changes)),
        };
        match reported.leads_here {
            true => {
                let situation = self.situation();
                self.effects.push_back(Effect::ReplyAfterHandover {
                    token,
                    reply,
                    situation,
                });
            }
            false => self.reply(token, peer, Ok(reply)),
        }
    }

    /// The reply to a client whose change the LFIB refused.
    fn refusal(&self, error: &ChangeError) -> Refusal {
        match error {
            ChangeError::Exists { key, .. } => Refusal::RouteExists {
                key: *key,
                route: self
                    .lfib
                    .get(*key)
                    .map(|listed| listed.route.to_string())
                    .unwrap_or_default(),
            },
            ChangeError::Missing { key, .. } => Refusal::NoSuchRoute { key: *key },
            ChangeError::Foreign { key, owner, .. } => Refusal::RouteForeign {
                key: *key,
                owner: owner.to_string(),
            },
            other => Refusal::RouteRefused {
                index: other.index().unwrap_or(0),
                parameter: None,
                reason: other.to_string(),
            },
        }
    }
}

/// What else to say in the reply to a finished change.
#[derive(Default, Debug)]
pub(super) struct Reported {
    pub waiting: Option<Waiting>,
    /// A route leads to this machine.
    pub leads_here: bool,
}

enum Next {
    Stage(Stage),
    /// When there is room.
    Again,
    Done(Result<Changes, NotChanged>, Reported),
}

impl Next {
    fn done(ahead: Ahead, result: Result<Changes, NotChanged>) -> Self {
        let leads_here = ahead.search.leads_here();
        Self::Done(
            result,
            Reported {
                waiting: None,
                leads_here,
            },
        )
    }

    fn surveyed(ahead: Ahead, changes: Changes, survey: Survey) -> Self {
        let leads_here = ahead.search.leads_here();
        Self::Done(
            Ok(changes),
            Reported {
                waiting: Some(survey.waiting),
                leads_here,
            },
        )
    }
}

/// The refusal of a change whose route with this index has a next hop that cannot be used.
pub(super) fn unreachable(index: usize, reason: String) -> Refusal {
    Refusal::RouteRefused {
        index,
        parameter: None,
        reason,
    }
}

pub(super) fn count(changes: crate::lfib::Changes) -> Changes {
    let crate::lfib::Changes {
        added,
        replaced,
        deleted,
    } = changes;
    Changes {
        added: added as u64,
        replaced: replaced as u64,
        deleted: deleted as u64,
    }
}

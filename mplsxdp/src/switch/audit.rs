//! Audits of followed sources: reads the kernel's routes again, and compares them with what is installed for the
//! source. A difference counts only if two readings in a row show it: a route that changed during the first comparison
//! is not a difference.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::feeds::{key_of, route_key};
use super::{Effect, Switch, Token};
use crate::control::Peer;
use crate::control::api::{self, Reply, SyncProblem};
use crate::dataplane::Tables;
use crate::feeds::{Key, Mirror, TtlDefaults};
use crate::lfib::Budget;
use crate::route::{Route, RouteKey, Source};

/// How long after the end of an audit the next one begins without a request.
const INTERVAL: Duration = Duration::from_secs(300);
/// How many differences are named; all of them are counted.
const NAMED: usize = 1000;
/// Differences that are kept from one comparison to the next; all of them are counted.
const KEPT: usize = 4096;
/// The cost of comparing one key, in microseconds or less.
const COMPARED: usize = 3;

/// Everything that the kernel has.
#[derive(Debug)]
pub struct Reading {
    pub mirror: Box<Mirror>,
    pub has_mpls: bool,
    pub ttl: TtlDefaults,
}

/// The client that requested an audit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asker {
    token: Token,
    peer: Peer,
    repair: bool,
}

#[derive(Debug, Default)]
pub(super) struct Audits {
    /// When the next one begins without a request.
    due: Option<Instant>,
    current: Option<Audit>,
    /// Clients that wait for the audit after that.
    next: Vec<Asker>,
}

#[derive(Debug)]
struct Audit {
    askers: Vec<Asker>,
    repair: bool,
    stage: Stage,
    /// The differences of the first reading.
    first: Option<[Differences; 2]>,
}

#[derive(Debug)]
enum Stage {
    /// The kernel is being read.
    Reading,
    Comparing(Box<Comparing>),
    /// The kernel is reporting its routes again.
    Repairing(Vec<api::SyncCheck>),
    /// Everything is reported, and the tables are being updated.
    Following(Vec<api::SyncCheck>),
}

/// What is wrong about a key, what the source has, and what is installed.
type Difference = (SyncProblem, Option<Route>, Option<Route>);

/// The differences of one source. If there are very many, only some are kept, and the others are counted.
#[derive(Debug, Default)]
struct Differences {
    kept: BTreeMap<RouteKey, Difference>,
    /// How many others there are of each problem.
    others: BTreeMap<SyncProblem, u64>,
}

impl Differences {
    fn insert(&mut self, key: RouteKey, difference: Difference) {
        if self.kept.len() < KEPT || self.kept.contains_key(&key) {
            self.kept.insert(key, difference);
        } else {
            *self.others.entry(difference.0).or_default() += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.has_others()
    }

    /// Those that an earlier comparison has found too.
    fn confirmed(mut self, first: &Self) -> Self {
        self.kept
            .retain(|key, difference| first.kept.get(key) == Some(difference));
        for (problem, count) in &mut self.others {
            *count = (*count).min(first.others.get(problem).copied().unwrap_or(0));
        }
        self
    }

    fn count(&self, problem: SyncProblem) -> u64 {
        let kept = self.kept.values().filter(|(other, ..)| *other == problem).count() as u64;
        kept + self.others.get(&problem).copied().unwrap_or(0)
    }

    /// Whether there are some that are not kept.
    fn has_others(&self) -> bool {
        self.others.values().any(|&count| count > 0)
    }
}

#[derive(Debug)]
struct Comparing {
    reading: Reading,
    place: Place,
    checked: [u64; 2],
    /// Differences of the kernel's routes, and of the routing daemon's.
    found: [Differences; 2],
}

/// The progress of a comparison.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Among the keys that the kernel has.
    Read(Option<Key>),
    /// Among the routes that are installed.
    Installed(Option<RouteKey>),
    /// Among the routes on standby.
    Standby(Option<RouteKey>),
    /// Among the routes of the routing daemon.
    Daemon(Option<Key>),
    End,
}

impl Audits {
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.filter(|_| self.current.is_none())
    }

    pub fn schedule(&mut self, now: Instant) {
        self.due = Some(now + INTERVAL);
    }

    /// Whether there is something to do now. `followed`: the tables have everything that the kernel has reported.
    pub fn has_work(&self, followed: bool) -> bool {
        match self.current.as_ref().map(|audit| &audit.stage) {
            Some(Stage::Comparing(_)) => true,
            Some(Stage::Following(_)) => followed,
            Some(Stage::Reading | Stage::Repairing(_)) | None => false,
        }
    }

    /// The kernel has reported everything again.
    pub fn resynced(&mut self) {
        if let Some(Audit { stage, .. }) = &mut self.current
            && let Stage::Repairing(checks) = stage
        {
            *stage = Stage::Following(std::mem::take(checks));
        }
    }
}

impl<T: Tables> Switch<T> {
    /// A client requests an audit.
    pub(super) fn check_sync(&mut self, token: Token, peer: Peer, repair: bool, now: Instant) {
        if self.feeds.is_empty() {
            return self.reply(token, peer, Ok(Reply::SyncChecks(Vec::new())));
        }
        self.audits.next.push(Asker { token, peer, repair });
        self.begin_audit(now);
    }

    pub(super) fn audit_if_due(&mut self, now: Instant) {
        if self.audits.next_deadline().is_some_and(|due| due <= now) {
            self.begin_audit(now);
        }
    }

    fn begin_audit(&mut self, now: Instant) {
        if self.audits.current.is_some() {
            return;
        }
        let askers = std::mem::take(&mut self.audits.next);
        self.audits.schedule(now);
        self.audits.current = Some(Audit {
            // Without a request, it repairs what it finds.
            repair: askers.is_empty() || askers.iter().any(|asker| asker.repair),
            askers,
            stage: Stage::Reading,
            first: None,
        });
        self.effects.push_back(Effect::ReadRoutes);
    }

    /// The answer to [`Effect::ReadRoutes`].
    pub(super) fn routes_read(&mut self, result: Result<Reading, String>, now: Instant) {
        let Some(audit) = &mut self.audits.current else { return };
        match result {
            Ok(reading) => {
                // The kernel does not report a change of these settings.
                self.feeds.set_ttl(reading.ttl, &self.config);
                audit.stage = Stage::Comparing(Box::new(Comparing {
                    reading,
                    place: Place::Read(None),
                    checked: [0; 2],
                    found: Default::default(),
                }));
            }
            Err(error) => {
                warn!(%error, "cannot read the kernel's routes to compare them");
                self.end_audit(Vec::new(), now);
            }
        }
    }

    /// Continues an audit.
    pub(super) fn audit_step(&mut self, budget: &mut Budget<'_>, now: Instant) {
        let Some(audit) = &mut self.audits.current else { return };
        match std::mem::replace(&mut audit.stage, Stage::Reading) {
            Stage::Comparing(mut comparing) => {
                while budget.is_left() && !matches!(comparing.place, Place::End) {
                    self.compare_next(&mut comparing);
                    budget.spend(COMPARED);
                }
                match comparing.place {
                    Place::End => self.compared(*comparing, now),
                    _ => self.set_stage(Stage::Comparing(comparing)),
                }
            }
            Stage::Following(checks) => self.end_audit(checks, now),
            stage => self.set_stage(stage),
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(audit) = &mut self.audits.current {
            audit.stage = stage;
        }
    }

    fn compare_next(&mut self, comparing: &mut Comparing) {
        let follows_kernel = self.feeds.follows(Source::Kernel);
        let follows_daemon = self.feeds.follows(Source::Fpm);
        // A kernel without MPLS has no labels to compare with.
        let compares_labels = follows_daemon && comparing.reading.has_mpls;
        let fresh = &comparing.reading.mirror;
        // Each key of a source is compared once: those that the source has with the others, and then the rest.
        let kernel_has = |key: RouteKey| key_of(key).is_some_and(|key| fresh.route(key).is_some());
        let daemon_has = |key: RouteKey| key_of(key).is_some_and(|key| self.feeds.reported(Source::Fpm, key).is_some());
        let [of_kernel, of_daemon] = &mut comparing.found;
        comparing.place = match comparing.place {
            Place::Read(after) => match fresh.keys_after(after).next() {
                None => Place::Installed(None),
                Some(key) => {
                    if follows_kernel {
                        comparing.checked[0] += 1;
                        self.compare(Source::Kernel, route_key(key), Some(fresh), of_kernel);
                    }
                    if compares_labels
                        && let Key::Label(_) = key
                        && self.feeds.reported(Source::Fpm, key).is_none()
                        && self.own_route(Source::Fpm, route_key(key)).is_none()
                    {
                        of_daemon.insert(route_key(key), (SyncProblem::OnlyKernel, None, None));
                    }
                    Place::Read(Some(key))
                }
            },
            Place::Installed(after) => match self.lfib.next_key(after) {
                None => Place::Standby(None),
                Some((key, owner)) => {
                    match owner.source() {
                        Source::Kernel if follows_kernel && !kernel_has(key) => {
                            self.compare(Source::Kernel, key, Some(fresh), of_kernel);
                        }
                        Source::Fpm if follows_daemon && !daemon_has(key) => {
                            self.compare(Source::Fpm, key, None, of_daemon);
                        }
                        _ => {}
                    }
                    Place::Installed(Some(key))
                }
            },
            Place::Standby(after) => match self.rib.next(after).map(|(key, _)| key) {
                None => Place::Daemon(None),
                Some(key) => {
                    if follows_kernel && !kernel_has(key) && self.own_route(Source::Kernel, key).is_some() {
                        self.compare(Source::Kernel, key, Some(fresh), of_kernel);
                    }
                    if follows_daemon && !daemon_has(key) && self.own_route(Source::Fpm, key).is_some() {
                        self.compare(Source::Fpm, key, None, of_daemon);
                    }
                    Place::Standby(Some(key))
                }
            },
            Place::Daemon(after) => match self.feeds.next_key(Source::Fpm, after) {
                None => Place::End,
                Some(key) => {
                    comparing.checked[1] += 1;
                    let differs = self.compare(Source::Fpm, route_key(key), None, of_daemon);
                    if !differs && compares_labels && matches!(key, Key::Label(_)) && fresh.route(key).is_none() {
                        let installed = self.own_route(Source::Fpm, route_key(key));
                        of_daemon.insert(route_key(key), (SyncProblem::OnlyDaemon, None, installed));
                    }
                    Place::Daemon(Some(key))
                }
            },
            Place::End => Place::End,
        };
    }

    /// Compares the route that a source has for a key, in `mirror` or in the source's own mirror, with its installed or
    /// standby route. Returns whether they differ.
    fn compare(&self, source: Source, key: RouteKey, mirror: Option<&Mirror>, found: &mut Differences) -> bool {
        let wanted = key_of(key).and_then(|key| self.wanted(source, key, mirror));
        let own = self.own_route(source, key);
        let problem = match (&wanted, &own) {
            (None, None) => return false,
            (None, Some(_)) if self.feeds.is_stale(source, key) => return false,
            (None, Some(_)) => SyncProblem::Stale,
            (Some(_), None) => SyncProblem::Missing,
            (Some(wanted), Some(own)) if wanted == own => return false,
            (Some(_), Some(_)) => SyncProblem::Different,
        };
        found.insert(key, (problem, wanted, own));
        true
    }

    /// The route of a source for this key, installed or not.
    pub(super) fn own_route(&self, source: Source, key: RouteKey) -> Option<Route> {
        let installed = self.lfib.owner(key).filter(|owner| owner.source() == source);
        if installed.is_some() {
            return self.lfib.get(key).map(|listed| listed.route);
        }
        let mut standby = self.rib.standby(key).iter();
        let own = standby.find(|(owner, _)| owner.source() == source);
        own.map(|(_, route)| route.clone())
    }

    fn compared(&mut self, comparing: Comparing, now: Instant) {
        let Comparing {
            found,
            checked,
            reading,
            ..
        } = comparing;
        // Dropping a million routes takes a while.
        self.effects.push_back(Effect::Drop(Box::new(reading)));
        let Some(audit) = &mut self.audits.current else { return };
        let found = match audit.first.take() {
            None if found.iter().any(|found| !found.is_empty()) => {
                audit.first = Some(found);
                audit.stage = Stage::Reading;
                return self.effects.push_back(Effect::ReadRoutes);
            }
            None => found,
            Some(first) => {
                let [kernel, daemon] = found;
                let [first_kernel, first_daemon] = first;
                [kernel.confirmed(&first_kernel), daemon.confirmed(&first_daemon)]
            }
        };
        let repair = audit.repair;
        let mut repaired = [false; 2];
        let mut checks = Vec::new();
        for (index, source) in [Source::Kernel, Source::Fpm].into_iter().enumerate() {
            let (Some(found), Some(&checked)) = (found.get(index), checked.get(index)) else {
                continue;
            };
            if !self.feeds.follows(source) {
                continue;
            }
            let installed_wrongly = found.kept.iter().filter(|(_, (problem, ..))| problem.is_repaired());
            let keys: Vec<RouteKey> = installed_wrongly.map(|(key, _)| *key).collect();
            let has_others = found
                .others
                .iter()
                .any(|(problem, &count)| count > 0 && problem.is_repaired());
            let is_repaired = repair && (!keys.is_empty() || has_others);
            if is_repaired {
                if has_others {
                    self.feeds.look_again(source);
                }
                self.feeds.repair(source, keys.into_iter());
            }
            repaired[index] = is_repaired;
            checks.push(sync_check(source, found, checked, is_repaired));
        }
        match repaired {
            // The mirror of the kernel may be wrong. What the daemon has sent is not sent again.
            [true, _] => {
                self.effects.push_back(Effect::Resync);
                self.set_stage(Stage::Repairing(checks));
            }
            [false, true] => self.set_stage(Stage::Following(checks)),
            [false, false] => self.end_audit(checks, now),
        }
    }

    fn end_audit(&mut self, checks: Vec<api::SyncCheck>, now: Instant) {
        let Some(audit) = self.audits.current.take() else {
            return;
        };
        for check in &checks {
            let api::SyncCheck {
                source,
                checked,
                stale,
                missing,
                different,
                unmatched,
                repaired,
                ..
            } = check;
            match stale + missing + different + unmatched {
                0 => info!(%source, checked, "routes compared: no difference"),
                _ => {
                    warn!(%source, checked, stale, missing, different, unmatched, repaired, "routes differ from the source's")
                }
            }
        }
        self.feeds.audited(&checks, now);
        for Asker { token, peer, .. } in audit.askers {
            self.reply(token, peer, Ok(Reply::SyncChecks(checks.clone())));
        }
        self.audits.schedule(now);
        if !self.audits.next.is_empty() {
            self.begin_audit(now);
        }
    }
}

fn sync_check(source: Source, found: &Differences, checked: u64, repaired: bool) -> api::SyncCheck {
    let line = |route: &Option<Route>| route.as_ref().map(Route::to_string);
    let named = found
        .kept
        .iter()
        .take(NAMED)
        .map(|(key, (problem, wanted, installed))| api::SyncDifference {
            route: key.to_string(),
            problem: *problem,
            wanted: line(wanted),
            installed: line(installed),
        });
    api::SyncCheck {
        source: source.to_string(),
        checked,
        stale: found.count(SyncProblem::Stale),
        missing: found.count(SyncProblem::Missing),
        different: found.count(SyncProblem::Different),
        unmatched: found.count(SyncProblem::OnlyKernel) + found.count(SyncProblem::OnlyDaemon),
        differences: named.collect(),
        repaired,
    }
}

//! The routing information base, between the sources of routes and the LFIB: which route of a key is the best, and
//! which are on standby.
//!
//! Each source has at most one route for a key; that of the most preferred source is installed. The LFIB keeps the
//! installed routes, so this keeps only the others: with one source, nothing.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::route::{Mode, Owner, Route, RouteKey, Source};

#[cfg(test)]
mod tests;

/// The preferences of the sources: the lowest number wins; among equal ones, the first of [`Source::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preferences([u32; Source::ALL.len()]);

impl Default for Preferences {
    fn default() -> Self {
        Self(Source::ALL.map(Source::preference))
    }
}

impl Preferences {
    /// The same, with other numbers for these sources.
    pub fn with(mut self, others: impl IntoIterator<Item = (Source, u32)>) -> Self {
        for (source, number) in others {
            self.0[source as usize] = number;
        }
        self
    }

    /// The number of each source, the most preferred first.
    pub fn iter(self) -> impl Iterator<Item = (Source, u32)> {
        let mut ranked = Source::ALL.map(|source| (self.0[source as usize], source));
        ranked.sort();
        ranked.into_iter().map(|(number, source)| (source, number))
    }

    fn of(&self, owner: Owner) -> (u32, Source) {
        let source = owner.source();
        (self.0[source as usize], source)
    }
}

/// The installed routes, which are the best ones.
pub trait Best {
    fn owner(&self, key: RouteKey) -> Option<Owner>;

    fn route(&self, key: RouteKey) -> Option<Route>;

    /// The next key after this one, or the first, and the owner of its route.
    fn next(&self, after: Option<RouteKey>) -> Option<(RouteKey, Owner)>;
}

/// A change of a source's routes.
#[derive(Clone, Copy, Debug)]
pub enum Update<'a> {
    /// `mode` concerns the routes of the owner's source.
    Install {
        mode: Mode,
        owner: Owner,
        routes: &'a [Route],
    },
    /// Each of the keys must have a route of the source.
    Withdraw { source: Source, keys: &'a [RouteKey] },
    /// Routes of a source, each new or in place of the source's own, and keys that lose theirs.
    Follow {
        source: Source,
        routes: &'a [(Owner, Route)],
        gone: &'a [RouteKey],
    },
}

impl Update<'_> {
    fn source(&self) -> Source {
        match self {
            Self::Install { owner, .. } => owner.source(),
            Self::Withdraw { source, .. } | Self::Follow { source, .. } => *source,
        }
    }

    /// How many routes or keys are given.
    fn count(&self) -> usize {
        match self {
            Self::Install { routes, .. } => routes.len(),
            Self::Withdraw { keys, .. } => keys.len(),
            Self::Follow { routes, gone, .. } => routes.len() + gone.len(),
        }
    }

    fn key(&self, index: usize) -> RouteKey {
        match self {
            Self::Install { routes, .. } => routes[index].key(),
            Self::Withdraw { keys, .. } => keys[index],
            Self::Follow { routes, gone, .. } => match routes.get(index) {
                Some((_, route)) => route.key(),
                None => gone[index - routes.len()],
            },
        }
    }
}

/// Subtracts a number of operations, each about a microsecond or less, from what a step may do. Returns whether any are
/// left.
pub type Spend<'a> = &'a mut dyn FnMut(usize) -> bool;

/// The cost of settling one key.
const SETTLED: usize = 3;

/// Why an update was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("{key} already has a route")]
    Exists { index: usize, key: RouteKey },
    #[error("{key} has no route")]
    Missing { index: usize, key: RouteKey },
    /// There is a route, but it belongs to another source.
    #[error("the route of {key} is not {asked}: it belongs to `{owner}`")]
    Foreign {
        index: usize,
        key: RouteKey,
        owner: Owner,
        asked: Source,
    },
    #[error("{key} is given twice, first as number {}", first + 1)]
    Twice { index: usize, first: usize, key: RouteKey },
}

/// How an update changed the routes of its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub added: usize,
    pub replaced: usize,
    pub deleted: usize,
}

/// What to change in the LFIB, and then here.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Planned {
    /// Routes to install, each in place of an existing one.
    pub install: Vec<(Owner, Route)>,
    pub delete: Vec<RouteKey>,
    pub changes: Changes,
    /// Keys at which the source loses its route although the update does not name them.
    pub unnamed: Vec<RouteKey>,
    /// The index of the given route or key from which each of `install`, and each of `delete`, comes; `None`: from a
    /// sweep.
    installed_for: Vec<Option<usize>>,
    deleted_for: Vec<Option<usize>>,
    /// The routes on standby for each key of the update, after it.
    standby: Vec<(RouteKey, Vec<(Owner, Route)>)>,
}

impl Planned {
    /// The index of the given route or key from which the `index`th of the installed, then of the deleted routes comes.
    pub fn given(&self, index: usize) -> Option<usize> {
        let mut all = self.installed_for.iter().chain(&self.deleted_for);
        all.nth(index).copied().flatten()
    }

    fn reserve(&mut self, count: usize) {
        self.install.reserve(count);
        self.installed_for.reserve(count);
        self.delete.reserve(count);
        self.deleted_for.reserve(count);
        self.standby.reserve(count);
    }

    /// Applies new interface names, by the old ones, to the routes that name them.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        let standby = self.standby.iter_mut().flat_map(|(_, routes)| routes);
        let routes = self.install.iter_mut().chain(standby);
        routes.for_each(|(_, route)| route.rename_devices(names));
        let standby = self.standby.iter_mut().map(|(key, _)| key);
        let keys = self.delete.iter_mut().chain(&mut self.unnamed).chain(standby);
        keys.for_each(|key| key.rename_port(names));
    }
}

/// Applies new names of ports, by the old ones, to the keys of `map`.
fn rename_ports<T>(map: &mut BTreeMap<RouteKey, T>, names: &HashMap<Arc<str>, Arc<str>>) {
    let attachments = map.split_off(&RouteKey::FIRST_ATTACHMENT).into_iter();
    map.extend(attachments.map(|(mut key, value)| {
        key.rename_port(names);
        (key, value)
    }));
}

impl Planning {
    /// Applies new interface names, by the old ones.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        self.planned.rename_devices(names);
        rename_ports(&mut self.given, names);
    }
}

/// A plan in progress: see [`Rib::plan_step`].
#[derive(Debug, Default)]
pub struct Planning {
    stage: Stage,
    /// Progress within the stage.
    at: usize,
    after: Option<RouteKey>,
    /// The given keys, with their indexes.
    given: BTreeMap<RouteKey, usize>,
    /// So far.
    pub planned: Planned,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Check that no key is given twice.
    #[default]
    Check,
    /// Settle the given keys.
    Settle,
    /// Settle those that are not given.
    Sweep,
    Done,
}

/// The routes that are not installed because another source's is preferred.
#[derive(Default, Debug)]
pub struct Rib {
    preferences: Preferences,
    /// By key, the most preferred first.
    standby: BTreeMap<RouteKey, Vec<(Owner, Route)>>,
}

impl Rib {
    pub fn new(preferences: Preferences) -> Self {
        Self {
            preferences,
            standby: BTreeMap::new(),
        }
    }

    pub fn preferences(&self) -> Preferences {
        self.preferences
    }

    /// Whether no route is on standby.
    pub fn is_empty(&self) -> bool {
        self.standby.is_empty()
    }

    /// Whether routes of `one` are preferred to those of `other`.
    pub fn prefers(&self, one: Owner, other: Owner) -> bool {
        self.preferences.of(one) < self.preferences.of(other)
    }

    /// The routes on standby for `key`, the most preferred first.
    pub fn standby(&self, key: RouteKey) -> &[(Owner, Route)] {
        self.standby.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The next key after this one with routes on standby, or the first.
    pub fn next(&self, after: Option<RouteKey>) -> Option<(RouteKey, &[(Owner, Route)])> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.standby.range((start, Bound::Unbounded));
        rest.next().map(|(&key, routes)| (key, routes.as_slice()))
    }

    /// Plans an update, however long it takes.
    pub fn plan(&self, update: Update<'_>, best: &impl Best) -> Result<Planned, UpdateError> {
        let mut planning = Planning::default();
        while !self.plan_step(&mut planning, update, best, &mut |_| true)? {}
        Ok(planning.planned)
    }

    /// Continues to plan an update, which must stay the same until this returns that it is done. Neither this nor the
    /// LFIB may change meanwhile. Nothing changes before [`Rib::commit_step`], after the LFIB has applied the plan.
    pub fn plan_step(
        &self,
        planning: &mut Planning,
        update: Update<'_>,
        best: &impl Best,
        spend: Spend<'_>,
    ) -> Result<bool, UpdateError> {
        let mut is_left = true;
        while is_left && planning.stage != Stage::Done {
            is_left = match planning.stage {
                Stage::Check => self.check(planning, update, spend)?,
                Stage::Settle => self.settle_given(planning, update, best, spend)?,
                Stage::Sweep => self.sweep(planning, update, best, spend),
                Stage::Done => true,
            };
        }
        Ok(planning.stage == Stage::Done)
    }

    fn check(&self, planning: &mut Planning, update: Update<'_>, spend: Spend<'_>) -> Result<bool, UpdateError> {
        let count = update.count();
        if planning.at == 0 {
            // Nothing has to be moved when it grows; memory is taken as it is used.
            planning.planned.reserve(count);
        }
        while planning.at < count {
            let (index, key) = (planning.at, update.key(planning.at));
            if let Some(first) = planning.given.insert(key, index) {
                return Err(UpdateError::Twice { index, first, key });
            }
            planning.at += 1;
            if !spend(1) {
                return Ok(false);
            }
        }
        (planning.stage, planning.at) = (Stage::Settle, 0);
        Ok(true)
    }

    fn settle_given(
        &self,
        planning: &mut Planning,
        update: Update<'_>,
        best: &impl Best,
        spend: Spend<'_>,
    ) -> Result<bool, UpdateError> {
        let source = update.source();
        while planning.at < update.count() {
            let (index, key) = (planning.at, update.key(planning.at));
            let owner = best.owner(key);
            let is_there = owner.is_some_and(|owner| owner.source() == source) || self.own(key, source).is_some();
            let foreign = |owner| UpdateError::Foreign {
                index,
                key,
                owner,
                asked: source,
            };
            let missing = || owner.map_or(UpdateError::Missing { index, key }, foreign);
            let new = match update {
                Update::Install { mode, owner, routes } => {
                    match mode {
                        Mode::Add if is_there => return Err(UpdateError::Exists { index, key }),
                        Mode::Change if !is_there => return Err(missing()),
                        _ => {}
                    }
                    Some((owner, &routes[index]))
                }
                Update::Withdraw { .. } if !is_there => return Err(missing()),
                Update::Withdraw { .. } => None,
                Update::Follow { routes, .. } => match routes.get(index) {
                    Some((owner, route)) => Some((*owner, route)),
                    None if !is_there => {
                        planning.at += 1;
                        continue;
                    }
                    None => None,
                },
            };
            self.settle(&mut planning.planned, key, source, new, Some(index), best);
            planning.at += 1;
            if !spend(SETTLED) {
                return Ok(false);
            }
        }
        planning.stage = match update {
            Update::Install {
                mode: Mode::ReplaceAll, ..
            } => Stage::Sweep,
            _ => Stage::Done,
        };
        Ok(true)
    }

    fn sweep(&self, planning: &mut Planning, update: Update<'_>, best: &impl Best, spend: Spend<'_>) -> bool {
        let source = update.source();
        while let Update::Install { owner, .. } = update
            && let Some((key, found)) = best.next(planning.after)
        {
            planning.after = Some(key);
            let own = Some(found).filter(|found| found.source() == source);
            let own = own.or_else(|| self.own(key, source));
            let is_swept = own.is_some_and(|own| owner.sweeps(own)) && !planning.given.contains_key(&key);
            if is_swept {
                self.settle(&mut planning.planned, key, source, None, None, best);
                planning.planned.unnamed.push(key);
            }
            if !spend(if is_swept { SETTLED } else { 1 }) {
                return false;
            }
        }
        planning.stage = Stage::Done;
        true
    }

    /// Applies a plan that the LFIB has applied, however long it takes.
    pub fn commit(&mut self, mut planned: Planned) {
        self.commit_step(&mut planned, &mut |_| true);
    }

    /// Continues to apply a plan that the LFIB has applied. Returns whether that is done.
    pub fn commit_step(&mut self, planned: &mut Planned, spend: Spend<'_>) -> bool {
        while let Some((key, standby)) = planned.standby.pop() {
            if standby.is_empty() {
                self.standby.remove(&key);
            } else {
                self.standby.insert(key, standby);
            }
            if !spend(1) {
                return planned.standby.is_empty();
            }
        }
        true
    }

    /// Applies new interface names, by the old ones, to the routes whose `dev` they are.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        let standby = self.standby.values_mut().flatten();
        standby.for_each(|(_, route)| route.rename_devices(names));
        rename_ports(&mut self.standby, names);
    }

    /// The owner of this source's route on standby.
    fn own(&self, key: RouteKey, source: Source) -> Option<Owner> {
        let mut owners = self.standby(key).iter().map(|&(owner, _)| owner);
        owners.find(|owner| owner.source() == source)
    }

    /// Finds the new state of `key` if `new` replaces what `source` has for it.
    fn settle(
        &self,
        planned: &mut Planned,
        key: RouteKey,
        source: Source,
        new: Option<(Owner, &Route)>,
        index: Option<usize>,
        best: &impl Best,
    ) {
        let installed = best.owner(key);
        let is_installed = installed.is_some_and(|owner| owner.source() == source);
        let stands_by = self.standby(key).iter().find(|(owner, _)| owner.source() == source);
        let count = match (&new, is_installed, stands_by) {
            (None, ..) => &mut planned.changes.deleted,
            (Some(_), false, None) => &mut planned.changes.added,
            (Some((_, route)), true, _) if best.route(key).as_ref() == Some(*route) => &mut 0,
            (Some((_, route)), false, Some((_, before))) if before == *route => &mut 0,
            (Some(_), ..) => &mut planned.changes.replaced,
        };
        *count += 1;

        let others = self.standby(key).iter().filter(|(owner, _)| owner.source() != source);
        let mut standby: Vec<(Owner, Route)> = others.cloned().collect();
        let rank = |owner: Owner| self.preferences.of(owner);
        match (installed.filter(|_| !is_installed), new) {
            // Another source's route is installed, and stays.
            (Some(winner), Some((owner, route))) if rank(winner) < rank(owner) => {
                standby.push((owner, route.clone()));
            }
            (Some(_), None) => {}
            // Another source's route is replaced.
            (Some(winner), Some((owner, route))) => {
                standby.extend(best.route(key).map(|route| (winner, route)));
                planned.install.push((owner, route.clone()));
                planned.installed_for.push(index);
            }
            // The source's own route was installed, or none was.
            (None, new) => {
                standby.extend(new.map(|(owner, route)| (owner, route.clone())));
                standby.sort_by_key(|&(owner, _)| rank(owner));
                if standby.is_empty() {
                    planned.delete.push(key);
                    planned.deleted_for.push(index);
                } else {
                    planned.install.push(standby.remove(0));
                    planned.installed_for.push(index);
                }
            }
        }
        standby.sort_by_key(|&(owner, _)| rank(owner));
        if !standby.is_empty() || !self.standby(key).is_empty() {
            planned.standby.push((key, standby));
        }
    }
}

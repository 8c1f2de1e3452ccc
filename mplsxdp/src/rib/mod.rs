//! The routing information base, between the sources of routes and the LFIB: which route of a key is the best, and which stand by
//! until it goes. Pure.
//!
//! Each source has at most one route for a key; the one of the most preferred source is installed. The LFIB keeps what is
//! installed, so this keeps only the others: as long as there is one source, it keeps nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::route::{Mode, Owner, Route, RouteKey, Source};

#[cfg(test)]
mod tests;

/// Which source is preferred to which: the lowest number wins; of equal ones, the first of [`Source::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preferences([u32; Source::ALL.len()]);

impl Default for Preferences {
    fn default() -> Self {
        Self(Source::ALL.map(Source::preference))
    }
}

impl Preferences {
    fn of(&self, owner: Owner) -> (u32, Source) {
        let source = owner.source();
        (self.0[source as usize], source)
    }
}

/// The routes that are installed, which are the best.
pub trait Best {
    fn owner(&self, key: RouteKey) -> Option<Owner>;

    fn route(&self, key: RouteKey) -> Option<Route>;

    /// The next key after this one, or the first, and who owns its route.
    fn next(&self, after: Option<RouteKey>) -> Option<(RouteKey, Owner)>;
}

/// What a source wants.
#[derive(Clone, Copy, Debug)]
pub enum Update<'a> {
    /// `mode` is about the routes of the owner's source.
    Install {
        mode: Mode,
        owner: Owner,
        routes: &'a [Route],
    },
    /// Each of the keys must have a route of the source.
    Withdraw { source: Source, keys: &'a [RouteKey] },
}

/// Why an update is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("{key} has a route already")]
    Exists { index: usize, key: RouteKey },
    #[error("{key} has no route")]
    Missing { index: usize, key: RouteKey },
    /// There is a route, but of another source.
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

/// What an update did to the routes of its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub added: usize,
    pub replaced: usize,
    pub deleted: usize,
}

/// What is to become of the LFIB, and then of this.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Planned {
    /// Routes to install, each in the place of what is there.
    pub install: Vec<(Owner, Route)>,
    pub delete: Vec<RouteKey>,
    pub changes: Changes,
    /// Which of the given routes or keys each of `install`, then of `delete`, comes from; `None`: from a sweep.
    given: Vec<Option<usize>>,
    /// What stands by for each key that the update is about.
    standby: Vec<(RouteKey, Vec<(Owner, Route)>)>,
}

impl Planned {
    /// Which of the given routes or keys the `index`th of what is installed, then of what is deleted, comes from.
    pub fn given(&self, index: usize) -> Option<usize> {
        self.given.get(index).copied().flatten()
    }
}

/// The routes that are not installed, as another source's is preferred.
#[derive(Default, Debug)]
pub struct Rib {
    preferences: Preferences,
    /// By key, the most preferred first.
    standby: BTreeMap<RouteKey, Vec<(Owner, Route)>>,
}

impl Rib {
    /// Whether no route stands by.
    pub fn is_empty(&self) -> bool {
        self.standby.is_empty()
    }

    /// The routes that stand by for `key`, the most preferred first.
    pub fn standby(&self, key: RouteKey) -> &[(Owner, Route)] {
        self.standby.get(&key).map_or(&[], Vec::as_slice)
    }

    /// All routes that stand by.
    pub fn iter(&self) -> impl Iterator<Item = (Owner, &Route)> {
        self.standby.values().flatten().map(|(owner, route)| (*owner, route))
    }

    /// Works out what an update means. Nothing changes before [`Rib::commit`], which comes once the LFIB has taken the plan.
    pub fn plan(&self, update: Update<'_>, best: &impl Best) -> Result<Planned, UpdateError> {
        let mut planned = Planned::default();
        let (source, count) = match update {
            Update::Install { owner, routes, .. } => (owner.source(), routes.len()),
            Update::Withdraw { source, keys } => (source, keys.len()),
        };
        let key_of = |index: usize| match update {
            Update::Install { routes, .. } => routes[index].key(),
            Update::Withdraw { keys, .. } => keys[index],
        };
        let mut given: HashMap<RouteKey, usize> = HashMap::with_capacity(count);
        for index in 0..count {
            let key = key_of(index);
            if let Some(first) = given.insert(key, index) {
                return Err(UpdateError::Twice { index, first, key });
            }
        }
        let mut deletes: Vec<(RouteKey, Option<usize>)> = Vec::new();
        for index in 0..count {
            let key = key_of(index);
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
            };
            self.settle(&mut planned, &mut deletes, key, source, new, Some(index), best);
        }
        if let Update::Install {
            mode: Mode::ReplaceAll,
            owner,
            ..
        } = update
        {
            let mut swept: Vec<RouteKey> = Vec::new();
            let mut next = best.next(None);
            while let Some((key, found)) = next {
                let stands_by = self.own(key, source);
                let own = Some(found).filter(|found| found.source() == source).or(stands_by);
                if own.is_some_and(|own| owner.sweeps(own)) && !given.contains_key(&key) {
                    swept.push(key);
                }
                next = best.next(Some(key));
            }
            for key in swept {
                self.settle(&mut planned, &mut deletes, key, source, None, None, best);
            }
        }
        for (key, index) in deletes {
            planned.delete.push(key);
            planned.given.push(index);
        }
        Ok(planned)
    }

    /// The LFIB has taken a plan.
    pub fn commit(&mut self, planned: Planned) {
        for (key, standby) in planned.standby {
            if standby.is_empty() {
                self.standby.remove(&key);
            } else {
                self.standby.insert(key, standby);
            }
        }
    }

    /// Interfaces have new names, by their old ones: the routes whose `dev` they are follow.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        let standby = self.standby.values_mut().flatten();
        standby.for_each(|(_, route)| route.rename_devices(names));
    }

    /// Who owns the route of this source that stands by.
    fn own(&self, key: RouteKey, source: Source) -> Option<Owner> {
        let mut owners = self.standby(key).iter().map(|&(owner, _)| owner);
        owners.find(|owner| owner.source() == source)
    }

    /// Works out what becomes of `key` if `new` takes the place of what `source` has for it.
    #[expect(clippy::too_many_arguments, reason = "the parts of one plan")]
    fn settle(
        &self,
        planned: &mut Planned,
        deletes: &mut Vec<(RouteKey, Option<usize>)>,
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
            // Another source's is installed, and stays so.
            (Some(winner), Some((owner, route))) if rank(winner) < rank(owner) => {
                standby.push((owner, route.clone()));
            }
            (Some(_), None) => {}
            // Another source's gives way.
            (Some(winner), Some((owner, route))) => {
                standby.extend(best.route(key).map(|route| (winner, route)));
                planned.install.push((owner, route.clone()));
                planned.given.push(index);
            }
            // The source's own was installed, or none was.
            (None, new) => {
                standby.extend(new.map(|(owner, route)| (owner, route.clone())));
                standby.sort_by_key(|&(owner, _)| rank(owner));
                if standby.is_empty() {
                    deletes.push((key, index));
                } else {
                    planned.install.push(standby.remove(0));
                    planned.given.push(index);
                }
            }
        }
        standby.sort_by_key(|&(owner, _)| rank(owner));
        if !standby.is_empty() || !self.standby(key).is_empty() {
            planned.standby.push((key, standby));
        }
    }
}

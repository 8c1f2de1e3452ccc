//! What a change has made of each route, for those who watch. Routes are shared with the change, not copied.

use std::sync::Arc;

use super::plan::Change;
use crate::route::{Owner, Route, RouteKey};

/// How many deleted routes are kept; of others, only the keys are known.
const KEPT: usize = 1024;

/// What a route that was installed is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Installs {
    New,
    /// It differs from the one that its key had before.
    Replacement,
}

/// The routes that a change has installed and deleted. Routes that were given as they were before are not among them.
#[derive(Debug)]
pub struct Made {
    change: Change,
    /// The indexes of installed routes.
    installed: Vec<(u32, Installs)>,
    deleted: Arc<Vec<RouteKey>>,
    /// The routes of the first of `deleted`, as they were.
    kept: Vec<Option<(Owner, Route)>>,
}

/// One of the routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MadeRoute<'a> {
    Installed(Installs, Owner, &'a Route),
    Deleted(Owner, &'a Route),
    /// A deleted route that was not kept.
    DeletedKey(RouteKey),
}

impl Made {
    pub(crate) fn of(change: Change) -> Self {
        Self {
            change,
            installed: Vec::new(),
            deleted: Arc::default(),
            kept: Vec::new(),
        }
    }

    pub(super) fn note_installed(&mut self, index: usize, installs: Installs) {
        if self.installed.is_empty() {
            // Nothing has to be moved when it grows; memory is taken as it is used.
            self.installed.reserve(self.change.routes());
        }
        self.installed.push((index as u32, installs));
    }

    pub(super) fn has_room_for_deleted(&self) -> bool {
        self.kept.len() < KEPT
    }

    /// Keeps the route of the next deleted key.
    pub(super) fn note_deleted(&mut self, route: Option<(Owner, Route)>) {
        self.kept.push(route);
    }

    pub(crate) fn with_deleted(mut self, deleted: Arc<Vec<RouteKey>>) -> Self {
        self.deleted = deleted;
        self
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.installed.len() + self.deleted.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many routes are in memory because of it, apart from those that the LFIB has.
    pub fn held(&self) -> usize {
        self.change.given().max(self.len())
    }

    /// The route with this number, from 0 on: first those that were installed.
    pub fn get(&self, at: usize) -> Option<MadeRoute<'_>> {
        let Some(at) = at.checked_sub(self.installed.len()) else {
            let &(index, installs) = self.installed.get(at)?;
            let (owner, route) = self.change.route(index as usize)?;
            return Some(MadeRoute::Installed(installs, owner, route));
        };
        let &key = self.deleted.get(at)?;
        Some(match self.kept.get(at) {
            Some(Some((owner, route))) => MadeRoute::Deleted(*owner, route),
            _ => MadeRoute::DeletedKey(key),
        })
    }
}

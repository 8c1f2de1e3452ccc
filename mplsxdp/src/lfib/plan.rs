//! Changes of routes, worked off in bounded steps so that nothing else waits for a large one. A change is all or
//! nothing: everything that can fail is done before the first label is published, and undone if it fails.
//!
//! 1. The given keys are checked, and pass entries are written that the routes need in front of them.
//! 2. Every route reserves its share of each table. No packet and no reader sees anything of this.
//! 3. FTN entries are written, prefix by prefix, in an order in which each address sees one step. A write can fail.
//! 4. Labels are published and withdrawn one by one. Nothing of this can fail.
//!
//! Between steps, next hops may fail, move and resolve, and the kernel may claim other prefixes. The plan is kept in
//! the LFIB, so that what it has reserved follows these events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use mplsxdp_common::abi::RouteEntry;

use super::change::{ChangeError, Changes, Mode, Prepared};
use super::fecs::Families;
use super::list::Candidate;
use super::made::Made;
use super::{Installed, Lfib};
use crate::dataplane::Tables;
use crate::route::{Fec, Owner, PortName, Route, RouteKey};

/// How many operations are done before the clock is read again.
const CHECK_EVERY: usize = 32;

/// How much one step may do.
pub struct Budget<'a> {
    operations: usize,
    until_check: usize,
    is_over: &'a mut dyn FnMut() -> bool,
}

impl<'a> Budget<'a> {
    /// `operations` at most, each about a microsecond or less, and none after `is_over` has returned true. A step does
    /// at least one.
    pub fn new(operations: usize, is_over: &'a mut dyn FnMut() -> bool) -> Self {
        Self {
            operations,
            until_check: CHECK_EVERY,
            is_over,
        }
    }

    /// Takes `operations` off. Returns whether any are left.
    pub fn spend(&mut self, operations: usize) -> bool {
        self.operations = self.operations.saturating_sub(operations);
        self.until_check = self.until_check.saturating_sub(operations);
        if self.operations > 0 && self.until_check == 0 {
            self.until_check = CHECK_EVERY;
            if (self.is_over)() {
                self.operations = 0;
            }
        }
        self.operations > 0
    }

    pub fn is_left(&self) -> bool {
        self.operations > 0
    }
}

/// Selects the routes that are meant.
pub type Select = Box<dyn Fn(&Candidate<'_>) -> bool + Send + Sync>;

/// A change of routes.
#[derive(Clone)]
pub enum Change {
    /// Installs routes.
    Install {
        mode: Mode,
        owner: Owner,
        routes: Arc<Vec<Route>>,
    },
    /// Installs routes of any owners, each new or in place of another, and deletes the routes of these keys, which must
    /// have one.
    Settle {
        routes: Arc<Vec<(Owner, Route)>>,
        deleted: Arc<Vec<RouteKey>>,
    },
    /// Deletes the routes of these keys; each must have one.
    Delete(Arc<Vec<RouteKey>>),
    /// Deletes the routes for which it returns true.
    Flush(Arc<Select>),
}

impl Change {
    /// The route to install with that index, if there is one.
    pub fn route(&self, index: usize) -> Option<(Owner, &Route)> {
        match self {
            Self::Install { owner, routes, .. } => routes.get(index).map(|route| (*owner, route)),
            Self::Settle { routes, .. } => routes.get(index).map(|(owner, route)| (*owner, route)),
            Self::Delete(_) | Self::Flush(_) => None,
        }
    }

    pub(super) fn routes(&self) -> usize {
        match self {
            Self::Install { routes, .. } => routes.len(),
            Self::Settle { routes, .. } => routes.len(),
            Self::Delete(_) | Self::Flush(_) => 0,
        }
    }

    /// How many keys are given, with routes or without.
    pub fn given(&self) -> usize {
        match self {
            Self::Settle { deleted, .. } => self.routes() + deleted.len(),
            Self::Delete(keys) => keys.len(),
            Self::Install { .. } | Self::Flush(_) => self.routes(),
        }
    }

    /// The given key with this index, if there is one.
    fn key(&self, index: usize) -> Option<RouteKey> {
        match self {
            Self::Install { .. } => self.route(index).map(|(_, route)| route.key()),
            Self::Settle { routes, deleted } => match index.checked_sub(routes.len()) {
                None => self.route(index).map(|(_, route)| route.key()),
                Some(index) => deleted.get(index).copied(),
            },
            Self::Delete(keys) => keys.get(index).copied(),
            Self::Flush(_) => None,
        }
    }

    /// Whether the key with this index is one whose route is deleted.
    fn deletes(&self, index: usize) -> bool {
        match self {
            Self::Delete(_) => true,
            Self::Settle { routes, .. } => index >= routes.len(),
            Self::Install { .. } | Self::Flush(_) => false,
        }
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Install { mode, owner, routes } => write!(f, "{mode:?} {} routes of {owner}", routes.len()),
            Self::Settle { routes, deleted } => {
                write!(f, "settle {} and delete {} routes", routes.len(), deleted.len())
            }
            Self::Delete(keys) => write!(f, "delete {} routes", keys.len()),
            Self::Flush(_) => f.write_str("flush"),
        }
    }
}

/// The progress of a change.
#[derive(Debug)]
pub enum Progress {
    /// It needs more steps.
    More,
    /// It is done, or refused.
    Finished(Finished),
}

/// A change that is done, or that was refused and has changed nothing.
#[derive(Debug)]
pub struct Finished {
    pub result: Result<Changes, ChangeError>,
    /// The keys whose routes it has deleted, if there is no error.
    pub deleted: Arc<Vec<RouteKey>>,
    /// What has become of each route, if somebody watches and there is no error.
    pub made: Option<Made>,
    /// The remains of the plan. Nothing needs them, but dropping those of a million routes takes milliseconds.
    pub remains: Remains,
}

/// What a plan leaves.
pub type Remains = Box<dyn fmt::Debug + Send>;

/// A change that is under way.
#[derive(Debug)]
pub(super) struct Plan {
    change: Change,
    stage: Stage,
    /// Progress within the stage.
    at: usize,
    given: Keys,
    /// The first given key that makes the change impossible, unless another error comes before it.
    impossible: Option<(usize, RouteKey)>,
    /// Likewise, the first given prefix for which the FTN has no room.
    no_room: Option<ChangeError>,
    /// How many FTN entries the new ones among the checked routes take.
    new_entries: Families,
    /// The route after which a walk through all routes continues.
    after: Option<RouteKey>,
    prepared: Vec<Prepared>,
    deleted: Vec<RouteKey>,
    /// Interfaces renamed since the change began, by their old names.
    renamed: HashMap<Arc<str>, Arc<str>>,
    /// The prefixes whose FTN entries change, in the order of writing: the indexes of prepared routes and, after those,
    /// of deleted ones. Those of one length are nearly sorted, so that a node of the FTN is written once for many of
    /// them.
    prefixes: BTreeMap<WriteOrder, Vec<u32>>,
    /// The last of the prefixes that were not given in order which is in `prefixes`.
    ordered: Option<Fec>,
    /// The last of `prefixes` that is written.
    written: Option<(WriteOrder, usize)>,
    /// What the written prefixes had before, with their places as in `prefixes`.
    before: Vec<(Fec, u32, Option<Installed>)>,
    changes: Changes,
    /// If somebody watches.
    made: Option<Made>,
    error: Option<ChangeError>,
    /// Everything is reserved, and the prefixes are in order.
    is_reserved: bool,
    /// The FTN table was full, and has been tidied up.
    is_tidied: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Look at the given keys.
    Check,
    /// Find the first of two given keys that are the same.
    FindFirst,
    /// Find the routes to flush.
    Select,
    /// Write pass entries in front of prefixes that need many of them.
    Lay,
    Reserve,
    /// Find the routes to delete because they were not given.
    Sweep,
    /// Sort the prefixes.
    Order,
    WritePrefixes,
    PublishLabels,
    /// Release what the written prefixes had before.
    DropReplaced,
    Withdraw,
    /// Give prefixes back what they had.
    UndoPrefixes,
    /// Remove pass entries that are not needed, to make room in the FTN table.
    Tidy,
    /// Give back what is reserved.
    Abandon,
    Done,
}

/// The order in which every address sees a change as one step: routes are written from long prefixes to short ones,
/// then the routes that go are removed from short to long. So an address has its old route until it has its new one. If
/// a prefix has several routes, the one without a table is written after those that hide it, and removed before them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum WriteOrder {
    Install(Reverse<u8>, Reverse<bool>),
    Remove(u8, bool),
}

/// A set of keys in which no operation takes long, however many keys it has. A few keys take little memory.
#[derive(Default, Debug)]
pub(super) struct Keys {
    /// A bit for each label, [`PAGE`] labels to a page.
    labels: Vec<Option<Box<[u64; PAGE / WORD]>>>,
    /// FECs that were given in order, each after all before it.
    sorted: Vec<Fec>,
    /// The others, with their indexes among the given keys.
    others: BTreeMap<Fec, u32>,
    attachments: BTreeSet<PortName>,
}

const WORD: usize = u64::BITS as usize;
const PAGE: usize = 4096;

impl Keys {
    /// Returns whether the key, which was given with this index, is new.
    fn insert(&mut self, key: RouteKey, index: usize) -> bool {
        match key {
            RouteKey::Label(label) => {
                let label = label.get() as usize;
                if self.labels.len() <= label / PAGE {
                    self.labels.resize(label / PAGE + 1, None);
                }
                let page = self.labels[label / PAGE].get_or_insert_with(|| Box::new([0; PAGE / WORD]));
                let (word, bit) = (&mut page[label % PAGE / WORD], 1 << (label % WORD));
                let is_new = *word & bit == 0;
                *word |= bit;
                is_new
            }
            RouteKey::Attachment(port) => self.attachments.insert(port),
            RouteKey::Prefix(fec) if self.contains_fec(fec) => false,
            RouteKey::Prefix(fec) => {
                match self.sorted.last() > Some(&fec) {
                    true => drop(self.others.insert(fec, index as u32)),
                    false => self.sorted.push(fec),
                }
                true
            }
        }
    }

    pub(super) fn contains(&self, key: RouteKey) -> bool {
        match key {
            RouteKey::Label(label) => {
                let label = label.get() as usize;
                let page = self.labels.get(label / PAGE).and_then(Option::as_ref);
                page.is_some_and(|page| page[label % PAGE / WORD] & 1 << (label % WORD) != 0)
            }
            RouteKey::Prefix(fec) => self.contains_fec(fec),
            RouteKey::Attachment(port) => self.attachments.contains(&port),
        }
    }

    /// The first of `others` after this one, or of all, and its index.
    fn other_after(&self, after: Option<Fec>) -> Option<(Fec, u32)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (&fec, &index) = self.others.range((start, Bound::Unbounded)).next()?;
        Some((fec, index))
    }

    fn contains_fec(&self, fec: Fec) -> bool {
        // Most keys come after all before them.
        let is_within = self.sorted.last() >= Some(&fec);
        is_within && self.sorted.binary_search(&fec).is_ok() || self.others.contains_key(&fec)
    }
}

impl Plan {
    fn new(change: Change, is_watched: bool) -> Self {
        let stage = match change {
            Change::Flush(_) => Stage::Select,
            Change::Install { .. } | Change::Settle { .. } | Change::Delete(_) => Stage::Check,
        };
        Self {
            prepared: Vec::with_capacity(change.routes()),
            stage,
            at: 0,
            // Nothing has to be moved when it grows; memory is taken as it is used.
            given: Keys {
                sorted: Vec::with_capacity(change.given()),
                ..Keys::default()
            },
            impossible: None,
            no_room: None,
            new_entries: Families::default(),
            after: None,
            deleted: Vec::new(),
            renamed: HashMap::new(),
            prefixes: BTreeMap::new(),
            ordered: None,
            written: None,
            before: Vec::new(),
            changes: Changes::default(),
            made: is_watched.then(|| Made::of(change.clone())),
            error: None,
            change,
            is_reserved: false,
            is_tidied: false,
        }
    }

    fn go_to(&mut self, stage: Stage) {
        (self.stage, self.at) = (stage, 0);
    }

    /// The key of a prepared route or, after those, of a deleted one.
    fn changed_key(&self, index: usize) -> Option<RouteKey> {
        match index.checked_sub(self.prepared.len()) {
            None => self.prepared.get(index).map(|route| route.key),
            Some(index) => self.deleted.get(index).copied(),
        }
    }

    /// Adds a prefix, which [`Plan::changed_key`] has with this index, to those to write.
    fn order_prefix(&mut self, fec: Fec, index: usize) {
        let (length, has_table) = (fec.prefix.prefix_len(), fec.table.is_some());
        let order = match index < self.prepared.len() {
            true => WriteOrder::Install(Reverse(length), Reverse(has_table)),
            false => WriteOrder::Remove(length, has_table),
        };
        self.prefixes.entry(order).or_default().push(index as u32);
    }

    /// The next of `prefixes` to write: its place there, and what stands there.
    fn next_prefix(&self) -> Option<((WriteOrder, usize), usize)> {
        let started = self.written.and_then(|(order, at)| {
            let index = self.prefixes.get(&order)?.get(at + 1)?;
            Some(((order, at + 1), *index))
        });
        let fresh = || {
            let after = self
                .written
                .map_or(Bound::Unbounded, |(order, _)| Bound::Excluded(order));
            let (&order, indexes) = self.prefixes.range((after, Bound::Unbounded)).next()?;
            Some(((order, 0), *indexes.first()?))
        };
        let (place, index) = started.or_else(fresh)?;
        Some((place, index as usize))
    }

    /// The given key with this index.
    fn given_key(&self, index: usize) -> Option<RouteKey> {
        let mut key = self.change.key(index)?;
        key.rename_port(&self.renamed);
        Some(key)
    }

    /// The entries that are reserved, and those kept until the change is done, without the first `skipped` of them.
    pub(super) fn entries_mut(&mut self, skipped: usize) -> impl Iterator<Item = Option<&mut RouteEntry>> {
        let kept = skipped.saturating_sub(self.prepared.len());
        let prepared = self.prepared.iter_mut().skip(skipped);
        let before = self.before.iter_mut().skip(kept);
        let before = before.map(|(.., before)| before.as_mut().map(|before| &mut before.entry));
        prepared.map(|route| Some(&mut route.entry)).chain(before)
    }

    pub(super) fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        let prepared = self.prepared.iter_mut().map(|route| &mut route.key);
        let keys = prepared.chain(&mut self.deleted);
        keys.for_each(|key| key.rename_port(names));
        let given = std::mem::take(&mut self.given.attachments).into_iter();
        let given = given.map(|mut port| {
            port.rename(names);
            port
        });
        self.given.attachments = given.collect();
        for name in self.renamed.values_mut() {
            if let Some(new) = names.get(name) {
                *name = Arc::clone(new);
            }
        }
        for (old, new) in names {
            self.renamed.entry(Arc::clone(old)).or_insert_with(|| Arc::clone(new));
        }
    }
}

impl<T: Tables> Lfib<T> {
    /// Begins a change, which [`Lfib::step`] carries out. Returns it if another one is under way.
    pub fn begin(&mut self, change: Change) -> Result<(), Change> {
        if self.plan.is_some() {
            return Err(change);
        }
        self.reclaim_slots();
        self.plan = Some(Box::new(Plan::new(change, self.is_watched)));
        Ok(())
    }

    /// Continues the change that is under way.
    pub fn step(&mut self, budget: &mut Budget<'_>) -> Progress {
        if !self.publish_step(budget) {
            return Progress::More;
        }
        self.turn_step(budget);
        let Some(mut plan) = self.plan.take() else {
            return Progress::Finished(Finished {
                result: Ok(Changes::default()),
                deleted: Arc::default(),
                made: None,
                remains: Box::new(Plan::new(Change::Delete(Arc::default()), false)),
            });
        };
        loop {
            self.work(&mut plan, budget);
            if plan.stage == Stage::Done {
                self.pass.set_all_going();
                self.retry_unsettled();
                let result = match plan.error.take() {
                    Some(error) => Err(error),
                    None => Ok(plan.changes),
                };
                if result.is_err() {
                    self.reclaim_slots();
                }
                let deleted = Arc::new(std::mem::take(&mut plan.deleted));
                let made = plan.made.take().filter(|_| result.is_ok());
                return Progress::Finished(Finished {
                    result,
                    made: made.map(|made| made.with_deleted(Arc::clone(&deleted))),
                    deleted,
                    remains: plan,
                });
            }
            if !budget.is_left() {
                self.plan = Some(plan);
                return Progress::More;
            }
        }
    }

    /// Whether a change is under way.
    pub fn is_changing(&self) -> bool {
        self.plan.is_some()
    }

    /// Works on one stage until it is done or the budget is spent.
    fn work(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        match plan.stage {
            Stage::Check => self.check(plan, budget),
            Stage::FindFirst => self.find_first(plan, budget),
            Stage::Select => self.select(plan, budget),
            Stage::Lay => self.lay(plan, budget),
            Stage::Reserve => self.reserve(plan, budget),
            Stage::Sweep => self.sweep(plan, budget),
            Stage::Order => self.order(plan, budget),
            Stage::WritePrefixes => self.write_prefixes(plan, budget),
            Stage::PublishLabels => self.publish_labels(plan, budget),
            Stage::DropReplaced => self.drop_replaced(plan, budget),
            Stage::Withdraw => self.withdraw(plan, budget),
            Stage::UndoPrefixes => self.undo_prefixes(plan, budget),
            Stage::Tidy => self.tidy(plan, budget),
            Stage::Abandon => self.abandon(plan, budget),
            Stage::Done => {}
        }
    }

    fn check(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        while let Some(key) = plan.given_key(plan.at) {
            if !plan.given.insert(key, plan.at) {
                let (index, first) = (plan.at, 0);
                plan.error = Some(ChangeError::Twice { index, first, key });
                return plan.go_to(Stage::FindFirst);
            }
            let is_possible = match plan.change {
                Change::Install { mode: Mode::Add, .. } => !self.routes.contains(key),
                Change::Install { mode: Mode::Change, .. } => self.routes.contains(key),
                _ if plan.change.deletes(plan.at) => {
                    plan.deleted.push(key);
                    self.routes.contains(key)
                }
                _ => true,
            };
            if !is_possible {
                plan.impossible.get_or_insert((plan.at, key));
            }
            if plan.no_room.is_none() && matches!(plan.change, Change::Install { .. }) {
                plan.no_room = self.no_room(plan.at, key, &plan.given, &mut plan.new_entries);
            }
            plan.at += 1;
            if !budget.spend(1) {
                return;
            }
        }
        let error = |(index, key)| match plan.change {
            Change::Install { mode: Mode::Add, .. } => ChangeError::Exists { index, key },
            _ => ChangeError::Missing { index, key },
        };
        plan.error = plan.impossible.map(error).or(plan.no_room.take());
        plan.go_to(match (&plan.error, &plan.change) {
            (Some(_), _) => Stage::Done,
            (None, Change::Install { .. } | Change::Settle { .. }) => Stage::Lay,
            (None, Change::Delete(_) | Change::Flush(_)) => Stage::Order,
        });
    }

    fn find_first(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        let wanted = plan.given_key(match plan.error {
            Some(ChangeError::Twice { index, .. }) => index,
            _ => plan.at,
        });
        while plan.given_key(plan.at) != wanted {
            plan.at += 1;
            if !budget.spend(1) {
                return;
            }
        }
        if let Some(ChangeError::Twice { first, .. }) = &mut plan.error {
            *first = plan.at;
        }
        plan.go_to(Stage::Done);
    }

    fn select(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        let Change::Flush(select) = &plan.change else {
            return plan.go_to(Stage::Order);
        };
        if plan.after.is_none() {
            // Nothing has to be moved when the list grows; memory is taken as it is used.
            plan.deleted.reserve(self.routes.len());
        }
        if !self.select_step(&mut plan.after, &***select, &mut plan.deleted, budget) {
            return;
        }
        plan.go_to(Stage::Order);
    }

    /// The pass entries that a route needs have no effect before it is written, so they can be written in steps.
    fn lay(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        while let Some(key) = plan.given_key(plan.at) {
            if let RouteKey::Prefix(fec) = key
                && let Some(key) = self.to_be_laid(fec)
            {
                if !self.has_ftn_room(budget) {
                    return;
                }
                let (claims, laid) = self.pass.more(key, self.step);
                let written = claims.len();
                if let Err(error) = self.set_laid(key, claims, Some(laid)) {
                    return self.fail(plan, error.into());
                }
                plan.at += usize::from(self.to_be_laid(fec).is_none());
                if !budget.spend(written.max(1)) {
                    return;
                }
                continue;
            }
            plan.at += 1;
            if !budget.spend(1) {
                return;
            }
        }
        plan.go_to(match plan.is_reserved {
            true => Stage::WritePrefixes,
            false => Stage::Reserve,
        });
    }

    fn reserve(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        let change = plan.change.clone();
        while let Some((owner, route)) = change.route(plan.at) {
            match self.prepare(plan.at, owner, route, &plan.renamed) {
                Ok(route) => plan.prepared.push(route),
                Err(error) => return self.fail(plan, error),
            }
            plan.at += 1;
            if !budget.spend(route.paths().len()) {
                return;
            }
        }
        plan.go_to(match change {
            Change::Install {
                mode: Mode::ReplaceAll, ..
            } => Stage::Sweep,
            _ => Stage::Order,
        });
    }

    fn sweep(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        let Change::Install { owner, .. } = plan.change else {
            return plan.go_to(Stage::Order);
        };
        if plan.after.is_none() {
            plan.deleted.reserve(self.routes.len());
        }
        for (key, installed) in self.rest(plan.after) {
            plan.after = Some(key);
            if owner.sweeps(installed.owner) && !plan.given.contains(key) {
                plan.deleted.push(key);
            }
            if !budget.spend(1) {
                return;
            }
        }
        plan.go_to(Stage::Order);
    }

    /// Prefixes that were given in order come first, then the others in theirs.
    fn order(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        while let Some(key) = plan.changed_key(plan.at) {
            if let RouteKey::Prefix(fec) = key
                && !plan.given.others.contains_key(&fec)
            {
                plan.order_prefix(fec, plan.at);
            }
            if plan.at >= plan.prepared.len()
                && let Some(made) = &mut plan.made
                && made.has_room_for_deleted()
            {
                made.note_deleted(self.get(key).map(|listed| (listed.owner, listed.route)));
            }
            plan.at += 1;
            if !budget.spend(1) {
                return;
            }
        }
        while let Some((fec, index)) = plan.given.other_after(plan.ordered) {
            plan.order_prefix(fec, index as usize);
            plan.ordered = Some(fec);
            if !budget.spend(1) {
                return;
            }
        }
        plan.is_reserved = true;
        plan.go_to(Stage::WritePrefixes);
    }

    fn write_prefixes(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        while let Some((next, index)) = plan.next_prefix() {
            let Some(RouteKey::Prefix(fec)) = plan.changed_key(index) else {
                break;
            };
            if !self.has_room_for(fec, budget) {
                return;
            }
            let new = plan.prepared.get(index).map(Prepared::installed);
            let was_published = !self.has_to_publish();
            match self.set_fec(fec, new) {
                Ok(old) => plan.before.push((fec, index as u32, old)),
                // There may be room then.
                Err(_) if !was_published => {
                    if self.publish_step(budget) {
                        continue;
                    }
                    return;
                }
                Err(error) => return self.fail(plan, error.into()),
            }
            plan.written = Some(next);
            if !budget.spend(2) {
                return;
            }
        }
        // The slots that the routes had before are not free earlier, and the answer comes no earlier.
        if self.publish_step(budget) {
            plan.go_to(Stage::PublishLabels);
        }
    }

    /// The same for the writes that give a FEC another route. That of a prefix of length 0 comes after all earlier ones.
    fn has_room_for(&mut self, fec: Fec, budget: &mut Budget<'_>) -> bool {
        (fec.prefix.prefix_len() > 0 || self.publish_step(budget)) && self.has_ftn_room(budget)
    }

    /// Whether the FTN has room for a write. If not, nothing more is spent of the budget: a grace period has to end first.
    fn has_ftn_room(&mut self, budget: &mut Budget<'_>) -> bool {
        if self.tables.needs_publishing() && !self.publish_step(budget) {
            return false;
        }
        let has_room = self.look_for_ftn_room();
        if !has_room {
            budget.spend(usize::MAX);
        }
        has_room
    }

    /// Undoes what was done, after an error. The change is refused, or tried once more with more room in the FTN table.
    fn fail(&mut self, plan: &mut Plan, error: ChangeError) {
        plan.error = Some(error);
        plan.written = None;
        plan.go_to(Stage::UndoPrefixes);
    }

    fn undo_prefixes(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        while !plan.before.is_empty() {
            let next = plan.before.last().map(|&(fec, ..)| fec);
            if !next.is_none_or(|fec| self.has_room_for(fec, budget)) {
                return;
            }
            if let Some((fec, _, before)) = plan.before.pop() {
                self.restore_fec(fec, before);
            }
            if !budget.spend(2) {
                return;
            }
        }
        if !self.publish_step(budget) {
            return;
        }
        self.retry_unsettled();
        let is_table_error = matches!(plan.error, Some(ChangeError::Table(_)));
        if is_table_error {
            self.pass.set_all_going();
        }
        // Removing unneeded pass entries makes room in the table.
        let tidies = is_table_error && !plan.is_tidied && (self.has_to_sweep() || self.has_to_empty());
        plan.go_to(if tidies { Stage::Tidy } else { Stage::Abandon });
    }

    fn tidy(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        loop {
            if self.has_to_sweep() {
                self.sweep_pass_entries();
            } else if !self.empty_step() {
                break;
            }
            if !budget.spend(self.step) {
                return;
            }
        }
        plan.is_tidied = true;
        plan.error = None;
        plan.go_to(Stage::Lay);
    }

    fn abandon(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        // Latest first: nobody follows those next hops yet.
        while let Some(route) = plan.prepared.pop() {
            if let (RouteKey::Attachment(port), Some(pseudowire)) = (route.key, route.pseudowire) {
                self.pseudowires.drop_entrance(port, pseudowire);
            }
            self.drop_route(route.entry, !route.is_new);
            if !budget.spend(1) {
                return;
            }
        }
        plan.go_to(Stage::Done);
    }

    fn publish_labels(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        while let Some(route) = plan.prepared.get(plan.at) {
            // A prefix is counted when it is written.
            if !matches!(route.key, RouteKey::Prefix(_)) {
                let installed = self.with_turned(route.installed());
                let old = self.routes.get(route.key).map(|&old| self.with_turned(old));
                self.follow_forwarding(route.key, installed.entry, old.is_none());
                let (installs, replaced) = match (route.key, route.pseudowire) {
                    (RouteKey::Attachment(port), Some(pseudowire)) => {
                        let before = self.pseudowires.of_attachment(port);
                        let installs = match before.is_some_and(|before| before != pseudowire) {
                            true => plan.changes.replace(),
                            false => plan.changes.count(old, installed),
                        };
                        (installs, self.attach(port, pseudowire, installed))
                    }
                    (key, _) => {
                        let installs = plan.changes.count(old, installed);
                        if let RouteKey::Label(label) = key {
                            self.tables.store_ilm(label, installed.entry);
                        }
                        (installs, self.put(key, Some(installed)))
                    }
                };
                if let (Some(made), Some(installs)) = (&mut plan.made, installs) {
                    made.note_installed(plan.at, installs);
                }
                if let Some(old) = replaced {
                    self.drop_route(old.entry, true);
                }
            }
            plan.at += 1;
            if !budget.spend(1) {
                return;
            }
        }
        plan.go_to(Stage::DropReplaced);
    }

    fn drop_replaced(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        while let Some(&(fec, index, before)) = plan.before.get(plan.at) {
            let now = self.routes.get(RouteKey::Prefix(fec)).copied();
            if let Some(now) = now {
                let before = before.map(|before| self.with_turned(before));
                let installs = plan.changes.count(before, self.with_turned(now));
                if let (Some(made), Some(installs)) = (&mut plan.made, installs) {
                    made.note_installed(index as usize, installs);
                }
            }
            if let Some(before) = before {
                self.drop_route(before.entry, now.is_some());
            }
            plan.at += 1;
            if !budget.spend(1) {
                return;
            }
        }
        plan.go_to(Stage::Withdraw);
    }

    fn withdraw(&mut self, plan: &mut Plan, budget: &mut Budget<'_>) {
        while let Some(&key) = plan.deleted.get(plan.at) {
            let old = match key {
                RouteKey::Prefix(_) => None,
                RouteKey::Attachment(port) => self.detach(port),
                RouteKey::Label(label) => self.put(key, None).inspect(|_| {
                    self.tables.store_ilm(label, RouteEntry::EMPTY);
                }),
            };
            if let Some(old) = old {
                self.drop_route(old.entry, false);
            }
            plan.at += 1;
            if !budget.spend(1) {
                return;
            }
        }
        plan.changes.deleted = plan.deleted.len();
        plan.go_to(Stage::Done);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mplsxdp_common::wire::Label;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = RouteKey> {
        prop_oneof![
            (16..200u32).prop_map(|label| RouteKey::Label(Label::from_low_bits(label))),
            any::<u8>().prop_map(|host| {
                let prefix = ipnet::Ipv4Net::new_assert([10, 0, 0, host].into(), 32);
                RouteKey::Prefix(Fec::from(ipnet::IpNet::V4(prefix)))
            })
        ]
    }

    proptest! {
        #[test]
        fn given_keys_are_a_set_whatever_their_order(given in prop::collection::vec(key(), 0..80)) {
            let (mut keys, mut model) = (Keys::default(), BTreeSet::new());
            for (index, &key) in given.iter().enumerate() {
                prop_assert_eq!(keys.insert(key, index), model.insert(key));
                prop_assert!(given.iter().all(|&key| keys.contains(key) == model.contains(&key)));
            }
            // Each FEC is in one of the lists, both of which are sorted.
            let others = std::iter::successors(keys.other_after(None), |&(fec, _)| keys.other_after(Some(fec)));
            let others: Vec<_> = others.collect();
            prop_assert!(keys.sorted.is_sorted() && others.is_sorted_by_key(|&(fec, _)| fec));
            prop_assert!(others.iter().all(|&(fec, index)| given[index as usize] == RouteKey::Prefix(fec)));
            let fecs = model.iter().filter(|key| matches!(key, RouteKey::Prefix(_)));
            prop_assert_eq!(keys.sorted.len() + others.len(), fecs.count());
        }
    }
}

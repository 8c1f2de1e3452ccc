//! The FTN table: prefix routes, and pass entries in front of them. A write can fail, and is then undone or retried.

use std::collections::BTreeMap;
use std::ops::Bound;

use ipnet::IpNet;
use mplsxdp_common::abi::RouteEntry;

use super::pass::{Claim, Laid, Wanted};
use super::plan::Budget;
use super::{Installed, Lfib};
use crate::dataplane::{FtnKey, TableError, Tables};
use crate::route::{Fec, RouteKey};

/// How many pass entries one step writes or removes: it holds the event loop for about a millisecond.
pub(super) const STEP: usize = 128;
/// How many places one step tries to settle.
const SETTLED: usize = 256;
/// How much is published at once after a few writes, in operations.
const PUBLISHED: usize = 512;

/// One place of the FTN table: what it holds, and what it should hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub(super) key: FtnKey,
    pub(super) held: Option<RouteEntry>,
    pub(super) wanted: Option<RouteEntry>,
}

impl Write {
    /// The order in which every address sees the change as one step: first entries are written, from long prefixes to
    /// short ones, then others are removed, from short to long. So an address has its old entry until it has its new
    /// one.
    fn order(&self) -> (bool, u8) {
        let length = self.key.prefix.prefix_len();
        match self.wanted {
            Some(_) => (false, u8::MAX - length),
            None => (true, length),
        }
    }
}

impl<T: Tables> Lfib<T> {
    /// Whether changes wait until a grace period has ended: the FTN has no room before.
    pub fn awaits_room(&self) -> bool {
        self.awaited_room.is_some_and(|period| !self.tables.is_over(period))
    }

    /// Whether the FTN has room for a write, or none to wait for.
    pub(super) fn look_for_ftn_room(&mut self) -> bool {
        self.awaited_room = self.tables.await_ftn_room();
        self.awaited_room.is_none()
    }

    /// Whether readers do not find everything yet that was written to the FTN.
    pub fn has_to_publish(&self) -> bool {
        !self.tables.is_ftn_published()
    }

    /// Has readers find more of what was written to the FTN. Returns whether they find everything.
    pub fn publish_step(&mut self, budget: &mut Budget<'_>) -> bool {
        self.tables.publish_ftn(&mut |operations| budget.spend(operations))
    }

    /// Publishes a little at once; [`Lfib::publish_step`] does the rest.
    pub(super) fn publish_some(&mut self) {
        self.publish_step(&mut Budget::new(PUBLISHED, &mut || false));
    }

    /// Whether [`Lfib::tidy_step`] has something to do.
    pub fn has_to_tidy(&self) -> bool {
        self.has_to_sweep() || self.has_to_turn() || self.has_to_release() || self.settles
    }

    /// Does a part of the work that is not urgent: moves entries away from the slots that their next hops have left,
    /// and removes pass entries that nothing needs any more.
    pub fn tidy_step(&mut self, budget: &mut Budget<'_>) {
        self.finish_grace_periods();
        if self.settles {
            self.retry_unsettled();
        }
        self.turn_step(budget);
        while self.has_to_sweep() && budget.is_left() {
            self.sweep_pass_entries();
            budget.spend(self.step);
        }
    }

    /// Whether there are pass entries that nothing needs any more.
    pub(super) fn has_to_sweep(&self) -> bool {
        self.pass.going().is_some()
    }

    /// Removes some of these pass entries.
    pub(super) fn sweep_pass_entries(&mut self) {
        if let Some(key) = self.pass.going() {
            let (claims, laid) = self.pass.less(key, self.step);
            // Entries that cannot be removed are unsettled.
            let _ = self.set_laid(key, claims, laid);
        }
    }

    /// The first place where a route of `fec` needs more pass entries than one step writes, and some are missing.
    pub(super) fn to_be_laid(&self, fec: Fec) -> Option<FtnKey> {
        self.pass.places(fec).find(|&key| {
            self.pass.find(key).is_none()
                && !self.pass.is_beyond_end(key)
                && self.pass.holds_more_than(self.step, key)
                && self.pass.laid(key).is_none_or(|laid| !laid.is_whole() || laid.going)
        })
    }

    /// Makes the FTN table hold what is wanted at `claims`, once `laid` says which pass entries within `key` are laid.
    pub(super) fn set_laid(&mut self, key: FtnKey, claims: Vec<IpNet>, laid: Option<Laid>) -> Result<(), TableError> {
        let claims = claims.into_iter().map(|claim| FtnKey::new(key.domain, claim));
        let held: Vec<_> = claims.map(|claim| (claim, self.held(claim))).collect();
        self.pass.set_laid(key, laid);
        let mut result = Ok(());
        for (claim, held) in held {
            let wanted = self.wanted(claim);
            let write = Write {
                key: claim,
                held,
                wanted,
            };
            if held == wanted {
                continue;
            }
            if self.tables.needs_publishing() {
                self.unsettled.insert(claim, held);
                self.settles = true;
            } else if result.is_err() && wanted.is_some() {
                // If one insert fails, so will the others.
                self.unsettled.insert(claim, held);
            } else {
                result = result.and(self.write_ftn(write));
            }
        }
        if result.is_err() && laid.is_some_and(|laid| !laid.going) {
            self.pass.set_laid(key, laid.map(|laid| Laid { going: true, ..laid }));
        }
        self.publish_some();
        result
    }

    /// Sets what the kernel claims at each of these places: see [`PassEntries`]. An error means that the table could
    /// not be written: see [`Lfib::settle`].
    pub fn set_claims(&mut self, claims: &BTreeMap<FtnKey, Option<Claim>>) -> Result<(), TableError> {
        let news = claims.iter().filter(|&(&key, &claim)| self.pass.claim(key) != claim);
        let news: Vec<_> = news.map(|(&key, &claim)| (key, claim, self.held(key))).collect();
        for &(key, claim, _) in &news {
            self.pass.set_claim(key, claim);
        }
        let mut writes: Vec<Write> = news
            .into_iter()
            .map(|(key, _, held)| Write {
                key,
                held,
                wanted: self.wanted(key),
            })
            .filter(|write| write.held != write.wanted)
            .collect();
        writes.sort_unstable_by_key(Write::order);
        self.publish_some();
        for write in writes {
            // Anything that this leaves unsettled is retried below.
            if self.tables.needs_publishing() {
                self.unsettled.insert(write.key, write.held);
            } else {
                let _ = self.write_safely(write);
            }
        }
        self.settle()
    }

    /// At how many places the FTN table does not hold what is wanted because a write failed.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Retries the writes to the FTN table that failed. Every change does so, too; if none comes, call this from time
    /// to time while anything is unsettled.
    /// If there are many places, it tries some of them, in turn; [`Lfib::tidy_step`] continues while that succeeds.
    pub fn settle(&mut self) -> Result<(), TableError> {
        let after = self.settled.map_or(Bound::Unbounded, Bound::Excluded);
        let before = self.settled.map(|last| self.unsettled.range(..=last));
        let rest = self.unsettled.range((after, Bound::Unbounded));
        let unsettled = self.unsettled.len();
        let mut writes: Vec<Write> = rest
            .chain(before.into_iter().flatten())
            .take(SETTLED)
            .map(|(&key, &held)| Write {
                key,
                held,
                wanted: self.wanted(key),
            })
            .collect();
        self.settled = writes.last().map(|write| write.key);
        writes.sort_unstable_by_key(Write::order);
        self.publish_some();
        let (mut result, mut waits) = (Ok(()), false);
        for write in writes {
            if self.tables.needs_publishing() {
                waits = true;
                break;
            }
            let held = self.held(write.key);
            let write = Write { held, ..write };
            // If one insert fails for want of memory or room, so will the others.
            if result.is_err() && write.wanted.is_some() {
                if write.wanted == Some(RouteEntry::PASS) {
                    self.withhold(write.key);
                }
            } else {
                result = result.and(self.write_safely(write));
            }
        }
        self.settles = waits || result.is_ok() && (1..unsettled).contains(&self.unsettled.len());
        self.publish_some();
        result
    }

    /// [`Lfib::write_ftn`], but never imposes labels on packets that the kernel claims: if a pass entry cannot be
    /// written, the routes that cover it are removed from the table, and a route that covers such a claim is not
    /// written yet.
    fn write_safely(&mut self, write: Write) -> Result<(), TableError> {
        if self.would_impose_claimed(write) {
            self.unsettled.insert(write.key, write.held);
            return Ok(());
        }
        let written = self.write_ftn(write);
        if written.is_err() && write.wanted == Some(RouteEntry::PASS) && self.withhold(write.key) {
            // There is room now.
            let held = self.held(write.key);
            return self.write_ftn(Write { held, ..write });
        }
        written
    }

    /// Whether `write` is for a route that covers a claim whose pass entry could not be written.
    fn would_impose_claimed(&self, write: Write) -> bool {
        let mut within = self.unsettled_within(write.key);
        write.wanted.is_some_and(|entry| entry != RouteEntry::PASS)
            && within.any(|(key, held)| held != Some(RouteEntry::PASS) && self.pass.wanted(key) == Wanted::Pass)
    }

    /// Removes from the FTN table the routes that cover `claimed`, whose pass entry could not be written: it is better
    /// if the kernel routes all of their packets than if packets for the kernel get labels. Returns whether there were
    /// any.
    fn withhold(&mut self, claimed: FtnKey) -> bool {
        let covering: Vec<FtnKey> = self.pass.covering(claimed).filter(|&key| key != claimed).collect();
        let mut any = false;
        for key in std::iter::once(claimed).chain(covering) {
            let held = self.held(key);
            if held.is_some_and(|entry| entry != RouteEntry::PASS) {
                let removed = self.tables.remove_ftn(key).is_ok();
                self.unsettled.insert(key, held.filter(|_| !removed));
                any |= removed;
            }
        }
        any
    }

    /// Gives a FEC another route, or none, and returns the previous one. Then makes the FTN table hold what is wanted;
    /// if that fails, everything is restored.
    pub(super) fn set_fec(&mut self, fec: Fec, route: Option<Installed>) -> Result<Option<Installed>, TableError> {
        let laid = self.pass.places(fec).map(|key| (key, self.pass.laid(key)));
        let laid: Vec<(FtnKey, Option<Laid>)> = laid.collect();
        let (before, writes) = self.turn_fec(fec, route);
        for (index, &write) in writes.iter().enumerate() {
            let Err(error) = self.write_ftn(write) else { continue };
            self.put(RouteKey::Prefix(fec), before);
            if before.is_some() != route.is_some() {
                self.pass.set_route(fec, before.is_some());
                for (key, laid) in laid {
                    self.pass.set_laid(key, laid.map(|laid| Laid { going: true, ..laid }));
                }
            }
            self.take_back(&writes[..=index]);
            return Err(error);
        }
        Ok(before)
    }

    /// [`Lfib::set_fec`] with the route that a FEC had before. What cannot be written is unsettled.
    pub(super) fn restore_fec(&mut self, fec: Fec, before: Option<Installed>) {
        let (_, writes) = self.turn_fec(fec, before);
        for write in writes {
            // Anything that this leaves unsettled is retried.
            let _ = self.write_safely(write);
        }
    }

    /// Gives a FEC this route, or none. Returns its previous route and the writes to make, in an order in which each
    /// address sees one step.
    fn turn_fec(&mut self, fec: Fec, route: Option<Installed>) -> (Option<Installed>, Vec<Write>) {
        let key = RouteKey::Prefix(fec);
        let route = route.map(|route| self.with_turned(route));
        let before = self.routes.get(key).copied();
        if let Some(route) = route {
            self.follow_forwarding(key, route.entry, before.is_none());
        }
        if before.map(|before| before.entry) == route.map(|route| route.entry) {
            self.put(key, route);
            return (before, Vec::new());
        }
        let comes_or_goes = before.is_some() != route.is_some();
        // If the prefix has another route, the covered claims stay the same.
        let has_fallback = self.pass.has_fallback(fec);
        let mut concerned = Vec::new();
        let mut laid = Vec::new();
        for key in self.pass.places(fec) {
            concerned.push(key);
            if route.is_some() || has_fallback {
                concerned.extend(self.unsettled_within(key).map(|(key, _)| key));
            }
            if !comes_or_goes || has_fallback {
                continue;
            }
            let goes_in_steps = route.is_none() && self.pass.holds_more_than(self.step, key);
            let after = goes_in_steps.then_some(Laid::ALL_GOING);
            // If all of its pass entries are there and stay, they are not part of the change.
            let is_small = after.is_none() && !self.pass.is_beyond_end(key);
            if is_small && self.pass.laid(key).is_none_or(|laid| !laid.is_whole()) {
                concerned.extend(self.pass.claims_within(key));
            }
            laid.push((key, after));
        }
        concerned.sort_unstable();
        concerned.dedup();
        let held: Vec<Option<RouteEntry>> = concerned.iter().map(|&key| self.held(key)).collect();
        if comes_or_goes {
            self.pass.set_route(fec, route.is_some());
        }
        for (key, laid) in laid {
            self.pass.set_laid(key, laid);
        }
        self.put(key, route);
        let writes = concerned.into_iter().zip(held);
        let writes = writes.map(|(key, held)| Write {
            key,
            held,
            wanted: self.wanted(key),
        });
        let mut writes: Vec<Write> = writes.collect();
        writes.sort_unstable_by_key(Write::order);
        (before, writes)
    }

    /// Undoes `writes`, the last of which has failed.
    fn take_back(&mut self, writes: &[Write]) {
        for done in writes.iter().rev() {
            let key = done.key;
            let back = Write {
                key,
                held: self.unsettled.get(&key).copied().unwrap_or(done.wanted),
                wanted: done.held,
            };
            if self.write_ftn(back).is_ok() && done.held != self.wanted(key) {
                self.unsettled.insert(key, done.held);
            }
        }
        self.retry_unsettled();
    }

    /// [`Lfib::settle`] as a part of another operation: the caller checks [`Lfib::unsettled`].
    pub(super) fn retry_unsettled(&mut self) {
        if let Err(error) = self.settle() {
            tracing::debug!(%error, "the FTN table cannot be written yet");
        }
    }

    /// Makes the FTN table hold what is wanted at one place. If that fails, notes what it holds.
    pub(super) fn write_ftn(&mut self, write: Write) -> Result<(), TableError> {
        let Write { key, held, wanted } = write;
        let result = match wanted {
            _ if held == wanted => Ok(()),
            Some(entry) => self.tables.insert_ftn(key, entry),
            None => self.tables.remove_ftn(key),
        };
        match result {
            Ok(()) => self.unsettled.remove(&key),
            Err(_) => self.unsettled.insert(key, held),
        }
        result
    }

    /// The places within `key`, itself included, where a write has failed, and what the table holds there.
    fn unsettled_within(&self, key: FtnKey) -> impl Iterator<Item = (FtnKey, Option<RouteEntry>)> {
        let unsettled = self.unsettled.range(key..).map(|(&key, &held)| (key, held));
        unsettled.take_while(move |(within, _)| within.domain == key.domain && key.prefix.contains(&within.prefix))
    }

    /// What the FTN table holds at `key`.
    pub(super) fn held(&self, key: FtnKey) -> Option<RouteEntry> {
        match self.unsettled.get(&key) {
            Some(&held) => held,
            None => self.wanted(key),
        }
    }

    /// What the FTN table should hold at `key`.
    pub(super) fn wanted(&self, key: FtnKey) -> Option<RouteEntry> {
        match self.pass.wanted(key) {
            Wanted::Route(fec) => Some(self.routes.get(RouteKey::Prefix(fec))?.entry),
            Wanted::Pass => Some(RouteEntry::PASS),
            Wanted::Nothing => None,
        }
    }
}

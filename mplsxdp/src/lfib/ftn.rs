//! The FTN table: routes of prefixes, and pass entries in front of them. A write can fail, and is then undone or tried again.

use std::collections::BTreeMap;

use ipnet::IpNet;
use mplsxdp_common::abi::RouteEntry;

use super::pass::{Claim, Laid, Wanted};
use super::plan::Budget;
use super::{Installed, Lfib};
use crate::dataplane::{FtnKey, TableError, Tables};
use crate::route::{Fec, RouteKey};

/// How many pass entries one step takes: it holds the event loop for about a millisecond.
pub(super) const STEP: usize = 128;

/// One place of the FTN table: what it holds, and what it is to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub(super) key: FtnKey,
    pub(super) held: Option<RouteEntry>,
    pub(super) wanted: Option<RouteEntry>,
}

impl Write {
    /// The order in which every address sees the change as one step: entries that are written go from long prefixes to short
    /// ones, and then those that are removed from short to long. So an address has its old entry until it has its new one.
    fn order(&self) -> (bool, u8) {
        let length = self.key.prefix.prefix_len();
        match self.wanted {
            Some(_) => (false, u8::MAX - length),
            None => (true, length),
        }
    }
}

impl<T: Tables> Lfib<T> {
    /// Whether there is work for [`Lfib::tidy_step`].
    pub fn has_to_tidy(&self) -> bool {
        self.has_to_sweep() || self.has_to_turn()
    }

    /// Does a part of what has time: entries leave the slots that their next hops have left, and pass entries go that nothing
    /// needs any more.
    pub fn tidy_step(&mut self, budget: &mut Budget<'_>) {
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

    /// Removes some of them.
    pub(super) fn sweep_pass_entries(&mut self) {
        if let Some(key) = self.pass.going() {
            let (claims, laid) = self.pass.less(key, self.step);
            // What cannot be removed is unsettled.
            let _ = self.set_laid(key, claims, laid);
        }
    }

    /// The first place where a route of `fec` needs more pass entries than a step's, and does not have all of them.
    pub(super) fn to_be_laid(&self, fec: Fec) -> Option<FtnKey> {
        self.pass.places(fec).find(|&key| {
            self.pass.find(key).is_none()
                && !self.pass.is_beyond_end(key)
                && self.pass.holds_more_than(self.step, key)
                && self.pass.laid(key).is_none_or(|laid| !laid.is_whole() || laid.going)
        })
    }

    /// Has the FTN table hold what is wanted at `claims`, once `laid` is what is laid of `key`.
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
            // Where one insert fails, so do the others.
            if result.is_err() && wanted.is_some() {
                self.unsettled.insert(claim, held);
            } else {
                result = result.and(self.write_ftn(write));
            }
        }
        if result.is_err() && laid.is_some_and(|laid| !laid.going) {
            self.pass.set_laid(key, laid.map(|laid| Laid { going: true, ..laid }));
        }
        result
    }

    /// What the kernel claims of each of these places from now on: see [`PassEntries`]. An error says that the table could not
    /// be written: see [`Lfib::settle`].
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
        for write in writes {
            // What this leaves unsettled is tried again below.
            let _ = self.write_safely(write);
        }
        self.settle()
    }

    /// How many places there are at which the FTN table does not hold what is wanted, as a write has failed.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Writes once more what could not be written to the FTN table. Every change tries so, too; with no change to come, this is
    /// to be called from time to time for as long as anything is unsettled.
    pub fn settle(&mut self) -> Result<(), TableError> {
        let mut writes: Vec<Write> = self
            .unsettled
            .iter()
            .map(|(&key, &held)| Write {
                key,
                held,
                wanted: self.wanted(key),
            })
            .collect();
        writes.sort_unstable_by_key(Write::order);
        let mut result = Ok(());
        for write in writes {
            let held = self.held(write.key);
            let write = Write { held, ..write };
            // Where one insert fails for want of memory or room, so do the others.
            if result.is_err() && write.wanted.is_some() {
                if write.wanted == Some(RouteEntry::PASS) {
                    self.withhold(write.key);
                }
            } else {
                result = result.and(self.write_safely(write));
            }
        }
        result
    }

    /// [`Lfib::write_ftn`], but so that no packet is imposed that the kernel claims: where a pass entry cannot be written, the
    /// routes that cover it do not stay in the table, and a route that covers such a claim is not written yet.
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

    /// Whether `write` is of a route that covers a claim whose pass entry could not be written.
    fn would_impose_claimed(&self, write: Write) -> bool {
        let mut within = self.unsettled_within(write.key);
        write.wanted.is_some_and(|entry| entry != RouteEntry::PASS)
            && within.any(|(key, held)| held != Some(RouteEntry::PASS) && self.pass.wanted(key) == Wanted::Pass)
    }

    /// Takes the routes out of the FTN table that cover `claimed`, whose pass entry could not be written: better the kernel's
    /// routing for all of their packets than labels on the kernel's. Returns whether there were any.
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

    /// Gives a FEC another route, or none, and returns what it had. The FTN table is brought to what is wanted then; if that
    /// fails, all is as it was.
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

    /// [`Lfib::set_fec`] for what a FEC had before. What cannot be written is unsettled.
    pub(super) fn restore_fec(&mut self, fec: Fec, before: Option<Installed>) {
        let (_, writes) = self.turn_fec(fec, before);
        for write in writes {
            // What this leaves unsettled is tried again.
            let _ = self.write_safely(write);
        }
    }

    /// Has a FEC have this route, or none. Returns what it had, and what to write, in an order in which each address sees one
    /// step.
    fn turn_fec(&mut self, fec: Fec, route: Option<Installed>) -> (Option<Installed>, Vec<Write>) {
        let key = RouteKey::Prefix(fec);
        let route = route.map(|route| self.with_turned(route));
        let before = self.routes.get(&key).copied();
        if let Some(route) = route {
            self.follow_forwarding(key, route.entry, before.is_none());
        }
        if before.map(|before| before.entry) == route.map(|route| route.entry) {
            self.put(key, route);
            return (before, Vec::new());
        }
        let comes_or_goes = before.is_some() != route.is_some();
        // With another route for the prefix, no claim becomes or ceases to be covered.
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
            // If all of its pass entries are there and stay, they are no part of the change.
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

    /// [`Lfib::settle`] as a part of something else: who calls asks for [`Lfib::unsettled`].
    pub(super) fn retry_unsettled(&mut self) {
        if let Err(error) = self.settle() {
            tracing::debug!(%error, "the FTN table cannot be written yet");
        }
    }

    /// Has the FTN table hold what is wanted at one place, and notes what it holds where that fails.
    pub(super) fn write_ftn(&mut self, write: Write) -> Result<(), TableError> {
        let Write { key, held, wanted } = write;
        let mut now = held;
        let mut result = match wanted {
            _ if held == wanted => Ok(()),
            Some(entry) => self.tables.insert_ftn(key, entry),
            None => self.tables.remove_ftn(key),
        };
        // Before Linux 6.13, a full table takes no other entry for a prefix that it has.
        if let (Err(error), Some(entry), Some(_)) = (&result, wanted, held)
            && error.source.kind() == std::io::ErrorKind::StorageFull
            && self.tables.remove_ftn(key).is_ok()
        {
            now = None;
            result = self.tables.insert_ftn(key, entry);
        }
        match result {
            Ok(()) => self.unsettled.remove(&key),
            Err(_) => self.unsettled.insert(key, now),
        };
        result
    }

    /// The places within `key`, itself included, where a write has failed, and what they hold.
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

    /// What the FTN table is to hold at `key`.
    pub(super) fn wanted(&self, key: FtnKey) -> Option<RouteEntry> {
        match self.pass.wanted(key) {
            Wanted::Route(fec) => Some(self.routes.get(&RouteKey::Prefix(fec))?.entry),
            Wanted::Pass => Some(RouteEntry::PASS),
            Wanted::Nothing => None,
        }
    }
}

//! The pairs of a next hop and a backup that has labels of its own. Equal pairs are shared. This is bookkeeping only: the
//! LFIB writes the entries.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use mplsxdp_common::abi::RouteEntry;

use super::next_hops::NextHopId;
use super::pool::Interner;

/// What is done to frames by a next hop, and by its backup while the next hop is not resolved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pair([u64; 2]);

impl Pair {
    /// From the entries of both, without their next hops' indexes, which may change.
    pub fn new(entries: [(RouteEntry, NextHopId); 2]) -> Self {
        Self(entries.map(|(entry, id)| entry.with_next_hop(id.0).to_bits()))
    }

    /// The entries of both, without their next hops' indexes.
    pub fn entries(self) -> [(RouteEntry, NextHopId); 2] {
        self.0.map(|bits| {
            let entry = RouteEntry::from_bits(bits);
            (entry.with_next_hop(0), NextHopId(entry.next_hop()))
        })
    }

    pub fn next_hops(self) -> [NextHopId; 2] {
        self.entries().map(|(_, id)| id)
    }
}

/// All pairs in use.
#[derive(Debug)]
pub struct Backups {
    shared: Interner<Pair>,
    by_next_hop: BTreeSet<(NextHopId, u32)>,
    /// By a next hop and a backup, how many pairs have both.
    both: BTreeMap<(NextHopId, NextHopId), usize>,
}

impl Backups {
    pub fn new(capacity: u32) -> Self {
        Self {
            shared: Interner::new(capacity),
            by_next_hop: BTreeSet::new(),
            both: BTreeMap::new(),
        }
    }

    /// The slot of `pair` with one more user, and whether it is new, so that it must be written; `None` if all slots are
    /// taken.
    pub fn take(&mut self, pair: Pair) -> Option<(u32, bool)> {
        let (slot, is_new) = self.shared.take(&pair)?;
        if is_new {
            self.by_next_hop.extend(pair.next_hops().map(|id| (id, slot)));
            *self.both.entry(pair.next_hops().into()).or_default() += 1;
        }
        Some((slot, is_new))
    }

    /// Removes one user.
    pub fn drop_user(&mut self, slot: u32) {
        let Some(pair) = self.shared.drop_user(slot) else {
            return;
        };
        for id in pair.next_hops() {
            self.by_next_hop.remove(&(id, slot));
        }
        let both = pair.next_hops().into();
        if let Some(pairs) = self.both.get_mut(&both) {
            *pairs -= 1;
            if *pairs == 0 {
                self.both.remove(&both);
            }
        }
    }

    /// The backups that pairs have for this next hop.
    pub fn of(&self, next_hop: NextHopId) -> impl Iterator<Item = NextHopId> {
        let range = (next_hop, NextHopId(0))..=(next_hop, NextHopId(u16::MAX));
        self.both.range(range).map(|(&(_, backup), _)| backup)
    }

    pub fn get(&self, slot: u32) -> Option<Pair> {
        self.shared.get(slot).copied()
    }

    /// The next pair after `after`, or the first, that has this next hop.
    pub fn next_with(&self, next_hop: NextHopId, after: Option<u32>) -> Option<u32> {
        let first = match after {
            Some(slot) => Bound::Excluded((next_hop, slot)),
            None => Bound::Included((next_hop, 0)),
        };
        let mut pairs = self.by_next_hop.range((first, Bound::Included((next_hop, u32::MAX))));
        pairs.next().map(|&(_, slot)| slot)
    }

    /// The slots in use.
    #[cfg(test)]
    pub fn all(&self) -> BTreeSet<u32> {
        self.by_next_hop.iter().map(|&(_, slot)| slot).collect()
    }

    pub fn len(&self) -> usize {
        self.shared.len()
    }

    pub fn has_held_back(&self) -> bool {
        self.shared.has_held_back()
    }

    pub fn take_held_back(&mut self) -> Vec<u32> {
        self.shared.take_held_back()
    }

    pub fn release(&mut self, slots: &[u32]) {
        self.shared.release(slots);
    }
}

#[cfg(test)]
mod tests {
    use mplsxdp_common::abi::{Op, TtlPropagate};

    use super::*;

    fn pair(label: u32, next_hops: [u16; 2]) -> Pair {
        let entry = |op, next_hop| {
            let entry = RouteEntry::new(op, TtlPropagate::Disabled, label, 7, 0);
            (entry, NextHopId(next_hop))
        };
        Pair::new([entry(Op::Label, next_hops[0]), entry(Op::Stack, next_hops[1])])
    }

    #[test]
    fn a_pair_is_kept_without_indexes_and_found_by_both_next_hops() {
        let one = pair(100, [u16::MAX, 3]);
        let [(primary, first), (backup, second)] = one.entries();
        assert_eq!((first, second), (NextHopId(u16::MAX), NextHopId(3)));
        assert_eq!(
            (primary.op(), primary.operand(), primary.next_hop()),
            (Op::Label, 100, 0)
        );
        assert_eq!(
            (backup.op(), backup.ttl_propagate()),
            (Op::Stack, TtlPropagate::Disabled)
        );

        let mut backups = Backups::new(3);
        for (slot, pair) in [(0, one), (1, pair(100, [3, 4])), (2, pair(101, [3, 4]))] {
            assert_eq!(backups.take(pair), Some((slot, true)));
        }
        assert_eq!(backups.take(one), Some((0, false)));
        assert_eq!(backups.take(pair(102, [3, 4])), None);
        let with = |backups: &Backups, id| {
            let next = |after: &u32| backups.next_with(NextHopId(id), Some(*after));
            Vec::from_iter(std::iter::successors(backups.next_with(NextHopId(id), None), next))
        };
        assert_eq!(
            [3, 4, u16::MAX, 5].map(|id| with(&backups, id)),
            [vec![0, 1, 2], vec![1, 2], vec![0], vec![]]
        );
        let of = |backups: &Backups, id| Vec::from_iter(backups.of(NextHopId(id)).map(|id| id.0));
        assert_eq!([3, 4, u16::MAX].map(|id| of(&backups, id)), [vec![4], vec![], vec![3]]);
        backups.drop_user(0);
        assert_eq!(with(&backups, u16::MAX), [0]);
        (0..3).for_each(|slot| backups.drop_user(slot));
        assert!(backups.by_next_hop.is_empty() && backups.both.is_empty() && backups.shared.is_empty());
    }
}

//! The groups of routes with several next hops; equal groups are shared. This is bookkeeping only: the LFIB writes the
//! buckets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use mplsxdp_common::abi::{BUCKETS, RouteEntry};

use super::next_hops::NextHopId;
use super::pool::Interner;
use super::spread::{Former, Spread, assign, stand_in};

/// One path as its bucket has it, without the next hop's index, which may change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Member {
    /// Bits of a [`RouteEntry`] without next hop and counter.
    operation: u64,
    pub next_hop: NextHopId,
    /// Its backup, if that has labels of its own: the operation is for the pair of both.
    pub backup: Option<NextHopId>,
    pub weight: u16,
}

impl Member {
    /// From `entry`, without the next hop's index and the counter.
    pub fn new(entry: RouteEntry, next_hop: NextHopId, backup: Option<NextHopId>, weight: u16) -> Self {
        let operation = RouteEntry::new(entry.op(), entry.ttl_propagate(), entry.operand(), 0, 0).to_bits();
        Self {
            operation,
            next_hop,
            backup,
            weight,
        }
    }

    /// Whether its frames cannot be sent; `is_out` says this of a next hop.
    fn is_out(&self, is_out: impl Fn(NextHopId) -> bool) -> bool {
        is_out(self.next_hop) && self.backup.is_none_or(is_out)
    }

    fn next_hops(&self) -> impl Iterator<Item = NextHopId> {
        std::iter::once(self.next_hop).chain(self.backup)
    }

    /// The bucket of this member, without the next hop's index.
    pub fn entry(&self) -> RouteEntry {
        RouteEntry::from_bits(self.operation)
    }

    /// Whether both have the same labels, whatever their TTL mode.
    fn does_as(&self, other: &Self) -> bool {
        let (one, other) = (self.entry(), other.entry());
        (one.op(), one.operand()) == (other.op(), other.operand())
    }
}

/// The members, and the buckets that each has while all of them can be reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Group {
    members: Box<[Member]>,
    base: Spread,
}

/// The member that gets the frames of each bucket now.
#[derive(Clone, Debug)]
struct Present {
    out: Vec<bool>,
    spread: Spread,
}

/// All groups in use.
#[derive(Debug)]
pub struct Groups {
    shared: Interner<Group>,
    present: HashMap<u32, Present>,
    by_next_hop: BTreeMap<NextHopId, BTreeSet<u32>>,
    /// Those with the same members, and other histories.
    by_members: BTreeMap<Box<[Member]>, BTreeSet<u32>>,
}

/// What a route had before.
#[derive(Clone, Copy, Debug)]
pub enum Before {
    Nothing,
    /// A next hop on its own: a group of one.
    One(Member),
    Group(u32),
}

impl Groups {
    pub fn new(capacity: u32) -> Self {
        Self {
            shared: Interner::new(capacity),
            present: HashMap::with_capacity(capacity as usize),
            by_next_hop: BTreeMap::new(),
            by_members: BTreeMap::new(),
        }
    }

    /// A group of `members` with one more user, and whether it is new, so that its buckets must be written. It is the
    /// one that moves the fewest flows of a route that had `before`; if there is no room for that one, another with the
    /// same members; `None` if there is none. `is_same` says whether two next hops are the same neighbour.
    pub fn take(
        &mut self,
        members: Vec<Member>,
        before: Before,
        is_out: impl Fn(NextHopId) -> bool,
        is_same: impl Fn(NextHopId, NextHopId) -> bool,
    ) -> Option<(u32, bool)> {
        let out: Vec<bool> = members.iter().map(|member| member.is_out(&is_out)).collect();
        let (group, spread) = self.derive(members, before, &out, is_same)?;
        if let Some((slot, new)) = self.shared.take(&group) {
            if new {
                self.present.insert(slot, Present { out, spread });
                for next_hop in group.members.iter().flat_map(Member::next_hops) {
                    self.by_next_hop.entry(next_hop).or_default().insert(slot);
                }
                self.by_members.entry(group.members).or_default().insert(slot);
            }
            return Some((slot, new));
        }
        let alike = self.by_members.get(&group.members)?.first()?;
        let alike = self.shared.get(*alike)?.clone();
        self.shared.take(&alike)
    }

    /// Removes one user.
    pub fn drop_user(&mut self, slot: u32) {
        let Some(group) = self.shared.drop_user(slot) else {
            return;
        };
        self.present.remove(&slot);
        for next_hop in group.members.iter().flat_map(Member::next_hops) {
            remove(&mut self.by_next_hop, &next_hop, slot);
        }
        remove(&mut self.by_members, &group.members, slot);
    }

    /// In the order in which they were given.
    pub fn members(&self, slot: u32) -> Option<&[Member]> {
        self.shared.get(slot).map(|group| &*group.members)
    }

    /// The member, by its index, that gets the frames of each bucket now.
    pub fn spread(&self, slot: u32) -> Option<&Spread> {
        self.present.get(&slot).map(|present| &present.spread)
    }

    /// The next group after `after`, or the first, that has this next hop as a member, or as a member's backup with
    /// labels of its own.
    pub fn next_with(&self, next_hop: NextHopId, after: Option<u32>) -> Option<u32> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut groups = self.by_next_hop.get(&next_hop)?.range((after, Bound::Unbounded));
        groups.next().copied()
    }

    /// Notes which next hops of a group cannot be reached. Returns whether buckets moved.
    pub fn follow(&mut self, slot: u32, is_out: impl Fn(NextHopId) -> bool) -> bool {
        let (Some(group), Some(present)) = (self.shared.get(slot), self.present.get_mut(&slot)) else {
            return false;
        };
        let out: Vec<bool> = group.members.iter().map(|member| member.is_out(&is_out)).collect();
        if out == present.out {
            return false;
        }
        let spread = stand_in(
            &group.base,
            &weights(&group.members),
            &present.out,
            &out,
            &present.spread,
        );
        let moved = spread != present.spread;
        *present = Present { out, spread };
        moved
    }

    pub fn len(&self) -> usize {
        self.shared.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shared.is_empty()
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

    /// The group of `members` that has the most in common with `before`, and which members get the frames of its
    /// buckets while those in `out` cannot be reached.
    fn derive(
        &self,
        members: Vec<Member>,
        before: Before,
        out: &[bool],
        is_same: impl Fn(NextHopId, NextHopId) -> bool,
    ) -> Option<(Group, Spread)> {
        let weights_now = weights(&members);
        let (former_members, base, spread) = match before {
            Before::Nothing => (Vec::new(), [0; BUCKETS], [0; BUCKETS]),
            Before::One(member) => (vec![member], [0; BUCKETS], [0; BUCKETS]),
            Before::Group(slot) => {
                let group = self.shared.get(slot)?;
                (group.members.to_vec(), group.base, *self.spread(slot)?)
            }
        };
        let now = successors(&former_members, &members, is_same);
        let former_weights = weights(&former_members);
        let former = (!former_members.is_empty()).then_some(Former {
            spread: &base,
            weights: &former_weights,
            now: &now,
        });
        let base = assign(&weights_now, former);
        // A member that stands in for another at a bucket keeps it.
        let mut current = base;
        for (current, member) in current.iter_mut().zip(spread) {
            if let Some(&Some(member)) = now.get(usize::from(member)) {
                *current = member;
            }
        }
        let spread = stand_in(&base, &weights_now, out, out, &current);
        let members = members.into();
        Some((Group { members, base }, spread))
    }
}

fn remove<K: Ord>(index: &mut BTreeMap<K, BTreeSet<u32>>, key: &K, slot: u32) {
    if let Some(slots) = index.get_mut(key) {
        slots.remove(&slot);
        if slots.is_empty() {
            index.remove(key);
        }
    }
}

fn weights(members: &[Member]) -> Vec<u16> {
    members.iter().map(|member| member.weight).collect()
}

/// Which of `members` each of the `former` ones is: the one that does the same through the same next hop; else through
/// the same neighbour, with another backup or with its interface given or not; else one that does something else there,
/// such as use another label.
fn successors(
    former: &[Member],
    members: &[Member],
    is_same: impl Fn(NextHopId, NextHopId) -> bool,
) -> Vec<Option<u8>> {
    let mut now = vec![None; former.len()];
    let mut taken = vec![false; members.len()];
    for (exactly, does_as) in [(true, true), (false, true), (true, false), (false, false)] {
        let is_it = |old: &Member, new: &Member| {
            let same = if exactly {
                old.next_hop == new.next_hop
            } else {
                is_same(old.next_hop, new.next_hop)
            };
            same && (!does_as || old.does_as(new))
        };
        for (old, now) in former.iter().zip(&mut now).filter(|(_, now)| now.is_none()) {
            let mut new = members.iter().zip(&mut taken).zip(0u8..=u8::MAX);
            let found = new.find(|((new, taken), _)| !**taken && is_it(old, new));
            if let Some(((_, taken), index)) = found {
                *taken = true;
                *now = Some(index);
            }
        }
    }
    now
}

#[cfg(test)]
mod tests {
    use mplsxdp_common::abi::{Op, TtlPropagate};

    use super::*;

    fn member(label: u32, next_hop: u16) -> Member {
        let entry = RouteEntry::new(Op::Label, TtlPropagate::Default, label, 0, 0);
        Member::new(entry, NextHopId(next_hop), None, 1)
    }

    fn all_in(_: NextHopId) -> bool {
        false
    }

    /// Those of the same last digit.
    fn is_same(id: NextHopId, other: NextHopId) -> bool {
        id.0 % 10 == other.0 % 10
    }

    #[test]
    fn equal_groups_are_one_and_other_histories_are_others() {
        let mut groups = Groups::new(3);
        let three = || vec![member(100, 1), member(100, 2), member(100, 3)];
        let two = || vec![member(100, 2), member(100, 3)];
        assert_eq!(groups.take(three(), Before::Nothing, all_in, is_same), Some((0, true)));
        assert_eq!(groups.take(three(), Before::Nothing, all_in, is_same), Some((0, false)));
        // Both routes lose the same member, and still share one group.
        assert_eq!(groups.take(two(), Before::Group(0), all_in, is_same), Some((1, true)));
        assert_eq!(groups.take(two(), Before::Group(0), all_in, is_same), Some((1, false)));
        assert_eq!(groups.take(two(), Before::Nothing, all_in, is_same), Some((2, true)));
        // If there is no room for a group with another history, one with the same members is used.
        assert_eq!(
            groups
                .take(two(), Before::One(member(100, 3)), all_in, is_same)
                .map(|(_, new)| new),
            Some(false)
        );
        assert_eq!(
            groups.take(vec![member(1, 1), member(1, 2)], Before::Nothing, all_in, is_same),
            None
        );
        assert_eq!(groups.len(), 3);
    }

    #[test]
    fn a_member_with_another_label_keeps_its_flows() {
        let mut groups = Groups::new(2);
        let (first, _) = groups
            .take(vec![member(100, 1), member(200, 2)], Before::Nothing, all_in, is_same)
            .unwrap();
        let (second, _) = groups
            .take(
                vec![member(300, 2), member(100, 1)],
                Before::Group(first),
                all_in,
                is_same,
            )
            .unwrap();
        let (before, after) = (groups.spread(first).unwrap(), groups.spread(second).unwrap());
        assert!(before.iter().zip(after).all(|(&before, &after)| before + after == 1));
    }

    #[test]
    fn a_member_with_another_backup_keeps_its_flows() {
        let mut groups = Groups::new(4);
        let three = || vec![member(100, 1), member(100, 2), member(100, 3)];
        // A history, so that the order of the members does not matter.
        let (first, _) = groups.take(three(), Before::Nothing, all_in, is_same).unwrap();
        let two = vec![member(100, 1), member(100, 3)];
        let (second, _) = groups.take(two, Before::Group(first), all_in, is_same).unwrap();
        let (third, _) = groups.take(three(), Before::Group(second), all_in, is_same).unwrap();
        let others = vec![member(100, 11), member(100, 12), member(200, 13)];
        let (fourth, _) = groups.take(others, Before::Group(third), all_in, is_same).unwrap();
        assert_eq!(groups.spread(third), groups.spread(fourth));
    }

    #[test]
    fn a_replaced_group_leaves_lent_buckets_where_they_are() {
        let mut groups = Groups::new(2);
        let three = vec![member(100, 1), member(100, 2), member(100, 3)];
        let is_out = |next_hop| next_hop == NextHopId(3);
        let (first, _) = groups.take(three.clone(), Before::Nothing, all_in, is_same).unwrap();
        assert!(groups.follow(first, is_out));
        assert!(!groups.follow(first, is_out));
        // The TTL mode does not matter: the flows are the same.
        let relabelled: Vec<Member> = three
            .iter()
            .map(|member| {
                let entry = RouteEntry::new(Op::Label, TtlPropagate::Disabled, 100, 0, 0);
                Member::new(entry, member.next_hop, None, 1)
            })
            .collect();
        let (second, new) = groups.take(relabelled, Before::Group(first), is_out, is_same).unwrap();
        assert!(new);
        assert_eq!(groups.spread(first), groups.spread(second));
    }

    #[test]
    fn groups_are_found_by_their_next_hops() {
        let mut groups = Groups::new(8);
        let mut take = |next_hops: &[u16]| {
            let members = next_hops.iter().map(|&next_hop| member(100, next_hop)).collect();
            groups.take(members, Before::Nothing, all_in, is_same).unwrap().0
        };
        let [first, second, third] = [[1, 2], [2, 3], [3, 1]].map(|next_hops| take(&next_hops));
        let with = |groups: &Groups, next_hop| {
            let next = |after: &u32| groups.next_with(NextHopId(next_hop), Some(*after));
            Vec::from_iter(std::iter::successors(groups.next_with(NextHopId(next_hop), None), next))
        };
        assert_eq!(with(&groups, 1), [first, third]);
        assert_eq!(with(&groups, 2), [first, second]);
        groups.drop_user(first);
        assert_eq!((with(&groups, 1), with(&groups, 2)), (vec![third], vec![second]));
        assert!(with(&groups, 4).is_empty());
        groups.drop_user(second);
        groups.drop_user(third);
        assert!(groups.by_next_hop.is_empty() && groups.by_members.is_empty());
    }
}

//! The member of a group that each bucket belongs to. Flows stay where they are if possible: a member whose share grows
//! gives no bucket away, and one whose share shrinks gets none, so that buckets move only as far as they must. Pure
//! arithmetic.

use mplsxdp_common::abi::BUCKETS;

/// The member, by its index, that each bucket belongs to.
pub type Spread = [u8; BUCKETS];

/// A group before its members changed.
#[derive(Clone, Copy, Debug)]
pub struct Former<'a> {
    pub spread: &'a Spread,
    pub weights: &'a [u16],
    /// The index of each former member among the new ones; `None` for one that left.
    pub now: &'a [Option<u8>],
}

/// The buckets of members with these weights: in proportion, by the largest remainder. If the group replaces another,
/// as few buckets as possible move.
pub fn assign(weights: &[u16], former: Option<Former<'_>>) -> Spread {
    let owners: [Option<u8>; BUCKETS] = match former {
        None => [None; BUCKETS],
        Some(former) => former
            .spread
            .map(|owner| former.now.get(usize::from(owner)).copied().flatten()),
    };
    let mut claims: Vec<Claim> = weights.iter().map(|&weight| Claim::new(weight)).collect();
    for owner in owners.into_iter().flatten() {
        if let Some(claim) = claims.get_mut(usize::from(owner)) {
            claim.has += 1;
        }
    }
    if let Some(former) = former {
        let (total, total_before) = (sum(weights), sum(former.weights));
        for (&weight_before, now) in former.weights.iter().zip(former.now) {
            let Some(claim) = now.and_then(|now| claims.get_mut(usize::from(now))) else {
                continue;
            };
            let (share, share_before) = (claim.weight * total_before, i64::from(weight_before) * total);
            if share >= share_before {
                claim.at_least = claim.has;
            }
            if share <= share_before {
                claim.at_most = claim.has;
            }
        }
    }
    apportion(BUCKETS as i64, &mut claims);
    hand_out(owners, &claims)
}

/// The member that gets the frames of each bucket while the members in `out` cannot be reached: the others stand in for
/// them, in proportion to the weights. `now` says which members get the frames so far, while those in `were_out` are out.
/// If all are out, the buckets are as if none were.
pub fn stand_in(base: &Spread, weights: &[u16], were_out: &[bool], out: &[bool], now: &Spread) -> Spread {
    let is = |flags: &[bool], member: usize| flags.get(member).copied().unwrap_or(false);
    let none_left = |flags: &[bool]| (0..weights.len()).all(|member| is(flags, member));
    if none_left(out) || !(0..weights.len()).any(|member| is(out, member)) {
        return *base;
    }
    // First without those that have just failed, then with those that are back.
    let either: Vec<bool> = (0..weights.len())
        .map(|member| is(were_out, member) || is(out, member))
        .collect();
    let without = if none_left(&either) {
        *base
    } else {
        let mut claims: Vec<Claim> = weights.iter().map(|&weight| Claim::new(weight)).collect();
        hand_over(base, &either, now, &mut claims, |claim| claim.at_least = claim.has)
    };
    if either.iter().zip(0..).all(|(&gone, member)| gone == is(out, member)) {
        return without;
    }
    let mut claims: Vec<Claim> = weights.iter().map(|&weight| Claim::new(weight)).collect();
    let mut member = 0;
    hand_over(base, out, &without, &mut claims, |claim| {
        if !either[member] {
            claim.at_most = claim.has;
        }
        member += 1;
    })
}

/// Gives the buckets of those that are `out` to others. `bound` gets, for each member in order, how many of them it has
/// already and may keep.
fn hand_over(
    base: &Spread,
    out: &[bool],
    now: &Spread,
    claims: &mut [Claim],
    mut bound: impl FnMut(&mut Claim),
) -> Spread {
    let is_out = |member: u8| out.get(usize::from(member)).copied().unwrap_or(false);
    let mut owners = [None; BUCKETS];
    let mut to_move = 0;
    for ((owner, &member), &stand_in) in owners.iter_mut().zip(base).zip(now) {
        if is_out(member) {
            to_move += 1;
            *owner = Some(stand_in).filter(|&stand_in| !is_out(stand_in));
            if let Some(claim) = owner.and_then(|owner| claims.get_mut(usize::from(owner))) {
                claim.has += 1;
            }
        }
    }
    for (claim, &out) in claims.iter_mut().zip(out) {
        bound(claim);
        if out {
            *claim = Claim::new(0);
            claim.at_most = 0;
        }
    }
    apportion(to_move, claims);
    let mut spread = *base;
    let given = hand_out_where(owners, claims, |bucket| is_out(base[bucket]));
    for (bucket, member) in given {
        spread[bucket] = member;
    }
    spread
}

/// How many of some buckets a member has, and how many it should have.
#[derive(Debug)]
struct Claim {
    weight: i64,
    has: i64,
    at_least: i64,
    at_most: i64,
    gets: i64,
}

impl Claim {
    fn new(weight: u16) -> Self {
        Self {
            weight: weight.into(),
            has: 0,
            at_least: 0,
            at_most: BUCKETS as i64,
            gets: 0,
        }
    }
}

fn sum(weights: &[u16]) -> i64 {
    weights.iter().copied().map(i64::from).sum()
}

/// Shares out `buckets`. Each member gets what it has or, failing that, the whole number next to its exact share. If
/// that is too many or too few in all, the members furthest above or below their shares make up for it.
fn apportion(buckets: i64, claims: &mut [Claim]) {
    let total: i64 = claims.iter().map(|claim| claim.weight).sum::<i64>().max(1);
    for claim in claims.iter_mut() {
        let share = buckets * claim.weight;
        let (floor, ceiling) = (share / total, (share + total - 1) / total);
        claim.gets = claim.has.clamp(floor, ceiling).clamp(claim.at_least, claim.at_most);
    }
    let above = |claim: &Claim| claim.gets * total - buckets * claim.weight;
    let mut left = buckets - claims.iter().map(|claim| claim.gets).sum::<i64>();
    while left != 0 {
        let step = left.signum();
        let next = if step > 0 {
            let can = claims.iter_mut().filter(|claim| claim.gets < claim.at_most);
            can.min_by_key(|claim| above(claim))
        } else {
            let can = claims.iter_mut().filter(|claim| claim.gets > claim.at_least);
            can.max_by_key(|claim| above(claim))
        };
        let Some(claim) = next else { break };
        claim.gets += step;
        left -= step;
    }
}

fn hand_out(owners: [Option<u8>; BUCKETS], claims: &[Claim]) -> Spread {
    let mut spread = [0; BUCKETS];
    for (bucket, member) in hand_out_where(owners, claims, |_| true) {
        spread[bucket] = member;
    }
    spread
}

/// Leaves the buckets for which `concerned` is true with their members, as many as each gets, and gives the rest to the
/// members that get more, in runs.
fn hand_out_where(
    owners: [Option<u8>; BUCKETS],
    claims: &[Claim],
    concerned: impl Fn(usize) -> bool,
) -> Vec<(usize, u8)> {
    let mut left: Vec<i64> = claims.iter().map(|claim| claim.gets).collect();
    let (mut given, mut free) = (Vec::with_capacity(BUCKETS), Vec::new());
    for (bucket, owner) in owners.into_iter().enumerate().filter(|&(bucket, _)| concerned(bucket)) {
        match owner.and_then(|owner| left.get_mut(usize::from(owner)).map(|left| (owner, left))) {
            Some((owner, left)) if *left > 0 => {
                *left -= 1;
                given.push((bucket, owner));
            }
            _ => free.push(bucket),
        }
    }
    let takers = (0..=u8::MAX)
        .zip(left)
        .flat_map(|(member, left)| std::iter::repeat_n(member, left.try_into().unwrap_or(0)));
    given.extend(free.into_iter().zip(takers));
    given
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(spread: &Spread, members: usize) -> Vec<i64> {
        let mut counts = vec![0; members];
        spread.iter().for_each(|&member| counts[usize::from(member)] += 1);
        counts
    }

    /// The largest distance of any member from its exact share.
    fn farthest(spread: &Spread, weights: &[u16]) -> f64 {
        let counts = counts(spread, weights.len());
        let share = |weight: u16| BUCKETS as f64 * f64::from(weight) / sum(weights) as f64;
        let distances = counts
            .iter()
            .zip(weights)
            .map(|(&count, &weight)| (count as f64 - share(weight)).abs());
        distances.fold(0.0, f64::max)
    }

    fn same(members: usize) -> Vec<Option<u8>> {
        (0..members).map(|member| Some(member as u8)).collect()
    }

    #[test]
    fn shares_are_by_the_largest_remainder() {
        for (weights, expected) in [
            (&[1][..], &[256][..]),
            (&[1, 1], &[128, 128]),
            (&[1, 1, 1], &[86, 85, 85]),
            (&[2, 1], &[171, 85]),
            (&[256, 1], &[255, 1]),
            (&[256, 256, 1], &[128, 128, 0]),
            (&[3, 2, 2], &[110, 73, 73]),
        ] {
            assert_eq!(counts(&assign(weights, None), weights.len()), expected, "{weights:?}");
        }
        let all = assign(&[1; 256], None);
        assert_eq!(counts(&all, 256), [1; 256]);
    }

    fn weights() -> impl Strategy<Value = Vec<u16>> {
        let weight = prop_oneof![3 => 1u16..=4, 1 => 1u16..=256];
        prop_oneof![
            4 => prop::collection::vec(weight.clone(), 1..8),
            1 => prop::collection::vec(weight, 1..=256)
        ]
    }

    /// A change of a group's members.
    #[derive(Clone, Debug)]
    enum Change {
        Join(u16),
        Leave(prop::sample::Index),
        Reweigh(prop::sample::Index, u16),
    }

    fn change() -> impl Strategy<Value = Change> {
        let weight = prop_oneof![3 => 1u16..=4, 1 => 1u16..=256];
        prop_oneof![
            weight.clone().prop_map(Change::Join),
            any::<prop::sample::Index>().prop_map(Change::Leave),
            (any::<prop::sample::Index>(), weight).prop_map(|(member, weight)| Change::Reweigh(member, weight)),
        ]
    }

    proptest! {
        #[test]
        fn a_new_group_is_within_one_bucket_of_its_weights(weights in weights()) {
            prop_assert!(farthest(&assign(&weights, None), &weights) < 1.0);
        }

        /// Members come, go and change their weights, any number of times: buckets only move from those whose share
        /// shrank to those whose share grew, no more than the numbers make necessary, and the shares stay what the
        /// weights say.
        #[test]
        fn only_what_has_to_moves(first in weights(), changes in prop::collection::vec(change(), 1..12)) {
            let mut weights = first;
            let mut spread = assign(&weights, None);
            for change in changes {
                let mut now = same(weights.len());
                let mut next = weights.clone();
                match change {
                    Change::Join(weight) if next.len() < BUCKETS => next.push(weight),
                    Change::Join(_) => continue,
                    Change::Leave(_) if next.len() == 1 => continue,
                    Change::Leave(member) => {
                        let member = member.index(next.len());
                        next.remove(member);
                        now[member] = None;
                        now[member + 1..].iter_mut().for_each(|now| *now = now.map(|now| now - 1));
                    }
                    Change::Reweigh(member, weight) => {
                        let member = member.index(next.len());
                        next[member] = weight;
                    }
                }
                let after = assign(&next, Some(Former { spread: &spread, weights: &weights, now: &now }));
                let (had, has) = (counts(&spread, weights.len()), counts(&after, next.len()));
                let mut necessary = 0;
                for (member, now) in now.iter().enumerate() {
                    let Some(now) = now.map(usize::from) else {
                        necessary += had[member];
                        continue;
                    };
                    let grew = i64::from(next[now]) * sum(&weights) - i64::from(weights[member]) * sum(&next);
                    prop_assert!(grew < 0 || has[now] >= had[member], "a share that did not shrink lost buckets");
                    prop_assert!(grew > 0 || has[now] <= had[member], "a share that did not grow got buckets");
                    necessary += (had[member] - has[now]).max(0);
                }
                let moved = spread.iter().zip(&after).filter(|&(&old, &new)| now[usize::from(old)] != Some(new));
                prop_assert_eq!(moved.count() as i64, necessary);
                // If the rule above rules out the nearest whole number, the next one is used.
                prop_assert!(farthest(&after, &next) < 2.0, "{:?} of {next:?}", has);
                (weights, spread) = (next, after);
            }
        }

        /// Links go down and up in any order.
        #[test]
        fn others_stand_in_for_members_that_are_out_until_they_are_back(
            weights in weights(),
            steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..24),
        ) {
            let base = assign(&weights, None);
            let mut out = vec![false; weights.len()];
            let mut spread = base;
            for (member, goes) in steps {
                let member = member.index(weights.len());
                let were_out = out.clone();
                out[member] = goes;
                let before = spread;
                spread = stand_in(&base, &weights, &were_out, &out, &before);
                let (all_out, all_were) = (out.iter().all(|&out| out), were_out.iter().all(|&out| out));
                for bucket in 0..BUCKETS {
                    let (owner, old, new) = (usize::from(base[bucket]), usize::from(before[bucket]), usize::from(spread[bucket]));
                    prop_assert!(all_out || !out[new], "a bucket of {owner} goes to {new}, which is out");
                    prop_assert!(out[owner] || new == owner, "a bucket that is not its owner's, who is back");
                    if all_out || all_were {
                        continue;
                    }
                    if goes {
                        prop_assert!(old == new || old == member, "bucket {bucket} moved from {old}, which has not gone");
                    } else {
                        prop_assert!(old == new || new == member, "bucket {bucket} moved to {new}, which is not back");
                    }
                }
                if !out.iter().any(|&out| out) {
                    prop_assert_eq!(spread, base);
                }
            }
        }

        /// The buckets of one member that is out are shared in proportion.
        #[test]
        fn lent_buckets_are_in_proportion(weights in prop::collection::vec(1u16..=256, 2..8), member: prop::sample::Index) {
            let base = assign(&weights, None);
            let member = member.index(weights.len());
            let mut out = vec![false; weights.len()];
            out[member] = true;
            let spread = stand_in(&base, &weights, &vec![false; weights.len()], &out, &base);
            let (had, has) = (counts(&base, weights.len()), counts(&spread, weights.len()));
            let others = sum(&weights) - i64::from(weights[member]);
            for (other, &weight) in weights.iter().enumerate().filter(|&(other, _)| other != member) {
                let share = (had[member] * i64::from(weight)) as f64 / others as f64;
                prop_assert!(((has[other] - had[other]) as f64 - share).abs() < 1.0);
            }
        }
    }
}

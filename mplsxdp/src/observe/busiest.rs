//! The routes that forward most: those whose counters grow most within some time.

use std::cmp::Reverse;

use mplsxdp_common::abi::Counter;

use crate::control::api::BusyOrder;

/// How much a counter slot has grown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Growth {
    pub slot: u32,
    pub by: Counter,
    /// The slot's value at the end.
    pub raw: Counter,
}

/// The `count` slots that have grown most from `before` to `after`, the busiest first. Slots that have not grown are left
/// out.
pub fn busiest(before: &[Counter], after: &[Counter], count: usize, order: BusyOrder) -> Vec<Growth> {
    let pairs = (0..).zip(before.iter().zip(after));
    let grown = pairs.filter_map(|(slot, (before, &raw))| {
        let by = Counter {
            packets: raw.packets.wrapping_sub(before.packets),
            bytes: raw.bytes.wrapping_sub(before.bytes),
        };
        (by.packets > 0).then_some(Growth { slot, by, raw })
    });
    let key = |growth: &Growth| {
        let Counter { packets, bytes } = growth.by;
        Reverse(match order {
            BusyOrder::Packets => (packets, bytes, growth.slot),
            BusyOrder::Bytes => (bytes, packets, growth.slot),
        })
    };
    let mut grown: Vec<Growth> = grown.collect();
    if count < grown.len() {
        grown.select_nth_unstable_by_key(count, key);
        grown.truncate(count);
    }
    grown.sort_unstable_by_key(key);
    grown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_busiest_are_those_that_a_sort_finds(
            slots in prop::collection::vec((any::<u64>(), 0_u64..5, 0_u64..500), 0..200),
            count in 0_usize..210,
            by_bytes: bool,
        ) {
            let counter = |packets, bytes| Counter { packets, bytes };
            let before: Vec<_> = slots.iter().map(|&(start, ..)| counter(start, start)).collect();
            let after = slots
                .iter()
                .map(|&(start, packets, bytes)| counter(start.wrapping_add(packets), start.wrapping_add(bytes)));
            let order = if by_bytes { BusyOrder::Bytes } else { BusyOrder::Packets };
            let found = busiest(&before, &Vec::from_iter(after), count, order);
            let mut expected: Vec<_> = (0_u32..)
                .zip(&slots)
                .filter(|(_, (_, packets, _))| *packets > 0)
                .map(|(slot, &(_, packets, bytes))| if by_bytes { (bytes, packets, slot) } else { (packets, bytes, slot) })
                .collect();
            expected.sort_unstable();
            expected.reverse();
            expected.truncate(count);
            let found: Vec<_> = found
                .iter()
                .map(|growth| match order {
                    BusyOrder::Packets => (growth.by.packets, growth.by.bytes, growth.slot),
                    BusyOrder::Bytes => (growth.by.bytes, growth.by.packets, growth.slot),
                })
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}

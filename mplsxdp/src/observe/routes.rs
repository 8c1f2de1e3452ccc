//! Routes with their counters.

use std::fmt::Display;

use mplsxdp_common::abi::Counter;

use super::unreadable;
use crate::control::api;
use crate::lfib::counters::CountedAt;

/// How many slots are read at a time at most.
const BATCH: u32 = 4096;
/// Reading up to this many unwanted slots costs less than another system call.
const GAP: u32 = 32;

/// Adds its counter to each route that has one. `read` returns those of a number of slots, from a first one on.
pub fn add_counters<E: Display>(
    routes: &mut [api::InstalledRoute],
    places: &[Option<CountedAt>],
    mut read: impl FnMut(u32, u32) -> Result<Vec<Counter>, E>,
) {
    let mut wanted: Vec<(CountedAt, usize)> = places
        .iter()
        .enumerate()
        .filter_map(|(index, place)| Some(((*place)?, index)))
        .collect();
    wanted.sort_unstable_by_key(|(place, _)| place.slot);
    let mut rest = wanted.as_slice();
    while let Some((first, _)) = rest.first() {
        let first = first.slot;
        let follows = |pair: &[(CountedAt, usize)]| {
            let (before, next) = (pair[0].0.slot, pair[1].0.slot);
            next - before <= GAP && next - first < BATCH
        };
        let count = 1 + rest.windows(2).take_while(|pair| follows(pair)).count();
        let (run, others) = rest.split_at(count);
        rest = others;
        let last = run.last().map_or(first, |(place, _)| place.slot);
        let figures = read(first, last - first + 1).unwrap_or_else(|error| {
            unreadable(error);
            Vec::new()
        });
        for (place, index) in run {
            let figure = figures.get((place.slot - first) as usize);
            let counted = figure.map_or(Counter::default(), |&figure| place.counted(figure));
            if let Some(route) = routes.get_mut(*index) {
                route.counter = Some(api::Counter {
                    packets: counted.packets,
                    bytes: counted.bytes,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each route has the value of its slot, wherever the slots lie, and neighbours are read together.
        #[test]
        fn each_route_has_what_its_slot_counted(
            slots in prop::collection::vec(prop::option::weighted(0.9, 1_u32..20_000), 0..60),
            dense in 0_u32..200,
        ) {
            let places: Vec<Option<CountedAt>> = slots
                .into_iter()
                .chain((0..dense).map(|slot| Some(30_000 + 3 * slot)))
                .map(|slot| slot.map(|slot| CountedAt::new(slot, Counter { packets: 7, bytes: 70 })))
                .collect();
            let mut routes = vec![api::InstalledRoute::default(); places.len()];
            let mut calls = 0;
            add_counters(&mut routes, &places, |first, count| {
                calls += usize::from(first >= 30_000);
                assert!((1..=BATCH).contains(&count));
                let figure = |slot: u32| Counter { packets: u64::from(slot) + 7, bytes: 10 * u64::from(slot) + 70 };
                Ok::<_, Infallible>((first..first + count).map(figure).collect())
            });
            prop_assert!(calls <= 1);
            for (route, place) in routes.iter().zip(&places) {
                let expected = place.map(|place| api::Counter {
                    packets: place.slot.into(),
                    bytes: 10 * u64::from(place.slot),
                });
                prop_assert_eq!(&route.counter, &expected);
            }
        }
    }
}

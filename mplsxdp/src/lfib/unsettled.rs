//! The places where the FTN table differs from what is wanted because a write failed.

use std::collections::BTreeMap;
use std::ops::Deref;

use mplsxdp_common::abi::RouteEntry;

use crate::dataplane::FtnKey;

/// These places, and what the table holds at each.
#[derive(Default, Debug)]
pub(super) struct Unsettled {
    places: BTreeMap<FtnKey, Option<RouteEntry>>,
    /// How many of them hold an entry that may point to slots of other tables.
    pointing: usize,
}

impl Unsettled {
    pub fn insert(&mut self, key: FtnKey, held: Option<RouteEntry>) {
        self.pointing += usize::from(points(held));
        if let Some(before) = self.places.insert(key, held) {
            self.pointing -= usize::from(points(before));
        }
    }

    pub fn remove(&mut self, key: &FtnKey) {
        if let Some(before) = self.places.remove(key) {
            self.pointing -= usize::from(points(before));
        }
    }

    /// Whether an entry in the table may point to a slot that no wanted entry points to.
    pub fn points_to_slots(&self) -> bool {
        self.pointing > 0
    }
}

impl Deref for Unsettled {
    type Target = BTreeMap<FtnKey, Option<RouteEntry>>;

    fn deref(&self) -> &Self::Target {
        &self.places
    }
}

fn points(held: Option<RouteEntry>) -> bool {
    held.is_some_and(|entry| entry != RouteEntry::PASS)
}

#[cfg(test)]
mod tests {
    use mplsxdp_common::abi::{Domain, Op, TtlPropagate};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The count is that of a scan, whatever is inserted over what.
        #[test]
        fn entries_that_point_to_slots_are_counted(steps in prop::collection::vec((0_u8..4, 0_u8..4), 0..40)) {
            let mut unsettled = Unsettled::default();
            let local = RouteEntry::new(Op::Local, TtlPropagate::Default, 0, 0, 0);
            for (place, what) in steps {
                let prefix = ipnet::Ipv4Net::new([10, place, 0, 0].into(), 16).unwrap();
                let key = FtnKey::new(Domain::NO_VRF, prefix.into());
                match what {
                    0 => unsettled.remove(&key),
                    1 => unsettled.insert(key, None),
                    2 => unsettled.insert(key, Some(RouteEntry::PASS)),
                    _ => unsettled.insert(key, Some(local)),
                }
                prop_assert_eq!(unsettled.points_to_slots(), unsettled.values().any(|&held| points(held)));
            }
        }
    }
}

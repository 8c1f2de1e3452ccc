//! The frames that ports did not forward, by reason.

use std::fmt::Display;

use mplsxdp_common::abi::{
    Counter, Loss, REASON_SLOTS, REDIRECT_LOST, REDIRECT_LOST_DESCRIPTION, REDIRECT_LOST_SLOT, Reason,
};

use super::unreadable;
use crate::control::api::ReasonCounter;

/// The counters of one port: those above zero, or `all`. `read` returns those of a number of slots, from a first one
/// on.
pub fn of_port<E: Display>(
    port: u16,
    name: &str,
    all: bool,
    read: impl FnOnce(u32, u32) -> Result<Vec<Counter>, E>,
) -> Vec<ReasonCounter> {
    let slots = read(u32::from(port) * REASON_SLOTS, REASON_SLOTS).unwrap_or_else(|error| {
        unreadable(error);
        Vec::new()
    });
    let at = |slot: u32| slots.get(slot as usize).copied().unwrap_or_default();
    let reasons = Reason::ALL.iter().map(|&reason| {
        let counter = at(reason.slot());
        // Frames that are not punted have no such slots; other counters would be in their place.
        let lost = |loss: Loss| match reason.is_punted() {
            true => at(loss.slot(reason)).packets,
            false => 0,
        };
        ReasonCounter {
            port: name.to_owned(),
            reason: reason.name().to_owned(),
            description: reason.description().to_owned(),
            packets: counter.packets,
            bytes: counter.bytes,
            policed: lost(Loss::Policed),
            unheard: lost(Loss::NoListener),
        }
    });
    let lost = at(REDIRECT_LOST_SLOT);
    let lost = ReasonCounter {
        port: name.to_owned(),
        reason: REDIRECT_LOST.to_owned(),
        description: REDIRECT_LOST_DESCRIPTION.to_owned(),
        packets: lost.packets,
        bytes: lost.bytes,
        policed: 0,
        unheard: 0,
    };
    reasons
        .chain([lost])
        .filter(|counter| all || counter.packets > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn read(port: u16, counted: &[(u32, u64)]) -> impl FnOnce(u32, u32) -> io::Result<Vec<Counter>> {
        let counted = counted.to_vec();
        move |first, count| {
            assert_eq!((first, count), (u32::from(port) * REASON_SLOTS, REASON_SLOTS));
            let packets = |slot| {
                counted
                    .iter()
                    .find(|(at, _)| *at == slot)
                    .map_or(0, |&(_, packets)| packets)
            };
            let counter = |slot| Counter {
                packets: packets(slot),
                bytes: 100 * packets(slot),
            };
            Ok((0..count).map(counter).collect())
        }
    }

    #[test]
    fn a_reason_has_its_losses_and_only_those_that_have_counted_are_shown() {
        let punted = *Reason::ALL.iter().find(|reason| reason.is_punted()).unwrap();
        let dropped = *Reason::ALL.iter().find(|reason| !reason.is_punted()).unwrap();
        let counted = [
            (punted.slot(), 7),
            (Loss::Policed.slot(punted), 5),
            (Loss::NoListener.slot(punted), 1),
            (dropped.slot(), 3),
            (REDIRECT_LOST_SLOT, 2),
        ];
        let shown = of_port(3, "eth1", false, read(3, &counted));
        let figures = shown.iter().map(|counter| {
            let ReasonCounter {
                packets,
                bytes,
                policed,
                unheard,
                ..
            } = *counter;
            (counter.reason.as_str(), packets, bytes, policed, unheard)
        });
        let mut figures: Vec<_> = figures.collect();
        figures.sort_unstable();
        let mut expected = [
            (punted.name(), 7, 700, 5, 1),
            (dropped.name(), 3, 300, 0, 0),
            (REDIRECT_LOST, 2, 200, 0, 0),
        ];
        expected.sort_unstable();
        assert_eq!(figures, expected);
        let all = of_port(3, "eth1", true, read(3, &counted));
        assert_eq!(all.len(), Reason::ALL.len() + 1);
    }

    #[test]
    fn counters_that_cannot_be_read_are_zero() {
        let fails = |_, _| Err::<Vec<Counter>, _>(io::Error::other("no"));
        let all = of_port(0, "eth1", true, fails);
        assert!(all.len() > 1 && all.iter().all(|counter| counter.packets == 0));
    }
}

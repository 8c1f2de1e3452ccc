//! The layout of `ROUTE_COUNTERS`.

use crate::wire::Label;

/// How `ROUTE_COUNTERS` is divided, frozen into the program: each CPU has all counter slots, one after another, and
/// only programs on that CPU write to them.
///
/// | bits | field |
/// |---|---|
/// | 0-31 | slots of each CPU |
/// | 32-63 | a mask for labels: [`CounterSlots::likely`] |
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CounterSlots(u64);

impl CounterSlots {
    pub const fn new(slots: u32) -> Self {
        let mask = match slots.checked_ilog2() {
            Some(bits) => (1 << bits) - 1,
            None => 0,
        };
        Self(slots as u64 | mask << 32)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The number of slots of each CPU.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        self.0 as u32
    }

    /// The slot that the controller gives to the route of `label` if it is free. The program reads its counter before it
    /// knows the route entry, so that it waits for both at the same time. 0: none.
    #[inline(always)]
    pub const fn likely(self, label: Label) -> u32 {
        label.get() & (self.0 >> 32) as u32
    }

    /// The labels that have this slot as their likely one.
    pub fn labels(self, slot: u32) -> impl Iterator<Item = Label> {
        let mask = (self.0 >> 32) as u32;
        let first = Some(slot).filter(|&slot| slot != 0 && slot <= mask);
        core::iter::successors(first, move |label| label.checked_add(mask + 1)).map_while(Label::new)
    }

    /// The index of a slot of a CPU in `ROUTE_COUNTERS`. `slot` must be less than the number of slots.
    #[inline(always)]
    pub const fn index(self, cpu: u32, slot: u32) -> u32 {
        cpu.wrapping_mul(self.0 as u32).wrapping_add(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_has_a_slot_of_its_own_if_there_are_enough() {
        let likely = |slots, label| CounterSlots::new(slots).likely(Label::from_low_bits(label));
        for label in [16, 65_535, 65_537, 0xf_ffff] {
            assert_eq!(likely(1 << 20, label), label);
            assert_eq!(likely(1 << 16, label), label & 0xffff);
            // No power of two: the slots beyond the greatest one are nobody's first choice.
            assert_eq!(likely(100, label), label & 63);
        }
        assert_eq!((likely(1, 77), likely(0, 77)), (0, 0));
        for (slots, slot) in [(1 << 20, 16), (1 << 16, 17), (100, 3), (100, 77), (1, 0), (16, 0)] {
            let slots = CounterSlots::new(slots);
            let found: Vec<Label> = slots.labels(slot).collect();
            let all = (0..1 << 20).filter_map(Label::new);
            let expected: Vec<Label> = all.filter(|&label| slot != 0 && slots.likely(label) == slot).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn each_cpu_has_all_slots() {
        let slots = CounterSlots::new(1000);
        assert_eq!(
            (slots.index(0, 999), slots.index(1, 0), slots.index(63, 7)),
            (999, 1000, 63_007)
        );
        assert_eq!(slots.to_bits(), 1000 | 511 << 32);
        assert_eq!(CounterSlots::from_bits(slots.to_bits()), slots);
    }
}

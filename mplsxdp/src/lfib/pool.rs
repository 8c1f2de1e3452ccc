//! Slots of a table. A running program may still read a freed slot, so it is held back until a grace period has passed.

use std::collections::HashMap;
use std::hash::Hash;

/// Hands out the numbers of a table's free slots.
#[derive(Debug)]
pub struct SlotPool {
    next: u32,
    end: u32,
    free: Vec<u32>,
    held_back: Vec<u32>,
}

impl SlotPool {
    /// A pool of the slots from `first` up to, but not including, `end`.
    pub fn new(first: u32, end: u32) -> Self {
        Self {
            next: first,
            end,
            free: Vec::new(),
            held_back: Vec::new(),
        }
    }

    /// A slot, and whether it was in use before; `None` if all are taken.
    pub fn take(&mut self) -> Option<(u32, bool)> {
        if let Some(slot) = self.free.pop() {
            return Some((slot, true));
        }
        if self.next == self.end {
            return None;
        }
        self.next += 1;
        Some((self.next - 1, false))
    }

    /// How many can be taken.
    pub fn room(&self) -> usize {
        self.free.len() + (self.end - self.next) as usize
    }

    /// Gives back a slot that no entry points to any more.
    pub fn hold_back(&mut self, slot: u32) {
        self.held_back.push(slot);
    }

    pub fn has_held_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// Takes the slots that are held back, to be released after a grace period that begins now.
    pub fn take_held_back(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.held_back)
    }

    /// Releases slots: no reader is left.
    pub fn release(&mut self, slots: &[u32]) {
        self.free.extend_from_slice(slots);
    }
}

/// Values that share slots: equal values have one slot. No operation takes long: the maps are allocated at full size
/// from the beginning; their memory is touched as it is used.
#[derive(Debug)]
pub struct Interner<T> {
    slots: SlotPool,
    by_value: HashMap<T, u32>,
    /// Value and number of users, by slot.
    users: HashMap<u32, (T, usize)>,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    pub fn new(end: u32) -> Self {
        Self {
            slots: SlotPool::new(0, end),
            by_value: HashMap::with_capacity(end as usize),
            users: HashMap::with_capacity(end as usize),
        }
    }

    /// The slot of `value` with one more user, and whether it is new, so that it must be written; `None` if all slots
    /// are taken.
    pub fn take(&mut self, value: &T) -> Option<(u32, bool)> {
        if let Some(&slot) = self.by_value.get(value) {
            if let Some((_, users)) = self.users.get_mut(&slot) {
                *users += 1;
            }
            return Some((slot, false));
        }
        let (slot, _) = self.slots.take()?;
        self.by_value.insert(value.clone(), slot);
        self.users.insert(slot, (value.clone(), 1));
        Some((slot, true))
    }

    /// Removes one user of `slot`. Returns the value if that was the last one.
    pub fn drop_user(&mut self, slot: u32) -> Option<T> {
        let (_, users) = self.users.get_mut(&slot)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        let (value, _) = self.users.remove(&slot)?;
        self.by_value.remove(&value);
        self.slots.hold_back(slot);
        Some(value)
    }

    /// The slot of `value`, if it has users.
    pub fn find(&self, value: &T) -> Option<u32> {
        self.by_value.get(value).copied()
    }

    /// Gives each value another one in its place. Different values must stay different.
    pub fn change_all(&mut self, change: impl Fn(&T) -> T) {
        self.by_value.clear();
        for (&slot, (value, _)) in &mut self.users {
            *value = change(value);
            self.by_value.insert(value.clone(), slot);
        }
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.users.get(&slot).map(|(value, _)| value)
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    pub fn has_held_back(&self) -> bool {
        self.slots.has_held_back()
    }

    pub fn take_held_back(&mut self) -> Vec<u32> {
        self.slots.take_held_back()
    }

    pub fn release(&mut self, slots: &[u32]) {
        self.slots.release(slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_comes_back_only_after_release() {
        let mut pool = SlotPool::new(1, 3);
        assert_eq!(
            (pool.take(), pool.take(), pool.take()),
            (Some((1, false)), Some((2, false)), None)
        );
        pool.hold_back(1);
        assert_eq!(pool.take(), None);
        let slots = pool.take_held_back();
        assert_eq!((&*slots, pool.take()), (&[1][..], None));
        pool.release(&slots);
        assert_eq!((pool.take(), pool.take()), (Some((1, true)), None));
    }

    #[test]
    fn equal_values_share_a_slot_until_the_last_user_goes() {
        let mut interner = Interner::new(2);
        assert_eq!(interner.take(&"a"), Some((0, true)));
        assert_eq!(interner.take(&"a"), Some((0, false)));
        assert_eq!(interner.take(&"b"), Some((1, true)));
        assert_eq!(interner.take(&"c"), None);
        interner.drop_user(0);
        assert_eq!(interner.get(0), Some(&"a"));
        interner.drop_user(0);
        assert_eq!(interner.get(0), None);
        assert_eq!(interner.take(&"c"), None);
        let slots = interner.take_held_back();
        interner.release(&slots);
        assert_eq!(interner.take(&"c"), Some((0, true)));
    }
}

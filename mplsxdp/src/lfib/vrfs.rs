//! The VRFs that labels lead into, by their names. All labels of a VRF share one word of `VRFS`, so one store has effect for
//! all of them: when the VRF device appears, when its domain of the FTN is filled, and when the last port has left it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mplsxdp_common::abi::{Domain, VrfWord};

use super::Lfib;
use super::pool::Interner;
use crate::dataplane::Tables;

/// A VRF device of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VrfDevice {
    pub ifindex: u32,
    /// Its routing table.
    pub table: u32,
}

/// What happens to the packets of a VRF's labels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VrfState {
    /// XDP sends them.
    Switched,
    /// They are left to the kernel: there is no such VRF.
    NoDevice,
    /// They are left to the kernel: no port is in the VRF.
    NoPort,
    /// They are left to the kernel until the prefix routes for the VRF are written.
    Filling,
}

/// The VRFs that labels lead into.
#[derive(Debug)]
pub(super) struct LabelVrfs {
    slots: Interner<Arc<str>>,
    /// The words of the slots, as stored.
    words: BTreeMap<u32, VrfWord>,
    devices: BTreeMap<Arc<str>, VrfDevice>,
    /// A word was stored since [`Lfib::take_switched_vrfs`].
    changed: bool,
}

impl LabelVrfs {
    pub fn new(end: u32) -> Self {
        Self {
            slots: Interner::new(end),
            words: BTreeMap::new(),
            devices: BTreeMap::new(),
            changed: false,
        }
    }

    pub fn get(&self, slot: u32) -> Option<&Arc<str>> {
        self.slots.get(slot)
    }

    pub fn drop_user(&mut self, slot: u32) {
        self.slots.drop_user(slot);
    }

    pub fn has_held_back(&self) -> bool {
        self.slots.has_held_back()
    }

    pub fn take_held_back(&mut self) -> Vec<u32> {
        self.slots.take_held_back()
    }
}

impl<T: Tables> Lfib<T> {
    /// These are all VRF devices, by their names.
    pub fn set_vrf_devices(&mut self, devices: BTreeMap<Arc<str>, VrfDevice>) {
        self.label_vrfs.devices = devices;
        self.follow_vrfs();
    }

    /// Domains are filled, or used again: labels lead into these VRFs now.
    pub fn follow_vrfs(&mut self) {
        self.store_vrfs(|_| true);
    }

    /// What happens to the packets of labels of the VRF with this name.
    pub fn vrf_state(&self, name: &str) -> VrfState {
        match self.label_vrfs.devices.get(name) {
            None => VrfState::NoDevice,
            Some(device) if self.domain(Some(device.table)) != Domain::EMPTY => VrfState::Switched,
            Some(device) if self.uses_vrf(device.table) => VrfState::Filling,
            Some(_) => VrfState::NoPort,
        }
    }

    /// The VRF devices of all VRFs that labels lead into, if others may have been added or removed since the last call.
    pub fn take_switched_vrfs(&mut self) -> Option<BTreeSet<u32>> {
        let words = self.label_vrfs.words.values().filter(|&&word| word != VrfWord::NONE);
        std::mem::take(&mut self.label_vrfs.changed).then(|| words.map(|word| word.ifindex()).collect())
    }

    /// The slot of the VRF with this name, with one more user; `None` if all slots are taken.
    pub(super) fn take_vrf(&mut self, name: &Arc<str>) -> Option<u32> {
        let (slot, is_new) = self.label_vrfs.slots.take(name)?;
        if is_new {
            self.store_vrf(slot, self.vrf_word(name, |_| true));
        }
        Some(slot)
    }

    /// No program reads these slots any more.
    pub(super) fn release_vrfs(&mut self, slots: &[u32]) {
        for &slot in slots {
            self.store_vrf(slot, VrfWord::NONE);
        }
        self.label_vrfs.slots.release(slots);
    }

    /// Stores what has changed of the words: labels lead into the VRFs with the tables for which it returns true.
    pub(super) fn store_vrfs(&mut self, is_used: impl Fn(u32) -> bool) {
        let slots: Vec<u32> = self.label_vrfs.words.keys().copied().collect();
        for slot in slots {
            // A slot without users leads nowhere any more.
            if let Some(name) = self.label_vrfs.slots.get(slot) {
                let word = self.vrf_word(name, &is_used);
                self.store_vrf(slot, word);
            }
        }
    }

    fn vrf_word(&self, name: &str, is_used: impl Fn(u32) -> bool) -> VrfWord {
        let device = self.label_vrfs.devices.get(name);
        let Some(device) = device.filter(|device| is_used(device.table)) else {
            return VrfWord::NONE;
        };
        match self.domain(Some(device.table)) {
            Domain::EMPTY => VrfWord::NONE,
            domain => VrfWord::new(device.ifindex, domain),
        }
    }

    fn store_vrf(&mut self, slot: u32, word: VrfWord) {
        if self.label_vrfs.words.insert(slot, word) != Some(word) {
            self.tables.store_vrf(slot, word);
            self.label_vrfs.changed = true;
        }
    }
}

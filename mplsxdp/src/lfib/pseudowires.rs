//! The two ends of pseudowires. Where the frames of a label leave: labels of one port and the same encapsulation share a word
//! of `PSEUDOWIRES`, so that one store has effect when the port changes. And where the frames of a port go: each
//! attachment circuit has a row of `ATTACHMENTS`, which the port's word names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mplsxdp_common::abi::{CrossConnect, Encapsulation, MAX_PSEUDOWIRES, RouteEntry};
use mplsxdp_common::wire::ETH_P_8021Q;

use super::change::ChangeError;
use super::pool::Interner;
use super::{Installed, Lfib};
use crate::dataplane::Tables;
use crate::route::{PortName, Pseudowire, RouteKey, ServiceTag};

/// A port as pseudowires use it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortFacts {
    /// How frames leave by it.
    pub way_out: CrossConnect,
    /// The VLAN identifiers of a sub-interface, outermost first.
    pub vids: Vec<u16>,
}

/// One end of a pseudowire.
type End = (PortName, Pseudowire);

/// The ends of pseudowires that routes use.
#[derive(Debug)]
pub(super) struct Pseudowires {
    ports: BTreeMap<PortName, PortFacts>,
    exits: Interner<End>,
    entrances: Interner<End>,
    /// The rows of exits and entrances, as stored.
    exit_rows: BTreeMap<u32, (CrossConnect, Encapsulation)>,
    entrance_rows: BTreeMap<u32, (RouteEntry, Encapsulation)>,
    /// The ports whose frames go into a pseudowire.
    attached: BTreeMap<PortName, Pseudowire>,
    /// `attached` has changed since it was last asked for.
    has_changed: bool,
}

impl Pseudowires {
    pub fn new() -> Self {
        Self {
            ports: BTreeMap::new(),
            exits: Interner::new(MAX_PSEUDOWIRES),
            entrances: Interner::new(MAX_PSEUDOWIRES),
            exit_rows: BTreeMap::new(),
            entrance_rows: BTreeMap::new(),
            attached: BTreeMap::new(),
            has_changed: false,
        }
    }

    pub fn exit(&self, slot: u32) -> Option<&End> {
        self.exits.get(slot)
    }

    pub fn drop_exit(&mut self, slot: u32) {
        self.exits.drop_user(slot);
    }

    /// What stands between the labels and the frames of this port.
    pub fn of_attachment(&self, port: PortName) -> Option<Pseudowire> {
        self.attached.get(&port).copied()
    }

    pub fn attached(&self) -> impl Iterator<Item = PortName> {
        self.attached.keys().copied()
    }

    /// The attachment circuits by the names of their ports, with the index of each in `ATTACHMENTS`.
    pub fn attached_slots(&self) -> BTreeMap<PortName, u32> {
        let slot = |(&port, &pseudowire)| Some((port, self.entrances.find(&(port, pseudowire))?));
        self.attached.iter().filter_map(slot).collect()
    }

    pub fn drop_entrance(&mut self, port: PortName, pseudowire: Pseudowire) {
        if let Some(slot) = self.entrances.find(&(port, pseudowire)) {
            self.entrances.drop_user(slot);
        }
    }

    pub fn has_held_back(&self) -> bool {
        self.exits.has_held_back() || self.entrances.has_held_back()
    }

    /// The slots of exits and of entrances.
    pub fn take_held_back(&mut self) -> [Vec<u32>; 2] {
        [self.exits.take_held_back(), self.entrances.take_held_back()]
    }

    pub fn rename_ports(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        let rename = |(port, pseudowire): &End| {
            let mut port = *port;
            port.rename(names);
            (port, *pseudowire)
        };
        self.exits.change_all(rename);
        self.entrances.change_all(rename);
        let attached = std::mem::take(&mut self.attached);
        self.attached = attached.into_iter().map(|end| rename(&(end.0, end.1))).collect();
        self.has_changed = true;
    }

    fn exit_row(&self, (port, pseudowire): End) -> (CrossConnect, Encapsulation) {
        let facts = self.ports.get(&port);
        let way_out = facts.map_or(CrossConnect::NOWHERE, |facts| facts.way_out);
        let encapsulation = encapsulation(pseudowire);
        match pseudowire.service_tag {
            _ if way_out == CrossConnect::NOWHERE => (way_out, encapsulation),
            ServiceTag::Raw => (way_out, encapsulation),
            ServiceTag::Tagged => (way_out, encapsulation.without_tags(1)),
            // The port has no tags of its own.
            ServiceTag::Vlan(vid) => (way_out.with_tags(&[(ETH_P_8021Q, vid)]), encapsulation.without_tags(1)),
        }
    }

    fn entrance_encapsulation(&self, (port, pseudowire): End) -> Encapsulation {
        let vids = self.ports.get(&port).map(|facts| &*facts.vids).unwrap_or_default();
        let vid = match pseudowire.service_tag {
            ServiceTag::Raw => None,
            ServiceTag::Tagged => Some(vids.first().copied().unwrap_or_default()),
            ServiceTag::Vlan(vid) => Some(vid),
        };
        encapsulation(pseudowire).without_tags(vids.len()).with_tag(vid)
    }
}

impl<T: Tables> Lfib<T> {
    /// These are all ports, by their names.
    pub fn set_pseudowire_ports(&mut self, ports: BTreeMap<PortName, PortFacts>) {
        if self.pseudowires.ports == ports {
            return;
        }
        self.pseudowires.ports = ports;
        let exits: Vec<u32> = self.pseudowires.exit_rows.keys().copied().collect();
        for slot in exits {
            if let Some(&end) = self.pseudowires.exits.get(slot) {
                self.store_exit(slot, self.pseudowires.exit_row(end));
            }
        }
        let entrances = self.pseudowires.entrance_rows.clone();
        for (slot, (entry, _)) in entrances {
            if let Some(&end) = self.pseudowires.entrances.get(slot) {
                self.store_entrance(slot, entry, self.pseudowires.entrance_encapsulation(end));
            }
        }
    }

    /// The attachment circuits by the names of their ports, with the index of each in `ATTACHMENTS`, if they are others
    /// than at the last call.
    pub fn take_attached(&mut self) -> Option<BTreeMap<PortName, u32>> {
        std::mem::take(&mut self.pseudowires.has_changed).then(|| self.pseudowires.attached_slots())
    }

    /// How many slots of exits and of entrances are in use.
    pub fn pseudowires_in_use(&self) -> [usize; 2] {
        [self.pseudowires.exits.len(), self.pseudowires.entrances.len()]
    }

    /// The slot for frames that leave by `port`, with one more user.
    pub(super) fn take_exit(
        &mut self,
        index: usize,
        port: PortName,
        pseudowire: Pseudowire,
    ) -> Result<u32, ChangeError> {
        let end = (port, pseudowire);
        let (slot, is_new) = self.pseudowires.exits.take(&end).ok_or(full(index))?;
        if is_new {
            self.store_exit(slot, self.pseudowires.exit_row(end));
        }
        Ok(slot)
    }

    /// Takes a slot for the frames of `port`.
    pub(super) fn take_entrance(
        &mut self,
        index: usize,
        port: PortName,
        pseudowire: Pseudowire,
    ) -> Result<(), ChangeError> {
        let taken = self.pseudowires.entrances.take(&(port, pseudowire));
        taken.map(drop).ok_or(full(index))
    }

    /// Sends the frames of `port` as `installed` says from now on; an entrance is taken for it. Returns the route that it
    /// had before.
    pub(super) fn attach(&mut self, port: PortName, pseudowire: Pseudowire, installed: Installed) -> Option<Installed> {
        let before = self.pseudowires.attached.insert(port, pseudowire);
        self.pseudowires.has_changed |= before != Some(pseudowire);
        self.store_attachment(port, installed.entry);
        if let Some(before) = before {
            self.pseudowires.drop_entrance(port, before);
        }
        self.put(RouteKey::Attachment(port), Some(installed))
    }

    /// The frames of `port` go into no pseudowire any more.
    pub(super) fn detach(&mut self, port: PortName) -> Option<Installed> {
        let pseudowire = self.pseudowires.attached.remove(&port)?;
        self.pseudowires.has_changed = true;
        self.pseudowires.drop_entrance(port, pseudowire);
        self.put(RouteKey::Attachment(port), None)
    }

    /// Stores the entry of an attachment circuit.
    pub(super) fn store_attachment(&mut self, port: PortName, entry: RouteEntry) {
        let Some(pseudowire) = self.pseudowires.of_attachment(port) else {
            return;
        };
        let end = (port, pseudowire);
        if let Some(slot) = self.pseudowires.entrances.find(&end) {
            self.store_entrance(slot, entry, self.pseudowires.entrance_encapsulation(end));
        }
    }

    /// No program reads these slots any more.
    pub(super) fn release_pseudowires(&mut self, [exits, entrances]: &[Vec<u32>; 2]) {
        for slot in exits {
            self.pseudowires.exit_rows.remove(slot);
            self.tables
                .store_pseudowire(*slot, CrossConnect::NOWHERE, Encapsulation::default());
        }
        for slot in entrances {
            self.pseudowires.entrance_rows.remove(slot);
            self.tables
                .store_attachment(*slot, RouteEntry::EMPTY, Encapsulation::default());
        }
        self.pseudowires.exits.release(exits);
        self.pseudowires.entrances.release(entrances);
    }

    fn store_exit(&mut self, slot: u32, row: (CrossConnect, Encapsulation)) {
        if self.pseudowires.exit_rows.insert(slot, row) != Some(row) {
            self.tables.store_pseudowire(slot, row.0, row.1);
        }
    }

    fn store_entrance(&mut self, slot: u32, entry: RouteEntry, encapsulation: Encapsulation) {
        let row = (entry, encapsulation);
        if self.pseudowires.entrance_rows.insert(slot, row) != Some(row) {
            self.tables.store_attachment(slot, entry, encapsulation);
        }
    }
}

/// Without tags.
fn encapsulation(pseudowire: Pseudowire) -> Encapsulation {
    Encapsulation::new()
        .with_control_word(pseudowire.control_word)
        .with_flow_label(pseudowire.flow_label)
}

fn full(index: usize) -> ChangeError {
    ChangeError::Full {
        index,
        what: "end of a pseudowire",
        capacity: MAX_PSEUDOWIRES,
        remedy: "",
    }
}

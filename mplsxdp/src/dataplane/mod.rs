//! The tables of the data plane. The LFIB writes to [`Tables`]: [`kernel`] has the BPF maps, [`memory`] the tables for
//! tests. [`frame`] is a frame for the forwarding core in this process, and [`recorder`] what it
//! asked about one. [`loader`] loads the programs and maps, and
//! [`port`] attaches a program, and [`pinned`] keeps it attached; [`bpf`] has the bpf(2) commands that this needs. [`btf`]
//! finds fields of the kernel's structures. [`inject`] makes the kernel receive frames from the slow path.

pub mod bpf;
mod btf;
pub mod capture;
pub mod class_maps;
pub mod frame;
pub mod ftn;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
pub mod grace;
pub mod inject;
pub mod kernel;
pub mod label_ranges;
pub mod loader;
mod mapped;
pub mod memory;
pub mod mpls_mtu;
#[cfg(test)]
mod order;
pub mod pinned;
pub mod port;
pub mod port_change;
pub mod recorder;
pub mod release;

use clap::ValueEnum;
use ipnet::IpNet;
use mplsxdp_common::abi::{
    Adjacency, Counter, CrossConnect, Domain, Encapsulation, LabelRange, LabelStack, Loss, PortWord, Reason,
    RouteEntry, SubInterfaceKey, TrafficClasses, VrfWord,
};
use mplsxdp_common::wire::Label;
use serde::{Deserialize, Serialize};

/// How the program is attached. There is no fallback.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver, before the kernel makes a packet of the frame.
    #[default]
    Native,
    /// In the kernel, on any interface, slowly.
    Generic,
}

/// The capacity of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Labels below this number.
    pub labels: u32,
    pub adjacencies: u32,
    pub stacks: u32,
    pub groups: u32,
    pub backups: u32,
    /// Including slot 0, which no route uses.
    pub counter_slots: u32,
    /// Prefixes of each family, in all domains together.
    pub prefixes: u32,
}

/// A grace period that has begun. A later one does not end earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GracePeriod(pub u64);

/// The stores that change one adjacency into another: index and value of each word that differs, the first word last. A
/// reader reads the first word first: if that is resolved, the reader also sees the words stored before it.
pub fn adjacency_writes(old: Adjacency, new: Adjacency) -> impl Iterator<Item = (usize, u64)> {
    let words = old.words().into_iter().zip(new.words()).enumerate().rev();
    words.filter_map(|(index, (old, new))| (old != new).then_some((index, new)))
}

/// One entry of the FTN: a prefix in a domain. Entries of a domain sort together, each prefix before those within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FtnKey {
    pub domain: Domain,
    pub prefix: IpNet,
}

impl FtnKey {
    pub fn new(domain: Domain, prefix: IpNet) -> Self {
        Self { domain, prefix }
    }
}

/// What the controller writes and the forwarding core reads. A published write (everything except a stack) is one store
/// that a reader sees whole.
pub trait Tables {
    fn capacity(&self) -> Capacity;

    fn store_ilm(&mut self, label: Label, entry: RouteEntry);

    /// Applies the [`adjacency_writes`].
    fn store_adjacency(&mut self, index: u16, adjacency: Adjacency);

    /// As last stored; all zero if it never was.
    fn adjacency(&self, index: u16) -> Adjacency;

    /// No reader may be using `index`.
    fn store_stack(&mut self, index: u32, stack: LabelStack);

    /// Sets the entry of a group's bucket.
    fn store_bucket(&mut self, group: u32, bucket: u8, entry: RouteEntry);

    /// As last stored; all zero if it never was.
    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry;

    /// Sets what a next hop and its backup do, by one store for each that differs.
    fn store_pair(&mut self, pair: u32, entries: [RouteEntry; 2]);

    /// Readers may find it after [`Tables::publish_ftn`] only; but writes of prefixes of one length are never seen before
    /// earlier writes of another length. May fail if [`Tables::needs_publishing`].
    fn insert_ftn(&mut self, key: FtnKey, entry: RouteEntry) -> Result<(), TableError>;

    /// Likewise. Removing an entry that does not exist is not an error.
    fn remove_ftn(&mut self, key: FtnKey) -> Result<(), TableError>;

    /// Has readers find what was written to the FTN. It belongs at the end of each series of writes. It goes on until
    /// `spend` returns false, which gets what it has cost, in operations of about a microsecond. Returns whether
    /// everything is published.
    fn publish_ftn(&mut self, spend: &mut dyn FnMut(usize) -> bool) -> bool;

    /// Whether readers find everything that was written to the FTN.
    fn is_ftn_published(&self) -> bool;

    /// Whether a write to the FTN may fail that would not if everything were published.
    fn needs_publishing(&self) -> bool;

    /// The grace period to wait for before anything more is written to the FTN: then there is more memory. `None`: there is
    /// room, or none will come. Everything must be published.
    fn await_ftn_room(&mut self) -> Option<GracePeriod>;

    fn store_port(&mut self, port: u16, word: PortWord);

    /// Restricts a port whose word says so to the labels of these ranges, at most `MAX_LABEL_RANGES`. Labels that are in
    /// the old ranges and in these are accepted all the time.
    fn store_label_ranges(&mut self, port: u16, ranges: &[LabelRange]);

    /// Where every frame of a port whose word says so goes.
    fn store_cross_connect(&mut self, port: u16, cross: CrossConnect);

    /// Where the frames of a pseudowire leave, and what is taken off them first. The encapsulation may change only while no
    /// reader is using `index`.
    fn store_pseudowire(&mut self, index: u32, cross: CrossConnect, encapsulation: Encapsulation);

    /// Where the pseudowire begins that frames of an attachment circuit enter, and what is put in front of them. Likewise.
    fn store_attachment(&mut self, index: u32, entry: RouteEntry, encapsulation: Encapsulation);

    /// For a port whose word says so. Each TC and DSCP is translated by the old ones or by these.
    fn store_traffic_classes(&mut self, port: u16, classes: TrafficClasses);

    /// Which VRF an entry with this index means.
    fn store_vrf(&mut self, index: u32, word: VrfWord);

    /// How frames that the kernel routes to an interface leave by it.
    fn set_way_out(&mut self, ifindex: u32, way_out: CrossConnect) -> Result<(), TableError>;

    /// Removing what does not exist is not an error.
    fn remove_way_out(&mut self, ifindex: u32) -> Result<(), TableError>;

    /// Lets frames be redirected to `port`. If several ports are on an interface, frames that its driver refuses count
    /// for the first.
    fn set_tx_port(&mut self, port: u16, ifindex: u32) -> Result<(), TableError>;

    /// Frames for `port` are dropped from here on. Clearing a port that is not set is not an error.
    fn clear_tx_port(&mut self, port: u16) -> Result<(), TableError>;

    /// Frames with the tags of `key` belong to the sub-interface that has number `port`.
    fn insert_sub_interface(&mut self, key: SubInterfaceKey, port: u16) -> Result<(), TableError>;

    /// Removing an entry that does not exist is not an error.
    fn remove_sub_interface(&mut self, key: SubInterfaceKey) -> Result<(), TableError>;

    /// Begins a grace period. It is over when no reader is left that may have seen an entry as it was before this call. What
    /// is written to the FTN and not published yet does not count.
    fn begin_grace_period(&mut self) -> GracePeriod;

    fn is_over(&self, period: GracePeriod) -> bool;

    /// The count of a slot since the table was created.
    fn route_counter(&self, slot: u32) -> Result<Counter, TableError>;

    /// The same for `count` slots from `first` on; fewer at the end of the table.
    fn route_counters(&self, first: u32, count: u32) -> Result<Vec<Counter>, TableError>;

    fn reason_counter(&self, port: u16, reason: Reason) -> Result<Counter, TableError>;

    /// Frames of `reason`, which is punted, that did not reach the slow path.
    fn loss_counter(&self, port: u16, reason: Reason, loss: Loss) -> Result<Counter, TableError>;

    /// Frames that were redirected to `port` but not sent by it.
    fn redirect_lost(&self, port: u16) -> Result<Counter, TableError>;

    /// Clears all reasons and losses of a port.
    fn clear_reason_counters(&mut self, port: u16) -> Result<(), TableError>;

    /// Name, entries and bytes of kernel memory of each table.
    fn memory(&self) -> Result<Vec<TableMemory>, TableError>;
}

/// The memory of one table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableMemory {
    pub name: &'static str,
    pub entries: u32,
    pub bytes: u64,
}

/// A table could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of map {map}: {source}")]
pub struct TableError {
    pub map: &'static str,
    pub operation: &'static str,
    #[source]
    pub source: std::io::Error,
}

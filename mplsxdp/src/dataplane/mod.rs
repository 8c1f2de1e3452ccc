//! The tables of the data plane: [`Tables`] is what the LFIB writes to, [`memory`] has them for tests, [`kernel`] the BPF maps;
//! [`frame`] is a frame that the forwarding core can work on in this process; [`loader`] brings the programs and the maps into the
//! kernel, [`port`] attaches one, [`bpf`] is what that takes of bpf(2); [`btf`] finds fields of the kernel's
//! structures; [`inject`] has the kernel receive what the slow path hands up.

pub mod bpf;
mod btf;
pub mod frame;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
pub mod grace;
pub mod inject;
pub mod kernel;
pub mod loader;
pub mod memory;
pub mod port;
pub mod release;

use clap::ValueEnum;
use ipnet::IpNet;
use mplsxdp_common::abi::{
    Adjacency, Counter, Domain, LabelStack, Loss, PortWord, Reason, RouteEntry, SubInterfaceKey,
};
use mplsxdp_common::wire::Label;
use serde::{Deserialize, Serialize};

/// How the program is attached. There is no fallback from one to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// By the driver, before the kernel makes a packet of the frame.
    #[default]
    Native,
    /// By the kernel, on any interface, slowly.
    Generic,
}

/// How much fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Labels 0 to this less one.
    pub labels: u32,
    pub adjacencies: u32,
    pub stacks: u32,
    pub groups: u32,
    /// Slot 0 among them, which counts for nobody.
    pub counter_slots: u32,
    /// Prefixes of each family, those of all domains together.
    pub prefixes: u32,
}

/// A grace period that was begun. A later one is over no earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GracePeriod(pub u64);

/// The stores that turn one adjacency into another: number and value of each word that differs, the first word last. A reader reads
/// the first word first: one that finds it resolved finds the others as they were stored before.
pub fn adjacency_writes(old: Adjacency, new: Adjacency) -> impl Iterator<Item = (usize, u64)> {
    let words = old.words().into_iter().zip(new.words()).enumerate().rev();
    words.filter_map(|(index, (old, new))| (old != new).then_some((index, new)))
}

/// One entry of the FTN: a prefix in a domain. Those of a domain sort together, each prefix before those within it.
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

/// What the controller writes and the forwarding core reads. A write that is published (everything but a stack) is one store
/// that a reader sees whole.
pub trait Tables {
    fn capacity(&self) -> Capacity;

    fn store_ilm(&mut self, label: Label, entry: RouteEntry);

    /// Makes the [`adjacency_writes`].
    fn store_adjacency(&mut self, index: u16, adjacency: Adjacency);

    /// As it was last stored; all zero where it never was.
    fn adjacency(&self, index: u16) -> Adjacency;

    /// `index` must not be in use by any reader.
    fn store_stack(&mut self, index: u32, stack: LabelStack);

    /// What a group does with the flows of a bucket.
    fn store_bucket(&mut self, group: u32, bucket: u8, entry: RouteEntry);

    /// As it was last stored; all zero where it never was.
    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry;

    fn insert_ftn(&mut self, key: FtnKey, entry: RouteEntry) -> Result<(), TableError>;

    /// Removing what is not there is no error.
    fn remove_ftn(&mut self, key: FtnKey) -> Result<(), TableError>;

    fn store_port(&mut self, port: u16, word: PortWord);

    /// Lets frames be redirected to `port`. What the interface's driver refuses counts for the first of several ports on it.
    fn set_tx_port(&mut self, port: u16, ifindex: u32) -> Result<(), TableError>;

    /// Frames for `port` are dropped from here on. Clearing what is not there is no error.
    fn clear_tx_port(&mut self, port: u16) -> Result<(), TableError>;

    /// Frames with the tags of `key` belong to the sub-interface that has number `port`.
    fn insert_sub_interface(&mut self, key: SubInterfaceKey, port: u16) -> Result<(), TableError>;

    /// Removing what is not there is no error.
    fn remove_sub_interface(&mut self, key: SubInterfaceKey) -> Result<(), TableError>;

    /// Begins a grace period. It is over when no reader is left that may have seen an entry as it was before this call.
    fn begin_grace_period(&mut self) -> GracePeriod;

    fn is_over(&self, period: GracePeriod) -> bool;

    /// What a slot has counted since the table was made.
    fn route_counter(&self, slot: u32) -> Result<Counter, TableError>;

    /// The same of `count` slots from `first` on; fewer at the end of the table.
    fn route_counters(&self, first: u32, count: u32) -> Result<Vec<Counter>, TableError>;

    fn reason_counter(&self, port: u16, reason: Reason) -> Result<Counter, TableError>;

    /// Frames of `reason`, which is punted, that the slow path did not get.
    fn loss_counter(&self, port: u16, reason: Reason, loss: Loss) -> Result<Counter, TableError>;

    /// Frames that were redirected to `port` and that it did not send.
    fn redirect_lost(&self, port: u16) -> Result<Counter, TableError>;

    /// All reasons and losses of a port.
    fn clear_reason_counters(&mut self, port: u16) -> Result<(), TableError>;

    /// Name, entries and bytes of kernel memory of each table.
    fn memory(&self) -> Result<Vec<TableMemory>, TableError>;
}

/// What one table takes.
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

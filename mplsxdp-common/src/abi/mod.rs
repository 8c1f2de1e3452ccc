//! The contents of the BPF maps: names, keys and values, as the XDP program reads them and the controller writes them.
//! `docs/map-abi.md` has the same as tables. Everything is in host byte order unless stated otherwise.
//!
//! Values that are published by one store are 64-bit words ([`RouteEntry`], [`PortWord`], each word of [`Adjacency`]):
//! a reader sees the old word or the new one, never half of each.

mod adjacency;
mod capture;
mod counter_slots;
mod cross_connect;
mod delivery;
mod ftn;
mod police;
mod port;
mod pseudowire;
mod reason;
mod route_entry;
mod settings;
mod stack;
mod traffic_class;
mod vrf;
mod watch;
mod word;

pub use adjacency::{Adjacency, VlanTags};
pub use capture::{CAPTURE_BYTES, CAPTURE_HEADER, CAPTURE_KEPT, CaptureFilter, CaptureHeader, Captured};
pub use counter_slots::CounterSlots;
pub use cross_connect::CrossConnect;
pub use delivery::Delivery;
pub use ftn::{CHUNK_LINES, CHUNK_WORDS, Domain, FTN_ROOTS, LINE_WORDS, MAX_CHUNKS};
pub use police::Police;
pub use port::{LabelRange, PortWord, SubInterfaceKey};
pub use pseudowire::Encapsulation;
pub use reason::{Counter, Loss, REDIRECT_LOST, REDIRECT_LOST_DESCRIPTION, REDIRECT_LOST_SLOT, Reason};
pub use route_entry::{Op, RouteEntry, TtlPropagate};
pub use settings::{Checksum, Settings, TtlMode, UnknownPolicy};
pub use stack::LabelStack;
pub use traffic_class::{DscpToTc, TRAFFIC_CLASS_WORDS, TcToDscp, TrafficClasses};
pub use vrf::VrfWord;
pub use watch::Watch;

/// Raised whenever the meaning of a byte in a map changes. The controller refuses maps of any other version.
pub const ABI_VERSION: u32 = 14;
/// First word of [`Meta`]: "MPLS" in ASCII.
pub const META_MAGIC: u32 = 0x4d50_4c53;

/// Names of the maps, as `bpftool map show` lists them.
pub mod map {
    pub const ILM: &str = "ILM";
    pub const ADJACENCIES: &str = "ADJACENCIES";
    pub const STACKS: &str = "STACKS";
    pub const GROUPS: &str = "GROUPS";
    pub const BACKUPS: &str = "BACKUPS";
    pub const FTN_ROOTS: &str = "FTN_ROOTS";
    pub const FTN: &str = "FTN";
    pub const PORTS: &str = "PORTS";
    pub const LABEL_RANGES: &str = "LABEL_RANGES";
    pub const CROSS_CONNECTS: &str = "CROSS_CONNECTS";
    pub const PSEUDOWIRES: &str = "PSEUDOWIRES";
    pub const ATTACHMENTS: &str = "ATTACHMENTS";
    pub const TRAFFIC_CLASSES: &str = "TRAFFIC_CLASSES";
    pub const VRFS: &str = "VRFS";
    pub const WAYS_OUT: &str = "WAYS_OUT";
    pub const SUB_INTERFACES: &str = "SUB_INTERFACES";
    pub const TX_PORTS: &str = "TX_PORTS";
    pub const INTERFACES: &str = "INTERFACES";
    pub const XSKS: &str = "XSKS";
    pub const POLICERS: &str = "POLICERS";
    pub const ROUTE_COUNTERS: &str = "ROUTE_COUNTERS";
    pub const REASON_COUNTERS: &str = "REASON_COUNTERS";
    pub const DELIVERY: &str = "DELIVERY";
    pub const META: &str = "META";
    /// These are there only while somebody captures.
    pub const CAPTURE: &str = "CAPTURE";
    pub const CAPTURE_FILTERS: &str = "CAPTURE_FILTERS";
    pub const CAPTURE_LOST: &str = "CAPTURE_LOST";
    /// The ring buffer for aya-log's records.
    pub const LOG_RECORDS: &str = "AYA_LOGS";
}

/// Name of the XDP program in the object.
pub const PROGRAM: &str = "mplsxdp";
/// Name of the program that makes the kernel receive the frame in [`Delivery`].
pub const DELIVER_PROGRAM: &str = "deliver";
/// Names of the programs that count frames lost after their redirect. Each is named after its tracepoint.
pub const LOST_BEFORE_DRIVER: &str = "xdp_redirect_err";
pub const LOST_BY_DRIVER: &str = "xdp_devmap_xmit";
/// Name of the frozen [`Watch`] in the `.rodata` of these programs.
pub const WATCH: &str = "WATCH";
/// Name of the frozen [`Settings`] in the program's `.rodata`.
pub const SETTINGS: &str = "SETTINGS";
/// Name of the frozen [`Police`] in the program's `.rodata`.
pub const POLICE: &str = "POLICE";
/// Name of the frozen seed of the multipath hash, a u32, in the program's `.rodata`.
pub const HASH_SEED: &str = "HASH_SEED";
/// Name of the frozen [`CounterSlots`] in the programs' `.rodata`.
pub const COUNTER_SLOTS: &str = "COUNTER_SLOTS";
/// Name of the frozen switch, a u32, in the programs' `.rodata`: whether counters are updated with atomic instructions.
pub const ATOMIC_COUNTERS: &str = "ATOMIC_COUNTERS";
/// Default and largest size of `ILM`: one entry for every label.
pub const MAX_LABELS: u32 = 1 << 20;
/// Size of `ADJACENCIES`. The 16-bit index of an entry could address four times as many.
pub const MAX_ADJACENCIES: u32 = 1 << 14;
/// Default size of `STACKS`.
pub const DEFAULT_STACKS: u32 = 1 << 15;
/// Default size of `GROUPS`.
pub const DEFAULT_GROUPS: u32 = 1 << 10;
/// Default size of `BACKUPS`.
pub const DEFAULT_BACKUPS: u32 = 1 << 15;
/// Buckets of a group; flows are spread over them.
pub const BUCKETS: usize = 256;
/// Default number of counter slots in `ROUTE_COUNTERS` for each CPU; slot 0 means "not counted".
pub const DEFAULT_COUNTER_SLOTS: u32 = 1 << 16;
/// The most prefixes of each family in the FTN, in all domains together.
pub const MAX_FTN: u32 = 1 << 20;
/// Size of `PORTS`, `CROSS_CONNECTS`, `TX_PORTS`, `INTERFACES`, `WAYS_OUT` and `SUB_INTERFACES`.
pub const MAX_PORTS: u32 = 256;
/// Size of `VRFS`.
pub const MAX_VRFS: u32 = 256;
/// Size of `PSEUDOWIRES` and of `ATTACHMENTS`.
pub const MAX_PSEUDOWIRES: u32 = 1 << 12;
/// The most ranges of labels that a port is restricted to.
pub const MAX_LABEL_RANGES: usize = 8;
/// Words of one port in `LABEL_RANGES`: room for the old ranges and the new ones during a change.
pub const LABEL_RANGE_WORDS: usize = 2 * MAX_LABEL_RANGES;
/// Receive queues of one port in `XSKS`. Frames that arrive on a higher queue do not reach the slow path.
pub const MAX_QUEUES: u32 = 128;
/// Slots for the reasons of one port in `REASON_COUNTERS`, followed by those for each [`Loss`] of the punted reasons.
pub const REASON_SLOTS: u32 = 48;
/// Slots for the policers of one port in `POLICERS`. Policed reasons have numbers below this.
pub const PUNT_SLOTS: u32 = 8;
/// The most labels that one route pushes; FRR has the same limit.
pub const MAX_PUSH: usize = 16;

/// The one entry of `META`. All zero: not configured.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    pub magic: u32,
    pub abi_version: u32,
}

const _: () = {
    assert!(size_of::<RouteEntry>() == 8 && align_of::<RouteEntry>() == 8);
    assert!(size_of::<PortWord>() == 8);
    assert!(size_of::<VrfWord>() == 8);
    assert!(size_of::<CrossConnect>() == 8 && size_of::<Encapsulation>() == 8);
    assert!(size_of::<Adjacency>() == 32 && align_of::<Adjacency>() == 8);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Meta>() == 8);
    assert!(size_of::<Delivery>() == 1 << 14 && core::mem::offset_of!(Delivery, frame) == 8);
    assert!(size_of::<Settings>() == 8);
    assert!(MAX_QUEUES.is_power_of_two());
    assert!(size_of::<VlanTags>() == 8 && size_of::<SubInterfaceKey>() == 8);
    assert!(BUCKETS == 1 << u8::BITS);
    assert!(MAX_ADJACENCIES < 1 << 16 && MAX_LABELS <= 1 << 20 && MAX_PORTS <= 1 << 16);
};

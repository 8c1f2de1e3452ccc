//! Bytes in the BPF maps: names, keys and values, as the XDP program reads and the controller writes them. `docs/map-abi.md`
//! has the same as a table. Everything is in host byte order unless it says otherwise.
//!
//! Values that are published by one store are 64-bit words ([`IlmEntry`], [`PortWord`], the two words of [`Adjacency`]):
//! a reader sees the old word or the new one, never half of each.

use crate::wire::{Label, Mac, VLAN_VID_MASK};

/// Raised whenever the meaning of a byte in a map changes. The controller refuses maps of another version.
pub const ABI_VERSION: u32 = 6;
/// First word of [`Meta`]: "MPLS" in ASCII.
pub const META_MAGIC: u32 = 0x4d50_4c53;

/// Names of the maps, as `bpftool map show` lists them.
pub mod map {
    pub const ILM: &str = "ILM";
    pub const ADJACENCIES: &str = "ADJACENCIES";
    pub const STACKS: &str = "STACKS";
    pub const GROUPS: &str = "GROUPS";
    pub const FTN_V4: &str = "FTN_V4";
    pub const FTN_V6: &str = "FTN_V6";
    pub const PORTS: &str = "PORTS";
    pub const SUB_INTERFACES: &str = "SUB_INTERFACES";
    pub const TX_PORTS: &str = "TX_PORTS";
    pub const INTERFACES: &str = "INTERFACES";
    pub const XSKS: &str = "XSKS";
    pub const POLICERS: &str = "POLICERS";
    pub const ROUTE_COUNTERS: &str = "ROUTE_COUNTERS";
    pub const REASON_COUNTERS: &str = "REASON_COUNTERS";
    pub const DELIVERY: &str = "DELIVERY";
    pub const META: &str = "META";
    /// The ring buffer that aya-log's records come through.
    pub const LOG_RECORDS: &str = "AYA_LOGS";
}

/// Name of the XDP program in the object.
pub const PROGRAM: &str = "mplsxdp";
/// Name of the program that has the kernel receive the frame in [`Delivery`].
pub const DELIVER_PROGRAM: &str = "deliver";
/// Names of the programs that count frames which are lost after they were redirected, each that of its tracepoint.
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

/// Default and largest size of `ILM`: one entry for every label.
pub const MAX_LABELS: u32 = 1 << 20;
/// Size of `ADJACENCIES`: what the 16-bit index of an entry could address is four times this.
pub const MAX_ADJACENCIES: u32 = 1 << 14;
/// Default size of `STACKS`.
pub const DEFAULT_STACKS: u32 = 1 << 15;
/// Default size of `GROUPS`.
pub const DEFAULT_GROUPS: u32 = 1 << 10;
/// Buckets of a group: flows are spread over as many.
pub const BUCKETS: usize = 256;
/// Default size of `ROUTE_COUNTERS`; slot 0 means "not counted".
pub const DEFAULT_COUNTER_SLOTS: u32 = 1 << 16;
/// Size of `FTN_V4` and `FTN_V6` each.
pub const MAX_FTN: u32 = 1 << 20;
/// Size of `PORTS`, `TX_PORTS`, `INTERFACES` and `SUB_INTERFACES`.
pub const MAX_PORTS: u32 = 256;
/// Receive queues of one port in `XSKS`: what arrives on a queue beyond finds no listener.
pub const MAX_QUEUES: u32 = 128;
/// Room for reasons of one port in `REASON_COUNTERS`, and after them for each [`Loss`] of the reasons that are punted.
pub const REASON_SLOTS: u32 = 48;
/// Reasons that are policed have numbers below this. Room for policers of one port in `POLICERS`.
pub const PUNT_SLOTS: u32 = 8;
/// The most labels that one route pushes.
pub const MAX_PUSH: usize = 8;

/// What an ILM or FTN entry does. Zero is "no entry", so that a zeroed map forwards nothing.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// No route.
    None = 0,
    /// One outgoing label: replaces the top label (ILM) or is imposed (FTN). Operand: the label.
    Label = 1,
    /// Two or more outgoing labels, or one with a TTL of its own. Operand: index into `STACKS`.
    Stack = 2,
    /// Pop and send the payload on, as the egress of the LSP. Operand: none.
    Pop = 3,
    /// Pop and send the payload on, as the penultimate hop (`as implicit-null`). Operand: none.
    PenultimatePop = 4,
    /// Pop; the payload is this box's to forward (`dev lo`). Operand: none.
    Local = 5,
    /// FTN only: never imposed, the kernel's. Operand: none.
    Pass = 6,
    /// Several next hops: what is done stands in a bucket of the group, an entry with one of the operations 1 to 4.
    /// Operand: index into `GROUPS`.
    Group = 7,
}

/// How the TTL crosses a push or a pop (RFC 3443).
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum TtlMode {
    /// Every pushed label carries the TTL; a pop hands it down.
    Uniform = 0,
    /// The tunnel is one hop to what it carries.
    Pipe = 1,
    /// As the Linux kernel: uniform between label and IP, inner label TTLs untouched by a pop.
    Linux = 2,
}

impl TtlMode {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Pipe,
            2 => Self::Linux,
            _ => Self::Uniform,
        }
    }
}

/// A route's own word on TTL propagation (`ttl-propagate enabled|disabled`), over the box's mode. On a box that does as the
/// Linux kernel, `enabled` means what it means there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum TtlPropagate {
    #[default]
    Default,
    Enabled,
    Disabled,
}

impl TtlPropagate {
    /// The mode in force on a box of mode `default`.
    pub const fn mode(self, default: TtlMode) -> TtlMode {
        match self {
            Self::Default => default,
            Self::Enabled => match default {
                TtlMode::Linux => TtlMode::Linux,
                TtlMode::Uniform | TtlMode::Pipe => TtlMode::Uniform,
            },
            Self::Disabled => TtlMode::Pipe,
        }
    }
}

/// One entry of `ILM`, `FTN_V4` or `FTN_V6`: the NHLFE that a label or prefix maps to, in one aligned 64-bit word. A bucket of
/// `GROUPS` is such an entry too; there the counter slot is 0, as frames count for the entry that led to the group.
///
/// | bits | field |
/// |---|---|
/// | 0-3 | [`Op`] |
/// | 4-5 | [`TtlPropagate`]: 0 default, 1 enabled, 2 disabled |
/// | 6-7 | reserved |
/// | 8-27 | operand: outgoing label, or index into `STACKS` or `GROUPS` |
/// | 28-43 | next-hop index into `ADJACENCIES` |
/// | 44-63 | counter slot in `ROUTE_COUNTERS`, 0: not counted |
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IlmEntry(u64);

impl IlmEntry {
    /// No route.
    pub const EMPTY: Self = Self(0);
    /// FTN: the kernel's.
    pub const PASS: Self = Self(Op::Pass as u64);

    /// Fields beyond their bits are cut: `operand` to 20, `slot` to 20.
    pub const fn new(op: Op, ttl: TtlPropagate, operand: u32, next_hop: u16, slot: u32) -> Self {
        let ttl = match ttl {
            TtlPropagate::Default => 0,
            TtlPropagate::Enabled => 1,
            TtlPropagate::Disabled => 2,
        };
        Self(
            op as u64
                | ttl << 4
                | ((operand & 0xf_ffff) as u64) << 8
                | (next_hop as u64) << 28
                | ((slot & 0xf_ffff) as u64) << 44,
        )
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn op(self) -> Op {
        match self.0 & 0xf {
            1 => Op::Label,
            2 => Op::Stack,
            3 => Op::Pop,
            4 => Op::PenultimatePop,
            5 => Op::Local,
            6 => Op::Pass,
            7 => Op::Group,
            // Also what a later version may mean by another number: this one does not know it, so it has no route.
            _ => Op::None,
        }
    }

    pub const fn ttl_propagate(self) -> TtlPropagate {
        match (self.0 >> 4) & 3 {
            1 => TtlPropagate::Enabled,
            2 => TtlPropagate::Disabled,
            _ => TtlPropagate::Default,
        }
    }

    pub const fn operand(self) -> u32 {
        (self.0 >> 8) as u32 & 0xf_ffff
    }

    /// The operand as the outgoing label of [`Op::Label`].
    pub const fn out_label(self) -> Label {
        Label::from_low_bits(self.operand())
    }

    pub const fn next_hop(self) -> u16 {
        (self.0 >> 28) as u16
    }

    pub const fn slot(self) -> u32 {
        (self.0 >> 44) as u32
    }

    /// The same entry through another next hop.
    pub const fn with_next_hop(self, next_hop: u16) -> Self {
        Self((self.0 & !(0xffff << 28)) | (next_hop as u64) << 28)
    }
}

/// One entry of `ADJACENCIES`: a neighbour and the way to it. Word 0 is destination MAC (bytes 0-5) and transmit port
/// (bytes 6-7), word 1 source MAC and MTU, word 2 the [`VlanTags`] of frames to it, word 3 the next-hop index of its backup,
/// plus 1 (bytes 24-25), the length of the tags in bytes (byte 26), and whether frames have to be in one buffer (byte 27). A change of the neighbour's MAC is one 8-byte store of
/// word 0. A word 0 without a MAC is an unresolved neighbour: its frames go to the backup, if there is one.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adjacency {
    words: [u64; 4],
}

impl Adjacency {
    /// `mtu` is the largest layer-3 packet, labels included, that the port sends.
    pub const fn new(destination: Mac, port: u16, source: Mac, mtu: u16) -> Self {
        Self {
            words: [mac_word(destination, port), mac_word(source, mtu), 0, 0],
        }
    }

    /// The same on a sub-interface: frames leave with `tags`.
    pub const fn with_tags(self, tags: VlanTags) -> Self {
        let mut words = self.words;
        words[2] = tags.0;
        words[3] = (words[3] & !(0xff << 16)) | (tags.len_bytes() as u64) << 16;
        Self { words }
    }

    /// The same with a next hop that takes its place while it is unresolved.
    pub const fn with_backup(self, backup: Option<u16>) -> Self {
        let mut words = self.words;
        let backup = match backup {
            Some(index) => index as u64 + 1,
            None => 0,
        };
        words[3] = (words[3] & !0xffff) | backup;
        Self { words }
    }

    /// The same on a port that does not take frames in several buffers from XDP: its driver or the kernel would drop them without
    /// a word.
    pub const fn with_one_buffer(self, one_buffer: bool) -> Self {
        let mut words = self.words;
        words[3] = (words[3] & !(0xff << 24)) | (one_buffer as u64) << 24;
        Self { words }
    }

    pub const fn from_words(words: [u64; 4]) -> Self {
        Self { words }
    }

    pub const fn words(self) -> [u64; 4] {
        self.words
    }

    pub const fn is_resolved(self) -> bool {
        self.words[0] << 16 != 0
    }

    pub const fn destination(self) -> Mac {
        word_mac(self.words[0])
    }

    /// The destination and source of a frame to this neighbour. Made of words as they lie in the map: two stores, where one for
    /// each byte would be a fifth of the XDP program's work.
    pub fn macs(self) -> [u8; 12] {
        let mut macs = [0; 12];
        let [destination, source, ..] = self.words;
        macs[..8].copy_from_slice(&(destination & MAC_BITS | source << 48).to_le_bytes());
        macs[8..].copy_from_slice(&((source >> 16) as u32).to_le_bytes());
        macs
    }

    pub const fn port(self) -> u16 {
        word_rest(self.words[0])
    }

    pub const fn source(self) -> Mac {
        word_mac(self.words[1])
    }

    pub const fn mtu(self) -> u16 {
        word_rest(self.words[1])
    }

    pub const fn tags(self) -> VlanTags {
        VlanTags(self.words[2])
    }

    /// What [`VlanTags::len_bytes`] is.
    #[inline(always)]
    pub const fn tags_len_bytes(self) -> usize {
        (self.words[3] >> 16) as usize & 0xc
    }

    pub const fn takes_one_buffer(self) -> bool {
        self.words[3] >> 24 & 1 != 0
    }

    pub const fn backup(self) -> Option<u16> {
        match self.words[3] as u16 {
            0 => None,
            index => Some(index - 1),
        }
    }

    /// The same next hop with another MTU.
    pub const fn with_mtu(self, mtu: u16) -> Self {
        let mut words = self.words;
        words[1] = mac_word(self.source(), mtu);
        Self { words }
    }
}

/// The VLAN tags of a sub-interface's frames as they are on the wire, outermost first: TPID and TCI of each. Zero: no tag.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct VlanTags(u64);

impl VlanTags {
    pub const NONE: Self = Self(0);

    /// One tag of TPID and VLAN identifier; what else is in the TCI is 0, as Linux sends it.
    pub const fn one(tpid: u16, vid: u16) -> Self {
        Self(vlan_tag(tpid, vid) as u64)
    }

    pub const fn two(outer_tpid: u16, outer_vid: u16, inner_tpid: u16, inner_vid: u16) -> Self {
        Self(vlan_tag(outer_tpid, outer_vid) as u64 | (vlan_tag(inner_tpid, inner_vid) as u64) << 32)
    }

    /// 0, 4 or 8.
    pub const fn len_bytes(self) -> usize {
        if self.0 == 0 {
            0
        } else if self.0 >> 32 == 0 {
            4
        } else {
            8
        }
    }

    /// The tags; the first [`VlanTags::len_bytes`] count.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
}

const fn vlan_tag(tpid: u16, vid: u16) -> u32 {
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), (vid & VLAN_VID_MASK).to_be_bytes());
    u32::from_le_bytes([a, b, c, d])
}

/// Key of `SUB_INTERFACES`: the port at which a frame arrived and the VLAN identifiers in its tags, in one 64-bit word: bits
/// 0-15 the inner VID (0: no second tag), 16-31 the outer, 32-63 the port's number.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SubInterfaceKey(u64);

impl SubInterfaceKey {
    pub const fn new(port: u32, outer_vid: u16, inner_vid: u16) -> Self {
        Self((port as u64) << 32 | (outer_vid as u64) << 16 | inner_vid as u64)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

/// One entry of `PORTS`, in one word: the port's MAC (bytes 0-5), its flags (byte 6) and its [`Domain`] (byte 7). All zero: no
/// port.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortWord(u64);

impl PortWord {
    /// Labelled frames are accepted (RFC 5920 section 8.1: only where they are expected).
    pub const MPLS: u8 = 1;
    /// IP packets to the port's MAC are looked up in the FTN.
    pub const IMPOSE: u8 = 2;
    /// What arrives is this box's own traffic: imposition takes nothing off the IP TTL.
    pub const LOCAL: u8 = 4;
    /// A sub-interface that the kernel has a VLAN device for: a frame that is handed to the kernel with its labels popped keeps
    /// its tags, and so gets there. Without that device it would be dropped, so it loses them.
    pub const KERNEL_VLAN: u8 = 8;

    /// A port outside of VRFs.
    pub const fn new(mac: Mac, flags: u8) -> Self {
        Self(mac_word(mac, flags as u16))
    }

    /// The same port with another domain.
    pub const fn with_domain(self, domain: Domain) -> Self {
        Self((self.0 & !(0xff << 56)) | (domain.0 as u64) << 56)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn mac(self) -> Mac {
        word_mac(self.0)
    }

    /// Where in the FTN the port's packets are looked up.
    pub const fn domain(self) -> Domain {
        Domain((self.0 >> 56) as u8)
    }

    /// Whether the first eight bytes of a frame begin with this port's MAC.
    pub const fn is_destination(self, frame_start: [u8; 8]) -> bool {
        (u64::from_le_bytes(frame_start) ^ self.0) << 16 == 0
    }

    pub const fn has(self, flag: u8) -> bool {
        (self.0 >> 48) as u8 & flag != 0
    }
}

/// The bytes of a word that a MAC address takes.
const MAC_BITS: u64 = (1 << 48) - 1;

const fn mac_word(mac: Mac, rest: u16) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    let [low, high] = rest.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, low, high])
}

const fn word_mac(word: u64) -> Mac {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    Mac([a, b, c, d, e, f])
}

const fn word_rest(word: u64) -> u16 {
    (word >> 48) as u16
}

/// One entry of `STACKS`: the labels that a route pushes, outermost first. Immutable while an entry points to it. Of each word of
/// `labels`, bits 0-19 are the label, bits 24-31 a mask of its TTL: zero for an entropy label behind its indicator, which is
/// pushed with a TTL of 0 (RFC 6790 section 4.2), else all ones.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct LabelStack {
    depth: u8,
    ttl: u8,
    reserved: [u8; 6],
    labels: [u32; MAX_PUSH],
}

impl LabelStack {
    /// A slot that is not used.
    pub const EMPTY: Self = Self {
        depth: 0,
        ttl: 0,
        reserved: [0; 6],
        labels: [0; MAX_PUSH],
    };

    /// `ttl` is the TTL of labels that are imposed on IP, `None` for what the TTL mode says. `None` where there are no labels,
    /// or more than [`MAX_PUSH`].
    pub fn new(labels: &[Label], ttl: Option<core::num::NonZeroU8>) -> Option<Self> {
        if labels.is_empty() || labels.len() > MAX_PUSH {
            return None;
        }
        let mut words = [0; MAX_PUSH];
        let mut is_entropy = false;
        for (word, &label) in words.iter_mut().zip(labels) {
            let ttl_mask = if is_entropy { 0 } else { 0xff };
            *word = label.get() | ttl_mask << 24;
            is_entropy = !is_entropy && label == Label::ENTROPY_INDICATOR;
        }
        Some(Self {
            depth: labels.len() as u8,
            ttl: ttl.map_or(0, |ttl| ttl.get()),
            reserved: [0; 6],
            labels: words,
        })
    }

    /// As it lies in memory.
    pub fn words(&self) -> [u64; 5] {
        let pair = |index: usize| {
            let [a, b, c, d] = self.labels[index].to_ne_bytes();
            let [e, f, g, h] = self.labels[index + 1].to_ne_bytes();
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        [
            u64::from_ne_bytes([self.depth, self.ttl, 0, 0, 0, 0, 0, 0]),
            pair(0),
            pair(2),
            pair(4),
            pair(6),
        ]
    }

    /// Number of labels, 1 to [`MAX_PUSH`]; 0 in an unused slot.
    pub fn depth(&self) -> usize {
        usize::from(self.depth)
    }

    /// The configured TTL, 0 for none.
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    /// The labels, outermost first.
    pub fn labels(&self) -> impl Iterator<Item = Label> {
        self.labels
            .iter()
            .take(self.depth())
            .map(|&label| Label::from_low_bits(label))
    }

    /// The label at `index`, 0 the outermost.
    pub fn label(&self, index: usize) -> Option<Label> {
        self.labels.get(index).map(|&label| Label::from_low_bits(label))
    }

    /// What of a TTL the label at `index` is pushed with.
    pub fn ttl_mask(&self, index: usize) -> u8 {
        self.labels.get(index).map_or(0, |&label| (label >> 24) as u8)
    }
}

/// One entry of `ROUTE_COUNTERS` or `REASON_COUNTERS`, one per CPU. Bytes are those of the whole frame as received
/// (of [`Reason::NoPort`]: as it would have left).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// The one entry of `META`. All zero: not configured.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    pub magic: u32,
    pub abi_version: u32,
}

/// The one entry of `DELIVERY`: a frame that the kernel is to receive, and where.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Delivery {
    /// Index of the interface in the controller's network namespace.
    pub ifindex: u32,
    /// Of the frame, in bytes.
    pub length: u32,
    /// The frame, from the destination MAC address on.
    pub frame: [u8; Delivery::ROOM],
}

impl Delivery {
    /// Room for a frame: a little more than the kernel makes an skb of at once (`SKB_MAX_ALLOC`, about 16,000 bytes).
    pub const ROOM: usize = (1 << 14) - 2 * size_of::<u32>();
}

/// What is frozen into a port's copy of the program when it is loaded, in one 64-bit word.
///
/// | bits | field |
/// |---|---|
/// | 0-31 | this port's index in `PORTS` and `REASON_COUNTERS` |
/// | 32-39 | [`TtlMode`] |
/// | 40-47 | TTL of labels pushed in pipe mode |
/// | 48 | TC propagation |
/// | 49 | logging |
/// | 50-51 | [`UnknownPolicy`] |
/// | 52 | frames may be in several buffers |
/// | 53 | and are, when they leave as they came: the driver's, not the kernel's generic XDP |
/// | 54-55 | [`Checksum`] |
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings(u64);

impl Settings {
    /// `tunnel_ttl` is the TTL of labels pushed in pipe mode; `tc_propagate` writes the last popped label's TC into the IP
    /// precedence; `log` sends a log record for each exception.
    pub const fn new(port: u32, ttl_mode: TtlMode, tunnel_ttl: u8, tc_propagate: bool, log: bool) -> Self {
        let flags = tc_propagate as u64 | (log as u64) << 1;
        Self(port as u64 | (ttl_mode as u64) << 32 | (tunnel_ttl as u64) << 40 | flags << 48)
    }

    /// The same with another policy on labels that have no route; it is to punt unless told otherwise.
    pub const fn with_unknown(self, policy: UnknownPolicy) -> Self {
        Self((self.0 & !(3 << 50)) | (policy as u64) << 50)
    }

    /// The same for a port whose frames may be in several buffers, or not: then nobody asks how long the others are.
    pub const fn with_frags(self, frags: bool) -> Self {
        Self((self.0 & !(1 << 52)) | (frags as u64) << 52)
    }

    /// The same for a driver that hands over frames in several buffers itself. Those that the kernel's generic XDP has go out by
    /// any driver.
    pub const fn with_native_frags(self, native_frags: bool) -> Self {
        Self((self.0 & !(1 << 53)) | (native_frags as u64) << 53)
    }

    /// The same with another way to treat unfinished checksums; they are trusted unless told otherwise.
    pub const fn with_checksum(self, checksum: Checksum) -> Self {
        Self((self.0 & !(3 << 54)) | (checksum as u64) << 54)
    }

    /// The same for another port.
    pub const fn with_port(self, port: u32) -> Self {
        Self((self.0 & !0xffff_ffff) | port as u64)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn port(self) -> u32 {
        self.0 as u32
    }

    pub const fn ttl_mode(self) -> TtlMode {
        TtlMode::from_bits((self.0 >> 32) as u8)
    }

    pub const fn tunnel_ttl(self) -> u8 {
        (self.0 >> 40) as u8
    }

    pub const fn tc_propagate(self) -> bool {
        self.0 >> 48 & 1 != 0
    }

    pub const fn log(self) -> bool {
        self.0 >> 49 & 1 != 0
    }

    pub const fn frags(self) -> bool {
        self.0 >> 52 & 1 != 0
    }

    pub const fn native_frags(self) -> bool {
        self.0 >> 53 & 1 != 0
    }

    /// Whether frames of `reason` go to the slow path.
    pub const fn punts(self, reason: Reason) -> bool {
        match reason {
            Reason::NoRoute => matches!(self.unknown(), UnknownPolicy::Punt),
            reason => reason.is_punted(),
        }
    }

    pub const fn checksum(self) -> Checksum {
        match self.0 >> 54 & 3 {
            1 => Checksum::Finish,
            2 => Checksum::Punt,
            _ => Checksum::Trust,
        }
    }

    pub const fn unknown(self) -> UnknownPolicy {
        match self.0 >> 50 & 3 {
            1 => UnknownPolicy::Drop,
            2 => UnknownPolicy::Pass,
            _ => UnknownPolicy::Punt,
        }
    }
}

/// What becomes of a frame whose label has no route, once it is counted (`--unknown`).
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum UnknownPolicy {
    /// The slow path's, as other exceptions.
    #[default]
    Punt = 0,
    /// Dropped at once.
    Drop = 1,
    /// The kernel's, untouched.
    Pass = 2,
}

/// What a port's program does about TCP and UDP checksums that the sender left to its NIC.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Checksum {
    /// Does not look: they do not arrive there.
    #[default]
    Trust = 0,
    /// Finishes those of frames that are forwarded or punted.
    Finish = 1,
    /// Punts frames that would be forwarded, and finishes those that are punted: the slow path sends them. For frames that the
    /// kernel has made a packet of already: it keeps a note that the checksum is unfinished, which XDP cannot take away.
    Punt = 2,
}

/// How many exceptions of one reason and port the slow path gets: so many per second, and so many at once after a pause. Frozen
/// into the program as one 64-bit word: the rate in bits 0-31, the burst in bits 32-63; zero is "as many as come".
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Police(u64);

impl Police {
    pub const UNLIMITED: Self = Self(0);

    /// A burst of less than one frame is one frame; a rate of zero is no limit.
    pub const fn new(rate_per_second: u32, burst: u32) -> Self {
        if rate_per_second == 0 {
            return Self::UNLIMITED;
        }
        let burst = if burst == 0 { 1 } else { burst };
        Self(rate_per_second as u64 | (burst as u64) << 32)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether a frame at `now_ns` conforms, given what is stored of its policer: `None` where it does not, else what is to be
    /// stored in its place.
    ///
    /// This is the token bucket in the form of the generic cell rate algorithm (ITU-T I.371 annex A): all there is to store is
    /// the time at which the bucket will be full again. So the state is one word, which CPUs can share by compare-and-exchange,
    /// and a frame that is refused writes nothing.
    #[inline(always)]
    pub const fn admit(self, full_at_ns: u64, now_ns: u64) -> Option<u64> {
        const SECOND_NS: u64 = 1_000_000_000;
        let (rate, burst) = (self.0 & 0xffff_ffff, self.0 >> 32);
        if rate == 0 {
            return Some(full_at_ns);
        }
        let token_ns = SECOND_NS / rate;
        let full_at_ns = if full_at_ns > now_ns { full_at_ns } else { now_ns };
        if full_at_ns - now_ns > (burst - 1) * token_ns {
            return None;
        }
        Some(full_at_ns + token_ns)
    }
}

/// A part of the FTN. Each has all prefix routes, and the pass entries for what one routing table of the kernel claims: that of
/// the VRF of the ports that look there.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Domain(pub u8);

impl Domain {
    /// Ports that are in no VRF: the tables local and main.
    pub const NO_VRF: Self = Self(0);
    /// There are no entries here, ever: a port in a VRF whose domain has not been filled yet imposes nothing.
    pub const EMPTY: Self = Self(255);
    /// How many bits of a key are the domain's. A prefix is longer by as much.
    pub const BITS: u32 = 32;

    /// The data of a key for an address, or for the first address of a prefix.
    #[inline(always)]
    pub const fn key_v4(self, address: [u8; 4]) -> FtnKeyV4 {
        [self.0 as u32, u32::from_ne_bytes(address)]
    }

    /// Likewise.
    #[inline(always)]
    pub const fn key_v6(self, address: [u8; 16]) -> FtnKeyV6 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        [
            self.0 as u32,
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ]
    }
}

/// Data of a key of `FTN_V4`: the [`Domain`], and the bytes of the address in network byte order. The kernel compares eight bytes
/// at once, where there are as many.
pub type FtnKeyV4 = [u32; 2];
/// Data of a key of `FTN_V6`, likewise.
pub type FtnKeyV6 = [u32; 5];

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, $rfc:literal;)+) => {
        /// Why a frame was not forwarded: each has a counter per port.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name = $number,)+ }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The reason of a number, as it stands in `REASON_COUNTERS`.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// The name that the CLI and the control socket use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One sentence for a person who reads the counter.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }

            /// Where the rule stands.
            pub const fn source(self) -> &'static str {
                match self { $(Self::$name => $rfc,)+ }
            }
        }
    };
}

reasons! {
    #[doc = "The TTL expired here."]
    TtlExpired = 1, "ttl-expired", "RFC 3032 section 2.4, RFC 3443";
    #[doc = "No route for the incoming label."]
    NoRoute = 2, "no-route", "RFC 3031 section 3.18";
    #[doc = "The next hop's MAC address is not known, or its interface is down."]
    Unresolved = 3, "unresolved", "RFC 3031 section 3.10";
    #[doc = "The packet with its labels is larger than the next hop's MTU, or is a multi-buffer frame that its port cannot send."]
    TooBig = 4, "too-big", "RFC 3032 section 3";
    #[doc = "Router Alert label on top."]
    RouterAlert = 5, "router-alert", "RFC 3032 section 2.1";
    #[doc = "G-ACh or OAM Alert label on top."]
    Oam = 6, "oam", "RFC 5586, RFC 3429";
    #[doc = "MPLS echo request for this machine; never forwarded as IP."]
    LspPing = 7, "lsp-ping", "RFC 8029 section 4.3, RFC 9570";
    #[doc = "The stack has no bottom within the frame, or the payload is not the IP packet that the operation needs."]
    Malformed = 8, "malformed", "RFC 3032 section 2.1";
    #[doc = "A labelled frame on a port that does not accept labels."]
    PortDisabled = 9, "port-disabled", "RFC 5920 section 8.1";
    #[doc = "Implicit NULL received; it is never on the wire."]
    ImplicitNull = 10, "implicit-null", "RFC 3032 section 2.1";
    #[doc = "A special-purpose label that is not supported."]
    SpecialLabel = 11, "special-label", "RFC 7274 section 3";
    #[doc = "The driver leaves too little headroom to push the labels."]
    NoHeadroom = 12, "no-headroom", "Linux bpf_xdp_adjust_head";
    #[doc = "The outgoing port was removed."]
    NoPort = 13, "no-port", "Linux bpf_redirect_map";
    #[doc = "A labelled frame whose VLAN tags belong to no sub-interface of this port."]
    UnknownVlan = 14, "unknown-vlan", "RFC 3032 section 5, RFC 5920 section 8.1";
    #[doc = "A packet that the kernel sent into the local interface and that matches no prefix route."]
    NoFtn = 15, "no-ftn", "RFC 3031 section 3.12";
    #[doc = "The sender left the TCP or UDP checksum to its NIC; it was computed here and the frame forwarded."]
    ChecksumFinished = 16, "checksum-finished", "Linux CHECKSUM_PARTIAL";
}

impl Reason {
    /// Whether the slow path gets frames of this reason; others are dropped.
    pub const fn is_punted(self) -> bool {
        match self {
            Self::TtlExpired
            | Self::NoRoute
            | Self::Unresolved
            | Self::TooBig
            | Self::RouterAlert
            | Self::Oam
            | Self::LspPing
            | Self::ChecksumFinished => true,
            Self::Malformed
            | Self::PortDisabled
            | Self::ImplicitNull
            | Self::SpecialLabel
            | Self::NoHeadroom
            | Self::NoPort
            | Self::UnknownVlan
            | Self::NoFtn => false,
        }
    }

    /// Whether so many a second of frames of this reason go to the slow path ([`Police`]): not those that would be forwarded.
    pub const fn is_policed(self) -> bool {
        self.is_punted() && !matches!(self, Self::ChecksumFinished)
    }

    /// Where this reason's counter stands among a port's in `REASON_COUNTERS`.
    pub const fn slot(self) -> u32 {
        self as u32
    }

    /// Where this reason, which is punted, stands among those that are: below [`PUNT_SLOTS`].
    const fn punt_slot(self) -> u32 {
        match self {
            // No reason has this number.
            Self::ChecksumFinished => 0,
            reason => reason as u32,
        }
    }
}

/// Why the slow path did not get a frame that was to be punted. Such a frame counts for its reason, too.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Loss {
    Policed = 0,
    NoListener = 1,
}

impl Loss {
    pub const ALL: &[Self] = &[Self::Policed, Self::NoListener];

    /// The name that the CLI and the control socket use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policed => "policed",
            Self::NoListener => "no-listener",
        }
    }

    /// One sentence for a person who reads the counter.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Policed => "Rate limit for this reason exceeded (--punt-rate).",
            Self::NoListener => "The slow path does not listen on the queue where the frame arrived.",
        }
    }

    /// Where the counter of such frames of `reason`, which is punted, stands among a port's in `REASON_COUNTERS`.
    pub const fn slot(self, reason: Reason) -> u32 {
        LOSS_SLOTS + self as u32 * PUNT_SLOTS + reason.punt_slot()
    }
}

/// Where the first [`Loss`] begins.
const LOSS_SLOTS: u32 = 32;

/// Where frames are counted among a port's in `REASON_COUNTERS` that were redirected to the port, and that it did not send. They
/// were forwarded: their routes have counted them. Their bytes are not known.
pub const REDIRECT_LOST_SLOT: u32 = LOSS_SLOTS - 1;
/// The name that the CLI and the control socket use for them.
pub const REDIRECT_LOST: &str = "redirect-lost";
/// One sentence for a person who reads that counter.
pub const REDIRECT_LOST_DESCRIPTION: &str =
    "Forwarded, then lost: this port's driver did not take the redirected frames.";

/// What the programs must know that count lost frames: the kernel's tracepoints tell of all XDP programs on the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watch {
    /// The cookie of the network namespace (SO_NETNS_COOKIE).
    pub netns_cookie: u64,
    /// The number that the kernel has for the map `TX_PORTS`.
    pub tx_ports_id: u32,
    /// Offsets in the kernel's structures: `net_device.ifindex`, `net_device.nd_net`, `net.net_cookie`.
    pub ifindex_offset: u32,
    pub netns_offset: u32,
    pub cookie_offset: u32,
}

impl Watch {
    pub const fn words(self) -> [u64; 3] {
        [
            self.netns_cookie,
            self.tx_ports_id as u64 | (self.ifindex_offset as u64) << 32,
            self.netns_offset as u64 | (self.cookie_offset as u64) << 32,
        ]
    }

    pub const fn from_words([netns_cookie, second, third]: [u64; 3]) -> Self {
        Self {
            netns_cookie,
            tx_ports_id: second as u32,
            ifindex_offset: (second >> 32) as u32,
            netns_offset: third as u32,
            cookie_offset: (third >> 32) as u32,
        }
    }
}

const _: () = {
    assert!(size_of::<IlmEntry>() == 8 && align_of::<IlmEntry>() == 8);
    assert!(size_of::<PortWord>() == 8);
    assert!(size_of::<Adjacency>() == 32 && align_of::<Adjacency>() == 8);
    // A multiple of 8, as the kernel lays out arrays: what is mapped has no gaps.
    assert!(size_of::<LabelStack>() == 40);
    assert!(core::mem::offset_of!(LabelStack, labels) == 8);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Meta>() == 8);
    assert!(size_of::<Delivery>() == 1 << 14 && core::mem::offset_of!(Delivery, frame) == 8);
    assert!(size_of::<Settings>() == 8);
    assert!(Reason::ALL.len() < REDIRECT_LOST_SLOT as usize);
    assert!(LOSS_SLOTS + Loss::ALL.len() as u32 * PUNT_SLOTS == REASON_SLOTS);
    assert!(MAX_QUEUES.is_power_of_two());
    let mut index = 0;
    while index < Reason::ALL.len() {
        let reason = Reason::ALL[index];
        assert!(!reason.is_punted() || reason.punt_slot() < PUNT_SLOTS);
        assert!(!reason.is_policed() || reason.punt_slot() == reason as u32);
        index += 1;
    }
    assert!(size_of::<VlanTags>() == 8 && size_of::<SubInterfaceKey>() == 8);
    assert!(BUCKETS == 1 << u8::BITS);
    assert!(MAX_ADJACENCIES < 1 << 16 && MAX_LABELS <= 1 << 20 && MAX_PORTS <= 1 << 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ilm_entry_keeps_its_fields_apart() {
        let entry = IlmEntry::new(Op::PenultimatePop, TtlPropagate::Disabled, 0xf_ffff, 0xffff, 0xf_ffff);
        assert_eq!(entry.to_bits(), 0xffff_ffff_ffff_ff24);
        assert_eq!(
            (
                entry.op(),
                entry.ttl_propagate(),
                entry.operand(),
                entry.next_hop(),
                entry.slot()
            ),
            (Op::PenultimatePop, TtlPropagate::Disabled, 0xf_ffff, 0xffff, 0xf_ffff)
        );
        let moved = entry.with_next_hop(7);
        assert_eq!(
            (moved.next_hop(), moved.operand(), moved.slot()),
            (7, 0xf_ffff, 0xf_ffff)
        );
        assert_eq!(IlmEntry::EMPTY.op(), Op::None);
        assert_eq!(IlmEntry::PASS.op(), Op::Pass);
        assert_eq!(IlmEntry::from_bits(0xf).op(), Op::None);
    }

    #[test]
    fn an_adjacency_without_a_mac_is_unresolved() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        assert!(!Adjacency::new(Mac::ZERO, 5, mac, 1500).is_resolved());
        let adjacency = Adjacency::new(mac, 5, Mac([2, 0, 0, 0, 0, 1]), 1500);
        assert!(adjacency.is_resolved());
        assert_eq!(
            (
                adjacency.destination(),
                adjacency.port(),
                adjacency.source(),
                adjacency.mtu()
            ),
            (mac, 5, Mac([2, 0, 0, 0, 0, 1]), 1500)
        );
    }

    #[test]
    fn an_adjacency_keeps_tags_and_backup_apart() {
        let plain = Adjacency::new(Mac([2, 0, 0, 0, 0, 9]), 5, Mac([2, 0, 0, 0, 0, 1]), 1500);
        assert_eq!(
            (plain.tags(), plain.tags_len_bytes(), plain.backup()),
            (VlanTags::NONE, 0, None)
        );
        let one = VlanTags::one(0x8100, 100);
        let two = VlanTags::two(0x88a8, 100, 0x8100, 4095);
        assert_eq!(one.to_bytes(), [0x81, 0, 0, 100, 0, 0, 0, 0]);
        assert_eq!(two.to_bytes(), [0x88, 0xa8, 0, 100, 0x81, 0, 0x0f, 0xff]);
        for (tags, len) in [(VlanTags::NONE, 0), (one, 4), (two, 8)] {
            for backup in [None, Some(0), Some(0xfffe)] {
                for adjacency in [
                    plain.with_tags(tags).with_backup(backup),
                    plain.with_backup(backup).with_tags(tags),
                ] {
                    assert_eq!(
                        (adjacency.tags(), adjacency.tags_len_bytes(), adjacency.backup()),
                        (tags, len, backup)
                    );
                    assert_eq!(adjacency.with_tags(VlanTags::NONE).with_backup(None), plain);
                    let one_buffer = adjacency.with_one_buffer(true);
                    assert!(one_buffer.takes_one_buffer() && !adjacency.takes_one_buffer());
                    assert_eq!((one_buffer.tags_len_bytes(), one_buffer.backup()), (len, backup));
                    assert_eq!(one_buffer.with_one_buffer(false), adjacency);
                }
            }
        }
    }

    #[test]
    fn a_port_word_compares_only_the_mac() {
        let port = PortWord::new(Mac([2, 0, 0, 0, 0, 9]), PortWord::MPLS);
        assert!(port.is_destination([2, 0, 0, 0, 0, 9, 0xaa, 0xbb]));
        assert!(!port.is_destination([2, 0, 0, 0, 0, 8, 0xaa, 0xbb]));
        assert!(port.has(PortWord::MPLS) && !port.has(PortWord::LOCAL));
    }

    #[test]
    fn reasons_are_numbered_without_gaps_and_explained() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index + 1);
            assert!(reason.description().ends_with('.') && !reason.source().is_empty() && !reason.name().is_empty());
        }
    }

    #[test]
    fn the_policy_on_unknown_labels_is_apart_from_other_settings() {
        let settings = Settings::new(7, TtlMode::Linux, 255, true, true);
        assert_eq!(settings.unknown(), UnknownPolicy::Punt);
        for policy in [UnknownPolicy::Drop, UnknownPolicy::Pass, UnknownPolicy::Punt] {
            let changed = settings.with_unknown(UnknownPolicy::Drop).with_unknown(policy);
            assert_eq!(changed.unknown(), policy);
            assert_eq!(
                (
                    changed.port(),
                    changed.ttl_mode(),
                    changed.tunnel_ttl(),
                    changed.tc_propagate(),
                    changed.log()
                ),
                (7, TtlMode::Linux, 255, true, true)
            );
        }
    }

    #[test]
    fn every_loss_has_a_slot_of_its_own() {
        let punted = Reason::ALL.iter().filter(|reason| reason.is_punted());
        let losses = punted.flat_map(|&reason| Loss::ALL.iter().map(move |loss| loss.slot(reason)));
        let mut slots: Vec<u32> = losses.chain(Reason::ALL.iter().map(|reason| reason.slot())).collect();
        let all = slots.len();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), all);
        assert!(slots.iter().all(|&slot| slot < REASON_SLOTS));
    }

    /// How many of `offered` frames that come `every_ns` are admitted.
    fn admitted(police: Police, state: &mut u64, from_ns: u64, every_ns: u64, offered: u64) -> u64 {
        (0..offered)
            .filter(|index| match police.admit(*state, from_ns + index * every_ns) {
                Some(next) => {
                    *state = next;
                    true
                }
                None => false,
            })
            .count() as u64
    }

    #[test]
    fn a_policer_admits_the_burst_and_then_the_rate() {
        let police = Police::new(1000, 50);
        let mut state = 0;
        let start = 1 << 40;
        // A bucket that was never used is full.
        assert_eq!(admitted(police, &mut state, start, 0, 1000), 50);
        // Then one token a millisecond, of which none is lost and none is lent.
        assert_eq!(admitted(police, &mut state, start + 1_000_000, 100_000, 1000), 100);
        // A long pause fills it, and no more than that.
        assert_eq!(admitted(police, &mut state, start << 1, 0, 1000), 50);
    }

    #[test]
    fn a_policer_without_a_rate_admits_everything_and_a_burst_is_one_at_least() {
        let mut state = 0;
        assert_eq!(admitted(Police::UNLIMITED, &mut state, 0, 0, 1000), 1000);
        assert_eq!(Police::new(0, 50), Police::UNLIMITED);
        assert_eq!(admitted(Police::new(1, 0), &mut state, 1 << 40, 0, 10), 1);
        // A burst so large that it lasts for centuries does not overflow.
        let mut state = 0;
        assert_eq!(admitted(Police::new(1, u32::MAX), &mut state, 1 << 40, 0, 1000), 1000);
    }
}

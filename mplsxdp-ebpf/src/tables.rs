//! The BPF maps. `docs/map-abi.md` describes each. The loader sets the sizes that `load` can change.

use core::arch::asm;
use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::{BPF_FIB_LOOKUP_DIRECT, xdp_md},
    btf_maps,
    helpers::{bpf_fib_lookup, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{btf_map, map},
    maps::{Array, DevMap, HashMap, PerCpuArray, XskMap},
    programs::XdpContext,
};
use mplsxdp_common::abi::{
    Adjacency, BUCKETS, CHUNK_LINES, CHUNK_WORDS, Counter, CounterSlots, CrossConnect, DEFAULT_BACKUPS,
    DEFAULT_COUNTER_SLOTS, DEFAULT_GROUPS, DEFAULT_STACKS, Delivery, Domain, Encapsulation,
    FTN_ROOTS as FTN_ROOT_WORDS, LABEL_RANGE_WORDS, LINE_WORDS, LabelRange, LabelStack, MAX_ADJACENCIES, MAX_CHUNKS,
    MAX_LABELS, MAX_PORTS, MAX_PSEUDOWIRES, MAX_QUEUES, MAX_VRFS, Meta, PUNT_SLOTS, Police, PortWord, REASON_SLOTS,
    REDIRECT_LOST_SLOT, Reason, RouteEntry, Settings, SubInterfaceKey, TRAFFIC_CLASS_WORDS, TtlMode, VrfWord, Watch,
};
use mplsxdp_common::checksum;
use mplsxdp_common::fib::FibLookup;
use mplsxdp_common::forward::{
    Frame, PortView, Service, ServiceFrame, enter_pseudowire, leave_pseudowire, send_in_vrf,
};
use mplsxdp_common::ftn::{Nodes, Roots, halves_v4, halves_v6, longest_match, look_up};
use mplsxdp_common::wire::Label;

use crate::frame::XdpFrame;

const BPF_F_MMAPABLE: u32 = 0x400;

#[map]
static ILM: Array<u64> = Array::with_max_entries(MAX_LABELS, BPF_F_MMAPABLE);
#[map]
static ADJACENCIES: Array<[u64; 4]> = Array::with_max_entries(MAX_ADJACENCIES, BPF_F_MMAPABLE);
#[map]
static STACKS: Array<LabelStack> = Array::with_max_entries(DEFAULT_STACKS, BPF_F_MMAPABLE);
#[map]
static GROUPS: Array<[u64; BUCKETS]> = Array::with_max_entries(DEFAULT_GROUPS, BPF_F_MMAPABLE);
#[map]
static BACKUPS: Array<[u64; 2]> = Array::with_max_entries(DEFAULT_BACKUPS, BPF_F_MMAPABLE);
#[map]
static FTN_ROOTS: Array<u64> = Array::with_max_entries(FTN_ROOT_WORDS, BPF_F_MMAPABLE);
/// Inner maps of one element, which the controller adds when they are needed.
#[btf_map]
static FTN: btf_maps::ArrayOfMaps<
    btf_maps::Array<[u64; CHUNK_WORDS], 1, { BPF_F_MMAPABLE as usize }>,
    { MAX_CHUNKS as usize },
> = btf_maps::ArrayOfMaps::new();
#[map]
static PORTS: Array<u64> = Array::with_max_entries(MAX_PORTS, BPF_F_MMAPABLE);
#[map]
static LABEL_RANGES: Array<[u64; LABEL_RANGE_WORDS]> = Array::with_max_entries(MAX_PORTS, BPF_F_MMAPABLE);
#[map]
static CROSS_CONNECTS: Array<u64> = Array::with_max_entries(MAX_PORTS, BPF_F_MMAPABLE);
#[map]
static PSEUDOWIRES: Array<[u64; 2]> = Array::with_max_entries(MAX_PSEUDOWIRES, BPF_F_MMAPABLE);
#[map]
static ATTACHMENTS: Array<[u64; 2]> = Array::with_max_entries(MAX_PSEUDOWIRES, BPF_F_MMAPABLE);
#[map]
static TRAFFIC_CLASSES: Array<[u64; TRAFFIC_CLASS_WORDS]> = Array::with_max_entries(MAX_PORTS, BPF_F_MMAPABLE);
#[map]
static VRFS: Array<u64> = Array::with_max_entries(MAX_VRFS, BPF_F_MMAPABLE);
/// How frames leave by each interface, by interface index.
#[map]
static WAYS_OUT: HashMap<u32, u64> = HashMap::with_max_entries(MAX_PORTS, 0);
#[map]
static SUB_INTERFACES: HashMap<u64, u32> = HashMap::with_max_entries(MAX_PORTS, 0);
#[map]
pub static TX_PORTS: DevMap = DevMap::with_max_entries(MAX_PORTS, 0);
/// The port of each interface, by interface index.
#[map]
static INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(MAX_PORTS, 0);
/// Sockets of the slow path.
#[map]
pub static XSKS: XskMap = XskMap::with_max_entries(MAX_PORTS * MAX_QUEUES, 0);
/// State of [`Police`] for each port and reason.
#[map]
static POLICERS: Array<u64> = Array::with_max_entries(MAX_PORTS * PUNT_SLOTS, 0);
#[map]
static ROUTE_COUNTERS: Array<Counter> = Array::with_max_entries(DEFAULT_COUNTER_SLOTS, BPF_F_MMAPABLE);
#[map]
static REASON_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(MAX_PORTS * REASON_SLOTS, 0);
/// The frame that [`crate::deliver`] delivers.
#[map]
pub static DELIVERY: Array<Delivery> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Read by the controller only.
#[map]
static META: Array<Meta> = Array::with_max_entries(1, 0);

// The frozen settings name their section. Otherwise the compiler would merge them with constants that have the same
// value as they have here, such as the key of a map, and the loader would change both.

/// Frozen by the loader: the verifier sees a constant.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static SETTINGS: u64 = Settings::new(0, TtlMode::Uniform, 255, false, false).to_bits();
/// Frozen by the loader.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static POLICE: u64 = Police::UNLIMITED.to_bits();
/// Frozen by the loader.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static HASH_SEED: u32 = 0;

/// Frozen by the loader.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static COUNTER_SLOTS: u64 = CounterSlots::new(DEFAULT_COUNTER_SLOTS).to_bits();

/// Frozen by the loader. Not 0: one program may begin on this CPU before another has ended (PREEMPT_RT), so counters
/// are updated with atomic instructions.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static ATOMIC_COUNTERS: u32 = 0;

/// Frozen by the loader, for the programs that count lost frames.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static WATCH: [u64; 3] = [0; 3];

pub struct XdpTables;

impl PortView for XdpTables {
    #[inline(always)]
    fn settings(&self) -> Settings {
        // SAFETY: a static; volatile so that the compiler does not assume the initial value above.
        Settings::from_bits(unsafe { read_volatile(&raw const SETTINGS) })
    }

    #[inline(always)]
    fn port(&self, number: u32) -> PortWord {
        PortWord::from_bits(read_word(&PORTS, number))
    }

    #[inline(always)]
    fn accepts_label(&self, port: PortWord, number: u32, label: Label) -> bool {
        accepts_label(port.to_bits(), number, label.get()) != 0
    }

    #[inline(always)]
    fn cross_connect(&self, port: PortWord, number: u32) -> CrossConnect {
        let Some(word) = CROSS_CONNECTS.get_ptr(number) else {
            return CrossConnect::NOWHERE;
        };
        // SAFETY: the map's value; read once, as the controller writes it.
        CrossConnect::from_bits(unsafe { read_volatile(read_after(port.to_bits(), word)) })
    }

    #[inline(always)]
    fn pseudowire(&self, index: u32) -> (CrossConnect, Encapsulation) {
        match read_words(&PSEUDOWIRES, index) {
            Some([cross, encapsulation]) => (CrossConnect::from_bits(cross), Encapsulation::from_bits(encapsulation)),
            None => (CrossConnect::NOWHERE, Encapsulation::new()),
        }
    }

    #[inline(always)]
    fn attachment(&self, index: u32) -> (RouteEntry, Encapsulation) {
        let [entry, encapsulation] = read_words(&ATTACHMENTS, index).unwrap_or_default();
        (RouteEntry::from_bits(entry), Encapsulation::from_bits(encapsulation))
    }

    #[inline(always)]
    fn traffic_classes(&self, port: PortWord, number: u32, index: usize) -> u64 {
        traffic_classes(port.to_bits(), number, index as u32)
    }

    #[inline(always)]
    fn sub_interface(&self, key: SubInterfaceKey) -> Option<u32> {
        // SAFETY: the map's value; the controller replaces it as a whole.
        unsafe { SUB_INTERFACES.get(key.to_bits()) }.copied()
    }

    #[inline(always)]
    fn ilm(&self, label: Label) -> RouteEntry {
        RouteEntry::from_bits(read_word(&ILM, label.get()))
    }

    #[inline(always)]
    fn ftn_v4(&self, domain: Domain, destination: [u8; 4]) -> RouteEntry {
        let (high, low) = halves_v4(destination);
        RouteEntry::from_bits(look_up(&RootWords, domain.root_v4(), |first| walk(first, high, low)))
    }

    #[inline(always)]
    fn ftn_v6(&self, domain: Domain, destination: [u8; 16]) -> RouteEntry {
        let (high, low) = halves_v6(destination);
        RouteEntry::from_bits(look_up(&RootWords, domain.root_v6(), |first| walk(first, high, low)))
    }

    #[inline(always)]
    fn adjacency(&self, index: u16) -> Option<Adjacency> {
        let words = ADJACENCIES.get_ptr(index.into())? as *const u64;
        // SAFETY: the map's value; each word is read once, as the controller writes it.
        let first = unsafe { read_volatile(words) };
        let words = read_after(first, words);
        // SAFETY: likewise.
        let [second, third, fourth] = [1, 2, 3].map(|index| unsafe { read_volatile(words.add(index)) });
        Some(Adjacency::from_words([first, second, third, fourth]))
    }

    #[inline(always)]
    fn label_stack(&self, index: u32) -> Option<&LabelStack> {
        STACKS.get(index)
    }

    #[inline(always)]
    fn bucket(&self, group: u32, bucket: u8) -> RouteEntry {
        let buckets = GROUPS.get_ptr(group);
        // SAFETY: the map's value, and within it; read once, as the controller writes it.
        RouteEntry::from_bits(buckets.map_or(0, |buckets| unsafe {
            read_volatile((buckets as *const u64).add(bucket.into()))
        }))
    }

    #[inline(always)]
    fn protected(&self, pair: u32) -> [RouteEntry; 2] {
        read_words(&BACKUPS, pair)
            .unwrap_or_default()
            .map(RouteEntry::from_bits)
    }

    #[inline(always)]
    fn is_resolved(&self, index: u16) -> bool {
        let Some(words) = ADJACENCIES.get_ptr(index.into()) else {
            return false;
        };
        // SAFETY: the map's value; the first word, read once, as the controller writes it.
        let first = unsafe { read_volatile(words as *const u64) };
        Adjacency::from_words([first, 0, 0, 0]).is_resolved()
    }

    #[inline(always)]
    fn vrf(&self, index: u32) -> VrfWord {
        VrfWord::from_bits(read_word(&VRFS, index))
    }

    #[inline(always)]
    fn fib<F: Frame>(&self, frame: &F, lookup: &mut FibLookup) -> bool {
        let (lookup, size) = (lookup as *mut FibLookup, size_of::<FibLookup>() as i32);
        // SAFETY: the helper takes this program's own context, and reads and writes the question, which is as long as its.
        unsafe { bpf_fib_lookup(frame.context(), lookup.cast(), size, BPF_FIB_LOOKUP_DIRECT) == 0 }
    }

    #[inline(always)]
    fn serve<F: Frame>(&self, frame: &mut F, received: ServiceFrame) -> u32 {
        serve(frame.context().cast(), received.to_bits())
    }

    #[inline(always)]
    fn finish_checksum<F: Frame>(&self, frame: &mut F) -> bool {
        finish_checksum(frame.context().cast()) != 0
    }

    #[inline(always)]
    fn way_out(&self, ifindex: u32) -> Option<CrossConnect> {
        // SAFETY: the map's value; the controller replaces it as a whole.
        unsafe { WAYS_OUT.get(ifindex) }.copied().map(CrossConnect::from_bits)
    }

    #[inline(always)]
    fn hash_seed(&self) -> u32 {
        // SAFETY: a static; volatile so that the compiler does not assume the initial value above.
        unsafe { read_volatile(&raw const HASH_SEED) }
    }

    #[inline(always)]
    fn expect(&self, label: Label) {
        if let Some(counter) = route_counter(counter_slots().likely(label)) {
            // SAFETY: this CPU's own value. Volatile, because the result is not used: the read is to fetch the cache line.
            unsafe { read_volatile(&raw const (*counter).packets) };
        }
    }

    #[inline(always)]
    fn count(&self, slot: u32, bytes: usize) {
        // Slot 0 is never read: counting into it is cheaper than a check.
        if let Some(counter) = route_counter(or_zero(slot, counter_slots().count())) {
            // SAFETY: this CPU's own value.
            unsafe { add_frame(counter, bytes) };
        }
    }

    #[inline(always)]
    fn count_reason(&self, port: u32, reason: Reason, bytes: usize) {
        count_reason_slot(port, reason.slot(), bytes);
    }
}

/// The memory of the FTN's roots.
struct RootWords;

impl Roots for RootWords {
    type Place = *const u64;

    #[inline(always)]
    fn place(&self, index: u32) -> Option<*const u64> {
        FTN_ROOTS.get_ptr(index)
    }

    #[inline(always)]
    fn after(&self, place: *const u64, value: u64) -> *const u64 {
        read_after(value, place)
    }

    #[inline(always)]
    fn load(&self, place: *const u64) -> u64 {
        // SAFETY: the map's value; read once, as the controller writes it.
        unsafe { read_volatile(place) }
    }
}

/// A call of its own, so that there is one loop for both families. With a name that others could call it by, it is a
/// global function: the verifier processes it once, and not for each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk(first: u64, high: u64, low: u64) -> u64 {
    longest_match(&Chunks, first, high, low)
}

/// Global, like [`walk`]: nothing that the verifier knows of other frames multiplies what it processes here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn serve(ctx: *mut xdp_md, received: u64) -> u32 {
    let service = {
        let ctx = XdpContext::new(ctx);
        Service::of(&XdpFrame::new(&ctx), &XdpTables, ServiceFrame::from_bits(received))
    };
    match service {
        Service::Vrf => in_vrf(ctx, received),
        Service::LeavePseudowire => out_of_pseudowire(ctx, received),
        Service::EnterPseudowire => into_pseudowire(ctx, received),
    }
}

/// Global, like [`walk`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn finish_checksum(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    checksum::finish(&mut XdpFrame::new(&ctx)).into()
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn in_vrf(ctx: *mut xdp_md, received: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    send_in_vrf(&mut XdpFrame::new(&ctx), &XdpTables, ServiceFrame::from_bits(received))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn out_of_pseudowire(ctx: *mut xdp_md, received: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    leave_pseudowire(&mut XdpFrame::new(&ctx), &XdpTables, ServiceFrame::from_bits(received))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn into_pseudowire(ctx: *mut xdp_md, received: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    enter_pseudowire(&mut XdpFrame::new(&ctx), &XdpTables, ServiceFrame::from_bits(received))
}

/// Global, like [`walk`]: labels are looked up at several places.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn accepts_label(port: u64, number: u32, label: u32) -> u32 {
    let Some(words) = LABEL_RANGES.get_ptr(number) else {
        return 0;
    };
    let words = read_after(port, words as *const u64);
    let mut outside = 1;
    for index in 0..LABEL_RANGE_WORDS {
        // SAFETY: the map's value, and within it; read once, as the controller writes it.
        let range = LabelRange::from_bits(unsafe { read_volatile(words.add(index)) });
        outside &= range.outside(Label::from_low_bits(label));
    }
    (outside == 0).into()
}

/// Global, like [`walk`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn traffic_classes(port: u64, number: u32, index: u32) -> u64 {
    let (has_classes, index) = (PortWord::from_bits(port).has(PortWord::CLASSES), index as usize);
    if !has_classes || index >= TRAFFIC_CLASS_WORDS {
        return 0;
    }
    let Some(words) = TRAFFIC_CLASSES.get_ptr(number) else {
        return 0;
    };
    let words = read_after(port, words as *const u64);
    // SAFETY: the map's value, and within it; read once, as the controller writes it.
    unsafe { read_volatile(words.add(index)) }
}

/// The memory of the FTN.
struct Chunks;

/// A node: its chunk, and its first word there.
#[derive(Clone, Copy)]
struct Node {
    chunk: *const u64,
    word: usize,
}

impl Nodes for Chunks {
    type Node = Node;

    #[inline(always)]
    fn node(&self, line: u32) -> Option<Node> {
        // A local, so that the key is on the stack: a constant would be a map of its own.
        let only = 0;
        let chunk = FTN.get_value(line / CHUNK_LINES, &only)?;
        Some(Node {
            chunk: chunk.as_ptr(),
            word: (line % CHUNK_LINES) as usize * LINE_WORDS,
        })
    }

    #[inline(always)]
    fn word(&self, node: Node, index: usize) -> u64 {
        // SAFETY: within the chunk, as is every word of a node; read once, as the controller writes it.
        unsafe { read_volatile(node.chunk.add((node.word + index) & (CHUNK_WORDS - 1))) }
    }

    #[inline(always)]
    fn word_before(&self, node: Node) -> u64 {
        // SAFETY: likewise.
        unsafe { read_volatile(node.chunk.add(node.word.wrapping_sub(1) & (CHUNK_WORDS - 1))) }
    }
}

/// Counts a frame in one of a port's slots.
#[inline(always)]
pub fn count_reason(port: u32, slot: u32, frame: &impl Frame) {
    count_reason_slot(port, slot, frame.len());
}

/// Counts frames that were redirected to a port but not sent by it.
#[inline(always)]
pub fn count_redirect_lost(port: u32, frames: u64) {
    if port >= MAX_PORTS {
        return;
    }
    if let Some(counter) = REASON_COUNTERS.get_ptr_mut(port * REASON_SLOTS + REDIRECT_LOST_SLOT) {
        // SAFETY: this CPU's own value.
        unsafe { add(counts_atomically(), &raw mut (*counter).packets, frames) };
    }
}

/// The port on the interface with this index.
#[inline(always)]
pub fn port_on(ifindex: u32) -> Option<u32> {
    // SAFETY: the map's value; the controller replaces it as a whole.
    unsafe { INTERFACES.get(ifindex) }.copied()
}

#[inline(always)]
pub fn watch() -> Watch {
    // SAFETY: a static; volatile so that the compiler does not assume the initial value above.
    Watch::from_words([0, 1, 2].map(|index| unsafe { read_volatile((&raw const WATCH).cast::<u64>().add(index)) }))
}

/// Whether the policer of a port and reason admits a frame now. All CPUs share it, so that the rate applies to the
/// port, however many queues it has.
#[inline(always)]
pub fn is_admitted(port: u32, reason: Reason) -> bool {
    /// Each failed attempt means that another CPU was admitted meanwhile; a frame that fails this often is over the
    /// rate.
    const ATTEMPTS: usize = 4;

    // SAFETY: a static; volatile so that the compiler does not assume the initial value above.
    let police = Police::from_bits(unsafe { read_volatile(&raw const POLICE) });
    if police == Police::UNLIMITED {
        return true;
    }
    let Some(state) = POLICERS.get_ptr_mut(port * PUNT_SLOTS + reason as u32) else {
        return false;
    };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    for _ in 0..ATTEMPTS {
        // SAFETY: the map's value, read once.
        let full_at_ns = unsafe { read_volatile(state) };
        let Some(next) = police.admit(full_at_ns, now_ns) else {
            return false;
        };
        // SAFETY: the map's value; all other writers use this function, too.
        if unsafe { compare_exchange(state, full_at_ns, next) } {
            return true;
        }
    }
    false
}

/// Replaces `old` with `new`, if `old` is still there. In assembly: `core` does not have this operation for this
/// target; the kernel has had it since 5.12.
///
/// # Safety
/// `word` must be valid for reads and writes, and aligned.
#[inline(always)]
unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: as the caller says.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({} + 0, r0, {})",
            in(reg) word,
            in(reg) new,
            inlateout("r0") old => found,
            options(nostack)
        );
    }
    found == old
}

#[inline(always)]
fn count_reason_slot(port: u32, slot: u32, bytes: usize) {
    if let Some(counter) = REASON_COUNTERS.get_ptr_mut(port * REASON_SLOTS + slot) {
        // SAFETY: this CPU's own value.
        unsafe { add_frame(counter, bytes) };
    }
}

#[inline(always)]
fn counter_slots() -> CounterSlots {
    // SAFETY: a static; volatile so that the compiler does not assume the initial value above.
    CounterSlots::from_bits(unsafe { read_volatile(&raw const COUNTER_SLOTS) })
}

/// `slot` if it is less than `end`, else 0. In assembly: the compiler would make a branch of it, and Linux 6.1 would
/// process what follows once for each side.
#[inline(always)]
fn or_zero(slot: u32, end: u32) -> u32 {
    let mut slot = u64::from(slot);
    // SAFETY: arithmetic in registers: the difference is negative, so all of its bits are set by the shift, or it is not.
    unsafe {
        asm!(
            "{difference} -= {end}",
            "{difference} s>>= 63",
            "{slot} &= {difference}",
            difference = inout(reg) slot => _,
            end = in(reg) u64::from(end),
            slot = inout(reg) slot,
            options(nostack, pure, nomem)
        );
    }
    slot as u32
}

/// This CPU's counter of a slot, which must be less than the number of slots.
#[inline(always)]
fn route_counter(slot: u32) -> Option<*mut Counter> {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    ROUTE_COUNTERS.get_ptr_mut(counter_slots().index(cpu, slot))
}

/// # Safety
/// `counter` must be valid for reads and writes, and only programs on this CPU write to it.
#[inline(always)]
unsafe fn add_frame(counter: *mut Counter, bytes: usize) {
    let atomically = counts_atomically();
    // SAFETY: as the caller says.
    unsafe {
        add(atomically, &raw mut (*counter).packets, 1);
        add(atomically, &raw mut (*counter).bytes, bytes as u64);
    }
}

#[inline(always)]
fn counts_atomically() -> bool {
    // SAFETY: a static; volatile so that the compiler does not assume the initial value above.
    unsafe { read_volatile(&raw const ATOMIC_COUNTERS) != 0 }
}

/// Adds to a word that only programs on this CPU write. The condition is frozen: the verifier keeps only one branch.
///
/// # Safety
/// `word` must be valid for reads and writes, and aligned.
#[inline(always)]
unsafe fn add(atomically: bool, word: *mut u64, value: u64) {
    // SAFETY: as the caller says. In assembly, because `core` does not have this operation for this target.
    unsafe {
        if atomically {
            asm!("lock *(u64 *)({} + 0) += {}", in(reg) word, in(reg) value, options(nostack));
        } else {
            *word += value;
        }
    }
}

/// Returns `words` for reads that must come after the read of `value` in memory order: their address depends on it, and
/// every CPU that Linux runs on respects such a dependency. It costs two additions; only newer kernels know a
/// load-acquire.
#[inline(always)]
fn read_after(value: u64, words: *const u64) -> *const u64 {
    let mut after = words;
    // SAFETY: adds zero. In assembly, because the compiler would remove it; the kernel's JIT compilers translate the
    // instructions they are given.
    unsafe {
        asm!(
            "{value} &= 0",
            "{after} += {value}",
            value = inout(reg) value => _,
            after = inout(reg) after,
            options(nostack, pure, readonly)
        );
    }
    after
}

/// Two words, `None` if the index is beyond the end of the map.
#[inline(always)]
fn read_words(map: &Array<[u64; 2]>, index: u32) -> Option<[u64; 2]> {
    let words = map.get_ptr(index)? as *const u64;
    // SAFETY: the map's value, and within it; each word is read once, as the controller writes it.
    Some([0, 1].map(|index| unsafe { read_volatile(words.add(index)) }))
}

/// One word, 0 if the index is beyond the end of the map.
#[inline(always)]
fn read_word(map: &Array<u64>, index: u32) -> u64 {
    // SAFETY: the map's value; read once, as the controller writes it.
    map.get_ptr(index).map_or(0, |word| unsafe { read_volatile(word) })
}

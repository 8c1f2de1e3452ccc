//! The BPF maps. `docs/map-abi.md` describes each; sizes that `load` can change are set by the loader.

use core::ptr::read_volatile;

use aya_ebpf::{
    macros::map,
    maps::{Array, DevMap, LpmTrie, PerCpuArray, lpm_trie::Key},
};
use mplsxdp_common::abi::{
    Adjacency, Counter, DEFAULT_COUNTER_SLOTS, DEFAULT_STACKS, FtnKeyV4, FtnKeyV6, IlmEntry, LabelStack,
    MAX_ADJACENCIES, MAX_FTN, MAX_LABELS, MAX_PORTS, Meta, PortWord, REASON_SLOTS, Reason, Settings, TtlMode,
};
use mplsxdp_common::forward::{Frame, Tables};
use mplsxdp_common::wire::Label;

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_MMAPABLE: u32 = 0x400;

#[map]
static ILM: Array<u64> = Array::with_max_entries(MAX_LABELS, BPF_F_MMAPABLE);
#[map]
static ADJACENCIES: Array<[u64; 4]> = Array::with_max_entries(MAX_ADJACENCIES, BPF_F_MMAPABLE);
#[map]
static STACKS: Array<LabelStack> = Array::with_max_entries(DEFAULT_STACKS, BPF_F_MMAPABLE);
#[map]
static FTN_V4: LpmTrie<FtnKeyV4, u64> = LpmTrie::with_max_entries(MAX_FTN, BPF_F_NO_PREALLOC);
#[map]
static FTN_V6: LpmTrie<FtnKeyV6, u64> = LpmTrie::with_max_entries(MAX_FTN, BPF_F_NO_PREALLOC);
#[map]
static PORTS: Array<u64> = Array::with_max_entries(MAX_PORTS, BPF_F_MMAPABLE);
#[map]
pub static TX_PORTS: DevMap = DevMap::with_max_entries(MAX_PORTS, 0);
#[map]
static ROUTE_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(DEFAULT_COUNTER_SLOTS, 0);
#[map]
static REASON_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(MAX_PORTS * REASON_SLOTS, 0);
/// Read by the controller only.
#[map]
static META: Array<Meta> = Array::with_max_entries(1, 0);

/// Frozen by the loader: the verifier sees constants.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings::new(0, TtlMode::Uniform, 255, false, false);

pub struct XdpTables;

impl Tables for XdpTables {
    #[inline(always)]
    fn settings(&self) -> Settings {
        // SAFETY: a static of eight bytes, aligned to them; volatile so that the compiler does not take the value above for
        // granted.
        Settings::from_word(unsafe { read_volatile((&raw const SETTINGS).cast()) })
    }

    #[inline(always)]
    fn port(&self) -> PortWord {
        PortWord::from_bits(read_word(&PORTS, self.settings().port()))
    }

    #[inline(always)]
    fn ilm(&self, label: Label) -> IlmEntry {
        IlmEntry::from_bits(read_word(&ILM, label.get()))
    }

    #[inline(always)]
    fn ftn_v4(&self, destination: FtnKeyV4) -> IlmEntry {
        IlmEntry::from_bits(FTN_V4.get(Key::new(32, destination)).copied().unwrap_or(0))
    }

    #[inline(always)]
    fn ftn_v6(&self, destination: FtnKeyV6) -> IlmEntry {
        IlmEntry::from_bits(FTN_V6.get(Key::new(128, destination)).copied().unwrap_or(0))
    }

    #[inline(always)]
    fn adjacency(&self, index: u16) -> Option<Adjacency> {
        let words = ADJACENCIES.get_ptr(index.into())?;
        // SAFETY: the map's value; each word is read once, as the controller writes it.
        Some(Adjacency::from_words(unsafe {
            [
                read_volatile(&raw const (*words)[0]),
                read_volatile(&raw const (*words)[1]),
                0,
                0,
            ]
        }))
    }

    #[inline(always)]
    fn label_stack(&self, index: u32) -> Option<&LabelStack> {
        STACKS.get(index)
    }

    #[inline(always)]
    fn count(&self, slot: u32, bytes: usize) {
        // Slot 0 is never read: counting into it is cheaper than asking.
        count(&ROUTE_COUNTERS, slot, bytes);
    }
}

/// Counts a frame that was dropped at this port.
#[inline(always)]
pub fn count_reason(reason: Reason, frame: &impl Frame) {
    count(
        &REASON_COUNTERS,
        XdpTables.settings().port() * REASON_SLOTS + reason as u32,
        frame.len(),
    );
}

#[inline(always)]
fn count(counters: &PerCpuArray<Counter>, index: u32, bytes: usize) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: this CPU's own value, and XDP programs do not nest on one CPU.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}

/// One word, 0 beyond the end of the map.
#[inline(always)]
fn read_word(map: &Array<u64>, index: u32) -> u64 {
    // SAFETY: the map's value; read once, as the controller writes it.
    map.get_ptr(index).map_or(0, |word| unsafe { read_volatile(word) })
}

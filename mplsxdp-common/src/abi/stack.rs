//! `STACKS`: the labels that a route pushes.

use super::MAX_PUSH;
use crate::wire::Label;

/// One entry of `STACKS`: the labels that a route pushes, outermost first. Immutable while an entry points to it. In
/// each word of `labels`, bits 0-19 are the label, and bits 24-31 a mask of its TTL: zero for an entropy label after
/// its indicator, which is pushed with a TTL of 0 (RFC 6790 section 4.2), else all ones.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct LabelStack {
    depth: u8,
    ttl: u8,
    reserved: [u8; 6],
    labels: [u32; MAX_PUSH],
}

impl LabelStack {
    /// An unused slot.
    pub const EMPTY: Self = Self {
        depth: 0,
        ttl: 0,
        reserved: [0; 6],
        labels: [0; MAX_PUSH],
    };

    /// `ttl` is the TTL of labels that are imposed on IP; with `None`, the TTL mode decides. Returns `None` if there
    /// are no labels, or more than [`MAX_PUSH`].
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

    /// The entry as it lies in memory.
    pub fn words(&self) -> [u64; 1 + MAX_PUSH / 2] {
        let mut words = [u64::from_ne_bytes([self.depth, self.ttl, 0, 0, 0, 0, 0, 0]); 1 + MAX_PUSH / 2];
        for (word, pair) in words.iter_mut().skip(1).zip(self.labels.as_chunks::<2>().0) {
            let [a, b, c, d] = pair[0].to_ne_bytes();
            let [e, f, g, h] = pair[1].to_ne_bytes();
            *word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        }
        words
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

    /// The mask that is applied to the TTL of the label at `index` when it is pushed.
    pub fn ttl_mask(&self, index: usize) -> u8 {
        self.labels.get(index).map_or(0, |&label| (label >> 24) as u8)
    }
}

const _: () = {
    // A multiple of 8, the alignment of array entries in the kernel, so that the mapped array has no gaps.
    assert!(size_of::<LabelStack>() == 72);
    assert!(core::mem::offset_of!(LabelStack, labels) == 8);
};

//! What is captured, and how a captured frame is passed on.

use super::Reason;

/// What the programs of a port capture: a row of `CAPTURE_FILTERS`.
///
/// | word | field |
/// |---|---|
/// | 0 | bit N: exceptions with the reason N |
/// | 1 | of the frames that arrive, one in so many is captured if it is forwarded; 0: none |
/// | 2 | bit 32: only frames with this top label (bits 0-19) |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CaptureFilter {
    reasons: u64,
    sample: u32,
    label: Option<u32>,
}

impl CaptureFilter {
    /// Nothing.
    pub const NONE: Self = Self {
        reasons: 0,
        sample: 0,
        label: None,
    };

    const HAS_LABEL: u64 = 1 << 32;

    /// `reasons` has the bit [`Self::bit`] of each.
    pub const fn new(reasons: u64, sample: u32, label: Option<u32>) -> Self {
        Self { reasons, sample, label }
    }

    pub const fn bit(reason: Reason) -> u64 {
        1 << reason as u8
    }

    /// A filter that lets through what either does.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if other == Self::NONE {
            return self;
        }
        if self == Self::NONE {
            return other;
        }
        Self {
            reasons: self.reasons | other.reasons,
            // More than is wanted can be left out later.
            sample: match (self.sample, other.sample) {
                (0, sample) | (sample, 0) => sample,
                (one, other) if one.max(other) % one.min(other) == 0 => one.min(other),
                _ => 1,
            },
            label: self.label.filter(|_| self.label == other.label),
        }
    }

    pub const fn words(self) -> [u64; 3] {
        let label = match self.label {
            Some(label) => Self::HAS_LABEL | label as u64,
            None => 0,
        };
        [self.reasons, self.sample as u64, label]
    }

    pub const fn from_words([reasons, sample, label]: [u64; 3]) -> Self {
        Self {
            reasons,
            sample: sample as u32,
            label: match label & Self::HAS_LABEL {
                0 => None,
                _ => Some(label as u32),
            },
        }
    }

    pub const fn sample(self) -> u32 {
        self.sample
    }

    pub const fn label(self) -> Option<u32> {
        self.label
    }

    pub const fn has(self, reason: Reason) -> bool {
        self.reasons & Self::bit(reason) != 0
    }
}

/// Why a frame was captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Captured {
    /// As it arrived; it may be forwarded, which another record with the same number says.
    In,
    /// As it leaves, by this port.
    Out(u16),
    Exception(Reason),
}

/// The beginning of a record in `CAPTURE`; the frame's bytes follow.
///
/// | word | field |
/// |---|---|
/// | 0 | `bpf_ktime_get_ns` |
/// | 1 | bits 0-7: 0 in, 1 out, 2 exception; 8-15 reason; 16-31 port where it arrived; 32-47 port where it leaves |
/// | 2 | bits 0-31: bytes that follow; 32-63: length of the frame |
/// | 3 | number that the records of one frame share |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureHeader {
    pub time_ns: u64,
    pub captured: Captured,
    pub port: u16,
    pub kept: u32,
    pub length: u32,
    pub number: u64,
}

/// Its length in bytes.
pub const CAPTURE_HEADER: usize = 32;
/// How many bytes of a frame a record may have, powers of two: the first that is enough, or the last.
pub const CAPTURE_KEPT: [usize; 3] = [256, 2048, 16 << 10];
/// Size of the ring `CAPTURE` in bytes.
pub const CAPTURE_BYTES: u32 = 4 << 20;

impl CaptureHeader {
    pub const fn words(self) -> [u64; 4] {
        let (kind, reason, out) = match self.captured {
            Captured::In => (0, 0, 0),
            Captured::Out(port) => (1, 0, port),
            Captured::Exception(reason) => (2, reason as u8, 0),
        };
        [
            self.time_ns,
            kind | (reason as u64) << 8 | (self.port as u64) << 16 | (out as u64) << 32,
            self.kept as u64 | (self.length as u64) << 32,
            self.number,
        ]
    }

    /// `None` if no program writes this.
    pub const fn from_words([time_ns, what, lengths, number]: [u64; 4]) -> Option<Self> {
        let captured = match what as u8 {
            0 => Captured::In,
            1 => Captured::Out((what >> 32) as u16),
            2 => match Reason::from_number((what >> 8) as u8) {
                Some(reason) => Captured::Exception(reason),
                None => return None,
            },
            _ => return None,
        };
        Some(Self {
            time_ns,
            captured,
            port: (what >> 16) as u16,
            kept: lengths as u32,
            length: (lengths >> 32) as u32,
            number,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        let reasons = CaptureFilter::bit(Reason::NoRoute) | CaptureFilter::bit(Reason::TtlExpired);
        for filter in [
            CaptureFilter::NONE,
            CaptureFilter::new(reasons, 1000, Some(0)),
            CaptureFilter::new(u64::MAX, u32::MAX, Some((1 << 20) - 1)),
        ] {
            assert_eq!(CaptureFilter::from_words(filter.words()), filter);
        }
        for captured in [
            Captured::In,
            Captured::Out(255),
            Captured::Exception(Reason::NoRoute),
            Captured::Exception(*Reason::ALL.last().unwrap()),
        ] {
            let header = CaptureHeader {
                time_ns: u64::MAX,
                captured,
                port: 7,
                kept: 224,
                length: 9000,
                number: 5,
            };
            assert_eq!(CaptureHeader::from_words(header.words()), Some(header));
        }
        assert_eq!(CaptureHeader::from_words([0, 3, 0, 0]), None);
        assert_eq!(CaptureHeader::from_words([0, 2, 0, 0]), None);
        assert!(Reason::ALL.len() < 64);
    }

    #[test]
    fn filters_together_let_through_what_each_does() {
        let one = CaptureFilter::new(0b10, 0, Some(100));
        let other = CaptureFilter::new(0b100, 10, Some(100));
        assert_eq!(one.or(CaptureFilter::NONE), one);
        assert_eq!(CaptureFilter::NONE.or(one), one);
        assert_eq!(one.or(other), CaptureFilter::new(0b110, 10, Some(100)));
        let sample = |sample| CaptureFilter::new(0, sample, None);
        assert_eq!(sample(10).or(sample(1000)), sample(10));
        assert_eq!(sample(10).or(sample(15)), sample(1));
        assert_eq!(one.or(sample(10)), CaptureFilter::new(0b10, 10, None));
    }
}

//! The rate limit that is frozen into a port's copy of the program. `POLICERS` has the state.

/// How many exceptions of one reason and port reach the slow path: a rate per second, and a burst after a pause. Frozen
/// into the program as one 64-bit word: the rate in bits 0-31, the burst in bits 32-63. Zero means no limit.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Police(u64);

impl Police {
    pub const UNLIMITED: Self = Self(0);

    /// A burst of less than one frame becomes one frame; a rate of zero means no limit.
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

    /// Whether a frame at `now_ns` conforms, given the stored state of its policer: the new state if it does, `None` if
    /// not.
    ///
    /// This is the token bucket in the form of the generic cell rate algorithm (ITU-T I.371 annex A): the state is the
    /// time at which the bucket will be full again. This is a single word, which CPUs can share by
    /// compare-and-exchange, and a refused frame writes nothing.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `offered` frames, one every `every_ns`, are admitted.
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
        // After that, one token per millisecond: none is lost and none is handed out early.
        assert_eq!(admitted(police, &mut state, start + 1_000_000, 100_000, 1000), 100);
        // A long pause fills the bucket, but no further.
        assert_eq!(admitted(police, &mut state, start << 1, 0, 1000), 50);
    }

    #[test]
    fn a_policer_without_a_rate_admits_everything_and_a_burst_is_one_at_least() {
        let mut state = 0;
        assert_eq!(admitted(Police::UNLIMITED, &mut state, 0, 0, 1000), 1000);
        assert_eq!(Police::new(0, 50), Police::UNLIMITED);
        assert_eq!(admitted(Police::new(1, 0), &mut state, 1 << 40, 0, 10), 1);
        // A burst so large that it takes centuries to refill does not overflow.
        let mut state = 0;
        assert_eq!(admitted(Police::new(1, u32::MAX), &mut state, 1 << 40, 0, 1000), 1000);
    }
}

//! Limits ICMP errors: a rate in total, and a rate to each source (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).
//! The time is an argument.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

/// How many sources are tracked separately. If there are more, the least recently seen are forgotten.
const SOURCES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A rate per second, and a burst after a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// 0: no limit.
    pub per_second: u32,
    /// 0 means 1.
    pub burst: u32,
}

impl Rate {
    pub const UNLIMITED: Self = Self {
        per_second: 0,
        burst: 0,
    };

    /// The time per token; `None` if there is no limit.
    fn interval(self) -> Option<Duration> {
        Duration::from_secs(1).checked_div(self.per_second)
    }
}

/// A token bucket, as the time at which it is full again (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// The bucket with one token less; `None` if it has none.
    fn taken(self, rate: Rate, now: Instant) -> Option<Self> {
        let Some(interval) = rate.interval() else {
            return Some(self);
        };
        let full_at = self.full_at.max(now) + interval;
        let room = interval * rate.burst.max(1);
        (full_at <= now + room).then_some(Self { full_at })
    }
}

/// The bucket for all, and one for each source.
#[derive(Debug)]
pub struct Limiter {
    total: Rate,
    per_source: Rate,
    bucket: Option<Bucket>,
    sources: LruCache<IpAddr, Bucket>,
}

impl Limiter {
    pub fn new(total: Rate, per_source: Rate) -> Self {
        Self {
            total,
            per_source,
            bucket: None,
            sources: LruCache::new(SOURCES),
        }
    }

    /// Whether one more may go to `source`; if so, it is counted. One refused because of its source does not count in
    /// the total.
    pub fn allow(&mut self, source: IpAddr, now: Instant) -> bool {
        let full = Bucket { full_at: now };
        let Some(total) = self.bucket.unwrap_or(full).taken(self.total, now) else {
            return false;
        };
        if self.per_source.interval().is_some() {
            let bucket = self.sources.get_or_insert_mut(subscriber(source), || full);
            match bucket.taken(self.per_source, now) {
                Some(taken) => *bucket = taken,
                None => return false,
            }
        }
        self.bucket = Some(total);
        true
    }
}

/// An IPv6 source is its /64: a host with one address in it can use them all.
fn subscriber(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second, burst }
    }

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// How many of `tries` at `now` are allowed.
    fn allowed(limiter: &mut Limiter, source: IpAddr, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.allow(source, now)).count()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut limiter = Limiter::new(rate(1000, 50), Rate::UNLIMITED);
        assert_eq!(allowed(&mut limiter, HOST, start, 100), 50);
        assert_eq!(allowed(&mut limiter, HOST, start + ms(10), 100), 10);
        let mut later = 0;
        for step in 11..1011 {
            later += allowed(&mut limiter, HOST, start + ms(step), 3);
        }
        assert_eq!(later, 1000);
        assert_eq!(allowed(&mut limiter, HOST, start + ms(10_000), 100), 50);
    }

    #[test]
    fn each_source_has_its_own_rate_and_what_it_may_not_have_is_not_taken_from_the_others() {
        let start = Instant::now();
        let mut limiter = Limiter::new(rate(1000, 20), rate(100, 5));
        let other = [10, 0, 0, 3].into();
        assert_eq!(allowed(&mut limiter, HOST, start, 1000), 5);
        assert_eq!(allowed(&mut limiter, other, start, 1000), 5);
        assert_eq!(allowed(&mut limiter, HOST, start + ms(10), 1000), 1);
        let many = (0..100).map(|last| IpAddr::from([10, 0, 1, last]));
        let total: usize = many
            .map(|source| allowed(&mut limiter, source, start + ms(10), 1))
            .sum();
        // Of 20, 10 were admitted at the start and 10 tokens came back; 1 was used since.
        assert_eq!(total, 19);
    }

    #[test]
    fn a_subnet_of_ipv6_is_one_source() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Rate::UNLIMITED, rate(1, 1));
        let one = "2001:db8::1".parse().unwrap();
        assert!(limiter.allow(one, start));
        assert!(!limiter.allow("2001:db8::ffff:0:0:2".parse().unwrap(), start));
        assert!(limiter.allow("2001:db8:0:1::1".parse().unwrap(), start));
    }

    #[test]
    fn zero_is_no_limit_and_a_burst_of_zero_is_one() {
        let start = Instant::now();
        let mut unlimited = Limiter::new(Rate::UNLIMITED, Rate::UNLIMITED);
        assert_eq!(allowed(&mut unlimited, HOST, start, 5000), 5000);
        let mut limiter = Limiter::new(rate(10, 0), Rate::UNLIMITED);
        assert_eq!(allowed(&mut limiter, HOST, start, 5), 1);
    }

    #[test]
    fn the_sources_longest_unheard_of_are_forgotten() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Rate::UNLIMITED, rate(1, 1));
        assert!(limiter.allow(HOST, start) && !limiter.allow(HOST, start));
        for index in 0..SOURCES.get() as u32 {
            assert!(limiter.allow(IpAddr::V4((0x0b00_0000 + index).into()), start));
        }
        assert_eq!(limiter.sources.len(), SOURCES.get());
        assert!(limiter.allow(HOST, start));
    }
}

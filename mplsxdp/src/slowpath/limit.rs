//! How many ICMP errors leave: so many a second in total, and so many to each source (RFC 1812 section 4.3.2.8, RFC 4443
//! section 2.4 (f)). Pure: the time is an argument.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

/// How many sources are told apart; of more, the ones longest unheard of are forgotten.
const SOURCES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// So many a second, and so many at once after a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// 0: no limit.
    pub per_second: u32,
    /// 0 is as 1.
    pub burst: u32,
}

impl Rate {
    pub const UNLIMITED: Self = Self {
        per_second: 0,
        burst: 0,
    };

    /// The time that one takes; `None` where there is no limit.
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
    /// The bucket with one token less, `None` where there is none.
    fn taken(self, rate: Rate, now: Instant) -> Option<Self> {
        let Some(interval) = rate.interval() else {
            return Some(self);
        };
        let full_at = self.full_at.max(now) + interval;
        let room = interval * rate.burst.max(1);
        (full_at <= now + room).then_some(Self { full_at })
    }
}

/// The buckets of all and of each source.
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

    /// Whether one more may go to `source`: if so, it counts. One that a source may not have costs the others nothing.
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

/// Whoever has an IPv6 address has its /64.
fn subscriber(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

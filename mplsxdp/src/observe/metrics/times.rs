//! How long inputs hold the event loop, and how long they wait for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds. The last bucket has none. In seconds, all formats write them alike.
const BOUNDS_US: [u64; 13] = [
    100, 250, 500, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 2_500_000,
];

/// Counts of times by length. Counting one takes two additions.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub fn count(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound| bound * 1000 < ns);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// As it is now: times that are counted meanwhile may be missing from a part of it.
    pub fn read(&self) -> Counted {
        let bounds = BOUNDS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds
            .zip(self.buckets.iter().map(|bucket| bucket.load(Relaxed)))
            .collect();
        Counted {
            count: buckets.iter().map(|&(_, count)| count).sum(),
            buckets,
            seconds: self.sum_ns.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// What a [`Histogram`] has counted.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Counted {
    /// Upper bounds in seconds, and the times of each bucket alone.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub seconds: f64,
}

/// The times of the event loop.
#[derive(Debug, Default)]
pub struct LoopTimes {
    /// How long each input held it.
    pub held: Histogram,
    /// How long a probe waited until it was taken.
    pub delay: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 2_000, 2_001, 2_500_000, 2_500_001, 90_000_000] {
            histogram.count(Duration::from_micros(us));
        }
        let counted = histogram.read();
        let of = |bound: f64| counted.buckets.iter().find(|(at, _)| *at == bound).unwrap().1;
        let counts = [0.0001, 0.00025, 0.0005, 0.002, 0.005, 2.5, f64::INFINITY].map(of);
        assert_eq!(counts, [2, 1, 0, 1, 1, 1, 2]);
        assert_eq!((counted.count, counted.seconds), (8, 95.004_203));
    }
}

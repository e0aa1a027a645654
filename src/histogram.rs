//! Histograms that are counted where things happen, and read when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Upper bounds of buckets, in milliseconds, rising.
pub type Bounds = &'static [u64];

/// What takes a moment: a wait inside of this process, or an answer of the broker.
pub const MOMENTS: Bounds = &[1, 2, 5, 10, 15, 20, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];
/// What takes as long as a call over the internet.
pub const CALLS: Bounds = &[5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];
/// What takes as long as a job: finest where the answers of the API are expected, and up to the age
/// at which it forgets them.
pub const JOBS: Bounds = &[
    500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 45_000, 60_000, 90_000, 120_000,
    180_000, 280_000,
];
/// What takes as long as a queue is: up to an hour.
pub const WAITS: Bounds = &[
    5, 25, 100, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000,
    3_600_000,
];

/// Counts spans by their length.
#[derive(Debug)]
pub struct Histogram {
    bounds: Bounds,
    /// By bound, and one more for what is longer than all.
    within: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

/// A reading of a [`Histogram`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Upper bounds in milliseconds, each with how many spans were no longer.
    pub buckets: Vec<(u64, u64)>,
    /// All spans.
    pub count: u64,
    /// All of them together.
    pub sum: Duration,
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let within = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, within, sum_us: AtomicU64::new(0) }
    }

    /// Counts a span.
    pub fn note(&self, span: Duration) {
        let place = self.bounds.partition_point(|bound| Duration::from_millis(*bound) < span);
        self.within[place].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(span.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }

    /// What it has counted so far.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let mut count = 0;
        let mut up_to = |counter: &AtomicU64| {
            count += counter.load(Ordering::Relaxed);
            count
        };
        let buckets =
            self.bounds.iter().zip(&self.within).map(|(bound, counter)| (*bound, up_to(counter))).collect();
        let count = self.within.last().map_or(0, &mut up_to);
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        Distribution { buckets, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_counts_what_was_no_longer_than_its_bound() {
        let histogram = Histogram::new(MOMENTS);
        for micros in [0, 1_000, 1_001, 90_000, 11_000_000] {
            histogram.note(Duration::from_micros(micros));
        }
        let read = histogram.read();
        let at = |bound| read.buckets.iter().find(|(known, _)| *known == bound).map(|(_, count)| *count);
        assert_eq!([at(1), at(2), at(50), at(100), at(10_000)], [2, 3, 3, 4, 4].map(Some));
        assert_eq!((read.count, read.sum), (5, Duration::from_micros(11_092_001)));
    }

    #[test]
    fn bounds_rise() {
        for bounds in [MOMENTS, CALLS, JOBS, WAITS] {
            assert!(bounds.is_sorted_by(|one, next| one < next), "{bounds:?}");
        }
    }
}

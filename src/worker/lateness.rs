//! How late polls begin.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Upper bounds in milliseconds. Finest around what a worker lets polls wait for each other.
const BOUNDS_MS: [u64; 15] = [1, 2, 5, 10, 15, 20, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// Counts polls by how long after their time they began.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    within: [AtomicU64; BOUNDS_MS.len()],
    later: AtomicU64,
    sum_us: AtomicU64,
}

/// A reading of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PollLateness {
    /// Upper bounds, each with the polls that began no later: in milliseconds.
    pub buckets: Vec<(u64, u64)>,
    /// All polls.
    pub count: u64,
    /// By how much they were late together.
    pub sum: Duration,
}

impl Lateness {
    pub(super) fn note(&self, late: Duration) {
        let place = BOUNDS_MS.iter().position(|bound| late <= Duration::from_millis(*bound));
        let counter = place.map_or(&self.later, |place| &self.within[place]);
        counter.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(late.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> PollLateness {
        let mut count = 0;
        let mut up_to = |counter: &AtomicU64| {
            count += counter.load(Ordering::Relaxed);
            count
        };
        let buckets =
            BOUNDS_MS.iter().zip(&self.within).map(|(bound, counter)| (*bound, up_to(counter))).collect();
        let count = up_to(&self.later);
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        PollLateness { buckets, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_counts_what_was_no_later_than_its_bound() {
        let lateness = Lateness::default();
        for micros in [0, 1_000, 1_001, 90_000, 11_000_000] {
            lateness.note(Duration::from_micros(micros));
        }
        let read = lateness.read();
        let at = |bound| read.buckets.iter().find(|(known, _)| *known == bound).map(|(_, count)| *count);
        assert_eq!([at(1), at(2), at(50), at(100), at(10_000)], [2, 3, 3, 4, 4].map(Some));
        assert_eq!((read.count, read.sum), (5, Duration::from_micros(11_092_001)));
    }
}

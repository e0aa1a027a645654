//! Whether the API solves a kind of task much faster or much slower than was learned, by the first
//! polls of its tasks.
//!
//! Answers do not show that: of tasks that begin together, the fast ones are answered first and the
//! slow ones last, at any speed. A first poll has its planned age whatever it finds. So each
//! direction has a cumulative sum (CUSUM) of logarithms of likelihood ratios, between the share of
//! hits that was learned and one of nearly all, or of hardly any.

use std::time::Duration;

use super::time::Timestamp;

/// The share of first polls that find their task ready once the API is much faster, and of those
/// that do not once it is much slower.
const NEARLY_ALL: f64 = 0.97;
/// How much larger than learned the true share of hits may be, and that of misses: a task that is
/// never solved is a miss too, and is not in what was learned.
const HITS_MARGIN: f64 = 0.1;
const MISSES_MARGIN: f64 = 0.3;
/// By chance, one first poll in a million brings a sum to it.
const ALARM: f64 = 14.0;

/// What first polls have shown of a kind of task since the last change.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpeedChange {
    faster: Evidence,
    slower: Evidence,
}

/// What speaks for a change in one direction.
#[derive(Debug, Clone, Default)]
struct Evidence {
    sum: f64,
    /// When the oldest of the tasks was accepted that it comes from.
    since: Option<Timestamp>,
}

impl SpeedChange {
    /// A first poll at this age has found its task ready, or has not; `expected` is the share of
    /// tasks that are ready by then, as it was learned. Returns since when tasks are solved at
    /// another speed, once that is certain.
    pub(crate) fn first_poll(
        &mut self,
        age: Duration,
        is_ready: bool,
        expected: f64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let accepted_at = now.minus(age);
        let faster = self.faster.add(is_ready, expected + HITS_MARGIN, accepted_at);
        let slower = self.slower.add(!is_ready, 1.0 - expected + MISSES_MARGIN, accepted_at);
        let changed = faster.or(slower);
        if changed.is_some() {
            *self = Self::default();
        }
        changed
    }
}

impl Evidence {
    fn add(&mut self, speaks_for: bool, expected: f64, accepted_at: Timestamp) -> Option<Timestamp> {
        let expected = expected.clamp(1.0 - NEARLY_ALL, NEARLY_ALL);
        let ratio = if speaks_for { NEARLY_ALL / expected } else { (1.0 - NEARLY_ALL) / (1.0 - expected) };
        self.sum += ratio.ln();
        if self.sum <= 0.0 {
            *self = Self::default();
            return None;
        }
        // A task that was polled later may have been accepted before.
        let since = self.since.map_or(accepted_at, |since| since.min(accepted_at));
        self.since = Some(since);
        (self.sum >= ALARM).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    const AGE: Duration = Duration::from_secs(7);

    /// After how many first polls, a second apart, a change is seen.
    fn seen_after(polls: i64, expected: f64, mut is_ready: impl FnMut() -> bool) -> Option<i64> {
        let mut speed = SpeedChange::default();
        (0..polls).find(|n| {
            let now = Timestamp::from_millis(1_000 * n);
            let since = speed.first_poll(AGE, is_ready(), expected, now);
            assert!(since.is_none_or(|since| since >= Timestamp::from_millis(-7_000) && since <= now));
            since.is_some()
        })
    }

    #[test]
    fn an_even_speed_is_no_change_even_if_it_was_learned_badly() {
        let mut rng = StdRng::seed_from_u64(3);
        for expected in [0.0, 0.05, 0.3, 0.5, 0.8, 0.95, 1.0] {
            // Up to three of ten tasks may never be solved.
            for share in [expected + 0.1, expected, expected - 0.1, 0.7 * expected] {
                let share = f64::clamp(share, 0.0, 1.0);
                let seen = seen_after(100_000, expected, || rng.random_bool(share));
                assert_eq!(seen, None, "{share} instead of {expected}");
            }
        }
    }

    #[test]
    fn a_change_is_seen_after_the_fewer_first_polls_the_more_surprising_they_are() {
        let faster = [0.0, 0.1, 0.3, 0.5, 0.8].map(|expected| seen_after(1_000, expected, || true));
        assert_eq!(faster, [6, 8, 15, 29, 186].map(Some));
        let slower = [1.0, 0.9, 0.7, 0.5].map(|expected| seen_after(1_000, expected, || false));
        assert_eq!(slower, [11, 15, 29, 72].map(Some));
        // What is expected anyway says nothing.
        assert_eq!(seen_after(10_000, 1.0, || true), None);
        assert_eq!(seen_after(10_000, 0.0, || false), None);
    }

    #[test]
    fn the_change_began_with_the_first_task_that_speaks_for_it() {
        let mut speed = SpeedChange::default();
        let at = |second: i64| Timestamp::from_millis(1_000 * second);
        assert!((0..50).all(|n| speed.first_poll(AGE, false, 0.1, at(n)).is_none()));
        let mut seen = (50..70).filter_map(|n| speed.first_poll(AGE, true, 0.1, at(n)));
        assert_eq!(seen.next(), Some(at(43)));
    }
}

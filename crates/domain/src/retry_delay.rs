//! How long an unpaid job waits in a retry queue.

use std::time::Duration;

/// A wait in a retry queue: one queue for each, since messages expire only at the head of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RetryDelay {
    /// The queue's suffix.
    pub label: &'static str,
    /// The queue's time to live, in milliseconds.
    pub millis: u64,
}

impl RetryDelay {
    /// The delay.
    #[must_use]
    pub const fn delay(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// The retry queues, shortest first.
pub const RETRY_DELAYS: [RetryDelay; 4] = [
    RetryDelay { label: "5s", millis: 5_000 },
    RetryDelay { label: "30s", millis: 30_000 },
    RetryDelay { label: "2m", millis: 120_000 },
    RetryDelay { label: "10m", millis: 600_000 },
];

/// The shortest wait, and the first step of the backoff. The API asks for no less when it has no
/// free slot.
pub const SHORTEST: RetryDelay = RETRY_DELAYS[0];

/// The queue for the next wait; `None` where even the shortest would outlast what is left.
///
/// The backoff doubles from 5 s. As the delays of the queues are fixed, a wait between two of them
/// goes to either, in the proportion that gives the wait on average: so jobs that were refused
/// together come back apart. `jitter` is in `[0, 1)`.
#[must_use]
pub fn delay(retries: u32, at_least: Option<Duration>, left: Duration, jitter: f64) -> Option<RetryDelay> {
    // A pause that the API asked for is not cut short to fit a budget.
    if at_least.is_some_and(|least| least > left) {
        return None;
    }
    let doubled = SHORTEST.delay() * 2_u32.pow(retries.min(10));
    let wanted = doubled.max(at_least.unwrap_or_default());
    let above =
        RETRY_DELAYS.iter().position(|delay| delay.delay() >= wanted).unwrap_or(RETRY_DELAYS.len() - 1);
    let chosen = match above.checked_sub(1) {
        Some(below)
            if wanted < RETRY_DELAYS[above].delay()
                && at_least.is_none_or(|least| least <= RETRY_DELAYS[below].delay()) =>
        {
            let (low, high) =
                (RETRY_DELAYS[below].delay().as_secs_f64(), RETRY_DELAYS[above].delay().as_secs_f64());
            let share = (wanted.as_secs_f64() - low) / (high - low);
            if jitter < share { above } else { below }
        }
        _ => above,
    };
    let shortest = at_least.unwrap_or_default();
    RETRY_DELAYS[..=chosen]
        .iter()
        .rev()
        .find(|delay| delay.delay() <= left && delay.delay() >= shortest)
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn the_wait_grows_with_each_retry() {
        let waits: Vec<_> =
            (0..9).filter_map(|n| delay(n, None, LONG, 0.999)).map(|delay| delay.label).collect();
        assert_eq!(waits, ["5s", "5s", "5s", "30s", "30s", "2m", "2m", "10m", "10m"]);
    }

    #[test]
    fn jobs_refused_together_come_back_apart() {
        assert_eq!(delay(2, None, LONG, 0.5).map(|p| p.label), Some("30s"));
        assert_eq!(delay(2, None, LONG, 0.7).map(|p| p.label), Some("5s"));
    }

    #[test]
    fn nothing_is_retried_past_what_is_left() {
        assert_eq!(delay(8, None, Duration::from_secs(31), 0.0).map(|p| p.label), Some("30s"));
        assert_eq!(delay(0, None, Duration::from_millis(4_999), 0.0), None);
    }

    proptest! {
        #[test]
        fn a_pause_that_was_asked_for_is_kept_or_the_job_given_up(
            retries in 0_u32..12, least in 0_u64..600, left in 0_u64..1_200, jitter in 0.0_f64..1.0,
        ) {
            let (least, left) = (Duration::from_secs(least), Duration::from_secs(left));
            if let Some(chosen) = delay(retries, Some(least), left, jitter) {
                prop_assert!(chosen.delay() >= least && chosen.delay() >= SHORTEST.delay() && chosen.delay() <= left);
            }
            prop_assert!(delay(retries, Some(least), LONG, jitter).is_some());
        }
    }
}

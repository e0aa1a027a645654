//! When to ask for a result: the API's limits, kept whatever the settings say, and the pace of each
//! task type within them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::kind;

/// Between two polls of one task, at the least. Documented; beyond it the account can be locked.
pub const SPACING: Duration = Duration::from_secs(2);
/// Polls of one task, at the most. Documented; beyond it the account can be locked.
pub const MAX_POLLS: u32 = 120;
/// The API keeps a result for 5 minutes from the upload. Nobody asks in the last 20 seconds of
/// them, which leaves room for clocks that differ.
pub const MAX_AGE: Duration = Duration::from_secs(280);
/// How long one proof of ownership of a ticket is good for: nobody polls past it.
pub const LEASE: Duration = Duration::from_secs(5);
/// What a new owner waits before its first poll: until the earlier owner's lease is over, and the
/// spacing after that.
pub const HANDOVER_WAIT: Duration = LEASE.saturating_add(SPACING);

/// The longest wait between two polls of a task whose callback is awaited.
const LONGEST_WITH_CALLBACK: Duration = Duration::from_secs(30);

/// By how much the clocks of two replicas may differ.
const CLOCKS: Duration = Duration::from_secs(10);

/// The pace of a task type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollSchedule {
    first_delay: Duration,
    interval: Duration,
    timeout: Duration,
}

/// A pace that the API's limits forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PollScheduleError {
    /// Too fast.
    #[error("the interval must be at least 2 s: the API locks accounts that poll one task more often")]
    Interval,
    /// Too long.
    #[error(
        "the time-out must be above the first delay and at most 280 s: the API keeps a result for 5 minutes"
    )]
    Timeout,
}

/// When the next poll is due, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Poll after this much time, counted from the moment of asking.
    After(Duration),
    /// The type's time-out has passed, or the polls are used up.
    Over,
    /// The API no longer keeps the result.
    Gone,
}

impl PollSchedule {
    /// A pace within the API's limits.
    ///
    /// # Errors
    /// Where the interval is under 2 s or the time-out is not between the first delay and 280 s.
    pub fn try_new(
        first_delay: Duration,
        interval: Duration,
        timeout: Duration,
    ) -> Result<Self, PollScheduleError> {
        if interval < SPACING {
            return Err(PollScheduleError::Interval);
        }
        if timeout > MAX_AGE || timeout <= first_delay {
            return Err(PollScheduleError::Timeout);
        }
        Ok(Self { first_delay, interval, timeout })
    }

    /// When a ticket that has just been delivered is first polled. `age`: since the task was
    /// accepted; `polls`: already used.
    ///
    /// Past the type's time-out it is still asked for once: the answer is paid, and may have waited
    /// while nobody could ask.
    #[must_use]
    pub fn first(&self, age: Duration, polls: u32) -> Next {
        if age >= MAX_AGE {
            Next::Gone
        } else if polls >= MAX_POLLS {
            Next::Over
        } else {
            Next::After(self.first_delay.saturating_sub(age))
        }
    }

    /// The same of a task whose callback is awaited: the first poll is made when the callback comes,
    /// and this long after the acceptance at the latest.
    #[must_use]
    pub fn first_with_callback(&self, age: Duration, polls: u32, fallback: Duration) -> Next {
        match self.first(age, polls) {
            Next::After(wait) => Next::After(wait.max(fallback.min(self.timeout).saturating_sub(age))),
            end @ (Next::Over | Next::Gone) => end,
        }
    }

    /// When the next poll of a task is due whose callback is still awaited. Each poll keeps the
    /// callback from being followed for the spacing after it, so there are fewer of them: the next
    /// comes after half of the task's age.
    #[must_use]
    pub fn after_answer_with_callback(
        &self,
        age: Duration,
        pursued: Duration,
        polls: u32,
        jitter: f64,
    ) -> Next {
        match self.after_answer(age, pursued, polls, 0, None, jitter) {
            Next::After(wait) => {
                let kept = MAX_AGE.saturating_sub(age) / 2;
                let left = self.timeout.saturating_sub(pursued).min(kept);
                Next::After(wait.max((age / 2).min(LONGEST_WITH_CALLBACK).min(left)))
            }
            end @ (Next::Over | Next::Gone) => end,
        }
    }

    /// From the acceptance to the moment by which a callback should have come.
    #[must_use]
    pub fn callback_fallback(&self) -> Duration {
        self.first_delay + self.interval * 2
    }

    /// From the acceptance to the first poll.
    #[must_use]
    pub fn first_delay(&self) -> Duration {
        self.first_delay
    }

    /// When the next poll is due after an answer received now, so that two polls stay apart on the
    /// API's side too.
    ///
    /// `age`: since the task was accepted; `pursued`: what of it counts against the time-out;
    /// `slower`: how often the API has asked for less; `retry_after`: what it asked for; `jitter`
    /// in `[0, 1)` spreads polls that began together.
    #[must_use]
    pub fn after_answer(
        &self,
        age: Duration,
        pursued: Duration,
        polls: u32,
        slower: u32,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> Next {
        let backed_off = self.interval * 2_u32.pow(slower.min(4));
        let asked = retry_after.unwrap_or_default().max(backed_off).max(SPACING);
        let wait = asked + asked.mul_f64(0.1 * jitter);
        if age >= MAX_AGE {
            return Next::Gone;
        }
        if polls >= MAX_POLLS || pursued >= self.timeout {
            return Next::Over;
        }
        let left = self.timeout - pursued;
        match retry_after {
            _ if wait <= left => Next::After(wait),
            // A pause that the API asked for may outlast the type's time-out, as long as the result
            // is kept.
            Some(pause) if pause > left => {
                if age + wait < MAX_AGE {
                    Next::After(wait)
                } else {
                    Next::Over
                }
            }
            // The last poll is made at the time-out itself rather than skipped, unless that would
            // break the spacing.
            _ if left >= SPACING => Next::After(left),
            _ => Next::Over,
        }
    }
}

/// How many polls a ticket's earlier owners have used, or may still use, judged by its age alone:
/// as many as the spacing allows until the earlier owner's lease is over. The age is that between
/// two machines' clocks.
#[must_use]
pub fn assumed_polls(age: Duration) -> u32 {
    let age = age + LEASE + CLOCKS;
    u32::try_from(age.as_millis().div_ceil(SPACING.as_millis())).unwrap_or(u32::MAX)
}

/// The paces by task type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollSchedules {
    /// For types that are not named.
    pub default: PollSchedule,
    /// For those that are, by type or by `type/class`.
    pub by_type: BTreeMap<String, PollSchedule>,
}

impl PollSchedules {
    /// The pace of a kind of task: its own, else that of its bare type.
    #[must_use]
    pub fn of(&self, kind: &str) -> PollSchedule {
        kind::find(&self.by_type, kind).map_or(self.default, |(_, pacing)| *pacing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn image() -> PollSchedule {
        PollSchedule::try_new(secs(1), secs(2), secs(60)).unwrap()
    }

    #[test]
    fn a_pace_faster_than_the_api_allows_cannot_be_made() {
        assert_eq!(
            PollSchedule::try_new(secs(1), Duration::from_millis(1_999), secs(60)),
            Err(PollScheduleError::Interval)
        );
        assert_eq!(PollSchedule::try_new(secs(1), secs(2), secs(281)), Err(PollScheduleError::Timeout));
        assert_eq!(PollSchedule::try_new(secs(5), secs(2), secs(5)), Err(PollScheduleError::Timeout));
    }

    #[test]
    fn the_first_delay_counts_from_the_acceptance() {
        assert_eq!(image().first(Duration::from_millis(400), 0), Next::After(Duration::from_millis(600)));
        assert_eq!(image().first(secs(9), 0), Next::After(Duration::ZERO));
    }

    #[test]
    fn an_asked_for_pause_is_kept_and_repeated_asking_slows_down() {
        assert_eq!(image().after_answer(secs(3), secs(3), 1, 0, Some(secs(7)), 0.0), Next::After(secs(7)));
        assert_eq!(image().after_answer(secs(3), secs(3), 1, 2, None, 0.0), Next::After(secs(8)));
    }

    #[test]
    fn an_asked_for_pause_may_outlast_the_time_out_but_not_the_result() {
        assert_eq!(
            image().after_answer(secs(50), secs(50), 5, 0, Some(secs(120)), 0.0),
            Next::After(secs(120))
        );
        assert_eq!(image().after_answer(secs(50), secs(50), 5, 0, Some(secs(230)), 0.0), Next::Over);
        assert_eq!(image().after_answer(secs(59), secs(59), 5, 0, None, 0.0), Next::Over);
    }

    #[test]
    fn nothing_is_polled_past_its_time_out_its_polls_or_its_age() {
        assert_eq!(image().after_answer(secs(60), secs(60), 20, 0, None, 0.0), Next::Over);
        assert_eq!(image().after_answer(secs(30), secs(30), MAX_POLLS, 0, None, 0.0), Next::Over);
        assert_eq!(image().first(secs(280), 0), Next::Gone);
        assert_eq!(image().first(secs(30), MAX_POLLS), Next::Over);
    }

    #[test]
    fn a_ticket_that_comes_after_its_time_out_is_asked_for_once_more() {
        assert_eq!(image().first(secs(100), 40), Next::After(Duration::ZERO));
        assert_eq!(image().after_answer(secs(107), secs(107), 41, 0, None, 0.0), Next::Over);
    }

    #[test]
    fn earlier_owners_are_taken_to_have_polled_as_often_as_they_might() {
        // 5 s of the earlier owner's lease, and 10 s between two clocks, go on top of the age.
        assert_eq!(assumed_polls(secs(0)), 8);
        assert_eq!(assumed_polls(secs(5)), 10);
        assert_eq!(assumed_polls(Duration::from_millis(5_001)), 11);
    }

    proptest! {
        #[test]
        fn any_pace_keeps_spacing_count_and_age(
            first in 0_u64..200, interval in 2_u64..60, timeout in 1_u64..280,
            lucks in prop::collection::vec(0.0_f64..1.0, 200), slower in 0_u32..9,
        ) {
            let Ok(pacing) = PollSchedule::try_new(secs(first), secs(interval), secs(timeout)) else { return Ok(()) };
            let mut next = pacing.first(Duration::ZERO, 0);
            let (mut age, mut polls) = (Duration::ZERO, 0);
            for jitter in lucks {
                let Next::After(wait) = next else { break };
                prop_assert!(polls == 0 || wait >= SPACING);
                age += wait;
                polls += 1;
                prop_assert!(polls <= MAX_POLLS && age <= MAX_AGE && age <= secs(timeout));
                next = match slower {
                0 => pacing.after_answer_with_callback(age, age, polls, jitter),
                _ => pacing.after_answer(age, age, polls, slower, None, jitter),
            };
            }
        }
    }
}

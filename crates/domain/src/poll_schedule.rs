//! When to ask for a result: the API's limits, kept whatever the settings say, and the schedule of
//! each task type within them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::kind;
use super::learned_polls::LearnedPolls;

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
pub const REDELIVERY_WAIT: Duration = LEASE.saturating_add(SPACING);

/// A callback is awaited until nearly all tasks of its kind are ready, and longer by this share of
/// their age and by this time: a poll just before the callback would put off the next one.
const CALLBACK_SHARE: f64 = 0.05;
const CALLBACK_MARGIN: Duration = Duration::from_millis(500);
/// The longest wait between two polls of a task whose callback is awaited.
const LONGEST_WITH_CALLBACK: Duration = Duration::from_secs(30);

/// By how much the clocks of two replicas may differ.
const CLOCKS: Duration = Duration::from_secs(10);

/// The poll schedule of a task type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollSchedule {
    first_delay: Duration,
    interval: Duration,
    timeout: Duration,
    max_polls: u32,
}

/// A schedule that the API's limits forbid.
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
    /// Too few, or too many.
    #[error(
        "max_polls must be 2 to 120: the last one is kept for the time-out, and the API locks accounts that poll one task more often"
    )]
    MaxPolls,
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
    /// A schedule within the API's limits.
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
        // What the fixed schedule takes, and half as many again.
        let fixed = (timeout - first_delay).div_duration_f64(interval).floor() + 1.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2 to 120")]
        let max_polls = (1.5 * fixed).ceil().clamp(2.0, f64::from(MAX_POLLS)) as u32;
        Ok(Self { first_delay, interval, timeout, max_polls })
    }

    /// The same with another bound on the polls of one task.
    ///
    /// # Errors
    /// Where it is not 2 to 120.
    pub fn with_max_polls(self, max_polls: u32) -> Result<Self, PollScheduleError> {
        if !(2..=MAX_POLLS).contains(&max_polls) {
            return Err(PollScheduleError::MaxPolls);
        }
        Ok(Self { max_polls, ..self })
    }

    /// When a ticket that has just been delivered is first polled. `age`: since the task was
    /// accepted; `polls`: already used; `jitter` in `[0, 1)`.
    ///
    /// Past the type's time-out it is still asked for once: the answer is paid, and may have waited
    /// while nobody could ask.
    #[must_use]
    pub fn first(&self, age: Duration, polls: u32, learned: Option<&LearnedPolls>, jitter: f64) -> Next {
        if age >= MAX_AGE {
            Next::Gone
        } else if polls >= MAX_POLLS {
            Next::Over
        } else {
            let due = learned.map_or(self.first_delay, |learned| learned.first(jitter).min(self.timeout));
            Next::After(due.saturating_sub(age))
        }
    }

    /// The same of a task whose callback is awaited: the first poll is made when the callback
    /// comes, and this long after the acceptance at the latest.
    #[must_use]
    pub fn first_with_callback(&self, age: Duration, polls: u32, fallback: Duration) -> Next {
        match self.first(age, polls, None, 0.0) {
            Next::After(wait) => Next::After(wait.max(fallback.saturating_sub(age))),
            end @ (Next::Over | Next::Gone) => end,
        }
    }

    /// When the next poll of a task is due whose callback is still awaited. Each poll keeps the
    /// callback from being followed for the spacing after it, so there are fewer of them: the next
    /// comes after half of the task's age.
    #[must_use]
    pub fn after_answer_with_callback(&self, polled: &Polled, jitter: f64) -> Next {
        match self.after_answer(polled, None, jitter) {
            Next::After(wait) => {
                let kept = MAX_AGE.saturating_sub(polled.age) / 2;
                let left = self.timeout.saturating_sub(polled.pursued).min(kept);
                Next::After(wait.max((polled.age / 2).min(LONGEST_WITH_CALLBACK).min(left)))
            }
            end @ (Next::Over | Next::Gone) => end,
        }
    }

    /// From the acceptance to the moment by which a callback should have come: early enough for
    /// another poll before the time-out.
    #[must_use]
    pub fn callback_fallback(&self, learned: Option<&LearnedPolls>) -> Duration {
        let should_come = match learned.map(|learned| learned.nearly_all) {
            Some(age) => age + age.mul_f64(CALLBACK_SHARE) + CALLBACK_MARGIN,
            None => self.first_delay + self.interval * 2,
        };
        should_come.min(self.timeout.saturating_sub(self.interval)).max(self.first_delay)
    }

    /// From the acceptance to the first poll, while nothing is learned.
    #[must_use]
    pub fn first_delay(&self) -> Duration {
        self.first_delay
    }

    /// Between two polls, at the least.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// For how long a task is polled.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Polls of one task, at the most.
    #[must_use]
    pub fn max_polls(&self) -> u32 {
        self.max_polls
    }

    /// When the next poll is due after an answer received now, so that two polls stay apart on the
    /// API's side too.
    #[must_use]
    pub fn after_answer(&self, polled: &Polled, learned: Option<&LearnedPolls>, jitter: f64) -> Next {
        let Polled { age, pursued, polls, made, slower, retry_after } = *polled;
        if age >= MAX_AGE {
            return Next::Gone;
        }
        if polls >= MAX_POLLS || pursued >= self.timeout {
            return Next::Over;
        }
        let left = self.timeout - pursued;
        let backed_off = self.interval * 2_u32.pow(slower.min(4));
        let asked = retry_after.unwrap_or_default().max(backed_off).max(SPACING);
        let spread = asked + asked.mul_f64(0.1 * jitter);
        let wait = match learned.and_then(|learned| learned.wait_after(age, jitter)) {
            // The last poll that it may have is kept for the end.
            _ if made + 1 >= self.max_polls => {
                let kept_for = MAX_AGE.saturating_sub(age).saturating_sub(SPACING);
                left.min(kept_for).max(spread)
            }
            Some(planned) if slower == 0 => planned.max(self.interval).max(retry_after.unwrap_or_default()),
            Some(planned) => planned.max(spread),
            None => spread,
        };
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

/// A task as its last poll left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Polled {
    /// Since it was accepted.
    pub age: Duration,
    /// What of its age counts against the time-out.
    pub pursued: Duration,
    /// Polls used, those that are assumed of earlier owners included.
    pub polls: u32,
    /// Of those, the ones that are known to have been made.
    pub made: u32,
    /// How often the API has asked for less.
    pub slower: u32,
    /// The pause that it asked for.
    pub retry_after: Option<Duration>,
}

/// How many polls a ticket's earlier owners have used, or may still use, judged by its age alone:
/// as many as the spacing allows until the earlier owner's lease is over. The age is that between
/// two machines' clocks.
#[must_use]
pub fn assumed_polls(age: Duration) -> u32 {
    let age = age + LEASE + CLOCKS;
    u32::try_from(age.as_millis().div_ceil(SPACING.as_millis())).unwrap_or(u32::MAX)
}

/// Whether polls follow the settings, or what was learned from earlier answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollMode {
    /// What was learned, within the bounds of the settings.
    Learned,
    /// The settings alone.
    Fixed,
}

/// The paces by task type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollSchedules {
    /// Whether better ones are learned.
    pub mode: PollMode,
    /// For types that are not named.
    pub default: PollSchedule,
    /// For those that are, by type or by `type/class`.
    pub by_type: BTreeMap<String, PollSchedule>,
}

impl PollSchedules {
    /// What bounds the learned polls, if any are learned.
    #[must_use]
    pub fn learnable(&self) -> Option<Self> {
        (self.mode == PollMode::Learned).then(|| self.clone())
    }

    /// The schedule of a kind of task: its own, else that of its bare type.
    #[must_use]
    pub fn of(&self, kind: &str) -> PollSchedule {
        kind::find(&self.by_type, kind).map_or(self.default, |(_, schedule)| *schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learned_polls::Answer;
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

    fn first(age: Duration, polls: u32) -> Next {
        image().first(age, polls, None, 0.0)
    }

    fn after_answer(age: u64, polls: u32, slower: u32, retry_after: Option<Duration>) -> Next {
        let age = secs(age);
        image().after_answer(
            &Polled { age, pursued: age, polls, made: polls, slower, retry_after },
            None,
            0.0,
        )
    }

    #[test]
    fn the_first_delay_counts_from_the_acceptance() {
        assert_eq!(first(Duration::from_millis(400), 0), Next::After(Duration::from_millis(600)));
        assert_eq!(first(secs(9), 0), Next::After(Duration::ZERO));
    }

    #[test]
    fn an_asked_for_pause_is_kept_and_repeated_asking_slows_down() {
        assert_eq!(after_answer(3, 1, 0, Some(secs(7))), Next::After(secs(7)));
        assert_eq!(after_answer(3, 1, 2, None), Next::After(secs(8)));
    }

    #[test]
    fn an_asked_for_pause_may_outlast_the_time_out_but_not_the_result() {
        assert_eq!(after_answer(50, 5, 0, Some(secs(120))), Next::After(secs(120)));
        assert_eq!(after_answer(50, 5, 0, Some(secs(230))), Next::Over);
        assert_eq!(after_answer(59, 5, 0, None), Next::Over);
    }

    #[test]
    fn nothing_is_polled_past_its_time_out_its_polls_or_its_age() {
        assert_eq!(after_answer(60, 20, 0, None), Next::Over);
        assert_eq!(after_answer(30, MAX_POLLS, 0, None), Next::Over);
        assert_eq!(first(secs(280), 0), Next::Gone);
        assert_eq!(first(secs(30), MAX_POLLS), Next::Over);
    }

    #[test]
    fn a_ticket_that_comes_after_its_time_out_is_asked_for_once_more() {
        assert_eq!(first(secs(100), 40), Next::After(Duration::ZERO));
        assert_eq!(after_answer(107, 41, 0, None), Next::Over);
    }

    #[test]
    fn a_callback_is_awaited_past_the_age_of_nearly_all_answers_and_leaves_room_for_another_poll() {
        let fallback = |timeout, answers: u64| {
            let schedule = PollSchedule::try_new(secs(3), secs(2), secs(timeout)).unwrap();
            let of = |n| Answer { after: secs(answers - 1), by: Duration::from_millis(answers * 1_000 - n) };
            let learned = LearnedPolls::from_answers((0..400).map(of), &schedule);
            (learned.nearly_all, schedule.callback_fallback(Some(&learned)))
        };
        let (nearly_all, awaited) = fallback(180, 20);
        assert!(awaited > nearly_all + secs(1) && awaited < nearly_all + secs(2), "{awaited:?}");
        assert_eq!(fallback(60, 60).1, secs(58));
        assert_eq!(fallback(280, 280).1, secs(278));
        let brief = PollSchedule::try_new(secs(3), secs(2), secs(4)).unwrap();
        assert_eq!(brief.callback_fallback(None), secs(3));
    }

    #[test]
    fn the_last_poll_that_a_task_may_have_is_kept_for_its_time_out() {
        let few = image().with_max_polls(3).unwrap();
        let after = |age, polls| {
            let polled = Polled { age, pursued: age, polls, made: polls, ..Polled::default() };
            few.after_answer(&polled, None, 0.0)
        };
        assert_eq!(after(secs(1), 1), Next::After(secs(2)));
        assert_eq!(after(secs(3), 2), Next::After(secs(57)));
        assert_eq!(after(secs(60), 3), Next::Over);
        assert_eq!(image().with_max_polls(121), Err(PollScheduleError::MaxPolls));
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
            first in 0_u64..200, interval in 2_u64..60, timeout in 1_u64..280, max_polls in 2_u32..=MAX_POLLS,
            solved in prop::collection::vec(1_u64..300_000, 0..60), of_default in any::<bool>(),
            with_callback in any::<bool>(),
            jitters in prop::collection::vec(0.0_f64..1.0, 200), slower in 0_u32..9,
        ) {
            let Ok(schedule) = PollSchedule::try_new(secs(first), secs(interval), secs(timeout)) else { return Ok(()) };
            let schedule = if of_default { schedule } else { schedule.with_max_polls(max_polls).unwrap() };
            let answers = solved.iter().map(|by| Answer { after: Duration::from_millis(by / 2), by: Duration::from_millis(*by) });
            let learned = (!solved.is_empty()).then(|| LearnedPolls::from_answers(answers, &schedule));
            let mut next = schedule.first(Duration::ZERO, 0, learned.as_ref(), jitters[0]);
            let (mut age, mut polls) = (Duration::ZERO, 0);
            for jitter in jitters {
                let Next::After(wait) = next else { break };
                prop_assert!(polls == 0 || wait >= SPACING);
                age += wait;
                polls += 1;
                prop_assert!(polls <= schedule.max_polls());
                prop_assert!(age <= MAX_AGE && age <= secs(timeout));
                let polled = Polled { age, pursued: age, polls, made: polls, slower, retry_after: None };
                next = match slower {
                    0 if with_callback => schedule.after_answer_with_callback(&polled, jitter),
                    _ => schedule.after_answer(&polled, learned.as_ref(), jitter),
                };
            }
        }
    }
}

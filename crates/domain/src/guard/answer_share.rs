//! Whether wrong task ids are the trouble of single jobs or of the account: by their share of the
//! answers, never by their number.
//!
//! Services lose some tasks every day, and each costs exactly one call with a wrong id. A provider
//! that has forgotten all of them, or a key of another account, shows in most of what comes back.
//! The difference is a share, and a share of few answers proves little: so the share must be
//! exceeded beyond chance (the lower bound of Wilson's interval at three standard deviations), not
//! just touched.

use std::collections::VecDeque;
use std::time::Duration;

use super::GuardRules;

/// Answers older than this are forgotten.
const SPAN: Duration = Duration::from_secs(60);
/// Answers are counted by the second.
const BUCKET: Duration = Duration::from_secs(1);
/// Within this much, a run that is nearly all wrong shows that tasks have just been forgotten,
/// though the minute before was good.
const RECENT: Duration = Duration::from_secs(5);
/// "Nearly all": the share that recent answers must exceed, beyond chance.
const RECENT_SHARE: f64 = 0.5;
/// Recent wrong ids for that, as a multiple of `wrong_ids_least`.
const RECENT_LEAST: u64 = 4;
/// Standard deviations. One false alarm in some hundred starts with a true share of a tenth, and
/// none later on.
const SIGMAS: f64 = 3.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    /// When it began, by the steady clock.
    at: Duration,
    answers: u64,
    wrong: u64,
}

/// The answers to polls within the last minute, and those of them that called an id wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerShare {
    buckets: VecDeque<Bucket>,
}

impl AnswerShare {
    /// Adds answers, `wrong` of them about ids that the API does not know. `uptime`: a steady
    /// clock's reading.
    pub fn note(&mut self, answers: u64, wrong: u64, uptime: Duration) {
        self.buckets.retain(|bucket| uptime.saturating_sub(bucket.at) < SPAN);
        match self.buckets.back_mut().filter(|bucket| uptime.saturating_sub(bucket.at) < BUCKET) {
            Some(bucket) => {
                bucket.answers = bucket.answers.saturating_add(answers);
                bucket.wrong = bucket.wrong.saturating_add(wrong);
            }
            None => self.buckets.push_back(Bucket { at: uptime, answers, wrong }),
        }
    }

    /// Forgets all: after a silence, a trip or an opening, what was answered before says nothing.
    pub fn clear(&mut self) {
        self.buckets.clear();
    }

    /// Forgets all, unless nothing but wrong ids was answered: replicas notice one silence one
    /// after another, and what the first of them meets after it must still count when the last one
    /// says so.
    pub fn clear_good(&mut self) {
        if self.buckets.iter().any(|bucket| bucket.wrong < bucket.answers) {
            self.clear();
        }
    }

    /// Answers, and wrong ids among them, within this much time.
    fn within(&self, span: Duration, uptime: Duration) -> (u64, u64) {
        let recent = self.buckets.iter().filter(|bucket| uptime.saturating_sub(bucket.at) < span);
        recent.fold((0, 0), |(answers, wrong), bucket| (answers + bucket.answers, wrong + bucket.wrong))
    }

    /// Whether wrong ids are so large a part of what comes back that nothing more may be asked for.
    #[must_use]
    pub fn is_too_high(&self, rules: &GuardRules, uptime: Duration) -> bool {
        let (answers, wrong) = self.within(SPAN, uptime);
        let (recent, recent_wrong) = self.within(RECENT, uptime);
        let least = rules.wrong_ids_least;
        (wrong >= least && surely_above(wrong, answers, rules.wrong_ids_share))
            || (recent_wrong >= least.saturating_mul(RECENT_LEAST)
                && surely_above(recent_wrong, recent, RECENT_SHARE.max(rules.wrong_ids_share)))
            || (rules.wrong_ids_per_minute > 0 && wrong >= rules.wrong_ids_per_minute)
    }
}

/// Whether a true share of at most `share` would show so many only by an unlikely chance.
#[expect(clippy::cast_precision_loss, reason = "numbers of answers within a minute")]
fn surely_above(wrong: u64, answers: u64, share: f64) -> bool {
    let n = answers.max(wrong) as f64;
    if n == 0.0 {
        return false;
    }
    let (p, z2) = (wrong as f64 / n, SIGMAS * SIGMAS);
    let spread = SIGMAS * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    (p + z2 / (2.0 * n) - spread) / (1.0 + z2 / n) > share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_forgets_good_answers_and_not_the_wrong_ids_that_came_after_it() {
        let (rules, now) = (GuardRules::default(), Duration::ZERO);
        let mut share = AnswerShare::default();
        share.note(1_000, 0, now);
        for _ in 0..3 {
            share.clear_good();
            assert!(!share.is_too_high(&rules, now));
            share.note(1, 1, now);
        }
        assert!(share.is_too_high(&rules, now), "three of three, whoever says when that there was a silence");
    }
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// At which of so many answers, a hundred a second, a true share trips.
    fn trips_at(share: f64, answers: u64, seed: u64) -> Option<u64> {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut seen, rules) = (AnswerShare::default(), GuardRules::default());
        (1..=answers).find(|number| {
            let wrong = rng.random::<f64>() < share;
            seen.note(1, u64::from(wrong), at(number * 10));
            wrong && seen.is_too_high(&rules, at(number * 10))
        })
    }

    #[test]
    fn three_of_three_are_too_many_and_three_of_two_hundred_are_not() {
        let rules = GuardRules::default();
        let mut all = AnswerShare::default();
        for (number, tripped) in [(1, false), (2, false), (3, true)] {
            all.note(1, 1, at(number));
            assert_eq!(all.is_too_high(&rules, at(number)), tripped, "{number}");
        }
        let mut few = AnswerShare::default();
        few.note(200, 3, at(0));
        assert!(!few.is_too_high(&rules, at(0)));
    }

    #[test]
    fn a_tenth_of_the_tasks_lost_day_in_day_out_stops_nobody() {
        let tripped = (0..200).filter(|seed| trips_at(0.10, 6_000, *seed).is_some()).count();
        assert!(tripped <= 2, "{tripped} of 200 runs of a minute");
        assert_eq!((0..50).find(|seed| trips_at(0.02, 6_000, *seed).is_some()), None);
    }

    #[test]
    fn a_share_well_above_the_bound_is_seen_soon() {
        for seed in 0..50 {
            assert!(trips_at(0.5, 200, seed).is_some(), "seed {seed}");
        }
    }

    #[test]
    fn tasks_forgotten_in_the_middle_of_good_work_are_noticed_within_a_dozen() {
        let (mut seen, rules) = (AnswerShare::default(), GuardRules::default());
        for second in 0..60 {
            seen.note(100, 0, at(second * 1_000));
        }
        let later = 70_000;
        let tripped = (1..100).find(|number| {
            seen.note(1, 1, at(later + number));
            seen.is_too_high(&rules, at(later + number))
        });
        assert_eq!(tripped, Some(12));
    }

    #[test]
    fn what_is_a_minute_old_is_forgotten_and_an_absolute_bound_can_be_set() {
        let mut seen = AnswerShare::default();
        seen.note(10, 10, at(0));
        seen.note(1, 0, at(60_000));
        assert!(!seen.is_too_high(&GuardRules::default(), at(60_000)));
        let bounded = GuardRules { wrong_ids_per_minute: 5, ..GuardRules::default() };
        seen.note(10_000, 4, at(60_001));
        assert!(!seen.is_too_high(&bounded, at(60_001)));
        seen.note(1, 1, at(60_002));
        assert!(seen.is_too_high(&bounded, at(60_002)));
    }

    #[test]
    fn memory_is_bounded_by_the_seconds_of_a_minute() {
        let mut seen = AnswerShare::default();
        (0..600_000).for_each(|number| seen.note(1, 0, at(number)));
        assert!(seen.buckets.len() <= 61, "{}", seen.buckets.len());
    }
}

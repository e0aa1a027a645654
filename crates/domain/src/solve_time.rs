//! How long the API takes for each kind of task, as seen here: what a deadline is measured against
//! before anything is paid.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use super::kind;
use super::time::Timestamp;

/// Answers of a type that are remembered.
const REMEMBERED: usize = 200;
/// Without an answer for so long, what was learned of a type is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Kinds of task that are remembered; others are never refused for their deadline.
const MAX_TYPES: usize = 64;
/// After so many new answers the quantile is found anew.
const RENEW_EVERY: u32 = 10;

/// When a deadline is out of reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// A job is refused where fewer than this share of answers came in the time that is left; 0
    /// refuses none.
    pub quantile: f64,
    /// Answers of a type before anything of it is refused.
    pub least_answers: usize,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    spans: VecDeque<Duration>,
    since_found: u32,
    found: Option<Duration>,
    last_at: Option<Timestamp>,
}

/// The solve times of all types.
#[derive(Debug, Clone)]
pub struct SolveTimes {
    reach: Reach,
    by_type: BTreeMap<String, Seen>,
}

impl SolveTimes {
    /// Nothing learned yet.
    #[must_use]
    pub fn new(reach: Reach) -> Self {
        Self { reach, by_type: BTreeMap::new() }
    }

    /// An answer came this long after the task's acceptance.
    pub fn note(&mut self, kind: &str, span: Duration, now: Timestamp) {
        let Reach { quantile, least_answers } = self.reach;
        if quantile <= 0.0 {
            return;
        }
        let Some(name) = kind::place(&self.by_type, kind, MAX_TYPES) else { return };
        if !self.by_type.contains_key(name) {
            self.by_type.insert(name.to_owned(), Seen::default());
        }
        let Some(seen) = self.by_type.get_mut(name) else { return };
        if seen.spans.len() >= REMEMBERED {
            seen.spans.pop_front();
        }
        seen.spans.push_back(span);
        seen.last_at = Some(now);
        seen.since_found += 1;
        let enough = seen.spans.len() >= least_answers.clamp(1, REMEMBERED);
        if enough && (seen.found.is_none() || seen.since_found >= RENEW_EVERY) {
            seen.found = quantile_of(&seen.spans, quantile);
            seen.since_found = 0;
        }
    }

    /// The time within which the share of answers came that the settings name; `None` until enough
    /// is learned.
    ///
    /// What was learned long ago is forgotten: were every job refused by it, nothing new would ever
    /// be learned.
    #[must_use]
    pub fn least(&mut self, kind: &str, now: Timestamp) -> Option<Duration> {
        let name = kind::place(&self.by_type, kind, MAX_TYPES)?;
        let seen = self.by_type.get_mut(name)?;
        if seen.last_at.is_some_and(|at| now.since(at) >= FORGOTTEN_AFTER) {
            *seen = Seen::default();
        }
        seen.found
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place among at most 200"
)]
fn quantile_of(spans: &VecDeque<Duration>, quantile: f64) -> Option<Duration> {
    let mut sorted: Vec<Duration> = spans.iter().copied().collect();
    sorted.sort_unstable();
    let place = (quantile.min(1.0) * (sorted.len().saturating_sub(1)) as f64) as usize;
    sorted.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(quantile: f64, spans: impl Iterator<Item = u64>) -> Option<Duration> {
        let mut times = SolveTimes::new(Reach { quantile, least_answers: 50 });
        let now = Timestamp::from_millis(0);
        spans.for_each(|seconds| times.note("T", Duration::from_secs(seconds), now));
        assert_eq!(times.least("another", now), None);
        let least = times.least("T", now);
        assert_eq!(times.least("T", now.plus(FORGOTTEN_AFTER)), None, "long ago");
        least
    }

    #[test]
    fn nothing_is_said_before_enough_is_learned_or_where_it_is_switched_off() {
        assert_eq!(learned(0.05, 1..50), None);
        assert_eq!(learned(0.0, 1..200), None);
        assert_eq!(learned(0.05, 1..51), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_type_with_a_class_for_each_job_takes_no_other_types_place() {
        let mut times = SolveTimes::new(Reach { quantile: 0.05, least_answers: 50 });
        let now = Timestamp::from_millis(0);
        for n in 0..200 {
            times.note(&format!("A/{n}"), Duration::from_secs(9), now);
        }
        for _ in 0..50 {
            times.note("B/x", Duration::from_secs(1), now);
        }
        let least = ["A/0", "A/199", "B/x", "B/y"].map(|kind| times.least(kind, now));
        assert_eq!(least, [None, Some(Duration::from_secs(9)), Some(Duration::from_secs(1)), None]);
    }

    #[test]
    fn old_answers_are_forgotten() {
        assert_eq!(learned(0.5, (0..200).chain(std::iter::repeat_n(9, 200))), Some(Duration::from_secs(9)));
    }
}

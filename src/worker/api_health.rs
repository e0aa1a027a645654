//! Whether the API is there, as far as the calls of this replica show. A storm of failed calls is
//! one piece of news.

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::fault::ApiLiveness;

/// So many failed calls in a row are news; single ones are everyday.
const IN_A_ROW: u32 = 8;
/// So many calls in a row that found nobody listening: a process that was restarted may have
/// forgotten everything.
const NOBODY_LISTENS: u32 = 2;
/// And none was answered for so long.
const NOBODY_FOR: Duration = Duration::from_secs(1);

/// Most jobs whose calls have failed lately that are remembered.
const MOST_REMEMBERED: usize = 256;

/// While nobody calls, nothing new is learned: what failed longer ago may be tried by any job.
const LATELY: Duration = Duration::from_secs(60);

/// What the last calls have shown.
#[derive(Debug, Default)]
pub(super) struct ApiHealth(Mutex<LastCalls>);

#[derive(Debug, Default)]
struct LastCalls {
    /// Failed calls in a row.
    failures: u32,
    failed_at: Option<Instant>,
    /// Jobs whose calls have failed lately, and when each did first.
    failed_jobs: VecDeque<(u64, Instant)>,
    answered_at: Option<Instant>,
    /// Calls in a row that found nobody listening.
    unreachable_in_a_row: u32,
    /// It was said that there is a silence, and nothing was answered since.
    silence_said: bool,
}

/// What a call's end shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// With this one it is lost, or found to be still so.
    pub(super) is_down: bool,
    /// It answers, and so many answers in a row say nothing but that it fails, or nothing that is
    /// known.
    pub(super) is_suspect: bool,
    /// It begins to be silent: what it answered before says nothing about what it knows afterwards.
    pub(super) silence_begins: bool,
}

impl ApiHealth {
    /// A call has ended, and shows this; `text` says how it failed. A job that fails again and
    /// again is its own trouble: it counts once, so that the failed ones of a busy minute do not
    /// stop those that come when they are the only ones left.
    pub(super) fn note(&self, liveness: ApiLiveness, text: &str, job: &str) -> Noted {
        let now = Instant::now();
        let mut last = self.lock();
        last.unreachable_in_a_row = if liveness == ApiLiveness::Unreachable {
            last.unreachable_in_a_row.saturating_add(1)
        } else {
            0
        };
        let unanswered = match liveness {
            ApiLiveness::Silent | ApiLiveness::Cut | ApiLiveness::Unreachable => true,
            ApiLiveness::Fails => false,
            ApiLiveness::Answers | ApiLiveness::KnowsNoSuchId => {
                if std::mem::take(&mut last.failures) >= IN_A_ROW {
                    tracing::info!("the API answers again");
                }
                (last.answered_at, last.silence_said) = (Some(now), false);
                return Noted::default();
            }
        };
        last.failed_at = Some(now);
        let has_counted = last.remember(fingerprint(job), now);
        if has_counted && last.failures < IN_A_ROW {
            return Noted::default();
        }
        last.failures = last.failures.saturating_add(1);
        if last.failures == IN_A_ROW {
            tracing::warn!(
                error = text,
                "the API does not answer as it should: unpaid jobs wait in the retry queues; if it never did, check solver.base_url"
            );
        }
        // One dead address of several is no silence: others answer meanwhile.
        let nobody = last.unreachable_in_a_row >= NOBODY_LISTENS
            && last.answered_at.is_none_or(|at| now.duration_since(at) >= NOBODY_FOR);
        let is_down = last.failures >= IN_A_ROW && unanswered;
        let silent = is_down || nobody;
        Noted {
            is_down,
            is_suspect: !unanswered && last.failures.is_multiple_of(IN_A_ROW),
            silence_begins: silent && !std::mem::replace(&mut last.silence_said, true),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LastCalls> {
        // Plain values, whole at every moment.
        self.0.lock()
    }

    /// Whether the last calls failed to reach it, and the last of them just now.
    pub(super) fn was_down_recently(&self) -> bool {
        let last = self.lock();
        last.failures >= IN_A_ROW && last.failed_at.is_some_and(|at| at.elapsed() < LATELY)
    }

    /// Whether the last calls failed to reach it.
    pub(super) fn is_down(&self) -> bool {
        self.lock().failures >= IN_A_ROW
    }
}

impl LastCalls {
    /// Whether a call of this job has failed lately; if not, it has now.
    fn remember(&mut self, job: u64, now: Instant) -> bool {
        self.failed_jobs.retain(|(_, at)| now.duration_since(*at) < LATELY);
        if self.failed_jobs.iter().any(|(failed, _)| *failed == job) {
            return true;
        }
        if self.failed_jobs.len() == MOST_REMEMBERED {
            self.failed_jobs.pop_front();
        }
        self.failed_jobs.push_back((job, now));
        false
    }
}

fn fingerprint(job: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    job.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_lost_after_several_failures_in_a_row_and_back_with_the_first_answer() {
        let reach = ApiHealth::default();
        let fail = |job: u32| reach.note(ApiLiveness::Silent, "503", &job.to_string());
        for n in 0..IN_A_ROW {
            assert!(!reach.is_down(), "after {n}");
            let last = n + 1 == IN_A_ROW;
            let expected = Noted { is_down: last, silence_begins: last, is_suspect: false };
            assert_eq!(fail(n), expected);
        }
        let again = fail(99);
        assert_eq!((again.is_down, again.silence_begins), (true, false), "one is enough now");
        reach.note(ApiLiveness::Answers, "", "x");
        assert!(!reach.is_down(), "a refusal shows that it is there");
    }

    #[test]
    fn codes_that_say_nothing_known_make_the_leader_look_and_stop_nobody() {
        let reach = ApiHealth::default();
        for n in 1..=2 * IN_A_ROW {
            let noted = reach.note(ApiLiveness::Fails, "ERROR_OF_NEXT_YEAR", &n.to_string());
            let expected = Noted { is_suspect: n % IN_A_ROW == 0, ..Noted::default() };
            assert_eq!(noted, expected, "{n}");
        }
    }

    #[test]
    fn jobs_that_failed_among_good_answers_do_not_count_again_when_they_are_the_only_ones_left() {
        let reach = ApiHealth::default();
        for n in 0..40 {
            reach.note(ApiLiveness::Silent, "timed out", &n.to_string());
            reach.note(ApiLiveness::Answers, "", "a good one");
        }
        for n in 0..40 {
            assert_eq!(reach.note(ApiLiveness::Silent, "timed out", &n.to_string()), Noted::default());
        }
        assert!(!reach.is_down());
    }

    #[test]
    fn one_job_that_fails_again_and_again_is_its_own_trouble() {
        let reach = ApiHealth::default();
        for _ in 0..100 {
            let noted = reach.note(ApiLiveness::Silent, "502", "the one");
            assert_eq!(noted, Noted::default());
        }
        assert!(!reach.is_down());
    }

    #[tokio::test(start_paused = true)]
    async fn two_calls_in_a_row_that_find_nobody_listening_are_a_silence_unless_others_are_answered() {
        let reach = ApiHealth::default();
        let number = std::cell::Cell::new(0);
        let begins = |liveness: ApiLiveness| {
            number.set(number.get() + 1);
            reach.note(liveness, "", &number.get().to_string()).silence_begins
        };
        assert!(!begins(ApiLiveness::Unreachable));
        assert!(!begins(ApiLiveness::Silent), "somebody listens");
        assert!(
            !begins(ApiLiveness::Unreachable)
                && begins(ApiLiveness::Unreachable)
                && !begins(ApiLiveness::Unreachable)
        );
        reach.note(ApiLiveness::Answers, "", "x");
        assert!(
            !begins(ApiLiveness::Unreachable) && !begins(ApiLiveness::Unreachable),
            "somebody answered just now"
        );
        tokio::time::advance(NOBODY_FOR).await;
        assert!(begins(ApiLiveness::Unreachable));
    }
}

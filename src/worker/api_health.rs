//! Whether the API is there, as far as the calls of this replica tell. A storm of failed calls is one piece of news.

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::call::{CallError, Refusal, ReplyBody};

/// So many failed calls in a row are news; single ones are everyday.
const IN_A_ROW: u32 = 8;
/// So many calls in a row that found nobody listening: a process that was restarted may have forgotten everything.
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
    unheard: u32,
    /// It was said that there is a silence, and nothing was answered since.
    silence_said: bool,
}

/// What a call's end shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// There was no answer of the API: fewer calls may be under way.
    pub(super) unanswered: bool,
    /// With this one it is lost, or found to be still so.
    pub(super) is_lost: bool,
    /// It answers, and so many answers in a row say nothing but that it fails, or nothing that is known.
    pub(super) is_suspect: bool,
    /// It begins to be silent: what it answered before says nothing about what it knows afterwards.
    pub(super) silence_begins: bool,
}

impl ApiHealth {
    /// A call has ended. `fails`: it was refused with a code that says nothing but that the API fails, or nothing that is known; every other
    /// refusal shows that the API is there.
    /// A job that fails again and again is its own trouble: it counts once, so that the failed ones of a busy minute do not stop those that come
    /// when they are the only ones left.
    pub(super) fn note<T>(&self, end: &Result<T, CallError>, fails: bool, job: &str) -> Noted {
        let now = Instant::now();
        let mut last = self.lock();
        let never_sent = matches!(end, Err(CallError::NeverSent(_)));
        last.unheard = if never_sent { last.unheard.saturating_add(1) } else { 0 };
        let unanswered = match end {
            Err(CallError::NeverSent(_) | CallError::NoAnswer { .. }) => true,
            Err(CallError::Refused(refusal)) => is_foreign(refusal),
            Ok(_) => false,
        };
        let error = end.as_ref().err();
        let Some(error) = error.filter(|_| unanswered || fails) else {
            if std::mem::take(&mut last.failures) >= IN_A_ROW {
                tracing::info!("the API answers again");
            }
            (last.answered_at, last.silence_said) = (Some(now), false);
            return Noted::default();
        };
        last.failed_at = Some(now);
        let has_counted = last.remember(fingerprint(job), now);
        if has_counted && last.failures < IN_A_ROW {
            return Noted { unanswered, ..Noted::default() };
        }
        last.failures = last.failures.saturating_add(1);
        if last.failures == IN_A_ROW {
            tracing::warn!(%error, "the API does not answer as it should: unpaid jobs wait in the retry queues; if it never did, look at solver.base_url");
        }
        // One dead address of several is no silence: others answer meanwhile.
        let nobody = last.unheard >= NOBODY_LISTENS
            && last.answered_at.is_none_or(|at| now.duration_since(at) >= NOBODY_FOR);
        let is_lost = last.failures >= IN_A_ROW && unanswered;
        let silent = is_lost || nobody;
        Noted {
            unanswered,
            is_lost,
            is_suspect: !unanswered && last.failures.is_multiple_of(IN_A_ROW),
            silence_begins: silent && !std::mem::replace(&mut last.silence_said, true),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LastCalls> {
        // Plain values, whole at every moment.
        self.0.lock()
    }

    /// Whether the last calls failed to reach it, and the last of them just now.
    pub(super) fn was_lost_lately(&self) -> bool {
        let last = self.lock();
        last.failures >= IN_A_ROW && last.failed_at.is_some_and(|at| at.elapsed() < LATELY)
    }

    /// Whether the last calls failed to reach it.
    pub(super) fn is_lost(&self) -> bool {
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

/// An answer that is not the API's own word: without a code, and with a status that says nothing about the pace.
fn is_foreign(refusal: &Refusal) -> bool {
    let says_something = match refusal.status {
        200..=299 | 429 => true,
        401..=403 => refusal.body == ReplyBody::Api,
        _ => false,
    };
    refusal.code.is_none() && !says_something
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Option<&str>, status: u16) -> Result<(), CallError> {
        let code = code.map(str::to_owned);
        let body = if code.is_some() { ReplyBody::Api } else { ReplyBody::Empty };
        Err(CallError::Refused(Refusal { code, description: None, status, retry_after: None, body }))
    }

    fn never_sent() -> Result<(), CallError> {
        Err(CallError::NeverSent("refused".to_owned()))
    }

    #[test]
    fn the_api_is_lost_after_several_failures_in_a_row_and_back_with_the_first_answer() {
        let (reach, down) = (ApiHealth::default(), refused(None, 503));
        let fail = |job: u32| reach.note::<()>(&down, true, &job.to_string());
        for n in 0..IN_A_ROW {
            assert!(!reach.is_lost(), "after {n}");
            let last = n + 1 == IN_A_ROW;
            let expected = Noted { unanswered: true, is_lost: last, silence_begins: last, is_suspect: false };
            assert_eq!(fail(n), expected);
        }
        let again = fail(99);
        assert_eq!((again.is_lost, again.silence_begins), (true, false), "one is enough now");
        reach.note(&refused(Some("ERROR_TASK_ABSENT"), 200), false, "x");
        assert!(!reach.is_lost(), "a refusal shows that it is there");
    }

    #[test]
    fn codes_that_say_nothing_known_make_the_leader_look_and_stop_nobody() {
        let (reach, odd) = (ApiHealth::default(), refused(Some("ERROR_OF_NEXT_YEAR"), 200));
        for n in 1..=2 * IN_A_ROW {
            let noted = reach.note::<()>(&odd, true, &n.to_string());
            let expected = Noted { is_suspect: n % IN_A_ROW == 0, ..Noted::default() };
            assert_eq!(noted, expected, "{n}");
        }
    }

    #[test]
    fn one_job_that_fails_again_and_again_is_its_own_trouble() {
        let (reach, down) = (ApiHealth::default(), refused(None, 502));
        for _ in 0..100 {
            let noted = reach.note::<()>(&down, true, "the one");
            assert_eq!(noted, Noted { unanswered: true, ..Noted::default() });
        }
        assert!(!reach.is_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn two_calls_in_a_row_that_find_nobody_listening_are_a_silence_unless_others_are_answered() {
        let reach = ApiHealth::default();
        let number = std::cell::Cell::new(0);
        let begins = |end: &Result<(), CallError>| {
            number.set(number.get() + 1);
            reach.note(end, true, &number.get().to_string()).silence_begins
        };
        assert!(!begins(&never_sent()));
        assert!(!begins(&refused(None, 503)), "somebody listens");
        assert!(!begins(&never_sent()) && begins(&never_sent()) && !begins(&never_sent()));
        reach.note(&Ok(()), false, "x");
        assert!(!begins(&never_sent()) && !begins(&never_sent()), "somebody answered just now");
        tokio::time::advance(NOBODY_FOR).await;
        assert!(begins(&never_sent()));
    }
}

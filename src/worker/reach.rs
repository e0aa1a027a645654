//! Whether the API is there, as far as the calls of this replica tell. A storm of failed calls is one piece of news.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::call::{CallError, Refusal, ReplyBody};
use crate::domain::class::Class;

/// So many failed calls in a row are news; single ones are everyday.
const IN_A_ROW: u32 = 8;
/// So many calls in a row that found nobody listening: a process that was restarted may have forgotten everything.
const NOBODY_LISTENS: u32 = 2;

/// While nobody calls, nothing new is learned: what failed longer ago may be tried by any job.
const LATELY: Duration = Duration::from_secs(60);

/// What the last calls have shown.
#[derive(Debug, Default)]
pub(super) struct Reach {
    failures: AtomicU32,
    never_sent: AtomicU32,
    failed_at: Mutex<Option<Instant>>,
}

/// What a call's end shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    /// There was no answer of the API: fewer calls may be under way.
    pub(super) unanswered: bool,
    /// With this one it is lost, or found to be still so.
    pub(super) is_lost: bool,
    /// It begins to be silent: what it answered before says nothing about what it knows afterwards.
    pub(super) silence_begins: bool,
}

impl Reach {
    /// A call has ended; `class` is what its failure was judged to be. A refusal shows that the API is there, unless it is one that says
    /// nothing but that the API fails, or nothing that is known.
    pub(super) fn note<T>(&self, end: &Result<T, CallError>, class: Option<Class>) -> Noted {
        let never_sent = matches!(end, Err(CallError::NeverSent(_)));
        let run = if never_sent { self.never_sent.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        if !never_sent {
            self.never_sent.store(0, Ordering::Relaxed);
        }
        let unanswered = match end {
            Err(CallError::NeverSent(_) | CallError::NoAnswer { .. }) => true,
            Err(CallError::Refused(refusal)) => is_foreign(refusal),
            Ok(_) => false,
        };
        let error = end.as_ref().err();
        let failed = unanswered || matches!(class, Some(Class::Transient | Class::Unknown));
        let Some(error) = error.filter(|_| failed) else {
            if self.failures.swap(0, Ordering::Relaxed) >= IN_A_ROW {
                tracing::info!("the API answers again");
            }
            return Noted { unanswered: false, is_lost: false, silence_begins: false };
        };
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if failures == IN_A_ROW {
            tracing::warn!(%error, "the API does not answer as it should: unpaid jobs wait in the retry queues; if it never did, look at solver.base_url");
        }
        Noted {
            unanswered,
            is_lost: failures >= IN_A_ROW,
            silence_begins: failures == IN_A_ROW || run == NOBODY_LISTENS,
        }
    }

    /// Whether the last calls failed to reach it, and the last of them just now.
    pub(super) fn was_lost_lately(&self) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_lost() && failed_at.is_some_and(|at| at.elapsed() < LATELY)
    }

    /// Whether the last calls failed to reach it.
    pub(super) fn is_lost(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= IN_A_ROW
    }
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
        let reach = Reach::default();
        for n in 0..IN_A_ROW {
            assert!(!reach.is_lost(), "after {n}");
            let noted = reach.note::<()>(&refused(None, 503), Some(Class::Transient));
            let last = n + 1 == IN_A_ROW;
            assert_eq!(noted, Noted { unanswered: true, is_lost: last, silence_begins: last });
        }
        let again = reach.note::<()>(&refused(None, 503), Some(Class::Transient));
        assert_eq!(
            again,
            Noted { unanswered: true, is_lost: true, silence_begins: false },
            "one is enough now"
        );
        reach.note(&refused(Some("ERROR_TASK_ABSENT"), 200), Some(Class::Invalid));
        assert!(!reach.is_lost(), "a refusal shows that it is there");
        for _ in 0..IN_A_ROW {
            reach.note(&refused(Some("ERROR_OF_NEXT_YEAR"), 200), Some(Class::Unknown));
        }
        assert!(reach.is_lost(), "codes that say nothing known, and nothing else, are no answer");
        reach.note(&Ok(()), None);
        assert!(!reach.is_lost());
    }

    #[test]
    fn two_calls_in_a_row_that_find_nobody_listening_are_a_silence() {
        let reach = Reach::default();
        let begins = |end: &Result<(), CallError>| reach.note(end, Some(Class::Transient)).silence_begins;
        assert!(!begins(&never_sent()));
        assert!(!begins(&refused(None, 503)));
        assert!(!begins(&never_sent()) && begins(&never_sent()) && !begins(&never_sent()));
    }
}

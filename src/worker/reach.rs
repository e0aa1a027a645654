//! Whether the API can be reached, told once when it changes: a storm of failed calls is one piece of news.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::domain::call::{CallError, Refusal};

/// So many failed calls in a row are news; single ones are everyday.
const IN_A_ROW: u32 = 8;

/// What the last calls have shown.
#[derive(Debug, Default)]
pub(super) struct Reach {
    failures: AtomicU32,
}

/// What a call's end shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    /// The API answered.
    pub(super) answered: bool,
    /// With this one it is lost; told again after as many more.
    pub(super) is_lost: bool,
}

impl Reach {
    /// A call has ended. Any readable answer, a refusal included, shows that the API is there.
    pub(super) fn note<T>(&self, end: &Result<T, CallError>) -> Noted {
        let failure = match end {
            Err(error @ (CallError::NeverSent(_) | CallError::NoAnswer { .. })) => Some(error),
            Err(error @ CallError::Refused(refusal)) if is_foreign(refusal) => Some(error),
            Ok(_) | Err(CallError::Refused(_)) => None,
        };
        let Some(error) = failure else {
            if self.failures.swap(0, Ordering::Relaxed) >= IN_A_ROW {
                tracing::info!("the API answers again");
            }
            return Noted { answered: true, is_lost: false };
        };
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures == IN_A_ROW {
            tracing::warn!(%error, "the API does not answer as it should: unpaid jobs wait in the retry queues; if it never did, look at solver.base_url");
        }
        Noted { answered: false, is_lost: failures.is_multiple_of(IN_A_ROW) }
    }

    /// Whether the last calls failed to reach it.
    pub(super) fn is_lost(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= IN_A_ROW
    }
}

/// An answer that is not the API's own word: without a code, and with a status that says nothing about account or pace.
fn is_foreign(refusal: &Refusal) -> bool {
    refusal.code.is_none() && !matches!(refusal.status, 200..=299 | 401..=403 | 429)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::ReplyBody;

    fn refused(code: Option<&str>, status: u16) -> Result<(), CallError> {
        let code = code.map(str::to_owned);
        let body = if code.is_some() { ReplyBody::Api } else { ReplyBody::Empty };
        Err(CallError::Refused(Refusal { code, description: None, status, retry_after: None, body }))
    }

    #[test]
    fn the_api_is_lost_after_several_failures_in_a_row_and_back_with_the_first_answer() {
        let reach = Reach::default();
        for n in 0..IN_A_ROW {
            assert!(!reach.is_lost(), "after {n}");
            let noted = reach.note::<()>(&Err(CallError::NeverSent("refused".to_owned())));
            assert_eq!(noted, Noted { answered: false, is_lost: n + 1 == IN_A_ROW });
        }
        assert!(reach.is_lost());
        reach.note(&refused(Some("E"), 500));
        assert!(!reach.is_lost(), "a refusal shows that it is there");
        for _ in 0..IN_A_ROW {
            reach.note(&refused(None, 503));
        }
        assert!(reach.is_lost());
        reach.note(&Ok(()));
        assert!(!reach.is_lost());
    }
}

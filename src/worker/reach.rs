//! Whether the API can be reached, told once when it changes: a storm of failed calls is one piece of news.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::call::CallError;

/// What the last calls have shown.
#[derive(Debug, Default)]
pub(super) struct Reach {
    lost: AtomicBool,
}

impl Reach {
    /// A call has ended. Any readable answer, a refusal included, shows that the API is there.
    pub(super) fn note<T>(&self, end: &Result<T, CallError>) {
        let failure = match end {
            Err(error @ (CallError::NeverSent(_) | CallError::NoAnswer { .. })) => Some(error),
            Err(error @ CallError::Refused(refusal)) if refusal.code.is_none() && refusal.status >= 500 => {
                Some(error)
            }
            Ok(_) | Err(CallError::Refused(_)) => None,
        };
        match failure {
            Some(error) if !self.lost.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "the API does not answer as it should; unpaid jobs wait in the retry queues, and solver.base_url may be wrong");
            }
            None if self.lost.swap(false, Ordering::Relaxed) => tracing::info!("the API answers again"),
            Some(_) | None => {}
        }
    }

    /// Whether the last call failed to reach it.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::Refusal;

    #[test]
    fn a_refusal_shows_that_the_api_is_there_and_a_failed_connection_does_not() {
        let reach = Reach::default();
        reach.note::<()>(&Err(CallError::NeverSent("refused".to_owned())));
        assert!(reach.is_lost());
        let refusal =
            Refusal { code: Some("E".to_owned()), description: None, status: 500, retry_after: None };
        reach.note::<()>(&Err(CallError::Refused(refusal.clone())));
        assert!(!reach.is_lost());
        reach.note::<()>(&Err(CallError::Refused(Refusal { code: None, status: 503, ..refusal })));
        assert!(reach.is_lost());
        reach.note(&Ok(()));
        assert!(!reach.is_lost());
    }
}

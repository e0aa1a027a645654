//! The three calls, and how long they take.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::http::HttpTransport;
use super::key::{Key, Mask};
use super::options::{SolverConfigError, SolverOptions};
use super::transport::{CREATE_TASK, GET_BALANCE, GET_TASK_RESULT, RawReply, Transport, TransportError};
use super::wire::{self, Balance};
use crate::domain::call::{Accepted, CallError, NoAnswer, TaskId, TaskState};
use crate::domain::fingerprint::Fingerprint;
use crate::histogram::{CALLS, Distribution, Histogram};
use crate::trace::Span;

/// The API, as one account sees it. Clones share the account's key, the connections and the bound
/// on requests.
///
/// Each call is one request, never repeated here. Dropping a call's future after it was polled
/// leaves open whether the API acted on it.
#[derive(Clone)]
pub struct Solver {
    shared: Arc<SolverShared>,
}

struct SolverShared {
    /// Swapped whole, so that a call works with one key from its body to the masking of its answer.
    key: RwLock<Arc<Key>>,
    transport: Arc<dyn Transport>,
    timing: Timing,
}

impl Solver {
    /// A client over HTTP.
    ///
    /// # Errors
    /// A setting that cannot be worked with, named as in the settings file (`solver.base_url`, …).
    pub fn new(options: SolverOptions) -> Result<Self, SolverConfigError> {
        options.validate()?;
        let transport = HttpTransport::new(&options)?;
        Ok(Self::with_transport(options.api_key, Arc::new(transport)))
    }

    /// A client over another transport: for answers in process, under a clock of the caller's.
    pub fn with_transport(api_key: SecretString, transport: Arc<dyn Transport>) -> Self {
        let key = RwLock::new(Arc::new(Key::new(&api_key)));
        Self { shared: Arc::new(SolverShared { key, transport, timing: Timing::default() }) }
    }

    /// Submits a task: its JSON, which is sent as it is. A good end is paid for.
    ///
    /// # Errors
    /// [`CallError::NeverSent`] only where no byte left; [`CallError::NoAnswer`] where the task may
    /// have been accepted.
    pub async fn create_task(&self, task: &[u8]) -> Result<Accepted, CallError> {
        self.create_task_with_callback(task, None, &Span::default()).await
    }

    /// The same; the API is to call this address once the task is ready. `span`: of the attempt at
    /// the job.
    ///
    /// # Errors
    /// As [`Solver::create_task`].
    pub async fn create_task_with_callback(
        &self,
        task: &[u8],
        callback_url: Option<&str>,
        span: &Span,
    ) -> Result<Accepted, CallError> {
        let key = self.key();
        let body = wire::create_body(&key, task, callback_url);
        self.call((CREATE_TASK, span), body, key.mask(), wire::read_created).await
    }

    /// Asks once how a task stands. How often that is allowed is the caller's to keep.
    ///
    /// # Errors
    /// The API's refusal, or no readable answer; the task is not touched by either.
    pub async fn task_state(&self, id: &TaskId) -> Result<TaskState, CallError> {
        self.task_state_in(id, &Span::default()).await
    }

    /// The same, within the span of an attempt at a job.
    ///
    /// # Errors
    /// As [`Solver::task_state`].
    pub async fn task_state_in(&self, id: &TaskId, span: &Span) -> Result<TaskState, CallError> {
        let key = self.key();
        self.call((GET_TASK_RESULT, span), wire::result_body(&key, id), key.mask(), wire::read_state).await
    }

    /// The account's funds.
    ///
    /// # Errors
    /// The API's refusal, or no readable answer.
    pub async fn balance(&self) -> Result<Balance, CallError> {
        let key = self.key();
        let call = (GET_BALANCE, &Span::default());
        self.call(call, wire::balance_body(&key), key.mask(), wire::read_balance).await
    }

    /// Takes another key for the calls from now on; those under way end with the old one.
    ///
    /// # Errors
    /// [`SolverConfigError::EmptyKey`], and the old key stays: calls with a wrong key earn a ban.
    pub fn replace_key(&self, key: SecretString) -> Result<(), SolverConfigError> {
        if key.expose_secret().trim().is_empty() {
            return Err(SolverConfigError::EmptyKey);
        }
        let next = Arc::new(Key::new(&key));
        *self.shared.key.write() = next;
        Ok(())
    }

    /// The fingerprint of the key in use.
    #[must_use]
    pub fn key_fingerprint(&self) -> Fingerprint {
        self.key().fingerprint().clone()
    }

    /// Held for the clone of an `Arc` only. A poisoned lock is no worse than a sound one: the value
    /// is swapped whole.
    fn key(&self) -> Arc<Key> {
        self.shared.key.read().clone()
    }

    /// How long calls have taken so far, by call and status; from here to the reading of the
    /// answer.
    #[must_use]
    pub fn call_times(&self) -> Vec<CallTimes> {
        self.shared.timing.read()
    }

    async fn call<T>(
        &self,
        (path, span): (&'static str, &Span),
        body: Bytes,
        mask: &Mask,
        read: impl FnOnce(&RawReply, &Mask) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let began = Instant::now();
        let span = span.call(path);
        let reply = self.post(path, body, mask).await;
        let status = match &reply {
            Ok(reply) => Some(reply.status),
            Err(CallError::NoAnswer { status, .. }) => *status,
            Err(_) => None,
        };
        let end = reply.and_then(|reply| read(&reply, mask));
        span.answered(status, end.as_ref().err());
        self.shared.timing.note(path, &end, began.elapsed());
        end
    }

    async fn post(&self, path: &'static str, body: Bytes, mask: &Mask) -> Result<RawReply, CallError> {
        let clean = |detail: &str| mask.bounded(detail, wire::MAX_DESCRIPTION);
        self.shared.transport.post(path, body).await.map_err(|error| match error {
            TransportError::NeverSent(detail) => CallError::NeverSent(clean(&detail)),
            TransportError::NoAnswer { kind, status, detail } => {
                CallError::NoAnswer { kind, status, detail: clean(&detail) }
            }
        })
    }
}

impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver").finish_non_exhaustive()
    }
}

const PATHS: [&str; 3] = [CREATE_TASK, GET_TASK_RESULT, GET_BALANCE];

/// How a call ended, as metrics report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallStatus {
    Ok,
    Error,
    Http,
    Timeout,
    Unreachable,
    Unreadable,
}

impl CallStatus {
    const ALL: [CallStatus; 6] = [
        CallStatus::Ok,
        CallStatus::Error,
        CallStatus::Http,
        CallStatus::Timeout,
        CallStatus::Unreachable,
        CallStatus::Unreadable,
    ];

    fn of<T>(end: &Result<T, CallError>) -> Self {
        match end {
            Ok(_) => CallStatus::Ok,
            Err(CallError::Refused(refusal)) if refusal.code.is_some() => CallStatus::Error,
            Err(CallError::Refused(_)) => CallStatus::Http,
            Err(CallError::NeverSent(_) | CallError::NoAnswer { kind: NoAnswer::Cut, .. }) => {
                CallStatus::Unreachable
            }
            Err(CallError::NoAnswer { kind: NoAnswer::TimedOut, .. }) => CallStatus::Timeout,
            Err(CallError::NoAnswer { kind: NoAnswer::Unreadable | NoAnswer::TooLong, .. }) => {
                CallStatus::Unreadable
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            CallStatus::Ok => "ok",
            CallStatus::Error => "error",
            CallStatus::Http => "http",
            CallStatus::Timeout => "timeout",
            CallStatus::Unreachable => "unreachable",
            CallStatus::Unreadable => "unreadable",
        }
    }
}

/// A histogram for each call and status.
#[derive(Debug)]
pub(super) struct Timing([[Histogram; CallStatus::ALL.len()]; PATHS.len()]);

/// A reading of one of them.
#[derive(Debug, Clone, PartialEq)]
pub struct CallTimes {
    /// `createTask`, `getTaskResult` or `getBalance`.
    pub call: &'static str,
    /// `ok`; `error`: an answer with an error code; `http`: an HTTP status without one; `timeout`;
    /// `unreachable`: not sent, or cut off; `unreadable`.
    pub status: &'static str,
    /// How long such calls took.
    pub times: Distribution,
}

impl Default for Timing {
    fn default() -> Self {
        Self(PATHS.map(|_| CallStatus::ALL.map(|_| Histogram::new(CALLS))))
    }
}

impl Timing {
    pub(super) fn note<T>(&self, path: &str, end: &Result<T, CallError>, took: Duration) {
        let call = PATHS.iter().position(|known| *known == path);
        if let Some(by_status) = call.and_then(|call| self.0.get(call)) {
            by_status[CallStatus::of(end) as usize].note(took);
        }
    }

    pub(super) fn read(&self) -> Vec<CallTimes> {
        let calls = PATHS.iter().zip(&self.0);
        calls
            .flat_map(|(path, by_status)| {
                CallStatus::ALL.iter().zip(by_status).map(|(status, histogram)| CallTimes {
                    call: path.trim_start_matches('/'),
                    status: status.name(),
                    times: histogram.read(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::{Refusal, ReplyBody};

    fn refused(code: Option<&str>) -> CallError {
        let code = code.map(str::to_owned);
        let body = if code.is_some() { ReplyBody::Api } else { ReplyBody::Empty };
        CallError::Refused(Refusal { code, description: None, status: 503, retry_after: None, body })
    }

    fn unanswered(kind: NoAnswer) -> CallError {
        CallError::NoAnswer { kind, status: None, detail: String::new() }
    }

    #[test]
    fn each_end_is_counted_under_its_call_and_status() {
        let timing = Timing::default();
        for (path, end) in [
            (CREATE_TASK, Ok(())),
            (CREATE_TASK, Err(refused(Some("ERROR_NO_SLOT_AVAILABLE")))),
            (GET_TASK_RESULT, Err(refused(None))),
            (GET_TASK_RESULT, Err(unanswered(NoAnswer::TimedOut))),
            (GET_TASK_RESULT, Err(unanswered(NoAnswer::Cut))),
            (GET_TASK_RESULT, Err(CallError::NeverSent(String::new()))),
            (GET_BALANCE, Err(unanswered(NoAnswer::TooLong))),
        ] {
            timing.note(path, &end, Duration::from_millis(7));
        }
        let read = timing.read();
        let counted: Vec<_> = read.iter().filter(|of| of.times.count > 0).collect();
        let counted: Vec<_> = counted.iter().map(|of| (of.call, of.status, of.times.count)).collect();
        assert_eq!(
            counted,
            [
                ("createTask", "ok", 1),
                ("createTask", "error", 1),
                ("getTaskResult", "http", 1),
                ("getTaskResult", "timeout", 1),
                ("getTaskResult", "unreachable", 2),
                ("getBalance", "unreadable", 1),
            ]
        );
        assert_eq!(read.len(), 18);
    }
}

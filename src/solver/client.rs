//! The three calls.

use parking_lot::RwLock;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::http::HttpTransport;
use super::key::{Key, Mask};
use super::options::{SolverConfigError, SolverOptions};
use super::timing::{CallTimes, Timing};
use super::transport::{CREATE_TASK, GET_BALANCE, GET_TASK_RESULT, RawReply, Transport, TransportError};
use super::wire::{self, Balance};
use crate::domain::call::{Accepted, CallError, TaskId, TaskState};
use crate::domain::fingerprint::Fingerprint;

/// The API, as one account sees it. Clones share the account's key, the connections and the bound on requests.
///
/// Each call is one request, never repeated here. Dropping a call's future after it was polled leaves open whether the
/// API acted on it.
#[derive(Clone)]
pub struct Solver {
    shared: Arc<Shared>,
}

struct Shared {
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
        Self { shared: Arc::new(Shared { key, transport, timing: Timing::default() }) }
    }

    /// Submits a task: its JSON, which is sent as it is. A good end is paid for.
    ///
    /// # Errors
    /// [`CallError::NeverSent`] only where no byte left; [`CallError::NoAnswer`] where the task may have been accepted.
    pub async fn create_task(&self, task: &[u8]) -> Result<Accepted, CallError> {
        let key = self.key();
        self.call(CREATE_TASK, wire::create_body(&key, task), key.mask(), wire::read_created).await
    }

    /// Asks once how a task stands. How often that is allowed is the caller's to keep.
    ///
    /// # Errors
    /// The API's refusal, or no readable answer; the task is not touched by either.
    pub async fn task_state(&self, id: &TaskId) -> Result<TaskState, CallError> {
        let key = self.key();
        self.call(GET_TASK_RESULT, wire::result_body(&key, id), key.mask(), wire::read_state).await
    }

    /// The account's funds.
    ///
    /// # Errors
    /// The API's refusal, or no readable answer.
    pub async fn balance(&self) -> Result<Balance, CallError> {
        let key = self.key();
        self.call(GET_BALANCE, wire::balance_body(&key), key.mask(), wire::read_balance).await
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

    /// The mark of the key in use.
    #[must_use]
    pub fn key_mark(&self) -> Fingerprint {
        self.key().mark().clone()
    }

    /// Held for the clone of an `Arc` only. A poisoned lock is no worse than a sound one: the value is swapped whole.
    fn key(&self) -> Arc<Key> {
        self.shared.key.read().clone()
    }

    /// How long calls have taken so far, by call and status; from here to the reading of the answer.
    #[must_use]
    pub fn call_times(&self) -> Vec<CallTimes> {
        self.shared.timing.read()
    }

    async fn call<T>(
        &self,
        path: &'static str,
        body: Bytes,
        mask: &Mask,
        read: impl FnOnce(&RawReply, &Mask) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let began = Instant::now();
        let end = self.post(path, body, mask).await.and_then(|reply| read(&reply, mask));
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
